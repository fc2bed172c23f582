/* tests/unit/test_prefix.c — prompts that come from elsewhere than their slot: host memory, another slot.
 *
 * The reference of every answer is the same request computed anew (no_cache).  Tolerance: see test_engine.c; of recurrent
 * and windowed models as in test_soak.c. */
#include "base/mem.h"
#include "engine/shelf.h"
#include "support.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 120, N_OUT = 4 };

static const glia_tuning bare, one = {.n = 1, .adapter = {1}, .scale = {1}}, two = {.n = 1, .adapter = {1}, .scale = {2}};

static glia_model *open_with(const char *family, int n_parallel, int64_t cache, glia_kv_type kv, glia_flash flash) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&p);
    p.path = tiny_model(family), p.n_parallel = n_parallel, p.n_ctx = 256, p.n_batch = 64, p.n_threads = test_threads();
    p.flash = flash, p.kv_type = kv, p.prompt_cache_bytes = cache;
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

/* A prompt that shares its first n_same tokens with those of every other seed. */
static void prompt(int32_t *t, int n_same, unsigned seed) {
    for (int i = 0; i < N; i++) {
        unsigned x = (unsigned)i * 2654435761u + (i < n_same ? 7u : seed * 97u);
        x ^= x >> 15, x *= 2246822519u, x ^= x >> 13;
        t[i] = (int32_t)(32 + x % 90);
    }
}

static result *run(glia_model *m, const int32_t *t, int n, bool no_cache, const glia_hook *h) {
    glia_request_params p = greedy(t, (size_t)n, N_OUT);
    p.no_cache = no_cache, p.hooks = h, p.n_hooks = h ? 1 : 0, p.sampling.n_logprobs = 0;
    result *r = run_request(m, &p);
    if (r->err.status) fail_msg("%s", r->err.message);
    return r;
}

static void same_answer(const result *a, const result *b, double tolerance) {
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
    assert_true(worst_error(a->logprob, b->logprob, (size_t)a->n_ids) <= tolerance);
}

/* A, B, then A again in the only slot. */
static void comes_back(const char *family, glia_kv_type kv, glia_flash flash, double tolerance) {
    glia_model *m = open_with(family, 1, 0, kv, flash), *plain = open_with(family, 1, -1, kv, flash);
    int32_t a[N], b[N], longer[N];
    prompt(a, 0, 1), prompt(b, 0, 2);
    result *first = run(m, a, 80, false, NULL);
    result_free(run(m, b, N, false, NULL));
    /* what lies on the shelf: the prompt and what was fed back of the answer */
    memcpy(longer, a, 80 * sizeof *a);
    memcpy(longer + 80, first->ids, (N_OUT - 1) * sizeof *a);
    for (int i = 80 + N_OUT - 1; i < N; i++) longer[i] = b[i];
    result *again = run(m, longer, N, false, NULL), *anew = run(plain, longer, N, true, NULL);
    print_message("%s: %d of %d tokens came back\n", family, again->usage.n_cached, N);
    assert_int_equal(again->usage.n_cached, 80 + N_OUT - 1);
    same_answer(again, anew, tolerance);
    glia_activity act;
    glia_model_activity(m, &act);
    assert_int_equal(act.restored_tokens, 80 + N_OUT - 1);
    assert_true(act.prompt_cache_bytes > 0);
    result_free(first), result_free(again), result_free(anew);
    glia_model_close(m), glia_model_close(plain);
}

static void a_prompt_that_left_its_slot_comes_back(void **s) {
    (void)s;
    comes_back("llama", GLIA_KV_F32, GLIA_FLASH_OFF, 1e-4);
    comes_back("qwen3", GLIA_KV_Q8_0, GLIA_FLASH_ON, 6e-3);
    comes_back("gemma3", GLIA_KV_F16, GLIA_FLASH_ON, 6e-3); /* sliding windows */
    comes_back("deepseek2", GLIA_KV_F32, GLIA_FLASH_OFF, 1e-4);
    comes_back("mamba", GLIA_KV_F32, GLIA_FLASH_OFF, 1e-4);
    comes_back("jamba", GLIA_KV_F32, GLIA_FLASH_OFF, 1e-4);
}

/* A model whose state cannot be cut is only continued. */
static void a_state_that_cannot_be_cut_is_used_whole_or_not_at_all(void **s) {
    (void)s;
    const char *const families[] = {"mamba", "jamba", "gemma3"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        glia_model *m = open_with(families[i], 1, 0, GLIA_KV_F32, GLIA_FLASH_OFF);
        int32_t a[N], b[N];
        prompt(a, 0, 1), prompt(b, 0, 2);
        result_free(run(m, a, 80, false, NULL));
        result_free(run(m, b, N, false, NULL));
        result *shorter = run(m, a, 70, false, NULL), *anew = run(m, a, 70, true, NULL);
        assert_int_equal(shorter->usage.n_cached, 0);
        same_answer(shorter, anew, 1e-4);
        result_free(shorter), result_free(anew);
        glia_model_close(m);
    }
}

static void rows_behind_a_prefix_that_came_back_are_right(void **s) {
    (void)s;
    glia_model *m = open_with("llama", 1, 0, GLIA_KV_F32, GLIA_FLASH_OFF);
    const glia_point points[] = {GLIA_POINT_RESID_POST, GLIA_POINT_Z, GLIA_POINT_MLP_ACT, GLIA_POINT_ATTN_PROBS};
    int32_t a[N], b[N];
    prompt(a, 0, 1), prompt(b, 0, 2);
    for (size_t i = 0; i < 2 * sizeof points / sizeof *points; i++) {
        size_t k = i / 2;
        const glia_range late = {.from = 50, .to = GLIA_RANGE_END};
        const glia_hook h = {.point = points[k], .layer = 2, .phases = GLIA_PHASE_ALL, .range = &late};
        result_free(run(m, a, N, false, NULL));
        result_free(run(m, b, N, false, NULL));
        if (i % 2) result_free(run(m, a, N, false, NULL)); /* it came back for another request already */
        result *hooked = run(m, a, N, false, &h), *anew = run(m, a, N, true, &h);
        /* never past the first wanted row; columns of attention need cells that are known: computed anew */
        assert_int_equal(hooked->usage.n_cached, points[k] == GLIA_POINT_ATTN_PROBS ? 0 : 50);
        same_answer(hooked, anew, 1e-4);
        const rows *x = &hooked->hook[0], *y = &anew->hook[0];
        assert_int_equal(x->n, N - 50 + N_OUT - 1);
        assert_int_equal(x->n, y->n);
        assert_memory_equal(x->pos, y->pos, (size_t)x->n * sizeof *x->pos);
        assert_memory_equal(x->tok, y->tok, (size_t)x->n * sizeof *x->tok);
        assert_true(worst_error(x->data, y->data, (size_t)x->n * (size_t)x->width) <= 1e-5);
        result_free(hooked), result_free(anew);
    }
    /* what hooked requests left is not kept: the model only ever shelved a and b */
    glia_activity act;
    glia_model_activity(m, &act);
    const size_t row = 3 * 2 * (2 * 16) * sizeof(float); /* K and V of 3 layers, 2 heads of 16 */
    assert_true(act.prompt_cache_bytes < 3 * (N + N_OUT) * row);
    glia_model_close(m);
}

static void what_an_edit_touched_is_never_kept(void **s) {
    (void)s;
    glia_model *m = open_with("llama", 1, 0, GLIA_KV_F32, GLIA_FLASH_OFF);
    int32_t a[N], b[N];
    prompt(a, 0, 1), prompt(b, 0, 2);
    const glia_range late = {.from = 60, .to = GLIA_RANGE_END};
    const glia_edit zero = {
        .where = {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = GLIA_PHASE_ALL, .range = &late},
        .op = GLIA_EDIT_ZERO};
    glia_request_params p = greedy(a, N, N_OUT);
    p.edits = &zero, p.n_edits = 1;
    result *edited = run_request(m, &p);
    assert_int_equal(edited->err.status, GLIA_OK);
    result_free(run(m, b, N, false, NULL));
    result *after = run(m, a, N, false, NULL), *anew = run(m, a, N, true, NULL);
    assert_int_equal(after->usage.n_cached, 60);
    same_answer(after, anew, 1e-4);
    assert_true(memcmp(edited->ids, after->ids, sizeof *edited->ids * N_OUT) != 0); /* the edit did change the answer */
    /* and a request with that edit may use what came before it */
    result_free(run(m, b, N, false, NULL));
    result *again = run_request(m, &p);
    assert_int_equal(again->usage.n_cached, 60);
    assert_memory_equal(again->ids, edited->ids, sizeof *edited->ids * N_OUT);
    result_free(edited), result_free(after), result_free(anew), result_free(again);
    glia_model_close(m);
}

/* Two requests that begin alike run at once: the second copies from the first's slot while that is busy. */
static void a_prefix_is_copied_from_a_busy_slot(void **s) {
    (void)s;
    glia_model *m = open_with("llama", 2, -1, GLIA_KV_F32, GLIA_FLASH_OFF);
    int32_t a[N], b[N];
    prompt(a, 90, 1), prompt(b, 90, 2);
    glia_request_params p = greedy(a, N, 100);
    glia_request *busy;
    glia_err err;
    if (glia_request_submit(&busy, m, &p, &err)) fail_msg("%s", err.message);
    glia_event *ev = glia_request_next(busy, 60000); /* the prompt is read */
    assert_int_equal(ev->kind, GLIA_EVENT_TOKEN);
    glia_event_free(ev);
    result *beside = run(m, b, N, false, NULL);
    assert_int_equal(beside->usage.n_cached, 90);
    glia_request_free(busy);
    result *anew = run(m, b, N, true, NULL);
    same_answer(beside, anew, 1e-4);
    result_free(beside), result_free(anew);
    glia_model_close(m);
}

/* Every chat begins with the same few tokens: they are not worth another's conversation while a slot is empty. */
static void a_few_common_tokens_do_not_push_out_a_conversation(void **s) {
    (void)s;
    glia_model *m = open_with("llama", 2, -1, GLIA_KV_F32, GLIA_FLASH_OFF);
    int32_t a[N], b[N];
    prompt(a, 5, 1), prompt(b, 5, 2);
    result_free(run(m, a, N, false, NULL));
    result *other = run(m, b, N, false, NULL), *again = run(m, a, N, false, NULL), *same = run(m, b, N, false, NULL);
    assert_int_equal(other->usage.n_cached, 0);
    assert_int_equal(again->usage.n_cached, N - 1);
    assert_int_equal(same->usage.n_cached, N - 1);
    result_free(other), result_free(again), result_free(same);
    glia_model_close(m);
}

static void no_cache_takes_and_leaves_nothing(void **s) {
    (void)s;
    glia_model *m = open_with("llama", 1, 0, GLIA_KV_F32, GLIA_FLASH_OFF);
    int32_t a[N], b[N];
    prompt(a, 0, 1), prompt(b, 0, 2);
    result_free(run(m, a, N, true, NULL));
    result_free(run(m, b, N, true, NULL));
    glia_activity act;
    glia_model_activity(m, &act);
    assert_int_equal(act.prompt_cache_bytes, 0);
    glia_model_close(m);
}

/* Every allocation on the way may fail: the answer is the same or an error, and nothing is lost. */
static void a_failed_allocation_costs_the_copy_not_the_answer(void **s) {
    (void)s;
    glia_shelf *shelf = glia_shelf_new(4096, false);
    const int32_t t[3] = {1, 2, 3};
    size_t n = 0;
    do {
        glia_fault_arm(++n);
        glia_shelved *e = glia_shelved_new(&bare, t, 3, 100);
        if (e) glia_shelf_put(shelf, e);
    } while (glia_fault_fired());
    glia_fault_arm(0);
    assert_int_equal(glia_shelf_count(shelf), 1);
    glia_shelf_free(shelf);
}

/* ------------------------------------------------------------------ the shelf itself */

/* A GPU reads prompts faster than their states travel. */
static void states_are_copied_only_where_that_is_faster(void **st) {
    (void)st;
    glia_pace p = {0};
    assert_true(glia_pace_copies(&p, 1, 1 << 30, true)); /* nothing is known: try */
    glia_pace_saw(&p.token_ms, 40, 1000);
    assert_true(glia_pace_copies(&p, 1, 1 << 30, true));
    glia_pace_saw(&p.out_ms, 50, 1 << 20);
    assert_false(glia_pace_copies(&p, 1000, 1 << 20, false)); /* nothing came back yet: as fast as it left */
    glia_pace_saw(&p.in_ms, 30, 1 << 20);
    assert_false(glia_pace_copies(&p, 1000, 1 << 20, true)); /* 80 ms against 40 */
    assert_true(glia_pace_copies(&p, 1000, 1 << 20, false)); /* 30 against 40 */
    assert_true(glia_pace_copies(&p, 3000, 1 << 20, true));
    glia_pace_saw(&p.out_ms, 5, 1 << 20); /* the fastest counts: it was busy before */
    glia_pace_saw(&p.in_ms, 500, 1 << 20);
    assert_true(glia_pace_copies(&p, 1000, 1 << 20, true)); /* 35 against 40 */
}

static void put(glia_shelf *s, const glia_tuning *tuning, const char *tokens, size_t n_state) {
    int32_t t[64], n = 0;
    while (tokens[n]) t[n] = tokens[n], n++;
    glia_shelved *e = glia_shelved_new(tuning, t, n, n_state);
    assert_non_null(e);
    glia_shelf_put(s, e);
}

static int32_t find(glia_shelf *s, const glia_tuning *tuning, const char *tokens, int32_t most) {
    int32_t t[64], n = 0;
    while (tokens[n]) t[n] = tokens[n], n++;
    glia_shelved *e = glia_shelf_find(s, tuning, t, most < n ? most : n, &n);
    if (e) glia_shelf_touch(s, e);
    return e ? n : -1;
}

static void the_shelf_keeps_within_its_budget_what_was_used_last(void **st) {
    (void)st;
    glia_shelf *s = glia_shelf_new(10000, false);
    put(s, &bare, "aaaa", 3000), put(s, &bare, "bbbb", 3000), put(s, &bare, "cccc", 3000);
    assert_int_equal(glia_shelf_count(s), 3);
    assert_int_equal(find(s, &bare, "aaxx", 99), 2);
    put(s, &bare, "dddd", 3000); /* b goes: a was used since */
    assert_int_equal(find(s, &bare, "bbbb", 99), -1);
    assert_int_equal(find(s, &bare, "aaaa", 99), 4);
    assert_int_equal(find(s, &bare, "aaaa", 3), 3);
    assert_true(glia_shelf_bytes(s) <= 10000);
    put(s, &bare, "eeee", 20000); /* larger than all of it: nothing goes */
    assert_int_equal(glia_shelf_count(s), 3);
    put(s, &bare, "aaaab", 3000); /* makes its beginning superfluous */
    assert_int_equal(glia_shelf_count(s), 3);
    assert_int_equal(find(s, &bare, "aaaab", 99), 5);
    put(s, &one, "aaaab", 100); /* other adapters: another state */
    assert_int_equal(find(s, &two, "aaaab", 99), -1);
    glia_shelf_free(s);
}

static void a_whole_state_serves_only_prompts_that_continue_it(void **st) {
    (void)st;
    glia_shelf *s = glia_shelf_new(100000, true);
    put(s, &bare, "aaaa", 100), put(s, &bare, "aaaabb", 100);
    assert_int_equal(glia_shelf_count(s), 2); /* the shorter one is not superfluous */
    assert_int_equal(find(s, &bare, "aaaabc", 99), 4);
    assert_int_equal(find(s, &bare, "aaaabbc", 99), 6);
    assert_int_equal(find(s, &bare, "aaaabbc", 5), 4);
    assert_int_equal(find(s, &bare, "aaab", 99), -1);
    glia_shelf_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_are_copied_only_where_that_is_faster),
        cmocka_unit_test(the_shelf_keeps_within_its_budget_what_was_used_last),
        cmocka_unit_test(a_whole_state_serves_only_prompts_that_continue_it),
        cmocka_unit_test(a_prompt_that_left_its_slot_comes_back),
        cmocka_unit_test(a_state_that_cannot_be_cut_is_used_whole_or_not_at_all),
        cmocka_unit_test(rows_behind_a_prefix_that_came_back_are_right),
        cmocka_unit_test(what_an_edit_touched_is_never_kept),
        cmocka_unit_test(a_prefix_is_copied_from_a_busy_slot),
        cmocka_unit_test(a_few_common_tokens_do_not_push_out_a_conversation),
        cmocka_unit_test(no_cache_takes_and_leaves_nothing),
        cmocka_unit_test(a_failed_allocation_costs_the_copy_not_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

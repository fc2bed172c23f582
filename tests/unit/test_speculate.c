/* tests/unit/test_speculate.c — guesses change how fast an answer comes, and nothing else.
 *
 * The reference is the same request without guesses.  The pass is wider, so that sums may run in another order: tokens
 * are equal, log-probabilities within the tolerance of test_engine.c. */
#include "engine/guess.h"
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 48, N_OUT = 60 };

static glia_model *open_pair(const char *family, const char *draft, int n_parallel, glia_speculate how) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    char draft_path[1024] = "";
    if (draft) strcpy(draft_path, tiny_model(draft));
    glia_model_params_init(&p);
    p.path = tiny_model(family), p.n_parallel = n_parallel, p.n_ctx = 256, p.n_batch = 32, p.n_threads = test_threads();
    p.flash = GLIA_FLASH_OFF, p.kv_type = GLIA_KV_F32, p.draft_path = draft ? draft_path : NULL, p.speculate = how;
    p.draft_p_min = 1e-6f; /* random weights are never sure */
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

/* Text that says everything twice. */
static glia_request_params request(int32_t t[N], unsigned seed) {
    for (int i = 0; i < N; i++) t[i] = (int32_t)(33 + (seed + (unsigned)i % (N / 2) * 37u) % 90);
    glia_request_params p = greedy(t, N, N_OUT);
    p.sampling.n_logprobs = 0;
    return p;
}

static void same(const result *a, const result *b, double tolerance) {
    if (a->err.status) fail_msg("%s", a->err.message);
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->finish, b->finish);
    assert_true(worst_error(a->logprob, b->logprob, (size_t)a->n_ids) <= tolerance);
}

/* p as it is and with guesses; returns how many of them were right. */
static int32_t both(glia_model *m, glia_request_params p, glia_speculate how, double tolerance) {
    p.speculate = GLIA_SPECULATE_OFF;
    result *plain = run_request(m, &p);
    assert_int_equal(plain->err.status, GLIA_OK);
    assert_int_equal(plain->usage.n_guessed, 0);
    p.speculate = how;
    result *guessed = run_request(m, &p);
    same(guessed, plain, tolerance);
    assert_true(guessed->usage.n_right <= guessed->usage.n_guessed);
    int32_t right = guessed->usage.n_right;
    result_free(plain), result_free(guessed);
    return right;
}

static void what_the_text_repeats_is_guessed_and_the_answer_is_the_same(void **s) {
    (void)s;
    const char *const families[] = {"llama", "gemma3", "mixtral", "gpt2"};
    int32_t t[N];
    for (size_t k = 0; k < sizeof families / sizeof *families; k++) {
        glia_model *m = open_pair(families[k], NULL, 2, GLIA_SPECULATE_DEFAULT);
        int32_t right = 0;
        for (unsigned seed = 0; seed < 3; seed++) right += both(m, request(t, seed), GLIA_SPECULATE_NGRAM, 5e-3);
        print_message("%s: %d of %d tokens were guessed\n", families[k], right, 3 * N_OUT);
        if (k == 0) assert_true(right > 10);
        glia_model_close(m);
    }
}

static void a_prediction_is_followed(void **s) {
    (void)s;
    glia_model *m = open_pair("llama", NULL, 1, GLIA_SPECULATE_DEFAULT);
    int32_t t[N];
    glia_request_params p = request(t, 5);
    result *plain = run_request(m, &p);
    p.predicted = plain->ids, p.n_predicted = (size_t)plain->n_ids, p.guess_most = 16;
    result *guessed = run_request(m, &p);
    same(guessed, plain, 1e-4);
    assert_true(guessed->usage.n_right > N_OUT * 2 / 3);
    int32_t wrong[N_OUT];
    for (int i = 0; i < N_OUT; i++) wrong[i] = i % 2 ? plain->ids[i] : 65;
    p.predicted = wrong;
    result *misled = run_request(m, &p);
    same(misled, plain, 1e-4);
    result_free(plain), result_free(guessed), result_free(misled);
    glia_model_close(m);
}

static void a_draft_model_guesses(void **s) {
    (void)s;
    int32_t t[N];
    glia_model *same_one = open_pair("llama", "llama", 2, GLIA_SPECULATE_DEFAULT),
               *other = open_pair("llama", "qwen3", 2, GLIA_SPECULATE_DEFAULT);
    int32_t right = 0, by_chance = 0;
    for (unsigned seed = 0; seed < 3; seed++) {
        right += both(same_one, request(t, seed), GLIA_SPECULATE_DEFAULT, 1e-4);
        by_chance += both(other, request(t, seed), GLIA_SPECULATE_DRAFT, 1e-4);
    }
    print_message("right: %d with itself as draft model, %d with another one\n", right, by_chance);
    assert_true(right > 30);
    assert_true(by_chance < right);
    glia_model_close(same_one), glia_model_close(other);
}

/* The random numbers of a seed fall on the same logits in the same order. */
static void samplers_stops_and_grammars_see_what_they_would_see(void **s) {
    (void)s;
    glia_model *m = open_pair("llama", "llama", 1, GLIA_SPECULATE_DEFAULT);
    int32_t t[N];
    for (int k = 0; k < 5; k++) {
        const char *stop[] = {NULL};
        const glia_constraint digits = {.grammar = "root ::= [a-m]+", .n_grammar = 15};
        glia_request_params p = request(t, (unsigned)k);
        p.sampling.seed = 11;
        if (k == 0) p.sampling.temperature = 0.7f;
        if (k == 1) p.sampling.penalty_repeat = 1.3f;
        if (k == 2) p.sampling.temperature = 1, p.sampling.mirostat = 2;
        if (k == 3) p.constraint = &digits, p.sampling.ignore_eos = false;
        if (k == 4) { /* a stop string in the middle of what is guessed at once */
            p.speculate = GLIA_SPECULATE_OFF;
            result *whole = run_request(m, &p);
            static char word[8];
            snprintf(word, sizeof word, "%.2s", whole->text + strlen(whole->text) / 2);
            if (strlen(word) == 2) stop[0] = word, p.stop = stop, p.n_stop = 1;
            result_free(whole);
        }
        (void)both(m, p, GLIA_SPECULATE_DRAFT, 1e-4);
        (void)both(m, p, GLIA_SPECULATE_NGRAM, 1e-4);
    }
    glia_model_close(m);
}

/* What a wrong guess left in the cache is gone: rows of the next request over it are right. */
static void nothing_of_a_wrong_guess_stays(void **s) {
    (void)s;
    glia_model *m = open_pair("llama", "qwen3", 1, GLIA_SPECULATE_DEFAULT);
    int32_t t[N + N_OUT];
    glia_request_params p = request(t, 2);
    result *first = run_request(m, &p);
    assert_true(first->usage.n_guessed > first->usage.n_right);
    memcpy(t + N, first->ids, (N_OUT - 1) * sizeof *t);
    const int64_t last = -1;
    const glia_hook h[] = {
        {.point = GLIA_POINT_RESID_POST, .layer = 2, .phases = GLIA_PHASE_ALL, .positions = &last, .n_positions = 1},
        {.point = GLIA_POINT_ATTN_PROBS, .layer = 2, .phases = GLIA_PHASE_ALL, .positions = &last, .n_positions = 1}};
    glia_request_params q = greedy(t, N + N_OUT - 1, 1);
    q.hooks = h, q.n_hooks = 2;
    result *cached = run_request(m, &q);
    q.no_cache = true;
    result *anew = run_request(m, &q);
    assert_int_equal(cached->usage.n_cached, N + N_OUT - 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cached->hook[i].n, 1);
        assert_true(worst_error(cached->hook[i].data, anew->hook[i].data, (size_t)anew->hook[i].width) <= 1e-5);
    }
    result_free(first), result_free(cached), result_free(anew);
    glia_model_close(m);
}

static void requests_with_hooks_or_edits_do_not_guess(void **s) {
    (void)s;
    glia_model *m = open_pair("llama", "llama", 2, GLIA_SPECULATE_DRAFT);
    const glia_hook h = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_GENERATED};
    const glia_edit e = {.where = {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = GLIA_PHASE_GENERATED},
                         .op = GLIA_EDIT_SCALE,
                         .strength = 1.5f};
    int32_t t[N], u[N];
    glia_request_params p = request(t, 1), q = request(u, 2);
    p.hooks = &h, p.n_hooks = 1;
    result *alone = run_request(m, &p);
    assert_int_equal(alone->usage.n_guessed, 0);
    assert_int_equal(alone->hook[0].n, N_OUT - 1);
    /* beside one that would guess: its rows stay what they are, and the other's tokens, too */
    q.speculate = GLIA_SPECULATE_OFF;
    result *other = run_request(m, &q);
    q.speculate = GLIA_SPECULATE_DRAFT;
    for (int round = 0; round < 3; round++) {
        glia_request *a, *b;
        glia_err err;
        if (glia_request_submit(&a, m, &q, &err) || glia_request_submit(&b, m, &p, &err)) fail_msg("%s", err.message);
        result *x = drain(a, 0), *y = drain(b, 1);
        glia_request_free(a), glia_request_free(b);
        same(x, other, 1e-4);
        same(y, alone, 1e-4);
        assert_true(worst_error(y->hook[0].data, alone->hook[0].data, (size_t)(y->hook[0].n * y->hook[0].width)) <=
                    1e-5);
        result_free(x), result_free(y);
    }
    p.n_hooks = 0, p.edits = &e, p.n_edits = 1;
    result *edited = run_request(m, &p);
    assert_int_equal(edited->err.status, GLIA_OK);
    assert_int_equal(edited->usage.n_guessed, 0);
    result_free(alone), result_free(other), result_free(edited);
    glia_model_close(m);
}

static void what_cannot_be_had_is_refused(void **s) {
    (void)s;
    glia_model *m = open_pair("mamba", NULL, 1, GLIA_SPECULATE_NGRAM), *plain = open_pair("llama", NULL, 1, 0);
    glia_model *none;
    glia_request *r;
    glia_err err;
    int32_t t[N];
    glia_request_params p = request(t, 1);
    result *ok = run_request(m, &p); /* the model's default does not make a request fail */
    assert_int_equal(ok->err.status, GLIA_OK);
    result_free(ok);
    p.speculate = GLIA_SPECULATE_NGRAM;
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "speculative");
    p.speculate = GLIA_SPECULATE_DRAFT;
    assert_int_equal(glia_request_submit(&r, plain, &p, &err), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "--draft"));
    p.speculate = GLIA_SPECULATE_NGRAM, p.guess_most = 33;
    assert_int_equal(glia_request_submit(&r, plain, &p, &err), GLIA_EINVAL);
    glia_model_close(m), glia_model_close(plain);

    glia_model_params mp;
    glia_model_params_init(&mp);
    mp.path = test_env("GLIA_TEST_MODEL"), mp.n_ctx = 128;
    char path[1024];
    strcpy(path, tiny_model("llama"));
    mp.draft_path = path;
    assert_int_equal(glia_model_open(&none, &mp, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "draft");
    assert_non_null(strstr(err.message, "another vocabulary"));
    mp.draft_path = "/nowhere.gguf";
    assert_int_equal(glia_model_open(&none, &mp, &err), GLIA_ENOTFOUND);
    assert_string_equal(err.param, "draft");
    mp.draft_path = NULL, mp.speculate = GLIA_SPECULATE_DRAFT;
    assert_int_equal(glia_model_open(&none, &mp, &err), GLIA_EINVAL);
}

/* ------------------------------------------------------------------ guessing itself */

static void guesses_follow_the_longest_and_latest_match(void **s) {
    (void)s;
    int32_t out[8], cursor = 0;
    const int32_t text[] = {1, 2, 3, 4, 9, 2, 3, 7, 8, 1, 2, 3};
    assert_int_equal(glia_guess(text, 12, NULL, 0, &cursor, 3, out), 3); /* 1 2 3 → 4 9 2, not 2 3 → 7 8 1 */
    assert_int_equal(out[0], 4), assert_int_equal(out[1], 9), assert_int_equal(out[2], 2);
    const int32_t loop[] = {5, 6, 7, 5, 6, 7};
    assert_int_equal(glia_guess(loop, 6, NULL, 0, &cursor, 7, out), 7); /* it goes on beyond the text */
    for (int i = 0; i < 7; i++) assert_int_equal(out[i], 5 + i % 3);
    const int32_t fresh[] = {1, 2, 3, 4};
    assert_int_equal(glia_guess(fresh, 4, NULL, 0, &cursor, 4, out), 0);
    const int32_t predicted[] = {10, 4, 20, 4, 30};
    assert_int_equal(glia_guess(fresh, 4, predicted, 5, &cursor, 4, out), 3);
    assert_int_equal(out[0], 20);
    assert_int_equal(glia_guess(fresh, 4, predicted, 5, &cursor, 4, out), 3); /* the cursor stands behind the 4 */
    assert_int_equal(glia_guess(fresh, 1, NULL, 0, &cursor, 4, out), 0);
    assert_int_equal(glia_guess_next(4, 4, 16), 8);
    assert_int_equal(glia_guess_next(8, 2, 16), 3);
    assert_int_equal(glia_guess_next(1, 0, 16), 1);
    assert_int_equal(glia_guess_next(16, 16, 16), 16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guesses_follow_the_longest_and_latest_match),
        cmocka_unit_test(what_the_text_repeats_is_guessed_and_the_answer_is_the_same),
        cmocka_unit_test(a_prediction_is_followed),
        cmocka_unit_test(a_draft_model_guesses),
        cmocka_unit_test(samplers_stops_and_grammars_see_what_they_would_see),
        cmocka_unit_test(nothing_of_a_wrong_guess_stays),
        cmocka_unit_test(requests_with_hooks_or_edits_do_not_guess),
        cmocka_unit_test(what_cannot_be_had_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

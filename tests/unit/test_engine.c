/* tests/unit/test_engine.c — requests against tiny models: batching, cache, hooks, samplers, limits, faults.
 *
 * Tolerance of "equals the same request alone": with another batch shape ggml may choose another matrix kernel, which
 * sums in another order; float32 sums over 64..128 terms differ then by a few 1e-7 relative, amplified by three layers. */
#include "base/mem.h"
#include "engine/worker.h"
#include "support.h"
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALONE_TOLERANCE 1e-5

static glia_model *shared; /* tiny llama, 4 slots of 128 tokens, chunks of 32 */

static int open_shared(void **s) {
    (void)s;
    shared = open_model(tiny_model("llama"), 4, 128, 32);
    return 0;
}
static int close_shared(void **s) {
    (void)s;
    glia_model_close(shared);
    return 0;
}

/* n pseudo-random byte tokens, the first n_same equal for every seed */
static int32_t *tokens(int n, int n_same, unsigned seed) {
    static int32_t pool[64][256];
    static int next;
    int32_t *t = pool[next++ % 64];
    for (int i = 0; i < n; i++) {
        unsigned x = (unsigned)i * 2654435761u + (i < n_same ? 7u : seed * 97u);
        x ^= x >> 15, x *= 2246822519u, x ^= x >> 13;
        t[i] = (int32_t)(32 + x % 90);
    }
    return t;
}

static const glia_hook all_resid[3] = {
    {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = GLIA_PHASE_ALL},
    {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL},
    {.point = GLIA_POINT_RESID_POST, .layer = 2, .phases = GLIA_PHASE_ALL},
};

/* ------------------------------------------------------------------ batching */

typedef struct job {
    glia_request_params p;
    glia_hook hooks[GLIA_N_POINTS * 3];
    bool cancel;
    result *alone;
    glia_request *r;
} job;

static void fill_job(glia_model *m, job *j, int i) {
    static const int lengths[8] = {1, 70, 33, 12, 64, 5, 90, 40};
    j->p = greedy(tokens(lengths[i], 4 * (i % 3), (unsigned)i + 1), (size_t)lengths[i], 6 + 3 * (i % 4));
    j->cancel = i == 2 || i == 5;
    size_t n = 0;
    if (i == 7) return; /* one without hooks */
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int il = 0; il < (glia_point_has_layer((glia_point)p) ? 3 : 1); il++) {
            glia_point_info pi;
            if ((p + il + i) % 3 && i != 1) continue; /* every request wants something else, one wants all */
            if (glia_model_point(m, (glia_point)p, il, &pi) && pi.grade == GLIA_GRADE_ABSENT) continue;
            j->hooks[n++] = (glia_hook){.point = (glia_point)p,
                                        .layer = il,
                                        .phases = i == 3   ? GLIA_PHASE_GENERATED
                                                  : i == 4 ? GLIA_PHASE_PROMPT
                                                           : GLIA_PHASE_ALL};
        }
    }
    j->p.hooks = j->hooks, j->p.n_hooks = n;
}

static void check_labels(const job *j, const result *res) {
    for (size_t h = 0; h < res->n_hooks; h++) {
        const rows *g = &res->hook[h];
        int n_prompt = (int)j->p.n_prompt, first = j->hooks[h].phases & GLIA_PHASE_PROMPT ? 0 : n_prompt;
        int end = j->hooks[h].phases & GLIA_PHASE_GENERATED ? n_prompt + res->n_ids - 1 : n_prompt;
        assert_int_equal(g->n, end - first);
        for (int i = 0; i < g->n; i++) {
            int pos = first + i;
            assert_int_equal(g->pos[i], pos);
            assert_int_equal(g->tok[i], pos < n_prompt ? j->p.prompt[pos] : res->ids[pos - n_prompt]);
        }
    }
}

static void check_mixed(glia_model *m, double tolerance) {
    static job jobs[8];
    memset(jobs, 0, sizeof jobs);
    double top = 0;
    for (int i = 0; i < 8; i++) {
        fill_job(m, &jobs[i], i);
        jobs[i].alone = run_request(m, &jobs[i].p);
        assert_int_equal(jobs[i].alone->err.status, GLIA_OK);
    }
    for (int round = 0; round < 3; round++) { /* the cache is in another state each time */
        glia_err err;
        for (int i = 0; i < 8; i++) {
            job *j = &jobs[(i * 5 + round) % 8];
            if (glia_request_submit(&j->r, m, &j->p, &err)) fail_msg("%s", err.message);
        }
        for (int i = 0; i < 8; i++) {
            if (jobs[i].cancel) usleep(300), glia_request_cancel(jobs[i].r);
        }
        for (int i = 0; i < 8; i++) {
            job *j = &jobs[i];
            result *res = drain(j->r, j->p.n_hooks);
            glia_request_free(j->r);
            if (j->cancel && res->err.status == GLIA_ECANCELLED) {
                result_free(res);
                continue;
            }
            assert_int_equal(res->err.status, GLIA_OK);
            assert_int_equal(res->n_ids, j->alone->n_ids);
            assert_memory_equal(res->ids, j->alone->ids, (size_t)res->n_ids * sizeof *res->ids);
            check_labels(j, res);
            for (size_t h = 0; h < res->n_hooks; h++) {
                const rows *a = &res->hook[h], *b = &j->alone->hook[h];
                assert_int_equal(a->n, b->n);
                if (!a->n) continue;
                double e = worst_error(a->data, b->data, (size_t)a->n * (size_t)a->width);
                if (!(e <= tolerance))
                    fail_msg("job %d hook %zu (%s): %.3g", i, h, glia_point_name(j->hooks[h].point), e);
                if (e > top) top = e;
            }
            result_free(res);
        }
    }
    for (int i = 0; i < 8; i++) result_free(jobs[i].alone);
    print_message("mixed batch: worst difference to the same request alone %.2g\n", top);
}

static void mixed_batch_gives_each_request_its_own_rows(void **s) {
    (void)s;
    check_mixed(shared, ALONE_TOLERANCE);
}

static void mixed_batch_on_sliding_windows_and_fused_qkv(void **s) {
    (void)s;
    static const char *const families[] = {"gemma2", "gpt2"};
    for (int i = 0; i < 2; i++) {
        glia_model *m = open_model(tiny_model(families[i]), 4, 128, 32);
        check_mixed(m,
                    2e-3); /* ggml's GELU goes through a half-precision table: a last bit before it may flip an entry */
        glia_model_close(m);
    }
}

static void chunked_prompt_equals_whole_prompt(void **s) {
    (void)s;
    glia_model *whole = open_model(tiny_model("llama"), 1, 128, 512);
    glia_request_params p = greedy(tokens(100, 0, 3), 100, 4);
    p.hooks = all_resid, p.n_hooks = 3, p.want_progress = true;
    result *a = run_request(shared, &p), *b = run_request(whole, &p);
    assert_int_equal(a->n_progress, 4); /* 32 + 32 + 32 + 4 */
    assert_int_equal(b->n_progress, 1);
    assert_int_equal(a->n_frames_events, 1 + 3); /* the prompt is one pass on the wire however it was chunked */
    for (int h = 0; h < 3; h++) {
        assert_int_equal(a->hook[h].n, 103);
        assert_true(worst_error(a->hook[h].data, b->hook[h].data, 103 * 64) <= ALONE_TOLERANCE);
    }
    assert_memory_equal(a->ids, b->ids, 4 * sizeof(int32_t));
    result_free(a), result_free(b);
    glia_model_close(whole);
}

static void hooks_change_nothing(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(40, 0, 9), 40, 8);
    p.sampling.n_logprobs = 0;
    glia_model *m = open_model(tiny_model("llama"), 1, 128, 32); /* fresh each time: the same cells, the same sums */
    result *off = run_request(m, &p);
    glia_model_close(m);
    m = open_model(tiny_model("llama"), 1, 128, 32);
    glia_hook h[GLIA_N_POINTS * 3];
    size_t n = 0;
    for (int q = 0; q < GLIA_N_POINTS; q++) {
        for (int il = 0; il < (glia_point_has_layer((glia_point)q) ? 3 : 1); il++) {
            glia_point_info pi;
            assert_true(glia_model_point(m, (glia_point)q, il, &pi));
            if (pi.grade < GLIA_GRADE_STRUCTURAL) continue;
            h[n++] = (glia_hook){.point = (glia_point)q, .layer = il, .phases = GLIA_PHASE_GENERATED};
        }
    }
    p.hooks = h, p.n_hooks = n; /* generated rows only, so that the outputs of a pass, its shape, stay the same */
    result *on = run_request(m, &p);
    assert_memory_equal(off->ids, on->ids, 8 * sizeof(int32_t));
    assert_memory_equal(off->logprob, on->logprob, 8 * sizeof(float)); /* bit for bit */
    result_free(off), result_free(on);
    glia_model_close(m);
}

/* ------------------------------------------------------------------ threads */

static void many_threads_make_room_for_a_busy_caller(void **s) {
    (void)s;
    const struct {
        int32_t threads, processors;
        double beside;
        int32_t expected;
    } rows[] = {
        {16, 16, 0, 16},   {16, 16, 0.06, 16}, {16, 16, 0.07, 15}, {16, 16, 1, 15}, {16, 16, 1.2, 14}, {16, 16, 400, 1},
        {15, 16, 0.9, 15}, /* one is free already */
        {17, 16, 0.9, 16}, {2, 2, 0.06, 2},    {2, 2, 0.4, 2},     {2, 2, 0.9, 1},  {1, 1, 5, 1},      {1, 1, 0.5, 1},
        {16, 16, -3, 16},  {16, 16, NAN, 16},  {16, 16, INFINITY, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(glia_pass_threads(rows[i].threads, rows[i].processors, rows[i].beside), rows[i].expected);
}

static void a_busy_caller_gets_the_same_rows(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(50, 0, 24), 50, 4);
    p.hooks = all_resid, p.n_hooks = 3, p.no_cache = true;
    result *idle = run_request(shared, &p);
    p.busy_beside = 1e9;
    result *busy = run_request(shared, &p);
    p.busy_beside = 0;
    result *again = run_request(shared, &p);
    for (int h = 0; h < 3; h++) {
        assert_int_equal(busy->hook[h].n, 53);
        assert_memory_equal(idle->hook[h].data, busy->hook[h].data, 53 * 64 * sizeof(float));
        assert_memory_equal(idle->hook[h].data, again->hook[h].data, 53 * 64 * sizeof(float));
    }
    assert_memory_equal(idle->ids, busy->ids, 4 * sizeof(int32_t));
    result_free(idle), result_free(busy), result_free(again);
}

/* ------------------------------------------------------------------ prompt cache */

static void cached_prefix_is_used_without_hooks(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(50, 0, 21), 50, 3);
    p.no_cache = true;
    result *a = run_request(shared, &p);
    assert_int_equal(a->usage.n_cached, 0);
    p.no_cache = false;
    result *b = run_request(shared, &p);
    assert_int_equal(b->usage.n_cached, 49); /* the last prompt token is always run: its logits are needed */
    assert_memory_equal(a->ids, b->ids, 3 * sizeof(int32_t));
    result_free(a), result_free(b);
}

static void cached_prefix_never_swallows_a_wanted_row(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(50, 0, 22), 50, 3);
    result *warm = run_request(shared, &p);
    p.hooks = all_resid, p.n_hooks = 3;
    result *all = run_request(shared, &p);
    assert_int_equal(all->usage.n_cached, 0);
    assert_int_equal(all->hook[0].n, 52);
    const int64_t late[] = {30, -1};
    glia_hook some = {
        .point = GLIA_POINT_RESID_POST, .layer = 2, .phases = GLIA_PHASE_PROMPT, .positions = late, .n_positions = 2};
    p.hooks = &some, p.n_hooks = 1;
    result *few = run_request(shared, &p);
    assert_int_equal(few->usage.n_cached, 30);
    assert_int_equal(few->hook[0].n, 2);
    assert_int_equal(few->hook[0].pos[0], 30);
    assert_int_equal(few->hook[0].pos[1], 49);
    assert_true(worst_error(few->hook[0].data, all->hook[2].data + 30 * 64, 64) <= ALONE_TOLERANCE);
    assert_true(worst_error(few->hook[0].data + 64, all->hook[2].data + 49 * 64, 64) <= ALONE_TOLERANCE);
    some.phases = GLIA_PHASE_GENERATED, some.positions = NULL;
    result *gen = run_request(shared, &p);
    assert_int_equal(gen->usage.n_cached, 49);
    assert_int_equal(gen->hook[0].n, 2);
    assert_true(worst_error(gen->hook[0].data, all->hook[2].data + 50 * 64, 2 * 64) <= ALONE_TOLERANCE);
    result_free(warm), result_free(all), result_free(few), result_free(gen);
}

/* ------------------------------------------------------------------ what a hook may select */

/* llama.cpp gives cells that left a sequence's sliding window to other sequences, so a cut sequence has holes. */
static void sliding_window_cache_is_only_continued_never_cut(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("gemma2"), 4, 128, 32);
    glia_request_params a = greedy(tokens(60, 0, 31), 60, 5), b = greedy(tokens(90, 0, 32), 90, 5);
    result *first = run_request(m, &a), *other = run_request(m, &b), *again = run_request(m, &a);
    assert_int_equal(again->usage.n_cached, 0);
    assert_memory_equal(first->ids, again->ids, 5 * sizeof(int32_t));
    int32_t longer[80];
    memcpy(longer, a.prompt, 60 * sizeof *longer);
    memcpy(longer + 60, first->ids, 4 * sizeof *longer); /* the fifth was drawn but never fed */
    for (int i = 64; i < 80; i++) longer[i] = 70;
    a = greedy(longer, 80, 3);
    result *cont = run_request(m, &a);
    assert_int_equal(cont->usage.n_cached, 64);
    a.no_cache = true;
    result *anew = run_request(m, &a);
    assert_memory_equal(cont->ids, anew->ids, 3 * sizeof(int32_t));
    result_free(first), result_free(other), result_free(again), result_free(cont), result_free(anew);
    glia_model_close(m);
}

static void heads_are_columns_of_the_whole(void **s) {
    (void)s;
    const int32_t pick[] = {3, 1};
    const int32_t kv[] = {1};
    glia_hook h[] = {{.point = GLIA_POINT_Z, .layer = 1, .phases = GLIA_PHASE_ALL},
                     {.point = GLIA_POINT_Z, .layer = 1, .phases = GLIA_PHASE_ALL, .heads = pick, .n_heads = 2},
                     {.point = GLIA_POINT_K, .layer = 0, .phases = GLIA_PHASE_ALL},
                     {.point = GLIA_POINT_K, .layer = 0, .phases = GLIA_PHASE_ALL, .heads = kv, .n_heads = 1}};
    glia_request_params p = greedy(tokens(9, 0, 5), 9, 3);
    p.hooks = h, p.n_hooks = 4;
    result *r = run_request(shared, &p);
    assert_int_equal(r->hook[0].n_heads, 4);
    assert_int_equal(r->hook[1].n_heads, 2);
    assert_int_equal(r->hook[1].width, 32);
    for (int t = 0; t < 11; t++) {
        assert_memory_equal(r->hook[1].data + t * 32, r->hook[0].data + t * 64 + 48, 16 * sizeof(float));
        assert_memory_equal(r->hook[1].data + t * 32 + 16, r->hook[0].data + t * 64 + 16, 16 * sizeof(float));
        assert_memory_equal(r->hook[3].data + t * 16, r->hook[2].data + t * 32 + 16, 16 * sizeof(float));
    }
    result_free(r);
}

static void bad_hooks_name_themselves(void **s) {
    (void)s;
    const int64_t far[] = {128}, before[] = {-10};
    const int32_t head[] = {4};
    const struct {
        glia_hook h;
        glia_status st;
        const char *says;
    } rows[] = {
        {{.point = GLIA_POINT_RESID_POST, .layer = 3, .phases = 3}, GLIA_EINVAL, "layers 0 to 2"},
        {{.point = GLIA_POINT_RESID_POST, .layer = -1, .phases = 3}, GLIA_EINVAL, "layer -1"},
        {{.point = (glia_point)77, .phases = 3}, GLIA_EINVAL, "no such point"},
        {{.point = GLIA_POINT_Z, .phases = 0}, GLIA_EINVAL, "neither"},
        {{.point = GLIA_POINT_Z, .phases = 3, .positions = far, .n_positions = 1}, GLIA_EINVAL, "position 128"},
        {{.point = GLIA_POINT_Z, .phases = 3, .positions = before, .n_positions = 1}, GLIA_EINVAL, "position -10"},
        {{.point = GLIA_POINT_Z, .phases = 3, .heads = head, .n_heads = 1}, GLIA_EINVAL, "heads 0 to 3"},
        {{.point = GLIA_POINT_RESID_PRE, .phases = 3, .heads = head, .n_heads = 1}, GLIA_EINVAL, "has no heads"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_hook h[2] = {{.point = GLIA_POINT_EMBEDDINGS, .phases = 3}, rows[i].h};
        glia_request_params p = greedy(tokens(9, 0, 5), 9, 3);
        glia_request *r;
        glia_err err;
        p.hooks = h, p.n_hooks = 2;
        assert_int_equal(glia_request_submit(&r, shared, &p, &err), rows[i].st);
        assert_null(r);
        assert_string_equal(err.param, "activation_hooks[1]");
        if (!strstr(err.message, rows[i].says)) fail_msg("%s", err.message);
    }
}

/* ------------------------------------------------------------------ limits */

static void context_overflow_is_refused_before_anything_runs(void **s) {
    (void)s;
    glia_request *r;
    glia_err err;
    glia_request_params p = greedy(tokens(128, 0, 5), 128, 1);
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_ECONTEXT);
    assert_string_equal(err.param, "prompt");
    p = greedy(tokens(100, 0, 5), 100, 29);
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_ECONTEXT);
    assert_string_equal(err.param, "max_tokens");
    assert_non_null(strstr(err.message, "at most 28"));
    p.max_tokens = 28;
    result *fits = run_request(shared, &p);
    assert_int_equal(fits->n_ids, 28);
    p.max_tokens = -1; /* until the context is full */
    result *full = run_request(shared, &p);
    assert_int_equal(full->n_ids, 28);
    assert_int_equal(full->finish, GLIA_FINISH_LENGTH);
    result_free(fits), result_free(full);
}

static void bad_parameters_are_refused(void **s) {
    (void)s;
    glia_request *r;
    glia_err err;
    int32_t strange[] = {1, 320};
    glia_request_params p = greedy(strange, 2, 1);
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_EINVAL);
    p = greedy(strange, 0, 1);
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_EINVAL);
    p = greedy(strange, 1, -2);
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_EINVAL);
    p = greedy(strange, 1, 1);
    p.sampling.temperature = NAN;
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "temperature");
    p = greedy(strange, 1, 1);
    p.sampling.top_p = 1.5f;
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_EINVAL);
    p = greedy(strange, 1, 1);
    p.stop = (const char *const[]){""}, p.n_stop = 1;
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_EINVAL);
    p = greedy(strange, 1, 1);
    p.sampling.bias = &(glia_logit_bias){320, 1}, p.sampling.n_bias = 1;
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_EINVAL);
}

static void full_queue_answers_busy(void **s) {
    (void)s;
    glia_model_params mp;
    glia_model *m;
    glia_err err;
    glia_request *r[64];
    int n = 0;
    glia_status st = GLIA_OK;
    glia_model_params_init(&mp);
    mp.n_threads = test_threads();
    mp.path = tiny_model("llama"), mp.n_ctx = 256, mp.n_parallel = 1, mp.queue_limit = 2;
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_OK);
    glia_request_params p = greedy(tokens(100, 0, 5), 100, 150);
    while (n < 64 && !(st = glia_request_submit(&r[n], m, &p, &err))) n++;
    assert_int_equal(st, GLIA_EBUSY);
    assert_true(n >= 2);
    for (int i = 0; i < n; i++) glia_request_free(r[i]);
    glia_model_close(m);
}

/* ------------------------------------------------------------------ slow, vanished and closing */

static void slow_reader_pauses_only_itself_and_loses_nothing(void **s) {
    (void)s;
    glia_model_params mp;
    glia_model *m;
    glia_err err;
    glia_request *slow;
    glia_model_params_init(&mp);
    mp.n_threads = test_threads();
    mp.path = tiny_model("llama"), mp.n_ctx = 256, mp.n_parallel = 2, mp.event_bytes = 2048;
    mp.flash = GLIA_FLASH_OFF, mp.kv_type = GLIA_KV_F32;
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_OK);
    glia_request_params p = greedy(tokens(10, 0, 5), 10, 200);
    p.hooks = all_resid, p.n_hooks = 3;
    result *want = run_request(m, &p);
    assert_int_equal(glia_request_submit(&slow, m, &p, &err), GLIA_OK);
    glia_request_params q = greedy(tokens(10, 0, 6), 10, 100);
    for (int i = 0; i < 3; i++) result_free(run_request(m, &q)); /* the other slot works on */
    result *got = drain(slow, 3);
    assert_int_equal(got->err.status, GLIA_OK);
    assert_int_equal(got->n_ids, 200);
    assert_memory_equal(got->ids, want->ids, 200 * sizeof(int32_t));
    assert_int_equal(got->hook[1].n, 209);
    assert_true(worst_error(got->hook[1].data, want->hook[1].data, 209 * 64) <= ALONE_TOLERANCE);
    glia_request_free(slow);
    result_free(want), result_free(got);
    glia_model_close(m);
}

static void cancelled_request_ends_with_cancelled(void **s) {
    (void)s;
    glia_request *r[10];
    glia_err err;
    glia_request_params p = greedy(tokens(20, 0, 5), 20, 100);
    for (int i = 0; i < 10; i++) assert_int_equal(glia_request_submit(&r[i], shared, &p, &err), GLIA_OK);
    for (int i = 9; i >= 0; i--) glia_request_cancel(r[i]); /* running ones and waiting ones */
    for (int i = 0; i < 10; i++) {
        result *res = drain(r[i], 0);
        if (res->err.status) assert_int_equal(res->err.status, GLIA_ECANCELLED);
        assert_null(glia_request_next(r[i], 0)); /* ended */
        result_free(res);
        glia_request_free(r[i]);
    }
    result_free(run_request(shared, &p)); /* all slots are usable again */
}

static void waiting_request_is_served_after_a_cancelled_one(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 256, 32);
    glia_err err;
    for (int i = 0; i < 20; i++) {
        glia_request *a, *b;
        glia_request_params p = greedy(tokens(20, 0, 5), 20, 200), q = greedy(tokens(5, 0, 6), 5, 2);
        assert_int_equal(glia_request_submit(&a, m, &p, &err), GLIA_OK);
        assert_int_equal(glia_request_submit(&b, m, &q, &err), GLIA_OK);
        if (i % 2) usleep(1000 * (useconds_t)i);
        glia_request_free(a); /* leaves without a word */
        result *res = drain(b, 0);
        assert_int_equal(res->err.status, GLIA_OK);
        result_free(res);
        glia_request_free(b);
    }
    glia_model_close(m);
}

static void closing_ends_every_queue(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 2, 256, 32);
    glia_request *r[6];
    glia_err err;
    glia_request_params p = greedy(tokens(20, 0, 5), 20, 230);
    p.hooks = all_resid, p.n_hooks = 3;
    for (int i = 0; i < 6; i++) assert_int_equal(glia_request_submit(&r[i], m, &p, &err), GLIA_OK);
    usleep(5000);
    glia_model_close(m);
    int cancelled = 0;
    for (int i = 0; i < 6; i++) {
        result *res = drain(r[i], 3);
        cancelled += res->err.status == GLIA_ECANCELLED;
        result_free(res);
        glia_request_free(r[i]); /* after the model is gone */
    }
    assert_true(cancelled >= 1);
}

static void count_call(void *ud) { atomic_fetch_add((atomic_int *)ud, 1); }

static void event_callback_is_called_and_can_be_removed(void **s) {
    (void)s;
    atomic_int calls = 0;
    glia_request *r;
    glia_err err;
    glia_request_params p = greedy(tokens(20, 0, 5), 20, 100);
    assert_int_equal(glia_request_submit(&r, shared, &p, &err), GLIA_OK);
    glia_request_on_event(r, count_call, &calls); /* some events may be there already, not all hundred */
    result_free(drain(r, 0));
    glia_request_on_event(r, NULL, NULL);
    assert_true(atomic_load(&calls) > 0);
    glia_request_free(r);
}

static void every_failing_allocation_of_submit_is_an_error(void **s) {
    (void)s;
    const int64_t pos[] = {1, 2};
    const int32_t head[] = {1};
    glia_hook h = {.point = GLIA_POINT_Z,
                   .layer = 1,
                   .phases = 3,
                   .positions = pos,
                   .n_positions = 2,
                   .heads = head,
                   .n_heads = 1};
    glia_request_params p = greedy(tokens(9, 0, 5), 9, 2);
    p.hooks = &h, p.n_hooks = 1, p.stop = (const char *const[]){"\x01\x02"}, p.n_stop = 1;
    p.sampling.bias = &(glia_logit_bias){3, 1}, p.sampling.n_bias = 1;
    size_t n = 0;
    do {
        glia_request *r;
        glia_err err;
        glia_fault_arm(++n);
        glia_status st = glia_request_submit(&r, shared, &p, &err);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        assert_int_equal(st == GLIA_OK, r != NULL);
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
        if (r) result_free(drain(r, 1));
        glia_request_free(r);
        if (!fired) break;
    } while (true);
    assert_true(n > 5);
}

/* ------------------------------------------------------------------ sampling */

static void logprobs_are_the_softmax_of_the_captured_logits(void **s) {
    (void)s;
    glia_hook h = {.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_ALL};
    glia_request_params p = greedy(tokens(9, 0, 5), 9, 6);
    p.hooks = &h, p.n_hooks = 1, p.sampling.n_logprobs = 3;
    result *r = run_request(shared, &p);
    assert_int_equal(r->hook[0].n, 14);
    for (int i = 0; i < 6; i++) {
        const float *l = r->hook[0].data + (8 + i) * 320; /* the row of the token before */
        double sum = 0;
        int best = 0;
        for (int k = 0; k < 320; k++) best = l[k] > l[best] ? k : best;
        for (int k = 0; k < 320; k++) sum += exp((double)l[k] - (double)l[best]);
        assert_int_equal(best, r->ids[i]);
        assert_true(fabs((double)r->logprob[i] + log(sum)) < 1e-5);
    }
    result_free(r);
}

static void seeds_repeat_and_differ(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(9, 0, 5), 9, 40);
    p.sampling.temperature = 1.5f, p.sampling.top_k = 0, p.sampling.top_p = 1, p.sampling.min_p = 0;
    p.sampling.seed = 11;
    result *a = run_request(shared, &p), *b = run_request(shared, &p);
    p.sampling.seed = 12;
    result *c = run_request(shared, &p);
    assert_memory_equal(a->ids, b->ids, 40 * sizeof(int32_t));
    assert_memory_not_equal(a->ids, c->ids, 40 * sizeof(int32_t));
    p.sampling.seed = GLIA_SEED_RANDOM;
    result *d = run_request(shared, &p), *e = run_request(shared, &p);
    assert_memory_not_equal(d->ids, e->ids, 40 * sizeof(int32_t));
    result_free(a), result_free(b), result_free(c), result_free(d), result_free(e);
}

static void every_sampler_stage_acts(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(30, 0, 5), 30, 60);
    result *plain = run_request(shared, &p);
    glia_sampling neutral = p.sampling;
    neutral.temperature = 1, neutral.top_k = 0, neutral.top_p = 1, neutral.min_p = 0, neutral.seed = 5;
    p.sampling = neutral;
    result *drawn = run_request(shared, &p);
    assert_memory_not_equal(plain->ids, drawn->ids, 60 * sizeof(int32_t));
    struct {
        const char *name;
        glia_sampling v;
        bool to_greedy;
    } rows[] = {
        {"top_k 1 is greedy", neutral, true},
        {"top_p ~0 is greedy", neutral, true},
        {"min_p 1 is greedy", neutral, true},
        {"top_n_sigma 0 changes", neutral, false},
        {"typical", neutral, false},
        {"xtc", neutral, false},
        {"repeat", neutral, false},
        {"frequency", neutral, false},
        {"dry", neutral, false},
        {"mirostat 1", neutral, false},
        {"mirostat 2", neutral, false},
    };
    rows[0].v.top_k = 1, rows[1].v.top_p = 1e-6f, rows[2].v.min_p = 1;
    rows[3].v.top_n_sigma = 0.3f, rows[4].v.typical_p = 0.3f;
    rows[5].v.xtc_probability = 1, rows[5].v.xtc_threshold = 0.01f;
    rows[6].v.penalty_repeat = 3, rows[6].v.penalty_last_n = -1;
    rows[7].v.penalty_frequency = 5;
    rows[8].v = neutral, rows[8].v.temperature = 0, rows[8].v.dry_multiplier = 50, rows[8].v.dry_base = 4,
    rows[8].v.dry_allowed_length = 0;
    rows[9].v.mirostat = 1, rows[9].v.mirostat_tau = 1, rows[10].v.mirostat = 2, rows[10].v.mirostat_tau = 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        p.sampling = rows[i].v;
        result *r = run_request(shared, &p);
        assert_int_equal(r->err.status, GLIA_OK);
        const result *base = rows[i].v.temperature > 0 ? drawn : plain;
        bool same = !memcmp(r->ids, plain->ids, 60 * sizeof(int32_t));
        bool unchanged = !memcmp(r->ids, base->ids, 60 * sizeof(int32_t));
        if (rows[i].to_greedy ? !same : unchanged) fail_msg("%s has no effect", rows[i].name);
        result_free(r);
    }
    result_free(plain), result_free(drawn);
}

static void bias_forbids_and_forces_tokens(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(9, 0, 5), 9, 5);
    result *plain = run_request(shared, &p);
    glia_logit_bias no = {plain->ids[0], -INFINITY}, yes = {65, 100};
    p.sampling.bias = &no, p.sampling.n_bias = 1;
    result *forbidden = run_request(shared, &p);
    for (int i = 0; i < 5; i++) assert_int_not_equal(forbidden->ids[i], plain->ids[0]);
    p.sampling.bias = &yes;
    result *forced = run_request(shared, &p);
    assert_string_equal(forced->text, "AAAAA");
    result_free(plain), result_free(forbidden), result_free(forced);
}

static void end_of_generation_token_ends_the_text(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(9, 0, 5), 9, 5);
    glia_logit_bias eos = {260, 1000}; /* <|im_end|> */
    p.sampling.bias = &eos, p.sampling.n_bias = 1, p.sampling.ignore_eos = false;
    result *r = run_request(shared, &p);
    assert_int_equal(r->finish, GLIA_FINISH_STOP);
    assert_int_equal(r->n_ids, 1);
    assert_int_equal(r->usage.n_generated, 1);
    assert_string_equal(r->text, "");
    result_free(r);
}

static void stop_string_ends_the_text_before_itself(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(9, 0, 5), 9, 12);
    glia_logit_bias bias[] = {{65, 100}};
    p.sampling.bias = bias, p.sampling.n_bias = 1;
    p.stop = (const char *const[]){"zz", "AAA"}, p.n_stop = 2;
    result *r = run_request(shared, &p);
    assert_int_equal(r->finish, GLIA_FINISH_STOP_STRING);
    assert_int_equal(r->n_ids, 3);
    assert_string_equal(r->text, "");
    result_free(r);
}

static void prompt_only_request_returns_rows_and_no_token(void **s) {
    (void)s;
    glia_request_params p = greedy(tokens(40, 0, 5), 40, 0);
    p.hooks = all_resid, p.n_hooks = 3;
    result *r = run_request(shared, &p);
    assert_int_equal(r->n_ids, 0);
    assert_int_equal(r->hook[2].n, 40);
    assert_int_equal(r->finish, GLIA_FINISH_LENGTH);
    result_free(r);
}

static void chat_template_renders_and_tokenises(void **s) {
    (void)s;
    glia_err err;
    char *text;
    size_t n, n_ids;
    int32_t *ids;
    bool add;
    const char *chat =
        "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"hi \xf0\x9f\x98\x80\"}]";
    assert_int_equal(glia_model_chat_prompt(shared, chat, strlen(chat), &text, &n, &add, &err), GLIA_OK);
    assert_non_null(strstr(text, "<|im_start|>user\nhi \xf0\x9f\x98\x80<|im_end|>\n<|im_start|>assistant\n"));
    assert_int_equal(glia_model_tokenize(shared, text, n, add, true, &ids, &n_ids, &err), GLIA_OK);
    assert_int_equal(ids[0], 259);
    char *back;
    size_t n_back;
    assert_int_equal(glia_model_detokenize(shared, ids, n_ids, true, &back, &n_back, &err), GLIA_OK);
    assert_string_equal(back, text);
    glia_free(back), glia_free(text), glia_free(ids);
    assert_int_equal(glia_model_tokenize(shared, "\xff", 1, true, true, &ids, &n_ids, &err), GLIA_EINVAL);
    int32_t bad = 320;
    assert_int_equal(glia_model_detokenize(shared, &bad, 1, true, &back, &n_back, &err), GLIA_EINVAL);
    const char *broken = "[{\"role\":";
    assert_int_equal(glia_model_chat_prompt(shared, broken, strlen(broken), &text, &n, &add, &err), GLIA_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_batch_gives_each_request_its_own_rows),
        cmocka_unit_test(mixed_batch_on_sliding_windows_and_fused_qkv),
        cmocka_unit_test(chunked_prompt_equals_whole_prompt),
        cmocka_unit_test(hooks_change_nothing),
        cmocka_unit_test(many_threads_make_room_for_a_busy_caller),
        cmocka_unit_test(a_busy_caller_gets_the_same_rows),
        cmocka_unit_test(cached_prefix_is_used_without_hooks),
        cmocka_unit_test(cached_prefix_never_swallows_a_wanted_row),
        cmocka_unit_test(sliding_window_cache_is_only_continued_never_cut),
        cmocka_unit_test(heads_are_columns_of_the_whole),
        cmocka_unit_test(bad_hooks_name_themselves),
        cmocka_unit_test(context_overflow_is_refused_before_anything_runs),
        cmocka_unit_test(bad_parameters_are_refused),
        cmocka_unit_test(full_queue_answers_busy),
        cmocka_unit_test(slow_reader_pauses_only_itself_and_loses_nothing),
        cmocka_unit_test(cancelled_request_ends_with_cancelled),
        cmocka_unit_test(waiting_request_is_served_after_a_cancelled_one),
        cmocka_unit_test(closing_ends_every_queue),
        cmocka_unit_test(event_callback_is_called_and_can_be_removed),
        cmocka_unit_test(every_failing_allocation_of_submit_is_an_error),
        cmocka_unit_test(logprobs_are_the_softmax_of_the_captured_logits),
        cmocka_unit_test(seeds_repeat_and_differ),
        cmocka_unit_test(every_sampler_stage_acts),
        cmocka_unit_test(bias_forbids_and_forces_tokens),
        cmocka_unit_test(end_of_generation_token_ends_the_text),
        cmocka_unit_test(stop_string_ends_the_text_before_itself),
        cmocka_unit_test(prompt_only_request_returns_rows_and_no_token),
        cmocka_unit_test(chat_template_renders_and_tokenises),
    };
    return cmocka_run_group_tests(tests, open_shared, close_shared);
}

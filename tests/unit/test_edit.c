/* tests/unit/test_edit.c — interventions: that a change is exactly what was asked, reaches everything behind it, and
 * nothing else.  References: rows of other runs of the same model, and arithmetic written here.  The same edits done in
 * transformers: tests/golden/test_edits.py. */
#include "support.h"
#include "tap/edit.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 12, MAX_HOOKS = 512 };

static const int32_t prompt_a[N] = {7, 50, 3, 99, 12, 61, 8, 120, 33, 5, 77, 41};
static const int32_t prompt_b[N] = {9, 14, 88, 2, 71, 30, 101, 6, 55, 23, 90, 17};

static const char *const families[] = {"llama", "qwen3", "gemma3", "mixtral", "gpt2", "jamba", "deepseek2"};
enum { N_FAMILIES = sizeof families / sizeof *families };

static bool can_edit(const glia_model *m, glia_point p, int32_t layer, int32_t *width) {
    glia_point_info i;
    if (!glia_model_point(m, p, layer, &i) || i.grade != GLIA_GRADE_PROVEN || i.by_position) return false;
    *width = i.width;
    return p != GLIA_POINT_EXPERT_INDICES && p != GLIA_POINT_ATTN_HEAD_OUT && p != GLIA_POINT_LENS_IN;
}

/* Every point that has plain rows, for every layer. */
static size_t all_hooks(const glia_model *m, glia_hook *h) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    size_t n = 0;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        int32_t width, layers = glia_point_has_layer((glia_point)p) ? info.n_layer : 1;
        for (int32_t il = 0; il < layers; il++) {
            if (can_edit(m, (glia_point)p, il, &width)) {
                h[n++] = (glia_hook){.point = (glia_point)p, .layer = il, .phases = GLIA_PHASE_ALL};
            }
        }
    }
    return n;
}

static result *run(glia_model *m, const int32_t *prompt, const glia_hook *h, size_t n_hooks, const glia_edit *e,
                   size_t n_edits) {
    glia_request_params p = greedy(prompt, N, 3);
    p.hooks = h, p.n_hooks = n_hooks, p.edits = e, p.n_edits = n_edits;
    result *r = run_request(m, &p);
    if (r->err.status) print_message("%s: %s\n", r->err.param, r->err.message);
    assert_int_equal(r->err.status, GLIA_OK);
    return r;
}

static bool same_rows(const rows *a, const rows *b) {
    return a->n == b->n && a->width == b->width &&
           !memcmp(a->data, b->data, (size_t)a->n * (size_t)a->width * sizeof(float));
}

static glia_edit set_rows(const glia_hook *h, const rows *to) {
    return (glia_edit){.where = {.point = h->point, .layer = h->layer, .phases = GLIA_PHASE_PROMPT},
                       .op = GLIA_EDIT_SET,
                       .rows = to->data,
                       .n_rows = N,
                       .n_channels = (size_t)to->width};
}

/* Writing a point's own values back changes no bit of anything behind it, whatever the point. */
static void identity_edits_change_nothing(void **s) {
    (void)s;
    static glia_hook h[MAX_HOOKS];
    int refused = 0, done = 0;
    for (int f = 0; f < N_FAMILIES; f++) {
        glia_model *m = open_model(tiny_model(families[f]), 1, 64, 64);
        size_t n = all_hooks(m, h);
        result *plain = run(m, prompt_a, h, n, NULL, 0);
        for (size_t i = 0; i < n; i++) {
            glia_edit e = set_rows(&h[i], &plain->hook[i]);
            glia_request_params p = greedy(prompt_a, N, 3);
            glia_request *rq;
            glia_err err;
            p.hooks = h, p.n_hooks = n, p.edits = &e, p.n_edits = 1;
            if (glia_request_submit(&rq, m, &p, &err)) {
                assert_int_equal(err.status, GLIA_EHOOK);
                print_message("%s: %s\n", families[f], err.message);
                refused++;
                continue;
            }
            result *again = drain(rq, n);
            glia_request_free(rq);
            assert_int_equal(again->err.status, GLIA_OK);
            for (size_t k = 0; k < n; k++) {
                if (same_rows(&plain->hook[k], &again->hook[k])) continue;
                fail_msg("%s: own values into %s.%d change %s.%d", families[f], glia_point_name(h[i].point), h[i].layer,
                         glia_point_name(h[k].point), h[k].layer);
            }
            assert_int_equal(plain->n_ids, again->n_ids);
            assert_memory_equal(plain->ids, again->ids, (size_t)plain->n_ids * sizeof *plain->ids);
            done++;
            result_free(again);
        }
        result_free(plain);
        glia_model_close(m);
    }
    print_message("%d points edited, %d refused\n", done, refused);
    assert_true(done > 200 && refused < done / 10);
}

/* Another prompt's residual stream, put in at one layer, makes every later layer the other prompt's.  Attention reads
 * keys of the edited rows only, since all rows are edited. */
static void a_transplanted_stream_carries_everything(void **s) {
    (void)s;
    static glia_hook h[MAX_HOOKS];
    for (int f = 0; f < N_FAMILIES; f++) {
        glia_model *m = open_model(tiny_model(families[f]), 1, 64, 64);
        size_t n = all_hooks(m, h);
        result *a = run(m, prompt_a, h, n, NULL, 0), *b = run(m, prompt_b, h, n, NULL, 0);
        for (size_t i = 0; i < n; i++) {
            if (h[i].point != GLIA_POINT_RESID_POST && h[i].point != GLIA_POINT_EMBEDDINGS) continue;
            int32_t layer = h[i].point == GLIA_POINT_EMBEDDINGS ? -1 : h[i].layer;
            glia_edit e = set_rows(&h[i], &b->hook[i]);
            result *moved = run(m, prompt_a, h, n, &e, 1);
            int behind = 0, before = 0;
            for (size_t k = 0; k < n; k++) {
                bool later = h[k].layer > layer && glia_point_has_layer(h[k].point);
                bool earlier = h[k].layer < layer && glia_point_has_layer(h[k].point);
                size_t floats = (size_t)N * (size_t)moved->hook[k].width; /* rows of the prompt */
                if (later || h[k].point == GLIA_POINT_LM_HEAD) {
                    behind++;
                    if (memcmp(moved->hook[k].data, b->hook[k].data, floats * sizeof(float))) {
                        fail_msg("%s: %s.%d put in, %s.%d is another", families[f], glia_point_name(h[i].point), layer,
                                 glia_point_name(h[k].point), h[k].layer);
                    }
                } else if (earlier) {
                    before++;
                    assert_memory_equal(moved->hook[k].data, a->hook[k].data, floats * sizeof(float));
                }
            }
            assert_true(behind >= 1 && (layer < 1 || before > 0));
            assert_int_equal(moved->ids[0], b->ids[0]);
            result_free(moved);
        }
        result_free(a);
        result_free(b);
        glia_model_close(m);
    }
}

/* What a change of one term of the residual stream makes of its sum. */
static void sums_see_their_changed_terms(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 64);
    glia_hook h[] = {{.point = GLIA_POINT_RESID_PRE, .layer = 1, .phases = 3},
                     {.point = GLIA_POINT_ATTN_OUT, .layer = 1, .phases = 3},
                     {.point = GLIA_POINT_RESID_MID, .layer = 1, .phases = 3},
                     {.point = GLIA_POINT_Z, .layer = 1, .phases = 3}};
    result *plain = run(m, prompt_a, h, 4, NULL, 0);
    int32_t width = plain->hook[1].width;
    float *v = malloc((size_t)width * sizeof *v);
    for (int32_t i = 0; i < width; i++) v[i] = 0.25f * (float)(i % 7) - 0.5f;
    const int64_t at[] = {2, 5, N}; /* N: the first generated token */
    glia_edit e = {.where = {.point = GLIA_POINT_ATTN_OUT, .layer = 1, .phases = 3, .positions = at, .n_positions = 3},
                   .op = GLIA_EDIT_ADD,
                   .strength = 2,
                   .rows = v,
                   .n_rows = 1,
                   .n_channels = (size_t)width};
    result *r = run(m, prompt_a, h, 4, &e, 1);
    for (int32_t row = 0; row < r->hook[1].n; row++) {
        bool edited = r->hook[1].pos[row] == 2 || r->hook[1].pos[row] == 5 || r->hook[1].pos[row] == N;
        size_t o = (size_t)row * (size_t)width;
        if (row >= N) continue; /* generated tokens may differ: their rows are compared with each other only */
        for (int32_t i = 0; i < width; i++) {
            float want = edited ? (float)((double)plain->hook[1].data[o + (size_t)i] + 2 * (double)v[i])
                                : plain->hook[1].data[o + (size_t)i];
            assert_float_equal(r->hook[1].data[o + (size_t)i], want, 0);
            assert_float_equal(r->hook[2].data[o + (size_t)i], r->hook[0].data[o + (size_t)i] + want, 1e-6);
        }
    }
    /* one head, some channels of it */
    const int32_t head = 1, channels[] = {0, 3};
    int32_t hd = r->hook[3].width / r->hook[3].n_heads;
    glia_edit zero = {.where = {.point = GLIA_POINT_Z,
                                .layer = 1,
                                .phases = 1,
                                .heads = &head,
                                .n_heads = 1,
                                .channels = channels,
                                .n_channels = 2},
                      .op = GLIA_EDIT_ZERO};
    result *z = run(m, prompt_a, h, 4, &zero, 1);
    for (int32_t i = 0; i < N * z->hook[3].width; i++) {
        int32_t c = i % z->hook[3].width;
        float want = c == hd || c == hd + 3 ? 0 : plain->hook[3].data[i];
        assert_float_equal(z->hook[3].data[i], want, 0);
    }
    free(v);
    result_free(plain);
    result_free(r);
    result_free(z);
    glia_model_close(m);
}

/* What an edited request leaves in the KV cache is nobody's prefix; what lies before its first edit is. */
static void edited_cache_is_never_reused(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 64);
    const glia_hook last = {.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_GENERATED};
    const int64_t from = 6;
    glia_edit e = {
        .where = {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = 3, .positions = &from, .n_positions = 1},
        .op = GLIA_EDIT_SCALE,
        .strength = 3};
    result *plain = run(m, prompt_a, &last, 1, NULL, 0);
    result *edited = run(m, prompt_a, &last, 1, &e, 1);
    assert_int_equal(edited->usage.n_cached, 6);
    assert_true(worst_error(edited->hook[0].data, plain->hook[0].data, (size_t)plain->hook[0].width) > 1e-4);
    result *after = run(m, prompt_a, &last, 1, NULL, 0);
    assert_int_equal(after->usage.n_cached, 6);
    assert_true(worst_error(after->hook[0].data, plain->hook[0].data, (size_t)plain->hook[0].width) < 1e-5);
    result *again = run(m, prompt_a, &last, 1, NULL, 0); /* computed without edits since: whole again */
    assert_int_equal(again->usage.n_cached, N - 1);
    result_free(plain);
    result_free(edited);
    result_free(after);
    result_free(again);
    glia_model_close(m);
}

/* Each row of the prompt gets its own vector, however the prompt is cut. */
static void rows_fall_right_in_every_chunk(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 64);
    const glia_hook h[] = {{.point = GLIA_POINT_MLP_OUT, .layer = 1, .phases = GLIA_PHASE_PROMPT},
                           {.point = GLIA_POINT_RESID_POST, .layer = 2, .phases = GLIA_PHASE_PROMPT}};
    result *plain = run(m, prompt_a, h, 2, NULL, 0), *whole = NULL;
    size_t width = (size_t)plain->hook[0].width;
    const int64_t at[] = {1, 4, 5, 10};
    float *v = malloc(4 * width * sizeof *v);
    for (size_t i = 0; i < 4 * width; i++) v[i] = (float)(1 + i / width);
    glia_edit e = {.where = {.point = GLIA_POINT_MLP_OUT, .layer = 1, .phases = 3, .positions = at, .n_positions = 4},
                   .op = GLIA_EDIT_SET,
                   .rows = v,
                   .n_rows = 4,
                   .n_channels = width};
    for (int32_t chunk = 0; chunk <= N; chunk++) { /* 0: as much as fits */
        glia_request_params p = greedy(prompt_a, N, 1);
        p.hooks = h, p.n_hooks = 2, p.edits = &e, p.n_edits = 1, p.prompt_chunk = chunk, p.no_cache = true;
        result *r = run_request(m, &p);
        assert_int_equal(r->err.status, GLIA_OK);
        for (size_t k = 0; k < 4; k++)
            assert_memory_equal(r->hook[0].data + (size_t)at[k] * width, v + k * width, width * sizeof *v);
        if (!whole) {
            whole = r;
            continue;
        }
        assert_true(worst_error(r->hook[1].data, whole->hook[1].data, N * width) < 1e-5);
        result_free(r);
    }
    free(v);
    result_free(plain);
    result_free(whole);
    glia_model_close(m);
}

/* -- many requests, each steered otherwise, in the same batches */

typedef struct steered {
    glia_model *m;
    int i;
    result *r;
} steered;

static float factor(int i) { return i % 3 == 0 ? 1 : 0.2f * (float)(i % 16) - 1; }

static result *run_steered(glia_model *m, int i) {
    int32_t prompt[N];
    for (int k = 0; k < N; k++) prompt[k] = 1 + (prompt_a[k] + 5 * i) % 120;
    const glia_hook h = {.point = GLIA_POINT_RESID_POST, .layer = 2, .phases = GLIA_PHASE_PROMPT};
    glia_edit e = {
        .where = {.point = GLIA_POINT_MLP_OUT, .layer = 0, .phases = 3}, .op = GLIA_EDIT_SCALE, .strength = factor(i)};
    glia_request_params p = greedy(prompt, N, 4);
    p.hooks = &h, p.n_hooks = 1, p.no_cache = true;
    if (i % 3) p.edits = &e, p.n_edits = 1;
    return run_request(m, &p);
}

static void *steer(void *arg) {
    steered *j = arg;
    j->r = run_steered(j->m, j->i);
    return NULL;
}

static void sixty_four_configurations_do_not_touch_each_other(void **s) {
    (void)s;
    enum { MANY = 64 };
    static steered job[MANY];
    pthread_t thread[MANY];
    glia_model *m = open_model(tiny_model("llama"), MANY, 32, 256),
               *alone = open_model(tiny_model("llama"), 1, 32, 256);
    for (int i = 0; i < MANY; i++) {
        job[i] = (steered){.m = m, .i = i};
        assert_int_equal(pthread_create(&thread[i], NULL, steer, &job[i]), 0);
    }
    for (int i = 0; i < MANY; i++) {
        pthread_join(thread[i], NULL);
        result *want = run_steered(alone, i), *got = job[i].r;
        assert_int_equal(got->err.status, GLIA_OK);
        assert_int_equal(got->hook[0].n, want->hook[0].n);
        assert_true(worst_error(got->hook[0].data, want->hook[0].data,
                                (size_t)want->hook[0].n * (size_t)want->hook[0].width) < 1e-5);
        assert_memory_equal(got->ids, want->ids, (size_t)want->n_ids * sizeof *want->ids);
        result_free(want);
        result_free(got);
    }
    glia_model_close(m);
    glia_model_close(alone);
}

/* -- a neighbour keeps every bit when the passes have the same shape: prompt and both tokens together, three passes */

static result *beside(glia_model *m, const glia_edit *e, size_t n_edits, uint64_t *passes) {
    glia_hook h[2] = {{.point = GLIA_POINT_RESID_POST, .layer = 2, .phases = 3}, {.point = GLIA_POINT_LM_HEAD, .phases = 3}};
    glia_request_params p = greedy(prompt_a, N, 3), q = greedy(prompt_b, N, 3);
    glia_request *x, *y;
    glia_activity before, after;
    glia_err err;
    p.edits = e, p.n_edits = n_edits, p.no_cache = q.no_cache = true;
    q.hooks = h, q.n_hooks = 2, p.hooks = h, p.n_hooks = 1; /* both hooked: the same outputs in either run */
    glia_model_activity(m, &before);
    assert_int_equal(glia_request_submit(&x, m, &p, &err), GLIA_OK);
    assert_int_equal(glia_request_submit(&y, m, &q, &err), GLIA_OK);
    result *other = drain(x, 1), *r = drain(y, 2);
    glia_model_activity(m, &after);
    *passes = after.passes - before.passes;
    assert_int_equal(other->err.status, GLIA_OK);
    assert_int_equal(r->err.status, GLIA_OK);
    result_free(other);
    glia_request_free(x);
    glia_request_free(y);
    return r;
}

static void neighbours_keep_every_bit(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 2, 64, 64);
    const int64_t to[] = {0, 3};
    const glia_edit edits[] = {
        {.where = {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = 3}, .op = GLIA_EDIT_SCALE, .strength = -7},
        {.where = {.point = GLIA_POINT_MLP_OUT, .layer = 1, .phases = 3}, .op = GLIA_EDIT_NOISE, .strength = 5, .seed = 3},
        {.where = {.point = GLIA_POINT_ATTN_PROBS, .layer = 1, .phases = 3}, .op = GLIA_EDIT_KNOCKOUT, .to = to, .n_to = 2}};
    uint64_t passes = 0;
    result *plain = NULL;
    for (int tries = 0; tries < 200 && passes != 3; tries++) {
        if (plain) result_free(plain);
        plain = beside(m, NULL, 0, &passes);
    }
    if (passes != 3) {
        print_message("skip: two requests never met in one pass\n");
        skip();
    }
    int compared = 0;
    for (size_t n = 1; n <= 3; n++) {
        for (int tries = 0; tries < 200; tries++) {
            result *r = beside(m, edits, n, &passes);
            bool same = same_rows(&r->hook[0], &plain->hook[0]) && same_rows(&r->hook[1], &plain->hook[1]);
            result_free(r);
            if (passes != 3) continue; /* they met otherwise: other batches, other rounding */
            if (!same) fail_msg("%zu interventions beside it change a request", n);
            compared++;
            break;
        }
    }
    assert_true(compared == 3);
    result_free(plain);
    glia_model_close(m);
}

/* -- the arithmetic, against formulas written here */

static void operations_follow_their_formulas(void **s) {
    (void)s;
    enum { W = 5 };
    const float x[W] = {1, -2, 0.5f, 4, 3}, d[W] = {0.6f, 0, 0, 0.8f, 0};
    float y[W];
    glia_edit_rule r = {.op = GLIA_EDIT_PROJECT_OUT, .width = W, .strength = 1, .rows = d, .n_rows = 1};
    memcpy(y, x, sizeof y);
    assert_true(glia_edit_row(&r, y, 0, 0));
    assert_float_equal(y[0] * d[0] + y[3] * d[3], 0, 1e-6); /* nothing is left along d */
    assert_float_equal(y[0], 1 - 3.8 * 0.6, 1e-6);
    assert_float_equal(y[1], -2, 0);
    r.op = GLIA_EDIT_CLAMP, r.min = -1, r.max = 1.5f;
    memcpy(y, x, sizeof y);
    (void)glia_edit_row(&r, y, 0, 0);
    assert_float_equal(y[0] * d[0] + y[3] * d[3], 1.5, 1e-6);
    r.min = 3, r.max = 5; /* 3.8 lies within: not a bit changes */
    memcpy(y, x, sizeof y);
    (void)glia_edit_row(&r, y, 0, 0);
    assert_memory_equal(y, x, sizeof y);
    r = (glia_edit_rule){.op = GLIA_EDIT_ZERO, .width = W, .when = d, .threshold = 3.9f};
    assert_false(glia_edit_row(&r, y, 0, 0));
    assert_memory_equal(y, x, sizeof y);
    r.below = true;
    assert_true(glia_edit_row(&r, y, 0, 0));
    for (int i = 0; i < W; i++) assert_float_equal(y[i], 0, 0);
}

/* Noise: normal by its moments, the same for the same seed and position, another for another. */
static void noise_is_normal_and_repeatable(void **s) {
    (void)s;
    enum { W = 20000 };
    float *a = calloc(W, sizeof *a), *b = calloc(W, sizeof *b);
    glia_edit_rule r = {.op = GLIA_EDIT_NOISE, .width = W, .strength = 2, .seed = 5};
    (void)glia_edit_row(&r, a, 0, 17);
    double m1 = 0, m2 = 0, m4 = 0;
    for (int i = 0; i < W; i++) m1 += a[i] / 2.0, m2 += a[i] * a[i] / 4.0, m4 += pow(a[i] / 2.0, 4);
    assert_true(fabs(m1 / W) < 0.03 && fabs(m2 / W - 1) < 0.05 && fabs(m4 / W - 3) < 0.3);
    (void)glia_edit_row(&r, b, 3, 17);
    assert_memory_equal(a, b, W * sizeof *a);
    memset(b, 0, W * sizeof *b);
    (void)glia_edit_row(&r, b, 0, 18);
    double cross = 0;
    for (int i = 0; i < W; i++) cross += a[i] * b[i] / 4.0;
    assert_true(fabs(cross / W) < 0.03);
    r.op = GLIA_EDIT_RANDOM;
    for (int i = 0; i < W; i++) a[i] = 10 + (float)(i % 3);
    (void)glia_edit_row(&r, a, 0, 17);
    m1 = m2 = 0;
    for (int i = 0; i < W; i++) m1 += a[i] / (double)W;
    for (int i = 0; i < W; i++) m2 += (a[i] - m1) * (a[i] - m1) / W;
    assert_true(fabs(m1 - 11) < 0.05 && fabs(m2 - 2.0 / 3) < 0.05);
    free(a);
    free(b);
}

static void nonsense_is_refused_by_name(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 64);
    const float v[64] = {1}, zero[64] = {0}, odd[64] = {[3] = NAN};
    const glia_hook resid = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = 3};
    glia_point_info info;
    assert_true(glia_model_point(m, GLIA_POINT_RESID_POST, 1, &info) && info.width <= 64);
    size_t w = (size_t)info.width;
    const struct {
        glia_edit e;
        glia_status st;
        const char *says;
    } bad[] = {
        {{.where = resid, .op = GLIA_EDIT_ADD, .strength = 1}, GLIA_EINVAL, "needs a vector"},
        {{.where = resid, .op = GLIA_EDIT_ADD, .rows = v, .n_rows = 1, .n_channels = w - 1},
         GLIA_EINVAL,
         "numbers in a row"},
        {{.where = resid, .op = GLIA_EDIT_ADD, .rows = odd, .n_rows = 1, .n_channels = w}, GLIA_EINVAL, "not finite"},
        {{.where = resid, .op = GLIA_EDIT_ADD, .rows = v, .n_rows = 2, .n_channels = w}, GLIA_EINVAL, "rows are given"},
        {{.where = resid, .op = GLIA_EDIT_PROJECT_OUT, .strength = 1, .rows = zero, .n_rows = 1, .n_channels = w},
         GLIA_EINVAL,
         "no direction"},
        {{.where = resid, .op = GLIA_EDIT_CLAMP, .min = 2, .max = 1, .rows = v, .n_rows = 1, .n_channels = w},
         GLIA_EINVAL,
         "min"},
        {{.where = resid, .op = GLIA_EDIT_SCALE, .strength = INFINITY}, GLIA_EINVAL, "finite"},
        {{.where = resid, .op = GLIA_EDIT_ZERO, .rows = v, .n_rows = 1, .n_channels = w},
         GLIA_EINVAL,
         "takes no vector"},
        {{.where = {.point = GLIA_POINT_RESID_POST, .layer = 99, .phases = 3}}, GLIA_EINVAL, "layer 99"},
        {{.where = {.point = GLIA_POINT_ATTN_HEAD_OUT, .layer = 0, .phases = 3}, .op = GLIA_EDIT_ZERO},
         GLIA_EHOOK,
         "cannot be changed"},
        {{.where = {.point = GLIA_POINT_LENS_IN, .layer = 0, .phases = 3}, .op = GLIA_EDIT_ZERO},
         GLIA_EHOOK,
         "computed from"},
        {{.where = {.point = GLIA_POINT_ROUTER_LOGITS, .layer = 0, .phases = 3}, .op = GLIA_EDIT_ZERO},
         GLIA_EHOOK,
         "absent"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        glia_request *r;
        glia_err err;
        glia_request_params p = greedy(prompt_a, N, 1);
        p.edits = &bad[i].e, p.n_edits = 1;
        assert_int_equal(glia_request_submit(&r, m, &p, &err), bad[i].st);
        assert_string_equal(err.param, "interventions[0]");
        if (!strstr(err.message, bad[i].says)) fail_msg("%zu: %s", i, err.message);
    }
    glia_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_edits_change_nothing),
        cmocka_unit_test(a_transplanted_stream_carries_everything),
        cmocka_unit_test(sums_see_their_changed_terms),
        cmocka_unit_test(edited_cache_is_never_reused),
        cmocka_unit_test(rows_fall_right_in_every_chunk),
        cmocka_unit_test(sixty_four_configurations_do_not_touch_each_other),
        cmocka_unit_test(neighbours_keep_every_bit),
        cmocka_unit_test(operations_follow_their_formulas),
        cmocka_unit_test(noise_is_normal_and_repeatable),
        cmocka_unit_test(nonsense_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

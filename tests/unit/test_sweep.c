/* tests/unit/test_sweep.c — every number of a sweep equals the metric of one request made by hand; what is known in
 * advance comes out; nothing is left behind by errors.  The same sweeps in transformers: tests/golden/test_sweeps.py. */
#include "base/mem.h"
#include "lab/sweep.h"
#include "support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 9, HEADS = 4, LAYERS = 3 };

/* the first three tokens are the same */
static const int32_t clean[N] = {7, 50, 3, 99, 12, 61, 8, 120, 33}, corrupted[N] = {7, 50, 3, 14, 12, 61, 101, 120, 33};
static const int32_t answer = 65, wrong = 97;
static const int64_t last = -1;
static const glia_hook logits_hook = {.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_PROMPT, .positions = &last, .n_positions = 1};

static const glia_sweep_grid grids[] = {
    {GLIA_POINT_RESID_PRE, GLIA_BY_POSITION}, {GLIA_POINT_MLP_OUT, GLIA_BY_POSITION}, {GLIA_POINT_Z, GLIA_BY_HEAD},
    {GLIA_POINT_Z, GLIA_BY_HEAD_POSITION},    {GLIA_POINT_ATTN_OUT, GLIA_BY_LAYER},   {GLIA_POINT_ATTN_PROBS, GLIA_BY_HEAD},
};
enum { N_GRIDS = sizeof grids / sizeof *grids };

static glia_sweep_params params(glia_sweep_op op, glia_metric metric, size_t n_grids) {
    bool patch = op == GLIA_SWEEP_DENOISE || op == GLIA_SWEEP_NOISE;
    return (glia_sweep_params){.clean = clean, .n_clean = N, .corrupted = patch ? corrupted : NULL, .n_corrupted = patch ? N : 0,
                               .op = op,
                               .metric = {.metric = metric, .answers = &answer, .n_answers = metric != GLIA_METRIC_KL,
                                          .wrongs = &wrong, .n_wrongs = metric == GLIA_METRIC_LOGIT_DIFFERENCE},
                               .grids = grids, .n_grids = n_grids};
}

static glia_sweep *sweep(glia_model *m, const glia_sweep_params *p) {
    glia_sweep *s;
    glia_err err;
    if (glia_sweep_run(&s, m, p, &err)) fail_msg("%s: %s", err.param, err.message);
    return s;
}

/* -- by hand */

static float *row_of_logits(glia_model *m, const int32_t *prompt, const glia_edit *e) {
    glia_request_params p = greedy(prompt, N, 0);
    p.hooks = &logits_hook, p.n_hooks = 1, p.edits = e, p.n_edits = e != NULL, p.no_cache = true;
    result *r = run_request(m, &p);
    if (r->err.status) fail_msg("%s", r->err.message);
    float *out = test_malloc((size_t)r->hook[0].width * sizeof *out);
    memcpy(out, r->hook[0].data, (size_t)r->hook[0].width * sizeof *out);
    result_free(r);
    return out;
}

static double by_formula(glia_metric metric, const float *x, const float *ref, int n) {
    double z = 0, zr = 0, kl = 0;
    int above = 0;
    for (int i = 0; i < n; i++) z += exp((double)x[i]), zr += exp((double)ref[i]), above += x[i] > x[answer];
    for (int i = 0; i < n; i++) kl += exp((double)ref[i]) / zr * log((exp((double)ref[i]) / zr) / (exp((double)x[i]) / z));
    switch (metric) {
    case GLIA_METRIC_LOGIT_DIFFERENCE: return (double)x[answer] - (double)x[wrong];
    case GLIA_METRIC_PROBABILITY: return exp((double)x[answer]) / z;
    case GLIA_METRIC_LOG_PROBABILITY: return log(exp((double)x[answer]) / z);
    case GLIA_METRIC_KL: return kl;
    default: return above;
    }
}

/* All positions, or one, of all heads, or one: the rows of `from`, zero or the mean. */
static double one_by_hand(glia_model *m, const glia_sweep_params *p, const glia_sweep_grid *g, int layer, int head, int pos,
                          const float *ref, int n_vocab) {
    const int32_t *base = p->op == GLIA_SWEEP_DENOISE ? corrupted : clean, *from = p->op == GLIA_SWEEP_NOISE ? corrupted : clean;
    int64_t at[N];
    int n = 0;
    for (int i = 0; i < N; i++) {
        if (pos < 0 || pos == i) at[n++] = i;
    }
    const int32_t h = head;
    const glia_range cols = {0, N};
    glia_hook where = {.point = g->point, .layer = layer, .phases = GLIA_PHASE_PROMPT, .heads = head < 0 ? NULL : &h, .n_heads = head >= 0};
    glia_edit e = {.where = where, .op = p->op == GLIA_SWEEP_ZERO ? GLIA_EDIT_ZERO : GLIA_EDIT_SET};
    e.where.positions = at, e.where.n_positions = (size_t)n;
    if (g->point == GLIA_POINT_ATTN_PROBS) e.to_range = &cols;
    float *rows = NULL;
    if (p->op != GLIA_SWEEP_ZERO) {
        glia_request_params q = greedy(from, N, 0);
        q.hooks = &where, q.n_hooks = 1, q.no_cache = true;
        result *r = run_request(m, &q);
        size_t w = (size_t)r->hook[0].width;
        rows = test_malloc(N * w * sizeof *rows);
        for (int i = 0; i < n; i++) {
            for (size_t k = 0; k < w; k++) {
                double mean = 0;
                for (int j = 0; j < N; j++) mean += (double)r->hook[0].data[(size_t)j * w + k] / N;
                rows[(size_t)i * w + k] = p->op == GLIA_SWEEP_MEAN ? (float)mean : r->hook[0].data[(size_t)at[i] * w + k];
            }
        }
        e.rows = rows, e.n_rows = (size_t)n, e.n_channels = w;
        result_free(r);
    }
    float *x = row_of_logits(m, base, &e);
    double v = by_formula(p->metric.metric, x, ref, n_vocab);
    test_free(x);
    if (rows) test_free(rows);
    return v;
}

static void check_all(glia_model *m, glia_sweep_op op, glia_metric metric, size_t n_grids) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    glia_sweep_params p = params(op, metric, n_grids);
    glia_sweep *s = sweep(m, &p);
    float *ref = row_of_logits(m, clean, NULL), *other = row_of_logits(m, corrupted, NULL);
    double tolerance = metric == GLIA_METRIC_RANK ? 1.5 : 1e-3;
    assert_float_equal(s->clean, by_formula(metric, ref, ref, info.n_vocab), tolerance);
    if (p.corrupted) assert_float_equal(s->corrupted, by_formula(metric, other, ref, info.n_vocab), tolerance);
    else assert_true(isnan(s->corrupted));
    assert_int_equal(s->n_grids, n_grids);
    int distinct = 0;
    for (size_t g = 0; g < n_grids; g++) {
        const glia_sweep_values *v = &s->grids[g];
        bool heads = v->n_heads > 1, positions = v->n_positions > 1;
        assert_int_equal(v->n_heads, grids[g].by >= GLIA_BY_HEAD ? HEADS : 1);
        assert_int_equal(v->n_positions, grids[g].by == GLIA_BY_POSITION || grids[g].by == GLIA_BY_HEAD_POSITION ? N : 1);
        for (int il = 0; il < LAYERS; il++) {
            for (int h = 0; h < v->n_heads; h++) {
                for (int q = 0; q < v->n_positions; q++) {
                    if (heads && positions && (h + q + il) % 5) continue; /* one in five by hand is enough */
                    double got = v->values[(il * v->n_heads + h) * v->n_positions + q];
                    double want = one_by_hand(m, &p, &v->grid, il, heads ? h : -1, positions ? q : -1, ref, info.n_vocab);
                    if (!(fabs(got - want) <= tolerance))
                        fail_msg("%s of %s, %s: layer %d head %d position %d is %g, by hand %g", glia_sweep_op_name(op),
                                 glia_point_name(v->grid.point), glia_metric_name(metric), il, h, q, got, want);
                    distinct += fabs(want - s->clean) > 1e-3;
                }
            }
        }
    }
    assert_true(distinct > 3);
    test_free(ref);
    test_free(other);
    glia_sweep_free(s);
}

static void every_number_is_that_of_a_request_made_by_hand(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 4, 64, 64), *flash = open_model_with(tiny_model("gpt2"), 3, 64, 64, GLIA_FLASH_ON, GLIA_KV_F32);
    check_all(m, GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, N_GRIDS);
    check_all(m, GLIA_SWEEP_NOISE, GLIA_METRIC_KL, 3);
    check_all(m, GLIA_SWEEP_ZERO, GLIA_METRIC_LOG_PROBABILITY, N_GRIDS);
    check_all(m, GLIA_SWEEP_MEAN, GLIA_METRIC_PROBABILITY, 5);
    check_all(m, GLIA_SWEEP_DENOISE, GLIA_METRIC_RANK, 3);
    check_all(flash, GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, N_GRIDS);
    glia_model_close(m);
    glia_model_close(flash);
}

/* The whole stream of the clean run, put into the corrupted one, makes the clean one of it. */
static void what_is_known_in_advance_comes_out(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 4, 64, 64);
    const glia_sweep_grid whole = {GLIA_POINT_RESID_PRE, GLIA_BY_LAYER};
    glia_sweep_params p = params(GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, 1);
    p.grids = &whole;
    glia_sweep *s = sweep(m, &p);
    for (int il = 0; il < LAYERS; il++) assert_float_equal(s->grids[0].recovered[il], 1, 1e-3);
    glia_sweep_free(s);
    /* positions before the first difference are not run: they are the unchanged run */
    p = params(GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, 1);
    s = sweep(m, &p);
    assert_int_equal(s->n_same, 3 * LAYERS);
    assert_int_equal(s->n_run, (N - 3) * LAYERS);
    for (int i = 0; i < 3; i++) assert_true(s->grids[0].recovered[i] == 0);
    assert_true(s->n_shared > 2 * s->n_tokens / 3);
    glia_sweep_free(s);
    /* two equal prompts: nothing can change anything */
    p.corrupted = clean;
    s = sweep(m, &p);
    assert_int_equal(s->n_run, 0);
    for (int i = 0; i < N * LAYERS; i++) assert_true(s->grids[0].values[i] == s->clean && isnan(s->grids[0].recovered[i]));
    glia_sweep_free(s);
    /* some layers and positions only */
    const int32_t layers[] = {0, 2}, positions[] = {1, 3, 8};
    p = params(GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, 1);
    glia_sweep *all = sweep(m, &p);
    p.layers = layers, p.n_layers = 2, p.positions = positions, p.n_positions = 3;
    s = sweep(m, &p);
    for (int i = 0; i < 6; i++) assert_float_equal(s->grids[0].values[i], all->grids[0].values[layers[i / 3] * N + positions[i % 3]], 1e-4);
    glia_sweep_free(all);
    glia_sweep_free(s);
    glia_model_close(m);
}

static void nonsense_is_refused_by_name(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 2, 64, 64);
    const int32_t beyond[] = {3}, down[] = {2, 1};
    const glia_sweep_grid no_heads = {GLIA_POINT_RESID_PRE, GLIA_BY_HEAD}, absent = {GLIA_POINT_ROUTER_LOGITS, GLIA_BY_LAYER},
                          no_layer = {GLIA_POINT_LM_HEAD, GLIA_BY_LAYER};
    glia_sweep_params ok = params(GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, 1);
    struct {
        glia_sweep_params p;
        glia_status st;
        const char *param;
    } bad[16];
    size_t n = 0;
#define BAD(change, status, field) bad[n].p = ok, bad[n].p.change, bad[n].st = status, bad[n++].param = field
    BAD(n_clean = 0, GLIA_EINVAL, "clean");
    BAD(n_corrupted = N - 1, GLIA_EINVAL, "corrupted");
    BAD(corrupted = NULL, GLIA_EINVAL, "corrupted");
    BAD(op = GLIA_SWEEP_ZERO, GLIA_EINVAL, "corrupted");
    BAD(metric.n_answers = 0, GLIA_EINVAL, "answer");
    BAD(metric.n_wrongs = 0, GLIA_EINVAL, "wrong");
    BAD(metric.metric = GLIA_METRIC_PROBABILITY, GLIA_EINVAL, "wrong");
    BAD(n_grids = 0, GLIA_EINVAL, "sweeps");
    BAD(grids = &no_heads, GLIA_EINVAL, "sweeps[0].component");
    BAD(grids = &no_layer, GLIA_EINVAL, "sweeps[0].component");
    BAD(grids = &absent, GLIA_EHOOK, "sweeps[0].component");
    bad[n].p = ok, bad[n].p.layers = beyond, bad[n].p.n_layers = 1, bad[n].st = GLIA_EINVAL, bad[n++].param = "layers";
    bad[n].p = ok, bad[n].p.positions = down, bad[n].p.n_positions = 2, bad[n].st = GLIA_EINVAL, bad[n++].param = "positions";
    for (size_t i = 0; i < n; i++) {
        glia_sweep *s;
        glia_err err = {0};
        assert_int_equal(glia_sweep_run(&s, m, &bad[i].p, &err), bad[i].st);
        assert_null(s);
        assert_string_equal(err.param, bad[i].param);
    }
    glia_model_close(m);
}

static bool stop_at_once(void *ud, size_t done, size_t total) {
    (void)total;
    *(size_t *)ud = done;
    return done < 2;
}

static void check_returned(const glia_model *m) {
    glia_capture_usage u = {.leased = 1};
    for (int i = 0; i < 5000 && u.leased; i++) {
        glia_model_capture_usage(m, &u);
        if (u.leased) usleep(1000);
    }
    assert_int_equal(u.leased, 0);
}

static void cancel_and_failed_allocations_leave_nothing_behind(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 2, 64, 64);
    size_t done = 0, n = 0;
    glia_sweep *s;
    glia_err err;
    glia_sweep_params p = params(GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, N_GRIDS);
    p.on_progress = stop_at_once, p.ud = &done;
    assert_int_equal(glia_sweep_run(&s, m, &p, &err), GLIA_ECANCELLED);
    assert_null(s);
    assert_true(done >= 2);
    check_returned(m);
    const int32_t layers[] = {1}, positions[] = {7, 8};
    p = params(GLIA_SWEEP_DENOISE, GLIA_METRIC_LOGIT_DIFFERENCE, 3);
    p.layers = layers, p.n_layers = 1, p.positions = positions, p.n_positions = 2;
    do {
        glia_fault_arm(++n);
        glia_status st = glia_sweep_run(&s, m, &p, &err);
        assert_int_equal(st == GLIA_OK, s != NULL);
        if (st) assert_int_equal(st, GLIA_ENOMEM);
        glia_sweep_free(s);
    } while (glia_fault_fired() && n < 2000);
    glia_fault_arm(0);
    assert_true(n > 50 && n < 2000);
    check_returned(m);
    glia_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_is_that_of_a_request_made_by_hand),
        cmocka_unit_test(what_is_known_in_advance_comes_out),
        cmocka_unit_test(nonsense_is_refused_by_name),
        cmocka_unit_test(cancel_and_failed_allocations_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

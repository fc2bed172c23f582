/* tests/unit/test_path.c — path patching: what arrives is the unchanged stream plus what the sender alone adds to it, which is
 * computed here from attn_head_out, added to the stream by hand, and run on. */
#include "base/mem.h"
#include "lab/path.h"
#include "support.h"
#include <math.h>
#include <string.h>

enum { N = 9, HEADS = 4, LAYERS = 3, WIDTH = 64 };

static const int32_t clean[N] = {7, 50, 3, 99, 12, 61, 8, 120, 33}, corrupted[N] = {7, 50, 3, 14, 12, 61, 101, 120, 33};
static const int32_t answer = 65, wrong = 97;
static const int64_t last = -1;
static const glia_sweep_grid heads = {GLIA_POINT_Z, GLIA_BY_HEAD}, mlps = {GLIA_POINT_MLP_OUT, GLIA_BY_LAYER};

static glia_path_params params(const glia_sweep_grid *g) {
    return (glia_path_params){.sweep = {.clean = clean, .corrupted = corrupted, .n_clean = N, .n_corrupted = N, .op = GLIA_SWEEP_NOISE,
                                        .metric = {.answers = &answer, .n_answers = 1, .wrongs = &wrong, .n_wrongs = 1}, .grids = g, .n_grids = 1}};
}

static glia_sweep *run(glia_model *m, const glia_path_params *p) {
    glia_sweep *s;
    glia_err err;
    if (glia_path_run(&s, m, p, &err)) fail_msg("%s: %s", err.param, err.message);
    return s;
}

/* Rows of a hook, and the logit difference, of a prompt with edits. */
static double ask(glia_model *m, const int32_t *prompt, const glia_hook *h, const glia_edit *e, size_t n_edits, float *rows) {
    glia_hook both[2] = {{.point = GLIA_POINT_LM_HEAD, .phases = 1, .positions = &last, .n_positions = 1}};
    glia_request_params p = greedy(prompt, N, 0);
    if (h) both[1] = *h;
    p.hooks = both, p.n_hooks = h ? 2 : 1, p.edits = e, p.n_edits = n_edits, p.no_cache = true;
    result *r = run_request(m, &p);
    if (r->err.status) fail_msg("%s", r->err.message);
    if (rows) memcpy(rows, r->hook[1].data, (size_t)r->hook[1].n * (size_t)r->hook[1].width * sizeof *rows);
    double d = (double)r->hook[0].data[answer] - (double)r->hook[0].data[wrong];
    result_free(r);
    return d;
}

/* The stream that leaves layer `layer`, with what one head of another layer (or an MLP: head -1) would add instead. */
static void moved_stream(glia_model *m, int sender, int head, int layer, float *out) {
    static float a[HEADS * N * WIDTH], b[HEADS * N * WIDTH];
    const glia_hook stream = {.point = GLIA_POINT_RESID_POST, .layer = layer, .phases = 1},
                    part = {.point = head < 0 ? GLIA_POINT_MLP_OUT : GLIA_POINT_ATTN_HEAD_OUT, .layer = sender, .phases = 1};
    (void)ask(m, clean, &stream, NULL, 0, out);
    (void)ask(m, clean, &part, NULL, 0, a);
    (void)ask(m, corrupted, &part, NULL, 0, b);
    int stride = head < 0 ? WIDTH : HEADS * WIDTH, at = head < 0 ? 0 : head * WIDTH;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < WIDTH; k++) out[i * WIDTH + k] += b[i * stride + at + k] - a[i * stride + at + k];
    }
}

static glia_edit put(glia_point point, int layer, const int32_t *head, const float *rows, size_t width) {
    return (glia_edit){.where = {.point = point, .layer = layer, .phases = 1, .heads = head, .n_heads = head != NULL}, .op = GLIA_EDIT_SET,
                       .rows = rows, .n_rows = N, .n_channels = width};
}

static void to_the_logits_it_is_the_direct_effect(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 4, 64, 64);
    for (int k = 0; k < 2; k++) {
        glia_path_params p = params(k ? &mlps : &heads);
        glia_sweep *s = run(m, &p);
        int n_heads = k ? 1 : HEADS, moved = 0;
        for (int l = 0; l < LAYERS; l++) {
            for (int h = 0; h < n_heads; h++) {
                float stream[N * WIDTH];
                moved_stream(m, l, k ? -1 : h, LAYERS - 1, stream);
                glia_edit e = put(GLIA_POINT_RESID_POST, LAYERS - 1, NULL, stream, WIDTH);
                double want = ask(m, clean, NULL, &e, 1, NULL), got = s->grids[0].values[l * n_heads + h];
                if (fabs(got - want) > 2e-4) fail_msg("layer %d head %d: %g, by hand %g", l, h, got, want);
                moved += fabs(got - s->clean) > 1e-3;
            }
        }
        assert_true(moved >= 2);
        glia_sweep_free(s);
    }
    glia_model_close(m);
}

static void to_a_head_it_is_what_arrives_there(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 4, 64, 64);
    static const glia_point points[] = {GLIA_POINT_Q, GLIA_POINT_K, GLIA_POINT_VALUE};
    for (int k = 0; k < 3; k++) {
        const int32_t head = 1;
        const glia_path_receiver to = {points[k], 2, head};
        glia_path_params p = params(&heads);
        p.to = &to, p.n_to = 1;
        glia_sweep *s = run(m, &p);
        int moved = 0;
        for (int l = 0; l < 2; l++) {
            for (int h = 0; h < HEADS; h++) {
                float stream[N * WIDTH], part[N * WIDTH];
                const glia_hook there = {.point = points[k], .layer = 2, .phases = 1, .heads = &head, .n_heads = 1};
                moved_stream(m, l, h, 1, stream);
                glia_edit e = put(GLIA_POINT_RESID_PRE, 2, NULL, stream, WIDTH);
                (void)ask(m, clean, &there, &e, 1, part);
                e = put(points[k], 2, &head, part, WIDTH / HEADS);
                double want = ask(m, clean, NULL, &e, 1, NULL), got = s->grids[0].values[l * HEADS + h];
                if (fabs(got - want) > 2e-4) fail_msg("%s: layer %d head %d: %g, by hand %g", glia_point_name(points[k]), l, h, got, want);
                moved += fabs(got - s->clean) > 1e-4;
            }
        }
        for (int h = 0; h < HEADS; h++) assert_true(isnan(s->grids[0].values[2 * HEADS + h])); /* not before the receiver */
        assert_true(moved >= 2);
        glia_sweep_free(s);
    }
    glia_model_close(m);
}

/* With MLPs left free, what they make of the sender counts too; the whole stream to a whole layer is everything. */
static void free_mlps_carry_more(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 4, 64, 64);
    glia_path_params p = params(&heads);
    glia_sweep *held = run(m, &p);
    p.free_mlps = true;
    glia_sweep *loose = run(m, &p);
    int differ = 0;
    for (int i = 0; i < LAYERS * HEADS; i++) differ += fabs(held->grids[0].values[i] - loose->grids[0].values[i]) > 1e-3;
    assert_true(differ > 3);
    glia_sweep_free(held);
    glia_sweep_free(loose);
    p = params(&heads);
    p.sweep.corrupted = clean;
    loose = run(m, &p);
    assert_int_equal(loose->n_run, 0);
    for (int i = 0; i < LAYERS * HEADS; i++) assert_true(loose->grids[0].values[i] == loose->clean);
    glia_sweep_free(loose);
    glia_model_close(m);
}

static void nonsense_is_refused_and_failures_leave_nothing_behind(void **state) {
    (void)state;
    glia_model *m = open_model(tiny_model("llama"), 2, 64, 64);
    const glia_path_receiver z = {GLIA_POINT_Z, 1, 0}, far = {GLIA_POINT_Q, 9, 0}, many = {GLIA_POINT_Q, 1, 9}, ok = {GLIA_POINT_Q, 2, 0};
    const glia_sweep_grid resid = {GLIA_POINT_RESID_PRE, GLIA_BY_LAYER};
    const struct {
        const glia_path_receiver *to;
        const glia_sweep_grid *grid;
        glia_sweep_op op;
        const char *param;
    } bad[] = {{&z, &heads, GLIA_SWEEP_NOISE, "path.to[0]"}, {&far, &heads, GLIA_SWEEP_NOISE, "path.to[0]"},
               {&many, &heads, GLIA_SWEEP_NOISE, "path.to[0]"}, {&ok, &resid, GLIA_SWEEP_NOISE, "sweeps[0].component"},
               {&ok, &heads, GLIA_SWEEP_ZERO, "op"}};
    glia_sweep *s;
    glia_err err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        glia_path_params p = params(bad[i].grid);
        p.to = bad[i].to, p.n_to = 1, p.sweep.op = bad[i].op;
        assert_int_equal(glia_path_run(&s, m, &p, &err), GLIA_EINVAL);
        assert_string_equal(err.param, bad[i].param);
    }
    const int32_t layer = 1;
    glia_path_params p = params(&mlps);
    p.to = &ok, p.n_to = 1, p.sweep.layers = &layer, p.sweep.n_layers = 1;
    size_t n = 0;
    do {
        glia_fault_arm(++n);
        glia_status st = glia_path_run(&s, m, &p, &err);
        assert_int_equal(st == GLIA_OK, s != NULL);
        if (st) assert_int_equal(st, GLIA_ENOMEM);
        glia_sweep_free(s);
    } while (glia_fault_fired() && n < 3000);
    glia_fault_arm(0);
    assert_true(n > 30 && n < 3000);
    glia_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(to_the_logits_it_is_the_direct_effect),
        cmocka_unit_test(to_a_head_it_is_what_arrives_there),
        cmocka_unit_test(free_mlps_carry_more),
        cmocka_unit_test(nonsense_is_refused_and_failures_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

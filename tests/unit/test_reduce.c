/* tests/unit/test_reduce.c — reductions against sums in long double over the rows themselves: as pure functions, and
 * through the engine, where one request asks for the rows and for every reduction of them. */
#include "base/mem.h"
#include "engine/collect.h"
#include "support.h"
#include "tap/reduce.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { W = 37, N = 50 };
static float x[N][W];

static uint32_t seed = 12345;
static float uniform(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (1 << 23) - 1;
}

static void fill(void) {
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < W; k++) x[i][k] = uniform() * (k % 5 == 4 ? 100 : 1) + (k == 7 ? 3e4f : 0);
    }
}

/* One channel of n rows, as the definition has it. */
static double want_over_rows(glia_reduce_op op, const float *data, int width, int n, int channel) {
    long double sum = 0, squares = 0, top = -INFINITY, var = 0;
    for (int i = 0; i < n; i++) {
        long double v = data[(size_t)i * (size_t)width + (size_t)channel];
        sum += v, squares += v * v;
        if (v > top) top = v;
    }
    for (int i = 0; i < n; i++) {
        long double v = data[(size_t)i * (size_t)width + (size_t)channel] - sum / n;
        var += v * v;
    }
    return (double)(op == GLIA_REDUCE_MEAN  ? sum / n
                    : op == GLIA_REDUCE_VAR ? var / n
                    : op == GLIA_REDUCE_MAX ? top
                                            : sqrtl(squares));
}

static void check_close(double got, double want, double scale, const char *what) {
    if (!(fabs(got - want) <= 1e-6 * (fabs(want) + scale))) fail_msg("%s: %.9g instead of %.9g", what, got, want);
}

/* ------------------------------------------------------------------ pure functions */

static void every_chunk_size_gives_the_statistics_of_all_rows(void **s) {
    (void)s;
    fill();
    for (int op = GLIA_REDUCE_MEAN; op <= GLIA_REDUCE_NORM; op++) {
        glia_reduction r = {.op = (glia_reduce_op)op, .in_width = W};
        glia_sums *pass = glia_sums_new(&r), *total = glia_sums_new(&r);
        assert_true(pass && total);
        assert_int_equal(glia_reduction_width(&r), W);
        for (int chunk = 1; chunk <= N; chunk++) {
            float got[W];
            glia_sums_reset(total);
            for (int i = 0; i < N; i += chunk) {
                glia_sums_reset(pass);
                for (int k = i; k < N && k < i + chunk; k++) glia_sums_add(pass, x[k]);
                glia_sums_merge(total, pass);
            }
            assert_int_equal(glia_sums_rows(total), N);
            glia_sums_write(total, got);
            for (int k = 0; k < W; k++) {
                check_close((double)got[k], want_over_rows(r.op, x[0], W, N, k), 0, glia_reduce_name(r.op));
            }
        }
        glia_sums_free(pass), glia_sums_free(total);
    }
}

/* 1e4 ± 1e-2: the textbook formula with float sums, even with double ones of float squares, has nothing left here. */
static void variance_of_a_large_and_nearly_constant_channel_keeps_its_digits(void **s) {
    (void)s;
    glia_reduction r = {.op = GLIA_REDUCE_VAR, .in_width = 1};
    glia_sums *sums = glia_sums_new(&r), *other = glia_sums_new(&r);
    float v[64], got;
    for (int i = 0; i < 64; i++) v[i] = 1e4f + (i % 2 ? 0.01f : -0.01f);
    for (int i = 0; i < 64; i++) glia_sums_add(i < 20 ? sums : other, &v[i]);
    glia_sums_merge(sums, other);
    glia_sums_write(sums, &got);
    check_close((double)got, want_over_rows(GLIA_REDUCE_VAR, v, 1, 64, 0), 0, "var");
    assert_true(got > 5e-5f);
    glia_sums_free(sums), glia_sums_free(other);
}

static void one_row_is_its_own_statistic(void **s) {
    (void)s;
    const float row[3] = {-2, 0, 5};
    static const float want[][3] = {{-2, 0, 5}, {0, 0, 0}, {-2, 0, 5}, {2, 0, 5}};
    for (int op = GLIA_REDUCE_MEAN; op <= GLIA_REDUCE_NORM; op++) {
        glia_reduction r = {.op = (glia_reduce_op)op, .in_width = 3};
        glia_sums *sums = glia_sums_new(&r);
        float got[3];
        glia_sums_add(sums, row);
        glia_sums_write(sums, got);
        for (int i = 0; i < 3; i++) assert_true(got[i] == want[op - GLIA_REDUCE_MEAN][i]);
        glia_sums_free(sums);
    }
}

static void nan_is_never_hidden(void **s) {
    (void)s;
    const float rows[3][2] = {{1, 2}, {NAN, 3}, {5, 1}};
    for (int op = GLIA_REDUCE_MEAN; op <= GLIA_REDUCE_NORM; op++) {
        for (int cut = 0; cut <= 3; cut++) {
            glia_reduction r = {.op = (glia_reduce_op)op, .in_width = 2};
            glia_sums *a = glia_sums_new(&r), *b = glia_sums_new(&r);
            float got[2];
            for (int i = 0; i < 3; i++) glia_sums_add(i < cut ? a : b, rows[i]);
            glia_sums_merge(a, b);
            glia_sums_write(a, got);
            assert_true(isnan(got[0]) && !isnan(got[1]));
            glia_sums_free(a), glia_sums_free(b);
        }
    }
    const float row[4] = {1, NAN, 9, NAN};
    float out[4];
    int32_t at[4];
    glia_reduction r = {.op = GLIA_REDUCE_TOPK, .in_width = 4, .k = 3};
    glia_reduce_row(&r, row, out, at);
    assert_true(at[0] == 1 && at[1] == 3 && at[2] == 2 && isnan(out[0]) && isnan(out[1]) && out[2] == 9);
    r = (glia_reduction){.op = GLIA_REDUCE_ROW_NORM, .in_width = 4};
    glia_reduce_row(&r, row, out, NULL);
    assert_true(isnan(out[0]));
}

static const float *sorted_row;
static bool sorted_by_magnitude;
static int by_value(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;
    float u = sorted_row[i], v = sorted_row[k];
    if (sorted_by_magnitude) u = fabsf(u), v = fabsf(v);
    return u != v ? (u < v) - (u > v) : (i > k) - (i < k);
}

static void topk_is_the_head_of_the_sorted_row(void **s) {
    (void)s;
    fill();
    for (int t = 0; t < 400; t++) {
        glia_reduction r = {.op = GLIA_REDUCE_TOPK, .in_width = W, .k = 1 + t % W, .by_magnitude = t % 3 == 0};
        float row[W], got[W];
        int32_t at[W], want[W], channels[W];
        for (int i = 0; i < W; i++) row[i] = t % 2 ? x[t % N][i] : (float)((int)(uniform() * 4)); /* many are equal */
        int n = W;
        if (t % 5 == 0) { /* of some channels, out of order */
            n = 0;
            for (int i = W - 1; i >= 0; i -= 2) channels[n++] = i;
            r.channels = channels, r.n_channels = n;
            if (r.k > n) r.k = n;
        }
        for (int i = 0; i < n; i++) want[i] = r.channels ? channels[i] : i;
        sorted_row = row, sorted_by_magnitude = r.by_magnitude;
        qsort(want, (size_t)n, sizeof *want, by_value);
        glia_reduce_row(&r, row, got, at);
        for (int i = 0; i < r.k; i++) {
            assert_int_equal(at[i], want[i]);
            assert_true(got[i] == row[want[i]]);
        }
    }
}

static void rows_are_cut_normed_and_projected(void **s) {
    (void)s;
    fill();
    const int32_t channels[] = {7, 3, 3, 36};
    float some[5][4], got[8];
    for (int i = 0; i < 20; i++) some[i / 4][i % 4] = uniform();
    for (int i = 0; i < N; i++) {
        const float *row = x[i];
        glia_reduction r = {.op = GLIA_REDUCE_NONE, .in_width = W, .channels = channels, .n_channels = 4};
        glia_reduce_row(&r, row, got, NULL);
        assert_true(got[0] == row[7] && got[1] == row[3] && got[2] == row[3] && got[3] == row[36]);
        r.op = GLIA_REDUCE_PROJECT, r.directions = some[0], r.n_directions = 5;
        assert_int_equal(glia_reduction_width(&r), 5);
        glia_reduce_row(&r, row, got, NULL);
        for (int d = 0; d < 5; d++) {
            long double want = 0;
            for (int k = 0; k < 4; k++) want += (long double)row[channels[k]] * (long double)some[d][k];
            check_close((double)got[d], (double)want, 1e-3, "project");
        }
        r = (glia_reduction){.op = GLIA_REDUCE_ROW_NORM, .in_width = W};
        glia_reduce_row(&r, row, got, NULL);
        long double sum = 0;
        for (int k = 0; k < W; k++) sum += (long double)row[k] * (long double)row[k];
        check_close((double)got[0], (double)sqrtl(sum), 0, "row_norm");
    }
}

/* ------------------------------------------------------------------ over the passes of a request */

static void collected_rows_carry_the_labels_of_what_went_in(void **s) {
    (void)s;
    int32_t positions[] = {1, 3, 5}, tokens[] = {10, 11, 12, 13, 14, 15};
    glia_rhook hooks[3] = {{.phases = GLIA_PHASE_ALL, .to = INT32_MAX, .width = 2}, {0}, {0}};
    hooks[1] = (glia_rhook){.phases = GLIA_PHASE_ALL, .to = INT32_MAX, .width = 2, .over_rows = true, .reduced = true};
    hooks[1].reduction = (glia_reduction){.op = GLIA_REDUCE_MEAN, .in_width = 2};
    hooks[2] = hooks[1];
    hooks[2].positions = positions, hooks[2].n_positions = 3, hooks[2].across_phases = true;
    glia_request r = {.n_prompt = 4, .hooks = hooks, .n_hooks = 3};
    glia_collect *c;
    glia_err err;
    glia_node *node;
    for (size_t n = 1;; n++) { /* every allocation of new */
        glia_fault_arm(n);
        bool ok = glia_collect_new(&c, &r), fired = glia_fault_fired();
        glia_fault_arm(0);
        if (!fired) break;
        assert_false(ok);
        assert_null(c);
    }
    assert_null(glia_collect_sums(c, 0));
    for (int p = 0; p < 6; p++) {
        const float row[2] = {(float)p, 1};
        uint32_t phase = p < 4 ? GLIA_PHASE_PROMPT : GLIA_PHASE_GENERATED;
        glia_collect_begin(c);
        glia_sums_add(glia_collect_sums(c, 1), row); /* a pass that did not hold */
        glia_collect_begin(c);
        glia_sums_add(glia_collect_sums(c, 1), row);
        if (p % 2) glia_sums_add(glia_collect_sums(c, 2), row);
        glia_collect_keep(c, phase);
        glia_collect_keep(c, phase); /* nothing is counted twice */
        if (p != 3 && p != 5) continue;
        for (size_t n = 1; n <= 3; n++) {
            glia_fault_arm(n);
            glia_status st = glia_collect_finish(c, phase, tokens, p + 1, &node, &err);
            bool fired = glia_fault_fired();
            glia_fault_arm(0);
            assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
            assert_int_equal(fired, n < 3);
            if (fired) continue;
            const glia_event *ev = glia_node_event(node);
            const glia_frame *f = ev->u.activations.frames;
            assert_int_equal(ev->u.activations.n_frames, p == 3 ? 1 : 2);
            assert_true(f->hook == 1 && f->phase == phase && f->n_rows == 1 && f->reduce == GLIA_REDUCE_MEAN);
            assert_int_equal(f->n_positions, p == 3 ? 4 : 2);
            assert_int_equal(f->positions[0], p == 3 ? 0 : 4);
            assert_int_equal(f->token_ids[1], p == 3 ? 11 : 15);
            assert_true(f->data[0] == (p == 3 ? 1.5f : 4.5f));
            if (p == 5) {
                assert_true(f[1].hook == 2 && f[1].phase == GLIA_PHASE_ALL && f[1].n_positions == 3);
                assert_true(f[1].positions[2] == 5 && f[1].token_ids[0] == 11 && f[1].data[0] == 3);
            }
            glia_node_free(node);
        }
    }
    glia_collect_begin(c); /* a row too many is no answer */
    glia_sums_add(glia_collect_sums(c, 2), x[0]);
    glia_collect_keep(c, GLIA_PHASE_GENERATED);
    assert_int_equal(glia_collect_finish(c, GLIA_PHASE_GENERATED, tokens, 6, &node, &err), GLIA_EUNPROVEN);
    assert_null(node);
    glia_collect_free(c);
    r.n_hooks = 1; /* nothing to collect */
    assert_true(glia_collect_new(&c, &r));
    assert_null(c);
    glia_collect_begin(c), glia_collect_keep(c, GLIA_PHASE_PROMPT), glia_collect_free(c);
}

/* ------------------------------------------------------------------ through the engine */

enum { N_PROMPT = 21, N_OUT = 6, PER_POINT = 12 };
static float directions[3 * 512]; /* [3, width of a row] */

static const glia_range some_channels = {3, -2}, some_rows = {4, 24};
static const int32_t picked_channels[] = {9, 2, 2};

/* Hook 0 of a group: the rows themselves.  The others are computed from it. */
static size_t group(glia_hook *h, glia_point p, int32_t layer, int32_t width) {
    for (size_t i = 0; i < PER_POINT; i++) h[i] = (glia_hook){.point = p, .layer = layer, .phases = GLIA_PHASE_ALL};
    h[1].reduce.op = GLIA_REDUCE_MEAN;
    h[2].reduce.op = GLIA_REDUCE_VAR, h[2].reduce.across_phases = true;
    h[3].reduce.op = GLIA_REDUCE_MAX, h[3].phases = GLIA_PHASE_PROMPT;
    h[4].reduce.op = GLIA_REDUCE_NORM, h[4].phases = GLIA_PHASE_GENERATED;
    h[5].reduce.op = GLIA_REDUCE_ROW_NORM;
    h[6].reduce.op = GLIA_REDUCE_TOPK, h[6].reduce.k = 5;
    h[7].reduce.op = GLIA_REDUCE_PROJECT;
    h[7].reduce.directions = directions, h[7].reduce.n_directions = 3, h[7].reduce.n_channels = (size_t)width;
    h[8].channel_range = &some_channels;
    h[9].channels = picked_channels, h[9].n_channels = 3, h[9].range = &some_rows;
    h[10].reduce.op = GLIA_REDUCE_MEAN, h[10].range = &some_rows, h[10].channel_range = &some_channels;
    h[10].reduce.across_phases = true;
    h[11].reduce = h[7].reduce;
    return PER_POINT;
}

static void labels_are(const rows *g, int first, int last, const rows *all) {
    assert_int_equal(g->n_labels, last - first);
    for (int i = 0; i < g->n_labels; i++) {
        assert_int_equal(g->pos[i], first + i);
        assert_int_equal(g->tok[i], all->tok[first + i]);
    }
}

static void check_over_rows(const rows *g, const rows *all, glia_reduce_op op, int row, int first, int last, int c0,
                            int n_channels) {
    const float *data = all->data + (size_t)first * (size_t)all->width;
    assert_int_equal(g->width, n_channels);
    for (int k = 0; k < n_channels; k++) {
        double want = want_over_rows(op, data, all->width, last - first, c0 + k);
        check_close((double)g->data[(size_t)row * (size_t)n_channels + (size_t)k], want, 1e-6, glia_reduce_name(op));
    }
}

static void check_group(const rows *h) {
    const rows *all = &h[0];
    int w = all->width, end = N_PROMPT + N_OUT - 1;
    assert_int_equal(all->n, end);
    labels_are(all, 0, end, all);
    assert_int_equal(h[1].n, 2);
    labels_are(&h[1], 0, end, all);
    check_over_rows(&h[1], all, GLIA_REDUCE_MEAN, 0, 0, N_PROMPT, 0, w);
    check_over_rows(&h[1], all, GLIA_REDUCE_MEAN, 1, N_PROMPT, end, 0, w);
    assert_true(h[2].n == 1 && h[2].phases == GLIA_PHASE_ALL);
    labels_are(&h[2], 0, end, all);
    check_over_rows(&h[2], all, GLIA_REDUCE_VAR, 0, 0, end, 0, w);
    assert_true(h[3].n == 1 && h[3].phases == GLIA_PHASE_PROMPT);
    labels_are(&h[3], 0, N_PROMPT, all);
    check_over_rows(&h[3], all, GLIA_REDUCE_MAX, 0, 0, N_PROMPT, 0, w);
    assert_true(h[4].n == 1 && h[4].phases == GLIA_PHASE_GENERATED);
    labels_are(&h[4], N_PROMPT, end, all);
    check_over_rows(&h[4], all, GLIA_REDUCE_NORM, 0, N_PROMPT, end, 0, w);
    labels_are(&h[10], 4, 24, all);
    check_over_rows(&h[10], all, GLIA_REDUCE_MEAN, 0, 4, 24, 3, w - 5);
    labels_are(&h[9], 4, 24, all);
    assert_true(h[5].width == 1 && h[6].width == 5 && h[7].width == 3 && h[8].width == w - 5 && h[9].width == 3);
    for (int i = 0; i < end; i++) {
        const float *row = all->data + (size_t)i * (size_t)w;
        long double norm = 0, dot[3] = {0};
        for (int k = 0; k < w; k++) {
            norm += (long double)row[k] * (long double)row[k];
            for (int d = 0; d < 3; d++) dot[d] += (long double)row[k] * (long double)directions[d * w + k];
        }
        check_close((double)h[5].data[i], (double)sqrtl(norm), 0, "row_norm");
        for (int d = 0; d < 3; d++) {
            check_close((double)h[7].data[i * 3 + d], (double)dot[d], (double)sqrtl(norm), "project");
            assert_true(h[11].data[i * 3 + d] == h[7].data[i * 3 + d]);
        }
        for (int k = 0; k < 5; k++) {
            int at = h[6].idx[i * 5 + k], larger = 0;
            assert_true(at >= 0 && at < w && h[6].data[i * 5 + k] == row[at]);
            for (int c = 0; c < w; c++) larger += row[c] > row[at] || (row[c] == row[at] && c < at);
            assert_int_equal(larger, k);
        }
        assert_memory_equal(h[8].data + (size_t)i * (size_t)(w - 5), row + 3, (size_t)(w - 5) * sizeof *row);
        if (i < 4 || i >= 24) continue;
        for (int k = 0; k < 3; k++) assert_true(h[9].data[(i - 4) * 3 + k] == row[picked_channels[k]]);
    }
}

/* Every point of the last layer (where rows are cut to outputs) and of the one before. */
static size_t all_groups(const glia_model *m, glia_hook *h) {
    size_t n = 0;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int layer = 1; layer <= (glia_point_has_layer((glia_point)p) ? 2 : 1); layer++) {
            glia_point_info pi;
            if (!glia_model_point(m, (glia_point)p, layer, &pi) || pi.grade < GLIA_GRADE_STRUCTURAL) continue;
            if (p == GLIA_POINT_ATTN_SCORES || p == GLIA_POINT_ATTN_PROBS || pi.width < 10) continue;
            n += group(h + n, (glia_point)p, layer, pi.width);
        }
    }
    return n;
}

static int32_t prompt[N_PROMPT];
static glia_hook hooks[4 * GLIA_N_POINTS * PER_POINT];

static void every_point_reduces_to_what_its_rows_say_at_every_chunk_size(void **s) {
    (void)s;
    static const char *const families[] = {"llama", "gemma3", "gpt2"};
    for (int i = 0; i < 3 * 512; i++) directions[i] = uniform();
    for (int i = 0; i < N_PROMPT; i++) prompt[i] = 40 + (i * 7) % 60;
    for (int f = 0; f < 3; f++) {
        glia_model *m = open_model(tiny_model(families[f]), 1, 64, 32);
        for (int chunk = 1; chunk <= N_PROMPT; chunk++) {
            glia_request_params p = greedy(prompt, N_PROMPT, N_OUT);
            p.hooks = hooks, p.n_hooks = all_groups(m, hooks), p.prompt_chunk = chunk;
            assert_true(p.n_hooks > 20 * PER_POINT);
            result *r = run_request(m, &p);
            if (r->err.status) fail_msg("chunk %d: %s", chunk, r->err.message);
            for (size_t h = 0; h < p.n_hooks; h += PER_POINT) check_group(&r->hook[h]);
            result_free(r);
        }
        glia_model_close(m);
    }
}

static void heads_are_chosen_before_channels(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 32);
    const int32_t heads[] = {3, 1}, channels[] = {0, 16, 31};
    glia_hook h[4] = {{.point = GLIA_POINT_Z, .layer = 1, .phases = GLIA_PHASE_PROMPT}};
    for (int i = 1; i < 4; i++) h[i] = h[0], h[i].heads = heads, h[i].n_heads = 2;
    h[2].channels = channels, h[2].n_channels = 3;
    h[3].reduce.op = GLIA_REDUCE_MAX;
    glia_request_params p = greedy(prompt, N_PROMPT, 0);
    p.hooks = h, p.n_hooks = 4;
    result *r = run_request(m, &p);
    assert_true(r->hook[3].n_heads == 2 && r->hook[2].n_heads == 0 && r->hook[1].n_heads == 2);
    for (int i = 0; i < N_PROMPT; i++) {
        const float *row = r->hook[0].data + i * 64, *got = r->hook[2].data + i * 3;
        assert_true(got[0] == row[48] && got[1] == row[16] && got[2] == row[31]);
    }
    check_over_rows(&r->hook[3], &r->hook[1], GLIA_REDUCE_MAX, 0, 0, N_PROMPT, 0, 32);
    result_free(r);
    glia_model_close(m);
}

static void reductions_count_only_what_they_deliver(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 32);
    glia_hook h = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL};
    glia_request_params p = greedy(prompt, N_PROMPT, N_OUT);
    uint64_t bytes, n = N_PROMPT + N_OUT - 1;
    glia_err err;
    p.hooks = &h, p.n_hooks = 1;
    const struct {
        glia_reduce reduce;
        uint64_t bytes;
    } table[] = {
        {{.op = GLIA_REDUCE_NONE}, n * (64 * 4 + 8)},
        {{.op = GLIA_REDUCE_MEAN}, 2 * 64 * 4 + n * 8},
        {{.op = GLIA_REDUCE_MEAN, .across_phases = true}, 64 * 4 + n * 8},
        {{.op = GLIA_REDUCE_ROW_NORM}, n * (4 + 8)},
        {{.op = GLIA_REDUCE_TOPK, .k = 3}, n * (3 * 8 + 8)},
        {{.op = GLIA_REDUCE_PROJECT, .directions = directions, .n_directions = 2, .n_channels = 64}, n * (2 * 4 + 8)},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        h.reduce = table[i].reduce;
        assert_int_equal(glia_request_capture_bytes(m, &p, &bytes, &err), GLIA_OK);
        assert_int_equal(bytes, table[i].bytes);
    }
    glia_model_close(m);
}

static void what_makes_no_sense_is_refused_with_the_reason(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 32);
    static const int32_t far[] = {64};
    static const glia_range empty = {5, 5}, beyond = {0, 65}, before = {-22, 3}, late = {64, GLIA_RANGE_END},
                            wide = {60, 65}, fine = {-1, GLIA_RANGE_END};
    static const int64_t pos[] = {0};
    static const float bad[64] = {[63] = INFINITY};
    static const struct {
        glia_hook h;
        const char *says;
    } table[] = {
        {{.reduce = {.op = GLIA_N_REDUCE_OPS}}, "no such reduction"},
        {{.reduce = {.op = GLIA_REDUCE_TOPK}}, "k must be 1 to 64"},
        {{.reduce = {.op = GLIA_REDUCE_TOPK, .k = 65}}, "k must be 1 to 64"},
        {{.reduce = {.op = GLIA_REDUCE_TOPK, .k = 2}, .channels = far, .n_channels = 1}, "channels 0 to 63"},
        {{.reduce = {.op = GLIA_REDUCE_ROW_NORM, .across_phases = true}}, "does not reduce over rows"},
        {{.reduce = {.op = GLIA_REDUCE_PROJECT}}, "needs 1 to"},
        {{.reduce = {.op = GLIA_REDUCE_PROJECT, .directions = bad, .n_directions = 1, .n_channels = 63}},
         "have 63 values each, the rows 64"},
        {{.reduce = {.op = GLIA_REDUCE_PROJECT, .directions = bad, .n_directions = 1, .n_channels = 64}}, "not finite"},
        {{.channels = far}, "1 to 64 channels"},
        {{.channels = far, .n_channels = 1, .channel_range = &fine}, "not both"},
        {{.channel_range = &wide}, "leaves the channels 0 to 63"},
        {{.range = &fine, .positions = pos, .n_positions = 1}, "not both"},
        {{.range = &empty}, "`to` is exclusive"},
        {{.range = &beyond}, "leaves the positions 0 to 63"},
        {{.range = &before}, "leaves the positions"},
        {{.range = &late}, "leaves the positions"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        glia_hook h = table[i].h;
        glia_request *r;
        glia_err err;
        glia_request_params p = greedy(prompt, N_PROMPT, N_OUT);
        h.point = GLIA_POINT_RESID_POST, h.layer = 1, h.phases = GLIA_PHASE_ALL;
        p.hooks = &h, p.n_hooks = 1;
        assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EINVAL);
        assert_string_equal(err.param, "activation_hooks[0]");
        if (!strstr(err.message, table[i].says)) fail_msg("%s", err.message);
    }
    glia_model_close(m);
}

static void every_failing_allocation_of_submit_is_an_error(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 32);
    glia_hook h[3] = {{.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL}};
    h[0].channels = picked_channels, h[0].n_channels = 3;
    h[0].reduce =
        (glia_reduce){.op = GLIA_REDUCE_PROJECT, .directions = directions, .n_directions = 7, .n_channels = 3};
    h[1] = h[2] = h[0];
    h[2].channels = NULL, h[2].channel_range = &some_channels;
    h[2].reduce = (glia_reduce){.op = GLIA_REDUCE_VAR};
    glia_request_params p = greedy(prompt, N_PROMPT, 2);
    p.hooks = h, p.n_hooks = 3;
    for (size_t n = 1;; n++) {
        glia_request *r;
        glia_err err;
        glia_fault_arm(n);
        glia_status st = glia_request_submit(&r, m, &p, &err);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        assert_int_equal(st == GLIA_OK, r != NULL);
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
        if (r) result_free(drain(r, 3));
        glia_request_free(r);
        if (fired) continue;
        assert_true(n > 6);
        break;
    }
    glia_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_size_gives_the_statistics_of_all_rows),
        cmocka_unit_test(variance_of_a_large_and_nearly_constant_channel_keeps_its_digits),
        cmocka_unit_test(one_row_is_its_own_statistic),
        cmocka_unit_test(nan_is_never_hidden),
        cmocka_unit_test(topk_is_the_head_of_the_sorted_row),
        cmocka_unit_test(rows_are_cut_normed_and_projected),
        cmocka_unit_test(collected_rows_carry_the_labels_of_what_went_in),
        cmocka_unit_test(every_point_reduces_to_what_its_rows_say_at_every_chunk_size),
        cmocka_unit_test(heads_are_chosen_before_channels),
        cmocka_unit_test(reductions_count_only_what_they_deliver),
        cmocka_unit_test(what_makes_no_sense_is_refused_with_the_reason),
        cmocka_unit_test(every_failing_allocation_of_submit_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

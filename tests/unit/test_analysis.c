/* tests/unit/test_analysis.c — src/analysis: statistics and attention patterns against numbers known from elsewhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "analysis/contrast.h"
#include "analysis/lens.h"
#include "analysis/patterns.h"
#include "analysis/probe.h"
#include "analysis/sae.h"
#include "analysis/stats.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

static void near_to(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("got %.12g, want %.12g", got, want);
}

/* ------------------------------------------------------------------ statistics */

/* R: p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.5), …) */
static void adjusted_p_are_those_of_R(void **state) {
    (void)state;
    static const double raw[5] = {0.01, 0.04, 0.03, 0.005, 0.5};
    static const struct {
        glia_correction c;
        double want[5];
    } cases[] = {{GLIA_CORRECT_NONE, {0.01, 0.04, 0.03, 0.005, 0.5}},
                 {GLIA_CORRECT_BONFERRONI, {0.05, 0.2, 0.15, 0.025, 1}},
                 {GLIA_CORRECT_HOLM, {0.04, 0.09, 0.09, 0.025, 0.5}},
                 {GLIA_CORRECT_BH, {0.025, 0.05, 0.05, 0.025, 0.5}}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        double p[6];
        size_t order[6];
        memcpy(p, raw, sizeof raw);
        p[5] = NAN; /* not counted */
        glia_adjust_p(p, 6, cases[k].c, order);
        for (size_t i = 0; i < 5; i++) near_to(p[i], cases[k].want[i], 1e-12);
        assert_true(isnan(p[5]));
    }
}

static void sign_flips_count_every_pattern_or_draw(void **state) {
    (void)state;
    glia_rng g = {1};
    bool exact;
    static const double three[] = {1, 2, 3}, mixed[] = {1, -2, 3};
    near_to(glia_sign_flip_p(three, 3, 8, &g, &exact), 2.0 / 8, 1e-12); /* +++ and --- */
    assert_true(exact);
    near_to(glia_sign_flip_p(mixed, 3, 8, &g, &exact), 6.0 / 8, 1e-12); /* |sum| ≥ 2: all but ±(1 + 2 - 3) */
    double x[40];
    for (size_t i = 0; i < 40; i++) x[i] = 1 + 0.1 * (double)i;
    near_to(glia_sign_flip_p(x, 40, 999, &g, &exact), 1.0 / 1000, 1e-12);
    assert_false(exact);
    near_to(glia_sign_flip_least(3, 8), 0.25, 1e-12);
    near_to(glia_sign_flip_least(40, 999), 0.001, 1e-12);
    assert_true(isnan(glia_sign_flip_p(x, 0, 99, &g, NULL)));
}

/* Under the null, p ≤ 0.1 in a tenth of the cases: that is what a p-value promises. */
static void sign_flip_p_is_uniform_when_nothing_is_there(void **state) {
    (void)state;
    glia_rng g = {42};
    size_t n_low = 0, n = 2000;
    for (size_t k = 0; k < n; k++) {
        double x[12];
        for (size_t i = 0; i < 12; i++) x[i] = glia_rng_unit(&g) - 0.5;
        n_low += glia_sign_flip_p(x, 12, 199, &g, NULL) <= 0.1;
    }
    near_to((double)n_low / (double)n, 0.1, 0.02); /* three standard errors */
}

static void bootstrap_interval_covers_the_mean_as_often_as_it_says(void **state) {
    (void)state;
    glia_rng g = {7};
    static double means[400];
    size_t covered = 0, n = 500;
    for (size_t k = 0; k < n; k++) {
        double x[60], low, high;
        for (size_t i = 0; i < 60; i++) x[i] = glia_rng_unit(&g);
        glia_bootstrap_mean(x, 60, 400, 0.9, &g, means, &low, &high);
        covered += low <= 0.5 && 0.5 <= high;
    }
    near_to((double)covered / (double)n, 0.9, 0.05);
}

static void auc_counts_pairs_and_halves_ties(void **state) {
    (void)state;
    static const double score[] = {0.1, 0.4, 0.35, 0.8, 0.4};
    static const bool positive[] = {false, false, true, true, true};
    size_t order[5];
    near_to(glia_auc(score, positive, 5, order), (0.5 + 1 + 1 + 1 + 1 + 0) / 6, 1e-12);
    assert_true(isnan(glia_auc(score, positive, 2, order)));
}

/* ------------------------------------------------------------------ patterns */

enum { N = 24, HALF = 11 };

/* Position 0, then eleven different tokens twice, one more. */
static void make_tokens(int32_t t[N]) {
    t[0] = 1000;
    for (int32_t i = 0; i < HALF; i++) t[1 + i] = t[1 + HALF + i] = 10 + i;
    t[N - 1] = 2000;
}

typedef size_t target(const int32_t *t, size_t q);
static size_t before(const int32_t *t, size_t q) { return (void)t, q ? q - 1 : 0; }
static size_t first(const int32_t *t, size_t q) { return (void)t, (void)q, 0; }
static size_t three_back(const int32_t *t, size_t q) { return (void)t, q > 3 ? q - 3 : 0; }
static size_t same(const int32_t *t, size_t q) {
    for (size_t k = 0; k < q; k++) {
        if (t[k] == t[q]) return k;
    }
    return 0;
}
static size_t behind_same(const int32_t *t, size_t q) {
    size_t k = same(t, q);
    return t[k] == t[q] && k < q ? k + 1 : 0;
}
static size_t comma(const int32_t *t, size_t q) { return (void)t, q > 5 ? 5 : 0; }

/* share of the row on its target, the rest evenly over what it sees */
static void make_attention(float a[N * N], const int32_t *t, target *at, double share) {
    memset(a, 0, N * N * sizeof *a);
    for (size_t q = 0; q < N; q++) {
        for (size_t k = 0; k <= q; k++) a[q * N + k] = (float)((1 - share) / (double)(q + 1));
        a[q * N + at(t, q)] += (float)share;
    }
}

static void judge(const float *a, const int32_t *t, const bool *punctuation, glia_head_verdict *out) {
    glia_targets *targets;
    glia_head_rows *rows;
    assert_int_equal(glia_targets_new(&targets, t, punctuation, N, true, NULL), GLIA_OK);
    assert_int_equal(glia_head_rows_new(&rows, NULL), GLIA_OK);
    assert_int_equal(glia_head_rows_add(rows, targets, a, N, NULL), GLIA_OK);
    glia_pattern_params p = {.min_excess = 0.3, .n_boot = 50, .n_perm = 49, .seed = 3};
    assert_int_equal(glia_head_judge(rows, &p, out, NULL), GLIA_OK);
    glia_head_rows_free(rows);
    glia_targets_free(targets);
}

static void heads_that_do_one_thing_are_named_for_it(void **state) {
    (void)state;
    static const struct {
        target *at;
        glia_pattern name;
    } cases[] = {{before, GLIA_PATTERN_PREVIOUS_TOKEN}, {first, GLIA_PATTERN_FIRST_TOKEN},
                 {same, GLIA_PATTERN_DUPLICATE_TOKEN},  {behind_same, GLIA_PATTERN_INDUCTION},
                 {three_back, GLIA_PATTERN_POSITIONAL}, {comma, GLIA_PATTERN_PUNCTUATION}};
    int32_t t[N];
    float a[N * N];
    bool punctuation[N] = {0};
    punctuation[5] = true;
    make_tokens(t);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        glia_head_verdict v;
        make_attention(a, t, cases[i].at, 0.8);
        judge(a, t, punctuation, &v);
        if (v.name != cases[i].name)
            fail_msg("a head of %s is called %s", glia_pattern_name(cases[i].name), glia_pattern_name(v.name));
        assert_true(v.confidence > 0.9);
        /* share s on the target and the rest evenly: the excess is s */
        if (cases[i].name != GLIA_PATTERN_PUNCTUATION) near_to(v.patterns[v.name].excess, 0.8, 1e-5);
        assert_true(v.patterns[v.name].p <= 0.021);
        if (v.name == GLIA_PATTERN_POSITIONAL) assert_int_equal(v.distance, 3);
    }
}

static void even_attention_is_broadcast_and_like_chance_everywhere(void **state) {
    (void)state;
    int32_t t[N];
    float a[N * N];
    glia_head_verdict v;
    make_tokens(t);
    make_attention(a, t, first, 0);
    judge(a, t, NULL, &v);
    assert_int_equal(v.name, GLIA_PATTERN_BROADCAST);
    near_to(v.patterns[GLIA_PATTERN_BROADCAST].excess, 1, 1e-5);
    for (int p = 0; p < GLIA_PATTERN_PUNCTUATION; p++) {
        near_to(v.patterns[p].excess, 0, 1e-6);
        assert_true(v.patterns[p].p > 0.5);
    }
    assert_int_equal(v.patterns[GLIA_PATTERN_PUNCTUATION].n_rows, 0);
    assert_true(isnan(v.patterns[GLIA_PATTERN_PUNCTUATION].score));
}

/* TransformerLens' prefix-matching score on this sequence: rows of the second half to the position behind their first. */
static void scores_are_the_mean_attention_on_the_targets(void **state) {
    (void)state;
    int32_t t[N];
    float a[N * N];
    glia_head_verdict v;
    double want = 0;
    glia_rng g = {5};
    make_tokens(t);
    for (size_t q = 0; q < N; q++) {
        double sum = 0;
        for (size_t k = 0; k < N; k++) a[q * N + k] = k <= q ? (float)glia_rng_unit(&g) : 0;
        for (size_t k = 0; k <= q; k++) sum += (double)a[q * N + k];
        for (size_t k = 0; k <= q; k++) a[q * N + k] /= (float)sum;
    }
    for (size_t i = 0; i < HALF; i++) want += (double)a[(1 + HALF + i) * N + 2 + i] / HALF;
    judge(a, t, NULL, &v);
    near_to(v.patterns[GLIA_PATTERN_INDUCTION].score, want, 1e-6);
    assert_int_equal(v.patterns[GLIA_PATTERN_INDUCTION].n_rows, HALF);
}

/* An induction head rests on the first token wherever nothing repeats: the rows where it could act decide. */
static void an_induction_head_that_mostly_rests_is_still_one(void **state) {
    (void)state;
    int32_t t[N];
    float a[N * N];
    glia_head_verdict v;
    make_tokens(t);
    make_attention(a, t, behind_same, 0.9);
    judge(a, t, NULL, &v);
    assert_true(v.patterns[GLIA_PATTERN_FIRST_TOKEN].excess > 0.3);
    assert_int_equal(v.name, GLIA_PATTERN_INDUCTION);
}

static void rollout_multiplies_half_attention_half_identity(void **state) {
    (void)state;
    static const float a[4] = {1, 0, 0.5f, 0.5f}, b[4] = {1, 0, 1, 0};
    float r[4] = {1, 0, 0, 1}, scratch[4];
    glia_rollout_step(a, 2, r, scratch); /* [[1, 0], [.25, .75]] */
    glia_rollout_step(b, 2, r, scratch); /* [[1, 0], [.5, .5]] times it */
    near_to((double)r[2], 0.5 * 1 + 0.5 * 0.25, 1e-6);
    near_to((double)r[3], 0.375, 1e-6);
}

/* ------------------------------------------------------------------ linear models */

static void fill_rows(float *x, size_t n, size_t d, uint64_t seed) {
    glia_rng g = {seed};
    for (size_t i = 0; i < n * d; i++) x[i] = (float)(glia_rng_unit(&g) - 0.5) * (float)(1 + i % d);
}

static void a_span_is_the_rows_in_rotated_coordinates(void **state) {
    (void)state;
    static float x[30 * 12];
    static const size_t shapes[][2] = {{30, 12}, {12, 30}, {5, 12}};
    for (size_t k = 0; k < 3; k++) {
        size_t n = shapes[k][0], d = shapes[k][1];
        glia_span s;
        fill_rows(x, n, d, k + 1);
        assert_int_equal(glia_span_make(&s, x, n, d, NULL), GLIA_OK);
        assert_int_equal(s.r, n - 1 < d ? n - 1 : d);
        for (size_t i = 0; i < n * d; i++) {
            double y = s.mean[i % d];
            for (size_t j = 0; j < s.r; j++) y += s.z[i / d * s.r + j] * s.basis[j * d + i % d];
            near_to(y, (double)x[i], 1e-9);
        }
        for (size_t i = 0; i < s.r; i++) {
            double own = 0;
            for (size_t r = 0; r < n; r++) own += s.z[r * s.r + i] * s.z[r * s.r + i] / (double)n;
            near_to(own, s.variance[i], 1e-9);
            assert_true(!i || s.variance[i] <= s.variance[i - 1] + 1e-12);
            for (size_t j = 0; j <= i; j++) {
                double dot = 0;
                for (size_t c = 0; c < d; c++) dot += s.basis[i * d + c] * s.basis[j * d + c];
                near_to(dot, i == j, 1e-9);
            }
        }
        glia_span_clear(&s);
    }
    float same[6] = {1, 2, 1, 2, 1, 2};
    glia_span s;
    assert_int_equal(glia_span_make(&s, same, 3, 2, NULL), GLIA_OK);
    assert_int_equal(s.r, 0);
    glia_span_clear(&s);
    assert_int_equal(glia_span_make(&s, same, 1, 2, NULL), GLIA_EINVAL);
}

static void a_contrast_is_the_share_of_pairs_and_counts_the_search(void **state) {
    (void)state;
    enum { ROWS = 16, COLUMNS = 40 };
    static float x[ROWS * COLUMNS];
    bool positive[ROWS];
    size_t n_low = 0;
    for (size_t i = 0; i < ROWS; i++) positive[i] = i % 2;
    for (uint64_t k = 0; k < 60; k++) { /* nothing there: the best of 40 columns is rarely better than by chance */
        glia_contrast c;
        glia_rng g = {k};
        fill_rows(x, ROWS, COLUMNS, 100 + k);
        assert_int_equal(glia_contrast_columns(&c, x, positive, ROWS, COLUMNS, 49, &g, NULL), GLIA_OK);
        n_low += c.p <= 0.1;
        glia_contrast_clear(&c);
    }
    assert_true(n_low <= 14); /* 6 expected, deviation 2.3 */
    glia_contrast c;
    glia_rng g = {1};
    for (size_t i = 0; i < ROWS; i++) x[i * COLUMNS + 7] = (float)positive[i] * 9;
    assert_int_equal(glia_contrast_columns(&c, x, positive, ROWS, COLUMNS, 99, &g, NULL), GLIA_OK);
    assert_int_equal(c.order[0], 7);
    near_to(c.auc[7], 1, 1e-12);
    assert_true(c.p <= 0.05);
    for (size_t j = 0; j < COLUMNS; j += 13) {
        double pairs = 0;
        for (size_t a = 0; a < ROWS; a++) {
            for (size_t b = 0; b < ROWS; b++) {
                float p = x[a * COLUMNS + j], q = x[b * COLUMNS + j];
                if (positive[a] && !positive[b]) pairs += p > q ? 1 : p < q ? 0 : 0.5;
            }
        }
        near_to(c.auc[j], pairs / 64, 1e-9);
    }
    glia_contrast_clear(&c);
}

static void latents_are_those_of_their_activation(void **state) {
    (void)state;
    static const float w[2 * 3] = {1, 2, -1, 0, 1, 1}, b[3] = {0.5f, -1, 0}, dec[2] = {1, 0}, threshold[3] = {1, 1, 1},
                             x[2] = {2, 1};
    float out[3], scratch[2];
    glia_sae s = {.d = 2, .n = 3, .w_enc = w, .b_enc = b};
    glia_sae_encode(&s, x, 1, scratch, out); /* 2.5, 4, -1 */
    near_to((double)out[0], 2.5, 1e-6), near_to((double)out[1], 4, 1e-6), near_to((double)out[2], 0, 1e-6);
    s.b_dec = dec, s.subtract_b_dec = true;
    glia_sae_encode(&s, x, 1, scratch, out); /* 1.5, 2, 0 */
    near_to((double)out[0], 1.5, 1e-6), near_to((double)out[1], 2, 1e-6), near_to((double)out[2], 0, 1e-6);
    s.k = 1;
    glia_sae_encode(&s, x, 1, scratch, out);
    near_to((double)out[0], 0, 1e-6), near_to((double)out[1], 2, 1e-6);
    s.k = 0, s.threshold = threshold;
    s.b_enc = (const float[3]){0, -1.5f, 0}; /* 1, 1.5, 0: only what is above */
    glia_sae_encode(&s, x, 1, scratch, out);
    near_to((double)out[0], 0, 1e-6), near_to((double)out[1], 1.5, 1e-6);
}

static void a_folded_direction_reads_what_the_norm_would(void **state) {
    (void)state;
    static const float x[5] = {1, -2, 3, 0.5f, 2}, w[5] = {1, 2, 0.5f, 1, -1}, b[5] = {0.1f, 0, 0.2f, 0, 0},
                       u[5] = {2, 1, -1, 3, 1};
    for (int centred = 0; centred < 2; centred++) {
        glia_norm f = {w, b, 5, 1e-5, centred};
        float y[5];
        double reading[5], constant, want = 0;
        glia_norm_apply(&f, x, y);
        for (int i = 0; i < 5; i++) want += (double)u[i] * (double)y[i];
        glia_norm_fold(&f, u, reading, &constant);
        near_to(glia_norm_scale(&f, x) * glia_dot(reading, x, 5) + constant, want, 1e-5);
    }
}

static glia_status fit_all(const float *x, const double *y, const size_t *group, bool *made) {
    glia_span s = {0};
    glia_probe p = {0};
    glia_contrast c = {0};
    glia_rng g = {1};
    static const bool positive[8] = {true, false, true, false, true, false, true, false};
    glia_probe_params pp = {GLIA_PROBE_LOGISTIC, 1, 2, 3, 1, NULL, NULL};
    glia_status st = glia_span_make(&s, x, 8, 5, NULL);
    if (!st) st = glia_probe_fit(&p, &s, y, group, 8, &pp, NULL);
    if (!st) st = glia_contrast_columns(&c, x, positive, 8, 5, 3, &g, NULL);
    *made = s.z && p.direction && c.auc;
    glia_contrast_clear(&c);
    glia_probe_clear(&p);
    glia_span_clear(&s);
    return st;
}

static void every_failed_allocation_of_linear_models_is_an_error(void **state) {
    (void)state;
    static const double y[8] = {1, 0, 1, 0, 1, 0, 1, 0};
    static const size_t group[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    float x[40];
    bool made;
    fill_rows(x, 8, 5, 3);
    for (size_t n = 1;; n++) {
        glia_fault_arm(n);
        glia_status st = fit_all(x, y, group, &made);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
        if (!fired) break;
    }
    assert_true(made);
}

static void every_failed_allocation_is_an_error(void **state) {
    (void)state;
    int32_t t[N];
    float a[N * N];
    make_tokens(t);
    make_attention(a, t, before, 0.8);
    for (size_t n = 1;; n++) {
        glia_targets *targets = NULL;
        glia_head_rows *rows = NULL;
        glia_head_verdict v;
        glia_pattern_params p = {.min_excess = 0.3, .n_boot = 2, .n_perm = 2};
        glia_fault_arm(n);
        glia_status st = glia_targets_new(&targets, t, NULL, N, true, NULL);
        if (!st) st = glia_head_rows_new(&rows, NULL);
        if (!st) st = glia_head_rows_add(rows, targets, a, N, NULL);
        if (!st) st = glia_head_judge(rows, &p, &v, NULL);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        glia_head_rows_free(rows);
        glia_targets_free(targets);
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
        if (!fired) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adjusted_p_are_those_of_R),
        cmocka_unit_test(sign_flips_count_every_pattern_or_draw),
        cmocka_unit_test(sign_flip_p_is_uniform_when_nothing_is_there),
        cmocka_unit_test(bootstrap_interval_covers_the_mean_as_often_as_it_says),
        cmocka_unit_test(auc_counts_pairs_and_halves_ties),
        cmocka_unit_test(heads_that_do_one_thing_are_named_for_it),
        cmocka_unit_test(even_attention_is_broadcast_and_like_chance_everywhere),
        cmocka_unit_test(scores_are_the_mean_attention_on_the_targets),
        cmocka_unit_test(an_induction_head_that_mostly_rests_is_still_one),
        cmocka_unit_test(rollout_multiplies_half_attention_half_identity),
        cmocka_unit_test(every_failed_allocation_is_an_error),
        cmocka_unit_test(a_span_is_the_rows_in_rotated_coordinates),
        cmocka_unit_test(a_contrast_is_the_share_of_pairs_and_counts_the_search),
        cmocka_unit_test(latents_are_those_of_their_activation),
        cmocka_unit_test(a_folded_direction_reads_what_the_norm_would),
        cmocka_unit_test(every_failed_allocation_of_linear_models_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

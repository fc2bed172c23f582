/* analysis/stats.c — see stats.h. */
#include "analysis/stats.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

double glia_mean(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    return n ? sum / (double)n : (double)NAN;
}

double glia_variance(const double *x, size_t n) {
    double mean = glia_mean(x, n), sum = 0;
    for (size_t i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sum / (double)(n - 1) : (double)NAN;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

void glia_bootstrap_mean(const double *x, size_t n, size_t n_boot, double level, glia_rng *g, double *means,
                         double *low, double *high) {
    *low = *high = (double)NAN;
    if (!n || !n_boot || isnan(glia_mean(x, n))) return;
    for (size_t b = 0; b < n_boot; b++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += x[glia_rng_below(g, n)];
        means[b] = sum / (double)n;
    }
    qsort(means, n_boot, sizeof *means, by_value);
    double tail = (1 - level) / 2 * (double)n_boot;
    size_t cut = (size_t)tail;
    if (cut >= n_boot) cut = n_boot - 1;
    *low = means[cut], *high = means[n_boot - 1 - cut];
}

/* ------------------------------------------------------------------ signs */

static bool is_exact(size_t n, size_t n_perm) { return n < 63 && ((uint64_t)1 << n) <= n_perm; }

double glia_sign_flip_least(size_t n, size_t n_perm) {
    if (!n) return (double)NAN;
    /* all plus and all minus are equally extreme; a random draw hits these two rarely */
    return is_exact(n, n_perm) ? 2.0 / (double)((uint64_t)1 << n) : 1.0 / (double)(n_perm + 1);
}

double glia_sign_flip_p(const double *x, size_t n, size_t n_perm, glia_rng *g, bool *exact) {
    bool all = is_exact(n, n_perm);
    if (exact) *exact = all;
    double sum = 0, scale = 0;
    for (size_t i = 0; i < n; i++) sum += x[i], scale += fabs(x[i]);
    if (!n || isnan(sum)) return (double)NAN;
    double limit = fabs(sum) - 1e-12 * scale; /* the same sum in another order is as extreme */
    size_t n_draws = all ? (size_t)1 << n : n_perm, n_extreme = 0;
    for (size_t d = 0; d < n_draws; d++) {
        double s = 0;
        uint64_t bits = d;
        for (size_t i = 0; i < n; i++) {
            if (!all && i % 64 == 0) bits = glia_rng_next(g);
            s += (bits >> (i % 64)) & 1 ? x[i] : -x[i];
        }
        n_extreme += fabs(s) >= limit;
    }
    return all ? (double)n_extreme / (double)n_draws : (double)(1 + n_extreme) / (double)(1 + n_draws);
}

/* ------------------------------------------------------------------ many tests at once */

static const char *const names[] = {"none", "bonferroni", "holm", "fdr_bh"};
const char *glia_correction_name(glia_correction c) { return names[c]; }

bool glia_correction_from_name(const char *name, glia_correction *out) {
    static const char *const more[] = {"fdr", "benjamini_hochberg", "bh"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(name, names[i])) return *out = (glia_correction)i, true;
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        if (!strcmp(name, more[i])) return *out = GLIA_CORRECT_BH, true;
    }
    return false;
}

/* Rising order of key[order[i]]: a heap sort, which needs no state beside its arguments. */
static void sift(const double *key, size_t *order, size_t at, size_t n) {
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && key[order[child]] < key[order[child + 1]]) child++;
        if (!(key[order[at]] < key[order[child]])) return;
        size_t t = order[at];
        order[at] = order[child], order[child] = t;
    }
}

static void sort_order(const double *key, size_t *order, size_t n) {
    for (size_t i = n / 2; i-- > 0;) sift(key, order, i, n);
    for (size_t end = n; end > 1; end--) {
        size_t t = order[0];
        order[0] = order[end - 1], order[end - 1] = t;
        sift(key, order, 0, end - 1);
    }
}

void glia_adjust_p(double *p, size_t n, glia_correction c, size_t *order) {
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isnan(p[i])) order[m++] = i;
    }
    sort_order(p, order, m);
    double run = c == GLIA_CORRECT_BH ? 1 : 0;
    for (size_t k = 0; k < m; k++) {
        size_t i = c == GLIA_CORRECT_BH ? m - 1 - k : k; /* BH steps up from the largest, Holm down from the smallest */
        double *x = &p[order[i]], q = *x;
        switch (c) {
        case GLIA_CORRECT_NONE: run = q; break;
        case GLIA_CORRECT_BONFERRONI: run = fmin(1, q * (double)m); break;
        case GLIA_CORRECT_HOLM: run = fmax(run, fmin(1, q * (double)(m - i))); break;
        case GLIA_CORRECT_BH: run = fmin(run, q * (double)m / (double)(i + 1)); break;
        }
        *x = run;
    }
}

double glia_auc(const double *score, const bool *positive, size_t n, size_t *order) {
    size_t n_pos = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(score[i])) return (double)NAN;
        order[i] = i, n_pos += positive[i];
    }
    if (!n_pos || n_pos == n) return (double)NAN;
    sort_order(score, order, n);
    double ranks = 0; /* of the positives, 1-based, ties share their mean */
    for (size_t i = 0, end; i < n; i = end) {
        size_t pos = 0;
        for (end = i; end < n && score[order[end]] <= score[order[i]]; end++) pos += positive[order[end]];
        ranks += (double)pos * ((double)(i + end + 1) / 2);
    }
    double p = (double)n_pos, q = (double)(n - n_pos);
    return (ranks - p * (p + 1) / 2) / (p * q);
}

/* analysis/probe.c — see probe.h. */
#include "analysis/probe.h"
#include "analysis/stats.h"
#include "base/err.h"
#include "base/mem.h"
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STEPS = 50 };

void glia_probe_clear(glia_probe *p) {
    glia_free(p->held_out);
    glia_free(p->direction);
    *p = (glia_probe){0};
}

typedef struct fitting {
    const glia_span *x;
    const glia_probe_params *p;
    const size_t *group;
    size_t n_groups;
    size_t *fold;     /* [n_groups] */
    bool *train;      /* [n] */
    double *w;        /* [r + 1] the last one is the intercept */
    double *a, *b;    /* [(r + 1)²], [r + 1] */
    double *s;        /* [n] */
    double *weighted; /* [n, r + 1] rows times the root of their weight */
} fitting;

static double score_row(const fitting *f, size_t i) {
    size_t r = f->x->r;
    return f->w[r] + cblas_ddot((int)r, f->x->z + i * r, 1, f->w, 1);
}

/* a = Σ weight · (z, 1)(z, 1)ᵀ + l2 on all but the intercept, over the training rows; weight NULL: 1. */
static void normal_matrix(fitting *f, const double *weight) {
    size_t r = f->x->r, m = r + 1, rows = 0;
    for (size_t i = 0; i < f->x->n; i++) {
        if (!f->train[i]) continue;
        double k = weight ? sqrt(weight[i]) : 1, *out = f->weighted + rows++ * m;
        for (size_t j = 0; j < r; j++) out[j] = k * f->x->z[i * r + j];
        out[r] = k;
    }
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)m, (int)rows, 1, f->weighted, (int)m, 0, f->a, (int)m);
    for (size_t j = 0; j < r; j++) f->a[j * m + j] += f->p->l2;
}

static bool fit_ridge(fitting *f, const double *y) {
    size_t r = f->x->r;
    normal_matrix(f, NULL);
    memset(f->b, 0, (r + 1) * sizeof *f->b);
    for (size_t i = 0; i < f->x->n; i++) {
        if (!f->train[i]) continue;
        cblas_daxpy((int)r, y[i], f->x->z + i * r, 1, f->b, 1);
        f->b[r] += y[i];
    }
    memcpy(f->w, f->b, (r + 1) * sizeof *f->w);
    return glia_solve_spd(f->a, f->w, r + 1);
}

static double logistic_loss(const fitting *f, const double *y) {
    double loss = 0;
    for (size_t i = 0; i < f->x->n; i++) {
        if (!f->train[i]) continue;
        double s = y[i] > 0.5 ? f->s[i] : -f->s[i];
        loss += s > 0 ? log1p(exp(-s)) : -s + log1p(exp(s));
    }
    return loss + f->p->l2 / 2 * cblas_ddot((int)f->x->r, f->w, 1, f->w, 1);
}

static void score_train(fitting *f) {
    for (size_t i = 0; i < f->x->n; i++) {
        if (f->train[i]) f->s[i] = score_row(f, i);
    }
}

/* Newton's method with steps halved until the loss falls; the loss is convex, so this is its minimum. */
static bool fit_logistic(fitting *f, const double *y, double *weight) {
    size_t r = f->x->r, m = r + 1;
    memset(f->w, 0, m * sizeof *f->w);
    score_train(f);
    double loss = logistic_loss(f, y);
    for (int step = 0; step < MAX_STEPS; step++) {
        memset(f->b, 0, m * sizeof *f->b);
        for (size_t i = 0; i < f->x->n; i++) {
            if (!f->train[i]) continue;
            double q = 1 / (1 + exp(-f->s[i]));
            weight[i] = fmax(q * (1 - q), 1e-12);
            cblas_daxpy((int)r, y[i] - q, f->x->z + i * r, 1, f->b, 1);
            f->b[r] += y[i] - q;
        }
        cblas_daxpy((int)r, -f->p->l2, f->w, 1, f->b, 1);
        normal_matrix(f, weight);
        if (!glia_solve_spd(f->a, f->b, m)) return false;
        double before = loss, k = 1;
        cblas_daxpy((int)m, k, f->b, 1, f->w, 1);
        score_train(f);
        while ((loss = logistic_loss(f, y)) > before && k > 1e-6) {
            cblas_daxpy((int)m, -k / 2, f->b, 1, f->w, 1);
            k /= 2;
            score_train(f);
        }
        if (!(before - loss > 1e-10 * (1 + fabs(loss)))) break;
    }
    return true;
}

static glia_status fit(fitting *f, const double *y, double *weight, glia_err *err) {
    bool good = f->p->kind == GLIA_PROBE_RIDGE ? fit_ridge(f, y) : fit_logistic(f, y, weight);
    return good ? GLIA_OK : glia_fail(err, GLIA_EINVAL, "the probe has no solution: raise l2");
}

/* Groups into folds: with one label each, label by label in turn, so that folds are alike; else at random. */
static void make_folds(fitting *f, const double *label_of_group, glia_rng *g, size_t *order) {
    size_t n = f->n_groups, next = 0;
    glia_rng_shuffle(g, order, n);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) {
            bool high = label_of_group && label_of_group[order[i]] > 0.5;
            if (high == (side == 1)) f->fold[order[i]] = next++ % f->p->n_folds;
        }
    }
}

static glia_status cross_validate(fitting *f, const double *y, double *weight, double *held_out, glia_err *err) {
    size_t n = f->x->n;
    for (size_t k = 0; k < f->p->n_folds; k++) {
        size_t n_train = 0;
        for (size_t i = 0; i < n; i++) n_train += f->train[i] = f->fold[f->group[i]] != k;
        if (n_train == n) continue;
        if (f->p->go_on && !f->p->go_on(f->p->ud)) return glia_fail(err, GLIA_ECANCELLED, "cancelled");
        glia_status st = fit(f, y, weight, err);
        if (st) return st;
        for (size_t i = 0; i < n; i++) {
            if (!f->train[i]) held_out[i] = score_row(f, i);
        }
    }
    return GLIA_OK;
}

static double score_of(const glia_probe *o, glia_probe_kind kind, const double *y, const double *s, size_t n) {
    double mean = glia_mean(y, n), rest = 0, all = 0;
    size_t right = 0;
    for (size_t i = 0; i < n; i++) {
        double limit = kind == GLIA_PROBE_LOGISTIC ? 0 : 0.5;
        right += (s[i] > limit) == (y[i] > 0.5);
        rest += (y[i] - s[i]) * (y[i] - s[i]), all += (y[i] - mean) * (y[i] - mean);
    }
    return o->binary ? (double)right / (double)n : 1 - rest / all;
}

/* ------------------------------------------------------------------ permutations */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static glia_status permute(fitting *f, glia_probe *out, const double *y, double *label_of_group, double *weight,
                           glia_rng *g, size_t *order, glia_err *err) {
    size_t n = f->x->n, n_perm = f->p->n_perm, reached = 0;
    double *moved = glia_malloc(n * sizeof *moved), *s = glia_malloc(n * sizeof *s),
           *null = glia_malloc((n_perm + 1) * sizeof *null);
    double *labels = glia_malloc(f->n_groups * sizeof *labels);
    glia_status st = moved && s && null && labels ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for permutations");
    for (size_t k = 0; k < n_perm && !st; k++) {
        glia_rng_shuffle(g, order, label_of_group ? f->n_groups : n);
        for (size_t i = 0; label_of_group && i < f->n_groups; i++) labels[i] = label_of_group[order[i]];
        for (size_t i = 0; i < n; i++) moved[i] = label_of_group ? labels[f->group[i]] : y[order[i]];
        size_t *folds = order; /* may be overwritten now */
        make_folds(f, label_of_group ? labels : NULL, g, folds);
        st = cross_validate(f, moved, weight, s, err);
        null[k] = st ? 0 : score_of(out, f->p->kind, moved, s, n);
        reached += null[k] >= out->score;
    }
    if (!st) {
        qsort(null, n_perm, sizeof *null, by_value);
        out->null_mean = glia_mean(null, n_perm), out->null_high = null[(size_t)(0.95 * (double)(n_perm - 1))];
        out->p = (double)(1 + reached) / (double)(1 + n_perm);
    }
    glia_free(moved);
    glia_free(s);
    glia_free(null);
    glia_free(labels);
    return st;
}

/* ------------------------------------------------------------------ all of it */

/* One label a group, or false. */
static bool labels_of_groups(const double *y, const size_t *group, size_t n, double *out, size_t n_groups) {
    for (size_t i = 0; i < n_groups; i++) out[i] = (double)NAN;
    for (size_t i = 0; i < n; i++) {
        double *at = &out[group[i]];
        if (!isnan(*at) && *at != y[i]) return false;
        *at = y[i];
    }
    return true;
}

static glia_status check(glia_probe *out, const double *y, size_t n, size_t n_groups, const glia_probe_params *p,
                         glia_err *err) {
    size_t ones = 0, zeros = 0;
    for (size_t i = 0; i < n; i++) ones += y[i] == 1, zeros += y[i] == 0;
    out->binary = ones + zeros == n;
    out->majority = out->binary ? (double)(ones > zeros ? ones : zeros) / (double)n : (double)NAN;
    if (p->n_folds < 2 || p->n_folds > n_groups)
        return glia_fail(err, GLIA_EINVAL, "%zu folds of %zu texts: at least 2 texts, and no more folds than texts",
                         p->n_folds, n_groups);
    if (p->kind == GLIA_PROBE_LOGISTIC && !out->binary)
        return glia_fail(err, GLIA_EINVAL, "a logistic probe needs labels 0 and 1; for other numbers use ridge");
    if (out->binary && (ones < 2 || zeros < 2))
        return glia_fail(err, GLIA_EINVAL, "a probe needs at least two rows of each label");
    return GLIA_OK;
}

glia_status glia_probe_fit(glia_probe *out, const glia_span *x, const double *y, const size_t *group, size_t n_groups,
                           const glia_probe_params *p, glia_err *err) {
    size_t n = x->n, m = x->r + 1, big = n > n_groups ? n : n_groups;
    *out = (glia_probe){.auc = (double)NAN, .null_mean = (double)NAN, .null_high = (double)NAN, .p = (double)NAN};
    glia_status st = check(out, y, n, n_groups, p, err);
    if (st) return st;
    fitting f = {.x = x, .p = p, .group = group, .n_groups = n_groups};
    glia_rng g = {p->seed};
    f.fold = glia_malloc(n_groups * sizeof *f.fold);
    f.train = glia_malloc(n * sizeof *f.train);
    f.w = glia_malloc(m * sizeof *f.w), f.b = glia_malloc(m * sizeof *f.b), f.a = glia_malloc(m * m * sizeof *f.a);
    f.s = glia_malloc(n * sizeof *f.s), f.weighted = glia_malloc(n * m * sizeof *f.weighted);
    double *weight = glia_malloc(n * sizeof *weight), *label_of_group = glia_malloc(n_groups * sizeof *label_of_group);
    size_t *order = glia_malloc(big * sizeof *order);
    bool *positive = glia_malloc(n * sizeof *positive);
    out->held_out = glia_calloc(n, sizeof *out->held_out), out->direction = glia_malloc(x->d * sizeof *out->direction);
    if (!f.fold || !f.train || !f.w || !f.b || !f.a || !f.s || !f.weighted || !weight || !label_of_group || !order ||
        !positive || !out->held_out || !out->direction) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for a probe of %zu rows", n);
        goto done;
    }
    bool whole = labels_of_groups(y, group, n, label_of_group, n_groups);
    make_folds(&f, whole ? label_of_group : NULL, &g, order);
    if ((st = cross_validate(&f, y, weight, out->held_out, err))) goto done;
    out->score = score_of(out, p->kind, y, out->held_out, n);
    for (size_t i = 0; i < n; i++) positive[i] = y[i] > 0.5;
    if (out->binary) out->auc = glia_auc(out->held_out, positive, n, order);
    if (p->n_perm && (st = permute(&f, out, y, whole ? label_of_group : NULL, weight, &g, order, err))) goto done;
    for (size_t i = 0; i < n; i++) f.train[i] = true;
    if ((st = fit(&f, y, weight, err))) goto done;
    glia_span_direction(x, f.w, out->direction);
    out->bias = f.w[x->r] - cblas_ddot((int)x->d, out->direction, 1, x->mean, 1);
done:
    glia_free(f.fold), glia_free(f.train), glia_free(f.w), glia_free(f.b), glia_free(f.a), glia_free(f.s),
        glia_free(f.weighted);
    glia_free(weight), glia_free(label_of_group), glia_free(order), glia_free(positive);
    if (st) glia_probe_clear(out);
    return st;
}

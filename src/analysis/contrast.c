/* analysis/contrast.c — see contrast.h.  Ranks are made once; a permutation only adds up others of them. */
#include "analysis/contrast.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct ranked {
    float value;
    uint32_t row;
} ranked;

static int by_value(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->value < y->value ? -1 : x->value > y->value;
}

/* 1-based ranks of column c; ties share their mean. */
static void rank_column(const float *x, size_t n, size_t k, size_t c, ranked *scratch, float *ranks) {
    for (size_t i = 0; i < n; i++) scratch[i] = (ranked){x[i * k + c], (uint32_t)i};
    qsort(scratch, n, sizeof *scratch, by_value);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i; end < n && scratch[end].value <= scratch[i].value; end++) {}
        for (size_t j = i; j < end; j++) ranks[scratch[j].row] = (float)(i + end + 1) / 2;
    }
}

static double auc_of(const float *ranks, const bool *positive, size_t n, double p) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (positive[i]) sum += (double)ranks[i];
    }
    return (sum - p * (p + 1) / 2) / (p * ((double)n - p));
}

typedef struct keyed {
    double far;
    size_t column;
} keyed;

static int by_distance(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    if (x->far != y->far) return x->far > y->far ? -1 : 1;
    return x->column < y->column ? -1 : x->column > y->column;
}

void glia_contrast_clear(glia_contrast *c) {
    glia_free(c->auc);
    glia_free(c->order);
    *c = (glia_contrast){0};
}

glia_status glia_contrast_columns(glia_contrast *out, const float *x, const bool *positive, size_t n, size_t k,
                                  size_t n_perm, glia_rng *g, glia_err *err) {
    size_t n_pos = 0, reached = 0;
    for (size_t i = 0; i < n; i++) n_pos += positive[i];
    *out = (glia_contrast){.p = (double)NAN};
    if (!n_pos || n_pos == n || !k)
        return glia_fail(err, GLIA_EINVAL, "rows of both kinds are needed to tell them apart");
    float *ranks = glia_malloc(n * k * sizeof *ranks);
    ranked *scratch = glia_malloc(n * sizeof *scratch);
    size_t *order = glia_malloc(n * sizeof *order);
    bool *moved = glia_malloc(n * sizeof *moved);
    keyed *keys = glia_malloc(k * sizeof *keys);
    out->auc = glia_malloc(k * sizeof *out->auc), out->order = glia_malloc(k * sizeof *out->order);
    glia_status st = GLIA_OK;
    if (!ranks || !scratch || !order || !moved || !keys || !out->auc || !out->order) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu columns of %zu rows", k, n);
        goto done;
    }
    for (size_t c = 0; c < k; c++) {
        rank_column(x, n, k, c, scratch, ranks + c * n);
        out->auc[c] = auc_of(ranks + c * n, positive, n, (double)n_pos);
        keys[c] = (keyed){fabs(out->auc[c] - 0.5), c};
    }
    qsort(keys, k, sizeof *keys, by_distance);
    for (size_t c = 0; c < k; c++) out->order[c] = keys[c].column;
    for (size_t t = 0; t < n_perm; t++) {
        double best = 0;
        glia_rng_shuffle(g, order, n);
        for (size_t i = 0; i < n; i++) moved[i] = positive[order[i]];
        for (size_t c = 0; c < k && best < keys[0].far - 1e-9; c++)
            best = fmax(best, fabs(auc_of(ranks + c * n, moved, n, (double)n_pos) - 0.5));
        reached += best >= keys[0].far - 1e-9;
    }
    if (n_perm) out->p = (double)(1 + reached) / (double)(1 + n_perm);
done:
    glia_free(ranks), glia_free(scratch), glia_free(order), glia_free(moved), glia_free(keys);
    if (st) glia_contrast_clear(out);
    return st;
}

double glia_separation(const double *x, const bool *positive, size_t n) {
    double sum[2] = {0}, square[2] = {0}, count[2] = {0};
    for (size_t i = 0; i < n; i++) sum[positive[i]] += x[i], count[positive[i]]++;
    for (size_t i = 0; i < n; i++) {
        double d = x[i] - sum[positive[i]] / count[positive[i]];
        square[positive[i]] += d * d;
    }
    double pooled = sqrt((square[0] + square[1]) / (count[0] + count[1] - 2));
    return pooled > 0 ? (sum[1] / count[1] - sum[0] / count[0]) / pooled : (double)NAN;
}

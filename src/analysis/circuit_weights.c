/* analysis/circuit_weights.c — see circuit_weights.h.  Everything is reduced to matrices of a head's width: the eigenvalues of
 * A · B and B · A are the same but for zeros, and |A X B|² = tr(AᵀA X BBᵀ Xᵀ). */
#include "analysis/circuit_weights.h"
#include "base/err.h"
#include "base/mem.h"
#include <cblas.h>
#include <math.h>

void dgeev_(const char *jobvl, const char *jobvr, const int *n, double *a, const int *lda, double *wr, double *wi,
            double *vl, const int *ldvl, double *vr, const int *ldvr, double *work, const int *lwork, int *info);

/* Σ Re λ / Σ |λ| of m [n, n] (row-major or not: the same eigenvalues); m is destroyed. */
static glia_status positivity(double *m, size_t n, double *out, glia_err *err) {
    int k = (int)n, one = 1, lwork = 8 * (int)n, info = 0;
    double *w = glia_malloc((2 * n + (size_t)lwork) * sizeof *w), real = 0, size = 0;
    if (!w) return glia_fail(err, GLIA_ENOMEM, "no memory for the eigenvalues of a head");
    dgeev_("N", "N", &k, m, &k, w, w + n, NULL, &one, NULL, &one, w + 2 * n, &lwork, &info);
    for (size_t i = 0; i < n; i++) real += w[i], size += hypot(w[i], w[n + i]);
    glia_free(w);
    if (info) return glia_fail(err, GLIA_EINTERNAL, "the eigenvalues of a head did not converge");
    *out = size > 0 ? real / size : (double)NAN;
    return GLIA_OK;
}

/* left [n, d] · s [d, d] · right, [d, n] or (transposed) [n, d] */
static glia_status token_space(const float *left, const float *s, const float *right, bool transposed, size_t n,
                               size_t d, double *out, glia_err *err) {
    int in = (int)n, id = (int)d;
    float *half = glia_malloc((n * d + n * n) * sizeof *half), *whole = half + n * d;
    double *wide = glia_malloc(n * n * sizeof *wide);
    glia_status st = half && wide ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for the weights of a head");
    if (!st) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, in, id, id, 1, left, id, s, id, 0, half, id);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasTrans : CblasNoTrans, in, in, id, 1, half, id, right,
                    transposed ? id : in, 0, whole, in);
        for (size_t i = 0; i < n * n; i++) wide[i] = (double)whole[i];
        st = positivity(wide, n, out, err);
    }
    glia_free(half);
    glia_free(wide);
    return st;
}

glia_status glia_head_copying(const glia_head_weights *h, const float *s, double *out, glia_err *err) {
    return token_space(h->v, s, h->o, false, h->dim, h->d, out, err);
}

glia_status glia_head_matching(const glia_head_weights *h, const float *s, double *out, glia_err *err) {
    return token_space(h->k, s, h->q, true, h->dim, h->d, out, err);
}

/* ------------------------------------------------------------------ composition */

enum { G_A_O, G_A_V, G_B_Q, G_B_K, G_B_V, G_B_O, X, PRODUCT, OTHER, N_BLOCKS };

static double trace_of(const double *a, const double *b, size_t n) { /* tr(a bᵀ) */
    return cblas_ddot((int)(n * n), a, 1, b, 1);
}

/* w wᵀ of rows [n, d], or wᵀ w of columns [d, n] */
static void gram(const double *w, bool rows, size_t n, size_t d, double *out) {
    int in = (int)n, id = (int)d;
    cblas_dgemm(CblasRowMajor, rows ? CblasNoTrans : CblasTrans, rows ? CblasTrans : CblasNoTrans, in, in, id, 1, w,
                rows ? id : in, w, rows ? id : in, 0, out, in);
}

static double *widen(const float *x, size_t n) {
    double *out = glia_malloc(n * sizeof *out);
    for (size_t i = 0; out && i < n; i++) out[i] = (double)x[i];
    return out;
}

/* |L X R|: L, R given by their Gram matrices on X's side; x = reader [n, d] · writer [d, n]. */
static double joined(const double *reader, const double *writer, const double *g_left, const double *g_right, size_t n,
                     size_t d, double *blocks) {
    int in = (int)n, id = (int)d;
    double *x = blocks + X
    *n *n, *product = blocks + PRODUCT * n * n, *other = blocks + OTHER * n * n;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, in, in, id, 1, reader, id, writer, in, 0, x, in);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, in, in, in, 1, g_left, in, x, in, 0, product, in);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, in, in, in, 1, x, in, g_right, in, 0, other, in);
    return sqrt(fmax(0, trace_of(product, other, n)));
}

glia_status glia_head_composition(const glia_head_weights *a, const glia_head_weights *b, glia_composition *out,
                                  glia_err *err) {
    size_t n = a->dim, d = a->d, nn = n * n;
    if (b->dim != n || b->d != d) return glia_fail(err, GLIA_EINVAL, "heads of different widths are not compared");
    double *ao = widen(a->o, d * n), *av = widen(a->v, n * d), *bq = widen(b->q, n * d), *bk = widen(b->k, n * d),
           *bv = widen(b->v, n * d), *bo = widen(b->o, d * n), *g = glia_malloc(N_BLOCKS * nn * sizeof *g);
    glia_status st = ao && av && bq && bk && bv && bo && g
                         ? GLIA_OK
                         : glia_fail(err, GLIA_ENOMEM, "no memory for the weights of two heads");
    if (!st) {
        gram(ao, false, n, d, g + G_A_O * nn), gram(av, true, n, d, g + G_A_V * nn);
        gram(bq, true, n, d, g + G_B_Q * nn), gram(bk, true, n, d, g + G_B_K * nn);
        gram(bv, true, n, d, g + G_B_V * nn), gram(bo, false, n, d, g + G_B_O * nn);
        double ov_a = sqrt(trace_of(g + G_A_O * nn, g + G_A_V * nn, n)),
               qk = sqrt(trace_of(g + G_B_Q * nn, g + G_B_K * nn, n)),
               ov_b = sqrt(trace_of(g + G_B_O * nn, g + G_B_V * nn, n));
        out->k = joined(bk, ao, g + G_B_Q * nn, g + G_A_V * nn, n, d, g) / (qk * ov_a);
        out->q = joined(bq, ao, g + G_B_K * nn, g + G_A_V * nn, n, d, g) / (qk * ov_a);
        out->v = joined(bv, ao, g + G_B_O * nn, g + G_A_V * nn, n, d, g) / (ov_b * ov_a);
    }
    glia_free(ao), glia_free(av), glia_free(bq), glia_free(bk), glia_free(bv), glia_free(bo), glia_free(g);
    return st;
}

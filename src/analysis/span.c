/* analysis/span.c — see span.h. */
#include "analysis/span.h"
#include "base/err.h"
#include "base/mem.h"
#include <cblas.h>
#include <math.h>
#include <string.h>

/* LAPACK's own names: its header differs from package to package. */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w, double *work,
             const int *lwork, int *iwork, const int *liwork, int *info);
void dposv_(const char *uplo, const int *n, const int *nrhs, double *a, const int *lda, double *b, const int *ldb,
            int *info);

void glia_span_clear(glia_span *s) {
    glia_free(s->mean);
    glia_free(s->z);
    glia_free(s->basis);
    glia_free(s->variance);
    *s = (glia_span){0};
}

bool glia_solve_spd(double *a, double *b, size_t n) {
    int k = (int)n, one = 1, info = 0;
    if (!n) return true;
    dposv_("L", &k, &one, a, &k, b, &k, &info);
    return !info;
}

/* Eigenvectors of the symmetric a [n, n] as rows, with rising eigenvalues w. */
static glia_status eigen(double *a, double *w, size_t n, glia_err *err) {
    int k = (int)n, lwork = -1, liwork = -1, info = 0, isize;
    double size;
    dsyevd_("V", "L", &k, a, &k, w, &size, &lwork, &isize, &liwork, &info);
    lwork = (int)size, liwork = isize;
    double *work = glia_malloc((size_t)lwork * sizeof *work);
    int *iwork = glia_malloc((size_t)liwork * sizeof *iwork);
    glia_status st = GLIA_OK;
    if (!work || !iwork) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the eigenvectors of %zu rows", n);
    } else {
        dsyevd_("V", "L", &k, a, &k, w, work, &lwork, iwork, &liwork, &info); /* columns of Fortran are our rows */
        if (info) st = glia_fail(err, GLIA_EINTERNAL, "the eigenvectors of %zu rows did not converge", n);
    }
    glia_free(work);
    glia_free(iwork);
    return st;
}

/* Of x [n, d] with mean 0: through the smaller of x xᵀ and xᵀ x. */
static glia_status fill(glia_span *s, const double *x, glia_err *err) {
    size_t n = s->n, d = s->d, m = n < d ? n : d;
    bool by_rows = n < d;
    double *a = glia_malloc(m * m * sizeof *a), *w = glia_malloc(m * sizeof *w);
    glia_status st = a && w ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows of %zu", n, d);
    if (!st) {
        cblas_dsyrk(CblasRowMajor, CblasUpper, by_rows ? CblasNoTrans : CblasTrans, (int)m, (int)(by_rows ? d : n), 1,
                    x, (int)d, 0, a, (int)m);
        st = eigen(a, w, m, err);
    }
    for (s->r = 0; !st && s->r < m && w[m - 1 - s->r] > 1e-10 * w[m - 1]; s->r++) {}
    if (!st && (!(s->z = glia_malloc((n * s->r + 1) * sizeof *s->z)) ||
                !(s->basis = glia_malloc((s->r * d + 1) * sizeof *s->basis)) ||
                !(s->variance = glia_malloc((s->r + 1) * sizeof *s->variance))))
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu directions", s->r);
    for (size_t k = 0; k < s->r && !st; k++) {
        const double *v = a + (m - 1 - k) * m;
        double size = sqrt(w[m - 1 - k]);
        s->variance[k] = w[m - 1 - k] / (double)n;
        if (by_rows) { /* v: the rows' coordinates over size; the direction is xᵀ v / size */
            for (size_t i = 0; i < n; i++) s->z[i * s->r + k] = v[i] * size;
            cblas_dgemv(CblasRowMajor, CblasTrans, (int)n, (int)d, 1 / size, x, (int)d, v, 1, 0, s->basis + k * d, 1);
        } else {
            memcpy(s->basis + k * d, v, d * sizeof *v);
            cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)d, 1, x, (int)d, v, 1, 0, s->z + k, (int)s->r);
        }
    }
    glia_free(a);
    glia_free(w);
    return st;
}

glia_status glia_span_make(glia_span *out, const float *x, size_t n, size_t d, glia_err *err) {
    *out = (glia_span){.n = n, .d = d};
    if (n < 2 || n > GLIA_SPAN_MAX_ROWS || !d)
        return glia_fail(err, GLIA_EINVAL, "%zu rows: from 2 to %d are taken", n, (int)GLIA_SPAN_MAX_ROWS);
    double *wide = glia_malloc(n * d * sizeof *wide);
    out->mean = glia_calloc(d, sizeof *out->mean);
    glia_status st = wide && out->mean ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows of %zu", n, d);
    for (size_t i = 0; i < n * d && !st; i++) out->mean[i % d] += (double)x[i] / (double)n;
    for (size_t i = 0; i < n * d && !st; i++) wide[i] = (double)x[i] - out->mean[i % d];
    if (!st) st = fill(out, wide, err);
    glia_free(wide);
    if (st) glia_span_clear(out);
    return st;
}

void glia_span_direction(const glia_span *s, const double *w, double *out) {
    memset(out, 0, s->d * sizeof *out);
    for (size_t k = 0; k < s->r; k++) cblas_daxpy((int)s->d, w[k], s->basis + k * s->d, 1, out, 1);
}

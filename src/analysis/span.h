/* analysis/span.h — the space that some rows span, by LAPACK: principal components, and short coordinates in which linear
 * models are fitted.  Pure functions; any thread. */
#ifndef GLIA_ANALYSIS_SPAN_H
#define GLIA_ANALYSIS_SPAN_H
#include "glia.h"

enum { GLIA_SPAN_MAX_ROWS = 4096 };

/* rows = mean + z · basis.  What is invariant under rotation (distances, inner products, ridge and L2 penalties) is the same
 * in z as in the rows. */
typedef struct glia_span {
    size_t n, d, r;   /* rows, their width, dimensions that they span around their mean */
    double *mean;     /* [d] */
    double *z;        /* [n, r] */
    double *basis;    /* [r, d] orthonormal: principal components, the largest variance first */
    double *variance; /* [r] Σ z² / n of each */
} glia_span;

/* x: [n, d].  EINVAL: n < 2 or above GLIA_SPAN_MAX_ROWS.  ENOMEM. */
glia_status glia_span_make(glia_span *out, const float *x, size_t n, size_t d, glia_err *err);
void glia_span_clear(glia_span *s);
/* A direction of the coordinates as one of the rows: out[d] = w · basis. */
void glia_span_direction(const glia_span *s, const double *w, double *out);

/* a · x = b for a symmetric positive definite a [n, n] (destroyed), b [n] becomes x.  False: it is not positive definite. */
bool glia_solve_spd(double *a, double *b, size_t n);
#endif

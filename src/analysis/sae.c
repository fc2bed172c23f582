/* analysis/sae.c — see sae.h. */
#include "analysis/sae.h"
#include <cblas.h>
#include <math.h>
#include <string.h>

/* The k-th largest of x, by narrowing its range: no row is sorted. */
static float kth_largest(const float *x, size_t n, size_t k) {
    float low = -INFINITY, best = INFINITY;
    for (size_t found = 0; found < k;) { /* each turn takes the next distinct value */
        low = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            if (x[i] < best && x[i] > low) low = x[i];
        }
        for (size_t i = 0; i < n; i++) found += x[i] == low;
        if (best == low || low == -INFINITY) break;
        best = low;
    }
    return low;
}

static void activate(const glia_sae *s, float *row) {
    float least = s->k && s->k < s->n ? kth_largest(row, s->n, s->k) : 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->threshold) row[i] = row[i] > s->threshold[i] ? row[i] : 0;
        else if (!(row[i] > 0) || (s->k && row[i] < least)) row[i] = 0;
    }
}

void glia_sae_encode(const glia_sae *s, const float *x, size_t n_rows, float *scratch, float *out) {
    memcpy(scratch, x, n_rows * s->d * sizeof *x);
    for (size_t i = 0; s->subtract_b_dec && s->b_dec && i < n_rows * s->d; i++) scratch[i] -= s->b_dec[i % s->d];
    for (size_t r = 0; r < n_rows; r++) memcpy(out + r * s->n, s->b_enc, s->n * sizeof *out);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n_rows, (int)s->n, (int)s->d, 1, scratch, (int)s->d,
                s->w_enc, (int)s->n, 1, out, (int)s->n);
    for (size_t r = 0; r < n_rows; r++) activate(s, out + r * s->n);
}

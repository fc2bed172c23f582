/* analysis/lens.h — from the residual stream to logits: norms, what a direction of the output reads, readings of logits.
 *
 * Pure functions over rows of floats; any thread.  Sums in double where they are long. */
#ifndef GLIA_ANALYSIS_LENS_H
#define GLIA_ANALYSIS_LENS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* y = (x - mean(x) if centred) / sqrt(mean of squares + eps) ∘ weight + bias   (RMSNorm, LayerNorm) */
typedef struct glia_norm {
    const float *weight; /* [n] or NULL: ones */
    const float *bias;   /* [n] or NULL: none */
    size_t n;
    double eps;
    bool centred;
} glia_norm;

double glia_norm_scale(const glia_norm *f, const float *x); /* 1 / sqrt(…) of this row */
void glia_norm_apply(const glia_norm *f, const float *x, float *out);

/* What direction u of the norm's output reads of its input when the scale of the row is held fixed:
 *     u · y = scale · (reading · x) + constant       for the x that gave the scale; a sum of x's parts splits alike
 * reading = u ∘ weight, less its mean when centred; constant = u · bias.  (nostalgebraist 2020; Elhage et al. 2021: the
 * final norm folded into the unembedding; "direct logit attribution".)  reading: [n]. */
void glia_norm_fold(const glia_norm *f, const float *u, double *reading, double *constant);

double glia_dot(const double *a, const float *x, size_t n);

/* One row of logits, read. */
typedef struct glia_reading {
    double log_sum; /* log Σ exp: logprob of t = logit[t] - log_sum */
    double entropy; /* nats */
} glia_reading;
glia_reading glia_logits_read(const float *logits, size_t n);
/* Σ p (log p - log q), nats */
double glia_logits_kl(const float *p, const float *q, size_t n);
/* The k largest, largest first; of equal ones the lower id.  Returns how many: min(k, n). */
size_t glia_logits_top(const float *logits, size_t n, int32_t *ids, size_t k);
size_t glia_logits_rank(const float *logits, size_t n, int32_t id); /* 0: the largest */

double glia_norm_of(const float *x, size_t n);                /* Euclidean */
double glia_cosine(const float *a, const float *b, size_t n); /* NaN when one of them is 0 */
#endif

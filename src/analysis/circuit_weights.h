/* analysis/circuit_weights.h — what attention heads could do, from their weights alone (Elhage et al. 2021: A mathematical
 * framework for transformer circuits).  Pure functions; any thread. */
#ifndef GLIA_ANALYSIS_CIRCUIT_WEIGHTS_H
#define GLIA_ANALYSIS_CIRCUIT_WEIGHTS_H
#include "glia.h"

/* One head: dim channels, d the width of the stream.  q, k, v: [dim, d] with the gain of the layer's norm multiplied in
 * (centred norms: rows less their mean); o: [d, dim]. */
typedef struct glia_head_weights {
    size_t dim, d;
    const float *q, *k, *v, *o;
} glia_head_weights;

/* Eigenvalue positivity of a head in token space, Σ Re λ / Σ |λ|: 1 copies (attends to) the same token, -1 the opposite.
 *   s  [d, d]: Σ over tokens of what the head reads of a token times what is read of it afterwards:
 *        copying (OV):  s[i][j] = Σ_t embedding[t][i] · output[t][j];  eigenvalues of  v · s · o
 *        matching (QK): s[i][j] = Σ_t embedding[t][i] · embedding[t][j];  eigenvalues of  k · s · qᵀ
 * NaN: all eigenvalues are 0.  ENOMEM, EINTERNAL (no convergence). */
glia_status glia_head_copying(const glia_head_weights *h, const float *s, double *out, glia_err *err);
glia_status glia_head_matching(const glia_head_weights *h, const float *s, double *out, glia_err *err);

typedef struct glia_composition {
    double q, k, v; /* |W_QK^b ∘ W_OV^a| / (|W_QK^b| |W_OV^a|), Frobenius norms, by which side b reads what a wrote */
} glia_composition;

/* How much head b (of a later layer) reads through its queries, keys and values of what head a writes.  Directions without
 * relation give 1/√d on average (a random rotation between the two).  ENOMEM. */
glia_status glia_head_composition(const glia_head_weights *a, const glia_head_weights *b, glia_composition *out,
                                  glia_err *err);
#endif

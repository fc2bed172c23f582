/* tap/prove.h — what the files of the proof share: the captured rows, verdicts, measures.  proof*.c only. */
#ifndef GLIA_TAP_PROVE_H
#define GLIA_TAP_PROVE_H
#include "tap/proof.h"
#include <math.h>
#include <string.h>

#define SUM_TOLERANCE   2e-6
#define NORM_TOLERANCE  1e-3
#define CACHE_TOLERANCE 2e-2

typedef struct proof {
    glia_atlas *at;
    const float *const *rows;
} proof;

static inline glia_place *place(const proof *P, glia_point p, int32_t il) {
    return &P->at->place[(size_t)p * (size_t)P->at->n_layer + (size_t)(glia_point_has_layer(p) ? il : 0)];
}
static inline const float *row(const proof *P, glia_point p, int32_t il) {
    return P->rows[(size_t)p * (size_t)P->at->n_layer + (size_t)(glia_point_has_layer(p) ? il : 0)];
}
static inline size_t count(const proof *P, glia_point p, int32_t il) {
    return (size_t)GLIA_PROOF_TOKENS * (size_t)place(P, p, il)->width;
}
static inline bool is_proven(const proof *P, glia_point p, int32_t il) {
    return place(P, p, il)->grade == GLIA_GRADE_PROVEN;
}
static inline void proven(const proof *P, glia_point p, int32_t il) {
    glia_place *pl = place(P, p, il);
    if (pl->grade == GLIA_GRADE_STRUCTURAL) pl->grade = GLIA_GRADE_PROVEN;
}
/* An identity with nothing in it would prove nothing. */
static inline bool telling(const float *v, size_t n) {
    for (size_t i = 1; v && i < n; i++) {
        if (v[i] != v[0]) return true;
    }
    return false;
}
/* Largest of errors that may be NaN. */
static inline void worst(double *err, double e) {
    if (!(e <= *err)) *err = e;
}

void glia_proof_probs(const proof *P, int32_t il); /* proof_attn.c */
void glia_proof_mlp(const proof *P, int32_t il);       /* proof_mlp.c */
/* mlp_out = moe_out [+ shared_expert_out]; after mlp_out had its chance from the residual stream */
/* proof_derived.c, after the streams and the final norm. */
void glia_proof_lens(const proof *P);
void glia_proof_heads(const proof *P);
void glia_proof_shared(const proof *P, int32_t il);
#endif

/* analysis/sae.h — sparse autoencoders: from rows to latents, as SAELens computes them.
 * Pure functions; any thread. */
#ifndef GLIA_ANALYSIS_SAE_H
#define GLIA_ANALYSIS_SAE_H
#include <stdbool.h>
#include <stddef.h>

/* latent = f((x - b_dec if subtract) · W_enc + b_enc):  ReLU;  JumpReLU: the value where it is above the threshold, else 0;
 * top-k: ReLU of the k largest of a row */
typedef struct glia_sae {
    size_t d, n;            /* width of a row, latents */
    const float *w_enc;     /* [d, n] row-major */
    const float *b_enc;     /* [n] */
    const float *b_dec;     /* [d] or NULL */
    const float *threshold; /* [n] or NULL: JumpReLU */
    bool subtract_b_dec;
    size_t k; /* > 0: top-k */
} glia_sae;

/* x: [n_rows, d] → out: [n_rows, n].  scratch: [n_rows, d]. */
void glia_sae_encode(const glia_sae *s, const float *x, size_t n_rows, float *scratch, float *out);
#endif

/* tap/proof_probs.h — numeric proof of attn_scores and attn_probs, on the rows of the dry run (proof.h).
 *
 *   probs ≥ 0, zero behind the row's own position; rows sum to 1 (attention sinks: to less)
 *   attn_probs = softmax(attn_scores), up to one factor a row where a sink takes its share
 *   z = Σ attn_probs · value, head by head
 * What holds proves attn_probs, attn_scores, z and value of the layer; what is broken makes the two ambiguous.  Layers
 * whose values or z are not of the usual shape (latent attention) stay structural. */
#ifndef GLIA_TAP_PROOF_PROBS_H
#define GLIA_TAP_PROOF_PROBS_H
#include "tap/atlas.h"

/* Rows as in glia_proof_check; those of the two points are [GLIA_PROOF_TOKENS, n_heads, GLIA_PROOF_TOKENS]. */
void glia_proof_check_probs(glia_atlas *at, const float *const *rows);
#endif

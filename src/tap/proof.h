/* tap/proof.h — numeric proof of the atlas: the identities of a transformer block, checked on one dry run.
 *
 * Needs no weights: every identity relates captured rows to each other, so a place that holds another tensor breaks it.
 * An identity that holds raises its places from structural to proven; one that is broken makes them ambiguous, and then
 * they are refused.  Pure; knows no llama.h.
 *
 *   resid_mid  = resid_pre + attn_out_post          resid_post = resid_mid + mlp_out_post
 *   resid_post = resid_pre + attn_out_post + mlp_out_post   (parallel blocks; layers with only one of the two)
 *   (the term resid_pre is the one that equals the resid_post before, or whose norm is attn_in)
 *   attn_in, mlp_in, final_norm: an affine function, channel by channel and the same for all tokens, of the normalised
 *                                stream (RMS or centred, with the graph's own epsilon)
 *   attn_out_post, mlp_out_post = attn_out, mlp_out, or a scale, or such a norm of them
 *   value → z: the first token attends only to itself, so its z is its own value, head by head; the second token's z is a
 *              mixture of the first two values (attention sinks leave less than the whole)
 *   q_rot, k_rot (without RoPE: q, k) → z: softmax of their products, with the layer's own scale, soft cap and ALiBi
 *              slopes, mixes the values to z, and a mixture that does not know them misses z by five times more
 *   q, k: the same norm per head as the proven q_rot, k_rot, and equal to them at position 0
 *   q_norm_in, k_norm_in: q, k are such a norm of them, per head or per row
 *   z_gated = z · attn_gate
 *   attn_scores, attn_probs: rows of probabilities, the softmax of the scores, and z = Σ attn_probs · value
 *   lens_in: the norm that makes final_norm of the last stream, of every stream;  Σ over heads of attn_head_out = attn_out, but for a bias all tokens share
 *   embeddings: equal rows for equal tokens; lm_head: llama.cpp's own logits, bit for bit
 *   mlp_pre, mlp_linear → mlp_act (expert_*, too): act / linear is one function of pre for all channels and tokens
 *   router_logits, expert_indices → expert_weights: the weights of a token's experts relate to each other as softmax,
 *              sigmoid or √softplus of the logits at these indices do
 *   moe_out = Σ over slots of expert_weights · expert_out;  mlp_out = moe_out + shared_expert_out
 * Sources: docs/HOOKS.md. */
#ifndef GLIA_TAP_PROOF_H
#define GLIA_TAP_PROOF_H
#include "tap/atlas.h"

enum { GLIA_PROOF_TOKENS = 6 };

/* The i-th token of the dry run: spread over the vocabulary, the last equal to the first. */
int32_t glia_proof_token(int i, int32_t n_vocab);

/* rows[p * n_layer + layer]: [GLIA_PROOF_TOKENS, width] of that place at positions 0, 1, …; NULL when absent.
 * logits: [GLIA_PROOF_TOKENS, n_vocab] as llama.cpp hands them out. */
void glia_proof_check(glia_atlas *at, const float *const *rows, const float *logits);
#endif

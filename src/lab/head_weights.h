/* lab/head_weights.h — the weights of attention heads from the model's file, and what they say of copying and composition.
 * Blocking; a task's thread.  Reads the file only, runs nothing. */
#ifndef GLIA_LAB_HEAD_WEIGHTS_H
#define GLIA_LAB_HEAD_WEIGHTS_H
#include "analysis/circuit_weights.h"

typedef struct glia_heads_file glia_heads_file;

/* EHOOK: the file does not hold what is needed (no q, k, v, output matrices of [heads · dim, n_embd], latent attention, …).
 * n_tokens: how many of the vocabulary stand for all of it (0: all); evenly chosen. */
glia_status glia_heads_file_open(glia_heads_file **out, const glia_model *m, size_t n_tokens, glia_err *err);
void glia_heads_file_close(glia_heads_file *f); /* NULL is fine */
size_t glia_heads_file_tokens(const glia_heads_file *f);

/* One head's copying (OV) and matching (QK) score: circuit_weights.h.  RoPE is left out: matching is that of two tokens at
 * the same place.  NaN where a norm stands between: of queries or keys (matching), behind the attention's output (copying).
 * EHOOK: the layer's weights are not plain matrices. */
glia_status glia_heads_file_scores(glia_heads_file *f, int32_t layer, int32_t head, double *copying, double *matching,
                                   glia_err *err);
/* EHOOK: also where such a norm stands between the two heads. */
glia_status glia_heads_file_compose(glia_heads_file *f, int32_t layer_a, int32_t head_a, int32_t layer_b,
                                    int32_t head_b, glia_composition *out, glia_err *err);
#endif

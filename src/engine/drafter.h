/* engine/drafter.h — a second, small model that guesses what the first one will say.
 *
 * Owns its llama_model, llama_context and a KV cache with a sequence per slot.  Engine thread only.  It promises nothing:
 * what it guesses is checked by the model itself, token by token. */
#ifndef GLIA_ENGINE_DRAFTER_H
#define GLIA_ENGINE_DRAFTER_H
#include "glia.h"

struct llama_vocab;
typedef struct glia_drafter glia_drafter;

typedef struct glia_drafter_params {
    const char *path;
    const char *model_id;           /* for messages */
    const struct llama_vocab *vocab; /* of the model: the draft's must have the same tokens */
    int32_t n_ctx, n_parallel, n_batch, n_threads, n_gpu_layers;
    double p_min; /* least probability of a guess */
    bool (*on_abort)(void *ud); /* end a pass early */
    void *ud;
} glia_drafter_params;

/* EINVAL: not a model, another vocabulary, a state that cannot be taken back.  ENOMEM. */
glia_status glia_drafter_new(glia_drafter **out, const glia_drafter_params *p, glia_err *err);
void glia_drafter_free(glia_drafter *d);

/* Guess what follows tokens[0 .. n) in this slot: at most `most` tokens, fewer where it is not sure.  0: none, or it has to
 * read more of the tokens first (one batch a call). */
int32_t glia_drafter_guess(glia_drafter *d, int32_t slot, const int32_t *tokens, int32_t n, int32_t most, int32_t *out);
#endif

/* engine/sampler.h — drawing one token from one row of logits.
 *
 * Owns a llama.cpp sampler chain per request and its random state.  Engine thread only.  Knows no slot, no text. */
#ifndef GLIA_ENGINE_SAMPLER_H
#define GLIA_ENGINE_SAMPLER_H
#include "engine/grammar/constrain.h"
#include "glia.h"

struct llama_model;
struct llama_vocab;
typedef struct glia_sampler glia_sampler;

/* Check ranges; EINVAL names the field as it is spelled on the wire. */
glia_status glia_sampling_check(const glia_sampling *s, int32_t n_vocab, glia_err *err);

glia_status glia_sampler_new(glia_sampler **out, const glia_sampling *s, const struct llama_model *model,
                             glia_err *err);
void glia_sampler_free(glia_sampler *s);

/* Tell penalties and DRY of a token that is part of the text (prompt or drawn). */
void glia_sampler_accept(glia_sampler *s, int32_t token);

enum { GLIA_DRAW_END = -1, GLIA_DRAW_FAILED = -2 };

/* Draw from logits [n_vocab], which are not changed.  scratch: n_vocab llama_token_data, of the caller.
 * With a constrainer (may be NULL) only what it allows: first as if it were not there, and when that does not fit, again
 * from the allowed tokens alone.  END: nothing can follow.  FAILED: the constrainer says why. */
int32_t glia_sampler_draw(glia_sampler *s, glia_constrainer *c, const float *logits, void *scratch);

/* Natural log of softmax(logits) at `token`, and of the n likeliest tokens, best first.  logits [n_vocab].
 * top may be NULL when n is 0. */
float glia_logprobs(const float *logits, int32_t n_vocab, int32_t token, glia_logprob *top, int32_t n);
#endif

/* lab/probe_set.h — the built-in sequences that heads are tested with: random tokens, repeated once.
 * Any thread; knows models by glia.h. */
#ifndef GLIA_LAB_PROBE_SET_H
#define GLIA_LAB_PROBE_SET_H
#include "analysis/random.h"
#include "glia.h"

/* Sequences of random tokens, each its first half once more (Olsson et al. 2022: In-context learning and induction heads).
 * Drawn evenly, without repetition inside a half, from the tokens that are ordinary text.  What the model's tokenizer puts
 * before any text (BOS) comes first. */
typedef struct glia_probe_set {
    int32_t *tokens; /* [n, length] */
    size_t n, length;
    size_t n_before; /* tokens before the first half; length = n_before + 2 * half */
    size_t half;
} glia_probe_set;

/* EINVAL: the vocabulary has too few ordinary tokens, or length does not fit the context.  Clear it also after failure. */
glia_status glia_probe_set_make(glia_probe_set *out, const glia_model *m, size_t n, size_t half, glia_rng *g,
                                glia_err *err);
void glia_probe_set_clear(glia_probe_set *p);

/* flags[i]: token i is made of punctuation only (and spaces).  ENOMEM. */
glia_status glia_find_punctuation(const glia_model *m, const int32_t *tokens, size_t n, bool *flags, glia_err *err);
#endif

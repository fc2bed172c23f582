/* engine/grammar/lexicon.h — the texts of a vocabulary in sorted order, so that a grammar is tried on all of them by
 * walking each common beginning once.  Made once for a model, then immutable; any thread. */
#ifndef GLIA_ENGINE_LEXICON_H
#define GLIA_ENGINE_LEXICON_H
#include "engine/grammar/matcher.h"

struct llama_vocab;

typedef enum glia_token_kind {
    GLIA_TOKEN_TEXT,
    GLIA_TOKEN_SPECIAL, /* renders as nothing, unless the request keeps it */
    GLIA_TOKEN_EOG      /* ends the answer */
} glia_token_kind;

typedef struct glia_lexicon {
    int32_t n;
    char *bytes;
    uint32_t *offset; /* [n + 1] by id; special tokens with their name */
    uint8_t *kind;    /* [n] glia_token_kind by id */
    int32_t *sorted;  /* [n] ids by their bytes */
    uint16_t *shared; /* [n] bytes that sorted[i] begins with as sorted[i - 1] does, at most GLIA_MATCH_BYTES */
} glia_lexicon;

glia_status glia_lexicon_new(glia_lexicon **out, const struct llama_vocab *vocab, glia_err *err);
void glia_lexicon_free(glia_lexicon *l);
const char *glia_lexicon_text(const glia_lexicon *l, int32_t id, size_t *n);
#endif

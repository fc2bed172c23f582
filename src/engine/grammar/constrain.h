/* engine/grammar/constrain.h — which tokens an answer may go on with.
 *
 * glia_rules is what a request asked for, compiled and checked before it is queued; immutable, freed with the request.
 * glia_constrainer is how far one answer has come: engine thread only. */
#ifndef GLIA_ENGINE_CONSTRAIN_H
#define GLIA_ENGINE_CONSTRAIN_H
#include "engine/grammar/lexicon.h"

typedef struct glia_rules glia_rules;
typedef struct glia_constrainer glia_constrainer;

/* EINVAL: the grammar is wrong, or contradicts its own prefix.  lex is borrowed for the life of *out. */
glia_status glia_rules_new(glia_rules **out, const glia_constraint *c, const glia_lexicon *lex, glia_err *err);
void glia_rules_free(glia_rules *r);
bool glia_rules_keeps(const glia_rules *r, int32_t token); /* a special token that is part of the text; r may be NULL */

/* NULL and GLIA_OK when r constrains nothing. */
glia_status glia_constrainer_new(glia_constrainer **out, const glia_rules *r, glia_err *err);
void glia_constrainer_free(glia_constrainer *c);

glia_match glia_constrainer_allows(glia_constrainer *c, int32_t token);
/* The bit of every token that may follow.  Returns how many, -1: failed (see _why). */
int32_t glia_constrainer_mask(glia_constrainer *c, uint64_t *bits);
glia_match glia_constrainer_accept(glia_constrainer *c, int32_t token);
bool glia_constrainer_may_end(const glia_constrainer *c);
glia_status glia_constrainer_why(const glia_constrainer *c, glia_err *err);
#endif

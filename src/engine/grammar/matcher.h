/* engine/grammar/matcher.h — how far a text has come in a grammar, and which bytes may follow.
 *
 * A generalised (GLR-like) recognizer: all ways to read the text so far share one graph of callers, so that no grammar
 * makes it grow faster than the text times its rules; left recursion, ambiguity and empty rules are ordinary.  Every
 * step is counted against a budget: a grammar that needs too much ends its own request and stops nobody else.
 * One thread.  Borrows its grammar. */
#ifndef GLIA_ENGINE_MATCHER_H
#define GLIA_ENGINE_MATCHER_H
#include "engine/grammar/grammar.h"

typedef struct glia_matcher glia_matcher;
typedef enum glia_match { GLIA_MATCH_YES, GLIA_MATCH_NO, GLIA_MATCH_FAILED } glia_match; /* FAILED: see _why */

glia_status glia_matcher_new(glia_matcher **out, const glia_grammar *g, glia_err *err);
void glia_matcher_free(glia_matcher *m);

/* Read bytes (any cut of UTF-8).  NO: they do not fit, and nothing has changed. */
glia_match glia_matcher_read(glia_matcher *m, const char *bytes, size_t n);

bool glia_matcher_may_end(const glia_matcher *m);  /* the text so far is whole */
bool glia_matcher_must_end(const glia_matcher *m); /* and nothing can follow */
const char *glia_matcher_why(const glia_matcher *m); /* static: memory or budget */
bool glia_matcher_no_memory(const glia_matcher *m);

/* Trying many texts from here: they are given in sorted order, each by the number of bytes it shares with the one
 * before.  Nothing is kept.  begin, then try for each, then end. */
void glia_matcher_try_begin(glia_matcher *m);
glia_match glia_matcher_try(glia_matcher *m, const char *bytes, size_t n, size_t shared);
void glia_matcher_try_end(glia_matcher *m);

enum { GLIA_MATCH_BYTES = 1024 }; /* longest text to try */
#endif

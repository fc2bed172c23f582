/* api/edit_source.h — interventions whose numbers come from another run: patch, mean and resample with a `source`.
 *
 * The other prompts run first, with hooks where the interventions are; their rows become the interventions' vectors, then
 * the request itself is submitted.  Owned by a job; used by one HTTP thread at a time, never waiting.  Everything is
 * defined on unchanged runs: a source sees none of the request's other interventions. */
#ifndef GLIA_API_EDIT_SOURCE_H
#define GLIA_API_EDIT_SOURCE_H
#include "api/activations.h"

typedef struct glia_sources glia_sources;

/* Read a->sources and submit their prompts; on_event(ud) as in glia_request_on_event.  *out NULL: there are none.
 * prompt: what the request itself runs, borrowed until free.  Errors name "interventions[i].source". */
glia_status glia_sources_start(glia_sources **out, glia_acts *a, const glia_model *m, const int32_t *prompt,
                               size_t n_prompt, void (*on_event)(void *ud), void *ud, glia_err *err);
/* Take what has come.  *done: all rows are in a->edits now (owned by a); else call it again after an event. */
glia_status glia_sources_take(glia_sources *s, bool *done, glia_err *err);
void glia_sources_cancel(glia_sources *s);
void glia_sources_free(glia_sources *s); /* NULL is fine */

/* Which token of the other prompt stands for each of this one's: the same index where the prompts are equally long;
 * else the same index in their common beginning, and counted from the end in their common end.  -1: none.
 * out: [n]. */
void glia_align_tokens(const int32_t *a, size_t n, const int32_t *b, size_t n_b, int32_t *out);
#endif

/* engine/collect.h — one row over many: the statistics that a running request gathers over its passes.
 *
 * Owned by a slot, engine thread only.  A pass adds its rows to sums of its own; they join the totals when the pass was
 * proven, and are forgotten when it was not.
 *
 *   begin ─► (tap fills the sums of the pass) ─► keep │ begin again      at the end of a phase: finish → frames */
#ifndef GLIA_ENGINE_COLLECT_H
#define GLIA_ENGINE_COLLECT_H
#include "engine/request.h"

typedef struct glia_collect glia_collect;

/* *out is NULL when no hook of r reduces over rows.  r: borrowed for its life.  False: out of memory. */
bool glia_collect_new(glia_collect **out, const glia_request *r);
void glia_collect_free(glia_collect *c); /* here and below NULL is fine: nothing to collect */

void glia_collect_begin(glia_collect *c);                    /* a pass begins: forget the one before if it was not kept */
glia_sums *glia_collect_sums(glia_collect *c, size_t hook); /* of the pass; NULL: this hook wants its rows one by one */
void glia_collect_keep(glia_collect *c, uint32_t phase);     /* the pass, whole within a phase, was proven */

/* The event with the rows that are whole once `ended` (GLIA_PHASE_PROMPT, or _GENERATED: the request's end) is over.
 *   tokens  [n_past] what the request has run, prompt first: the labels
 * *out is NULL when there are none.  EUNPROVEN: other rows went in than were asked for.  ENOMEM. */
glia_status glia_collect_finish(const glia_collect *c, uint32_t ended, const int32_t *tokens, int32_t n_past,
                                glia_node **out, glia_err *err);
#endif

/* engine/memory.h — the bytes of activations that requests may hold together, and those that they do hold.
 *
 * A request leases the most it can ever hold at once before it gets a slot: whoever runs can finish, so that waiting for a
 * lease never waits for itself.  The lease ends when the request has ended and its last event is freed.  Any thread;
 * counters are atomic, only the list of engines to wake is locked.  Knows no llama.h.
 *
 *   waiting (in the inbox, no slot) ──room──► leased ──ended, all events freed──► returned, waiting engines are woken
 *        └──────── too long ───► GLIA_EBUSY */
#ifndef GLIA_ENGINE_MEMORY_H
#define GLIA_ENGINE_MEMORY_H
#include "glia.h"

typedef struct glia_inbox glia_inbox;

glia_capture_memory *glia_capture_memory_ref(glia_capture_memory *m);

/* Engines that want to be woken (glia_inbox_stir) when a lease is returned while somebody waits.  False: out of memory. */
bool glia_capture_memory_join(glia_capture_memory *m, glia_inbox *b);
void glia_capture_memory_leave(glia_capture_memory *m, glia_inbox *b); /* on return it is not woken any more */
void glia_capture_memory_wait(glia_capture_memory *m, int change);     /* +1, -1: a request waits (no longer) */

/* Lease n_bytes.  EBUSY: not now (no message; the caller tries again when it was woken).  ENOMEM. */
glia_status glia_lease_take(glia_lease **out, glia_capture_memory *m, uint64_t n_bytes);
glia_lease *glia_lease_ref(glia_lease *l);
void glia_lease_unref(glia_lease *l);                /* NULL is fine; no lock may be held */
void glia_lease_hold(glia_lease *l, size_t n_bytes); /* bytes that now exist */
void glia_lease_drop(glia_lease *l, size_t n_bytes); /* … and no longer do */

#endif

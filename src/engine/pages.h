/* engine/pages.h — memory for activations that is used again: page-locked where a device copies to it on its own.
 *
 * Page-locked memory takes a device's full bus and lets its copies run beside the computation, but locking is slow
 * (hundreds of microseconds a megabyte, the first time).  On the host the first touch of fresh pages costs more than the
 * copy into them, on the thread that the others wait for.  So freed blocks are kept for the next frames, up to a bound.
 * What such memory counts as is the lease's business (memory.h); this only says where it lies.
 *
 * Any thread; one lock.  Blocks and their owner keep the pool alive: a model may be closed under events that are not
 * freed yet.  Knows ggml's buffers; no llama.h, no request. */
#ifndef GLIA_ENGINE_PAGES_H
#define GLIA_ENGINE_PAGES_H
#include "ggml-backend.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct glia_pages glia_pages;

/* keep: most bytes of large blocks (over 1 MiB) that lie unused.  large_only: smaller ones are left to the heap.  NULL: out
 * of memory. */
glia_pages *glia_pages_new(ggml_backend_buffer_type_t type, size_t keep, bool large_only);
glia_pages *glia_pages_ref(glia_pages *p);
void glia_pages_unref(glia_pages *p); /* NULL is fine */

/* n bytes, aligned to 64; the block holds a reference to its pool.  NULL: none to be had; use the heap. */
void *glia_pages_take(glia_pages *p, size_t n);
void glia_pages_give(void *block); /* what take answered; NULL is fine */

/* Bytes of all blocks, and of those that lie unused. */
void glia_pages_count(glia_pages *p, size_t *all, size_t *unused);
#endif

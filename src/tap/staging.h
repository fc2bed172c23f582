/* tap/staging.h — rows leave a device while it computes on.
 *
 * Copying a node's rows to the host where the scheduler stops costs the whole transfer, every time.  Instead: a copy on the
 * device, in the order of the stream that computed the node, into a ring of staging memory (terabytes a second); then from
 * the ring to the host on a stream of its own, beside the next layers.  Nor does the host wait where the node is all that a
 * stop is for: what reads it was put into the same stream, so order is enough, and the stream never runs empty.
 *
 *   node computed ──same stream──► ring on the device ──own stream──► host memory (page-locked: request's frame)
 *                                   a part of the ring is used again when its event says that it has left
 *
 * Owns a second backend per device, ring and events; borrows the scheduler's backends.  Engine thread only, between begin
 * and end of a pass.  Knows ggml's backend interface only, no CUDA; knows no rows, no points.
 *
 * Not waiting is done by answering the scheduler's own call of `synchronize` for that stop (struct ggml_backend_i of
 * ggml-backend-impl.h): ggml has no public way yet ("TODO: pass backend to the callback, then the user can decide if they
 * want to synchronize", ggml-backend.cpp).  The function is put in place at begin and taken out again at end. */
#ifndef GLIA_TAP_STAGING_H
#define GLIA_TAP_STAGING_H
#include "ggml-backend.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_tensor;
typedef struct glia_staging glia_staging;

typedef struct glia_staging_params {
    size_t ring_bytes; /* most device memory per device; 0: 256 MiB, less where little is free */
    bool stops;        /* wait at every stop all the same (to measure what that costs) */
    bool host_too;     /* also nodes in host memory (tests: the same code without a device) */
} glia_staging_params;

typedef struct glia_staging_counts {
    uint64_t copies, bytes; /* that went through a ring */
    uint64_t unwaited;      /* stops at which the host did not wait */
    uint64_t reused;        /* parts of a ring used again, and waited for */
} glia_staging_counts;

/* *out NULL with true: no backend of the scheduler can, or there are none.  False: out of memory. */
bool glia_staging_new(glia_staging **out, ggml_backend_sched_t sched, const glia_staging_params *p);
void glia_staging_free(glia_staging *s);

void glia_staging_begin(glia_staging *s);
/* Waits until everything lies in host memory. */
void glia_staging_end(glia_staging *s);

/* Would copy take this node's rows? */
bool glia_staging_takes(const glia_staging *s, const struct ggml_tensor *x);
/* The scheduler has just asked for x, and what will be done at its fetch keeps to its stream's order: do not wait. */
void glia_staging_do_not_wait(glia_staging *s, const struct ggml_tensor *x);
/* That fetch has come (whether or not its wait was left out). */
void glia_staging_fetched(glia_staging *s);
/* The fetched node will be read in line after all: wait for it if nobody did. */
void glia_staging_settle(glia_staging *s);

/* Bytes [off, off + n) of x, multiples of 4, to dst, which is complete after end.  False: in line, please. */
bool glia_staging_copy(glia_staging *s, const struct ggml_tensor *x, size_t off, size_t n, void *dst);

void glia_staging_count(const glia_staging *s, glia_staging_counts *out);

/* Host memory that devices copy to fastest, for these backends: page-locked; NULL: none of them has such. */
ggml_backend_buffer_type_t glia_staging_host_memory(const glia_staging *s);
#endif

/* tap/reduce.h — what becomes of a row before it is copied on: channels, norms, top-k, projections, statistics.
 *
 * Pure functions of rows of floats; no ggml, no request.  Any thread.  Sums are kept in double and rounded once, so a
 * result does not depend on how a prompt was cut into chunks beyond a double's last bits.  A NaN or an infinity in a row
 * shows in the result as IEEE arithmetic has it; a maximum or a top-k of a row with a NaN is NaN. */
#ifndef GLIA_TAP_REDUCE_H
#define GLIA_TAP_REDUCE_H
#include "glia.h"

/* Checked by whoever fills it: channels < in_width, 1 ≤ k ≤ channels kept, directions of that width. */
typedef struct glia_reduction {
    glia_reduce_op op;
    bool by_magnitude;       /* TOPK */
    int32_t in_width;        /* floats of a row as it comes */
    const int32_t *channels; /* [n_channels] kept of these, in this order; NULL: all */
    int32_t n_channels;
    int32_t k;               /* TOPK */
    const float *directions; /* PROJECT: [n_directions, channels kept] */
    int32_t n_directions;
} glia_reduction;

int32_t glia_reduction_kept(const glia_reduction *r);  /* channels that go into the operation */
int32_t glia_reduction_width(const glia_reduction *r); /* floats of an outgoing row */

/* Any operation per row, NONE included (channels only).
 *   row      [in_width]
 *   out      [glia_reduction_width]
 *   indices  [k], TOPK only: columns of row; largest value first, of equal ones the lower column, NaN before all */
void glia_reduce_row(const glia_reduction *r, const float *row, float *out, int32_t *indices);

/* -- MEAN to NORM: one row over many */
typedef struct glia_sums glia_sums;

glia_sums *glia_sums_new(const glia_reduction *r);          /* r: borrowed for its life.  NULL: out of memory */
void glia_sums_free(glia_sums *s);                          /* NULL is fine */
size_t glia_sums_bytes(const glia_reduction *r);            /* what a glia_sums takes */
void glia_sums_reset(glia_sums *s);                         /* O(1) */
void glia_sums_add(glia_sums *s, const float *row);         /* [in_width] */
void glia_sums_merge(glia_sums *into, const glia_sums *of); /* both made for the same reduction; `of` stays */
int64_t glia_sums_rows(const glia_sums *s);
void glia_sums_write(const glia_sums *s, float *out); /* at least one row was added */
#endif

/* harvest/top.h — the largest values of every channel, and which tokens they were of.
 *
 * One thread at a time.  Memory: 20 bytes · width · k, whatever the data.  Of equal values the earlier token counts as
 * larger, so that the outcome does not depend on how the rows were cut up.  NaN is never among them. */
#ifndef GLIA_HARVEST_TOP_H
#define GLIA_HARVEST_TOP_H
#include "glia.h"

typedef struct glia_top {
    int32_t width, k;
    int32_t *n;        /* [width] how many there are, ≤ k */
    float *value;      /* [width, k] a heap each, the smallest first; in order after glia_top_sort */
    int64_t *document; /* [width, k], as value */
    int32_t *offset, *token_id;
} glia_top;

glia_status glia_top_init(glia_top *t, int32_t width, int32_t k, glia_err *err);
void glia_top_clear(glia_top *t);
/* Rows [n, width]: row i is the token ids[i] at offset + positions[i] of its document. */
void glia_top_add(glia_top *t, const float *rows, size_t n, int64_t document, int32_t offset, const int32_t *positions,
                  const int32_t *ids);
void glia_top_copy(glia_top *to, const glia_top *from); /* of equal width and k */
/* Largest first; places that are not filled hold -infinity, document -1, offset -1, token -1.  No rows can be added any
 * more; glia_top_unsort makes it a heap again. */
void glia_top_sort(glia_top *t);
void glia_top_unsort(glia_top *t);
#endif

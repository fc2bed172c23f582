/* harvest/shard.h — rows of one shard in memory until they are sealed into a file; running statistics of all rows.
 *
 * One thread at a time.  Memory is bounded by the capacity given at the beginning.  Knows neither model nor manifest.
 *
 *   rows of a piece: add per tensor → commit (they count) or drop (as if they had never been there) */
#ifndef GLIA_HARVEST_SHARD_H
#define GLIA_HARVEST_SHARD_H
#include "base/half.h"
#include "glia.h"
#include "store/sha256.h"

enum { GLIA_SHARD_LABEL_BYTES = 8 + 3 * 4 }; /* document, offset, position, token_id of a row */

typedef struct glia_column { /* one point at one layer */
    char name[64];           /* "resid_post.5"; "final_norm" */
    int32_t width;
    uint8_t *data; /* [capacity, width] in the shard's dtype */
    size_t pending;
} glia_column;

typedef struct glia_shard {
    glia_column *columns;
    size_t n_columns, rows, capacity, pending;
    glia_dtype dtype;
    int64_t *document;
    int32_t *offset, *position, *token_id;
} glia_shard;

/* columns: name and width of each, copied.  ENOMEM. */
glia_status glia_shard_init(glia_shard *s, const glia_column *columns, size_t n, size_t capacity, glia_dtype dtype,
                            glia_err *err);
void glia_shard_clear(glia_shard *s);
size_t glia_shard_row_bytes(const glia_column *columns, size_t n, glia_dtype dtype); /* labels included */

/* n rows of column c; they must fit. */
void glia_shard_add(glia_shard *s, size_t c, const float *rows, size_t n);
/* Labels of n rows: the token at offset + i of its document, at position pos[i] of the context. */
void glia_shard_label(glia_shard *s, int64_t document, int32_t offset, const int32_t *pos, const int32_t *ids, size_t n);
/* True: every column and the labels got the same number of rows, which count from now on.  Otherwise they are dropped. */
bool glia_shard_commit(glia_shard *s);
void glia_shard_drop(glia_shard *s);
void glia_shard_empty(glia_shard *s); /* no rows, the same memory */

/* Write all committed rows as a safetensors file, whole or not at all. */
glia_status glia_shard_seal(const glia_shard *s, const char *path, char sha256[GLIA_SHA256_HEX], uint64_t *bytes,
                            glia_err *err);

/* -- statistics: over rows, in double.  Pieces are merged by Chan, Golub and LeVeque, "Updating formulae and a pairwise
 *    algorithm for computing sample variances" (1979): exact for any division of the rows. */
typedef struct glia_moments {
    uint64_t count;
    int32_t width;
    double *mean, *m2; /* [width]; m2: sum of squared deviations, variance = m2 / count */
    double norm_sum, norm_max;
} glia_moments;
glia_status glia_moments_init(glia_moments *m, int32_t width, glia_err *err);
void glia_moments_clear(glia_moments *m);
/* scratch: [2 · width] doubles */
void glia_moments_add(glia_moments *m, const float *rows, size_t n, double *scratch);
#endif

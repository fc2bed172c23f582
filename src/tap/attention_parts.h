/* tap/attention_parts.h — what reading attention (attention.c) and changing it (attention_edit.c) share.
 *
 * Engine thread only, inside the eval callback.  Vocabulary: attention.c. */
#ifndef GLIA_TAP_ATTENTION_PARTS_H
#define GLIA_TAP_ATTENTION_PARTS_H
#include "ggml.h"
#include "tap/attention.h"

enum {
    BUF_Q,
    BUF_K,
    BUF_MASK,
    BUF_SINKS,
    BUF_COLUMNS,
    BUF_MASK_ROW,
    BUF_MASK_FLOATS,
    BUF_VALUES,
    BUF_GRAPH,
    BUF_WORK,
    BUF_V,
    BUF_EDIT,
    N_BUFS
};

/* A head's row that was changed: what hooks see instead of what its queries and keys give. */
typedef struct edited_row {
    int32_t row, head, n; /* batch row; n positions from 0 on */
    float *scores, *probs; /* [n] each, one allocation: free scores */
} edited_row;

struct glia_attention {
    int32_t n_threads;
    bool windows;
    struct {
        char *p;
        size_t n;
    } buf[N_BUFS];
    int32_t *from[GLIA_MAX_CACHES]; /* [n_rows] first visible position of each row, -1: not checked in this pass */
    int32_t n_from[GLIA_MAX_CACHES];
    bool began[GLIA_MAX_CACHES];
    edited_row *edited; /* [n_edited] of the layer that was changed last */
    const glia_attn *edited_of;
    int32_t n_edited, n_edited_alloc;
};

typedef struct masked {
    const struct ggml_tensor *x; /* [columns, ≥ n_tps, 1, streams], f16 or f32, on any device */
    int64_t n_tps;
} masked;

typedef struct scaled {
    float scale, max_bias, cap;
} scaled;

/* What the CPU needs of one stream. */
typedef struct inputs {
    char *q, *k, *mask;
    float *sinks; /* NULL: none */
    const struct ggml_tensor *qx, *kx, *mx;
    int64_t n_rows; /* of the span */
} inputs;

char *glia_attn_room(glia_attention *a, int which, size_t n);
/* Bytes [off, off + n) of a tensor where the CPU can read them.  NULL: out of memory. */
char *glia_attn_host(glia_attention *a, int which, const struct ggml_tensor *x, size_t off, size_t n);
/* Do the tensor's rows lie as planned: stream by stream, n_tps of each, neighbouring sequences? */
bool glia_attn_fits(const glia_attention_node *n, const struct ggml_tensor *x);
/* The first position that row t attends to, -1 with *why: refused. */
int32_t glia_attn_row_from(glia_attention *a, const glia_attention_node *n, const masked *m, const glia_cell_table *c,
                           int32_t t, const char **why);
/* Mask of batch row t as floats, one per column.  NULL: out of memory. */
const float *glia_attn_mask_row(glia_attention *a, const masked *m, int32_t t);
scaled glia_attn_params(const struct ggml_tensor *x);
float glia_attn_slope(float max_bias, int64_t n_heads, int32_t head);
/* The mask of an attention node.  NULL, or what is unknown about it or the node's rows. */
const char *glia_attn_mask_of(const glia_attention_node *n, masked *out);
/* Inputs of batch rows first … last, of one stream, of a FLASH_ATTN_EXT.  False: out of memory. */
bool glia_attn_gather_inputs(glia_attention *a, const struct ggml_tensor *node, const masked *m, int32_t first,
                             int32_t last, inputs *in);
/* Some heads, [columns, rows] each: their logits, capped or else still to be scaled; or the softmax of these. */
bool glia_attn_compute(glia_attention *a, const inputs *in, const scaled *s, const int32_t *heads, int32_t n,
                       bool softmax, float *values);
/* Columns [from, to) of a row, gathered from their cells. */
void glia_attn_gather(float *dst, const float *src, const glia_cell_table *c, int32_t from, int32_t to);
/* Logits that lie in dst by position → scores; mask: of the row, NULL when it adds nothing to what is visible. */
void glia_attn_finish_scores(float *dst, const glia_cell_table *c, float scale, float slope, const float *mask,
                             int32_t from, int32_t p, int32_t n_cols);
#endif

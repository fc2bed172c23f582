/* lab/pool.h — many texts through the model, one row of each kept per layer: what probes and features are found in.
 * Blocking; a task's thread.  Knows glia.h and lab/forward.h. */
#ifndef GLIA_LAB_POOL_H
#define GLIA_LAB_POOL_H
#include "glia.h"

typedef enum glia_pick {
    GLIA_PICK_LAST, /* the last token's row */
    GLIA_PICK_MEAN, /* mean over the text's rows */
    GLIA_PICK_ALL   /* every row */
} glia_pick;

typedef struct glia_text {
    const int32_t *tokens;
    size_t n_tokens;
} glia_text;

typedef struct glia_pool_params {
    const glia_text *texts;
    size_t n_texts;
    glia_point point;
    const int32_t *layers; /* [n_layers]; points without a layer: one entry of 0 */
    size_t n_layers;
    glia_pick pooling;
    bool (*on_progress)(void *ud, double fraction);
    void *ud;
} glia_pool_params;

typedef struct glia_pool {
    size_t n_layers, n_rows, width;
    float **rows;      /* [n_layers] of [n_rows, width] */
    size_t *text;      /* [n_rows] which text a row is of */
    int32_t *position; /* [n_rows] ALL, LAST: of its token; MEAN: -1 */
} glia_pool;

/* EHOOK: a layer lacks the point, or layers differ in width.  Else as glia_forward_run. */
glia_status glia_pool_run(glia_pool **out, glia_model *m, const glia_pool_params *p, glia_err *err);
void glia_pool_free(glia_pool *p); /* NULL is fine */
#endif

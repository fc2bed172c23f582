/* tap/edit.h — changes rows of a node while the graph runs: one request's rows, some heads and channels of them.
 *
 * The arithmetic is a pure function of a row; glia_edit_node reads a node's rows, changes them and writes them back.
 * Engine thread only.  Knows ggml (edit.c); knows no llama.h, no request, no JSON. */
#ifndef GLIA_TAP_EDIT_H
#define GLIA_TAP_EDIT_H
#include "glia.h"
#include "tap/atlas.h"
#include "tap/cells.h"

struct ggml_tensor;

/* What becomes of the part x [width] of a row.  Checked by whoever fills it. */
typedef struct glia_edit_rule {
    glia_edit_op op;
    int32_t width;
    float strength, min, max;
    const float *rows; /* [n_rows, width]: ADD, SET; one row (of unit length): PROJECT_OUT, CLAMP.  Attention points: width is
                          heads × columns */
    int32_t n_rows;    /* more than 1: each edited row of the request takes its own, in order */
    uint64_t seed;
    const float *when; /* [width] of unit length: only rows whose coefficient along it is above threshold; NULL: all */
    float threshold;
    bool below; /* below threshold instead */
} glia_edit_rule;

/* One edit of one request in one forward pass. */
typedef struct glia_tap_edit {
    glia_point point;
    int32_t layer;
    int32_t row0, n_rows; /* batch rows [row0, row0 + n_rows) */
    const uint8_t *mask;  /* [n_rows], 1: edit this row.  NULL: all.  This and the lists below: borrowed until disarm */
    int32_t first;        /* how many rows of the request this edit has already changed: index into rule->rows */
    const int32_t *heads; /* NULL: all */
    int32_t n_heads;
    const int32_t *channels; /* of what heads leave; NULL: all */
    int32_t n_channels;
    const int32_t *columns; /* attention points: positions attended to, ascending; NULL: col_from <= position < col_to */
    int32_t n_columns, col_from, col_to;
    const glia_edit_rule *rule;
    int32_t next; /* internal: next edit of the same node, -1: none */
} glia_tap_edit;

/* position: absolute; with seed and channel it decides the noise, so that a result does not hang on batch or chunk.
 * Returns whether `when` let it happen. */
bool glia_edit_row(const glia_edit_rule *r, float *x, int32_t row, int64_t position);

/* Memory for rows on their way; grows. */
typedef struct glia_edit_room {
    float *row, *part;
    size_t n_row, n_part;
} glia_edit_room;
void glia_edit_room_clear(glia_edit_room *m);

/* Change the rows of x that e names.  out_row: batch row → row of x behind the trimming (-1: not there, left out), NULL:
 * rows of x are batch rows.  False: out of memory. */
bool glia_edit_node(const glia_tap_edit *e, const glia_place *pl, struct ggml_tensor *x, const glia_tap_row *rows,
                    const int32_t *out_row, glia_edit_room *m);
#endif

/* tap/atlas.h — where each point of each layer lies in a model's graph.
 *
 * Classifies by graph structure and weight names, never by node names (spec: docs/HOOKS.md).  Pure function of two
 * graphs of one topology with different numbers of tokens and outputs, so that the row axis of every node is read from
 * what changes instead of being guessed.  Any thread; immutable once built.  Knows no llama.h, no request. */
#ifndef GLIA_TAP_ATLAS_H
#define GLIA_TAP_ATLAS_H
#include "glia.h"
#include "tap/graph.h"

typedef enum glia_row_kind {
    GLIA_ROWS_NONE = 0,
    GLIA_ROWS_TOKENS, /* one row per token of the forward pass */
    GLIA_ROWS_OUTPUTS /* one row per token marked as output: behind the last layer's trimming */
} glia_row_kind;

typedef struct glia_place {
    glia_grade grade;
    int32_t node;              /* index in execution order, -1 when absent */
    int32_t width;             /* floats per row */
    int32_t node_width;        /* floats per row of the node itself; more than width when the place is a part of it */
    int32_t column;            /* first of them in the node's row: > 0 for the second half of a fused branch */
    int32_t n_heads, head_dim; /* 0 unless the point has heads */
    uint8_t row_axis;          /* dimension of ne[] that counts rows: 1 or 2 */
    uint8_t row_kind;          /* glia_row_kind */
    char reason[96];
} glia_place;

/* What is compared with every node the scheduler asks for, before any row is believed. */
typedef struct glia_signature {
    int32_t op;
    char name[64];
} glia_signature;

typedef struct glia_atlas {
    int32_t n_nodes, n_layer;
    glia_signature *sig; /* [n_nodes] */
    glia_place *place;   /* [GLIA_N_POINTS][n_layer], points without a layer at [p][0] */
    int32_t token_node;  /* GET_ROWS of the token embeddings: its src[1] holds the token ids of the run */
    int32_t pos_node;    /* first ROPE or GET_ROWS of learned positions: src[1] holds the positions; -1: none */
    int32_t cell_node;   /* first SET_ROWS into a K cache: src[1] holds the cells, and so the sequences; -1: no cache */
    int32_t out_node;    /* first GET_ROWS by out_ids: src[1] holds the output rows; -1: none */
    const char *refused; /* why no row can be proven at all, NULL when they can (static text) */
} glia_atlas;

/* a, b: the same topology with other numbers of tokens and of outputs: a_tok != b_tok, a_out != b_out. */
glia_status glia_atlas_build(glia_atlas **out, const glia_graph *a, const glia_graph *b, int32_t n_layer,
                             glia_err *err);
void glia_atlas_free(glia_atlas *at);

/* layer is ignored for points without one; NULL when it is out of range. */
const glia_place *glia_atlas_place(const glia_atlas *at, glia_point p, int32_t layer);
#endif

/* tap/graph.h — a compute graph as plain data: nodes in execution order, edges, shapes, names.
 *
 * Owns a copy of what classification needs; holds no ggml pointer, so it outlives the graph it was read from.
 * Any thread.  Knows ggml's tensor struct (graph.c only); knows no llama.h, no request, no JSON. */
#ifndef GLIA_TAP_GRAPH_H
#define GLIA_TAP_GRAPH_H
#include "glia.h"

#define GLIA_GRAPH_MAX_SRC 10
#define GLIA_GRAPH_NO_SRC  INT32_MIN

struct ggml_cgraph;

/* A source is a node (≥ 0) or a leaf (< 0): weights, inputs and caches are leaves, ~src is the leaf's index. */
typedef struct glia_gnode {
    int32_t op;       /* enum ggml_op */
    int32_t type;     /* enum ggml_type */
    int64_t ne[4];    /* ne[0] is contiguous */
    int32_t param[4]; /* first op parameters, as ggml stores them (floats bit for bit) */
    int32_t n_src;
    int32_t src[GLIA_GRAPH_MAX_SRC];
    int32_t view_of; /* root of a view, same numbering; GLIA_GRAPH_NO_SRC when it owns its memory */
    bool slice;      /* a VIEW that shows only part of its source */
    char name[64];
} glia_gnode;

typedef struct glia_gleaf {
    int64_t ne[4];
    int32_t layer;    /* N of "blk.N.…" or of "cache_k_lN"; -1 otherwise */
    const char *part; /* for "blk.N.part": points into name after "blk.N."; otherwise name */
    char name[64];    /* without the scheduler's "BACKEND#name#copy" wrapping */
} glia_gleaf;

typedef struct glia_graph {
    int32_t n_nodes, n_leafs;
    glia_gnode *nodes;
    glia_gleaf *leafs;
    int32_t *use_start; /* [n_nodes + 1] into uses: consumers of node i, in order */
    int32_t *uses;
} glia_graph;

glia_status glia_graph_read(glia_graph **out, struct ggml_cgraph *gf, glia_err *err);
void glia_graph_free(glia_graph *g);

/* Undo the scheduler's "BACKEND#name#copy" wrapping: copies the bare name, at most 63 bytes. */
void glia_graph_bare_name(char out[64], const char *name);
#endif

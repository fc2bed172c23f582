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
    int32_t group;             /* query heads per KV head, for points with query heads; else 0 */
    uint8_t row_axis;          /* dimension of ne[] that counts rows: 1 or 2 */
    uint8_t row_kind;          /* glia_row_kind */
    bool integers;             /* the node holds int32; delivered as floats of the same (whole) value */
    bool more_terms;           /* resid_post: its sum has terms that are no points */
    bool by_proof;             /* absent: refused by the dry run, not missing in the graph */
    bool by_row;               /* its norm is taken over the whole row, not over each head */
    bool read_before;          /* something reads its memory before it is written: a change would not reach all readers */
    bool derived;              /* computed from rows of `base`, whose node and row kind these are (derive.h) */
    glia_point base;
    float eps;                 /* of the norm between this place and the one it feeds or comes from; 0: none */
    char reason[96];
} glia_place;

/* What a layer makes of q·k: logit_j = outer · f(inner · q·k_j) + slope_h · (pos_j - pos), f = tanh when capped, else the
 * identity; q, k as they are after RoPE.  Slopes are ALiBi's for max_bias (0: none).  With sinks the probabilities of a
 * row sum to less than 1. */
typedef struct glia_attn_rule {
    bool known; /* false: something else happens on the way */
    bool capped, sinks;
    float inner, outer, max_bias;
} glia_attn_rule;

/* How the positions of a pass are read back. */
typedef enum glia_pos_proof {
    GLIA_POS_INPUT, /* from the positions that RoPE or a table of learned positions reads */
    GLIA_POS_MASK,  /* from the attention mask: a row sees as many cells of its sequence as its position, plus itself */
    GLIA_POS_STATE  /* no attention at all: a scan runs in row order; the state's own position says where it stands */
} glia_pos_proof;

/* What is compared with every node the scheduler asks for, before any row is believed. */
typedef struct glia_signature {
    int32_t op;
    char name[64];
} glia_signature;

/* Attention of one layer: where its probabilities lie, or from which node they are rebuilt. */
typedef struct glia_attn {
    int32_t node;   /* SOFT_MAX, or FLASH_ATTN_EXT; -1: none, the places of the two points say why */
    int32_t logits; /* what the SOFT_MAX reads; -1 with flash attention */
    int32_t cache;  /* index of the KV cache it reads */
    bool flash;
    float scale, max_bias; /* logits only: what the SOFT_MAX makes of them */
    bool scaled;    /* the output projection is multiplied by blk.N.attn_output.scale */
} glia_attn;

/* The final norm, for every layer's stream (lens_in): names of its weights in the file, "" for none. */
typedef struct glia_lens {
    bool known, centred;
    float eps;
    char weight[64], bias[64];
} glia_lens;

enum { GLIA_MAX_CACHES = 4 };

typedef struct glia_atlas {
    int32_t n_nodes, n_layer;
    glia_signature *sig; /* [n_nodes] */
    glia_place *place;   /* [GLIA_N_POINTS][n_layer], points without a layer at [p][0] */
    glia_attn_rule *rule; /* [n_layer] */
    int32_t token_node;  /* GET_ROWS of the token embeddings: its src[1] holds the token ids of the run */
    glia_pos_proof pos_proof;
    int32_t pos_node;    /* INPUT: ROPE or GET_ROWS with src[1] = positions; MASK: the attention node; STATE: -1 */
    int32_t cell_node;   /* first SET_ROWS into a K cache: src[1] holds the cells, and so the sequences; -1: no cache */
    int32_t out_node;    /* first GET_ROWS by out_ids: src[1] holds the output rows; -1: none */
    int32_t last_proof;  /* behind it everything that proves rows has run: the nodes above, a store of every cache */
    int32_t logits_node; /* MUL_MAT by the output matrix behind which every row is for itself; -1: there is no such */
    int32_t last_store;  /* last node that writes into a cache or a state; -1: none */
    glia_attn *attn;     /* [n_layer] */
    glia_lens lens;
    int32_t n_caches;    /* KV caches whose cells tell apart, e.g. 2 with sliding windows */
    int32_t store_layer[GLIA_MAX_CACHES]; /* the layer whose key store, SET_ROWS into cache_k_l<layer>, is its first */
    const char *refused; /* why no row can be proven at all, NULL when they can (static text) */
} glia_atlas;

/* a, b: the same topology with other numbers of tokens and of outputs: a_tok != b_tok, a_out != b_out. */
glia_status glia_atlas_build(glia_atlas **out, const glia_graph *a, const glia_graph *b, int32_t n_layer,
                             glia_err *err);
void glia_atlas_free(glia_atlas *at);

/* Give up: every point absent for this reason (static text). */
void glia_atlas_refuse(glia_atlas *at, const char *why);

/* Is g of the topology that was classified, node by node? */
bool glia_atlas_fits(const glia_atlas *at, const glia_graph *g);
/* Fills attn, caches and the places of attn_scores and attn_probs (atlas_probs.c, part of glia_atlas_build). */
void glia_atlas_find_probs(glia_atlas *at, const glia_graph *a, const glia_graph *b);

/* A point that turned out not to be readable: absent, why (copied). */
void glia_atlas_refuse_point(glia_atlas *at, glia_point p, int32_t layer, const char *why);

/* layer is ignored for points without one; NULL when it is out of range. */
const glia_place *glia_atlas_place(const glia_atlas *at, glia_point p, int32_t layer);
#endif

/* tap/walk.h — walking a graph's edges while it is being classified; shared by the atlas_*.c files only.
 *
 * strip(i) walks back through nodes that only rename memory; ungr(i) also through the GET_ROWS that trims the last layer
 * to output rows; close_projection(i) walks forward over a projection's scale, bias and clamp.  No node name is trusted
 * except `result_output`, which llama.cpp itself reads logits from.  Pure; any thread. */
#ifndef GLIA_TAP_WALK_H
#define GLIA_TAP_WALK_H
#include "ggml.h"
#include "tap/atlas.h"
#include <string.h>

#define NONE GLIA_GRAPH_NO_SRC

/* A weight used by a matrix product: `blk.layer.part` is src[0] of node. */
typedef struct glia_weight_use {
    int32_t node, next;
    const char *part;
} glia_weight_use;

typedef struct glia_build {
    const glia_graph *g, *b; /* same topology, other sizes */
    glia_atlas *at;
    glia_weight_use *uses;      /* per-layer linked lists of weight uses */
    int32_t n_uses, *first;     /* first[layer], -1: none */
    int32_t *core;              /* [n_layer] node of the attention dot product: MUL_MAT k·q or FLASH_ATTN_EXT */
    int32_t *store_k, *store_v; /* [n_layer] SET_ROWS into the cache, -1: none */
    bool loops;                 /* a layer's weight is used by two products: layers run several times */
    bool many_streams;          /* weights that mix several residual streams */
} glia_build;

/* What one layer's parts tell each other. */
typedef struct glia_build_layer {
    int32_t il;
    int32_t attn_in, attn_out; /* NONE: no mixer */
    int32_t mlp_in, mlp_out;   /* NONE: no MLP */
    int32_t pre, mid, post;    /* the residual stream, ungr-normalised */
} glia_build_layer;

/* atlas_attn.c: attention heads, gates, state-space mixers, output projection.  Sets attn_out. */
void glia_build_attention(const glia_build *B, glia_build_layer *l);
/* atlas_mlp.c: where the MLP begins; then its branches or experts.  Sets mlp_out. */
int32_t glia_build_mlp_in(const glia_build *B, int32_t il);
void glia_build_mlp(const glia_build *B, glia_build_layer *l);

/* atlas_derived.c: points that follow from others and from weights; after all others. */
void glia_build_derived(const glia_build *B);

/* atlas.c: what the files above write.  absent: with the reason.  put: accept node i as point p if it is rows over the
 * token or output axis, in heads of head_dim (0: none); else absent.  A node of NONE is "not found". */
void glia_build_absent(const glia_build *B, glia_point p, int32_t il, const char *why);
glia_place *glia_build_put(const glia_build *B, glia_point p, int32_t il, int32_t i, int32_t head_dim);
int32_t glia_build_weight(const glia_build *B, int32_t il, const char *const *parts);
#define W(B, il, ...) glia_build_weight(B, il, (const char *const[]){__VA_ARGS__, NULL})

/* ------------------------------------------------------------------ edges */

static inline const glia_gnode *node_at(const glia_build *B, int32_t i) { return i >= 0 ? &B->g->nodes[i] : NULL; }
static inline const glia_gleaf *leaf_at(const glia_build *B, int32_t i) {
    return i < 0 && i != NONE ? &B->g->leafs[~i] : NULL;
}
static inline int32_t src_of(const glia_build *B, int32_t i, int k) {
    const glia_gnode *n = node_at(B, i);
    return n && k < n->n_src ? n->src[k] : NONE;
}
static inline int32_t op_of(const glia_build *B, int32_t i) { return i >= 0 ? B->g->nodes[i].op : GGML_OP_NONE; }
static inline bool is_unary(const glia_build *B, int32_t i, int32_t unary) {
    return op_of(B, i) == GGML_OP_UNARY && B->g->nodes[i].param[0] == unary;
}

static inline bool is_leaf_named(const glia_build *B, int32_t i, const char *name) {
    const glia_gleaf *l = leaf_at(B, i);
    return l && !strcmp(l->name, name);
}
static inline bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static inline bool renames(const glia_build *B, int32_t i) {
    const glia_gnode *n = node_at(B, i);
    return n && (n->op == GGML_OP_RESHAPE || n->op == GGML_OP_PERMUTE || n->op == GGML_OP_TRANSPOSE ||
                 (n->op == GGML_OP_VIEW && !n->slice));
}
static inline int32_t strip(const glia_build *B, int32_t i) {
    while (renames(B, i)) i = src_of(B, i, 0);
    return i;
}
static inline bool trims(const glia_build *B, int32_t i) {
    return op_of(B, i) == GGML_OP_GET_ROWS && is_leaf_named(B, src_of(B, i, 1), "out_ids");
}
static inline int32_t ungr(const glia_build *B, int32_t i) {
    while (renames(B, i) || trims(B, i)) i = src_of(B, i, 0);
    return i;
}
/* The leaf below any chain of views and conversions (flash attention reads a float32 cache as float16), or NULL. */
static inline const glia_gleaf *root_leaf(const glia_build *B, int32_t i) {
    const glia_gnode *n;
    while ((n = node_at(B, i)) && (renames(B, i) || n->op == GGML_OP_VIEW || n->op == GGML_OP_CPY)) i = src_of(B, i, 0);
    return leaf_at(B, i);
}
/* The one node that computes with i (through renamings), or NONE. */
static inline int32_t only_user(const glia_build *B, int32_t i) {
    int32_t found = NONE;
    for (int32_t u = B->g->use_start[i]; u < B->g->use_start[i + 1]; u++) {
        int32_t c = B->g->uses[u];
        if (renames(B, c)) c = only_user(B, c);
        if (c == NONE || (found != NONE && found != c)) return NONE;
        found = c;
    }
    return found;
}
/* The operand of a two-operand node that is a node while the other is a leaf; the one that is a leaf. */
static inline int32_t node_operand(const glia_build *B, int32_t i) {
    int32_t a = src_of(B, i, 0), b = src_of(B, i, 1);
    return a >= 0 && b < 0 ? a : b >= 0 && a < 0 ? b : NONE;
}
static inline int32_t leaf_operand(const glia_build *B, int32_t i) {
    int32_t a = src_of(B, i, 0), b = src_of(B, i, 1);
    return a >= 0 && b < 0 ? b : b >= 0 && a < 0 ? a : NONE;
}
/* Per-expert scales: the chosen experts' entries of a leaf `….scale`. */
static inline bool is_expert_scale(const glia_build *B, int32_t i) {
    const glia_gleaf *l;
    i = strip(B, i);
    if (op_of(B, i) != GGML_OP_GET_ROWS) return false;
    i = strip(B, src_of(B, i, 0));
    if (op_of(B, i) == GGML_OP_REPEAT) i = strip(B, src_of(B, i, 0));
    return (l = leaf_at(B, i)) && ends_with(l->name, ".scale");
}
static inline int32_t close_projection(const glia_build *B, int32_t i) {
    for (;;) {
        int32_t c = only_user(B, i);
        const glia_gnode *n = node_at(B, c);
        if (!n) return i;
        if (n->op == GGML_OP_MUL && is_expert_scale(B, n->src[1])) {
            i = c;
            continue;
        }
        if (n->op == GGML_OP_CLAMP) {
            i = c;
            continue;
        }
        if (n->op != GGML_OP_MUL && n->op != GGML_OP_ADD && n->op != GGML_OP_ADD_ID) return i;
        const glia_gleaf *l = leaf_at(B, n->src[1]);
        if (!l) l = leaf_at(B, n->src[0]);
        if (!l || !(ends_with(l->name, ".scale") || ends_with(l->name, ".bias"))) return i;
        i = c;
    }
}
/* The NORM or RMS_NORM node below i when i is [bias +] [weight ·] norm(x); NONE otherwise. */
static inline int32_t norm_node(const glia_build *B, int32_t i) {
    const glia_gleaf *l;
    i = strip(B, i);
    if (op_of(B, i) == GGML_OP_ADD && (l = leaf_at(B, leaf_operand(B, i))) && ends_with(l->name, ".bias")) {
        i = strip(B, node_operand(B, i));
    }
    if (op_of(B, i) == GGML_OP_MUL && (l = leaf_at(B, leaf_operand(B, i))) && strstr(l->name, "norm")) {
        i = strip(B, node_operand(B, i));
    }
    return op_of(B, i) == GGML_OP_RMS_NORM || op_of(B, i) == GGML_OP_NORM ? i : NONE;
}
static inline int32_t norm_source(const glia_build *B, int32_t i) {
    i = norm_node(B, i);
    return i == NONE ? NONE : strip(B, src_of(B, i, 0));
}
/* Is i made of `from` alone: by scales, norms, weights and biases? */
static inline bool derives(const glia_build *B, int32_t i, int32_t from) {
    for (int hop = 0; hop < 16; hop++) {
        i = ungr(B, i);
        if (i < 0) return false;
        if (i == ungr(B, from)) return true;
        int32_t op = op_of(B, i);
        if (op == GGML_OP_SCALE || op == GGML_OP_RMS_NORM || op == GGML_OP_NORM || op == GGML_OP_CLAMP ||
            op == GGML_OP_CONT) {
            i = src_of(B, i, 0);
        } else if (op == GGML_OP_MUL || op == GGML_OP_ADD) {
            i = node_operand(B, i);
        } else {
            return false;
        }
    }
    return false;
}
/* The epsilon of a norm node, as ggml stores it. */
static inline float norm_epsilon(const glia_build *B, int32_t i) {
    float eps = 0;
    if (i >= 0) memcpy(&eps, B->g->nodes[i].param, sizeof eps);
    return eps;
}
#endif

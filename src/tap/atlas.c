/* tap/atlas.c — classification of a graph's nodes into points, by structure.
 *
 * Vocabulary: strip(i) walks back through nodes that only rename memory; ungr(i) also through the GET_ROWS that trims
 * the last layer to output rows; close(i) walks forward over a projection's scale, bias and clamp.  Pure functions over
 * glia_graph; no node name is trusted except `result_output`, which llama.cpp itself reads logits from. */
#include "atlas.h"
#include "base/err.h"
#include "base/mem.h"
#include "ggml.h"
#include <stdio.h>
#include <string.h>

#define NONE GLIA_GRAPH_NO_SRC

/* A weight used by a matrix product: `blk.layer.part` is src[0] of node. */
typedef struct use {
    int32_t node, next;
    const char *part;
} use;

typedef struct build {
    const glia_graph *g, *b; /* same topology, other sizes */
    glia_atlas *at;
    use *uses;                  /* per-layer linked lists of weight uses */
    int32_t n_uses, *first;     /* first[layer], -1: none */
    int32_t *core;              /* [n_layer] node of the attention dot product: MUL_MAT k·q or FLASH_ATTN_EXT */
    int32_t *store_k, *store_v; /* [n_layer] SET_ROWS into the cache, -1: none */
} build;

static const glia_gnode *node_at(const build *B, int32_t i) { return i >= 0 ? &B->g->nodes[i] : NULL; }
static const glia_gleaf *leaf_at(const build *B, int32_t i) { return i < 0 && i != NONE ? &B->g->leafs[~i] : NULL; }
static int32_t src_of(const build *B, int32_t i, int k) {
    const glia_gnode *n = node_at(B, i);
    return n && k < n->n_src ? n->src[k] : NONE;
}
static int32_t op_of(const build *B, int32_t i) { return i >= 0 ? B->g->nodes[i].op : GGML_OP_NONE; }

static bool is_leaf_named(const build *B, int32_t i, const char *name) {
    const glia_gleaf *l = leaf_at(B, i);
    return l && !strcmp(l->name, name);
}
static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static bool renames(const build *B, int32_t i) {
    const glia_gnode *n = node_at(B, i);
    return n && (n->op == GGML_OP_RESHAPE || n->op == GGML_OP_PERMUTE || n->op == GGML_OP_TRANSPOSE ||
                 (n->op == GGML_OP_VIEW && !n->slice));
}
static int32_t strip(const build *B, int32_t i) {
    while (renames(B, i)) i = src_of(B, i, 0);
    return i;
}
static bool trims(const build *B, int32_t i) {
    return op_of(B, i) == GGML_OP_GET_ROWS && is_leaf_named(B, src_of(B, i, 1), "out_ids");
}
static int32_t ungr(const build *B, int32_t i) {
    while (renames(B, i) || trims(B, i)) i = src_of(B, i, 0);
    return i;
}
/* The leaf below any chain of views, or NULL. */
static const glia_gleaf *root_leaf(const build *B, int32_t i) {
    const glia_gnode *n;
    while ((n = node_at(B, i)) && (renames(B, i) || n->op == GGML_OP_VIEW)) i = src_of(B, i, 0);
    return leaf_at(B, i);
}
/* The one node that computes with i (through renamings), or NONE. */
static int32_t only_user(const build *B, int32_t i) {
    int32_t found = NONE;
    for (int32_t u = B->g->use_start[i]; u < B->g->use_start[i + 1]; u++) {
        int32_t c = B->g->uses[u];
        if (renames(B, c)) c = only_user(B, c);
        if (c == NONE || (found != NONE && found != c)) return NONE;
        found = c;
    }
    return found;
}
static int32_t close_projection(const build *B, int32_t i) {
    for (;;) {
        int32_t c = only_user(B, i);
        const glia_gnode *n = node_at(B, c);
        if (!n) return i;
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
/* The other operand of a two-operand node, when one operand satisfies "is a leaf". */
static int32_t node_operand(const build *B, int32_t i) {
    int32_t a = src_of(B, i, 0), b = src_of(B, i, 1);
    return a >= 0 && b < 0 ? a : b >= 0 && a < 0 ? b : NONE;
}
static int32_t leaf_operand(const build *B, int32_t i) {
    int32_t a = src_of(B, i, 0), b = src_of(B, i, 1);
    return a < 0 && a != NONE ? a : b < 0 ? b : NONE;
}
/* When i is [bias +] [weight ·] norm(x): the node x; NONE otherwise. */
static int32_t norm_source(const build *B, int32_t i) {
    const glia_gleaf *l;
    i = strip(B, i);
    if (op_of(B, i) == GGML_OP_ADD && (l = leaf_at(B, leaf_operand(B, i))) && ends_with(l->name, ".bias")) {
        i = strip(B, node_operand(B, i));
    }
    if (op_of(B, i) == GGML_OP_MUL && (l = leaf_at(B, leaf_operand(B, i))) && strstr(l->name, "norm")) {
        i = strip(B, node_operand(B, i));
    }
    if (op_of(B, i) != GGML_OP_RMS_NORM && op_of(B, i) != GGML_OP_NORM) return NONE;
    return strip(B, src_of(B, i, 0));
}

/* ------------------------------------------------------------------ indexes over the graph */

static int32_t weight_use(const build *B, int32_t layer, const char *const *parts) {
    for (; *parts; parts++) {
        for (int32_t u = B->first[layer]; u >= 0; u = B->uses[u].next) {
            if (!strcmp(B->uses[u].part, *parts)) return B->uses[u].node;
        }
    }
    return NONE;
}
#define W(B, layer, ...) weight_use(B, layer, (const char *const[]){__VA_ARGS__, NULL})

static bool index_graph(build *B, int32_t n_layer) {
    const glia_graph *g = B->g;
    size_t n = (size_t)n_layer;
    B->uses = glia_calloc((size_t)g->n_nodes, sizeof *B->uses);
    B->first = glia_malloc(n * sizeof *B->first);
    B->core = glia_malloc(n * sizeof *B->core);
    B->store_k = glia_malloc(n * sizeof *B->store_k);
    B->store_v = glia_malloc(n * sizeof *B->store_v);
    if (!B->uses || !B->first || !B->core || !B->store_k || !B->store_v) return false;
    for (int32_t l = 0; l < n_layer; l++) B->first[l] = B->core[l] = B->store_k[l] = B->store_v[l] = -1;

    for (int32_t i = g->n_nodes - 1; i >= 0; i--) { /* backwards: lists then run forwards, first match wins */
        const glia_gnode *d = &g->nodes[i];
        const glia_gleaf *l;
        if (d->op == GGML_OP_MUL_MAT || d->op == GGML_OP_MUL_MAT_ID) {
            l = leaf_at(B, d->src[0]);
            if (l && l->layer >= 0 && l->layer < n_layer && l->part != l->name && ends_with(l->part, ".weight")) {
                B->uses[B->n_uses] = (use){.node = i, .next = B->first[l->layer], .part = l->part};
                B->first[l->layer] = B->n_uses++;
            }
        }
        int key = d->op == GGML_OP_FLASH_ATTN_EXT ? 1 : d->op == GGML_OP_MUL_MAT ? 0 : -1;
        if (key >= 0 && (l = root_leaf(B, d->src[key])) && l->layer >= 0 && l->layer < n_layer &&
            !strcmp(l->part, "cache_k")) {
            B->core[l->layer] = i;
        }
        if (d->op == GGML_OP_SET_ROWS && (l = leaf_at(B, d->view_of)) && l->layer >= 0 && l->layer < n_layer) {
            if (!strcmp(l->part, "cache_k")) B->store_k[l->layer] = i;
            if (!strcmp(l->part, "cache_v")) B->store_v[l->layer] = i;
        }
    }
    return true;
}

/* ------------------------------------------------------------------ writing places */

static glia_place *place_of(const build *B, glia_point p, int32_t layer) {
    return &B->at->place[(size_t)p * (size_t)B->at->n_layer + (size_t)(glia_point_has_layer(p) ? layer : 0)];
}

static void absent(const build *B, glia_point p, int32_t layer, const char *why) {
    glia_place *pl = place_of(B, p, layer);
    pl->grade = GLIA_GRADE_ABSENT, pl->node = -1, pl->width = 0;
    (void)snprintf(pl->reason, sizeof pl->reason, "%s", why);
}

/* Accept node i as point p if its shape is rows of f32 over the token or output axis. */
static void put(const build *B, glia_point p, int32_t layer, int32_t i, int32_t head_dim) {
    const glia_gnode *x = node_at(B, i), *y = i >= 0 ? &B->b->nodes[i] : NULL;
    glia_place *pl = place_of(B, p, layer);
    if (!x) {
        absent(B, p, layer, "not found in this model's graph");
        return;
    }
    if (x->type != GGML_TYPE_F32) {
        absent(B, p, layer, "not stored as float32 in this model's graph");
        return;
    }
    int axis = 0;
    for (int d = 0; d < 4; d++) {
        if (x->ne[d] == y->ne[d]) continue;
        if (axis || d == 0) {
            absent(B, p, layer, "its rows do not lie along one axis");
            return;
        }
        axis = d;
    }
    int32_t tn = B->at->token_node, on = B->at->out_node; /* their rows are the tokens, the outputs */
    bool by_tokens = axis && x->ne[axis] == B->g->nodes[tn].ne[1] && y->ne[axis] == B->b->nodes[tn].ne[1];
    bool by_outputs = axis && x->ne[axis] == B->g->nodes[on].ne[1] && y->ne[axis] == B->b->nodes[on].ne[1];
    if (axis < 1 || axis > 2 || by_tokens == by_outputs || (axis == 1 && x->ne[2] * x->ne[3] != 1) ||
        (axis == 2 && x->ne[3] != 1)) {
        absent(B, p, layer, "its rows are not the tokens of the batch");
        return;
    }
    *pl = (glia_place){.grade = GLIA_GRADE_STRUCTURAL,
                       .node = i,
                       .row_axis = (uint8_t)axis,
                       .row_kind = by_tokens ? GLIA_ROWS_TOKENS : GLIA_ROWS_OUTPUTS,
                       .width = (int32_t)(axis == 1 ? x->ne[0] : x->ne[0] * x->ne[1])};
    pl->node_width = pl->width;
    if (head_dim > 0 && pl->width % head_dim == 0) { pl->head_dim = head_dim, pl->n_heads = pl->width / head_dim; }
}

/* ------------------------------------------------------------------ one layer */

/* Queries (keys, values) as they enter the attention → before RoPE; *rot: the ROPE node, NONE when there is none.
 * Skips what only rescales or rotates for a quantized cache. */
static int32_t before_rope(const build *B, int32_t i, int32_t *rot) {
    *rot = NONE;
    for (;;) {
        i = strip(B, i);
        const glia_gnode *n = node_at(B, i);
        if (!n) return NONE;
        if (n->op == GGML_OP_SCALE) {
            i = n->src[0];
            continue;
        }
        if (n->op == GGML_OP_MUL_MAT) {
            const glia_gleaf *l = root_leaf(B, n->src[0]);
            if (l && (!strcmp(l->name, "attn_inp_k_rot") || !strcmp(l->name, "attn_inp_v_rot"))) {
                i = n->src[1];
                continue;
            }
        }
        if (n->op == GGML_OP_MUL && is_leaf_named(B, leaf_operand(B, i), "inp_attn_scale")) {
            i = node_operand(B, i);
            continue;
        }
        int32_t s = norm_source(B, i); /* some models normalise after RoPE */
        if (s != NONE && op_of(B, s) == GGML_OP_ROPE) {
            i = s;
            continue;
        }
        if (n->op != GGML_OP_ROPE) return i;
        *rot = i;
        return strip(B, n->src[0]);
    }
}

static void put_rotated(const build *B, glia_point p, int32_t il, int32_t rot, int32_t hd) {
    if (rot == NONE) absent(B, p, il, "this layer has no RoPE");
    else put(B, p, il, rot, hd);
}

static void no_heads(const build *B, int32_t il, const char *why) {
    static const glia_point points[] = {GLIA_POINT_Q, GLIA_POINT_K, GLIA_POINT_Q_ROT, GLIA_POINT_K_ROT,
                                        GLIA_POINT_VALUE};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) absent(B, points[i], il, why);
}

static void attention(const build *B, int32_t il, int32_t *hd_out) {
    int32_t core = B->core[il], hd = 0, hd_v = 0, rot;
    if (core < 0) {
        no_heads(B, il, "this layer has no attention over a KV cache");
    } else {
        bool fa = op_of(B, core) == GGML_OP_FLASH_ATTN_EXT;
        int32_t q = src_of(B, core, fa ? 0 : 1);
        hd = (int32_t)node_at(B, q)->ne[0];
        if (B->store_v[il] < 0) { /* multi-head latent attention caches no V: q, k are not per-head projections */
            no_heads(B, il, "latent attention: no per-head queries, keys and values of the usual shape");
        } else {
            put(B, GLIA_POINT_Q, il, before_rope(B, q, &rot), hd);
            put_rotated(B, GLIA_POINT_Q_ROT, il, rot, hd);
            int32_t sk = B->store_k[il];
            if (sk < 0) {
                absent(B, GLIA_POINT_K, il, "this layer reuses the keys of another");
                absent(B, GLIA_POINT_K_ROT, il, "this layer reuses the keys of another");
            } else {
                put(B, GLIA_POINT_K, il, before_rope(B, src_of(B, sk, 0), &rot), hd);
                put_rotated(B, GLIA_POINT_K_ROT, il, rot, hd);
            }
            int32_t v = src_of(B, B->store_v[il], 0);
            for (;;) {
                int32_t w = before_rope(B, v, &rot);
                if (op_of(B, w) != GGML_OP_CONT) {
                    v = w;
                    break;
                }
                v = src_of(B, w, 0);
            }
            int32_t op = W(B, il, "attn_output.weight"), nh = (int32_t)node_at(B, core)->ne[fa ? 1 : 2];
            const glia_gleaf *wo = op == NONE ? NULL : leaf_at(B, src_of(B, op, 0)); /* [n_heads * head_dim, n_embd] */
            hd_v = wo && nh > 0 ? (int32_t)(wo->ne[0] / nh) : hd;
            put(B, GLIA_POINT_VALUE, il, v, hd_v);
        }
    }
    *hd_out = hd_v;
}

static void output_projection(const build *B, int32_t il, int32_t head_dim, int32_t *attn_out) {
    int32_t op = W(B, il, "attn_output.weight", "ssm_out.weight", "shortconv.out_proj.weight");
    *attn_out = NONE;
    if (op == NONE) {
        absent(B, GLIA_POINT_Z, il, "this layer has no output projection");
        absent(B, GLIA_POINT_ATTN_OUT, il, "this layer has no output projection");
        return;
    }
    int32_t z = src_of(B, op, 1), gated = strip(B, z);
    if (op_of(B, gated) == GGML_OP_MUL) { /* gated attention: z is before the gate */
        int32_t a = src_of(B, gated, 0), b = src_of(B, gated, 1);
        if (op_of(B, strip(B, b)) == GGML_OP_UNARY) z = a;
        else if (op_of(B, strip(B, a)) == GGML_OP_UNARY) z = b;
    }
    /* flash attention splits its rows by stream; the reshaping behind it has them in one axis */
    const glia_gnode *n = node_at(B, z);
    if (!n || n->op != GGML_OP_RESHAPE || n->ne[2] * n->ne[3] != 1) z = strip(B, z);
    if (B->core[il] >= 0) put(B, GLIA_POINT_Z, il, z, head_dim);
    else absent(B, GLIA_POINT_Z, il, "this layer has no attention heads");
    *attn_out = close_projection(B, op);
    put(B, GLIA_POINT_ATTN_OUT, il, *attn_out, 0);
}

/* One half of a node's rows, for branches that are computed as one product. */
static void put_half(const build *B, glia_point p, int32_t il, int32_t i, bool second) {
    put(B, p, il, i, 0);
    glia_place *pl = place_of(B, p, il);
    if (pl->grade == GLIA_GRADE_ABSENT) return;
    if (pl->row_axis != 1 || pl->width % 2) {
        absent(B, p, il, "its two branches cannot be told apart");
        return;
    }
    pl->width /= 2, pl->column = second ? pl->width : 0;
}

/* What the activation function was applied to, and what its result was multiplied by. */
static void branches(const build *B, int32_t il, int32_t act) {
    const glia_gnode *n = node_at(B, act);
    int32_t pre = NONE, linear = NONE;
    if (n && n->op == GGML_OP_GLU && n->n_src > 1 && n->src[1] != NONE) {
        pre = n->src[0], linear = n->src[1];
    } else if (n && n->op == GGML_OP_GLU) { /* op parameter 1: the gate is the second half */
        put_half(B, GLIA_POINT_MLP_PRE, il, strip(B, n->src[0]), n->param[1] != 0);
        put_half(B, GLIA_POINT_MLP_LINEAR, il, strip(B, n->src[0]), n->param[1] == 0);
        return;
    } else if (n && n->op == GGML_OP_MUL) { /* unfused: activated gate times the other branch */
        int32_t a = strip(B, n->src[0]), b = strip(B, src_of(B, act, 1));
        if (op_of(B, a) == GGML_OP_UNARY) pre = src_of(B, a, 0), linear = b;
        else if (op_of(B, b) == GGML_OP_UNARY) pre = src_of(B, b, 0), linear = a;
    } else {
        int32_t a = act;
        if (op_of(B, a) == GGML_OP_SQR) a = strip(B, src_of(B, a, 0)); /* squared ReLU */
        if (op_of(B, a) == GGML_OP_UNARY) pre = src_of(B, a, 0);
    }
    if (pre == NONE) absent(B, GLIA_POINT_MLP_PRE, il, "the activation function was not recognised");
    else put(B, GLIA_POINT_MLP_PRE, il, strip(B, pre), 0);
    if (linear == NONE) absent(B, GLIA_POINT_MLP_LINEAR, il, "this MLP has no second branch");
    else put(B, GLIA_POINT_MLP_LINEAR, il, strip(B, linear), 0);
}

static void mlp(const build *B, int32_t il, int32_t *mlp_in) {
    int32_t up = W(B, il, "ffn_up.weight", "ffn_gate_up_exps.weight", "ffn_up_exps.weight", "ffn_gate_exps.weight");
    int32_t down = W(B, il, "ffn_down.weight");
    bool moe = W(B, il, "ffn_down_exps.weight") != NONE;
    *mlp_in = up == NONE ? NONE : strip(B, src_of(B, up, 1));
    if (up == NONE) absent(B, GLIA_POINT_MLP_IN, il, "this layer has no MLP");
    else put(B, GLIA_POINT_MLP_IN, il, *mlp_in, 0);
    if (moe || down == NONE) {
        const char *why = moe ? "mixture of experts: activations lie per expert" : "this layer has no MLP";
        absent(B, GLIA_POINT_MLP_PRE, il, why);
        absent(B, GLIA_POINT_MLP_LINEAR, il, why);
        absent(B, GLIA_POINT_MLP_ACT, il, why);
        absent(B, GLIA_POINT_MLP_OUT, il, why);
        return;
    }
    int32_t act = strip(B, src_of(B, down, 1));
    put(B, GLIA_POINT_MLP_ACT, il, act, 0);
    branches(B, il, act);
    put(B, GLIA_POINT_MLP_OUT, il, close_projection(B, down), 0);
}

/* The operand of ADD `sum` that is not the stream `known`; NONE unless exactly one is. */
static int32_t added_to(const build *B, int32_t sum, int32_t known) {
    if (op_of(B, sum) != GGML_OP_ADD) return NONE;
    int32_t a = ungr(B, src_of(B, sum, 0)), b = ungr(B, src_of(B, sum, 1));
    if (a < 0 || b < 0 || (a == known) == (b == known)) return NONE;
    return a == known ? b : a;
}

typedef struct trunk {
    int32_t pre, mid, post; /* ungr-normalised nodes, NONE: none */
} trunk;

static void residual(const build *B, int32_t il, const trunk *t, int32_t mlp_in) {
    if (t->pre == NONE) {
        absent(B, GLIA_POINT_RESID_PRE, il, "the layer's input was not recognised");
    } else {
        put(B, GLIA_POINT_RESID_PRE, il, t->pre, 0);
    }
    bool parallel = mlp_in != NONE && t->mid == NONE && t->pre != NONE;
    if (t->mid == NONE) {
        const char *why = parallel ? "attention and MLP run in parallel: nothing lies between them"
                                   : "the stream between attention and MLP was not recognised";
        absent(B, GLIA_POINT_RESID_MID, il, why);
        absent(B, GLIA_POINT_ATTN_OUT_POST, il, why);
        absent(B, GLIA_POINT_MLP_OUT_POST, il, why);
    } else {
        put(B, GLIA_POINT_RESID_MID, il, t->mid, 0);
        put(B, GLIA_POINT_ATTN_OUT_POST, il, added_to(B, t->mid, t->pre), 0);
        put(B, GLIA_POINT_MLP_OUT_POST, il, t->post == NONE ? NONE : added_to(B, t->post, t->mid), 0);
    }
    if (t->post == NONE) absent(B, GLIA_POINT_RESID_POST, il, "the layer's output was not recognised");
    else put(B, GLIA_POINT_RESID_POST, il, t->post, 0);
}

/* ------------------------------------------------------------------ ends of the graph */

static void find_canaries(build *B) {
    const glia_graph *g = B->g;
    glia_atlas *at = B->at;
    at->token_node = at->pos_node = at->out_node = at->cell_node = -1;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const glia_gnode *n = &g->nodes[i];
        if (n->op == GGML_OP_GET_ROWS && at->token_node < 0 && is_leaf_named(B, n->src[0], "token_embd.weight") &&
            is_leaf_named(B, n->src[1], "inp_tokens")) {
            at->token_node = i;
        }
        if (at->pos_node < 0 && (n->op == GGML_OP_ROPE || n->op == GGML_OP_GET_ROWS) &&
            is_leaf_named(B, n->src[1], "inp_pos")) {
            at->pos_node = i;
        }
        if (at->out_node < 0 && trims(B, i)) at->out_node = i;
        const glia_gleaf *l = n->op == GGML_OP_SET_ROWS ? leaf_at(B, n->view_of) : NULL;
        if (at->cell_node < 0 && l && !strcmp(l->part, "cache_k")) at->cell_node = i;
    }
    if (at->token_node < 0) at->refused = "the token ids cannot be read from this model's graph";
    else if (at->pos_node < 0) at->refused = "the positions cannot be read from this model's graph";
    else if (at->out_node < 0) at->refused = "the output rows cannot be read from this model's graph";
}

/* [final norm node, its source] */
static void find_final(const build *B, int32_t *norm, int32_t *source, int32_t *head) {
    *norm = *source = *head = NONE;
    for (int pass = 0; pass < 2 && *norm == NONE; pass++) {
        const char *w = pass ? "token_embd_norm.weight" : "output_norm.weight";
        for (int32_t i = B->g->n_nodes - 1; i >= 0; i--) {
            const glia_gnode *n = &B->g->nodes[i];
            if (n->op != GGML_OP_MUL || !is_leaf_named(B, leaf_operand(B, i), w)) continue;
            int32_t c = only_user(B, i);
            const glia_gleaf *l = c >= 0 && op_of(B, c) == GGML_OP_ADD ? leaf_at(B, leaf_operand(B, c)) : NULL;
            *norm = l && ends_with(l->name, "norm.bias") ? c : i;
            int32_t s = norm_source(B, *norm);
            *source = s == NONE ? NONE : ungr(B, s);
            break;
        }
    }
    for (int32_t i = B->g->n_nodes - 1; i >= 0 && *head == NONE; i--) {
        if (!strcmp(B->g->nodes[i].name, "result_output")) *head = i;
    }
}

static void classify(build *B) {
    int32_t L = B->at->n_layer, norm, last, head;
    find_final(B, &norm, &last, &head);
    put(B, GLIA_POINT_EMBEDDINGS, 0, B->at->token_node, 0);
    if (norm == NONE) absent(B, GLIA_POINT_FINAL_NORM, 0, "this model has no weighted final norm");
    else put(B, GLIA_POINT_FINAL_NORM, 0, norm, 0);
    put(B, GLIA_POINT_LM_HEAD, 0, head, 0);

    int32_t next_pre = last;
    for (int32_t il = L - 1; il >= 0; il--) { /* backwards: a layer's output is the next one's input */
        int32_t first = W(B, il, "attn_q.weight", "attn_qkv.weight", "attn_q_a.weight", "attn_kv_a_mqa.weight",
                          "ssm_in.weight", "shortconv.in_proj.weight");
        int32_t attn_in = first == NONE ? NONE : strip(B, src_of(B, first, 1));
        trunk t = {NONE, NONE, next_pre};
        if (attn_in == NONE) {
            absent(B, GLIA_POINT_ATTN_IN, il, "this layer has no attention");
        } else {
            put(B, GLIA_POINT_ATTN_IN, il, attn_in, 0);
            int32_t s = norm_source(B, attn_in);
            t.pre = ungr(B, s == NONE ? attn_in : s);
        }
        int32_t hd = 0, attn_out, mlp_in;
        attention(B, il, &hd);
        output_projection(B, il, hd, &attn_out);
        mlp(B, il, &mlp_in);
        if (mlp_in != NONE && t.pre != NONE) {
            int32_t s = norm_source(B, ungr(B, mlp_in));
            int32_t mid = ungr(B, s == NONE ? mlp_in : s);
            if (mid != t.pre) t.mid = mid;
        }
        residual(B, il, &t, mlp_in);
        next_pre = t.pre;
    }
}

glia_status glia_atlas_build(glia_atlas **out, const glia_graph *a, const glia_graph *b, int32_t n_layer,
                             glia_err *err) {
    build B = {.g = a, .b = b};
    glia_status st = GLIA_ENOMEM;
    *out = NULL;
    bool same = a->n_nodes == b->n_nodes && n_layer > 0;
    for (int32_t i = 0; same && i < a->n_nodes; i++) {
        same = a->nodes[i].op == b->nodes[i].op && !strcmp(a->nodes[i].name, b->nodes[i].name);
    }
    if (!same) return glia_fail(err, GLIA_EINTERNAL, "the model's graph changes its shape with the batch size");
    glia_atlas *at = B.at = glia_calloc(1, sizeof *at);
    if (!at) goto done;
    at->n_nodes = a->n_nodes, at->n_layer = n_layer;
    at->sig = glia_calloc((size_t)a->n_nodes, sizeof *at->sig);
    at->place = glia_calloc((size_t)GLIA_N_POINTS * (size_t)n_layer, sizeof *at->place);
    if (!at->sig || !at->place || !index_graph(&B, n_layer)) goto done;
    for (int32_t i = 0; i < a->n_nodes; i++) {
        at->sig[i].op = a->nodes[i].op;
        memcpy(at->sig[i].name, a->nodes[i].name, sizeof at->sig[i].name);
    }
    find_canaries(&B);
    if (!at->refused) {
        classify(&B);
    } else {
        for (int p = 0; p < GLIA_N_POINTS; p++) {
            for (int32_t il = 0; il < n_layer; il++) absent(&B, (glia_point)p, il, at->refused);
        }
    }
    *out = at, B.at = NULL, st = GLIA_OK;
done:
    if (st) glia_fail(err, st, "out of memory classifying the model's graph");
    glia_atlas_free(B.at);
    glia_free(B.uses);
    glia_free(B.first);
    glia_free(B.core);
    glia_free(B.store_k);
    glia_free(B.store_v);
    return st;
}

void glia_atlas_free(glia_atlas *at) {
    if (!at) return;
    glia_free(at->sig);
    glia_free(at->place);
    glia_free(at);
}

const glia_place *glia_atlas_place(const glia_atlas *at, glia_point p, int32_t layer) {
    if ((unsigned)p >= GLIA_N_POINTS) return NULL;
    if (!glia_point_has_layer(p)) return &at->place[(size_t)p * (size_t)at->n_layer];
    if (layer < 0 || layer >= at->n_layer) return NULL;
    return &at->place[(size_t)p * (size_t)at->n_layer + (size_t)layer];
}

/* tap/atlas_probs.c — where each layer's attention probabilities are made, and which KV cache they look at.
 *
 * Found backwards from the output projection, `blk.N.attn_output.weight`: its input leads over gates, rotations and value
 * products to the layer's SOFT_MAX or FLASH_ATTN_EXT, whose keys lead to a cache leaf, whose store names the input that
 * holds the cells of a pass.  Pure functions over glia_graph; node names are not trusted, names of leaves are. */
#include "atlas.h"
#include "ggml.h"
#include <stdio.h>
#include <string.h>

#define NONE GLIA_GRAPH_NO_SRC

static const glia_gnode *node_at(const glia_graph *g, int32_t i) { return i >= 0 ? &g->nodes[i] : NULL; }
static const glia_gleaf *leaf_at(const glia_graph *g, int32_t i) { return i < 0 && i != NONE ? &g->leafs[~i] : NULL; }
static int32_t src_of(const glia_gnode *n, int k) { return n && k < n->n_src ? n->src[k] : NONE; }

static bool moves(const glia_gnode *n) { /* the same numbers elsewhere, in another order or type */
    return n->op == GGML_OP_RESHAPE || n->op == GGML_OP_PERMUTE || n->op == GGML_OP_TRANSPOSE ||
           n->op == GGML_OP_VIEW || n->op == GGML_OP_CONT || n->op == GGML_OP_CPY;
}

/* The node or leaf below any chain of moves. */
static int32_t root(const glia_graph *g, int32_t i) {
    for (const glia_gnode *n; (n = node_at(g, i)) && moves(n);) i = src_of(n, 0);
    return i;
}

/* From a projection's input back to the attention that made it.  A gate's other factor ends at its activation. */
static int32_t attention_below(const glia_graph *g, int32_t i, int depth) {
    const glia_gnode *n = node_at(g, i);
    if (!n || depth > 24) return NONE;
    if (n->op == GGML_OP_FLASH_ATTN_EXT || (n->op == GGML_OP_SOFT_MAX && src_of(n, 1) != NONE)) return i;
    if (moves(n)) return attention_below(g, src_of(n, 0), depth + 1);
    if (n->op == GGML_OP_MUL_MAT) return attention_below(g, src_of(n, 1), depth + 1);
    if (n->op != GGML_OP_MUL) return NONE;
    int32_t a = attention_below(g, src_of(n, 0), depth + 1);
    return a != NONE ? a : attention_below(g, src_of(n, 1), depth + 1);
}

/* The keys that a SOFT_MAX's logits were made of: through scales, caps and biases to the product k·q. */
static int32_t keys_of(const glia_graph *g, const glia_gnode *n) {
    if (n->op == GGML_OP_FLASH_ATTN_EXT) return src_of(n, 1);
    for (const glia_gnode *x = node_at(g, src_of(n, 0)); x; x = node_at(g, src_of(x, 0))) {
        if (x->op == GGML_OP_MUL_MAT) return src_of(x, 0);
        if (!moves(x) && x->op != GGML_OP_SCALE && x->op != GGML_OP_UNARY && x->op != GGML_OP_ADD) return NONE;
    }
    return NONE;
}

/* ------------------------------------------------------------------ caches */

static bool is_key_store(const glia_graph *g, const glia_gnode *n) {
    const glia_gleaf *l = n->op == GGML_OP_SET_ROWS ? leaf_at(g, n->view_of) : NULL;
    return l && l->layer >= 0 && !strcmp(l->part, "cache_k");
}

/* While a pass runs, stores are told apart by their cache's name; some models keep two caches of one name in a layer. */
static bool name_is_unique(const glia_graph *g, const glia_gnode *store) {
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const glia_gnode *n = &g->nodes[i];
        if (n != store && is_key_store(g, n) && leaf_at(g, n->view_of)->layer == leaf_at(g, store->view_of)->layer) {
            return false;
        }
    }
    return true;
}

/* cells[c]: the leaf with the cells that cache c's stores write.  Index of the cache whose leaf is `cache`, -1: none. */
static int32_t cache_of(const glia_graph *g, const glia_atlas *at, const int32_t *cells, int32_t cache) {
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const glia_gnode *n = &g->nodes[i];
        if (!is_key_store(g, n) || n->view_of != cache) continue;
        int32_t idx = root(g, src_of(n, 1));
        for (int32_t c = 0; c < at->n_caches; c++) {
            if (cells[c] == idx) return c;
        }
        return -1;
    }
    return -1;
}

static void find_caches(const glia_graph *g, glia_atlas *at, int32_t *cells) {
    at->n_caches = 0;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const glia_gnode *n = &g->nodes[i];
        if (!is_key_store(g, n)) continue;
        int32_t idx = root(g, src_of(n, 1)), c = 0;
        while (c < at->n_caches && cells[c] != idx) c++;
        if (c < at->n_caches || !leaf_at(g, idx) || !name_is_unique(g, n) || at->n_caches == GLIA_MAX_CACHES) continue;
        cells[c] = idx, at->store_layer[c] = leaf_at(g, n->view_of)->layer;
        at->n_caches++;
    }
}

/* ------------------------------------------------------------------ layers */

static int32_t output_projection(const glia_graph *g, int32_t layer) {
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const glia_gleaf *l = g->nodes[i].op == GGML_OP_MUL_MAT ? leaf_at(g, g->nodes[i].src[0]) : NULL;
        if (l && l->layer == layer && !strcmp(l->part, "attn_output.weight")) return i;
    }
    return NONE;
}

/* Tokens of the batch lie along two dimensions: place in the stream, stream. */
static bool has_token_rows(const glia_graph *g, const glia_gnode *x, int32_t tokens) {
    return x->type == GGML_TYPE_F32 && x->ne[1] * x->ne[3] == g->nodes[tokens].ne[1];
}

static const char *find(const glia_graph *g, const glia_graph *b, glia_atlas *at, int32_t il, const int32_t *cells,
                        int32_t *n_heads, int32_t *group) {
    int32_t proj = output_projection(g, il);
    int32_t i = proj == NONE ? NONE : attention_below(g, g->nodes[proj].src[1], 0);
    const glia_gnode *n = node_at(g, i);
    if (!n) return "this layer has no attention over a KV cache";
    bool flash = n->op == GGML_OP_FLASH_ATTN_EXT;
    const glia_gnode *x = flash ? node_at(g, src_of(n, 0)) : n, *y = flash ? &b->nodes[src_of(n, 0)] : &b->nodes[i];
    const glia_gleaf *mask = leaf_at(g, root(g, src_of(n, flash ? 3 : 1)));
    if (!mask || strcmp(mask->name, "attn_inp_kq_mask") != 0)
        return "its mask is computed in the graph: sparse attention";
    int32_t k = keys_of(g, n), cache = k == NONE ? NONE : root(g, k);
    if (!leaf_at(g, cache) || strcmp(leaf_at(g, cache)->part, "cache_k") != 0)
        return "its keys are not those of a KV cache";
    int32_t c = cache_of(g, at, cells, cache);
    if (c < 0) return "the cells of its KV cache cannot be told apart";
    if (!x || !has_token_rows(g, x, at->token_node) || !has_token_rows(b, y, at->token_node)) {
        return "its rows are not the tokens of the batch";
    }
    int32_t logits = flash ? -1 : n->src[0];
    if (!flash && (logits < 0 || memcmp(g->nodes[logits].ne, n->ne, sizeof n->ne) != 0 ||
                   g->nodes[logits].type != GGML_TYPE_F32)) {
        return "its logits were not recognised";
    }
    int64_t kv = k >= 0 ? g->nodes[k].ne[2] : 0;
    if (kv < 1 || x->ne[2] % kv) return "its key heads were not recognised";
    *n_heads = (int32_t)x->ne[2], *group = (int32_t)(x->ne[2] / kv);
    at->attn[il] = (glia_attn){.node = i, .logits = logits, .cache = c, .flash = flash};
    if (!flash) {
        memcpy(&at->attn[il].scale, n->param, sizeof(float));
        memcpy(&at->attn[il].max_bias, (const char *)n->param + sizeof(float), sizeof(float));
    }
    return NULL;
}

static void put(glia_atlas *at, glia_point p, int32_t il, const char *why, int32_t n_heads, int32_t group) {
    glia_place *pl = &at->place[(size_t)p * (size_t)at->n_layer + (size_t)il];
    *pl = (glia_place){.node = -1, .by_proof = true};
    (void)snprintf(pl->reason, sizeof pl->reason, "%s", why ? why : "");
    if (why) return;
    pl->grade = GLIA_GRADE_STRUCTURAL, pl->node = at->attn[il].node;
    pl->n_heads = n_heads, pl->group = group, pl->row_kind = GLIA_ROWS_TOKENS;
}

void glia_atlas_find_probs(glia_atlas *at, const glia_graph *a, const glia_graph *b) {
    static const glia_point of_query_heads[] = {GLIA_POINT_Q, GLIA_POINT_Q_ROT, GLIA_POINT_Q_NORM_IN, GLIA_POINT_Z,
                                                GLIA_POINT_Z_GATED};
    int32_t cells[GLIA_MAX_CACHES];
    find_caches(a, at, cells);
    for (int32_t il = 0; il < at->n_layer; il++) {
        int32_t n_heads = 0, group = 0;
        at->attn[il] = (glia_attn){.node = -1, .logits = -1, .cache = -1};
        const char *why = find(a, b, at, il, cells, &n_heads, &group);
        put(at, GLIA_POINT_ATTN_SCORES, il, why, n_heads, group);
        put(at, GLIA_POINT_ATTN_PROBS, il, why, n_heads, group);
        for (size_t i = 0; !why && i < sizeof of_query_heads / sizeof *of_query_heads; i++) {
            glia_place *pl = &at->place[(size_t)of_query_heads[i] * (size_t)at->n_layer + (size_t)il];
            if (pl->n_heads == n_heads) pl->group = group;
        }
    }
}

void glia_atlas_refuse_point(glia_atlas *at, glia_point p, int32_t layer, const char *why) {
    glia_place *pl = &at->place[(size_t)p * (size_t)at->n_layer + (size_t)(glia_point_has_layer(p) ? layer : 0)];
    *pl = (glia_place){.node = -1, .by_proof = true};
    (void)snprintf(pl->reason, sizeof pl->reason, "%s", why);
}

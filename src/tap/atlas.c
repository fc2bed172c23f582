/* tap/atlas.c — classification of a graph's nodes into points, by structure: indexes, places, the residual stream and
 * the ends of the graph.  One layer's mixer is atlas_attn.c, its MLP atlas_mlp.c; the vocabulary is walk.h. */
#include "atlas.h"
#include "base/err.h"
#include "base/mem.h"
#include "walk.h"
#include <stdio.h>

/* ------------------------------------------------------------------ indexes over the graph */

int32_t glia_build_weight(const glia_build *B, int32_t il, const char *const *parts) {
    for (; *parts; parts++) {
        for (int32_t u = B->first[il]; u >= 0; u = B->uses[u].next) {
            if (!strcmp(B->uses[u].part, *parts)) return B->uses[u].node;
        }
    }
    return NONE;
}

/* Hyper-connections, alternating updates, attention over earlier layers: several residual streams, mixed per block. */
static bool mixes_streams(const glia_gleaf *l) {
    return l->layer >= 0 && l->part != l->name &&
           (!strncmp(l->part, "hc_", 3) || !strncmp(l->part, "altup_", 6) || strstr(l->part, "_res_score."));
}

static bool index_graph(glia_build *B, int32_t n_layer) {
    const glia_graph *g = B->g;
    size_t n = (size_t)n_layer;
    B->uses = glia_calloc((size_t)g->n_nodes, sizeof *B->uses);
    B->first = glia_malloc(n * sizeof *B->first);
    B->core = glia_malloc(n * sizeof *B->core);
    B->store_k = glia_malloc(n * sizeof *B->store_k);
    B->store_v = glia_malloc(n * sizeof *B->store_v);
    if (!B->uses || !B->first || !B->core || !B->store_k || !B->store_v) return false;
    for (int32_t l = 0; l < n_layer; l++) B->first[l] = B->core[l] = B->store_k[l] = B->store_v[l] = -1;
    for (int32_t i = 0; i < g->n_leafs; i++) B->many_streams |= mixes_streams(&g->leafs[i]);

    for (int32_t i = g->n_nodes - 1; i >= 0; i--) { /* backwards: lists then run forwards, first match wins */
        const glia_gnode *d = &g->nodes[i];
        const glia_gleaf *l;
        if (d->op == GGML_OP_MUL_MAT || d->op == GGML_OP_MUL_MAT_ID) {
            l = leaf_at(B, d->src[0]);
            if (l && l->layer >= 0 && l->layer < n_layer && l->part != l->name && ends_with(l->part, ".weight")) {
                B->loops |= glia_build_weight(B, l->layer, (const char *const[]){l->part, NULL}) != NONE;
                B->uses[B->n_uses] = (glia_weight_use){.node = i, .next = B->first[l->layer], .part = l->part};
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

static glia_place *place_of(const glia_build *B, glia_point p, int32_t layer) {
    return &B->at->place[(size_t)p * (size_t)B->at->n_layer + (size_t)(glia_point_has_layer(p) ? layer : 0)];
}

void glia_build_absent(const glia_build *B, glia_point p, int32_t il, const char *why) {
    glia_place *pl = place_of(B, p, il);
    *pl = (glia_place){.grade = GLIA_GRADE_ABSENT, .node = -1};
    (void)snprintf(pl->reason, sizeof pl->reason, "%s", why);
}

static glia_place *reject(const glia_build *B, glia_point p, int32_t il, const char *why) {
    glia_build_absent(B, p, il, why);
    return NULL;
}

/* The axis along which a's and b's sizes differ; 0: none or not one. */
static int row_axis(const glia_gnode *x, const glia_gnode *y) {
    int axis = 0;
    for (int d = 0; d < 4; d++) {
        if (x->ne[d] == y->ne[d]) continue;
        if (axis || d == 0) return 0;
        axis = d;
    }
    return axis;
}

glia_place *glia_build_put(const glia_build *B, glia_point p, int32_t il, int32_t i, int32_t head_dim) {
    const glia_gnode *x = node_at(B, i), *y = i >= 0 ? &B->b->nodes[i] : NULL;
    glia_place *pl = place_of(B, p, il);
    if (!x) return reject(B, p, il, "not found in this model's graph");
    bool integers = x->type == GGML_TYPE_I32;
    if (x->type != GGML_TYPE_F32 && !integers) return reject(B, p, il, "not stored as float32 in this model's graph");
    int axis = row_axis(x, y);
    if (!axis) return reject(B, p, il, "its rows do not lie along one axis");
    int32_t tn = B->at->token_node, on = B->at->out_node; /* their rows are the tokens, the outputs */
    bool by_tokens = x->ne[axis] == B->g->nodes[tn].ne[1] && y->ne[axis] == B->b->nodes[tn].ne[1];
    bool by_outputs = x->ne[axis] == B->g->nodes[on].ne[1] && y->ne[axis] == B->b->nodes[on].ne[1];
    if (axis > 2 || by_tokens == by_outputs || (axis == 1 && x->ne[2] * x->ne[3] != 1) ||
        (axis == 2 && x->ne[3] != 1)) {
        return reject(B, p, il, "its rows are not the tokens of the batch");
    }
    *pl = (glia_place){.grade = GLIA_GRADE_STRUCTURAL,
                       .node = i,
                       .row_axis = (uint8_t)axis,
                       .row_kind = by_tokens ? GLIA_ROWS_TOKENS : GLIA_ROWS_OUTPUTS,
                       .integers = integers,
                       .width = (int32_t)(axis == 1 ? x->ne[0] : x->ne[0] * x->ne[1])};
    pl->node_width = pl->width;
    if (head_dim > 0 && pl->width % head_dim == 0) { pl->head_dim = head_dim, pl->n_heads = pl->width / head_dim; }
    return pl;
}

/* The same, with the epsilon of the norm that i is the result of, but for a scale. */
static void put_normed(const glia_build *B, glia_point p, int32_t il, int32_t i) {
    glia_place *pl = glia_build_put(B, p, il, i, 0);
    if (!pl) return;
    for (i = ungr(B, i); op_of(B, i) == GGML_OP_SCALE; i = ungr(B, src_of(B, i, 0))) {}
    pl->eps = norm_epsilon(B, norm_node(B, i));
}

/* ------------------------------------------------------------------ the residual stream of one layer */

/* The operand of ADD `sum` that is not the stream `known`; NONE unless exactly one is. */
static int32_t added_to(const glia_build *B, int32_t sum, int32_t known) {
    if (op_of(B, sum) != GGML_OP_ADD) return NONE;
    int32_t a = ungr(B, src_of(B, sum, 0)), b = ungr(B, src_of(B, sum, 1));
    if (a < 0 || b < 0 || (a == known) == (b == known)) return NONE;
    return a == known ? b : a;
}

/* In a chain of sums ending in `sum` and holding the stream `known`: the term that `from` leads to.  *open: there are terms
 * besides the stream, this one and the one that `beside` leads to. */
static int32_t term_from(const glia_build *B, int32_t sum, int32_t known, int32_t from, int32_t beside, bool *open) {
    int32_t term[8], n = 0, found = NONE;
    bool holds = false;
    if (sum == NONE || from == NONE || known == NONE) return NONE;
    term[n++] = sum;
    for (int32_t k = 0; k < n; k++) {
        int32_t i = ungr(B, term[k]);
        bool sums = op_of(B, i) == GGML_OP_ADD && src_of(B, i, 0) >= 0 && src_of(B, i, 1) >= 0; /* not: adds a bias */
        if (i == known) holds = true;
        else if (derives(B, i, from)) found = i;
        else if (beside != NONE && derives(B, i, beside)) continue;
        else if (sums && n + 2 <= 8) term[n++] = src_of(B, i, 0), term[n++] = src_of(B, i, 1);
        else *open = true;
    }
    return holds ? found : NONE;
}

static void put_added(const glia_build *B, glia_point p, int32_t il, int32_t term, const char *why) {
    if (term == NONE) glia_build_absent(B, p, il, why);
    else put_normed(B, p, il, term);
}

static void residual(const glia_build *B, const glia_build_layer *l) {
    int32_t il = l->il;
    bool mixer = l->attn_in != NONE, mlp = l->mlp_in != NONE;
    bool open = false;
    if (B->many_streams) {
        static const glia_point points[] = {GLIA_POINT_RESID_PRE, GLIA_POINT_RESID_MID, GLIA_POINT_RESID_POST,
                                            GLIA_POINT_ATTN_OUT_POST, GLIA_POINT_MLP_OUT_POST};
        for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
            glia_build_absent(B, points[i], il, "this model mixes several residual streams anew for each block");
        }
        return;
    }
    if (l->pre == NONE) glia_build_absent(B, GLIA_POINT_RESID_PRE, il, "the layer's input was not recognised");
    else glia_build_put(B, GLIA_POINT_RESID_PRE, il, l->pre, 0);
    if (l->post == NONE) glia_build_absent(B, GLIA_POINT_RESID_POST, il, "the layer's output was not recognised");
    else glia_build_put(B, GLIA_POINT_RESID_POST, il, l->post, 0);
    if (!mixer || !mlp || l->mid == NONE) {
        const char *why = !mixer && !mlp ? "the stream between attention and MLP was not recognised"
                          : !mlp         ? "this layer has no MLP: nothing lies between"
                          : !mixer       ? "this layer has no attention: nothing lies between"
                                         : "attention and MLP run in parallel: nothing lies between them";
        glia_build_absent(B, GLIA_POINT_RESID_MID, il, why);
        const char *unclear = "what it adds is no tensor of its own";
        int32_t attn = term_from(B, l->post, l->pre, l->attn_out, l->mlp_out, &open);
        int32_t out = term_from(B, l->post, l->pre, l->mlp_out, l->attn_out, &open);
        put_added(B, GLIA_POINT_ATTN_OUT_POST, il, attn, mixer ? unclear : "this layer has no attention");
        put_added(B, GLIA_POINT_MLP_OUT_POST, il, out, mlp ? unclear : "this layer has no MLP");
        place_of(B, GLIA_POINT_RESID_POST, il)->more_terms = open;
        return;
    }
    int32_t attn = added_to(B, l->mid, l->pre), out = added_to(B, l->post, l->mid);
    if (out == NONE) {
        out = term_from(B, l->post, l->mid, l->mlp_out, NONE, &open);
        place_of(B, GLIA_POINT_RESID_POST, il)->more_terms = open;
    }
    glia_build_put(B, GLIA_POINT_RESID_MID, il, l->mid, 0);
    put_added(B, GLIA_POINT_ATTN_OUT_POST, il, attn, "the attention adds to more than one stream");
    put_added(B, GLIA_POINT_MLP_OUT_POST, il, out, "the MLP adds to more than one stream");
}

/* ------------------------------------------------------------------ ends of the graph */

/* The first attention with a mask over a KV cache: its SOFT_MAX or FLASH_ATTN_EXT. */
static bool reads_mask(const glia_build *B, int32_t i) {
    int k = op_of(B, i) == GGML_OP_SOFT_MAX ? 1 : op_of(B, i) == GGML_OP_FLASH_ATTN_EXT ? 3 : -1;
    return k >= 0 && is_leaf_named(B, strip(B, src_of(B, i, k)), "attn_inp_kq_mask");
}

static void find_canaries(glia_build *B) {
    const glia_graph *g = B->g;
    glia_atlas *at = B->at;
    int32_t mask = -1, state = -1;
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
        if (mask < 0 && reads_mask(B, i)) mask = i;
        const glia_gleaf *rs = state < 0 && n->n_src > 1 ? root_leaf(B, n->src[1]) : NULL;
        if (rs && !strcmp(rs->name, "rs_s_copy")) state = i;
    }
    at->pos_proof = GLIA_POS_INPUT;
    if (at->pos_node < 0 && mask >= 0 && at->cell_node >= 0 && at->cell_node < mask) {
        at->pos_proof = GLIA_POS_MASK, at->pos_node = mask;
    } else if (at->pos_node < 0 && at->cell_node < 0 && state >= 0) {
        at->pos_proof = GLIA_POS_STATE;
    } else if (at->pos_node < 0) {
        at->refused = "the positions cannot be read from this model's graph";
    }
    if (at->token_node < 0) at->refused = "the token ids cannot be read from this model's graph";
    else if (!at->refused && at->out_node < 0) at->refused = "the output rows cannot be read from this model's graph";
}

/* The final norm, what it is taken of, and the logits. */
static void find_final(const glia_build *B, int32_t *norm, int32_t *source, int32_t *head) {
    const glia_graph *g = B->g;
    *norm = *source = *head = NONE;
    for (int pass = 0; pass < 2 && *norm == NONE; pass++) {
        const char *w = pass ? "token_embd_norm.weight" : "output_norm.weight";
        for (int32_t i = g->n_nodes - 1; i >= 0; i--) {
            const glia_gnode *n = &g->nodes[i];
            if (n->op != GGML_OP_MUL || !is_leaf_named(B, leaf_operand(B, i), w)) continue;
            int32_t c = only_user(B, i);
            const glia_gleaf *l = c >= 0 && op_of(B, c) == GGML_OP_ADD ? leaf_at(B, leaf_operand(B, c)) : NULL;
            *norm = l && ends_with(l->name, "norm.bias") ? c : i;
            break;
        }
    }
    for (int32_t i = g->n_nodes - 1; i >= 0 && *head == NONE; i--) {
        if (!strcmp(g->nodes[i].name, "result_output")) *head = i;
    }
    for (int32_t i = g->n_nodes - 1; i >= 0 && (*head == NONE || *norm == NONE); i--) {
        const glia_gnode *n = &g->nodes[i];
        if (n->op != GGML_OP_MUL_MAT ||
            !(is_leaf_named(B, n->src[0], "output.weight") || is_leaf_named(B, n->src[0], "token_embd.weight")))
            continue;
        if (*head == NONE && i == g->n_nodes - 1) *head = i; /* the graph ends in logits that nobody named */
        if (*norm == NONE && norm_node(B, src_of(B, i, 1)) != NONE) *norm = strip(B, src_of(B, i, 1)); /* weightless */
        break;
    }
    int32_t s = *norm == NONE ? NONE : norm_source(B, *norm);
    *source = s == NONE ? NONE : ungr(B, s);
}

static int32_t stream_of(const glia_build *B, int32_t in) {
    int32_t s = in == NONE ? NONE : norm_source(B, ungr(B, in));
    return in == NONE ? NONE : ungr(B, s == NONE ? in : s);
}

static void classify(glia_build *B) {
    int32_t L = B->at->n_layer, norm, last, head;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int32_t il = 0; il < L; il++) {
            glia_build_absent(B, (glia_point)p, il, "not found in this model's graph");
        }
    }
    find_final(B, &norm, &last, &head);
    glia_build_put(B, GLIA_POINT_EMBEDDINGS, 0, B->at->token_node, 0);
    if (norm == NONE) glia_build_absent(B, GLIA_POINT_FINAL_NORM, 0, "this model has no final norm");
    else put_normed(B, GLIA_POINT_FINAL_NORM, 0, norm);
    glia_build_put(B, GLIA_POINT_LM_HEAD, 0, head, 0);

    int32_t next_pre = last;
    for (int32_t il = L - 1; il >= 0; il--) { /* backwards: a layer's output is the next one's input */
        int32_t first = W(B, il, "attn_q.weight", "attn_qkv.weight", "attn_q_a.weight", "attn_kv_a_mqa.weight",
                          "ssm_in.weight", "shortconv.in_proj.weight");
        glia_build_layer l = {.il = il, .attn_in = NONE, .mid = NONE, .post = next_pre};
        if (first == NONE) {
            glia_build_absent(B, GLIA_POINT_ATTN_IN, il, "this layer has no attention");
        } else {
            l.attn_in = strip(B, src_of(B, first, 1));
            put_normed(B, GLIA_POINT_ATTN_IN, il, l.attn_in);
        }
        l.mlp_in = glia_build_mlp_in(B, il);
        l.pre = stream_of(B, l.attn_in != NONE ? l.attn_in : l.mlp_in);
        if (l.attn_in != NONE && l.mlp_in != NONE) {
            int32_t mid = stream_of(B, l.mlp_in);
            if (mid != l.pre) l.mid = mid;
        }
        glia_build_attention(B, &l);
        glia_build_mlp(B, &l);
        if (l.mlp_in != NONE) put_normed(B, GLIA_POINT_MLP_IN, il, l.mlp_in);
        residual(B, &l);
        next_pre = l.pre;
    }
}

static bool is_view(int32_t op) {
    return op == GGML_OP_VIEW || op == GGML_OP_RESHAPE || op == GGML_OP_PERMUTE || op == GGML_OP_TRANSPOSE;
}

/* The node whose memory node i shows: itself unless it is a view.  < 0: a leaf's. */
static int32_t memory_of(const glia_graph *g, int32_t i) {
    while (i >= 0) {
        const glia_gnode *n = &g->nodes[i];
        if (!is_view(n->op)) return i;
        i = n->n_src > 0 ? n->src[0] : -1;
    }
    return i;
}

/* A node can be changed when it runs if whatever reads its memory runs after it: a place may be a view whose source was
 * already read by others. */
static void find_early_readers(glia_atlas *at, const glia_graph *g) {
    for (int32_t i = 0; i < GLIA_N_POINTS * at->n_layer; i++) {
        glia_place *pl = &at->place[i];
        if (pl->node < 0 || pl->grade < GLIA_GRADE_STRUCTURAL) continue;
        int32_t memory = memory_of(g, pl->node);
        pl->read_before = memory < 0;
        for (int32_t k = memory + 1; memory >= 0 && k < pl->node; k++) {
            if (memory_of(g, k) != k) continue; /* views read nothing */
            for (int32_t s = 0; s < g->nodes[k].n_src; s++) {
                pl->read_before |= g->nodes[k].src[s] >= 0 && memory_of(g, g->nodes[k].src[s]) == memory;
            }
        }
    }
}

/* The product with the output matrix, when the rest of the graph works on each row and each logit by itself. */
static int32_t find_logits(const glia_build *B) {
    const glia_graph *g = B->g;
    for (int32_t i = g->n_nodes - 1; i >= 0; i--) {
        const glia_gnode *n = &g->nodes[i];
        if (n->op == GGML_OP_MUL_MAT)
            return is_leaf_named(B, n->src[0], "output.weight") || is_leaf_named(B, n->src[0], "token_embd.weight") ? i
                                                                                                                   : NONE;
        if (n->op != GGML_OP_SCALE && n->op != GGML_OP_UNARY && n->op != GGML_OP_ADD && n->op != GGML_OP_MUL) return NONE;
    }
    return NONE;
}

/* How far a pass must run at least: for its rows to be proven, and for its caches and states to be whole. */
static void find_ends(glia_atlas *at, const glia_graph *g, const int32_t *store_k) {
    at->last_store = -1;
    at->last_proof = at->token_node > at->pos_node ? at->token_node : at->pos_node;
    if (at->cell_node > at->last_proof) at->last_proof = at->cell_node;
    for (int32_t k = 0; k < at->n_caches; k++) {
        if (store_k[at->store_layer[k]] > at->last_proof) at->last_proof = store_k[at->store_layer[k]];
    }
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const glia_gnode *n = &g->nodes[i];
        if (n->view_of < 0 && n->view_of != GLIA_GRAPH_NO_SRC && !is_view(n->op)) at->last_store = i;
    }
}

glia_status glia_atlas_build(glia_atlas **out, const glia_graph *a, const glia_graph *b, int32_t n_layer,
                             glia_err *err) {
    glia_build B = {.g = a, .b = b};
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
    at->rule = glia_calloc((size_t)n_layer, sizeof *at->rule);
    at->attn = glia_calloc((size_t)n_layer, sizeof *at->attn);
    if (!at->sig || !at->place || !at->rule || !at->attn || !index_graph(&B, n_layer)) goto done;
    for (int32_t i = 0; i < a->n_nodes; i++) {
        at->sig[i].op = a->nodes[i].op;
        memcpy(at->sig[i].name, a->nodes[i].name, sizeof at->sig[i].name);
    }
    find_canaries(&B);
    if (B.loops) at->refused = "this model runs its layers several times in one pass: a layer's number is not enough";
    if (at->refused) {
        glia_atlas_refuse(at, at->refused);
    } else {
        classify(&B);
        glia_atlas_find_probs(at, a, b);
        glia_build_derived(&B);
        find_early_readers(at, a);
        find_ends(at, a, B.store_k);
        at->logits_node = find_logits(&B);
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

void glia_atlas_refuse(glia_atlas *at, const char *why) {
    at->refused = why;
    for (size_t i = 0; i < (size_t)GLIA_N_POINTS * (size_t)at->n_layer; i++) {
        at->place[i] = (glia_place){.grade = GLIA_GRADE_ABSENT, .node = -1};
        (void)snprintf(at->place[i].reason, sizeof at->place[i].reason, "%s", why);
    }
}

bool glia_atlas_fits(const glia_atlas *at, const glia_graph *g) {
    bool same = at->n_nodes == g->n_nodes;
    for (int32_t i = 0; same && i < g->n_nodes; i++) {
        same = at->sig[i].op == g->nodes[i].op && !strcmp(at->sig[i].name, g->nodes[i].name);
    }
    return same;
}

void glia_atlas_free(glia_atlas *at) {
    if (!at) return;
    glia_free(at->sig);
    glia_free(at->place);
    glia_free(at->rule);
    glia_free(at->attn);
    glia_free(at);
}

const glia_place *glia_atlas_place(const glia_atlas *at, glia_point p, int32_t layer) {
    if ((unsigned)p >= GLIA_N_POINTS) return NULL;
    if (!glia_point_has_layer(p)) return &at->place[(size_t)p * (size_t)at->n_layer];
    if (layer < 0 || layer >= at->n_layer) return NULL;
    return &at->place[(size_t)p * (size_t)at->n_layer + (size_t)layer];
}

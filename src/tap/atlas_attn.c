/* tap/atlas_attn.c — one layer's mixer: attention heads and their gates, state-space scans, short convolutions, and the
 * projection that leads back to the residual stream.  Pure; see walk.h for the vocabulary. */
#include "walk.h"
#include <math.h>

/* Queries (keys, values) on their way back from the attention to the projection. */
typedef struct way_back {
    int32_t plain;     /* before RoPE */
    int32_t rot;       /* the ROPE node, NONE: none */
    int32_t norm_late; /* a norm behind RoPE, NONE: none */
    float scale;       /* product of the scales in between */
    bool opaque;       /* something in between that is no plain scale: temperature by position */
} way_back;

/* Skips what only rescales or rotates for a quantized cache. */
static way_back before_rope(const glia_build *B, int32_t i) {
    way_back w = {.plain = NONE, .rot = NONE, .norm_late = NONE, .scale = 1};
    for (;;) {
        i = strip(B, i);
        const glia_gnode *n = node_at(B, i);
        if (!n) return w;
        if (n->op == GGML_OP_SCALE) {
            float f = 1;
            memcpy(&f, n->param, sizeof f);
            w.scale *= f;
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
            w.opaque = true;
            i = node_operand(B, i);
            continue;
        }
        int32_t s = norm_source(B, i); /* some models normalise after RoPE */
        if (s != NONE && op_of(B, s) == GGML_OP_ROPE) {
            w.norm_late = i, w.opaque = true;
            i = s;
            continue;
        }
        w.plain = n->op == GGML_OP_ROPE ? strip(B, n->src[0]) : i;
        w.rot = n->op == GGML_OP_ROPE ? i : NONE;
        return w;
    }
}

static void no_heads(const glia_build *B, int32_t il, const char *why) {
    static const glia_point points[] = {GLIA_POINT_Q_NORM_IN, GLIA_POINT_K_NORM_IN, GLIA_POINT_Q,     GLIA_POINT_K,
                                        GLIA_POINT_Q_ROT,     GLIA_POINT_K_ROT,     GLIA_POINT_VALUE, GLIA_POINT_Z};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) glia_build_absent(B, points[i], il, why);
}

/* Queries or keys: before their norm, before RoPE, after it. */
static void put_projected(const glia_build *B, int32_t il, const way_back *w, int32_t hd, const glia_point p[3]) {
    glia_build_put(B, p[1], il, w->plain, hd);
    if (w->rot == NONE) glia_build_absent(B, p[2], il, "this layer has no RoPE");
    else glia_build_put(B, p[2], il, w->rot, hd);
    int32_t n = norm_node(B, w->norm_late != NONE ? w->norm_late : w->plain);
    if (n == NONE) {
        glia_build_absent(B, p[0], il, "this layer does not normalise its queries and keys");
        return;
    }
    glia_place *pl = glia_build_put(B, p[0], il, strip(B, src_of(B, n, 0)), hd);
    if (pl) pl->eps = norm_epsilon(B, n), pl->by_row = node_at(B, n)->ne[0] == pl->width;
}

/* How this layer turns a dot product into a logit, read from the operations: see glia_attn_rule. */
static void read_rule(const glia_build *B, int32_t core, const way_back *q, const way_back *k, glia_attn_rule *r) {
    *r = (glia_attn_rule){.inner = q->scale * k->scale, .outer = 1};
    float f[3] = {0};
    if (q->opaque || k->opaque || core < 0) return;
    if (op_of(B, core) == GGML_OP_FLASH_ATTN_EXT) { /* scale, ALiBi's largest slope, soft cap */
        memcpy(f, node_at(B, core)->param, sizeof f);
        r->capped = f[2] != 0, r->outer = f[2] != 0 ? f[2] : 1;
        r->inner *= f[2] != 0 ? f[0] / f[2] : f[0];
        r->max_bias = f[1], r->sinks = src_of(B, core, 4) != NONE, r->known = true;
        return;
    }
    for (int32_t i = only_user(B, core), hop = 0; i != NONE && hop < 6; i = only_user(B, i), hop++) {
        int32_t op = op_of(B, i);
        if (op == GGML_OP_SCALE) {
            memcpy(f, node_at(B, i)->param, 2 * sizeof *f);
            if (f[1] != 0) return;
            if (r->capped) r->outer *= f[0];
            else r->inner *= f[0];
        } else if (is_unary(B, i, GGML_UNARY_OP_TANH)) {
            if (r->capped) return;
            r->capped = true;
        } else if (op == GGML_OP_SOFT_MAX) { /* scale, ALiBi's largest slope */
            memcpy(f, node_at(B, i)->param, 2 * sizeof *f);
            if (r->capped) r->outer *= f[0];
            else r->inner *= f[0];
            r->max_bias = f[1], r->sinks = src_of(B, i, 2) != NONE, r->known = true;
            return;
        } else {
            return;
        }
    }
}

/* Points of the heads; answers the width of one head of z. */
static int32_t heads(const glia_build *B, int32_t il) {
    static const glia_point queries[] = {GLIA_POINT_Q_NORM_IN, GLIA_POINT_Q, GLIA_POINT_Q_ROT};
    static const glia_point keys[] = {GLIA_POINT_K_NORM_IN, GLIA_POINT_K, GLIA_POINT_K_ROT};
    int32_t core = B->core[il];
    if (core < 0) {
        no_heads(B, il, "this layer has no attention over a KV cache");
        return 0;
    }
    bool fa = op_of(B, core) == GGML_OP_FLASH_ATTN_EXT;
    int32_t op = W(B, il, "attn_output.weight"), nh = (int32_t)node_at(B, core)->ne[fa ? 1 : 2];
    const glia_gleaf *wo = op == NONE ? NULL : leaf_at(B, src_of(B, op, 0)); /* [n_heads * head_dim, n_embd] */
    if (B->store_v[il] < 0) { /* multi-head latent attention caches no V: q, k are not per-head projections */
        no_heads(B, il, "latent attention: its queries, keys and values are no projections per head");
        return wo && nh > 0 && wo->ne[0] % nh == 0 ? (int32_t)(wo->ne[0] / nh) : 0;
    }
    int32_t q = src_of(B, core, fa ? 0 : 1), hd = (int32_t)node_at(B, q)->ne[0];
    way_back wq = before_rope(B, q), wk = {.plain = NONE};
    put_projected(B, il, &wq, hd, queries);
    if (B->store_k[il] < 0) {
        for (int i = 0; i < 3; i++) glia_build_absent(B, keys[i], il, "this layer reuses the keys of another");
    } else {
        wk = before_rope(B, src_of(B, B->store_k[il], 0));
        put_projected(B, il, &wk, hd, keys);
        read_rule(B, core, &wq, &wk, &B->at->rule[il]);
    }
    int32_t v = src_of(B, B->store_v[il], 0);
    for (;;) {
        int32_t w = before_rope(B, v).plain;
        if (op_of(B, w) != GGML_OP_CONT) {
            v = w;
            break;
        }
        v = src_of(B, w, 0);
    }
    int32_t hd_v = wo && nh > 0 ? (int32_t)(wo->ne[0] / nh) : hd;
    glia_build_put(B, GLIA_POINT_VALUE, il, v, hd_v);
    return hd_v;
}

/* What enters the output projection, and z before its gate where it has one. */
static void put_z(const glia_build *B, int32_t il, int32_t in, int32_t hd) {
    int32_t z = in, gate = NONE, gated = strip(B, in);
    if (op_of(B, gated) == GGML_OP_MUL) {
        int32_t a = src_of(B, gated, 0), b = src_of(B, gated, 1);
        if (op_of(B, strip(B, b)) == GGML_OP_UNARY) z = a, gate = strip(B, b);
        else if (op_of(B, strip(B, a)) == GGML_OP_UNARY) z = b, gate = strip(B, a);
    }
    /* flash attention splits its rows by stream; the reshaping behind it has them in one axis */
    const glia_gnode *n = node_at(B, z);
    if (!n || n->op != GGML_OP_RESHAPE || n->ne[2] * n->ne[3] != 1) z = strip(B, z);
    glia_build_put(B, GLIA_POINT_Z, il, z, hd);
    if (gate == NONE) {
        glia_build_absent(B, GLIA_POINT_ATTN_GATE, il, "this layer's attention has no gate");
        glia_build_absent(B, GLIA_POINT_Z_GATED, il, "this layer's attention has no gate");
        return;
    }
    /* one gate per channel, per head or per token: heads of its own width */
    const glia_gnode *g = node_at(B, gate);
    glia_build_put(B, GLIA_POINT_ATTN_GATE, il, gate, g && g->ne[0] == 1 ? 1 : hd);
    glia_build_put(B, GLIA_POINT_Z_GATED, il, gated, hd);
}

/* The last short convolution of the layer with its bias and activation, or why there is none. */
static void put_convolution(const glia_build *B, int32_t il) {
    int32_t found = NONE, n = 0;
    for (int32_t i = 0; i < B->g->n_nodes; i++) {
        if (op_of(B, i) != GGML_OP_SSM_CONV) continue;
        const glia_gleaf *l = root_leaf(B, src_of(B, i, 1));
        if (l && l->layer == il) found = i, n++;
    }
    if (n > 1) {
        glia_build_absent(B, GLIA_POINT_CONV_OUT, il, "queries, keys and values each have a convolution of their own");
        return;
    }
    if (found == NONE) {
        glia_build_absent(B, GLIA_POINT_CONV_OUT, il, "this layer has no short convolution");
        return;
    }
    for (int32_t c; (c = only_user(B, found)) != NONE;) {
        if (op_of(B, c) == GGML_OP_ADD && leaf_operand(B, c) != NONE) found = c;
        else if (is_unary(B, c, GGML_UNARY_OP_SILU)) found = c;
        else break;
    }
    glia_build_put(B, GLIA_POINT_CONV_OUT, il, found, 0);
}

static void no_output(const glia_build *B, int32_t il, const char *why) {
    static const glia_point points[] = {GLIA_POINT_Z, GLIA_POINT_ATTN_GATE, GLIA_POINT_Z_GATED, GLIA_POINT_SSM_OUT,
                                        GLIA_POINT_ATTN_OUT};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) glia_build_absent(B, points[i], il, why);
}

void glia_build_attention(const glia_build *B, glia_build_layer *l) {
    int32_t il = l->il, hd = heads(B, il);
    int32_t scan = W(B, il, "ssm_out.weight"), conv = W(B, il, "shortconv.out_proj.weight");
    int32_t out = W(B, il, "attn_output.weight");
    if (out == NONE) out = scan != NONE ? scan : conv;
    l->attn_out = NONE;
    put_convolution(B, il);
    if (out == NONE) {
        no_output(B, il, l->attn_in == NONE ? "this layer has no attention" : "this layer has no output projection");
        return;
    }
    bool attends = B->core[il] >= 0;
    if (attends) {
        put_z(B, il, src_of(B, out, 1), hd);
    } else {
        glia_build_absent(B, GLIA_POINT_Z, il, "this layer has no attention heads");
        glia_build_absent(B, GLIA_POINT_ATTN_GATE, il, "this layer has no attention heads");
        glia_build_absent(B, GLIA_POINT_Z_GATED, il, "this layer has no attention heads");
    }
    int32_t mixer = scan != NONE ? scan : attends || conv != NONE ? NONE : out; /* linear attention: attn_output */
    if (mixer != NONE) glia_build_put(B, GLIA_POINT_SSM_OUT, il, strip(B, src_of(B, mixer, 1)), 0);
    else glia_build_absent(B, GLIA_POINT_SSM_OUT, il, "this layer has no state-space scan or linear attention");
    l->attn_out = close_projection(B, out);
    glia_build_put(B, GLIA_POINT_ATTN_OUT, il, l->attn_out, 0);
}

/* tap/atlas_mlp.c — one layer's MLP: its branches, or its router, experts and shared expert.  Pure; see walk.h. */
#include "walk.h"

/* The points of one gated block: of the MLP, or of the chosen experts. */
typedef struct block_points {
    glia_point pre, linear, act;
} block_points;

static const block_points MLP_POINTS = {GLIA_POINT_MLP_PRE, GLIA_POINT_MLP_LINEAR, GLIA_POINT_MLP_ACT};
static const block_points EXPERT_POINTS = {GLIA_POINT_EXPERT_PRE, GLIA_POINT_EXPERT_LINEAR, GLIA_POINT_EXPERT_ACT};
static const glia_point EXPERTS[] = {GLIA_POINT_ROUTER_LOGITS, GLIA_POINT_EXPERT_INDICES, GLIA_POINT_EXPERT_WEIGHTS,
                                     GLIA_POINT_EXPERT_PRE,    GLIA_POINT_EXPERT_LINEAR,  GLIA_POINT_EXPERT_ACT,
                                     GLIA_POINT_EXPERT_OUT,    GLIA_POINT_MOE_OUT,        GLIA_POINT_SHARED_EXPERT_OUT};
static const glia_point DENSE[] = {GLIA_POINT_MLP_PRE, GLIA_POINT_MLP_LINEAR, GLIA_POINT_MLP_ACT, GLIA_POINT_MLP_OUT};

static void all_absent(const glia_build *B, int32_t il, const glia_point *p, size_t n, const char *why) {
    for (size_t i = 0; i < n; i++) glia_build_absent(B, p[i], il, why);
}
#define ALL_ABSENT(B, il, list, why) all_absent(B, il, list, sizeof(list) / sizeof *(list), why)

/* One half of a node's rows, for branches that are computed as one product. */
static void put_half(const glia_build *B, glia_point p, int32_t il, int32_t i, bool second) {
    glia_place *pl = glia_build_put(B, p, il, i, 0);
    if (!pl) return;
    if (pl->row_axis != 1 || pl->width % 2) {
        glia_build_absent(B, p, il, "its two branches cannot be told apart");
        return;
    }
    pl->width /= 2, pl->column = second ? pl->width : 0;
}

/* One vector per chosen expert: n_heads counts the slots. */
static glia_place *put_slots(const glia_build *B, glia_point p, int32_t il, int32_t i) {
    const glia_gnode *n = node_at(B, i);
    return glia_build_put(B, p, il, i, n ? (int32_t)n->ne[0] : 0);
}

static void put_branch(const glia_build *B, glia_point p, int32_t il, int32_t i, bool slots) {
    if (slots) (void)put_slots(B, p, il, i);
    else (void)glia_build_put(B, p, il, strip(B, i), 0);
}

/* What the activation function was applied to: below the function, its clamps and its products with itself. */
static int32_t activated(const glia_build *B, int32_t i) {
    for (int hop = 0; hop < 6; hop++) {
        i = strip(B, i);
        int32_t op = op_of(B, i);
        if (op == GGML_OP_UNARY) return src_of(B, i, 0);
        if (op != GGML_OP_SQR && op != GGML_OP_CLAMP && op != GGML_OP_SQRT) return NONE;
        i = src_of(B, i, 0);
    }
    return NONE;
}

/* The branches of the block whose product is `act`. */
static void branches(const glia_build *B, int32_t il, int32_t act, const block_points *p, bool slots) {
    const glia_gnode *n = node_at(B, act);
    int32_t pre = NONE, linear = NONE;
    if (n && n->op == GGML_OP_GLU && n->n_src > 1 && n->src[1] != NONE) {
        pre = n->src[0], linear = n->src[1];
    } else if (n && n->op == GGML_OP_GLU) { /* op parameter 1: the gate is the second half */
        put_half(B, p->pre, il, strip(B, n->src[0]), n->param[1] != 0);
        put_half(B, p->linear, il, strip(B, n->src[0]), n->param[1] == 0);
        return;
    } else if (n && n->op == GGML_OP_MUL) { /* unfused: activated gate times the other branch */
        int32_t a = strip(B, n->src[0]), b = strip(B, src_of(B, act, 1));
        if ((pre = activated(B, a)) != NONE) linear = b;
        else if ((pre = activated(B, b)) != NONE) linear = a;
    } else {
        pre = activated(B, act);
    }
    if (pre == NONE) glia_build_absent(B, p->pre, il, "the activation function was not recognised");
    else put_branch(B, p->pre, il, pre, slots);
    if (linear == NONE) glia_build_absent(B, p->linear, il, "this MLP has no second branch");
    else put_branch(B, p->linear, il, linear, slots);
}

int32_t glia_build_mlp_in(const glia_build *B, int32_t il) {
    /* a dense MLP beside the experts is the MLP */
    int32_t up = W(B, il, "ffn_up.weight", "ffn_gate_up_exps.weight", "ffn_up_exps.weight", "ffn_gate_exps.weight");
    int32_t in = up == NONE ? NONE : strip(B, src_of(B, up, 1));
    if (op_of(B, in) == GGML_OP_MUL && op_of(B, up) == GGML_OP_MUL_MAT_ID) { /* repeated and weighted per expert */
        int32_t r = strip(B, src_of(B, in, 0));
        if (op_of(B, r) == GGML_OP_REPEAT) in = strip(B, src_of(B, r, 0));
    }
    return in;
}

/* ------------------------------------------------------------------ experts */

/* The last of the sums that take one slice of `slots` after the other, or the copy of its only slice; NONE. */
static int32_t sum_of_slices(const glia_build *B, int32_t slots) {
    int32_t sum = NONE;
    for (int32_t u = B->g->use_start[slots]; u < B->g->use_start[slots + 1]; u++) {
        int32_t slice = B->g->uses[u];
        if (op_of(B, slice) != GGML_OP_VIEW) return NONE;
        int32_t c = only_user(B, slice);
        if (op_of(B, c) == GGML_OP_CONT && B->g->use_start[slots + 1] - B->g->use_start[slots] == 1) return c;
        if (op_of(B, c) != GGML_OP_ADD) return NONE;
        if (c > sum) sum = c;
    }
    return sum;
}

/* sigmoid(x), also written as silu(x) / x (qwen2moe). */
static bool is_sigmoid(const glia_build *B, int32_t i) {
    if (op_of(B, i) == GGML_OP_DIV) {
        int32_t silu = strip(B, src_of(B, i, 0));
        return is_unary(B, silu, GGML_UNARY_OP_SILU) && strip(B, src_of(B, silu, 0)) == strip(B, src_of(B, i, 1));
    }
    return is_unary(B, i, GGML_UNARY_OP_SIGMOID);
}

/* From the routed sum to what enters the residual stream: what else is added on the way, such as the shared expert. */
static int32_t whole_output(const glia_build *B, const glia_build_layer *l, int32_t moe_out, int32_t shared,
                            int32_t *shared_out) {
    int32_t i = moe_out;
    *shared_out = NONE;
    for (int hop = 0; hop < 4; hop++) {
        int32_t c = only_user(B, i);
        if (op_of(B, c) != GGML_OP_ADD) break;
        int32_t a = src_of(B, c, 0), b = src_of(B, c, 1);
        int32_t other = ungr(B, a) == ungr(B, i) ? b : a;
        int32_t o = ungr(B, other);
        if (o == l->mid || o == l->pre || other < 0) break; /* the residual sum itself */
        if (shared != NONE && *shared_out == NONE) {
            int32_t s = o;
            /* a gate per token may be multiplied in */
            if (op_of(B, s) == GGML_OP_MUL && is_sigmoid(B, strip(B, src_of(B, s, 1)))) { s = src_of(B, s, 0); }
            if (derives(B, s, shared)) *shared_out = strip(B, other);
        }
        i = c;
    }
    return i;
}

/* Weights of the chosen experts: the operand that their outputs (some models: their inputs) are multiplied by. */
static int32_t weights_of(const glia_build *B, int32_t out, int32_t first, int32_t *weighted) {
    int32_t c = only_user(B, out);
    *weighted = out;
    if (op_of(B, c) == GGML_OP_MUL && !is_expert_scale(B, src_of(B, c, 1))) {
        *weighted = c;
        return strip(B, strip(B, src_of(B, c, 0)) == out ? src_of(B, c, 1) : src_of(B, c, 0));
    }
    int32_t in = first == NONE ? NONE : strip(B, src_of(B, first, 1));
    return op_of(B, in) == GGML_OP_MUL ? strip(B, src_of(B, in, 1)) : NONE;
}

static void experts(const glia_build *B, glia_build_layer *l, int32_t down) {
    int32_t il = l->il, weighted;
    int32_t router = W(B, il, "ffn_gate_inp.weight");
    int32_t first = W(B, il, "ffn_gate_up_exps.weight", "ffn_gate_exps.weight", "ffn_up_exps.weight");
    if (router == NONE) glia_build_absent(B, GLIA_POINT_ROUTER_LOGITS, il, "this layer's router was not recognised");
    else glia_build_put(B, GLIA_POINT_ROUTER_LOGITS, il, close_projection(B, router), 0);
    (void)glia_build_put(B, GLIA_POINT_EXPERT_INDICES, il, src_of(B, down, 2), 1);
    int32_t act = strip(B, src_of(B, down, 1)), out = close_projection(B, down);
    put_slots(B, GLIA_POINT_EXPERT_ACT, il, act);
    branches(B, il, act, &EXPERT_POINTS, true);
    put_slots(B, GLIA_POINT_EXPERT_OUT, il, out);
    int32_t weights = weights_of(B, out, first, &weighted), shared_out;
    if (weights == NONE) glia_build_absent(B, GLIA_POINT_EXPERT_WEIGHTS, il, "the weights were not recognised");
    else glia_build_put(B, GLIA_POINT_EXPERT_WEIGHTS, il, weights, 1);
    int32_t sum = sum_of_slices(B, weighted), shared = W(B, il, "ffn_down_shexp.weight");
    if (sum == NONE) {
        glia_build_absent(B, GLIA_POINT_MOE_OUT, il, "the sum over the chosen experts was not recognised");
        glia_build_absent(B, GLIA_POINT_SHARED_EXPERT_OUT, il, "the sum over the chosen experts was not recognised");
        return;
    }
    glia_build_put(B, GLIA_POINT_MOE_OUT, il, sum, 0);
    l->mlp_out = whole_output(B, l, sum, shared == NONE ? NONE : close_projection(B, shared), &shared_out);
    if (shared == NONE) glia_build_absent(B, GLIA_POINT_SHARED_EXPERT_OUT, il, "this layer has no shared expert");
    else glia_build_put(B, GLIA_POINT_SHARED_EXPERT_OUT, il, shared_out, 0);
}

void glia_build_mlp(const glia_build *B, glia_build_layer *l) {
    int32_t il = l->il;
    int32_t dense = W(B, il, "ffn_down.weight"), sparse = W(B, il, "ffn_down_exps.weight");
    l->mlp_out = NONE;
    if (l->mlp_in == NONE) glia_build_absent(B, GLIA_POINT_MLP_IN, il, "this layer has no MLP");
    else glia_build_put(B, GLIA_POINT_MLP_IN, il, l->mlp_in, 0);
    if (sparse == NONE) ALL_ABSENT(B, il, EXPERTS, "this layer has no mixture of experts");
    else experts(B, l, sparse);
    if (dense == NONE) {
        ALL_ABSENT(B, il, DENSE,
                   sparse == NONE ? "this layer has no MLP" : "mixture of experts: ask for the expert points");
        if (l->mlp_out != NONE) glia_build_put(B, GLIA_POINT_MLP_OUT, il, l->mlp_out, 0);
        return;
    }
    int32_t act = strip(B, src_of(B, dense, 1));
    glia_build_put(B, GLIA_POINT_MLP_ACT, il, act, 0);
    branches(B, il, act, &MLP_POINTS, false);
    l->mlp_out = close_projection(B, dense); /* of the dense MLP where experts work beside it */
    glia_build_put(B, GLIA_POINT_MLP_OUT, il, l->mlp_out, 0);
}

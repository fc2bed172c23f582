/* tap/atlas_derived.c — points that the graph does not have but that follow from ones it has and from weights of the file:
 * what each head adds to the residual stream, and every layer's stream through the final norm.  Pure; see walk.h. */
#include "walk.h"
#include <stdio.h>

static glia_place *place_of(const glia_build *B, glia_point p, int32_t il) {
    return &B->at->place[(size_t)p * (size_t)B->at->n_layer + (size_t)(glia_point_has_layer(p) ? il : 0)];
}

/* The place of `p` as a function of the rows of `base`. */
static glia_place *derive(const glia_build *B, glia_point p, glia_point base, int32_t il) {
    glia_place *pl = place_of(B, p, il);
    *pl = *place_of(B, base, il);
    pl->derived = true, pl->base = base, pl->grade = GLIA_GRADE_STRUCTURAL;
    return pl;
}

static void copy_name(char out[64], const glia_gleaf *l) { (void)snprintf(out, 64, "%s", l->name); }

/* How the final norm is made: operation, epsilon, weight and bias.  NULL, or why that is not known. */
static const char *read_lens(const glia_build *B, glia_lens *lens) {
    const glia_place *norm = place_of(B, GLIA_POINT_FINAL_NORM, 0);
    const glia_place *last = place_of(B, GLIA_POINT_RESID_POST, B->at->n_layer - 1);
    *lens = (glia_lens){0};
    if (norm->grade < GLIA_GRADE_STRUCTURAL) return "this model has no final norm";
    int32_t i = norm->node;
    const glia_gleaf *l;
    if (op_of(B, i) == GGML_OP_ADD && (l = leaf_at(B, leaf_operand(B, i))) && ends_with(l->name, ".bias")) {
        copy_name(lens->bias, l);
        i = strip(B, node_operand(B, i));
    }
    if (op_of(B, i) == GGML_OP_MUL && (l = leaf_at(B, leaf_operand(B, i))) && ends_with(l->name, ".weight")) {
        copy_name(lens->weight, l);
        i = strip(B, node_operand(B, i));
    }
    if (op_of(B, i) != GGML_OP_RMS_NORM && op_of(B, i) != GGML_OP_NORM) return "its final norm was not recognised";
    lens->centred = op_of(B, i) == GGML_OP_NORM, lens->eps = norm_epsilon(B, i);
    if (last->grade < GLIA_GRADE_STRUCTURAL || ungr(B, src_of(B, i, 0)) != ungr(B, last->node)) {
        return "its final norm is not taken of the last layer's residual stream";
    }
    lens->known = true;
    return NULL;
}

static const char *put_heads(const glia_build *B, int32_t il) {
    int32_t op = W(B, il, "attn_output.weight");
    if (op == NONE) return "this layer has no attention with an output projection";
    int32_t in = strip(B, src_of(B, op, 1));
    glia_point base = GLIA_POINT_Z_GATED;
    if (place_of(B, base, il)->grade < GLIA_GRADE_STRUCTURAL) base = GLIA_POINT_Z;
    const glia_place *z = place_of(B, base, il);
    const glia_gleaf *w = leaf_at(B, src_of(B, op, 0));
    if (z->grade < GLIA_GRADE_STRUCTURAL || z->n_heads < 1 || strip(B, z->node) != in) {
        return "what enters its output projection are no heads of their own";
    }
    if (!w || w->ne[0] != (int64_t)z->n_heads * z->head_dim || w->ne[2] != 1 || w->ne[1] > INT32_MAX / z->n_heads) {
        return "its output projection has an unknown shape";
    }
    bool scaled = false; /* by blk.N.attn_output.scale */
    for (int32_t u = B->g->use_start[op]; u < B->g->use_start[op + 1]; u++) {
        const glia_gnode *n = node_at(B, B->g->uses[u]);
        const glia_gleaf *l = n->op == GGML_OP_MUL ? leaf_at(B, n->src[1]) : NULL;
        if (n->op == GGML_OP_CLAMP) return "the output projection is clamped after its product";
        scaled |= l && ends_with(l->name, ".scale");
    }
    B->at->attn[il].scaled = scaled;
    int32_t n_embd = (int32_t)w->ne[1];
    glia_place *pl = derive(B, GLIA_POINT_ATTN_HEAD_OUT, base, il);
    pl->head_dim = n_embd, pl->width = pl->n_heads * n_embd;
    return NULL;
}

void glia_build_derived(const glia_build *B) {
    const char *no_lens = read_lens(B, &B->at->lens);
    for (int32_t il = 0; il < B->at->n_layer; il++) {
        const char *why = put_heads(B, il);
        if (why) glia_build_absent(B, GLIA_POINT_ATTN_HEAD_OUT, il, why);
        if (no_lens) glia_build_absent(B, GLIA_POINT_LENS_IN, il, no_lens);
        else if (place_of(B, GLIA_POINT_RESID_POST, il)->grade < GLIA_GRADE_STRUCTURAL)
            glia_build_absent(B, GLIA_POINT_LENS_IN, il, "the layer's output was not recognised");
        else derive(B, GLIA_POINT_LENS_IN, GLIA_POINT_RESID_POST, il)->eps = B->at->lens.eps;
    }
}

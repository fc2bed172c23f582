/* engine/dry_run.c — at load: the model's graph as an atlas, the weights of derived points, and one pass in which every
 * point is proven or refused.
 *
 * Engine thread, before the first request.  Knows no request.  See worker.h. */
#include "engine/worker.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "tap/proof.h"
#include <stdio.h>

static bool is_by_position(glia_point p) { return p == GLIA_POINT_ATTN_SCORES || p == GLIA_POINT_ATTN_PROBS; }

/* A graph of n tokens per slot as plain data.  Recurrent models are mapped as one sequence, like their passes with
 * hooks, because their nodes split rows by sequence; where llama.cpp cannot build that, as many as there are slots. */
static glia_status read_graph(const glia_worker *w, uint32_t n, uint32_t n_out, glia_graph **out, glia_err *err) {
    uint32_t slots = (uint32_t)w->n_slots;
    struct ggml_cgraph *gf = glia_bridge_graph(w->ctx, n * slots, w->one_at_a_time ? 1 : slots, n_out);
    if (!gf && w->one_at_a_time) gf = glia_bridge_graph(w->ctx, n * slots, slots, n_out);
    *out = NULL;
    return gf ? glia_graph_read(out, gf, err)
              : glia_fail(err, GLIA_EINTERNAL, "llama.cpp could not build the model's graph");
}

/* Two sizes of one topology, so that row axes show; small, since nothing is run.  A third, of generated tokens, must be
 * the same topology: where it is not, hooks on them will be refused, and the log says so now. */
glia_status glia_worker_map(glia_worker *w, glia_err *err) {
    bool many = w->n_slots > 16; /* not more than a real batch */
    glia_graph *a = NULL, *b = NULL, *one = NULL;
    glia_status st = read_graph(w, many ? 2 : 7, 3, &a, err);
    if (!st) st = read_graph(w, many ? 3 : 11, 5, &b, err);
    if (!st) st = glia_atlas_build(&w->m->atlas, a, b, w->m->info.n_layer, err);
    /* n_seqs sequences of one token each: with one sequence llama.cpp cannot build it over every stream of the cache */
    struct ggml_cgraph *gf = st ? NULL : glia_bridge_graph(w->ctx, (uint32_t)w->n_slots, (uint32_t)w->n_slots, 1);
    if (gf && !glia_graph_read(&one, gf, NULL) && !glia_atlas_fits(w->m->atlas, one)) {
        glia_log(GLIA_LOG_WARN, "generated tokens run another graph than prompts: hooks on them will be refused");
    }
    glia_graph_free(a);
    glia_graph_free(b);
    glia_graph_free(one);
    return st;
}

/* Floats per row of place i in the dry run. */
static size_t dry_width(const glia_atlas *at, size_t i) {
    const glia_place *pl = &at->place[i];
    bool columns = is_by_position((glia_point)(i / (size_t)at->n_layer));
    return columns ? (size_t)pl->n_heads * GLIA_PROOF_TOKENS : (size_t)pl->width;
}

/* Weights of the derived points; those whose weights the file does not give are absent. */
bool glia_worker_find_weights(glia_worker *w) {
    glia_atlas *at = w->m->atlas;
    glia_weights *file = w->m->weights;
    int32_t n_embd = w->m->info.n_embd;
    const glia_lens *l = &at->lens;
    if (!(w->heads_out = glia_calloc((size_t)at->n_layer, sizeof *w->heads_out))) return false;
    w->lens = (glia_derive){.point = GLIA_POINT_LENS_IN, .eps = l->eps, .centred = l->centred, .n_embd = n_embd};
    bool lens =
        l->known &&
        (!l->weight[0] || (glia_weights_map(file, l->weight, &w->lens.weight) && w->lens.weight.ne0 == n_embd)) &&
        (!l->bias[0] || (glia_weights_map(file, l->bias, &w->lens.bias) && w->lens.bias.ne0 == n_embd));
    for (int32_t il = 0; il < at->n_layer; il++) {
        const glia_place *pl = glia_atlas_place(at, GLIA_POINT_ATTN_HEAD_OUT, il);
        const glia_place *res = glia_atlas_place(at, GLIA_POINT_LENS_IN, il);
        if (res->derived && (!lens || res->width != n_embd)) {
            glia_atlas_refuse_point(at, GLIA_POINT_LENS_IN, il,
                                    "the weights of the final norm cannot be read from the file");
        }
        if (!pl->derived) continue;
        char name[64];
        (void)snprintf(name, sizeof name, "blk.%d.attn_output.weight", il);
        const glia_place *z = glia_atlas_place(at, pl->base, il);
        glia_derive *d = &w->heads_out[il];
        *d = (glia_derive){.point = GLIA_POINT_ATTN_HEAD_OUT, .n_embd = pl->head_dim, .head_dim = z->head_dim};
        bool found =
            glia_weights_map(file, name, &d->weight) && d->weight.ne0 == z->width && d->weight.ne1 == pl->head_dim;
        (void)snprintf(name, sizeof name, "blk.%d.attn_output.scale", il);
        if (found && at->attn[il].scaled)
            found = glia_weights_map(file, name, &d->scale) && (d->scale.ne0 == 1 || d->scale.ne0 == pl->head_dim);
        if (!found) {
            glia_atlas_refuse_point(at, GLIA_POINT_ATTN_HEAD_OUT, il,
                                    "the output projection cannot be read from the file");
        }
    }
    return true;
}

/* How rows of a point are made; NULL: they are read. */
const glia_derive *glia_worker_derivation(const glia_worker *w, glia_point p, int32_t layer) {
    return p == GLIA_POINT_LENS_IN ? &w->lens : p == GLIA_POINT_ATTN_HEAD_OUT ? &w->heads_out[layer] : NULL;
}

/* One pass over a few tokens with every point captured: raises grades from structural to proven, or refuses.  What
 * cannot be run or held in memory stays structural.  True: it ran and was judged. */
bool glia_worker_prove(glia_worker *w) {
    enum { N = GLIA_PROOF_TOKENS };
    glia_atlas *at = w->m->atlas;
    size_t n_places = (size_t)GLIA_N_POINTS * (size_t)at->n_layer, n_wants = 0, n_floats = 0, n_products = 0;
    const float **rows = (const float **)glia_calloc(n_places, sizeof *rows);
    glia_tap_want *wants = glia_calloc(n_places, sizeof *wants);
    for (size_t i = 0; i < n_places; i++) n_floats += dry_width(at, i) * N;
    float *data = glia_malloc(n_floats * sizeof *data), *dst = data;
    bool judged = false;
    if (!rows || !wants || !data) goto done;
    for (int32_t i = 0; i < N; i++) {
        w->rows[i] = (glia_tap_row){.token = glia_proof_token(i, w->m->info.n_vocab), .pos = i, .output = true};
        w->batch.token[i] = w->rows[i].token, w->batch.pos[i] = i, w->batch.logits[i] = true;
        w->batch.n_seq_id[i] = 1, w->batch.seq_id[i][0] = 0;
    }
    w->batch.n_tokens = N;
    for (size_t i = 0; i < n_places; i++) {
        const glia_place *pl = &at->place[i];
        if (pl->grade != GLIA_GRADE_STRUCTURAL) continue;
        glia_point point = (glia_point)(i / (size_t)at->n_layer);
        int32_t layer = (int32_t)(i % (size_t)at->n_layer);
        if (point == GLIA_POINT_ATTN_HEAD_OUT) { /* whole projections in float32: only as far as load time allows */
            n_products += (size_t)pl->width * (size_t)w->heads_out[layer].head_dim;
            if (n_products > (size_t)1 << 25) continue;
        }
        wants[n_wants++] = (glia_tap_want){.point = point,
                                           .layer = layer,
                                           .n_rows = N,
                                           .out_width = (int32_t)dry_width(at, i),
                                           .n_cols = is_by_position(point) ? N : 0,
                                           .optional = is_by_position(point),
                                           .derive = glia_worker_derivation(w, point, layer),
                                           .dst = dst};
        rows[i] = dst;
        dst += dry_width(at, i) * N;
    }
    char why[160];
    glia_tap_arm(w->tap, w->rows, N, wants, (int32_t)n_wants, NULL, 0);
    int32_t rc = glia_worker_decode(w);
    glia_tap_result tapped = glia_tap_disarm(w->tap, why);
    for (size_t i = 0; i < n_wants; i++) {
        if (!wants[i].refused) continue;
        rows[(size_t)wants[i].point * (size_t)at->n_layer + (size_t)wants[i].layer] = NULL;
        glia_atlas_refuse_point(at, wants[i].point, wants[i].layer, wants[i].refused);
    }
    if (tapped == GLIA_TAP_NEW_TOPOLOGY) { /* it would be so in every request */
        glia_atlas_refuse(
            at, "this model's graph changes with the pass, so that no row can be proven; try --flash-attn off");
    } else if (rc || tapped != GLIA_TAP_OK) {
        glia_log(GLIA_LOG_WARN, "points stay unproven: %s", rc ? "the dry run failed" : why);
    } else {
        glia_proof_check(at, rows, llama_get_logits(w->ctx));
        judged = true;
    }
    llama_memory_clear(w->mem, true);
    glia_tap_cut(w->tap, 0, 0);
done:
    w->batch.n_tokens = 0;
    glia_free((void *)rows);
    glia_free(wants);
    glia_free(data);
    return judged;
}

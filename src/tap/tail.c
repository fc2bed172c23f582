/* tap/tail.c — the end of the graph that nobody needs: layers behind the last wanted node, logits of rows that nobody draws
 * from.  Engine thread; see run.h. */
#include "run.h"
#include "ggml-backend.h"

/* Does somebody read or change a node from here on? */
static bool is_asked_from(const glia_tap *t, int32_t node) {
    for (int32_t i = node; i < t->at->n_nodes; i++) {
        if (t->ask[i] & ~(unsigned)ASK_CANARY) return true;
    }
    return false;
}

void glia_tap_may_end(glia_tap *t, struct ggml_backend_sched *sched, int32_t node) {
    if (t->unproven || t->nomem) return;
    if (node < t->at->last_proof) node = t->at->last_proof;
    if (node + 1 >= t->at->n_nodes || is_asked_from(t, node + 1)) return;
    t->sched = sched;
    t->ask[node] |= ASK_END;
}

bool glia_tap_has_ended(const glia_tap *t) { return t->ended; }

/* Leaving a split leaves the graph only from the last one; what follows in others would be computed from garbage.  Two
 * splits are two backends, so that what is not on the first node's lies in the second. */
static bool in_last_split(const glia_tap *t, struct ggml_tensor *node) {
    int n = ggml_backend_sched_get_n_splits(t->sched);
    if (n != 2) return n == 1;
    return ggml_backend_sched_get_tensor_backend(t->sched, node) !=
           ggml_backend_sched_get_tensor_backend(t->sched, t->opening);
}

bool glia_tap_ends_here(const glia_tap *t, struct ggml_tensor *node) {
    return (t->ask[t->node] & ASK_END) && !t->strange && !t->unproven && !t->nomem && in_last_split(t, node);
}

/* ------------------------------------------------------------------ logits */

void glia_tap_only_logits(glia_tap *t, int32_t first, int32_t n) {
    if (t->unproven || t->nomem || t->at->logits_node < 0 || n < 1 || n >= t->n_outputs) return;
    if (is_asked_from(t, t->at->logits_node)) return;
    t->logits = (glia_tap_logits){.first = first, .n = n};
}

/* rows [first, first + n) of a matrix, in its own memory */
static void take_rows(struct ggml_tensor *x, int32_t first, int32_t n) {
    x->data = (char *)x->data + (size_t)first * x->nb[1];
    x->ne[1] = n;
    x->nb[2] = x->nb[3] = (size_t)n * x->nb[1];
}

void glia_tap_trim_logits(glia_tap *t, struct ggml_tensor *node) {
    glia_tap_logits *l = &t->logits;
    struct ggml_tensor *rows = node->src[1];
    bool plain = node->op == GGML_OP_MUL_MAT && rows && node->ne[1] == t->n_outputs && rows->ne[1] == t->n_outputs &&
                 node->ne[2] * node->ne[3] == 1 && rows->ne[2] * rows->ne[3] == 1 && !node->view_src;
    /* whether a device finds rows by their address is not known for all of them */
    if (!plain || !glia_tap_is_host(node) || !glia_tap_is_host(rows)) return;
    l->node = node, l->was = *node, l->rows = *rows;
    take_rows(node, l->first, l->n);
    take_rows(&l->rows, l->first, l->n);
    node->src[1] = &l->rows;
}

void glia_tap_restore_logits(glia_tap *t) {
    glia_tap_logits *l = &t->logits;
    if (!l->node) return;
    *l->node = l->was;
    l->node = NULL;
}

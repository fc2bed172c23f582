/* tap/prove.c — are the rows of the pass that is running the planned ones?  Token ids, positions, cells and output rows are
 * read back from its own inputs.  Engine thread; see run.h. */
#include "run.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "ggml.h"
#include <string.h>

bool glia_tap_is_host(const struct ggml_tensor *x) {
    ggml_backend_buffer_t buf = x->view_src ? x->view_src->buffer : x->buffer;
    return !buf || ggml_backend_buffer_is_host(buf);
}

/* Bytes [off, off + n) of a tensor: a pointer into host memory, or a copy in scratch. */
const char *glia_tap_bytes(glia_tap *t, const struct ggml_tensor *x, size_t off, size_t n) {
    if (glia_tap_is_host(x)) return (const char *)x->data + off;
    if (t->n_scratch < n) {
        glia_free(t->scratch);
        t->scratch = glia_malloc(n);
        t->n_scratch = t->scratch ? n : 0;
        if (!t->scratch) {
            t->nomem = true;
            return NULL;
        }
    }
    ggml_backend_tensor_get(x, t->scratch, off, n);
    return t->scratch;
}

/* The planned row of batch that output row o stands for, walking forward from *row. */
static int32_t next_output(const glia_tap *t, int32_t row) {
    while (row < t->n_rows && !t->rows[row].output) row++;
    return row;
}

/* The cell that each row's key goes to says its sequence: streams of the cache lie one after another. */
static void prove_sequences(glia_tap *t, const struct ggml_tensor *node) {
    const struct ggml_tensor *x = node->src[1], *cache = node->view_src;
    if (!x || !cache || x->type != GGML_TYPE_I64 || x->ne[0] != t->n_rows || cache->ne[1] <= 0) {
        glia_tap_refuse(t, &t->unproven, "one forward pass ran as several graphs");
        return;
    }
    const int64_t *cell = (const int64_t *)(const void *)glia_tap_bytes(t, x, 0, (size_t)t->n_rows * sizeof *cell);
    if (!cell) return;
    bool same = true;
    for (int32_t i = 0; i < t->n_rows; i++) {
        same &= cell[i] / cache->ne[1] == t->rows[i].seq;
        t->cell[i] = cell[i] % cache->ne[1];
    }
    if (same) t->proven |= PROVEN_SEQUENCES;
    else glia_tap_refuse(t, &t->unproven, "the graph's rows belong to other sequences than planned");
}

/* Does the row of a mask let its token see exactly `n` cells, its own (cell) among them?  Only blocked cells are -∞. */
static bool sees(const char *mask, enum ggml_type type, int64_t n_kv, int64_t cell, int64_t n) {
    int64_t seen = 0;
    bool own = false;
    for (int64_t c = 0; c < n_kv; c++) {
        bool open = type == GGML_TYPE_F16 ? ((const uint16_t *)(const void *)mask)[c] != 0xfc00
                                          : ((const float *)(const void *)mask)[c] > -3e38f;
        seen += open, own |= open && c == cell;
    }
    return own && seen == n;
}

/* Without positions in the graph a token's position is what its mask says: llama.cpp opens to it the cells of its own
 * sequence up to its position, and a sequence that Glia runs has no holes.  So position p sees p + 1 cells. */
static void prove_positions_by_mask(glia_tap *t, const struct ggml_tensor *node) {
    const struct ggml_tensor *m = node->src[node->op == GGML_OP_SOFT_MAX ? 1 : 3];
    if (!(t->proven & PROVEN_SEQUENCES)) {
        glia_tap_refuse(t, &t->unproven, "the graph's cells were not read before its mask");
        return;
    }
    if (!m || (m->type != GGML_TYPE_F32 && m->type != GGML_TYPE_F16) || m->ne[2] != 1 ||
        m->ne[1] * m->ne[3] != t->n_rows || !ggml_is_contiguous(m)) {
        glia_tap_refuse(t, &t->unproven, "the graph's attention mask has another shape than planned");
        return;
    }
    const char *v = glia_tap_bytes(t, m, 0, ggml_nbytes(m));
    if (!v) return;
    bool same = true;
    for (int32_t i = 0; same && i < t->n_rows; i++) { /* rows of one sequence after another, like the batch */
        same = sees(v + (size_t)i * m->nb[1], m->type, m->ne[0], t->cell[i], (int64_t)t->rows[i].pos + 1);
    }
    if (same) t->proven |= PROVEN_POSITIONS;
    else glia_tap_refuse(t, &t->unproven, "the graph's attention mask opens other positions than planned");
}

/* Compare the run's own token ids, positions or output rows with the plan. */
void glia_tap_prove(glia_tap *t, const struct ggml_tensor *node) {
    const struct ggml_tensor *x = node->src[1];
    if (t->node == t->at->cell_node) {
        prove_sequences(t, node);
        return;
    }
    if (t->node == t->at->pos_node && t->at->pos_proof == GLIA_POS_MASK) {
        prove_positions_by_mask(t, node);
        return;
    }
    unsigned what = t->node == t->at->token_node ? PROVEN_TOKENS
                    : t->node == t->at->pos_node ? PROVEN_POSITIONS
                                                 : PROVEN_OUTPUTS;
    int32_t n = what == PROVEN_OUTPUTS ? t->n_outputs : t->n_rows;
    if (!x || x->type != GGML_TYPE_I32 || (what == PROVEN_POSITIONS ? x->ne[0] < n : x->ne[0] != n)) {
        glia_tap_refuse(t, &t->unproven, "one forward pass ran as several graphs");
        return;
    }
    const int32_t *v = (const int32_t *)(const void *)glia_tap_bytes(t, x, 0, (size_t)n * sizeof *v);
    if (!v) return;
    bool same = true;
    for (int32_t i = 0, row = 0; i < n; i++) {
        if (what == PROVEN_TOKENS) {
            same &= v[i] == t->rows[i].token;
        } else if (what == PROVEN_POSITIONS) {
            same &= v[i] == t->rows[i].pos;
        } else {
            row = next_output(t, row);
            same &= v[i] == row++;
        }
    }
    if (same) t->proven |= what;
    else glia_tap_refuse(t, &t->unproven, "the graph's rows are not the planned ones");
}

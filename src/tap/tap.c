/* tap/tap.c — ask, prove rows, copy.  Engine thread only.  See tap.h for states and invariants. */
#include "tap.h"
#include "attention.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "ggml.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct glia_tap {
    const glia_atlas *at;
    glia_cells *cells; /* NULL: this model has no attention whose columns could be named */
    glia_attention *attention;

    bool armed;
    const glia_tap_row *rows; /* [n_rows] the plan */
    int32_t n_rows, n_outputs;
    glia_tap_want *wants;
    int32_t n_wants;
    glia_tap_edit *edits;
    int32_t n_edits;

    int32_t *head;      /* [n_nodes] first want of a node, -1: none */
    int32_t *edit_head; /* [n_nodes] first edit of a node, -1: none */
    uint8_t *ask;       /* [n_nodes] ASK_* bits */
    int32_t n_alloc;
    int32_t *out_row; /* [n_rows] batch row → output row, -1: none */
    int64_t *cell;    /* [n_rows] the cell of its sequence that a row's key went to, in this run */
    int32_t n_out_alloc;

    int32_t node; /* index of the node asked last in this run; -1: before the first */
    int32_t n_runs;
    unsigned proven; /* PROVEN_* bits of this run */
    bool strange, unproven, nomem;
    char why[160];

    char *scratch; /* copy of a node that does not lie in host memory */
    size_t n_scratch;
    float *row; /* [n_row] one row, gathered to be reduced */
    size_t n_row;

    glia_deriver *deriver;
    float *from; /* [n_from] rows of the point that a derived one is made of */
    size_t n_from;
    float *made; /* [n_made] rows made of them, on their way to a reduction */
    size_t n_made;
    glia_edit_room editing;
    glia_staging *staging; /* NULL: rows are copied in line */
};

enum { ASK_WANTED = 1, ASK_CANARY = 2, ASK_LOGITS = 4, ASK_EDITED = 8, ASK_EDITED_ATTENTION = 16 };
enum { PROVEN_TOKENS = 1, PROVEN_POSITIONS = 2, PROVEN_OUTPUTS = 4, PROVEN_SEQUENCES = 8 };

glia_tap *glia_tap_new(void) { return glia_calloc(1, sizeof(glia_tap)); }

bool glia_tap_set_atlas(glia_tap *t, const glia_atlas *at, bool windows, int32_t n_threads) {
    t->at = at;
    if (!(t->deriver = glia_deriver_new(n_threads))) return false;
    bool any = false;
    for (int32_t il = 0; at && at->attn && il < at->n_layer; il++) any |= at->attn[il].node >= 0;
    if (!any) return true;
    t->cells = glia_cells_new(at);
    t->attention = glia_attention_new(n_threads, windows);
    return t->cells && t->attention;
}

void glia_tap_set_staging(glia_tap *t, glia_staging *s) {
    if (!t) return;
    glia_staging_free(t->staging);
    t->staging = s;
}
const glia_staging *glia_tap_staging(const glia_tap *t) { return t->staging; }

void glia_tap_free(glia_tap *t) {
    if (!t) return;
    glia_staging_free(t->staging);
    glia_cells_free(t->cells);
    glia_attention_free(t->attention);
    glia_deriver_free(t->deriver);
    glia_free(t->from);
    glia_free(t->made);
    glia_edit_room_clear(&t->editing);
    glia_free(t->head);
    glia_free(t->edit_head);
    glia_free(t->ask);
    glia_free(t->out_row);
    glia_free(t->cell);
    glia_free(t->scratch);
    glia_free(t->row);
    glia_free(t);
}

void glia_tap_begin(glia_tap *t, const glia_tap_row *rows, int32_t n_rows) {
    if (t->cells) glia_cells_begin(t->cells, rows, n_rows);
}
void glia_tap_end(glia_tap *t, bool ran) {
    if (t->cells) glia_cells_end(t->cells, ran);
}
void glia_tap_cut(glia_tap *t, int32_t seq, int32_t from) {
    if (t->cells) glia_cells_cut(t->cells, seq, from);
}
void glia_tap_lose(glia_tap *t, int32_t seq) {
    if (t->cells) glia_cells_lose(t->cells, seq);
}
bool glia_tap_knows_cells(const glia_tap *t, int32_t seq) { return t->cells && glia_cells_known(t->cells, seq); }

static void refuse(glia_tap *t, bool *flag, const char *why) {
    if (!*flag) (void)snprintf(t->why, sizeof t->why, "%s", why);
    *flag = true;
}

static bool room(glia_tap *t) {
    if (t->n_alloc < t->at->n_nodes) {
        glia_free(t->head);
        glia_free(t->edit_head);
        glia_free(t->ask);
        t->head = glia_malloc((size_t)t->at->n_nodes * sizeof *t->head);
        t->edit_head = glia_malloc((size_t)t->at->n_nodes * sizeof *t->edit_head);
        t->ask = glia_malloc((size_t)t->at->n_nodes);
        t->n_alloc = t->head && t->edit_head && t->ask ? t->at->n_nodes : 0;
        if (!t->n_alloc) return false;
    }
    if (t->n_out_alloc < t->n_rows) {
        glia_free(t->out_row);
        glia_free(t->cell);
        t->out_row = glia_malloc((size_t)t->n_rows * sizeof *t->out_row);
        t->cell = glia_malloc((size_t)t->n_rows * sizeof *t->cell);
        t->n_out_alloc = t->out_row && t->cell ? t->n_rows : 0;
        if (!t->n_out_alloc) return false;
    }
    return true;
}

/* Empty the sums of earlier runs and make room for one row of each want that is reduced. */
static bool prepare_reductions(glia_tap *t) {
    size_t n = 0;
    for (int32_t i = 0; i < t->n_wants; i++) {
        const glia_tap_want *w = &t->wants[i];
        if (w->sums) glia_sums_reset(w->sums);
        if (w->reduce && (size_t)w->reduce->in_width > n) n = (size_t)w->reduce->in_width;
    }
    if (n <= t->n_row) return true;
    glia_free(t->row);
    t->row = glia_malloc(n * sizeof *t->row);
    t->n_row = t->row ? n : 0;
    return t->row != NULL;
}

const char *glia_tap_refuses_edit(const glia_place *pl) {
    if (!pl || pl->grade != GLIA_GRADE_PROVEN) return "only points graded proven can be changed";
    if (pl->derived) return "it is computed from other points: change those";
    if (pl->integers) return "it holds whole numbers (choices), not values";
    if (pl->read_before) return "this model reads its memory before it is complete";
    return NULL;
}

static void arm_edits(glia_tap *t) {
    memset(t->edit_head, 0xff, (size_t)t->at->n_nodes * sizeof *t->edit_head);
    for (int32_t i = t->n_edits - 1; i >= 0; i--) {
        glia_tap_edit *e = &t->edits[i];
        const glia_place *pl = glia_atlas_place(t->at, e->point, e->layer);
        const char *why = glia_tap_refuses_edit(pl);
        if (why) {
            refuse(t, &t->unproven, why);
            return;
        }
        if (pl->row_kind == GLIA_ROWS_OUTPUTS && t->n_outputs) t->ask[t->at->out_node] |= ASK_CANARY;
        int32_t node = pl->node;
        bool attention = e->point == GLIA_POINT_ATTN_SCORES || e->point == GLIA_POINT_ATTN_PROBS;
        if (attention && !t->attention) {
            refuse(t, &t->unproven, "no attention is known in this graph");
            return;
        }
        if (e->point == GLIA_POINT_ATTN_SCORES && t->at->attn[e->layer].logits >= 0) { /* settled behind the softmax */
            node = t->at->attn[e->layer].logits;
            t->ask[node] |= ASK_EDITED_ATTENTION;
        }
        e->next = t->edit_head[node];
        t->edit_head[node] = i;
        t->ask[pl->node] |= attention ? ASK_EDITED_ATTENTION : ASK_EDITED;
    }
}

void glia_tap_arm(glia_tap *t, const glia_tap_row *rows, int32_t n_rows, glia_tap_want *wants, int32_t n_wants,
                  glia_tap_edit *edits, int32_t n_edits) {
    t->rows = rows, t->n_rows = n_rows, t->wants = wants, t->n_wants = n_wants, t->n_outputs = 0;
    t->edits = edits, t->n_edits = n_edits;
    t->node = -1, t->n_runs = 0, t->proven = 0;
    t->strange = t->unproven = t->nomem = false;
    t->why[0] = 0;
    for (int32_t i = 0; i < n_rows; i++) t->n_outputs += rows[i].output;
    t->armed = true;
    if (t->staging) glia_staging_begin(t->staging);
    if (!t->at || t->at->refused) {
        refuse(t, &t->unproven, t->at ? t->at->refused : "no map of this model's graph");
        return;
    }
    if (!room(t) || !prepare_reductions(t)) {
        t->nomem = true;
        return;
    }
    memset(t->head, 0xff, (size_t)t->at->n_nodes * sizeof *t->head);
    memset(t->ask, 0, (size_t)t->at->n_nodes);
    for (int32_t i = 0, o = 0; i < n_rows; i++) t->out_row[i] = rows[i].output ? o++ : -1;
    t->ask[t->at->token_node] |= ASK_CANARY;
    if (t->at->pos_node >= 0) t->ask[t->at->pos_node] |= ASK_CANARY;
    if (t->at->cell_node >= 0) t->ask[t->at->cell_node] |= ASK_CANARY;
    if (t->attention) glia_attention_begin(t->attention);
    arm_edits(t);
    for (int32_t w = n_wants - 1; w >= 0; w--) {
        const glia_place *pl = glia_atlas_place(t->at, wants[w].point, wants[w].layer);
        wants[w].n_copied = 0, wants[w].refused = NULL;
        if (!pl || pl->grade < GLIA_GRADE_STRUCTURAL) {
            refuse(t, &t->unproven, "a wanted point is absent in this graph");
            return;
        }
        if (pl->derived && !wants[w].derive) {
            refuse(t, &t->unproven, "a wanted point cannot be computed");
            return;
        }
        if (pl->row_kind == GLIA_ROWS_OUTPUTS && t->n_outputs) t->ask[t->at->out_node] |= ASK_CANARY;
        wants[w].next = t->head[pl->node];
        t->head[pl->node] = w;
        t->ask[pl->node] |= ASK_WANTED;
        if (wants[w].point == GLIA_POINT_ATTN_SCORES && t->at->attn[wants[w].layer].logits >= 0) {
            t->ask[t->at->attn[wants[w].layer].logits] |= ASK_LOGITS;
        }
    }
}

/* ------------------------------------------------------------------ reading memory */

static bool is_host(const struct ggml_tensor *x) {
    ggml_backend_buffer_t buf = x->view_src ? x->view_src->buffer : x->buffer;
    return !buf || ggml_backend_buffer_is_host(buf);
}

/* Bytes [off, off + n) of a tensor: a pointer into host memory, or a copy in scratch. */
static const char *bytes_of(glia_tap *t, const struct ggml_tensor *x, size_t off, size_t n) {
    if (is_host(x)) return (const char *)x->data + off;
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
        refuse(t, &t->unproven, "one forward pass ran as several graphs");
        return;
    }
    const int64_t *cell = (const int64_t *)(const void *)bytes_of(t, x, 0, (size_t)t->n_rows * sizeof *cell);
    if (!cell) return;
    bool same = true;
    for (int32_t i = 0; i < t->n_rows; i++) {
        same &= cell[i] / cache->ne[1] == t->rows[i].seq;
        t->cell[i] = cell[i] % cache->ne[1];
    }
    if (same) t->proven |= PROVEN_SEQUENCES;
    else refuse(t, &t->unproven, "the graph's rows belong to other sequences than planned");
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
        refuse(t, &t->unproven, "the graph's cells were not read before its mask");
        return;
    }
    if (!m || (m->type != GGML_TYPE_F32 && m->type != GGML_TYPE_F16) || m->ne[2] != 1 ||
        m->ne[1] * m->ne[3] != t->n_rows || !ggml_is_contiguous(m)) {
        refuse(t, &t->unproven, "the graph's attention mask has another shape than planned");
        return;
    }
    const char *v = bytes_of(t, m, 0, ggml_nbytes(m));
    if (!v) return;
    bool same = true;
    for (int32_t i = 0; same && i < t->n_rows; i++) { /* rows of one sequence after another, like the batch */
        same = sees(v + (size_t)i * m->nb[1], m->type, m->ne[0], t->cell[i], (int64_t)t->rows[i].pos + 1);
    }
    if (same) t->proven |= PROVEN_POSITIONS;
    else refuse(t, &t->unproven, "the graph's attention mask opens other positions than planned");
}

/* Compare the run's own token ids, positions or output rows with the plan. */
static void prove(glia_tap *t, const struct ggml_tensor *node) {
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
        refuse(t, &t->unproven, "one forward pass ran as several graphs");
        return;
    }
    const int32_t *v = (const int32_t *)(const void *)bytes_of(t, x, 0, (size_t)n * sizeof *v);
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
    else refuse(t, &t->unproven, "the graph's rows are not the planned ones");
}

/* ------------------------------------------------------------------ copying */

/* Whole numbers, one float each: expert indices lie far below 2²⁴ and stay exact. */
static void copy_integers(const glia_tap_want *w, const glia_place *pl, const char *src, float *dst) {
    int32_t n = w->heads ? w->n_heads : pl->width;
    for (int32_t k = 0; k < n; k++) {
        int32_t v;
        memcpy(&v, src + (size_t)(w->heads ? w->heads[k] : k) * sizeof v, sizeof v);
        dst[k] = (float)v;
    }
}

static void copy_row(const glia_tap_want *w, const glia_place *pl, const struct ggml_tensor *x, const char *src,
                     float *dst) {
    if (pl->integers) {
        copy_integers(w, pl, src, dst);
        return;
    }
    src += (size_t)pl->column * sizeof(float);
    if (!w->heads) {
        if (pl->row_axis == 1 || x->nb[1] == (size_t)x->ne[0] * sizeof(float)) {
            memcpy(dst, src, (size_t)pl->width * sizeof *dst);
        } else {
            for (int64_t h = 0; h < x->ne[1]; h++) {
                memcpy(dst + h * x->ne[0], src + (size_t)h * x->nb[1], (size_t)x->ne[0] * sizeof *dst);
            }
        }
        return;
    }
    size_t hd = (size_t)pl->head_dim, stride = pl->row_axis == 1 ? hd * sizeof(float) : x->nb[1];
    for (int32_t k = 0; k < w->n_heads; k++) {
        memcpy(dst + (size_t)k * hd, src + (size_t)w->heads[k] * stride, hd * sizeof *dst);
    }
}

static bool grow(float **p, size_t *have, size_t n) {
    if (*have >= n) return true;
    glia_free(*p);
    *p = glia_malloc(n * sizeof **p);
    *have = *p ? n : 0;
    return *p != NULL;
}

static void reduce_row(glia_tap_want *w, const float *row) {
    size_t at = (size_t)w->n_copied++ * (size_t)w->out_width;
    if (w->sums) glia_sums_add(w->sums, row);
    else glia_reduce_row(w->reduce, row, w->dst + at, w->indices ? w->indices + at : NULL);
}

/* n gathered rows of the base point → rows of the derived one, in blocks that stay in a cache when they are reduced. */
static bool put_derived(glia_tap *t, glia_tap_want *w, size_t in_width, int32_t n) {
    int32_t heads = (int32_t)(in_width / (size_t)(w->derive->head_dim ? w->derive->head_dim : (int32_t)in_width));
    if (!w->reduce) {
        float *dst = w->dst + (size_t)w->n_copied * (size_t)w->out_width;
        w->n_copied += n;
        return glia_derive_rows(t->deriver, w->derive, t->from, n, w->heads, heads, dst);
    }
    enum { BLOCK = 32 };
    size_t width = (size_t)w->reduce->in_width;
    if (!grow(&t->made, &t->n_made, BLOCK * width)) return false;
    for (int32_t r = 0; r < n; r += BLOCK) {
        int32_t some = n - r < BLOCK ? n - r : BLOCK;
        if (!glia_derive_rows(t->deriver, w->derive, t->from + (size_t)r * in_width, some, w->heads, heads, t->made))
            return false;
        for (int32_t i = 0; i < some; i++) reduce_row(w, t->made + (size_t)i * width);
    }
    return true;
}

/* The next row of a want: copied to its place, or reduced first. */
static void put_row(glia_tap *t, glia_tap_want *w, const glia_place *pl, const struct ggml_tensor *x, const char *src) {
    if (!w->reduce) {
        copy_row(w, pl, x, src, w->dst + (size_t)w->n_copied++ * (size_t)w->out_width);
        return;
    }
    const float *row = t->row;
    if (!w->heads && !pl->integers && (pl->row_axis == 1 || x->nb[1] == (size_t)x->ne[0] * sizeof(float))) {
        row = (const float *)(const void *)src + pl->column; /* it lies together: read it where it is */
    } else {
        copy_row(w, pl, x, src, t->row);
    }
    reduce_row(w, row);
}

/* The rows of node x that a want takes: batch rows first to last, rows x0 to x1 of x.  False: none. */
typedef struct span {
    int32_t first, last;
    size_t x0, x1;
} span;

static bool span_of(const glia_tap *t, const glia_tap_want *w, const glia_place *pl, span *out) {
    bool outputs = pl->row_kind == GLIA_ROWS_OUTPUTS;
    int32_t first = -1, last = -1;
    if (!w->mask && !outputs) {
        first = w->row0, last = w->row0 + w->n_rows - 1;
        if (!w->n_rows) return false;
    }
    for (int32_t r = 0; (w->mask || outputs) && r < w->n_rows; r++) {
        if (w->mask && !w->mask[r]) continue;
        if (outputs && t->out_row[w->row0 + r] < 0) continue; /* found short at disarm */
        last = w->row0 + r;
        if (first < 0) first = last;
    }
    if (first < 0) return false;
    *out = (span){first, last, (size_t)(outputs ? t->out_row[first] : first),
                  (size_t)(outputs ? t->out_row[last] : last)};
    return true;
}

/* Do the wanted rows lie together on a device, so that one copy takes them to their place as they are? */
static bool is_one_piece(const glia_tap *t, const glia_tap_want *w, const glia_place *pl, const struct ggml_tensor *x,
                         const span *sp) {
    size_t row = (size_t)pl->width * sizeof(float);
    if ((is_host(x) && !(t->staging && glia_staging_takes(t->staging, x))) || w->reduce || w->derive || w->heads ||
        pl->integers || pl->column || pl->width != pl->node_width || x->nb[pl->row_axis] != row)
        return false;
    if (pl->row_axis == 2 && x->nb[1] != (size_t)x->ne[0] * sizeof(float)) return false;
    if (sp->x1 - sp->x0 != (size_t)(sp->last - sp->first)) return false;
    for (int32_t r = sp->first; w->mask && r <= sp->last; r++) {
        if (!w->mask[r - w->row0]) return false;
    }
    return true;
}

/* Such rows, to their place without a copy in between. */
static void get_rows(glia_tap *t, glia_tap_want *w, const glia_place *pl, const struct ggml_tensor *x, const span *sp) {
    size_t row = (size_t)pl->width * sizeof(float), n = sp->x1 - sp->x0 + 1;
    float *dst = w->dst + (size_t)w->n_copied * (size_t)w->out_width;
    w->n_copied += (int32_t)n;
    if (t->staging && glia_staging_copy(t->staging, x, sp->x0 * row, n * row, dst)) return;
    if (t->staging) glia_staging_settle(t->staging);
    ggml_backend_tensor_get(x, dst, sp->x0 * row, n * row);
}

static bool is_attention(const glia_tap_want *w) {
    return w->point == GLIA_POINT_ATTN_SCORES || w->point == GLIA_POINT_ATTN_PROBS;
}

/* The layer whose attention node (logits: whose logits) was fetched; NULL: none. */
static const glia_attn *attention_here(const glia_tap *t, bool logits) {
    for (int32_t il = 0; il < t->at->n_layer; il++) {
        const glia_attn *at = &t->at->attn[il];
        if ((logits ? at->logits : at->node) == t->node) return at;
    }
    return NULL;
}

static glia_attention_node attention_node(const glia_tap *t, const glia_attn *at, const struct ggml_tensor *x) {
    return (glia_attention_node){.attn = at,
                                 .node = x,
                                 .rows = t->rows,
                                 .n_rows = t->n_rows,
                                 .cells = t->cells,
                                 .wants = t->wants,
                                 .first = t->head[at->node],
                                 .edits = t->edits,
                                 .first_edit = t->edit_head[t->node],
                                 .first_score_edit = at->logits < 0 ? -1 : t->edit_head[at->logits]};
}

static void edit_attention(glia_tap *t, const struct ggml_tensor *x) {
    const glia_attn *at = attention_here(t, false), *logits = at ? NULL : attention_here(t, true);
    if ((!at && !logits) || t->strange || t->unproven || t->nomem) return;
    const unsigned need = PROVEN_TOKENS | PROVEN_SEQUENCES;
    glia_attention_node n = attention_node(t, at ? at : logits, x);
    const char *why = (t->proven & need) != need ? "the rows of the attention were not proven in time"
                      : logits                   ? glia_attention_edit_logits(t->attention, &n)
                                                 : glia_attention_edit(t->attention, &n);
    if (why == GLIA_ATTENTION_NOMEM) t->nomem = true;
    else if (why) refuse(t, &t->unproven, why);
}

/* Attention of the layer whose node (logits: whose logits) was fetched. */
static void capture_attention(glia_tap *t, const struct ggml_tensor *x, bool logits) {
    const glia_attn *at = attention_here(t, logits);
    if (!at || t->strange || t->unproven || t->nomem) return;
    const unsigned need = PROVEN_TOKENS | PROVEN_SEQUENCES;
    glia_attention_node n = attention_node(t, at, x);
    const char *why = (t->proven & need) != need ? "the rows of the attention were not proven in time"
                      : logits                   ? glia_attention_keep(t->attention, &n)
                                                 : glia_attention_read(t->attention, &n);
    if (why == GLIA_ATTENTION_NOMEM) t->nomem = true;
    for (int32_t i = n.first; i >= 0 && why; i = t->wants[i].next) {
        if (!is_attention(&t->wants[i])) continue;
        t->wants[i].refused = why;
        if (!t->wants[i].optional && !t->nomem) refuse(t, &t->unproven, why);
    }
}

/* Are the rows of this node the planned ones, as floats of the planned width?  Positions are read at the first RoPE,
 * behind the first points: disarm insists on them. */
static bool is_as_planned(glia_tap *t, const glia_place *pl, const struct ggml_tensor *x) {
    bool outputs = pl->row_kind == GLIA_ROWS_OUTPUTS;
    unsigned need = PROVEN_TOKENS | (outputs && t->n_outputs ? PROVEN_OUTPUTS : 0u);
    int64_t n_rows = outputs ? t->n_outputs : t->n_rows;
    int64_t width = pl->row_axis == 1 ? x->ne[0] : x->ne[0] * x->ne[1];
    if ((t->proven & need) == need && x->type == (pl->integers ? GGML_TYPE_I32 : GGML_TYPE_F32) &&
        x->nb[0] == sizeof(float) && x->ne[pl->row_axis] == n_rows && width == pl->node_width &&
        (pl->row_axis != 2 || x->ne[3] == 1))
        return true;
    refuse(t, &t->unproven, "a node's rows or width are not the planned ones");
    return false;
}

static void edit(glia_tap *t, struct ggml_tensor *x) {
    for (int32_t i = t->edit_head[t->node]; i >= 0; i = t->edits[i].next) {
        const glia_tap_edit *e = &t->edits[i];
        const glia_place *pl = glia_atlas_place(t->at, e->point, e->layer);
        if (e->point == GLIA_POINT_ATTN_SCORES || e->point == GLIA_POINT_ATTN_PROBS) continue;
        if (t->strange || t->unproven || t->nomem || !is_as_planned(t, pl, x)) return;
        const int32_t *out_row = pl->row_kind == GLIA_ROWS_OUTPUTS ? t->out_row : NULL;
        if (!glia_edit_node(e, pl, x, t->rows, out_row, &t->editing)) t->nomem = true;
    }
}

static void capture(glia_tap *t, const struct ggml_tensor *x) {
    bool attention = false;
    for (int32_t i = t->head[t->node]; i >= 0; i = t->wants[i].next) {
        glia_tap_want *w = &t->wants[i];
        if (is_attention(w)) {
            attention = true;
            continue;
        }
        const glia_place *pl = glia_atlas_place(t->at, w->point, w->layer);
        if (pl->derived) pl = glia_atlas_place(t->at, pl->base, w->layer);
        bool outputs = pl->row_kind == GLIA_ROWS_OUTPUTS;
        if (t->strange || t->unproven || t->nomem || !is_as_planned(t, pl, x)) return;
        span sp;
        if (!x->ne[pl->row_axis] || !span_of(t, w, pl, &sp)) continue;
        if (is_one_piece(t, w, pl, x, &sp)) {
            get_rows(t, w, pl, x, &sp);
            continue;
        }
        if (t->staging) glia_staging_settle(t->staging);
        size_t stride = x->nb[pl->row_axis];
        size_t n_bytes =
            (sp.x1 - sp.x0) * stride + (pl->row_axis == 1
                                            ? (size_t)x->ne[0] * sizeof(float)
                                            : (size_t)(x->ne[1] - 1) * x->nb[1] + (size_t)x->ne[0] * sizeof(float));
        const char *base = bytes_of(t, x, sp.x0 * stride, n_bytes);
        if (!base) return;
        size_t in_width = (size_t)(w->heads ? w->n_heads * pl->head_dim : pl->width);
        int32_t n_gathered = 0;
        if (w->derive && !grow(&t->from, &t->n_from, in_width * (size_t)(sp.last - sp.first + 1))) {
            t->nomem = true;
            return;
        }
        for (int32_t row = sp.first; row <= sp.last; row++) {
            if (w->mask && !w->mask[row - w->row0]) continue;
            int32_t xr = outputs ? t->out_row[row] : row;
            if (xr < 0) continue;
            const char *src = base + ((size_t)xr - sp.x0) * stride;
            if (w->derive) copy_row(w, pl, x, src, t->from + (size_t)n_gathered++ * in_width);
            else put_row(t, w, pl, x, src);
        }
        if (w->derive && !put_derived(t, w, in_width, n_gathered)) t->nomem = true;
    }
    if (attention) capture_attention(t, x, false);
}

/* ------------------------------------------------------------------ the callback */

static bool same_node(const glia_signature *s, const struct ggml_tensor *x) {
    return s->op == (int32_t)x->op && !strcmp(s->name, x->name);
}

/* Need the host not wait for this node?  Its rows leave in the order of its stream, and what proves rows is read from
 * inputs, which lay there before the graph began. */
static bool keeps_order(const glia_tap *t, const struct ggml_tensor *x) {
    uint8_t ask = t->ask[t->node];
    if (ask & (ASK_LOGITS | ASK_EDITED | ASK_EDITED_ATTENTION)) return false;
    if (ask & ASK_CANARY) {
        const struct ggml_tensor *input = x->src[1];
        if (t->node == t->at->pos_node && t->at->pos_proof == GLIA_POS_MASK) return false;
        if (!input || input->op != GGML_OP_NONE) return false;
    }
    for (int32_t i = t->head[t->node]; i >= 0; i = t->wants[i].next) {
        const glia_tap_want *w = &t->wants[i];
        const glia_place *pl = glia_atlas_place(t->at, w->point, w->layer);
        span sp;
        if (is_attention(w) || pl->derived) return false;
        if (span_of(t, w, pl, &sp) && !is_one_piece(t, w, pl, x, &sp)) return false;
    }
    return true;
}

bool glia_tap_on_node(struct ggml_tensor *node, bool ask, void *ud) {
    glia_tap *t = ud;
    if (ask && t->cells) glia_cells_on_ask(t->cells, node);
    if (!t->armed) return !ask; /* nothing wanted: false when asked; never false when fetching */
    if (!ask) {
        if (t->staging) glia_staging_fetched(t->staging);
        if (t->strange || t->unproven || t->nomem) return true;
        if (t->ask[t->node] & ASK_CANARY) prove(t, node);
        if (t->ask[t->node] & ASK_EDITED_ATTENTION) edit_attention(t, node);
        if (t->ask[t->node] & ASK_EDITED) edit(t, node);
        if (t->ask[t->node] & ASK_LOGITS) capture_attention(t, node, true);
        if (t->ask[t->node] & ASK_WANTED) capture(t, node);
        return true;
    }
    if (t->strange || t->unproven || t->nomem) return false;
    if (t->node + 1 >= t->at->n_nodes) { /* the last run is over: a second graph begins */
        t->node = -1, t->proven = 0;
        refuse(t, &t->unproven, "one forward pass ran as several graphs");
        return false;
    }
    t->node++;
    if (!same_node(&t->at->sig[t->node], node)) {
        refuse(t, &t->strange, "llama.cpp ran another graph than the one that was mapped at load");
        return false;
    }
    if (t->node + 1 == t->at->n_nodes) t->n_runs++;
    if (!t->ask[t->node]) return false;
    if (t->staging && keeps_order(t, node)) glia_staging_do_not_wait(t->staging, node);
    return true;
}

void glia_tap_state_moved(glia_tap *t, int32_t before, int32_t after) {
    if (!t->armed || !t->at || t->at->pos_proof != GLIA_POS_STATE || !t->n_rows) return;
    bool same = before == t->rows[0].pos - 1 && after == t->rows[t->n_rows - 1].pos;
    for (int32_t i = 1; i < t->n_rows; i++) {
        same &= t->rows[i].seq == t->rows[0].seq && t->rows[i].pos == t->rows[i - 1].pos + 1;
    }
    if (same) t->proven |= PROVEN_POSITIONS;
    else refuse(t, &t->unproven, "the model's state stands at another position than planned");
}

glia_tap_result glia_tap_disarm(glia_tap *t, char why[160]) {
    t->armed = false;
    if (t->staging) glia_staging_end(t->staging); /* every row has arrived, or is not on its way any more */
    if (!t->nomem && !t->strange && !t->unproven) {
        if (t->n_runs != 1) refuse(t, &t->strange, "the graph ended early");
        unsigned need = PROVEN_TOKENS | PROVEN_POSITIONS | (t->at->cell_node >= 0 ? (unsigned)PROVEN_SEQUENCES : 0u);
        if (!t->strange && (t->proven & need) != need) {
            refuse(t, &t->unproven, "token ids, positions or sequences were not read back");
        }
        for (int32_t i = 0; i < t->n_wants && !t->unproven; i++) {
            const glia_tap_want *w = &t->wants[i];
            int32_t n = w->n_rows;
            if (w->optional && w->refused) continue;
            if (w->mask) {
                n = 0;
                for (int32_t r = 0; r < w->n_rows; r++) n += w->mask[r];
            }
            if (w->n_copied != n) refuse(t, &t->unproven, "a wanted row was not computed");
        }
    }
    memcpy(why, t->why, sizeof t->why);
    return t->nomem      ? GLIA_TAP_NOMEM
           : t->strange  ? GLIA_TAP_NEW_TOPOLOGY
           : t->unproven ? GLIA_TAP_UNPROVEN
                         : GLIA_TAP_OK;
}

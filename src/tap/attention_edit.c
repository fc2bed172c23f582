/* tap/attention_edit.c — changing attention while the graph runs.  Engine thread only.  See attention.h.
 *
 * Attention knockout: Geva et al. 2023, "Dissecting recall of factual associations in auto-regressive language models". */
#include "attention_parts.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include <math.h>
#include <string.h>

static bool is_attention(const glia_tap_edit *e) {
    return e->point == GLIA_POINT_ATTN_SCORES || e->point == GLIA_POINT_ATTN_PROBS;
}

/* ------------------------------------------------------------------ one head's row */

static bool takes_row(const glia_tap_edit *e, int32_t t) {
    return t >= e->row0 && t < e->row0 + e->n_rows && (!e->mask || e->mask[t - e->row0]);
}

/* Number of head in the edit's list, -1: not in it. */
static int32_t number_of(const glia_tap_edit *e, int32_t head) {
    if (!e->heads) return head;
    for (int32_t k = 0; k < e->n_heads; k++) {
        if (e->heads[k] == head) return k;
    }
    return -1;
}

/* How many rows of its request the edit changed before batch row t. */
static int32_t index_of(const glia_tap_edit *e, int32_t t) {
    int32_t n = e->first;
    for (int32_t i = 0; i < t - e->row0; i++) n += !e->mask || e->mask[i];
    return n;
}

static float changed(const glia_edit_rule *r, float x, const float *v) {
    switch (r->op) {
    case GLIA_EDIT_KNOCKOUT: return -INFINITY;
    case GLIA_EDIT_ZERO: return 0;
    case GLIA_EDIT_SCALE: return x * r->strength;
    case GLIA_EDIT_SET: return *v;
    case GLIA_EDIT_ADD: return (float)((double)x + (double)r->strength * (double)*v);
    default: return x;
    }
}

/* The row x [p + 1] by position of batch row t, as far as it attends, from position `from` on; k: number of its head. */
static void change_row(const glia_tap_edit *e, float *x, int32_t from, int32_t p, int32_t t, int32_t k) {
    const glia_edit_rule *r = e->rule;
    int32_t n = e->columns ? e->n_columns : e->col_to - e->col_from;
    const float *v = r->rows;
    if (v) v += (size_t)(r->n_rows > 1 ? index_of(e, t) : 0) * (size_t)r->width + (size_t)k * (size_t)n;
    int32_t i = e->columns || from <= e->col_from ? 0 : from - e->col_from;
    for (; i < n; i++) {
        int32_t c = e->columns ? e->columns[i] : e->col_from + i;
        if (c > p) break;
        if (c >= from) x[c] = changed(r, x[c], v ? v + i : NULL);
    }
}

/* All edits of the chain for scores or for probabilities that name this row and head. */
static void change(const glia_attention_node *n, int32_t first, glia_point point, float *x, int32_t from, int32_t t,
                   int32_t head) {
    for (int32_t i = first; i >= 0; i = n->edits[i].next) {
        const glia_tap_edit *e = &n->edits[i];
        int32_t k = e->point == point && takes_row(e, t) ? number_of(e, head) : -1;
        if (k >= 0) change_row(e, x, from, n->rows[t].pos, t, k);
    }
}

/* Is the i-th edit the first of the chain to name this row and head?  Each is done once, with all that name it. */
static bool is_first(const glia_attention_node *n, int32_t i, int32_t t, int32_t head) {
    for (int32_t k = n->first_edit; k != i; k = n->edits[k].next) {
        const glia_tap_edit *e = &n->edits[k];
        if (is_attention(e) && takes_row(e, t) && number_of(e, head) >= 0) return false;
    }
    return true;
}

/* ------------------------------------------------------------------ flash attention off */

/* The columns of one head and batch row of [columns, n_tps, heads, streams], to be changed. */
typedef struct columns_at {
    struct ggml_tensor *x;
    size_t offset, bytes;
    bool direct;
} columns_at;

static float *open_columns(glia_attention *a, columns_at *at, const glia_attention_node *n, int32_t head, int32_t t) {
    struct ggml_tensor *x = (struct ggml_tensor *)(uintptr_t)n->node;
    ggml_backend_buffer_t buf = x->view_src ? x->view_src->buffer : x->buffer;
    *at = (columns_at){.x = x, .bytes = (size_t)x->ne[0] * sizeof(float)};
    at->offset = (size_t)head * x->nb[2] + (size_t)(t % x->ne[1]) * x->nb[1] + (size_t)(t / x->ne[1]) * x->nb[3];
    at->direct = !buf || ggml_backend_buffer_is_host(buf);
    return (float *)(void *)glia_attn_host(a, BUF_COLUMNS, x, at->offset, at->bytes);
}

static void close_columns(const columns_at *at, const float *row) {
    if (!at->direct) ggml_backend_tensor_set(at->x, row, at->offset, at->bytes);
}

/* Scores of positions 0 … p of a row of logits, without mask: what is not visible is out of reach of the change, too. */
static bool edit_row_of_logits(glia_attention *a, const glia_attention_node *n, const glia_tap_edit *e,
                               const glia_cell_table *c, int32_t head, int32_t k, int32_t t) {
    int32_t p = n->rows[t].pos;
    columns_at at;
    float *row = open_columns(a, &at, n, head, t);
    float *x = (float *)(void *)glia_attn_room(a, BUF_EDIT, 2 * (size_t)(p + 1) * sizeof *x), *old = x + p + 1;
    if (!row || !x) return false;
    float slope = n->attn->max_bias > 0 ? glia_attn_slope(n->attn->max_bias, n->node->ne[2], head) : 0;
    for (int32_t i = 0; i <= p; i++) {
        x[i] = old[i] = c->cell[i] < 0 ? 0 : n->attn->scale * row[c->cell[i]] - slope * (float)(p - i);
    }
    change_row(e, x, 0, p, t, k);
    for (int32_t i = 0; i <= p; i++) {
        if (c->cell[i] >= 0 && memcmp(&x[i], &old[i], sizeof *x) != 0)
            row[c->cell[i]] = (x[i] + slope * (float)(p - i)) / n->attn->scale;
    }
    close_columns(&at, row);
    return true;
}

/* The cells of the edit's sequence; x: the tensor that has them as columns, NULL: none.  A window leaves positions behind. */
static const char *table_of(const glia_attention *a, const glia_attention_node *n, const glia_tap_edit *e,
                            const struct ggml_tensor *x, glia_cell_table *c) {
    if (!glia_cells_table(n->cells, n->attn->cache, n->rows[e->row0].seq, c))
        return "the cells of a sequence are not known";
    for (int32_t r = 0; r < e->n_rows; r++) {
        int32_t p = n->rows[e->row0 + r].pos;
        if (p >= c->n_pos) return "a row is not in the cache";
        for (int32_t i = r ? p : 0; i <= p; i++) {
            if ((c->cell[i] < 0 && !a->windows) || (x && c->cell[i] >= x->ne[0]))
                return "the cells of a sequence are not those of the graph";
        }
    }
    return NULL;
}

const char *glia_attention_edit_logits(glia_attention *a, const glia_attention_node *n) {
    if (!glia_attn_fits(n, n->node)) return "the rows of the attention logits are not the planned ones";
    for (int32_t i = n->first_edit; i >= 0; i = n->edits[i].next) {
        const glia_tap_edit *e = &n->edits[i];
        glia_cell_table c;
        if (!is_attention(e)) continue;
        const char *why = table_of(a, n, e, n->node, &c);
        if (why) return why;
        int32_t heads = e->heads ? e->n_heads : (int32_t)n->node->ne[2];
        for (int32_t t = e->row0; t < e->row0 + e->n_rows; t++) {
            for (int32_t k = 0; takes_row(e, t) && k < heads; k++) {
                if (!edit_row_of_logits(a, n, e, &c, e->heads ? e->heads[k] : k, k, t)) return GLIA_ATTENTION_NOMEM;
            }
        }
    }
    return NULL;
}

/* Nothing was left to attend to: ggml made no numbers of it. */
static void settle_row(float *row, int64_t n_cols) {
    bool empty = false;
    for (int64_t i = 0; i < n_cols; i++) empty |= isnan(row[i]);
    if (empty) memset(row, 0, (size_t)n_cols * sizeof *row);
}

/* The rows of one edit in the probabilities: changed, or settled when it was the scores' turn. */
static const char *edit_probs_plain(glia_attention *a, const glia_attention_node *n, const glia_tap_edit *e,
                                    const masked *m, bool settle) {
    glia_cell_table c;
    const char *why = table_of(a, n, e, n->node, &c);
    if (why) return why;
    int32_t heads = e->heads ? e->n_heads : (int32_t)n->node->ne[2];
    for (int32_t t = e->row0; t < e->row0 + e->n_rows; t++) {
        if (!takes_row(e, t)) continue;
        int32_t p = n->rows[t].pos, from = glia_attn_row_from(a, n, m, &c, t, &why);
        if (from < 0) return why;
        for (int32_t k = 0; k < heads; k++) {
            columns_at at;
            float *row = open_columns(a, &at, n, e->heads ? e->heads[k] : k, t);
            float *x = (float *)(void *)glia_attn_room(a, BUF_EDIT, (size_t)(p + 1) * sizeof *x);
            if (!row || !x) return GLIA_ATTENTION_NOMEM;
            if (settle) {
                settle_row(row, n->node->ne[0]);
            } else {
                for (int32_t i = from; i <= p; i++) x[i] = row[c.cell[i]];
                change_row(e, x, from, p, t, k);
                for (int32_t i = from; i <= p; i++) row[c.cell[i]] = x[i];
            }
            close_columns(&at, row);
        }
    }
    return NULL;
}

static const char *edit_plain(glia_attention *a, const glia_attention_node *n, const masked *m) {
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = pass ? n->first_edit : n->first_score_edit; i >= 0; i = n->edits[i].next) {
            const char *why = is_attention(&n->edits[i]) ? edit_probs_plain(a, n, &n->edits[i], m, !pass) : NULL;
            if (why) return why;
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------ flash attention on */

/* x [p + 1], from `from` on: scores → probabilities.  A sink takes its share and gives nothing. */
static void softmax(float *out, const float *x, int32_t from, int32_t p, const float *sink) {
    double most = sink ? (double)*sink : -INFINITY, sum = 0;
    for (int32_t i = from; i <= p; i++) most = fmax(most, (double)x[i]);
    if (sink) sum = exp((double)*sink - most);
    for (int32_t i = from; i <= p; i++) sum += exp((double)x[i] - most);
    for (int32_t i = 0; i <= p; i++) {
        out[i] = i < from || !(sum > 0) || most == -INFINITY ? 0 : (float)(exp((double)x[i] - most) / sum);
    }
}

/* Values of one stream where the CPU can read them. */
typedef struct values {
    const struct ggml_tensor *x;
    const char *p;
    ggml_to_float_t to_float; /* NULL: they are floats */
} values;

static bool gather_values(glia_attention *a, const struct ggml_tensor *node, size_t stream, values *v) {
    const struct ggml_tensor *x = node->src[2];
    *v = (values){.x = x};
    if (x->type != GGML_TYPE_F32) v->to_float = ggml_get_type_traits(x->type)->to_float;
    v->p = glia_attn_host(a, BUF_V, x, (x->ne[3] > 1 ? stream : 0) * x->nb[3],
                          (size_t)(x->ne[1] - 1) * x->nb[1] + (size_t)(x->ne[2] - 1) * x->nb[2] +
                              ggml_row_size(x->type, x->ne[0]));
    return v->p != NULL;
}

/* Σ probs[i] · value of position i, over one head's cells. */
static void weigh(const values *v, const glia_cell_table *c, const float *probs, int32_t from, int32_t p,
                  int64_t kv_head, float *row, double *sum, float *out) {
    int64_t n = v->x->ne[0];
    for (int64_t d = 0; d < n; d++) sum[d] = 0;
    for (int32_t i = from; i <= p; i++) {
        if (probs[i] == 0) continue;
        const char *at = v->p + (size_t)c->cell[i] * v->x->nb[1] + (size_t)kv_head * v->x->nb[2];
        const float *x = (const float *)(const void *)at;
        if (v->to_float) {
            v->to_float(at, row, n);
            x = row;
        }
        for (int64_t d = 0; d < n; d++) sum[d] += (double)probs[i] * (double)x[d];
    }
    for (int64_t d = 0; d < n; d++) out[d] = (float)sum[d];
}

static bool remember(glia_attention *a, int32_t t, int32_t head, int32_t p, const float *scores, const float *probs) {
    if (a->n_edited == a->n_edited_alloc) {
        int32_t n = a->n_edited_alloc ? 2 * a->n_edited_alloc : 64;
        edited_row *more = glia_realloc(a->edited, (size_t)n * sizeof *more);
        if (!more) return false;
        a->edited = more, a->n_edited_alloc = n;
    }
    size_t n = (size_t)(p + 1);
    edited_row *r = &a->edited[a->n_edited];
    *r = (edited_row){.row = t, .head = head, .n = p + 1, .scores = glia_malloc(2 * n * sizeof(float))};
    if (!r->scores) return false;
    r->probs = r->scores + n;
    memcpy(r->scores, scores, n * sizeof(float));
    memcpy(r->probs, probs, n * sizeof(float));
    a->n_edited++;
    return true;
}

void glia_attention_forget_edited(glia_attention *a) {
    for (int32_t i = 0; i < a->n_edited; i++) glia_free(a->edited[i].scores);
    a->n_edited = 0;
    a->edited_of = NULL;
}

/* What one edit needs at hand. */
typedef struct work {
    const glia_attention_node *n;
    const masked *m;
    glia_cell_table cells;
    scaled s;
    inputs in;
    values v;
    int32_t first, last; /* batch rows */
    bool keep;           /* some hook wants to see it */
} work;

/* One head's row: logits [columns] → its output in the node. */
static const char *redo_row(glia_attention *a, const work *w, const float *logits, int32_t head, int32_t t) {
    const glia_attention_node *n = w->n;
    const char *why = NULL;
    int32_t p = n->rows[t].pos, from = glia_attn_row_from(a, n, w->m, &w->cells, t, &why);
    if (from < 0) return why;
    const float *mask = w->s.max_bias > 0 ? glia_attn_mask_row(a, w->m, t) : NULL;
    if (w->s.max_bias > 0 && !mask) return GLIA_ATTENTION_NOMEM;
    size_t len = (size_t)(p + 1), hd = (size_t)w->v.x->ne[0];
    float *x = (float *)(void *)glia_attn_room(a, BUF_EDIT, (3 * len + 2 * hd + 2) * sizeof *x + hd * sizeof(double) + 8);
    if (!x) return GLIA_ATTENTION_NOMEM;
    float *before = x + len, *probs = before + len, *row = probs + len, *out = row + hd;
    double *sum = (double *)(((uintptr_t)(out + hd) + 7) & ~(uintptr_t)7);
    const float *sink = w->in.sinks ? w->in.sinks + head : NULL;
    int64_t n_heads = n->node->src[0]->ne[2];
    glia_attn_gather(x, logits, &w->cells, from, p + 1);
    glia_attn_finish_scores(x, &w->cells, w->s.cap != 0 ? 1 : w->s.scale, glia_attn_slope(w->s.max_bias, n_heads, head),
                            mask, from, p, p + 1);
    softmax(before, x, from, p, sink);
    change(n, n->first_edit, GLIA_POINT_ATTN_SCORES, x, from, t, head);
    softmax(probs, x, from, p, sink);
    change(n, n->first_edit, GLIA_POINT_ATTN_PROBS, probs, from, t, head);
    if (!memcmp(before, probs, len * sizeof *probs)) return NULL;
    weigh(&w->v, &w->cells, probs, from, p, head / (n_heads / w->v.x->ne[2]), row, sum, out);
    struct ggml_tensor *node = (struct ggml_tensor *)(uintptr_t)n->node;
    size_t at = (size_t)(t / w->m->n_tps) * node->nb[3] + (size_t)(t % w->m->n_tps) * node->nb[2] +
                (size_t)head * node->nb[1];
    ggml_backend_tensor_set(node, out, at, hd * sizeof *out);
    return w->keep && !remember(a, t, head, p, x, probs) ? GLIA_ATTENTION_NOMEM : NULL;
}

static const char *edit_flash_one(glia_attention *a, work *w, int32_t i) {
    const glia_attention_node *n = w->n;
    const glia_tap_edit *e = &n->edits[i];
    const char *why = table_of(a, n, e, NULL, &w->cells);
    if (why) return why;
    w->first = -1;
    for (int32_t t = e->row0; t < e->row0 + e->n_rows; t++) {
        if (!takes_row(e, t)) continue;
        if (w->first < 0) w->first = t;
        w->last = t;
    }
    if (w->first < 0) return NULL;
    if (!glia_attn_gather_inputs(a, n->node, w->m, w->first, w->last, &w->in) ||
        !gather_values(a, n->node, (size_t)(w->first / w->m->n_tps), &w->v))
        return GLIA_ATTENTION_NOMEM;
    int32_t heads = e->heads ? e->n_heads : (int32_t)w->in.qx->ne[2];
    size_t n_cols = (size_t)w->in.kx->ne[1], each = n_cols * (size_t)w->in.n_rows;
    float *logits = (float *)(void *)glia_attn_room(a, BUF_VALUES, each * sizeof *logits);
    if (!logits) return GLIA_ATTENTION_NOMEM;
    for (int32_t k = 0; k < heads; k++) {
        int32_t head = e->heads ? e->heads[k] : k;
        if (!glia_attn_compute(a, &w->in, &w->s, &head, 1, false, logits)) return GLIA_ATTENTION_NOMEM;
        for (int32_t t = w->first; t <= w->last; t++) {
            if (!takes_row(e, t) || !is_first(n, i, t, head)) continue;
            why = redo_row(a, w, logits + (size_t)(t - w->first) * n_cols, head, t);
            if (why) return why;
        }
    }
    return NULL;
}

static bool is_wanted(const glia_attention_node *n) {
    for (int32_t i = n->first; i >= 0; i = n->wants[i].next) {
        if (n->wants[i].point == GLIA_POINT_ATTN_SCORES || n->wants[i].point == GLIA_POINT_ATTN_PROBS) return true;
    }
    return false;
}

static const char *edit_flash(glia_attention *a, const glia_attention_node *n, const masked *m) {
    const struct ggml_tensor *node = n->node, *q = node->src[0], *v = node->src[2];
    work w = {.n = n, .m = m, .s = glia_attn_params(node), .keep = is_wanted(n)};
    if (!v || node->type != GGML_TYPE_F32 || node->ne[0] != v->ne[0] || node->ne[1] != q->ne[2] ||
        node->ne[2] != m->n_tps || q->ne[2] % v->ne[2] || v->ne[1] != node->src[1]->ne[1] ||
        (v->type != GGML_TYPE_F32 && !ggml_get_type_traits(v->type)->to_float))
        return "the attention node has an unknown shape";
    for (int32_t i = n->first_edit; i >= 0; i = n->edits[i].next) {
        const char *why = is_attention(&n->edits[i]) ? edit_flash_one(a, &w, i) : NULL;
        if (why) return why;
    }
    return NULL;
}

const char *glia_attention_edit(glia_attention *a, const glia_attention_node *n) {
    masked m;
    glia_attention_forget_edited(a);
    const char *why = glia_attn_mask_of(n, &m);
    if (why) return why;
    a->edited_of = n->attn;
    return n->attn->flash ? edit_flash(a, n, &m) : edit_plain(a, n, &m);
}

void glia_attention_show_edited(const glia_attention *a, const glia_attention_node *n) {
    if (a->edited_of != n->attn) return;
    for (int32_t i = n->first; i >= 0; i = n->wants[i].next) {
        const glia_tap_want *w = &n->wants[i];
        if (w->point != GLIA_POINT_ATTN_SCORES && w->point != GLIA_POINT_ATTN_PROBS) continue;
        for (int32_t k = 0; k < a->n_edited; k++) {
            const edited_row *r = &a->edited[k];
            if (r->row < w->row0 || r->row >= w->row0 + w->n_rows || (w->mask && !w->mask[r->row - w->row0])) continue;
            size_t row = 0;
            for (int32_t t = w->row0; t < r->row; t++) row += !w->mask || w->mask[t - w->row0];
            for (int32_t h = 0; h * w->n_cols < w->out_width; h++) {
                if ((w->heads ? w->heads[h] : h) != r->head) continue;
                memcpy(w->dst + row * (size_t)w->out_width + (size_t)h * (size_t)w->n_cols,
                       w->point == GLIA_POINT_ATTN_PROBS ? r->probs : r->scores, (size_t)r->n * sizeof(float));
            }
        }
    }
}

/* tap/capture.c — rows out of a fetched node to where they are wanted, and changes into it.  Engine thread; see run.h. */
#include "run.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "ggml.h"
#include <string.h>

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
    *out =
        (span){first, last, (size_t)(outputs ? t->out_row[first] : first), (size_t)(outputs ? t->out_row[last] : last)};
    return true;
}

/* Do the wanted rows lie together on a device, so that one copy takes them to their place as they are? */
static bool is_one_piece(const glia_tap *t, const glia_tap_want *w, const glia_place *pl, const struct ggml_tensor *x,
                         const span *sp) {
    size_t row = (size_t)pl->width * sizeof(float);
    if ((glia_tap_is_host(x) && !(t->staging && glia_staging_takes(t->staging, x))) || w->reduce || w->derive ||
        w->heads || pl->integers || pl->column || pl->width != pl->node_width || x->nb[pl->row_axis] != row)
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

void glia_tap_change_attention(glia_tap *t, const struct ggml_tensor *x) {
    const glia_attn *at = attention_here(t, false), *logits = at ? NULL : attention_here(t, true);
    if ((!at && !logits) || t->strange || t->unproven || t->nomem) return;
    const unsigned need = PROVEN_TOKENS | PROVEN_SEQUENCES;
    glia_attention_node n = attention_node(t, at ? at : logits, x);
    const char *why = (t->proven & need) != need ? "the rows of the attention were not proven in time"
                      : logits                   ? glia_attention_edit_logits(t->attention, &n)
                                                 : glia_attention_edit(t->attention, &n);
    if (why == GLIA_ATTENTION_NOMEM) t->nomem = true;
    else if (why) glia_tap_refuse(t, &t->unproven, why);
}

/* Attention of the layer whose node (logits: whose logits) was fetched. */
void glia_tap_capture_attention(glia_tap *t, const struct ggml_tensor *x, bool logits) {
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
        if (!t->wants[i].optional && !t->nomem) glia_tap_refuse(t, &t->unproven, why);
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
    glia_tap_refuse(t, &t->unproven, "a node's rows or width are not the planned ones");
    return false;
}

void glia_tap_change(glia_tap *t, struct ggml_tensor *x) {
    for (int32_t i = t->edit_head[t->node]; i >= 0; i = t->edits[i].next) {
        const glia_tap_edit *e = &t->edits[i];
        const glia_place *pl = glia_atlas_place(t->at, e->point, e->layer);
        if (e->point == GLIA_POINT_ATTN_SCORES || e->point == GLIA_POINT_ATTN_PROBS) continue;
        if (t->strange || t->unproven || t->nomem || !is_as_planned(t, pl, x)) return;
        const int32_t *out_row = pl->row_kind == GLIA_ROWS_OUTPUTS ? t->out_row : NULL;
        if (!glia_edit_node(e, pl, x, t->rows, out_row, &t->editing)) t->nomem = true;
    }
}

void glia_tap_capture(glia_tap *t, const struct ggml_tensor *x) {
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
        size_t n_bytes = (sp.x1 - sp.x0) * stride +
                         (pl->row_axis == 1 ? (size_t)x->ne[0] * sizeof(float)
                                            : (size_t)(x->ne[1] - 1) * x->nb[1] + (size_t)x->ne[0] * sizeof(float));
        const char *base = glia_tap_bytes(t, x, sp.x0 * stride, n_bytes);
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
    if (attention) glia_tap_capture_attention(t, x, false);
}

/* Need the host not wait for this node?  Its rows leave in the order of its stream, and what proves rows is read from
 * inputs, which lay there before the graph began. */
bool glia_tap_keeps_order(const glia_tap *t, const struct ggml_tensor *x) {
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

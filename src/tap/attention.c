/* tap/attention.c — see attention.h.
 *
 * Vocabulary: the rows of a batch are spread over streams, n_tps tokens each; tensors of attention are
 * [columns, n_tps, heads, streams].  span: rows of one want's sequence from its first to its last wanted one. */
#include "attention_parts.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include <math.h>
#include <string.h>

enum { BLOCK_BYTES = 8 << 20 }; /* logits of as many heads at a time as fit a cache level, at least one */

const char GLIA_ATTENTION_NOMEM[] = "out of memory for attention rows";

glia_attention *glia_attention_new(int32_t n_threads, bool windows) {
    glia_attention *a = glia_calloc(1, sizeof *a);
    if (a) a->n_threads = n_threads > 0 ? n_threads : 1, a->windows = windows;
    return a;
}

void glia_attention_free(glia_attention *a) {
    if (!a) return;
    for (int i = 0; i < N_BUFS; i++) glia_free(a->buf[i].p);
    for (int i = 0; i < GLIA_MAX_CACHES; i++) glia_free(a->from[i]);
    glia_attention_forget_edited(a);
    glia_free(a->edited);
    glia_free(a);
}

void glia_attention_begin(glia_attention *a) {
    memset(a->began, 0, sizeof a->began);
    glia_attention_forget_edited(a);
}

/* ------------------------------------------------------------------ memory */

char *glia_attn_room(glia_attention *a, int which, size_t n) {
    if (a->buf[which].n < n) {
        glia_free(a->buf[which].p);
        a->buf[which].p = glia_malloc(n);
        a->buf[which].n = a->buf[which].p ? n : 0;
    }
    return a->buf[which].p;
}

/* Bytes [off, off + n) of a tensor where the CPU can read them. */
char *glia_attn_host(glia_attention *a, int which, const struct ggml_tensor *x, size_t off, size_t n) {
    ggml_backend_buffer_t buf = x->view_src ? x->view_src->buffer : x->buffer;
    if (!buf || ggml_backend_buffer_is_host(buf)) return (char *)x->data + off;
    char *p = glia_attn_room(a, which, n);
    if (p) ggml_backend_tensor_get(x, p, off, n);
    return p;
}

/* ------------------------------------------------------------------ rows and wants */

static bool is_attention(const glia_tap_want *w) {
    return w->point == GLIA_POINT_ATTN_SCORES || w->point == GLIA_POINT_ATTN_PROBS;
}
static bool takes(const glia_tap_want *w, int32_t r) { return !w->mask || w->mask[r]; }

/* The batch rows from a want's first to its last wanted one; false: none. */
static bool span_of(const glia_tap_want *w, int32_t *first, int32_t *last) {
    *first = -1;
    for (int32_t r = 0; r < w->n_rows; r++) {
        if (!takes(w, r)) continue;
        if (*first < 0) *first = w->row0 + r;
        *last = w->row0 + r;
    }
    return *first >= 0;
}
static int32_t head_of(const glia_tap_want *w, int32_t k) { return w->heads ? w->heads[k] : k; }

/* Do the tensor's rows lie as planned: stream by stream, n_tps of each, neighbouring sequences? */
bool glia_attn_fits(const glia_attention_node *n, const struct ggml_tensor *x) {
    if (x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) || x->ne[1] < 1 || x->ne[1] * x->ne[3] != n->n_rows)
        return false;
    for (int32_t t = 0; t < n->n_rows; t++) {
        if (n->rows[t].seq - n->rows[0].seq != t / x->ne[1]) return false;
    }
    return true;
}

/* ------------------------------------------------------------------ the mask of this run */


static size_t mask_offset(const masked *m, int32_t t) {
    return (size_t)(t / m->n_tps) * m->x->nb[3] + (size_t)(t % m->n_tps) * m->x->nb[1];
}

const float *glia_attn_mask_row(glia_attention *a, const masked *m, int32_t t) {
    size_t n = (size_t)m->x->ne[0];
    bool half = m->x->type == GGML_TYPE_F16;
    char *p = glia_attn_host(a, BUF_MASK_ROW, m->x, mask_offset(m, t), n * (half ? 2 : 4));
    if (!p || !half) return (const float *)(void *)p;
    float *row = (float *)(void *)glia_attn_room(a, BUF_MASK_FLOATS, n * sizeof *row);
    if (row) ggml_fp16_to_fp32_row((const ggml_fp16_t *)(void *)p, row, (int64_t)n);
    return row;
}

/* The first position that the mask shows to a row at position p, when it shows just the cells of that one up to p. */
static int32_t visible_from(const float *mask, int64_t n_cols, const glia_cell_table *c, int32_t p) {
    int32_t n = 0, from = p;
    for (int64_t j = 0; j < n_cols; j++) {
        if (mask[j] == -INFINITY) continue;
        int32_t pos = j < c->n_cells ? c->pos[j] : -1;
        if (pos < 0 || pos > p || c->cell[pos] != (int32_t)j) return -1;
        if (pos < from) from = pos;
        n++;
    }
    return n == p - from + 1 ? from : -1; /* n different positions in [from, p], from among them: no hole */
}

/* First visible position of batch row t, checked once a pass.  -1: refused or out of memory. */
int32_t glia_attn_row_from(glia_attention *a, const glia_attention_node *n, const masked *m, const glia_cell_table *c,
                        int32_t t, const char **why) {
    int32_t cache = n->attn->cache;
    if (!a->began[cache]) {
        if (a->n_from[cache] < n->n_rows) {
            glia_free(a->from[cache]);
            a->from[cache] = glia_malloc((size_t)n->n_rows * sizeof *a->from[cache]);
            a->n_from[cache] = a->from[cache] ? n->n_rows : 0;
        }
        if (!a->from[cache]) {
            *why = GLIA_ATTENTION_NOMEM;
            return -1;
        }
        for (int32_t i = 0; i < n->n_rows; i++) a->from[cache][i] = -1;
        a->began[cache] = true;
    }
    int32_t *from = &a->from[cache][t];
    if (*from >= 0) return *from;
    const float *mask = glia_attn_mask_row(a, m, t);
    if (!mask) {
        *why = GLIA_ATTENTION_NOMEM;
        return -1;
    }
    *from = visible_from(mask, m->x->ne[0], c, n->rows[t].pos);
    if (*from > 0 && !a->windows) *from = -1;
    if (*from < 0) *why = "the attention mask does not show the positions that lie in the cache";
    return *from;
}

/* ------------------------------------------------------------------ writing rows */

float glia_attn_slope(float max_bias, int64_t n_heads, int32_t head) { /* ALiBi, as ggml has it */
    if (max_bias <= 0) return 1;
    int32_t log2 = 1;
    while (2 * log2 <= n_heads) log2 *= 2;
    return head < log2 ? powf(powf(2, -max_bias / (float)log2), (float)(head + 1))
                       : powf(powf(2, -max_bias / 2 / (float)log2), (float)(2 * (head - log2) + 1));
}

/* Columns [from, to) of a row, gathered from their cells. */
void glia_attn_gather(float *dst, const float *src, const glia_cell_table *c, int32_t from, int32_t to) {
    for (int32_t at = from, run; at < to; at += run) {
        int32_t cell = c->cell[at];
        for (run = 1; at + run < to && c->cell[at + run] == cell + run;) run++;
        memcpy(dst + at, src + cell, (size_t)run * sizeof *dst);
    }
}

static void fill(float *dst, int32_t from, int32_t to, float with) {
    for (int32_t i = from; i < to; i++) dst[i] = with;
}

static void put_probs(float *dst, const float *src, const glia_cell_table *c, int32_t from, int32_t p, int32_t n_cols) {
    fill(dst, 0, from, 0);
    glia_attn_gather(dst, src, c, from, p + 1);
    fill(dst, p + 1, n_cols, 0);
}

/* Logits that lie in dst by position already → scores; mask: of the row, NULL when it adds nothing to what is visible. */
void glia_attn_finish_scores(float *dst, const glia_cell_table *c, float scale, float slope, const float *mask,
                          int32_t from, int32_t p, int32_t n_cols) {
    fill(dst, 0, from, -INFINITY);
    for (int32_t i = from; i <= p; i++) dst[i] = scale * dst[i] + (mask ? slope * mask[c->cell[i]] : 0);
    fill(dst, p + 1, n_cols, -INFINITY);
}

/* ------------------------------------------------------------------ flash attention off */


scaled glia_attn_params(const struct ggml_tensor *x) {
    scaled s = {1, 0, 0};
    memcpy(&s.scale, (const char *)x->op_params, sizeof(float));
    memcpy(&s.max_bias, (const char *)x->op_params + sizeof(float), sizeof(float));
    if (x->op == GGML_OP_FLASH_ATTN_EXT) memcpy(&s.cap, (const char *)x->op_params + 2 * sizeof(float), sizeof(float));
    return s;
}

/* The columns of one head and batch row of [columns, n_tps, heads, streams]. */
static const float *columns(glia_attention *a, const struct ggml_tensor *x, int32_t head, int32_t t) {
    size_t off = (size_t)head * x->nb[2] + (size_t)(t % x->ne[1]) * x->nb[1] + (size_t)(t / x->ne[1]) * x->nb[3];
    return (const float *)(void *)glia_attn_host(a, BUF_COLUMNS, x, off, (size_t)x->ne[0] * sizeof(float));
}

const char *glia_attention_keep(glia_attention *a, const glia_attention_node *n) {
    if (!glia_attn_fits(n, n->node)) return "the rows of the attention logits are not the planned ones";
    for (int32_t i = n->first; i >= 0; i = n->wants[i].next) {
        glia_tap_want *w = &n->wants[i];
        glia_cell_table c;
        if (w->point != GLIA_POINT_ATTN_SCORES) continue;
        if (!glia_cells_table(n->cells, n->attn->cache, n->rows[w->row0].seq, &c))
            return "the cells of a sequence are not known";
        float *dst = w->dst;
        for (int32_t r = 0; r < w->n_rows; r++) {
            int32_t t = w->row0 + r, p = n->rows[t].pos;
            if (!takes(w, r)) continue;
            if (p >= w->n_cols) return "a row has more columns than planned";
            for (int32_t k = 0; k * w->n_cols < w->out_width; k++, dst += w->n_cols) {
                const float *src = columns(a, n->node, head_of(w, k), t);
                if (!src) return GLIA_ATTENTION_NOMEM;
                for (int32_t j = 0; j <= p; j++) {
                    int32_t cell = j < c.n_pos ? c.cell[j] : -1;
                    dst[j] = cell >= 0 && cell < n->node->ne[0] ? src[cell] : 0;
                }
            }
        }
    }
    return NULL;
}

static const char *read_plain(glia_attention *a, const glia_attention_node *n, glia_tap_want *w, const masked *m,
                              const glia_cell_table *c) {
    const struct ggml_tensor *x = n->node;
    const char *why = NULL;
    scaled s = glia_attn_params(x);
    float *dst = w->dst;
    for (int32_t r = 0; r < w->n_rows; r++) {
        int32_t t = w->row0 + r, p = n->rows[t].pos;
        if (!takes(w, r)) continue;
        int32_t from = glia_attn_row_from(a, n, m, c, t, &why);
        if (from < 0) return why;
        const float *mask = s.max_bias > 0 && w->point == GLIA_POINT_ATTN_SCORES ? glia_attn_mask_row(a, m, t) : NULL;
        if (s.max_bias > 0 && w->point == GLIA_POINT_ATTN_SCORES && !mask) return GLIA_ATTENTION_NOMEM;
        for (int32_t k = 0; k * w->n_cols < w->out_width; k++, dst += w->n_cols) {
            if (w->point == GLIA_POINT_ATTN_SCORES) {
                glia_attn_finish_scores(dst, c, s.scale, glia_attn_slope(s.max_bias, x->ne[2], head_of(w, k)), mask, from, p, w->n_cols);
                continue;
            }
            const float *src = columns(a, x, head_of(w, k), t);
            if (!src) return GLIA_ATTENTION_NOMEM;
            put_probs(dst, src, c, from, p, w->n_cols);
        }
        w->n_copied++;
    }
    return NULL;
}

/* ------------------------------------------------------------------ flash attention on */


bool glia_attn_gather_inputs(glia_attention *a, const struct ggml_tensor *node, const masked *m, int32_t first,
                          int32_t last, inputs *in) {
    const struct ggml_tensor *q = node->src[0], *k = node->src[1];
    size_t s = (size_t)(first / m->n_tps), row = (size_t)(first % m->n_tps);
    size_t n_rows = (size_t)(last - first + 1);
    *in = (inputs){.qx = q, .kx = k, .mx = m->x, .n_rows = (int64_t)n_rows};
    in->q = glia_attn_host(a, BUF_Q, q, s * q->nb[3] + row * q->nb[1],
                 (n_rows - 1) * q->nb[1] + (size_t)(q->ne[2] - 1) * q->nb[2] + (size_t)q->ne[0] * q->nb[0]);
    in->k =
        glia_attn_host(a, BUF_K, k, (k->ne[3] > 1 ? s : 0) * k->nb[3],
             (size_t)(k->ne[1] - 1) * k->nb[1] + (size_t)(k->ne[2] - 1) * k->nb[2] + ggml_row_size(k->type, k->ne[0]));
    in->mask = glia_attn_host(a, BUF_MASK, m->x, mask_offset(m, first), n_rows * m->x->nb[1]);
    if (node->src[4]) {
        in->sinks = (float *)(void *)glia_attn_host(a, BUF_SINKS, node->src[4], 0, ggml_nbytes(node->src[4]));
        if (!in->sinks) return false;
    }
    return in->q && in->k && in->mask;
}

static struct ggml_tensor *tensor(struct ggml_context *g, enum ggml_type type, int64_t n0, int64_t n1, size_t nb1,
                                  void *p) {
    struct ggml_tensor *t = ggml_new_tensor_2d(g, type, n0, n1);
    t->nb[1] = nb1, t->nb[2] = t->nb[3] = nb1 * (size_t)n1;
    t->data = p;
    return t;
}

/* Some heads, [columns, rows] each: their logits, capped or else still to be scaled; or the softmax of these. */
bool glia_attn_compute(glia_attention *a, const inputs *in, const scaled *s, const int32_t *heads, int32_t n,
                          bool softmax, float *values) {
    int64_t n_cols = in->kx->ne[1], group = in->qx->ne[2] / in->kx->ne[2];
    size_t n_nodes = (size_t)n * 8 + 8, each = (size_t)(n_cols * in->n_rows);
    size_t bytes = n_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_nodes, false) + 4096;
    char *mem = glia_attn_room(a, BUF_GRAPH, bytes);
    if (!mem) return false;
    struct ggml_context *g =
        ggml_init((struct ggml_init_params){.mem_size = bytes, .mem_buffer = mem, .no_alloc = true});
    if (!g) return false;
    struct ggml_cgraph *gf = ggml_new_graph_custom(g, n_nodes, false);
    struct ggml_tensor *mask = tensor(g, in->mx->type, n_cols, in->n_rows, in->mx->nb[1], in->mask);
    for (int32_t i = 0; i < n; i++) {
        int64_t h = heads[i];
        struct ggml_tensor *k =
            tensor(g, in->kx->type, in->kx->ne[0], n_cols, in->kx->nb[1], in->k + (size_t)(h / group) * in->kx->nb[2]);
        struct ggml_tensor *q =
            tensor(g, GGML_TYPE_F32, in->qx->ne[0], in->n_rows, in->qx->nb[1], in->q + (size_t)h * in->qx->nb[2]);
        struct ggml_tensor *x = ggml_mul_mat(g, k, q);
        x->data = values + (size_t)i * each;
        if (s->cap != 0) {
            x = ggml_scale_inplace(g, x, s->scale / s->cap);
            x = ggml_tanh_inplace(g, x);
            x = ggml_scale_inplace(g, x, s->cap);
        }
        if (softmax) { /* a tensor of one head has the ALiBi slope 2^-max_bias */
            float slope = glia_attn_slope(s->max_bias, in->qx->ne[2], (int32_t)h);
            x = ggml_soft_max_ext_inplace(g, x, mask, s->cap != 0 ? 1 : s->scale, -log2f(slope));
            if (in->sinks) ggml_soft_max_add_sinks(x, tensor(g, GGML_TYPE_F32, 1, 1, sizeof(float), in->sinks + h));
        }
        ggml_build_forward_expand(gf, x);
    }
    /* threads cost more than they bring below about a million products */
    int threads = (int64_t)n * in->n_rows * n_cols * in->kx->ne[0] > 1 << 20 ? a->n_threads : 1;
    struct ggml_cplan plan = ggml_graph_plan(gf, threads, NULL);
    plan.work_data = (uint8_t *)glia_attn_room(a, BUF_WORK, plan.work_size + 64);
    bool ok = plan.work_data && ggml_graph_compute(gf, &plan) == GGML_STATUS_SUCCESS;
    ggml_free(g);
    return ok;
}

/* Rows of one want for heads [k0, k0 + n) of its own list. */
static const char *put_heads(glia_attention *a, const glia_attention_node *n, glia_tap_want *w, const masked *m,
                             const glia_cell_table *c, const scaled *s, int32_t first, int64_t n_rows, int32_t k0,
                             int32_t n_heads, const float *values) {
    const char *why = NULL;
    int64_t n_cols = n->node->src[1]->ne[1], nh = n->node->src[0]->ne[2];
    float *row = w->dst;
    for (int32_t r = 0; r < w->n_rows; r++) {
        int32_t t = w->row0 + r, p = n->rows[t].pos;
        if (!takes(w, r)) continue;
        int32_t from = glia_attn_row_from(a, n, m, c, t, &why);
        if (from < 0) return why;
        bool biased = s->max_bias > 0 && w->point == GLIA_POINT_ATTN_SCORES;
        const float *mask = biased ? glia_attn_mask_row(a, m, t) : NULL;
        if (biased && !mask) return GLIA_ATTENTION_NOMEM;
        for (int32_t k = 0; k < n_heads; k++) {
            float *dst = row + (size_t)(k0 + k) * (size_t)w->n_cols;
            const float *src = values + ((size_t)k * (size_t)n_rows + (size_t)(t - first)) * (size_t)n_cols;
            if (w->point == GLIA_POINT_ATTN_PROBS) {
                put_probs(dst, src, c, from, p, w->n_cols);
            } else {
                glia_attn_gather(dst, src, c, from, p + 1);
                glia_attn_finish_scores(dst, c, s->cap != 0 ? 1 : s->scale, glia_attn_slope(s->max_bias, nh, head_of(w, k0 + k)), mask,
                              from, p, w->n_cols);
            }
        }
        row += w->out_width;
    }
    return NULL;
}

static const char *rebuild(glia_attention *a, const glia_attention_node *n, glia_tap_want *w, const masked *m,
                           const glia_cell_table *c) {
    int32_t first, last, heads[64];
    inputs in;
    scaled s = glia_attn_params(n->node);
    if (!span_of(w, &first, &last)) return NULL;
    /* refuse before the work, not after it */
    const char *why = NULL;
    for (int32_t r = 0; r < w->n_rows; r++) {
        if (takes(w, r) && glia_attn_row_from(a, n, m, c, w->row0 + r, &why) < 0) return why;
    }
    if (!glia_attn_gather_inputs(a, n->node, m, first, last, &in)) return GLIA_ATTENTION_NOMEM;
    size_t each = (size_t)(in.kx->ne[1] * in.n_rows) * sizeof(float);
    int32_t n_heads = w->out_width / w->n_cols, block = (int32_t)(BLOCK_BYTES / each);
    if (block < 1) block = 1;
    if (block > 64) block = 64;
    if (block > n_heads) block = n_heads;
    float *values = (float *)(void *)glia_attn_room(a, BUF_VALUES, each * (size_t)block);
    if (!values) return GLIA_ATTENTION_NOMEM;
    for (int32_t k = 0; k < n_heads; k += block) {
        int32_t some = n_heads - k < block ? n_heads - k : block;
        for (int32_t i = 0; i < some; i++) heads[i] = head_of(w, k + i);
        if (!glia_attn_compute(a, &in, &s, heads, some, w->point == GLIA_POINT_ATTN_PROBS, values)) {
            return GLIA_ATTENTION_NOMEM;
        }
        if ((why = put_heads(a, n, w, m, c, &s, first, in.n_rows, k, some, values))) return why;
    }
    for (int32_t r = 0; r < w->n_rows; r++) w->n_copied += takes(w, r);
    return NULL;
}

/* ------------------------------------------------------------------ both */

const char *glia_attn_mask_of(const glia_attention_node *n, masked *out) {
    bool flash = n->attn->flash;
    const struct ggml_tensor *x = flash ? n->node->src[0] : n->node, *mask = n->node->src[flash ? 3 : 1];
    if (!x || !glia_attn_fits(n, x)) return "the rows of the attention are not the planned ones";
    int64_t n_cols = flash ? n->node->src[1]->ne[1] : x->ne[0];
    if (!mask || (mask->type != GGML_TYPE_F32 && mask->type != GGML_TYPE_F16) || mask->ne[0] != n_cols ||
        mask->ne[1] < x->ne[1] || mask->ne[2] != 1 || mask->ne[3] != x->ne[3] ||
        mask->nb[1] != (size_t)mask->ne[0] * ggml_type_size(mask->type)) {
        return "the attention mask has an unknown shape";
    }
    *out = (masked){mask, x->ne[1]};
    return NULL;
}

const char *glia_attention_read(glia_attention *a, const glia_attention_node *n) {
    masked m;
    const char *why = glia_attn_mask_of(n, &m);
    if (why) return why;
    for (int32_t i = n->first; i >= 0; i = n->wants[i].next) {
        glia_tap_want *w = &n->wants[i];
        glia_cell_table c;
        if (!is_attention(w)) continue;
        if (!glia_cells_table(n->cells, n->attn->cache, n->rows[w->row0].seq, &c)) {
            return "the cells of a sequence are not known";
        }
        for (int32_t r = 0; r < w->n_rows; r++) {
            if (takes(w, r) && n->rows[w->row0 + r].pos >= w->n_cols) return "a row has more columns than planned";
        }
        why = n->attn->flash ? rebuild(a, n, w, &m, &c) : read_plain(a, n, w, &m, &c);
        if (why) return why;
    }
    glia_attention_show_edited(a, n);
    return NULL;
}

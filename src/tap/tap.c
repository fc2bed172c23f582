/* tap/tap.c — ask, prove rows, copy.  Engine thread only.  See tap.h for states and invariants. */
#include "tap.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "ggml.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct glia_tap {
    const glia_atlas *base;
    glia_atlas *atlas[2][2]; /* [many tokens][has outputs]; NULL: base */

    bool armed;
    const glia_tap_row *rows; /* [n_rows] the plan */
    int32_t n_rows, n_outputs;
    glia_tap_want *wants;
    int32_t n_wants;

    const glia_atlas *at; /* of this pass */
    int32_t *head;        /* [n_nodes] first want of a node, -1: none */
    uint8_t *ask;         /* [n_nodes] bit 0: wanted, bit 1: canary */
    int32_t n_alloc;
    int32_t *out_row; /* [n_rows] batch row → output row, -1: none */
    int32_t n_out_alloc;

    int32_t node; /* index of the node asked last in this run; -1: before the first */
    int32_t n_runs;
    unsigned proven; /* PROVEN_* bits of this run */
    bool strange, unproven, nomem;
    char why[160];

    char *scratch; /* copy of a node that does not lie in host memory */
    size_t n_scratch;
};

enum { PROVEN_TOKENS = 1, PROVEN_POSITIONS = 2, PROVEN_OUTPUTS = 4, PROVEN_SEQUENCES = 8 };

glia_tap *glia_tap_new(void) { return glia_calloc(1, sizeof(glia_tap)); }

void glia_tap_set_base(glia_tap *t, const glia_atlas *base) { t->base = base; }

void glia_tap_free(glia_tap *t) {
    if (!t) return;
    for (int i = 0; i < 4; i++) glia_atlas_free(t->atlas[i >> 1][i & 1]);
    glia_free(t->head);
    glia_free(t->ask);
    glia_free(t->out_row);
    glia_free(t->scratch);
    glia_free(t);
}

void glia_tap_take_atlas(glia_tap *t, bool many, bool outputs, glia_atlas *at) {
    glia_atlas_free(t->atlas[many][outputs]);
    t->atlas[many][outputs] = at;
}

static void refuse(glia_tap *t, bool *flag, const char *why) {
    if (!*flag) (void)snprintf(t->why, sizeof t->why, "%s", why);
    *flag = true;
}

static bool room(glia_tap *t) {
    if (t->n_alloc < t->at->n_nodes) {
        glia_free(t->head);
        glia_free(t->ask);
        t->head = glia_malloc((size_t)t->at->n_nodes * sizeof *t->head);
        t->ask = glia_malloc((size_t)t->at->n_nodes);
        t->n_alloc = t->head && t->ask ? t->at->n_nodes : 0;
        if (!t->n_alloc) return false;
    }
    if (t->n_out_alloc < t->n_rows) {
        glia_free(t->out_row);
        t->out_row = glia_malloc((size_t)t->n_rows * sizeof *t->out_row);
        t->n_out_alloc = t->out_row ? t->n_rows : 0;
        if (!t->n_out_alloc) return false;
    }
    return true;
}

void glia_tap_arm(glia_tap *t, const glia_tap_row *rows, int32_t n_rows, glia_tap_want *wants, int32_t n_wants) {
    t->rows = rows, t->n_rows = n_rows, t->wants = wants, t->n_wants = n_wants, t->n_outputs = 0;
    t->node = -1, t->n_runs = 0, t->proven = 0;
    t->strange = t->unproven = t->nomem = false;
    t->why[0] = 0;
    for (int32_t i = 0; i < n_rows; i++) t->n_outputs += rows[i].output;
    const glia_atlas *own = t->atlas[n_rows > 1][t->n_outputs > 0];
    t->at = own ? own : t->base;
    t->armed = true;
    if (!t->at || t->at->refused) {
        refuse(t, &t->unproven, t->at ? t->at->refused : "no map of this model's graph");
        return;
    }
    if (!room(t)) {
        t->nomem = true;
        return;
    }
    memset(t->head, 0xff, (size_t)t->at->n_nodes * sizeof *t->head);
    memset(t->ask, 0, (size_t)t->at->n_nodes);
    for (int32_t i = 0, o = 0; i < n_rows; i++) t->out_row[i] = rows[i].output ? o++ : -1;
    t->ask[t->at->token_node] |= 2, t->ask[t->at->pos_node] |= 2;
    if (t->at->cell_node >= 0) t->ask[t->at->cell_node] |= 2;
    for (int32_t w = n_wants - 1; w >= 0; w--) {
        const glia_place *pl = glia_atlas_place(t->at, wants[w].point, wants[w].layer);
        wants[w].n_copied = 0;
        if (!pl || pl->grade < GLIA_GRADE_STRUCTURAL) {
            refuse(t, &t->unproven, "a wanted point is absent in this graph");
            return;
        }
        if (pl->row_kind == GLIA_ROWS_OUTPUTS && t->n_outputs) t->ask[t->at->out_node] |= 2;
        wants[w].next = t->head[pl->node];
        t->head[pl->node] = w;
        t->ask[pl->node] |= 1;
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
    for (int32_t i = 0; i < t->n_rows; i++) same &= cell[i] / cache->ne[1] == t->rows[i].seq;
    if (same) t->proven |= PROVEN_SEQUENCES;
    else refuse(t, &t->unproven, "the graph's rows belong to other sequences than planned");
}

/* Compare the run's own token ids, positions or output rows with the plan. */
static void prove(glia_tap *t, const struct ggml_tensor *node) {
    const struct ggml_tensor *x = node->src[1];
    if (t->node == t->at->cell_node) {
        prove_sequences(t, node);
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

static void copy_row(const glia_tap_want *w, const glia_place *pl, const struct ggml_tensor *x, const char *src,
                     float *dst) {
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

/* Rows that lie together on a device go straight to their place, without a copy in between.  False: they do not. */
static bool get_rows(glia_tap_want *w, const glia_place *pl, const struct ggml_tensor *x, size_t x0, size_t x1,
                     int32_t first, int32_t last) {
    size_t row = (size_t)pl->width * sizeof(float), n = x1 - x0 + 1;
    if (is_host(x) || w->heads || pl->column || pl->width != pl->node_width || x->nb[pl->row_axis] != row) return false;
    if (pl->row_axis == 2 && x->nb[1] != (size_t)x->ne[0] * sizeof(float)) return false;
    if (n != (size_t)(last - first + 1)) return false;
    for (int32_t r = first; w->mask && r <= last; r++) {
        if (!w->mask[r - w->row0]) return false;
    }
    ggml_backend_tensor_get(x, w->dst + (size_t)w->n_copied * (size_t)w->out_width, x0 * row, n * row);
    w->n_copied += (int32_t)n;
    return true;
}

static void capture(glia_tap *t, const struct ggml_tensor *x) {
    for (int32_t i = t->head[t->node]; i >= 0; i = t->wants[i].next) {
        glia_tap_want *w = &t->wants[i];
        const glia_place *pl = glia_atlas_place(t->at, w->point, w->layer);
        bool outputs = pl->row_kind == GLIA_ROWS_OUTPUTS;
        /* positions are read at the first RoPE, behind the first points: disarm insists on them */
        unsigned need = PROVEN_TOKENS | (outputs && t->n_outputs ? PROVEN_OUTPUTS : 0u);
        if (t->strange || t->unproven || t->nomem) return;
        int64_t n_rows = outputs ? t->n_outputs : t->n_rows;
        int64_t width = pl->row_axis == 1 ? x->ne[0] : x->ne[0] * x->ne[1];
        if ((t->proven & need) != need || x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) ||
            x->ne[pl->row_axis] != n_rows || width != pl->node_width || (pl->row_axis == 2 && x->ne[3] != 1)) {
            refuse(t, &t->unproven, "a node's rows or width are not the planned ones");
            return;
        }
        if (!n_rows) continue;
        int32_t first = -1, last = -1; /* batch rows that are really wanted */
        for (int32_t r = 0; r < w->n_rows; r++) {
            if (w->mask && !w->mask[r]) continue;
            if (outputs && t->out_row[w->row0 + r] < 0) continue; /* found short at disarm */
            last = w->row0 + r;
            if (first < 0) first = last;
        }
        if (first < 0) continue;
        size_t stride = x->nb[pl->row_axis];
        size_t x0 = (size_t)(outputs ? t->out_row[first] : first), x1 = (size_t)(outputs ? t->out_row[last] : last);
        size_t span = (x1 - x0) * stride + (pl->row_axis == 1
                                                ? (size_t)x->ne[0] * sizeof(float)
                                                : (size_t)(x->ne[1] - 1) * x->nb[1] + (size_t)x->ne[0] * sizeof(float));
        if (get_rows(w, pl, x, x0, x1, first, last)) continue;
        const char *base = bytes_of(t, x, x0 * stride, span);
        if (!base) return;
        for (int32_t row = first; row <= last; row++) {
            if (w->mask && !w->mask[row - w->row0]) continue;
            int32_t xr = outputs ? t->out_row[row] : row;
            if (xr < 0) continue;
            copy_row(w, pl, x, base + ((size_t)xr - x0) * stride, w->dst + (size_t)w->n_copied * (size_t)w->out_width);
            w->n_copied++;
        }
    }
}

/* ------------------------------------------------------------------ the callback */

static bool same_node(const glia_signature *s, const struct ggml_tensor *x) {
    return s->op == (int32_t)x->op && !strcmp(s->name, x->name);
}

bool glia_tap_on_node(struct ggml_tensor *node, bool ask, void *ud) {
    glia_tap *t = ud;
    if (!t->armed) return !ask; /* nothing wanted: false when asked; never false when fetching */
    if (!ask) {
        if (t->strange || t->unproven || t->nomem) return true;
        if (t->ask[t->node] & 2) prove(t, node);
        if (t->ask[t->node] & 1) capture(t, node);
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
        refuse(t, &t->strange, "the graph is not the one that was classified");
        return false;
    }
    if (t->node + 1 == t->at->n_nodes) t->n_runs++;
    return t->ask[t->node] != 0;
}

glia_tap_result glia_tap_disarm(glia_tap *t, char why[160]) {
    t->armed = false;
    if (!t->nomem && !t->strange && !t->unproven) {
        if (t->n_runs != 1) refuse(t, &t->strange, "the graph ended early");
        unsigned need = PROVEN_TOKENS | PROVEN_POSITIONS | (t->at->cell_node >= 0 ? (unsigned)PROVEN_SEQUENCES : 0u);
        if (!t->strange && (t->proven & need) != need) {
            refuse(t, &t->unproven, "token ids, positions or sequences were not read back");
        }
        for (int32_t i = 0; i < t->n_wants && !t->unproven; i++) {
            const glia_tap_want *w = &t->wants[i];
            int32_t n = w->n_rows;
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

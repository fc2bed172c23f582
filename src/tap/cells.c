/* tap/cells.c — see cells.h. */
#include "cells.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "ggml.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct stream {
    int32_t *pos, *cell; /* [n_cells] each; positions of a sequence fit its cells */
    int32_t n_cells;
    bool unknown; /* until cut to nothing */
    bool stale;   /* cell is to be made anew from pos */
} stream;

struct glia_cells {
    const glia_atlas *base;
    stream *streams; /* [n_caches][n_streams]; NULL until the first pass shows their number */
    int32_t n_streams;

    const glia_tap_row *rows; /* of the pass under way */
    int32_t n_rows;
    bool stored[GLIA_MAX_CACHES]; /* its cells were read in this pass */
    bool positions;               /* the run's positions are the planned ones */
    bool broken;                  /* this pass cannot be followed */
    char *scratch;
    size_t n_scratch;
};

glia_cells *glia_cells_new(const glia_atlas *base) {
    glia_cells *c = glia_calloc(1, sizeof *c);
    if (c) c->base = base;
    return c;
}

void glia_cells_free(glia_cells *c) {
    if (!c) return;
    for (int32_t i = 0; c->streams && i < c->base->n_caches * c->n_streams; i++) {
        glia_free(c->streams[i].pos);
        glia_free(c->streams[i].cell);
    }
    glia_free(c->streams);
    glia_free(c->scratch);
    glia_free(c);
}

static stream *stream_at(const glia_cells *c, int32_t cache, int32_t seq) {
    return &c->streams[cache * c->n_streams + seq];
}

/* ------------------------------------------------------------------ one pass */

void glia_cells_begin(glia_cells *c, const glia_tap_row *rows, int32_t n_rows) {
    c->rows = rows, c->n_rows = n_rows;
    c->broken = c->positions = false;
    memset(c->stored, 0, sizeof c->stored);
}

/* n elements of an input: it was filled before the graph runs, so reading it needs no computed node. */
static const void *input(glia_cells *c, const struct ggml_tensor *x, size_t n) {
    ggml_backend_buffer_t buf = x->view_src ? x->view_src->buffer : x->buffer;
    if (!buf || ggml_backend_buffer_is_host(buf)) return x->data;
    if (c->n_scratch < n) {
        glia_free(c->scratch);
        c->scratch = glia_malloc(n);
        c->n_scratch = c->scratch ? n : 0;
        if (!c->scratch) return NULL;
    }
    ggml_backend_tensor_get(x, c->scratch, 0, n);
    return c->scratch;
}

static bool is_named(const struct ggml_tensor *x, const char *name) {
    char bare[64];
    glia_graph_bare_name(bare, x->name);
    return !strcmp(bare, name);
}

static bool make_room(glia_cells *c, int32_t cache, int64_t n_cells, int64_t n_streams) {
    if (n_cells <= 0 || n_streams <= 0 || n_cells > INT32_MAX / 2 || n_streams > 1 << 16) return false;
    if (!c->streams) {
        c->streams = glia_calloc((size_t)c->base->n_caches * (size_t)n_streams, sizeof *c->streams);
        if (!c->streams) return false;
        c->n_streams = (int32_t)n_streams;
    }
    if (n_streams != c->n_streams) return false;
    for (int32_t s = 0; s < c->n_streams; s++) {
        stream *x = stream_at(c, cache, s);
        if (x->n_cells == (int32_t)n_cells) continue;
        if (x->n_cells) return false; /* a cache does not change its size */
        x->pos = glia_malloc((size_t)n_cells * sizeof *x->pos);
        x->cell = glia_malloc((size_t)n_cells * sizeof *x->cell);
        if (!x->pos || !x->cell) {
            glia_free(x->pos);
            glia_free(x->cell);
            x->pos = x->cell = NULL;
            return false;
        }
        x->n_cells = (int32_t)n_cells;
        for (int64_t i = 0; i < n_cells; i++) x->pos[i] = x->cell[i] = -1;
    }
    return true;
}

static bool read_cells(glia_cells *c, int32_t cache, const struct ggml_tensor *node) {
    const struct ggml_tensor *x = node->src[1], *kv = node->view_src;
    if (!x || x->type != GGML_TYPE_I64 || x->ne[0] != c->n_rows || !make_room(c, cache, kv->ne[1], kv->ne[2]))
        return false;
    const int64_t *at = input(c, x, (size_t)c->n_rows * sizeof *at);
    if (!at) return false;
    for (int32_t i = 0; i < c->n_rows; i++) {
        int64_t seq = at[i] / kv->ne[1], cell = at[i] % kv->ne[1];
        if (at[i] < 0 || seq != c->rows[i].seq || seq >= c->n_streams) return false;
        stream *s = stream_at(c, cache, (int32_t)seq);
        s->pos[cell] = c->rows[i].pos;
        s->stale = true;
    }
    return true;
}

static bool read_positions(glia_cells *c, const struct ggml_tensor *x) {
    if (x->type != GGML_TYPE_I32 || x->ne[0] < c->n_rows) return false;
    const int32_t *pos = input(c, x, (size_t)c->n_rows * sizeof *pos);
    for (int32_t i = 0; pos && i < c->n_rows; i++) {
        if (pos[i] != c->rows[i].pos) return false;
    }
    return pos != NULL;
}

/* Without positions in the graph: the mask opens to a row at position p its own cell and p others, all of its sequence
 * (llama.cpp opens what lies there up to p, and sequences have no holes).  The first mask is that of the first cache;
 * there are several where the scheduler copies the cells' input to other devices. */
static bool read_mask(glia_cells *c, const struct ggml_tensor *m) {
    bool half = m->type == GGML_TYPE_F16;
    if ((!half && m->type != GGML_TYPE_F32) || m->ne[2] != 1 || m->ne[1] * m->ne[3] != c->n_rows ||
        !ggml_is_contiguous(m) || !c->stored[0]) {
        return false;
    }
    const char *v = input(c, m, ggml_nbytes(m));
    for (int32_t i = 0; v && i < c->n_rows; i++, v += m->nb[1]) {
        const stream *s = stream_at(c, 0, c->rows[i].seq);
        int64_t open = 0;
        bool own = false;
        for (int64_t j = 0; j < m->ne[0] && j < s->n_cells; j++) {
            bool blocked = half ? ((const uint16_t *)(const void *)v)[j] == 0xfc00 /* -infinity */
                                : ((const float *)(const void *)v)[j] == -INFINITY;
            open += !blocked, own |= !blocked && s->pos[j] == c->rows[i].pos;
        }
        if (!own || open != c->rows[i].pos + 1) return false;
    }
    return v != NULL;
}

void glia_cells_on_ask(glia_cells *c, const struct ggml_tensor *node) {
    if (c->broken || !c->n_rows) return;
    const struct ggml_tensor *in = node->src[1];
    if (!c->positions && c->base->pos_proof == GLIA_POS_MASK) {
        if (node->op == GGML_OP_FLASH_ATTN_EXT) in = node->src[3];
        else if (node->op != GGML_OP_SOFT_MAX) in = NULL;
        if (in && is_named(in, "attn_inp_kq_mask")) {
            c->positions = read_mask(c, in);
            c->broken = !c->positions;
            return;
        }
    }
    if (!c->positions && (node->op == GGML_OP_ROPE || node->op == GGML_OP_GET_ROWS)) {
        if (!in || !is_named(in, "inp_pos")) return;
        c->positions = read_positions(c, in);
        c->broken = !c->positions;
    } else if (node->op == GGML_OP_SET_ROWS && node->view_src && !strncmp(node->view_src->name, "cache_k_l", 9)) {
        char *end;
        long layer = strtol(node->view_src->name + 9, &end, 10);
        for (int32_t k = 0; k < c->base->n_caches; k++) {
            if (*end || layer != c->base->store_layer[k]) continue;
            /* twice: the pass was split into several graphs */
            c->broken = c->stored[k] || !read_cells(c, k, node);
            c->stored[k] = true;
        }
    }
}

void glia_cells_end(glia_cells *c, bool ran) {
    bool whole = !c->broken && c->positions;
    for (int32_t k = 0; k < c->base->n_caches; k++) whole &= c->stored[k];
    for (int32_t i = 0; ran && !whole && i < c->n_rows; i++) {
        for (int32_t k = 0; k < c->base->n_caches && c->rows[i].seq < c->n_streams; k++) {
            stream_at(c, k, c->rows[i].seq)->unknown = true;
        }
    }
    c->n_rows = 0, c->rows = NULL;
}

/* ------------------------------------------------------------------ between passes */

void glia_cells_cut(glia_cells *c, int32_t seq, int32_t from) {
    for (int32_t k = 0; seq < c->n_streams && k < c->base->n_caches; k++) {
        stream *s = stream_at(c, k, seq);
        for (int32_t i = 0; i < s->n_cells; i++) {
            if (s->pos[i] >= from) s->pos[i] = -1;
        }
        if (from <= 0) s->unknown = false;
        s->stale = true;
    }
}

void glia_cells_lose(glia_cells *c, int32_t seq) {
    for (int32_t k = 0; seq < c->n_streams && k < c->base->n_caches; k++) stream_at(c, k, seq)->unknown = true;
}

bool glia_cells_known(const glia_cells *c, int32_t seq) {
    for (int32_t k = 0; k < c->base->n_caches; k++) {
        if (seq < c->n_streams && stream_at(c, k, seq)->unknown) return false;
    }
    return true;
}

bool glia_cells_table(glia_cells *c, int32_t cache, int32_t seq, glia_cell_table *out) {
    if (cache < 0 || cache >= c->base->n_caches || seq < 0 || seq >= c->n_streams || c->broken) return false;
    stream *s = stream_at(c, cache, seq);
    if (s->unknown || !s->n_cells) return false;
    if (s->stale) {
        for (int32_t i = 0; i < s->n_cells; i++) s->cell[i] = -1;
        for (int32_t i = 0; i < s->n_cells; i++) {
            if (s->pos[i] >= 0 && s->pos[i] < s->n_cells) s->cell[s->pos[i]] = i;
        }
        s->stale = false;
    }
    *out = (glia_cell_table){.pos = s->pos, .cell = s->cell, .n_cells = s->n_cells, .n_pos = s->n_cells};
    return true;
}

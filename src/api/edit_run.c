/* api/edit_run.c — see edit_run.h. */
#include "api/edit_run.h"
#include "api/hook_fields.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 65536 };

bool glia_source_is_run(yyjson_val *source) { return yyjson_is_obj(source) && glia_json_get(source, "run"); }

/* SplitMix (Steele, Lea and Flood 2014), its finalizer. */
uint64_t glia_mixed(uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Rows of one tensor that may be taken, and where they stand. */
typedef struct stock {
    const glia_run_tensor *t;
    uint64_t first;     /* row of the tensor */
    size_t n;           /* rows from there on */
    int32_t *positions; /* [n]; owned */
    size_t *chosen;     /* [n_chosen] of them, those that `positions` names; owned */
    size_t n_chosen;
} stock;

static void stock_clear(stock *s) {
    glia_free(s->positions);
    glia_free(s->chosen);
    *s = (stock){0};
}

static glia_status open_stock(stock *s, glia_run *run, glia_point point, int32_t layer, int32_t width, int64_t document,
                              const char *path, glia_err *err) {
    s->t = glia_run_find_point(run, point, layer);
    if (!s->t || s->t->width != width) {
        return glia_fail_at(err, GLIA_EHOOK, path, "%s: the run holds no whole rows of %s at layer %d", path, glia_point_name(point),
                            (int)layer);
    }
    uint64_t n = s->t->rows;
    glia_status st = document < 0 ? GLIA_OK : glia_run_find_document(run, document, &s->first, &n, err);
    if (st) return st;
    if (!n) return glia_fail_at(err, GLIA_ENOTFOUND, path, "%s: the run has no document %lld", path, (long long)document);
    if (n > MAX_ROWS) {
        return glia_fail_at(err, GLIA_ETOOLARGE, path, "%s: %llu rows are more than %d: name a document", path,
                            (unsigned long long)n, (int)MAX_ROWS);
    }
    s->n = (size_t)n;
    glia_run_label *labels = glia_malloc(s->n * sizeof *labels);
    s->positions = glia_malloc(s->n * sizeof *s->positions);
    if (!labels || !s->positions) st = glia_fail(err, GLIA_ENOMEM, "no memory for rows of a run");
    if (!st) st = glia_run_labels(run, s->t, s->first, n, labels, err);
    for (size_t i = 0; !st && i < s->n; i++)
        s->positions[i] = glia_run_get_about(run)->kind == GLIA_RUN_HARVEST ? labels[i].offset : labels[i].position;
    glia_free(labels);
    return st;
}

static size_t find_position(const stock *s, int64_t p) {
    for (size_t i = 0; i < s->n; i++) {
        if (s->positions[i] == p) return i;
    }
    return SIZE_MAX;
}

/* What `positions` of the source names; all rows when it names none. */
static glia_status choose(stock *s, const glia_hook *named, const char *path, glia_err *err) {
    int64_t size = 0;
    for (size_t i = 0; i < s->n; i++) size = s->positions[i] >= size ? s->positions[i] + 1 : size;
    int64_t from = named->range ? named->range->from : 0, to = named->range ? named->range->to : size;
    if (from < 0) from += size;
    if (to == GLIA_RANGE_END || to > size) to = size;
    else if (to < 0) to += size;
    size_t most = named->positions ? named->n_positions : s->n;
    if (!(s->chosen = glia_malloc((most + 1) * sizeof *s->chosen))) return glia_fail(err, GLIA_ENOMEM, "no memory for rows of a run");
    for (size_t i = 0; i < most; i++) {
        int64_t p = named->positions ? named->positions[i] + (named->positions[i] < 0 ? size : 0) : s->positions[i];
        size_t row = named->positions ? find_position(s, p) : p >= from && p < to ? i : SIZE_MAX;
        if (row != SIZE_MAX) s->chosen[s->n_chosen++] = row;
        else if (named->positions)
            return glia_fail_at(err, GLIA_EHOOK, path, "%s: the run has no row of position %lld", path, (long long)p);
    }
    return s->n_chosen ? GLIA_OK : glia_fail_at(err, GLIA_EHOOK, path, "%s names no row of the run", path);
}

/* The part of a row that heads and channels of an edit name. */
static size_t cut_row(const glia_edit *e, const glia_point_info *pi, const float *row, float *out) {
    size_t width = e->where.heads ? e->where.n_heads * (size_t)pi->head_dim : (size_t)pi->width, n = width, first = 0;
    if (e->where.channel_range) {
        int64_t a = e->where.channel_range->from, b = e->where.channel_range->to, w = (int64_t)width;
        a += a < 0 ? w : 0, b = b == GLIA_RANGE_END || b > w ? w : b < 0 ? b + w : b;
        first = a < 0 || a > b ? 0 : (size_t)a, n = a < 0 || a > b ? 0 : (size_t)(b - a);
    } else if (e->where.channels) {
        n = e->where.n_channels;
    }
    for (size_t i = 0; i < n; i++) {
        size_t c = e->where.channels ? (size_t)e->where.channels[i] : first + i, hd = (size_t)pi->head_dim;
        if (c >= width) return 0; /* submit refuses it by name */
        if (out) out[i] = row[e->where.heads ? (size_t)e->where.heads[c / hd] * hd + c % hd : c];
    }
    return n;
}

/* Which row each edited position takes. */
static glia_status row_for(const stock *s, const glia_edit_source *src, const glia_hook *named, size_t i, int32_t mine,
                           const char *path, size_t *out, glia_err *err) {
    if (src->kind == GLIA_SOURCE_RESAMPLE) {
        *out = s->chosen[glia_mixed(glia_mixed(src->seed) ^ (uint64_t)mine) % s->n_chosen];
        return GLIA_OK;
    }
    bool by_name = named->positions || named->range;
    *out = by_name ? s->chosen[i] : find_position(s, mine);
    if (*out != SIZE_MAX) return GLIA_OK;
    return glia_fail_at(err, GLIA_EHOOK, path, "%s: the run has no row of position %d: name positions on both sides", path, (int)mine);
}

static glia_status fill_edit(glia_acts *a, glia_run *run, const stock *s, const glia_edit_source *src, const glia_hook *named,
                             const int32_t *mine, size_t n_mine, const glia_point_info *pi, const char *path, glia_edit *e,
                             glia_err *err) {
    bool mean = src->kind == GLIA_SOURCE_MEAN;
    size_t width = cut_row(e, pi, NULL, NULL), n = mean ? 1 : n_mine, full = (size_t)s->t->width;
    float *rows = glia_acts_own(a, glia_calloc(n * width + 1, sizeof *rows)), *row = glia_malloc(full * sizeof *row);
    double *sum = glia_calloc(width + 1, sizeof *sum);
    float *part = glia_malloc((width + 1) * sizeof *part);
    glia_status st = rows && row && sum && part ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for rows of a run");
    for (size_t i = 0; i < (mean ? s->n_chosen : n) && !st; i++) {
        size_t at = mean ? s->chosen[i] : 0;
        if (!mean) st = row_for(s, src, named, i, mine[i], path, &at, err);
        if (!st) st = glia_run_read(run, s->t, s->first + at, 1, row, err);
        if (st) break;
        (void)cut_row(e, pi, row, mean ? part : rows + i * width);
        for (size_t k = 0; mean && k < width; k++) sum[k] += (double)part[k];
    }
    for (size_t k = 0; mean && !st && k < width; k++) rows[k] = (float)(sum[k] / (double)s->n_chosen);
    if (!st) e->rows = rows, e->n_rows = n, e->n_channels = width;
    glia_free(row);
    glia_free(sum);
    glia_free(part);
    return st;
}

glia_status glia_run_fill(glia_acts *a, const glia_model *m, const glia_edit_source *src, const int32_t *mine, size_t n_mine,
                          const char *path, glia_err *err) {
    static const char *const fields[] = {"run", "document", "positions"};
    const char *id = NULL;
    int64_t document = -1;
    glia_hook named = {0};
    glia_runs *store;
    glia_run *run = NULL;
    char param[96];
    glia_status st = glia_known_fields(src->v, path, fields, 3, err);
    if (!st) st = glia_json_str(src->v, path, "run", &id, err);
    if (!st) st = glia_json_int(src->v, path, "document", 0, INT64_MAX, &document, NULL, err);
    if (!st) st = glia_parse_positions(a, src->v, path, "positions", GLIA_PHASE_ALL, &named, err);
    if (st) return st;
    if (!a->app) return glia_fail_at(err, GLIA_EHOOK, path, "%s: no runs are kept here", path);
    st = glia_store_runs(a->app->store, &store, err);
    if (!st) st = glia_run_open(&run, store, id, err);
    glia_json_join(param, sizeof param, path, "positions");
    for (size_t i = 0; i < src->n && !st; i++) {
        glia_edit *e = &a->edits[src->first + i];
        glia_point_info pi;
        stock s = {0};
        int32_t layer = glia_point_has_layer(e->where.point) ? e->where.layer : -1;
        if (!glia_model_point(m, e->where.point, e->where.layer, &pi)) pi = (glia_point_info){0};
        st = open_stock(&s, run, e->where.point, layer, pi.width, document, path, err);
        if (!st) st = choose(&s, &named, param, err);
        if (!st && src->kind == GLIA_SOURCE_PATCH && (named.positions || named.range) && s.n_chosen != n_mine) {
            st = glia_fail_at(err, GLIA_EINVAL, param, "%s must be as many as those that they replace", param);
        }
        if (!st) st = fill_edit(a, run, &s, src, &named, mine, n_mine, &pi, path, e, err);
        stock_clear(&s);
    }
    glia_run_close(run);
    if (st && err && strncmp(err->param, "interventions", 13) != 0) (void)snprintf(err->param, sizeof err->param, "%.95s", path);
    return st;
}

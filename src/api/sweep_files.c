/* api/sweep_files.c — a sweep's result as a safetensors file and as pictures.  See sweep.h. */
#include "api/sweep.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/heatmap.h"
#include "lab/sweep.h"
#include "store/safetensors.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

size_t glia_sweep_count(yyjson_val *result) { return yyjson_arr_size(glia_json_get(result, "sweeps")); }

static size_t product(yyjson_val *shape) {
    size_t n = 1, i, max;
    yyjson_val *v;
    yyjson_arr_foreach(shape, i, max, v) n *= (size_t)yyjson_get_uint(v);
    return n;
}

/* Numbers of nested lists, null as NAN. */
static void flatten(yyjson_val *v, double *out, size_t *at, size_t n) {
    if (yyjson_is_arr(v)) {
        size_t i, max;
        yyjson_val *x;
        yyjson_arr_foreach(v, i, max, x) flatten(x, out, at, n);
    } else if (*at < n) {
        out[(*at)++] = yyjson_is_num(v) ? yyjson_get_num(v) : (double)NAN;
    }
}

static double *numbers(yyjson_val *sweep, const char *key, size_t *n) {
    *n = product(glia_json_get(sweep, "shape"));
    double *out = glia_malloc(*n * sizeof *out);
    size_t at = 0;
    if (out) flatten(glia_json_get(sweep, key), out, &at, *n);
    return out;
}

static const char *text_of(yyjson_val *v, const char *key) {
    const char *s = yyjson_get_str(glia_json_get(v, key));
    return s ? s : "";
}

/* ------------------------------------------------------------------ tensors */

glia_status glia_sweep_tensors(yyjson_val *result, glia_buf *b, glia_err *err) {
    static const char *const kinds[] = {"values", "recovered"};
    glia_st_tensor t[2 * GLIA_SWEEP_MAX_GRIDS];
    char names[2 * GLIA_SWEEP_MAX_GRIDS][64];
    yyjson_val *list = glia_json_get(result, "sweeps"), *of[2 * GLIA_SWEEP_MAX_GRIDS];
    size_t n = 0, n_grids = yyjson_arr_size(list);
    uint64_t n_data;
    for (size_t g = 0; g < n_grids && g < GLIA_SWEEP_MAX_GRIDS; g++) {
        yyjson_val *sweep = yyjson_arr_get(list, g), *shape = glia_json_get(sweep, "shape");
        for (int k = 0; k < 2; k++) {
            if (!glia_json_get(sweep, kinds[k])) continue;
            (void)snprintf(names[n], sizeof names[n], "%zu.%.24s.%.16s.%s", g, text_of(sweep, "component"), text_of(sweep, "by"),
                           kinds[k]);
            t[n] = (glia_st_tensor){.name = names[n], .dtype = GLIA_ST_F64, .n_dims = (int)yyjson_arr_size(shape)};
            for (int i = 0; i < t[n].n_dims && i < 3; i++) t[n].shape[i] = yyjson_get_uint(yyjson_arr_get(shape, (size_t)i));
            of[n++] = sweep;
        }
    }
    const char *const meta[][2] = {{"format", "glia-sweep-1"}, {"model", text_of(result, "model")},
                                   {"op", text_of(result, "op")}, {"metric", text_of(result, "metric")}};
    glia_status st = glia_st_header(b, t, n, meta, 4, &n_data, err);
    for (size_t i = 0; i < n && !st; i++) {
        size_t count;
        double *x = numbers(of[i], kinds[strcmp(names[i] + strlen(names[i]) - 6, "values") ? 1 : 0], &count);
        if (!x || !glia_buf_add(b, x, count * sizeof *x)) st = glia_fail(err, GLIA_ENOMEM, "no memory for the tensors");
        glia_free(x);
    }
    return st;
}

/* ------------------------------------------------------------------ pictures */

/* Labels of one axis, in one block behind the pointers. */
typedef struct labels {
    char (*text)[48];
    const char **list;
    size_t n;
} labels;

static bool labels_new(labels *l, size_t n) {
    *l = (labels){.text = glia_calloc(n + 1, sizeof *l->text), .list = (const char **)glia_calloc(n + 1, sizeof *l->list), .n = n};
    for (size_t i = 0; l->text && l->list && i < n; i++) l->list[i] = l->text[i];
    return l->text && l->list;
}
static void labels_free(labels *l) {
    glia_free(l->text);
    glia_free((void *)l->list);
}

static int64_t number_at(yyjson_val *list, size_t i) {
    yyjson_val *v = yyjson_arr_get(list, i);
    return v ? yyjson_get_sint(v) : (int64_t)i;
}

/* "5 the": position and token of the prompt that the values are read in. */
static void label_position(char out[48], yyjson_val *result, size_t i) {
    int64_t p = number_at(glia_json_get(result, "positions"), i);
    yyjson_val *tokens = glia_json_get(glia_json_get(result, "clean"), "tokens");
    const char *text = text_of(yyjson_arr_get(tokens, (size_t)p), "text");
    size_t n = strlen(text);
    if (n > 24) n = 24;
    while (n && ((unsigned char)text[n] & 0xc0) == 0x80) n--; /* whole characters */
    (void)snprintf(out, 48, "%lld %.*s", (long long)p, (int)n, text);
}

glia_status glia_sweep_picture(yyjson_val *result, size_t i, glia_buf *b, glia_err *err) {
    yyjson_val *sweep = yyjson_arr_get(glia_json_get(result, "sweeps"), i);
    if (!sweep) {
        return glia_fail(err, GLIA_ENOTFOUND, "no sweep %zu: this result has 0 to %zu", i, glia_sweep_count(result) - 1);
    }
    yyjson_val *shape = glia_json_get(sweep, "shape"), *layers = glia_json_get(result, "layers");
    size_t n_layers = yyjson_get_uint(yyjson_arr_get(shape, 0)), rank = yyjson_arr_size(shape), n, n_rows = n_layers, n_columns = 1;
    bool recovered = glia_json_get(sweep, "recovered") != NULL, positions = !strstr(text_of(sweep, "by"), "layer");
    if (rank > 1) n_columns = yyjson_get_uint(yyjson_arr_get(shape, rank - 1));
    if (rank == 3) n_rows *= yyjson_get_uint(yyjson_arr_get(shape, 1));
    positions = positions && strcmp(text_of(sweep, "by"), "head") != 0;
    labels rows, columns;
    double *x = numbers(sweep, recovered ? "recovered" : "values", &n);
    bool ok = labels_new(&rows, n_rows);
    ok = labels_new(&columns, n_columns) && ok && x;
    char title[160];
    if (ok) {
        size_t heads = n_rows / (n_layers ? n_layers : 1);
        for (size_t r = 0; r < n_rows; r++) {
            if (rank == 3) (void)snprintf(rows.text[r], 48, "%lld.%zu", (long long)number_at(layers, r / heads), r % heads);
            else (void)snprintf(rows.text[r], 48, "%lld", (long long)number_at(layers, r));
        }
        for (size_t c = 0; c < n_columns; c++) {
            if (positions) label_position(columns.text[c], result, c);
            else (void)snprintf(columns.text[c], 48, rank > 1 ? "%zu" : "all", c);
        }
        if (!recovered) { /* an ablation: what it takes away from the clean run */
            yyjson_val *clean = glia_json_get(glia_json_get(result, "clean"), "value");
            for (size_t k = 0; k < n; k++) x[k] -= yyjson_get_num(clean);
        }
        (void)snprintf(title, sizeof title, "%s by %s: %s, %s", text_of(sweep, "component"), text_of(sweep, "by"),
                       text_of(result, "op"), recovered ? "share of the other run recovered" : "change of the metric");
        glia_heatmap_write(b, &(glia_heatmap){.values = x, .n_rows = n_rows, .n_columns = n_columns, .row_labels = rows.list,
                                              .column_labels = columns.list, .title = title,
                                              .x_axis = positions ? "position" : rank > 1 ? "head" : "",
                                              .y_axis = rank == 3 ? "layer.head" : "layer", .unit = recovered ? 1 : 0});
    }
    labels_free(&rows);
    labels_free(&columns);
    glia_free(x);
    return ok && !b->failed ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for the picture");
}

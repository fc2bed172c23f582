/* api/sent.c — see sent.h. */
#include "api/sent.h"
#include "api/encode.h"
#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KEYS = 65536, MAX_NESTING = 8 };

void glia_sent_clear(glia_sent_list *l) {
    for (size_t i = 0; l->items && i < l->n; i++) glia_free(l->items[i].rows);
    glia_free(l->items);
    *l = (glia_sent_list){0};
}

static glia_status room_for(glia_sent *s, size_t n_rows, size_t width, const char *path, glia_err *err) {
    if (!width) return glia_fail_at(err, GLIA_EINVAL, path, "%s: a row without numbers", path);
    if (s->width && s->width != width)
        return glia_fail_at(err, GLIA_EINVAL, path, "%s: rows of %zu numbers behind rows of %zu", path, width,
                            s->width);
    s->width = width;
    float *more = glia_realloc(s->rows, (s->n_rows + n_rows) * width * sizeof *more);
    if (!more) return glia_fail_at(err, GLIA_ENOMEM, path, "no memory for %s", path);
    s->rows = more;
    return GLIA_OK;
}

static glia_status add_row(glia_sent *s, yyjson_val *row, const char *path, glia_err *err) {
    glia_status st = room_for(s, 1, yyjson_arr_size(row), path, err);
    if (st) return st;
    float *out = s->rows + s->n_rows * s->width;
    yyjson_arr_iter it;
    yyjson_val *v;
    size_t i = 0;
    for (yyjson_arr_iter_init(row, &it); (v = yyjson_arr_iter_next(&it)); i++) {
        out[i] = yyjson_is_num(v) ? (float)yyjson_get_num(v) : NAN;
        if (!isfinite(out[i]))
            return glia_fail_at(err, GLIA_EINVAL, path, "%s: value %zu of a row is not a finite number", path, i);
    }
    s->n_rows++;
    return GLIA_OK;
}

/* Rows are the innermost lists.  Depth is bounded by the parser as well. */
static glia_status add_nested(glia_sent *s, yyjson_val *v, const char *path, int depth, glia_err *err) {
    if (!yyjson_is_arr(v) || !yyjson_arr_size(v) || depth > MAX_NESTING)
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be lists of numbers, not %s", path, glia_json_kind(v));
    if (!yyjson_is_arr(yyjson_arr_get_first(v))) return add_row(s, v, path, err);
    yyjson_arr_iter it;
    yyjson_val *inner;
    glia_status st = GLIA_OK;
    for (yyjson_arr_iter_init(v, &it); !st && (inner = yyjson_arr_iter_next(&it));)
        st = add_nested(s, inner, path, depth + 1, err);
    return st;
}

static glia_status add_base64(glia_sent *s, yyjson_val *entry, yyjson_val *data, const char *path, glia_err *err) {
    const char *dtype = "float32";
    yyjson_val *shape = glia_json_get(entry, "shape");
    size_t rank = yyjson_is_arr(shape) ? yyjson_arr_size(shape) : 0, n = yyjson_get_len(data), n_bytes = 0, n_rows = 1,
           width = 0;
    glia_status st = glia_json_str(entry, path, "dtype", &dtype, err);
    if (st) return st;
    glia_dtype d = !strcmp(dtype, "float16") ? GLIA_F16 : !strcmp(dtype, "bfloat16") ? GLIA_BF16 : GLIA_F32;
    if (d == GLIA_F32 && strcmp(dtype, "float32") != 0)
        return glia_fail_at(err, GLIA_EINVAL, path, "%s: dtype must be float32, float16 or bfloat16", path);
    for (size_t i = 0; i < rank; i++) {
        int64_t x;
        if (!glia_json_whole(yyjson_arr_get(shape, i), &x) || x < 1 || (uint64_t)x > n + 1) rank = 0;
        else if (i + 1 == rank) width = (size_t)x;
        else if (n_rows > (n + 1) / (size_t)x) rank = 0;
        else n_rows *= (size_t)x;
    }
    if (!rank) return glia_fail_at(err, GLIA_EINVAL, path, "%s: base64 needs its shape, [1, rows, width]", path);
    uint8_t *bytes = glia_malloc(n / 4 * 3 + 3);
    if (!bytes) return glia_fail_at(err, GLIA_ENOMEM, path, "no memory for %s", path);
    if (!glia_base64_read(yyjson_get_str(data), n, bytes, &n_bytes) ||
        n_bytes / glia_dtype_bytes(d) / width != n_rows || n_bytes != n_rows * width * glia_dtype_bytes(d)) {
        st = glia_fail_at(err, GLIA_EINVAL, path, "%s: data is not base64 of its shape and dtype", path);
    }
    if (!st) st = room_for(s, n_rows, width, path, err);
    if (!st) glia_unpack_le(s->rows + s->n_rows * width, bytes, n_rows * width, d);
    for (size_t i = 0; !st && i < n_rows * width; i++) {
        if (!isfinite(s->rows[s->n_rows * width + i]))
            st = glia_fail_at(err, GLIA_EINVAL, path, "%s: a value is not finite", path);
    }
    if (!st) s->n_rows += n_rows;
    glia_free(bytes);
    return st;
}

static glia_status add_entry(glia_sent *s, yyjson_val *entry, bool *input, const char *path, glia_err *err) {
    yyjson_val *data = glia_json_get(entry, "data"), *layer = glia_json_get(entry, "layer");
    int64_t x;
    bool is_input = yyjson_get_bool(glia_json_get(entry, "is_input"));
    if (s->n_rows && is_input != *input)
        return glia_fail_at(err, GLIA_EINVAL, path, "%s holds inputs and outputs of one place: send one of the two",
                            path);
    *input = is_input;
    if (glia_json_whole(layer, &x) && x >= 0 && x < 1 << 20) s->layer = (int32_t)x;
    if (yyjson_is_str(glia_json_get(entry, "component")))
        s->component = yyjson_get_str(glia_json_get(entry, "component"));
    if (yyjson_is_str(data)) return add_base64(s, entry, data, path, err);
    if (data) return add_nested(s, data, path, 0, err);
    return glia_fail_at(err, GLIA_EINVAL, path, "%s: an entry without data", path);
}

/* Prompt rows come as [1, rows, width]; statistics and indices of a top-k are no rows of a stream, but are taken as sent. */
static glia_status add_value(glia_sent *s, yyjson_val *v, const char *path, glia_err *err) {
    bool input = false;
    if (yyjson_is_obj(v)) return add_entry(s, v, &input, path, err);
    if (!yyjson_is_obj(yyjson_arr_get_first(v))) return add_nested(s, v, path, 0, err);
    yyjson_arr_iter it;
    yyjson_val *entry;
    glia_status st = GLIA_OK;
    for (yyjson_arr_iter_init(v, &it); !st && (entry = yyjson_arr_iter_next(&it));) {
        if (!yyjson_is_obj(entry))
            st = glia_fail_at(err, GLIA_EINVAL, path, "%s: entries and plain lists side by side", path);
        else st = add_entry(s, entry, &input, path, err);
    }
    return st;
}

static int32_t number_in(const char *name) {
    int32_t last = -1;
    for (const char *p = name; *p;) {
        if (!isdigit((unsigned char)*p)) {
            p++;
            continue;
        }
        char *end;
        long x = strtol(p, &end, 10);
        if (x < 1 << 20) last = (int32_t)x;
        p = end;
    }
    return last;
}

static int by_layer(const void *a, const void *b) {
    const glia_sent *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->name < y->name ? -1 : x->name > y->name; /* both lie in the document, one behind the other */
}

static glia_status add_item(glia_sent_list *l, const char *name, yyjson_val *v, const char *path, glia_err *err) {
    char at[96];
    glia_sent *s = &l->items[l->n++];
    glia_json_join(at, sizeof at, path, name);
    *s = (glia_sent){.name = name, .layer = -1};
    glia_status st = add_value(s, v, at, err);
    if (s->layer < 0) s->layer = number_in(name);
    return st;
}

static const char *name_of(yyjson_val *entry) {
    static const char *const keys[] = {"hook_id", "layer_name", "name"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *s = yyjson_get_str(glia_json_get(entry, keys[i]));
        if (s) return s;
    }
    return "activations";
}

glia_status glia_sent_read(glia_sent_list *out, yyjson_val *v, const char *path, glia_err *err) {
    bool object = yyjson_is_obj(v) && !glia_json_get(v, "data"),
         list = yyjson_is_arr(v) && yyjson_is_obj(yyjson_arr_get_first(v));
    size_t n = object ? yyjson_obj_size(v) : list ? yyjson_arr_size(v) : 1;
    *out = (glia_sent_list){0};
    if (!v || (!yyjson_is_obj(v) && !yyjson_is_arr(v)) || !n) {
        return glia_fail_at(err, GLIA_EINVAL, path,
                            "%s must hold activations: {\"key\": [entries or lists of numbers]}, not %s", path,
                            v ? glia_json_kind(v) : "absent");
    }
    if (n > MAX_KEYS) return glia_fail_at(err, GLIA_EINVAL, path, "%s: at most %d keys", path, (int)MAX_KEYS);
    if (!(out->items = glia_calloc(n, sizeof *out->items)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for %zu keys", n);
    glia_status st = GLIA_OK;
    if (object) {
        yyjson_obj_iter it;
        yyjson_val *key;
        for (yyjson_obj_iter_init(v, &it); !st && (key = yyjson_obj_iter_next(&it));)
            st = add_item(out, yyjson_get_str(key), yyjson_obj_iter_get_val(key), path, err);
    } else if (list) {
        for (size_t i = 0; i < n && !st; i++)
            st = add_item(out, name_of(yyjson_arr_get(v, i)), yyjson_arr_get(v, i), path, err);
    } else {
        st = add_item(out, yyjson_is_obj(v) ? name_of(v) : "activations", v, path, err);
    }
    if (st) glia_sent_clear(out);
    else qsort(out->items, out->n, sizeof *out->items, by_layer);
    return st;
}

/* api/tensor.c — see tensor.h. */
#include "api/tensor.h"
#include "api/encode.h"
#include "api/hook_fields.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

enum { MAX_FLOATS = 16 << 20 }; /* a body of 64 MiB holds no more */

static glia_status not_finite(const char *path, size_t i, glia_err *err) {
    return glia_fail_at(err, GLIA_EINVAL, path, "%s: value %zu is not a finite float32", path, i);
}

/* Numbers of a flat list, appended at *at. */
static glia_status take_list(yyjson_val *list, const char *path, float *out, size_t *at, glia_err *err) {
    yyjson_arr_iter it;
    yyjson_val *v;
    for (yyjson_arr_iter_init(list, &it); (v = yyjson_arr_iter_next(&it));) {
        if (!yyjson_is_num(v)) {
            return glia_fail_at(err, GLIA_EINVAL, path, "%s must hold numbers, not %s", path, glia_json_kind(v));
        }
        float x = (float)yyjson_get_num(v);
        if (!isfinite(x)) return not_finite(path, *at, err);
        out[(*at)++] = x;
    }
    return GLIA_OK;
}

/* Rows and columns of a list as it is written; EINVAL when the rows differ in length. */
static glia_status shape_of_list(yyjson_val *list, const char *path, size_t *n_rows, size_t *n_columns, glia_err *err) {
    yyjson_val *first = yyjson_arr_get_first(list), *row;
    *n_rows = 1, *n_columns = yyjson_arr_size(list);
    if (yyjson_is_arr(first)) {
        *n_rows = yyjson_arr_size(list), *n_columns = yyjson_arr_size(first);
        yyjson_arr_iter it;
        size_t i = 0;
        for (yyjson_arr_iter_init(list, &it); (row = yyjson_arr_iter_next(&it)); i++) {
            if (yyjson_is_arr(row) && yyjson_arr_size(row) == *n_columns) continue;
            return glia_fail_at(err, GLIA_EINVAL, path, "%s: entry %zu is not a list of %zu numbers as the first is",
                                path, i, *n_columns);
        }
    }
    if (*n_columns) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, path, "%s must not be empty", path);
}

static glia_status read_list(yyjson_val *list, const char *path, glia_matrix *m, glia_err *err) {
    size_t at = 0;
    glia_status st = GLIA_OK;
    if (!(m->data = glia_malloc(m->n_rows * m->n_columns * sizeof *m->data))) {
        return glia_fail(err, GLIA_ENOMEM, "%s", path);
    }
    if (!yyjson_is_arr(yyjson_arr_get_first(list))) return take_list(list, path, m->data, &at, err);
    yyjson_arr_iter it;
    yyjson_val *row;
    for (yyjson_arr_iter_init(list, &it); !st && (row = yyjson_arr_iter_next(&it));)
        st = take_list(row, path, m->data, &at, err);
    return st;
}

static glia_status read_base64(yyjson_val *v, glia_dtype d, const char *path, glia_matrix *m, glia_err *err) {
    size_t n = m->n_rows * m->n_columns, size = glia_dtype_bytes(d), n_bytes;
    uint8_t *bytes = glia_malloc(yyjson_get_len(v) / 4 * 3 + 3);
    m->data = glia_malloc(n * sizeof *m->data);
    glia_status st = GLIA_OK;
    if (!bytes || !m->data) {
        st = glia_fail(err, GLIA_ENOMEM, "%s", path);
    } else if (!glia_base64_read(yyjson_get_str(v), yyjson_get_len(v), bytes, &n_bytes)) {
        st = glia_fail_at(err, GLIA_EINVAL, path, "%s is not base64", path);
    } else if (n_bytes != n * size) {
        st = glia_fail_at(err, GLIA_EINVAL, path, "%s holds %zu bytes, its shape and dtype %zu", path, n_bytes,
                          n * size);
    }
    if (!st) glia_unpack_le(m->data, bytes, n, d);
    for (size_t i = 0; !st && i < n; i++) {
        if (!isfinite(m->data[i])) st = not_finite(path, i, err);
    }
    glia_free(bytes);
    return st;
}

static glia_status parse_shape(yyjson_val *obj, const char *path, glia_matrix *m, glia_err *err) {
    char param[96];
    glia_json_join(param, sizeof param, path, "shape");
    yyjson_val *shape = glia_json_get(obj, "shape");
    size_t rank = yyjson_is_arr(shape) ? yyjson_arr_size(shape) : 0;
    int64_t d[2] = {1, 0};
    bool ok = rank == 1 || rank == 2;
    for (size_t i = 0; ok && i < rank; i++) {
        int64_t *at = &d[2 - rank + i];
        ok = glia_json_whole(yyjson_arr_get(shape, i), at) && *at > 0 && *at <= MAX_FLOATS;
    }
    if (!ok || d[0] * d[1] > MAX_FLOATS) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be [rows, columns] or [columns], at most %d values",
                            param, (int)MAX_FLOATS);
    }
    m->n_rows = (size_t)d[0], m->n_columns = (size_t)d[1];
    return GLIA_OK;
}

static glia_status parse_dtype(yyjson_val *obj, const char *path, glia_dtype *out, glia_err *err) {
    const char *s = "float32";
    char param[96];
    glia_json_join(param, sizeof param, path, "dtype");
    glia_status st = glia_json_str(obj, path, "dtype", &s, err);
    if (st) return st;
    *out = !strcmp(s, "float16") ? GLIA_F16 : !strcmp(s, "bfloat16") ? GLIA_BF16 : GLIA_F32;
    if (*out != GLIA_F32 || !strcmp(s, "float32")) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be \"float32\", \"float16\" or \"bfloat16\", not \"%.40s\"",
                        param, s);
}

static glia_status parse_object(yyjson_val *obj, const char *path, glia_matrix *m, glia_err *err) {
    static const char *const fields[] = {"shape", "dtype", "data"};
    char param[96];
    glia_dtype d = GLIA_F32;
    size_t n_rows, n_columns;
    glia_status st = glia_known_fields(obj, path, fields, 3, err);
    if (!st) st = parse_shape(obj, path, m, err);
    if (!st) st = parse_dtype(obj, path, &d, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, "data");
    yyjson_val *data = glia_json_get(obj, "data");
    if (yyjson_is_str(data)) return read_base64(data, d, param, m, err);
    if (!yyjson_is_arr(data)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be base64 or a list of numbers, not %s", param,
                            data ? glia_json_kind(data) : "absent");
    }
    if ((st = shape_of_list(data, param, &n_rows, &n_columns, err))) return st;
    bool flat = !yyjson_is_arr(yyjson_arr_get_first(data));
    if (flat ? n_columns != m->n_rows * m->n_columns : n_rows != m->n_rows || n_columns != m->n_columns) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s does not have the shape [%zu, %zu]", param, m->n_rows,
                            m->n_columns);
    }
    return read_list(data, param, m, err);
}

glia_status glia_json_matrix(yyjson_val *v, const char *path, glia_matrix *m, glia_err *err) {
    *m = (glia_matrix){0};
    glia_status st;
    if (yyjson_is_obj(v)) {
        st = parse_object(v, path, m, err);
    } else if (yyjson_is_arr(v)) {
        st = shape_of_list(v, path, &m->n_rows, &m->n_columns, err);
        if (!st) st = read_list(v, path, m, err);
    } else {
        st = glia_fail_at(err, GLIA_EINVAL, path,
                          "%s must be a list of lists of numbers, or an object with shape, "
                          "dtype and data",
                          path);
    }
    if (st) glia_free(m->data), m->data = NULL;
    return st;
}

/* api/directions.c — see directions.h. */
#include "api/directions.h"
#include "api/assets.h"
#include "api/hook_fields.h"
#include "base/err.h"
#include "base/mem.h"
#include "store/newfile.h"
#include "store/npy.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_NPY = 64 << 20, PATH = 4096 };

bool glia_direction_is_named(yyjson_val *v) {
    return yyjson_is_str(v) || (yyjson_is_obj(v) && glia_json_get(v, "file"));
}

static bool ends(const char *s, const char *with) {
    size_t n = strlen(s), m = strlen(with);
    return n > m && !strcmp(s + n - m, with);
}

/* The path of NAME, NAME.npy, NAME.safetensors or NAME.gguf, the first there is. */
static glia_status find_file(const glia_app *app, const char *name, const char *param, char path[PATH], glia_err *err) {
    static const char *const kinds[] = {".npy", ".safetensors", ".gguf"};
    if (!app || !app->assets) {
        return glia_fail_at(err, GLIA_EHOOK, param, "this server has no folder for such files: start it with --assets DIR");
    }
    if (!*name || *name == '.' || strchr(name, '/') || strchr(name, '\\')) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be the plain name of a file in the server's --assets folder",
                            param);
    }
    bool known = ends(name, kinds[0]) || ends(name, kinds[1]) || ends(name, kinds[2]);
    for (int k = 0; k < (known ? 1 : 3); k++) {
        int n = snprintf(path, PATH, "%s/%s%s", app->assets, name, known ? "" : kinds[k]);
        if (n > 0 && n < PATH && !access(path, R_OK)) return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_ENOTFOUND, param,
                        "no file \"%.80s\" (.npy, .safetensors or .gguf) in the server's --assets folder", name);
}

static glia_status read_npy(const char *path, glia_matrix *out, glia_err *err) {
    char *bytes;
    size_t n;
    glia_npy a;
    glia_status st = glia_file_slurp(path, MAX_NPY, &bytes, &n, err);
    if (st) return st;
    st = glia_npy_parse(&a, bytes, n, err);
    if (!st && !(out->data = glia_malloc(a.n_rows * a.n_columns * sizeof *out->data)))
        st = glia_fail(err, GLIA_ENOMEM, "no memory for a direction");
    for (size_t i = 0; !st && i < a.n_rows; i++) glia_npy_row(&a, i, out->data + i * a.n_columns);
    if (!st) out->n_rows = a.n_rows, out->n_columns = a.n_columns;
    glia_free(bytes);
    return st;
}

/* "5", "direction.5", "layers.5": of this layer. */
static bool is_of_layer(const char *name, int32_t layer) {
    char number[16];
    (void)snprintf(number, sizeof number, "%d", (int)layer);
    const char *dot = strrchr(name, '.');
    return !strcmp(dot ? dot + 1 : name, number);
}

static glia_status read_tensors(const char *path, const char *tensor, int32_t layer, glia_matrix *out, bool *none, glia_err *err) {
    glia_st *s;
    glia_status st = glia_st_open(&s, path, err);
    if (st) return st;
    const glia_st_tensor *t = tensor ? glia_st_find(s, tensor) : NULL;
    size_t n = glia_st_count(s);
    for (size_t i = 0; !tensor && i < n && !t; i++) {
        if (n == 1 || is_of_layer(glia_st_at(s, i)->name, layer)) t = glia_st_at(s, i);
    }
    if (!t) {
        *none = !tensor;
        st = tensor ? glia_fail(err, GLIA_ENOTFOUND, "the file has no tensor \"%.120s\"", tensor)
                    : glia_fail(err, GLIA_ENOTFOUND, "none of the file's %zu tensors is of layer %d: name one as `tensor`", n,
                                (int)layer);
    } else if (t->n_dims != 1 && t->n_dims != 2) {
        st = glia_fail(err, GLIA_EINVAL, "tensor \"%.120s\" must have one or two dimensions", t->name);
    } else {
        out->n_columns = (size_t)t->shape[t->n_dims - 1], out->n_rows = t->n_dims == 2 ? (size_t)t->shape[0] : 1;
        st = glia_asset_floats(s, t->name, out->n_rows * out->n_columns, &out->data, err);
    }
    glia_st_close(s);
    return st;
}

glia_status glia_direction_read(const glia_app *app, yyjson_val *v, const char *param, int32_t layer, glia_matrix *out,
                                bool *none, glia_err *err) {
    static const char *const fields[] = {"file", "tensor"};
    const char *name = yyjson_get_str(v), *tensor = NULL;
    char path[PATH];
    glia_status st = GLIA_OK;
    *out = (glia_matrix){0}, *none = false;
    if (yyjson_is_obj(v)) {
        st = glia_known_fields(v, param, fields, 2, err);
        if (!st) st = glia_json_str(v, param, "file", &name, err);
        if (!st) st = glia_json_str(v, param, "tensor", &tensor, err);
    } else if (yyjson_get_len(v) != strlen(name)) {
        st = glia_fail_at(err, GLIA_EINVAL, param, "%s is no name of a file", param);
    }
    if (!st) st = find_file(app, name, param, path, err);
    if (st) return st;
    if (ends(path, ".npy")) st = read_npy(path, out, err);
    else if (ends(path, ".safetensors")) st = read_tensors(path, tensor, layer, out, none, err);
    else {
        st = glia_control_vector_read(path, layer, &out->data, &out->n_columns, err);
        out->n_rows = 1, *none = st == GLIA_ENOTFOUND;
    }
    for (size_t i = 0; !st && i < out->n_rows * out->n_columns; i++) {
        if (!isfinite(out->data[i])) st = glia_fail(err, GLIA_EINVAL, "value %zu of the file is not finite", i);
    }
    if (!st && (!out->n_rows || !out->n_columns)) st = glia_fail(err, GLIA_EINVAL, "the file holds no numbers");
    if (!st) return GLIA_OK;
    if (err && !err->param[0]) (void)snprintf(err->param, sizeof err->param, "%.95s", param);
    glia_free(out->data);
    out->data = NULL;
    return st;
}

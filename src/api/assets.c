/* api/assets.c — see assets.h. */
#include "api/assets.h"
#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

glia_status glia_asset_open(const glia_app *app, const char *name, const char *param, glia_st **out, glia_err *err) {
    char path[4096];
    *out = NULL;
    if (!app->assets) {
        return glia_fail_at(err, GLIA_EHOOK, param,
                            "this server has no folder for such files: start it with --assets DIR");
    }
    if (!*name || *name == '.' || strchr(name, '/') || strchr(name, '\\')) {
        return glia_fail_at(err, GLIA_EINVAL, param,
                            "%s must be the plain name of a file in the server's --assets folder", param);
    }
    for (int k = 0; k < 2; k++) {
        int n = snprintf(path, sizeof path, "%s/%s%s", app->assets, name, k ? ".safetensors" : "");
        if (n < 0 || (size_t)n >= sizeof path) break;
        if (access(path, R_OK)) continue;
        glia_status st = glia_st_open(out, path, err);
        if (st && err) (void)snprintf(err->param, sizeof err->param, "%s", param);
        return st;
    }
    return glia_fail_at(err, GLIA_ENOTFOUND, param,
                        "no file \"%.120s\" or \"%.120s.safetensors\" in the server's --assets folder", name, name);
}

glia_status glia_asset_floats(const glia_st *s, const char *tensor, size_t n, float **out, glia_err *err) {
    const glia_st_tensor *t = glia_st_find(s, tensor);
    *out = NULL;
    if (!t) return glia_fail(err, GLIA_ENOTFOUND, "the file has no tensor \"%.120s\"", tensor);
    size_t width = glia_st_dtype_bytes(t->dtype);
    bool known =
        t->dtype == GLIA_ST_F32 || t->dtype == GLIA_ST_F16 || t->dtype == GLIA_ST_BF16 || t->dtype == GLIA_ST_F64;
    if (!known || (t->end - t->begin) / width != n) {
        return glia_fail(err, GLIA_EINVAL, "tensor \"%.120s\" holds %llu values of %s, %zu floats are needed", tensor,
                         (unsigned long long)((t->end - t->begin) / width), glia_st_dtype_name(t->dtype), n);
    }
    float *x = glia_malloc((n + 1) * sizeof *x);
    if (!x) return glia_fail(err, GLIA_ENOMEM, "no memory for tensor \"%.120s\"", tensor);
    const char *at = glia_st_data(s, t);
    for (size_t i = 0; i < n; i++, at += width) {
        uint16_t half;
        double wide;
        switch (t->dtype) {
        case GLIA_ST_F16:
            memcpy(&half, at, sizeof half);
            x[i] = glia_f16_to(half);
            break;
        case GLIA_ST_BF16:
            memcpy(&half, at, sizeof half);
            x[i] = glia_bf16_to(half);
            break;
        case GLIA_ST_F64:
            memcpy(&wide, at, sizeof wide);
            x[i] = (float)wide;
            break;
        default: memcpy(&x[i], at, sizeof x[i]); break;
        }
    }
    *out = x;
    return GLIA_OK;
}

void glia_tuned_close(glia_tuned *t) {
    for (size_t l = 0; t->layers && l < t->n_layer; l++) {
        glia_free((void *)(uintptr_t)t->layers[l].weight);
        glia_free((void *)(uintptr_t)t->layers[l].bias);
    }
    glia_free(t->layers);
    *t = (glia_tuned){0};
}

static glia_status read_translator(glia_translator *t, const glia_st *file, size_t i, size_t n, glia_err *err) {
    static const char *const before[] = {"", "layer_translators."};
    for (size_t k = 0; k < 2; k++) {
        char name[64];
        float *weight, *bias;
        (void)snprintf(name, sizeof name, "%s%zu.weight", before[k], i);
        if (!glia_st_find(file, name)) continue;
        glia_status st = glia_asset_floats(file, name, n * n, &weight, err);
        t->weight = weight;
        if (st) return st;
        (void)snprintf(name, sizeof name, "%s%zu.bias", before[k], i);
        if (!glia_st_find(file, name)) return GLIA_OK;
        st = glia_asset_floats(file, name, n, &bias, err);
        t->bias = bias;
        return st;
    }
    return glia_fail(err, GLIA_EHOOK, "the file has no translator %zu (\"%zu.weight\"), which layer %zu needs", i, i,
                     i - 1);
}

static bool is_wanted(const glia_study *s, int32_t layer) {
    for (size_t i = 0; i < s->n_layers; i++) {
        if (s->layers[i] == layer) return true;
    }
    return !s->layers;
}

glia_status glia_tuned_open(glia_tuned *t, const glia_study *s, glia_err *err) {
    const char *name = NULL;
    glia_st *file;
    *t = (glia_tuned){.n_layer = (size_t)s->info.n_layer};
    glia_status st = glia_json_str(s->root, "", "tuned", &name, err);
    if (st || !name) return st;
    if ((st = glia_asset_open(s->app, name, "tuned", &file, err))) return st;
    if (!(t->layers = glia_calloc(t->n_layer, sizeof *t->layers))) st = glia_fail(err, GLIA_ENOMEM, "no memory");
    for (size_t l = 0; l + 1 < t->n_layer && !st; l++) {
        if (is_wanted(s, (int32_t)l)) st = read_translator(&t->layers[l], file, l + 1, (size_t)s->info.n_embd, err);
    }
    if (st && err && !err->param[0]) (void)snprintf(err->param, sizeof err->param, "tuned");
    glia_st_close(file);
    return st;
}

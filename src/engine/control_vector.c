/* engine/control_vector.c — llama.cpp's control vectors: GGUF files with a float32 tensor "direction.N" [n_embd] for each
 * layer that they steer, added to what leaves block N (resid_post).  Any thread. */
#include "base/err.h"
#include "base/mem.h"
#include "ggml.h"
#include "gguf.h"
#include "glia.h"
#include <stdio.h>
#include <string.h>

glia_status glia_control_vector_read(const char *path, int32_t layer, float **out, size_t *n, glia_err *err) {
    struct ggml_context *data = NULL;
    struct gguf_context *g = gguf_init_from_file(path, (struct gguf_init_params){.no_alloc = false, .ctx = &data});
    *out = NULL, *n = 0;
    if (!g) return glia_fail(err, GLIA_EINVAL, "this is no GGUF file, or a damaged one");
    glia_status st = GLIA_OK;
    char name[32];
    (void)snprintf(name, sizeof name, "direction.%d", (int)layer);
    const struct ggml_tensor *t = data ? ggml_get_tensor(data, name) : NULL;
    bool any = false;
    for (int64_t i = 0; i < gguf_get_n_tensors(g); i++) any |= !strncmp(gguf_get_tensor_name(g, i), "direction.", 10);
    if (!any) st = glia_fail(err, GLIA_EINVAL, "this GGUF file is no control vector: it has no tensor direction.N");
    else if (!t) st = glia_fail(err, GLIA_ENOTFOUND, "the control vector has no direction for layer %d", (int)layer);
    else if (t->type != GGML_TYPE_F32 || ggml_n_dims(t) != 1) {
        st = glia_fail(err, GLIA_EINVAL, "%s of the control vector is not a vector of float32", name);
    } else if (!(*out = glia_memdup(t->data, (size_t)t->ne[0] * sizeof **out))) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for a control vector");
    } else {
        *n = (size_t)t->ne[0];
    }
    gguf_free(g);
    if (data) ggml_free(data);
    return st;
}

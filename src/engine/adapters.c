/* engine/adapters.c — LoRA adapters: loaded with the model, chosen by each request, changed between passes.
 *
 * Engine thread, but for glia_tuning_read (any).  See worker.h.
 *
 * llama.cpp applies adapters to a whole context, so that a pass holds only requests with equal ones.  Its graph is another
 * one than the atlas knows: requests with adapters have neither hooks nor edits (request.c refuses them). */
#include "engine/worker.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>

glia_status glia_tuning_read(glia_tuning *out, const glia_adapter_use *uses, size_t n, int32_t n_adapters,
                             glia_err *err) {
    memset(out, 0, sizeof *out);
    if (n > GLIA_MAX_ADAPTERS)
        return glia_fail_at(err, GLIA_EINVAL, "lora", "at most %d adapters can be used at once", GLIA_MAX_ADAPTERS);
    for (size_t i = 0; i < n; i++) {
        int32_t id = uses[i].adapter, k = out->n;
        float scale = uses[i].scale;
        char where[32];
        (void)snprintf(where, sizeof where, "lora[%zu]", i);
        if (id < 0 || id >= n_adapters) {
            return glia_fail_at(err, GLIA_EINVAL, where, "adapter %d does not exist: %d were loaded with the model", id,
                                n_adapters);
        }
        if (!(fabsf(scale) <= 1e6f)) return glia_fail_at(err, GLIA_EINVAL, where, "its scale must be a number");
        for (size_t j = 0; j < i; j++) {
            if (uses[j].adapter == id) return glia_fail_at(err, GLIA_EINVAL, where, "adapter %d is named twice", id);
        }
        if (scale == 0) continue;
        for (; k > 0 && out->adapter[k - 1] > id; k--) {
            out->adapter[k] = out->adapter[k - 1], out->scale[k] = out->scale[k - 1];
        }
        out->adapter[k] = id, out->scale[k] = scale, out->n++;
    }
    return GLIA_OK;
}

glia_status glia_worker_load_adapters(glia_worker *w, glia_err *err) {
    const glia_model *m = w->m;
    for (size_t i = 0; i < m->n_adapters; i++) {
        glia_model_note_errors();
        struct llama_adapter_lora *a = llama_adapter_lora_init(m->lm, m->adapters[i].path);
        if (!a) {
            const char *why = glia_model_last_error();
            return glia_fail_at(err, GLIA_EINVAL, "lora", "%s is no LoRA adapter of %s%s%s", m->adapters[i].path, m->id,
                                why[0] ? ": " : "", why);
        }
        w->adapters[i] = a; /* freed with the model */
        if (llama_adapter_get_alora_n_invocation_tokens(a)) {
            return glia_fail_at(err, GLIA_EINVAL, "lora",
                                "%s is an adapter that begins with certain tokens (aLoRA): not supported",
                                m->adapters[i].path);
        }
    }
    return GLIA_OK;
}

void glia_worker_tune(glia_worker *w, const glia_tuning *t) {
    struct llama_adapter_lora *adapters[GLIA_MAX_ADAPTERS];
    float scales[GLIA_MAX_ADAPTERS];
    if (glia_tuning_same(&w->tuning, t)) return;
    for (int32_t i = 0; i < t->n; i++) adapters[i] = w->adapters[t->adapter[i]], scales[i] = t->scale[i];
    (void)llama_set_adapters_lora(w->ctx, adapters, (size_t)t->n, scales);
    w->tuning = *t;
}

/* api/scope_models.c — NeuroScope's routes for models: what is there, load by path, short forms.  HTTP threads and threads
 * of tasks. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/load.h"
#include "api/model_view.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

static bool is_ready(const glia_instance *i) { return i && i->state == GLIA_LOAD_READY; }

/* ------------------------------------------------------------------ what is there */

void glia_on_models_available(void *ud, glia_http_request *rq) {
    glia_view_models v;
    glia_buf b = {0}, loaded = {0};
    size_t n_loaded = 0;
    if (!glia_view_serve(&v, ud, rq)) return;
    glia_buf_adds(&b, "{\"available_models\":[");
    for (size_t i = 0; i < v.n; i++) {
        const glia_model_file *f = v.seen[i].file;
        glia_buf_adds(&b, i ? ",{\"model_id\":" : "{\"model_id\":");
        glia_json_add_cstr(&b, is_ready(v.seen[i].instance) ? v.seen[i].instance->id : f->key);
        glia_buf_adds(&b, ",\"model_path\":");
        glia_json_add_cstr(&b, f->path);
        glia_buf_adds(&b, ",\"size_mb\":");
        glia_json_add_num(&b, (double)f->bytes / 1e6);
        glia_buf_adds(&b, ",\"files\":[");
        glia_json_add_cstr(&b, f->file);
        glia_buf_adds(&b, "]}");
    }
    for (size_t i = 0; i < v.instances->n; i++) {
        if (!is_ready(&v.instances->items[i])) continue;
        if (n_loaded++) glia_buf_adds(&loaded, ",");
        glia_json_add_cstr(&loaded, v.instances->items[i].id);
    }
    const glia_instance *current = glia_view_current(&v);
    glia_buf_addf(&b, "],\"loaded_models\":[%s],\"current_model\":", loaded.p ? loaded.p : "");
    glia_json_add_cstr(&b, current ? current->id : NULL);
    glia_buf_adds(&b, ",\"search_paths\":[");
    for (size_t i = 0; glia_catalogue_dir(v.app->catalogue, i); i++) {
        if (i) glia_buf_adds(&b, ",");
        glia_json_add_cstr(&b, glia_catalogue_dir(v.app->catalogue, i));
    }
    glia_buf_addf(&b, "],\"total_available\":%zu,\"total_loaded\":%zu}\n", v.n, n_loaded);
    if (loaded.failed) b.failed = true;
    glia_buf_clear(&loaded);
    glia_view_clear(&v);
    glia_reply_json(rq, &b);
}

static void add_short(glia_buf *b, const char *id, const glia_model_file *f, const glia_instance *i, bool current) {
    glia_model_info info;
    glia_buf_adds(b, "{\"id\":");
    glia_json_add_cstr(b, id);
    glia_buf_adds(b, ",\"model_id\":");
    glia_json_add_cstr(b, id);
    glia_buf_addf(b, ",\"status\":\"%s\",\"is_current\":%s,\"model_path\":", is_ready(i) ? "loaded" : "not-loaded",
                  current ? "true" : "false");
    glia_json_add_cstr(b, f->path);
    glia_buf_adds(b, ",\"arch\":");
    glia_json_add_cstr(b, f->head.arch);
    glia_buf_addf(b, ",\"n_layer\":%llu,\"n_embd\":%llu,\"supports_activations\":", (unsigned long long)f->head.n_layer,
                  (unsigned long long)f->head.n_embd);
    if (is_ready(i)) {
        glia_model_get_info(i->model, &info);
        glia_buf_adds(b, info.hooks_refused ? "false}" : "true}");
    } else {
        glia_buf_adds(b, "null}"); /* known once it was loaded */
    }
}

void glia_on_scope_models(void *ud, glia_http_request *rq) {
    glia_view_models v;
    glia_buf b = {0};
    if (!glia_view_serve(&v, ud, rq)) return;
    const glia_instance *current = glia_view_current(&v);
    glia_buf_adds(&b, "{\"models\":[");
    for (size_t i = 0; i < v.n; i++) {
        const glia_seen *s = &v.seen[i];
        if (i) glia_buf_adds(&b, ",");
        add_short(&b, is_ready(s->instance) ? s->instance->id : s->file->key, s->file, s->instance,
                  current && s->instance == current);
    }
    glia_buf_adds(&b, "],\"current_model\":");
    glia_json_add_cstr(&b, current ? current->id : NULL);
    glia_buf_adds(&b, "}\n");
    glia_view_clear(&v);
    glia_reply_json(rq, &b);
}

void glia_on_scope_model(void *ud, glia_http_request *rq) {
    glia_view_models v;
    const glia_instance *in;
    const glia_model_file *f;
    glia_buf b = {0};
    if (!glia_view_serve_one(&v, ud, rq, &in, &f)) return;
    add_short(&b, is_ready(in) ? in->id : f->key, f, in, in && in == glia_view_current(&v));
    glia_buf_adds(&b, "\n");
    glia_view_clear(&v);
    glia_reply_json(rq, &b);
}

/* ------------------------------------------------------------------ load */

static const char *const load_keys[] = {"model_path",    "model_id",           "max_kv_size",
                                        "vocab_only",    "trust_remote_code",  "kv_bits",
                                        "kv_group_size", "quantized_kv_start", NULL};

/* Options of another engine: what would change nothing here is taken, anything else is refused. */
static glia_status parse_foreign(yyjson_val *root, glia_load_request *l, glia_err *err) {
    bool vocab_only = false, trust = false;
    int64_t bits = 0, group = 0, start = 0;
    glia_status st;
    if ((st = glia_json_bool(root, "", "vocab_only", &vocab_only, NULL, err))) return st;
    if ((st = glia_json_bool(root, "", "trust_remote_code", &trust, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "kv_bits", 0, 64, &bits, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "kv_group_size", 1, 1024, &group, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "quantized_kv_start", 0, INT32_MAX, &start, NULL, err))) return st;
    if (trust)
        return glia_fail_at(err, GLIA_EINVAL, "trust_remote_code",
                            "trust_remote_code: no code of a model is ever run here");
    if (vocab_only)
        return glia_fail_at(err, GLIA_EINVAL, "vocab_only", "vocab_only: a model without weights can compute nothing");
    if (bits && bits != 4 && bits != 8 && bits != 16 && bits != 32)
        return glia_fail_at(err, GLIA_EINVAL, "kv_bits", "kv_bits must be 4, 8, 16 or 32");
    if (bits)
        l->params.kv_type = bits == 4    ? GLIA_KV_Q4_0
                            : bits == 8  ? GLIA_KV_Q8_0
                            : bits == 32 ? GLIA_KV_F32
                                         : GLIA_KV_F16;
    return GLIA_OK;
}

static glia_status parse_load(glia_app *app, yyjson_val *root, glia_load_request *l, glia_err *err) {
    int64_t ctx = 0;
    *l = (glia_load_request){.app = app, .params = glia_registry_get_params(app->models)->model};
    glia_status st = glia_json_only(root, load_keys, err);
    if (!st) st = glia_json_str(root, "", "model_path", &l->model, err);
    if (!st && (!l->model || !l->model[0]))
        st = glia_fail_at(err, GLIA_EINVAL, "model_path", "model_path is missing: a GGUF file, or the name of a model");
    if (!st) st = glia_json_str(root, "", "model_id", &l->identifier, err);
    if (!st) st = glia_json_int(root, "", "max_kv_size", 16, 16 << 20, &ctx, NULL, err);
    if (!st && ctx) l->params.n_ctx = (int32_t)ctx;
    return st ? st : parse_foreign(root, l, err);
}

static glia_status load_work(glia_task *t, void *ud, glia_buf *b, glia_err *err) {
    glia_watch *w = NULL;
    glia_watched now;
    glia_model_info info;
    glia_status st = glia_load_run(ud, t, &w, &now, err);
    if (st) return st;
    glia_model_get_info(now.model, &info);
    glia_buf_adds(b, "{\"model_id\":");
    glia_json_add_cstr(b, now.id);
    glia_buf_addf(b, ",\"status\":\"loaded\",\"supports_activations\":%s}", info.hooks_refused ? "false" : "true");
    glia_watch_free(w);
    return GLIA_OK;
}

void glia_on_scope_load(void *ud, glia_http_request *rq) { glia_load_serve(ud, rq, parse_load, load_work); }

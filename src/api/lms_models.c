/* api/lms_models.c — the lists of models as LM Studio's REST API has them, v0 and v1, and what its clients look for to
 * know a server.  HTTP threads. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/model_view.h"
#include "base/err.h"
#include <string.h>

/* ------------------------------------------------------------------ v0 */

static int32_t context_of(const glia_instance *i) {
    glia_model_info info;
    if (!i || !i->model) return 0;
    glia_model_get_info(i->model, &info);
    return info.n_ctx;
}

static void add_v0(glia_buf *b, const char *id, const glia_model_file *f, const glia_instance *i) {
    bool loaded = i && i->state == GLIA_LOAD_READY, embedding = glia_gguf_is_embedding(&f->head);
    glia_buf_adds(b, "{\"id\":");
    glia_json_add_cstr(b, id);
    glia_buf_addf(b, ",\"object\":\"model\",\"type\":\"%s\",\"publisher\":", embedding ? "embeddings" : "llm");
    glia_json_add_cstr(b, f->publisher);
    glia_buf_adds(b, ",\"arch\":");
    glia_json_add_cstr(b, f->head.arch);
    glia_buf_addf(
        b, ",\"compatibility_type\":\"gguf\",\"quantization\":\"%s\",\"state\":\"%s\",\"max_context_length\":%llu",
        glia_gguf_quant(&f->head), loaded ? "loaded" : "not-loaded", (unsigned long long)f->head.n_ctx_train);
    if (loaded) glia_buf_addf(b, ",\"loaded_context_length\":%d", (int)context_of(i));
    if (f->head.template_tools && !embedding) glia_buf_adds(b, ",\"capabilities\":[\"tool_use\"]");
    glia_buf_adds(b, "}");
}

/* Every loaded instance under its id, every other file under its key. */
static void add_v0_list(glia_buf *b, const glia_view_models *v) {
    bool any = false;
    for (size_t i = 0; i < v->instances->n; i++) {
        const glia_instance *in = &v->instances->items[i];
        if (in->state != GLIA_LOAD_READY) continue;
        if (any) glia_buf_adds(b, ",");
        add_v0(b, in->id, in->file, in);
        any = true;
    }
    for (size_t i = 0; i < v->files->n; i++) {
        const glia_seen *s = &v->seen[i];
        if (s->instance && s->instance->state == GLIA_LOAD_READY) continue;
        if (any) glia_buf_adds(b, ",");
        add_v0(b, s->file->key, s->file, NULL);
        any = true;
    }
}

void glia_on_v0_models(void *ud, glia_http_request *rq) {
    glia_view_models v;
    glia_buf b = {0};
    if (!glia_view_serve(&v, ud, rq)) return;
    glia_buf_adds(&b, "{\"object\":\"list\",\"data\":[");
    add_v0_list(&b, &v);
    glia_buf_adds(&b, "]}\n");
    glia_view_clear(&v);
    glia_reply_json(rq, &b);
}

void glia_on_v0_model(void *ud, glia_http_request *rq) {
    glia_view_models v;
    const glia_instance *in;
    const glia_model_file *f;
    glia_buf b = {0};
    if (!glia_view_serve_one(&v, ud, rq, &in, &f)) return;
    add_v0(&b, in && in->state == GLIA_LOAD_READY ? in->id : f->key, f, in);
    glia_buf_adds(&b, "\n");
    glia_view_clear(&v);
    glia_reply_json(rq, &b);
}

/* ------------------------------------------------------------------ v1 */

void glia_add_load_config(glia_buf *b, const glia_model_file *f, glia_model *m, const glia_model_params *p) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    glia_buf_addf(b, "{\"context_length\":%d", (int)info.n_ctx);
    if (!glia_gguf_is_embedding(&f->head)) {
        glia_buf_addf(b, ",\"eval_batch_size\":%d,\"parallel\":%d,\"flash_attention\":%s", (int)info.n_batch,
                      (int)info.n_parallel, info.flash_attention ? "true" : "false");
        if (f->head.n_expert) glia_buf_addf(b, ",\"num_experts\":%llu", (unsigned long long)f->head.n_expert_used);
        glia_buf_addf(b, ",\"offload_kv_cache_to_gpu\":%s,\"kv_cache_type\":\"%s\"",
                      p->n_gpu_layers != 0 && glia_has_gpu() ? "true" : "false", glia_kv_name(p->kv_type));
    }
    glia_buf_adds(b, "}");
}

static void add_instance(glia_buf *b, const glia_instance *i) {
    glia_model_info info;
    glia_model_get_info(i->model, &info);
    glia_buf_adds(b, "{\"id\":");
    glia_json_add_cstr(b, i->id);
    glia_buf_adds(b, ",\"config\":");
    glia_add_load_config(b, i->file, i->model, i->params);
    glia_buf_addf(
        b,
        ",\"memory\":{\"weights_bytes\":%llu,\"kv_cache_bytes\":%llu,\"compute_bytes\":%llu,\"estimated_bytes\":%llu}",
        (unsigned long long)info.weights_bytes, (unsigned long long)info.cache_bytes,
        (unsigned long long)info.compute_bytes, (unsigned long long)i->footprint.total);
    glia_buf_addf(b, ",\"in_use\":%zu,\"ttl_seconds\":", i->n_holds);
    if (i->ttl_ms) glia_json_add_num(b, (double)i->ttl_ms / 1000);
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, ",\"idle_seconds\":%lld,\"loaded_for_a_request\":%s,\"load_time_seconds\":",
                  (long long)(i->idle_ms / 1000), i->jit ? "true" : "false");
    glia_json_add_num(b, i->load_seconds);
    glia_buf_adds(b, "}");
}

static bool is_of_base(const glia_instance *in, const glia_view_models *v, const char *base) {
    for (size_t i = 0; i < v->n; i++) {
        if (!strcmp(v->seen[i].file->base, base) && glia_is_instance_of(in, v->seen[i].file)) return true;
    }
    return false;
}

static void add_instances(glia_buf *b, const glia_view_models *v, const char *base) {
    bool any = false;
    for (size_t i = 0; i < v->instances->n; i++) {
        const glia_instance *in = &v->instances->items[i];
        if (in->state != GLIA_LOAD_READY || !is_of_base(in, v, base)) continue;
        if (any) glia_buf_adds(b, ",");
        add_instance(b, in);
        any = true;
    }
}

/* What is on its way, where there is something. */
static void add_loading(glia_buf *b, const glia_view_models *v, const char *base) {
    bool any = false;
    for (size_t i = 0; i < v->instances->n; i++) {
        const glia_instance *in = &v->instances->items[i];
        if (in->state != GLIA_LOAD_LOADING || !is_of_base(in, v, base)) continue;
        glia_buf_adds(b, any ? ",{\"id\":" : ",\"loading_instances\":[{\"id\":");
        glia_json_add_cstr(b, in->id);
        glia_buf_addf(b, ",\"progress\":%.3f}", (double)in->progress);
        any = true;
    }
    if (any) glia_buf_adds(b, "]");
}

static void add_variants(glia_buf *b, const glia_view_models *v, const glia_model_file *selected) {
    bool any = false;
    glia_buf_adds(b, ",\"variants\":[");
    for (size_t i = 0; i < v->files->n; i++) {
        if (strcmp(v->files->items[i].base, selected->base) != 0) continue;
        if (any) glia_buf_adds(b, ",");
        glia_json_add_cstr(b, v->files->items[i].key);
        any = true;
    }
    glia_buf_adds(b, "],\"selected_variant\":");
    glia_json_add_cstr(b, selected->key);
}

static void add_capabilities(glia_buf *b, const glia_gguf *g) {
    /* images need an engine that reads them, whatever files are there */
    glia_buf_addf(b, ",\"capabilities\":{\"vision\":false,\"trained_for_tool_use\":%s",
                  g->template_tools ? "true" : "false");
    if (g->template_thinking)
        glia_buf_adds(b, ",\"reasoning\":{\"allowed_options\":[\"off\",\"on\"],\"default\":\"on\"}");
    glia_buf_adds(b, "}");
}

static void add_v1(glia_buf *b, const glia_view_models *v, const glia_model_file *f) {
    bool embedding = glia_gguf_is_embedding(&f->head);
    char size[32];
    glia_gguf_size_text(&f->head, f->n_params, size);
    glia_buf_addf(b, "{\"type\":\"%s\",\"publisher\":", embedding ? "embedding" : "llm");
    glia_json_add_cstr(b, f->publisher);
    glia_buf_adds(b, ",\"key\":");
    glia_json_add_cstr(b, f->base);
    glia_buf_adds(b, ",\"display_name\":");
    glia_json_add_cstr(b, f->head.name[0] ? f->head.name : f->folder);
    if (!embedding) {
        glia_buf_adds(b, ",\"architecture\":");
        glia_json_add_cstr(b, f->head.arch);
    }
    glia_buf_addf(b, ",\"quantization\":{\"name\":\"%s\",\"bits_per_weight\":", glia_gguf_quant(&f->head));
    if (f->n_params) glia_json_add_num(b, (double)f->weight_bytes * 8 / (double)f->n_params);
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, "},\"size_bytes\":%llu,\"params_string\":", (unsigned long long)f->bytes);
    glia_json_add_cstr(b, size);
    glia_buf_adds(b, ",\"loaded_instances\":[");
    add_instances(b, v, f->base);
    glia_buf_addf(b, "],\"max_context_length\":%llu,\"format\":\"gguf\"", (unsigned long long)f->head.n_ctx_train);
    if (!embedding) {
        add_capabilities(b, &f->head);
        glia_buf_adds(b, ",\"description\":null");
    }
    if (f->n_variants > 1) add_variants(b, v, f);
    add_loading(b, v, f->base);
    glia_buf_addf(b, ",\"path\":");
    glia_json_add_cstr(b, f->path);
    glia_buf_addf(b, ",\"n_parts\":%llu,\"mmproj\":", (unsigned long long)f->n_parts);
    glia_json_add_cstr(b, f->mmproj);
    if (f->problem) {
        glia_buf_adds(b, ",\"problem\":");
        glia_json_add_cstr(b, f->problem);
    }
    glia_buf_adds(b, "}");
}

void glia_add_v1_models(glia_buf *b, const glia_view_models *v) {
    bool any = false;
    glia_buf_adds(b, "{\"models\":[");
    for (size_t i = 0; i < v->n; i++) {
        if (!v->seen[i].file->selected) continue; /* listed with its variants */
        if (any) glia_buf_adds(b, ",");
        add_v1(b, v, v->seen[i].file);
        any = true;
    }
    glia_buf_adds(b, "]}");
}

void glia_on_v1_models(void *ud, glia_http_request *rq) {
    glia_view_models v;
    glia_buf b = {0};
    if (!glia_view_serve(&v, ud, rq)) return;
    glia_add_v1_models(&b, &v);
    glia_buf_adds(&b, "\n");
    glia_view_clear(&v);
    glia_reply_json(rq, &b);
}

/* ------------------------------------------------------------------ who is there */

void glia_on_lms_greeting(void *ud, glia_http_request *rq) {
    (void)ud;
    static const char body[] = "{\"lmstudio\":true}\n";
    (void)glia_http_reply(rq, 200, "application/json", body, sizeof body - 1);
}

void glia_on_lms_status(void *ud, glia_http_request *rq) {
    (void)ud;
    glia_buf b = {0};
    glia_buf_addf(&b, "{\"package\":\"glia\",\"version\":\"%s\"}\n", glia_version());
    glia_reply_json(rq, &b);
}

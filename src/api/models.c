/* api/models.c — the models that requests can name, and what of them can be hooked.  HTTP threads. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/model_view.h"
#include "base/err.h"
#include <string.h>

void glia_add_model(glia_buf *b, const glia_model *m, bool current) {
    glia_model_info i;
    glia_model_get_info(m, &i);
    glia_buf_adds(b, "{\"id\":");
    glia_json_add_cstr(b, i.id);
    glia_buf_adds(b, ",\"model_id\":");
    glia_json_add_cstr(b, i.id);
    glia_buf_addf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"glia\",\"status\":\"loaded\"",
                  (long long)i.created);
    glia_buf_addf(b, ",\"supports_activations\":%s,\"is_current\":%s", i.hooks_refused ? "false" : "true",
                  current ? "true" : "false");
    glia_buf_adds(b, ",\"arch\":");
    glia_json_add_cstr(b, i.arch);
    glia_buf_adds(b, ",\"description\":");
    glia_json_add_cstr(b, i.description);
    glia_buf_addf(b, ",\"n_layer\":%d,\"n_embd\":%d,\"n_head\":%d,\"n_head_kv\":%d,\"n_vocab\":%d", (int)i.n_layer,
                  (int)i.n_embd, (int)i.n_head, (int)i.n_head_kv, (int)i.n_vocab);
    glia_buf_addf(b, ",\"max_context_length\":%d,\"loaded_context_length\":%d,\"parallel\":%d", (int)i.n_ctx_train,
                  (int)i.n_ctx, (int)i.n_parallel);
    glia_buf_addf(b, ",\"n_params\":%llu,\"size_bytes\":%llu,\"flash_attention\":%s,\"has_chat_template\":%s",
                  (unsigned long long)i.n_params, (unsigned long long)i.n_bytes, i.flash_attention ? "true" : "false",
                  i.has_chat_template ? "true" : "false");
    glia_buf_adds(b, ",\"hooks_refused\":");
    glia_json_add_cstr(b, i.hooks_refused);
    glia_buf_adds(b, "}");
}

/* One list under two names: OpenAI clients read data, NeuroScope's read models. */
/* One that is only a file yet, under a name (its key, or an alias).  Whether it gives activations is only known once it
 * was loaded. */
static void add_file(glia_buf *b, const glia_model_file *f, const char *id, const char *status) {
    char size[32];
    glia_gguf_size_text(&f->head, f->n_params, size);
    glia_buf_adds(b, "{\"id\":");
    glia_json_add_cstr(b, id);
    glia_buf_adds(b, ",\"model_id\":");
    glia_json_add_cstr(b, id);
    glia_buf_addf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":", (long long)f->mtime);
    glia_json_add_cstr(b, f->publisher[0] ? f->publisher : "glia");
    glia_buf_addf(b, ",\"status\":\"%s\",\"supports_activations\":null,\"is_current\":false,\"arch\":", status);
    glia_json_add_cstr(b, f->head.arch);
    glia_buf_adds(b, ",\"description\":");
    glia_json_add_cstr(b, f->head.name[0] ? f->head.name : NULL);
    glia_buf_addf(b, ",\"n_layer\":%llu,\"n_embd\":%llu,\"max_context_length\":%llu,\"n_params\":%llu",
                  (unsigned long long)f->head.n_layer, (unsigned long long)f->head.n_embd,
                  (unsigned long long)f->head.n_ctx_train, (unsigned long long)f->n_params);
    glia_buf_addf(b, ",\"size_bytes\":%llu,\"quantization\":\"%s\",\"has_chat_template\":%s",
                  (unsigned long long)f->bytes, glia_gguf_quant(&f->head), f->head.chat_template ? "true" : "false");
    if (f->problem) {
        glia_buf_adds(b, ",\"problem\":");
        glia_json_add_cstr(b, f->problem);
    }
    glia_buf_adds(b, "}");
}

static const char *status_of(const glia_instance *i) {
    if (!i) return "not-loaded";
    return i->state == GLIA_LOAD_LOADING ? "loading" : i->state == GLIA_LOAD_READY ? "loaded" : "unloading";
}

static void comma(glia_buf *b) {
    if (b->n) glia_buf_adds(b, ",");
}

/* Loaded ones first, the default one at the head; with just-in-time loading the rest of the folders, and aliases. */
static void add_all(glia_buf *b, const glia_view_models *v) {
    const glia_registry_params *p = glia_registry_get_params(v->app->models);
    const glia_instance *current = glia_view_current(v);
    for (size_t i = 0; i < v->instances->n; i++) {
        const glia_instance *in = &v->instances->items[i];
        if (in->state != GLIA_LOAD_READY) continue;
        comma(b);
        glia_add_model(b, in->model, in == current);
    }
    for (size_t i = 0; p->jit && i < v->files->n; i++) {
        if (v->seen[i].instance && v->seen[i].instance->state == GLIA_LOAD_READY) continue;
        comma(b);
        add_file(b, v->seen[i].file, v->seen[i].file->key, status_of(v->seen[i].instance));
    }
    for (size_t i = 0; i < p->n_aliases; i++) {
        const glia_instance *in;
        const glia_model_file *f;
        const char *name, *model = glia_registry_alias(v->app->models, i, &name);
        glia_err err;
        if (glia_view_find(v, model, &in, &f, &err) || (!p->jit && (!in || in->state != GLIA_LOAD_READY))) continue;
        comma(b);
        add_file(b, f, name, status_of(in));
    }
}

void glia_on_models(void *ud, glia_http_request *rq) {
    glia_view_models v;
    glia_err err;
    if (glia_view_open(&v, ud, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf list = {0}, b = {0};
    add_all(&list, &v);
    glia_buf_addf(&b, "{\"object\":\"list\",\"data\":[%s],\"models\":[%s],\"current_model\":", list.p ? list.p : "",
                  list.p ? list.p : "");
    const glia_instance *current = glia_view_current(&v);
    glia_json_add_cstr(&b, current ? current->id : NULL);
    glia_buf_adds(&b, "}\n");
    if (list.failed) b.failed = true;
    glia_buf_clear(&list);
    glia_view_clear(&v);
    glia_reply_json(rq, &b);
}

/* A loaded one under any of its names, else its file. */
void glia_on_model(void *ud, glia_http_request *rq) {
    const char *id = glia_http_param(rq, "id");
    glia_view_models v;
    glia_model *m;
    glia_err err;
    glia_buf b = {0};
    if (glia_view_open(&v, ud, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    if (!glia_app_find(ud, id, &m, &err)) {
        const glia_instance *current = glia_view_current(&v);
        glia_add_model(&b, m, current && current->model == m);
        glia_app_release(ud, m);
    } else {
        const glia_instance *in;
        const glia_model_file *f;
        glia_err why;
        bool jit = glia_registry_get_params(v.app->models)->jit; /* without, it cannot be named in requests */
        if (!jit || glia_view_find(&v, glia_registry_unalias(v.app->models, id), &in, &f, &why)) {
            (void)glia_http_reply_error(rq, &err);
            glia_view_clear(&v);
            return;
        }
        add_file(&b, f, id, status_of(in));
    }
    glia_view_clear(&v);
    glia_buf_adds(&b, "\n");
    glia_reply_json(rq, &b);
}

/* ------------------------------------------------------------------ hooks */

static void add_layer(glia_buf *b, const glia_model *m, glia_point p, int32_t layer) {
    glia_point_info i = {0};
    bool there = glia_model_point(m, p, layer, &i);
    glia_buf_adds(b, "{\"layer\":");
    if (glia_point_has_layer(p)) glia_buf_addf(b, "%d", (int)layer);
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, ",\"grade\":\"%s\",\"width\":%d", glia_grade_name(there ? i.grade : GLIA_GRADE_ABSENT),
                  (int)i.width);
    if (i.n_heads > 0) glia_buf_addf(b, ",\"n_heads\":%d,\"head_dim\":%d", (int)i.n_heads, (int)i.head_dim);
    if (i.group > 0) glia_buf_addf(b, ",\"heads_per_kv_head\":%d", (int)i.group);
    if (i.by_position) glia_buf_adds(b, ",\"by_position\":true");
    glia_buf_adds(b, ",\"reason\":");
    glia_json_add_cstr(b, i.reason[0] ? i.reason : NULL);
    glia_buf_adds(b, "}");
}

void glia_add_hooks(glia_buf *b, const glia_model *m) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    glia_buf_adds(b, "{\"model\":");
    glia_json_add_cstr(b, info.id);
    glia_buf_addf(b, ",\"n_layer\":%d,\"hooks_refused\":", (int)info.n_layer);
    glia_json_add_cstr(b, info.hooks_refused);
    glia_buf_adds(b, ",\"points\":[");
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        bool per_layer = glia_point_has_layer((glia_point)p);
        glia_buf_addf(b, "%s{\"point\":\"%s\",\"meaning\":", p ? "," : "", glia_point_name((glia_point)p));
        glia_json_add_cstr(b, glia_point_meaning((glia_point)p));
        glia_buf_addf(b, ",\"per_layer\":%s,\"layers\":[", per_layer ? "true" : "false");
        for (int32_t l = 0; l < (per_layer ? info.n_layer : 1); l++) {
            if (l) glia_buf_adds(b, ",");
            add_layer(b, m, (glia_point)p, l);
        }
        glia_buf_adds(b, "]}");
    }
    glia_buf_adds(b, "]}");
}

void glia_on_hooks(void *ud, glia_http_request *rq) {
    glia_model *m;
    glia_err err;
    if (glia_app_find(ud, glia_http_param(rq, "id"), &m, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf b = {0};
    glia_add_hooks(&b, m);
    glia_app_release(ud, m);
    glia_buf_adds(&b, "\n");
    glia_reply_json(rq, &b);
}

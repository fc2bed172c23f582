/* api/models.c — what is loaded, and what of it can be hooked.  HTTP threads. */
#include "api/handlers.h"
#include "api/json.h"
#include "base/err.h"

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
void glia_on_models(void *ud, glia_http_request *rq) {
    glia_model *models[GLIA_APP_MODELS];
    size_t n = glia_app_list(ud, models, GLIA_APP_MODELS, NULL);
    glia_buf list = {0}, b = {0};
    for (size_t i = 0; i < n; i++) {
        if (i) glia_buf_adds(&list, ",");
        glia_add_model(&list, models[i], i == 0);
    }
    glia_buf_addf(&b, "{\"object\":\"list\",\"data\":[%s],\"models\":[%s],\"current_model\":", list.p ? list.p : "",
                  list.p ? list.p : "");
    glia_model_info info = {0};
    if (n) glia_model_get_info(models[0], &info);
    glia_json_add_cstr(&b, info.id);
    glia_buf_adds(&b, "}\n");
    if (list.failed) b.failed = true;
    glia_buf_clear(&list);
    glia_reply_json(rq, &b);
}

void glia_on_model(void *ud, glia_http_request *rq) {
    glia_model *m, *first;
    glia_err err;
    if (glia_app_find(ud, glia_http_param(rq, "id"), &m, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf b = {0};
    (void)glia_app_list(ud, &first, 1, NULL);
    glia_add_model(&b, m, m == first);
    glia_app_release(ud, m);
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

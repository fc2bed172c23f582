/* api/lms_embed.c — embedString of LM Studio's SDKs: one text → its vector, of unit length.  The connection's thread. */
#include "api/lms_socket.h"
#include "api/lms_translate.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

typedef struct embedding {
    glia_channel channel; /* first: a call that takes its time is its channel */
    glia_model *model;    /* held */
    glia_embed *embed;
    int32_t n; /* floats of the vector */
} embedding;

static void add_vector(glia_buf *b, const float *v, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    double scale = sum > 0 ? 1 / sqrt(sum) : 1;
    glia_buf_adds(b, "{\"embedding\":[");
    for (int32_t i = 0; i < n; i++) glia_buf_addf(b, i ? ",%.9g" : "%.9g", (double)(float)((double)v[i] * scale));
    glia_buf_adds(b, "]}");
}

static void woken(glia_channel *c) {
    embedding *e = (embedding *)c;
    const float *v;
    glia_err err = {0};
    if (!glia_embed_take(e->embed, &v, &err)) return;
    if (err.status) {
        glia_channel_fail(c, &err);
        return;
    }
    add_vector(glia_channel_open_message(c), v, e->n);
    glia_channel_close_message(c);
    glia_channel_close(c);
}

static void on_message(glia_channel *c, yyjson_val *message) { (void)c, (void)message; }

static void on_free(glia_channel *c) {
    embedding *e = (embedding *)c;
    glia_embed_free(e->embed);
    glia_app_release(glia_socket_app(c->socket), e->model);
    glia_free(e);
}

static glia_status open_embedding(glia_socket *s, yyjson_val *p, glia_channel **out, glia_err *err) {
    const char *name = NULL, *text = NULL;
    int32_t *tokens = NULL;
    size_t n = 0;
    glia_model_info info;
    embedding *e = glia_calloc(1, sizeof *e);
    if (!e) return glia_fail(err, GLIA_ENOMEM, "no memory for the text");
    e->channel = (glia_channel){.woken = woken, .message = on_message, .free = on_free, .socket = s};
    glia_status st = glia_lms_model_name(glia_json_get(p, "modelSpecifier"), &name, err);
    if (!st) st = glia_json_str(p, "", "inputString", &text, err);
    if (!st && !text) st = glia_fail_at(err, GLIA_EINVAL, "inputString", "inputString is missing: the text to embed");
    if (!st) st = glia_app_find(glia_socket_app(s), name, &e->model, err);
    if (!st) {
        glia_model_get_info(e->model, &info);
        e->n = info.n_vector;
        st = glia_model_tokenize(e->model, text, strlen(text), true, false, &tokens, &n, err);
    }
    if (!st) st = glia_embed_submit(&e->embed, e->model, tokens, n, info.pooling, glia_socket_wake, s, err);
    glia_free(tokens);
    if (st) on_free(&e->channel);
    else *out = &e->channel;
    return st;
}

const glia_endpoint glia_lms_embeddings[] = {
    {"embedding", "embedString", GLIA_SCOPE_INFER, NULL, open_embedding, true},
    {NULL, NULL, 0, NULL, NULL, false},
};

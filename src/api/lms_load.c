/* api/lms_load.c — LM Studio's SDKs list, load and unload models.  The connection's thread; a load is the registry's
 * (models/registry.h), and the channel watches it. */
#include "api/lms_info.h"
#include "api/lms_socket.h"
#include "api/lms_translate.h"
#include "api/model_view.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

static bool is_embedding(const glia_socket *s) { return !strcmp(glia_socket_space(s), "embedding"); }

static bool is_of_space(const glia_socket *s, const glia_model_file *f) {
    return glia_gguf_is_embedding(&f->head) == is_embedding(s);
}

/* ------------------------------------------------------------------ lists */

static glia_status on_downloaded(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    const glia_models *files;
    bool any = false;
    (void)p;
    glia_status st = glia_catalogue_get(glia_socket_app(s)->catalogue, 0, &files, err);
    if (st) return st;
    glia_buf_adds(out, "[");
    for (size_t i = 0; i < files->n; i++) {
        if (files->items[i].problem) continue; /* cannot be loaded */
        if (any) glia_buf_adds(out, ",");
        glia_add_lms_info(out, &files->items[i], NULL, glia_gguf_is_embedding(&files->items[i].head));
        any = true;
    }
    glia_buf_adds(out, "]");
    glia_models_unref(files);
    return GLIA_OK;
}

static glia_status on_loaded(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    glia_instances *l;
    bool any = false;
    (void)p;
    glia_status st = glia_registry_list(glia_socket_app(s)->models, &l, err);
    if (st) return st;
    glia_buf_adds(out, "[");
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i].state != GLIA_LOAD_READY || !is_of_space(s, l->items[i].file)) continue;
        if (any) glia_buf_adds(out, ",");
        glia_add_lms_info(out, l->items[i].file, &l->items[i], is_embedding(s));
        any = true;
    }
    glia_buf_adds(out, "]");
    glia_instances_free(glia_socket_app(s)->models, l);
    return GLIA_OK;
}

/* ------------------------------------------------------------------ one loaded model */

/* What add appends about the loaded model that a specifier names. */
static glia_status describe(glia_socket *s, yyjson_val *p, glia_buf *out, bool config, glia_err *err) {
    glia_app *app = glia_socket_app(s);
    glia_model *m = NULL;
    glia_model_info info;
    const char *name;
    glia_status st = glia_lms_model_name(glia_json_get(p, "specifier"), &name, err);
    if (!st) st = glia_app_find(app, name, &m, err);
    if (st) return st;
    glia_model_get_info(m, &info);
    if (config) glia_add_lms_load_config(out, &info);
    else glia_add_lms_instance(out, app, &info, is_embedding(s));
    glia_app_release(app, m);
    return GLIA_OK;
}

static glia_status on_info(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    bool must = true;
    glia_status st = glia_json_bool(p, "", "throwIfNotFound", &must, NULL, err);
    if (st) return st;
    st = describe(s, p, out, false, err);
    return !must && (st == GLIA_EMODEL || st == GLIA_EUNAVAILABLE) ? GLIA_OK : st; /* then there is no result */
}

static glia_status on_load_config(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    return describe(s, p, out, true, err);
}

static glia_status on_unload(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    const char *id = NULL;
    (void)out;
    glia_status st = glia_json_str(p, "", "identifier", &id, err);
    if (!st && !id) st = glia_fail_at(err, GLIA_EINVAL, "identifier", "identifier is missing: which model?");
    return st ? st : glia_registry_unload(glia_socket_app(s)->models, id, false, NULL, err);
}

/* ------------------------------------------------------------------ loading */

typedef struct loading {
    glia_channel channel; /* first: a channel is its loading */
    glia_watch *watch;
    bool or_get; /* getOrLoad, whose messages have other names */
    bool announced;
    float told; /* progress */
} loading;

static const glia_instance *instance_of(const glia_instances *l, const char *id) {
    for (size_t i = 0; l && i < l->n; i++) {
        if (!strcmp(l->items[i].id, id)) return &l->items[i];
    }
    return NULL;
}

/* {"type":type,"info":…}: of the instance, or of its file alone. */
static void send_info(loading *g, const char *type, const char *id, bool file_only) {
    glia_app *app = glia_socket_app(g->channel.socket);
    glia_instances *l = NULL;
    glia_buf *b = glia_channel_open_message(&g->channel);
    if (glia_registry_list(app->models, &l, NULL)) b->failed = true;
    const glia_instance *in = instance_of(l, id);
    glia_buf_addf(b, "{\"type\":\"%s\"", type);
    if (file_only && g->or_get) {
        glia_buf_adds(b, ",\"identifier\":");
        glia_json_add_cstr(b, id);
    }
    if (in) {
        glia_buf_adds(b, ",\"info\":");
        glia_add_lms_info(b, in->file, file_only ? NULL : in, is_embedding(g->channel.socket));
    }
    glia_buf_adds(b, "}");
    glia_instances_free(app->models, l);
    glia_channel_close_message(&g->channel);
}

static void send_progress(loading *g, float progress) {
    if (progress <= g->told) return;
    g->told = progress;
    glia_buf *b = glia_channel_open_message(&g->channel);
    glia_buf_addf(b, "{\"type\":\"%s\",\"progress\":%.4f}", g->or_get ? "loadProgress" : "progress", (double)progress);
    glia_channel_close_message(&g->channel);
}

static void woken(glia_channel *c) {
    loading *g = (loading *)c;
    glia_watched w;
    glia_watch_get(g->watch, &w);
    bool ready = w.state == GLIA_LOAD_READY || w.state == GLIA_LOAD_DRAINING;
    if (w.state == GLIA_LOAD_GONE) {
        glia_err err = w.err;
        if (!err.status) (void)glia_fail(&err, GLIA_ECANCELLED, "the model was unloaded meanwhile");
        glia_channel_fail(c, &err);
        return;
    }
    if (!g->announced && !(ready && g->or_get && w.was_there)) send_info(g, g->or_get ? "startLoading" : "resolved", w.id, true);
    g->announced = true;
    if (!ready) {
        send_progress(g, w.progress);
        return;
    }
    send_progress(g, 1);
    send_info(g, !g->or_get ? "success" : w.was_there ? "alreadyLoaded" : "loadSuccess", w.id, false);
    glia_channel_close(c);
}

static void on_message(glia_channel *c, yyjson_val *message) {
    if (yyjson_equals_str(glia_json_get(message, "type"), "cancel")) glia_watch_cancel(((loading *)c)->watch);
}

static void on_free(glia_channel *c) {
    loading *g = (loading *)c;
    if (g->watch) glia_watch_on_change(g->watch, NULL, NULL);
    glia_watch_free(g->watch);
    glia_free(g);
}

/* ---- what a stack of settings says of loading */

static glia_status read_int(yyjson_val *stack, const char *key, int32_t min, int32_t max, int32_t *out, glia_err *err) {
    yyjson_val *v = glia_lms_setting(stack, key);
    int64_t n;
    if (!v || yyjson_is_null(v)) return GLIA_OK;
    if (!glia_json_whole(v, &n) || n < min || n > max)
        return glia_fail_at(err, GLIA_EINVAL, key, "%s must be a whole number from %d to %d", key, (int)min, (int)max);
    *out = (int32_t)n;
    return GLIA_OK;
}

static glia_status read_flash(yyjson_val *stack, glia_flash *out, glia_err *err) {
    static const char key[] = "llm.load.llama.flashAttention";
    yyjson_val *v = glia_lms_setting(stack, key);
    if (!v || yyjson_is_null(v)) return GLIA_OK;
    if (!yyjson_is_bool(v)) return glia_fail_at(err, GLIA_EINVAL, key, "%s must be true or false", key);
    *out = yyjson_get_bool(v) ? GLIA_FLASH_ON : GLIA_FLASH_OFF;
    return GLIA_OK;
}

/* Layers of the model and its output, from its file; 0: not known before it is loaded. */
static int32_t layers_of(const glia_socket *s, const char *name) {
    const glia_models *files = NULL;
    const glia_model_file *f = NULL;
    if (!glia_catalogue_get(glia_socket_app(s)->catalogue, 1000, &files, NULL)) f = glia_models_find(files, name, NULL);
    int32_t n = f ? (int32_t)f->head.n_layer + 1 : 0;
    glia_models_unref(files);
    return n;
}

static glia_status read_offload(const glia_socket *s, const char *name, yyjson_val *stack, int32_t *out, glia_err *err) {
    static const char key[] = "llm.load.llama.acceleration.offloadRatio";
    int32_t n_layers;
    yyjson_val *v = glia_lms_setting(stack, key);
    if (!v || yyjson_is_null(v) || yyjson_equals_str(v, "max")) return GLIA_OK;
    if (yyjson_equals_str(v, "off")) *out = 0;
    else if (yyjson_is_num(v) && yyjson_get_num(v) >= 0 && yyjson_get_num(v) <= 1 && (n_layers = layers_of(s, name)) > 0)
        *out = (int32_t)(yyjson_get_num(v) * n_layers + 0.5);
    else return glia_fail_at(err, GLIA_EINVAL, key, "%s must be \"max\", \"off\" or a number from 0 to 1 (of a model in a folder)", key);
    return GLIA_OK;
}

/* Numbers of the cache: one type for keys and values. */
static glia_status read_cache(yyjson_val *stack, glia_kv_type *out, glia_err *err) {
    static const char *const keys[] = {"llm.load.llama.kCacheQuantizationType", "llm.load.llama.vCacheQuantizationType"};
    static const char *const names[] = {
#define X(id, name, bytes) name,
        GLIA_KV_MAP(X)
#undef X
    };
    int chosen[2] = {-1, -1};
    for (int i = 0; i < 2; i++) {
        yyjson_val *v = glia_lms_setting(stack, keys[i]), *value = glia_json_get(v, "value");
        if (!v || !yyjson_is_obj(v) || !yyjson_is_true(glia_json_get(v, "checked"))) continue;
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            if (yyjson_equals_str(value, names[k])) chosen[i] = (int)k;
        }
        if (chosen[i] < 0) return glia_fail_at(err, GLIA_EINVAL, keys[i], "%s: a type that this server does not have", keys[i]);
    }
    if (chosen[0] >= 0 && chosen[1] >= 0 && chosen[0] != chosen[1])
        return glia_fail_at(err, GLIA_EINVAL, keys[0], "keys and values of the cache have one type here");
    int which = chosen[0] >= 0 ? chosen[0] : chosen[1];
    if (which >= 0) *out = (glia_kv_type)which;
    return GLIA_OK;
}

static glia_status read_params(const glia_socket *s, const char *name, yyjson_val *stack, glia_model_params *p, glia_err *err) {
    bool embedding = is_embedding(s);
    *p = glia_registry_get_params(glia_socket_app(s)->models)->model;
    glia_status st = read_int(stack, embedding ? "embedding.load.contextLength" : "llm.load.contextLength", 16, 16 << 20, &p->n_ctx, err);
    if (!st) st = read_int(stack, embedding ? "embedding.load.llama.evalBatchSize" : "llm.load.llama.evalBatchSize", 32, 16384, &p->n_batch, err);
    if (!st) st = read_flash(stack, &p->flash, err);
    if (!st) st = read_offload(s, name, stack, &p->n_gpu_layers, err);
    return st ? st : read_cache(stack, &p->kv_type, err);
}

static glia_status open_load(glia_socket *s, yyjson_val *p, glia_channel **out, bool or_get, glia_err *err) {
    glia_registry *r = glia_socket_app(s)->models;
    glia_model_params params;
    const char *name = NULL, *id = NULL;
    int64_t ttl = 0;
    bool given = false;
    glia_status st = glia_json_str(p, "", or_get ? "identifier" : "modelKey", &name, err);
    if (!st && !or_get) st = glia_json_str(p, "", "identifier", &id, err);
    if (!st) st = glia_json_int(p, "", or_get ? "loadTtlMs" : "ttlMs", 1, INT64_MAX, &ttl, &given, err);
    if (!st && !name) st = glia_fail_at(err, GLIA_EINVAL, "modelKey", "which model?  modelKey, or identifier, is missing");
    if (!st) st = read_params(s, name, glia_json_get(p, "loadConfigStack"), &params, err);
    if (st) return st;
    loading *g = glia_calloc(1, sizeof *g);
    if (!g) return glia_fail(err, GLIA_ENOMEM, "no memory for the load");
    g->channel = (glia_channel){.woken = woken, .message = on_message, .free = on_free, .socket = s};
    g->or_get = or_get, g->told = -1;
    glia_load_options o = {.id = id, .params = &params, .ttl_ms = given ? ttl : or_get ? -1 : 0, .another = !or_get};
    st = or_get ? glia_registry_want(r, name, &o, &g->watch, err) : glia_registry_load(r, name, &o, &g->watch, err);
    if (st) {
        on_free(&g->channel);
        return st;
    }
    glia_watch_on_change(g->watch, glia_socket_wake, s);
    *out = &g->channel;
    return GLIA_OK;
}

static glia_status open_load_model(glia_socket *s, yyjson_val *p, glia_channel **out, glia_err *err) {
    return open_load(s, p, out, false, err);
}

/* A key that may only use what is there cannot have a model loaded; it may ask for one that is. */
static glia_status open_get_or_load(glia_socket *s, yyjson_val *p, glia_channel **out, glia_err *err) {
    return open_load(s, p, out, true, err);
}

#define BOTH(space)                                                                                                    \
    {space, "listLoaded", GLIA_SCOPE_READ, on_loaded, NULL, false}, {space, "getModelInfo", GLIA_SCOPE_READ, on_info, NULL, false},  \
        {space, "getLoadConfig", GLIA_SCOPE_READ, on_load_config, NULL, false},                                               \
        {space, "unloadModel", GLIA_SCOPE_ADMIN, on_unload, NULL, false},                                                     \
        {space, "loadModel", GLIA_SCOPE_ADMIN, NULL, open_load_model, false},                                                 \
        {space, "getOrLoad", GLIA_SCOPE_INFER, NULL, open_get_or_load, false}

const glia_endpoint glia_lms_loads[] = {
    BOTH("llm"),
    BOTH("embedding"),
    {"system", "listDownloadedModels", GLIA_SCOPE_READ, on_downloaded, NULL, false},
    {NULL, NULL, 0, NULL, NULL, false},
};

/* api/neuroscope.c — small routes of NeuroScope's clients: hooks that are registered with a model, and the status.
 * HTTP threads. */
#include "api/activations.h"
#include "api/handlers.h"
#include "api/json.h"
#include "api/registered.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ registered hooks */

/* "activation_hooks…" is this body's "hooks…"; entries behind n_old are the new ones. */
static void fix_param(glia_err *err, size_t n_old) {
    static const char name[] = "activation_hooks";
    char param[sizeof err->param];
    size_t n = sizeof name - 1;
    if (strncmp(err->param, name, n) != 0) return;
    unsigned long i;
    int used = 0;
    if (sscanf(err->param + n, "[%lu]%n", &i, &used) == 1 && used && i >= n_old)
        (void)snprintf(param, sizeof param, "hooks[%lu]%s", i - (unsigned long)n_old, err->param + n + used);
    else (void)snprintf(param, sizeof param, "hooks%s", err->param + n);
    memcpy(err->param, param, sizeof param);
}

/* Whether the model has every one of these points: the engine checks them as it would for a request. */
static glia_status check_points(const glia_model *m, const glia_acts *acts, glia_err *err) {
    static const int32_t token = 0;
    glia_request_params p;
    uint64_t bytes;
    glia_request_params_init(&p);
    p.prompt = &token, p.n_prompt = 1, p.max_tokens = 1;
    p.hooks = acts->hooks, p.n_hooks = acts->n;
    glia_status st = glia_request_capture_bytes(m, &p, &bytes, err);
    if (st) glia_acts_fix_param(acts, err);
    return st;
}

static const char *hook_id_of(yyjson_val *hook) {
    yyjson_val *id = yyjson_is_obj(hook) ? glia_json_get(hook, "hook_id") : NULL;
    return id ? yyjson_get_str(id) : NULL;
}

/* Whether one of the new hooks takes the place of this one. */
static bool is_replaced(yyjson_val *old, yyjson_val *fresh) {
    const char *id = hook_id_of(old), *other;
    yyjson_arr_iter it;
    yyjson_val *v;
    if (!id) return false;
    for (yyjson_arr_iter_init(fresh, &it); (v = yyjson_arr_iter_next(&it));) {
        if ((other = hook_id_of(v)) && !strcmp(id, other)) return true;
    }
    return false;
}

static void add_hook(glia_buf *list, yyjson_val *hook, size_t *n) {
    size_t size;
    char *text = yyjson_val_write(hook, 0, &size);
    if ((*n)++) glia_buf_adds(list, ",");
    if (text) glia_buf_add(list, text, size);
    else list->failed = true;
    free(text);
}

/* The old hooks that stay, then the new ones, as a JSON array. */
static glia_status merge(yyjson_val *old, yyjson_val *fresh, glia_buf *list, size_t *n_old, size_t *n, glia_err *err) {
    yyjson_arr_iter it;
    yyjson_val *v;
    *n = 0;
    glia_buf_adds(list, "[");
    if (old) {
        for (yyjson_arr_iter_init(old, &it); (v = yyjson_arr_iter_next(&it));) {
            if (!is_replaced(v, fresh)) add_hook(list, v, n);
        }
    }
    *n_old = *n;
    for (yyjson_arr_iter_init(fresh, &it); (v = yyjson_arr_iter_next(&it));) add_hook(list, v, n);
    glia_buf_adds(list, "]");
    return list->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the hooks") : GLIA_OK;
}

static glia_status hooks_of_body(yyjson_val *root, yyjson_val **out, glia_err *err) {
    yyjson_val *hooks = glia_json_get(root, "hooks");
    if (!hooks) hooks = glia_json_get(root, "activation_hooks");
    if (hooks && !yyjson_is_arr(hooks))
        return glia_fail_at(err, GLIA_EINVAL, "hooks", "hooks must be a list, not %s", glia_json_kind(hooks));
    if (!hooks || !yyjson_arr_size(hooks)) {
        return glia_fail_at(err, GLIA_EINVAL, "hooks",
                            "hooks is %s: name at least one, e.g. {\"layer\": 5, \"component\": \"resid_post\"}",
                            hooks ? "empty" : "missing");
    }
    *out = hooks;
    return GLIA_OK;
}

/* All hooks of the model, old and new, as one request would read them: names, limits and keys are checked together. */
static glia_status parse_list(const glia_model *m, const glia_buf *list, glia_acts *acts, glia_err *err) {
    glia_buf body = {0};
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    glia_model_info info;
    glia_model_get_info(m, &info);
    glia_buf_addf(&body, "{\"activation_hooks\":%s}", list->p);
    glia_status st = body.failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the hooks")
                                 : glia_json_parse_object(&doc, &root, body.p, body.n, err);
    if (!st) st = glia_acts_parse(acts, root, NULL, true, info.n_layer, info.arch, err);
    if (!st) st = check_points(m, acts, err);
    yyjson_doc_free(doc);
    glia_buf_clear(&body);
    return st;
}

static glia_status add_hooks(glia_app *app, yyjson_val *root, const glia_model *m, glia_buf *reply, glia_err *err) {
    yyjson_val *fresh = NULL;
    yyjson_doc *old = NULL;
    uint64_t version = 0;
    glia_buf list = {0};
    glia_acts acts = {0};
    size_t n_old = 0, n = 0;
    glia_model_info info;
    glia_model_get_info(m, &info);
    glia_status st = hooks_of_body(root, &fresh, err);
    if (!st) st = glia_registered_get(app->registered, info.id, &old, &version, err);
    if (!st) st = merge(old ? yyjson_doc_get_root(old) : NULL, fresh, &list, &n_old, &n, err);
    if (!st && (st = parse_list(m, &list, &acts, err))) fix_param(err, n_old);
    if (!st) st = glia_registered_set(app->registered, info.id, version, list.p, n, err);
    if (!st) {
        glia_buf_adds(reply, "{\"status\":\"hooks_registered\",\"model\":");
        glia_json_add_cstr(reply, info.id);
        glia_buf_adds(reply, ",\"registered_hooks\":[");
        bool any = false;
        size_t last = SIZE_MAX;
        for (size_t i = 0; i < acts.n; i++) {
            if (acts.labels[i].source < n_old || acts.labels[i].group == last) continue;
            last = acts.labels[i].group;
            if (any) glia_buf_adds(reply, ",");
            glia_json_add_cstr(reply, acts.keys[last]);
            any = true;
        }
        glia_buf_addf(reply, "],\"total\":%zu}\n", n);
    }
    glia_acts_clear(&acts);
    glia_buf_clear(&list);
    yyjson_doc_free(old);
    return st;
}

static void finish(glia_http_request *rq, glia_status st, glia_buf *reply, const glia_err *err) {
    if (!st) {
        glia_reply_json(rq, reply);
        return;
    }
    glia_buf_clear(reply);
    (void)glia_http_reply_error(rq, err);
}

void glia_on_hooks_register(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_err err;
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    glia_model *m = NULL;
    glia_buf reply = {0};
    const char *model = NULL;
    size_t n;
    const char *body = glia_http_body(rq, &n);
    glia_status st = glia_json_parse_object(&doc, &root, body, n, &err);
    if (!st) st = glia_json_str(root, "", "model", &model, &err);
    if (!st) st = glia_app_find(app, model, &m, &err);
    if (!st) st = add_hooks(app, root, m, &reply, &err);
    glia_app_release(app, m);
    yyjson_doc_free(doc);
    finish(rq, st, &reply, &err);
}

void glia_on_hooks_registered(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_err err;
    glia_model *m = NULL;
    yyjson_doc *doc = NULL;
    glia_buf reply = {0};
    glia_model_info info = {0};
    glia_status st = glia_app_find(app, glia_http_query(rq, "model"), &m, &err);
    if (!st) {
        glia_model_get_info(m, &info);
        st = glia_registered_get(app->registered, info.id, &doc, NULL, &err);
    }
    if (!st) {
        glia_buf_adds(&reply, "{\"model\":");
        glia_json_add_cstr(&reply, info.id);
        glia_buf_adds(&reply, ",\"hooks\":");
        char *text = doc ? yyjson_write(doc, 0, NULL) : NULL;
        if (doc && !text) reply.failed = true;
        glia_buf_adds(&reply, text ? text : "[]");
        glia_buf_adds(&reply, "}\n");
        free(text);
    }
    glia_app_release(app, m);
    yyjson_doc_free(doc);
    finish(rq, st, &reply, &err);
}

/* The id that hooks are kept under: a model that was unloaded has them still. */
static glia_status model_id(glia_app *app, const char *name, char *id, size_t cap, glia_err *err) {
    glia_model *m = NULL;
    yyjson_doc *doc = NULL;
    glia_err ignored;
    glia_status st = glia_app_find(app, name, &m, err);
    if (!st) {
        glia_model_info info;
        glia_model_get_info(m, &info);
        (void)snprintf(id, cap, "%s", info.id);
        glia_app_release(app, m);
        return GLIA_OK;
    }
    if (!name || strlen(name) >= cap || glia_registered_get(app->registered, name, &doc, NULL, &ignored) || !doc) return st;
    yyjson_doc_free(doc);
    (void)snprintf(id, cap, "%s", name);
    return GLIA_OK;
}

void glia_on_hooks_clear(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_err err;
    yyjson_doc *old = NULL;
    uint64_t version = 0;
    glia_buf reply = {0};
    char id[512];
    glia_status st = model_id(app, glia_http_query(rq, "model"), id, sizeof id, &err);
    if (!st) st = glia_registered_get(app->registered, id, &old, &version, &err);
    if (!st) st = glia_registered_set(app->registered, id, version, NULL, 0, &err);
    if (!st) {
        glia_buf_adds(&reply, "{\"status\":\"hooks_cleared\",\"model\":");
        glia_json_add_cstr(&reply, id);
        glia_buf_addf(&reply, ",\"cleared\":%zu}\n", old ? yyjson_arr_size(yyjson_doc_get_root(old)) : (size_t)0);
    }
    yyjson_doc_free(old);
    finish(rq, st, &reply, &err);
}

/* ------------------------------------------------------------------ status */

void glia_on_status(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_instances *l;
    glia_err err;
    if (glia_registry_list(app->models, &l, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    size_t n = 0;
    glia_buf b = {0}, ids = {0};
    const char *current = NULL;
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i].state != GLIA_LOAD_READY) continue;
        if (n++) glia_buf_adds(&ids, ",");
        else current = l->items[i].id;
        glia_json_add_cstr(&ids, l->items[i].id);
    }
    glia_buf_addf(&b, "{\"status\":\"%s\",\"service\":\"glia\",\"version\":\"%s\",\"current_model\":",
                  n || atomic_load(&app->started) ? "healthy" : "loading", glia_version());
    glia_json_add_cstr(&b, current);
    glia_buf_addf(&b, ",\"models\":[%s],\"models_loaded\":%zu,\"requests_live\":%zu,\"tasks_running\":%zu,\"registered_hooks\":",
                  ids.p ? ids.p : "", n, glia_http_live(rq), glia_tasks_n_running(app->tasks));
    if (ids.failed) b.failed = true;
    glia_registered_counts(app->registered, &b);
    glia_buf_adds(&b, "}\n");
    glia_buf_clear(&ids);
    glia_instances_free(app->models, l);
    glia_reply_json(rq, &b);
}

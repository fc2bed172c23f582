/* api/model_load.c — loading, unloading and estimating over LM Studio's REST API v1.
 *
 * Bodies are read strictly: an unknown key is an error.  Loads and unloads are tasks that answer when they are done; a
 * client that leaves cancels a load that nobody else waits for.  HTTP threads and threads of tasks. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/load.h"
#include "api/model_view.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

enum { POLL_MS = 100 };

/* ------------------------------------------------------------------ the body of a load */

static const char *const load_keys[] = {"model",
                                        "context_length",
                                        "eval_batch_size",
                                        "flash_attention",
                                        "num_experts",
                                        "offload_kv_cache_to_gpu",
                                        "echo_load_config",
                                        "identifier",
                                        "ttl",
                                        "parallel",
                                        "kv_cache_type",
                                        "gpu_layers",
                                        "new_instance",
                                        NULL};
static const char *const unload_keys[] = {"instance_id", "when_busy", NULL};

glia_status glia_json_only(yyjson_val *root, const char *const *keys, glia_err *err) {
    yyjson_val *key;
    yyjson_obj_iter it;
    yyjson_obj_iter_init(root, &it);
    while ((key = yyjson_obj_iter_next(&it))) {
        bool known = false;
        for (size_t i = 0; keys[i] && !known; i++) known = !strcmp(yyjson_get_str(key), keys[i]);
        if (!known)
            return glia_fail_at(err, GLIA_EINVAL, yyjson_get_str(key), "unrecognized key \"%.60s\" in the request body",
                                yyjson_get_str(key));
    }
    return GLIA_OK;
}

static glia_status parse_size(yyjson_val *root, const char *key, int64_t min, int64_t max, int32_t *out,
                              glia_err *err) {
    int64_t v = *out;
    glia_status st = glia_json_int(root, "", key, min, max, &v, NULL, err);
    if (!st) *out = (int32_t)v;
    return st;
}

static glia_status parse_kv_type(yyjson_val *root, glia_kv_type *out, glia_err *err) {
    static const char *const names[] = {
#define X(id, name, bytes) name,
        GLIA_KV_MAP(X)
#undef X
    };
    enum { N = sizeof names / sizeof *names };
    char known[160] = "";
    const char *s = NULL;
    glia_status st = glia_json_str(root, "", "kv_cache_type", &s, err);
    if (st || !s) return st;
    for (int i = 0; i < N; i++) {
        size_t at = strlen(known);
        (void)snprintf(known + at, sizeof known - at, "%s%s", at ? ", " : "", names[i]);
        if (strcmp(s, names[i]) != 0) continue;
        *out = (glia_kv_type)i;
        return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, "kv_cache_type", "kv_cache_type must be one of %s", known);
}

/* What this engine cannot change is refused unless it is what the model does anyway. */
static glia_status check_fixed(glia_app *app, yyjson_val *root, const char *model, glia_err *err) {
    int64_t experts = 0;
    bool offload = true, given = false, given_experts = false;
    glia_status st = glia_json_int(root, "", "num_experts", 1, 100000, &experts, &given_experts, err);
    if (!st) st = glia_json_bool(root, "", "offload_kv_cache_to_gpu", &offload, &given, err);
    if (st) return st;
    if (given && !offload && glia_has_gpu()) {
        return glia_fail_at(err, GLIA_EINVAL, "offload_kv_cache_to_gpu",
                            "offload_kv_cache_to_gpu: false is not possible here: the cache lies where its layer does");
    }
    if (!given_experts) return GLIA_OK;
    glia_view_models v;
    const glia_instance *in;
    const glia_model_file *f;
    if ((st = glia_view_open(&v, app, err))) return st;
    uint64_t used =
        !glia_view_find(&v, glia_registry_unalias(app->models, model), &in, &f, err) ? f->head.n_expert_used : 0;
    glia_view_clear(&v);
    if (used == (uint64_t)experts) return GLIA_OK;
    if (!used) return glia_fail_at(err, GLIA_EINVAL, "num_experts", "num_experts: this model has no experts");
    return glia_fail_at(err, GLIA_EINVAL, "num_experts", "num_experts cannot be changed: this model uses %llu",
                        (unsigned long long)used);
}

glia_status glia_load_parse(glia_app *app, yyjson_val *root, glia_load_request *out, glia_err *err) {
    bool flash = false, given = false;
    double ttl = 0;
    glia_status st;
    *out = (glia_load_request){.app = app, .params = glia_registry_get_params(app->models)->model};
    if ((st = glia_json_only(root, load_keys, err))) return st;
    if ((st = glia_json_str(root, "", "model", &out->model, err))) return st;
    if (!out->model || !out->model[0])
        return glia_fail_at(err, GLIA_EINVAL, "model", "model is missing: the key of a model, see GET /api/v1/models");
    if ((st = glia_json_str(root, "", "identifier", &out->identifier, err))) return st;
    if ((st = parse_size(root, "context_length", 16, 16 << 20, &out->params.n_ctx, err))) return st;
    if ((st = parse_size(root, "eval_batch_size", 32, 16384, &out->params.n_batch, err))) return st;
    if ((st = parse_size(root, "parallel", 1, 256, &out->params.n_parallel, err))) return st;
    if ((st = parse_size(root, "gpu_layers", -1, 100000, &out->params.n_gpu_layers, err))) return st;
    if ((st = parse_kv_type(root, &out->params.kv_type, err))) return st;
    if ((st = glia_json_bool(root, "", "echo_load_config", &out->echo, NULL, err))) return st;
    if ((st = glia_json_bool(root, "", "new_instance", &out->another, NULL, err))) return st;
    if ((st = glia_json_bool(root, "", "flash_attention", &flash, &given, err))) return st;
    if (given) out->params.flash = flash ? GLIA_FLASH_ON : GLIA_FLASH_OFF;
    given = false;
    if ((st = glia_json_num(root, "", "ttl", 0.001, 1e9, &ttl, &given, err))) return st;
    out->ttl_ms = given ? (int64_t)(ttl * 1000) : 0;
    return check_fixed(app, root, out->model, err);
}

/* ------------------------------------------------------------------ load */

void glia_load_request_free(void *ud) {
    glia_load_request *l = ud;
    if (!l) return;
    yyjson_doc_free(l->doc);
    glia_free(l);
}

glia_status glia_load_run(glia_load_request *l, glia_task *t, glia_watch **out, glia_watched *now, glia_err *err) {
    glia_load_options o = {.id = l->identifier, .params = &l->params, .ttl_ms = l->ttl_ms, .another = l->another};
    glia_status st = glia_registry_load(l->app->models, l->model, &o, out, err);
    if (st) return st;
    do {
        if (glia_task_cancelled(t)) glia_watch_cancel(*out);
        (void)glia_watch_wait(*out, GLIA_LOAD_LOADING, POLL_MS);
        glia_watch_get(*out, now);
        glia_task_progress(t, (double)now->progress, NULL);
        if (glia_task_cancelled(t) && now->state == GLIA_LOAD_LOADING) break; /* others wait for it: leave it to them */
    } while (now->state == GLIA_LOAD_LOADING);
    if (now->state == GLIA_LOAD_READY) return GLIA_OK;
    *err = now->err;
    st = err->status ? err->status : glia_fail(err, GLIA_ECANCELLED, "the load was cancelled");
    glia_watch_free(*out);
    *out = NULL;
    return st;
}

static glia_status load_work(glia_task *t, void *ud, glia_buf *b, glia_err *err) {
    glia_load_request *l = ud;
    glia_watch *w = NULL;
    glia_watched now;
    glia_status st = glia_load_run(l, t, &w, &now, err);
    if (st) return st;
    glia_model_file f;
    if (!(st = glia_model_file_of_path(&f, now.path, err))) {
        glia_buf_addf(b, "{\"type\":\"%s\",\"instance_id\":", glia_gguf_is_embedding(&f.head) ? "embedding" : "llm");
        glia_json_add_cstr(b, now.id);
        glia_buf_adds(b, ",\"load_time_seconds\":");
        glia_json_add_num(b, now.was_there ? 0 : now.load_seconds);
        glia_buf_adds(b, ",\"status\":\"loaded\"");
        if (l->echo) {
            glia_buf_adds(b, ",\"load_config\":");
            glia_add_load_config(b, &f, now.model, &l->params);
        }
        glia_buf_adds(b, "}");
        glia_model_file_clear(&f);
    }
    glia_watch_free(w);
    return st;
}

/* The body of rq, parsed; on failure the reply is given. */
static bool open_body(glia_http_request *rq, yyjson_doc **doc, yyjson_val **root) {
    size_t n;
    glia_err err;
    const char *body = glia_http_body(rq, &n);
    if (!glia_json_parse_object(doc, root, body, n, &err)) return true;
    (void)glia_http_reply_error(rq, &err);
    return false;
}

void glia_load_serve(glia_app *app, glia_http_request *rq, glia_load_parser parse,
                     glia_status (*work)(glia_task *t, void *ud, glia_buf *reply, glia_err *err)) {
    glia_err err;
    yyjson_doc *doc;
    yyjson_val *root;
    if (!open_body(rq, &doc, &root)) return;
    glia_load_request parsed, *l;
    glia_status st = parse(app, root, &parsed, &err);
    if (!st && !(l = glia_memdup(&parsed, sizeof parsed)))
        st = glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
    if (st) {
        yyjson_doc_free(doc);
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    l->doc = doc;
    glia_task_serve(app->tasks, rq,
                    &(glia_task_params){.kind = "load", .work = work, .ud = l, .free_ud = glia_load_request_free});
}

void glia_on_v1_load(void *ud, glia_http_request *rq) { glia_load_serve(ud, rq, glia_load_parse, load_work); }

/* ------------------------------------------------------------------ unload */

typedef struct unload {
    glia_app *app;
    glia_watch *watch;
} unload;

static glia_status unload_work(glia_task *t, void *ud, glia_buf *b, glia_err *err) {
    unload *u = ud;
    glia_watched now;
    do {
        if (glia_task_cancelled(t))
            return glia_fail(err, GLIA_ECANCELLED, "the client left; the model is unloaded all the same");
        glia_watch_get(u->watch, &now);
        (void)glia_watch_wait(u->watch, now.state, POLL_MS);
    } while (now.state != GLIA_LOAD_GONE);
    glia_buf_adds(b, "{\"instance_id\":");
    glia_json_add_cstr(b, now.id);
    glia_buf_adds(b, "}");
    return GLIA_OK;
}

static void unload_free(void *ud) {
    unload *u = ud;
    glia_watch_free(u->watch);
    glia_free(u);
}

static glia_status parse_unload(yyjson_val *root, const char **id, bool *refuse, glia_err *err) {
    const char *when = NULL;
    glia_status st = glia_json_only(root, unload_keys, err);
    if (!st) st = glia_json_str(root, "", "instance_id", id, err);
    if (!st && !*id)
        st = glia_fail_at(err, GLIA_EINVAL, "instance_id", "instance_id is missing: the id of a loaded model");
    if (!st) st = glia_json_str(root, "", "when_busy", &when, err);
    if (st) return st;
    *refuse = when && !strcmp(when, "refuse");
    if (when && !*refuse && strcmp(when, "drain") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "when_busy",
                            "when_busy must be drain (wait for requests under way) or refuse");
    return GLIA_OK;
}

void glia_on_v1_unload(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    const char *id = NULL;
    bool refuse = false;
    glia_err err;
    yyjson_doc *doc;
    yyjson_val *root;
    if (!open_body(rq, &doc, &root)) return;
    unload *u = glia_calloc(1, sizeof *u);
    glia_status st =
        u ? parse_unload(root, &id, &refuse, &err) : glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
    if (!st) st = glia_registry_unload(app->models, id, refuse, &u->watch, &err);
    yyjson_doc_free(doc);
    if (st) {
        glia_free(u);
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    u->app = app;
    glia_task_serve(app->tasks, rq,
                    &(glia_task_params){.kind = "unload", .work = unload_work, .ud = u, .free_ud = unload_free});
}

/* ------------------------------------------------------------------ estimate */

void glia_on_v1_estimate(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_err err;
    yyjson_doc *doc;
    yyjson_val *root;
    glia_load_request l;
    glia_footprint f;
    if (!open_body(rq, &doc, &root)) return;
    glia_status st = glia_load_parse(app, root, &l, &err);
    if (!st) st = glia_registry_estimate(app->models, l.model, &l.params, &f, &err);
    yyjson_doc_free(doc);
    if (st) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    uint64_t budget = glia_registry_get_params(app->models)->budget;
    glia_buf b = {0};
    glia_buf_addf(
        &b,
        "{\"total_bytes\":%llu,\"weights_bytes\":%llu,\"kv_cache_bytes\":%llu,\"compute_bytes\":%llu,\"budget_bytes\":",
        (unsigned long long)f.total, (unsigned long long)f.weights, (unsigned long long)f.cache,
        (unsigned long long)f.compute);
    if (budget) glia_buf_addf(&b, "%llu", (unsigned long long)budget);
    else glia_buf_adds(&b, "null");
    glia_buf_adds(&b, "}\n");
    glia_reply_json(rq, &b);
}

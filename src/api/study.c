/* api/study.c — see study.h. */
#include "api/study.h"
#include "api/prompt.h"
#include "base/err.h"
#include "base/mem.h"
#include "tap/names.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void study_free(void *ud) {
    glia_study *s = ud;
    if (!s) return;
    if (s->free_own) s->free_own(s->own);
    glia_app_release(s->app, s->m);
    glia_free(s->tokens);
    glia_free(s->layers);
    yyjson_doc_free(s->doc);
    glia_free(s);
}

typedef struct run {
    glia_study *s;
    const glia_study_route *route;
} run;

static void run_free(void *ud) {
    run *r = ud;
    if (r) study_free(r->s);
    glia_free(r);
}

static glia_status run_work(glia_task *t, void *ud, glia_buf *result, glia_err *err) {
    run *r = ud;
    r->s->task = t;
    return r->route->work(r->s, result, err);
}

static glia_status open_study(void *ud, glia_http_request *rq, const glia_study_route *route, run **out,
                              glia_err *err) {
    size_t n;
    const char *body = glia_http_body(rq, &n), *id = NULL;
    glia_status st;
    run *r = glia_calloc(1, sizeof *r);
    glia_study *s = r ? r->s = glia_calloc(1, sizeof *r->s) : NULL;
    if (!s) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the request");
        goto fail;
    }
    r->route = route, s->app = ud;
    (void)clock_gettime(CLOCK_MONOTONIC, &s->began);
    if (!s->app->tasks) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for tasks");
        goto fail;
    }
    if ((st = glia_json_parse_object(&s->doc, &s->root, body, n, err))) goto fail;
    if (route->needs_model) {
        if ((st = glia_json_str(s->root, "", "model", &id, err))) goto fail;
        if ((st = glia_app_find(s->app, id, &s->m, err))) goto fail;
        glia_model_get_info(s->m, &s->info);
    }
    *out = r;
    return GLIA_OK;
fail:
    run_free(r);
    return st;
}

void glia_study_serve(void *ud, glia_http_request *rq, const glia_study_route *route) {
    run *r;
    glia_err err;
    if (open_study(ud, rq, route, &r, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_task_serve(r->s->app->tasks, rq, &(glia_task_params){route->kind, route->description, run_work, r, run_free});
}

void glia_study_start_checked(void *ud, glia_http_request *rq, const glia_study_route *route,
                              glia_status (*check)(const glia_study *s, glia_err *err)) {
    run *r = NULL;
    glia_err err;
    char id[GLIA_TASK_ID];
    glia_app *app = ud;
    glia_status st = open_study(ud, rq, route, &r, &err);
    if (!st && check && (st = check(r->s, &err))) run_free(r);
    if (!st) {
        st = glia_tasks_start(app->tasks, &(glia_task_params){route->kind, route->description, run_work, r, run_free},
                              id, &err); /* takes r, also on failure */
    }
    if (st) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf b = {0};
    glia_buf_addf(&b, "{\"success\":true,\"task_id\":\"%s\",\"status\":\"started\",\"message\":", id);
    glia_buf_addf(&b, "\"GET /v1/tasks/status/%s answers progress and result\"}\n", id);
    size_t n;
    char *body = glia_buf_take(&b, &n);
    if (body) {
        (void)glia_http_reply_take(rq, 200, "application/json", body, n);
        return;
    }
    (void)glia_fail(&err, GLIA_ENOMEM, "no memory for the reply");
    (void)glia_http_reply_error(rq, &err);
}

void glia_study_start(void *ud, glia_http_request *rq, const glia_study_route *route) {
    glia_study_start_checked(ud, rq, route, NULL);
}

bool glia_study_tell(void *study, double fraction) {
    glia_study *s = study;
    glia_task_progress(s->task, fraction, NULL);
    return !glia_task_cancelled(s->task);
}

double glia_study_ms(const glia_study *s) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - s->began.tv_sec) * 1e3 + (double)(now.tv_nsec - s->began.tv_nsec) / 1e6;
}

/* ------------------------------------------------------------------ prompt and layers */

static glia_status check_length(const glia_study *s, size_t n, const char *param, glia_err *err) {
    if (n <= (size_t)s->info.n_ctx) return GLIA_OK;
    return glia_fail_at(err, GLIA_ECONTEXT, param, "%s has %zu tokens, the context of this model holds %d", param, n,
                        (int)s->info.n_ctx);
}

glia_status glia_study_prompt(glia_study *s, glia_err *err) {
    bool chat = glia_json_get(s->root, "messages") && !glia_json_get(s->root, "prompt");
    glia_status st;
    if (chat) {
        st = glia_prompt_chat(s->m, s->root, &s->tokens, &s->n_tokens, NULL, err);
    } else {
        if (glia_json_get(s->root, "prompt") && glia_prompt_count(s->root) > 1)
            return glia_fail_at(err, GLIA_EINVAL, "prompt", "prompt must be one text or one list of token ids");
        st = glia_prompt_completion(s->m, s->root, 0, &s->tokens, &s->n_tokens, NULL, err);
    }
    return st ? st : check_length(s, s->n_tokens, chat ? "messages" : "prompt", err);
}

glia_status glia_study_prompt_at(const glia_study *s, const char *key, int32_t **out, size_t *n, glia_err *err) {
    yyjson_val *v = glia_json_get(s->root, key);
    glia_status st;
    *out = NULL, *n = 0;
    if (!v) return GLIA_OK;
    if (yyjson_is_str(v)) {
        st = glia_prompt_text(s->m, yyjson_get_str(v), yyjson_get_len(v), key, true, true, out, n, err);
    } else if (yyjson_is_arr(v)) {
        st = glia_prompt_ids(s->m, v, key, out, n, err);
    } else {
        st = glia_fail_at(err, GLIA_EINVAL, key, "%s must be a text or a list of token ids, not %s", key,
                          glia_json_kind(v));
    }
    if (!st && !*n) st = glia_fail_at(err, GLIA_EINVAL, key, "%s is empty: the model needs at least one token", key);
    if (!st) st = check_length(s, *n, key, err);
    if (st) glia_free(*out), *out = NULL, *n = 0;
    return st;
}

static glia_status one_layer(const glia_study *s, yyjson_val *v, const char *path, int32_t *out, bool *all,
                             glia_err *err) {
    int64_t whole;
    glia_hook_target t;
    *all = false;
    if (glia_json_whole(v, &whole)) {
        if (whole < -(int64_t)s->info.n_layer || whole >= s->info.n_layer) {
            return glia_fail_at(err, GLIA_EINVAL, path, "%s: no layer %lld, this model has %d (0 to %d)", path,
                                (long long)whole, (int)s->info.n_layer, (int)s->info.n_layer - 1);
        }
        *out = (int32_t)(whole < 0 ? whole + s->info.n_layer : whole);
        return GLIA_OK;
    }
    if (!yyjson_is_str(v)) {
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be a layer's number or name, not %s", path,
                            glia_json_kind(v));
    }
    glia_hook_spec spec = {.layer_name = yyjson_get_str(v), .output = true};
    glia_status st = glia_names_resolve(&spec, s->info.n_layer, s->info.arch, &t, err);
    if (!st && !t.all_layers && t.layer < 0)
        st = glia_fail(err, GLIA_EINVAL, "%s: \"%.80s\" belongs to no layer", path, spec.layer_name);
    if (st) {
        if (err) (void)strncpy(err->param, path, sizeof err->param - 1);
        return st;
    }
    *all = t.all_layers, *out = t.layer;
    return GLIA_OK;
}

static int by_layer(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

glia_status glia_study_layers(glia_study *s, const char *key, glia_err *err) {
    return glia_study_layers_of(s, glia_json_get(s->root, key), key, err);
}

glia_status glia_study_layers_of(glia_study *s, yyjson_val *list, const char *key, glia_err *err) {
    if (!list) return GLIA_OK;
    if (!yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, key, "%s must be a list of layers, not %s", key, glia_json_kind(list));
    size_t n = yyjson_arr_size(list), n_out = 0;
    if (!n) return GLIA_OK; /* the reference clients send [] for every layer */
    if (n > 4096) return glia_fail_at(err, GLIA_EINVAL, key, "%s: at most 4096 entries", key);
    if (!(s->layers = glia_malloc(n * sizeof *s->layers))) return glia_fail(err, GLIA_ENOMEM, "no memory for %s", key);
    for (size_t i = 0; i < n; i++) {
        char path[64];
        bool all;
        (void)snprintf(path, sizeof path, "%s[%zu]", key, i);
        glia_status st = one_layer(s, yyjson_arr_get(list, i), path, &s->layers[i], &all, err);
        if (st) return st;
        if (!all) continue;
        glia_free(s->layers);
        s->layers = NULL;
        return GLIA_OK;
    }
    qsort(s->layers, n, sizeof *s->layers, by_layer);
    for (size_t i = 0; i < n; i++) {
        if (!n_out || s->layers[i] != s->layers[n_out - 1]) s->layers[n_out++] = s->layers[i];
    }
    s->n_layers = n_out;
    return GLIA_OK;
}

/* A token: its id, or a text that is one token. */
glia_status glia_study_token_of(const glia_study *s, yyjson_val *v, const char *path, int32_t *out, glia_err *err) {
    int64_t whole;
    if (glia_json_whole(v, &whole)) {
        if (whole < 0 || whole >= s->info.n_vocab) {
            return glia_fail_at(err, GLIA_EINVAL, path, "%s: no token %lld, the vocabulary has %d", path,
                                (long long)whole, (int)s->info.n_vocab);
        }
        *out = (int32_t)whole;
        return GLIA_OK;
    }
    if (!yyjson_is_str(v))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be a token's id or its text, not %s", path,
                            glia_json_kind(v));
    int32_t *ids;
    size_t n;
    glia_status st = glia_prompt_text(s->m, yyjson_get_str(v), yyjson_get_len(v), path, false, true, &ids, &n, err);
    if (st) return st;
    if (n == 1) *out = ids[0];
    else
        st = glia_fail_at(err, GLIA_EINVAL, path,
                          "%s: this text is %zu tokens, one is needed (mind the space before a word), or a token's id",
                          path, n);
    glia_free(ids);
    return st;
}

glia_status glia_study_token(const glia_study *s, const char *key, int32_t *out, glia_err *err) {
    yyjson_val *v = glia_json_get(s->root, key);
    return v ? glia_study_token_of(s, v, key, out, err) : GLIA_OK;
}

/* ------------------------------------------------------------------ writing */

void glia_json_add_real(glia_buf *b, double x) {
    if (isfinite(x)) glia_buf_addf(b, "%.9g", x);
    else glia_buf_adds(b, "null");
}

glia_status glia_json_add_token(glia_buf *b, const glia_model *m, int32_t id, glia_err *err) {
    char *text;
    size_t n;
    glia_status st = glia_model_detokenize(m, &id, 1, true, &text, &n, err);
    if (st) return st;
    glia_json_add_str(b, text, n);
    glia_free(text);
    return GLIA_OK;
}

glia_status glia_json_add_tokens(glia_buf *b, const glia_model *m, const int32_t *ids, size_t n, glia_err *err) {
    glia_buf_adds(b, "[");
    for (size_t i = 0; i < n; i++) {
        glia_buf_addf(b, "%s{\"position\":%zu,\"id\":%d,\"text\":", i ? "," : "", i, (int)ids[i]);
        glia_status st = glia_json_add_token(b, m, ids[i], err);
        if (st) return st;
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]");
    return GLIA_OK;
}

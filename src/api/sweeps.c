/* api/sweeps.c — the routes of sweeps: start or run one, its state, its result as JSON, tensors or pictures. */
#include "api/handlers.h"
#include "api/sweep.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool tell(void *ud, size_t n_done, size_t n_total) {
    return glia_study_tell(ud, n_total ? (double)n_done / (double)n_total : 0);
}

static glia_status work(glia_study *s, glia_buf *b, glia_err *err) { return glia_sweep_answer(s, tell, s, b, err); }

void glia_on_sweep(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"sweep", "activation patching or ablation over layers, positions, heads", true, work};
    size_t n;
    const char *body = glia_http_body(rq, &n);
    glia_err err;
    yyjson_doc *doc;
    yyjson_val *root;
    bool wait = false;
    glia_status st = glia_json_parse_object(&doc, &root, body, n, &err);
    if (!st) {
        st = glia_json_bool(root, "", "wait", &wait, NULL, &err);
        yyjson_doc_free(doc);
    }
    if (st) (void)glia_http_reply_error(rq, &err);
    else if (wait) glia_study_serve(ud, rq, &route);
    else glia_study_start(ud, rq, &route);
}

/* The result of a sweep that has ended.  *doc is freed by the caller. */
static glia_status result_of(glia_app *app, const char *id, yyjson_doc **doc, yyjson_val **result, glia_err *err) {
    glia_buf b = {0};
    *doc = NULL;
    glia_status st = glia_tasks_describe(app->tasks, id, &b, err);
    if (!st && b.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the result");
    if (!st && !(*doc = yyjson_read(b.p, b.n, 0))) st = glia_fail(err, GLIA_ENOMEM, "no memory for the result");
    glia_buf_clear(&b);
    if (st) return st;
    yyjson_val *root = yyjson_doc_get_root(*doc);
    const char *kind = yyjson_get_str(glia_json_get(root, "kind")), *state = yyjson_get_str(glia_json_get(root, "status"));
    *result = glia_json_get(root, "result");
    if (!kind || strcmp(kind, "sweep") != 0) return glia_fail(err, GLIA_ENOTFOUND, "task %.40s is no sweep", id);
    if (*result) return GLIA_OK;
    return glia_fail(err, GLIA_ENOTFOUND, "sweep %.40s has no result: it is %s (GET /v1/tasks/%.40s)", id, state ? state : "?", id);
}

static void reply(glia_http_request *rq, const char *type, glia_buf *b, glia_status st, glia_err *err) {
    size_t n;
    char *body = st ? NULL : glia_buf_take(b, &n);
    if (body) (void)glia_http_reply_take(rq, 200, type, body, n);
    else {
        if (!st) (void)glia_fail(err, GLIA_ENOMEM, "no memory for the reply");
        (void)glia_http_reply_error(rq, err);
    }
    glia_buf_clear(b);
}

void glia_on_sweep_tensors(void *ud, glia_http_request *rq) {
    yyjson_doc *doc;
    yyjson_val *result;
    glia_buf b = {0};
    glia_err err;
    glia_status st = result_of(ud, glia_http_param(rq, "id"), &doc, &result, &err);
    if (!st) st = glia_sweep_tensors(result, &b, &err);
    reply(rq, "application/vnd.safetensors", &b, st, &err);
    yyjson_doc_free(doc);
}

void glia_on_sweep_picture(void *ud, glia_http_request *rq) {
    yyjson_doc *doc;
    yyjson_val *result;
    glia_buf b = {0};
    glia_err err;
    const char *which = glia_http_query(rq, "sweep");
    char *end = NULL;
    unsigned long i = which ? strtoul(which, &end, 10) : 0;
    glia_status st = GLIA_OK;
    doc = NULL;
    if (which && (!*which || *end || i > 1000)) {
        st = glia_fail_at(&err, GLIA_EINVAL, "sweep", "sweep must be the number of one of the result's sweeps, from 0");
    }
    if (!st) st = result_of(ud, glia_http_param(rq, "id"), &doc, &result, &err);
    if (!st) st = glia_sweep_picture(result, (size_t)i, &b, &err);
    reply(rq, "image/svg+xml", &b, st, &err);
    yyjson_doc_free(doc);
}

/* api/runs.c — stored runs over HTTP: list, inspect, verify, delete.  HTTP threads.  Rows are runs_slice.c's. */
#include "api/handlers.h"
#include "api/json.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_LIST = 1000, DEFAULT_LIST = 100 };

void glia_add_run(glia_buf *b, const glia_run_about *a) {
    glia_buf_addf(
        b, "{\"id\":\"%s\",\"object\":\"run\",\"kind\":\"%s\",\"status\":\"%s\",\"created_at\":%lld,\"model\":", a->id,
        glia_run_kind_name(a->kind), glia_run_state_name(a->state), (long long)a->created);
    glia_json_add_cstr(b, a->model);
    glia_buf_adds(b, ",\"model_sha256\":");
    glia_json_add_cstr(b, a->model_sha256[0] ? a->model_sha256 : NULL);
    glia_buf_adds(b, ",\"note\":");
    glia_json_add_cstr(b, a->note[0] ? a->note : NULL);
    glia_buf_adds(b, ",\"folder\":");
    glia_json_add_cstr(b, a->folder);
    glia_buf_addf(b, ",\"bytes\":%llu,\"rows\":%llu,\"tokens\":%llu}", (unsigned long long)a->bytes,
                  (unsigned long long)a->rows, (unsigned long long)a->tokens);
}

static void fail(glia_http_request *rq, const glia_err *err) { (void)glia_http_reply_error(rq, err); }

/* ------------------------------------------------------------------ list */

static glia_status query_kind(const char *s, int *kind, glia_err *err) {
    *kind = !s ? -1 : !strcmp(s, "request") ? GLIA_RUN_REQUEST : !strcmp(s, "harvest") ? GLIA_RUN_HARVEST : -2;
    if (*kind >= -1) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, "kind", "kind must be request or harvest, not \"%.40s\"", s);
}

static glia_status query_limit(const char *s, size_t *limit, glia_err *err) {
    char *end = NULL;
    long v = s ? strtol(s, &end, 10) : DEFAULT_LIST;
    if ((s && (end == s || *end)) || v < 1 || v > MAX_LIST)
        return glia_fail_at(err, GLIA_EINVAL, "limit", "limit must be a number from 1 to %d", (int)MAX_LIST);
    *limit = (size_t)v;
    return GLIA_OK;
}

void glia_on_runs(void *ud, glia_http_request *rq) {
    glia_runs *s;
    glia_runs_usage u;
    glia_run_about *list = NULL;
    glia_err err;
    glia_buf b = {0};
    int kind = -1;
    size_t n = 0, limit = DEFAULT_LIST;
    glia_status st = glia_store_runs(((glia_app *)ud)->store, &s, &err);
    if (!st) st = query_kind(glia_http_query(rq, "kind"), &kind, &err);
    if (!st) st = query_limit(glia_http_query(rq, "limit"), &limit, &err);
    if (!st) st = glia_runs_get_usage(s, &u, &err);
    if (!st) st = glia_runs_list(s, kind, glia_http_query(rq, "after"), limit + 1, &list, &n, &err);
    if (st) {
        fail(rq, &err);
        return;
    }
    glia_buf_adds(&b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n && i < limit; i++) {
        if (i) glia_buf_adds(&b, ",");
        glia_add_run(&b, &list[i]);
    }
    glia_buf_addf(&b, "],\"has_more\":%s,\"usage\":{\"runs\":%llu,\"bytes\":%llu,\"limit_bytes\":",
                  n > limit ? "true" : "false", (unsigned long long)u.n_runs, (unsigned long long)u.bytes);
    if (u.budget) glia_buf_addf(&b, "%llu", (unsigned long long)u.budget);
    else glia_buf_adds(&b, "null");
    glia_buf_adds(&b, "},\"folder\":");
    glia_json_add_cstr(&b, glia_runs_folder(s));
    glia_buf_adds(&b, "}\n");
    glia_free(list);
    glia_reply_json(rq, &b);
}

/* ------------------------------------------------------------------ one */

static void add_tensor(glia_buf *b, const glia_run_tensor *t) {
    glia_buf_adds(b, "{\"name\":");
    glia_json_add_cstr(b, t->name);
    glia_buf_addf(b, ",\"point\":\"%s\",\"layer\":", glia_point_name(t->point));
    if (glia_point_has_layer(t->point)) glia_buf_addf(b, "%d", (int)t->layer);
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, ",\"grade\":\"%s\",\"reduce\":\"%s\",\"dtype\":\"%s\",\"rows\":%llu,\"width\":%d",
                  glia_grade_name(t->grade), glia_reduce_name(t->reduce), glia_st_dtype_name(t->dtype),
                  (unsigned long long)t->rows, (int)t->width);
    if (t->n_heads) glia_buf_addf(b, ",\"n_heads\":%d", (int)t->n_heads);
    if (t->n_cols) glia_buf_addf(b, ",\"n_cols\":%d", (int)t->n_cols);
    else if (t->n_heads) glia_buf_addf(b, ",\"head_dim\":%d", (int)t->head_dim);
    glia_buf_addf(b, ",\"choice\":%d", (int)t->choice);
    if (t->n_positions)
        glia_buf_addf(b, ",\"first_position\":%d,\"last_position\":%d", (int)t->positions[0],
                      (int)t->positions[t->n_positions - 1]);
    glia_buf_adds(b, "}");
}

static void add_file(glia_buf *b, const glia_run_file *f) {
    glia_buf_adds(b, "{\"name\":");
    glia_json_add_cstr(b, f->name);
    glia_buf_addf(b, ",\"bytes\":%llu,\"rows\":%llu,\"sha256\":\"%s\"}", (unsigned long long)f->bytes,
                  (unsigned long long)f->rows, f->sha256);
}

void glia_add_open_run(glia_buf *b, const glia_run *r) {
    glia_buf about = {0};
    glia_add_run(&about, glia_run_get_about(r));
    if (about.failed) b->failed = true;
    else glia_buf_add(b, about.p, about.n - 1); /* open again, for the lists */
    glia_buf_clear(&about);
    glia_buf_adds(b, ",\"tensors\":[");
    for (size_t i = 0; i < glia_run_n_tensors(r); i++) {
        if (i) glia_buf_adds(b, ",");
        add_tensor(b, glia_run_tensor_at(r, i));
    }
    glia_buf_adds(b, "],\"files\":[");
    for (size_t i = 0; i < glia_run_n_files(r); i++) {
        if (i) glia_buf_adds(b, ",");
        add_file(b, glia_run_file_at(r, i));
    }
    glia_buf_adds(b, "]}");
}

void glia_on_run(void *ud, glia_http_request *rq) {
    glia_runs *s;
    glia_run *r = NULL;
    glia_err err;
    glia_buf b = {0};
    glia_status st = glia_store_runs(((glia_app *)ud)->store, &s, &err);
    if (!st) st = glia_run_open(&r, s, glia_http_param(rq, "id"), &err);
    if (st) {
        fail(rq, &err);
        return;
    }
    glia_add_open_run(&b, r);
    glia_run_close(r);
    glia_buf_adds(&b, "\n");
    glia_reply_json(rq, &b);
}

void glia_on_run_delete(void *ud, glia_http_request *rq) {
    glia_runs *s;
    glia_err err;
    bool kept;
    glia_buf b = {0};
    glia_status st = glia_store_runs(((glia_app *)ud)->store, &s, &err);
    if (!st) st = glia_runs_delete(s, glia_http_param(rq, "id"), &kept, &err);
    if (st) {
        fail(rq, &err);
        return;
    }
    glia_buf_adds(&b, "{\"id\":");
    glia_json_add_cstr(&b, glia_http_param(rq, "id"));
    glia_buf_addf(&b, ",\"object\":\"run\",\"deleted\":true,\"files\":\"%s\"}\n", kept ? "kept" : "deleted");
    glia_reply_json(rq, &b);
}

/* ------------------------------------------------------------------ verify: reads every file, hence on a task */

typedef struct verify {
    glia_runs *s;
    char *id;
} verify;

static void verify_free(void *ud) {
    verify *v = ud;
    glia_free(v->id);
    glia_free(v);
}

static glia_status verify_work(glia_task *t, void *ud, glia_buf *result, glia_err *err) {
    verify *v = ud;
    glia_run *r;
    glia_status st = glia_run_open(&r, v->s, v->id, err);
    if (st) return st;
    size_t n = glia_run_n_files(r);
    for (size_t i = 0; i < n && !st; i++) {
        if (glia_task_cancelled(t)) st = glia_fail(err, GLIA_ECANCELLED, "cancelled");
        else st = glia_run_verify_file(r, i, err);
        glia_task_progress(t, (double)(i + 1) / (double)n, NULL);
    }
    if (!st) glia_buf_addf(result, "{\"id\":\"%s\",\"object\":\"run\",\"verified\":true,\"files\":%zu}", v->id, n);
    glia_run_close(r);
    return st;
}

void glia_on_run_verify(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_err err;
    verify *v = glia_calloc(1, sizeof *v);
    glia_status st = v && (v->id = glia_strdup(glia_http_param(rq, "id")))
                         ? glia_store_runs(app->store, &v->s, &err)
                         : glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
    if (st) {
        if (v) verify_free(v);
        fail(rq, &err);
        return;
    }
    glia_task_params p = {.kind = "verify", .work = verify_work, .ud = v, .free_ud = verify_free};
    glia_task_serve(app->tasks, rq, &p);
}

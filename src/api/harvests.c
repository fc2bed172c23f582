/* api/harvests.c — harvests over HTTP: start, status, list, cancel.  HTTP threads; the work runs on a task's thread.
 *
 * A harvest is a run of the store (its id), and while this server writes it a task.  What survives a restart is the run;
 * a stopped one goes on with "resume". */
#include "api/handlers.h"
#include "api/hook_fields.h"
#include "api/keep.h"
#include "api/store.h"
#include "base/err.h"
#include "base/mem.h"
#include "harvest/harvest.h"
#include "harvest/manifest.h"
#include "harvest/points.h"
#include "harvest/record.h"
#include "store/newfile.h"
#include <stdio.h>
#include <string.h>

typedef struct work {
    glia_app *app;
    glia_model *model; /* held */
    glia_runs *runs;
    glia_run_writer *writer;
    glia_run_about about;
    yyjson_doc *doc;       /* the request, for the documents that it holds */
    yyjson_val *documents; /* NULL: data is a file of the server's */
    char *data, *out, *points;
    glia_harvest_params p;
    glia_task *task;
} work;

static void work_free(void *ud) {
    work *w = ud;
    if (!w) return;
    glia_run_writer_free(w->writer);
    glia_app_release(w->app, w->model);
    yyjson_doc_free(w->doc);
    glia_free(w->data);
    glia_free(w->out);
    glia_free(w->points);
    glia_free(w);
}

/* ------------------------------------------------------------------ the task */

static void add_progress(glia_buf *b, const work *w, const glia_harvest_progress *g) {
    glia_buf_addf(b, "{\"run\":\"%s\",\"documents\":%llu,\"tokens\":%llu,\"rows\":%llu,\"bytes\":%llu,\"shards\":%llu",
                  w->about.id, (unsigned long long)g->documents, (unsigned long long)g->tokens,
                  (unsigned long long)g->rows, (unsigned long long)g->bytes, (unsigned long long)g->shards);
    glia_buf_addf(b, ",\"seconds\":%.3f,\"tokens_per_s\":%.1f,\"bytes_per_s\":%.0f", g->seconds,
                  g->seconds > 0 ? (double)g->tokens_now / g->seconds : 0,
                  g->seconds > 0 ? (double)g->bytes_now / g->seconds : 0);
    if (g->fraction > 0 && g->fraction < 1 && g->seconds > 1)
        glia_buf_addf(b, ",\"seconds_left\":%.0f", g->seconds / g->fraction * (1 - g->fraction));
}

static bool on_progress(const glia_harvest_progress *g, void *ud) {
    work *w = ud;
    glia_buf b = {0};
    add_progress(&b, w, g);
    glia_buf_addf(&b, ",\"doing\":\"%s\"}", g->doing);
    if (!b.failed) glia_task_progress(w->task, g->fraction, b.p);
    glia_buf_clear(&b);
    return !glia_task_cancelled(w->task);
}

/* The request's documents as FOLDER/data.jsonl: the harvest can go on from there after a crash. */
static glia_status write_documents(const work *w, glia_err *err) {
    glia_newfile *f;
    yyjson_arr_iter it;
    yyjson_val *v;
    glia_status st = glia_newfile_open(&f, w->data, err);
    for (yyjson_arr_iter_init(w->documents, &it); !st && (v = yyjson_arr_iter_next(&it));) {
        size_t n;
        bool text = yyjson_is_str(v);
        char *json = yyjson_val_write(v, 0, &n);
        if (!json) st = glia_fail(err, GLIA_ENOMEM, "no memory for the documents");
        if (!st && text) st = glia_newfile_write(f, "{\"text\":", 8, err);
        if (!st) st = glia_newfile_write(f, json, n, err);
        if (!st) st = text ? glia_newfile_write(f, "}\n", 2, err) : glia_newfile_write(f, "\n", 1, err);
        free(json);
    }
    if (!st) st = glia_newfile_commit(f, NULL, err);
    glia_newfile_free(f);
    return st;
}

static glia_status run_harvest(glia_task *t, void *ud, glia_buf *result, glia_err *err) {
    static const char *const ends[] = {"complete", "stopped", "max_bytes", "max_tokens"};
    work *w = ud;
    glia_harvest_progress g;
    glia_harvest_end end;
    w->task = t;
    glia_status st = w->documents ? write_documents(w, err) : GLIA_OK;
    if (!st) st = glia_harvest_run(&w->p, &g, &end, err);
    /* before anybody reads that the task has ended, the run says so too */
    glia_run_writer_free(w->writer);
    w->writer = NULL;
    if (st) return st;
    if (end == GLIA_HARVEST_STOPPED)
        return glia_fail(err, GLIA_ECANCELLED, "cancelled: \"resume\": \"%s\" goes on from here", w->about.id);
    add_progress(result, w, &g);
    glia_buf_addf(result, ",\"end\":\"%s\",\"folder\":", ends[end]);
    glia_json_add_cstr(result, w->about.folder);
    glia_buf_adds(result, "}");
    return result->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the result") : GLIA_OK;
}

/* ------------------------------------------------------------------ reading the request */

static const char *const fields[] = {
    "model",     "points", "data",        "documents", "out",        "resume",          "dtype", "note",
    "positions", "window", "shard_bytes", "max_bytes", "max_tokens", "statistics_only", "top",   "projection"};

static glia_status word(yyjson_val *root, const char *key, const char *const *words, int n, int *out, glia_err *err) {
    const char *s = words[*out];
    glia_status st = glia_json_str(root, "", key, &s, err);
    if (st) return st;
    for (int i = 0; i < n; i++) {
        if (!strcmp(s, words[i])) return *out = i, GLIA_OK;
    }
    glia_buf list = {0};
    for (int i = 0; i < n; i++) glia_buf_addf(&list, "%s\"%s\"", i ? ", " : "", words[i]);
    st = glia_fail_at(err, GLIA_EINVAL, key, "%s must be one of %s, not \"%.40s\"", key, list.p ? list.p : "", s);
    glia_buf_clear(&list);
    return st;
}

static glia_status number(yyjson_val *root, const char *key, int64_t min, int64_t max, int64_t *out, glia_err *err) {
    return glia_json_int(root, "", key, min, max, out, NULL, err);
}

/* "resid_post@all,z@0-3", or a list of such. */
static glia_status parse_points(work *w, yyjson_val *root, glia_err *err) {
    yyjson_val *v = glia_json_get(root, "points"), *item;
    glia_buf b = {0};
    yyjson_arr_iter it;
    bool good = yyjson_is_str(v) || yyjson_is_arr(v);
    if (yyjson_is_str(v)) glia_buf_add(&b, yyjson_get_str(v), yyjson_get_len(v));
    for (yyjson_arr_iter_init(v, &it); good && (item = yyjson_arr_iter_next(&it));) {
        good = yyjson_is_str(item);
        if (b.n) glia_buf_adds(&b, ",");
        if (good) glia_buf_add(&b, yyjson_get_str(item), yyjson_get_len(item));
    }
    if (!good || !b.n) {
        glia_buf_clear(&b);
        return glia_fail_at(err, GLIA_EINVAL, "points", "points must name what to keep, e.g. \"resid_post@all,z@0-3\"");
    }
    size_t n;
    if (!(w->points = glia_buf_take(&b, &n))) return glia_fail(err, GLIA_ENOMEM, "no memory for points");
    glia_hook *hooks;
    glia_status st = glia_points_parse(w->points, w->model, &hooks, &n, err);
    glia_free(hooks);
    if (st && err) (void)snprintf(err->param, sizeof err->param, "points");
    return st;
}

static glia_status parse_documents(work *w, yyjson_val *root, glia_err *err) {
    yyjson_val *v = glia_json_get(root, "documents"), *d;
    yyjson_arr_iter it;
    size_t i = 0;
    if (!yyjson_is_arr(v) || !yyjson_arr_size(v))
        return glia_fail_at(err, GLIA_EINVAL, "documents", "documents must be a list of at least one");
    for (yyjson_arr_iter_init(v, &it); (d = yyjson_arr_iter_next(&it)); i++) {
        if (yyjson_is_str(d) || yyjson_is_obj(d)) continue;
        char param[40];
        (void)snprintf(param, sizeof param, "documents[%zu]", i);
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a text, or an object with text, messages or tokens",
                            param);
    }
    w->documents = v;
    return GLIA_OK;
}

static glia_status parse_projection(work *w, yyjson_val *root, glia_err *err) {
    static const char *const known[] = {"n", "seed"};
    yyjson_val *v = glia_json_get(root, "projection");
    int64_t n = 0, seed = 0;
    if (!v) return GLIA_OK;
    if (!yyjson_is_obj(v))
        return glia_fail_at(err, GLIA_EINVAL, "projection", "projection must be {\"n\": directions, \"seed\"}");
    glia_status st = glia_known_fields(v, "projection", known, 2, err);
    if (!st) st = glia_json_int(v, "projection", "n", 1, GLIA_HARVEST_PROJECTION_MAX, &n, NULL, err);
    if (!st) st = glia_json_int(v, "projection", "seed", 0, INT64_MAX, &seed, NULL, err);
    if (!st && !n)
        st = glia_fail_at(err, GLIA_EINVAL, "projection.n", "projection.n says how many directions: 1 to 65536");
    w->p.projection = (int32_t)n, w->p.projection_seed = (uint64_t)seed;
    return st;
}

static glia_status parse_settings(work *w, yyjson_val *root, glia_err *err) {
    static const char *const dtypes[] = {"float32", "float16", "bfloat16"}, *const positions[] = {"all", "last"};
    int dtype = 0, where = 0;
    int64_t window = 0, shard = 0, bytes = 0, tokens = 0, top = 0;
    glia_model_info info;
    glia_model_get_info(w->model, &info);
    glia_status st = word(root, "dtype", dtypes, 3, &dtype, err);
    if (!st) st = word(root, "positions", positions, 2, &where, err);
    if (!st) st = number(root, "window", 1, info.n_ctx, &window, err);
    if (!st) st = number(root, "shard_bytes", 4096, (int64_t)4 << 30, &shard, err);
    if (!st) st = number(root, "max_bytes", 1, INT64_MAX, &bytes, err);
    if (!st) st = number(root, "max_tokens", 1, INT64_MAX, &tokens, err);
    if (!st) st = number(root, "top", 1, GLIA_HARVEST_TOP_MAX, &top, err);
    if (!st) st = glia_json_bool(root, "", "statistics_only", &w->p.statistics_only, NULL, err);
    if (!st) st = parse_projection(w, root, err);
    w->p.dtype = (glia_dtype)dtype, w->p.last_only = where == 1, w->p.window = (int32_t)window;
    w->p.shard_bytes = (uint64_t)shard, w->p.max_bytes = (uint64_t)bytes, w->p.max_tokens = (uint64_t)tokens;
    w->p.top = (int32_t)top;
    return st;
}

/* Where the data comes from and the shards go to. */
static glia_status parse_places(work *w, yyjson_val *root, const char **resume, glia_err *err) {
    const char *data = NULL, *out = NULL;
    glia_status st = glia_json_str(root, "", "data", &data, err);
    if (!st) st = glia_json_str(root, "", "out", &out, err);
    if (!st) st = glia_note_parse(root, w->about.note, err);
    if (!st) st = glia_json_str(root, "", "resume", resume, err);
    if (st) return st;
    bool inline_data = glia_json_get(root, "documents") != NULL;
    if (*resume && out) return glia_fail_at(err, GLIA_EINVAL, "out", "out: a resumed harvest goes on where it lies");
    if (data && inline_data) return glia_fail_at(err, GLIA_EINVAL, "documents", "either data or documents, not both");
    if (!data && !inline_data && !*resume) {
        return glia_fail_at(err, GLIA_EINVAL, "documents",
                            "no data: give documents, a list of texts, or data, the path of a file of the server");
    }
    if (inline_data && (st = parse_documents(w, root, err))) return st;
    if (data && (st = glia_store_path(w->app->store, data, true, "data", &w->data, err))) return st;
    if (out && (st = glia_store_path(w->app->store, out, false, "out", &w->out, err))) return st;
    if (w->out && strlen(w->out) >= sizeof w->about.folder)
        return glia_fail_at(err, GLIA_EINVAL, "out", "out: the path is too long");
    return GLIA_OK;
}

/* Of the store's budget what is left; a smaller quota of the request stays. */
static glia_status bound_bytes(work *w, glia_err *err) {
    glia_runs_usage u;
    glia_status st = glia_runs_get_usage(w->runs, &u, err);
    if (st || !u.budget || w->about.own_folder) return st;
    uint64_t own = w->about.bytes; /* of a resumed one: counted in u already, and in its quota */
    uint64_t left = (u.budget > u.bytes ? u.budget - u.bytes : 0) + own;
    if (left <= own)
        return glia_fail(err, GLIA_ETOOLARGE,
                         "the store of runs is full (%llu MiB): delete runs, or give --store-limit",
                         (unsigned long long)(u.budget >> 20));
    if (!w->p.max_bytes || w->p.max_bytes > left) w->p.max_bytes = left;
    return GLIA_OK;
}

static glia_status open_run(work *w, const char *resume, glia_err *err) {
    glia_model_info info;
    glia_status st;
    glia_model_get_info(w->model, &info);
    if (resume) {
        st = glia_run_resume(&w->writer, w->runs, resume, &w->about, err);
        if (st && err) (void)snprintf(err->param, sizeof err->param, "resume");
    } else {
        w->about.kind = GLIA_RUN_HARVEST;
        (void)snprintf(w->about.model, sizeof w->about.model, "%s", info.id);
        glia_run_about known;
        if (w->out) memcpy(w->about.folder, w->out, strlen(w->out) + 1);
        /* the same folder again: its run goes on */
        if (w->out && !glia_harvest_find(w->runs, w->out, &known, NULL))
            st = glia_run_resume(&w->writer, w->runs, known.id, &w->about, err);
        else st = glia_run_begin(&w->writer, w->runs, &w->about, err);
    }
    if (!st) st = bound_bytes(w, err);
    /* from here on it is there to be looked at, however it ends */
    w->about.state = GLIA_RUN_WRITING;
    if (!st && !w->about.bytes) st = glia_run_record(w->writer, &w->about, NULL, 0, NULL, 0, err);
    if (st || w->data) return st;
    size_t n = strlen(w->about.folder) + sizeof "/data.jsonl";
    if (!(w->data = glia_malloc(n))) return glia_fail(err, GLIA_ENOMEM, "no memory for a path");
    (void)snprintf(w->data, n, "%s/data.jsonl", w->about.folder);
    return GLIA_OK;
}

static glia_status parse(work *w, const char *body, size_t n, const char **resume, glia_err *err) {
    const char *model = NULL;
    yyjson_val *root;
    glia_status st = glia_json_parse_object(&w->doc, &root, body, n, err);
    if (!st) st = glia_known_fields(root, "", fields, sizeof fields / sizeof *fields, err);
    if (!st) st = glia_json_str(root, "", "model", &model, err);
    if (!st) st = glia_app_find(w->app, model, &w->model, err);
    if (!st) st = parse_points(w, root, err);
    if (!st) st = parse_settings(w, root, err);
    if (!st) st = parse_places(w, root, resume, err);
    return st;
}

/* ------------------------------------------------------------------ replies */

static const char *const task_states[] = {"running", "completed", "failed", "cancelled"};

/* The word behind "status" of a task's description, or NULL. */
static const char *state_of(const glia_buf *task) {
    const char *at = task->p ? strstr(task->p, "\"status\":\"") : NULL;
    for (size_t i = 0; at && i < sizeof task_states / sizeof *task_states; i++) {
        if (!strncmp(at + 10, task_states[i], strlen(task_states[i]))) return task_states[i];
    }
    return NULL;
}

static void add_harvest(glia_buf *b, glia_app *app, const glia_run_about *a) {
    char id[GLIA_TASK_ID];
    glia_buf task = {0};
    glia_err err;
    bool known = glia_store_task_of(app->store, a->id, id) && !glia_tasks_describe(app->tasks, id, &task, &err);
    const char *state = known ? state_of(&task) : NULL;
    if (!state || !strcmp(state, "completed")) /* max_tokens and max_bytes end a task, not the harvest */
        state = a->state == GLIA_RUN_WRITING ? "running" : a->state == GLIA_RUN_SEALED ? "completed" : "stopped";
    glia_buf_addf(b, "{\"id\":\"%s\",\"object\":\"harvest\",\"status\":\"%s\",\"run\":", a->id, state);
    glia_add_run(b, a);
    if (known) glia_buf_addf(b, ",\"task\":%s", task.p ? task.p : "null");
    glia_buf_adds(b, "}");
    if (task.failed) b->failed = true;
    glia_buf_clear(&task);
}

static glia_status find(glia_app *app, glia_http_request *rq, glia_run_about *a, glia_err *err) {
    glia_runs *runs;
    glia_status st = glia_store_runs(app->store, &runs, err);
    if (!st) st = glia_runs_find(runs, glia_http_param(rq, "id"), a, err);
    if (!st && a->kind != GLIA_RUN_HARVEST)
        st = glia_fail_at(err, GLIA_ENOTFOUND, "id", "run \"%s\" is of a request, no harvest", a->id);
    return st;
}

static void reply_harvest(glia_app *app, glia_http_request *rq, const glia_run_about *a) {
    glia_buf b = {0};
    add_harvest(&b, app, a);
    glia_buf_adds(&b, "\n");
    glia_reply_json(rq, &b);
}

void glia_on_harvest_start(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_err err;
    size_t n;
    const char *body = glia_http_body(rq, &n), *resume = NULL;
    char task[GLIA_TASK_ID];
    work *w = glia_calloc(1, sizeof *w);
    glia_status st = w ? GLIA_OK : glia_fail(&err, GLIA_ENOMEM, "no memory for a harvest");
    if (!st) {
        w->app = app;
        st = glia_store_runs(app->store, &w->runs, &err);
    }
    if (!st) st = parse(w, body, n, &resume, &err);
    if (!st) st = open_run(w, resume, &err);
    if (st) {
        work_free(w);
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    w->p.model = w->model, w->p.data = w->data, w->p.out = w->about.folder, w->p.points = w->points;
    w->p.writer = w->writer, w->p.on_progress = on_progress, w->p.ud = w;
    glia_run_about about = w->about;
    glia_task_params p = {
        .kind = "harvest", .description = w->about.id, .work = run_harvest, .ud = w, .free_ud = work_free};
    glia_runs *runs = w->runs;
    st = glia_tasks_start(app->tasks, &p, task, &err); /* w is the task's, also on failure */
    if (st && !resume && !about.bytes) (void)glia_runs_delete(runs, about.id, NULL, NULL); /* nobody knows its id */
    if (!st) st = glia_store_set_task(app->store, about.id, task, &err);
    if (st) (void)glia_http_reply_error(rq, &err);
    else reply_harvest(app, rq, &about);
}

void glia_on_harvests(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_runs *runs;
    glia_run_about *list = NULL;
    size_t n = 0;
    glia_err err;
    glia_buf b = {0};
    glia_status st = glia_store_runs(app->store, &runs, &err);
    if (!st) st = glia_runs_list(runs, GLIA_RUN_HARVEST, NULL, 0, &list, &n, &err);
    if (st) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf_adds(&b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) glia_buf_adds(&b, ",");
        add_harvest(&b, app, &list[i]);
    }
    glia_buf_adds(&b, "]}\n");
    glia_free(list);
    glia_reply_json(rq, &b);
}

void glia_on_harvest(void *ud, glia_http_request *rq) {
    glia_run_about a;
    glia_err err;
    if (find(ud, rq, &a, &err)) (void)glia_http_reply_error(rq, &err);
    else reply_harvest(ud, rq, &a);
}

void glia_on_harvest_cancel(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_run_about a;
    glia_err err;
    char task[GLIA_TASK_ID];
    glia_status st = find(app, rq, &a, &err);
    if (!st && glia_store_task_of(app->store, a.id, task)) (void)glia_tasks_cancel(app->tasks, task, &err);
    else if (!st && a.state == GLIA_RUN_WRITING)
        st = glia_fail_at(&err, GLIA_EBUSY, "id", "harvest \"%s\" is written by another program: stop that one", a.id);
    if (st) (void)glia_http_reply_error(rq, &err);
    else reply_harvest(app, rq, &a);
}

/* api/lms_download.c — POST /api/v1/models/download and the status of its jobs.
 *
 * A model comes from a mirror folder (--mirror, laid out as a model folder) by name, or from a file: URL.  This server
 * opens no connections.  HTTP threads. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/load.h"
#include "base/err.h"
#include "base/mem.h"
#include "models/download.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { FRESH_MS = 1000, PATH_BYTES = 4096 };

static const char *const keys[] = {"model", "quantization", "sha256", NULL};

typedef struct wish {
    const char *model, *quantization, *sha256;
} wish;

static glia_status parse_wish(yyjson_val *root, wish *w, glia_err *err) {
    glia_status st = glia_json_only(root, keys, err);
    if (!st) st = glia_json_str(root, "", "model", &w->model, err);
    if (!st) st = glia_json_str(root, "", "quantization", &w->quantization, err);
    if (!st) st = glia_json_str(root, "", "sha256", &w->sha256, err);
    if (st) return st;
    if (!w->model || !w->model[0])
        return glia_fail_at(err, GLIA_EINVAL, "model",
                            "model is missing: publisher/name of the mirror, or a file: URL");
    if (w->sha256 && (strlen(w->sha256) != 64 || strspn(w->sha256, "0123456789abcdefABCDEF") != 64))
        return glia_fail_at(err, GLIA_EINVAL, "sha256", "sha256 must have 64 hexadecimal digits");
    return GLIA_OK;
}

static int hex(char c) {
    if (isdigit((unsigned char)c)) return c - '0';
    return isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* The path of a file: URL of this machine (RFC 8089), %-escapes undone. */
static glia_status path_of_url(const char *url, char out[PATH_BYTES], glia_err *err) {
    const char *p = url + strlen("file:");
    size_t n = 0;
    if (!strncmp(p, "//localhost/", 12)) p += 11;
    else if (!strncmp(p, "///", 3)) p += 2;
    if (p[0] != '/' || p[1] == '/')
        return glia_fail_at(err, GLIA_EINVAL, "model",
                            "model: a file: URL must name an absolute path: file:///folder/file.gguf");
    for (; *p; p++) {
        int a = *p == '%' ? hex(p[1]) : -1, b = a >= 0 ? hex(p[2]) : -1;
        char c = *p;
        if (*p == '%') {
            if (b < 0 || !(a * 16 + b))
                return glia_fail_at(err, GLIA_EINVAL, "model", "model: a bad %%-escape in the URL");
            c = (char)(a * 16 + b), p += 2;
        }
        if (n + 1 >= PATH_BYTES) return glia_fail_at(err, GLIA_EINVAL, "model", "model: the path is too long");
        out[n++] = c;
    }
    out[n] = 0;
    return GLIA_OK;
}

static bool is_quant(const glia_model_file *f, const char *q) {
    return !q || !strcasecmp(glia_gguf_quant(&f->head), q);
}

/* Of the variants of the model that was found, the one with this quantization. */
static const glia_model_file *variant_of(const glia_models *m, const glia_model_file *f, const char *q) {
    if (is_quant(f, q)) return f;
    for (size_t i = 0; i < m->n; i++) {
        if (!strcmp(m->items[i].base, f->base) && is_quant(&m->items[i], q)) return &m->items[i];
    }
    return NULL;
}

static glia_status from_mirror(glia_app *app, const wish *w, glia_model_file *out, glia_err *err) {
    const glia_models *m;
    if (!app->mirror)
        return glia_fail_at(
            err, GLIA_EINVAL, "model",
            "this server has no mirror to take models from: start it with --mirror DIR, or name a file: URL");
    glia_status st = glia_catalogue_get(app->mirror, FRESH_MS, &m, err);
    if (st) return st;
    const glia_model_file *f = glia_models_find(m, w->model, err), *v = f ? variant_of(m, f, w->quantization) : NULL;
    if (!f)
        st = err->status == GLIA_ENOTFOUND
                 ? glia_fail_at(err, GLIA_EMODEL, "model", "no model \"%.120s\" in the mirror", w->model)
                 : err->status;
    else if (!v)
        st = glia_fail_at(err, GLIA_EINVAL, "quantization", "\"%.120s\" is not there as %.20s", f->base,
                          w->quantization);
    else if (v->problem)
        st = glia_fail_at(err, GLIA_EINVAL, "model", "\"%.120s\" of the mirror: %s", v->key, v->problem);
    else st = glia_model_file_copy(out, v, err);
    glia_models_unref(m);
    return st;
}

static glia_status find_source(glia_app *app, const wish *w, glia_model_file *out, glia_err *err) {
    char path[PATH_BYTES];
    if (strncasecmp(w->model, "file:", 5) != 0) {
        if (strstr(w->model, "://"))
            return glia_fail_at(
                err, GLIA_EINVAL, "model",
                "this server opens no connections: fetch the file yourself and name a file: URL, or use "
                "--mirror DIR");
        return from_mirror(app, w, out, err);
    }
    glia_status st = path_of_url(w->model, path, err);
    if (st) return st;
    if ((st = glia_model_file_of_path(out, path, err))) {
        if (err->status == GLIA_ENOTFOUND) err->status = st = GLIA_EMODEL;
        (void)snprintf(err->param, sizeof err->param, "model");
        return st;
    }
    if (out->file[0] != '.' && out->head.arch[0]) return GLIA_OK;
    glia_model_file_clear(out);
    return glia_fail_at(err, GLIA_EINVAL, "model", "model: this file holds no language model");
}

/* ------------------------------------------------------------------ replies */

static void add_time(glia_buf *b, const char *key, int64_t ms) {
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    char text[32];
    if (!gmtime_r(&s, &tm) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm)) return;
    glia_buf_addf(b, ",\"%s\":\"%s.%03dZ\"", key, text, (int)(ms % 1000));
}

static void add_job(glia_buf *b, const glia_download_info *i, bool progress) {
    static const char *const states[] = {"downloading", "completed", "failed"};
    glia_buf_addf(b, "{\"job_id\":\"%s\",\"status\":\"%s\",\"total_size_bytes\":%llu", i->id, states[i->state],
                  (unsigned long long)i->total);
    if (progress) glia_buf_addf(b, ",\"downloaded_bytes\":%llu", (unsigned long long)i->done);
    add_time(b, "started_at", i->started_ms);
    if (progress && i->state == GLIA_DOWNLOAD_RUNNING && i->bytes_per_second > 0) {
        double left = (double)(i->total - i->done) / i->bytes_per_second;
        struct timespec now;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        glia_buf_adds(b, ",\"bytes_per_second\":");
        glia_json_add_num(b, i->bytes_per_second);
        add_time(b, "estimated_completion",
                 (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + (int64_t)(left * 1000));
    }
    if (i->state == GLIA_DOWNLOAD_COMPLETED) add_time(b, "completed_at", i->ended_ms);
    if (i->state == GLIA_DOWNLOAD_FAILED) {
        glia_buf_adds(b, ",\"error\":");
        glia_json_add_cstr(b, i->err.message);
    }
    glia_buf_adds(b, "}");
}

void glia_on_v1_download(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    glia_model_file from = {0};
    glia_download_info info;
    wish w = {0};
    bool already = false;
    glia_err err;
    size_t n;
    const char *body = glia_http_body(rq, &n), *folder = glia_catalogue_dir(app->catalogue, 0);
    glia_status st = glia_json_parse_object(&doc, &root, body, n, &err);
    if (!st) st = parse_wish(root, &w, &err);
    if (!st) st = find_source(app, &w, &from, &err);
    if (!st && !folder)
        st = glia_fail(&err, GLIA_EUNAVAILABLE, "there is no model folder: start the server with --models-dir");
    if (!st && w.sha256 && from.n_parts > 1)
        st = glia_fail_at(&err, GLIA_EINVAL, "sha256", "sha256 is of one file, this model has %llu",
                          (unsigned long long)from.n_parts);
    if (!st) st = glia_download_start(app->downloads, &from, folder, w.sha256, &info, &already, &err);
    glia_model_file_clear(&from);
    yyjson_doc_free(doc);
    if (st) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf b = {0};
    if (already) glia_buf_adds(&b, "{\"status\":\"already_downloaded\"}");
    else add_job(&b, &info, false);
    glia_buf_adds(&b, "\n");
    glia_reply_json(rq, &b);
}

void glia_on_v1_download_status(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_download_info info;
    glia_err err;
    if (!glia_download_get(app->downloads, glia_http_param(rq, "id"), &info)) {
        (void)glia_fail_at(&err, GLIA_ENOTFOUND, "job_id", "no download job \"%.60s\"", glia_http_param(rq, "id"));
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf b = {0};
    add_job(&b, &info, true);
    glia_buf_adds(&b, "\n");
    glia_reply_json(rq, &b);
}

/* api/embeddings.c — POST /v1/embeddings and /api/v0/embeddings: texts → vectors.  HTTP threads.
 *
 * A list of texts is a generator: as many as the model has slots are under way at once, the reply is written when all are
 * there.  Bounds: 2048 texts, and the size of a whole reply. */
#include "api/encode.h"
#include "api/handlers.h"
#include "api/json.h"
#include "api/prompt.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEXTS = 2048, MAX_AT_ONCE = 16, DEFAULT_MAX_REPLY = 1 << 30, BYTES_PER_FLOAT = 16 };

typedef struct text {
    int32_t *tokens;
    size_t n;
    glia_embed *embed; /* under way */
    float *v;          /* [n_dims] once it is there */
} text;

typedef struct batch {
    glia_app *app;
    glia_model *model;
    glia_model_info info;
    glia_http_waker *waker;
    glia_pooling pooling;
    bool base64, normalize, list;
    int32_t n_dims;
    text *texts; /* [n] */
    size_t n, n_submitted, n_done;
} batch;

/* ------------------------------------------------------------------ reading */

static glia_status read_pooling(batch *b, yyjson_val *root, glia_err *err) {
    static const char *const names[] = {"mean", "cls", "last"};
    const char *s = NULL;
    b->pooling = b->info.pooling;
    glia_status st = glia_json_str(root, "", "pooling", &s, err);
    if (st || !s) return st;
    for (int i = 0; i < 3; i++) {
        if (strcmp(s, names[i]) != 0) continue;
        b->pooling = (glia_pooling)i;
        return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, "pooling", "pooling must be \"mean\", \"cls\" or \"last\"");
}

static glia_status read_fields(batch *b, yyjson_val *root, glia_err *err) {
    const char *model = NULL, *format = NULL, *user = NULL;
    int64_t dims = 0;
    bool given;
    glia_status st = glia_json_str(root, "", "model", &model, err);
    if (st || (st = glia_json_str(root, "", "encoding_format", &format, err))) return st;
    if (format && strcmp(format, "float") != 0 && strcmp(format, "base64") != 0) {
        return glia_fail_at(err, GLIA_EINVAL, "encoding_format", "encoding_format must be \"float\" or \"base64\"");
    }
    b->base64 = format && !strcmp(format, "base64");
    b->normalize = true;
    if ((st = glia_json_bool(root, "", "normalize", &b->normalize, NULL, err))) return st;
    if ((st = glia_json_str(root, "", "user", &user, err))) return st;
    if ((st = glia_json_int(root, "", "dimensions", 1, INT32_MAX, &dims, &given, err))) return st;
    if ((st = glia_app_find(b->app, model, &b->model, err))) return st;
    glia_model_get_info(b->model, &b->info);
    b->n_dims = given ? (int32_t)(dims > INT32_MAX ? INT32_MAX : dims) : b->info.n_vector;
    if (b->n_dims > b->info.n_vector) {
        return glia_fail_at(err, GLIA_EINVAL, "dimensions", "dimensions: the vectors of this model have %d",
                            (int)b->info.n_vector);
    }
    return read_pooling(b, root, err);
}

static glia_status read_text(const batch *b, yyjson_val *v, const char *param, text *t, glia_err *err) {
    glia_status st;
    if (yyjson_is_str(v)) {
        st = glia_prompt_text(b->model, yyjson_get_str(v), yyjson_get_len(v), param, true, true, &t->tokens, &t->n, err);
    } else if (yyjson_is_arr(v)) {
        st = glia_prompt_ids(b->model, v, param, &t->tokens, &t->n, err);
    } else {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string or a list of token ids, not %s", param,
                            glia_json_kind(v));
    }
    if (st) return st;
    if (!t->n) return glia_fail_at(err, GLIA_EINVAL, param, "%s is empty: the model needs at least one token", param);
    if (t->n > (size_t)b->info.n_ctx) {
        return glia_fail_at(err, GLIA_ECONTEXT, param, "%s has %zu tokens, the context of this model holds %d", param,
                            t->n, (int)b->info.n_ctx);
    }
    return GLIA_OK;
}

static glia_status read_input(batch *b, yyjson_val *root, glia_err *err) {
    yyjson_val *input = glia_json_get(root, "input"), *first = yyjson_is_arr(input) ? yyjson_arr_get_first(input) : NULL;
    glia_status st = GLIA_OK;
    if (!input)
        return glia_fail_at(err, GLIA_EINVAL, "input", "input is missing: a string, token ids, or a list of either");
    b->list = first && (yyjson_is_str(first) || yyjson_is_arr(first));
    b->n = b->list ? yyjson_arr_size(input) : 1;
    if (b->n > MAX_TEXTS) {
        return glia_fail_at(err, GLIA_EINVAL, "input", "input: %zu texts, at most %d in one request", b->n,
                            (int)MAX_TEXTS);
    }
    if (!(b->texts = glia_calloc(b->n, sizeof *b->texts))) return glia_fail(err, GLIA_ENOMEM, "no memory for the texts");
    for (size_t i = 0; i < b->n && !st; i++) {
        char param[32] = "input";
        if (b->list) (void)snprintf(param, sizeof param, "input[%zu]", i);
        st = read_text(b, b->list ? yyjson_arr_get(input, i) : input, param, &b->texts[i], err);
    }
    size_t max = b->app->max_reply ? b->app->max_reply : DEFAULT_MAX_REPLY;
    if (st || b->n * (size_t)b->n_dims <= max / BYTES_PER_FLOAT) return st;
    return glia_fail_at(err, GLIA_ETOOLARGE, "input", "these vectors would make a reply of more than %zu MiB: ask in parts",
                        max >> 20);
}

/* ------------------------------------------------------------------ running */

static void batch_free(void *self) {
    batch *b = self;
    if (!b) return;
    for (size_t i = 0; b->texts && i < b->n; i++) {
        glia_embed_free(b->texts[i].embed);
        glia_free(b->texts[i].tokens);
        glia_free(b->texts[i].v);
    }
    if (b->waker) glia_http_waker_release(b->waker);
    glia_free(b->texts);
    glia_app_release(b->app, b->model);
    glia_free(b);
}

static void on_end(void *ud) { glia_http_waker_wake(ud); }

static glia_status keep(const batch *b, text *t, const float *v, glia_err *err) {
    double sum = 0;
    for (int32_t i = 0; i < b->n_dims; i++) sum += (double)v[i] * v[i];
    if (!isfinite(sum)) return glia_fail(err, GLIA_EINTERNAL, "the model's vector of a text is not finite");
    if (!(t->v = glia_malloc((size_t)b->n_dims * sizeof *t->v))) return glia_fail(err, GLIA_ENOMEM, "no memory for a vector");
    double scale = b->normalize && sum > 0 ? 1 / sqrt(sum) : 1;
    for (int32_t i = 0; i < b->n_dims; i++) t->v[i] = (float)(v[i] * scale);
    return GLIA_OK;
}

static glia_status take(batch *b, glia_err *err) {
    for (size_t i = 0; i < b->n_submitted; i++) {
        text *t = &b->texts[i];
        const float *v;
        glia_err why = {0};
        if (!t->embed || !glia_embed_take(t->embed, &v, &why)) continue;
        glia_status st = v ? keep(b, t, v, err) : why.status;
        if (!v) *err = why;
        glia_embed_free(t->embed);
        t->embed = NULL;
        if (st) return st;
        b->n_done++;
    }
    return GLIA_OK;
}

static glia_status submit(batch *b, glia_err *err) {
    size_t most = (size_t)(b->info.n_parallel < MAX_AT_ONCE ? b->info.n_parallel : MAX_AT_ONCE);
    while (b->n_submitted < b->n && b->n_submitted - b->n_done < most) {
        text *t = &b->texts[b->n_submitted];
        glia_status st = glia_embed_submit(&t->embed, b->model, t->tokens, t->n, b->pooling, on_end, b->waker, err);
        if (st == GLIA_EBUSY && b->n_submitted > b->n_done) return GLIA_OK; /* one of ours will wake us */
        if (st) return st;
        b->n_submitted++;
    }
    return GLIA_OK;
}

static void add_vector(glia_buf *out, const batch *b, const float *v) {
    char number[GLIA_FLOAT_CHARS];
    if (b->base64) {
        glia_buf_adds(out, "\"");
        glia_base64_add(out, v, (size_t)b->n_dims * sizeof *v);
        glia_buf_adds(out, "\"");
        return;
    }
    glia_buf_adds(out, "[");
    for (int32_t i = 0; i < b->n_dims; i++) {
        if (i) glia_buf_adds(out, ",");
        glia_buf_add(out, number, glia_float_text(v[i], number));
    }
    glia_buf_adds(out, "]");
}

static void reply(batch *b, glia_http_request *rq) {
    glia_buf out = {0};
    size_t n_tokens = 0;
    glia_buf_adds(&out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < b->n; i++) {
        glia_buf_addf(&out, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "", i);
        add_vector(&out, b, b->texts[i].v);
        glia_buf_adds(&out, "}");
        n_tokens += b->texts[i].n;
        glia_free(b->texts[i].v);
        b->texts[i].v = NULL;
    }
    glia_buf_adds(&out, "],\"model\":");
    glia_json_add_cstr(&out, b->info.id);
    glia_buf_addf(&out, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu}}\n", n_tokens, n_tokens);
    glia_reply_json(rq, &out);
}

static int batch_start(void *self, glia_http_request *rq) {
    batch *b = self;
    glia_err err;
    size_t done;
    glia_status st = take(b, &err);
    do { /* what ended meanwhile makes room for more */
        done = b->n_done;
        if (!st) st = submit(b, &err);
        if (!st) st = take(b, &err);
    } while (!st && b->n_done > done && b->n_submitted < b->n);
    if (st) {
        (void)glia_http_reply_error(rq, &err);
        return GLIA_HTTP_END;
    }
    if (b->n_done < b->n) return GLIA_HTTP_WAIT;
    reply(b, rq);
    return GLIA_HTTP_END;
}

static ssize_t batch_read(void *self, char *out, size_t max) {
    (void)self, (void)out, (void)max;
    return GLIA_HTTP_ABORT; /* never a stream */
}

static const glia_http_generator generator = {batch_start, batch_read, NULL, batch_free};

void glia_on_embeddings(void *ud, glia_http_request *rq) {
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    size_t n;
    glia_err err;
    const char *body = glia_http_body(rq, &n);
    batch *b = glia_calloc(1, sizeof *b);
    glia_status st = b ? GLIA_OK : glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
    if (b) b->app = ud;
    if (!st) st = glia_json_parse_object(&doc, &root, body, n, &err);
    if (!st) st = read_fields(b, root, &err);
    if (!st) st = read_input(b, root, &err);
    if (!st && !(b->waker = glia_http_waker_get(rq))) st = glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
    yyjson_doc_free(doc);
    if (st) {
        (void)glia_http_reply_error(rq, &err);
        batch_free(b);
        return;
    }
    (void)glia_http_defer(rq, &generator, b);
}

/* api/job.c — life of a generation request: parse, submit, pull, end. */
#include "api/job.h"
#include "api/prompt.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { DEFAULT_MAX_REPLY = 1 << 30 };

/* ------------------------------------------------------------------ generator */

static void job_free(void *self) {
    glia_job *j = self;
    if (!j) return;
    if (j->rq) glia_request_on_event(j->rq, NULL, NULL); /* before the waker goes */
    glia_event_free(j->ev);
    glia_request_free(j->rq);
    if (j->waker) glia_http_waker_release(j->waker);
    for (size_t i = 0; j->entries && i < j->acts.n_keys; i++) glia_buf_clear(&j->entries[i]);
    for (size_t i = 0; j->rows && i < j->acts.n; i++) glia_act_rows_clear(&j->rows[i]);
    glia_free(j->entries);
    glia_free(j->rows);
    for (int i = 0; i < 4; i++) glia_buf_clear(&j->logprobs[i]);
    glia_buf_clear(&j->text);
    glia_buf_clear(&j->out);
    glia_buf_clear(&j->prompt_text);
    glia_gen_clear(&j->gen);
    glia_acts_clear(&j->acts);
    glia_free(j->prompt);
    glia_free(j);
}

static void job_gone(void *self) {
    glia_job *j = self;
    if (j->rq) glia_request_cancel(j->rq);
}

static int reply_error(glia_http_request *rq, const glia_err *err) {
    (void)glia_http_reply_error(rq, err);
    return GLIA_HTTP_END;
}

static int reply_whole(glia_job *j, glia_http_request *rq, const glia_event *done) {
    size_t n;
    char *body = glia_whole_body(j, done, &n);
    if (body) {
        (void)glia_http_reply_take(rq, 200, "application/json", body, n);
        return GLIA_HTTP_END;
    }
    glia_err err;
    (void)glia_fail(&err, GLIA_ENOMEM, "no memory for the reply: ask for fewer activations, or stream them");
    return reply_error(rq, &err);
}

static int start_whole(glia_job *j, glia_http_request *rq) {
    for (glia_event *ev; (ev = glia_request_next(j->rq, 0));) {
        glia_err err;
        int end = GLIA_HTTP_WAIT;
        if (ev->kind == GLIA_EVENT_ERROR) {
            glia_acts_fix_param(&j->acts, &ev->u.error);
            end = reply_error(rq, &ev->u.error);
        } else if (glia_whole_add(j, ev, &err)) {
            glia_request_cancel(j->rq);
            end = reply_error(rq, &err);
        } else if (ev->kind == GLIA_EVENT_DONE) {
            end = reply_whole(j, rq, ev);
        }
        glia_event_free(ev);
        if (end != GLIA_HTTP_WAIT) return end;
    }
    return GLIA_HTTP_WAIT;
}

/* The status line waits for the first event, so that a request that fails at once gets a proper error. */
static int start_stream(glia_job *j, glia_http_request *rq) {
    if (!(j->ev = glia_request_next(j->rq, 0))) return GLIA_HTTP_WAIT;
    if (j->ev->kind == GLIA_EVENT_ERROR) {
        glia_acts_fix_param(&j->acts, &j->ev->u.error);
        return reply_error(rq, &j->ev->u.error);
    }
    (void)glia_http_header_add(rq, "Cache-Control", "no-cache");
    (void)glia_http_header_add(rq, "X-Accel-Buffering", "no");
    return glia_http_stream(rq, 200, glia_stream_type(j)) ? GLIA_HTTP_ABORT : 1;
}

static int job_start(void *self, glia_http_request *rq) {
    glia_job *j = self;
    return j->wire == GLIA_WIRE_WHOLE ? start_whole(j, rq) : start_stream(j, rq);
}

static ssize_t job_read(void *self, char *out, size_t max) {
    glia_job *j = self;
    size_t n = 0;
    while (n < max) {
        size_t left = j->out.n - j->out_at;
        if (left) {
            size_t take = left < max - n ? left : max - n;
            memcpy(out + n, j->out.p + j->out_at, take);
            j->out_at += take, n += take;
            continue;
        }
        j->out.n = j->out_at = 0;
        if (j->ended || !glia_stream_fill(j)) break;
        if (j->out.failed) return GLIA_HTTP_ABORT;
    }
    if (n) return (ssize_t)n;
    return j->ended ? GLIA_HTTP_END : GLIA_HTTP_WAIT;
}

static const glia_http_generator generator = {job_start, job_read, job_gone, job_free};

/* ------------------------------------------------------------------ making one */

static void make_id(char *out, size_t cap, const char *prefix) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    unsigned char random[22];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) memset(random, 7, sizeof random);
    size_t n = (size_t)snprintf(out, cap, "%s", prefix);
    for (size_t i = 0; i < sizeof random && n + 1 < cap; i++) out[n++] = letters[random[i] % 36];
    out[n] = 0;
}

static glia_status parse_echo(glia_job *j, yyjson_val *root, glia_err *err) {
    if (j->kind != GLIA_API_COMPLETION) return GLIA_OK;
    glia_status st = glia_json_bool(root, "", "echo", &j->echo, NULL, err);
    if (st || !j->echo || j->gen.sampling.n_logprobs < 0) return st;
    return glia_fail_at(err, GLIA_EINVAL, "echo", "echo together with logprobs is not supported yet");
}

static glia_status parse_prompt(glia_job *j, yyjson_val *root, glia_err *err) {
    glia_status st = j->kind == GLIA_API_CHAT ? glia_prompt_chat(j->model, root, &j->prompt, &j->n_prompt, NULL, err)
                                              : glia_prompt_completion(j->model, root, &j->prompt, &j->n_prompt,
                                                                       j->echo ? &j->prompt_text : NULL, err);
    if (st) return st;
    const char *param = j->kind == GLIA_API_CHAT ? "messages" : "prompt";
    size_t n_ctx = (size_t)j->info.n_ctx;
    if (j->n_prompt > n_ctx || (j->n_prompt == n_ctx && j->gen.max_tokens != 0)) {
        return glia_fail_at(err, GLIA_ECONTEXT, param, "the prompt has %zu tokens, the context of this model holds %zu",
                            j->n_prompt, n_ctx);
    }
    return GLIA_OK; /* whether max_tokens fits behind it is the engine's to say */
}

static glia_status parse_body(glia_job *j, yyjson_val *root, glia_err *err) {
    const char *model = NULL;
    glia_status st;
    if ((st = glia_json_str(root, "", "model", &model, err))) return st;
    if ((st = glia_app_find(j->app, model, &j->model, err))) return st;
    glia_model_get_info(j->model, &j->info);
    if ((st = glia_gen_parse(&j->gen, root, j->kind, j->info.n_vocab, err))) return st;
    if ((st = glia_acts_parse(&j->acts, root, j->typed, j->info.n_layer, j->info.arch, err))) return st;
    if (j->gen.stream && j->acts.format.merge) {
        return glia_fail_at(err, GLIA_EINVAL, "activation_format.merge",
                            "activation_format.merge needs a reply in one piece: leave it out, or stream out");
    }
    if ((st = parse_echo(j, root, err))) return st;
    return parse_prompt(j, root, err);
}

/* Whether `Accept` names this type with a weight above zero; wildcards do not count. */
static bool accepts(glia_http_request *rq, const char *type) {
    const char *accept = glia_http_header(rq, "Accept");
    return accept && strcasestr(accept, type);
}

static void choose_wire(glia_job *j, glia_http_request *rq) {
    if (!j->gen.stream) j->wire = GLIA_WIRE_WHOLE;
    else if (j->typed && !accepts(rq, "text/event-stream")) j->wire = GLIA_WIRE_NDJSON;
    else j->wire = GLIA_WIRE_SSE;
}

static glia_status check_reply_size(const glia_job *j, const glia_request_params *p, glia_err *err) {
    uint64_t bytes, max = j->app->max_reply ? j->app->max_reply : DEFAULT_MAX_REPLY;
    if (j->wire != GLIA_WIRE_WHOLE || !j->acts.n) return GLIA_OK;
    glia_status st = glia_request_capture_bytes(j->model, p, &bytes, err);
    if (st) return st;
    bytes = glia_acts_reply_bytes(&j->acts, bytes);
    if (bytes <= max) return GLIA_OK;
    return glia_fail_at(err, GLIA_ETOOLARGE, "activation_hooks",
                        "these activations would make a reply of %llu MiB, more than %llu: set stream or max_tokens, "
                        "encoding base64, or ask for fewer rows",
                        (unsigned long long)(bytes >> 20), (unsigned long long)(max >> 20));
}

static void on_event(void *ud) { glia_http_waker_wake(ud); }

static glia_status submit(glia_job *j, glia_http_request *rq, glia_err *err) {
    glia_request_params p;
    glia_request_params_init(&p);
    p.prompt = j->prompt, p.n_prompt = j->n_prompt;
    p.max_tokens = j->gen.max_tokens;
    p.sampling = j->gen.sampling;
    p.stop = (const char *const *)j->gen.stop, p.n_stop = j->gen.n_stop;
    p.hooks = j->acts.hooks, p.n_hooks = j->acts.n;
    p.no_cache = j->gen.no_cache;
    p.whole_reply = j->wire == GLIA_WIRE_WHOLE;
    glia_status st = check_reply_size(j, &p, err);
    if (!st) st = glia_request_submit(&j->rq, j->model, &p, err);
    if (st) {
        if (err) glia_acts_fix_param(&j->acts, err);
        return st;
    }
    if (!(j->waker = glia_http_waker_get(rq))) return glia_fail(err, GLIA_ENOMEM, "no memory for the request");
    glia_request_on_event(j->rq, on_event, j->waker);
    return GLIA_OK;
}

void glia_job_serve(glia_app *app, glia_http_request *rq, glia_api_kind kind, bool with_activations) {
    glia_err err;
    glia_status st;
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    size_t n;
    const char *body = glia_http_body(rq, &n);
    glia_job *j = glia_calloc(1, sizeof *j);
    if (!j) {
        st = glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
        goto done;
    }
    j->app = app, j->kind = kind, j->typed = with_activations;
    j->created = (int64_t)time(NULL);
    make_id(j->id, sizeof j->id, kind == GLIA_API_CHAT ? "chatcmpl-" : "cmpl-");
    if ((st = glia_json_parse_object(&doc, &root, body, n, &err))) goto done;
    if ((st = parse_body(j, root, &err))) goto done;
    choose_wire(j, rq);
    if ((st = submit(j, rq, &err))) goto done;
    (void)glia_http_defer(rq, &generator, j); /* owns j from here on, also on failure */
    j = NULL;
done:
    yyjson_doc_free(doc);
    if (st) (void)glia_http_reply_error(rq, &err);
    job_free(j);
}

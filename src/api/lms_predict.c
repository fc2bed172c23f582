/* api/lms_predict.c — predictions of LM Studio's SDKs: a job (job.h) whose face sends over a channel.
 *
 * The connection's thread.  Request: lms_translate.c.  Sent are fragment, promptProcessingProgress, toolCallGeneration… and
 * at the end success, with what was asked and with which model. */
#include "api/job.h"
#include "api/lms_info.h"
#include "api/lms_socket.h"
#include "api/lms_translate.h"
#include "base/err.h"
#include "base/mem.h"

typedef struct prediction {
    glia_channel channel; /* first: a channel is its prediction */
    glia_job *job;
    glia_buf settings; /* predictionConfig of the reply */
    bool stopped;      /* by the client */
} prediction;

static prediction *of(const glia_job *j) { return j->owner; }

/* ------------------------------------------------------------------ face */

static void send_fragment(glia_job *j, const char *text, size_t n, const char *kind, const glia_event *token) {
    glia_buf *b = glia_channel_open_message(&of(j)->channel);
    glia_buf_adds(b, "{\"type\":\"fragment\",\"fragment\":{\"content\":");
    glia_json_add_str(b, text, n);
    glia_buf_addf(b, ",\"tokensCount\":1,\"containsDrafted\":false,\"reasoningType\":\"%s\",\"isStructural\":false}", kind);
    if (token && j->gen.sampling.n_logprobs > 0) {
        glia_buf_adds(b, ",\"logprobs\":[[");
        for (size_t i = 0; i < token->u.token.n_top; i++) {
            const glia_logprob *p = &token->u.token.top[i];
            char *piece = NULL;
            size_t n_piece = 0;
            if (glia_model_detokenize(j->model, &p->token, 1, true, &piece, &n_piece, NULL)) b->failed = true;
            glia_buf_adds(b, i ? ",{\"text\":" : "{\"text\":");
            glia_json_add_str(b, piece ? piece : "", n_piece);
            glia_buf_addf(b, ",\"logprob\":%.6g}", (double)p->logprob);
            glia_free(piece);
        }
        glia_buf_adds(b, "]]");
    }
    glia_buf_adds(b, "}");
    glia_channel_close_message(&of(j)->channel);
}

static void on_text(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token) {
    (void)c;
    send_fragment(j, text, n, "none", token);
}

static void on_reasoning(glia_job *j, glia_choice *c, const char *text, size_t n) {
    (void)c;
    send_fragment(j, text, n, "reasoning", NULL);
}

static void on_progress(glia_job *j, glia_choice *c, int32_t n_done, int32_t n_total) {
    (void)c;
    glia_buf *b = glia_channel_open_message(&of(j)->channel);
    glia_buf_addf(b, "{\"type\":\"promptProcessingProgress\",\"progress\":%.6g,\"processed\":%d,\"total\":%d}",
                  n_total > 0 ? (double)n_done / n_total : 1.0, (int)n_done, (int)n_total);
    glia_channel_close_message(&of(j)->channel);
}

/* ---- calls of tools: the k-th one is whole when the next one begins, or at the end */

static void begin_call(glia_job *j, const glia_choice *c, size_t k) {
    glia_buf *b = glia_channel_open_message(&of(j)->channel);
    glia_buf_adds(b, "{\"type\":\"toolCallGenerationStart\",\"toolCallId\":");
    glia_add_call_id(b, j, c, k);
    glia_buf_adds(b, "}");
    glia_channel_close_message(&of(j)->channel);
    b = glia_channel_open_message(&of(j)->channel);
    glia_buf_adds(b, "{\"type\":\"toolCallGenerationNameReceived\",\"name\":");
    glia_json_add_str(b, c->answer.calls[k].name.p, c->answer.calls[k].name.n);
    glia_buf_adds(b, "}");
    glia_channel_close_message(&of(j)->channel);
}

static void end_call(glia_job *j, const glia_choice *c, size_t k) {
    const glia_call *call = &c->answer.calls[k];
    const char *args = call->args.n ? call->args.p : "{}";
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    glia_err err;
    glia_status st = glia_json_parse_object(&doc, &root, args, call->args.n ? call->args.n : 2, &err);
    glia_buf *b = glia_channel_open_message(&of(j)->channel);
    if (st) {
        glia_buf_adds(b, "{\"type\":\"toolCallGenerationFailed\",\"error\":");
        glia_add_lms_error(b, j->app, &err);
    } else {
        glia_buf_adds(b, "{\"type\":\"toolCallGenerationEnd\",\"toolCallRequest\":{\"type\":\"function\",\"id\":");
        glia_add_call_id(b, j, c, k);
        glia_buf_adds(b, ",\"name\":");
        glia_json_add_str(b, call->name.p, call->name.n);
        glia_buf_adds(b, ",\"arguments\":");
        glia_json_add_value(b, root);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, ",\"rawContent\":");
    glia_json_add_str(b, call->args.p ? call->args.p : "", call->args.n);
    glia_buf_adds(b, "}");
    glia_channel_close_message(&of(j)->channel);
    yyjson_doc_free(doc);
}

static void on_call(glia_job *j, glia_choice *c, size_t k, bool first, const char *args, size_t n) {
    if (first && k) end_call(j, c, k - 1);
    if (first) begin_call(j, c, k);
    if (!n) return;
    glia_buf *b = glia_channel_open_message(&of(j)->channel);
    glia_buf_adds(b, "{\"type\":\"toolCallGenerationArgumentFragmentGenerated\",\"content\":");
    glia_json_add_str(b, args, n);
    glia_buf_adds(b, "}");
    glia_channel_close_message(&of(j)->channel);
}

static void on_close(glia_job *j, glia_choice *c) {
    if (c->n_calls) end_call(j, c, c->n_calls - 1);
}

static void send_success(glia_job *j) {
    const glia_choice *c = &j->choices[0];
    const glia_usage *u = &c->usage;
    glia_buf *b = glia_channel_open_message(&of(j)->channel);
    glia_buf_addf(b, "{\"type\":\"success\",\"stats\":{\"stopReason\":\"%s\"",
                  of(j)->stopped ? "userStopped" : glia_lms_stop_reason(j, c));
    if (c->ended) {
        glia_buf_addf(b,
                      ",\"tokensPerSecond\":%.9g,\"timeToFirstTokenSec\":%.6f,\"totalTimeSec\":%.6f,\"promptTokensCount\":%d,"
                      "\"predictedTokensCount\":%d,\"totalTokensCount\":%d",
                      glia_lms_rate(u), u->prompt_ms / 1000, (u->prompt_ms + u->generate_ms) / 1000, (int)u->n_prompt,
                      (int)u->n_generated, (int)(u->n_prompt + u->n_generated));
    }
    glia_buf_adds(b, "},\"modelInfo\":");
    glia_add_lms_instance(b, j->app, &j->info, false);
    glia_buf_adds(b, ",\"loadModelConfig\":");
    glia_add_lms_load_config(b, &j->info);
    glia_buf_adds(b, ",\"predictionConfig\":");
    glia_buf_add(b, of(j)->settings.p, of(j)->settings.n);
    glia_buf_adds(b, "}");
    glia_channel_close_message(&of(j)->channel);
    glia_channel_close(&of(j)->channel);
}

static void on_end(glia_job *j) { send_success(j); }

/* What the client stopped itself is no error. */
static void on_error(glia_job *j, const glia_err *err) {
    if (of(j)->stopped && err->status == GLIA_ECANCELLED) send_success(j);
    else glia_channel_fail(&of(j)->channel, err);
}

#define FACE(which)                                                                                                    \
    {.id_prefix = "pred-",     .kind = which,         .text = on_text,     .reasoning = on_reasoning, .call = on_call, \
     .progress = on_progress, .close = on_close, .end = on_end, .error = on_error}
static const glia_face chat_face = FACE(GLIA_API_CHAT), text_face = FACE(GLIA_API_COMPLETION);

/* ------------------------------------------------------------------ channel */

static void woken(glia_channel *c) {
    prediction *p = (prediction *)c;
    while (!c->ended && !glia_socket_is_full(c->socket) && glia_stream_fill(p->job)) {}
}

static void on_message(glia_channel *c, yyjson_val *message) {
    prediction *p = (prediction *)c;
    if (!yyjson_equals_str(glia_json_get(message, "type"), "cancel")) return;
    p->stopped = true;
    glia_job_cancel(p->job);
}

static void on_free(glia_channel *c) {
    prediction *p = (prediction *)c;
    glia_job_free(p->job);
    glia_buf_clear(&p->settings);
    glia_free(p);
}

static glia_status open_prediction(glia_socket *s, yyjson_val *parameter, glia_channel **out, glia_err *err) {
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    glia_buf body = {0};
    bool is_text;
    prediction *p = glia_calloc(1, sizeof *p);
    glia_status st = p ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for the prediction");
    if (!st && !yyjson_is_obj(parameter))
        st = glia_fail_at(err, GLIA_EINVAL, "creationParameter", "predict needs modelSpecifier, history and predictionConfigStack");
    if (!st) {
        p->channel = (glia_channel){.woken = woken, .message = on_message, .free = on_free, .socket = s};
        glia_lms_add_settings(&p->settings, glia_json_get(parameter, "predictionConfigStack"));
        if (p->settings.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the prediction");
    }
    if (!st) st = glia_lms_request(parameter, &body, &is_text, err);
    if (!st) st = glia_json_parse_object(&doc, &root, body.p, body.n, err);
    if (!st)
        st = glia_job_begin(&p->job, glia_socket_app(s), is_text ? &text_face : &chat_face, root, p, glia_socket_wake, s, err);
    yyjson_doc_free(doc);
    glia_buf_clear(&body);
    if (st) {
        if (p) on_free(&p->channel);
        return st;
    }
    *out = &p->channel;
    return GLIA_OK;
}

const glia_endpoint glia_lms_predictions[] = {
    {"llm", "predict", GLIA_SCOPE_INFER, NULL, open_prediction, false},
    {NULL, NULL, 0, NULL, NULL, false},
};

/* api/pieces.c — parts of replies that whole replies and streams share.  Any thread. */
#include "api/encode.h"
#include "api/job.h"
#include "base/utf8.h"
#include <math.h>

const char *glia_finish_name(glia_finish f) { return f == GLIA_FINISH_LENGTH ? "length" : "stop"; }

void glia_add_usage(glia_buf *b, const glia_job *j) {
    glia_usage u = glia_job_usage(j);
    int n_reasoning = 0;
    for (size_t i = 0; i < j->n_choices; i++) n_reasoning += (int)glia_reasoning_tokens(&j->choices[i]);
    glia_buf_addf(b,
                  "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%d}",
                  (int)u.n_prompt, (int)u.n_generated, (int)(u.n_prompt + u.n_generated), (int)u.n_cached);
    if (n_reasoning || u.n_guessed || j->face->lms) {
        glia_buf_addf(b, ",\"completion_tokens_details\":{\"reasoning_tokens\":%d", n_reasoning);
        if (u.n_guessed) {
            glia_buf_addf(b, ",\"accepted_prediction_tokens\":%d,\"rejected_prediction_tokens\":%d", (int)u.n_right,
                          (int)(u.n_guessed - u.n_right));
        }
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "}");
}

static void add_rate(glia_buf *b, const char *name, int n, double ms) {
    glia_buf_addf(b, ",\"%s_n\":%d,\"%s_ms\":", name, n, name);
    glia_json_add_num(b, ms);
    glia_buf_addf(b, ",\"%s_per_second\":", name);
    glia_json_add_num(b, ms > 0 ? 1000.0 * n / ms : 0);
}

void glia_add_timings(glia_buf *b, const glia_usage *u) {
    glia_buf_adds(b, "{\"queue_ms\":");
    glia_json_add_num(b, u->queue_ms);
    glia_buf_addf(b, ",\"cache_n\":%d", (int)u->n_cached);
    add_rate(b, "prompt", (int)(u->n_prompt - u->n_cached), u->prompt_ms);
    add_rate(b, "predicted", (int)u->n_generated, u->generate_ms);
    if (u->n_guessed) glia_buf_addf(b, ",\"draft_n\":%d,\"draft_n_accepted\":%d", (int)u->n_guessed, (int)u->n_right);
    glia_buf_adds(b, "}");
}

void glia_add_head(glia_buf *b, const glia_job *j, const char *object) {
    glia_buf_addf(b, "\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", j->id, object,
                  (long long)j->created);
    glia_json_add_cstr(b, j->info.id);
    glia_buf_adds(b, ",\"system_fingerprint\":\"glia-" GLIA_VERSION "\"");
}

void glia_add_error(glia_buf *b, const glia_err *err) {
    glia_buf_adds(b, "\"error\":{\"message\":");
    glia_json_add_cstr(b, err->message);
    glia_buf_addf(b, ",\"type\":\"%s\",\"param\":", glia_status_type(err->status));
    glia_json_add_cstr(b, err->param[0] ? err->param : NULL);
    glia_buf_addf(b, ",\"code\":\"%s\"}", glia_status_code(err->status));
}

/* ------------------------------------------------------------------ log-probabilities */

/* JSON has no -Infinity; -9999 is what OpenAI's own API answers for it. */
static void add_logprob(glia_buf *b, float x) {
    char text[GLIA_FLOAT_CHARS];
    glia_buf_add(b, text, glia_float_text(isfinite(x) ? x : -9999.0f, text));
}

/* The bytes of one token, also those that are no text by themselves. */
static char *piece_of(const glia_job *j, int32_t token, size_t *n) {
    char *s = NULL;
    *n = 0;
    return glia_model_detokenize(j->model, &token, 1, true, &s, n, NULL) ? NULL : s;
}

static void add_token_fields(glia_buf *b, const glia_job *j, int32_t token, float logprob) {
    size_t n;
    char *s = piece_of(j, token, &n);
    glia_buf_addf(b, "\"id\":%d,\"token\":", (int)token);
    glia_json_add_str(b, s ? s : "", n);
    glia_buf_adds(b, ",\"logprob\":");
    add_logprob(b, logprob);
    glia_buf_adds(b, ",\"bytes\":[");
    for (size_t i = 0; s && i < n; i++) glia_buf_addf(b, i ? ",%u" : "%u", (unsigned)(unsigned char)s[i]);
    glia_buf_adds(b, "]");
    glia_free(s);
}

void glia_add_chat_logprob(glia_buf *b, const glia_job *j, const glia_event *ev) {
    glia_buf_adds(b, "{");
    add_token_fields(b, j, ev->u.token.id, ev->u.token.logprob);
    glia_buf_adds(b, ",\"top_logprobs\":[");
    for (size_t i = 0; i < ev->u.token.n_top; i++) {
        glia_buf_adds(b, i ? ",{" : "{");
        add_token_fields(b, j, ev->u.token.top[i].token, ev->u.token.top[i].logprob);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]}");
}

/* A token as the key of an object: bytes that are no text by themselves are spelled, so that keys stay different. */
static void add_token_key(glia_buf *b, const char *s, size_t n) {
    if (glia_utf8_valid(s, n)) {
        glia_json_add_str(b, s, n);
        return;
    }
    glia_buf_adds(b, "\"bytes:");
    for (size_t i = 0; i < n; i++) glia_buf_addf(b, "\\\\x%02x", (unsigned)(unsigned char)s[i]);
    glia_buf_adds(b, "\"");
}

static size_t count_characters(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

void glia_add_completion_logprob(glia_buf lists[4], glia_job *j, glia_choice *c, const glia_event *ev, bool predicted) {
    const char *comma = lists[0].n ? "," : "";
    size_t n;
    char *s = piece_of(j, ev->u.token.id, &n);
    for (int i = 0; i < 4; i++) glia_buf_adds(&lists[i], comma);
    add_token_key(&lists[0], s ? s : "", n);
    if (predicted) add_logprob(&lists[1], ev->u.token.logprob);
    else glia_buf_adds(&lists[1], "null");
    glia_buf_adds(&lists[2], predicted ? "{" : "null");
    for (size_t i = 0; i < ev->u.token.n_top; i++) {
        size_t n_top;
        char *top = piece_of(j, ev->u.token.top[i].token, &n_top);
        if (i) glia_buf_adds(&lists[2], ",");
        add_token_key(&lists[2], top ? top : "", n_top);
        glia_buf_adds(&lists[2], ":");
        add_logprob(&lists[2], ev->u.token.top[i].logprob);
        glia_free(top);
    }
    if (predicted) glia_buf_adds(&lists[2], "}");
    glia_buf_addf(&lists[3], "%zu", c->text_chars);
    c->text_chars += count_characters(s ? s : "", n);
    glia_free(s);
}

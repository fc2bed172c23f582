/* api/answer.c — the text of a choice read as content, reasoning and calls of tools, whole or as it grows.  The HTTP
 * thread of the job. */
#include "api/job.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

/* Did the parser leave nothing of a text that says something?  That is as good as not of its format. */
static bool passed_over(const glia_choice *c) {
    const glia_answer *a = &c->answer;
    size_t n = c->text.n;
    while (n && strchr(" \t\r\n", c->text.p[n - 1])) n--;
    return n && !a->content.n && !a->reasoning.n && !a->n_calls;
}

/* What the text says so far.  An answer that is not of the model's format is taken as it stands. */
static glia_status read_all(glia_job *j, glia_choice *c, bool partial, glia_err *err) {
    const char *text = c->text.p ? c->text.p : "";
    if (j->reads == GLIA_READS_OWN) {
        glia_answer_read(&c->answer, text, c->text.n, partial);
        return c->answer.failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the answer") : GLIA_OK;
    }
    char *json;
    size_t n;
    glia_status st = glia_chat_parse(j->chat, text, c->text.n, partial, &json, &n, err);
    if (st == GLIA_EINVAL && !partial) { /* cut by its length, most often: then what there is of it */
        st = glia_chat_parse(j->chat, text, c->text.n, true, &json, &n, err);
    }
    if (!st) {
        st = glia_answer_read_json(&c->answer, json, n, err);
        glia_free(json);
        if (st || partial || !passed_over(c)) return st;
    } else if (st != GLIA_EINVAL) {
        return st;
    }
    if (partial || c->n_reasoning || c->n_calls) return GLIA_OK; /* nothing new */
    c->answer.content.n = c->answer.n_calls = c->answer.reasoning.n = 0;
    return glia_buf_add(&c->answer.content, text, c->text.n) ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory");
}

/* Grammars of llama.cpp's common allow several calls where some templates have no section of calls: one was asked for. */
static glia_status read_text(glia_job *j, glia_choice *c, bool partial, glia_err *err) {
    glia_status st = read_all(j, c, partial, err);
    if (!st && !j->tools.parallel && c->answer.n_calls > 1) c->answer.n_calls = 1, c->one_call = true;
    return st;
}

glia_status glia_answer_whole(glia_job *j, glia_choice *c, glia_err *err) {
    if (j->reads == GLIA_READS_TEXT) return GLIA_OK;
    glia_status st = read_text(j, c, false, err);
    if (!st) c->n_calls = c->answer.n_calls;
    return st;
}

const glia_buf *glia_choice_content(const glia_job *j, const glia_choice *c) {
    return j->reads == GLIA_READS_TEXT ? &c->text : &c->answer.content;
}

/* The end of b behind what was sent; what was sent must still be its beginning, which only its length can tell. */
static size_t fresh(const glia_buf *b, size_t sent) { return b->n > sent ? b->n - sent : 0; }

static void send_calls(glia_job *j, glia_choice *c) {
    for (size_t k = c->n_calls ? c->n_calls - 1 : 0; k < c->answer.n_calls; k++) {
        const glia_call *call = &c->answer.calls[k];
        if (!call->name.n) return;
        bool first = k >= c->n_calls;
        if (first) c->n_calls = k + 1, c->n_args = 0;
        size_t n = fresh(&call->args, c->n_args);
        if (first || n) j->face->call(j, c, k, first, call->args.p ? call->args.p + c->n_args : "", n);
        c->n_args += n;
    }
}

glia_status glia_answer_grow(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token,
                             bool last, glia_err *err) {
    if (j->reads == GLIA_READS_TEXT) {
        if (n || token) j->face->text(j, c, text, n, token);
        return GLIA_OK;
    }
    if (n && !glia_buf_add(&c->text, text, n)) return glia_fail(err, GLIA_ENOMEM, "no memory for the answer");
    if (j->reads == GLIA_READS_CHAT && !last) glia_buf_add(&c->ends, &c->text.n, sizeof c->text.n);
    glia_status st = read_text(j, c, !last, err);
    if (st) return st;
    size_t r = fresh(&c->answer.reasoning, c->n_reasoning), t = fresh(&c->answer.content, c->n_content);
    if (r) j->face->reasoning(j, c, c->answer.reasoning.p + c->n_reasoning, r);
    if (t || token) j->face->text(j, c, t ? c->answer.content.p + c->n_content : "", t, token);
    c->n_reasoning += r, c->n_content += t;
    send_calls(j, c);
    return GLIA_OK;
}

int32_t glia_reasoning_tokens(const glia_choice *c) {
    const glia_buf *r = &c->answer.reasoning;
    if (!r->n || !c->text.p) return 0;
    const char *at = memmem(c->text.p, c->text.n, r->p, r->n);
    size_t end = at ? (size_t)(at - c->text.p) + r->n : r->n, begin = 0;
    int32_t n = 0;
    for (size_t i = 0; i < c->ends.n / sizeof begin && begin < end; i++) {
        memcpy(&begin, c->ends.p + i * sizeof begin, sizeof begin);
        n++;
    }
    return n;
}

const char *glia_finish_reason(const glia_choice *c) {
    return c->n_calls && (c->finish == GLIA_FINISH_STOP || c->one_call) ? "tool_calls" : glia_finish_name(c->finish);
}

void glia_add_call_id(glia_buf *b, const glia_job *j, const glia_choice *c, size_t k) {
    const char *random = strpbrk(j->id, "-_");
    glia_buf_addf(b, "\"call_%s%d_%zu\"", random ? random + 1 : j->id, (int)c->index, k);
}

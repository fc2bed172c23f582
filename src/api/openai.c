/* api/openai.c — chat and text completions as OpenAI's clients know them, whole and streamed, and the typed lines of
 * with_activations.  HTTP threads. */
#include "api/handlers.h"
#include "api/job.h"
#include "base/err.h"
#include "base/mem.h"

static bool is_chat(const glia_job *j) { return j->face->kind == GLIA_API_CHAT; }
static const char *chunk_object(const glia_job *j) { return is_chat(j) ? "chat.completion.chunk" : "text_completion"; }

static void add_buf(glia_buf *b, const glia_buf *piece) {
    if (piece->failed) b->failed = true;
    else if (piece->n) glia_buf_add(b, piece->p, piece->n);
}

/* ------------------------------------------------------------------ whole replies */

static void add_logprob_lists(glia_buf *b, const glia_buf lists[4]) {
    static const char *const names[] = {",\"logprobs\":{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                        "],\"text_offset\":["};
    for (int i = 0; i < 4; i++) {
        glia_buf_adds(b, names[i]);
        add_buf(b, &lists[i]);
    }
    glia_buf_adds(b, "]}");
}

static void add_logprobs(glia_buf *b, const glia_job *j, const glia_choice *c) {
    if (j->gen.sampling.n_logprobs < 0) {
        glia_buf_adds(b, ",\"logprobs\":null");
    } else if (is_chat(j)) {
        glia_buf_adds(b, ",\"logprobs\":{\"content\":[");
        add_buf(b, &c->logprobs[0]);
        glia_buf_adds(b, "],\"refusal\":null}");
    } else {
        add_logprob_lists(b, c->logprobs);
    }
}

static void add_text(glia_buf *b, const glia_job *j, const glia_choice *c) {
    const glia_buf *said = glia_choice_content(j, c);
    if (!j->echo) {
        glia_json_add_str(b, said->p ? said->p : "", said->n);
        return;
    }
    glia_buf both = {0};
    add_buf(&both, &j->prompts[c->prompt].text);
    add_buf(&both, &c->text);
    glia_json_add_str(b, both.p ? both.p : "", both.n);
    if (both.failed) b->failed = true;
    glia_buf_clear(&both);
}

static void add_call_head(glia_buf *b, const glia_job *j, const glia_choice *c, size_t k) {
    const glia_buf *name = &c->answer.calls[k].name;
    glia_buf_adds(b, "\"id\":");
    glia_add_call_id(b, j, c, k);
    glia_buf_adds(b, ",\"type\":\"function\",\"function\":{\"name\":");
    glia_json_add_str(b, name->p ? name->p : "", name->n);
    glia_buf_adds(b, ",\"arguments\":");
}

static void add_message(glia_buf *b, const glia_job *j, const glia_choice *c) {
    glia_buf_adds(b, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (c->n_calls && !c->answer.content.n && !j->face->lms) glia_buf_adds(b, "null");
    else add_text(b, j, c);
    if (c->answer.reasoning.n || j->face->lms) {
        glia_buf_adds(b, ",\"reasoning_content\":");
        glia_json_add_str(b, c->answer.reasoning.p ? c->answer.reasoning.p : "", c->answer.reasoning.n);
    }
    if (j->face->lms && !c->n_calls) glia_buf_adds(b, ",\"tool_calls\":[]");
    for (size_t k = 0; k < c->n_calls; k++) {
        const glia_buf *args = &c->answer.calls[k].args;
        glia_buf_adds(b, k ? ",{" : ",\"tool_calls\":[{");
        add_call_head(b, j, c, k);
        glia_json_add_str(b, args->p ? args->p : "", args->n);
        glia_buf_adds(b, "}}");
    }
    glia_buf_adds(b, c->n_calls ? "]}" : "}");
}

static void add_choice(glia_buf *b, const glia_job *j, const glia_choice *c) {
    glia_buf_addf(b, "{\"index\":%d,", (int)c->index);
    if (is_chat(j)) {
        add_message(b, j, c);
    } else {
        glia_buf_adds(b, "\"text\":");
        add_text(b, j, c);
    }
    add_logprobs(b, j, c);
    glia_buf_addf(b, ",\"finish_reason\":\"%s\"}", glia_finish_reason(c));
}

static char *whole(glia_job *j, size_t *n) {
    glia_buf b = {0};
    glia_usage u = glia_job_usage(j);
    glia_buf_adds(&b, "{");
    glia_add_head(&b, j, is_chat(j) ? "chat.completion" : "text_completion");
    glia_buf_adds(&b, ",\"choices\":[");
    for (size_t i = 0; i < j->n_choices; i++) {
        if (i) glia_buf_adds(&b, ",");
        add_choice(&b, j, &j->choices[i]);
    }
    glia_buf_adds(&b, "],\"usage\":");
    glia_add_usage(&b, j);
    glia_buf_adds(&b, ",\"timings\":");
    glia_add_timings(&b, &u);
    if (j->face->lms) glia_add_lms_rest(&b, j);
    if (j->typed || j->acts.n) {
        glia_buf_adds(&b, ",\"completion\":");
        add_text(&b, j, &j->choices[0]);
        glia_whole_activations(&b, j);
    }
    glia_buf_adds(&b, "}\n");
    return glia_buf_take(&b, n);
}

/* ------------------------------------------------------------------ streams */

static void open_chunk(glia_job *j, const glia_choice *c) {
    glia_stream_open_line(j, "token");
    glia_add_head(&j->out, j, chunk_object(j));
    glia_buf_addf(&j->out, ",\"choices\":[{\"index\":%d,", (int)c->index);
}

/* The rest of a chunk whose text or delta is written. */
static void close_choice(glia_job *j, const char *finish) {
    if (finish) glia_buf_addf(&j->out, ",\"finish_reason\":\"%s\"}]", finish);
    else glia_buf_adds(&j->out, ",\"finish_reason\":null}]");
    if (j->gen.include_usage && !j->typed) glia_buf_adds(&j->out, ",\"usage\":null");
}

static void add_token_logprobs(glia_job *j, glia_choice *c, const glia_event *ev) {
    bool wanted = ev && j->gen.sampling.n_logprobs >= 0 && !ev->u.token.is_eog;
    if (!wanted) {
        glia_buf_adds(&j->out, ",\"logprobs\":null");
    } else if (is_chat(j)) {
        glia_buf_adds(&j->out, ",\"logprobs\":{\"content\":[");
        glia_add_chat_logprob(&j->out, j, ev);
        glia_buf_adds(&j->out, "],\"refusal\":null}");
    } else {
        glia_buf lists[4] = {{0}};
        glia_add_completion_logprob(lists, j, c, ev, true);
        add_logprob_lists(&j->out, lists);
        for (int i = 0; i < 4; i++) glia_buf_clear(&lists[i]);
    }
}

/* role: the first chunk of a chat.  ev: the token that the text came with, NULL when none. */
static void add_text_chunk(glia_job *j, glia_choice *c, const char *text, size_t n, bool role, const glia_event *ev) {
    open_chunk(j, c);
    if (is_chat(j)) {
        glia_buf_adds(&j->out, role ? "\"delta\":{\"role\":\"assistant\",\"content\":" : "\"delta\":{\"content\":");
        glia_json_add_str(&j->out, text, n);
        glia_buf_adds(&j->out, "}");
    } else {
        glia_buf_adds(&j->out, "\"text\":");
        glia_json_add_str(&j->out, text, n);
    }
    add_token_logprobs(j, c, ev);
    close_choice(j, NULL);
    glia_stream_close_line(j);
}

static void stream_open(glia_job *j, glia_choice *c) {
    const glia_buf *prompt = &j->prompts[c->prompt].text;
    if (is_chat(j)) add_text_chunk(j, c, "", 0, true, NULL);
    else if (j->echo) add_text_chunk(j, c, prompt->p ? prompt->p : "", prompt->n, false, NULL);
}

static void stream_text(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *ev) {
    add_text_chunk(j, c, text ? text : "", n, false, ev);
}

static void stream_reasoning(glia_job *j, glia_choice *c, const char *text, size_t n) {
    open_chunk(j, c);
    glia_buf_adds(&j->out, "\"delta\":{\"reasoning_content\":");
    glia_json_add_str(&j->out, text, n);
    glia_buf_adds(&j->out, "}");
    add_token_logprobs(j, c, NULL);
    close_choice(j, NULL);
    glia_stream_close_line(j);
}

static void stream_call(glia_job *j, glia_choice *c, size_t k, bool first, const char *args, size_t n) {
    open_chunk(j, c);
    glia_buf_addf(&j->out, "\"delta\":{\"tool_calls\":[{\"index\":%zu,", k);
    if (first) add_call_head(&j->out, j, c, k);
    else glia_buf_adds(&j->out, "\"function\":{\"arguments\":");
    glia_json_add_str(&j->out, args, n);
    glia_buf_adds(&j->out, "}}]}");
    add_token_logprobs(j, c, NULL);
    close_choice(j, NULL);
    glia_stream_close_line(j);
}

static void stream_close(glia_job *j, glia_choice *c) {
    const char *finish = glia_finish_reason(c);
    if (j->typed) {
        if (j->n_choices == 1) return; /* the last line says it */
        glia_stream_open_line(j, "choice");
        glia_buf_addf(&j->out, "\"index\":%d,\"finish_reason\":\"%s\"", (int)c->index, finish);
        glia_stream_close_line(j);
        return;
    }
    open_chunk(j, c);
    glia_buf_adds(&j->out, is_chat(j) ? "\"delta\":{}" : "\"text\":\"\"");
    add_token_logprobs(j, c, NULL);
    close_choice(j, finish);
    glia_buf_adds(&j->out, ",\"timings\":");
    glia_add_timings(&j->out, &c->usage);
    if (j->face->lms && j->n_ended + 1 == j->n_choices) glia_add_lms_rest(&j->out, j);
    glia_stream_close_line(j);
}

static void stream_end(glia_job *j) {
    glia_usage u = glia_job_usage(j);
    if (j->typed) {
        glia_stream_open_line(j, "done");
        glia_add_head(&j->out, j, "chat.completion.done");
        glia_buf_addf(&j->out, ",\"finish_reason\":\"%s\",\"usage\":", glia_finish_reason(&j->choices[0]));
        glia_add_usage(&j->out, j);
        glia_buf_adds(&j->out, ",\"timings\":");
        glia_add_timings(&j->out, &u);
        glia_stream_close_line(j);
    } else if (j->gen.include_usage) {
        glia_stream_open_line(j, NULL);
        glia_add_head(&j->out, j, chunk_object(j));
        glia_buf_adds(&j->out, ",\"choices\":[],\"usage\":");
        glia_add_usage(&j->out, j);
        glia_stream_close_line(j);
    }
    if (j->wire == GLIA_WIRE_SSE) glia_buf_adds(&j->out, "data: [DONE]\n\n");
}

static void stream_error(glia_job *j, const glia_err *err) {
    glia_stream_open_line(j, "error");
    glia_add_error(&j->out, err);
    glia_stream_close_line(j);
    if (j->wire == GLIA_WIRE_SSE) glia_buf_adds(&j->out, "data: [DONE]\n\n");
}

const glia_face glia_openai_chat = {
    .id_prefix = "chatcmpl-",
    .kind = GLIA_API_CHAT,
    .whole = whole,
    .open = stream_open,
    .text = stream_text,
    .reasoning = stream_reasoning,
    .call = stream_call,
    .close = stream_close,
    .end = stream_end,
    .error = stream_error,
};
const glia_face glia_openai_completion = {
    .id_prefix = "cmpl-",
    .kind = GLIA_API_COMPLETION,
    .whole = whole,
    .open = stream_open,
    .text = stream_text,
    .close = stream_close,
    .end = stream_end,
    .error = stream_error,
};

static const glia_face lms_chat = {
    .id_prefix = "chatcmpl-",
    .kind = GLIA_API_CHAT,
    .lms = true,
    .whole = whole,
    .open = stream_open,
    .text = stream_text,
    .reasoning = stream_reasoning,
    .call = stream_call,
    .close = stream_close,
    .end = stream_end,
    .error = stream_error,
};
static const glia_face lms_completion = {
    .id_prefix = "cmpl-",
    .kind = GLIA_API_COMPLETION,
    .lms = true,
    .whole = whole,
    .open = stream_open,
    .text = stream_text,
    .close = stream_close,
    .end = stream_end,
    .error = stream_error,
};

void glia_on_lms_chat(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &lms_chat, false); }

void glia_on_lms_completions(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &lms_completion, false); }

void glia_on_chat(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &glia_openai_chat, false); }

void glia_on_chat_activations(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &glia_openai_chat, true); }

void glia_on_completions(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &glia_openai_completion, false); }

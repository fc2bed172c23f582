/* api/lms_chat.c — LM Studio's own chat, POST /api/v1/chat: stateful, strict, with events for every phase.  HTTP threads. */
#include "api/handlers.h"
#include "api/history.h"
#include "api/job.h"
#include "api/talk.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ reading */

static const char *const text_types[] = {"text", "message", NULL};
static const char *const fields[] = {"input",         "system_prompt",  "integrations", "stream", "max_output_tokens",
                                     "reasoning",     "context_length", "store",        "stop",   "previous_response_id",
                                     "repeat_penalty", NULL};

static glia_status read_reasoning(yyjson_val *root, glia_buf *out, glia_err *err) {
    const char *r = NULL;
    glia_status st = glia_json_str(root, "", "reasoning", &r, err);
    if (st || !r) return st;
    if (!strcmp(r, "off")) glia_buf_adds(out, ",\"reasoning_effort\":\"none\"");
    else if (!strcmp(r, "on")) glia_buf_adds(out, ",\"reasoning_effort\":\"medium\"");
    else if (!strcmp(r, "low") || !strcmp(r, "medium") || !strcmp(r, "high"))
        glia_buf_addf(out, ",\"reasoning_effort\":\"%s\"", r);
    else
        return glia_fail_at(err, GLIA_EINVAL, "reasoning", "reasoning must be off, low, medium, high or on");
    return GLIA_OK;
}

static glia_status check_fields(glia_job *j, yyjson_val *root, glia_err *err) {
    static const char *const shares[] = {"temperature", "top_p", "min_p"};
    const char *model = NULL, *previous = NULL;
    int64_t n, context = 0;
    double x;
    glia_status st = glia_talk_only(root, "", fields, true, err);
    if (!st) st = glia_json_str(root, "", "model", &model, err);
    if (!st && !model) st = glia_fail_at(err, GLIA_EINVAL, "model", "model is missing: the id of a model");
    for (size_t i = 0; i < 3 && !st; i++) st = glia_json_num(root, "", shares[i], 0, 1, &x, NULL, err);
    if (!st) st = glia_json_int(root, "", "max_output_tokens", 1, INT32_MAX, &n, NULL, err);
    if (!st) st = glia_json_int(root, "", "context_length", 1, INT32_MAX, &context, NULL, err);
    yyjson_val *integrations = glia_json_get(root, "integrations");
    if (!st && integrations && !(yyjson_is_arr(integrations) && !yyjson_arr_size(integrations)))
        st = glia_fail_at(err, GLIA_EINVAL, "integrations", "integrations: plugins and MCP servers are not supported");
    j->turn.context = (int32_t)context;
    j->turn.store = true;
    if (!st) st = glia_json_bool(root, "", "store", &j->turn.store, NULL, err);
    if (!st) st = glia_json_str(root, "", "previous_response_id", &previous, err);
    if (st || !previous) return st;
    if (strncmp(previous, "resp_", 5) != 0) {
        return glia_fail_at(err, GLIA_EINVAL, "previous_response_id",
                            "previous_response_id must be the response_id of an earlier reply (resp_…)");
    }
    (void)snprintf(j->turn.previous, sizeof j->turn.previous, "%s", previous);
    if (!j->app->history) return glia_fail(err, GLIA_ENOMEM, "no memory for conversations");
    return glia_history_messages(j->app->history, previous, &j->turn.messages, err);
}

static glia_status read_input(glia_job *j, yyjson_val *root, glia_err *err) {
    yyjson_val *input = glia_json_get(root, "input");
    glia_talk t = {.out = &j->turn.messages};
    glia_buf text = {0};
    if (yyjson_is_arr(input) && !yyjson_arr_size(input))
        return glia_fail_at(err, GLIA_EINVAL, "input", "input is empty: give at least one item");
    glia_status st = glia_talk_text(input, "input", text_types, &text, err);
    if (!st) glia_talk_say(&t, "user", text.p, text.n);
    glia_talk_end(&t);
    if (text.failed) j->turn.messages.failed = true;
    glia_buf_clear(&text);
    return st;
}

/* The system prompt is this request's: on a continued thread it replaces the one before. */
static glia_status read_body(glia_job *j, yyjson_val *root, glia_buf *out, glia_err *err) {
    const char *system = NULL;
    glia_status st = check_fields(j, root, err);
    if (!st) st = glia_json_str(root, "", "system_prompt", &system, err);
    if (!st && j->turn.previous[0] && !system && j->turn.messages.n &&
        !strncmp(j->turn.messages.p, "{\"role\":\"system\"", 16)) {
        system = NULL; /* the kept one stands where it was */
    } else if (!st && j->turn.messages.n && system && !strncmp(j->turn.messages.p, "{\"role\":\"system\"", 16)) {
        yyjson_doc *doc = yyjson_read_opts(j->turn.messages.p, j->turn.messages.n, YYJSON_READ_STOP_WHEN_DONE, NULL, NULL);
        size_t skip = doc ? yyjson_doc_get_read_size(doc) : 0;
        yyjson_doc_free(doc);
        if (!skip) return glia_fail(err, GLIA_ENOMEM, "no memory for the conversation");
        if (skip < j->turn.messages.n) skip++; /* its comma */
        memmove(j->turn.messages.p, j->turn.messages.p + skip, j->turn.messages.n - skip);
        j->turn.messages.n -= skip;
    }
    if (st) return st;
    if (system) {
        glia_buf all = {0};
        glia_talk t = {.out = &all};
        glia_talk_say(&t, "system", system, strlen(system));
        glia_talk_end(&t);
        if (j->turn.messages.n) {
            glia_buf_adds(&all, ",");
            glia_buf_add(&all, j->turn.messages.p, j->turn.messages.n);
        }
        glia_buf_clear(&j->turn.messages);
        j->turn.messages = all;
    }
    if ((st = read_input(j, root, err))) return st;
    glia_buf_adds(out, "{\"messages\":[");
    glia_buf_add(out, j->turn.messages.p, j->turn.messages.n);
    glia_buf_adds(out, "]");
    if ((st = read_reasoning(root, out, err))) return st;
    glia_talk_pass(out, root, "max_output_tokens", "max_tokens");
    glia_talk_pass(out, root, "stream", "stream");
    glia_talk_pass(out, root, "stop", "stop");
    glia_talk_pass_common(out, root);
    glia_buf_adds(out, "}");
    if (j->turn.messages.failed) out->failed = true;
    return GLIA_OK;
}

static const char *const names[][2] = {{"messages", "input"},
                                       {"max_tokens", "max_output_tokens"},
                                       {"reasoning_effort", "reasoning"},
                                       {NULL, NULL}};

/* context_length: a bound of this request; a larger one than the model was loaded with cannot be had. */
static glia_status check(glia_job *j, glia_err *err) {
    int32_t context = j->turn.context, n = (int32_t)j->prompts[0].n;
    if (!context) return GLIA_OK;
    if (context > j->info.n_ctx) {
        return glia_fail_at(err, GLIA_EINVAL, "context_length",
                            "context_length: the model is loaded with %d tokens; load it with more, or ask for fewer",
                            (int)j->info.n_ctx);
    }
    if (n >= context) {
        return glia_fail_at(err, GLIA_ECONTEXT, "input", "the prompt has %d tokens, context_length is %d", (int)n,
                            (int)context);
    }
    if (j->gen.max_tokens < 0 || j->gen.max_tokens > context - n) j->gen.max_tokens = context - n;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ writing */

static void block_json(glia_buf *b, const glia_job *j, const glia_choice *c) {
    const glia_turn *t = &j->turn;
    (void)c;
    glia_buf_addf(b, "{\"type\":\"%s\",\"content\":", t->open == GLIA_BLOCK_REASONING ? "reasoning" : "message");
    glia_json_add_str(b, t->text.p ? t->text.p : "", t->text.n);
    glia_buf_adds(b, "}");
}

/* event "reasoning.start", "message.delta", … without its end */
static void open_event(glia_job *j, const char *what) {
    char name[32];
    (void)snprintf(name, sizeof name, "%s.%s", j->turn.open == GLIA_BLOCK_REASONING ? "reasoning" : "message", what);
    glia_stream_open_event(j, name);
}

static void block_open(glia_job *j, glia_choice *c) {
    (void)c;
    if (j->turn.quiet) return;
    open_event(j, "start");
    glia_stream_close_line(j);
}

static void block_grow(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token) {
    (void)c, (void)token;
    if (j->turn.quiet || !n) return;
    open_event(j, "delta");
    glia_buf_adds(&j->out, ",\"content\":");
    glia_json_add_str(&j->out, text, n);
    glia_stream_close_line(j);
}

static void block_close(glia_job *j, glia_choice *c) {
    block_json(&j->turn.blocks, j, c);
    if (j->turn.quiet) return;
    open_event(j, "end");
    glia_stream_close_line(j);
}

/* The reply, without the brace at its end. */
static void add_result(glia_buf *b, glia_job *j) {
    glia_usage u = glia_job_usage(j);
    const glia_choice *c = &j->choices[0];
    glia_buf_adds(b, "{\"model_instance_id\":");
    glia_json_add_cstr(b, j->info.id);
    glia_buf_adds(b, ",\"output\":[");
    if (j->turn.blocks.n) glia_buf_add(b, j->turn.blocks.p, j->turn.blocks.n);
    glia_buf_addf(b,
                  "],\"stats\":{\"input_tokens\":%d,\"total_output_tokens\":%d,\"reasoning_output_tokens\":%d,"
                  "\"tokens_per_second\":%.9g,\"time_to_first_token_seconds\":%.6f,\"generation_time_seconds\":%.6f,"
                  "\"cached_tokens\":%d,\"stop_reason\":\"%s\"",
                  (int)u.n_prompt, (int)u.n_generated, (int)glia_reasoning_tokens(c), glia_lms_rate(&u),
                  u.prompt_ms / 1000, (u.prompt_ms + u.generate_ms) / 1000, (int)u.n_cached, glia_lms_stop_reason(j, c));
    if (j->load_seconds > 0) glia_buf_addf(b, ",\"model_load_time_seconds\":%.3f", j->load_seconds);
    glia_buf_adds(b, "}");
    if (j->turn.store && j->app->history) glia_buf_addf(b, ",\"response_id\":\"%s\"", j->id);
    if (j->turn.blocks.failed) b->failed = true;
}

static char *whole(glia_job *j, size_t *n) {
    glia_buf b = {0};
    glia_blocks_whole(j, &j->choices[0], true);
    add_result(&b, j);
    if (j->acts.n) glia_whole_activations(&b, j);
    glia_buf_adds(&b, "}\n");
    if (j->out.failed) b.failed = true;
    if (!b.failed) glia_turn_keep(j, &j->choices[0], NULL, 0);
    return glia_buf_take(&b, n);
}

static void open_model_event(glia_job *j, const char *name) {
    glia_stream_open_event(j, name);
    glia_buf_adds(&j->out, ",\"model_instance_id\":");
    glia_json_add_cstr(&j->out, j->info.id);
}

/* A load is told once it is done: the status line waits for what the request will come to. */
static void stream_load(glia_job *j) {
    open_model_event(j, "model_load.start");
    glia_stream_close_line(j);
    open_model_event(j, "model_load.progress");
    glia_buf_adds(&j->out, ",\"progress\":1");
    glia_stream_close_line(j);
    open_model_event(j, "model_load.end");
    glia_buf_addf(&j->out, ",\"load_time_seconds\":%.3f", j->load_seconds);
    glia_stream_close_line(j);
}

static void stream_open(glia_job *j, glia_choice *c) {
    (void)c;
    open_model_event(j, "chat.start");
    glia_stream_close_line(j);
    if (j->load_seconds > 0) stream_load(j);
    glia_stream_open_event(j, "prompt_processing.start");
    glia_stream_close_line(j);
}

/* A prompt that is read again (another request left) does not go back. */
static void stream_progress(glia_job *j, glia_choice *c, int32_t n_done, int32_t n_total) {
    (void)c;
    if (n_done <= j->turn.read || n_total <= 0) return;
    j->turn.read = n_done;
    glia_stream_open_event(j, "prompt_processing.progress");
    glia_buf_addf(&j->out, ",\"progress\":%.6g", (double)n_done / n_total);
    glia_stream_close_line(j);
    if (n_done < n_total) return;
    glia_stream_open_event(j, "prompt_processing.end");
    glia_stream_close_line(j);
}

static void stream_close(glia_job *j, glia_choice *c) {
    if (!j->turn.n_blocks) glia_block_open(j, c, GLIA_BLOCK_TEXT, 0);
    glia_block_close(j, c);
}

static void stream_end(glia_job *j) {
    glia_stream_open_event(j, "chat.end");
    glia_buf_adds(&j->out, ",\"result\":");
    add_result(&j->out, j);
    glia_buf_adds(&j->out, "}");
    glia_stream_close_line(j);
    glia_turn_keep(j, &j->choices[0], NULL, 0);
}

/* What was produced comes still, but it is not kept. */
static void stream_error(glia_job *j, const glia_err *err) {
    glia_stream_open_event(j, "error");
    glia_buf_adds(&j->out, ",");
    glia_add_shaped_error(&j->out, err, GLIA_ERRORS_LMS);
    glia_stream_close_line(j);
    glia_block_close(j, &j->choices[0]);
    j->turn.store = false;
    glia_stream_open_event(j, "chat.end");
    glia_buf_adds(&j->out, ",\"result\":");
    add_result(&j->out, j);
    glia_buf_adds(&j->out, "}");
    glia_stream_close_line(j);
}

const glia_face glia_lms_v1_chat = {
    .id_prefix = "resp_",
    .kind = GLIA_API_CHAT,
    .hex = true,
    .named = true,
    .read = read_body,
    .names = names,
    .check = check,
    .whole = whole,
    .open = stream_open,
    .text = glia_block_text,
    .reasoning = glia_block_reasoning,
    .progress = stream_progress,
    .close = stream_close,
    .end = stream_end,
    .error = stream_error,
    .blocks = {block_open, block_grow, block_close},
};

void glia_on_lms_v1_chat(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &glia_lms_v1_chat, false); }

/* api/responses.c — OpenAI's responses: input items → a chat, the answer as output items, whole and streamed, and what was
 * stored of earlier ones.  HTTP threads. */
#include "api/handlers.h"
#include "api/history.h"
#include "api/job.h"
#include "api/talk.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------ input */

static const char *const input_types[] = {"input_text", "output_text", "text", "refusal", NULL};
static const char *const thought_types[] = {"reasoning_text", "text", NULL};

static glia_status need(yyjson_val *obj, const char *path, const char *key, const char **out, glia_err *err) {
    char param[96];
    *out = NULL;
    glia_status st = glia_json_str(obj, path, key, out, err);
    if (st || *out) return st;
    glia_json_join(param, sizeof param, path, key);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
}

static glia_status read_message(glia_talk *t, yyjson_val *item, const char *path, glia_err *err) {
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    const char *role;
    char param[96];
    size_t i = 0;
    glia_buf text = {0};
    glia_status st = need(item, path, "role", &role, err);
    if (st) return st;
    while (i < 4 && strcmp(role, roles[i]) != 0) i++;
    glia_json_join(param, sizeof param, path, "role");
    if (i == 4) {
        return glia_fail_at(err, GLIA_EINVAL, param,
                            "%s must be \"user\", \"assistant\", \"system\" or \"developer\", not \"%.40s\"", param,
                            role);
    }
    glia_json_join(param, sizeof param, path, "content");
    st = glia_talk_text(glia_json_get(item, "content"), param, input_types, &text, err);
    if (!st && i == 1) {
        if (t->text.n || t->calls.n) glia_talk_flush(t);
        glia_talk_answer(t, text.p, text.n);
    } else if (!st) {
        glia_talk_say(t, role, text.p, text.n);
    }
    if (text.failed) t->out->failed = true;
    glia_buf_clear(&text);
    return st;
}

static glia_status read_call(glia_talk *t, yyjson_val *item, const char *path, glia_err *err) {
    const char *id, *name, *args;
    char param[96];
    glia_status st = need(item, path, "call_id", &id, err);
    if (st || (st = need(item, path, "name", &name, err))) return st;
    if ((st = need(item, path, "arguments", &args, err))) return st;
    yyjson_doc *doc = yyjson_read(args, strlen(args), 0);
    bool object = yyjson_is_obj(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    glia_json_join(param, sizeof param, path, "arguments");
    if (!object && *args) return glia_fail_at(err, GLIA_EINVAL, param, "%s must be the text of a JSON object", param);
    glia_talk_call(t, id, name, args);
    return GLIA_OK;
}

static glia_status read_output(glia_talk *t, yyjson_val *item, const char *path, glia_err *err) {
    const char *id;
    char param[96];
    glia_buf text = {0};
    glia_status st = need(item, path, "call_id", &id, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, "output");
    st = glia_talk_text(glia_json_get(item, "output"), param, input_types, &text, err);
    if (!st) glia_talk_result(t, id, text.p, text.n);
    if (text.failed) t->out->failed = true;
    glia_buf_clear(&text);
    return st;
}

static glia_status read_reasoning(glia_talk *t, yyjson_val *item, const char *path, glia_err *err) {
    yyjson_val *content = glia_json_get(item, "content");
    char param[96];
    glia_buf text = {0};
    glia_json_join(param, sizeof param, path, "content");
    glia_talk_flush(t);
    glia_status st = content ? glia_talk_text(content, param, thought_types, &text, err) : GLIA_OK;
    if (!st && text.n) glia_talk_think(t, text.p, text.n);
    if (text.failed) t->out->failed = true;
    glia_buf_clear(&text);
    return st;
}

static glia_status read_item(glia_talk *t, yyjson_val *item, const char *path, glia_err *err) {
    const char *type = NULL;
    char param[96];
    if (!yyjson_is_obj(item))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(item));
    glia_status st = glia_json_str(item, path, "type", &type, err);
    if (st) return st;
    if (!type || !strcmp(type, "message")) return read_message(t, item, path, err);
    if (!strcmp(type, "function_call")) return read_call(t, item, path, err);
    if (!strcmp(type, "function_call_output")) return read_output(t, item, path, err);
    if (!strcmp(type, "reasoning")) return read_reasoning(t, item, path, err);
    glia_json_join(param, sizeof param, path, "type");
    return glia_fail_at(err, GLIA_EINVAL, param,
                        "%s \"%.40s\" is not supported: message, function_call, function_call_output or reasoning",
                        param, type);
}

/* Kept for GET …/input_items, in the form of OpenAI's: a string is a message of the user. */
static void keep_item(glia_job *j, yyjson_val *item, size_t i) {
    glia_buf *b = &j->turn.items;
    size_t n;
    char *text = yyjson_val_write(item, 0, &n);
    if (b->n) glia_buf_adds(b, ",");
    if (!text) {
        b->failed = true;
    } else if (yyjson_is_str(item)) {
        glia_buf_addf(b, "{\"id\":\"msg_%s_%zu\",\"type\":\"message\",\"role\":\"user\",\"status\":\"completed\",\"content\":[{"
                         "\"type\":\"input_text\",\"text\":",
                      j->id + 5, i);
        glia_buf_add(b, text, n);
        glia_buf_adds(b, "}]}");
    } else {
        glia_buf_add(b, text, n);
    }
    free(text);
}

static glia_status read_input(glia_job *j, yyjson_val *root, glia_err *err) {
    yyjson_val *input = glia_json_get(root, "input"), *item;
    yyjson_arr_iter it;
    glia_talk t = {.out = &j->turn.messages};
    glia_status st = GLIA_OK;
    size_t i = 0;
    if (!input)
        return glia_fail_at(err, GLIA_EINVAL, "input", "input is missing: a string, or a list of items");
    if (yyjson_is_str(input)) {
        glia_talk_say(&t, "user", yyjson_get_str(input), yyjson_get_len(input));
        keep_item(j, input, 0);
    } else if (!yyjson_is_arr(input)) {
        st = glia_fail_at(err, GLIA_EINVAL, "input", "input must be a string or a list of items, not %s",
                          glia_json_kind(input));
    } else {
        for (yyjson_arr_iter_init(input, &it); !st && (item = yyjson_arr_iter_next(&it)); i++) {
            char path[48];
            (void)snprintf(path, sizeof path, "input[%zu]", i);
            st = read_item(&t, item, path, err);
            if (!st && j->turn.store) keep_item(j, item, i);
        }
    }
    glia_talk_end(&t);
    if (!st && !j->turn.messages.n)
        st = glia_fail_at(err, GLIA_EINVAL, "input", "input is empty: give at least one message");
    return st;
}

/* ------------------------------------------------------------------ tools and format */

static glia_status read_tool(yyjson_val *tool, const char *path, glia_buf *out, glia_err *err) {
    char param[96];
    const char *type, *name;
    if (!yyjson_is_obj(tool))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(tool));
    glia_status st = need(tool, path, "type", &type, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, "type");
    if (strcmp(type, "function") != 0)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s \"%.40s\" is not supported: only \"function\"", param, type);
    if ((st = need(tool, path, "name", &name, err))) return st;
    glia_buf_adds(out, "{\"type\":\"function\",\"function\":{\"name\":");
    glia_json_add_cstr(out, name);
    glia_talk_pass(out, tool, "description", "description");
    glia_talk_pass(out, tool, "parameters", "parameters");
    glia_talk_pass(out, tool, "strict", "strict");
    glia_buf_adds(out, "}}");
    return GLIA_OK;
}

static glia_status read_choice(yyjson_val *choice, glia_buf *out, glia_err *err) {
    const char *type, *name;
    if (!yyjson_is_obj(choice)) { /* a word, or what tools.c refuses */
        size_t n;
        char *text = yyjson_val_write(choice, 0, &n);
        glia_buf_adds(out, ",\"tool_choice\":");
        if (text) glia_buf_add(out, text, n);
        free(text);
        return GLIA_OK;
    }
    glia_status st = need(choice, "tool_choice", "type", &type, err);
    if (!st && strcmp(type, "function") != 0) {
        return glia_fail_at(err, GLIA_EINVAL, "tool_choice.type",
                            "tool_choice.type \"%.40s\" is not supported: only \"function\"", type);
    }
    if (st || (st = need(choice, "tool_choice", "name", &name, err))) return st;
    glia_buf_adds(out, ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":");
    glia_json_add_cstr(out, name);
    glia_buf_adds(out, "}}");
    return GLIA_OK;
}

static glia_status read_format(yyjson_val *root, glia_buf *out, glia_err *err) {
    yyjson_val *text = glia_json_get(root, "text"), *format;
    const char *type, *verbosity = NULL;
    if (!text) return GLIA_OK;
    if (!yyjson_is_obj(text))
        return glia_fail_at(err, GLIA_EINVAL, "text", "text must be an object, not %s", glia_json_kind(text));
    glia_status st = glia_json_str(text, "text", "verbosity", &verbosity, err);
    if (st) return st;
    if (verbosity && strcmp(verbosity, "medium") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "text.verbosity", "text.verbosity: only \"medium\" is supported");
    if (!(format = glia_json_get(text, "format"))) return GLIA_OK;
    if (!yyjson_is_obj(format)) {
        return glia_fail_at(err, GLIA_EINVAL, "text.format", "text.format must be an object, not %s",
                            glia_json_kind(format));
    }
    if ((st = need(format, "text.format", "type", &type, err))) return st;
    if (strcmp(type, "json_schema") != 0) {
        glia_talk_pass(out, text, "format", "response_format");
        return GLIA_OK;
    }
    if (!glia_json_get(format, "schema"))
        return glia_fail_at(err, GLIA_EINVAL, "text.format.schema", "text.format.schema is missing");
    glia_buf_adds(out, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\"");
    glia_talk_pass(out, format, "schema", "schema");
    glia_talk_pass(out, format, "strict", "strict");
    glia_buf_adds(out, "}}");
    return GLIA_OK;
}

static glia_status read_reasoning_field(yyjson_val *root, glia_buf *out, glia_err *err) {
    yyjson_val *reasoning = glia_json_get(root, "reasoning");
    const char *s;
    if (!reasoning) return GLIA_OK;
    if (!yyjson_is_obj(reasoning))
        return glia_fail_at(err, GLIA_EINVAL, "reasoning", "reasoning must be an object, not %s",
                            glia_json_kind(reasoning));
    glia_status st = glia_json_str(reasoning, "reasoning", "summary", &s, err);
    if (!st) glia_talk_pass(out, reasoning, "effort", "reasoning_effort");
    return st;
}

/* ------------------------------------------------------------------ the rest of a request */

static glia_status refuse(yyjson_val *root, glia_err *err) {
    static const struct {
        const char *name, *why;
    } refused[] = {
        {"conversation", "conversations are not supported: use previous_response_id"},
        {"prompt", "stored prompts are not supported: use instructions and input"},
        {"context_management", "the server does not shorten conversations"},
    };
    bool background = false;
    const char *truncation = NULL;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (glia_json_get(root, refused[i].name))
            return glia_fail_at(err, GLIA_EINVAL, refused[i].name, "%s: %s", refused[i].name, refused[i].why);
    }
    glia_status st = glia_json_bool(root, "", "background", &background, NULL, err);
    if (!st && background)
        return glia_fail_at(err, GLIA_EINVAL, "background", "background: responses are made while the client waits");
    if (st || (st = glia_json_str(root, "", "truncation", &truncation, err))) return st;
    if (truncation && strcmp(truncation, "disabled") != 0) {
        return glia_fail_at(err, GLIA_EINVAL, "truncation",
                            "truncation: only \"disabled\"; what does not fit is refused with both counts");
    }
    return GLIA_OK;
}

static glia_status read_include(yyjson_val *root, glia_buf *out, glia_err *err) {
    yyjson_val *list = glia_json_get(root, "include"), *item;
    yyjson_arr_iter it;
    int64_t top = 0;
    bool given, logprobs = false;
    glia_status st = glia_json_int(root, "", "top_logprobs", 0, 20, &top, &given, err);
    if (st) return st;
    if (list && !yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, "include", "include must be a list, not %s", glia_json_kind(list));
    for (yyjson_arr_iter_init(list, &it); list && (item = yyjson_arr_iter_next(&it));) {
        if (yyjson_equals_str(item, "message.output_text.logprobs")) {
            logprobs = true;
        } else if (!yyjson_equals_str(item, "reasoning.encrypted_content")) { /* reasoning is there in the clear */
            return glia_fail_at(err, GLIA_EINVAL, "include",
                                "include: only \"message.output_text.logprobs\" and \"reasoning.encrypted_content\"");
        }
    }
    if (given && top && !logprobs) {
        return glia_fail_at(err, GLIA_EINVAL, "top_logprobs",
                            "top_logprobs needs include: [\"message.output_text.logprobs\"]");
    }
    if (logprobs) glia_buf_addf(out, ",\"logprobs\":true,\"top_logprobs\":%d", (int)top);
    return GLIA_OK;
}

/* Members of the reply that say what was asked for. */
static void add_echo(glia_buf *b, yyjson_val *root) {
    static const char *const fields[][2] = {
        {"instructions", "null"},      {"max_output_tokens", "null"},
        {"max_tool_calls", "null"},    {"metadata", "{}"},
        {"parallel_tool_calls", "true"}, {"previous_response_id", "null"},
        {"prompt_cache_key", "null"},  {"safety_identifier", "null"},
        {"service_tier", "\"default\""}, {"temperature", "0.8"},
        {"tool_choice", "\"auto\""},   {"tools", "[]"},
        {"top_logprobs", "0"},         {"top_p", "0.95"},
        {"truncation", "\"disabled\""}, {"user", "null"},
        {"presence_penalty", "0"},     {"frequency_penalty", "0"},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (glia_json_get(root, fields[i][0])) glia_talk_pass(b, root, fields[i][0], fields[i][0]);
        else glia_buf_addf(b, ",\"%s\":%s", fields[i][0], fields[i][1]);
    }
    yyjson_val *text = glia_json_get(root, "text"), *reasoning = glia_json_get(root, "reasoning");
    glia_buf_adds(b, ",\"text\":{");
    glia_buf header = {0};
    glia_talk_pass(&header, text, "format", "format");
    if (header.n) glia_buf_add(b, header.p + 1, header.n - 1);
    else glia_buf_adds(b, "\"format\":{\"type\":\"text\"}");
    header.n = 0;
    glia_talk_pass(&header, reasoning, "effort", "effort");
    glia_buf_addf(b, "},\"reasoning\":{%s", header.n ? header.p + 1 : "\"effort\":null");
    glia_buf_adds(b, ",\"summary\":null},\"background\":false");
    if (header.failed) b->failed = true;
    glia_buf_clear(&header);
}

static glia_status check_fields(glia_job *j, yyjson_val *root, glia_err *err) {
    static const char *const texts[] = {"user", "service_tier", "prompt_cache_key", "safety_identifier"};
    const char *s, *previous = NULL;
    int64_t n;
    yyjson_val *metadata = glia_json_get(root, "metadata");
    glia_status st = refuse(root, err);
    for (size_t i = 0; i < 4 && !st; i++) st = glia_json_str(root, "", texts[i], &s, err);
    if (!st && metadata && !yyjson_is_obj(metadata))
        st = glia_fail_at(err, GLIA_EINVAL, "metadata", "metadata must be an object, not %s", glia_json_kind(metadata));
    if (!st) st = glia_json_int(root, "", "max_output_tokens", 1, INT32_MAX, &n, NULL, err);
    if (!st) st = glia_json_int(root, "", "max_tool_calls", 0, INT32_MAX, &n, NULL, err);
    j->turn.store = true;
    if (!st) st = glia_json_bool(root, "", "store", &j->turn.store, NULL, err);
    if (!st) st = glia_json_str(root, "", "previous_response_id", &previous, err);
    if (st || !previous) return st;
    (void)snprintf(j->turn.previous, sizeof j->turn.previous, "%s", previous);
    if (!j->app->history) return glia_fail(err, GLIA_ENOMEM, "no memory for conversations");
    return glia_history_messages(j->app->history, previous, &j->turn.messages, err);
}

/* Instructions first; with what the system says at the beginning they are one message, as many templates demand. */
static void add_conversation(glia_buf *out, const char *instructions, const glia_buf *messages) {
    static const char lead[] = "{\"role\":\"system\",\"content\":\"";
    size_t skip = 0;
    if (instructions) {
        glia_buf_add(out, lead, sizeof lead - 2);
        glia_json_add_cstr(out, instructions);
        if (messages->n > sizeof lead && !memcmp(messages->p, lead, sizeof lead - 1)) {
            out->n -= out->n > 0; /* its closing quote */
            glia_buf_adds(out, "\\n\\n");
            skip = sizeof lead - 1;
        } else {
            glia_buf_adds(out, "},");
        }
    }
    glia_buf_add(out, messages->p + skip, messages->n - skip);
}

static glia_status read_body(glia_job *j, yyjson_val *root, glia_buf *out, glia_err *err) {
    const char *instructions = NULL;
    glia_status st = check_fields(j, root, err);
    if (st || (st = glia_json_str(root, "", "instructions", &instructions, err))) return st;
    if ((st = read_input(j, root, err))) return st;
    glia_buf_adds(out, "{\"messages\":[");
    add_conversation(out, instructions, &j->turn.messages);
    glia_buf_adds(out, "]");
    if ((st = glia_talk_tools(root, read_tool, read_choice, out, err)) || (st = read_format(root, out, err))) return st;
    if ((st = read_reasoning_field(root, out, err)) || (st = read_include(root, out, err))) return st;
    glia_talk_pass(out, root, "parallel_tool_calls", "parallel_tool_calls");
    glia_talk_pass(out, root, "max_output_tokens", "max_tokens");
    glia_talk_pass(out, root, "stream", "stream");
    glia_talk_pass(out, root, "stop", "stop");
    glia_talk_pass_common(out, root);
    glia_buf_adds(out, "}");
    add_echo(&j->turn.echo, root);
    if (j->turn.messages.failed || j->turn.echo.failed) out->failed = true;
    return GLIA_OK;
}

static const char *const names[][2] = {{"messages", "input"},
                                       {"max_tokens", "max_output_tokens"},
                                       {"response_format.json_schema", "text.format"},
                                       {"response_format", "text.format"},
                                       {"reasoning_effort", "reasoning.effort"},
                                       {"logprobs", "include"},
                                       {NULL, NULL}};

/* Tokens of tags, reasoning and calls have log-probabilities too, but no place in an output_text. */
static glia_status check(glia_job *j, glia_err *err) {
    if (j->gen.sampling.n_logprobs < 0 || j->reads == GLIA_READS_TEXT) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, "include",
                        "include: log-probabilities of an answer with tools or reasoning are not served here; "
                        "/v1/chat/completions has them");
}

/* ------------------------------------------------------------------ items */

static const char *item_prefix(glia_block kind) {
    return kind == GLIA_BLOCK_CALL ? "fc" : kind == GLIA_BLOCK_REASONING ? "rs" : "msg";
}

static void add_item_id(glia_buf *b, const glia_job *j) {
    glia_buf_addf(b, "\"%s_%s_%d\"", item_prefix(j->turn.open), j->id + 5, (int)j->turn.n_blocks - 1);
}

static void add_part(glia_buf *b, const glia_job *j, bool begin) {
    const glia_turn *t = &j->turn;
    bool text = t->open == GLIA_BLOCK_TEXT;
    glia_buf_adds(b, text ? "{\"type\":\"output_text\",\"text\":" : "{\"type\":\"reasoning_text\",\"text\":");
    glia_json_add_str(b, t->text.p ? t->text.p : "", begin ? 0 : t->text.n);
    if (text) {
        glia_buf_adds(b, ",\"annotations\":[],\"logprobs\":[");
        if (!begin && t->logprobs.n) glia_buf_add(b, t->logprobs.p, t->logprobs.n);
        glia_buf_adds(b, "]");
    }
    glia_buf_adds(b, "}");
}

static void add_item(glia_buf *b, const glia_job *j, const glia_choice *c, bool begin, bool cut) {
    const glia_turn *t = &j->turn;
    const char *status = begin ? "in_progress" : cut ? "incomplete" : "completed";
    glia_buf_adds(b, "{\"id\":");
    add_item_id(b, j);
    if (t->open == GLIA_BLOCK_CALL) {
        const glia_buf *name = &c->answer.calls[t->call].name;
        glia_buf_addf(b, ",\"type\":\"function_call\",\"status\":\"%s\",\"call_id\":", status);
        glia_add_call_id(b, j, c, t->call);
        glia_buf_adds(b, ",\"name\":");
        glia_json_add_str(b, name->p ? name->p : "", name->n);
        glia_buf_adds(b, ",\"arguments\":");
        glia_json_add_str(b, t->text.p ? t->text.p : "", begin ? 0 : t->text.n);
        glia_buf_adds(b, "}");
        return;
    }
    if (t->open == GLIA_BLOCK_REASONING) glia_buf_adds(b, ",\"type\":\"reasoning\",\"summary\":[],\"content\":[");
    else glia_buf_addf(b, ",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[", status);
    if (!begin) add_part(b, j, false);
    glia_buf_adds(b, "]}");
}

/* The answer's length ended within this item. */
static bool is_cut(const glia_job *j, const glia_choice *c) {
    const glia_turn *t = &j->turn;
    if (!c->ended || c->finish != GLIA_FINISH_LENGTH) return false;
    if (!t->quiet) return true; /* streams end with their last item */
    return t->open == GLIA_BLOCK_CALL ? t->call + 1 == c->n_calls : !c->n_calls;
}

/* ------------------------------------------------------------------ the response object */

static void add_usage(glia_buf *b, const glia_job *j) {
    glia_usage u = glia_job_usage(j);
    glia_buf_addf(b,
                  "{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d},\"output_tokens\":%d,"
                  "\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%d}",
                  (int)u.n_prompt, (int)u.n_cached, (int)u.n_generated, (int)glia_reasoning_tokens(&j->choices[0]),
                  (int)(u.n_prompt + u.n_generated));
}

/* status: in_progress, completed, incomplete, failed */
static void add_response(glia_buf *b, const glia_job *j, const char *status, const glia_err *err) {
    bool over = strcmp(status, "in_progress") != 0;
    glia_buf_addf(b, "\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"completed_at\":", j->id,
                  (long long)j->created);
    if (!strcmp(status, "completed")) glia_buf_addf(b, "%lld", (long long)time(NULL));
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, ",\"status\":\"%s\",\"incomplete_details\":%s,\"model\":", status,
                  !strcmp(status, "incomplete") ? "{\"reason\":\"max_output_tokens\"}" : "null");
    glia_json_add_cstr(b, j->info.id);
    glia_buf_adds(b, ",\"output\":[");
    if (over && j->turn.blocks.n) glia_buf_add(b, j->turn.blocks.p, j->turn.blocks.n);
    glia_buf_adds(b, "],\"error\":");
    if (err) {
        glia_buf_addf(b, "{\"code\":\"%s\",\"message\":", glia_status_code(err->status));
        glia_json_add_cstr(b, err->message);
        glia_buf_adds(b, "}");
    } else {
        glia_buf_adds(b, "null");
    }
    glia_buf_addf(b, ",\"store\":%s,\"usage\":", j->turn.store ? "true" : "false");
    if (over && !err) add_usage(b, j);
    else glia_buf_adds(b, "null");
    if (j->turn.echo.n) glia_buf_add(b, j->turn.echo.p, j->turn.echo.n);
    if (j->turn.blocks.failed) b->failed = true;
}

static const char *final_status(const glia_job *j) {
    return j->choices[0].finish == GLIA_FINISH_LENGTH ? "incomplete" : "completed";
}

/* ------------------------------------------------------------------ whole */

static char *whole(glia_job *j, size_t *n) {
    glia_buf b = {0};
    glia_choice *c = &j->choices[0];
    glia_blocks_whole(j, c, true);
    glia_buf_adds(&b, "{");
    add_response(&b, j, final_status(j), NULL);
    if (!b.failed && !j->out.failed) {
        size_t end = b.n;
        glia_buf_adds(&b, "}");
        if (!b.failed) glia_turn_keep(j, c, b.p, b.n);
        b.n = end;
    }
    if (j->acts.n) glia_whole_activations(&b, j);
    glia_buf_adds(&b, "}\n");
    if (j->out.failed) b.failed = true;
    return glia_buf_take(&b, n);
}

/* ------------------------------------------------------------------ streams */

static void open_event(glia_job *j, const char *name) {
    glia_stream_open_event(j, name);
    glia_buf_addf(&j->out, ",\"sequence_number\":%llu", (unsigned long long)j->turn.sequence++);
}

static void open_item_event(glia_job *j, const char *name, bool part) {
    open_event(j, name);
    glia_buf_adds(&j->out, ",\"item_id\":");
    add_item_id(&j->out, j);
    glia_buf_addf(&j->out, ",\"output_index\":%d", (int)j->turn.n_blocks - 1);
    if (part) glia_buf_adds(&j->out, ",\"content_index\":0");
}

static void response_event(glia_job *j, const char *name, const char *status, const glia_err *err) {
    open_event(j, name);
    glia_buf_adds(&j->out, ",\"response\":{");
    add_response(&j->out, j, status, err);
    glia_buf_adds(&j->out, "}");
    glia_stream_close_line(j);
}

static void item_event(glia_job *j, const glia_choice *c, bool begin) {
    open_event(j, begin ? "response.output_item.added" : "response.output_item.done");
    glia_buf_addf(&j->out, ",\"output_index\":%d,\"item\":", (int)j->turn.n_blocks - 1);
    add_item(&j->out, j, c, begin, !begin && is_cut(j, c));
    glia_stream_close_line(j);
}

static void part_event(glia_job *j, bool begin) {
    open_item_event(j, begin ? "response.content_part.added" : "response.content_part.done", true);
    glia_buf_adds(&j->out, ",\"part\":");
    add_part(&j->out, j, begin);
    glia_stream_close_line(j);
}

static void block_open(glia_job *j, glia_choice *c) {
    if (j->turn.quiet) return;
    item_event(j, c, true);
    if (j->turn.open != GLIA_BLOCK_CALL) part_event(j, true);
}

static void block_grow(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token) {
    static const char *const deltas[] = {
        [GLIA_BLOCK_REASONING] = "response.reasoning_text.delta",
        [GLIA_BLOCK_TEXT] = "response.output_text.delta",
        [GLIA_BLOCK_CALL] = "response.function_call_arguments.delta",
    };
    glia_turn *t = &j->turn;
    (void)c;
    if (t->quiet) return;
    open_item_event(j, deltas[t->open], t->open != GLIA_BLOCK_CALL);
    glia_buf_adds(&j->out, ",\"delta\":");
    glia_json_add_str(&j->out, text ? text : "", n);
    if (t->open == GLIA_BLOCK_TEXT) {
        glia_buf_adds(&j->out, ",\"logprobs\":[");
        if (token && j->gen.sampling.n_logprobs >= 0) {
            size_t from = j->out.n;
            glia_add_chat_logprob(&j->out, j, token);
            if (t->logprobs.n) glia_buf_adds(&t->logprobs, ",");
            if (!j->out.failed) glia_buf_add(&t->logprobs, j->out.p + from, j->out.n - from);
        }
        glia_buf_adds(&j->out, "]");
    }
    glia_stream_close_line(j);
}

static void block_close(glia_job *j, glia_choice *c) {
    static const char *const done[][2] = {
        [GLIA_BLOCK_REASONING] = {"response.reasoning_text.done", "text"},
        [GLIA_BLOCK_TEXT] = {"response.output_text.done", "text"},
        [GLIA_BLOCK_CALL] = {"response.function_call_arguments.done", "arguments"},
    };
    glia_turn *t = &j->turn;
    add_item(&t->blocks, j, c, false, is_cut(j, c));
    if (t->quiet) return;
    open_item_event(j, done[t->open][0], t->open != GLIA_BLOCK_CALL);
    glia_buf_addf(&j->out, ",\"%s\":", done[t->open][1]);
    glia_json_add_str(&j->out, t->text.p ? t->text.p : "", t->text.n);
    if (t->open == GLIA_BLOCK_CALL) {
        const glia_buf *name = &c->answer.calls[t->call].name;
        glia_buf_adds(&j->out, ",\"name\":");
        glia_json_add_str(&j->out, name->p ? name->p : "", name->n);
    }
    if (t->open == GLIA_BLOCK_TEXT) {
        glia_buf_adds(&j->out, ",\"logprobs\":[");
        if (t->logprobs.n) glia_buf_add(&j->out, t->logprobs.p, t->logprobs.n);
        glia_buf_adds(&j->out, "]");
    }
    glia_stream_close_line(j);
    if (t->open != GLIA_BLOCK_CALL) part_event(j, false);
    item_event(j, c, false);
}

static void stream_open(glia_job *j, glia_choice *c) {
    (void)c;
    response_event(j, "response.created", "in_progress", NULL);
    response_event(j, "response.in_progress", "in_progress", NULL);
}

static void stream_close(glia_job *j, glia_choice *c) {
    if (!j->turn.n_blocks) glia_block_open(j, c, GLIA_BLOCK_TEXT, 0);
    glia_block_close(j, c);
}

static void stream_end(glia_job *j) {
    const char *status = final_status(j);
    glia_buf body = {0};
    glia_buf_adds(&body, "{");
    add_response(&body, j, status, NULL);
    glia_buf_adds(&body, "}");
    open_event(j, !strcmp(status, "completed") ? "response.completed" : "response.incomplete");
    glia_buf_adds(&j->out, ",\"response\":");
    if (body.failed) j->out.failed = true;
    else glia_buf_add(&j->out, body.p, body.n);
    glia_stream_close_line(j);
    if (!body.failed) glia_turn_keep(j, &j->choices[0], body.p, body.n);
    glia_buf_clear(&body);
}

static void stream_error(glia_job *j, const glia_err *err) {
    response_event(j, "response.failed", "failed", err);
}

const glia_face glia_responses = {
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
    .call = glia_block_call,
    .close = stream_close,
    .end = stream_end,
    .error = stream_error,
    .blocks = {block_open, block_grow, block_close},
};

void glia_on_responses(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &glia_responses, false); }

/* ------------------------------------------------------------------ what was stored */

static void answer(glia_http_request *rq, glia_status st, glia_buf *b, const glia_err *err) {
    if (st) (void)glia_http_reply_error(rq, err);
    else glia_reply_json(rq, b);
    glia_buf_clear(b);
}

static glia_status no_history(glia_err *err) { return glia_fail(err, GLIA_ENOMEM, "no memory for conversations"); }

void glia_on_response(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_buf b = {0};
    glia_err err;
    glia_status st = app->history ? glia_history_body(app->history, glia_http_param(rq, "id"), &b, &err)
                                  : no_history(&err);
    if (!st && !b.n) st = glia_fail_at(&err, GLIA_ENOTFOUND, "id", "that is a chat of /api/v1/chat, not a response");
    answer(rq, st, &b, &err);
}

void glia_on_response_items(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_buf b = {0};
    glia_err err;
    glia_buf_adds(&b, "{\"object\":\"list\",\"data\":[");
    glia_status st = app->history ? glia_history_items(app->history, glia_http_param(rq, "id"), &b, &err)
                                  : no_history(&err);
    glia_buf_adds(&b, "],\"first_id\":null,\"last_id\":null,\"has_more\":false}\n");
    answer(rq, st, &b, &err);
}

void glia_on_response_delete(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_buf b = {0};
    glia_err err;
    const char *id = glia_http_param(rq, "id");
    glia_status st = app->history ? glia_history_drop(app->history, id, &err) : no_history(&err);
    glia_buf_adds(&b, "{\"id\":");
    glia_json_add_cstr(&b, id);
    glia_buf_adds(&b, ",\"object\":\"response\",\"deleted\":true}\n");
    answer(rq, st, &b, &err);
}

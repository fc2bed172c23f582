/* api/messages.c — Anthropic's messages: what its clients say → a chat, and the answer as content blocks, whole and
 * streamed.  HTTP threads. */
#include "api/handlers.h"
#include "api/job.h"
#include "api/prompt.h"
#include "api/talk.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ reading */

static const char *const text_types[] = {"text", NULL};

static glia_status need(yyjson_val *obj, const char *path, const char *key, const char **out, glia_err *err) {
    char param[96];
    *out = NULL;
    glia_status st = glia_json_str(obj, path, key, out, err);
    if (st || *out) return st;
    glia_json_join(param, sizeof param, path, key);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
}

static glia_status read_use(glia_talk *t, yyjson_val *block, const char *path, glia_err *err) {
    const char *id, *name;
    char param[96];
    size_t n;
    glia_status st = need(block, path, "id", &id, err);
    if (st || (st = need(block, path, "name", &name, err))) return st;
    yyjson_val *input = glia_json_get(block, "input");
    glia_json_join(param, sizeof param, path, "input");
    if (!yyjson_is_obj(input))
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be an object, not %s", param, glia_json_kind(input));
    char *args = yyjson_val_write(input, 0, &n);
    if (!args) return glia_fail(err, GLIA_ENOMEM, "no memory for these messages");
    glia_talk_call(t, id, name, args);
    free(args);
    return GLIA_OK;
}

static glia_status read_result(glia_talk *t, yyjson_val *block, const char *path, glia_err *err) {
    const char *id;
    char param[96];
    bool failed = false;
    glia_buf text = {0};
    glia_status st = need(block, path, "tool_use_id", &id, err);
    if (st || (st = glia_json_bool(block, path, "is_error", &failed, NULL, err))) return st;
    glia_json_join(param, sizeof param, path, "content");
    if (failed) glia_buf_adds(&text, "Error: ");
    yyjson_val *content = glia_json_get(block, "content");
    if (content && (st = glia_talk_text(content, param, text_types, &text, err))) goto done;
    glia_talk_result(t, id, text.p, text.n);
    if (text.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for these messages");
done:
    glia_buf_clear(&text);
    return st;
}

/* Text of the user that stands beside results comes behind them, as its own message. */
static glia_status read_block(glia_talk *t, yyjson_val *block, const char *path, bool assistant, glia_buf *text,
                              glia_err *err) {
    const char *type, *s;
    char param[96];
    if (!yyjson_is_obj(block))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(block));
    glia_status st = need(block, path, "type", &type, err);
    if (st) return st;
    if (!strcmp(type, "text")) {
        if ((st = need(block, path, "text", &s, err))) return st;
        if (assistant) {
            glia_talk_answer(t, s, strlen(s));
        } else {
            if (text->n) glia_buf_adds(text, "\n");
            glia_buf_adds(text, s);
        }
        return GLIA_OK;
    }
    if (assistant && !strcmp(type, "tool_use")) return read_use(t, block, path, err);
    if (assistant && !strcmp(type, "redacted_thinking")) return GLIA_OK; /* nobody here can read it */
    if (assistant && !strcmp(type, "thinking")) {
        if (!(st = need(block, path, "thinking", &s, err))) glia_talk_think(t, s, strlen(s));
        return st;
    }
    if (!assistant && !strcmp(type, "tool_result")) return read_result(t, block, path, err);
    glia_json_join(param, sizeof param, path, "type");
    return glia_fail_at(err, GLIA_EINVAL, param, "%s \"%.40s\" is not supported in messages of the %s", param, type,
                        assistant ? "assistant" : "user");
}

static glia_status read_message(glia_talk *t, yyjson_val *message, const char *path, glia_err *err) {
    const char *role;
    char param[96];
    if (!yyjson_is_obj(message))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(message));
    glia_status st = need(message, path, "role", &role, err);
    if (st) return st;
    bool assistant = !strcmp(role, "assistant"), system = !strcmp(role, "system");
    glia_json_join(param, sizeof param, path, "role");
    if (!assistant && !system && strcmp(role, "user") != 0)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be \"user\" or \"assistant\", not \"%.40s\"", param, role);
    yyjson_val *content = glia_json_get(message, "content"), *block;
    yyjson_arr_iter it;
    glia_buf text = {0};
    size_t i = 0;
    glia_json_join(param, sizeof param, path, "content");
    glia_talk_flush(t);
    if (!yyjson_is_arr(content) || system) {
        if ((st = glia_talk_text(content, param, text_types, &text, err))) goto done;
        if (assistant) glia_talk_answer(t, text.p, text.n);
        else glia_talk_say(t, role, text.p, text.n);
        goto done;
    }
    for (yyjson_arr_iter_init(content, &it); !st && (block = yyjson_arr_iter_next(&it)); i++) {
        char at[112];
        (void)snprintf(at, sizeof at, "%.80s[%zu]", param, i);
        st = read_block(t, block, at, assistant, &text, err);
    }
    if (!i) st = glia_fail_at(err, GLIA_EINVAL, param, "%s must not be empty", param);
    if (!st && text.n) glia_talk_say(t, role, text.p, text.n);
    glia_talk_flush(t);
done:
    if (text.failed) t->out->failed = true;
    glia_buf_clear(&text);
    return st;
}

static glia_status read_system(yyjson_val *root, glia_talk *t, glia_err *err) {
    yyjson_val *system = glia_json_get(root, "system");
    glia_buf text = {0};
    if (!system) return GLIA_OK;
    glia_status st = glia_talk_text(system, "system", text_types, &text, err);
    if (!st && text.n) glia_talk_say(t, "system", text.p, text.n);
    if (text.failed) t->out->failed = true;
    glia_buf_clear(&text);
    return st;
}

/* A last message of the assistant's text is the beginning of the answer, not a turn of its own. */
static bool is_begun(yyjson_val *list) {
    yyjson_val *last = yyjson_arr_get_last(list), *content = glia_json_get(last, "content"), *block;
    size_t i, n;
    if (yyjson_arr_size(list) < 2 || !yyjson_equals_str(glia_json_get(last, "role"), "assistant")) return false;
    yyjson_arr_foreach(content, i, n, block) {
        if (!yyjson_equals_str(glia_json_get(block, "type"), "text")) return false;
    }
    return content != NULL;
}

static glia_status read_beginning(yyjson_val *root, glia_buf *out, glia_err *err) {
    yyjson_val *list = glia_json_get(root, "messages");
    char path[64];
    glia_buf text = {0};
    if (!yyjson_is_arr(list) || !is_begun(list)) return GLIA_OK;
    (void)snprintf(path, sizeof path, "messages[%zu].content", yyjson_arr_size(list) - 1);
    glia_status st = glia_talk_text(glia_json_get(yyjson_arr_get_last(list), "content"), path, text_types, &text, err);
    if (!st) {
        glia_buf_adds(out, ",\"continue_with\":");
        glia_json_add_str(out, text.p ? text.p : "", text.n);
    }
    if (text.failed) out->failed = true;
    glia_buf_clear(&text);
    return st;
}

static glia_status read_messages(glia_job *j, yyjson_val *root, glia_err *err) {
    yyjson_val *list = glia_json_get(root, "messages"), *message;
    yyjson_arr_iter it;
    glia_status st = GLIA_OK;
    size_t i = 0;
    if (!list) return glia_fail_at(err, GLIA_EINVAL, "messages", "messages is missing: a list of {role, content}");
    if (!yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, "messages", "messages must be a list, not %s", glia_json_kind(list));
    if (!yyjson_arr_size(list))
        return glia_fail_at(err, GLIA_EINVAL, "messages", "messages is empty: give at least one");
    glia_talk t = {.out = &j->turn.messages};
    if ((st = read_system(root, &t, err))) return st;
    for (yyjson_arr_iter_init(list, &it); !st && (message = yyjson_arr_iter_next(&it)); i++) {
        char path[48];
        (void)snprintf(path, sizeof path, "messages[%zu]", i);
        if (i + 1 == yyjson_arr_size(list) && is_begun(list)) break;
        st = read_message(&t, message, path, err);
    }
    glia_talk_end(&t);
    return st;
}

static glia_status read_tool(yyjson_val *tool, const char *path, glia_buf *out, glia_err *err) {
    char param[96];
    const char *type = NULL, *name;
    if (!yyjson_is_obj(tool))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(tool));
    glia_status st = glia_json_str(tool, path, "type", &type, err);
    glia_json_join(param, sizeof param, path, "type");
    if (!st && type && strcmp(type, "custom") != 0)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s \"%.40s\": only tools of the client (\"custom\") are supported",
                            param, type);
    if (st || (st = need(tool, path, "name", &name, err))) return st;
    glia_json_join(param, sizeof param, path, "input_schema");
    if (!yyjson_is_obj(glia_json_get(tool, "input_schema")))
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a schema: an object", param);
    glia_buf_adds(out, "{\"type\":\"function\",\"function\":{\"name\":");
    glia_json_add_cstr(out, name);
    glia_talk_pass(out, tool, "description", "description");
    glia_talk_pass(out, tool, "input_schema", "parameters");
    glia_talk_pass(out, tool, "strict", "strict");
    glia_buf_adds(out, "}}");
    return GLIA_OK;
}

static glia_status read_choice(yyjson_val *choice, glia_buf *out, glia_err *err) {
    const char *type, *name;
    bool one = false;
    if (!yyjson_is_obj(choice))
        return glia_fail_at(err, GLIA_EINVAL, "tool_choice", "tool_choice must be an object {type}, not %s",
                            glia_json_kind(choice));
    glia_status st = need(choice, "tool_choice", "type", &type, err);
    if (st || (st = glia_json_bool(choice, "tool_choice", "disable_parallel_tool_use", &one, NULL, err))) return st;
    if (one) glia_buf_adds(out, ",\"parallel_tool_calls\":false");
    if (!strcmp(type, "auto") || !strcmp(type, "none")) {
        glia_buf_addf(out, ",\"tool_choice\":\"%s\"", type);
    } else if (!strcmp(type, "any")) {
        glia_buf_adds(out, ",\"tool_choice\":\"required\"");
    } else if (!strcmp(type, "tool")) {
        if ((st = need(choice, "tool_choice", "name", &name, err))) return st;
        glia_buf_adds(out, ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":");
        glia_json_add_cstr(out, name);
        glia_buf_adds(out, "}}");
    } else {
        return glia_fail_at(err, GLIA_EINVAL, "tool_choice.type",
                            "tool_choice.type must be \"auto\", \"any\", \"tool\" or \"none\"");
    }
    return GLIA_OK;
}

static glia_status read_thinking(yyjson_val *root, glia_buf *out, glia_err *err) {
    yyjson_val *thinking = glia_json_get(root, "thinking");
    const char *type;
    int64_t budget;
    if (!thinking) return GLIA_OK;
    if (!yyjson_is_obj(thinking))
        return glia_fail_at(err, GLIA_EINVAL, "thinking", "thinking must be an object {type}, not %s",
                            glia_json_kind(thinking));
    glia_status st = need(thinking, "thinking", "type", &type, err);
    if (!st) st = glia_json_int(thinking, "thinking", "budget_tokens", 1, INT32_MAX, &budget, NULL, err);
    if (st) return st;
    if (!strcmp(type, "disabled")) {
        glia_buf_adds(out, ",\"reasoning_effort\":\"none\"");
    } else if (!strcmp(type, "enabled")) {
        glia_buf_adds(out, ",\"reasoning_effort\":\"medium\"");
    } else if (strcmp(type, "adaptive") != 0) { /* adaptive: as the model likes */
        return glia_fail_at(err, GLIA_EINVAL, "thinking.type",
                            "thinking.type must be \"enabled\", \"disabled\" or \"adaptive\"");
    }
    return GLIA_OK;
}

/* format: a schema of the answer.  effort is a hint, and passed over. */
static glia_status read_output(yyjson_val *root, glia_buf *out, glia_err *err) {
    yyjson_val *config = glia_json_get(root, "output_config"), *format;
    const char *type;
    if (!config) return GLIA_OK;
    if (!yyjson_is_obj(config))
        return glia_fail_at(err, GLIA_EINVAL, "output_config", "output_config must be an object, not %s",
                            glia_json_kind(config));
    if (!(format = glia_json_get(config, "format"))) return GLIA_OK;
    if (!yyjson_is_obj(format))
        return glia_fail_at(err, GLIA_EINVAL, "output_config.format", "output_config.format must be an object, not %s",
                            glia_json_kind(format));
    glia_status st = need(format, "output_config.format", "type", &type, err);
    if (st) return st;
    if (strcmp(type, "json_schema") != 0) {
        return glia_fail_at(err, GLIA_EINVAL, "output_config.format.type",
                            "output_config.format.type must be \"json_schema\"");
    }
    if (!glia_json_get(format, "schema"))
        return glia_fail_at(err, GLIA_EINVAL, "output_config.format.schema", "output_config.format.schema is missing");
    glia_buf_adds(out, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\"");
    glia_talk_pass(out, format, "schema", "schema");
    glia_buf_adds(out, "}}");
    return GLIA_OK;
}

static glia_status check_fields(yyjson_val *root, bool count, glia_err *err) {
    double temperature, top_p;
    int64_t max;
    bool given;
    const char *model;
    glia_status st = glia_json_str(root, "", "model", &model, err);
    if (st || (st = glia_json_num(root, "", "temperature", 0, 1, &temperature, NULL, err))) return st;
    if ((st = glia_json_num(root, "", "top_p", 0, 1, &top_p, NULL, err))) return st;
    yyjson_val *stop = glia_json_get(root, "stop_sequences"), *metadata = glia_json_get(root, "metadata");
    if (stop && !yyjson_is_arr(stop))
        return glia_fail_at(err, GLIA_EINVAL, "stop_sequences", "stop_sequences must be a list of strings, not %s",
                            glia_json_kind(stop));
    if (metadata && !yyjson_is_obj(metadata))
        return glia_fail_at(err, GLIA_EINVAL, "metadata", "metadata must be an object, not %s",
                            glia_json_kind(metadata));
    if (count) return GLIA_OK;
    if ((st = glia_json_int(root, "", "max_tokens", 1, INT32_MAX, &max, &given, err))) return st;
    return given ? GLIA_OK : glia_fail_at(err, GLIA_EINVAL, "max_tokens", "max_tokens is missing: at least 1");
}

static glia_status read_any(glia_job *j, yyjson_val *root, bool count, glia_buf *out, glia_err *err) {
    glia_status st = check_fields(root, count, err);
    if (st) return st;
    glia_buf_adds(out, "{\"messages\":[");
    if ((st = read_messages(j, root, err))) return st;
    glia_buf_add(out, j->turn.messages.p, j->turn.messages.n);
    glia_buf_adds(out, "]");
    if ((st = glia_talk_tools(root, read_tool, read_choice, out, err)) || (st = read_thinking(root, out, err))) return st;
    if ((st = read_output(root, out, err)) || (st = read_beginning(root, out, err))) return st;
    glia_talk_pass(out, root, "max_tokens", "max_tokens");
    glia_talk_pass(out, root, "stop_sequences", "stop");
    glia_talk_pass(out, root, "stream", "stream");
    glia_talk_pass_common(out, root);
    glia_buf_adds(out, "}");
    if (j->turn.messages.failed) out->failed = true;
    return GLIA_OK;
}

static glia_status read_body(glia_job *j, yyjson_val *root, glia_buf *out, glia_err *err) {
    return read_any(j, root, false, out, err);
}

static const char *const names[][2] = {{"stop", "stop_sequences"},
                                       {".parameters", ".input_schema"},
                                       {"response_format.json_schema", "output_config.format"},
                                       {"reasoning_effort", "thinking"},
                                       {"continue_with", "messages"},
                                       {NULL, NULL}};

/* ------------------------------------------------------------------ writing */

static void block_json(glia_buf *b, const glia_job *j, const glia_choice *c, bool begin) {
    const glia_turn *t = &j->turn;
    const char *text = t->text.p ? t->text.p : "";
    size_t n = begin ? 0 : t->text.n;
    if (t->open == GLIA_BLOCK_CALL) {
        const glia_buf *name = &c->answer.calls[t->call].name;
        glia_buf_adds(b, "{\"type\":\"tool_use\",\"id\":");
        glia_add_call_id(b, j, c, t->call);
        glia_buf_adds(b, ",\"name\":");
        glia_json_add_str(b, name->p ? name->p : "", name->n);
        glia_buf_adds(b, ",\"input\":");
        yyjson_doc *doc = n ? yyjson_read(text, n, 0) : NULL; /* cut arguments are no JSON */
        if (yyjson_is_obj(yyjson_doc_get_root(doc))) glia_buf_add(b, text, n);
        else glia_buf_adds(b, "{}");
        yyjson_doc_free(doc);
    } else if (t->open == GLIA_BLOCK_REASONING) {
        glia_buf_adds(b, "{\"type\":\"thinking\",\"thinking\":");
        glia_json_add_str(b, text, n);
        glia_buf_adds(b, ",\"signature\":\"\"");
    } else {
        glia_buf_adds(b, "{\"type\":\"text\",\"text\":");
        glia_json_add_str(b, text, n);
    }
    glia_buf_adds(b, "}");
}

static void block_open(glia_job *j, glia_choice *c) {
    if (j->turn.quiet) return;
    glia_stream_open_event(j, "content_block_start");
    glia_buf_addf(&j->out, ",\"index\":%d,\"content_block\":", (int)j->turn.n_blocks - 1);
    block_json(&j->out, j, c, true);
    glia_stream_close_line(j);
}

static void block_grow(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token) {
    static const char *const deltas[] = {
        [GLIA_BLOCK_REASONING] = "{\"type\":\"thinking_delta\",\"thinking\":",
        [GLIA_BLOCK_TEXT] = "{\"type\":\"text_delta\",\"text\":",
        [GLIA_BLOCK_CALL] = "{\"type\":\"input_json_delta\",\"partial_json\":",
    };
    (void)c, (void)token;
    if (j->turn.quiet || !n) return;
    glia_stream_open_event(j, "content_block_delta");
    glia_buf_addf(&j->out, ",\"index\":%d,\"delta\":%s", (int)j->turn.n_blocks - 1, deltas[j->turn.open]);
    glia_json_add_str(&j->out, text, n);
    glia_buf_adds(&j->out, "}");
    glia_stream_close_line(j);
}

static void block_close(glia_job *j, glia_choice *c) {
    block_json(&j->turn.blocks, j, c, false);
    if (j->turn.quiet) return;
    glia_stream_open_event(j, "content_block_stop");
    glia_buf_addf(&j->out, ",\"index\":%d", (int)j->turn.n_blocks - 1);
    glia_stream_close_line(j);
}

/* What came from the cache is counted apart. */
static void add_usage(glia_buf *b, const glia_usage *u) {
    glia_buf_addf(b,
                  "\"usage\":{\"input_tokens\":%d,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%d,"
                  "\"output_tokens\":%d}",
                  (int)(u->n_prompt - u->n_cached), (int)u->n_cached, (int)u->n_generated);
}

static void add_stop(glia_buf *b, const glia_choice *c) {
    const char *finish = glia_finish_reason(c);
    bool sequence = c->finish == GLIA_FINISH_STOP_STRING && c->stop.n;
    glia_buf_addf(b, "\"stop_reason\":\"%s\",\"stop_sequence\":",
                  !strcmp(finish, "tool_calls") ? "tool_use"
                  : !strcmp(finish, "length")   ? "max_tokens"
                  : sequence                    ? "stop_sequence"
                                                : "end_turn");
    if (sequence) glia_json_add_str(b, c->stop.p, c->stop.n);
    else glia_buf_adds(b, "null");
}

static void add_head(glia_buf *b, const glia_job *j) {
    glia_buf_addf(b, "\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", j->id);
    glia_json_add_cstr(b, j->info.id);
}

static char *whole(glia_job *j, size_t *n) {
    glia_buf b = {0};
    glia_choice *c = &j->choices[0];
    glia_usage u = glia_job_usage(j);
    glia_blocks_whole(j, c, false);
    glia_buf_adds(&b, "{");
    add_head(&b, j);
    glia_buf_adds(&b, ",\"content\":[");
    if (j->turn.blocks.n) glia_buf_add(&b, j->turn.blocks.p, j->turn.blocks.n);
    glia_buf_adds(&b, "],");
    add_stop(&b, c);
    glia_buf_adds(&b, ",");
    add_usage(&b, &u);
    if (j->acts.n) glia_whole_activations(&b, j);
    glia_buf_adds(&b, "}\n");
    if (j->turn.blocks.failed || j->out.failed) b.failed = true;
    return glia_buf_take(&b, n);
}

static void stream_open(glia_job *j, glia_choice *c) {
    glia_usage u = {.n_prompt = (int32_t)j->prompts[c->prompt].n};
    glia_stream_open_event(j, "message_start");
    glia_buf_adds(&j->out, ",\"message\":{");
    add_head(&j->out, j);
    glia_buf_adds(&j->out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    add_usage(&j->out, &u);
    glia_buf_adds(&j->out, "}");
    glia_stream_close_line(j);
    glia_stream_open_event(j, "ping");
    glia_stream_close_line(j);
}

static void stream_close(glia_job *j, glia_choice *c) { glia_block_close(j, c); }

static void stream_end(glia_job *j) {
    glia_usage u = glia_job_usage(j);
    glia_stream_open_event(j, "message_delta");
    glia_buf_adds(&j->out, ",\"delta\":{");
    add_stop(&j->out, &j->choices[0]);
    glia_buf_adds(&j->out, "},");
    add_usage(&j->out, &u);
    glia_stream_close_line(j);
    glia_stream_open_event(j, "message_stop");
    glia_stream_close_line(j);
}

static void stream_error(glia_job *j, const glia_err *err) {
    if (j->wire == GLIA_WIRE_SSE) glia_buf_adds(&j->out, "event: error\ndata: {");
    else glia_stream_open_line(j, NULL);
    glia_add_shaped_error(&j->out, err, GLIA_ERRORS_ANTHROPIC);
    glia_stream_close_line(j);
}

const glia_face glia_messages = {
    .id_prefix = "msg_",
    .kind = GLIA_API_CHAT,
    .named = true,
    .read = read_body,
    .names = names,
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

void glia_on_messages(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, &glia_messages, false); }

/* ------------------------------------------------------------------ counting */

static glia_status count(glia_app *app, const char *body, size_t n_body, size_t *n, glia_job *j, glia_err *err) {
    yyjson_doc *doc = NULL, *chat_doc = NULL;
    yyjson_val *root;
    glia_buf out = {0};
    const char *model = NULL;
    int32_t *tokens = NULL;
    bool own;
    glia_status st = glia_json_parse_object(&doc, &root, body, n_body, err);
    if (!st) st = read_any(j, root, true, &out, err);
    if (!st && out.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the request");
    if (!st) st = glia_json_str(root, "", "model", &model, err);
    if (!st) st = glia_app_find(app, model, &j->model, err);
    if (!st) st = glia_json_parse_object(&chat_doc, &root, out.p, out.n, err);
    if (!st) st = glia_prompt_plan(j->model, root, false, &j->tools, &own, &j->chat, &tokens, n, err);
    glia_free(tokens);
    glia_buf_clear(&out);
    yyjson_doc_free(chat_doc);
    yyjson_doc_free(doc);
    return st;
}

void glia_on_count_tokens(void *ud, glia_http_request *rq) {
    size_t n_body, n = 0;
    glia_err err;
    glia_status st;
    glia_buf b = {0};
    const char *body = glia_http_body(rq, &n_body);
    glia_job *j = glia_job_new(ud, &glia_messages);
    if (!j) st = glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
    else if ((st = count(ud, body, n_body, &n, j, &err))) glia_job_fix_param(j, &err);
    if (st) {
        (void)glia_http_reply_error(rq, &err);
    } else {
        glia_buf_addf(&b, "{\"input_tokens\":%zu}\n", n);
        glia_reply_json(rq, &b);
    }
    glia_job_free(j);
}

/* api/prompt.c — messages or a prompt → token ids.  Any thread; knows the engine only by glia.h. */
#include "api/prompt.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_PER_TOKEN = 512 }; /* more than the longest token of any vocabulary seen */

/* ------------------------------------------------------------------ messages */

static glia_status part_text(yyjson_val *part, const char *path, yyjson_val **out, glia_err *err) {
    if (!yyjson_is_obj(part))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(part));
    char param[96];
    const char *type = NULL;
    glia_status st = glia_json_str(part, path, "type", &type, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, "type");
    if (!type) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    if (strcmp(type, "text") != 0) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s \"%.40s\" is not supported yet: only \"text\"", param, type);
    }
    glia_json_join(param, sizeof param, path, "text");
    *out = glia_json_get(part, "text");
    if (*out && yyjson_is_str(*out)) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string, not %s", param, glia_json_kind(*out));
}

/* Parts are joined by a newline, as llama.cpp's own server does for templates that take only strings. */
static glia_status add_parts(yyjson_val *list, const char *param, glia_buf *text, glia_err *err) {
    glia_status st = GLIA_OK;
    yyjson_arr_iter it;
    yyjson_val *part, *s = NULL;
    size_t i = 0;
    if (!yyjson_arr_size(list)) return glia_fail_at(err, GLIA_EINVAL, param, "%s must not be empty", param);
    for (yyjson_arr_iter_init(list, &it); !st && (part = yyjson_arr_iter_next(&it)); i++) {
        char path[96];
        (void)snprintf(path, sizeof path, "%.64s[%zu]", param, i);
        if ((st = part_text(part, path, &s, err))) break;
        if (i) glia_buf_adds(text, "\n");
        glia_buf_add(text, yyjson_get_str(s), yyjson_get_len(s));
    }
    return st;
}

/* optional: a message that calls tools may say nothing else. */
static glia_status content_text(yyjson_val *message, const char *path, bool optional, glia_buf *text, glia_err *err) {
    yyjson_val *content = glia_json_get(message, "content");
    char param[96];
    glia_json_join(param, sizeof param, path, "content");
    if (!content && optional) return GLIA_OK;
    if (!content) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    if (yyjson_is_str(content)) {
        glia_buf_add(text, yyjson_get_str(content), yyjson_get_len(content));
        return GLIA_OK;
    }
    if (yyjson_is_arr(content)) return add_parts(content, param, text, err);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string or a list of parts, not %s", param,
                        glia_json_kind(content));
}

static glia_status role_of(yyjson_val *message, const char *path, const char **out, glia_err *err) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    const char *role = NULL;
    glia_status st = glia_json_str(message, path, "role", &role, err);
    if (st) return st;
    char param[96];
    glia_json_join(param, sizeof param, path, "role");
    if (!role) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(role, roles[i]) != 0) continue;
        *out = i == 1 ? "system" : roles[i];
        return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, param,
                        "%s must be \"system\", \"developer\", \"user\", \"assistant\" or \"tool\", not \"%.40s\"",
                        param, role);
}

/* ------------------------------------------------------------------ calls in a history */

typedef struct call {
    const char *id, *name, *args;
} call;

static glia_status read_call(yyjson_val *v, const char *path, call *out, glia_err *err) {
    char at[96], param[96];
    const char *type = NULL;
    *out = (call){0};
    if (!yyjson_is_obj(v))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(v));
    glia_status st = glia_json_str(v, path, "id", &out->id, err);
    if (st || (st = glia_json_str(v, path, "type", &type, err))) return st;
    glia_json_join(param, sizeof param, path, "type");
    if (type && strcmp(type, "function") != 0)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be \"function\"", param);
    glia_json_join(at, sizeof at, path, "function");
    yyjson_val *f = glia_json_get(v, "function");
    if (!yyjson_is_obj(f))
        return glia_fail_at(err, GLIA_EINVAL, at, "%s must be an object, not %s", at, glia_json_kind(f));
    if ((st = glia_json_str(f, at, "name", &out->name, err))) return st;
    if ((st = glia_json_str(f, at, "arguments", &out->args, err))) return st;
    glia_json_join(param, sizeof param, at, "name");
    if (!out->name) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    if (!out->args || !out->args[0]) out->args = "{}";
    yyjson_doc *doc = yyjson_read(out->args, strlen(out->args), 0);
    bool object = yyjson_is_obj(yyjson_doc_get_root(doc));
    yyjson_doc_free(doc);
    glia_json_join(param, sizeof param, at, "arguments");
    return object ? GLIA_OK : glia_fail_at(err, GLIA_EINVAL, param, "%s must be the text of a JSON object", param);
}

static void add_call(glia_buf *b, const call *c, bool as_text, bool first) {
    if (as_text) {
        glia_buf_addf(b, "%s<tool_call>\n{\"name\": ", b->n ? "\n" : "");
        glia_json_add_cstr(b, c->name);
        glia_buf_adds(b, ", \"arguments\": ");
        glia_buf_adds(b, c->args);
        glia_buf_adds(b, "}\n</tool_call>");
        return;
    }
    glia_buf_adds(b, first ? "{\"type\":\"function\",\"id\":" : ",{\"type\":\"function\",\"id\":");
    glia_json_add_cstr(b, c->id ? c->id : "");
    glia_buf_adds(b, ",\"function\":{\"name\":");
    glia_json_add_cstr(b, c->name);
    glia_buf_adds(b, ",\"arguments\":");
    glia_json_add_cstr(b, c->args);
    glia_buf_adds(b, "}}");
}

static glia_status add_calls(yyjson_val *list, const char *path, bool as_text, glia_buf *b, glia_err *err) {
    char at[96], one[112];
    yyjson_arr_iter it;
    yyjson_val *v;
    size_t i = 0;
    glia_json_join(at, sizeof at, path, "tool_calls");
    if (!yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, at, "%s must be a list, not %s", at, glia_json_kind(list));
    for (yyjson_arr_iter_init(list, &it); (v = yyjson_arr_iter_next(&it)); i++) {
        call c;
        (void)snprintf(one, sizeof one, "%.80s[%zu]", at, i);
        glia_status st = read_call(v, one, &c, err);
        if (st) return st;
        add_call(b, &c, as_text, i == 0);
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ one message */

typedef struct writer {
    glia_buf *out;
    bool as_text;
    const glia_tools *explain; /* not yet said; NULL: nothing to say */
    glia_buf results;          /* as_text: results that wait for the next message that is none */
    size_t n;                  /* written */
} writer;

static void open_message(writer *w, const char *role) {
    glia_buf_addf(w->out, "%s{\"role\":\"%s\",\"content\":", w->n++ ? "," : "", role);
}

static void flush_results(writer *w) {
    if (!w->results.n) return;
    open_message(w, "user");
    glia_json_add_str(w->out, w->results.p, w->results.n);
    glia_buf_adds(w->out, "}");
    w->results.n = 0;
}

static void add_explanation(writer *w, glia_buf *text) {
    if (!w->explain) return;
    if (text->n) glia_buf_adds(text, "\n\n");
    glia_tools_explain(w->explain, text);
    w->explain = NULL;
}

static glia_status add_rest(writer *w, yyjson_val *message, const char *path, yyjson_val *calls, glia_err *err) {
    static const char *const kept[] = {"name", "tool_call_id", "reasoning_content"};
    for (size_t i = 0; i < 3; i++) {
        const char *s = NULL;
        glia_status st = glia_json_str(message, path, kept[i], &s, err);
        if (st) return st;
        if (!s) continue;
        glia_buf_addf(w->out, ",\"%s\":", kept[i]);
        glia_json_add_cstr(w->out, s);
    }
    if (calls && !w->as_text) {
        glia_buf_adds(w->out, ",\"tool_calls\":[");
        glia_status st = add_calls(calls, path, false, w->out, err);
        if (st) return st;
        glia_buf_adds(w->out, "]");
    }
    glia_buf_adds(w->out, "}");
    return GLIA_OK;
}

static glia_status add_message(writer *w, yyjson_val *message, const char *path, glia_err *err) {
    static const char *const refused[] = {"function_call", "audio"};
    const char *role = NULL;
    char param[96];
    glia_buf text = {0};
    if (!yyjson_is_obj(message))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(message));
    for (size_t i = 0; i < 2; i++) {
        if (!glia_json_get(message, refused[i])) continue;
        glia_json_join(param, sizeof param, path, refused[i]);
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is not supported", param);
    }
    glia_status st = role_of(message, path, &role, err);
    if (st) return st;
    bool tool = !strcmp(role, "tool"), system = !strcmp(role, "system");
    yyjson_val *calls = glia_json_get(message, "tool_calls");
    if (calls && yyjson_is_arr(calls) && !yyjson_arr_size(calls)) calls = NULL;
    glia_json_join(param, sizeof param, path, "tool_calls");
    if (calls && strcmp(role, "assistant") != 0)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s: only the assistant calls tools", param);
    if ((st = content_text(message, path, calls != NULL, &text, err))) goto done;
    if (tool && w->as_text) {
        glia_buf_addf(&w->results, "%s<tool_response>\n", w->results.n ? "\n" : "");
        glia_buf_add(&w->results, text.p, text.n);
        glia_buf_adds(&w->results, "\n</tool_response>");
        goto done;
    }
    flush_results(w);
    if (system) {
        add_explanation(w, &text);
    } else if (w->explain) { /* no system message of the client's own comes first */
        glia_buf alone = {0};
        add_explanation(w, &alone);
        open_message(w, "system");
        glia_json_add_str(w->out, alone.p ? alone.p : "", alone.n);
        glia_buf_adds(w->out, "}");
        glia_buf_clear(&alone);
    }
    if (calls && w->as_text && (st = add_calls(calls, path, true, &text, err))) goto done;
    open_message(w, role);
    glia_json_add_str(w->out, text.p ? text.p : "", text.n);
    st = add_rest(w, message, path, calls, err);
done:
    if (!st && (text.failed || w->results.failed)) st = glia_fail(err, GLIA_ENOMEM, "no memory for these messages");
    glia_buf_clear(&text);
    return st;
}

glia_status glia_messages_write(yyjson_val *root, bool as_text, const glia_tools *explain, glia_buf *out,
                                glia_err *err) {
    yyjson_val *list = glia_json_get(root, "messages"), *message;
    yyjson_arr_iter it;
    writer w = {.out = out, .as_text = as_text, .explain = explain};
    glia_status st = GLIA_OK;
    if (!list) return glia_fail_at(err, GLIA_EINVAL, "messages", "messages is missing: a list of {role, content}");
    if (!yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, "messages", "messages must be a list, not %s", glia_json_kind(list));
    size_t n = yyjson_arr_size(list), i = 0;
    if (!n) return glia_fail_at(err, GLIA_EINVAL, "messages", "messages is empty: give at least one");
    if (n > GLIA_MAX_MESSAGES) {
        return glia_fail_at(err, GLIA_EINVAL, "messages", "messages: %zu of them, more than %d", n,
                            (int)GLIA_MAX_MESSAGES);
    }
    glia_buf_adds(out, "[");
    for (yyjson_arr_iter_init(list, &it); !st && (message = yyjson_arr_iter_next(&it)); i++) {
        char path[48];
        (void)snprintf(path, sizeof path, "messages[%zu]", i);
        st = add_message(&w, message, path, err);
    }
    flush_results(&w);
    glia_buf_adds(out, "]");
    glia_buf_clear(&w.results);
    if (st) return st;
    return out->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for these messages") : GLIA_OK;
}

glia_status glia_messages_normalise(yyjson_val *root, glia_buf *out, glia_err *err) {
    return glia_messages_write(root, false, NULL, out, err);
}

/* ------------------------------------------------------------------ tokens */

glia_status glia_prompt_text(const glia_model *m, const char *text, size_t n_text, const char *param, bool add_special,
                             bool parse_special, int32_t **out, size_t *n, glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    if (n_text / BYTES_PER_TOKEN > (size_t)info.n_ctx) { /* tokenising it would take long, to no end */
        return glia_fail_at(err, GLIA_ECONTEXT, param, "%zu bytes of text cannot fit the context of %d tokens", n_text,
                            (int)info.n_ctx);
    }
    return glia_model_tokenize(m, text, n_text, add_special, parse_special, out, n, err);
}

/* reasoning_effort: NULL when absent. */
static glia_status parse_effort(yyjson_val *root, const char **out, glia_err *err) {
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh"};
    glia_status st = glia_json_str(root, "", "reasoning_effort", out, err);
    if (st || !*out) return st;
    for (size_t i = 0; i < sizeof efforts / sizeof *efforts; i++) {
        if (!strcmp(*out, efforts[i])) return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, "reasoning_effort",
                        "reasoning_effort must be none, minimal, low, medium, high or xhigh, not \"%.40s\"", *out);
}

static void add_kwargs(yyjson_val *kwargs, const char *effort, glia_buf *json) {
    yyjson_val *key;
    yyjson_obj_iter it;
    bool first = true;
    if (!kwargs && !effort) return;
    glia_buf_adds(json, ",\"kwargs\":{");
    if (effort && !yyjson_obj_get(kwargs, "reasoning_effort")) {
        glia_buf_addf(json, "\"reasoning_effort\":\"%s\"", effort);
        first = false;
    }
    yyjson_obj_iter_init(kwargs, &it);
    while (kwargs && (key = yyjson_obj_iter_next(&it))) {
        size_t n;
        char *text = yyjson_val_write(yyjson_obj_iter_get_val(key), 0, &n);
        if (!first) glia_buf_adds(json, ",");
        first = false;
        glia_json_add_str(json, yyjson_get_str(key), yyjson_get_len(key));
        glia_buf_adds(json, ":");
        if (text) glia_buf_add(json, text, n);
        else json->failed = true;
        free(text);
    }
    glia_buf_adds(json, "}");
}

/* What the template is given beside the messages. */
static glia_status add_options(yyjson_val *root, const glia_tools *t, bool own, bool structured, glia_buf *json,
                               glia_err *err) {
    static const char *const choices[] = {"none", "auto", "required"};
    yyjson_val *kwargs = glia_json_get(root, "chat_template_kwargs");
    const char *effort = NULL;
    glia_status st = parse_effort(root, &effort, err);
    if (st) return st;
    if (kwargs && !yyjson_is_obj(kwargs)) {
        return glia_fail_at(err, GLIA_EINVAL, "chat_template_kwargs", "chat_template_kwargs must be an object, not %s",
                            glia_json_kind(kwargs));
    }
    if (t->n && t->choice != GLIA_TOOLS_NONE && !own) {
        glia_buf_adds(json, ",\"tools\":");
        glia_buf_add(json, t->json.p, t->json.n);
        glia_buf_addf(json, ",\"tool_choice\":\"%s\",\"parallel_tool_calls\":%s", choices[t->choice],
                      t->parallel ? "true" : "false");
    }
    yyjson_val *thinking = yyjson_obj_get(kwargs, "enable_thinking");
    bool think = !structured && (thinking ? yyjson_is_true(thinking) : effort && strcmp(effort, "none") != 0);
    if (structured || thinking || effort) glia_buf_addf(json, ",\"thinking\":%s", think ? "true" : "false");
    add_kwargs(kwargs, effort, json);
    return GLIA_OK;
}

/* The rendered prompt, and behind it what the answer is to begin with (continue_with). */
static glia_status tokenize_chat(const glia_model *m, yyjson_val *root, const glia_chat *chat, int32_t **out, size_t *n,
                                 glia_err *err) {
    yyjson_val *begin = glia_json_get(root, "continue_with");
    glia_buf both = {0};
    if (!begin)
        return glia_prompt_text(m, chat->prompt, chat->n_prompt, "messages", chat->add_special, true, out, n, err);
    if (!yyjson_is_str(begin)) {
        return glia_fail_at(err, GLIA_EINVAL, "continue_with", "continue_with must be a string, not %s",
                            glia_json_kind(begin));
    }
    if (chat->thinks) {
        return glia_fail_at(err, GLIA_EINVAL, "continue_with",
                            "continue_with: an answer of a model that reasons cannot be begun for it");
    }
    glia_buf_add(&both, chat->prompt, chat->n_prompt);
    if (yyjson_get_len(begin)) glia_buf_add(&both, yyjson_get_str(begin), yyjson_get_len(begin));
    glia_status st = both.failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the prompt")
                                 : glia_prompt_text(m, both.p, both.n, "messages", chat->add_special, true, out, n, err);
    glia_buf_clear(&both);
    return st;
}

glia_status glia_prompt_plan(const glia_model *m, yyjson_val *root, bool structured, glia_tools *tools, bool *own,
                             glia_chat **chat, int32_t **out, size_t *n, glia_err *err) {
    glia_buf json = {0};
    *out = NULL, *n = 0, *chat = NULL;
    *own = !glia_model_knows_tools(m);
    glia_status st = glia_tools_parse(tools, root, err);
    if (st) return st;
    bool offered = tools->n && tools->choice != GLIA_TOOLS_NONE;
    if (offered && structured) {
        return glia_fail_at(err, GLIA_EINVAL, "tools",
                            "tools and a structured answer contradict each other: leave one out, "
                            "or set tool_choice to \"none\"");
    }
    glia_buf_adds(&json, "{\"messages\":");
    if ((st = glia_messages_write(root, *own, offered && *own ? tools : NULL, &json, err))) goto done;
    if ((st = add_options(root, tools, *own, structured, &json, err))) goto done;
    glia_buf_adds(&json, "}");
    if (json.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for these messages");
    if (st || (st = glia_model_chat(m, json.p, json.n, chat, err))) goto done;
    yyjson_val *effort = glia_json_get(root, "reasoning_effort");
    if (effort && !yyjson_equals_str(effort, "none") && !(*chat)->thinks) {
        st = glia_fail_at(err, GLIA_EINVAL, "reasoning_effort",
                          "reasoning_effort: this model does not reason; leave it out, or say \"none\"");
        goto done;
    }
    st = tokenize_chat(m, root, *chat, out, n, err);
done:
    if (st && err && st == GLIA_EINVAL && !err->param[0]) (void)snprintf(err->param, sizeof err->param, "messages");
    if (st) {
        glia_chat_free(*chat);
        glia_free(*out);
        *chat = NULL, *out = NULL;
    }
    glia_buf_clear(&json);
    return st;
}

glia_status glia_prompt_chat(const glia_model *m, yyjson_val *root, int32_t **out, size_t *n, glia_buf *text,
                             glia_err *err) {
    glia_tools tools = {0};
    glia_chat *chat = NULL;
    bool own;
    glia_status st = glia_prompt_plan(m, root, false, &tools, &own, &chat, out, n, err);
    if (!st && text && !glia_buf_add(text, chat->prompt, chat->n_prompt)) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the prompt");
        glia_free(*out), *out = NULL;
    }
    glia_chat_free(chat);
    glia_tools_clear(&tools);
    return st;
}

glia_status glia_prompt_ids(const glia_model *m, yyjson_val *list, const char *param, int32_t **out, size_t *n,
                            glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    size_t count = yyjson_arr_size(list), i = 0;
    yyjson_arr_iter it;
    yyjson_val *item;
    *n = 0;
    if (!count) return glia_fail_at(err, GLIA_EINVAL, param, "%s must not be empty", param);
    int32_t *ids = glia_malloc(count * sizeof *ids);
    if (!ids) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    for (yyjson_arr_iter_init(list, &it); (item = yyjson_arr_iter_next(&it)); i++) {
        int64_t id;
        if (!glia_json_whole(item, &id) || id < 0 || id >= info.n_vocab) {
            char at[96];
            (void)snprintf(at, sizeof at, "%.64s[%zu]", param, i);
            glia_free(ids);
            return glia_fail_at(err, GLIA_EINVAL, at, "%s must be a token id from 0 to %d", at, (int)info.n_vocab - 1);
        }
        ids[i] = (int32_t)id;
    }
    *out = ids, *n = count;
    return GLIA_OK;
}

static bool is_list_of_prompts(yyjson_val *v) {
    yyjson_val *first = yyjson_is_arr(v) ? yyjson_arr_get_first(v) : NULL;
    return first && (yyjson_is_str(first) || yyjson_is_arr(first));
}

size_t glia_prompt_count(yyjson_val *root) {
    yyjson_val *v = glia_json_get(root, "prompt");
    return is_list_of_prompts(v) ? yyjson_arr_size(v) : 1;
}

/* One prompt, a string or token ids. */
static glia_status one_prompt(const glia_model *m, yyjson_val *v, const char *param, bool add_special, int32_t **out,
                              size_t *n, glia_buf *text, glia_err *err) {
    if (yyjson_is_str(v)) {
        if (text && !glia_buf_add(text, yyjson_get_str(v), yyjson_get_len(v)))
            return glia_fail(err, GLIA_ENOMEM, "no memory for the prompt");
        return glia_prompt_text(m, yyjson_get_str(v), yyjson_get_len(v), param, add_special, true, out, n, err);
    }
    if (!yyjson_is_arr(v)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string or a list of token ids, not %s", param,
                            glia_json_kind(v));
    }
    char *s = NULL;
    size_t n_s = 0;
    glia_status st = glia_prompt_ids(m, v, param, out, n, err);
    if (!st && text && !(st = glia_model_detokenize(m, *out, *n, true, &s, &n_s, err)) && !glia_buf_add(text, s, n_s))
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the prompt");
    glia_free(s);
    return st;
}

/* Between prefix (taken over) and suffix the model is to write. */
static glia_status infill(const glia_model *m, yyjson_val *suffix, int32_t **ids, size_t *n, glia_err *err) {
    int32_t *after = NULL, *both = NULL;
    size_t n_after = 0, n_both = 0;
    if (!yyjson_is_str(suffix))
        return glia_fail_at(err, GLIA_EINVAL, "suffix", "suffix must be a string, not %s", glia_json_kind(suffix));
    glia_status st = glia_prompt_text(m, yyjson_get_str(suffix), yyjson_get_len(suffix), "suffix", false, false, &after,
                                      &n_after, err);
    if (!st) st = glia_model_infill_prompt(m, *ids, *n, after, n_after, &both, &n_both, err);
    glia_free(after);
    if (st) return st;
    glia_free(*ids);
    *ids = both, *n = n_both;
    return GLIA_OK;
}

glia_status glia_prompt_completion(const glia_model *m, yyjson_val *root, size_t i, int32_t **out, size_t *n,
                                   glia_buf *text, glia_err *err) {
    yyjson_val *v = glia_json_get(root, "prompt"), *suffix = glia_json_get(root, "suffix");
    char param[32] = "prompt";
    *out = NULL, *n = 0;
    if (!v) return glia_fail_at(err, GLIA_EINVAL, param, "prompt is missing: a string or a list of token ids");
    if (is_list_of_prompts(v)) {
        v = yyjson_arr_get(v, i);
        (void)snprintf(param, sizeof param, "prompt[%zu]", i);
    }
    glia_status st = one_prompt(m, v, param, !suffix, out, n, text, err);
    if (!st && suffix) st = infill(m, suffix, out, n, err);
    if (!st && !*n)
        st = glia_fail_at(err, GLIA_EINVAL, param, "%s is empty: the model needs at least one token", param);
    if (st) glia_free(*out), *out = NULL, *n = 0;
    return st;
}

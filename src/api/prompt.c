/* api/prompt.c — messages or a prompt → token ids.  Any thread; knows the engine only by glia.h. */
#include "api/prompt.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
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
static glia_status add_parts(yyjson_val *list, const char *param, glia_buf *out, glia_err *err) {
    glia_buf text = {0};
    glia_status st = GLIA_OK;
    yyjson_arr_iter it;
    yyjson_val *part, *s = NULL;
    size_t i = 0;
    if (!yyjson_arr_size(list)) st = glia_fail_at(err, GLIA_EINVAL, param, "%s must not be empty", param);
    for (yyjson_arr_iter_init(list, &it); !st && (part = yyjson_arr_iter_next(&it)); i++) {
        char path[96];
        (void)snprintf(path, sizeof path, "%.64s[%zu]", param, i);
        if ((st = part_text(part, path, &s, err))) break;
        if (i) glia_buf_adds(&text, "\n");
        glia_buf_add(&text, yyjson_get_str(s), yyjson_get_len(s));
    }
    if (!st && text.failed) st = glia_fail(err, GLIA_ENOMEM, "%s", param);
    if (!st) glia_json_add_str(out, text.p ? text.p : "", text.n);
    glia_buf_clear(&text);
    return st;
}

static glia_status add_content(yyjson_val *message, const char *path, glia_buf *out, glia_err *err) {
    yyjson_val *content = glia_json_get(message, "content");
    char param[96];
    glia_json_join(param, sizeof param, path, "content");
    if (!content) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    if (yyjson_is_str(content)) {
        glia_json_add_str(out, yyjson_get_str(content), yyjson_get_len(content));
        return GLIA_OK;
    }
    if (yyjson_is_arr(content)) return add_parts(content, param, out, err);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string or a list of parts, not %s", param,
                        glia_json_kind(content));
}

static glia_status add_role(yyjson_val *message, const char *path, glia_buf *out, glia_err *err) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    const char *role = NULL;
    glia_status st = glia_json_str(message, path, "role", &role, err);
    if (st) return st;
    char param[96];
    glia_json_join(param, sizeof param, path, "role");
    if (!role) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (strcmp(role, roles[i]) != 0) continue;
        glia_buf_addf(out, "\"role\":\"%s\"", i == 1 ? "system" : role);
        return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, param,
                        "%s must be \"system\", \"developer\", \"user\", \"assistant\" or \"tool\", not \"%.40s\"",
                        param, role);
}

static glia_status add_message(yyjson_val *message, const char *path, glia_buf *out, glia_err *err) {
    static const char *const refused[] = {"tool_calls", "function_call", "audio"};
    static const char *const kept[] = {"name", "tool_call_id"};
    if (!yyjson_is_obj(message))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(message));
    char param[96];
    for (size_t i = 0; i < 3; i++) {
        yyjson_val *v = glia_json_get(message, refused[i]);
        if (!v || (yyjson_is_arr(v) && !yyjson_arr_size(v))) continue;
        glia_json_join(param, sizeof param, path, refused[i]);
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is not supported yet", param);
    }
    glia_buf_adds(out, "{");
    glia_status st = add_role(message, path, out, err);
    if (st) return st;
    for (size_t i = 0; i < 2; i++) {
        const char *s = NULL;
        if ((st = glia_json_str(message, path, kept[i], &s, err))) return st;
        if (!s) continue;
        glia_buf_addf(out, ",\"%s\":", kept[i]);
        glia_json_add_cstr(out, s);
    }
    glia_buf_adds(out, ",\"content\":");
    if ((st = add_content(message, path, out, err))) return st;
    glia_buf_adds(out, "}");
    return GLIA_OK;
}

glia_status glia_messages_normalise(yyjson_val *root, glia_buf *out, glia_err *err) {
    yyjson_val *list = glia_json_get(root, "messages"), *message;
    yyjson_arr_iter it;
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
    for (yyjson_arr_iter_init(list, &it); (message = yyjson_arr_iter_next(&it)); i++) {
        char path[48];
        (void)snprintf(path, sizeof path, "messages[%zu]", i);
        if (i) glia_buf_adds(out, ",");
        glia_status st = add_message(message, path, out, err);
        if (st) return st;
    }
    glia_buf_adds(out, "]");
    return out->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for these messages") : GLIA_OK;
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

glia_status glia_prompt_chat(const glia_model *m, yyjson_val *root, int32_t **out, size_t *n, glia_buf *text,
                             glia_err *err) {
    glia_buf json = {0};
    char *prompt = NULL;
    size_t n_prompt = 0;
    bool add_special = false;
    *out = NULL, *n = 0;
    glia_status st = glia_messages_normalise(root, &json, err);
    if (st) goto done;
    if ((st = glia_model_chat_prompt(m, json.p, json.n, &prompt, &n_prompt, &add_special, err))) {
        if (st == GLIA_EINVAL && err && !err->param[0]) (void)snprintf(err->param, sizeof err->param, "messages");
        goto done;
    }
    if ((st = glia_prompt_text(m, prompt, n_prompt, "messages", add_special, true, out, n, err))) goto done;
    if (text && !glia_buf_add(text, prompt, n_prompt)) st = glia_fail(err, GLIA_ENOMEM, "no memory for the prompt");
done:
    if (st) glia_free(*out), *out = NULL;
    glia_free(prompt);
    glia_buf_clear(&json);
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

glia_status glia_prompt_completion(const glia_model *m, yyjson_val *root, int32_t **out, size_t *n, glia_buf *text,
                                   glia_err *err) {
    yyjson_val *v = glia_json_get(root, "prompt");
    const char *param = "prompt";
    *out = NULL, *n = 0;
    if (!v) return glia_fail_at(err, GLIA_EINVAL, param, "prompt is missing: a string or a list of token ids");
    yyjson_val *first = yyjson_is_arr(v) ? yyjson_arr_get_first(v) : NULL;
    if (first && (yyjson_is_str(first) || yyjson_is_arr(first))) {
        if (yyjson_arr_size(v) > 1)
            return glia_fail_at(err, GLIA_EINVAL, param,
                                "several prompts in one request are not supported yet: send one");
        v = first;
        param = "prompt[0]";
    }
    glia_status st;
    if (yyjson_is_str(v)) {
        if (text && !glia_buf_add(text, yyjson_get_str(v), yyjson_get_len(v)))
            return glia_fail(err, GLIA_ENOMEM, "no memory for the prompt");
        st = glia_prompt_text(m, yyjson_get_str(v), yyjson_get_len(v), param, true, true, out, n, err);
    } else if (yyjson_is_arr(v)) {
        st = glia_prompt_ids(m, v, param, out, n, err);
        char *s = NULL;
        size_t n_s = 0;
        if (!st && text && !(st = glia_model_detokenize(m, *out, *n, true, &s, &n_s, err)) &&
            !glia_buf_add(text, s, n_s))
            st = glia_fail(err, GLIA_ENOMEM, "no memory for the prompt");
        glia_free(s);
    } else {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string or a list of token ids, not %s", param,
                            glia_json_kind(v));
    }
    if (!st && !*n)
        st = glia_fail_at(err, GLIA_EINVAL, param, "%s is empty: the model needs at least one token", param);
    if (st) glia_free(*out), *out = NULL, *n = 0;
    return st;
}

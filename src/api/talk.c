/* api/talk.c — see talk.h. */
#include "api/talk.h"
#include "api/params.h"
#include "base/err.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ messages */

static void comma(glia_buf *b) {
    if (b->n) glia_buf_adds(b, ",");
}

static void add(glia_buf *b, const char *text, size_t n) {
    if (n) glia_buf_add(b, text, n);
}

static void add_text(glia_buf *out, const glia_buf *b) {
    glia_json_add_str(out, b->p ? b->p : "", b->n);
    if (b->failed) out->failed = true;
}

void glia_talk_flush(glia_talk *t) {
    if (!t->answering) return;
    t->preface = false;
    comma(t->out);
    glia_buf_adds(t->out, "{\"role\":\"assistant\",\"content\":");
    add_text(t->out, &t->text);
    if (t->thought.n) {
        glia_buf_adds(t->out, ",\"reasoning_content\":");
        add_text(t->out, &t->thought);
    }
    if (t->calls.n) {
        glia_buf_adds(t->out, ",\"tool_calls\":[");
        glia_buf_add(t->out, t->calls.p, t->calls.n);
        glia_buf_adds(t->out, "]");
    }
    if (t->calls.failed || t->thought.failed) t->out->failed = true;
    glia_buf_adds(t->out, "}");
    t->text.n = t->thought.n = t->calls.n = 0;
    t->answering = false;
}

void glia_talk_end(glia_talk *t) {
    glia_talk_flush(t);
    glia_buf_clear(&t->text);
    glia_buf_clear(&t->thought);
    glia_buf_clear(&t->calls);
}

void glia_talk_say(glia_talk *t, const char *role, const char *text, size_t n) {
    glia_talk_flush(t);
    bool system = !strcmp(role, "system") || !strcmp(role, "developer");
    if (system && t->preface && t->out->n > 2) {
        t->out->n -= 2; /* its quote and brace */
        glia_buf_adds(t->out, "\\n\\n");
        glia_buf more = {0};
        glia_json_add_str(&more, text ? text : "", n);
        if (more.failed) t->out->failed = true;
        else glia_buf_add(t->out, more.p + 1, more.n - 1); /* goes on within the quotes */
        glia_buf_clear(&more);
        glia_buf_adds(t->out, "}");
        return;
    }
    t->preface = system && !t->out->n;
    comma(t->out);
    glia_buf_addf(t->out, "{\"role\":\"%s\",\"content\":", system ? "system" : role);
    glia_json_add_str(t->out, text ? text : "", n);
    glia_buf_adds(t->out, "}");
}

void glia_talk_answer(glia_talk *t, const char *text, size_t n) {
    if (t->text.n && n) glia_buf_adds(&t->text, "\n");
    add(&t->text, text, n);
    t->answering = true;
}

void glia_talk_think(glia_talk *t, const char *text, size_t n) {
    if (t->thought.n && n) glia_buf_adds(&t->thought, "\n");
    add(&t->thought, text, n);
    t->answering = true;
}

void glia_talk_call(glia_talk *t, const char *id, const char *name, const char *args) {
    comma(&t->calls);
    glia_buf_adds(&t->calls, "{\"id\":");
    glia_json_add_cstr(&t->calls, id);
    glia_buf_adds(&t->calls, ",\"type\":\"function\",\"function\":{\"name\":");
    glia_json_add_cstr(&t->calls, name);
    glia_buf_adds(&t->calls, ",\"arguments\":");
    glia_json_add_cstr(&t->calls, args);
    glia_buf_adds(&t->calls, "}}");
    t->answering = true;
}

void glia_talk_result(glia_talk *t, const char *id, const char *text, size_t n) {
    glia_talk_flush(t);
    t->preface = false;
    comma(t->out);
    glia_buf_adds(t->out, "{\"role\":\"tool\",\"tool_call_id\":");
    glia_json_add_cstr(t->out, id);
    glia_buf_adds(t->out, ",\"content\":");
    glia_json_add_str(t->out, text ? text : "", n);
    glia_buf_adds(t->out, "}");
}

/* ------------------------------------------------------------------ content */

static bool among(const char *s, const char *const *list) {
    for (size_t i = 0; list && list[i]; i++) {
        if (!strcmp(s, list[i])) return true;
    }
    return false;
}

static glia_status part_text(yyjson_val *part, const char *path, const char *const *types, yyjson_val **out,
                             glia_err *err) {
    char param[96];
    const char *type = NULL;
    if (!yyjson_is_obj(part))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(part));
    glia_status st = glia_json_str(part, path, "type", &type, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, "type");
    if (!type) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing: \"%s\"", param, types[0]);
    if (!among(type, types)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s \"%.40s\" is not supported here: only text (\"%s\")", param,
                            type, types[0]);
    }
    const char *key = !strcmp(type, "refusal") ? "refusal" : glia_json_get(part, "text") ? "text" : "content";
    if (!glia_json_get(part, key)) key = "text";
    glia_json_join(param, sizeof param, path, key);
    *out = glia_json_get(part, key);
    if (!*out) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    if (yyjson_is_str(*out)) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string, not %s", param, glia_json_kind(*out));
}

glia_status glia_talk_text(yyjson_val *content, const char *path, const char *const *types, glia_buf *out,
                           glia_err *err) {
    yyjson_arr_iter it;
    yyjson_val *part, *s = NULL;
    size_t i = 0;
    if (yyjson_is_str(content)) {
        add(out, yyjson_get_str(content), yyjson_get_len(content));
        return GLIA_OK;
    }
    if (!content) return glia_fail_at(err, GLIA_EINVAL, path, "%s is missing", path);
    if (!yyjson_is_arr(content)) {
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be a string or a list of parts, not %s", path,
                            glia_json_kind(content));
    }
    for (yyjson_arr_iter_init(content, &it); (part = yyjson_arr_iter_next(&it)); i++) {
        char at[96];
        (void)snprintf(at, sizeof at, "%.64s[%zu]", path, i);
        glia_status st = part_text(part, at, types, &s, err);
        if (st) return st;
        if (i) glia_buf_adds(out, "\n");
        add(out, yyjson_get_str(s), yyjson_get_len(s));
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ fields */

void glia_talk_pass(glia_buf *out, yyjson_val *root, const char *from, const char *to) {
    yyjson_val *v = glia_json_get(root, from);
    size_t n;
    if (!v) return;
    char *text = yyjson_val_write(v, 0, &n);
    glia_buf_addf(out, ",\"%s\":", to);
    if (text) glia_buf_add(out, text, n);
    else out->failed = true;
    free(text);
}

static const char *const common[] = {
    "model",    "seed",        "logit_bias", "cache_prompt", "activation_hooks", "registered_hooks",     "activation_format",
    "priority", "speculative", "prediction", "lora",         "interventions",    "chat_template_kwargs", "draft_model",
    "ttl",      NULL};

void glia_talk_pass_common(glia_buf *out, yyjson_val *root) {
    size_t n;
    const glia_param_row *rows = glia_param_table(&n);
    for (size_t i = 0; common[i]; i++) glia_talk_pass(out, root, common[i], common[i]);
    for (size_t i = 0; i < n; i++) glia_talk_pass(out, root, rows[i].name, rows[i].name);
}

bool glia_talk_is_common(const char *key) {
    size_t n;
    const glia_param_row *rows = glia_param_table(&n);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(key, rows[i].name)) return true;
    }
    return among(key, common);
}

glia_status glia_talk_only(yyjson_val *obj, const char *path, const char *const *keys, bool with_common,
                           glia_err *err) {
    yyjson_obj_iter it;
    yyjson_val *key;
    for (yyjson_obj_iter_init(obj, &it); (key = yyjson_obj_iter_next(&it));) {
        const char *name = yyjson_get_str(key);
        if (among(name, keys) || (with_common && glia_talk_is_common(name))) continue;
        char param[96];
        glia_json_join(param, sizeof param, path, name);
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is no field of this request", param);
    }
    return GLIA_OK;
}

glia_status glia_talk_tools(yyjson_val *root,
                            glia_status (*tool)(yyjson_val *tool, const char *path, glia_buf *out, glia_err *err),
                            glia_status (*choice)(yyjson_val *choice, glia_buf *out, glia_err *err), glia_buf *out,
                            glia_err *err) {
    yyjson_val *list = glia_json_get(root, "tools"), *one, *chosen = glia_json_get(root, "tool_choice");
    yyjson_arr_iter it;
    glia_status st = GLIA_OK;
    size_t i = 0;
    if (list && !yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, "tools", "tools must be a list, not %s", glia_json_kind(list));
    if (list) glia_buf_adds(out, ",\"tools\":[");
    for (yyjson_arr_iter_init(list, &it); list && !st && (one = yyjson_arr_iter_next(&it)); i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "tools[%zu]", i);
        if (i) glia_buf_adds(out, ",");
        st = tool(one, path, out, err);
    }
    if (list) glia_buf_adds(out, "]");
    return st || !chosen ? st : choice(chosen, out, err);
}

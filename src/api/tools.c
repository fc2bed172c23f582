/* api/tools.c — see tools.h.  Pure; any thread. */
#include "api/tools.h"
#include "api/schema.h"
#include "base/err.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char opening[] = "<tool_call>", closing[] = "</tool_call>";

/* ------------------------------------------------------------------ definitions */

static bool good_name(const char *s) {
    size_t n = strlen(s);
    return n && n <= 64 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == n;
}

static glia_status tool_name(yyjson_val *tool, const char *path, yyjson_val **function, const char **name,
                             glia_err *err) {
    char at[96], param[96];
    const char *type = NULL;
    if (!yyjson_is_obj(tool))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(tool));
    glia_status st = glia_json_str(tool, path, "type", &type, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, "type");
    if (!type || strcmp(type, "function") != 0)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be \"function\"", param);
    glia_json_join(at, sizeof at, path, "function");
    *function = glia_json_get(tool, "function");
    if (!yyjson_is_obj(*function))
        return glia_fail_at(err, GLIA_EINVAL, at, "%s must be an object, not %s", at, glia_json_kind(*function));
    if ((st = glia_json_str(*function, at, "name", name, err))) return st;
    glia_json_join(param, sizeof param, at, "name");
    if (!*name || !good_name(*name))
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be 1 to 64 letters, digits, _ - or .", param);
    return GLIA_OK;
}

/* llama.cpp's converter copies the rest of the list for every property. */
static glia_status check_properties(yyjson_val *v, const char *path, glia_err *err) {
    yyjson_val *properties = yyjson_obj_get(v, "properties"), *one;
    size_t i, n;
    if (yyjson_obj_size(properties) > 200)
        return glia_fail_at(err, GLIA_EINVAL, path, "%s: more than 200 properties in one object", path);
    if (yyjson_is_obj(v)) {
        yyjson_val *key;
        yyjson_obj_foreach(v, i, n, key, one) {
            glia_status st = check_properties(one, path, err);
            if (st) return st;
        }
    } else if (yyjson_is_arr(v)) {
        yyjson_arr_foreach(v, i, n, one) {
            glia_status st = check_properties(one, path, err);
            if (st) return st;
        }
    }
    return GLIA_OK;
}

static glia_status add_tool(glia_tools *t, yyjson_val *function, const char *name, const char *path, glia_err *err) {
    char at[96], rule[32];
    const char *description = NULL;
    bool strict = false;
    glia_json_join(at, sizeof at, path, "function");
    glia_status st = glia_json_str(function, at, "description", &description, err);
    if (st || (st = glia_json_bool(function, at, "strict", &strict, NULL, err))) return st;
    yyjson_val *schema = glia_json_get(function, "parameters");
    char where[96];
    glia_json_join(where, sizeof where, at, "parameters");
    if (schema && !yyjson_is_obj(schema))
        return glia_fail_at(err, GLIA_EINVAL, where, "%s must be a schema: an object", where);
    (void)snprintf(rule, sizeof rule, "args%zu", t->n);
    if (schema && (st = check_properties(schema, where, err))) return st;
    if (schema && yyjson_obj_size(schema)) {
        if ((st = glia_schema_rule(schema, rule, where, !strict, &t->gbnf, err))) return st;
    } else {
        glia_buf_addf(&t->gbnf, "%s ::= \"{\" ws \"}\"\n", rule);
    }
    glia_buf_addf(&t->gbnf, "call%zu ::= \"{\\\"name\\\": \\\"%s\\\", \\\"arguments\\\": \" %s \"}\"\n", t->n, name,
                  rule);
    glia_buf_adds(&t->json, t->n ? ",{\"type\":\"function\",\"function\":{\"name\":"
                                 : "{\"type\":\"function\",\"function\":{\"name\":");
    glia_json_add_cstr(&t->json, name);
    glia_buf_adds(&t->json, ",\"description\":");
    glia_json_add_cstr(&t->json, description ? description : "");
    glia_buf_adds(&t->json, ",\"parameters\":");
    size_t n = 0;
    char *text = schema && yyjson_obj_size(schema) ? yyjson_val_write(schema, 0, &n) : NULL;
    if (text) glia_buf_add(&t->json, text, n);
    else glia_buf_adds(&t->json, "{\"type\":\"object\",\"properties\":{}}");
    free(text);
    glia_buf_adds(&t->json, "}}");
    t->n++;
    return GLIA_OK;
}

/* tool_choice; *named: the function that must be called, or NULL. */
static glia_status parse_choice(glia_tools *t, yyjson_val *v, bool any, const char **named, glia_err *err) {
    *named = NULL;
    t->choice = any ? GLIA_TOOLS_AUTO : GLIA_TOOLS_NONE;
    if (!v) return GLIA_OK;
    if (yyjson_equals_str(v, "none")) {
        t->choice = GLIA_TOOLS_NONE;
        return GLIA_OK;
    }
    if (yyjson_is_str(v) && !yyjson_equals_str(v, "auto") && !yyjson_equals_str(v, "required"))
        return glia_fail_at(err, GLIA_EINVAL, "tool_choice",
                            "tool_choice must be \"none\", \"auto\", \"required\" or {type, function: {name}}");
    if (!any && !yyjson_equals_str(v, "auto"))
        return glia_fail_at(err, GLIA_EINVAL, "tool_choice", "tool_choice needs tools");
    if (yyjson_is_str(v)) {
        if (yyjson_equals_str(v, "required")) t->choice = GLIA_TOOLS_REQUIRED;
        return GLIA_OK;
    }
    yyjson_val *function;
    t->choice = GLIA_TOOLS_REQUIRED;
    return tool_name(v, "tool_choice", &function, named, err);
}

static void finish_grammar(glia_tools *t) {
    glia_buf_adds(&t->gbnf, "call ::= \"<tool_call>\\n\" (");
    for (size_t i = 0; i < t->n; i++) glia_buf_addf(&t->gbnf, "%scall%zu", i ? " | " : "", i);
    glia_buf_adds(&t->gbnf, ") \"\\n</tool_call>\"\n");
    if (t->parallel) glia_buf_addf(&t->gbnf, "root ::= call (\"\\n\" call){0,%d}\n", (int)GLIA_MAX_CALLS - 1);
    else glia_buf_adds(&t->gbnf, "root ::= call\n");
}

glia_status glia_tools_parse(glia_tools *t, yyjson_val *root, glia_err *err) {
    yyjson_val *list = glia_json_get(root, "tools"), *tool;
    const char *named;
    *t = (glia_tools){.parallel = true};
    if (list && !yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, "tools", "tools must be a list, not %s", glia_json_kind(list));
    size_t n = yyjson_arr_size(list), i = 0;
    if (n > GLIA_MAX_TOOLS) return glia_fail_at(err, GLIA_EINVAL, "tools", "tools: at most %d", (int)GLIA_MAX_TOOLS);
    glia_status st = glia_json_bool(root, "", "parallel_tool_calls", &t->parallel, NULL, err);
    if (st || (st = parse_choice(t, glia_json_get(root, "tool_choice"), n > 0, &named, err)) || !n) return st;
    bool found = false;
    yyjson_arr_iter it;
    glia_buf_adds(&t->json, "[");
    glia_schema_basics(&t->gbnf);
    for (yyjson_arr_iter_init(list, &it); (tool = yyjson_arr_iter_next(&it)); i++) {
        char path[32];
        const char *name;
        yyjson_val *function;
        (void)snprintf(path, sizeof path, "tools[%zu]", i);
        if ((st = tool_name(tool, path, &function, &name, err))) return st;
        bool wanted = !named || !strcmp(named, name);
        found |= wanted;
        if (wanted && (st = add_tool(t, function, name, path, err))) return st;
    }
    glia_buf_adds(&t->json, "]");
    finish_grammar(t);
    if (!found)
        return glia_fail_at(err, GLIA_EINVAL, "tool_choice",
                            "tool_choice names \"%.64s\", which is not among the tools", named);
    if (t->json.failed || t->gbnf.failed) return glia_fail(err, GLIA_ENOMEM, "no memory for these tools");
    return GLIA_OK;
}

void glia_tools_clear(glia_tools *t) {
    glia_buf_clear(&t->json);
    glia_buf_clear(&t->gbnf);
    *t = (glia_tools){0};
}

void glia_tools_explain(const glia_tools *t, glia_buf *b) {
    glia_buf_adds(b, "You can call these functions:\n<tools>\n");
    glia_buf_add(b, t->json.p, t->json.n);
    glia_buf_adds(
        b, "\n</tools>\nTo call one, answer with its name and arguments as JSON:\n<tool_call>\n{\"name\": \"…\", "
           "\"arguments\": {…}}\n</tool_call>\nIts result comes within <tool_response></tool_response>.");
}

/* ------------------------------------------------------------------ answers */

void glia_answer_clear(glia_answer *a) {
    glia_buf_clear(&a->content);
    glia_buf_clear(&a->reasoning);
    for (size_t i = 0; i < GLIA_MAX_CALLS; i++) glia_buf_clear(&a->calls[i].name), glia_buf_clear(&a->calls[i].args);
    *a = (glia_answer){0};
}

static void reset(glia_answer *a) {
    a->content.n = a->reasoning.n = a->n_calls = 0;
    for (size_t i = 0; i < GLIA_MAX_CALLS; i++) a->calls[i].name.n = a->calls[i].args.n = 0;
}

/* The end of a JSON value that begins at s: behind its last bracket; n when it is not there yet. */
static size_t value_end(const char *s, size_t n) {
    size_t depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted) {
            if (s[i] == '\\') i++;
            else if (s[i] == '"') quoted = false;
        } else if (s[i] == '"') {
            quoted = true;
        } else if (s[i] == '{' || s[i] == '[') {
            depth++;
        } else if ((s[i] == '}' || s[i] == ']') && --depth == 0) {
            return i + 1;
        }
    }
    return n;
}

/* The call behind its opening tag; what is cut is taken as far as it goes. */
static void read_call(glia_answer *a, const char *s, size_t n) {
    static const char before_name[] = "\n{\"name\": \"", before_args[] = "\", \"arguments\": ";
    size_t head = sizeof before_name - 1, gap = sizeof before_args - 1;
    if (a->n_calls == GLIA_MAX_CALLS || n < head || memcmp(s, before_name, head) != 0) return;
    s += head, n -= head;
    const char *quote = memchr(s, '"', n);
    if (!quote) return;
    size_t n_name = (size_t)(quote - s);
    if (n - n_name < gap || memcmp(quote, before_args, gap) != 0) return; /* the name is only said with its arguments */
    glia_call *c = &a->calls[a->n_calls++];
    glia_buf_add(&c->name, s, n_name);
    s = quote + gap, n -= n_name + gap;
    glia_buf_add(&c->args, s, value_end(s, n));
    a->failed |= c->name.failed || c->args.failed;
}

void glia_answer_read(glia_answer *a, const char *text, size_t n, bool partial) {
    size_t tag = sizeof opening - 1;
    reset(a);
    const char *at = memmem(text, n, opening, tag);
    size_t end = at ? (size_t)(at - text) : n;
    for (size_t k = tag - 1; !at && partial && k > 0; k--) { /* could become the tag */
        if (n >= k && !memcmp(text + n - k, opening, k)) {
            end = n - k;
            break;
        }
    }
    while ((at || partial) && end && strchr(" \n\t\r", text[end - 1]))
        end--; /* white space before a call is not content */
    glia_buf_add(&a->content, text, end);
    a->failed = a->content.failed;
    while (at) {
        const char *from = at + tag;
        size_t left = n - (size_t)(from - text);
        const char *to = memmem(from, left, closing, sizeof closing - 1);
        const char *next = memmem(from, left, opening, tag);
        (void)to;
        read_call(a, from, left);
        /* a tag within a string of the arguments is none: look behind this call's value */
        if (a->n_calls && a->calls[a->n_calls - 1].args.n) {
            const glia_call *c = &a->calls[a->n_calls - 1];
            const char *args = memmem(from, left, "\"arguments\": ", 13);
            const char *behind = args ? args + 13 + c->args.n : from;
            next = memmem(behind, n - (size_t)(behind - text), opening, tag);
        }
        at = next;
    }
}

static bool add(glia_buf *b, yyjson_val *v) {
    return !yyjson_is_str(v) || !yyjson_get_len(v) || glia_buf_add(b, yyjson_get_str(v), yyjson_get_len(v));
}

glia_status glia_answer_read_json(glia_answer *a, const char *json, size_t n, glia_err *err) {
    yyjson_doc *doc = yyjson_read(json, n, YYJSON_READ_ALLOW_INVALID_UNICODE);
    yyjson_val *root = yyjson_doc_get_root(doc), *calls = yyjson_obj_get(root, "tool_calls"), *call;
    size_t i, max;
    if (!doc) return glia_fail(err, GLIA_ENOMEM, "no memory to read the answer");
    reset(a);
    bool ok = add(&a->content, yyjson_obj_get(root, "content"));
    ok = add(&a->reasoning, yyjson_obj_get(root, "reasoning_content")) && ok;
    yyjson_arr_foreach(calls, i, max, call) {
        yyjson_val *f = yyjson_obj_get(call, "function");
        if (a->n_calls == GLIA_MAX_CALLS) break;
        glia_call *c = &a->calls[a->n_calls++];
        ok = add(&c->name, yyjson_obj_get(f, "name")) && add(&c->args, yyjson_obj_get(f, "arguments")) && ok;
    }
    yyjson_doc_free(doc);
    return ok ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory to read the answer");
}

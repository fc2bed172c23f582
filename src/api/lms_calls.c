/* api/lms_calls.c — calls of LM Studio's SDKs that ask about text, or about the server. */
#include "api/lms_socket.h"
#include "api/lms_translate.h"
#include "api/prompt.h"
#include "base/err.h"
#include <string.h>

/* The model that "specifier" names, held. */
static glia_status find(glia_socket *s, yyjson_val *p, glia_model **m, glia_err *err) {
    const char *name;
    *m = NULL;
    if (!p) return glia_fail(err, GLIA_EINVAL, "this call needs a parameter");
    glia_status st = glia_lms_model_name(glia_json_get(p, "specifier"), &name, err);
    return st ? st : glia_app_find(glia_socket_app(s), name, m, err);
}

/* ------------------------------------------------------------------ text */

static glia_status tokens_of(glia_socket *s, yyjson_val *p, int32_t **ids, size_t *n, glia_err *err) {
    glia_model *m;
    const char *text = NULL;
    *ids = NULL;
    glia_status st = find(s, p, &m, err);
    if (!st) st = glia_json_str(p, "", "inputString", &text, err);
    if (!st && !text) st = glia_fail_at(err, GLIA_EINVAL, "inputString", "inputString is missing: the text to tokenise");
    if (!st) st = glia_model_tokenize(m, text, strlen(text), true, true, ids, n, err);
    glia_app_release(glia_socket_app(s), m);
    return st;
}

static glia_status on_tokenize(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    int32_t *ids;
    size_t n;
    glia_status st = tokens_of(s, p, &ids, &n, err);
    if (st) return st;
    glia_buf_adds(out, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++) glia_buf_addf(out, i ? ",%d" : "%d", (int)ids[i]);
    glia_buf_adds(out, "]}");
    glia_free(ids);
    return GLIA_OK;
}

static glia_status on_count(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    int32_t *ids;
    size_t n;
    glia_status st = tokens_of(s, p, &ids, &n, err);
    if (st) return st;
    glia_buf_addf(out, "{\"tokenCount\":%zu}", n);
    glia_free(ids);
    return GLIA_OK;
}

/* The prompt that a chat would be, as text. */
static glia_status on_template(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    glia_model *m;
    glia_buf body = {0}, text = {0};
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    int32_t *ids = NULL;
    size_t n;
    bool is_text;
    glia_status st = find(s, p, &m, err);
    if (!st) st = glia_lms_request(p, &body, &is_text, err);
    if (!st) st = glia_json_parse_object(&doc, &root, body.p, body.n, err);
    if (!st && is_text) st = glia_prompt_completion(m, root, 0, &ids, &n, &text, err);
    else if (!st) st = glia_prompt_chat(m, root, &ids, &n, &text, err);
    if (!st) {
        glia_buf_adds(out, "{\"formatted\":");
        glia_json_add_str(out, text.p ? text.p : "", text.n);
        glia_buf_adds(out, "}");
    }
    glia_free(ids);
    yyjson_doc_free(doc);
    glia_buf_clear(&body);
    glia_buf_clear(&text);
    glia_app_release(glia_socket_app(s), m);
    return st;
}

/* ------------------------------------------------------------------ the server */

static glia_status on_version(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    (void)s, (void)p, (void)err;
    glia_buf_addf(out, "{\"version\":\"%s\",\"build\":0}", glia_version());
    return GLIA_OK;
}

static glia_status on_flags(glia_socket *s, yyjson_val *p, glia_buf *out, glia_err *err) {
    (void)s, (void)p, (void)err;
    glia_buf_adds(out, "[]");
    return GLIA_OK;
}

const glia_endpoint glia_lms_calls[] = {
    {"llm", "tokenize", GLIA_SCOPE_INFER, on_tokenize, NULL, false},
    {"llm", "countTokens", GLIA_SCOPE_INFER, on_count, NULL, false},
    {"llm", "applyPromptTemplate", GLIA_SCOPE_INFER, on_template, NULL, false},
    {"embedding", "tokenize", GLIA_SCOPE_INFER, on_tokenize, NULL, false},
    {"embedding", "countTokens", GLIA_SCOPE_INFER, on_count, NULL, false},
    {"system", "version", GLIA_SCOPE_READ, on_version, NULL, false},
    {"system", "getExperimentFlags", GLIA_SCOPE_READ, on_flags, NULL, false},
    {NULL, NULL, 0, NULL, NULL, false},
};

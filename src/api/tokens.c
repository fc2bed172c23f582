/* api/tokens.c — text to token ids and back.  HTTP threads. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/prompt.h"
#include "base/err.h"
#include <string.h>

/* Body and model, the same for both endpoints.  Free *doc in any case. */
static glia_status open_body(void *ud, glia_http_request *rq, yyjson_doc **doc, yyjson_val **root, glia_model **m,
                             glia_err *err) {
    size_t n;
    const char *body = glia_http_body(rq, &n), *id = NULL;
    *doc = NULL;
    glia_status st = glia_json_parse_object(doc, root, body, n, err);
    if (st) return st;
    if ((st = glia_json_str(*root, "", "model", &id, err))) return st;
    return glia_app_find(ud, id, m, err);
}

static void add_ids(glia_buf *b, const int32_t *ids, size_t n) {
    glia_buf_addf(b, "{\"count\":%zu,\"tokens\":[", n);
    for (size_t i = 0; i < n; i++) {
        if (i) glia_buf_add(b, ",", 1);
        glia_buf_addi(b, ids[i]);
    }
    glia_buf_adds(b, "]");
}

static glia_status add_pieces(glia_buf *b, const glia_model *m, const int32_t *ids, size_t n, glia_err *err) {
    glia_buf_adds(b, ",\"pieces\":[");
    for (size_t i = 0; i < n; i++) {
        char *s;
        size_t n_s;
        glia_status st = glia_model_detokenize(m, &ids[i], 1, true, &s, &n_s, err);
        if (st) return st;
        if (i) glia_buf_adds(b, ",");
        glia_json_add_str(b, s, n_s);
        glia_free(s);
    }
    glia_buf_adds(b, "]");
    return GLIA_OK;
}

/* The text to tokenise: "text" or "content", or a whole chat under "messages". */
static glia_status ids_of(yyjson_val *root, const glia_model *m, int32_t **ids, size_t *n, glia_buf *prompt,
                          glia_err *err) {
    bool add_special = true, parse_special = true;
    glia_status st;
    if ((st = glia_json_bool(root, "", "add_special", &add_special, NULL, err))) return st;
    if ((st = glia_json_bool(root, "", "parse_special", &parse_special, NULL, err))) return st;
    if (glia_json_get(root, "messages")) return glia_prompt_chat(m, root, ids, n, prompt, err);
    const char *key = glia_json_get(root, "content") ? "content" : "text";
    yyjson_val *v = glia_json_get(root, key);
    if (!v) return glia_fail_at(err, GLIA_EINVAL, "text", "text is missing: a string (or messages: a chat)");
    if (!yyjson_is_str(v))
        return glia_fail_at(err, GLIA_EINVAL, key, "%s must be a string, not %s", key, glia_json_kind(v));
    return glia_model_tokenize(m, yyjson_get_str(v), yyjson_get_len(v), add_special, parse_special, ids, n, err);
}

void glia_on_tokenize(void *ud, glia_http_request *rq) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_model *m = NULL;
    glia_err err;
    glia_buf b = {0}, prompt = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    bool pieces = false;
    glia_status st = open_body(ud, rq, &doc, &root, &m, &err);
    if (st) goto done;
    if ((st = glia_json_bool(root, "", "with_pieces", &pieces, NULL, &err))) goto done;
    if ((st = ids_of(root, m, &ids, &n, &prompt, &err))) goto done;
    add_ids(&b, ids, n);
    if (pieces && (st = add_pieces(&b, m, ids, n, &err))) goto done;
    if (prompt.n) {
        glia_buf_adds(&b, ",\"prompt\":");
        glia_json_add_str(&b, prompt.p, prompt.n);
    }
    glia_buf_adds(&b, "}\n");
    glia_reply_json(rq, &b);
done:
    if (st) (void)glia_http_reply_error(rq, &err);
    glia_buf_clear(&b);
    glia_buf_clear(&prompt);
    glia_free(ids);
    glia_app_release(ud, m);
    yyjson_doc_free(doc);
}

void glia_on_detokenize(void *ud, glia_http_request *rq) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_model *m = NULL;
    glia_err err;
    glia_buf b = {0};
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n = 0, n_text;
    bool special = true;
    glia_status st = open_body(ud, rq, &doc, &root, &m, &err);
    if (st) goto done;
    if ((st = glia_json_bool(root, "", "special", &special, NULL, &err))) goto done;
    yyjson_val *list = glia_json_get(root, "tokens");
    if (!yyjson_is_arr(list)) {
        st = glia_fail_at(&err, GLIA_EINVAL, "tokens", "tokens must be a list of token ids");
        goto done;
    }
    if ((st = glia_prompt_ids(m, list, "tokens", &ids, &n, &err))) goto done;
    if ((st = glia_model_detokenize(m, ids, n, special, &text, &n_text, &err))) goto done;
    glia_buf_adds(&b, "{\"text\":");
    glia_json_add_str(&b, text, n_text);
    glia_buf_adds(&b, "}\n");
    glia_reply_json(rq, &b);
done:
    if (st) (void)glia_http_reply_error(rq, &err);
    glia_free(text);
    glia_free(ids);
    glia_app_release(ud, m);
    yyjson_doc_free(doc);
}

/* api/json.h — strict reading of JSON bodies, and writing of small JSON pieces.
 * Any thread; nothing is kept.  Every getter treats null as absent, and on a wrong type or range fills err with the
 * path of the field ("messages[2].role"). */
#ifndef GLIA_API_JSON_H
#define GLIA_API_JSON_H
#include "base/buf.h"
#include "glia.h"
#include "yyjson.h"

enum {
    GLIA_JSON_DEPTH = 64,      /* deepest nesting taken: the chat template behind it recurses */
    GLIA_JSON_VALUES = 4 << 20 /* most commas and openings: 16 bytes of memory each */
};

/* EINVAL: not JSON, not UTF-8 (both with the byte), too deep.  ETOOLARGE: too many values.  Free with yyjson_doc_free. */
glia_status glia_json_parse(yyjson_doc **out, const char *body, size_t n, glia_err *err);

/* As above, and the root must be an object. */
glia_status glia_json_parse_object(yyjson_doc **out, yyjson_val **root, const char *body, size_t n, glia_err *err);

/* "path.key", or key when path is "" */
void glia_json_join(char *out, size_t cap, const char *path, const char *key);

yyjson_val *glia_json_get(yyjson_val *obj, const char *key); /* NULL when absent or null */

/* Each leaves *out as it was when the field is absent.  *given (may be NULL) says whether it was there. */
glia_status glia_json_bool(yyjson_val *obj, const char *path, const char *key, bool *out, bool *given, glia_err *err);
glia_status glia_json_int(yyjson_val *obj, const char *path, const char *key, int64_t min, int64_t max, int64_t *out,
                          bool *given, glia_err *err);
glia_status glia_json_num(yyjson_val *obj, const char *path, const char *key, double min, double max, double *out,
                          bool *given, glia_err *err);
/* Borrowed from the document; without NUL inside. */
glia_status glia_json_str(yyjson_val *obj, const char *path, const char *key, const char **out, glia_err *err);

/* One value as an integer: a JSON integer, or a real that is whole.  False: neither. */
bool glia_json_whole(yyjson_val *v, int64_t *out);
const char *glia_json_kind(yyjson_val *v); /* "a string", "an object", … for messages */

/* -- writing */
void glia_json_add_str(glia_buf *b, const char *s, size_t n); /* quoted; ill-formed UTF-8 becomes U+FFFD */
void glia_json_add_cstr(glia_buf *b, const char *s);          /* NULL: null */
void glia_json_add_num(glia_buf *b, double x);                /* 0.001 precision is enough for times; never NaN */

#endif

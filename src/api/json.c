/* api/json.c — strict reading of JSON bodies, and writing of small JSON pieces.  Any thread. */
#include "api/json.h"
#include "base/err.h"
#include "base/utf8.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ parsing */

/* Offset of the first byte that is not well-formed UTF-8; n when all is. */
static size_t first_bad_byte(const char *s, size_t n) {
    if (glia_utf8_valid(s, n)) return n;
    size_t good = 0, bad = n; /* [0, good) is valid or cut, [0, bad) is not */
    while (bad - good > 1) {
        size_t mid = good + (bad - good) / 2, whole = glia_utf8_whole(s, mid);
        if (glia_utf8_valid(s, whole)) good = mid;
        else bad = mid;
    }
    return glia_utf8_whole(s, good);
}

/* Depth and number of values before the parser sees them: it takes memory for every value. */
static glia_status check_shape(const char *s, size_t n, glia_err *err) {
    size_t depth = 0, values = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = false;
            continue;
        }
        if (c == '"') quoted = true;
        else if (c == ',') values++;
        else if (c == ']' || c == '}') depth -= depth > 0;
        else if (c == '[' || c == '{') {
            values++;
            if (++depth > GLIA_JSON_DEPTH) {
                return glia_fail(err, GLIA_EINVAL, "the JSON body is nested deeper than %d levels (at byte %zu)",
                                 (int)GLIA_JSON_DEPTH, i);
            }
        }
    }
    if (values <= GLIA_JSON_VALUES) return GLIA_OK;
    return glia_fail(err, GLIA_ETOOLARGE, "the JSON body holds more than %d values", (int)GLIA_JSON_VALUES);
}

glia_status glia_json_parse(yyjson_doc **out, const char *body, size_t n, glia_err *err) {
    *out = NULL;
    if (!n) return glia_fail(err, GLIA_EINVAL, "the request body is empty: a JSON object is expected");
    size_t bad = first_bad_byte(body, n);
    if (bad < n) return glia_fail(err, GLIA_EINVAL, "the request body is not UTF-8 (at byte %zu)", bad);
    glia_status st = check_shape(body, n, err);
    if (st) return st;
    yyjson_read_err why;
    /* without the in-place flag yyjson leaves its input alone */
    *out = yyjson_read_opts((char *)(uintptr_t)body, n, 0, NULL, &why);
    if (*out) return GLIA_OK;
    if (why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) {
        return glia_fail(err, GLIA_ENOMEM, "no memory to read the request body");
    }
    return glia_fail(err, GLIA_EINVAL, "the request body is not valid JSON: %s (at byte %zu)", why.msg, why.pos);
}

glia_status glia_json_parse_object(yyjson_doc **out, yyjson_val **root, const char *body, size_t n, glia_err *err) {
    glia_status st = glia_json_parse(out, body, n, err);
    if (st) return st;
    *root = yyjson_doc_get_root(*out);
    if (yyjson_is_obj(*root)) return GLIA_OK;
    st = glia_fail(err, GLIA_EINVAL, "the request body must be a JSON object, not %s", glia_json_kind(*root));
    yyjson_doc_free(*out);
    *out = NULL;
    return st;
}

/* ------------------------------------------------------------------ getters */

void glia_json_join(char *out, size_t cap, const char *path, const char *key) {
    (void)snprintf(out, cap, "%s%s%s", path, *path && *key ? "." : "", key);
}

yyjson_val *glia_json_get(yyjson_val *obj, const char *key) {
    yyjson_val *v = yyjson_obj_get(obj, key);
    return !v || yyjson_is_null(v) ? NULL : v;
}

const char *glia_json_kind(yyjson_val *v) {
    switch (yyjson_get_type(v)) {
    case YYJSON_TYPE_NULL: return "null";
    case YYJSON_TYPE_BOOL: return "a boolean";
    case YYJSON_TYPE_NUM: return "a number";
    case YYJSON_TYPE_STR: return "a string";
    case YYJSON_TYPE_ARR: return "a list";
    case YYJSON_TYPE_OBJ: return "an object";
    default: return "nothing";
    }
}

static glia_status wrong_type(const char *path, const char *key, const char *expected, yyjson_val *v, glia_err *err) {
    char param[96];
    glia_json_join(param, sizeof param, path, key);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be %s, not %s", param, expected, glia_json_kind(v));
}

glia_status glia_json_bool(yyjson_val *obj, const char *path, const char *key, bool *out, bool *given, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, key);
    if (given) *given = v != NULL;
    if (!v) return GLIA_OK;
    if (!yyjson_is_bool(v)) return wrong_type(path, key, "true or false", v, err);
    *out = yyjson_get_bool(v);
    return GLIA_OK;
}

bool glia_json_whole(yyjson_val *v, int64_t *out) {
    if (yyjson_is_sint(v)) {
        *out = yyjson_get_sint(v);
        return true;
    }
    if (yyjson_is_uint(v)) {
        uint64_t u = yyjson_get_uint(v);
        *out = u > INT64_MAX ? INT64_MAX : (int64_t)u; /* saturated: out of every range that is asked for */
        return true;
    }
    if (!yyjson_is_real(v)) return false;
    double d = yyjson_get_real(v);
    if (d != floor(d) || !isfinite(d)) return false;
    *out = d >= 9.2e18 ? INT64_MAX : d <= -9.2e18 ? INT64_MIN : (int64_t)d;
    return true;
}

glia_status glia_json_int(yyjson_val *obj, const char *path, const char *key, int64_t min, int64_t max, int64_t *out,
                          bool *given, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, key);
    if (given) *given = v != NULL;
    if (!v) return GLIA_OK;
    char param[96];
    glia_json_join(param, sizeof param, path, key);
    int64_t n;
    if (!glia_json_whole(v, &n)) {
        if (!yyjson_is_num(v)) return wrong_type(path, key, "a whole number", v, err);
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a whole number", param);
    }
    if (n < min || n > max) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be from %lld to %lld", param, (long long)min,
                            (long long)max);
    }
    *out = n;
    return GLIA_OK;
}

glia_status glia_json_num(yyjson_val *obj, const char *path, const char *key, double min, double max, double *out,
                          bool *given, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, key);
    if (given) *given = v != NULL;
    if (!v) return GLIA_OK;
    if (!yyjson_is_num(v)) return wrong_type(path, key, "a number", v, err);
    double x = yyjson_get_num(v);
    if (!(x >= min && x <= max)) {
        char param[96];
        glia_json_join(param, sizeof param, path, key);
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be from %g to %g", param, min, max);
    }
    *out = x;
    return GLIA_OK;
}

glia_status glia_json_str(yyjson_val *obj, const char *path, const char *key, const char **out, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, key);
    if (!v) return GLIA_OK;
    if (!yyjson_is_str(v)) return wrong_type(path, key, "a string", v, err);
    if (strlen(yyjson_get_str(v)) != yyjson_get_len(v)) {
        char param[96];
        glia_json_join(param, sizeof param, path, key);
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must not contain a NUL character", param);
    }
    *out = yyjson_get_str(v);
    return GLIA_OK;
}

/* ------------------------------------------------------------------ writing */

/* Length of the well-formed character at s, 0 when there is none. */
static size_t character(const char *s, size_t n) {
    for (size_t k = 1; k <= 4 && k <= n; k++) {
        if (glia_utf8_valid(s, k)) return k;
    }
    return 0;
}

/* Bytes at s that one U+FFFD stands for: the longest start of a character, as the Unicode standard advises. */
static size_t ill_formed(const char *s, size_t n) {
    size_t k = 1;
    while (k < 3 && k < n && !glia_utf8_whole(s, k + 1)) k++;
    return k;
}

static void add_escape(glia_buf *b, unsigned char c) {
    switch (c) {
    case '"': glia_buf_adds(b, "\\\""); break;
    case '\\': glia_buf_adds(b, "\\\\"); break;
    case '\n': glia_buf_adds(b, "\\n"); break;
    case '\r': glia_buf_adds(b, "\\r"); break;
    case '\t': glia_buf_adds(b, "\\t"); break;
    default: glia_buf_addf(b, "\\u%04x", c);
    }
}

void glia_json_add_str(glia_buf *b, const char *s, size_t n) {
    glia_buf_adds(b, "\"");
    for (size_t i = 0; i < n && !b->failed;) {
        size_t run = i; /* plain bytes go over in one piece */
        while (run < n && (unsigned char)s[run] >= 0x20 && (unsigned char)s[run] < 0x7f && s[run] != '"' &&
               s[run] != '\\')
            run++;
        if (run > i) {
            glia_buf_add(b, s + i, run - i);
            i = run;
            continue;
        }
        if ((unsigned char)s[i] < 0x80) {
            add_escape(b, (unsigned char)s[i++]);
            continue;
        }
        size_t k = character(s + i, n - i);
        if (k) glia_buf_add(b, s + i, k);
        else glia_buf_adds(b, "\xef\xbf\xbd");
        i += k ? k : ill_formed(s + i, n - i);
    }
    glia_buf_adds(b, "\"");
}

void glia_json_add_cstr(glia_buf *b, const char *s) {
    if (s) glia_json_add_str(b, s, strlen(s));
    else glia_buf_adds(b, "null");
}

void glia_json_add_num(glia_buf *b, double x) {
    if (!isfinite(x)) x = 0;
    glia_buf_addf(b, "%.3f", x);
}

/* api/export.c — POST /export/neuroscope: any JSON data as Smalltalk source, or as JSON.  HTTP threads.
 *
 * The source is one expression of ANSI Smalltalk whose value is the data: objects are Dictionaries (Strings are keys),
 * lists Arrays.  It is made of sends and literals that GNU Smalltalk, Pharo and Squeak read alike; the only thing that is no
 * literal is a brace-free tree of `at:put:`, so that its size is bounded by no limit of literals. */
#include "api/handlers.h"
#include "api/study.h"
#include "base/err.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 'it''s' */
static void add_string(glia_buf *b, const char *s, size_t n) {
    glia_buf_adds(b, "'");
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\'') glia_buf_adds(b, "''");
        else (void)glia_buf_add(b, &s[i], 1);
    }
    glia_buf_adds(b, "'");
}

/* 1.5e-7 with at least one digit on each side of the point: what every dialect reads as a float. */
static void add_real(glia_buf *b, double x) {
    char text[40];
    (void)snprintf(text, sizeof text, "%.17g", x);
    if (strtod(text, NULL) == x) {
        for (int digits = 9; digits < 17; digits++) { /* the shortest that comes back */
            char shorter[40];
            (void)snprintf(shorter, sizeof shorter, "%.*g", digits, x);
            if (strtod(shorter, NULL) != x) continue;
            memcpy(text, shorter, sizeof text);
            break;
        }
    }
    char *e = strchr(text, 'e');
    size_t mantissa = e ? (size_t)(e - text) : strlen(text);
    (void)glia_buf_add(b, text, mantissa);
    if (!memchr(text, '.', mantissa)) glia_buf_adds(b, ".0");
    if (!e) return;
    glia_buf_adds(b, "e");
    e++;
    if (*e == '+') e++;
    glia_buf_adds(b, e);
}

static void add_scalar(glia_buf *b, yyjson_val *v) {
    if (yyjson_is_str(v)) {
        add_string(b, yyjson_get_str(v), yyjson_get_len(v));
    } else if (yyjson_is_int(v)) {
        if (yyjson_is_sint(v)) glia_buf_addf(b, "%lld", (long long)yyjson_get_sint(v));
        else glia_buf_addf(b, "%llu", (unsigned long long)yyjson_get_uint(v));
    } else if (yyjson_is_real(v)) {
        add_real(b, yyjson_get_real(v));
    } else {
        glia_buf_adds(b, yyjson_is_true(v) ? "true" : yyjson_is_false(v) ? "false" : "nil");
    }
}

static bool only_numbers(yyjson_val *list) {
    yyjson_arr_iter it;
    yyjson_val *v;
    for (yyjson_arr_iter_init(list, &it); (v = yyjson_arr_iter_next(&it));) {
        if (!yyjson_is_num(v)) return false;
    }
    return true;
}

static void add_value(glia_buf *b, yyjson_val *v);

/* Lists of numbers as literals, others element by element. */
static void add_list(glia_buf *b, yyjson_val *v) {
    yyjson_arr_iter it;
    yyjson_val *x;
    size_t i = 0;
    bool literal = only_numbers(v);
    if (literal) glia_buf_adds(b, "#(");
    else glia_buf_addf(b, "((Array new: %zu)", yyjson_arr_size(v));
    for (yyjson_arr_iter_init(v, &it); (x = yyjson_arr_iter_next(&it)); i++) {
        if (literal) {
            if (i) glia_buf_adds(b, " ");
            add_scalar(b, x);
            continue;
        }
        glia_buf_addf(b, "%s at: %zu put: ", i ? ";" : "", i + 1);
        add_value(b, x);
    }
    glia_buf_adds(b, literal ? ")" : i ? "; yourself)" : ")");
}

static void add_object(glia_buf *b, yyjson_val *v) {
    yyjson_obj_iter it;
    yyjson_val *key;
    bool any = false;
    glia_buf_adds(b, "(Dictionary new");
    for (yyjson_obj_iter_init(v, &it); (key = yyjson_obj_iter_next(&it)); any = true) {
        glia_buf_adds(b, any ? ";\n at: " : " at: ");
        add_string(b, yyjson_get_str(key), yyjson_get_len(key));
        glia_buf_adds(b, " put: ");
        add_value(b, yyjson_obj_iter_get_val(key));
    }
    glia_buf_adds(b, any ? "; yourself)" : ")");
}

/* Nesting is bounded by the parser (GLIA_JSON_DEPTH). */
static void add_value(glia_buf *b, yyjson_val *v) {
    if (yyjson_is_obj(v)) add_object(b, v);
    else if (yyjson_is_arr(v)) add_list(b, v);
    else add_scalar(b, v);
}

static glia_status export_work(glia_study *s, glia_buf *b, glia_err *err) {
    const char *format = "smalltalk", *type = "neuroscope";
    yyjson_val *data = glia_json_get(s->root, "data");
    glia_status st;
    if ((st = glia_json_str(s->root, "", "format", &format, err))) return st;
    if ((st = glia_json_str(s->root, "", "export_type", &type, err))) return st;
    bool smalltalk = !strcmp(format, "smalltalk");
    if (!smalltalk && strcmp(format, "json") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "format", "format must be smalltalk or json, not \"%.40s\"", format);
    if (strcmp(type, "neuroscope") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "export_type", "export_type must be neuroscope, not \"%.40s\"", type);
    if (!data) return glia_fail_at(err, GLIA_EINVAL, "data", "data is missing: what shall be exported");
    glia_buf text = {0};
    if (smalltalk) {
        add_value(&text, data);
        glia_buf_adds(&text, "\n");
    } else {
        size_t n;
        char *json = yyjson_val_write(data, 0, &n);
        if (json) (void)glia_buf_add(&text, json, n);
        else text.failed = true;
        free(json);
    }
    if (text.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the export");
    glia_buf_addf(b, "{\"success\":true,\"format\":\"%s\",\"export_type\":\"neuroscope\",\"data\":", format);
    if (!st && smalltalk) glia_json_add_str(b, text.p, text.n);
    else if (!st) (void)glia_buf_add(b, text.p, text.n);
    glia_buf_adds(b, "}\n");
    glia_buf_clear(&text);
    return st;
}

void glia_on_export(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"export", "data as Smalltalk source or JSON", false, export_work};
    glia_study_serve(ud, rq, &route);
}

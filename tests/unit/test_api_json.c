/* Reading bodies strictly, and writing strings. */
#include "api/app.h"
#include "api/json.h"
#include "base/err.h"
#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static glia_err err;

static glia_status parse(const char *s, size_t n) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_err_clear(&err);
    glia_status st = glia_json_parse_object(&doc, &root, s, n, &err);
    assert_true((st == GLIA_OK) == (doc != NULL));
    yyjson_doc_free(doc);
    return st;
}

static void bodies_that_are_no_object_are_refused(void **state) {
    (void)state;
    static const char *const bodies[] = {"",
                                         "[]",
                                         "null",
                                         "1",
                                         "\"x\"",
                                         "{",
                                         "{\"a\":}",
                                         "{'a':1}",
                                         "{\"a\":1,}",
                                         "{\"a\":1} x",
                                         "{\"a\":NaN}",
                                         "{\"a\":\"\\ud800\"}",
                                         "{\"a\":\"\x01\"}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        assert_int_equal(parse(bodies[i], strlen(bodies[i])), GLIA_EINVAL);
        assert_true(err.message[0]);
    }
    assert_int_equal(parse("{\"a\": [1, 2.5, null]}", 21), GLIA_OK);
}

static void invalid_json_names_the_byte(void **state) {
    (void)state;
    assert_int_equal(parse("{\"a\": tru}", 10), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "at byte 6"));
}

static void invalid_utf8_names_the_byte(void **state) {
    (void)state;
    static const struct {
        const char *s;
        size_t n;
        const char *where;
    } rows[] = {
        {"{\"a\":\"\xff\"}", 9, "at byte 6"},
        {"{\"a\":\"x\xc3(\"}", 11, "at byte 7"},
        {"{\"a\":\"\xed\xa0\x80\"}", 11, "at byte 6"},
        {"{\"a\":\"\xf0\x9f\x98", 9, "at byte 6"},
        {"\xc0\xaf", 2, "at byte 0"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(parse(rows[i].s, rows[i].n), GLIA_EINVAL);
        assert_non_null(strstr(err.message, "not UTF-8"));
        if (!strstr(err.message, rows[i].where)) fail_msg("row %zu: %s", i, err.message);
    }
}

static void nesting_is_bounded_before_parsing(void **state) {
    (void)state;
    char deep[512] = "{\"a\":";
    for (int depth = GLIA_JSON_DEPTH - 1; depth <= GLIA_JSON_DEPTH; depth++) {
        size_t n = 5;
        for (int i = 0; i < depth; i++) deep[n++] = '[';
        for (int i = 0; i < depth; i++) deep[n++] = ']';
        deep[n++] = '}';
        assert_int_equal(parse(deep, n), depth < GLIA_JSON_DEPTH ? GLIA_OK : GLIA_EINVAL);
    }
    assert_non_null(strstr(err.message, "deeper than 64"));
    size_t n_quoted = 6;
    memcpy(deep, "{\"a\":\"", 6);
    for (int i = 0; i < 80; i++) deep[n_quoted++] = '[';
    memcpy(deep + n_quoted, "\\\"[\"}", 5);
    assert_int_equal(parse(deep, n_quoted + 5), GLIA_OK); /* brackets in strings do not count */
    size_t n = 1 << 20;                                   /* a million openings end fast, without recursion */
    char *bomb = glia_malloc(n);
    memset(bomb, '[', n);
    assert_int_equal(parse(bomb, n), GLIA_EINVAL);
    glia_free(bomb);
}

static void too_many_values_are_refused_before_parsing(void **state) {
    (void)state;
    size_t n = 2 * (size_t)GLIA_JSON_VALUES + 16;
    char *s = glia_malloc(n);
    memset(s, ',', n);
    assert_int_equal(parse(s, n), GLIA_ETOOLARGE);
    glia_free(s);
}

static void getters_name_path_and_kind(void **state) {
    (void)state;
    static const char s[] =
        "{\"i\":1.5,\"j\":7.0,\"k\":1e300,\"b\":1,\"s\":[],\"z\":\"a\\u0000b\",\"n\":null,\"x\":\"1\"}";
    yyjson_doc *doc;
    yyjson_val *root;
    assert_int_equal(glia_json_parse_object(&doc, &root, s, strlen(s), &err), GLIA_OK);
    int64_t i = 3;
    bool b = false, given;
    double x;
    const char *text = "kept";
    assert_int_equal(glia_json_int(root, "p[1]", "i", 0, 9, &i, NULL, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "p[1].i");
    assert_int_equal(glia_json_int(root, "", "j", 0, 9, &i, &given, &err), GLIA_OK);
    assert_true(given && i == 7);
    assert_int_equal(glia_json_int(root, "", "k", 0, 9, &i, NULL, &err), GLIA_EINVAL);
    assert_int_equal(glia_json_int(root, "", "x", 0, 9, &i, NULL, &err), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "not a string"));
    assert_int_equal(glia_json_bool(root, "", "b", &b, NULL, &err), GLIA_EINVAL);
    assert_int_equal(glia_json_num(root, "", "x", 0, 1, &x, NULL, &err), GLIA_EINVAL);
    assert_int_equal(glia_json_str(root, "", "s", &text, &err), GLIA_EINVAL);
    assert_int_equal(glia_json_str(root, "", "z", &text, &err), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "NUL"));
    assert_int_equal(glia_json_str(root, "", "n", &text, &err), GLIA_OK); /* null is absent */
    assert_string_equal(text, "kept");
    yyjson_doc_free(doc);
}

static void written_strings_are_json(void **state) {
    (void)state;
    static const char in[] = "a\"\\\n\t\x01\x7f\xc3\xa9\xff\xf0\x9f\x98\x80\xe2\x82";
    glia_buf b = {0};
    glia_json_add_str(&b, in, sizeof in - 1);
    assert_string_equal(b.p, "\"a\\\"\\\\\\n\\t\\u0001\\u007f\xc3\xa9\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd\"");
    yyjson_doc *doc;
    glia_buf_clear(&b);
    glia_json_add_cstr(&b, NULL);
    assert_string_equal(b.p, "null");
    assert_int_equal(glia_json_parse(&doc, b.p, b.n, &err), GLIA_OK);
    yyjson_doc_free(doc);
    glia_buf_clear(&b);
}

static void errors_have_one_shape(void **state) {
    (void)state;
    size_t n;
    const char *type;
    (void)glia_fail_at(&err, GLIA_EINVAL, "messages[2].role", "say \"what\"");
    char *body = glia_api_error_body(NULL, &err, &n, &type);
    assert_string_equal(type, "application/json");
    assert_string_equal(body,
                        "{\"error\":{\"message\":\"say \\\"what\\\"\",\"type\":\"invalid_request_error\",\"param\":"
                        "\"messages[2].role\",\"code\":\"invalid_value\"}}\n");
    assert_int_equal(n, strlen(body));
    glia_free(body);
    (void)glia_fail(&err, GLIA_EBUSY, "later");
    body = glia_api_error_body(NULL, &err, &n, &type);
    assert_non_null(strstr(body, "\"param\":null,\"code\":\"busy\""));
    glia_free(body);
}

static void a_writer_out_of_memory_says_so(void **state) {
    (void)state;
    size_t n;
    const char *type;
    for (size_t nth = 1; nth < 4; nth++) {
        (void)glia_fail(&err, GLIA_EINVAL, "a message that is long enough to need more than one piece of memory %0300d",
                        1);
        glia_fault_arm(nth);
        char *body = glia_api_error_body(NULL, &err, &n, &type);
        assert_true(!glia_fault_fired() || !body);
        glia_fault_arm(0);
        glia_free(body);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_that_are_no_object_are_refused),
        cmocka_unit_test(invalid_json_names_the_byte),
        cmocka_unit_test(invalid_utf8_names_the_byte),
        cmocka_unit_test(nesting_is_bounded_before_parsing),
        cmocka_unit_test(too_many_values_are_refused_before_parsing),
        cmocka_unit_test(getters_name_path_and_kind),
        cmocka_unit_test(written_strings_are_json),
        cmocka_unit_test(errors_have_one_shape),
        cmocka_unit_test(a_writer_out_of_memory_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

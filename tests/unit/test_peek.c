/* One field of a JSON body, found without parsing the rest: the same as a parser finds. */
#include "api/peek.h"
#include "support.h"
#include "yyjson.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void is(const char *body, const char *key, glia_peeked what, const char *value) {
    char out[16] = "";
    glia_peeked got = glia_json_peek(body, strlen(body), key, out, sizeof out);
    if (got != what || (what != GLIA_PEEK_NONE && strcmp(out, value) != 0)) fail_msg("%s: %d \"%s\"", body, got, out);
}

static void fields_at_the_top_are_found(void **s) {
    (void)s;
    is("{\"model\":\"a\"}", "model", GLIA_PEEK_STRING, "a");
    is(" \n{ \"x\" : [1, {\"model\": \"no\"}, \"}\"], \"y\":{\"model\":{}} ,\t\"model\" : \"yes\" }", "model",
       GLIA_PEEK_STRING, "yes");
    is("{\"x\":\"\\\"model\\\":\",\"model\":\"b\"}", "model", GLIA_PEEK_STRING, "b");
    is("{\"model\":\"a\\/b\\u002dc\"}", "model", GLIA_PEEK_STRING, "a/b-c");
    is("{\"model\":\"first\",\"model\":\"second\"}", "model", GLIA_PEEK_STRING, "first");
    is("{\"ttl\": 12.5 ,\"model\":\"x\"}", "ttl", GLIA_PEEK_OTHER, "12.5");
    is("{\"ttl\":12.5}", "ttl", GLIA_PEEK_OTHER, "12.5");
    is("{\"ttl\":true}", "ttl", GLIA_PEEK_OTHER, "true");
    is("{\"ttl\":[1,[2]]}", "ttl", GLIA_PEEK_OTHER, "[1,[2]]");
    is("{\"ttl\":\"5\"}", "ttl", GLIA_PEEK_STRING, "5");
    is("{\"x\":1,\"y\":-2e3,\"z\":null,\"model\":\"q\"}", "model", GLIA_PEEK_STRING, "q");
}

static void what_is_not_there_or_no_json_gives_nothing(void **s) {
    (void)s;
    static const char *const bodies[] = {"",
                                         "[",
                                         "nope",
                                         "{",
                                         "{\"model\"",
                                         "{\"model\":",
                                         "{\"model\":\"",
                                         "{\"model\":\"a",
                                         "{\"model\":\"a\\",
                                         "{\"x\":\"\\",
                                         "{\"x\":[[[",
                                         "{\"x\":{\"model\":\"a\"}}",
                                         "[{\"model\":\"a\"}]",
                                         "{\"models\":\"a\",\"mode\":\"b\"}",
                                         "{\"model\":\"longer than the room that there is\"}",
                                         "{\"model\":\"\\u00e9\"}",
                                         "{\"model\":\"\\u0000\"}",
                                         "{\"model\":\"\\x\"}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) is(bodies[i], "model", GLIA_PEEK_NONE, "");
}

/* Every beginning of a body is safe (ASan watches), and a whole one agrees with the parser. */
static void it_agrees_with_the_parser(void **s) {
    (void)s;
    static const char *const bodies[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":\"{\\\"model\\\": 1}\"}],\"model\":\"m\",\"ttl\":3}",
        "{\"a\":{\"b\":[{}, [], \"]\"]},\"n\":1e5,\"model\":\"k\\\"q\",\"t\":[]}", "{\"model\":null}",
        "{\"model\":{\"model\":\"x\"}}", "{}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        size_t n = strlen(bodies[i]);
        char out[64];
        for (size_t k = 0; k <= n; k++) {
            char *copy = malloc(k ? k : 1);
            assert_non_null(copy);
            memcpy(copy, bodies[i], k);
            (void)glia_json_peek(copy, k, "model", out, sizeof out);
            free(copy);
        }
        yyjson_doc *doc = yyjson_read(bodies[i], n, 0);
        yyjson_val *v = yyjson_obj_get(yyjson_doc_get_root(doc), "model");
        glia_peeked got = glia_json_peek(bodies[i], n, "model", out, sizeof out);
        if (yyjson_is_str(v)) assert_string_equal(out, yyjson_get_str(v));
        assert_int_equal(got, !v ? GLIA_PEEK_NONE : yyjson_is_str(v) ? GLIA_PEEK_STRING : GLIA_PEEK_OTHER);
        yyjson_doc_free(doc);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_at_the_top_are_found),
        cmocka_unit_test(what_is_not_there_or_no_json_gives_nothing),
        cmocka_unit_test(it_agrees_with_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* tests/unit/test_log.c — lines of the log: nothing a client sends can break one.
 * How: stderr is a file while a line is written. */
#include "base/log.h"
#include "support.h"
#include "yyjson.h"
#include <string.h>
#include <unistd.h>

static char line[32768];

static const char *logged(glia_log_format format, const char *message, const glia_log_field *f, size_t n) {
    FILE *file = tmpfile();
    assert_non_null(file);
    int kept = dup(STDERR_FILENO);
    (void)fflush(stderr);
    assert_true(kept >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    glia_log_set_format(format);
    glia_log_set_level(GLIA_LOG_INFO);
    glia_log_fields(GLIA_LOG_INFO, message, f, n);
    (void)fflush(stderr);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    rewind(file);
    size_t size = fread(line, 1, sizeof line - 1, file);
    line[size] = 0;
    fclose(file);
    return line;
}

static void text_lines_quote_what_is_no_word(void **s) {
    (void)s;
    const glia_log_field f[] = {
        {"id", "req-1", 0}, {"path", "/a b\"\n\x1b[1m", 0}, {"empty", "", 0}, {"ms", NULL, 2.5}};
    assert_string_equal(logged(GLIA_LOG_TEXT, "request", f, 4),
                        "glia: info: request id=req-1 path=\"/a b\\\"\\u000a\\u001b[1m\" empty=\"\" ms=2.5\n");
}

/* Whatever the bytes, a line is one JSON object with the text, or its readable beginning. */
static void json_lines_parse(void **s) {
    (void)s;
    char every[300], big[5000], accents[5000];
    for (int i = 0; i < 255; i++) every[i] = (char)(i + 1);
    every[255] = 0;
    memset(big, 1, sizeof big - 1);
    for (size_t i = 0; i + 1 < sizeof accents; i++) accents[i] = i % 2 ? (char)0xa9 : (char)0xc3;
    big[sizeof big - 1] = accents[sizeof accents - 1] = 0;
    const char *texts[] = {"plain", "", "\"\\\n\t\x7f", "\xc3\xa9", "\xff\xfe", every, big, accents};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        glia_log_field f[13];
        for (size_t k = 0; k < 13; k++) f[k] = (glia_log_field){"x", texts[i], 0};
        f[0] = (glia_log_field){"n", NULL, 12};
        const char *text = logged(GLIA_LOG_JSON, texts[i], f, 13);
        size_t n = strlen(text);
        assert_true(n && text[n - 1] == '\n' && !memchr(text, '\n', n - 1));
        yyjson_doc *doc = yyjson_read(text, n, 0);
        assert_non_null(doc);
        yyjson_val *o = yyjson_doc_get_root(doc);
        assert_string_equal(yyjson_get_str(yyjson_obj_get(o, "level")), "info");
        assert_int_equal(strlen(yyjson_get_str(yyjson_obj_get(o, "time"))), strlen("2026-11-24T00:00:00.000Z"));
        assert_true(yyjson_get_num(yyjson_obj_get(o, "n")) == 12);
        assert_int_equal(yyjson_obj_size(o), 3 + 12); /* the thirteenth field is left out */
        const char *x = yyjson_get_str(yyjson_obj_get(o, "x"));
        if (i < 4) assert_string_equal(x, texts[i]);
        else assert_true(strlen(x) > 1 && strlen(x) < 1100);
        yyjson_doc_free(doc);
    }
}

static void quieter_levels_say_nothing(void **s) {
    (void)s;
    assert_string_equal(logged(GLIA_LOG_TEXT, "x", NULL, 0), "glia: info: x\n");
    glia_log_set_level(GLIA_LOG_ERROR);
    glia_log(GLIA_LOG_WARN, "must not be seen: %s", "FAILED");
    glia_log_set_level(GLIA_LOG_WARN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_lines_quote_what_is_no_word),
        cmocka_unit_test(json_lines_parse),
        cmocka_unit_test(quieter_levels_say_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

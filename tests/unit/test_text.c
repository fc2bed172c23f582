/* tests/unit/test_text.c — stop strings across token borders; UTF-8 is never cut. */
#include "base/utf8.h"
#include "engine/text.h"
#include "support.h"
#include <string.h>

/* Feed the pieces, return what was handed out in all; *hit: index of the stop string, -1 none. */
static const char *feed(const char *const *stop, size_t n_stop, const char *const *pieces, int *hit) {
    static char all[256];
    glia_text t = {.stop = stop, .n_stop = n_stop};
    glia_buf out = {0};
    *hit = -1;
    for (; *pieces && *hit < 0; pieces++) {
        size_t before = out.n;
        *hit = glia_text_add(&t, *pieces, strlen(*pieces), &out);
        assert_true(glia_utf8_valid(out.p ? out.p + before : "", out.n - before)); /* each piece on its own */
    }
    if (*hit < 0) glia_text_finish(&t, &out);
    assert_false(out.failed);
    assert_true(out.n < sizeof all);
    memcpy(all, out.p ? out.p : "", out.n);
    all[out.n] = 0;
    glia_buf_clear(&out);
    glia_text_clear(&t);
    return all;
}
#define P(...) ((const char *const[]){__VA_ARGS__, NULL})

static void stop_string_is_found_across_tokens(void **s) {
    (void)s;
    int hit;
    assert_string_equal(feed(P("\n\nQ:"), 1, P("yes.", "\n", "\n", "Q", ": more"), &hit), "yes.");
    assert_int_equal(hit, 0);
    assert_string_equal(feed(P("END"), 1, P("aE", "N", "DING"), &hit), "a");
    assert_int_equal(hit, 0);
}

static void held_text_comes_back_when_no_stop_string_follows(void **s) {
    (void)s;
    int hit;
    assert_string_equal(feed(P("END"), 1, P("aE", "N", "x", "EN"), &hit), "aENxEN");
    assert_int_equal(hit, -1);
    assert_string_equal(feed(P("aab"), 1, P("a", "a", "a", "b", "c"), &hit), "a"); /* overlapping beginnings */
    assert_int_equal(hit, 0);
}

static void earliest_stop_string_wins(void **s) {
    (void)s;
    int hit;
    assert_string_equal(feed(P("zz", "b"), 2, P("abzz"), &hit), "a");
    assert_int_equal(hit, 1);
}

static void utf8_is_never_cut(void **s) {
    (void)s;
    int hit;
    assert_string_equal(feed(NULL, 0, P("a\xf0", "\x9f", "\x98", "\x80", "b"), &hit), "a\xf0\x9f\x98\x80"
                                                                                      "b");
    assert_string_equal(feed(P("\x80"), 1, P("\xf0\x9f", "\x98\x80", "z"), &hit),
                        "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

static void ill_formed_bytes_become_replacement_characters(void **s) {
    (void)s;
    int hit;
    assert_string_equal(feed(NULL, 0,
                             P("a\xff"
                               "b",
                               "\xe2\x82"),
                             &hit),
                        "a\xef\xbf\xbd"
                        "b\xef\xbf\xbd\xef\xbf\xbd");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_string_is_found_across_tokens),
        cmocka_unit_test(held_text_comes_back_when_no_stop_string_follows),
        cmocka_unit_test(earliest_stop_string_wins),
        cmocka_unit_test(utf8_is_never_cut),
        cmocka_unit_test(ill_formed_bytes_become_replacement_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* tests/unit/test_base.c — errors, buffers, UTF-8, allocation faults. */
#include "base/buf.h"
#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "support.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void every_status_has_a_wire_form(void **s) {
    (void)s;
    assert_int_equal(glia_status_http(GLIA_OK), 200);
    assert_int_equal(glia_status_http(GLIA_EHOOK), 422);
    assert_string_equal(glia_status_type(GLIA_EMODEL), "not_found_error");
    assert_string_equal(glia_status_code(GLIA_ECONTEXT), "context_length_exceeded");
    for (int i = GLIA_EINVAL; i <= GLIA_ENOMEM; i++) {
        assert_in_range(glia_status_http((glia_status)i), 400, 599);
        assert_true(strlen(glia_status_type((glia_status)i)) && strlen(glia_status_code((glia_status)i)));
    }
}

static void messages_are_one_printable_line(void **s) {
    (void)s;
    glia_err e;
    assert_int_equal(glia_fail_at(&e, GLIA_EINVAL, "a\nb", "x\r\ny \x01 %s", "\xc3\xa9"), GLIA_EINVAL);
    assert_string_equal(e.param, "a b");
    assert_string_equal(e.message, "x  y   \xc3\xa9");
    glia_fail(&e, GLIA_EINVAL, "bad %s", "\xff\xfe");
    assert_true(glia_utf8_valid(e.message, strlen(e.message)));
    assert_string_equal(e.param, "");
    char big[2000];
    memset(big, 'a', sizeof big);
    big[sizeof big - 1] = 0;
    big[478] = (char)0xc3, big[479] = (char)0xa9; /* a character across the end of the field */
    glia_fail(&e, GLIA_EINVAL, "%s", big);
    assert_true(glia_utf8_valid(e.message, strlen(e.message)));
    assert_true(strlen(e.message) < sizeof e.message);
    assert_int_equal(glia_fail(NULL, GLIA_EIO, "ignored"), GLIA_EIO);
}

static void utf8_follows_rfc_3629(void **s) {
    (void)s;
    static const struct {
        const char *bytes;
        bool ok;
        size_t whole;
    } rows[] = {
        {"plain", true, 5},
        {"\xc3\xa9", true, 2},
        {"\xe2\x82\xac", true, 3},
        {"\xf0\x9f\x98\x80", true, 4},
        {"a\xc3", false, 1},
        {"a\xe2\x82", false, 1},
        {"a\xf0\x9f\x98", false, 1}, /* cut, may be completed */
        {"\xc0\xaf", false, 2},
        {"\xe0\x80\xaf", false, 3},
        {"\xed\xa0\x80", false, 3}, /* overlong, surrogate */
        {"\xf4\x90\x80\x80", false, 4},
        {"\xf8\x88\x80\x80\x80", false, 5},
        {"\x80", false, 1},
        {"\xff", false, 1},
        {"a\xe0\x80", false, 3}, /* cannot become a character: not held back */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = strlen(rows[i].bytes);
        assert_int_equal(glia_utf8_valid(rows[i].bytes, n), rows[i].ok);
        assert_int_equal(glia_utf8_whole(rows[i].bytes, n), rows[i].whole);
    }
}

static void whole_numbers_are_written_in_decimal(void **s) {
    (void)s;
    static const struct {
        int64_t v;
        const char *text;
    } rows[] = {{0, "0"},       {7, "7"},           {-1, "-1"},
                {10, "10"},     {-4096, "-4096"},   {2147483647, "2147483647"},
                {INT64_MAX, "9223372036854775807"}, {INT64_MIN, "-9223372036854775808"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_buf b = {0};
        assert_true(glia_buf_addi(&b, rows[i].v));
        assert_string_equal(b.p, rows[i].text);
        assert_int_equal(b.n, strlen(rows[i].text));
        glia_buf_clear(&b);
    }
}

static void buffer_remembers_a_failed_append(void **s) {
    (void)s;
    glia_buf b = {0};
    size_t n;
    assert_true(glia_buf_adds(&b, "one "));
    assert_true(glia_buf_addf(&b, "%d", 2));
    glia_fault_arm(1);
    assert_false(glia_buf_reserve(&b, 1 << 20));
    assert_true(glia_fault_fired());
    assert_false(glia_buf_adds(&b, "lost")); /* no fault any more, but the content is not whole */
    assert_null(glia_buf_take(&b, &n));
    assert_int_equal(n, 0);
    assert_true(glia_buf_adds(&b, "again"));
    char *p = glia_buf_take(&b, &n);
    assert_string_equal(p, "again");
    assert_int_equal(n, 5);
    glia_free(p);
    p = glia_buf_take(&b, &n); /* empty is a string, too */
    assert_string_equal(p, "");
    glia_free(p);
    assert_false(glia_buf_reserve(&b, SIZE_MAX - 10));
    glia_buf_clear(&b);
}

static void points_have_names_and_meanings(void **s) {
    (void)s;
    for (int i = 0; i < GLIA_N_POINTS; i++) {
        glia_point p;
        assert_true(glia_point_from_name(glia_point_name((glia_point)i), &p));
        assert_int_equal(p, i);
        assert_true(strlen(glia_point_meaning((glia_point)i)) > 10);
    }
    glia_point p;
    assert_false(glia_point_from_name("resid", &p));
    assert_false(glia_point_from_name(NULL, &p));
    assert_false(glia_point_has_layer(GLIA_POINT_LM_HEAD));
    assert_true(glia_point_has_layer(GLIA_POINT_RESID_POST));
}

static void a_copy_past_the_caches_is_a_copy(void **s) {
    (void)s;
    enum { MOST = 300, EDGE = 32 };
    unsigned char from[MOST + 2 * EDGE], to[MOST + 2 * EDGE], expected[MOST + 2 * EDGE];
    for (size_t i = 0; i < sizeof from; i++) from[i] = (unsigned char)(i * 37 + 11);
    for (size_t n = 0; n <= MOST; n++) {
        for (size_t at = 0; at < EDGE; at++) {
            memset(to, 0xaa, sizeof to);
            memset(expected, 0xaa, sizeof expected);
            memcpy(expected + at, from + (at * 7 + n) % EDGE, n);
            glia_copy_away(to + at, from + (at * 7 + n) % EDGE, n);
            assert_memory_equal(to, expected, sizeof to);
        }
    }
}

/* What is handed to another process can be neither changed nor resized, by nobody. */
static void sealed_memory_stays_as_it_is(void **s) {
    (void)s;
    int fd = glia_io_memory("test");
    assert_true(fd >= 0);
    assert_true(glia_io_write(fd, "rows", 4));
    assert_true(glia_io_seal(fd));
    assert_false(glia_io_write(fd, "more", 4));
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(ftruncate(fd, 1), -1);
    void *p = glia_io_map(fd, 4);
    assert_non_null(p);
    assert_memory_equal(p, "rows", 4);
    assert_int_equal(munmap(p, 4), 0);
    close(fd);
    for (long n = 1; n <= 3; n++) { /* memory, write, seal: each can fail, once */
        glia_fault_arm_io(n);
        fd = glia_io_memory("test");
        assert_int_equal(fd < 0, n == 1);
        if (fd >= 0) {
            assert_int_equal(glia_io_write(fd, "rows", 4), n != 2);
            assert_int_equal(glia_io_seal(fd), n != 3);
            close(fd);
        }
        assert_true(glia_fault_io_fired());
    }
    glia_fault_arm_io(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_wire_form),   cmocka_unit_test(messages_are_one_printable_line),
        cmocka_unit_test(utf8_follows_rfc_3629),          cmocka_unit_test(buffer_remembers_a_failed_append),
        cmocka_unit_test(whole_numbers_are_written_in_decimal), cmocka_unit_test(a_copy_past_the_caches_is_a_copy),
        cmocka_unit_test(points_have_names_and_meanings), cmocka_unit_test(sealed_memory_stays_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

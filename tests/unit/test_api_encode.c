/* Floats, half precision and base64 as text, against known values and against the C library. */
#include "api/encode.h"
#include "glia.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static uint32_t to_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static uint32_t random_state = 12345;
static uint32_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static void is_text(float x, const char *expected) {
    char out[GLIA_FLOAT_CHARS];
    size_t n = glia_float_text(x, out);
    assert_string_equal(out, expected);
    assert_int_equal(n, strlen(expected));
}

static void floats_have_familiar_forms(void **state) {
    (void)state;
    is_text(0.0f, "0.0");
    is_text(-0.0f, "-0.0");
    is_text(1.0f, "1.0");
    is_text(-1.5f, "-1.5");
    is_text(0.1f, "0.1");
    is_text(100.0f, "100.0");
    is_text(123456.0f, "123456.0");
    is_text(16777216.0f, "16777216.0");
    is_text(0.001f, "0.001");
    is_text(3.1415927f, "3.1415927");
    is_text(1e-7f, "1e-7");
    is_text(1e20f, "1e20");
    is_text(-2.5e-10f, "-2.5e-10");
    is_text(0.3f, "0.3");
    is_text(9.999999e8f, "999999900.0");
    is_text(123456789.0f, "123456790.0");
    is_text(1e8f, "100000000.0");
    is_text(1e9f, "1e9");
    is_text(1e-5f, "0.00001");
    is_text(1.2345678e-5f, "0.000012345678");
    is_text(3.4028235e38f, "3.4028235e38"); /* the largest, the smallest normal one, and subnormals */
    is_text(1.17549435e-38f, "1.1754944e-38");
    is_text(1e-45f, "1e-45");
    is_text(-4e-45f, "-4e-45");
    is_text(NAN, "null");
    is_text(INFINITY, "null");
    is_text(-INFINITY, "null");
}

static bool reads_as(const char *text, uint32_t u) { return to_bits(strtof(text, NULL)) == u; }

/* Digits of a decimal without zeros before and behind them; how many. */
static int significant(const char *text, char out[32]) {
    int n = 0;
    for (const char *p = text; *p && *p != 'e'; p++) {
        if (*p >= '1' && *p <= '9') out[n++] = *p;
        else if (*p == '0' && n) out[n++] = *p;
    }
    while (n && out[n - 1] == '0') n--;
    out[n] = 0;
    return n;
}

/* Reads back; with a digit less nothing would, rounded either way; of its length it is the nearest that does. */
static void is_shortest(uint32_t u) {
    char out[GLIA_FLOAT_CHARS], digits[32], other[32], nearest[32];
    float x = from_bits(u);
    size_t length = glia_float_text(x, out);
    int n = significant(out, digits);
    if (length >= GLIA_FLOAT_CHARS || strlen(out) != length || !n || n > 9 || !reads_as(out, u))
        fail_msg("%08x: %a became %s", u, (double)x, out);
    (void)snprintf(other, sizeof other, "%.*e", n - 1, (double)x);
    (void)significant(other, nearest);
    if (reads_as(other, u) && strcmp(nearest, digits)) fail_msg("%08x: %s is nearer than %s", u, other, out);
    if (n == 1) return;
    (void)snprintf(other, sizeof other, "%.*e", n - 2, (double)x);
    if (reads_as(other, u)) fail_msg("%08x: %s is shorter than %s", u, other, out);
    long e = strtol(strchr(other, 'e') + 1, NULL, 10), m = 0; /* its neighbours, as whole numbers */
    for (const char *p = other; *p != 'e'; p++) {
        if (*p >= '0' && *p <= '9') m = m * 10 + (*p - '0');
    }
    for (int d = -1; d <= 1; d += 2) {
        (void)snprintf(other, sizeof other, "%lde%ld", m + d, e - (n - 2));
        if (reads_as(other, u & 0x7fffffff)) fail_msg("%08x: %s is shorter than %s", u, other, out);
    }
}

static void floats_at_powers_are_shortest(void **state) {
    (void)state;
    for (uint32_t e = 0; e < 255; e++) { /* around every power of two */
        for (int d = -3; d <= 3; d++) {
            uint32_t u = (e << 23) + (uint32_t)d;
            if ((u & 0x7f800000) != 0x7f800000 && u & 0x7fffffff) is_shortest(u), is_shortest(u ^ 0x80000000);
        }
    }
    for (int k = -44; k <= 38; k++) { /* around every power of ten */
        float x = strtof((char[]){'1', 'e', k < 0 ? '-' : '+', (char)('0' + abs(k) / 10), (char)('0' + abs(k) % 10), 0},
                         NULL);
        for (int d = -3; d <= 3; d++) {
            if (to_bits(x) + (uint32_t)d) is_shortest(to_bits(x) + (uint32_t)d);
        }
    }
    for (uint32_t u = 1; u < 5000; u++) is_shortest(u); /* subnormals */
}

/* FLOATS_STEP=1: each of them, in about half an hour. */
static void floats_are_shortest(void **state) {
    (void)state;
    const char *asked = getenv("FLOATS_STEP");
    unsigned long step = asked ? strtoul(asked, NULL, 10) : 4999;
    for (uint64_t u = 1; u < 0x7f800000; u += step ? step : 1) is_shortest((uint32_t)u);
    for (int i = 0; i < 200000; i++) is_shortest((next_random() & 0x80ffffff) | 0x3e000000); /* ±0.125 to 8 */
}

static void half_precision_matches_known_values(void **state) {
    (void)state;
    static const struct {
        float x;
        uint16_t h;
    } known[] = {
        {0.0f, 0x0000},
        {-0.0f, 0x8000},
        {1.0f, 0x3c00},
        {-2.0f, 0xc000},
        {65504.0f, 0x7bff},
        {65519.0f, 0x7bff},
        {65520.0f, 0x7c00},
        {0.333251953125f, 0x3555},
        {6.103515625e-05f, 0x0400},
        {5.960464477539063e-08f, 0x0001},
        {2.98e-08f, 0x0000},
        {2.9803e-08f, 0x0001},
        {1.00048828125f, 0x3c00},
        {1.00146484375f, 0x3c02},
        {INFINITY, 0x7c00},
        {6.0976e-05f, 0x03ff},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (glia_f16_of(known[i].x) != known[i].h)
            fail_msg("%a: %04x, not %04x", (double)known[i].x, glia_f16_of(known[i].x), known[i].h);
    }
    assert_true(isnan(glia_f16_to(glia_f16_of(NAN))));
    for (uint32_t h = 0; h < 65536; h++) { /* every half is its own nearest half */
        float x = glia_f16_to((uint16_t)h);
        if (!isnan(x)) assert_int_equal(glia_f16_of(x), h);
    }
}

static void bfloat16_rounds_to_even(void **state) {
    (void)state;
    assert_int_equal(glia_bf16_of(1.0f), 0x3f80);
    assert_int_equal(glia_bf16_of(from_bits(0x3f808000)), 0x3f80);
    assert_int_equal(glia_bf16_of(from_bits(0x3f818000)), 0x3f82);
    assert_int_equal(glia_bf16_of(from_bits(0x3f808001)), 0x3f81);
    assert_int_equal(glia_bf16_of(INFINITY), 0x7f80);
    assert_true(isnan(glia_bf16_to(glia_bf16_of(from_bits(0x7f800001)))));
    assert_true(glia_bf16_to(0x3f80) == 1.0f);
}

static void base64_matches_rfc_4648(void **state) {
    (void)state;
    static const char *const rows[][2] = {{"", ""},
                                          {"f", "Zg=="},
                                          {"fo", "Zm8="},
                                          {"foo", "Zm9v"},
                                          {"foob", "Zm9vYg=="},
                                          {"fooba", "Zm9vYmE="},
                                          {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_buf b = {0};
        glia_base64_add(&b, rows[i][0], strlen(rows[i][0]));
        assert_string_equal(b.p ? b.p : "", rows[i][1]);
        glia_buf_clear(&b);
    }
    static const unsigned char bytes[] = {0xfb, 0xff, 0xbf, 0x00, 0x10, 0x83};
    glia_buf b = {0};
    glia_base64_add(&b, bytes, 3);
    glia_base64_add(&b, bytes + 3, 3);
    assert_string_equal(b.p, "+/+/ABCD");
    glia_buf_clear(&b);
}

/* Two characters for each 12 bits, one by one. */
static void base64_of_any_length_is_right(void **state) {
    (void)state;
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    enum { MOST = 700 };
    uint8_t bytes[MOST], back[MOST + 3];
    char expected[MOST * 2];
    for (size_t n = 0; n <= MOST; n++) {
        glia_buf b = {0};
        size_t k = 0, n_back = 0;
        for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)(next_random() >> 11);
        for (size_t i = 0; i < n; i += 3) {
            uint32_t v = 0;
            for (size_t j = i; j < i + 3; j++) v = v << 8 | (j < n ? bytes[j] : 0);
            for (int shift = 18; shift >= 0; shift -= 6) expected[k++] = letters[v >> shift & 63];
        }
        for (size_t j = n; j % 3; j++) expected[k - 1 - (j - n)] = '=';
        glia_buf_add(&b, "\"", 1);
        uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees what is read behind it */
        memcpy(exact, bytes, n);
        glia_base64_add(&b, exact, n);
        free(exact);
        assert_int_equal(b.n, k + 1);
        assert_memory_equal(b.p + 1, expected, k);
        assert_int_equal(b.p[b.n], 0);
        assert_true(glia_base64_read(b.p + 1, k, back, &n_back));
        assert_int_equal(n_back, n);
        assert_memory_equal(back, bytes, n);
        glia_buf_clear(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_have_familiar_forms), cmocka_unit_test(floats_at_powers_are_shortest),
        cmocka_unit_test(floats_are_shortest),        cmocka_unit_test(half_precision_matches_known_values),
        cmocka_unit_test(bfloat16_rounds_to_even),    cmocka_unit_test(base64_matches_rfc_4648),
        cmocka_unit_test(base64_of_any_length_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

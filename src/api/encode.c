/* api/encode.c — floats and bytes as text.  Pure; any thread; knows neither JSON nor HTTP. */
#include "api/encode.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ decimals */

/* 10^k for k in -40..50 as doubles: every float times one of these has 9 digits before the point. */
static const double powers[] = {
    1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32, 1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25,
    1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9,
    1e-8,  1e-7,  1e-6,  1e-5,  1e-4,  1e-3,  1e-2,  1e-1,  1e0,   1e1,   1e2,   1e3,   1e4,   1e5,   1e6,   1e7,
    1e8,   1e9,   1e10,  1e11,  1e12,  1e13,  1e14,  1e15,  1e16,  1e17,  1e18,  1e19,  1e20,  1e21,  1e22,  1e23,
    1e24,  1e25,  1e26,  1e27,  1e28,  1e29,  1e30,  1e31,  1e32,  1e33,  1e34,  1e35,  1e36,  1e37,  1e38,  1e39,
    1e40,  1e41,  1e42,  1e43,  1e44,  1e45,  1e46,  1e47,  1e48,  1e49,  1e50,
};
static double power(int k) { return powers[k + 40]; }

/* Nine decimal digits d and exponent e with x ≈ d·10^(e-8), 10^8 ≤ d < 10^9, then as many digits dropped as the gap
 * to the neighbouring floats allows.  Doubles carry 29 bits more than a float, so the comparison is safe by a wide
 * margin except within 1e-6 of the half gap, where the longer form is kept.  Units are constants: a division each by
 * multiplication. */
static uint32_t digits_of(float x, int *e) {
    uint32_t u = glia_float_bits(x);
    int k = (((int)(u >> 23) - 127) * 315653) >> 20; /* ≤ floor(log10 x) ≤ k + 1; log10(2) · 2^20 = 315652.8 */
    double v = (double)x;
    if (v >= power(k + 1)) k++;
    double scale = power(8 - k), s = v * scale;
    double gap = (double)glia_float_from(u + 1) - v;                         /* to the next float up */
    double half = ((u & 0x7fffff) ? gap / 2 : gap / 4) * scale * (1 - 1e-6); /* below a power of two it is half of it */
    uint32_t best = (uint32_t)(s + 0.5), shorter;
#define DROP(unit)                                                                                                     \
    do {                                                                                                               \
        shorter = (uint32_t)(s + 0.5 * (unit)) / (unit) * (unit);                                                      \
        if (fabs((double)shorter - s) >= half) goto done;                                                              \
        best = shorter;                                                                                                \
    } while (0)
    DROP(10);
    DROP(100);
    DROP(1000);
    DROP(10000);
    DROP(100000);
    DROP(1000000);
    DROP(10000000);
    DROP(100000000);
#undef DROP
done:
    if (best >= 1000000000) best /= 10, k++;
    *e = k;
    return best;
}

/* Two digits at once. */
static void put_pair(char *out, uint32_t v) {
    static const char pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
        "49505152535455565758596061626364656667686970717273747576777879808182838485868788899091929394959697"
        "9899";
    memcpy(out, pairs + 2 * v, 2);
}

/* Digits without trailing zeros, the point where a reader expects it: 0.00123, 12.5, 1.5e-09.  Copies are of fixed sizes
 * and run over what they are for: GLIA_FLOAT_CHARS leaves room. */
static size_t place_point(char *out, uint32_t d, int e) {
    char digits[24] = "000000000000000000000000";
    uint32_t rest = d % 100000000, high = rest / 10000, low = rest % 10000;
    digits[0] = (char)('0' + d / 100000000);
    put_pair(digits + 1, high / 100), put_pair(digits + 3, high % 100);
    put_pair(digits + 5, low / 100), put_pair(digits + 7, low % 100);
    int n = 9;
    while (n > 1 && digits[n - 1] == '0') n--;
    char *p = out;
    if (e >= 0 && e < 9) {
        memcpy(p, digits, 9);
        p[e + 1] = '.';
        memcpy(p + e + 2, digits + e + 1, 9); /* behind the ninth digit there are zeros */
        p += n > e + 1 ? n + 1 : e + 3;
    } else if (e < 0 && e >= -5) {
        memcpy(p, "0.0000", 6);
        p += 1 - e;
        memcpy(p, digits, 9);
        p += n;
    } else {
        *p++ = digits[0];
        if (n > 1) {
            *p++ = '.';
            memcpy(p, digits + 1, 8);
            p += n - 1;
        }
        *p++ = 'e';
        if (e < 0) *p++ = '-', e = -e;
        if (e >= 10) *p++ = (char)('0' + e / 10);
        *p++ = (char)('0' + e % 10);
    }
    *p = 0;
    return (size_t)(p - out);
}

size_t glia_float_text(float x, char out[GLIA_FLOAT_CHARS]) {
    uint32_t u = glia_float_bits(x), magnitude = u & 0x7fffffff;
    if (magnitude >= 0x7f800000) {
        memcpy(out, "null", 5);
        return 4;
    }
    size_t sign = u >> 31;
    if (sign) out[0] = '-';
    if (!magnitude) {
        memcpy(out + sign, "0.0", 4);
        return sign + 3;
    }
    if (magnitude < 0x00800000 || magnitude >= 0x7f000000) { /* rare ends of the range: the slow, certain way */
        int n = snprintf(out + sign, GLIA_FLOAT_CHARS - 1, "%.8e", (double)glia_float_from(magnitude));
        return sign + (size_t)n;
    }
    int e;
    uint32_t d = digits_of(glia_float_from(magnitude), &e);
    return sign + place_point(out + sign, d, e);
}

/* ------------------------------------------------------------------ base64 */

static const char table64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Pairs of characters for 12 bits: 8 KiB, filled once. */
static char pairs64[4096][2];
static void fill_pairs(void) {
    for (int i = 0; i < 4096; i++) pairs64[i][0] = table64[i >> 6], pairs64[i][1] = table64[i & 63];
}

void glia_base64_add(glia_buf *b, const void *bytes, size_t n) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const uint8_t *s = bytes;
    if (!n || !glia_buf_reserve(b, (n + 2) / 3 * 4)) return;
    (void)pthread_once(&once, fill_pairs);
    char *p = b->p + b->n;
    for (; n >= 6; n -= 6, s += 6, p += 8) {
        uint32_t x = (uint32_t)s[0] << 16 | (uint32_t)s[1] << 8 | s[2],
                 y = (uint32_t)s[3] << 16 | (uint32_t)s[4] << 8 | s[5];
        memcpy(p, pairs64[x >> 12], 2), memcpy(p + 2, pairs64[x & 4095], 2);
        memcpy(p + 4, pairs64[y >> 12], 2), memcpy(p + 6, pairs64[y & 4095], 2);
    }
    for (; n >= 3; n -= 3, s += 3, p += 4) {
        uint32_t x = (uint32_t)s[0] << 16 | (uint32_t)s[1] << 8 | s[2];
        memcpy(p, pairs64[x >> 12], 2), memcpy(p + 2, pairs64[x & 4095], 2);
    }
    if (n) {
        unsigned second = n == 2 ? s[1] : 0;
        *p++ = table64[s[0] >> 2];
        *p++ = table64[(unsigned)(s[0] & 3) << 4 | second >> 4];
        *p++ = n == 2 ? table64[(second & 15) << 2] : '=';
        *p++ = '=';
    }
    *p = 0;
    b->n = (size_t)(p - b->p);
}

/* Value of a character, 64: none. */
static unsigned sextet(char c) {
    if (c >= 'A' && c <= 'Z') return (unsigned)(c - 'A');
    if (c >= 'a' && c <= 'z') return (unsigned)(c - 'a') + 26;
    if (c >= '0' && c <= '9') return (unsigned)(c - '0') + 52;
    return c == '+' ? 62 : c == '/' ? 63 : 64;
}

bool glia_base64_read(const char *s, size_t n, uint8_t *out, size_t *n_out) {
    uint8_t *p = out;
    *n_out = 0;
    if (n % 4) return false;
    for (size_t i = 0; i < n; i += 4) {
        bool last = i + 4 == n;
        unsigned missing = last && s[i + 3] == '=' ? (s[i + 2] == '=' ? 2 : 1) : 0, bits = 0;
        for (unsigned k = 0; k < 4; k++) {
            unsigned v = k >= 4 - missing ? 0 : sextet(s[i + k]);
            if (v > 63) return false;
            bits = bits << 6 | v;
        }
        if (bits & ((1u << 8 * missing) - 1)) return false; /* bits that belong to no byte */
        for (unsigned k = 0; k < 3 - missing; k++) *p++ = (uint8_t)(bits >> (16 - 8 * k));
    }
    *n_out = (size_t)(p - out);
    return true;
}

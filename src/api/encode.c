/* api/encode.c — floats and bytes as text.  Pure; any thread; knows neither JSON nor HTTP. */
#include "api/encode.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

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
 * margin except within 1e-6 of the half gap, where the longer form is kept. */
static uint32_t digits_of(float x, int *e) {
    uint32_t u = bits_of(x);
    int k = (int)floor(((int)(u >> 23) - 127) * 0.30102999566398120); /* ≤ floor(log10 x) ≤ k + 1 */
    double v = (double)x;
    if (v >= power(k + 1)) k++;
    double scale = power(8 - k), s = v * scale;
    double gap = (double)float_of(u + 1) - v;                                /* to the next float up */
    double half = ((u & 0x7fffff) ? gap / 2 : gap / 4) * scale * (1 - 1e-6); /* below a power of two it is half of it */
    uint64_t best = (uint64_t)(s + 0.5);
    for (uint64_t unit = 10; unit <= 100000000; unit *= 10) {
        uint64_t shorter = ((uint64_t)(s + 0.5 * (double)unit)) / unit * unit;
        if (fabs((double)shorter - s) >= half) break;
        best = shorter;
    }
    if (best >= 1000000000) best /= 10, k++;
    *e = k;
    return (uint32_t)best;
}

/* Digits without trailing zeros, the point where a reader expects it: 0.00123, 12.5, 1.5e-09. */
static size_t place_point(char *out, uint32_t d, int e) {
    char digits[10];
    for (int i = 8; i >= 0; i--, d /= 10) digits[i] = (char)('0' + d % 10);
    int n = 9;
    while (n > 1 && digits[n - 1] == '0') n--;
    char *p = out;
    if (e >= 0 && e < 9) {
        for (int i = 0; i <= e || i < n; i++) {
            if (i == e + 1) *p++ = '.';
            *p++ = i < n ? digits[i] : '0';
        }
        if (n <= e + 1) *p++ = '.', *p++ = '0';
    } else if (e < 0 && e >= -5) {
        *p++ = '0', *p++ = '.';
        for (int i = -1; i > e; i--) *p++ = '0';
        memcpy(p, digits, (size_t)n);
        p += n;
    } else {
        *p++ = digits[0];
        if (n > 1) {
            *p++ = '.';
            memcpy(p, digits + 1, (size_t)n - 1);
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
    uint32_t u = bits_of(x), magnitude = u & 0x7fffffff;
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
        int n = snprintf(out + sign, GLIA_FLOAT_CHARS - 1, "%.8e", (double)float_of(magnitude));
        return sign + (size_t)n;
    }
    int e;
    uint32_t d = digits_of(float_of(magnitude), &e);
    return sign + place_point(out + sign, d, e);
}

/* ------------------------------------------------------------------ half precision */

uint16_t glia_f16_of(float x) {
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, m = u & 0x7fffffff;
    if (m > 0x7f800000) return (uint16_t)(sign | 0x7e00);  /* NaN */
    if (m >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds beyond 65504 */
    if (m < 0x33000001) return (uint16_t)sign;             /* below half of the smallest */
    if (m < 0x38800000) {                                  /* subnormal half: units of 2^-24 */
        return (uint16_t)(sign | (uint32_t)nearbyint((double)float_of(m) * 16777216.0));
    }
    uint32_t odd = m >> 13 & 1;
    return (uint16_t)(sign | (m - 0x38000000 + 0xfff + odd) >> 13);
}

float glia_f16_to(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
    if (e == 31) return float_of(sign | 0x7f800000 | m << 13);
    if (e) return float_of(sign | (e + 112) << 23 | m << 13);
    float tiny = (float)m / 16777216.0f;
    return sign ? -tiny : tiny;
}

uint16_t glia_bf16_of(float x) {
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float glia_bf16_to(uint16_t h) { return float_of((uint32_t)h << 16); }

/* ------------------------------------------------------------------ base64 */

void glia_base64_add(glia_buf *b, const void *bytes, size_t n) {
    static const char table[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *s = bytes;
    if (!n || !glia_buf_reserve(b, (n + 2) / 3 * 4)) return;
    char *p = b->p + b->n;
    for (; n >= 3; n -= 3, s += 3) {
        *p++ = table[s[0] >> 2];
        *p++ = table[(unsigned)(s[0] & 3) << 4 | (unsigned)s[1] >> 4];
        *p++ = table[(unsigned)(s[1] & 15) << 2 | (unsigned)s[2] >> 6];
        *p++ = table[s[2] & 63];
    }
    if (n) {
        unsigned second = n == 2 ? s[1] : 0;
        *p++ = table[s[0] >> 2];
        *p++ = table[(unsigned)(s[0] & 3) << 4 | second >> 4];
        *p++ = n == 2 ? table[(second & 15) << 2] : '=';
        *p++ = '=';
    }
    *p = 0;
    b->n = (size_t)(p - b->p);
}

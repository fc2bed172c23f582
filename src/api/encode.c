/* api/encode.c — bytes as base64.  Pure; any thread; knows neither JSON nor HTTP. */
#include "api/encode.h"
#include <pthread.h>
#include <string.h>

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

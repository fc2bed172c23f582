/* api/base64.c — bytes as base64 and back: encode.h.  Pure; any thread; knows neither JSON nor HTTP. */
#include "api/encode.h"
#include "base/cpu.h"
#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static const char table64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* ------------------------------------------------------------------ 24 bytes at once */

/* Encodes whole groups of three bytes and leaves the rest to others: *bytes and *left say which.  The end of the text. */
#if defined(__x86_64__)
__attribute__((target("avx2"))) static char *encode_avx2(char *p, const uint8_t **bytes, size_t *left) {
    const uint8_t *s = *bytes;
    size_t n = *left;
    /* bytes a b c of a group as b a c b: two little-endian words, each with two of the four fields */
    const __m256i spread = _mm256_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10, /* the other lane alike */
                                            1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10);
    /* from a field to its character: a-z, the ten digits, +, /, A-Z */
    const __m256i offsets = _mm256_setr_epi8(71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0, /* again */
                                             71, -4, -4, -4, -4, -4, -4, -4, -4, -4, -4, -19, -16, 65, 0, 0);
    for (; n >= 28; n -= 24, s += 24, p += 32) { /* the second load ends at s + 28 */
        __m128i first = _mm_loadu_si128((const __m128i *)(const void *)s);
        __m128i second = _mm_loadu_si128((const __m128i *)(const void *)(s + 12));
        __m256i v = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1), spread);
        /* products as shifts, each word its own: fields 0 and 2 down, 1 and 3 up */
        __m256i even = _mm256_and_si256(v, _mm256_set1_epi32(0x0fc0fc00));
        __m256i odd = _mm256_and_si256(v, _mm256_set1_epi32(0x003f03f0));
        __m256i field = _mm256_or_si256(_mm256_mulhi_epu16(even, _mm256_set1_epi32(0x04000040)),
                                        _mm256_mullo_epi16(odd, _mm256_set1_epi32(0x01000010)));
        __m256i upper = _mm256_cmpgt_epi8(_mm256_set1_epi8(26), field); /* A-Z */
        __m256i kind = _mm256_or_si256(_mm256_subs_epu8(field, _mm256_set1_epi8(51)),
                                       _mm256_and_si256(upper, _mm256_set1_epi8(13)));
        _mm256_storeu_si256((__m256i *)(void *)p, _mm256_add_epi8(field, _mm256_shuffle_epi8(offsets, kind)));
    }
    *bytes = s, *left = n;
    return p;
}
#else
static char *encode_avx2(char *p, const uint8_t **bytes, size_t *left) { return (void)bytes, (void)left, p; }
#endif

/* ------------------------------------------------------------------ anywhere */

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
    if (n >= 28 && glia_cpu_avx2()) p = encode_avx2(p, &s, &n);
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

/* ------------------------------------------------------------------ the way back */

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

/* base/utf8.c — UTF-8 checks.  Pure functions.  Source: RFC 3629 §4 (table of well-formed byte sequences). */
#include "utf8.h"

/* Bytes of the character that starts at s: its length, 0 when ill-formed, -1 when cut but completable so far. */
static int step(const unsigned char *s, size_t n) {
    unsigned char c = s[0];
    if (c < 0x80) return 1;
    int len = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (!len) return 0;
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) return -1;
        unsigned char lo = 0x80, hi = 0xbf;
        if (i == 1) {
            if (c == 0xe0) lo = 0xa0;      /* overlong */
            else if (c == 0xed) hi = 0x9f; /* surrogates */
            else if (c == 0xf0) lo = 0x90; /* overlong */
            else if (c == 0xf4) hi = 0x8f; /* beyond U+10FFFF */
        }
        if (s[i] < lo || s[i] > hi) return 0;
    }
    return len;
}

bool glia_utf8_valid(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        int k = step((const unsigned char *)s + i, n - i);
        if (k <= 0) return false;
        i += (size_t)k;
    }
    return true;
}

size_t glia_utf8_whole(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if (c < 0x80) break;
        if (c >= 0xc0) return step((const unsigned char *)s + n - back, back) == -1 ? n - back : n;
    }
    return n;
}

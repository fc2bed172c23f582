/* base/buf.c — growing byte buffer.  One thread at a time.  Knows nothing above base. */
#include "buf.h"
#include "glia.h"
#include "mem.h"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

void glia_buf_clear(glia_buf *b) {
    glia_free(b->p);
    *b = (glia_buf){0};
}

bool glia_buf_reserve(glia_buf *b, size_t more) {
    if (b->failed) return false;
    if (more > SIZE_MAX / 2 - b->n - 1) return !(b->failed = true);
    size_t want = b->n + more + 1;
    if (want <= b->cap) return true;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < want) cap *= 2;
    char *p = glia_realloc(b->p, cap);
    if (!p) return !(b->failed = true);
    b->p = p, b->cap = cap;
    b->p[b->n] = 0;
    return true;
}

bool glia_buf_add(glia_buf *b, const void *p, size_t n) {
    if (!glia_buf_reserve(b, n)) return false;
    if (n) memcpy(b->p + b->n, p, n);
    b->p[b->n += n] = 0;
    return true;
}

bool glia_buf_adds(glia_buf *b, const char *s) { return glia_buf_add(b, s, strlen(s)); }

bool glia_buf_addi(glia_buf *b, int64_t v) {
    char text[20], *p = text + sizeof text;
    uint64_t rest = v < 0 ? -(uint64_t)v : (uint64_t)v;
    do *--p = (char)('0' + rest % 10);
    while (rest /= 10);
    if (v < 0) *--p = '-';
    return glia_buf_add(b, p, (size_t)(text + sizeof text - p));
}

bool glia_buf_addf(glia_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && glia_buf_reserve(b, (size_t)n);
    if (ok) {
        (void)vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    return ok;
}

char *glia_buf_take(glia_buf *b, size_t *n) {
    if (b->failed || !glia_buf_reserve(b, 0)) {
        glia_buf_clear(b);
        if (n) *n = 0;
        return NULL;
    }
    char *p = b->p;
    if (n) *n = b->n;
    *b = (glia_buf){0};
    return p;
}

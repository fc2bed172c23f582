/* base/mem.c — allocation with a fault point.  Any thread.  Knows nothing above base. */
#include "mem.h"
#include "glia.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static _Thread_local size_t fault_countdown; /* 0: disarmed */
static _Thread_local int fault_fired;

void glia_fault_arm(size_t n) {
    fault_countdown = n;
    fault_fired = 0;
}

int glia_fault_fired(void) { return fault_fired; }

static int fault_here(void) {
    if (!fault_countdown || --fault_countdown) return 0;
    return fault_fired = 1;
}

void *glia_malloc(size_t n) { return fault_here() ? NULL : malloc(n ? n : 1); }

void *glia_calloc(size_t n, size_t size) { return fault_here() ? NULL : calloc(n ? n : 1, size ? size : 1); }

void *glia_realloc(void *p, size_t n) { return fault_here() ? NULL : realloc(p, n ? n : 1); }

void glia_free(void *p) { free(p); }

void glia_mem_large(void *p, size_t n) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = (uintptr_t)2 << 20;
    uintptr_t from = ((uintptr_t)p + page - 1) & ~(page - 1), to = ((uintptr_t)p + n) & ~(page - 1);
    if (p && to > from) (void)madvise((char *)p + (from - (uintptr_t)p), to - from, MADV_HUGEPAGE);
#else
    (void)p, (void)n;
#endif
}

void glia_copy_away(void *restrict to, const void *restrict from, size_t n) {
#if defined(__SSE2__)
    enum { VECTOR = sizeof(__m128i), LINE = 4 * VECTOR };
    char *d = to;
    const char *s = from;
    size_t head = (VECTOR - (uintptr_t)d % VECTOR) % VECTOR;
    if (head > n) head = n;
    memcpy(d, s, head);
    for (d += head, s += head, n -= head; n >= LINE; d += LINE, s += LINE, n -= LINE) {
        __m128i line[4];
        memcpy(line, s, sizeof line);
        for (int i = 0; i < 4; i++) _mm_stream_si128((__m128i *)(void *)d + i, line[i]);
    }
    memcpy(d, s, n);
    _mm_sfence(); /* such stores keep no order: now they are seen by whoever takes a lock that is given back behind this */
#else
    memcpy(to, from, n);
#endif
}

char *glia_strndup(const char *s, size_t n) {
    char *d = glia_malloc(n + 1);
    if (!d) return NULL;
    if (n) memcpy(d, s, n);
    d[n] = 0;
    return d;
}

char *glia_strdup(const char *s) { return s ? glia_strndup(s, strlen(s)) : NULL; }

void *glia_memdup(const void *p, size_t n) {
    if (!p || !n) return NULL;
    void *d = glia_malloc(n);
    if (d) memcpy(d, p, n);
    return d;
}

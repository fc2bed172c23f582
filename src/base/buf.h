/* base/buf.h — growing byte buffer that remembers its first failure.
 * Owner frees with glia_buf_clear.  One thread at a time.  Knows nothing above base.
 * Appends after a failed allocation do nothing, so a writer checks `failed` once, at the end. */
#ifndef GLIA_BASE_BUF_H
#define GLIA_BASE_BUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct glia_buf {
    char *p; /* n bytes, always followed by a NUL when p is not NULL */
    size_t n, cap;
    bool failed; /* out of memory at some append; the content is not whole */
} glia_buf;

void glia_buf_clear(glia_buf *b);                /* frees; leaves an empty usable buffer */
bool glia_buf_reserve(glia_buf *b, size_t more); /* room for `more` bytes; false: out of memory */
bool glia_buf_add(glia_buf *b, const void *p, size_t n);
bool glia_buf_adds(glia_buf *b, const char *s);
bool glia_buf_addi(glia_buf *b, int64_t v); /* in decimal; much faster than addf, for lists */
bool glia_buf_addf(glia_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
char *glia_buf_take(glia_buf *b, size_t *n); /* hands over the bytes (glia_free), empties b; NULL if failed */
#endif

/* store/sha256.h — SHA-256 as a stream, from libcrypto.  One thread at a time.  Knows nothing above base. */
#ifndef GLIA_STORE_SHA256_H
#define GLIA_STORE_SHA256_H
#include <stdbool.h>
#include <stddef.h>

enum { GLIA_SHA256_HEX = 65 }; /* 64 lower-case digits and NUL */

typedef struct glia_sha256 glia_sha256;
glia_sha256 *glia_sha256_new(void); /* NULL: out of memory */
bool glia_sha256_add(glia_sha256 *h, const void *p, size_t n);
/* The sum of everything added so far; more may be added after it.  False: out of memory. */
bool glia_sha256_hex(const glia_sha256 *h, char out[GLIA_SHA256_HEX]);
void glia_sha256_free(glia_sha256 *h); /* NULL is fine */
#endif

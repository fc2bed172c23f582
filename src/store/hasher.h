/* store/hasher.h — SHA-256 of a stream by a thread of its own, while the caller does something else with the bytes.
 *
 * One thread at a time; a second one is started at the first large piece and ends with free.  Between begin and end the
 * piece is the hasher's to read.  Small pieces, and all of them when no thread can be had, are hashed by end itself. */
#ifndef GLIA_STORE_HASHER_H
#define GLIA_STORE_HASHER_H
#include "store/sha256.h"

typedef struct glia_hasher glia_hasher;
glia_hasher *glia_hasher_new(void); /* NULL: out of memory */
void glia_hasher_begin(glia_hasher *h, const void *p, size_t n);
bool glia_hasher_end(glia_hasher *h); /* waits; false: it cannot be hashed */
/* Of every piece that has ended.  False: out of memory. */
bool glia_hasher_hex(const glia_hasher *h, char out[GLIA_SHA256_HEX]);
void glia_hasher_free(glia_hasher *h); /* NULL is fine; not between begin and end */
#endif

/* tap/verdict.h — what the proof said of an atlas, as bytes that can be kept for the next load.
 *
 * Only grades are kept, and the reasons of places that the proof refused (ambiguous, or absent after all); the map itself is made anew at every load, and its hash must
 * be the one that was proven.  Bytes from anywhere are safe: whatever is not exactly a verdict on this atlas under this
 * key is not taken.  Pure; any thread; knows no file.
 *
 *   offset  size  meaning (little-endian)
 *   0       8     "GLIAPRV1"
 *   8       32    key: who made it, of what (engine/atlas_cache.h)
 *   40      8     hash of the map: signatures, places, attention rules
 *   48      4     n, number of places
 *   52      n     grade of each place
 *   …       4     number of reasons, each: place (4), length (1), bytes
 *   end-8   8     FNV-1a-64 of everything before */
#ifndef GLIA_TAP_VERDICT_H
#define GLIA_TAP_VERDICT_H
#include "base/buf.h"
#include "tap/atlas.h"

enum { GLIA_VERDICT_KEY = 32 };

/* Hash of a freshly built atlas, before any proof. */
uint64_t glia_verdict_map(const glia_atlas *fresh);

/* Append the verdict on the map of that hash; b->failed when out of memory. */
void glia_verdict_write(const glia_atlas *at, const unsigned char key[GLIA_VERDICT_KEY], uint64_t map, glia_buf *b);

/* Give the places of a freshly built atlas the grades of the verdict.  False: not a verdict on it; at is unchanged. */
bool glia_verdict_apply(glia_atlas *at, const unsigned char key[GLIA_VERDICT_KEY], const void *bytes, size_t n);
#endif

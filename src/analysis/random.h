/* analysis/random.h — seeded numbers for resampling: the same on every machine.
 * One generator belongs to one thread.  splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
 * OOPSLA 2014). */
#ifndef GLIA_ANALYSIS_RANDOM_H
#define GLIA_ANALYSIS_RANDOM_H
#include <stddef.h>
#include <stdint.h>

typedef struct glia_rng {
    uint64_t state; /* the seed; any value */
} glia_rng;

static inline uint64_t glia_rng_next(glia_rng *g) {
    uint64_t z = g->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* 0 ≤ x < 1, 53 bits */
static inline double glia_rng_unit(glia_rng *g) { return (double)(glia_rng_next(g) >> 11) * 0x1p-53; }

__extension__ typedef unsigned __int128 glia_u128;
/* 0 ≤ i < n, n > 0; the bias of the product is below n / 2^64 */
static inline size_t glia_rng_below(glia_rng *g, size_t n) { return (size_t)(((glia_u128)glia_rng_next(g) * n) >> 64); }

/* A random order of the indices 0 .. n-1 (Fisher and Yates). */
static inline void glia_rng_shuffle(glia_rng *g, size_t *order, size_t n) {
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (size_t i = n; i > 1; i--) {
        size_t k = glia_rng_below(g, i), t = order[i - 1];
        order[i - 1] = order[k], order[k] = t;
    }
}
#endif

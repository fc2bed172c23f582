/* bench/io/rounds.h — what the programs of this folder measure with.
 *
 * SPDX-License-Identifier: MIT */
#ifndef GLIA_BENCH_IO_ROUNDS_H
#define GLIA_BENCH_IO_ROUNDS_H
#include <stdlib.h>
#include <time.h>

static inline double seconds_by(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double now(void) { return seconds_by(CLOCK_MONOTONIC); }

static inline int by_value(const void *a, const void *b) {
    double p = *(const double *)a, q = *(const double *)b;
    return (p > q) - (p < q);
}

/* Sorts v. */
static inline double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}
#endif

/* harvest/projection.h — random directions that rows are projected on, so that a harvest keeps n numbers instead of a row.
 *
 * Entries are normal with variance 1/n: squared lengths and inner products of rows are kept on the average, within
 * about √(2/n) of the squared length (Johnson and Lindenstrauss, 1984; Dasgupta and Gupta, 2003).  Every tensor has its
 * own, drawn from the seed and its name.  They are kept in directions.safetensors, [n, width] F32 by the tensor's name: what
 * was used is what is there.  One thread at a time. */
#ifndef GLIA_HARVEST_PROJECTION_H
#define GLIA_HARVEST_PROJECTION_H
#include "harvest/manifest.h"

/* [n, width] of one tensor */
void glia_projection_draw(float *out, int32_t n, int32_t width, uint64_t seed, const char *name);

/* Directions of all tensors: out[i] is [n, widths[i]], each freed with glia_free, also after a failure.  The file that the manifest
 * names is read and checked; when it names none they are drawn, written into folder, and named in it. */
glia_status glia_projection_get(glia_manifest *m, const char *folder, const int32_t *widths, float **out, glia_err *err);
#endif

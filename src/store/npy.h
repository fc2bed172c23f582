/* store/npy.h — NumPy's .npy files: one array of floats.  Any thread; pure.
 *
 *   offset  size  meaning
 *        0     6  "\x93NUMPY"
 *        6     2  version: 1.0, 2.0 or 3.0
 *        8   2|4  n, length of the header, little-endian (4 bytes from 2.0 on)
 *        …     n  Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (3, 64), }
 *        …     …  the numbers, row-major
 * Read: float16, float32 and float64, little-endian, C order, one or two dimensions. */
#ifndef GLIA_STORE_NPY_H
#define GLIA_STORE_NPY_H
#include "glia.h"

typedef struct glia_npy {
    const char *data;  /* into the bytes that were parsed; may be unaligned */
    int bytes;         /* of a number: 2, 4 or 8 */
    size_t n_rows, n_columns; /* one dimension: one row */
} glia_npy;

/* EINVAL says what is wrong. */
glia_status glia_npy_parse(glia_npy *out, const void *bytes, size_t n, glia_err *err);
/* Row i as float32; out: [n_columns]. */
void glia_npy_row(const glia_npy *a, size_t i, float *out);
#endif

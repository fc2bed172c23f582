/* tests/fuzz/fuzz_store_npy.c — .npy files of anybody.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined.  With -DFUZZ_REPLAY it is a program that replays files. */
#include "store/npy.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    glia_npy a;
    glia_err err = {0};
    if (glia_npy_parse(&a, data, n, &err)) {
        if (!err.message[0] || a.data) abort();
        return 0;
    }
    float *row = malloc(a.n_columns * sizeof *row);
    double sum = 0;
    for (size_t i = 0; row && i < a.n_rows; i++) {
        glia_npy_row(&a, i, row);
        for (size_t k = 0; k < a.n_columns; k++) sum += (double)row[k]; /* every byte is read */
    }
    free(row);
    return sum == 12345.678 ? -1 : 0;
}

/* tests/fuzz/fuzz_api_slice.c — lists of rows in queries: every range lies inside, or the query is refused by name. */
#include "api/slice.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte says of how many things. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint64_t sizes[] = {0, 1, 2, 10, 1000, UINT64_C(1) << 40, UINT64_MAX};
    if (!size) return 0;
    uint64_t n = sizes[data[0] % (sizeof sizes / sizeof *sizes)], (*ranges)[2];
    char *spec = malloc(size);
    size_t k;
    glia_err err = {0};
    if (!spec) abort();
    memcpy(spec, data + 1, size - 1);
    spec[size - 1] = 0;
    glia_status st = glia_slice_spec(spec, "rows", n, &ranges, &k, &err);
    if (st) {
        if (ranges || k || !err.message[0] || strcmp(err.param, "rows") != 0) abort();
    } else {
        for (size_t i = 0; i < k; i++) {
            if (ranges[i][0] >= ranges[i][1] || ranges[i][1] > n) abort();
        }
        glia_free(ranges);
    }
    free(spec);
    return 0;
}

/* A file of block checksums: any bytes are refused or describe a file of exactly their length. */
#include "store/checked.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t bytes;
    const unsigned char *crcs;
    size_t n;
    if (!glia_block_sums_parse(data, size, &bytes, &crcs, &n, NULL)) {
        if (size != GLIA_SUMS_HEAD + 4 * n + 4 || crcs != data + GLIA_SUMS_HEAD) abort();
        if (n != bytes / GLIA_SUM_BLOCK + (bytes % GLIA_SUM_BLOCK != 0)) abort();
    }
    return 0;
}

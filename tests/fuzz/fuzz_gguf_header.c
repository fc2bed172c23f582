/* tests/fuzz/fuzz_gguf_header.c — headers of GGUF files of anybody, and what is estimated from them.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined.  With -DFUZZ_REPLAY it is a program that replays files. */
#include "models/estimate.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

/* The first two bytes say how much longer than its beginning the file is: weights need not be in a corpus. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    glia_gguf g;
    glia_err err = {0};
    glia_footprint f;
    glia_model_params p;
    char size[32];
    if (n < 2) return 0;
    uint64_t bytes = n - 2 + ((uint64_t)data[0] << 8 | data[1]) * 64;
    glia_status st = glia_gguf_parse(&g, data + 2, n - 2, bytes, "input", &err);
    CHECK(st == GLIA_OK || err.message[0]);
    if (st) return 0;
    CHECK(strlen(g.arch) < sizeof g.arch && strlen(g.name) < sizeof g.name);
    CHECK(g.data_offset <= bytes);
    glia_model_params_init(&p);
    glia_estimate(&g, g.tensor_bytes, &p, &f);
    CHECK(f.total >= f.weights && f.total >= f.cache && f.total >= f.compute);
    glia_gguf_size_text(&g, g.n_params, size);
    CHECK(glia_gguf_quant(&g)[0] && size[0]);
    return glia_gguf_is_embedding(&g) && glia_gguf_is_mmproj(&g);
}

/* tests/fuzz/fuzz_store_safetensors.c — safetensors files of anybody.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined.  With -DFUZZ_REPLAY it is a program that replays files. */
#include "store/safetensors.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    glia_st *s;
    glia_err err = {0};
    glia_status st = glia_st_parse(&s, data, n, &err);
    CHECK((st == GLIA_OK) == (s != NULL));
    if (st) {
        CHECK(err.message[0]);
        return 0;
    }
    unsigned sum = 0;
    for (size_t i = 0; i < glia_st_count(s); i++) {
        const glia_st_tensor *t = glia_st_at(s, i);
        const unsigned char *p = glia_st_data(s, t);
        CHECK(glia_st_find(s, t->name) == t);
        for (uint64_t k = 0; k < t->end - t->begin; k++) sum += p[k];
    }
    (void)glia_st_meta(s, "format");
    glia_st_close(s);
    return sum == 0xffffffff; /* the sum is used: every byte was read */
}

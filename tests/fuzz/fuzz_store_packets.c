/* tests/fuzz/fuzz_store_packets.c — streams of frames from untrusted bytes.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined.  With -DFUZZ_REPLAY it is a program that replays files. */
#include "store/packets.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    size_t at = 0, used;
    do {
        glia_packet p = {0};
        glia_err err = {0};
        glia_status st = glia_packet_parse(data + at, n - at, &p, &used, &err);
        CHECK(used <= n - at && (!st || (!used && err.message[0])));
        if (used) {
            CHECK(p.n_header + p.n_payload + GLIA_PACKET_HEAD + 4 == used);
            CHECK((const uint8_t *)p.header >= data && p.payload + p.n_payload + 4 == data + at + used);
        }
        at += used;
    } while (used);
    return 0;
}

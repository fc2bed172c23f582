/* tests/fuzz/fuzz_harvest_manifest.c — manifest.json of anybody: taken whole or refused with a reason.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined.  With -DFUZZ_REPLAY it is a program that replays files. */
#include "harvest/manifest.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    glia_manifest m;
    glia_err err = {0};
    char *text = malloc(n + 1);
    CHECK(text);
    if (n) memcpy(text, data, n);
    text[n] = 0;
    glia_status st = glia_manifest_parse(&m, text, n, &err);
    if (st) {
        CHECK(err.message[0] && !m.tensors && !m.shards);
    } else {
        CHECK(m.n_tensors && strlen(m.model.sha256) == 64);
        for (size_t i = 0; i < m.n_shards; i++) { /* nothing may point out of the folder */
            CHECK(m.shards[i].file[0] && m.shards[i].file[0] != '.' && !strchr(m.shards[i].file, '/'));
        }
        const char *const others[] = {m.statistics.file, m.directions.file};
        for (int i = 0; i < 2; i++) CHECK(others[i][0] != '.' && !strchr(others[i], '/'));
        CHECK(m.top >= 0 && m.top <= GLIA_HARVEST_TOP_MAX);
        CHECK(m.projection.n >= 0 && m.projection.n <= GLIA_HARVEST_PROJECTION_MAX);
        for (size_t i = 0; i < m.n_tensors; i++) CHECK((unsigned)m.tensors[i].point < GLIA_N_POINTS);
        glia_manifest_clear(&m);
    }
    free(text);
    return 0;
}

/* read_frames.c — a reader of application/vnd.glia.frames (docs/FORMATS.md, "Frames"): prints one line per frame.
 *
 *   cc -o read_frames read_frames.c -lz -lzstd
 *   curl -sN -H 'Accept: application/vnd.glia.frames' -d @request.json URL | ./read_frames
 *
 * Nothing in it comes from Glia: it is written from the page alone, and trusts nothing it reads.
 * SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { HEAD = 32, COMPRESSED = 1, LAST = 2 };

static uint64_t little(const unsigned char *p, int n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

static int fail(const char *what) {
    fprintf(stderr, "read_frames: %s\n", what);
    return 1;
}

/* n bytes of stdin into a growing buffer, so that a lying length cannot take more memory than was sent. */
static unsigned char *take(uint64_t n) {
    size_t cap = 1 << 16, have = 0;
    unsigned char *p = malloc(cap);
    while (p && have < n) {
        size_t want = n - have < cap - have ? (size_t)(n - have) : cap - have;
        size_t got = fread(p + have, 1, want, stdin);
        if (!got) break;
        have += got;
        if (have == cap && have < n) {
            unsigned char *more = realloc(p, cap *= 2);
            if (!more) break;
            p = more;
        }
    }
    if (p && have == n) return p;
    free(p);
    return NULL;
}

static int show(uint64_t number, const unsigned char *json, uint64_t n_json, const unsigned char *data, uint64_t n,
                int compressed) {
    unsigned char *plain = NULL;
    if (compressed) {
        unsigned long long size = ZSTD_getFrameContentSize(data, n);
        if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size > n * 4096 + 4096) {
            return fail("a payload of unbelievable size");
        }
        if (!(plain = malloc(size + 1)) || ZSTD_decompress(plain, size, data, n) != size) {
            free(plain);
            return fail("a payload that cannot be decompressed");
        }
        data = plain, n = size;
    }
    while (n_json && json[n_json - 1] == ' ') n_json--;
    printf("%llu %.*s %llu %08lx\n", (unsigned long long)number, (int)(n_json < 120 ? n_json : 120), (const char *)json,
           (unsigned long long)n, crc32_z(0, data, n));
    free(plain);
    return 0;
}

int main(void) {
    for (uint64_t expected = 0;; expected++) {
        unsigned char head[HEAD];
        if (fread(head, 1, HEAD, stdin) != HEAD) return fail("the stream ended early");
        if (memcmp(head, "GLFR\1", 5) != 0) return fail("not a frame");
        uint64_t number = little(head + 8, 8), n_json = little(head + 16, 4), n = little(head + 24, 8);
        if (number != expected) return fail("a frame is missing");
        if (n > UINT64_C(1) << 40) return fail("a payload of unbelievable size");
        unsigned char *body = take(n_json + n + 4);
        if (!body) return fail("the stream ended inside a frame");
        uint64_t sum = crc32_z(crc32_z(0, head, HEAD), body, n_json + n);
        int bad = sum != little(body + n_json + n, 4) ? fail("a checksum is wrong")
                                                      : show(number, body, n_json, body + n_json, n, head[5] & COMPRESSED);
        free(body);
        if (bad) return 1;
        if (head[5] & LAST) return 0;
    }
}

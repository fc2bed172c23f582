/* store/packets.c — see packets.h.  CRC-32 comes from libdeflate, compression from zstd. */
#include "store/packets.h"
#include "base/err.h"
#include <string.h>
#include <libdeflate.h>
#include <zstd.h>

enum { LEVEL = 1, TRAILER = 4 }; /* activations are nearly noise: higher levels cost time and gain almost nothing */

static void put_le(char *p, uint64_t v, int n) {
    for (int i = 0; i < n; i++) p[i] = (char)(unsigned char)(v >> (8 * i));
}
static uint64_t get_le(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

size_t glia_packet_open(glia_buf *b) {
    static const char head[GLIA_PACKET_HEAD] = "GLFR\1";
    size_t begin = b->n;
    glia_buf_add(b, head, sizeof head);
    return begin;
}

uint32_t glia_packet_sum(uint32_t sum, const void *p, size_t n) { return libdeflate_crc32(sum, p, n); }

uint32_t glia_packet_close(glia_buf *b, size_t begin, uint64_t number, unsigned flags, uint64_t n_payload) {
    if (b->failed) return 0;
    size_t n = b->n - begin - GLIA_PACKET_HEAD, padding = (8 - n % 8) % 8;
    glia_buf_add(b, "       ", padding);
    if (b->failed) return 0;
    char *head = b->p + begin;
    head[5] = (char)(unsigned char)flags;
    put_le(head + 8, number, 8);
    put_le(head + 16, n + padding, 4);
    put_le(head + 24, n_payload, 8);
    return glia_packet_sum(0, head, GLIA_PACKET_HEAD + n + padding);
}

void glia_packet_end(glia_buf *b, uint32_t sum) {
    char tail[TRAILER];
    put_le(tail, sum, TRAILER);
    glia_buf_add(b, tail, sizeof tail);
}

bool glia_packet_compress(glia_buf *b, const void *p, size_t n) {
    size_t most = ZSTD_compressBound(n);
    if (!glia_buf_reserve(b, most)) return false;
    size_t got = ZSTD_compress(b->p + b->n, most, p, n, LEVEL);
    if (ZSTD_isError(got)) {
        b->failed = true;
        return false;
    }
    b->n += got;
    b->p[b->n] = 0;
    return true;
}

static glia_status bad(glia_err *err, const char *what) {
    return glia_fail(err, GLIA_EINVAL, "not a stream of frames: %s", what);
}

glia_status glia_packet_parse(const void *bytes, size_t n, glia_packet *out, size_t *used, glia_err *err) {
    const unsigned char *p = bytes;
    *used = 0;
    if (memcmp(p, "GLFR", n < 4 ? n : 4) != 0) return bad(err, "a frame does not begin with GLFR");
    if (n < GLIA_PACKET_HEAD) return GLIA_OK;
    uint64_t header = get_le(p + 16, 4), payload = get_le(p + 24, 8);
    if (p[4] != 1) return bad(err, "another version");
    if (p[5] & ~3u || get_le(p + 6, 2) || get_le(p + 20, 4)) return bad(err, "unknown flags");
    if (header > GLIA_PACKET_MAX_HEADER || header % 8) return bad(err, "the length of a header");
    if (payload > GLIA_PACKET_MAX_PAYLOAD) return bad(err, "the length of a payload");
    uint64_t total = GLIA_PACKET_HEAD + header + payload + TRAILER;
    if (n < total) return GLIA_OK;
    if (glia_packet_sum(0, p, (size_t)(total - TRAILER)) != get_le(p + total - TRAILER, TRAILER)) {
        return bad(err, "a checksum is wrong");
    }
    *out = (glia_packet){.number = get_le(p + 8, 8),
                         .flags = p[5],
                         .header = (const char *)p + GLIA_PACKET_HEAD,
                         .n_header = (size_t)header,
                         .payload = p + GLIA_PACKET_HEAD + header,
                         .n_payload = (size_t)payload};
    *used = (size_t)total;
    return GLIA_OK;
}

/* store/packets.h — application/vnd.glia.frames: length-prefixed frames of a JSON header and raw bytes.
 *
 * Pure functions over buffers; any thread.  Knows neither HTTP nor models.  The format is docs/FORMATS.md, "Frames":
 *
 *   offset  size  meaning
 *        0     4  "GLFR"
 *        4     1  version, 1
 *        5     1  flags: 1 the payload is one zstd frame; 2 the stream ends with this frame
 *        6     2  0
 *        8     8  number of the frame, from 0, rising by one
 *       16     4  H, bytes of the header, a multiple of 8
 *       20     4  0
 *       24     8  P, bytes of the payload
 *       32     H  header: a JSON object, padded with spaces
 *   32 + H     P  payload
 * 32+H+P       4  CRC-32 (as in zlib, PNG and gzip) of everything before it in this frame */
#ifndef GLIA_STORE_PACKETS_H
#define GLIA_STORE_PACKETS_H
#include "base/buf.h"
#include "glia.h"

enum { GLIA_PACKET_HEAD = 32, GLIA_PACKET_ZSTD = 1, GLIA_PACKET_LAST = 2 };
#define GLIA_PACKET_MAX_HEADER  (64u << 20)
#define GLIA_PACKET_MAX_PAYLOAD (UINT64_C(1) << 40)

/* -- writing: open, append the JSON to b, close, append the payload's bytes, end. */
size_t glia_packet_open(glia_buf *b); /* where the frame begins in b */
/* Pads the JSON and fills in the head; answers the checksum so far. */
uint32_t glia_packet_close(glia_buf *b, size_t begin, uint64_t number, unsigned flags, uint64_t n_payload);
uint32_t glia_packet_sum(uint32_t sum, const void *p, size_t n); /* add payload bytes to the checksum */
void glia_packet_end(glia_buf *b, uint32_t sum);

/* One zstd frame of p, appended to b.  False: out of memory (b->failed is set). */
bool glia_packet_compress(glia_buf *b, const void *p, size_t n);

/* -- reading */
typedef struct glia_packet {
    uint64_t number;
    unsigned flags;
    const char *header; /* [n_header] JSON, padding included */
    size_t n_header;
    const unsigned char *payload; /* as on the wire */
    size_t n_payload;
} glia_packet;

/* The first frame of p.  *used: its bytes, 0 when more are needed.  EINVAL: no frame, or a damaged one. */
glia_status glia_packet_parse(const void *p, size_t n, glia_packet *out, size_t *used, glia_err *err);
#endif

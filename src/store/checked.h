/* store/checked.h — a file whose parts can be read and believed: checksums of its blocks, in a file beside it.
 *
 * Written while the file itself is written (newfile.h, glia_newfile_keep_sums); a reader compares every block that it
 * touches.  A file without one (written by an earlier Glia) is compared as a whole, once, with the SHA-256 that its
 * manifest or catalogue has.  A reader is immutable and may be used by any thread.  Knows no formats but its own:
 *
 *   NAME.sums   offset  size  meaning
 *                    0     8  "GLSUMS1\n"
 *                    8     4  bytes of a block, 65536
 *                   12     4  0
 *                   16     8  bytes of NAME
 *                   24   4·n  CRC-32 (as in zlib) of each block; the last one may be shorter
 *               24+4·n     4  CRC-32 of everything before it */
#ifndef GLIA_STORE_CHECKED_H
#define GLIA_STORE_CHECKED_H
#include "base/buf.h"
#include "glia.h"

enum { GLIA_SUM_BLOCK = 65536, GLIA_SUMS_HEAD = 24 };

/* -- writing: the bytes of a file in order, then its NAME.sums */
typedef struct glia_block_sums {
    glia_buf crcs; /* of whole blocks, 4 bytes each, little-endian */
    uint64_t bytes;
    uint32_t crc; /* of the block under way */
} glia_block_sums;
void glia_block_sums_add(glia_block_sums *s, const void *p, size_t n);
/* The whole file, appended to out.  Failures of memory show in out. */
void glia_block_sums_write(const glia_block_sums *s, glia_buf *out);
void glia_block_sums_clear(glia_block_sums *s);

/* -- reading */
/* What a sums file of n bytes says; *crcs: borrowed, [*n_crcs] little-endian.  EINVAL: it is none, or damaged. */
glia_status glia_block_sums_parse(const void *p, size_t n, uint64_t *bytes, const unsigned char **crcs, size_t *n_crcs,
                            glia_err *err);

typedef struct glia_checked glia_checked;
/* sha256: 64 digits, for a file without sums; NULL or "": it must have them.  EIO: names what is missing or damaged. */
glia_status glia_checked_open(glia_checked **out, const char *path, const char *sha256, glia_err *err);
void glia_checked_close(glia_checked *f); /* NULL is fine */
uint64_t glia_checked_bytes(const glia_checked *f);
/* n bytes at `at`, all of them inside the file.  EIO: a block does not have its checksum. */
glia_status glia_checked_read(const glia_checked *f, uint64_t at, void *out, size_t n, glia_err *err);
/* Every block. */
glia_status glia_checked_verify(const glia_checked *f, glia_err *err);
#endif

/* store/checked.c — see checked.h. */
#include "store/checked.h"
#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "store/newfile.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <libdeflate.h>

static const char magic[9] = "GLSUMS1\n";

static void put_le(unsigned char *p, uint64_t v, int n) {
    for (int i = 0; i < n; i++) p[i] = (unsigned char)(v >> (8 * i));
}
static uint64_t get_le(const unsigned char *p, int n) {
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* ------------------------------------------------------------------ writing */

static void add_crc(glia_buf *b, uint32_t crc) {
    unsigned char le[4];
    put_le(le, crc, 4);
    glia_buf_add(b, le, sizeof le);
}

void glia_block_sums_add(glia_block_sums *s, const void *p, size_t n) {
    const unsigned char *at = p;
    while (n) {
        size_t room = GLIA_SUM_BLOCK - (size_t)(s->bytes % GLIA_SUM_BLOCK), k = n < room ? n : room;
        s->crc = libdeflate_crc32(s->crc, at, k);
        s->bytes += k, at += k, n -= k;
        if (k == room) add_crc(&s->crcs, s->crc), s->crc = 0;
    }
}

void glia_block_sums_write(const glia_block_sums *s, glia_buf *out) {
    unsigned char head[GLIA_SUMS_HEAD] = {0};
    size_t begin = out->n;
    memcpy(head, magic, 8);
    put_le(head + 8, GLIA_SUM_BLOCK, 4);
    put_le(head + 16, s->bytes, 8);
    glia_buf_add(out, head, sizeof head);
    glia_buf_add(out, s->crcs.p ? s->crcs.p : "", s->crcs.n);
    if (s->bytes % GLIA_SUM_BLOCK) add_crc(out, s->crc);
    if (s->crcs.failed) out->failed = true;
    if (!out->failed) add_crc(out, libdeflate_crc32(0, out->p + begin, out->n - begin));
}

void glia_block_sums_clear(glia_block_sums *s) {
    glia_buf_clear(&s->crcs);
    *s = (glia_block_sums){0};
}

/* ------------------------------------------------------------------ reading */

glia_status glia_block_sums_parse(const void *bytes, size_t n, uint64_t *n_bytes, const unsigned char **crcs,
                                  size_t *n_crcs, glia_err *err) {
    const unsigned char *p = bytes;
    if (n < GLIA_SUMS_HEAD + 4 || memcmp(p, magic, 8) != 0 || get_le(p + 8, 4) != GLIA_SUM_BLOCK || get_le(p + 12, 4))
        return glia_fail(err, GLIA_EINVAL, "not a file of checksums");
    if (libdeflate_crc32(0, p, n - 4) != get_le(p + n - 4, 4))
        return glia_fail(err, GLIA_EINVAL, "a file of checksums that is damaged itself");
    *n_bytes = get_le(p + 16, 8);
    *crcs = p + GLIA_SUMS_HEAD;
    *n_crcs = (n - GLIA_SUMS_HEAD - 4) / 4;
    uint64_t blocks = *n_bytes / GLIA_SUM_BLOCK + (*n_bytes % GLIA_SUM_BLOCK != 0);
    if (blocks == *n_crcs && (n - GLIA_SUMS_HEAD) % 4 == 0) return GLIA_OK;
    return glia_fail(err, GLIA_EINVAL, "a file of checksums of another length than its file has");
}

struct glia_checked {
    int fd;
    uint64_t bytes;
    char *path;
    char *sums; /* the whole sums file; NULL: the file was compared as a whole */
    const unsigned char *crcs;
    size_t n_crcs;
};

static glia_status damaged(const glia_checked *f, const char *what, glia_err *err) {
    return glia_fail(err, GLIA_EIO, "%s is damaged: %s; restore it, or delete the run", f->path, what);
}

/* Its own checksums, or once the SHA-256 of all of it. */
static glia_status find_sums(glia_checked *f, const char *sha256, glia_err *err) {
    char name[4200], hex[GLIA_SHA256_HEX];
    uint64_t bytes;
    size_t n;
    glia_err why;
    int k = snprintf(name, sizeof name, "%s.sums", f->path);
    if (k < 0 || (size_t)k >= sizeof name) return glia_fail(err, GLIA_EINVAL, "the path %.60s… is too long", f->path);
    glia_status st = glia_file_slurp(name, SIZE_MAX / 2, &f->sums, &n, err);
    if (!st) {
        if (glia_block_sums_parse(f->sums, n, &bytes, &f->crcs, &f->n_crcs, &why))
            return glia_fail(err, GLIA_EIO, "%s is %s; restore it, or delete the run", name, why.message);
        return bytes == f->bytes ? GLIA_OK : damaged(f, "its size is not that of its checksums", err);
    }
    if (st != GLIA_ENOTFOUND) return st;
    if (!sha256 || !sha256[0]) return glia_fail(err, GLIA_EIO, "%s is missing: the file cannot be checked", name);
    if ((st = glia_file_sha256(f->path, hex, NULL, NULL, err))) return st;
    return strcmp(hex, sha256) ? damaged(f, "its SHA-256 is not the one that was written down", err) : GLIA_OK;
}

glia_status glia_checked_open(glia_checked **out, const char *path, const char *sha256, glia_err *err) {
    struct stat s;
    glia_status st = GLIA_OK;
    glia_checked *f = glia_calloc(1, sizeof *f);
    *out = NULL;
    if (f) f->fd = -1;
    if (!f || !(f->path = glia_strdup(path))) st = glia_fail(err, GLIA_ENOMEM, "out of memory for a file");
    else if ((f->fd = glia_io_open(path, O_RDONLY, 0)) < 0 || fstat(f->fd, &s))
        st = glia_fail(err, GLIA_EIO, "cannot open %s: %s", path, strerror(errno));
    else if (!S_ISREG(s.st_mode)) st = glia_fail(err, GLIA_EIO, "%s is not a file", path);
    else f->bytes = (uint64_t)s.st_size, st = find_sums(f, sha256, err);
    if (!st) *out = f, f = NULL;
    glia_checked_close(f);
    return st;
}

void glia_checked_close(glia_checked *f) {
    if (!f) return;
    if (f->fd >= 0) (void)close(f->fd);
    glia_free(f->sums);
    glia_free(f->path);
    glia_free(f);
}

uint64_t glia_checked_bytes(const glia_checked *f) { return f->bytes; }

static glia_status read_exactly(const glia_checked *f, uint64_t at, void *out, size_t n, glia_err *err) {
    ssize_t got = glia_io_pread(f->fd, out, n, (off_t)at);
    if (got < 0) return glia_fail(err, GLIA_EIO, "cannot read %s: %s", f->path, strerror(errno));
    return (size_t)got == n ? GLIA_OK : damaged(f, "it became shorter", err);
}

static glia_status check_block(const glia_checked *f, uint64_t block, const void *p, size_t n, glia_err *err) {
    char what[64];
    if (libdeflate_crc32(0, p, n) == get_le(f->crcs + 4 * block, 4)) return GLIA_OK;
    (void)snprintf(what, sizeof what, "the checksum of block %llu is wrong", (unsigned long long)block);
    return damaged(f, what, err);
}

/* Whole blocks are read in place; the edges through a block of our own. */
glia_status glia_checked_read(const glia_checked *f, uint64_t at, void *out, size_t n, glia_err *err) {
    if (at > f->bytes || n > f->bytes - at) return damaged(f, "it is too short for what it should hold", err);
    if (!f->sums) return read_exactly(f, at, out, n, err);
    unsigned char *edge = NULL, *to = out;
    glia_status st = GLIA_OK;
    while (n && !st) {
        uint64_t block = at / GLIA_SUM_BLOCK, begin = block * GLIA_SUM_BLOCK, left = f->bytes - begin;
        size_t whole = left < GLIA_SUM_BLOCK ? (size_t)left : GLIA_SUM_BLOCK, skip = (size_t)(at - begin);
        size_t k = n < whole - skip ? n : whole - skip;
        bool in_place = k == whole;
        if (!in_place && !edge && !(edge = glia_malloc(GLIA_SUM_BLOCK))) {
            st = glia_fail(err, GLIA_ENOMEM, "out of memory for a block of a file");
            break;
        }
        st = read_exactly(f, begin, in_place ? to : edge, whole, err);
        if (!st) st = check_block(f, block, in_place ? to : edge, whole, err);
        if (!st && !in_place) memcpy(to, edge + skip, k);
        to += k, at += k, n -= k;
    }
    glia_free(edge);
    return st;
}

glia_status glia_checked_verify(const glia_checked *f, glia_err *err) {
    enum { PIECE = 16 * GLIA_SUM_BLOCK };
    glia_status st = GLIA_OK;
    unsigned char *piece = glia_malloc(PIECE);
    if (!piece) return glia_fail(err, GLIA_ENOMEM, "out of memory for a block of a file");
    for (uint64_t at = 0; at < f->bytes && !st; at += PIECE)
        st = glia_checked_read(f, at, piece, f->bytes - at < PIECE ? (size_t)(f->bytes - at) : PIECE, err);
    glia_free(piece);
    return st;
}

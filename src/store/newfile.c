/* store/newfile.c — see newfile.h. */
#include "store/newfile.h"
#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "store/checked.h"
#include "store/helper.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STAGE = 4 << 20, N_STAGES = 2, ALIGN = 2 << 20 }; /* whole large pages, which are quick to hand to a disk */

struct glia_newfile {
    char *path, *part, *folder;
    int fd;
    bool made, committed, keep_sums;
    uint64_t bytes;           /* taken */
    uint64_t in_file, handed; /* of these, in the file; on their way from there to the disk.  The writer's */
    bool past_cache;
    /* past_cache: one stage is filled while the other is on its way, in the writer's hands */
    char *memory;    /* of the stages; NULL until they are needed */
    char *stages;    /* [N_STAGES, STAGE] aligned */
    size_t filling;  /* which one */
    size_t n_staged; /* bytes in it */
    glia_helper *writer;
    bool direct, never_direct; /* the writer's: the descriptor goes past the page cache now; it cannot */
    glia_sha256 *hash;
    glia_helper *hasher;
    glia_block_sums sums;
};

static glia_status io_failed(glia_err *err, const char *what, const char *path) {
    int e = errno;
    return glia_fail(err, GLIA_EIO, "cannot %s %s: %s", what, path, strerror(e));
}

/* "a/b.json" → "a" and "a/.b.json.part" */
static bool name_parts(glia_newfile *f, const char *path) {
    const char *slash = strrchr(path, '/');
    size_t n_folder = slash ? (size_t)(slash - path) : 0, n = strlen(path) + sizeof "..part";
    f->path = glia_strdup(path);
    f->folder = slash ? glia_strndup(n_folder ? path : "/", n_folder ? n_folder : 1) : glia_strdup(".");
    f->part = glia_malloc(n);
    if (!f->path || !f->folder || !f->part) return false;
    (void)snprintf(f->part, n, "%.*s.%s.part", slash ? (int)n_folder + 1 : 0, path, slash ? slash + 1 : path);
    return true;
}

static bool hash_piece(void *ud, const void *p, size_t n) {
    glia_newfile *f = ud;
    return glia_sha256_add(f->hash, p, n);
}

glia_status glia_newfile_open(glia_newfile **out, const char *path, glia_err *err) {
    glia_status st = GLIA_OK;
    *out = NULL;
    glia_newfile *f = glia_calloc(1, sizeof *f);
    if (!f) return glia_fail(err, GLIA_ENOMEM, "out of memory for a file");
    f->fd = -1;
    if (!name_parts(f, path) || !(f->hash = glia_sha256_new()) || !(f->hasher = glia_helper_new(hash_piece, f))) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for a file");
    } else if ((f->fd = glia_io_open(f->part, O_WRONLY | O_CREAT | O_TRUNC, 0666)) < 0) {
        st = io_failed(err, "create", f->part);
    } else {
        f->made = true;
        *out = f, f = NULL;
    }
    glia_newfile_free(f);
    return st;
}

/* ------------------------------------------------------------------ writing */

/* The disk works while the next bytes are hashed, instead of at the end alone.  Only a hint: commit syncs all. */
static void begin_writeback(glia_newfile *f) {
    enum { PIECE = 8 << 20 };
#ifdef SYNC_FILE_RANGE_WRITE
    if (f->direct || f->in_file - f->handed < PIECE) return;
    (void)sync_file_range(f->fd, (off_t)f->handed, (off_t)(f->in_file - f->handed), SYNC_FILE_RANGE_WRITE);
    f->handed = f->in_file;
#else
    (void)f;
#endif
}

static void go_direct(glia_newfile *f, bool on) {
    if (f->direct == on || (on && f->never_direct)) return;
    if (glia_io_direct(f->fd, on)) f->direct = on;
    else f->never_direct = true;
}

static bool write_through(glia_newfile *f, const unsigned char *p, size_t n) {
    if (!glia_io_write(f->fd, p, n)) return false;
    f->in_file += n;
    begin_writeback(f);
    return true;
}

/* A stage into the file: the writer's work.  Full ones lie on whole blocks there, the last one rarely does. */
static bool write_stage(void *ud, const void *p, size_t n) {
    glia_newfile *f = ud;
    go_direct(f, n == STAGE);
    bool ok = glia_io_write(f->fd, p, n);
    if (!ok && f->direct && errno == EINVAL) { /* larger blocks than these, or never past the cache */
        f->never_direct = true;
        go_direct(f, false);
        ok = lseek(f->fd, (off_t)f->in_file, SEEK_SET) >= 0 && glia_io_write(f->fd, p, n);
    }
    if (!ok) return false;
    f->in_file += n;
    begin_writeback(f);
    return true;
}

/* The stage that is filled, on its way once the one before has arrived. */
static bool send_stage(glia_newfile *f) {
    if (!glia_helper_end(f->writer)) return false;
    glia_helper_begin(f->writer, f->stages + f->filling * STAGE, f->n_staged);
    f->filling = (f->filling + 1) % N_STAGES, f->n_staged = 0;
    return true;
}

/* All that was taken is in the file. */
static bool settle(glia_newfile *f) {
    return !f->writer || ((!f->n_staged || send_stage(f)) && glia_helper_end(f->writer));
}

/* In pieces that stay in the processor's cache from the checksum to the copy. */
static bool write_pieces(glia_newfile *f, const unsigned char *p, size_t n) {
    enum { PIECE = 256 << 10 };
    while (n) {
        size_t k = n < PIECE ? n : PIECE;
        if (f->past_cache && k > STAGE - f->n_staged) k = STAGE - f->n_staged;
        if (f->keep_sums) glia_block_sums_add(&f->sums, p, k);
        if (!f->past_cache && !write_through(f, p, k)) return false;
        if (f->past_cache) glia_copy_away(f->stages + f->filling * STAGE + f->n_staged, p, k), f->n_staged += k;
        f->bytes += k, p += k, n -= k;
        if (f->n_staged == STAGE && !send_stage(f)) return false;
    }
    return true;
}

static bool make_stages(glia_newfile *f) {
    if (!f->past_cache || f->writer) return true;
    if (!f->memory && !(f->memory = glia_malloc(N_STAGES * STAGE + ALIGN))) return false;
    f->stages = f->memory + (ALIGN - (uintptr_t)f->memory % ALIGN) % ALIGN;
    glia_mem_large(f->stages, N_STAGES * STAGE);
    return (f->writer = glia_helper_new(write_stage, f)) != NULL;
}

glia_status glia_newfile_write(glia_newfile *f, const void *p, size_t n, glia_err *err) {
    if (!n) return GLIA_OK;
    if (!make_stages(f)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a file");
    glia_helper_begin(f->hasher, p, n); /* takes longer than all the rest */
    bool written = write_pieces(f, p, n);
    int e = errno;
    bool hashed = glia_helper_end(f->hasher);
    errno = e;
    if (!written) return io_failed(err, "write", f->part);
    return hashed ? GLIA_OK : glia_fail(err, GLIA_EINTERNAL, "cannot hash %s", f->part);
}

void glia_newfile_keep_sums(glia_newfile *f) { f->keep_sums = true; }
void glia_newfile_past_cache(glia_newfile *f) { f->past_cache = true; }

uint64_t glia_newfile_bytes(const glia_newfile *f) { return f->bytes; }

static bool sync_folder(const char *folder) {
    int fd = glia_io_open(folder, O_RDONLY | O_DIRECTORY, 0);
    bool ok = fd >= 0 && glia_io_sync(fd);
    int e = errno;
    if (fd >= 0) (void)close(fd);
    errno = e;
    return ok;
}

/* Before the file itself: who sees the file sees its checksums. */
static glia_status commit_sums(const glia_newfile *f, glia_err *err) {
    glia_buf b = {0};
    size_t n = strlen(f->path) + sizeof ".sums";
    char *path = glia_malloc(n);
    glia_status st = path ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "out of memory for checksums");
    glia_block_sums_write(&f->sums, &b);
    if (!st && b.failed) st = glia_fail(err, GLIA_ENOMEM, "out of memory for checksums");
    if (!st) (void)snprintf(path, n, "%s.sums", f->path);
    if (!st) st = glia_newfile_put(path, b.p, b.n, NULL, err);
    glia_buf_clear(&b);
    glia_free(path);
    return st;
}

glia_status glia_newfile_commit(glia_newfile *f, char sha256[GLIA_SHA256_HEX], glia_err *err) {
    glia_status st = f->keep_sums ? commit_sums(f, err) : GLIA_OK;
    if (st) return st;
    if (sha256 && !glia_sha256_hex(f->hash, sha256)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
    if (!settle(f) || !glia_io_sync(f->fd)) return io_failed(err, "write", f->part);
    int fd = f->fd;
    f->fd = -1;
    if (close(fd)) return io_failed(err, "close", f->part);
    if (!glia_io_rename(f->part, f->path)) return io_failed(err, "make", f->path);
    f->committed = true;
    if (!sync_folder(f->folder)) return io_failed(err, "write the folder", f->folder);
    return GLIA_OK;
}

void glia_newfile_free(glia_newfile *f) {
    if (!f) return;
    glia_helper_free(f->hasher);
    glia_helper_free(f->writer); /* before its descriptor is closed */
    if (f->fd >= 0) (void)close(f->fd);
    if (f->made && !f->committed) (void)unlink(f->part);
    glia_sha256_free(f->hash);
    glia_free(f->memory);
    glia_block_sums_clear(&f->sums);
    glia_free(f->path);
    glia_free(f->part);
    glia_free(f->folder);
    glia_free(f);
}

glia_status glia_newfile_put(const char *path, const void *p, size_t n, char sha256[GLIA_SHA256_HEX], glia_err *err) {
    glia_newfile *f;
    glia_status st = glia_newfile_open(&f, path, err);
    if (!st) st = glia_newfile_write(f, p, n, err);
    if (!st) st = glia_newfile_commit(f, sha256, err);
    glia_newfile_free(f);
    return st;
}

glia_status glia_file_sha256(const char *path, char out[GLIA_SHA256_HEX], bool (*stop)(void *ud), void *ud,
                             glia_err *err) {
    enum { PIECE = 1 << 20 };
    glia_status st = GLIA_OK;
    unsigned char *piece = glia_malloc(PIECE);
    glia_sha256 *hash = glia_sha256_new();
    int fd = -1;
    if (!piece || !hash) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
    } else if ((fd = glia_io_open(path, O_RDONLY, 0)) < 0) {
        st = io_failed(err, "open", path);
    }
    for (off_t at = 0; !st;) {
        ssize_t n = glia_io_pread(fd, piece, PIECE, at);
        if (n < 0) st = io_failed(err, "read", path);
        else if (stop && stop(ud)) st = glia_fail(err, GLIA_ECANCELLED, "stopped");
        else if (!n) break;
        else if (!glia_sha256_add(hash, piece, (size_t)n)) st = glia_fail(err, GLIA_EINTERNAL, "cannot hash %s", path);
        else at += n;
    }
    if (!st && !glia_sha256_hex(hash, out)) st = glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
    if (fd >= 0) (void)close(fd);
    glia_sha256_free(hash);
    glia_free(piece);
    return st;
}

glia_status glia_file_slurp(const char *path, size_t max, char **out, size_t *n, glia_err *err) {
    struct stat s;
    glia_status st = GLIA_OK;
    char *p = NULL;
    ssize_t got = 0;
    *out = NULL, *n = 0;
    int fd = glia_io_open(path, O_RDONLY, 0);
    if (fd < 0 && errno == ENOENT) return glia_fail(err, GLIA_ENOTFOUND, "there is no %s", path);
    if (fd < 0 || fstat(fd, &s)) st = io_failed(err, "open", path);
    else if (!S_ISREG(s.st_mode)) st = glia_fail(err, GLIA_EIO, "%s is not a file", path);
    else if ((uint64_t)s.st_size > max) st = glia_fail(err, GLIA_ETOOLARGE, "%s is larger than %zu bytes", path, max);
    else if (!(p = glia_malloc((size_t)s.st_size + 1))) st = glia_fail(err, GLIA_ENOMEM, "out of memory for %s", path);
    else if ((got = glia_io_pread(fd, p, (size_t)s.st_size, 0)) < 0) st = io_failed(err, "read", path);
    if (!st) p[got] = 0, *out = p, *n = (size_t)got, p = NULL;
    if (fd >= 0) (void)close(fd);
    glia_free(p);
    return st;
}

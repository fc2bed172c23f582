/* store/newfile.h — a file that exists whole or not at all.
 *
 * Owns a temporary file beside the final path (".NAME.part") until commit renames it.  One thread at a time; large
 * writes start others, which hash and, past the cache, write (helper.h).
 * Knows neither formats, models nor HTTP.
 *
 *   open ──write*──► written ──commit──► at its path, on stable storage
 *     └──────────────── free ─────────── no trace
 *
 * Order of a commit: data, fsync, rename, fsync of the folder.  A crash at any moment leaves the old file or the new. */
#ifndef GLIA_STORE_NEWFILE_H
#define GLIA_STORE_NEWFILE_H
#include "glia.h"
#include "store/sha256.h"

typedef struct glia_newfile glia_newfile;

/* EIO names path and cause.  An older temporary file of the same name is overwritten. */
glia_status glia_newfile_open(glia_newfile **out, const char *path, glia_err *err);
glia_status glia_newfile_write(glia_newfile *f, const void *p, size_t n, glia_err *err);
/* Before the first write: commit also writes checksums of the file's blocks beside it (checked.h, PATH.sums). */
void glia_newfile_keep_sums(glia_newfile *f);
/* Before the first write: blocks of 4 MiB go to the disk past the page cache, where the file system can, one while the next
 * is made.  Takes half of the processor's time and pushes out nothing that is read (a model's weights); for files of many
 * blocks.  A write may then tell of the failure of the one before. */
void glia_newfile_past_cache(glia_newfile *f);
uint64_t glia_newfile_bytes(const glia_newfile *f); /* written so far */
/* sha256: of all bytes, may be NULL.  After a failure the path is as it was before (or already whole, when only the
 * last fsync failed). */
glia_status glia_newfile_commit(glia_newfile *f, char sha256[GLIA_SHA256_HEX], glia_err *err);
void glia_newfile_free(glia_newfile *f); /* removes what was not committed.  NULL is fine */

/* All of p as a file of its own. */
glia_status glia_newfile_put(const char *path, const void *p, size_t n, char sha256[GLIA_SHA256_HEX], glia_err *err);

/* SHA-256 of an existing file, read in pieces.  stop may be NULL; true: ECANCELLED. */
glia_status glia_file_sha256(const char *path, char out[GLIA_SHA256_HEX], bool (*stop)(void *ud), void *ud,
                             glia_err *err);

/* A whole file of at most max bytes, NUL-terminated, freed with glia_free.  ENOTFOUND when there is none, ETOOLARGE. */
glia_status glia_file_slurp(const char *path, size_t max, char **out, size_t *n, glia_err *err);
#endif

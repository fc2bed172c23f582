/* store/filehash.h — SHA-256 of large files that are asked for again and again: model files.
 *
 * Any thread.  Remembers a few results in memory, by what the file is (device, inode, size, times of change), so that
 * another file at the same path, or the same one written anew, is read again.  Knows neither models nor harvests. */
#ifndef GLIA_STORE_FILEHASH_H
#define GLIA_STORE_FILEHASH_H
#include "glia.h"
#include "store/sha256.h"

/* stop may be NULL; true: ECANCELLED.  EIO names path and cause. */
glia_status glia_filehash(const char *path, char out[GLIA_SHA256_HEX], bool (*stop)(void *ud), void *ud, glia_err *err);
#endif

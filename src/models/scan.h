/* models/scan.h — one look through the model folders.  One thread at a time.  Knows files and headers, not models. */
#ifndef GLIA_MODELS_SCAN_H
#define GLIA_MODELS_SCAN_H
#include "models/header.h"
#include "models/memo.h"

typedef struct glia_scan_file {
    char *path;
    size_t n_folder;  /* bytes of path before the last '/' */
    const char *stem; /* in path: file name without ".gguf" and "-00001-of-00003" */
    size_t n_stem;
    const char *model, *publisher; /* in path: folders above the file, below the model folder; NULL, "": none */
    size_t n_model, n_publisher;
    size_t part, n_parts; /* 1 of 1 when it is not split */
    uint64_t bytes;
    int64_t mtime_ns;
    glia_gguf head;
    bool bad; /* no GGUF file of a model; was logged when it was first seen */
} glia_scan_file;

typedef struct glia_scan {
    size_t n;
    glia_scan_file *files; /* sorted by path */
} glia_scan;

/* before: an earlier look, or NULL; memo: what was read in earlier runs, or NULL.  Files that neither knows are read.
 * At most 8192 files, five folders deep; the rest is left out with a warning.  ENOMEM. */
glia_status glia_scan_new(glia_scan **out, const char *const *dirs, size_t n_dirs, const glia_scan *before,
                          glia_memo *memo, glia_err *err);
void glia_scan_free(glia_scan *s); /* NULL is fine */
/* Part k (≥ 2) of a split model; NULL: not there. */
const glia_scan_file *glia_scan_part(const glia_scan *s, const glia_scan_file *first, size_t k);
#endif

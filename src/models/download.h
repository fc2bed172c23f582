/* models/download.h — models copied into the model folder from another folder: a mirror, or any file.
 *
 * Owns its jobs, each with a thread.  A file is written as ".NAME.part" beside its place and renamed when it is whole,
 * on stable storage and, where a checksum is known (given, or in NAME.sha256 beside the source), equal to it.  What an
 * earlier job left is gone on with when it is the beginning of the same source; the bytes are compared.  Any thread.
 * Never opens a connection. */
#ifndef GLIA_MODELS_DOWNLOAD_H
#define GLIA_MODELS_DOWNLOAD_H
#include "models/catalogue.h"

enum { GLIA_DOWNLOAD_ID = 16, GLIA_DOWNLOADS_KEPT = 64 };

typedef struct glia_downloads glia_downloads;
typedef enum glia_download_state {
    GLIA_DOWNLOAD_RUNNING,
    GLIA_DOWNLOAD_COMPLETED,
    GLIA_DOWNLOAD_FAILED
} glia_download_state;

typedef struct glia_download_info {
    char id[GLIA_DOWNLOAD_ID]; /* "job_" and ten hexadecimal digits */
    glia_download_state state;
    uint64_t total, done;         /* bytes of all files; done counts what was there already */
    int64_t started_ms, ended_ms; /* since 1970; ended_ms 0: it runs */
    double bytes_per_second;      /* of what this job copied */
    glia_err err;                 /* FAILED */
} glia_download_info;

glia_downloads *glia_downloads_new(void); /* NULL: out of memory */
void glia_downloads_free(
    glia_downloads *d); /* stops all jobs; what they copied stays for the next one.  NULL is fine */

/* Copy all files of a model (its parts, its mmproj) to folder/publisher/model.  sha256: of its one file, 64 digits, or
 * NULL.  *already: everything is there with the right size; no job was made.  A job for the same place that runs is
 * joined.  EBUSY: eight jobs run.  EIO: the folder cannot be made. */
glia_status glia_download_start(glia_downloads *d, const glia_model_file *from, const char *folder, const char *sha256,
                                glia_download_info *out, bool *already, glia_err *err);
bool glia_download_get(glia_downloads *d, const char *id, glia_download_info *out);
#endif

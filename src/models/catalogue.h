/* models/catalogue.h — the model files of the model folders: found, read once, remembered.
 *
 * A model folder holds publisher/model/file.gguf (flatter and deeper is fine).  A model is one file, or all parts of a
 * split one; an mmproj file in the same folder belongs to its models.  What a header says is kept in an SQLite file by
 * path, size and time, so that a folder of many models is read again only where it changed.  The SQLite file is a cache:
 * lost, damaged or locked, it is made anew or done without.
 *
 * Any thread: a catalogue is locked while it is refreshed; what it hands out (glia_models) is an immutable list with
 * references.  Knows nothing of loaded models. */
#ifndef GLIA_MODELS_CATALOGUE_H
#define GLIA_MODELS_CATALOGUE_H
#include "models/header.h"

typedef struct glia_catalogue glia_catalogue;

typedef struct glia_model_file {
    char *key;  /* the name that clients use, unique: "smollm2-135m-instruct", "…@q4_k_m" when there are variants */
    char *base; /* key without the variant; the selected variant answers to it, too */
    char *publisher;                        /* folder above the model's, "" when there is none */
    char *folder;                           /* name of the model's folder, or of the file when it lies at the top */
    char *file;                             /* name of the (first) file */
    char *path;                             /* of the (first) file */
    char *mmproj;                           /* path of the projector beside it, or NULL */
    char *problem;                          /* why it cannot be loaded ("part 2 of 3 is missing"), or NULL */
    glia_gguf head;                         /* of the first part */
    uint64_t bytes, weight_bytes, n_params; /* of all parts */
    uint64_t n_parts;
    int64_t mtime; /* of the (first) file, seconds since 1970 */
    bool selected; /* of the variants of base, the one that base means */
    size_t n_variants;
} glia_model_file;

typedef struct glia_models {
    size_t n;
    const glia_model_file *items; /* sorted by key */
} glia_models;

/* dirs: [n_dirs], copied; ones that do not exist are skipped.  db: path of the SQLite file, NULL: remember nothing.
 * ENOMEM. */
glia_status glia_catalogue_new(glia_catalogue **out, const char *const *dirs, size_t n_dirs, const char *db,
                               glia_err *err);
void glia_catalogue_free(glia_catalogue *c);                       /* NULL is fine */
const char *glia_catalogue_dir(const glia_catalogue *c, size_t i); /* NULL: no such */

/* The list; the folders are looked through when that was more than max_age_ms ago (0: now).  ENOMEM.  Unreadable files
 * are left out and logged once. */
glia_status glia_catalogue_get(glia_catalogue *c, int max_age_ms, const glia_models **out, glia_err *err);
void glia_models_unref(const glia_models *m); /* NULL is fine */

/* The file a name means, without regard to case: key, base, publisher/model, publisher/model/file, file name with or
 * without ".gguf", path.  NULL with ENOTFOUND, or EINVAL when several could be meant (the message lists them). */
const glia_model_file *glia_models_find(const glia_models *m, const char *name, glia_err *err);

/* A copy of its own; a file that no folder knows (its key is its name without ".gguf").  ENOMEM, or what glia_gguf_read
 * says. */
glia_status glia_model_file_copy(glia_model_file *out, const glia_model_file *f, glia_err *err);
glia_status glia_model_file_of_path(glia_model_file *out, const char *path, glia_err *err);
void glia_model_file_clear(glia_model_file *f);

/* These folders, or (n_dirs 0) the default ones, remembered in the default file. */
glia_status glia_catalogue_open(glia_catalogue **out, const char *const *dirs, size_t n_dirs, glia_err *err);
/* $GLIA_MODELS, else .deps/models and the user's data folder: at most cap paths, freed with glia_free.  The first is
 * where new models go. */
size_t glia_catalogue_default_dirs(char **out, size_t cap);
/* The SQLite file in the user's cache folder, made if need be; freed with glia_free.  NULL: there is none. */
char *glia_catalogue_default_db(void);
#endif

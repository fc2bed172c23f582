/* store/runs.h — captured runs: a folder of safetensors files with a SQLite catalogue.
 *
 * A run is what one request with "store": true kept, or a harvest.  Any thread; a glia_run (an open one) one thread at a
 * time.  Several processes may use one store.  Knows files and SQL; neither JSON, models nor HTTP.
 *
 *   STORE/catalog.sqlite           runs, their files, their tensors
 *   STORE/<id>/…                   the files of a run (a harvest may also lie in a folder of its own)
 *   STORE/<id>/.writer             locked (flock) by whoever writes the run
 *
 *   begin: row WRITING ─► files on stable storage ─► record: files and tensors, SEALED     in one transaction
 *   delete: row DELETING ─► files removed ─► row removed
 * A crash anywhere leaves a row that says what to do; the next glia_runs_open does it: WRITING without a living writer
 * is removed (a harvest becomes STOPPED: what it recorded stays), DELETING is finished.  So nothing is listed that is not
 * whole, and no file is left that no row names. */
#ifndef GLIA_STORE_RUNS_H
#define GLIA_STORE_RUNS_H
#include "glia.h"
#include "store/safetensors.h"
#include "store/sha256.h"

enum { GLIA_RUN_ID = 40 }; /* bytes of an id with its NUL */

typedef enum glia_run_kind { GLIA_RUN_REQUEST, GLIA_RUN_HARVEST } glia_run_kind;
typedef enum glia_run_state {
    GLIA_RUN_WRITING,
    GLIA_RUN_SEALED,
    GLIA_RUN_STOPPED, /* a harvest that can go on; what is recorded can be read */
    GLIA_RUN_DELETING
} glia_run_state;
const char *glia_run_kind_name(glia_run_kind k);   /* "request", "harvest" */
const char *glia_run_state_name(glia_run_state s); /* "writing", "complete", "stopped", "deleting" */

typedef struct glia_run_about {
    char id[GLIA_RUN_ID];
    glia_run_kind kind;
    glia_run_state state;
    int64_t created; /* seconds since 1970 */
    char model[128], model_sha256[GLIA_SHA256_HEX]; /* the latter "" when unknown */
    char note[256];     /* one line of the user's */
    char folder[1024];  /* where its files lie */
    bool own_folder;    /* not in the store: deleting the run leaves the files */
    uint64_t bytes, rows, tokens; /* of files; harvests: rows of each tensor; tokens that went in */
} glia_run_about;

typedef struct glia_run_file {
    char name[64], sha256[GLIA_SHA256_HEX];
    uint64_t bytes, rows; /* rows: harvests only */
} glia_run_file;

/* A tensor of a run.  Rows of a harvest go on from file to file.  Attention lies in its file as [n_heads, rows, n_cols] and
 * is read as rows of [n_heads, n_cols]. */
typedef struct glia_run_tensor {
    const char *name;   /* in its file */
    glia_point point;
    int32_t layer;      /* -1: the point has none */
    glia_grade grade;
    glia_reduce_op reduce;
    glia_st_dtype dtype; /* F32, F16, BF16; I32: the channels of a top-k, named NAME.indices */
    uint64_t rows;
    int32_t width;      /* numbers per row, all heads */
    int32_t n_heads, head_dim, n_cols; /* 0 where a row is not laid out so */
    int32_t choice;     /* which answer of the request */
    uint32_t phase;     /* GLIA_PHASE_* */
    /* requests: one for each row, or (reduce over rows) all rows that went in; NULL for harvests: glia_run_labels */
    const int32_t *positions, *token_ids;
    size_t n_positions;
} glia_run_tensor;

/* ------------------------------------------------------------------ the store */

typedef struct glia_runs glia_runs;

/* folder is made when missing.  budget: bytes that all runs in it may have together; 0: no limit.  EIO names the cause. */
glia_status glia_runs_open(glia_runs **out, const char *folder, uint64_t budget, glia_err *err);
void glia_runs_close(glia_runs *s); /* waits for writers; NULL is fine */
const char *glia_runs_folder(const glia_runs *s);
/* $GLIA_STORE, else $XDG_DATA_HOME/glia/runs, else ~/.local/share/glia/runs; false: none of them is set. */
bool glia_runs_default_folder(char *out, size_t cap);

typedef struct glia_runs_usage {
    uint64_t bytes, budget, n_runs;
} glia_runs_usage;
glia_status glia_runs_get_usage(glia_runs *s, glia_runs_usage *out, glia_err *err);

/* Newest first, at most limit (0: all) behind the run `after` (NULL: from the newest).  kind < 0: both.  *out is freed with
 * glia_free.  ENOTFOUND: no run `after`. */
glia_status glia_runs_list(glia_runs *s, int kind, const char *after, size_t limit, glia_run_about **out, size_t *n,
                           glia_err *err);
glia_status glia_runs_find(glia_runs *s, const char *id, glia_run_about *out, glia_err *err); /* ENOTFOUND */

/* EBUSY: it is being written.  *kept: the folder is not the store's, its files stay. */
glia_status glia_runs_delete(glia_runs *s, const char *id, bool *kept, glia_err *err);
/* Delete the oldest requests until `bytes` more fit the budget.  Harvests are never deleted by themselves.  ETOOLARGE:
 * they do not fit all the same. */
glia_status glia_runs_make_room(glia_runs *s, uint64_t bytes, glia_err *err);

/* ------------------------------------------------------------------ writing */

typedef struct glia_run_writer glia_run_writer;

/* A new run of about->kind with about->model, note and created (0: now).  about->folder: "" for one in the store, else
 * the folder of a harvest (made when missing).  Fills id and folder. */
glia_status glia_run_begin(glia_run_writer **out, glia_runs *s, glia_run_about *about, glia_err *err);
/* Write on in a harvest that was stopped, or complete.  EBUSY: somebody does. */
glia_status glia_run_resume(glia_run_writer **out, glia_runs *s, const char *id, glia_run_about *about, glia_err *err);
/* What the run holds now, in one transaction: replaces what was recorded before.  Files must be on stable storage.
 * about: state, model, model_sha256, rows, tokens; bytes are counted here. */
glia_status glia_run_record(glia_run_writer *w, const glia_run_about *about, const glia_run_file *files, size_t n_files,
                            const glia_run_tensor *tensors, size_t n_tensors, glia_err *err);
/* Nothing was recorded: the run and its files in the store go.  A harvest in state WRITING becomes STOPPED. */
void glia_run_writer_free(glia_run_writer *w); /* NULL is fine */

/* ------------------------------------------------------------------ reading */

typedef struct glia_run glia_run;

/* ENOTFOUND.  The run stays readable while it is open, also when somebody deletes it meanwhile (files that were touched
 * before). */
glia_status glia_run_open(glia_run **out, glia_runs *s, const char *id, glia_err *err);
void glia_run_close(glia_run *r); /* NULL is fine */
const glia_run_about *glia_run_get_about(const glia_run *r);
size_t glia_run_n_tensors(const glia_run *r);
const glia_run_tensor *glia_run_tensor_at(const glia_run *r, size_t i);           /* valid until close */
const glia_run_tensor *glia_run_find(const glia_run *r, const char *name);        /* NULL: none */
/* The first tensor of a point at a layer (-1: a point without one) that holds rows as they are.  NULL: none. */
const glia_run_tensor *glia_run_find_point(const glia_run *r, glia_point p, int32_t layer);
size_t glia_run_n_files(const glia_run *r);
const glia_run_file *glia_run_file_at(const glia_run *r, size_t i);
/* Where file i lies; false: the path is too long. */
bool glia_run_file_path(const glia_run *r, size_t i, char *out, size_t cap);

/* Rows [row, row + n) as float32, out: [n, width].  Reads only the blocks of the files that hold them, and compares their
 * checksums.  EINVAL: rows outside the tensor.  EIO: a file is missing or damaged. */
glia_status glia_run_read(glia_run *r, const glia_run_tensor *t, uint64_t row, uint64_t n, float *out, glia_err *err);
/* The same as they lie there: little-endian, [n, width] of the tensor's dtype. */
glia_status glia_run_read_raw(glia_run *r, const glia_run_tensor *t, uint64_t row, uint64_t n, void *out, glia_err *err);

typedef struct glia_run_label {
    int64_t document;         /* harvests: line of the data; requests: -1 */
    int32_t offset;           /* index of the token in its document; requests: position */
    int32_t position, token_id;
} glia_run_label;
/* Labels of rows [row, row + n).  EINVAL: also a tensor whose rows are reductions over many. */
glia_status glia_run_labels(glia_run *r, const glia_run_tensor *t, uint64_t row, uint64_t n, glia_run_label *out,
                            glia_err *err);
/* Rows of one document of a harvest: [*row, *row + *n).  n 0: it has none.  A binary search: documents rise. */
glia_status glia_run_find_document(glia_run *r, int64_t document, uint64_t *row, uint64_t *n, glia_err *err);
/* Compare every byte of every file (or of file i) with its checksums. */
glia_status glia_run_verify_file(glia_run *r, size_t i, glia_err *err);
glia_status glia_run_verify(glia_run *r, glia_err *err);
#endif

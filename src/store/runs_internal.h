/* store/runs_internal.h — what runs.c, run_write.c and run_read.c share: the open catalogue. */
#ifndef GLIA_STORE_RUNS_INTERNAL_H
#define GLIA_STORE_RUNS_INTERNAL_H
#include "store/runs.h"
#include <pthread.h>
#include <sqlite3.h>

struct glia_runs {
    pthread_mutex_t mu; /* the connection is one thread's at a time */
    pthread_cond_t idle; /* n_writers fell to 0 */
    sqlite3 *db;
    char *folder;
    uint64_t budget;
    size_t n_writers;
};

/* All of these under mu. */
glia_status glia_sql_fail(glia_runs *s, int rc, glia_err *err);
glia_status glia_sql_run(glia_runs *s, const char *sql, glia_err *err); /* without parameters or rows */
glia_status glia_sql_prepare(glia_runs *s, const char *sql, sqlite3_stmt **out, glia_err *err);
/* Step to the end, finalise; no rows are looked at. */
glia_status glia_sql_finish(glia_runs *s, sqlite3_stmt *st, glia_err *err);
void glia_sql_text(sqlite3_stmt *st, int col, char *out, size_t cap);
/* BEGIN IMMEDIATE … COMMIT, or ROLLBACK when st is not OK. */
glia_status glia_sql_begin(glia_runs *s, glia_err *err);
glia_status glia_sql_end(glia_runs *s, glia_status st, glia_err *err);
glia_status glia_runs_find_locked(glia_runs *s, const char *id, glia_run_about *out, glia_err *err);

/* flock on FOLDER/.writer: the descriptor, or -1 with errno (EWOULDBLOCK: somebody writes). */
int glia_runs_lock_folder(const char *folder, bool make);
/* Files of a run in the store, and its folder. */
void glia_runs_remove_files(const char *folder);
#endif

/* store/run_write.c — a run that is being written.  See runs.h. */
#include "base/err.h"
#include "base/mem.h"
#include "store/runs_internal.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct glia_run_writer {
    glia_runs *s;
    glia_run_about about;
    int lock;
    bool recorded;
};

/* "run-20261127-024500-k3x9ab": sorts by time. */
static void make_id(char out[GLIA_RUN_ID], int64_t created) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    unsigned char random[8];
    struct tm utc;
    time_t t = (time_t)created;
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) memset(random, (int)(t & 0x7f), sizeof random);
    size_t n = strftime(out, GLIA_RUN_ID, "run-%Y%m%d-%H%M%S-", gmtime_r(&t, &utc));
    for (size_t i = 0; i < sizeof random && n + 1 < GLIA_RUN_ID; i++) out[n++] = letters[random[i] % 36];
    out[n] = 0;
}

static glia_status insert(glia_runs *s, const glia_run_about *a, glia_err *err) {
    sqlite3_stmt *st;
    glia_status status =
        glia_sql_prepare(s, "INSERT INTO runs VALUES(?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, 0, 0, 0)", &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, a->id, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int(st, 2, (int)a->kind);
    (void)sqlite3_bind_int64(st, 3, a->created);
    (void)sqlite3_bind_text(st, 4, a->model, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(st, 5, a->model_sha256, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(st, 6, a->note, -1, SQLITE_STATIC);
    if (a->own_folder) (void)sqlite3_bind_text(st, 7, a->folder, -1, SQLITE_STATIC);
    return glia_sql_finish(s, st, err);
}

/* A folder of another process's run is named once only: its lock tells. */
static glia_status take_folder(glia_run_writer *w, glia_err *err) {
    if (mkdir(w->about.folder, w->about.own_folder ? 0777 : 0700) && errno != EEXIST)
        return glia_fail(err, GLIA_EIO, "cannot make the folder %s: %s", w->about.folder, strerror(errno));
    w->lock = glia_runs_lock_folder(w->about.folder, true);
    if (w->lock >= 0) return GLIA_OK;
    if (errno == EWOULDBLOCK)
        return glia_fail(err, GLIA_EBUSY, "%s is being written by somebody: wait, or name another folder",
                         w->about.folder);
    return glia_fail(err, GLIA_EIO, "cannot write into %s: %s", w->about.folder, strerror(errno));
}

static void count_writer(glia_runs *s, bool more) {
    (void)pthread_mutex_lock(&s->mu);
    if (more) s->n_writers++;
    else if (!--s->n_writers) (void)pthread_cond_broadcast(&s->idle);
    (void)pthread_mutex_unlock(&s->mu);
}

static glia_run_writer *new_writer(glia_runs *s, glia_err *err) {
    glia_run_writer *w = glia_calloc(1, sizeof *w);
    if (!w) {
        (void)glia_fail(err, GLIA_ENOMEM, "out of memory for a run");
        return NULL;
    }
    w->s = s, w->lock = -1;
    count_writer(s, true);
    return w;
}

/* The folder and its lock come first: a row WRITING without a living writer is taken for one that crashed. */
glia_status glia_run_begin(glia_run_writer **out, glia_runs *s, glia_run_about *about, glia_err *err) {
    *out = NULL;
    glia_run_writer *w = new_writer(s, err);
    if (!w) return GLIA_ENOMEM;
    if (!about->created) about->created = (int64_t)time(NULL);
    about->own_folder = about->folder[0] != 0;
    make_id(about->id, about->created);
    if (!about->own_folder && snprintf(about->folder, sizeof about->folder, "%s/%s", s->folder, about->id) < 0)
        about->folder[0] = 0;
    w->about = *about;
    glia_status st = take_folder(w, err);
    if (!st) {
        (void)pthread_mutex_lock(&s->mu);
        st = insert(s, about, err);
        (void)pthread_mutex_unlock(&s->mu);
        if (st && !about->own_folder) glia_runs_remove_files(about->folder);
    }
    if (st) {
        if (w->lock >= 0) (void)close(w->lock);
        glia_free(w);
        count_writer(s, false);
        return st;
    }
    *out = w;
    return GLIA_OK;
}

static glia_status set_state(glia_runs *s, const char *id, glia_run_state state, glia_err *err) {
    sqlite3_stmt *st;
    glia_status status = glia_sql_prepare(s, "UPDATE runs SET state = ?2 WHERE id = ?1", &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int(st, 2, (int)state);
    return glia_sql_finish(s, st, err);
}

glia_status glia_run_resume(glia_run_writer **out, glia_runs *s, const char *id, glia_run_about *about, glia_err *err) {
    *out = NULL;
    glia_status st = glia_runs_find(s, id, about, err);
    if (st) return st;
    if (about->kind != GLIA_RUN_HARVEST || about->state == GLIA_RUN_DELETING)
        return glia_fail_at(err, GLIA_EINVAL, "id", "run \"%s\" is not a harvest that could go on", about->id);
    glia_run_writer *w = new_writer(s, err);
    if (!w) return GLIA_ENOMEM;
    w->about = *about, w->about.state = GLIA_RUN_WRITING, w->recorded = true;
    if (!(st = take_folder(w, err))) {
        (void)pthread_mutex_lock(&s->mu);
        st = set_state(s, id, GLIA_RUN_WRITING, err);
        (void)pthread_mutex_unlock(&s->mu);
    }
    if (!st) {
        *out = w;
        return GLIA_OK;
    }
    if (w->lock >= 0) (void)close(w->lock);
    glia_free(w);
    count_writer(s, false);
    return st;
}

/* ------------------------------------------------------------------ recording */

static glia_status clear_lists(glia_runs *s, const char *id, glia_err *err) {
    static const char *const sql[] = {"DELETE FROM tensors WHERE run = ?1", "DELETE FROM files WHERE run = ?1"};
    glia_status status = GLIA_OK;
    for (int i = 0; i < 2 && !status; i++) {
        sqlite3_stmt *st;
        if ((status = glia_sql_prepare(s, sql[i], &st, err))) break;
        (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
        status = glia_sql_finish(s, st, err);
    }
    return status;
}

static glia_status add_files(glia_runs *s, const char *id, const glia_run_file *f, size_t n, glia_err *err) {
    glia_status status = GLIA_OK;
    for (size_t i = 0; i < n && !status; i++) {
        sqlite3_stmt *st;
        if ((status = glia_sql_prepare(s, "INSERT INTO files VALUES(?1, ?2, ?3, ?4, ?5, ?6)", &st, err))) break;
        (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 2, (sqlite3_int64)i);
        (void)sqlite3_bind_text(st, 3, f[i].name, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 4, f[i].sha256, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 5, (sqlite3_int64)f[i].bytes);
        (void)sqlite3_bind_int64(st, 6, (sqlite3_int64)f[i].rows);
        status = glia_sql_finish(s, st, err);
    }
    return status;
}

/* int32 in the order of this machine: a catalogue does not travel. */
static void bind_ints(sqlite3_stmt *st, int at, const int32_t *v, size_t n) {
    if (v) (void)sqlite3_bind_blob64(st, at, v, n * sizeof *v, SQLITE_STATIC);
}

static glia_status add_tensors(glia_runs *s, const char *id, const glia_run_tensor *t, size_t n, glia_err *err) {
    glia_status status = GLIA_OK;
    for (size_t i = 0; i < n && !status; i++, t++) {
        sqlite3_stmt *st;
        status = glia_sql_prepare(s,
                                  "INSERT INTO tensors VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, "
                                  "?14, ?15, ?16, ?17)",
                                  &st, err);
        if (status) break;
        (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 2, (sqlite3_int64)i);
        (void)sqlite3_bind_text(st, 3, t->name, -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 4, glia_point_name(t->point), -1, SQLITE_STATIC);
        (void)sqlite3_bind_int(st, 5, t->layer);
        (void)sqlite3_bind_text(st, 6, glia_grade_name(t->grade), -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 7, glia_reduce_name(t->reduce), -1, SQLITE_STATIC);
        (void)sqlite3_bind_text(st, 8, glia_st_dtype_name(t->dtype), -1, SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 9, (sqlite3_int64)t->rows);
        const int32_t ints[] = {t->width, t->n_heads, t->head_dim, t->n_cols, t->choice, (int32_t)t->phase};
        for (int k = 0; k < 6; k++) (void)sqlite3_bind_int(st, 10 + k, ints[k]);
        bind_ints(st, 16, t->positions, t->n_positions);
        bind_ints(st, 17, t->token_ids, t->n_positions);
        status = glia_sql_finish(s, st, err);
    }
    return status;
}

static glia_status update(glia_runs *s, const char *id, const glia_run_about *a, uint64_t bytes, glia_err *err) {
    sqlite3_stmt *st;
    glia_status status = glia_sql_prepare(
        s,
        "UPDATE runs SET state = ?2, model = ?3, model_sha256 = ?4, bytes = ?5, rows = ?6, tokens = ?7 WHERE id = ?1",
        &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int(st, 2, (int)a->state);
    (void)sqlite3_bind_text(st, 3, a->model, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(st, 4, a->model_sha256, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(st, 5, (sqlite3_int64)bytes);
    (void)sqlite3_bind_int64(st, 6, (sqlite3_int64)a->rows);
    (void)sqlite3_bind_int64(st, 7, (sqlite3_int64)a->tokens);
    return glia_sql_finish(s, st, err);
}

glia_status glia_run_record(glia_run_writer *w, const glia_run_about *about, const glia_run_file *files, size_t n_files,
                            const glia_run_tensor *tensors, size_t n_tensors, glia_err *err) {
    glia_runs *s = w->s;
    const char *id = w->about.id;
    uint64_t bytes = 0;
    for (size_t i = 0; i < n_files; i++) bytes += files[i].bytes;
    (void)pthread_mutex_lock(&s->mu);
    glia_status st = glia_sql_begin(s, err);
    if (!st) {
        st = clear_lists(s, id, err);
        if (!st) st = add_files(s, id, files, n_files, err);
        if (!st) st = add_tensors(s, id, tensors, n_tensors, err);
        if (!st) st = update(s, id, about, bytes, err);
        st = glia_sql_end(s, st, err);
    }
    (void)pthread_mutex_unlock(&s->mu);
    if (!st) w->recorded = true, w->about.state = about->state;
    return st;
}

void glia_run_writer_free(glia_run_writer *w) {
    if (!w) return;
    glia_runs *s = w->s;
    glia_err err;
    bool stopped = w->recorded && w->about.kind == GLIA_RUN_HARVEST && w->about.state == GLIA_RUN_WRITING;
    if (stopped) {
        (void)pthread_mutex_lock(&s->mu);
        (void)set_state(s, w->about.id, GLIA_RUN_STOPPED, &err); /* else the next opening does it */
        (void)pthread_mutex_unlock(&s->mu);
    } else if (!w->recorded) {
        (void)pthread_mutex_lock(&s->mu);
        bool gone = !set_state(s, w->about.id, GLIA_RUN_DELETING, &err);
        (void)pthread_mutex_unlock(&s->mu);
        if (gone) (void)glia_runs_delete(s, w->about.id, NULL, &err);
    }
    if (w->lock >= 0) (void)close(w->lock);
    glia_free(w);
    count_writer(s, false);
}

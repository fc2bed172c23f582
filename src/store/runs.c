/* store/runs.c — the catalogue: schema, listing, deleting, retention, and what a crash left.  See runs.h. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "store/runs_internal.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Points, grades and reductions are kept by name: their numbers may change from version to version. */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS runs(id TEXT PRIMARY KEY, kind INTEGER NOT NULL, state INTEGER NOT NULL, created INTEGER "
    "NOT NULL, model TEXT NOT NULL, model_sha256 TEXT NOT NULL, note TEXT NOT NULL, folder TEXT, bytes INTEGER NOT NULL, "
    "rows INTEGER NOT NULL, tokens INTEGER NOT NULL);"
    "CREATE TABLE IF NOT EXISTS files(run TEXT NOT NULL, seq INTEGER NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, "
    "bytes INTEGER NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY(run, seq)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS tensors(run TEXT NOT NULL, seq INTEGER NOT NULL, name TEXT NOT NULL, point TEXT NOT NULL, "
    "layer INTEGER NOT NULL, grade TEXT NOT NULL, reduce TEXT NOT NULL, dtype TEXT NOT NULL, rows INTEGER NOT NULL, width "
    "INTEGER NOT NULL, n_heads INTEGER NOT NULL, head_dim INTEGER NOT NULL, n_cols INTEGER NOT NULL, choice INTEGER NOT "
    "NULL, phase INTEGER NOT NULL, positions BLOB, token_ids BLOB, PRIMARY KEY(run, seq));"
    "PRAGMA user_version = 1;";

const char *glia_run_kind_name(glia_run_kind k) { return k == GLIA_RUN_HARVEST ? "harvest" : "request"; }
const char *glia_run_state_name(glia_run_state s) {
    static const char *const names[] = {"writing", "complete", "stopped", "deleting"};
    return (unsigned)s < 4 ? names[s] : "?";
}

/* ------------------------------------------------------------------ SQL */

glia_status glia_sql_fail(glia_runs *s, int rc, glia_err *err) {
    const char *what = s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc);
    if ((rc & 0xff) == SQLITE_NOMEM) return glia_fail(err, GLIA_ENOMEM, "out of memory for the catalogue of runs");
    if ((rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_LOCKED)
        return glia_fail(err, GLIA_EBUSY, "the catalogue of runs is in use by another program: try again");
    return glia_fail(err, GLIA_EIO, "the catalogue of runs in %s: %s", s->folder, what);
}

glia_status glia_sql_run(glia_runs *s, const char *sql, glia_err *err) {
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    return rc ? glia_sql_fail(s, rc, err) : GLIA_OK;
}

glia_status glia_sql_prepare(glia_runs *s, const char *sql, sqlite3_stmt **out, glia_err *err) {
    int rc = sqlite3_prepare_v2(s->db, sql, -1, out, NULL);
    return rc ? glia_sql_fail(s, rc, err) : GLIA_OK;
}

glia_status glia_sql_finish(glia_runs *s, sqlite3_stmt *st, glia_err *err) {
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {}
    glia_status status = rc == SQLITE_DONE ? GLIA_OK : glia_sql_fail(s, rc, err);
    (void)sqlite3_finalize(st);
    return status;
}

void glia_sql_text(sqlite3_stmt *st, int col, char *out, size_t cap) {
    const char *text = (const char *)sqlite3_column_text(st, col);
    (void)snprintf(out, cap, "%s", text ? text : "");
}

glia_status glia_sql_begin(glia_runs *s, glia_err *err) { return glia_sql_run(s, "BEGIN IMMEDIATE", err); }

glia_status glia_sql_end(glia_runs *s, glia_status st, glia_err *err) {
    if (!st) st = glia_sql_run(s, "COMMIT", err);
    if (st && !sqlite3_get_autocommit(s->db)) (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

/* ------------------------------------------------------------------ folders */

int glia_runs_lock_folder(const char *folder, bool make) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/.writer", folder);
    if (n < 0 || (size_t)n >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT : 0), 0600);
    if (fd < 0 || !flock(fd, LOCK_EX | LOCK_NB)) return fd;
    int e = errno;
    (void)close(fd);
    errno = e;
    return -1;
}

void glia_runs_remove_files(const char *folder) {
    char path[4096];
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        int n = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (n > 0 && (size_t)n < sizeof path) (void)unlink(path);
    }
    if (d) (void)closedir(d);
    (void)rmdir(folder);
}

/* mkdir -p; only the last folder's failure counts. */
static bool make_folders(const char *folder) {
    char path[4096];
    size_t n = strlen(folder);
    if (n >= sizeof path) return errno = ENAMETOOLONG, false;
    memcpy(path, folder, n + 1);
    for (size_t i = 1; i < n; i++) {
        if (path[i] != '/') continue;
        path[i] = 0;
        (void)mkdir(path, 0700);
        path[i] = '/';
    }
    return !mkdir(path, 0700) || errno == EEXIST;
}

bool glia_runs_default_folder(char *out, size_t cap) {
    const char *own = getenv("GLIA_STORE"), *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n = own && *own     ? snprintf(out, cap, "%s", own)
            : data && *data ? snprintf(out, cap, "%s/glia/runs", data)
            : home && *home ? snprintf(out, cap, "%s/.local/share/glia/runs", home)
                            : -1;
    return n > 0 && (size_t)n < cap;
}

/* ------------------------------------------------------------------ rows → values */

static const char about_columns[] =
    "SELECT id, kind, state, created, model, model_sha256, note, folder, bytes, rows, tokens FROM runs ";

static void read_about(glia_runs *s, sqlite3_stmt *st, glia_run_about *a) {
    *a = (glia_run_about){.kind = (glia_run_kind)sqlite3_column_int(st, 1),
                          .state = (glia_run_state)sqlite3_column_int(st, 2),
                          .created = sqlite3_column_int64(st, 3),
                          .bytes = (uint64_t)sqlite3_column_int64(st, 8),
                          .rows = (uint64_t)sqlite3_column_int64(st, 9),
                          .tokens = (uint64_t)sqlite3_column_int64(st, 10)};
    glia_sql_text(st, 0, a->id, sizeof a->id);
    glia_sql_text(st, 4, a->model, sizeof a->model);
    glia_sql_text(st, 5, a->model_sha256, sizeof a->model_sha256);
    glia_sql_text(st, 6, a->note, sizeof a->note);
    a->own_folder = sqlite3_column_type(st, 7) != SQLITE_NULL;
    if (a->own_folder) glia_sql_text(st, 7, a->folder, sizeof a->folder);
    else if (snprintf(a->folder, sizeof a->folder, "%s/%s", s->folder, a->id) >= (int)sizeof a->folder)
        a->folder[0] = 0; /* refused by glia_runs_open: cannot be */
}

glia_status glia_runs_find_locked(glia_runs *s, const char *id, glia_run_about *out, glia_err *err) {
    sqlite3_stmt *st;
    char sql[sizeof about_columns + 32];
    (void)snprintf(sql, sizeof sql, "%sWHERE id = ?1", about_columns);
    glia_status status = glia_sql_prepare(s, sql, &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) read_about(s, st, out);
    else if (rc == SQLITE_DONE)
        status = glia_fail_at(err, GLIA_ENOTFOUND, "id", "no run \"%.60s\" here: GET /api/v1/runs lists them", id);
    else status = glia_sql_fail(s, rc, err);
    (void)sqlite3_finalize(st);
    return status;
}

glia_status glia_runs_find(glia_runs *s, const char *id, glia_run_about *out, glia_err *err) {
    (void)pthread_mutex_lock(&s->mu);
    glia_status st = glia_runs_find_locked(s, id, out, err);
    (void)pthread_mutex_unlock(&s->mu);
    return st;
}

static glia_status list_locked(glia_runs *s, int kind, const char *after, size_t limit, glia_run_about **out, size_t *n,
                               glia_err *err) {
    glia_run_about last = {0};
    sqlite3_stmt *st;
    size_t cap = 0;
    char sql[512];
    glia_status status = after ? glia_runs_find_locked(s, after, &last, err) : GLIA_OK;
    if (status) return status;
    (void)snprintf(
        sql, sizeof sql,
        "%sWHERE state != 3 AND (?1 < 0 OR kind = ?1) AND (?2 = '' OR rowid < (SELECT rowid FROM runs WHERE id = "
        "?2)) ORDER BY rowid DESC LIMIT ?3",
        about_columns);
    if ((status = glia_sql_prepare(s, sql, &st, err))) return status;
    (void)sqlite3_bind_int(st, 1, kind);
    (void)sqlite3_bind_text(st, 2, after ? after : "", -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(st, 3, limit && limit < INT32_MAX ? (sqlite3_int64)limit : -1);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        if (*n == cap) {
            glia_run_about *more = glia_realloc(*out, (cap = cap ? 2 * cap : 16) * sizeof *more);
            if (!more) {
                status = glia_fail(err, GLIA_ENOMEM, "out of memory for the list of runs");
                break;
            }
            *out = more;
        }
        read_about(s, st, &(*out)[(*n)++]);
    }
    if (!status && rc != SQLITE_DONE) status = glia_sql_fail(s, rc, err);
    (void)sqlite3_finalize(st);
    return status;
}

glia_status glia_runs_list(glia_runs *s, int kind, const char *after, size_t limit, glia_run_about **out, size_t *n,
                           glia_err *err) {
    *out = NULL, *n = 0;
    (void)pthread_mutex_lock(&s->mu);
    glia_status st = list_locked(s, kind, after, limit, out, n, err);
    (void)pthread_mutex_unlock(&s->mu);
    if (!st) return st;
    glia_free(*out);
    *out = NULL, *n = 0;
    return st;
}

static glia_status usage_locked(glia_runs *s, glia_runs_usage *u, glia_err *err) {
    sqlite3_stmt *st;
    *u = (glia_runs_usage){.budget = s->budget};
    glia_status status = glia_sql_prepare(
        s, "SELECT COUNT(*), COALESCE(SUM(CASE WHEN folder IS NULL THEN bytes ELSE 0 END), 0) FROM runs", &st, err);
    if (status) return status;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        u->n_runs = (uint64_t)sqlite3_column_int64(st, 0), u->bytes = (uint64_t)sqlite3_column_int64(st, 1);
    } else {
        status = glia_sql_fail(s, rc, err);
    }
    (void)sqlite3_finalize(st);
    return status;
}

glia_status glia_runs_get_usage(glia_runs *s, glia_runs_usage *out, glia_err *err) {
    (void)pthread_mutex_lock(&s->mu);
    glia_status st = usage_locked(s, out, err);
    (void)pthread_mutex_unlock(&s->mu);
    return st;
}

/* ------------------------------------------------------------------ deleting */

static glia_status with_id(glia_runs *s, const char *sql, const char *id, glia_err *err) {
    sqlite3_stmt *st;
    glia_status status = glia_sql_prepare(s, sql, &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
    return glia_sql_finish(s, st, err);
}

/* The row says DELETING before the first file goes. */
static glia_status delete_locked(glia_runs *s, const glia_run_about *a, glia_err *err) {
    glia_status st = with_id(s, "UPDATE runs SET state = 3 WHERE id = ?1", a->id, err);
    if (st) return st;
    if (!a->own_folder) glia_runs_remove_files(a->folder);
    if ((st = glia_sql_begin(s, err))) return st;
    st = with_id(s, "DELETE FROM tensors WHERE run = ?1", a->id, err);
    if (!st) st = with_id(s, "DELETE FROM files WHERE run = ?1", a->id, err);
    if (!st) st = with_id(s, "DELETE FROM runs WHERE id = ?1", a->id, err);
    return glia_sql_end(s, st, err);
}

glia_status glia_runs_delete(glia_runs *s, const char *id, bool *kept, glia_err *err) {
    glia_run_about a;
    (void)pthread_mutex_lock(&s->mu);
    glia_status st = glia_runs_find_locked(s, id, &a, err);
    if (!st && a.state == GLIA_RUN_WRITING)
        st = glia_fail_at(err, GLIA_EBUSY, "id", "run \"%s\" is being written: cancel what writes it first", a.id);
    if (!st) st = delete_locked(s, &a, err);
    (void)pthread_mutex_unlock(&s->mu);
    if (kept) *kept = !st && a.own_folder;
    return st;
}

static glia_status make_room_locked(glia_runs *s, uint64_t bytes, glia_err *err) {
    for (;;) {
        glia_runs_usage u;
        glia_run_about a;
        sqlite3_stmt *st;
        char sql[512];
        glia_status status = usage_locked(s, &u, err);
        if (status || !s->budget || (bytes <= s->budget && u.bytes <= s->budget - bytes)) return status;
        (void)snprintf(sql, sizeof sql, "%sWHERE kind = 0 AND state = 1 ORDER BY rowid LIMIT 1", about_columns);
        /* nothing is deleted for what would not fit an empty store */
        int rc = SQLITE_DONE;
        if (bytes <= s->budget) {
            if ((status = glia_sql_prepare(s, sql, &st, err))) return status;
            if ((rc = sqlite3_step(st)) == SQLITE_ROW) read_about(s, st, &a);
            (void)sqlite3_finalize(st);
        }
        if (rc != SQLITE_ROW && rc != SQLITE_DONE) return glia_sql_fail(s, rc, err);
        if (rc == SQLITE_DONE) {
            return glia_fail(
                err, GLIA_ETOOLARGE,
                "the store of runs may hold %llu MiB, %llu are in use and %llu more are needed: delete runs "
                "(harvests are never deleted by themselves), or give --store-limit",
                (unsigned long long)(s->budget >> 20), (unsigned long long)(u.bytes >> 20),
                (unsigned long long)((bytes + 1048575) >> 20));
        }
        if ((status = delete_locked(s, &a, err))) return status;
        glia_log(GLIA_LOG_INFO, "run %s deleted: the store was full", a.id);
    }
}

glia_status glia_runs_make_room(glia_runs *s, uint64_t bytes, glia_err *err) {
    (void)pthread_mutex_lock(&s->mu);
    glia_status st = make_room_locked(s, bytes, err);
    (void)pthread_mutex_unlock(&s->mu);
    return st;
}

/* ------------------------------------------------------------------ opening */

/* What crashes left (runs.h). */
static glia_status clean_up(glia_runs *s, glia_err *err) {
    glia_run_about *all = NULL;
    size_t n = 0, cap = 0;
    sqlite3_stmt *st;
    char sql[512];
    (void)snprintf(sql, sizeof sql, "%sWHERE state IN (0, 3)", about_columns);
    glia_status status = glia_sql_prepare(s, sql, &st, err);
    if (status) return status;
    while (sqlite3_step(st) == SQLITE_ROW) {
        if (n == cap) {
            glia_run_about *more = glia_realloc(all, (cap = cap ? 2 * cap : 16) * sizeof *more);
            if (!more) break; /* the next opening does the rest */
            all = more;
        }
        read_about(s, st, &all[n++]);
    }
    (void)sqlite3_finalize(st);
    for (size_t i = 0; i < n && !status; i++) {
        glia_run_about *a = &all[i];
        int fd = -1;
        if (a->state == GLIA_RUN_WRITING) {
            fd = glia_runs_lock_folder(a->folder, false);
            if (fd < 0 && errno != ENOENT) continue; /* its writer lives, or we may not know */
        }
        status = a->state == GLIA_RUN_WRITING && a->kind == GLIA_RUN_HARVEST && (fd >= 0 || a->own_folder)
                     ? with_id(s, "UPDATE runs SET state = 2 WHERE id = ?1", a->id, err)
                     : delete_locked(s, a, err);
        if (fd >= 0) (void)close(fd);
    }
    glia_free(all);
    return status;
}

/* Folders whose writer died before it wrote the row: begin holds the lock until then. */
static void remove_strays(glia_runs *s) {
    char path[4096];
    glia_run_about a;
    DIR *d = opendir(s->folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        int n = snprintf(path, sizeof path, "%s/%s", s->folder, e->d_name);
        if (strncmp(e->d_name, "run-", 4) != 0 || n < 0 || (size_t)n >= sizeof path) continue;
        int fd = glia_runs_lock_folder(path, false);
        if (fd < 0) continue;
        if (glia_runs_find_locked(s, e->d_name, &a, NULL) == GLIA_ENOTFOUND) glia_runs_remove_files(path);
        (void)close(fd);
    }
    if (d) (void)closedir(d);
}

static glia_status set_up(glia_runs *s, glia_err *err) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/catalog.sqlite", s->folder);
    if (n < 0 || (size_t)n >= 900)
        return glia_fail(err, GLIA_EINVAL, "the path of the store %.60s… is too long", s->folder);
    if (!make_folders(s->folder))
        return glia_fail(err, GLIA_EIO, "cannot make the folder %s for runs: %s", s->folder, strerror(errno));
    int rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc) return glia_sql_fail(s, rc, err);
    (void)sqlite3_busy_timeout(s->db, 3000);
    (void)sqlite3_extended_result_codes(s->db, 1);
    glia_status st = glia_sql_run(s, "PRAGMA synchronous = FULL", err);
    sqlite3_stmt *q;
    if (!st) st = glia_sql_prepare(s, "PRAGMA user_version", &q, err);
    if (st) return st;
    int version = sqlite3_step(q) == SQLITE_ROW ? sqlite3_column_int(q, 0) : 0;
    (void)sqlite3_finalize(q);
    if (version > 1)
        return glia_fail(err, GLIA_EIO, "%s was made by a later Glia (version %d): use that one, or another store",
                         path, version);
    if (!version && (st = glia_sql_begin(s, err))) return st;
    if (!version) st = glia_sql_end(s, glia_sql_run(s, schema, err), err);
    if (!st) st = clean_up(s, err);
    if (!st) remove_strays(s);
    return st;
}

glia_status glia_runs_open(glia_runs **out, const char *folder, uint64_t budget, glia_err *err) {
    *out = NULL;
    glia_runs *s = glia_calloc(1, sizeof *s);
    if (!s || !(s->folder = glia_strdup(folder))) {
        glia_free(s);
        return glia_fail(err, GLIA_ENOMEM, "out of memory for the store of runs");
    }
    s->budget = budget;
    (void)pthread_mutex_init(&s->mu, NULL);
    (void)pthread_cond_init(&s->idle, NULL);
    glia_status st = set_up(s, err);
    if (!st) *out = s, s = NULL;
    glia_runs_close(s);
    return st;
}

void glia_runs_close(glia_runs *s) {
    if (!s) return;
    (void)pthread_mutex_lock(&s->mu);
    while (s->n_writers) (void)pthread_cond_wait(&s->idle, &s->mu);
    (void)pthread_mutex_unlock(&s->mu);
    (void)sqlite3_close(s->db);
    (void)pthread_cond_destroy(&s->idle);
    (void)pthread_mutex_destroy(&s->mu);
    glia_free(s->folder);
    glia_free(s);
}

const char *glia_runs_folder(const glia_runs *s) { return s->folder; }

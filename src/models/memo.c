/* models/memo.c — see memo.h. */
#include "models/memo.h"
#include "base/log.h"
#include "base/mem.h"
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Raised with every change of glia_gguf or of what header.c reads into it. */
enum { SCHEMA = 1, BUSY_MS = 500 };

/* Files that are gone leave their rows behind; once there are very many the memory begins anew. */
#define FORGET "DELETE FROM file WHERE (SELECT count(*) FROM file) > 32768"

struct glia_memo {
    sqlite3 *db;
    sqlite3_stmt *find, *put;
    bool complained;
};

static void complain(glia_memo *m, const char *what) {
    if (m->complained) return;
    m->complained = true;
    glia_log(GLIA_LOG_WARN, "the model catalogue cannot %s: %s; going on without", what, sqlite3_errmsg(m->db));
}

static bool run(glia_memo *m, const char *sql) { return sqlite3_exec(m->db, sql, NULL, NULL, NULL) == SQLITE_OK; }

static int version_of(sqlite3 *db) {
    sqlite3_stmt *s = NULL;
    int v = -1;
    if (sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        v = sqlite3_column_int(s, 0);
    (void)sqlite3_finalize(s);
    return v;
}

/* head is glia_gguf as it lies in memory, good for this schema and size only; the other columns are for people. */
static bool make_table(glia_memo *m) {
    char sql[128];
    int version = version_of(m->db), mine = SCHEMA * 100000 + (int)sizeof(glia_gguf);
    if (version < 0) return false;
    if (version == mine) return true;
    (void)snprintf(sql, sizeof sql, "PRAGMA user_version = %d", mine);
    return run(m, "BEGIN IMMEDIATE") && run(m, "DROP TABLE IF EXISTS file") &&
           run(m, "CREATE TABLE file (path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
                  "bad INTEGER NOT NULL, arch TEXT, name TEXT, quantization TEXT, parameters INTEGER, layers INTEGER, "
                  "context_length INTEGER, head BLOB NOT NULL) WITHOUT ROWID") &&
           run(m, sql) && run(m, "COMMIT");
}

static bool prepare(glia_memo *m) {
    return sqlite3_prepare_v2(m->db, "SELECT bad, head FROM file WHERE path = ?1 AND bytes = ?2 AND mtime_ns = ?3", -1,
                              &m->find, NULL) == SQLITE_OK &&
           sqlite3_prepare_v2(m->db, "INSERT OR REPLACE INTO file VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)", -1,
                              &m->put, NULL) == SQLITE_OK;
}

static bool open_at(glia_memo *m, const char *path) {
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
    if (sqlite3_open_v2(path, &m->db, flags, NULL) != SQLITE_OK) return false;
    (void)sqlite3_busy_timeout(m->db, BUSY_MS);
    return make_table(m) && run(m, FORGET) && prepare(m);
}

static void close_db(glia_memo *m) {
    (void)sqlite3_finalize(m->find);
    (void)sqlite3_finalize(m->put);
    (void)sqlite3_close(m->db);
    m->db = NULL, m->find = m->put = NULL;
}

glia_memo *glia_memo_open(const char *path) {
    glia_memo *m = glia_calloc(1, sizeof *m);
    if (!m) return NULL;
    bool ok = open_at(m, path);
    int rc = m->db ? sqlite3_errcode(m->db) : SQLITE_NOMEM;
    if (!ok && (rc == SQLITE_NOTADB || rc == SQLITE_CORRUPT)) {
        glia_log(GLIA_LOG_WARN, "%s is damaged: it is made anew", path);
        close_db(m);
        ok = !unlink(path) && open_at(m, path);
    }
    if (ok) return m;
    complain(m, "be opened");
    glia_memo_close(m);
    return NULL;
}

void glia_memo_close(glia_memo *m) {
    if (!m) return;
    close_db(m);
    glia_free(m);
}

void glia_memo_begin(glia_memo *m) {
    if (m) (void)run(m, "BEGIN");
}

void glia_memo_end(glia_memo *m) {
    if (!m || run(m, "COMMIT")) return;
    complain(m, "be written");
    (void)run(m, "ROLLBACK");
}

bool glia_memo_find(glia_memo *m, const char *path, uint64_t bytes, int64_t mtime_ns, glia_gguf *head, bool *bad) {
    if (!m) return false;
    bool found = false;
    (void)sqlite3_bind_text(m->find, 1, path, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(m->find, 2, (sqlite3_int64)bytes);
    (void)sqlite3_bind_int64(m->find, 3, mtime_ns);
    int rc = sqlite3_step(m->find);
    if (rc == SQLITE_ROW && sqlite3_column_bytes(m->find, 1) == (int)sizeof *head) {
        *bad = sqlite3_column_int(m->find, 0) != 0;
        memcpy(head, sqlite3_column_blob(m->find, 1), sizeof *head);
        head->arch[sizeof head->arch - 1] = head->name[sizeof head->name - 1] = 0; /* whatever was in the file */
        head->type[sizeof head->type - 1] = head->size_label[sizeof head->size_label - 1] = 0;
        found = true;
    } else if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        complain(m, "be read");
    }
    (void)sqlite3_reset(m->find);
    return found;
}

void glia_memo_put(glia_memo *m, const char *path, uint64_t bytes, int64_t mtime_ns, const glia_gguf *head, bool bad) {
    if (!m) return;
    (void)sqlite3_bind_text(m->put, 1, path, -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(m->put, 2, (sqlite3_int64)bytes);
    (void)sqlite3_bind_int64(m->put, 3, mtime_ns);
    (void)sqlite3_bind_int(m->put, 4, bad);
    (void)sqlite3_bind_text(m->put, 5, head->arch, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(m->put, 6, head->name, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(m->put, 7, glia_gguf_quant(head), -1, SQLITE_STATIC);
    (void)sqlite3_bind_int64(m->put, 8, (sqlite3_int64)head->n_params);
    (void)sqlite3_bind_int64(m->put, 9, (sqlite3_int64)head->n_layer);
    (void)sqlite3_bind_int64(m->put, 10, (sqlite3_int64)head->n_ctx_train);
    (void)sqlite3_bind_blob(m->put, 11, head, (int)sizeof *head, SQLITE_STATIC);
    if (sqlite3_step(m->put) != SQLITE_DONE) complain(m, "be written");
    (void)sqlite3_reset(m->put);
}

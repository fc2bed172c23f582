/* store/run_read.c — reading the rows of a run without its files as a whole.  See runs.h. */
#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include "store/checked.h"
#include "store/runs_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WIDTH = 1 << 28 };

typedef struct part { /* one file */
    glia_run_file about;
    uint64_t first_row; /* harvests: of the whole run */
    glia_checked *file; /* NULL: not touched yet */
    glia_st *head;
} part;

typedef struct named {
    const char *name;
    size_t i;
} named;

struct glia_run {
    glia_run_about about;
    part *parts;
    size_t n_parts;
    glia_run_tensor *tensors;
    void **owned; /* [3 · n_tensors]: name, positions, token_ids */
    named *names; /* [n_tensors] by name */
    size_t n_tensors;
};

/* ------------------------------------------------------------------ opening */

static int by_name(const void *a, const void *b) { return strcmp(((const named *)a)->name, ((const named *)b)->name); }

static glia_status count(glia_runs *s, const char *sql, const char *id, size_t *out, glia_err *err) {
    sqlite3_stmt *st;
    glia_status status = glia_sql_prepare(s, sql, &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, id, -1, SQLITE_STATIC);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) *out = (size_t)sqlite3_column_int64(st, 0);
    else status = glia_sql_fail(s, rc, err);
    (void)sqlite3_finalize(st);
    return status;
}

static glia_status load_files(glia_run *r, glia_runs *s, glia_err *err) {
    size_t n = 0;
    sqlite3_stmt *st;
    glia_status status = count(s, "SELECT COUNT(*) FROM files WHERE run = ?1", r->about.id, &n, err);
    if (status) return status;
    if (!(r->parts = glia_calloc(n, sizeof *r->parts))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a run");
    status = glia_sql_prepare(s, "SELECT name, sha256, bytes, rows FROM files WHERE run = ?1 ORDER BY seq", &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, r->about.id, -1, SQLITE_STATIC);
    uint64_t row = 0;
    for (int rc; r->n_parts < n && (rc = sqlite3_step(st)) == SQLITE_ROW;) {
        part *p = &r->parts[r->n_parts++];
        glia_sql_text(st, 0, p->about.name, sizeof p->about.name);
        glia_sql_text(st, 1, p->about.sha256, sizeof p->about.sha256);
        p->about.bytes = (uint64_t)sqlite3_column_int64(st, 2);
        p->about.rows = (uint64_t)sqlite3_column_int64(st, 3);
        p->first_row = row, row += p->about.rows;
    }
    (void)sqlite3_finalize(st);
    return GLIA_OK;
}

static bool take_ints(sqlite3_stmt *st, int col, void **owned, const int32_t **out, size_t *n) {
    size_t bytes = (size_t)sqlite3_column_bytes(st, col);
    if (sqlite3_column_type(st, col) == SQLITE_NULL) return true;
    int32_t *v = *owned = glia_malloc(bytes);
    if (!v) return false;
    if (bytes) memcpy(v, sqlite3_column_blob(st, col), bytes);
    *out = v, *n = bytes / sizeof *v;
    return true;
}

static bool word(sqlite3_stmt *st, int col, const char *(*name)(int), int n, int *out) {
    const char *text = (const char *)sqlite3_column_text(st, col);
    for (int i = 0; text && i < n; i++) {
        if (!strcmp(text, name(i))) return *out = i, true;
    }
    return false;
}
static const char *grade_name(int i) { return glia_grade_name((glia_grade)i); }
static const char *dtype_name(int i) { return glia_st_dtype_name((glia_st_dtype)i); }

/* False: memory, or (*wrong) something that this version does not know. */
static bool take_tensor(sqlite3_stmt *st, glia_run_tensor *t, void **owned, const char **wrong) {
    int grade, dtype;
    glia_reduce_op reduce;
    const char *name = (const char *)sqlite3_column_text(st, 0), *point = (const char *)sqlite3_column_text(st, 1);
    const char *op = (const char *)sqlite3_column_text(st, 4);
    if (!name || !(owned[0] = glia_strdup(name))) return false;
    t->name = owned[0];
    if (!point || !glia_point_from_name(point, &t->point)) return *wrong = "a point", false;
    if (!word(st, 3, grade_name, GLIA_GRADE_PROVEN + 1, &grade)) return *wrong = "a grade", false;
    if (!op || !glia_reduce_from_name(op, &reduce)) return *wrong = "a reduction", false;
    if (!word(st, 5, dtype_name, GLIA_ST_N_DTYPES, &dtype)) return *wrong = "a dtype", false;
    t->layer = sqlite3_column_int(st, 2);
    t->grade = (glia_grade)grade, t->reduce = reduce, t->dtype = (glia_st_dtype)dtype;
    t->rows = (uint64_t)sqlite3_column_int64(st, 6);
    t->width = sqlite3_column_int(st, 7), t->n_heads = sqlite3_column_int(st, 8);
    t->head_dim = sqlite3_column_int(st, 9), t->n_cols = sqlite3_column_int(st, 10);
    t->choice = sqlite3_column_int(st, 11), t->phase = (uint32_t)sqlite3_column_int(st, 12);
    if (t->width < 1 || t->width > MAX_WIDTH || t->n_heads < 0 || t->n_cols < 0) return *wrong = "a width", false;
    if (t->n_cols && (int64_t)t->n_heads * t->n_cols != t->width) return *wrong = "a shape", false;
    size_t n_ids = 0;
    return take_ints(st, 13, &owned[1], &t->positions, &t->n_positions) &&
           take_ints(st, 14, &owned[2], &t->token_ids, &n_ids) &&
           (n_ids == t->n_positions || (*wrong = "labels", false));
}

static glia_status load_tensors(glia_run *r, glia_runs *s, glia_err *err) {
    size_t n = 0;
    sqlite3_stmt *st;
    const char *wrong = NULL;
    glia_status status = count(s, "SELECT COUNT(*) FROM tensors WHERE run = ?1", r->about.id, &n, err);
    if (status) return status;
    r->tensors = glia_calloc(n, sizeof *r->tensors), r->owned = glia_calloc(n, 3 * sizeof *r->owned);
    r->names = glia_calloc(n, sizeof *r->names);
    if (!r->tensors || !r->owned || !r->names) return glia_fail(err, GLIA_ENOMEM, "out of memory for a run");
    status =
        glia_sql_prepare(s,
                         "SELECT name, point, layer, grade, reduce, dtype, rows, width, n_heads, head_dim, n_cols, "
                         "choice, phase, positions, token_ids FROM tensors WHERE run = ?1 ORDER BY seq",
                         &st, err);
    if (status) return status;
    (void)sqlite3_bind_text(st, 1, r->about.id, -1, SQLITE_STATIC);
    while (!status && r->n_tensors < n && sqlite3_step(st) == SQLITE_ROW) {
        size_t i = r->n_tensors++;
        if (!take_tensor(st, &r->tensors[i], &r->owned[3 * i], &wrong)) {
            status = wrong
                         ? glia_fail(err, GLIA_EIO, "run %s holds %s that this Glia does not know", r->about.id, wrong)
                         : glia_fail(err, GLIA_ENOMEM, "out of memory for a run");
        }
    }
    (void)sqlite3_finalize(st);
    for (size_t i = 0; !status && i < r->n_tensors; i++) r->names[i] = (named){r->tensors[i].name, i};
    if (!status) qsort(r->names, r->n_tensors, sizeof *r->names, by_name);
    return status;
}

glia_status glia_run_open(glia_run **out, glia_runs *s, const char *id, glia_err *err) {
    *out = NULL;
    glia_run *r = glia_calloc(1, sizeof *r);
    if (!r) return glia_fail(err, GLIA_ENOMEM, "out of memory for a run");
    (void)pthread_mutex_lock(&s->mu);
    glia_status st = sqlite3_exec(s->db, "BEGIN", NULL, NULL, NULL) ? glia_sql_fail(s, 0, err) : GLIA_OK;
    if (!st) st = glia_runs_find_locked(s, id, &r->about, err);
    if (!st && r->about.state == GLIA_RUN_DELETING)
        st = glia_fail_at(err, GLIA_ENOTFOUND, "id", "run \"%s\" is gone", id);
    if (!st) st = load_files(r, s, err);
    if (!st) st = load_tensors(r, s, err);
    (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL); /* it only read */
    (void)pthread_mutex_unlock(&s->mu);
    if (!st) *out = r, r = NULL;
    glia_run_close(r);
    return st;
}

void glia_run_close(glia_run *r) {
    if (!r) return;
    for (size_t i = 0; i < r->n_parts; i++) {
        glia_st_close(r->parts[i].head);
        glia_checked_close(r->parts[i].file);
    }
    for (size_t i = 0; r->owned && i < 3 * r->n_tensors; i++) glia_free(r->owned[i]);
    glia_free(r->parts);
    glia_free(r->tensors);
    glia_free(r->owned);
    glia_free(r->names);
    glia_free(r);
}

const glia_run_about *glia_run_get_about(const glia_run *r) { return &r->about; }
size_t glia_run_n_tensors(const glia_run *r) { return r->n_tensors; }
const glia_run_tensor *glia_run_tensor_at(const glia_run *r, size_t i) {
    return i < r->n_tensors ? &r->tensors[i] : NULL;
}
size_t glia_run_n_files(const glia_run *r) { return r->n_parts; }
const glia_run_file *glia_run_file_at(const glia_run *r, size_t i) {
    return i < r->n_parts ? &r->parts[i].about : NULL;
}
bool glia_run_file_path(const glia_run *r, size_t i, char *out, size_t cap) {
    int n = i < r->n_parts ? snprintf(out, cap, "%s/%s", r->about.folder, r->parts[i].about.name) : -1;
    return n > 0 && (size_t)n < cap;
}

const glia_run_tensor *glia_run_find(const glia_run *r, const char *name) {
    named key = {.name = name}, *hit = NULL;
    if (r->n_tensors) hit = bsearch(&key, r->names, r->n_tensors, sizeof key, by_name);
    return hit ? &r->tensors[hit->i] : NULL;
}

const glia_run_tensor *glia_run_find_point(const glia_run *r, glia_point p, int32_t layer) {
    for (size_t i = 0; i < r->n_tensors; i++) {
        const glia_run_tensor *t = &r->tensors[i];
        if (t->point == p && t->reduce == GLIA_REDUCE_NONE && (t->layer == layer || !glia_point_has_layer(p))) return t;
    }
    return NULL;
}

/* ------------------------------------------------------------------ files */

static glia_status read_file(void *ud, uint64_t at, void *p, size_t n, glia_err *err) {
    return glia_checked_read(ud, at, p, n, err);
}

static glia_status touch(const glia_run *r, part *p, glia_err *err) {
    char path[1200];
    glia_err why;
    if (p->head) return GLIA_OK;
    if (!glia_run_file_path(r, (size_t)(p - r->parts), path, sizeof path))
        return glia_fail(err, GLIA_EIO, "the path of %s is too long", p->about.name);
    glia_status st = p->file ? GLIA_OK : glia_checked_open(&p->file, path, p->about.sha256, err);
    if (st) return st;
    if (glia_checked_bytes(p->file) != p->about.bytes)
        return glia_fail(err, GLIA_EIO, "%s has %llu bytes, the catalogue says %llu: restore it, or delete the run",
                         path, (unsigned long long)glia_checked_bytes(p->file), (unsigned long long)p->about.bytes);
    st = glia_st_read_head(&p->head, read_file, p->file, p->about.bytes, &why);
    if (!st) return GLIA_OK;
    return st == GLIA_EINVAL ? glia_fail(err, GLIA_EIO, "%s: %.300s", path, why.message)
                             : (err ? (*err = why, st) : st);
}

/* Where a tensor begins in its file; checked against what the catalogue says of it. */
static glia_status place(const glia_run *r, part *p, const char *name, glia_st_dtype dtype, uint64_t numbers,
                         uint64_t *out, glia_err *err) {
    glia_status st = touch(r, p, err);
    if (st) return st;
    const glia_st_tensor *t = glia_st_find(p->head, name);
    if (!t || t->dtype != dtype || (t->end - t->begin) / glia_st_dtype_bytes(dtype) != numbers)
        return glia_fail(err, GLIA_EIO, "%s/%s does not hold %.80s as the catalogue says", r->about.folder,
                         p->about.name, name);
    *out = glia_st_file_offset(p->head, t);
    return GLIA_OK;
}

/* ------------------------------------------------------------------ rows */

static uint64_t part_rows(const glia_run *r, const part *p, const glia_run_tensor *t) {
    return r->about.kind == GLIA_RUN_HARVEST ? p->about.rows : t->rows;
}

/* The part that holds a row of a harvest. */
static part *part_of(const glia_run *r, uint64_t row) {
    size_t lo = 0, hi = r->n_parts;
    if (r->about.kind != GLIA_RUN_HARVEST) return r->parts;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (r->parts[mid].first_row <= row) lo = mid;
        else hi = mid;
    }
    return &r->parts[lo];
}

static glia_status check_range(const glia_run *r, const glia_run_tensor *t, uint64_t row, uint64_t n, glia_err *err) {
    if (row <= t->rows && n <= t->rows - row && (r->n_parts || !n)) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, "rows", "rows %llu to %llu: %s has %llu rows", (unsigned long long)row,
                        (unsigned long long)(row + n), t->name, (unsigned long long)t->rows);
}

/* Rows [row, row + n) of one part, counted from its beginning. */
static glia_status read_part(const glia_run *r, part *p, const glia_run_tensor *t, uint64_t row, uint64_t n,
                             uint8_t *out, glia_err *err) {
    uint64_t rows = part_rows(r, p, t), at, size = glia_st_dtype_bytes(t->dtype), width = (uint64_t)t->width * size;
    glia_status st = place(r, p, t->name, t->dtype, rows * (uint64_t)t->width, &at, err);
    if (st) return st;
    if (!t->n_cols) return glia_checked_read(p->file, at + row * width, out, (size_t)(n * width), err);
    /* [heads, rows, columns] in the file, [rows, heads, columns] for the caller */
    uint64_t columns = (uint64_t)t->n_cols * size;
    uint8_t *piece = glia_malloc((size_t)(n * columns));
    if (!piece) return glia_fail(err, GLIA_ENOMEM, "out of memory for %llu rows of attention", (unsigned long long)n);
    for (int32_t h = 0; h < t->n_heads && !st; h++) {
        st = glia_checked_read(p->file, at + ((uint64_t)h * rows + row) * columns, piece, (size_t)(n * columns), err);
        for (uint64_t i = 0; i < n && !st; i++)
            memcpy(out + i * width + (uint64_t)h * columns, piece + i * columns, (size_t)columns);
    }
    glia_free(piece);
    return st;
}

glia_status glia_run_read_raw(glia_run *r, const glia_run_tensor *t, uint64_t row, uint64_t n, void *out,
                              glia_err *err) {
    uint8_t *to = out;
    glia_status st = check_range(r, t, row, n, err);
    while (n && !st) {
        part *p = part_of(r, row);
        uint64_t first = r->about.kind == GLIA_RUN_HARVEST ? p->first_row : 0, left = first + part_rows(r, p, t) - row;
        uint64_t k = n < left ? n : left;
        st = read_part(r, p, t, row - first, k, to, err);
        row += k, n -= k, to += k * (uint64_t)t->width * glia_st_dtype_bytes(t->dtype);
    }
    return st;
}

static void unpack(float *out, const uint8_t *p, size_t n, glia_st_dtype d) {
    if (d == GLIA_ST_I32) {
        for (size_t i = 0; i < n; i++, p += 4)
            out[i] =
                (float)(int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        return;
    }
    glia_unpack_le(out, p, n, d == GLIA_ST_F16 ? GLIA_F16 : d == GLIA_ST_BF16 ? GLIA_BF16 : GLIA_F32);
}

/* In pieces, so that half-precision rows need no second buffer of the whole size. */
glia_status glia_run_read(glia_run *r, const glia_run_tensor *t, uint64_t row, uint64_t n, float *out, glia_err *err) {
    enum { PIECE = 4 << 20 };
    size_t width = (size_t)t->width, row_bytes = width * glia_st_dtype_bytes(t->dtype);
    glia_status st = check_range(r, t, row, n, err);
    if (st || !n) return st;
    if (t->dtype != GLIA_ST_F32 && t->dtype != GLIA_ST_F16 && t->dtype != GLIA_ST_BF16 && t->dtype != GLIA_ST_I32)
        return glia_fail(err, GLIA_EINVAL, "%s holds %s, no activations", t->name, glia_st_dtype_name(t->dtype));
    uint64_t most = PIECE / row_bytes ? PIECE / row_bytes : 1;
    if (most > n) most = n;
    uint8_t *piece = glia_malloc((size_t)most * row_bytes);
    if (!piece) return glia_fail(err, GLIA_ENOMEM, "out of memory for rows");
    while (n && !st) {
        uint64_t k = n < most ? n : most;
        if ((st = glia_run_read_raw(r, t, row, k, piece, err))) break;
        unpack(out, piece, (size_t)k * width, t->dtype);
        row += k, n -= k, out += (size_t)k * width;
    }
    glia_free(piece);
    return st;
}

/* ------------------------------------------------------------------ labels */

static int64_t int_le(const uint8_t *p, int n) {
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--) v = v << 8 | p[i];
    return n == 8 ? (int64_t)v : (int64_t)(int32_t)(uint32_t)v;
}

/* n values of a label column of one part, through set. */
static glia_status read_column(const glia_run *r, part *p, const char *name, glia_st_dtype d, uint64_t row, uint64_t n,
                               void (*set)(glia_run_label *l, int64_t v), glia_run_label *out, glia_err *err) {
    uint8_t piece[4096];
    uint64_t at, size = glia_st_dtype_bytes(d);
    glia_status st = place(r, p, name, d, p->about.rows, &at, err);
    while (n && !st) {
        uint64_t k = n < sizeof piece / size ? n : sizeof piece / size;
        st = glia_checked_read(p->file, at + row * size, piece, (size_t)(k * size), err);
        for (uint64_t i = 0; i < k && !st; i++) set(out++, int_le(piece + i * size, (int)size));
        row += k, n -= k;
    }
    return st;
}

static void set_document(glia_run_label *l, int64_t v) { l->document = v; }
static void set_offset(glia_run_label *l, int64_t v) { l->offset = (int32_t)v; }
static void set_position(glia_run_label *l, int64_t v) { l->position = (int32_t)v; }
static void set_token(glia_run_label *l, int64_t v) { l->token_id = (int32_t)v; }

glia_status glia_run_labels(glia_run *r, const glia_run_tensor *t, uint64_t row, uint64_t n, glia_run_label *out,
                            glia_err *err) {
    glia_status st = check_range(r, t, row, n, err);
    if (st) return st;
    if (r->about.kind == GLIA_RUN_REQUEST) {
        if (t->n_positions != t->rows)
            return glia_fail(err, GLIA_EINVAL,
                             "the rows of %s are reductions over many: they have no label of their own", t->name);
        for (uint64_t i = 0; i < n; i++)
            out[i] = (glia_run_label){-1, t->positions[row + i], t->positions[row + i], t->token_ids[row + i]};
        return GLIA_OK;
    }
    while (n && !st) {
        part *p = part_of(r, row);
        uint64_t from = row - p->first_row, left = p->about.rows - from, k = n < left ? n : left;
        st = read_column(r, p, "document", GLIA_ST_I64, from, k, set_document, out, err);
        if (!st) st = read_column(r, p, "offset", GLIA_ST_I32, from, k, set_offset, out, err);
        if (!st) st = read_column(r, p, "position", GLIA_ST_I32, from, k, set_position, out, err);
        if (!st) st = read_column(r, p, "token_id", GLIA_ST_I32, from, k, set_token, out, err);
        row += k, n -= k, out += k;
    }
    return st;
}

/* The first row whose document is ≥ document. */
static glia_status lower_bound(glia_run *r, int64_t document, uint64_t rows, uint64_t *out, glia_err *err) {
    uint64_t lo = 0, hi = rows;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        glia_run_label l = {0};
        part *p = part_of(r, mid);
        glia_status st = read_column(r, p, "document", GLIA_ST_I64, mid - p->first_row, 1, set_document, &l, err);
        if (st) return st;
        if (l.document < document) lo = mid + 1;
        else hi = mid;
    }
    *out = lo;
    return GLIA_OK;
}

glia_status glia_run_find_document(glia_run *r, int64_t document, uint64_t *row, uint64_t *n, glia_err *err) {
    uint64_t rows = 0, end = 0;
    *row = *n = 0;
    if (r->about.kind != GLIA_RUN_HARVEST)
        return glia_fail_at(err, GLIA_EINVAL, "document", "run %s is of a request: it has no documents", r->about.id);
    for (size_t i = 0; i < r->n_parts; i++) rows += r->parts[i].about.rows;
    glia_status st = lower_bound(r, document, rows, row, err);
    if (!st) st = lower_bound(r, document == INT64_MAX ? document : document + 1, rows, &end, err);
    if (!st) *n = end - *row;
    return st;
}

glia_status glia_run_verify_file(glia_run *r, size_t i, glia_err *err) {
    glia_status st = touch(r, &r->parts[i], err);
    return st ? st : glia_checked_verify(r->parts[i].file, err);
}

glia_status glia_run_verify(glia_run *r, glia_err *err) {
    glia_status st = GLIA_OK;
    for (size_t i = 0; i < r->n_parts && !st; i++) st = glia_run_verify_file(r, i, err);
    return st;
}

/* harvest/run.c — the pipeline: pieces in, requests to the model, rows into shards, shards to disk.
 *
 *   lines ─piece─► requests in flight (in order) ─frames─► current shard ─seal─► writer thread ─► shard, statistics,
 *                                                                                                 manifest
 * The requests are answered in the order of the data: their queues hold what comes early, and a full queue pauses its
 * slot in the engine.  At most two shards are in memory: one being filled, one being written. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "harvest/harvest.h"
#include "harvest/lines.h"
#include "harvest/manifest.h"
#include "harvest/points.h"
#include "harvest/projection.h"
#include "harvest/record.h"
#include "harvest/shard.h"
#include "harvest/top.h"
#include "store/filehash.h"
#include "store/newfile.h"
#include "store/safetensors.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_SHARD = 128 << 20, PATIENCE_MS = 100 };
/* Seconds of one processor that a model of 16 threads loses to a byte of a row (bench/HARVEST.md): most of them its SHA-256. */
static const double work_per_byte = 1.5e-9, work_without_files = 0.3e-9;
static const int64_t last_position = -1;

typedef struct flight { /* one request under way */
    glia_piece piece;
    glia_request *rq;
} flight;

typedef struct sealing { /* what the writer thread works on */
    glia_shard rows;
    glia_moments *moments; /* [n]: of all rows up to the end of this shard */
    glia_top *top;         /* [n] the same; NULL: not asked for */
    glia_manifest *manifest;
    const char *folder;
    glia_run_writer *writer;
    size_t n;
    bool started, statistics_only;
    pthread_t thread;
    glia_status status;
    glia_err err;
} sealing;

typedef struct run {
    const glia_harvest_params *p;
    glia_model_info info;
    int lock;
    glia_hook *hooks;
    glia_column *columns;
    size_t n, row_bytes; /* hooks = columns = tensors */
    glia_lines *lines;
    glia_manifest m;  /* the writer thread's while one is sealing: totals of what is sealed */
    glia_shard shard; /* being filled */
    glia_shard spare; /* memory of one that was sealed, for the next */
    glia_moments *moments;
    glia_top *top;      /* [n]; NULL: not asked for */
    int32_t *widths;    /* [n] of rows before a projection */
    float **directions; /* [n] of the projection; NULL: none */
    double *scratch;
    sealing sealing;
    flight *flights; /* ring */
    size_t n_flights, first, in_flight;
    glia_piece next; /* read, not submitted yet; n == 0: none */
    bool data_ended;
    bool ready;  /* what the folder holds is known: a manifest may be written */
    bool broken; /* a shard could not be written: nothing behind it may be sealed */
    /* of what is committed, sealed or not */
    int64_t document;
    int32_t offset;
    char read[GLIA_SHA256_HEX];
    uint64_t documents, tokens, rows, bytes_open; /* bytes_open: rows that are not sealed */
    uint64_t tokens_at_start, bytes_at_start, sealed_bytes, sealed_shards;
    double started, last_shown;
    double busy, paced; /* processors that this harvest keeps busy; when that was measured last, 0: not yet */
    uint64_t paced_rows;
    bool stopped;
} run;

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static glia_status path_in(char *out, size_t cap, const char *folder, const char *file, glia_err *err) {
    int n = snprintf(out, cap, "%s/%s", folder, file);
    if (n > 0 && (size_t)n < cap) return GLIA_OK;
    return glia_fail(err, GLIA_EINVAL, "the path of the folder %.60s… is too long", folder);
}

/* ------------------------------------------------------------------ progress */

static void look(const run *r, glia_harvest_progress *g, const char *doing) {
    *g = (glia_harvest_progress){.documents = r->documents, .tokens = r->tokens, .rows = r->rows, .doing = doing};
    g->bytes = r->sealed_bytes + r->bytes_open;
    g->shards = r->sealed_shards;
    g->tokens_now = r->tokens - r->tokens_at_start;
    g->bytes_now = g->bytes - r->bytes_at_start;
    g->seconds = now() - r->started;
    g->fraction = r->lines ? glia_lines_fraction(r->lines) : 0;
}

/* Tells the caller a few times a second; remembers when it asks to stop. */
static bool go_on(run *r, const char *doing, bool always) {
    glia_harvest_progress g;
    double t = now();
    if (r->stopped) return false;
    if (!r->p->on_progress || (!always && t - r->last_shown < 0.25)) return true;
    r->last_shown = t;
    look(r, &g, doing);
    if (!r->p->on_progress(&g, r->p->ud)) r->stopped = true;
    return !r->stopped;
}

static bool stop_hashing(void *ud) { return !go_on(ud, "checking the model", false); }

/* ------------------------------------------------------------------ beginning */

static glia_status take_folder(run *r, glia_err *err) {
    char path[4096];
    glia_status st = path_in(path, sizeof path, r->p->out, ".lock", err);
    if (st) return st;
    if (mkdir(r->p->out, 0777) && errno != EEXIST) {
        return glia_fail(err, GLIA_EIO, "cannot make the folder %s: %s", r->p->out, strerror(errno));
    }
    r->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (r->lock < 0) return glia_fail(err, GLIA_EIO, "cannot write into %s: %s", r->p->out, strerror(errno));
    if (flock(r->lock, LOCK_EX | LOCK_NB)) {
        return glia_fail(err, GLIA_EBUSY, "another harvest writes into %s: wait for it, or name another folder",
                         r->p->out);
    }
    return GLIA_OK;
}

static glia_status name_columns(run *r, glia_err *err) {
    r->columns = glia_calloc(r->n, sizeof *r->columns);
    r->widths = glia_calloc(r->n, sizeof *r->widths);
    r->m.tensors = glia_calloc(r->n, sizeof *r->m.tensors);
    if (!r->columns || !r->widths || !r->m.tensors) return glia_fail(err, GLIA_ENOMEM, "out of memory for points");
    r->m.n_tensors = r->n;
    for (size_t i = 0; i < r->n; i++) {
        glia_hook *h = &r->hooks[i];
        glia_point_info pi;
        glia_tensor_info *t = &r->m.tensors[i];
        bool layered = glia_point_has_layer(h->point);
        if (r->p->last_only) h->positions = &last_position, h->n_positions = 1;
        (void)glia_model_point(r->p->model, h->point, h->layer, &pi);
        if (layered) (void)snprintf(t->name, sizeof t->name, "%s.%d", glia_point_name(h->point), (int)h->layer);
        else (void)snprintf(t->name, sizeof t->name, "%s", glia_point_name(h->point));
        t->point = h->point, t->layer = layered ? h->layer : -1, t->width = pi.width, t->grade = pi.grade;
        t->n_heads = pi.n_heads > 0 && pi.head_dim > 0 ? pi.n_heads : 0;
        if (r->p->projection) t->width = r->p->projection, t->n_heads = 0;
        r->columns[i].width = t->width;
        r->widths[i] = pi.width;
        memcpy(r->columns[i].name, t->name, sizeof t->name);
    }
    r->row_bytes = glia_shard_row_bytes(r->columns, r->n, r->p->dtype);
    return GLIA_OK;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static glia_status describe(run *r, glia_err *err) {
    glia_manifest *m = &r->m;
    time_t t = time(NULL);
    struct tm utc;
    (void)strftime(m->created, sizeof m->created, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &utc));
    (void)snprintf(m->model.id, sizeof m->model.id, "%s", r->info.id);
    (void)snprintf(m->model.file, sizeof m->model.file, "%s", base_name(r->info.path));
    (void)snprintf(m->model.arch, sizeof m->model.arch, "%s", r->info.arch);
    m->model.n_layer = r->info.n_layer, m->model.n_embd = r->info.n_embd, m->model.n_ctx = r->info.n_ctx;
    m->window = r->p->window ? r->p->window : r->info.n_ctx;
    m->top = r->p->top, m->projection.n = r->p->projection;
    m->projection.seed = r->p->projection ? r->p->projection_seed : 0;
    m->last_only = r->p->last_only, m->statistics_only = r->p->statistics_only, m->dtype = r->p->dtype;
    if (m->window > r->info.n_ctx) {
        return glia_fail(err, GLIA_EINVAL, "a window of %d tokens does not fit the context of %d: give --ctx %d",
                         (int)m->window, (int)r->info.n_ctx, (int)m->window);
    }
    return glia_filehash(r->info.path, m->model.sha256, stop_hashing, r, err);
}

/* What the folder was begun with must be what is asked now. */
static glia_status same_harvest(const glia_manifest *old, const glia_manifest *new, const char *out, glia_err *err) {
    const char *what = strcmp(old->model.sha256, new->model.sha256) != 0 ? "another model file"
                       : old->window != new->window                      ? "another window"
                       : old->dtype != new->dtype                        ? "another dtype"
                       : old->last_only != new->last_only                ? "other positions"
                       : old->statistics_only != new->statistics_only    ? "other settings (statistics only)"
                       : old->top != new->top                            ? "another number of largest values (top)"
                       : old->projection.n != new->projection.n || old->projection.seed != new->projection.seed
                           ? "another projection"
                       : old->n_tensors != new->n_tensors ? "other points"
                                                          : NULL;
    for (size_t i = 0; !what && i < new->n_tensors; i++) {
        if (strcmp(old->tensors[i].name, new->tensors[i].name) != 0 || old->tensors[i].width != new->tensors[i].width) {
            what = "other points";
        }
    }
    if (!what) return GLIA_OK;
    return glia_fail(err, GLIA_EINVAL, "%s was begun with %s: repeat its settings, or name another folder", out, what);
}

static bool is_listed(const glia_manifest *m, const char *name) {
    if (!strcmp(name, m->statistics.file) || !strcmp(name, m->directions.file)) return true;
    for (size_t i = 0; i < m->n_shards; i++) {
        size_t n = strlen(m->shards[i].file);
        if (!strncmp(name, m->shards[i].file, n) && (!name[n] || !strcmp(name + n, ".sums"))) return true;
    }
    return false;
}

/* Files that a harvest which was killed left behind: whole, but in no manifest. */
static void remove_strays(const run *r) {
    DIR *d = opendir(r->p->out);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *s = e->d_name[0] == '.' ? e->d_name + 1 : e->d_name;
        bool ours = !strncmp(s, "shard-", 6) || !strncmp(s, "directions.", 11) || !strncmp(s, "statistics-", 11) ||
                    !strcmp(e->d_name, ".manifest.json.part");
        char path[4096];
        if (!ours || is_listed(&r->m, e->d_name)) continue;
        if (!path_in(path, sizeof path, r->p->out, e->d_name, NULL)) (void)unlink(path);
    }
    if (d) (void)closedir(d);
}

static glia_status check_sealed(const run *r, const glia_sealed *f, glia_err *err) {
    char path[4096];
    struct stat s;
    glia_status st = path_in(path, sizeof path, r->p->out, f->file, err);
    if (st) return st;
    if (!stat(path, &s) && (uint64_t)s.st_size == f->bytes) return GLIA_OK;
    return glia_fail(err, GLIA_EIO,
                     "%s is missing or has another size than the manifest says: restore it, or begin anew", path);
}

static const struct {
    const char *name;
    glia_st_dtype dtype;
} top_columns[] = {{"top_values", GLIA_ST_F32},
                   {"top_documents", GLIA_ST_I64},
                   {"top_offsets", GLIA_ST_I32},
                   {"top_token_ids", GLIA_ST_I32}};
enum { N_TOP = 4 };
static void *top_column(const glia_top *t, int k) {
    void *const columns[N_TOP] = {t->value, t->document, t->offset, t->token_id};
    return columns[k];
}

/* Statistics files are read where they were written: their bytes are in the order of this machine's, as llama.cpp's are. */
static glia_status load_top(run *r, const glia_st *file, size_t i, glia_err *err) {
    glia_top *top = &r->top[i];
    char name[96];
    for (int k = 0; k < N_TOP; k++) {
        size_t bytes = (size_t)top->width * (size_t)top->k * glia_st_dtype_bytes(top_columns[k].dtype);
        (void)snprintf(name, sizeof name, "%s.%s", r->columns[i].name, top_columns[k].name);
        const glia_st_tensor *t = glia_st_find(file, name);
        if (!t || t->dtype != top_columns[k].dtype || t->end - t->begin != bytes)
            return glia_fail(err, GLIA_EIO, "%s does not hold %s", r->m.statistics.file, name);
        memcpy(top_column(top, k), glia_st_data(file, t), bytes);
    }
    glia_top_unsort(top);
    return GLIA_OK;
}

/* Means, deviations and largest values as they were at the last seal. */
static glia_status load_moments(run *r, glia_err *err) {
    char path[4096], name[80];
    glia_st *file;
    glia_status st = path_in(path, sizeof path, r->p->out, r->m.statistics.file, err);
    if (!st) st = glia_st_open(&file, path, err);
    if (st) return st;
    for (size_t i = 0; i < r->n && !st; i++) {
        glia_moments *mo = &r->moments[i];
        double *to[] = {mo->mean, mo->m2};
        for (int k = 0; k < 2 && !st; k++) {
            (void)snprintf(name, sizeof name, "%s.%s", r->columns[i].name, k ? "m2" : "mean");
            const glia_st_tensor *t = glia_st_find(file, name);
            if (!t || t->dtype != GLIA_ST_F64 || t->end - t->begin != (uint64_t)mo->width * sizeof(double)) {
                st = glia_fail(err, GLIA_EIO, "%s does not hold %s", path, name);
            } else {
                memcpy(to[k], glia_st_data(file, t), (size_t)mo->width * sizeof(double));
            }
        }
        mo->count = r->m.tensors[i].count, mo->norm_sum = r->m.tensors[i].norm_sum;
        mo->norm_max = r->m.tensors[i].norm_max;
        if (!st && r->top) st = load_top(r, file, i, err);
    }
    glia_st_close(file);
    return st;
}

/* Take up what an earlier run of the same harvest sealed. */
static glia_status take_up(run *r, glia_err *err) {
    char path[4096];
    glia_manifest old;
    glia_status st = path_in(path, sizeof path, r->p->out, "manifest.json", err);
    if (!st) st = glia_manifest_read(&old, path, err);
    if (st == GLIA_ENOTFOUND) {
        remove_strays(r);
        return GLIA_OK;
    }
    if (st) return st;
    if ((st = same_harvest(&old, &r->m, r->p->out, err))) {
        glia_manifest_clear(&old);
        return st;
    }
    (void)go_on(r, "reading what is done", true);
    glia_manifest_clear(&r->m);
    r->m = old;
    remove_strays(r);
    for (size_t i = 0; i < r->m.n_shards && !st; i++) st = check_sealed(r, &r->m.shards[i], err);
    if (!st && r->m.statistics.file[0]) st = load_moments(r, err);
    if (!st) st = glia_lines_seek(r->lines, r->m.document, r->m.offset, r->m.read, err);
    r->document = r->m.document, r->offset = r->m.offset;
    memcpy(r->read, r->m.read, sizeof r->read);
    r->documents = r->m.documents, r->tokens = r->tokens_at_start = r->m.tokens, r->rows = r->m.rows;
    r->sealed_bytes = r->bytes_at_start = r->m.bytes, r->sealed_shards = r->m.n_shards;
    return st;
}

/* The engine is to give rows times directions. */
static glia_status project(run *r, glia_err *err) {
    glia_status st = glia_projection_get(&r->m, r->p->out, r->widths, r->directions, err);
    for (size_t i = 0; i < r->n && !st; i++) {
        r->hooks[i].reduce = (glia_reduce){.op = GLIA_REDUCE_PROJECT,
                                           .directions = r->directions[i],
                                           .n_directions = (size_t)r->p->projection,
                                           .n_channels = (size_t)r->widths[i]};
    }
    return st;
}

static glia_status begin(run *r, glia_err *err) {
    glia_status st;
    if ((st = glia_points_parse(r->p->points, r->p->model, &r->hooks, &r->n, err))) return st;
    if ((st = name_columns(r, err))) return st;
    if ((st = take_folder(r, err))) return st;
    if ((st = describe(r, err))) return st;
    if ((st = glia_lines_open(&r->lines, r->p->data, r->p->model, r->m.window, err))) return st;
    r->moments = glia_calloc(r->n, sizeof *r->moments);
    r->sealing.moments = glia_calloc(r->n, sizeof *r->sealing.moments);
    if (r->p->top) {
        r->top = glia_calloc(r->n, sizeof *r->top);
        r->sealing.top = glia_calloc(r->n, sizeof *r->sealing.top);
    }
    if (r->p->projection) r->directions = glia_calloc(r->n, sizeof *r->directions);
    int32_t widest = 0;
    for (size_t i = 0; i < r->n; i++) widest = r->columns[i].width > widest ? r->columns[i].width : widest;
    r->scratch = glia_malloc(2 * (size_t)widest * sizeof *r->scratch);
    r->n_flights = (size_t)r->info.n_parallel * 2 + 1;
    r->flights = glia_calloc(r->n_flights, sizeof *r->flights);
    bool extras = (!r->p->top || (r->top && r->sealing.top)) && (!r->p->projection || r->directions);
    if (!extras || !r->moments || !r->sealing.moments || !r->scratch || !r->flights) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory for a harvest");
    }
    for (size_t i = 0; i < r->n; i++) {
        if ((st = glia_moments_init(&r->moments[i], r->columns[i].width, err))) return st;
        if ((st = glia_moments_init(&r->sealing.moments[i], r->columns[i].width, err))) return st;
        if (!r->top) continue;
        if ((st = glia_top_init(&r->top[i], r->columns[i].width, r->p->top, err))) return st;
        if ((st = glia_top_init(&r->sealing.top[i], r->columns[i].width, r->p->top, err))) return st;
    }
    if ((st = take_up(r, err)) || !r->directions) return st;
    return project(r, err);
}

/* ------------------------------------------------------------------ sealing */

static size_t describe_statistics(const sealing *s, size_t i, char names[][96], glia_st_tensor *t) {
    static const char *const kinds[] = {"mean", "m2"};
    const char *name = s->manifest->tensors[i].name;
    size_t n = 0;
    for (; n < 2; n++) {
        (void)snprintf(names[n], sizeof names[n], "%s.%s", name, kinds[n]);
        t[n] = (glia_st_tensor){
            .name = names[n], .dtype = GLIA_ST_F64, .n_dims = 1, .shape = {(uint64_t)s->moments[i].width}};
    }
    for (int k = 0; s->top && k < N_TOP; k++, n++) {
        (void)snprintf(names[n], sizeof names[n], "%s.%s", name, top_columns[k].name);
        t[n] = (glia_st_tensor){.name = names[n],
                                .dtype = top_columns[k].dtype,
                                .n_dims = 2,
                                .shape = {(uint64_t)s->top[i].width, (uint64_t)s->top[i].k}};
    }
    return n;
}

static glia_status write_statistics(sealing *s, const char *path, glia_sealed *out, glia_err *err) {
    static const char *const meta[][2] = {{"format", "glia-statistics-1"}};
    size_t each = s->top ? 2 + N_TOP : 2, n = 0;
    glia_st_tensor *t = glia_calloc(each * s->n, sizeof *t);
    char(*names)[96] = glia_calloc(each * s->n, sizeof *names);
    glia_buf head = {0};
    glia_newfile *f = NULL;
    glia_status st = t && names ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "out of memory for statistics");
    for (size_t i = 0; i < s->n && !st; i++) n += describe_statistics(s, i, names + n, t + n);
    if (!st) st = glia_st_header(&head, t, n, meta, 1, NULL, err);
    if (!st) st = glia_newfile_open(&f, path, err);
    if (!st) st = glia_newfile_write(f, head.p, head.n, err);
    for (size_t i = 0; i < s->n && !st; i++) {
        const glia_moments *mo = &s->moments[i];
        st = glia_newfile_write(f, mo->mean, (size_t)mo->width * sizeof(double), err);
        if (!st) st = glia_newfile_write(f, mo->m2, (size_t)mo->width * sizeof(double), err);
        if (!s->top) continue;
        size_t entries = (size_t)s->top[i].width * (size_t)s->top[i].k;
        glia_top_sort(&s->top[i]);
        for (int k = 0; k < N_TOP && !st; k++)
            st = glia_newfile_write(f, top_column(&s->top[i], k), entries * glia_st_dtype_bytes(top_columns[k].dtype),
                                    err);
    }
    if (!st) out->bytes = glia_newfile_bytes(f);
    if (!st) st = glia_newfile_commit(f, out->sha256, err);
    glia_newfile_free(f);
    glia_buf_clear(&head);
    glia_free(t);
    glia_free(names);
    return st;
}

/* Order: shard, statistics, manifest, each on stable storage before the next; then the old statistics go, and the
 * catalogue learns of it.  When that fails the files are whole all the same. */
static glia_status seal(sealing *s, glia_err *err) {
    glia_manifest *m = s->manifest;
    glia_sealed shard = {.rows = s->rows.rows}, old = m->statistics, statistics = {0};
    char path[4096];
    glia_status st = GLIA_OK;
    if (s->rows.rows && !s->statistics_only) {
        (void)snprintf(shard.file, sizeof shard.file, "shard-%05zu.safetensors", m->n_shards + 1);
        if ((st = path_in(path, sizeof path, s->folder, shard.file, err))) return st;
        if ((st = glia_shard_seal(&s->rows, path, shard.sha256, &shard.bytes, err))) return st;
        if ((st = glia_manifest_add_shard(m, &shard, err))) return st;
        m->bytes += shard.bytes;
    }
    /* named by the tokens that went in: never the name of the statistics that the manifest still names */
    (void)snprintf(statistics.file, sizeof statistics.file, "statistics-%llu.safetensors",
                   (unsigned long long)m->tokens);
    if (strcmp(statistics.file, old.file) != 0) {
        if ((st = path_in(path, sizeof path, s->folder, statistics.file, err))) return st;
        if ((st = write_statistics(s, path, &statistics, err))) return st;
        m->statistics = statistics;
    }
    if ((st = path_in(path, sizeof path, s->folder, "manifest.json", err))) return st;
    if ((st = glia_manifest_write(m, path, err))) return st;
    if (old.file[0] && strcmp(statistics.file, old.file) != 0 &&
        !path_in(path, sizeof path, s->folder, old.file, NULL)) {
        (void)unlink(path);
    }
    if (!s->writer) return GLIA_OK;
    return glia_harvest_record(m, m->complete ? GLIA_RUN_SEALED : GLIA_RUN_WRITING, s->writer, err);
}

static void *seal_thread(void *ud) {
    sealing *s = ud;
    s->status = seal(s, &s->err);
    return NULL;
}

/* Wait for the shard that is being written. */
static glia_status sealed(run *r, glia_err *err) {
    sealing *s = &r->sealing;
    if (!s->started) return GLIA_OK;
    (void)pthread_join(s->thread, NULL);
    s->started = false;
    glia_shard_clear(&r->spare);
    r->spare = s->rows, s->rows = (glia_shard){0};
    if (s->status) {
        r->broken = true;
        if (err) *err = s->err;
        return s->status;
    }
    r->sealed_bytes = r->m.bytes, r->sealed_shards = r->m.n_shards;
    return GLIA_OK;
}

/* Hand what is committed to the writer thread.  complete: the data has ended. */
static glia_status hand_over(run *r, bool complete, glia_err *err) {
    sealing *s = &r->sealing;
    glia_status st = sealed(r, err);
    if (st) return st;
    glia_manifest *m = &r->m;
    m->complete = complete;
    m->document = r->document, m->offset = r->offset;
    memcpy(m->read, r->read, sizeof m->read);
    m->documents = r->documents, m->tokens = r->tokens, m->rows = r->rows;
    for (size_t i = 0; i < r->n; i++) {
        glia_moments *from = &r->moments[i], *to = &s->moments[i];
        memcpy(to->mean, from->mean, (size_t)from->width * sizeof(double));
        memcpy(to->m2, from->m2, (size_t)from->width * sizeof(double));
        m->tensors[i].count = to->count = from->count;
        if (r->top) glia_top_copy(&s->top[i], &r->top[i]);
        m->tensors[i].norm_sum = from->norm_sum, m->tensors[i].norm_max = from->norm_max;
    }
    s->rows = r->shard, r->shard = (glia_shard){0};
    s->manifest = m, s->folder = r->p->out, s->n = r->n, s->statistics_only = r->p->statistics_only;
    s->writer = r->p->writer;
    r->bytes_open = 0;
    if (pthread_create(&s->thread, NULL, seal_thread, s)) {
        glia_shard_clear(&s->rows);
        return glia_fail(err, GLIA_ENOMEM, "cannot start a thread that writes shards");
    }
    s->started = true;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ one piece */

static glia_status submit(const run *r, const glia_piece *piece, glia_request **rq, glia_err *err) {
    glia_request_params q;
    glia_request_params_init(&q);
    q.prompt = piece->tokens, q.n_prompt = (size_t)piece->n;
    q.max_tokens = 0;
    q.hooks = r->hooks, q.n_hooks = r->n;
    q.no_cache = true; /* the same rows however the harvest was cut up */
    q.busy_beside = r->busy;
    return glia_request_submit(rq, r->p->model, &q, err);
}

/* As many requests as may be under way.  A model that is busy with others is waited for. */
static glia_status fill_flights(run *r, glia_err *err) {
    uint64_t ahead = 0;
    for (size_t i = 0; i < r->in_flight; i++) { ahead += (uint64_t)r->flights[(r->first + i) % r->n_flights].piece.n; }
    while (r->in_flight < r->n_flights) {
        if (r->p->max_tokens && r->tokens + ahead >= r->p->max_tokens) return GLIA_OK;
        glia_status st = GLIA_OK;
        if (!r->next.n && !r->data_ended) st = glia_lines_next(r->lines, &r->next, err);
        if (st) return st;
        if (!r->next.n) {
            r->data_ended = true;
            return GLIA_OK;
        }
        flight *f = &r->flights[(r->first + r->in_flight) % r->n_flights];
        st = submit(r, &r->next, &f->rq, err);
        if (st == GLIA_EBUSY && r->in_flight) return GLIA_OK;
        if (st == GLIA_EBUSY) {
            if (!go_on(r, "waiting for the model", false)) return GLIA_OK;
            (void)usleep(PATIENCE_MS * 1000);
            continue;
        }
        if (st) return st;
        f->piece = r->next, r->next = (glia_piece){0};
        ahead += (uint64_t)f->piece.n;
        r->in_flight++;
    }
    return GLIA_OK;
}

static size_t rows_of(const run *r, const glia_piece *p) { return r->p->last_only ? 1 : (size_t)p->n; }

/* Room for the next piece; *quota: there will never be any. */
static glia_status make_room(run *r, size_t rows, bool *quota, glia_err *err) {
    uint64_t most = r->p->shard_bytes ? r->p->shard_bytes : DEFAULT_SHARD;
    glia_status st = GLIA_OK;
    *quota = false;
    if (r->shard.columns && r->shard.rows + rows <= r->shard.capacity) return GLIA_OK;
    if (r->p->statistics_only) {
        if (r->bytes_open + rows * r->row_bytes <= most) return GLIA_OK;
        return hand_over(r, false, err);
    }
    if (r->shard.columns && r->shard.rows) st = hand_over(r, false, err);
    if (st) return st;
    glia_shard_clear(&r->shard);
    if (r->p->max_bytes) { /* what is being written counts: wait until its size is known */
        if ((st = sealed(r, err))) return st;
        uint64_t left = r->p->max_bytes > r->sealed_bytes ? r->p->max_bytes - r->sealed_bytes : 0;
        uint64_t head = 4096 + (uint64_t)r->n * 160; /* the file's header */
        left = left > head ? left - head : 0;
        if (left < rows * r->row_bytes) {
            *quota = true;
            return GLIA_OK;
        }
        if (left < most) most = left;
    }
    size_t capacity = (size_t)(most / r->row_bytes);
    if (capacity < rows) capacity = rows;
    if (r->spare.columns && r->spare.capacity == capacity) {
        r->shard = r->spare, r->spare = (glia_shard){0};
        glia_shard_empty(&r->shard);
        return GLIA_OK;
    }
    glia_shard_clear(&r->spare);
    return glia_shard_init(&r->shard, r->columns, r->n, capacity, r->p->dtype, err);
}

static void take_frames(run *r, const flight *f, const glia_event *ev) {
    for (size_t k = 0; k < ev->u.activations.n_frames; k++) {
        const glia_frame *fr = &ev->u.activations.frames[k];
        if (!r->p->statistics_only) glia_shard_add(&r->shard, fr->hook, fr->data, (size_t)fr->n_rows);
        glia_moments_add(&r->moments[fr->hook], fr->data, (size_t)fr->n_rows, r->scratch);
        if (r->top)
            glia_top_add(&r->top[fr->hook], fr->data, (size_t)fr->n_rows, f->piece.document, f->piece.offset,
                         fr->positions, fr->token_ids);
        if (fr->hook == 0 && !r->p->statistics_only) {
            glia_shard_label(&r->shard, f->piece.document, f->piece.offset, fr->positions, fr->token_ids,
                             (size_t)fr->n_rows);
        }
    }
}

/* The oldest request's activations, once it is finished; NULL in *out with OK: asked to stop before that. */
static glia_status wait_for(run *r, const flight *f, glia_event **out, glia_err *err) {
    glia_event *rows = *out = NULL;
    for (;;) {
        glia_event *ev = go_on(r, "harvesting", false) ? glia_request_next(f->rq, PATIENCE_MS) : NULL;
        if (r->stopped) break;
        if (!ev) continue;
        glia_event_kind kind = ev->kind;
        if (kind == GLIA_EVENT_ACTIVATIONS && !rows) {
            rows = ev;
            continue;
        }
        glia_status st = GLIA_OK;
        if (kind == GLIA_EVENT_ERROR) {
            st = glia_fail(err, ev->u.error.status, "document %lld: %s", (long long)f->piece.document,
                           ev->u.error.message);
        } else if (kind == GLIA_EVENT_ACTIVATIONS || (kind == GLIA_EVENT_DONE && !rows)) {
            st = glia_fail(err, GLIA_EINTERNAL, "document %lld: its rows did not come in one piece",
                           (long long)f->piece.document);
        }
        glia_event_free(ev);
        if (st) {
            glia_event_free(rows);
            return st;
        }
        if (kind == GLIA_EVENT_DONE) {
            *out = rows;
            return GLIA_OK;
        }
    }
    glia_event_free(rows);
    return GLIA_OK;
}

/* Every column gave this many rows? */
static bool is_whole(const run *r, const glia_event *ev, size_t rows) {
    bool whole = ev->u.activations.n_frames == r->n;
    for (size_t k = 0; whole && k < r->n; k++) {
        const glia_frame *f = &ev->u.activations.frames[k];
        whole = f->hook == k && f->n_rows == (int32_t)rows && f->width == r->columns[k].width;
    }
    return whole;
}

/* How much of the processors goes into rows, beside the model: twice a second, of what came since. */
static void measure(run *r) {
    double t = now(), seconds = t - r->paced;
    if (r->paced > 0 && seconds < 0.5) return;
    double bytes = (double)(r->rows - r->paced_rows) * (double)r->row_bytes;
    if (r->paced > 0) r->busy = bytes / seconds * (r->p->statistics_only ? work_without_files : work_per_byte);
    r->paced = t, r->paced_rows = r->rows;
}

/* Wait for the oldest request and take its rows.  *stop: asked to stop before it was finished. */
static glia_status land(run *r, bool *stop, glia_err *err) {
    flight *f = &r->flights[r->first];
    size_t rows = rows_of(r, &f->piece);
    glia_event *ev;
    glia_status st;
    /* others held the memory for activations too long: it was refused before it ran, so ask again */
    while ((st = wait_for(r, f, &ev, err)) == GLIA_EBUSY && !r->stopped) {
        glia_request_free(f->rq);
        f->rq = NULL;
        if ((st = submit(r, &f->piece, &f->rq, err))) break;
    }
    if (st || !ev) {
        *stop = !st;
        return st;
    }
    bool whole = is_whole(r, ev, rows);
    if (whole) take_frames(r, f, ev);
    glia_event_free(ev);
    if (!whole || (!r->p->statistics_only && !glia_shard_commit(&r->shard))) {
        r->broken = true;
        return glia_fail(err, GLIA_EUNPROVEN, "document %lld: the model did not give every row",
                         (long long)f->piece.document);
    }
    r->rows += rows, r->tokens += (uint64_t)f->piece.n, r->documents += f->piece.ends;
    r->bytes_open += rows * r->row_bytes;
    r->document = f->piece.ends ? f->piece.document + 1 : f->piece.document;
    r->offset = f->piece.ends ? 0 : f->piece.offset + f->piece.n;
    memcpy(r->read, f->piece.read, sizeof r->read);
    measure(r);
    glia_request_free(f->rq);
    glia_piece_clear(&f->piece);
    *f = (flight){0};
    r->first = (r->first + 1) % r->n_flights, r->in_flight--;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ the whole */

static glia_status pump(run *r, glia_harvest_end *end, glia_err *err) {
    glia_status st;
    bool stop = false, quota = false;
    for (;;) {
        if ((st = fill_flights(r, err))) return st;
        if (r->stopped) {
            *end = GLIA_HARVEST_STOPPED;
            return GLIA_OK;
        }
        if (!r->in_flight) {
            *end = r->data_ended ? GLIA_HARVEST_COMPLETE : GLIA_HARVEST_TOKENS;
            return GLIA_OK;
        }
        if ((st = make_room(r, rows_of(r, &r->flights[r->first].piece), &quota, err))) return st;
        if (!quota && (st = land(r, &stop, err))) return st;
        if (stop || quota) {
            *end = quota ? GLIA_HARVEST_QUOTA : GLIA_HARVEST_STOPPED;
            return GLIA_OK;
        }
    }
}

static void clear(run *r) {
    (void)sealed(r, NULL);
    for (size_t i = 0; r->flights && i < r->n_flights; i++) {
        glia_request_free(r->flights[i].rq);
        glia_piece_clear(&r->flights[i].piece);
    }
    glia_piece_clear(&r->next);
    for (size_t i = 0; r->moments && i < r->n; i++) glia_moments_clear(&r->moments[i]);
    for (size_t i = 0; r->sealing.moments && i < r->n; i++) glia_moments_clear(&r->sealing.moments[i]);
    for (size_t i = 0; r->top && i < r->n; i++) glia_top_clear(&r->top[i]);
    for (size_t i = 0; r->sealing.top && i < r->n; i++) glia_top_clear(&r->sealing.top[i]);
    for (size_t i = 0; r->directions && i < r->n; i++) glia_free(r->directions[i]);
    glia_free(r->top);
    glia_free(r->sealing.top);
    glia_free(r->directions);
    glia_free(r->widths);
    glia_free(r->flights);
    glia_free(r->moments);
    glia_free(r->sealing.moments);
    glia_free(r->scratch);
    glia_shard_clear(&r->shard);
    glia_shard_clear(&r->spare);
    glia_lines_close(r->lines);
    glia_manifest_clear(&r->m);
    glia_free(r->columns);
    glia_free(r->hooks);
    if (r->lock >= 0) (void)close(r->lock);
}

/* Seal what is committed, also after a failure of another kind: it is worth keeping. */
static glia_status finish(run *r, bool complete, glia_err *err) {
    glia_status st = sealed(r, err);
    if (st || !r->ready || r->broken) return st;
    glia_shard_drop(&r->shard);
    complete |= r->m.complete && r->rows == r->m.rows; /* stopped before it found out that there is nothing to do */
    if (r->rows == r->m.rows && complete == r->m.complete && r->m.statistics.file[0]) {
        if (!r->p->writer) return GLIA_OK;
        return glia_harvest_record(&r->m, complete ? GLIA_RUN_SEALED : GLIA_RUN_STOPPED, r->p->writer, err);
    }
    if ((st = hand_over(r, complete, err))) return st;
    return sealed(r, err);
}

glia_status glia_harvest_run(const glia_harvest_params *p, glia_harvest_progress *out, glia_harvest_end *end,
                             glia_err *err) {
    run r = {.p = p, .lock = -1, .started = now()};
    glia_err later = {0};
    glia_model_get_info(p->model, &r.info);
    *end = GLIA_HARVEST_STOPPED;
    glia_status st = begin(&r, err);
    r.ready = !st;
    if (!st) st = pump(&r, end, err);
    glia_status finished = finish(&r, !st && *end == GLIA_HARVEST_COMPLETE, &later);
    if (!st && finished) {
        st = finished;
        if (err) *err = later;
    }
    look(&r, out, st ? "failed" : "done");
    clear(&r);
    return st;
}

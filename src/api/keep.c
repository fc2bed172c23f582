/* api/keep.c — see keep.h. */
#include "api/keep.h"
#include "base/err.h"
#include "base/mem.h"
#include "store/newfile.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEEP_RUNNING, KEEP_DONE, KEEP_ABANDONED };

struct glia_keep {
    char note[256];
    bool started;
    atomic_int state;
    glia_store *store;      /* held while the thread runs */
    glia_http_waker *waker; /* the thread's */
    char run[GLIA_RUN_ID];
    glia_status status;
    glia_err err;
    char *body;
    size_t n_body;
};

glia_status glia_note_parse(yyjson_val *root, char out[256], glia_err *err) {
    const char *note = "";
    glia_status st = glia_json_str(root, "", "note", &note, err);
    if (!st && strlen(note) > 255) st = glia_fail_at(err, GLIA_EINVAL, "note", "note is one line of at most 255 bytes");
    out[0] = 0;
    if (!st) memcpy(out, note, strlen(note) + 1);
    return st;
}

glia_status glia_keep_parse(glia_job *j, yyjson_val *root, glia_err *err) {
    bool store = false;
    glia_status st = glia_json_bool(root, "", "store", &store, NULL, err);
    if (st || !store || !j->acts.n) return st;
    if (!(j->keep = glia_calloc(1, sizeof *j->keep))) return glia_fail(err, GLIA_ENOMEM, "no memory for the request");
    if ((st = glia_note_parse(root, j->keep->note, err))) return st;
    glia_runs *runs; /* better now than after the work */
    return glia_store_runs(j->app->store, &runs, err);
}

glia_status glia_keep_plan(glia_job *j, glia_err *err) {
    if (!j->keep) return GLIA_OK;
    if (j->wire == GLIA_WIRE_FRAMES || j->wire == GLIA_WIRE_SAFETENSORS || j->wire == GLIA_WIRE_MEMORY)
        return glia_fail_at(err, GLIA_EINVAL, "store",
                            "store keeps the activations here: ask for the reply as JSON, or leave store out");
    j->acts.format.merge = true, j->acts.format.encoding = GLIA_ENC_STORED;
    return GLIA_OK;
}

glia_status glia_keep_add(glia_job *j, glia_choice *c, const glia_event *ev, glia_err *err) {
    if (!c->rows && !(c->rows = glia_calloc(j->acts.n, sizeof *c->rows)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for the activations");
    for (size_t i = 0; i < ev->u.activations.n_frames; i++) {
        const glia_frame *f = &ev->u.activations.frames[i];
        if (f->hook >= j->acts.n) return glia_fail(err, GLIA_EINTERNAL, "activations of a hook that was not asked for");
        glia_act_rows_add(&c->rows[f->hook], f);
        if (c->rows[f->hook].data.failed) return glia_fail(err, GLIA_ENOMEM, "no memory for the activations");
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ the thread */

static uint64_t bytes_of(const glia_job *j) {
    uint64_t sum = 65536; /* header and checksums */
    for (size_t i = 0; i < j->n_choices; i++) {
        for (size_t h = 0; j->choices[i].rows && h < j->acts.n; h++) sum += j->choices[i].rows[h].data.n + 4096;
    }
    return sum;
}

typedef struct sink {
    glia_newfile *f;
    glia_status status;
    glia_err *err;
} sink;

static bool put(void *ud, const void *p, size_t n) {
    sink *s = ud;
    s->status = glia_newfile_write(s->f, p, n, s->err);
    return !s->status;
}

static glia_status write_file(glia_job *j, const char *folder, const char *json, glia_run_file *file, glia_err *err) {
    char path[1200];
    sink s = {.err = err};
    (void)snprintf(file->name, sizeof file->name, "run.safetensors");
    (void)snprintf(path, sizeof path, "%s/%s", folder, file->name);
    glia_status st = glia_newfile_open(&s.f, path, err);
    if (st) return st;
    glia_newfile_keep_sums(s.f);
    if (!glia_whole_emit(j, json, put, &s))
        st = s.status ? s.status : glia_fail(err, GLIA_ENOMEM, "no memory for the header of a file");
    if (!st) file->bytes = glia_newfile_bytes(s.f);
    if (!st) st = glia_newfile_commit(s.f, file->sha256, err);
    glia_newfile_free(s.f);
    return st;
}

static glia_status record(glia_job *j, glia_run_writer *w, glia_run_about *about, const glia_run_file *file,
                          glia_err *err) {
    size_t n = 0;
    glia_run_tensor *t = glia_calloc(2 * j->n_tensors, sizeof *t);
    char **names = glia_calloc(j->n_tensors, sizeof *names);
    glia_status st = t && names ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for the catalogue");
    for (size_t i = 0; i < j->n_tensors && !st; i++) {
        glia_whole_describe(j, i, &t[n++]);
        if (t[n - 1].rows > about->rows) about->rows = t[n - 1].rows;
        if (!glia_whole_has_indices(j, i)) continue;
        if (asprintf(&names[i], "%s.indices", t[n - 1].name) < 0) {
            names[i] = NULL;
            st = glia_fail(err, GLIA_ENOMEM, "no memory for the catalogue");
            break;
        }
        t[n] = t[n - 1], t[n].name = names[i], t[n].dtype = GLIA_ST_I32;
        n++;
    }
    glia_usage u = glia_job_usage(j);
    about->tokens = (uint64_t)(u.n_prompt + u.n_generated), about->state = GLIA_RUN_SEALED;
    if (!st) st = glia_run_record(w, about, file, 1, t, n, err);
    for (size_t i = 0; names && i < j->n_tensors; i++) free(names[i]);
    glia_free(names);
    glia_free(t);
    return st;
}

/* The JSON that the client gets and the file keeps: the reply, or its head and labels. */
static char *make_body(glia_job *j, size_t *n) {
    if (glia_wire_is_whole(j->wire)) return j->face->whole(j, n);
    glia_buf b = {0};
    glia_whole_activations(&b, j);
    if (!b.failed) b.p[0] = ' '; /* the comma before its first member */
    return glia_buf_take(&b, n);
}

static glia_status keep(glia_job *j, glia_err *err) {
    glia_keep *k = j->keep;
    glia_runs *runs;
    glia_run_writer *w = NULL;
    glia_run_file file = {0};
    glia_run_about about = {.kind = GLIA_RUN_REQUEST};
    char *reply = NULL;
    (void)snprintf(about.model, sizeof about.model, "%s", j->info.id);
    (void)snprintf(about.note, sizeof about.note, "%s", k->note);
    glia_status st = glia_store_runs(k->store, &runs, err);
    if (!st) st = glia_runs_make_room(runs, bytes_of(j), err);
    if (!st) st = glia_run_begin(&w, runs, &about, err);
    if (st) return st;
    memcpy(k->run, about.id, sizeof k->run);
    k->body = make_body(j, &k->n_body);
    bool whole = glia_wire_is_whole(j->wire);
    if (k->body && !whole && asprintf(&reply, "{%s}", k->body) < 0) reply = NULL;
    if (!k->body || (!whole && !reply)) st = glia_fail(err, GLIA_ENOMEM, "no memory for the reply");
    if (!st) st = write_file(j, about.folder, whole ? k->body : reply, &file, err);
    if (!st) st = record(j, w, &about, &file, err);
    free(reply);
    glia_run_writer_free(w); /* not recorded: removes the run */
    return st;
}

static void *keep_thread(void *ud) {
    glia_job *j = ud;
    glia_keep *k = j->keep;
    glia_store *store = k->store;
    glia_http_waker *waker = k->waker;
    k->waker = NULL;
    k->status = keep(j, &k->err);
    if (atomic_exchange(&k->state, KEEP_DONE) == KEEP_ABANDONED) {
        glia_runs *runs;
        if (!k->status && !glia_store_runs(store, &runs, NULL)) (void)glia_runs_delete(runs, k->run, NULL, NULL);
        k->started = false;
        glia_job_free(j);
    } else if (waker) { /* j may be gone from here on */
        glia_http_waker_wake(waker);
    }
    if (waker) glia_http_waker_release(waker);
    glia_store_release(store);
    return NULL;
}

glia_status glia_keep_run(glia_job *j, bool *done, char **body, size_t *n, glia_err *err) {
    glia_keep *k = j->keep;
    *done = false, *body = NULL;
    if (!k->started) {
        pthread_t thread;
        pthread_attr_t attr;
        k->store = j->app->store, k->waker = j->keep_waker, j->keep_waker = NULL;
        k->started = true;
        atomic_store(&k->state, KEEP_RUNNING);
        glia_store_hold(k->store);
        (void)pthread_attr_init(&attr);
        (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        int rc = pthread_create(&thread, &attr, keep_thread, j);
        (void)pthread_attr_destroy(&attr);
        if (!rc) return GLIA_OK;
        k->started = false;
        glia_store_release(k->store);
        return glia_fail(err, GLIA_EUNAVAILABLE, "no thread to store the run: the system's limit is reached");
    }
    if (atomic_load(&k->state) == KEEP_RUNNING) return GLIA_OK;
    *done = true;
    if (k->status) {
        if (err) *err = k->err;
        return k->status;
    }
    *body = k->body, *n = k->n_body;
    k->body = NULL;
    return GLIA_OK;
}

bool glia_keep_started(const glia_job *j) { return j->keep && j->keep->started; }
const char *glia_keep_id(const glia_job *j) { return j->keep->run; }

bool glia_keep_abandon(glia_job *j) {
    return j->keep && j->keep->started && atomic_exchange(&j->keep->state, KEEP_ABANDONED) == KEEP_RUNNING;
}

void glia_keep_free(glia_job *j) {
    if (j->keep_waker) glia_http_waker_release(j->keep_waker);
    if (!j->keep) return;
    if (j->keep->waker) glia_http_waker_release(j->keep->waker);
    glia_free(j->keep->body);
    glia_free(j->keep);
}

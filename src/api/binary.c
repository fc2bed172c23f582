/* api/binary.c — replies in bytes: a stream of frames, and a safetensors file (docs/FORMATS.md).
 * The HTTP thread that pulls the job. */
#include "api/job.h"
#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "store/packets.h"
#include "store/safetensors.h"
#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------ frames without payload */

void glia_frames_open(glia_job *j) { j->packet.begin = glia_packet_open(&j->out); }

/* The frame under way is one that the client already has. */
static bool is_skipped(const glia_job *j) { return j->packet.next < j->acts.format.first; }

static void finish(glia_job *j, unsigned flags) {
    uint32_t sum = glia_packet_close(&j->out, j->packet.begin, j->packet.next, flags, 0);
    glia_packet_end(&j->out, sum);
    if (is_skipped(j) && !j->out.failed) j->out.n = j->packet.begin;
    j->packet.next++;
}

void glia_frames_close(glia_job *j) { finish(j, 0); }

void glia_frames_end(glia_job *j) {
    glia_frames_open(j);
    glia_buf_adds(&j->out, "{\"type\":\"end\"}");
    finish(j, GLIA_PACKET_LAST);
}

/* ------------------------------------------------------------------ activations */

/* The whole payload compressed; it is bounded, as the event that holds its floats. */
static bool compress(glia_job *j) {
    glia_buf raw = {0};
    while (!glia_act_raw(&j->writer, &raw)) {}
    bool ok = !raw.failed && glia_packet_compress(&j->packet.zipped, raw.p ? raw.p : "", raw.n);
    glia_buf_clear(&raw);
    j->packet.zipped_at = 0;
    return ok;
}

static void open_activation(glia_job *j) {
    glia_act_writer *w = &j->writer;
    bool zstd = j->acts.format.zstd;
    uint64_t n = glia_act_raw_bytes(w);
    glia_frames_open(j);
    glia_buf_adds(&j->out, "{\"type\":\"activation\",\"key\":");
    glia_json_add_cstr(&j->out, j->acts.keys[j->acts.labels[w->frame->hook].group]);
    glia_buf_adds(&j->out, ",\"entry\":");
    (void)glia_act_write(w, &j->out);
    glia_buf_adds(&j->out, "}");
    if (zstd && !compress(j)) j->out.failed = true;
    if (zstd) n = j->packet.zipped.n;
    j->packet.sum =
        glia_packet_close(&j->out, j->packet.begin, j->packet.next, zstd ? (unsigned)GLIA_PACKET_ZSTD : 0u, n);
}

/* The next piece of the payload behind j->out; true: that was the last. */
static bool add_payload(glia_job *j) {
    glia_buf *z = &j->packet.zipped;
    if (!j->acts.format.zstd) return glia_act_raw(&j->writer, &j->out);
    size_t left = z->n - j->packet.zipped_at, n = left < 65536 ? left : 65536;
    glia_buf_add(&j->out, z->p + j->packet.zipped_at, n);
    j->packet.zipped_at += n;
    if (j->packet.zipped_at < z->n) return false;
    glia_buf_clear(z);
    return true;
}

bool glia_frames_activation(glia_job *j) {
    if (is_skipped(j)) {
        j->packet.next++;
        return true;
    }
    if (!j->writer.open) {
        open_activation(j);
        if (!j->out.failed) return false; /* the head goes out before the payload is made */
    }
    if (j->out.failed) return true;
    size_t from = j->out.n;
    bool last = add_payload(j);
    if (!j->out.failed) j->packet.sum = glia_packet_sum(j->packet.sum, j->out.p + from, j->out.n - from);
    if (!last) return false;
    glia_packet_end(&j->out, j->packet.sum);
    j->packet.next++;
    return true;
}

/* ------------------------------------------------------------------ safetensors */

typedef struct glia_whole_tensor {
    char *name; /* the key, and what makes it one of a kind */
    const glia_frame *frame;
    int32_t choice;
} glia_whole_tensor_t;

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

const char *glia_whole_tensor(glia_job *j, const glia_choice *c, const glia_frame *f) {
    const glia_act_label *l = &j->acts.labels[f->hook];
    glia_buf name = {0};
    size_t n;
    glia_whole_tensor_t *more = glia_realloc(j->tensors, (j->n_tensors + 1) * sizeof *more);
    if (!more) return NULL;
    j->tensors = more;
    glia_buf_adds(&name, j->acts.keys[l->group]);
    if (l->is_input) glia_buf_adds(&name, ".input");
    if (j->n_choices > 1) glia_buf_addf(&name, ".choice%d", (int)c->index);
    if (!name.failed && !strcmp(name.p, "__metadata__")) glia_buf_adds(&name, "_");
    /* a client may have named another hook just so */
    while (!name.failed && tfind(name.p, &j->tensor_names, by_name)) glia_buf_adds(&name, "_");
    char *text = glia_buf_take(&name, &n);
    if (!text || !tsearch(text, &j->tensor_names, by_name)) {
        glia_free(text);
        return NULL;
    }
    j->tensors[j->n_tensors++] = (glia_whole_tensor_t){.name = text, .frame = f, .choice = c->index};
    return text;
}

static void describe(const glia_job *j, const glia_whole_tensor_t *t, glia_st_tensor *out) {
    static const glia_st_dtype dtypes[] = {
        [GLIA_F32] = GLIA_ST_F32, [GLIA_F16] = GLIA_ST_F16, [GLIA_BF16] = GLIA_ST_BF16};
    const glia_frame *f = t->frame;
    *out = (glia_st_tensor){.name = t->name, .dtype = dtypes[j->acts.labels[f->hook].dtype]};
    if (f->n_cols) out->shape[out->n_dims++] = (uint64_t)f->n_heads;
    out->shape[out->n_dims++] = (uint64_t)f->n_rows;
    out->shape[out->n_dims++] = (uint64_t)(f->n_cols ? f->n_cols : f->width);
}

static glia_act_writer writer_of(const glia_job *j, size_t i) {
    return (glia_act_writer){.acts = &j->acts, .frame = j->tensors[i].frame};
}

/* Every tensor, and behind each top-k its indices as NAME.indices. */
void glia_whole_file_begin(glia_job *j, const char *json, glia_buf *b, uint64_t *bytes) {
    const char *meta[2][2] = {{"format", "glia-activations-1"}, {"reply", json}};
    glia_st_tensor *t = glia_calloc(2 * j->n_tensors, sizeof *t);
    char **names = glia_calloc(j->n_tensors, sizeof *names);
    size_t k = 0, before = b->n;
    bool ok = t && names;
    for (size_t i = 0; ok && i < j->n_tensors; i++) {
        describe(j, &j->tensors[i], &t[k++]);
        if (!j->tensors[i].frame->indices) continue;
        ok = asprintf(&names[i], "%s.indices", j->tensors[i].name) >= 0;
        t[k] = t[k - 1], t[k].name = names[i], t[k].dtype = GLIA_ST_I32;
        k++;
    }
    if (!ok || glia_st_header(b, t, k, (const char *const(*)[2])meta, 2, NULL, NULL)) b->failed = true;
    *bytes = b->n - before;
    for (size_t i = 0; i < j->n_tensors; i++) {
        glia_act_writer w = writer_of(j, i);
        *bytes += glia_act_raw_bytes(&w);
    }
    j->body.tensor = 0;
    for (size_t i = 0; names && i < j->n_tensors; i++) free(names[i]);
    glia_free(names);
    glia_free(t);
}

bool glia_whole_file_next(glia_job *j, glia_buf *b) {
    if (!j->writer.frame) {
        if (j->body.tensor == j->n_tensors) return true;
        j->writer = writer_of(j, j->body.tensor++);
    }
    if (glia_act_raw(&j->writer, b)) j->writer.frame = NULL;
    return b->failed;
}

bool glia_whole_emit(glia_job *j, const char *json, bool (*put)(void *ud, const void *p, size_t n), void *ud) {
    glia_buf b = {0};
    uint64_t bytes;
    glia_whole_file_begin(j, json, &b, &bytes);
    bool ok = true, last = false;
    while (ok && !last) {
        ok = !b.failed && (!b.n || put(ud, b.p, b.n));
        b.n = 0;
        if (ok) last = glia_whole_file_next(j, &b);
    }
    ok = ok && !b.failed;
    glia_buf_clear(&b);
    return ok;
}

typedef struct memory {
    int fd;
    uint64_t bytes;
} memory;

static bool put_memory(void *ud, const void *p, size_t n) {
    memory *m = ud;
    m->bytes += n;
    return glia_io_write(m->fd, p, n);
}

glia_status glia_whole_memory(glia_job *j, char *json, int *fd, uint64_t *bytes, glia_err *err) {
    memory m = {.fd = glia_io_memory("glia-activations")};
    bool ok = m.fd >= 0;
    if (ok) errno = ENOMEM; /* what else can fail is memory */
    ok = ok && glia_whole_emit(j, json, put_memory, &m) && glia_io_seal(m.fd);
    int why = errno;
    glia_free(json);
    *fd = m.fd, *bytes = m.bytes;
    if (ok) return GLIA_OK;
    if (m.fd >= 0) (void)close(m.fd);
    return glia_fail(err, why == ENOMEM || why == ENOSPC ? GLIA_ENOMEM : GLIA_EIO, "no shared memory for the reply: %s",
                     strerror(why));
}

bool glia_whole_has_indices(const glia_job *j, size_t i) { return j->tensors[i].frame->indices != NULL; }

void glia_whole_describe(const glia_job *j, size_t i, glia_run_tensor *out) {
    const glia_whole_tensor_t *t = &j->tensors[i];
    const glia_frame *f = t->frame;
    glia_st_tensor st;
    describe(j, t, &st);
    *out = (glia_run_tensor){.name = t->name,
                             .point = f->point,
                             .layer = glia_point_has_layer(f->point) ? f->layer : -1,
                             .grade = f->grade,
                             .reduce = f->reduce,
                             .dtype = st.dtype,
                             .rows = (uint64_t)f->n_rows,
                             .width = f->width,
                             .n_heads = f->n_heads,
                             .head_dim = f->n_cols ? 0 : f->head_dim,
                             .n_cols = f->n_cols,
                             .choice = t->choice,
                             .phase = f->phase,
                             .positions = f->positions,
                             .token_ids = f->token_ids,
                             .n_positions = (size_t)f->n_positions};
}

void glia_binary_clear(glia_job *j) {
    for (size_t i = 0; i < j->n_tensors; i++) {
        (void)tdelete(j->tensors[i].name, &j->tensor_names, by_name);
        glia_free(j->tensors[i].name);
    }
    glia_free(j->tensors);
    glia_buf_clear(&j->packet.zipped);
}

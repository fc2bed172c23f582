/* tap/staging.c — see staging.h. */
#include "staging.h"
#include "base/mem.h"
#include "ggml-backend-impl.h"
#include "ggml.h"
#include "glia.h"
#include <string.h>

enum { MAX_LANES = 16, N_PARTS = 16 };
static const size_t min_ring = (size_t)4 << 20, max_ring = (size_t)256 << 20;

typedef struct part {
    ggml_backend_event_t left; /* recorded behind its last copy to the host; NULL: the device has no events */
    bool used;                 /* since then somebody must wait for it */
} part;

/* One device of the scheduler. */
typedef struct lane {
    ggml_backend_t main;                         /* computes; borrowed */
    void (*synchronize)(ggml_backend_t backend); /* main's own; NULL: it has none */
    ggml_backend_dev_t device;
    ggml_backend_t side;        /* copies to the host; made for the first pass that needs it */
    ggml_backend_buffer_t ring; /* N_PARTS parts */
    part part[N_PARTS];
    size_t part_bytes, at; /* at: filled bytes of the current part */
    int current;
    bool failed, busy; /* no memory for it; something is under way */
} lane;

struct glia_staging {
    glia_staging_params params;
    lane lane[MAX_LANES];
    int n_lanes;
    bool installed, do_not_wait;
    ggml_backend_t ahead; /* whose wait was left out for the node being fetched; NULL: none */
    glia_staging_counts counts;
};

static _Thread_local glia_staging *active; /* between begin and end, which are on the thread that computes */

/* Stands in for the backend's own function during a pass. */
static void synchronize(ggml_backend_t backend) {
    glia_staging *s = active;
    s->ahead = NULL;
    if (s->do_not_wait) {
        s->do_not_wait = false;
        s->ahead = backend;
        s->counts.unwaited++;
        return;
    }
    for (int i = 0; i < s->n_lanes; i++) {
        if (s->lane[i].main == backend && s->lane[i].synchronize) s->lane[i].synchronize(backend);
    }
}

/* ------------------------------------------------------------------ lanes */

/* Backends of this one source, on which order without waiting was measured to hold (bench/gpu). */
static bool is_cuda(ggml_backend_dev_t dev) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);
    const char *name = reg ? ggml_backend_reg_name(reg) : "";
    return !strcmp(name, "CUDA") || !strcmp(name, "ROCm") || !strcmp(name, "MUSA");
}

static bool can_stage(ggml_backend_dev_t dev, bool host_too) {
    struct ggml_backend_dev_props props;
    if (!dev) return false;
    ggml_backend_dev_get_props(dev, &props);
    if (host_too && props.type == GGML_BACKEND_DEVICE_TYPE_CPU) return true;
    if (!host_too && !is_cuda(dev)) return false;
    return props.caps.async && props.caps.events && props.caps.host_buffer &&
           props.type == GGML_BACKEND_DEVICE_TYPE_GPU && !ggml_backend_buft_is_host(ggml_backend_dev_buffer_type(dev));
}

bool glia_staging_new(glia_staging **out, ggml_backend_sched_t sched, const glia_staging_params *p) {
    glia_staging *s = *out = NULL;
    int n = sched ? ggml_backend_sched_get_n_backends(sched) : 0;
    for (int i = 0; i < n; i++) {
        ggml_backend_t b = ggml_backend_sched_get_backend(sched, i);
        ggml_backend_dev_t dev = ggml_backend_get_device(b);
        if (!can_stage(dev, p->host_too)) continue;
        if (!s && !(s = glia_calloc(1, sizeof *s))) return false;
        if (s->n_lanes == MAX_LANES) break;
        s->lane[s->n_lanes++] = (lane){.main = b, .synchronize = b->iface.synchronize, .device = dev};
    }
    if (s) s->params = *p;
    *out = s;
    return true;
}

static void close_lane(lane *l) {
    for (int i = 0; i < N_PARTS; i++) {
        if (l->part[i].left) ggml_backend_event_free(l->part[i].left);
        l->part[i] = (part){0};
    }
    if (l->ring) ggml_backend_buffer_free(l->ring);
    if (l->side) ggml_backend_free(l->side);
    l->ring = NULL, l->side = NULL;
}

void glia_staging_free(glia_staging *s) {
    if (!s) return;
    for (int i = 0; i < s->n_lanes; i++) close_lane(&s->lane[i]);
    glia_free(s);
}

static size_t ring_size(const glia_staging *s, ggml_backend_dev_t dev) {
    if (s->params.ring_bytes) return s->params.ring_bytes;
    size_t unused = 0, total = 0;
    ggml_backend_dev_memory(dev, &unused, &total);
    return unused / 16 < max_ring ? unused / 16 : max_ring;
}

/* Second backend, ring and events; false, and for good: not to be had. */
static bool open_lane(const glia_staging *s, lane *l) {
    if (l->ring) return true;
    if (l->failed) return false;
    l->failed = true;
    size_t n = ring_size(s, l->device);
    n -= n % (N_PARTS * 256u);
    if (n < (s->params.ring_bytes ? N_PARTS * 256u : min_ring)) return false;
    l->side = ggml_backend_dev_init(l->device, NULL);
    if (l->side) l->ring = ggml_backend_buft_alloc_buffer(ggml_backend_dev_buffer_type(l->device), n);
    if (!l->ring) {
        close_lane(l);
        return false;
    }
    for (int i = 0; i < N_PARTS; i++) l->part[i].left = ggml_backend_event_new(l->device);
    l->part_bytes = n / N_PARTS, l->failed = false;
    return true;
}

static ggml_backend_buffer_t buffer_of(const struct ggml_tensor *x) {
    return x->view_src ? x->view_src->buffer : x->buffer;
}

static int lane_of(const glia_staging *s, const struct ggml_tensor *x) {
    ggml_backend_buffer_t buf = buffer_of(x);
    if (!buf || (ggml_backend_buffer_is_host(buf) && !s->params.host_too)) return -1;
    ggml_backend_dev_t dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buf));
    for (int i = 0; i < s->n_lanes; i++) {
        const lane *l = &s->lane[i];
        bool own = dev ? l->device == dev : ggml_backend_dev_type(l->device) == GGML_BACKEND_DEVICE_TYPE_CPU;
        if (own && !l->failed) return i;
    }
    return -1;
}

/* ------------------------------------------------------------------ a pass */

void glia_staging_begin(glia_staging *s) {
    s->do_not_wait = false, s->ahead = NULL;
    active = s;
    for (int i = 0; i < s->n_lanes && !s->params.stops; i++) s->lane[i].main->iface.synchronize = synchronize;
    s->installed = true;
}

void glia_staging_end(glia_staging *s) {
    if (!s->installed) return;
    for (int i = 0; i < s->n_lanes; i++) {
        lane *l = &s->lane[i];
        l->main->iface.synchronize = l->synchronize;
        if (l->busy) ggml_backend_synchronize(l->side);
        for (int k = 0; k < N_PARTS; k++) l->part[k].used = false;
        l->busy = false, l->current = 0, l->at = 0;
    }
    s->installed = s->do_not_wait = false, s->ahead = NULL;
    active = NULL;
}

bool glia_staging_takes(const glia_staging *s, const struct ggml_tensor *x) { return lane_of(s, x) >= 0; }

void glia_staging_do_not_wait(glia_staging *s, const struct ggml_tensor *x) {
    int i = s->installed && !s->params.stops ? lane_of(s, x) : -1;
    s->do_not_wait = i >= 0 && open_lane(s, &s->lane[i]);
}

void glia_staging_fetched(glia_staging *s) {
    s->do_not_wait = false; /* not taken down where another backend than x's ran the node */
}

void glia_staging_settle(glia_staging *s) {
    if (s->ahead) synchronize(s->ahead);
    s->ahead = NULL;
}

/* The current part is full: go on to the next, which may still be on its way to the host. */
static void next_part(glia_staging *s, lane *l) {
    part *full = &l->part[l->current];
    if (full->left) ggml_backend_event_record(full->left, l->side);
    full->used = true;
    l->current = (l->current + 1) % N_PARTS, l->at = 0;
    part *p = &l->part[l->current];
    if (!p->used) return;
    if (p->left) ggml_backend_event_synchronize(p->left);
    else ggml_backend_synchronize(l->side);
    p->used = false;
    s->counts.reused++;
}

/* A tensor of n bytes at p of a buffer, for ggml's copies. */
static struct ggml_tensor bytes_at(ggml_backend_buffer_t buffer, char *p, size_t n) {
    struct ggml_tensor t;
    memset(&t, 0, sizeof t);
    t.type = GGML_TYPE_F32, t.buffer = buffer, t.data = p;
    t.ne[0] = (int64_t)(n / sizeof(float)), t.ne[1] = t.ne[2] = t.ne[3] = 1;
    t.nb[0] = sizeof(float), t.nb[1] = t.nb[2] = t.nb[3] = n;
    return t;
}

bool glia_staging_copy(glia_staging *s, const struct ggml_tensor *x, size_t off, size_t n, void *dst) {
    int i = lane_of(s, x);
    if (i < 0 || !s->installed || n % sizeof(float) || off % sizeof(float) || !open_lane(s, &s->lane[i])) return false;
    lane *l = &s->lane[i];
    char *base = ggml_backend_buffer_get_base(l->ring), *to = dst;
    l->busy = true;
    for (size_t done = 0, some; done < n; done += some) {
        if (l->at == l->part_bytes) next_part(s, l);
        some = l->part_bytes - l->at < n - done ? l->part_bytes - l->at : n - done;
        struct ggml_tensor from = bytes_at(buffer_of(x), (char *)x->data + off + done, some);
        struct ggml_tensor ring = bytes_at(l->ring, base + (size_t)l->current * l->part_bytes + l->at, some);
        ggml_backend_tensor_copy_async(l->main, l->side, &from, &ring); /* side waits for it */
        ggml_backend_tensor_get_async(l->side, &ring, to + done, 0, some);
        l->at += some;
    }
    s->counts.copies++, s->counts.bytes += n;
    return true;
}

void glia_staging_count(const glia_staging *s, glia_staging_counts *out) { *out = s->counts; }

ggml_backend_buffer_type_t glia_staging_host_memory(const glia_staging *s) {
    for (int i = 0; i < s->n_lanes; i++) {
        ggml_backend_buffer_type_t t = ggml_backend_dev_host_buffer_type(s->lane[i].device);
        if (t) return t;
    }
    return s->params.host_too ? ggml_backend_cpu_buffer_type() : NULL;
}

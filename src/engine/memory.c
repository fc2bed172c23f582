/* engine/memory.c — leases on the memory for activations.  Any thread; locks: see memory.h. */
#include "engine/memory.h"
#include "base/mem.h"
#include "engine/request.h"
#include <stdatomic.h>

struct glia_capture_memory {
    atomic_int refs;
    uint64_t limit;
    _Atomic uint64_t leased, held, peak;
    atomic_int n_waiting;
    pthread_mutex_t lock; /* engines; taken before any inbox's lock */
    glia_inbox **engines; /* with a reference each */
    size_t n_engines;
};

struct glia_lease {
    atomic_int refs;
    glia_capture_memory *memory;
    uint64_t n_bytes;
};

glia_capture_memory *glia_capture_memory_new(size_t limit) {
    glia_capture_memory *m = glia_calloc(1, sizeof *m);
    if (!m) return NULL;
    atomic_init(&m->refs, 1);
    m->limit = limit;
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

glia_capture_memory *glia_capture_memory_ref(glia_capture_memory *m) {
    atomic_fetch_add(&m->refs, 1);
    return m;
}

void glia_capture_memory_unref(glia_capture_memory *m) {
    if (!m || atomic_fetch_sub(&m->refs, 1) != 1) return;
    pthread_mutex_destroy(&m->lock);
    glia_free(m->engines);
    glia_free(m);
}

void glia_capture_memory_read(const glia_capture_memory *m, glia_capture_usage *out) {
    *out = (glia_capture_usage){.limit = m->limit,
                                .leased = atomic_load(&m->leased),
                                .held = atomic_load(&m->held),
                                .peak = atomic_load(&m->peak),
                                .n_waiting = atomic_load(&m->n_waiting)};
}

/* ------------------------------------------------------------------ engines */

bool glia_capture_memory_join(glia_capture_memory *m, glia_inbox *b) {
    pthread_mutex_lock(&m->lock);
    glia_inbox **more = (glia_inbox **)glia_realloc((void *)m->engines, (m->n_engines + 1) * sizeof *more);
    if (more) m->engines = more, m->engines[m->n_engines++] = glia_inbox_ref(b);
    pthread_mutex_unlock(&m->lock);
    return more != NULL;
}

void glia_capture_memory_leave(glia_capture_memory *m, glia_inbox *b) {
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->n_engines; i++) {
        if (m->engines[i] != b) continue;
        m->engines[i] = m->engines[--m->n_engines];
        glia_inbox_unref(b);
        break;
    }
    pthread_mutex_unlock(&m->lock);
}

void glia_capture_memory_wait(glia_capture_memory *m, int change) { atomic_fetch_add(&m->n_waiting, change); }

/* ------------------------------------------------------------------ leases */

glia_status glia_lease_take(glia_lease **out, glia_capture_memory *m, uint64_t n_bytes) {
    glia_lease *l = *out = glia_malloc(sizeof *l);
    if (!l) return GLIA_ENOMEM;
    uint64_t leased = atomic_load(&m->leased);
    do {
        if (n_bytes > m->limit || leased > m->limit - n_bytes) {
            glia_free(l);
            *out = NULL;
            return GLIA_EBUSY;
        }
    } while (!atomic_compare_exchange_weak(&m->leased, &leased, leased + n_bytes));
    atomic_init(&l->refs, 1);
    l->memory = glia_capture_memory_ref(m), l->n_bytes = n_bytes;
    return GLIA_OK;
}

glia_lease *glia_lease_ref(glia_lease *l) {
    atomic_fetch_add(&l->refs, 1);
    return l;
}

void glia_lease_unref(glia_lease *l) {
    if (!l || atomic_fetch_sub(&l->refs, 1) != 1) return;
    glia_capture_memory *m = l->memory;
    atomic_fetch_sub(&m->leased, l->n_bytes);
    /* who marks itself as waiting tries once more after that: either it sees these bytes or we see it */
    if (atomic_load(&m->n_waiting) > 0) {
        pthread_mutex_lock(&m->lock);
        for (size_t i = 0; i < m->n_engines; i++) glia_inbox_stir(m->engines[i]);
        pthread_mutex_unlock(&m->lock);
    }
    glia_free(l);
    glia_capture_memory_unref(m);
}

void glia_lease_hold(glia_lease *l, size_t n_bytes) {
    glia_capture_memory *m = l->memory;
    uint64_t now = atomic_fetch_add(&m->held, n_bytes) + n_bytes, peak = atomic_load(&m->peak);
    while (peak < now && !atomic_compare_exchange_weak(&m->peak, &peak, now)) {}
}

void glia_lease_drop(glia_lease *l, size_t n_bytes) { atomic_fetch_sub(&l->memory->held, n_bytes); }

/* Of a lease that glia_model_lease gave: all of its bytes count as held. */
void glia_lease_free(glia_lease *l) {
    if (!l) return;
    glia_lease_drop(l, (size_t)l->n_bytes);
    glia_lease_unref(l);
}

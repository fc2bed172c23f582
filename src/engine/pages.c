/* engine/pages.c — see pages.h.
 *
 * Sizes are rounded up to four steps per power of two, each with a list of unused blocks.  Small blocks are cut from slabs,
 * which live as long as the pool; a large one is a buffer of its own. */
#include "engine/pages.h"
#include "base/mem.h"
#include "glia.h"
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MIN_SHIFT = 10, MAX_SHIFT = 40, STEPS = 4, N_SIZES = (MAX_SHIFT - MIN_SHIFT) * STEPS };
static const size_t large = (size_t)1 << 20, slab_bytes = (size_t)8 << 20;

typedef struct block {
    alignas(64) glia_pages *pool;
    ggml_backend_buffer_t buffer; /* its own; NULL: cut from a slab */
    struct block *next;           /* unused block of the same size */
    size_t n_bytes;               /* with this head */
    int32_t size;                 /* index into unused */
} block;

typedef struct slab {
    struct slab *next;
    ggml_backend_buffer_t buffer;
} slab;

struct glia_pages {
    atomic_int refs;
    ggml_backend_buffer_type_t type;
    size_t keep;
    bool large_only;
    pthread_mutex_t lock; /* all below */
    block *unused[N_SIZES];
    slab *slabs;
    char *rest; /* of the newest slab */
    size_t n_rest;
    size_t all, n_unused, n_unused_large;
};

glia_pages *glia_pages_new(ggml_backend_buffer_type_t type, size_t keep, bool large_only) {
    glia_pages *p = glia_calloc(1, sizeof *p);
    if (!p) return NULL;
    atomic_init(&p->refs, 1);
    p->type = type, p->keep = keep, p->large_only = large_only;
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

glia_pages *glia_pages_ref(glia_pages *p) {
    atomic_fetch_add(&p->refs, 1);
    return p;
}

void glia_pages_unref(glia_pages *p) {
    if (!p || atomic_fetch_sub(&p->refs, 1) != 1) return;
    for (int i = 0; i < N_SIZES; i++) { /* no block is in use: each holds a reference */
        for (block *b = p->unused[i]; b;) {
            block *next = b->next;
            if (b->buffer) ggml_backend_buffer_free(b->buffer); /* b lies in it */
            b = next;
        }
    }
    for (slab *s = p->slabs; s;) {
        slab *next = s->next;
        ggml_backend_buffer_free(s->buffer);
        glia_free(s);
        s = next;
    }
    pthread_mutex_destroy(&p->lock);
    glia_free(p);
}

/* The smallest step that holds n; *rounded is its size.  -1: none does. */
static int32_t size_of(size_t n, size_t *rounded) {
    for (int32_t i = 0; i < N_SIZES; i++) {
        size_t power = (size_t)1 << (MIN_SHIFT + i / STEPS);
        *rounded = power + power / STEPS * (size_t)(i % STEPS);
        if (*rounded >= n) return i;
    }
    return -1;
}

static block *cut(glia_pages *p, size_t n) {
    if (p->n_rest < n) {
        slab *s = glia_malloc(sizeof *s);
        ggml_backend_buffer_t buffer = s ? ggml_backend_buft_alloc_buffer(p->type, slab_bytes) : NULL;
        if (!buffer) {
            glia_free(s);
            return NULL;
        }
        *s = (slab){.next = p->slabs, .buffer = buffer};
        p->slabs = s, p->rest = ggml_backend_buffer_get_base(buffer), p->n_rest = slab_bytes;
        size_t odd = (64 - (uintptr_t)p->rest % 64) % 64;
        p->rest += odd, p->n_rest -= odd;
    }
    block *b = (block *)(void *)p->rest;
    p->rest += n, p->n_rest -= n;
    *b = (block){.pool = p, .n_bytes = n};
    p->all += n;
    return b;
}

static block *alone(glia_pages *p, size_t n) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(p->type, n + 64);
    if (!buffer) return NULL;
    char *base = ggml_backend_buffer_get_base(buffer);
    block *b = (block *)(void *)(base + (64 - (uintptr_t)base % 64) % 64);
    *b = (block){.pool = p, .buffer = buffer, .n_bytes = n};
    p->all += n;
    return b;
}

void *glia_pages_take(glia_pages *p, size_t n) {
    size_t rounded;
    if (n > (size_t)1 << (MAX_SHIFT - 1)) return NULL;
    int32_t i = size_of(n + sizeof(block), &rounded);
    if (p->large_only && rounded <= large) return NULL;
    pthread_mutex_lock(&p->lock);
    block *b = p->unused[i];
    if (b) {
        p->unused[i] = b->next;
        p->n_unused -= b->n_bytes;
        if (b->buffer) p->n_unused_large -= b->n_bytes;
    } else {
        b = rounded > large ? alone(p, rounded) : cut(p, rounded);
    }
    pthread_mutex_unlock(&p->lock);
    if (!b) return NULL;
    b->size = i, b->next = NULL;
    glia_pages_ref(p);
    return b + 1;
}

void glia_pages_give(void *memory) {
    if (!memory) return;
    block *b = (block *)memory - 1;
    glia_pages *p = b->pool;
    ggml_backend_buffer_t drop = NULL;
    pthread_mutex_lock(&p->lock);
    if (b->buffer && p->n_unused_large + b->n_bytes > p->keep) {
        p->all -= b->n_bytes;
        drop = b->buffer;
    } else {
        b->next = p->unused[b->size], p->unused[b->size] = b;
        p->n_unused += b->n_bytes;
        if (b->buffer) p->n_unused_large += b->n_bytes;
    }
    pthread_mutex_unlock(&p->lock);
    if (drop) ggml_backend_buffer_free(drop);
    glia_pages_unref(p);
}

void glia_pages_count(glia_pages *p, size_t *all, size_t *unused) {
    pthread_mutex_lock(&p->lock);
    *all = p->all, *unused = p->n_unused;
    pthread_mutex_unlock(&p->lock);
}

/* api/registered.c — hooks that stay with a model: a short list under one lock. */
#include "api/registered.h"
#include "base/err.h"
#include "base/mem.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

typedef struct entry {
    struct entry *next;
    char *model;
    char *text; /* a JSON array */
    size_t n;   /* hooks in it */
} entry;

struct glia_registered {
    pthread_mutex_t lock;
    entry *first;
    uint64_t version;          /* rises with every change */
    _Atomic(size_t) n_entries; /* read without the lock by requests, which mostly find 0 */
};

static void entry_free(entry *e) {
    if (!e) return;
    glia_free(e->model);
    glia_free(e->text);
    glia_free(e);
}

glia_registered *glia_registered_new(void) {
    glia_registered *r = glia_calloc(1, sizeof *r);
    if (r && pthread_mutex_init(&r->lock, NULL)) {
        glia_free(r);
        r = NULL;
    }
    return r;
}

void glia_registered_free(glia_registered *r) {
    if (!r) return;
    for (entry *e = r->first, *next; e; e = next) {
        next = e->next;
        entry_free(e);
    }
    (void)pthread_mutex_destroy(&r->lock);
    glia_free(r);
}

/* Where the entry of a model hangs, or the end of the list. */
static entry **find(glia_registered *r, const char *model) {
    entry **at = &r->first;
    while (*at && strcmp((*at)->model, model) != 0) at = &(*at)->next;
    return at;
}

glia_status glia_registered_get(glia_registered *r, const char *model, yyjson_doc **out, uint64_t *version, glia_err *err) {
    *out = NULL;
    if (!r) return GLIA_OK;
    if (!version && !atomic_load_explicit(&r->n_entries, memory_order_acquire)) return GLIA_OK;
    (void)pthread_mutex_lock(&r->lock);
    if (version) *version = r->version;
    entry *e = *find(r, model);
    char *text = e ? glia_strdup(e->text) : NULL;
    bool there = e != NULL;
    (void)pthread_mutex_unlock(&r->lock);
    if (!there) return GLIA_OK;
    glia_status st = text ? glia_json_parse(out, text, strlen(text), err)
                          : glia_fail(err, GLIA_ENOMEM, "no memory for the registered hooks");
    glia_free(text);
    return st;
}

glia_status glia_registered_set(glia_registered *r, const char *model, uint64_t version, const char *text, size_t n,
                                glia_err *err) {
    entry *fresh = NULL;
    if (!r) return glia_fail(err, GLIA_ENOMEM, "no memory for the hooks");
    if (n) {
        fresh = glia_calloc(1, sizeof *fresh);
        if (!fresh || !(fresh->model = glia_strdup(model)) || !(fresh->text = glia_strdup(text))) {
            entry_free(fresh);
            return glia_fail(err, GLIA_ENOMEM, "no memory for the hooks");
        }
        fresh->n = n;
    }
    (void)pthread_mutex_lock(&r->lock);
    bool current = version == r->version;
    entry *old = NULL;
    if (current) {
        entry **at = find(r, model);
        old = *at;
        r->version++;
        if (old) *at = old->next;
        if (fresh) fresh->next = r->first, r->first = fresh;
        size_t n_entries = 0;
        for (entry *e = r->first; e; e = e->next) n_entries++;
        atomic_store_explicit(&r->n_entries, n_entries, memory_order_release);
    }
    (void)pthread_mutex_unlock(&r->lock);
    entry_free(current ? old : fresh);
    return current ? GLIA_OK : glia_fail(err, GLIA_EBUSY, "another request changed the registered hooks at the same time: try again");
}

void glia_registered_counts(glia_registered *r, glia_buf *b) {
    glia_buf_adds(b, "{");
    if (!r) goto done;
    (void)pthread_mutex_lock(&r->lock);
    for (const entry *e = r->first; e; e = e->next) {
        if (e != r->first) glia_buf_adds(b, ",");
        glia_json_add_cstr(b, e->model);
        glia_buf_addf(b, ":%zu", e->n);
    }
    (void)pthread_mutex_unlock(&r->lock);
done:
    glia_buf_adds(b, "}");
}

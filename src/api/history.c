/* api/history.c — see history.h.  Any thread. */
#include "api/history.h"
#include "base/err.h"
#include "base/mem.h"
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct node {
    char id[64]; /* "": free */
    glia_buf messages, items, body;
    uint64_t used;
} node;

struct glia_history {
    pthread_mutex_t lock;
    node *nodes; /* [max_turns] */
    size_t max_turns, max_bytes, bytes;
    uint64_t clock;
};

static size_t node_bytes(const node *n) { return sizeof *n + n->messages.cap + n->items.cap + n->body.cap; }

static void node_clear(node *n) {
    glia_buf_clear(&n->messages);
    glia_buf_clear(&n->items);
    glia_buf_clear(&n->body);
    *n = (node){0};
}

glia_history *glia_history_new(size_t max_turns, size_t max_bytes) {
    glia_history *h = glia_calloc(1, sizeof *h);
    if (!h) return NULL;
    if (!(h->nodes = glia_calloc(max_turns, sizeof *h->nodes))) {
        glia_free(h);
        return NULL;
    }
    h->max_turns = max_turns, h->max_bytes = max_bytes;
    (void)pthread_mutex_init(&h->lock, NULL);
    return h;
}

void glia_history_free(glia_history *h) {
    if (!h) return;
    for (size_t i = 0; i < h->max_turns; i++) node_clear(&h->nodes[i]);
    (void)pthread_mutex_destroy(&h->lock);
    glia_free(h->nodes);
    glia_free(h);
}

static node *find_locked(glia_history *h, const char *id) {
    for (size_t i = 0; *id && i < h->max_turns; i++) {
        if (!strcmp(h->nodes[i].id, id)) return &h->nodes[i];
    }
    return NULL;
}

static void drop_locked(glia_history *h, node *n) {
    h->bytes -= node_bytes(n);
    node_clear(n);
}

/* A place for one more of so many bytes. */
static node *room_locked(glia_history *h, size_t bytes) {
    for (;;) {
        node *empty = NULL, *oldest = NULL;
        for (size_t i = 0; i < h->max_turns; i++) {
            node *n = &h->nodes[i];
            if (!n->id[0]) empty = n;
            else if (!oldest || n->used < oldest->used) oldest = n;
        }
        if (empty && h->bytes + bytes <= h->max_bytes) return empty;
        if (!oldest) return NULL;
        drop_locked(h, oldest);
    }
}

void glia_history_put(glia_history *h, const char *id, glia_buf *messages, glia_buf *items, const char *body,
                      size_t n_body) {
    node made = {.messages = *messages, .items = *items};
    *messages = *items = (glia_buf){0};
    if (body) glia_buf_add(&made.body, body, n_body);
    (void)snprintf(made.id, sizeof made.id, "%s", id);
    size_t bytes = node_bytes(&made);
    bool good = !made.messages.failed && !made.items.failed && !made.body.failed && bytes <= h->max_bytes;
    (void)pthread_mutex_lock(&h->lock);
    node *n = good ? room_locked(h, bytes) : NULL;
    if (n) {
        *n = made;
        n->used = ++h->clock;
        h->bytes += bytes;
        made = (node){0};
    }
    (void)pthread_mutex_unlock(&h->lock);
    node_clear(&made);
}

static glia_status copy(glia_history *h, const char *id, size_t which, glia_status missing, const char *param,
                        glia_buf *out, glia_err *err) {
    (void)pthread_mutex_lock(&h->lock);
    node *n = find_locked(h, id);
    if (n) {
        const glia_buf *const parts[] = {&n->messages, &n->items, &n->body};
        n->used = ++h->clock;
        if (parts[which]->n) glia_buf_add(out, parts[which]->p, parts[which]->n);
    }
    (void)pthread_mutex_unlock(&h->lock);
    if (!n) {
        return glia_fail_at(err, missing, param,
                            "no response \"%.64s\" here: it was not stored, or has left (the latest %zu are kept, up to "
                            "%zu MiB, until the server stops)",
                            id, h->max_turns, h->max_bytes >> 20);
    }
    return out->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the conversation") : GLIA_OK;
}

glia_status glia_history_messages(glia_history *h, const char *id, glia_buf *out, glia_err *err) {
    return copy(h, id, 0, GLIA_EPREVIOUS, "previous_response_id", out, err);
}

glia_status glia_history_items(glia_history *h, const char *id, glia_buf *out, glia_err *err) {
    return copy(h, id, 1, GLIA_ENOTFOUND, "id", out, err);
}

glia_status glia_history_body(glia_history *h, const char *id, glia_buf *out, glia_err *err) {
    return copy(h, id, 2, GLIA_ENOTFOUND, "id", out, err);
}

glia_status glia_history_drop(glia_history *h, const char *id, glia_err *err) {
    (void)pthread_mutex_lock(&h->lock);
    node *n = find_locked(h, id);
    if (n) drop_locked(h, n);
    (void)pthread_mutex_unlock(&h->lock);
    return n ? GLIA_OK : glia_fail_at(err, GLIA_ENOTFOUND, "id", "no response \"%.64s\" here", id);
}

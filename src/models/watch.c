/* models/watch.c — somebody's eye on one instance. */
#include "base/mem.h"
#include "models/instance.h"

glia_watch *watch_new_locked(instance *in, bool wants_hold, bool was_there) {
    glia_watch *w = glia_calloc(1, sizeof *w);
    if (!w) return NULL;
    *w = (glia_watch){.r = in->r, .of = in, .wants_hold = wants_hold, .was_there = was_there, .next = in->watches};
    in->watches = w;
    in->refs++;
    if (wants_hold && in->state == GLIA_LOAD_READY) w->held = true, in->holds++;
    return w;
}

void glia_watch_get(glia_watch *w, glia_watched *out) {
    instance *in = w->of;
    (void)pthread_mutex_lock(&w->r->lock);
    *out = (glia_watched){.id = in->id,
                          .path = in->file.path,
                          .key = in->file.key,
                          .evictable = instance_evictable(in),
                          .state = in->state,
                          .progress = (float)atomic_load(&in->permille) / 1000,
                          .was_there = w->was_there,
                          .load_seconds = in->load_seconds,
                          .model = w->held ? in->model : NULL,
                          .err = in->err};
    (void)pthread_mutex_unlock(&w->r->lock);
}

glia_load_state glia_watch_wait(glia_watch *w, glia_load_state not, int timeout_ms) {
    int64_t until = timeout_ms < 0 ? INT64_MAX : models_now_ms() + timeout_ms;
    (void)pthread_mutex_lock(&w->r->lock);
    while (w->of->state == not &&models_now_ms() < until) registry_wait_locked(w->r, until);
    glia_load_state s = w->of->state;
    (void)pthread_mutex_unlock(&w->r->lock);
    return s;
}

void glia_watch_on_change(glia_watch *w, void (*fn)(void *ud), void *ud) {
    (void)pthread_mutex_lock(&w->r->lock);
    w->on_change = fn, w->ud = ud;
    (void)pthread_mutex_unlock(&w->r->lock);
}

void glia_watch_cancel(glia_watch *w) {
    (void)pthread_mutex_lock(&w->r->lock);
    bool alone = w->of->watches == w && !w->next;
    if (w->of->state == GLIA_LOAD_LOADING && alone) {
        atomic_store(&w->of->cancelled, true);
        (void)pthread_cond_broadcast(&w->r->changed);
    }
    (void)pthread_mutex_unlock(&w->r->lock);
}

void glia_watch_free(glia_watch *w) {
    if (!w) return;
    glia_registry *r = w->r;
    instance *in = w->of;
    (void)pthread_mutex_lock(&r->lock);
    for (glia_watch **p = &in->watches; *p; p = &(*p)->next) {
        if (*p != w) continue;
        *p = w->next;
        break;
    }
    if (w->held) {
        in->holds--, in->used_ms = models_now_ms();
        (void)pthread_cond_broadcast(&r->changed);
    }
    instance_unref_locked(in);
    (void)pthread_mutex_unlock(&r->lock);
    glia_free(w);
}

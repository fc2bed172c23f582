/* models/keeper.c — the thread that unloads what was idle for its time and closes what has drained. */
#include "base/log.h"
#include "models/instance.h"

/* One that can be closed now; what was idle for too long begins to drain.  *next: when to look again. */
static instance *look_locked(glia_registry *r, int64_t *next) {
    int64_t now = models_now_ms();
    *next = INT64_MAX;
    for (instance *in = r->first; in; in = in->next) {
        if (in->state == GLIA_LOAD_READY && in->ttl_ms > 0 && !in->holds) {
            int64_t due = in->used_ms + in->ttl_ms;
            if (due <= now) {
                glia_log(GLIA_LOG_INFO, "model %s was idle for %lld s: unloading", in->id,
                         (long long)(in->ttl_ms / 1000));
                instance_drain_locked(in);
            } else if (due < *next) {
                *next = due;
            }
        }
        if (in->state == GLIA_LOAD_DRAINING && !in->closing && !in->holds && !in->pins) return in;
    }
    return NULL;
}

static void close_locked(glia_registry *r, instance *in) {
    in->closing = true;
    (void)pthread_mutex_unlock(&r->lock);
    r->params.close(in->model);
    (void)pthread_mutex_lock(&r->lock);
    in->model = NULL, in->counted = false;
    instance_remove_locked(in);
}

void *keeper_main(void *registry) {
    glia_registry *r = registry;
    (void)pthread_mutex_lock(&r->lock);
    while (!r->stopping) {
        int64_t next;
        instance *in = look_locked(r, &next);
        if (in) close_locked(r, in);
        else registry_wait_locked(r, next);
    }
    (void)pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* models/loader.c — one load: wait for its turn and for room, open, publish.  A thread of its own for each. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/instance.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ------------------------------------------------------------------ room */

/* What is there, seen by one that wants to join. */
typedef struct room {
    size_t n;
    uint64_t used;
    instance *idle;   /* least recently used one that may go */
    bool busy, going; /* some that may go are held; some are on their way out */
    char names[200];  /* of all, for messages */
} room;

static room look_around_locked(const instance *me) {
    room m = {0};
    for (instance *in = me->r->first; in; in = in->next) {
        if (!in->counted) continue;
        m.n++, m.used += in->footprint.total;
        size_t at = strlen(m.names);
        (void)snprintf(m.names + at, sizeof m.names - at, "%s\"%s\"%s", at ? ", " : "", in->id,
                       in->holds ? " (in use)" : "");
        if (in->state == GLIA_LOAD_DRAINING) m.going = true;
        if (in->state != GLIA_LOAD_READY || !instance_evictable(in)) continue;
        if (in->holds) m.busy = true;
        else if (!m.idle || in->used_ms < m.idle->used_ms) m.idle = in;
    }
    return m;
}

static bool fits(const instance *me, const room *m) {
    const glia_registry_params *p = &me->r->params;
    if (p->max_loaded && m->n >= p->max_loaded) return false;
    return !p->budget || (m->used <= p->budget && me->footprint.total <= p->budget - m->used);
}

/* One that was asked for earlier goes first; two of the same id do not live at once. */
static bool is_my_turn_locked(const instance *me) {
    if (me->r->opening) return false;
    for (const instance *in = me->r->first; in; in = in->next) {
        if (in == me) return true;
        if (in->state == GLIA_LOAD_LOADING) return false;
        if (in->state == GLIA_LOAD_DRAINING && !strcmp(in->id, me->id)) return false;
    }
    return true;
}

static glia_status no_room(const instance *me, const room *m, bool try_again, glia_err *err) {
    const glia_registry_params *p = &me->r->params;
    if (p->max_loaded && m->n >= p->max_loaded) {
        return glia_fail(err, GLIA_EBUSY, "%zu models are loaded already, as many as --max-loaded allows: %s; %s", m->n,
                         m->names, try_again ? "try again later" : "unload one first");
    }
    return glia_fail(err, try_again ? GLIA_EBUSY : GLIA_ENOMEM,
                     "\"%.80s\" needs about %.2f GiB, and of the budget of %.2f GiB %.2f are taken by %s: %s", me->id,
                     (double)me->footprint.total / 0x1p30, (double)p->budget / 0x1p30, (double)m->used / 0x1p30,
                     m->n ? m->names : "nothing",
                     try_again ? "try again later" : "unload one, ask for less context, or raise --memory-budget");
}

/* Wait for the turn, then for room; unload who may go. */
static glia_status make_room_locked(instance *me, glia_err *err) {
    glia_registry *r = me->r;
    int64_t deadline = 0;
    for (;;) {
        if (r->stopping || atomic_load(&me->cancelled))
            return glia_fail(err, GLIA_ECANCELLED, "the load was cancelled");
        if (!is_my_turn_locked(me)) {
            registry_wait_locked(r, INT64_MAX);
            continue;
        }
        room m = look_around_locked(me);
        if (fits(me, &m)) return GLIA_OK;
        if (r->params.budget && me->footprint.total > r->params.budget) return no_room(me, &m, false, err);
        if (m.idle && !m.going) { /* one at a time: it may be enough */
            glia_log(GLIA_LOG_INFO, "model %s is unloaded to make room for %s", m.idle->id, me->id);
            instance_drain_locked(m.idle);
        }
        if (!m.idle && !m.busy && !m.going) return no_room(me, &m, false, err);
        if (!deadline) deadline = models_now_ms() + r->params.patience_ms;
        if (models_now_ms() >= deadline) return no_room(me, &m, true, err);
        registry_wait_locked(r, deadline);
    }
}

/* ------------------------------------------------------------------ the load */

static bool on_progress(float fraction, void *ud) {
    instance *in = ud;
    int permille = fraction < 0 ? 0 : fraction > 1 ? 1000 : (int)(fraction * 1000);
    if (permille / 10 != atomic_load(&in->permille) / 10) {
        atomic_store(&in->permille, permille);
        (void)pthread_mutex_lock(&in->r->lock);
        instance_notify_locked(in);
        (void)pthread_mutex_unlock(&in->r->lock);
    }
    return !atomic_load(&in->cancelled);
}

static glia_status open_model(instance *in, glia_model **m, glia_err *err) {
    glia_model_params p = in->params;
    p.on_progress = on_progress, p.progress_ud = in;
    glia_status st = in->r->params.open(m, &p, err);
    if (!atomic_load(&in->cancelled)) return st;
    if (!st) in->r->params.close(*m);
    *m = NULL;
    return glia_fail(err, GLIA_ECANCELLED, "the load was cancelled");
}

static void publish_locked(instance *in, glia_model *m, double seconds) {
    in->model = m, in->load_seconds = seconds;
    in->state = GLIA_LOAD_READY;
    in->loaded_at = in->used_at = (int64_t)time(NULL);
    in->used_ms = models_now_ms();
    atomic_store(&in->permille, 1000);
    for (glia_watch *w = in->watches; w; w = w->next) {
        if (w->wants_hold && !w->held) w->held = true, in->holds++;
    }
    instance_notify_locked(in);
}

static void *load_main(void *arg) {
    instance *in = arg;
    glia_registry *r = in->r;
    glia_err err = {0};
    glia_model *m = NULL;
    (void)pthread_mutex_lock(&r->lock);
    glia_status st = make_room_locked(in, &err);
    if (!st) {
        in->counted = true, r->opening = in;
        (void)pthread_mutex_unlock(&r->lock);
        int64_t began = models_now_ms();
        st = open_model(in, &m, &err);
        double seconds = (double)(models_now_ms() - began) / 1000;
        (void)pthread_mutex_lock(&r->lock);
        r->opening = NULL;
        if (!st) publish_locked(in, m, seconds);
        if (!st && atomic_load(&in->cancelled)) instance_drain_locked(in); /* at the last moment: it goes at once */
    }
    if (st) {
        in->err = err, in->counted = false;
        instance_remove_locked(in);
    }
    r->n_loaders--;
    instance_unref_locked(in);
    (void)pthread_cond_broadcast(&r->changed);
    (void)pthread_mutex_unlock(&r->lock);
    return NULL;
}

bool loader_start_locked(instance *in) {
    pthread_t t;
    pthread_attr_t a;
    in->refs++, in->r->n_loaders++;
    (void)pthread_attr_init(&a);
    (void)pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    int rc = pthread_create(&t, &a, load_main, in);
    (void)pthread_attr_destroy(&a);
    if (!rc) return true;
    in->r->n_loaders--;
    instance_unref_locked(in);
    return false;
}

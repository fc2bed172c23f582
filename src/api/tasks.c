/* api/tasks.c — the list of tasks, their threads, and the routes over them. */
#include "api/tasks.h"
#include "api/errors.h"
#include "api/handlers.h"
#include "api/json.h"
#include "base/err.h"
#include "base/mem.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

typedef enum task_state { TASK_RUNNING, TASK_COMPLETED, TASK_FAILED, TASK_CANCELLED } task_state;
static const char *const state_names[] = {"running", "completed", "failed", "cancelled"};

struct glia_task {
    glia_tasks *all;
    glia_task *prev, *next; /* in the list, oldest first; under all->lock */
    atomic_int refs;        /* thread, list or generator */
    char id[GLIA_TASK_ID];
    glia_task_params p; /* description owned */
    char *description;
    atomic_bool cancelled;
    bool listed;

    /* under all->lock; result is only written by the thread before the state leaves running */
    task_state state;
    double fraction;
    char *detail;
    glia_buf result;
    glia_err err;
    time_t started, finished;
    glia_http_waker *waker; /* of glia_task_serve */
};

struct glia_tasks {
    pthread_mutex_t lock;
    pthread_cond_t idle; /* n_running fell to 0 */
    glia_task *first, *last;
    size_t n_running, n_kept, result_bytes;
    bool stopping;
};

glia_tasks *glia_tasks_new(void) {
    glia_tasks *ts = glia_calloc(1, sizeof *ts);
    if (!ts) return NULL;
    (void)pthread_mutex_init(&ts->lock, NULL);
    (void)pthread_cond_init(&ts->idle, NULL);
    return ts;
}

static void unref(glia_task *t) {
    if (!t || atomic_fetch_sub(&t->refs, 1) > 1) return;
    glia_buf_clear(&t->result);
    glia_free(t->detail);
    glia_free(t->description);
    if (t->waker) glia_http_waker_release(t->waker);
    glia_free(t);
}

/* ------------------------------------------------------------------ the list; all under the lock */

static void link_locked(glia_tasks *ts, glia_task *t) {
    t->prev = ts->last, t->next = NULL;
    if (ts->last) ts->last->next = t;
    else ts->first = t;
    ts->last = t;
    t->listed = true;
}

static void unlink_locked(glia_tasks *ts, glia_task *t) {
    if (t->prev) t->prev->next = t->next;
    else ts->first = t->next;
    if (t->next) t->next->prev = t->prev;
    else ts->last = t->prev;
    t->listed = false;
}

/* Forget the oldest finished tasks beyond what is kept.  Answers them as a chain over `next`, to be given back unlocked. */
static glia_task *trim_locked(glia_tasks *ts) {
    glia_task *out = NULL;
    for (glia_task *t = ts->first, *next; t && (ts->n_kept > GLIA_TASKS_KEPT || ts->result_bytes > GLIA_TASKS_RESULTS);
         t = next) {
        next = t->next;
        if (t->state == TASK_RUNNING) continue;
        ts->n_kept--, ts->result_bytes -= t->result.n;
        unlink_locked(ts, t);
        t->next = out, out = t;
    }
    return out;
}

static glia_task *find_locked(glia_tasks *ts, const char *id) {
    for (glia_task *t = ts->first; t; t = t->next) {
        if (!strcmp(t->id, id)) return t;
    }
    return NULL;
}

static glia_status no_task(const char *id, glia_err *err) {
    return glia_fail_at(err, GLIA_ENOTFOUND, "id", "no task \"%.60s\" here (finished ones are forgotten in time)", id);
}

/* ------------------------------------------------------------------ running */

static void *run(void *ud) {
    glia_task *t = ud;
    glia_tasks *ts = t->all;
    glia_err err = {0};
    glia_buf result = {0};
    glia_status st = t->p.work(t, t->p.ud, &result, &err);
    if (!st && result.failed) st = glia_fail(&err, GLIA_ENOMEM, "no memory for the result");
    if (t->p.free_ud) t->p.free_ud(t->p.ud);
    if (st) glia_buf_clear(&result);

    (void)pthread_mutex_lock(&ts->lock);
    t->state = !st ? TASK_COMPLETED : st == GLIA_ECANCELLED ? TASK_CANCELLED : TASK_FAILED;
    t->result = result, t->err = err, t->finished = time(NULL);
    if (!st) t->fraction = 1;
    if (t->listed) ts->n_kept++, ts->result_bytes += result.n;
    glia_task *forgotten = trim_locked(ts);
    (void)pthread_mutex_unlock(&ts->lock);

    if (t->waker) glia_http_waker_wake(t->waker);
    for (glia_task *next; forgotten; forgotten = next) {
        next = forgotten->next;
        unref(forgotten);
    }
    unref(t);
    (void)pthread_mutex_lock(&ts->lock); /* last: whoever frees the list waits for this */
    if (!--ts->n_running) (void)pthread_cond_broadcast(&ts->idle);
    (void)pthread_mutex_unlock(&ts->lock);
    return NULL;
}

static void make_id(char id[GLIA_TASK_ID]) {
    unsigned char random[8];
    static atomic_uint counter;
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) memset(random, 0, sizeof random);
    unsigned n = atomic_fetch_add(&counter, 1); /* two tasks never share one, whatever the random bytes */
    int at = snprintf(id, GLIA_TASK_ID, "task-%x-", n & 0xffff);
    for (size_t i = 0; i < 6 && at + 2 < GLIA_TASK_ID; i++, at += 2) (void)snprintf(id + at, 3, "%02x", random[i]);
}

/* +1 reference for the caller beside the thread's. */
static glia_status begin(glia_tasks *ts, const glia_task_params *p, glia_http_waker *take_waker, bool listed,
                         glia_task **out, glia_err *err) {
    glia_status st = GLIA_OK;
    glia_task *t = glia_calloc(1, sizeof *t);
    *out = NULL;
    if (t) {
        t->all = ts, t->p = *p, t->started = time(NULL), t->waker = take_waker;
        atomic_init(&t->refs, 1);
        make_id(t->id);
        if (p->description && !(t->description = glia_strdup(p->description))) {
            unref(t);
            t = NULL, take_waker = NULL;
        }
    }
    if (!t) {
        if (take_waker) glia_http_waker_release(take_waker);
        if (p->free_ud) p->free_ud(p->ud);
        return glia_fail(err, GLIA_ENOMEM, "no memory for a task");
    }
    pthread_attr_t attr;
    pthread_t thread;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_mutex_lock(&ts->lock);
    if (ts->stopping) {
        st = glia_fail(err, GLIA_EUNAVAILABLE, "the server is stopping");
    } else if (ts->n_running >= GLIA_TASKS_RUNNING) {
        st = glia_fail(err, GLIA_EBUSY, "%d tasks are running already: try again when one has ended",
                       (int)GLIA_TASKS_RUNNING);
    } else {
        atomic_fetch_add(&t->refs, listed ? 2 : 1); /* thread; list */
        if (listed) link_locked(ts, t);
        if (pthread_create(&thread, &attr, run, t)) {
            if (listed) unlink_locked(ts, t);
            atomic_fetch_sub(&t->refs, listed ? 2 : 1);
            st = glia_fail(err, GLIA_EUNAVAILABLE, "no thread for a task: the system's limit is reached");
        } else {
            ts->n_running++;
        }
    }
    (void)pthread_mutex_unlock(&ts->lock);
    (void)pthread_attr_destroy(&attr);
    if (st) {
        if (p->free_ud) p->free_ud(p->ud);
        unref(t);
        return st;
    }
    *out = t;
    return GLIA_OK;
}

glia_status glia_tasks_start(glia_tasks *ts, const glia_task_params *p, char id[GLIA_TASK_ID], glia_err *err) {
    glia_task *t;
    glia_status st = begin(ts, p, NULL, true, &t, err);
    id[0] = 0;
    if (st) return st;
    memcpy(id, t->id, GLIA_TASK_ID);
    unref(t);
    return GLIA_OK;
}

void glia_tasks_free(glia_tasks *ts) {
    if (!ts) return;
    (void)pthread_mutex_lock(&ts->lock);
    ts->stopping = true;
    for (glia_task *t = ts->first; t; t = t->next) atomic_store(&t->cancelled, true);
    while (ts->n_running) (void)pthread_cond_wait(&ts->idle, &ts->lock);
    glia_task *t = ts->first;
    (void)pthread_mutex_unlock(&ts->lock);
    for (glia_task *next; t; t = next) {
        next = t->next;
        unref(t);
    }
    (void)pthread_cond_destroy(&ts->idle);
    (void)pthread_mutex_destroy(&ts->lock);
    glia_free(ts);
}

bool glia_task_cancelled(const glia_task *t) { return atomic_load_explicit(&t->cancelled, memory_order_relaxed); }

void glia_task_progress(glia_task *t, double fraction, const char *detail) {
    char *copy = glia_strdup(detail), *old = NULL;
    (void)pthread_mutex_lock(&t->all->lock);
    t->fraction = fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
    if (copy) old = t->detail, t->detail = copy;
    (void)pthread_mutex_unlock(&t->all->lock);
    glia_free(old);
}

glia_status glia_tasks_cancel(glia_tasks *ts, const char *id, glia_err *err) {
    (void)pthread_mutex_lock(&ts->lock);
    glia_task *t = find_locked(ts, id);
    if (t) atomic_store(&t->cancelled, true);
    (void)pthread_mutex_unlock(&ts->lock);
    return t ? GLIA_OK : no_task(id, err);
}

size_t glia_tasks_n_running(glia_tasks *ts) {
    (void)pthread_mutex_lock(&ts->lock);
    size_t n = ts->n_running;
    (void)pthread_mutex_unlock(&ts->lock);
    return n;
}

/* ------------------------------------------------------------------ as JSON */

static void describe_locked(const glia_task *t, bool result, glia_buf *b) {
    glia_buf_addf(b, "{\"task_id\":\"%s\",\"kind\":\"%s\",\"status\":\"%s\",\"started_at\":%lld,\"description\":", t->id,
                  t->p.kind, state_names[t->state], (long long)t->started);
    glia_json_add_cstr(b, t->description ? t->description : t->p.kind);
    glia_buf_adds(b, ",\"progress\":");
    glia_json_add_num(b, t->fraction);
    if (t->detail) glia_buf_addf(b, ",\"detail\":%s", t->detail);
    if (t->state != TASK_RUNNING) glia_buf_addf(b, ",\"finished_at\":%lld", (long long)t->finished);
    if (t->state == TASK_COMPLETED && result) {
        glia_buf_adds(b, ",\"result\":");
        if (t->result.n) glia_buf_add(b, t->result.p, t->result.n);
        else glia_buf_adds(b, "null");
    }
    if (t->state == TASK_FAILED || t->state == TASK_CANCELLED) {
        glia_buf_adds(b, ",");
        glia_add_shaped_error(b, &t->err, GLIA_ERRORS_OPENAI);
    }
    glia_buf_adds(b, "}");
}

glia_status glia_tasks_describe(glia_tasks *ts, const char *id, glia_buf *b, glia_err *err) {
    (void)pthread_mutex_lock(&ts->lock);
    glia_task *t = find_locked(ts, id);
    if (t) describe_locked(t, true, b);
    (void)pthread_mutex_unlock(&ts->lock);
    return t ? GLIA_OK : no_task(id, err);
}

void glia_tasks_list(glia_tasks *ts, const char *kind, glia_buf *b) {
    bool any = false;
    glia_buf_adds(b, "[");
    (void)pthread_mutex_lock(&ts->lock);
    for (const glia_task *t = ts->first; t; t = t->next) {
        if (kind && strcmp(kind, t->p.kind)) continue;
        if (any) glia_buf_adds(b, ",");
        describe_locked(t, false, b);
        any = true;
    }
    (void)pthread_mutex_unlock(&ts->lock);
    glia_buf_adds(b, "]");
}

/* ------------------------------------------------------------------ one request, one task */

static int serve_start(void *self, glia_http_request *rq) {
    glia_task *t = self;
    (void)pthread_mutex_lock(&t->all->lock);
    task_state state = t->state;
    (void)pthread_mutex_unlock(&t->all->lock);
    if (state == TASK_RUNNING) return GLIA_HTTP_WAIT;
    if (state == TASK_COMPLETED) glia_reply_json(rq, &t->result); /* its thread is done with it */
    else (void)glia_http_reply_error(rq, &t->err);
    return GLIA_HTTP_END;
}

static void serve_gone(void *self) { atomic_store(&((glia_task *)self)->cancelled, true); }
static void serve_free(void *self) {
    serve_gone(self);
    unref(self);
}

void glia_task_serve(glia_tasks *ts, glia_http_request *rq, const glia_task_params *p) {
    static const glia_http_generator generator = {serve_start, NULL, serve_gone, serve_free};
    glia_task *t;
    glia_err err;
    if (begin(ts, p, glia_http_waker_get(rq), false, &t, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    (void)glia_http_defer(rq, &generator, t);
}

/* ------------------------------------------------------------------ routes */

void glia_on_tasks(void *ud, glia_http_request *rq) {
    glia_buf b = {0};
    glia_buf_adds(&b, "{\"tasks\":");
    glia_tasks_list(((glia_app *)ud)->tasks, glia_http_query(rq, "kind"), &b);
    glia_buf_adds(&b, "}\n");
    glia_reply_json(rq, &b);
}

static void reply_task(glia_tasks *ts, glia_http_request *rq, const char *id) {
    glia_buf b = {0};
    glia_err err;
    if (glia_tasks_describe(ts, id, &b, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_buf_adds(&b, "\n");
    glia_reply_json(rq, &b);
}

void glia_on_task(void *ud, glia_http_request *rq) {
    reply_task(((glia_app *)ud)->tasks, rq, glia_http_param(rq, "id"));
}

void glia_on_task_cancel(void *ud, glia_http_request *rq) {
    glia_tasks *ts = ((glia_app *)ud)->tasks;
    glia_err err;
    if (glia_tasks_cancel(ts, glia_http_param(rq, "id"), &err)) (void)glia_http_reply_error(rq, &err);
    else reply_task(ts, rq, glia_http_param(rq, "id"));
}

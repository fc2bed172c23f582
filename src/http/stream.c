/* http/stream.c — generators and wakers: replies whose bytes come later.
 *
 * Generators run on the worker of their connection; wakers are called from anywhere.  State diagram: internal.h.
 * Knows no endpoint. */
#include "internal.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>

/* A generator that is woken faster than it can find something to do lets the worker's other connections go first
 * after so many rounds. */
enum { ROUNDS = 16 };

/* ------------------------------------------------------------------ wakers */

glia_http_waker *glia_http_waker_get(glia_http_request *rq) {
    atomic_fetch_add(&rq->waker->refs, 1);
    return rq->waker;
}

void glia_http_waker_release(glia_http_waker *w) {
    if (!w || atomic_fetch_sub(&w->refs, 1) > 1) return;
    pthread_mutex_destroy(&w->mu);
    glia_free(w);
}

static void resume_locked(glia_http_waker *w) {
    if (w->state != HTTP_WAKER_SUSPENDED) return;
    w->state = HTTP_WAKER_RUNNING;
    MHD_resume_connection(w->c);
}

void glia_http_waker_wake(glia_http_waker *w) {
    if (!w) return;
    pthread_mutex_lock(&w->mu);
    w->woken = true;
    resume_locked(w);
    pthread_mutex_unlock(&w->mu);
}

void http_waker_vanish(glia_http_waker *w) {
    pthread_mutex_lock(&w->mu);
    w->vanished = true;
    resume_locked(w);
    pthread_mutex_unlock(&w->mu);
}

void http_waker_end(glia_http_waker *w) {
    pthread_mutex_lock(&w->mu);
    w->state = HTTP_WAKER_ENDED;
    w->c = NULL;
    pthread_mutex_unlock(&w->mu);
    glia_http_waker_release(w);
}

/* Before the generator is asked: wakes from now on count for the next round.  False: the client is gone. */
static bool begin_round(glia_http_request *rq) {
    glia_http_waker *w = rq->waker;
    pthread_mutex_lock(&w->mu);
    w->woken = false;
    bool here = !w->vanished;
    pthread_mutex_unlock(&w->mu);
    return here && !atomic_load(&rq->server->cancelled);
}

/* After the generator had nothing: suspend.  False: something happened meanwhile, go another round. */
static bool suspend(glia_http_request *rq, int round) {
    glia_http_waker *w = rq->waker;
    pthread_mutex_lock(&w->mu);
    /* cancelled is read under w->mu: stop sets it before it locks w->mu to resume, so one of both sees the other */
    bool again = w->vanished || atomic_load(&rq->server->cancelled) || (w->woken && round < ROUNDS);
    if (!again) {
        MHD_suspend_connection(w->c);
        if (w->woken) MHD_resume_connection(w->c);
        else w->state = HTTP_WAKER_SUSPENDED;
    }
    pthread_mutex_unlock(&w->mu);
    return !again;
}

/* ------------------------------------------------------------------ generators */

glia_status glia_http_defer(glia_http_request *rq, const glia_http_generator *g, void *self) {
    if (!rq->in_handler || rq->replied || rq->deferred) {
        if (g->gone) g->gone(self);
        g->free(self);
        return GLIA_EINTERNAL;
    }
    rq->g = *g;
    rq->self = self;
    rq->in_handler = false; /* from here on only start() replies */
    http_live_defer(rq);
    return GLIA_OK;
}

glia_status glia_http_stream(glia_http_request *rq, int status, const char *content_type) {
    if (!rq->in_handler || rq->replied || !rq->deferred || !rq->g.read) return GLIA_EINTERNAL;
    rq->replied = rq->streaming = true;
    rq->status = status;
    if (content_type) (void)snprintf(rq->content_type_buf, sizeof rq->content_type_buf, "%s", content_type);
    rq->content_type = content_type ? rq->content_type_buf : NULL;
    rq->n_stream = MHD_SIZE_UNKNOWN;
    return GLIA_OK;
}

glia_status glia_http_stream_sized(glia_http_request *rq, int status, const char *content_type, uint64_t n) {
    glia_status st = glia_http_stream(rq, status, content_type);
    if (!st) rq->n_stream = n;
    return st;
}

/* The handler once more; what its generator waited for is kept until it has returned.  False: it runs aside. */
static bool handle_again(glia_http_request *rq) {
    rq->before_g = rq->g, rq->before_self = rq->self;
    http_live_undefer(rq);
    rq->g = (glia_http_generator){0}, rq->self = NULL;
    if (http_aside_give(rq)) return false;
    http_handle(rq);
    return true;
}

static http_mhd_result fail_start(glia_http_request *rq, const char *what) {
    glia_err err;
    glia_log(GLIA_LOG_ERROR, "http: the generator of %s %s", rq->match.route->pattern, what);
    (void)glia_fail(&err, GLIA_EINTERNAL, "the server lost the reply to this request: please report it");
    http_reply_clear(rq);
    rq->in_handler = true;
    (void)glia_http_reply_error(rq, &err);
    rq->in_handler = false;
    return http_reply_send(rq);
}

http_mhd_result http_generator_start(glia_http_request *rq) {
    rq->phase = HTTP_PHASE_START;
    for (int round = 0;; round++) {
        if (!begin_round(rq)) return MHD_NO;
        rq->in_handler = true;
        int r = rq->g.start(rq->self, rq);
        rq->in_handler = false;
        if (r == GLIA_HTTP_WAIT) {
            if (rq->replied) return fail_start(rq, "replied and wants to wait");
            if (suspend(rq, round)) return MHD_YES;
            continue;
        }
        if (r == GLIA_HTTP_AGAIN && !rq->replied) {
            if (!handle_again(rq)) return MHD_YES;
            if (!rq->deferred) return http_reply_send(rq);
            round = -1;
            continue;
        }
        if (r == 1) {
            if (!rq->streaming) return fail_start(rq, "streams without glia_http_stream()");
            return http_reply_send(rq);
        }
        atomic_store(&rq->finished, true);
        if (r != GLIA_HTTP_END) return MHD_NO;
        if (!rq->replied || rq->streaming) return fail_start(rq, "ended without a reply");
        return http_reply_send(rq);
    }
}

ssize_t http_generator_read(void *cls, uint64_t pos, char *out, size_t max) {
    glia_http_request *rq = cls;
    (void)pos;
    for (int round = 0;; round++) {
        if (!begin_round(rq)) return MHD_CONTENT_READER_END_WITH_ERROR;
        ssize_t n = rq->g.read(rq->self, out, max);
        if (n > 0 && (size_t)n <= max) {
            rq->n_sent += (uint64_t)n;
            if (rq->n_sent == rq->n_stream) atomic_store(&rq->finished, true); /* it is not asked again */
            return n;
        }
        if (n == GLIA_HTTP_WAIT) {
            if (suspend(rq, round)) return 0;
            continue;
        }
        if (n == GLIA_HTTP_END) {
            atomic_store(&rq->finished, true);
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        if (n != GLIA_HTTP_ABORT)
            glia_log(GLIA_LOG_ERROR, "http: a generator wrote past its buffer or gave a bad result");
        atomic_store(&rq->finished, true);
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
}

void http_generator_end(glia_http_request *rq) {
    if (!rq->deferred) return;
    if (!atomic_load(&rq->finished) && rq->g.gone) rq->g.gone(rq->self);
    rq->g.free(rq->self);
}

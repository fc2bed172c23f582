/* http/aside.c — handlers that may take a while, on threads beside the workers.
 *
 * A chat of ten thousand messages takes its template seconds to render, and a worker serves a hundred connections.  So a
 * request whose route is not GLIA_HTTP_QUICK is suspended when it is complete, its handler runs here, and its connection
 * goes on with what the handler recorded.  Nothing runs on the worker for it meanwhile: still one thread at a time.
 *
 * Long bodies keep to half of the threads, so that they never hold up the short ones.
 * Owns its threads and queues.  Knows no endpoint and no waker: until the handler has returned only this file resumes. */
#include "internal.h"
#include "base/err.h"
#include "base/mem.h"
#include <errno.h>

enum { N_THREADS = 8, N_FOR_LONG = N_THREADS / 2, LONG_BODY = 64 * 1024 };

typedef struct queue {
    glia_http_request *first, **end;
} queue;

struct http_aside {
    pthread_mutex_t mu; /* before libmicrohttpd's cleanup mutex */
    pthread_cond_t some;
    queue shorts, longs;
    size_t n_long; /* running */
    bool quit;
    pthread_t threads[N_THREADS];
    size_t n_threads;
};

static void push(queue *q, glia_http_request *rq) {
    rq->next_aside = NULL;
    *q->end = rq;
    q->end = &rq->next_aside;
}

static glia_http_request *pop(queue *q) {
    glia_http_request *rq = q->first;
    if (rq && !(q->first = rq->next_aside)) q->end = &q->first;
    return rq;
}

static bool is_long(const glia_http_request *rq) { return rq->body.n >= LONG_BODY; }

/* Waits for one; NULL: there will be none. */
static glia_http_request *take(struct http_aside *a) {
    glia_http_request *rq;
    pthread_mutex_lock(&a->mu);
    for (;;) {
        rq = pop(&a->shorts);
        if (!rq && a->n_long < N_FOR_LONG && (rq = pop(&a->longs))) a->n_long++;
        if (rq || (a->quit && !a->longs.first)) break;
        pthread_cond_wait(&a->some, &a->mu);
    }
    pthread_mutex_unlock(&a->mu);
    return rq;
}

static void end_long(struct http_aside *a) {
    pthread_mutex_lock(&a->mu);
    a->n_long--;
    pthread_cond_broadcast(&a->some); /* for the next long one, or for all to see the last one go */
    pthread_mutex_unlock(&a->mu);
}

static void *run(void *aside) {
    struct http_aside *a = aside;
    for (glia_http_request *rq; (rq = take(a));) {
        bool was_long = is_long(rq);
        http_handle(rq);
        MHD_resume_connection(rq->c); /* from here on rq is its worker's */
        if (was_long) end_long(a);
    }
    return NULL;
}

bool http_aside_give(glia_http_request *rq) {
    struct http_aside *a = rq->server->aside;
    if (rq->match.route->traits & GLIA_HTTP_QUICK) return false;
    pthread_mutex_lock(&a->mu);
    bool taken = !a->quit;
    if (taken) { /* under mu: once quit is set, nothing more is suspended here */
        rq->phase = HTTP_PHASE_ASIDE;
        MHD_suspend_connection(rq->c);
        push(is_long(rq) ? &a->longs : &a->shorts, rq);
        pthread_cond_signal(&a->some);
    }
    pthread_mutex_unlock(&a->mu);
    return taken;
}

glia_status http_aside_start(struct http_aside **out, glia_err *err) {
    struct http_aside *a = *out = glia_calloc(1, sizeof *a);
    if (!a) return glia_fail(err, GLIA_ENOMEM, "out of memory for the HTTP server");
    pthread_mutex_init(&a->mu, NULL);
    pthread_cond_init(&a->some, NULL);
    a->shorts.end = &a->shorts.first;
    a->longs.end = &a->longs.first;
    for (; a->n_threads < N_THREADS; a->n_threads++) {
        if (!pthread_create(&a->threads[a->n_threads], NULL, run, a)) continue;
        http_aside_stop(a);
        http_aside_free(a);
        *out = NULL;
        return glia_fail(err, GLIA_EIO, "cannot start an HTTP thread: out of memory or threads");
    }
    return GLIA_OK;
}

void http_aside_stop(struct http_aside *a) {
    if (!a) return;
    pthread_mutex_lock(&a->mu);
    a->quit = true;
    pthread_cond_broadcast(&a->some);
    pthread_mutex_unlock(&a->mu);
    for (size_t i = 0; i < a->n_threads; i++) pthread_join(a->threads[i], NULL);
}

void http_aside_free(struct http_aside *a) {
    if (!a) return;
    pthread_mutex_destroy(&a->mu);
    pthread_cond_destroy(&a->some);
    glia_free(a);
}

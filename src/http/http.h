/* http/http.h — the HTTP/1.1 server: sockets, limits, routing, streaming bodies.
 *
 * Owns the listening sockets, connections and libmicrohttpd; runs its own threads.  Knows no endpoint, no JSON beyond
 * what the error writer callback gives it, no model.  Handlers run on HTTP threads and must not block for long:
 * whatever waits for the engine answers with a *generator* (below), which is pulled.
 *
 * A connection waiting for its generator is suspended; a watcher polls suspended sockets for POLLRDHUP, since
 * libmicrohttpd does not see a client vanish meanwhile, and calls gone(). */
#ifndef GLIA_HTTP_HTTP_H
#define GLIA_HTTP_HTTP_H
#include "glia.h"
#include <sys/types.h>

typedef struct glia_http glia_http;             /* a server */
typedef struct glia_http_request glia_http_request; /* one request, valid until its reply is finished */
typedef struct glia_http_waker glia_http_waker; /* wakes a suspended connection; refcounted, outlives it */

/* -- reading a request (all borrowed until the reply is finished) */
const char *glia_http_method(const glia_http_request *rq);
const char *glia_http_path(const glia_http_request *rq);                      /* decoded, without query */
const char *glia_http_query(const glia_http_request *rq, const char *name);   /* NULL when absent */
const char *glia_http_header(const glia_http_request *rq, const char *name);  /* case-insensitive, NULL when absent */
const char *glia_http_param(const glia_http_request *rq, const char *name);   /* {name} of the route pattern */
const char *glia_http_body(const glia_http_request *rq, size_t *n);           /* whole body, NUL-terminated, "" when none */

/* -- plain replies: exactly one per handler call, unless it answers with a generator */
glia_status glia_http_header_add(glia_http_request *rq, const char *name, const char *value); /* before the reply */
/* Take a malloc'ed body (freed by the server, also on failure). */
glia_status glia_http_reply_take(glia_http_request *rq, int status, const char *content_type, char *body, size_t n);
glia_status glia_http_reply(glia_http_request *rq, int status, const char *content_type, const void *body, size_t n); /* copies */

/* -- generators: replies whose bytes come later */
enum { GLIA_HTTP_WAIT = 0, GLIA_HTTP_END = -1, GLIA_HTTP_ABORT = -2 };
typedef struct glia_http_generator {
    /* Called before anything was sent, first at once and then after each wake.  Returns GLIA_HTTP_WAIT (call me again
     * when woken), GLIA_HTTP_END (it has called glia_http_reply*, done), or 1: the reply is a stream; it has then
     * called glia_http_stream().  GLIA_HTTP_ABORT closes the connection. */
    int (*start)(void *self, glia_http_request *rq);
    /* Streams only: fill up to max bytes.  > 0: bytes written; WAIT; END: body complete; ABORT: close without the
     * final chunk, so that the client sees a broken stream. */
    ssize_t (*read)(void *self, char *out, size_t max);
    void (*gone)(void *self); /* the client vanished (or the server stops): cancel the work; free() still follows */
    void (*free)(void *self); /* last call; never concurrently with another */
} glia_http_generator;

/* Answer with a generator; the server owns self from here on, also on failure.  start/read/gone are never called
 * concurrently for one self. */
glia_status glia_http_defer(glia_http_request *rq, const glia_http_generator *g, void *self);
glia_status glia_http_stream(glia_http_request *rq, int status, const char *content_type); /* inside start() only */

/* The waker of this request's connection.  wake() may be called from any thread, at any time, any number of times,
 * also after the connection ended; never blocks on the client. */
glia_http_waker *glia_http_waker_get(glia_http_request *rq); /* +1 reference */
void glia_http_waker_wake(glia_http_waker *w);
void glia_http_waker_release(glia_http_waker *w);

/* -- routes: a table owned by the caller, ended by a row with method NULL.  HEAD is served by GET, OPTIONS and CORS
 *    by the server, a known path with another method answers 405 with Allow. */
typedef struct glia_http_route {
    const char *method;  /* "GET", "POST", "DELETE" */
    const char *pattern; /* "/v1/models/{id}"; {id} takes one segment, {id...} the rest */
    void (*handle)(void *ud, glia_http_request *rq);
    const char *summary; /* one line for the OpenAPI page */
    bool open;           /* served without an API key (health) */
} glia_http_route;

typedef struct glia_http_params {
    const char *const *listen; /* [n_listen] "HOST:PORT", "[::1]:PORT"; port 0 takes a free one */
    size_t n_listen;
    const glia_http_route *routes;
    void *ud;
    const char *const *api_keys; /* [n_api_keys]; none: no key asked.  Authorization: Bearer …, or x-api-key */
    size_t n_api_keys;
    size_t max_body;       /* 0: 64 MiB */
    size_t max_header;     /* 0: 64 KiB */
    size_t max_connections; /* 0: 1100 */
    size_t max_body_total; /* bytes of all bodies being received; 0: 512 MiB */
    unsigned idle_s;       /* 0: 60; a connection that sends or takes nothing for so long is closed */
    int n_threads;         /* 0: 4 */
    /* Write the error body for err: *content_type is static; the result is malloc'ed.  Must not fail for ENOMEM: may
     * return NULL, then a plain line is sent. */
    char *(*error_body)(const glia_err *err, size_t *n, const char **content_type);
} glia_http_params;

/* Answer with an error through error_body. */
glia_status glia_http_reply_error(glia_http_request *rq, const glia_err *err);

/* EIO: address in use or not permitted (message names it and the way out). */
glia_status glia_http_start(glia_http **out, const glia_http_params *p, glia_err *err);
int glia_http_port(const glia_http *h, size_t i_listen);  /* bound port */
/* Stop accepting, call gone() on generators after grace_ms, wait for all of them, free.  NULL is fine. */
void glia_http_stop(glia_http *h, unsigned grace_ms);
#endif

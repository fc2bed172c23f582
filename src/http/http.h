/* http/http.h — the HTTP/1.1 server: sockets, limits, routing, streaming bodies.
 *
 * Owns the listening sockets, connections and libmicrohttpd; runs its own threads.  Knows no endpoint, no JSON beyond
 * what the error writer callback gives it, no model.  Handlers run on a few threads of their own, where they may compute and
 * read files for seconds, but not wait: whatever waits for the engine answers with a *generator* (below), which is pulled.
 *
 * What follows of one request (start, read, gone, free) runs on the one HTTP thread of its connection; handlers of
 * quick routes, too.  None of these run at the same time.  A connection waiting for its generator is suspended; a
 * watcher polls for POLLRDHUP, since libmicrohttpd does not see a client vanish meanwhile, and has gone() called.  A
 * client that closes only its sending half counts as gone.
 *
 * Answered here, before any handler: bad targets (400), missing keys (401), foreign Host names on a server that
 * listens on loopback alone (403), unknown paths (404) and methods (405), limits (413, 431, 503), OPTIONS and CORS
 * (every origin, without credentials).  libmicrohttpd answers what it cannot parse itself, in plain HTML: malformed
 * request lines, headers and lengths (400), headers past its memory (431, 414).
 *
 * SIGPIPE: HTTP threads block it and send with MSG_NOSIGNAL; the program should ignore it all the same. */
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
const char *glia_http_body(const glia_http_request *rq, size_t *n); /* whole body, NUL-terminated, "" when none */

/* Names this request in logs and in the reply's X-Request-Id: the client's own X-Request-Id when it is a token of at most
 * 128 characters, else one made here. */
const char *glia_http_request_id(const glia_http_request *rq);

/* A number that `before` (see glia_http_params) leaves for the handler; 0 when it left none. */
void glia_http_note_set(glia_http_request *rq, double note);
double glia_http_note(const glia_http_request *rq);

/* -- plain replies: exactly one per handler call, unless it answers with a generator.  A reply is sent when the handler
 *    (or start) has returned; a second one answers EINTERNAL and does nothing, none at all is a 500. */
/* EINVAL: not a token, control characters, or a header that is the server's (Content-Length, Content-Type, Connection,
 * Transfer-Encoding, Date). */
glia_status glia_http_header_add(glia_http_request *rq, const char *name, const char *value); /* before the reply */
/* Take a malloc'ed body (freed by the server, also on failure). */
glia_status glia_http_reply_take(glia_http_request *rq, int status, const char *content_type, char *body, size_t n);
glia_status glia_http_reply(glia_http_request *rq, int status, const char *content_type, const void *body,
                            size_t n); /* copies */

/* -- descriptors: whether the client sits on this machine and can be given one, over a listener unix:PATH */
bool glia_http_takes_fd(const glia_http_request *rq);
/* A reply with an open descriptor (SCM_RIGHTS) beside its first byte.  body is copied, at most GLIA_HTTP_FD_BODY bytes; the connection is closed
 * behind it.  fd is taken, also on failure: after the call it is the client's alone, and what it stands for ends with it.  A
 * client that is gone, or never looks, gets nothing and keeps nothing: the kernel closes what was under way.
 * EINVAL: not a Unix socket, or too long a body. */
enum { GLIA_HTTP_FD_BODY = 4096 };
glia_status glia_http_reply_fd(glia_http_request *rq, int status, const char *content_type, const void *body, size_t n,
                               int fd);

/* -- generators: replies whose bytes come later */
enum { GLIA_HTTP_WAIT = 0, GLIA_HTTP_END = -1, GLIA_HTTP_ABORT = -2, GLIA_HTTP_AGAIN = -3 };
typedef struct glia_http_generator {
    /* Called before anything was sent, first at once and then after each wake.  Returns GLIA_HTTP_WAIT (call me again
     * when woken), GLIA_HTTP_END (it has called glia_http_reply*, done), or 1: the reply is a stream; it has then
     * called glia_http_stream().  GLIA_HTTP_ABORT closes the connection.  GLIA_HTTP_AGAIN (it has not replied): what
     * was waited for is there; the route's handler is called as if the request had just come, then free(). */
    int (*start)(void *self, glia_http_request *rq);
    /* Streams only: fill up to max bytes.  > 0: bytes written; WAIT; END: body complete; ABORT: close without the
     * final chunk, so that the client sees a broken stream. */
    ssize_t (*read)(void *self, char *out, size_t max);
    /* The client vanished (or the server stops, or HEAD asked for a stream) before the last word (END, ABORT): cancel
     * the work; free() still follows.  May be NULL. */
    void (*gone)(void *self);
    void (*free)(void *self); /* last call; never concurrently with another */
} glia_http_generator;

/* Answer with a generator; the server owns self from here on, also on failure (which calls gone and free).  start is
 * first called when the handler has returned.  start/read/gone/free are never called concurrently for one self. */
glia_status glia_http_defer(glia_http_request *rq, const glia_http_generator *g, void *self);
glia_status glia_http_stream(glia_http_request *rq, int status, const char *content_type); /* inside start() only */
/* The same with a Content-Length: read must give so many bytes. */
glia_status glia_http_stream_sized(glia_http_request *rq, int status, const char *content_type, uint64_t n);

/* The waker of this request.  wake() may be called from any thread, at any time, any number of times, also after the
 * request ended; never blocks on the client.  Wakes may melt into one: after one, look at everything that is ready. */
glia_http_waker *glia_http_waker_get(glia_http_request *rq); /* +1 reference; never NULL */
void glia_http_waker_wake(glia_http_waker *w);
void glia_http_waker_release(glia_http_waker *w);

/* Of a route.  A quick one's handler takes microseconds and reads no file: it runs on its connection's thread, and so
 * answers when all other handlers compute. */
enum {
    GLIA_HTTP_OPEN = 1, /* served without an API key (health) */
    GLIA_HTTP_QUICK = 2
};

/* -- routes: a table owned by the caller, ended by a row with method NULL.  HEAD is served by GET, OPTIONS and CORS
 *    by the server, a known path with another method answers 405 with Allow. */
typedef struct glia_http_route {
    const char *method;  /* "GET", "POST", "DELETE" */
    const char *pattern; /* "/v1/models/{id}"; {id} takes one segment (which may hold %2F), {id...} one or more, also
                            before further segments; the most literal pattern wins, not the first */
    void (*handle)(void *ud, glia_http_request *rq);
    const char *summary; /* one line for the OpenAPI page */
    unsigned traits;     /* GLIA_HTTP_OPEN, GLIA_HTTP_QUICK, or 0 */
    uint32_t scope;      /* bits that a key must have; 0: all of them, so that a forgotten one is no door */
} glia_http_route;

/* A key and what it may do.  Which bit means what is the application's to say. */
#define GLIA_HTTP_ALL_SCOPES UINT32_MAX
typedef struct glia_http_key {
    const char *key;
    uint32_t scopes;
} glia_http_key;
/* Of the key that this request gave; all where the server asks for none. */
uint32_t glia_http_scopes(const glia_http_request *rq);
/* Of a key that came another way than in a header; 0: it is none of this server's. */
uint32_t glia_http_scopes_of(const glia_http_request *rq, const char *key);

/* -- what the server has answered so far */
enum { GLIA_HTTP_CLASSES = 5, GLIA_HTTP_BOUNDS = 8 };
typedef struct glia_http_count {
    const glia_http_route *route;          /* NULL: requests that found none */
    uint64_t replies[GLIA_HTTP_CLASSES];   /* 2xx, 3xx, 4xx, 5xx, and those that ended without a reply */
    uint64_t within[GLIA_HTTP_BOUNDS + 1]; /* requests that took at most so many seconds; last: all */
    double seconds;                        /* all of them together */
    uint64_t bytes;                        /* of reply bodies */
} glia_http_count;
double glia_http_count_bound(size_t i); /* seconds, i < GLIA_HTTP_BOUNDS */
/* Route i of the table, or (i = number of routes) what found no route; false: i is past these. */
bool glia_http_counts(const glia_http_request *rq, size_t i, glia_http_count *out);
size_t glia_http_live(const glia_http_request *rq); /* requests being answered now, this one included */

typedef struct glia_http_params {
    const char *const *listen; /* [n_listen] "HOST:PORT", "[::1]:PORT"; port 0 takes a free one; "unix:PATH": a socket
                                  file that only this user may connect to, removed at the end */
    size_t n_listen;
    const glia_http_route *routes;
    void *ud;
    const char *const *api_keys; /* [n_api_keys]; none: no key asked.  Authorization: Bearer …, or x-api-key */
    size_t n_api_keys;
    const glia_http_key *keys; /* [n_keys] the same with less than all rights; may stand beside api_keys */
    size_t n_keys;
    const char *(*scope_name)(uint32_t bit); /* for the message of a refusal; may be NULL */
    size_t max_body;       /* 0: 64 MiB */
    size_t max_header;     /* 0: 64 KiB */
    size_t max_connections; /* 0: 1100 */
    size_t max_body_total; /* bytes of all bodies of unfinished requests; 0: 512 MiB */
    unsigned idle_s;       /* 0: 60; a connection that sends or takes nothing for so long is closed */
    int n_threads;         /* 0: 4; raised to one for each 120 of max_connections (see internal.h) */
    /* Called before the handler of every request that found its route, once: it may reply or defer (to GLIA_HTTP_AGAIN)
     * instead, and leave a glia_http_note.  NULL: none. */
    void (*before)(void *ud, glia_http_request *rq);
    /* Write the error body for err, in answer to rq (NULL, or with a NULL path, when none could be read): *content_type is
     * static; the result is malloc'ed.  NULL: a plain line is sent.  Called on any thread of the server. */
    char *(*error_body)(const glia_http_request *rq, const glia_err *err, size_t *n, const char **content_type);
} glia_http_params;

/* Answer with an error through error_body, with WWW-Authenticate (401) and Retry-After: 1 (429, 503) where they belong.
 * The reply may be given even when this returns ENOMEM: then it says so. */
glia_status glia_http_reply_error(glia_http_request *rq, const glia_err *err);

/* EIO: address in use or not permitted (message names it and the way out).  Raises the soft limit of open files when
 * max_connections needs it.  Borrowed until stop: routes, ud. */
glia_status glia_http_start(glia_http **out, const glia_http_params *p, glia_err *err);
int glia_http_port(const glia_http *h, size_t i_listen);  /* bound port */
/* Stop accepting, call gone() on generators after grace_ms, wait for all of them, free.  Requests that arrive meanwhile
 * on open connections get 503.  Not from a handler.  NULL is fine. */
void glia_http_stop(glia_http *h, unsigned grace_ms);

/* Tell the service manager (NOTIFY_SOCKET, sd_notify(3)), e.g. "READY=1".  False: there is none, or it does not listen. */
bool glia_http_notify(const char *state);
#endif

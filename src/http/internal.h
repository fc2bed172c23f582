/* http/internal.h — what the files of src/http share; nobody else includes it.
 *
 * Threads:
 *   worker   one libmicrohttpd daemon with its own polling thread and at most HTTP_WORKER_CONNECTIONS connections.
 *            Callbacks of one request (start, read, gone, free) run on the worker of its connection.
 *   aside    handle runs there, while the connection is suspended, unless its route is quick (aside.c).  So all callbacks
 *            of a request run one after another, and it needs no lock of its own.
 *   service  accepts, hands sockets to the least loaded worker, watches the sockets of deferred requests for clients
 *            that vanish, reads off lingering sockets.  Runs no code of handlers, so nothing of theirs delays it.
 *   any      glia_http_waker_wake and _release; glia_http_stop.
 *
 * Locks, in this order: libmicrohttpd's response mutex (held around read) → glia_http.mu → glia_http_waker.mu →
 * libmicrohttpd's cleanup mutex (inside suspend and resume); http_aside.mu → that, too.  No callback of a generator runs
 * under mu. */
#ifndef GLIA_HTTP_INTERNAL_H
#define GLIA_HTTP_INTERNAL_H
#include "http.h"
#include "base/buf.h"
#include "count.h"
#include "route.h"
#include "target.h"
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#if MHD_VERSION < 0x00097002
typedef int http_mhd_result;
#else
typedef enum MHD_Result http_mhd_result;
#endif

/* Below the 128 events libmicrohttpd takes per epoll_wait: when exactly 128 are ready, 0.9.75 waits for a further
 * event before it serves any of them, which can last until the idle timeout. */
enum { HTTP_WORKER_CONNECTIONS = 120, HTTP_ID_MAX = 128 };

enum {
    HTTP_MAX_LINGER = 64,              /* sockets read off after an early answer */
    HTTP_LINGER_MS = 3000,
    HTTP_WATCH_MS = 80,                /* a vanished client is seen within this; the contract says 200 */
    HTTP_DRAIN_BYTES = 64 * 1024,      /* refused bodies up to this are read off, so that the connection survives */
    HTTP_POOL_EXTRA = 64 * 1024        /* of a connection's memory, beyond max_header: header table, reply headers; what is
                                          left is how much of a stream goes out at once (bench/IO.md) */
};

typedef struct http_worker {
    struct MHD_Daemon *daemon;
    struct glia_http *server;
    atomic_uint n_started, n_closed; /* connections, ever; wrap around */
    unsigned n_given;                /* handed over, ever; service thread only */
    int64_t given_ms;                /* when the last one was */
} http_worker;

typedef struct http_listener {
    int fd; /* -1: closed */
    int port;
    char host[256]; /* as in params, without brackets */
    bool loopback;
    char path[108]; /* of a Unix socket; "": none */
    dev_t dev;
    ino_t ino; /* of that file: another one in its place is not removed */
} http_listener;

/* One socket, from the moment libmicrohttpd took it until just before it closes it. */
typedef struct http_connection {
    int fd;
    glia_http_request *live; /* between handle() and the end of its reply */
    struct http_connection *prev, *next;
} http_connection;

typedef struct http_linger {
    int fd;
    int64_t until_ms;
} http_linger;

struct glia_http {
    const glia_http_route *routes;
    void *ud;
    char **api_keys; /* [n_api_keys], owned */
    uint32_t *key_scopes; /* [n_api_keys] */
    size_t n_api_keys;
    const char *(*scope_name)(uint32_t bit);
    size_t max_body, max_header, max_connections, max_body_total;
    unsigned idle_s;
    void (*before)(void *ud, glia_http_request *rq);
    char *(*error_body)(const glia_http_request *rq, const glia_err *err, size_t *n, const char **content_type);

    http_listener *listeners; /* [n_listeners] */
    size_t n_listeners;
    const char **host_names; /* [n_listeners], into listeners */
    bool loopback_only;      /* the Host header is checked */
    http_worker *workers;    /* [n_workers] */
    size_t n_workers;
    struct http_aside *aside;

    pthread_t service;
    bool service_runs;
    int wake[2]; /* pipe, a byte makes the service thread look around */
    struct pollfd *polls; /* service thread: its own sockets, then (under mu) the connections */
    http_connection **polled;

    http_counter *counters; /* [n_routes + 1], the last one for requests without a route */
    size_t n_routes;
    atomic_uint_fast64_t next_id;
    int64_t started; /* makes ids differ between starts */

    atomic_bool stopping;  /* no new connections and requests */
    atomic_bool cancelled; /* nothing suspends any more, generators are gone */
    atomic_size_t body_bytes;

    pthread_mutex_t mu;
    pthread_cond_t idle;     /* n_live fell to 0 */
    http_connection *connections;
    size_t n_ws;   /* WebSockets, from their handshake until libmicrohttpd has them back */
    size_t n_live; /* requests between handle() and the freeing of their generator */
    bool quit;
    http_linger linger_in[HTTP_MAX_LINGER]; /* on their way to the service thread */
    size_t n_linger_in;
};

/* RUNNING ⇄ SUSPENDED, RUNNING → ENDED (functions in stream.c):
 *   suspend()                       RUNNING → SUSPENDED, on the worker, unless woken since begin_round()
 *   wake and http_waker_vanish()    SUSPENDED → RUNNING by MHD_resume_connection; while RUNNING they only leave a mark
 *                                   that begin_round() or suspend() finds
 *   http_waker_end()                → ENDED; c is dead
 * MHD_resume_connection is thus called exactly once per MHD_suspend_connection, under mu, while c is alive. */
typedef enum { HTTP_WAKER_RUNNING, HTTP_WAKER_SUSPENDED, HTTP_WAKER_ENDED } http_waker_state;

struct glia_http_waker {
    atomic_uint refs;
    pthread_mutex_t mu;
    http_waker_state state;
    bool woken, vanished;
    struct MHD_Connection *c;
};

typedef enum {
    HTTP_PHASE_HEAD,   /* target seen, headers coming */
    HTTP_PHASE_BODY,   /* body comes and is kept (or skipped: GET) */
    HTTP_PHASE_REFUSE, /* body comes and is thrown away; the reply is ready */
    HTTP_PHASE_ASIDE,  /* suspended until the handler has returned */
    HTTP_PHASE_START,  /* deferred: start() has not answered yet */
    HTTP_PHASE_REPLY   /* queued */
} http_phase;

typedef struct http_header {
    struct http_header *next;
    char *value; /* behind name, same allocation */
    char name[];
} http_header;

struct glia_http_request {
    struct glia_http *server;
    struct MHD_Connection *c;
    http_connection *connection;
    http_phase phase;
    const char *method; /* libmicrohttpd's, lives as long as the request */
    char *raw_target;
    char id[HTTP_ID_MAX + 1];
    int64_t began_ms;
    uint64_t n_sent; /* bytes of a streamed body so far */
    uint64_t n_stream; /* of a streamed body together; MHD_SIZE_UNKNOWN: it ends when it ends */
    int refused;     /* status of a reply past libmicrohttpd, 0: none */
    http_target target;
    http_match match;
    uint32_t scopes; /* of its key */
    char *params[HTTP_MAX_PARAMS]; /* values, in the order of match.params */

    glia_buf body;
    size_t n_body;     /* bytes received, also of skipped bodies */
    size_t n_counted;  /* bytes added to server->body_bytes */
    uint64_t n_announced; /* Content-Length */
    bool skip_body;
    bool linger; /* the client may still be sending: read on for a while after the reply */

    bool in_handler; /* a reply may be given now */
    bool replied;    /* the reply's fields below are set */
    bool streaming;  /* its bytes come from g.read */
    int status;
    const char *content_type; /* copied into content_type_buf */
    char content_type_buf[128];
    char *reply_body; /* owned until libmicrohttpd takes it */
    size_t n_reply_body;
    bool static_body; /* reply_body is not ours to free */
    bool has_fd;      /* fd goes with the reply */
    int fd;
    http_header *headers, **headers_end;

    struct glia_ws *ws; /* it becomes a WebSocket; while its thread runs, that thread's */

    bool deferred;
    bool admitted; /* `before` has seen it */
    double note;   /* what it left for the handler */
    glia_http_generator g;
    void *self;
    glia_http_generator before_g; /* what the handler waited for, until it has been called again */
    void *before_self;
    glia_http_request *next_aside;
    atomic_bool finished; /* the generator said its last word: gone() is not called */
    glia_http_waker *waker;

    bool live;     /* counted in server->n_live */
    bool vanished; /* under server->mu */
};

/* request.c: what happens when a request is whole, and callbacks of libmicrohttpd */
void http_handle(glia_http_request *rq);           /* the route's handler, which replies or defers */
http_mhd_result http_go_on(glia_http_request *rq); /* with what the handler left: a reply or a generator */
void *http_on_target(void *worker, const char *target, struct MHD_Connection *c);
http_mhd_result http_on_request(void *worker, struct MHD_Connection *c, const char *url, const char *method,
                                const char *version, const char *upload, size_t *n_upload, void **request);
void http_on_completed(void *worker, struct MHD_Connection *c, void **request, enum MHD_RequestTerminationCode why);
void http_on_connection(void *worker, struct MHD_Connection *c, void **context,
                        enum MHD_ConnectionNotificationCode what);

/* reply.c */
bool http_is_token(const char *s); /* RFC 9110 §5.6.2, at most HTTP_ID_MAX characters */
http_mhd_result http_reply_send(glia_http_request *rq); /* queue what is recorded; NO: close the connection */
/* Answer and close at once, past libmicrohttpd, where it takes no reply (in the middle of a body, or out of memory).
 * rq may be NULL.  Always NO. */
http_mhd_result http_reply_raw(struct glia_http *h, int fd, glia_http_request *rq, const glia_err *err);
const char *http_reason(int status);
void http_reply_clear(glia_http_request *rq);

/* stream.c */
http_mhd_result http_generator_start(glia_http_request *rq); /* call start() until it answers or waits */
ssize_t http_generator_read(void *rq, uint64_t pos, char *out, size_t max);
void http_generator_end(glia_http_request *rq); /* gone() if unfinished, free() */
void http_waker_vanish(glia_http_waker *w);
void http_waker_end(glia_http_waker *w); /* no more resumes; drops this reference */

/* service.c */
void *http_service_run(void *server);
void http_service_kick(struct glia_http *h);
bool http_connection_open(http_worker *w, int fd, http_connection **out); /* false: out of memory */
void http_connection_close(http_worker *w, http_connection *k);
void http_live_add(glia_http_request *rq);
void http_live_undefer(glia_http_request *rq);
void http_live_defer(glia_http_request *rq);   /* from now on a client that vanishes is noticed */
void http_live_unwatch(glia_http_request *rq); /* its waker is touched no more by the service thread; it still counts */
void http_live_remove(glia_http_request *rq);
void http_live_vanish_all(struct glia_http *h);
/* Keep reading off fd's connection for a while, on a duplicate of fd, so that closing it does not reset the
 * connection before the client has read the reply. */
void http_linger_fd(struct glia_http *h, int fd);
bool http_fd_prepare(int fd); /* close-on-exec, not blocking */
int64_t http_now_ms(void);

/* aside.c */
glia_status http_aside_start(struct http_aside **out, glia_err *err);
void http_aside_stop(struct http_aside *a); /* when all that was given is handled; nothing is taken any more; NULL is fine */
void http_aside_free(struct http_aside *a); /* stopped, and no worker is left to ask */
/* Suspend rq and run http_handle elsewhere; then on_request is called in HTTP_PHASE_ASIDE.  False: do it here. */
bool http_aside_give(glia_http_request *rq);

/* websocket.c */
struct MHD_Response *http_ws_reply(glia_http_request *rq); /* the 101; NULL: out of memory */
void http_ws_end(glia_http_request *rq);
void http_ws_wake_all(struct glia_http *h);

/* listen.c */
void http_unlisten(http_listener *l); /* and removes the file of a Unix socket */
glia_status http_listen(http_listener *l, const char *address, glia_err *err);
#endif

/* http/websocket.c — handshake, the thread of a connection, its end.
 *
 *   glia_http_upgrade     on the worker: checks the handshake, records the 101
 *   http_ws_send_reply    on the worker: gives it to libmicrohttpd
 *   on_upgraded           on the worker: the socket is ours; its thread starts
 *   run                   until the client, the handler or the server closes; then the socket goes back to libmicrohttpd,
 *                         whose http_on_completed ends the request.  Where no thread ever ran, http_ws_end frees.
 *
 * libmicrohttpd keeps an upgraded connection suspended: glia_http_stop waits until each has been given back. */
#include "http/websocket.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "internal.h"
#include <errno.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wslay/wslay.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum {
    QUEUE_MAX = 4 << 20,   /* no message is read while more than this waits to be sent */
    CLOSE_WAIT_MS = 3000,  /* for the other side's close frame */
    SEND_WAIT_MS = 10000,  /* for a slow client to take what was queued before a close */
    STOP_LOOK_MS = 250,    /* a stopping server asks idle() so often */
    HANDSHAKE_KEY = 24     /* characters of Sec-WebSocket-Key */
};

struct glia_ws {
    glia_http_request *rq;
    glia_ws_handler handler;
    void *self;
    struct MHD_UpgradeResponseHandle *urh;
    int fd, wake[2];
    char *early; /* bytes that came together with the handshake */
    size_t n_early, early_at;
    wslay_event_context_ptr ctx;
    bool full;          /* woken() is owed once the queue has drained */
    bool broken;        /* stop at once: no memory, or the socket failed */
    uint16_t close_code; /* to be closed once everything is sent; 0: no */
    char close_reason[124];
    int64_t close_by;    /* with close_code: at the latest, sent or not */
    int64_t close_until; /* a close frame was queued: wait so long for the other side's; 0: none */
};

/* ------------------------------------------------------------------ handshake */

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    while (list && *list) {
        list += strspn(list, " \t,");
        size_t k = strcspn(list, " \t,");
        if (k == n && !strncasecmp(list, word, n)) return true;
        list += k;
    }
    return false;
}

/* RFC 6455 §4.2.2: base64(SHA-1(key, fixed id)) */
static bool accept_key(const char *key, char out[32]) {
    static const char id[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[HANDSHAKE_KEY + sizeof id];
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    (void)snprintf(text, sizeof text, "%s%s", key, id);
    if (!EVP_Digest(text, strlen(text), digest, &n, EVP_sha1(), NULL) || n != 20) return false;
    (void)EVP_EncodeBlock((unsigned char *)out, digest, 20);
    return true;
}

static glia_status handshake(glia_http_request *rq, glia_err *err) {
    const char *key = glia_http_header(rq, "Sec-WebSocket-Key"), *version = glia_http_header(rq, "Sec-WebSocket-Version");
    char accept[32];
    if (strcmp(rq->method, "GET") || !has_word(glia_http_header(rq, "Upgrade"), "websocket") ||
        !has_word(glia_http_header(rq, "Connection"), "upgrade")) {
        return glia_fail(err, GLIA_EINVAL, "%.100s is a WebSocket: connect with a WebSocket client", rq->target.path);
    }
    if (!version || strcmp(version, "13")) {
        (void)glia_http_header_add(rq, "Sec-WebSocket-Version", "13");
        return glia_fail(err, GLIA_EINVAL, "this server speaks version 13 of the WebSocket protocol");
    }
    if (!key || strlen(key) != HANDSHAKE_KEY || !accept_key(key, accept))
        return glia_fail(err, GLIA_EINVAL, "Sec-WebSocket-Key must be %d characters of base64", (int)HANDSHAKE_KEY);
    glia_status st = glia_http_header_add(rq, "Upgrade", "websocket");
    if (!st) st = glia_http_header_add(rq, "Sec-WebSocket-Accept", accept);
    return st ? glia_fail(err, st, "no memory for the WebSocket") : GLIA_OK;
}

static bool count_up(struct glia_http *h) {
    pthread_mutex_lock(&h->mu);
    bool room = h->n_ws < GLIA_WS_MAX && !atomic_load(&h->stopping);
    h->n_ws += room;
    pthread_mutex_unlock(&h->mu);
    return room;
}

static void count_down(struct glia_http *h) {
    pthread_mutex_lock(&h->mu);
    if (!--h->n_ws) pthread_cond_broadcast(&h->idle);
    pthread_mutex_unlock(&h->mu);
}

static void ws_free(glia_ws *ws) {
    ws->handler.free(ws->self);
    for (int i = 0; i < 2; i++) {
        if (ws->wake[i] >= 0) (void)close(ws->wake[i]);
    }
    if (ws->ctx) wslay_event_context_free(ws->ctx);
    glia_free(ws->early);
    glia_free(ws);
}

/* Under mu, for http_ws_wake_all. */
static void set_ws(glia_http_request *rq, glia_ws *ws) {
    pthread_mutex_lock(&rq->server->mu);
    rq->ws = ws;
    pthread_mutex_unlock(&rq->server->mu);
}

void http_ws_wake_all(struct glia_http *h) {
    pthread_mutex_lock(&h->mu);
    for (http_connection *k = h->connections; k; k = k->next) {
        if (k->live && k->live->ws) glia_ws_wake(k->live->ws);
    }
    pthread_mutex_unlock(&h->mu);
}

glia_status glia_http_upgrade(glia_http_request *rq, const glia_ws_handler *handler, void *self, glia_err *err) {
    glia_status st = !rq->in_handler || rq->replied || rq->deferred || rq->ws
                         ? glia_fail(err, GLIA_EINTERNAL, "a second reply to one request")
                         : handshake(rq, err);
    if (!st && !count_up(rq->server)) st = glia_fail(err, GLIA_EUNAVAILABLE, "too many WebSockets are open: try again later");
    glia_ws *ws = st ? NULL : glia_calloc(1, sizeof *ws);
    if (!ws) {
        if (!st) count_down(rq->server);
        handler->free(self);
        return st ? st : glia_fail(err, GLIA_ENOMEM, "no memory for the WebSocket");
    }
    ws->rq = rq, ws->handler = *handler, ws->self = self, ws->fd = ws->wake[0] = ws->wake[1] = -1;
    if (pipe(ws->wake) || !http_fd_prepare(ws->wake[0]) || !http_fd_prepare(ws->wake[1])) {
        count_down(rq->server);
        ws_free(ws);
        return glia_fail(err, GLIA_EUNAVAILABLE, "no descriptors for a WebSocket: try again later");
    }
    set_ws(rq, ws);
    rq->replied = true;
    rq->status = MHD_HTTP_SWITCHING_PROTOCOLS;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ wslay's view of the socket */

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t n, int flags, void *ud) {
    glia_ws *ws = ud;
    (void)flags;
    size_t left = ws->n_early - ws->early_at;
    if (left) {
        if (n > left) n = left;
        memcpy(buf, ws->early + ws->early_at, n);
        ws->early_at += n;
        return (ssize_t)n;
    }
    ssize_t got;
    do got = recv(ws->fd, buf, n, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got > 0) return got;
    bool later = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    wslay_event_set_error(ctx, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t n, int flags, void *ud) {
    const glia_ws *ws = ud;
    int more = 0;
#ifdef MSG_MORE
    if (flags & WSLAY_MSG_MORE) more = MSG_MORE;
#else
    (void)flags;
#endif
    ssize_t sent;
    do sent = send(ws->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL | more);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0) return sent;
    bool later = errno == EAGAIN || errno == EWOULDBLOCK;
    wslay_event_set_error(ctx, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static void on_msg(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m, void *ud) {
    glia_ws *ws = ud;
    (void)ctx;
    if (m->opcode == WSLAY_CONNECTION_CLOSE) {
        ws->close_code = WSLAY_CODE_NORMAL_CLOSURE;
        if (!ws->close_until) ws->close_until = http_now_ms() + CLOSE_WAIT_MS;
        return;
    }
    if (wslay_is_ctrl_frame(m->opcode) || ws->close_until || ws->close_code) return;
    if (m->opcode != WSLAY_TEXT_FRAME) {
        glia_ws_close(ws, WSLAY_CODE_UNSUPPORTED_DATA, "text messages only");
        return;
    }
    char *text = glia_strndup((const char *)m->msg, m->msg_length);
    if (!text) {
        ws->broken = true;
        return;
    }
    ws->handler.message(ws->self, text, m->msg_length);
    glia_free(text);
}

/* ------------------------------------------------------------------ the connection's thread */

bool glia_ws_send(glia_ws *ws, const char *text, size_t n) {
    struct wslay_event_msg m = {.opcode = WSLAY_TEXT_FRAME, .msg = (const uint8_t *)text, .msg_length = n};
    if (ws->close_until || ws->close_code) return true; /* nobody reads it */
    int rc = wslay_event_queue_msg(ws->ctx, &m);
    if (rc && rc != WSLAY_ERR_NO_MORE_MSG) ws->broken = true;
    ws->full |= glia_ws_queued(ws) > 0;
    return !ws->broken;
}

size_t glia_ws_queued(const glia_ws *ws) { return wslay_event_get_queued_msg_length(ws->ctx); }

void glia_ws_close(glia_ws *ws, uint16_t code, const char *reason) {
    if (ws->close_until || ws->close_code) return;
    ws->close_code = code;
    ws->close_by = http_now_ms() + SEND_WAIT_MS;
    (void)snprintf(ws->close_reason, sizeof ws->close_reason, "%s", reason);
}

/* wslay sends control frames before messages that wait. */
static void close_when_sent(glia_ws *ws) {
    if (!ws->close_code || ws->close_until || glia_ws_queued(ws)) return;
    ws->close_until = http_now_ms() + CLOSE_WAIT_MS;
    if (wslay_event_queue_close(ws->ctx, ws->close_code, (const uint8_t *)ws->close_reason, strlen(ws->close_reason)))
        ws->broken = true;
}

void glia_ws_wake(glia_ws *ws) {
    ssize_t n = write(ws->wake[1], "w", 1); /* a full pipe wakes as well */
    (void)n;
}

static bool drain_wakes(const glia_ws *ws) {
    char scrap[256];
    bool any = false;
    while (read(ws->wake[0], scrap, sizeof scrap) > 0) any = true;
    return any;
}

/* False: it is over. */
static bool step(glia_ws *ws) {
    struct glia_http *h = ws->rq->server;
    bool stopping = atomic_load(&h->stopping);
    if (stopping && ws->handler.idle(ws->self)) glia_ws_close(ws, WSLAY_CODE_GOING_AWAY, "the server is stopping");
    close_when_sent(ws);
    bool writes = wslay_event_want_write(ws->ctx), reads = wslay_event_want_read(ws->ctx);
    if (ws->broken || (!writes && !reads) || atomic_load(&h->cancelled)) return false;
    if (ws->close_code && http_now_ms() >= (ws->close_until ? ws->close_until : ws->close_by)) return false;
    if (glia_ws_queued(ws) > QUEUE_MAX) reads = false;
    struct pollfd p[2] = {{.fd = ws->fd, .events = (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0))},
                          {.fd = ws->wake[0], .events = POLLIN}};
    bool early = reads && ws->early_at < ws->n_early;
    (void)poll(p, 2, early ? 0 : stopping || ws->close_code || ws->close_until ? STOP_LOOK_MS : -1);
    if (drain_wakes(ws)) ws->handler.woken(ws->self);
    if ((early || (p[0].revents & (POLLIN | POLLHUP | POLLERR))) && wslay_event_recv(ws->ctx)) return false;
    if (wslay_event_want_write(ws->ctx) && wslay_event_send(ws->ctx)) return false;
    if (ws->full && !glia_ws_queued(ws)) {
        ws->full = false;
        ws->handler.woken(ws->self);
    }
    return true;
}

static bool make_context(glia_ws *ws) {
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_recv, .send_callback = on_send, .on_msg_recv_callback = on_msg};
    if (wslay_event_context_server_init(&ws->ctx, &callbacks, ws)) {
        ws->ctx = NULL;
        return false;
    }
    wslay_event_config_set_max_recv_msg_length(ws->ctx, ws->rq->server->max_body);
    return true;
}

static void *run(void *ud) {
    glia_ws *ws = ud;
    struct MHD_UpgradeResponseHandle *urh = ws->urh;
    ws->handler.open(ws->self, ws);
    while (step(ws)) {}
    set_ws(ws->rq, NULL);
    ws_free(ws);
    (void)MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE); /* the request may be gone when this returns */
    return NULL;
}

static void on_upgraded(void *cls, struct MHD_Connection *c, void *request, const char *extra, size_t n_extra,
                        MHD_socket fd, struct MHD_UpgradeResponseHandle *urh) {
    glia_ws *ws = cls;
    pthread_t thread;
    pthread_attr_t attr;
    (void)c, (void)request;
    ws->fd = fd, ws->urh = urh;
    (void)http_fd_prepare(fd);
    if (n_extra) ws->early = glia_memdup(extra, n_extra), ws->n_early = n_extra;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if ((n_extra && !ws->early) || !make_context(ws) || pthread_create(&thread, &attr, run, ws)) {
        glia_log(GLIA_LOG_WARN, "http: no memory or thread for a WebSocket");
        (void)MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
    }
    (void)pthread_attr_destroy(&attr);
}

/* ------------------------------------------------------------------ for request.c and reply.c */

struct MHD_Response *http_ws_reply(glia_http_request *rq) { return MHD_create_response_for_upgrade(on_upgraded, rq->ws); }

void http_ws_end(glia_http_request *rq) {
    if (rq->status != MHD_HTTP_SWITCHING_PROTOCOLS) return;
    glia_ws *ws = rq->ws; /* never opened */
    if (ws) {
        set_ws(rq, NULL);
        ws_free(ws);
    }
    count_down(rq->server);
}

/* http/websocket.h — a request that becomes a WebSocket (RFC 6455): text messages both ways until one side closes.
 *
 * Every open one has a thread of its own, on which all functions of its handler run, one at a time.  Frames, pings and the
 * closing handshake are wslay's.  Knows no message. */
#ifndef GLIA_HTTP_WEBSOCKET_H
#define GLIA_HTTP_WEBSOCKET_H
#include "http/http.h"

enum { GLIA_WS_MAX = 256 }; /* open at once; one more is refused with 503 */

typedef struct glia_ws glia_ws;

typedef struct glia_ws_handler {
    void (*open)(void *self, glia_ws *ws); /* ws lives until free */
    void (*message)(void *self, const char *text, size_t n); /* whole, UTF-8, NUL behind it; borrowed */
    void (*woken)(void *self);      /* after glia_ws_wake, and when what was queued has been sent */
    bool (*idle)(const void *self); /* nothing under way: a server that stops may close it now */
    void (*free)(void *self);       /* last; the connection is gone, or was never opened */
} glia_ws_handler;

/* Inside a handler, instead of a reply.  EINVAL: not a WebSocket handshake.  EUNAVAILABLE: too many are open.  self is taken,
 * also on failure; then the caller still has to reply. */
glia_status glia_http_upgrade(glia_http_request *rq, const glia_ws_handler *handler, void *self, glia_err *err);

/* -- on the connection's thread */
/* Queue a message.  False: out of memory, the connection is closing. */
bool glia_ws_send(glia_ws *ws, const char *text, size_t n);
size_t glia_ws_queued(const glia_ws *ws); /* bytes not sent yet; who produces much should wait while they are many */
/* 1000: done, 1001: going away, 1002: protocol, 1008: policy, 1009: too large, 1011: failed.  What is queued is sent before. */
void glia_ws_close(glia_ws *ws, uint16_t code, const char *reason);

/* Any thread, until free: have woken() called soon. */
void glia_ws_wake(glia_ws *ws);

#endif

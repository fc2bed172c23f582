/* api/lms_socket.h — the WebSocket protocol of LM Studio's SDKs: calls and channels of one connection.
 *
 * Everything runs on the connection's thread (http/websocket.h).  The first message of a connection says who it is; then
 * each message is a call, answered once, or belongs to a channel, over which both sides send until one closes it.
 *
 *   {"type":"rpcCall","endpoint","callId","parameter"}                → rpcResult | rpcError
 *   {"type":"channelCreate","endpoint","channelId","creationParameter"} → channelSend … channelClose | channelError
 *   {"type":"channelSend","channelId","message"}                      from the client, e.g. {"type":"cancel"}
 *   {"type":"keepAlive"}                                              → keepAliveAck
 *
 * Which endpoints there are is said by the tables of lms_calls.c, lms_predict.c, lms_load.c and lms_embed.c. */
#ifndef GLIA_API_LMS_SOCKET_H
#define GLIA_API_LMS_SOCKET_H
#include "api/app.h"
#include "api/json.h"
#include "http/websocket.h"

typedef struct glia_socket glia_socket;
typedef struct glia_channel glia_channel;

/* A channel, embedded in what serves it. */
struct glia_channel {
    void (*woken)(glia_channel *c);                      /* look at everything that is ready */
    void (*message)(glia_channel *c, yyjson_val *message); /* from the client */
    void (*free)(glia_channel *c);
    glia_socket *socket; /* set by the socket, as are the next ones */
    int64_t id;
    bool is_call; /* id is a call's: its one message is the result, its error the call's */
    bool ended; /* nothing more will be sent: forgotten, and freed, when the function that set it returns */
    glia_channel *next;
};

typedef struct glia_endpoint {
    const char *space, *name; /* "llm", "predict" */
    uint32_t scope;           /* what the key must have */
    /* Append the result of a call to *out (nothing: none), or fail. */
    glia_status (*call)(glia_socket *s, yyjson_val *parameter, glia_buf *out, glia_err *err);
    /* Or open a channel. */
    glia_status (*open)(glia_socket *s, yyjson_val *parameter, glia_channel **out, glia_err *err);
    bool is_call; /* open serves a call that takes its time */
} glia_endpoint;

/* Tables, each ended by a row without name. */
extern const glia_endpoint glia_lms_calls[], glia_lms_predictions[], glia_lms_loads[], glia_lms_embeddings[];

glia_app *glia_socket_app(const glia_socket *s);
const char *glia_socket_space(const glia_socket *s);    /* "llm" or "embedding" where both serve one endpoint */
uint32_t glia_socket_scopes(const glia_socket *s);
void glia_socket_wake(void *socket);                     /* any thread, until the channel is freed */
bool glia_socket_is_full(const glia_socket *s);          /* the client is slow: send no more until woken */

/* Send one message over a channel: open, append the JSON of "message" to the buffer, close. */
glia_buf *glia_channel_open_message(glia_channel *c);
void glia_channel_close_message(glia_channel *c);
void glia_channel_close(glia_channel *c);                      /* it is over */
void glia_channel_fail(glia_channel *c, const glia_err *err); /* it is over */

/* {"title":…,"displayData"?} as the SDKs read errors. */
void glia_add_lms_error(glia_buf *b, glia_app *app, const glia_err *err);

/* One handler for every namespace: the last part of the path names it. */
void glia_on_lms_socket(void *ud, glia_http_request *rq);

#endif

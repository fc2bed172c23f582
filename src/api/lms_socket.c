/* api/lms_socket.c — a connection of LM Studio's SDKs: who it is, its calls, its channels. */
#include "api/lms_socket.h"
#include "api/handlers.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

enum { MAX_CHANNELS = 64, MAX_WARNINGS = 8, FULL_BYTES = 1 << 20 };

struct glia_socket {
    glia_app *app;
    glia_http_request *rq;
    glia_ws *ws;
    char space[16];
    uint32_t scopes;
    bool known; /* it has said who it is */
    int n_warnings;
    glia_channel *channels;
    size_t n_channels;
    glia_buf out; /* the message being written */
};

glia_app *glia_socket_app(const glia_socket *s) { return s->app; }
const char *glia_socket_space(const glia_socket *s) { return s->space; }
uint32_t glia_socket_scopes(const glia_socket *s) { return s->scopes; }
void glia_socket_wake(void *socket) { glia_ws_wake(((glia_socket *)socket)->ws); }
bool glia_socket_is_full(const glia_socket *s) { return glia_ws_queued(s->ws) > FULL_BYTES; }

/* ------------------------------------------------------------------ sending */

static void send_out(glia_socket *s) {
    if (s->out.failed || !glia_ws_send(s->ws, s->out.p ? s->out.p : "", s->out.n))
        glia_ws_close(s->ws, 1011, "out of memory");
    glia_buf_clear(&s->out);
}

glia_buf *glia_channel_open_message(glia_channel *c) {
    glia_buf *b = &c->socket->out;
    if (c->is_call) glia_buf_addf(b, "{\"type\":\"rpcResult\",\"callId\":%lld,\"result\":", (long long)c->id);
    else glia_buf_addf(b, "{\"type\":\"channelSend\",\"channelId\":%lld,\"message\":", (long long)c->id);
    return b;
}

void glia_channel_close_message(glia_channel *c) {
    glia_buf_adds(&c->socket->out, "}");
    send_out(c->socket);
}

void glia_channel_close(glia_channel *c) {
    if (c->ended) return;
    c->ended = true;
    if (c->is_call) return;
    glia_buf_addf(&c->socket->out, "{\"type\":\"channelClose\",\"channelId\":%lld}", (long long)c->id);
    send_out(c->socket);
}

/* "displayData" lets the SDKs raise their own error for a model that is not there. */
void glia_add_lms_error(glia_buf *b, glia_app *app, const glia_err *err) {
    glia_buf_adds(b, "{\"title\":");
    glia_json_add_cstr(b, err->message);
    glia_buf_adds(b, ",\"rootTitle\":");
    glia_json_add_cstr(b, err->message);
    glia_buf_addf(b, ",\"errorData\":{\"code\":\"%s\",\"param\":", glia_status_code(err->status));
    glia_json_add_cstr(b, err->param[0] ? err->param : NULL);
    glia_buf_adds(b, "}");
    if (err->status == GLIA_EMODEL) {
        glia_instances *l = NULL;
        (void)glia_registry_list(app->models, &l, NULL);
        size_t n = l ? l->n : 0;
        glia_buf_adds(b, ",\"displayData\":{\"code\":\"generic.noModelMatchingQuery\",\"query\":{},\"loadedModelsSample\":[");
        for (size_t i = 0; i < n && i < 10; i++) {
            if (i) glia_buf_adds(b, ",");
            glia_json_add_cstr(b, l->items[i].id);
        }
        glia_instances_free(app->models, l);
        glia_buf_addf(b, "],\"totalLoadedModels\":%zu}", n);
    }
    glia_buf_adds(b, "}");
}

static void send_error(glia_socket *s, int64_t id, bool is_call, const glia_err *err) {
    glia_buf_addf(&s->out, is_call ? "{\"type\":\"rpcError\",\"callId\":%lld,\"error\":"
                                   : "{\"type\":\"channelError\",\"channelId\":%lld,\"error\":", (long long)id);
    glia_add_lms_error(&s->out, s->app, err);
    glia_buf_adds(&s->out, "}");
    send_out(s);
}

void glia_channel_fail(glia_channel *c, const glia_err *err) {
    if (c->ended) return;
    c->ended = true;
    send_error(c->socket, c->id, c->is_call, err);
}

/* What is wrong with a message that belongs to no call: a client that goes on like this is cut off. */
static void warn(glia_socket *s, const char *what) {
    if (++s->n_warnings > MAX_WARNINGS) {
        glia_ws_close(s->ws, 1002, "too many messages that this server does not understand");
        return;
    }
    glia_buf_adds(&s->out, "{\"type\":\"communicationWarning\",\"warning\":");
    glia_json_add_cstr(&s->out, what);
    glia_buf_adds(&s->out, "}");
    send_out(s);
}

/* ------------------------------------------------------------------ channels */

static glia_channel *find_channel(const glia_socket *s, int64_t id) {
    glia_channel *c = s->channels;
    while (c && (c->is_call || c->id != id)) c = c->next;
    return c;
}

/* Free those that have ended. */
static void sweep(glia_socket *s) {
    for (glia_channel **at = &s->channels; *at;) {
        glia_channel *c = *at;
        if (!c->ended) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        s->n_channels--;
        c->free(c);
    }
}

/* ------------------------------------------------------------------ messages */

static const glia_endpoint *find_endpoint(const glia_socket *s, const char *name, bool channel) {
    const glia_endpoint *const tables[] = {glia_lms_calls, glia_lms_predictions, glia_lms_loads, glia_lms_embeddings};
    for (size_t i = 0; name && i < sizeof tables / sizeof *tables; i++) {
        for (const glia_endpoint *e = tables[i]; e->name; e++) {
            if (!strcmp(e->space, s->space) && !strcmp(e->name, name) && channel == (e->open && !e->is_call))
                return e;
        }
    }
    return NULL;
}

static glia_status choose(const glia_socket *s, const char *name, bool channel, const glia_endpoint **out,
                          glia_err *err) {
    *out = find_endpoint(s, name, channel);
    if (!*out)
        return glia_fail_at(err, GLIA_ENOTFOUND, "endpoint", "this server has no %s \"%.60s\" under /%s",
                            channel ? "channel" : "call", name ? name : "", s->space);
    if (((*out)->scope & s->scopes) == (*out)->scope) return GLIA_OK;
    uint32_t lacks = (*out)->scope & ~s->scopes;
    const char *scope = glia_scope_name(lacks & -lacks);
    return glia_fail(err, GLIA_EFORBIDDEN, "this key may not %s: it lacks the scope %s", name, scope ? scope : "for it");
}

static glia_status begin(glia_socket *s, const glia_endpoint *e, int64_t id, yyjson_val *parameter, glia_err *err) {
    glia_channel *c = NULL;
    if (s->n_channels == MAX_CHANNELS)
        return glia_fail(err, GLIA_EBUSY, "no more than %d channels at once on a connection", (int)MAX_CHANNELS);
    glia_status st = e->open(s, parameter, &c, err);
    if (st) return st;
    c->socket = s, c->id = id, c->is_call = e->is_call;
    c->next = s->channels, s->channels = c;
    s->n_channels++;
    c->woken(c); /* it may have something at once */
    return GLIA_OK;
}

static void on_call(glia_socket *s, int64_t id, const char *name, yyjson_val *message) {
    const glia_endpoint *e;
    glia_err err;
    glia_buf result = {0};
    glia_status st = choose(s, name, false, &e, &err);
    if (!st && e->is_call) {
        if (begin(s, e, id, glia_json_get(message, "parameter"), &err)) send_error(s, id, true, &err);
        return;
    }
    if (!st) st = e->call(s, glia_json_get(message, "parameter"), &result, &err);
    if (!st && result.failed) st = glia_fail(&err, GLIA_ENOMEM, "no memory for the result");
    if (st) {
        glia_buf_clear(&result);
        send_error(s, id, true, &err);
        return;
    }
    glia_buf_addf(&s->out, "{\"type\":\"rpcResult\",\"callId\":%lld", (long long)id);
    if (result.n) {
        glia_buf_adds(&s->out, ",\"result\":");
        glia_buf_add(&s->out, result.p, result.n);
    }
    glia_buf_adds(&s->out, "}");
    glia_buf_clear(&result);
    send_out(s);
}

static void on_create(glia_socket *s, int64_t id, const char *name, yyjson_val *message) {
    const glia_endpoint *e;
    glia_err err;
    glia_status st = choose(s, name, true, &e, &err);
    if (!st && find_channel(s, id)) st = glia_fail_at(&err, GLIA_EINVAL, "channelId", "this channel is open already");
    if (!st) st = begin(s, e, id, glia_json_get(message, "creationParameter"), &err);
    if (st) send_error(s, id, false, &err);
}

static void on_send(glia_socket *s, int64_t id, yyjson_val *message) {
    glia_channel *c = find_channel(s, id);
    yyjson_val *inner = glia_json_get(message, "message");
    if (c && yyjson_is_obj(inner)) c->message(c, inner); /* else it ended while this was on its way */
}

static void dispatch(glia_socket *s, yyjson_val *m) {
    const char *type = NULL, *endpoint = NULL;
    int64_t id = -1;
    bool call, given = false;
    if (glia_json_str(m, "", "type", &type, NULL) || !type) {
        warn(s, "a message needs a type");
        return;
    }
    if (!strcmp(type, "keepAlive")) {
        glia_buf_adds(&s->out, "{\"type\":\"keepAliveAck\"}");
        send_out(s);
        return;
    }
    if (!strcmp(type, "communicationWarning") || !strcmp(type, "channelAck")) return;
    if (!strcmp(type, "signalSubscribe") || !strcmp(type, "writableSignalSubscribe")) {
        bool writable = type[0] == 'w';
        glia_err err;
        if (glia_json_int(m, "", "subscribeId", 0, INT64_MAX, &id, NULL, NULL)) return;
        (void)glia_fail(&err, GLIA_ENOTFOUND, "this server has no signals");
        glia_buf_addf(&s->out, "{\"type\":\"%s\",\"subscribeId\":%lld,\"error\":",
                      writable ? "writableSignalError" : "signalError", (long long)id);
        glia_add_lms_error(&s->out, s->app, &err);
        glia_buf_adds(&s->out, "}");
        send_out(s);
        return;
    }
    call = !strcmp(type, "rpcCall");
    if (!call && strcmp(type, "channelCreate") && strcmp(type, "channelSend")) {
        if (strcmp(type, "signalUnsubscribe") && strcmp(type, "writableSignalUnsubscribe"))
            warn(s, "a type of message that this server does not know");
        return;
    }
    if (glia_json_int(m, "", call ? "callId" : "channelId", INT64_MIN + 1, INT64_MAX, &id, &given, NULL) || !given ||
        glia_json_str(m, "", "endpoint", &endpoint, NULL)) {
        warn(s, call ? "rpcCall needs callId and endpoint" : "a channel's message needs channelId");
        return;
    }
    if (call) on_call(s, id, endpoint, m);
    else if (!strcmp(type, "channelCreate")) on_create(s, id, endpoint, m);
    else on_send(s, id, m);
}

/* {"authVersion":1,"clientIdentifier","clientPasskey"}: any names will do on a server without keys. */
static void authenticate(glia_socket *s, yyjson_val *m) {
    const char *key = NULL;
    int64_t version = 0;
    const char *why = NULL;
    if (glia_json_int(m, "", "authVersion", 0, INT32_MAX, &version, NULL, NULL) || version != 1)
        why = "the first message must be {\"authVersion\":1,\"clientIdentifier\":…,\"clientPasskey\":…}";
    (void)glia_json_str(m, "", "clientPasskey", &key, NULL);
    if (key) s->scopes |= glia_http_scopes_of(s->rq, key);
    if (!why && !s->scopes) why = "clientPasskey must be an API key of this server";
    glia_buf_addf(&s->out, "{\"success\":%s", why ? "false" : "true");
    if (why) {
        glia_buf_adds(&s->out, ",\"error\":");
        glia_json_add_cstr(&s->out, why);
    }
    glia_buf_adds(&s->out, "}");
    send_out(s);
    if (why) glia_ws_close(s->ws, 1008, "not authenticated");
    s->known = !why;
}

static void on_message(void *self, const char *text, size_t n) {
    glia_socket *s = self;
    yyjson_doc *doc = NULL;
    yyjson_val *root;
    glia_err err;
    if (glia_json_parse_object(&doc, &root, text, n, &err)) warn(s, err.message);
    else if (!s->known) authenticate(s, root);
    else dispatch(s, root);
    yyjson_doc_free(doc);
    sweep(s);
}

/* ------------------------------------------------------------------ life */

static void on_open(void *self, glia_ws *ws) { ((glia_socket *)self)->ws = ws; }

static void on_woken(void *self) {
    glia_socket *s = self;
    for (glia_channel *c = s->channels; c; c = c->next) {
        if (!c->ended) c->woken(c);
    }
    sweep(s);
}

static bool is_idle(const void *self) { return !((const glia_socket *)self)->n_channels; }

static void on_free(void *self) {
    glia_socket *s = self;
    for (glia_channel *c = s->channels; c; c = c->next) c->ended = true;
    sweep(s);
    glia_buf_clear(&s->out);
    glia_free(s);
}

void glia_on_lms_socket(void *ud, glia_http_request *rq) {
    static const glia_ws_handler handler = {on_open, on_message, on_woken, is_idle, on_free};
    const char *space = strrchr(glia_http_path(rq), '/');
    glia_err err;
    glia_socket *s = glia_calloc(1, sizeof *s);
    if (!s) {
        (void)glia_fail(&err, GLIA_ENOMEM, "no memory for the WebSocket");
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    s->app = ud, s->rq = rq;
    strncpy(s->space, space ? space + 1 : "", sizeof s->space - 1);
    s->scopes = glia_http_scopes(rq);
    if (glia_http_upgrade(rq, &handler, s, &err)) (void)glia_http_reply_error(rq, &err);
}

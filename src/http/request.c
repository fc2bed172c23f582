/* http/request.c — from libmicrohttpd's callbacks to a handler: checks, body, dispatch, end.
 *
 * Owns glia_http_request, which lives from the request line to the end of the reply.  Runs on the worker of the
 * connection, http_handle on a thread of aside.c.  Knows no endpoint.
 *
 *   on_target   request line parsed                       → HEAD
 *   on_request  HEAD, headers complete: check_head        → BODY, or REFUSE with the reply recorded
 *               BODY, bytes: kept, or too many: raw reply → connection closes
 *               BODY, complete: dispatch                  → ASIDE, or (a quick route) as after it
 *               ASIDE, handle() has returned              → REPLY, or START when deferred
 *               REFUSE, bytes: dropped; complete          → REPLY
 *               START, after each resume                  → START or REPLY, or ASIDE again
 *   on_completed  from any state: gone(), free() */
#include "internal.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "guard.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ------------------------------------------------------------------ reading a request */

const char *glia_http_method(const glia_http_request *rq) { return rq->method; }
void glia_http_note_set(glia_http_request *rq, double note) { rq->note = note; }
double glia_http_note(const glia_http_request *rq) { return rq->note; }

const char *glia_http_path(const glia_http_request *rq) { return rq->target.path; }

const char *glia_http_query(const glia_http_request *rq, const char *name) {
    return http_target_query(&rq->target, name);
}

const char *glia_http_header(const glia_http_request *rq, const char *name) {
    return MHD_lookup_connection_value(rq->c, MHD_HEADER_KIND, name);
}

const char *glia_http_param(const glia_http_request *rq, const char *name) {
    for (size_t i = 0; i < rq->match.n_params; i++) {
        const http_param *p = &rq->match.params[i];
        if (p->n_name == strlen(name) && !memcmp(p->name, name, p->n_name)) return rq->params[i];
    }
    return NULL;
}

const char *glia_http_body(const glia_http_request *rq, size_t *n) {
    if (n) *n = rq->body.n;
    return rq->body.p ? rq->body.p : "";
}

const char *glia_http_request_id(const glia_http_request *rq) { return rq->id; }

static void choose_id(glia_http_request *rq) {
    const char *given = glia_http_header(rq, "X-Request-Id");
    struct glia_http *h = rq->server;
    if (given && http_is_token(given)) {
        (void)snprintf(rq->id, sizeof rq->id, "%s", given);
        return;
    }
    unsigned long long number = atomic_fetch_add(&h->next_id, 1) + 1;
    (void)snprintf(rq->id, sizeof rq->id, "req-%llx-%llx", (unsigned long long)h->started, number);
}

bool glia_http_counts(const glia_http_request *rq, size_t i, glia_http_count *out) {
    const struct glia_http *h = rq->server;
    if (i > h->n_routes) return false;
    http_counter_read(&h->counters[i], out);
    out->route = i < h->n_routes ? &h->routes[i] : NULL;
    return true;
}

size_t glia_http_live(const glia_http_request *rq) {
    struct glia_http *h = rq->server;
    pthread_mutex_lock(&h->mu);
    size_t n = h->n_live;
    pthread_mutex_unlock(&h->mu);
    return n;
}

/* ------------------------------------------------------------------ checks before the body */

static bool is_one_of(const char *s, const char *const *list) {
    for (; *list; list++) {
        if (!strcmp(s, *list)) return true;
    }
    return false;
}

typedef struct {
    const char *first;
    bool differ;
} field_scan;

static http_mhd_result on_content_length(void *cls, enum MHD_ValueKind kind, const char *name, const char *value) {
    field_scan *s = cls;
    (void)kind;
    if (strcasecmp(name, "Content-Length")) return MHD_YES;
    if (s->first && value && strcmp(s->first, value)) s->differ = true;
    s->first = value;
    return MHD_YES;
}

/* How long is the body?  What two readers could understand differently is refused (request smuggling). */
static glia_status check_framing(glia_http_request *rq, glia_err *err) {
    const char *te = glia_http_header(rq, "Transfer-Encoding");
    field_scan cl = {0};
    (void)MHD_get_connection_values(rq->c, MHD_HEADER_KIND, on_content_length, &cl);
    rq->n_announced = UINT64_MAX; /* of a refused one nobody knows */
    if (te && strcasecmp(te, "chunked")) {
        return glia_fail(err, GLIA_EINVAL, "Transfer-Encoding \"%s\" is not understood: send chunked or Content-Length",
                         te);
    }
    if (cl.differ || (te && cl.first)) {
        return glia_fail(err, GLIA_EINVAL, "the request gives its length twice: send one Content-Length, or chunked");
    }
    rq->n_announced = cl.first ? strtoull(cl.first, NULL, 10) : 0;
    return GLIA_OK;
}

static glia_status check_host(glia_http_request *rq, const char *version, glia_err *err) {
    const struct glia_http *h = rq->server;
    const char *host = rq->target.authority ? rq->target.authority : glia_http_header(rq, "Host");
    if (!host && !strcmp(version, "HTTP/1.1")) return glia_fail(err, GLIA_EINVAL, "the Host header is missing");
    if (!host || !h->loopback_only || http_host_is_local(host, h->host_names, h->n_listeners)) return GLIA_OK;
    return glia_fail(err, GLIA_EFORBIDDEN,
                     "this server listens on this machine alone and does not answer to the name \"%.100s\": ask "
                     "localhost, or let it listen on a network address", host);
}

static glia_status check_length(const glia_http_request *rq, uint64_t n, glia_err *err) {
    if (n <= rq->server->max_body) return GLIA_OK;
    return glia_fail(err, GLIA_ETOOLARGE,
                     "the request body has more than the %zu bytes allowed: send less, or raise the "
                     "limit of the server",
                     rq->server->max_body);
}

static void reply_options(glia_http_request *rq, const char *allow) {
    const char *asked = glia_http_header(rq, "Access-Control-Request-Headers");
    if (!asked || !http_is_token_list(asked)) asked = "Authorization, Content-Type, X-API-Key";
    (void)glia_http_header_add(rq, "Allow", allow);
    (void)glia_http_header_add(rq, "Access-Control-Allow-Methods", allow);
    (void)glia_http_header_add(rq, "Access-Control-Allow-Headers", asked);
    (void)glia_http_header_add(rq, "Access-Control-Max-Age", "7200");
    (void)glia_http_reply(rq, 204, NULL, NULL, 0);
}

/* Who asks, and may they ask for this? */
static glia_status check_key(glia_http_request *rq, glia_err *err) {
    const struct glia_http *h = rq->server;
    const glia_http_route *route = rq->match.route;
    rq->scopes = GLIA_HTTP_ALL_SCOPES;
    if (!h->n_api_keys) return GLIA_OK;
    size_t which = http_key_given((const char *const *)h->api_keys, h->n_api_keys,
                                  glia_http_header(rq, "Authorization"), glia_http_header(rq, "x-api-key"));
    rq->scopes = which < h->n_api_keys ? h->key_scopes[which] : 0;
    if (route && route->traits & GLIA_HTTP_OPEN) return GLIA_OK;
    if (which == h->n_api_keys) {
        return glia_fail(err, GLIA_EAUTH,
                         "API key missing or wrong: send Authorization: Bearer KEY, or x-api-key: KEY");
    }
    uint32_t lacks = route ? (route->scope ? route->scope : GLIA_HTTP_ALL_SCOPES) & ~rq->scopes : 0;
    if (!lacks) return GLIA_OK;
    const char *name = h->scope_name ? h->scope_name(lacks & -lacks) : NULL;
    return glia_fail(err, GLIA_EFORBIDDEN, "this API key may not do %s %.160s: it lacks the scope %s", rq->method,
                     route->pattern, name ? name : "for it");
}

uint32_t glia_http_scopes(const glia_http_request *rq) { return rq->scopes; }

uint32_t glia_http_scopes_of(const glia_http_request *rq, const char *key) {
    const struct glia_http *h = rq->server;
    if (!h->n_api_keys) return GLIA_HTTP_ALL_SCOPES;
    size_t which = http_key_given((const char *const *)h->api_keys, h->n_api_keys, NULL, key);
    return which < h->n_api_keys ? h->key_scopes[which] : 0;
}

static glia_status check_route(glia_http_request *rq, glia_err *err) {
    const struct glia_http *h = rq->server;
    bool options = !strcmp(rq->method, "OPTIONS"), star = rq->target.path[0] != '/';
    char allow[HTTP_MAX_ALLOW];
    if (star) {
        if (!options) return glia_fail(err, GLIA_EINVAL, "\"*\" is a target for OPTIONS only");
        http_routes_allow(h->routes, allow);
        reply_options(rq, allow);
        return GLIA_OK;
    }
    http_match *m = &rq->match;
    http_route_match(h->routes, rq->method, &rq->target, m);
    if (options && !m->route && m->allow[0]) { /* needs no key: browsers send none with a preflight */
        reply_options(rq, m->allow);
        return GLIA_OK;
    }
    glia_status st = check_key(rq, err);
    if (st) return st;
    if (m->route) {
        for (size_t i = 0; i < m->n_params; i++) {
            if (!(rq->params[i] = glia_strndup(rq->target.path + m->params[i].at, m->params[i].n))) {
                return glia_fail(err, GLIA_ENOMEM, "out of memory for the request");
            }
        }
        return GLIA_OK;
    }
    if (m->allow[0]) {
        (void)glia_http_header_add(rq, "Allow", m->allow);
        return glia_fail(err, GLIA_EMETHOD, "%.20s is not possible at %.160s: use %s", rq->method, rq->target.path,
                         m->allow);
    }
    const char *near = http_route_nearest(h->routes, rq->method, &rq->target);
    return glia_fail(err, GLIA_ENOTFOUND, "unknown path %.200s: did you mean %s?", rq->target.path, near ? near : "/");
}

/* Fills err, or records the reply to OPTIONS, or finds the route. */
static glia_status check_head(glia_http_request *rq, const char *version, glia_err *err) {
    struct glia_http *h = rq->server;
    glia_status st;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(rq->c, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (info && info->header_size > h->max_header) {
        return glia_fail(err, GLIA_EHEADERS, "the request headers have more than the %zu bytes allowed: send fewer or "
                         "shorter ones", h->max_header);
    }
    if ((st = check_framing(rq, err))) return st;
    if ((st = http_target_parse(&rq->target, rq->raw_target, err))) return st;
    if ((st = check_host(rq, version, err))) return st;
    if (atomic_load(&h->stopping)) return glia_fail(err, GLIA_EUNAVAILABLE, "the server is stopping");
    if ((st = check_route(rq, err))) return st;
    return check_length(rq, rq->n_announced, err);
}

/* ------------------------------------------------------------------ phases */

void http_handle(glia_http_request *rq) {
    struct glia_http *h = rq->server;
    glia_err err;
    rq->in_handler = true;
    if (h->before && !rq->admitted) h->before(h->ud, rq);
    rq->admitted = true;
    if (!rq->deferred && !rq->replied && atomic_load(&h->cancelled)) {
        (void)glia_fail(&err, GLIA_EUNAVAILABLE, "the server is stopping");
        (void)glia_http_reply_error(rq, &err);
    }
    if (!rq->deferred && !rq->replied) rq->match.route->handle(h->ud, rq);
    if (!rq->deferred && !rq->replied) {
        glia_log(GLIA_LOG_ERROR, "http: the handler of %s gave no reply", rq->match.route->pattern);
        (void)glia_fail(&err, GLIA_EINTERNAL, "the server lost the reply to this request: please report it");
        (void)glia_http_reply_error(rq, &err);
    }
    rq->in_handler = false;
    if (rq->before_g.free) rq->before_g.free(rq->before_self);
    rq->before_g = (glia_http_generator){0};
}

http_mhd_result http_go_on(glia_http_request *rq) {
    return rq->deferred ? http_generator_start(rq) : http_reply_send(rq);
}

static http_mhd_result dispatch(glia_http_request *rq) {
    rq->phase = HTTP_PHASE_REPLY;
    http_live_add(rq);
    if (http_aside_give(rq)) return MHD_YES;
    http_handle(rq);
    return http_go_on(rq);
}

static http_mhd_result take_head(glia_http_request *rq, const char *version) {
    static const char *const skipped[] = {"GET", "HEAD", "OPTIONS", NULL};
    glia_err err;
    choose_id(rq);
    rq->in_handler = true;
    glia_status st = check_head(rq, version, &err);
    if (st) (void)glia_http_reply_error(rq, &err);
    rq->in_handler = false;
    rq->skip_body = is_one_of(rq->method, skipped);
    if (!rq->replied) {
        rq->phase = HTTP_PHASE_BODY;
        return MHD_YES;
    }
    rq->phase = HTTP_PHASE_REFUSE;
    bool chunked = glia_http_header(rq, "Transfer-Encoding") != NULL;
    if (!chunked && !rq->n_announced) return MHD_YES;
    if (!chunked && rq->n_announced <= HTTP_DRAIN_BYTES && !glia_http_header(rq, "Expect")) return MHD_YES;
    /* Answer now.  libmicrohttpd reads no more of this connection and closes it. */
    rq->linger = true;
    return http_reply_send(rq);
}

/* A body that fails on its way: libmicrohttpd takes no reply here. */
static http_mhd_result fail_body(glia_http_request *rq, const glia_err *err) {
    return http_reply_raw(rq->server, rq->connection->fd, rq, err);
}

static http_mhd_result take_body(glia_http_request *rq, const char *p, size_t n) {
    struct glia_http *h = rq->server;
    glia_err err;
    rq->n_body += n;
    if (check_length(rq, rq->n_body, &err)) return fail_body(rq, &err);
    if (rq->skip_body) return MHD_YES;
    size_t total = atomic_fetch_add(&h->body_bytes, n) + n;
    rq->n_counted += n;
    if (total > h->max_body_total) {
        (void)glia_fail(&err, GLIA_EUNAVAILABLE,
                        "the server is receiving too many large requests: try again in a moment");
        return fail_body(rq, &err);
    }
    /* Bytes that are only announced cost no memory; a megabyte is taken on trust to save the first copies. */
    if (!rq->body.p && rq->n_announced > n) {
        (void)glia_buf_reserve(&rq->body, rq->n_announced < (1 << 20) ? (size_t)rq->n_announced : 1 << 20);
    }
    if (!glia_buf_add(&rq->body, p, n)) {
        (void)glia_fail(&err, GLIA_ENOMEM, "out of memory for the request body: send less or try again");
        return fail_body(rq, &err);
    }
    return MHD_YES;
}

void *http_on_target(void *worker, const char *target, struct MHD_Connection *c) {
    http_worker *w = worker;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (!info || !info->socket_context) return NULL;
    glia_http_request *rq = glia_calloc(1, sizeof *rq);
    if (!rq) return NULL;
    rq->connection = info->socket_context;
    rq->server = w->server;
    rq->began_ms = http_now_ms();
    rq->c = c;
    rq->raw_target = glia_strdup(target ? target : "");
    rq->waker = glia_calloc(1, sizeof *rq->waker);
    if (!rq->raw_target || !rq->waker || pthread_mutex_init(&rq->waker->mu, NULL)) {
        glia_free(rq->raw_target);
        glia_free(rq->waker);
        glia_free(rq);
        return NULL;
    }
    atomic_init(&rq->waker->refs, 1);
    rq->waker->c = c;
    return rq;
}

http_mhd_result http_on_request(void *worker, struct MHD_Connection *c, const char *url, const char *method,
                                const char *version, const char *upload, size_t *n_upload, void **request) {
    glia_http_request *rq = *request;
    (void)url;
    if (!rq) { /* http_on_target had no memory */
        glia_err err;
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        (void)glia_fail(&err, GLIA_ENOMEM, "out of memory for the request: try again");
        return http_reply_raw(((http_worker *)worker)->server, info ? info->connect_fd : -1, NULL, &err);
    }
    size_t n = *n_upload;
    switch (rq->phase) {
    case HTTP_PHASE_HEAD: rq->method = method; return take_head(rq, version);
    case HTTP_PHASE_BODY:
        if (!n) return dispatch(rq);
        *n_upload = 0;
        return take_body(rq, upload, n);
    case HTTP_PHASE_REFUSE:
        *n_upload = 0;
        return n ? MHD_YES : http_reply_send(rq);
    case HTTP_PHASE_ASIDE: return http_go_on(rq);
    case HTTP_PHASE_START: return http_generator_start(rq);
    case HTTP_PHASE_REPLY: *n_upload = 0; return MHD_YES;
    }
    return MHD_NO;
}

/* The last thing known of a request: its line in the log, its place in the counters. */
static void account(glia_http_request *rq, bool whole) {
    struct glia_http *h = rq->server;
    const glia_http_route *route = rq->match.route;
    int status = rq->refused ? rq->refused : whole && rq->replied ? rq->status : 0;
    double ms = (double)(http_now_ms() - rq->began_ms);
    uint64_t bytes = rq->streaming ? rq->n_sent : rq->n_reply_body;
    http_count(&h->counters[route ? (size_t)(route - h->routes) : h->n_routes], status, ms * 1e-3, bytes);
    if (glia_log_get_level() < GLIA_LOG_INFO) return;
    const glia_log_field fields[] = {
        {"request_id", rq->id, 0}, {"method", rq->method ? rq->method : "", 0},
        {"path", rq->target.path ? rq->target.path : "", 0}, {"status", NULL, status},
        {"ms", NULL, ms}, {"bytes", NULL, (double)bytes},
    };
    glia_log_fields(GLIA_LOG_INFO, status ? "request" : "request without a whole reply", fields,
                    sizeof fields / sizeof *fields);
}

void http_on_completed(void *worker, struct MHD_Connection *c, void **request, enum MHD_RequestTerminationCode why) {
    glia_http_request *rq = *request;
    (void)worker, (void)c;
    if (!rq) return;
    *request = NULL;
    account(rq, why == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    if (rq->linger) http_linger_fd(rq->server, rq->connection->fd);
    /* The socket is watched no more and the connection resumed no more before the generator is told; but the request
     * counts as live until its generator is freed, which glia_http_stop waits for. */
    http_live_unwatch(rq);
    http_waker_end(rq->waker);
    http_generator_end(rq);
    http_ws_end(rq);
    http_live_remove(rq);
    atomic_fetch_sub(&rq->server->body_bytes, rq->n_counted);
    glia_buf_clear(&rq->body);
    http_reply_clear(rq);
    for (size_t i = 0; i < HTTP_MAX_PARAMS; i++) glia_free(rq->params[i]);
    http_target_clear(&rq->target);
    glia_free(rq->raw_target);
    glia_free(rq);
}

void http_on_connection(void *worker, struct MHD_Connection *c, void **context,
                        enum MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        http_connection *k = NULL; /* without one, on_target refuses the first request */
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (info) (void)http_connection_open(worker, info->connect_fd, &k);
        *context = k;
    } else {
        http_connection_close(worker, *context);
        *context = NULL;
    }
}

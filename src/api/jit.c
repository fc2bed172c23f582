/* api/jit.c — just-in-time loading: a request that names a model waits, before its handler, until that is loaded.
 *
 * No handler knows of it, and no HTTP thread waits: the request is deferred, the load runs on a thread of the registry,
 * and then the handler runs as if the request had just come.  The model is held until the handler has taken a hold of
 * its own.  A client that leaves gives up its place; the load goes on, since most clients come again. */
#include "api/app.h"
#include "api/peek.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 512 };

typedef struct wait {
    glia_watch *watch;
    glia_http_waker *waker;
} wait;

static void on_change(void *ud) { glia_http_waker_wake(ud); }

static int wait_start(void *self, glia_http_request *rq) {
    glia_watched w;
    glia_watch_get(((wait *)self)->watch, &w);
    if (w.state == GLIA_LOAD_LOADING) return GLIA_HTTP_WAIT;
    if (w.state == GLIA_LOAD_READY && !w.was_there) glia_http_note_set(rq, w.load_seconds);
    if (w.state != GLIA_LOAD_GONE || !w.err.status)
        return GLIA_HTTP_AGAIN;                                            /* ready; or unloaded: the handler says so */
    if (w.err.status == GLIA_ECANCELLED) w.err.status = GLIA_EUNAVAILABLE; /* not by this client */
    (void)glia_http_reply_error(rq, &w.err);
    return GLIA_HTTP_END;
}

static void wait_free(void *self) {
    wait *w = self;
    if (w->watch) glia_watch_on_change(w->watch, NULL, NULL); /* before the waker goes */
    glia_watch_free(w->watch);
    if (w->waker) glia_http_waker_release(w->waker);
    glia_free(w);
}

static const glia_http_generator generator = {wait_start, NULL, NULL, wait_free};

static bool starts(const char *s, const char *with) { return !strncmp(s, with, strlen(with)); }

/* Requests that use a model; those that manage models name them, too. */
static bool uses_a_model(glia_http_request *rq) {
    const char *path = glia_http_path(rq);
    return !strcmp(glia_http_method(rq), "POST") && !starts(path, "/api/v1/models/") && !starts(path, "/v1/models/");
}

/* "ttl": seconds until an idle model that was loaded for a request goes. */
static glia_status read_ttl(const char *body, size_t n, int64_t *ms, glia_err *err) {
    char text[32], *end;
    *ms = -1;
    glia_peeked what = glia_json_peek(body, n, "ttl", text, sizeof text);
    if (what == GLIA_PEEK_NONE || (what == GLIA_PEEK_OTHER && !strcmp(text, "null"))) return GLIA_OK;
    double s = what == GLIA_PEEK_OTHER ? strtod(text, &end) : -1;
    if (what == GLIA_PEEK_OTHER && end != text && !*end && s >= 0.001 && s <= 1e9) {
        *ms = (int64_t)(s * 1000);
        return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, "ttl", "ttl must be a number of seconds above 0");
}

/* "context_length" of LM Studio's chat: what the model is loaded with when this request loads it.  A bad one is the
 * handler's to refuse. */
static void read_context(glia_http_request *rq, const char *body, size_t n, int32_t *n_ctx) {
    char text[32], *end;
    if (strcmp(glia_http_path(rq), "/api/v1/chat") != 0) return;
    if (glia_json_peek(body, n, "context_length", text, sizeof text) != GLIA_PEEK_OTHER) return;
    long v = strtol(text, &end, 10);
    if (end != text && !*end && v >= 16 && v <= 16 << 20) *n_ctx = (int32_t)v;
}

static void wait_for(glia_http_request *rq, glia_watch *take) {
    wait *w = glia_calloc(1, sizeof *w);
    glia_err err;
    if (!w) {
        glia_watch_free(take);
        (void)glia_fail(&err, GLIA_ENOMEM, "no memory for the request");
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    w->watch = take, w->waker = glia_http_waker_get(rq);
    glia_watch_on_change(take, on_change, w->waker);
    (void)glia_http_defer(rq, &generator, w);
}

void glia_app_before(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    char name[MAX_NAME];
    size_t n;
    glia_err err;
    glia_watch *watch;
    glia_watched now;
    if (!atomic_load(&app->started) || !uses_a_model(rq)) return;
    const char *body = glia_http_body(rq, &n);
    if (glia_json_peek(body, n, "model", name, sizeof name) != GLIA_PEEK_STRING || !name[0]) return;
    glia_load_options o = {0};
    if (read_ttl(body, n, &o.ttl_ms, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    glia_model_params params = glia_registry_get_params(app->models)->model;
    read_context(rq, body, n, &params.n_ctx);
    o.params = &params;
    if (glia_registry_want(app->models, name, &o, &watch, &err)) return; /* the handler finds the same */
    glia_watch_get(watch, &now);
    if (now.state == GLIA_LOAD_READY && !now.evictable)
        glia_watch_free(watch); /* it stays: nothing to wait or hold for */
    else wait_for(rq, watch);
}

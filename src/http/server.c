/* http/server.c — starting and stopping: listeners, workers, limits.
 *
 * Owns glia_http.  Runs on the caller's thread.  Knows no request. */
#include "internal.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { SETTLE_MS = 50 };

static void on_log(void *cls, const char *fmt, va_list ap) {
    char line[512];
    (void)cls;
    if (glia_log_get_level() < GLIA_LOG_DEBUG) return;
    (void)vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\r\n")] = 0;
    glia_log(GLIA_LOG_DEBUG, "http: %s", line);
}

static glia_status start_worker(http_worker *w, glia_err *err) {
    struct glia_http *h = w->server;
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE |
                     MHD_USE_ITC | MHD_USE_ERROR_LOG;
#ifdef __linux__
    flags |= MHD_USE_EPOLL;
#else
    flags |= MHD_USE_POLL;
#endif
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_log, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)http_on_completed, w},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)http_on_connection, w},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)http_on_target, w},
        {MHD_OPTION_CONNECTION_LIMIT, HTTP_WORKER_CONNECTIONS, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (intptr_t)h->idle_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)(h->max_header + HTTP_POOL_EXTRA), NULL},
        {MHD_OPTION_CONNECTION_MEMORY_INCREMENT, 16 * 1024, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    w->daemon = MHD_start_daemon(flags, 0, NULL, NULL, http_on_request, w, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    if (w->daemon) return GLIA_OK;
    return glia_fail(err, GLIA_EIO, "cannot start an HTTP thread: out of memory, threads or open files");
}

/* Streams hold a socket each; the usual soft limit of 1024 is below the default number of connections. */
static void raise_open_files(size_t n_connections) {
    struct rlimit rl;
    rlim_t want = (rlim_t)n_connections + 256;
    if (getrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur == RLIM_INFINITY || rl.rlim_cur >= want) return;
    rl.rlim_cur = rl.rlim_max == RLIM_INFINITY || rl.rlim_max > want ? want : rl.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur < want) {
        glia_log(GLIA_LOG_WARN, "http: %zu connections need more open files than the limit allows (ulimit -n)",
                 n_connections);
    }
}

static glia_status copy_keys(struct glia_http *h, const glia_http_params *p, glia_err *err) {
    size_t n = p->n_api_keys + p->n_keys;
    if (!n) return GLIA_OK;
    h->api_keys = glia_calloc(n, sizeof *h->api_keys);
    h->key_scopes = glia_calloc(n, sizeof *h->key_scopes);
    if (!h->api_keys || !h->key_scopes) return glia_fail(err, GLIA_ENOMEM, "out of memory for the API keys");
    for (size_t i = 0; i < n; i++) {
        bool full = i < p->n_api_keys;
        const char *key = full ? p->api_keys[i] : p->keys[i - p->n_api_keys].key;
        h->key_scopes[i] = full ? GLIA_HTTP_ALL_SCOPES : p->keys[i - p->n_api_keys].scopes;
        if (!key || !*key || strpbrk(key, " \t\r\n")) {
            return glia_fail_at(err, GLIA_EINVAL, "api_keys", "API key %zu is empty or has white space: give another",
                                i + 1);
        }
        if (!(h->api_keys[i] = glia_strdup(key))) return glia_fail(err, GLIA_ENOMEM, "out of memory for the API keys");
        h->n_api_keys++;
    }
    return GLIA_OK;
}

static glia_status open_listeners(struct glia_http *h, const glia_http_params *p, glia_err *err) {
    if (!p->n_listen) return glia_fail_at(err, GLIA_EINVAL, "listen", "no address to listen on: give HOST:PORT");
    h->listeners = glia_calloc(p->n_listen, sizeof *h->listeners);
    h->host_names = glia_calloc(p->n_listen, sizeof *h->host_names);
    if (!h->listeners || !h->host_names) return glia_fail(err, GLIA_ENOMEM, "out of memory for the listeners");
    h->loopback_only = true;
    for (size_t i = 0; i < p->n_listen; i++) {
        h->listeners[i].fd = -1;
        glia_status st = http_listen(&h->listeners[i], p->listen[i], err);
        if (st) return st;
        h->n_listeners++;
        h->host_names[i] = h->listeners[i].host;
        h->loopback_only &= h->listeners[i].loopback;
    }
    return GLIA_OK;
}

/* Connections on their way to a worker arrive there first: a daemon that stops with one in its letter box closes it without
 * the lock that it was put in under.  One that libmicrohttpd dropped for want of memory never arrives. */
static void settle(const http_worker *w) {
    for (int i = 0; i < SETTLE_MS && w->n_given != atomic_load(&w->n_started); i++)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Takes NULL and half-started alike.  No request is live. */
static void free_server(struct glia_http *h) {
    if (!h) return;
    if (h->service_runs) {
        pthread_mutex_lock(&h->mu);
        h->quit = true;
        pthread_mutex_unlock(&h->mu);
        http_service_kick(h);
        pthread_join(h->service, NULL);
    }
    http_aside_stop(h->aside); /* resumes all that it holds, which a daemon must have to stop */
    /* Only now: the service thread hands connections to them. */
    for (size_t i = 0; i < h->n_workers; i++) {
        if (!h->workers[i].daemon) continue;
        settle(&h->workers[i]);
        MHD_stop_daemon(h->workers[i].daemon);
    }
    http_aside_free(h->aside);
    for (size_t i = 0; i < h->n_linger_in; i++) close(h->linger_in[i].fd);
    for (size_t i = 0; i < h->n_listeners; i++) {
        http_unlisten(&h->listeners[i]);
    }
    for (int i = 0; i < 2; i++) {
        if (h->wake[i] >= 0) close(h->wake[i]);
    }
    for (size_t i = 0; i < h->n_api_keys; i++) glia_free(h->api_keys[i]);
    glia_free(h->api_keys);
    glia_free(h->key_scopes);
    glia_free(h->listeners);
    glia_free(h->host_names);
    glia_free(h->workers);
    glia_free(h->polls);
    glia_free(h->polled);
    glia_free(h->counters);
    pthread_mutex_destroy(&h->mu);
    pthread_cond_destroy(&h->idle);
    glia_free(h);
}

glia_status glia_http_start(glia_http **out, const glia_http_params *p, glia_err *err) {
    glia_status st = GLIA_OK;
    struct glia_http *h = *out = NULL;
    pthread_condattr_t attr;
    if (!(h = glia_calloc(1, sizeof *h))) return glia_fail(err, GLIA_ENOMEM, "out of memory for the HTTP server");
    h->wake[0] = h->wake[1] = -1;
    pthread_mutex_init(&h->mu, NULL);
    pthread_condattr_init(&attr);
#ifdef __linux__
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&h->idle, &attr);
    pthread_condattr_destroy(&attr);

    h->routes = p->routes;
    h->ud = p->ud;
    h->before = p->before;
    h->error_body = p->error_body;
    h->scope_name = p->scope_name;
    h->max_body = p->max_body ? p->max_body : (size_t)64 << 20;
    h->max_header = p->max_header ? p->max_header : (size_t)64 << 10;
    h->max_connections = p->max_connections ? p->max_connections : 1100;
    h->max_body_total = p->max_body_total ? p->max_body_total : (size_t)512 << 20;
    h->idle_s = p->idle_s ? p->idle_s : 60;
    if (!p->routes) { st = glia_fail(err, GLIA_EINVAL, "no routes"); goto done; }
    if (h->max_header > (size_t)16 << 20 || h->max_connections > 100000) {
        st = glia_fail(err, GLIA_EINVAL, "limits out of range: headers to 16 MiB, connections to 100000");
        goto done;
    }
    if ((st = http_routes_check(p->routes, err)) || (st = copy_keys(h, p, err)) || (st = open_listeners(h, p, err)))
        goto done;

    size_t n_workers = p->n_threads > 0 ? (size_t)p->n_threads : 4;
    size_t needed = (h->max_connections + HTTP_WORKER_CONNECTIONS - 1) / HTTP_WORKER_CONNECTIONS;
    if (n_workers < needed) n_workers = needed;
    size_t n_sockets = n_workers * HTTP_WORKER_CONNECTIONS + h->n_listeners + HTTP_MAX_LINGER + 1;
    h->workers = glia_calloc(n_workers, sizeof *h->workers);
    h->polls = glia_calloc(n_sockets, sizeof *h->polls);
    h->polled = glia_calloc(n_sockets, sizeof *h->polled);
    h->n_routes = http_routes_count(h->routes);
    h->counters = glia_calloc(h->n_routes + 1, sizeof *h->counters);
    h->started = (int64_t)time(NULL);
    if (!h->counters || !h->workers || !h->polls || !h->polled) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for the HTTP server");
        goto done;
    }
    raise_open_files(h->max_connections);
    if (pipe(h->wake) || !http_fd_prepare(h->wake[0]) || !http_fd_prepare(h->wake[1])) {
        st = glia_fail(err, GLIA_EIO, "cannot start the HTTP server: %s", strerror(errno));
        goto done;
    }
    if ((st = http_aside_start(&h->aside, err))) goto done;
    for (; h->n_workers < n_workers; h->n_workers++) {
        h->workers[h->n_workers].server = h;
        if ((st = start_worker(&h->workers[h->n_workers], err))) goto done;
    }
    int no = pthread_create(&h->service, NULL, http_service_run, h);
    if (no) { st = glia_fail(err, GLIA_EIO, "cannot start an HTTP thread: %s", strerror(no)); goto done; }
    h->service_runs = true;
    *out = h, h = NULL;
done:
    free_server(h);
    return st;
}

int glia_http_port(const glia_http *h, size_t i_listen) {
    return i_listen < h->n_listeners ? h->listeners[i_listen].port : -1;
}

void glia_http_stop(glia_http *h, unsigned grace_ms) {
    if (!h) return;
    atomic_store(&h->stopping, true);
    http_service_kick(h); /* closes the listeners */
    http_ws_wake_all(h);  /* idle ones close now */
    struct timespec until;
#ifdef __linux__
    clock_gettime(CLOCK_MONOTONIC, &until);
#else
    clock_gettime(CLOCK_REALTIME, &until);
#endif
    until.tv_sec += grace_ms / 1000;
    until.tv_nsec += (long)(grace_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&h->mu);
    while (h->n_live && pthread_cond_timedwait(&h->idle, &h->mu, &until) != ETIMEDOUT) {}
    pthread_mutex_unlock(&h->mu);
    atomic_store(&h->cancelled, true); /* from here on nothing is suspended */
    http_live_vanish_all(h);           /* and what was, is resumed: libmicrohttpd aborts otherwise */
    pthread_mutex_lock(&h->mu);
    while (h->n_ws) (void)pthread_cond_wait(&h->idle, &h->mu); /* their threads give the sockets back */
    pthread_mutex_unlock(&h->mu);
    free_server(h);
}

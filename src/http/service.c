/* http/service.c — the service thread: accepting, watching for clients that vanish, lingering closes; and the list of
 * connections it watches.
 *
 * Owns the listening sockets while it runs and the lingering ones.  Knows no handler: it only marks and resumes. */
#include "internal.h"
#include "base/log.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef POLLRDHUP
#define POLLRDHUP POLLHUP
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

int64_t http_now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

bool http_fd_prepare(int fd) {
    int fl = fcntl(fd, F_GETFL);
    return fl >= 0 && !fcntl(fd, F_SETFL, fl | O_NONBLOCK) && !fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void http_service_kick(struct glia_http *h) {
    ssize_t n = write(h->wake[1], "k", 1); /* a full pipe wakes as well */
    (void)n;
}

/* ------------------------------------------------------------------ connections and live requests */

bool http_connection_open(http_worker *w, int fd, http_connection **out) {
    struct glia_http *h = w->server;
    http_connection *k = *out = glia_calloc(1, sizeof *k);
    atomic_fetch_add(&w->n_started, 1);
    if (!k) return false;
    k->fd = fd;
    pthread_mutex_lock(&h->mu);
    bool first = !h->connections;
    k->next = h->connections;
    if (h->connections) h->connections->prev = k;
    h->connections = k;
    pthread_mutex_unlock(&h->mu);
    if (first) http_service_kick(h); /* it sleeps without a timeout while there is nothing to watch */
    return true;
}

void http_connection_close(http_worker *w, http_connection *k) {
    struct glia_http *h = w->server;
    atomic_fetch_add(&w->n_closed, 1);
    if (!k) return;
    pthread_mutex_lock(&h->mu);
    if (k->prev) k->prev->next = k->next;
    else h->connections = k->next;
    if (k->next) k->next->prev = k->prev;
    pthread_mutex_unlock(&h->mu);
    glia_free(k);
}

void http_live_add(glia_http_request *rq) {
    struct glia_http *h = rq->server;
    pthread_mutex_lock(&h->mu);
    rq->live = true;
    rq->connection->live = rq;
    h->n_live++;
    pthread_mutex_unlock(&h->mu);
}

void http_live_defer(glia_http_request *rq) {
    pthread_mutex_lock(&rq->server->mu);
    rq->deferred = true;
    pthread_mutex_unlock(&rq->server->mu);
}

void http_live_undefer(glia_http_request *rq) {
    pthread_mutex_lock(&rq->server->mu);
    rq->deferred = false;
    pthread_mutex_unlock(&rq->server->mu);
}

void http_live_unwatch(glia_http_request *rq) {
    if (!rq->live) return;
    pthread_mutex_lock(&rq->server->mu);
    rq->connection->live = NULL;
    pthread_mutex_unlock(&rq->server->mu);
}

void http_live_remove(glia_http_request *rq) {
    struct glia_http *h = rq->server;
    if (!rq->live) return;
    pthread_mutex_lock(&h->mu);
    rq->live = false;
    if (!--h->n_live) pthread_cond_broadcast(&h->idle);
    pthread_mutex_unlock(&h->mu);
}

/* A suspended connection is resumed and finds the mark; one that libmicrohttpd writes to is not called back until
 * the socket takes more, so the socket is shut down under it. */
static void vanish_locked(glia_http_request *rq) {
    if (rq->vanished) return;
    rq->vanished = true;
    (void)shutdown(rq->connection->fd, SHUT_RDWR);
    http_waker_vanish(rq->waker);
}

void http_live_vanish_all(struct glia_http *h) {
    pthread_mutex_lock(&h->mu);
    for (http_connection *k = h->connections; k; k = k->next) {
        if (k->live) vanish_locked(k->live);
    }
    pthread_mutex_unlock(&h->mu);
}

/* Look for clients that closed their side.
 *
 * Where a generator works for one, it is told.  Elsewhere libmicrohttpd is to see it; but 0.9.75 takes a short recv()
 * as "nothing more to read" and its epoll is edge-triggered, so an end that came together with the last bytes goes
 * unseen until the idle timeout.  A shutdown of the side that is closed already makes a new edge; again at each round,
 * since one that falls together with the last bytes is lost like the first.
 *
 * The sockets stay open while mu is held: a connection leaves the list before libmicrohttpd closes its socket.  So
 * this polls without waiting, a few times a second, instead of keeping a set in step with thousands of suspends. */
static void watch(struct glia_http *h) {
    pthread_mutex_lock(&h->mu);
    nfds_t n = 0;
    for (http_connection *k = h->connections; k; k = k->next) {
        h->polls[n] = (struct pollfd){.fd = k->fd, .events = POLLRDHUP};
        h->polled[n++] = k;
    }
    if (n && poll(h->polls, n, 0) > 0) {
        for (nfds_t i = 0; i < n; i++) {
            http_connection *k = h->polled[i];
            if (!h->polls[i].revents) continue;
            if (k->live && k->live->deferred && !atomic_load(&k->live->finished)) {
                vanish_locked(k->live);
            } else {
                (void)shutdown(k->fd, SHUT_RD);
            }
        }
    }
    pthread_mutex_unlock(&h->mu);
}

/* ------------------------------------------------------------------ lingering close */

void http_linger_fd(struct glia_http *h, int fd) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return;
    pthread_mutex_lock(&h->mu);
    bool room = !h->quit && h->n_linger_in < HTTP_MAX_LINGER;
    if (room) h->linger_in[h->n_linger_in++] = (http_linger){copy, http_now_ms() + HTTP_LINGER_MS};
    pthread_mutex_unlock(&h->mu);
    if (room) http_service_kick(h);
    else close(copy);
}

/* False: done, close it. */
static bool linger_more(int fd) {
    char scrap[16 * 1024];
    for (int i = 0; i < 8; i++) { /* then the others' turn */
        ssize_t n = recv(fd, scrap, sizeof scrap, MSG_DONTWAIT);
        if (!n) return false;
        if (n < 0) return errno == EAGAIN || errno == EINTR;
    }
    return true;
}

/* ------------------------------------------------------------------ accepting */

static unsigned load_of(http_worker *w, int64_t now) {
    /* A connection that libmicrohttpd dropped before it began (out of memory) was given and is never closed: once
     * nothing can be under way any more, what began is what was given. */
    if (now - w->given_ms > 2000) w->n_given = atomic_load(&w->n_started);
    return w->n_given - atomic_load(&w->n_closed);
}

static void refuse(struct glia_http *h, int fd) {
    glia_err err = {.status = GLIA_EUNAVAILABLE, .message = "too many connections: try again in a moment"};
    (void)http_reply_raw(h, fd, NULL, &err);
    (void)shutdown(fd, SHUT_WR);
    http_linger_fd(h, fd);
    close(fd);
}

static void take_connection(struct glia_http *h, int fd, const struct sockaddr *sa, socklen_t n_sa) {
    const int on = 1, idle = 30, interval = 10, probes = 3;
    /* A client whose machine died sends no FIN; a suspended connection has no other timeout. */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#ifdef TCP_KEEPIDLE
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
#endif
    int64_t now = http_now_ms();
    http_worker *best = NULL;
    unsigned least = HTTP_WORKER_CONNECTIONS;
    size_t total = 0;
    for (size_t i = 0; i < h->n_workers; i++) {
        unsigned load = load_of(&h->workers[i], now);
        total += load;
        if (load < least) least = load, best = &h->workers[i];
    }
    if (!best || total >= h->max_connections) {
        refuse(h, fd);
        return;
    }
    /* libmicrohttpd closes fd when it fails */
    if (MHD_add_connection(best->daemon, fd, sa, n_sa) == MHD_YES) best->n_given++, best->given_ms = now;
}

/* False: out of descriptors or memory, come back later. */
static bool accept_some(struct glia_http *h, int listen_fd) {
    for (int i = 0; i < 64; i++) {
        struct sockaddr_storage sa = {0};
        socklen_t n = sizeof sa;
        int fd = accept(listen_fd, (struct sockaddr *)&sa, &n);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                glia_log(GLIA_LOG_WARN, "accept: %s; raise the limit of open files (ulimit -n)", strerror(errno));
                return false;
            }
            if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
            continue; /* the client was faster to leave */
        }
        if (!http_fd_prepare(fd)) close(fd);
        else take_connection(h, fd, (struct sockaddr *)&sa, n);
    }
    return true;
}

static void close_listeners(struct glia_http *h) {
    for (size_t i = 0; i < h->n_listeners; i++) {
        http_unlisten(&h->listeners[i]);
    }
}

void *http_service_run(void *server) {
    struct glia_http *h = server;
    http_linger linger[HTTP_MAX_LINGER];
    size_t n_linger = 0;
    int64_t next_watch = 0, accept_again = 0;
    for (;;) {
        pthread_mutex_lock(&h->mu);
        bool quit = h->quit, watching = h->connections != NULL;
        for (; h->n_linger_in; h->n_linger_in--) {
            if (n_linger < HTTP_MAX_LINGER) linger[n_linger++] = h->linger_in[h->n_linger_in - 1];
            else close(h->linger_in[h->n_linger_in - 1].fd);
        }
        pthread_mutex_unlock(&h->mu);
        if (atomic_load(&h->stopping)) close_listeners(h);
        if (quit) break;

        int64_t now = http_now_ms(), timeout = -1;
        if (watching) timeout = next_watch > now ? next_watch - now : 0;
        if (n_linger && (timeout < 0 || timeout > HTTP_WATCH_MS)) timeout = HTTP_WATCH_MS;
        bool accepting = now >= accept_again;
        if (!accepting && (timeout < 0 || timeout > accept_again - now)) timeout = accept_again - now;
        nfds_t n = 0;
        h->polls[n++] = (struct pollfd){.fd = h->wake[0], .events = POLLIN};
        for (size_t i = 0; i < h->n_listeners; i++) { /* poll skips fd -1 */
            h->polls[n++] = (struct pollfd){.fd = accepting ? h->listeners[i].fd : -1, .events = POLLIN};
        }
        for (size_t i = 0; i < n_linger; i++) h->polls[n++] = (struct pollfd){.fd = linger[i].fd, .events = POLLIN};
        (void)poll(h->polls, n, (int)timeout);
        now = http_now_ms();

        if (h->polls[0].revents) {
            char scrap[256];
            while (read(h->wake[0], scrap, sizeof scrap) > 0) {}
        }
        for (size_t i = n_linger; i-- > 0;) { /* downwards: the last one takes the place of one that ends */
            bool ready = h->polls[1 + h->n_listeners + i].revents;
            if ((!ready || linger_more(linger[i].fd)) && now < linger[i].until_ms) continue;
            close(linger[i].fd);
            linger[i] = linger[--n_linger];
        }
        for (size_t i = 0; i < h->n_listeners; i++) {
            if (h->polls[1 + i].revents && h->listeners[i].fd >= 0 && !accept_some(h, h->listeners[i].fd)) {
                accept_again = now + 100;
            }
        }
        if (watching && now >= next_watch) {
            watch(h); /* reuses polls */
            next_watch = now + HTTP_WATCH_MS;
        }
    }
    for (size_t i = 0; i < n_linger; i++) close(linger[i].fd);
    return NULL;
}

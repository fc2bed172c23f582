/* http/listen.c — listening sockets from "HOST:PORT".  Runs on the thread that starts the server.
 * Knows no connection and no request. */
#include "internal.h"
#include "base/err.h"
#include "guard.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static glia_status parse_address(const char *address, char *host, size_t n_host, int *port, glia_err *err) {
    const char *colon = strrchr(address, ':'), *from = address, *to = colon;
    bool brackets = address[0] == '[';
    if (brackets && colon && colon > address + 1) from++, to--;
    size_t n = colon ? (size_t)(to - from) : 0, n_port = colon ? strlen(colon + 1) : 0;
    bool ok = colon && n && n < n_host && n_port && n_port <= 5 && strspn(colon + 1, "0123456789") == n_port;
    if (ok) ok = brackets ? *to == ']' : !memchr(from, ':', n);
    long value = 0;
    for (const char *p = ok ? colon + 1 : ""; *p; p++) value = value * 10 + (*p - '0');
    if (!ok || value > 65535) {
        return glia_fail_at(err, GLIA_EINVAL, "listen",
                            "\"%s\" is no address to listen on: write HOST:PORT or [IPV6]:PORT, PORT 0 to 65535, or unix:PATH",
                            address);
    }
    memcpy(host, from, n);
    host[n] = 0;
    *port = (int)value;
    return GLIA_OK;
}

static glia_status fail_bind(glia_err *err, const char *address, int port, int no) {
    switch (no) {
    case EADDRINUSE:
        return glia_fail_at(err, GLIA_EIO, "listen",
                            "cannot listen on %s: the port is in use; stop the other program or choose another port "
                            "(0 takes a free one)", address);
    case EACCES:
    case EPERM:
        return glia_fail_at(err, GLIA_EIO, "listen", "cannot listen on %s: not permitted; %s", address,
                            port < 1024 ? "choose a port above 1023" : "choose another port or address");
    case EADDRNOTAVAIL:
        return glia_fail_at(err, GLIA_EIO, "listen",
                            "cannot listen on %s: this machine does not have that address; 127.0.0.1 is this machine "
                            "alone, 0.0.0.0 all its networks", address);
    case EAFNOSUPPORT:
        return glia_fail_at(err, GLIA_EIO, "listen",
                            "cannot listen on %s: no IPv6 here; use an IPv4 address such as 127.0.0.1", address);
    default: return glia_fail_at(err, GLIA_EIO, "listen", "cannot listen on %s: %s", address, strerror(no));
    }
}

static int bind_one(const struct addrinfo *ai) {
    const int on = 1;
    int fd = socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);
    if (fd < 0) return -1;
    bool ok = http_fd_prepare(fd) && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (ok && ai->ai_family == AF_INET6) ok = !setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (ok && !bind(fd, ai->ai_addr, ai->ai_addrlen) && !listen(fd, 1024)) return fd;
    int no = errno;
    close(fd);
    errno = no;
    return -1;
}

/* ------------------------------------------------------------------ Unix sockets */

/* Nobody listens behind the file any more: its server died. */
static bool is_stale(const struct sockaddr_un *sa) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    bool stale = fd >= 0 && http_fd_prepare(fd) && connect(fd, (const struct sockaddr *)sa, sizeof *sa) &&
                 errno == ECONNREFUSED;
    if (fd >= 0) close(fd);
    return stale;
}

/* Open to this user alone: who may connect may use the model and is given memory. */
static glia_status listen_unix(http_listener *l, const char *address, glia_err *err) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat s;
    const char *path = address + 5;
    size_t n = strlen(path);
    if (!n || n >= sizeof sa.sun_path || n >= sizeof l->path) {
        return glia_fail_at(err, GLIA_EINVAL, "listen", "\"%s\": the path of a Unix socket has 1 to %zu characters", address,
                            sizeof sa.sun_path - 1);
    }
    memcpy(sa.sun_path, path, n + 1);
    if (!lstat(path, &s)) {
        if (!S_ISSOCK(s.st_mode))
            return glia_fail_at(err, GLIA_EIO, "listen", "cannot listen on %s: another file is there", address);
        if (!is_stale(&sa))
            return glia_fail_at(err, GLIA_EIO, "listen", "cannot listen on %s: another program does; stop it or choose "
                                "another path", address);
        (void)unlink(path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    mode_t mask = umask(0177); /* the file is never there with more rights */
    bool ok = fd >= 0 && http_fd_prepare(fd) && !bind(fd, (const struct sockaddr *)&sa, sizeof sa);
    int no = errno;
    (void)umask(mask);
    if (ok && (stat(path, &s) || listen(fd, 1024))) no = errno, ok = false;
    if (!ok) {
        if (fd >= 0) close(fd);
        return glia_fail_at(err, GLIA_EIO, "listen", "cannot listen on %s: %s", address, strerror(no));
    }
    l->fd = fd, l->port = 0, l->loopback = true;
    l->dev = s.st_dev, l->ino = s.st_ino;
    memcpy(l->path, path, n + 1);
    (void)snprintf(l->host, sizeof l->host, "localhost");
    return GLIA_OK;
}

void http_unlisten(http_listener *l) {
    struct stat s;
    if (l->fd < 0) return;
    close(l->fd);
    l->fd = -1;
    if (l->path[0] && !lstat(l->path, &s) && s.st_dev == l->dev && s.st_ino == l->ino) (void)unlink(l->path);
}

glia_status http_listen(http_listener *l, const char *address, glia_err *err) {
    if (!strncmp(address, "unix:", 5)) return listen_unix(l, address, err);
    glia_status st = parse_address(address, l->host, sizeof l->host, &l->port, err);
    if (st) return st;
    char service[8];
    (void)snprintf(service, sizeof service, "%d", l->port);
    struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    /* Clients that are told "localhost" fall back from ::1 to 127.0.0.1, seldom the other way. */
    if (!strcmp(l->host, "localhost")) hints.ai_family = AF_INET;
    int gai = getaddrinfo(!strcmp(l->host, "*") ? NULL : l->host, service, &hints, &found);
    if (gai) {
        return glia_fail_at(err, GLIA_EIO, "listen", "cannot listen on %s: %s; use a numeric address such as 127.0.0.1",
                            address, gai_strerror(gai));
    }
    int no = 0;
    for (const struct addrinfo *ai = found; ai && l->fd < 0; ai = ai->ai_next) {
        if ((l->fd = bind_one(ai)) < 0 && !no) no = errno;
    }
    freeaddrinfo(found);
    if (l->fd < 0) return fail_bind(err, address, l->port, no);

    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    char numeric[NI_MAXHOST], port[NI_MAXSERV];
    if (getsockname(l->fd, (struct sockaddr *)&sa, &n) ||
        getnameinfo((struct sockaddr *)&sa, n, numeric, sizeof numeric, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV)) {
        return fail_bind(err, address, l->port, errno ? errno : EIO);
    }
    l->port = 0;
    for (const char *p = port; *p; p++) l->port = l->port * 10 + (*p - '0');
    l->loopback = http_address_is_loopback(numeric);
    return GLIA_OK;
}

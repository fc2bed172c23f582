/* cli/http_client.c — the smallest HTTP/1.1 client.  Blocks; any thread. */
#include "cli/http_client.h"
#include "base/err.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static glia_status send_all(int fd, const char *p, size_t n, glia_err *err) {
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return glia_fail(err, GLIA_EIO, "cannot send the request: %s", strerror(errno));
        p += k, n -= (size_t)k;
    }
    return GLIA_OK;
}

static glia_status receive_all(int fd, glia_buf *b, glia_err *err) {
    for (;;) {
        if (!glia_buf_reserve(b, 65536)) return glia_fail(err, GLIA_ENOMEM, "no memory for the reply");
        ssize_t k = recv(fd, b->p + b->n, 65536, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return glia_fail(err, GLIA_EIO, "cannot read the reply: %s", strerror(errno));
        if (!k) return GLIA_OK;
        b->n += (size_t)k;
        b->p[b->n] = 0;
    }
}

/* The chunks of a body joined, in place.  False: the last one is missing. */
static bool join_chunks(char *p, size_t *n) {
    for (size_t at = 0, out = 0;;) {
        char *digits = p + at, *end, *line = memmem(digits, *n - at, "\r\n", 2);
        unsigned long long k = line ? strtoull(digits, &end, 16) : 0;
        if (!line || end == digits) return false;
        at = (size_t)(line + 2 - p);
        if (!k) {
            *n = out;
            return true;
        }
        if (*n - at < 2 || k > *n - at - 2) return false;
        memmove(p + out, p + at, (size_t)k);
        out += (size_t)k, at += (size_t)k + 2;
    }
}

/* Status and body out of a whole reply, with its length or in chunks. */
static glia_status split(glia_buf *b, int *status, glia_err *err) {
    char *end = b->p ? strstr(b->p, "\r\n\r\n") : NULL;
    if (!end || strncmp(b->p, "HTTP/1.1 ", 9) != 0) return glia_fail(err, GLIA_EIO, "this is no HTTP reply");
    *status = (int)strtol(b->p + 9, NULL, 10);
    *end = 0;
    const char *length = strcasestr(b->p, "\r\ncontent-length:");
    bool chunked = strcasestr(b->p, "\r\ntransfer-encoding: chunked") != NULL;
    size_t n = b->n - (size_t)(end + 4 - b->p);
    bool is_whole = chunked ? join_chunks(end + 4, &n) : length && strtoull(length + 17, NULL, 10) == n;
    if (!is_whole) return glia_fail(err, GLIA_EIO, "the reply is cut");
    memmove(b->p, end + 4, n);
    b->p[b->n = n] = 0;
    return GLIA_OK;
}

glia_status cli_http_post(int port, const char *path, const char *body, size_t n, int *status, glia_buf *reply,
                          glia_err *err) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char head[256];
    int n_head = snprintf(head, sizeof head,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                          "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                          path, port, n);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    glia_status st;
    if (fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof to)) {
        st = glia_fail(err, GLIA_EIO, "cannot connect to 127.0.0.1:%d: %s", port, strerror(errno));
        goto done;
    }
    if ((st = send_all(fd, head, (size_t)n_head, err))) goto done;
    if ((st = send_all(fd, body, n, err))) goto done;
    if ((st = receive_all(fd, reply, err))) goto done;
    st = split(reply, status, err);
done:
    if (fd >= 0) (void)close(fd);
    return st;
}

/* http/reply.c — recording a handler's reply and giving it to libmicrohttpd.
 *
 * Runs on the worker of the connection (http_reply_raw also on the service thread).  A reply is only recorded while
 * the handler runs and queued when it has returned, so that a handler that replies twice does no harm. */
#include "internal.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

const char *http_reason(int status) {
    const char *r = MHD_get_reason_phrase_for((unsigned)status);
    return r ? r : "Unknown";
}

bool http_is_token(const char *s) {
    size_t n = strlen(s);
    return n && n <= HTTP_ID_MAX &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_!#$%&'*+.^`|~") == n;
}

static bool is_field_value(const char *s) {
    if (!*s) return false;
    for (; *s; s++) {
        if (((unsigned char)*s < 0x20 && *s != '\t') || *s == 0x7f) return false;
    }
    return true;
}

static bool has_header(const glia_http_request *rq, const char *name) {
    for (const http_header *x = rq->headers; x; x = x->next) {
        if (!strcasecmp(x->name, name)) return true;
    }
    return false;
}

static bool header_add(glia_http_request *rq, const char *name, const char *value) {
    size_t n = strlen(name) + 1, n_value = strlen(value) + 1;
    http_header *x = glia_malloc(sizeof *x + n + n_value);
    if (!x) return false;
    memcpy(x->name, name, n);
    x->value = memcpy(x->name + n, value, n_value);
    x->next = NULL;
    if (!rq->headers_end) rq->headers_end = &rq->headers;
    *rq->headers_end = x;
    rq->headers_end = &x->next;
    return true;
}

glia_status glia_http_header_add(glia_http_request *rq, const char *name, const char *value) {
    static const char *const ours[] = {"Content-Length", "Transfer-Encoding", "Connection", "Content-Type", "Date"};
    if (!name || !value || !http_is_token(name) || !is_field_value(value)) return GLIA_EINVAL;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        if (!strcasecmp(name, ours[i])) return GLIA_EINVAL;
    }
    return header_add(rq, name, value) ? GLIA_OK : GLIA_ENOMEM;
}

void http_reply_clear(glia_http_request *rq) {
    for (http_header *x = rq->headers, *next; x; x = next) {
        next = x->next;
        glia_free(x);
    }
    rq->headers = NULL;
    rq->headers_end = NULL;
    if (!rq->static_body) glia_free(rq->reply_body);
    if (rq->has_fd) close(rq->fd);
    rq->has_fd = false;
    rq->static_body = false;
    rq->reply_body = NULL;
    rq->n_reply_body = 0;
    rq->content_type = NULL;
    rq->replied = rq->streaming = false;
}

glia_status glia_http_reply_take(glia_http_request *rq, int status, const char *content_type, char *body, size_t n) {
    if (!rq->in_handler || rq->replied || status < 200 || status > 599 || (n && !body) ||
        (content_type && !is_field_value(content_type))) {
        glia_free(body);
        return GLIA_EINTERNAL;
    }
    rq->replied = true;
    rq->status = status;
    if (content_type) (void)snprintf(rq->content_type_buf, sizeof rq->content_type_buf, "%s", content_type);
    rq->content_type = content_type ? rq->content_type_buf : NULL;
    rq->reply_body = body;
    rq->n_reply_body = n;
    return GLIA_OK;
}

bool glia_http_takes_fd(const glia_http_request *rq) {
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    return rq->connection && !getsockname(rq->connection->fd, (struct sockaddr *)&sa, &n) && sa.ss_family == AF_UNIX;
}

glia_status glia_http_reply_fd(glia_http_request *rq, int status, const char *content_type, const void *body, size_t n,
                               int fd) {
    char *copy = NULL;
    bool ok = rq->in_handler && !rq->replied && n <= GLIA_HTTP_FD_BODY && glia_http_takes_fd(rq);
    if (ok && (copy = glia_memdup(body, n))) {
        glia_status st = glia_http_reply_take(rq, status, content_type, copy, n);
        if (!st) rq->has_fd = true, rq->fd = fd;
        else close(fd);
        return st;
    }
    close(fd);
    return ok ? GLIA_ENOMEM : GLIA_EINVAL;
}

static glia_status reply_out_of_memory(glia_http_request *rq) {
    static const char line[] = "out of memory: ask for less or try again\n";
    if (!rq->in_handler || rq->replied) return GLIA_EINTERNAL;
    rq->replied = true;
    rq->status = glia_status_http(GLIA_ENOMEM);
    (void)snprintf(rq->content_type_buf, sizeof rq->content_type_buf, "text/plain");
    rq->content_type = rq->content_type_buf;
    rq->reply_body = (char *)(uintptr_t)line;
    rq->n_reply_body = sizeof line - 1;
    rq->static_body = true;
    return GLIA_ENOMEM;
}

glia_status glia_http_reply(glia_http_request *rq, int status, const char *content_type, const void *body, size_t n) {
    char *copy = NULL;
    if (n && !(copy = glia_memdup(body, n))) return reply_out_of_memory(rq);
    return glia_http_reply_take(rq, status, content_type, copy, n);
}

/* The body for err: error_body's, or a plain line. */
static char *error_text(const struct glia_http *h, const glia_http_request *rq, const glia_err *err, size_t *n,
                        const char **content_type) {
    char *body = h->error_body ? h->error_body(rq, err, n, content_type) : NULL;
    if (body) return body;
    *content_type = "text/plain; charset=utf-8";
    *n = strlen(err->message) + 1;
    if (!(body = glia_malloc(*n + 1))) return NULL;
    memcpy(body, err->message, *n);
    body[*n - 1] = '\n', body[*n] = 0;
    return body;
}

glia_status glia_http_reply_error(glia_http_request *rq, const glia_err *err) {
    if (!rq->in_handler || rq->replied) return GLIA_EINTERNAL;
    size_t n = 0;
    const char *type = NULL;
    char *body = error_text(rq->server, rq, err, &n, &type);
    if (!body) return reply_out_of_memory(rq);
    /* Best effort: without memory for the header the reply still says what is wrong. */
    if (err->status == GLIA_EAUTH && !has_header(rq, "WWW-Authenticate")) {
        (void)header_add(rq, "WWW-Authenticate", "Bearer");
    }
    if ((err->status == GLIA_EBUSY || err->status == GLIA_EUNAVAILABLE) && !has_header(rq, "Retry-After")) {
        (void)header_add(rq, "Retry-After", "1");
    }
    int status = glia_status_http(err->status);
    return glia_http_reply_take(rq, status >= 400 ? status : 500, type, body, n);
}

/* Past libmicrohttpd, which sends no descriptors.  Head and body are small: a Unix socket takes them at once, or not at all. */
static http_mhd_result send_with_fd(glia_http_request *rq) {
    char head[512];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\nX-Request-Id: "
                     "%s\r\n\r\n",
                     rq->status, http_reason(rq->status), rq->content_type ? rq->content_type : "text/plain",
                     rq->n_reply_body, rq->id);
    struct iovec iov[2] = {{head, (size_t)n}, {rq->reply_body, rq->n_reply_body}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control.bytes, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &rq->fd, sizeof(int));
    bool sent = n > 0 && (size_t)n < sizeof head && sendmsg(rq->connection->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
    close(rq->fd);
    rq->has_fd = false;
    if (sent) rq->refused = rq->status; /* libmicrohttpd does not know of it */
    return MHD_NO;
}

http_mhd_result http_reply_send(glia_http_request *rq) {
    struct MHD_Response *r;
    rq->phase = HTTP_PHASE_REPLY;
    if (rq->has_fd) return send_with_fd(rq);
    if (rq->ws) {
        r = http_ws_reply(rq);
    } else if (rq->streaming) {
        /* Chunks go straight to the connection's own memory; a block holds what has a length, or goes to HTTP/1.0. */
        size_t block = rq->n_stream == MHD_SIZE_UNKNOWN ? 16 * 1024 : 128 * 1024;
        r = MHD_create_response_from_callback(rq->n_stream, block, http_generator_read, rq, NULL);
    } else if (rq->static_body || !rq->reply_body) {
        r = MHD_create_response_from_buffer(rq->n_reply_body, rq->n_reply_body ? rq->reply_body : "",
                                            MHD_RESPMEM_PERSISTENT);
    } else {
        r = MHD_create_response_from_buffer_with_free_callback(rq->n_reply_body, rq->reply_body, glia_free);
        if (r) rq->reply_body = NULL;
    }
    bool ok = r != NULL;
    if (ok && rq->content_type) ok = MHD_add_response_header(r, "Content-Type", rq->content_type) == MHD_YES;
    if (ok) ok = MHD_add_response_header(r, "Access-Control-Allow-Origin", "*") == MHD_YES;
    if (ok) ok = MHD_add_response_header(r, "X-Content-Type-Options", "nosniff") == MHD_YES;
    if (ok) ok = MHD_add_response_header(r, "X-Request-Id", rq->id) == MHD_YES;
    if (ok) ok = MHD_add_response_header(r, "Access-Control-Expose-Headers", "X-Request-Id") == MHD_YES;
    if (ok && rq->streaming) {
        if (!has_header(rq, "Cache-Control")) ok = MHD_add_response_header(r, "Cache-Control", "no-store") == MHD_YES;
        if (ok) ok = MHD_add_response_header(r, "X-Accel-Buffering", "no") == MHD_YES;
    }
    for (const http_header *x = rq->headers; ok && x; x = x->next) {
        ok = MHD_add_response_header(r, x->name, x->value) == MHD_YES;
    }
    if (ok && atomic_load(&rq->server->stopping)) ok = MHD_add_response_header(r, "Connection", "close") == MHD_YES;
    if (ok) ok = MHD_queue_response(rq->c, (unsigned)rq->status, r) == MHD_YES;
    if (r) MHD_destroy_response(r);
    if (ok) return MHD_YES;
    glia_err err;
    (void)glia_fail(&err, GLIA_ENOMEM, "out of memory for the reply: ask for less or try again");
    return http_reply_raw(rq->server, rq->connection->fd, rq, &err);
}

http_mhd_result http_reply_raw(struct glia_http *h, int fd, glia_http_request *rq, const glia_err *err) {
    static const char lost[] = "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    size_t n = 0;
    const char *type = NULL;
    char *body = error_text(h, NULL, err, &n, &type), head[512];
    int status = glia_status_http(err->status);
    int n_head = snprintf(head, sizeof head,
                          "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n"
                          "Access-Control-Allow-Origin: *\r\n%s\r\n",
                          status, http_reason(status), type ? type : "text/plain", n,
                          err->status == GLIA_EUNAVAILABLE ? "Retry-After: 1\r\n" : "");
    if (body && n_head > 0 && (size_t)n_head < sizeof head) {
        struct iovec iov[2] = {{head, (size_t)n_head}, {body, n}};
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
        /* A client that does not even take these bytes loses them: this thread serves others. */
        (void)sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        (void)send(fd, lost, sizeof lost - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    glia_free(body);
    if (rq) rq->linger = true, rq->refused = status;
    return MHD_NO;
}

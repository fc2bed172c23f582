/* bench/io/serve.c — activations inline as base64 through the HTTP server, against a plain loopback write as long.
 *
 *   whole    a reply without "stream": its frames are kept until the answer is there, then encoded while they are sent
 *   stream   encoded piece by piece while it is sent (as a job's stream: api/job.c)
 *   plain    a thread that accepts, reads the request and writes a text that is there already, 1 MiB at a time
 *
 * One client, which reads and throws away.  All in one process over 127.0.0.1, in turns; medians of a round's ratios.
 *
 * SPDX-License-Identifier: MIT */
#include "api/job.h"
#include "base/mem.h"
#include "http/http.h"
#include "rounds.h"
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROWS = 20000, WIDTH = 576, ROUNDS = 15, READ = 256 << 10 };
static float x[ROWS * WIDTH];
static int32_t ids[ROWS];
static glia_act_label label = {.layer_name = "model.layers.5", .component = "resid_post", .dtype = GLIA_F32};
static glia_hook hook;
static char *key = (char[]){"resid_post"};
static glia_acts acts = {
    .format = {.encoding = GLIA_ENC_BASE64}, .hooks = &hook, .labels = &label, .n = 1, .keys = &key, .n_keys = 1};
static const glia_frame frame = {.point = GLIA_POINT_RESID_POST, .layer = 5, .phase = GLIA_PHASE_PROMPT, .n_rows = ROWS,
                                 .width = WIDTH, .n_positions = ROWS, .positions = ids, .token_ids = ids, .data = x};
static char *text; /* [n_text] what plain sends */
static size_t n_text;

/* ------------------------------------------------------------------ the server's way */

/* A job whose model has answered: of it only what its reply is made of. */
typedef struct reply {
    glia_job job;
    glia_choice choice;
    glia_buf entries;
} reply;

static int start_whole(void *self, glia_http_request *rq) {
    glia_job *j = self;
    glia_buf b = {0};
    glia_buf_adds(&b, "{\"object\":\"bench\"");
    glia_whole_activations(&b, j);
    glia_buf_adds(&b, "}\n");
    if (!(j->body.text = glia_buf_take(&b, &j->body.n_text))) exit(1);
    return glia_http_stream(rq, 200, "application/json") ? GLIA_HTTP_ABORT : 1;
}

static int start_stream(void *self, glia_http_request *rq) {
    glia_job *j = self;
    j->writer = (glia_act_writer){.acts = &acts, .frame = &frame};
    return glia_http_stream(rq, 200, "application/x-ndjson") ? GLIA_HTTP_ABORT : 1;
}

static ssize_t read_job(void *self, char *out, size_t max) {
    glia_job *j = self;
    size_t n = 0;
    while (n < max) {
        size_t left = j->out.n - j->out_at, take = left < max - n ? left : max - n;
        if (left) {
            memcpy(out + n, j->out.p + j->out_at, take);
            j->out_at += take, n += take;
            continue;
        }
        if (j->ended) break;
        j->out.n = j->out_at = 0;
        if (glia_wire_is_whole(j->wire)) glia_whole_fill(j);
        else j->ended = glia_act_write(&j->writer, &j->out);
        if (j->out.failed) return GLIA_HTTP_ABORT;
    }
    return n ? (ssize_t)n : GLIA_HTTP_END;
}

static void reply_free(void *self) {
    reply *r = self;
    glia_buf_clear(&r->job.out);
    glia_buf_clear(&r->entries);
    glia_free(r->job.body.text);
    glia_free(r);
}

static const glia_http_generator whole = {start_whole, read_job, NULL, reply_free};
static const glia_http_generator stream = {start_stream, read_job, NULL, reply_free};

static void answer(glia_http_request *rq, const glia_http_generator *g, glia_wire wire) {
    static const glia_frame *const frames[] = {&frame};
    reply *r = glia_calloc(1, sizeof *r);
    if (!r || !glia_buf_add(&r->entries, frames, sizeof frames)) exit(1);
    r->choice.entries = &r->entries;
    r->job = (glia_job){.acts = acts, .choices = &r->choice, .n_choices = 1, .wire = wire};
    (void)glia_http_defer(rq, g, r);
}
static void on_whole(void *ud, glia_http_request *rq) { (void)ud, answer(rq, &whole, GLIA_WIRE_WHOLE); }
static void on_stream(void *ud, glia_http_request *rq) { (void)ud, answer(rq, &stream, GLIA_WIRE_NDJSON); }

static const glia_http_route routes[] = {{.method = "GET", .pattern = "/whole", .handle = on_whole},
                                         {.method = "GET", .pattern = "/stream", .handle = on_stream},
                                         {0}};

/* ------------------------------------------------------------------ the plain way */

static void *plain_main(void *p) {
    char request[4096];
    for (;;) {
        int fd = accept(*(int *)p, NULL, NULL);
        if (fd < 0 || recv(fd, request, sizeof request, 0) <= 0) exit(1);
        for (size_t at = 0; at < n_text;) {
            size_t left = n_text - at;
            ssize_t k = send(fd, text + at, left < 1 << 20 ? left : 1 << 20, MSG_NOSIGNAL);
            if (k <= 0) exit(1);
            at += (size_t)k;
        }
        close(fd);
    }
    return NULL;
}

static int listen_plain(int *port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) || listen(fd, 8) ||
        getsockname(fd, (struct sockaddr *)&sa, &n))
        exit(1);
    *port = ntohs(sa.sin_port);
    return fd;
}

/* ------------------------------------------------------------------ the client */

/* Seconds from the request to the end of the reply; *bytes: all that came. */
static double get(int port, const char *path, size_t *bytes) {
    static char into[READ], request[256];
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sa.sin_port = htons((uint16_t)port);
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", path);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa)) exit(1);
    double t = now();
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n) exit(1);
    *bytes = 0;
    for (ssize_t k; (k = recv(fd, into, sizeof into, 0)) > 0;) *bytes += (size_t)k;
    t = now() - t;
    close(fd);
    return t;
}

int main(void) {
    static const char *const paths[] = {"/plain", "/whole", "/stream"};
    static const char *const listen_on[] = {"127.0.0.1:0"};
    glia_http *h;
    glia_err err;
    pthread_t thread;
    int port, fd = listen_plain(&port);
    double seconds[3][ROUNDS], ratio[ROUNDS];
    for (size_t i = 0; i < ROWS * WIDTH; i++) x[i] = (float)(i * 2654435761u % 1000003) / 1e5f - 5;
    glia_buf b = {0};
    glia_act_writer w = {.acts = &acts, .frame = &frame};
    while (!glia_act_write(&w, &b)) {}
    if (!(text = glia_buf_take(&b, &n_text))) return 1;
    glia_http_params params = {.listen = listen_on, .n_listen = 1, .routes = routes, .n_threads = 2};
    if (glia_http_start(&h, &params, &err)) {
        (void)fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    if (pthread_create(&thread, NULL, plain_main, &fd)) return 1;
    for (int r = -1; r < ROUNDS; r++) { /* the first one warms up */
        for (int k = 0; k < 3; k++) {
            int way = (k + r + 3) % 3;
            size_t bytes;
            double t = get(way ? glia_http_port(h, 0) : port, paths[way], &bytes);
            if (bytes < n_text) return 1;
            if (r >= 0) seconds[way][r] = t;
        }
    }
    for (int way = 1; way < 3; way++) {
        for (int r = 0; r < ROUNDS; r++) ratio[r] = seconds[0][r] / seconds[way][r];
        double m = median(ratio, ROUNDS);
        printf("%s: %.2f of a plain write's rate (goal >= 0.8; %.2f..%.2f)\n", paths[way] + 1, m, ratio[0],
               ratio[ROUNDS - 1]);
    }
    printf("plain: %.2f GB/s (%.0f MB)\n", (double)n_text / 1e9 / median(seconds[0], ROUNDS), (double)n_text / 1e6);
    glia_http_stop(h, 0);
    return 0;
}

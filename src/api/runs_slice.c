/* api/runs_slice.c — GET /api/v1/runs/{id}/tensors/{name}: rows of a stored tensor.  HTTP threads.
 *
 * A small slice is made as a whole, so that damage is an error with its status; a large one is a stream of pieces, which
 * damage breaks off. */
#include "api/handlers.h"
#include "api/slice.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

enum { WHOLE_BYTES = 4 << 20 };

typedef struct reply {
    glia_slice *slice;
    glia_buf out; /* bytes to be read, from at on */
    size_t at;
    bool end;
} reply;

static void reply_free(void *self) {
    reply *r = self;
    glia_slice_free(r->slice);
    glia_buf_clear(&r->out);
    glia_free(r);
}

static int start_whole(reply *r, glia_http_request *rq) {
    glia_err err;
    glia_status st = GLIA_OK;
    while (!r->end && !st) st = glia_slice_next(r->slice, &r->out, &r->end, &err);
    size_t n;
    char *body = st ? NULL : glia_buf_take(&r->out, &n);
    if (!st && !body) st = glia_fail(&err, GLIA_ENOMEM, "no memory for rows");
    if (st) (void)glia_http_reply_error(rq, &err);
    else (void)glia_http_reply_take(rq, 200, glia_slice_type(r->slice), body, n);
    return GLIA_HTTP_END;
}

static int start(void *self, glia_http_request *rq) {
    reply *r = self;
    glia_err err;
    if (glia_slice_bytes(r->slice) <= WHOLE_BYTES) return start_whole(r, rq);
    glia_status st = glia_slice_next(r->slice, &r->out, &r->end, &err); /* what fails at once still gets its status */
    if (st) {
        (void)glia_http_reply_error(rq, &err);
        return GLIA_HTTP_END;
    }
    return glia_http_stream(rq, 200, glia_slice_type(r->slice)) ? GLIA_HTTP_ABORT : 1;
}

static ssize_t read_more(void *self, char *out, size_t max) {
    reply *r = self;
    glia_err err;
    if (r->at == r->out.n) {
        r->out.n = r->at = 0;
        while (!r->end && !r->out.n) {
            if (glia_slice_next(r->slice, &r->out, &r->end, &err)) return GLIA_HTTP_ABORT;
        }
    }
    size_t n = r->out.n - r->at < max ? r->out.n - r->at : max;
    if (!n) return GLIA_HTTP_END;
    memcpy(out, r->out.p + r->at, n);
    r->at += n;
    return (ssize_t)n;
}

static const glia_http_generator generator = {start, read_more, NULL, reply_free};

/* ?format=, or what Accept asks for. */
static const char *format_of(glia_http_request *rq) {
    const char *asked = glia_http_query(rq, "format"), *accept = glia_http_header(rq, "Accept");
    if (asked || !accept) return asked;
    if (strcasestr(accept, "application/x-npy")) return "npy";
    return strcasestr(accept, "application/octet-stream") ? "raw" : NULL;
}

void glia_on_run_tensor(void *ud, glia_http_request *rq) {
    glia_runs *s;
    glia_run *run = NULL;
    glia_err err;
    glia_slice_query q = {.rows = glia_http_query(rq, "rows"),
                          .positions = glia_http_query(rq, "positions"),
                          .document = glia_http_query(rq, "document"),
                          .offsets = glia_http_query(rq, "offsets"),
                          .heads = glia_http_query(rq, "heads"),
                          .channels = glia_http_query(rq, "channels"),
                          .format = format_of(rq)};
    reply *r = glia_calloc(1, sizeof *r);
    glia_status st =
        r ? glia_store_runs(((glia_app *)ud)->store, &s, &err) : glia_fail(&err, GLIA_ENOMEM, "no memory for rows");
    if (!st) st = glia_run_open(&run, s, glia_http_param(rq, "id"), &err);
    if (!st) st = glia_slice_open(&r->slice, run, glia_http_param(rq, "name"), &q, &err);
    if (!st) {
        (void)glia_http_defer(rq, &generator, r);
        return;
    }
    if (r) reply_free(r);
    (void)glia_http_reply_error(rq, &err);
}

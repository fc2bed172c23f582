/* api/slice.h — rows of a stored tensor as JSON, raw bytes or .npy, in pieces.
 *
 * One thread at a time.  Memory is that of one piece and of the labels of the chosen rows.  Knows the store; no HTTP. */
#ifndef GLIA_API_SLICE_H
#define GLIA_API_SLICE_H
#include "base/buf.h"
#include "store/runs.h"

enum { GLIA_SLICE_ROWS = 1 << 20 }; /* most rows of one */

/* As they are written in a query; NULL: all.  Lists of numbers and ranges ("0:10,-1"), `to` exclusive, negative ones from
 * the end. */
typedef struct glia_slice_query {
    const char *rows;
    const char *positions; /* requests: rows at these positions */
    const char *document;  /* harvests: rows of this document … */
    const char *offsets;   /* … at these of its tokens */
    const char *heads;     /* of points with heads */
    const char *channels;  /* of the row that heads leaves; not for attention */
    const char *format;    /* list (default), base64, raw, npy */
} glia_slice_query;

typedef struct glia_slice glia_slice;

/* r is taken, also on failure.  ENOTFOUND: no such tensor.  EINVAL names the part of the query. */
glia_status glia_slice_open(glia_slice **out, glia_run *r, const char *tensor, const glia_slice_query *q, glia_err *err);
void glia_slice_free(glia_slice *s); /* NULL is fine */
const char *glia_slice_type(const glia_slice *s);  /* content type */
uint64_t glia_slice_bytes(const glia_slice *s);    /* about, of numbers */
/* Append the next piece; *end: that was the last one.  EIO: a file is damaged. */
glia_status glia_slice_next(glia_slice *s, glia_buf *b, bool *end, glia_err *err);

/* "0:10,-1" over n things: *out [*n_out] pairs from, to, each inside, freed with glia_free. */
glia_status glia_slice_spec(const char *spec, const char *param, uint64_t n, uint64_t (**out)[2], size_t *n_out,
                            glia_err *err);
#endif

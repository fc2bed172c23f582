/* api/sent.h — activations that come in with a request, as replies of this server hold them or as plain nested lists.  Any
 * thread. */
#ifndef GLIA_API_SENT_H
#define GLIA_API_SENT_H
#include "api/json.h"

/* Everything under one key: rows of one point at one layer. */
typedef struct glia_sent {
    const char *name;      /* the key; borrowed from the document */
    const char *component; /* of its entries, or NULL; borrowed */
    int32_t layer;         /* of its entries, else the last number in the name; -1: none */
    float *rows;           /* [n_rows, width] */
    size_t n_rows, width;
} glia_sent;

typedef struct glia_sent_list {
    glia_sent *items; /* [n] rising by layer; of one layer in the order they came */
    size_t n;
} glia_sent_list;

/* v: {"key": [entries] | entry | nested lists, …}, or a list of entries.  An entry is an object with "data": nested lists, or
 * base64 with "shape" and "dtype".  Entries of one key go on row by row (prompt, generated tokens).
 * EINVAL names the key: rows of different widths, values that are not finite numbers,
 * inputs and outputs of one place under one key.  On failure nothing is held. */
glia_status glia_sent_read(glia_sent_list *out, yyjson_val *v, const char *path, glia_err *err);
void glia_sent_clear(glia_sent_list *l);
#endif

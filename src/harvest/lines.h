/* harvest/lines.h — a data file as pieces of at most one context, in order.
 *
 * Owns the open file and the document under way.  One thread at a time.  Knows the model for tokenising only.
 * A piece never spans two documents; a long document gives several pieces one after another. */
#ifndef GLIA_HARVEST_LINES_H
#define GLIA_HARVEST_LINES_H
#include "glia.h"
#include "store/sha256.h"

typedef struct glia_lines glia_lines;

typedef struct glia_piece {
    int64_t document; /* number of the line among those that are not empty, from 0 */
    int32_t offset;   /* index of its first token among the document's */
    int32_t n;
    int32_t *tokens;             /* [n]; owned: glia_piece_clear */
    bool ends;                   /* the document's last piece */
    char read[GLIA_SHA256_HEX];  /* of the data up to the end of this document's line */
} glia_piece;
void glia_piece_clear(glia_piece *p);

enum { GLIA_LINE_MAX = 64 << 20 };

/* path: ".jsonl" and ".json" lines are objects, everything else is text; "-" is standard input, whose kind its first
 * character that is not blank tells.  window: most tokens of a piece. */
glia_status glia_lines_open(glia_lines **out, const char *path, const glia_model *m, int32_t window, glia_err *err);
void glia_lines_close(glia_lines *l); /* NULL is fine */

/* Skip to the piece of `document` that begins at `offset`; read: what the manifest says of the data before it.
 * EINVAL: the data is not the same. */
glia_status glia_lines_seek(glia_lines *l, int64_t document, int32_t offset, const char *read, glia_err *err);

/* The next piece; p->n == 0: the data has ended.  EINVAL names the line that cannot be used. */
glia_status glia_lines_next(glia_lines *l, glia_piece *p, glia_err *err);

double glia_lines_fraction(const glia_lines *l); /* of the bytes read; < 0: unknown */
#endif

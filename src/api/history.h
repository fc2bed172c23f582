/* api/history.h — conversations that a later request goes on from (previous_response_id).
 *
 * In memory, gone with the server; bounded by number and bytes, the least recently used leave first.  Each turn is kept
 * with the whole conversation before it, so that one may leave without those that came from it, and any turn may be
 * gone on from more than once.  Any thread (locked).  Knows no endpoint. */
#ifndef GLIA_API_HISTORY_H
#define GLIA_API_HISTORY_H
#include "base/buf.h"
#include "glia.h"

typedef struct glia_history glia_history;

enum { GLIA_HISTORY_TURNS = 1000, GLIA_HISTORY_BYTES = 64 << 20 };

glia_history *glia_history_new(size_t max_turns, size_t max_bytes); /* NULL: no memory */
void glia_history_free(glia_history *h);

/* messages (OpenAI messages joined by commas) and items are taken; body is copied.  What is larger than all that may be
 * kept, or finds no memory, is not kept. */
void glia_history_put(glia_history *h, const char *id, glia_buf *messages, glia_buf *items, const char *body,
                      size_t n_body);
/* Append the conversation up to and with that turn.  EPREVIOUS: there is none, or not any more. */
glia_status glia_history_messages(glia_history *h, const char *id, glia_buf *out, glia_err *err);
/* Append the reply, or the input of that turn.  ENOTFOUND. */
glia_status glia_history_body(glia_history *h, const char *id, glia_buf *out, glia_err *err);
glia_status glia_history_items(glia_history *h, const char *id, glia_buf *out, glia_err *err);
glia_status glia_history_drop(glia_history *h, const char *id, glia_err *err);

#endif

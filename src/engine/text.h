/* engine/text.h — bytes of drawn tokens → text that may be sent.
 *
 * Holds back what could still become a stop string or the rest of a UTF-8 character; what it hands out is always whole,
 * valid UTF-8 (ill-formed bytes become U+FFFD).  One thread.  Knows no token, no request. */
#ifndef GLIA_ENGINE_TEXT_H
#define GLIA_ENGINE_TEXT_H
#include "base/buf.h"
#include "glia.h"

typedef struct glia_text {
    glia_buf held;           /* bytes not yet handed out */
    const char *const *stop; /* borrowed */
    size_t n_stop;
} glia_text;

void glia_text_clear(glia_text *t);

/* Add a token's bytes; appends to *out what became final.  Returns the index of the stop string that now ends the
 * text (nothing behind it will be handed out), or -1.  Memory failures are remembered in held.failed or out->failed. */
int glia_text_add(glia_text *t, const char *bytes, size_t n, glia_buf *out);

/* The end: append all that is still held. */
void glia_text_finish(glia_text *t, glia_buf *out);
#endif

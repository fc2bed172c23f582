/* api/encode.h — floats and bytes as text: shortest decimals, base64.  Pure; any thread. */
#ifndef GLIA_API_ENCODE_H
#define GLIA_API_ENCODE_H
#include "base/buf.h"
#include "base/half.h"
#include <stdint.h>

enum { GLIA_FLOAT_CHARS = 24 }; /* enough for any result of glia_float_text, NUL included */

/* The shortest decimal that reads back as exactly x, of these the nearest to it (decimal.c).  Always a JSON number with
 * a point or an exponent; NaN and infinities have no JSON form: "null".  Returns its length. */
size_t glia_float_text(float x, char out[GLIA_FLOAT_CHARS]);

/* RFC 4648 §4 with padding.  Text of pieces may be joined when every piece but the last is a multiple of 3 bytes. */
void glia_base64_add(glia_buf *b, const void *bytes, size_t n);
/* The way back, padding required, nothing else between the characters.  out: room for 3 bytes of every 4 characters.
 * False: not base64. */
bool glia_base64_read(const char *s, size_t n, uint8_t *out, size_t *n_out);

#endif

/* api/encode.h — floats and bytes as text: shortest decimals, half precision, base64.  Pure; any thread. */
#ifndef GLIA_API_ENCODE_H
#define GLIA_API_ENCODE_H
#include "base/buf.h"
#include <stdint.h>

enum { GLIA_FLOAT_CHARS = 24 }; /* enough for any result of glia_float_text, NUL included */

/* A decimal that reads back as exactly x, as short as such a decimal is (a digit longer in about one of 10^7 cases).
 * Always a JSON number with a point or an exponent; NaN and infinities have no JSON form: "null".  Returns its length. */
size_t glia_float_text(float x, char out[GLIA_FLOAT_CHARS]);

uint16_t glia_f16_of(float x); /* IEEE binary16, round to nearest even; too large becomes infinity */
float glia_f16_to(uint16_t h);
uint16_t glia_bf16_of(float x); /* round to nearest even; NaN stays NaN */
float glia_bf16_to(uint16_t h);

/* RFC 4648 §4 with padding.  Text of pieces may be joined when every piece but the last is a multiple of 3 bytes. */
void glia_base64_add(glia_buf *b, const void *bytes, size_t n);

#endif

/* base/half.h — half-precision floats, and floats as little-endian bytes.  Pure; any thread.  Knows nothing above base. */
#ifndef GLIA_BASE_HALF_H
#define GLIA_BASE_HALF_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum glia_dtype { GLIA_F32, GLIA_F16, GLIA_BF16 } glia_dtype;
static inline size_t glia_dtype_bytes(glia_dtype d) { return d == GLIA_F32 ? 4 : 2; }
const char *glia_dtype_name(glia_dtype d); /* "float32", "float16", "bfloat16" */

static inline uint32_t glia_float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float glia_float_from(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

uint16_t glia_f16_of(float x); /* IEEE binary16, round to nearest even; too large becomes infinity */
float glia_f16_to(uint16_t h);
uint16_t glia_bf16_of(float x); /* round to nearest even; NaN stays NaN */
float glia_bf16_to(uint16_t h);

/* n floats as n · glia_dtype_bytes(d) bytes, little-endian on any machine. */
void glia_pack_le(uint8_t *out, const float *x, size_t n, glia_dtype d);
void glia_unpack_le(float *out, const uint8_t *bytes, size_t n, glia_dtype d); /* the way back, exact */
#endif

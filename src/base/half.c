/* base/half.c — half-precision formats, bit by bit.  Pure; any thread. */
#include "base/half.h"
#include "base/cpu.h"
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

const char *glia_dtype_name(glia_dtype d) {
    return d == GLIA_F16 ? "float16" : d == GLIA_BF16 ? "bfloat16" : "float32";
}

uint16_t glia_f16_of(float x) {
    uint32_t u = glia_float_bits(x), sign = u >> 16 & 0x8000, m = u & 0x7fffffff;
    if (m > 0x7f800000) return (uint16_t)(sign | 0x7e00);  /* NaN */
    if (m >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds beyond 65504 */
    if (m < 0x33000001) return (uint16_t)sign;             /* below half of the smallest */
    if (m < 0x38800000) {                                  /* subnormal half: units of 2^-24 */
        return (uint16_t)(sign | (uint32_t)nearbyint((double)glia_float_from(m) * 16777216.0));
    }
    uint32_t odd = m >> 13 & 1;
    return (uint16_t)(sign | (m - 0x38000000 + 0xfff + odd) >> 13);
}

float glia_f16_to(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
    if (e == 31) return glia_float_from(sign | 0x7f800000 | m << 13);
    if (e) return glia_float_from(sign | (e + 112) << 23 | m << 13);
    float tiny = (float)m / 16777216.0f;
    return sign ? -tiny : tiny;
}

uint16_t glia_bf16_of(float x) {
    uint32_t u = glia_float_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float glia_bf16_to(uint16_t h) { return glia_float_from((uint32_t)h << 16); }

/* The first floats as halves, eight at once; how many.  The processor's NaNs keep bits that ours lose: such eight are written one by
 * one, so that a file is the same wherever it was written. */
#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) static size_t pack_halves(uint8_t *out, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * i), h);
        if (!_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q))) continue;
        for (size_t k = i; k < i + 8; k++) {
            uint16_t u = glia_f16_of(x[k]);
            memcpy(out + 2 * k, &u, sizeof u);
        }
    }
    return i;
}
#else
static size_t pack_halves(uint8_t *out, const float *x, size_t n) { return (void)out, (void)x, (void)n, (size_t)0; }
#endif

void glia_pack_le(uint8_t *out, const float *x, size_t n, glia_dtype d) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (d == GLIA_F32) {
        memcpy(out, x, n * sizeof *x);
        return;
    }
#endif
    size_t done = d == GLIA_F16 && glia_cpu_f16c() ? pack_halves(out, x, n) : 0;
    out += 2 * done;
    for (size_t i = done; i < n; i++) {
        uint32_t u = d == GLIA_F32 ? glia_float_bits(x[i]) : d == GLIA_F16 ? glia_f16_of(x[i]) : glia_bf16_of(x[i]);
        *out++ = (uint8_t)u, *out++ = (uint8_t)(u >> 8);
        if (d == GLIA_F32) *out++ = (uint8_t)(u >> 16), *out++ = (uint8_t)(u >> 24);
    }
}

void glia_unpack_le(float *out, const uint8_t *bytes, size_t n, glia_dtype d) {
    for (size_t i = 0; i < n; i++, bytes += glia_dtype_bytes(d)) {
        uint16_t low = (uint16_t)(bytes[0] | bytes[1] << 8);
        if (d == GLIA_F32)
            out[i] = glia_float_from((uint32_t)low | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24);
        else out[i] = d == GLIA_F16 ? glia_f16_to(low) : glia_bf16_to(low);
    }
}

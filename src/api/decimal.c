/* api/decimal.c — floats as their shortest decimals: glia_float_text of encode.h.  Pure; any thread; knows no HTTP.
 *
 * The digits come from Raffaello Giulietti, "The Schubfach way to render doubles" (2020), for binary32: products with
 * one 64-bit power of ten say which decimals lie between the halves of the gaps to the two neighbours.  Neither they
 * nor where the point goes is branched upon, as neither can be foreseen in activations. */
#include "api/encode.h"
#include <string.h>

__extension__ typedef unsigned __int128 u128;

/* 10^n / 2^(floor(log2 10^n) - 63), rounded up, for n = -31..45. */
static const uint64_t powers[] = {
    0x81ceb32c4b43fcf5, 0xa2425ff75e14fc32, 0xcad2f7f5359a3b3f, 0xfd87b5f28300ca0e,
    0x9e74d1b791e07e49, 0xc612062576589ddb, 0xf79687aed3eec552, 0x9abe14cd44753b53,
    0xc16d9a0095928a28, 0xf1c90080baf72cb2, 0x971da05074da7bef, 0xbce5086492111aeb,
    0xec1e4a7db69561a6, 0x9392ee8e921d5d08, 0xb877aa3236a4b44a, 0xe69594bec44de15c,
    0x901d7cf73ab0acda, 0xb424dc35095cd810, 0xe12e13424bb40e14, 0x8cbccc096f5088cc,
    0xafebff0bcb24aaff, 0xdbe6fecebdedd5bf, 0x89705f4136b4a598, 0xabcc77118461cefd,
    0xd6bf94d5e57a42bd, 0x8637bd05af6c69b6, 0xa7c5ac471b478424, 0xd1b71758e219652c,
    0x83126e978d4fdf3c, 0xa3d70a3d70a3d70b, 0xcccccccccccccccd, 0x8000000000000000,
    0xa000000000000000, 0xc800000000000000, 0xfa00000000000000, 0x9c40000000000000,
    0xc350000000000000, 0xf424000000000000, 0x9896800000000000, 0xbebc200000000000,
    0xee6b280000000000, 0x9502f90000000000, 0xba43b74000000000, 0xe8d4a51000000000,
    0x9184e72a00000000, 0xb5e620f480000000, 0xe35fa931a0000000, 0x8e1bc9bf04000000,
    0xb1a2bc2ec5000000, 0xde0b6b3a76400000, 0x8ac7230489e80000, 0xad78ebc5ac620000,
    0xd8d726b7177a8000, 0x878678326eac9000, 0xa968163f0a57b400, 0xd3c21bcecceda100,
    0x84595161401484a0, 0xa56fa5b99019a5c8, 0xcecb8f27f4200f3a, 0x813f3978f8940985,
    0xa18f07d736b90be6, 0xc9f2c9cd04674edf, 0xfc6f7c4045812297, 0x9dc5ada82b70b59e,
    0xc5371912364ce306, 0xf684df56c3e01bc7, 0x9a130b963a6c115d, 0xc097ce7bc90715b4,
    0xf0bdc21abb48db21, 0x96769950b50d88f5, 0xbc143fa4e250eb32, 0xeb194f8e1ae525fe,
    0x92efd1b8d0cf37bf, 0xb7abc627050305ae, 0xe596b7b0c643c71a, 0x8f7e32ce7bea5c70,
    0xb35dbf821ae4f38c,
};
enum { FIRST_POWER = -31 };

/* floor(log10 2^q), floor(log10 3/4·2^q) and floor(log2 10^n) for all q and n that floats have. */
static int log10_pow2(int q) { return (q * 1262611) >> 22; }
static int log10_3_4_pow2(int q) { return (q * 1262611 - 524031) >> 22; }
static int log2_pow10(int n) { return (n * 1741647) >> 19; }

/* The shortest d·10^k within the half gaps around a positive finite float, of these the nearest to it, made nine digits
 * long with zeros; their first stands for 10^*e.
 *
 * Numbers are in units of 10^k, with 33 bits behind the point: a product that is a little too large because the power
 * was rounded up, where the true one is whole, is whole there, too. */
static uint32_t nine_digits(uint32_t u, int *e) {
    enum { POINT = 33 };
    uint32_t fraction = u & 0x7fffff, biased = u >> 23;
    uint32_t c = biased ? fraction | 0x800000 : fraction, odd = c & 1;
    int q = biased ? (int)biased - 150 : -149; /* the float is c·2^q */
    bool narrow = !fraction && biased > 1;     /* a power of two: below it the gap is half as wide */
    int k = narrow ? log10_3_4_pow2(q) : log10_pow2(q);
    int shift = q + log2_pow10(-k) + 1; /* 1 to 4 */
    u128 g = powers[-k - FIRST_POWER], product = g * (4 * c << shift);
    uint64_t at = (uint64_t)(product >> POINT);
    uint64_t low = (uint64_t)(g * ((4 * c - 2 + narrow) << shift) >> POINT) + odd; /* a tie is read as the even one */
    uint64_t high = (uint64_t)(g * ((4 * c + 2) << shift) >> POINT) - odd;
    uint32_t one = (uint32_t)(product >> (POINT + 33)), ten = one / 10 * 10; /* one: at >> POINT, ready earlier */
    uint64_t half = (uint64_t)1 << (POINT - 1), rest = at & (2 * half - 1);
    /* the gaps hold at most one multiple of ten, and always the nearest whole number, but for powers of two */
    bool ten_below = low <= (uint64_t)ten << POINT, ten_above = high >= (uint64_t)(ten + 10) << POINT;
    uint32_t units = one + ((rest + (one & 1) > half) | (low > (uint64_t)one << POINT)), tens = ten + 10 * ten_above;
    uint32_t d = units ^ ((units ^ tens) & -(uint32_t)(ten_below | ten_above));
    /* at least 2^23, for subnormals alone less */
    uint32_t eight = one >= 10000000, nine = one >= 100000000;
    d *= 100 - 90 * eight - 9 * nine;
    *e = k + 6 + (int)(eight + nine);
    while (d < 100000000) d *= 10, --*e;
    if (d >= 1000000000) d /= 10, ++*e; /* 9999999.6 */
    return d;
}

/* Digits 2 to 9 of nine as bytes 0..9, the second one lowest: groups of four, of two, of one digit side by side. */
static uint64_t eight_digits(uint32_t v) {
    uint32_t five = v / 10000, first = v / 100000000;
    uint64_t x = (five - 10000 * first) | (uint64_t)(v - 10000 * five) << 32;
    uint64_t hundreds = (x * 10486 >> 20) & 0x0000007f0000007f; /* /100 below 10^4 */
    x = (x << 16) - hundreds * ((100 << 16) - 1);               /* hundreds | (x - 100 * hundreds) << 16 */
    uint64_t tens = (x * 103 >> 10) & 0x000f000f000f000f;       /* /10 below 100 */
    return (x << 8) - tens * ((10 << 8) - 1);
}

static void put_eight(char *p, uint64_t v) { /* one store where bytes are in this order */
    p[0] = (char)v, p[1] = (char)(v >> 8), p[2] = (char)(v >> 16), p[3] = (char)(v >> 24);
    p[4] = (char)(v >> 32), p[5] = (char)(v >> 40), p[6] = (char)(v >> 48), p[7] = (char)(v >> 56);
}

/* 0.00012 to 12345678.0: where the first digit and the eight behind it go, and what of them lies before the point.
 * The text begins as "0.000000"; for 10^e with e >= 0 all of that is written over. */
enum { E_MIN = -5, E_MAX = 7 };
static const struct layout {
    uint64_t before, point;    /* of the eight */
    uint8_t first, own, least; /* first digit at; characters besides digits; characters with a digit behind the point */
} layouts[E_MAX - E_MIN + 1] = {
    {UINT64_MAX, 0, 6, 6, 0},
    {UINT64_MAX, 0, 5, 5, 0},
    {UINT64_MAX, 0, 4, 4, 0},
    {UINT64_MAX, 0, 3, 3, 0},
    {UINT64_MAX, 0, 2, 2, 0},
#define WHOLE(e) {(UINT64_C(1) << 8 * (e)) - 1, (uint64_t)'.' << 8 * (e), 0, 1, (e) + 3}
    WHOLE(0), WHOLE(1), WHOLE(2), WHOLE(3), WHOLE(4), WHOLE(5), WHOLE(6), WHOLE(7),
#undef WHOLE
};

/* 1.5e-9, and 123456789.0: what the layouts do not have. */
static size_t with_exponent(char *out, char first, uint64_t eight, size_t n, int e) {
    char *p = out;
    *p++ = first;
    if (e == 8) {
        put_eight(p, eight);
        memcpy(p + 8, ".0", 3);
        return 11;
    }
    if (n > 1) {
        *p++ = '.';
        put_eight(p, eight);
        p += n - 1;
    }
    *p++ = 'e';
    if (e < 0) *p++ = '-', e = -e;
    if (e >= 10) *p++ = (char)('0' + e / 10);
    *p++ = (char)('0' + e % 10);
    *p = 0;
    return (size_t)(p - out);
}

size_t glia_float_text(float x, char out[GLIA_FLOAT_CHARS]) {
    uint32_t u = glia_float_bits(x), magnitude = u & 0x7fffffff;
    if (magnitude >= 0x7f800000) {
        memcpy(out, "null", 5);
        return 4;
    }
    size_t sign = u >> 31;
    char *p = out + sign;
    out[0] = '-';
    if (!magnitude) {
        memcpy(p, "0.0", 4);
        return sign + 3;
    }
    int e;
    uint32_t d = nine_digits(magnitude, &e);
    uint64_t eight = eight_digits(d);
    size_t n = eight ? 9 - (size_t)__builtin_clzll(eight) / 8 : 1; /* without the zeros at the end */
    char first = (char)('0' + d / 100000000);
    eight |= 0x3030303030303030;
    if (e < E_MIN || e > E_MAX) return sign + with_exponent(p, first, eight, n, e);
    const struct layout *l = &layouts[e - E_MIN];
    memcpy(p, "0.000000", 8);
    p[l->first] = first;
    put_eight(p + l->first + 1, (eight & l->before) | l->point | (eight & ~l->before) << 8);
    p[l->first + 9] = (char)(eight >> 56); /* moved out by the point */
    n += l->own;
    if (n < l->least) n = l->least;
    p[n] = 0;
    return sign + n;
}

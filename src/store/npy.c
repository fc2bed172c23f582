/* store/npy.c — see npy.h. */
#include "store/npy.h"
#include "base/err.h"
#include "base/half.h"
#include <string.h>

enum { MAX_HEADER = 65536, MAX_SIDE = 1 << 28 };

/* The text behind 'key': in the header; NULL: there is none. */
static const char *value_of(const char *h, const char *end, const char *key) {
    size_t n = strlen(key);
    for (const char *p = h; p + n + 2 < end; p++) {
        if ((*p != '\'' && *p != '"') || memcmp(p + 1, key, n) != 0 || p[n + 1] != *p) continue;
        for (p += n + 2; p < end && (*p == ' ' || *p == ':'); p++) {}
        return p < end ? p : NULL;
    }
    return NULL;
}

static bool starts(const char *p, const char *end, const char *word) {
    size_t n = strlen(word);
    return p && (size_t)(end - p) >= n && !memcmp(p, word, n);
}

/* "(3, 64)", "(64,)": false for more than two numbers, or none. */
static bool read_shape(const char *p, const char *end, size_t side[2], int *rank) {
    *rank = 0;
    if (!starts(p, end, "(")) return false;
    for (p++; p < end && *p != ')';) {
        if (*p == ' ' || *p == ',') {
            p++;
            continue;
        }
        if (*p < '0' || *p > '9' || *rank == 2) return false;
        size_t x = 0;
        for (; p < end && *p >= '0' && *p <= '9'; p++) {
            x = 10 * x + (size_t)(*p - '0');
            if (x > MAX_SIDE) return false;
        }
        side[(*rank)++] = x;
    }
    return p < end && *rank > 0;
}

glia_status glia_npy_parse(glia_npy *out, const void *bytes, size_t n, glia_err *err) {
    const unsigned char *b = bytes;
    *out = (glia_npy){0};
    if (n < 10 || memcmp(b, "\x93NUMPY", 6) != 0) return glia_fail(err, GLIA_EINVAL, "this is no .npy file");
    if (b[6] < 1 || b[6] > 3) return glia_fail(err, GLIA_EINVAL, ".npy of version %d, known are 1 to 3", b[6]);
    size_t at = b[6] == 1 ? 10 : 12, size = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1 && n >= 12) size |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (n < at || size > MAX_HEADER || size > n - at) return glia_fail(err, GLIA_EINVAL, "the header of the .npy file is cut off");
    const char *h = (const char *)b + at, *end = h + size;
    const char *type = value_of(h, end, "descr"), *order = value_of(h, end, "fortran_order"), *shape = value_of(h, end, "shape");
    out->bytes = starts(type, end, "'<f4'") ? 4 : starts(type, end, "'<f2'") ? 2 : starts(type, end, "'<f8'") ? 8 : 0;
    if (!out->bytes) {
        return glia_fail(err, GLIA_EINVAL, "the array is not of little-endian floats: save it as numpy.float32");
    }
    if (!starts(order, end, "False")) {
        return glia_fail(err, GLIA_EINVAL, "the array is in Fortran order: save numpy.ascontiguousarray of it");
    }
    size_t side[2] = {0};
    int rank;
    if (!read_shape(shape, end, side, &rank)) {
        return glia_fail(err, GLIA_EINVAL, "the array must have one or two dimensions");
    }
    out->n_rows = rank == 2 ? side[0] : 1, out->n_columns = side[rank - 1];
    size_t left = n - at - size;
    if (!out->n_rows || !out->n_columns || out->n_rows > left / (size_t)out->bytes / out->n_columns) {
        return glia_fail(err, GLIA_EINVAL, "the file holds %zu bytes of numbers, its shape needs more, or none", left);
    }
    out->data = end;
    return GLIA_OK;
}

void glia_npy_row(const glia_npy *a, size_t i, float *out) {
    const char *p = a->data + i * a->n_columns * (size_t)a->bytes;
    for (size_t k = 0; k < a->n_columns; k++, p += a->bytes) {
        uint16_t half;
        double wide;
        if (a->bytes == 4) {
            memcpy(&out[k], p, sizeof out[k]);
        } else if (a->bytes == 2) {
            memcpy(&half, p, sizeof half);
            out[k] = glia_f16_to(half);
        } else {
            memcpy(&wide, p, sizeof wide);
            out[k] = (float)wide;
        }
    }
}

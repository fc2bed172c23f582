/* harvest/top.c — see top.h. */
#include "harvest/top.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

glia_status glia_top_init(glia_top *t, int32_t width, int32_t k, glia_err *err) {
    size_t n = (size_t)width * (size_t)k;
    *t = (glia_top){.width = width, .k = k};
    t->n = glia_calloc((size_t)width, sizeof *t->n);
    t->value = glia_calloc(n, sizeof *t->value);
    t->document = glia_calloc(n, sizeof *t->document);
    t->offset = glia_calloc(n, sizeof *t->offset);
    t->token_id = glia_calloc(n, sizeof *t->token_id);
    if (t->n && t->value && t->document && t->offset && t->token_id) return GLIA_OK;
    glia_top_clear(t);
    return glia_fail(err, GLIA_ENOMEM, "out of memory for the largest values");
}

void glia_top_clear(glia_top *t) {
    glia_free(t->n);
    glia_free(t->value);
    glia_free(t->document);
    glia_free(t->offset);
    glia_free(t->token_id);
    *t = (glia_top){0};
}

/* Entry i counts as smaller than j. */
static bool smaller(const glia_top *t, size_t i, size_t j) {
    if (t->value[i] != t->value[j]) return t->value[i] < t->value[j];
    if (t->document[i] != t->document[j]) return t->document[i] > t->document[j];
    return t->offset[i] > t->offset[j];
}

static void swap(glia_top *t, size_t i, size_t j) {
    float v = t->value[i];
    int64_t d = t->document[i];
    int32_t o = t->offset[i], id = t->token_id[i];
    t->value[i] = t->value[j], t->document[i] = t->document[j], t->offset[i] = t->offset[j];
    t->token_id[i] = t->token_id[j];
    t->value[j] = v, t->document[j] = d, t->offset[j] = o, t->token_id[j] = id;
}

static void sift_up(glia_top *t, size_t base, size_t i) {
    for (size_t up; i && smaller(t, base + i, base + (up = (i - 1) / 2)); i = up) swap(t, base + i, base + up);
}

static void sift_down(glia_top *t, size_t base, size_t i, size_t n) {
    for (size_t least;; i = least) {
        least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++) {
            if (smaller(t, base + child, base + least)) least = child;
        }
        if (least == i) return;
        swap(t, base + i, base + least);
    }
}

static void put(glia_top *t, size_t at, float x, int64_t document, int32_t offset, int32_t id) {
    t->value[at] = x, t->document[at] = document, t->offset[at] = offset, t->token_id[at] = id;
}

/* Tokens come in the order of the data, so one of an equal value is later: only a larger one takes a place. */
void glia_top_add(glia_top *t, const float *rows, size_t n, int64_t document, int32_t offset, const int32_t *positions,
                  const int32_t *ids) {
    size_t k = (size_t)t->k, width = (size_t)t->width;
    for (size_t r = 0; r < n; r++) {
        const float *row = rows + r * width;
        for (size_t c = 0; c < width; c++) {
            size_t base = c * k, have = (size_t)t->n[c];
            if (have == k ? !(row[c] > t->value[base]) : isnan(row[c])) continue;
            if (have < k) {
                put(t, base + have, row[c], document, offset + positions[r], ids[r]);
                sift_up(t, base, have);
                t->n[c]++;
            } else {
                put(t, base, row[c], document, offset + positions[r], ids[r]);
                sift_down(t, base, 0, k);
            }
        }
    }
}

void glia_top_copy(glia_top *to, const glia_top *from) {
    size_t n = (size_t)from->width * (size_t)from->k;
    memcpy(to->n, from->n, (size_t)from->width * sizeof *to->n);
    memcpy(to->value, from->value, n * sizeof *to->value);
    memcpy(to->document, from->document, n * sizeof *to->document);
    memcpy(to->offset, from->offset, n * sizeof *to->offset);
    memcpy(to->token_id, from->token_id, n * sizeof *to->token_id);
}

/* Taking the smallest off a heap, one after another, leaves the largest first. */
void glia_top_sort(glia_top *t) {
    size_t k = (size_t)t->k;
    for (size_t c = 0; c < (size_t)t->width; c++) {
        size_t base = c * k, n = (size_t)t->n[c];
        for (size_t left = n; left > 1; left--) {
            swap(t, base, base + left - 1);
            sift_down(t, base, 0, left - 1);
        }
        for (size_t i = n; i < k; i++) put(t, base + i, -INFINITY, -1, -1, -1);
    }
}

/* Rising order is a heap. */
void glia_top_unsort(glia_top *t) {
    size_t k = (size_t)t->k;
    for (size_t c = 0; c < (size_t)t->width; c++) {
        size_t base = c * k, n = 0;
        while (n < k && t->document[base + n] >= 0) n++;
        t->n[c] = (int32_t)n;
        for (size_t i = 0; i < n / 2; i++) swap(t, base + i, base + n - 1 - i);
    }
}

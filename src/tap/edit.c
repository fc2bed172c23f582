/* tap/edit.c — changing rows of a node.  Engine thread only.  See edit.h.
 *
 * Steering vectors: Turner et al. 2023, "Activation Addition"; projecting a direction out: Arditi et al. 2024, "Refusal
 * in language models is mediated by a single direction". */
#include "edit.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "ggml.h"
#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------ arithmetic */

static double dot(const float *a, const float *b, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Steele, Lea and Flood 2014 ("SplitMix"), its finalizer: every input bit moves every output bit. */
static uint64_t mixed(uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A number drawn from the standard normal distribution that only the three decide (Box and Muller 1958). */
static double normal(uint64_t seed, int64_t position, int32_t channel) {
    uint64_t key = mixed(mixed(mixed(seed) ^ (uint64_t)position) ^ (uint64_t)channel);
    double u = ((double)(key >> 11) + 0.5) * 0x1p-53, v = (double)(mixed(key) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

/* Numbers drawn around the row's own mean, with its own deviation. */
static void randomize(float *x, int32_t n, uint64_t seed, int64_t position) {
    double mean = 0, square = 0;
    for (int32_t i = 0; i < n; i++) mean += (double)x[i] / n;
    for (int32_t i = 0; i < n; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
    for (int32_t i = 0; i < n; i++) x[i] = (float)(mean + sqrt(square) * normal(seed, position, i));
}

static void move_along(float *x, const float *direction, double by, int32_t n) {
    for (int32_t i = 0; i < n; i++) x[i] = (float)((double)x[i] + by * (double)direction[i]);
}

bool glia_edit_row(const glia_edit_rule *r, float *x, int32_t row, int64_t position) {
    int32_t n = r->width;
    const float *v = r->rows ? r->rows + (size_t)(r->n_rows > 1 ? row : 0) * (size_t)n : NULL;
    if (r->when) {
        double c = dot(x, r->when, n);
        if (r->below ? !(c < (double)r->threshold) : !(c > (double)r->threshold)) return false;
    }
    switch (r->op) {
    case GLIA_EDIT_ADD: move_along(x, v, (double)r->strength, n); break;
    case GLIA_EDIT_SCALE:
        for (int32_t i = 0; i < n; i++) x[i] *= r->strength;
        break;
    case GLIA_EDIT_SET: memcpy(x, v, (size_t)n * sizeof *x); break;
    case GLIA_EDIT_ZERO: memset(x, 0, (size_t)n * sizeof *x); break;
    case GLIA_EDIT_PROJECT_OUT: move_along(x, v, -(double)r->strength * dot(x, v, n), n); break;
    case GLIA_EDIT_CLAMP: {
        double c = dot(x, v, n), to = fmin(fmax(c, (double)r->min), (double)r->max);
        if (to != c) move_along(x, v, to - c, n);
        break;
    }
    case GLIA_EDIT_NOISE:
        for (int32_t i = 0; i < n; i++)
            x[i] = (float)((double)x[i] + (double)r->strength * normal(r->seed, position, i));
        break;
    case GLIA_EDIT_RANDOM: randomize(x, n, r->seed, position); break;
    case GLIA_EDIT_KNOCKOUT: /* of attention only: attention_edit.c */
    case GLIA_N_EDIT_OPS: break;
    }
    return true;
}

/* ------------------------------------------------------------------ rows of a node */

void glia_edit_room_clear(glia_edit_room *m) {
    glia_free(m->row);
    glia_free(m->part);
    *m = (glia_edit_room){0};
}

static bool grow(float **p, size_t *have, size_t n) {
    if (*have >= n) return true;
    glia_free(*p);
    *p = glia_malloc(n * sizeof **p);
    *have = *p ? n : 0;
    return *p != NULL;
}

/* Where number i of the part lies in a row of the place. */
static size_t channel_of(const glia_tap_edit *e, const glia_place *pl, int32_t i) {
    size_t c = (size_t)(e->channels ? e->channels[i] : i), hd = (size_t)pl->head_dim;
    return e->heads ? (size_t)e->heads[c / hd] * hd + c % hd : c;
}

/* The part of a row [pl->width] that e names, changed. */
static void edit_part(const glia_tap_edit *e, const glia_place *pl, float *row, float *part, int32_t i, int32_t pos) {
    if (!e->heads && !e->channels) {
        (void)glia_edit_row(e->rule, row, i, pos);
        return;
    }
    for (int32_t k = 0; k < e->rule->width; k++) part[k] = row[channel_of(e, pl, k)];
    if (!glia_edit_row(e->rule, part, i, pos)) return;
    for (int32_t k = 0; k < e->rule->width; k++) row[channel_of(e, pl, k)] = part[k];
}

/* A row of a node is n runs of floats, `stride` bytes apart. */
typedef struct runs {
    size_t at, n, stride, bytes;
} runs;

static runs runs_of(const glia_place *pl, const struct ggml_tensor *x, size_t row) {
    runs r = {.at = row * x->nb[pl->row_axis] + (size_t)pl->column * sizeof(float), .n = 1};
    r.bytes = (size_t)pl->width * sizeof(float);
    if (pl->row_axis == 2 && x->nb[1] != (size_t)x->ne[0] * sizeof(float)) {
        r.n = (size_t)x->ne[1], r.stride = x->nb[1], r.bytes = (size_t)x->ne[0] * sizeof(float);
    }
    return r;
}

bool glia_edit_node(const glia_tap_edit *e, const glia_place *pl, struct ggml_tensor *x, const glia_tap_row *rows,
                    const int32_t *out_row, glia_edit_room *m) {
    int32_t done = e->first;
    if (!grow(&m->row, &m->n_row, (size_t)pl->width) || !grow(&m->part, &m->n_part, (size_t)e->rule->width))
        return false;
    for (int32_t k = 0; k < e->n_rows; k++) {
        if (e->mask && !e->mask[k]) continue;
        int32_t row = e->row0 + k, index = done++, to = out_row ? out_row[row] : row;
        if (to < 0) continue;
        runs r = runs_of(pl, x, (size_t)to);
        for (size_t i = 0; i < r.n; i++) {
            ggml_backend_tensor_get(x, (char *)m->row + i * r.bytes, r.at + i * r.stride, r.bytes);
        }
        edit_part(e, pl, m->row, m->part, index, rows[row].pos);
        for (size_t i = 0; i < r.n; i++) {
            ggml_backend_tensor_set(x, (const char *)m->row + i * r.bytes, r.at + i * r.stride, r.bytes);
        }
    }
    return true;
}

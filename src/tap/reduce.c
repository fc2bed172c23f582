/* tap/reduce.c — rows to less than rows.  See reduce.h.
 *
 * Over rows x_1 … x_n of one channel: mean = Σx/n; variance by Welford's update within a pass and Chan, Golub and
 * LeVeque's rule ("Updating formulae and a pairwise algorithm for computing sample variances", 1979) between passes,
 * since Σx² − (Σx)²/n loses all digits of channels that are large and nearly constant, as massive activations are. */
#include "tap/reduce.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

static const char *const names[GLIA_N_REDUCE_OPS] = {
#define X(id, name, meaning) name,
    GLIA_REDUCE_MAP(X)
#undef X
};

const char *glia_reduce_name(glia_reduce_op op) { return (unsigned)op < GLIA_N_REDUCE_OPS ? names[op] : "?"; }

bool glia_reduce_from_name(const char *name, glia_reduce_op *out) {
    for (int i = 0; name && i < GLIA_N_REDUCE_OPS; i++) {
        if (!strcmp(names[i], name)) {
            *out = (glia_reduce_op)i;
            return true;
        }
    }
    return false;
}

bool glia_reduce_is_over_rows(glia_reduce_op op) { return op >= GLIA_REDUCE_MEAN && op <= GLIA_REDUCE_NORM; }

int32_t glia_reduction_kept(const glia_reduction *r) { return r->channels ? r->n_channels : r->in_width; }

int32_t glia_reduction_width(const glia_reduction *r) {
    switch (r->op) {
    case GLIA_REDUCE_ROW_NORM: return 1;
    case GLIA_REDUCE_TOPK: return r->k;
    case GLIA_REDUCE_PROJECT: return r->n_directions;
    default: return glia_reduction_kept(r);
    }
}

/* ------------------------------------------------------------------ per row */

static int32_t column(const glia_reduction *r, int32_t i) { return r->channels ? r->channels[i] : i; }

static float row_norm(const glia_reduction *r, const float *row) {
    double sum = 0;
    int32_t n = glia_reduction_kept(r);
    for (int32_t i = 0; i < n; i++) {
        double x = (double)row[column(r, i)];
        sum += x * x;
    }
    return (float)sqrt(sum);
}

static void project(const glia_reduction *r, const float *row, float *out) {
    int32_t n = glia_reduction_kept(r);
    for (int32_t k = 0; k < r->n_directions; k++) {
        const float *direction = r->directions + (size_t)k * (size_t)n;
        double sum = 0;
        for (int32_t i = 0; i < n; i++) sum += (double)row[column(r, i)] * (double)direction[i];
        out[k] = (float)sum;
    }
}

/* Does the value at column a come before the one at b? */
static bool before(const glia_reduction *r, const float *row, int32_t a, int32_t b) {
    float x = row[a], y = row[b];
    if (isnan(x) || isnan(y)) return isnan(x) && (!isnan(y) || a < b);
    if (r->by_magnitude) x = fabsf(x), y = fabsf(y);
    return x > y || (!(x < y) && a < b);
}

/* Restore the heap below i: its root is the one that goes first when a better one comes. */
static void sift_down(const glia_reduction *r, const float *row, int32_t *heap, int32_t n, int32_t i) {
    for (int32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(r, row, heap[child], heap[child + 1])) child++;
        if (!before(r, row, heap[i], heap[child])) return;
        int32_t swap = heap[i];
        heap[i] = heap[child], heap[child] = swap;
    }
}

static void topk(const glia_reduction *r, const float *row, float *out, int32_t *heap) {
    int32_t n = glia_reduction_kept(r), k = r->k;
    for (int32_t i = 0; i < k; i++) heap[i] = column(r, i);
    for (int32_t i = k / 2 - 1; i >= 0; i--) sift_down(r, row, heap, k, i);
    for (int32_t i = k; i < n; i++) {
        if (!before(r, row, column(r, i), heap[0])) continue;
        heap[0] = column(r, i);
        sift_down(r, row, heap, k, 0);
    }
    for (int32_t left = k - 1; left > 0; left--) { /* the worst goes last */
        int32_t worst = heap[0];
        heap[0] = heap[left], heap[left] = worst;
        sift_down(r, row, heap, left, 0);
    }
    for (int32_t i = 0; i < k; i++) out[i] = row[heap[i]];
}

void glia_reduce_row(const glia_reduction *r, const float *row, float *out, int32_t *indices) {
    switch (r->op) {
    case GLIA_REDUCE_ROW_NORM: out[0] = row_norm(r, row); return;
    case GLIA_REDUCE_TOPK: topk(r, row, out, indices); return;
    case GLIA_REDUCE_PROJECT: project(r, row, out); return;
    default: break;
    }
    int32_t n = glia_reduction_kept(r);
    if (!r->channels) {
        memcpy(out, row, (size_t)n * sizeof *out);
        return;
    }
    for (int32_t i = 0; i < n; i++) out[i] = row[r->channels[i]];
}

/* ------------------------------------------------------------------ over rows */

struct glia_sums {
    const glia_reduction *r;
    int32_t width;
    int64_t n;
    double *a; /* [width] MEAN: Σx, NORM: Σx², MAX: largest so far, VAR: mean so far */
    double *b; /* [width] VAR: Σ(x − mean)²; the others have none */
};

size_t glia_sums_bytes(const glia_reduction *r) {
    return sizeof(glia_sums) + (size_t)glia_reduction_width(r) * (r->op == GLIA_REDUCE_VAR ? 2 : 1) * sizeof(double);
}

glia_sums *glia_sums_new(const glia_reduction *r) {
    int32_t width = glia_reduction_width(r);
    glia_sums *s = glia_malloc(glia_sums_bytes(r));
    if (!s) return NULL;
    *s = (glia_sums){.r = r, .width = width, .a = (double *)(void *)(s + 1)};
    if (r->op == GLIA_REDUCE_VAR) s->b = s->a + width;
    return s;
}

void glia_sums_free(glia_sums *s) { glia_free(s); }
void glia_sums_reset(glia_sums *s) { s->n = 0; }
int64_t glia_sums_rows(const glia_sums *s) { return s->n; }

static double larger(double a, double x) { return x > a || isnan(x) ? x : a; } /* a NaN stays: nothing is larger */

static void add_first(glia_sums *s, const float *row) {
    for (int32_t i = 0; i < s->width; i++) {
        double x = (double)row[column(s->r, i)];
        s->a[i] = s->r->op == GLIA_REDUCE_NORM ? x * x : x;
        if (s->b) s->b[i] = isfinite(x) ? 0 : (double)NAN;
    }
}

void glia_sums_add(glia_sums *s, const float *row) {
    const glia_reduction *r = s->r;
    double inverse = 1.0 / (double)++s->n;
    if (s->n == 1) {
        add_first(s, row);
        return;
    }
    for (int32_t i = 0; i < s->width; i++) {
        double x = (double)row[column(r, i)], d;
        switch (r->op) {
        case GLIA_REDUCE_MEAN: s->a[i] += x; break;
        case GLIA_REDUCE_NORM: s->a[i] += x * x; break;
        case GLIA_REDUCE_MAX: s->a[i] = larger(s->a[i], x); break;
        default:
            d = x - s->a[i];
            s->a[i] += d * inverse;
            s->b[i] += d * (x - s->a[i]);
        }
    }
}

void glia_sums_merge(glia_sums *into, const glia_sums *of) {
    size_t bytes = (size_t)into->width * sizeof *into->a;
    if (!of->n) return;
    if (!into->n) {
        into->n = of->n;
        memcpy(into->a, of->a, bytes);
        if (into->b) memcpy(into->b, of->b, bytes);
        return;
    }
    double n = (double)into->n, m = (double)of->n;
    for (int32_t i = 0; i < into->width; i++) {
        double d = of->a[i] - into->a[i];
        switch (into->r->op) {
        case GLIA_REDUCE_MAX: into->a[i] = larger(into->a[i], of->a[i]); break;
        case GLIA_REDUCE_VAR:
            into->a[i] += d * (m / (n + m));
            into->b[i] += of->b[i] + d * d * (n * m / (n + m));
            break;
        default: into->a[i] += of->a[i];
        }
    }
    into->n += of->n;
}

void glia_sums_write(const glia_sums *s, float *out) {
    double n = (double)s->n;
    for (int32_t i = 0; i < s->width; i++) {
        switch (s->r->op) {
        case GLIA_REDUCE_MEAN: out[i] = (float)(s->a[i] / n); break;
        case GLIA_REDUCE_NORM: out[i] = (float)sqrt(s->a[i]); break;
        case GLIA_REDUCE_VAR: out[i] = (float)(s->b[i] / n); break;
        default: out[i] = (float)s->a[i];
        }
    }
}

/* tap/proof_probs.c — see proof_probs.h.  Tolerances: a softmax in float32 is exact to 1e-5; what passes through
 * a cache of half precision or eight bits is allowed 2 % of the largest value. */
#include "proof_probs.h"
#include "proof.h"
#include <math.h>
#include <stdio.h>

enum { N = GLIA_PROOF_TOKENS };
#define SOFTMAX_TOLERANCE 1e-4
#define CACHE_TOLERANCE   2e-2

typedef struct layer {
    glia_place *scores, *probs, *value, *z;
    const float *s, *p, *v, *o; /* their rows, NULL: absent */
} layer;

static glia_place *place(glia_atlas *at, glia_point p, int32_t il) {
    return &at->place[(size_t)p * (size_t)at->n_layer + (size_t)il];
}
static const float *row(const glia_atlas *at, const float *const *rows, glia_point p, int32_t il) {
    return rows[(size_t)p * (size_t)at->n_layer + (size_t)il];
}

static void broken(glia_place *pl, const char *identity, double error) {
    if (pl->grade < GLIA_GRADE_STRUCTURAL) return;
    pl->grade = GLIA_GRADE_AMBIGUOUS;
    (void)snprintf(pl->reason, sizeof pl->reason, "%s does not hold here (error %.1e)", identity, error);
}

/* Row of head h at token t: [N] columns. */
static const float *columns(const float *x, const glia_place *pl, int t, int32_t h) {
    return x + ((size_t)t * (size_t)pl->n_heads + (size_t)h) * N;
}

/* Worst deviation from a probability row: sums above 1, mass behind the row, anything below 0.  *sinks: some row sums
 * to clearly less than 1. */
static double mass_error(const layer *l, bool *sinks) {
    double worst = 0;
    *sinks = false;
    for (int t = 0; t < N; t++) {
        for (int32_t h = 0; h < l->probs->n_heads; h++) {
            const float *p = columns(l->p, l->probs, t, h);
            double sum = 0, wrong = 0;
            for (int c = 0; c < N; c++) {
                sum += (double)p[c];
                if (c > t) wrong = fmax(wrong, fabs((double)p[c]));
                if (!(p[c] >= 0)) wrong = 1;
            }
            if (sum < 1 - SOFTMAX_TOLERANCE) *sinks = true;
            wrong = fmax(wrong, sum - 1);
            if (!(wrong <= worst)) worst = wrong;
        }
    }
    return worst;
}

/* Column c of row t is hidden where a causal mask or a window narrower than the proof's tokens hides it: behind t, or from
 * the front without a hole; its probability is exactly 0. */
static bool well_masked(const float *s, const float *p, int t) {
    for (int c = 0; c < N; c++) {
        bool hidden = s[c] == -INFINITY;
        if (c >= t && hidden != (c > t)) return false;
        if (hidden && (p[c] != 0 || (c > 0 && c < t && s[c - 1] != -INFINITY))) return false;
    }
    return true;
}

/* |probs - softmax(scores)|, both divided by the row's sum where a sink has a share of it. */
static double softmax_error(const layer *l, bool sinks) {
    double worst = 0;
    for (int t = 0; t < N; t++) {
        for (int32_t h = 0; h < l->probs->n_heads; h++) {
            const float *p = columns(l->p, l->probs, t, h), *s = columns(l->s, l->scores, t, h);
            double top = -INFINITY, sum = 0, mass = sinks ? 0 : 1;
            if (!well_masked(s, p, t)) return 1;
            for (int c = 0; c < N; c++) top = fmax(top, (double)s[c]);
            for (int c = 0; c < N; c++) sum += exp((double)s[c] - top);
            for (int c = 0; sinks && c < N; c++) mass += (double)p[c];
            for (int c = 0; c < N; c++) {
                double e = fabs((double)p[c] / (mass > 1e-12 ? mass : 1) - exp((double)s[c] - top) / sum);
                if (mass > 1e-6 && !(e <= worst)) worst = e;
            }
        }
    }
    return worst;
}

/* max |z - Σ probs·value| / max |z|; -1: z and values have no such shape. */
static double mixture_error(const layer *l) {
    int32_t nh = l->probs->n_heads, hd = l->z->head_dim, kv = l->value->n_heads;
    if (!l->v || !l->o || !hd || l->value->head_dim != hd || l->z->n_heads != nh || kv < 1 || nh % kv) return -1;
    double worst = 0, top = 1e-30, spread = 0;
    for (int t = 0; t < N; t++) {
        for (int32_t h = 0; h < nh; h++) {
            const float *p = columns(l->p, l->probs, t, h), *z = l->o + (t * nh + h) * hd;
            for (int32_t i = 0; i < hd; i++) {
                double sum = 0;
                for (int c = 0; c <= t; c++) sum += (double)p[c] * l->v[(c * kv + h / (nh / kv)) * hd + i];
                double e = fabs(sum - (double)z[i]);
                if (!(e <= worst)) worst = e;
                top = fmax(top, fabs((double)z[i]));
                spread =
                    fmax(spread, fabs((double)l->v[(t * kv + h / (nh / kv)) * hd + i] - l->v[h / (nh / kv) * hd + i]));
            }
        }
    }
    return spread < 1e-3 * top ? -1 : worst / top; /* equal values would prove nothing */
}

static void prove(glia_place *pl) {
    if (pl->grade == GLIA_GRADE_STRUCTURAL) pl->grade = GLIA_GRADE_PROVEN;
}

static void check_layer(const layer *l) {
    bool sinks;
    double e = mass_error(l, &sinks);
    if (e > SOFTMAX_TOLERANCE) {
        broken(l->probs, "rows of probabilities", e);
        return;
    }
    double soft = l->s ? softmax_error(l, sinks) : -1, mix = mixture_error(l);
    if (soft > SOFTMAX_TOLERANCE) broken(l->scores, "attn_probs = softmax(attn_scores)", soft);
    if (mix < 0 || mix > CACHE_TOLERANCE) return; /* no verdict: latent attention, values that are normed or scaled */
    prove(l->probs);
    prove(l->z);
    prove(l->value);
    if (l->s && soft <= SOFTMAX_TOLERANCE) prove(l->scores);
}

void glia_proof_check_probs(glia_atlas *at, const float *const *rows) {
    for (int32_t il = 0; il < at->n_layer; il++) {
        layer l = {.scores = place(at, GLIA_POINT_ATTN_SCORES, il),
                   .probs = place(at, GLIA_POINT_ATTN_PROBS, il),
                   .value = place(at, GLIA_POINT_VALUE, il),
                   .z = place(at, GLIA_POINT_Z, il),
                   .s = row(at, rows, GLIA_POINT_ATTN_SCORES, il),
                   .p = row(at, rows, GLIA_POINT_ATTN_PROBS, il),
                   .v = row(at, rows, GLIA_POINT_VALUE, il),
                   .o = row(at, rows, GLIA_POINT_Z, il)};
        if (l.p && l.probs->grade >= GLIA_GRADE_STRUCTURAL) check_layer(&l);
    }
}

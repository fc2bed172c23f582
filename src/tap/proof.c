/* tap/proof.c — see proof.h.  Tolerances: sums are exact in float32 up to one rounding; norms are recomputed here in
 * double; what passes through an f16 cache or flash attention is allowed 1 % of the largest value. */
#include "proof.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = GLIA_PROOF_TOKENS };
#define SUM_TOLERANCE   2e-6
#define NORM_TOLERANCE  1e-3
#define CACHE_TOLERANCE 2e-2

typedef struct proof {
    glia_atlas *at;
    const float *const *rows;
} proof;

static glia_place *place(const proof *P, glia_point p, int32_t il) {
    return &P->at->place[(size_t)p * (size_t)P->at->n_layer + (size_t)(glia_point_has_layer(p) ? il : 0)];
}
static const float *row(const proof *P, glia_point p, int32_t il) {
    return P->rows[(size_t)p * (size_t)P->at->n_layer + (size_t)(glia_point_has_layer(p) ? il : 0)];
}
static size_t count(const proof *P, glia_point p, int32_t il) { return (size_t)N * (size_t)place(P, p, il)->width; }

static void proven(const proof *P, glia_point p, int32_t il) {
    glia_place *pl = place(P, p, il);
    if (pl->grade == GLIA_GRADE_STRUCTURAL) pl->grade = GLIA_GRADE_PROVEN;
}

static void broken(const proof *P, glia_point p, int32_t il, const char *identity, double error) {
    glia_place *pl = place(P, p, il);
    if (pl->grade < GLIA_GRADE_STRUCTURAL) return;
    pl->grade = GLIA_GRADE_AMBIGUOUS;
    (void)snprintf(pl->reason, sizeof pl->reason, "%s does not hold here (error %.1e)", identity, error);
}

/* ------------------------------------------------------------------ measures */

/* max |c - a - b| / max |c|; b may be NULL */
static double sum_error(const float *a, const float *b, const float *d, const float *c, size_t n) {
    double err = 0, top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)c[i] - (double)a[i] - (b ? (double)b[i] : 0) - (d ? (double)d[i] : 0));
        if (!(e <= err)) err = e;
        if (fabs((double)c[i]) > top) top = fabs((double)c[i]);
    }
    return err / top;
}

static bool constant(const float *v, size_t n) {
    for (size_t i = 1; i < n; i++) {
        if (v[i] != v[0]) return false;
    }
    return true;
}

/* An addition with nothing in it would prove nothing. */
static bool telling(const float *v, size_t n) { return v && !constant(v, n); }

/* y[t][i] = w[i] · (x[t][i] - mean_t) / rms_t + b[i] with the same w, b for all tokens: w and b are fitted, by least
 * squares over the tokens, and the residue measured.  Scale-free in x, so the norm's epsilon does not matter unless x
 * is tiny.  centred: subtract the mean; offset: allow b. */
static double norm_error(const float *x, const float *y, int32_t width, bool centred, bool offset) {
    double mean[N], scale[N], err = 0, top = 1e-30;
    for (int t = 0; t < N; t++) {
        const float *v = x + (size_t)t * (size_t)width;
        double s = 0, ss = 0;
        for (int32_t i = 0; i < width; i++) s += (double)v[i];
        mean[t] = centred ? s / width : 0;
        for (int32_t i = 0; i < width; i++) ss += ((double)v[i] - mean[t]) * ((double)v[i] - mean[t]);
        scale[t] = 1 / sqrt(ss / width + 1e-30);
    }
    for (int32_t i = 0; i < width; i++) {
        double sn = 0, sy = 0, snn = 0, sny = 0;
        for (int t = 0; t < N; t++) {
            double n = ((double)x[(size_t)t * (size_t)width + (size_t)i] - mean[t]) * scale[t];
            double v = (double)y[(size_t)t * (size_t)width + (size_t)i];
            sn += n, sy += v, snn += n * n, sny += n * v;
        }
        double d = offset ? N * snn - sn * sn : snn;
        double w = fabs(d) < 1e-30 ? 0 : offset ? (N * sny - sn * sy) / d : sny / d;
        double b = offset ? (sy - w * sn) / N : 0;
        for (int t = 0; t < N; t++) {
            double n = ((double)x[(size_t)t * (size_t)width + (size_t)i] - mean[t]) * scale[t];
            double v = (double)y[(size_t)t * (size_t)width + (size_t)i], e = fabs(v - w * n - b);
            if (!(e <= err)) err = e;
            if (fabs(v) > top) top = fabs(v);
        }
    }
    return err / top;
}

/* y is x times one factor. */
static double scale_error(const float *x, const float *y, int32_t width) {
    size_t n = (size_t)N * (size_t)width;
    double err = 0, top = 1e-30, xx = 1e-30, xy = 0;
    for (size_t i = 0; i < n; i++) xx += (double)x[i] * (double)x[i], xy += (double)x[i] * (double)y[i];
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)y[i] - xy / xx * (double)x[i]);
        if (!(e <= err)) err = e;
        if (fabs((double)y[i]) > top) top = fabs((double)y[i]);
    }
    return err / top;
}

/* y is x itself, x times one factor, or a norm of x. */
static double derived_error(const float *x, const float *y, int32_t width) {
    double best = scale_error(x, y, width);
    for (int k = 0; k < 4; k++) {
        double e = norm_error(x, y, width, k & 1, k >> 1);
        if (e < best) best = e;
    }
    return best;
}

/* ------------------------------------------------------------------ sums */

/* A sum alone cannot tell its two terms apart: the stream is the one that the layer before left, or whose norm the
 * attention reads. */
static bool is_layer_input(const proof *P, int32_t il) {
    const float *pre = row(P, GLIA_POINT_RESID_PRE, il), *attn_in = row(P, GLIA_POINT_ATTN_IN, il);
    const float *before = il ? row(P, GLIA_POINT_RESID_POST, il - 1) : NULL;
    if (before) return !memcmp(pre, before, count(P, GLIA_POINT_RESID_PRE, il) * sizeof *pre);
    return attn_in && derived_error(pre, attn_in, place(P, GLIA_POINT_RESID_PRE, il)->width) <= NORM_TOLERANCE;
}

static void judge(const proof *P, int32_t il, const glia_point *points, int n, const char *identity, double error) {
    for (int i = 0; i < n; i++) {
        if (error <= SUM_TOLERANCE) proven(P, points[i], il);
        else broken(P, points[i], il, identity, error);
    }
}

static void check_sums(const proof *P, int32_t il) {
    const float *pre = row(P, GLIA_POINT_RESID_PRE, il), *mid = row(P, GLIA_POINT_RESID_MID, il);
    const float *post = row(P, GLIA_POINT_RESID_POST, il), *attn = row(P, GLIA_POINT_ATTN_OUT_POST, il);
    const float *mlp = row(P, GLIA_POINT_MLP_OUT_POST, il);
    size_t n = count(P, GLIA_POINT_RESID_PRE, il);
    if (!telling(pre, n) || !telling(post, n)) return;
    bool anchored = is_layer_input(P, il);
    if (telling(mid, n) && telling(attn, n)) {
        static const glia_point all[] = {GLIA_POINT_RESID_PRE, GLIA_POINT_RESID_MID, GLIA_POINT_ATTN_OUT_POST};
        double e = sum_error(pre, attn, NULL, mid, n);
        if (anchored || e > SUM_TOLERANCE) judge(P, il, all, 3, "resid_mid = resid_pre + attn_out_post", e);
    }
    if (telling(mid, n) && telling(mlp, n)) {
        static const glia_point all[] = {GLIA_POINT_RESID_MID, GLIA_POINT_RESID_POST, GLIA_POINT_MLP_OUT_POST};
        double e = sum_error(mid, mlp, NULL, post, n);
        if (place(P, GLIA_POINT_RESID_MID, il)->grade == GLIA_GRADE_PROVEN || e > SUM_TOLERANCE) {
            judge(P, il, all, 3, "resid_post = resid_mid + mlp_out_post", e);
        }
    }
    const float *a = row(P, GLIA_POINT_ATTN_OUT, il), *m = row(P, GLIA_POINT_MLP_OUT, il);
    if (!mid && anchored && telling(a, n) && telling(m, n) && sum_error(pre, a, m, post, n) <= 2 * SUM_TOLERANCE) {
        proven(P, GLIA_POINT_RESID_PRE, il); /* a parallel block; others may scale or norm: no verdict */
        proven(P, GLIA_POINT_RESID_POST, il);
        proven(P, GLIA_POINT_ATTN_OUT, il);
        proven(P, GLIA_POINT_MLP_OUT, il);
    }
}

/* ------------------------------------------------------------------ norms */

/* Is `to` of layer il the same as `from` of layer from_il, a scale or a norm of it?  Then the proven one of the two proves
 * the other.  Otherwise no verdict: some models scale, clamp or mix in between. */
static void check_derived(const proof *P, glia_point from, int32_t from_il, glia_point to, int32_t il) {
    const float *x = row(P, from, from_il), *y = row(P, to, il);
    size_t n = count(P, to, il);
    if (!telling(x, n) || !telling(y, n) || place(P, from, from_il)->width != place(P, to, il)->width) return;
    bool from_proven = place(P, from, from_il)->grade == GLIA_GRADE_PROVEN;
    if (from_proven == (place(P, to, il)->grade == GLIA_GRADE_PROVEN)) return;
    if (derived_error(x, y, place(P, to, il)->width) > NORM_TOLERANCE) return;
    if (from_proven) proven(P, to, il);
    else proven(P, from, from_il);
}

/* ------------------------------------------------------------------ attention */

static void check_rotation(const proof *P, int32_t il, glia_point before, glia_point after) {
    const float *x = row(P, before, il), *y = row(P, after, il);
    const glia_place *pl = place(P, before, il);
    if (place(P, after, il)->grade != GLIA_GRADE_PROVEN) return; /* a rotation has no direction: the scores give it */
    if (!telling(x, count(P, before, il)) || !y || !pl->head_dim || pl->width != place(P, after, il)->width) return;
    double err = 0, top = 1e-30, first = 0;
    for (int t = 0; t < N; t++) {
        for (int32_t h = 0; h < pl->n_heads; h++) {
            const float *a = x + (size_t)t * (size_t)pl->width + (size_t)h * (size_t)pl->head_dim;
            const float *b = y + (size_t)t * (size_t)pl->width + (size_t)h * (size_t)pl->head_dim;
            double aa = 0, bb = 0;
            for (int32_t i = 0; i < pl->head_dim; i++) {
                aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
                if (t == 0 && fabs((double)a[i] - b[i]) > first) first = fabs((double)a[i] - b[i]);
            }
            if (fabs(sqrt(aa) - sqrt(bb)) > err) err = fabs(sqrt(aa) - sqrt(bb));
            if (sqrt(aa) > top) top = sqrt(aa);
        }
    }
    if (err / top <= 1e-4 && first / top <= 1e-5) proven(P, before, il); /* YaRN also scales: no verdict then */
}

/* The weight that the second token gives itself is sigmoid(s · q₁·(k₁ - k₀)) with one scale s for all heads: fit s over
 * heads and compare.  Soft-capped and biased attention has no such s: no verdict. */
static void check_scores(const proof *P, int32_t il, const double *weight) {
    bool rope = place(P, GLIA_POINT_Q_ROT, il)->grade >= GLIA_GRADE_STRUCTURAL;
    glia_point pq = rope ? GLIA_POINT_Q_ROT : GLIA_POINT_Q, pk = rope ? GLIA_POINT_K_ROT : GLIA_POINT_K;
    const float *q = row(P, pq, il), *k = row(P, pk, il);
    const glia_place *lq = place(P, pq, il), *lk = place(P, pk, il);
    if (!q || !k || lq->head_dim != lk->head_dim || !lk->n_heads || lq->n_heads % lk->n_heads) return;
    double xx = 0, xy = 0, worst = 0;
    int32_t n = 0, hd = lq->head_dim, group = lq->n_heads / lk->n_heads;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t h = 0; h < lq->n_heads; h++) {
            const float *q1 = q + lq->width + (size_t)h * (size_t)hd, *k0 = k + (size_t)(h / group) * (size_t)hd;
            double x = 0, p = weight[h];
            if (p < 0.02 || p > 0.98) continue; /* saturated: its logit is all rounding */
            for (int32_t i = 0; i < hd; i++) x += (double)q1[i] * ((double)k0[lk->width + i] - k0[i]);
            double y = log(p / (1 - p));
            if (!pass) {
                xx += x * x, xy += x * y, n++;
            } else {
                double e = fabs(1 / (1 + exp(-xy / xx * x)) - p);
                if (!(e <= worst)) worst = e;
            }
        }
        if (n < 2 || xx < 1e-12) return; /* one head fits any scale */
    }
    if (xy > 0 && worst <= CACHE_TOLERANCE) {
        proven(P, pq, il);
        proven(P, pk, il);
    }
}

/* z of the first token is its own value, head by head; of the second, a mixture of the first two values. */
static void check_mixture(const proof *P, int32_t il) {
    const float *v = row(P, GLIA_POINT_VALUE, il), *z = row(P, GLIA_POINT_Z, il);
    const glia_place *pv = place(P, GLIA_POINT_VALUE, il), *pz = place(P, GLIA_POINT_Z, il);
    if (!telling(v, count(P, GLIA_POINT_VALUE, il)) || !z || !pv->n_heads || pz->head_dim != pv->head_dim ||
        pz->n_heads % pv->n_heads) {
        return;
    }
    double first = 0, second = 0, top = 1e-30;
    int32_t hd = pv->head_dim, group = pz->n_heads / pv->n_heads;
    double *weight = glia_calloc((size_t)pz->n_heads, sizeof *weight);
    if (!weight) return;
    for (int32_t h = 0; h < pz->n_heads; h++) {
        const float *v0 = v + (size_t)(h / group) * (size_t)hd, *v1 = v0 + pv->width;
        const float *z0 = z + (size_t)h * (size_t)hd, *z1 = z0 + pz->width;
        double dd = 1e-30, dz = 0;
        for (int32_t i = 0; i < hd; i++) {
            double d = (double)v1[i] - v0[i];
            dd += d * d, dz += d * ((double)z1[i] - v0[i]);
            if (fabs((double)v0[i]) > top) top = fabs((double)v0[i]);
            if (fabs((double)z0[i] - v0[i]) > first) first = fabs((double)z0[i] - v0[i]);
        }
        double p = weight[h] = dz / dd;
        if (p < -0.01 || p > 1.01) second = 1;
        for (int32_t i = 0; i < hd; i++) {
            double e = fabs((double)z1[i] - (1 - p) * v0[i] - p * v1[i]);
            if (e > second) second = e;
        }
    }
    if (first / top <= CACHE_TOLERANCE && second / top <= CACHE_TOLERANCE) {
        proven(P, GLIA_POINT_VALUE, il);
        proven(P, GLIA_POINT_Z, il);
        if (place(P, GLIA_POINT_Q, il)->n_heads == pz->n_heads) check_scores(P, il, weight);
    } /* otherwise no verdict: attention sinks, gates and value norms scale z */
    glia_free(weight);
}

/* ------------------------------------------------------------------ MLP */

typedef struct pair {
    float x, y;
} pair;

static int by_x(const void *a, const void *b) {
    float x = ((const pair *)a)->x, y = ((const pair *)b)->x;
    return (x > y) - (x < y);
}

/* Is act one smooth function of pre (after dividing by linear, where there is one)?  Neighbours in pre must be
 * neighbours in act: sort by pre and compare steps with the slope that an activation function can have. */
static void check_activation(const proof *P, int32_t il) {
    const float *pre = row(P, GLIA_POINT_MLP_PRE, il), *lin = row(P, GLIA_POINT_MLP_LINEAR, il);
    const float *act = row(P, GLIA_POINT_MLP_ACT, il);
    size_t n = count(P, GLIA_POINT_MLP_ACT, il), k = 0;
    if (!telling(pre, n) || !telling(act, n) ||
        place(P, GLIA_POINT_MLP_PRE, il)->width != place(P, GLIA_POINT_MLP_ACT, il)->width)
        return;
    if (place(P, GLIA_POINT_MLP_LINEAR, il)->grade >= GLIA_GRADE_STRUCTURAL && !telling(lin, n)) return;
    pair *v = glia_malloc(n * sizeof *v);
    if (!v) return;
    double top = 1e-30, worst = 0;
    for (size_t i = 0; i < n; i++) {
        if (lin && fabs((double)lin[i]) < 1e-3) continue;
        v[k++] = (pair){pre[i], lin ? act[i] / lin[i] : act[i]};
        if (fabs((double)v[k - 1].y) > top) top = fabs((double)v[k - 1].y);
    }
    qsort(v, k, sizeof *v, by_x);
    for (size_t i = 1; i < k; i++) { /* slope: at most 1.2 for SiLU and GELU, 2·max|x| for squared ReLU */
        double dx = (double)v[i].x - v[i - 1].x, dy = fabs((double)v[i].y - v[i - 1].y);
        double slope = 1.2 + 2 * fabs((double)v[i].x) * (lin ? 0 : 1);
        if (dy - slope * dx > worst) worst = dy - slope * dx;
    }
    glia_free(v);
    if (k > 100 && worst / top <= 5e-3) {
        proven(P, GLIA_POINT_MLP_PRE, il);
        proven(P, GLIA_POINT_MLP_ACT, il);
        if (lin) proven(P, GLIA_POINT_MLP_LINEAR, il);
    }
}

/* The dry run repeats a token (see glia_proof_token): its embedding rows are equal, the others' differ.  Token ids are
 * read back in every pass, so this only shows that the rows follow them. */
static void check_embeddings(const proof *P) {
    const float *e = row(P, GLIA_POINT_EMBEDDINGS, 0), *pre = row(P, GLIA_POINT_RESID_PRE, 0);
    size_t width = (size_t)place(P, GLIA_POINT_EMBEDDINGS, 0)->width;
    if (!e || !telling(e, width)) return;
    /* where positions come with RoPE only, they are the stream itself up to a factor */
    if (row(P, GLIA_POINT_Q_ROT, 0) && (!pre || scale_error(e, pre, (int32_t)width) > NORM_TOLERANCE)) return;
    if (memcmp(e, e + (N - 1) * width, width * sizeof *e) != 0) {
        broken(P, GLIA_POINT_EMBEDDINGS, 0, "equal tokens have equal embeddings", 1);
    } else if (memcmp(e, e + width, width * sizeof *e) != 0) {
        proven(P, GLIA_POINT_EMBEDDINGS, 0);
    }
}

int32_t glia_proof_token(int i, int32_t n_vocab) {
    if (i == N - 1) i = 0; /* the last repeats the first */
    return (int32_t)(((int64_t)n_vocab * (2 * i + 1)) / (2 * N));
}

/* ------------------------------------------------------------------ all of it */

void glia_proof_check(glia_atlas *at, const float *const *rows, const float *logits) {
    const proof P = {at, rows};
    int32_t L = at->n_layer;
    for (int32_t il = 0; il < L; il++) {
        check_sums(&P, il);
        check_mixture(&P, il);
        check_rotation(&P, il, GLIA_POINT_Q, GLIA_POINT_Q_ROT);
        check_rotation(&P, il, GLIA_POINT_K, GLIA_POINT_K_ROT);
        check_activation(&P, il);
    }
    for (int32_t il = 0; il < L; il++) { /* what hangs on a proven stream */
        check_derived(&P, GLIA_POINT_RESID_PRE, il, GLIA_POINT_ATTN_IN, il);
        check_derived(&P, GLIA_POINT_RESID_MID, il, GLIA_POINT_MLP_IN, il);
        if (!row(&P, GLIA_POINT_RESID_MID, il)) check_derived(&P, GLIA_POINT_RESID_PRE, il, GLIA_POINT_MLP_IN, il);
        check_derived(&P, GLIA_POINT_ATTN_OUT, il, GLIA_POINT_ATTN_OUT_POST, il);
        check_derived(&P, GLIA_POINT_MLP_OUT, il, GLIA_POINT_MLP_OUT_POST, il);
    }
    check_derived(&P, GLIA_POINT_RESID_POST, L - 1, GLIA_POINT_FINAL_NORM, 0);
    check_embeddings(&P);
    const float *head = row(&P, GLIA_POINT_LM_HEAD, 0);
    if (head && logits && telling(head, count(&P, GLIA_POINT_LM_HEAD, 0))) {
        if (!memcmp(head, logits, count(&P, GLIA_POINT_LM_HEAD, 0) * sizeof *head)) proven(&P, GLIA_POINT_LM_HEAD, 0);
        else broken(&P, GLIA_POINT_LM_HEAD, 0, "lm_head = the logits of llama.cpp", 1);
    }
}

/* tap/proof_attn.c — attention on the numbers of the dry run: values mix to z with the weights that queries and keys say.
 * See proof.h. */
#include "base/mem.h"
#include "tap/prove.h"

enum { N = GLIA_PROOF_TOKENS };

static void check_rotation(const proof *P, int32_t il, glia_point before, glia_point after) {
    const float *x = row(P, before, il), *y = row(P, after, il);
    const glia_place *pl = place(P, before, il);
    if (!is_proven(P, after, il)) return; /* a rotation has no direction: the scores give it */
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

/* Slope of ALiBi for one head (Press et al., arXiv:2108.12409, as ggml computes it). */
static double alibi_slope(const glia_attn_rule *r, int32_t h, int32_t n_heads) {
    if (!(r->max_bias > 0)) return 0;
    int32_t n = 1;
    while (n * 2 <= n_heads) n *= 2;
    double m0 = pow(2, -(double)r->max_bias / n), m1 = pow(2, -(double)r->max_bias / 2 / n);
    return h < n ? pow(m0, h + 1) : pow(m1, 2 * (h - n) + 1);
}

/* z of one head and token from the values of its past, with weights w (not normalised). */
static void mix(double *out, const double *w, const float *v, size_t stride, int t, int32_t hd) {
    double sum = 0;
    for (int j = 0; j <= t; j++) sum += w[j];
    for (int32_t i = 0; i < hd; i++) {
        out[i] = 0;
        for (int j = 0; j <= t; j++) out[i] += w[j] / sum * (double)v[(size_t)j * stride + (size_t)i];
    }
}

/* Distance of z from its prediction; a sink takes an unknown share of it, which is fitted. */
static double distance(const double *want, const float *z, int32_t hd, bool sinks) {
    double err = 0, c = 1, ww = 1e-30, wz = 0;
    for (int32_t i = 0; sinks && i < hd; i++) ww += want[i] * want[i], wz += want[i] * (double)z[i];
    if (sinks) c = wz / ww;
    if (c < 0 || c > 1.01) return INFINITY;
    for (int32_t i = 0; i < hd; i++) worst(&err, fabs(c * want[i] - (double)z[i]));
    return err;
}

/* Do the queries and keys say with which weights the values mix to z, for every head and token?  Only where it tells
 * something: the same mixture with all q·k alike (slopes kept) must miss z by several times more. */
static void check_scores(const proof *P, int32_t il) {
    const glia_attn_rule *r = &P->at->rule[il];
    bool rope = place(P, GLIA_POINT_Q_ROT, il)->grade >= GLIA_GRADE_STRUCTURAL;
    glia_point pq = rope ? GLIA_POINT_Q_ROT : GLIA_POINT_Q, pk = rope ? GLIA_POINT_K_ROT : GLIA_POINT_K;
    const float *q = row(P, pq, il), *k = row(P, pk, il);
    const float *v = row(P, GLIA_POINT_VALUE, il), *z = row(P, GLIA_POINT_Z, il);
    const glia_place *lq = place(P, pq, il), *lk = place(P, pk, il);
    const glia_place *lv = place(P, GLIA_POINT_VALUE, il), *lz = place(P, GLIA_POINT_Z, il);
    if (!r->known || !q || !k || lq->head_dim != lk->head_dim || !lk->n_heads || lq->n_heads % lk->n_heads ||
        lq->n_heads != lz->n_heads || lk->n_heads != lv->n_heads)
        return;
    double err = 0, blind = 0, top = 1e-30;
    int32_t hd = lq->head_dim, group = lq->n_heads / lk->n_heads;
    double *want = glia_malloc((size_t)lz->head_dim * sizeof *want);
    if (!want) return;
    for (int32_t h = 0; h < lq->n_heads; h++) {
        const float *vh = v + (size_t)(h / group) * (size_t)lv->head_dim;
        for (int t = 1; t < N; t++) {
            const float *qt = q + (size_t)t * (size_t)lq->width + (size_t)h * (size_t)hd;
            const float *zt = z + (size_t)t * (size_t)lz->width + (size_t)h * (size_t)lz->head_dim;
            double w[N], flat[N], l[N], most = -INFINITY;
            for (int j = 0; j <= t; j++) {
                const float *kj = k + (size_t)j * (size_t)lk->width + (size_t)(h / group) * (size_t)hd;
                double x = 0, slope = alibi_slope(r, h, lq->n_heads) * (j - t);
                for (int32_t i = 0; i < hd; i++) x += (double)qt[i] * (double)kj[i];
                x *= (double)r->inner;
                l[j] = (double)r->outer * (r->capped ? tanh(x) : x) + slope;
                flat[j] = exp(slope);
                if (l[j] > most) most = l[j];
            }
            for (int j = 0; j <= t; j++) w[j] = exp(l[j] - most);
            mix(want, w, vh, (size_t)lv->width, t, lz->head_dim);
            worst(&err, distance(want, zt, lz->head_dim, r->sinks));
            mix(want, flat, vh, (size_t)lv->width, t, lz->head_dim);
            worst(&blind, distance(want, zt, lz->head_dim, r->sinks));
            for (int32_t i = 0; i < lz->head_dim; i++) {
                if (fabs((double)zt[i]) > top) top = fabs((double)zt[i]);
            }
        }
    }
    glia_free(want);
    if (err / top <= CACHE_TOLERANCE && err <= 0.2 * blind) {
        proven(P, pq, il);
        proven(P, pk, il);
    }
}

/* z of the first token is its own value, head by head; of the second, a mixture of the first two values.  Attention sinks
 * leave less than the whole. */
static bool check_mixture(const proof *P, int32_t il) {
    const float *v = row(P, GLIA_POINT_VALUE, il), *z = row(P, GLIA_POINT_Z, il);
    const glia_place *pv = place(P, GLIA_POINT_VALUE, il), *pz = place(P, GLIA_POINT_Z, il);
    if (!telling(v, count(P, GLIA_POINT_VALUE, il)) || !z || !pv->n_heads || pz->head_dim != pv->head_dim ||
        pz->n_heads % pv->n_heads) {
        return false;
    }
    double first = 0, second = 0, top = 1e-30;
    int32_t hd = pv->head_dim, group = pz->n_heads / pv->n_heads;
    bool sinks = P->at->rule[il].sinks;
    for (int32_t h = 0; h < pz->n_heads; h++) {
        const float *v0 = v + (size_t)(h / group) * (size_t)hd, *v1 = v0 + pv->width;
        const float *z0 = z + (size_t)h * (size_t)hd, *z1 = z0 + pz->width;
        double aa = 1e-30, ab = 0, bb = 1e-30, az = 0, bz = 0, own = 0;
        for (int32_t i = 0; i < hd; i++) {
            double a = v0[i], b = v1[i];
            aa += a * a, ab += a * b, bb += b * b, az += a * (double)z1[i], bz += b * (double)z1[i];
            own += a * (double)z0[i];
            if (fabs(a) > top) top = fabs(a);
        }
        double det = aa * bb - ab * ab, c = sinks ? own / aa : 1;
        if (det <= 1e-6 * aa * bb) return false; /* two values alike: every mixture fits */
        double x = (az * bb - bz * ab) / det, y = (bz * aa - az * ab) / det;
        if (c < -0.02 || c > 1.02 || x < -0.02 || y < -0.02 || x + y > 1.02 || (!sinks && x + y < 0.98)) return false;
        for (int32_t i = 0; i < hd; i++) {
            worst(&first, fabs((double)z0[i] - c * (double)v0[i]));
            worst(&second, fabs((double)z1[i] - x * (double)v0[i] - y * (double)v1[i]));
        }
    }
    if (!(first / top <= CACHE_TOLERANCE && second / top <= CACHE_TOLERANCE)) return false; /* no verdict */
    proven(P, GLIA_POINT_VALUE, il);
    proven(P, GLIA_POINT_Z, il);
    return true;
}

/* z_gated = z · gate, with one gate per channel, per head or per token. */
static void check_gate(const proof *P, int32_t il) {
    const float *z = row(P, GLIA_POINT_Z, il), *g = row(P, GLIA_POINT_ATTN_GATE, il);
    const float *out = row(P, GLIA_POINT_Z_GATED, il);
    const glia_place *pz = place(P, GLIA_POINT_Z, il), *pg = place(P, GLIA_POINT_ATTN_GATE, il);
    if (!telling(z, count(P, GLIA_POINT_Z, il)) || !telling(g, count(P, GLIA_POINT_ATTN_GATE, il)) || !out) return;
    if (pg->width <= 0 || pz->width % pg->width || place(P, GLIA_POINT_Z_GATED, il)->width != pz->width) return;
    int32_t each = pz->width / pg->width;
    double err = 0, top = 1e-30;
    for (size_t i = 0; i < count(P, GLIA_POINT_Z, il); i++) {
        worst(&err, fabs((double)out[i] - (double)z[i] * (double)g[i / (size_t)each]));
        if (fabs((double)out[i]) > top) top = fabs((double)out[i]);
    }
    if (err / top > SUM_TOLERANCE || !is_proven(P, GLIA_POINT_Z, il)) return; /* a product has no order: z gives it */
    proven(P, GLIA_POINT_ATTN_GATE, il);
    proven(P, GLIA_POINT_Z_GATED, il);
}

void glia_proof_probs(const proof *P, int32_t il) {
    if (check_mixture(P, il)) check_scores(P, il);
    check_rotation(P, il, GLIA_POINT_Q, GLIA_POINT_Q_ROT);
    check_rotation(P, il, GLIA_POINT_K, GLIA_POINT_K_ROT);
    check_gate(P, il);
}

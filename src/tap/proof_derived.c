/* tap/proof_derived.c — points that were computed from weights of the file, against what the graph computed itself.
 * See proof.h. */
#include "tap/prove.h"
#include <stdio.h>

enum { N = GLIA_PROOF_TOKENS };
#define WEIGHT_TOLERANCE 5e-2 /* the graph rounds z to eight bits where the projection is quantized */

static void broken(const proof *P, glia_point p, int32_t il, const char *identity, double error) {
    glia_place *pl = place(P, p, il);
    if (pl->grade < GLIA_GRADE_STRUCTURAL) return;
    pl->grade = GLIA_GRADE_AMBIGUOUS;
    (void)snprintf(pl->reason, sizeof pl->reason, "%s does not hold here (error %.1e)", identity, error);
}

/* Normalised row t of a stream, element i by element: (x - mean) · scale, as the final norm has it. */
typedef struct normed {
    const float *x;
    double mean[N], scale[N];
    size_t width;
} normed;

static normed norm_of(const proof *P, int32_t il) {
    const glia_lens *l = &P->at->lens;
    normed n = {.x = row(P, GLIA_POINT_RESID_POST, il), .width = (size_t)place(P, GLIA_POINT_RESID_POST, il)->width};
    for (int t = 0; n.x && t < N; t++) {
        const float *x = n.x + (size_t)t * n.width;
        double s = 0, ss = 0;
        for (size_t i = 0; l->centred && i < n.width; i++) s += (double)x[i];
        n.mean[t] = s / (double)n.width;
        for (size_t i = 0; i < n.width; i++) ss += ((double)x[i] - n.mean[t]) * ((double)x[i] - n.mean[t]);
        n.scale[t] = 1 / sqrt(ss / (double)n.width + (double)l->eps + 1e-30);
    }
    return n;
}
static double at(const normed *n, int t, size_t i) {
    return ((double)n->x[(size_t)t * n->width + i] - n->mean[t]) * n->scale[t];
}

/* Weight and bias of channel i, fitted to final_norm over the tokens. */
static void fit(const normed *n, const float *y, bool offset, size_t i, double *w, double *b) {
    double sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (int t = 0; t < N; t++) {
        double x = at(n, t, i), v = (double)y[(size_t)t * n->width + i];
        sx += x, sy += v, sxx += x * x, sxy += x * v;
    }
    double d = offset ? N * sxx - sx * sx : sxx;
    *w = fabs(d) < 1e-30 ? 0 : (offset ? N * sxy - sx * sy : sxy) / d;
    *b = offset ? (sy - *w * sx) / N : 0;
}

/* Every lens_in is that norm of its stream that makes final_norm of the last one: one weight and bias for all layers. */
void glia_proof_lens(const proof *P) {
    int32_t L = P->at->n_layer;
    const float *norm = row(P, GLIA_POINT_FINAL_NORM, 0);
    normed last = norm_of(P, L - 1);
    if (!last.x || !telling(norm, count(P, GLIA_POINT_FINAL_NORM, 0)) ||
        (size_t)place(P, GLIA_POINT_FINAL_NORM, 0)->width != last.width || !is_proven(P, GLIA_POINT_FINAL_NORM, 0))
        return;
    for (int32_t il = 0; il < L; il++) {
        const float *lens = row(P, GLIA_POINT_LENS_IN, il);
        normed x = norm_of(P, il);
        double err = 0, top = 1e-30, w, b;
        if (!lens || !x.x || x.width != last.width || !telling(lens, N * x.width)) continue;
        for (size_t i = 0; i < x.width; i++) {
            fit(&last, norm, P->at->lens.bias[0] != 0, i, &w, &b);
            for (int t = 0; t < N; t++) {
                double y = (double)lens[(size_t)t * x.width + i];
                worst(&err, fabs(y - w * at(&x, t, i) - b));
                top = fmax(top, fabs(y));
            }
        }
        if (err / top > 10 * NORM_TOLERANCE) broken(P, GLIA_POINT_LENS_IN, il, "lens_in = the final norm of resid_post", err / top);
        else if (err / top <= NORM_TOLERANCE && is_proven(P, GLIA_POINT_RESID_POST, il)) proven(P, GLIA_POINT_LENS_IN, il);
    }
}

/* attn_out - Σ attn_head_out is the projection's bias: one vector for all tokens. */
static void check_heads(const proof *P, int32_t il) {
    const float *heads = row(P, GLIA_POINT_ATTN_HEAD_OUT, il), *out = row(P, GLIA_POINT_ATTN_OUT, il);
    const glia_place *ph = place(P, GLIA_POINT_ATTN_HEAD_OUT, il), *po = place(P, GLIA_POINT_ATTN_OUT, il);
    size_t width = (size_t)po->width, nh = (size_t)ph->n_heads;
    if (!heads || !telling(out, N * width) || ph->head_dim != po->width) return;
    double err = 0, top = 1e-30;
    for (size_t i = 0; i < width; i++) {
        double bias = 0, mean = 0;
        for (int t = 0; t < N; t++) {
            double sum = 0;
            for (size_t h = 0; h < nh; h++) sum += (double)heads[((size_t)t * nh + h) * width + i];
            double rest = (double)out[(size_t)t * width + i] - sum;
            if (!t) bias = rest, mean = (double)out[i];
            worst(&err, fabs(rest - bias));
            top = fmax(top, fabs((double)out[(size_t)t * width + i] - mean));
        }
    }
    if (err / top <= WEIGHT_TOLERANCE) proven(P, GLIA_POINT_ATTN_HEAD_OUT, il);
    else if (err / top > 4 * WEIGHT_TOLERANCE)
        broken(P, GLIA_POINT_ATTN_HEAD_OUT, il, "attn_out = sum of attn_head_out", err / top);
}

void glia_proof_heads(const proof *P) {
    for (int32_t il = 0; il < P->at->n_layer; il++) check_heads(P, il);
}

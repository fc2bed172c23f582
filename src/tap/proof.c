/* tap/proof.c — see proof.h: the residual stream, norms, embeddings, logits.  Tolerances (prove.h): sums are exact in
 * float32 up to one rounding; norms are recomputed here in double; what passes through an f16 cache or flash attention is
 * allowed 2 % of the largest value. */
#include "proof.h"
#include "base/mem.h"
#include "tap/prove.h"
#include "proof_probs.h"
#include <stdio.h>

enum { N = GLIA_PROOF_TOKENS };

static void broken(const proof *P, glia_point p, int32_t il, const char *identity, double error) {
    glia_place *pl = place(P, p, il);
    if (pl->grade < GLIA_GRADE_STRUCTURAL) return;
    pl->grade = GLIA_GRADE_AMBIGUOUS;
    (void)snprintf(pl->reason, sizeof pl->reason, "%s does not hold here (error %.1e)", identity, error);
}

/* ------------------------------------------------------------------ measures */

/* max |c - a - b - d| / max |c|; b, d may be NULL */
static double sum_error(const float *a, const float *b, const float *d, const float *c, size_t n) {
    double err = 0, top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        worst(&err, fabs((double)c[i] - (double)a[i] - (b ? (double)b[i] : 0) - (d ? (double)d[i] : 0)));
        if (fabs((double)c[i]) > top) top = fabs((double)c[i]);
    }
    return err / top;
}

/* A norm of vectors of `width`: centred ones subtract the mean. */
typedef struct norm_kind {
    int32_t width;
    double eps;
    bool centred, offset;
} norm_kind;

/* y[v][i] = w[i] · (x[v][i] - mean_v) / sqrt(var_v + eps) + b[i] with the same w, b for all vectors v: w and b are fitted by
 * least squares over them, and the residue measured.  Without offset b is 0. */
static double norm_error(const float *x, const float *y, int32_t n_vectors, norm_kind k) {
    double err = 0, top = 1e-30;
    double *mean = glia_malloc(2 * (size_t)n_vectors * sizeof *mean), *scale = mean + n_vectors;
    if (!mean) return INFINITY;
    for (int32_t t = 0; t < n_vectors; t++) {
        const float *v = x + (size_t)t * (size_t)k.width;
        double s = 0, ss = 0;
        for (int32_t i = 0; i < k.width; i++) s += (double)v[i];
        mean[t] = k.centred ? s / k.width : 0;
        for (int32_t i = 0; i < k.width; i++) ss += ((double)v[i] - mean[t]) * ((double)v[i] - mean[t]);
        scale[t] = 1 / sqrt(ss / k.width + k.eps + 1e-30);
    }
    for (int32_t i = 0; i < k.width; i++) {
        double sn = 0, sy = 0, snn = 0, sny = 0;
        for (int32_t t = 0; t < n_vectors; t++) {
            size_t at = (size_t)t * (size_t)k.width + (size_t)i;
            double n = ((double)x[at] - mean[t]) * scale[t], v = (double)y[at];
            sn += n, sy += v, snn += n * n, sny += n * v;
        }
        double d = k.offset ? n_vectors * snn - sn * sn : snn;
        double w = fabs(d) < 1e-30 ? 0 : k.offset ? (n_vectors * sny - sn * sy) / d : sny / d;
        double b = k.offset ? (sy - w * sn) / n_vectors : 0;
        for (int32_t t = 0; t < n_vectors; t++) {
            size_t at = (size_t)t * (size_t)k.width + (size_t)i;
            worst(&err, fabs((double)y[at] - w * ((double)x[at] - mean[t]) * scale[t] - b));
            if (fabs((double)y[at]) > top) top = fabs((double)y[at]);
        }
    }
    glia_free(mean);
    return err / top;
}

/* y is x times one factor. */
static double scale_error(const float *x, const float *y, int32_t width) {
    size_t n = (size_t)N * (size_t)width;
    double err = 0, top = 1e-30, xx = 1e-30, xy = 0;
    for (size_t i = 0; i < n; i++) xx += (double)x[i] * (double)x[i], xy += (double)x[i] * (double)y[i];
    for (size_t i = 0; i < n; i++) {
        worst(&err, fabs((double)y[i] - xy / xx * (double)x[i]));
        if (fabs((double)y[i]) > top) top = fabs((double)y[i]);
    }
    return err / top;
}

/* y is a norm of x, in vectors of `width`. */
static double any_norm_error(const float *x, const float *y, int32_t n_vectors, int32_t width, double eps) {
    double best = INFINITY;
    for (int k = 0; k < 4; k++) {
        double e = norm_error(x, y, n_vectors, (norm_kind){width, eps, k & 1, k >> 1});
        if (e < best) best = e;
    }
    return best;
}

/* y is x itself, x times one factor, or a norm of x; where the graph has a norm (eps), only that. */
static double derived_error(const float *x, const float *y, int32_t width, double eps) {
    if (eps > 0) return any_norm_error(x, y, N, width, eps);
    double scaled = scale_error(x, y, width), normed = any_norm_error(x, y, N, width, eps);
    return scaled < normed ? scaled : normed;
}

/* ------------------------------------------------------------------ sums */

/* A sum alone cannot tell its two terms apart: the stream is the one that the layer before left, or whose norm the
 * attention reads. */
static bool is_layer_input(const proof *P, int32_t il) {
    const float *pre = row(P, GLIA_POINT_RESID_PRE, il), *attn_in = row(P, GLIA_POINT_ATTN_IN, il);
    const float *before = il ? row(P, GLIA_POINT_RESID_POST, il - 1) : NULL;
    if (before) return !memcmp(pre, before, count(P, GLIA_POINT_RESID_PRE, il) * sizeof *pre);
    return attn_in && derived_error(pre, attn_in, place(P, GLIA_POINT_RESID_PRE, il)->width,
                                    (double)place(P, GLIA_POINT_ATTN_IN, il)->eps) <= NORM_TOLERANCE;
}

static void judge(const proof *P, int32_t il, const glia_point *points, int n, const char *identity, double error) {
    for (int i = 0; i < n; i++) {
        if (error <= SUM_TOLERANCE) proven(P, points[i], il);
        else broken(P, points[i], il, identity, error);
    }
}

/* resid_post from resid_mid, or from the experts beside an MLP, too. */
static void check_second_sum(const proof *P, int32_t il) {
    static const glia_point all[] = {GLIA_POINT_RESID_MID, GLIA_POINT_RESID_POST, GLIA_POINT_MLP_OUT_POST};
    const float *mid = row(P, GLIA_POINT_RESID_MID, il), *post = row(P, GLIA_POINT_RESID_POST, il);
    const float *mlp = row(P, GLIA_POINT_MLP_OUT_POST, il), *moe = row(P, GLIA_POINT_MOE_OUT, il);
    size_t n = count(P, GLIA_POINT_RESID_MID, il);
    bool open = place(P, GLIA_POINT_RESID_POST, il)->more_terms;
    if (!telling(mid, n) || !telling(mlp, n)) return;
    double e = sum_error(mid, mlp, NULL, post, n);
    if (open && telling(moe, n)) e = sum_error(mid, mlp, moe, post, n);
    if (open && e > SUM_TOLERANCE) return; /* something else is added as well: no verdict */
    if (is_proven(P, GLIA_POINT_RESID_MID, il) || e > SUM_TOLERANCE) {
        judge(P, il, all, 3, "resid_post = resid_mid + mlp_out_post", e);
    }
}

/* Does `to` hold `from`, a scale or a norm of it? */
static bool comes_from(const proof *P, int32_t il, glia_point from, glia_point to) {
    const float *x = row(P, from, il), *y = row(P, to, il);
    if (!telling(x, count(P, from, il)) || !y || place(P, from, il)->width != place(P, to, il)->width) return false;
    return derived_error(x, y, place(P, to, il)->width, (double)place(P, to, il)->eps) <= NORM_TOLERANCE;
}

/* Layers with nothing between mixer and MLP, or with only one of them. */
static void check_only_sum(const proof *P, int32_t il) {
    const float *pre = row(P, GLIA_POINT_RESID_PRE, il), *post = row(P, GLIA_POINT_RESID_POST, il);
    const float *a = row(P, GLIA_POINT_ATTN_OUT_POST, il), *m = row(P, GLIA_POINT_MLP_OUT_POST, il);
    size_t n = count(P, GLIA_POINT_RESID_PRE, il);
    if ((a && !telling(a, n)) || (m && !telling(m, n)) || (!a && !m)) return;
    double e = sum_error(pre, a ? a : m, a && m ? m : NULL, post, n);
    if (place(P, GLIA_POINT_RESID_POST, il)->more_terms) return;
    if (a && m &&
        !(comes_from(P, il, GLIA_POINT_ATTN_OUT, GLIA_POINT_ATTN_OUT_POST) &&
          comes_from(P, il, GLIA_POINT_MLP_OUT, GLIA_POINT_MLP_OUT_POST)))
        return; /* a sum has no order: what leads to its terms says which is which */
    static const glia_point all[] = {GLIA_POINT_RESID_PRE, GLIA_POINT_RESID_POST, GLIA_POINT_ATTN_OUT_POST,
                                     GLIA_POINT_MLP_OUT_POST};
    judge(P, il, all, 4,
          a && m ? "resid_post = resid_pre + attn_out_post + mlp_out_post"
                 : "resid_post = resid_pre + what the layer adds",
          a && m ? e / 2 : e); /* two roundings */
}

static void check_sums(const proof *P, int32_t il) {
    const float *pre = row(P, GLIA_POINT_RESID_PRE, il), *mid = row(P, GLIA_POINT_RESID_MID, il);
    const float *post = row(P, GLIA_POINT_RESID_POST, il), *attn = row(P, GLIA_POINT_ATTN_OUT_POST, il);
    size_t n = count(P, GLIA_POINT_RESID_PRE, il);
    if (!telling(pre, n) || !telling(post, n)) return;
    bool anchored = is_layer_input(P, il);
    if (!mid) {
        if (anchored) check_only_sum(P, il);
        return;
    }
    if (!telling(mid, n)) return;
    if (telling(attn, n)) {
        static const glia_point all[] = {GLIA_POINT_RESID_PRE, GLIA_POINT_RESID_MID, GLIA_POINT_ATTN_OUT_POST};
        double e = sum_error(pre, attn, NULL, mid, n);
        if (anchored || e > SUM_TOLERANCE) judge(P, il, all, 3, "resid_mid = resid_pre + attn_out_post", e);
    }
    check_second_sum(P, il);
}

/* ------------------------------------------------------------------ norms */

/* Is `to` of layer il the same as `from` of layer from_il, a scale or a norm of it?  Then the proven one of the two proves
 * the other.  Otherwise no verdict: some models scale, clamp or mix in between. */
static void check_derived(const proof *P, glia_point from, int32_t from_il, glia_point to, int32_t il) {
    const float *x = row(P, from, from_il), *y = row(P, to, il);
    size_t n = count(P, to, il);
    if (!telling(x, n) || !telling(y, n) || place(P, from, from_il)->width != place(P, to, il)->width) return;
    if (is_proven(P, from, from_il) == is_proven(P, to, il)) return;
    if (derived_error(x, y, place(P, to, il)->width, (double)place(P, to, il)->eps) > NORM_TOLERANCE) return;
    if (is_proven(P, from, from_il)) proven(P, to, il);
    else proven(P, from, from_il);
}

/* Queries or keys are the norm, per head or over the row, of what stands before it. */
static void check_head_norm(const proof *P, int32_t il, glia_point before, glia_point after) {
    const glia_place *pb = place(P, before, il), *pa = place(P, after, il);
    const float *x = row(P, before, il), *y = row(P, after, il);
    size_t n = count(P, before, il);
    if (!telling(x, n) || !telling(y, n) || pb->width != pa->width || !is_proven(P, after, il)) return;
    int32_t width = pb->by_row || !pb->head_dim ? pb->width : pb->head_dim;
    if (any_norm_error(x, y, (int32_t)(n / (size_t)width), width, (double)pb->eps) <= NORM_TOLERANCE) {
        proven(P, before, il);
    }
}

/* ------------------------------------------------------------------ ends */

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

/* A parallel block whose attention and MLP read the stream through norms of their own. */
static bool two_norms_of_one_stream(const proof *P, int32_t il) {
    const float *a = row(P, GLIA_POINT_ATTN_IN, il), *m = row(P, GLIA_POINT_MLP_IN, il);
    size_t n = count(P, GLIA_POINT_ATTN_IN, il);
    return !row(P, GLIA_POINT_RESID_MID, il) && a && m && n == count(P, GLIA_POINT_MLP_IN, il) &&
           memcmp(a, m, n * sizeof *a) != 0;
}

/* ------------------------------------------------------------------ all of it */

void glia_proof_check(glia_atlas *at, const float *const *rows, const float *logits) {
    const proof P = {at, rows};
    int32_t L = at->n_layer;
    for (int32_t il = 0; il < L; il++) {
        check_sums(&P, il);
        glia_proof_probs(&P, il);
        glia_proof_mlp(&P, il);
    }
    glia_proof_check_probs(at, rows);
    for (int32_t il = 0; il < L; il++) { /* what hangs on a proven stream */
        bool mixer = row(&P, GLIA_POINT_ATTN_IN, il) != NULL;
        if (two_norms_of_one_stream(&P, il)) mixer = false; /* no identity tells them apart: both stay structural */
        if (mixer) check_derived(&P, GLIA_POINT_RESID_PRE, il, GLIA_POINT_ATTN_IN, il);
        if (row(&P, GLIA_POINT_RESID_MID, il)) check_derived(&P, GLIA_POINT_RESID_MID, il, GLIA_POINT_MLP_IN, il);
        else if (!two_norms_of_one_stream(&P, il)) check_derived(&P, GLIA_POINT_RESID_PRE, il, GLIA_POINT_MLP_IN, il);
        check_derived(&P, GLIA_POINT_ATTN_OUT, il, GLIA_POINT_ATTN_OUT_POST, il);
        check_derived(&P, GLIA_POINT_MLP_OUT, il, GLIA_POINT_MLP_OUT_POST, il);
        check_head_norm(&P, il, GLIA_POINT_Q_NORM_IN, GLIA_POINT_Q);
        check_head_norm(&P, il, GLIA_POINT_K_NORM_IN, GLIA_POINT_K);
        glia_proof_shared(&P, il);
    }
    check_derived(&P, GLIA_POINT_RESID_POST, L - 1, GLIA_POINT_FINAL_NORM, 0);
    glia_proof_lens(&P);
    glia_proof_heads(&P);
    check_embeddings(&P);
    const float *head = row(&P, GLIA_POINT_LM_HEAD, 0);
    if (head && logits && telling(head, count(&P, GLIA_POINT_LM_HEAD, 0))) {
        if (!memcmp(head, logits, count(&P, GLIA_POINT_LM_HEAD, 0) * sizeof *head)) proven(&P, GLIA_POINT_LM_HEAD, 0);
        else broken(&P, GLIA_POINT_LM_HEAD, 0, "lm_head = the logits of llama.cpp", 1);
    }
}

/* tap/proof_mlp.c — activation functions, routers and experts on the numbers of the dry run.  See proof.h. */
#include "base/mem.h"
#include "tap/prove.h"
#include <stdlib.h>

enum { N = GLIA_PROOF_TOKENS };
#define EXPERT_SUM_TOLERANCE 1e-5
#define ROUTER_TOLERANCE     1e-4

/* ------------------------------------------------------------------ activation function */

typedef struct pair {
    float x, y;
} pair;

static int by_x(const void *a, const void *b) {
    float x = ((const pair *)a)->x, y = ((const pair *)b)->x;
    return (x > y) - (x < y);
}

/* Is y = act / (lin + plus) one smooth function of pre?  Neighbours in pre must be neighbours in y: sort by pre and compare
 * steps with the slope that an activation function can have. */
static bool is_function(pair *v, size_t n, const float *pre, const float *lin, float plus, const float *act) {
    double top = 1e-30, jump = 0;
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        float d = lin ? lin[i] + plus : 1;
        if (lin && fabs((double)d) < 1e-3) continue;
        v[k++] = (pair){pre[i], act[i] / d};
        if (fabs((double)v[k - 1].y) > top) top = fabs((double)v[k - 1].y);
    }
    qsort(v, k, sizeof *v, by_x);
    for (size_t i = 1; i < k; i++) { /* slope: at most 1.2 for SiLU and GELU, 2·max|x| for squared ReLU */
        double dx = (double)v[i].x - v[i - 1].x, dy = fabs((double)v[i].y - v[i - 1].y);
        double slope = 1.2 + 2 * fabs((double)v[i].x) * (lin ? 0 : 1);
        worst(&jump, dy - slope * dx);
    }
    return k > 100 && jump / top <= 5e-3;
}

static void check_activation(const proof *P, int32_t il, glia_point p_pre, glia_point p_lin, glia_point p_act) {
    const float *pre = row(P, p_pre, il), *lin = row(P, p_lin, il), *act = row(P, p_act, il);
    size_t n = count(P, p_act, il);
    if (!telling(pre, n) || !telling(act, n) || place(P, p_pre, il)->width != place(P, p_act, il)->width) return;
    if (place(P, p_lin, il)->grade >= GLIA_GRADE_STRUCTURAL && !telling(lin, n)) return;
    pair *v = glia_malloc(n * sizeof *v);
    if (!v) return;
    /* gpt-oss multiplies by the other branch plus one */
    if (is_function(v, n, pre, lin, 0, act) || (lin && is_function(v, n, pre, lin, 1, act))) {
        proven(P, p_pre, il);
        proven(P, p_act, il);
        if (lin) proven(P, p_lin, il);
    }
    glia_free(v);
}

/* ------------------------------------------------------------------ experts */

/* Logarithm of what routers make of a logit, up to a factor per token: softmax, sigmoid, √softplus. */
static double log_gate(int kind, double l) {
    if (kind == 0) return l;
    if (kind == 1) return -log1p(exp(-l));
    return 0.5 * log(log1p(exp(l)));
}

/* Slot u's entry of the logits; NAN when its index is no expert. */
static double chosen(const float *logits, int32_t n_experts, const float *index, int u) {
    double i = (double)index[u];
    return i >= 0 && i < n_experts && floor(i) == i ? (double)logits[(size_t)i] : (double)NAN;
}

/* The weights of one token's experts relate to each other as their gates do. */
static void check_router(const proof *P, int32_t il) {
    const float *l = row(P, GLIA_POINT_ROUTER_LOGITS, il), *x = row(P, GLIA_POINT_EXPERT_INDICES, il);
    const float *w = row(P, GLIA_POINT_EXPERT_WEIGHTS, il);
    int32_t n_experts = place(P, GLIA_POINT_ROUTER_LOGITS, il)->width,
            used = place(P, GLIA_POINT_EXPERT_INDICES, il)->width;
    if (!telling(l, count(P, GLIA_POINT_ROUTER_LOGITS, il)) || !x || !w || used < 1 ||
        place(P, GLIA_POINT_EXPERT_WEIGHTS, il)->width != used)
        return;
    for (int kind = 0; kind < 3; kind++) {
        double err = 0, spread = 0, first = 0;
        for (int t = 0; t < N; t++) {
            const float *lt = l + (size_t)t * (size_t)n_experts, *xt = x + (size_t)t * (size_t)used;
            const float *wt = w + (size_t)t * (size_t)used;
            for (int32_t u = 0; u < used; u++) {
                double g = log_gate(kind, chosen(lt, n_experts, xt, u)), y = log((double)wt[u]);
                if (used == 1) { /* one expert: its weight is its gate up to one factor for all tokens */
                    double all = 0;
                    for (int32_t e = 0; kind == 0 && e < n_experts; e++) all += exp((double)lt[e]);
                    if (kind == 0) g -= log(all);
                }
                double base = used > 1 ? log((double)wt[0]) - log_gate(kind, chosen(lt, n_experts, xt, 0)) : first;
                if (used == 1 && t == 0) base = first = y - g;
                worst(&err, fabs(y - g - base));
                double off =
                    used > 1 ? fabs(g - log_gate(kind, chosen(lt, n_experts, xt, 0))) : fabs(y - log((double)w[0]));
                if (off > spread) spread = off;
            }
        }
        if (err <= ROUTER_TOLERANCE && spread >= 10 * ROUTER_TOLERANCE) { /* else alike weights would pass, too */
            proven(P, GLIA_POINT_ROUTER_LOGITS, il);
            proven(P, GLIA_POINT_EXPERT_INDICES, il);
            proven(P, GLIA_POINT_EXPERT_WEIGHTS, il);
            return;
        }
    }
}

/* moe_out is the sum of the experts' outputs with their weights; llama4 weights their inputs instead. */
static void check_expert_sum(const proof *P, int32_t il) {
    const float *o = row(P, GLIA_POINT_EXPERT_OUT, il), *w = row(P, GLIA_POINT_EXPERT_WEIGHTS, il);
    const float *sum = row(P, GLIA_POINT_MOE_OUT, il);
    int32_t used = place(P, GLIA_POINT_EXPERT_WEIGHTS, il)->width, width = place(P, GLIA_POINT_MOE_OUT, il)->width;
    if (!telling(o, count(P, GLIA_POINT_EXPERT_OUT, il)) || !w || !telling(sum, count(P, GLIA_POINT_MOE_OUT, il)) ||
        used < 1 || place(P, GLIA_POINT_EXPERT_OUT, il)->width != used * width)
        return;
    double weighted = 0, plain = 0, top = 1e-30;
    for (size_t t = 0; t < N; t++) {
        for (size_t i = 0; i < (size_t)width; i++) {
            double a = 0, b = 0, s = (double)sum[t * (size_t)width + i];
            for (size_t u = 0; u < (size_t)used; u++) {
                double v = (double)o[(t * (size_t)used + u) * (size_t)width + i];
                a += (double)w[t * (size_t)used + u] * v, b += v;
            }
            worst(&weighted, fabs(a - s));
            worst(&plain, fabs(b - s));
            if (fabs(s) > top) top = fabs(s);
        }
    }
    if (weighted / top > EXPERT_SUM_TOLERANCE && plain / top > EXPERT_SUM_TOLERANCE) return;
    proven(P, GLIA_POINT_EXPERT_OUT, il);
    proven(P, GLIA_POINT_MOE_OUT, il);
    if (weighted / top <= EXPERT_SUM_TOLERANCE) proven(P, GLIA_POINT_EXPERT_WEIGHTS, il);
}

void glia_proof_mlp(const proof *P, int32_t il) {
    check_activation(P, il, GLIA_POINT_MLP_PRE, GLIA_POINT_MLP_LINEAR, GLIA_POINT_MLP_ACT);
    check_activation(P, il, GLIA_POINT_EXPERT_PRE, GLIA_POINT_EXPERT_LINEAR, GLIA_POINT_EXPERT_ACT);
    check_router(P, il);
    check_expert_sum(P, il);
}

void glia_proof_shared(const proof *P, int32_t il) {
    const float *moe = row(P, GLIA_POINT_MOE_OUT, il), *shared = row(P, GLIA_POINT_SHARED_EXPERT_OUT, il);
    const float *out = row(P, GLIA_POINT_MLP_OUT, il);
    size_t n = count(P, GLIA_POINT_MOE_OUT, il);
    if (!telling(moe, n) || !telling(out, n) || !is_proven(P, GLIA_POINT_MOE_OUT, il)) return;
    double err = 0, top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        worst(&err, fabs((double)out[i] - (double)moe[i] - (shared ? (double)shared[i] : 0)));
        if (fabs((double)out[i]) > top) top = fabs((double)out[i]);
    }
    if (err / top > SUM_TOLERANCE) return; /* experts beside a dense MLP, or scaled: no verdict */
    proven(P, GLIA_POINT_MLP_OUT, il);
    if (telling(shared, n)) proven(P, GLIA_POINT_SHARED_EXPERT_OUT, il);
}

/* analysis/lens.c — see lens.h. */
#include "analysis/lens.h"
#include <math.h>

static double mean_of(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    return n ? sum / (double)n : 0;
}

static double scale_about(const glia_norm *f, const float *x, double mean) {
    double square = 0;
    for (size_t i = 0; i < f->n; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean);
    return 1 / sqrt(square / (double)f->n + f->eps);
}

double glia_norm_scale(const glia_norm *f, const float *x) {
    return scale_about(f, x, f->centred ? mean_of(x, f->n) : 0);
}

void glia_norm_apply(const glia_norm *f, const float *x, float *out) {
    double mean = f->centred ? mean_of(x, f->n) : 0, scale = scale_about(f, x, mean);
    for (size_t i = 0; i < f->n; i++) {
        double y = ((double)x[i] - mean) * scale;
        out[i] = (float)(y * (f->weight ? (double)f->weight[i] : 1) + (f->bias ? (double)f->bias[i] : 0));
    }
}

void glia_norm_fold(const glia_norm *f, const float *u, double *reading, double *constant) {
    double sum = 0;
    *constant = 0;
    for (size_t i = 0; i < f->n; i++) {
        sum += reading[i] = (double)u[i] * (f->weight ? (double)f->weight[i] : 1);
        if (f->bias) *constant += (double)u[i] * (double)f->bias[i];
    }
    for (size_t i = 0; f->centred && i < f->n; i++) reading[i] -= sum / (double)f->n;
}

double glia_dot(const double *a, const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * (double)x[i];
    return sum;
}

glia_reading glia_logits_read(const float *logits, size_t n) {
    double top = -INFINITY, sum = 0, weighted = 0;
    for (size_t i = 0; i < n; i++) top = fmax(top, (double)logits[i]);
    for (size_t i = 0; i < n; i++) {
        double d = (double)logits[i] - top, e = exp(d);
        sum += e;
        if (e > 0) weighted += e * d;
    }
    return (glia_reading){top + log(sum), log(sum) - weighted / sum};
}

double glia_logits_kl(const float *p, const float *q, size_t n) {
    double a = glia_logits_read(p, n).log_sum, b = glia_logits_read(q, n).log_sum, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double lp = (double)p[i] - a, w = exp(lp);
        if (w > 0) sum += w * (lp - ((double)q[i] - b));
    }
    return sum;
}

size_t glia_logits_top(const float *logits, size_t n, int32_t *ids, size_t k) {
    size_t have = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = have < k ? have++ : k;
        for (; at > 0 && logits[i] > logits[ids[at - 1]]; at--) {
            if (at < k) ids[at] = ids[at - 1];
        }
        if (at < k) ids[at] = (int32_t)i;
    }
    return have;
}

size_t glia_logits_rank(const float *logits, size_t n, int32_t id) {
    size_t above = 0;
    for (size_t i = 0; i < n; i++) above += logits[i] > logits[id] || (logits[i] == logits[id] && i < (size_t)id);
    return above;
}

double glia_norm_of(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

double glia_cosine(const float *a, const float *b, size_t n) {
    double dot = 0, x = glia_norm_of(a, n), y = glia_norm_of(b, n);
    for (size_t i = 0; i < n; i++) dot += (double)a[i] * (double)b[i];
    return x > 0 && y > 0 ? dot / (x * y) : (double)NAN;
}

/* lab/metric.c — see metric.h. */
#include "lab/metric.h"
#include "base/err.h"
#include <math.h>
#include <string.h>

static const char *const names[GLIA_N_METRICS] = {
#define X(id, name, meaning) name,
    GLIA_METRIC_MAP(X)
#undef X
};

const char *glia_metric_name(glia_metric m) { return (unsigned)m < GLIA_N_METRICS ? names[m] : "?"; }

bool glia_metric_from_name(const char *name, glia_metric *out) {
    for (int i = 0; i < GLIA_N_METRICS; i++) {
        *out = (glia_metric)i;
        if (!strcmp(name, names[i])) return true;
    }
    return false;
}

bool glia_metric_needs_row(glia_metric m) { return m != GLIA_METRIC_LOGIT_DIFFERENCE; }

static glia_status check_tokens(const int32_t *t, size_t n, bool needed, const char *param, glia_metric m,
                                int32_t n_vocab, glia_err *err) {
    if (!n != !needed) {
        return glia_fail_at(err, GLIA_EINVAL, param, needed ? "%s is missing: %s needs it" : "%s: %s takes none", param,
                            glia_metric_name(m));
    }
    for (size_t i = 0; i < n; i++) {
        if (t[i] < 0 || t[i] >= n_vocab) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: token %d does not exist: ids run from 0 to %d", param,
                                (int)t[i], (int)n_vocab - 1);
        }
    }
    return GLIA_OK;
}

glia_status glia_metric_check(const glia_metric_spec *s, int32_t n_vocab, glia_err *err) {
    glia_status st = check_tokens(s->answers, s->n_answers, s->metric != GLIA_METRIC_KL, "answer", s->metric, n_vocab, err);
    return st ? st
              : check_tokens(s->wrongs, s->n_wrongs, s->metric == GLIA_METRIC_LOGIT_DIFFERENCE, "wrong", s->metric,
                             n_vocab, err);
}

static double mean(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    return sum / (double)n;
}

static double log_sum_exp(const float *row, size_t n) {
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, (double)row[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)row[i] - most);
    return most + log(sum);
}

double glia_metric_of(const glia_metric_spec *s, const float *row, size_t n, const float *clean) {
    switch (s->metric) {
    case GLIA_METRIC_LOGIT_DIFFERENCE: return mean(row, s->n_answers) - mean(row + s->n_answers, s->n_wrongs);
    case GLIA_METRIC_PROBABILITY:
    case GLIA_METRIC_LOG_PROBABILITY: {
        double z = log_sum_exp(row, n), p = 0;
        if (s->n_answers == 1 && s->metric == GLIA_METRIC_LOG_PROBABILITY) return (double)row[s->answers[0]] - z;
        for (size_t i = 0; i < s->n_answers; i++) p += exp((double)row[s->answers[i]] - z);
        return s->metric == GLIA_METRIC_PROBABILITY ? p : log(p);
    }
    case GLIA_METRIC_KL: {
        double z = log_sum_exp(row, n), zc = log_sum_exp(clean, n), sum = 0;
        for (size_t i = 0; i < n; i++) {
            double lc = (double)clean[i] - zc;
            if (lc > -700) sum += exp(lc) * (lc - ((double)row[i] - z));
        }
        return sum;
    }
    case GLIA_METRIC_RANK: {
        float best = row[s->answers[0]];
        size_t above = 0;
        for (size_t i = 1; i < s->n_answers; i++) best = row[s->answers[i]] > best ? row[s->answers[i]] : best;
        for (size_t i = 0; i < n; i++) above += row[i] > best;
        return (double)above;
    }
    case GLIA_N_METRICS: break;
    }
    return NAN;
}

/* lab/metric.h — one number for what a row of logits says of an answer.  Pure functions.
 *
 * logit difference: Wang et al. 2022, "Interpretability in the wild"; Kullback-Leibler divergence in nats. */
#ifndef GLIA_LAB_METRIC_H
#define GLIA_LAB_METRIC_H
#include "glia.h"

/* name on the wire, meaning */
#define GLIA_METRIC_MAP(X)                                                                                             \
    X(LOGIT_DIFFERENCE, "logit_difference", "mean logit of the answers minus mean logit of the wrong answers")         \
    X(PROBABILITY, "probability", "probability of the answers together")                                               \
    X(LOG_PROBABILITY, "log_probability", "natural logarithm of that")                                                 \
    X(KL, "kl", "divergence from the clean run: sum of p_clean (ln p_clean - ln p), in nats")                          \
    X(RANK, "rank", "how many tokens are likelier than the likeliest answer")

typedef enum glia_metric {
#define X(id, name, meaning) GLIA_METRIC_##id,
    GLIA_METRIC_MAP(X)
#undef X
    GLIA_N_METRICS
} glia_metric;
const char *glia_metric_name(glia_metric m);
bool glia_metric_from_name(const char *name, glia_metric *out);

typedef struct glia_metric_spec {
    glia_metric metric;
    const int32_t *answers, *wrongs; /* token ids; KL: none; wrongs: LOGIT_DIFFERENCE only */
    size_t n_answers, n_wrongs;
} glia_metric_spec;

/* EINVAL: token lists that do not fit the metric, ids out of range (param "answer" or "wrong"). */
glia_status glia_metric_check(const glia_metric_spec *s, int32_t n_vocab, glia_err *err);
bool glia_metric_needs_row(glia_metric m); /* the whole vocabulary; else only the tokens named */

/* row: [n] logits of the whole vocabulary, or (LOGIT_DIFFERENCE) of answers and wrongs one after another.
 * clean: [n] logits of the clean run, for KL; else NULL. */
double glia_metric_of(const glia_metric_spec *s, const float *row, size_t n, const float *clean);
#endif

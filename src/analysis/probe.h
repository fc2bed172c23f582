/* analysis/probe.h — linear probes: can a label be read off the rows by one direction?
 * Pure functions over a glia_span; any thread. */
#ifndef GLIA_ANALYSIS_PROBE_H
#define GLIA_ANALYSIS_PROBE_H
#include "analysis/random.h"
#include "analysis/span.h"

typedef enum glia_probe_kind {
    GLIA_PROBE_LOGISTIC, /* Σ log(1 + exp(-±s)) + l2/2 |w|², by Newton's method */
    GLIA_PROBE_RIDGE     /* Σ (s - y)² + l2 |w|² */
} glia_probe_kind;

typedef struct glia_probe_params {
    glia_probe_kind kind;
    double l2;      /* > 0 */
    size_t n_folds; /* 2 … number of groups */
    size_t n_perm;  /* of the labels, for the baseline; 0: none */
    uint64_t seed;
    bool (*go_on)(void *ud); /* asked now and then; false ends with ECANCELLED.  May be NULL */
    void *ud;
} glia_probe_params;

/* score: on held-out rows, the share of right labels when these are 0 and 1, else R² = 1 - Σ(y - s)² / Σ(y - mean)² */
typedef struct glia_probe {
    bool binary;
    double score;
    double auc;                  /* binary: of the held-out s; NaN else */
    double majority;             /* binary: share of the more frequent label */
    double null_mean, null_high; /* score with permuted labels: mean, 95 % quantile; NaN without permutations */
    double p;                    /* (1 + permutations that reach score) / (1 + n_perm) */
    double *held_out;            /* [n] s of each row by the model that had not seen its group */
    double *direction, bias;     /* [d] of a model of all rows: s = direction · x + bias */
} glia_probe;

/* Cross-validated, fold by fold of whole groups (rows of one text share a group and never stand on both sides).
 *   y      [n] labels
 *   group  [n] from 0 to n_groups - 1
 * Permutations move labels between groups when every group has one label, else between rows.
 * EINVAL: a label is missing on some side, too few groups. */
glia_status glia_probe_fit(glia_probe *out, const glia_span *x, const double *y, const size_t *group, size_t n_groups,
                           const glia_probe_params *p, glia_err *err);
void glia_probe_clear(glia_probe *p);
#endif

/* analysis/contrast.h — which columns tell two kinds of rows apart: area under the ROC curve of each, judged together.
 * Pure functions; any thread. */
#ifndef GLIA_ANALYSIS_CONTRAST_H
#define GLIA_ANALYSIS_CONTRAST_H
#include "analysis/random.h"
#include "glia.h"

typedef struct glia_contrast {
    double *auc;   /* [k] chance that a positive row is above a negative one, ties half */
    size_t *order; /* [k] columns, those farthest from 0.5 first; of equal ones the lower column */
    double p;      /* of the best column: how often the best of all columns is as far with permuted labels (Westfall and
                      Young 1993: the search over columns is counted); NaN: n_perm 0 */
} glia_contrast;

/* x: [n, k]; positive: [n].  EINVAL: a kind is missing.  ENOMEM. */
glia_status glia_contrast_columns(glia_contrast *out, const float *x, const bool *positive, size_t n, size_t k,
                                  size_t n_perm, glia_rng *g, glia_err *err);
void glia_contrast_clear(glia_contrast *c);

/* (mean of positive - mean of negative) / pooled standard deviation (Cohen's d); NaN: no variance. */
double glia_separation(const double *x, const bool *positive, size_t n);
#endif

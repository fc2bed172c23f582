/* analysis/stats.h — significance of measured effects: bootstrap, permutation, multiple comparisons.
 * Pure functions over doubles; any thread.  A NaN among the data makes the result NaN. */
#ifndef GLIA_ANALYSIS_STATS_H
#define GLIA_ANALYSIS_STATS_H
#include "analysis/random.h"
#include <stdbool.h>

double glia_mean(const double *x, size_t n);     /* n = 0: NaN */
double glia_variance(const double *x, size_t n); /* divided by n - 1; n < 2: NaN */

/* Percentile interval of the mean over n_boot resamples (Efron: Bootstrap methods, Annals of Statistics 1979).
 *   means  [n_boot] scratch, then the resampled means, sorted
 *   level  e.g. 0.95 */
void glia_bootstrap_mean(const double *x, size_t n, size_t n_boot, double level, glia_rng *g, double *means,
                         double *low, double *high);

/* Two-sided p of "x is as often above as below zero, by the same amounts": the mean against those after flipping signs
 * (Fisher: The design of experiments, 1935).  All 2^n sign patterns when these are at most n_perm (*exact = true), else
 * n_perm random ones, counted as (1 + as extreme) / (1 + n_perm) (Phipson and Smyth 2010).  n = 0: NaN. */
double glia_sign_flip_p(const double *x, size_t n, size_t n_perm, glia_rng *g, bool *exact);

/* The smallest p that the test above can give: what n samples can show at all. */
double glia_sign_flip_least(size_t n, size_t n_perm);

typedef enum glia_correction {
    GLIA_CORRECT_NONE,
    GLIA_CORRECT_BONFERRONI,
    GLIA_CORRECT_HOLM,
    GLIA_CORRECT_BH
} glia_correction;
const char *glia_correction_name(glia_correction c);
/* "none", "bonferroni", "holm", "fdr_bh" (also "fdr", "benjamini_hochberg", "bh"). */
bool glia_correction_from_name(const char *name, glia_correction *out);

/* Adjusted p-values in place (Holm 1979; Benjamini and Hochberg 1995); NaN stays, and is not counted.
 *   order  [n] scratch */
void glia_adjust_p(double *p, size_t n, glia_correction c, size_t *order);

/* Area under the ROC curve of scores: the chance that a positive is above a negative, ties count half (Hanley and McNeil
 * 1982).  order: [n] scratch.  NaN when a class is missing. */
double glia_auc(const double *score, const bool *positive, size_t n, size_t *order);
#endif

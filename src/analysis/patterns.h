/* analysis/patterns.h — what attention heads look at: scores of the patterns that the literature names.
 *
 * Pure functions over attention probabilities and token ids; any thread.  docs/ANALYSIS.md has definitions and sources.
 *
 * A pattern gives every query row a set of target positions.  The head's *mass* in this row is the attention it puts on
 * them, *chance* what a head would put there that attends evenly to all that it sees.  Over the rows in which the
 * pattern can occur at all (its *eligible* rows):
 *     score  = mean mass
 *     excess = Σ (mass - chance) / Σ (1 - chance)     0: like chance, 1: all attention on the targets (Cohen's kappa) */
#ifndef GLIA_ANALYSIS_PATTERNS_H
#define GLIA_ANALYSIS_PATTERNS_H
#include "analysis/random.h"
#include "glia.h"

/* name on the wire; conditional: only defined in some rows, and judged in these alone; targets */
#define GLIA_PATTERN_MAP(X)                                                                                            \
    X(PREVIOUS_TOKEN, "previous_token", 0, "the position before")                                                      \
    X(FIRST_TOKEN, "first_token", 0, "position 0")                                                                     \
    X(INDUCTION, "induction", 1, "positions behind earlier occurrences of the current token")                          \
    X(DUPLICATE_TOKEN, "duplicate_token", 1, "earlier occurrences of the current token")                               \
    X(PUNCTUATION, "punctuation", 0, "tokens of punctuation only")                                                     \
    X(POSITIONAL, "positional", 0, "one fixed distance, 0 or 2 to 7, the head's best")                                 \
    X(BROADCAST, "broadcast", 0, "everything evenly")

typedef enum glia_pattern {
#define X(id, name, conditional, meaning) GLIA_PATTERN_##id,
    GLIA_PATTERN_MAP(X)
#undef X
        GLIA_N_PATTERNS,
    GLIA_PATTERN_UNKNOWN = GLIA_N_PATTERNS
} glia_pattern;

const char *glia_pattern_name(glia_pattern p); /* also of UNKNOWN */
const char *glia_pattern_meaning(glia_pattern p);

enum { GLIA_PATTERN_DISTANCES = 7 };     /* tried for POSITIONAL: 0, 2 … 7 */
int32_t glia_pattern_distance(size_t i); /* i < GLIA_PATTERN_DISTANCES */

/* The targets of one sequence, made once and used for every head. */
typedef struct glia_targets glia_targets;

/*   tokens       [n] ids, position by position
 *   punctuation  [n] whether the token is punctuation; NULL: none is
 *   primary      rows that unconditional patterns are judged in (the prompt; not the probes beside it)
 * ENOMEM. */
glia_status glia_targets_new(glia_targets **out, const int32_t *tokens, const bool *punctuation, size_t n, bool primary,
                             glia_err *err);
void glia_targets_free(glia_targets *t);
size_t glia_targets_n(const glia_targets *t);

/* What one head did in all rows of some sequences. */
typedef struct glia_head_rows glia_head_rows;
glia_status glia_head_rows_new(glia_head_rows **out, glia_err *err);
void glia_head_rows_free(glia_head_rows *h);
/* Add a sequence:  a  [n, n] probabilities, row q at a + q * stride.  Borrowed until free: t, a.  ENOMEM. */
glia_status glia_head_rows_add(glia_head_rows *h, const glia_targets *t, const float *a, size_t stride, glia_err *err);

typedef struct glia_pattern_params {
    double min_excess;     /* of a pattern that may name a head; 0.3 is a fair start */
    size_t n_boot, n_perm; /* resamples: of rows, for confidence; of targets, for p */
    uint64_t seed;
} glia_pattern_params;

typedef struct glia_pattern_score {
    size_t n_rows; /* eligible; 0: the numbers below are NaN */
    double score, chance, excess;
    double p; /* score against targets that are moved by a random distance in each row; NaN: BROADCAST */
} glia_pattern_score;

typedef struct glia_head_verdict {
    glia_pattern_score patterns[GLIA_N_PATTERNS]; /* conditional ones: in all rows; the others: in primary rows */
    glia_pattern_score probe[GLIA_N_PATTERNS];    /* baseline: in the rows that are not primary; p is NaN */
    int32_t distance;                             /* of POSITIONAL */
    glia_pattern name;                            /* UNKNOWN: none reaches min_excess */
    double confidence; /* share of n_boot resamples of the rows that give the head the same name */
} glia_head_verdict;

/* Name a head.  A conditional pattern names it when, in the rows where it can occur, its excess is at least min_excess and
 * above that of every other pattern in the same rows; else the largest excess of the others in primary rows does.  ENOMEM. */
glia_status glia_head_judge(const glia_head_rows *h, const glia_pattern_params *p, glia_head_verdict *out,
                            glia_err *err);

/* Attention rollout (Abnar and Zuidema 2020): R ← (A/2 + I/2) R, layer by layer.
 *   a  [n, n] mean over heads, row q at a + q * n;  r [n, n] starts as the identity;  scratch [n, n] */
void glia_rollout_step(const float *a, size_t n, float *r, float *scratch);
#endif

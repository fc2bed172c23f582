/* lab/circuits.h — what happens to an answer when a part of the model is taken out, put in from another run, or disturbed:
 * every effect by running the model with exactly this change.
 * Blocking; a task's thread.  Knows glia.h and the rooms below; no HTTP, no JSON. */
#ifndef GLIA_LAB_CIRCUITS_H
#define GLIA_LAB_CIRCUITS_H
#include "analysis/stats.h"
#include "glia.h"

typedef enum glia_part_kind { GLIA_PART_ATTENTION, GLIA_PART_MLP, GLIA_PART_HEAD } glia_part_kind;
typedef struct glia_part {
    glia_part_kind kind;
    int32_t layer, head; /* head: -1 unless HEAD */
} glia_part;

/* All parts of some kinds in some layers that the model has; layers NULL: all.  *out is freed with glia_free.  ENOMEM. */
glia_status glia_parts_list(glia_part **out, size_t *n, const glia_model *m, const int32_t *layers, size_t n_layers,
                            bool attention, bool mlp, bool heads, glia_err *err);

/* One prompt and what is read of it: the mean over its readings of log p(target), or of log p(target) - log p(against). */
typedef struct glia_sample {
    const int32_t *tokens;
    size_t n_tokens;
    const int32_t *at, *target; /* [n_readings] position of the row, token it should predict */
    const int32_t *against;     /* [n_readings] or NULL */
    size_t n_readings;
    const int32_t *other; /* [n_tokens] the prompt that is patched with (PATCH, RESTORE), or NULL */
    const float *noised;  /* [n_tokens, n_embd] instead of other, RESTORE: what enters layer 0 in the disturbed run */
} glia_sample;

typedef enum glia_cut {
    GLIA_CUT_ZERO,    /* the part's output is 0 */
    GLIA_CUT_MEAN,    /* its mean over all rows of all samples */
    GLIA_CUT_PATCH,   /* what it is in the other prompt, row by row */
    GLIA_CUT_RESTORE, /* the sample runs as the other prompt (or disturbed), the part's output is what it is in its own */
    GLIA_CUT_RANDOM, /* normal numbers of the same mean and deviation */
    GLIA_CUT_NOISE,  /* plus strength · normal numbers */
    GLIA_CUT_SCALE   /* times strength */
} glia_cut;

typedef struct glia_effects_params {
    const glia_part *parts;
    size_t n_parts;
    const glia_sample *samples;
    size_t n_samples;
    glia_cut cut;
    float strength;
    uint64_t seed;
    bool each_reading; /* every reading is an observation; else every sample is one */
    bool (*on_progress)(void *ud, double fraction);
    void *ud;
} glia_effects_params;

/* Observations: one a sample, or one a reading in the samples' order. */
typedef struct glia_effects {
    size_t n_parts, n_obs;
    double *base;   /* [n_obs] the metric without a change; RESTORE: of the disturbed run */
    double *clean;  /* [n_obs] RESTORE: of the sample's own run; else equal to base */
    double *effect; /* [n_parts, n_obs] base - changed; RESTORE: changed - base */
} glia_effects;

/* Without parts only base and clean are measured.  EHOOK: a part cannot be changed in this model. */
glia_status glia_effects_run(glia_effects **out, glia_model *m, const glia_effects_params *p, glia_err *err);
void glia_effects_free(glia_effects *e); /* NULL is fine */

typedef struct glia_judge_params {
    size_t n_perm, n_boot;
    double level; /* of the bootstrap interval */
    glia_correction correction;
    uint64_t seed;
} glia_judge_params;

typedef struct glia_part_verdict {
    double effect, low, high; /* mean over observations, its interval */
    double p, adjusted;       /* sign flips; NaN: fewer than two observations */
} glia_part_verdict;

/* out: [n_parts]. */
glia_status glia_effects_judge(const glia_effects *e, const glia_judge_params *p, glia_part_verdict *out,
                               glia_err *err);
#endif

/* lab/sweep.h — what each place of a model does for an answer: one intervention after another over layers × positions ×
 * heads, one number each.
 *
 *   patch  Meng et al. 2022 ("causal tracing"), Wang et al. 2022: denoise puts values of the clean run into the corrupted
 *          one, noise those of the corrupted run into the clean one.
 *   zero, mean  attribution by exact ablation: the clean run with the place set to 0, or to its mean over the prompt.
 *
 * What both prompts share at their beginning is computed once for each slot of the model; a place before their first
 * difference holds the same values in both, so that patching it is not run: its number is that of the unchanged run.
 * Blocking; the caller's thread. */
#ifndef GLIA_LAB_SWEEP_H
#define GLIA_LAB_SWEEP_H
#include "lab/metric.h"

typedef enum glia_sweep_op { GLIA_SWEEP_DENOISE, GLIA_SWEEP_NOISE, GLIA_SWEEP_ZERO, GLIA_SWEEP_MEAN } glia_sweep_op;

/* Which numbers a point gives; every layer always is an axis. */
typedef enum glia_sweep_by {
    GLIA_BY_LAYER,        /* all positions and heads at once */
    GLIA_BY_POSITION,     /* layer × position */
    GLIA_BY_HEAD,         /* layer × head, all positions at once */
    GLIA_BY_HEAD_POSITION /* layer × head × position */
} glia_sweep_by;

typedef struct glia_sweep_grid {
    glia_point point; /* with heads for BY_HEAD…; attn_probs by head too: its pattern */
    glia_sweep_by by;
} glia_sweep_grid;

enum { GLIA_SWEEP_MAX_CELLS = 200000, GLIA_SWEEP_MAX_GRIDS = 64 };

typedef struct glia_sweep_params {
    const int32_t *clean, *corrupted; /* token ids, equally many; corrupted: NULL for ZERO and MEAN */
    size_t n_clean, n_corrupted;
    glia_sweep_op op;
    glia_metric_spec metric; /* of the last position's logits */
    const glia_sweep_grid *grids;
    size_t n_grids;
    const int32_t *layers; /* ascending; NULL: all */
    size_t n_layers;
    const int32_t *positions; /* ascending; NULL: all.  BY_LAYER, BY_HEAD: only these are changed */
    size_t n_positions;
    bool (*on_progress)(void *ud, size_t n_done, size_t n_total); /* as in forward.h */
    void *ud;
} glia_sweep_params;

/* Numbers of one grid: [n_layers, n_heads, n_positions], axes that it does not have being 1 long. */
typedef struct glia_sweep_values {
    glia_sweep_grid grid;
    int32_t n_heads, n_positions;
    double *values;    /* the metric with the place changed; NAN where the layer has no such place */
    double *recovered; /* (value - unchanged) / (other - unchanged): 1 when the change alone makes the other run of it.
                          NULL: ZERO and MEAN; NAN where the two runs do not differ */
} glia_sweep_values;

typedef struct glia_sweep {
    double clean, corrupted;  /* the metric of both runs; corrupted NAN when there is none */
    int32_t *layers, *positions;
    size_t n_layers, n_positions;
    glia_sweep_values *grids; /* [n_grids] */
    size_t n_grids;
    size_t n_run, n_same; /* interventions that were run; that change nothing and were not */
    uint64_t n_tokens, n_shared; /* of the prompts that ran: computed, and taken from the prompt cache */
    double seconds;
} glia_sweep;

/* EINVAL: names "clean", "corrupted", "answer", "wrong", "sweeps[i]", "layers", "positions".  EHOOK: a place that no layer
 * has or that cannot be changed ("sweeps[i].component").  Others as glia_forward_run. */
glia_status glia_sweep_run(glia_sweep **out, glia_model *m, const glia_sweep_params *p, glia_err *err);
void glia_sweep_free(glia_sweep *s);

const char *glia_sweep_by_name(glia_sweep_by by); /* "layer", "position", "head", "head_position" */
bool glia_sweep_by_from_name(const char *name, glia_sweep_by *out);
const char *glia_sweep_op_name(glia_sweep_op op); /* "denoise", "noise", "zero", "mean" */
bool glia_sweep_op_from_name(const char *name, glia_sweep_op *out);
#endif

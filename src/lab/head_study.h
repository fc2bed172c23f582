/* lab/head_study.h — what every attention head of a model looks at in a prompt, and in random repeated tokens beside it.
 * Blocking; a task's thread.  Knows glia.h, lab/forward.h and analysis/patterns.h; no HTTP, no JSON. */
#ifndef GLIA_LAB_HEAD_STUDY_H
#define GLIA_LAB_HEAD_STUDY_H
#include "analysis/patterns.h"

enum { GLIA_HEAD_TOP = 5 };

typedef struct glia_head_study_params {
    const int32_t *tokens; /* [n_tokens] the prompt */
    size_t n_tokens;
    const int32_t *layers; /* [n_layers], rising, without repetition; NULL: every layer that has attention */
    size_t n_layers;
    size_t n_probes, probe_half; /* random repeated sequences beside the prompt; 0: none */
    glia_pattern_params patterns;
    bool (*on_progress)(void *ud, double fraction); /* on the caller's thread; false cancels.  May be NULL */
    void *ud;
} glia_head_study_params;

typedef struct glia_head_top {
    int32_t position;
    double weight; /* share of the whole */
} glia_head_top;

typedef struct glia_studied_head {
    int32_t layer, head;
    glia_head_verdict verdict;
    size_t n_top;
    glia_head_top keys[GLIA_HEAD_TOP];   /* positions of the prompt by attention received from all rows */
    glia_head_top values[GLIA_HEAD_TOP]; /* the same, attention times the norm of the value vector (Kobayashi et
                                                      al. 2020); n_values 0: the layer's values cannot be read */
    size_t n_values;
} glia_studied_head;

typedef struct glia_head_study {
    glia_studied_head *heads; /* [n_heads], by layer and head */
    size_t n_heads;
    int32_t *layers; /* [n_layers] that were looked at */
    size_t n_layers;
    size_t n_tokens, n_probes, probe_length;
    double *
        rollout; /* [n_tokens] share of each position in the last row of the attention rollout; NULL: not every layer of
                        the model was looked at, or has attention; or more than 1024 tokens (a product of n³ a layer) */
} glia_head_study;

/* EHOOK: a layer named has no attention, or the model none at all.  Else as glia_forward_run. */
glia_status glia_head_study_run(glia_head_study **out, glia_model *m, const glia_head_study_params *p, glia_err *err);
void glia_head_study_free(glia_head_study *a); /* NULL is fine */
#endif

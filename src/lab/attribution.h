/* lab/attribution.h — which part of the model, and which token of the prompt, an answer comes from.
 * Blocking; a task's thread.  Knows glia.h and the rooms below; no HTTP, no JSON. */
#ifndef GLIA_LAB_ATTRIBUTION_H
#define GLIA_LAB_ATTRIBUTION_H
#include "glia.h"

/* -- direct logit attribution: what each part adds to the residual stream at one position, read by the output matrix behind
 *    the final norm, whose scale is held at what it was (Elhage et al. 2021; nostalgebraist 2020). */
typedef struct glia_dla_params {
    const int32_t *tokens;
    size_t n_tokens;
    int64_t position; /* negative: from the end */
    int32_t target;   /* -1: the token the model finds likeliest there */
    int32_t against;  /* -1: none; else logit differences target - against */
    bool heads;
} glia_dla_params;

typedef struct glia_dla {
    int32_t position, target, against;
    size_t n_layer;
    double embedding;  /* what enters layer 0 */
    double *attention; /* [n_layer] NaN: the layer has none */
    double *mlp;       /* [n_layer] */
    double **heads;    /* [n_layer] of [n_heads[l]], or NULL: not asked for, or no heads there */
    int32_t *n_heads;  /* [n_layer] */
    double *head_rest; /* [n_layer] attention less its heads: bias, and rounding of quantized kernels */
    double constant;   /* biases of the final norm and of the output */
    double sum;        /* of embedding, attention, mlp, constant */
    double logit;      /* the lens' own: output matrix times final_norm of this row, less `against`'s; sum equals it */
    double engine; /* the same from the engine's logits (quantized kernels round; soft caps and scales undone: NaN when
                           a soft cap makes a difference of logits no sum) */
    double scale;  /* of the final norm at this row */
} glia_dla;

/* EHOOK: the parts do not add up to the residual stream (to 0.001), or cannot be read; heads: a norm follows the attention's
 * output, so that its heads do not add up. */
glia_status glia_dla_run(glia_dla **out, glia_model *m, const glia_dla_params *p, glia_err *err);
void glia_dla_free(glia_dla *a);

/* -- flow: the residual stream from layer to layer */
typedef struct glia_flow {
    size_t n_layer, n_rows;
    int32_t *positions; /* [n_rows] */
    float *norm_pre;    /* [n_rows] what enters layer 0 */
    /* [n_layer, n_rows] each */
    float *norm;                          /* of resid_post */
    float *cosine;                        /* of resid_post with what entered the layer */
    float *cosine_last;                   /* of resid_post with the last layer's */
    float *attention, *mlp;               /* norms of what they add; NaN: the layer has none */
    float *attention_cosine, *mlp_cosine; /* of what they add with what entered the layer */
} glia_flow;

typedef struct glia_flow_params {
    const int32_t *tokens;
    size_t n_tokens;
    const int64_t *positions; /* NULL: all */
    size_t n_positions;
} glia_flow_params;

glia_status glia_flow_run(glia_flow **out, glia_model *m, const glia_flow_params *p, glia_err *err);
void glia_flow_free(glia_flow *f);

/* -- tokens: how much of the target's log-probability goes when a token's embedding does */
typedef enum glia_token_ablation {
    GLIA_TOKEN_ZERO,
    GLIA_TOKEN_MEAN
} glia_token_ablation; /* by 0, by the prompt's mean */

typedef struct glia_token_params {
    const int32_t *tokens;
    size_t n_tokens;
    int32_t target; /* -1: the likeliest next token */
    glia_token_ablation by;
    bool (*on_progress)(void *ud, double fraction);
    void *ud;
} glia_token_params;

typedef struct glia_token_effects {
    int32_t target;
    double logprob; /* of the target behind the prompt as it is */
    double *effect; /* [n_tokens] logprob - logprob with this token ablated */
    size_t n_tokens;
} glia_token_effects;

glia_status glia_token_effects_run(glia_token_effects **out, glia_model *m, const glia_token_params *p, glia_err *err);
void glia_token_effects_free(glia_token_effects *e);
#endif

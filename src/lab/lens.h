/* lab/lens.h — what every layer would answer: the logit lens and the tuned lens.
 * Blocking; a task's thread.  Knows glia.h and the rooms below; no HTTP, no JSON. */
#ifndef GLIA_LAB_LENS_H
#define GLIA_LAB_LENS_H
#include "lab/readout.h"

/* One layer's translator of a tuned lens (Belrose et al. 2023): h + weight · h + bias goes to the final norm. */
typedef struct glia_translator {
    const float *weight; /* [n_embd, n_embd] row-major, outputs first; NULL: no translator of this layer */
    const float *bias;   /* [n_embd] or NULL */
} glia_translator;

typedef struct glia_lens_params {
    const int32_t *tokens;
    size_t n_tokens;
    const int32_t *layers; /* [n_layers] rising; NULL: all */
    size_t n_layers;
    const int64_t *positions; /* [n_positions] negative from the end; NULL: all */
    size_t n_positions;
    size_t top_k;
    const int32_t *targets; /* [n_targets] tokens to follow through the layers */
    size_t n_targets;
    const glia_translator *translators; /* [n_layer of the model] NULL: the plain logit lens */
    bool (*on_progress)(void *ud, double fraction);
    void *ud;
} glia_lens_params;

typedef struct glia_lens_row {
    int32_t layer, position;
    double entropy;     /* nats */
    double kl;          /* from the model's own answer at this position to this one, nats */
    const int32_t *top; /* [n_top] tokens, likeliest first */
    const double *top_logit, *top_logprob;
    const double *logit, *logprob; /* [n_targets] */
    const int64_t *rank;           /* [n_targets] 0: likeliest */
} glia_lens_row;

typedef struct glia_lens_result glia_lens_result;

/* Rows by position, then layer. */
glia_status glia_lens_run(glia_lens_result **out, glia_model *m, const glia_lens_params *p, glia_err *err);
size_t glia_lens_n_rows(const glia_lens_result *r);
size_t glia_lens_n_top(const glia_lens_result *r);
glia_lens_row glia_lens_at(const glia_lens_result *r, size_t i); /* its pointers live as long as r */
double glia_lens_error(const glia_lens_result *r);               /* glia_readout.error */
void glia_lens_free(glia_lens_result *r);
#endif

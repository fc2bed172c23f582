/* lab/readout.h — how a model turns the end of its residual stream into logits: final norm, output matrix, what follows.
 *
 * Made of the model's file and checked against a forward pass of the model itself before anything is answered with it.
 * The matrix is dequantized to float32: logits of quantized models differ from the engine's by what their kernels round.
 * One thread at a time. */
#ifndef GLIA_LAB_READOUT_H
#define GLIA_LAB_READOUT_H
#include "analysis/lens.h"
#include "glia.h"

typedef enum glia_readout_after {
    GLIA_AFTER_NOTHING,
    GLIA_AFTER_TIMES,
    GLIA_AFTER_DIVIDED,
    GLIA_AFTER_SOFTCAP
} glia_readout_after;

typedef struct glia_readout {
    glia_model *m;
    size_t n_embd, n_vocab;
    const char *matrix; /* its name in the file */
    glia_norm norm;     /* weight and bias are owned */
    float *bias;        /* [n_vocab] of the output, or NULL */
    glia_readout_after after;
    double factor; /* of what comes after: logits times, divided by, factor · tanh(logits / factor) */
    double error;  /* largest |logit - the engine's| over the largest |logit|, last row of the tokens checked with */
} glia_readout;

/* Read it and check it on the last row of these tokens.  EHOOK: the file lacks a part, or the numbers disagree (more than
 * 0.001 in the norm, more than 0.05 in the logits). */
glia_status glia_readout_open(glia_readout *r, glia_model *m, const int32_t *tokens, size_t n_tokens, glia_err *err);
void glia_readout_clear(glia_readout *r);

/* x: [n_rows, n_embd] behind the norm → out: [n_rows, n_vocab], as the model's logits are. */
glia_status glia_readout_logits(const glia_readout *r, const float *x, size_t n_rows, float *out, glia_err *err);
/* The output matrix' row of a token: [n_embd]; false: no such token. */
bool glia_readout_row(const glia_readout *r, int32_t token, float *out);
/* What follows the matrix, for one logit. */
double glia_readout_finish(const glia_readout *r, double raw);
#endif

/* api/sweep.h — sweeps as they come in and go out: a JSON object → glia_sweep_run → a JSON object, and what is made of
 * that: a safetensors file, heat maps.  Shared by POST /api/v1/sweeps and `glia sweep`.  Any thread; blocking. */
#ifndef GLIA_API_SWEEP_H
#define GLIA_API_SWEEP_H
#include "api/study.h"

/* The body's fields (docs/API.md), run, and append the result.  tell as on_progress of lab/sweep.h, may be NULL. */
glia_status glia_sweep_answer(glia_study *s, bool (*tell)(void *ud, size_t n_done, size_t n_total), void *ud,
                              glia_buf *b, glia_err *err);

/* -- of a result */
size_t glia_sweep_count(yyjson_val *result);
/* Every sweep's values and recovered as float64 tensors "COMPONENT.BY.values", the rest as metadata. */
glia_status glia_sweep_tensors(yyjson_val *result, glia_buf *b, glia_err *err);
/* The i-th sweep's picture: rows are layers (and heads), columns positions or heads. */
glia_status glia_sweep_picture(yyjson_val *result, size_t i, glia_buf *b, glia_err *err);
#endif

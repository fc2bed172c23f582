/* models/estimate.h — how much memory a model will take, told from its header before it is loaded.  Pure functions. */
#ifndef GLIA_MODELS_ESTIMATE_H
#define GLIA_MODELS_ESTIMATE_H
#include "models/header.h"

typedef struct glia_footprint {
    uint64_t weights; /* the tensors, whether mapped or copied to a device */
    uint64_t cache;   /* keys and values, recurrent state: of all slots */
    uint64_t compute; /* the largest pass: logits, hidden rows, attention */
    uint64_t total;
} glia_footprint;

/* p is read as glia_model_open reads it: 0 means its default.  g: header of the (first) file; weight_bytes of all parts.
 * An upper estimate where layers differ in what they keep. */
void glia_estimate(const glia_gguf *g, uint64_t weight_bytes, const glia_model_params *p, glia_footprint *out);

/* Bytes that this process may still take: the least of free memory and the limit of its control group.  UINT64_MAX:
 * unknown. */
uint64_t glia_memory_available(void);
#endif

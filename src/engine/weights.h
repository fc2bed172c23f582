/* engine/weights.h — weights as they lie in the model's GGUF files, for points that are computed from them and for
 * analyses that need them.
 *
 * llama.cpp may have repacked or moved its own copy, the file is exact for every backend.  Vectors and matrices only.
 * Made at load, then any thread. */
#ifndef GLIA_ENGINE_WEIGHTS_H
#define GLIA_ENGINE_WEIGHTS_H
#include "glia.h"
#include "tap/derive.h"

struct gguf_context;
typedef struct glia_weights glia_weights;

/* first: metadata of the file at path, of which other parts are found when it is split.  NULL: out of memory. */
glia_weights *glia_weights_new(const char *path, const struct gguf_context *first);
void glia_weights_free(glia_weights *w);

/* out->data points into the mapped file and stays valid as long as w.  False: no such tensor, or it cannot be read. */
bool glia_weights_map(glia_weights *w, const char *name, glia_weight *out);
/* Rows from ≤ i < to, dequantized: out [to - from, ne0].  False: no such rows. */
bool glia_weight_rows(const glia_weight *w, int64_t from, int64_t to, float *out);
#endif

/* engine/weights.h — weights as they lie in the model's GGUF files, for points that are computed from them.
 *
 * llama.cpp may have repacked or moved its own copy, the file is exact for every backend.  Only the few kinds of tensors
 * that derived points need are kept in the table.  Made at load; map: engine thread. */
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
#endif

/* engine/tuning.h — which LoRA adapters a request runs with, and how strongly: part of what a cached state depends on.
 *
 * Sorted by adapter, without those of scale 0, unused places zero: equal tunings are equal bytes. */
#ifndef GLIA_ENGINE_TUNING_H
#define GLIA_ENGINE_TUNING_H
#include "glia.h"
#include <string.h>

typedef struct glia_tuning {
    int32_t n; /* 0: the model as it is */
    int32_t adapter[GLIA_MAX_ADAPTERS];
    float scale[GLIA_MAX_ADAPTERS];
} glia_tuning;

static inline bool glia_tuning_same(const glia_tuning *a, const glia_tuning *b) {
    return a->n == b->n && !memcmp(a->adapter, b->adapter, sizeof a->adapter) &&
           !memcmp(a->scale, b->scale, sizeof a->scale);
}

/* From a request's list.  EINVAL: no such adapter, one twice, a scale that is not a number, too many. */
glia_status glia_tuning_read(glia_tuning *out, const glia_adapter_use *uses, size_t n, int32_t n_adapters,
                             glia_err *err);
#endif

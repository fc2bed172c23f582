/* api/feature_sets.h — features that can be looked for by name alone: short texts that have them beside texts that do not.
 * Constant data. */
#ifndef GLIA_API_FEATURE_SETS_H
#define GLIA_API_FEATURE_SETS_H
#include <stddef.h>

enum { GLIA_FEATURE_TEXTS = 10 };
typedef struct glia_feature_set {
    const char *name, *type, *description;
    const char *examples[GLIA_FEATURE_TEXTS],
        *counter_examples[GLIA_FEATURE_TEXTS]; /* pairs that differ in little else */
} glia_feature_set;

size_t glia_feature_sets(const glia_feature_set **out);
const glia_feature_set *glia_feature_set_find(const char *name); /* NULL: none */
#endif

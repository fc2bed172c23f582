/* harvest/points.h — "resid_post@all,z@0-3+7" → hooks.  Pure; any thread. */
#ifndef GLIA_HARVEST_POINTS_H
#define GLIA_HARVEST_POINTS_H
#include "glia.h"

/* *out: [*n] hooks without positions, in the order written, each once; freed with glia_free.
 * A name is any that glia_names_resolve takes; "@all" (or none behind a name that names no layer) means every layer that
 * has the point.  EINVAL, EHOOK: err->message names the part. */
glia_status glia_points_parse(const char *spec, const glia_model *m, glia_hook **out, size_t *n, glia_err *err);
#endif

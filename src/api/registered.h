/* api/registered.h — hooks that stay with a model and apply to its later requests (NeuroScope's
 * POST /v1/activations/hooks).
 *
 * Owns one list of hooks, as JSON, for each model id that has some; a model that is loaded again under its id has them
 * still.  Any thread; locked.  Knows neither what a hook means (activations.c) nor HTTP. */
#ifndef GLIA_API_REGISTERED_H
#define GLIA_API_REGISTERED_H
#include "api/json.h"

typedef struct glia_registered glia_registered;

glia_registered *glia_registered_new(void); /* NULL: no memory; the functions below take NULL too */
void glia_registered_free(glia_registered *r); /* NULL is fine */

/* The hooks of a model as a document whose root is an array; *out NULL: it has none (the usual case: no lock is taken).
 * The caller frees it with yyjson_doc_free.  *version (may be NULL) is for glia_registered_set.  ENOMEM. */
glia_status glia_registered_get(glia_registered *r, const char *model, yyjson_doc **out, uint64_t *version, glia_err *err);

/* Put a list (text: a JSON array of n hooks; copied) in the place of the one that get answered with this version.  n 0
 * forgets the model.  EBUSY: somebody else changed it since.  ENOMEM. */
glia_status glia_registered_set(glia_registered *r, const char *model, uint64_t version, const char *text, size_t n,
                                glia_err *err);

/* Append {"<model>": <number of hooks>, …}. */
void glia_registered_counts(glia_registered *r, glia_buf *b);

#endif

/* api/edit_run.h — rows of a stored run as the vectors of an intervention: {"run": ID, "document": N, "positions": …}.
 * Any thread; reads files. */
#ifndef GLIA_API_EDIT_RUN_H
#define GLIA_API_EDIT_RUN_H
#include "api/activations.h"
#include "api/app.h"

bool glia_source_is_run(yyjson_val *source);

/* Fill rows of the edits of src, owned by a.  mine: [n_mine] prompt positions that patch and resample replace.
 * path: of the source, for errors.  ENOTFOUND: no such run.  EHOOK: it holds no such rows. */
glia_status glia_run_fill(glia_acts *a, const glia_model *m, const glia_edit_source *src, const int32_t *mine, size_t n_mine,
                          const char *path, glia_err *err);

uint64_t glia_mixed(uint64_t z); /* every input bit moves every output bit */
#endif

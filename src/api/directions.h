/* api/directions.h — vectors and directions that interventions name instead of holding them: files in the server's --assets
 * folder, by plain name.  Any thread.
 *
 *   NAME.npy           [n] or [rows, n]
 *   NAME.safetensors   the tensor named in the request, else the one of the layer ("LAYER" or "….LAYER"), else its only one
 *   NAME.gguf          a control vector: direction.LAYER */
#ifndef GLIA_API_DIRECTIONS_H
#define GLIA_API_DIRECTIONS_H
#include "api/app.h"
#include "api/tensor.h"

/* A string, or {"file": NAME, "tensor": …}: does v name a file? */
bool glia_direction_is_named(yyjson_val *v);
/* Rows for a layer; data is freed with glia_free.  ENOTFOUND with *none: the file is there, but holds nothing for this layer
 * (control vectors leave layers out).  Errors name param. */
glia_status glia_direction_read(const glia_app *app, yyjson_val *v, const char *param, int32_t layer, glia_matrix *out,
                                bool *none, glia_err *err);
#endif

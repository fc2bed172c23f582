/* api/tensor.h — numbers that come in with a request: vectors and matrices of floats.  Any thread. */
#ifndef GLIA_API_TENSOR_H
#define GLIA_API_TENSOR_H
#include "api/json.h"

/* [n_rows, n_columns], row-major, every value finite; data is freed with glia_free. */
typedef struct glia_matrix {
    float *data;
    size_t n_rows, n_columns;
} glia_matrix;

/* A list of equally long lists of numbers (or one list: one row), or
 * {"shape": [rows, columns] or [columns], "dtype": "float32" | "float16" | "bfloat16", "data": …} with data in base64
 * (little-endian, row-major), flat or nested.  EINVAL names the field.  On failure m->data is NULL. */
glia_status glia_json_matrix(yyjson_val *v, const char *path, glia_matrix *m, glia_err *err);
#endif

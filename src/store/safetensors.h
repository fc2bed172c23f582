/* store/safetensors.h — the safetensors format: writing a header, reading a file of anybody.
 *
 * Any thread; a reader is immutable.  Knows files and JSON, neither models nor HTTP.
 *
 *   offset  size  meaning
 *        0     8  n, length of the header, little-endian
 *        8     n  header: JSON object, name → {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__" →
 *                 strings by name; padded with spaces, so that 8 + n is a multiple of 8
 *    8 + n     …  the tensors' bytes, little-endian, row-major; offsets count from here, without holes or overlaps */
#ifndef GLIA_STORE_SAFETENSORS_H
#define GLIA_STORE_SAFETENSORS_H
#include "base/buf.h"
#include "glia.h"

typedef enum glia_st_dtype {
    GLIA_ST_F64, GLIA_ST_F32, GLIA_ST_F16, GLIA_ST_BF16, GLIA_ST_I64, GLIA_ST_I32, GLIA_ST_I16, GLIA_ST_I8,
    GLIA_ST_U64, GLIA_ST_U32, GLIA_ST_U16, GLIA_ST_U8, GLIA_ST_BOOL, GLIA_ST_N_DTYPES
} glia_st_dtype;
const char *glia_st_dtype_name(glia_st_dtype d); /* "F32" … */
size_t glia_st_dtype_bytes(glia_st_dtype d);

enum { GLIA_ST_MAX_DIMS = 8, GLIA_ST_MAX_TENSORS = 1 << 20, GLIA_ST_MAX_HEADER = 100 << 20 };

typedef struct glia_st_tensor {
    const char *name;
    glia_st_dtype dtype;
    int n_dims;
    uint64_t shape[GLIA_ST_MAX_DIMS];
    uint64_t begin, end; /* offsets into the data; set by the header writer */
} glia_st_tensor;

/* Append length and header to b; sets begin and end of each tensor in order, and *n_data, the sum of their sizes.
 * metadata: [n_meta] pairs key, value, UTF-8.  Names must differ.  EINVAL: a size that overflows. */
glia_status glia_st_header(glia_buf *b, glia_st_tensor *t, size_t n, const char *const (*metadata)[2], size_t n_meta,
                           uint64_t *n_data, glia_err *err);

typedef struct glia_st glia_st;

/* Parse bytes that stay valid until glia_st_close.  Everything is checked: lengths, shapes, dtypes, that the tensors
 * cover the data exactly.  EINVAL says what is wrong. */
glia_status glia_st_parse(glia_st **out, const void *bytes, size_t n, glia_err *err);
glia_status glia_st_open(glia_st **out, const char *path, glia_err *err); /* maps the file */
/* Only the header of a file of n_file bytes, through read (n bytes at an offset).  glia_st_data has nothing then. */
glia_status glia_st_read_head(glia_st **out, glia_status (*read)(void *ud, uint64_t at, void *p, size_t n, glia_err *err),
                              void *ud, uint64_t n_file, glia_err *err);
void glia_st_close(glia_st *s);                                           /* NULL is fine */

size_t glia_st_count(const glia_st *s);
const glia_st_tensor *glia_st_at(const glia_st *s, size_t i);              /* by offset; valid until close */
const glia_st_tensor *glia_st_find(const glia_st *s, const char *name);    /* NULL: none */
const void *glia_st_data(const glia_st *s, const glia_st_tensor *t);       /* its bytes; may be unaligned */
uint64_t glia_st_file_offset(const glia_st *s, const glia_st_tensor *t);   /* where they begin in the file */
const char *glia_st_meta(const glia_st *s, const char *key);               /* NULL: none */
#endif

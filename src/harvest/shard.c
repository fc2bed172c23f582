/* harvest/shard.c — see shard.h. */
#include "harvest/shard.h"
#include "base/cpu.h"
#include "base/err.h"
#include "base/mem.h"
#include "store/newfile.h"
#include "store/safetensors.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ rows */

size_t glia_shard_row_bytes(const glia_column *columns, size_t n, glia_dtype dtype) {
    size_t bytes = GLIA_SHARD_LABEL_BYTES;
    for (size_t i = 0; i < n; i++) bytes += (size_t)columns[i].width * glia_dtype_bytes(dtype);
    return bytes;
}

glia_status glia_shard_init(glia_shard *s, const glia_column *columns, size_t n, size_t capacity, glia_dtype dtype,
                            glia_err *err) {
    *s = (glia_shard){.n_columns = n, .capacity = capacity, .dtype = dtype};
    bool ok = (s->columns = glia_calloc(n, sizeof *s->columns)) != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        s->columns[i] = columns[i];
        s->columns[i].pending = 0;
        size_t bytes = capacity * (size_t)columns[i].width * glia_dtype_bytes(dtype);
        s->columns[i].data = glia_malloc(bytes);
        ok = s->columns[i].data != NULL;
        glia_mem_large(s->columns[i].data, bytes);
    }
    ok = ok && (s->document = glia_malloc(capacity * sizeof *s->document)) &&
         (s->offset = glia_malloc(capacity * sizeof *s->offset)) &&
         (s->position = glia_malloc(capacity * sizeof *s->position)) &&
         (s->token_id = glia_malloc(capacity * sizeof *s->token_id));
    if (ok) return GLIA_OK;
    glia_shard_clear(s);
    return glia_fail(err, GLIA_ENOMEM, "out of memory for a shard of %zu rows: take a smaller shard size", capacity);
}

void glia_shard_clear(glia_shard *s) {
    for (size_t i = 0; s->columns && i < s->n_columns; i++) glia_free(s->columns[i].data);
    glia_free(s->columns);
    glia_free(s->document);
    glia_free(s->offset);
    glia_free(s->position);
    glia_free(s->token_id);
    *s = (glia_shard){0};
}

void glia_shard_add(glia_shard *s, size_t c, const float *rows, size_t n) {
    glia_column *col = &s->columns[c];
    size_t row = (size_t)col->width * glia_dtype_bytes(s->dtype);
    if (s->rows + col->pending + n > s->capacity) return; /* seen by commit */
    uint8_t *to = col->data + (s->rows + col->pending) * row;
    if (s->dtype == GLIA_F32 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) glia_copy_away(to, rows, n * row);
    else glia_pack_le(to, rows, n * (size_t)col->width, s->dtype);
    col->pending += n;
}

void glia_shard_label(glia_shard *s, int64_t document, int32_t offset, const int32_t *pos, const int32_t *ids,
                      size_t n) {
    if (s->rows + s->pending + n > s->capacity) return;
    size_t at = s->rows + s->pending;
    for (size_t i = 0; i < n; i++) {
        s->document[at + i] = document, s->offset[at + i] = offset + pos[i];
        s->position[at + i] = pos[i], s->token_id[at + i] = ids[i];
    }
    s->pending += n;
}

bool glia_shard_commit(glia_shard *s) {
    bool equal = s->pending > 0;
    for (size_t i = 0; i < s->n_columns; i++) equal = equal && s->columns[i].pending == s->pending;
    size_t n = s->pending;
    glia_shard_drop(s);
    if (equal) s->rows += n;
    return equal;
}

void glia_shard_drop(glia_shard *s) {
    s->pending = 0;
    for (size_t i = 0; i < s->n_columns; i++) s->columns[i].pending = 0;
}

void glia_shard_empty(glia_shard *s) {
    s->rows = 0;
    glia_shard_drop(s);
}

/* ------------------------------------------------------------------ sealing */

static const glia_st_dtype st_dtypes[] = {
    [GLIA_F32] = GLIA_ST_F32, [GLIA_F16] = GLIA_ST_F16, [GLIA_BF16] = GLIA_ST_BF16};

/* Integers as little-endian bytes on any machine: in pieces, so that no copy of a whole column is needed. */
static glia_status write_ints(glia_newfile *f, const void *p, size_t n, size_t size, glia_err *err) {
    unsigned char piece[4096];
    glia_status st = GLIA_OK;
    for (size_t i = 0; i < n && !st;) {
        size_t k = 0;
        for (; i < n && k < sizeof piece; i++) {
            uint64_t v = size == 8 ? (uint64_t)((const int64_t *)p)[i] : (uint64_t)(uint32_t)((const int32_t *)p)[i];
            for (size_t b = 0; b < size; b++) piece[k++] = (unsigned char)(v >> (8 * b));
        }
        st = glia_newfile_write(f, piece, k, err);
    }
    return st;
}

static glia_status write_all(const glia_shard *s, glia_newfile *f, glia_err *err) {
    static const char *const meta[][2] = {{"format", "glia-shard-1"}};
    glia_buf head = {0};
    size_t n = s->n_columns + 4;
    uint64_t rows = s->rows;
    glia_st_tensor *t = glia_calloc(n, sizeof *t);
    if (!t) return glia_fail(err, GLIA_ENOMEM, "out of memory for the header of a shard");
    t[0] = (glia_st_tensor){.name = "document", .dtype = GLIA_ST_I64, .n_dims = 1, .shape = {rows}};
    t[1] = (glia_st_tensor){.name = "offset", .dtype = GLIA_ST_I32, .n_dims = 1, .shape = {rows}};
    t[2] = (glia_st_tensor){.name = "position", .dtype = GLIA_ST_I32, .n_dims = 1, .shape = {rows}};
    t[3] = (glia_st_tensor){.name = "token_id", .dtype = GLIA_ST_I32, .n_dims = 1, .shape = {rows}};
    for (size_t i = 0; i < s->n_columns; i++) {
        t[4 + i] = (glia_st_tensor){.name = s->columns[i].name,
                                    .dtype = st_dtypes[s->dtype],
                                    .n_dims = 2,
                                    .shape = {rows, (uint64_t)s->columns[i].width}};
    }
    glia_status st = glia_st_header(&head, t, n, meta, 1, NULL, err);
    if (!st) st = glia_newfile_write(f, head.p, head.n, err);
    if (!st) st = write_ints(f, s->document, s->rows, 8, err);
    if (!st) st = write_ints(f, s->offset, s->rows, 4, err);
    if (!st) st = write_ints(f, s->position, s->rows, 4, err);
    if (!st) st = write_ints(f, s->token_id, s->rows, 4, err);
    for (size_t i = 0; i < s->n_columns && !st; i++) {
        st = glia_newfile_write(f, s->columns[i].data,
                                s->rows * (size_t)s->columns[i].width * glia_dtype_bytes(s->dtype), err);
    }
    glia_buf_clear(&head);
    glia_free(t);
    return st;
}

glia_status glia_shard_seal(const glia_shard *s, const char *path, char sha256[GLIA_SHA256_HEX], uint64_t *bytes,
                            glia_err *err) {
    glia_newfile *f;
    glia_status st = glia_newfile_open(&f, path, err);
    if (!st) glia_newfile_keep_sums(f);
    if (!st) glia_newfile_past_cache(f);
    if (!st) st = write_all(s, f, err);
    if (!st) *bytes = glia_newfile_bytes(f);
    if (!st) st = glia_newfile_commit(f, sha256, err);
    glia_newfile_free(f);
    return st;
}

/* ------------------------------------------------------------------ statistics */

glia_status glia_moments_init(glia_moments *m, int32_t width, glia_err *err) {
    *m = (glia_moments){.width = width};
    m->mean = glia_calloc((size_t)width, sizeof *m->mean);
    m->m2 = glia_calloc((size_t)width, sizeof *m->m2);
    if (m->mean && m->m2) return GLIA_OK;
    glia_moments_clear(m);
    return glia_fail(err, GLIA_ENOMEM, "out of memory for statistics");
}

void glia_moments_clear(glia_moments *m) {
    glia_free(m->mean);
    glia_free(m->m2);
    *m = (glia_moments){0};
}

/* Four channels are one vector, which AVX2 has in a register and other processors in two: the same additions in the same order.
 * Four rows go in together, so that sums are loaded and stored once for all of them. */
#define EACH static inline __attribute__((always_inline))
enum { LANES = 4, ROWS_AT_ONCE = 4 };
typedef double four __attribute__((vector_size(LANES * sizeof(double))));
typedef float four_f32 __attribute__((vector_size(LANES * sizeof(float))));

/* n rows (1 to 4) of d channels.  sum, squares: [d] of deviations from `from`, and of their squares.  norm2: [n] out, the
 * sums of the rows' squares. */
EACH void add_deviations(double *restrict sum, double *restrict squares, const double *restrict from,
                         const float *restrict rows, size_t n, size_t d, double *restrict norm2) {
    four norms[ROWS_AT_ONCE] = {{0}};
    size_t i = 0;
    for (; i + LANES <= d; i += LANES) {
        four s, q, f;
        memcpy(&s, sum + i, sizeof s);
        memcpy(&q, squares + i, sizeof q);
        memcpy(&f, from + i, sizeof f);
        for (size_t r = 0; r < n; r++) {
            four_f32 narrow;
            memcpy(&narrow, rows + r * d + i, sizeof narrow);
            four x = __builtin_convertvector(narrow, four), deviation = x - f;
            s += deviation, q += deviation * deviation, norms[r] += x * x;
        }
        memcpy(sum + i, &s, sizeof s);
        memcpy(squares + i, &q, sizeof q);
    }
    for (size_t r = 0; r < n; r++) norm2[r] = (norms[r][0] + norms[r][2]) + (norms[r][1] + norms[r][3]);
    for (; i < d; i++) {
        for (size_t r = 0; r < n; r++) {
            double x = (double)rows[r * d + i], deviation = x - from[i];
            sum[i] += deviation, squares[i] += deviation * deviation, norm2[r] += x * x;
        }
    }
}

EACH void add_norms(glia_moments *m, const double *norm2, size_t n) {
    for (size_t r = 0; r < n; r++) {
        double norm = sqrt(norm2[r]);
        m->norm_sum += norm;
        if (norm > m->norm_max) m->norm_max = norm;
    }
}

/* One pass: deviations are from the mean so far (from the first row, if there is none), which is near enough to that of
 * these rows for the difference of squares to be exact to a few units of the last place. */
EACH void add_rows(glia_moments *m, const float *rows, size_t n, double *scratch) {
    size_t d = (size_t)m->width, r = 0;
    double *sum = scratch, *squares = scratch + d, k = (double)n, total = (double)m->count + k, norm2[ROWS_AT_ONCE];
    memset(scratch, 0, 2 * d * sizeof *scratch);
    for (size_t i = 0; i < d && !m->count; i++) m->mean[i] = (double)rows[i];
    for (; r + ROWS_AT_ONCE <= n; r += ROWS_AT_ONCE) {
        add_deviations(sum, squares, m->mean, rows + r * d, ROWS_AT_ONCE, d, norm2);
        add_norms(m, norm2, ROWS_AT_ONCE);
    }
    for (; r < n; r++) {
        add_deviations(sum, squares, m->mean, rows + r * d, 1, d, norm2);
        add_norms(m, norm2, 1);
    }
    for (size_t i = 0; i < d; i++) {
        double delta = sum[i] / k, m2 = squares[i] - sum[i] * delta;
        m->m2[i] += (m2 > 0 ? m2 : 0) + delta * delta * ((double)m->count * k / total);
        m->mean[i] += delta * (k / total);
    }
    m->count += n;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void add_rows_avx2(glia_moments *m, const float *rows, size_t n,
                                                          double *scratch) {
    add_rows(m, rows, n, scratch);
}
#else
static void add_rows_avx2(glia_moments *m, const float *rows, size_t n, double *scratch) {
    add_rows(m, rows, n, scratch);
}
#endif

void glia_moments_add(glia_moments *m, const float *rows, size_t n, double *scratch) {
    if (!n) return;
    if (glia_cpu_avx2()) add_rows_avx2(m, rows, n, scratch);
    else add_rows(m, rows, n, scratch);
}

/* harvest/projection.c — see projection.h. */
#include "harvest/projection.h"
#include "base/err.h"
#include "base/mem.h"
#include "store/newfile.h"
#include "store/safetensors.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char file_name[] = "directions.safetensors";

/* splitmix64 (Steele, Lea and Flood 2014) */
static uint64_t next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double uniform(uint64_t *state) { return ((double)(next(state) >> 11) + 0.5) * 0x1p-53; } /* inside (0, 1) */

void glia_projection_draw(float *out, int32_t n, int32_t width, uint64_t seed, const char *name) {
    uint64_t state = seed;
    size_t total = (size_t)n * (size_t)width;
    for (const char *p = name; *p; p++) state = next(&state) ^ (unsigned char)*p;
    double scale = 1 / sqrt((double)n), two_pi = 6.283185307179586;
    for (size_t i = 0; i < total; i += 2) { /* Box and Muller, 1958 */
        double r = scale * sqrt(-2 * log(uniform(&state))), phi = two_pi * uniform(&state);
        out[i] = (float)(r * cos(phi));
        if (i + 1 < total) out[i + 1] = (float)(r * sin(phi));
    }
}

static glia_status write_file(glia_manifest *m, const char *path, const int32_t *widths, float **d, glia_err *err) {
    static const char *const meta[][2] = {{"format", "glia-directions-1"}};
    glia_st_tensor *t = glia_calloc(m->n_tensors, sizeof *t);
    glia_buf b = {0};
    glia_newfile *f = NULL;
    glia_status st = t ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "out of memory for directions");
    for (size_t i = 0; i < m->n_tensors && !st; i++)
        t[i] = (glia_st_tensor){.name = m->tensors[i].name,
                                .dtype = GLIA_ST_F32,
                                .n_dims = 2,
                                .shape = {(uint64_t)m->projection.n, (uint64_t)widths[i]}};
    if (!st) st = glia_st_header(&b, t, m->n_tensors, meta, 1, NULL, err);
    if (!st) st = glia_newfile_open(&f, path, err);
    if (!st) st = glia_newfile_write(f, b.p, b.n, err);
    for (size_t i = 0; i < m->n_tensors && !st; i++) {
        size_t n = (size_t)m->projection.n * (size_t)widths[i];
        b.n = 0;
        if (!glia_buf_reserve(&b, n * 4)) st = glia_fail(err, GLIA_ENOMEM, "out of memory for directions");
        if (st) break;
        glia_pack_le((uint8_t *)b.p, d[i], n, GLIA_F32);
        st = glia_newfile_write(f, b.p, n * 4, err);
    }
    if (!st) m->directions.bytes = glia_newfile_bytes(f);
    if (!st) st = glia_newfile_commit(f, m->directions.sha256, err);
    if (!st) memcpy(m->directions.file, file_name, sizeof file_name);
    glia_newfile_free(f);
    glia_buf_clear(&b);
    glia_free(t);
    return st;
}

static glia_status read_file(const glia_manifest *m, const char *path, const int32_t *widths, float **d,
                             glia_err *err) {
    char hex[GLIA_SHA256_HEX];
    glia_st *f;
    glia_status st = glia_file_sha256(path, hex, NULL, NULL, err);
    if (!st && strcmp(hex, m->directions.sha256) != 0)
        st = glia_fail(err, GLIA_EIO, "%s is damaged: restore it, or begin anew", path);
    if (!st) st = glia_st_open(&f, path, err);
    if (st) return st;
    for (size_t i = 0; i < m->n_tensors && !st; i++) {
        const glia_st_tensor *t = glia_st_find(f, m->tensors[i].name);
        size_t n = (size_t)m->projection.n * (size_t)widths[i];
        if (!t || t->dtype != GLIA_ST_F32 || t->end - t->begin != 4 * n)
            st = glia_fail(err, GLIA_EIO, "%s does not hold the directions of %s", path, m->tensors[i].name);
        else glia_unpack_le(d[i], glia_st_data(f, t), n, GLIA_F32);
    }
    glia_st_close(f);
    return st;
}

glia_status glia_projection_get(glia_manifest *m, const char *folder, const int32_t *widths, float **out,
                                glia_err *err) {
    char path[PATH_MAX];
    int k = snprintf(path, sizeof path, "%s/%s", folder, file_name);
    if (k < 0 || (size_t)k >= sizeof path) return glia_fail(err, GLIA_EINVAL, "the path of %.60s… is too long", folder);
    for (size_t i = 0; i < m->n_tensors; i++) {
        if (!(out[i] = glia_malloc((size_t)m->projection.n * (size_t)widths[i] * sizeof(float))))
            return glia_fail(err, GLIA_ENOMEM, "out of memory for directions");
    }
    if (m->directions.file[0]) return read_file(m, path, widths, out, err);
    for (size_t i = 0; i < m->n_tensors; i++)
        glia_projection_draw(out[i], m->projection.n, widths[i], m->projection.seed, m->tensors[i].name);
    return write_file(m, path, widths, out, err);
}

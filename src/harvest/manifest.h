/* harvest/manifest.h — what a harvest folder holds: identity, settings, shards, statistics, cursor.
 *
 * Plain values and their JSON form (docs/FORMATS.md, "manifest.json").  One thread at a time.  Knows no model. */
#ifndef GLIA_HARVEST_MANIFEST_H
#define GLIA_HARVEST_MANIFEST_H
#include "base/half.h"
#include "glia.h"
#include "harvest/shard.h"

enum { GLIA_HARVEST_TOP_MAX = 1024, GLIA_HARVEST_PROJECTION_MAX = 65536 };

typedef struct glia_sealed { /* one file that is whole */
    char file[40], sha256[GLIA_SHA256_HEX];
    uint64_t rows, bytes;
} glia_sealed;

typedef struct glia_tensor_info {
    char name[64];
    glia_point point;
    int32_t layer; /* -1: the point has none */
    int32_t width;
    int32_t n_heads; /* the row is laid out in so many heads; 0: it is not */
    glia_grade grade;
    uint64_t count; /* rows in the statistics */
    double norm_sum, norm_max;
} glia_tensor_info;

typedef struct glia_manifest {
    char created[32];
    struct {
        char id[128], file[256], arch[64], sha256[GLIA_SHA256_HEX];
        int32_t n_layer, n_embd, n_ctx;
    } model;
    int32_t window;
    bool last_only, statistics_only, complete;
    int32_t top; /* largest values kept of each channel; 0: none */
    struct {     /* rows are multiplied by random directions: projection.h */
        int32_t n; /* directions; 0: rows are whole */
        uint64_t seed;
    } projection;
    glia_dtype dtype;
    glia_tensor_info *tensors;
    size_t n_tensors;
    glia_sealed statistics; /* file "" while there is none */
    glia_sealed directions; /* of the projection; file "": none */
    glia_sealed *shards;
    size_t n_shards;
    int64_t document; /* cursor: the next piece begins in this document … */
    int32_t offset;   /* … at this token */
    char read[GLIA_SHA256_HEX]; /* of the data's lines up to the cursor's document, that one included when offset > 0 */
    uint64_t documents, tokens, rows, bytes;
} glia_manifest;

void glia_manifest_clear(glia_manifest *m);
/* Replace the file at path by this manifest, atomically. */
glia_status glia_manifest_write(const glia_manifest *m, const char *path, glia_err *err);
/* ENOTFOUND: no such file.  EINVAL: not a manifest of this format, with what is wrong. */
glia_status glia_manifest_read(glia_manifest *m, const char *path, glia_err *err);
glia_status glia_manifest_parse(glia_manifest *m, const char *json, size_t n, glia_err *err);
glia_status glia_manifest_add_shard(glia_manifest *m, const glia_sealed *shard, glia_err *err);
#endif

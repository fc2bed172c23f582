/* harvest/manifest.c — see manifest.h.  The reader takes nothing for granted: folders come from anywhere. */
#include "harvest/manifest.h"
#include "base/err.h"
#include "base/mem.h"
#include "store/newfile.h"
#include "yyjson.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MANIFEST_MAX = 256 << 20, MAX_TENSORS = 1 << 20 };
static const char format_name[] = "glia-harvest-1";

void glia_manifest_clear(glia_manifest *m) {
    glia_free(m->tensors);
    glia_free(m->shards);
    *m = (glia_manifest){0};
}

glia_status glia_manifest_add_shard(glia_manifest *m, const glia_sealed *shard, glia_err *err) {
    glia_sealed *more = glia_realloc(m->shards, (m->n_shards + 1) * sizeof *more);
    if (!more) return glia_fail(err, GLIA_ENOMEM, "out of memory for the manifest");
    m->shards = more;
    m->shards[m->n_shards++] = *shard;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ writing */

typedef struct writer {
    yyjson_mut_doc *doc;
    bool failed;
} writer;

static yyjson_mut_val *object(writer *w, yyjson_mut_val *parent, const char *key) {
    yyjson_mut_val *o = yyjson_mut_obj(w->doc);
    if (!o || (parent && !yyjson_mut_obj_add_val(w->doc, parent, key, o))) w->failed = true;
    return o;
}
static yyjson_mut_val *array(writer *w, yyjson_mut_val *parent, const char *key) {
    yyjson_mut_val *a = yyjson_mut_arr(w->doc);
    if (!a || !yyjson_mut_obj_add_val(w->doc, parent, key, a)) w->failed = true;
    return a;
}
static yyjson_mut_val *item(writer *w, yyjson_mut_val *list) {
    yyjson_mut_val *o = yyjson_mut_obj(w->doc);
    if (!o || !yyjson_mut_arr_append(list, o)) w->failed = true;
    return o;
}
static void str(writer *w, yyjson_mut_val *o, const char *key, const char *v) {
    w->failed |= !yyjson_mut_obj_add_str(w->doc, o, key, v);
}
static void num(writer *w, yyjson_mut_val *o, const char *key, uint64_t v) {
    w->failed |= !yyjson_mut_obj_add_uint(w->doc, o, key, v);
}
static void real(writer *w, yyjson_mut_val *o, const char *key, double v) {
    w->failed |= !(isfinite(v) ? yyjson_mut_obj_add_real(w->doc, o, key, v) : yyjson_mut_obj_add_null(w->doc, o, key));
}
static void flag(writer *w, yyjson_mut_val *o, const char *key, bool v) {
    w->failed |= !yyjson_mut_obj_add_bool(w->doc, o, key, v);
}

static void add_file(writer *w, yyjson_mut_val *o, const glia_sealed *f) {
    str(w, o, "file", f->file);
    str(w, o, "sha256", f->sha256);
    num(w, o, "bytes", f->bytes);
}

static void add_settings(writer *w, yyjson_mut_val *root, const glia_manifest *m) {
    yyjson_mut_val *o = object(w, root, "model");
    str(w, o, "id", m->model.id);
    str(w, o, "file", m->model.file);
    str(w, o, "arch", m->model.arch);
    str(w, o, "sha256", m->model.sha256);
    num(w, o, "n_layer", (uint64_t)m->model.n_layer);
    num(w, o, "n_embd", (uint64_t)m->model.n_embd);
    num(w, o, "n_ctx", (uint64_t)m->model.n_ctx);
    o = object(w, root, "settings");
    num(w, o, "window", (uint64_t)m->window);
    str(w, o, "positions", m->last_only ? "last" : "all");
    str(w, o, "dtype", glia_dtype_name(m->dtype));
    flag(w, o, "statistics_only", m->statistics_only);
    if (m->top) num(w, o, "top", (uint64_t)m->top);
    if (!m->projection.n) return;
    o = object(w, o, "projection");
    num(w, o, "n", (uint64_t)m->projection.n);
    num(w, o, "seed", m->projection.seed);
}

static void add_tensors(writer *w, yyjson_mut_val *root, const glia_manifest *m) {
    yyjson_mut_val *list = array(w, root, "tensors");
    for (size_t i = 0; i < m->n_tensors; i++) {
        const glia_tensor_info *t = &m->tensors[i];
        yyjson_mut_val *o = item(w, list);
        str(w, o, "name", t->name);
        str(w, o, "point", glia_point_name(t->point));
        if (t->layer >= 0) num(w, o, "layer", (uint64_t)t->layer);
        else w->failed |= !yyjson_mut_obj_add_null(w->doc, o, "layer");
        num(w, o, "width", (uint64_t)t->width);
        if (t->n_heads) num(w, o, "n_heads", (uint64_t)t->n_heads);
        str(w, o, "grade", glia_grade_name(t->grade));
        o = object(w, o, "statistics");
        num(w, o, "count", t->count);
        real(w, o, "norm_sum", t->norm_sum);
        real(w, o, "norm_mean", t->count ? t->norm_sum / (double)t->count : 0);
        real(w, o, "norm_max", t->norm_max);
    }
}

glia_status glia_manifest_write(const glia_manifest *m, const char *path, glia_err *err) {
    writer w = {.doc = yyjson_mut_doc_new(NULL)};
    if (!w.doc) return glia_fail(err, GLIA_ENOMEM, "out of memory for the manifest");
    yyjson_mut_val *root = object(&w, NULL, NULL);
    yyjson_mut_doc_set_root(w.doc, root);
    str(&w, root, "format", format_name);
    str(&w, root, "glia", glia_version());
    str(&w, root, "llama_cpp", glia_llama_version());
    str(&w, root, "created", m->created);
    flag(&w, root, "complete", m->complete);
    add_settings(&w, root, m);
    add_tensors(&w, root, m);
    if (m->statistics.file[0]) add_file(&w, object(&w, root, "statistics"), &m->statistics);
    if (m->directions.file[0]) add_file(&w, object(&w, root, "directions"), &m->directions);
    yyjson_mut_val *list = array(&w, root, "shards"), *o;
    for (size_t i = 0; i < m->n_shards; i++) {
        add_file(&w, o = item(&w, list), &m->shards[i]);
        num(&w, o, "rows", m->shards[i].rows);
    }
    o = object(&w, root, "cursor");
    num(&w, o, "document", (uint64_t)m->document);
    num(&w, o, "offset", (uint64_t)m->offset);
    str(&w, o, "sha256", m->read);
    o = object(&w, root, "totals");
    num(&w, o, "documents", m->documents);
    num(&w, o, "tokens", m->tokens);
    num(&w, o, "rows", m->rows);
    num(&w, o, "bytes", m->bytes);
    size_t n = 0;
    char *text =
        w.failed ? NULL : yyjson_mut_write(w.doc, YYJSON_WRITE_PRETTY_TWO_SPACES | YYJSON_WRITE_NEWLINE_AT_END, &n);
    glia_status st = text ? glia_newfile_put(path, text, n, NULL, err)
                          : glia_fail(err, GLIA_ENOMEM, "out of memory for the manifest");
    free(text);
    yyjson_mut_doc_free(w.doc);
    return st;
}

/* ------------------------------------------------------------------ reading */

typedef struct reader {
    const char *wrong; /* first field that is not as it should be */
} reader;

static void get_str(reader *r, yyjson_val *o, const char *key, char *out, size_t cap) {
    yyjson_val *v = yyjson_obj_get(o, key);
    size_t n = yyjson_get_len(v);
    if (!yyjson_is_str(v) || n >= cap || strlen(yyjson_get_str(v)) != n) {
        if (!r->wrong) r->wrong = key;
        return;
    }
    memcpy(out, yyjson_get_str(v), n + 1);
}
static uint64_t get_num(reader *r, yyjson_val *o, const char *key, uint64_t max) {
    yyjson_val *v = yyjson_obj_get(o, key);
    if (yyjson_is_uint(v) && yyjson_get_uint(v) <= max) return yyjson_get_uint(v);
    if (!r->wrong) r->wrong = key;
    return 0;
}
static double get_real(reader *r, yyjson_val *o, const char *key) {
    yyjson_val *v = yyjson_obj_get(o, key);
    if (yyjson_is_null(v)) return INFINITY;
    if (yyjson_is_num(v)) return yyjson_get_num(v);
    if (!r->wrong) r->wrong = key;
    return 0;
}
static bool get_flag(reader *r, yyjson_val *o, const char *key) {
    yyjson_val *v = yyjson_obj_get(o, key);
    if (!yyjson_is_bool(v) && !r->wrong) r->wrong = key;
    return yyjson_get_bool(v);
}
static void get_hex(reader *r, yyjson_val *o, const char *key, char out[GLIA_SHA256_HEX], bool may_be_empty) {
    char text[GLIA_SHA256_HEX] = "";
    get_str(r, o, key, text, sizeof text);
    size_t n = strspn(text, "0123456789abcdef");
    if ((n != 64 && !(may_be_empty && !text[0])) && !r->wrong) r->wrong = key;
    memcpy(out, text, sizeof text);
}
/* The index of the string among words. */
static int get_word(reader *r, yyjson_val *o, const char *key, const char *const *words, int n) {
    for (int i = 0; i < n; i++) {
        if (yyjson_equals_str(yyjson_obj_get(o, key), words[i])) return i;
    }
    if (!r->wrong) r->wrong = key;
    return 0;
}

static void get_file(reader *r, yyjson_val *o, glia_sealed *f) {
    get_str(r, o, "file", f->file, sizeof f->file);
    get_hex(r, o, "sha256", f->sha256, false);
    f->bytes = get_num(r, o, "bytes", INT64_MAX);
    if ((!f->file[0] || strchr(f->file, '/') || f->file[0] == '.') && !r->wrong)
        r->wrong = "file"; /* stay in the folder */
}

/* 0 when absent. */
static int32_t get_optional(reader *r, yyjson_val *o, const char *key, int32_t max) {
    return yyjson_obj_get(o, key) ? (int32_t)get_num(r, o, key, (uint64_t)max) : 0;
}

static void get_tensor(reader *r, yyjson_val *o, glia_tensor_info *t) {
    static const char *const grades[] = {"absent", "ambiguous", "structural", "proven"};
    get_str(r, o, "name", t->name, sizeof t->name);
    if (!glia_point_from_name(yyjson_get_str(yyjson_obj_get(o, "point")), &t->point) && !r->wrong) r->wrong = "point";
    t->layer = yyjson_is_null(yyjson_obj_get(o, "layer")) ? -1 : (int32_t)get_num(r, o, "layer", INT32_MAX);
    t->width = (int32_t)get_num(r, o, "width", INT32_MAX);
    t->n_heads = get_optional(r, o, "n_heads", t->width);
    t->grade = (glia_grade)get_word(r, o, "grade", grades, 4);
    yyjson_val *s = yyjson_obj_get(o, "statistics");
    t->count = get_num(r, s, "count", INT64_MAX);
    t->norm_sum = get_real(r, s, "norm_sum"), t->norm_max = get_real(r, s, "norm_max");
}

static void get_settings(reader *r, yyjson_val *root, glia_manifest *m) {
    static const char *const dtypes[] = {"float32", "float16", "bfloat16"}, *const positions[] = {"all", "last"};
    yyjson_val *o = yyjson_obj_get(root, "model");
    get_str(r, o, "id", m->model.id, sizeof m->model.id);
    get_str(r, o, "file", m->model.file, sizeof m->model.file);
    get_str(r, o, "arch", m->model.arch, sizeof m->model.arch);
    get_hex(r, o, "sha256", m->model.sha256, false);
    m->model.n_layer = (int32_t)get_num(r, o, "n_layer", INT32_MAX);
    m->model.n_embd = (int32_t)get_num(r, o, "n_embd", INT32_MAX);
    m->model.n_ctx = (int32_t)get_num(r, o, "n_ctx", INT32_MAX);
    o = yyjson_obj_get(root, "settings");
    m->window = (int32_t)get_num(r, o, "window", INT32_MAX);
    m->last_only = get_word(r, o, "positions", positions, 2) == 1;
    m->dtype = (glia_dtype)get_word(r, o, "dtype", dtypes, 3);
    m->statistics_only = get_flag(r, o, "statistics_only");
    m->top = get_optional(r, o, "top", GLIA_HARVEST_TOP_MAX);
    if (!(o = yyjson_obj_get(o, "projection"))) return;
    m->projection.n = get_optional(r, o, "n", GLIA_HARVEST_PROJECTION_MAX);
    m->projection.seed = get_num(r, o, "seed", UINT64_MAX);
}

static glia_status get_lists(reader *r, yyjson_val *root, glia_manifest *m, glia_err *err) {
    yyjson_val *tensors = yyjson_obj_get(root, "tensors"), *shards = yyjson_obj_get(root, "shards"), *v;
    size_t i, n = yyjson_arr_size(tensors), n_shards = yyjson_arr_size(shards);
    if ((!yyjson_is_arr(tensors) || !n || n > MAX_TENSORS) && !r->wrong) r->wrong = "tensors";
    if (!yyjson_is_arr(shards) && !r->wrong) r->wrong = "shards";
    if (r->wrong) return GLIA_OK;
    m->tensors = glia_calloc(n, sizeof *m->tensors);
    m->shards = glia_calloc(n_shards, sizeof *m->shards);
    if (!m->tensors || !m->shards) return glia_fail(err, GLIA_ENOMEM, "out of memory for the manifest");
    yyjson_arr_foreach(tensors, i, n, v) get_tensor(r, v, &m->tensors[m->n_tensors++]);
    yyjson_arr_foreach(shards, i, n_shards, v) {
        get_file(r, v, &m->shards[m->n_shards]);
        m->shards[m->n_shards++].rows = get_num(r, v, "rows", INT64_MAX);
    }
    return GLIA_OK;
}

glia_status glia_manifest_parse(glia_manifest *m, const char *json, size_t n, glia_err *err) {
    reader r = {0};
    *m = (glia_manifest){0};
    yyjson_doc *doc = yyjson_read(json, n, 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *o;
    char format[32] = "";
    get_str(&r, root, "format", format, sizeof format);
    if (!r.wrong && strcmp(format, format_name) != 0) r.wrong = "format";
    get_str(&r, root, "created", m->created, sizeof m->created);
    m->complete = get_flag(&r, root, "complete");
    get_settings(&r, root, m);
    if ((o = yyjson_obj_get(root, "statistics"))) get_file(&r, o, &m->statistics);
    if ((o = yyjson_obj_get(root, "directions"))) get_file(&r, o, &m->directions);
    o = yyjson_obj_get(root, "cursor");
    m->document = (int64_t)get_num(&r, o, "document", INT64_MAX);
    m->offset = (int32_t)get_num(&r, o, "offset", INT32_MAX);
    get_hex(&r, o, "sha256", m->read, true);
    o = yyjson_obj_get(root, "totals");
    m->documents = get_num(&r, o, "documents", INT64_MAX);
    m->tokens = get_num(&r, o, "tokens", INT64_MAX);
    m->rows = get_num(&r, o, "rows", INT64_MAX);
    m->bytes = get_num(&r, o, "bytes", INT64_MAX);
    glia_status st = get_lists(&r, root, m, err);
    if (!st && r.wrong) {
        st = doc ? glia_fail(err, GLIA_EINVAL, "not a manifest of a harvest: field \"%s\" is missing or wrong", r.wrong)
                 : glia_fail(err, GLIA_EINVAL, "not a manifest of a harvest: no JSON");
    }
    yyjson_doc_free(doc);
    if (st) glia_manifest_clear(m);
    return st;
}

glia_status glia_manifest_read(glia_manifest *m, const char *path, glia_err *err) {
    char *text;
    size_t n;
    *m = (glia_manifest){0};
    glia_status st = glia_file_slurp(path, MANIFEST_MAX, &text, &n, err);
    if (st) return st;
    st = glia_manifest_parse(m, text, n, err);
    glia_free(text);
    return st;
}

/* store/safetensors.c — see safetensors.h.  The reader trusts nothing: files come from anywhere. */
#include "store/safetensors.h"
#include "base/err.h"
#include "base/io.h"
#include "base/mem.h"
#include "yyjson.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[GLIA_ST_N_DTYPES] = {
    [GLIA_ST_F64] = {"F64", 8},   [GLIA_ST_F32] = {"F32", 4}, [GLIA_ST_F16] = {"F16", 2}, [GLIA_ST_BF16] = {"BF16", 2},
    [GLIA_ST_I64] = {"I64", 8},   [GLIA_ST_I32] = {"I32", 4}, [GLIA_ST_I16] = {"I16", 2}, [GLIA_ST_I8] = {"I8", 1},
    [GLIA_ST_U64] = {"U64", 8},   [GLIA_ST_U32] = {"U32", 4}, [GLIA_ST_U16] = {"U16", 2}, [GLIA_ST_U8] = {"U8", 1},
    [GLIA_ST_BOOL] = {"BOOL", 1},
};

const char *glia_st_dtype_name(glia_st_dtype d) { return (unsigned)d < GLIA_ST_N_DTYPES ? dtypes[d].name : "?"; }
size_t glia_st_dtype_bytes(glia_st_dtype d) { return (unsigned)d < GLIA_ST_N_DTYPES ? dtypes[d].bytes : 0; }

/* Product of the shape times the element size; false: it does not fit 63 bits. */
static bool tensor_bytes(const glia_st_tensor *t, uint64_t *out) {
    uint64_t n = glia_st_dtype_bytes(t->dtype);
    bool zero = false;
    for (int i = 0; i < t->n_dims; i++) {
        if (!t->shape[i]) zero = true;
        else if (__builtin_mul_overflow(n, t->shape[i], &n) || n > INT64_MAX) return false;
    }
    *out = zero ? 0 : n;
    return true;
}

/* ------------------------------------------------------------------ writing */

static bool add_tensor(yyjson_mut_doc *doc, yyjson_mut_val *root, const glia_st_tensor *t) {
    yyjson_mut_val *obj = yyjson_mut_obj(doc), *shape = yyjson_mut_arr(doc), *offsets = yyjson_mut_arr(doc);
    bool ok = yyjson_mut_obj_add_str(doc, obj, "dtype", glia_st_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dims; i++) ok = ok && yyjson_mut_arr_add_uint(doc, shape, t->shape[i]);
    ok = ok && yyjson_mut_arr_add_uint(doc, offsets, t->begin) && yyjson_mut_arr_add_uint(doc, offsets, t->end);
    ok = ok && yyjson_mut_obj_add_val(doc, obj, "shape", shape);
    ok = ok && yyjson_mut_obj_add_val(doc, obj, "data_offsets", offsets);
    return ok && yyjson_mut_obj_add(root, yyjson_mut_str(doc, t->name), obj);
}

static void add_framed(glia_buf *b, const char *json, size_t n) {
    size_t padded = (n + 7) / 8 * 8;
    unsigned char length[8];
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    glia_buf_add(b, length, sizeof length);
    glia_buf_add(b, json, n);
    glia_buf_add(b, "       ", padded - n);
}

glia_status glia_st_header(glia_buf *b, glia_st_tensor *t, size_t n, const char *const (*metadata)[2], size_t n_meta,
                           uint64_t *n_data, glia_err *err) {
    uint64_t at = 0, bytes;
    yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = doc ? yyjson_mut_obj(doc) : NULL, *meta = root ? yyjson_mut_obj(doc) : NULL;
    if (root) yyjson_mut_doc_set_root(doc, root);
    glia_status st = GLIA_OK;
    bool ok = meta != NULL;
    for (size_t i = 0; ok && i < n_meta; i++) ok = yyjson_mut_obj_add_str(doc, meta, metadata[i][0], metadata[i][1]);
    if (ok && n_meta) ok = yyjson_mut_obj_add_val(doc, root, "__metadata__", meta);
    for (size_t i = 0; ok && !st && i < n; i++) {
        t[i].begin = at;
        if (!tensor_bytes(&t[i], &bytes) || __builtin_add_overflow(at, bytes, &at)) {
            st = glia_fail(err, GLIA_EINVAL, "tensor %s is too large for a file", t[i].name);
            break;
        }
        t[i].end = at;
        ok = add_tensor(doc, root, &t[i]);
    }
    size_t len = 0;
    char *json = ok && !st ? yyjson_mut_write(doc, 0, &len) : NULL;
    if (json) add_framed(b, json, len);
    if (!st && (!json || b->failed)) st = glia_fail(err, GLIA_ENOMEM, "out of memory for the header of a file");
    free(json);
    yyjson_mut_doc_free(doc);
    if (n_data) *n_data = at;
    return st;
}

/* ------------------------------------------------------------------ reading */

struct glia_st {
    const unsigned char *data; /* first byte behind the header */
    uint64_t n_data, n_head;   /* n_head: with the 8 bytes of its length */
    yyjson_doc *doc;
    glia_st_tensor *tensors; /* by offset */
    glia_st_tensor **names;  /* the same, by name */
    size_t n;
    void *map; /* NULL: bytes of the caller */
    size_t n_map;
};

static glia_status bad(glia_err *err, const char *what) {
    return glia_fail(err, GLIA_EINVAL, "not a valid safetensors file: %s", what);
}

static bool read_dtype(yyjson_val *v, glia_st_dtype *out) {
    for (int i = 0; i < GLIA_ST_N_DTYPES; i++) {
        if (!yyjson_equals_str(v, dtypes[i].name)) continue;
        *out = (glia_st_dtype)i;
        return true;
    }
    return false;
}

static glia_status read_tensor(const glia_st *s, const char *name, yyjson_val *v, glia_st_tensor *t, glia_err *err) {
    yyjson_val *shape = yyjson_obj_get(v, "shape"), *offsets = yyjson_obj_get(v, "data_offsets"), *x;
    yyjson_arr_iter it;
    uint64_t bytes;
    *t = (glia_st_tensor){.name = name};
    if (!read_dtype(yyjson_obj_get(v, "dtype"), &t->dtype)) return bad(err, "a tensor of unknown type");
    if (!yyjson_is_arr(shape) || yyjson_arr_size(shape) > GLIA_ST_MAX_DIMS) return bad(err, "a tensor's shape");
    for (yyjson_arr_iter_init(shape, &it); (x = yyjson_arr_iter_next(&it));) {
        if (!yyjson_is_uint(x)) return bad(err, "a tensor's shape");
        t->shape[t->n_dims++] = yyjson_get_uint(x);
    }
    yyjson_val *begin = yyjson_arr_get(offsets, 0), *end = yyjson_arr_get(offsets, 1);
    if (yyjson_arr_size(offsets) != 2 || !yyjson_is_uint(begin) || !yyjson_is_uint(end)) {
        return bad(err, "a tensor's data_offsets");
    }
    t->begin = yyjson_get_uint(begin), t->end = yyjson_get_uint(end);
    if (t->begin > t->end || t->end > s->n_data) return bad(err, "a tensor that lies outside the file");
    if (!tensor_bytes(t, &bytes) || bytes != t->end - t->begin) return bad(err, "shape and size of a tensor differ");
    return GLIA_OK;
}

static int by_offset(const void *a, const void *b) {
    const glia_st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end); /* empty ones first */
}
static int by_name(const void *a, const void *b) {
    return strcmp((*(glia_st_tensor *const *)a)->name, (*(glia_st_tensor *const *)b)->name);
}
static int name_is(const void *key, const void *b) { return strcmp(key, (*(glia_st_tensor *const *)b)->name); }

static glia_status check_metadata(yyjson_val *v, glia_err *err) {
    yyjson_obj_iter it;
    yyjson_val *key;
    if (!yyjson_is_obj(v)) return bad(err, "__metadata__ is not an object");
    for (yyjson_obj_iter_init(v, &it); (key = yyjson_obj_iter_next(&it));) {
        if (!yyjson_is_str(yyjson_obj_iter_get_val(key))) return bad(err, "__metadata__ holds more than strings");
    }
    return GLIA_OK;
}

static glia_status read_tensors(glia_st *s, yyjson_val *root, glia_err *err) {
    yyjson_obj_iter it;
    yyjson_val *key;
    glia_status st = GLIA_OK;
    size_t n = yyjson_obj_size(root);
    if (n > GLIA_ST_MAX_TENSORS) return bad(err, "too many tensors");
    s->tensors = glia_calloc(n, sizeof *s->tensors);
    s->names = glia_calloc(n, sizeof(glia_st_tensor *));
    if (!s->tensors || !s->names) return glia_fail(err, GLIA_ENOMEM, "out of memory for a header");
    for (yyjson_obj_iter_init(root, &it); !st && (key = yyjson_obj_iter_next(&it));) {
        yyjson_val *v = yyjson_obj_iter_get_val(key);
        if (yyjson_equals_str(key, "__metadata__")) {
            st = check_metadata(v, err);
        } else {
            if (strlen(yyjson_get_str(key)) != yyjson_get_len(key)) return bad(err, "a name with a NUL inside");
            if ((st = read_tensor(s, yyjson_get_str(key), v, &s->tensors[s->n], err))) break;
            s->n++;
        }
    }
    if (st) return st;
    qsort(s->tensors, s->n, sizeof *s->tensors, by_offset);
    uint64_t at = 0;
    for (size_t i = 0; i < s->n; i++) {
        s->names[i] = &s->tensors[i];
        if (s->tensors[i].begin != at) return bad(err, "tensors that overlap or leave holes");
        at = s->tensors[i].end;
    }
    if (at != s->n_data) return bad(err, "bytes that belong to no tensor");
    qsort(s->names, s->n, sizeof *s->names, by_name);
    for (size_t i = 1; i < s->n; i++) {
        if (!strcmp(s->names[i - 1]->name, s->names[i]->name)) return bad(err, "two tensors of one name");
    }
    return GLIA_OK;
}

/* The length that the first 8 bytes say, when a file of n_file bytes can have it. */
static glia_status read_length(const unsigned char *p, uint64_t n_file, uint64_t *out, glia_err *err) {
    uint64_t length = 0;
    if (n_file < 8) return bad(err, "shorter than 8 bytes");
    for (int i = 7; i >= 0; i--) length = length << 8 | p[i];
    if (length > GLIA_ST_MAX_HEADER || length > n_file - 8) return bad(err, "its header does not fit");
    *out = length;
    return GLIA_OK;
}

/* p: at least the first 8 + header bytes of a file of n_file bytes. */
static glia_status parse(glia_st **out, const unsigned char *p, uint64_t n_file, glia_err *err) {
    uint64_t length;
    glia_status st = read_length(p, n_file, &length, err);
    if (st) return st;
    glia_st *s = glia_calloc(1, sizeof *s);
    if (!s) return glia_fail(err, GLIA_ENOMEM, "out of memory for a header");
    s->data = p + 8 + length, s->n_data = n_file - 8 - length, s->n_head = 8 + length;
    s->doc = yyjson_read((const char *)p + 8, (size_t)length, 0);
    yyjson_val *root = yyjson_doc_get_root(s->doc);
    st = yyjson_is_obj(root) ? read_tensors(s, root, err) : bad(err, "its header is no JSON object");
    if (!st) *out = s, s = NULL;
    glia_st_close(s);
    return st;
}

glia_status glia_st_parse(glia_st **out, const void *bytes, size_t n, glia_err *err) {
    *out = NULL;
    return n < 8 ? bad(err, "shorter than 8 bytes") : parse(out, bytes, n, err);
}

glia_status glia_st_read_head(glia_st **out,
                              glia_status (*read)(void *ud, uint64_t at, void *p, size_t n, glia_err *err), void *ud,
                              uint64_t n_file, glia_err *err) {
    unsigned char first[8], *head = NULL;
    uint64_t length;
    *out = NULL;
    if (n_file < sizeof first) return bad(err, "shorter than 8 bytes");
    glia_status st = read(ud, 0, first, sizeof first, err);
    if (!st) st = read_length(first, n_file, &length, err);
    if (st) return st;
    if (!(head = glia_malloc(8 + (size_t)length))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a header");
    st = read(ud, 0, head, 8 + (size_t)length, err);
    if (!st) st = parse(out, head, n_file, err);
    if (!st) (*out)->data = NULL;
    glia_free(head); /* names and metadata are in the parsed document */
    return st;
}

glia_status glia_st_open(glia_st **out, const char *path, glia_err *err) {
    struct stat info;
    void *map = NULL;
    glia_status st = GLIA_OK;
    *out = NULL;
    int fd = glia_io_open(path, O_RDONLY, 0);
    if (fd < 0 || fstat(fd, &info)) {
        st = glia_fail(err, errno == ENOENT ? GLIA_ENOTFOUND : GLIA_EIO, "cannot open %s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode) || info.st_size < 8) {
        st = bad(err, "shorter than 8 bytes");
    } else if (!(map = glia_io_map(fd, (size_t)info.st_size))) {
        st = glia_fail(err, GLIA_EIO, "cannot map %s: %s", path, strerror(errno));
    } else if ((st = glia_st_parse(out, map, (size_t)info.st_size, err))) {
        (void)munmap(map, (size_t)info.st_size);
    } else {
        (*out)->map = map, (*out)->n_map = (size_t)info.st_size;
    }
    if (fd >= 0) (void)close(fd);
    return st;
}

void glia_st_close(glia_st *s) {
    if (!s) return;
    if (s->map) (void)munmap(s->map, s->n_map);
    yyjson_doc_free(s->doc);
    glia_free(s->tensors);
    glia_free(s->names);
    glia_free(s);
}

size_t glia_st_count(const glia_st *s) { return s->n; }
const glia_st_tensor *glia_st_at(const glia_st *s, size_t i) { return i < s->n ? &s->tensors[i] : NULL; }

const glia_st_tensor *glia_st_find(const glia_st *s, const char *name) {
    if (!s->n) return NULL;
    glia_st_tensor **hit = bsearch(name, s->names, s->n, sizeof *s->names, name_is);
    return hit ? *hit : NULL;
}

const void *glia_st_data(const glia_st *s, const glia_st_tensor *t) { return s->data + t->begin; }
uint64_t glia_st_file_offset(const glia_st *s, const glia_st_tensor *t) { return s->n_head + t->begin; }

const char *glia_st_meta(const glia_st *s, const char *key) {
    return yyjson_get_str(yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(s->doc), "__metadata__"), key));
}

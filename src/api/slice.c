/* api/slice.c — see slice.h. */
#include "api/slice.h"
#include "api/encode.h"
#include "api/json.h"
#include "base/err.h"
#include "base/half.h"
#include "base/mem.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 256 << 10, MAX_RANGES = 1 << 16 };
typedef enum slice_format { FORMAT_LIST, FORMAT_BASE64, FORMAT_RAW, FORMAT_NPY, N_FORMATS } slice_format;
static const char *const format_names[N_FORMATS] = {"list", "base64", "raw", "npy"};

struct glia_slice {
    glia_run *run;
    const glia_run_tensor *t;
    slice_format format;
    uint64_t (*ranges)[2]; /* [n_ranges] of rows: from, to */
    size_t n_ranges;
    uint64_t n_rows;        /* of all ranges */
    size_t *columns;        /* [width] which numbers of a row; NULL: all */
    size_t width;           /* numbers of a row that are sent */
    int32_t n_heads;        /* attention: heads that are sent */
    glia_run_label *labels; /* [n_rows] JSON only; NULL: the rows have none */
    bool begun;
    size_t range; /* under way */
    uint64_t in_range, sent;
    uint8_t carry[3]; /* base64: bytes that do not fill a group yet */
    size_t n_carry;
};

/* ------------------------------------------------------------------ what is asked for */

static glia_status bad_spec(const char *param, const char *spec, uint64_t n, glia_err *err) {
    return glia_fail_at(err, GLIA_EINVAL, param,
                        "%s must be numbers and ranges such as 0:10,-1 within 0 to %llu, not "
                        "\"%.60s\"",
                        param, (unsigned long long)(n ? n - 1 : 0), spec);
}

/* A number at *s, counted from the end when negative; false: none, or outside [0, most]. */
static bool take_number(const char **s, uint64_t n, uint64_t most, uint64_t *out) {
    bool minus = **s == '-';
    const char *p = *s + minus;
    uint64_t v = 0;
    if (!isdigit((unsigned char)*p)) return false;
    for (; isdigit((unsigned char)*p); p++) {
        if (v > UINT64_MAX / 16) return false;
        v = v * 10 + (uint64_t)(*p - '0');
    }
    *s = p;
    if (minus && (v > n || !v)) return false;
    *out = minus ? n - v : v;
    return *out <= most;
}

static bool take_range(const char **s, uint64_t n, uint64_t out[2]) {
    bool first = **s != ':';
    out[0] = 0, out[1] = n;
    if (first && !take_number(s, n, n, &out[0])) return false;
    if (**s != ':') return out[1] = out[0] + 1, out[0] < n;
    (*s)++;
    if (**s && **s != ',' && !take_number(s, n, n, &out[1])) return false;
    return out[0] <= out[1];
}

glia_status glia_slice_spec(const char *spec, const char *param, uint64_t n, uint64_t (**out)[2], size_t *n_out,
                            glia_err *err) {
    const char *s = spec;
    size_t cap = 1, k = 0;
    *out = NULL, *n_out = 0;
    for (const char *p = spec; *p; p++) cap += *p == ',';
    if (cap > MAX_RANGES) return glia_fail_at(err, GLIA_EINVAL, param, "%s: at most %d ranges", param, (int)MAX_RANGES);
    uint64_t(*ranges)[2] = glia_calloc(cap, sizeof *ranges);
    if (!ranges) return glia_fail(err, GLIA_ENOMEM, "no memory for %s", param);
    bool ok = *s != 0;
    while (ok) {
        ok = take_range(&s, n, ranges[k]);
        if (ok && ranges[k][0] < ranges[k][1]) k++;
        if (!ok || !*s) break;
        ok = *s++ == ',';
    }
    if (!ok || *s) {
        glia_free(ranges);
        return bad_spec(param, spec, n, err);
    }
    *out = ranges, *n_out = k;
    return GLIA_OK;
}

static bool inside(uint64_t (*ranges)[2], size_t n, uint64_t x) {
    for (size_t i = 0; i < n; i++) {
        if (x >= ranges[i][0] && x < ranges[i][1]) return true;
    }
    return false;
}

/* Keep of the rows [from, to) those whose label lies in a list over positions (or offsets). */
static glia_status rows_by_label(glia_slice *s, uint64_t from, uint64_t to, const char *spec, const char *param,
                                 glia_err *err) {
    uint64_t n = to - from, most = 0, (*wanted)[2] = NULL;
    size_t n_wanted = 0, k = 0;
    if (n > GLIA_SLICE_ROWS)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s of more than %d rows", param, GLIA_SLICE_ROWS);
    glia_run_label *l = glia_calloc((size_t)n, sizeof *l);
    s->ranges = glia_calloc((size_t)n, sizeof *s->ranges);
    glia_status st = l && s->ranges ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %s", param);
    if (!st) st = glia_run_labels(s->run, s->t, from, n, l, err);
    for (uint64_t i = 0; i < n && !st; i++) {
        if ((uint64_t)l[i].offset >= most) most = (uint64_t)l[i].offset + 1;
    }
    if (!st) st = glia_slice_spec(spec, param, most, &wanted, &n_wanted, err);
    for (uint64_t i = 0; i < n && !st; i++) {
        if (!inside(wanted, n_wanted, (uint64_t)l[i].offset)) continue;
        if (k && s->ranges[k - 1][1] == from + i) s->ranges[k - 1][1]++;
        else s->ranges[k][0] = from + i, s->ranges[k++][1] = from + i + 1;
    }
    s->n_ranges = k;
    if (!st && !k) st = glia_fail_at(err, GLIA_EINVAL, param, "%s: no row is at \"%.60s\"", param, spec);
    glia_free(wanted);
    glia_free(l);
    return st;
}

static glia_status one_range(glia_slice *s, uint64_t from, uint64_t to, glia_err *err) {
    if (!(s->ranges = glia_calloc(1, sizeof *s->ranges))) return glia_fail(err, GLIA_ENOMEM, "no memory for rows");
    s->ranges[0][0] = from, s->ranges[0][1] = to;
    s->n_ranges = from < to;
    return GLIA_OK;
}

static glia_status rows_of_document(glia_slice *s, const glia_slice_query *q, glia_err *err) {
    char *end;
    uint64_t row, n;
    long long document = strtoll(q->document, &end, 10);
    if (end == q->document || *end || document < 0)
        return glia_fail_at(err, GLIA_EINVAL, "document", "document must be the number of a document, not \"%.40s\"",
                            q->document);
    glia_status st = glia_run_find_document(s->run, document, &row, &n, err);
    if (st) return st;
    if (!n) return glia_fail_at(err, GLIA_ENOTFOUND, "document", "no row of document %lld here", document);
    return q->offsets ? rows_by_label(s, row, row + n, q->offsets, "offsets", err) : one_range(s, row, row + n, err);
}

static glia_status choose_rows(glia_slice *s, const glia_slice_query *q, glia_err *err) {
    bool harvest = glia_run_get_about(s->run)->kind == GLIA_RUN_HARVEST;
    if (!!q->rows + !!q->positions + !!q->document > 1)
        return glia_fail_at(err, GLIA_EINVAL, "rows", "rows, positions and document: name one of them");
    if (q->positions && harvest)
        return glia_fail_at(err, GLIA_EINVAL, "positions",
                            "positions repeat in a harvest: use document and offsets, or rows");
    if (q->offsets && !q->document)
        return glia_fail_at(err, GLIA_EINVAL, "offsets", "offsets count the tokens of one document: name it, too");
    glia_status st = q->document    ? rows_of_document(s, q, err)
                     : q->positions ? rows_by_label(s, 0, s->t->rows, q->positions, "positions", err)
                     : q->rows      ? glia_slice_spec(q->rows, "rows", s->t->rows, &s->ranges, &s->n_ranges, err)
                                    : one_range(s, 0, s->t->rows, err);
    for (size_t i = 0; i < s->n_ranges && !st; i++) s->n_rows += s->ranges[i][1] - s->ranges[i][0];
    if (!st && s->n_rows > GLIA_SLICE_ROWS)
        st = glia_fail_at(err, GLIA_ETOOLARGE, "rows",
                          "%llu rows at once, at most %d: ask for them in parts, or take the files",
                          (unsigned long long)s->n_rows, (int)GLIA_SLICE_ROWS);
    return st;
}

static glia_status repeated(const char *param, glia_err *err) {
    return glia_fail_at(err, GLIA_EINVAL, param, "%s names some so often that a row would grow", param);
}

/* list × list: the columns of the chosen heads, then of these the chosen channels. */
static glia_status choose_columns(glia_slice *s, const glia_slice_query *q, glia_err *err) {
    const glia_run_tensor *t = s->t;
    size_t all = (size_t)t->width, per_head = t->n_heads ? all / (size_t)t->n_heads : 0, n = 0, n_ranges = 0;
    uint64_t(*ranges)[2] = NULL;
    s->width = all, s->n_heads = t->n_heads;
    if (!q->heads && !q->channels) return GLIA_OK;
    if (q->heads && !t->n_heads)
        return glia_fail_at(err, GLIA_EINVAL, "heads", "heads: the rows of %s are not laid out in heads", t->name);
    if (q->channels && t->n_cols)
        return glia_fail_at(err, GLIA_EINVAL, "channels",
                            "channels: the columns of attention are positions, all are sent");
    size_t *columns = s->columns = glia_calloc(all, sizeof *columns);
    if (!columns) return glia_fail(err, GLIA_ENOMEM, "no memory for columns");
    for (size_t i = 0; i < all; i++) columns[i] = i;
    if (q->heads) {
        glia_status st = glia_slice_spec(q->heads, "heads", (uint64_t)t->n_heads, &ranges, &n_ranges, err);
        if (st) return st;
        for (size_t i = 0; i < n_ranges; i++) {
            for (uint64_t c = ranges[i][0] * per_head; c < ranges[i][1] * per_head; c++, n++) {
                if (n < all) columns[n] = (size_t)c;
            }
        }
        glia_free(ranges);
        if (n > all) return repeated("heads", err);
        s->width = n, s->n_heads = (int32_t)(n / per_head);
    }
    if (q->channels) {
        size_t *of = glia_memdup(columns, s->width * sizeof *columns);
        if (!of) return glia_fail(err, GLIA_ENOMEM, "no memory for columns");
        glia_status st = glia_slice_spec(q->channels, "channels", s->width, &ranges, &n_ranges, err);
        n = 0;
        for (size_t i = 0; i < n_ranges; i++) {
            for (uint64_t c = ranges[i][0]; c < ranges[i][1]; c++, n++) {
                if (n < all) columns[n] = of[c];
            }
        }
        glia_free(ranges);
        glia_free(of);
        if (st) return st;
        if (n > all) return repeated("channels", err);
        s->width = n;
    }
    return s->width ? GLIA_OK
                    : glia_fail_at(err, GLIA_EINVAL, q->channels ? "channels" : "heads", "nothing is left of a row");
}

static glia_status choose_format(glia_slice *s, const char *name, glia_err *err) {
    for (int i = 0; i < N_FORMATS; i++) {
        if (!strcmp(name ? name : "list", format_names[i])) return s->format = (slice_format)i, GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, "format", "format must be list, base64, raw or npy, not \"%.40s\"", name);
}

/* Rows that are reductions over many have none. */
static glia_status load_labels(glia_slice *s, glia_err *err) {
    bool harvest = glia_run_get_about(s->run)->kind == GLIA_RUN_HARVEST;
    uint64_t at = 0;
    glia_status st = GLIA_OK;
    if (s->format > FORMAT_BASE64 || (!harvest && s->t->n_positions != s->t->rows)) return GLIA_OK;
    if (!(s->labels = glia_calloc((size_t)s->n_rows, sizeof *s->labels)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for labels");
    for (size_t i = 0; i < s->n_ranges && !st; i++) {
        uint64_t n = s->ranges[i][1] - s->ranges[i][0];
        st = glia_run_labels(s->run, s->t, s->ranges[i][0], n, s->labels + at, err);
        at += n;
    }
    return st;
}

glia_status glia_slice_open(glia_slice **out, glia_run *r, const char *tensor, const glia_slice_query *q,
                            glia_err *err) {
    *out = NULL;
    glia_slice *s = glia_calloc(1, sizeof *s);
    if (!s) {
        glia_run_close(r);
        return glia_fail(err, GLIA_ENOMEM, "no memory for rows");
    }
    s->run = r;
    s->t = glia_run_find(r, tensor);
    glia_status st = s->t ? GLIA_OK
                          : glia_fail_at(err, GLIA_ENOTFOUND, "name",
                                         "run %s has no tensor \"%.80s\": GET /api/v1/runs/%s "
                                         "lists them",
                                         glia_run_get_about(r)->id, tensor, glia_run_get_about(r)->id);
    if (!st) st = choose_format(s, q->format, err);
    if (!st) st = choose_rows(s, q, err);
    if (!st) st = choose_columns(s, q, err);
    if (!st) st = load_labels(s, err);
    if (!st) *out = s, s = NULL;
    glia_slice_free(s);
    return st;
}

void glia_slice_free(glia_slice *s) {
    if (!s) return;
    glia_run_close(s->run);
    glia_free(s->ranges);
    glia_free(s->columns);
    glia_free(s->labels);
    glia_free(s);
}

const char *glia_slice_type(const glia_slice *s) {
    return s->format == FORMAT_RAW   ? "application/octet-stream"
           : s->format == FORMAT_NPY ? "application/x-npy"
                                     : "application/json";
}

uint64_t glia_slice_bytes(const glia_slice *s) { return s->n_rows * s->width * glia_st_dtype_bytes(s->t->dtype); }

/* ------------------------------------------------------------------ heads of formats */

/* bfloat16 is no type of NumPy's: it goes out as float32.  JSON always holds float32. */
static bool widens(const glia_slice *s) {
    return s->format != FORMAT_RAW && (s->format != FORMAT_NPY || s->t->dtype == GLIA_ST_BF16) &&
           s->t->dtype != GLIA_ST_I32;
}

static void add_shape(const glia_slice *s, const char *comma, glia_buf *b) {
    glia_buf_addf(b, "%llu%s", (unsigned long long)s->n_rows, comma);
    if (s->t->n_cols) glia_buf_addf(b, "%d%s%d", (int)s->n_heads, comma, (int)s->t->n_cols);
    else glia_buf_addf(b, "%zu", s->width);
}

static void add_npy_head(const glia_slice *s, glia_buf *b) {
    glia_buf head = {0};
    const char *kind = widens(s) || s->t->dtype == GLIA_ST_F32 ? "<f4" : s->t->dtype == GLIA_ST_F16 ? "<f2" : "<i4";
    glia_buf_addf(&head, "{'descr': '%s', 'fortran_order': False, 'shape': (", kind);
    add_shape(s, ", ", &head);
    glia_buf_adds(&head, "), }");
    size_t n = head.n + 1,
           padded = (10 + n + 63) / 64 * 64 - 10; /* with the end of line: data begins at a multiple of 64 */
    char le[2] = {(char)(padded & 0xff), (char)(padded >> 8)};
    glia_buf_add(b, "\x93NUMPY\x01\x00", 8);
    glia_buf_add(b, le, 2);
    if (!head.failed) glia_buf_add(b, head.p, head.n);
    for (size_t i = n; i < padded; i++) glia_buf_adds(b, " ");
    glia_buf_adds(b, "\n");
    if (head.failed) b->failed = true;
    glia_buf_clear(&head);
}

typedef int64_t label_value(const glia_run_label *l);
static int64_t document_of(const glia_run_label *l) { return l->document; }
static int64_t offset_of(const glia_run_label *l) { return l->offset; }
static int64_t position_of(const glia_run_label *l) { return l->position; }
static int64_t token_of(const glia_run_label *l) { return l->token_id; }

static void add_labels(const glia_slice *s, const char *name, label_value *value, glia_buf *b) {
    glia_buf_addf(b, ",\"%s\":[", name);
    for (uint64_t i = 0; i < s->n_rows && !b->failed; i++) {
        if (i) glia_buf_add(b, ",", 1);
        glia_buf_addi(b, value(&s->labels[i]));
    }
    glia_buf_adds(b, "]");
}

static void add_json_head(const glia_slice *s, glia_buf *b) {
    const glia_run_tensor *t = s->t;
    glia_buf_addf(b, "{\"run\":\"%s\",\"tensor\":", glia_run_get_about(s->run)->id);
    glia_json_add_cstr(b, t->name);
    glia_buf_addf(b, ",\"point\":\"%s\",\"layer\":", glia_point_name(t->point));
    if (glia_point_has_layer(t->point)) glia_buf_addf(b, "%d", (int)t->layer);
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, ",\"grade\":\"%s\",\"shape\":[", glia_grade_name(t->grade));
    add_shape(s, ",", b);
    glia_buf_addf(b, "],\"dtype\":\"%s\"", t->dtype == GLIA_ST_I32 ? "int32" : "float32");
    if (t->dtype != GLIA_ST_I32) glia_buf_addf(b, ",\"stored_dtype\":\"%s\"", glia_st_dtype_name(t->dtype));
    if (s->labels && glia_run_get_about(s->run)->kind == GLIA_RUN_HARVEST) {
        add_labels(s, "documents", document_of, b);
        add_labels(s, "offsets", offset_of, b);
    }
    if (s->labels) add_labels(s, "positions", position_of, b);
    if (s->labels) add_labels(s, "token_ids", token_of, b);
    glia_buf_addf(b, ",\"encoding\":\"%s\",\"data\":%s", format_names[s->format],
                  s->format == FORMAT_LIST ? "[" : "\"");
}

/* ------------------------------------------------------------------ pieces */

static void add_list(const glia_slice *s, const float *x, uint64_t first, uint64_t n, glia_buf *b) {
    size_t block = s->t->n_cols ? (size_t)s->t->n_cols : s->width;
    if (!glia_buf_reserve(b, (size_t)n * s->width * (GLIA_FLOAT_CHARS + 3) + 16 * (size_t)n)) return;
    for (uint64_t row = 0; row < n; row++) {
        char *p = b->p + b->n;
        if (first + row) *p++ = ',';
        *p++ = '[';
        for (size_t c = 0; c < s->width; c++, x++) {
            if (c) *p++ = ',';
            if (s->t->n_cols && c % block == 0) *p++ = '[';
            if (s->t->dtype == GLIA_ST_I32) p += snprintf(p, GLIA_FLOAT_CHARS, "%d", (int)*x);
            else p += glia_float_text(*x, p);
            if (s->t->n_cols && c % block == block - 1) *p++ = ']';
        }
        *p++ = ']';
        *p = 0;
        b->n = (size_t)(p - b->p);
    }
}

static void add_base64(glia_slice *s, const uint8_t *p, size_t n, bool last, glia_buf *b) {
    while (n && s->n_carry) { /* fill the group that was left open */
        s->carry[s->n_carry++] = *p++, n--;
        if (s->n_carry == 3) glia_base64_add(b, s->carry, 3), s->n_carry = 0;
    }
    size_t whole = n / 3 * 3;
    glia_base64_add(b, p, whole);
    for (size_t i = whole; i < n; i++) s->carry[s->n_carry++] = p[i];
    if (last && s->n_carry) glia_base64_add(b, s->carry, s->n_carry), s->n_carry = 0;
}

/* The chosen columns of n rows, moved together in place: there are never more than a row has.  ENOMEM. */
static glia_status pick_columns(const glia_slice *s, uint8_t *rows, uint64_t n, size_t size) {
    size_t all = (size_t)s->t->width;
    uint8_t *to = rows, *row = s->columns ? glia_malloc(all * size) : NULL;
    if (!s->columns) return GLIA_OK;
    if (!row) return GLIA_ENOMEM;
    for (uint64_t r = 0; r < n; r++) {
        memcpy(row, rows + r * all * size, all * size);
        for (size_t c = 0; c < s->width; c++, to += size) memcpy(to, row + s->columns[c] * size, size);
    }
    glia_free(row);
    return GLIA_OK;
}

static glia_status add_rows(glia_slice *s, uint64_t row, uint64_t n, glia_buf *b, glia_err *err) {
    size_t size = glia_st_dtype_bytes(s->t->dtype), numbers = (size_t)n * s->width;
    uint8_t *raw = glia_malloc((size_t)n * (size_t)s->t->width * size);
    float *floats = NULL;
    glia_status st = raw ? glia_run_read_raw(s->run, s->t, row, n, raw, err) : GLIA_ENOMEM;
    if (!st) st = pick_columns(s, raw, n, size);
    bool need_floats = widens(s) || s->format == FORMAT_LIST;
    if (!st && need_floats && !(floats = glia_malloc(numbers * sizeof *floats))) st = GLIA_ENOMEM;
    if (!st && need_floats && s->t->dtype == GLIA_ST_I32) {
        for (size_t i = 0; i < numbers; i++) {
            int32_t v;
            memcpy(&v, raw + 4 * i, 4);
            floats[i] = (float)v;
        }
    } else if (!st && need_floats) {
        glia_unpack_le(floats, raw, numbers,
                       s->t->dtype == GLIA_ST_F16    ? GLIA_F16
                       : s->t->dtype == GLIA_ST_BF16 ? GLIA_BF16
                                                     : GLIA_F32);
    }
    if (!st && s->format == FORMAT_LIST) {
        add_list(s, floats, s->sent, n, b);
    } else if (!st) {
        if (floats) { /* as little-endian float32 */
            glia_free(raw);
            raw = glia_malloc(numbers * 4), size = 4;
            if (raw) glia_pack_le(raw, floats, numbers, GLIA_F32);
        }
        if (!raw) st = GLIA_ENOMEM;
        else if (s->format == FORMAT_BASE64) add_base64(s, raw, numbers * size, s->sent + n == s->n_rows, b);
        else glia_buf_add(b, raw, numbers * size);
    }
    glia_free(raw);
    glia_free(floats);
    if (st == GLIA_ENOMEM) return glia_fail(err, GLIA_ENOMEM, "no memory for rows");
    return st;
}

glia_status glia_slice_next(glia_slice *s, glia_buf *b, bool *end, glia_err *err) {
    size_t row_bytes = (size_t)s->t->width * glia_st_dtype_bytes(s->t->dtype);
    uint64_t most = PIECE_BYTES / row_bytes ? PIECE_BYTES / row_bytes : 1;
    glia_status st = GLIA_OK;
    if (!s->begun) {
        s->begun = true;
        if (s->format <= FORMAT_BASE64) add_json_head(s, b);
        else if (s->format == FORMAT_NPY) add_npy_head(s, b);
    }
    if (s->range < s->n_ranges) {
        uint64_t row = s->ranges[s->range][0] + s->in_range, left = s->ranges[s->range][1] - row;
        uint64_t n = left < most ? left : most;
        st = add_rows(s, row, n, b, err);
        s->sent += n, s->in_range += n;
        if (n == left) s->range++, s->in_range = 0;
    }
    *end = s->range == s->n_ranges;
    if (*end && s->format <= FORMAT_BASE64) glia_buf_adds(b, s->format == FORMAT_LIST ? "]}\n" : "\"}\n");
    if (!st && b->failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for rows");
    return st;
}

/* api/entries.c — writing activations: one entry per hook and forward pass, with its labels.  Any thread. */
#include "api/activations.h"
#include "api/encode.h"
#include <string.h>

static const char *dtype_name(glia_dtype d) {
    return d == GLIA_F16 ? "float16" : d == GLIA_BF16 ? "bfloat16" : "float32";
}

static const char *phase_name(uint32_t phase) {
    return phase == GLIA_PHASE_PROMPT ? "prompt" : phase == GLIA_PHASE_GENERATED ? "generated" : "all";
}

uint64_t glia_acts_reply_bytes(const glia_acts *a, uint64_t bytes) {
    if (a->format.encoding == GLIA_ENC_LIST) return bytes * 3; /* about 12 characters a float */
    return bytes / 3 * 4 / (a->format.dtype == GLIA_F32 ? 1 : 2);
}

static void add_ids(glia_buf *b, const char *name, const int32_t *ids, int32_t n) {
    glia_buf_addf(b, ",\"%s\":[", name);
    for (int32_t i = 0; i < n; i++) glia_buf_addf(b, i ? ",%d" : "%d", (int)ids[i]);
    glia_buf_adds(b, "]");
}

static void open_entry(const glia_acts *a, const glia_frame *f, glia_buf *b) {
    const glia_act_label *l = &a->labels[f->hook];
    glia_buf_adds(b, "{\"hook_id\":");
    glia_json_add_cstr(b, a->keys[l->group]);
    glia_buf_adds(b, ",\"layer_name\":");
    glia_json_add_cstr(b, l->layer_name);
    glia_buf_adds(b, ",\"component\":");
    glia_json_add_cstr(b, l->component);
    glia_buf_addf(b, ",\"point\":\"%s\",\"layer\":", glia_point_name(f->point));
    if (glia_point_has_layer(f->point)) glia_buf_addf(b, "%d", (int)f->layer);
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, ",\"shape\":[1,%d,%d],\"dtype\":\"%s\",\"is_input\":%s", (int)f->n_rows, (int)f->width,
                  dtype_name(l->dtype), l->is_input ? "true" : "false");
    glia_buf_addf(b, ",\"phase\":\"%s\",\"grade\":\"%s\"", phase_name(f->phase), glia_grade_name(f->grade));
    if (f->n_heads > 0) glia_buf_addf(b, ",\"n_heads\":%d,\"head_dim\":%d", (int)f->n_heads, (int)f->head_dim);
    add_ids(b, "positions", f->positions, f->n_rows);
    add_ids(b, "token_ids", f->token_ids, f->n_rows);
    bool list = a->format.encoding == GLIA_ENC_LIST;
    glia_buf_addf(b, ",\"encoding\":\"%s\",\"data\":%s", list ? "list" : "base64", list ? "[[" : "\"");
}

static float rounded(float x, glia_dtype d) {
    if (d == GLIA_F16) return glia_f16_to(glia_f16_of(x));
    if (d == GLIA_BF16) return glia_bf16_to(glia_bf16_of(x));
    return x;
}

/* Floats [at, end) of the frame as text; brackets where rows begin and end. */
static void add_list(const glia_frame *f, glia_dtype d, size_t at, size_t end, glia_buf *b) {
    size_t width = (size_t)f->width, column = at % width;
    if (!glia_buf_reserve(b, (end - at) * (GLIA_FLOAT_CHARS + 3))) return;
    char *p = b->p + b->n;
    for (size_t i = at; i < end; i++) {
        if (!column) {
            if (i) *p++ = ',';
            *p++ = '[';
        } else {
            *p++ = ',';
        }
        p += glia_float_text(rounded(f->data[i], d), p);
        if (++column == width) *p++ = ']', column = 0;
    }
    *p = 0;
    b->n = (size_t)(p - b->p);
}

static void add_bytes(const glia_frame *f, glia_dtype d, size_t at, size_t end, glia_buf *b) {
    uint8_t bytes[3 * 512 * 4];
    while (at < end) {
        size_t n = 0;
        for (; at < end && n < sizeof bytes; at++) { /* little-endian on any machine */
            uint32_t u;
            memcpy(&u, &f->data[at], sizeof u);
            if (d == GLIA_F16) u = glia_f16_of(f->data[at]);
            else if (d == GLIA_BF16) u = glia_bf16_of(f->data[at]);
            bytes[n++] = (uint8_t)u, bytes[n++] = (uint8_t)(u >> 8);
            if (d == GLIA_F32) bytes[n++] = (uint8_t)(u >> 16), bytes[n++] = (uint8_t)(u >> 24);
        }
        glia_base64_add(b, bytes, n);
    }
}

bool glia_act_write(glia_act_writer *w, glia_buf *b) {
    const glia_frame *f = w->frame;
    const glia_act_label *l = &w->acts->labels[f->hook];
    bool list = w->acts->format.encoding == GLIA_ENC_LIST;
    if (!w->open) {
        open_entry(w->acts, f, b);
        w->open = true;
    }
    size_t total = (size_t)f->n_rows * (size_t)f->width, end = w->at + GLIA_ACT_PIECE;
    if (end > total) end = total;
    if (end > w->at) {
        if (list) add_list(f, l->dtype, w->at, end, b);
        else add_bytes(f, l->dtype, w->at, end, b);
    }
    w->at = end;
    if (end < total && !b->failed) return false;
    glia_buf_adds(b, list ? "]]}" : "\"}");
    return true;
}

/* ------------------------------------------------------------------ merged rows */

void glia_act_rows_add(glia_act_rows *r, const glia_frame *f) {
    size_t rows = (size_t)f->n_rows;
    int32_t before = r->frame.n_rows;
    uint32_t phase = before ? r->frame.phase | f->phase : f->phase;
    glia_buf_add(&r->data, f->data, rows * (size_t)f->width * sizeof(float));
    glia_buf_add(&r->positions, f->positions, rows * sizeof(int32_t));
    glia_buf_add(&r->token_ids, f->token_ids, rows * sizeof(int32_t));
    r->frame = *f;
    r->frame.n_rows = before + f->n_rows;
    r->frame.phase = phase;
}

bool glia_act_rows_write(glia_act_rows *r, const glia_acts *a, glia_buf *b) {
    if (r->data.failed || r->positions.failed || r->token_ids.failed) return false;
    /* malloc'ed, hence aligned for any type */
    r->frame.data = (const float *)(const void *)r->data.p;
    r->frame.positions = (const int32_t *)(const void *)r->positions.p;
    r->frame.token_ids = (const int32_t *)(const void *)r->token_ids.p;
    glia_act_writer w = {.acts = a, .frame = &r->frame};
    while (!glia_act_write(&w, b)) {}
    return !b->failed;
}

void glia_act_rows_clear(glia_act_rows *r) {
    glia_buf_clear(&r->data);
    glia_buf_clear(&r->positions);
    glia_buf_clear(&r->token_ids);
}

/* api/entries.c — writing activations: one entry per hook and forward pass, with its labels.  Any thread. */
#include "api/activations.h"
#include "api/encode.h"
#include <math.h>
#include <string.h>

static const char *phase_name(uint32_t phase) {
    return phase == GLIA_PHASE_PROMPT ? "prompt" : phase == GLIA_PHASE_GENERATED ? "generated" : "all";
}

uint64_t glia_acts_reply_bytes(const glia_acts *a, uint64_t bytes) {
    if (a->format.encoding == GLIA_ENC_LIST) return bytes * 3; /* about 12 characters a float */
    if (a->format.dtype != GLIA_F32) return bytes;             /* 2/3 of that is text; they are kept as float32 */
    return bytes / 3 * 4;
}

static void add_ids(glia_buf *b, const char *name, const int32_t *ids, int32_t n) {
    glia_buf_addf(b, ",\"%s\":[", name);
    for (int32_t i = 0; i < n; i++) {
        if (i) glia_buf_add(b, ",", 1);
        glia_buf_addi(b, ids[i]);
    }
    glia_buf_adds(b, "]");
}

/* Which heads these are; of query heads, which KV head each reads. */
static void add_heads(const glia_frame *f, glia_buf *b) {
    add_ids(b, "heads", f->heads, f->n_heads);
    if (f->group < 1) return;
    glia_buf_adds(b, ",\"kv_heads\":[");
    for (int32_t i = 0; i < f->n_heads; i++) glia_buf_addf(b, i ? ",%d" : "%d", (int)(f->heads[i] / f->group));
    glia_buf_adds(b, "]");
}

static void add_range(glia_buf *b, const glia_range *r) {
    glia_buf_addf(b, ",\"channels\":{\"from\":%lld", (long long)r->from);
    if (r->to != GLIA_RANGE_END) glia_buf_addf(b, ",\"to\":%lld", (long long)r->to);
    glia_buf_adds(b, "}");
}

/* Which part of the rows this is, and what was made of them. */
static void add_part(const glia_hook *h, const glia_frame *f, glia_buf *b) {
    if (h->channel_range) add_range(b, h->channel_range);
    else if (h->channels) add_ids(b, "channels", h->channels, (int32_t)h->n_channels);
    if (!f->reduce) return;
    glia_buf_addf(b, ",\"reduce\":\"%s\",\"n_rows_reduced\":%d", glia_reduce_name(f->reduce), (int)f->n_positions);
}

static uint64_t data_bytes(const glia_act_writer *w) {
    size_t floats = (size_t)w->frame->n_rows * (size_t)w->frame->width;
    return floats * glia_dtype_bytes(w->acts->labels[w->frame->hook].dtype);
}

uint64_t glia_act_raw_bytes(const glia_act_writer *w) {
    size_t numbers = (size_t)w->frame->n_rows * (size_t)w->frame->width;
    return data_bytes(w) + (w->frame->indices ? numbers * sizeof(int32_t) : 0);
}

static void open_entry(const glia_act_writer *w, glia_buf *b) {
    const glia_acts *a = w->acts;
    const glia_frame *f = w->frame;
    const glia_act_label *l = &a->labels[f->hook];
    glia_buf_adds(b, "{\"hook_id\":");
    glia_json_add_cstr(b, a->keys[l->group]);
    glia_buf_adds(b, ",\"layer_name\":");
    glia_json_add_cstr(b, l->layer_name);
    glia_buf_adds(b, ",\"component\":");
    glia_json_add_cstr(b, l->component);
    if (a->with_choice) glia_buf_addf(b, ",\"choice\":%d", (int)w->choice);
    glia_buf_addf(b, ",\"point\":\"%s\",\"layer\":", glia_point_name(f->point));
    if (glia_point_has_layer(f->point)) glia_buf_addf(b, "%d", (int)f->layer);
    else glia_buf_adds(b, "null");
    if (f->n_cols) glia_buf_addf(b, ",\"shape\":[1,%d,%d,%d]", (int)f->n_heads, (int)f->n_rows, (int)f->n_cols);
    else glia_buf_addf(b, ",\"shape\":[1,%d,%d]", (int)f->n_rows, (int)f->width);
    glia_buf_addf(b, ",\"dtype\":\"%s\",\"is_input\":%s", glia_dtype_name(l->dtype), l->is_input ? "true" : "false");
    glia_buf_addf(b, ",\"phase\":\"%s\",\"grade\":\"%s\"", phase_name(f->phase), glia_grade_name(f->grade));
    if (f->n_heads > 0) glia_buf_addf(b, ",\"n_heads\":%d,\"head_dim\":%d", (int)f->n_heads, (int)f->head_dim);
    if (f->n_heads > 0 && f->heads) add_heads(f, b);
    add_part(&a->hooks[f->hook], f, b);
    add_ids(b, "positions", f->positions, f->n_positions);
    add_ids(b, "token_ids", f->token_ids, f->n_positions);
    switch (a->format.encoding) {
    case GLIA_ENC_LIST:
        glia_buf_adds(b, f->n_cols ? ",\"encoding\":\"list\",\"data\":[[[" : ",\"encoding\":\"list\",\"data\":[[");
        break;
    case GLIA_ENC_BASE64: glia_buf_adds(b, ",\"encoding\":\"base64\",\"data\":\""); break;
    case GLIA_ENC_RAW:
        glia_buf_addf(b, ",\"encoding\":\"raw\",\"bytes\":%llu", (unsigned long long)glia_act_raw_bytes(w));
        if (f->indices) glia_buf_addf(b, ",\"indices_at\":%llu", (unsigned long long)data_bytes(w));
        break;
    case GLIA_ENC_TENSOR:
    case GLIA_ENC_STORED:
        glia_buf_addf(b, ",\"encoding\":\"%s\",\"tensor\":",
                      a->format.encoding == GLIA_ENC_STORED ? "stored" : "safetensors");
        glia_json_add_cstr(b, w->tensor);
        break;
    }
}

static float rounded(float x, glia_dtype d) {
    if (d == GLIA_F16) return glia_f16_to(glia_f16_of(x));
    if (d == GLIA_BF16) return glia_bf16_to(glia_bf16_of(x));
    return x;
}

/* Floats [at, at + n) of the entry, in the order of its shape.  Rows of attention lie [rows, heads, columns] in a frame
 * and are written [heads, rows, columns].  At most *n floats, fewer at the end of a piece that lies together. */
static const float *piece(const glia_frame *f, size_t at, size_t *n) {
    if (!f->n_cols) return f->data + at;
    size_t columns = (size_t)f->n_cols, rows = (size_t)f->n_rows, heads = (size_t)f->n_heads;
    size_t column = at % columns, row = at / columns % rows, head = at / columns / rows;
    if (*n > columns - column) *n = columns - column;
    return f->data + (row * heads + head) * columns + column;
}

/* Floats [at, end) of the entry as text; brackets where rows, and heads, begin and end. */
static void add_list(const glia_frame *f, glia_dtype d, size_t at, size_t end, glia_buf *b) {
    size_t width = (size_t)(f->n_cols ? f->n_cols : f->width), column = at % width;
    size_t block = f->n_cols ? width * (size_t)f->n_rows : SIZE_MAX; /* of one head */
    if (!glia_buf_reserve(b, (end - at) * (GLIA_FLOAT_CHARS + 5))) return;
    char *p = b->p + b->n;
    while (at < end) {
        size_t n = end - at;
        const float *x = piece(f, at, &n);
        for (size_t i = 0; i < n; i++, at++) {
            if (!column) {
                if (at && at % block == 0) memcpy(p, "],[", 3), p += 3;
                else if (at) *p++ = ',';
                *p++ = '[';
            } else {
                *p++ = ',';
            }
            p += glia_float_text(rounded(x[i], d), p);
            if (++column == width) *p++ = ']', column = 0;
        }
    }
    *p = 0;
    b->n = (size_t)(p - b->p);
}

static void add_bytes(const glia_frame *f, glia_dtype d, size_t at, size_t end, glia_buf *b) {
    uint8_t bytes[3 * 512 * 4];
    size_t size = glia_dtype_bytes(d), most = sizeof bytes / size;
    while (at < end) {
        size_t had = 0; /* base64 joins only groups of three bytes: fill the block over the edges of rows */
        while (at < end && had < most) {
            size_t n = end - at < most - had ? end - at : most - had;
            const float *x = piece(f, at, &n);
            glia_pack_le(bytes + had * size, x, n, d);
            had += n, at += n;
        }
        glia_base64_add(b, bytes, had * size);
    }
}

/* Indices [at, end) of a top-k, shaped as its values. */
static void add_index_list(const glia_frame *f, size_t at, size_t end, glia_buf *b) {
    size_t width = (size_t)f->width;
    for (size_t i = at; i < end; i++) {
        glia_buf_adds(b, i % width ? "," : i ? ",[" : "[");
        glia_buf_addi(b, f->indices[i]);
        if (i % width == width - 1) glia_buf_adds(b, "]");
    }
}

static void add_index_bytes(const glia_frame *f, size_t at, size_t end, glia_buf *b) {
    uint8_t bytes[3 * 512 * 4];
    while (at < end) {
        size_t n = 0;
        for (; at < end && n < sizeof bytes; at++) {
            uint32_t u = (uint32_t)f->indices[at];
            for (int k = 0; k < 4; k++) bytes[n++] = (uint8_t)(u >> 8 * k);
        }
        glia_base64_add(b, bytes, n);
    }
}

/* The next piece of [*at, total); true: that was the last. */
static bool next_piece(size_t *at, size_t total, size_t *from) {
    *from = *at;
    *at = total - *at < GLIA_ACT_PIECE ? total : *at + GLIA_ACT_PIECE;
    return *at == total;
}

bool glia_act_write(glia_act_writer *w, glia_buf *b) {
    const glia_frame *f = w->frame;
    const glia_act_label *l = &w->acts->labels[f->hook];
    bool list = w->acts->format.encoding == GLIA_ENC_LIST;
    const char *close = !list ? "\"" : f->n_cols ? "]]]" : "]]";
    size_t total = (size_t)f->n_rows * (size_t)f->width, from;
    if (!w->open) {
        open_entry(w, b);
        w->open = true;
    }
    if (w->acts->format.encoding >= GLIA_ENC_RAW) {
        glia_buf_adds(b, "}");
        return true;
    }
    if (w->in_indices) {
        bool whole = next_piece(&w->at_index, total, &from);
        if (list) add_index_list(f, from, w->at_index, b);
        else add_index_bytes(f, from, w->at_index, b);
        if (!whole && !b->failed) return false;
    } else {
        bool whole = next_piece(&w->at, total, &from);
        if (list) add_list(f, l->dtype, from, w->at, b);
        else add_bytes(f, l->dtype, from, w->at, b);
        if (!whole && !b->failed) return false;
        if (f->indices && !b->failed) {
            glia_buf_addf(b, "%s,\"indices\":%s", close, list ? "[[" : "\"");
            w->in_indices = true;
            return false;
        }
    }
    glia_buf_addf(b, "%s}", close);
    return true;
}

bool glia_act_raw(glia_act_writer *w, glia_buf *b) {
    const glia_frame *f = w->frame;
    glia_dtype d = w->acts->labels[f->hook].dtype;
    size_t total = (size_t)f->n_rows * (size_t)f->width, size = glia_dtype_bytes(d), from;
    if (w->at < total) {
        bool whole = next_piece(&w->at, total, &from);
        if (!glia_buf_reserve(b, (w->at - from) * size)) return true;
        while (from < w->at) {
            size_t n = w->at - from;
            const float *x = piece(f, from, &n);
            glia_pack_le((uint8_t *)b->p + b->n, x, n, d);
            b->n += n * size, from += n;
        }
        b->p[b->n] = 0;
        return whole && !f->indices;
    }
    if (!f->indices) return true;
    bool whole = next_piece(&w->at_index, total, &from);
    for (; from < w->at_index; from++) {
        uint32_t u = (uint32_t)f->indices[from];
        char bytes[4] = {(char)u, (char)(u >> 8), (char)(u >> 16), (char)(u >> 24)};
        glia_buf_add(b, bytes, sizeof bytes);
    }
    return whole || b->failed;
}

/* ------------------------------------------------------------------ merged rows */

void glia_act_rows_add(glia_act_rows *r, const glia_frame *f) {
    size_t rows = (size_t)f->n_rows, labels = (size_t)f->n_positions;
    int32_t before = r->frame.n_rows, labels_before = r->frame.n_positions;
    uint32_t phase = before ? r->frame.phase | f->phase : f->phase;
    glia_buf_add(&r->data, f->data, rows * (size_t)f->width * sizeof(float));
    glia_buf_add(&r->positions, f->positions, labels * sizeof(int32_t));
    glia_buf_add(&r->token_ids, f->token_ids, labels * sizeof(int32_t));
    if (f->indices) glia_buf_add(&r->indices, f->indices, rows * (size_t)f->width * sizeof(int32_t));
    for (size_t i = 0; f->n_cols && i < rows; i++) glia_buf_add(&r->n_cols, &f->n_cols, sizeof f->n_cols);
    if (before) glia_buf_clear(&r->heads);
    if (f->heads) glia_buf_add(&r->heads, f->heads, (size_t)f->n_heads * sizeof *f->heads);
    r->frame = *f;
    r->frame.n_rows = before + f->n_rows;
    r->frame.n_positions = labels_before + f->n_positions;
    r->frame.phase = phase;
}

/* Later rows of attention have more columns: all get those of the last. */
static bool widen(glia_act_rows *r) {
    const int32_t *had = (const int32_t *)(const void *)r->n_cols.p;
    const float *src = (const float *)(const void *)r->data.p;
    size_t heads = (size_t)r->frame.n_heads, columns = (size_t)r->frame.n_cols;
    float hidden = r->frame.point == GLIA_POINT_ATTN_PROBS ? 0 : -INFINITY;
    glia_buf wide = {0};
    if (!glia_buf_reserve(&wide, (size_t)r->frame.n_rows * heads * columns * sizeof hidden)) return false;
    for (int32_t row = 0; row < r->frame.n_rows; row++) {
        for (size_t h = 0; h < heads; h++, src += had[row]) {
            glia_buf_add(&wide, src, (size_t)had[row] * sizeof hidden);
            for (size_t c = (size_t)had[row]; c < columns; c++) glia_buf_add(&wide, &hidden, sizeof hidden);
        }
    }
    glia_buf_clear(&r->data);
    r->data = wide;
    r->frame.width = (int32_t)(heads * columns);
    return !wide.failed;
}

const glia_frame *glia_act_rows_frame(glia_act_rows *r) {
    if (r->data.failed || r->positions.failed || r->token_ids.failed || r->indices.failed) return NULL;
    if (r->n_cols.failed || r->heads.failed || (r->frame.n_cols && !widen(r))) return NULL;
    /* malloc'ed, hence aligned for any type */
    r->frame.data = (const float *)(const void *)r->data.p;
    r->frame.positions = (const int32_t *)(const void *)r->positions.p;
    r->frame.token_ids = (const int32_t *)(const void *)r->token_ids.p;
    r->frame.heads = (const int32_t *)(const void *)r->heads.p;
    r->frame.indices = (const int32_t *)(const void *)r->indices.p; /* NULL when there are none */
    return &r->frame;
}

void glia_act_rows_clear(glia_act_rows *r) {
    glia_buf_clear(&r->data);
    glia_buf_clear(&r->positions);
    glia_buf_clear(&r->token_ids);
    glia_buf_clear(&r->n_cols);
    glia_buf_clear(&r->heads);
    glia_buf_clear(&r->indices);
}

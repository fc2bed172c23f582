/* lab/head_weights.c — see head_weights.h.  Names are GGUF's: blk.N.attn_q, _k, _v (or all three one after the other in
 * attn_qkv), attn_output, attn_norm. */
#include "lab/head_weights.h"
#include "base/err.h"
#include "base/mem.h"
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 512 };

typedef struct loaded {
    int32_t layer, head; /* -1: none */
    glia_head_weights w;
    float *all; /* q, k, v, o */
} loaded;

struct glia_heads_file {
    const glia_model *m;
    size_t d, n_vocab, n_tokens;
    bool centred;
    float *seen_read, *seen_seen; /* [d, d] embedding × output, embedding × embedding, summed over tokens */
    loaded at[2];
};

void glia_heads_file_close(glia_heads_file *f) {
    if (!f) return;
    for (int i = 0; i < 2; i++) glia_free(f->at[i].all);
    glia_free(f->seen_read);
    glia_free(f->seen_seen);
    glia_free(f);
}

size_t glia_heads_file_tokens(const glia_heads_file *f) { return f->n_tokens; }

static void centre(float *row, size_t n) {
    double mean = 0;
    for (size_t i = 0; i < n; i++) mean += (double)row[i] / (double)n;
    for (size_t i = 0; i < n; i++) row[i] -= (float)mean;
}

/* Rows times the gain of a norm (NULL: none); centred norms read rows less their mean. */
static void fold(float *rows, size_t n, size_t d, const float *gain, bool centred) {
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; gain && k < d; k++) rows[i * d + k] *= gain[k];
        if (centred) centre(rows + i * d, d);
    }
}

/* Both d × d sums over the chosen tokens, block by block. */
static glia_status sum_tokens(glia_heads_file *f, const char *output, const float *gain, glia_err *err) {
    size_t d = f->d;
    float *e = glia_malloc(2 * BLOCK * d * sizeof *e), *u = e + BLOCK * d;
    if (!e) return glia_fail(err, GLIA_ENOMEM, "no memory for the embedding");
    for (size_t done = 0; done < f->n_tokens;) {
        size_t n = 0;
        for (; n < BLOCK && done < f->n_tokens; n++, done++) {
            int64_t t = (int64_t)((double)done * (double)f->n_vocab / (double)f->n_tokens);
            if (glia_model_weight_rows(f->m, "token_embd.weight", t, t + 1, e + n * d) &&
                glia_model_weight_rows(f->m, output, t, t + 1, u + n * d))
                continue;
            glia_free(e);
            return glia_fail(err, GLIA_EIO, "the embedding cannot be read from the model's file any more");
        }
        fold(u, n, d, gain, f->centred);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)d, (int)d, (int)n, 1, e, (int)d, u, (int)d, 1,
                    f->seen_read, (int)d);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)d, (int)d, (int)n, 1, e, (int)d, e, (int)d, 1,
                    f->seen_seen, (int)d);
    }
    glia_free(e);
    return GLIA_OK;
}

glia_status glia_heads_file_open(glia_heads_file **out, const glia_model *m, size_t n_tokens, glia_err *err) {
    glia_model_info info;
    glia_final_norm norm;
    int64_t rows, cols, n_gain;
    glia_model_get_info(m, &info);
    *out = NULL;
    const char *output = glia_model_weight(m, "output.weight", &rows, &cols) ? "output.weight" : "token_embd.weight";
    bool there = glia_model_weight(m, output, &rows, &cols) && cols == info.n_embd &&
                 glia_model_weight(m, "token_embd.weight", &rows, &cols) && cols == info.n_embd && rows > 0;
    if (!there || !glia_model_final_norm(m, &norm))
        return glia_fail(
            err, GLIA_EHOOK,
            "the embedding, the final norm or the output matrix of this model cannot be read from its file");
    glia_heads_file *f = glia_calloc(1, sizeof *f);
    size_t d = (size_t)info.n_embd;
    float *gain = NULL;
    glia_status st = f ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory");
    if (!st) {
        f->m = m, f->d = d, f->n_vocab = (size_t)rows, f->centred = norm.centred;
        f->n_tokens = n_tokens && n_tokens < f->n_vocab ? n_tokens : f->n_vocab;
        f->at[0].layer = f->at[1].layer = -1;
        f->seen_read = glia_calloc(d * d, sizeof *f->seen_read),
        f->seen_seen = glia_calloc(d * d, sizeof *f->seen_seen);
        gain = norm.weight ? glia_malloc(d * sizeof *gain) : NULL;
        if (!f->seen_read || !f->seen_seen || (norm.weight && !gain))
            st = glia_fail(err, GLIA_ENOMEM, "no memory for two matrices of %zu", d);
    }
    if (!st && norm.weight &&
        (!glia_model_weight(m, norm.weight, &rows, &n_gain) || n_gain != (int64_t)d ||
         !glia_model_weight_rows(m, norm.weight, 0, 1, gain)))
        st = glia_fail(err, GLIA_EHOOK, "the final norm of this model cannot be read from its file");
    if (!st) st = sum_tokens(f, output, gain, err);
    glia_free(gain);
    if (st) glia_heads_file_close(f);
    else *out = f;
    return st;
}

/* ------------------------------------------------------------------ one head */

/* Rows of q, k or v (part 0, 1, 2), from their own matrix or from the fused one. */
static bool read_part(const glia_heads_file *f, int32_t layer, int part, const int64_t sizes[3], int64_t from,
                      int64_t n, float *out) {
    static const char *const names[] = {"attn_q", "attn_k", "attn_v"};
    char name[64];
    int64_t rows, cols, before = 0;
    (void)snprintf(name, sizeof name, "blk.%d.%s.weight", (int)layer, names[part]);
    if (glia_model_weight(f->m, name, &rows, &cols))
        return cols == (int64_t)f->d && rows == sizes[part] && glia_model_weight_rows(f->m, name, from, from + n, out);
    (void)snprintf(name, sizeof name, "blk.%d.attn_qkv.weight", (int)layer);
    for (int i = 0; i < part; i++) before += sizes[i];
    return glia_model_weight(f->m, name, &rows, &cols) && cols == (int64_t)f->d &&
           rows == sizes[0] + sizes[1] + sizes[2] &&
           glia_model_weight_rows(f->m, name, before + from, before + from + n, out);
}

/* Columns of the output projection that belong to the head: [d, dim].  row: [n_heads * dim] scratch. */
static bool read_output(const glia_heads_file *f, int32_t layer, size_t head, size_t dim, size_t n_heads, float *row,
                        float *out) {
    char name[64];
    int64_t rows, cols;
    (void)snprintf(name, sizeof name, "blk.%d.attn_output.weight", (int)layer);
    bool good =
        glia_model_weight(f->m, name, &rows, &cols) && rows == (int64_t)f->d && cols == (int64_t)(n_heads * dim);
    for (size_t i = 0; good && i < f->d; i++) {
        good = glia_model_weight_rows(f->m, name, (int64_t)i, (int64_t)i + 1, row);
        if (good) memcpy(out + i * dim, row + head * dim, dim * sizeof *out);
    }
    return good;
}

static glia_status load(glia_heads_file *f, int slot, int32_t layer, int32_t head, glia_err *err) {
    loaded *l = &f->at[slot];
    glia_point_info q, k, v, z;
    if (l->layer == layer && l->head == head) return GLIA_OK;
    bool known = glia_model_point(f->m, GLIA_POINT_Q, layer, &q) && glia_model_point(f->m, GLIA_POINT_K, layer, &k) &&
                 glia_model_point(f->m, GLIA_POINT_VALUE, layer, &v) &&
                 glia_model_point(f->m, GLIA_POINT_Z, layer, &z) && q.n_heads > 0 && k.n_heads > 0 && v.n_heads > 0 &&
                 z.n_heads == q.n_heads && q.head_dim == k.head_dim && v.head_dim == q.head_dim &&
                 z.head_dim == q.head_dim && head < q.n_heads && q.n_heads % k.n_heads == 0;
    if (!known) return glia_fail(err, GLIA_EHOOK, "layer %d has no plain queries, keys and values", (int)layer);
    size_t dim = (size_t)q.head_dim, d = f->d, group = (size_t)(q.n_heads / k.n_heads), kv = (size_t)head / group;
    int64_t sizes[3] = {q.n_heads * (int64_t)dim, k.n_heads * (int64_t)dim, v.n_heads * (int64_t)dim}, n = (int64_t)dim,
            rows, cols;
    char name[64];
    glia_free(l->all);
    *l = (loaded){.layer = -1, .all = glia_malloc((4 * dim * d + d + (size_t)sizes[0]) * sizeof *l->all)};
    if (!l->all) return glia_fail(err, GLIA_ENOMEM, "no memory for the weights of a head");
    float *wq = l->all, *wk = wq + dim * d, *wv = wk + dim * d, *wo = wv + dim * d, *gain = wo + dim * d;
    bool good = read_part(f, layer, 0, sizes, head * n, n, wq) &&
                read_part(f, layer, 1, sizes, (int64_t)kv * n, n, wk) &&
                read_part(f, layer, 2, sizes, (int64_t)kv * n, n, wv) &&
                read_output(f, layer, (size_t)head, dim, (size_t)q.n_heads, gain + d, wo);
    if (!good) {
        return glia_fail(err, GLIA_EHOOK,
                         "the file does not hold queries, keys, values and output of layer %d as plain matrices",
                         (int)layer);
    }
    (void)snprintf(name, sizeof name, "blk.%d.attn_norm.weight", (int)layer);
    bool normed = glia_model_weight(f->m, name, &rows, &cols) && cols == (int64_t)d &&
                  glia_model_weight_rows(f->m, name, 0, 1, gain);
    fold(wq, dim, d, normed ? gain : NULL, normed && f->centred);
    fold(wk, dim, d, normed ? gain : NULL, normed && f->centred);
    fold(wv, dim, d, normed ? gain : NULL, normed && f->centred);
    l->layer = layer, l->head = head;
    l->w = (glia_head_weights){dim, d, wq, wk, wv, wo};
    return GLIA_OK;
}

static bool has_weight(const glia_heads_file *f, int32_t layer, const char *what) {
    char name[64];
    int64_t rows, cols;
    (void)snprintf(name, sizeof name, "blk.%d.%s.weight", (int)layer, what);
    return glia_model_weight(f->m, name, &rows, &cols);
}

/* Norms of queries or keys make the product of their weights say little; one behind the output changes its direction. */
static bool norms_queries(const glia_heads_file *f, int32_t layer) {
    return has_weight(f, layer, "attn_q_norm") || has_weight(f, layer, "attn_k_norm");
}
static bool norms_output(const glia_heads_file *f, int32_t layer) {
    return has_weight(f, layer, "post_attention_norm") || has_weight(f, layer, "attn_post_norm");
}

glia_status glia_heads_file_scores(glia_heads_file *f, int32_t layer, int32_t head, double *copying, double *matching,
                                   glia_err *err) {
    glia_status st = load(f, 0, layer, head, err);
    *copying = *matching = (double)NAN;
    if (!st && !norms_output(f, layer)) st = glia_head_copying(&f->at[0].w, f->seen_read, copying, err);
    if (!st && !norms_queries(f, layer)) st = glia_head_matching(&f->at[0].w, f->seen_seen, matching, err);
    return st;
}

glia_status glia_heads_file_compose(glia_heads_file *f, int32_t layer_a, int32_t head_a, int32_t layer_b,
                                    int32_t head_b, glia_composition *out, glia_err *err) {
    if (norms_output(f, layer_a) || norms_queries(f, layer_b))
        return glia_fail(err, GLIA_EHOOK, "a norm stands between heads of layers %d and %d", (int)layer_a,
                         (int)layer_b);
    glia_status st = load(f, 0, layer_a, head_a, err);
    if (!st) st = load(f, 1, layer_b, head_b, err);
    return st ? st : glia_head_composition(&f->at[0].w, &f->at[1].w, out, err);
}

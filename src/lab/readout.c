/* lab/readout.c — see readout.h. */
#include "lab/readout.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512 }; /* rows of the matrix that are dequantized at once */

void glia_readout_clear(glia_readout *r) {
    glia_free((void *)(uintptr_t)r->norm.weight);
    glia_free((void *)(uintptr_t)r->norm.bias);
    glia_free(r->bias);
    *r = (glia_readout){0};
}

static bool meta_number(const glia_model *m, const char *arch, const char *key, double *out) {
    char name[160], text[64], *end;
    (void)snprintf(name, sizeof name, "%s.%s", arch, key);
    if (!glia_model_meta(m, name, text, sizeof text)) return false;
    *out = strtod(text, &end);
    return end != text && isfinite(*out);
}

/* A vector of the file; *out NULL: there is none. */
static glia_status read_vector(const glia_model *m, const char *name, size_t n, float **out, glia_err *err) {
    int64_t rows, cols;
    *out = NULL;
    if (!name || !glia_model_weight(m, name, &rows, &cols)) return GLIA_OK;
    if (rows != 1 || (size_t)cols != n)
        return glia_fail(err, GLIA_EHOOK, "%s of this model has %lld values instead of %zu", name, (long long)cols, n);
    if (!(*out = glia_malloc(n * sizeof **out))) return glia_fail(err, GLIA_ENOMEM, "no memory for %s", name);
    (void)glia_model_weight_rows(m, name, 0, 1, *out);
    return GLIA_OK;
}

double glia_readout_finish(const glia_readout *r, double raw) {
    switch (r->after) {
    case GLIA_AFTER_TIMES: return raw * r->factor;
    case GLIA_AFTER_DIVIDED: return raw / r->factor;
    case GLIA_AFTER_SOFTCAP: return r->factor * tanh(raw / r->factor);
    default: return raw;
    }
}

static glia_status multiply(const glia_readout *r, const float *x, size_t n_rows, float *out, glia_err *err) {
    float *block = glia_malloc(BLOCK * r->n_embd * sizeof *block);
    if (!block) return glia_fail(err, GLIA_ENOMEM, "no memory for the output matrix");
    for (size_t from = 0; from < r->n_vocab; from += BLOCK) {
        size_t n = r->n_vocab - from < BLOCK ? r->n_vocab - from : BLOCK;
        if (!glia_model_weight_rows(r->m, r->matrix, (int64_t)from, (int64_t)(from + n), block)) {
            glia_free(block);
            return glia_fail(err, GLIA_EIO, "the output matrix cannot be read from the model's file any more");
        }
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_rows, (int)n, (int)r->n_embd, 1, x, (int)r->n_embd,
                    block, (int)r->n_embd, 0, out + from, (int)r->n_vocab);
    }
    glia_free(block);
    for (size_t i = 0; r->bias && i < n_rows; i++) {
        for (size_t t = 0; t < r->n_vocab; t++) out[i * r->n_vocab + t] += r->bias[t];
    }
    return GLIA_OK;
}

glia_status glia_readout_logits(const glia_readout *r, const float *x, size_t n_rows, float *out, glia_err *err) {
    glia_status st = multiply(r, x, n_rows, out, err);
    for (size_t i = 0; !st && r->after != GLIA_AFTER_NOTHING && i < n_rows * r->n_vocab; i++)
        out[i] = (float)glia_readout_finish(r, (double)out[i]);
    return st;
}

bool glia_readout_row(const glia_readout *r, int32_t token, float *out) {
    return glia_model_weight_rows(r->m, r->matrix, token, (int64_t)token + 1, out);
}

/* ------------------------------------------------------------------ checking */

static double worst(const float *got, const float *want, size_t n) {
    double error = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= error)) error = d;
        scale = fmax(scale, fabs((double)want[i]));
    }
    return scale > 0 ? error / scale : (double)INFINITY;
}

/* The norm of the graph gives `want` from x. */
static glia_status check_norm(const glia_readout *r, const char *arch, const float *x, const float *want,
                              glia_err *err) {
    float *got = glia_malloc(r->n_embd * sizeof *got);
    if (!got) return glia_fail(err, GLIA_ENOMEM, "no memory for the final norm");
    glia_norm_apply(&r->norm, x, got);
    double error = worst(got, want, r->n_embd);
    glia_free(got);
    if (error <= 1e-3) return GLIA_OK;
    return glia_fail(err, GLIA_EHOOK,
                     "the final norm of this model (%s) is not what its file says (it differs by %.2g)", arch, error);
}

/* What comes after the matrix. */
static glia_status find_after(glia_readout *r, const char *arch, const float *normed, const float *want,
                              glia_err *err) {
    static const struct {
        const char *key;
        glia_readout_after after;
    } kinds[] = {{NULL, GLIA_AFTER_NOTHING},
                 {"logit_scale", GLIA_AFTER_TIMES},
                 {"logit_scale", GLIA_AFTER_DIVIDED},
                 {"final_logit_softcapping", GLIA_AFTER_SOFTCAP}};
    float *raw = glia_malloc(2 * r->n_vocab * sizeof *raw), *got = raw + r->n_vocab;
    glia_readout_after best = GLIA_AFTER_NOTHING;
    double best_factor = 1;
    if (!raw) return glia_fail(err, GLIA_ENOMEM, "no memory for logits");
    glia_status st = multiply(r, normed, 1, raw, err);
    r->error = INFINITY;
    for (size_t i = 0; !st && i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i].key && (!meta_number(r->m, arch, kinds[i].key, &r->factor) || r->factor == 0)) continue;
        r->after = kinds[i].after;
        for (size_t t = 0; t < r->n_vocab; t++) got[t] = (float)glia_readout_finish(r, (double)raw[t]);
        double error = worst(got, want, r->n_vocab);
        if (error < r->error) r->error = error, best = r->after, best_factor = r->factor;
    }
    r->after = best, r->factor = best_factor;
    glia_free(raw);
    if (st || r->error <= 0.05) return st;
    return glia_fail(err, GLIA_EHOOK, "logits of this model (%s) are not its final norm times %s (they differ by %.2g)",
                     arch, r->matrix, r->error);
}

static glia_status check(glia_readout *r, const glia_model_info *info, const int32_t *tokens, size_t n_tokens,
                         glia_err *err) {
    static const int64_t last[] = {-1};
    glia_hook hooks[3] = {{.point = GLIA_POINT_RESID_POST, .layer = info->n_layer - 1},
                          {.point = GLIA_POINT_FINAL_NORM},
                          {.point = GLIA_POINT_LM_HEAD}};
    for (size_t i = 0; i < 3; i++)
        hooks[i].phases = GLIA_PHASE_PROMPT, hooks[i].positions = last, hooks[i].n_positions = 1;
    glia_forward_case c = {.tokens = tokens, .n_tokens = n_tokens, .hooks = hooks, .n_hooks = 3};
    glia_forward *f;
    glia_status st = glia_forward_run(&f, r->m, &(glia_forward_params){.cases = &c, .n_cases = 1}, err);
    if (st) return st;
    const glia_rows *resid = glia_forward_rows(f, 0, 0), *normed = glia_forward_rows(f, 0, 1),
                    *logits = glia_forward_rows(f, 0, 2);
    if ((size_t)resid->width != r->n_embd || (size_t)normed->width != r->n_embd ||
        (size_t)logits->width != r->n_vocab) {
        st = glia_fail(err, GLIA_EHOOK, "the output matrix is [%zu, %zu], the model's logits %d of %d", r->n_vocab,
                       r->n_embd, (int)logits->width, (int)normed->width);
    }
    if (!st) st = check_norm(r, info->arch, resid->data, normed->data, err);
    if (!st) st = find_after(r, info->arch, normed->data, logits->data, err);
    glia_forward_free(f);
    return st;
}

glia_status glia_readout_open(glia_readout *r, glia_model *m, const int32_t *tokens, size_t n_tokens, glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    *r = (glia_readout){.m = m, .n_embd = (size_t)info.n_embd, .factor = 1};
    float *weight = NULL, *bias = NULL;
    int64_t rows, cols;
    r->matrix = glia_model_weight(m, "output.weight", &rows, &cols) ? "output.weight" : "token_embd.weight";
    if (!glia_model_weight(m, r->matrix, &rows, &cols) || cols != info.n_embd)
        return glia_fail(err, GLIA_EHOOK, "the output matrix of this model cannot be read from its file");
    r->n_vocab = (size_t)rows, r->norm.n = r->n_embd;
    glia_final_norm norm;
    if (!glia_model_final_norm(m, &norm))
        return glia_fail(err, GLIA_EHOOK, "the final norm of this model was not found in its graph");
    r->norm.eps = (double)norm.eps, r->norm.centred = norm.centred;
    glia_status st = read_vector(m, norm.weight, r->n_embd, &weight, err);
    r->norm.weight = weight;
    if (!st) st = read_vector(m, norm.bias, r->n_embd, &bias, err);
    r->norm.bias = bias;
    if (!st) st = read_vector(m, "output.bias", r->n_vocab, &r->bias, err);
    if (!st) st = check(r, &info, tokens, n_tokens, err);
    if (st) glia_readout_clear(r);
    return st;
}

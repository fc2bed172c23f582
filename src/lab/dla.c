/* lab/dla.c — direct logit attribution: see attribution.h.  One forward pass; the parts' rows against the folded direction. */
#include "base/err.h"
#include "base/mem.h"
#include "lab/attribution.h"
#include "lab/forward.h"
#include "lab/readout.h"
#include <math.h>
#include <string.h>

typedef struct dla_hooks {
    glia_hook *list;
    size_t n;
    int64_t position;                                /* of the one row */
    size_t first, resid, normed, logits;             /* indices; those of layers: 0 means none, since first is 0 */
    size_t *attention, *attention_raw, *mlp, *heads; /* [n_layer] */
} dla_hooks;

void glia_dla_free(glia_dla *a) {
    if (!a) return;
    for (size_t l = 0; a->heads && l < a->n_layer; l++) glia_free(a->heads[l]);
    glia_free(a->heads);
    glia_free(a->attention);
    glia_free(a->mlp);
    glia_free(a->n_heads);
    glia_free(a->head_rest);
    glia_free(a);
}

static glia_dla *dla_new(size_t n_layer) {
    glia_dla *a = glia_calloc(1, sizeof *a);
    if (!a) return NULL;
    a->n_layer = n_layer;
    a->attention = glia_malloc(n_layer * sizeof *a->attention);
    a->mlp = glia_malloc(n_layer * sizeof *a->mlp);
    a->heads = glia_calloc(n_layer, sizeof *a->heads);
    a->n_heads = glia_calloc(n_layer, sizeof *a->n_heads);
    a->head_rest = glia_malloc(n_layer * sizeof *a->head_rest);
    if (a->attention && a->mlp && a->heads && a->n_heads && a->head_rest) {
        for (size_t l = 0; l < n_layer; l++) a->attention[l] = a->mlp[l] = a->head_rest[l] = (double)NAN;
        return a;
    }
    glia_dla_free(a);
    return NULL;
}

static size_t add_hook(dla_hooks *h, glia_point point, size_t layer) {
    h->list[h->n] = (glia_hook){.point = point,
                                .layer = (int32_t)layer,
                                .phases = GLIA_PHASE_PROMPT,
                                .positions = &h->position,
                                .n_positions = 1};
    return h->n++;
}

static bool has(const glia_model *m, glia_point point, size_t layer) {
    glia_point_info pi;
    return glia_model_point(m, point, (int32_t)layer, &pi) && pi.grade >= GLIA_GRADE_STRUCTURAL;
}

static glia_status plan(dla_hooks *h, const glia_model *m, size_t n_layer, bool heads, glia_err *err) {
    h->list = glia_calloc(4 * n_layer + 4, sizeof *h->list);
    h->attention = glia_calloc(4 * n_layer, sizeof *h->attention);
    if (!h->list || !h->attention) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu layers", n_layer);
    h->attention_raw = h->attention + n_layer, h->mlp = h->attention_raw + n_layer, h->heads = h->mlp + n_layer;
    h->first = add_hook(h, GLIA_POINT_RESID_PRE, 0);
    for (size_t l = 0; l < n_layer; l++) {
        if (has(m, GLIA_POINT_ATTN_OUT_POST, l)) h->attention[l] = add_hook(h, GLIA_POINT_ATTN_OUT_POST, l);
        if (has(m, GLIA_POINT_MLP_OUT_POST, l)) h->mlp[l] = add_hook(h, GLIA_POINT_MLP_OUT_POST, l);
        if (!heads || !h->attention[l] || !has(m, GLIA_POINT_ATTN_HEAD_OUT, l) || !has(m, GLIA_POINT_ATTN_OUT, l))
            continue;
        h->heads[l] = add_hook(h, GLIA_POINT_ATTN_HEAD_OUT, l);
        h->attention_raw[l] = add_hook(h, GLIA_POINT_ATTN_OUT, l);
    }
    h->resid = add_hook(h, GLIA_POINT_RESID_POST, n_layer - 1);
    h->normed = add_hook(h, GLIA_POINT_FINAL_NORM, 0);
    h->logits = add_hook(h, GLIA_POINT_LM_HEAD, 0);
    return GLIA_OK;
}

static void plan_clear(dla_hooks *h) {
    glia_free(h->list);
    glia_free(h->attention);
}

typedef struct reader {
    const glia_readout *o;
    const glia_forward *f;
    double *reading; /* [n_embd] */
    double constant, scale;
} reader;

static double read_part(const reader *r, const float *x) { return r->scale * glia_dot(r->reading, x, r->o->n_embd); }

/* Direction target - against of the output, folded through the norm. */
static glia_status fold(reader *r, const glia_dla *a, const float *resid, glia_err *err) {
    size_t n = r->o->n_embd;
    float *u = glia_malloc(2 * n * sizeof *u), *v = u + n;
    r->reading = glia_malloc(n * sizeof *r->reading);
    if (!u || !r->reading) {
        glia_free(u);
        return glia_fail(err, GLIA_ENOMEM, "no memory for a direction");
    }
    bool there = glia_readout_row(r->o, a->target, u);
    if (there && a->against >= 0) {
        there = glia_readout_row(r->o, a->against, v);
        for (size_t i = 0; i < n; i++) u[i] -= v[i];
    }
    if (there) {
        glia_norm_fold(&r->o->norm, u, r->reading, &r->constant);
        if (r->o->bias)
            r->constant += (double)r->o->bias[a->target] - (a->against >= 0 ? (double)r->o->bias[a->against] : 0);
        r->scale = glia_norm_scale(&r->o->norm, resid);
    }
    glia_free(u);
    return there ? GLIA_OK : glia_fail_at(err, GLIA_EINVAL, "target", "no such token in the output matrix");
}

/* What the attention adds is its output times one factor (1, or a residual multiplier); NaN: something else, a norm. */
static double factor_of(const float *out, const float *post, size_t n) {
    double dot = 0, square = 0, error = 0, scale = 0;
    for (size_t i = 0; i < n; i++) dot += (double)out[i] * (double)post[i], square += (double)out[i] * (double)out[i];
    double k = square > 0 ? dot / square : 1;
    for (size_t i = 0; i < n; i++) {
        error = fmax(error, fabs((double)post[i] - k * (double)out[i]));
        scale = fmax(scale, fabs((double)post[i]));
    }
    return error <= 1e-4 * scale ? k : (double)NAN;
}

static glia_status read_heads(const reader *r, const dla_hooks *h, glia_dla *a, size_t l, glia_err *err) {
    const glia_rows *heads = glia_forward_rows(r->f, 0, h->heads[l]),
                    *raw = glia_forward_rows(r->f, 0, h->attention_raw[l]);
    double factor = factor_of(raw->data, glia_forward_rows(r->f, 0, h->attention[l])->data, r->o->n_embd);
    if (isnan(factor)) {
        return glia_fail_at(
            err, GLIA_EHOOK, "heads",
            "heads of layer %zu do not add up: a norm follows the attention's output; leave out \"heads\"", l);
    }
    size_t n = (size_t)heads->n_heads;
    if (!(a->heads[l] = glia_malloc(n * sizeof **a->heads)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for %zu heads", n);
    a->n_heads[l] = (int32_t)n, a->head_rest[l] = a->attention[l];
    for (size_t i = 0; i < n; i++) {
        a->heads[l][i] = factor * read_part(r, heads->data + i * r->o->n_embd);
        a->head_rest[l] -= a->heads[l][i];
    }
    return GLIA_OK;
}

/* The parts are all of the stream, or nothing is answered. */
static glia_status check_sum(const reader *r, const dla_hooks *h, size_t n_layer, const float *resid, glia_err *err) {
    size_t n = r->o->n_embd;
    double error = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        double sum = (double)glia_forward_rows(r->f, 0, h->first)->data[i];
        for (size_t l = 0; l < n_layer; l++) {
            if (h->attention[l]) sum += (double)glia_forward_rows(r->f, 0, h->attention[l])->data[i];
            if (h->mlp[l]) sum += (double)glia_forward_rows(r->f, 0, h->mlp[l])->data[i];
        }
        error = fmax(error, fabs(sum - (double)resid[i])), scale = fmax(scale, fabs((double)resid[i]));
    }
    if (error <= 1e-3 * scale) return GLIA_OK;
    return glia_fail(err, GLIA_EHOOK,
                     "the parts of this model's blocks do not add up to its residual stream (they miss %.2g of it): "
                     "no attribution",
                     error / scale);
}

/* The engine's logits with what follows the matrix undone. */
static double engine_logit(const glia_readout *o, const float *logits, const glia_dla *a) {
    double x = (double)logits[a->target], y = a->against >= 0 ? (double)logits[a->against] : 0;
    switch (o->after) {
    case GLIA_AFTER_TIMES: return (x - y) / o->factor;
    case GLIA_AFTER_DIVIDED: return (x - y) * o->factor;
    case GLIA_AFTER_SOFTCAP: return o->factor * (atanh(x / o->factor) - atanh(y / o->factor));
    default: return x - y;
    }
}

static glia_status read_parts(reader *r, const dla_hooks *h, glia_dla *a, glia_err *err) {
    const float *resid = glia_forward_rows(r->f, 0, h->resid)->data;
    const glia_rows *logits = glia_forward_rows(r->f, 0, h->logits), *first = glia_forward_rows(r->f, 0, h->first);
    a->position = first->positions[0];
    if (a->target < 0) (void)glia_logits_top(logits->data, (size_t)logits->width, &a->target, 1);
    glia_status st = check_sum(r, h, a->n_layer, resid, err);
    if (st || (st = fold(r, a, resid, err))) return st;
    a->scale = r->scale, a->constant = r->constant;
    a->embedding = read_part(r, first->data);
    a->sum = a->embedding + a->constant;
    for (size_t l = 0; l < a->n_layer; l++) {
        if (h->attention[l])
            a->sum += a->attention[l] = read_part(r, glia_forward_rows(r->f, 0, h->attention[l])->data);
        if (h->mlp[l]) a->sum += a->mlp[l] = read_part(r, glia_forward_rows(r->f, 0, h->mlp[l])->data);
        if (h->heads[l] && (st = read_heads(r, h, a, l, err))) return st;
    }
    a->logit = read_part(r, resid) + a->constant;
    a->engine = engine_logit(r->o, logits->data, a);
    return GLIA_OK;
}

glia_status glia_dla_run(glia_dla **out, glia_model *m, const glia_dla_params *p, glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    dla_hooks h = {.position = p->position};
    glia_readout o = {0};
    glia_forward *f = NULL;
    glia_dla *a = dla_new((size_t)info.n_layer);
    reader r = {.o = &o};
    glia_status st;
    *out = NULL;
    if (!a) return glia_fail(err, GLIA_ENOMEM, "no memory for %d layers", (int)info.n_layer);
    a->target = p->target, a->against = p->against;
    if ((st = glia_readout_open(&o, m, p->tokens, p->n_tokens, err))) goto done;
    if ((st = plan(&h, m, a->n_layer, p->heads, err))) goto done;
    glia_forward_case c = {.tokens = p->tokens, .n_tokens = p->n_tokens, .hooks = h.list, .n_hooks = h.n};
    if ((st = glia_forward_run(&f, m, &(glia_forward_params){.cases = &c, .n_cases = 1}, err))) goto done;
    r.f = f;
    if ((st = read_parts(&r, &h, a, err))) goto done;
    *out = a, a = NULL;
done:
    glia_free(r.reading);
    glia_forward_free(f);
    glia_readout_clear(&o);
    plan_clear(&h);
    glia_dla_free(a);
    return st;
}

/* lab/flow.c — the residual stream from layer to layer: see attribution.h. */
#include "analysis/lens.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/attribution.h"
#include "lab/forward.h"
#include <math.h>

void glia_flow_free(glia_flow *f) {
    if (!f) return;
    glia_free(f->positions);
    glia_free(f->norm_pre);
    glia_free(f->norm);
    glia_free(f);
}

static glia_flow *flow_new(size_t n_layer, size_t n_rows) {
    glia_flow *f = glia_calloc(1, sizeof *f);
    size_t n = n_layer * n_rows;
    if (!f) return NULL;
    f->n_layer = n_layer, f->n_rows = n_rows;
    f->positions = glia_malloc((n_rows + 1) * sizeof *f->positions);
    f->norm_pre = glia_malloc((n_rows + 1) * sizeof *f->norm_pre);
    f->norm = glia_malloc((7 * n + 1) * sizeof *f->norm);
    if (!f->positions || !f->norm_pre || !f->norm) {
        glia_flow_free(f);
        return NULL;
    }
    f->cosine = f->norm + n, f->cosine_last = f->cosine + n, f->attention = f->cosine_last + n,
    f->mlp = f->attention + n;
    f->attention_cosine = f->mlp + n, f->mlp_cosine = f->attention_cosine + n;
    return f;
}

static bool has(const glia_model *m, glia_point point, size_t layer) {
    glia_point_info pi;
    return glia_model_point(m, point, (int32_t)layer, &pi) && pi.grade >= GLIA_GRADE_STRUCTURAL;
}

static void add_part(const glia_rows *part, const glia_rows *before, size_t row, float *norm, float *cosine) {
    *norm = *cosine = NAN;
    if (!part) return;
    size_t n = (size_t)part->width;
    *norm = (float)glia_norm_of(part->data + row * n, n);
    *cosine = (float)glia_cosine(part->data + row * n, before->data + row * n, n);
}

static void fill(glia_flow *out, const glia_forward *f, const size_t *attention, const size_t *mlp) {
    size_t n_rows = out->n_rows, n_layer = out->n_layer;
    const glia_rows *last = glia_forward_rows(f, 0, n_layer);
    for (size_t i = 0; i < n_rows; i++) {
        const glia_rows *before = glia_forward_rows(f, 0, 0);
        size_t n = (size_t)before->width;
        out->positions[i] = before->positions[i];
        out->norm_pre[i] = (float)glia_norm_of(before->data + i * n, n);
        for (size_t l = 0; l < n_layer; l++) {
            const glia_rows *after = glia_forward_rows(f, 0, 1 + l);
            size_t at = l * n_rows + i;
            out->norm[at] = (float)glia_norm_of(after->data + i * n, n);
            out->cosine[at] = (float)glia_cosine(after->data + i * n, before->data + i * n, n);
            out->cosine_last[at] = (float)glia_cosine(after->data + i * n, last->data + i * n, n);
            add_part(attention[l] ? glia_forward_rows(f, 0, attention[l]) : NULL, before, i, &out->attention[at],
                     &out->attention_cosine[at]);
            add_part(mlp[l] ? glia_forward_rows(f, 0, mlp[l]) : NULL, before, i, &out->mlp[at], &out->mlp_cosine[at]);
            before = after;
        }
    }
}

glia_status glia_flow_run(glia_flow **out, glia_model *m, const glia_flow_params *p, glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    size_t n_layer = (size_t)info.n_layer, n = 0;
    glia_hook *hooks = glia_calloc(3 * n_layer + 1, sizeof *hooks);
    size_t *attention = glia_calloc(2 * n_layer, sizeof *attention), *mlp = attention + n_layer;
    glia_forward *f = NULL;
    glia_status st = GLIA_OK;
    *out = NULL;
    if (!hooks || !attention) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu layers", n_layer);
        goto done;
    }
    hooks[n++] = (glia_hook){.point = GLIA_POINT_RESID_PRE, .layer = 0};
    for (size_t l = 0; l < n_layer; l++) hooks[n++] = (glia_hook){.point = GLIA_POINT_RESID_POST, .layer = (int32_t)l};
    for (size_t l = 0; l < n_layer; l++) {
        if (has(m, GLIA_POINT_ATTN_OUT_POST, l)) {
            attention[l] = n;
            hooks[n++] = (glia_hook){.point = GLIA_POINT_ATTN_OUT_POST, .layer = (int32_t)l};
        }
        if (has(m, GLIA_POINT_MLP_OUT_POST, l)) {
            mlp[l] = n;
            hooks[n++] = (glia_hook){.point = GLIA_POINT_MLP_OUT_POST, .layer = (int32_t)l};
        }
    }
    for (size_t i = 0; i < n; i++)
        hooks[i].phases = GLIA_PHASE_PROMPT, hooks[i].positions = p->positions, hooks[i].n_positions = p->n_positions;
    glia_forward_case c = {.tokens = p->tokens, .n_tokens = p->n_tokens, .hooks = hooks, .n_hooks = n};
    if ((st = glia_forward_run(&f, m, &(glia_forward_params){.cases = &c, .n_cases = 1}, err))) goto done;
    if (!(*out = flow_new(n_layer, (size_t)glia_forward_rows(f, 0, 0)->n_rows))) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the flow of %zu layers", n_layer);
        goto done;
    }
    fill(*out, f, attention, mlp);
done:
    glia_forward_free(f);
    glia_free(hooks);
    glia_free(attention);
    return st;
}

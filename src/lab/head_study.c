/* lab/head_study.c — see head_study.h.  Layers go through the model in groups whose attention fits GROUP_BYTES. */
#include "lab/head_study.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include "lab/probe_set.h"
#include <math.h>
#include <string.h>

enum { GROUP_BYTES = 256 << 20, MAX_ROLLOUT = 1024 };

typedef struct study {
    glia_model *m;
    const glia_head_study_params *p;
    glia_model_info info;
    glia_head_study *out;
    glia_probe_set probes;
    bool *punctuation;      /* [n_tokens] */
    glia_targets **targets; /* [1 + n_probes] the prompt's first */
    float *mean, *roll,
        *scratch;       /* [n_tokens²] attention of a layer averaged over heads; rollout so far; NULL: no rollout */
    double from, share; /* progress of the group under way */
} study;

void glia_head_study_free(glia_head_study *a) {
    if (!a) return;
    glia_free(a->heads);
    glia_free(a->layers);
    glia_free(a->rollout);
    glia_free(a);
}

static bool tell(const study *s, double fraction) {
    return !s->p->on_progress || s->p->on_progress(s->p->ud, fraction);
}

static bool on_forward(void *ud, size_t n_done, size_t n_total) {
    const study *s = ud;
    return tell(s, s->from + s->share * 0.5 * (double)n_done / (double)(n_total ? n_total : 1));
}

static glia_status cancelled(glia_err *err) { return glia_fail(err, GLIA_ECANCELLED, "cancelled"); }

/* ------------------------------------------------------------------ which layers */

static bool can_read(const study *s, glia_point point, int32_t layer, glia_point_info *out) {
    return glia_model_point(s->m, point, layer, out) && out->grade >= GLIA_GRADE_STRUCTURAL;
}

static glia_status choose_layers(study *s, glia_err *err) {
    glia_point_info pi = {0};
    size_t n = 0, n_all = (size_t)s->info.n_layer;
    if (!(s->out->layers = glia_malloc((n_all + 1) * sizeof *s->out->layers)))
        return glia_fail(err, GLIA_ENOMEM, "no memory");
    for (size_t i = 0; s->p->layers && i < s->p->n_layers; i++) {
        int32_t layer = s->p->layers[i];
        if (!can_read(s, GLIA_POINT_ATTN_PROBS, layer, &pi)) {
            return glia_fail_at(err, GLIA_EHOOK, "layers", "layer %d has no attention that can be read: %s", (int)layer,
                                pi.reason[0] ? pi.reason : "it is not in this model");
        }
        s->out->layers[n++] = layer;
    }
    for (int32_t layer = 0; !s->p->layers && layer < s->info.n_layer; layer++) {
        if (can_read(s, GLIA_POINT_ATTN_PROBS, layer, &pi)) s->out->layers[n++] = layer;
    }
    s->out->n_layers = n;
    if (n) return GLIA_OK;
    return glia_fail_at(err, GLIA_EHOOK, "layers", "no attention of this model can be read: %s",
                        s->info.hooks_refused ? s->info.hooks_refused : pi.reason);
}

static size_t heads_of(const study *s, int32_t layer) {
    glia_point_info pi;
    return can_read(s, GLIA_POINT_ATTN_PROBS, layer, &pi) ? (size_t)pi.n_heads : 0;
}

/* ------------------------------------------------------------------ one head */

static void take_top(const double *weight, size_t n, glia_head_top out[GLIA_HEAD_TOP], size_t *n_out) {
    double sum = 0;
    size_t k = 0;
    for (size_t i = 0; i < n; i++) sum += weight[i];
    for (size_t i = 0; i < n; i++) {
        size_t at = k < GLIA_HEAD_TOP ? k++ : GLIA_HEAD_TOP;
        for (; at > 0 && weight[i] / sum > out[at - 1].weight; at--) {
            if (at < GLIA_HEAD_TOP) out[at] = out[at - 1];
        }
        if (at < GLIA_HEAD_TOP) out[at] = (glia_head_top){(int32_t)i, weight[i] / sum};
    }
    *n_out = sum > 0 ? k : 0;
}

static void weigh_keys(const study *s, const float *a, size_t stride, double *weight) {
    size_t n = s->p->n_tokens;
    memset(weight, 0, n * sizeof *weight);
    for (size_t q = 0; q < n; q++) {
        for (size_t k = 0; k <= q; k++) weight[k] += (double)a[q * stride + k];
    }
}

/* `values`: rows of the layer's value vectors, or NULL. */
static void top_tokens(const study *s, const float *a, size_t stride, const glia_rows *values, int32_t head,
                       int32_t group, double *weight, glia_studied_head *out) {
    size_t n = s->p->n_tokens;
    weigh_keys(s, a, stride, weight);
    take_top(weight, n, out->keys, &out->n_top);
    if (!values || values->n_rows != (int32_t)n || group < 1) return;
    size_t dim = (size_t)values->head_dim, width = (size_t)values->width;
    for (size_t k = 0; k < n; k++) {
        const float *v = values->data + k * width + (size_t)(head / group) * dim;
        double square = 0;
        for (size_t i = 0; i < dim; i++) square += (double)v[i] * (double)v[i];
        weight[k] *= sqrt(square);
    }
    take_top(weight, n, out->values, &out->n_values);
}

/* One head from the forward passes: hook h of every case is its layer's attention. */
static glia_status judge(const study *s, const glia_forward *f, size_t hook, const glia_rows *values, size_t i,
                         double *weight, glia_studied_head *out, glia_err *err) {
    glia_head_rows *rows;
    glia_status st = glia_head_rows_new(&rows, err);
    const glia_rows *first = glia_forward_rows(f, 0, hook);
    out->head = first->heads ? first->heads[i] : (int32_t)i;
    for (size_t c = 0; !st && c < 1 + s->probes.n; c++) {
        const glia_rows *r = glia_forward_rows(f, c, hook);
        size_t n = glia_targets_n(s->targets[c]);
        if ((size_t)r->n_rows != n || (size_t)r->n_cols < n || (size_t)r->n_heads <= i) {
            st = glia_fail(err, GLIA_EINTERNAL, "attention of layer %d came with %d rows of %d columns instead of %zu",
                           (int)out->layer, (int)r->n_rows, (int)r->n_cols, n);
            break;
        }
        st = glia_head_rows_add(rows, s->targets[c], r->data + i * (size_t)r->n_cols, (size_t)r->width, err);
    }
    glia_pattern_params pp = s->p->patterns;
    pp.seed += (uint64_t)out->layer * 1000003u + (uint64_t)out->head;
    if (!st) st = glia_head_judge(rows, &pp, &out->verdict, err);
    if (!st) {
        top_tokens(s, first->data + i * (size_t)first->n_cols, (size_t)first->width, values, out->head, first->group,
                   weight, out);
    }
    glia_head_rows_free(rows);
    return st;
}

/* ------------------------------------------------------------------ rollout */

static void roll(study *s, const glia_rows *r) {
    size_t n = s->p->n_tokens, heads = (size_t)r->n_heads;
    if (!s->roll) return;
    memset(s->mean, 0, n * n * sizeof *s->mean);
    for (size_t q = 0; q < n; q++) {
        for (size_t h = 0; h < heads; h++) {
            const float *a = r->data + q * (size_t)r->width + h * (size_t)r->n_cols;
            for (size_t k = 0; k <= q; k++) s->mean[q * n + k] += a[k] / (float)heads;
        }
    }
    glia_rollout_step(s->mean, n, s->roll, s->scratch);
}

static glia_status begin_rollout(study *s, glia_err *err) {
    size_t n = s->p->n_tokens;
    if (s->out->n_layers != (size_t)s->info.n_layer || n > MAX_ROLLOUT) return GLIA_OK;
    s->mean = glia_malloc(n * n * sizeof *s->mean);
    s->roll = glia_calloc(n * n, sizeof *s->roll);
    s->scratch = glia_malloc(n * n * sizeof *s->scratch);
    if (!s->mean || !s->roll || !s->scratch)
        return glia_fail(err, GLIA_ENOMEM, "no memory for the rollout of %zu tokens", n);
    for (size_t i = 0; i < n; i++) s->roll[i * n + i] = 1;
    return GLIA_OK;
}

static glia_status end_rollout(study *s, glia_err *err) {
    size_t n = s->p->n_tokens;
    double sum = 0;
    if (!s->roll) return GLIA_OK;
    if (!(s->out->rollout = glia_malloc(n * sizeof *s->out->rollout))) return glia_fail(err, GLIA_ENOMEM, "no memory");
    const float *last = s->roll + (n - 1) * n;
    for (size_t k = 0; k < n; k++) sum += (double)last[k];
    for (size_t k = 0; k < n; k++)
        s->out->rollout[k] = (double)last[k] / sum; /* sinks leave rows that sum to less than 1 */
    return GLIA_OK;
}

/* ------------------------------------------------------------------ groups of layers */

static glia_status run_group(study *s, const int32_t *layers, size_t n, glia_err *err) {
    size_t n_cases = 1 + s->probes.n, n_hooks = 0;
    glia_hook *hooks = glia_calloc(2 * n, sizeof *hooks); /* attention of every layer; values behind */
    size_t *value_at = glia_calloc(n, sizeof *value_at);
    glia_forward_case *cases = glia_calloc(n_cases, sizeof *cases);
    double *weight = glia_malloc((s->p->n_tokens + 1) * sizeof *weight);
    glia_forward *f = NULL;
    glia_point_info pi;
    glia_status st = GLIA_OK;
    if (!hooks || !value_at || !cases || !weight) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the attention of %zu layers", n);
        goto done;
    }
    for (size_t i = 0; i < n; i++)
        hooks[n_hooks++] = (glia_hook){.point = GLIA_POINT_ATTN_PROBS, .layer = layers[i], .phases = GLIA_PHASE_PROMPT};
    for (size_t i = 0; i < n; i++) {
        if (!can_read(s, GLIA_POINT_VALUE, layers[i], &pi)) continue;
        value_at[i] = n_hooks;
        hooks[n_hooks++] = (glia_hook){.point = GLIA_POINT_VALUE, .layer = layers[i], .phases = GLIA_PHASE_PROMPT};
    }
    for (size_t c = 0; c < n_cases; c++) {
        cases[c] = (glia_forward_case){.tokens = c ? s->probes.tokens + (c - 1) * s->probes.length : s->p->tokens,
                                       .n_tokens = c ? s->probes.length : s->p->n_tokens,
                                       .hooks = hooks,
                                       .n_hooks = c ? n : n_hooks};
    }
    st = glia_forward_run(
        &f, s->m, &(glia_forward_params){.cases = cases, .n_cases = n_cases, .on_progress = on_forward, .ud = s}, err);
    for (size_t i = 0; i < n && !st; i++) {
        size_t heads = heads_of(s, layers[i]);
        for (size_t h = 0; h < heads && !st; h++) {
            glia_studied_head *out = &s->out->heads[s->out->n_heads++];
            *out = (glia_studied_head){.layer = layers[i]};
            if (!tell(s, s->from + s->share * (0.5 + 0.5 * (double)i / (double)n))) st = cancelled(err);
            if (st) break;
            st = judge(s, f, i, value_at[i] ? glia_forward_rows(f, 0, value_at[i]) : NULL, h, weight, out, err);
        }
        if (!st) roll(s, glia_forward_rows(f, 0, i));
    }
done:
    glia_forward_free(f);
    glia_free(hooks);
    glia_free(value_at);
    glia_free(cases);
    glia_free(weight);
    return st;
}

static glia_status run_layers(study *s, glia_err *err) {
    size_t n_all = s->out->n_layers, i = 0;
    glia_status st = GLIA_OK;
    while (i < n_all && !st) {
        size_t n = 0;
        double bytes = 0;
        do {
            double t = (double)s->p->n_tokens, l = (double)s->probes.length;
            bytes += 4 * (double)heads_of(s, s->out->layers[i + n]) * (t * t + (double)s->probes.n * l * l);
            n++;
        } while (i + n < n_all && bytes < GROUP_BYTES);
        s->from = (double)i / (double)n_all, s->share = (double)n / (double)n_all;
        st = run_group(s, s->out->layers + i, n, err);
        i += n;
    }
    return st;
}

static glia_status prepare(study *s, glia_err *err) {
    const glia_head_study_params *p = s->p;
    glia_rng g = {p->patterns.seed ^ 0x70726f6265u};
    size_t n_heads = 0;
    glia_status st = choose_layers(s, err);
    if (st) return st;
    for (size_t i = 0; i < s->out->n_layers; i++) n_heads += heads_of(s, s->out->layers[i]);
    s->out->heads = glia_calloc(n_heads + 1, sizeof *s->out->heads);
    s->punctuation = glia_calloc(p->n_tokens + 1, sizeof *s->punctuation);
    s->targets = glia_calloc(1 + p->n_probes, sizeof *s->targets);
    if (!s->out->heads || !s->punctuation || !s->targets)
        return glia_fail(err, GLIA_ENOMEM, "no memory for %zu heads", n_heads);
    if (p->n_probes && (st = glia_probe_set_make(&s->probes, s->m, p->n_probes, p->probe_half, &g, err))) return st;
    if ((st = glia_find_punctuation(s->m, p->tokens, p->n_tokens, s->punctuation, err))) return st;
    if ((st = glia_targets_new(&s->targets[0], p->tokens, s->punctuation, p->n_tokens, true, err))) return st;
    for (size_t i = 0; i < s->probes.n; i++) {
        st = glia_targets_new(&s->targets[i + 1], s->probes.tokens + i * s->probes.length, NULL, s->probes.length,
                              false, err);
        if (st) return st;
    }
    return begin_rollout(s, err);
}

glia_status glia_head_study_run(glia_head_study **out, glia_model *m, const glia_head_study_params *p, glia_err *err) {
    study s = {.m = m, .p = p};
    glia_status st = GLIA_OK;
    *out = NULL;
    glia_model_get_info(m, &s.info);
    if (p->n_tokens < 2)
        return glia_fail_at(err, GLIA_EINVAL, "prompt", "attention needs a prompt of at least 2 tokens");
    if (!(s.out = glia_calloc(1, sizeof *s.out))) return glia_fail(err, GLIA_ENOMEM, "no memory");
    if ((st = prepare(&s, err))) goto done;
    s.out->n_tokens = p->n_tokens, s.out->n_probes = s.probes.n, s.out->probe_length = s.probes.length;
    if ((st = run_layers(&s, err))) goto done;
    if ((st = end_rollout(&s, err))) goto done;
    *out = s.out, s.out = NULL;
done:
    for (size_t i = 0; s.targets && i < 1 + p->n_probes; i++) glia_targets_free(s.targets[i]);
    glia_free(s.targets);
    glia_free(s.punctuation);
    glia_free(s.mean);
    glia_free(s.roll);
    glia_free(s.scratch);
    glia_probe_set_clear(&s.probes);
    glia_head_study_free(s.out);
    return st;
}

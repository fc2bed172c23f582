/* lab/circuits.c — see circuits.h.  Sample by sample: its own and the other run once, then one case for each part. */
#include "lab/circuits.h"
#include "analysis/lens.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include <math.h>
#include <string.h>

void glia_effects_free(glia_effects *e) {
    if (!e) return;
    glia_free(e->base);
    glia_free(e->clean);
    glia_free(e->effect);
    glia_free(e);
}

static glia_point point_of(glia_part_kind kind) {
    return kind == GLIA_PART_HEAD ? GLIA_POINT_Z : kind == GLIA_PART_MLP ? GLIA_POINT_MLP_OUT : GLIA_POINT_ATTN_OUT;
}

static bool has(const glia_model *m, glia_point point, int32_t layer, glia_point_info *pi) {
    return glia_model_point(m, point, layer, pi) && pi->grade >= GLIA_GRADE_STRUCTURAL;
}

glia_status glia_parts_list(glia_part **out, size_t *n, const glia_model *m, const int32_t *layers, size_t n_layers,
                            bool attention, bool mlp, bool heads, glia_err *err) {
    glia_model_info info;
    glia_point_info pi;
    glia_model_get_info(m, &info);
    size_t cap = 0, count = layers ? n_layers : (size_t)info.n_layer;
    *out = NULL, *n = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t layer = layers ? layers[i] : (int32_t)i;
        cap += 2 + (has(m, GLIA_POINT_Z, layer, &pi) ? (size_t)pi.n_heads : 0);
    }
    glia_part *parts = glia_malloc((cap + 1) * sizeof *parts);
    if (!parts) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu parts", cap);
    for (size_t i = 0; i < count; i++) {
        int32_t layer = layers ? layers[i] : (int32_t)i;
        if (attention && has(m, GLIA_POINT_ATTN_OUT, layer, &pi))
            parts[(*n)++] = (glia_part){GLIA_PART_ATTENTION, layer, -1};
        if (mlp && has(m, GLIA_POINT_MLP_OUT, layer, &pi)) parts[(*n)++] = (glia_part){GLIA_PART_MLP, layer, -1};
        bool z = heads && has(m, GLIA_POINT_Z, layer, &pi);
        for (int32_t h = 0; z && h < pi.n_heads; h++) parts[(*n)++] = (glia_part){GLIA_PART_HEAD, layer, h};
    }
    *out = parts;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ metric */

typedef struct circuit_run {
    glia_model *m;
    const glia_effects_params *p;
    glia_effects *e;
    size_t *first; /* [n_samples] observation of each */
    int64_t *at;   /* reading positions of the sample under way */
    /* rows of the parts' points, from another run or averaged: hook of each [kind][layer], SIZE_MAX: none */
    glia_hook *hooks;
    size_t n_hooks, *hook_of;
    float **mean; /* [n_hooks] MEAN */
    glia_model_info info;
    /* progress */
    double from, share;
    /* the forward pass under way */
    size_t sample;
    const glia_forward *rows; /* of it, PATCH and RESTORE */
    double *out;              /* NULL: effects */
} circuit_run;

static double log_p(const float *logits, size_t n, double log_sum, int32_t token) {
    return token >= 0 && (size_t)token < n ? (double)logits[token] - log_sum : (double)NAN;
}

/* The metric of a sample's logits: one observation, or one a reading. */
static void measure(const glia_sample *s, bool each, const glia_rows *logits, double *out) {
    double sum = 0;
    size_t n = (size_t)logits->width;
    for (size_t i = 0; i < s->n_readings; i++) {
        const float *row = logits->data + i * n;
        double log_sum = glia_logits_read(row, n).log_sum, x = log_p(row, n, log_sum, s->target[i]);
        if (s->against) x -= log_p(row, n, log_sum, s->against[i]);
        if (each) out[i] = x;
        sum += x;
    }
    if (!each) *out = sum / (double)s->n_readings;
}

static bool on_forward(void *ud, size_t n_done, size_t n_total) {
    const circuit_run *r = ud;
    double part = (double)n_done / (double)(n_total ? n_total : 1);
    return !r->p->on_progress || r->p->on_progress(r->p->ud, r->from + r->share * part);
}

static glia_hook logits_of(circuit_run *r, const glia_sample *s) {
    for (size_t i = 0; i < s->n_readings; i++) r->at[i] = s->at[i];
    return (glia_hook){
        .point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_PROMPT, .positions = r->at, .n_positions = s->n_readings};
}

static glia_status check_logits(const glia_rows *logits, const glia_sample *s, glia_err *err) {
    if ((size_t)logits->n_rows == s->n_readings) return GLIA_OK;
    return glia_fail(err, GLIA_EINTERNAL, "%zu rows of logits were asked for, %d came", s->n_readings,
                     (int)logits->n_rows);
}

/* ------------------------------------------------------------------ what parts are replaced by */

static size_t hook_index(const circuit_run *r, const glia_part *part) {
    return r->hook_of[(size_t)point_of(part->kind) * (size_t)r->info.n_layer + (size_t)part->layer];
}

/* One hook for each point and layer that a part lies at. */
static glia_status plan_hooks(circuit_run *r, glia_err *err) {
    size_t n = (size_t)GLIA_N_POINTS * (size_t)r->info.n_layer;
    r->hook_of = glia_malloc(n * sizeof *r->hook_of);
    r->hooks = glia_calloc(r->p->n_parts + 1, sizeof *r->hooks);
    if (!r->hook_of || !r->hooks) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu parts", r->p->n_parts);
    for (size_t i = 0; i < n; i++) r->hook_of[i] = SIZE_MAX;
    for (size_t i = 0; i < r->p->n_parts; i++) {
        const glia_part *part = &r->p->parts[i];
        size_t *at = &r->hook_of[(size_t)point_of(part->kind) * (size_t)r->info.n_layer + (size_t)part->layer];
        if (*at != SIZE_MAX) continue;
        *at = r->n_hooks;
        r->hooks[r->n_hooks++] =
            (glia_hook){.point = point_of(part->kind), .layer = part->layer, .phases = GLIA_PHASE_PROMPT};
    }
    return GLIA_OK;
}

/* Means of the parts' outputs over all rows of all samples. */
static glia_status take_means(circuit_run *r, glia_err *err) {
    const glia_effects_params *p = r->p;
    size_t rows = 0;
    if (!(r->mean = glia_calloc(r->n_hooks + 1, sizeof *r->mean)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for means");
    for (size_t h = 0; h < r->n_hooks; h++) r->hooks[h].reduce = (glia_reduce){.op = GLIA_REDUCE_MEAN};
    for (size_t s = 0; s < p->n_samples; s++) {
        glia_forward *f;
        glia_forward_case c = {
            p->samples[s].tokens, p->samples[s].n_tokens, r->hooks, r->n_hooks, NULL, 0, 0, false, false};
        glia_status st = glia_forward_run(&f, r->m, &(glia_forward_params){.cases = &c, .n_cases = 1}, err);
        if (st) return st;
        for (size_t h = 0; h < r->n_hooks && !st; h++) {
            const glia_rows *got = glia_forward_rows(f, 0, h);
            size_t n = (size_t)got->width;
            if (!r->mean[h] && !(r->mean[h] = glia_calloc(n, sizeof **r->mean)))
                st = glia_fail(err, GLIA_ENOMEM, "no memory for means");
            for (size_t i = 0; i < n && !st; i++) r->mean[h][i] += got->data[i] * (float)c.n_tokens;
        }
        glia_forward_free(f);
        if (st) return st;
        rows += c.n_tokens;
    }
    for (size_t h = 0; h < r->n_hooks; h++) {
        glia_point_info pi;
        (void)glia_model_point(r->m, r->hooks[h].point, r->hooks[h].layer, &pi);
        for (int32_t i = 0; i < pi.width; i++) r->mean[h][i] /= (float)rows;
        r->hooks[h].reduce = (glia_reduce){0};
    }
    return GLIA_OK;
}

typedef struct change {
    glia_edit edits[2]; /* the disturbed input of RESTORE first */
    size_t n;
    int32_t head;
    float *rows; /* owned: a head's columns */
} change;

/* Columns of one head, row by row. */
static float *head_columns(const float *data, size_t n_rows, size_t width, size_t head, size_t dim) {
    float *out = glia_malloc(n_rows * dim * sizeof *out);
    for (size_t i = 0; out && i < n_rows; i++) memcpy(out + i * dim, data + i * width + head * dim, dim * sizeof *out);
    return out;
}

static glia_status set_rows(const circuit_run *r, const glia_part *part, change *c, glia_edit *e, glia_err *err) {
    glia_point_info pi;
    bool mean = r->p->cut == GLIA_CUT_MEAN;
    const glia_rows *rows = mean ? NULL : glia_forward_rows(r->rows, 0, hook_index(r, part));
    (void)glia_model_point(r->m, e->where.point, part->layer, &pi);
    const float *data = mean ? r->mean[hook_index(r, part)] : rows->data;
    e->op = GLIA_EDIT_SET;
    e->n_rows = mean ? 1 : (size_t)rows->n_rows, e->n_channels = (size_t)pi.width, e->rows = data;
    if (part->kind != GLIA_PART_HEAD) return GLIA_OK;
    e->n_channels = (size_t)pi.head_dim;
    e->rows = c->rows = head_columns(data, e->n_rows, (size_t)pi.width, (size_t)part->head, e->n_channels);
    return c->rows ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for the rows of a head");
}

static glia_status make_change(const circuit_run *r, const glia_sample *s, const glia_part *part, uint64_t seed,
                               change *c, glia_err *err) {
    *c = (change){.head = part->head};
    if (s->noised) {
        c->edits[c->n++] = (glia_edit){.where = {.point = GLIA_POINT_RESID_PRE, .phases = GLIA_PHASE_PROMPT},
                                       .op = GLIA_EDIT_SET,
                                       .rows = s->noised,
                                       .n_rows = s->n_tokens,
                                       .n_channels = (size_t)r->info.n_embd};
    }
    glia_edit *e = &c->edits[c->n++];
    *e = (glia_edit){.where = {.point = point_of(part->kind), .layer = part->layer, .phases = GLIA_PHASE_PROMPT},
                     .op = GLIA_EDIT_ZERO,
                     .strength = r->p->strength,
                     .seed = seed};
    if (part->kind == GLIA_PART_HEAD) e->where.heads = &c->head, e->where.n_heads = 1;
    switch (r->p->cut) {
    case GLIA_CUT_ZERO: break;
    case GLIA_CUT_RANDOM: e->op = GLIA_EDIT_RANDOM; break;
    case GLIA_CUT_NOISE: e->op = GLIA_EDIT_NOISE; break;
    case GLIA_CUT_SCALE: e->op = GLIA_EDIT_SCALE; break;
    default: return set_rows(r, part, c, e, err);
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ runs */

static glia_status take_metric(void *ud, size_t index, const glia_forward_result *res, glia_err *err) {
    circuit_run *r = ud;
    const glia_sample *s = &r->p->samples[r->sample];
    glia_status st = check_logits(&res->rows[0], s, err);
    if (st) return st;
    size_t n_obs = r->p->each_reading ? s->n_readings : 1, first = r->first[r->sample];
    double *out = r->out ? r->out + first : r->e->effect + index * r->e->n_obs + first;
    measure(s, r->p->each_reading, &res->rows[0], out);
    for (size_t i = 0; i < n_obs && !r->out; i++) {
        double base = r->e->base[first + i];
        out[i] = r->p->cut == GLIA_CUT_RESTORE ? out[i] - base : base - out[i];
    }
    return GLIA_OK;
}

/* The metric of sample r->sample run as these tokens, with an edit or without. */
static glia_status run_plain(circuit_run *r, const int32_t *tokens, const glia_edit *edit, double *out, glia_err *err) {
    const glia_sample *s = &r->p->samples[r->sample];
    glia_hook logits = logits_of(r, s);
    glia_forward_case c = {.tokens = tokens,
                           .n_tokens = s->n_tokens,
                           .hooks = &logits,
                           .n_hooks = 1,
                           .edits = edit,
                           .n_edits = edit != NULL};
    glia_forward *f;
    r->out = out;
    glia_status st = glia_forward_run(
        &f, r->m, &(glia_forward_params){.cases = &c, .n_cases = 1, .on_case = take_metric, .ud = r}, err);
    r->out = NULL;
    glia_forward_free(f);
    return st;
}

static glia_status run_bases(circuit_run *r, glia_err *err) {
    const glia_sample *s = &r->p->samples[r->sample];
    glia_status st = run_plain(r, s->tokens, NULL, r->e->clean, err);
    size_t first = r->first[r->sample], n = r->p->each_reading ? s->n_readings : 1;
    if (st) return st;
    if (r->p->cut != GLIA_CUT_RESTORE) {
        memcpy(r->e->base + first, r->e->clean + first, n * sizeof *r->e->base);
        return GLIA_OK;
    }
    glia_edit noise = {.where = {.point = GLIA_POINT_RESID_PRE, .phases = GLIA_PHASE_PROMPT},
                       .op = GLIA_EDIT_SET,
                       .rows = s->noised,
                       .n_rows = s->n_tokens,
                       .n_channels = (size_t)r->info.n_embd};
    return run_plain(r, s->noised ? s->tokens : s->other, s->noised ? &noise : NULL, r->e->base, err);
}

/* Rows of every part in the run that is patched from. */
static glia_status run_source(circuit_run *r, glia_forward **f, glia_err *err) {
    const glia_sample *s = &r->p->samples[r->sample];
    const int32_t *tokens = r->p->cut == GLIA_CUT_PATCH ? s->other : s->tokens;
    glia_forward_case c = {.tokens = tokens, .n_tokens = s->n_tokens, .hooks = r->hooks, .n_hooks = r->n_hooks};
    return glia_forward_run(f, r->m, &(glia_forward_params){.cases = &c, .n_cases = 1}, err);
}

static glia_status run_parts(circuit_run *r, glia_err *err) {
    const glia_effects_params *p = r->p;
    const glia_sample *s = &p->samples[r->sample];
    change *changes = glia_calloc(p->n_parts, sizeof *changes);
    glia_forward_case *cases = glia_calloc(p->n_parts, sizeof *cases);
    glia_hook logits = logits_of(r, s);
    glia_forward *f = NULL;
    glia_status st = changes && cases ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu parts", p->n_parts);
    bool as_other = p->cut == GLIA_CUT_RESTORE && !s->noised;
    for (size_t i = 0; i < p->n_parts && !st; i++) {
        st = make_change(r, s, &p->parts[i], p->seed + i * p->n_samples + r->sample, &changes[i], err);
        cases[i] = (glia_forward_case){.tokens = as_other ? s->other : s->tokens,
                                       .n_tokens = s->n_tokens,
                                       .hooks = &logits,
                                       .n_hooks = 1,
                                       .edits = changes[i].edits,
                                       .n_edits = changes[i].n};
    }
    if (!st) {
        st = glia_forward_run(
            &f, r->m,
            &(glia_forward_params){
                .cases = cases, .n_cases = p->n_parts, .on_progress = on_forward, .on_case = take_metric, .ud = r},
            err);
    }
    glia_forward_free(f);
    for (size_t i = 0; changes && i < p->n_parts; i++) glia_free(changes[i].rows);
    glia_free(changes);
    glia_free(cases);
    return st;
}

static glia_status check_samples(const glia_effects_params *p, glia_err *err) {
    if (!p->n_samples) return glia_fail(err, GLIA_EINVAL, "no samples");
    for (size_t i = 0; i < p->n_samples; i++) {
        const glia_sample *s = &p->samples[i];
        bool lacks = p->cut == GLIA_CUT_PATCH ? !s->other : p->cut == GLIA_CUT_RESTORE && !s->other && !s->noised;
        if (lacks) return glia_fail(err, GLIA_EINVAL, "patching needs another prompt of as many tokens");
        if (!s->n_readings || !s->n_tokens) return glia_fail(err, GLIA_EINVAL, "sample %zu has nothing to read", i);
    }
    return GLIA_OK;
}

static glia_status prepare(circuit_run *r, glia_err *err) {
    const glia_effects_params *p = r->p;
    size_t n_obs = 0, most = 0;
    glia_model_get_info(r->m, &r->info);
    glia_status st = check_samples(p, err);
    if (st) return st;
    r->first = glia_malloc(p->n_samples * sizeof *r->first);
    for (size_t i = 0; r->first && i < p->n_samples; i++) {
        r->first[i] = n_obs, n_obs += p->each_reading ? p->samples[i].n_readings : 1;
        if (p->samples[i].n_readings > most) most = p->samples[i].n_readings;
    }
    r->at = glia_malloc(most * sizeof *r->at);
    r->e = glia_calloc(1, sizeof *r->e);
    if (r->e) {
        r->e->n_parts = p->n_parts, r->e->n_obs = n_obs;
        r->e->base = glia_malloc(n_obs * sizeof *r->e->base);
        r->e->clean = glia_malloc(n_obs * sizeof *r->e->clean);
        r->e->effect = glia_malloc((n_obs * p->n_parts + 1) * sizeof *r->e->effect);
    }
    if (!r->first || !r->at || !r->e || !r->e->base || !r->e->clean || !r->e->effect)
        return glia_fail(err, GLIA_ENOMEM, "no memory for %zu × %zu effects", p->n_parts, n_obs);
    return plan_hooks(r, err);
}

static void run_clear(circuit_run *r) {
    for (size_t h = 0; r->mean && h < r->n_hooks; h++) glia_free(r->mean[h]);
    glia_free(r->mean);
    glia_free(r->hooks);
    glia_free(r->hook_of);
    glia_free(r->first);
    glia_free(r->at);
    glia_effects_free(r->e);
}

glia_status glia_effects_run(glia_effects **out, glia_model *m, const glia_effects_params *p, glia_err *err) {
    circuit_run r = {.m = m, .p = p};
    *out = NULL;
    glia_status st = prepare(&r, err);
    if (!st && p->cut == GLIA_CUT_MEAN) st = take_means(&r, err);
    for (r.sample = 0; r.sample < p->n_samples && !st; r.sample++) {
        glia_forward *source = NULL;
        r.from = (double)r.sample / (double)p->n_samples, r.share = 1 / (double)p->n_samples;
        st = run_bases(&r, err);
        if (!st && p->n_parts && (p->cut == GLIA_CUT_PATCH || p->cut == GLIA_CUT_RESTORE))
            st = run_source(&r, &source, err);
        r.rows = source;
        if (!st && p->n_parts) st = run_parts(&r, err);
        r.rows = NULL;
        glia_forward_free(source);
    }
    if (!st) *out = r.e, r.e = NULL;
    run_clear(&r);
    return st;
}

glia_status glia_effects_judge(const glia_effects *e, const glia_judge_params *p, glia_part_verdict *out,
                               glia_err *err) {
    double *means = glia_malloc((p->n_boot + 1) * sizeof *means), *q = glia_malloc(e->n_parts * sizeof *q);
    size_t *order = glia_malloc(e->n_parts * sizeof *order);
    glia_status st =
        means && q && order ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu resamples", p->n_boot);
    for (size_t i = 0; i < e->n_parts && !st; i++) {
        const double *x = e->effect + i * e->n_obs;
        glia_rng g = {p->seed + i};
        out[i] = (glia_part_verdict){.effect = glia_mean(x, e->n_obs), .p = (double)NAN};
        glia_bootstrap_mean(x, e->n_obs, e->n_obs > 1 ? p->n_boot : 0, p->level, &g, means, &out[i].low, &out[i].high);
        if (e->n_obs > 1) out[i].p = glia_sign_flip_p(x, e->n_obs, p->n_perm, &g, NULL);
        q[i] = out[i].p;
    }
    if (!st) glia_adjust_p(q, e->n_parts, p->correction, order);
    for (size_t i = 0; i < e->n_parts && !st; i++) out[i].adjusted = q[i];
    glia_free(means);
    glia_free(q);
    glia_free(order);
    return st;
}

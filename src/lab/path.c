/* lab/path.c — see path.h.  Two rounds of forward.h: senders changed and the rest held, then receivers changed. */
#include "lab/path.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* One sender. */
typedef struct sender {
    size_t grid, at; /* whose value it is */
    int32_t layer, head; /* head -1: the whole point */
    float *rows;     /* [n_changed, part] of the other run; owned */
    glia_edit *edits; /* the sender and what is held; owned */
    size_t n_edits;
    glia_edit *received; /* [n_to] of the second round; owned */
} sender;

typedef struct path {
    const glia_path_params *p;
    glia_model *m;
    glia_model_info info;
    glia_sweep *out;
    const int32_t *base, *other;
    size_t n, first; /* tokens; the first that differs */
    int64_t *changed; /* [n - first] */
    int32_t *heads;   /* 0, 1, 2, … */
    size_t n_heads;
    int32_t *channels;
    glia_hook logits;
    glia_hook *base_hooks, *other_hooks;
    size_t n_base, n_other;
    glia_forward *runs; /* 0: base, 1: other */
    float *clean_row;
    sender *senders;
    size_t n_senders;
    glia_hook *receivers; /* [n_to] */
    glia_forward *arrived; /* what the receivers got, a case a sender */
    size_t n_rounds;      /* cases of both rounds together, for progress */
    size_t done_before;
} path;

static const int64_t last_position = -1;

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool by_head(const glia_sweep_grid *g) { return g->by == GLIA_BY_HEAD; }

static void clear(path *s) {
    for (size_t i = 0; s->senders && i < s->n_senders; i++) {
        glia_free(s->senders[i].rows);
        glia_free(s->senders[i].edits);
        glia_free(s->senders[i].received);
    }
    glia_free(s->senders);
    glia_forward_free(s->runs);
    glia_forward_free(s->arrived);
    glia_free(s->changed);
    glia_free(s->heads);
    glia_free(s->channels);
    glia_free(s->base_hooks);
    glia_free(s->other_hooks);
    glia_free(s->receivers);
    glia_sweep_free(s->out);
}

/* ------------------------------------------------------------------ checking */

static bool proven(const path *s, glia_point p, int32_t layer, glia_point_info *pi) {
    return glia_model_point(s->m, p, layer, pi) && pi->grade == GLIA_GRADE_PROVEN;
}

/* The layer that what a sender changes must lie before. */
static int32_t end_layer(const path *s) {
    int32_t end = s->info.n_layer;
    for (size_t i = 0; i < s->p->n_to; i++) end = s->p->to[i].layer < end ? s->p->to[i].layer : end;
    return end;
}

static glia_status check_receivers(const path *s, glia_err *err) {
    if (s->p->n_to > GLIA_PATH_MAX_RECEIVERS) return glia_fail_at(err, GLIA_EINVAL, "path.to", "at most 64 receivers");
    for (size_t i = 0; i < s->p->n_to; i++) {
        const glia_path_receiver *r = &s->p->to[i];
        char param[40];
        glia_point_info pi;
        (void)snprintf(param, sizeof param, "path.to[%zu]", i);
        if (r->point != GLIA_POINT_Q && r->point != GLIA_POINT_K && r->point != GLIA_POINT_VALUE && r->point != GLIA_POINT_MLP_IN &&
            r->point != GLIA_POINT_ATTN_IN && r->point != GLIA_POINT_RESID_PRE) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: a receiver is q, k, value, attn_in, mlp_in or resid_pre, not %s", param,
                                glia_point_name(r->point));
        }
        if (!glia_model_point(s->m, r->point, r->layer, &pi)) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: layer %d does not exist", param, (int)r->layer);
        }
        if (pi.grade != GLIA_GRADE_PROVEN) {
            return glia_fail_at(err, GLIA_EHOOK, param, "%s: %s at layer %d is %s: %s", param, glia_point_name(r->point), (int)r->layer,
                                glia_grade_name(pi.grade), pi.reason);
        }
        if (r->head >= 0 && r->head >= pi.n_heads) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: %s has %d heads", param, glia_point_name(r->point), (int)pi.n_heads);
        }
    }
    return GLIA_OK;
}

static glia_status check(path *s, glia_err *err) {
    const glia_sweep_params *q = &s->p->sweep;
    if (q->op != GLIA_SWEEP_DENOISE && q->op != GLIA_SWEEP_NOISE)
        return glia_fail_at(err, GLIA_EINVAL, "op", "a path is patched: op is denoise or noise");
    if (!q->clean || !q->n_clean) return glia_fail_at(err, GLIA_EINVAL, "clean", "clean has no tokens");
    if (!q->corrupted || q->n_clean != q->n_corrupted) {
        return glia_fail_at(err, GLIA_EINVAL, "corrupted", "corrupted must have as many tokens as clean (%zu)", q->n_clean);
    }
    if (q->positions) return glia_fail_at(err, GLIA_EINVAL, "positions", "a path takes all positions: leave positions out");
    glia_status st = glia_metric_check(&q->metric, s->info.n_vocab, err);
    return st ? st : check_receivers(s, err);
}

static glia_status plan_grids(path *s, glia_err *err) {
    const glia_sweep_params *q = &s->p->sweep;
    glia_sweep *o = s->out;
    o->n_layers = q->layers ? q->n_layers : (size_t)s->info.n_layer;
    o->layers = glia_malloc((o->n_layers + 1) * sizeof *o->layers);
    o->positions = glia_malloc((s->n + 1) * sizeof *o->positions);
    if (!o->layers || !o->positions) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
    for (size_t i = 0; i < o->n_layers; i++) {
        o->layers[i] = q->layers ? q->layers[i] : (int32_t)i;
        if (o->layers[i] < 0 || o->layers[i] >= s->info.n_layer)
            return glia_fail_at(err, GLIA_EINVAL, "layers", "layers run from 0 to %d", (int)s->info.n_layer - 1);
    }
    for (; o->n_positions < s->n; o->n_positions++) o->positions[o->n_positions] = (int32_t)o->n_positions;
    for (size_t g = 0; g < q->n_grids; g++) {
        glia_sweep_values *v = &o->grids[o->n_grids++];
        char param[40];
        glia_point_info pi;
        (void)snprintf(param, sizeof param, "sweeps[%zu].component", g);
        v->grid = q->grids[g], v->n_heads = v->n_positions = 1;
        bool z = v->grid.point == GLIA_POINT_Z, whole = z || v->grid.point == GLIA_POINT_ATTN_OUT || v->grid.point == GLIA_POINT_MLP_OUT;
        if (!(v->grid.by == GLIA_BY_LAYER && whole) && !(by_head(&v->grid) && z)) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: senders are z by head, or z, attn_out and mlp_out by layer", param);
        }
        bool any = false;
        for (size_t i = 0; i < o->n_layers; i++) {
            if (!proven(s, v->grid.point, o->layers[i], &pi)) continue;
            any = true;
            if (by_head(&v->grid) && pi.n_heads > v->n_heads) v->n_heads = pi.n_heads;
        }
        if (!any) {
            return glia_fail_at(err, GLIA_EHOOK, param, "%s: no layer has %s graded proven", param, glia_point_name(v->grid.point));
        }
        size_t n = o->n_layers * (size_t)v->n_heads;
        if ((size_t)v->n_heads > s->n_heads) s->n_heads = (size_t)v->n_heads;
        v->values = glia_malloc(n * sizeof *v->values), v->recovered = glia_malloc(n * sizeof *v->recovered);
        if (!v->values || !v->recovered) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
        for (size_t i = 0; i < n; i++) v->values[i] = NAN;
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ the unchanged runs */

static size_t add_hook(glia_hook *list, size_t *n, glia_point point, int32_t layer) {
    list[*n] = (glia_hook){.point = point, .layer = layer, .phases = GLIA_PHASE_PROMPT};
    return (*n)++;
}

/* Rows of a point at a layer that a run was hooked for; NULL: it was not. */
static const glia_rows *rows_of(const path *s, size_t run, glia_point point, int32_t layer) {
    const glia_hook *h = run ? s->other_hooks : s->base_hooks;
    for (size_t i = 0; i < (run ? s->n_other : s->n_base); i++) {
        if (h[i].point == point && h[i].layer == layer) return glia_forward_rows(s->runs, run, i);
    }
    return NULL;
}

static double metric_of(const path *s, const glia_rows *r) {
    return glia_metric_of(&s->p->sweep.metric, r->data, (size_t)r->width, s->clean_row);
}

static glia_status run_unchanged(path *s, glia_err *err) {
    const glia_sweep *o = s->out;
    size_t layers = (size_t)s->info.n_layer;
    s->base_hooks = glia_calloc(2 * layers + 1, sizeof *s->base_hooks);
    s->other_hooks = glia_calloc(o->n_grids * o->n_layers + 1, sizeof *s->other_hooks);
    if (!s->base_hooks || !s->other_hooks) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
    glia_point_info pi;
    for (int32_t l = 0; l < end_layer(s); l++) {
        if (proven(s, GLIA_POINT_ATTN_OUT, l, &pi)) (void)add_hook(s->base_hooks, &s->n_base, GLIA_POINT_ATTN_OUT, l);
        if (proven(s, GLIA_POINT_MLP_OUT, l, &pi)) (void)add_hook(s->base_hooks, &s->n_base, GLIA_POINT_MLP_OUT, l);
    }
    for (size_t g = 0; g < o->n_grids; g++) {
        for (size_t i = 0; i < o->n_layers; i++) {
            if (proven(s, o->grids[g].grid.point, o->layers[i], &pi))
                (void)add_hook(s->other_hooks, &s->n_other, o->grids[g].grid.point, o->layers[i]);
        }
    }
    s->base_hooks[s->n_base++] = s->logits;
    s->other_hooks[s->n_other++] = s->logits;
    const glia_forward_case both[2] = {{.tokens = s->base, .n_tokens = s->n, .hooks = s->base_hooks, .n_hooks = s->n_base},
                                       {.tokens = s->other, .n_tokens = s->n, .hooks = s->other_hooks, .n_hooks = s->n_other}};
    glia_status st = glia_forward_run(&s->runs, s->m, &(glia_forward_params){.cases = both, .n_cases = 2}, err);
    if (st) return st;
    const glia_rows *base = glia_forward_rows(s->runs, 0, s->n_base - 1), *other = glia_forward_rows(s->runs, 1, s->n_other - 1);
    bool clean = s->base == s->p->sweep.clean;
    s->clean_row = (float *)(uintptr_t)(clean ? base : other)->data;
    s->out->clean = metric_of(s, clean ? base : other);
    s->out->corrupted = metric_of(s, clean ? other : base);
    return GLIA_OK;
}

/* ------------------------------------------------------------------ senders */

/* The rows from the first difference on of a point, as an edit; the rows stay where they are. */
static glia_edit hold(const path *s, const glia_rows *r) {
    return (glia_edit){.where = {.point = r->point, .layer = r->layer, .phases = GLIA_PHASE_PROMPT,
                                 .positions = s->changed, .n_positions = s->n - s->first},
                       .op = GLIA_EDIT_SET,
                       .rows = r->data + s->first * (size_t)r->width,
                       .n_rows = s->n - s->first,
                       .n_channels = (size_t)r->width};
}

static glia_status make_sender(path *s, sender *x, glia_err *err) {
    const glia_sweep_values *v = &s->out->grids[x->grid];
    const glia_rows *r = rows_of(s, 1, v->grid.point, x->layer);
    size_t n = s->n - s->first, part = (size_t)(x->head < 0 ? r->width : r->head_dim);
    int32_t end = end_layer(s);
    x->rows = glia_malloc(n * part * sizeof *x->rows);
    x->edits = glia_calloc(2 * (size_t)s->info.n_layer + 1, sizeof *x->edits);
    if (!x->rows || !x->edits) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
    for (size_t i = 0; i < n; i++) {
        memcpy(x->rows + i * part, r->data + (s->first + i) * (size_t)r->width + (x->head < 0 ? 0 : (size_t)x->head * part),
               part * sizeof *x->rows);
    }
    glia_edit *e = &x->edits[x->n_edits++];
    *e = hold(s, r);
    e->rows = x->rows, e->n_channels = part;
    if (x->head >= 0) e->where.heads = s->heads + x->head, e->where.n_heads = 1;
    for (int32_t l = x->layer; l < end; l++) {
        const glia_rows *attn = l > x->layer ? rows_of(s, 0, GLIA_POINT_ATTN_OUT, l) : NULL;
        const glia_rows *mlp = rows_of(s, 0, GLIA_POINT_MLP_OUT, l);
        if (l > x->layer && !attn) {
            return glia_fail_at(err, GLIA_EHOOK, "path", "the attention of layer %d cannot be held: attn_out is not proven there", (int)l);
        }
        bool is_sender = v->grid.point == GLIA_POINT_MLP_OUT && l == x->layer;
        if (attn) x->edits[x->n_edits++] = hold(s, attn);
        if (s->p->free_mlps || is_sender) continue;
        if (!mlp) return glia_fail_at(err, GLIA_EHOOK, "path", "the MLP of layer %d cannot be held: mlp_out is not proven there", (int)l);
        x->edits[x->n_edits++] = hold(s, mlp);
    }
    return GLIA_OK;
}

static glia_status make_senders(path *s, glia_err *err) {
    const glia_sweep *o = s->out;
    size_t most = 0;
    for (size_t g = 0; g < o->n_grids; g++) most += o->n_layers * (size_t)o->grids[g].n_heads;
    if (!(s->senders = glia_calloc(most + 1, sizeof *s->senders))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
    for (size_t g = 0; g < o->n_grids; g++) {
        const glia_sweep_values *v = &o->grids[g];
        for (size_t at = 0; at < o->n_layers * (size_t)v->n_heads; at++) {
            int32_t layer = o->layers[at / (size_t)v->n_heads], head = (int32_t)(at % (size_t)v->n_heads);
            glia_point_info pi;
            if (layer >= end_layer(s) || !proven(s, v->grid.point, layer, &pi)) continue;
            if (by_head(&v->grid) && head >= pi.n_heads) continue;
            if (s->first == s->n) { /* the prompts are the same */
                v->values[at] = s->p->sweep.op == GLIA_SWEEP_DENOISE ? o->corrupted : o->clean;
                s->out->n_same++;
                continue;
            }
            sender *x = &s->senders[s->n_senders++];
            *x = (sender){.grid = g, .at = at, .layer = layer, .head = by_head(&v->grid) ? head : -1};
            glia_status st = make_sender(s, x, err);
            if (st) return st;
        }
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ the two rounds */

static bool on_progress(void *ud, size_t n_done, size_t n_total) {
    const path *s = ud;
    (void)n_total;
    return !s->p->sweep.on_progress || s->p->sweep.on_progress(s->p->sweep.ud, s->done_before + n_done, s->n_rounds);
}

static glia_status on_answer(void *ud, size_t index, const glia_forward_result *r, glia_err *err) {
    path *s = ud;
    const sender *x = &s->senders[index];
    if (r->rows[0].n_rows != 1) return glia_fail(err, GLIA_EINTERNAL, "the logits of a path did not come");
    s->out->grids[x->grid].values[x->at] = metric_of(s, &r->rows[0]);
    return GLIA_OK;
}

static glia_status run_round(path *s, bool senders, glia_err *err) {
    bool to_logits = !s->p->n_to, captures = senders && !to_logits;
    glia_forward *f = NULL;
    glia_forward_case *cases = glia_calloc(s->n_senders + 1, sizeof *cases);
    if (!cases) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
    for (size_t i = 0; i < s->n_senders; i++) {
        sender *x = &s->senders[i];
        cases[i] = (glia_forward_case){.tokens = s->base,
                                       .n_tokens = s->n,
                                       .hooks = captures ? s->receivers : &s->logits,
                                       .n_hooks = captures ? s->p->n_to : 1,
                                       .edits = senders ? x->edits : x->received,
                                       .n_edits = senders ? x->n_edits : s->p->n_to};
    }
    const glia_forward_params fp = {.cases = cases, .n_cases = s->n_senders, .on_progress = on_progress,
                                    .on_case = captures ? NULL : on_answer, .ud = s};
    glia_status st = glia_forward_run(captures ? &s->arrived : &f, s->m, &fp, err);
    if (st && err && !strncmp(err->param, "interventions", 13)) (void)snprintf(err->param, sizeof err->param, "path");
    s->done_before += s->n_senders;
    glia_forward_free(f);
    glia_free(cases);
    return st;
}

static glia_status receive(path *s, glia_err *err) {
    for (size_t i = 0; i < s->n_senders; i++) {
        sender *x = &s->senders[i];
        if (!(x->received = glia_calloc(s->p->n_to, sizeof *x->received))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
        for (size_t k = 0; k < s->p->n_to; k++) {
            const glia_rows *r = glia_forward_rows(s->arrived, i, k);
            const glia_hook *h = &s->receivers[k];
            x->received[k] = hold(s, r);
            x->received[k].rows = r->data; /* only the rows from the first difference on were asked for */
            x->received[k].where.heads = h->heads, x->received[k].where.n_heads = h->n_heads;
        }
    }
    return GLIA_OK;
}

static void compare(const path *s) {
    const glia_sweep *o = s->out;
    bool denoise = s->p->sweep.op == GLIA_SWEEP_DENOISE;
    double unchanged = denoise ? o->corrupted : o->clean, other = denoise ? o->clean : o->corrupted;
    for (size_t g = 0; g < o->n_grids; g++) {
        const glia_sweep_values *v = &o->grids[g];
        for (size_t i = 0; i < o->n_layers * (size_t)v->n_heads; i++)
            v->recovered[i] = other == unchanged ? NAN : (v->values[i] - unchanged) / (other - unchanged);
    }
}

static glia_status aim(path *s, glia_err *err) {
    const glia_metric_spec *q = &s->p->sweep.metric;
    size_t n_channels = glia_metric_needs_row(q->metric) ? 0 : q->n_answers + q->n_wrongs, n_heads = s->n_heads;
    while (s->first < s->n && s->base[s->first] == s->other[s->first]) s->first++;
    for (size_t i = 0; i < s->p->n_to; i++) n_heads = (size_t)s->p->to[i].head + 1 > n_heads && s->p->to[i].head >= 0 ? (size_t)s->p->to[i].head + 1 : n_heads;
    s->changed = glia_malloc((s->n + 1) * sizeof *s->changed);
    s->heads = glia_malloc((n_heads + 1) * sizeof *s->heads);
    s->channels = glia_malloc((n_channels + 1) * sizeof *s->channels);
    s->receivers = glia_calloc(s->p->n_to + 1, sizeof *s->receivers);
    if (!s->changed || !s->heads || !s->channels || !s->receivers) return glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
    for (size_t i = s->first; i < s->n; i++) s->changed[i - s->first] = (int64_t)i;
    for (size_t i = 0; i < n_heads; i++) s->heads[i] = (int32_t)i;
    for (size_t i = 0; i < n_channels; i++) s->channels[i] = i < q->n_answers ? q->answers[i] : q->wrongs[i - q->n_answers];
    s->logits = (glia_hook){.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_PROMPT, .positions = &last_position, .n_positions = 1,
                            .channels = n_channels ? s->channels : NULL, .n_channels = n_channels};
    for (size_t i = 0; i < s->p->n_to; i++) {
        const glia_path_receiver *r = &s->p->to[i];
        s->receivers[i] = (glia_hook){.point = r->point, .layer = r->layer, .phases = GLIA_PHASE_PROMPT, .positions = s->changed,
                                      .n_positions = s->n - s->first, .heads = r->head < 0 ? NULL : s->heads + r->head,
                                      .n_heads = r->head >= 0};
    }
    return GLIA_OK;
}

glia_status glia_path_run(glia_sweep **out, glia_model *m, const glia_path_params *p, glia_err *err) {
    path s = {.p = p, .m = m, .n = p->sweep.n_clean};
    double began = now();
    *out = NULL;
    glia_model_get_info(m, &s.info);
    s.base = p->sweep.op == GLIA_SWEEP_DENOISE ? p->sweep.corrupted : p->sweep.clean;
    s.other = p->sweep.op == GLIA_SWEEP_DENOISE ? p->sweep.clean : p->sweep.corrupted;
    glia_status st = check(&s, err);
    if (st) return st;
    glia_sweep *o = s.out = glia_calloc(1, sizeof *s.out);
    if (o) o->grids = glia_calloc(p->sweep.n_grids + 1, sizeof *o->grids);
    if (!o || !o->grids) st = glia_fail(err, GLIA_ENOMEM, "out of memory for a path");
    if (!st) st = plan_grids(&s, err);
    if (!st) st = aim(&s, err);
    if (!st) st = run_unchanged(&s, err);
    if (!st) st = make_senders(&s, err);
    s.n_rounds = s.n_senders * (p->n_to ? 2 : 1);
    if (!st && s.n_senders) st = run_round(&s, true, err);
    if (!st && s.n_senders && p->n_to) st = receive(&s, err);
    if (!st && s.n_senders && p->n_to) st = run_round(&s, false, err);
    if (!st) {
        compare(&s);
        o->n_run = s.n_rounds, o->seconds = now() - began;
        *out = o, s.out = NULL;
    }
    clear(&s);
    return st;
}

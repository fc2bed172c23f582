/* lab/sweep.c — a grid of places → cases of forward.h, ordered so that they share their beginnings → numbers.
 * The caller's thread; see sweep.h. */
#include "lab/sweep.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const by_names[] = {"layer", "position", "head", "head_position"};
static const char *const op_names[] = {"denoise", "noise", "zero", "mean"};

const char *glia_sweep_by_name(glia_sweep_by by) { return by_names[by]; }
const char *glia_sweep_op_name(glia_sweep_op op) { return op_names[op]; }
bool glia_sweep_by_from_name(const char *name, glia_sweep_by *out) {
    for (int i = 0; i < 4; i++) {
        *out = (glia_sweep_by)i;
        if (!strcmp(name, by_names[i])) return true;
    }
    return false;
}
bool glia_sweep_op_from_name(const char *name, glia_sweep_op *out) {
    for (int i = 0; i < 4; i++) {
        *out = (glia_sweep_op)i;
        if (!strcmp(name, op_names[i])) return true;
    }
    return false;
}

/* One number to find. */
typedef struct cell {
    size_t grid;
    size_t at;      /* index into its values */
    int32_t layer, head; /* head -1: all */
    int32_t first, n;    /* positions first, first + 1, … of the sweep's list that are changed: indices into `changed` */
} cell;

typedef struct sweep {
    const glia_sweep_params *p;
    glia_model *m;
    glia_model_info info;
    glia_sweep *out;
    const int32_t *base, *from; /* the prompt that runs, the one whose values are put in */
    size_t n;                   /* tokens of both */
    int64_t *changed;           /* [n_changed] of the positions asked for, those where the two runs can differ */
    size_t n_changed;
    size_t first_changed; /* index in out->positions of the first of them; the others lie behind it */
    int32_t *channels;    /* tokens whose logits the metric takes; NULL: all */
    size_t n_channels;
    glia_forward *rows; /* values to put in: one case, a hook for each grid and layer */
    glia_hook *row_hooks;
    int64_t *row_of;  /* [n_places] hook, -1: no such place */
    float *clean_row; /* logits of the clean run, for KL */
    size_t n_places;  /* grids × layers */
    float **by_head;  /* [n_places] values as [head, position, part] where heads are swept; else NULL */
    cell *cells;
    size_t n_cells;
    glia_forward_case *cases;
    glia_edit *edits;
    glia_hook logits;
} sweep;

static const int64_t last_position = -1;
static const glia_range all_columns_of_prompt = {0, 0}; /* to is filled per sweep */

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool patches(const sweep *s) { return s->p->op == GLIA_SWEEP_DENOISE || s->p->op == GLIA_SWEEP_NOISE; }
static bool by_head(glia_sweep_by by) { return by == GLIA_BY_HEAD || by == GLIA_BY_HEAD_POSITION; }
static bool by_position(glia_sweep_by by) { return by == GLIA_BY_POSITION || by == GLIA_BY_HEAD_POSITION; }
static bool is_pattern(glia_point p) { return p == GLIA_POINT_ATTN_PROBS || p == GLIA_POINT_ATTN_SCORES; }

void glia_sweep_free(glia_sweep *s) {
    if (!s) return;
    for (size_t g = 0; s->grids && g < s->n_grids; g++) {
        glia_free(s->grids[g].values);
        glia_free(s->grids[g].recovered);
    }
    glia_free(s->grids);
    glia_free(s->layers);
    glia_free(s->positions);
    glia_free(s);
}

/* ------------------------------------------------------------------ checking */

static glia_status copy_axis(const int32_t *in, size_t n_in, int32_t n, const char *param, int32_t **out, size_t *n_out,
                             glia_err *err) {
    *n_out = in ? n_in : (size_t)n;
    if (!*n_out) return glia_fail_at(err, GLIA_EINVAL, param, "%s must not be empty", param);
    if (!(*out = glia_malloc(*n_out * sizeof **out))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a sweep");
    for (size_t i = 0; i < *n_out; i++) {
        (*out)[i] = in ? in[i] : (int32_t)i;
        if ((*out)[i] < 0 || (*out)[i] >= n || (i && (*out)[i] <= (*out)[i - 1])) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s must ascend from 0 to %d at most", param, (int)n - 1);
        }
    }
    return GLIA_OK;
}

static glia_status check_prompts(const sweep *s, glia_err *err) {
    const glia_sweep_params *p = s->p;
    if (!p->clean || !p->n_clean) return glia_fail_at(err, GLIA_EINVAL, "clean", "clean has no tokens");
    if (!patches(s)) {
        if (!p->corrupted) return GLIA_OK;
        return glia_fail_at(err, GLIA_EINVAL, "corrupted", "%s changes the clean run alone: leave corrupted out",
                            glia_sweep_op_name(p->op));
    }
    if (!p->corrupted) return glia_fail_at(err, GLIA_EINVAL, "corrupted", "corrupted is missing: the other prompt");
    if (p->n_clean != p->n_corrupted) {
        return glia_fail_at(err, GLIA_EINVAL, "corrupted",
                            "clean has %zu tokens, corrupted %zu: patching needs equally many, so that positions mean "
                            "the same",
                            p->n_clean, p->n_corrupted);
    }
    return GLIA_OK;
}

/* Whether a layer has this point and it can be changed. */
static bool usable(const sweep *s, glia_point point, int32_t layer, glia_point_info *pi) {
    return glia_model_point(s->m, point, layer, pi) && pi->grade == GLIA_GRADE_PROVEN;
}

static glia_status plan_grids(sweep *s, glia_err *err) {
    glia_sweep *o = s->out;
    for (size_t g = 0; g < s->p->n_grids; g++) {
        glia_sweep_values *v = &o->grids[o->n_grids++];
        char param[40];
        (void)snprintf(param, sizeof param, "sweeps[%zu].component", g);
        v->grid = s->p->grids[g];
        v->n_heads = v->n_positions = 1;
        if (!glia_point_has_layer(v->grid.point)) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: %s has no layers to sweep over", param,
                                glia_point_name(v->grid.point));
        }
        glia_point_info pi;
        bool any = false;
        char why[96] = "";
        for (size_t i = 0; i < o->n_layers; i++) {
            if (!usable(s, v->grid.point, o->layers[i], &pi)) {
                (void)snprintf(why, sizeof why, "%s", pi.reason);
                continue;
            }
            any = true;
            if (by_head(v->grid.by) && pi.n_heads > v->n_heads) v->n_heads = pi.n_heads;
            if (by_head(v->grid.by) && !pi.n_heads) {
                return glia_fail_at(err, GLIA_EINVAL, param, "%s: %s has no heads: sweep it by position or layer", param,
                                    glia_point_name(v->grid.point));
            }
        }
        if (!any) {
            return glia_fail_at(err, GLIA_EHOOK, param, "%s: no layer has %s graded proven: %s", param,
                                glia_point_name(v->grid.point), why);
        }
        if (is_pattern(v->grid.point) && (!by_head(v->grid.by) || s->p->op == GLIA_SWEEP_MEAN)) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: attention is swept by head, by patch or zero", param);
        }
        if (by_position(v->grid.by)) v->n_positions = (int32_t)o->n_positions;
        size_t n = o->n_layers * (size_t)v->n_heads * (size_t)v->n_positions;
        s->n_cells += n;
        if (s->n_cells > GLIA_SWEEP_MAX_CELLS) {
            return glia_fail_at(err, GLIA_ETOOLARGE, "sweeps",
                                "these sweeps are more than %d interventions: name fewer layers, positions or points",
                                (int)GLIA_SWEEP_MAX_CELLS);
        }
        v->values = glia_malloc(n * sizeof *v->values);
        if (patches(s)) v->recovered = glia_malloc(n * sizeof *v->recovered);
        if (!v->values || (patches(s) && !v->recovered)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a sweep");
        for (size_t i = 0; i < n; i++) v->values[i] = NAN;
    }
    return GLIA_OK;
}

/* Of the positions asked for, those from the first difference of the prompts on. */
static bool choose_positions(sweep *s) {
    const glia_sweep *o = s->out;
    size_t d = 0;
    while (patches(s) && d < s->n && s->base[d] == s->from[d]) d++;
    if (!(s->changed = glia_malloc(o->n_positions * sizeof *s->changed))) return false;
    for (size_t i = 0; i < o->n_positions; i++) {
        if ((size_t)o->positions[i] < d) s->first_changed = i + 1;
        else s->changed[s->n_changed++] = o->positions[i];
    }
    return true;
}

/* ------------------------------------------------------------------ the unchanged runs */

static void aim_at_logits(sweep *s) {
    s->logits = (glia_hook){.point = GLIA_POINT_LM_HEAD,
                            .phases = GLIA_PHASE_PROMPT,
                            .positions = &last_position,
                            .n_positions = 1,
                            .channels = s->channels,
                            .n_channels = s->n_channels};
}

static bool choose_channels(sweep *s) {
    const glia_metric_spec *q = &s->p->metric;
    if (glia_metric_needs_row(q->metric)) return true;
    s->n_channels = q->n_answers + q->n_wrongs;
    if (!(s->channels = glia_malloc(s->n_channels * sizeof *s->channels))) return false;
    for (size_t i = 0; i < s->n_channels; i++)
        s->channels[i] = i < q->n_answers ? q->answers[i] : q->wrongs[i - q->n_answers];
    return true;
}

static double metric_of(const sweep *s, const glia_rows *logits) {
    return glia_metric_of(&s->p->metric, logits->data, (size_t)logits->width, s->clean_row);
}

/* Values to put in, and the metric of the prompts as they are. */
static glia_status run_unchanged(sweep *s, glia_err *err) {
    glia_sweep *o = s->out;
    size_t n_places = s->n_places = o->n_grids * o->n_layers, n_hooks = 0;
    bool values = s->p->op != GLIA_SWEEP_ZERO;
    s->row_hooks = glia_calloc(n_places + 1, sizeof *s->row_hooks);
    s->row_of = glia_malloc(n_places * sizeof *s->row_of);
    if (!s->row_hooks || !s->row_of) return glia_fail(err, GLIA_ENOMEM, "out of memory for a sweep");
    for (size_t k = 0; k < n_places; k++) {
        const glia_sweep_values *v = &o->grids[k / o->n_layers];
        glia_point_info pi;
        int32_t layer = o->layers[k % o->n_layers];
        s->row_of[k] = -1;
        if (!usable(s, v->grid.point, layer, &pi)) continue;
        s->row_of[k] = (int64_t)n_hooks;
        if (!values) continue;
        s->row_hooks[n_hooks++] = (glia_hook){.point = v->grid.point,
                                              .layer = layer,
                                              .phases = GLIA_PHASE_PROMPT,
                                              .reduce = {.op = s->p->op == GLIA_SWEEP_MEAN ? GLIA_REDUCE_MEAN
                                                                                           : GLIA_REDUCE_NONE}};
    }
    s->row_hooks[n_hooks++] = s->logits;
    bool other = s->base != s->from;
    const glia_forward_case both[2] = {
        {.tokens = s->from, .n_tokens = s->n, .hooks = s->row_hooks, .n_hooks = n_hooks},
        {.tokens = s->base, .n_tokens = s->n, .hooks = &s->logits, .n_hooks = 1}};
    glia_status st = glia_forward_run(
        &s->rows, s->m, &(glia_forward_params){.cases = both, .n_cases = other ? 2 : 1, .n_in_flight = 1}, err);
    if (st) return st;
    const glia_rows *from = glia_forward_rows(s->rows, 0, n_hooks - 1), *base = other ? glia_forward_rows(s->rows, 1, 0) : from;
    const glia_rows *clean = s->from == s->p->clean ? from : base, *corrupted = clean == from ? base : from;
    s->clean_row = (float *)(uintptr_t)clean->data;
    o->clean = metric_of(s, clean);
    o->corrupted = patches(s) ? metric_of(s, corrupted) : NAN;
    return GLIA_OK;
}

/* [position, head, part] of one layer → [head, position, part], so that each head's rows lie together. */
static float *heads_apart(const glia_rows *r, const int64_t *positions, size_t n, bool pattern) {
    size_t heads = (size_t)r->n_heads, part = pattern ? (size_t)r->n_cols : (size_t)r->head_dim;
    float *out = glia_malloc(heads * n * part * sizeof *out);
    for (size_t h = 0; out && h < heads; h++) {
        for (size_t i = 0; i < n; i++) {
            size_t row = r->n_rows == 1 ? 0 : (size_t)positions[i]; /* a mean: one row */
            memcpy(out + (h * n + i) * part, r->data + row * (size_t)r->width + h * part, part * sizeof *out);
        }
    }
    return out;
}

static glia_status arrange(sweep *s, glia_err *err) {
    const glia_sweep *o = s->out;
    size_t n_places = s->n_places;
    if (!(s->by_head = (float **)glia_calloc(n_places, sizeof *s->by_head))) goto nomem;
    for (size_t k = 0; k < n_places; k++) {
        const glia_sweep_values *v = &o->grids[k / o->n_layers];
        if (s->row_of[k] < 0 || s->p->op == GLIA_SWEEP_ZERO || !by_head(v->grid.by) || !s->n_changed) continue;
        const glia_rows *r = glia_forward_rows(s->rows, 0, (size_t)s->row_of[k]);
        if (!(s->by_head[k] = heads_apart(r, s->changed, s->n_changed, is_pattern(v->grid.point)))) goto nomem;
    }
    return GLIA_OK;
nomem:
    return glia_fail(err, GLIA_ENOMEM, "out of memory for the values of a sweep");
}

/* ------------------------------------------------------------------ the changed runs */

/* All cells that must run; the others get the unchanged run's number. */
static void list_cells(sweep *s) {
    const glia_sweep *o = s->out;
    double unchanged = s->p->op == GLIA_SWEEP_DENOISE ? o->corrupted : o->clean;
    size_t n = 0;
    for (size_t g = 0; g < o->n_grids; g++) {
        const glia_sweep_values *v = &o->grids[g];
        for (size_t at = 0; at < o->n_layers * (size_t)v->n_heads * (size_t)v->n_positions; at++) {
            size_t pos = at % (size_t)v->n_positions, row = at / (size_t)v->n_positions;
            size_t layer = row / (size_t)v->n_heads, head = row % (size_t)v->n_heads;
            glia_point_info pi;
            if (!usable(s, v->grid.point, o->layers[layer], &pi)) continue;
            if (by_head(v->grid.by) && (int32_t)head >= pi.n_heads) continue; /* this layer has fewer */
            bool one = by_position(v->grid.by);
            if (!s->n_changed || (one && pos < s->first_changed)) {
                v->values[at] = unchanged;
                s->out->n_same++;
                continue;
            }
            s->cells[n++] = (cell){.grid = g, .at = at, .layer = (int32_t)layer,
                                   .head = by_head(v->grid.by) ? (int32_t)head : -1,
                                   .first = one ? (int32_t)(pos - s->first_changed) : 0,
                                   .n = one ? 1 : (int32_t)s->n_changed};
        }
    }
    s->n_cells = n;
}

/* Later first: what a run leaves in the cache before its first change is what the next ones begin with. */
static int later_first(const void *a, const void *b) {
    const cell *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? 1 : -1;
    if (x->grid != y->grid) return x->grid < y->grid ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

static const int32_t *head_list(const int32_t *numbers, int32_t head) { return head < 0 ? NULL : numbers + head; }

/* The rows of one place as an edit takes them.  A whole row by position lies in the captured rows, at any positions. */
static glia_status fill_edit(sweep *s, const cell *c, const int32_t *numbers, glia_range *columns, glia_edit *e,
                             float **gathered, glia_err *err) {
    const glia_sweep *o = s->out;
    const glia_sweep_values *v = &o->grids[c->grid];
    size_t place = c->grid * o->n_layers + (size_t)c->layer;
    *e = (glia_edit){.where = {.point = v->grid.point,
                               .layer = o->layers[c->layer],
                               .phases = GLIA_PHASE_PROMPT,
                               .positions = s->changed + c->first,
                               .n_positions = (size_t)c->n,
                               .heads = head_list(numbers, c->head),
                               .n_heads = c->head >= 0},
                     .op = s->p->op == GLIA_SWEEP_ZERO ? GLIA_EDIT_ZERO : GLIA_EDIT_SET};
    if (is_pattern(v->grid.point)) e->to_range = columns;
    if (s->p->op == GLIA_SWEEP_ZERO) return GLIA_OK;
    const glia_rows *r = glia_forward_rows(s->rows, 0, (size_t)s->row_of[place]);
    if (s->p->op == GLIA_SWEEP_MEAN) {
        e->n_rows = 1;
        e->n_channels = (size_t)(c->head < 0 ? r->width : r->head_dim);
        e->rows = r->data + (c->head < 0 ? 0 : (size_t)c->head * e->n_channels);
        return GLIA_OK;
    }
    e->n_rows = (size_t)c->n;
    if (c->head >= 0) {
        e->n_channels = (size_t)(is_pattern(v->grid.point) ? r->n_cols : r->head_dim);
        e->rows = s->by_head[place] + ((size_t)c->head * s->n_changed + (size_t)c->first) * e->n_channels;
        return GLIA_OK;
    }
    e->n_channels = (size_t)r->width;
    if (c->n == 1) {
        e->rows = r->data + (size_t)s->changed[c->first] * e->n_channels;
        return GLIA_OK;
    }
    if (!(*gathered = glia_malloc((size_t)c->n * e->n_channels * sizeof **gathered)))
        return glia_fail(err, GLIA_ENOMEM, "out of memory for the values of a sweep");
    for (int32_t i = 0; i < c->n; i++) {
        memcpy(*gathered + (size_t)i * e->n_channels, r->data + (size_t)s->changed[c->first + i] * e->n_channels,
               e->n_channels * sizeof **gathered);
    }
    e->rows = *gathered;
    return GLIA_OK;
}

static bool on_progress(void *ud, size_t n_done, size_t n_total) {
    const sweep *s = ud;
    return !s->p->on_progress || s->p->on_progress(s->p->ud, n_done, n_total);
}

static glia_status on_case(void *ud, size_t index, const glia_forward_result *r, glia_err *err) {
    sweep *s = ud;
    const cell *c = &s->cells[index];
    if (r->rows[0].n_rows != 1) return glia_fail(err, GLIA_EINTERNAL, "a sweep's logits did not come");
    s->out->grids[c->grid].values[c->at] = metric_of(s, &r->rows[0]);
    s->out->n_tokens += (uint64_t)(r->usage.n_prompt - r->usage.n_cached), s->out->n_shared += (uint64_t)r->usage.n_cached;
    return GLIA_OK;
}

/* The engine's name for what is wrong → the sweep's. */
static void fix_param(const sweep *s, size_t failed, glia_err *err) {
    if (!err || strncmp(err->param, "interventions", 13) != 0 || failed >= s->n_cells) return;
    (void)snprintf(err->param, sizeof err->param, "sweeps[%zu].component", s->cells[failed].grid);
}

static glia_status run_changed(sweep *s, glia_err *err) {
    glia_status st = GLIA_ENOMEM;
    glia_range columns = all_columns_of_prompt;
    columns.to = (int64_t)s->n;
    int32_t n_numbers = 1;
    for (size_t g = 0; g < s->out->n_grids; g++) {
        if (s->out->grids[g].n_heads > n_numbers) n_numbers = s->out->grids[g].n_heads;
    }
    int32_t *numbers = glia_malloc((size_t)n_numbers * sizeof *numbers);
    float **gathered = (float **)glia_calloc(s->n_cells + 1, sizeof *gathered);
    s->cells = glia_calloc(s->n_cells + 1, sizeof *s->cells);
    s->cases = glia_calloc(s->n_cells + 1, sizeof *s->cases);
    s->edits = glia_calloc(s->n_cells + 1, sizeof *s->edits);
    if (!numbers || !gathered || !s->cells || !s->cases || !s->edits) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for a sweep");
        goto done;
    }
    for (int32_t i = 0; i < n_numbers; i++) numbers[i] = i;
    list_cells(s);
    qsort(s->cells, s->n_cells, sizeof *s->cells, later_first);
    st = GLIA_OK;
    for (size_t i = 0; i < s->n_cells && !st; i++) {
        st = fill_edit(s, &s->cells[i], numbers, &columns, &s->edits[i], &gathered[i], err);
        s->cases[i] = (glia_forward_case){.tokens = s->base, .n_tokens = s->n, .hooks = &s->logits, .n_hooks = 1,
                                          .edits = &s->edits[i], .n_edits = 1};
    }
    glia_forward *f = NULL;
    size_t failed;
    if (!st && s->n_cells) {
        const glia_forward_params fp = {.cases = s->cases, .n_cases = s->n_cells, .on_progress = on_progress,
                                        .on_case = on_case, .ud = s, .failed = &failed};
        st = glia_forward_run(&f, s->m, &fp, err);
        if (st) fix_param(s, failed, err);
    }
    glia_forward_free(f);
    s->out->n_run = s->n_cells;
done:
    for (size_t i = 0; gathered && i < s->n_cells; i++) glia_free(gathered[i]);
    glia_free((void *)gathered);
    glia_free(numbers);
    return st;
}

static void compare(const sweep *s) {
    const glia_sweep *o = s->out;
    if (!patches(s)) return;
    bool denoise = s->p->op == GLIA_SWEEP_DENOISE;
    double unchanged = denoise ? o->corrupted : o->clean, other = denoise ? o->clean : o->corrupted;
    for (size_t g = 0; g < o->n_grids; g++) {
        const glia_sweep_values *v = &o->grids[g];
        for (size_t i = 0; i < o->n_layers * (size_t)v->n_heads * (size_t)v->n_positions; i++)
            v->recovered[i] = other == unchanged ? NAN : (v->values[i] - unchanged) / (other - unchanged);
    }
}

static void clear(sweep *s) {
    for (size_t k = 0; s->by_head && k < s->n_places; k++) glia_free(s->by_head[k]);
    glia_free((void *)s->by_head);
    glia_forward_free(s->rows);
    glia_free(s->row_hooks);
    glia_free(s->row_of);
    glia_free(s->changed);
    glia_free(s->channels);
    glia_free(s->cells);
    glia_free(s->cases);
    glia_free(s->edits);
    glia_sweep_free(s->out);
}

glia_status glia_sweep_run(glia_sweep **out, glia_model *m, const glia_sweep_params *p, glia_err *err) {
    sweep s = {.p = p, .m = m, .n = p->n_clean};
    double began = now();
    *out = NULL;
    glia_model_get_info(m, &s.info);
    s.base = p->op == GLIA_SWEEP_DENOISE ? p->corrupted : p->clean;
    s.from = p->op == GLIA_SWEEP_NOISE ? p->corrupted : p->clean;
    glia_status st = check_prompts(&s, err);
    if (!st) st = glia_metric_check(&p->metric, s.info.n_vocab, err);
    if (!st && (!p->n_grids || p->n_grids > GLIA_SWEEP_MAX_GRIDS)) {
        st = glia_fail_at(err, GLIA_EINVAL, "sweeps", "name 1 to %d sweeps", (int)GLIA_SWEEP_MAX_GRIDS);
    }
    if (st) return st;
    glia_sweep *o = s.out = glia_calloc(1, sizeof *s.out);
    if (o) o->grids = glia_calloc(p->n_grids, sizeof *o->grids);
    if (!o || !o->grids) st = glia_fail(err, GLIA_ENOMEM, "out of memory for a sweep");
    if (!st) st = copy_axis(p->layers, p->n_layers, s.info.n_layer, "layers", &o->layers, &o->n_layers, err);
    if (!st) st = copy_axis(p->positions, p->n_positions, (int32_t)s.n, "positions", &o->positions, &o->n_positions, err);
    if (!st) st = plan_grids(&s, err);
    if (!st && (!choose_positions(&s) || !choose_channels(&s))) st = glia_fail(err, GLIA_ENOMEM, "out of memory for a sweep");
    if (!st) {
        aim_at_logits(&s);
        st = run_unchanged(&s, err);
    }
    if (!st) st = arrange(&s, err);
    if (!st) st = run_changed(&s, err);
    if (!st) {
        compare(&s);
        o->seconds = now() - began;
        *out = o, s.out = NULL;
    }
    clear(&s);
    return st;
}

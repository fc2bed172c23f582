/* engine/edit.c — checking and copying what a request changes.  The submitting thread; knows no llama.h. */
#include "base/err.h"
#include "base/mem.h"
#include "engine/request.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const names[GLIA_N_EDIT_OPS] = {
#define X(id, name, meaning) name,
    GLIA_EDIT_MAP(X)
#undef X
};
static const char *const meanings[GLIA_N_EDIT_OPS] = {
#define X(id, name, meaning) meaning,
    GLIA_EDIT_MAP(X)
#undef X
};
const char *glia_edit_name(glia_edit_op op) { return (unsigned)op < GLIA_N_EDIT_OPS ? names[op] : "?"; }
const char *glia_edit_meaning(glia_edit_op op) { return (unsigned)op < GLIA_N_EDIT_OPS ? meanings[op] : "?"; }

static bool along_direction(glia_edit_op op) { return op == GLIA_EDIT_PROJECT_OUT || op == GLIA_EDIT_CLAMP; }
static bool takes_rows(glia_edit_op op) { return op == GLIA_EDIT_ADD || op == GLIA_EDIT_SET || along_direction(op); }

static bool all_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
    }
    return true;
}

/* Made of unit length; false: it has none. */
static bool normalise(float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    if (!(sum > 0)) return false;
    for (size_t i = 0; i < n; i++) x[i] = (float)((double)x[i] / sqrt(sum));
    return true;
}

static glia_status copy_vector(const float **out, const float *in, size_t n_rows, size_t n_channels, bool direction,
                               const glia_edit_rule *r, const char *what, const char *where, glia_err *err) {
    if (n_channels != (size_t)r->width) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s must have %d numbers in a row, not %zu", what, (int)r->width,
                            n_channels);
    }
    if (!all_finite(in, n_rows * n_channels)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s holds a number that is not finite", what);
    }
    float *copy = glia_memdup(in, n_rows * n_channels * sizeof *copy);
    if (!copy) return glia_fail(err, GLIA_ENOMEM, "out of memory for an intervention");
    *out = copy;
    if (direction && !normalise(copy, n_channels)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s is zero: it has no direction", what);
    }
    return GLIA_OK;
}

static glia_status copy_rows(glia_redit *out, const glia_edit *in, int32_t n_prompt, const char *where, glia_err *err) {
    glia_edit_rule *r = &out->rule;
    if (!takes_rows(in->op)) {
        if (!in->rows) return GLIA_OK;
        return glia_fail_at(err, GLIA_EINVAL, where, "%s takes no vector", glia_edit_name(in->op));
    }
    if (!in->rows || !in->n_rows) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s needs a %s of %d numbers", glia_edit_name(in->op),
                            along_direction(in->op) ? "direction" : "vector", (int)r->width);
    }
    bool each = in->n_rows > 1;
    if (each && along_direction(in->op)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s takes one direction", glia_edit_name(in->op));
    }
    bool beyond = (out->where.phases & GLIA_PHASE_GENERATED) && glia_rhook_count(&out->where, n_prompt, INT32_MAX);
    if (each && (beyond || in->n_rows != (size_t)out->where.n_prompt_rows)) {
        return glia_fail_at(
            err, GLIA_EINVAL, where,
            "%zu rows are given for %d rows of the prompt: give one row for all, or one for each of the "
            "prompt's rows, and no other (positions \"prompt\", a range or a list)",
            in->n_rows, (int)out->where.n_prompt_rows);
    }
    for (size_t i = 1; each && i < in->where.n_positions; i++) {
        if (in->where.positions[i] > in->where.positions[i - 1]) continue;
        return glia_fail_at(err, GLIA_EINVAL, where, "positions must ascend where each has a row of its own");
    }
    r->n_rows = (int32_t)in->n_rows;
    return copy_vector(&r->rows, in->rows, in->n_rows, in->n_channels, along_direction(in->op), r, "the vector", where,
                       err);
}

static glia_status copy_numbers(glia_edit_rule *r, const glia_edit *in, const char *where, glia_err *err) {
    r->strength = in->strength, r->min = in->min, r->max = in->max, r->seed = in->seed;
    r->threshold = in->threshold, r->below = in->below;
    if (!isfinite(in->strength) || !isfinite(in->threshold)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "strength and threshold must be finite");
    }
    if (in->op == GLIA_EDIT_CLAMP && !(in->min <= in->max)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "clamp needs min ≤ max");
    }
    return GLIA_OK;
}

/* Which columns of attention; sets the numbers of a row: heads × columns, 0 when they are not the same for all rows. */
static glia_status copy_columns(glia_redit *out, const glia_edit *in, int32_t n_prompt, const glia_request_limits *l,
                                const char *where, glia_err *err) {
    bool attention = out->where.by_position;
    out->to.to = INT32_MAX;
    if (!attention && (in->to || in->to_range || in->op == GLIA_EDIT_KNOCKOUT)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s attends to nothing: only attn_scores and attn_probs %s",
                            glia_point_name(in->where.point),
                            in->op == GLIA_EDIT_KNOCKOUT ? "can be knocked out" : "take `to`");
    }
    if (!attention) return GLIA_OK;
    if (in->op != GLIA_EDIT_KNOCKOUT && in->op != GLIA_EDIT_ZERO && in->op != GLIA_EDIT_SCALE &&
        in->op != GLIA_EDIT_ADD && in->op != GLIA_EDIT_SET) {
        return glia_fail_at(err, GLIA_EINVAL, where,
                            "attention takes knockout, zero, scale, add and set, not %s: its rows have no channels",
                            glia_edit_name(in->op));
    }
    if (in->when) return glia_fail_at(err, GLIA_EINVAL, where, "attention has no direction for `when`");
    const glia_hook to = {.positions = in->to, .n_positions = in->n_to, .range = in->to_range};
    glia_status st = glia_rhook_copy_positions(&out->to, &to, where, n_prompt, l->n_ctx, err);
    if (st) return st;
    if (in->op == GLIA_EDIT_KNOCKOUT) out->where.point = GLIA_POINT_ATTN_SCORES;
    int64_t n = in->to ? out->to.n_positions : in->to_range ? (int64_t)out->to.to - out->to.from : 0;
    if (in->rows && (!n || n * out->where.n_heads > INT32_MAX)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "numbers for attention need `to`: the positions that they are of");
    }
    for (size_t i = 1; in->rows && i < in->n_to; i++) {
        if (in->to[i] > in->to[i - 1]) continue;
        return glia_fail_at(err, GLIA_EINVAL, where, "the positions of `to` must ascend where each has a number of its own");
    }
    out->rule.width = (int32_t)n * out->where.n_heads;
    return GLIA_OK;
}

/* The first position whose row may be changed, of the prompt or behind it. */
static int32_t first_position(const glia_rhook *h, int32_t n_prompt) {
    if (h->n_prompt_rows) return h->positions ? h->positions[0] : h->from;
    return n_prompt;
}

glia_status glia_redit_copy(glia_redit *out, const glia_edit *in, size_t index, int32_t n_prompt,
                            const glia_request_limits *l, glia_err *err) {
    char where[64];
    (void)snprintf(where, sizeof where, "interventions[%zu]", index);
    if ((unsigned)in->op >= GLIA_N_EDIT_OPS) return glia_fail_at(err, GLIA_EINVAL, where, "no such operation");
    if (in->where.reduce.op) return glia_fail_at(err, GLIA_EINVAL, where, "an intervention reduces nothing");
    glia_status st = glia_rhook_copy(&out->where, &in->where, where, NULL, n_prompt, l, err);
    if (st) return st;
    const char *why = l->refuses_edit(l->model, in->where.point, in->where.layer);
    if (why) {
        return glia_fail_at(err, GLIA_EHOOK, where, "%s at layer %d cannot be changed: %s",
                            glia_point_name(in->where.point), (int)in->where.layer, why);
    }
    glia_edit_rule *r = &out->rule;
    r->op = in->op, r->width = out->where.width;
    out->first = first_position(&out->where, n_prompt);
    if ((st = copy_columns(out, in, n_prompt, l, where, err))) return st;
    if ((st = copy_numbers(r, in, where, err)) || (st = copy_rows(out, in, n_prompt, where, err))) return st;
    if (!in->when) return GLIA_OK;
    return copy_vector(&r->when, in->when, 1, in->n_when, true, r, "the direction of `when`", where, err);
}

void glia_redit_clear(glia_redit *e) {
    glia_rhook_clear(&e->where);
    glia_rhook_clear(&e->to);
    glia_free((void *)(uintptr_t)e->rule.rows);
    glia_free((void *)(uintptr_t)e->rule.when);
}

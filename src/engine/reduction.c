/* engine/reduction.c — which channels and reduction a hook asks for: checked against its point, copied.  Any thread. */
#include "base/err.h"
#include "base/mem.h"
#include "engine/request.h"
#include <math.h>

enum { MAX_DIRECTIONS = 65536 };

/* A range over n things; most: more than n when things are still to come. */
glia_status glia_range_resolve(const glia_range *in, int32_t n, int32_t most, const char *what, const char *where,
                               int32_t *from, int32_t *to, glia_err *err) {
    int64_t a = in->from < 0 ? in->from + n : in->from;
    int64_t b = in->to == GLIA_RANGE_END ? most : in->to < 0 ? in->to + n : in->to;
    if (a < 0 || a >= most || b > most) {
        return glia_fail_at(err, GLIA_EINVAL, where, "the range from %lld to %lld leaves the %ss 0 to %d", (long long)a,
                            (long long)b, what, most - 1);
    }
    if (b <= a) {
        return glia_fail_at(err, GLIA_EINVAL, where, "the range from %lld to %lld holds no %s: `to` is exclusive",
                            (long long)a, (long long)b, what);
    }
    *from = (int32_t)a, *to = (int32_t)b;
    return GLIA_OK;
}

/* Why this operation would say nothing true of rows of this point; NULL: it does. */
static const char *senseless(glia_point p, glia_reduce_op op, bool channels) {
    switch (p) {
    case GLIA_POINT_EXPERT_INDICES: return op ? "these are names of experts, not quantities: leave `reduce` out" : NULL;
    case GLIA_POINT_EXPERT_WEIGHTS:
    case GLIA_POINT_EXPERT_PRE:
    case GLIA_POINT_EXPERT_LINEAR:
    case GLIA_POINT_EXPERT_ACT:
    case GLIA_POINT_EXPERT_OUT:
        if (!glia_reduce_is_over_rows(op)) return NULL;
        return "each row has other experts in its columns: only row_norm, topk and project";
    case GLIA_POINT_ATTN_SCORES:
    case GLIA_POINT_ATTN_PROBS:
        return op || channels ? "each row has another number of columns: leave `reduce` and `channels` out" : NULL;
    default: return NULL;
    }
}

static glia_status copy_channels(glia_reduction *out, const glia_hook *in, const char *where, glia_err *err) {
    int32_t from = 0, to = 0;
    if (in->channels && in->channel_range) {
        return glia_fail_at(err, GLIA_EINVAL, where, "name channels or a range of them, not both");
    }
    if (in->channel_range) {
        glia_status st =
            glia_range_resolve(in->channel_range, out->in_width, out->in_width, "channel", where, &from, &to, err);
        if (st) return st;
    } else if (in->channels) {
        if (!in->n_channels || in->n_channels > (size_t)out->in_width) {
            return glia_fail_at(err, GLIA_EINVAL, where, "name 1 to %d channels", out->in_width);
        }
        for (size_t i = 0; i < in->n_channels; i++) {
            if (in->channels[i] < 0 || in->channels[i] >= out->in_width) {
                return glia_fail_at(err, GLIA_EINVAL, where, "channel %d does not exist: a row has channels 0 to %d",
                                    in->channels[i], out->in_width - 1);
            }
        }
        to = (int32_t)in->n_channels;
    } else {
        return GLIA_OK;
    }
    int32_t *list = glia_malloc((size_t)(to - from) * sizeof *list);
    if (!list) return glia_fail(err, GLIA_ENOMEM, "out of memory for a hook's channels");
    for (int32_t i = from; i < to; i++) list[i - from] = in->channel_range ? i : in->channels[i];
    out->channels = list, out->n_channels = to - from;
    return GLIA_OK;
}

static glia_status copy_directions(glia_rhook *out, const glia_hook *in, const glia_hook *in_before,
                                   const glia_rhook *before, const char *where, glia_err *err) {
    const glia_reduce *want = &in->reduce;
    size_t kept = (size_t)glia_reduction_kept(&out->reduction), n = want->n_directions * kept;
    if (!want->directions || !want->n_directions || want->n_directions > MAX_DIRECTIONS) {
        return glia_fail_at(err, GLIA_EINVAL, where, "project needs 1 to %d directions", (int)MAX_DIRECTIONS);
    }
    if (want->n_channels != kept) {
        return glia_fail_at(err, GLIA_EINVAL, where, "directions have %zu values each, the rows %zu", want->n_channels,
                            kept);
    }
    out->reduction.n_directions = (int32_t)want->n_directions;
    if (before && before->reduction.directions && in_before->reduce.directions == want->directions &&
        in_before->reduce.n_directions == want->n_directions && in_before->reduce.n_channels == want->n_channels) {
        out->reduction.directions = before->reduction.directions;
        out->shares_directions = true;
        return GLIA_OK;
    }
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(want->directions[i])) {
            return glia_fail_at(err, GLIA_EINVAL, where, "direction %zu holds a value that is not finite", i / kept);
        }
    }
    out->reduction.directions = glia_memdup(want->directions, n * sizeof *want->directions);
    return out->reduction.directions ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "out of memory for a hook's directions");
}

glia_status glia_rhook_copy_reduce(glia_rhook *out, const glia_hook *in, const glia_hook *in_before,
                                   const glia_rhook *before, const char *where, glia_err *err) {
    glia_reduction *r = &out->reduction;
    glia_reduce_op op = in->reduce.op;
    if ((unsigned)op >= GLIA_N_REDUCE_OPS) return glia_fail_at(err, GLIA_EINVAL, where, "no such reduction");
    const char *why = senseless(in->point, op, in->channels || in->channel_range);
    if (why) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s cannot be reduced so: %s", glia_point_name(in->point), why);
    }
    r->op = op, r->in_width = out->width;
    glia_status st = copy_channels(r, in, where, err);
    if (st) return st;
    if (in->reduce.across_phases && !glia_reduce_is_over_rows(op)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s does not reduce over rows", glia_reduce_name(op));
    }
    if (op == GLIA_REDUCE_TOPK) {
        int32_t kept = glia_reduction_kept(r);
        r->k = in->reduce.k, r->by_magnitude = in->reduce.by_magnitude;
        if (r->k < 1 || r->k > kept) {
            return glia_fail_at(err, GLIA_EINVAL, where, "k must be 1 to %d, the channels of a row", kept);
        }
    }
    if (op == GLIA_REDUCE_PROJECT) st = copy_directions(out, in, in_before, before, where, err);
    out->reduced = op || r->channels;
    out->over_rows = glia_reduce_is_over_rows(op), out->across_phases = in->reduce.across_phases;
    if (!st) out->width = glia_reduction_width(r);
    return st;
}

void glia_rhook_clear(glia_rhook *h) {
    glia_free(h->positions);
    glia_free(h->heads);
    glia_free((void *)(uintptr_t)h->reduction.channels);
    if (!h->shares_directions) glia_free((void *)(uintptr_t)h->reduction.directions);
}

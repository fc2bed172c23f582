/* api/reduce.c — reading which part of a row a hook wants, and what becomes of it.  Any thread. */
#include "api/hook_fields.h"
#include "api/tensor.h"
#include "base/err.h"
#include "base/mem.h"
#include "tap/names.h"
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ ranges */

static glia_status bad_range(const char *param, glia_err *err) {
    return glia_fail_at(err, GLIA_EINVAL, param,
                        "%s must be a range such as \"3:10\" or {\"from\": 3, \"to\": 10} (10 is not in it)", param);
}

/* A whole number up to `end`; nothing there leaves *out as it is. */
static bool bound(const char *s, const char *end, int64_t *out) {
    if (s == end) return true;
    if (*s != '-' && (*s < '0' || *s > '9')) return false; /* strtoll would take blanks and a plus */
    char *stop;
    *out = strtoll(s, &stop, 10);
    return stop == end;
}

glia_status glia_parse_range(glia_acts *a, yyjson_val *v, const char *param, const glia_range **out, glia_err *err) {
    static const char *const fields[] = {"from", "to"};
    glia_range r = {0, GLIA_RANGE_END};
    *out = NULL;
    if (yyjson_is_obj(v)) {
        glia_status st = glia_known_fields(v, param, fields, 2, err);
        if (!st) st = glia_json_int(v, param, "from", INT32_MIN, INT32_MAX, &r.from, NULL, err);
        if (!st) st = glia_json_int(v, param, "to", INT32_MIN, INT32_MAX, &r.to, NULL, err);
        if (st) return st;
    } else {
        const char *s = yyjson_get_str(v), *colon = s ? strchr(s, ':') : NULL;
        if (!colon) return GLIA_OK;
        if (!bound(s, colon, &r.from) || !bound(colon + 1, s + yyjson_get_len(v), &r.to)) return bad_range(param, err);
    }
    glia_range *mine = glia_acts_own(a, glia_memdup(&r, sizeof r));
    if (!mine) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    *out = mine;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ channels */

glia_status glia_parse_channels(glia_acts *a, yyjson_val *obj, const char *path, glia_hook *h, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, "channels");
    if (!v) return GLIA_OK;
    char param[96];
    glia_json_join(param, sizeof param, path, "channels");
    glia_status st = glia_parse_range(a, v, param, &h->channel_range, err);
    if (st || h->channel_range) return st;
    if (!yyjson_is_num(v) && !yyjson_is_arr(v)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a list of numbers or a range such as \"0:64\", not %s",
                            param, glia_json_kind(v));
    }
    int64_t *list;
    if ((st = glia_parse_numbers(a, v, param, 0, INT32_MAX, &list, &h->n_channels, err))) return st;
    int32_t *channels = glia_acts_own(a, glia_malloc(h->n_channels * sizeof *channels));
    if (!channels) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    for (size_t i = 0; i < h->n_channels; i++) channels[i] = (int32_t)list[i];
    h->channels = channels;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ reduce */

static glia_status parse_op(const char *s, const char *param, glia_reduce_op *out, glia_err *err) {
    const char *names[GLIA_N_REDUCE_OPS];
    char hint[128];
    for (int i = 0; i < GLIA_N_REDUCE_OPS; i++) names[i] = glia_reduce_name((glia_reduce_op)i);
    if (glia_reduce_from_name(s, out)) return GLIA_OK;
    glia_nearest(s, names, GLIA_N_REDUCE_OPS, hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s: \"%.40s\" is not known; the nearest are %s", param, s, hint);
}

static glia_status parse_topk(yyjson_val *v, const char *path, glia_reduce *r, glia_err *err) {
    const char *by = "value";
    char param[96];
    int64_t k = 0;
    bool given;
    glia_status st = glia_json_int(v, path, "k", 1, INT32_MAX, &k, &given, err);
    if (st) return st;
    if (!given) {
        glia_json_join(param, sizeof param, path, "k");
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing: how many values of each row", param);
    }
    r->k = (int32_t)k;
    if ((st = glia_json_str(v, path, "by", &by, err))) return st;
    r->by_magnitude = !strcmp(by, "magnitude");
    if (r->by_magnitude || !strcmp(by, "value")) return GLIA_OK;
    glia_json_join(param, sizeof param, path, "by");
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be \"value\" or \"magnitude\"", param);
}

static glia_status parse_project(glia_acts *a, yyjson_val *v, const char *path, glia_reduce *r, glia_err *err) {
    char param[96];
    glia_matrix m;
    glia_json_join(param, sizeof param, path, "directions");
    glia_status st = glia_json_matrix(glia_json_get(v, "directions"), param, &m, err);
    if (st) return st;
    if (!(r->directions = glia_acts_own(a, m.data))) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    r->n_directions = m.n_rows, r->n_channels = m.n_columns;
    return GLIA_OK;
}

glia_status glia_parse_reduce(glia_acts *a, yyjson_val *obj, const char *path, glia_hook *h, glia_err *err) {
    static const char *const plain[] = {"op"}, *const topk[] = {"op", "k", "by"},
                             *const project[] = {"op", "directions"};
    yyjson_val *v = glia_json_get(obj, "reduce");
    const char *op = NULL;
    char param[96], op_param[96];
    glia_status st;
    if (!v) return GLIA_OK;
    glia_json_join(param, sizeof param, path, "reduce");
    glia_json_join(op_param, sizeof op_param, param, "op");
    if (yyjson_is_str(v)) {
        op = yyjson_get_str(v);
        memcpy(op_param, param, sizeof op_param);
        v = NULL;
    } else if (!yyjson_is_obj(v)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a word or an object with `op`, not %s", param,
                            glia_json_kind(v));
    } else if ((st = glia_json_str(v, param, "op", &op, err))) {
        return st;
    }
    if (!op) return glia_fail_at(err, GLIA_EINVAL, op_param, "%s is missing", op_param);
    glia_reduce *r = &h->reduce;
    if ((st = parse_op(op, op_param, &r->op, err))) return st;
    r->across_phases = a->format.merge && glia_reduce_is_over_rows(r->op); /* one entry per hook: one row over all */
    bool is_topk = r->op == GLIA_REDUCE_TOPK, is_project = r->op == GLIA_REDUCE_PROJECT;
    if (!v && (is_topk || is_project)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s: %s needs more: %s", param, op,
                            is_topk ? "{\"op\": \"topk\", \"k\": 10}"
                                    : "{\"op\": \"project\", \"directions\": [[…], …]}");
    }
    if (!v) return GLIA_OK;
    if (is_topk) st = glia_known_fields(v, param, topk, 3, err);
    else st = is_project ? glia_known_fields(v, param, project, 2, err) : glia_known_fields(v, param, plain, 1, err);
    if (!st && is_topk) st = parse_topk(v, param, r, err);
    if (!st && is_project) st = parse_project(a, v, param, r, err);
    return st;
}

/* api/sweep_read.c — the fields of a sweep, its run and its JSON.  See sweep.h. */
#include "api/hook_fields.h"
#include "api/sweep.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/path.h"
#include "tap/names.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_ANSWERS = 64 };

typedef struct asked {
    glia_sweep_params p;
    bool is_path, free_mlps;
    glia_path_receiver to[GLIA_PATH_MAX_RECEIVERS];
    size_t n_to;
    int32_t *clean, *corrupted;
    int32_t answers[MAX_ANSWERS], wrongs[MAX_ANSWERS];
    glia_sweep_grid grids[GLIA_SWEEP_MAX_GRIDS];
    int32_t *positions;
    glia_acts acts; /* owns lists while positions are read */
} asked;

static void asked_clear(asked *a) {
    glia_free(a->clean);
    glia_free(a->corrupted);
    glia_free(a->positions);
    glia_acts_clear(&a->acts);
}

/* ------------------------------------------------------------------ reading */

/* A token by its id, or by text that is exactly one token. */
static glia_status read_token(const glia_study *s, yyjson_val *v, const char *param, int32_t *out, glia_err *err) {
    int64_t id;
    if (glia_json_whole(v, &id)) {
        if (id >= 0 && id < s->info.n_vocab) {
            *out = (int32_t)id;
            return GLIA_OK;
        }
        return glia_fail_at(err, GLIA_EINVAL, param, "%s: token %lld does not exist: ids run from 0 to %d", param,
                            (long long)id, (int)s->info.n_vocab - 1);
    }
    if (!yyjson_is_str(v)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a token's text or id, not %s", param, glia_json_kind(v));
    }
    int32_t *ids;
    size_t n;
    glia_status st = glia_model_tokenize(s->m, yyjson_get_str(v), yyjson_get_len(v), false, true, &ids, &n, err);
    if (st) return st;
    if (n == 1) *out = ids[0];
    else
        st = glia_fail_at(err, GLIA_EINVAL, param,
                          "%s: \"%.40s\" is %zu tokens, not one (mind the space in front); name an id, or another word",
                          param, yyjson_get_str(v), n);
    glia_free(ids);
    return st;
}

static glia_status read_tokens(const glia_study *s, const char *key, int32_t out[MAX_ANSWERS], size_t *n, glia_err *err) {
    yyjson_val *v = glia_json_get(s->root, key);
    *n = 0;
    if (!v) return GLIA_OK;
    size_t count = yyjson_is_arr(v) ? yyjson_arr_size(v) : 1;
    if (!count || count > MAX_ANSWERS)
        return glia_fail_at(err, GLIA_EINVAL, key, "%s: name 1 to %d tokens", key, (int)MAX_ANSWERS);
    for (size_t i = 0; i < count; i++) {
        char param[64];
        (void)snprintf(param, sizeof param, yyjson_is_arr(v) ? "%s[%zu]" : "%s", key, i);
        glia_status st = read_token(s, yyjson_is_arr(v) ? yyjson_arr_get(v, i) : v, param, &out[(*n)++], err);
        if (st) return st;
    }
    return GLIA_OK;
}

/* A word of a list; *out stays when absent. */
static glia_status read_word(const glia_study *s, const char *key, const char *const *words, int n, int *out, glia_err *err) {
    const char *w = NULL;
    glia_status st = glia_json_str(s->root, "", key, &w, err);
    if (st || !w) return st;
    for (*out = 0; *out < n; (*out)++) {
        if (!strcmp(w, words[*out])) return GLIA_OK;
    }
    char hint[128];
    glia_nearest(w, words, (size_t)n, hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, key, "%s: \"%.40s\" is not known; the nearest are %s", key, w, hint);
}

static glia_status read_grid(const glia_study *s, yyjson_val *v, size_t i, glia_sweep_grid *g, glia_err *err) {
    static const char *const fields[] = {"component", "by"};
    char path[40], param[64];
    const char *by = NULL, *component = NULL;
    (void)snprintf(path, sizeof path, "sweeps[%zu]", i);
    if (!yyjson_is_obj(v))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object with component and by, not %s", path, glia_json_kind(v));
    glia_status st = glia_known_fields(v, path, fields, 2, err);
    if (!st) st = glia_json_str(v, path, "component", &component, err);
    if (!st) st = glia_json_str(v, path, "by", &by, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, "component");
    if (!component) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing: a point, e.g. \"resid_pre\", \"z\"", param);
    const glia_hook_spec spec = {.component = component, .has_layer = true, .output = true};
    glia_hook_target t;
    if ((st = glia_names_resolve(&spec, s->info.n_layer, s->info.arch, &t, err))) {
        if (err) memcpy(err->param, param, strlen(param) + 1);
        return st;
    }
    g->point = t.point[t.n_points - 1];
    g->by = g->point == GLIA_POINT_Z ? GLIA_BY_HEAD : GLIA_BY_POSITION;
    glia_json_join(param, sizeof param, path, "by");
    if (!by || glia_sweep_by_from_name(by, &g->by)) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, param,
                        "%s must be \"layer\", \"position\", \"head\" or \"head_position\", not \"%.40s\"", param, by);
}

static glia_status read_grids(const glia_study *s, asked *a, glia_err *err) {
    static const glia_sweep_grid usual[] = {{GLIA_POINT_RESID_PRE, GLIA_BY_POSITION},
                                            {GLIA_POINT_ATTN_OUT, GLIA_BY_POSITION},
                                            {GLIA_POINT_MLP_OUT, GLIA_BY_POSITION},
                                            {GLIA_POINT_Z, GLIA_BY_HEAD}};
    static const glia_sweep_grid senders[] = {{GLIA_POINT_Z, GLIA_BY_HEAD}, {GLIA_POINT_MLP_OUT, GLIA_BY_LAYER}};
    yyjson_val *list = glia_json_get(s->root, "sweeps");
    a->p.grids = a->grids;
    if (!list && a->is_path) {
        memcpy(a->grids, senders, sizeof senders);
        a->p.n_grids = sizeof senders / sizeof *senders;
        return GLIA_OK;
    }
    if (!list) {
        memcpy(a->grids, usual, sizeof usual);
        a->p.n_grids = sizeof usual / sizeof *usual;
        return GLIA_OK;
    }
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) < 1 || yyjson_arr_size(list) > GLIA_SWEEP_MAX_GRIDS) {
        return glia_fail_at(err, GLIA_EINVAL, "sweeps", "sweeps must be a list of 1 to %d objects with component and by",
                            (int)GLIA_SWEEP_MAX_GRIDS);
    }
    for (size_t i = 0; i < yyjson_arr_size(list); i++) {
        glia_status st = read_grid(s, yyjson_arr_get(list, i), i, &a->grids[a->p.n_grids++], err);
        if (st) return st;
    }
    return GLIA_OK;
}

static glia_status read_receiver(const glia_study *s, yyjson_val *v, size_t i, glia_path_receiver *r, glia_err *err) {
    static const char *const fields[] = {"component", "layer", "head"};
    char path[40], param[64];
    const char *component = NULL;
    int64_t layer = 0, head = -1;
    bool given = false;
    (void)snprintf(path, sizeof path, "path.to[%zu]", i);
    if (!yyjson_is_obj(v))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object with component, layer and head", path);
    glia_status st = glia_known_fields(v, path, fields, 3, err);
    if (!st) st = glia_json_str(v, path, "component", &component, err);
    if (!st) st = glia_json_int(v, path, "layer", -s->info.n_layer, s->info.n_layer - 1, &layer, &given, err);
    if (!st) st = glia_json_int(v, path, "head", 0, 65535, &head, NULL, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, component ? "layer" : "component");
    if (!component || !given) return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing", param);
    *r = (glia_path_receiver){.layer = (int32_t)(layer < 0 ? layer + s->info.n_layer : layer), .head = (int32_t)head};
    if (glia_point_from_name(component, &r->point)) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, param, "%s: a receiver is q, k, value, attn_in, mlp_in or resid_pre, not \"%.40s\"", path,
                        component);
}

/* "path": {"to": "logits" or receivers, "mlps": "held" or "free"} */
static glia_status read_path(const glia_study *s, asked *a, glia_err *err) {
    static const char *const fields[] = {"to", "mlps"};
    yyjson_val *path = glia_json_get(s->root, "path"), *to = glia_json_get(path, "to");
    const char *mlps = NULL;
    if (!path) return GLIA_OK;
    if (!yyjson_is_obj(path)) return glia_fail_at(err, GLIA_EINVAL, "path", "path must be an object with `to`, not %s", glia_json_kind(path));
    glia_status st = glia_known_fields(path, "path", fields, 2, err);
    if (!st) st = glia_json_str(path, "path", "mlps", &mlps, err);
    if (st) return st;
    a->is_path = true, a->free_mlps = mlps && !strcmp(mlps, "free");
    if (mlps && !a->free_mlps && strcmp(mlps, "held") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "path.mlps", "path.mlps must be \"held\" or \"free\"");
    if (!to || yyjson_equals_str(to, "logits")) return GLIA_OK;
    if (!yyjson_is_arr(to) || !yyjson_arr_size(to) || yyjson_arr_size(to) > GLIA_PATH_MAX_RECEIVERS) {
        return glia_fail_at(err, GLIA_EINVAL, "path.to", "path.to must be \"logits\" or a list of 1 to %d receivers",
                            (int)GLIA_PATH_MAX_RECEIVERS);
    }
    for (size_t i = 0; i < yyjson_arr_size(to) && !st; i++) st = read_receiver(s, yyjson_arr_get(to, i), i, &a->to[a->n_to++], err);
    return st;
}

static glia_status read_positions(const glia_study *s, asked *a, glia_err *err) {
    glia_hook h = {0};
    int64_t n = (int64_t)a->p.n_clean;
    glia_status st = glia_parse_positions(&a->acts, s->root, "", "positions", GLIA_PHASE_PROMPT, &h, err);
    if (st || (!h.positions && !h.range)) return st;
    int64_t from = h.range ? h.range->from : 0, to = h.range ? h.range->to : (int64_t)h.n_positions;
    if (h.range) from += from < 0 ? n : 0, to = to == GLIA_RANGE_END ? n : to < 0 ? to + n : to;
    if (to <= from || from < 0 || to - from > n) {
        return glia_fail_at(err, GLIA_EINVAL, "positions", "positions must name some of the %lld tokens, each once",
                            (long long)n);
    }
    if (!(a->positions = glia_malloc((size_t)(to - from) * sizeof *a->positions)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for positions");
    for (int64_t i = from; i < to; i++) {
        int64_t p = h.range ? i : h.positions[i] < 0 ? h.positions[i] + n : h.positions[i];
        a->positions[a->p.n_positions++] = p < 0 || p > INT32_MAX ? INT32_MAX : (int32_t)p;
    }
    a->p.positions = a->positions;
    return GLIA_OK;
}

static glia_status read_all(glia_study *s, asked *a, glia_err *err) {
    static const char *const fields[] = {"model",  "clean",  "corrupted", "answer",    "wrong", "metric",
                                         "op",     "sweeps", "layers",    "positions", "wait",  "path"};
    static const char *const metrics[] = {
#define X(id, name, meaning) name,
        GLIA_METRIC_MAP(X)
#undef X
    };
    static const char *const ops[] = {"denoise", "noise", "zero", "mean"};
    int metric = GLIA_METRIC_LOGIT_DIFFERENCE, op = GLIA_SWEEP_DENOISE;
    glia_status st = glia_known_fields(s->root, "", fields, sizeof fields / sizeof *fields, err);
    if (!st) st = read_word(s, "metric", metrics, GLIA_N_METRICS, &metric, err);
    if (!st) st = read_word(s, "op", ops, 4, &op, err);
    if (!st) st = glia_study_prompt_at(s, "clean", &a->clean, &a->p.n_clean, err);
    if (!st && !a->clean) st = glia_fail_at(err, GLIA_EINVAL, "clean", "clean is missing: a prompt, text or token ids");
    if (!st) st = glia_study_prompt_at(s, "corrupted", &a->corrupted, &a->p.n_corrupted, err);
    if (!st) st = read_tokens(s, "answer", a->answers, &a->p.metric.n_answers, err);
    if (!st) st = read_tokens(s, "wrong", a->wrongs, &a->p.metric.n_wrongs, err);
    if (!st) st = read_path(s, a, err);
    if (!st) st = read_grids(s, a, err);
    if (!st) st = glia_study_layers(s, "layers", err);
    if (!st) st = read_positions(s, a, err);
    a->p.clean = a->clean, a->p.corrupted = a->corrupted;
    a->p.op = (glia_sweep_op)op, a->p.metric.metric = (glia_metric)metric;
    a->p.metric.answers = a->answers, a->p.metric.wrongs = a->wrongs;
    a->p.layers = s->layers, a->p.n_layers = s->n_layers;
    return st;
}

/* ------------------------------------------------------------------ writing */

static glia_status add_prompt(glia_buf *b, const glia_study *s, const char *key, const int32_t *ids, size_t n,
                              double value, glia_err *err) {
    glia_buf_addf(b, ",\"%s\":", key);
    if (!ids) {
        glia_buf_adds(b, "null");
        return GLIA_OK;
    }
    glia_buf_adds(b, "{\"value\":");
    glia_json_add_real(b, value);
    glia_buf_adds(b, ",\"tokens\":");
    glia_status st = glia_json_add_tokens(b, s->m, ids, n, err);
    glia_buf_adds(b, "}");
    return st;
}

static glia_status add_tokens_of(glia_buf *b, const glia_study *s, const char *key, const int32_t *ids, size_t n, glia_err *err) {
    glia_buf_addf(b, ",\"%s\":[", key);
    glia_status st = GLIA_OK;
    for (size_t i = 0; i < n && !st; i++) {
        glia_buf_addf(b, "%s{\"id\":%d,\"text\":", i ? "," : "", (int)ids[i]);
        st = glia_json_add_token(b, s->m, ids[i], err);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]");
    return st;
}

static void add_list(glia_buf *b, const char *key, const int32_t *x, size_t n) {
    glia_buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) glia_buf_addf(b, i ? ",%d" : "%d", (int)x[i]);
    glia_buf_adds(b, "]");
}

/* Nested lists along the axes that the sweep has. */
static void add_values(glia_buf *b, const double **at, const size_t *shape, int rank) {
    if (!rank) {
        if (isfinite(**at)) glia_buf_addf(b, "%.10g", **at);
        else glia_buf_adds(b, "null");
        (*at)++;
        return;
    }
    glia_buf_adds(b, "[");
    for (size_t i = 0; i < shape[0]; i++) {
        if (i) glia_buf_adds(b, ",");
        add_values(b, at, shape + 1, rank - 1);
    }
    glia_buf_adds(b, "]");
}

static void add_grid(glia_buf *b, const glia_sweep *o, const glia_sweep_values *v) {
    size_t shape[3] = {o->n_layers};
    int rank = 1;
    glia_buf_addf(b, "{\"component\":\"%s\",\"by\":\"%s\",\"axes\":[\"layer\"", glia_point_name(v->grid.point),
                  glia_sweep_by_name(v->grid.by));
    if (v->grid.by == GLIA_BY_HEAD || v->grid.by == GLIA_BY_HEAD_POSITION) {
        glia_buf_adds(b, ",\"head\"");
        shape[rank++] = (size_t)v->n_heads;
    }
    if (v->grid.by == GLIA_BY_POSITION || v->grid.by == GLIA_BY_HEAD_POSITION) {
        glia_buf_adds(b, ",\"position\"");
        shape[rank++] = (size_t)v->n_positions;
    }
    glia_buf_adds(b, "],\"shape\":[");
    for (int i = 0; i < rank; i++) glia_buf_addf(b, i ? ",%zu" : "%zu", shape[i]);
    glia_buf_adds(b, "],\"values\":");
    const double *at = v->values;
    add_values(b, &at, shape, rank);
    glia_buf_adds(b, ",\"recovered\":");
    if ((at = v->recovered)) add_values(b, &at, shape, rank);
    else glia_buf_adds(b, "null");
    glia_buf_adds(b, "}");
}

static glia_status add_result(glia_buf *b, const glia_study *s, const asked *a, const glia_sweep *o, glia_err *err) {
    const glia_sweep_params *p = &a->p;
    glia_buf_adds(b, "{\"model\":");
    glia_json_add_cstr(b, s->info.id);
    glia_buf_addf(b, ",\"op\":\"%s\",\"metric\":\"%s\"", glia_sweep_op_name(p->op), glia_metric_name(p->metric.metric));
    glia_status st = add_prompt(b, s, "clean", p->clean, p->n_clean, o->clean, err);
    if (!st) st = add_prompt(b, s, "corrupted", p->corrupted, p->n_corrupted, o->corrupted, err);
    if (!st) st = add_tokens_of(b, s, "answer", p->metric.answers, p->metric.n_answers, err);
    if (!st) st = add_tokens_of(b, s, "wrong", p->metric.wrongs, p->metric.n_wrongs, err);
    if (st) return st;
    add_list(b, "layers", o->layers, o->n_layers);
    add_list(b, "positions", o->positions, o->n_positions);
    if (a->is_path) {
        glia_buf_addf(b, ",\"path\":{\"mlps\":\"%s\",\"to\":%s", a->free_mlps ? "free" : "held", a->n_to ? "[" : "\"logits\"");
        for (size_t i = 0; i < a->n_to; i++) {
            glia_buf_addf(b, "%s{\"component\":\"%s\",\"layer\":%d", i ? "," : "", glia_point_name(a->to[i].point), (int)a->to[i].layer);
            if (a->to[i].head >= 0) glia_buf_addf(b, ",\"head\":%d", (int)a->to[i].head);
            glia_buf_adds(b, "}");
        }
        glia_buf_adds(b, a->n_to ? "]}" : "}");
    }
    glia_buf_adds(b, ",\"sweeps\":[");
    for (size_t g = 0; g < o->n_grids; g++) {
        if (g) glia_buf_adds(b, ",");
        add_grid(b, o, &o->grids[g]);
    }
    glia_buf_addf(b, "],\"interventions\":{\"run\":%zu,\"unchanged\":%zu,\"seconds\":%.3f,\"per_second\":%.2f,", o->n_run, o->n_same,
                  o->seconds, o->seconds > 0 ? (double)(o->n_run + o->n_same) / o->seconds : 0.0);
    glia_buf_addf(b, "\"tokens_computed\":%llu,\"tokens_shared\":%llu}}", (unsigned long long)o->n_tokens,
                  (unsigned long long)o->n_shared);
    return b->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the result") : GLIA_OK;
}

glia_status glia_sweep_answer(glia_study *s, bool (*tell)(void *ud, size_t n_done, size_t n_total), void *ud, glia_buf *b,
                              glia_err *err) {
    glia_sweep *o = NULL;
    asked *a = glia_calloc(1, sizeof *a);
    if (!a) return glia_fail(err, GLIA_ENOMEM, "no memory for a sweep");
    glia_status st = read_all(s, a, err);
    if (!st) {
        a->p.on_progress = tell, a->p.ud = ud;
        const glia_path_params path = {.sweep = a->p, .to = a->to, .n_to = a->n_to, .free_mlps = a->free_mlps};
        st = a->is_path ? glia_path_run(&o, s->m, &path, err) : glia_sweep_run(&o, s->m, &a->p, err);
    }
    if (!st) st = add_result(b, s, a, o, err);
    glia_sweep_free(o);
    asked_clear(a);
    glia_free(a);
    return st;
}

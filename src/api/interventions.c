/* api/interventions.c — reading what a request changes inside the model.  Any thread. */
#include "api/directions.h"
#include "api/hook_fields.h"
#include "api/tensor.h"
#include "base/err.h"
#include "base/mem.h"
#include "tap/names.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_EDITS = 4096 };

/* Words for an operation besides its own name; the last ones are NeuroScope's.  source: where its numbers come from when
 * it has no vector; component: what is meant when none is named. */
static const struct word {
    const char *word;
    glia_edit_op op;
    glia_source_kind source;
    const char *component;
} words[] = {
    {"set", GLIA_EDIT_SET, GLIA_SOURCE_PATCH, NULL},
    {"patch", GLIA_EDIT_SET, GLIA_SOURCE_PATCH, NULL},
    {"mean", GLIA_EDIT_SET, GLIA_SOURCE_MEAN, NULL},
    {"resample", GLIA_EDIT_SET, GLIA_SOURCE_RESAMPLE, NULL},
    {"knockout", GLIA_EDIT_KNOCKOUT, GLIA_SOURCE_NONE, "attn_probs"},
    {"attention_knockout", GLIA_EDIT_KNOCKOUT, GLIA_SOURCE_NONE, "attn_probs"},
    {"ablate", GLIA_EDIT_ZERO, GLIA_SOURCE_NONE, NULL},
    {"head_ablation", GLIA_EDIT_ZERO, GLIA_SOURCE_NONE, "z"},
    {"zero_ablation", GLIA_EDIT_ZERO, GLIA_SOURCE_NONE, NULL},
    {"mean_ablation", GLIA_EDIT_SET, GLIA_SOURCE_MEAN, NULL},
    {"resample_ablation", GLIA_EDIT_SET, GLIA_SOURCE_RESAMPLE, NULL},
    {"activation_patching", GLIA_EDIT_SET, GLIA_SOURCE_PATCH, NULL},
    {"noise_injection", GLIA_EDIT_NOISE, GLIA_SOURCE_NONE, NULL},
    {"random_replacement", GLIA_EDIT_RANDOM, GLIA_SOURCE_NONE, NULL},
    {"scaled_intervention", GLIA_EDIT_SCALE, GLIA_SOURCE_NONE, NULL},
};
enum { N_WORDS = sizeof words / sizeof *words };

static glia_status find_op(const char *s, const char *param, struct word *out, glia_err *err) {
    const char *known[GLIA_N_EDIT_OPS + N_WORDS];
    char hint[128];
    for (int i = 0; i < N_WORDS; i++) {
        known[GLIA_N_EDIT_OPS + i] = words[i].word;
        *out = words[i];
        if (!strcmp(s, words[i].word)) return GLIA_OK;
    }
    for (int i = 0; i < GLIA_N_EDIT_OPS; i++) {
        known[i] = glia_edit_name((glia_edit_op)i);
        *out = (struct word){known[i], (glia_edit_op)i, GLIA_SOURCE_NONE, NULL};
        if (!strcmp(s, known[i])) return GLIA_OK;
    }
    if (!strcmp(s, "gradient_based")) {
        return glia_fail_at(err, GLIA_EHOOK, param, "%s: gradients are not computed here; what a place does is measured by sweeps "
                            "(POST /api/v1/sweeps)", param);
    }
    glia_nearest(s, known, GLIA_N_EDIT_OPS + N_WORDS, hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s: \"%.40s\" is not known; the nearest are %s", param, s, hint);
}

static glia_status parse_op(yyjson_val *v, const char *path, struct word *out, glia_err *err) {
    const char *op = NULL, *type = NULL;
    char param[96];
    glia_status st = glia_json_str(v, path, "op", &op, err);
    if (!st) st = glia_json_str(v, path, "type", &type, err);
    if (st) return st;
    glia_json_join(param, sizeof param, path, op || !type ? "op" : "type");
    if (op && type) return glia_fail_at(err, GLIA_EINVAL, param, "%s and type are two names of one field", param);
    if (!op && !type) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing: say what happens, e.g. \"add\", \"zero\"", param);
    }
    return find_op(op ? op : type, param, out, err);
}

/* A matrix under key, owned by a.  Absent: *out stays. */
static glia_status parse_matrix(glia_acts *a, yyjson_val *v, const char *path, const char *key, const float **out,
                                size_t *n_rows, size_t *n_columns, glia_err *err) {
    char param[96];
    glia_matrix m;
    yyjson_val *x = glia_json_get(v, key);
    if (!x || glia_direction_is_named(x)) return GLIA_OK;
    glia_json_join(param, sizeof param, path, key);
    glia_status st = glia_json_matrix(x, param, &m, err);
    if (st) return st;
    if (!(*out = glia_acts_own(a, m.data))) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    *n_rows = m.n_rows, *n_columns = m.n_columns;
    return GLIA_OK;
}

static glia_status parse_when(glia_acts *a, yyjson_val *v, const char *path, glia_edit *e, glia_err *err) {
    static const char *const fields[] = {"direction", "above", "below"};
    yyjson_val *when = glia_json_get(v, "when");
    char param[96];
    if (!when) return GLIA_OK;
    glia_json_join(param, sizeof param, path, "when");
    if (!yyjson_is_obj(when)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be an object with direction and above or below, not %s",
                            param, glia_json_kind(when));
    }
    size_t n_rows = 0;
    bool above = false, below = false;
    double threshold = 0;
    glia_status st = glia_known_fields(when, param, fields, 3, err);
    if (!st) st = parse_matrix(a, when, param, "direction", &e->when, &n_rows, &e->n_when, err);
    if (!st) st = glia_json_num(when, param, "above", -1e30, 1e30, &threshold, &above, err);
    if (!st) st = glia_json_num(when, param, "below", -1e30, 1e30, &threshold, &below, err);
    if (st) return st;
    if (!e->when || n_rows != 1 || above == below) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s needs one direction, and above or below", param);
    }
    e->threshold = (float)threshold, e->below = below;
    return GLIA_OK;
}

static glia_status parse_numbers(yyjson_val *v, const char *path, glia_edit *e, glia_err *err) {
    double strength = 1, min = -INFINITY, max = INFINITY, value = 0;
    int64_t seed = 0;
    bool given = false;
    char param[96];
    glia_status st = glia_json_num(v, path, "strength", -1e30, 1e30, &strength, &given, err);
    if (!st) st = glia_json_num(v, path, "min", -1e30, 1e30, &min, NULL, err);
    if (!st) st = glia_json_num(v, path, "max", -1e30, 1e30, &max, NULL, err);
    if (!st) st = glia_json_int(v, path, "seed", 0, INT64_MAX, &seed, NULL, err);
    if (st) return st;
    if (!given && e->op == GLIA_EDIT_SCALE) {
        glia_json_join(param, sizeof param, path, "strength");
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing: the factor", param);
    }
    if ((st = glia_json_num(v, path, "value", -1e30, 1e30, &value, &given, err))) return st;
    if (given) min = max = value;
    e->strength = (float)strength, e->min = (float)min, e->max = (float)max, e->seed = (uint64_t)seed;
    return GLIA_OK;
}

/* Which positions attended to. */
static glia_status parse_to(glia_acts *a, yyjson_val *v, const char *path, glia_edit *e, glia_err *err) {
    yyjson_val *to = glia_json_get(v, "to");
    glia_hook h = {0};
    if (!to) return GLIA_OK;
    if (yyjson_equals_str(to, "prompt") || yyjson_equals_str(to, "generated")) {
        char param[96];
        glia_json_join(param, sizeof param, path, "to");
        return glia_fail_at(err, GLIA_EINVAL, param,
                            "%s must be \"all\", \"last\", a range such as \"0:5\" or a list of positions", param);
    }
    glia_status st = glia_parse_positions(a, v, path, "to", GLIA_PHASE_ALL, &h, err);
    e->to = h.positions, e->n_to = h.n_positions, e->to_range = h.range;
    return st;
}

/* What one entry became; its layers are spread when all are known. */
typedef struct entry {
    glia_hook_target target;
    glia_edit edit;
    glia_edit_source source;
    yyjson_val *named; /* a file that holds its vector, or one for each layer; NULL: none */
    const char *named_key;
} entry;

/* Numbers that the entry does not hold come from another run. */
static glia_status parse_source(yyjson_val *v, const char *path, const struct word *w, entry *e, glia_err *err) {
    char param[96];
    yyjson_val *source = glia_json_get(v, "source");
    glia_json_join(param, sizeof param, path, "source");
    if (!source && (e->edit.rows || e->named || w->source != GLIA_SOURCE_MEAN)) {
        if (w->source != GLIA_SOURCE_RESAMPLE) return GLIA_OK;
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is missing: the prompt that rows are drawn from", param);
    }
    if (w->source == GLIA_SOURCE_NONE) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s: only patch, mean and resample take their numbers from a run",
                            param);
    }
    if (e->edit.rows || e->named) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s and vector contradict each other: give one of them", param);
    }
    e->source.kind = w->source, e->source.v = source, e->source.seed = e->edit.seed;
    return GLIA_OK;
}

static glia_status parse_entry(glia_acts *a, yyjson_val *v, const char *path, int32_t n_layer, const char *arch,
                               entry *e, glia_err *err) {
    static const char *const fields[] = {"layer",    "layer_name", "component", "name",   "positions", "heads",
                                         "channels", "op",         "type",      "vector", "direction", "strength",
                                         "min",      "max",        "value",     "seed",   "when",      "to",
                                         "source"};
    if (!yyjson_is_obj(v))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(v));
    glia_edit *d = &e->edit;
    glia_hook_spec spec = {.output = true};
    struct word w = {0};
    glia_status st = glia_known_fields(v, path, fields, sizeof fields / sizeof *fields, err);
    if (!st) st = parse_op(v, path, &w, err);
    if (st) return st;
    d->op = w.op;
    if (!glia_json_get(v, "name") && !glia_json_get(v, "layer_name")) spec.component = w.component;
    st = glia_parse_where(a, v, path, GLIA_PHASE_ALL, n_layer, arch, &spec, &e->target, &d->where, err);
    if (!st) st = parse_matrix(a, v, path, "vector", &d->rows, &d->n_rows, &d->n_channels, err);
    if (!st && glia_json_get(v, "vector") && glia_json_get(v, "direction")) {
        return glia_fail_at(err, GLIA_EINVAL, path, "%s: vector and direction are two names of one field", path);
    }
    e->named_key = glia_json_get(v, "vector") ? "vector" : "direction";
    e->named = glia_json_get(v, e->named_key);
    if (!glia_direction_is_named(e->named)) e->named = NULL;
    if (!st) st = parse_matrix(a, v, path, "direction", &d->rows, &d->n_rows, &d->n_channels, err);
    if (!st) st = parse_numbers(v, path, d, err);
    if (!st) st = parse_to(a, v, path, d, err);
    if (!st) st = parse_when(a, v, path, d, err);
    return st ? st : parse_source(v, path, &w, e, err);
}

/* The vector of an edit whose entry names a file.  *none: it has none for this layer, where others may have. */
static glia_status load_named(glia_acts *a, const entry *en, size_t index, int32_t layer, glia_edit *e, bool *none,
                              glia_err *err) {
    char param[64];
    glia_matrix m;
    *none = false;
    if (!en->named) return GLIA_OK;
    (void)snprintf(param, sizeof param, "interventions[%zu].%s", index, en->named_key);
    glia_status st = glia_direction_read(a->app, en->named, param, layer, &m, none, err);
    if (st && *none && en->target.all_layers) return GLIA_OK;
    if (st) return st;
    *none = false;
    if (!(e->rows = glia_acts_own(a, m.data))) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    e->n_rows = m.n_rows, e->n_channels = m.n_columns;
    return GLIA_OK;
}

static glia_status spread(glia_acts *a, const entry *entries, size_t n, int32_t n_layer, glia_err *err) {
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += entries[i].target.all_layers ? (size_t)n_layer : 1;
    if (total > MAX_EDITS) {
        return glia_fail_at(err, GLIA_EINVAL, "interventions", "these stand for %zu interventions, more than %d", total,
                            (int)MAX_EDITS);
    }
    a->edits = glia_acts_own(a, glia_calloc(total, sizeof *a->edits));
    a->edit_sources = glia_acts_own(a, glia_calloc(total, sizeof *a->edit_sources));
    a->sources = glia_acts_own(a, glia_calloc(n, sizeof *a->sources));
    if (!a->edits || !a->edit_sources || !a->sources) return glia_fail(err, GLIA_ENOMEM, "interventions");
    for (size_t i = 0; i < n; i++) {
        const glia_hook_target *t = &entries[i].target;
        int32_t first = t->all_layers ? 0 : t->layer, last = t->all_layers ? n_layer - 1 : t->layer;
        if (entries[i].source.kind) {
            glia_edit_source *src = &a->sources[a->n_sources++];
            *src = entries[i].source;
            src->entry = i, src->first = a->n_edits, src->n = (size_t)(last - first + 1);
        }
        size_t before = a->n_edits;
        for (int32_t layer = first; layer <= last; layer++) {
            glia_edit *e = &a->edits[a->n_edits];
            *e = entries[i].edit;
            e->where.point = t->point[t->n_points - 1];
            e->where.layer = glia_point_has_layer(e->where.point) ? layer : -1;
            bool none;
            glia_status st = load_named(a, &entries[i], i, layer, e, &none, err);
            if (st) return st;
            if (!none) a->edit_sources[a->n_edits++] = i;
        }
        if (a->n_edits == before) {
            return glia_fail_at(err, GLIA_ENOTFOUND, "interventions", "interventions[%zu]: its file has a direction for none of the %d layers",
                                i, (int)n_layer);
        }
    }
    return GLIA_OK;
}

glia_status glia_edits_parse(glia_acts *a, yyjson_val *root, int32_t n_layer, const char *arch, glia_err *err) {
    const char *param = "interventions";
    yyjson_val *list = glia_json_get(root, param), *item;
    if (!list) return GLIA_OK;
    if (!yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a list, not %s", param, glia_json_kind(list));
    size_t n = yyjson_arr_size(list), i = 0;
    if (!n) return GLIA_OK;
    if (n > MAX_EDITS) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s holds %zu entries, more than %d", param, n, (int)MAX_EDITS);
    }
    entry *entries = glia_calloc(n, sizeof *entries);
    if (!entries) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    yyjson_arr_iter it;
    glia_status st = GLIA_OK;
    for (yyjson_arr_iter_init(list, &it); !st && (item = yyjson_arr_iter_next(&it)); i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "%s[%zu]", param, i);
        st = parse_entry(a, item, path, n_layer, arch, &entries[i], err);
    }
    if (!st) st = spread(a, entries, n, n_layer, err);
    glia_free(entries);
    return st;
}

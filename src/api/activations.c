/* api/activations.c — reading hooks: fields, names, keys.  Writing is in entries.c.  Any thread. */
#include "api/activations.h"
#include "api/hook_fields.h"
#include "base/err.h"
#include "base/mem.h"
#include "tap/names.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ ownership */

void *glia_acts_own(glia_acts *a, void *p) {
    if (!p) return NULL;
    if (a->n_owned == a->cap_owned) {
        size_t cap = a->cap_owned ? 2 * a->cap_owned : 64;
        void **more = glia_realloc(a->owned, cap * sizeof *more);
        if (!more) {
            glia_free(p);
            return NULL;
        }
        a->owned = more, a->cap_owned = cap;
    }
    return a->owned[a->n_owned++] = p;
}

static char *own_format(glia_acts *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static char *own_format(glia_acts *a, const char *fmt, ...) {
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : glia_acts_own(a, s);
}

void glia_acts_clear(glia_acts *a) {
    for (size_t i = 0; i < a->n_owned; i++) glia_free(a->owned[i]);
    glia_free(a->owned);
    glia_free(a->hooks);
    glia_free(a->labels);
    glia_free(a->keys);
    *a = (glia_acts){0};
}

/* ------------------------------------------------------------------ fields */

glia_status glia_known_fields(yyjson_val *obj, const char *path, const char *const *list, size_t n, glia_err *err) {
    yyjson_obj_iter it;
    yyjson_val *key;
    for (yyjson_obj_iter_init(obj, &it); (key = yyjson_obj_iter_next(&it));) {
        size_t i = 0;
        while (i < n && !yyjson_equals_str(key, list[i])) i++;
        if (i < n) continue;
        char param[96], hint[128], shown[64];
        (void)snprintf(shown, sizeof shown, "%.60s", unsafe_yyjson_get_str(key));
        glia_json_join(param, sizeof param, path, shown);
        glia_nearest(shown, list, n, hint, sizeof hint);
        return glia_fail_at(err, GLIA_EINVAL, param, "unknown field %s; the nearest are %s", param, hint);
    }
    return GLIA_OK;
}

/* One of a few words.  *out stays when absent. */
static glia_status word(yyjson_val *obj, const char *path, const char *key, const char *const *words, int n, int *out,
                        glia_err *err) {
    const char *s = NULL;
    glia_status st = glia_json_str(obj, path, key, &s, err);
    if (st || !s) return st;
    char param[96], list[96] = "";
    for (int i = 0; i < n; i++) {
        if (!strcmp(s, words[i])) {
            *out = i;
            return GLIA_OK;
        }
        size_t at = strlen(list);
        (void)snprintf(list + at, sizeof list - at, "%s\"%s\"", !i ? "" : i + 1 == n ? " or " : ", ", words[i]);
    }
    glia_json_join(param, sizeof param, path, key);
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be %s, not \"%.40s\"", param, list, s);
}

static const char *const dtype_words[] = {"float32", "float16", "bfloat16"};
static const char *const encoding_words[] = {"list", "base64"};

static glia_status parse_include(yyjson_val *format, uint32_t *out, glia_err *err) {
    yyjson_val *list = glia_json_get(format, "include"), *item;
    yyjson_arr_iter it;
    if (!list) return GLIA_OK;
    const char *param = "activation_format.include";
    if (!yyjson_is_arr(list) || !yyjson_arr_size(list)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a list of \"prompt\" and \"generated\"", param);
    }
    *out = 0;
    for (yyjson_arr_iter_init(list, &it); (item = yyjson_arr_iter_next(&it));) {
        if (yyjson_equals_str(item, "prompt")) *out |= GLIA_PHASE_PROMPT;
        else if (yyjson_equals_str(item, "generated")) *out |= GLIA_PHASE_GENERATED;
        else return glia_fail_at(err, GLIA_EINVAL, param, "%s takes only \"prompt\" and \"generated\"", param);
    }
    return GLIA_OK;
}

static glia_status parse_format(glia_act_format *f, yyjson_val *root, glia_err *err) {
    static const char *const fields[] = {"encoding", "dtype", "include", "merge", "compression", "first_frame"};
    static const char *const compressions[] = {"none", "zstd"};
    *f = (glia_act_format){.include = GLIA_PHASE_ALL};
    yyjson_val *format = glia_json_get(root, "activation_format");
    if (!format) return GLIA_OK;
    const char *path = "activation_format";
    if (!yyjson_is_obj(format))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(format));
    int encoding = GLIA_ENC_LIST, dtype = GLIA_F32, compression = 0;
    int64_t first = 0;
    glia_status st;
    if ((st = glia_known_fields(format, path, fields, sizeof fields / sizeof *fields, err))) return st;
    if ((st = word(format, path, "encoding", encoding_words, 2, &encoding, err))) return st;
    if ((st = word(format, path, "dtype", dtype_words, 3, &dtype, err))) return st;
    if ((st = glia_json_bool(format, path, "merge", &f->merge, NULL, err))) return st;
    if ((st = word(format, path, "compression", compressions, 2, &compression, err))) return st;
    if ((st = glia_json_int(format, path, "first_frame", 0, INT64_MAX, &first, NULL, err))) return st;
    f->zstd = compression == 1, f->first = (uint64_t)first;
    f->encoding = (glia_encoding)encoding, f->dtype = (glia_dtype)dtype;
    return parse_include(format, &f->include, err);
}

glia_status glia_parse_numbers(glia_acts *a, yyjson_val *v, const char *param, int64_t min, int64_t max, int64_t **out,
                               size_t *n_out, glia_err *err) {
    size_t n = yyjson_is_arr(v) ? yyjson_arr_size(v) : 1;
    if (!n) return glia_fail_at(err, GLIA_EINVAL, param, "%s must not be empty", param);
    if (n > GLIA_MAX_POSITIONS)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s: at most %d numbers", param, (int)GLIA_MAX_POSITIONS);
    int64_t *list = glia_acts_own(a, glia_malloc(n * sizeof *list));
    if (!list) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    yyjson_val *item = yyjson_is_arr(v) ? yyjson_arr_get_first(v) : v;
    for (size_t i = 0; i < n; i++, item = unsafe_yyjson_get_next(item)) {
        if (!glia_json_whole(item, &list[i]) || list[i] < min || list[i] > max) {
            return glia_fail_at(err, GLIA_EINVAL, param, "%s: entry %zu must be a whole number from %lld to %lld",
                                param, i, (long long)min, (long long)max);
        }
    }
    *out = list, *n_out = n;
    return GLIA_OK;
}

glia_status glia_parse_positions(glia_acts *a, yyjson_val *obj, const char *path, const char *key, uint32_t phases,
                                 glia_hook *h, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, key);
    char param[96];
    glia_json_join(param, sizeof param, path, key);
    h->phases = phases;
    if (!v) return GLIA_OK;
    int64_t *list;
    glia_status st = glia_parse_range(a, v, param, &h->range, err);
    if (st || h->range) return st;
    if (yyjson_is_str(v)) {
        if (yyjson_equals_str(v, "last")) {
            if (!(list = glia_acts_own(a, glia_malloc(sizeof *list)))) return glia_fail(err, GLIA_ENOMEM, "%s", param);
            list[0] = -1;
            h->positions = list, h->n_positions = 1;
        } else if (yyjson_equals_str(v, "prompt")) {
            h->phases &= GLIA_PHASE_PROMPT;
        } else if (yyjson_equals_str(v, "generated")) {
            h->phases &= GLIA_PHASE_GENERATED;
        } else if (!yyjson_equals_str(v, "all")) {
            return glia_fail_at(
                err, GLIA_EINVAL, param,
                "%s must be \"all\", \"last\", \"prompt\", \"generated\", a range such as \"3:10\" or a list "
                "of numbers",
                param);
        }
        if (h->phases) return GLIA_OK;
        return glia_fail_at(err, GLIA_EINVAL, param, "%s selects rows that activation_format.include leaves out",
                            param);
    }
    if (!yyjson_is_num(v) && !yyjson_is_arr(v)) {
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a word, a range or a list of numbers, not %s", param,
                            glia_json_kind(v));
    }
    st = glia_parse_numbers(a, v, param, INT32_MIN, INT32_MAX, &list, &h->n_positions, err);
    if (!st) h->positions = list;
    return st;
}

static glia_status parse_heads(glia_acts *a, yyjson_val *obj, const char *path, glia_hook *h, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, "heads");
    if (!v) return GLIA_OK;
    char param[96];
    glia_json_join(param, sizeof param, path, "heads");
    if (!yyjson_is_num(v) && !yyjson_is_arr(v))
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a list of numbers, not %s", param, glia_json_kind(v));
    int64_t *list;
    glia_status st = glia_parse_numbers(a, v, param, 0, 65535, &list, &h->n_heads, err);
    if (st) return st;
    int32_t *heads = glia_acts_own(a, glia_malloc(h->n_heads * sizeof *heads));
    if (!heads) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    for (size_t i = 0; i < h->n_heads; i++) heads[i] = (int32_t)list[i];
    h->heads = heads;
    return GLIA_OK;
}

static glia_status parse_layer(yyjson_val *obj, const char *path, glia_hook_spec *s, glia_err *err) {
    yyjson_val *v = glia_json_get(obj, "layer");
    if (!v) return GLIA_OK;
    if (yyjson_is_str(v)) return glia_json_str(obj, path, "layer", &s->layer_text, err);
    char param[96];
    glia_json_join(param, sizeof param, path, "layer");
    s->has_layer = true;
    if (glia_json_whole(v, &s->layer)) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a whole number, a name or \"*\", not %s", param,
                        yyjson_is_num(v) ? "a fraction" : glia_json_kind(v));
}

glia_status glia_parse_where(glia_acts *a, yyjson_val *v, const char *path, uint32_t phases, int32_t n_layer,
                             const char *arch, glia_hook_spec *s, glia_hook_target *target, glia_hook *rows,
                             glia_err *err) {
    glia_status st;
    if ((st = parse_layer(v, path, s, err))) return st;
    if ((st = glia_json_str(v, path, "layer_name", &s->layer_name, err))) return st;
    if ((st = glia_json_str(v, path, "component", &s->component, err))) return st;
    if ((st = glia_json_str(v, path, "name", &s->name, err))) return st;
    if ((st = glia_parse_positions(a, v, path, "positions", phases, rows, err))) return st;
    if ((st = parse_heads(a, v, path, rows, err))) return st;
    if ((st = glia_parse_channels(a, v, path, rows, err))) return st;
    if ((st = glia_names_resolve(s, n_layer, arch, target, err)) && err) { /* the resolver knows no list */
        char param[sizeof err->param];
        glia_json_join(param, sizeof param, path, err->param);
        memcpy(err->param, param, sizeof param);
    }
    return st;
}

/* ------------------------------------------------------------------ one entry of the list */

/* What one entry of the request became; keys are made when all are known. */
typedef struct wish {
    glia_hook_spec spec;
    glia_hook_target target;
    glia_hook rows; /* all but point and layer */
    glia_dtype dtype;
    const char *hook_id;
} wish;

static glia_status parse_wish(glia_acts *a, yyjson_val *v, const char *list, size_t index, int32_t n_layer,
                              const char *arch, wish *w, glia_err *err) {
    static const char *const fields[] = {"layer",   "layer_name",    "component",      "name",
                                         "hook_id", "capture_input", "capture_output", "positions",
                                         "heads",   "channels",      "reduce",         "dtype"};
    char path[64];
    (void)snprintf(path, sizeof path, "%s[%zu]", list, index);
    if (!yyjson_is_obj(v))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(v));
    *w = (wish){.spec.output = true, .dtype = a->format.dtype};
    glia_hook_spec *s = &w->spec;
    int dtype = (int)w->dtype;
    glia_status st;
    if ((st = glia_known_fields(v, path, fields, sizeof fields / sizeof *fields, err))) return st;
    if ((st = glia_json_str(v, path, "hook_id", &w->hook_id, err))) return st;
    if ((st = glia_json_bool(v, path, "capture_input", &s->input, NULL, err))) return st;
    if ((st = glia_json_bool(v, path, "capture_output", &s->output, NULL, err))) return st;
    if ((st = word(v, path, "dtype", dtype_words, 3, &dtype, err))) return st;
    w->dtype = (glia_dtype)dtype;
    if ((st = glia_parse_reduce(a, v, path, &w->rows, err))) return st;
    return glia_parse_where(a, v, path, a->format.include, n_layer, arch, s, &w->target, &w->rows, err);
}

/* ------------------------------------------------------------------ keys */

static bool is_number(const char *s) { return s[strspn(s, "-0123456789")] == 0; }

/* The layer as it was written when that names one layer; else a path that does. */
static char *layer_name_of(glia_acts *a, const wish *w, int32_t layer) {
    const glia_hook_spec *s = &w->spec;
    const char *path = s->layer_name ? s->layer_name : s->name ? s->name : s->layer_text;
    if (path && !is_number(path) && !strchr(path, '*')) return own_format(a, "%s", path);
    if (!glia_point_has_layer(w->target.point[w->target.n_points - 1]))
        return own_format(a, "%s", glia_point_name(w->target.point[w->target.n_points - 1]));
    return own_format(a, "model.layers.%d", (int)layer);
}

/* The key a hook gets when nobody else wants it. */
static char *first_key(glia_acts *a, const wish *w, const char *layer_name, int32_t layer) {
    const glia_hook_spec *s = &w->spec;
    const char *point = glia_point_name(w->target.point[w->target.n_points - 1]);
    if (w->target.all_layers) return own_format(a, "%s.%d", w->hook_id ? w->hook_id : point, (int)layer);
    if (w->hook_id) return own_format(a, "%s", w->hook_id);
    if (s->layer_name) {
        return s->component ? own_format(a, "%s_%s", layer_name, s->component) : own_format(a, "%s", layer_name);
    }
    if (s->name || (s->layer_text && !is_number(s->layer_text))) return own_format(a, "%s", layer_name);
    if (w->target.layer < 0) return own_format(a, "%s", point);
    return own_format(a, "%s.%d", point, (int)layer);
}

typedef struct keyed {
    char *key;
    size_t index; /* into a->keys: order of the request among equals */
} keyed;

static int by_key(const void *x, const void *y) {
    const keyed *a = x, *b = y;
    int c = strcmp(a->key, b->key);
    return c ? c : (a->index > b->index) - (a->index < b->index);
}

/* Sort the keys and hand every run of equal ones to change(); a second pass of it proves that none are left. */
static glia_status spread_keys(glia_acts *a, char *(*change)(glia_acts *a, size_t index, size_t nth), bool *any,
                               glia_err *err) {
    keyed *list = glia_malloc(a->n_keys * sizeof *list);
    if (!list) return glia_fail(err, GLIA_ENOMEM, "activation_hooks");
    for (size_t i = 0; i < a->n_keys; i++) list[i] = (keyed){a->keys[i], i};
    qsort(list, a->n_keys, sizeof *list, by_key);
    glia_status st = GLIA_OK;
    *any = false;
    for (size_t i = 0, end; i < a->n_keys && !st; i = end) {
        for (end = i + 1; end < a->n_keys && !strcmp(list[end].key, list[i].key);) end++;
        for (size_t k = i; end - i > 1 && k < end; k++) {
            *any = true;
            char *key = change(a, list[k].index, k - i);
            if (!key) st = glia_fail(err, GLIA_ENOMEM, "activation_hooks");
            else a->keys[list[k].index] = key;
        }
    }
    glia_free(list);
    return st;
}

/* Labels of a group: the last hook with it (its output). */
static const glia_act_label *label_of(const glia_acts *a, size_t group) {
    size_t low = 0, high = a->n; /* groups rise with the index */
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (a->labels[mid].group <= group) low = mid;
        else high = mid;
    }
    return &a->labels[low];
}

static char *default_id(glia_acts *a, size_t index, size_t nth) {
    (void)nth;
    const glia_act_label *l = label_of(a, index);
    if (l->named) return a->keys[index];
    return own_format(a, "%s_%s", l->layer_name, l->component);
}

static char *numbered(glia_acts *a, size_t index, size_t nth) {
    return nth ? own_format(a, "%s#%zu", a->keys[index], nth + 1) : a->keys[index];
}

static glia_status make_keys_differ(glia_acts *a, glia_err *err) {
    bool any;
    glia_status st = spread_keys(a, default_id, &any, err);
    for (int round = 0; round < 3 && !st && any; round++) st = spread_keys(a, numbered, &any, err);
    if (st || !any) return st;
    return glia_fail_at(err, GLIA_EINVAL, "activation_hooks",
                        "several hooks would share a key: give each a hook_id of its own");
}

/* ------------------------------------------------------------------ the list */

static glia_status append(glia_acts *a, const wish *w, size_t source, int32_t layer, glia_err *err) {
    size_t group = a->n_keys;
    char *layer_name = layer_name_of(a, w, layer);
    char *key = layer_name ? first_key(a, w, layer_name, layer) : NULL;
    if (!key) return glia_fail(err, GLIA_ENOMEM, "activation_hooks");
    a->keys[a->n_keys++] = key;
    for (size_t i = 0; i < w->target.n_points; i++, a->n++) {
        glia_point point = w->target.point[i];
        a->hooks[a->n] = w->rows;
        a->hooks[a->n].point = point;
        a->hooks[a->n].layer = glia_point_has_layer(point) ? layer : -1;
        const char *component = w->spec.component ? w->spec.component : glia_point_name(point);
        char *owned = own_format(a, "%s", component); /* the document goes before the request does */
        if (!owned) return glia_fail(err, GLIA_ENOMEM, "activation_hooks");
        a->labels[a->n] =
            (glia_act_label){group, source, layer_name, owned, w->target.is_input[i], w->hook_id != NULL, w->dtype};
    }
    return GLIA_OK;
}

static glia_status expand(glia_acts *a, const wish *wishes, size_t n, int32_t n_layer, glia_err *err) {
    size_t total = 0, groups = 0;
    for (size_t i = 0; i < n; i++) {
        size_t layers = wishes[i].target.all_layers ? (size_t)n_layer : 1;
        groups += layers;
        total += layers * wishes[i].target.n_points;
    }
    if (total > GLIA_MAX_EXPANDED) {
        return glia_fail_at(err, GLIA_EINVAL, "activation_hooks",
                            "these hooks stand for %zu points, more than %d: ask for fewer layers", total,
                            (int)GLIA_MAX_EXPANDED);
    }
    a->hooks = glia_calloc(total, sizeof *a->hooks);
    a->labels = glia_calloc(total, sizeof *a->labels);
    a->keys = glia_calloc(groups, sizeof *a->keys);
    if (!a->hooks || !a->labels || !a->keys) return glia_fail(err, GLIA_ENOMEM, "activation_hooks");
    for (size_t i = 0; i < n; i++) {
        const glia_hook_target *t = &wishes[i].target;
        int32_t first = t->all_layers ? 0 : t->layer, last = t->all_layers ? n_layer - 1 : t->layer;
        for (int32_t layer = first; layer <= last; layer++) {
            glia_status st = append(a, &wishes[i], i, layer, err);
            if (st) return st;
        }
    }
    return make_keys_differ(a, err);
}

/* The entries of one list, which errors call `name`. */
static glia_status parse_list(glia_acts *a, yyjson_val *list, const char *name, int32_t n_layer, const char *arch,
                              wish *wishes, glia_err *err) {
    yyjson_arr_iter it;
    yyjson_val *item;
    glia_status st = GLIA_OK;
    size_t i = 0;
    if (!list) return GLIA_OK;
    for (yyjson_arr_iter_init(list, &it); !st && (item = yyjson_arr_iter_next(&it)); i++)
        st = parse_wish(a, item, name, i, n_layer, arch, &wishes[i], err);
    return st;
}

glia_status glia_acts_parse(glia_acts *a, yyjson_val *root, yyjson_val *registered, bool required, int32_t n_layer,
                            const char *arch, glia_err *err) {
    *a = (glia_acts){0};
    glia_status st = parse_format(&a->format, root, err);
    if (st) return st;
    const char *param = "activation_hooks";
    yyjson_val *list = glia_json_get(root, param);
    if (list && !yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a list, not %s", param, glia_json_kind(list));
    a->n_listed = list ? yyjson_arr_size(list) : 0;
    size_t n = a->n_listed + (registered ? yyjson_arr_size(registered) : 0);
    if (!n && !required) return GLIA_OK;
    if (!n) {
        return glia_fail_at(err, GLIA_EINVAL, param,
                            "%s is %s: name at least one, e.g. {\"layer\": 5, "
                            "\"component\": \"resid_post\"}",
                            param, list ? "empty" : "missing");
    }
    if (n > GLIA_MAX_HOOKS) {
        return glia_fail_at(err, GLIA_EINVAL, param,
                            "%s holds %zu entries, more than %d (\"layer\": \"*\" asks for every "
                            "layer at once)",
                            param, n, (int)GLIA_MAX_HOOKS);
    }
    wish *wishes = glia_calloc(n, sizeof *wishes);
    if (!wishes) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    st = parse_list(a, list, param, n_layer, arch, wishes, err);
    if (!st) st = parse_list(a, registered, "registered_hooks", n_layer, arch, wishes + a->n_listed, err);
    if (!st) st = expand(a, wishes, n, n_layer, err);
    glia_free(wishes);
    return st;
}

void glia_acts_fix_param(const glia_acts *a, glia_err *err) {
    char param[sizeof err->param], *end, *open = strchr(err->param, '[');
    if (!open) return;
    unsigned long i = strtoul(open + 1, &end, 10);
    bool hooks = !strncmp(err->param, "activation_hooks[", 17), edits = !strncmp(err->param, "interventions[", 14);
    if (end == open + 1 || *end != ']' || (!hooks && !edits) || i >= (hooks ? a->n : a->n_edits)) return;
    size_t source = hooks ? a->labels[i].source : a->edit_sources[i];
    bool registered = hooks && source >= a->n_listed;
    (void)snprintf(param, sizeof param, "%s[%zu%s", registered ? "registered_hooks" : hooks ? "activation_hooks" : "interventions",
                   registered ? source - a->n_listed : source, end);
    memcpy(err->param, param, sizeof param);
}

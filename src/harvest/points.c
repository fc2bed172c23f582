/* harvest/points.c — see points.h. */
#include "harvest/points.h"
#include "base/err.h"
#include "base/mem.h"
#include "tap/names.h"
#include <stdlib.h>
#include <string.h>

typedef struct list {
    const glia_model *m;
    glia_model_info info;
    glia_hook *hooks;
    size_t n, cap;
} list;

static glia_status add(list *l, const char *name, glia_point p, int32_t layer, bool must, glia_err *err) {
    glia_point_info pi;
    if (!glia_model_point(l->m, p, layer, &pi)) {
        return glia_fail(err, GLIA_EINVAL, "%s: this model has layers 0 to %d", name, (int)l->info.n_layer - 1);
    }
    if (pi.grade < GLIA_GRADE_STRUCTURAL) {
        if (!must) return GLIA_OK;
        return glia_fail(err, GLIA_EHOOK, "%s is %s at layer %d: %s", name, glia_grade_name(pi.grade), (int)layer,
                         pi.reason);
    }
    if (p == GLIA_POINT_ATTN_SCORES || p == GLIA_POINT_ATTN_PROBS) {
        return glia_fail(err, GLIA_EINVAL, "%s: its rows grow with the position, a harvest needs rows of one width",
                         name);
    }
    for (size_t i = 0; i < l->n; i++) {
        if (l->hooks[i].point == p && (l->hooks[i].layer == layer || !glia_point_has_layer(p))) return GLIA_OK;
    }
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        glia_hook *more = glia_realloc(l->hooks, cap * sizeof *more);
        if (!more) return glia_fail(err, GLIA_ENOMEM, "out of memory for points");
        l->hooks = more, l->cap = cap;
    }
    l->hooks[l->n++] = (glia_hook){.point = p, .layer = layer, .phases = GLIA_PHASE_PROMPT};
    return GLIA_OK;
}

static bool read_layer(const char **s, int32_t n_layer, int32_t *out) {
    char *end;
    long v = strtol(*s, &end, 10);
    if (end == *s || v < -n_layer || v >= n_layer) return false;
    *out = (int32_t)(v < 0 ? v + n_layer : v), *s = end;
    return true;
}

/* "0-3+7+-1" */
static glia_status add_layers(list *l, const char *name, glia_point p, const char *layers, glia_err *err) {
    const char *s = layers;
    glia_status st = GLIA_OK;
    if (!strcmp(layers, "all")) {
        size_t before = l->n;
        for (int32_t il = 0; il < l->info.n_layer && !st; il++) st = add(l, name, p, il, false, err);
        if (!st && l->n == before) st = add(l, name, p, 0, true, err); /* nowhere: say why */
        return st;
    }
    for (;;) {
        int32_t first, last;
        if (!read_layer(&s, l->info.n_layer, &first)) break;
        last = first;
        if (*s == '-' && (s++, !read_layer(&s, l->info.n_layer, &last))) break;
        for (int32_t il = first; il <= last; il++) {
            if ((st = add(l, name, p, il, true, err))) return st;
        }
        if (last < first) break;
        if (!*s) return GLIA_OK;
        if (*s++ != '+') break;
    }
    return glia_fail(err, GLIA_EINVAL,
                     "points: \"%s\" is not a list of layers from 0 to %d: write all, 5, 0-3 or 0-3+7", layers,
                     (int)l->info.n_layer - 1);
}

static glia_status add_item(list *l, char *item, glia_err *err) {
    char *at = strchr(item, '@');
    if (at) *at++ = 0;
    glia_hook_target t;
    glia_point p;
    /* a bare point or component takes its layers from behind the @; everything else names its layer itself */
    bool bare = glia_point_from_name(item, &p);
    glia_hook_spec by_component = {.component = item, .output = true, .has_layer = !bare || glia_point_has_layer(p)},
                   by_name = {.name = item, .output = true};
    glia_status st = glia_names_resolve(at || bare ? &by_component : &by_name, l->info.n_layer, l->info.arch, &t, err);
    if (st) return st;
    p = t.point[t.n_points - 1];
    if (!glia_point_has_layer(p)) return add(l, item, p, 0, true, err);
    if (at || bare || t.all_layers) return add_layers(l, item, p, at ? at : "all", err);
    return add(l, item, p, t.layer, true, err);
}

glia_status glia_points_parse(const char *spec, const glia_model *m, glia_hook **out, size_t *n, glia_err *err) {
    list l = {.m = m};
    glia_model_get_info(m, &l.info);
    glia_status st = GLIA_OK;
    *out = NULL, *n = 0;
    if (l.info.hooks_refused) return glia_fail(err, GLIA_EHOOK, "no activations: %s", l.info.hooks_refused);
    char *copy = glia_strdup(spec), *save = NULL;
    if (!copy) return glia_fail(err, GLIA_ENOMEM, "out of memory for points");
    for (char *item = strtok_r(copy, ", ", &save); item && !st; item = strtok_r(NULL, ", ", &save)) {
        st = add_item(&l, item, err);
    }
    glia_free(copy);
    if (!st && !l.n) st = glia_fail(err, GLIA_EINVAL, "points: name at least one, e.g. resid_post@all");
    if (st) {
        glia_free(l.hooks);
        return st;
    }
    *out = l.hooks, *n = l.n;
    return GLIA_OK;
}

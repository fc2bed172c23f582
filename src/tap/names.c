/* tap/names.c — the rules that combine names into points.  Pure; any thread; knows neither JSON nor llama.
 * The names themselves are data: names_table.c. */
#include "tap/names.h"
#include "base/err.h"
#include "tap/names_table.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef glia_name_row module;
typedef glia_name_family family;
typedef glia_name_side side;

/* ------------------------------------------------------------------ parsing */

enum { PATH_MAX_CHARS = 191 };

/* A parsed path: a module or a point by its own name, and maybe a layer. */
typedef struct place {
    bool given;
    const module *module;
    int point; /* ≥ 0: named itself */
    bool has_layer, all_layers, names_input, names_output;
    int64_t layer;
    const char *field, *text;      /* where and how it stood, for errors */
    char path[PATH_MAX_CHARS + 1]; /* the text with brackets as dots and without a side */
} place;

static const module *find_in_block(const char *path) {
    const module *m = glia_names_find(&glia_names_block, path);
    return m ? m : glia_names_find(&glia_names_lens, path);
}

/* nnsight's spelling: "layers[5].mlp.output[0]" → "layers.5.mlp", its output.  False: too long for any name. */
static bool normalise(place *p) {
    static const struct {
        const char *end;
        bool input;
    } sides[] = {{".output[0]", false}, {".output", false}, {".input[0]", true}, {".input", true}};
    size_t n = strlen(p->text), out = 0;
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        size_t k = strlen(sides[i].end);
        if (n <= k || strcmp(p->text + n - k, sides[i].end) != 0) continue;
        p->names_input = sides[i].input, p->names_output = !sides[i].input;
        n -= k;
        break;
    }
    if (n > PATH_MAX_CHARS) return false;
    for (size_t i = 0; i < n; i++) {
        if (p->text[i] == '[') p->path[out++] = '.';
        else if (p->text[i] != ']') p->path[out++] = p->text[i];
    }
    p->path[out] = 0;
    return true;
}

/* "12" or "*" at s; *rest is what follows.  False: neither. */
static bool parse_index(const char *s, place *p, const char **rest) {
    if (s[0] == '*') {
        p->all_layers = p->has_layer = true;
        *rest = s + 1;
        return true;
    }
    if (!isdigit((unsigned char)s[0])) return false;
    char *end;
    p->layer = strtoll(s, &end, 10); /* saturates: out of range in any case */
    p->has_layer = true;
    *rest = end;
    return true;
}

static size_t list_names(const glia_name_table *t, const char **list) {
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        for (const char *const *name = t->rows[i].names; *name; name++) list[n++] = *name;
    }
    return n;
}

static glia_status unknown_in_block(const place *p, const char *suffix, size_t n_before, glia_err *err) {
    enum { ROWS = 96 }; /* more than the tables have; checked by a test */
    const char *list[ROWS * GLIA_NAME_SPELLINGS], *best[GLIA_N_NEAREST];
    size_t n = list_names(&glia_names_block, list);
    n += list_names(&glia_names_lens, list + n);
    for (int i = 0; i < GLIA_N_POINTS; i++) {
        if (glia_point_has_layer((glia_point)i)) list[n++] = glia_point_name((glia_point)i);
    }
    size_t n_best = glia_nearest_of(suffix, list, n, best);
    char before[64], hint[256];
    (void)snprintf(before, sizeof before, "%.*s", (int)n_before, p->path);
    glia_nearest_join(best, n_best, before, hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, p->field, "unknown name \"%.80s\"; the nearest are %s", p->text, hint);
}

static glia_status unknown_path(const place *p, glia_err *err) {
    char generic[128], number[16] = "0";
    size_t at = 0, i = 0, n_examples = 0;
    while (p->path[i] && at + 1 < sizeof generic) { /* digits → N, to compare with the examples */
        size_t n = strspn(p->path + i, "0123456789");
        if (n) {
            (void)snprintf(number, sizeof number, "%.*s", (int)(n < 9 ? n : 9), p->path + i);
            generic[at++] = 'N', i += n;
        } else {
            generic[at++] = p->path[i++];
        }
    }
    generic[at] = 0;
    const char *list[128], *best[GLIA_N_NEAREST];
    char own[GLIA_N_POINTS][32]; /* "resid_post.N" */
    while (glia_name_examples[n_examples]) list[n_examples] = glia_name_examples[n_examples], n_examples++;
    for (int k = 0; k < GLIA_N_POINTS; k++) {
        bool layer = glia_point_has_layer((glia_point)k);
        (void)snprintf(own[k], sizeof own[k], "%s%s", glia_point_name((glia_point)k), layer ? ".N" : "");
        list[n_examples++] = own[k];
    }
    size_t n_best = glia_nearest_of(generic, list, n_examples, best);
    char named[GLIA_N_NEAREST][96], hint[320];
    const char *words[GLIA_N_NEAREST];
    for (size_t k = 0; k < n_best; k++) {
        const char *n = strchr(best[k], 'N');
        if (n) (void)snprintf(named[k], sizeof named[k], "%.*s%s%s", (int)(n - best[k]), best[k], number, n + 1);
        else (void)snprintf(named[k], sizeof named[k], "%s", best[k]);
        words[k] = named[k];
    }
    glia_nearest_join(words, n_best, "", hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, p->field, "unknown name \"%.80s\"; the nearest are %s", p->text, hint);
}

/* "mlp.experts.7.down_proj": one expert's module.  The experts lie in one tensor. */
static bool names_one_expert(const char *suffix) {
    const char *at = strstr(suffix, "experts.");
    return at && isdigit((unsigned char)at[strlen("experts.")]);
}

/* "model.layers.5.self_attn" and its like.  *done: the prefix was one of ours. */
static glia_status parse_block_path(place *p, bool *done, glia_err *err) {
    for (size_t i = 0; glia_block_prefixes[i]; i++) {
        size_t n = strlen(glia_block_prefixes[i]);
        const char *rest;
        if (strncmp(p->path, glia_block_prefixes[i], n) != 0 || !parse_index(p->path + n, p, &rest)) continue;
        if (*rest && *rest != '.') continue;
        *done = true;
        const char *suffix = *rest ? rest + 1 : rest;
        glia_point point;
        if ((p->module = find_in_block(suffix)) && (*suffix || !*rest)) return GLIA_OK;
        if (glia_point_from_name(suffix, &point) && glia_point_has_layer(point)) {
            p->point = (int)point;
            return GLIA_OK;
        }
        if (names_one_expert(suffix)) {
            return glia_fail_at(err, GLIA_EHOOK, p->field,
                                "\"%.80s\" runs only for the tokens that choose it: ask for \"expert_out\" (or "
                                "\"expert_act\", \"expert_pre\") and \"expert_indices\"",
                                p->text);
        }
        return unknown_in_block(p, suffix, (size_t)(rest - p->path) + 1, err);
    }
    return GLIA_OK;
}

/* "l_out-5": llama.cpp's name for a node. */
static glia_status refuse_node_name(const place *p, glia_err *err) {
    for (const glia_node_name *k = glia_node_names; k->name; k++) {
        size_t n = strlen(k->name);
        bool numbered = p->path[n] == '-' && isdigit((unsigned char)p->path[n + 1]);
        if (strncmp(p->path, k->name, n) != 0 || (p->path[n] && !numbered)) continue;
        bool layer = glia_point_has_layer(k->point);
        return glia_fail_at(err, GLIA_EHOOK, p->field,
                            "\"%.40s\" is llama.cpp's own name, which means other tensors in other models: ask for "
                            "\"%s%s%.9s\"",
                            p->text, glia_point_name(k->point), layer && numbered ? "." : "",
                            layer && numbered ? p->path + n + 1 : "");
    }
    return GLIA_OK;
}

/* "resid_post" or "resid_post.5". */
static bool parse_point_path(place *p) {
    char stem[32];
    const char *dot = strchr(p->path, '.'), *rest = "";
    size_t n = dot ? (size_t)(dot - p->path) : strlen(p->path);
    if (n >= sizeof stem) return false;
    memcpy(stem, p->path, n);
    stem[n] = 0;
    glia_point point;
    if (!glia_point_from_name(stem, &point)) return false;
    if (dot && (!parse_index(dot + 1, p, &rest) || *rest)) return false;
    p->point = (int)point;
    return true;
}

static glia_status parse_path(const char *text, const char *field, place *p, glia_err *err) {
    *p = (place){.given = true, .point = -1, .field = field, .text = text};
    if (!normalise(p)) return glia_fail_at(err, GLIA_EINVAL, field, "unknown name \"%.80s…\": too long", text);
    bool done = false;
    glia_status st = parse_block_path(p, &done, err);
    if (st || done) return st;
    if (parse_point_path(p)) return GLIA_OK;
    p->has_layer = p->all_layers = false, p->point = -1;
    if ((p->module = glia_names_find(&glia_names_outside, p->path))) return GLIA_OK;
    if ((st = refuse_node_name(p, err))) return st;
    return unknown_path(p, err);
}

/* "layer" as text: a path, digits (maybe negative) or "*". */
static glia_status parse_layer_text(const char *text, place *p, glia_err *err) {
    *p = (place){.given = true, .point = -1, .field = "layer", .text = text};
    const char *digits = text[0] == '-' ? text + 1 : text, *rest;
    if (parse_index(digits, p, &rest) && !*rest && !(p->all_layers && digits != text)) {
        if (digits != text) p->layer = -p->layer;
        return GLIA_OK;
    }
    return parse_path(text, "layer", p, err);
}

/* ------------------------------------------------------------------ combining */

/* What the component field says. */
typedef struct part {
    const module *module; /* NULL: none given, or a point */
    int point;            /* ≥ 0 */
} part;

static family point_family(glia_point p) {
    switch (p) {
    case GLIA_POINT_EMBEDDINGS: return GLIA_NAMES_EMBED;
    case GLIA_POINT_FINAL_NORM: return GLIA_NAMES_FINAL;
    case GLIA_POINT_LM_HEAD: return GLIA_NAMES_HEAD;
    case GLIA_POINT_RESID_PRE:
    case GLIA_POINT_RESID_MID:
    case GLIA_POINT_RESID_POST:
    case GLIA_POINT_LENS_IN: return GLIA_NAMES_BLOCK;
    default: return p >= GLIA_POINT_MLP_IN ? GLIA_NAMES_MLP : GLIA_NAMES_ATTN; /* in the order of computation */
    }
}

static glia_status parse_component(const char *text, part *c, glia_err *err) {
    *c = (part){NULL, -1};
    if (!text) return GLIA_OK;
    glia_point point;
    /* "value" is both a point and NeuroScope's word for it: the same tensor */
    if (glia_point_from_name(text, &point)) {
        c->point = (int)point;
        return GLIA_OK;
    }
    if ((c->module = glia_names_find(&glia_names_components, text))) return GLIA_OK;
    if (*text && (c->module = find_in_block(text))) return GLIA_OK;
    const char *list[GLIA_N_POINTS + 32];
    size_t n = 0;
    for (int i = 0; i < GLIA_N_POINTS; i++) list[n++] = glia_point_name((glia_point)i);
    for (size_t i = 0; i < glia_names_components.n; i++) {
        const char *word = glia_names_components.rows[i].names[0];
        if (strcmp(word, "value") != 0) list[n++] = word;
    }
    char hint[160];
    glia_nearest(text, list, n, hint, sizeof hint);
    return glia_fail_at(err, GLIA_EINVAL, "component", "unknown component \"%.80s\"; the nearest are %s", text, hint);
}

static glia_status mismatch(const place *at, const char *component, glia_err *err) {
    return glia_fail_at(
        err, GLIA_EINVAL, "component",
        "component \"%.60s\" is not part of \"%.80s\"; name the block itself, e.g. \"model.layers.%lld\"", component,
        at->text, (long long)(at->has_layer && !at->all_layers ? at->layer : 5));
}

/* A module with a general word for its kind ("attention" of ".self_attn.o_proj") is that module; a word that says
 * more (query, key, value, a TransformerLens hook) says what is meant. */
static glia_status pick_module(const place *at, const part *c, const char *component, const module **out,
                               glia_err *err) {
    const module *m = at->module, *w = c->module;
    if (!m || m->family == GLIA_NAMES_BLOCK) {
        *out = w ? w : m;
        if (m && w && w->family == GLIA_NAMES_EMBED) return mismatch(at, component, err);
        return GLIA_OK;
    }
    if (!w) {
        *out = m;
        return GLIA_OK;
    }
    bool fits = w->family == m->family || (w->family == GLIA_NAMES_NORM && m->family == GLIA_NAMES_FINAL);
    if (!fits) return mismatch(at, component, err);
    *out = w->general ? m : w;
    return GLIA_OK;
}

static glia_status add_point(glia_hook_target *t, int point, bool input) {
    t->point[t->n_points] = (glia_point)point;
    t->is_input[t->n_points++] = input;
    return GLIA_OK;
}

static glia_status points_of_module(const glia_hook_spec *s, const module *m, const char *shown, const char *field,
                                    const char *arch, glia_hook_target *out, glia_err *err) {
    for (int input = 1; input >= 0; input--) {
        if (input ? !s->input : !s->output) continue;
        side one = glia_names_side(m, input, arch);
        if (one.point >= 0) {
            add_point(out, one.point, input);
            continue;
        }
        bool absent = one.why == glia_names_no_side;
        return glia_fail_at(err, absent ? GLIA_EINVAL : GLIA_EHOOK, absent ? "capture_input" : field,
                            "the %s of \"%.80s\" %s", input ? "input" : "output", shown, one.why);
    }
    return GLIA_OK;
}

static glia_status point_itself(const glia_hook_spec *s, int point, glia_hook_target *out, glia_err *err) {
    if (s->input) {
        return glia_fail_at(err, GLIA_EINVAL, "capture_input",
                            "\"%s\" is one tensor, not a module: leave capture_input out, or name the module",
                            glia_point_name((glia_point)point));
    }
    return add_point(out, point, false);
}

static glia_status resolve_points(const glia_hook_spec *s, const place *at, const part *c, const char *arch,
                                  glia_hook_target *out, glia_err *err) {
    if (c->point >= 0) {
        family f = point_family((glia_point)c->point);
        if (at->point >= 0 && at->point != c->point) return mismatch(at, s->component, err);
        const module *m = at->module;
        if (m && m->family == GLIA_NAMES_NORM && glia_names_side(m, false, arch).point != c->point &&
            glia_names_side(m, true, arch).point != c->point)
            return mismatch(at, s->component, err);
        if (m && m->family != GLIA_NAMES_BLOCK && m->family != GLIA_NAMES_NORM && m->family != f)
            return mismatch(at, s->component, err);
        if (m && m->family == GLIA_NAMES_BLOCK && !glia_point_has_layer((glia_point)c->point))
            return mismatch(at, s->component, err);
        return point_itself(s, c->point, out, err);
    }
    if (at->point >= 0) {
        if (c->module) {
            return glia_fail_at(err, GLIA_EINVAL, "component", "\"%.80s\" names a point already: leave component out",
                                at->text);
        }
        return point_itself(s, at->point, out, err);
    }
    const module *m = NULL;
    glia_status st = pick_module(at, c, s->component, &m, err);
    if (st) return st;
    if (!m) {
        return glia_fail_at(err, GLIA_EINVAL, "component",
                            "component is missing: say what of the layer, e.g. \"resid_post\" or \"residual\"");
    }
    bool from_component = m == c->module;
    return points_of_module(s, m, from_component ? s->component : at->text, from_component ? "component" : at->field,
                            arch, out, err);
}

/* ------------------------------------------------------------------ layers */

static glia_status check_layer(const place *p, int32_t n_layer, glia_hook_target *out, glia_err *err) {
    if (p->all_layers) {
        out->all_layers = true;
        out->layer = 0;
        return GLIA_OK;
    }
    int64_t layer = p->layer < 0 ? p->layer + n_layer : p->layer;
    if (p->layer < -(int64_t)n_layer || layer >= n_layer) {
        return glia_fail_at(err, GLIA_EINVAL, p->field, "layer %lld does not exist: this model has layers 0 to %d",
                            (long long)p->layer, (int)n_layer - 1);
    }
    out->layer = (int32_t)layer;
    return GLIA_OK;
}

/* Every point of the target that needs a layer gets the one of `p`; a final norm's input is the last block's output. */
static glia_status resolve_layer(const place *p, bool final_input, int32_t n_layer, glia_hook_target *out,
                                 glia_err *err) {
    bool needs = false, lacks = false;
    for (size_t i = 0; i < out->n_points; i++) {
        if (glia_point_has_layer(out->point[i])) needs = true;
        else lacks = true;
    }
    out->layer = -1;
    if (final_input && needs) {
        out->layer = n_layer - 1;
        return GLIA_OK;
    }
    if (!needs) {
        if (!p->has_layer) return GLIA_OK;
        return glia_fail_at(err, GLIA_EINVAL, p->field, "\"%s\" belongs to no layer: leave the layer out",
                            glia_point_name(out->point[0]));
    }
    if (lacks || !p->has_layer) {
        return glia_fail_at(err, GLIA_EINVAL, "layer", "layer is missing: a number from 0 to %d, or \"*\" for all",
                            (int)n_layer - 1);
    }
    return check_layer(p, n_layer, out, err);
}

/* The one path among layer, layer_name and name; a plain number may stand beside a path that says the same. */
static glia_status find_place(const glia_hook_spec *s, int32_t n_layer, place *at, glia_err *err) {
    place number = {.point = -1, .field = "layer", .text = ""};
    *at = number;
    glia_status st;
    if (s->layer_name && s->name) {
        return glia_fail_at(err, GLIA_EINVAL, "name", "give either name or layer_name, not both");
    }
    if (s->has_layer) number.given = number.has_layer = true, number.layer = s->layer;
    if (s->layer_text && (st = parse_layer_text(s->layer_text, &number, err))) return st;
    const char *path = s->layer_name ? s->layer_name : s->name;
    if (!path) {
        *at = number;
        return GLIA_OK;
    }
    if ((st = parse_path(path, s->layer_name ? "layer_name" : "name", at, err)) || !number.given) return st;
    if (number.module || number.point >= 0) {
        return glia_fail_at(err, GLIA_EINVAL, "layer", "layer and %s both hold a name: give one", at->field);
    }
    if (!at->has_layer) {
        at->has_layer = true, at->all_layers = number.all_layers, at->layer = number.layer;
        return GLIA_OK;
    }
    int64_t wanted = number.layer < 0 ? number.layer + n_layer : number.layer;
    if (number.all_layers != at->all_layers || (!at->all_layers && wanted != at->layer)) {
        return glia_fail_at(err, GLIA_EINVAL, "layer", "layer contradicts %s \"%.80s\"", at->field, path);
    }
    return GLIA_OK;
}

glia_status glia_names_resolve(const glia_hook_spec *s, int32_t n_layer, const char *arch, glia_hook_target *out,
                               glia_err *err) {
    *out = (glia_hook_target){.layer = -1};
    place at;
    part c;
    glia_status st;
    if (!s->input && !s->output) {
        return glia_fail_at(err, GLIA_EINVAL, "capture_output", "nothing to capture: both sides are switched off");
    }
    if ((st = parse_component(s->component, &c, err))) return st;
    if ((st = find_place(s, n_layer, &at, err))) return st;
    glia_hook_spec sided = *s;
    if (at.names_input || at.names_output) {
        if (s->input) {
            return glia_fail_at(err, GLIA_EINVAL, "capture_input",
                                "\"%.80s\" says which side already: leave capture_input out", at.text);
        }
        sided.input = at.names_input, sided.output = at.names_output;
    }
    if ((st = resolve_points(&sided, &at, &c, arch, out, err))) return st;
    return resolve_layer(&at, at.module && at.module->family == GLIA_NAMES_FINAL, n_layer, out, err);
}

/* api/features.c — POST /v1/features/localize, GET /v1/features/common and methods: where a model tells texts apart.
 * Localising runs on its task's thread. */
#include "analysis/contrast.h"
#include "analysis/lens.h"
#include "analysis/probe.h"
#include "analysis/sae.h"
#include "analysis/stats.h"
#include "api/assets.h"
#include "api/feature_sets.h"
#include "api/handlers.h"
#include "api/prompt.h"
#include "api/study.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/pool.h"
#include <math.h>
#include <string.h>

enum { MAX_FEATURES = 32, MAX_TEXTS = 512, TOP = 10, COMPONENTS = 10 };

typedef enum method { METHOD_SAE, METHOD_PROBE, METHOD_PCA, N_METHODS } method;
static const struct {
    const char *name, *needs, *how;
} methods[N_METHODS] = {
    {"sparse_autoencoder", "examples, counter_examples, parameters.sae and parameters.layer",
     "latents of an autoencoder (SAELens safetensors in the server's --assets folder) whose maximum over a text tells the two kinds apart"},
    {"probing_classifier", "examples and counter_examples",
     "a logistic probe on each layer, judged on texts that it has not seen"},
    {"pca", "examples and counter_examples",
     "the principal component of each layer's rows that tells the two kinds apart"},
};
static const struct {
    const char *name, *missing;
} refused[] = {
    {"dictionary_learning", "dictionaries are not trained here: train one elsewhere and use sparse_autoencoder"},
    {"gradient_attribution", "gradients are not computed: use probing_classifier"}};

/* What one feature is at one layer. */
typedef struct place {
    int32_t layer;
    double score, p, adjusted, strength;
    int32_t neurons[TOP];
    size_t n_neurons;
    double *direction; /* [width] or NULL */
    double detail;     /* PROBE: baseline of permuted labels; PCA: share of variance; SAE: NaN */
    int32_t component; /* PCA */
} place;

typedef struct feature {
    const char *name, *type, *description;
    glia_text *texts; /* [n] examples first */
    size_t n, n_positive;
    int32_t *layers;
    size_t n_layers;
    place *places; /* [n_layers] */
    size_t best;
} feature;

typedef struct autoencoder {
    glia_st *file;
    glia_sae sae;
    float *owned[4];
    int32_t layer;
} autoencoder;

typedef struct localisation {
    glia_study *s;
    method how;
    glia_point point;
    glia_pick pooling;
    size_t n_perm, n_folds;
    double l2;
    uint64_t seed;
    autoencoder ae;
    feature *features;
    size_t n;
    size_t under_way; /* progress */
} localisation;

static void localisation_clear(localisation *z) {
    for (size_t i = 0; z->features && i < z->n; i++) {
        feature *f = &z->features[i];
        for (size_t k = 0; f->texts && k < f->n; k++) glia_free((void *)(uintptr_t)f->texts[k].tokens);
        for (size_t k = 0; f->places && k < f->n_layers; k++) glia_free(f->places[k].direction);
        glia_free(f->texts);
        glia_free(f->layers);
        glia_free(f->places);
    }
    glia_free(z->features);
    for (size_t i = 0; i < 4; i++) glia_free(z->ae.owned[i]);
    if (z->ae.file) glia_st_close(z->ae.file);
}

static bool on_progress(void *ud, double fraction) {
    const localisation *z = ud;
    return glia_study_tell(z->s, ((double)z->under_way + 0.5 * fraction) / (double)z->n);
}
static bool go_on(void *ud) {
    const localisation *z = ud;
    return glia_study_tell(z->s, ((double)z->under_way + 0.5) / (double)z->n);
}

/* ------------------------------------------------------------------ reading the request */

static glia_status read_method(localisation *z, glia_err *err) {
    const char *name = methods[METHOD_SAE].name;
    glia_status st = glia_json_str(z->s->root, "", "method", &name, err);
    if (st) return st;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (!strcmp(name, refused[i].name)) return glia_fail_at(err, GLIA_EHOOK, "method", "%s", refused[i].missing);
    }
    for (size_t i = 0; i < N_METHODS; i++) {
        if (!strcmp(name, methods[i].name)) return z->how = (method)i, GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, "method",
                        "method must be sparse_autoencoder, probing_classifier or pca, not \"%.40s\"", name);
}

static glia_status read_point(localisation *z, yyjson_val *p, glia_err *err) {
    static const struct {
        const char *word;
        glia_point point;
    } words[] = {{"residual", GLIA_POINT_RESID_POST}, {"mlp", GLIA_POINT_MLP_OUT}, {"attention", GLIA_POINT_ATTN_OUT}};
    const char *name = "residual", *pooling = z->how == METHOD_SAE ? "max" : "last";
    glia_status st;
    if ((st = glia_json_str(p, "parameters", "component", &name, err))) return st;
    if ((st = glia_json_str(p, "parameters", "pooling", &pooling, err))) return st;
    bool known = glia_point_from_name(name, &z->point) && glia_point_has_layer(z->point);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!strcmp(name, words[i].word)) z->point = words[i].point, known = true;
    }
    if (!known)
        return glia_fail_at(err, GLIA_EINVAL, "parameters.component", "parameters.component: no point \"%.40s\"", name);
    z->pooling = !strcmp(pooling, "mean") ? GLIA_PICK_MEAN : GLIA_PICK_LAST;
    bool fits = z->how == METHOD_SAE ? !strcmp(pooling, "max") : !strcmp(pooling, "mean") || !strcmp(pooling, "last");
    if (!fits)
        return glia_fail_at(err, GLIA_EINVAL, "parameters.pooling", "parameters.pooling must be %s",
                            z->how == METHOD_SAE ? "max" : "last or mean");
    if (z->how == METHOD_SAE) z->pooling = GLIA_PICK_ALL;
    return GLIA_OK;
}

static glia_status tensor_of(autoencoder *a, size_t i, const char *name, size_t n, const float **out, glia_err *err) {
    glia_status st = glia_asset_floats(a->file, name, n, &a->owned[i], err);
    *out = a->owned[i];
    if (st && err && !err->param[0]) (void)snprintf(err->param, sizeof err->param, "parameters.sae");
    return st;
}

static glia_status read_autoencoder(localisation *z, yyjson_val *p, glia_err *err) {
    const char *name = NULL;
    autoencoder *a = &z->ae;
    int64_t layer = -1, k = 0;
    bool given = false, subtract = false, said = false;
    glia_status st;
    if ((st = glia_json_str(p, "parameters", "sae", &name, err))) return st;
    if ((st = glia_json_int(p, "parameters", "layer", 0, z->s->info.n_layer - 1, &layer, &given, err))) return st;
    if ((st = glia_json_int(p, "parameters", "k", 1, 1 << 20, &k, NULL, err))) return st;
    if ((st = glia_json_bool(p, "parameters", "apply_b_dec_to_input", &subtract, &said, err))) return st;
    if (!name || !given) {
        return glia_fail_at(
            err, GLIA_EHOOK, name ? "parameters.layer" : "parameters.sae",
            "sparse_autoencoder needs parameters.sae (a SAELens safetensors file in the server's --assets folder) and "
            "parameters.layer that it was trained on; without one use method probing_classifier or pca");
    }
    if ((st = glia_asset_open(z->s->app, name, "parameters.sae", &a->file, err))) return st;
    const glia_st_tensor *w = glia_st_find(a->file, "W_enc");
    if (!w || w->n_dims != 2 || !w->shape[0] || !w->shape[1] || w->shape[1] > 1 << 24) {
        return glia_fail_at(err, GLIA_EINVAL, "parameters.sae",
                            "\"%.80s\" holds no W_enc [width, latents], as SAELens writes it", name);
    }
    a->layer = (int32_t)layer;
    a->sae = (glia_sae){.d = (size_t)w->shape[0], .n = (size_t)w->shape[1], .k = (size_t)k};
    if ((st = tensor_of(a, 0, "W_enc", a->sae.d * a->sae.n, &a->sae.w_enc, err))) return st;
    if ((st = tensor_of(a, 1, "b_enc", a->sae.n, &a->sae.b_enc, err))) return st;
    if (glia_st_find(a->file, "b_dec") && (st = tensor_of(a, 2, "b_dec", a->sae.d, &a->sae.b_dec, err))) return st;
    if (glia_st_find(a->file, "threshold") && (st = tensor_of(a, 3, "threshold", a->sae.n, &a->sae.threshold, err)))
        return st;
    a->sae.subtract_b_dec = said ? subtract : !a->sae.threshold; /* SAELens' own defaults */
    return GLIA_OK;
}

static glia_status read_text(const localisation *z, yyjson_val *v, const char *path, glia_text *out, glia_err *err) {
    int32_t *ids = NULL;
    glia_status st;
    yyjson_val *text = yyjson_is_obj(v) ? glia_json_get(v, "text") : v;
    if (yyjson_is_arr(text)) {
        st = glia_prompt_ids(z->s->m, text, path, &ids, &out->n_tokens, err);
    } else if (yyjson_is_str(text)) {
        st = glia_prompt_text(z->s->m, yyjson_get_str(text), yyjson_get_len(text), path, true, true, &ids,
                              &out->n_tokens, err);
    } else {
        st = glia_fail_at(err, GLIA_EINVAL, path, "%s must be a text or a list of token ids, not %s", path,
                          glia_json_kind(text));
    }
    if (!st && !out->n_tokens) st = glia_fail_at(err, GLIA_EINVAL, path, "%s is empty", path);
    out->tokens = ids;
    return st;
}

static glia_status read_texts(localisation *z, feature *f, yyjson_val *list, const char *path, glia_err *err) {
    size_t n = yyjson_arr_size(list);
    for (size_t i = 0; i < n; i++) {
        char at[96];
        (void)snprintf(at, sizeof at, "%s[%zu]", path, i);
        glia_status st = read_text(z, yyjson_arr_get(list, i), at, &f->texts[f->n++], err);
        if (st) return st;
    }
    return GLIA_OK;
}

static glia_status read_built_in(localisation *z, feature *f, const glia_feature_set *set, glia_err *err) {
    for (size_t i = 0; i < 2 * GLIA_FEATURE_TEXTS; i++) {
        const char *text = i < GLIA_FEATURE_TEXTS ? set->examples[i] : set->counter_examples[i - GLIA_FEATURE_TEXTS];
        int32_t *ids;
        glia_text *t = &f->texts[f->n++];
        glia_status st =
            glia_prompt_text(z->s->m, text, strlen(text), "features", true, false, &ids, &t->n_tokens, err);
        if (st) return st;
        t->tokens = ids;
    }
    f->n_positive = GLIA_FEATURE_TEXTS;
    if (!f->type) f->type = set->type;
    if (!f->description) f->description = set->description;
    return GLIA_OK;
}

static glia_status read_layers(localisation *z, feature *f, yyjson_val *v, const char *path, glia_err *err) {
    glia_study *s = z->s;
    glia_free(s->layers);
    s->layers = NULL, s->n_layers = 0;
    glia_status st = glia_study_layers_of(s, glia_json_get(v, "target_layers"), path, err);
    if (st) return st;
    if (z->how == METHOD_SAE) { /* an autoencoder knows one layer */
        glia_free(s->layers);
        s->layers = glia_memdup(&z->ae.layer, sizeof z->ae.layer), s->n_layers = 1;
        if (!s->layers) return glia_fail(err, GLIA_ENOMEM, "no memory for layers");
    }
    f->n_layers = s->layers ? s->n_layers : (size_t)s->info.n_layer;
    f->layers = s->layers, s->layers = NULL;
    if (!f->layers) {
        if (!(f->layers = glia_malloc(f->n_layers * sizeof *f->layers)))
            return glia_fail(err, GLIA_ENOMEM, "no memory for layers");
        for (size_t i = 0; i < f->n_layers; i++) f->layers[i] = (int32_t)i;
    }
    f->places = glia_calloc(f->n_layers + 1, sizeof *f->places);
    return f->places ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for layers");
}

static glia_status read_feature(localisation *z, size_t i, yyjson_val *v, glia_err *err) {
    feature *f = &z->features[i];
    char path[64], at[96];
    glia_status st;
    (void)snprintf(path, sizeof path, "features[%zu]", i);
    if (!yyjson_is_obj(v))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s must be an object, not %s", path, glia_json_kind(v));
    if ((st = glia_json_str(v, path, "name", &f->name, err))) return st;
    if ((st = glia_json_str(v, path, "feature_type", &f->type, err))) return st;
    if ((st = glia_json_str(v, path, "description", &f->description, err))) return st;
    if (!f->name) return glia_fail_at(err, GLIA_EINVAL, path, "%s: name is missing", path);
    yyjson_val *yes = glia_json_get(v, "examples"), *no = glia_json_get(v, "counter_examples");
    const glia_feature_set *set = glia_feature_set_find(f->name);
    (void)snprintf(at, sizeof at, "%s.target_layers", path);
    if ((st = read_layers(z, f, v, at, err))) return st;
    if ((yes && !yyjson_is_arr(yes)) || (no && !yyjson_is_arr(no)))
        return glia_fail_at(err, GLIA_EINVAL, path, "%s: examples and counter_examples must be lists of texts", path);
    size_t n_yes = yyjson_arr_size(yes), n_no = yyjson_arr_size(no);
    bool own = n_yes || n_no;
    if (own ? n_yes < 4 || n_no < 4 : !set) {
        return glia_fail_at(
            err, GLIA_EHOOK, path,
            "%s \"%.60s\" needs examples and counter_examples, at least 4 of each (GET /v1/features/common lists "
            "features that come with their own)",
            path, f->name);
    }
    if (n_yes > MAX_TEXTS || n_no > MAX_TEXTS)
        return glia_fail_at(err, GLIA_EINVAL, path, "%s: at most %d examples and as many counter_examples", path,
                            (int)MAX_TEXTS);
    f->texts = glia_calloc(own ? n_yes + n_no : 2 * GLIA_FEATURE_TEXTS, sizeof *f->texts);
    if (!f->texts) return glia_fail(err, GLIA_ENOMEM, "no memory for %s", path);
    if (!own) return read_built_in(z, f, set, err);
    f->n_positive = n_yes;
    (void)snprintf(at, sizeof at, "%s.examples", path);
    if ((st = read_texts(z, f, yes, at, err))) return st;
    (void)snprintf(at, sizeof at, "%s.counter_examples", path);
    return read_texts(z, f, no, at, err);
}

static glia_status read_request(localisation *z, glia_err *err) {
    yyjson_val *root = z->s->root, *list = glia_json_get(root, "features"), *p = glia_json_get(root, "parameters");
    int64_t perm = 99, folds = 5, seed = 0;
    glia_status st;
    z->l2 = 1;
    if (p && !yyjson_is_obj(p)) return glia_fail_at(err, GLIA_EINVAL, "parameters", "parameters must be an object");
    if ((st = read_method(z, err))) return st;
    if ((st = read_point(z, p, err))) return st;
    if ((st = glia_json_int(p, "parameters", "permutations", 19, 10000, &perm, NULL, err))) return st;
    if ((st = glia_json_int(p, "parameters", "folds", 2, 100, &folds, NULL, err))) return st;
    if ((st = glia_json_int(p, "parameters", "seed", 0, INT64_MAX, &seed, NULL, err))) return st;
    if ((st = glia_json_num(p, "parameters", "l2", 1e-9, 1e9, &z->l2, NULL, err))) return st;
    z->n_perm = (size_t)perm, z->n_folds = (size_t)folds, z->seed = (uint64_t)seed;
    if (!yyjson_is_arr(list) || !yyjson_arr_size(list) || yyjson_arr_size(list) > MAX_FEATURES)
        return glia_fail_at(err, GLIA_EINVAL, "features", "features must be a list of 1 to %d features",
                            (int)MAX_FEATURES);
    if (z->how == METHOD_SAE && (st = read_autoencoder(z, p, err))) return st;
    z->n = yyjson_arr_size(list);
    if (!(z->features = glia_calloc(z->n, sizeof *z->features)))
        return glia_fail(err, GLIA_ENOMEM, "no memory for features");
    for (size_t i = 0; i < z->n; i++) {
        if ((st = read_feature(z, i, yyjson_arr_get(list, i), err))) return st;
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ methods */

/* The TOP columns of largest |weight|. */
static void top_columns(place *pl, const double *weight, size_t n) {
    pl->n_neurons = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = pl->n_neurons < TOP ? pl->n_neurons++ : TOP;
        for (; at > 0 && fabs(weight[i]) > fabs(weight[pl->neurons[at - 1]]); at--) {
            if (at < TOP) pl->neurons[at] = pl->neurons[at - 1];
        }
        if (at < TOP) pl->neurons[at] = (int32_t)i;
    }
}

typedef struct judged {
    bool *positive; /* [n] */
    size_t *group;  /* [n] */
    double *y;      /* [n] */
} judged;

static glia_status by_probe(localisation *z, const feature *f, const judged *j, const glia_span *span, const float *x,
                            place *pl, glia_err *err) {
    size_t n = f->n, d = span->d;
    glia_probe probe;
    glia_probe_params p = {GLIA_PROBE_LOGISTIC, z->l2, z->n_folds < n ? z->n_folds : n, z->n_perm, z->seed, go_on, z};
    double *weight = glia_malloc(d * sizeof *weight);
    glia_status st =
        weight ? glia_probe_fit(&probe, span, j->y, j->group, n, &p, err) : glia_fail(err, GLIA_ENOMEM, "no memory");
    if (st) {
        glia_free(weight);
        return st;
    }
    for (size_t c = 0; c < d; c++) { /* by what a channel's own variation moves the probe */
        double square = 0;
        for (size_t i = 0; i < n; i++)
            square += ((double)x[i * d + c] - span->mean[c]) * ((double)x[i * d + c] - span->mean[c]);
        weight[c] = probe.direction[c] * sqrt(square / (double)n);
    }
    top_columns(pl, weight, d);
    pl->score = probe.score, pl->p = probe.p, pl->detail = probe.null_mean;
    pl->strength = glia_separation(probe.held_out, j->positive, n);
    pl->direction = probe.direction, probe.direction = NULL;
    glia_probe_clear(&probe);
    glia_free(weight);
    return GLIA_OK;
}

static glia_status by_pca(localisation *z, const feature *f, const judged *j, const glia_span *span, place *pl,
                          glia_err *err) {
    size_t n = f->n, k = span->r < COMPONENTS ? span->r : COMPONENTS;
    float *scores = glia_malloc((n * k + 1) * sizeof *scores);
    double *one = glia_malloc(n * sizeof *one), all = 0;
    glia_contrast c;
    glia_rng g = {z->seed};
    glia_status st = scores && one ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory");
    for (size_t i = 0; i < n * k && !st; i++) scores[i] = (float)span->z[i / k * span->r + i % k];
    if (!st) st = glia_contrast_columns(&c, scores, j->positive, n, k, z->n_perm, &g, err);
    if (!st) {
        size_t best = c.order[0];
        double auc = c.auc[best], sign = auc < 0.5 ? -1 : 1;
        for (size_t i = 0; i < span->r; i++) all += span->variance[i];
        for (size_t i = 0; i < n; i++) one[i] = sign * span->z[i * span->r + best];
        pl->score = fmax(auc, 1 - auc), pl->p = c.p, pl->detail = span->variance[best] / all,
        pl->component = (int32_t)best;
        pl->strength = glia_separation(one, j->positive, n);
        top_columns(pl, span->basis + best * span->d, span->d);
        if (!(pl->direction = glia_memdup(span->basis + best * span->d, span->d * sizeof(double))))
            st = glia_fail(err, GLIA_ENOMEM, "no memory");
        for (size_t i = 0; i < span->d && !st; i++) pl->direction[i] *= sign;
        glia_contrast_clear(&c);
    }
    glia_free(scores);
    glia_free(one);
    return st;
}

/* Latents by their maximum over a text; its first token is left out, whose row is like no other (attention sinks). */
static glia_status by_latents(localisation *z, const feature *f, const judged *j, const glia_pool *pool, place *pl,
                              glia_err *err) {
    const glia_sae *sae = &z->ae.sae;
    size_t n = f->n;
    if (pool->width != sae->d) {
        return glia_fail_at(err, GLIA_EHOOK, "parameters.sae",
                            "the autoencoder reads rows of %zu numbers, this point of the model has %zu", sae->d,
                            pool->width);
    }
    float *latents = glia_malloc(sae->n * sizeof *latents), *scratch = glia_malloc(sae->d * sizeof *scratch);
    float *most = glia_calloc(n * sae->n, sizeof *most);
    double *one = glia_malloc(n * sizeof *one);
    glia_contrast c;
    glia_rng g = {z->seed};
    glia_status st =
        latents && scratch && most && one ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu latents", sae->n);
    for (size_t r = 0; r < pool->n_rows && !st; r++) {
        size_t text = pool->text[r];
        if (pool->position[r] == 0 && f->texts[text].n_tokens > 1) continue;
        glia_sae_encode(sae, pool->rows[0] + r * pool->width, 1, scratch, latents);
        for (size_t i = 0; i < sae->n; i++) most[text * sae->n + i] = fmaxf(most[text * sae->n + i], latents[i]);
        if (!go_on(z)) st = glia_fail(err, GLIA_ECANCELLED, "cancelled");
    }
    if (!st) st = glia_contrast_columns(&c, most, j->positive, n, sae->n, z->n_perm, &g, err);
    if (!st) {
        double auc = c.auc[c.order[0]], sum[2] = {0};
        pl->n_neurons = sae->n < TOP ? sae->n : TOP;
        for (size_t i = 0; i < pl->n_neurons; i++) pl->neurons[i] = (int32_t)c.order[i];
        for (size_t i = 0; i < n; i++) sum[j->positive[i]] += (double)most[i * sae->n + c.order[0]];
        pl->score = fmax(auc, 1 - auc), pl->p = c.p, pl->detail = (double)NAN;
        pl->strength = sum[1] / (double)f->n_positive - sum[0] / (double)(n - f->n_positive);
        glia_contrast_clear(&c);
    }
    glia_free(latents), glia_free(scratch), glia_free(most), glia_free(one);
    return st;
}

static glia_status localise_at(localisation *z, feature *f, const judged *j, const glia_pool *pool, size_t l,
                               glia_err *err) {
    place *pl = &f->places[l];
    glia_span span = {0};
    pl->layer = f->layers[l], pl->component = -1;
    if (z->how == METHOD_SAE) return by_latents(z, f, j, pool, pl, err);
    glia_status st = glia_span_make(&span, pool->rows[l], pool->n_rows, pool->width, err);
    if (!st && !span.r) st = glia_fail(err, GLIA_EINVAL, "all rows of layer %d are the same", (int)pl->layer);
    if (!st)
        st =
            z->how == METHOD_PROBE ? by_probe(z, f, j, &span, pool->rows[l], pl, err) : by_pca(z, f, j, &span, pl, err);
    glia_span_clear(&span);
    return st;
}

/* The layer with the best score; of equal ones the first.  p-values of all its layers are adjusted together. */
static glia_status choose(feature *f, glia_err *err) {
    double *p = glia_malloc(f->n_layers * sizeof *p);
    size_t *order = glia_malloc(f->n_layers * sizeof *order);
    if (p && order) {
        for (size_t l = 0; l < f->n_layers; l++) p[l] = f->places[l].p;
        glia_adjust_p(p, f->n_layers, GLIA_CORRECT_BH, order);
        for (size_t l = 0; l < f->n_layers; l++) {
            f->places[l].adjusted = p[l];
            if (f->places[l].score > f->places[f->best].score) f->best = l;
        }
    }
    bool good = p && order;
    glia_free(p);
    glia_free(order);
    return good ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu layers", f->n_layers);
}

static glia_status localise(localisation *z, feature *f, glia_err *err) {
    judged j = {glia_malloc(f->n * sizeof(bool)), glia_malloc(f->n * sizeof(size_t)),
                glia_malloc(f->n * sizeof(double))};
    glia_pool *pool = NULL;
    glia_status st =
        j.positive && j.group && j.y ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu texts", f->n);
    for (size_t i = 0; i < f->n && !st; i++) j.positive[i] = i < f->n_positive, j.group[i] = i, j.y[i] = j.positive[i];
    glia_pool_params p = {f->texts, f->n, z->point, f->layers, f->n_layers, z->pooling, on_progress, z};
    if (!st) st = glia_pool_run(&pool, z->s->m, &p, err);
    for (size_t l = 0; l < f->n_layers && !st; l++) st = localise_at(z, f, &j, pool, l, err);
    if (!st) st = choose(f, err);
    glia_pool_free(pool);
    glia_free(j.positive), glia_free(j.group), glia_free(j.y);
    return st;
}

/* ------------------------------------------------------------------ answering */

static void add_real(glia_buf *b, const char *key, double x) {
    glia_buf_addf(b, ",\"%s\":", key);
    glia_json_add_real(b, x);
}

static void add_feature(glia_buf *b, const localisation *z, const feature *f) {
    const place *pl = &f->places[f->best];
    static const char *const scores[] = {"auc", "held_out_accuracy", "auc"};
    glia_buf_adds(b, "{\"feature_name\":");
    glia_json_add_cstr(b, f->name);
    glia_buf_adds(b, ",\"feature_type\":");
    glia_json_add_cstr(b, f->type ? f->type : "semantic");
    glia_buf_addf(b, ",\"layer_name\":\"model.layers.%d\",\"layer\":%d,\"neuron_indices\":[", (int)pl->layer,
                  (int)pl->layer);
    for (size_t i = 0; i < pl->n_neurons; i++) glia_buf_addf(b, i ? ",%d" : "%d", (int)pl->neurons[i]);
    glia_buf_adds(b, "]");
    add_real(b, "activation_strength", pl->strength);
    add_real(b, "confidence", 1 - pl->adjusted);
    glia_buf_addf(b, ",\"localization_method\":\"%s\",\"metadata\":{\"score\":\"%s\"", methods[z->how].name,
                  scores[z->how]);
    add_real(b, scores[z->how], pl->score);
    add_real(b, "p_value", pl->p);
    add_real(b, "adjusted_p_value", pl->adjusted);
    if (z->how == METHOD_PROBE) add_real(b, "permuted_accuracy", pl->detail);
    if (z->how == METHOD_PCA) {
        glia_buf_addf(b, ",\"component\":%d", (int)pl->component);
        add_real(b, "variance_share", pl->detail);
    }
    glia_buf_addf(b, ",\"point\":\"%s\",\"examples\":%zu,\"counter_examples\":%zu,\"description\":",
                  glia_point_name(z->point), f->n_positive, f->n - f->n_positive);
    glia_json_add_cstr(b, f->description);
    glia_buf_adds(b, "}}");
}

static void add_layers(glia_buf *b, const localisation *z) {
    bool any = false;
    for (size_t i = 0; i < z->n; i++) {
        const feature *f = &z->features[i];
        for (size_t l = 0; l < f->n_layers; l++) {
            const place *pl = &f->places[l];
            glia_buf_addf(b, "%s{\"layer\":%d,\"layer_name\":\"model.layers.%d\",\"feature_name\":", any ? "," : "",
                          (int)pl->layer, (int)pl->layer);
            glia_json_add_cstr(b, f->name);
            add_real(b, "score", pl->score);
            add_real(b, "p_value", pl->p);
            add_real(b, "adjusted_p_value", pl->adjusted);
            add_real(b, "activation_strength", pl->strength);
            glia_buf_adds(b, "}");
            any = true;
        }
    }
}

/* Directions of two features, compared where the first is best seen and the second was looked for too. */
static void add_interactions(glia_buf *b, const localisation *z, size_t width) {
    bool any = false;
    for (size_t i = 0; i < z->n; i++) {
        const place *p = &z->features[i].places[z->features[i].best];
        for (size_t k = i + 1; k < z->n && p->direction; k++) {
            const feature *f = &z->features[k];
            for (size_t l = 0; l < f->n_layers; l++) {
                const place *q = &f->places[l];
                if (q->layer != p->layer || !q->direction) continue;
                double dot = 0, a = 0, c = 0;
                for (size_t x = 0; x < width; x++) {
                    dot += p->direction[x] * q->direction[x];
                    a += p->direction[x] * p->direction[x], c += q->direction[x] * q->direction[x];
                }
                glia_buf_addf(b, "%s{\"features\":[", any ? "," : "");
                glia_json_add_cstr(b, z->features[i].name);
                glia_buf_adds(b, ",");
                glia_json_add_cstr(b, f->name);
                glia_buf_addf(b, "],\"layer\":%d", (int)p->layer);
                add_real(b, "cosine", dot / sqrt(a * c));
                glia_buf_adds(b, "}");
                any = true;
            }
        }
    }
}

static glia_status localize_work(glia_study *s, glia_buf *b, glia_err *err) {
    localisation z = {.s = s};
    glia_point_info pi;
    glia_status st = read_request(&z, err);
    for (z.under_way = 0; z.under_way < z.n && !st; z.under_way++) st = localise(&z, &z.features[z.under_way], err);
    if (st) goto done;
    (void)glia_model_point(s->m, z.point, z.features[0].layers[0], &pi);
    glia_buf_adds(b, "{\"success\":true,\"features\":[");
    for (size_t i = 0; i < z.n; i++) {
        if (i) glia_buf_adds(b, ",");
        add_feature(b, &z, &z.features[i]);
    }
    glia_buf_adds(b, "],\"layer_analysis\":[");
    add_layers(b, &z);
    glia_buf_adds(b, "],\"feature_interactions\":[");
    add_interactions(b, &z, (size_t)pi.width);
    glia_buf_adds(b, "],\"execution_time_ms\":");
    glia_json_add_num(b, glia_study_ms(s));
    glia_buf_adds(b, "}\n");
done:
    localisation_clear(&z);
    return st;
}

void glia_on_features_localize(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"features", "where features are told apart", true, localize_work};
    glia_study_serve(ud, rq, &route);
}

static void add_texts(glia_buf *b, const char *key, const char *const *texts) {
    glia_buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < GLIA_FEATURE_TEXTS; i++) {
        if (i) glia_buf_adds(b, ",");
        glia_json_add_cstr(b, texts[i]);
    }
    glia_buf_adds(b, "]");
}

void glia_on_features_common(void *ud, glia_http_request *rq) {
    const glia_feature_set *sets;
    size_t n = glia_feature_sets(&sets);
    glia_buf b = {0};
    (void)ud;
    glia_buf_adds(&b, "{\"features\":[");
    for (size_t i = 0; i < n; i++) {
        glia_buf_addf(&b, "%s{\"name\":\"%s\",\"feature_type\":\"%s\",\"description\":", i ? "," : "", sets[i].name,
                      sets[i].type);
        glia_json_add_cstr(&b, sets[i].description);
        add_texts(&b, "examples", sets[i].examples);
        add_texts(&b, "counter_examples", sets[i].counter_examples);
        glia_buf_adds(&b, "}");
    }
    glia_buf_adds(&b, "]}\n");
    glia_reply_json(rq, &b);
}

void glia_on_features_methods(void *ud, glia_http_request *rq) {
    glia_buf b = {0};
    (void)ud;
    glia_buf_adds(&b, "{\"methods\":[");
    for (size_t i = 0; i < N_METHODS; i++) {
        glia_buf_addf(&b, "%s{\"name\":\"%s\",\"available\":true,\"needs\":\"%s\",\"description\":\"%s\"}",
                      i ? "," : "", methods[i].name, methods[i].needs, methods[i].how);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        glia_buf_addf(&b, ",{\"name\":\"%s\",\"available\":false,\"description\":\"%s\"}", refused[i].name,
                      refused[i].missing);
    glia_buf_adds(&b, "]}\n");
    glia_reply_json(rq, &b);
}

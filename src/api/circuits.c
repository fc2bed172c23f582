/* api/circuits.c — POST /v1/circuits/discover and enhanced-discover: which parts of a model an answer needs.  Their tasks'
 * threads. */
#include "api/handlers.h"
#include "api/study.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/circuits.h"
#include "lab/forward.h"
#include "lab/probe_set.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CUTS = 8 };

/* NeuroScope's names of interventions. */
static const struct {
    const char *name;
    glia_cut cut;
} cuts[] = {{"zero_ablation", GLIA_CUT_ZERO},          {"mean_ablation", GLIA_CUT_MEAN},
            {"activation_patching", GLIA_CUT_PATCH},   {"random_replacement", GLIA_CUT_RANDOM},
            {"noise_injection", GLIA_CUT_NOISE},       {"scaled_intervention", GLIA_CUT_SCALE},
            {"activation_restoring", GLIA_CUT_RESTORE}};

typedef struct discovery {
    glia_study *s;
    const char *phenomenon;
    bool attention, mlp, heads;
    size_t cut[MAX_CUTS], n_cuts;
    glia_part *parts;
    size_t n_parts;
    /* samples */
    bool random_repeated, each_reading;
    glia_probe_set probes, others;
    int64_t n_samples, half;
    int32_t *other; /* of the prompt */
    size_t n_other;
    int32_t target, against;
    glia_sample *samples;
    size_t n;
    int32_t *readings;      /* at, target, against of all samples */
    float *noised;          /* [n, n_tokens, n_embd] causal tracing */
    int32_t *unpredictable; /* at, target of the first halves */
    /* judging */
    glia_judge_params judge;
    double alpha, min_share, min_confidence, strength;
    int64_t max_circuits;
    bool all;
    double from, share;
} discovery;

static void discovery_clear(discovery *d) {
    glia_free(d->parts);
    glia_free(d->samples);
    glia_free(d->readings);
    glia_free(d->noised);
    glia_free(d->unpredictable);
    glia_free(d->other);
    glia_probe_set_clear(&d->probes);
    glia_probe_set_clear(&d->others);
}

static bool on_progress(void *ud, double fraction) {
    const discovery *d = ud;
    return glia_study_tell(d->s, d->from + d->share * fraction);
}

/* ------------------------------------------------------------------ reading the request */

static glia_status read_cuts(discovery *d, glia_err *err) {
    yyjson_val *list = glia_json_get(d->s->root, "intervention_types");
    size_t n = list ? yyjson_arr_size(list) : 0;
    if (list && !yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, "intervention_types", "intervention_types must be a list of names");
    for (size_t i = 0; i < n; i++) {
        const char *name = yyjson_get_str(yyjson_arr_get(list, i));
        size_t k = 0;
        if (name && strstr(name, "gradient")) {
            return glia_fail_at(
                err, GLIA_EHOOK, "intervention_types",
                "\"%.40s\" needs gradients, which are not computed: every effect here is an exact intervention", name);
        }
        while (name && k < sizeof cuts / sizeof *cuts && strcmp(name, cuts[k].name) != 0) k++;
        if (!name || k == sizeof cuts / sizeof *cuts || d->n_cuts == MAX_CUTS) {
            return glia_fail_at(err, GLIA_EINVAL, "intervention_types",
                                "intervention_types[%zu] must be zero_ablation, mean_ablation, activation_patching, "
                                "activation_restoring, noise_injection, random_replacement or scaled_intervention",
                                i);
        }
        d->cut[d->n_cuts++] = k;
    }
    if (!d->n_cuts) d->cut[d->n_cuts++] = 0;
    return GLIA_OK;
}

static glia_status read_components(discovery *d, glia_err *err) {
    yyjson_val *list = glia_json_get(d->s->root, "target_components");
    size_t n = list ? yyjson_arr_size(list) : 0;
    if (list && !yyjson_is_arr(list))
        return glia_fail_at(err, GLIA_EINVAL, "target_components", "target_components must be a list of names");
    if (!n) d->attention = d->mlp = true;
    for (size_t i = 0; i < n; i++) {
        yyjson_val *v = yyjson_arr_get(list, i);
        if (yyjson_equals_str(v, "attention")) {
            d->attention = true;
        } else if (yyjson_equals_str(v, "mlp")) {
            d->mlp = true;
        } else if (yyjson_equals_str(v, "head") || yyjson_equals_str(v, "heads") ||
                   yyjson_equals_str(v, "attention_head")) {
            d->heads = true;
        } else {
            return glia_fail_at(
                err, yyjson_is_str(v) ? GLIA_EHOOK : GLIA_EINVAL, "target_components",
                "target_components[%zu] must be attention, mlp or head: other parts are not what a circuit is "
                "made of here (POST /api/v1/sweeps changes any point)",
                i);
        }
    }
    return glia_study_layers(d->s, "target_layers", err);
}

static glia_status read_judge(discovery *d, const char *correction, double level, glia_err *err) {
    yyjson_val *root = d->s->root;
    int64_t boot = 1000, perm = 65536, seed = 0;
    glia_status st;
    d->alpha = level;
    if ((st = glia_json_num(root, "", "significance_threshold", 0, 1, &d->alpha, NULL, err))) return st;
    if ((st = glia_json_num(root, "", "confidence_threshold", 0, 1, &d->min_confidence, NULL, err))) return st;
    if ((st = glia_json_num(root, "", "min_share", 0, 1, &d->min_share, NULL, err))) return st;
    if ((st = glia_json_str(root, "", "multiple_comparisons", &correction, err))) return st;
    if (!glia_correction_from_name(correction, &d->judge.correction)) {
        return glia_fail_at(err, GLIA_EINVAL, "multiple_comparisons",
                            "multiple_comparisons must be none, bonferroni, holm or fdr_bh, not \"%.40s\"", correction);
    }
    if ((st = glia_json_int(root, "", "bootstrap_samples", 0, 100000, &boot, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "permutations", 1, 1000000, &perm, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "seed", 0, INT64_MAX, &seed, NULL, err))) return st;
    if ((st = glia_json_int(root, "", "max_circuits", 1, 100000, &d->max_circuits, NULL, err))) return st;
    if ((st = glia_json_num(root, "", "strength", -1e6, 1e6, &d->strength, NULL, err))) return st;
    if ((st = glia_json_bool(root, "", "include_all", &d->all, NULL, err))) return st;
    d->judge.n_boot = (size_t)boot, d->judge.n_perm = (size_t)perm, d->judge.seed = (uint64_t)seed,
    d->judge.level = 0.95;
    return GLIA_OK;
}

static glia_status read_samples(discovery *d, glia_err *err) {
    glia_study *s = d->s;
    const char *samples = NULL;
    glia_status st;
    if ((st = glia_json_str(s->root, "", "phenomenon", &d->phenomenon, err))) return st;
    if (!d->phenomenon) d->phenomenon = "general";
    samples = strstr(d->phenomenon, "induction") ? "random_repeated" : "prompt";
    if ((st = glia_json_str(s->root, "", "samples", &samples, err))) return st;
    d->random_repeated = !strcmp(samples, "random_repeated");
    if (!d->random_repeated && strcmp(samples, "prompt") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "samples", "samples must be prompt or random_repeated, not \"%.40s\"",
                            samples);
    d->n_samples = 16, d->half = 12, d->target = d->against = -1;
    if ((st = glia_json_int(s->root, "", "n_samples", 1, 1024, &d->n_samples, NULL, err))) return st;
    if ((st = glia_json_int(s->root, "", "probe_length", 3, 512, &d->half, NULL, err))) return st;
    if ((st = glia_study_token(s, "target", &d->target, err))) return st;
    if ((st = glia_study_token(s, "against", &d->against, err))) return st;
    if (d->random_repeated) return GLIA_OK;
    if ((st = glia_study_prompt(s, err))) return st;
    const char *key = glia_json_get(s->root, "corrupted_prompt") ? "corrupted_prompt" : "baseline_prompt";
    if ((st = glia_study_prompt_at(s, key, &d->other, &d->n_other, err))) return st;
    if (d->other && d->n_other != s->n_tokens) {
        return glia_fail_at(err, GLIA_EINVAL, key,
                            "%s has %zu tokens, the prompt %zu: patching row by row needs as many", key, d->n_other,
                            s->n_tokens);
    }
    if (d->against >= 0 && d->target < 0)
        return glia_fail_at(err, GLIA_EINVAL, "target", "against needs a target to be compared with");
    return GLIA_OK;
}

/* ------------------------------------------------------------------ making samples */

/* Each sequence read at its second half, where the next token is known from the first; beside it the first halves, where it
 * cannot be known: what the behaviour is measured against. */
static glia_status make_repeated(discovery *d, glia_err *err) {
    glia_rng g = {d->judge.seed ^ 0x636972u};
    size_t n = d->n = (size_t)d->n_samples, half = (size_t)d->half, m = half - 1;
    glia_status st = glia_probe_set_make(&d->probes, d->s->m, n, half, &g, err);
    if (!st) st = glia_probe_set_make(&d->others, d->s->m, n, half, &g, err);
    if (st) return st;
    d->samples = glia_calloc(n, sizeof *d->samples);
    d->readings = glia_malloc(2 * n * m * sizeof *d->readings);
    d->unpredictable = glia_malloc(2 * n * m * sizeof *d->unpredictable);
    if (!d->samples || !d->readings || !d->unpredictable)
        return glia_fail(err, GLIA_ENOMEM, "no memory for %zu samples", n);
    size_t length = d->probes.length, before = d->probes.n_before;
    for (size_t i = 0; i < n; i++) {
        int32_t *tokens = d->probes.tokens + i * length, *other = d->others.tokens + i * length;
        /* the same second half behind a first half that says nothing of it */
        memcpy(other + before + half, tokens + before + half, half * sizeof *other);
        int32_t *at = d->readings + 2 * i * m, *first = d->unpredictable + 2 * i * m;
        for (size_t k = 0; k < m; k++) {
            at[k] = (int32_t)(before + half + k), at[m + k] = tokens[before + half + k + 1];
            first[k] = (int32_t)(before + k), first[m + k] = tokens[before + k + 1];
        }
        d->samples[i] = (glia_sample){
            .tokens = tokens, .n_tokens = length, .at = at, .target = at + m, .n_readings = m, .other = other};
    }
    return GLIA_OK;
}

/* The prompt, read at its last row for a target, or at every row for the token that follows. */
static glia_status make_prompt(discovery *d, glia_err *err) {
    const glia_study *s = d->s;
    size_t n = d->target >= 0 ? 1 : s->n_tokens - 1;
    if (!n)
        return glia_fail_at(err, GLIA_EINVAL, "prompt",
                            "a prompt of one token predicts nothing in it: give a target or a longer one");
    d->n = 1, d->each_reading = true;
    d->samples = glia_calloc(1, sizeof *d->samples);
    d->readings = glia_malloc(3 * n * sizeof *d->readings);
    if (!d->samples || !d->readings) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu readings", n);
    for (size_t i = 0; i < n; i++) {
        bool named = d->target >= 0;
        d->readings[i] = named ? (int32_t)s->n_tokens - 1 : (int32_t)i;
        d->readings[n + i] = named ? d->target : s->tokens[i + 1];
        d->readings[2 * n + i] = d->against;
    }
    d->samples[0] = (glia_sample){.tokens = s->tokens,
                                  .n_tokens = s->n_tokens,
                                  .at = d->readings,
                                  .target = d->readings + n,
                                  .against = d->against >= 0 ? d->readings + 2 * n : NULL,
                                  .n_readings = n,
                                  .other = d->other};
    return GLIA_OK;
}

/* ------------------------------------------------------------------ answering */

typedef struct found {
    size_t part, cut;
    glia_part_verdict v;
} found;

static int by_effect(const void *a, const void *b) {
    double x = fabs(((const found *)a)->v.effect), y = fabs(((const found *)b)->v.effect);
    return x > y ? -1 : x < y;
}

static void add_real(glia_buf *b, const char *key, double x) {
    glia_buf_addf(b, ",\"%s\":", key);
    glia_json_add_real(b, x);
}

static const char *kind_name(glia_part_kind k) {
    return k == GLIA_PART_HEAD ? "attention_head" : k == GLIA_PART_MLP ? "mlp" : "attention";
}

static void add_found(glia_buf *b, const discovery *d, const found *f) {
    const glia_part *p = &d->parts[f->part];
    const char *cut = cuts[f->cut].name;
    char id[64], head[32] = "";
    if (p->kind == GLIA_PART_HEAD) (void)snprintf(head, sizeof head, ",\"head\":%d", (int)p->head);
    (void)snprintf(id, sizeof id,
                   p->kind == GLIA_PART_HEAD  ? "L%d.H%d"
                   : p->kind == GLIA_PART_MLP ? "L%d.mlp"
                                              : "L%d.attention",
                   (int)p->layer, (int)p->head);
    glia_buf_addf(b, "{\"circuit_id\":\"%s.%s\",\"phenomenon\":", id, cut);
    glia_json_add_cstr(b, d->phenomenon);
    glia_buf_addf(
        b, ",\"layer_name\":\"model.layers.%d\",\"layer\":%d,\"component\":\"%s\"%s,\"intervention_type\":\"%s\"",
        (int)p->layer, (int)p->layer, kind_name(p->kind), head, cut);
    add_real(b, "causal_effect", f->v.effect);
    add_real(b, "confidence", 1 - f->v.adjusted);
    add_real(b, "p_value", f->v.p);
    add_real(b, "adjusted_p_value", f->v.adjusted);
    glia_buf_adds(b, ",\"interval\":[");
    glia_json_add_real(b, f->v.low);
    glia_buf_adds(b, ",");
    glia_json_add_real(b, f->v.high);
    const char *what = cuts[f->cut].cut == GLIA_CUT_RESTORE ? "gains" : "loses";
    glia_buf_addf(b, "],\"description\":\"the answer %s %.4g nats of log-probability\"}", what, f->v.effect);
}

typedef struct behaviour {
    bool known, present;
    double clean, baseline, gain, p;
} behaviour;

/* Is there anything to find?  The second halves must be predicted better than the first. */
static glia_status measure_behaviour(const discovery *d, behaviour *out, glia_err *err) {
    size_t n = d->n, m = (size_t)d->half - 1;
    glia_sample *first = glia_memdup(d->samples, n * sizeof *first);
    glia_effects *known = NULL, *unknown = NULL;
    glia_status st = GLIA_OK;
    *out = (behaviour){.known = true};
    if (!first) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu samples", n);
    for (size_t i = 0; i < n; i++) first[i].at = d->unpredictable + 2 * i * m, first[i].target = first[i].at + m;
    glia_effects_params p = {.samples = d->samples, .n_samples = n};
    if ((st = glia_effects_run(&known, d->s->m, &p, err))) goto done;
    p.samples = first;
    if ((st = glia_effects_run(&unknown, d->s->m, &p, err))) goto done;
    out->clean = glia_mean(known->base, n), out->baseline = glia_mean(unknown->base, n);
    for (size_t i = 0; i < n; i++) known->base[i] -= unknown->base[i];
    glia_rng g = {d->judge.seed};
    out->gain = glia_mean(known->base, n);
    out->p = n > 1 ? glia_sign_flip_p(known->base, n, d->judge.n_perm, &g, NULL) : (double)NAN;
    out->present = out->gain > 0 && !(out->p > d->alpha);
done:
    glia_effects_free(known);
    glia_effects_free(unknown);
    glia_free(first);
    return st;
}

static bool is_found(const discovery *d, const behaviour *b, const found *f) {
    if (b->known && (!b->present || !(f->v.effect >= d->min_share * b->gain))) return false;
    if (isnan(f->v.adjusted)) return d->min_confidence <= 0; /* one observation: an effect without a judgement */
    return f->v.adjusted <= d->alpha && 1 - f->v.adjusted >= d->min_confidence;
}

/* All effects of one kind of intervention, judged; appended to list. */
static glia_status run_cut(discovery *d, size_t k, found *list, size_t *n_obs, double *base, double *clean,
                           glia_err *err) {
    glia_effects *e = NULL;
    glia_part_verdict *v = glia_malloc((d->n_parts + 1) * sizeof *v);
    d->from = (double)k / (double)d->n_cuts, d->share = 1 / (double)d->n_cuts;
    glia_effects_params p = {.parts = d->parts,
                             .n_parts = d->n_parts,
                             .samples = d->samples,
                             .n_samples = d->n,
                             .cut = cuts[d->cut[k]].cut,
                             .strength = (float)d->strength,
                             .seed = d->judge.seed,
                             .each_reading = d->each_reading,
                             .on_progress = on_progress,
                             .ud = d};
    glia_status st = v ? glia_effects_run(&e, d->s->m, &p, err) : glia_fail(err, GLIA_ENOMEM, "no memory");
    if (!st) st = glia_effects_judge(e, &d->judge, v, err);
    for (size_t i = 0; i < d->n_parts && !st; i++) list[i] = (found){i, d->cut[k], v[i]};
    if (!st) *n_obs = e->n_obs, *base = glia_mean(e->base, e->n_obs), *clean = glia_mean(e->clean, e->n_obs);
    glia_effects_free(e);
    glia_free(v);
    return st;
}

static void add_behaviour(glia_buf *b, const behaviour *x) {
    glia_buf_addf(b, ",\"behaviour\":{\"present\":%s", x->present ? "true" : "false");
    add_real(b, "logprob_predictable", x->clean);
    add_real(b, "logprob_unpredictable", x->baseline);
    add_real(b, "gain", x->gain);
    add_real(b, "p_value", x->p);
    glia_buf_adds(b, "}");
}

static void add_metadata(glia_buf *b, const discovery *d, const behaviour *x, size_t n_obs, double base, double clean,
                         size_t n_tested, const char *samples) {
    glia_buf_adds(b, ",\"metadata\":{\"model\":");
    glia_json_add_cstr(b, d->s->info.id);
    glia_buf_addf(b, ",\"metric\":\"%s\",\"samples\":\"%s\",\"observations\":%zu,\"tested\":%zu",
                  d->against >= 0 ? "log-probability of target minus that of against"
                                  : "log-probability of the token that follows",
                  samples, n_obs, n_tested);
    add_real(b, "clean", clean);
    add_real(b, "unchanged", base);
    if (x->known) add_behaviour(b, x);
    add_real(b, "significance_threshold", d->alpha);
    add_real(b, "min_share", x->known ? d->min_share : 0);
    glia_buf_addf(b, ",\"multiple_comparisons\":\"%s\",\"bootstrap_samples\":%zu,\"permutations\":%zu,\"seed\":%llu",
                  glia_correction_name(d->judge.correction), d->judge.n_boot, d->judge.n_perm,
                  (unsigned long long)d->judge.seed);
    double least = n_obs > 1 ? glia_sign_flip_least(n_obs, d->judge.n_perm) : (double)NAN;
    add_real(b, "smallest_p_value", least);
    bool weak = d->judge.correction != GLIA_CORRECT_NONE && d->judge.correction != GLIA_CORRECT_BH &&
                least * (double)d->n_parts > d->alpha;
    glia_buf_addf(
        b, ",\"note\":%s}",
        n_obs < 2 ? "\"one observation: effects are exact, but nothing can be said of their significance; leave out "
                    "target, or use enhanced-discover\""
        : weak    ? "\"too few observations for so many parts: none can be significant after the correction; use "
                    "more samples, fewer layers or fdr_bh\""
                  : "null");
}

/* Everything behind the samples: run, judge, answer. */
static glia_status discover(discovery *d, const behaviour *x, const char *samples, glia_buf *b, glia_err *err) {
    size_t n_obs = 0, n_all = d->n_parts * d->n_cuts, n_found = 0;
    double base = (double)NAN, clean = (double)NAN;
    found *list = glia_calloc(n_all + 1, sizeof *list);
    glia_status st = list ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for %zu effects", n_all);
    for (size_t k = 0; k < d->n_cuts && !st; k++) st = run_cut(d, k, list + k * d->n_parts, &n_obs, &base, &clean, err);
    if (st) goto done;
    qsort(list, n_all, sizeof *list, by_effect);
    glia_buf_adds(b, "{\"success\":true,\"circuits\":[");
    for (size_t i = 0; i < n_all; i++) {
        if (!is_found(d, x, &list[i]) || n_found++ >= (size_t)d->max_circuits) continue;
        if (n_found > 1) glia_buf_adds(b, ",");
        add_found(b, d, &list[i]);
    }
    glia_buf_adds(b, "],\"phenomenon\":");
    glia_json_add_cstr(b, d->phenomenon);
    glia_buf_adds(b, ",\"execution_time\":");
    glia_json_add_num(b, glia_study_ms(d->s) / 1e3);
    glia_buf_addf(b, ",\"total_results\":%zu", n_found);
    if (d->all) {
        glia_buf_adds(b, ",\"effects\":[");
        for (size_t i = 0; i < n_all; i++) {
            if (i) glia_buf_adds(b, ",");
            add_found(b, d, &list[i]);
        }
        glia_buf_adds(b, "]");
    }
    add_metadata(b, d, x, n_obs, base, clean, n_all, samples);
    glia_buf_adds(b, "}\n");
done:
    glia_free(list);
    return st;
}

static glia_status begin(discovery *d, const char *correction, glia_err *err) {
    glia_status st;
    d->max_circuits = 10, d->min_share = 0.05, d->strength = 1;
    if ((st = read_cuts(d, err))) return st;
    if ((st = read_components(d, err))) return st;
    if ((st = read_judge(d, correction, 0.05, err))) return st;
    if ((st = read_samples(d, err))) return st;
    st = glia_parts_list(&d->parts, &d->n_parts, d->s->m, d->s->layers, d->s->n_layers, d->attention, d->mlp, d->heads,
                         err);
    if (!st && !d->n_parts)
        st = glia_fail_at(err, GLIA_EHOOK, "target_components", "this model has none of these parts in these layers");
    return st;
}

static glia_status discover_work(glia_study *s, glia_buf *b, glia_err *err) {
    discovery d = {.s = s};
    behaviour x = {0};
    char samples[128] = "every token of the prompt";
    glia_status st = begin(&d, "holm", err);
    if (!st) st = d.random_repeated ? make_repeated(&d, err) : make_prompt(&d, err);
    for (size_t k = 0; k < d.n_cuts && !st; k++) {
        bool patch = cuts[d.cut[k]].cut == GLIA_CUT_PATCH || cuts[d.cut[k]].cut == GLIA_CUT_RESTORE;
        if (patch && !d.samples[0].other) {
            st = glia_fail_at(err, GLIA_EINVAL, "corrupted_prompt",
                              "%s needs corrupted_prompt: another prompt of %zu tokens", cuts[d.cut[k]].name,
                              s->n_tokens);
        }
    }
    if (!st && d.random_repeated) {
        (void)snprintf(samples, sizeof samples, "%zu random sequences of %zu tokens, each repeated", d.n,
                       (size_t)d.half);
        st = measure_behaviour(&d, &x, err);
    } else if (!st && d.target >= 0) {
        (void)snprintf(samples, sizeof samples, "the last token of the prompt");
    }
    if (!st) st = discover(&d, &x, samples, b, err);
    discovery_clear(&d);
    return st;
}

void glia_on_circuits_discover(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"circuits", "parts that an answer needs", true, discover_work};
    glia_study_serve(ud, rq, &route);
}

/* ------------------------------------------------------------------ enhanced: causal tracing */

typedef enum noise_kind { NOISE_GAUSSIAN, NOISE_UNIFORM, NOISE_DROPOUT, NOISE_SALT_PEPPER } noise_kind;

/* Normal numbers by the polar method. */
static double normal(glia_rng *g) {
    double u, v, r;
    do { u = 2 * glia_rng_unit(g) - 1, v = 2 * glia_rng_unit(g) - 1, r = u * u + v * v; } while (r >= 1 || r == 0);
    return u * sqrt(-2 * log(r) / r);
}

/* x as the noise makes it; deviation: of all values that enter layer 0. */
static double disturb(noise_kind kind, double x, double scale, double deviation, double top, glia_rng *g) {
    switch (kind) {
    case NOISE_UNIFORM: return x + scale * deviation * sqrt(3) * (2 * glia_rng_unit(g) - 1); /* of the same deviation */
    case NOISE_DROPOUT: return glia_rng_unit(g) < scale ? 0 : x;
    case NOISE_SALT_PEPPER: return glia_rng_unit(g) < scale ? (glia_rng_next(g) & 1 ? top : -top) : x;
    default: return x + scale * deviation * normal(g);
    }
}

static glia_status read_noise(const glia_study *s, noise_kind *kind, double *scale, int64_t *n, glia_err *err) {
    static const char *const names[] = {"gaussian", "uniform", "dropout", "salt_pepper"};
    yyjson_val *root = s->root;
    const char *name = names[0], *method = "causal_tracing";
    glia_status st;
    if ((st = glia_json_str(root, "", "attribution_method", &method, err))) return st;
    if (strcmp(method, "causal_tracing") != 0 && strcmp(method, "activation_patching") != 0) {
        return glia_fail_at(
            err, GLIA_EHOOK, "attribution_method",
            "attribution_method \"%.40s\": gradients are not computed; causal_tracing (exact interventions) is",
            method);
    }
    if ((st = glia_json_str(root, "", "noise_type", &name, err))) return st;
    if (!strcmp(name, "adversarial")) {
        return glia_fail_at(
            err, GLIA_EHOOK, "noise_type",
            "adversarial noise needs gradients, which are not computed: use gaussian, uniform, dropout or "
            "salt_pepper");
    }
    size_t k = 0;
    while (k < 4 && strcmp(name, names[k]) != 0) k++;
    if (k == 4) {
        return glia_fail_at(err, GLIA_EINVAL, "noise_type",
                            "noise_type must be gaussian, uniform, dropout or salt_pepper, not \"%.40s\"", name);
    }
    *kind = (noise_kind)k, *n = 16;
    *scale = k < 2 ? 3 : 0.5; /* deviations (Meng et al. 2022), or the share of values */
    if ((st = glia_json_num(root, "", "noise_scale", 0, k < 2 ? 1e6 : 1, scale, NULL, err))) return st;
    return glia_json_int(root, "", "noise_samples", 2, 1024, n, NULL, err);
}

/* What enters layer 0, once for each draw with noise; the target when none is named. */
static glia_status make_noised(discovery *d, noise_kind kind, double scale, size_t n, glia_err *err) {
    static const int64_t last[] = {-1};
    glia_study *s = d->s;
    glia_hook hooks[2] = {
        {.point = GLIA_POINT_RESID_PRE, .phases = GLIA_PHASE_PROMPT},
        {.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_PROMPT, .positions = last, .n_positions = 1}};
    glia_forward_case c = {.tokens = s->tokens, .n_tokens = s->n_tokens, .hooks = hooks, .n_hooks = 2};
    glia_forward *f;
    glia_status st = glia_forward_run(&f, s->m, &(glia_forward_params){.cases = &c, .n_cases = 1}, err);
    if (st) return st;
    const glia_rows *rows = glia_forward_rows(f, 0, 0), *logits = glia_forward_rows(f, 0, 1);
    size_t size = (size_t)rows->n_rows * (size_t)rows->width;
    double mean = 0, square = 0, top = 0;
    for (int32_t i = 1; d->target < 0 && i < logits->width; i++) {
        if (logits->data[i] > logits->data[d->readings[1]]) d->readings[1] = i; /* from 0 on */
    }
    for (size_t i = 0; i < size; i++) {
        double x = (double)rows->data[i];
        mean += x / (double)size, square += x * x / (double)size, top = fmax(top, fabs(x));
    }
    double deviation = sqrt(fmax(0, square - mean * mean));
    d->noised = glia_malloc(n * size * sizeof *d->noised);
    if (!d->noised) st = glia_fail_at(err, GLIA_ENOMEM, "noise_samples", "no memory for %zu disturbed prompts", n);
    for (size_t k = 0; k < n && !st; k++) {
        glia_rng g = {d->judge.seed + 7919 * (k + 1)};
        for (size_t i = 0; i < size; i++)
            d->noised[k * size + i] = (float)disturb(kind, (double)rows->data[i], scale, deviation, top, &g);
    }
    glia_forward_free(f);
    for (size_t k = 0; k < n && !st; k++) {
        d->samples[k] = (glia_sample){.tokens = s->tokens,
                                      .n_tokens = s->n_tokens,
                                      .at = d->readings,
                                      .target = d->readings + 1,
                                      .against = d->against >= 0 ? d->readings + 2 : NULL,
                                      .n_readings = 1,
                                      .noised = d->noised + k * size};
    }
    return st;
}

static glia_status enhanced_work(glia_study *s, glia_buf *b, glia_err *err) {
    discovery d = {.s = s};
    behaviour x = {0};
    noise_kind kind = NOISE_GAUSSIAN;
    double scale = 0;
    int64_t n = 0;
    char samples[128];
    glia_status st = read_noise(s, &kind, &scale, &n, err);
    if (!st) st = begin(&d, "fdr_bh", err);
    if (!st && d.random_repeated) st = glia_study_prompt(s, err);
    if (st) goto done;
    d.random_repeated = false, d.n = (size_t)n;
    d.cut[0] = sizeof cuts / sizeof *cuts - 1, d.n_cuts = 1; /* restoring */
    d.samples = glia_calloc(d.n, sizeof *d.samples);
    d.readings = glia_malloc(3 * sizeof *d.readings);
    if (!d.samples || !d.readings) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu samples", d.n);
        goto done;
    }
    d.readings[0] = (int32_t)s->n_tokens - 1, d.readings[1] = d.target < 0 ? 0 : d.target, d.readings[2] = d.against;
    if ((st = make_noised(&d, kind, scale, d.n, err))) goto done;
    (void)snprintf(samples, sizeof samples, "%zu draws of noise on what enters layer 0, each part restored alone", d.n);
    st = discover(&d, &x, samples, b, err);
done:
    discovery_clear(&d);
    return st;
}

static glia_status enhanced_check(const glia_study *s, glia_err *err) {
    noise_kind kind;
    double scale;
    int64_t n;
    if (!glia_json_get(s->root, "prompt") && !glia_json_get(s->root, "messages"))
        return glia_fail_at(err, GLIA_EINVAL, "prompt", "prompt is missing: a string or a list of token ids");
    return read_noise(s, &kind, &scale, &n, err);
}

void glia_on_circuits_enhanced(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"circuits", "causal tracing of an answer", true, enhanced_work};
    glia_study_start_checked(ud, rq, &route, enhanced_check);
}

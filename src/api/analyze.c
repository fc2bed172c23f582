/* api/analyze.c — POST /v1/analyze/attention: attention heads by what they look at.  Its task's thread. */
#include "api/handlers.h"
#include "api/study.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/head_study.h"
#include "lab/head_weights.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a head of this kind is called in a circuit; NULL: the pattern says nothing of one. */
static const char *role_of(glia_pattern p) {
    switch (p) {
    case GLIA_PATTERN_INDUCTION: return "induction_head";
    case GLIA_PATTERN_PREVIOUS_TOKEN: return "previous_token_head";
    case GLIA_PATTERN_DUPLICATE_TOKEN: return "duplicate_token_head";
    case GLIA_PATTERN_FIRST_TOKEN: return "attention_sink";
    default: return "unknown";
    }
}

static double strength_of(const glia_studied_head *h) {
    return h->verdict.name < GLIA_N_PATTERNS ? h->verdict.patterns[h->verdict.name].excess : (double)NAN;
}

static void add_tops(glia_buf *b, const char *key, const glia_head_top *top, size_t n) {
    glia_buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) glia_buf_addf(b, i ? ",%d" : "%d", (int)top[i].position);
    glia_buf_adds(b, "]");
}

static void add_weights(glia_buf *b, const char *key, const glia_head_top *top, size_t n) {
    glia_buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        if (i) glia_buf_adds(b, ",");
        glia_json_add_real(b, top[i].weight);
    }
    glia_buf_adds(b, "]");
}

static void add_scores(glia_buf *b, const char *key, const glia_pattern_score *s, bool p) {
    glia_buf_addf(b, "\"%s\":{", key);
    for (size_t i = 0; i < GLIA_N_PATTERNS; i++) {
        glia_buf_addf(b, "%s\"%s\":{\"score\":", i ? "," : "", glia_pattern_name((glia_pattern)i));
        glia_json_add_real(b, s[i].score);
        glia_buf_adds(b, ",\"chance\":");
        glia_json_add_real(b, s[i].chance);
        glia_buf_adds(b, ",\"excess\":");
        glia_json_add_real(b, s[i].excess);
        if (p) glia_buf_adds(b, ",\"p_value\":"), glia_json_add_real(b, s[i].p);
        glia_buf_addf(b, ",\"rows\":%zu}", s[i].n_rows);
    }
    glia_buf_adds(b, "}");
}

/* ------------------------------------------------------------------ from the weights */

enum { MAX_PAIRS = 64 };

/* What the file says of the heads; file NULL: it was not asked, or cannot say (why). */
typedef struct from_weights {
    glia_heads_file *file;
    double *copying, *matching; /* [heads] NaN: this layer's weights are not plain */
    glia_err why;
} from_weights;

static void weights_clear(from_weights *w) {
    glia_heads_file_close(w->file);
    glia_free(w->copying);
    glia_free(w->matching);
}

/* Tokens are thinned out where all of them would take minutes. */
static size_t tokens_for(size_t d) {
    double n = 5e10 / ((double)d * (double)d);
    return n < 256 ? 256 : (size_t)n;
}

static glia_status read_weights(from_weights *w, const glia_study *s, const glia_head_study *a, glia_err *err) {
    glia_status st = glia_heads_file_open(&w->file, s->m, tokens_for((size_t)s->info.n_embd), &w->why);
    if (st == GLIA_EHOOK) return GLIA_OK;
    w->copying = glia_malloc((a->n_heads + 1) * sizeof *w->copying),
    w->matching = glia_malloc((a->n_heads + 1) * sizeof *w->matching);
    if (!st && (!w->copying || !w->matching))
        st = glia_fail(&w->why, GLIA_ENOMEM, "no memory for %zu heads", a->n_heads);
    for (size_t i = 0; i < a->n_heads && !st; i++) {
        w->copying[i] = w->matching[i] = (double)NAN;
        st = glia_heads_file_scores(w->file, a->heads[i].layer, a->heads[i].head, &w->copying[i], &w->matching[i],
                                    &w->why);
        if (st == GLIA_EHOOK) st = GLIA_OK; /* null for this head, and why */
        if (glia_task_cancelled(s->task)) st = glia_fail(&w->why, GLIA_ECANCELLED, "cancelled");
    }
    if (st && err) *err = w->why;
    return st;
}

typedef struct pair {
    size_t from, to; /* heads */
    glia_composition c;
} pair;

static int by_strength(const void *a, const void *b) {
    double x = ((const pair *)a)->c.k, y = ((const pair *)b)->c.k;
    return x > y ? -1 : x < y;
}

static void add_pair(glia_buf *b, const glia_head_study *a, const pair *p, bool first) {
    const glia_studied_head *x = &a->heads[p->from], *y = &a->heads[p->to];
    glia_buf_addf(b, "%s{\"source_layer\":%d,\"target_layer\":%d,\"dependency_type\":\"k_composition\",\"strength\":",
                  first ? "" : ",", (int)x->layer, (int)y->layer);
    glia_json_add_real(b, p->c.k);
    glia_buf_addf(
        b,
        ",\"mechanism\":\"keys of an induction head read what a previous-token head writes\",\"affected_heads\":[[%d,%d],[%d,%d]]"
        ",\"metadata\":{\"q_composition\":",
        (int)x->layer, (int)x->head, (int)y->layer, (int)y->head);
    glia_json_add_real(b, p->c.q);
    glia_buf_adds(b, ",\"v_composition\":");
    glia_json_add_real(b, p->c.v);
    glia_buf_adds(b, "}}");
}

/* Previous-token heads before induction heads: the circuit that the two make. */
static glia_status add_dependencies(glia_buf *b, const from_weights *w, const glia_head_study *a, glia_err *err) {
    size_t n = 0;
    pair *pairs = w->file ? glia_malloc((a->n_heads * a->n_heads + 1) * sizeof *pairs) : NULL;
    glia_status st = w->file && !pairs ? glia_fail(err, GLIA_ENOMEM, "no memory for pairs of heads") : GLIA_OK;
    for (size_t i = 0; pairs && i < a->n_heads && !st; i++) {
        for (size_t k = 0; k < a->n_heads && !st; k++) {
            const glia_studied_head *x = &a->heads[i], *y = &a->heads[k];
            if (x->verdict.name != GLIA_PATTERN_PREVIOUS_TOKEN || y->verdict.name != GLIA_PATTERN_INDUCTION ||
                x->layer >= y->layer)
                continue;
            pairs[n] = (pair){.from = i, .to = k};
            st = glia_heads_file_compose(w->file, x->layer, x->head, y->layer, y->head, &pairs[n].c, err);
            if (st == GLIA_EHOOK || st == GLIA_EINVAL)
                st = GLIA_OK; /* not plain matrices, or of different widths: no such pair */
            else n++;
        }
    }
    if (!st && n) qsort(pairs, n, sizeof *pairs, by_strength);
    for (size_t i = 0; i < n && i < MAX_PAIRS && !st; i++) add_pair(b, a, &pairs[i], !i);
    glia_free(pairs);
    return st;
}

static void add_head(glia_buf *b, const glia_studied_head *h, const from_weights *w, size_t i) {
    const glia_head_verdict *v = &h->verdict;
    glia_buf_addf(b, "{\"layer\":%d,\"head\":%d,\"pattern_type\":\"%s\",\"confidence\":", (int)h->layer, (int)h->head,
                  glia_pattern_name(v->name));
    glia_json_add_real(b, v->confidence);
    glia_buf_addf(b, ",\"circuit_role\":\"%s\"", role_of(v->name));
    add_tops(b, "key_tokens", h->keys, h->n_top);
    add_tops(b, "value_tokens", h->values, h->n_values);
    glia_buf_adds(b, ",\"metadata\":{\"strength\":");
    glia_json_add_real(b, strength_of(h));
    glia_buf_addf(b, ",\"distance\":%d,", (int)v->distance);
    add_scores(b, "scores", v->patterns, true);
    glia_buf_adds(b, ",");
    add_scores(b, "random_repeated", v->probe, false);
    add_weights(b, "key_weights", h->keys, h->n_top);
    add_weights(b, "value_weights", h->values, h->n_values);
    if (w->file) {
        glia_buf_adds(b, ",\"weights\":{\"copying\":");
        glia_json_add_real(b, w->copying[i]);
        glia_buf_adds(b, ",\"matching\":");
        glia_json_add_real(b, w->matching[i]);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "}}");
}

/* The positions that heads of a pattern look at most, each once. */
static void add_positions(glia_buf *b, const glia_head_study *a, glia_pattern p) {
    bool any = false;
    for (size_t k = 0; k < a->n_tokens; k++) {
        bool there = false;
        for (size_t i = 0; i < a->n_heads && !there; i++)
            there = a->heads[i].verdict.name == p && a->heads[i].n_top && a->heads[i].keys[0].position == (int32_t)k;
        if (there) glia_buf_addf(b, any ? ",%zu" : "%zu", k), any = true;
    }
}

static void add_patterns(glia_buf *b, const glia_head_study *a) {
    bool any = false;
    for (size_t p = 0; p < GLIA_N_PATTERNS; p++) {
        double strength = 0, confidence = 0;
        size_t n = 0;
        for (size_t i = 0; i < a->n_heads; i++) {
            if (a->heads[i].verdict.name != (glia_pattern)p) continue;
            strength += strength_of(&a->heads[i]), confidence += a->heads[i].verdict.confidence, n++;
        }
        if (!n) continue;
        glia_buf_addf(b, "%s{\"pattern_type\":\"%s\",\"strength\":", any ? "," : "",
                      glia_pattern_name((glia_pattern)p));
        glia_json_add_real(b, strength / (double)n);
        glia_buf_adds(b, ",\"consistency\":");
        glia_json_add_real(b, confidence / (double)n);
        glia_buf_addf(b, ",\"head_count\":%zu,\"description\":\"attention on %s\",\"token_positions\":[", n,
                      glia_pattern_meaning((glia_pattern)p));
        add_positions(b, a, (glia_pattern)p);
        glia_buf_adds(b, "]}");
        any = true;
    }
}

static void add_components(glia_buf *b, const glia_head_study *a) {
    bool any = false;
    for (size_t i = 0; i < a->n_heads; i++) {
        const glia_studied_head *h = &a->heads[i];
        if (h->verdict.name != GLIA_PATTERN_INDUCTION && h->verdict.name != GLIA_PATTERN_PREVIOUS_TOKEN) continue;
        glia_buf_addf(b, "%s{\"layer\":%d,\"head\":%d,\"role\":\"%s\",\"strength\":", any ? "," : "", (int)h->layer,
                      (int)h->head, role_of(h->verdict.name));
        glia_json_add_real(b, strength_of(h));
        glia_buf_adds(b, "}");
        any = true;
    }
}

static void add_statistics(glia_buf *b, const glia_head_study *a) {
    size_t count[GLIA_N_PATTERNS + 1] = {0};
    for (size_t i = 0; i < a->n_heads; i++) count[a->heads[i].verdict.name]++;
    glia_buf_addf(b, "{\"total_heads\":%zu,\"pattern_counts\":{", a->n_heads);
    for (size_t p = 0; p <= GLIA_N_PATTERNS; p++)
        glia_buf_addf(b, "%s\"%s\":%zu", p ? "," : "", glia_pattern_name((glia_pattern)p), count[p]);
    glia_buf_adds(b, "},\"layers\":[");
    for (size_t l = 0; l < a->n_layers; l++) {
        memset(count, 0, sizeof count);
        for (size_t i = 0; i < a->n_heads; i++) count[a->heads[i].verdict.name] += a->heads[i].layer == a->layers[l];
        glia_buf_addf(b, "%s{\"layer\":%d,\"pattern_counts\":{", l ? "," : "", (int)a->layers[l]);
        bool any = false;
        for (size_t p = 0; p <= GLIA_N_PATTERNS; p++) {
            if (count[p])
                glia_buf_addf(b, "%s\"%s\":%zu", any ? "," : "", glia_pattern_name((glia_pattern)p), count[p]),
                    any = true;
        }
        glia_buf_adds(b, "}}");
    }
    glia_buf_adds(b, "]}");
}

static glia_status add_attributions(glia_buf *b, const glia_study *s, const glia_head_study *a, glia_err *err) {
    glia_buf_adds(b, "[");
    for (size_t i = 0; a->rollout && i < a->n_tokens; i++) {
        glia_buf_addf(b, "%s{\"position\":%zu,\"token\":", i ? "," : "", i);
        glia_status st = glia_json_add_token(b, s->m, s->tokens[i], err);
        if (st) return st;
        glia_buf_adds(b, ",\"score\":");
        glia_json_add_real(b, a->rollout[i]);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]");
    return GLIA_OK;
}

static glia_status parse(glia_study *s, glia_head_study_params *p, const char **scope, glia_err *err) {
    static const char *const scopes[] = {"head_level", "layer_level", "cross_layer", "global"};
    int64_t probes = 4, half = 32, boot = 100, perm = 99, seed = 0;
    glia_status st;
    bool known = false;
    *scope = scopes[0];
    if ((st = glia_json_str(s->root, "", "scope", scope, err))) return st;
    for (size_t i = 0; i < sizeof scopes / sizeof *scopes; i++) known = known || !strcmp(*scope, scopes[i]);
    if (!known) {
        return glia_fail_at(err, GLIA_EINVAL, "scope",
                            "scope must be head_level, layer_level, cross_layer or global, not \"%.40s\"", *scope);
    }
    p->patterns.min_excess = 0.3;
    if ((st = glia_json_num(s->root, "", "min_excess", 0, 1, &p->patterns.min_excess, NULL, err))) return st;
    if ((st = glia_json_int(s->root, "", "probes", 0, 64, &probes, NULL, err))) return st;
    if ((st = glia_json_int(s->root, "", "probe_length", 2, 512, &half, NULL, err))) return st;
    if ((st = glia_json_int(s->root, "", "bootstrap_samples", 0, 10000, &boot, NULL, err))) return st;
    if ((st = glia_json_int(s->root, "", "permutations", 0, 10000, &perm, NULL, err))) return st;
    if ((st = glia_json_int(s->root, "", "seed", 0, INT64_MAX, &seed, NULL, err))) return st;
    if ((st = glia_study_prompt(s, err))) return st;
    if ((st = glia_study_layers(s, "layers", err))) return st;
    p->n_probes = (size_t)probes, p->probe_half = (size_t)half;
    p->patterns.n_boot = (size_t)boot, p->patterns.n_perm = (size_t)perm, p->patterns.seed = (uint64_t)seed;
    p->tokens = s->tokens, p->n_tokens = s->n_tokens, p->layers = s->layers, p->n_layers = s->n_layers;
    p->on_progress = glia_study_tell, p->ud = s;
    return GLIA_OK;
}

static glia_status attention_work(glia_study *s, glia_buf *b, glia_err *err) {
    glia_head_study_params p = {0};
    glia_head_study *a = NULL;
    const char *scope;
    from_weights w = {0};
    bool weights = false, across;
    yyjson_val *prompt = glia_json_get(s->root, "prompt");
    glia_status st = parse(s, &p, &scope, err);
    if (st || (st = glia_json_bool(s->root, "", "weights", &weights, NULL, err))) return st;
    across = !strcmp(scope, "cross_layer") || !strcmp(scope, "global");
    if ((st = glia_head_study_run(&a, s->m, &p, err))) return st;
    if ((weights || across) && (st = read_weights(&w, s, a, err))) goto done;
    if (weights && !w.file) {
        st = glia_fail_at(err, GLIA_EHOOK, "weights", "%s", w.why.message);
        goto done;
    }
    glia_buf_adds(b, "{\"success\":true,\"prompt\":");
    if (yyjson_is_str(prompt)) glia_json_add_str(b, yyjson_get_str(prompt), yyjson_get_len(prompt));
    else glia_buf_adds(b, "null");
    glia_buf_addf(b, ",\"scope\":\"%s\",\"analyzed_layers\":[", scope);
    for (size_t i = 0; i < a->n_layers; i++) glia_buf_addf(b, i ? ",%d" : "%d", (int)a->layers[i]);
    glia_buf_adds(b, "],\"attention_heads\":[");
    for (size_t i = 0; i < a->n_heads; i++) {
        if (i) glia_buf_adds(b, ",");
        add_head(b, &a->heads[i], &w, i);
    }
    glia_buf_adds(b, "],\"attention_patterns\":[");
    add_patterns(b, a);
    glia_buf_adds(b, "],\"cross_layer_dependencies\":[");
    if (across && (st = add_dependencies(b, &w, a, err))) goto done;
    glia_buf_adds(b, "],\"token_attributions\":");
    if ((st = add_attributions(b, s, a, err))) goto done;
    glia_buf_adds(b, ",\"circuit_components\":[");
    add_components(b, a);
    glia_buf_adds(b, "],\"pattern_statistics\":");
    add_statistics(b, a);
    glia_buf_adds(b, ",\"visualization_data\":{\"tokens\":");
    if ((st = glia_json_add_tokens(b, s->m, s->tokens, s->n_tokens, err))) goto done;
    glia_buf_adds(b, "},\"execution_time_ms\":");
    glia_json_add_num(b, glia_study_ms(s));
    glia_buf_adds(b, ",\"metadata\":{\"model\":");
    glia_json_add_cstr(b, s->info.id);
    glia_buf_adds(b, ",\"min_excess\":");
    glia_json_add_real(b, p.patterns.min_excess);
    glia_buf_addf(
        b, ",\"probes\":%zu,\"probe_tokens\":%zu,\"bootstrap_samples\":%zu,\"permutations\":%zu,\"seed\":%llu,",
        a->n_probes, a->probe_length, p.patterns.n_boot, p.patterns.n_perm, (unsigned long long)p.patterns.seed);
    glia_buf_addf(b, "\"token_attribution_method\":%s,", a->rollout ? "\"attention_rollout\"" : "null");
    glia_buf_adds(b,
                  "\"confidence\":\"share of bootstrap resamples of the query rows that give the head the same name\","
                  "\"weights\":");
    if (w.file) {
        glia_buf_addf(b, "{\"tokens\":%zu,\"unrelated_composition\":", glia_heads_file_tokens(w.file));
        glia_json_add_real(b, 1 / sqrt((double)s->info.n_embd));
        glia_buf_adds(b, "},");
    } else {
        glia_json_add_cstr(b, weights || across ? w.why.message
                                                : "not asked for: weights, or scope cross_layer or global");
        glia_buf_adds(b, ",");
    }
    glia_buf_adds(b, "\"not_computed\":{\"syntactic\":\"needs a parser\",\"semantic\":\"needs word senses\","
                     "\"inhibition\":\"needs interventions: POST /v1/circuits/discover\"}}}\n");
done:
    weights_clear(&w);
    glia_head_study_free(a);
    return st;
}

void glia_on_analyze_attention(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"attention", "attention patterns of a prompt", true, attention_work};
    glia_study_serve(ud, rq, &route);
}

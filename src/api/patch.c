/* api/patch.c — POST /v1/activations/patch (NeuroScope): each intervention alone, and all of them together, beside the
 * unchanged run: what becomes of the answer.  Its task's thread.
 *
 * An entry takes the fields of `interventions` (docs/API.md), and NeuroScope's: `target_positions` for `positions`, component
 * "residual" and type "zero_ablation" when none is named; activation_patching takes the rows of `baseline_prompt`. */
#include "api/edit_source.h"
#include "api/handlers.h"
#include "api/hook_fields.h"
#include "api/study.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include "lab/metric.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ENTRIES = 1024, TOP = 5 };
static const int64_t last_position = -1;

typedef struct patch {
    yyjson_mut_doc *doc; /* the entries in our own words */
    yyjson_doc *read;
    size_t n; /* entries */
    glia_acts acts;
    int32_t *baseline;
    size_t n_baseline;
    glia_forward_case *cases; /* unchanged; each entry; all together when there are several */
    size_t n_cases;
    glia_forward *f;
} patch;

static void patch_free(void *own) {
    patch *p = own;
    if (!p) return;
    glia_forward_free(p->f);
    glia_free(p->cases);
    glia_free(p->baseline);
    glia_acts_clear(&p->acts);
    yyjson_mut_doc_free(p->doc);
    yyjson_doc_free(p->read);
    glia_free(p);
}

/* ------------------------------------------------------------------ reading */

static bool has(yyjson_mut_val *o, const char *key) {
    yyjson_mut_val *v = yyjson_mut_obj_get(o, key);
    return v && !yyjson_mut_is_null(v);
}

/* One entry in our own words; false: no memory. */
static bool translate(patch *p, yyjson_val *in, yyjson_val *baseline, yyjson_mut_val *list) {
    yyjson_mut_doc *d = p->doc;
    yyjson_mut_val *o = yyjson_val_mut_copy(d, in);
    if (!o || !yyjson_mut_arr_append(list, o)) return false;
    if (!yyjson_mut_is_obj(o)) return true; /* refused by name when it is read */
    yyjson_mut_val *at = yyjson_mut_obj_remove_key(o, "target_positions");
    bool ok = !at || yyjson_mut_is_null(at) || (yyjson_mut_is_arr(at) && !yyjson_mut_arr_size(at)) || yyjson_mut_obj_add_val(d, o, "positions", at);
    if (!has(o, "op") && !has(o, "type")) ok = ok && yyjson_mut_obj_add_str(d, o, "type", "zero_ablation");
    const char *type = yyjson_mut_get_str(yyjson_mut_obj_get(o, has(o, "op") ? "op" : "type"));
    bool knockout = type && strstr(type, "knockout"), head = type && !strcmp(type, "head_ablation");
    if (!has(o, "component") && !has(o, "name") && !knockout && !head) ok = ok && yyjson_mut_obj_add_str(d, o, "component", "residual");
    if (type && !strcmp(type, "scaled_intervention") && !has(o, "strength")) ok = ok && yyjson_mut_obj_add_real(d, o, "strength", 1);
    if (type && !strcmp(type, "activation_patching") && !has(o, "vector") && !has(o, "source") && baseline) {
        yyjson_mut_val *source = yyjson_mut_obj(d), *prompt = yyjson_val_mut_copy(d, baseline);
        ok = ok && source && prompt && yyjson_mut_obj_add_val(d, source, "prompt", prompt) && yyjson_mut_obj_add_val(d, o, "source", source);
    }
    return ok;
}

static glia_status read_entries(glia_study *s, patch *p, glia_err *err) {
    yyjson_val *list = glia_json_get(s->root, "interventions"), *item;
    p->n = yyjson_arr_size(list);
    if (!p->n || p->n > MAX_ENTRIES) {
        return glia_fail_at(err, GLIA_EINVAL, "interventions", "interventions must be a list of 1 to %d objects", (int)MAX_ENTRIES);
    }
    p->doc = yyjson_mut_doc_new(NULL);
    yyjson_mut_val *root = p->doc ? yyjson_mut_obj(p->doc) : NULL, *out = root ? yyjson_mut_arr(p->doc) : NULL;
    bool ok = out && yyjson_mut_obj_add_val(p->doc, root, "interventions", out);
    size_t i, max;
    yyjson_arr_foreach(list, i, max, item) ok = ok && translate(p, item, glia_json_get(s->root, "baseline_prompt"), out);
    if (ok) yyjson_mut_doc_set_root(p->doc, root);
    if (!ok || !(p->read = yyjson_mut_doc_imut_copy(p->doc, NULL))) return glia_fail(err, GLIA_ENOMEM, "no memory for interventions");
    p->acts.app = s->app;
    glia_status st = glia_edits_parse(&p->acts, yyjson_doc_get_root(p->read), s->info.n_layer, s->info.arch, err);
    for (size_t k = 0; k < p->acts.n_edits && !st; k++) {
        char at[64];
        (void)snprintf(at, sizeof at, "interventions[%zu].target_positions", p->acts.edit_sources[k]);
        for (size_t q = 0; q < p->acts.edits[k].where.n_positions; q++) { /* nothing is generated: they would never come */
            int64_t pos = p->acts.edits[k].where.positions[q];
            if (pos >= (int64_t)s->n_tokens)
                return glia_fail_at(err, GLIA_EINVAL, at, "%s: position %lld does not exist, the prompt has %zu tokens", at,
                                    (long long)pos, s->n_tokens);
        }
        if (p->acts.edits[k].op != GLIA_EDIT_SET || p->acts.edits[k].rows) continue;
        bool sourced = false;
        for (size_t q = 0; q < p->acts.n_sources; q++) sourced |= p->acts.sources[q].entry == p->acts.edit_sources[k];
        if (sourced) continue;
        char param[64];
        (void)snprintf(param, sizeof param, "interventions[%zu]", p->acts.edit_sources[k]);
        st = glia_fail_at(err, GLIA_EHOOK, param, "%s: patching needs other values: a baseline_prompt, a source or a vector", param);
    }
    return st;
}

/* The rows that come from other prompts; waits for them. */
static glia_status run_sources(glia_study *s, patch *p, glia_err *err) {
    glia_sources *g;
    bool done = false;
    glia_status st = glia_sources_start(&g, &p->acts, s->m, s->tokens, s->n_tokens, NULL, NULL, err);
    while (!st && g && !done) {
        st = glia_sources_take(g, &done, err);
        if (st || done) break;
        const struct timespec pause = {.tv_nsec = 2 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
        if (!glia_study_tell(s, 0)) st = glia_fail(err, GLIA_ECANCELLED, "cancelled");
    }
    glia_sources_free(g);
    return st;
}

static const glia_hook logits_hook = {.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_PROMPT, .positions = &last_position, .n_positions = 1};

/* Edits of one entry lie together: glia_edits_parse spreads them in order. */
static glia_status make_cases(const glia_study *s, patch *p, glia_err *err) {
    p->n_cases = 1 + p->n + (p->n > 1);
    if (!(p->cases = glia_calloc(p->n_cases, sizeof *p->cases))) return glia_fail(err, GLIA_ENOMEM, "no memory for interventions");
    for (size_t i = 0; i < p->n_cases; i++) {
        glia_forward_case *c = &p->cases[i];
        *c = (glia_forward_case){.tokens = s->tokens, .n_tokens = s->n_tokens, .hooks = &logits_hook, .n_hooks = 1};
        if (i > p->n) c->edits = p->acts.edits, c->n_edits = p->acts.n_edits;
        for (size_t k = 0; i && i <= p->n && k < p->acts.n_edits; k++) {
            if (p->acts.edit_sources[k] != i - 1) continue;
            if (!c->edits) c->edits = &p->acts.edits[k];
            c->n_edits++;
        }
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ writing */

static const float *row_of(const patch *p, size_t i) { return glia_forward_rows(p->f, i, 0)->data; }

static double probability(const float *row, size_t n, int32_t token) {
    const glia_metric_spec q = {.metric = GLIA_METRIC_PROBABILITY, .answers = &token, .n_answers = 1};
    return glia_metric_of(&q, row, n, NULL);
}

static void likeliest(const float *row, size_t n, int32_t top[TOP], size_t *n_top) {
    *n_top = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = *n_top;
        if (k == TOP && row[i] <= row[top[TOP - 1]]) continue;
        if (k == TOP) k--;
        else (*n_top)++;
        for (; k > 0 && row[top[k - 1]] < row[i]; k--) top[k] = top[k - 1];
        top[k] = (int32_t)i;
    }
}

static glia_status add_tops(glia_buf *b, const glia_study *s, const float *row, const float *plain, glia_err *err) {
    size_t n = (size_t)s->info.n_vocab, n_top;
    int32_t top[TOP];
    likeliest(row, n, top, &n_top);
    glia_buf_adds(b, ",\"top_tokens\":[");
    for (size_t i = 0; i < n_top; i++) {
        glia_buf_addf(b, "%s{\"id\":%d,\"token\":", i ? "," : "", (int)top[i]);
        glia_status st = glia_json_add_token(b, s->m, top[i], err);
        if (st) return st;
        glia_buf_adds(b, ",\"probability\":");
        glia_json_add_real(b, probability(row, n, top[i]));
        if (plain) glia_buf_adds(b, ",\"probability_before\":"), glia_json_add_real(b, probability(plain, n, top[i]));
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]");
    return GLIA_OK;
}

/* What became of the answer in case i; the first fields say which entry. */
static glia_status add_effect(glia_buf *b, const glia_study *s, const patch *p, size_t i, glia_err *err) {
    size_t n = (size_t)s->info.n_vocab, n_top;
    const float *plain = row_of(p, 0), *row = row_of(p, i);
    int32_t top[TOP], now[TOP];
    likeliest(plain, n, top, &n_top);
    likeliest(row, n, now, &n_top);
    const glia_metric_spec kl = {.metric = GLIA_METRIC_KL}, lp = {.metric = GLIA_METRIC_LOG_PROBABILITY, .answers = top, .n_answers = 1};
    glia_buf_adds(b, ",\"kl_divergence\":");
    glia_json_add_real(b, fmax(0, glia_metric_of(&kl, row, n, plain)));
    glia_buf_adds(b, ",\"causal_effect\":"); /* of the unchanged answer's log-probability */
    glia_json_add_real(b, glia_metric_of(&lp, row, n, NULL) - glia_metric_of(&lp, plain, n, NULL));
    glia_buf_adds(b, ",\"logit_change\":");
    glia_json_add_real(b, (double)row[top[0]] - (double)plain[top[0]]);
    glia_buf_addf(b, ",\"prediction_changed\":%s,\"predicted_token\":", now[0] != top[0] ? "true" : "false");
    glia_status st = glia_json_add_token(b, s->m, now[0], err);
    return st ? st : add_tops(b, s, row, plain, err);
}

static glia_status add_entry(glia_buf *b, const glia_study *s, const patch *p, size_t i, glia_err *err) {
    yyjson_val *list = glia_json_get(yyjson_doc_get_root(p->read), "interventions"), *e = yyjson_arr_get(list, i - 1);
    const glia_edit *edit = p->cases[i].edits;
    const char *type = yyjson_get_str(glia_json_get(e, "type")), *name = yyjson_get_str(glia_json_get(e, "layer_name"));
    glia_buf_adds(b, "{\"layer_name\":");
    glia_json_add_cstr(b, name);
    glia_buf_addf(b, ",\"layer\":%d,\"component\":", (int)edit->where.layer);
    glia_json_add_cstr(b, yyjson_get_str(glia_json_get(e, "component")));
    glia_buf_addf(b, ",\"point\":\"%s\",\"intervention_type\":", glia_point_name(edit->where.point));
    glia_json_add_cstr(b, type ? type : yyjson_get_str(glia_json_get(e, "op")));
    glia_buf_addf(b, ",\"layers\":%zu", p->cases[i].n_edits);
    glia_status st = add_effect(b, s, p, i, err);
    glia_buf_adds(b, "}");
    return st;
}

static glia_status add_answer(glia_buf *b, const glia_study *s, const patch *p, glia_err *err) {
    size_t n_top;
    int32_t top[TOP];
    likeliest(row_of(p, 0), (size_t)s->info.n_vocab, top, &n_top);
    glia_buf_adds(b, "{\"success\":true,\"original\":{\"predicted_token\":");
    glia_status st = glia_json_add_token(b, s->m, top[0], err);
    if (!st) st = add_tops(b, s, row_of(p, 0), NULL, err);
    glia_buf_adds(b, "},\"results\":[");
    for (size_t i = 1; i <= p->n && !st; i++) {
        if (i > 1) glia_buf_adds(b, ",");
        st = add_entry(b, s, p, i, err);
    }
    glia_buf_adds(b, "]");
    if (!st && p->n > 1) {
        glia_buf_addf(b, ",\"combined\":{\"interventions\":%zu", p->n);
        st = add_effect(b, s, p, p->n_cases - 1, err);
        glia_buf_adds(b, "}");
    }
    glia_buf_addf(b, ",\"intervention_count\":%zu,\"execution_time\":%.6f}", p->n, glia_study_ms(s) / 1e3);
    return !st && b->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the reply") : st;
}

/* ------------------------------------------------------------------ the route */

static bool tell(void *ud, size_t n_done, size_t n_total) { return glia_study_tell(ud, (double)n_done / (double)n_total); }

static glia_status work(glia_study *s, glia_buf *b, glia_err *err) {
    static const char *const fields[] = {"model", "prompt", "messages", "baseline_prompt", "interventions"};
    patch *p = s->own = glia_calloc(1, sizeof *p);
    if (!p) return glia_fail(err, GLIA_ENOMEM, "no memory for interventions");
    s->free_own = patch_free;
    glia_status st = glia_known_fields(s->root, "", fields, sizeof fields / sizeof *fields, err);
    if (!st) st = glia_study_prompt(s, err);
    if (!st) st = glia_study_prompt_at(s, "baseline_prompt", &p->baseline, &p->n_baseline, err); /* checked by its own name */
    if (!st) st = read_entries(s, p, err);
    if (!st) st = run_sources(s, p, err);
    if (!st) st = make_cases(s, p, err);
    if (!st) {
        size_t failed;
        const glia_forward_params fp = {
            .cases = p->cases, .n_cases = p->n_cases, .on_progress = tell, .ud = s, .failed = &failed};
        st = glia_forward_run(&p->f, s->m, &fp, err);
        if (st && err && !strncmp(err->param, "interventions", 13) && failed >= 1 && failed <= p->n)
            (void)snprintf(err->param, sizeof err->param, "interventions[%zu]", failed - 1);
    }
    return st ? st : add_answer(b, s, p, err);
}

void glia_on_patch(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"patch", "interventions, each alone, beside the unchanged run", true, work};
    glia_study_serve(ud, rq, &route);
}

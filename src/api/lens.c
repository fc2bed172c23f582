/* api/lens.c — POST /v1/analyze/lens, attribution, flow, tokens: where an answer comes from.  Their tasks' threads. */
#include "api/assets.h"
#include "api/handlers.h"
#include "api/study.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/attribution.h"
#include "lab/lens.h"
#include <math.h>
#include <string.h>

enum { MAX_POSITIONS = 65536, MAX_TARGETS = 256 };

/* "positions": "all", "last", a number or a list; negative from the end.  *out NULL: all. */
static glia_status positions_of(const glia_study *s, int64_t fallback, int64_t **out, size_t *n, glia_err *err) {
    yyjson_val *v = glia_json_get(s->root, "positions");
    *out = NULL, *n = 0;
    if (yyjson_equals_str(v, "all") || (!v && fallback == INT64_MAX)) return GLIA_OK;
    bool list = yyjson_is_arr(v), last = !v || yyjson_equals_str(v, "last");
    *n = list ? yyjson_arr_size(v) : 1;
    if (!*n || *n > MAX_POSITIONS)
        return glia_fail_at(err, GLIA_EINVAL, "positions", "positions: 1 to %d of them", (int)MAX_POSITIONS);
    if (!(*out = glia_malloc(*n * sizeof **out))) return glia_fail(err, GLIA_ENOMEM, "no memory for positions");
    for (size_t i = 0; i < *n; i++) {
        int64_t x = last ? (v ? -1 : fallback) : 0, size = (int64_t)s->n_tokens;
        if (!last && !glia_json_whole(list ? yyjson_arr_get(v, i) : v, &x)) {
            glia_free(*out);
            *out = NULL;
            return glia_fail_at(err, GLIA_EINVAL, "positions",
                                "positions must be \"all\", \"last\", a number or a list of them");
        }
        if (x < -size || x >= size) {
            glia_free(*out);
            *out = NULL;
            return glia_fail_at(err, GLIA_EINVAL, "positions", "positions: no position %lld, the prompt has %zu tokens",
                                (long long)x, s->n_tokens);
        }
        (*out)[i] = x;
    }
    return GLIA_OK;
}

static glia_status position_of(const glia_study *s, int64_t *out, glia_err *err) {
    int64_t size = (int64_t)s->n_tokens;
    *out = -1;
    return glia_json_int(s->root, "", "position", -size, size - 1, out, NULL, err);
}

static void end_reply(glia_buf *b, const glia_study *s) {
    glia_buf_adds(b, ",\"model\":");
    glia_json_add_cstr(b, s->info.id);
    glia_buf_adds(b, ",\"execution_time_ms\":");
    glia_json_add_num(b, glia_study_ms(s));
    glia_buf_adds(b, "}\n");
}

static void add_reals(glia_buf *b, const char *key, const double *x, size_t n) {
    glia_buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        if (i) glia_buf_adds(b, ",");
        glia_json_add_real(b, x[i]);
    }
    glia_buf_adds(b, "]");
}

static void add_real(glia_buf *b, const char *key, double x) {
    glia_buf_addf(b, ",\"%s\":", key);
    glia_json_add_real(b, x);
}

static glia_status add_token(glia_buf *b, const glia_study *s, const char *key, int32_t id, glia_err *err) {
    glia_buf_addf(b, "\"%s\":{\"id\":%d,\"text\":", key, (int)id);
    glia_status st = glia_json_add_token(b, s->m, id, err);
    glia_buf_adds(b, "}");
    return st;
}

/* ------------------------------------------------------------------ lens */

static glia_status add_lens_row(glia_buf *b, const glia_study *s, const glia_lens_params *p, const glia_lens_row *r,
                                size_t n_top, glia_err *err) {
    glia_buf_addf(b, "{\"layer\":%d,\"position\":%d", (int)r->layer, (int)r->position);
    add_real(b, "entropy", r->entropy);
    add_real(b, "kl_from_model", r->kl);
    glia_buf_adds(b, ",\"top\":[");
    for (size_t k = 0; k < n_top; k++) {
        glia_buf_addf(b, "%s{\"id\":%d,\"text\":", k ? "," : "", (int)r->top[k]);
        glia_status st = glia_json_add_token(b, s->m, r->top[k], err);
        if (st) return st;
        add_real(b, "logit", r->top_logit[k]);
        add_real(b, "logprob", r->top_logprob[k]);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "],\"targets\":[");
    for (size_t k = 0; k < p->n_targets; k++) {
        glia_buf_addf(b, "%s{\"id\":%d,\"rank\":%lld", k ? "," : "", (int)p->targets[k], (long long)r->rank[k]);
        add_real(b, "logit", r->logit[k]);
        add_real(b, "logprob", r->logprob[k]);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]}");
    return GLIA_OK;
}

static glia_status parse_targets(const glia_study *s, int32_t **out, size_t *n, glia_err *err) {
    yyjson_val *list = glia_json_get(s->root, "targets");
    *out = NULL, *n = 0;
    if (!list) return GLIA_OK;
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) > MAX_TARGETS)
        return glia_fail_at(err, GLIA_EINVAL, "targets", "targets must be a list of at most %d tokens",
                            (int)MAX_TARGETS);
    *n = yyjson_arr_size(list);
    if (!(*out = glia_malloc((*n + 1) * sizeof **out))) return glia_fail(err, GLIA_ENOMEM, "no memory for targets");
    for (size_t i = 0; i < *n; i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "targets[%zu]", i);
        glia_status st = glia_study_token_of(s, yyjson_arr_get(list, i), path, &(*out)[i], err);
        if (st) return st;
    }
    return GLIA_OK;
}

static glia_status lens_work(glia_study *s, glia_buf *b, glia_err *err) {
    int64_t top_k = 5, *positions = NULL;
    int32_t *targets = NULL;
    glia_lens_params p = {.on_progress = glia_study_tell, .ud = s};
    glia_lens_result *r = NULL;
    glia_tuned tuned = {0};
    glia_status st;
    if ((st = glia_json_int(s->root, "", "top_k", 0, 1000, &top_k, NULL, err))) goto done;
    if ((st = glia_study_prompt(s, err))) goto done;
    if ((st = glia_study_layers(s, "layers", err))) goto done;
    if ((st = positions_of(s, -1, &positions, &p.n_positions, err))) goto done;
    if ((st = parse_targets(s, &targets, &p.n_targets, err))) goto done;
    if ((st = glia_tuned_open(&tuned, s, err))) goto done;
    p.tokens = s->tokens, p.n_tokens = s->n_tokens, p.layers = s->layers, p.n_layers = s->n_layers;
    p.positions = positions, p.targets = targets, p.top_k = (size_t)top_k, p.translators = tuned.layers;
    if ((st = glia_lens_run(&r, s->m, &p, err))) goto done;
    glia_buf_addf(b, "{\"success\":true,\"method\":\"%s\",\"rows\":[", tuned.layers ? "tuned_lens" : "logit_lens");
    for (size_t i = 0; i < glia_lens_n_rows(r) && !st; i++) {
        glia_lens_row row = glia_lens_at(r, i);
        if (i) glia_buf_adds(b, ",");
        st = add_lens_row(b, s, &p, &row, glia_lens_n_top(r), err);
    }
    if (st) goto done;
    glia_buf_adds(b, "],\"tokens\":");
    if ((st = glia_json_add_tokens(b, s->m, s->tokens, s->n_tokens, err))) goto done;
    add_real(b, "logit_error", glia_lens_error(r));
    end_reply(b, s);
done:
    glia_lens_free(r);
    glia_tuned_close(&tuned);
    glia_free(positions);
    glia_free(targets);
    return st;
}

/* ------------------------------------------------------------------ attribution */

static void add_dla_layer(glia_buf *b, const glia_dla *a, size_t l) {
    glia_buf_addf(b, "%s{\"layer\":%zu", l ? "," : "", l);
    add_real(b, "attention", a->attention[l]);
    add_real(b, "mlp", a->mlp[l]);
    if (a->heads[l]) {
        add_reals(b, "heads", a->heads[l], (size_t)a->n_heads[l]);
        add_real(b, "attention_rest", a->head_rest[l]);
    }
    glia_buf_adds(b, "}");
}

static glia_status attribution_work(glia_study *s, glia_buf *b, glia_err *err) {
    glia_dla_params p = {.target = -1, .against = -1, .heads = true};
    glia_dla *a = NULL;
    glia_status st = glia_study_prompt(s, err);
    if (st || (st = position_of(s, &p.position, err))) return st;
    if ((st = glia_study_token(s, "target", &p.target, err))) return st;
    if ((st = glia_study_token(s, "against", &p.against, err))) return st;
    if ((st = glia_json_bool(s->root, "", "heads", &p.heads, NULL, err))) return st;
    p.tokens = s->tokens, p.n_tokens = s->n_tokens;
    if ((st = glia_dla_run(&a, s->m, &p, err))) return st;
    glia_buf_addf(b, "{\"success\":true,\"method\":\"direct_logit_attribution\",\"position\":%d,", (int)a->position);
    if ((st = add_token(b, s, "target", a->target, err))) goto done;
    if (a->against >= 0) {
        glia_buf_adds(b, ",");
        if ((st = add_token(b, s, "against", a->against, err))) goto done;
    }
    add_real(b, "embedding", a->embedding);
    glia_buf_adds(b, ",\"layers\":[");
    for (size_t l = 0; l < a->n_layer; l++) add_dla_layer(b, a, l);
    glia_buf_adds(b, "]");
    add_real(b, "constant", a->constant);
    add_real(b, "sum", a->sum);
    add_real(b, "logit", a->logit);
    add_real(b, "engine_logit", a->engine);
    add_real(b, "norm_scale", a->scale);
    end_reply(b, s);
done:
    glia_dla_free(a);
    return st;
}

/* ------------------------------------------------------------------ flow */

static void add_floats(glia_buf *b, const char *key, const float *x, size_t n) {
    glia_buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++) {
        if (i) glia_buf_adds(b, ",");
        glia_json_add_real(b, (double)x[i]);
    }
    glia_buf_adds(b, "]");
}

static glia_status flow_work(glia_study *s, glia_buf *b, glia_err *err) {
    int64_t *positions = NULL;
    glia_flow_params p = {0};
    glia_flow *f = NULL;
    glia_status st = glia_study_prompt(s, err);
    if (st || (st = positions_of(s, INT64_MAX, &positions, &p.n_positions, err))) return st;
    p.tokens = s->tokens, p.n_tokens = s->n_tokens, p.positions = positions;
    if ((st = glia_flow_run(&f, s->m, &p, err))) goto done;
    glia_buf_adds(b, "{\"success\":true,\"method\":\"residual_flow\",\"positions\":[");
    for (size_t i = 0; i < f->n_rows; i++) glia_buf_addf(b, i ? ",%d" : "%d", (int)f->positions[i]);
    glia_buf_adds(b, "]");
    add_floats(b, "norm_pre", f->norm_pre, f->n_rows);
    glia_buf_adds(b, ",\"layers\":[");
    for (size_t l = 0; l < f->n_layer; l++) {
        size_t at = l * f->n_rows, n = f->n_rows;
        glia_buf_addf(b, "%s{\"layer\":%zu", l ? "," : "", l);
        add_floats(b, "norm", f->norm + at, n);
        add_floats(b, "cosine", f->cosine + at, n);
        add_floats(b, "cosine_to_last", f->cosine_last + at, n);
        add_floats(b, "attention_norm", f->attention + at, n);
        add_floats(b, "attention_cosine", f->attention_cosine + at, n);
        add_floats(b, "mlp_norm", f->mlp + at, n);
        add_floats(b, "mlp_cosine", f->mlp_cosine + at, n);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]");
    end_reply(b, s);
done:
    glia_flow_free(f);
    glia_free(positions);
    return st;
}

/* ------------------------------------------------------------------ tokens */

static glia_status tokens_work(glia_study *s, glia_buf *b, glia_err *err) {
    const char *by = "mean";
    glia_token_params p = {.target = -1, .on_progress = glia_study_tell, .ud = s};
    glia_token_effects *e = NULL;
    glia_status st = glia_study_prompt(s, err);
    if (st || (st = glia_study_token(s, "target", &p.target, err))) return st;
    if ((st = glia_json_str(s->root, "", "ablation", &by, err))) return st;
    if (strcmp(by, "mean") != 0 && strcmp(by, "zero") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "ablation", "ablation must be mean or zero, not \"%.40s\"", by);
    p.by = strcmp(by, "mean") ? GLIA_TOKEN_ZERO : GLIA_TOKEN_MEAN;
    p.tokens = s->tokens, p.n_tokens = s->n_tokens;
    if ((st = glia_token_effects_run(&e, s->m, &p, err))) return st;
    glia_buf_addf(b, "{\"success\":true,\"method\":\"ablation\",\"ablation\":\"%s\",", by);
    if ((st = add_token(b, s, "target", e->target, err))) goto done;
    add_real(b, "logprob", e->logprob);
    glia_buf_adds(b, ",\"token_attributions\":[");
    for (size_t i = 0; i < e->n_tokens; i++) {
        glia_buf_addf(b, "%s{\"position\":%zu,\"id\":%d,\"token\":", i ? "," : "", i, (int)s->tokens[i]);
        if ((st = glia_json_add_token(b, s->m, s->tokens[i], err))) goto done;
        add_real(b, "effect", e->effect[i]);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]");
    end_reply(b, s);
done:
    glia_token_effects_free(e);
    return st;
}

/* ------------------------------------------------------------------ handlers */

void glia_on_analyze_lens(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"lens", "logit lens", true, lens_work};
    glia_study_serve(ud, rq, &route);
}
void glia_on_analyze_attribution(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"attribution", "direct logit attribution", true, attribution_work};
    glia_study_serve(ud, rq, &route);
}
void glia_on_analyze_flow(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"flow", "flow of the residual stream", true, flow_work};
    glia_study_serve(ud, rq, &route);
}
void glia_on_analyze_tokens(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"tokens", "tokens ablated one by one", true, tokens_work};
    glia_study_serve(ud, rq, &route);
}

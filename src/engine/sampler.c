/* engine/sampler.c — builds llama.cpp sampler chains and draws.  Engine thread only. */
#include "sampler.h"
#include "base/err.h"
#include "base/mem.h"
#include "llama.h"
#include <math.h>
#include <string.h>
#include <sys/random.h>

struct glia_sampler {
    struct llama_sampler *chain; /* NULL: plain arg max over the logits, nothing to remember */
    int32_t n_vocab;
    bool remembers;    /* some stage wants accepted tokens */
    uint64_t *allowed; /* a bit per token; made when a constraint first steps in */
};

static glia_status range(glia_err *err, const char *field, double v, double lo, double hi) {
    if (v >= lo && v <= hi) return GLIA_OK; /* false for NaN */
    return glia_fail_at(err, GLIA_EINVAL, field, "%s must lie between %g and %g", field, lo, hi);
}

glia_status glia_sampling_check(const glia_sampling *s, int32_t n_vocab, glia_err *err) {
    const struct {
        const char *field;
        double v, lo, hi;
    } rows[] = {
        {"temperature", (double)s->temperature, 0, 100},
        {"top_k", s->top_k, 0, INT32_MAX},
        {"top_p", (double)s->top_p, 0, 1},
        {"min_p", (double)s->min_p, 0, 1},
        {"typical_p", (double)s->typical_p, 0, 1},
        {"top_n_sigma", (double)s->top_n_sigma, -1, 1e6},
        {"xtc_probability", (double)s->xtc_probability, 0, 1},
        {"xtc_threshold", (double)s->xtc_threshold, 0, 1},
        {"repeat_last_n", s->penalty_last_n, -1, INT32_MAX},
        {"repeat_penalty", (double)s->penalty_repeat, 1e-6, 1e6},
        {"frequency_penalty", (double)s->penalty_frequency, -100, 100},
        {"presence_penalty", (double)s->penalty_presence, -100, 100},
        {"dry_multiplier", (double)s->dry_multiplier, 0, 1e6},
        {"dry_base", (double)s->dry_base, 0, 1e6},
        {"dry_allowed_length", s->dry_allowed_length, 0, INT32_MAX},
        {"dry_penalty_last_n", s->dry_penalty_last_n, -1, INT32_MAX},
        {"mirostat", s->mirostat, 0, 2},
        {"mirostat_tau", (double)s->mirostat_tau, 0, 1e6},
        {"mirostat_eta", (double)s->mirostat_eta, 0, 1e6},
        {"top_logprobs", s->n_logprobs, -1, GLIA_MAX_LOGPROBS},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_status st = range(err, rows[i].field, rows[i].v, rows[i].lo, rows[i].hi);
        if (st) return st;
    }
    for (size_t i = 0; i < s->n_bias; i++) {
        if (s->bias[i].token < 0 || s->bias[i].token >= n_vocab) {
            return glia_fail_at(err, GLIA_EINVAL, "logit_bias", "token %d does not exist: ids run from 0 to %d",
                                s->bias[i].token, n_vocab - 1);
        }
        if (isnan(s->bias[i].bias)) return glia_fail_at(err, GLIA_EINVAL, "logit_bias", "a bias is not a number");
    }
    return GLIA_OK;
}

static bool add(struct llama_sampler *chain, struct llama_sampler *stage) {
    if (stage) llama_sampler_chain_add(chain, stage);
    return stage != NULL;
}

/* The samplers allocate their window: never more than the model can see.  -1: all of that. */
static int32_t last_n(int32_t wanted, int32_t n_train) { return wanted < 0 || wanted > n_train ? n_train : wanted; }

/* Architecture-independent separators, as llama.cpp's own tools use them. */
static const char *dry_breakers[] = {"\n", ":", "\"", "*"};

static bool add_stages(glia_sampler *out, const glia_sampling *s, const struct llama_model *model, uint32_t seed) {
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    struct llama_sampler *c = out->chain;
    int32_t n_train = llama_model_n_ctx_train(model);
    bool ok = true;
    if (s->n_bias) {
        llama_logit_bias *b = glia_malloc(s->n_bias * sizeof *b);
        if (!b) return false;
        for (size_t i = 0; i < s->n_bias; i++) b[i] = (llama_logit_bias){s->bias[i].token, s->bias[i].bias};
        ok &= add(c, llama_sampler_init_logit_bias(out->n_vocab, (int32_t)s->n_bias, b));
        glia_free(b);
    }
    if (s->penalty_last_n && (s->penalty_repeat != 1 || s->penalty_frequency != 0 || s->penalty_presence != 0)) {
        out->remembers = true;
        ok &= add(c, llama_sampler_init_penalties(out->n_vocab, last_n(s->penalty_last_n, n_train), s->penalty_repeat,
                                                  s->penalty_frequency, s->penalty_presence));
    }
    if (s->dry_multiplier > 0) {
        out->remembers = true;
        ok &= add(c, llama_sampler_init_dry(vocab, s->dry_multiplier, s->dry_base, s->dry_allowed_length,
                                            last_n(s->dry_penalty_last_n, n_train), dry_breakers,
                                            sizeof dry_breakers / sizeof *dry_breakers));
    }
    if (s->temperature <= 0) return ok && add(c, llama_sampler_init_greedy());
    if (s->mirostat) {
        ok &= add(c, llama_sampler_init_temp(s->temperature));
        return ok && add(c, s->mirostat == 1
                                ? llama_sampler_init_mirostat(out->n_vocab, seed, s->mirostat_tau, s->mirostat_eta, 100)
                                : llama_sampler_init_mirostat_v2(seed, s->mirostat_tau, s->mirostat_eta));
    }
    if (s->top_n_sigma >= 0) ok &= add(c, llama_sampler_init_top_n_sigma(s->top_n_sigma));
    if (s->top_k > 0) ok &= add(c, llama_sampler_init_top_k(s->top_k));
    if (s->typical_p < 1) ok &= add(c, llama_sampler_init_typical(s->typical_p, 1));
    if (s->top_p < 1) ok &= add(c, llama_sampler_init_top_p(s->top_p, 1));
    if (s->min_p > 0) ok &= add(c, llama_sampler_init_min_p(s->min_p, 1));
    if (s->xtc_probability > 0) ok &= add(c, llama_sampler_init_xtc(s->xtc_probability, s->xtc_threshold, 1, seed));
    ok &= add(c, llama_sampler_init_temp(s->temperature));
    return ok && add(c, llama_sampler_init_dist(seed));
}

glia_status glia_sampler_new(glia_sampler **out, const glia_sampling *s, const struct llama_model *model,
                             glia_err *err) {
    glia_sampler *p = *out = NULL;
    uint32_t seed = s->seed;
    if (!(p = glia_calloc(1, sizeof *p))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a sampler");
    p->n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    while (seed == GLIA_SEED_RANDOM && getrandom(&seed, sizeof seed, 0) != sizeof seed) {}
    bool penalties =
        s->penalty_last_n && (s->penalty_repeat != 1 || s->penalty_frequency != 0 || s->penalty_presence != 0);
    bool plain = s->temperature <= 0 && !s->n_bias && !penalties && s->dry_multiplier <= 0;
    if (!plain) {
        p->chain = llama_sampler_chain_init((struct llama_sampler_chain_params){.no_perf = true});
        if (!p->chain || !add_stages(p, s, model, seed)) {
            glia_sampler_free(p);
            return glia_fail(err, GLIA_ENOMEM, "out of memory for a sampler");
        }
    }
    *out = p;
    return GLIA_OK;
}

void glia_sampler_free(glia_sampler *s) {
    if (!s) return;
    if (s->chain) llama_sampler_free(s->chain);
    glia_free(s->allowed);
    glia_free(s);
}

void glia_sampler_accept(glia_sampler *s, int32_t token) {
    if (s->chain && s->remembers) llama_sampler_accept(s->chain, token);
}

static float larger(float a, float b) { return a > b ? a : b; } /* a NaN on the left is nothing */

/* The largest of n ≥ 1, in lanes that the compiler keeps in vectors. */
static float block_max(const float *v, int32_t n) {
    float a[4], b[4], most = -INFINITY;
    int32_t i = 0;
    for (int k = 0; k < 4; k++) a[k] = b[k] = -INFINITY;
    for (; i + 8 <= n; i += 8) {
        for (int k = 0; k < 4; k++) a[k] = larger(v[i + k], a[k]);
        for (int k = 0; k < 4; k++) b[k] = larger(v[i + 4 + k], b[k]);
    }
    for (; i < n; i++) most = larger(v[i], most);
    for (int k = 0; k < 4; k++) most = larger(larger(a[k], b[k]), most);
    return most;
}

/* The first of the largest.  With a vocabulary of 50k and 16 streams a plain loop took a tenth of a step on a GPU; this is
 * twenty times as fast. */
static int32_t arg_max(const float *v, int32_t n) {
    enum { BLOCK = 1024 };
    float best = -INFINITY;
    int32_t from = 0, to = n < BLOCK ? n : BLOCK;
    for (int32_t b = 0; b < n; b += BLOCK) {
        int32_t end = n - b < BLOCK ? n : b + BLOCK;
        float most = block_max(v + b, end - b);
        if (most > best) best = most, from = b, to = end;
    }
    while (from < to && v[from] != best) from++;
    return from < to ? from : 0; /* nothing but NaN */
}

/* From the first n candidates of d. */
static int32_t draw_from(glia_sampler *s, llama_token_data *d, size_t n) {
    llama_token_data_array a = {.data = d, .size = n, .selected = -1, .sorted = false};
    int32_t best = 0;
    if (s->chain) {
        llama_sampler_apply(s->chain, &a);
        if (a.selected >= 0 && (size_t)a.selected < a.size) return a.data[a.selected].id;
    }
    for (size_t i = 1; i < a.size; i++) {
        if (a.data[i].logit > a.data[best].logit) best = (int32_t)i;
    }
    return a.data[best].id;
}

static int32_t draw_free(glia_sampler *s, const float *logits, llama_token_data *d) {
    if (!s->chain) return arg_max(logits, s->n_vocab);
    for (int32_t i = 0; i < s->n_vocab; i++) d[i] = (llama_token_data){.id = i, .logit = logits[i], .p = 0};
    return draw_from(s, d, (size_t)s->n_vocab);
}

static int32_t draw_allowed(glia_sampler *s, glia_constrainer *c, const float *logits, llama_token_data *d) {
    if (!s->allowed && !(s->allowed = glia_calloc(((size_t)s->n_vocab + 63) / 64, sizeof *s->allowed)))
        return GLIA_DRAW_FAILED;
    int32_t n = glia_constrainer_mask(c, s->allowed);
    if (n < 0) return GLIA_DRAW_FAILED;
    if (n == 0) return glia_constrainer_may_end(c) ? GLIA_DRAW_END : GLIA_DRAW_FAILED;
    size_t k = 0;
    for (int32_t i = 0; i < s->n_vocab; i++) {
        if (s->allowed[i / 64] >> (i % 64) & 1) d[k++] = (llama_token_data){.id = i, .logit = logits[i], .p = 0};
    }
    return draw_from(s, d, k);
}

int32_t glia_sampler_draw(glia_sampler *s, glia_constrainer *c, const float *logits, void *scratch) {
    int32_t id = draw_free(s, logits, scratch);
    if (!c) return id;
    switch (glia_constrainer_allows(c, id)) {
    case GLIA_MATCH_YES: return id;
    case GLIA_MATCH_NO: return draw_allowed(s, c, logits, scratch);
    case GLIA_MATCH_FAILED: break;
    }
    return GLIA_DRAW_FAILED;
}

float glia_logprobs(const float *logits, int32_t n_vocab, int32_t token, glia_logprob *top, int32_t n) {
    float max = logits[0];
    double sum = 0;
    for (int32_t i = 1; i < n_vocab; i++) max = logits[i] > max ? logits[i] : max;
    for (int32_t i = 0; i < n_vocab; i++) sum += exp((double)(logits[i] - max));
    float shift = max + (float)log(sum);
    int32_t have = 0;
    for (int32_t i = 0; i < n_vocab && n > 0; i++) { /* insertion into a short sorted list: n ≤ 100 */
        if (have == n && logits[i] <= top[n - 1].logprob) continue;
        int32_t k = have < n ? have++ : n - 1;
        for (; k > 0 && top[k - 1].logprob < logits[i]; k--) top[k] = top[k - 1];
        top[k] = (glia_logprob){i, logits[i]};
    }
    for (int32_t i = 0; i < have; i++) top[i].logprob -= shift;
    return logits[token] - shift;
}

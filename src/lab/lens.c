/* lab/lens.c — see lens.h.  The rows of some positions go through the output matrix together, the last layer's with them. */
#include "lab/lens.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include <cblas.h>
#include <string.h>

enum { ROWS_AT_ONCE = 64 };

struct glia_lens_result {
    size_t n_rows, n_top, n_targets;
    double error;
    int32_t *layer, *position; /* [n_rows] */
    double *entropy, *kl;
    int32_t *top; /* [n_rows, n_top] */
    double *top_logit, *top_logprob;
    double *logit, *logprob; /* [n_rows, n_targets] */
    int64_t *rank;
};

void glia_lens_free(glia_lens_result *r) {
    if (!r) return;
    glia_free(r->layer), glia_free(r->position), glia_free(r->entropy), glia_free(r->kl);
    glia_free(r->top), glia_free(r->top_logit), glia_free(r->top_logprob);
    glia_free(r->logit), glia_free(r->logprob), glia_free(r->rank);
    glia_free(r);
}

size_t glia_lens_n_rows(const glia_lens_result *r) { return r->n_rows; }
size_t glia_lens_n_top(const glia_lens_result *r) { return r->n_top; }
double glia_lens_error(const glia_lens_result *r) { return r->error; }

glia_lens_row glia_lens_at(const glia_lens_result *r, size_t i) {
    return (glia_lens_row){.layer = r->layer[i],
                           .position = r->position[i],
                           .entropy = r->entropy[i],
                           .kl = r->kl[i],
                           .top = r->top + i * r->n_top,
                           .top_logit = r->top_logit + i * r->n_top,
                           .top_logprob = r->top_logprob + i * r->n_top,
                           .logit = r->logit + i * r->n_targets,
                           .logprob = r->logprob + i * r->n_targets,
                           .rank = r->rank + i * r->n_targets};
}

static bool reserve(glia_lens_result *r, size_t n, size_t n_top, size_t n_targets) {
    r->n_top = n_top, r->n_targets = n_targets;
    size_t t = n * n_top + 1, g = n * n_targets + 1;
    return (r->layer = glia_malloc(n * sizeof(int32_t))) && (r->position = glia_malloc(n * sizeof(int32_t))) &&
           (r->entropy = glia_malloc(n * sizeof(double))) && (r->kl = glia_malloc(n * sizeof(double))) &&
           (r->top = glia_malloc(t * sizeof(int32_t))) && (r->top_logit = glia_malloc(t * sizeof(double))) &&
           (r->top_logprob = glia_malloc(t * sizeof(double))) && (r->logit = glia_malloc(g * sizeof(double))) &&
           (r->logprob = glia_malloc(g * sizeof(double))) && (r->rank = glia_malloc(g * sizeof(int64_t)));
}

static void read_row(glia_lens_result *r, const glia_lens_params *p, size_t n_vocab, const float *logits,
                     const float *final, int32_t layer, int32_t position) {
    size_t i = r->n_rows++;
    glia_reading reading = glia_logits_read(logits, n_vocab);
    r->layer[i] = layer, r->position[i] = position;
    r->entropy[i] = reading.entropy, r->kl[i] = glia_logits_kl(final, logits, n_vocab);
    int32_t *top = r->top + i * r->n_top;
    (void)glia_logits_top(logits, n_vocab, top, r->n_top);
    for (size_t k = 0; k < r->n_top; k++) {
        r->top_logit[i * r->n_top + k] = (double)logits[top[k]];
        r->top_logprob[i * r->n_top + k] = (double)logits[top[k]] - reading.log_sum;
    }
    for (size_t k = 0; k < r->n_targets; k++) {
        r->logit[i * r->n_targets + k] = (double)logits[p->targets[k]];
        r->logprob[i * r->n_targets + k] = (double)logits[p->targets[k]] - reading.log_sum;
        r->rank[i * r->n_targets + k] = (int64_t)glia_logits_rank(logits, n_vocab, p->targets[k]);
    }
}

/* What goes into the output matrix for one layer and position. */
static void lens_input(const glia_readout *o, const glia_translator *t, const float *row, float *scratch, float *out) {
    size_t n = o->n_embd;
    if (!t) { /* lens_in has the norm behind it */
        memcpy(out, row, n * sizeof *out);
        return;
    }
    memcpy(scratch, row, n * sizeof *scratch);
    if (t->weight)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)n, 1, t->weight, (int)n, row, 1, 1, scratch, 1);
    for (size_t i = 0; t->bias && i < n; i++) scratch[i] += t->bias[i];
    glia_norm_apply(&o->norm, scratch, out);
}

typedef struct lens_run {
    const glia_lens_params *p;
    const glia_readout *o;
    const glia_forward *f;
    int32_t *layers; /* [n] that were captured; the model's last one is the last hook */
    size_t n;
    bool with_last; /* the last one was asked for */
} lens_run;

static glia_status read_positions(const lens_run *l, glia_lens_result *r, glia_err *err) {
    const glia_rows *any = glia_forward_rows(l->f, 0, 0);
    size_t n_rows = (size_t)any->n_rows, n = l->n, vocab = l->o->n_vocab, width = l->o->n_embd;
    size_t per_turn = n < ROWS_AT_ONCE ? ROWS_AT_ONCE / n : 1;
    float *x = glia_malloc(per_turn * n * width * sizeof *x), *scratch = glia_malloc(width * sizeof *scratch);
    float *logits = glia_malloc(per_turn * n * vocab * sizeof *logits);
    glia_status st = GLIA_OK;
    if (!x || !scratch || !logits) st = glia_fail(err, GLIA_ENOMEM, "no memory for the logits of %zu layers", n);
    for (size_t from = 0; from < n_rows && !st; from += per_turn) {
        size_t turn = n_rows - from < per_turn ? n_rows - from : per_turn;
        for (size_t i = 0; i < turn * n; i++) {
            const glia_rows *rows = glia_forward_rows(l->f, 0, i % n);
            const glia_translator *t = l->p->translators ? &l->p->translators[l->layers[i % n]] : NULL;
            lens_input(l->o, t, rows->data + (from + i / n) * width, scratch, x + i * width);
        }
        st = glia_readout_logits(l->o, x, turn * n, logits, err);
        for (size_t i = 0; i < turn * n && !st; i++) {
            if (i % n == n - 1 && !l->with_last) continue;
            read_row(r, l->p, vocab, logits + i * vocab, logits + (i / n * n + n - 1) * vocab, l->layers[i % n],
                     any->positions[from + i / n]);
        }
        if (!st && l->p->on_progress &&
            !l->p->on_progress(l->p->ud, 0.3 + 0.7 * (double)(from + turn) / (double)n_rows))
            st = glia_fail(err, GLIA_ECANCELLED, "cancelled");
    }
    glia_free(x);
    glia_free(scratch);
    glia_free(logits);
    return st;
}

static glia_status check_targets(const glia_lens_params *p, const glia_readout *o, glia_err *err) {
    for (size_t i = 0; i < p->n_targets; i++) {
        if (p->targets[i] < 0 || (size_t)p->targets[i] >= o->n_vocab)
            return glia_fail_at(err, GLIA_EINVAL, "targets", "targets: no token %d", (int)p->targets[i]);
    }
    return GLIA_OK;
}

static bool on_forward(void *ud, size_t n_done, size_t n_total) {
    const glia_lens_params *p = ud;
    (void)n_total;
    return !p->on_progress || p->on_progress(p->ud, n_done ? 0.3 : 0.1);
}

glia_status glia_lens_run(glia_lens_result **out, glia_model *m, const glia_lens_params *p, glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    glia_readout o = {0};
    glia_forward *f = NULL;
    glia_lens_result *r = NULL;
    size_t n = p->layers ? p->n_layers : (size_t)info.n_layer;
    glia_hook *hooks = glia_calloc(n + 1, sizeof *hooks);
    int32_t *layers = glia_malloc((n + 1) * sizeof *layers);
    glia_status st = GLIA_OK;
    *out = NULL;
    if (!hooks || !layers) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu layers", n);
        goto done;
    }
    for (size_t i = 0; i < n; i++) layers[i] = p->layers ? p->layers[i] : (int32_t)i;
    bool with_last = n && layers[n - 1] == info.n_layer - 1;
    if (!with_last) layers[n++] = info.n_layer - 1;
    for (size_t i = 0; i < n; i++) {
        hooks[i] = (glia_hook){.point = p->translators ? GLIA_POINT_RESID_POST : GLIA_POINT_LENS_IN,
                               .layer = layers[i],
                               .phases = GLIA_PHASE_PROMPT,
                               .positions = p->positions,
                               .n_positions = p->n_positions};
    }
    if ((st = glia_readout_open(&o, m, p->tokens, p->n_tokens, err))) goto done;
    if ((st = check_targets(p, &o, err))) goto done;
    glia_forward_case c = {.tokens = p->tokens, .n_tokens = p->n_tokens, .hooks = hooks, .n_hooks = n};
    glia_forward_params fp = {.cases = &c, .n_cases = 1, .on_progress = on_forward, .ud = (void *)(uintptr_t)p};
    if ((st = glia_forward_run(&f, m, &fp, err))) goto done;
    lens_run l = {p, &o, f, layers, n, with_last};
    size_t n_rows = (size_t)glia_forward_rows(f, 0, 0)->n_rows * n;
    r = glia_calloc(1, sizeof *r);
    if (!r || !reserve(r, n_rows + 1, p->top_k < o.n_vocab ? p->top_k : o.n_vocab, p->n_targets)) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows", n_rows);
        goto done;
    }
    r->error = o.error;
    if ((st = read_positions(&l, r, err))) goto done;
    *out = r, r = NULL;
done:
    glia_lens_free(r);
    glia_forward_free(f);
    glia_readout_clear(&o);
    glia_free(hooks);
    glia_free(layers);
    return st;
}

/* engine/drafter.c — see drafter.h. */
#include "engine/drafter.h"
#include "base/err.h"
#include "base/mem.h"
#include "engine/bridge.h"
#include "llama.h"
#include <math.h>
#include <string.h>

typedef struct sequence {
    int32_t *tokens; /* [n_ctx] what lies in its cache */
    int32_t n;
} sequence;

struct glia_drafter {
    struct llama_model *lm;
    struct llama_context *ctx;
    llama_memory_t mem;
    struct llama_batch batch;
    sequence *seq;
    int32_t n_seqs, n_ctx, n_batch, n_vocab;
    double p_min; /* what it gives less is seldom right, and costs a row of the large model */
    bool broken; /* a pass failed: it guesses nothing any more */
};

static glia_status same_vocabulary(const struct llama_vocab *a, const struct llama_vocab *b,
                                   const glia_drafter_params *p, glia_err *err) {
    int32_t n = llama_vocab_n_tokens(a);
    bool same = n == llama_vocab_n_tokens(b) && llama_vocab_type(a) == llama_vocab_type(b);
    for (int32_t i = 0; same && i < n; i++) {
        const char *x = llama_vocab_get_text(a, i), *y = llama_vocab_get_text(b, i);
        same = x && y && !strcmp(x, y);
    }
    return same ? GLIA_OK
                : glia_fail_at(err, GLIA_EINVAL, "draft",
                               "%s has another vocabulary than %s: a draft model must share every token with it",
                               p->path, p->model_id);
}

glia_status glia_drafter_new(glia_drafter **out, const glia_drafter_params *p, glia_err *err) {
    glia_status st = GLIA_ENOMEM;
    const char *why = "";
    glia_drafter *d = *out = NULL;
    if (!(d = glia_calloc(1, sizeof *d))) goto done;
    d->n_seqs = p->n_parallel, d->n_ctx = p->n_ctx, d->n_batch = p->n_batch, d->p_min = p->p_min;
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = p->n_gpu_layers;
    if (!(d->lm = glia_bridge_load(p->path, &mp, &why))) {
        st = glia_fail_at(err, GLIA_EINVAL, "draft", "llama.cpp cannot load the draft model %s%s%s", p->path,
                          why[0] ? ": " : "", why);
        goto done;
    }
    if ((st = same_vocabulary(llama_model_get_vocab(d->lm), p->vocab, p, err))) goto done;
    if (llama_model_is_recurrent(d->lm) || llama_model_is_hybrid(d->lm) || llama_model_has_encoder(d->lm)) {
        st = glia_fail_at(err, GLIA_EINVAL, "draft", "%s cannot draft: its state cannot be taken back by a token",
                          p->path);
        goto done;
    }
    d->n_vocab = llama_vocab_n_tokens(p->vocab);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = (uint32_t)p->n_ctx * (uint32_t)p->n_parallel;
    cp.n_batch = cp.n_ubatch = (uint32_t)p->n_batch;
    cp.n_seq_max = (uint32_t)p->n_parallel;
    cp.n_threads = cp.n_threads_batch = p->n_threads;
    cp.kv_unified = false, cp.no_perf = true;
    cp.abort_callback = p->on_abort, cp.abort_callback_data = p->ud;
    st = GLIA_ENOMEM;
    if (!(d->ctx = glia_bridge_context(d->lm, &cp, &why)) || !(d->mem = llama_get_memory(d->ctx))) {
        st = glia_fail_at(err, GLIA_ENOMEM, "draft", "no memory for the draft model's context of %d × %d tokens%s%s",
                          p->n_parallel, p->n_ctx, why[0] ? ": " : "", why);
        goto done;
    }
    d->batch = llama_batch_init(p->n_batch, 0, 1);
    if (!d->batch.token || !(d->seq = glia_calloc((size_t)d->n_seqs, sizeof *d->seq))) goto done;
    for (int32_t i = 0; i < d->n_seqs; i++) {
        if (!(d->seq[i].tokens = glia_malloc((size_t)d->n_ctx * sizeof(int32_t)))) goto done;
    }
    st = GLIA_OK;
    *out = d, d = NULL;
done:
    if (st == GLIA_ENOMEM && err && !err->message[0]) glia_fail(err, st, "out of memory for the draft model");
    glia_drafter_free(d);
    return st;
}

void glia_drafter_free(glia_drafter *d) {
    if (!d) return;
    for (int32_t i = 0; d->seq && i < d->n_seqs; i++) glia_free(d->seq[i].tokens);
    glia_free(d->seq);
    if (d->batch.token) llama_batch_free(d->batch);
    if (d->ctx) llama_free(d->ctx);
    if (d->lm) llama_model_free(d->lm);
    glia_free(d);
}

/* Run n tokens more; logits of the last.  NULL: it failed, and the sequence is empty. */
static const float *run(glia_drafter *d, int32_t slot, const int32_t *tokens, int32_t n) {
    sequence *q = &d->seq[slot];
    const char *why = "";
    for (int32_t i = 0; i < n; i++) {
        d->batch.token[i] = tokens[i], d->batch.pos[i] = q->n + i;
        d->batch.n_seq_id[i] = 1, d->batch.seq_id[i][0] = slot;
        d->batch.logits[i] = i == n - 1;
    }
    d->batch.n_tokens = n;
    int32_t rc = glia_bridge_decode(d->ctx, &d->batch, &why);
    const float *logits = rc ? NULL : llama_get_logits_ith(d->ctx, n - 1);
    if (!logits) {
        d->broken |= rc != 2; /* 2: aborted */
        if (!d->broken) (void)llama_memory_seq_rm(d->mem, slot, -1, -1);
        q->n = 0;
        return NULL;
    }
    memcpy(q->tokens + q->n, tokens, (size_t)n * sizeof *tokens);
    q->n += n;
    return logits;
}

/* The likeliest token; -1 when it is not likely enough. */
static int32_t choose(const float *v, int32_t n, double p_min) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++) {
        if (v[i] > v[best]) best = i;
    }
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += exp((double)(v[i] - v[best]));
    return sum * p_min <= 1 ? best : -1;
}

int32_t glia_drafter_guess(glia_drafter *d, int32_t slot, const int32_t *tokens, int32_t n, int32_t most,
                           int32_t *out) {
    sequence *q = &d->seq[slot];
    int32_t same = 0, k = 0;
    if (d->broken || n <= 0) return 0;
    while (same < q->n && same < n - 1 && q->tokens[same] == tokens[same]) same++; /* the last one is always run */
    if (same < q->n && !llama_memory_seq_rm(d->mem, slot, same > 0 ? same : -1, -1)) {
        (void)llama_memory_seq_rm(d->mem, slot, -1, -1);
        same = 0;
    }
    q->n = same;
    int32_t left = n - same, chunk = left < d->n_batch ? left : d->n_batch;
    const float *logits = run(d, slot, tokens + same, chunk);
    if (chunk < left) return 0;
    while (logits && k < most) {
        int32_t id = choose(logits, d->n_vocab, d->p_min);
        if (id < 0) break;
        out[k++] = id;
        if (k == most || q->n == d->n_ctx) break;
        logits = run(d, slot, &id, 1);
    }
    return k;
}

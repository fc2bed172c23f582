/* engine/encoder.c — the engine thread of models that only make vectors (BERT and its kin): one text, one pass.
 *
 * Owns the llama_context and a queue of texts.  llama.cpp pools.  Such models have no cache and attend both ways, so a text
 * runs whole or not at all.  Encoder functions: the engine thread, but for submit, drop and stop. */
#include "engine/encoder.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/model.h"
#include <string.h>

struct glia_encoder {
    glia_model *m;
    struct llama_context *ctx;
    struct llama_batch batch;
    bool batch_made;
    atomic_bool stopping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    glia_text_job *first, *last; /* waiting */
    glia_text_job *current;
    size_t n_waiting;
};

static bool on_abort(void *ud) { return atomic_load_explicit(&((glia_encoder *)ud)->stopping, memory_order_relaxed); }

glia_status glia_encoder_new(glia_encoder **out, glia_model *m, glia_err *err) {
    glia_encoder *e = *out = glia_calloc(1, sizeof *e);
    const char *why = "";
    if (!e) return glia_fail(err, GLIA_ENOMEM, "out of memory loading %s", m->path);
    e->m = m;
    (void)pthread_mutex_init(&e->lock, NULL);
    (void)pthread_cond_init(&e->wake, NULL);
    struct llama_context_params c = llama_context_default_params();
    c.n_ctx = c.n_batch = c.n_ubatch = (uint32_t)m->params.n_ctx; /* a text is one pass */
    c.n_seq_max = 1;
    c.n_threads = c.n_threads_batch = m->params.n_threads;
    c.embeddings = true;
    c.pooling_type = m->info.pooling == GLIA_POOL_CLS    ? LLAMA_POOLING_TYPE_CLS
                     : m->info.pooling == GLIA_POOL_LAST ? LLAMA_POOLING_TYPE_LAST
                                                         : LLAMA_POOLING_TYPE_MEAN;
    c.flash_attn_type = m->params.flash == GLIA_FLASH_ON    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                        : m->params.flash == GLIA_FLASH_OFF ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                            : LLAMA_FLASH_ATTN_TYPE_AUTO; /* rounds K and V to half precision */
    c.no_perf = true;
    c.abort_callback = on_abort, c.abort_callback_data = e;
    e->ctx = glia_bridge_context(m->lm, &c, &why);
    if (!e->ctx) return glia_fail(err, GLIA_EINVAL, "llama.cpp cannot run %s%s%s", m->path, why[0] ? ": " : "", why);
    e->batch = llama_batch_init(m->params.n_ctx, 0, 1);
    e->batch_made = true;
    m->info.hooks_refused = "this model makes vectors only: its inside is not mapped";
    return GLIA_OK;
}

void glia_encoder_free(glia_encoder *e) {
    if (!e) return;
    if (e->batch_made) llama_batch_free(e->batch);
    if (e->ctx) llama_free(e->ctx);
    (void)pthread_mutex_destroy(&e->lock);
    (void)pthread_cond_destroy(&e->wake);
    glia_free(e);
}

void glia_encoder_stop(glia_encoder *e) {
    (void)pthread_mutex_lock(&e->lock);
    atomic_store(&e->stopping, true);
    (void)pthread_cond_broadcast(&e->wake);
    (void)pthread_mutex_unlock(&e->lock);
}

glia_status glia_encoder_submit(glia_encoder *e, glia_text_job *t, glia_err *err) {
    glia_status st = GLIA_OK;
    (void)pthread_mutex_lock(&e->lock);
    if (atomic_load(&e->stopping)) {
        st = glia_fail(err, GLIA_EUNAVAILABLE, "the model is being closed");
    } else if (e->n_waiting >= e->m->params.queue_limit) {
        st = glia_fail(err, GLIA_EBUSY, "%zu texts are waiting already: try again later", e->n_waiting);
    } else {
        t->next = NULL;
        if (e->last) e->last->next = t;
        else e->first = t;
        e->last = t;
        e->n_waiting++;
        (void)pthread_cond_signal(&e->wake);
    }
    (void)pthread_mutex_unlock(&e->lock);
    return st;
}

/* Out of the queue; one that runs is waited for: a pass is short. */
void glia_encoder_drop(glia_encoder *e, glia_text_job *t) {
    (void)pthread_mutex_lock(&e->lock);
    for (glia_text_job **at = &e->first, *before = NULL; *at; before = *at, at = &(*at)->next) {
        if (*at != t) continue;
        *at = t->next;
        if (e->last == t) e->last = before;
        e->n_waiting--;
        break;
    }
    while (e->current == t) (void)pthread_cond_wait(&e->wake, &e->lock);
    (void)pthread_mutex_unlock(&e->lock);
}

static void encode(glia_encoder *e, glia_text_job *t) {
    const char *why = "";
    struct llama_batch *b = &e->batch;
    for (int32_t i = 0; i < t->n; i++) {
        b->token[i] = t->tokens[i], b->pos[i] = i, b->logits[i] = true;
        b->n_seq_id[i] = 1, b->seq_id[i][0] = 0;
    }
    b->n_tokens = t->n;
    int32_t rc = glia_bridge_decode(e->ctx, b, &why);
    const float *v = rc ? NULL : llama_get_embeddings_seq(e->ctx, 0);
    if (!v) {
        glia_log(GLIA_LOG_ERROR, "llama.cpp's pass over a text answered %d %s", (int)rc, why);
        (void)glia_fail(&t->err, atomic_load(&e->stopping) ? GLIA_ECANCELLED : GLIA_EINTERNAL,
                        atomic_load(&e->stopping) ? "the model was closed" : "the forward pass failed");
        return;
    }
    memcpy(t->v, v, (size_t)e->m->info.n_vector * sizeof *v);
}

void glia_encoder_run(glia_encoder *e) {
    (void)pthread_mutex_lock(&e->lock);
    for (;;) {
        while (!e->first && !atomic_load(&e->stopping)) (void)pthread_cond_wait(&e->wake, &e->lock);
        glia_text_job *t = e->first;
        if (!t) break; /* stopping, and nothing waits */
        e->first = t->next;
        if (!e->first) e->last = NULL;
        e->n_waiting--;
        e->current = t;
        (void)pthread_mutex_unlock(&e->lock);
        atomic_fetch_add(&e->m->tally.requests, 1);
        if (atomic_load(&e->stopping)) (void)glia_fail(&t->err, GLIA_ECANCELLED, "the model was closed");
        else encode(e, t);
        atomic_fetch_add(&e->m->tally.passes, 1);
        atomic_fetch_add(&e->m->tally.prompt_tokens, (unsigned)t->n);
        if (!t->err.status) atomic_fetch_add(&e->m->tally.finished, 1);
        t->on_end(t->ud);
        (void)pthread_mutex_lock(&e->lock);
        e->current = NULL;
        (void)pthread_cond_broadcast(&e->wake);
    }
    (void)pthread_mutex_unlock(&e->lock);
}

/* engine/embed.c — vectors of texts: a request with one hook on a causal model, a pass of an encoder.  Any thread. */
#include "base/err.h"
#include "base/mem.h"
#include "engine/encoder.h"
#include "engine/model.h"
#include <string.h>

struct glia_embed {
    glia_model *m;
    glia_request *rq;   /* causal models */
    glia_text_job text; /* encoders */
    int32_t *tokens;
    float *v; /* [n_vector] */
    bool has_rows, ended;
    glia_err err;
    atomic_bool done; /* encoders */
    void (*on_end)(void *ud);
    void *ud;
};

static void on_text(void *ud) {
    glia_embed *e = ud;
    void (*fn)(void *) = e->on_end;
    void *fn_ud = e->ud;
    atomic_store(&e->done, true);
    if (fn) fn(fn_ud);
}

static glia_status submit_text(glia_embed *e, const int32_t *tokens, size_t n, glia_pooling pooling, glia_err *err) {
    static const char *const names[] = {"mean", "cls", "last"};
    if (pooling != e->m->info.pooling) {
        return glia_fail_at(err, GLIA_EINVAL, "pooling", "this model pools its rows by \"%s\" and in no other way",
                            names[e->m->info.pooling]);
    }
    if (!(e->tokens = glia_memdup(tokens, n * sizeof *tokens))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a text");
    e->text = (glia_text_job){.tokens = e->tokens, .n = (int32_t)n, .v = e->v, .on_end = on_text, .ud = e};
    return glia_encoder_submit(e->m->encoder, &e->text, err);
}

static void take_event(glia_embed *e, const glia_event *ev) {
    const glia_frame *f = ev->kind == GLIA_EVENT_ACTIVATIONS ? ev->u.activations.frames : NULL;
    if (ev->kind == GLIA_EVENT_ERROR) e->err = ev->u.error;
    if (ev->kind == GLIA_EVENT_ERROR || ev->kind == GLIA_EVENT_DONE) e->ended = true;
    if (!f || !ev->u.activations.n_frames || f->n_rows != 1 || f->width != e->m->info.n_vector) return;
    memcpy(e->v, f->data, (size_t)f->width * sizeof *f->data);
    e->has_rows = true;
}

static void drain(glia_embed *e) {
    for (glia_event *ev; !e->ended && (ev = glia_request_next(e->rq, 0));) {
        take_event(e, ev);
        glia_event_free(ev);
    }
}

/* The sum over rows is taken where they are captured; a single row is just that row. */
static glia_status submit_request(glia_embed *e, const int32_t *tokens, size_t n, glia_pooling pooling, glia_err *err) {
    const int64_t position = pooling == GLIA_POOL_CLS ? 0 : -1;
    glia_hook hook = {.point = GLIA_POINT_FINAL_NORM, .layer = -1, .phases = GLIA_PHASE_PROMPT};
    glia_request_params p;
    if (pooling == GLIA_POOL_MEAN) hook.reduce.op = GLIA_REDUCE_MEAN;
    else hook.positions = &position, hook.n_positions = 1;
    glia_request_params_init(&p);
    p.prompt = tokens, p.n_prompt = n;
    p.max_tokens = 0;
    p.hooks = &hook, p.n_hooks = 1;
    p.whole_reply = true;
    glia_status st = glia_request_submit(&e->rq, e->m, &p, err);
    if (!st) {
        glia_request_on_event(e->rq, e->on_end, e->ud);
        drain(e); /* it may have ended before anybody listened */
        if (e->ended && e->on_end) e->on_end(e->ud);
    } else if (err && st == GLIA_EHOOK) {
        glia_err why = *err;
        return glia_fail_at(err, st, "model", "this model makes no vectors: %s", why.message);
    }
    return st;
}

glia_status glia_embed_submit(glia_embed **out, glia_model *m, const int32_t *tokens, size_t n_tokens,
                              glia_pooling pooling, void (*on_end)(void *ud), void *ud, glia_err *err) {
    glia_embed *e = *out = NULL;
    if (m->info.embeddings_refused)
        return glia_fail_at(err, GLIA_EINVAL, "model", "no vectors of this model: %s", m->info.embeddings_refused);
    if (!n_tokens) return glia_fail_at(err, GLIA_EINVAL, "input", "the text is empty: a model needs at least one token");
    if (n_tokens > (size_t)m->info.n_ctx) {
        return glia_fail_at(err, GLIA_ECONTEXT, "input", "the text has %zu tokens, the context of this model holds %d",
                            n_tokens, (int)m->info.n_ctx);
    }
    for (size_t i = 0; i < n_tokens; i++) {
        if (tokens[i] < 0 || tokens[i] >= m->info.n_vocab)
            return glia_fail_at(err, GLIA_EINVAL, "input", "%d is no token of this model", (int)tokens[i]);
    }
    e = glia_calloc(1, sizeof *e);
    if (e) e->v = glia_calloc((size_t)m->info.n_vector, sizeof *e->v);
    if (!e || !e->v) {
        glia_free(e);
        return glia_fail(err, GLIA_ENOMEM, "out of memory for a vector");
    }
    e->m = m, e->on_end = on_end, e->ud = ud;
    glia_status st = m->encoder ? submit_text(e, tokens, n_tokens, pooling, err)
                                : submit_request(e, tokens, n_tokens, pooling, err);
    if (!st) {
        *out = e;
        return GLIA_OK;
    }
    glia_free(e->tokens);
    glia_free(e->v);
    glia_free(e);
    return st;
}

bool glia_embed_take(glia_embed *e, const float **v, glia_err *err) {
    *v = NULL;
    if (e->rq) {
        drain(e);
        if (!e->ended) return false;
        if (!e->err.status && !e->has_rows) (void)glia_fail(&e->err, GLIA_EINTERNAL, "the rows of the text did not come");
    } else {
        if (!atomic_load(&e->done)) return false;
        if (e->text.err.status) e->err = e->text.err;
    }
    if (e->err.status) {
        if (err) *err = e->err;
        return true;
    }
    *v = e->v;
    return true;
}

void glia_embed_free(glia_embed *e) {
    if (!e) return;
    if (e->rq) glia_request_on_event(e->rq, NULL, NULL);
    glia_request_free(e->rq);
    if (e->text.on_end) glia_encoder_drop(e->m->encoder, &e->text);
    glia_free(e->tokens);
    glia_free(e->v);
    glia_free(e);
}

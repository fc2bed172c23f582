/* engine/draw.c — from logits to tokens, text and log-probabilities.
 *
 * Engine thread, after a pass.  See worker.h. */
#include "engine/worker.h"
#include "base/err.h"
#include "base/mem.h"

/* Bytes of a token; the result lies in buf or in *big (freed by the caller).  -1: out of memory. */
static int32_t piece(const glia_worker *w, int32_t token, bool special, char *buf, int32_t cap, char **big) {
    *big = NULL;
    int32_t n = llama_token_to_piece(w->m->vocab, token, buf, cap, 0, special);
    if (n >= 0) return n;
    if (!(*big = glia_malloc((size_t)-n))) return -1;
    return llama_token_to_piece(w->m->vocab, token, *big, -n, 0, special);
}

/* No token was drawn: the constraint is at its end, or it failed. */
static void end_constrained(glia_worker *w, glia_slot *s, int32_t why) {
    glia_err e = {0};
    if (why == GLIA_DRAW_END) {
        glia_slot_finish(w, s, GLIA_FINISH_STOP, NULL);
        return;
    }
    if (!glia_constrainer_why(s->constrainer, &e))
        glia_fail_at(&e, GLIA_EINVAL, "grammar",
                     "no token of this model can continue the answer as its grammar demands");
    glia_request_push_error(s->req, &e);
    glia_slot_release(s);
}

void glia_worker_draw(glia_worker *w, glia_slot *s) {
    const glia_request *r = s->req;
    const float *logits = llama_get_logits_ith(w->ctx, s->draw_row);
    if (!logits) {
        glia_slot_fail(s, GLIA_EINTERNAL, "llama.cpp answered no logits");
        return;
    }
    if (!s->n_generated && r->n_prompt - s->n_cached >= GLIA_LEAST_GAIN) /* the logits are there: so is all before them */
        glia_pace_saw(&w->pace.token_ms, glia_now_ms() - s->start_ms, r->n_prompt - s->n_cached);
    int32_t id = glia_sampler_draw(s->sampler, s->constrainer, logits, w->scratch);
    if (id < 0 || (s->constrainer && glia_constrainer_accept(s->constrainer, id) != GLIA_MATCH_YES)) {
        end_constrained(w, s, id);
        return;
    }
    glia_sampler_accept(s->sampler, id);
    bool eog = llama_vocab_is_eog(w->m->vocab, id) && !r->sampling.ignore_eos;
    int32_t index = s->n_generated++, hit = -1;
    glia_tally_add(&w->m->tally.generated_tokens, 1);
    w->out.n = 0, w->out.failed = false;
    if (!eog) {
        char small[128], *big;
        int32_t n = piece(w, id, glia_rules_keeps(r->rules, id), small, sizeof small, &big);
        if (n > 0) hit = glia_text_add(&s->text, big ? big : small, (size_t)n, &w->out);
        glia_free(big);
        if (n < 0) w->out.failed = true;
    }
    int32_t n_top = r->sampling.n_logprobs > 0 ? r->sampling.n_logprobs : 0;
    if (n_top > w->m->info.n_vocab) n_top = w->m->info.n_vocab;
    glia_node *node = w->out.failed || s->text.held.failed
                          ? NULL
                          : glia_node_token(id, index, w->out.p ? w->out.p : "", w->out.n, n_top);
    if (!node) {
        glia_slot_fail(s, GLIA_ENOMEM, "out of memory for a token");
        return;
    }
    glia_event *ev = glia_node_event(node);
    ev->u.token.is_eog = eog;
    if (r->sampling.n_logprobs >= 0) {
        ev->u.token.logprob = glia_logprobs(logits, w->m->info.n_vocab, id, glia_node_top(node), n_top);
    }
    glia_request_push(s->req, node);
    if (eog) glia_slot_finish(w, s, GLIA_FINISH_STOP, NULL);
    else if (hit >= 0) glia_slot_finish(w, s, GLIA_FINISH_STOP_STRING, r->stop[hit]);
    else if (s->n_generated >= r->max_tokens) glia_slot_finish(w, s, GLIA_FINISH_LENGTH, NULL);
    else s->next_token = id;
}

/* The log-probability of every prompt token, given those before it: from this pass's rows.  False: out of memory. */
bool glia_worker_push_prompt_logprobs(glia_worker *w, const glia_slot *s, int32_t pos0) {
    const glia_request *r = s->req;
    int32_t n_vocab = w->m->info.n_vocab, n_top = r->sampling.n_logprobs;
    if (n_top > n_vocab) n_top = n_vocab;
    for (int32_t i = 0; i < s->n_rows && pos0 + i + 1 < r->n_prompt; i++) {
        int32_t id = r->prompt[pos0 + i + 1];
        const float *logits = llama_get_logits_ith(w->ctx, s->row0 + i);
        glia_node *node = logits ? glia_node_prompt_token(id, pos0 + i + 1, n_top) : NULL;
        if (!node) return false;
        glia_node_event(node)->u.token.logprob = glia_logprobs(logits, n_vocab, id, glia_node_top(node), n_top);
        glia_request_push(s->req, node);
    }
    return true;
}

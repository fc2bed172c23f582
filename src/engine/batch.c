/* engine/batch.c — filling one batch from the slots.
 *
 * Engine thread.  See worker.h. */
#include "engine/worker.h"

static void add_row(glia_worker *w, const glia_slot *s, int32_t token, int32_t pos, bool output) {
    int32_t i = w->batch.n_tokens++;
    w->batch.token[i] = token, w->batch.pos[i] = pos;
    w->batch.n_seq_id[i] = 1, w->batch.seq_id[i][0] = s->id;
    w->batch.logits[i] = output;
    w->rows[i] = (glia_tap_row){.token = token, .pos = pos, .seq = s->id, .output = output};
}

/* Must this token be an output because a hook wants its row behind the last layer's trimming? */
static bool hook_needs_output(const glia_slot *s, uint32_t phase, int32_t pos) {
    for (size_t h = 0; h < s->req->n_hooks; h++) {
        if (s->req->hooks[h].outputs && glia_rhook_wants(&s->req->hooks[h], phase, pos)) return true;
    }
    return false;
}

/* The token that was drawn, and behind it n - 1 guesses: each is an output, to be checked. */
static void add_decode(glia_worker *w, glia_slot *s, int32_t n) {
    s->row0 = s->draw_row = w->batch.n_tokens, s->n_rows = n;
    add_row(w, s, s->next_token, s->n_past, true);
    for (int32_t i = 1; i < n; i++) add_row(w, s, s->guess[i - 1], s->n_past + i, true);
}

static void add_prefill(glia_worker *w, glia_slot *s, int32_t most) {
    const glia_request *r = s->req;
    int32_t left = r->n_prompt - s->n_past, n = left < most ? left : most;
    bool draws = r->max_tokens > 0;
    s->row0 = w->batch.n_tokens, s->n_rows = n, s->draw_row = -1;
    for (int32_t i = 0; i < n; i++) {
        int32_t pos = s->n_past + i;
        bool last = pos == r->n_prompt - 1;
        bool output = (last && draws) || r->prompt_logprobs || hook_needs_output(s, GLIA_PHASE_PROMPT, pos);
        add_row(w, s, r->prompt[pos], pos, output);
        if (last && draws) s->draw_row = w->batch.n_tokens - 1;
    }
}

/* One batch: n tokens of each of the slots first..last.  With a cache stream per slot llama.cpp runs neighbouring
 * sequences with equally many tokens as one graph, rows in this order; any other batch it would split. */
void glia_worker_fill(glia_worker *w, int32_t first, int32_t last, int32_t n) {
    w->batch.n_tokens = 0;
    glia_worker_tune(w, &w->slots[first].tuning); /* all of them have it */
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        s->n_rows = 0, s->draw_row = -1;
        if (i < first || i > last) continue;
        if (s->state == GLIA_SLOT_DECODE) add_decode(w, s, n);
        else add_prefill(w, s, n);
    }
}

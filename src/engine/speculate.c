/* engine/speculate.c — which passes check guesses, and how many.
 *
 * Engine thread, before a batch is filled.  See worker.h.
 *
 * A batch holds equally many tokens of each slot.  So that nobody pays for another's guesses, a pass has some only when
 * every request in it that generates brings as many; one that cannot makes it a plain pass. */
#include "engine/worker.h"

/* Requests with hooks or edits are left out: their rows are delivered, or changed, before a guess is known to be right. */
static int32_t most_for(const glia_slot *s) {
    const glia_request *r = s->req;
    if (r->speculate == GLIA_SPECULATE_OFF || r->n_hooks || r->n_edits) return 0;
    int32_t left = r->max_tokens - s->n_generated - 1; /* behind the last token nothing is drawn */
    return left < s->guess_size ? left : s->guess_size;
}

static int32_t guess(glia_worker *w, glia_slot *s, int32_t most) {
    const glia_request *r = s->req;
    s->tokens[s->n_past] = s->next_token; /* the text as it will be; n_past says what lies in the cache */
    int32_t n = s->n_past + 1;
    if (r->n_predicted || r->speculate == GLIA_SPECULATE_NGRAM)
        return glia_guess(s->tokens, n, r->predicted, r->n_predicted, &s->predicted_at, most, s->guess);
    return w->drafter ? glia_drafter_guess(w->drafter, s->id, s->tokens, n, most, s->guess) : 0;
}

int32_t glia_worker_guess(glia_worker *w, int32_t first, int32_t last) {
    int32_t least = w->n_batch / (last + 1 - first) - 1;
    for (int32_t i = first; i <= last && least > 0; i++) {
        const glia_slot *s = &w->slots[i];
        int32_t most = s->state == GLIA_SLOT_DECODE ? most_for(s) : glia_slot_next_chunk(s) - 1;
        if (most < least) least = most;
    }
    for (int32_t i = first; i <= last && least > 0; i++) {
        glia_slot *s = &w->slots[i];
        if (s->state != GLIA_SLOT_DECODE) continue;
        s->n_guess = guess(w, s, least);
        if (s->n_guess < least) least = s->n_guess;
    }
    return least > 0 ? least : 0;
}

/* engine/prefix.c — the prompt cache: what of a prompt lies in a KV cache already, in this slot, in another one or on the
 * shelf in host memory, and how much of it a request may use.
 *
 * Engine thread.  See worker.h.
 *
 * Three rules hold wherever a prefix comes from.  It is never used beyond the first row that a hook wants (the row would
 * be swallowed) or an edit changes; what was computed behind an edit (n_clean) is never offered; adapters see only what
 * the same adapters computed.  A state that was copied has its cells at other places than the tap's mirror knows: requests
 * whose columns are positions compute their prompt themselves. */
#include "engine/worker.h"
#include <string.h>

/* Positions from, from + 1, … leave the cache.  False: this model's state cannot be cut there, nothing was taken out. */
bool glia_worker_cut(glia_worker *w, int32_t seq, int32_t from) {
    if (!llama_memory_seq_rm(w->mem, seq, from > 0 ? from : -1, -1)) return false;
    glia_tap_cut(w->tap, seq, from);
    return true;
}

static void clear(glia_worker *w, glia_slot *s) {
    (void)glia_worker_cut(w, s->id, 0);
    s->n_past = 0;
}

void glia_worker_forget(glia_worker *w, glia_slot *s, int32_t keep) {
    if (keep >= s->n_past) return;
    if (glia_worker_cut(w, s->id, keep)) s->n_past = keep;
    else clear(w, s);
}

/* How much of a cached prefix this request may use at most: never the last prompt token (its logits are needed), never a
 * position whose activation a hook wants or an edit changes. */
static int32_t most_of(const glia_request *r) {
    int32_t n = r->n_prompt - 1;
    if (n > r->first_wanted) n = r->first_wanted;
    if (n > r->first_edited) n = r->first_edited;
    return n;
}

static int32_t clean(const glia_slot *s) { return s->n_past < s->n_clean ? s->n_past : s->n_clean; }

/* Of what lies in this slot's cache. */
static int32_t common(const glia_worker *w, const glia_slot *s, const glia_request *r) {
    int32_t most = most_of(r), n = clean(s), i = 0;
    if (!glia_tuning_same(&s->tuning, &r->tuning)) return 0;
    if (n > most) n = most;
    while (i < n && s->tokens[i] == r->prompt[i]) i++;
    return i == s->n_past || w->cuts_prefix ? i : 0;
}

int32_t glia_worker_usable_prefix(const glia_worker *w, const glia_slot *s, const glia_request *r) {
    if (r->no_cache || (r->wants_columns && !glia_tap_knows_cells(w->tap, s->id))) return 0;
    return common(w, s, r);
}

/* ------------------------------------------------------------------ copying states */

/* The state of a slot after the first n tokens; NULL: it cannot be had, or not worth it for `gain` tokens. */
static glia_shelved *state_of(glia_worker *w, const glia_slot *s, int32_t n, int32_t gain) {
    size_t n_state = llama_state_seq_get_size(w->ctx, s->id);
    if (!n_state || !glia_pace_copies(&w->pace, gain, n_state, true)) return NULL;
    glia_shelved *e = glia_shelved_new(&s->tuning, s->tokens, n, n_state);
    double began = glia_now_ms();
    if (e && llama_state_seq_get_data(w->ctx, e->state, n_state, s->id) == n_state) {
        glia_pace_saw(&w->pace.out_ms, glia_now_ms() - began, (double)n_state);
        return e;
    }
    glia_shelved_free(e);
    return NULL;
}

/* What this slot would lose with all but its first `keep` tokens, when that is worth keeping.  Not what hooked requests
 * computed: a harvest of thousands of prompts would push out every conversation. */
static glia_shelved *take_off(glia_worker *w, glia_slot *s, int32_t keep) {
    int32_t n = clean(s);
    if (!w->shelf || !s->shelves || n - keep < GLIA_LEAST_GAIN) return NULL;
    if (glia_shelf_has(w->shelf, &s->tuning, s->tokens, n)) return NULL;
    if (n < s->n_past) {
        if (!w->cuts_prefix) return NULL;
        glia_worker_forget(w, s, n); /* what an edit has touched; it would go anyway */
    }
    return s->n_past == n ? state_of(w, s, n, n - keep) : NULL;
}

/* False: the slot is empty now. */
static bool put_in(glia_worker *w, glia_slot *s, const glia_shelved *e) {
    clear(w, s);
    double began = glia_now_ms();
    if (llama_state_seq_set_data(w->ctx, e->state, e->n_state, s->id) != e->n_state ||
        llama_memory_seq_pos_max(w->mem, s->id) != e->n - 1) {
        clear(w, s);
        return false;
    }
    glia_pace_saw(&w->pace.in_ms, glia_now_ms() - began, (double)e->n_state);
    memcpy(s->tokens, e->tokens, (size_t)e->n * sizeof *s->tokens);
    s->n_past = e->n;
    glia_tap_lose(w->tap, s->id);
    return true;
}

/* The other slot, busy or not, with the longest usable prefix above *n. */
static const glia_slot *best_other(const glia_worker *w, const glia_slot *s, const glia_request *r, int32_t *n) {
    const glia_slot *best = NULL;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const glia_slot *x = &w->slots[i];
        int32_t k = x == s ? 0 : common(w, x, r);
        if (k > *n) best = x, *n = k;
    }
    return best;
}

void glia_worker_bring_prefix(glia_worker *w, glia_slot *s, const glia_request *r) {
    int32_t own = glia_worker_usable_prefix(w, s, r), n = own, on_shelf = 0;
    const glia_slot *other = NULL;
    glia_shelved *e = NULL, *copy = NULL;
    if (!r->no_cache && !r->wants_columns) {
        other = best_other(w, s, r, &n);
        if (w->shelf) e = glia_shelf_find(w->shelf, &r->tuning, r->prompt, most_of(r), &on_shelf);
        if (on_shelf > n) other = NULL, n = on_shelf;
        else e = NULL;
        if (n - own < GLIA_LEAST_GAIN || (e && !glia_pace_copies(&w->pace, n - own, e->n_state, false))) other = NULL, e = NULL, n = own;
    }
    if (other) e = copy = state_of(w, other, other->n_past, n - own);
    if (!e) n = own;
    glia_shelved *left = take_off(w, s, e ? 0 : own);
    if (e) {
        glia_shelf_touch(w->shelf, e);
        if (!put_in(w, s, e)) n = 0;
        else glia_tally_add(&w->m->tally.restored_tokens, n - own);
    }
    glia_worker_forget(w, s, n);
    glia_shelved_free(copy);
    if (left) glia_shelf_put(w->shelf, left); /* last: it may push out what was just used */
    if (w->shelf) atomic_store_explicit(&w->m->tally.shelf_bytes, glia_shelf_bytes(w->shelf), memory_order_relaxed);
}

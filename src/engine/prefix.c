/* engine/prefix.c — the prompt cache: what lies in a slot's KV cache and how much of it a request may use.
 *
 * Engine thread.  See worker.h. */
#include "engine/worker.h"

/* Positions from, from + 1, … leave the cache.  False: this model's state cannot be cut there, nothing was taken out. */
bool glia_worker_cut(glia_worker *w, int32_t seq, int32_t from) {
    if (!llama_memory_seq_rm(w->mem, seq, from > 0 ? from : -1, -1)) return false;
    glia_tap_cut(w->tap, seq, from);
    return true;
}

static int32_t common_prefix(const glia_slot *s, const glia_request *r) {
    int32_t n = s->n_past < r->n_prompt ? s->n_past : r->n_prompt, i = 0;
    if (n > s->n_clean) n = s->n_clean;
    while (i < n && s->tokens[i] == r->prompt[i]) i++;
    return i;
}

/* How much of a cached prefix this request may use: never the last prompt token (its logits are needed), never a
 * position whose activation a hook wants or an edit changes (it would be swallowed). */
int32_t glia_worker_usable_prefix(const glia_worker *w, const glia_slot *s, const glia_request *r) {
    if (r->no_cache) return 0;
    int32_t n = common_prefix(s, r);
    if (n > r->n_prompt - 1) n = r->n_prompt - 1;
    if (n > r->first_wanted) n = r->first_wanted;
    if (n > r->first_edited) n = r->first_edited;
    if (r->wants_columns && !glia_tap_knows_cells(w->tap, s->id)) return 0;
    return n == s->n_past || w->cuts_prefix ? n : 0;
}

void glia_worker_forget(glia_worker *w, glia_slot *s, int32_t keep) {
    if (keep < s->n_past && !glia_worker_cut(w, s->id, keep)) {
        (void)glia_worker_cut(w, s->id, 0);
        keep = 0;
    }
    if (keep < s->n_past) s->n_past = keep;
}

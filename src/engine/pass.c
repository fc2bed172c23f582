/* engine/pass.c — one forward pass: run the batch, believe its rows or refuse them, hand out what came of it.
 *
 * Engine thread.  See worker.h. */
#include "engine/worker.h"
#include "base/err.h"
#include "base/log.h"
#include <math.h>
#include <stdio.h>

/* llama_decode, and the tap told of it: of the cells it fills, and where the state of the batch's first sequence stood
 * and stands. */
int32_t glia_worker_decode(glia_worker *w) {
    llama_seq_id seq = w->rows[0].seq;
    int32_t before = w->one_at_a_time ? llama_memory_seq_pos_max(w->mem, seq) : -1;
    glia_tap_begin(w->tap, w->rows, w->batch.n_tokens);
    const char *why = "";
    int32_t rc = w->broken[0] ? -1 : glia_bridge_decode(w->ctx, &w->batch, &why);
    if (why[0]) (void)snprintf(w->broken, sizeof w->broken, "%s", why);
    glia_tap_end(w->tap, rc == 0);
    if (w->one_at_a_time) glia_tap_state_moved(w->tap, before, llama_memory_seq_pos_max(w->mem, seq));
    return rc;
}

/* Every row is drawn from as if it stood alone, as long as the row behind it holds what was drawn.  The rest was guessed
 * wrong and leaves the cache.  No hook and no edit has seen any of these rows (speculate.c). */
static void advance_guess(glia_worker *w, glia_slot *s) {
    int32_t n = s->n_rows, row0 = s->row0, from = s->n_past, right = 0;
    s->last_used = ++w->clock;
    s->n_guessed += n - 1;
    for (int32_t i = 0; i < n; i++) {
        s->tokens[s->n_past++] = w->rows[row0 + i].token;
        s->draw_row = row0 + i;
        right = i;
        s->n_right += i > 0;
        glia_worker_draw(w, s);
        if (!s->req || i + 1 == n || s->next_token != w->rows[row0 + i + 1].token) break;
    }
    if (s->req) s->guess_size = glia_guess_next(n - 1, right, s->req->guess_most);
    if (s->n_past == from + n || glia_worker_cut(w, s->id, s->n_past)) return;
    (void)glia_worker_cut(w, s->id, 0); /* does not happen: such models do not speculate */
    s->n_past = 0;
    if (s->req) glia_slot_fail(s, GLIA_EINTERNAL, "a wrong guess could not be taken back");
}

static void advance(glia_worker *w, glia_slot *s) {
    if (s->state == GLIA_SLOT_DECODE && s->n_rows > 1) {
        advance_guess(w, s);
        return;
    }
    for (int32_t i = 0; i < s->n_rows; i++) s->tokens[s->n_past + i] = w->rows[s->row0 + i].token;
    glia_slot_count_rows(s);
    glia_collect_keep(s->collect, s->state == GLIA_SLOT_DECODE ? GLIA_PHASE_GENERATED : GLIA_PHASE_PROMPT);
    s->n_past += s->n_rows;
    s->last_used = ++w->clock;
    if (s->state == GLIA_SLOT_PREFILL) {
        glia_tally_add(&w->m->tally.prompt_tokens, s->n_rows);
        if (s->req->prompt_logprobs && !glia_worker_push_prompt_logprobs(w, s, s->n_past - s->n_rows)) {
            glia_slot_fail(s, GLIA_ENOMEM, "out of memory for the prompt's log-probabilities");
            return;
        }
        if (s->req->want_progress) glia_request_push_progress(s->req, s->n_past, s->req->n_prompt);
        if (s->n_past < s->req->n_prompt) return;
        s->state = GLIA_SLOT_DECODE;
        s->prompt_end_ms = glia_now_ms();
    }
    glia_slot_push_frames(s);
    bool prompt_whole = s->n_past == s->req->n_prompt;
    if (prompt_whole && !glia_slot_push_collected(s, GLIA_PHASE_PROMPT)) return;
    if (s->req->max_tokens == 0) glia_slot_finish(w, s, GLIA_FINISH_LENGTH, NULL);
    else glia_worker_draw(w, s);
}

/* Take the batch's tokens out of the cache again. */
static void undo(glia_worker *w) {
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        if (!s->n_rows) continue;
        if (glia_worker_cut(w, s->id, s->n_past)) continue;
        /* state that cannot be rolled back: such a pass is only aborted when nobody in it goes on */
        (void)glia_worker_cut(w, s->id, 0);
        s->n_past = 0;
        glia_slot_fail(s, GLIA_ECANCELLED, atomic_load(&w->stopping) ? "the model was closed" : "cancelled");
    }
}

static void fail_batch(glia_worker *w, bool hooked_only, glia_status st, const char *why) {
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        if (s->n_rows && (!hooked_only || s->req->n_hooks || s->req->n_edits)) {
            (void)glia_worker_cut(w, s->id, 0); /* what lies in the cache is unknown now */
            s->n_past = 0;
            glia_slot_fail(s, st, why);
        }
    }
}

/* Are the logits of this row of the slot read? */
static bool reads_logits(const glia_slot *s, int32_t row) {
    return s->state == GLIA_SLOT_DECODE || s->req->prompt_logprobs || row == s->draw_row;
}

/* The node behind which nothing of this pass is used, when nobody reads logits. */
static int32_t end_of_pass(const glia_worker *w) {
    int32_t end = -1;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const glia_slot *s = &w->slots[i];
        if (!s->n_rows) continue;
        if (s->end_node > end) end = s->end_node;
        if (!s->leaves_nothing && w->m->atlas->last_store > end) end = w->m->atlas->last_store;
    }
    return end;
}

/* Rows behind the last layer's trimming are outputs to llama.cpp, which computes logits of every output: those that are read,
 * counted among the outputs.  Slots lie in the batch in their order.  False: none are. */
static bool find_logits(const glia_worker *w, int32_t *first, int32_t *n) {
    int32_t out = 0, last = -1;
    *first = INT32_MAX;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const glia_slot *s = &w->slots[i];
        for (int32_t r = s->row0; r < s->row0 + s->n_rows; r++) {
            if (!w->rows[r].output) continue;
            if (reads_logits(s, r)) *first = out < *first ? out : *first, last = out;
            out++;
        }
    }
    *n = last - *first + 1;
    return last >= 0;
}

/* What a pass that ended before its caches were whole leaves there is for nobody else. */
static void spoil(glia_worker *w) {
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        if (s->n_rows && s->leaves_nothing && s->n_clean > s->n_past) s->n_clean = s->n_past;
    }
}

/* llama_decode with the tap armed when some hook wants rows.  0: done, 2: aborted, its rows are not in the cache; else failed.
 * *tapped says whether the rows may be believed.  A graph that was not mapped and proven at load is refused: no dry run can be
 * made over the caches of running requests.
 *
 * On a device even a callback that wants nothing costs: with one, ggml hands over every graph as a view, and CUDA compares
 * it node by node with the one it has captured.  Without it the cells of the sequences are unknown afterwards, so that a
 * request whose hooks have columns is watched from its first pass and builds on no other's prefix. */
static int32_t run_batch(glia_worker *w, glia_tap_result *tapped, char why[160]) {
    bool looks = w->n_wants || w->n_edits, watches = looks;
    for (int32_t i = 0; i < w->n_slots; i++) watches |= w->slots[i].n_rows && w->slots[i].req->wants_columns;
    *tapped = GLIA_TAP_OK;
    if (w->looks_away) glia_bridge_watch(w->ctx, watches ? glia_tap_on_node : NULL, w->tap);
    if (!looks) return glia_worker_decode(w);
    glia_tap_arm(w->tap, w->rows, w->batch.n_tokens, w->wants, w->n_wants, w->edits, w->n_edits);
    int32_t end = end_of_pass(w), first, n;
    if (find_logits(w, &first, &n)) glia_tap_only_logits(w->tap, first, n);
    else glia_tap_may_end(w->tap, glia_bridge_sched(w->ctx), end);
    int32_t rc = glia_worker_decode(w);
    *tapped = glia_tap_disarm(w->tap, why);
    if (glia_tap_has_ended(w->tap)) {
        glia_tally_add(&w->m->tally.short_passes, 1);
        if (end < w->m->atlas->last_store) spoil(w);
    }
    return rc;
}

/* A thread that has to share its processor is late at the end of every operation, and all others wait for it: the whole
 * model loses what the caller takes of one processor.  With a thread less it loses that thread's part. */
int32_t glia_pass_threads(int32_t threads, int32_t processors, double beside) {
    if (threads < processors || !(beside * threads > 1)) return threads;
    return beside < threads - 1 ? threads - (int32_t)ceil(beside) : 1;
}

static void set_threads(glia_worker *w) {
    double beside = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const glia_slot *s = &w->slots[i];
        if (s->n_rows && s->req->busy_beside > beside) beside = s->req->busy_beside;
    }
    int32_t n = glia_pass_threads(w->m->params.n_threads, w->n_processors, beside);
    if (n == w->n_threads) return;
    llama_set_n_threads(w->ctx, n, n);
    w->n_threads = n;
}

/* Run the batch and hand out what came of it. */
void glia_worker_pass(glia_worker *w) {
    char why[160] = "";
    glia_tap_result tapped;
    w->n_wants = w->n_edits = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        if (s->n_rows && (!glia_worker_edit_rows(w, s) || !glia_worker_want_rows(w, s))) {
            /* nothing has run yet: the others come again next turn */
            fail_batch(w, true, GLIA_ENOMEM, "out of memory for activations");
            return;
        }
    }
    set_threads(w);
    int32_t rc = run_batch(w, &tapped, why);
    if (rc == 2) { /* someone left: the others run again without it */
        undo(w);
        w->was_aborted = true;
        return;
    }
    w->was_aborted = false;
    glia_tally_add(&w->m->tally.passes, rc == 0);
    if (rc) {
        glia_log(GLIA_LOG_ERROR, "llama_decode answered %d%s%s", rc, w->broken[0] ? ": " : "", w->broken);
        fail_batch(w, false, GLIA_EINTERNAL,
                   rc == 1        ? "the KV cache has no room"
                   : w->broken[0] ? "llama.cpp cannot run this model (see the server's log)"
                                  : "the forward pass failed");
        return;
    }
    if (tapped == GLIA_TAP_NOMEM) fail_batch(w, true, GLIA_ENOMEM, "out of memory for activations");
    else if (tapped != GLIA_TAP_OK) fail_batch(w, !w->n_edits, GLIA_EUNPROVEN, why); /* edits may have hit any row */
    for (int32_t i = 0; i < w->n_slots; i++) {
        if (w->slots[i].n_rows) advance(w, &w->slots[i]);
    }
}

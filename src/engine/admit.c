/* engine/admit.c — from the inbox into a slot: whose turn it is, memory for its activations, what it needs to run.
 *
 * Engine thread; the inbox is shared with the clients' threads and locked.  See worker.h. */
#include "engine/worker.h"
#include "base/err.h"
#include "base/mem.h"
#include <errno.h>
#include <time.h>

/* Which rows of the prompt a hook takes or an edit changes, as a mask.  *mask NULL: all of them, or none. */
static bool mask_rows(const glia_rhook *k, int32_t n_prompt, uint8_t **mask) {
    *mask = NULL;
    if (k->n_prompt_rows == n_prompt || !k->n_prompt_rows) return true;
    if (!(*mask = glia_calloc((size_t)n_prompt, 1))) return false;
    for (int32_t i = 0; i < n_prompt; i++) (*mask)[i] = glia_rhook_wants(k, GLIA_PHASE_PROMPT, i);
    return true;
}

static bool prepare_edits(glia_slot *s) {
    const glia_request *r = s->req;
    s->n_clean = r->first_edited;
    if (!r->n_edits) return true;
    if (!(s->edit_masks = (uint8_t **)glia_calloc(r->n_edits, sizeof *s->edit_masks))) return false;
    for (size_t i = 0; i < r->n_edits; i++) {
        if (!mask_rows(&r->edits[i].where, r->n_prompt, &s->edit_masks[i])) return false;
    }
    return true;
}

/* What of the graph its hooks need, and whether that is all anybody needs. */
static void prepare_end(const glia_worker *w, glia_slot *s) {
    const glia_request *r = s->req;
    s->end_node = -1;
    for (size_t h = 0; h < r->n_hooks; h++) {
        const glia_place *pl = glia_atlas_place(w->m->atlas, r->hooks[h].point, r->hooks[h].layer);
        if (pl && pl->node > s->end_node) s->end_node = pl->node;
    }
    /* with a row of the first token wanted, nobody who asks for this prompt again can use what it left */
    s->leaves_nothing = r->n_hooks && r->max_tokens == 0 && (r->no_cache || r->first_wanted == 0);
}

static bool prepare_capture(glia_slot *s) {
    const glia_request *r = s->req;
    if (!r->n_hooks) return true;
    s->rows_want = glia_calloc(r->n_hooks, sizeof *s->rows_want);
    s->rows_have = glia_calloc(r->n_hooks, sizeof *s->rows_have);
    s->masks = (uint8_t **)glia_calloc(r->n_hooks, sizeof *s->masks);
    if (!s->rows_want || !s->rows_have || !s->masks || !glia_collect_new(&s->collect, r)) return false;
    bool any = false;
    for (size_t h = 0; h < r->n_hooks; h++) {
        const glia_rhook *k = &r->hooks[h];
        s->rows_want[h] = k->over_rows ? 0 : k->n_prompt_rows; /* what becomes one row needs no frame of the pass */
        any |= s->rows_want[h] > 0;
        if (!mask_rows(k, r->n_prompt, &s->masks[h])) return false;
    }
    return !any || (s->frames = glia_node_frames(r, GLIA_PHASE_PROMPT, s->rows_want, 0));
}

static void admit(glia_worker *w, glia_slot *s, glia_request *r) {
    glia_err err;
    s->req = r, s->state = GLIA_SLOT_PREFILL;
    s->n_generated = 0, s->draw_row = -1, s->n_rows = 0;
    s->n_guess = s->n_guessed = s->n_right = s->predicted_at = 0;
    s->guess_size = r->guess_most < 4 ? r->guess_most : 4;
    s->start_ms = s->prompt_end_ms = glia_now_ms();
    s->last_used = ++w->clock, s->stalled_since = 0;
    s->text.stop = (const char *const *)r->stop, s->text.n_stop = r->n_stop;
    glia_worker_bring_prefix(w, s, r);
    s->shelves = !r->n_hooks && !r->no_cache;
    s->tuning = r->tuning;
    s->n_cached = s->n_past;
    prepare_end(w, s);
    glia_tally_add(&w->m->tally.requests, 1);
    glia_tally_add(&w->m->tally.cached_tokens, s->n_cached);
    if (!prepare_edits(s) || !prepare_capture(s)) {
        glia_slot_fail(s, GLIA_ENOMEM, "out of memory for the activations asked for");
        return;
    }
    if (glia_sampler_new(&s->sampler, &r->sampling, w->m->lm, &err) ||
        glia_constrainer_new(&s->constrainer, r->rules, &err)) {
        glia_slot_fail(s, err.status, err.message);
        return;
    }
    for (int32_t i = 0; i < r->n_prompt; i++) glia_sampler_accept(s->sampler, r->prompt[i]);
}

/* Slots are worth more beside busy ones: neighbours share a pass. */
static int busy_neighbours(const glia_worker *w, int32_t i) {
    return (i > 0 && w->slots[i - 1].state != GLIA_SLOT_IDLE) +
           (i + 1 < w->n_slots && w->slots[i + 1].state != GLIA_SLOT_IDLE);
}

/* The idle slot that saves this request the most work; else one beside busy ones; else the longest unused one. */
static glia_slot *best_slot(glia_worker *w, const glia_request *r) {
    glia_slot *best = NULL;
    int32_t best_n = -1;
    int best_near = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        if (s->state != GLIA_SLOT_IDLE) continue;
        int32_t n = glia_worker_usable_prefix(w, s, r);
        if (n < GLIA_LEAST_GAIN && s->n_past - n >= GLIA_LEAST_GAIN) n = 0; /* would cost somebody more than it saves */
        int near = busy_neighbours(w, i);
        if (n > best_n ||
            (n == best_n && (near > best_near || (near == best_near && s->last_used < best->last_used)))) {
            best = s, best_n = n, best_near = near;
        }
    }
    return best;
}

/* ------------------------------------------------------------------ what waits */

static void start_waiting(const glia_worker *w, glia_request *r) {
    if (r->waits_since > 0) return;
    r->waits_since = glia_now_ms();
    glia_capture_memory_wait(w->m->memory, 1);
}

/* Memory for the activations of a request that could have a slot now.  EBUSY: it stays where it is. */
static glia_status lease(const glia_worker *w, glia_request *r) {
    if (!r->n_hooks) return GLIA_OK;
    glia_status st = glia_lease_take(&r->lease, w->m->memory, r->peak_bytes);
    if (st != GLIA_EBUSY || r->waits_since > 0) return st;
    start_waiting(w, r);
    return glia_lease_take(&r->lease, w->m->memory, r->peak_bytes); /* what was returned before it was counted */
}

static bool waited_too_long(const glia_worker *w, const glia_request *r) {
    return r->waits_since > 0 && glia_now_ms() - r->waits_since >= (double)w->m->params.capture_wait_ms;
}

static bool any_idle(const glia_worker *w) {
    for (int32_t i = 0; i < w->n_slots; i++) {
        if (w->slots[i].state == GLIA_SLOT_IDLE) return true;
    }
    return false;
}

/* Whose turn it is: a step of priority is worth ten seconds of waiting, so that nobody waits for ever. */
static double rank(const glia_request *r) { return r->priority * 10e3 - r->submitted_ms; }

/* What becomes of a request in the inbox; called with its lock held.  OK: *s is its slot.  ECANCELLED, EBUSY, ENOMEM: it
 * ends so.  NULL: all wait.  Who waits for memory lets those pass that need none, but nobody who does. */
static glia_request **next_request(glia_worker *w, bool go_on, glia_request **before, glia_slot **s, glia_status *st) {
    glia_request *last = NULL;
    *before = NULL, *s = NULL;
    for (glia_request **at = &w->m->inbox->first; *at; *before = *at, at = &(*at)->next) {
        *st = glia_request_is_cancelled(*at) ? GLIA_ECANCELLED : waited_too_long(w, *at) ? GLIA_EBUSY : GLIA_OK;
        if (*st) return at;
    }
    if (!go_on || !any_idle(w)) return NULL;
    bool memory_waits = false;
    for (uint64_t look = ++w->clock;;) {
        glia_request **best = NULL;
        last = NULL;
        for (glia_request **at = &w->m->inbox->first; *at; last = *at, at = &(*at)->next) {
            glia_request *r = *at;
            if (r->passed_over == look) continue;
            if (memory_waits && r->n_hooks) {
                r->passed_over = look;
                start_waiting(w, r);
            } else if (!best || rank(r) > rank(*best)) {
                best = at, *before = last;
            }
        }
        if (!best) return NULL;
        *s = best_slot(w, *best);
        if ((*st = lease(w, *best)) != GLIA_EBUSY) return best;
        (*best)->passed_over = look;
        memory_waits = true;
    }
}

static void end_waiting(glia_worker *w, glia_request *r, glia_status st) {
    glia_err e;
    glia_capture_usage u;
    glia_capture_memory_read(w->m->memory, &u);
    if (st == GLIA_EBUSY) {
        glia_fail_at(&e, st, "activation_hooks",
                     "%.1f MiB of activations did not become free within %d s: others hold %.1f of %.1f MiB; try again "
                     "later, or ask for fewer layers, positions or heads",
                     (double)r->peak_bytes / 1048576, w->m->params.capture_wait_ms / 1000, (double)u.leased / 1048576,
                     (double)u.limit / 1048576);
    } else if (st == GLIA_ENOMEM) {
        glia_fail(&e, st, "out of memory for a request");
    } else {
        glia_fail(&e, st, "cancelled before it began");
    }
    glia_request_push_error(r, &e);
    glia_request_unref(r);
}

/* Sleep until something stirs, a request has waited for memory long enough, or a reader has stalled too long while
 * others wait; the inbox's lock is held. */
static void sleep_for_inbox(const glia_worker *w) {
    glia_inbox *b = w->m->inbox;
    double until = 0, at;
    for (const glia_request *r = b->first; r; r = r->next) {
        at = r->waits_since + (double)w->m->params.capture_wait_ms;
        if (r->waits_since > 0 && (until <= 0 || at < until)) until = at;
    }
    for (int32_t i = 0; b->first && i < w->n_slots; i++) {
        at = w->slots[i].stalled_since + (double)w->m->params.stall_ms;
        if (w->slots[i].req && w->slots[i].stalled_since > 0 && (until <= 0 || at < until)) until = at;
    }
    if (until <= 0) {
        pthread_cond_wait(&b->wake, &b->lock);
        return;
    }
    if (glia_now_ms() >= until) {
        b->stirred = true;
        return;
    }
    struct timespec ts = {.tv_sec = (time_t)(until / 1e3)};
    ts.tv_nsec = (long)((until - (double)ts.tv_sec * 1e3) * 1e6);
    if (pthread_cond_timedwait(&b->wake, &b->lock, &ts) == ETIMEDOUT) b->stirred = true;
}

/* Take what waits.  Blocks while there is nothing to do.  False: stop. */
bool glia_worker_take_requests(glia_worker *w, bool idle) {
    glia_inbox *b = w->m->inbox;
    pthread_mutex_lock(&b->lock);
    while (idle && !b->stirred && !b->stopped) sleep_for_inbox(w);
    b->stirred = false;
    for (;;) {
        glia_slot *s;
        glia_status st;
        glia_request *before, **at = next_request(w, !b->stopped, &before, &s, &st);
        if (!at) break;
        glia_request *r = *at;
        if (b->last == r) b->last = before; /* before the lock is let go: submit appends behind it */
        *at = r->next, r->next = NULL;
        b->n_waiting--;
        pthread_mutex_unlock(&b->lock); /* submit must never wait for the engine's work */
        if (r->waits_since > 0) glia_capture_memory_wait(w->m->memory, -1);
        r->waits_since = 0;
        if (st) end_waiting(w, r, st);
        else admit(w, s, r);
        pthread_mutex_lock(&b->lock); /* the list may have grown: look again from its head */
    }
    bool go_on = !b->stopped;
    pthread_mutex_unlock(&b->lock);
    return go_on;
}

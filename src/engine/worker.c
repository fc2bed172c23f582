/* engine/worker.c — the engine thread's loop: whose tokens go into the next pass.
 *
 * Each turn: admit requests, drop cancelled ones, run every decoding slot's next token and then one chunk of prompt,
 * hand out rows and draw tokens after each pass.  A slot whose client is slow stays out.  See worker.h. */
#include "engine/worker.h"
#include "base/err.h"

static bool drop_cancelled(glia_worker *w) {
    bool any = false;
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        if (!s->req || !glia_request_is_cancelled(s->req)) continue;
        glia_slot_fail(s, GLIA_ECANCELLED, "cancelled");
        any = true;
    }
    return any;
}

/* A reader that takes nothing pauses its own request.  It may, as long as nobody waits for the slot.  True: one was freed. */
static bool drop_stalled(glia_worker *w) {
    glia_inbox *b = w->m->inbox;
    double now = glia_now_ms();
    glia_slot *longest = NULL;
    bool any_free = false; /* then who waits, waits for something else */
    for (int32_t i = 0; i < w->n_slots; i++) {
        glia_slot *s = &w->slots[i];
        any_free |= !s->req;
        if (!s->req || !glia_request_is_full(s->req)) s->stalled_since = 0;
        else if (s->stalled_since <= 0) s->stalled_since = now;
        if (s->stalled_since > 0 && (!longest || s->stalled_since < longest->stalled_since)) longest = s;
    }
    if (!longest || any_free || now - longest->stalled_since < (double)w->m->params.stall_ms) return false;
    pthread_mutex_lock(&b->lock);
    bool wanted = b->first != NULL;
    pthread_mutex_unlock(&b->lock);
    if (wanted) glia_slot_fail(longest, GLIA_ETIMEOUT, "nothing of this reply was read for too long while others waited");
    return wanted;
}

static bool is_ready(glia_worker *w, int32_t i, glia_slot_state state) {
    const glia_slot *s = &w->slots[i];
    return i < w->n_slots && s->state == state && !glia_request_is_cancelled(s->req) && !glia_request_is_full(s->req);
}

/* The next token of every decoding slot, in as few passes as neighbours allow.  A prompt that lies between two of them
 * gives one token too, so that they stay one pass. */
static bool decode_passes(glia_worker *w, bool alone) {
    bool any = false;
    for (int32_t i = 0; i < w->n_slots; i++) {
        if (!is_ready(w, i, GLIA_SLOT_DECODE)) continue;
        int32_t last = i;
        for (int32_t k = i + 1; !alone && k < w->n_slots && k - i < w->n_batch; k++) {
            if (!glia_tuning_same(&w->slots[k].tuning, &w->slots[i].tuning)) break;
            if (is_ready(w, k, GLIA_SLOT_DECODE)) last = k;
            else if (!is_ready(w, k, GLIA_SLOT_PREFILL)) break;
        }
        glia_worker_fill(w, i, last, 1 + glia_worker_guess(w, i, last));
        glia_worker_pass(w);
        any = true;
        i = last;
    }
    return any;
}

/* One chunk of prompt: of one slot, or equally much of neighbours that all have a prompt to read. */
static bool prefill_pass(glia_worker *w, bool alone) {
    int32_t first = 0, n = 0;
    while (n < w->n_slots && !is_ready(w, first = (w->turn + n) % w->n_slots, GLIA_SLOT_PREFILL)) n++;
    if (n == w->n_slots) return false;
    int32_t last = first, least = glia_slot_next_chunk(&w->slots[first]);
    while (!alone && last + 1 < w->n_slots && is_ready(w, last + 1, GLIA_SLOT_PREFILL)) {
        if (!glia_tuning_same(&w->slots[last + 1].tuning, &w->slots[first].tuning)) break;
        int32_t chunk = glia_slot_next_chunk(&w->slots[last + 1]), k = last + 2 - first;
        int32_t each = chunk < least ? chunk : least;
        /* no neighbour that would make the pass smaller */
        if (k * (each < w->n_batch / k ? each : w->n_batch / k) <=
            (last + 1 - first) * (least < w->n_batch ? least : w->n_batch))
            break;
        least = each, last++;
    }
    int32_t k = last + 1 - first, most = w->n_batch / k;
    glia_worker_fill(w, first, last, least < most ? least : most);
    w->turn = (last + 1) % w->n_slots;
    glia_worker_pass(w);
    return true;
}

static bool turn(glia_worker *w) {
    bool hooks = false;
    int n_busy = 0;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const glia_request *r = w->slots[i].req;
        hooks |= r && (r->n_hooks || r->n_edits);
        n_busy += r != NULL;
    }
    atomic_store_explicit(&w->m->tally.n_busy, n_busy, memory_order_relaxed);
    bool alone = hooks && w->one_at_a_time;
    bool any = decode_passes(w, alone);
    return prefill_pass(w, alone) || any;
}

void glia_worker_run(glia_worker *w) {
    bool idle = true;
    while (glia_worker_take_requests(w, idle)) {
        bool freed = drop_cancelled(w);
        freed |= drop_stalled(w);
        bool worked = turn(w);
        /* nothing to do, or every client is slow: sleep until something stirs, unless a slot just became free */
        idle = !worked && !freed;
    }
    glia_err e;
    glia_fail(&e, GLIA_ECANCELLED, "the model was closed");
    for (int32_t i = 0; i < w->n_slots; i++) {
        if (w->slots[i].req) glia_slot_fail(&w->slots[i], GLIA_ECANCELLED, e.message);
    }
    glia_inbox *b = w->m->inbox;
    pthread_mutex_lock(&b->lock);
    glia_request *r = b->first;
    b->first = b->last = NULL, b->n_waiting = 0;
    pthread_mutex_unlock(&b->lock);
    while (r) {
        glia_request *next = r->next;
        if (r->waits_since > 0) glia_capture_memory_wait(w->m->memory, -1);
        glia_request_push_error(r, &e);
        glia_request_unref(r);
        r = next;
    }
}

void glia_worker_stop(glia_worker *w) { atomic_store(&w->stopping, true); }

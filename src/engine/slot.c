/* engine/slot.c — see slot.h: how a request leaves its slot, and what it is handed on the way. */
#include "engine/worker.h"
#include "base/err.h"
#include "base/mem.h"

void glia_slot_release(glia_slot *s) {
    for (size_t h = 0; s->masks && h < s->req->n_hooks; h++) glia_free(s->masks[h]);
    glia_free((void *)s->masks);
    for (size_t i = 0; s->edit_masks && i < s->req->n_edits; i++) glia_free(s->edit_masks[i]);
    glia_free((void *)s->edit_masks);
    s->edit_masks = NULL;
    glia_free(s->rows_want);
    glia_free(s->rows_have);
    glia_node_free(s->frames);
    glia_collect_free(s->collect);
    glia_sampler_free(s->sampler);
    glia_constrainer_free(s->constrainer);
    s->constrainer = NULL;
    glia_text_clear(&s->text);
    glia_lease_unref(s->req->lease); /* its events keep theirs */
    s->req->lease = NULL;
    glia_request_unref(s->req);
    s->masks = NULL, s->rows_want = s->rows_have = NULL, s->frames = NULL, s->collect = NULL;
    s->sampler = NULL, s->req = NULL;
    s->state = GLIA_SLOT_IDLE, s->n_rows = 0, s->draw_row = -1;
}

int32_t glia_slot_next_chunk(const glia_slot *s) {
    int32_t left = s->req->n_prompt - s->n_past;
    return left < s->req->prompt_chunk ? left : s->req->prompt_chunk;
}

void glia_slot_fail(glia_slot *s, glia_status st, const char *message) {
    glia_err e;
    glia_fail(&e, st, "%s", message);
    glia_request_push_error(s->req, &e);
    glia_slot_release(s);
}

void glia_slot_push_frames(glia_slot *s) {
    if (!s->frames) return;
    glia_request_push(s->req, s->frames);
    s->frames = NULL;
}

/* Hand out the rows that were gathered over the phase that has just ended.  False: the slot has failed. */
bool glia_slot_push_collected(glia_slot *s, uint32_t ended) {
    glia_err err;
    glia_node *node;
    if (glia_collect_finish(s->collect, ended, s->tokens, s->n_past, &node, &err)) {
        glia_slot_fail(s, err.status, err.message);
        return false;
    }
    if (node) glia_request_push(s->req, node);
    return true;
}

void glia_slot_finish(glia_worker *w, glia_slot *s, glia_finish finish, const char *stop) {
    if (!glia_slot_push_collected(s, GLIA_PHASE_GENERATED)) return;
    double now = glia_now_ms();
    glia_usage u = {.n_prompt = s->req->n_prompt,
                    .n_cached = s->n_cached,
                    .n_generated = s->n_generated,
                    .n_guessed = s->n_guessed,
                    .n_right = s->n_right,
                    .queue_ms = s->start_ms - s->req->submitted_ms,
                    .prompt_ms = s->prompt_end_ms - s->start_ms,
                    .generate_ms = now - s->prompt_end_ms};
    w->out.n = 0, w->out.failed = false;
    glia_text_finish(&s->text, &w->out);
    if (w->out.failed) glia_slot_fail(s, GLIA_ENOMEM, "out of memory at the end of the answer");
    else {
        glia_tally_add(&w->m->tally.finished, 1);
        glia_request_push_done(s->req, finish, stop, w->out.p, w->out.n, &u);
        glia_slot_release(s);
    }
}

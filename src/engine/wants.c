/* engine/wants.c — what a slot's hooks and edits ask of the tap in one pass.
 *
 * Engine thread, between filling the batch and running it.  See worker.h. */
#include "engine/worker.h"
#include "base/mem.h"

/* Writable pointers into the frames of a node that was not pushed yet. */
static float *frame_data(const glia_frame *f) { return (float *)(uintptr_t)f->data; }
static int32_t *frame_positions(const glia_frame *f) { return (int32_t *)(uintptr_t)f->positions; }
static int32_t *frame_tokens(const glia_frame *f) { return (int32_t *)(uintptr_t)f->token_ids; }
static int32_t *frame_indices(const glia_frame *f) { return (int32_t *)(uintptr_t)f->indices; }

static bool want(glia_worker *w, const glia_tap_want *one) {
    if (w->n_wants == w->n_wants_alloc) {
        int32_t n = w->n_wants_alloc ? w->n_wants_alloc * 2 : 64;
        glia_tap_want *p = glia_realloc(w->wants, (size_t)n * sizeof *p);
        if (!p) return false;
        w->wants = p, w->n_wants_alloc = n;
    }
    w->wants[w->n_wants++] = *one;
    return true;
}

/* What hook h of this slot asks of the tap in this pass, but for where the rows go. */
static glia_tap_want want_of(const glia_worker *w, const glia_slot *s, size_t h) {
    const glia_rhook *k = &s->req->hooks[h];
    return (glia_tap_want){.point = k->point,
                           .layer = k->layer,
                           .row0 = s->row0,
                           .n_rows = s->n_rows,
                           .mask = s->state == GLIA_SLOT_PREFILL && s->masks[h] ? s->masks[h] + s->n_past : NULL,
                           .heads = k->heads,
                           .n_heads = k->heads ? k->n_heads : 0,
                           .out_width = k->width,
                           .derive = glia_worker_derivation(w, k->point, k->layer),
                           .reduce = k->reduced ? &k->reduction : NULL};
}

/* Ask the tap for the rows of this slot that become one over several passes.  False: out of memory. */
static bool want_sums(glia_worker *w, glia_slot *s) {
    uint32_t phase = s->state == GLIA_SLOT_DECODE ? GLIA_PHASE_GENERATED : GLIA_PHASE_PROMPT;
    glia_collect_begin(s->collect);
    for (size_t h = 0; s->collect && h < s->req->n_hooks; h++) {
        const glia_rhook *k = &s->req->hooks[h];
        if (!k->over_rows || !(k->phases & phase) || !glia_rhook_count(k, s->n_past, s->n_past + s->n_rows)) continue;
        glia_tap_want one = want_of(w, s, h);
        one.sums = glia_collect_sums(s->collect, h);
        if (!want(w, &one)) return false;
    }
    return true;
}

static bool add_edit(glia_worker *w, const glia_tap_edit *one) {
    if (w->n_edits == w->n_edits_alloc) {
        int32_t n = w->n_edits_alloc ? w->n_edits_alloc * 2 : 64;
        glia_tap_edit *p = glia_realloc(w->edits, (size_t)n * sizeof *p);
        if (!p) return false;
        w->edits = p, w->n_edits_alloc = n;
    }
    w->edits[w->n_edits++] = *one;
    return true;
}

/* Have the tap change this slot's rows of the batch.  False: out of memory. */
bool glia_worker_edit_rows(glia_worker *w, const glia_slot *s) {
    uint32_t phase = s->state == GLIA_SLOT_DECODE ? GLIA_PHASE_GENERATED : GLIA_PHASE_PROMPT;
    for (size_t i = 0; i < s->req->n_edits; i++) {
        const glia_redit *e = &s->req->edits[i];
        const glia_rhook *k = &e->where;
        if (!(k->phases & phase) || !glia_rhook_count(k, s->n_past, s->n_past + s->n_rows)) continue;
        const uint8_t *mask = phase == GLIA_PHASE_PROMPT ? s->edit_masks[i] : NULL;
        const glia_tap_edit one = {.point = k->point,
                                   .layer = k->layer,
                                   .row0 = s->row0,
                                   .n_rows = s->n_rows,
                                   .mask = mask ? mask + s->n_past : NULL,
                                   .first = glia_rhook_count(k, 0, s->n_past),
                                   .heads = k->heads,
                                   .n_heads = k->heads ? k->n_heads : 0,
                                   .channels = k->reduction.channels,
                                   .n_channels = k->reduction.n_channels,
                                   .columns = e->to.positions,
                                   .n_columns = e->to.n_positions,
                                   .col_from = e->to.from,
                                   .col_to = e->to.to,
                                   .rule = &e->rule};
        if (!add_edit(w, &one)) return false;
    }
    return true;
}

/* Ask the tap for this slot's rows of the batch.  False: out of memory. */
bool glia_worker_want_rows(glia_worker *w, glia_slot *s) {
    const glia_request *r = s->req;
    if (!r->n_hooks) return true;
    if (!want_sums(w, s)) return false;
    if (s->state == GLIA_SLOT_DECODE) {
        bool any = false;
        for (size_t h = 0; h < r->n_hooks; h++) {
            s->rows_want[h] = !r->hooks[h].over_rows && glia_rhook_wants(&r->hooks[h], GLIA_PHASE_GENERATED, s->n_past);
            s->rows_have[h] = 0;
            any |= s->rows_want[h] > 0;
        }
        glia_node_free(s->frames);
        s->frames = NULL;
        if (any && !(s->frames = glia_node_frames(r, GLIA_PHASE_GENERATED, s->rows_want, s->n_past))) return false;
    }
    if (!s->frames) return true;
    const glia_frame *f = glia_node_event(s->frames)->u.activations.frames;
    for (size_t h = 0; h < r->n_hooks; h++) {
        if (!s->rows_want[h]) continue;
        glia_tap_want one = want_of(w, s, h);
        int32_t have = s->rows_have[h], n = 0;
        for (int32_t i = 0; i < s->n_rows; i++) {
            if (one.mask && !one.mask[i]) continue;
            frame_positions(f)[have + n] = w->rows[s->row0 + i].pos;
            frame_tokens(f)[have + n] = w->rows[s->row0 + i].token;
            n++;
        }
        one.out_width = f->width, one.n_cols = f->n_cols;
        size_t at = (size_t)have * (size_t)one.out_width;
        one.dst = frame_data(f) + at;
        if (f->indices) one.indices = frame_indices(f) + at;
        if (n && !want(w, &one)) return false;
        f++;
    }
    return true;
}

void glia_slot_count_rows(glia_slot *s) {
    for (size_t h = 0; s->frames && h < s->req->n_hooks; h++) {
        if (!s->rows_want[h]) continue;
        if (s->state == GLIA_SLOT_DECODE || !s->masks[h]) {
            s->rows_have[h] += s->n_rows;
        } else {
            for (int32_t i = 0; i < s->n_rows; i++) s->rows_have[h] += s->masks[h][s->n_past + i];
        }
    }
}

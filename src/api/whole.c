/* api/whole.c — gathering events for replies that are sent in one piece.  The HTTP thread that runs the job's start(). */
#include "api/keep.h"
#include "base/err.h"
#include "base/mem.h"

static glia_status add_frame(glia_job *j, glia_choice *c, const glia_frame *f, glia_err *err) {
    if (f->hook >= j->acts.n) return glia_fail(err, GLIA_EINTERNAL, "activations of a hook that was not asked for");
    if (j->acts.format.merge) {
        glia_act_rows_add(&c->rows[f->hook], f);
        return c->rows[f->hook].data.failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the activations") : GLIA_OK;
    }
    glia_buf *b = &c->entries[j->acts.labels[f->hook].group];
    if (b->n) glia_buf_adds(b, ",");
    glia_act_writer w = {.acts = &j->acts, .frame = f, .choice = c->index};
    while (!glia_act_write(&w, b)) {}
    return b->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the activations") : GLIA_OK;
}

static void add_token(glia_job *j, glia_choice *c, const glia_event *ev) {
    glia_buf_add(&c->text, ev->u.token.text, ev->u.token.n_text);
    if (j->reads == GLIA_READS_CHAT) glia_buf_add(&c->ends, &c->text.n, sizeof c->text.n);
    if (j->gen.sampling.n_logprobs < 0 || ev->u.token.is_eog) return;
    if (j->face->kind == GLIA_API_COMPLETION) {
        glia_add_completion_logprob(c->logprobs, j, c, ev, true);
        return;
    }
    if (c->logprobs[0].n) glia_buf_adds(&c->logprobs[0], ",");
    glia_add_chat_logprob(&c->logprobs[0], j, ev);
}

/* The first token of a prompt has no prediction; a pass that was run again sends its tokens again. */
static void add_prompt_token(glia_job *j, glia_choice *c, const glia_event *ev) {
    if (ev->u.token.index <= c->n_echoed && c->n_echoed) return;
    if (!c->n_echoed) {
        glia_event first = {.kind = GLIA_EVENT_PROMPT_TOKEN};
        first.u.token.id = j->prompts[c->prompt].tokens[0];
        glia_add_completion_logprob(c->logprobs, j, c, &first, false);
    }
    glia_add_completion_logprob(c->logprobs, j, c, ev, true);
    c->n_echoed = ev->u.token.index;
}

glia_status glia_whole_add(glia_job *j, glia_choice *c, const glia_event *ev, glia_err *err) {
    glia_status st = GLIA_OK;
    if (j->acts.n && !c->entries) {
        c->entries = glia_calloc(j->acts.n_keys, sizeof *c->entries);
        c->rows = glia_calloc(j->acts.n, sizeof *c->rows);
        if (!c->entries || !c->rows) return glia_fail(err, GLIA_ENOMEM, "no memory for the activations");
    }
    switch (ev->kind) {
    case GLIA_EVENT_TOKEN: add_token(j, c, ev); break;
    case GLIA_EVENT_PROMPT_TOKEN: add_prompt_token(j, c, ev); break;
    case GLIA_EVENT_ACTIVATIONS:
        for (size_t i = 0; i < ev->u.activations.n_frames && !st; i++)
            st = add_frame(j, c, &ev->u.activations.frames[i], err);
        break;
    case GLIA_EVENT_DONE: glia_buf_add(&c->text, ev->u.done.text, ev->u.done.n_text); break;
    case GLIA_EVENT_PROGRESS:
    case GLIA_EVENT_ERROR: break;
    }
    if (c->text.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the answer");
    return st;
}

static void add_rows(glia_buf *b, glia_job *j, glia_choice *c, size_t h) {
    glia_act_writer w = {.acts = &j->acts, .frame = glia_act_rows_frame(&c->rows[h]), .choice = c->index};
    bool tensor = j->acts.format.encoding >= GLIA_ENC_TENSOR;
    if (w.frame && tensor) w.tensor = glia_whole_tensor(j, c, w.frame);
    if (!w.frame || (tensor && !w.tensor)) {
        b->failed = true;
        return;
    }
    while (!glia_act_write(&w, b)) {}
    if (!tensor) glia_act_rows_clear(&c->rows[h]); /* tensors are written last */
}

/* Hooks of one key are neighbours: *hook runs on from key to key. */
static void add_key(glia_buf *b, glia_job *j, glia_choice *c, size_t key, bool *first) {
    for (size_t h = 0; c->rows && h < j->acts.n; h++) {
        if (j->acts.labels[h].group != key || !c->rows[h].frame.n_rows) continue;
        if (!*first) glia_buf_adds(b, ",");
        *first = false;
        add_rows(b, j, c, h);
    }
    if (!c->entries) return;
    glia_buf *piece = &c->entries[key];
    if (piece->failed) b->failed = true;
    else if (piece->n) {
        if (!*first) glia_buf_adds(b, ",");
        *first = false;
        glia_buf_add(b, piece->p, piece->n);
    }
    glia_buf_clear(piece);
}

/* Each key's entries are freed once they are copied: the reply is never there twice as a whole. */
void glia_whole_activations(glia_buf *b, glia_job *j) {
    if (j->keep) glia_buf_addf(b, ",\"run\":\"%s\"", glia_keep_id(j));
    glia_buf_adds(b, ",\"activations\":{");
    for (size_t k = 0; k < j->acts.n_keys && !b->failed; k++) {
        bool first = true;
        if (k) glia_buf_adds(b, ",");
        glia_json_add_cstr(b, j->acts.keys[k]);
        glia_buf_adds(b, ":[");
        for (size_t i = 0; i < j->n_choices; i++) add_key(b, j, &j->choices[i], k, &first);
        glia_buf_adds(b, "]");
    }
    glia_buf_adds(b, "}");
}

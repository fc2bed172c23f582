/* api/whole.c — gathering events for replies that are sent in one piece.  The HTTP thread that runs the job's start(). */
#include "api/keep.h"
#include "base/err.h"
#include "base/mem.h"

static bool add_frame(const glia_job *j, glia_choice *c, const glia_frame *f) {
    if (!j->acts.format.merge) return glia_buf_add(&c->entries[j->acts.labels[f->hook].group], &f, sizeof f);
    glia_act_rows_add(&c->rows[f->hook], f);
    return !c->rows[f->hook].data.failed;
}

static glia_status add_frames(glia_job *j, glia_choice *c, const glia_event *ev, glia_err *err) {
    if (!c->entries) {
        c->entries = glia_calloc(j->acts.n_keys, sizeof *c->entries);
        c->rows = glia_calloc(j->acts.n, sizeof *c->rows);
        if (!c->entries || !c->rows) return glia_fail(err, GLIA_ENOMEM, "no memory for the activations");
    }
    for (size_t i = 0; i < ev->u.activations.n_frames; i++) {
        const glia_frame *f = &ev->u.activations.frames[i];
        if (f->hook >= j->acts.n) return glia_fail(err, GLIA_EINTERNAL, "activations of a hook that was not asked for");
        if (!add_frame(j, c, f)) return glia_fail(err, GLIA_ENOMEM, "no memory for the activations");
    }
    return GLIA_OK;
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

/* The event's frames are needed until they are sent, and so is it.  Merged rows are copies. */
static glia_status keep_event(const glia_job *j, glia_choice *c, glia_event **ev, glia_err *err) {
    if ((*ev)->kind != GLIA_EVENT_ACTIVATIONS || j->acts.format.merge) return GLIA_OK;
    if (!glia_buf_add(&c->events, ev, sizeof *ev)) return glia_fail(err, GLIA_ENOMEM, "no memory for the activations");
    glia_event_keep(*ev);
    *ev = NULL;
    return GLIA_OK;
}

glia_status glia_whole_add(glia_job *j, glia_choice *c, glia_event *ev, glia_err *err) {
    glia_status st = GLIA_OK;
    switch (ev->kind) {
    case GLIA_EVENT_TOKEN: add_token(j, c, ev); break;
    case GLIA_EVENT_PROMPT_TOKEN: add_prompt_token(j, c, ev); break;
    case GLIA_EVENT_ACTIVATIONS: st = add_frames(j, c, ev, err); break;
    case GLIA_EVENT_DONE: glia_buf_add(&c->text, ev->u.done.text, ev->u.done.n_text); break;
    case GLIA_EVENT_PROGRESS:
    case GLIA_EVENT_ERROR: break;
    }
    if (c->text.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the answer");
    if (!st) st = keep_event(j, c, &ev, err);
    glia_event_free(ev);
    return st;
}

/* ------------------------------------------------------------------ sending */

static bool has_tensors(const glia_job *j) { return j->acts.format.encoding >= GLIA_ENC_TENSOR; }

/* The next frame under this key, choice by choice.  NULL: there is none any more, or (*failed) no memory for it. */
static const glia_frame *next_frame(glia_job *j, bool *failed) {
    glia_body *w = &j->body;
    for (; w->choice < j->n_choices; w->choice++, w->at = 0) {
        glia_choice *c = &j->choices[w->choice];
        if (!c->entries && !c->rows) continue;
        if (!j->acts.format.merge) {
            const glia_frame *const *frames = (const glia_frame *const *)(void *)c->entries[w->key].p;
            if (w->at < c->entries[w->key].n / sizeof *frames) return frames[w->at++];
            continue;
        }
        for (size_t h; (h = w->hook + w->at) < j->acts.n && j->acts.labels[h].group == w->key;) {
            w->at++;
            if (!c->rows[h].frame.n_rows) continue;
            const glia_frame *f = glia_act_rows_frame(&c->rows[h]);
            if (!f) *failed = true;
            return f;
        }
    }
    return NULL;
}

static void open_key(const glia_job *j, glia_body *w, glia_buf *b) {
    if (w->key) glia_buf_adds(b, ",");
    glia_json_add_cstr(b, j->acts.keys[w->key]);
    glia_buf_adds(b, ":[");
    w->in_key = true, w->any = false, w->choice = w->at = 0;
}

static void close_key(const glia_job *j, glia_body *w, glia_buf *b) {
    glia_buf_adds(b, "]");
    /* hooks of one key are neighbours */
    while (w->hook < j->acts.n && j->acts.labels[w->hook].group == w->key) w->hook++;
    w->in_key = false, w->key++;
}

static void next_entry(glia_job *j, glia_body *w, glia_buf *b) {
    const glia_frame *f = next_frame(j, &b->failed);
    if (!f) {
        close_key(j, w, b);
        return;
    }
    const glia_choice *c = &j->choices[w->choice];
    j->writer = (glia_act_writer){.acts = &j->acts, .frame = f, .choice = c->index};
    if (has_tensors(j) && !(j->writer.tensor = glia_whole_tensor(j, c, f))) b->failed = true;
    if (w->any) glia_buf_adds(b, ",");
    w->any = true;
}

/* The next piece of what stands between the braces; true: that was the last. */
static bool add_piece(glia_job *j, glia_buf *b) {
    glia_body *w = &j->body;
    if (j->writer.frame) {
        size_t hook = j->writer.frame->hook;
        if (!glia_act_write(&j->writer, b)) return false;
        j->writer.frame = NULL;
        /* tensors are written last */
        if (j->acts.format.merge && !has_tensors(j)) glia_act_rows_clear(&j->choices[w->choice].rows[hook]);
    } else if (w->in_key) {
        next_entry(j, w, b);
    } else if (w->key < j->acts.n_keys) {
        open_key(j, w, b);
    } else {
        return true;
    }
    return b->failed;
}

void glia_whole_activations(glia_buf *b, glia_job *j) {
    if (j->keep) glia_buf_addf(b, ",\"run\":\"%s\"", glia_keep_id(j));
    glia_buf_adds(b, ",\"activations\":{");
    if (!has_tensors(j)) j->body.split = b->n;
    while (has_tensors(j) && !add_piece(j, b)) {}
    glia_buf_adds(b, "}");
}

void glia_whole_fill(glia_job *j) {
    glia_body *w = &j->body;
    if (j->wire == GLIA_WIRE_SAFETENSORS) {
        j->ended = glia_whole_file_next(j, &j->out);
    } else if (!w->begun) {
        glia_buf_add(&j->out, w->text, w->split);
        w->begun = true;
    } else if (add_piece(j, &j->out)) {
        glia_buf_add(&j->out, w->text + w->split, w->n_text - w->split);
        j->ended = true;
    }
}

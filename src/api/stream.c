/* api/stream.c — replies that are sent as they come: SSE and NDJSON.  The HTTP thread that pulls the job.
 * Events of several choices are taken in turns; what an event looks like is the face's to say. */
#include "api/keep.h"
#include <string.h>

const char *glia_stream_type(const glia_job *j) {
    return j->wire == GLIA_WIRE_SSE      ? "text/event-stream"
           : j->wire == GLIA_WIRE_FRAMES ? "application/vnd.glia.frames"
                                         : "application/x-ndjson";
}

void glia_stream_open_line(glia_job *j, const char *type) {
    if (j->wire == GLIA_WIRE_SSE) glia_buf_adds(&j->out, "data: ");
    if (j->wire == GLIA_WIRE_FRAMES) glia_frames_open(j);
    glia_buf_adds(&j->out, "{");
    if (j->typed && type) glia_buf_addf(&j->out, "\"type\":\"%s\",", type);
}

void glia_stream_open_event(glia_job *j, const char *name) {
    if (j->wire == GLIA_WIRE_SSE) glia_buf_addf(&j->out, "event: %s\ndata: ", name);
    if (j->wire == GLIA_WIRE_FRAMES) glia_frames_open(j);
    glia_buf_addf(&j->out, "{\"type\":\"%s\"", name);
}

void glia_stream_close_line(glia_job *j) {
    if (j->wire != GLIA_WIRE_FRAMES) {
        glia_buf_adds(&j->out, j->wire == GLIA_WIRE_SSE ? "}\n\n" : "}\n");
        return;
    }
    glia_buf_adds(&j->out, "}");
    glia_frames_close(j);
}

/* ------------------------------------------------------------------ activations */

static void open_activation(glia_job *j, const glia_frame *f) {
    if (j->face->named) {
        glia_stream_open_event(j, "activation");
        glia_buf_adds(&j->out, ",");
    } else {
        glia_stream_open_line(j, "activation");
    }
    if (!j->face->named && !j->typed) { /* a chunk without choices: OpenAI clients pass over it */
        glia_add_head(&j->out, j, "chat.completion.activation");
        glia_buf_adds(&j->out, ",\"choices\":[],");
    }
    glia_buf_adds(&j->out, "\"key\":");
    glia_json_add_cstr(&j->out, j->acts.keys[j->acts.labels[f->hook].group]);
    glia_buf_adds(&j->out, ",\"entry\":");
}

/* One piece of one frame; true: all frames of the event are written. */
static bool add_frames(glia_job *j, const glia_event *ev) {
    if (!j->writer.frame) {
        if (j->frame >= ev->u.activations.n_frames) return true;
        const glia_frame *f = &ev->u.activations.frames[j->frame++];
        if (f->hook >= j->acts.n) return false;
        j->writer = (glia_act_writer){.acts = &j->acts, .frame = f, .choice = j->current->index};
        if (j->wire != GLIA_WIRE_FRAMES) open_activation(j, f);
    }
    if (j->wire == GLIA_WIRE_FRAMES) {
        if (!glia_frames_activation(j)) return false;
        j->writer.frame = NULL;
        return j->frame >= ev->u.activations.n_frames;
    }
    if (!glia_act_write(&j->writer, &j->out)) return false;
    j->writer.frame = NULL;
    glia_stream_close_line(j);
    return j->frame >= ev->u.activations.n_frames;
}

/* ------------------------------------------------------------------ events */

static void end_stream(glia_job *j) {
    j->face->end(j);
    if (j->wire == GLIA_WIRE_FRAMES) glia_frames_end(j);
    j->ended = true;
}

static bool end_choice(glia_job *j, glia_choice *c, const glia_event *ev, glia_err *err) {
    if (glia_answer_grow(j, c, ev->u.done.text, ev->u.done.n_text, NULL, true, err)) return false;
    c->ended = true;
    c->finish = ev->u.done.finish, c->usage = ev->u.done.usage;
    if (ev->u.done.stop) glia_buf_adds(&c->stop, ev->u.done.stop);
    j->face->close(j, c);
    if (++j->n_ended < j->n_choices || j->keep) return true;
    end_stream(j);
    return true;
}

/* A failing choice ends the whole stream: an answer that is not complete must not look so. */
static void fail(glia_job *j, const glia_err *err) {
    for (size_t i = 0; i < j->n_choices; i++) glia_request_cancel(j->choices[i].rq);
    j->face->error(j, err);
    if (j->wire == GLIA_WIRE_FRAMES) glia_frames_end(j);
    j->ended = true;
}

/* Write of j->ev what fits one piece; true: the event is done with. */
static bool write_event(glia_job *j, glia_choice *c, const glia_event *ev) {
    glia_err err;
    switch (ev->kind) {
    case GLIA_EVENT_TOKEN: {
        bool logprobs = j->gen.sampling.n_logprobs >= 0 && !ev->u.token.is_eog;
        /* without text it is held back and comes with a later token */
        if ((ev->u.token.n_text || logprobs) &&
            glia_answer_grow(j, c, ev->u.token.text, ev->u.token.n_text, logprobs ? ev : NULL, false, &err))
            fail(j, &err);
        return true;
    }
    case GLIA_EVENT_ACTIVATIONS:
        if (!j->keep) return add_frames(j, ev);
        if (glia_keep_add(j, c, ev, &err)) fail(j, &err);
        return true;
    case GLIA_EVENT_PROMPT_TOKEN: return true;
    case GLIA_EVENT_PROGRESS:
        if (j->face->progress) j->face->progress(j, c, ev->u.progress.n_done, ev->u.progress.n_total);
        return true;
    case GLIA_EVENT_DONE:
        if (!end_choice(j, c, ev, &err)) fail(j, &err);
        return true;
    case GLIA_EVENT_ERROR: fail(j, &ev->u.error); return true;
    }
    return true;
}

/* The next event of any choice, in turns. */
static bool next_event(glia_job *j) {
    for (size_t i = 0; i < j->n_choices && !j->ev; i++) {
        glia_choice *c = &j->choices[(j->next_choice + i) % j->n_choices];
        if (c->ended || !(j->ev = glia_request_next(c->rq, 0))) continue;
        j->current = c;
        j->next_choice = (size_t)(c - j->choices) + 1;
    }
    return j->ev != NULL;
}

/* Every choice has ended and the activations are on their way to the store.  True: the stream has ended. */
static bool end_stored(glia_job *j) {
    glia_err err;
    bool done;
    char *labels;
    size_t n;
    if (glia_keep_run(j, &done, &labels, &n, &err)) {
        fail(j, &err);
        return true;
    }
    if (!done) return false;
    glia_stream_open_line(j, "stored");
    if (!j->typed) { /* a chunk without choices: OpenAI clients pass over it */
        glia_add_head(&j->out, j, "chat.completion.stored");
        glia_buf_adds(&j->out, ",\"choices\":[],");
    }
    glia_buf_add(&j->out, labels, n);
    glia_free(labels);
    glia_stream_close_line(j);
    end_stream(j);
    return true;
}

bool glia_stream_fill(glia_job *j) {
    if (j->keep && j->n_ended == j->n_choices && !j->ev) return end_stored(j);
    if (!j->ev && !next_event(j)) return false;
    glia_choice *c = j->current;
    if (!c->opened) {
        c->opened = true;
        if (j->face->open && j->ev->kind != GLIA_EVENT_ERROR) j->face->open(j, c);
    }
    if (write_event(j, c, j->ev)) {
        glia_event_free(j->ev);
        j->ev = NULL;
        j->frame = 0;
    }
    return true;
}

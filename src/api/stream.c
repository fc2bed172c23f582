/* api/stream.c — replies that are sent as they come: SSE and NDJSON.  The HTTP thread that pulls the job. */
#include "api/job.h"
#include <string.h>

const char *glia_stream_type(const glia_job *j) {
    return j->wire == GLIA_WIRE_SSE ? "text/event-stream" : "application/x-ndjson";
}

/* ------------------------------------------------------------------ lines */

static void open_line(glia_job *j, const char *type) {
    if (j->wire == GLIA_WIRE_SSE) glia_buf_adds(&j->out, "data: ");
    glia_buf_adds(&j->out, "{");
    if (j->typed && type) glia_buf_addf(&j->out, "\"type\":\"%s\",", type);
}

static void close_line(glia_job *j) { glia_buf_adds(&j->out, j->wire == GLIA_WIRE_SSE ? "}\n\n" : "}\n"); }

static void open_chunk(glia_job *j) {
    open_line(j, "token");
    glia_add_head(&j->out, j, j->kind == GLIA_API_CHAT ? "chat.completion.chunk" : "text_completion");
}

/* The rest of a chunk whose text or delta is written. */
static void close_choice(glia_job *j, const char *finish) {
    if (finish) glia_buf_addf(&j->out, ",\"finish_reason\":\"%s\"}]", finish);
    else glia_buf_adds(&j->out, ",\"finish_reason\":null}]");
    if (j->gen.include_usage && !j->typed) glia_buf_adds(&j->out, ",\"usage\":null");
}

/* ------------------------------------------------------------------ tokens */

static void add_logprobs(glia_job *j, const glia_event *ev) {
    bool wanted = ev && j->gen.sampling.n_logprobs >= 0 && !ev->u.token.is_eog;
    if (!wanted) {
        glia_buf_adds(&j->out, ",\"logprobs\":null");
    } else if (j->kind == GLIA_API_CHAT) {
        glia_buf_adds(&j->out, ",\"logprobs\":{\"content\":[");
        glia_add_chat_logprob(&j->out, j, ev);
        glia_buf_adds(&j->out, "],\"refusal\":null}");
    } else {
        glia_buf lists[4] = {{0}};
        glia_add_completion_logprob(lists, j, ev);
        for (int i = 0; i < 4; i++) {
            if (lists[i].failed || !lists[i].p) j->out.failed = true;
        }
        if (!j->out.failed) {
            glia_buf_addf(&j->out, ",\"logprobs\":{\"tokens\":[%s],\"token_logprobs\":[%s],", lists[0].p, lists[1].p);
            glia_buf_addf(&j->out, "\"top_logprobs\":[%s],\"text_offset\":[%s]}", lists[2].p, lists[3].p);
        }
        for (int i = 0; i < 4; i++) glia_buf_clear(&lists[i]);
    }
}

/* role: the first chunk of a chat.  ev: the token that the text came with, NULL when none. */
static void add_text_chunk(glia_job *j, const char *text, size_t n, bool role, const glia_event *ev) {
    open_chunk(j);
    glia_buf_adds(&j->out, ",\"choices\":[{\"index\":0,");
    if (j->kind == GLIA_API_CHAT) {
        glia_buf_adds(&j->out, role ? "\"delta\":{\"role\":\"assistant\",\"content\":" : "\"delta\":{\"content\":");
        glia_json_add_str(&j->out, text, n);
        glia_buf_adds(&j->out, "}");
    } else {
        glia_buf_adds(&j->out, "\"text\":");
        glia_json_add_str(&j->out, text, n);
    }
    add_logprobs(j, ev);
    close_choice(j, NULL);
    close_line(j);
}

static void add_token(glia_job *j, const glia_event *ev) {
    bool logprobs = j->gen.sampling.n_logprobs >= 0 && !ev->u.token.is_eog;
    if (!ev->u.token.n_text && !logprobs) return; /* held back: its text comes with a later one */
    add_text_chunk(j, ev->u.token.text ? ev->u.token.text : "", ev->u.token.n_text, false, ev);
}

static void open_stream(glia_job *j) {
    j->opened = true;
    if (j->kind == GLIA_API_CHAT) add_text_chunk(j, "", 0, true, NULL);
    else if (j->echo) add_text_chunk(j, j->prompt_text.p ? j->prompt_text.p : "", j->prompt_text.n, false, NULL);
}

/* ------------------------------------------------------------------ activations */

static void open_activation(glia_job *j, const glia_frame *f) {
    open_line(j, "activation");
    if (!j->typed) { /* a chunk without choices: OpenAI clients pass over it */
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
        j->writer = (glia_act_writer){.acts = &j->acts, .frame = f};
        open_activation(j, f);
    }
    if (!glia_act_write(&j->writer, &j->out)) return false;
    j->writer.frame = NULL;
    close_line(j);
    return j->frame >= ev->u.activations.n_frames;
}

/* ------------------------------------------------------------------ the end */

static void add_usage_line(glia_job *j, const glia_usage *u) {
    open_line(j, NULL);
    glia_add_head(&j->out, j, j->kind == GLIA_API_CHAT ? "chat.completion.chunk" : "text_completion");
    glia_buf_adds(&j->out, ",\"choices\":[],\"usage\":");
    glia_add_usage(&j->out, u);
    close_line(j);
}

static void add_done(glia_job *j, const glia_event *ev) {
    const char *finish = glia_finish_name(ev->u.done.finish);
    if (ev->u.done.n_text) add_text_chunk(j, ev->u.done.text, ev->u.done.n_text, false, NULL);
    if (j->typed) {
        open_line(j, "done");
        glia_add_head(&j->out, j, "chat.completion.done");
        glia_buf_addf(&j->out, ",\"finish_reason\":\"%s\",\"usage\":", finish);
        glia_add_usage(&j->out, &ev->u.done.usage);
    } else {
        open_chunk(j);
        glia_buf_adds(&j->out, ",\"choices\":[{\"index\":0,");
        glia_buf_adds(&j->out, j->kind == GLIA_API_CHAT ? "\"delta\":{}" : "\"text\":\"\"");
        add_logprobs(j, NULL);
        close_choice(j, finish);
    }
    glia_buf_adds(&j->out, ",\"timings\":");
    glia_add_timings(&j->out, &ev->u.done.usage);
    close_line(j);
    if (j->gen.include_usage && !j->typed) add_usage_line(j, &ev->u.done.usage);
}

static void add_error(glia_job *j, const glia_err *e) {
    open_line(j, "error");
    glia_buf_adds(&j->out, "\"error\":{\"message\":");
    glia_json_add_cstr(&j->out, e->message);
    glia_buf_addf(&j->out, ",\"type\":\"%s\",\"param\":", glia_status_type(e->status));
    glia_json_add_cstr(&j->out, e->param[0] ? e->param : NULL);
    glia_buf_addf(&j->out, ",\"code\":\"%s\"}", glia_status_code(e->status));
    close_line(j);
}

/* Write of j->ev what fits one piece; true: the event is done with. */
static bool write_event(glia_job *j, const glia_event *ev) {
    switch (ev->kind) {
    case GLIA_EVENT_TOKEN: add_token(j, ev); return true;
    case GLIA_EVENT_ACTIVATIONS: return add_frames(j, ev);
    case GLIA_EVENT_PROGRESS: return true;
    case GLIA_EVENT_DONE: add_done(j, ev); break;
    case GLIA_EVENT_ERROR: add_error(j, &ev->u.error); break;
    }
    if (j->wire == GLIA_WIRE_SSE) glia_buf_adds(&j->out, "data: [DONE]\n\n");
    j->ended = true;
    return true;
}

bool glia_stream_fill(glia_job *j) {
    if (!j->ev && !(j->ev = glia_request_next(j->rq, 0))) return false;
    if (!j->opened) open_stream(j);
    if (write_event(j, j->ev)) {
        glia_event_free(j->ev);
        j->ev = NULL;
        j->frame = 0;
    }
    return true;
}

/* api/whole.c — replies that are sent in one piece.  The HTTP thread that runs the job's start(). */
#include "api/job.h"
#include "base/err.h"
#include "base/mem.h"

static glia_status add_frame(glia_job *j, const glia_frame *f, glia_err *err) {
    if (f->hook >= j->acts.n) return glia_fail(err, GLIA_EINTERNAL, "activations of a hook that was not asked for");
    if (j->acts.format.merge) {
        glia_act_rows_add(&j->rows[f->hook], f);
        return j->rows[f->hook].data.failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the activations") : GLIA_OK;
    }
    glia_buf *b = &j->entries[j->acts.labels[f->hook].group];
    if (b->n) glia_buf_adds(b, ",");
    glia_act_writer w = {.acts = &j->acts, .frame = f};
    while (!glia_act_write(&w, b)) {}
    return b->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the activations") : GLIA_OK;
}

glia_status glia_whole_add(glia_job *j, const glia_event *ev, glia_err *err) {
    glia_status st = GLIA_OK;
    if (j->acts.n && !j->entries) {
        j->entries = glia_calloc(j->acts.n_keys, sizeof *j->entries);
        j->rows = glia_calloc(j->acts.n, sizeof *j->rows);
        if (!j->entries || !j->rows) return glia_fail(err, GLIA_ENOMEM, "no memory for the activations");
    }
    switch (ev->kind) {
    case GLIA_EVENT_TOKEN:
        glia_buf_add(&j->text, ev->u.token.text, ev->u.token.n_text);
        if (j->gen.sampling.n_logprobs < 0 || ev->u.token.is_eog) break;
        if (j->kind == GLIA_API_COMPLETION) {
            glia_add_completion_logprob(j->logprobs, j, ev);
            break;
        }
        if (j->logprobs[0].n) glia_buf_adds(&j->logprobs[0], ",");
        glia_add_chat_logprob(&j->logprobs[0], j, ev);
        break;
    case GLIA_EVENT_ACTIVATIONS:
        for (size_t i = 0; i < ev->u.activations.n_frames && !st; i++)
            st = add_frame(j, &ev->u.activations.frames[i], err);
        break;
    case GLIA_EVENT_DONE: glia_buf_add(&j->text, ev->u.done.text, ev->u.done.n_text); break;
    default: break;
    }
    if (j->text.failed) st = glia_fail(err, GLIA_ENOMEM, "no memory for the answer");
    return st;
}

static void add_buf(glia_buf *b, const glia_buf *piece) {
    if (piece->failed) b->failed = true;
    else if (piece->n) glia_buf_add(b, piece->p, piece->n);
}

static void add_logprobs(glia_buf *b, const glia_job *j) {
    static const char *const names[] = {"{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[",
                                        "],\"text_offset\":["};
    glia_buf_adds(b, ",\"logprobs\":");
    if (j->gen.sampling.n_logprobs < 0) {
        glia_buf_adds(b, "null");
    } else if (j->kind == GLIA_API_CHAT) {
        glia_buf_adds(b, "{\"content\":[");
        add_buf(b, &j->logprobs[0]);
        glia_buf_adds(b, "],\"refusal\":null}");
    } else {
        for (int i = 0; i < 4; i++) {
            glia_buf_adds(b, names[i]);
            add_buf(b, &j->logprobs[i]);
        }
        glia_buf_adds(b, "]}");
    }
}

static void add_text(glia_buf *b, const glia_job *j) {
    if (!j->echo) {
        glia_json_add_str(b, j->text.p ? j->text.p : "", j->text.n);
        return;
    }
    glia_buf both = {0};
    add_buf(&both, &j->prompt_text);
    add_buf(&both, &j->text);
    glia_json_add_str(b, both.p ? both.p : "", both.n);
    if (both.failed) b->failed = true;
    glia_buf_clear(&both);
}

static void add_choice(glia_buf *b, const glia_job *j, const glia_event *done) {
    glia_buf_adds(b, ",\"choices\":[{\"index\":0,");
    if (j->kind == GLIA_API_CHAT) {
        glia_buf_adds(b, "\"message\":{\"role\":\"assistant\",\"content\":");
        add_text(b, j);
        glia_buf_adds(b, "}");
    } else {
        glia_buf_adds(b, "\"text\":");
        add_text(b, j);
    }
    add_logprobs(b, j);
    glia_buf_addf(b, ",\"finish_reason\":\"%s\"}]", glia_finish_name(done->u.done.finish));
}

/* Each key's entries are freed once they are copied: the reply is never there twice as a whole. */
static void add_activations(glia_buf *b, glia_job *j) {
    glia_buf_adds(b, ",\"activations\":{");
    size_t hook = 0;
    for (size_t k = 0; k < j->acts.n_keys && !b->failed; k++) {
        if (k) glia_buf_adds(b, ",");
        glia_json_add_cstr(b, j->acts.keys[k]);
        glia_buf_adds(b, ":[");
        bool first = true;
        for (; j->rows && hook < j->acts.n && j->acts.labels[hook].group == k; hook++) {
            if (!j->rows[hook].frame.n_rows) continue;
            if (!first) glia_buf_adds(b, ",");
            first = false;
            if (!glia_act_rows_write(&j->rows[hook], &j->acts, b)) b->failed = true;
            glia_act_rows_clear(&j->rows[hook]);
        }
        if (j->entries) {
            add_buf(b, &j->entries[k]);
            glia_buf_clear(&j->entries[k]);
        }
        glia_buf_adds(b, "]");
    }
    glia_buf_adds(b, "}");
}

char *glia_whole_body(glia_job *j, const glia_event *done, size_t *n) {
    glia_buf b = {0};
    glia_buf_adds(&b, "{");
    glia_add_head(&b, j, j->kind == GLIA_API_CHAT ? "chat.completion" : "text_completion");
    add_choice(&b, j, done);
    glia_buf_adds(&b, ",\"usage\":");
    glia_add_usage(&b, &done->u.done.usage);
    glia_buf_adds(&b, ",\"timings\":");
    glia_add_timings(&b, &done->u.done.usage);
    if (j->typed || j->acts.n) {
        glia_buf_adds(&b, ",\"completion\":");
        add_text(&b, j);
        add_activations(&b, j);
    }
    glia_buf_adds(&b, "}\n");
    return glia_buf_take(&b, n);
}

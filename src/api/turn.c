/* api/turn.c — see turn.h.  The HTTP thread of the job. */
#include "api/turn.h"
#include "api/history.h"
#include "api/job.h"

void glia_turn_clear(glia_turn *t) {
    glia_buf *const bufs[] = {&t->messages, &t->items, &t->echo, &t->text, &t->logprobs, &t->blocks, &t->said};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) glia_buf_clear(bufs[i]);
    *t = (glia_turn){0};
}

/* ------------------------------------------------------------------ blocks */

void glia_block_close(glia_job *j, glia_choice *c) {
    glia_turn *t = &j->turn;
    if (t->open == GLIA_BLOCK_NONE) return;
    if (t->blocks.n) glia_buf_adds(&t->blocks, ",");
    j->face->blocks.close(j, c);
    t->open = GLIA_BLOCK_NONE;
    t->text.n = t->logprobs.n = 0;
    if (t->text.failed || t->blocks.failed || t->said.failed) j->out.failed = true;
}

void glia_block_open(glia_job *j, glia_choice *c, glia_block kind, size_t call) {
    glia_turn *t = &j->turn;
    if (t->open == kind && t->call == call) return;
    glia_block_close(j, c);
    t->open = kind, t->call = call;
    t->n_blocks++;
    j->face->blocks.open(j, c);
}

static void grow(glia_job *j, glia_choice *c, glia_block kind, size_t call, const char *text, size_t n,
                 const glia_event *token) {
    glia_turn *t = &j->turn;
    glia_block_open(j, c, kind, call);
    if (n) glia_buf_add(&t->text, text, n);
    if (kind == GLIA_BLOCK_TEXT && n) glia_buf_add(&t->said, text, n);
    if (n || token) j->face->blocks.grow(j, c, text, n, token);
}

void glia_block_text(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token) {
    if (n || token) grow(j, c, GLIA_BLOCK_TEXT, 0, text, n, token);
}

void glia_block_reasoning(glia_job *j, glia_choice *c, const char *text, size_t n) {
    if (n) grow(j, c, GLIA_BLOCK_REASONING, 0, text, n, NULL);
}

void glia_block_call(glia_job *j, glia_choice *c, size_t k, bool first, const char *args, size_t n) {
    (void)first;
    grow(j, c, GLIA_BLOCK_CALL, k, args, n, NULL);
}

static const char *str(const glia_buf *b) { return b->p ? b->p : ""; }

void glia_blocks_whole(glia_job *j, glia_choice *c, bool some) {
    const glia_buf *said = glia_choice_content(j, c), *thought = &c->answer.reasoning;
    glia_turn *t = &j->turn;
    t->quiet = true;
    glia_block_reasoning(j, c, str(thought), thought->n);
    if (said->n || (some && !thought->n && !c->n_calls)) {
        glia_block_open(j, c, GLIA_BLOCK_TEXT, 0);
        if (c->logprobs[0].n) glia_buf_add(&t->logprobs, c->logprobs[0].p, c->logprobs[0].n);
        glia_block_text(j, c, str(said), said->n, NULL);
    }
    for (size_t k = 0; k < c->n_calls; k++) {
        const glia_buf *args = &c->answer.calls[k].args;
        glia_block_open(j, c, GLIA_BLOCK_CALL, k);
        glia_block_call(j, c, k, true, str(args), args->n);
    }
    glia_block_close(j, c);
}

/* ------------------------------------------------------------------ keeping */

static void add_answer(glia_buf *b, const glia_job *j, const glia_choice *c) {
    glia_buf_adds(b, b->n ? ",{\"role\":\"assistant\",\"content\":" : "{\"role\":\"assistant\",\"content\":");
    glia_json_add_str(b, str(&j->turn.said), j->turn.said.n);
    if (c->answer.reasoning.n) {
        glia_buf_adds(b, ",\"reasoning_content\":");
        glia_json_add_str(b, c->answer.reasoning.p, c->answer.reasoning.n);
    }
    for (size_t k = 0; k < c->n_calls; k++) {
        const glia_call *call = &c->answer.calls[k];
        glia_buf_adds(b, k ? ",{\"id\":" : ",\"tool_calls\":[{\"id\":");
        glia_add_call_id(b, j, c, k);
        glia_buf_adds(b, ",\"type\":\"function\",\"function\":{\"name\":");
        glia_json_add_str(b, str(&call->name), call->name.n);
        glia_buf_adds(b, ",\"arguments\":");
        glia_json_add_str(b, str(&call->args), call->args.n);
        glia_buf_adds(b, "}}");
    }
    glia_buf_adds(b, c->n_calls ? "]}" : "}");
}

void glia_turn_keep(glia_job *j, const glia_choice *c, const char *body, size_t n_body) {
    glia_turn *t = &j->turn;
    if (!t->store || !j->app->history) return;
    add_answer(&t->messages, j, c);
    glia_history_put(j->app->history, j->id, &t->messages, &t->items, body, n_body);
}

/* api/job.h — one generation request between HTTP and engine, from submit to the last byte of its reply.
 *
 * A job is the `self` of a glia_http_generator: made by a handler, then used by one HTTP thread at a time until
 * job_free.  It owns the glia_request and drains it only inside start/read, without waiting; the engine wakes the
 * connection.  What it holds is bounded: one event of a stream (large ones are written in pieces), or one whole reply
 * whose size was checked before the request was submitted.
 *
 *   created ─submit→ running ─DONE/ERROR event→ finished        gone() at any time: cancel; free() follows */
#ifndef GLIA_API_JOB_H
#define GLIA_API_JOB_H
#include "api/activations.h"
#include "api/app.h"
#include "api/params.h"

typedef enum glia_wire { GLIA_WIRE_WHOLE, GLIA_WIRE_SSE, GLIA_WIRE_NDJSON } glia_wire;

typedef struct glia_job {
    glia_app *app;
    glia_model *model;
    glia_model_info info;
    glia_api_kind kind;
    glia_wire wire;
    bool typed; /* with_activations: lines carry "type", the last one is "done" */
    bool echo;  /* completions: the prompt is part of the text */
    char id[40];
    int64_t created;
    glia_gen gen;
    glia_acts acts;
    int32_t *prompt;
    size_t n_prompt;
    glia_buf prompt_text; /* only for echo */
    glia_request *rq;
    glia_http_waker *waker;

    /* the reply so far */
    glia_buf text;        /* whole replies: the answer */
    glia_buf logprobs[4]; /* whole replies: chat uses [0]; completions tokens, token_logprobs, top, offsets */
    size_t text_chars;    /* characters of text in tokens so far: completions' text_offset */
    glia_buf *entries;    /* whole replies: [acts.n_keys] entries of each key */
    glia_act_rows *rows;  /* merged: [acts.n] */

    /* streams */
    glia_buf out; /* bytes to be read, from out_at on */
    size_t out_at;
    glia_event *ev;         /* being written */
    size_t frame;           /* next frame of ev */
    glia_act_writer writer; /* frame under way when writer.frame is not NULL */
    bool opened, ended;
} glia_job;

/* Parse, check, submit, and answer with a generator; on failure with an error. */
void glia_job_serve(glia_app *app, glia_http_request *rq, glia_api_kind kind, bool with_activations);

/* -- whole.c */
/* Take one event into the reply.  ENOMEM. */
glia_status glia_whole_add(glia_job *j, const glia_event *ev, glia_err *err);
/* The body, after a DONE event.  malloc'ed, NULL: no memory. */
char *glia_whole_body(glia_job *j, const glia_event *done, size_t *n);

/* -- stream.c */
const char *glia_stream_type(const glia_job *j);
/* Append the next bytes to j->out, from j->ev or the next event.  False: nothing there yet. */
bool glia_stream_fill(glia_job *j);

/* -- pieces.c: what whole replies and streams have in common */
const char *glia_finish_name(glia_finish f);
void glia_add_usage(glia_buf *b, const glia_usage *u);                  /* {"prompt_tokens":…} */
void glia_add_timings(glia_buf *b, const glia_usage *u);                /* {"prompt_ms":…} */
void glia_add_head(glia_buf *b, const glia_job *j, const char *object); /* "id":…,"object":…,"created":…,"model":… */
/* One token of a chat's logprobs: {"token","logprob","bytes","top_logprobs"}. */
void glia_add_chat_logprob(glia_buf *b, const glia_job *j, const glia_event *ev);
/* One token of a completion's logprobs: an item for each of the four lists. */
void glia_add_completion_logprob(glia_buf lists[4], glia_job *j, const glia_event *ev);

#endif

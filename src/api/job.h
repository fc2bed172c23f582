/* api/job.h — one generation between HTTP and engine, from submit to the last byte of its reply.
 *
 * A job is the `self` of a glia_http_generator: made by a handler, then used by one HTTP thread at a time until
 * job_free.  It owns one glia_request per choice (n > 1, several prompts) and drains them only inside start/read,
 * without waiting; the engine wakes the connection.  What it holds is bounded: one event of a stream (large ones are
 * written in pieces), or one whole reply whose size was checked before the requests were submitted.
 *
 *   created ─submit→ (sources: other prompts run first) ─submit→ running ─DONE/ERROR event of every choice→ finished    gone() at any time: cancel; free() follows
 *
 * What the bytes look like is not known here: every family of endpoints is a glia_face (openai.c, …). */
#ifndef GLIA_API_JOB_H
#define GLIA_API_JOB_H
#include "api/activations.h"
#include "api/app.h"
#include "api/edit_source.h"
#include "api/errors.h"
#include "api/params.h"
#include "api/tools.h"
#include "api/turn.h"

enum { GLIA_MAX_CHOICES = 128 };

/* the first three are whole replies */
typedef enum glia_wire {
    GLIA_WIRE_WHOLE,
    GLIA_WIRE_SAFETENSORS,
    GLIA_WIRE_MEMORY, /* the same file in memory that the client is given */
    GLIA_WIRE_SSE,
    GLIA_WIRE_NDJSON,
    GLIA_WIRE_FRAMES
} glia_wire;
static inline bool glia_wire_is_whole(glia_wire w) { return w <= GLIA_WIRE_MEMORY; }

/* What the model is to read.  Several choices may share one. */
typedef struct glia_prompt {
    int32_t *tokens;
    size_t n;
    glia_buf text; /* only for echo */
} glia_prompt;

/* One answer of a job. */
typedef struct glia_choice {
    int32_t index;
    size_t prompt;
    glia_request *rq;
    glia_buf text;        /* the answer so far (kept for whole replies, and where it must be read) */
    glia_answer answer;   /* what it says (reads other than TEXT) */
    size_t n_content, n_reasoning, n_calls, n_args; /* streams: of it, sent; args of the last call */
    glia_buf logprobs[4]; /* chat uses [0]; completions tokens, token_logprobs, top, offsets */
    size_t text_chars;    /* characters of text in tokens so far: completions' text_offset */
    int32_t n_echoed;     /* prompt tokens whose log-probabilities are written */
    glia_buf events;      /* whole replies: glia_event * that hold activations, kept until these are sent */
    glia_buf *entries;    /* [acts.n_keys] their frames under each key: const glia_frame * */
    glia_act_rows *rows;  /* merged: [acts.n] */
    bool one_call; /* calls behind the first one were left out */
    bool opened, ended;
    glia_finish finish; /* once ended */
    glia_buf stop;      /* the stop string that ended it */
    glia_buf ends;      /* READS_CHAT: size_t of each token, where its text ends in text */
    glia_usage usage;
} glia_choice;

/* How the text of an answer is to be read: as it stands, as our own form of calls, by the model's chat template. */
typedef enum glia_reads { GLIA_READS_TEXT, GLIA_READS_OWN, GLIA_READS_CHAT } glia_reads;

/* A whole reply while it is sent: text up to `split`, the activations, the rest of text; or a file. */
typedef struct glia_body {
    char *text; /* [n_text] what the face made */
    size_t n_text;
    size_t split; /* 0: no activations come in between */
    bool begun, in_key, any; /* any: this key has an entry already */
    size_t key, hook;  /* under way; its first hook */
    size_t choice, at; /* under way; of its entries under the key (merged: of the key's hooks), the next one */
    size_t tensor;     /* files: the next one */
} glia_body;

/* How a family of endpoints looks from outside.  Stream functions append to j->out; failures show in j->out.failed. */
typedef struct glia_face {
    const char *id_prefix;
    glia_api_kind kind;
    bool lms;   /* replies carry stats, model_info and runtime (lms.c) */
    bool named; /* events of streams have names, which their data repeats as "type"; no [DONE] */
    bool hex;   /* ids are 48 hexadecimal digits */
    /* The client's body → that of one of OpenAI's chats, checked under its own names (talk.h).  NULL: it is one. */
    glia_status (*read)(glia_job *j, yyjson_val *root, glia_buf *out, glia_err *err);
    /* What later checks call by OpenAI's names, by this family's: pairs of beginnings, ended by NULL.  May be NULL. */
    const char *const (*names)[2];
    /* More to check once the prompt is there.  May be NULL. */
    glia_status (*check)(glia_job *j, glia_err *err);
    /* The whole reply, once every choice has ended.  NULL: no memory. */
    char *(*whole)(glia_job *j, size_t *n);
    void (*open)(glia_job *j, glia_choice *c); /* stream: before the first bytes of a choice.  May be NULL */
    /* stream: text that became final, with the token it came with (NULL: held back until the end). */
    void (*text)(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token);
    /* stream, chats only: reasoning; a call of a tool (k-th of the answer; first: its name comes too) */
    void (*reasoning)(glia_job *j, glia_choice *c, const char *text, size_t n);
    void (*call)(glia_job *j, glia_choice *c, size_t k, bool first, const char *args, size_t n);
    /* stream: so much of the prompt is read.  NULL: not asked for */
    void (*progress)(glia_job *j, glia_choice *c, int32_t n_done, int32_t n_total);
    void (*close)(glia_job *j, glia_choice *c); /* stream: a choice ended */
    void (*end)(glia_job *j);                   /* stream: all of them did */
    void (*error)(glia_job *j, const glia_err *err);
    glia_block_face blocks; /* families whose answers are rows of blocks (turn.h) */
} glia_face;

struct glia_job {
    const glia_face *face;
    glia_app *app;
    glia_model *model;
    glia_model_info info;
    glia_wire wire;
    double load_seconds; /* the model was loaded for this request; 0: it was there */
    bool typed; /* with_activations: lines carry "type", the last one is "done" */
    bool may_hook; /* the key has the scope hooks: registered ones apply */
    bool echo;  /* completions: the prompt is part of the text */
    char id[64];
    int64_t created;
    glia_gen gen;
    glia_tools tools;
    glia_chat *chat; /* chats: the rendered prompt */
    glia_reads reads;
    bool constrained;
    glia_constraint constraint; /* views into gen, tools, chat */
    const char *stop[GLIA_MAX_STOP + 32]; /* the request's and the chat's */
    size_t n_stop;
    glia_acts acts;
    glia_sources *sources; /* other runs that interventions wait for; NULL: none (any more) */
    glia_turn turn;
    glia_prompt *prompts;
    size_t n_prompts;
    glia_choice *choices;
    size_t n_choices, n_ended;
    glia_http_waker *waker; /* NULL: it was begun without a request */
    void (*wake)(void *ud);  /* called from the engine whenever an event may be ready */
    void *wake_ud;
    void *owner; /* of a job that was begun without a request, for its face */

    glia_body body;

    /* streams */
    glia_buf out; /* bytes to be read, from out_at on */
    size_t out_at;
    size_t next_choice;     /* the choice whose events are looked at next */
    glia_choice *current;   /* whose ev is being written */
    glia_event *ev;         /* being written */
    size_t frame;           /* next frame of ev */
    glia_act_writer writer; /* frame under way when writer.frame is not NULL */
    bool ended;
    struct {                /* binary frames: binary.c */
        size_t begin;       /* where the one under way began in out */
        uint64_t next;      /* number of the next one */
        uint32_t sum;       /* checksum so far of an activation under way */
        bool skip;          /* it is one that the client already has */
        glia_buf zipped;    /* compressed payload under way */
        size_t zipped_at;
    } packet;
    struct glia_whole_tensor *tensors; /* safetensors: [n_tensors], once the activations are written */
    size_t n_tensors;
    void *tensor_names; /* tree of search.h: all names so far */

    struct glia_keep *keep; /* "store": the activations go to the store (keep.h); NULL: they do not */
    glia_http_waker *keep_waker; /* for its thread, until that runs */
};

/* Parse, check, submit, and answer with a generator; on failure with an error. */
void glia_job_serve(glia_app *app, glia_http_request *rq, const glia_face *face, bool with_activations);

/* -- for what needs only the first part of that */
/* A stream without HTTP: parse the body (of one of OpenAI's requests), submit; then glia_stream_fill gives its events to the
 * face, on the caller's thread, whenever wake(ud) was called.  owner: for the face. */
glia_status glia_job_begin(glia_job **out, glia_app *app, const glia_face *face, yyjson_val *root, void *owner,
                           void (*wake)(void *ud), void *ud, glia_err *err);
void glia_job_cancel(glia_job *j);
glia_job *glia_job_new(glia_app *app, const glia_face *face); /* NULL: no memory */
void glia_job_free(glia_job *j);                              /* NULL is fine */
void glia_job_fix_param(const glia_job *j, glia_err *err);    /* inner names of what is wrong → the client's */

/* Prompts counted once, what was generated summed; times are those of the longest. */
glia_usage glia_job_usage(const glia_job *j);

/* -- whole.c: what whole replies of every face have in common */
/* Take one event (and own it) into the reply.  ENOMEM. */
glia_status glia_whole_add(glia_job *j, glia_choice *c, glia_event *ev, glia_err *err);
/* ,"activations":{…} of all choices.  Numbers in text are not written here: glia_whole_fill puts them where this was called. */
void glia_whole_activations(glia_buf *b, glia_job *j);
/* Append the next piece of the reply to j->out; sets j->ended behind the last. */
void glia_whole_fill(glia_job *j);

/* -- answer.c: the text of a choice, read */
glia_status glia_answer_whole(glia_job *j, glia_choice *c, glia_err *err);
const glia_buf *glia_choice_content(const glia_job *j, const glia_choice *c);
/* Take more text (and the token it came with, when its log-probability is wanted) and send what is new through the face. */
glia_status glia_answer_grow(glia_job *j, glia_choice *c, const char *text, size_t n, const glia_event *token, bool last,
                             glia_err *err);
const char *glia_finish_reason(const glia_choice *c); /* "tool_calls", or glia_finish_name */
void glia_add_call_id(glia_buf *b, const glia_job *j, const glia_choice *c, size_t k);

/* -- stream.c */
const char *glia_stream_type(const glia_job *j);
/* Append the next bytes to j->out, from j->ev or the next event.  False: nothing there yet. */
bool glia_stream_fill(glia_job *j);
void glia_stream_open_line(glia_job *j, const char *type);
/* Of faces with named events: {"type":"name" is written. */
void glia_stream_open_event(glia_job *j, const char *name);
void glia_stream_close_line(glia_job *j);

/* -- binary.c: application/vnd.glia.frames and application/vnd.safetensors (docs/FORMATS.md) */
void glia_frames_open(glia_job *j);  /* one frame without payload: open, append JSON to j->out, close */
void glia_frames_close(glia_job *j);
void glia_frames_end(glia_job *j);   /* the last frame of the stream */
/* The next piece of the activation in j->writer; true: it is whole. */
bool glia_frames_activation(glia_job *j);
/* Name the rows of a hook as a tensor of the reply; the rows are kept until the body is made.  NULL: no memory. */
const char *glia_whole_tensor(glia_job *j, const glia_choice *c, const glia_frame *f);
/* The file in pieces: its header from the JSON that the face made, then piece after piece of its numbers (true: the last).
 * *bytes: of header and numbers.  Failures show in b. */
void glia_whole_file_begin(glia_job *j, const char *json, glia_buf *b, uint64_t *bytes);
bool glia_whole_file_next(glia_job *j, glia_buf *b);
/* The file in memory of its own, sealed; json is taken.  *fd: the caller's.  EIO, ENOMEM. */
glia_status glia_whole_memory(glia_job *j, char *json, int *fd, uint64_t *bytes, glia_err *err);
void glia_binary_clear(glia_job *j);
/* All of it through put; false: put failed, or no memory. */
bool glia_whole_emit(glia_job *j, const char *json, bool (*put)(void *ud, const void *p, size_t n), void *ud);
/* Tensor i of j->n_tensors for the catalogue of runs; pointers are borrowed from the job. */
void glia_whole_describe(const glia_job *j, size_t i, glia_run_tensor *out);
bool glia_whole_has_indices(const glia_job *j, size_t i); /* NAME.indices (I32) stands behind it */

/* -- pieces.c: what whole replies and streams have in common */
const char *glia_finish_name(glia_finish f);
void glia_add_usage(glia_buf *b, const glia_job *j);                    /* {"prompt_tokens":…} of all choices */
void glia_add_timings(glia_buf *b, const glia_usage *u);                /* {"prompt_ms":…} */
void glia_add_head(glia_buf *b, const glia_job *j, const char *object); /* "id":…,"object":…,"created":…,"model":… */
/* "error":{…} as every OpenAI-shaped error has it */
void glia_add_error(glia_buf *b, const glia_err *err);
/* One token of a chat's logprobs: {"token","logprob","bytes","top_logprobs"}. */
void glia_add_chat_logprob(glia_buf *b, const glia_job *j, const glia_event *ev);
/* One token of a completion's logprobs: an item for each of the four lists.  A token without a prediction (the first
 * of an echoed prompt) has nulls. */
void glia_add_completion_logprob(glia_buf lists[4], glia_job *j, glia_choice *c, const glia_event *ev, bool predicted);

/* Tokens of the reasoning: those whose text begins before its end. */
int32_t glia_reasoning_tokens(const glia_choice *c);

/* -- openai.c */
extern const glia_face glia_openai_chat, glia_openai_completion;
/* -- messages.c, responses.c, lms_chat.c */
extern const glia_face glia_messages, glia_responses, glia_lms_v1_chat;

/* -- lms.c: what LM Studio's replies say beside */
void glia_add_lms_rest(glia_buf *b, const glia_job *j); /* ,"stats":{…},"model_info":{…},"runtime":{…} */
const char *glia_lms_stop_reason(const glia_job *j, const glia_choice *c);
double glia_lms_rate(const glia_usage *u);              /* tokens a second behind the first one; 0: there is none */

#endif

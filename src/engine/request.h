/* engine/request.h — one request inside the engine: its copied parameters and its queue of events.
 *
 * A glia_request has two owners, the client and the engine; the last one frees it.  Parameters are immutable after
 * submit.  The queue is the only thing both sides touch; it has its own lock.  Knows no llama.h.
 *
 *   queued ──engine admits──► running ──DONE or ERROR pushed──► ended (queue takes no more)
 *      └──────cancel──────► ended with ECANCELLED ◄──cancel──────┘ */
#ifndef GLIA_ENGINE_REQUEST_H
#define GLIA_ENGINE_REQUEST_H
#include "glia.h"
#include <pthread.h>
#include <stdatomic.h>

/* The engine's letter box; refcounted because requests outlive their model.  All fields under lock. */
typedef struct glia_inbox {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int refs;
    glia_request *first, *last; /* submitted, not yet admitted; each holds the engine's reference */
    size_t n_waiting, limit;
    bool stirred; /* something happened since the engine last looked */
    bool stopped; /* takes no more requests */
} glia_inbox;

glia_inbox *glia_inbox_new(size_t limit);
glia_inbox *glia_inbox_ref(glia_inbox *b);
void glia_inbox_unref(glia_inbox *b);
void glia_inbox_stir(glia_inbox *b); /* wake the engine */

/* One hook, checked and resolved. */
typedef struct glia_rhook {
    glia_point point;
    int32_t layer;
    glia_grade grade;
    uint32_t phases;
    bool all;           /* every row of its phases */
    int32_t *positions; /* sorted, unique, absolute; owned; NULL when all */
    int32_t n_positions;
    int32_t *heads; /* owned; NULL: all */
    int32_t n_heads, head_dim;
    int32_t width;         /* floats per delivered row */
    bool outputs;          /* lies behind the last layer's trimming: its rows must be marked as outputs */
    int32_t n_prompt_rows; /* rows it gets from the prompt */
} glia_rhook;

typedef struct glia_node glia_node; /* a queued event with its payload */

struct glia_request {
    atomic_int refs;
    glia_inbox *inbox;
    glia_request *next; /* in the inbox */

    int32_t *prompt;
    int32_t n_prompt;
    int32_t max_tokens;     /* resolved: never -1 */
    glia_sampling sampling; /* bias owned */
    char **stop;
    size_t n_stop;
    glia_rhook *hooks;
    size_t n_hooks;
    bool no_cache, want_progress, whole_reply;
    int32_t first_wanted; /* first prompt position some hook wants; n_prompt when none */
    double submitted_ms;

    atomic_bool cancelled;

    pthread_mutex_t lock; /* queue */
    pthread_cond_t ready;
    glia_node *head, *tail;
    size_t n_bytes, limit;
    bool ended, was_full;
    pthread_mutex_t call_lock; /* held while on_event runs */
    void (*on_event)(void *ud);
    void *ud;
};

/* What submit must know of a model; a view, borrowed during the call. */
typedef struct glia_request_limits {
    int32_t n_ctx, n_vocab, n_layer;
    size_t event_bytes, capture_bytes;
    const char *hooks_refused;
    const glia_model *model; /* for glia_model_point */
    bool (*outputs_only)(const glia_model *m, glia_point p, int32_t layer);
} glia_request_limits;

glia_status glia_request_new(glia_request **out, const glia_request_params *p, const glia_request_limits *l,
                             glia_inbox *inbox, glia_err *err);
glia_status glia_request_measure(const glia_request_params *p, const glia_request_limits *l, uint64_t *bytes,
                                 glia_err *err);
void glia_request_unref(glia_request *r);

/* Does hook h want the row at absolute position pos in this phase? */
bool glia_rhook_wants(const glia_rhook *h, uint32_t phase, int32_t pos);

/* -- the engine's side of the queue */
bool glia_request_is_full(glia_request *r); /* pause: the client has not taken enough yet */
bool glia_request_is_cancelled(const glia_request *r);

/* Events are allocated whole, filled, then pushed; push takes ownership.  NULL: out of memory. */
glia_node *glia_node_token(int32_t id, int32_t index, const char *text, size_t n_text, int32_t n_top);
glia_event *glia_node_event(glia_node *n);
glia_logprob *glia_node_top(glia_node *n); /* the n_top entries of a token event, to fill */
/* Frames of one pass: for every hook h with n_rows[h] > 0, in order; positions, token_ids and data are to be filled
 * through the pointers in the frames (they are writable until pushed). */
glia_node *glia_node_frames(const glia_request *r, uint32_t phase, const int32_t *n_rows);
void glia_node_free(glia_node *n);
void glia_request_push(glia_request *r, glia_node *n);
void glia_request_push_progress(glia_request *r, int32_t n_done, int32_t n_total);
/* The two ends of a queue.  They wait for memory rather than fail: a client must always learn how it ended. */
void glia_request_push_done(glia_request *r, glia_finish finish, const char *stop, const char *text, size_t n_text,
                            const glia_usage *u);
void glia_request_push_error(glia_request *r, const glia_err *err);

double glia_now_ms(void); /* monotonic */
#endif

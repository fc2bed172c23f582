/* engine/request.h — one request inside the engine: its copied parameters and its queue of events.
 *
 * A glia_request has two owners, the client and the engine; the last one frees it.  Parameters are immutable after
 * submit.  The queue is the only thing both sides touch; it has its own lock.  Knows no llama.h.
 *
 *   queued ──engine admits──► running ──DONE or ERROR pushed──► ended (queue takes no more)
 *      └──────cancel──────► ended with ECANCELLED ◄──cancel──────┘ */
#ifndef GLIA_ENGINE_REQUEST_H
#define GLIA_ENGINE_REQUEST_H
#include "engine/grammar/constrain.h"
#include "engine/memory.h"
#include "engine/pages.h"
#include "engine/tuning.h"
#include "glia.h"
#include "tap/edit.h"
#include "tap/reduce.h"
#include <pthread.h>
#include <stdatomic.h>

/* The engine's letter box; refcounted because requests outlive their model.  All fields under lock. */
struct glia_inbox {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int refs;
    glia_request *first, *last; /* submitted, not yet admitted; each holds the engine's reference */
    size_t n_waiting, limit;
    bool stirred; /* something happened since the engine last looked */
    bool stopped; /* takes no more requests */
};

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
    int32_t from, to;   /* rows at from <= position < to, when positions is NULL */
    int32_t *positions; /* sorted, unique, absolute; owned; NULL: the range */
    int32_t n_positions;
    int32_t *heads; /* owned; NULL: all */
    int32_t n_heads, head_dim, group;
    bool reduced;             /* rows are cut or reduced before they are copied on */
    glia_reduction reduction; /* channels owned; directions too, unless an earlier hook has the same */
    bool shares_directions, over_rows, across_phases;
    int32_t width;         /* floats per delivered row; 0 when by_position */
    bool by_position;      /* rows are n_heads × columns, a column per position: as many as a frame's last row has */
    bool outputs;          /* lies behind the last layer's trimming: its rows must be marked as outputs */
    int32_t n_prompt_rows; /* rows it gets from the prompt */
    int32_t last_prompt;   /* position of the last of them, -1: none */
} glia_rhook;

/* One edit, checked and resolved. */
typedef struct glia_redit {
    glia_rhook where; /* reduction: channels only */
    glia_rhook to;       /* attention: which positions attended to, as positions or from … to */
    glia_edit_rule rule; /* rows and when owned */
    int32_t first; /* first position whose row it may change */
} glia_redit;

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
    glia_rules *rules; /* NULL: no constraint */
    glia_rhook *hooks;
    size_t n_hooks;
    glia_redit *edits;
    size_t n_edits;
    int32_t prompt_chunk; /* INT32_MAX: as many as fit */
    uint64_t peak_bytes;  /* most bytes of frames it holds at once; 0: no hooks */
    glia_lease *lease;    /* on them, from admission until the end; the engine's */
    glia_pages *pages;    /* where they lie; NULL: on the heap */
    double waits_since;   /* for the lease; 0: not waiting.  The engine's */
    glia_speculate speculate; /* resolved: OFF, NGRAM or DRAFT */
    int32_t guess_most;
    int32_t *predicted;
    int32_t n_predicted;
    int32_t priority;
    glia_tuning tuning;
    double busy_beside;
    uint64_t passed_over; /* the look at the inbox in which memory kept it waiting.  The engine's */
    bool no_cache, want_progress, whole_reply, prompt_logprobs;
    bool wants_columns;   /* some hook's columns are positions: the cache's cells must be known */
    int32_t first_wanted; /* first prompt position some hook wants; n_prompt when none */
    int32_t first_edited; /* first position whose KV an edit may have touched; INT32_MAX when none */
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
    size_t event_bytes;
    glia_speculate speculate; /* the default */
    bool has_draft, speculates;
    int32_t n_adapters;
    glia_capture_memory *memory;
    glia_pages *pages; /* NULL: frames lie on the heap */
    const char *hooks_refused;
    const glia_model *model; /* for glia_model_point */
    bool (*outputs_only)(const glia_model *m, glia_point p, int32_t layer);
    const char *(*refuses_edit)(const glia_model *m, glia_point p, int32_t layer); /* why (static); NULL: it can be changed */
} glia_request_limits;

glia_status glia_request_new(glia_request **out, const glia_request_params *p, const glia_request_limits *l,
                             glia_inbox *inbox, glia_err *err);
/* total: of all rows; peak (may be NULL): the most that exist at once. */
glia_status glia_request_measure(const glia_request_params *p, const glia_request_limits *l, uint64_t *total,
                                 uint64_t *peak, glia_err *err);
void glia_request_unref(glia_request *r);

/* Does hook h want the row at absolute position pos in this phase? */
bool glia_rhook_wants(const glia_rhook *h, uint32_t phase, int32_t pos);
/* Check and copy channels and reduction of a hook whose heads are copied; sets width (reduction.c).
 *   in_before, before: the hook in front of it as asked and as copied, to share equal directions; NULL: none
 * On failure what was copied stays in *out. */
glia_status glia_rhook_copy_reduce(glia_rhook *out, const glia_hook *in, const glia_hook *in_before,
                                   const glia_rhook *before, const char *where, glia_err *err);
void glia_rhook_clear(glia_rhook *h);
/* Check and copy a hook.  where: its name for errors; before: see above. */
glia_status glia_rhook_copy(glia_rhook *out, const glia_hook *in, const char *where, const glia_rhook *before,
                            int32_t n_prompt, const glia_request_limits *l, glia_err *err);
/* The absolute positions that a hook names, sorted and unique; none named: from 0 to INT32_MAX. */
glia_status glia_rhook_copy_positions(glia_rhook *out, const glia_hook *in, const char *where, int32_t n_prompt,
                                      int32_t n_ctx, glia_err *err);
/* edit.c; on failure what was copied stays in *out, for clear. */
glia_status glia_redit_copy(glia_redit *out, const glia_edit *in, size_t index, int32_t n_prompt,
                            const glia_request_limits *l, glia_err *err);
void glia_redit_clear(glia_redit *e);
/* from <= i < to of n things, `most` of which there may be in the end (reduction.c). */
glia_status glia_range_resolve(const glia_range *in, int32_t n, int32_t most, const char *what, const char *where,
                               int32_t *from, int32_t *to, glia_err *err);
/* How many of the rows at from <= position < to its positions or range name, whatever their phase. */
int32_t glia_rhook_count(const glia_rhook *h, int32_t from, int32_t to);

/* -- the engine's side of the queue */
bool glia_request_is_full(glia_request *r); /* pause: the client has not taken enough yet */
bool glia_request_is_cancelled(const glia_request *r);

/* Events are allocated whole, filled, then pushed; push takes ownership.  NULL: out of memory. */
glia_node *glia_node_token(int32_t id, int32_t index, const char *text, size_t n_text, int32_t n_top);
glia_event *glia_node_event(glia_node *n);
glia_logprob *glia_node_top(glia_node *n); /* the n_top entries of a token event, to fill */
glia_node *glia_node_prompt_token(int32_t id, int32_t index, int32_t n_top);
/* Frames of one pass: for every hook h with n_rows[h] > 0, in order; positions, token_ids, data and indices are to be
 * filled through the pointers in the frames (they are writable until pushed).  n_rows counts rows that go in: a hook
 * that reduces over rows gets one row of data.  pos: position of the row of a generated token. */
glia_node *glia_node_frames(const glia_request *r, uint32_t phase, const int32_t *n_rows, int32_t pos);
void glia_node_free(glia_node *n);
void glia_request_push(glia_request *r, glia_node *n);
void glia_request_push_progress(glia_request *r, int32_t n_done, int32_t n_total);
/* The two ends of a queue.  They wait for memory rather than fail: a client must always learn how it ended. */
void glia_request_push_done(glia_request *r, glia_finish finish, const char *stop, const char *text, size_t n_text,
                            const glia_usage *u);
void glia_request_push_error(glia_request *r, const glia_err *err);

double glia_now_ms(void); /* monotonic */
#endif

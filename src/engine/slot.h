/* engine/slot.h — one place for a running request: its sequence in the KV cache, what it has read and drawn so far.
 *
 * Owned by the worker, engine thread only.  Knows no HTTP, no JSON, no other slot.
 *
 *   IDLE ──admit──► PREFILL ──last prompt chunk──► DECODE ──stop, length──► IDLE
 *     ▲                └───────── cancel, error ──────┴──────────────────────┘
 *
 * What holds between turns: tokens[0 .. n_past) is exactly what lies in the KV cache for its sequence. */
#ifndef GLIA_ENGINE_SLOT_H
#define GLIA_ENGINE_SLOT_H
#include "engine/collect.h"
#include "engine/guess.h"
#include "engine/sampler.h"
#include "engine/text.h"

typedef enum glia_slot_state { GLIA_SLOT_IDLE, GLIA_SLOT_PREFILL, GLIA_SLOT_DECODE } glia_slot_state;

typedef struct glia_slot {
    int32_t id; /* = sequence id in the KV cache */
    glia_slot_state state;
    glia_request *req; /* the engine's reference */

    int32_t *tokens; /* [n_ctx] what lies in the cache: prompt, then generated tokens that were fed back */
    int32_t n_past;

    int32_t next_token;  /* drawn, not yet fed */
    int32_t n_generated; /* drawn tokens */
    int32_t n_cached;
    int32_t guess[GLIA_GUESS_MOST]; /* what may follow next_token */
    int32_t n_guess;                /* of this turn; the pass may take fewer */
    int32_t guess_size;             /* how many are worth guessing */
    int32_t n_guessed, n_right;     /* of the request */
    int32_t predicted_at;           /* how far its prediction has come true */
    glia_sampler *sampler;
    glia_constrainer *constrainer; /* NULL: any text */
    glia_text text;

    glia_node *frames;     /* of the pass being captured; pushed when the pass is whole */
    int32_t *rows_want;    /* [n_hooks] rows of `frames` per hook */
    int32_t *rows_have;    /* [n_hooks] of these, already there */
    uint8_t **edit_masks;  /* [n_edits] prompt rows changed, NULL: all */
    int32_t n_clean;       /* of what lies in the cache, so much was computed whole and without any edit */
    int32_t end_node;      /* last node of the graph that some hook needs; -1: none */
    bool leaves_nothing;   /* its cache will not be used again: passes may end before it is whole */
    glia_tuning tuning;    /* what lies in the cache was computed with */
    bool shelves;          /* worth keeping when another request takes the slot */
    uint8_t **masks;       /* [n_hooks] prompt rows wanted, NULL: all */
    glia_collect *collect; /* rows that become one over several passes; NULL: none */

    int32_t row0, n_rows; /* its rows in the batch of this turn; n_rows 0: not in it */
    int32_t draw_row;     /* batch row to draw from, -1: none */
    uint64_t last_used;
    double start_ms, prompt_end_ms;
    double stalled_since; /* its queue is full; 0: it is not */
} glia_slot;

void glia_slot_release(glia_slot *s); /* its request is gone, what lies in the cache stays */
void glia_slot_fail(glia_slot *s, glia_status st, const char *message);
int32_t glia_slot_next_chunk(const glia_slot *s); /* prompt tokens that it would take into one pass */
void glia_slot_push_frames(glia_slot *s);
/* Hand out the rows that were gathered over the phase that has just ended.  False: the slot has failed. */
bool glia_slot_push_collected(glia_slot *s, uint32_t ended);

#endif

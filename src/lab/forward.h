/* lab/forward.h — many prompts through a model, each with hooks and edits of its own; the rows stay in memory.
 *
 * The base of everything that asks the model more than one question: sweeps, circuits, attention patterns, probes.
 * Blocking; the caller's thread (never an HTTP handler's: use a task).  Cases are submitted together, so that the
 * engine batches them beside whatever else it serves.  Knows glia.h only: no HTTP, no JSON, no llama.h.
 *
 *   glia_hook hook = {.point = GLIA_POINT_Z, .layer = 3, .phases = GLIA_PHASE_PROMPT};
 *   glia_forward_case c = {.tokens = ids, .n_tokens = n, .hooks = &hook, .n_hooks = 1};
 *   glia_forward *f;
 *   st = glia_forward_run(&f, model, &(glia_forward_params){.cases = &c, .n_cases = 1}, &err);
 *   const glia_rows *z = glia_forward_rows(f, 0, 0);        → z->data[row * z->width + i]
 *   glia_forward_free(f);
 *
 * Logits are a hook too: point GLIA_POINT_LM_HEAD, positions {-1} for the last row, channels for some tokens only. */
#ifndef GLIA_LAB_FORWARD_H
#define GLIA_LAB_FORWARD_H
#include "glia.h"

/* One prompt.  Everything is borrowed until glia_forward_run returns. */
typedef struct glia_forward_case {
    const int32_t *tokens; /* [n_tokens] */
    size_t n_tokens;
    const glia_hook *hooks;
    size_t n_hooks;
    const glia_edit *edits;
    size_t n_edits;
    int32_t max_tokens; /* 0: only the prompt; else so many more, greedy */
    bool ignore_eos;    /* generate max_tokens whatever they are */
    bool no_cache;      /* compute the whole prompt (cached keys and values of an equal prefix are used otherwise) */
} glia_forward_case;

/* What one hook of one case gave: the rows of its prompt, then those of the generated tokens.  Fields as in glia_frame.
 * A hook that no row answered has n_rows 0 and data NULL.  Reductions over rows give one row for each phase. */
typedef struct glia_rows {
    glia_point point;
    int32_t layer; /* -1 for points without one */
    glia_grade grade;
    glia_reduce_op reduce;
    int32_t n_rows, width;
    int32_t n_heads, head_dim, group;
    int32_t n_cols; /* attention: a row is [n_heads, n_cols]; rows of earlier positions are filled up with 0 or -infinity */
    int32_t n_positions;
    const int32_t *heads;     /* [n_heads] */
    const int32_t *positions; /* [n_positions]; n_positions = n_rows unless reduced over rows */
    const int32_t *token_ids; /* [n_positions] */
    const float *data;        /* [n_rows, width] row-major */
    const int32_t *indices;   /* TOPK: [n_rows, width]; else NULL */
} glia_rows;

typedef struct glia_forward_result {
    const glia_rows *rows; /* [n_hooks], one for each hook of the case, in their order */
    size_t n_hooks;
    const int32_t *tokens; /* [n_tokens] generated, an end-of-generation token included */
    size_t n_tokens;
    glia_usage usage;
} glia_forward_result;

typedef struct glia_forward_params {
    const glia_forward_case *cases;
    size_t n_cases;
    /* On the caller's thread, after every case and at least every 100 ms.  False cancels.  May be NULL. */
    bool (*on_progress)(void *ud, size_t n_done, size_t n_total);
    /* Takes the result of a case when it has ended, in any order; it is freed on return, so that memory is bounded by
     * what runs at once.  An error ends the whole.  NULL: all results are kept until glia_forward_free. */
    glia_status (*on_case)(void *ud, size_t index, const glia_forward_result *r, glia_err *err);
    void *ud;
    size_t *failed;     /* the case that an error is of, SIZE_MAX: of none; may be NULL */
    size_t n_in_flight; /* cases submitted at once; 0: two for each slot of the model */
} glia_forward_params;

typedef struct glia_forward glia_forward;

/* Run all cases.  The rows that are kept are leased from the model's capture memory until glia_forward_free.
 * Errors: what glia_request_submit answers for any case; ETOOLARGE: the rows of all cases together are more than the
 * capture memory; EBUSY: others hold too much of it; ECANCELLED: on_progress said so; an error that a case ended with.
 * On failure *out is NULL, everything that ran was cancelled and is freed. */
glia_status glia_forward_run(glia_forward **out, glia_model *m, const glia_forward_params *p, glia_err *err);
void glia_forward_free(glia_forward *f); /* NULL is fine */

/* Results, until glia_forward_free; not with on_case. */
const glia_forward_result *glia_forward_get(const glia_forward *f, size_t index);
const glia_rows *glia_forward_rows(const glia_forward *f, size_t index, size_t hook);

#endif

/* engine/worker.h — the engine thread's state, and what its parts offer each other.
 *
 * Owns llama_context, tap, batch and slots of one model.  Engine thread only.  Knows no HTTP, no JSON.
 *
 *   setup.c, dry_run.c   made at load              batch.c   which tokens run       pass.c   run them, believe the rows
 *   admit.c, prefix.c    from inbox to slot        wants.c   which rows are taken   draw.c   tokens and text
 *   worker.c             the loop over all this    slot.c    how a request leaves its slot */
#ifndef GLIA_ENGINE_WORKER_H
#define GLIA_ENGINE_WORKER_H
#include "engine/drafter.h"
#include "engine/model.h"
#include "engine/shelf.h"
#include "engine/slot.h"

struct glia_worker {
    glia_model *m;
    struct llama_context *ctx;
    llama_memory_t mem;
    glia_tap *tap;
    glia_derive lens, *heads_out; /* how derived points are made; heads_out: [n_layer] */
    glia_slot *slots;
    struct llama_adapter_lora *adapters[GLIA_MAX_ADAPTERS]; /* the model's */
    glia_tuning tuning; /* the context's now */
    glia_drafter *drafter; /* NULL: no draft model */
    glia_pace pace;    /* of copying states and of reading prompts */
    glia_shelf *shelf; /* prompts that left their slot; NULL: none are kept */
    int32_t n_slots, n_batch, n_outputs_max;
    int32_t n_processors, n_threads; /* n_threads: the context's now */
    bool looks_away;    /* passes without hooks run without the callback */
    bool one_at_a_time; /* recurrent state: a pass with hooks holds one sequence */
    bool cuts_prefix;   /* a cached sequence may be cut and continued anywhere, not only at its end */

    struct llama_batch batch;
    glia_tap_row *rows; /* [n_batch] mirror of the batch for the tap */
    glia_tap_want *wants;
    int32_t n_wants, n_wants_alloc;
    glia_tap_edit *edits;
    int32_t n_edits, n_edits_alloc;
    llama_token_data *scratch; /* [n_vocab] */
    uint64_t clock;
    int32_t turn;
    bool was_aborted;
    char broken[160]; /* llama.cpp failed an assertion: nothing is computed any more; "" while it is well */
    atomic_bool stopping;
    glia_buf out; /* text on its way out, reused */
};

static inline void glia_tally_add(atomic_uint_fast64_t *t, int32_t n) {
    atomic_fetch_add_explicit(t, (uint64_t)n, memory_order_relaxed);
}

/* -- dry_run.c */
glia_status glia_worker_map(glia_worker *w, glia_err *err);
bool glia_worker_find_weights(glia_worker *w); /* of derived points; those that the file does not give are absent */
bool glia_worker_prove(glia_worker *w);        /* true: the dry run ran and was judged */
const glia_derive *glia_worker_derivation(const glia_worker *w, glia_point p, int32_t layer); /* NULL: read as it is */

/* -- prefix.c */
enum { GLIA_LEAST_GAIN = 32 }; /* tokens: fewer are computed as fast as a state is copied */
bool glia_worker_cut(glia_worker *w, int32_t seq, int32_t from); /* false: this model's state cannot be cut there */
int32_t glia_worker_usable_prefix(const glia_worker *w, const glia_slot *s, const glia_request *r); /* of its own cache */
/* The slot's cache becomes the longest beginning of the prompt that can be had; what it loses may go to the shelf. */
void glia_worker_bring_prefix(glia_worker *w, glia_slot *s, const glia_request *r);
void glia_worker_forget(glia_worker *w, glia_slot *s, int32_t keep); /* all but the first `keep` positions */

/* -- admit.c */
bool glia_worker_take_requests(glia_worker *w, bool idle); /* blocks while idle; false: stop */

/* -- adapters.c */
glia_status glia_worker_load_adapters(glia_worker *w, glia_err *err);
void glia_worker_tune(glia_worker *w, const glia_tuning *t); /* before a pass */

/* -- batch.c, wants.c */
void glia_worker_fill(glia_worker *w, int32_t first, int32_t last, int32_t n);
bool glia_worker_want_rows(glia_worker *w, glia_slot *s);       /* false: out of memory */
bool glia_worker_edit_rows(glia_worker *w, const glia_slot *s); /* false: out of memory */
void glia_slot_count_rows(glia_slot *s);                        /* the pass was proven: its rows are there */

/* -- speculate.c: guesses that every decoding one of the slots first..last brings into a pass */
int32_t glia_worker_guess(glia_worker *w, int32_t first, int32_t last);

/* -- pass.c, draw.c, slot.c */
int32_t glia_worker_decode(glia_worker *w); /* llama_decode's answer */
/* Of a pass beside which its callers keep `beside` processors busy. */
int32_t glia_pass_threads(int32_t threads, int32_t processors, double beside);
void glia_worker_pass(glia_worker *w);
void glia_worker_draw(glia_worker *w, glia_slot *s);
bool glia_worker_push_prompt_logprobs(glia_worker *w, const glia_slot *s, int32_t pos0); /* false: out of memory */
void glia_slot_finish(glia_worker *w, glia_slot *s, glia_finish finish, const char *stop);

#endif

/* tap/tap.h — reads rows of activations out of running graphs, for the requests of one batch.
 *
 * Owns the atlases of one context and the state of one forward pass.  Engine thread only: arm before llama_decode,
 * disarm after it; in between the scheduler calls glia_tap_on_node on the same thread.
 * Knows ggml; knows no llama.h, no request, no JSON.
 *
 *   idle ──arm──► armed ──first node asked──► running ──last node──► armed (run counted)
 *     ▲                                          │ mismatch: `strange` is set, nothing more is copied in this pass
 *     └───────────────── disarm ◄────────────────┘
 *
 * Invariants: disarm answers OK only when the token ids, positions, cache streams and output rows of this very run were
 * read back and equal the planned batch; the callback always returns true in its fetch phase (returning false would let the decode answer
 * success with garbage); with nothing armed the callback is one test. */
#ifndef GLIA_TAP_TAP_H
#define GLIA_TAP_TAP_H
#include "glia.h"
#include "tap/atlas.h"

struct ggml_tensor;
typedef struct glia_tap glia_tap;

/* One row of the planned batch, in batch order.  Rows of one sequence must be neighbours. */
typedef struct glia_tap_row {
    int32_t token, pos;
    int32_t seq; /* sequence = stream of the KV cache */
    bool output;
} glia_tap_row;

/* Copy one point of one request's rows.  Filled by the caller except n_copied. */
typedef struct glia_tap_want {
    glia_point point;
    int32_t layer;
    int32_t row0, n_rows; /* batch rows [row0, row0 + n_rows) */
    const uint8_t *mask;  /* [n_rows], 1: copy this row.  NULL: all.  Borrowed until disarm */
    const int32_t *heads; /* NULL: all heads.  Borrowed until disarm */
    int32_t n_heads;
    int32_t out_width; /* floats per copied row */
    float *dst;        /* rows one after another in batch order; room for every wanted row */
    int32_t n_copied;  /* rows copied in this pass */
    int32_t next;      /* internal: next want of the same node, -1: none */
} glia_tap_want;

typedef enum glia_tap_result {
    GLIA_TAP_OK,           /* every wanted row was proven and copied */
    GLIA_TAP_NEW_TOPOLOGY, /* the graph is not the one in the atlas: read it anew, run again */
    GLIA_TAP_UNPROVEN,     /* rows are not the planned ones: refuse */
    GLIA_TAP_NOMEM
} glia_tap_result;

glia_tap *glia_tap_new(void);                                /* NULL: out of memory */
void glia_tap_set_base(glia_tap *t, const glia_atlas *base); /* the atlas made at load, borrowed for the tap's life */
void glia_tap_free(glia_tap *t);

/* Use `at` instead of base for passes of one token (many = false) or several, with or without output rows.  Takes
 * ownership. */
void glia_tap_take_atlas(glia_tap *t, bool many, bool outputs, glia_atlas *at);

/* rows, wants: borrowed until disarm. */
void glia_tap_arm(glia_tap *t, const glia_tap_row *rows, int32_t n_rows, glia_tap_want *wants, int32_t n_wants);
glia_tap_result glia_tap_disarm(glia_tap *t, char why[160]);

/* The scheduler's eval callback; ud is the glia_tap. */
bool glia_tap_on_node(struct ggml_tensor *node, bool ask, void *ud);
#endif

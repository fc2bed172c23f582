/* tap/tap.h — reads rows of activations out of running graphs, for the requests of one batch.
 *
 * Owns the state of one forward pass; borrows the atlas.  Engine thread only: arm before llama_decode,
 * disarm after it; in between the scheduler calls glia_tap_on_node on the same thread.
 * Knows ggml; knows no llama.h, no request, no JSON.
 *
 *   idle ──arm──► armed ──first node asked──► running ──last node──► armed (run counted)
 *     ▲                                          │ mismatch: `strange` is set, nothing more is copied in this pass
 *     └───────────────── disarm ◄────────────────┘
 *
 * Invariants: disarm answers OK only when the token ids, positions, cache streams and output rows of this very run were
 * read back and equal the planned batch; with nothing armed the callback is one test.  In its fetch phase the callback
 * returns true: false lets the decode answer success with garbage behind that node.  The one exception is asked for with
 * may_end, by a caller that reads nothing behind it. */
#ifndef GLIA_TAP_TAP_H
#define GLIA_TAP_TAP_H
#include "glia.h"
#include "tap/atlas.h"
#include "tap/cells.h"
#include "tap/derive.h"
#include "tap/edit.h"
#include "tap/reduce.h"
#include "tap/staging.h"

struct ggml_tensor;
typedef struct glia_tap glia_tap;

/* Copy one point of one request's rows.  Filled by the caller except n_copied. */
typedef struct glia_tap_want {
    glia_point point;
    int32_t layer;
    int32_t row0, n_rows; /* batch rows [row0, row0 + n_rows) */
    const uint8_t *mask;  /* [n_rows], 1: copy this row.  NULL: all.  Borrowed until disarm */
    const int32_t *heads; /* NULL: all heads.  Borrowed until disarm */
    int32_t n_heads;
    int32_t out_width; /* floats per copied row */
    int32_t n_cols;    /* attention points: columns per head, out_width = heads * n_cols; else 0 */
    bool optional;     /* when its rows cannot be proven, refused is set and the others are still served */
    const char *refused; /* why (static), NULL when they were served */
    float *dst;        /* rows one after another in batch order; room for every wanted row */
    const glia_reduction *reduce; /* NULL: rows as they are.  Borrowed until disarm, like the two below */
    int32_t *indices;             /* top-k: [rows, k], as dst */
    glia_sums *sums;              /* reduction over rows: takes the rows instead of dst; emptied by arm */
    const glia_derive *derive; /* derived points: how their rows are made; borrowed until disarm.  Else NULL */
    int32_t n_copied;  /* rows copied in this pass */
    int32_t next;      /* internal: next want of the same node, -1: none */
} glia_tap_want;

typedef enum glia_tap_result {
    GLIA_TAP_OK,           /* every wanted row was proven and copied */
    GLIA_TAP_NEW_TOPOLOGY, /* the graph is not the one in the atlas: nothing of it was copied, refuse */
    GLIA_TAP_UNPROVEN,     /* rows are not the planned ones: refuse */
    GLIA_TAP_NOMEM
} glia_tap_result;

glia_tap *glia_tap_new(void); /* NULL: out of memory */
/* at: made at load, borrowed for the tap's life.  windows: some layers attend to the last positions only.  n_threads: for
 * attention that is computed once more.  False: out of memory. */
bool glia_tap_set_atlas(glia_tap *t, const glia_atlas *at, bool windows, int32_t n_threads);
/* How rows leave devices from now on; takes s.  NULL: each is copied where the scheduler stops. */
void glia_tap_set_staging(glia_tap *t, glia_staging *s);
const glia_staging *glia_tap_staging(const glia_tap *t);
void glia_tap_free(glia_tap *t);

/* Around every llama_decode, armed or not: which cells a pass fills is read in all of them.  rows: borrowed until end. */
void glia_tap_begin(glia_tap *t, const glia_tap_row *rows, int32_t n_rows);
void glia_tap_end(glia_tap *t, bool ran);
/* Positions from, from + 1, … of a sequence were taken out of the cache. */
void glia_tap_cut(glia_tap *t, int32_t seq, int32_t from);
/* A state was copied into a sequence: which cells it lies in is not known. */
void glia_tap_lose(glia_tap *t, int32_t seq);
/* Are the cells of this sequence known, so that columns of attention over it can be? */
bool glia_tap_knows_cells(const glia_tap *t, int32_t seq);

/* Why rows of a place cannot be changed (static), NULL when they can. */
const char *glia_tap_refuses_edit(const glia_place *pl);

/* rows, wants, edits: borrowed until disarm.  Edits of one node happen in their order, before it is copied.  When disarm
 * answers anything but OK, rows of any request of the pass may have been changed wrongly, or not at all. */
void glia_tap_arm(glia_tap *t, const glia_tap_row *rows, int32_t n_rows, glia_tap_want *wants, int32_t n_wants,
                  glia_tap_edit *edits, int32_t n_edits);
/* After arm: nothing behind `node` (and behind what proves the rows) is read, no logits either: do not compute it, where the
 * scheduler lets the graph end there, which is when all of the rest is one piece on one backend.  sched: borrowed until
 * disarm. */
void glia_tap_may_end(glia_tap *t, struct ggml_backend_sched *sched, int32_t node);
/* After arm: of the rows that are outputs, counted among themselves, only the logits of first … first + n - 1 are read: do
 * not compute the others, where the output matrix lies on the host.  The product with it is made smaller for as long as it
 * runs; what it would have written for the other rows is garbage. */
void glia_tap_only_logits(glia_tap *t, int32_t first, int32_t n);
glia_tap_result glia_tap_disarm(glia_tap *t, char why[160]);
bool glia_tap_has_ended(const glia_tap *t); /* until the next arm: did that pass end early? */

/* For models without attention (GLIA_POS_STATE), between llama_decode and disarm: the last position that llama.cpp's state
 * held for the pass's only sequence before it (-1: none) and holds now.  A scan runs over the rows in their order, so that
 * with token ids read back in order these two numbers fix every row's position. */
void glia_tap_state_moved(glia_tap *t, int32_t before, int32_t after);

/* The scheduler's eval callback; ud is the glia_tap. */
bool glia_tap_on_node(struct ggml_tensor *node, bool ask, void *ud);
#endif

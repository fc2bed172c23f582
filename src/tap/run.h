/* tap/run.h — the state of one pass, and what the parts of the tap do to each other.  Only tap.c, prove.c, capture.c
 * and tail.c include it; see tap.h for what it all means.
 *
 *   tap.c      arm, the callback, disarm          prove.c   are the rows of this very run the planned ones?
 *   capture.c  rows out of a fetched node, and changes into it
 *   tail.c     what of the end of the graph is left out */
#ifndef GLIA_TAP_RUN_H
#define GLIA_TAP_RUN_H
#include "tap.h"
#include "attention.h"
#include "ggml.h"

/* Of some output rows only: the product with the output matrix while it runs. */
typedef struct glia_tap_logits {
    int32_t first, n;         /* among the outputs; n 0: all of them */
    struct ggml_tensor *node; /* made smaller; NULL: as llama.cpp made it */
    struct ggml_tensor was, rows; /* node before; what it reads instead of all its rows */
} glia_tap_logits;

struct glia_tap {
    const glia_atlas *at;
    glia_cells *cells; /* NULL: this model has no attention whose columns could be named */
    glia_attention *attention;

    bool armed;
    const glia_tap_row *rows; /* [n_rows] the plan */
    int32_t n_rows, n_outputs;
    glia_tap_want *wants;
    int32_t n_wants;
    glia_tap_edit *edits;
    int32_t n_edits;

    int32_t *head;      /* [n_nodes] first want of a node, -1: none */
    int32_t *edit_head; /* [n_nodes] first edit of a node, -1: none */
    uint8_t *ask;       /* [n_nodes] ASK_* bits */
    int32_t n_alloc;
    int32_t *out_row; /* [n_rows] batch row → output row, -1: none */
    int64_t *cell;    /* [n_rows] the cell of its sequence that a row's key went to, in this run */
    int32_t n_out_alloc;

    int32_t node; /* index of the node asked last in this run; -1: before the first */
    int32_t n_runs;
    unsigned proven; /* PROVEN_* bits of this run */
    bool strange, unproven, nomem;
    char why[160];

    ggml_backend_sched_t sched;       /* of this pass when it may end early; NULL: it runs whole */
    struct ggml_tensor *opening;       /* the first node of the run */
    glia_tap_logits logits;
    bool ended;                       /* it has ended early, where it might */

    char *scratch; /* copy of a node that does not lie in host memory */
    size_t n_scratch;
    float *row; /* [n_row] one row, gathered to be reduced */
    size_t n_row;

    glia_deriver *deriver;
    float *from; /* [n_from] rows of the point that a derived one is made of */
    size_t n_from;
    float *made; /* [n_made] rows made of them, on their way to a reduction */
    size_t n_made;
    glia_edit_room editing;
    glia_staging *staging; /* NULL: rows are copied in line */
};

enum { ASK_WANTED = 1, ASK_CANARY = 2, ASK_LOGITS = 4, ASK_EDITED = 8, ASK_EDITED_ATTENTION = 16, ASK_END = 32 };
enum { PROVEN_TOKENS = 1, PROVEN_POSITIONS = 2, PROVEN_OUTPUTS = 4, PROVEN_SEQUENCES = 8 };

/* Remember the first reason; flag: strange or unproven. */
void glia_tap_refuse(glia_tap *t, bool *flag, const char *why);

/* -- prove.c */
bool glia_tap_is_host(const struct ggml_tensor *x);
/* Bytes [off, off + n) of a tensor: a pointer into host memory, or a copy in scratch; NULL: out of memory (nomem is set). */
const char *glia_tap_bytes(glia_tap *t, const struct ggml_tensor *x, size_t off, size_t n);
void glia_tap_prove(glia_tap *t, const struct ggml_tensor *node); /* a node with ASK_CANARY was fetched */

/* -- tail.c */
void glia_tap_trim_logits(glia_tap *t, struct ggml_tensor *node); /* the node t->node, at->logits_node, was asked for */
void glia_tap_restore_logits(glia_tap *t);
bool glia_tap_ends_here(const glia_tap *t, struct ggml_tensor *node); /* the node t->node was fetched */

/* -- capture.c; the node t->node was fetched */
void glia_tap_capture(glia_tap *t, const struct ggml_tensor *x);
void glia_tap_capture_attention(glia_tap *t, const struct ggml_tensor *x, bool logits);
void glia_tap_change(glia_tap *t, struct ggml_tensor *x);
void glia_tap_change_attention(glia_tap *t, const struct ggml_tensor *x);
/* Before the node t->node runs: need the host not wait for it? */
bool glia_tap_keeps_order(const glia_tap *t, const struct ggml_tensor *x);
#endif

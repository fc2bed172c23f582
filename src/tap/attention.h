/* tap/attention.h — rows of attn_scores and attn_probs out of a running graph, columns by position.
 *
 * With flash attention off the graph has the tensors.  With it on there is only FLASH_ATTN_EXT: its inputs (queries, the
 * cached keys, mask, sinks) still hold when it has been computed, and the same numbers are computed from them once more,
 * by ggml's own kernels on the CPU: softmax(cap(scale·q·k) + slope·mask).
 *
 * The graph's columns are cells of the KV cache.  Each row's mask, read from this very run, must show exactly the cells
 * that the mirror (cells.h) gives to positions a … p of the row's sequence, without a hole, p its own position; a is 0
 * unless the model has sliding windows.  Otherwise the row is refused.
 *
 * Engine thread only, inside the eval callback. */
#ifndef GLIA_TAP_ATTENTION_H
#define GLIA_TAP_ATTENTION_H
#include "tap/cells.h"
#include "tap/tap.h"

typedef struct glia_attention glia_attention;

glia_attention *glia_attention_new(int32_t n_threads, bool windows); /* NULL: out of memory */
void glia_attention_free(glia_attention *a);

void glia_attention_begin(glia_attention *a); /* a new pass: nothing of it is checked yet */

/* One fetched node of a pass.  wants: chained by next from `first`; those for other points are skipped, n_copied of the
 * served ones grows.  NULL, or why their rows are refused; GLIA_ATTENTION_NOMEM (one address): out of memory. */
typedef struct glia_attention_node {
    const glia_attn *attn;
    const struct ggml_tensor *node;
    const glia_tap_row *rows;
    int32_t n_rows;
    glia_cells *cells;
    glia_tap_want *wants;
    int32_t first;
    const glia_tap_edit *edits; /* chained by next; those for other points are skipped */
    int32_t first_edit;
    int32_t first_score_edit; /* flash attention off, at attn->node: the edits that happened at attn->logits */
} glia_attention_node;
extern const char GLIA_ATTENTION_NOMEM[];

/* At attn->logits, flash attention off: the logits go to their rows, still unscaled.  Only to be followed by read. */
const char *glia_attention_keep(glia_attention *a, const glia_attention_node *n);
/* At attn->node. */
const char *glia_attention_read(glia_attention *a, const glia_attention_node *n);

/* -- attention_edit.c: changes of attn_scores and attn_probs, a head's row at a time.  Columns are positions, those that
 * the row does not attend to stay out of reach.  Scores first, then probabilities, each in the order of the list.  A row
 * that may attend to nothing any more does so: its probabilities and its z are 0.  NULL, or why not (no row of the node is
 * to be believed then).
 *
 * Flash attention off: the graph's own tensors are changed.  On: the probabilities are computed once more from the node's
 * inputs, changed, and multiplied by the values into the node's output; rows that no edit changes keep their bits. */
const char *glia_attention_edit_logits(glia_attention *a, const glia_attention_node *n); /* at attn->logits */
const char *glia_attention_edit(glia_attention *a, const glia_attention_node *n);        /* at attn->node, before read */
/* Rows of wants that were changed, as they are now; a part of read. */
void glia_attention_show_edited(const glia_attention *a, const glia_attention_node *n);
void glia_attention_forget_edited(glia_attention *a);
#endif

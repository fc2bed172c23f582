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
} glia_attention_node;
extern const char GLIA_ATTENTION_NOMEM[];

/* At attn->logits, flash attention off: the logits go to their rows, still unscaled.  Only to be followed by read. */
const char *glia_attention_keep(glia_attention *a, const glia_attention_node *n);
/* At attn->node. */
const char *glia_attention_read(glia_attention *a, const glia_attention_node *n);
#endif

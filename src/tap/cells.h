/* tap/cells.h — which position of which sequence lies in which cell of each KV cache: a mirror of llama.cpp's table.
 *
 * llama.cpp shows no such table, and columns of attention are cells.  The mirror reads where each pass stores its keys,
 * in every pass, asked for or not: the inputs with cells and positions are filled before a graph runs and lie in host
 * memory, so that reading them while a node is only being asked for costs no stop.  Whoever removes positions from the
 * cache says so here, too.  What cannot be followed makes a sequence unknown until all of it is removed.
 *
 * Engine thread only.  Knows ggml's tensors, not llama.h.  A stream of a cache is one sequence (no unified cache).
 *
 *   begin(rows) ── on_ask of every node ── end(ran)        what holds after end: every cell that a pass of the sequence
 *        cut(seq, from) between passes                     stored and nobody cut has its position; else !known(seq) */
#ifndef GLIA_TAP_CELLS_H
#define GLIA_TAP_CELLS_H
#include "tap/atlas.h"

struct ggml_tensor;
typedef struct glia_cells glia_cells;

/* One row of the planned batch, in batch order.  Rows of one sequence must be neighbours. */
typedef struct glia_tap_row {
    int32_t token, pos;
    int32_t seq; /* sequence = stream of the KV cache */
    bool output;
} glia_tap_row;

/* base: borrowed, tells the caches apart.  NULL: out of memory. */
glia_cells *glia_cells_new(const glia_atlas *base);
void glia_cells_free(glia_cells *c);

void glia_cells_begin(glia_cells *c, const glia_tap_row *rows, int32_t n_rows); /* rows: borrowed until end */
void glia_cells_on_ask(glia_cells *c, const struct ggml_tensor *node);
void glia_cells_end(glia_cells *c, bool ran); /* ran: the pass was computed, not aborted */
void glia_cells_cut(glia_cells *c, int32_t seq, int32_t from); /* positions from, from + 1, … left all caches */

void glia_cells_lose(glia_cells *c, int32_t seq); /* its cells were filled behind our back: unknown */

bool glia_cells_known(const glia_cells *c, int32_t seq);

/* The table of one cache and sequence.  NULL: unknown. */
typedef struct glia_cell_table {
    const int32_t *pos;  /* [n_cells] position in each cell, -1: free */
    const int32_t *cell; /* [n_pos] the cell of each position, -1: none */
    int32_t n_cells, n_pos;
} glia_cell_table;
bool glia_cells_table(glia_cells *c, int32_t cache, int32_t seq, glia_cell_table *out);
#endif

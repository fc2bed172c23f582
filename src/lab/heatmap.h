/* lab/heatmap.h — a matrix of numbers as an SVG picture: colours by value, every cell with its number as a tooltip.
 * Pure function; knows nothing of models. */
#ifndef GLIA_LAB_HEATMAP_H
#define GLIA_LAB_HEATMAP_H
#include "base/buf.h"

typedef struct glia_heatmap {
    const double *values; /* [n_rows, n_columns]; what is not finite is grey */
    size_t n_rows, n_columns;
    const char *const *row_labels, *const *column_labels; /* UTF-8; NULL: numbers */
    const char *title, *x_axis, *y_axis;
    double unit; /* > 0: values at ±unit have the full colour; 0: the largest magnitude that occurs */
} glia_heatmap;

/* Append <svg>…</svg>.  Blue below 0, white at 0, red above.  Failure shows in b. */
void glia_heatmap_write(glia_buf *b, const glia_heatmap *h);
#endif

/* lab/heatmap.c — see heatmap.h. */
#include "lab/heatmap.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CELL_MIN = 4, CELL_MAX = 26, GRAPH = 760, LEFT = 96, TOP = 44, BOTTOM = 96, RIGHT = 84, BAR = 64 };

/* XML text: markup escaped, control characters shown as spaces. */
static void add_text(glia_buf *b, const char *s) {
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '<') glia_buf_adds(b, "&lt;");
        else if (c == '>') glia_buf_adds(b, "&gt;");
        else if (c == '&') glia_buf_adds(b, "&amp;");
        else if (c == '"') glia_buf_adds(b, "&quot;");
        else if (c == '\n') glia_buf_adds(b, "\xe2\x8f\x8e"); /* ⏎ */
        else if (c < 0x20 || c == 0x7f) glia_buf_adds(b, " ");
        else glia_buf_add(b, s, 1);
    }
}

static void add_label(glia_buf *b, const char *const *labels, size_t i) {
    if (labels) add_text(b, labels[i]);
    else glia_buf_addf(b, "%zu", i);
}

/* Blue – white – red, perceived about evenly. */
static void add_colour(glia_buf *b, double v, double unit) {
    if (!isfinite(v)) {
        glia_buf_adds(b, "#999999");
        return;
    }
    static const int low[3] = {33, 102, 172}, high[3] = {178, 24, 43};
    double t = unit > 0 ? fmax(-1, fmin(1, v / unit)) : 0;
    const int *end = t < 0 ? low : high;
    int c[3];
    for (int i = 0; i < 3; i++) c[i] = (int)lround(247 + fabs(t) * (end[i] - 247));
    glia_buf_addf(b, "#%02x%02x%02x", (unsigned)c[0], (unsigned)c[1], (unsigned)c[2]);
}

static double largest(const glia_heatmap *h) {
    double most = 0;
    for (size_t i = 0; i < h->n_rows * h->n_columns; i++) {
        if (isfinite(h->values[i])) most = fmax(most, fabs(h->values[i]));
    }
    return most;
}

static double cell_of(size_t n) {
    double c = (double)GRAPH / (double)(n ? n : 1);
    return c > CELL_MAX ? CELL_MAX : c < CELL_MIN ? CELL_MIN : c;
}

/* As many labels as have room. */
static size_t step_of(double cell, size_t n) {
    size_t step = 1;
    while (cell * (double)step < 11 && step < n) step++;
    return step;
}

static void add_bar(glia_buf *b, double x, double height, double unit) {
    enum { STEPS = 40 };
    for (int i = 0; i < STEPS; i++) {
        double v = unit * (1 - 2 * ((double)i + 0.5) / STEPS);
        glia_buf_addf(b, "<rect x=\"%.1f\" y=\"%.2f\" width=\"12\" height=\"%.2f\" fill=\"", x, TOP + height * i / STEPS,
                      height / STEPS + 0.3);
        add_colour(b, v, unit);
        glia_buf_adds(b, "\"/>\n");
    }
    for (int i = -1; i <= 1; i++) {
        glia_buf_addf(b, "<text x=\"%.1f\" y=\"%.1f\">%.3g</text>\n", x + 16, TOP + height * (1 - i) / 2 + (i > 0 ? 9 : i < 0 ? 0 : 4),
                      unit * i);
    }
}

void glia_heatmap_write(glia_buf *b, const glia_heatmap *h) {
    double cw = cell_of(h->n_columns), ch = cell_of(h->n_rows), unit = h->unit > 0 ? h->unit : largest(h);
    double width = cw * (double)h->n_columns, height = fmax(ch * (double)h->n_rows, BAR);
    size_t sx = step_of(cw, h->n_columns), sy = step_of(ch, h->n_rows);
    glia_buf_addf(b,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" "
                  "font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
                  LEFT + width + RIGHT, TOP + height + BOTTOM, LEFT + width + RIGHT, TOP + height + BOTTOM);
    glia_buf_addf(b, "<text x=\"%d\" y=\"22\" font-size=\"14\">", (int)LEFT);
    add_text(b, h->title);
    glia_buf_adds(b, "</text>\n");
    for (size_t r = 0; r < h->n_rows && !b->failed; r++) {
        for (size_t c = 0; c < h->n_columns; c++) {
            double v = h->values[r * h->n_columns + c];
            glia_buf_addf(b, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"", LEFT + cw * (double)c,
                          TOP + ch * (double)r, cw, ch);
            add_colour(b, v, unit);
            glia_buf_adds(b, "\"><title>");
            add_text(b, h->y_axis);
            glia_buf_adds(b, " ");
            add_label(b, h->row_labels, r);
            glia_buf_adds(b, ", ");
            add_text(b, h->x_axis);
            glia_buf_adds(b, " ");
            add_label(b, h->column_labels, c);
            if (isfinite(v)) glia_buf_addf(b, ": %.5g</title></rect>\n", v);
            else glia_buf_adds(b, ": none</title></rect>\n");
        }
    }
    for (size_t r = 0; r < h->n_rows; r += sy) {
        glia_buf_addf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", (int)LEFT - 5, TOP + ch * ((double)r + 0.5) + 3.5);
        add_label(b, h->row_labels, r);
        glia_buf_adds(b, "</text>\n");
    }
    for (size_t c = 0; c < h->n_columns; c += sx) {
        double x = LEFT + cw * ((double)c + 0.5) + 3.5, y = TOP + ch * (double)h->n_rows + 8;
        glia_buf_addf(b, "<text text-anchor=\"end\" transform=\"translate(%.1f %.1f) rotate(-60)\">", x, y);
        add_label(b, h->column_labels, c);
        glia_buf_adds(b, "</text>\n");
    }
    glia_buf_addf(b, "<text x=\"14\" y=\"%.1f\" transform=\"rotate(-90 14 %.1f)\" text-anchor=\"middle\" font-size=\"12\">",
                  TOP + height / 2, TOP + height / 2);
    add_text(b, h->y_axis);
    glia_buf_addf(b, "</text>\n<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-size=\"12\">", LEFT + width / 2,
                  TOP + height + BOTTOM - 8);
    add_text(b, h->x_axis);
    glia_buf_adds(b, "</text>\n");
    add_bar(b, LEFT + width + 16, BAR, unit);
    glia_buf_adds(b, "</svg>\n");
}

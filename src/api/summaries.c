/* api/summaries.c — POST /analyze/residual, math, factual: numbers about activations that the client sends.  No model runs.
 * HTTP threads. */
#include "analysis/lens.h"
#include "api/handlers.h"
#include "api/sent.h"
#include "api/study.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

enum { TOP = 5 };

static void add_real(glia_buf *b, const char *key, double x) {
    glia_buf_addf(b, ",\"%s\":", key);
    glia_json_add_real(b, x);
}

/* What every summary says of one key's rows. */
static void add_summary(glia_buf *b, const glia_sent *s, float *means) {
    double sum = 0, square = 0, low = INFINITY, high = -INFINITY, norms = 0;
    size_t n = s->n_rows * s->width, zero = 0;
    int32_t top[TOP];
    memset(means, 0, s->width * sizeof *means);
    for (size_t i = 0; i < n; i++) {
        double x = (double)s->rows[i];
        sum += x, square += x * x, low = fmin(low, x), high = fmax(high, x), zero += x == 0;
        means[i % s->width] += (float)(fabs(x) / (double)s->n_rows);
    }
    for (size_t r = 0; r < s->n_rows; r++) norms += glia_norm_of(s->rows + r * s->width, s->width) / (double)s->n_rows;
    double mean = sum / (double)n;
    glia_buf_adds(b, "{\"name\":");
    glia_json_add_cstr(b, s->name);
    if (s->layer >= 0) glia_buf_addf(b, ",\"layer\":%d", (int)s->layer);
    glia_buf_adds(b, ",\"component\":");
    glia_json_add_cstr(b, s->component);
    glia_buf_addf(b, ",\"rows\":%zu,\"width\":%zu", s->n_rows, s->width);
    add_real(b, "mean", mean);
    add_real(b, "std", sqrt(fmax(0, square / (double)n - mean * mean)));
    add_real(b, "min", low);
    add_real(b, "max", high);
    add_real(b, "mean_norm", norms);
    add_real(b, "zeros", (double)zero / (double)n);
    size_t k = glia_logits_top(means, s->width, top, TOP);
    glia_buf_adds(b, ",\"largest_channels\":[");
    for (size_t i = 0; i < k; i++) {
        glia_buf_addf(b, "%s{\"channel\":%d,\"mean_magnitude\":", i ? "," : "", (int)top[i]);
        glia_json_add_real(b, (double)means[top[i]]);
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "]}");
}

static bool follows(const glia_sent *a, const glia_sent *b) { return a->n_rows == b->n_rows && a->width == b->width; }

/* From one key to the next with as many rows: cosine, ratio of norms, size of the change; means over rows. */
static void add_step(glia_buf *b, const glia_sent *x, const glia_sent *y, bool contribution) {
    double cosine = 0, ratio = 0, change = 0, n = (double)x->n_rows;
    for (size_t r = 0; r < x->n_rows; r++) {
        const float *p = x->rows + r * x->width, *q = y->rows + r * x->width;
        double a = glia_norm_of(p, x->width), c = glia_norm_of(q, x->width), d = 0;
        for (size_t i = 0; i < x->width; i++) d += ((double)q[i] - (double)p[i]) * ((double)q[i] - (double)p[i]);
        cosine += glia_cosine(p, q, x->width) / n, ratio += c / a / n, change += sqrt(d) / c / n;
    }
    glia_buf_adds(b, "{\"from\":");
    glia_json_add_cstr(b, x->name);
    glia_buf_adds(b, ",\"to\":");
    glia_json_add_cstr(b, y->name);
    if (contribution) {
        glia_buf_addf(b, ",\"layer\":%d", (int)y->layer);
        add_real(b, "contribution", change);
    } else {
        add_real(b, "cosine", cosine);
        add_real(b, "norm_ratio", ratio);
    }
    glia_buf_adds(b, "}");
}

static void add_steps(glia_buf *b, const glia_sent_list *l, bool contribution) {
    bool any = false;
    glia_buf_adds(b, "[");
    for (size_t i = 0; i + 1 < l->n; i++) {
        if (!follows(&l->items[i], &l->items[i + 1])) continue;
        if (any) glia_buf_adds(b, ",");
        add_step(b, &l->items[i], &l->items[i + 1], contribution);
        any = true;
    }
    glia_buf_adds(b, "]");
}

static glia_status add_summaries(glia_buf *b, const glia_sent_list *l, glia_err *err) {
    size_t width = 0;
    for (size_t i = 0; i < l->n; i++) width = l->items[i].width > width ? l->items[i].width : width;
    float *means = glia_malloc((width + 1) * sizeof *means);
    if (!means) return glia_fail(err, GLIA_ENOMEM, "no memory for a summary");
    glia_buf_adds(b, "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i) glia_buf_adds(b, ",");
        add_summary(b, &l->items[i], means);
    }
    glia_buf_adds(b, "]");
    glia_free(means);
    return GLIA_OK;
}

static glia_status summarise(glia_study *s, const char *key, const char *type, bool residual, glia_buf *b,
                             glia_err *err) {
    glia_sent_list l;
    glia_status st = glia_json_str(s->root, "", "analysis_type", &type, err);
    if (st || (st = glia_sent_read(&l, glia_json_get(s->root, key), key, err))) return st;
    glia_buf_adds(b, "{\"success\":true,\"analysis_type\":");
    glia_json_add_cstr(b, type);
    glia_buf_addf(b, ",\"%s\":", residual ? "flow_data" : "layers");
    st = add_summaries(b, &l, err);
    glia_buf_addf(b, ",\"%s\":", residual ? "layer_contributions" : "changes");
    add_steps(b, &l, true);
    glia_buf_addf(b, ",\"%s\":", residual ? "information_flow" : "similarities");
    add_steps(b, &l, false);
    glia_buf_adds(b, ",\"execution_time_ms\":");
    glia_json_add_num(b, glia_study_ms(s));
    glia_buf_adds(b, "}\n");
    glia_sent_clear(&l);
    return st;
}

static glia_status residual_work(glia_study *s, glia_buf *b, glia_err *err) {
    return summarise(s, "residual_data", "residual_flow", true, b, err);
}
static glia_status math_work(glia_study *s, glia_buf *b, glia_err *err) {
    return summarise(s, "activations", "math", false, b, err);
}
static glia_status factual_work(glia_study *s, glia_buf *b, glia_err *err) {
    return summarise(s, "activations", "factual", false, b, err);
}

void glia_on_analyze_residual(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"residual", "flow of activations that were sent", false, residual_work};
    glia_study_serve(ud, rq, &route);
}
void glia_on_analyze_math(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"math", "summary of activations that were sent", false, math_work};
    glia_study_serve(ud, rq, &route);
}
void glia_on_analyze_factual(void *ud, glia_http_request *rq) {
    static const glia_study_route route = {"factual", "summary of activations that were sent", false, factual_work};
    glia_study_serve(ud, rq, &route);
}

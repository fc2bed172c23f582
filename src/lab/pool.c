/* lab/pool.c — see pool.h. */
#include "lab/pool.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/forward.h"
#include <string.h>

typedef struct pooling_run {
    const glia_pool_params *p;
    glia_pool *out;
    size_t *first; /* [n_texts] its first row */
} pooling_run;

void glia_pool_free(glia_pool *p) {
    if (!p) return;
    for (size_t l = 0; p->rows && l < p->n_layers; l++) glia_free(p->rows[l]);
    glia_free(p->rows);
    glia_free(p->text);
    glia_free(p->position);
    glia_free(p);
}

static glia_status take_text(void *ud, size_t i, const glia_forward_result *r, glia_err *err) {
    pooling_run *run = ud;
    glia_pool *out = run->out;
    size_t n = run->p->pooling == GLIA_PICK_ALL ? run->p->texts[i].n_tokens : 1, first = run->first[i];
    for (size_t l = 0; l < out->n_layers; l++) {
        const glia_rows *rows = &r->rows[l];
        if ((size_t)rows->n_rows != n || (size_t)rows->width != out->width) {
            return glia_fail(err, GLIA_EINTERNAL, "text %zu gave %d rows of %d numbers instead of %zu of %zu", i,
                             (int)rows->n_rows, (int)rows->width, n, out->width);
        }
        memcpy(out->rows[l] + first * out->width, rows->data, n * out->width * sizeof(float));
    }
    for (size_t k = 0; k < n; k++) {
        out->text[first + k] = i;
        out->position[first + k] = run->p->pooling == GLIA_PICK_MEAN ? -1 : r->rows[0].positions[k];
    }
    return GLIA_OK;
}

static bool on_forward(void *ud, size_t n_done, size_t n_total) {
    const pooling_run *run = ud;
    return !run->p->on_progress || run->p->on_progress(run->p->ud, (double)n_done / (double)(n_total ? n_total : 1));
}

static glia_status reserve(pooling_run *run, const glia_model *m, glia_err *err) {
    const glia_pool_params *p = run->p;
    glia_pool *out = run->out;
    out->n_layers = p->n_layers;
    for (size_t l = 0; l < p->n_layers; l++) {
        glia_point_info pi;
        if (!glia_model_point(m, p->point, p->layers[l], &pi) || pi.grade < GLIA_GRADE_STRUCTURAL || pi.by_position) {
            return glia_fail(err, GLIA_EHOOK, "layer %d has no rows of %s: %s", (int)p->layers[l],
                             glia_point_name(p->point), pi.by_position ? "they differ in length" : pi.reason);
        }
        if (l && (size_t)pi.width != out->width)
            return glia_fail(err, GLIA_EHOOK, "layers differ in the width of %s", glia_point_name(p->point));
        out->width = (size_t)pi.width;
    }
    run->first = glia_malloc((p->n_texts + 1) * sizeof *run->first);
    if (!run->first) return glia_fail(err, GLIA_ENOMEM, "no memory for %zu texts", p->n_texts);
    for (size_t i = 0; i < p->n_texts; i++) {
        run->first[i] = out->n_rows;
        out->n_rows += p->pooling == GLIA_PICK_ALL ? p->texts[i].n_tokens : 1;
    }
    out->rows = glia_calloc(p->n_layers + 1, sizeof *out->rows);
    out->text = glia_malloc((out->n_rows + 1) * sizeof *out->text);
    out->position = glia_malloc((out->n_rows + 1) * sizeof *out->position);
    bool good = out->rows && out->text && out->position;
    for (size_t l = 0; good && l < p->n_layers; l++)
        good = (out->rows[l] = glia_malloc((out->n_rows * out->width + 1) * sizeof **out->rows)) != NULL;
    return good ? GLIA_OK
                : glia_fail(err, GLIA_ENOMEM, "no memory for %zu rows of %zu layers", out->n_rows, p->n_layers);
}

glia_status glia_pool_run(glia_pool **out, glia_model *m, const glia_pool_params *p, glia_err *err) {
    static const int64_t last[] = {-1};
    pooling_run run = {.p = p, .out = glia_calloc(1, sizeof *run.out)};
    glia_hook *hooks = glia_calloc(p->n_layers + 1, sizeof *hooks);
    glia_forward_case *cases = glia_calloc(p->n_texts + 1, sizeof *cases);
    glia_forward *f = NULL;
    *out = NULL;
    glia_status st = run.out && hooks && cases ? reserve(&run, m, err)
                                               : glia_fail(err, GLIA_ENOMEM, "no memory for %zu texts", p->n_texts);
    if (st) goto done;
    for (size_t l = 0; l < p->n_layers; l++) {
        hooks[l] = (glia_hook){.point = p->point, .layer = p->layers[l], .phases = GLIA_PHASE_PROMPT};
        if (p->pooling == GLIA_PICK_MEAN) hooks[l].reduce.op = GLIA_REDUCE_MEAN;
        if (p->pooling == GLIA_PICK_LAST) hooks[l].positions = last, hooks[l].n_positions = 1;
    }
    for (size_t i = 0; i < p->n_texts; i++) {
        cases[i] = (glia_forward_case){
            .tokens = p->texts[i].tokens, .n_tokens = p->texts[i].n_tokens, .hooks = hooks, .n_hooks = p->n_layers};
    }
    st = glia_forward_run(
        &f, m,
        &(glia_forward_params){
            .cases = cases, .n_cases = p->n_texts, .on_progress = on_forward, .on_case = take_text, .ud = &run},
        err);
    if (!st) *out = run.out, run.out = NULL;
done:
    glia_forward_free(f);
    glia_pool_free(run.out);
    glia_free(run.first);
    glia_free(hooks);
    glia_free(cases);
    return st;
}

/* lab/token_effects.c — tokens of a prompt, ablated one by one: see attribution.h. */
#include "analysis/lens.h"
#include "base/err.h"
#include "base/mem.h"
#include "lab/attribution.h"
#include "lab/forward.h"
#include <string.h>

void glia_token_effects_free(glia_token_effects *e) {
    if (!e) return;
    glia_free(e->effect);
    glia_free(e);
}

typedef struct tokens_run {
    const glia_token_params *p;
    glia_token_effects *e;
} tokens_run;

static const int64_t last_row[] = {-1};
static const glia_hook logits_hook = {
    .point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_PROMPT, .positions = last_row, .n_positions = 1};

static glia_status take_case(void *ud, size_t i, const glia_forward_result *r, glia_err *err) {
    tokens_run *run = ud;
    (void)err;
    const glia_rows *logits = &r->rows[0];
    glia_reading reading = glia_logits_read(logits->data, (size_t)logits->width);
    run->e->effect[i] = run->e->logprob - ((double)logits->data[run->e->target] - reading.log_sum);
    return GLIA_OK;
}

static bool on_forward(void *ud, size_t n_done, size_t n_total) {
    const tokens_run *run = ud;
    return !run->p->on_progress || run->p->on_progress(run->p->ud, (double)n_done / (double)(n_total + 1));
}

/* The answer as it is, and the mean of what enters the model. */
static glia_status baseline(tokens_run *run, glia_model *m, glia_point place, float **mean, int32_t *width,
                            glia_err *err) {
    const glia_token_params *p = run->p;
    glia_hook hooks[2] = {
        logits_hook, {.point = place, .layer = 0, .phases = GLIA_PHASE_PROMPT, .reduce = {.op = GLIA_REDUCE_MEAN}}};
    glia_forward_case c = {.tokens = p->tokens, .n_tokens = p->n_tokens, .hooks = hooks, .n_hooks = 2};
    glia_forward *f;
    glia_status st = glia_forward_run(&f, m, &(glia_forward_params){.cases = &c, .n_cases = 1}, err);
    if (st) return st;
    const glia_rows *logits = glia_forward_rows(f, 0, 0), *rows = glia_forward_rows(f, 0, 1);
    run->e->target = p->target;
    if (p->target < 0) (void)glia_logits_top(logits->data, (size_t)logits->width, &run->e->target, 1);
    if (run->e->target >= logits->width) {
        st = glia_fail_at(err, GLIA_EINVAL, "target", "target: no token %d", (int)run->e->target);
    } else {
        run->e->logprob =
            (double)logits->data[run->e->target] - glia_logits_read(logits->data, (size_t)logits->width).log_sum;
        *width = rows->width;
        if (!(*mean = glia_memdup(rows->data, (size_t)rows->width * sizeof **mean)))
            st = glia_fail(err, GLIA_ENOMEM, "no memory for the mean of the prompt");
    }
    glia_forward_free(f);
    return st;
}

glia_status glia_token_effects_run(glia_token_effects **out, glia_model *m, const glia_token_params *p, glia_err *err) {
    tokens_run run = {.p = p, .e = glia_calloc(1, sizeof *run.e)};
    size_t n = p->n_tokens;
    glia_edit *edits = glia_calloc(n, sizeof *edits);
    glia_forward_case *cases = glia_calloc(n, sizeof *cases);
    int64_t *positions = glia_malloc(n * sizeof *positions);
    glia_forward *f = NULL;
    float *mean = NULL;
    int32_t width = 0;
    glia_status st = GLIA_OK;
    *out = NULL;
    if (run.e) run.e->effect = glia_malloc(n * sizeof *run.e->effect), run.e->n_tokens = n;
    if (!run.e || !run.e->effect || !edits || !cases || !positions) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu tokens", n);
        goto done;
    }
    if ((st = baseline(&run, m, GLIA_POINT_RESID_PRE, &mean, &width, err))) goto done;
    for (size_t i = 0; i < n; i++) {
        positions[i] = (int64_t)i;
        edits[i] = (glia_edit){.where = {.point = GLIA_POINT_RESID_PRE,
                                         .layer = 0,
                                         .phases = GLIA_PHASE_PROMPT,
                                         .positions = &positions[i],
                                         .n_positions = 1},
                               .op = p->by == GLIA_TOKEN_ZERO ? GLIA_EDIT_ZERO : GLIA_EDIT_SET,
                               .strength = 1};
        if (p->by == GLIA_TOKEN_MEAN) edits[i].rows = mean, edits[i].n_rows = 1, edits[i].n_channels = (size_t)width;
        cases[i] = (glia_forward_case){
            .tokens = p->tokens, .n_tokens = n, .hooks = &logits_hook, .n_hooks = 1, .edits = &edits[i], .n_edits = 1};
    }
    st =
        glia_forward_run(&f, m,
                         &(glia_forward_params){
                             .cases = cases, .n_cases = n, .on_progress = on_forward, .on_case = take_case, .ud = &run},
                         err);
    if (st) goto done;
    *out = run.e, run.e = NULL;
done:
    glia_forward_free(f);
    glia_free(mean);
    glia_free(edits);
    glia_free(cases);
    glia_free(positions);
    glia_token_effects_free(run.e);
    return st;
}

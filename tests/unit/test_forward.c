/* tests/unit/test_forward.c — many prompts through a model at once: the rows are those of single requests, memory is
 * bounded and returned, failures and cancelling leave nothing behind. */
#include "base/mem.h"
#include "lab/forward.h"
#include "support.h"
#include <math.h>
#include <string.h>
#include <unistd.h>

enum { N_CASES = 12 };

static glia_model *m;
static int32_t text[64];

static int setup(void **s) {
    (void)s;
    for (int i = 0; i < 64; i++) text[i] = 32 + (i * 37) % 90;
    m = open_model(tiny_model("llama"), 4, 256, 128);
    return m ? 0 : -1;
}
static int teardown(void **s) {
    (void)s;
    glia_model_close(m);
    return 0;
}

static const int64_t last = -1;
static const glia_hook hooks[4] = {
    {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL},
    {.point = GLIA_POINT_ATTN_PROBS, .layer = 0, .phases = GLIA_PHASE_ALL},
    {.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_PROMPT, .positions = &last, .n_positions = 1},
    {.point = GLIA_POINT_Z, .layer = 0, .phases = GLIA_PHASE_PROMPT, .positions = &last, .n_positions = 1},
};
static const float factor_of[N_CASES] = {1, 0.5f, 2, -1, 0, 3, 1.5f, 0.25f, -2, 4, 0.1f, 5};

static void make_cases(glia_forward_case *c, glia_edit *e) {
    for (int i = 0; i < N_CASES; i++) {
        e[i] = (glia_edit){.where = {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = GLIA_PHASE_PROMPT},
                           .op = GLIA_EDIT_SCALE,
                           .strength = factor_of[i]};
        c[i] = (glia_forward_case){.tokens = text + i, .n_tokens = (size_t)(8 + 3 * i), .hooks = hooks, .n_hooks = 4,
                                   .edits = &e[i], .n_edits = (size_t)(i % 3 > 0), .max_tokens = i % 2 ? 5 : 0,
                                   .ignore_eos = true};
    }
}

static uint64_t leased(void) {
    glia_capture_usage u;
    glia_model_capture_usage(m, &u);
    return u.leased + u.held;
}

static void check_returned(void) {
    for (int i = 0; i < 5000 && leased(); i++) usleep(1000);
    assert_int_equal(leased(), 0);
}

static void near(const float *got, const float *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (got[i] != want[i] && !(fabsf(got[i] - want[i]) <= 1e-5f + 1e-4f * fabsf(want[i])))
            fail_msg("number %zu is %g, not %g", i, (double)got[i], (double)want[i]);
    }
}

static void results_are_those_of_single_requests(void **s) {
    (void)s;
    glia_forward_case c[N_CASES];
    glia_edit e[N_CASES];
    glia_forward *f;
    glia_err err;
    make_cases(c, e);
    if (glia_forward_run(&f, m, &(glia_forward_params){.cases = c, .n_cases = N_CASES}, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < N_CASES; i++) {
        glia_request_params p = greedy(c[i].tokens, c[i].n_tokens, c[i].max_tokens);
        p.hooks = hooks, p.n_hooks = 4, p.edits = c[i].edits, p.n_edits = c[i].n_edits;
        result *want = run_request(m, &p);
        const glia_forward_result *got = glia_forward_get(f, i);
        assert_int_equal(got->n_tokens, want->n_ids);
        assert_memory_equal(got->tokens ? got->tokens : text, got->tokens ? want->ids : text, got->n_tokens * 4);
        assert_int_equal(got->usage.n_prompt, c[i].n_tokens);
        for (size_t h = 0; h < 4; h++) {
            const glia_rows *r = glia_forward_rows(f, i, h);
            const rows *w = &want->hook[h];
            assert_int_equal(r->point, hooks[h].point);
            assert_int_equal(r->n_rows, w->n);
            assert_int_equal(r->width, w->width);
            assert_int_equal(r->n_cols, w->n_cols);
            assert_memory_equal(r->positions, w->pos, (size_t)w->n * 4);
            assert_memory_equal(r->token_ids, w->tok, (size_t)w->n * 4);
            near(r->data, w->data, (size_t)w->n * (size_t)w->width);
        }
        result_free(want);
    }
    assert_true(leased() > 0);
    glia_forward_free(f);
    check_returned();
}

typedef struct seen {
    int n, calls, stop_at;
    bool has[N_CASES];
} seen;

static glia_status on_case(void *ud, size_t i, const glia_forward_result *r, glia_err *err) {
    (void)err;
    seen *x = ud;
    assert_int_equal(r->n_hooks, 4);
    assert_int_equal(r->rows[2].n_rows, 1);
    assert_false(x->has[i]);
    x->has[i] = true, x->n++;
    return GLIA_OK;
}
static bool on_progress(void *ud, size_t done, size_t total) {
    seen *x = ud;
    assert_int_equal(total, N_CASES);
    x->calls++;
    return !x->stop_at || (int)done < x->stop_at;
}

static void on_case_takes_every_result_once(void **s) {
    (void)s;
    glia_forward_case c[N_CASES];
    glia_edit e[N_CASES];
    glia_forward *f;
    glia_err err;
    seen x = {0};
    make_cases(c, e);
    const glia_forward_params p = {.cases = c, .n_cases = N_CASES, .on_case = on_case, .on_progress = on_progress, .ud = &x};
    assert_int_equal(glia_forward_run(&f, m, &p, &err), GLIA_OK);
    assert_int_equal(x.n, N_CASES);
    assert_true(x.calls >= N_CASES);
    assert_null(glia_forward_get(f, 0)->rows);
    glia_forward_free(f);
    check_returned();
}

static void cancelling_leaves_nothing_behind(void **s) {
    (void)s;
    glia_forward_case c[N_CASES];
    glia_edit e[N_CASES];
    glia_forward *f;
    glia_err err;
    seen x = {.stop_at = 3};
    make_cases(c, e);
    const glia_forward_params p = {.cases = c, .n_cases = N_CASES, .on_progress = on_progress, .ud = &x};
    assert_int_equal(glia_forward_run(&f, m, &p, &err), GLIA_ECANCELLED);
    assert_null(f);
    check_returned();
}

static void a_bad_case_is_refused_with_its_reason(void **s) {
    (void)s;
    glia_forward_case c[N_CASES];
    glia_edit e[N_CASES];
    glia_forward *f;
    glia_err err;
    make_cases(c, e);
    int32_t wrong = -1;
    c[7].tokens = &wrong, c[7].n_tokens = 1;
    assert_int_equal(glia_forward_run(&f, m, &(glia_forward_params){.cases = c, .n_cases = N_CASES}, &err), GLIA_EINVAL);
    assert_null(f);
    assert_string_equal(err.param, "prompt");
    check_returned();
}

static void more_rows_than_memory_are_refused(void **s) {
    (void)s;
    glia_capture_usage u;
    glia_lease *all;
    glia_err err;
    glia_model_capture_usage(m, &u);
    assert_int_equal(glia_model_lease(&all, m, u.limit + 1, &err), GLIA_ETOOLARGE);
    assert_null(all);
    assert_int_equal(glia_model_lease(&all, m, u.limit, &err), GLIA_OK);
    glia_lease *more;
    assert_int_equal(glia_model_lease(&more, m, 1, &err), GLIA_EBUSY);
    assert_null(more);
    glia_lease_free(all);
    check_returned();
}

static void every_failed_allocation_is_an_error(void **s) {
    (void)s;
    glia_forward_case c[N_CASES];
    glia_edit e[N_CASES];
    make_cases(c, e);
    size_t n = 0;
    do {
        glia_forward *f;
        glia_err err = {0};
        glia_fault_arm(++n);
        glia_status st = glia_forward_run(&f, m, &(glia_forward_params){.cases = c, .n_cases = 4}, &err);
        assert_int_equal(st == GLIA_OK, f != NULL);
        if (st) assert_int_equal(st, GLIA_ENOMEM);
        if (st) assert_true(err.message[0]);
        glia_forward_free(f);
    } while (glia_fault_fired() && n < 2000);
    glia_fault_arm(0);
    assert_true(n > 20 && n < 2000);
    check_returned();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_those_of_single_requests),
        cmocka_unit_test(on_case_takes_every_result_once),
        cmocka_unit_test(cancelling_leaves_nothing_behind),
        cmocka_unit_test(a_bad_case_is_refused_with_its_reason),
        cmocka_unit_test(more_rows_than_memory_are_refused),
        cmocka_unit_test(every_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

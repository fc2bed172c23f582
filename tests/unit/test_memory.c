/* tests/unit/test_memory.c — bytes of activations: predicted, leased, held, waited for and returned. */
#include "base/mem.h"
#include "engine/memory.h"
#include "engine/request.h"
#include "support.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WIDTH = 64, LIMIT = 64 << 20 };

static const glia_hook resid[3] = {
    {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = GLIA_PHASE_ALL},
    {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL},
    {.point = GLIA_POINT_RESID_POST, .layer = 2, .phases = GLIA_PHASE_ALL},
};

static int32_t text[256];

static int fill_text(void **s) {
    (void)s;
    for (int i = 0; i < 256; i++) text[i] = 32 + (i * 37) % 90;
    return 0;
}

/* Two slots of 256 tokens; a queue of 2 KiB a request. */
static glia_model *open_with(glia_capture_memory *memory, size_t limit, int wait_ms) {
    glia_model_params mp;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&mp);
    mp.n_threads = test_threads();
    mp.path = tiny_model("llama"), mp.n_ctx = 256, mp.n_parallel = 2, mp.event_bytes = 2048;
    mp.capture_memory = memory, mp.capture_bytes = limit, mp.capture_wait_ms = wait_ms;
    if (glia_model_open(&m, &mp, &err)) fail_msg("%s", err.message);
    return m;
}

static glia_request_params hooked(size_t n_prompt, int32_t max_tokens) {
    glia_request_params p = greedy(text, n_prompt, max_tokens);
    p.hooks = resid, p.n_hooks = 3;
    return p;
}

static glia_capture_usage usage(const glia_model *m) {
    glia_capture_usage u;
    glia_model_capture_usage(m, &u);
    return u;
}

static uint64_t peak_of(const glia_model *m, const glia_request_params *p) {
    uint64_t peak;
    glia_err err;
    if (glia_request_capture_peak(m, p, &peak, &err)) fail_msg("%s", err.message);
    return peak;
}

/* The engine returns its lease just after the last event: wait for it, fail if it never comes. */
static void check_all_returned(const glia_model *m) {
    for (int i = 0; i < 5000 && usage(m).leased; i++) usleep(1000);
    glia_capture_usage u = usage(m);
    assert_int_equal(u.leased, 0);
    assert_int_equal(u.held, 0);
    assert_int_equal(u.n_waiting, 0);
}

static glia_request *submit(glia_model *m, const glia_request_params *p) {
    glia_request *r;
    glia_err err;
    if (glia_request_submit(&r, m, p, &err)) fail_msg("%s", err.message);
    return r;
}

static void drain_whole(glia_request *r, int n_rows) {
    result *got = drain(r, 3);
    if (got->err.status) fail_msg("%s", got->err.message);
    for (int h = 0; h < 3; h++) assert_int_equal(got->hook[h].n, n_rows);
    result_free(got);
    glia_request_free(r);
}

static void wait_for_rows(const glia_model *m) {
    for (int i = 0; i < 10000 && !usage(m).held; i++) usleep(1000);
    assert_true(usage(m).held > 0);
}

/* ------------------------------------------------------------------ predicting */

static void predicted_peak_bounds_what_is_held(void **s) {
    (void)s;
    static const int64_t last[] = {-1, 100, 130};
    static const int32_t one_head[] = {1};
    const glia_hook odd[] = {
        {.point = GLIA_POINT_Q, .layer = 1, .phases = GLIA_PHASE_ALL, .heads = one_head, .n_heads = 1},
        {.point = GLIA_POINT_LM_HEAD, .phases = GLIA_PHASE_GENERATED},
        {.point = GLIA_POINT_MLP_ACT, .layer = 0, .phases = GLIA_PHASE_ALL, .positions = last, .n_positions = 3},
    };
    const glia_hook derived[] = {
        {.point = GLIA_POINT_ATTN_PROBS, .layer = 1, .phases = GLIA_PHASE_ALL}, /* rows grow with the position */
        {.point = GLIA_POINT_RESID_POST, .layer = 0, .phases = GLIA_PHASE_ALL, .reduce = {.op = GLIA_REDUCE_VAR}},
        {.point = GLIA_POINT_Q, .layer = 0, .phases = GLIA_PHASE_ALL, .reduce = {.op = GLIA_REDUCE_TOPK, .k = 5}},
    };
    const glia_hook *const kinds[] = {resid, odd, derived};
    for (int i = 0; i < 18; i++) {
        glia_model *m = open_with(NULL, LIMIT, 0);
        glia_request_params p = hooked(i % 3 ? (size_t)(40 * (i % 3) + 1) : 1, i < 4 ? 0 : 10 * i);
        p.hooks = kinds[(i + i / 3) % 3];
        uint64_t total, peak = peak_of(m, &p);
        glia_err err;
        assert_int_equal(glia_request_capture_bytes(m, &p, &total, &err), GLIA_OK);
        result_free(run_request(m, &p));
        check_all_returned(m);
        assert_true(usage(m).peak <= peak);
        assert_true(usage(m).peak > 0 || !total);
        if (p.max_tokens > 60)
            assert_true(peak < total + 8192); /* a stream needs its queue, not all there will ever be */
        glia_model_close(m);
    }
}

static void check_stalled_reader(size_t n_prompt) {
    glia_model *m = open_with(NULL, LIMIT, 0);
    glia_request_params p = hooked(n_prompt, 200), plain = greedy(text, 10, 100);
    uint64_t peak = peak_of(m, &p), total;
    glia_err err;
    assert_int_equal(glia_request_capture_bytes(m, &p, &total, &err), GLIA_OK);
    assert_true(total > 5 * peak);
    glia_request *slow = submit(m, &p);
    wait_for_rows(m);
    /* the other slot makes 100 tokens: 100 turns in which this one could go on until it is full; then 300 more */
    result_free(run_request(m, &plain));
    uint64_t held = usage(m).held;
    for (int i = 0; i < 3; i++) result_free(run_request(m, &plain));
    assert_int_equal(usage(m).held, held);
    assert_true(held <= peak);
    drain_whole(slow, (int)n_prompt + 199);
    assert_true(usage(m).peak <= peak);
    check_all_returned(m);
    glia_model_close(m);
}

static void stalled_reader_holds_a_queue_and_one_event(void **s) {
    (void)s;
    check_stalled_reader(1);  /* the queue fills with generated rows */
    check_stalled_reader(10); /* the prompt's rows fill it */
}

/* They leave the memory that requests share, and stay what they are, also behind the request and the model. */
static void kept_events_are_the_callers(void **s) {
    (void)s;
    enum { MOST = 64 };
    glia_model *m = open_with(NULL, LIMIT, 0);
    glia_request_params p = hooked(40, 20);
    glia_event *kept[MOST];
    int n = 0, n_rows = 0;
    result *want = run_request(m, &p);
    check_all_returned(m);
    glia_request *r = submit(m, &p);
    for (glia_event *ev; (ev = glia_request_next(r, -1));) {
        if (ev->kind == GLIA_EVENT_ERROR) fail_msg("%s", ev->u.error.message);
        if (ev->kind == GLIA_EVENT_DONE) assert_null(glia_request_next(r, 0));
        bool keep = n < MOST && ev->kind == GLIA_EVENT_ACTIVATIONS;
        glia_event_keep(ev); /* of the others nothing counts: no harm */
        if (keep) kept[n++] = ev;
        else glia_event_free(ev);
    }
    assert_int_equal(n, 20); /* the prompt and 19 tokens */
    check_all_returned(m);
    glia_request_free(r);
    glia_model_close(m);
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < kept[i]->u.activations.n_frames; k++) {
            const glia_frame *f = &kept[i]->u.activations.frames[k];
            const float *rows = want->hook[f->hook].data + (size_t)n_rows * WIDTH;
            assert_memory_equal(f->data, rows, (size_t)f->n_rows * WIDTH * sizeof *rows);
        }
        n_rows += kept[i]->u.activations.frames[0].n_rows;
        glia_event_keep(kept[i]); /* twice is once */
        glia_event_free(kept[i]);
    }
    assert_int_equal(n_rows, 59);
    result_free(want);
}

static void request_that_never_fits_is_refused_with_both_numbers(void **s) {
    (void)s;
    glia_model *m = open_with(NULL, 40000, 0);
    glia_request *r;
    glia_err err;
    glia_request_params p = hooked(200, 2); /* the prompt's rows: 3 × 200 × 64 floats */
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_ETOOLARGE);
    assert_null(r);
    assert_string_equal(err.param, "activation_hooks");
    assert_non_null(strstr(err.message, "0.2 MiB"));
    assert_non_null(strstr(err.message, "0.0 MiB"));
    assert_non_null(strstr(err.message, "--capture-memory"));
    p.n_hooks = 1; /* the way out */
    p.n_prompt = 100;
    result *res = run_request(m, &p);
    assert_int_equal(res->err.status, GLIA_OK);
    result_free(res);
    p = hooked(10, 240); /* far more in all than there is memory, but never at once: the queue is made smaller */
    uint64_t total;
    assert_int_equal(glia_request_capture_bytes(m, &p, &total, &err), GLIA_OK);
    assert_true(total > 3 * 40000);
    drain_whole(submit(m, &p), 249);
    assert_true(usage(m).peak <= 40000);
    check_all_returned(m);
    glia_model_close(m);
}

/* ------------------------------------------------------------------ waiting */

static void requests_that_do_not_fit_together_take_turns(void **s) {
    (void)s;
    glia_request *r[6];
    glia_request_params p = hooked(60, 120), plain = greedy(text, 10, 20);
    glia_model *any = open_with(NULL, LIMIT, 0);
    uint64_t peak = peak_of(any, &p);
    glia_model_close(any);
    glia_model *m = open_with(NULL, (size_t)(peak + peak / 2), 0); /* room for one and a half */
    for (int i = 0; i < 6; i++) r[i] = submit(m, &p);
    wait_for_rows(m);
    for (int i = 0; i < 5000 && !usage(m).n_waiting; i++) usleep(1000);
    assert_true(usage(m).n_waiting > 0);
    result *passes = run_request(m, &plain); /* needs none, has the other slot */
    assert_int_equal(passes->err.status, GLIA_OK);
    result_free(passes);
    for (int i = 0; i < 6; i++) drain_whole(r[i], 179);
    assert_true(usage(m).peak <= peak + peak / 2);
    check_all_returned(m);
    glia_model_close(m);
}

static void waiting_ends_with_busy_or_cancelled_and_nothing_is_lost(void **s) {
    (void)s;
    glia_request_params p = hooked(60, 120);
    glia_model *any = open_with(NULL, LIMIT, 0);
    uint64_t peak = peak_of(any, &p);
    glia_model_close(any);
    glia_model *m = open_with(NULL, (size_t)peak, 50);
    glia_request *slow = submit(m, &p);
    wait_for_rows(m);
    glia_request *late = submit(m, &p);
    result *res = drain(late, 3);
    assert_int_equal(res->err.status, GLIA_EBUSY);
    assert_string_equal(res->err.param, "activation_hooks");
    assert_non_null(strstr(res->err.message, "MiB"));
    result_free(res);
    glia_request_free(late);
    late = submit(m, &p);
    glia_request_cancel(late);
    res = drain(late, 3);
    assert_true(res->err.status == GLIA_ECANCELLED || res->err.status == GLIA_EBUSY);
    result_free(res);
    glia_request_free(late);
    drain_whole(slow, 179);
    drain_whole(submit(m, &p), 179); /* there is room again */
    check_all_returned(m);
    glia_model_close(m);
}

static void closing_a_model_ends_who_waits(void **s) {
    (void)s;
    glia_capture_memory *memory = glia_capture_memory_new(LIMIT);
    glia_request_params p = hooked(60, 120);
    glia_model *any = open_with(memory, 0, 0);
    uint64_t peak = peak_of(any, &p);
    glia_model_close(any);
    glia_capture_memory_unref(memory);
    memory = glia_capture_memory_new((size_t)peak);
    glia_model *m = open_with(memory, 0, 0);
    glia_request *slow = submit(m, &p), *late = submit(m, &p);
    for (int i = 0; i < 5000 && !usage(m).n_waiting; i++) usleep(1000);
    assert_int_equal(usage(m).n_waiting, 1);
    glia_event *kept = glia_request_next(slow, -1); /* the prompt's rows outlive their model and their request */
    assert_int_equal(kept->kind, GLIA_EVENT_ACTIVATIONS);
    glia_model_close(m);
    result *res = drain(late, 3);
    assert_int_equal(res->err.status, GLIA_ECANCELLED);
    result_free(res);
    glia_request_free(late);
    glia_request_free(slow);
    glia_capture_usage u;
    glia_capture_memory_read(memory, &u);
    assert_true(u.held > 60 * WIDTH * sizeof(float) && u.leased == peak);
    assert_int_equal(u.n_waiting, 0);
    glia_event_free(kept);
    glia_capture_memory_read(memory, &u);
    assert_int_equal(u.held + u.leased, 0);
    glia_capture_memory_unref(memory);
}

static void models_share_one_memory(void **s) {
    (void)s;
    glia_request_params p = hooked(60, 120);
    glia_model *any = open_with(NULL, LIMIT, 0);
    uint64_t peak = peak_of(any, &p);
    glia_model_close(any);
    glia_capture_memory *memory = glia_capture_memory_new((size_t)peak);
    glia_model *a = open_with(memory, 0, 0), *b = open_with(memory, 0, 0);
    glia_capture_memory_unref(memory); /* the models have it */
    glia_request *first = submit(a, &p);
    wait_for_rows(a);
    glia_request *second = submit(b, &p);
    for (int i = 0; i < 5000 && !usage(b).n_waiting; i++) usleep(1000);
    assert_int_equal(usage(b).n_waiting, 1);
    drain_whole(first, 179); /* wakes the other model's engine */
    drain_whole(second, 179);
    assert_true(usage(a).peak <= peak);
    check_all_returned(b);
    glia_model_close(a);
    glia_model_close(b);
}

/* ------------------------------------------------------------------ leases by themselves */

static void failed_allocations_lease_nothing(void **s) {
    (void)s;
    glia_lease *l;
    glia_capture_usage u;
    glia_fault_arm(1);
    assert_null(glia_capture_memory_new(100));
    glia_fault_arm(0);
    glia_capture_memory *m = glia_capture_memory_new(100);
    glia_inbox *b = glia_inbox_new(1);
    glia_fault_arm(1);
    assert_int_equal(glia_lease_take(&l, m, 10), GLIA_ENOMEM);
    assert_null(l);
    glia_fault_arm(1);
    assert_false(glia_capture_memory_join(m, b));
    glia_fault_arm(0);
    glia_capture_memory_read(m, &u);
    assert_int_equal(u.leased, 0);
    assert_true(glia_capture_memory_join(m, b));
    assert_int_equal(glia_lease_take(&l, m, 101), GLIA_EBUSY);
    assert_int_equal(glia_lease_take(&l, m, UINT64_MAX), GLIA_EBUSY);
    assert_int_equal(glia_lease_take(&l, m, 60), GLIA_OK);
    glia_lease *second;
    assert_int_equal(glia_lease_take(&second, m, 41), GLIA_EBUSY);
    glia_capture_memory_wait(m, 1);
    assert_false(b->stirred);
    glia_lease_unref(l);
    assert_true(b->stirred); /* somebody waits: the engine is woken */
    glia_capture_memory_wait(m, -1);
    assert_int_equal(glia_lease_take(&second, m, 100), GLIA_OK);
    glia_capture_memory_leave(m, b);
    glia_capture_memory_leave(m, b); /* twice does no harm */
    glia_inbox_unref(b);
    glia_capture_memory_unref(m);
    glia_lease_unref(second); /* the last one takes the memory with it */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(predicted_peak_bounds_what_is_held),
        cmocka_unit_test(stalled_reader_holds_a_queue_and_one_event),
        cmocka_unit_test(kept_events_are_the_callers),
        cmocka_unit_test(request_that_never_fits_is_refused_with_both_numbers),
        cmocka_unit_test(requests_that_do_not_fit_together_take_turns),
        cmocka_unit_test(waiting_ends_with_busy_or_cancelled_and_nothing_is_lost),
        cmocka_unit_test(closing_a_model_ends_who_waits),
        cmocka_unit_test(models_share_one_memory),
        cmocka_unit_test(failed_allocations_lease_nothing),
    };
    return cmocka_run_group_tests(tests, fill_text, NULL);
}

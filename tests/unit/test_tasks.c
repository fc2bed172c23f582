/* tests/unit/test_tasks.c — src/api/tasks.c: long work on its own threads, without HTTP. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/tasks.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdatomic.h>
#include <string.h>
#include <time.h>

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

typedef struct work {
    atomic_int let_go, n_freed, n_seen;
    glia_status answer;
    size_t bytes; /* of the result */
    bool until_cancelled;
} work;

static glia_status do_work(glia_task *t, void *ud, glia_buf *result, glia_err *err) {
    work *w = ud;
    atomic_fetch_add(&w->n_seen, 1);
    glia_task_progress(t, 0.25, "{\"step\":1}");
    while (w->until_cancelled ? !glia_task_cancelled(t) : !atomic_load(&w->let_go)) nap();
    if (w->until_cancelled) return glia_fail(err, GLIA_ECANCELLED, "cancelled");
    if (w->answer) return glia_fail_at(err, w->answer, "layer", "layer 99: there are 4");
    if (!w->bytes) glia_buf_adds(result, "{\"answer\":42}");
    for (size_t i = 0; i < w->bytes; i++) glia_buf_adds(result, i ? "1" : "2");
    return GLIA_OK;
}

static void on_free(void *ud) { atomic_fetch_add(&((work *)ud)->n_freed, 1); }

static glia_task_params params(work *w) {
    return (glia_task_params){.kind = "test", .description = "a test", .work = do_work, .ud = w, .free_ud = on_free};
}

static void wait_idle(glia_tasks *ts) {
    while (glia_tasks_n_running(ts)) nap();
}

static void describe(glia_tasks *ts, const char *id, glia_buf *b) {
    b->n = 0;
    assert_int_equal(glia_tasks_describe(ts, id, b, NULL), GLIA_OK);
}

static void a_task_is_running_with_its_progress_then_completed_with_its_result(void **state) {
    (void)state;
    glia_tasks *ts = glia_tasks_new();
    work w = {0};
    char id[GLIA_TASK_ID];
    glia_buf b = {0};
    glia_task_params p = params(&w);
    assert_int_equal(glia_tasks_start(ts, &p, id, NULL), GLIA_OK);
    while (!atomic_load(&w.n_seen)) nap();
    do describe(ts, id, &b);
    while (!strstr(b.p, "\"progress\":0.25"));
    assert_non_null(strstr(b.p, "\"status\":\"running\""));
    assert_non_null(strstr(b.p, "\"detail\":{\"step\":1}"));
    assert_null(strstr(b.p, "result"));
    atomic_store(&w.let_go, 1);
    wait_idle(ts);
    describe(ts, id, &b);
    assert_non_null(strstr(b.p, "\"status\":\"completed\""));
    assert_non_null(strstr(b.p, "\"result\":{\"answer\":42}"));
    assert_int_equal(atomic_load(&w.n_freed), 1);
    b.n = 0;
    glia_tasks_list(ts, "test", &b);
    assert_non_null(strstr(b.p, id));
    assert_null(strstr(b.p, "result"));
    b.n = 0;
    glia_tasks_list(ts, "other", &b);
    assert_string_equal(b.p, "[]");
    glia_buf_clear(&b);
    glia_tasks_free(ts);
}

static void a_task_that_fails_says_why_and_where(void **state) {
    (void)state;
    glia_tasks *ts = glia_tasks_new();
    work w = {.answer = GLIA_EHOOK, .let_go = 1};
    char id[GLIA_TASK_ID];
    glia_buf b = {0};
    glia_task_params p = params(&w);
    assert_int_equal(glia_tasks_start(ts, &p, id, NULL), GLIA_OK);
    wait_idle(ts);
    describe(ts, id, &b);
    assert_non_null(strstr(b.p, "\"status\":\"failed\""));
    assert_non_null(strstr(b.p, "layer 99: there are 4"));
    assert_non_null(strstr(b.p, "\"param\":\"layer\""));
    glia_buf_clear(&b);
    glia_tasks_free(ts);
}

static void cancel_ends_a_task_and_an_unknown_one_is_not_found(void **state) {
    (void)state;
    glia_tasks *ts = glia_tasks_new();
    work w = {.until_cancelled = true};
    char id[GLIA_TASK_ID];
    glia_buf b = {0};
    glia_err err;
    glia_task_params p = params(&w);
    assert_int_equal(glia_tasks_start(ts, &p, id, NULL), GLIA_OK);
    assert_int_equal(glia_tasks_cancel(ts, "task-0-none", &err), GLIA_ENOTFOUND);
    assert_int_equal(glia_tasks_cancel(ts, id, NULL), GLIA_OK);
    wait_idle(ts);
    describe(ts, id, &b);
    assert_non_null(strstr(b.p, "\"status\":\"cancelled\""));
    assert_int_equal(glia_tasks_cancel(ts, id, NULL), GLIA_OK);
    glia_buf_clear(&b);
    glia_tasks_free(ts);
}

static void more_tasks_than_may_run_are_refused_and_give_their_data_back(void **state) {
    (void)state;
    glia_tasks *ts = glia_tasks_new();
    work w = {.until_cancelled = true};
    char id[GLIA_TASK_ID];
    glia_err err;
    glia_task_params p = params(&w);
    for (int i = 0; i < GLIA_TASKS_RUNNING; i++) assert_int_equal(glia_tasks_start(ts, &p, id, NULL), GLIA_OK);
    assert_int_equal(glia_tasks_start(ts, &p, id, &err), GLIA_EBUSY);
    assert_int_equal(atomic_load(&w.n_freed), 1);
    glia_tasks_free(ts); /* cancels them all */
    assert_int_equal(atomic_load(&w.n_freed), GLIA_TASKS_RUNNING + 1);
}

static void the_oldest_finished_tasks_are_forgotten(void **state) {
    (void)state;
    glia_tasks *ts = glia_tasks_new();
    work w = {.let_go = 1};
    char first[GLIA_TASK_ID], id[GLIA_TASK_ID];
    glia_buf b = {0};
    glia_task_params p = params(&w);
    for (int i = 0; i <= GLIA_TASKS_KEPT; i++) {
        assert_int_equal(glia_tasks_start(ts, &p, i ? id : first, NULL), GLIA_OK);
        wait_idle(ts);
    }
    assert_int_equal(glia_tasks_describe(ts, first, &b, NULL), GLIA_ENOTFOUND);
    describe(ts, id, &b);
    glia_buf_clear(&b);
    glia_tasks_free(ts);
}

static void every_failing_allocation_of_a_start_is_an_error_that_leaks_nothing(void **state) {
    (void)state;
    glia_tasks *ts = glia_tasks_new();
    work w = {.let_go = 1};
    char id[GLIA_TASK_ID];
    glia_err err;
    glia_task_params p = params(&w);
    int n = 0;
    for (bool fired = true; fired; n++) {
        glia_fault_arm((size_t)n + 1);
        glia_status st = glia_tasks_start(ts, &p, id, &err);
        fired = glia_fault_fired();
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
    }
    glia_fault_arm(0);
    assert_true(n >= 3);
    glia_tasks_free(ts);
    assert_int_equal(atomic_load(&w.n_freed), n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_task_is_running_with_its_progress_then_completed_with_its_result),
        cmocka_unit_test(a_task_that_fails_says_why_and_where),
        cmocka_unit_test(cancel_ends_a_task_and_an_unknown_one_is_not_found),
        cmocka_unit_test(more_tasks_than_may_run_are_refused_and_give_their_data_back),
        cmocka_unit_test(the_oldest_finished_tasks_are_forgotten),
        cmocka_unit_test(every_failing_allocation_of_a_start_is_an_error_that_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

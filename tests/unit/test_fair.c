/* tests/unit/test_fair.c — whose turn it is: a long prompt beside a stream, several long prompts, cancelling.
 *
 * What is counted is the order of events, which the engine's own thread gives; no times. */
#include "support.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { N_LONG = 2000, CHUNK = 64, N_CHUNKS = (N_LONG + CHUNK - 1) / CHUNK };

static int32_t prompt[N_LONG];
static atomic_int n_tokens; /* of the stream so far */
static int before[N_CHUNKS + 8], n_progress; /* what n_tokens was when the k-th chunk of the prompt was read */

static void on_token(void *ud) {
    (void)ud;
    atomic_fetch_add(&n_tokens, 1);
}
static void on_chunk(void *ud) {
    (void)ud;
    if (n_progress < N_CHUNKS + 8) before[n_progress++] = atomic_load(&n_tokens);
}

static void submit(glia_request **out, glia_model *m, const glia_request_params *p) {
    glia_err err;
    if (glia_request_submit(out, m, p, &err)) fail_msg("%s", err.message);
}

static int make_prompt(void **s) {
    (void)s;
    for (int i = 0; i < N_LONG; i++) prompt[i] = 33 + i * 37 % 90;
    return 0;
}

static void a_stream_gets_a_token_for_every_chunk_of_a_long_prompt(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 2, 4096, CHUNK);
    glia_request *stream, *reader;
    glia_request_params p = greedy(prompt, 8, 4000);
    submit(&stream, m, &p);
    glia_event *ev = glia_request_next(stream, 60000); /* it generates */
    assert_int_equal(ev->kind, GLIA_EVENT_TOKEN);
    glia_event_free(ev);
    glia_request_on_event(stream, on_token, NULL);
    n_progress = 0;
    p = greedy(prompt, N_LONG, 1);
    p.want_progress = true;
    submit(&reader, m, &p);
    glia_request_on_event(reader, on_chunk, NULL);
    result *r = drain(reader, 0);
    assert_int_equal(r->err.status, GLIA_OK);
    assert_int_equal(r->n_progress, N_CHUNKS);
    glia_request_free(reader);
    glia_request_cancel(stream);
    result *rest = drain(stream, 0);
    assert_int_equal(rest->err.status, GLIA_ECANCELLED); /* it was still generating */
    glia_request_free(stream);
    /* the callback may have been set after the first chunks; between two that it saw there is exactly a token */
    assert_true(n_progress >= N_CHUNKS / 2);
    for (int k = 1; k < n_progress && k < N_CHUNKS; k++) assert_int_equal(before[k], before[k - 1] + 1);
    result_free(r), result_free(rest);
    glia_model_close(m);
}

/* Prompts that are read at once each get their share of every pass: none waits for another to be whole. */
static void long_prompts_are_read_side_by_side(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 4, 4096, CHUNK);
    glia_request *r[3];
    glia_request_params p = greedy(prompt, N_LONG, 1);
    p.want_progress = true, p.no_cache = true;
    for (int i = 0; i < 3; i++) submit(&r[i], m, &p);
    int done[3] = {0}, most_apart = 0;
    for (int left = 3; left;) {
        for (int i = 0; i < 3; i++) {
            glia_event *ev = done[i] < 0 ? NULL : glia_request_next(r[i], 60000);
            if (!ev) continue;
            if (ev->kind == GLIA_EVENT_PROGRESS) done[i] = ev->u.progress.n_done;
            else if (ev->kind == GLIA_EVENT_DONE || ev->kind == GLIA_EVENT_ERROR) {
                assert_int_equal(ev->kind, GLIA_EVENT_DONE);
                done[i] = -1, left--;
            }
            glia_event_free(ev);
        }
        int low = N_LONG, high = 0;
        for (int i = 0; i < 3 && left == 3; i++) low = done[i] < low ? done[i] : low, high = done[i] > high ? done[i] : high;
        if (left == 3 && high - low > most_apart) most_apart = high - low;
    }
    print_message("most apart: %d tokens\n", most_apart);
    assert_true(most_apart <= 4 * CHUNK);
    for (int i = 0; i < 3; i++) glia_request_free(r[i]);
    glia_model_close(m);
}

/* Wherever a request is: waiting, in its prompt, generating, guessing, with a draft model. */
static void cancelling_frees_the_slot_everywhere(void **s) {
    (void)s;
    char path[1024];
    strcpy(path, tiny_model("llama"));
    glia_model_params mp;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&mp);
    mp.path = path, mp.n_parallel = 1, mp.n_ctx = 4096, mp.n_batch = CHUNK, mp.n_threads = test_threads();
    mp.draft_path = path, mp.draft_p_min = 1e-6f;
    if (glia_model_open(&m, &mp, &err)) fail_msg("%s", err.message);
    for (int k = 0; k < 24; k++) {
        glia_request *a, *b;
        glia_request_params p = greedy(prompt, k % 2 ? 8 : N_LONG, 1500);
        p.speculate = (glia_speculate)(1 + k % 3), p.want_progress = true, p.no_cache = k % 4 < 2;
        submit(&a, m, &p);
        submit(&b, m, &p); /* waits behind it */
        for (int i = 0; i < k / 2; i++) glia_event_free(glia_request_next(a, 60000));
        glia_request_cancel(k % 5 ? a : b);
        glia_request_cancel(k % 5 ? b : a);
        result *x = drain(a, 0), *y = drain(b, 0);
        assert_int_equal(x->err.status, GLIA_ECANCELLED);
        assert_int_equal(y->err.status, GLIA_ECANCELLED);
        result_free(x), result_free(y);
        glia_request_free(a), glia_request_free(b);
    }
    glia_activity act;
    glia_request_params p = greedy(prompt, 8, 4);
    result *last = run_request(m, &p);
    assert_int_equal(last->err.status, GLIA_OK);
    glia_model_activity(m, &act);
    assert_int_equal(act.n_waiting, 0);
    result_free(last);
    glia_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_gets_a_token_for_every_chunk_of_a_long_prompt),
        cmocka_unit_test(long_prompts_are_read_side_by_side),
        cmocka_unit_test(cancelling_frees_the_slot_everywhere),
    };
    return cmocka_run_group_tests(tests, make_prompt, NULL);
}

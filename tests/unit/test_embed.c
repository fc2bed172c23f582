/* Vectors of texts in the library: both kinds of models, many at once, given up half-way, and without memory. */
#include "base/mem.h"
#include "support.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static glia_err err;
static const char *const kinds[] = {"llama", "encoder-bert"};

static glia_model *open_kind(size_t i) { return open_model(tiny_model(kinds[i]), 2, 128, 64); }

static void on_end(void *ud) { atomic_fetch_add((atomic_int *)ud, 1); }

/* NULL: it failed, with err. */
static const float *wait_for(glia_embed *e) {
    const float *v = NULL;
    memset(&err, 0, sizeof err);
    for (int i = 0; i < 20000 && !glia_embed_take(e, &v, &err); i++) usleep(1000);
    return v;
}

static void texts_side_by_side_get_what_each_gets_alone(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        glia_model *m = open_kind(k);
        glia_model_info info;
        glia_model_get_info(m, &info);
        assert_true(info.encoder == (k == 1) && info.n_vector == 64 && !info.embeddings_refused);
        enum { N = 40 };
        glia_embed *e[N];
        atomic_int ended = 0;
        int32_t ids[N][8];
        float alone[N][64];
        for (int i = 0; i < N; i++) {
            for (int t = 0; t < 8; t++) ids[i][t] = 32 + (i * 7 + t * 5) % 90;
            assert_int_equal(glia_embed_submit(&e[0], m, ids[i], 8, info.pooling, NULL, NULL, &err), GLIA_OK);
            const float *v = wait_for(e[0]);
            assert_non_null(v);
            memcpy(alone[i], v, sizeof alone[i]);
            glia_embed_free(e[0]);
        }
        for (int i = 0; i < N; i++)
            assert_int_equal(glia_embed_submit(&e[i], m, ids[i], 8, info.pooling, on_end, &ended, &err), GLIA_OK);
        for (int i = 0; i < N; i++) {
            const float *v = wait_for(e[i]);
            assert_non_null(v);
            for (int c = 0; c < 64; c++) assert_true(fabsf(v[c] - alone[i][c]) < 1e-4f);
            glia_embed_free(e[i]);
        }
        assert_true(atomic_load(&ended) >= N);
        glia_model_close(m);
    }
}

static void texts_given_up_are_nobodys_loss(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        glia_model *m = open_kind(k);
        glia_model_info info;
        glia_model_get_info(m, &info);
        glia_embed *e[60];
        int32_t ids[100];
        for (int t = 0; t < 100; t++) ids[t] = 32 + t % 90;
        for (int i = 0; i < 60; i++)
            assert_int_equal(glia_embed_submit(&e[i], m, ids, 100, info.pooling, NULL, NULL, &err), GLIA_OK);
        for (int i = 0; i < 60; i += 2) glia_embed_free(e[i]);
        for (int i = 1; i < 60; i += 2) {
            assert_non_null(wait_for(e[i]));
            glia_embed_free(e[i]);
        }
        glia_model_close(m);
    }
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        glia_model *m = open_kind(k);
        glia_embed *e;
        int32_t ids[200] = {0}, bad = -1;
        assert_int_equal(glia_embed_submit(&e, m, ids, 0, GLIA_POOL_MEAN, NULL, NULL, &err), GLIA_EINVAL);
        assert_null(e);
        assert_int_equal(glia_embed_submit(&e, m, ids, 200, GLIA_POOL_MEAN, NULL, NULL, &err), GLIA_ECONTEXT);
        assert_int_equal(glia_embed_submit(&e, m, &bad, 1, GLIA_POOL_MEAN, NULL, NULL, &err), GLIA_EINVAL);
        if (k == 1) {
            assert_int_equal(glia_embed_submit(&e, m, ids, 3, GLIA_POOL_LAST, NULL, NULL, &err), GLIA_EINVAL);
            assert_string_equal(err.param, "pooling");
            glia_request *r;
            glia_request_params p;
            glia_request_params_init(&p);
            p.prompt = ids, p.n_prompt = 3;
            assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EINVAL);
            assert_null(r);
        }
        glia_model_close(m);
    }
}

static void a_full_queue_says_so(void **state) {
    (void)state;
    glia_model_params p;
    glia_model *m;
    glia_model_params_init(&p);
    p.path = tiny_model("encoder-bert"), p.n_ctx = 128, p.n_threads = 1, p.queue_limit = 4;
    assert_int_equal(glia_model_open(&m, &p, &err), GLIA_OK);
    glia_embed *e[200];
    int32_t ids[128];
    int n = 0;
    glia_status st = GLIA_OK;
    for (int t = 0; t < 128; t++) ids[t] = 32 + t % 90;
    while (n < 200 && !(st = glia_embed_submit(&e[n], m, ids, 128, GLIA_POOL_MEAN, NULL, NULL, &err))) n++;
    assert_int_equal(st, GLIA_EBUSY);
    for (int i = 0; i < n; i++) glia_embed_free(e[i]);
    assert_int_equal(glia_embed_submit(&e[0], m, ids, 128, GLIA_POOL_MEAN, NULL, NULL, &err), GLIA_OK);
    assert_non_null(wait_for(e[0]));
    glia_embed_free(e[0]);
    glia_model_close(m);
}

static void without_memory_nothing_is_half_submitted(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        glia_model *m = open_kind(k);
        int32_t ids[4] = {40, 41, 42, 43};
        int fired = 1;
        for (size_t n = 1; fired && n < 100; n++) {
            glia_embed *e;
            glia_fault_arm(n);
            glia_status st = glia_embed_submit(&e, m, ids, 4, GLIA_POOL_MEAN, NULL, NULL, &err);
            fired = glia_fault_fired();
            glia_fault_arm(0);
            assert_true((st == GLIA_OK) == (e != NULL));
            if (st) assert_int_equal(st, GLIA_ENOMEM);
            else assert_non_null(wait_for(e));
            glia_embed_free(e);
        }
        assert_false(fired);
        glia_model_close(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_side_by_side_get_what_each_gets_alone),
        cmocka_unit_test(texts_given_up_are_nobodys_loss),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(a_full_queue_says_so),
        cmocka_unit_test(without_memory_nothing_is_half_submitted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

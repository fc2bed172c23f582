/* tests/unit/test_kv.c — numbers of the KV cache: every type runs, attention is rebuilt from what it holds, and what a
 * model cannot have is refused with the way out.
 *
 * The reference is the same request with an f32 cache and without flash attention (which rounds to f16 on its own).  Tolerances: the step of a block of 32 numbers is its largest
 * over 2^(bits - 1); sums over heads and positions average it out.  Each is about three times what was measured. */
#include "support.h"
#include <stdlib.h>
#include <string.h>

enum { N = 60 };

static const double tolerance[GLIA_N_KV_TYPES] = {
    [GLIA_KV_F16] = 1e-2, [GLIA_KV_F32] = 1e-2,  [GLIA_KV_Q8_0] = 2e-2, [GLIA_KV_BF16] = 2e-2,  [GLIA_KV_Q5_1] = 0.3,
    [GLIA_KV_Q5_0] = 0.3, [GLIA_KV_Q4_1] = 0.6, [GLIA_KV_Q4_0] = 0.6, [GLIA_KV_IQ4_NL] = 0.6,
};

static void every_type_computes_what_f32_does_within_its_precision(void **s) {
    (void)s;
    int32_t t[N];
    for (int i = 0; i < N; i++) t[i] = 33 + i * 37 % 90;
    const glia_hook h[] = {{.point = GLIA_POINT_RESID_POST, .layer = 2, .phases = GLIA_PHASE_PROMPT},
                           {.point = GLIA_POINT_ATTN_PROBS, .layer = 1, .phases = GLIA_PHASE_PROMPT}};
    glia_request_params p = greedy(t, N, 1);
    p.hooks = h, p.n_hooks = 2;
    glia_model *m = open_model_with(tiny_model("qwen3"), 1, 128, 64, GLIA_FLASH_OFF, GLIA_KV_F32);
    result *want = run_request(m, &p);
    glia_model_close(m);
    for (int k = 0; k < GLIA_N_KV_TYPES; k++) {
        m = open_model_with(tiny_model("qwen3"), 1, 128, 64, GLIA_FLASH_ON, (glia_kv_type)k);
        result *got = run_request(m, &p);
        if (got->err.status) fail_msg("%s: %s", glia_kv_name((glia_kv_type)k), got->err.message);
        double resid = worst_error(got->hook[0].data, want->hook[0].data, (size_t)(N * want->hook[0].width));
        double probs = worst_error(got->hook[1].data, want->hook[1].data, (size_t)(N * want->hook[1].width));
        print_message("%s: resid_post %.2g, attn_probs %.2g\n", glia_kv_name((glia_kv_type)k), resid, probs);
        assert_true(resid <= tolerance[k] && probs <= tolerance[k]);
        result_free(got);
        glia_model_close(m);
    }
    result_free(want);
}

static void what_cannot_be_had_is_refused_by_name(void **s) {
    (void)s;
    glia_model *m;
    glia_err err;
    glia_model_params p;
    glia_model_params_init(&p);
    p.path = tiny_model("llama"), p.n_ctx = 128, p.kv_type = GLIA_KV_Q4_0; /* heads of 16 */
    assert_int_equal(glia_model_open(&m, &p, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "cache-type");
    assert_non_null(strstr(err.message, "multiple of 32"));
    p.flash = GLIA_FLASH_OFF;
    assert_int_equal(glia_model_open(&m, &p, &err), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "--flash-attn"));
    p.kv_type = GLIA_N_KV_TYPES;
    assert_int_equal(glia_model_open(&m, &p, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "cache-type");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_computes_what_f32_does_within_its_precision),
        cmocka_unit_test(what_cannot_be_had_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

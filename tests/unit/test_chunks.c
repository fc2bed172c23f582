/* tests/unit/test_chunks.c — a row does not hang on how its prompt was cut: every chunk size from one token to all of them,
 * every point of every layer, against the prompt in one pass. */
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 21, MAX_HOOKS = 256 };

/* Small batches run in other kernels than large ones, which sum in another order; ggml's GELU goes through a half-precision
 * table, where a last bit may flip an entry; flash attention sums values in half precision when a pass is small. */
static const struct kind {
    const char *family;
    double tolerance;
    glia_flash flash;
    glia_kv_type kv;
} kinds[] = {
    {"llama", 1e-5, GLIA_FLASH_OFF, GLIA_KV_F32},
    {"llama", 6e-3, GLIA_FLASH_ON, GLIA_KV_F16},
    {"qwen3", 6e-3, GLIA_FLASH_ON, GLIA_KV_Q8_0},
    {"gemma3", 2e-3, GLIA_FLASH_OFF, GLIA_KV_F32}, /* sliding windows */
    {"mixtral", 1e-5, GLIA_FLASH_OFF, GLIA_KV_F32},
    {"gpt2", 2e-3, GLIA_FLASH_OFF, GLIA_KV_F32},
    {"deepseek2", 1e-5, GLIA_FLASH_OFF, GLIA_KV_F32},
    {"jamba", 3e-5, GLIA_FLASH_OFF, GLIA_KV_F32}, /* a state */
    {"bloom", 2e-3, GLIA_FLASH_OFF, GLIA_KV_F32},
    {"mamba2", 3e-5, GLIA_FLASH_OFF, GLIA_KV_F32},
};

static size_t all_hooks(const glia_model *m, glia_hook *h) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    size_t n = 0;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int32_t il = 0; il < (glia_point_has_layer((glia_point)p) ? info.n_layer : 1); il++) {
            glia_point_info i;
            if (!glia_model_point(m, (glia_point)p, il, &i) || i.grade < GLIA_GRADE_STRUCTURAL) continue;
            assert_true(n < MAX_HOOKS);
            h[n++] = (glia_hook){.point = (glia_point)p, .layer = il, .phases = GLIA_PHASE_ALL};
        }
    }
    return n;
}

/* Scores that a row does not see are -inf on both sides. */
static double error(const rows *got, const rows *want) {
    double worst = 0, scale = 1e-30;
    for (int64_t i = 0; i < (int64_t)got->n * got->width; i++) {
        double g = (double)got->data[i], w = (double)want->data[i];
        if (g == w) continue;
        double d = g > w ? g - w : w - g;
        if (d > worst || d != d) worst = d == d ? d : 1e30;
    }
    for (int64_t i = 0; i < (int64_t)want->n * want->width; i++) {
        double w = want->data[i] < 0 ? -(double)want->data[i] : (double)want->data[i];
        if (w > scale && w < 1e30) scale = w;
    }
    return worst / scale;
}

static void every_chunk_size_gives_the_same_rows(void **state) {
    (void)state;
    static glia_hook h[MAX_HOOKS];
    int32_t prompt[N];
    for (int i = 0; i < N; i++) prompt[i] = 1 + (i * 37 + i * i) % 96;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const struct kind *t = &kinds[k];
        glia_model *m = open_model_with(tiny_model(t->family), 1, 48, 32, t->flash, t->kv);
        size_t n = all_hooks(m, h);
        result *whole = NULL;
        double worst = 0;
        for (int32_t chunk = 0; chunk <= N; chunk++) { /* 0: as much as fits */
            glia_request_params p = greedy(prompt, N, 1);
            p.hooks = h, p.n_hooks = n, p.prompt_chunk = chunk, p.no_cache = true;
            result *r = run_request(m, &p);
            if (r->err.status) fail_msg("%s: %s", t->family, r->err.message);
            for (size_t i = 0; whole && i < n; i++) {
                const rows *got = &r->hook[i], *want = &whole->hook[i];
                assert_int_equal(got->n, N);
                assert_int_equal(got->width, want->width);
                assert_memory_equal(got->pos, want->pos, N * sizeof *got->pos);
                assert_memory_equal(got->tok, want->tok, N * sizeof *got->tok);
                double e = error(got, want);
                if (e > worst) worst = e;
                if (e > t->tolerance)
                    fail_msg("%s, chunks of %d: %s.%d is off by %.3g", t->family, chunk, glia_point_name(h[i].point),
                             h[i].layer, e);
            }
            if (whole) result_free(r);
            else whole = r;
        }
        print_message("%s%s: %zu places, chunks of 1 to %d, worst %.2g\n", t->family,
                      t->flash == GLIA_FLASH_ON ? " (flash)" : "", n, N, worst);
        result_free(whole);
        glia_model_close(m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_chunk_size_gives_the_same_rows)};
    setenv("GLIA_TEST_THREADS", "1", 0); /* two threads on models this small mostly wait for each other */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

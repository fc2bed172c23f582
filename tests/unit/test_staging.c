/* tests/unit/test_staging.c — rows that leave through a ring of staging memory are the rows; memory that devices copy to.
 *
 * The same code as for a GPU, over the CPU's backend interface: a second backend instance, a ring far smaller than what
 * goes through it, stops that are not waited for.  What only a device can show (order between streams, overlap) is
 * bench/gpu.sh's business, which runs the golden tests on one. */
#include "engine/pages.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "support.h"
#include "tap/staging.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ the ring, under ggml's own scheduler */

enum { WIDTH = 64, T = 5, N_NODES = 8, RING = 16 * 256 };

typedef struct watch {
    glia_staging *s;
    struct ggml_tensor *node[N_NODES];
    float got[N_NODES][T * WIDTH];
    int n_fetched;
    bool in_line; /* every second node is read in line */
} watch;

static int index_of(const watch *w, const struct ggml_tensor *x) {
    int i = 0;
    while (i < N_NODES && w->node[i] != x) i++;
    return i;
}

static bool on_node(struct ggml_tensor *x, bool ask, void *ud) {
    watch *w = ud;
    int i = index_of(w, x);
    if (i == N_NODES) return !ask;
    if (ask) {
        glia_staging_do_not_wait(w->s, x);
        return true;
    }
    glia_staging_fetched(w->s);
    w->n_fetched++;
    if (w->in_line && i % 2) {
        glia_staging_settle(w->s);
        ggml_backend_tensor_get(x, w->got[i], 0, sizeof w->got[i]);
        return true;
    }
    size_t half = (T / 2) * WIDTH * sizeof(float); /* in two pieces, the second first */
    assert_true(glia_staging_copy(w->s, x, half, sizeof w->got[i] - half, (char *)w->got[i] + half));
    assert_true(glia_staging_copy(w->s, x, 0, half, w->got[i]));
    return true;
}

static void rows_through_a_small_ring_are_whole(void **state) {
    (void)state;
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_t backend = ggml_backend_dev_init(cpu, NULL);
    assert_non_null(backend);
    ggml_backend_sched_t sched = ggml_backend_sched_new(&backend, NULL, 1, 64, false, false);
    struct ggml_context *ctx = ggml_init((struct ggml_init_params){.mem_size = 1 << 20, .no_alloc = true});
    struct ggml_tensor *in = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, WIDTH, T), *x = in;
    ggml_set_input(in);
    watch w = {0};
    for (int i = 0; i < N_NODES; i++) w.node[i] = x = ggml_scale(ctx, x, 1.5f);
    struct ggml_cgraph *gf = ggml_new_graph(ctx);
    ggml_build_forward_expand(gf, x);
    assert_true(ggml_backend_sched_alloc_graph(sched, gf));
    float v[T * WIDTH];
    for (int i = 0; i < T * WIDTH; i++) v[i] = (float)(i + 1);
    glia_staging_params p = {.ring_bytes = RING};
    assert_true(glia_staging_new(&w.s, sched, &p));
    assert_null(w.s); /* nothing here is a device with memory of its own */
    for (int round = 0; round < 4; round++) {
        p.host_too = true, p.stops = round == 3, w.in_line = round == 2;
        assert_true(glia_staging_new(&w.s, sched, &p));
        assert_non_null(w.s);
        assert_non_null(glia_staging_host_memory(w.s));
        ggml_backend_sched_set_eval_callback(sched, on_node, &w);
        memset(w.got, 0, sizeof w.got);
        w.n_fetched = 0;
        assert_true(!glia_staging_copy(w.s, in, 0, 4, w.got)); /* no pass is under way */
        for (int pass = 0; pass < 2; pass++) {
            ggml_backend_tensor_set(in, v, 0, sizeof v); /* its memory was used again by later nodes */
            glia_staging_begin(w.s);
            assert_int_equal(ggml_backend_sched_graph_compute(sched, gf), GGML_STATUS_SUCCESS);
            glia_staging_end(w.s);
        }
        assert_int_equal(w.n_fetched, 2 * N_NODES);
        float factor = 1;
        for (int i = 0; i < N_NODES; i++) {
            factor *= 1.5f;
            for (int k = 0; k < T * WIDTH; k++) assert_float_equal(w.got[i][k], factor * v[k], 1e-3f * factor * v[k]);
        }
        glia_staging_counts c;
        glia_staging_count(w.s, &c);
        int staged = w.in_line ? N_NODES / 2 : N_NODES;
        assert_int_equal(c.copies, 2 * 2 * staged);
        assert_int_equal(c.bytes, 2 * staged * T * WIDTH * (int)sizeof(float));
        assert_true(w.in_line || c.reused > 2); /* 10 KiB went through 4 */
        assert_int_equal(c.unwaited, p.stops ? 0 : 2 * N_NODES);
        glia_staging_free(w.s);
    }
    ggml_free(ctx);
    ggml_backend_sched_free(sched);
    ggml_backend_free(backend);
}

/* ------------------------------------------------------------------ requests */

enum { N = 11, MAX_HOOKS = 768 };
static const int32_t prompt[N] = {7, 50, 3, 99, 12, 61, 8, 120, 33, 5, 77};

static glia_model *open_staged(const char *family, glia_staging_mode mode) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&p);
    p.path = tiny_model(family), p.n_parallel = 2, p.n_ctx = 64, p.n_batch = 32, p.n_threads = test_threads();
    p.flash = GLIA_FLASH_OFF, p.kv_type = GLIA_KV_F32, p.staging = mode, p.staging_bytes = 8192;
    if (getenv("GLIA_TEST_GPU_LAYERS")) p.n_gpu_layers = atoi(getenv("GLIA_TEST_GPU_LAYERS")); /* bench/gpu.sh */
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

/* Every point of every layer: all rows, the last, one from the middle on, two apart. */
static size_t all_hooks(const glia_model *m, glia_hook *h) {
    static const int64_t last = -1, apart[] = {1, 6};
    static const glia_range middle = {4, GLIA_RANGE_END};
    glia_model_info info;
    glia_model_get_info(m, &info);
    size_t n = 0;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int32_t il = 0; il < (glia_point_has_layer((glia_point)p) ? info.n_layer : 1); il++) {
            glia_point_info i;
            if (!glia_model_point(m, (glia_point)p, il, &i) || i.grade < GLIA_GRADE_STRUCTURAL) continue;
            for (int k = 0; k < 4 && n < MAX_HOOKS; k++) {
                h[n] = (glia_hook){.point = (glia_point)p, .layer = il, .phases = GLIA_PHASE_ALL};
                if (k == 1) h[n].positions = &last, h[n].n_positions = 1;
                if (k == 2) h[n].range = &middle;
                if (k == 3) h[n].positions = apart, h[n].n_positions = 2;
                n++;
            }
        }
    }
    return n;
}

/* Bit for bit what comes without staging, whatever way the prompt is cut. */
static void staged_rows_are_the_rows(void **state) {
    (void)state;
    static const char *const families[] = {"llama", "gemma2", "mixtral", "gpt2", "jamba"};
    static glia_hook h[MAX_HOOKS];
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        glia_model *plain = open_staged(families[f], GLIA_STAGING_OFF),
                   *staged = open_staged(families[f], GLIA_STAGING_ALWAYS);
        size_t n = all_hooks(plain, h);
        for (int32_t chunk = 0; chunk <= 5; chunk += 5) {
            glia_request_params p = greedy(prompt, N, 3);
            p.hooks = h, p.n_hooks = n, p.prompt_chunk = chunk, p.no_cache = true;
            result *a = run_request(plain, &p), *b = run_request(staged, &p);
            assert_int_equal(a->err.status, GLIA_OK);
            assert_int_equal(b->err.status, GLIA_OK);
            for (size_t i = 0; i < n; i++) {
                const rows *x = &a->hook[i], *y = &b->hook[i];
                if (x->n != y->n || x->width != y->width ||
                    memcmp(x->data, y->data, (size_t)x->n * (size_t)x->width * sizeof(float)))
                    fail_msg("%s: %s.%d", families[f], glia_point_name(h[i].point), h[i].layer);
            }
            assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
            result_free(a);
            result_free(b);
        }
        glia_model_close(plain);
        glia_model_close(staged);
    }
}

/* With devices, passes without hooks run without the callback: which cells they filled is unknown, so that a hook whose
 * columns are positions must not build on them, and others may. */
static void passes_that_nobody_watched_are_not_taken_for_known(void **state) {
    (void)state;
    glia_model *plain = open_staged("llama", GLIA_STAGING_OFF), *staged = open_staged("llama", GLIA_STAGING_ALWAYS);
    const int64_t last[] = {-1};
    glia_hook h[] = {{.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_PROMPT, .positions = last, .n_positions = 1},
                     {.point = GLIA_POINT_ATTN_PROBS, .layer = 1, .phases = GLIA_PHASE_PROMPT, .positions = last, .n_positions = 1}};
    for (int i = 0; i < 6; i++) { /* in turns: the callback comes and goes */
        glia_request_params p = greedy(prompt, N, 3), q = greedy(prompt, N, 2);
        q.hooks = &h[i % 2], q.n_hooks = 1;
        result *unseen = run_request(staged, &p), *got = run_request(staged, &q);
        q.no_cache = true;
        result *want = run_request(plain, &q);
        assert_int_equal(unseen->err.status, GLIA_OK);
        assert_int_equal(got->err.status, GLIA_OK);
        assert_int_equal(got->usage.n_cached, i % 2 ? 0 : N - 1);
        assert_true(worst_error(got->hook[0].data, want->hook[0].data, (size_t)want->hook[0].width) < (getenv("GLIA_TEST_GPU_LAYERS") ? 2e-2 : 1e-5));
        assert_memory_equal(got->ids, want->ids, (size_t)want->n_ids * sizeof *want->ids);
        result_free(unseen), result_free(got), result_free(want);
    }
    glia_model_close(plain);
    glia_model_close(staged);
}

/* Events hold their memory when the model is closed under them. */
static void events_outlive_their_model(void **state) {
    (void)state;
    glia_model *m = open_staged("llama", GLIA_STAGING_ALWAYS);
    glia_hook h = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL};
    glia_request_params p = greedy(prompt, N, 2);
    glia_request *r;
    glia_err err;
    glia_event *kept = NULL;
    p.hooks = &h, p.n_hooks = 1;
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_OK);
    while (!kept) {
        glia_event *ev = glia_request_next(r, 10000);
        assert_non_null(ev);
        if (ev->kind == GLIA_EVENT_ACTIVATIONS) kept = ev;
        else glia_event_free(ev);
    }
    glia_model_close(m);
    glia_request_free(r);
    const glia_frame *f = &kept->u.activations.frames[0];
    assert_int_equal(f->n_rows, N);
    float sum = 0;
    for (int32_t i = 0; i < f->n_rows * f->width; i++) sum += f->data[i] * f->data[i];
    assert_true(sum > 0);
    glia_event_free(kept);
}

/* ------------------------------------------------------------------ memory */

static void blocks_are_used_again_within_bounds(void **state) {
    (void)state;
    const size_t mib = (size_t)1 << 20;
    glia_pages *p = glia_pages_new(ggml_backend_cpu_buffer_type(), 6 * mib, false);
    size_t all, unused;
    assert_non_null(p);
    char *a = glia_pages_take(p, 100), *b = glia_pages_take(p, 3000), *c = glia_pages_take(p, 3 * mib);
    assert_true(a && b && c && a != b);
    assert_int_equal((uintptr_t)a % 64 + (uintptr_t)b % 64 + (uintptr_t)c % 64, 0);
    memset(a, 1, 100), memset(b, 2, 3000), memset(c, 3, 3 * mib);
    assert_int_equal(a[99] + b[0] + b[2999] + c[0], 8);
    glia_pages_give(b);
    assert_ptr_equal(glia_pages_take(p, 2500), b); /* the same step of sizes */
    glia_pages_give(c);
    assert_ptr_equal(glia_pages_take(p, 3 * mib + 5000), c);
    char *big = glia_pages_take(p, 5 * mib);
    glia_pages_count(p, &all, &unused);
    assert_true(all >= 8 * mib && unused == 0);
    glia_pages_give(c);
    glia_pages_give(big); /* together more than is kept: the second goes back at once */
    glia_pages_count(p, &all, &unused);
    assert_true(unused >= 3 * mib && unused <= 4 * mib && all <= 5 * mib);
    assert_null(glia_pages_take(p, (size_t)1 << 60));
    glia_pages_unref(p); /* blocks keep it */
    assert_int_equal(a[0] + b[7], 1 + 2);
    glia_pages_give(a);
    glia_pages_give(b);
    glia_pages_give(NULL);
    p = glia_pages_new(ggml_backend_cpu_buffer_type(), 6 * mib, true);
    assert_null(glia_pages_take(p, 3000)); /* the heap's */
    assert_non_null(c = glia_pages_take(p, 3 * mib));
    glia_pages_give(c);
    glia_pages_unref(p);
}

static void *churn(void *arg) {
    glia_pages *p = arg;
    unsigned char *held[8] = {0};
    size_t n[8] = {0};
    for (unsigned i = 0; i < 4000; i++) {
        unsigned k = i % 8;
        for (size_t at = 0; held[k] && at < n[k]; at += 997) {
            if (held[k][at] != (unsigned char)((uintptr_t)&held[k] >> 3)) return "another's block";
        }
        glia_pages_give(held[k]);
        n[k] = 1 + (i * 7919u) % 60000;
        if (!(held[k] = glia_pages_take(p, n[k]))) return "no memory";
        memset(held[k], (int)((uintptr_t)&held[k] >> 3) & 255, n[k]);
    }
    for (int k = 0; k < 8; k++) glia_pages_give(held[k]);
    return NULL;
}

static void threads_get_blocks_of_their_own(void **state) {
    (void)state;
    glia_pages *p = glia_pages_new(ggml_backend_cpu_buffer_type(), (size_t)8 << 20, false);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, churn, p), 0);
    for (int i = 0; i < 4; i++) {
        void *why;
        pthread_join(t[i], &why);
        if (why) fail_msg("%s", (const char *)why);
    }
    size_t all, unused;
    glia_pages_count(p, &all, &unused);
    assert_int_equal(all, unused);
    glia_pages_unref(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_through_a_small_ring_are_whole), cmocka_unit_test(staged_rows_are_the_rows),
        cmocka_unit_test(passes_that_nobody_watched_are_not_taken_for_known),
        cmocka_unit_test(events_outlive_their_model),          cmocka_unit_test(blocks_are_used_again_within_bounds),
        cmocka_unit_test(threads_get_blocks_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

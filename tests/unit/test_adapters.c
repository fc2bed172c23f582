/* tests/unit/test_adapters.c — LoRA adapters per request: each answer is that of the model with the adapter merged in.
 *
 * The reference is a file of its own: the tiny model's weights W with W + scale * (alpha / r) * B A in place of them, made
 * here in double.  No request, cached prefix or slot of one adapter may show in another's answer. */
#include "base/mem.h"
#include "ggml.h"
#include "gguf.h"
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RANK = 4, N = 60, N_OUT = 12, N_FILES = 2 };
static const float alpha = 8;
static char folder[] = "/tmp/glia-lora-XXXXXX", adapter_path[N_FILES][64], merged_path[N_FILES][64];
static const char *const tuned[] = {"blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.2.attn_output.weight"};

static float noise(unsigned file, unsigned tensor, unsigned i) {
    unsigned x = (i + 1) * 2654435761u ^ (file * 97u + tensor * 31u + 5u) * 2246822519u;
    x ^= x >> 15, x *= 3266489917u, x ^= x >> 13;
    return ((float)(x % 2001) - 1000) / 4000;
}

/* Adapter `file`, and the model that it makes at scale 1. */
static void make(unsigned file) {
    struct ggml_context *weights = NULL;
    struct gguf_context *model =
        gguf_init_from_file(tiny_model("llama"), (struct gguf_init_params){.no_alloc = false, .ctx = &weights});
    assert_non_null(model);
    struct gguf_context *g = gguf_init_empty();
    struct ggml_context *c =
        ggml_init((struct ggml_init_params){.mem_size = 4u << 20, .mem_buffer = NULL, .no_alloc = false});
    assert_non_null(c);
    gguf_set_val_str(g, "general.type", "adapter");
    gguf_set_val_str(g, "general.architecture", "llama");
    gguf_set_val_str(g, "adapter.type", "lora");
    gguf_set_val_f32(g, "adapter.lora.alpha", alpha);
    for (unsigned k = 0; k < sizeof tuned / sizeof *tuned; k++) {
        struct ggml_tensor *w = ggml_get_tensor(weights, tuned[k]);
        assert_non_null(w);
        assert_int_equal(w->type, GGML_TYPE_F32);
        int64_t n_in = w->ne[0], n_out = w->ne[1];
        struct ggml_tensor *a = ggml_new_tensor_2d(c, GGML_TYPE_F32, n_in, RANK),
                           *b = ggml_new_tensor_2d(c, GGML_TYPE_F32, RANK, n_out);
        char name[128];
        snprintf(name, sizeof name, "%s.lora_a", tuned[k]), ggml_set_name(a, name);
        snprintf(name, sizeof name, "%s.lora_b", tuned[k]), ggml_set_name(b, name);
        float *av = a->data, *bv = b->data, *wv = w->data;
        for (int64_t i = 0; i < n_in * RANK; i++) av[i] = noise(file, 2 * k, (unsigned)i);
        for (int64_t i = 0; i < n_out * RANK; i++) bv[i] = noise(file, 2 * k + 1, (unsigned)i);
        for (int64_t o = 0; o < n_out; o++) {
            for (int64_t i = 0; i < n_in; i++) {
                double sum = 0;
                for (int r = 0; r < RANK; r++) sum += (double)bv[o * RANK + r] * (double)av[r * n_in + i];
                wv[o * n_in + i] = (float)((double)wv[o * n_in + i] + (double)alpha / RANK * sum);
            }
        }
        gguf_add_tensor(g, a), gguf_add_tensor(g, b);
    }
    snprintf(adapter_path[file], sizeof adapter_path[file], "%s/a%u.gguf", folder, file);
    snprintf(merged_path[file], sizeof merged_path[file], "%s/m%u.gguf", folder, file);
    assert_true(gguf_write_to_file(g, adapter_path[file], false));
    /* the model again, with the changed weights */
    struct gguf_context *out = gguf_init_empty();
    gguf_set_kv(out, model);
    for (struct ggml_tensor *t = ggml_get_first_tensor(weights); t; t = ggml_get_next_tensor(weights, t)) {
        if (gguf_find_tensor(model, t->name) >= 0) gguf_add_tensor(out, t);
    }
    assert_true(gguf_write_to_file(out, merged_path[file], false));
    gguf_free(out), gguf_free(g), gguf_free(model);
    ggml_free(c), ggml_free(weights);
}

static int make_files(void **s) {
    (void)s;
    assert_non_null(mkdtemp(folder));
    for (unsigned i = 0; i < N_FILES; i++) make(i);
    return 0;
}

static int remove_files(void **s) {
    (void)s;
    for (unsigned i = 0; i < N_FILES; i++) unlink(adapter_path[i]), unlink(merged_path[i]);
    return rmdir(folder);
}

static glia_model *open_tuned(int n_parallel) {
    const glia_adapter_file files[] = {{.name = "first", .path = adapter_path[0]}, {.path = adapter_path[1]}};
    glia_model_params p;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&p);
    p.path = tiny_model("llama"), p.n_parallel = n_parallel, p.n_ctx = 128, p.n_batch = 32, p.n_threads = test_threads();
    p.flash = GLIA_FLASH_OFF, p.kv_type = GLIA_KV_F32, p.adapters = files, p.n_adapters = N_FILES;
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

static void prompt(int32_t t[N]) {
    for (int i = 0; i < N; i++) t[i] = 33 + i * 37 % 90;
}

static result *reference(const char *path, const int32_t *t) {
    glia_model *m = open_model(path, 1, 128, 32);
    glia_request_params p = greedy(t, N, N_OUT);
    p.sampling.n_logprobs = 0;
    result *r = run_request(m, &p);
    glia_model_close(m);
    return r;
}

static void same(const result *a, const result *b) {
    if (a->err.status) fail_msg("%s", a->err.message);
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
    assert_true(worst_error(a->logprob, b->logprob, (size_t)a->n_ids) <= 1e-4);
}

static const glia_adapter_use uses[][2] = {{{0, 1}}, {{1, 1}}, {{1, 0}}};
enum { PLAIN = N_FILES };

static result *ask(glia_model *m, const int32_t *t, int which) {
    glia_request_params p = greedy(t, N, N_OUT);
    p.sampling.n_logprobs = 0;
    p.adapters = uses[which], p.n_adapters = 1; /* PLAIN: a scale of 0 is none */
    return run_request(m, &p);
}

static void an_adapter_is_what_merging_makes_of_it(void **s) {
    (void)s;
    int32_t t[N];
    prompt(t);
    result *want[] = {reference(merged_path[0], t), reference(merged_path[1], t), reference(tiny_model("llama"), t)};
    assert_true(memcmp(want[0]->ids, want[PLAIN]->ids, N_OUT * sizeof(int32_t)) != 0);
    assert_true(memcmp(want[0]->ids, want[1]->ids, N_OUT * sizeof(int32_t)) != 0);
    /* one slot: the cache of one is never another's, on the shelf neither */
    glia_model *m = open_tuned(1);
    static const int order[] = {PLAIN, 0, 1, 0, PLAIN, 1, PLAIN};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        result *got = ask(m, t, order[i]);
        same(got, want[order[i]]);
        /* first time: nothing of another's; later: its own from the shelf */
        assert_int_equal(got->usage.n_cached, i < 3 ? 0 : N - 1);
        result_free(got);
    }
    glia_model_close(m);
    /* side by side */
    m = open_tuned(3);
    for (int round = 0; round < 3; round++) {
        glia_request *r[3];
        for (int i = 0; i < 3; i++) {
            glia_err err;
            glia_request_params p = greedy(t, N, N_OUT);
            p.sampling.n_logprobs = 0, p.adapters = uses[(i + round) % 3], p.n_adapters = 1, p.no_cache = round == 1;
            if (glia_request_submit(&r[i], m, &p, &err)) fail_msg("%s", err.message);
        }
        for (int i = 0; i < 3; i++) {
            result *got = drain(r[i], 0);
            same(got, want[(i + round) % 3]);
            result_free(got);
            glia_request_free(r[i]);
        }
    }
    glia_model_close(m);
    for (int i = 0; i < 3; i++) result_free(want[i]);
}

static void two_adapters_and_their_order(void **s) {
    (void)s;
    int32_t t[N];
    prompt(t);
    glia_model *m = open_tuned(1);
    const glia_adapter_use ab[] = {{0, 0.5f}, {1, -0.25f}}, ba[] = {{1, -0.25f}, {0, 0.5f}};
    glia_request_params p = greedy(t, N, N_OUT);
    p.sampling.n_logprobs = 0, p.adapters = ab, p.n_adapters = 2;
    result *x = run_request(m, &p);
    p.adapters = ba;
    result *y = run_request(m, &p);
    assert_int_equal(y->usage.n_cached, N - 1); /* the same set */
    same(y, x);
    result_free(x), result_free(y);
    glia_model_close(m);
}

static void what_cannot_be_had_is_refused(void **s) {
    (void)s;
    glia_model *m = open_tuned(1), *none;
    glia_request *r;
    glia_err err;
    int32_t t[N];
    prompt(t);
    glia_request_params p = greedy(t, N, 1);
    const glia_adapter_use missing = {2, 1}, twice[] = {{0, 1}, {0, 2}}, nan = {0, 0.0f / 0.0f};
    p.adapters = &missing, p.n_adapters = 1;
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "lora[0]");
    p.adapters = twice, p.n_adapters = 2;
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "lora[1]");
    p.adapters = &nan, p.n_adapters = 1;
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EINVAL);
    const glia_hook h = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL};
    p.adapters = uses[0], p.hooks = &h, p.n_hooks = 1; /* not proven: refused, never served from the plain graph */
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EHOOK);
    assert_string_equal(err.param, "lora");
    /* and hooks without adapters, beside and behind requests with them, are right */
    p.n_adapters = 0;
    result *hooked = run_request(m, &p);
    result_free(ask(m, t, 0));
    result *again = run_request(m, &p);
    assert_int_equal(again->err.status, GLIA_OK);
    assert_true(worst_error(again->hook[0].data, hooked->hook[0].data, (size_t)(N * hooked->hook[0].width)) <= 1e-5);
    result_free(hooked), result_free(again);
    glia_model_close(m);

    glia_model_params mp;
    glia_model_params_init(&mp);
    char path[1024];
    strcpy(path, tiny_model("llama"));
    const glia_adapter_file no_adapter = {.path = path}, no_file = {.path = "/nowhere"},
                            two[] = {{.path = adapter_path[0]}, {.path = adapter_path[0]}};
    mp.path = path, mp.n_ctx = 64, mp.adapters = &no_adapter, mp.n_adapters = 1;
    assert_int_equal(glia_model_open(&none, &mp, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "lora");
    mp.adapters = &no_file;
    assert_int_equal(glia_model_open(&none, &mp, &err), GLIA_ENOTFOUND);
    mp.adapters = two, mp.n_adapters = 2;
    assert_int_equal(glia_model_open(&none, &mp, &err), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "two adapters"));
    char qwen[1024];
    strcpy(qwen, tiny_model("qwen3"));
    const glia_adapter_file foreign = {.path = adapter_path[0]};
    mp.path = qwen, mp.adapters = &foreign, mp.n_adapters = 1;
    assert_int_equal(glia_model_open(&none, &mp, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "lora");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adapter_is_what_merging_makes_of_it),
        cmocka_unit_test(two_adapters_and_their_order),
        cmocka_unit_test(what_cannot_be_had_is_refused),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}

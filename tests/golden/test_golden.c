/* tests/golden/test_golden.c — every point, layer, head and token of six families against Hugging Face transformers.
 *
 * Reads tests/golden/MANIFEST.json and <family>.safetensors (format: tools/reference/README.md) and runs the tiny
 * models that tools/tiny/mktiny.py made.  Exact settings: float32 KV cache, flash attention off; then a second run with
 * f16 cache and flash attention at the tolerance that those cost.
 * GLIA_TEST_GPU_LAYERS and GLIA_TEST_TOLERANCE (added to every tolerance) run the same on another backend. */
#include "glia.h"
#include "yyjson.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct golden {
    char *bytes;
    size_t n;
    yyjson_doc *head;
    const char *data;
} golden;

static const char *env(const char *name) {
    const char *v = getenv(name);
    if (!v) fail_msg("%s is not set: run through ctest", name);
    return v;
}

static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    rewind(f);
    char *p = malloc((size_t)size + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, (size_t)size, f), (size_t)size);
    p[ *n = (size_t)size] = 0;
    fclose(f);
    return p;
}

static golden golden_open(const char *family, const char *part) {
    char path[512];
    golden g;
    uint64_t n_head;
    snprintf(path, sizeof path, "%s/tests/golden/%s%s.safetensors", env("GLIA_SOURCE_DIR"), family, part);
    g.bytes = slurp(path, &g.n);
    memcpy(&n_head, g.bytes, 8);
    g.head = yyjson_read(g.bytes + 8, n_head, 0);
    assert_non_null(g.head);
    g.data = g.bytes + 8 + n_head;
    return g;
}

/* [rows, width] f32; NULL when the family has no such tensor */
static const float *golden_tensor(const golden *g, const char *name, int *rows, int *width) {
    yyjson_val *t = yyjson_obj_get(yyjson_doc_get_root(g->head), name);
    if (!t) return NULL;
    yyjson_val *shape = yyjson_obj_get(t, "shape");
    *rows = yyjson_get_int(yyjson_arr_get(shape, 0)), *width = yyjson_get_int(yyjson_arr_get(shape, 1));
    return (const float *)(const void *)(g->data +
                                         yyjson_get_uint(yyjson_arr_get(yyjson_obj_get(t, "data_offsets"), 0)));
}

static int ids(yyjson_val *family, const char *key, int32_t *out, int max) {
    size_t i, n;
    yyjson_val *v;
    yyjson_arr_foreach(yyjson_obj_get(family, key), i, n, v) {
        assert_true((int)i < max);
        out[i] = yyjson_get_int(v);
    }
    return (int)n;
}

static double tolerance(yyjson_val *family, const char *tensor) {
    yyjson_val *t = yyjson_obj_get(family, "tolerance"), *v;
    size_t i, n;
    if (yyjson_obj_get(t, "all")) return yyjson_get_num(yyjson_obj_get(t, "all"));
    yyjson_arr_foreach(yyjson_obj_get(t, "before_gelu_tensors"), i, n, v) {
        if (!strcmp(yyjson_get_str(v), tensor)) return yyjson_get_num(yyjson_obj_get(t, "before_gelu"));
    }
    return yyjson_get_num(yyjson_obj_get(t, "after_gelu"));
}

/* What one hook got: rows by position. */
typedef struct got {
    float *rows; /* [n_rows, width] */
    int32_t n_rows, width, n_heads;
    int32_t pos[64], tok[64];
} got;

static void collect(got *g, const glia_frame *f) {
    g->rows = realloc(g->rows, sizeof(float) * (size_t)(g->n_rows + f->n_rows) * (size_t)f->width);
    assert_non_null(g->rows);
    memcpy(g->rows + g->n_rows * f->width, f->data, sizeof(float) * (size_t)f->n_rows * (size_t)f->width);
    for (int i = 0; i < f->n_rows; i++)
        g->pos[g->n_rows + i] = f->positions[i], g->tok[g->n_rows + i] = f->token_ids[i];
    g->n_rows += f->n_rows, g->width = f->width, g->n_heads = f->n_heads;
}

static double worst(const float *a, const float *b, int n) {
    double err = 0, top = 1e-30;
    for (int i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= err)) err = d; /* a NaN is an error, too */
        if (fabs((double)b[i]) > top) top = fabs((double)b[i]);
    }
    return err / top;
}

static void check_family(const char *family, glia_flash flash, glia_kv_type kv, int n_batch, double extra) {
    char path[512];
    size_t n;
    glia_err err = {0};
    snprintf(path, sizeof path, "%s/tests/golden/MANIFEST.json", env("GLIA_SOURCE_DIR"));
    char *text = slurp(path, &n);
    yyjson_doc *doc = yyjson_read(text, n, 0);
    assert_non_null(doc);
    yyjson_val *fam = NULL, *v;
    size_t i, max;
    yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "families"), i, max, v) {
        if (!strcmp(yyjson_get_str(yyjson_obj_get(v, "family")), family)) fam = v;
    }
    assert_non_null(fam);
    golden g = golden_open(family, ""), inner = golden_open(family, ".inner");
    int32_t prompt[64], made[64];
    int n_prompt = ids(fam, "prompt_ids", prompt, 64), n_made = ids(fam, "generated_ids", made, 64);

    glia_model_params mp;
    glia_model *m;
    glia_model_params_init(&mp);
    snprintf(path, sizeof path, "%s/%s.gguf", env("GLIA_TINY_DIR"), family);
    if (getenv("GLIA_TEST_GPU_LAYERS")) mp.n_gpu_layers = atoi(getenv("GLIA_TEST_GPU_LAYERS"));
    if (getenv("GLIA_TEST_TOLERANCE")) extra += atof(getenv("GLIA_TEST_TOLERANCE"));
    mp.path = path, mp.flash = flash, mp.kv_type = kv, mp.n_parallel = 2, mp.n_threads = 2, mp.n_ctx = 128,
    mp.n_batch = n_batch;
    if (glia_model_open(&m, &mp, &err)) fail_msg("%s", err.message);
    glia_model_info info;
    glia_model_get_info(m, &info);
    assert_int_equal(info.n_layer, yyjson_get_int(yyjson_obj_get(fam, "n_layer")));

    glia_hook hooks[256];
    size_t n_hooks = 0;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int il = 0; il < (glia_point_has_layer((glia_point)p) ? info.n_layer : 1); il++) {
            glia_point_info pi;
            assert_true(glia_model_point(m, (glia_point)p, il, &pi));
            bool none = !strcmp(family, "gpt2") &&
                        (p == GLIA_POINT_Q_ROT || p == GLIA_POINT_K_ROT || p == GLIA_POINT_MLP_LINEAR);
            if ((pi.grade < GLIA_GRADE_STRUCTURAL) != none) { /* gpt2 has no RoPE and no gate */
                fail_msg("%s.%d is %s: %s", glia_point_name((glia_point)p), il, glia_grade_name(pi.grade), pi.reason);
            }
            if (!none) hooks[n_hooks++] = (glia_hook){.point = (glia_point)p, .layer = il, .phases = GLIA_PHASE_ALL};
        }
    }
    glia_request_params rp;
    glia_request *r;
    glia_request_params_init(&rp);
    rp.prompt = prompt, rp.n_prompt = (size_t)n_prompt, rp.max_tokens = n_made;
    rp.sampling.temperature = 0, rp.sampling.ignore_eos = true;
    rp.hooks = hooks, rp.n_hooks = n_hooks;
    if (glia_request_submit(&r, m, &rp, &err)) fail_msg("%s: %s", err.param, err.message);
    got *all = calloc(n_hooks, sizeof *all);
    int drawn = 0;
    for (glia_event *ev; (ev = glia_request_next(r, 60000)); glia_event_free(ev)) {
        if (ev->kind == GLIA_EVENT_ERROR) fail_msg("%s", ev->u.error.message);
        if (ev->kind == GLIA_EVENT_TOKEN) assert_int_equal(ev->u.token.id, made[drawn++]);
        for (size_t k = 0; ev->kind == GLIA_EVENT_ACTIVATIONS && k < ev->u.activations.n_frames; k++) {
            collect(&all[ev->u.activations.frames[k].hook], &ev->u.activations.frames[k]);
        }
    }
    assert_int_equal(drawn, n_made);

    double top_err = 0;
    int n_tensors = 0;
    for (size_t h = 0; h < n_hooks; h++) {
        char name[64];
        int rows = 0, width = 0;
        if (glia_point_has_layer(hooks[h].point))
            snprintf(name, sizeof name, "%s.%d", glia_point_name(hooks[h].point), hooks[h].layer);
        else snprintf(name, sizeof name, "%s", glia_point_name(hooks[h].point));
        if (hooks[h].point == GLIA_POINT_MLP_LINEAR) snprintf(name, sizeof name, "linear.%d", hooks[h].layer);
        const float *want = golden_tensor(&g, name, &rows, &width);
        if (!want) want = golden_tensor(&inner, name, &rows, &width);
        if (!want) fail_msg("%s has no golden for %s", family, name);
        assert_int_equal(all[h].width, width);
        assert_int_equal(all[h].n_rows, rows);
        for (int t = 0; t < rows; t++) {
            assert_int_equal(all[h].pos[t], t);
            assert_int_equal(all[h].tok[t], t < n_prompt ? prompt[t] : made[t - n_prompt]);
        }
        double e = worst(all[h].rows, want, rows * width), tol = tolerance(fam, name) + extra;
        if (!(e <= tol)) fail_msg("%s %s: error %.3g, allowed %.3g", family, name, e, tol);
        if (e > top_err) top_err = e;
        n_tensors++;
        free(all[h].rows);
    }
    print_message("%s: %d tensors of %d rows agree, worst error %.2g\n", family, n_tensors, n_prompt + n_made - 1,
                  top_err);
    free(all);
    glia_request_free(r);
    glia_model_close(m);
    yyjson_doc_free(g.head), yyjson_doc_free(inner.head);
    yyjson_doc_free(doc);
    free(g.bytes), free(inner.bytes);
    free(text);
}

#define FAMILY(name)                                                                                                    \
    static void name##_equals_transformers(void **s) {                                                                  \
        (void)s;                                                                                                        \
        check_family(#name, GLIA_FLASH_OFF, GLIA_KV_F32, 512, 0);                                                       \
    }                                                                                                                   \
    static void name##_with_flash_attention_and_f16_cache(void **s) {                                                   \
        (void)                                                                                                          \
            s; /* f16 keys and values: 2^-11 relative per element, amplified by three layers of large random weights */ \
        check_family(#name, GLIA_FLASH_ON, GLIA_KV_F16, 512, 1e-2);                                                     \
    }
FAMILY(llama)
FAMILY(qwen2) FAMILY(qwen3) FAMILY(gemma2) FAMILY(gemma3) FAMILY(gpt2)
#define TESTS(name)                                                                                                    \
    cmocka_unit_test(name##_equals_transformers), cmocka_unit_test(name##_with_flash_attention_and_f16_cache)

    int main(void) {
    const struct CMUnitTest tests[] = {TESTS(llama),  TESTS(qwen2),  TESTS(qwen3),
                                       TESTS(gemma2), TESTS(gemma3), TESTS(gpt2)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Headers of GGUF files: what is read of real ones, and that damaged ones are refused. */
#include "base/io.h"
#include "base/mem.h"
#include "ggml.h"
#include "models/header.h"
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ made-up files */

typedef struct file {
    unsigned char p[4096];
    size_t n;
} file;

static void put(file *f, const void *p, size_t n) {
    assert_true(f->n + n <= sizeof f->p);
    memcpy(f->p + f->n, p, n);
    f->n += n;
}
static void u32(file *f, uint32_t v) { put(f, &v, 4); }
static void u64(file *f, uint64_t v) { put(f, &v, 8); }
static void text(file *f, const char *s) {
    u64(f, strlen(s));
    put(f, s, strlen(s));
}
static void head(file *f, uint32_t version, uint64_t n_tensors, uint64_t n_pairs) {
    *f = (file){.n = 0};
    put(f, "GGUF", 4);
    u32(f, version);
    u64(f, n_tensors);
    u64(f, n_pairs);
}
static void pair_text(file *f, const char *key, const char *value) {
    text(f, key);
    u32(f, 8);
    text(f, value);
}
static void pair_u32(file *f, const char *key, uint32_t value) {
    text(f, key);
    u32(f, 4);
    u32(f, value);
}

static glia_status parse(const file *f, glia_gguf *g, glia_err *err) {
    *err = (glia_err){0};
    return glia_gguf_parse(g, f->p, f->n, f->n, "made-up.gguf", err);
}

static void refused(const file *f, const char *says) {
    glia_gguf g;
    glia_err err;
    assert_int_equal(parse(f, &g, &err), GLIA_EINVAL);
    if (!strstr(err.message, says)) fail_msg("\"%s\" does not say \"%s\"", err.message, says);
}

/* ------------------------------------------------------------------ tests */

static void sizes_of_types_are_ggmls(void **s) {
    (void)s;
    for (uint32_t t = 0; t < GGML_TYPE_COUNT; t++) {
        enum ggml_type type = (enum ggml_type)t;
        const char *name = ggml_type_name(type);
        if (!name || !ggml_blck_size(type)) { /* removed types */
            assert_int_equal(glia_gguf_type_bytes(t, 1024), 0);
            continue;
        }
        if (glia_gguf_type_bytes(t, 1024) != ggml_row_size(type, 1024)) fail_msg("type %u (%s)", t, name);
    }
    assert_int_equal(glia_gguf_type_bytes(4096, 32), 0);
}

/* The engine, which reads the file with llama.cpp, says the same. */
static void a_header_says_what_the_loaded_model_says(void **s) {
    (void)s;
    static const char *const names[] = {"llama", "gpt2", "mixtral", "mamba", "gemma3"};
    for (size_t i = 0; i <= sizeof names / sizeof *names; i++) {
        const char *path = i < sizeof names / sizeof *names ? tiny_model(names[i]) : test_env("GLIA_TEST_MODEL");
        glia_gguf g;
        glia_err err;
        glia_model_info info;
        if (glia_gguf_read(&g, path, &err)) fail_msg("%s", err.message);
        glia_model *m = open_model(path, 1, 64, 32);
        glia_model_get_info(m, &info);
        assert_string_equal(g.arch, info.arch);
        assert_int_equal(g.n_layer, info.n_layer);
        assert_int_equal(g.n_embd, info.n_embd);
        assert_int_equal(g.n_ctx_train, info.n_ctx_train);
        assert_int_equal(g.n_vocab, info.n_vocab);
        assert_int_equal(g.n_params, info.n_params);
        assert_int_equal(g.tensor_bytes, info.n_bytes);
        assert_int_equal(g.chat_template, info.has_chat_template);
        assert_int_equal(g.n_head, info.n_head);
        glia_model_close(m);
    }
}

static void quantization_size_and_kind_are_named(void **s) {
    (void)s;
    glia_gguf g;
    glia_err err;
    char size[32];
    assert_int_equal(glia_gguf_read(&g, test_env("GLIA_TEST_MODEL"), &err), GLIA_OK);
    assert_string_equal(glia_gguf_quant(&g), "Q4_1");
    glia_gguf_size_text(&g, g.n_params, size);
    assert_string_equal(size, "135M");
    assert_false(glia_gguf_is_embedding(&g) || glia_gguf_is_mmproj(&g));
    static const struct {
        uint64_t n;
        const char *text;
    } rows[] = {{7241732096, "7.2B"}, {26000000000, "26B"}, {999, "1K"}, {1500000, "2M"}, {999600000, "1.0B"}};
    g.size_label[0] = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_gguf_size_text(&g, rows[i].n, size);
        assert_string_equal(size, rows[i].text);
    }
    file f;
    head(&f, 3, 0, 2);
    pair_text(&f, "general.architecture", "clip");
    pair_text(&f, "general.type", "mmproj");
    assert_int_equal(parse(&f, &g, &err), GLIA_OK);
    assert_true(glia_gguf_is_mmproj(&g));
    head(&f, 3, 0, 2);
    pair_text(&f, "general.architecture", "nomic-bert");
    pair_u32(&f, "nomic-bert.pooling_type", 1);
    assert_int_equal(parse(&f, &g, &err), GLIA_OK);
    assert_true(glia_gguf_is_embedding(&g));
    assert_string_equal(glia_gguf_quant(&g), "unknown");
}

static void heads_may_differ_per_layer(void **s) {
    (void)s;
    file f;
    glia_gguf g;
    glia_err err;
    head(&f, 3, 0, 3);
    pair_text(&f, "general.architecture", "x");
    pair_u32(&f, "x.block_count", 4);
    text(&f, "x.attention.head_count_kv");
    u32(&f, 9), u32(&f, 5), u64(&f, 4);
    for (uint32_t i = 0; i < 4; i++) u32(&f, i % 2 ? 8 : 0);
    assert_int_equal(parse(&f, &g, &err), GLIA_OK);
    assert_int_equal(g.n_kv_heads, 16);
    assert_int_equal(g.n_no_kv, 2);
    head(&f, 3, 0, 4);
    pair_text(&f, "general.architecture", "x");
    pair_u32(&f, "x.block_count", 4);
    pair_u32(&f, "x.attention.head_count", 8);
    pair_u32(&f, "x.attention.head_count_kv", 2);
    assert_int_equal(parse(&f, &g, &err), GLIA_OK);
    assert_int_equal(g.n_kv_heads, 8);
}

static void chat_templates_are_searched_across_windows(void **s) {
    (void)s;
    static char template[9000];
    memset(template, 'a', sizeof template - 1);
    memcpy(template + 4094, "tools", 5); /* over the first window's end */
    unsigned char *p = malloc(20000);
    size_t n = 0;
    assert_non_null(p);
    file f;
    head(&f, 3, 0, 1);
    text(&f, "tokenizer.chat_template");
    u32(&f, 8), u64(&f, sizeof template - 1);
    memcpy(p, f.p, f.n), n = f.n;
    memcpy(p + n, template, sizeof template - 1), n += sizeof template - 1;
    glia_gguf g;
    glia_err err = {0};
    assert_int_equal(glia_gguf_parse(&g, p, n, n, "t", &err), GLIA_OK);
    assert_true(g.chat_template && g.template_tools);
    assert_false(g.template_thinking);
    free(p);
}

static void what_is_no_whole_gguf_file_is_refused(void **s) {
    (void)s;
    file f = {.n = 0};
    refused(&f, "not a GGUF file");
    put(&f, "GGML", 4);
    refused(&f, "not a GGUF file");
    head(&f, 1, 0, 0);
    refused(&f, "version 1");
    head(&f, 3 << 24, 0, 0);
    refused(&f, "big-endian");
    head(&f, 3, 0, 1);
    refused(&f, "ends");
    head(&f, 3, 1, UINT64_MAX);
    refused(&f, "longer than any model");
    head(&f, 3, 0, 1);
    u64(&f, UINT64_MAX); /* a key of endless length */
    refused(&f, "longer than the file");
    head(&f, 3, 0, 1);
    text(&f, "x"), u32(&f, 99);
    refused(&f, "unknown type");
    head(&f, 3, 0, 1);
    text(&f, "x"), u32(&f, 9), u32(&f, 9), u64(&f, 1);
    refused(&f, "array");
    head(&f, 3, 0, 1);
    text(&f, "x"), u32(&f, 9), u32(&f, 8), u64(&f, UINT64_MAX);
    refused(&f, "array longer");
    head(&f, 3, 0, 1);
    text(&f, "x.block_count"), u32(&f, 5), u32(&f, 0x80000000u);
    refused(&f, "negative");
    head(&f, 3, 1, 0);
    text(&f, "w"), u32(&f, 5);
    refused(&f, "dimensions");
    head(&f, 3, 1, 0);
    text(&f, "w"), u32(&f, 2), u64(&f, UINT64_C(1) << 40), u64(&f, UINT64_C(1) << 40), u32(&f, 0), u64(&f, 0);
    refused(&f, "memory");
    head(&f, 3, 1, 0);
    text(&f, "w"), u32(&f, 1), u64(&f, 1000), u32(&f, 0), u64(&f, 0);
    refused(&f, "truncated");
}

/* Every shorter beginning of a real file is refused, and none of them reads past its end (ASan watches). */
static void every_beginning_of_a_file_is_refused(void **s) {
    (void)s;
    FILE *in = fopen(tiny_model("llama"), "rb");
    assert_non_null(in);
    static unsigned char all[64 << 10];
    size_t n = fread(all, 1, sizeof all, in);
    fclose(in);
    for (size_t k = 0; k < n; k += k < 512 ? 1 : 97) {
        glia_gguf g;
        glia_err err = {0};
        unsigned char *p = malloc(k ? k : 1);
        assert_non_null(p);
        memcpy(p, all, k);
        assert_int_equal(glia_gguf_parse(&g, p, k, k, "cut", &err), GLIA_EINVAL);
        free(p);
    }
}

static void faults_are_errors(void **s) {
    (void)s;
    glia_gguf g;
    glia_err err;
    assert_int_equal(glia_gguf_read(&g, "/nonexistent.gguf", &err), GLIA_ENOTFOUND);
    assert_int_equal(glia_gguf_read(&g, "/tmp", &err), GLIA_EINVAL);
    glia_fault_arm(1);
    assert_int_equal(glia_gguf_read(&g, tiny_model("llama"), &err), GLIA_ENOMEM);
    glia_fault_arm(0);
    for (long n = 1; n < 100; n++) {
        glia_fault_arm_io(n);
        glia_status st = glia_gguf_read(&g, tiny_model("llama"), &err);
        bool fired = glia_fault_io_fired();
        glia_fault_arm_io(0);
        assert_int_equal(st, fired ? GLIA_EIO : GLIA_OK);
        if (!fired) return;
    }
    fail();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_of_types_are_ggmls),
        cmocka_unit_test(a_header_says_what_the_loaded_model_says),
        cmocka_unit_test(quantization_size_and_kind_are_named),
        cmocka_unit_test(heads_may_differ_per_layer),
        cmocka_unit_test(chat_templates_are_searched_across_windows),
        cmocka_unit_test(what_is_no_whole_gguf_file_is_refused),
        cmocka_unit_test(every_beginning_of_a_file_is_refused),
        cmocka_unit_test(faults_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

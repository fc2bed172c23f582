/* tests/unit/test_load.c — what is no model is refused in one line; nothing crashes. */
#include "support.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *bytes;
static size_t n_bytes;
static char dir[] = "/tmp/glia-test-XXXXXX", path[64];

static int setup(void **s) {
    (void)s;
    FILE *f = fopen(tiny_model("llama"), "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    n_bytes = (size_t)ftell(f);
    rewind(f);
    bytes = malloc(n_bytes);
    assert_int_equal(fread(bytes, 1, n_bytes, f), n_bytes);
    fclose(f);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    return 0;
}

static int teardown(void **s) {
    (void)s;
    unlink(path);
    rmdir(dir);
    free(bytes);
    return 0;
}

static void write_file(const char *p, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static glia_status try_open(const char *p, glia_err *err) {
    glia_model *m;
    glia_model_params mp;
    glia_model_params_init(&mp);
    mp.path = p, mp.n_parallel = 1, mp.n_ctx = 32, mp.n_batch = 32, mp.n_threads = 1;
    glia_status st = glia_model_open(&m, &mp, err);
    assert_int_equal(st == GLIA_OK, m != NULL);
    if (st) assert_true(strlen(err->message) > 10 && !strchr(err->message, '\n'));
    glia_model_close(m);
    return st;
}

static void missing_file_and_folder_are_named(void **s) {
    (void)s;
    glia_err err;
    assert_int_equal(try_open("/nowhere/at/all.gguf", &err), GLIA_ENOTFOUND);
    assert_non_null(strstr(err.message, "/nowhere/at/all.gguf"));
    assert_int_equal(try_open(dir, &err), GLIA_EINVAL);
    assert_int_equal(try_open("", &err), GLIA_EINVAL);
}

static void unreadable_file_is_refused(void **s) {
    (void)s;
    glia_err err;
    write_file(bytes, n_bytes);
    chmod(path, 0);
    uid_t me = geteuid();
    if (me == 0) assert_int_equal(seteuid(65534), 0); /* root reads every file: be nobody for a moment */
    glia_status st = try_open(path, &err);
    assert_int_equal(seteuid(me), 0);
    chmod(path, 0600);
    assert_int_equal(st, GLIA_EINVAL);
    assert_non_null(strstr(err.message, "Permission denied"));
}

static void other_formats_are_refused_with_the_way_out(void **s) {
    (void)s;
    glia_err err;
    write_file("{\"a\":1}", 7);
    assert_int_equal(try_open(path, &err), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "not a GGUF file"));
    write_file("", 0);
    assert_int_equal(try_open(path, &err), GLIA_EINVAL);
}

static void truncation_at_any_length_is_refused(void **s) {
    (void)s;
    glia_err err;
    for (size_t n = 4; n < n_bytes; n += n < 2000 ? 53 : n_bytes / 23) {
        write_file(bytes, n);
        if (!try_open(path, &err)) fail_msg("%zu of %zu bytes were accepted", n, n_bytes);
    }
    write_file(bytes, n_bytes - 1);
    assert_int_equal(try_open(path, &err), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "truncated"));
}

/* The header decides sizes and offsets: any of its bytes may be wrong.  Some values are harmless; none may crash. */
static void corrupt_headers_never_crash(void **s) {
    (void)s;
    glia_err err;
    char *copy = malloc(n_bytes);
    int refused = 0, tried = 0;
    for (size_t i = 4; i < 1200; i += 3) {
        memcpy(copy, bytes, n_bytes);
        copy[i] = (char)(copy[i] ^ (i % 2 ? 0xff : 0x80));
        write_file(copy, n_bytes);
        tried++, refused += try_open(path, &err) != GLIA_OK;
    }
    print_message("%d of %d corrupted headers were refused, the others were harmless\n", refused, tried);
    assert_true(refused > tried / 4);
    free(copy);
}

static void model_larger_than_memory_is_refused_before_loading(void **s) {
    (void)s;
    glia_model *m;
    glia_model_params mp;
    glia_err err;
    glia_model_params_init(&mp);
    mp.path = tiny_model("llama"), mp.memory_limit = 100000;
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_ENOMEM);
    assert_null(m);
    assert_non_null(strstr(err.message, "smaller"));
    mp.memory_limit = 0, mp.n_ctx = 16 << 20, mp.n_parallel = 256; /* the cache alone would need terabytes */
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_ENOMEM);
}

static bool stop_loading(float f, void *ud) {
    (void)f, (void)ud;
    return false;
}

static void loading_can_be_cancelled(void **s) {
    (void)s;
    glia_model *m;
    glia_model_params mp;
    glia_err err;
    glia_model_params_init(&mp);
    mp.path = tiny_model("llama"), mp.on_progress = stop_loading;
    assert_int_not_equal(glia_model_open(&m, &mp, &err), GLIA_OK);
    assert_null(m);
}

static void bad_parameters_are_named(void **s) {
    (void)s;
    static const struct {
        const char *param;
        int32_t parallel, batch, threads, ctx, gpu;
    } rows[] = {{"parallel", -1, 0, 0, 0, 0},  {"parallel", 1000, 0, 0, 0, 0}, {"batch", 1, 8, 0, 0, 0},
                {"threads", 1, 0, -4, 0, 0},   {"ctx", 1, 0, 0, -5, 0},        {"ctx", 1, 0, 0, 3, 0},
                {"gpu-layers", 1, 0, 0, 0, -7}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_model *m;
        glia_model_params mp;
        glia_err err;
        glia_model_params_init(&mp);
        mp.path = tiny_model("llama"), mp.n_parallel = rows[i].parallel, mp.n_batch = rows[i].batch;
        mp.n_threads = rows[i].threads, mp.n_ctx = rows[i].ctx, mp.n_gpu_layers = rows[i].gpu;
        assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_EINVAL);
        assert_string_equal(err.param, rows[i].param);
    }
}

static void quantized_cache_needs_flash_attention(void **s) {
    (void)s;
    glia_model *m;
    glia_model_params mp;
    glia_err err;
    glia_point_info p;
    glia_model_params_init(&mp);
    mp.path = tiny_model("qwen3"), mp.n_parallel = 1, mp.kv_type = GLIA_KV_Q8_0, mp.flash = GLIA_FLASH_OFF;
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "cache-type");
    mp.flash = GLIA_FLASH_ON;
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_OK);
    assert_true(glia_model_point(m, GLIA_POINT_Z, 1, &p)); /* rounded keys and values, the same identities */
    assert_int_equal(p.grade, GLIA_GRADE_PROVEN);
    glia_model_close(m);
}

static void context_beyond_learned_positions_is_refused(void **s) {
    (void)s;
    glia_model *m;
    glia_model_params mp;
    glia_err err;
    glia_model_params_init(&mp);
    mp.path = tiny_model("gpt2"), mp.n_ctx = 512; /* 256 rows in its position table */
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "ctx");
    mp.n_ctx = 256, mp.n_parallel = 1;
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_OK);
    glia_model_close(m);
}

static void info_and_points_tell_the_truth(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("qwen3"), 1, 64, 32);
    glia_model_info i;
    glia_point_info p;
    glia_model_get_info(m, &i);
    assert_string_equal(i.id, "qwen3");
    assert_string_equal(i.arch, "qwen3");
    assert_int_equal(i.n_layer, 3);
    assert_int_equal(i.n_embd, 64);
    assert_null(i.hooks_refused);
    assert_true(i.has_chat_template);
    assert_true(glia_model_point(m, GLIA_POINT_Q, 2, &p));
    assert_int_equal(p.grade, GLIA_GRADE_PROVEN);
    assert_int_equal(p.width, 4 * 32);
    assert_int_equal(p.n_heads, 4);
    assert_true(glia_model_point(m, GLIA_POINT_K, 0, &p));
    assert_int_equal(p.n_heads, 2);
    assert_true(glia_model_point(m, GLIA_POINT_LM_HEAD, -9, &p)); /* has no layer */
    assert_int_equal(p.width, 320);
    assert_false(glia_model_point(m, GLIA_POINT_Q, 3, &p));
    assert_false(glia_model_point(m, GLIA_POINT_Q, -1, &p));
    glia_model_close(m);
}

static void without_hooks_the_text_is_the_same_and_hooks_are_refused(void **s) {
    (void)s;
    static const int32_t prompt[] = {'T', 'h', 'e', ' ', 'f', 'o', 'x'};
    static const glia_hook hook = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL};
    static const glia_edit edit = {.where = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = GLIA_PHASE_ALL},
                                   .op = GLIA_EDIT_ZERO};
    const char *refusal = "loaded without hooks";
    glia_model_params mp;
    glia_model *m, *with = open_model(tiny_model("llama"), 2, 64, 32);
    glia_err err;
    glia_model_params_init(&mp);
    mp.path = tiny_model("llama"), mp.n_parallel = 2, mp.n_ctx = 64, mp.n_batch = 32, mp.n_threads = test_threads();
    mp.flash = GLIA_FLASH_OFF, mp.kv_type = GLIA_KV_F32, mp.no_hooks = true;
    assert_int_equal(glia_model_open(&m, &mp, &err), GLIA_OK);

    glia_model_info i;
    glia_point_info pi;
    glia_model_get_info(m, &i);
    assert_non_null(i.hooks_refused);
    assert_non_null(strstr(i.hooks_refused, refusal));
    assert_true(glia_model_point(m, GLIA_POINT_RESID_POST, 1, &pi));
    assert_int_equal(pi.grade, GLIA_GRADE_ABSENT);
    assert_non_null(strstr(pi.reason, refusal));

    glia_request_params p = greedy(prompt, 7, 20);
    result *a = run_request(with, &p), *b = run_request(m, &p);
    assert_int_equal(b->err.status, GLIA_OK);
    assert_int_equal(b->n_ids, 20);
    assert_memory_equal(a->ids, b->ids, sizeof *a->ids * 20);
    result_free(a), result_free(b);

    glia_request *r = NULL;
    p.hooks = &hook, p.n_hooks = 1;
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EHOOK);
    assert_non_null(strstr(err.message, refusal));
    p.n_hooks = 0, p.edits = &edit, p.n_edits = 1;
    assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EHOOK);
    assert_non_null(strstr(err.message, refusal));
    glia_model_close(with);
    glia_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_file_and_folder_are_named),
        cmocka_unit_test(unreadable_file_is_refused),
        cmocka_unit_test(other_formats_are_refused_with_the_way_out),
        cmocka_unit_test(truncation_at_any_length_is_refused),
        cmocka_unit_test(corrupt_headers_never_crash),
        cmocka_unit_test(model_larger_than_memory_is_refused_before_loading),
        cmocka_unit_test(loading_can_be_cancelled),
        cmocka_unit_test(bad_parameters_are_named),
        cmocka_unit_test(quantized_cache_needs_flash_attention),
        cmocka_unit_test(context_beyond_learned_positions_is_refused),
        cmocka_unit_test(info_and_points_tell_the_truth),
        cmocka_unit_test(without_hooks_the_text_is_the_same_and_hooks_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

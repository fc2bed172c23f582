/* Files that exist whole or not at all; the safetensors format, written and read. */
#include "base/half.h"
#include "base/io.h"
#include "base/mem.h"
#include "store/filehash.h"
#include "store/checked.h"
#include "store/newfile.h"
#include "store/safetensors.h"
#include "support.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool exists(const char *path) { return access(path, F_OK) == 0; }

/* ------------------------------------------------------------------ new files */

static void a_committed_file_is_whole_and_hashed(void **s) {
    (void)s;
    char hex[GLIA_SHA256_HEX], again[GLIA_SHA256_HEX], *text;
    size_t n;
    glia_err err;
    assert_int_equal(glia_newfile_put(test_path("abc"), "abc", 3, hex, &err), GLIA_OK);
    /* FIPS 180-2, appendix B.1 */
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(glia_file_sha256(test_path("abc"), again, NULL, NULL, &err), GLIA_OK);
    assert_string_equal(again, hex);
    assert_int_equal(glia_file_slurp(test_path("abc"), 3, &text, &n, &err), GLIA_OK);
    assert_string_equal(text, "abc");
    glia_free(text);
    assert_int_equal(glia_file_slurp(test_path("abc"), 2, &text, &n, &err), GLIA_ETOOLARGE);
    assert_int_equal(glia_file_slurp(test_path("none"), 2, &text, &n, &err), GLIA_ENOTFOUND);
    assert_false(exists(test_path(".abc.part")));
}

static bool stop_at_once(void *ud) {
    ++*(int *)ud;
    return true;
}

/* The second time nothing is read; whatever changes the file makes it another one. */
static void a_remembered_hash_is_that_of_the_file_as_it_is(void **s) {
    (void)s;
    char a[GLIA_SHA256_HEX], b[GLIA_SHA256_HEX];
    glia_err err;
    int read = 0;
    assert_int_equal(glia_newfile_put(test_path("model"), "abc", 3, NULL, &err), GLIA_OK);
    assert_int_equal(glia_filehash(test_path("model"), a, stop_at_once, &read, &err), GLIA_ECANCELLED);
    assert_int_equal(glia_filehash(test_path("model"), a, NULL, NULL, &err), GLIA_OK);
    assert_string_equal(a, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(read, 1);
    assert_int_equal(glia_filehash(test_path("model"), b, stop_at_once, &read, &err), GLIA_OK);
    assert_string_equal(a, b);
    assert_int_equal(read, 1);
    FILE *f = fopen(test_path("model"), "r+"); /* as many bytes, in place */
    assert_non_null(f);
    assert_int_equal(fputs("xyz", f) >= 0 && !fclose(f), 1);
    assert_int_equal(glia_filehash(test_path("model"), b, NULL, NULL, &err), GLIA_OK);
    assert_string_not_equal(a, b);
    assert_int_equal(glia_newfile_put(test_path("model"), "abc", 3, NULL, &err), GLIA_OK);
    assert_int_equal(glia_filehash(test_path("model"), b, NULL, NULL, &err), GLIA_OK);
    assert_string_equal(a, b);
    assert_int_equal(glia_filehash(test_path("none"), b, NULL, NULL, &err), GLIA_EIO);
}

static void without_commit_nothing_changes(void **s) {
    (void)s;
    glia_newfile *f;
    glia_err err;
    char *text;
    size_t n;
    assert_int_equal(glia_newfile_put(test_path("keep"), "old", 3, NULL, &err), GLIA_OK);
    assert_int_equal(glia_newfile_open(&f, test_path("keep"), &err), GLIA_OK);
    assert_int_equal(glia_newfile_write(f, "new content", 11, &err), GLIA_OK);
    glia_newfile_free(f);
    assert_int_equal(glia_file_slurp(test_path("keep"), 99, &text, &n, &err), GLIA_OK);
    assert_string_equal(text, "old");
    glia_free(text);
    assert_false(exists(test_path(".keep.part")));
}

static void every_failing_io_call_leaves_old_or_new(void **s) {
    (void)s;
    int failures = 0;
    for (long k = 1;; k++) {
        glia_err err = {0};
        char *text, hex[GLIA_SHA256_HEX];
        size_t n;
        assert_int_equal(glia_newfile_put(test_path("f"), "old", 3, NULL, NULL), GLIA_OK);
        glia_fault_arm_io(k);
        glia_status st = glia_newfile_put(test_path("f"), "newer", 5, hex, &err);
        bool fired = glia_fault_io_fired();
        glia_fault_arm_io(0);
        if (!fired) {
            assert_int_equal(st, GLIA_OK);
            break;
        }
        failures++;
        assert_int_equal(st, GLIA_EIO);
        assert_non_null(strstr(err.message, "No space left"));
        assert_int_equal(glia_file_slurp(test_path("f"), 99, &text, &n, NULL), GLIA_OK);
        assert_true(!strcmp(text, "old") || !strcmp(text, "newer"));
        glia_free(text);
        assert_false(exists(test_path(".f.part")));
    }
    assert_true(failures >= 5); /* create, write, fsync, rename, folder */
}

static unsigned char *large_bytes(size_t n) {
    unsigned char *p = malloc(n + 1);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) p[i] = (unsigned char)(i * 2654435761u >> 13);
    return p;
}

/* The file holds these bytes, this is their hash, and its sums are theirs. */
static void check_large(const unsigned char *p, size_t n, const char *hex) {
    char again[GLIA_SHA256_HEX], *text;
    size_t have;
    glia_err err;
    glia_checked *c;
    assert_int_equal(glia_file_sha256(test_path("large"), again, NULL, NULL, &err), GLIA_OK);
    assert_string_equal(hex, again);
    assert_int_equal(glia_file_slurp(test_path("large"), n, &text, &have, &err), GLIA_OK);
    assert_int_equal(have, n);
    assert_memory_equal(text, p, n);
    glia_free(text);
    assert_int_equal(glia_checked_open(&c, test_path("large"), NULL, &err), GLIA_OK);
    assert_int_equal(glia_checked_bytes(c), n);
    assert_int_equal(glia_checked_verify(c, &err), GLIA_OK);
    glia_checked_close(c);
}

/* Large writes are hashed beside: nothing of that may be left behind, and the sums are those of the bytes. */
static void check_failing_large_writes(size_t n, bool past_cache, int least) {
    enum { HEAD = 100 };
    unsigned char *p = large_bytes(n);
    int failures = 0;
    for (long k = 1;; k++) {
        glia_newfile *f;
        glia_err err = {0};
        char hex[GLIA_SHA256_HEX];
        glia_fault_arm_io(k);
        glia_status st = glia_newfile_open(&f, test_path("large"), &err);
        if (!st) {
            glia_newfile_keep_sums(f);
            if (past_cache) glia_newfile_past_cache(f);
            st = glia_newfile_write(f, p, HEAD, &err);
            if (!st) st = glia_newfile_write(f, p + HEAD, n - HEAD, &err);
            if (!st) st = glia_newfile_commit(f, hex, &err);
            glia_newfile_free(f);
        }
        bool fired = glia_fault_io_fired();
        glia_fault_arm_io(0);
        assert_false(exists(test_path(".large.part")));
        if (!fired) {
            assert_int_equal(st, GLIA_OK);
            check_large(p, n, hex);
            break;
        }
        failures++;
        assert_int_equal(st, GLIA_EIO);
        assert_non_null(strstr(err.message, "No space left"));
        (void)unlink(test_path("large"));
        (void)unlink(test_path("large.sums"));
    }
    free(p);
    assert_true(failures >= least); /* among them each piece of the large write */
}

static void large_writes_are_whole_or_leave_no_trace(void **s) {
    (void)s;
    check_failing_large_writes((2 << 20) + 12345, false, 12);
    check_failing_large_writes((9 << 20) + 12345, true, 10);
}

/* Whatever the pieces, around every block's edge, and where the file system does not go past the cache after all. */
static void files_past_the_cache_hold_the_same(void **s) {
    (void)s;
    enum { BLOCK = 4 << 20, MOST = 2 * BLOCK + 4097 };
    static const size_t sizes[] = {0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, MOST}, pieces[] = {777777, 4096, MOST};
    unsigned char *p = large_bytes(MOST);
    for (int refused = 0; refused < 2; refused++) {
        glia_fault_refuse_direct(refused);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes * 3; i++) {
            glia_newfile *f;
            glia_err err;
            char hex[GLIA_SHA256_HEX];
            size_t n = sizes[i / 3], piece = pieces[i % 3];
            assert_int_equal(glia_newfile_open(&f, test_path("large"), &err), GLIA_OK);
            glia_newfile_keep_sums(f);
            glia_newfile_past_cache(f);
            for (size_t at = 0; at < n; at += piece)
                assert_int_equal(glia_newfile_write(f, p + at, n - at < piece ? n - at : piece, &err), GLIA_OK);
            assert_int_equal(glia_newfile_bytes(f), n);
            assert_int_equal(glia_newfile_commit(f, hex, &err), GLIA_OK);
            glia_newfile_free(f);
            check_large(p, n, hex);
        }
    }
    glia_fault_refuse_direct(false);
    free(p);
}

static void folders_and_missing_folders_are_named(void **s) {
    (void)s;
    glia_newfile *f;
    glia_err err;
    assert_int_equal(glia_newfile_open(&f, test_path("no/such/file"), &err), GLIA_EIO);
    assert_null(f);
    assert_non_null(strstr(err.message, "no/such"));
    char *text;
    size_t n;
    assert_int_equal(glia_file_slurp(test_dir(), 99, &text, &n, &err), GLIA_EIO);
}

/* ------------------------------------------------------------------ safetensors */

static const float numbers[6] = {1, -2, 3.5f, 0, 1e-3f, 7};

static glia_buf sample(void) {
    static const char *const meta[][2] = {{"model", "tiny"}, {"note", "a \"quoted\" w\xc3\xb6rd"}};
    glia_st_tensor t[] = {{.name = "resid_post.0", .dtype = GLIA_ST_F32, .n_dims = 2, .shape = {2, 3}},
                          {.name = "none", .dtype = GLIA_ST_F16, .n_dims = 2, .shape = {0, 3}},
                          {.name = "token_id", .dtype = GLIA_ST_I32, .n_dims = 1, .shape = {2}}};
    int32_t ids[2] = {5, 9};
    uint64_t n_data;
    glia_buf b = {0};
    assert_int_equal(glia_st_header(&b, t, 3, meta, 2, &n_data, NULL), GLIA_OK);
    assert_int_equal(n_data, 32);
    assert_int_equal(b.n % 8, 0);
    glia_buf_add(&b, numbers, sizeof numbers);
    glia_buf_add(&b, ids, sizeof ids);
    return b;
}

static void what_is_written_is_read(void **s) {
    (void)s;
    glia_buf b = sample();
    glia_st *st;
    glia_err err;
    assert_int_equal(glia_newfile_put(test_path("x.safetensors"), b.p, b.n, NULL, &err), GLIA_OK);
    assert_int_equal(glia_st_open(&st, test_path("x.safetensors"), &err), GLIA_OK);
    assert_int_equal(glia_st_count(st), 3);
    const glia_st_tensor *t = glia_st_find(st, "resid_post.0");
    assert_non_null(t);
    assert_int_equal(t->dtype, GLIA_ST_F32);
    assert_int_equal(t->n_dims, 2);
    assert_true(t->shape[0] == 2 && t->shape[1] == 3);
    assert_memory_equal(glia_st_data(st, t), numbers, sizeof numbers);
    assert_null(glia_st_find(st, "resid_post"));
    assert_string_equal(glia_st_meta(st, "note"), "a \"quoted\" w\xc3\xb6rd");
    assert_null(glia_st_meta(st, "nothing"));
    glia_st_close(st);
    glia_buf_clear(&b);
}

static void every_cut_file_is_refused(void **s) {
    (void)s;
    glia_buf b = sample();
    for (size_t n = 0; n < b.n; n++) {
        char *copy = malloc(n ? n : 1); /* of its own length, so that reading over its end is seen */
        glia_st *st;
        glia_err err;
        memcpy(copy, b.p, n);
        assert_int_equal(glia_st_parse(&st, copy, n, &err), GLIA_EINVAL);
        assert_null(st);
        assert_non_null(strstr(err.message, "safetensors"));
        free(copy);
    }
    glia_buf_clear(&b);
}

static void lying_headers_are_refused(void **s) {
    (void)s;
    static const char *const headers[] = {
        "[]",
        "{\"a\":1}",
        "{\"a\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_"
        "offsets\":[4,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_"
        "offsets\":[4,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}",
        "{\"__metadata__\":{\"x\":1},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"__metadata__\":[],\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{",
        "",
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        glia_buf b = {0};
        uint64_t n = strlen(headers[i]);
        glia_st *st;
        glia_buf_add(&b, &n, 8);
        glia_buf_adds(&b, headers[i]);
        glia_buf_add(&b, "12345678", 8);
        if (glia_st_parse(&st, b.p, b.n, NULL) != GLIA_EINVAL) fail_msg("taken: %s", headers[i]);
        glia_buf_clear(&b);
    }
}

static void failing_allocations_are_errors(void **s) {
    (void)s;
    glia_buf b = sample();
    for (size_t k = 1;; k++) {
        glia_st *st;
        glia_fault_arm(k);
        glia_status rc = glia_st_parse(&st, b.p, b.n, NULL);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        if (!fired) {
            assert_int_equal(rc, GLIA_OK);
            glia_st_close(st);
            break;
        }
        assert_int_equal(rc, GLIA_ENOMEM);
        assert_null(st);
    }
    glia_buf_clear(&b);
}

static void floats_pack_as_little_endian(void **s) {
    (void)s;
    uint8_t out[12];
    const float x[2] = {1.0f, -2.0f};
    glia_pack_le(out, x, 2, GLIA_F32);
    assert_memory_equal(out, "\x00\x00\x80\x3f\x00\x00\x00\xc0", 8);
    glia_pack_le(out, x, 2, GLIA_F16);
    assert_memory_equal(out, "\x00\x3c\x00\xc0", 4);
    glia_pack_le(out, x, 2, GLIA_BF16);
    assert_memory_equal(out, "\x80\x3f\x00\xc0", 4);
}

/* Many at once are what they are one by one: every half, what lies between it and the next, NaNs with all they carry. */
static void many_halves_are_those_of_each(void **s) {
    (void)s;
    enum { N = 65536 };
    float *x = malloc(N * sizeof *x);
    uint8_t *out = malloc(2 * N);
    assert_true(x && out);
    for (uint32_t low = 0; low < 8; low++) {
        static const uint32_t rest[] = {0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x800, 0x1800};
        for (uint32_t i = 0; i < N; i++)
            x[i] = glia_float_from(i < 32768 ? i << 16 | rest[low]
                                             : glia_float_bits(glia_f16_to((uint16_t)(2 * i))) | rest[low]);
        for (uint32_t i = 0; i < N; i += 3) x[i] = -x[i];
        glia_pack_le(out, x, N - low, GLIA_F16);
        for (uint32_t i = 0; i < N - low; i++) assert_int_equal(out[2 * i] | out[2 * i + 1] << 8, glia_f16_of(x[i]));
    }
    free(x);
    free(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_committed_file_is_whole_and_hashed),
        cmocka_unit_test(a_remembered_hash_is_that_of_the_file_as_it_is),
        cmocka_unit_test(without_commit_nothing_changes),
        cmocka_unit_test(every_failing_io_call_leaves_old_or_new),
        cmocka_unit_test(large_writes_are_whole_or_leave_no_trace),
        cmocka_unit_test(files_past_the_cache_hold_the_same),
        cmocka_unit_test(folders_and_missing_folders_are_named),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(every_cut_file_is_refused),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(failing_allocations_are_errors),
        cmocka_unit_test(floats_pack_as_little_endian),
        cmocka_unit_test(many_halves_are_those_of_each),
    };
    return cmocka_run_group_tests(tests, test_make_dir, test_remove_dir);
}

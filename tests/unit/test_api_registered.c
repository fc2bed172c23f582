/* Hooks that stay with a model: lists by id, versions, and allocation that fails. */
#include "api/registered.h"
#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static glia_err err;

static size_t count(glia_registered *r, const char *model, uint64_t *version) {
    yyjson_doc *doc;
    assert_int_equal(glia_registered_get(r, model, &doc, version, &err), GLIA_OK);
    size_t n = doc ? yyjson_arr_size(yyjson_doc_get_root(doc)) : 0;
    yyjson_doc_free(doc);
    return n;
}

static void each_model_has_its_own_list(void **state) {
    (void)state;
    glia_registered *r = glia_registered_new();
    uint64_t v;
    assert_int_equal(count(r, "a", NULL), 0);
    assert_int_equal(count(r, "a", &v), 0);
    assert_int_equal(glia_registered_set(r, "a", v, "[1,2]", 2, &err), GLIA_OK);
    assert_int_equal(count(r, "b", &v), 0);
    assert_int_equal(glia_registered_set(r, "b", v, "[3]", 1, &err), GLIA_OK);
    assert_int_equal(count(r, "a", NULL), 2);
    assert_int_equal(count(r, "b", &v), 1);
    glia_buf b = {0};
    glia_registered_counts(r, &b);
    assert_string_equal(b.p, "{\"b\":1,\"a\":2}");
    glia_buf_clear(&b);
    assert_int_equal(glia_registered_set(r, "a", v, NULL, 0, &err), GLIA_OK);
    assert_int_equal(count(r, "a", NULL), 0);
    assert_int_equal(count(r, "b", NULL), 1);
    glia_registered_free(r);
}

static void a_list_made_from_an_old_one_is_busy(void **state) {
    (void)state;
    glia_registered *r = glia_registered_new();
    uint64_t first, second;
    (void)count(r, "a", &first);
    (void)count(r, "a", &second);
    assert_int_equal(glia_registered_set(r, "a", first, "[1]", 1, &err), GLIA_OK);
    assert_int_equal(glia_registered_set(r, "a", second, "[2,3]", 2, &err), GLIA_EBUSY);
    assert_int_equal(count(r, "a", NULL), 1);
    glia_registered_free(r);
}

static void no_memory_is_an_error_and_changes_nothing(void **state) {
    (void)state;
    for (size_t n = 1;; n++) {
        glia_fault_arm(n);
        glia_registered *r = glia_registered_new();
        if (!r) continue;
        uint64_t v = 0;
        yyjson_doc *doc;
        glia_status st = glia_registered_set(r, "a", v, "[1,2]", 2, &err);
        if (!st) st = glia_registered_get(r, "a", &doc, NULL, &err);
        if (!st) yyjson_doc_free(doc);
        bool fired = glia_fault_fired();
        glia_fault_arm(0);
        assert_int_equal(st, fired ? GLIA_ENOMEM : GLIA_OK);
        size_t there = count(r, "a", NULL);
        assert_true(there == 0 || there == 2);
        glia_registered_free(r);
        if (!fired) break;
    }
    /* none at all is an empty one that takes nothing */
    assert_int_equal(count(NULL, "a", NULL), 0);
    assert_int_equal(glia_registered_set(NULL, "a", 0, "[1]", 1, &err), GLIA_ENOMEM);
    glia_buf b = {0};
    glia_registered_counts(NULL, &b);
    assert_string_equal(b.p, "{}");
    glia_buf_clear(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_model_has_its_own_list),
        cmocka_unit_test(a_list_made_from_an_old_one_is_busy),
        cmocka_unit_test(no_memory_is_an_error_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Conversations kept for later turns: bounded by number and bytes, the least recently used leave first. */
#include "api/history.h"
#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static glia_err err;

static void put(glia_history *h, const char *id, const char *messages, const char *body) {
    glia_buf m = {0}, items = {0};
    glia_buf_adds(&m, messages);
    glia_history_put(h, id, &m, &items, body, body ? strlen(body) : 0);
    assert_null(m.p);
}

static bool has(glia_history *h, const char *id, const char *messages) {
    glia_buf b = {0};
    glia_status st = glia_history_messages(h, id, &b, &err);
    bool same = !st && !strcmp(b.p ? b.p : "", messages);
    if (st) assert_int_equal(st, GLIA_EPREVIOUS);
    glia_buf_clear(&b);
    return same;
}

static void the_least_recently_used_leaves_first(void **state) {
    (void)state;
    glia_history *h = glia_history_new(3, 1 << 20);
    put(h, "a", "1", "A");
    put(h, "b", "2", NULL);
    put(h, "c", "3", NULL);
    assert_true(has(h, "a", "1")); /* now b is the oldest */
    put(h, "d", "4", NULL);
    assert_true(has(h, "a", "1") && has(h, "c", "3") && has(h, "d", "4"));
    assert_false(has(h, "b", "2"));
    assert_string_equal(err.param, "previous_response_id");
    assert_non_null(strstr(err.message, "latest 3"));
    glia_history_free(h);
}

static void bytes_are_bounded_and_given_back(void **state) {
    (void)state;
    char big[5000];
    memset(big, 'x', sizeof big - 1), big[sizeof big - 1] = 0;
    glia_history *h = glia_history_new(100, 30000);
    for (int i = 0; i < 50; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "r%d", i);
        put(h, id, big, NULL);
        assert_true(has(h, id, big));
    }
    int kept = 0;
    for (int i = 0; i < 50; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "r%d", i);
        kept += has(h, id, big);
    }
    assert_in_range(kept, 2, 5);
    char huge[40000];
    memset(huge, 'x', sizeof huge - 1), huge[sizeof huge - 1] = 0;
    put(h, "huge", huge, NULL); /* never fits: not kept, and nothing leaves for it */
    assert_false(has(h, "huge", huge));
    assert_true(has(h, "r49", big));
    glia_history_free(h);
}

static void replies_are_read_and_forgotten(void **state) {
    (void)state;
    glia_buf b = {0};
    glia_history *h = glia_history_new(4, 1 << 20);
    put(h, "a", "1", "{\"id\":\"a\"}");
    assert_int_equal(glia_history_body(h, "a", &b, &err), GLIA_OK);
    assert_string_equal(b.p, "{\"id\":\"a\"}");
    assert_int_equal(glia_history_drop(h, "a", &err), GLIA_OK);
    assert_int_equal(glia_history_drop(h, "a", &err), GLIA_ENOTFOUND);
    assert_int_equal(glia_history_body(h, "a", &b, &err), GLIA_ENOTFOUND);
    assert_int_equal(glia_history_items(h, "", &b, &err), GLIA_ENOTFOUND);
    glia_buf_clear(&b);
    glia_history_free(h);
}

static void without_memory_nothing_is_kept_half(void **state) {
    (void)state;
    for (size_t n = 1; n < 20; n++) {
        glia_buf m = {0}, items = {0}, out = {0};
        glia_history *h = glia_history_new(4, 1 << 20);
        glia_buf_adds(&m, "1");
        glia_fault_arm(n);
        glia_history_put(h, "a", &m, &items, "body", 4);
        int fired = glia_fault_fired();
        glia_fault_arm(0);
        glia_status st = glia_history_body(h, "a", &out, &err);
        assert_true(fired ? st == GLIA_ENOTFOUND : !st && !strcmp(out.p, "body"));
        glia_buf_clear(&out);
        glia_history_free(h);
        if (!fired) return;
    }
    fail_msg("never without a fault");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_recently_used_leaves_first),
        cmocka_unit_test(bytes_are_bounded_and_given_back),
        cmocka_unit_test(replies_are_read_and_forgotten),
        cmocka_unit_test(without_memory_nothing_is_kept_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

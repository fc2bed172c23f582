/* Translating the bodies of other families: what comes out, and that no failed allocation is passed over. */
#include "api/history.h"
#include "api/job.h"
#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static glia_app app;
static glia_err err;

static int start(void **state) {
    (void)state;
    glia_buf kept = {0}, items = {0};
    app.history = glia_history_new(4, 1 << 20);
    glia_buf_adds(&kept, "{\"role\":\"system\",\"content\":\"old\"},{\"role\":\"user\",\"content\":\"u\"}");
    glia_history_put(app.history, "resp_1", &kept, &items, "{}", 2);
    return 0;
}

static int stop(void **state) {
    (void)state;
    glia_history_free(app.history);
    return 0;
}

/* The translated body, or NULL; freed by the caller. */
static char *translate(const glia_face *face, const char *body, glia_status *st) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_buf out = {0};
    char *s = NULL;
    size_t n;
    memset(&err, 0, sizeof err);
    *st = GLIA_ENOMEM;
    glia_job *j = glia_job_new(&app, face);
    if (!j) return NULL;
    if (!(*st = glia_json_parse_object(&doc, &root, body, strlen(body), &err))) {
        *st = face->read(j, root, &out, &err);
        if (*st) glia_job_fix_param(j, &err);
        if (!*st && out.failed) *st = GLIA_ENOMEM;
        yyjson_doc_free(doc);
    }
    if (!*st) s = glia_buf_take(&out, &n);
    glia_buf_clear(&out);
    glia_job_free(j);
    return s;
}

static void becomes(const glia_face *face, const char *body, const char *want) {
    glia_status st;
    char *got = translate(face, body, &st);
    if (st) fail_msg("%s: %s", err.param, err.message);
    if (strncmp(got, want, strlen(want)) != 0) fail_msg("%s\nis not\n%s", got, want);
    glia_free(got);
}

static const char claude[] =
    "{\"max_tokens\":4,\"system\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":["
    "{\"type\":\"text\",\"text\":\"b\"},{\"type\":\"tool_use\",\"id\":\"x\",\"name\":\"f\",\"input\":{\"n\":1}}]},{\"role\":\"user\","
    "\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"x\",\"content\":\"r\"},{\"type\":\"text\",\"text\":\"c\"}]}]}";
static const char response[] =
    "{\"instructions\":\"i\",\"previous_response_id\":\"resp_1\",\"input\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":"
    "\"assistant\",\"content\":\"b\"},{\"type\":\"function_call\",\"call_id\":\"x\",\"name\":\"f\",\"arguments\":\"{}\"},{\"type\":"
    "\"function_call_output\",\"call_id\":\"x\",\"output\":\"r\"}],\"tools\":[{\"type\":\"function\",\"name\":\"f\"}]}";
static const char lms[] = "{\"model\":\"m\",\"input\":[{\"type\":\"text\",\"content\":\"a\"}],\"system_prompt\":\"new\","
                          "\"previous_response_id\":\"resp_1\"}";

static void blocks_and_items_become_messages(void **state) {
    (void)state;
    becomes(&glia_messages, claude,
            "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
            "\"content\":\"b\",\"tool_calls\":[{\"id\":\"x\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
            "\"{\\\"n\\\":1}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":\"r\"},{\"role\":\"user\",\"content\":"
            "\"c\"}],\"max_tokens\":4");
    becomes(&glia_responses, response,
            "{\"messages\":[{\"role\":\"system\",\"content\":\"i\\n\\nold\"},{\"role\":\"user\","
            "\"content\":\"u\"},{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\",\"tool_calls\":[{"
            "\"id\":\"x\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\","
            "\"tool_call_id\":\"x\",\"content\":\"r\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]");
}

static void what_the_system_says_first_is_one_message(void **state) {
    (void)state;
    becomes(&glia_messages,
            "{\"max_tokens\":4,\"system\":\"a \\\"b\\\"\",\"messages\":[{\"role\":\"system\",\"content\":\"c\"},{\"role\":\"user\","
            "\"content\":\"d\"},{\"role\":\"system\",\"content\":\"e\"}]}",
            "{\"messages\":[{\"role\":\"system\",\"content\":\"a \\\"b\\\"\\n\\nc\"},{\"role\":\"user\",\"content\":\"d\"},"
            "{\"role\":\"system\",\"content\":\"e\"}]");
    becomes(&glia_responses,
            "{\"input\":[{\"role\":\"developer\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"\"},{\"role\":\"user\","
            "\"content\":\"d\"}]}",
            "{\"messages\":[{\"role\":\"system\",\"content\":\"a\\n\\n\"},{\"role\":\"user\",\"content\":\"d\"}]");
}

static void a_new_system_prompt_replaces_the_old_one(void **state) {
    (void)state;
    becomes(&glia_lms_v1_chat, lms,
            "{\"messages\":[{\"role\":\"system\",\"content\":\"new\"},{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"user\","
            "\"content\":\"a\"}]");
    becomes(&glia_lms_v1_chat, "{\"model\":\"m\",\"input\":\"a\",\"previous_response_id\":\"resp_1\"}",
            "{\"messages\":[{\"role\":\"system\",\"content\":\"old\"},{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"user\","
            "\"content\":\"a\"}]");
}

static void names_are_the_clients(void **state) {
    (void)state;
    glia_job *j = glia_job_new(&app, &glia_messages);
    glia_err e = {.status = GLIA_EINVAL,
                  .param = "tools[0].function.parameters.properties.a",
                  .message = "tools[0].function.parameters.properties.a is wrong"};
    glia_job_fix_param(j, &e);
    assert_string_equal(e.param, "tools[0].input_schema.properties.a");
    assert_string_equal(e.message, "tools[0].input_schema.properties.a is wrong");
    glia_err g = {.status = GLIA_EINVAL, .param = "stop[3]", .message = "stop[3] is empty"};
    glia_job_fix_param(j, &g);
    assert_string_equal(g.param, "stop_sequences[3]");
    assert_string_equal(g.message, "stop_sequences[3] is empty");
    glia_job_fix_param(j, &g); /* a name of the client's own stays */
    assert_string_equal(g.param, "stop_sequences[3]");
    j->face = &glia_responses;
    glia_err f = {.status = GLIA_EINVAL, .param = "response_format.json_schema.schema.x", .message = "bad"};
    glia_job_fix_param(j, &f);
    assert_string_equal(f.param, "text.format.schema.x");
    glia_job_free(j);
}

static void no_failed_allocation_is_passed_over(void **state) {
    (void)state;
    const struct {
        const glia_face *face;
        const char *body;
    } cases[] = {{&glia_messages, claude}, {&glia_responses, response}, {&glia_lms_v1_chat, lms}};
    for (size_t i = 0; i < 3; i++) {
        glia_status st;
        char *whole = translate(cases[i].face, cases[i].body, &st);
        int fired = 1;
        assert_non_null(whole);
        for (size_t n = 1; fired && n < 500; n++) {
            glia_fault_arm(n);
            char *got = translate(cases[i].face, cases[i].body, &st);
            fired = glia_fault_fired();
            glia_fault_arm(0);
            if (got) assert_string_equal(got, whole); /* else it says so */
            else assert_int_equal(st, GLIA_ENOMEM);
            glia_free(got);
        }
        assert_false(fired);
        glia_free(whole);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_and_items_become_messages),
        cmocka_unit_test(what_the_system_says_first_is_one_message),
        cmocka_unit_test(a_new_system_prompt_replaces_the_old_one),
        cmocka_unit_test(names_are_the_clients),
        cmocka_unit_test(no_failed_allocation_is_passed_over),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

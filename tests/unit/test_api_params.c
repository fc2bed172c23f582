/* Generation fields and messages: what is taken, what is refused, and which field is named. */
#include "api/params.h"
#include "api/prompt.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static glia_err err;
static glia_gen gen;

static glia_status parse(const char *s, glia_api_kind kind) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_gen_clear(&gen);
    memset(&err, 0, sizeof err);
    assert_int_equal(glia_json_parse_object(&doc, &root, s, strlen(s), &err), GLIA_OK);
    glia_status st = glia_gen_parse(&gen, root, kind, 1000, &err);
    yyjson_doc_free(doc);
    return st;
}

static void every_field_of_the_table_is_taken(void **state) {
    (void)state;
    assert_int_equal(
        parse("{\"temperature\":0.5,\"top_p\":0.9,\"min_p\":0.1,\"top_k\":-1,\"typical_p\":0.8,"
              "\"top_n_sigma\":-1,\"xtc_probability\":0.5,\"xtc_threshold\":0.2,\"repeat_last_n\":-1,"
              "\"repeat_penalty\":1.1,\"frequency_penalty\":-2,\"presence_penalty\":2,\"dry_multiplier\":0.8,"
              "\"dry_base\":1.75,\"dry_allowed_length\":2,\"dry_penalty_last_n\":-1,\"mirostat\":2,"
              "\"mirostat_tau\":5,\"mirostat_eta\":0.1,\"ignore_eos\":true,\"seed\":42,\"max_tokens\":7,"
              "\"stop\":[\"a\",\"b\"],\"logit_bias\":{\"5\":-100,\"6\":1.5},\"stream\":true,"
              "\"stream_options\":{\"include_usage\":true},\"cache_prompt\":false,\"user\":\"x\",\"n\":1,"
              "\"tools\":[],\"tool_choice\":\"none\",\"response_format\":{\"type\":\"text\"},"
              "\"logprobs\":true,\"top_logprobs\":3}",
              GLIA_API_CHAT),
        GLIA_OK);
    assert_true(gen.sampling.temperature == 0.5f && gen.sampling.top_k == 0 && gen.sampling.penalty_repeat == 1.1f);
    assert_true(gen.sampling.seed == 42 && gen.sampling.mirostat == 2 && gen.sampling.ignore_eos);
    assert_true(gen.sampling.n_bias == 2 && gen.bias[0].token == 5 && gen.bias[0].bias == -100);
    assert_true(gen.max_tokens == 7 && gen.n_stop == 2 && gen.stream && gen.include_usage && gen.no_cache);
    assert_int_equal(gen.sampling.n_logprobs, 3);
}

static void absent_and_null_fields_keep_the_defaults(void **state) {
    (void)state;
    glia_request_params p;
    glia_request_params_init(&p);
    assert_int_equal(parse("{\"temperature\":null,\"max_tokens\":null,\"stop\":null,\"tools\":null,\"seed\":null,"
                           "\"logprobs\":null,\"n\":null,\"response_format\":null}",
                           GLIA_API_CHAT),
                     GLIA_OK);
    assert_true(gen.sampling.temperature == p.sampling.temperature && gen.sampling.seed == p.sampling.seed);
    assert_int_equal(gen.max_tokens, -1);
    assert_int_equal(gen.sampling.n_logprobs, -1);
}

static void wrong_values_name_their_field(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"{\"temperature\":2.1}", "temperature"},
        {"{\"temperature\":-0.1}", "temperature"},
        {"{\"temperature\":\"hot\"}", "temperature"},
        {"{\"temperature\":1e999}", NULL}, /* not even JSON for a double */
        {"{\"top_p\":0}", "top_p"},
        {"{\"top_p\":1e-60}", "top_p"},
        {"{\"top_p\":1.5}", "top_p"},
        {"{\"top_p\":true}", "top_p"},
        {"{\"min_p\":-1}", "min_p"},
        {"{\"top_k\":-2}", "top_k"},
        {"{\"top_k\":1.5}", "top_k"},
        {"{\"top_k\":99999999999}", "top_k"},
        {"{\"repeat_penalty\":0}", "repeat_penalty"},
        {"{\"frequency_penalty\":3}", "frequency_penalty"},
        {"{\"presence_penalty\":-2.5}", "presence_penalty"},
        {"{\"mirostat\":3}", "mirostat"},
        {"{\"seed\":1.5}", "seed"},
        {"{\"seed\":\"1\"}", "seed"},
        {"{\"ignore_eos\":1}", "ignore_eos"},
        {"{\"max_tokens\":0}", "max_tokens"},
        {"{\"max_tokens\":-2}", "max_tokens"},
        {"{\"max_tokens\":99999999999}", "max_tokens"},
        {"{\"max_completion_tokens\":\"5\"}", "max_completion_tokens"},
        {"{\"stop\":\"\"}", "stop"},
        {"{\"stop\":7}", "stop"},
        {"{\"stop\":[\"a\",\"\"]}", "stop[1]"},
        {"{\"stop\":[\"a\",null]}", "stop[1]"},
        {"{\"stop\":[\"a\\u0000\"]}", "stop[0]"},
        {"{\"stop\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", "stop"},
        {"{\"logit_bias\":[]}", "logit_bias"},
        {"{\"logit_bias\":{\"x\":1}}", "logit_bias.x"},
        {"{\"logit_bias\":{\"1000\":1}}", "logit_bias.1000"},
        {"{\"logit_bias\":{\"-1\":1}}", "logit_bias.-1"},
        {"{\"logit_bias\":{\"5\":101}}", "logit_bias.5"},
        {"{\"logit_bias\":{\"5\":\"1\"}}", "logit_bias.5"},
        {"{\"logprobs\":5}", "logprobs"},
        {"{\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs"},
        {"{\"top_logprobs\":2}", "top_logprobs"},
        {"{\"stream\":\"yes\"}", "stream"},
        {"{\"stream_options\":[]}", "stream_options"},
        {"{\"stream_options\":{\"include_usage\":1}}", "stream_options.include_usage"},
        {"{\"n\":129}", "n"},
        {"{\"n\":0}", "n"},
        {"{\"best_of\":3}", "best_of"},
        {"{\"functions\":[]}", "functions"},
        {"{\"response_format\":\"json\"}", "response_format"},
        {"{\"response_format\":{\"type\":\"json_schema\"}}", "response_format.json_schema"},
        {"{\"response_format\":{}}", "response_format.type"},
        {"{\"suffix\":\"x\"}", "suffix"},
        {"{\"audio\":{}}", "audio"},
        {"{\"modalities\":[\"text\",\"audio\"]}", "modalities"},
        {"{\"grammar\":5}", "grammar"},
        {"{\"json_schema\":{\"not\":{}}}", "json_schema.not"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!rows[i][1]) continue;
        glia_status st = parse(rows[i][0], GLIA_API_CHAT);
        if (st != GLIA_EINVAL || strcmp(err.param, rows[i][1]) || !err.message[0])
            fail_msg("%s: status %d, param \"%s\", \"%s\"", rows[i][0], (int)st, err.param, err.message);
    }
}

static void completions_take_counts_where_chats_take_flags(void **state) {
    (void)state;
    assert_int_equal(parse("{\"logprobs\":5,\"max_tokens\":0}", GLIA_API_COMPLETION), GLIA_OK);
    assert_int_equal(gen.sampling.n_logprobs, 5);
    assert_int_equal(gen.max_tokens, 0);
    assert_int_equal(parse("{\"logprobs\":101}", GLIA_API_COMPLETION), GLIA_EINVAL);
    assert_int_equal(parse("{\"logprobs\":true}", GLIA_API_COMPLETION), GLIA_EINVAL);
    assert_int_equal(parse("{\"n\":3,\"best_of\":3}", GLIA_API_COMPLETION), GLIA_OK);
    assert_int_equal(gen.n, 3);
    assert_int_equal(parse("{\"n\":3,\"best_of\":4}", GLIA_API_COMPLETION), GLIA_EINVAL);
}

static void any_whole_number_is_a_seed(void **state) {
    (void)state;
    assert_int_equal(parse("{\"seed\":-1}", GLIA_API_CHAT), GLIA_OK);
    assert_true(gen.sampling.seed == GLIA_SEED_RANDOM);
    assert_int_equal(parse("{\"seed\":9007199254740993}", GLIA_API_CHAT), GLIA_OK);
    assert_true(gen.sampling.seed != GLIA_SEED_RANDOM);
    assert_int_equal(parse("{\"seed\":4294967295}", GLIA_API_CHAT), GLIA_OK);
    assert_true(gen.sampling.seed != GLIA_SEED_RANDOM);
}

/* ------------------------------------------------------------------ messages */

static glia_buf out;

static glia_status messages(const char *s) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_buf_clear(&out);
    memset(&err, 0, sizeof err);
    assert_int_equal(glia_json_parse_object(&doc, &root, s, strlen(s), &err), GLIA_OK);
    glia_status st = glia_messages_normalise(root, &out, &err);
    yyjson_doc_free(doc);
    return st;
}

static void messages_become_plain_text(void **state) {
    (void)state;
    assert_int_equal(
        messages("{\"messages\":[{\"role\":\"developer\",\"content\":\"be \\\"kind\\\"\"},{\"role\":\"user\","
                 "\"name\":\"bob\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":"
                 "\"b\"}]},{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[],\"refusal\":null}]}"),
        GLIA_OK);
    assert_string_equal(out.p,
                        "[{\"role\":\"system\",\"content\":\"be \\\"kind\\\"\"},{\"role\":\"user\",\"content\":\"a\\nb\",\"name\":"
                        "\"bob\"},{\"role\":\"assistant\",\"content\":\"\"}]");
}

static void bad_messages_name_their_field(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"{}", "messages"},
        {"{\"messages\":[]}", "messages"},
        {"{\"messages\":\"hi\"}", "messages"},
        {"{\"messages\":[5]}", "messages[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"u\",\"content\":\"x\"}]}",
         "messages[1].role"},
        {"{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":7,\"content\":\"x\"}]}", "messages[0].role"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":{}}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}", "messages[0].content[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", "messages[0].content[0].type"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]}", "messages[0].content[0].type"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages[0].content[0].text"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}", "messages[0].tool_calls[0].function"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        glia_status st = messages(rows[i][0]);
        if (st != GLIA_EINVAL || strcmp(err.param, rows[i][1]))
            fail_msg("%s: status %d, param \"%s\", \"%s\"", rows[i][0], (int)st, err.param, err.message);
    }
}

static void ten_thousand_messages_are_the_limit(void **state) {
    (void)state;
    glia_buf b = {0};
    glia_buf_adds(&b, "{\"messages\":[");
    for (int i = 0; i <= GLIA_MAX_MESSAGES; i++) glia_buf_adds(&b, i ? ",{\"role\":\"user\",\"content\":\"x\"}" : "{}");
    glia_buf_adds(&b, "]}");
    assert_int_equal(messages(b.p), GLIA_EINVAL);
    assert_string_equal(err.param, "messages");
    assert_non_null(strstr(err.message, "10000"));
    glia_buf_clear(&b);
}

static int clear_all(void **state) {
    (void)state;
    glia_gen_clear(&gen);
    glia_buf_clear(&out);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_of_the_table_is_taken),
        cmocka_unit_test(absent_and_null_fields_keep_the_defaults),
        cmocka_unit_test(wrong_values_name_their_field),
        cmocka_unit_test(completions_take_counts_where_chats_take_flags),
        cmocka_unit_test(any_whole_number_is_a_seed),
        cmocka_unit_test(messages_become_plain_text),
        cmocka_unit_test(bad_messages_name_their_field),
        cmocka_unit_test(ten_thousand_messages_are_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, clear_all);
}

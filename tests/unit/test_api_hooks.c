/* Hooks as they come in (fields, keys, limits) and entries as they go out (labels, list, base64, merged). */
#include "api/activations.h"
#include "api/encode.h"
#include "base/mem.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { N_LAYER = 30 };
static glia_err err;
static glia_acts acts;

static glia_status parse_for(const char *s, size_t n, bool required, int32_t n_layer) {
    yyjson_doc *doc;
    yyjson_val *root;
    glia_acts_clear(&acts);
    memset(&err, 0, sizeof err);
    assert_int_equal(glia_json_parse_object(&doc, &root, s, n, &err), GLIA_OK);
    glia_status st = glia_acts_parse(&acts, root, NULL, required, n_layer, "llama", &err);
    yyjson_doc_free(doc); /* nothing may point into it */
    return st;
}
static glia_status parse(const char *s) { return parse_for(s, strlen(s), true, N_LAYER); }

static void keys_are(const char *hooks, const char *const *keys, size_t n) {
    char body[2048];
    (void)snprintf(body, sizeof body, "{\"activation_hooks\":%s}", hooks);
    if (parse(body)) fail_msg("%s: %s", hooks, err.message);
    assert_int_equal(acts.n_keys, n);
    for (size_t i = 0; i < n; i++) assert_string_equal(acts.keys[i], keys[i]);
}
#define KEYS_ARE(hooks, ...)                                                                                           \
    keys_are(hooks, (const char *const[]){__VA_ARGS__}, sizeof(const char *[]){__VA_ARGS__} / sizeof(char *))

static void keys_follow_the_way_the_hook_was_written(void **state) {
    (void)state;
    KEYS_ARE("[{\"layer\":5,\"component\":\"resid_post\"}]", "resid_post.5");
    KEYS_ARE("[{\"layer\":-1,\"component\":\"residual\"}]", "resid_post.29");
    KEYS_ARE("[{\"layer\":\"transformer.h.5\",\"component\":\"residual\"}]", "transformer.h.5");
    KEYS_ARE("[{\"layer_name\":\"model.layers.5.self_attn\",\"component\":\"attention\"}]",
             "model.layers.5.self_attn_attention");
    KEYS_ARE("[{\"layer_name\":\"model.layers.5\",\"component\":\"residual\",\"hook_id\":\"r5\"}]", "r5");
    KEYS_ARE("[{\"name\":\"blocks.5.hook_resid_post\"}]", "blocks.5.hook_resid_post");
    KEYS_ARE("[{\"component\":\"final_norm\"}]", "final_norm");
}

static void shared_keys_are_told_apart(void **state) {
    (void)state;
    KEYS_ARE("[{\"layer\":\"transformer.h.5\",\"component\":\"residual\"},{\"layer\":\"transformer.h.5\",\"component\":"
             "\"attention\"}]",
             "transformer.h.5_residual", "transformer.h.5_attention");
    KEYS_ARE("[{\"layer\":5,\"component\":\"mlp_out\"},{\"layer\":5,\"component\":\"mlp_out\",\"positions\":\"last\"}]",
             "model.layers.5_mlp_out", "model.layers.5_mlp_out#2");
    KEYS_ARE("[{\"layer\":5,\"component\":\"q\",\"hook_id\":\"a\"},{\"layer\":6,\"component\":\"q\",\"hook_id\":\"a\"},"
             "{\"layer\":7,\"component\":\"q\",\"hook_id\":\"a#2\"}]",
             "a", "a#2", "a#2#2");
}

static void a_star_gives_a_key_per_layer(void **state) {
    (void)state;
    static const char all[] = "{\"activation_hooks\":[{\"layer\":\"*\",\"component\":\"resid_post\"},{\"layer\":\"*\","
                              "\"component\":\"mlp\",\"hook_id\":\"m\"}]}";
    assert_int_equal(parse(all), GLIA_OK);
    assert_int_equal(acts.n_keys, 2 * N_LAYER);
    assert_string_equal(acts.keys[0], "resid_post.0");
    assert_string_equal(acts.keys[29], "resid_post.29");
    assert_string_equal(acts.keys[31], "m.1");
    assert_int_equal(acts.hooks[31].layer, 1);
    assert_string_equal(acts.labels[31].layer_name, "model.layers.1");
    assert_int_equal(acts.labels[31].source, 1);
}

static void both_sides_share_one_key(void **state) {
    (void)state;
    assert_int_equal(parse("{\"activation_hooks\":[{\"layer_name\":\"model.layers.5\",\"component\":\"residual\","
                           "\"capture_input\":true}]}"),
                     GLIA_OK);
    assert_int_equal(acts.n, 2);
    assert_int_equal(acts.n_keys, 1);
    assert_true(acts.labels[0].is_input && !acts.labels[1].is_input);
    assert_int_equal(acts.hooks[0].point, GLIA_POINT_RESID_PRE);
}

static void rows_and_heads_are_taken(void **state) {
    (void)state;
    assert_int_equal(
        parse("{\"activation_hooks\":[{\"layer\":1,\"component\":\"z\",\"heads\":[0,3],\"positions\":[0,-1]},"
              "{\"layer\":1,\"component\":\"q\",\"positions\":\"last\"},"
              "{\"layer\":1,\"component\":\"k\",\"positions\":\"generated\",\"dtype\":\"float16\"}]}"),
        GLIA_OK);
    assert_int_equal(acts.hooks[0].n_heads, 2);
    assert_int_equal(acts.hooks[0].heads[1], 3);
    assert_int_equal(acts.hooks[0].n_positions, 2);
    assert_int_equal(acts.hooks[0].positions[1], -1);
    assert_int_equal(acts.hooks[0].phases, GLIA_PHASE_ALL);
    assert_int_equal(acts.hooks[1].positions[0], -1);
    assert_int_equal(acts.hooks[2].phases, GLIA_PHASE_GENERATED);
    assert_int_equal(acts.labels[2].dtype, GLIA_F16);
    assert_int_equal(
        parse("{\"activation_hooks\":[{\"layer\":1,\"component\":\"q\"}],\"activation_format\":{\"include\":"
              "[\"prompt\"],\"encoding\":\"base64\",\"dtype\":\"bfloat16\",\"merge\":true}}"),
        GLIA_OK);
    assert_int_equal(acts.hooks[0].phases, GLIA_PHASE_PROMPT);
    assert_true(acts.format.merge && acts.format.encoding == GLIA_ENC_BASE64 && acts.labels[0].dtype == GLIA_BF16);
}

static void ranges_channels_and_reductions_are_taken(void **state) {
    (void)state;
    assert_int_equal(
        parse("{\"activation_hooks\":["
              "{\"layer\":1,\"component\":\"q\",\"positions\":\"3:10\",\"channels\":[5,2]},"
              "{\"layer\":1,\"component\":\"q\",\"positions\":{\"from\":-4},\"channels\":\":-2\",\"reduce\":\"mean\"},"
              "{\"layer\":1,\"component\":\"q\",\"positions\":\":\",\"reduce\":{\"op\":\"topk\",\"k\":10,\"by\":"
              "\"magnitude\"}},"
              "{\"layer\":\"*\",\"component\":\"q\",\"reduce\":{\"op\":\"project\",\"directions\":[[1,2.5],[-3,0]]}},"
              "{\"layer\":1,\"component\":\"q\",\"reduce\":\"none\"}]}"),
        GLIA_OK);
    const glia_hook *h = acts.hooks;
    assert_true(h[0].range && h[0].range->from == 3 && h[0].range->to == 10 && !h[0].positions);
    assert_true(h[0].n_channels == 2 && h[0].channels[0] == 5 && !h[0].channel_range && !h[0].reduce.op);
    assert_true(h[1].range->from == -4 && h[1].range->to == GLIA_RANGE_END);
    assert_true(h[1].channel_range->from == 0 && h[1].channel_range->to == -2 && !h[1].channels);
    assert_true(h[1].reduce.op == GLIA_REDUCE_MEAN && !h[1].reduce.across_phases);
    assert_true(h[2].reduce.op == GLIA_REDUCE_TOPK && h[2].reduce.k == 10 && h[2].reduce.by_magnitude);
    for (int i = 3; i < 3 + N_LAYER; i++) {
        const glia_reduce *r = &h[i].reduce;
        assert_true(r->op == GLIA_REDUCE_PROJECT && r->n_directions == 2 && r->n_channels == 2);
        assert_ptr_equal(r->directions, h[3].reduce.directions); /* one copy for all layers */
        assert_true(r->directions[1] == 2.5f && r->directions[2] == -3);
    }
    assert_int_equal(h[3 + N_LAYER].reduce.op, GLIA_REDUCE_NONE);
    /* an entry per hook means one row per hook */
    assert_int_equal(parse("{\"activation_hooks\":[{\"layer\":1,\"component\":\"q\",\"reduce\":\"var\"},{\"layer\":1,"
                           "\"component\":\"q\",\"reduce\":\"row_norm\"}],\"activation_format\":{\"merge\":true}}"),
                     GLIA_OK);
    assert_true(acts.hooks[0].reduce.across_phases && !acts.hooks[1].reduce.across_phases);
}

static void directions_come_as_lists_or_bytes(void **state) {
    (void)state;
    static const struct {
        const char *json;
        const char *param; /* of the error, "" when it is fine: [1, -2.5], [0.5, 0] */
    } rows[] = {
        {"[[1,-2.5],[0.5,0]]", ""},
        {"{\"shape\":[2,2],\"data\":[1,-2.5,0.5,0]}", ""},
        {"{\"shape\":[2,2],\"dtype\":\"float32\",\"data\":[[1,-2.5],[0.5,0]]}", ""},
        {"{\"shape\":[2,2],\"data\":\"AACAPwAAIMAAAAA/AAAAAA==\"}", ""},
        {"{\"shape\":[2,2],\"dtype\":\"float16\",\"data\":\"ADwAwQA4AAA=\"}", ""},
        {"{\"shape\":[2,2],\"dtype\":\"bfloat16\",\"data\":\"gD8gwAA/AAA=\"}", ""},
        {"5", ".directions"},
        {"[]", ".directions"},
        {"[[]]", ".directions"},
        {"[[1,2],[3]]", ".directions"},
        {"[[1,2],3]", ".directions"},
        {"[1,[2]]", ".directions"},
        {"[1,\"x\"]", ".directions"},
        {"[1e39]", ".directions"},
        {"{}", ".directions.shape"},
        {"{\"shape\":[0,2]}", ".directions.shape"},
        {"{\"shape\":[1,2,3]}", ".directions.shape"},
        {"{\"shape\":[99999999,99999999]}", ".directions.shape"},
        {"{\"shape\":[2]}", ".directions.data"},
        {"{\"shape\":[3],\"data\":[1,2]}", ".directions.data"},
        {"{\"shape\":[2,2],\"data\":[[1,2,3,4]]}", ".directions.data"},
        {"{\"shape\":[2],\"dtype\":\"int8\",\"data\":[1,2]}", ".directions.dtype"},
        {"{\"shape\":[2],\"data\":\"AACAPwAAIMA\"}", ".directions.data"},
        {"{\"shape\":[2],\"data\":\"AACAPwAAIM*=\"}", ".directions.data"},
        {"{\"shape\":[2],\"data\":\"AACAPwAAIMB=\"}", ".directions.data"},
        {"{\"shape\":[3],\"data\":\"AACAPwAAIMA=\"}", ".directions.data"},
        {"{\"shape\":[1],\"data\":\"AACAfw==\"}", ".directions.data"},
        {"{\"shape\":[2],\"data\":[1,2],\"extra\":1}", ".directions.extra"},
    };
    static const float want[] = {1, -2.5f, 0.5f, 0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char body[512], param[128];
        (void)snprintf(body, sizeof body,
                       "{\"activation_hooks\":[{\"layer\":1,\"component\":\"q\",\"reduce\":{\"op\":\"project\","
                       "\"directions\":%s}}]}",
                       rows[i].json);
        glia_status st = parse(body);
        if (!*rows[i].param) {
            if (st) fail_msg("%s: %s", rows[i].json, err.message);
            assert_int_equal(acts.hooks[0].reduce.n_directions, 2);
            assert_memory_equal(acts.hooks[0].reduce.directions, want, sizeof want);
            continue;
        }
        (void)snprintf(param, sizeof param, "activation_hooks[0].reduce%s", rows[i].param);
        if (st != GLIA_EINVAL || strcmp(err.param, param))
            fail_msg("%s: status %d, param \"%s\", \"%s\"", rows[i].json, (int)st, err.param, err.message);
    }
}

static void bad_hooks_name_their_field(void **state) {
    (void)state;
    static const struct {
        const char *hooks;
        glia_status status;
        const char *param;
    } rows[] = {
        {"[]", GLIA_EINVAL, "activation_hooks"},
        {"null", GLIA_EINVAL, "activation_hooks"},
        {"{}", GLIA_EINVAL, "activation_hooks"},
        {"[5]", GLIA_EINVAL, "activation_hooks[0]"},
        {"[{}]", GLIA_EINVAL, "activation_hooks[0].component"},
        {"[{\"layer\":5,\"component\":\"q\"},{\"layer\":40,\"component\":\"q\"}]", GLIA_EINVAL,
         "activation_hooks[1].layer"},
        {"[{\"layer\":-31,\"component\":\"q\"}]", GLIA_EINVAL, "activation_hooks[0].layer"},
        {"[{\"layer\":1e30,\"component\":\"q\"}]", GLIA_EINVAL, "activation_hooks[0].layer"},
        {"[{\"layer\":1.5,\"component\":\"q\"}]", GLIA_EINVAL, "activation_hooks[0].layer"},
        {"[{\"layer\":true,\"component\":\"q\"}]", GLIA_EINVAL, "activation_hooks[0].layer"},
        {"[{\"layer\":5,\"component\":7}]", GLIA_EINVAL, "activation_hooks[0].component"},
        {"[{\"layer\":5,\"component\":\"resid_pots\"}]", GLIA_EINVAL, "activation_hooks[0].component"},
        {"[{\"layer_name\":\"model.layers.5.self_attn.q_proj\"}]", GLIA_EHOOK, "activation_hooks[0].layer_name"},
        {"[{\"layer\":5,\"componet\":\"q\"}]", GLIA_EINVAL, "activation_hooks[0].componet"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":\"median\"}]", GLIA_EINVAL, "activation_hooks[0].reduce"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":5}]", GLIA_EINVAL, "activation_hooks[0].reduce"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":\"topk\"}]", GLIA_EINVAL, "activation_hooks[0].reduce"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":{}}]", GLIA_EINVAL, "activation_hooks[0].reduce.op"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":{\"op\":\"mean\",\"k\":3}}]", GLIA_EINVAL,
         "activation_hooks[0].reduce.k"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":{\"op\":\"topk\"}}]", GLIA_EINVAL,
         "activation_hooks[0].reduce.k"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":{\"op\":\"topk\",\"k\":0}}]", GLIA_EINVAL,
         "activation_hooks[0].reduce.k"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":{\"op\":\"topk\",\"k\":3,\"by\":\"size\"}}]", GLIA_EINVAL,
         "activation_hooks[0].reduce.by"},
        {"[{\"layer\":5,\"component\":\"q\",\"reduce\":{\"op\":\"project\"}}]", GLIA_EINVAL,
         "activation_hooks[0].reduce.directions"},
        {"[{\"layer\":5,\"component\":\"q\",\"channels\":\"all\"}]", GLIA_EINVAL, "activation_hooks[0].channels"},
        {"[{\"layer\":5,\"component\":\"q\",\"channels\":[]}]", GLIA_EINVAL, "activation_hooks[0].channels"},
        {"[{\"layer\":5,\"component\":\"q\",\"channels\":[-1]}]", GLIA_EINVAL, "activation_hooks[0].channels"},
        {"[{\"layer\":5,\"component\":\"q\",\"channels\":\"3:x\"}]", GLIA_EINVAL, "activation_hooks[0].channels"},
        {"[{\"layer\":5,\"component\":\"q\",\"positions\":\"3: 4\"}]", GLIA_EINVAL, "activation_hooks[0].positions"},
        {"[{\"layer\":5,\"component\":\"q\",\"positions\":{\"form\":3}}]", GLIA_EINVAL,
         "activation_hooks[0].positions.form"},
        {"[{\"layer\":5,\"component\":\"q\",\"positions\":{\"from\":\"3\"}}]", GLIA_EINVAL,
         "activation_hooks[0].positions.from"},
        {"[{\"layer\":5,\"component\":\"q\",\"dtype\":\"int8\"}]", GLIA_EINVAL, "activation_hooks[0].dtype"},
        {"[{\"layer\":5,\"component\":\"q\",\"heads\":[]}]", GLIA_EINVAL, "activation_hooks[0].heads"},
        {"[{\"layer\":5,\"component\":\"q\",\"heads\":[-1]}]", GLIA_EINVAL, "activation_hooks[0].heads"},
        {"[{\"layer\":5,\"component\":\"q\",\"heads\":\"all\"}]", GLIA_EINVAL, "activation_hooks[0].heads"},
        {"[{\"layer\":5,\"component\":\"q\",\"positions\":\"first\"}]", GLIA_EINVAL, "activation_hooks[0].positions"},
        {"[{\"layer\":5,\"component\":\"q\",\"positions\":[1,\"2\"]}]", GLIA_EINVAL, "activation_hooks[0].positions"},
        {"[{\"layer\":5,\"component\":\"q\",\"capture_input\":1}]", GLIA_EINVAL, "activation_hooks[0].capture_input"},
        {"[{\"name\":\"blocks.5.hook_nothing\"}]", GLIA_EINVAL, "activation_hooks[0].name"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char body[512];
        (void)snprintf(body, sizeof body, "{\"activation_hooks\":%s}", rows[i].hooks);
        glia_status st = parse(body);
        if (st != rows[i].status || strcmp(err.param, rows[i].param))
            fail_msg("%s: status %d, param \"%s\", \"%s\"", rows[i].hooks, (int)st, err.param, err.message);
    }
    static const char *const formats[][2] = {
        {"5", "activation_format"},
        {"{\"encoding\":\"hex\"}", "activation_format.encoding"},
        {"{\"dtype\":\"float64\"}", "activation_format.dtype"},
        {"{\"include\":[]}", "activation_format.include"},
        {"{\"include\":[\"all\"]}", "activation_format.include"},
        {"{\"merge\":1}", "activation_format.merge"},
        {"{\"encodin\":\"list\"}", "activation_format.encodin"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        char body[512];
        (void)snprintf(body, sizeof body, "{\"activation_format\":%s}", formats[i][0]);
        assert_int_equal(parse_for(body, strlen(body), false, N_LAYER), GLIA_EINVAL);
        assert_string_equal(err.param, formats[i][1]);
    }
}

static void hooks_are_optional_on_plain_routes(void **state) {
    (void)state;
    assert_int_equal(parse_for("{}", 2, false, N_LAYER), GLIA_OK);
    assert_int_equal(acts.n, 0);
}

static glia_status many(int n, const char *hook, int32_t n_layer) {
    glia_buf b = {0};
    glia_buf_adds(&b, "{\"activation_hooks\":[");
    for (int i = 0; i < n; i++) glia_buf_addf(&b, "%s%s", i ? "," : "", hook);
    glia_buf_adds(&b, "]}");
    glia_status st = parse_for(b.p, b.n, true, n_layer);
    glia_buf_clear(&b);
    return st;
}

static void long_lists_are_refused(void **state) {
    (void)state;
    assert_int_equal(many(10000, "{\"layer\":1,\"component\":\"q\"}", N_LAYER), GLIA_EINVAL);
    assert_string_equal(err.param, "activation_hooks");
    assert_non_null(strstr(err.message, "10000"));
    assert_int_equal(many(1024, "{\"layer\":\"*\",\"component\":\"q\"}", 100), GLIA_EINVAL);
    assert_non_null(strstr(err.message, "102400"));
    assert_int_equal(many(1024, "{\"layer\":1,\"component\":\"q\"}", N_LAYER), GLIA_OK);
    assert_string_equal(acts.keys[1023], "model.layers.1_q#1024");
}

static void engine_hook_numbers_are_mapped_back(void **state) {
    (void)state;
    assert_int_equal(
        parse("{\"activation_hooks\":[{\"layer\":\"*\",\"component\":\"q\"},{\"layer\":3,\"component\":\"z\"}]}"),
        GLIA_OK);
    glia_err e = {GLIA_EHOOK, "activation_hooks[30].heads", "no"};
    glia_acts_fix_param(&acts, &e);
    assert_string_equal(e.param, "activation_hooks[1].heads");
    glia_err other = {GLIA_EBUSY, "", "no"};
    glia_acts_fix_param(&acts, &other);
    assert_string_equal(other.param, "");
}

static void every_failed_allocation_is_an_error(void **state) {
    (void)state;
    static const char body[] =
        "{\"activation_hooks\":[{\"layer\":\"*\",\"component\":\"q\",\"heads\":[1],\"positions\":[0]},"
        "{\"layer\":3,\"component\":\"z\"},{\"layer\":3,\"component\":\"z\",\"channels\":[3],\"positions\":\"1:\"},"
        "{\"layer\":3,\"component\":\"q\",\"channels\":\"1:3\",\"reduce\":{\"op\":\"project\",\"directions\":{\"shape\":"
        "[1],\"data\":\"AACAPw==\"}}}]}";
    for (size_t n = 1;; n++) {
        glia_fault_arm(n);
        glia_status st = parse(body);
        bool fired = glia_fault_fired();
        glia_fault_arm(0);
        if (!fired) {
            assert_int_equal(st, GLIA_OK);
            assert_true(n > 5);
            break;
        }
        assert_int_equal(st, GLIA_ENOMEM);
    }
}

/* ------------------------------------------------------------------ entries */

static const float data[] = {0, 1, -2.5f, 0.1f, 100, 1e-7f};
static const int32_t positions[] = {3, 4}, tokens[] = {17, 99};

static glia_frame frame(void) {
    return (glia_frame){.hook = 0,
                        .point = GLIA_POINT_RESID_POST,
                        .layer = 5,
                        .grade = GLIA_GRADE_PROVEN,
                        .phase = GLIA_PHASE_PROMPT,
                        .n_rows = 2,
                        .width = 3,
                        .n_positions = 2,
                        .positions = positions,
                        .token_ids = tokens,
                        .data = data};
}

static char *entry(const glia_frame *f) {
    static char text[4096];
    glia_buf b = {0};
    glia_act_writer w = {.acts = &acts, .frame = f};
    while (!glia_act_write(&w, &b)) {}
    (void)snprintf(text, sizeof text, "%s", b.p);
    glia_buf_clear(&b);
    return text;
}

static void entries_carry_labels_and_nested_lists(void **state) {
    (void)state;
    assert_int_equal(parse("{\"activation_hooks\":[{\"layer\":\"transformer.h.5\",\"component\":\"residual\"}]}"),
                     GLIA_OK);
    glia_frame f = frame();
    assert_string_equal(entry(&f),
                        "{\"hook_id\":\"transformer.h.5\",\"layer_name\":\"transformer.h.5\",\"component\":"
                        "\"residual\",\"point\":\"resid_post\",\"layer\":5,\"shape\":[1,2,3],\"dtype\":\"float32\","
                        "\"is_input\":false,\"phase\":\"prompt\",\"grade\":\"proven\",\"positions\":[3,4],"
                        "\"token_ids\":[17,99],\"encoding\":\"list\",\"data\":[[[0.0,1.0,-2.5],[0.1,100.0,1e-7]]]}");
}

static void base64_holds_the_same_bytes(void **state) {
    (void)state;
    assert_int_equal(
        parse("{\"activation_hooks\":[{\"layer\":5,\"component\":\"q\"}],\"activation_format\":{\"encoding\":"
              "\"base64\"}}"),
        GLIA_OK);
    glia_frame f = frame();
    f.n_heads = 3, f.head_dim = 1;
    const char *s = entry(&f);
    assert_non_null(strstr(s, "\"n_heads\":3,\"head_dim\":1"));
    assert_non_null(strstr(s, "\"data\":\"AAAAAAAAgD8AACDAzczMPQAAyEKVv9Yz\"}"));
    acts.labels[0].dtype = GLIA_F16;
    assert_non_null(strstr(entry(&f), "\"data\":\"AAAAPADBZi5AVgIA\"}"));
}

static void half_precision_lists_are_rounded(void **state) {
    (void)state;
    assert_int_equal(parse("{\"activation_hooks\":[{\"layer\":5,\"component\":\"q\",\"dtype\":\"float16\"}]}"),
                     GLIA_OK);
    glia_frame f = frame();
    const char *s = entry(&f);
    assert_non_null(strstr(s, "\"dtype\":\"float16\""));
    assert_non_null(strstr(s, "[0.099975586,100.0,1.1920929e-7]"));
}

static void large_entries_come_in_pieces_that_join(void **state) {
    (void)state;
    static float big[5][7001];
    static int32_t where[5];
    for (int i = 0; i < 5; i++) {
        where[i] = i;
        for (int k = 0; k < 7001; k++) big[i][k] = (float)(i * 7001 + k);
    }
    for (int base64 = 0; base64 < 2; base64++) {
        assert_int_equal(parse(base64
                                   ? "{\"activation_hooks\":[{\"layer\":5,\"component\":\"q\"}],\"activation_format\":"
                                     "{\"encoding\":\"base64\"}}"
                                   : "{\"activation_hooks\":[{\"layer\":5,\"component\":\"q\"}]}"),
                         GLIA_OK);
        glia_frame f = frame();
        f.n_rows = f.n_positions = 5, f.width = 7001, f.data = big[0], f.positions = f.token_ids = where;
        glia_buf b = {0};
        glia_act_writer w = {.acts = &acts, .frame = &f};
        int pieces = 1;
        while (!glia_act_write(&w, &b)) pieces++;
        assert_int_equal(pieces, 3);
        yyjson_doc *doc;
        assert_int_equal(glia_json_parse(&doc, b.p, b.n, &err), GLIA_OK);
        yyjson_val *values = yyjson_obj_get(yyjson_doc_get_root(doc), "data");
        if (base64) {
            assert_int_equal(yyjson_get_len(values), (5 * 7001 * 4 + 2) / 3 * 4);
        } else {
            yyjson_val *row = yyjson_arr_get(yyjson_arr_get_first(values), 4);
            assert_int_equal(yyjson_arr_size(row), 7001);
            assert_true(yyjson_get_real(yyjson_arr_get_last(row)) == 35004.0);
        }
        yyjson_doc_free(doc);
        glia_buf_clear(&b);
    }
}

static bool write_rows(glia_act_rows *rows, glia_buf *b) {
    glia_act_writer w = {.acts = &acts, .frame = glia_act_rows_frame(rows)};
    if (!w.frame) return false;
    while (!glia_act_write(&w, b)) {}
    return !b->failed;
}

static void reduced_entries_say_how_and_from_which_rows(void **state) {
    (void)state;
    assert_int_equal(
        parse("{\"activation_hooks\":[{\"layer\":5,\"component\":\"q\",\"reduce\":\"mean\",\"channels\":\"2:\"},"
              "{\"layer\":5,\"component\":\"z\",\"reduce\":{\"op\":\"topk\",\"k\":3},\"channels\":[9,4,1]}]}"),
        GLIA_OK);
    glia_frame f = frame();
    f.n_rows = 1, f.reduce = GLIA_REDUCE_MEAN;
    const char *s = entry(&f);
    assert_non_null(strstr(s, "\"shape\":[1,1,3]"));
    assert_non_null(strstr(s, "\"channels\":{\"from\":2},\"reduce\":\"mean\",\"n_rows_reduced\":2,\"positions\":[3,4],"
                              "\"token_ids\":[17,99]"));
    assert_non_null(strstr(s, "\"data\":[[[0.0,1.0,-2.5]]]}"));
    static const int32_t indices[] = {9, 4, 1, 4, 1, 9};
    f = frame();
    f.hook = 1, f.reduce = GLIA_REDUCE_TOPK, f.indices = indices;
    s = entry(&f);
    assert_non_null(strstr(s, "\"channels\":[9,4,1],\"reduce\":\"topk\",\"n_rows_reduced\":2,"));
    assert_non_null(strstr(s, "\"data\":[[[0.0,1.0,-2.5],[0.1,100.0,1e-7]]],\"indices\":[[[9,4,1],[4,1,9]]]}"));
    acts.format.encoding = GLIA_ENC_BASE64;
    assert_non_null(strstr(entry(&f), "\",\"indices\":\"CQAAAAQAAAABAAAABAAAAAEAAAAJAAAA\"}"));
    acts.format.encoding = GLIA_ENC_LIST;
    glia_act_rows rows = {0};
    glia_buf b = {0};
    glia_act_rows_add(&rows, &f);
    glia_act_rows_add(&rows, &f);
    assert_true(write_rows(&rows, &b));
    assert_non_null(strstr(b.p, "\"n_rows_reduced\":4,\"positions\":[3,4,3,4]"));
    assert_non_null(strstr(b.p, "\"indices\":[[[9,4,1],[4,1,9],[9,4,1],[4,1,9]]]}"));
    glia_buf_clear(&b);
    glia_act_rows_clear(&rows);
}

static void merged_rows_make_one_entry(void **state) {
    (void)state;
    assert_int_equal(
        parse("{\"activation_hooks\":[{\"layer\":5,\"component\":\"q\"}],\"activation_format\":{\"merge\":true}}"),
        GLIA_OK);
    glia_act_rows rows = {0};
    glia_frame f = frame(), g = frame();
    g.n_rows = g.n_positions = 1, g.phase = GLIA_PHASE_GENERATED, g.positions = positions + 1, g.token_ids = tokens + 1,
    g.data = data + 3;
    glia_act_rows_add(&rows, &f);
    glia_act_rows_add(&rows, &g);
    glia_buf b = {0};
    assert_true(write_rows(&rows, &b));
    assert_non_null(strstr(b.p, "\"shape\":[1,3,3]"));
    assert_non_null(strstr(b.p, "\"phase\":\"all\""));
    assert_non_null(strstr(b.p, "\"positions\":[3,4,4],\"token_ids\":[17,99,99]"));
    assert_non_null(strstr(b.p, "[0.1,100.0,1e-7],[0.1,100.0,1e-7]]]"));
    glia_buf_clear(&b);
    glia_act_rows_clear(&rows);
}

/* Attention: [rows, heads, columns] in memory, [1, heads, rows, columns] on the wire. */
static void attention_entries_lie_by_head(void **state) {
    (void)state;
    static const float scores[] = {1, -INFINITY, 10, -INFINITY, 2, 3, 20, 30};
    static const int32_t heads[] = {2, 5}, where[] = {0, 1};
    static const char hooks[] = "{\"activation_hooks\":[{\"layer\":5,\"component\":\"attn_scores\"}]%s}";
    char body[200];
    (void)snprintf(body, sizeof body, hooks, "");
    assert_int_equal(parse(body), GLIA_OK);
    glia_frame f = frame();
    f.point = GLIA_POINT_ATTN_SCORES, f.n_rows = 2, f.n_heads = 2, f.n_cols = 2, f.width = 4, f.heads = heads;
    f.group = 2, f.positions = f.token_ids = where, f.data = scores;
    const char *s = entry(&f);
    assert_non_null(strstr(s, "\"shape\":[1,2,2,2]"));
    assert_non_null(strstr(s, "\"heads\":[2,5],\"kv_heads\":[1,2]"));
    assert_non_null(strstr(s, "\"data\":[[[[1.0,null],[2.0,3.0]],[[10.0,null],[20.0,30.0]]]]}"));

    (void)snprintf(body, sizeof body, hooks, ",\"activation_format\":{\"encoding\":\"base64\"}");
    assert_int_equal(parse(body), GLIA_OK);
    static const float by_head[] = {1, -INFINITY, 2, 3, 10, -INFINITY, 20, 30};
    glia_buf b = {0};
    glia_base64_add(&b, by_head, sizeof by_head);
    assert_non_null(strstr(entry(&f), b.p));
    glia_buf_clear(&b);
}

static void merged_attention_has_the_columns_of_its_last_row(void **state) {
    (void)state;
    static const float probs[] = {1, 0.25f, 0.75f}; /* one head: a row of one column, then a row of two */
    static const int32_t head = 0, where[] = {0, 1};
    assert_int_equal(parse("{\"activation_hooks\":[{\"layer\":5,\"component\":\"attn_probs\"}],"
                           "\"activation_format\":{\"merge\":true}}"),
                     GLIA_OK);
    for (int fail = 0; fail < 12; fail++) {
        glia_act_rows rows = {0};
        glia_buf b = {0};
        glia_frame f = frame();
        f.point = GLIA_POINT_ATTN_PROBS, f.heads = &head, f.n_heads = f.group = f.n_rows = f.n_positions = 1;
        f.positions = f.token_ids = where, f.n_cols = f.width = 1, f.data = probs;
        glia_fault_arm((size_t)fail);
        glia_act_rows_add(&rows, &f);
        f.positions = f.token_ids = where + 1, f.n_cols = f.width = 2, f.data = probs + 1;
        glia_act_rows_add(&rows, &f);
        bool ok = write_rows(&rows, &b);
        assert_true(ok || glia_fault_fired()); /* a buffer that grew at the next append is fine, too */
        glia_fault_arm(0);
        if (ok) {
            assert_non_null(strstr(b.p, "\"shape\":[1,1,2,2]"));
            assert_non_null(strstr(b.p, "\"data\":[[[[1.0,0.0],[0.25,0.75]]]]}"));
        }
        glia_buf_clear(&b);
        glia_act_rows_clear(&rows);
    }
}

static int clear_all(void **state) {
    (void)state;
    glia_acts_clear(&acts);
    return 0;
}

static glia_status parse_with(const char *own, const char *registered) {
    yyjson_doc *doc, *others;
    yyjson_val *root;
    glia_acts_clear(&acts);
    memset(&err, 0, sizeof err);
    assert_int_equal(glia_json_parse_object(&doc, &root, own, strlen(own), &err), GLIA_OK);
    assert_int_equal(glia_json_parse(&others, registered, strlen(registered), &err), GLIA_OK);
    glia_status st = glia_acts_parse(&acts, root, yyjson_doc_get_root(others), true, N_LAYER, "llama", &err);
    yyjson_doc_free(doc);
    yyjson_doc_free(others);
    return st;
}

static void registered_hooks_stand_behind_the_requests_own(void **state) {
    (void)state;
    const char *own = "{\"activation_hooks\":[{\"layer\":5,\"component\":\"q\",\"hook_id\":\"x\"}]}";
    assert_int_equal(parse_with("{}", "[{\"layer\":3,\"component\":\"resid_post\"}]"), GLIA_OK);
    assert_int_equal(acts.n_keys, 1);
    assert_string_equal(acts.keys[0], "resid_post.3");
    assert_int_equal(parse_with(own, "[{\"layer\":3,\"component\":\"k\",\"hook_id\":\"x\"},{\"layer\":4,\"component\":\"k\"}]"), GLIA_OK);
    assert_int_equal(acts.n_keys, 3);
    assert_string_equal(acts.keys[0], "x"); /* the request's own keeps its name */
    assert_string_equal(acts.keys[1], "x#2");
    /* what is wrong is said of the list that it stands in, by the parser and by the engine alike */
    assert_int_equal(parse_with(own, "[{\"layer\":99,\"component\":\"k\"}]"), GLIA_EINVAL);
    assert_string_equal(err.param, "registered_hooks[0].layer");
    assert_int_equal(parse_with(own, "[{\"layer\":3,\"component\":\"k\"},{\"layer\":4,\"component\":\"k\"}]"), GLIA_OK);
    (void)snprintf(err.param, sizeof err.param, "activation_hooks[2]");
    glia_acts_fix_param(&acts, &err);
    assert_string_equal(err.param, "registered_hooks[1]");
    (void)snprintf(err.param, sizeof err.param, "activation_hooks[0].positions");
    glia_acts_fix_param(&acts, &err);
    assert_string_equal(err.param, "activation_hooks[0].positions");
    glia_acts_clear(&acts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_follow_the_way_the_hook_was_written),
        cmocka_unit_test(shared_keys_are_told_apart),
        cmocka_unit_test(a_star_gives_a_key_per_layer),
        cmocka_unit_test(both_sides_share_one_key),
        cmocka_unit_test(rows_and_heads_are_taken),
        cmocka_unit_test(ranges_channels_and_reductions_are_taken),
        cmocka_unit_test(directions_come_as_lists_or_bytes),
        cmocka_unit_test(bad_hooks_name_their_field),
        cmocka_unit_test(hooks_are_optional_on_plain_routes),
        cmocka_unit_test(long_lists_are_refused),
        cmocka_unit_test(engine_hook_numbers_are_mapped_back),
        cmocka_unit_test(every_failed_allocation_is_an_error),
        cmocka_unit_test(entries_carry_labels_and_nested_lists),
        cmocka_unit_test(base64_holds_the_same_bytes),
        cmocka_unit_test(half_precision_lists_are_rounded),
        cmocka_unit_test(large_entries_come_in_pieces_that_join),
        cmocka_unit_test(reduced_entries_say_how_and_from_which_rows),
        cmocka_unit_test(merged_rows_make_one_entry),
        cmocka_unit_test(attention_entries_lie_by_head),
        cmocka_unit_test(merged_attention_has_the_columns_of_its_last_row),
        cmocka_unit_test(registered_hooks_stand_behind_the_requests_own),
    };
    return cmocka_run_group_tests(tests, NULL, clear_all);
}

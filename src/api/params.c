/* api/params.c — the request fields that steer generation.  Pure; any thread; knows no engine state. */
#include "api/params.h"
#include "api/schema.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(glia_sampling, field)
static const glia_param_row table[] = {
    {"temperature", GLIA_PARAM_NUM, AT(temperature), 0, 2, false, "0: always the likeliest token"},
    {"top_p", GLIA_PARAM_NUM, AT(top_p), 0, 1, true, "keep the likeliest tokens up to this probability; 1: off"},
    {"min_p", GLIA_PARAM_NUM, AT(min_p), 0, 1, false, "drop tokens below this share of the likeliest; 0: off"},
    {"top_k", GLIA_PARAM_INT, AT(top_k), -1, 1e6, false, "keep so many tokens; 0 or -1: off"},
    {"typical_p", GLIA_PARAM_NUM, AT(typical_p), 0, 1, true, "locally typical sampling; 1: off"},
    {"top_n_sigma", GLIA_PARAM_NUM, AT(top_n_sigma), -1, 100, false, "keep logits within n deviations; -1: off"},
    {"xtc_probability", GLIA_PARAM_NUM, AT(xtc_probability), 0, 1, false, "chance to exclude top choices; 0: off"},
    {"xtc_threshold", GLIA_PARAM_NUM, AT(xtc_threshold), 0, 1, false, "least probability of an excluded choice"},
    {"repeat_last_n", GLIA_PARAM_INT, AT(penalty_last_n), -1, 1e6, false, "tokens the penalties look at; -1: all"},
    {"repeat_penalty", GLIA_PARAM_NUM, AT(penalty_repeat), 0, 100, true, "1: off"},
    {"frequency_penalty", GLIA_PARAM_NUM, AT(penalty_frequency), -2, 2, false, "0: off"},
    {"presence_penalty", GLIA_PARAM_NUM, AT(penalty_presence), -2, 2, false, "0: off"},
    {"dry_multiplier", GLIA_PARAM_NUM, AT(dry_multiplier), 0, 100, false, "DRY repetition penalty; 0: off"},
    {"dry_base", GLIA_PARAM_NUM, AT(dry_base), 1, 100, false, "growth of the DRY penalty"},
    {"dry_allowed_length", GLIA_PARAM_INT, AT(dry_allowed_length), 0, 1e6, false, "repeats without DRY penalty"},
    {"dry_penalty_last_n", GLIA_PARAM_INT, AT(dry_penalty_last_n), -1, 1e6, false, "tokens DRY looks at; -1: all"},
    {"mirostat", GLIA_PARAM_INT, AT(mirostat), 0, 2, false, "0: off; replaces the truncating samplers"},
    {"mirostat_tau", GLIA_PARAM_NUM, AT(mirostat_tau), 0, 100, true, "target surprise"},
    {"mirostat_eta", GLIA_PARAM_NUM, AT(mirostat_eta), 0, 100, true, "learning rate"},
    {"ignore_eos", GLIA_PARAM_BOOL, AT(ignore_eos), 0, 1, false, "go on after end-of-generation tokens"},
};
#undef AT

const glia_param_row *glia_param_table(size_t *n) {
    *n = sizeof table / sizeof *table;
    return table;
}

/* ------------------------------------------------------------------ what is not served */

/* Fields that would change the answer and are not served: refused, never ignored. */
static const struct {
    const char *name, *why;
} refused[] = {
    {"functions", "the old form of tools: use tools"},
    {"function_call", "the old form of tool_choice: use tool_choice"},
    {"audio", "audio output is not supported"},
    {"web_search_options", "web search is not supported"},
    {"samplers", "the order of the samplers is fixed: see docs/API.md"},
    {"dynatemp_range", "dynamic temperature is not supported yet"},
    {"dry_sequence_breakers", "only the usual sequence breakers are supported"},
};

static glia_status refuse_modalities(yyjson_val *root, glia_err *err) {
    yyjson_val *list = glia_json_get(root, "modalities"), *item;
    yyjson_arr_iter it;
    if (!list) return GLIA_OK;
    if (!yyjson_is_arr(list)) {
        return glia_fail_at(err, GLIA_EINVAL, "modalities", "modalities must be a list, not %s", glia_json_kind(list));
    }
    for (yyjson_arr_iter_init(list, &it); (item = yyjson_arr_iter_next(&it));) {
        if (!yyjson_equals_str(item, "text"))
            return glia_fail_at(err, GLIA_EINVAL, "modalities", "modalities: only \"text\" is supported");
    }
    return GLIA_OK;
}

static glia_status refuse_unserved(yyjson_val *root, glia_err *err) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (glia_json_get(root, refused[i].name))
            return glia_fail_at(err, GLIA_EINVAL, refused[i].name, "%s: %s", refused[i].name, refused[i].why);
    }
    return refuse_modalities(root, err);
}

/* ------------------------------------------------------------------ sampling */

static glia_status parse_row(const glia_param_row *row, yyjson_val *root, glia_sampling *s, glia_err *err) {
    void *field = (char *)s + row->offset;
    bool given, flag = false;
    double x = 0;
    int64_t n = 0;
    glia_status st;
    switch (row->kind) {
    case GLIA_PARAM_BOOL:
        st = glia_json_bool(root, "", row->name, &flag, &given, err);
        if (!st && given) memcpy(field, &flag, sizeof flag);
        return st;
    case GLIA_PARAM_INT:
        st = glia_json_int(root, "", row->name, (int64_t)row->min, (int64_t)row->max, &n, &given, err);
        if (!st && given) {
            int32_t v = (int32_t)n;
            memcpy(field, &v, sizeof v);
        }
        return st;
    case GLIA_PARAM_NUM:
        st = glia_json_num(root, "", row->name, row->min, row->max, &x, &given, err);
        if (st || !given) return st;
        if (row->above_min && !((float)x > (float)row->min)) {
            return glia_fail_at(err, GLIA_EINVAL, row->name, "%s must be above %g and at most %g", row->name, row->min,
                                row->max);
        }
        float f = (float)x;
        memcpy(field, &f, sizeof f);
        return GLIA_OK;
    }
    return GLIA_OK;
}

/* Any 64-bit number is a seed; -1 asks for a fresh one.  Those of 32 bits are taken as they are. */
static glia_status parse_seed(yyjson_val *root, uint32_t *out, glia_err *err) {
    int64_t n = 0;
    bool given;
    glia_status st = glia_json_int(root, "", "seed", INT64_MIN, INT64_MAX, &n, &given, err);
    if (st || !given) return st;
    if (n == -1) {
        *out = GLIA_SEED_RANDOM;
        return GLIA_OK;
    }
    uint64_t u = (uint64_t)n;
    *out = (uint32_t)(u ^ u >> 32);
    if (*out == GLIA_SEED_RANDOM) *out = 0;
    return GLIA_OK;
}

static glia_status parse_bias(glia_gen *g, yyjson_val *root, int32_t n_vocab, glia_err *err) {
    yyjson_val *map = glia_json_get(root, "logit_bias"), *key;
    yyjson_obj_iter it;
    if (!map) return GLIA_OK;
    if (!yyjson_is_obj(map)) {
        return glia_fail_at(err, GLIA_EINVAL, "logit_bias", "logit_bias must map token ids to numbers, not be %s",
                            glia_json_kind(map));
    }
    size_t n = yyjson_obj_size(map), i = 0;
    if (n > GLIA_MAX_BIAS)
        return glia_fail_at(err, GLIA_EINVAL, "logit_bias", "logit_bias: at most %d entries", (int)GLIA_MAX_BIAS);
    if (n && !(g->bias = glia_calloc(n, sizeof *g->bias))) return glia_fail(err, GLIA_ENOMEM, "logit_bias");
    for (yyjson_obj_iter_init(map, &it); (key = yyjson_obj_iter_next(&it)); i++) {
        const char *text = unsafe_yyjson_get_str(key);
        yyjson_val *v = yyjson_obj_iter_get_val(key);
        char *end, param[96];
        long id = strtol(text, &end, 10);
        (void)snprintf(param, sizeof param, "logit_bias.%.32s", text);
        if (!*text || *end || id < 0 || id >= n_vocab) {
            return glia_fail_at(err, GLIA_EINVAL, param, "logit_bias: \"%.32s\" is no token id from 0 to %d", text,
                                (int)n_vocab - 1);
        }
        double x = yyjson_is_num(v) ? yyjson_get_num(v) : 1e9;
        if (!(x >= -100 && x <= 100))
            return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a number from -100 to 100", param);
        g->bias[i] = (glia_logit_bias){(int32_t)id, (float)x};
    }
    g->sampling.bias = g->bias;
    g->sampling.n_bias = n;
    return GLIA_OK;
}

static glia_status parse_chat_logprobs(yyjson_val *root, int32_t *out, glia_err *err) {
    bool wanted = false, given;
    int64_t top = 0;
    glia_status st = glia_json_bool(root, "", "logprobs", &wanted, NULL, err);
    if (st || (st = glia_json_int(root, "", "top_logprobs", 0, 20, &top, &given, err))) return st;
    if (given && !wanted && top) {
        return glia_fail_at(err, GLIA_EINVAL, "top_logprobs", "top_logprobs needs logprobs: true");
    }
    *out = wanted ? (int32_t)top : -1;
    return GLIA_OK;
}

static glia_status parse_logprobs(yyjson_val *root, glia_api_kind kind, int32_t *out, glia_err *err) {
    if (kind == GLIA_API_CHAT) return parse_chat_logprobs(root, out, err);
    int64_t n = 0;
    bool given;
    glia_status st = glia_json_int(root, "", "logprobs", 0, GLIA_MAX_LOGPROBS, &n, &given, err);
    *out = !st && given ? (int32_t)n : -1;
    return st;
}

static glia_status parse_counts(glia_gen *g, yyjson_val *root, glia_api_kind kind, glia_err *err) {
    int64_t n = 1, best = 1;
    bool given;
    glia_status st = glia_json_int(root, "", "n", 1, 128, &n, NULL, err);
    if (st) return st;
    g->n = (int32_t)n;
    for (size_t i = 0; i < 2 && kind == GLIA_API_CHAT; i++) {
        const char *name = i ? "suffix" : "best_of";
        if (glia_json_get(root, name))
            return glia_fail_at(err, GLIA_EINVAL, name, "%s belongs to /v1/completions, not to chats", name);
    }
    if (kind == GLIA_API_CHAT) return GLIA_OK;
    yyjson_val *tools = glia_json_get(root, "tools");
    if (tools && !(yyjson_is_arr(tools) && !yyjson_arr_size(tools)))
        return glia_fail_at(err, GLIA_EINVAL, "tools", "tools belong to /v1/chat/completions");
    if ((st = glia_json_int(root, "", "best_of", 1, 128, &best, &given, err)) || !given || best == n) return st;
    return glia_fail_at(err, GLIA_EINVAL, "best_of", "best_of must be n (%lld): ask for more answers and choose",
                        (long long)n);
}

/* ------------------------------------------------------------------ structured output */

static glia_status parse_response_format(glia_gen *g, yyjson_val *format, glia_err *err) {
    const char *type = NULL;
    if (!yyjson_is_obj(format)) {
        return glia_fail_at(err, GLIA_EINVAL, "response_format", "response_format must be an object, not %s",
                            glia_json_kind(format));
    }
    glia_status st = glia_json_str(format, "response_format", "type", &type, err);
    if (st || (type && !strcmp(type, "text"))) return st;
    bool object = type && !strcmp(type, "json_object");
    if (!object && (!type || strcmp(type, "json_schema") != 0)) {
        return glia_fail_at(err, GLIA_EINVAL, "response_format.type",
                            "response_format.type must be \"text\", \"json_object\" or \"json_schema\"");
    }
    yyjson_val *schema = glia_json_get(format, "schema"), *wrapped = glia_json_get(format, "json_schema");
    const char *path = "response_format.schema";
    if (object && !schema) {
        glia_schema_basics(&g->grammar);
        glia_buf_adds(&g->grammar, "root ::= object\n");
        return GLIA_OK;
    }
    if (!object && !schema) {
        bool strict;
        path = "response_format.json_schema.schema";
        if (!yyjson_is_obj(wrapped)) {
            return glia_fail_at(err, GLIA_EINVAL, "response_format.json_schema",
                                "response_format.json_schema must be an object {name, schema}");
        }
        if ((st = glia_json_bool(wrapped, "response_format.json_schema", "strict", &strict, NULL, err))) return st;
        if (!(schema = glia_json_get(wrapped, "schema")))
            return glia_fail_at(err, GLIA_EINVAL, path, "%s is missing", path);
    }
    return glia_schema_grammar(schema, path, &g->grammar, err);
}

static glia_status parse_format(glia_gen *g, yyjson_val *v, const char *name, glia_err *err) {
    (void)name;
    return parse_response_format(g, v, err);
}

static glia_status parse_schema(glia_gen *g, yyjson_val *v, const char *name, glia_err *err) {
    return glia_schema_grammar(v, name, &g->grammar, err);
}

static glia_status parse_grammar(glia_gen *g, yyjson_val *v, const char *name, glia_err *err) {
    if (!yyjson_is_str(v) || !yyjson_get_len(v))
        return glia_fail_at(err, GLIA_EINVAL, name, "%s must be a string with rules in GBNF", name);
    glia_buf_add(&g->grammar, yyjson_get_str(v), yyjson_get_len(v));
    return GLIA_OK;
}

/* The whole answer matches the expression. */
static glia_status parse_regex(glia_gen *g, yyjson_val *v, const char *name, glia_err *err) {
    if (!yyjson_is_str(v) || !yyjson_get_len(v))
        return glia_fail_at(err, GLIA_EINVAL, name, "%s must be a string with a regular expression", name);
    glia_buf_adds(&g->grammar, "root ::= ");
    glia_status st = glia_regex_gbnf(yyjson_get_str(v), yyjson_get_len(v), name, &g->grammar, err);
    glia_buf_adds(&g->grammar, "\n");
    return st;
}

/* The answer is one of these, whole. */
static glia_status parse_choices(glia_gen *g, yyjson_val *v, const char *name, glia_err *err) {
    yyjson_val *item;
    yyjson_arr_iter it;
    size_t i = 0;
    if (!yyjson_is_arr(v) || !yyjson_arr_size(v) || yyjson_arr_size(v) > GLIA_MAX_ANSWERS) {
        return glia_fail_at(err, GLIA_EINVAL, name, "%s must be a list of 1 to %d answers", name,
                            (int)GLIA_MAX_ANSWERS);
    }
    glia_buf_adds(&g->grammar, "root ::= ");
    for (yyjson_arr_iter_init(v, &it); (item = yyjson_arr_iter_next(&it)); i++) {
        if (!yyjson_is_str(item) || !yyjson_get_len(item)) {
            char at[64];
            (void)snprintf(at, sizeof at, "%s[%zu]", name, i);
            return glia_fail_at(err, GLIA_EINVAL, at, "%s must be a text that is not empty", at);
        }
        if (i) glia_buf_adds(&g->grammar, " | ");
        glia_gbnf_literal(&g->grammar, yyjson_get_str(item), yyjson_get_len(item));
    }
    glia_buf_adds(&g->grammar, "\n");
    return GLIA_OK;
}

static glia_status parse_structure(glia_gen *g, yyjson_val *root, glia_err *err) {
    static const struct {
        const char *name;
        glia_status (*parse)(glia_gen *g, yyjson_val *v, const char *name, glia_err *err);
    } rows[] = {{"response_format", parse_format}, {"json_schema", parse_schema},  {"guided_json", parse_schema},
                {"grammar", parse_grammar},        {"guided_grammar", parse_grammar}, {"regex", parse_regex},
                {"guided_regex", parse_regex},     {"choices", parse_choices},     {"guided_choice", parse_choices}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        yyjson_val *v = glia_json_get(root, rows[i].name);
        if (!v) continue;
        if (g->grammar_field) {
            return glia_fail_at(err, GLIA_EINVAL, rows[i].name,
                                "only one of response_format, json_schema, grammar, regex and choices can be given");
        }
        g->grammar_field = rows[i].name;
        glia_status st = rows[i].parse(g, v, rows[i].name, err);
        if (st) return st;
    }
    return g->grammar.failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the grammar") : GLIA_OK;
}

/* ------------------------------------------------------------------ lengths, stop strings, streaming */

static glia_status parse_max_tokens(yyjson_val *root, glia_api_kind kind, int32_t *out, glia_err *err) {
    static const char *const names[] = {"max_completion_tokens", "max_tokens", "n_predict"};
    *out = -1;
    for (size_t i = 0; i < 3; i++) {
        int64_t n = 0;
        bool given;
        glia_status st = glia_json_int(root, "", names[i], -1, INT32_MAX, &n, &given, err);
        if (st) return st;
        if (!given) continue;
        if (n == 0 && kind == GLIA_API_CHAT) {
            return glia_fail_at(err, GLIA_EINVAL, names[i], "%s must be at least 1 (or -1: until the context is full)",
                                names[i]);
        }
        *out = (int32_t)n;
        return GLIA_OK;
    }
    return GLIA_OK;
}

static glia_status add_stop(glia_gen *g, yyjson_val *v, const char *param, glia_err *err) {
    if (!yyjson_is_str(v))
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must be a string, not %s", param, glia_json_kind(v));
    size_t n = yyjson_get_len(v);
    if (!n) return glia_fail_at(err, GLIA_EINVAL, param, "%s must not be empty", param);
    if (n > GLIA_MAX_STOP_BYTES)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s is longer than %d bytes", param, (int)GLIA_MAX_STOP_BYTES);
    if (strlen(yyjson_get_str(v)) != n)
        return glia_fail_at(err, GLIA_EINVAL, param, "%s must not contain a NUL character", param);
    if (!(g->stop[g->n_stop] = glia_strndup(yyjson_get_str(v), n))) return glia_fail(err, GLIA_ENOMEM, "stop strings");
    g->n_stop++;
    return GLIA_OK;
}

static glia_status parse_stop(glia_gen *g, yyjson_val *root, glia_err *err) {
    yyjson_val *v = glia_json_get(root, "stop"), *item;
    yyjson_arr_iter it;
    if (!v) return GLIA_OK;
    if (yyjson_is_str(v)) return add_stop(g, v, "stop", err);
    if (!yyjson_is_arr(v)) {
        return glia_fail_at(err, GLIA_EINVAL, "stop", "stop must be a string or a list of strings, not %s",
                            glia_json_kind(v));
    }
    if (yyjson_arr_size(v) > GLIA_MAX_STOP)
        return glia_fail_at(err, GLIA_EINVAL, "stop", "stop: at most %d strings", (int)GLIA_MAX_STOP);
    for (yyjson_arr_iter_init(v, &it); (item = yyjson_arr_iter_next(&it));) {
        char param[32];
        (void)snprintf(param, sizeof param, "stop[%zu]", g->n_stop);
        glia_status st = add_stop(g, item, param, err);
        if (st) return st;
    }
    return GLIA_OK;
}

static glia_status parse_stream(glia_gen *g, yyjson_val *root, glia_err *err) {
    glia_status st = glia_json_bool(root, "", "stream", &g->stream, NULL, err);
    yyjson_val *options = glia_json_get(root, "stream_options");
    if (st || !options) return st;
    if (!yyjson_is_obj(options)) {
        return glia_fail_at(err, GLIA_EINVAL, "stream_options", "stream_options must be an object, not %s",
                            glia_json_kind(options));
    }
    return glia_json_bool(options, "stream_options", "include_usage", &g->include_usage, NULL, err);
}

glia_status glia_gen_parse(glia_gen *g, yyjson_val *root, glia_api_kind kind, int32_t n_vocab, glia_err *err) {
    glia_request_params defaults;
    glia_request_params_init(&defaults);
    *g = (glia_gen){.sampling = defaults.sampling, .max_tokens = -1, .n = 1};
    glia_status st;
    if ((st = refuse_unserved(root, err))) return st;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if ((st = parse_row(&table[i], root, &g->sampling, err))) return st;
    }
    if (g->sampling.top_k < 0) g->sampling.top_k = 0;
    if ((st = parse_seed(root, &g->sampling.seed, err))) return st;
    if ((st = parse_bias(g, root, n_vocab, err))) return st;
    if ((st = parse_logprobs(root, kind, &g->sampling.n_logprobs, err))) return st;
    if ((st = parse_counts(g, root, kind, err))) return st;
    if ((st = parse_max_tokens(root, kind, &g->max_tokens, err))) return st;
    if ((st = parse_stop(g, root, err))) return st;
    if ((st = parse_structure(g, root, err))) return st;
    bool cache = true;
    if ((st = glia_json_bool(root, "", "cache_prompt", &cache, NULL, err))) return st;
    g->no_cache = !cache;
    if ((st = glia_gen_parse_engine(g, root, err))) return st;
    return parse_stream(g, root, err);
}

void glia_gen_clear(glia_gen *g) {
    for (size_t i = 0; i < g->n_stop; i++) glia_free(g->stop[i]);
    glia_free(g->bias);
    glia_buf_clear(&g->grammar);
    glia_buf_clear(&g->prediction);
    glia_free(g->predicted);
    glia_free(g->draft_model);
    *g = (glia_gen){0};
}

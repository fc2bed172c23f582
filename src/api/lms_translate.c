/* api/lms_translate.c — history and settings of LM Studio's SDKs in OpenAI's words. */
#include "api/lms_translate.h"
#include "base/err.h"
#include <stdlib.h>
#include <string.h>

void glia_json_add_value(glia_buf *b, yyjson_val *v) {
    size_t n;
    char *text = yyjson_val_write(v, 0, &n);
    if (text) (void)glia_buf_add(b, text, n);
    else b->failed = true;
    free(text);
}

/* ------------------------------------------------------------------ settings */

/* fn for every field of every layer, in order; stops at the first failure. */
static glia_status each_field(yyjson_val *stack, glia_status (*fn)(void *ud, const char *key, yyjson_val *value, glia_err *err),
                              void *ud, glia_err *err) {
    yyjson_val *layers = glia_json_get(stack, "layers"), *layer, *field;
    yyjson_arr_iter il, is;
    if (!layers) return GLIA_OK;
    if (!yyjson_is_arr(layers)) return glia_fail_at(err, GLIA_EINVAL, "layers", "layers of a configuration must be a list");
    for (yyjson_arr_iter_init(layers, &il); (layer = yyjson_arr_iter_next(&il));) {
        yyjson_val *fields = glia_json_get(glia_json_get(layer, "config"), "fields");
        if (!fields) continue;
        if (!yyjson_is_arr(fields)) return glia_fail_at(err, GLIA_EINVAL, "fields", "fields of a layer must be a list");
        for (yyjson_arr_iter_init(fields, &is); (field = yyjson_arr_iter_next(&is));) {
            const char *key = yyjson_get_str(glia_json_get(field, "key"));
            if (!key) return glia_fail_at(err, GLIA_EINVAL, "key", "every field of a configuration needs a key");
            glia_status st = fn(ud, key, glia_json_get(field, "value"), err);
            if (st) return st;
        }
    }
    return GLIA_OK;
}

typedef struct search {
    const char *key;
    yyjson_val *found;
} search;

static glia_status on_search(void *ud, const char *key, yyjson_val *value, glia_err *err) {
    search *s = ud;
    (void)err;
    if (!strcmp(key, s->key)) s->found = value;
    return GLIA_OK;
}

yyjson_val *glia_lms_setting(yyjson_val *stack, const char *key) {
    search s = {key, NULL};
    (void)each_field(stack, on_search, &s, NULL);
    return s.found;
}

typedef struct listing {
    glia_buf *b;
    yyjson_val *stack;
    bool any;
} listing;

static glia_status on_list(void *ud, const char *key, yyjson_val *value, glia_err *err) {
    listing *l = ud;
    (void)err;
    if (!value || glia_lms_setting(l->stack, key) != value) return GLIA_OK; /* a later layer says otherwise */
    glia_buf_adds(l->b, l->any ? ",{\"key\":" : "{\"key\":");
    glia_json_add_cstr(l->b, key);
    glia_buf_adds(l->b, ",\"value\":");
    glia_json_add_value(l->b, value);
    glia_buf_adds(l->b, "}");
    l->any = true;
    return GLIA_OK;
}

void glia_lms_add_settings(glia_buf *b, yyjson_val *stack) {
    listing l = {b, stack, false};
    glia_buf_adds(b, "{\"fields\":[");
    (void)each_field(stack, on_list, &l, NULL);
    glia_buf_adds(b, "]}");
}

/* ------------------------------------------------------------------ settings of a prediction */

/* How a setting becomes a field: as it is, or (checkbox) the value of {"checked":true,"value":…}. */
typedef enum setting_kind { PLAIN, CHECKBOX, OWN, HARMLESS, EMPTY_ONLY } setting_kind;

static const struct {
    const char *key; /* behind "llm.prediction." */
    setting_kind kind;
    const char *field; /* OpenAI's name; EMPTY_ONLY: why it is refused */
} settings[] = {
    {"temperature", PLAIN, "temperature"},
    {"maxPredictedTokens", CHECKBOX, "max_tokens"},
    {"topKSampling", PLAIN, "top_k"},
    {"topPSampling", CHECKBOX, "top_p"},
    {"minPSampling", CHECKBOX, "min_p"},
    {"repeatPenalty", CHECKBOX, "repeat_penalty"},
    {"seed", CHECKBOX, "seed"},
    {"llama.frequencyPenalty", CHECKBOX, "frequency_penalty"},
    {"llama.presencePenalty", CHECKBOX, "presence_penalty"},
    {"llama.locallyTypicalSampling", CHECKBOX, "typical_p"},
    {"llama.xtcProbability", CHECKBOX, "xtc_probability"},
    {"llama.xtcThreshold", CHECKBOX, "xtc_threshold"},
    {"stopStrings", OWN, NULL},
    {"toolCallStopStrings", OWN, NULL},
    {"structured", OWN, NULL},
    {"tools", OWN, NULL},
    {"promptTemplate", OWN, NULL},
    {"systemPrompt", OWN, NULL},
    {"llama.logitBias", OWN, NULL},
    {"llama.mirostatSampling", OWN, NULL},
    {"contextOverflowPolicy", OWN, NULL},
    {"logProbs", OWN, NULL},
    /* how the answer is computed or shown, not what it is */
    {"llama.cpuThreads", HARMLESS, NULL},
    {"toolNaming", HARMLESS, NULL},
    {"reasoning.parsing", HARMLESS, NULL},
    {"speculativeDecoding.minDraftLengthToConsider", HARMLESS, NULL},
    {"speculativeDecoding.minContinueDraftingProbability", HARMLESS, NULL},
    {"speculativeDecoding.numReuseTokens", HARMLESS, NULL},
    {"speculativeDecoding.maxTokensToDraft", HARMLESS, NULL},
    {"speculativeDecoding.numDraftTokensExact", HARMLESS, NULL},
    {"speculativeDecoding.draftModel", EMPTY_ONLY, "drafting is a choice of this server, not of a request"},
    {"contextPrefill", EMPTY_ONLY, "files are not read by this server: put their text into a message"},
    {"llama.tailFreeSampling", EMPTY_ONLY, "tail free sampling is not there any more"},
};
static const char scope[] = "llm.prediction.";

static bool is_empty(yyjson_val *v) {
    if (!v || yyjson_is_null(v) || yyjson_is_false(v)) return true;
    if (yyjson_is_str(v)) return !yyjson_get_len(v);
    if (yyjson_is_arr(v)) return !yyjson_arr_size(v);
    yyjson_val *checked = yyjson_is_obj(v) ? glia_json_get(v, "checked") : NULL;
    return checked && yyjson_is_false(checked);
}

static void add_field(glia_buf *b, const char *name, yyjson_val *v) {
    glia_buf_addf(b, ",\"%s\":", name);
    glia_json_add_value(b, v);
}

typedef struct translation {
    glia_buf *b;
    yyjson_val *stack;
} translation;

static glia_status on_setting(void *ud, const char *key, yyjson_val *value, glia_err *err) {
    const translation *t = ud;
    if (strncmp(key, scope, sizeof scope - 1) || glia_lms_setting(t->stack, key) != value) return GLIA_OK;
    const char *name = key + sizeof scope - 1;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (strcmp(name, settings[i].key)) continue;
        switch (settings[i].kind) {
        case PLAIN:
            if (value) add_field(t->b, settings[i].field, value);
            return GLIA_OK;
        case CHECKBOX: {
            yyjson_val *checked = glia_json_get(value, "checked");
            if (value && !yyjson_is_obj(value)) add_field(t->b, settings[i].field, value);
            else if (checked && yyjson_is_true(checked) && glia_json_get(value, "value"))
                add_field(t->b, settings[i].field, glia_json_get(value, "value"));
            return GLIA_OK;
        }
        case EMPTY_ONLY:
            if (!is_empty(value)) return glia_fail_at(err, GLIA_EINVAL, key, "%s: %s", key, settings[i].field);
            return GLIA_OK;
        case OWN:
        case HARMLESS: return GLIA_OK;
        }
    }
    return glia_fail_at(err, GLIA_EINVAL, key, "%.90s: a setting that this server does not know", key);
}

static yyjson_val *setting(yyjson_val *stack, const char *name) {
    char key[96];
    (void)snprintf(key, sizeof key, "%s%s", scope, name);
    return glia_lms_setting(stack, key);
}

static glia_status add_stop(glia_buf *b, yyjson_val *stack, yyjson_val *template, glia_err *err) {
    yyjson_val *lists[] = {setting(stack, "stopStrings"), setting(stack, "toolCallStopStrings"),
                           glia_json_get(template, "stopStrings")};
    yyjson_val *item;
    yyjson_arr_iter it;
    bool any = false;
    for (size_t i = 0; i < 3; i++) {
        if (!lists[i]) continue;
        if (!yyjson_is_arr(lists[i]))
            return glia_fail_at(err, GLIA_EINVAL, "stopStrings", "stopStrings must be a list of strings");
        for (yyjson_arr_iter_init(lists[i], &it); (item = yyjson_arr_iter_next(&it));) {
            if (!yyjson_is_str(item))
                return glia_fail_at(err, GLIA_EINVAL, "stopStrings", "stopStrings must be a list of strings");
            glia_buf_adds(b, any ? "," : ",\"stop\":[");
            glia_json_add_value(b, item);
            any = true;
        }
    }
    if (any) glia_buf_adds(b, "]");
    return GLIA_OK;
}

/* {"type":"none"|"json"|"gbnf","jsonSchema"?,"gbnfGrammar"?} */
static glia_status add_structured(glia_buf *b, yyjson_val *v, glia_err *err) {
    const char *type = NULL;
    glia_status st = v ? glia_json_str(v, "structured", "type", &type, err) : GLIA_OK;
    if (st || !type || !strcmp(type, "none")) return st;
    yyjson_val *schema = glia_json_get(v, "jsonSchema"), *grammar = glia_json_get(v, "gbnfGrammar");
    if (!strcmp(type, "json") && schema) add_field(b, "json_schema", schema);
    else if (!strcmp(type, "json")) glia_buf_adds(b, ",\"response_format\":{\"type\":\"json_object\"}");
    else if (!strcmp(type, "gbnf") && grammar) add_field(b, "grammar", grammar);
    else return glia_fail_at(err, GLIA_EINVAL, "structured", "structured: none, json (jsonSchema) or gbnf (gbnfGrammar)");
    return GLIA_OK;
}

/* {"type":"none"} or {"type":"toolArray","tools":[…],"force"?} */
static glia_status add_tools(glia_buf *b, yyjson_val *v, glia_err *err) {
    const char *type = NULL;
    bool force = false;
    glia_status st = v ? glia_json_str(v, "tools", "type", &type, err) : GLIA_OK;
    if (st || !type || !strcmp(type, "none")) return st;
    yyjson_val *list = glia_json_get(v, "tools");
    if (strcmp(type, "toolArray"))
        return glia_fail_at(err, GLIA_EINVAL, "tools", "tools: {\"type\":\"toolArray\",\"tools\":[…]}");
    if (!list || !yyjson_arr_size(list)) return GLIA_OK;
    if ((st = glia_json_bool(v, "tools", "force", &force, NULL, err))) return st;
    add_field(b, "tools", list);
    if (force) glia_buf_adds(b, ",\"tool_choice\":\"required\"");
    return GLIA_OK;
}

/* [[token, bias or "-inf"], …] */
static glia_status add_bias(glia_buf *b, yyjson_val *v, glia_err *err) {
    yyjson_val *pair;
    yyjson_arr_iter it;
    bool any = false;
    if (is_empty(v)) return GLIA_OK;
    for (yyjson_arr_iter_init(v, &it); (pair = yyjson_arr_iter_next(&it));) {
        yyjson_val *id = yyjson_arr_get(pair, 0), *bias = yyjson_arr_get(pair, 1);
        int64_t n;
        bool never = yyjson_equals_str(bias, "-inf");
        if (!id || !glia_json_whole(id, &n) || (!never && !yyjson_is_num(bias)))
            return glia_fail_at(err, GLIA_EINVAL, "llama.logitBias", "logitBias: a list of [token id, bias or \"-inf\"]");
        glia_buf_addf(b, "%s\"%lld\":", any ? "," : ",\"logit_bias\":{", (long long)n);
        if (never) glia_buf_adds(b, "-100"); /* OpenAI's word for never */
        else glia_json_add_value(b, bias);
        any = true;
    }
    if (any) glia_buf_adds(b, "}");
    return GLIA_OK;
}

static glia_status add_mirostat(glia_buf *b, yyjson_val *v, glia_err *err) {
    int64_t version = 0;
    if (!v) return GLIA_OK;
    glia_status st = glia_json_int(v, "mirostatSampling", "version", 0, 2, &version, NULL, err);
    if (st || !version) return st;
    glia_buf_addf(b, ",\"mirostat\":%d", (int)version);
    if (glia_json_get(v, "targetEntropy")) add_field(b, "mirostat_tau", glia_json_get(v, "targetEntropy"));
    if (glia_json_get(v, "learningRate")) add_field(b, "mirostat_eta", glia_json_get(v, "learningRate"));
    return GLIA_OK;
}

/* {"checked","value":n}: the n likeliest tokens at every step. */
static glia_status add_logprobs(glia_buf *b, yyjson_val *v, bool is_text, glia_err *err) {
    int64_t n = 0;
    if (is_empty(v)) return GLIA_OK;
    if (!yyjson_is_obj(v) || glia_json_int(v, "logProbs", "value", 0, is_text ? 100 : 20, &n, NULL, err))
        return glia_fail_at(err, GLIA_EINVAL, "logProbs", "logProbs: {\"checked\", \"value\": how many, at most %d}", is_text ? 100 : 20);
    if (is_text) glia_buf_addf(b, ",\"logprobs\":%d", (int)n);
    else glia_buf_addf(b, ",\"logprobs\":true,\"top_logprobs\":%d", (int)n);
    return GLIA_OK;
}

static glia_status check_overflow(yyjson_val *v, glia_err *err) {
    if (!v || yyjson_equals_str(v, "stopAtLimit")) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, "contextOverflowPolicy",
                        "contextOverflowPolicy: this server only does stopAtLimit; a prompt that does not fit is refused");
}

/* ------------------------------------------------------------------ history */

static glia_status bad_part(const char *where, const char *why, glia_err *err) {
    return glia_fail_at(err, GLIA_EINVAL, where, "%s: %s", where, why);
}

/* Text of all parts of a message's content, as one JSON string's inside; other parts are left to others. */
static glia_status message_text(yyjson_val *message, glia_buf *text, glia_err *err) {
    yyjson_val *content = glia_json_get(message, "content"), *part;
    yyjson_arr_iter it;
    if (yyjson_is_str(content)) return glia_buf_add(text, yyjson_get_str(content), yyjson_get_len(content)) ? GLIA_OK : GLIA_ENOMEM;
    if (!yyjson_is_arr(content)) return bad_part("history.content", "a list of parts", err);
    for (yyjson_arr_iter_init(content, &it); (part = yyjson_arr_iter_next(&it));) {
        const char *type = yyjson_get_str(glia_json_get(part, "type"));
        yyjson_val *t = glia_json_get(part, "text");
        if (type && !strcmp(type, "file"))
            return bad_part("history.content", "files and images are not read by this server", err);
        if (type && !strcmp(type, "text")) {
            if (!yyjson_is_str(t)) return bad_part("history.content", "a part of type text needs text", err);
            if (!glia_buf_add(text, yyjson_get_str(t), yyjson_get_len(t)))
                return glia_fail(err, GLIA_ENOMEM, "no memory for the history");
        }
    }
    return GLIA_OK;
}

/* {"type":"toolCallRequest","toolCallRequest":{"id"?,"name","arguments"?}} of an assistant */
static glia_status add_calls(glia_buf *b, yyjson_val *content, glia_err *err) {
    yyjson_val *part;
    yyjson_arr_iter it;
    size_t k = 0;
    if (!yyjson_is_arr(content)) return GLIA_OK;
    for (yyjson_arr_iter_init(content, &it); (part = yyjson_arr_iter_next(&it));) {
        yyjson_val *call = glia_json_get(part, "toolCallRequest"), *args = glia_json_get(call, "arguments");
        if (!call) continue;
        const char *name = yyjson_get_str(glia_json_get(call, "name")), *id = yyjson_get_str(glia_json_get(call, "id"));
        if (!name) return bad_part("history.toolCallRequest", "needs a name", err);
        glia_buf args_text = {0};
        if (args) glia_json_add_value(&args_text, args);
        glia_buf_addf(b, "%s{\"type\":\"function\",\"id\":", k ? "," : ",\"tool_calls\":[");
        if (id) glia_json_add_cstr(b, id);
        else glia_buf_addf(b, "\"call_%zu\"", k);
        glia_buf_adds(b, ",\"function\":{\"name\":");
        glia_json_add_cstr(b, name);
        glia_buf_adds(b, ",\"arguments\":");
        glia_json_add_cstr(b, args_text.p ? args_text.p : "{}");
        glia_buf_adds(b, "}}");
        if (args_text.failed) b->failed = true;
        glia_buf_clear(&args_text);
        k++;
    }
    if (k) glia_buf_adds(b, "]");
    return GLIA_OK;
}

/* One message of role tool for each result. */
static glia_status add_results(glia_buf *b, yyjson_val *content, bool *any, glia_err *err) {
    yyjson_val *part;
    yyjson_arr_iter it;
    if (!yyjson_is_arr(content)) return bad_part("history.content", "a tool's message is a list of results", err);
    for (yyjson_arr_iter_init(content, &it); (part = yyjson_arr_iter_next(&it));) {
        const char *text = yyjson_get_str(glia_json_get(part, "content")), *id = yyjson_get_str(glia_json_get(part, "toolCallId"));
        if (!text) return bad_part("history.content", "a tool's result needs content", err);
        glia_buf_adds(b, *any ? ",{\"role\":\"tool\",\"tool_call_id\":" : "{\"role\":\"tool\",\"tool_call_id\":");
        glia_json_add_cstr(b, id ? id : "call_0");
        glia_buf_adds(b, ",\"content\":");
        glia_json_add_cstr(b, text);
        glia_buf_adds(b, "}");
        *any = true;
    }
    return GLIA_OK;
}

static glia_status add_message(glia_buf *b, yyjson_val *m, bool *any, glia_err *err) {
    const char *role = yyjson_get_str(glia_json_get(m, "role"));
    if (!role) return bad_part("history.role", "every message needs a role", err);
    if (!strcmp(role, "tool")) return add_results(b, glia_json_get(m, "content"), any, err);
    glia_buf text = {0};
    glia_status st = message_text(m, &text, err);
    if (!st) {
        glia_buf_adds(b, *any ? ",{\"role\":" : "{\"role\":");
        glia_json_add_cstr(b, role);
        glia_buf_adds(b, ",\"content\":");
        glia_json_add_str(b, text.p ? text.p : "", text.n);
        if (!strcmp(role, "assistant")) st = add_calls(b, glia_json_get(m, "content"), err);
        glia_buf_adds(b, "}");
        *any = true;
    }
    glia_buf_clear(&text);
    return st;
}

static yyjson_val *messages_of(yyjson_val *parameter) { return glia_json_get(glia_json_get(parameter, "history"), "messages"); }

static glia_status add_messages(glia_buf *b, yyjson_val *parameter, yyjson_val *system, glia_err *err) {
    yyjson_val *list = messages_of(parameter), *m;
    yyjson_arr_iter it;
    bool any = false;
    if (!yyjson_is_arr(list)) return bad_part("history.messages", "a list of messages", err);
    glia_buf_adds(b, ",\"messages\":[");
    if (system && !is_empty(system)) {
        glia_buf_adds(b, "{\"role\":\"system\",\"content\":");
        glia_json_add_value(b, system);
        glia_buf_adds(b, "}");
        any = true;
    }
    for (yyjson_arr_iter_init(list, &it); (m = yyjson_arr_iter_next(&it));) {
        glia_status st = add_message(b, m, &any, err);
        if (st) return st;
    }
    glia_buf_adds(b, "]");
    return GLIA_OK;
}

/* ------------------------------------------------------------------ text instead of a chat */

/* A template that says only what the messages say: the SDKs' way to ask for a plain completion. */
static bool is_plain(yyjson_val *template) {
    const char *text = yyjson_get_str(glia_json_get(glia_json_get(template, "jinjaPromptTemplate"), "template"));
    static const char plain[] = "{%formessageinmessages%}{{message['content']}}{%endfor%}";
    size_t n = 0;
    if (!text) return false;
    for (const char *c = text; *c; c++) {
        if (strchr(" \t\r\n", *c)) continue;
        if (n >= sizeof plain - 1 || *c != plain[n++]) return false;
    }
    return n == sizeof plain - 1;
}

static glia_status add_piece(glia_buf *text, yyjson_val *manual, const char *before, const char *role, glia_err *err) {
    char key[32];
    (void)snprintf(key, sizeof key, "%s%s", before, role);
    yyjson_val *v = glia_json_get(manual, key);
    if (v && !yyjson_is_str(v)) return bad_part("promptTemplate.manualPromptTemplate", "its pieces are strings", err);
    return !v || glia_buf_add(text, yyjson_get_str(v), yyjson_get_len(v)) ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory");
}

/* The messages one after another, each between the template's pieces for its role (manual), or bare. */
static glia_status add_text(glia_buf *b, yyjson_val *parameter, yyjson_val *manual, glia_err *err) {
    static const char *const roles[][2] = {{"system", "System"}, {"user", "User"}, {"assistant", "Assistant"}};
    yyjson_val *list = messages_of(parameter), *m;
    yyjson_arr_iter it;
    glia_buf text = {0};
    glia_status st = yyjson_is_arr(list) ? GLIA_OK : bad_part("history.messages", "a list of messages", err);
    for (yyjson_arr_iter_init(list, &it); !st && (m = yyjson_arr_iter_next(&it));) {
        yyjson_val *role = glia_json_get(m, "role");
        const char *name = NULL;
        for (size_t i = 0; i < 3; i++) {
            if (yyjson_equals_str(role, roles[i][0])) name = roles[i][1];
        }
        if (!name) st = bad_part("history.role", "a template of pieces knows system, user and assistant", err);
        if (!st) st = add_piece(&text, manual, "before", name, err);
        if (!st) st = message_text(m, &text, err);
        if (!st) st = add_piece(&text, manual, "after", name, err);
    }
    if (!st && manual) st = add_piece(&text, manual, "before", "Assistant", err);
    glia_buf_adds(b, ",\"prompt\":");
    glia_json_add_str(b, text.p ? text.p : "", text.n);
    glia_buf_clear(&text);
    return st;
}

/* ------------------------------------------------------------------ the whole */

glia_status glia_lms_model_name(yyjson_val *specifier, const char **name, glia_err *err) {
    const char *type = NULL;
    *name = NULL;
    if (!specifier) return GLIA_OK;
    if (!yyjson_is_obj(specifier)) return bad_part("modelSpecifier", "an object", err);
    glia_status st = glia_json_str(specifier, "modelSpecifier", "type", &type, err);
    if (st) return st;
    if (type && !strcmp(type, "instanceReference"))
        return glia_json_str(specifier, "modelSpecifier", "instanceReference", name, err);
    if (!type || strcmp(type, "query")) return bad_part("modelSpecifier.type", "query or instanceReference", err);
    yyjson_val *query = glia_json_get(specifier, "query");
    if (!query) return GLIA_OK;
    st = glia_json_str(query, "modelSpecifier.query", "identifier", name, err);
    return st || *name ? st : glia_json_str(query, "modelSpecifier.query", "path", name, err);
}

glia_status glia_lms_request(yyjson_val *parameter, glia_buf *out, bool *is_text, glia_err *err) {
    yyjson_val *stack = glia_json_get(parameter, "predictionConfigStack"), *specifier = glia_json_get(parameter, "modelSpecifier");
    yyjson_val *template = setting(stack, "promptTemplate"), *system = setting(stack, "systemPrompt");
    const char *name = NULL, *type = NULL;
    glia_status st = glia_lms_model_name(specifier ? specifier : glia_json_get(parameter, "specifier"), &name, err);
    if (st || (template && (st = glia_json_str(template, "promptTemplate", "type", &type, err)))) return st;
    bool jinja = type && !strcmp(type, "jinja"), manual = type && !strcmp(type, "manual");
    if (jinja && !is_plain(template)) {
        return glia_fail_at(err, GLIA_EINVAL, "promptTemplate",
                            "promptTemplate: this server renders the model's own template, \"manual\" ones, and plain text");
    }
    *is_text = jinja || manual;
    glia_buf_adds(out, "{\"stream\":true");
    if (name) {
        glia_buf_adds(out, ",\"model\":");
        glia_json_add_cstr(out, name);
    }
    translation t = {out, stack};
    if ((st = each_field(stack, on_setting, &t, err))) return st;
    if (!setting(stack, "maxPredictedTokens") || is_empty(setting(stack, "maxPredictedTokens")))
        glia_buf_adds(out, ",\"max_tokens\":-1");
    if ((st = add_stop(out, stack, template, err))) return st;
    if ((st = add_structured(out, setting(stack, "structured"), err))) return st;
    if (!*is_text && (st = add_tools(out, setting(stack, "tools"), err))) return st;
    if ((st = add_bias(out, setting(stack, "llama.logitBias"), err))) return st;
    if ((st = add_mirostat(out, setting(stack, "llama.mirostatSampling"), err))) return st;
    if ((st = add_logprobs(out, setting(stack, "logProbs"), *is_text, err))) return st;
    if ((st = check_overflow(setting(stack, "contextOverflowPolicy"), err))) return st;
    st = *is_text ? add_text(out, parameter, manual ? glia_json_get(template, "manualPromptTemplate") : NULL, err)
                  : add_messages(out, parameter, system, err);
    if (st) return st;
    glia_buf_adds(out, "}");
    return out->failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the request") : GLIA_OK;
}

/* api/openapi.c — GET /openapi.json, written from the route table and the table of sampling fields.  HTTP threads. */
#include "api/openapi.h"
#include "api/handlers.h"
#include <string.h>

/* Fields that the sampling table does not hold: name, JSON schema, for chat, for completions. */
static const struct {
    const char *name, *schema;
    bool chat, completion;
} fields[] = {
    {"model", "{\"type\":\"string\",\"description\":\"id of a loaded model; absent: the default one\"}", true, true},
    {"messages",
     "{\"type\":\"array\",\"minItems\":1,\"maxItems\":10000,\"items\":{\"$ref\":\"#/components/schemas/Message\"}}",
     true, false},
    {"prompt",
     "{\"description\":\"text or token ids, or a list of either: an answer for each\",\"oneOf\":[{\"type\":\"string\"},"
     "{\"type\":\"array\",\"minItems\":1,\"items\":{\"oneOf\":[{\"type\":\"integer\",\"minimum\":0},{\"type\":"
     "\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}}]}}]}",
     false, true},
    {"suffix", "{\"type\":\"string\",\"description\":\"text behind the gap; only models that can fill it\"}", false,
     true},
    {"n", "{\"type\":\"integer\",\"minimum\":1,\"maximum\":128,\"default\":1}", true, true},
    {"best_of", "{\"type\":\"integer\",\"minimum\":1,\"maximum\":128,\"description\":\"must be n\"}", false, true},
    {"max_tokens", "{\"type\":\"integer\",\"minimum\":-1,\"description\":\"-1: until the context is full\"}", true,
     true},
    {"max_completion_tokens", "{\"type\":\"integer\",\"minimum\":-1}", true, false},
    {"seed", "{\"type\":\"integer\",\"description\":\"-1: a fresh one\"}", true, true},
    {"stop",
     "{\"oneOf\":[{\"type\":\"string\",\"minLength\":1},{\"type\":\"array\",\"maxItems\":16,\"items\":{\"type\":"
     "\"string\",\"minLength\":1}}]}",
     true, true},
    {"logit_bias",
     "{\"type\":\"object\",\"description\":\"token id to bias\",\"additionalProperties\":{\"type\":\"number\",\"minimum\":"
     "-100,\"maximum\":100}}",
     true, true},
    {"logprobs", "{\"description\":\"true for chats, a count from 0 to 100 for completions\"}", true, true},
    {"top_logprobs", "{\"type\":\"integer\",\"minimum\":0,\"maximum\":20}", true, false},
    {"stream", "{\"type\":\"boolean\",\"default\":false}", true, true},
    {"stream_options", "{\"type\":\"object\",\"properties\":{\"include_usage\":{\"type\":\"boolean\"}}}", true, true},
    {"tools",
     "{\"type\":\"array\",\"maxItems\":128,\"items\":{\"type\":\"object\",\"required\":[\"type\",\"function\"],\"properties\":{"
     "\"type\":{\"const\":\"function\"},\"function\":{\"type\":\"object\",\"required\":[\"name\"],\"properties\":{\"name\":{"
     "\"type\":\"string\"},\"description\":{\"type\":\"string\"},\"parameters\":{\"type\":\"object\"},\"strict\":{\"type\":"
     "\"boolean\"}}}}}}",
     true, false},
    {"tool_choice", "{\"description\":\"none, auto, required, or {type, function: {name}}\"}", true, false},
    {"parallel_tool_calls", "{\"type\":\"boolean\",\"default\":true}", true, false},
    {"chat_template_kwargs", "{\"type\":\"object\",\"description\":\"variables of the chat template\"}", true, false},
    {"response_format",
     "{\"type\":\"object\",\"required\":[\"type\"],\"properties\":{\"type\":{\"enum\":[\"text\",\"json_object\","
     "\"json_schema\"]},\"json_schema\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"schema\":{"
     "\"type\":\"object\"},\"strict\":{\"type\":\"boolean\"}}}}}",
     true, true},
    {"json_schema", "{\"type\":\"object\",\"description\":\"the same as response_format's schema\"}", true, true},
    {"grammar", "{\"type\":\"string\",\"minLength\":1,\"description\":\"rules in GBNF; root is the answer\"}", true,
     true},
    {"regex", "{\"type\":\"string\",\"minLength\":1,\"maxLength\":4096,\"description\":\"the whole answer matches it\"}",
     true, true},
    {"choices",
     "{\"type\":\"array\",\"minItems\":1,\"maxItems\":1000,\"items\":{\"type\":\"string\",\"minLength\":1},"
     "\"description\":\"the answer is one of these\"}",
     true, true},
    {"lora",
     "{\"type\":\"array\",\"maxItems\":8,\"items\":{\"type\":\"object\",\"required\":[\"id\"],\"properties\":{\"id\":{"
     "\"oneOf\":[{\"type\":\"string\"},{\"type\":\"integer\",\"minimum\":0}]},\"scale\":{\"type\":\"number\",\"default\":1}}},"
     "\"description\":\"adapters that were loaded with the model\"}",
     true, true},
    {"priority",
     "{\"type\":\"integer\",\"minimum\":-10,\"maximum\":10,\"default\":0,\"description\":\"whose turn it is in the "
     "queue; a step is worth 10 s of waiting\"}",
     true, true},
    {"speculative",
     "{\"description\":\"guess several tokens and check them at once; the answer is the same\",\"oneOf\":[{\"type\":"
     "\"boolean\"},{\"enum\":[\"off\",\"ngram\",\"draft\"]},{\"type\":\"object\",\"properties\":{\"method\":{\"enum\":["
     "\"off\",\"ngram\",\"draft\"]},\"max_tokens\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":32}}}]}",
     true, true},
    {"prediction",
     "{\"type\":\"object\",\"required\":[\"type\",\"content\"],\"properties\":{\"type\":{\"const\":\"content\"},"
     "\"content\":{}},\"description\":\"what the answer is expected to be: guesses come from it\"}",
     true, true},
    {"draft_model", "{\"type\":\"string\",\"description\":\"the draft model that was loaded with the model\"}", true,
     true},
    {"echo", "{\"type\":\"boolean\",\"default\":false}", false, true},
    {"cache_prompt", "{\"type\":\"boolean\",\"default\":true}", true, true},
    {"activation_hooks",
     "{\"type\":\"array\",\"maxItems\":1024,\"items\":{\"$ref\":\"#/components/schemas/ActivationHook\"}}", true, true},
    {"registered_hooks", "{\"type\":\"boolean\",\"default\":true,\"description\":\"whether hooks registered with the model apply\"}",
     true, true},
    {"interventions",
     "{\"type\":\"array\",\"maxItems\":4096,\"items\":{\"$ref\":\"#/components/schemas/Intervention\"}}", true, true},
    {"store", "{\"type\":\"boolean\",\"default\":false,\"description\":\"keep the activations as a run of the store\"}", true, true},
    {"note", "{\"type\":\"string\",\"description\":\"one line to find the stored run again\"}", true, true},
    {"activation_format", "{\"$ref\":\"#/components/schemas/ActivationFormat\"}", true, true},
};

static const char fixed_schemas[] =
    "\"Message\":{\"type\":\"object\",\"required\":[\"role\",\"content\"],\"properties\":{\"role\":{\"enum\":[\"system\","
    "\"developer\",\"user\",\"assistant\",\"tool\"]},\"content\":{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"array\","
    "\"items\":{\"type\":\"object\",\"properties\":{\"type\":{\"const\":\"text\"},\"text\":{\"type\":\"string\"}}}}]}}},"
    "\"Intervention\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"layer\":{\"oneOf\":[{\"type\":"
    "\"integer\"},{\"type\":\"string\"}]},\"layer_name\":{\"type\":\"string\"},\"component\":{\"type\":\"string\"},\"name\":{"
    "\"type\":\"string\"},\"positions\":{\"description\":\"as in ActivationHook\"},\"heads\":{\"type\":\"array\",\"items\":{"
    "\"type\":\"integer\",\"minimum\":0}},\"channels\":{\"description\":\"as in ActivationHook\"},\"op\":{\"enum\":[\"add\","
    "\"scale\",\"set\",\"zero\",\"project_out\",\"clamp\",\"noise\",\"random\",\"patch\",\"mean\",\"ablate\","
    "\"resample\",\"knockout\",\"head_ablation\"]},\"to\":{\"description\":\"attention: positions attended to, as positions"
    "\"},\"source\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"prompt\":{\"description\":"
    "\"text or token ids of the run whose rows are taken\"},\"run\":{\"type\":\"string\"},\"document\":{\"type\":\"integer\"},\"messages\":{\"type\":\"array\"},\"positions\":{"
    "\"description\":\"as in ActivationHook\"},\"align\":{\"enum\":[\"tokens\",\"start\",\"end\"]}}},\"type\":{"
    "\"description\":\"another name of op, or one of NeuroScope's words\",\"type\":\"string\"},\"vector\":{\"description\":"
    "\"[channels], or [rows, channels]: one for each row of the prompt\",\"oneOf\":[{\"type\":\"array\"},{\"$ref\":"
    "\"#/components/schemas/Tensor\"}]},\"direction\":{\"oneOf\":[{\"type\":\"array\"},{\"$ref\":"
    "\"#/components/schemas/Tensor\"}]},\"strength\":{\"type\":\"number\",\"default\":1},\"min\":{\"type\":\"number\"},\"max\":{"
    "\"type\":\"number\"},\"value\":{\"type\":\"number\",\"description\":\"min and max at once\"},\"seed\":{\"type\":\"integer\","
    "\"minimum\":0,\"default\":0},\"when\":{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"direction\"],"
    "\"properties\":{\"direction\":{\"oneOf\":[{\"type\":\"array\"},{\"$ref\":\"#/components/schemas/Tensor\"}]},\"above\":{"
    "\"type\":\"number\"},\"below\":{\"type\":\"number\"}}}}},";

static const char sweep_schema[] =
    "\"Sweep\":{\"type\":\"object\",\"required\":[\"clean\"],\"additionalProperties\":false,\"properties\":{\"model\":{"
    "\"type\":\"string\"},\"clean\":{\"description\":\"prompt, text or token ids\"},\"corrupted\":{\"description\":\"the other "
    "prompt, with as many tokens\"},\"answer\":{\"description\":\"a token (text or id), or a list\"},\"wrong\":{"
    "\"description\":\"a token (text or id), or a list\"},\"metric\":{\"enum\":[\"logit_difference\",\"probability\","
    "\"log_probability\",\"kl\",\"rank\"],\"default\":\"logit_difference\"},\"op\":{\"enum\":[\"denoise\",\"noise\",\"zero\","
    "\"mean\"],\"default\":\"denoise\"},\"sweeps\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":64,\"items\":{\"type\":"
    "\"object\",\"required\":[\"component\"],\"additionalProperties\":false,\"properties\":{\"component\":{\"type\":"
    "\"string\"},\"by\":{\"enum\":[\"layer\",\"position\",\"head\",\"head_position\"]}}}},\"layers\":{\"type\":\"array\"},"
    "\"positions\":{\"description\":\"as in ActivationHook\"},\"path\":{\"type\":\"object\",\"additionalProperties\":false,"
    "\"properties\":{\"to\":{\"description\":\"logits, or a list of component, layer and head\"},\"mlps\":{\"enum\":[\"held\","
    "\"free\"],\"default\":\"held\"}}},\"wait\":{\"type\":\"boolean\",\"default\":false}}},";

static const char hook_schemas[] =
    "\"ActivationHook\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"layer\":{\"description\":"
    "\"a number, a module path or *\",\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"string\"}]},\"layer_name\":{\"type\":"
    "\"string\"},\"component\":{\"type\":\"string\"},\"name\":{\"type\":\"string\"},\"hook_id\":{\"type\":\"string\"},"
    "\"capture_input\":{\"type\":\"boolean\",\"default\":false},\"capture_output\":{\"type\":\"boolean\",\"default\":true},"
    "\"positions\":{\"description\":\"all, last, prompt, generated, a range (3:10), or positions\",\"oneOf\":[{\"type\":"
    "\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"integer\"}},{\"$ref\":\"#/components/schemas/Range\"}]},"
    "\"heads\":{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}},"
    "\"channels\":{\"description\":\"channels of a row, after heads: a range (0:64) or a list\",\"oneOf\":[{\"type\":"
    "\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":0}},{\"$ref\":"
    "\"#/components/schemas/Range\"}]},"
    "\"reduce\":{\"oneOf\":[{\"enum\":[\"none\",\"mean\",\"var\",\"max\",\"norm\",\"row_norm\"]},{\"type\":\"object\","
    "\"required\":[\"op\"],\"additionalProperties\":false,\"properties\":{\"op\":{\"enum\":[\"none\",\"mean\",\"var\","
    "\"max\",\"norm\",\"row_norm\",\"topk\",\"project\"]},\"k\":{\"type\":\"integer\",\"minimum\":1},\"by\":{\"enum\":["
    "\"value\",\"magnitude\"],\"default\":\"value\"},\"directions\":{\"description\":\"[directions, channels]\","
    "\"oneOf\":[{\"type\":\"array\"},{\"$ref\":\"#/components/schemas/Tensor\"}]}}}]},"
    "\"dtype\":{\"enum\":[\"float32\",\"float16\",\"bfloat16\"]}}},"
    "\"Range\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"from\":{\"type\":\"integer\","
    "\"default\":0},\"to\":{\"type\":\"integer\",\"description\":\"exclusive; negative: from the end\"}}},"
    "\"Tensor\":{\"type\":\"object\",\"required\":[\"shape\",\"data\"],\"additionalProperties\":false,\"properties\":{"
    "\"shape\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":2,\"items\":{\"type\":\"integer\",\"minimum\":1}},\"dtype\":{"
    "\"enum\":[\"float32\",\"float16\",\"bfloat16\"],\"default\":\"float32\"},\"data\":{\"description\":\"base64 "
    "(little-endian, row-major) or a list of numbers\"}}},"
    "\"ActivationFormat\":{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{\"encoding\":{\"enum\":["
    "\"list\",\"base64\"],\"default\":\"list\"},\"dtype\":{\"enum\":[\"float32\",\"float16\",\"bfloat16\"]},\"include\":{"
    "\"type\":\"array\",\"items\":{\"enum\":[\"prompt\",\"generated\"]}},\"merge\":{\"type\":\"boolean\",\"default\":false}}},"
    "\"Tokenize\":{\"type\":\"object\",\"properties\":{\"model\":{\"type\":\"string\"},\"text\":{\"type\":\"string\"},"
    "\"messages\":{\"type\":\"array\"},\"add_special\":{\"type\":\"boolean\",\"default\":true},\"parse_special\":{\"type\":"
    "\"boolean\",\"default\":true},\"with_pieces\":{\"type\":\"boolean\",\"default\":false}}},"
    "\"Detokenize\":{\"type\":\"object\",\"required\":[\"tokens\"],\"properties\":{\"model\":{\"type\":\"string\"},\"tokens\":"
    "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}},\"special\":{\"type\":\"boolean\",\"default\":true}}},"
    "\"RegisterHooks\":{\"type\":\"object\",\"required\":[\"hooks\"],\"properties\":{\"model\":{\"type\":\"string\"},\"hooks\":{"
    "\"type\":\"array\",\"minItems\":1,\"maxItems\":1024,\"items\":{\"$ref\":\"#/components/schemas/ActivationHook\"}}}},"
    "\"Error\":{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{\"error\":{\"type\":\"object\",\"properties\":{\"message\":{\"type\":"
    "\"string\"},\"type\":{\"type\":\"string\"},\"param\":{\"type\":[\"string\",\"null\"]},\"code\":{\"type\":\"string\"}}}}}";

/* Bodies of the routes that manage models. */
static const char model_schemas[] =
    "\"LoadModel\":{\"type\":\"object\",\"required\":[\"model\"],\"additionalProperties\":false,\"properties\":{"
    "\"model\":{\"type\":\"string\",\"minLength\":1,\"description\":\"key of a model, or a path\"},\"identifier\""
    ":{\"type\":\"string\",\"minLength\":1,\"maxLength\":200},\"context_length\":{\"type\":\"integer\",\"minimum"
    "\":16,\"maximum\":16777216},\"eval_batch_size\":{\"type\":\"integer\",\"minimum\":32,\"maximum\":16384},\"pa"
    "rallel\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":256},\"flash_attention\":{\"type\":\"boolean\"},\"k"
    "v_cache_type\":{\"type\":\"string\"},\"gpu_layers\":{\"type\":\"integer\",\"minimum\":-1,\"maximum\":100000}"
    ",\"num_experts\":{\"type\":\"integer\",\"minimum\":1},\"offload_kv_cache_to_gpu\":{\"type\":\"boolean\"},\"t"
    "tl\":{\"type\":\"number\",\"exclusiveMinimum\":0,\"description\":\"seconds\"},\"new_instance\":{\"type\":\"b"
    "oolean\",\"default\":false},\"echo_load_config\":{\"type\":\"boolean\",\"default\":false}}},\"UnloadModel\":"
    "{\"type\":\"object\",\"required\":[\"instance_id\"],\"additionalProperties\":false,\"properties\":{\"instanc"
    "e_id\":{\"type\":\"string\"},\"when_busy\":{\"enum\":[\"drain\",\"refuse\"],\"default\":\"drain\"}}},\"Downl"
    "oadModel\":{\"type\":\"object\",\"required\":[\"model\"],\"additionalProperties\":false,\"properties\":{\"mo"
    "del\":{\"type\":\"string\",\"minLength\":1,\"description\":\"publisher/name of the mirror, or a file: URL\"}"
    ",\"quantization\":{\"type\":\"string\"},\"sha256\":{\"type\":\"string\",\"pattern\":\"^[0-9a-fA-F]{64}$\"}}}"
    ",\"LoadModelByPath\":{\"type\":\"object\",\"required\":[\"model_path\"],\"additionalProperties\":false,\"pro"
    "perties\":{\"model_path\":{\"type\":\"string\",\"minLength\":1},\"model_id\":{\"type\":\"string\",\"minLengt"
    "h\":1,\"maxLength\":200},\"max_kv_size\":{\"type\":\"integer\",\"minimum\":16,\"maximum\":16777216},\"kv_bit"
    "s\":{\"enum\":[0,4,8,16,32]},\"kv_group_size\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":1024},\"quant"
    "ized_kv_start\":{\"type\":\"integer\",\"minimum\":0},\"vocab_only\":{\"const\":false},\"trust_remote_code\":"
    "{\"const\":false}}},";

/* "/v1/models/{id...}" → "/v1/models/{id}" */
static void add_path(glia_buf *b, const char *pattern) {
    const char *dots = strstr(pattern, "...}");
    if (dots) glia_buf_addf(b, "\"%.*s%s\"", (int)(dots - pattern), pattern, dots + 3);
    else glia_buf_addf(b, "\"%s\"", pattern);
}

/* "{id}" and "{name}" of a pattern, and what a query may hold. */
static void add_parameters(glia_buf *b, const char *pattern, bool get) {
    bool first = true;
    for (const char *at = strchr(pattern, '{'); at; at = strchr(at + 1, '{'), first = false) {
        glia_buf_addf(b, "%s{\"name\":\"%.*s\",\"in\":\"path\",\"required\":true,\"schema\":{\"type\":\"string\"}}",
                      first ? ",\"parameters\":[" : ",", (int)strcspn(at + 1, ".}"), at + 1);
    }
    for (const char *const *q = get ? glia_openapi_query(pattern) : NULL; q && *q; q++, first = false) {
        glia_buf_addf(b, "%s{\"name\":\"%s\",\"in\":\"query\",\"schema\":{\"type\":\"string\"}}",
                      first ? ",\"parameters\":[" : ",", *q);
    }
    if (!first) glia_buf_adds(b, "]");
}

/* Errors of Anthropic's and LM Studio's shapes have the members of Error, too. */
static void add_operation(glia_buf *b, const glia_http_route *r) {
    glia_openapi_route known;
    bool post = r->method[0] == 'P';
    glia_buf_addf(b, "\"%s\":{\"summary\":", r->method[0] == 'G' ? "get" : post ? "post" : "delete");
    glia_json_add_cstr(b, r->summary);
    add_parameters(b, r->pattern, r->method[0] == 'G');
    if (!glia_openapi_body(r->pattern, &known)) known.body = "AnyObject";
    if (post) {
        glia_buf_addf(b,
                      ",\"requestBody\":{\"required\":true,\"content\":{\"application/json\":{\"schema\":{\"$ref\":"
                      "\"#/components/schemas/%s\"}}}}",
                      known.body);
    }
    glia_buf_adds(b, ",\"responses\":{\"200\":{\"description\":\"OK\"");
    if (post && known.reply) {
        glia_buf_addf(b, ",\"content\":{\"application/json\":{\"schema\":{\"$ref\":\"#/components/schemas/%s\"}}",
                      known.reply);
        if (known.streams) {
            static const char *const types[] = {"text/event-stream", "application/x-ndjson", "application/vnd.glia.frames",
                                                "application/vnd.safetensors", "application/vnd.glia.memory"};
            for (size_t i = 0; i < 5; i++) glia_buf_addf(b, ",\"%s\":{}", types[i]);
        }
        glia_buf_adds(b, "}");
    }
    glia_buf_adds(b, "},\"default\":{\"description\":\"an error\","
                     "\"content\":{\"application/json\":{\"schema\":{\"$ref\":\"#/components/schemas/Error\"}}}}}");
    if (r->traits & GLIA_HTTP_OPEN) glia_buf_adds(b, ",\"security\":[]");
    glia_buf_adds(b, "}");
}

void glia_openapi_add_row(glia_buf *b, const glia_param_row *row) {
    static const char *const types[] = {"number", "integer", "boolean"};
    glia_buf_addf(b, ",\"%s\":{\"type\":\"%s\"", row->name, types[row->kind]);
    if (row->kind != GLIA_PARAM_BOOL) {
        glia_buf_addf(b, ",\"%s\":%.9g,\"maximum\":%.9g", row->above_min ? "exclusiveMinimum" : "minimum", row->min,
                      row->max);
    }
    glia_buf_adds(b, ",\"description\":");
    glia_json_add_cstr(b, row->doc);
    glia_buf_adds(b, "}");
}

static void add_request_schema(glia_buf *b, const char *name, bool chat) {
    bool first = true;
    glia_buf_addf(b, "\"%s\":{\"type\":\"object\",\"required\":[\"%s\"],\"properties\":{", name,
                  chat ? "messages" : "prompt");
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (!(chat ? fields[i].chat : fields[i].completion)) continue;
        glia_buf_addf(b, "%s\"%s\":%s", first ? "" : ",", fields[i].name, fields[i].schema);
        first = false;
    }
    size_t n;
    const glia_param_row *rows = glia_param_table(&n);
    for (size_t i = 0; i < n; i++) glia_openapi_add_row(b, &rows[i]);
    glia_buf_adds(b, "}},");
}

void glia_add_openapi(glia_buf *b) {
    glia_buf_addf(b,
                  "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"Glia\",\"version\":\"%s\",\"description\":"
                  "\"Local language models over HTTP, with real activations per request\"},"
                  "\"security\":[{},{\"bearer\":[]}],\"paths\":{",
                  glia_version());
    const glia_http_route *r = glia_api_routes();
    for (const char *path = ""; r->method; r++) { /* methods of one path stand together in the table */
        bool same = !strcmp(path, r->pattern);
        if (*path) glia_buf_adds(b, same ? "," : "},");
        if (!same) {
            add_path(b, r->pattern);
            glia_buf_adds(b, ":{");
        }
        add_operation(b, r);
        path = r->pattern;
    }
    glia_buf_adds(b, "}");
    glia_buf_adds(b, "},\"components\":{\"securitySchemes\":{\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\"}},"
                     "\"schemas\":{");
    add_request_schema(b, "ChatRequest", true);
    add_request_schema(b, "CompletionRequest", false);
    glia_buf_adds(b, fixed_schemas);
    glia_buf_adds(b, model_schemas);
    glia_buf_adds(b, sweep_schema);
    glia_buf_adds(b, hook_schemas);
    glia_openapi_add_families(b);
    glia_openapi_add_analyses(b);
    glia_openapi_add_runs(b);
    glia_buf_adds(b, "}}}\n");
}

void glia_on_openapi(void *ud, glia_http_request *rq) {
    (void)ud;
    glia_buf b = {0};
    glia_add_openapi(&b);
    glia_reply_json(rq, &b);
}

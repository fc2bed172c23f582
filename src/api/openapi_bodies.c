/* api/openapi_bodies.c — which schema each route's body and reply have, and the schemas of the families beside OpenAI's
 * completions.  Pure; any thread.  In the texts of schemas ' stands for ". */
#include "api/openapi.h"
#include "api/params.h"
#include <string.h>

/* The first pattern that a route's begins with wins.  reply NULL: any JSON object. */
static const struct {
    const char *pattern, *body, *reply;
    bool streams;
} bodies[] = {
    {"/v1/chat/completions", "ChatRequest", "ChatReply", true},
    {"/api/v0/chat/completions", "ChatRequest", "ChatReply", true},
    {"/v1/completions", "CompletionRequest", "CompletionReply", true},
    {"/api/v0/completions", "CompletionRequest", "CompletionReply", true},
    {"/v1/embeddings", "EmbeddingRequest", "EmbeddingReply", false},
    {"/api/v0/embeddings", "EmbeddingRequest", "EmbeddingReply", false},
    {"/v1/messages/count_tokens", "MessageCountRequest", "MessageCountReply", false},
    {"/v1/messages", "MessageRequest", "MessageReply", true},
    {"/v1/responses", "ResponseRequest", "ResponseReply", true},
    {"/api/v1/chat", "LmsChatRequest", "LmsChatReply", true},
    {"/v1/tokenize", "Tokenize", "TokenizeReply", false},
    {"/tokenize", "Tokenize", "TokenizeReply", false},
    {"/api/v0/tokenize", "Tokenize", "TokenizeReply", false},
    {"/api/v1/tokenize", "Tokenize", "TokenizeReply", false},
    {"/v1/detokenize", "Detokenize", "DetokenizeReply", false},
    {"/detokenize", "Detokenize", "DetokenizeReply", false},
    {"/api/v0/detokenize", "Detokenize", "DetokenizeReply", false},
    {"/api/v1/detokenize", "Detokenize", "DetokenizeReply", false},
    {"/api/v1/models/load", "LoadModel", NULL, false},
    {"/api/v1/models/estimate", "LoadModel", NULL, false},
    {"/api/v1/models/unload", "UnloadModel", NULL, false},
    {"/api/v1/models/download", "DownloadModel", NULL, false},
    {"/v1/models/load", "LoadModelByPath", NULL, false},
    {"/api/v1/harvests/{id}/cancel", "AnyObject", "Harvest", false},
    {"/api/v1/harvests", "HarvestRequest", "Harvest", false},
    {"/api/v1/sweeps", "Sweep", NULL, false},
    {"/v1/activations/hooks", "RegisterHooks", NULL, false},
    {"/v1/analyze/attention", "AnalyzeAttention", NULL, false},
    {"/api/v1/analyze/attention", "AnalyzeAttention", NULL, false},
    {"/v1/analyze/lens", "AnalyzeLens", NULL, false},
    {"/api/v1/analyze/lens", "AnalyzeLens", NULL, false},
    {"/v1/analyze/attribution", "AnalyzeAttribution", NULL, false},
    {"/api/v1/analyze/attribution", "AnalyzeAttribution", NULL, false},
    {"/v1/analyze/flow", "AnalyzeFlow", NULL, false},
    {"/api/v1/analyze/flow", "AnalyzeFlow", NULL, false},
    {"/v1/analyze/tokens", "AnalyzeTokens", NULL, false},
    {"/api/v1/analyze/tokens", "AnalyzeTokens", NULL, false},
    {"/v1/analyze/probe", "AnalyzeProbe", NULL, false},
    {"/api/v1/analyze/probe", "AnalyzeProbe", NULL, false},
    {"/v1/circuits/discover", "Discover", NULL, false},
    {"/v1/circuits/enhanced-discover", "EnhancedDiscover", NULL, false},
    {"/v1/features/localize", "Localize", NULL, false},
    {"/analyze/residual", "SentResiduals", NULL, false},
    {"/analyze/math", "SentActivations", NULL, false},
    {"/analyze/factual", "SentActivations", NULL, false},
    {"/export/neuroscope", "Export", NULL, false},
};

bool glia_openapi_body(const char *pattern, glia_openapi_route *out) {
    *out = (glia_openapi_route){0};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        if (strncmp(pattern, bodies[i].pattern, strlen(bodies[i].pattern)) != 0) continue;
        *out = (glia_openapi_route){bodies[i].body, bodies[i].reply, bodies[i].streams};
        return true;
    }
    return false;
}

static void add(glia_buf *b, const char *s) {
    for (; *s; s++) glia_buf_add(b, *s == '\'' ? "\"" : s, 1);
}

/* Members that every family takes beside its own: hooks, and the table of sampling fields. */
static const char shared[] =
    ",'model':{'type':'string','description':'id of a model; absent: the default one'}"
    ",'seed':{'type':'integer','description':'-1: a fresh one'}"
    ",'logit_bias':{'type':'object','additionalProperties':{'type':'number','minimum':-100,'maximum':100}}"
    ",'cache_prompt':{'type':'boolean','default':true}"
    ",'chat_template_kwargs':{'type':'object'}"
    ",'ttl':{'description':'seconds that a model loaded for this request may idle'}"
    ",'activation_hooks':{'type':'array','maxItems':1024,'items':{'$ref':'#/components/schemas/ActivationHook'}}"
    ",'interventions':{'type':'array','maxItems':4096,'items':{'$ref':'#/components/schemas/Intervention'}}"
    ",'activation_format':{'$ref':'#/components/schemas/ActivationFormat'}"
    ",'stream':{'type':'boolean','default':false}";

static const struct {
    const char *name, *required, *properties;
    bool strict; /* other fields are refused */
} families[] = {
    {"MessageRequest", "'messages','max_tokens'",
     "'max_tokens':{'type':'integer','minimum':1},"
     "'messages':{'type':'array','minItems':1,'items':{'$ref':'#/components/schemas/AnthropicMessage'}},"
     "'system':{'oneOf':[{'type':'string'},{'type':'array','items':{'$ref':'#/components/schemas/TextBlock'}}]},"
     "'stop_sequences':{'type':'array','maxItems':16,'items':{'type':'string','minLength':1}},"
     "'tools':{'type':'array','maxItems':128,'items':{'type':'object','required':['name','input_schema'],'properties':{"
     "'type':{'const':'custom'},'name':{'type':'string','pattern':'^[a-zA-Z0-9_.-]{1,64}$'},'description':{'type':'string'},"
     "'input_schema':{'type':'object'}}}},"
     "'tool_choice':{'type':'object','required':['type'],'properties':{'type':{'enum':['auto','any','tool','none']},"
     "'name':{'type':'string'},'disable_parallel_tool_use':{'type':'boolean'}}},"
     "'thinking':{'type':'object','required':['type'],'properties':{'type':{'enum':['enabled','disabled','adaptive']},"
     "'budget_tokens':{'type':'integer','minimum':1}}},"
     "'output_config':{'type':'object','properties':{'format':{'type':'object','required':['type','schema'],'properties':{"
     "'type':{'const':'json_schema'},'schema':{'type':'object'}}}}},'metadata':{'type':'object'}",
     false},
    {"MessageCountRequest", "'messages'",
     "'messages':{'type':'array','minItems':1,'items':{'$ref':'#/components/schemas/AnthropicMessage'}},"
     "'system':{'oneOf':[{'type':'string'},{'type':'array','items':{'$ref':'#/components/schemas/TextBlock'}}]},"
     "'tools':{'type':'array','maxItems':128,'items':{'type':'object','required':['name','input_schema'],'properties':{"
     "'name':{'type':'string','pattern':'^[a-zA-Z0-9_.-]{1,64}$'},'input_schema':{'type':'object'}}}}",
     false},
    {"ResponseRequest", "'input'",
     "'input':{'description':'a string or items','oneOf':[{'type':'string'},{'type':'array','minItems':1,'items':{"
     "'$ref':'#/components/schemas/InputItem'}}]},"
     "'instructions':{'type':'string'},'max_output_tokens':{'type':'integer','minimum':1},'store':{'type':'boolean','default':true},"
     "'previous_response_id':{'type':'string'},'include':{'type':'array','items':{'enum':['message.output_text.logprobs',"
     "'reasoning.encrypted_content']}},'top_logprobs':{'type':'integer','minimum':0,'maximum':20},"
     "'tools':{'type':'array','maxItems':128,'items':{'type':'object','required':['type','name'],'properties':{'type':{'const':"
     "'function'},'name':{'type':'string','pattern':'^[a-zA-Z0-9_.-]{1,64}$'},'description':{'type':'string'},'parameters':{"
     "'type':'object'},'strict':{'type':'boolean'}}}},'tool_choice':{'oneOf':[{'enum':['none','auto','required']},{'type':"
     "'object','required':['type','name'],'properties':{'type':{'const':'function'},'name':{'type':'string'}}}]},"
     "'parallel_tool_calls':{'type':'boolean','default':true},'text':{'type':'object','properties':{'format':{'type':'object',"
     "'required':['type'],'properties':{'type':{'enum':['text','json_object','json_schema']},'name':{'type':'string'},'schema':{"
     "'type':'object'},'strict':{'type':'boolean'}}},'verbosity':{'const':'medium'}}},'reasoning':{'type':'object','properties':{"
     "'effort':{'enum':['none','minimal','low','medium','high','xhigh']},'summary':{'type':'string'}}},'truncation':{'const':"
     "'disabled'},'background':{'const':false},'metadata':{'type':'object'},'user':{'type':'string'}",
     false},
    {"LmsChatRequest", "'model','input'",
     "'input':{'oneOf':[{'type':'string'},{'type':'array','minItems':1,'items':{'type':'object','required':['type','content'],"
     "'properties':{'type':{'enum':['text','message']},'content':{'type':'string'}}}}]},'system_prompt':{'type':'string'},"
     "'integrations':{'type':'array','maxItems':0},'max_output_tokens':{'type':'integer','minimum':1},'reasoning':{'enum':['off',"
     "'low','medium','high','on']},'context_length':{'type':'integer','minimum':1},'store':{'type':'boolean','default':true},"
     "'previous_response_id':{'type':'string','pattern':'^resp_'},'stop':{'oneOf':[{'type':'string','minLength':1},{'type':'array',"
     "'maxItems':16,'items':{'type':'string','minLength':1}}]}",
     true},
};

static const char others[] =
    ",'EmbeddingRequest':{'type':'object','required':['input'],'properties':{'model':{'type':'string'},'input':{'description':"
    "'a text (string or token ids), or a list of up to 2048','oneOf':[{'type':'string','minLength':1},{'type':'array','minItems':1,"
    "'maxItems':2048,'items':{'type':'string','minLength':1}},{'type':'array','minItems':1,'items':{'type':'integer','minimum':0}},"
    "{'type':'array','minItems':1,'maxItems':2048,'items':{'type':'array','minItems':1,'items':{'type':'integer','minimum':0}}}]},"
    "'encoding_format':{'enum':['float','base64'],'default':'float'},'dimensions':{'type':'integer','minimum':1},'normalize':{"
    "'type':'boolean','default':true},'pooling':{'enum':['mean','cls','last']},'user':{'type':'string'}}}"
    ",'AnthropicMessage':{'type':'object','required':['role','content'],'properties':{'role':{'enum':['user','assistant','system']},"
    "'content':{'oneOf':[{'type':'string'},{'type':'array','minItems':1,'items':{'$ref':'#/components/schemas/TextBlock'}}]}}}"
    ",'TextBlock':{'description':'also tool_use and thinking (assistant), tool_result (user)','type':'object','required':['type','text'],"
    "'properties':{'type':{'const':'text'},'text':{'type':'string'}}}"
    ",'InputItem':{'description':'also function_call, function_call_output, reasoning','type':'object','required':['role','content'],"
    "'properties':{'type':{'const':'message'},'role':{'enum':['user','assistant','system','developer']},'content':{'oneOf':[{'type':"
    "'string'},{'type':'array','items':{'type':'object','required':['type','text'],'properties':{'type':{'const':'input_text'},'text':{"
    "'type':'string'}}}}]}}}"
    ",'ChatReply':{'type':'object','required':['id','object','created','model','choices','usage'],'properties':{'object':{'const':"
    "'chat.completion'},'choices':{'type':'array','minItems':1}}}"
    ",'CompletionReply':{'type':'object','required':['id','object','created','model','choices','usage'],'properties':{'object':{'const':"
    "'text_completion'},'choices':{'type':'array','minItems':1}}}"
    ",'EmbeddingReply':{'type':'object','required':['object','data','model','usage'],'properties':{'object':{'const':'list'},'data':{"
    "'type':'array','minItems':1,'items':{'type':'object','required':['object','index','embedding']}}}}"
    ",'MessageReply':{'type':'object','required':['id','type','role','model','content','stop_reason','usage'],'properties':{'type':{"
    "'const':'message'},'content':{'type':'array'}}}"
    ",'MessageCountReply':{'type':'object','required':['input_tokens'],'properties':{'input_tokens':{'type':'integer','minimum':1}}}"
    ",'ResponseReply':{'type':'object','required':['id','object','status','output','usage'],'properties':{'object':{'const':'response'},"
    "'status':{'enum':['completed','incomplete']},'output':{'type':'array'}}}"
    ",'LmsChatReply':{'type':'object','required':['model_instance_id','output','stats'],'properties':{'output':{'type':'array','minItems':"
    "1}}}"
    ",'TokenizeReply':{'type':'object','required':['count','tokens'],'properties':{'count':{'type':'integer'},'tokens':{'type':'array',"
    "'items':{'type':'integer'}}}}"
    ",'DetokenizeReply':{'type':'object','required':['text'],'properties':{'text':{'type':'string'}}}"
    ",'AnyObject':{'type':'object'}";

void glia_openapi_add_families(glia_buf *b) {
    size_t n;
    const glia_param_row *rows = glia_param_table(&n);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        add(b, ",'");
        add(b, families[i].name);
        add(b, "':{'type':'object','required':[");
        add(b, families[i].required);
        add(b, "],");
        if (families[i].strict) add(b, "'additionalProperties':false,");
        add(b, "'properties':{");
        add(b, families[i].properties);
        add(b, shared);
        for (size_t k = 0; k < n; k++) glia_openapi_add_row(b, &rows[k]);
        add(b, "}}");
    }
    add(b, others);
}

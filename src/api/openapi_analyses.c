/* api/openapi_analyses.c — schemas of the bodies of docs/ANALYSIS.md's routes.  Pure; any thread.  In the texts ' stands for ". */
#include "api/openapi.h"

#define ASKS                                                                                                                            \
    "'model':{'type':'string'},'prompt':{'description':'a text or token ids','oneOf':[{'type':'string','minLength':1},{'type':'array'," \
    "'minItems':1,'items':{'type':'integer','minimum':0}}]},'messages':{'description':'instead of prompt','type':'array','items':{"     \
    "'$ref':'#/components/schemas/Message'}}"
#define LAYERS                                                                                                                 \
    "{'description':'numbers (negative: from the end) or module paths; absent: all','type':'array','items':{'oneOf':[{'type':" \
    "'integer'},{'type':'string'}]}}"
#define TOKEN                                                                                                          \
    "{'description':'an id, or a text that is one token','oneOf':[{'type':'integer','minimum':0},{'type':'string'}]}"
#define POSITIONS                                                                                                            \
    "'positions':{'description':'all, last, a position or a list; negative from the end','oneOf':[{'enum':['all','last']},{" \
    "'type':'integer'},{'type':'array','minItems':1,'items':{'type':'integer'}}]}"
#define SEED "'seed':{'type':'integer','minimum':0,'default':0}"
#define JUDGING                                                                                                                                                    \
    "'significance_threshold':{'type':'number','minimum':0,'maximum':1,'default':0.05},'multiple_comparisons':{'enum':['none',"                                    \
    "'bonferroni','holm','fdr_bh']},'bootstrap_samples':{'type':'integer','minimum':0,'maximum':100000,'default':1000},'permutations':{"                           \
    "'type':'integer','minimum':1,'maximum':1000000,'default':65536},'confidence_threshold':{'type':'number','minimum':0,'maximum':1},"                            \
    "'max_circuits':{'type':'integer','minimum':1,'maximum':100000,'default':10},'include_all':{'type':'boolean','default':false},'phenomenon':{'type':'string'}," \
    "'target':" TOKEN ",'against':" TOKEN ",'target_layers':" LAYERS                                                                                               \
    ",'target_components':{'type':'array','items':{'enum':['attention','mlp',"                                                                                     \
    "'head']}}," SEED

static const char *const schemas[] = {
    ",'AnalyzeAttention':{'type':'object','properties':{" ASKS ",'layers':" LAYERS
    ",'scope':{'enum':['head_level','layer_level',"
    "'cross_layer','global'],'default':'head_level'},'weights':{'type':'boolean','default':false},'probes':{'type':'integer','minimum':0,"
    "'maximum':64,'default':4},'probe_length':{'type':'integer','minimum':2,'maximum':512,'default':32},'min_excess':{'type':'number',"
    "'minimum':0,'maximum':1,'default':0.3},'bootstrap_samples':{'type':'integer','minimum':0,'maximum':10000,'default':100},"
    "'permutations':{'type':'integer','minimum':0,'maximum':10000,'default':99}," SEED "}}",
    ",'AnalyzeLens':{'type':'object','properties':{" ASKS ",'layers':" LAYERS "," POSITIONS
    ",'top_k':{'type':'integer','minimum':0,"
    "'maximum':1000,'default':5},'targets':{'type':'array','maxItems':256,'items':" TOKEN
    "},'tuned':{'type':'string','description':"
    "'translators: a file in the --assets folder'}}}",
    ",'AnalyzeAttribution':{'type':'object','properties':{" ASKS
    ",'position':{'type':'integer','default':-1},'target':" TOKEN ",'against':" TOKEN
    ",'heads':{'type':'boolean','default':true}}}",
    ",'AnalyzeFlow':{'type':'object','properties':{" ASKS "," POSITIONS "}}",
    ",'AnalyzeTokens':{'type':'object','properties':{" ASKS ",'target':" TOKEN
    ",'ablation':{'enum':['mean','zero'],'default':'mean'}}}",
    ",'AnalyzeProbe':{'description':'rows: examples, or run, or activations','type':'object','properties':{'model':{'type':'string'},"
    "'examples':{'type':'array','minItems':1,'items':{'type':'object','required':['text','label'],'properties':{'text':{},'label':{"
    "'description':'a number, or true or false'}}}},'run':{'type':'string'},'activations':{'description':'[rows, width]','oneOf':[{"
    "'type':'array'},{'$ref':'#/components/schemas/Tensor'}]},'labels':{'type':'array','items':{'description':'a number, or true or "
    "false'}},'groups':{'type':'array','items':{'type':'integer','minimum':0}},'positive_tokens':{'type':'array','items':{'type':"
    "'integer'}},'component':{'type':'string','default':'residual'},'layer':{'type':'integer'},'layers':" LAYERS
    ",'pooling':{'enum':["
    "'last','mean','all'],'default':'last'},'method':{'enum':['logistic','ridge'],'default':'logistic'},'l2':{'type':'number','minimum':"
    "1e-9,'maximum':1e9,'default':1},'folds':{'type':'integer','minimum':2,'maximum':100,'default':5},'permutations':{'type':'integer',"
    "'minimum':0,'maximum':10000,'default':99},'max_rows':{'type':'integer','minimum':4,'maximum':4096,'default':512},'encoding':{'enum':["
    "'list','base64'],'default':'list'}," SEED "}}",
    ",'Discover':{'type':'object','properties':{" ASKS "," JUDGING
    ",'intervention_types':{'type':'array','maxItems':8,'items':{'enum':["
    "'zero_ablation','mean_ablation','activation_patching','activation_restoring','noise_injection','random_replacement',"
    "'scaled_intervention']}},'corrupted_prompt':{'description':'as many tokens as the prompt; also called baseline_prompt'},'samples':{"
    "'enum':['prompt','random_repeated']},'n_samples':{'type':'integer','minimum':1,'maximum':1024,'default':16},'probe_length':{'type':"
    "'integer','minimum':3,'maximum':512,'default':12},'min_share':{'type':'number','minimum':0,'maximum':1,'default':0.05},'strength':{"
    "'type':'number','default':1}}}",
    ",'EnhancedDiscover':{'type':'object','properties':{" ASKS "," JUDGING
    ",'noise_type':{'enum':['gaussian','uniform','dropout',"
    "'salt_pepper'],'default':'gaussian'},'noise_scale':{'type':'number','minimum':0},'noise_samples':{'type':'integer','minimum':2,"
    "'maximum':1024,'default':16},'attribution_method':{'enum':['causal_tracing','activation_patching'],'default':'causal_tracing'}}}",
    ",'Localize':{'type':'object','required':['features'],'properties':{'model':{'type':'string'},'features':{'type':'array','minItems':1,"
    "'maxItems':32,'items':{'type':'object','required':['name'],'properties':{'name':{'type':'string'},'feature_type':{'type':'string'},"
    "'description':{'type':'string'},'target_layers':" LAYERS
    ",'examples':{'type':'array','maxItems':512},'counter_examples':{'type':"
    "'array','maxItems':512}}}},'method':{'enum':['sparse_autoencoder','probing_classifier','pca'],'default':'sparse_autoencoder'},"
    "'parameters':{'type':'object','properties':{'sae':{'type':'string'},'layer':{'type':'integer','minimum':0},'k':{'type':'integer',"
    "'minimum':1},'apply_b_dec_to_input':{'type':'boolean'},'component':{'type':'string','default':'residual'},'pooling':{'enum':['last',"
    "'mean','max']},'permutations':{'type':'integer','minimum':19,'maximum':10000,'default':99},'folds':{'type':'integer','minimum':2,"
    "'maximum':100,'default':5},'l2':{'type':'number','minimum':1e-9,'maximum':1e9,'default':1}," SEED "}}}}",
    ",'SentResiduals':{'type':'object','required':['residual_data'],'properties':{'residual_data':{'description':'the activations of a "
    "reply, or key to nested lists'},'analysis_type':{'type':'string'}}}",
    ",'SentActivations':{'type':'object','required':['activations'],'properties':{'activations':{'description':'the activations of a "
    "reply, or key to nested lists'},'analysis_type':{'type':'string'}}}",
    ",'Export':{'type':'object','required':['data'],'properties':{'data':{},'format':{'enum':['smalltalk','json'],'default':'smalltalk'},"
    "'export_type':{'const':'neuroscope'}}}"};

void glia_openapi_add_analyses(glia_buf *b) {
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        for (const char *s = schemas[i]; *s; s++) glia_buf_add(b, *s == '\'' ? "\"" : s, 1);
    }
}

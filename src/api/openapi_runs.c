/* api/openapi_runs.c — harvests and stored runs on the OpenAPI page.  Pure; any thread.  In the texts of schemas ' stands
 * for ". */
#include "api/openapi.h"
#include <string.h>

static const char schemas[] =
    ",'HarvestRequest':{'type':'object','additionalProperties':false,'required':['points'],'properties':{"
    "'model':{'type':'string'},"
    "'points':{'oneOf':[{'type':'string'},{'type':'array','minItems':1,'items':{'type':'string'}}],"
    "'examples':['resid_post@all,z@0-3+7']},"
    "'documents':{'type':'array','minItems':1,'items':{'oneOf':[{'type':'string'},{'type':'object','description':"
    "'one of text, messages, tokens'}]}},"
    "'data':{'type':'string','description':'absolute path of a .txt or .jsonl file in a folder of --data-dir'},"
    "'out':{'type':'string','description':'folder for the shards in a folder of --data-dir; absent: the store'},"
    "'resume':{'type':'string','description':'id of a stopped harvest that goes on'},"
    "'note':{'type':'string','maxLength':255},"
    "'dtype':{'enum':['float32','float16','bfloat16'],'default':'float32'},"
    "'positions':{'enum':['all','last'],'default':'all'},"
    "'window':{'type':'integer','minimum':1,'description':'longest piece of a document; absent: the context'},"
    "'shard_bytes':{'type':'integer','minimum':4096,'maximum':4294967296},"
    "'max_bytes':{'type':'integer','minimum':1},'max_tokens':{'type':'integer','minimum':1},"
    "'statistics_only':{'type':'boolean','default':false},"
    "'top':{'type':'integer','minimum':1,'maximum':1024,'description':'largest values kept of each channel'},"
    "'projection':{'type':'object','additionalProperties':false,'required':['n'],'properties':{'n':{'type':'integer',"
    "'minimum':1,'maximum':65536},'seed':{'type':'integer','minimum':0,'default':0}}}}}"
    ",'Run':{'type':'object','properties':{'id':{'type':'string'},'object':{'const':'run'},'kind':{'enum':['request',"
    "'harvest']},'status':{'enum':['writing','complete','stopped']},'created_at':{'type':'integer'},'model':{'type':"
    "'string'},'model_sha256':{'type':['string','null']},'note':{'type':['string','null']},'folder':{'type':'string'},"
    "'bytes':{'type':'integer'},'rows':{'type':'integer'},'tokens':{'type':'integer'}}}"
    ",'Harvest':{'type':'object','properties':{'id':{'type':'string'},'object':{'const':'harvest'},'status':{'enum':["
    "'running','completed','stopped','failed','cancelled']},'run':{'$ref':'#/components/schemas/Run'},'task':{'type':"
    "'object','description':'progress, detail, result, error; while this server knows of it'}}}";

void glia_openapi_add_runs(glia_buf *b) {
    for (const char *s = schemas; *s; s++) glia_buf_add(b, *s == '\'' ? "\"" : s, 1);
}

const char *const *glia_openapi_query(const char *pattern) {
    static const char *const slice[] = {"rows",  "positions", "document", "offsets",
                                        "heads", "channels",  "format",   NULL};
    static const char *const list[] = {"kind", "limit", "after", NULL};
    if (!strcmp(pattern, "/api/v1/runs/{id}/tensors/{name}")) return slice;
    return !strcmp(pattern, "/api/v1/runs") ? list : NULL;
}

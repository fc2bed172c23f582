/* api/handlers.h — the handlers that routes.c lists; ud is the glia_app.  HTTP threads. */
#ifndef GLIA_API_HANDLERS_H
#define GLIA_API_HANDLERS_H
#include "api/app.h"
#include "base/buf.h"

/* openai.c */
void glia_on_chat(void *ud, glia_http_request *rq);
void glia_on_chat_activations(void *ud, glia_http_request *rq);
void glia_on_completions(void *ud, glia_http_request *rq);
void glia_on_lms_chat(void *ud, glia_http_request *rq);
void glia_on_lms_completions(void *ud, glia_http_request *rq);
/* messages.c */
void glia_on_messages(void *ud, glia_http_request *rq);
void glia_on_count_tokens(void *ud, glia_http_request *rq);
/* embeddings.c */
void glia_on_embeddings(void *ud, glia_http_request *rq);
/* responses.c */
void glia_on_responses(void *ud, glia_http_request *rq);
void glia_on_response(void *ud, glia_http_request *rq);
void glia_on_response_items(void *ud, glia_http_request *rq);
void glia_on_response_delete(void *ud, glia_http_request *rq);
/* lms_chat.c */
void glia_on_lms_v1_chat(void *ud, glia_http_request *rq);
/* models.c */
void glia_on_models(void *ud, glia_http_request *rq);
void glia_on_model(void *ud, glia_http_request *rq);
/* scope_models.c */
void glia_on_models_available(void *ud, glia_http_request *rq);
void glia_on_scope_load(void *ud, glia_http_request *rq);
void glia_on_scope_models(void *ud, glia_http_request *rq);
void glia_on_scope_model(void *ud, glia_http_request *rq);
/* lms_models.c */
void glia_on_v0_models(void *ud, glia_http_request *rq);
void glia_on_v0_model(void *ud, glia_http_request *rq);
void glia_on_v1_models(void *ud, glia_http_request *rq);
void glia_on_lms_greeting(void *ud, glia_http_request *rq);
void glia_on_lms_status(void *ud, glia_http_request *rq);
/* model_load.c */
void glia_on_v1_load(void *ud, glia_http_request *rq);
void glia_on_v1_unload(void *ud, glia_http_request *rq);
void glia_on_v1_estimate(void *ud, glia_http_request *rq);
/* lms_download.c */
void glia_on_v1_download(void *ud, glia_http_request *rq);
void glia_on_v1_download_status(void *ud, glia_http_request *rq);
void glia_on_hooks(void *ud, glia_http_request *rq);
/* tokens.c */
void glia_on_tokenize(void *ud, glia_http_request *rq);
void glia_on_detokenize(void *ud, glia_http_request *rq);
/* openapi.c */
void glia_on_openapi(void *ud, glia_http_request *rq);
/* metrics.c */
void glia_on_metrics(void *ud, glia_http_request *rq);
/* tasks.c */
void glia_on_tasks(void *ud, glia_http_request *rq);
void glia_on_task(void *ud, glia_http_request *rq);
void glia_on_task_cancel(void *ud, glia_http_request *rq);
/* analyze.c */
void glia_on_analyze_attention(void *ud, glia_http_request *rq);
/* summaries.c */
void glia_on_analyze_residual(void *ud, glia_http_request *rq);
void glia_on_analyze_math(void *ud, glia_http_request *rq);
void glia_on_analyze_factual(void *ud, glia_http_request *rq);
/* export.c */
void glia_on_export(void *ud, glia_http_request *rq);
/* features.c */
void glia_on_features_localize(void *ud, glia_http_request *rq);
void glia_on_features_common(void *ud, glia_http_request *rq);
void glia_on_features_methods(void *ud, glia_http_request *rq);
/* probes.c */
void glia_on_analyze_probe(void *ud, glia_http_request *rq);
/* circuits.c */
void glia_on_circuits_discover(void *ud, glia_http_request *rq);
void glia_on_circuits_enhanced(void *ud, glia_http_request *rq);
/* lens.c */
void glia_on_analyze_lens(void *ud, glia_http_request *rq);
void glia_on_analyze_attribution(void *ud, glia_http_request *rq);
void glia_on_analyze_flow(void *ud, glia_http_request *rq);
void glia_on_analyze_tokens(void *ud, glia_http_request *rq);
/* patch.c */
void glia_on_patch(void *ud, glia_http_request *rq);
/* sweeps.c */
void glia_on_sweep(void *ud, glia_http_request *rq);
void glia_on_sweep_tensors(void *ud, glia_http_request *rq);
void glia_on_sweep_picture(void *ud, glia_http_request *rq);
/* harvests.c */
void glia_on_harvest_start(void *ud, glia_http_request *rq);
void glia_on_harvests(void *ud, glia_http_request *rq);
void glia_on_harvest(void *ud, glia_http_request *rq);
void glia_on_harvest_cancel(void *ud, glia_http_request *rq);
/* runs.c */
void glia_on_runs(void *ud, glia_http_request *rq);
void glia_on_run(void *ud, glia_http_request *rq);
void glia_on_run_delete(void *ud, glia_http_request *rq);
void glia_on_run_tensor(void *ud, glia_http_request *rq);
void glia_on_run_verify(void *ud, glia_http_request *rq);
/* routes.c */
void glia_on_greeting(void *ud, glia_http_request *rq);
void glia_on_health(void *ud, glia_http_request *rq);

/* neuroscope.c */
void glia_on_hooks_register(void *ud, glia_http_request *rq);
void glia_on_hooks_registered(void *ud, glia_http_request *rq);
void glia_on_hooks_clear(void *ud, glia_http_request *rq);
void glia_on_status(void *ud, glia_http_request *rq);

/* Send b as a JSON reply and empty it; a failed buffer becomes an error. */
void glia_reply_json(glia_http_request *rq, glia_buf *b);
/* The points of a model with grade, width and reason, as GET …/hooks and `glia inspect --json` give them. */
void glia_add_hooks(glia_buf *b, const glia_model *m);
/* One model as in `data[]` of GET /v1/models. */
void glia_add_model(glia_buf *b, const glia_model *m, bool current);
/* A run of the store, without its tensors. */
void glia_add_run(glia_buf *b, const glia_run_about *a);
void glia_add_open_run(glia_buf *b, const glia_run *r); /* with tensors and files */
/* The whole OpenAPI page. */
void glia_add_openapi(glia_buf *b);

#endif

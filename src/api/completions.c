/* api/completions.c — the generation endpoints: chat, completions, and chat with activations.  HTTP threads. */
#include "api/handlers.h"
#include "api/job.h"

void glia_on_chat(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, GLIA_API_CHAT, false); }

void glia_on_chat_activations(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, GLIA_API_CHAT, true); }

void glia_on_completions(void *ud, glia_http_request *rq) { glia_job_serve(ud, rq, GLIA_API_COMPLETION, false); }

/* api/routes.c — the table of endpoints, and the two that need no model.  HTTP threads. */
#include "api/handlers.h"
#include "api/json.h"
#include "api/lms_socket.h"
#include "base/err.h"

static const glia_http_route routes[] = {
    {"GET", "/", glia_on_greeting, "What this server is, as plain text", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"GET", "/health", glia_on_health, "Whether the server is up and which models are ready", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"GET", "/status", glia_on_status, "Models, tasks and registered hooks in short", GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"GET", "/metrics", glia_on_metrics, "What the server has done so far, for Prometheus", GLIA_HTTP_QUICK, GLIA_SCOPE_ADMIN},
    {"GET", "/openapi.json", glia_on_openapi, "This description", GLIA_HTTP_OPEN, GLIA_SCOPE_READ},
    {"GET", "/v1/models", glia_on_models, "Models that can be named in requests", 0, GLIA_SCOPE_READ},
    {"GET", "/v1/models/{id...}", glia_on_model, "One of them", 0, GLIA_SCOPE_READ},
    {"GET", "/v1/models/available", glia_on_models_available, "Files in the model folders, as NeuroScope asks", 0, GLIA_SCOPE_READ},
    {"POST", "/v1/models/load", glia_on_scope_load, "Load a model by path or name, as NeuroScope asks", 0, GLIA_SCOPE_ADMIN},
    {"GET", "/models", glia_on_scope_models, "Models in short", 0, GLIA_SCOPE_READ},
    {"GET", "/models/{id...}", glia_on_scope_model, "One of them in short", 0, GLIA_SCOPE_READ},
    {"GET", "/api/v0/models", glia_on_v0_models, "Models in the folders with their state (LM Studio v0)", 0, GLIA_SCOPE_READ},
    {"GET", "/api/v0/models/{id...}", glia_on_v0_model, "One of them", 0, GLIA_SCOPE_READ},
    {"GET", "/api/v1/models", glia_on_v1_models, "Models in the folders with their loaded instances (LM Studio v1)", 0, GLIA_SCOPE_READ},
    {"POST", "/api/v1/models/load", glia_on_v1_load, "Load a model and wait until it is ready", 0, GLIA_SCOPE_ADMIN},
    {"POST", "/api/v1/models/unload", glia_on_v1_unload, "Unload an instance once nobody uses it", 0, GLIA_SCOPE_ADMIN},
    {"POST", "/api/v1/models/download", glia_on_v1_download, "Copy a model into the model folder, from a mirror or a file: URL",
     0, GLIA_SCOPE_ADMIN},
    {"GET", "/api/v1/models/download/status/{id}", glia_on_v1_download_status, "How far a download is", 0, GLIA_SCOPE_READ},
    {"POST", "/api/v1/models/estimate", glia_on_v1_estimate, "Memory that loading a model would take", 0, GLIA_SCOPE_READ},
    {"GET", "/lmstudio-greeting", glia_on_lms_greeting, "What LM Studio's clients look for", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"GET", "/lms-status", glia_on_lms_status, "The same, with the version", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"GET", "/api/v1/models/{id}/hooks", glia_on_hooks, "Points × layers of a model: grade, width, reason", 0, GLIA_SCOPE_READ},
    {"POST", "/v1/chat/completions", glia_on_chat, "Chat completion; activation_hooks are taken too", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/chat/completions/with_activations", glia_on_chat_activations,
     "Chat completion with the activations that activation_hooks names", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/api/v0/chat/completions/with_activations", glia_on_chat_activations,
     "Chat completion with the activations that activation_hooks names", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/v1/completions", glia_on_completions, "Text completion; activation_hooks are taken too", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/embeddings", glia_on_embeddings, "Texts to vectors", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v0/embeddings", glia_on_embeddings, "The same", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/messages", glia_on_messages, "Anthropic's messages; activation_hooks are taken too", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/messages/count_tokens", glia_on_count_tokens, "How many tokens such a request would read", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/responses", glia_on_responses, "OpenAI's responses, stateful; activation_hooks are taken too", 0, GLIA_SCOPE_INFER},
    {"GET", "/v1/responses/{id}", glia_on_response, "A stored response", 0, GLIA_SCOPE_INFER},
    {"GET", "/v1/responses/{id}/input_items", glia_on_response_items, "What a stored response answers", 0, GLIA_SCOPE_INFER},
    {"DELETE", "/v1/responses/{id}", glia_on_response_delete, "Forget a stored response", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v1/chat", glia_on_lms_v1_chat, "LM Studio's chat, stateful; activation_hooks are taken too", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v0/chat/completions", glia_on_lms_chat, "LM Studio's chat completion, with stats", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v0/completions", glia_on_lms_completions, "LM Studio's text completion, with stats", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/activations/hooks", glia_on_hooks_register, "Hooks that stay with a model and apply to its later requests",
     0, GLIA_SCOPE_HOOKS | GLIA_SCOPE_ADMIN},
    {"GET", "/v1/activations/hooks", glia_on_hooks_registered, "The hooks registered with a model (?model=)", 0, GLIA_SCOPE_READ},
    {"DELETE", "/v1/activations/hooks", glia_on_hooks_clear, "Forget the hooks registered with a model (?model=)", 0,
     GLIA_SCOPE_HOOKS | GLIA_SCOPE_ADMIN},
    {"POST", "/v1/tokenize", glia_on_tokenize, "Text or a chat to token ids", 0, GLIA_SCOPE_INFER},
    {"POST", "/tokenize", glia_on_tokenize, "The same as /v1/tokenize", 0, GLIA_SCOPE_INFER},
    {"POST", "/detokenize", glia_on_detokenize, "The same as /v1/detokenize", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v0/tokenize", glia_on_tokenize, "The same as /v1/tokenize", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v0/detokenize", glia_on_detokenize, "The same as /v1/detokenize", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v1/tokenize", glia_on_tokenize, "The same as /v1/tokenize", 0, GLIA_SCOPE_INFER},
    {"POST", "/api/v1/detokenize", glia_on_detokenize, "The same as /v1/detokenize", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/detokenize", glia_on_detokenize, "Token ids to text", 0, GLIA_SCOPE_INFER},
    {"GET", "/v1/tasks", glia_on_tasks, "Long work: what runs and what has ended; ?kind= picks one sort", GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"GET", "/v1/tasks/status/{id}", glia_on_task, "One task with its progress and, once it has ended, its result", GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"GET", "/v1/tasks/{id}", glia_on_task, "The same", GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"DELETE", "/v1/tasks/{id}", glia_on_task_cancel, "Cancel a task", GLIA_HTTP_QUICK, GLIA_SCOPE_ADMIN},
    {"POST", "/v1/analyze/attention", glia_on_analyze_attention,
     "Attention heads of a prompt by what they look at, beside random repeated tokens", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/analyze/residual", glia_on_analyze_residual, "Flow of residual streams that are sent", 0, GLIA_SCOPE_INFER},
    {"POST", "/analyze/math", glia_on_analyze_math, "Summary of activations that are sent", 0, GLIA_SCOPE_INFER},
    {"POST", "/analyze/factual", glia_on_analyze_factual, "Summary of activations that are sent", 0, GLIA_SCOPE_INFER},
    {"POST", "/export/neuroscope", glia_on_export, "Data as Smalltalk source or JSON", 0, GLIA_SCOPE_INFER},
    {"POST", "/v1/features/localize", glia_on_features_localize, "Where a model tells texts apart: probes, principal components, autoencoders",
     0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"GET", "/v1/features/common", glia_on_features_common, "Features that can be looked for by name", 0, GLIA_SCOPE_READ},
    {"GET", "/v1/features/methods", glia_on_features_methods, "Ways of looking for features, and what each needs", 0, GLIA_SCOPE_READ},
    {"POST", "/v1/analyze/probe", glia_on_analyze_probe, "Linear probes on texts, a stored run, or rows that are sent", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/api/v1/analyze/probe", glia_on_analyze_probe, "The same", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/v1/circuits/discover", glia_on_circuits_discover, "Parts that an answer needs, by exact interventions", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/v1/circuits/enhanced-discover", glia_on_circuits_enhanced, "Causal tracing as a task, with many draws of noise",
     0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/v1/analyze/lens", glia_on_analyze_lens, "Logit lens or tuned lens at any layer and position", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/v1/analyze/attribution", glia_on_analyze_attribution, "Direct logit attribution of heads, MLPs and layers",
     0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/v1/analyze/flow", glia_on_analyze_flow, "Norms and cosines of the residual stream, layer by layer", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/v1/analyze/tokens", glia_on_analyze_tokens, "Tokens of the prompt by what their ablation takes away", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/api/v1/analyze/lens", glia_on_analyze_lens, "The same", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/api/v1/analyze/attribution", glia_on_analyze_attribution, "The same", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/api/v1/analyze/flow", glia_on_analyze_flow, "The same", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/api/v1/analyze/tokens", glia_on_analyze_tokens, "The same", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"POST", "/api/v1/analyze/attention", glia_on_analyze_attention, "The same", 0, GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"GET", "/llm", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: language models", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"GET", "/embedding", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: embedding models", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"GET", "/system", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: the server", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"GET", "/diagnostics", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: nothing is served there", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"GET", "/files", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: nothing is served there", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"GET", "/repository", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: nothing is served there", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"GET", "/plugins", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: nothing is served there", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"GET", "/runtime", glia_on_lms_socket, "WebSocket of LM Studio's SDKs: nothing is served there", GLIA_HTTP_OPEN | GLIA_HTTP_QUICK, 0},
    {"POST", "/v1/activations/patch", glia_on_patch, "Interventions on a prompt, each alone and all together: what becomes of the answer",
     0, GLIA_SCOPE_INFER | GLIA_SCOPE_EDIT},
    {"POST", "/api/v1/sweeps", glia_on_sweep, "Activation patching or ablation over layers × positions × heads, as a task or (wait) at once",
     0, GLIA_SCOPE_INFER | GLIA_SCOPE_EDIT},
    {"GET", "/api/v1/sweeps/{id}", glia_on_task, "A sweep with its progress and, once it has ended, its result", GLIA_HTTP_QUICK, GLIA_SCOPE_READ},
    {"DELETE", "/api/v1/sweeps/{id}", glia_on_task_cancel, "Cancel a sweep", GLIA_HTTP_QUICK, GLIA_SCOPE_INFER | GLIA_SCOPE_EDIT},
    {"GET", "/api/v1/sweeps/{id}/tensors", glia_on_sweep_tensors, "Its numbers as safetensors", 0, GLIA_SCOPE_READ},
    {"GET", "/api/v1/sweeps/{id}/heatmap", glia_on_sweep_picture, "One of its sweeps as SVG; ?sweep= picks it", 0, GLIA_SCOPE_READ},
    {"POST", "/api/v1/harvests", glia_on_harvest_start, "Start a harvest: the activations of a data set, in files", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"GET", "/api/v1/harvests", glia_on_harvests, "Harvests, the newest first", 0, GLIA_SCOPE_READ},
    {"GET", "/api/v1/harvests/{id}", glia_on_harvest, "One harvest with its progress", 0, GLIA_SCOPE_READ},
    {"POST", "/api/v1/harvests/{id}/cancel", glia_on_harvest_cancel, "Stop a harvest; what is sealed stays", 0,
     GLIA_SCOPE_INFER | GLIA_SCOPE_HOOKS},
    {"GET", "/api/v1/runs", glia_on_runs, "Stored runs (requests with \"store\", harvests), the newest first", 0,
     GLIA_SCOPE_READ},
    {"GET", "/api/v1/runs/{id}", glia_on_run, "One run with its tensors and files", 0, GLIA_SCOPE_HOOKS},
    {"DELETE", "/api/v1/runs/{id}", glia_on_run_delete, "Delete a run and its files", 0, GLIA_SCOPE_HOOKS},
    {"POST", "/api/v1/runs/{id}/verify", glia_on_run_verify, "Compare every byte of a run with its checksums", 0,
     GLIA_SCOPE_HOOKS},
    {"GET", "/api/v1/runs/{id}/tensors/{name}", glia_on_run_tensor,
     "Rows of a stored tensor: ?rows=, document=, positions=, heads=, channels=, format=", 0, GLIA_SCOPE_HOOKS},
    {0},
};

const glia_http_route *glia_api_routes(void) { return routes; }

void glia_reply_json(glia_http_request *rq, glia_buf *b) {
    size_t n;
    char *body = glia_buf_take(b, &n);
    if (body) {
        (void)glia_http_reply_take(rq, 200, "application/json", body, n);
        return;
    }
    glia_err err;
    (void)glia_fail(&err, GLIA_ENOMEM, "no memory for the reply");
    (void)glia_http_reply_error(rq, &err);
}

static bool add_model_line(glia_buf *b, const glia_instance *i) {
    glia_model_info info;
    if (!i->model) return false;
    glia_model_get_info(i->model, &info);
    glia_buf_addf(b, "  model  %s (%s, %d layers, context %d)\n", info.id, info.arch, (int)info.n_layer, (int)info.n_ctx);
    return true;
}

void glia_on_greeting(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_instances *l;
    size_t n = 0;
    glia_buf b = {0};
    glia_buf_addf(&b, "Glia %s: local language models over HTTP, with real activations per request.\n\n",
                  glia_version());
    if (!glia_registry_list(app->models, &l, NULL)) {
        for (size_t i = 0; i < l->n; i++) n += add_model_line(&b, &l->items[i]);
        glia_instances_free(app->models, l);
    }
    if (!n) glia_buf_adds(&b, atomic_load(&app->started) ? "  no model is loaded\n" : "  the model is still loading\n");
    glia_buf_adds(&b, "\n");
    for (const glia_http_route *r = routes; r->method; r++)
        glia_buf_addf(&b, "  %-5s %-46s %s\n", r->method, r->pattern, r->summary);
    glia_buf_adds(
        &b, "\nTry:\n  curl -s $THIS/v1/chat/completions/with_activations -H 'Content-Type: application/json' \\\n"
            "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 8,\n"
            "         \"activation_hooks\": [{\"layer\": 5, \"component\": \"resid_post\"}]}'\n");
    size_t size;
    char *body = glia_buf_take(&b, &size);
    if (body) (void)glia_http_reply_take(rq, 200, "text/plain; charset=utf-8", body, size);
    else (void)glia_http_reply(rq, 200, "text/plain; charset=utf-8", "Glia\n", 5);
}

/* What activations of all models take. */
static void add_capture_memory(glia_buf *b, const glia_capture_memory *m) {
    glia_capture_usage u;
    glia_capture_memory_read(m, &u);
    glia_buf_addf(b, ",\"capture_memory\":{\"limit_bytes\":%llu,\"leased_bytes\":%llu,\"held_bytes\":%llu,",
                  (unsigned long long)u.limit, (unsigned long long)u.leased, (unsigned long long)u.held);
    glia_buf_addf(b, "\"peak_bytes\":%llu,\"waiting\":%d}", (unsigned long long)u.peak, (int)u.n_waiting);
}

void glia_on_health(void *ud, glia_http_request *rq) {
    glia_app *app = ud;
    glia_instances *l;
    glia_err err;
    if (glia_registry_list(app->models, &l, &err)) {
        (void)glia_http_reply_error(rq, &err);
        return;
    }
    size_t n = 0;
    glia_buf b = {0}, ids = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i].state != GLIA_LOAD_READY) continue;
        if (n++) glia_buf_adds(&ids, ",");
        glia_json_add_cstr(&ids, l->items[i].id);
    }
    glia_buf_addf(&b, "{\"status\":\"%s\",\"service\":\"glia\",\"version\":\"%s\",\"llama_cpp\":",
                  n || atomic_load(&app->started) ? "healthy" : "loading", glia_version());
    glia_json_add_cstr(&b, glia_llama_version());
    glia_buf_addf(&b, ",\"models\":[%s]", ids.p ? ids.p : "");
    if (ids.failed) b.failed = true;
    add_capture_memory(&b, app->capture_memory);
    glia_buf_adds(&b, "}\n");
    glia_buf_clear(&ids);
    glia_instances_free(app->models, l);
    glia_reply_json(rq, &b);
}

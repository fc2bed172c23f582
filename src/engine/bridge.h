/* engine/bridge.h — the C face of chat_bridge.cpp, the program's only C++ file.
 *
 * Everything of llama.cpp that speaks C++ goes through here: chat templates (its `common` library) and reading a graph
 * without running it (llama-ext.h).  Every exception ends here as a glia_err. */
#ifndef GLIA_ENGINE_BRIDGE_H
#define GLIA_ENGINE_BRIDGE_H
#include "glia.h"

#ifdef __cplusplus
extern "C" {
#endif

struct llama_model;
struct llama_context;
struct llama_batch;
struct llama_model_params;
struct llama_context_params;
struct ggml_cgraph;
struct ggml_tensor;
typedef struct glia_templates glia_templates;

/* The model's chat templates; *has_own is false when it brings none (ChatML then stands in). */
glia_status glia_bridge_templates_new(glia_templates **out, const struct llama_model *model, bool *has_own,
                                      glia_err *err);
void glia_bridge_templates_free(glia_templates *t);

/* See glia_model_chat and glia_chat_parse; any thread, t is only read. */
glia_status glia_bridge_chat(const glia_templates *t, const char *json, size_t n_json, glia_chat **out, glia_err *err);
bool glia_bridge_knows_tools(const glia_templates *t);

/* Load a model file or make a context.  llama.cpp asserts on some damaged files: on this thread, during these calls, a
 * failed assertion is an error and not the end of the process.  NULL: *why (static, this thread's) says the reason
 * when an assertion or exception gave one, else "". */
struct llama_model *glia_bridge_load(const char *path, const struct llama_model_params *p, const char **why);
struct llama_context *glia_bridge_context(struct llama_model *m, const struct llama_context_params *p,
                                          const char **why);

/* Bytes that a context and its model took, on all devices. */
void glia_bridge_memory(const struct llama_context *ctx, uint64_t *weights, uint64_t *cache, uint64_t *compute);

/* llama_decode; -4 with *why (as above) when llama.cpp threw or asserted on this thread: the context must not be used again. */
int32_t glia_bridge_decode(struct llama_context *ctx, const struct llama_batch *batch, const char **why);

/* Build, but do not run, the graph of a pass over n_tokens tokens of n_seqs sequences, n_outputs of them outputs.
 * llama.cpp builds it over every stream of the cache: n_seqs must be their number and divide n_tokens.  Valid until the
 * next call on this context.  NULL: llama.cpp could not.  Engine thread. */
struct ggml_cgraph *glia_bridge_graph(struct llama_context *ctx, uint32_t n_tokens, uint32_t n_seqs,
                                      uint32_t n_outputs);

/* The scheduler that runs the context's graphs; borrowed, and only for the backends it has: llama.cpp may make another. */
struct ggml_backend_sched *glia_bridge_sched(const struct llama_context *ctx);

/* From the next pass on: the scheduler's callback of this context; NULL: none.  Engine thread. */
void glia_bridge_watch(struct llama_context *ctx, bool (*on_node)(struct ggml_tensor *node, bool ask, void *ud), void *ud);

#ifdef __cplusplus
}
#endif
#endif

/* glia.h — the public interface of libglia: load a GGUF model, run requests, read tokens and activations.
 *
 * Shape of the interface: *request in, events out*.  A request is described by plain values, copied on submit; its
 * results arrive as a queue of events that the caller drains.  No pointer into the running engine ever leaves it.
 *
 * Threads: every function may be called from any thread unless it says otherwise.  One glia_request must be drained
 * by one thread at a time.  Each model runs on one engine thread of its own, the only thread that drives llama.cpp.
 *
 * Errors: functions that can fail return glia_status and fill *err (which may be NULL).  On failure *out is NULL.
 *
 * SPDX-License-Identifier: MIT */
#ifndef GLIA_H
#define GLIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GLIA_VERSION "0.1.0"

/* ------------------------------------------------------------------ status and errors */

/* name, HTTP status, wire type ("error.type"), wire code ("error.code"): one row adds an error everywhere. */
#define GLIA_STATUS_MAP(X)                                                                                             \
    X(OK, 200, "ok", "ok")                                                                                             \
    X(EINVAL, 400, "invalid_request_error", "invalid_value")                                                           \
    X(ECONTEXT, 400, "invalid_request_error", "context_length_exceeded")                                               \
    X(EPREVIOUS, 400, "invalid_request_error", "previous_response_not_found")                                          \
    X(EAUTH, 401, "authentication_error", "invalid_api_key")                                                           \
    X(EFORBIDDEN, 403, "permission_error", "forbidden")                                                                \
    X(ENOTFOUND, 404, "not_found_error", "not_found")                                                                  \
    X(EMODEL, 404, "not_found_error", "model_not_found")                                                               \
    X(EMETHOD, 405, "invalid_request_error", "method_not_allowed")                                                     \
    X(ETIMEOUT, 408, "timeout_error", "timeout")                                                                       \
    X(ETOOLARGE, 413, "invalid_request_error", "too_large")                                                            \
    X(EHOOK, 422, "hook_error", "hook_unavailable")                                                                    \
    X(EBUSY, 429, "rate_limit_error", "busy")                                                                          \
    X(EHEADERS, 431, "invalid_request_error", "headers_too_large")                                                     \
    X(ECANCELLED, 499, "cancelled_error", "cancelled")                                                                 \
    X(EINTERNAL, 500, "server_error", "internal_error")                                                                \
    X(EIO, 500, "server_error", "storage_error")                                                                       \
    X(EUNPROVEN, 500, "server_error", "rows_unproven")                                                                 \
    X(EUNAVAILABLE, 503, "server_error", "unavailable")                                                                \
    X(ENOMEM, 507, "server_error", "out_of_memory")

typedef enum glia_status {
#define X(name, http, type, code) GLIA_##name,
    GLIA_STATUS_MAP(X)
#undef X
} glia_status;

typedef struct glia_err {
    glia_status status;
    char param[96];    /* the request field that is wrong, "" when none */
    char message[480]; /* one line, says what is wrong and the way out */
} glia_err;

int glia_status_http(glia_status st);          /* HTTP status code */
const char *glia_status_type(glia_status st);  /* error.type on the wire */
const char *glia_status_code(glia_status st);  /* error.code on the wire */
const char *glia_version(void);
const char *glia_llama_version(void);          /* version of the llama.cpp inside */

/* ------------------------------------------------------------------ points of the residual block */

/* name, meaning.  The order is the order in which a block computes them.  spec: docs/HOOKS.md. */
#define GLIA_POINT_MAP(X)                                                                                              \
    X(EMBEDDINGS, "embeddings", "token embedding rows, before scaling and positions")                                  \
    X(RESID_PRE, "resid_pre", "residual stream entering the block")                                                    \
    X(ATTN_IN, "attn_in", "attention input, after its norm")                                                           \
    X(Q_NORM_IN, "q_norm_in", "queries before the q norm, where there is one")                                         \
    X(K_NORM_IN, "k_norm_in", "keys before the k norm, where there is one")                                            \
    X(Q, "q", "queries of all heads before RoPE, after the q norm where there is one")                                 \
    X(K, "k", "keys of all KV heads before RoPE, after the k norm where there is one")                                 \
    X(Q_ROT, "q_rot", "queries after RoPE")                                                                            \
    X(K_ROT, "k_rot", "keys after RoPE")                                                                               \
    X(VALUE, "value", "values of all KV heads")                                                                        \
    X(ATTN_SCORES, "attn_scores", "attention logits the softmax is taken of, per head over positions")                 \
    X(ATTN_PROBS, "attn_probs", "attention probabilities, per head over positions")                                    \
    X(Z, "z", "attention-weighted values of all heads, before the output projection")                                  \
    X(ATTN_GATE, "attn_gate", "gate that z is multiplied by; gated attention only")                                    \
    X(Z_GATED, "z_gated", "z times its gate, input of the output projection; gated attention only")                    \
    X(ATTN_HEAD_OUT, "attn_head_out", "z of each head through its part of the output projection")                      \
    X(CONV_OUT, "conv_out", "output of a block's short convolution, after its activation")                             \
    X(SSM_OUT, "ssm_out", "output of a state-space scan or linear attention, before the output projection")            \
    X(ATTN_OUT, "attn_out", "output of the attention's output projection")                                             \
    X(ATTN_OUT_POST, "attn_out_post", "what the attention adds to the residual stream")                                \
    X(RESID_MID, "resid_mid", "residual stream between attention and MLP")                                             \
    X(MLP_IN, "mlp_in", "MLP input, after its norm")                                                                   \
    X(ROUTER_LOGITS, "router_logits", "router logits over the experts")                                                \
    X(EXPERT_INDICES, "expert_indices", "experts chosen for the token")                                                \
    X(EXPERT_WEIGHTS, "expert_weights", "weights of the chosen experts")                                               \
    X(EXPERT_PRE, "expert_pre", "hidden values of each chosen expert before the activation function")                  \
    X(EXPERT_LINEAR, "expert_linear", "the other branch of each chosen expert")                                        \
    X(EXPERT_ACT, "expert_act", "hidden activations of each chosen expert, input of its down projection")              \
    X(EXPERT_OUT, "expert_out", "output of each chosen expert, before its weight")                                     \
    X(MOE_OUT, "moe_out", "weighted sum of the chosen experts, without the shared expert")                             \
    X(SHARED_EXPERT_OUT, "shared_expert_out", "what the shared expert adds to the routed sum")                         \
    X(MLP_PRE, "mlp_pre", "MLP hidden values before the activation function (the gate where there is one)")            \
    X(MLP_LINEAR, "mlp_linear", "the MLP's other branch, which the activated gate is multiplied by")                   \
    X(MLP_ACT, "mlp_act", "MLP hidden activations, input of the down projection")                                      \
    X(MLP_OUT, "mlp_out", "output of the MLP's down projection")                                                       \
    X(MLP_OUT_POST, "mlp_out_post", "what the MLP adds to the residual stream")                                        \
    X(RESID_POST, "resid_post", "residual stream leaving the block")                                                   \
    X(LENS_IN, "lens_in", "resid_post through the final norm: input of the logit lens")                                \
    X(FINAL_NORM, "final_norm", "residual stream after the last norm")                                                 \
    X(LM_HEAD, "lm_head", "logits over the vocabulary, after a softcap or scale where there is one")

typedef enum glia_point {
#define X(id, name, meaning) GLIA_POINT_##id,
    GLIA_POINT_MAP(X)
#undef X
    GLIA_N_POINTS
} glia_point;

const char *glia_point_name(glia_point p);            /* canonical name */
const char *glia_point_meaning(glia_point p);
bool glia_point_has_layer(glia_point p);              /* false: embeddings, final_norm, lm_head */
bool glia_point_from_name(const char *name, glia_point *out);

typedef enum glia_grade {
    GLIA_GRADE_ABSENT = 0, /* this model has no such tensor; reason says why */
    GLIA_GRADE_AMBIGUOUS,  /* several candidates: refused */
    GLIA_GRADE_STRUCTURAL, /* found by graph structure and weight names */
    GLIA_GRADE_PROVEN      /* structural, and its numeric identity held on this machine */
} glia_grade;
const char *glia_grade_name(glia_grade g);

typedef struct glia_point_info {
    glia_grade grade;
    int32_t width;      /* floats per row; 0 when absent or by_position */
    int32_t n_heads;    /* > 0 for points with heads: width = n_heads * head_dim; k, k_rot, value: KV heads */
    int32_t head_dim;   /* floats per head; 0 when by_position */
    int32_t group;      /* > 0 for points with query heads: head h reads KV head h / group */
    bool by_position;   /* attn_scores, attn_probs: a row is n_heads * n_cols, one column per position (glia_frame) */
    char reason[96];    /* why absent or ambiguous, "" otherwise */
} glia_point_info;

/* ------------------------------------------------------------------ models */

typedef struct glia_model glia_model;

typedef enum glia_flash { GLIA_FLASH_AUTO = 0, GLIA_FLASH_ON, GLIA_FLASH_OFF } glia_flash;
/* Numbers of the KV cache.  name, bytes of one: the quantized ones hold 32 in a block and need flash attention. */
#define GLIA_KV_MAP(X)                                                                                                 \
    X(F16, "f16", 2.0)                                                                                                 \
    X(F32, "f32", 4.0)                                                                                                 \
    X(Q8_0, "q8_0", 34.0 / 32)                                                                                         \
    X(BF16, "bf16", 2.0)                                                                                               \
    X(Q5_1, "q5_1", 24.0 / 32)                                                                                         \
    X(Q5_0, "q5_0", 22.0 / 32)                                                                                         \
    X(Q4_1, "q4_1", 20.0 / 32)                                                                                         \
    X(Q4_0, "q4_0", 18.0 / 32)                                                                                         \
    X(IQ4_NL, "iq4_nl", 18.0 / 32)

typedef enum glia_kv_type {
#define X(id, name, bytes) GLIA_KV_##id,
    GLIA_KV_MAP(X)
#undef X
    GLIA_N_KV_TYPES
} glia_kv_type;
const char *glia_kv_name(glia_kv_type t);
double glia_kv_bytes(glia_kv_type t); /* of one number */
bool glia_kv_is_quantized(glia_kv_type t);

/* Speculative decoding: several tokens are guessed and checked in one pass; the answer is that of the plain loop (every
 * token is still drawn from the model's own logits).  Requests with hooks or edits never do it: no row of a guess that
 * turned out wrong can be delivered.  Passes with a request that cannot are plain ones. */
typedef enum glia_speculate {
    GLIA_SPECULATE_DEFAULT = 0, /* what the model was opened with */
    GLIA_SPECULATE_OFF,
    GLIA_SPECULATE_NGRAM, /* from what the text has said before */
    GLIA_SPECULATE_DRAFT  /* from a small model */
} glia_speculate;

/* How rows leave a device (GPU).  AUTO: copied on the device first, then to the host while it computes on, without
 * waiting where the scheduler stops (CUDA and its kin; others as OFF).  STOPS: the same, but wait.  OFF: copied to the host
 * at each stop.  ALWAYS: as AUTO for whatever device can, and from host memory, too (for tests). */
typedef enum glia_staging_mode {
    GLIA_STAGING_AUTO = 0, GLIA_STAGING_OFF, GLIA_STAGING_STOPS, GLIA_STAGING_ALWAYS
} glia_staging_mode;

/* LoRA adapters are loaded with a model and used by the requests that name them; without, the model is as it is.
 * Requests with adapters have no hooks and no edits: their graph is not the one that was proven. */
enum { GLIA_MAX_ADAPTERS = 8 };
typedef struct glia_adapter_file {
    const char *name, *path; /* name: on the wire; NULL: from the file's */
} glia_adapter_file;
typedef struct glia_adapter_use {
    int32_t adapter; /* index into the model's */
    float scale;
} glia_adapter_use;

typedef struct glia_model_params {
    const char *path;      /* GGUF file (first part when split) */
    const char *id;        /* name on the wire; NULL: derived from the file name */
    int32_t n_ctx;         /* tokens per request; 0: min(trained context, 4096) */
    int32_t n_parallel;    /* slots = requests computed together; 0: 4 */
    int32_t n_batch;       /* most tokens in one forward pass; 0: 512 */
    int32_t n_threads;     /* 0: one per core */
    int32_t n_gpu_layers;  /* -1: all that fit the build, 0: none */
    glia_flash flash;
    glia_kv_type kv_type;
    size_t memory_limit;   /* bytes for weights + KV cache; 0: what the system has available now */
    size_t queue_limit;    /* waiting requests before GLIA_EBUSY; 0: 256 */
    size_t event_bytes;    /* bytes of undelivered events that pause a slot; 0: 8 MiB */
    size_t capture_bytes;  /* activation bytes that all requests may hold together; 0: 2 GiB */
    struct glia_capture_memory *capture_memory; /* share this one with other models instead; NULL: one of its own */
    const glia_adapter_file *adapters; /* [n_adapters ≤ GLIA_MAX_ADAPTERS] */
    size_t n_adapters;
    const char *draft_path; /* GGUF of a small model with the same vocabulary, for GLIA_SPECULATE_DRAFT; NULL: none */
    float draft_p_min;      /* what the draft model gives a guess less than this is not tried; 0: 0.5 */
    glia_speculate speculate; /* for requests that say GLIA_SPECULATE_DEFAULT; DEFAULT: draft when there is one, else off */
    int64_t prompt_cache_bytes; /* host memory for prompts that left their slot; 0: 1 GiB, -1: none */
    int32_t stall_ms;      /* a request whose events nobody takes for so long loses its slot when others wait; 0: 10 s */
    int32_t capture_wait_ms; /* longest wait of a request for memory that others hold; 0: 30 s */
    glia_staging_mode staging;
    size_t staging_bytes;  /* device memory per device for rows on their way; 0: 256 MiB, less where little is free */
    bool no_hooks;         /* serve text only: no callback runs between the graph's nodes; hooks and edits are refused */
    bool atlas_cache;      /* keep the verdict of the dry run at load in the user's cache folder (engine/atlas_cache.h) */
    bool (*on_progress)(float fraction, void *ud); /* load progress 0..1; false cancels.  May be NULL */
    void *progress_ud;
} glia_model_params;

void glia_model_params_init(glia_model_params *p); /* all defaults */
bool glia_has_gpu(void); /* whether layers can be put on a GPU on this machine */
uint64_t glia_gpu_memory(void); /* bytes that are free on all GPUs together; 0: there is none, or it cannot be told */

/* Memory for activations that models share: frames being filled and events that are not freed yet.  A request leases the
 * most it can hold at once before it runs; while others hold too much it waits in the queue. */
typedef struct glia_capture_memory glia_capture_memory;
typedef struct glia_capture_usage {
    uint64_t limit;
    uint64_t leased;   /* by requests that run or whose events are not freed yet */
    uint64_t held;     /* allocated now, and at most so far */
    uint64_t peak;
    int32_t n_waiting; /* requests that wait for memory */
} glia_capture_usage;

glia_capture_memory *glia_capture_memory_new(size_t limit); /* NULL: out of memory */
void glia_capture_memory_unref(glia_capture_memory *m);     /* models, requests and events keep their own reference */
void glia_capture_memory_read(const glia_capture_memory *m, glia_capture_usage *out);

/* Load a model and start its engine thread.  Blocks until it is ready or has failed.
 * EINVAL: unreadable, truncated or corrupt file, unknown architecture.  ENOMEM: would not fit memory_limit. */
glia_status glia_model_open(glia_model **out, const glia_model_params *p, glia_err *err);

/* Cancel all requests, stop the thread, free the weights.  NULL is fine.  Every glia_request of the model stays
 * valid (its queue ends with an ECANCELLED error event) and must still be freed, before or after. */
void glia_model_close(glia_model *m);

/* How the rows of a text's tokens, behind the last norm, become one vector. */
typedef enum glia_pooling { GLIA_POOL_MEAN, GLIA_POOL_CLS, GLIA_POOL_LAST } glia_pooling; /* mean, first row, last row */

typedef struct glia_model_info {
    const char *id, *path, *arch, *description; /* live as long as the model */
    int32_t n_layer, n_embd, n_head, n_head_kv, n_vocab;
    int32_t n_ctx, n_ctx_train, n_parallel, n_batch;
    uint64_t n_params, n_bytes;
    uint64_t weights_bytes, cache_bytes, compute_bytes; /* what llama.cpp took, on all devices (mapped files included) */
    int64_t created; /* seconds since 1970, when it was loaded */
    bool flash_attention, has_chat_template;
    const glia_adapter_file *adapters; /* [n_adapters] as they were loaded */
    size_t n_adapters;
    const char *draft; /* file of the draft model, NULL: none */
    bool speculates;   /* its state can be taken back, so that guesses can be checked */
    bool encoder; /* it makes vectors of texts only (BERT and its kin): no request can be submitted, see glia_embed_submit */
    int32_t n_vector;     /* floats of a text's vector */
    glia_pooling pooling; /* of its vectors, as its file says; MEAN when it says nothing */
    const char *embeddings_refused; /* why no vectors can be had, NULL when they can */
    double map_ms, prove_ms; /* what finding the points cost at load; prove_ms is near 0 when the verdict was cached */
    const char *hooks_refused; /* why no hook can be served at all, NULL when they can */
} glia_model_info;

void glia_model_get_info(const glia_model *m, glia_model_info *out);

void glia_model_capture_usage(const glia_model *m, glia_capture_usage *out);

/* Bytes of the model's capture memory set aside for rows that the caller keeps (copied from frames).
 * ETOOLARGE: more than there ever are.  EBUSY: others hold too much now; try again. */
typedef struct glia_lease glia_lease;
glia_status glia_model_lease(glia_lease **out, const glia_model *m, uint64_t n_bytes, glia_err *err);
void glia_lease_free(glia_lease *l); /* NULL is fine */

/* What the model's engine has done since it was loaded, and does now.  Each number is whole, but they are not read at
 * one moment. */
typedef struct glia_activity {
    uint64_t requests;          /* that got a slot */
    uint64_t finished;          /* of these, answered to the end (not cancelled, not failed) */
    uint64_t passes;            /* calls of llama_decode that ran */
    uint64_t short_passes;      /* of these, ended behind the last node that any hook needed */
    uint64_t prompt_tokens;     /* computed; what a cached prefix saved is not among them */
    uint64_t cached_tokens;     /* of prompts, found in the KV cache */
    uint64_t generated_tokens;  /* drawn */
    uint64_t restored_tokens;   /* of the cached ones, those that were copied from another slot or from host memory */
    uint64_t prompt_cache_bytes; /* host memory that holds prompts which left their slot */
    int32_t n_busy, n_waiting;  /* slots with a request; requests in the queue */
} glia_activity;
void glia_model_activity(const glia_model *m, glia_activity *out);

/* What is known of one point at one layer (layer is ignored for points without one).  False: layer out of range. */
bool glia_model_point(const glia_model *m, glia_point p, int32_t layer, glia_point_info *out);

/* A matrix of the model's file by its name there ("blk.5.attn_output.weight"): n_rows outputs, each of n_cols inputs; a vector
 * is one row.  False: there is none of this name, it has more dimensions, or its type cannot be read. */
bool glia_model_weight(const glia_model *m, const char *name, int64_t *n_rows, int64_t *n_cols);
/* Its rows from ≤ i < to, dequantized: out [to - from, n_cols].  False: no such matrix or rows. */
bool glia_model_weight_rows(const glia_model *m, const char *name, int64_t from, int64_t to, float *out);
/* The norm between the last block and the output matrix, as the model's graph has it. */
typedef struct glia_final_norm {
    bool centred;   /* LayerNorm; else RMSNorm */
    float eps;
    const char *weight, *bias; /* names in the file, NULL: none; live as long as the model */
} glia_final_norm;
bool glia_model_final_norm(const glia_model *m, glia_final_norm *out); /* false: the graph has none that was found */
/* A value of the file's metadata as text ("llama.attention.layer_norm_rms_epsilon"); false: no such key, or longer. */
bool glia_model_meta(const glia_model *m, const char *key, char *out, size_t cap);

/* Text → token ids.  *out is malloc'ed, freed by the caller with glia_free. */
glia_status glia_model_tokenize(const glia_model *m, const char *text, size_t n_text, bool add_special,
                                bool parse_special, int32_t **out, size_t *n_out, glia_err *err);
/* Token ids → text; bytes may be cut UTF-8 when ids are.  *out is NUL-terminated, freed with glia_free. */
glia_status glia_model_detokenize(const glia_model *m, const int32_t *ids, size_t n_ids, bool special, char **out,
                                  size_t *n_out, glia_err *err);

/* What an answer must look like: the text of a grammar in GBNF, from its first token on, or from a trigger on.
 * The answer is always a beginning of what the grammar matches, and all of it unless max_tokens or a stop string cut it. */
typedef struct glia_constraint {
    const char *grammar;         /* [n_grammar]; NULL: any text */
    size_t n_grammar;
    const char *prefix;          /* what the grammar has read before the answer begins; NULL: nothing */
    const char *const *triggers; /* [n_triggers] free text until one of these, which the grammar then reads; none: at once */
    size_t n_triggers;
    bool begins;                 /* no free text before it: the answer begins with one of the triggers */
    const char *const *kept;     /* [n_kept] special tokens that are part of the text when they are drawn */
    size_t n_kept;
} glia_constraint;

/* A chat, rendered through the model's own template, and how its answer is to be read. */
typedef struct glia_chat {
    const char *prompt;          /* [n_prompt] text, to be tokenised with parse_special = true and add_special */
    size_t n_prompt;
    bool add_special;            /* tokenising must add BOS (the template did not) */
    bool thinks;                 /* the template knows reasoning */
    bool parses;                 /* answers must go through glia_chat_parse: they may hold reasoning or tool calls */
    bool constrained;            /* constraint says what the answer must look like (tool calls) */
    glia_constraint constraint;
    const char *const *stop;     /* [n_stop] strings that end the answer, beside the request's own */
    size_t n_stop;
} glia_chat;

/* Render.
 *   json      {"messages": [OpenAI messages, already validated], "tools": [OpenAI tools], "tool_choice": "auto" |
 *             "required" | "none", "parallel_tool_calls": bool, "thinking": bool, "kwargs": {…}}; all but messages may be
 *             left out.  kwargs are variables of the template.
 * EINVAL: the template refuses these messages (its own words are in err). */
glia_status glia_model_chat(const glia_model *m, const char *json, size_t n_json, glia_chat **out, glia_err *err);
void glia_chat_free(glia_chat *c);
/* Read an answer, or (partial) what there is of it: *out is an OpenAI message, {"content", "reasoning_content",
 * "tool_calls": [{"id", "function": {"name", "arguments"}}]}, freed with glia_free.  EINVAL: it is not of the model's
 * format.  Any thread. */
glia_status glia_chat_parse(const glia_chat *c, const char *text, size_t n, bool partial, char **out, size_t *n_out,
                            glia_err *err);
/* The prompt alone, of a JSON array of messages; *out is freed with glia_free. */
glia_status glia_model_chat_prompt(const glia_model *m, const char *messages_json, size_t n_json, char **out,
                                   size_t *n_out, bool *add_special, glia_err *err);
/* Whether the model's template knows tools. */
bool glia_model_knows_tools(const glia_model *m);

/* The prompt of a model trained to fill in the middle: prefix and suffix between its special tokens.
 * EINVAL: this model has no such tokens.  *out is freed with glia_free. */
glia_status glia_model_infill_prompt(const glia_model *m, const int32_t *prefix, size_t n_prefix, const int32_t *suffix,
                                     size_t n_suffix, int32_t **out, size_t *n_out, glia_err *err);

void glia_free(void *p);

/* ------------------------------------------------------------------ vectors of texts */

/* One text on its way to a vector.  Causal models: a request with a hook on final_norm, pooled where the rows are captured,
 * so that the vector is as proven as any row.  Encoders: llama.cpp's own output rows of one pass over the text, pooled here. */
typedef struct glia_embed glia_embed;

/* Queue a text.  on_end(ud) is called when it has ended, from another thread or before this returns; perhaps more than once.
 * EINVAL: no token; embeddings_refused.  ECONTEXT: more tokens than the context.  EHOOK, EBUSY: as for requests. */
glia_status glia_embed_submit(glia_embed **out, glia_model *m, const int32_t *tokens, size_t n_tokens,
                              glia_pooling pooling, void (*on_end)(void *ud), void *ud, glia_err *err);
/* False: not yet.  True: *v is its vector, n_vector floats as pooled (not normalised), valid until free; or *err says why
 * there is none.  By one thread at a time. */
bool glia_embed_take(glia_embed *e, const float **v, glia_err *err);
void glia_embed_free(glia_embed *e); /* cancels when still under way.  NULL is fine.  Before the model is closed */

/* ------------------------------------------------------------------ requests */

typedef struct glia_request glia_request;

typedef struct glia_logit_bias {
    int32_t token;
    float bias; /* added to the logit; -INFINITY forbids the token */
} glia_logit_bias;

/* llama.cpp's usual samplers, applied in this order: logit bias, penalties, DRY, top-n-sigma, top-k, typical, top-p,
 * min-p, XTC, temperature, draw.  Neutral values switch a stage off. */
typedef struct glia_sampling {
    uint32_t seed;          /* GLIA_SEED_RANDOM: a fresh one per request */
    float temperature;      /* 0: greedy */
    int32_t top_k;          /* 0: off */
    float top_p;            /* 1: off */
    float min_p;            /* 0: off */
    float typical_p;        /* 1: off */
    float top_n_sigma;      /* < 0: off */
    float xtc_probability;  /* 0: off */
    float xtc_threshold;
    int32_t penalty_last_n; /* 0: off, -1: whole context */
    float penalty_repeat;   /* 1: off */
    float penalty_frequency, penalty_presence; /* 0: off */
    float dry_multiplier;   /* 0: off */
    float dry_base;
    int32_t dry_allowed_length, dry_penalty_last_n;
    int32_t mirostat;       /* 0: off, 1, 2: replaces the truncating samplers */
    float mirostat_tau, mirostat_eta;
    int32_t n_logprobs;     /* -1: none; 0: of the drawn token only; n: and the n likeliest (≤ 100) */
    const glia_logit_bias *bias;
    size_t n_bias;
    bool ignore_eos;        /* go on after end-of-generation tokens */
} glia_sampling;
#define GLIA_SEED_RANDOM UINT32_MAX
#define GLIA_MAX_LOGPROBS 100

enum { GLIA_PHASE_PROMPT = 1, GLIA_PHASE_GENERATED = 2, GLIA_PHASE_ALL = 3 };

/* What becomes of the rows before they are copied on.  name on the wire, meaning.  Formulas: docs/HOOKS.md. */
#define GLIA_REDUCE_MAP(X)                                                                                             \
    X(NONE, "none", "every row as it is")                                                                              \
    X(MEAN, "mean", "over rows: mean of each channel")                                                                 \
    X(VAR, "var", "over rows: variance of each channel, divided by the number of rows")                                \
    X(MAX, "max", "over rows: largest value of each channel")                                                          \
    X(NORM, "norm", "over rows: Euclidean norm of each channel")                                                       \
    X(ROW_NORM, "row_norm", "per row: Euclidean norm")                                                                 \
    X(TOPK, "topk", "per row: the k largest values and their channels")                                                \
    X(PROJECT, "project", "per row: inner products with given directions")

typedef enum glia_reduce_op {
#define X(id, name, meaning) GLIA_REDUCE_##id,
    GLIA_REDUCE_MAP(X)
#undef X
    GLIA_N_REDUCE_OPS
} glia_reduce_op;
const char *glia_reduce_name(glia_reduce_op op);
bool glia_reduce_from_name(const char *name, glia_reduce_op *out);
bool glia_reduce_is_over_rows(glia_reduce_op op); /* MEAN to NORM */

/* MEAN to NORM give one row over all rows of a phase: the prompt's with the prompt, the generated ones' at the end of
 * the request; with across_phases one row over both, at the end.  A request that fails or is cancelled gives none. */
typedef struct glia_reduce {
    glia_reduce_op op;
    bool across_phases;       /* MEAN to NORM */
    int32_t k;                /* TOPK: 1 .. channels of a row */
    bool by_magnitude;        /* TOPK: largest |x| instead of largest x; the values keep their sign */
    const float *directions;  /* PROJECT: [n_directions, n_channels] row-major, finite, used as given: not normalised */
    size_t n_directions, n_channels; /* PROJECT: n_channels is the width of a row after heads and channels */
} glia_reduce;

/* from ≤ i < to; negative ones count from the end.  GLIA_RANGE_END: to the end. */
typedef struct glia_range { int64_t from, to; } glia_range;
#define GLIA_RANGE_END INT64_MAX

/* One thing to capture: one point at one layer, some rows, and of these some part. */
typedef struct glia_hook {
    glia_point point;
    int32_t layer;             /* 0..n_layer-1; ignored for points without a layer */
    uint32_t phases;           /* GLIA_PHASE_* bits: rows of the prompt, of generated tokens, or both */
    const int64_t *positions;  /* NULL: every row.  Else absolute positions; negative ones count from the end of the
                                  prompt (-1: its last token) */
    size_t n_positions;
    const glia_range *range;   /* instead of positions: absolute ones, negative from the end of the prompt */
    const int32_t *heads;      /* NULL: every head.  Else head indices, for points with heads */
    size_t n_heads;
    const int32_t *channels;   /* NULL: every channel.  Else columns of the row that heads leaves */
    size_t n_channels;
    const glia_range *channel_range; /* instead of channels */
    glia_reduce reduce;
} glia_hook;

/* What an edit makes of a row's part x (after heads and channels).  name on the wire, meaning; d̂: the given direction,
 * made of unit length. */
#define GLIA_EDIT_MAP(X)                                                                                               \
    X(ADD, "add", "x + strength · v")                                                                                  \
    X(SCALE, "scale", "strength · x")                                                                                  \
    X(SET, "set", "v")                                                                                                 \
    X(ZERO, "zero", "0")                                                                                               \
    X(PROJECT_OUT, "project_out", "x - strength · (x·d̂) d̂")                                                            \
    X(CLAMP, "clamp", "x with its coefficient x·d̂ limited to min … max")                                               \
    X(NOISE, "noise", "x + strength · normal numbers")                                                                 \
    X(RANDOM, "random", "normal numbers with the mean and deviation of x")                                             \
    X(KNOCKOUT, "knockout", "attention: these columns out of the softmax, the others share what they had")

typedef enum glia_edit_op {
#define X(id, name, meaning) GLIA_EDIT_##id,
    GLIA_EDIT_MAP(X)
#undef X
    GLIA_N_EDIT_OPS
} glia_edit_op;
const char *glia_edit_name(glia_edit_op op);
const char *glia_edit_meaning(glia_edit_op op);

/* Attention (attn_scores: before the softmax; attn_probs: behind it, not made to sum to 1 again) is changed head by head
 * and takes KNOCKOUT, ZERO, SCALE, ADD and SET; the last two give for each row [heads, columns] numbers, `to` says which
 * columns, and those that a row does not attend to are left out.  A row with nothing left to attend to attends to
 * nothing.
 *
 * One change of what the model computes for this request, in the order of the list where several meet.  What hooks see
 * is what the model goes on with.  Points graded proven only.  What an edit may have touched in the KV cache is never
 * offered to another request. */
typedef struct glia_edit {
    glia_hook where; /* point, layer, rows, heads, channels; reduce must be NONE */
    glia_edit_op op;
    float strength;          /* ADD, SCALE, PROJECT_OUT, NOISE */
    float min, max;          /* CLAMP; infinite: open */
    const float *rows;       /* ADD, SET: [n_rows, n_channels]; PROJECT_OUT, CLAMP: [1, n_channels], not zero.  n_rows 1: the
                                same for every row, else one for each row of the prompt that `where` names, in their order */
    size_t n_rows, n_channels;
    uint64_t seed;           /* NOISE, RANDOM */
    const int64_t *to;       /* attn_scores, attn_probs: [n_to] the positions attended to that are meant (columns; where.positions
                                are the rows); negative ones count from the end of the prompt.  NULL: to_range */
    size_t n_to;
    const glia_range *to_range; /* NULL: all that a row attends to */
    const float *when;       /* [n_when] a direction: edit only rows with x·d̂ > threshold (below: <).  NULL: every row */
    size_t n_when;
    float threshold;
    bool below;
} glia_edit;

/* The direction of a layer in a control vector, as llama.cpp takes them: a GGUF file with float32 tensors "direction.N", each
 * added to resid_post of layer N.  *out is freed with glia_free.  ENOTFOUND: it leaves this layer as it is. */
glia_status glia_control_vector_read(const char *path, int32_t layer, float **out, size_t *n, glia_err *err);

enum { GLIA_PRIORITY_MIN = -10, GLIA_PRIORITY_MAX = 10 };

typedef struct glia_request_params {
    const int32_t *prompt; /* token ids, at least one */
    size_t n_prompt;
    int32_t max_tokens;    /* most tokens to generate; 0: none, only run the prompt; -1: until the context is full */
    glia_sampling sampling;
    const char *const *stop; /* UTF-8 strings that end the answer; not part of the text */
    size_t n_stop;
    const glia_constraint *constraint; /* NULL: none.  Compiled and bounded by submit */
    const glia_hook *hooks;
    size_t n_hooks;
    const glia_edit *edits;
    size_t n_edits;
    bool no_cache;         /* recompute the whole prompt */
    double busy_beside;    /* processors that the caller keeps busy with what this request gives it, 0 and up: a model that
                            * takes them all computes sooner with so many fewer, where each is worth less than that */
    glia_speculate speculate;
    int32_t guess_most;    /* tokens guessed at once, at most 32; 0: 8 */
    const int32_t *predicted; /* [n_predicted] what the answer is expected to be: guesses come from it first */
    size_t n_predicted;
    const glia_adapter_use *adapters; /* [n_adapters] each at most once */
    size_t n_adapters;
    int32_t priority;      /* GLIA_PRIORITY_MIN to _MAX: whose turn it is in the queue; each step is worth 10 s of waiting */
    int32_t prompt_chunk;  /* most prompt tokens of this request in one forward pass; 0: as many as fit */
    bool prompt_logprobs;  /* send a GLIA_EVENT_PROMPT_TOKEN for every prompt token but the first (n_logprobs ≥ 0; the
                              prompt cache is left aside: every row is needed) */
    bool want_progress;    /* send GLIA_EVENT_PROGRESS during the prompt */
    bool whole_reply;      /* the caller waits for the end: on_event is called then and when the queue is half full, not
                              for every event (each call may take a core from the model for a moment) */
} glia_request_params;

void glia_request_params_init(glia_request_params *p); /* defaults: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05 */

/* Check, copy and queue a request.  Nothing of *p is kept.
 * Errors of edits[i] name "interventions[i]".
 * EINVAL: also a grammar that is wrong, too large, or matches nothing (param "grammar").
 * ECONTEXT: prompt + max_tokens do not fit.  EHOOK: a point is absent or ambiguous (err->param names the hook as
 * "activation_hooks[i]").  ETOOLARGE: would hold more activations at once than there is memory for.  EBUSY: queue full. */
glia_status glia_request_submit(glia_request **out, glia_model *m, const glia_request_params *p, glia_err *err);

/* Bytes of activations that these hooks would return (f32), reduced as they ask. */
glia_status glia_request_capture_bytes(const glia_model *m, const glia_request_params *p, uint64_t *out, glia_err *err);

/* The most of them that this request holds at once while its events are taken and freed one after the other: an upper
 * bound, leased from the model's capture memory.  The prompt's rows are one event; behind it the queue is bounded. */
glia_status glia_request_capture_peak(const glia_model *m, const glia_request_params *p, uint64_t *out, glia_err *err);

typedef enum glia_event_kind {
    GLIA_EVENT_PROGRESS,
    GLIA_EVENT_PROMPT_TOKEN, /* u.token of a prompt token: id, index in the prompt, logprob, top; no text */
    GLIA_EVENT_TOKEN,
    GLIA_EVENT_ACTIVATIONS,
    GLIA_EVENT_DONE,
    GLIA_EVENT_ERROR
} glia_event_kind;

typedef enum glia_finish { GLIA_FINISH_STOP, GLIA_FINISH_STOP_STRING, GLIA_FINISH_LENGTH } glia_finish;

typedef struct glia_logprob {
    int32_t token;
    float logprob; /* natural logarithm of softmax over the raw logits */
} glia_logprob;

/* The rows that one hook got from one forward pass (the whole prompt is one pass on the wire, however it was chunked). */
typedef struct glia_frame {
    size_t hook;       /* index into the request's hooks */
    glia_point point;
    int32_t layer;     /* -1 for points without one */
    glia_grade grade;
    uint32_t phase;    /* GLIA_PHASE_PROMPT or GLIA_PHASE_GENERATED; _ALL: one row over both */
    glia_reduce_op reduce;
    int32_t n_rows;
    int32_t width;     /* floats per row, after heads, channels and reduction */
    int32_t n_heads, head_dim; /* after head selection; 0 when a row is not laid out in heads */
    const int32_t *heads;      /* [n_heads] which heads these are; NULL when n_heads is 0 */
    int32_t group;             /* > 0 for query heads: head h reads KV head h / group */
    int32_t n_cols;            /* > 0 for attn_scores, attn_probs: a row is [n_heads, n_cols], column c is position c of
                                  the request.  Columns that the row does not attend to, the later ones always and those
                                  before a sliding window, hold -infinity (scores) or 0 (probabilities).  Every frame
                                  goes up to the position of its last row */
    int32_t n_positions;       /* rows that went in: n_rows, or more when the one row is a reduction over them */
    const int32_t *positions;  /* [n_positions] absolute positions */
    const int32_t *token_ids;  /* [n_positions] the token at that position */
    const float *data;         /* [n_rows, width] row-major */
    const int32_t *indices;    /* TOPK: [n_rows, width] channel of each value, in the row that heads leaves; else NULL */
} glia_frame;

typedef struct glia_usage {
    int32_t n_prompt;    /* tokens of the prompt */
    int32_t n_cached;    /* of these, taken from the prompt cache */
    int32_t n_generated; /* drawn tokens, the end-of-generation token included */
    int32_t n_guessed, n_right; /* speculative decoding: tokens guessed, and how many of these were drawn */
    double queue_ms, prompt_ms, generate_ms;
} glia_usage;

typedef struct glia_event {
    glia_event_kind kind;
    union {
        struct { int32_t n_done, n_total; } progress;
        struct {
            int32_t id;          /* the drawn token */
            int32_t index;       /* 0-based among the generated */
            const char *text;    /* text that became final with this token: whole UTF-8, stop strings held back;
                                    may be empty, may hold text of earlier tokens */
            size_t n_text;
            float logprob;       /* valid when n_logprobs ≥ 0 */
            const glia_logprob *top; /* [n_top] */
            size_t n_top;
            bool is_eog;
        } token;
        struct { const glia_frame *frames; size_t n_frames; } activations;
        struct {
            glia_finish finish;
            const char *stop;    /* the stop string that ended it, or NULL */
            const char *text;    /* text that was held back for stop strings and is final now */
            size_t n_text;
            glia_usage usage;
        } done;
        glia_err error;
    } u;
} glia_event;

/* Take the next event, waiting at most timeout_ms (0: do not wait, -1: for ever).  NULL: none in that time, or the
 * queue has ended (an event of kind DONE or ERROR was the last).  The caller frees it. */
glia_event *glia_request_next(glia_request *r, int timeout_ms);
void glia_event_free(glia_event *ev);
/* The event stays as it is, but its bytes leave the model's capture memory: the caller bounds them from here on. */
void glia_event_keep(glia_event *ev);

/* Call fn(ud) from the engine thread whenever an event was queued (but see whole_reply).  fn must not block nor call back into this request
 * except through other threads.  fn = NULL removes it; on return no call is under way. */
void glia_request_on_event(glia_request *r, void (*fn)(void *ud), void *ud);

void glia_request_cancel(glia_request *r); /* its queue then ends with ECANCELLED; may be called at any time */
void glia_request_free(glia_request *r);   /* cancels when still running.  NULL is fine */

#ifdef __cplusplus
}
#endif
#endif

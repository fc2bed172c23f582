/* models/header.h — what the header of a GGUF file says about the model inside, read without loading it.
 *
 * Any thread; nothing is kept open.  Reads the key/value section and the list of tensors, never the weights, and trusts
 * nothing: every length is checked against the size of the file.  Knows neither llama.cpp nor JSON.
 * Format: the GGUF specification, versions 2 and 3, little-endian. */
#ifndef GLIA_MODELS_HEADER_H
#define GLIA_MODELS_HEADER_H
#include "glia.h"

typedef struct glia_gguf {
    uint32_t version;
    char arch[64];       /* general.architecture */
    char name[128];      /* general.name, "" when absent; ill-formed or long texts are cut */
    char type[32];       /* general.type: "model", "mmproj", "adapter" or "" */
    char size_label[32]; /* general.size_label, e.g. "135M" */
    int64_t file_type;   /* general.file_type; -1: absent */
    uint64_t n_layer, n_embd, n_ff, n_head, n_ctx_train, n_vocab, n_expert, n_expert_used, sliding_window;
    uint64_t key_length, value_length; /* per head; 0: n_embd / n_head */
    uint64_t
        n_kv_heads;   /* of all layers together: the KV cache has n_kv_heads × (key + value length) numbers a token */
    uint64_t n_no_kv; /* layers without KV heads, where the file says it per layer */
    uint64_t ssm_inner, ssm_state, ssm_conv, ssm_groups, wkv_head, short_conv; /* recurrent state; 0: none */
    uint64_t split_no, split_count;                          /* parts of a model; count ≤ 1: one file */
    uint64_t n_tensors, n_params, tensor_bytes, data_offset; /* of this file */
    uint32_t main_type;                                      /* ggml type of most of its weights */
    bool pooling; /* the file says how token embeddings are pooled: an embedding model */
    bool chat_template, template_tools, template_thinking; /* what the text of the chat template mentions */
} glia_gguf;

/* EINVAL: no GGUF file, or a damaged, truncated, foreign (big-endian, version 1) one; one line says which.
 * ENOTFOUND, EIO: cannot be read. */
glia_status glia_gguf_read(glia_gguf *out, const char *path, glia_err *err);
/* The same of bytes: the first n of a file of file_bytes.  `name` is for messages. */
glia_status glia_gguf_parse(glia_gguf *out, const void *p, size_t n, uint64_t file_bytes, const char *name,
                            glia_err *err);

/* Bytes of n numbers of a ggml type (rounded up to whole blocks); 0: unknown type. */
uint64_t glia_gguf_type_bytes(uint32_t type, uint64_t n);
/* "Q4_K_M", "F16" …: from file_type, else from the type of most weights; "unknown". */
const char *glia_gguf_quant(const glia_gguf *g);
bool glia_gguf_is_embedding(const glia_gguf *g); /* an encoder for embeddings, not a language model */
bool glia_gguf_is_mmproj(const glia_gguf *g);    /* the part of a vision model that reads images */
/* general.size_label, else the number of parameters: "135M", "7B", "1.5B". */
void glia_gguf_size_text(const glia_gguf *g, uint64_t n_params, char out[32]);
#endif

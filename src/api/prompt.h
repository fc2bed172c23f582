/* api/prompt.h — what the model is to read: messages or a prompt → token ids.  Any thread. */
#ifndef GLIA_API_PROMPT_H
#define GLIA_API_PROMPT_H
#include "api/json.h"
#include "api/tools.h"

enum { GLIA_MAX_MESSAGES = 10000 };

/* Check messages and write them as the chat template wants them: plain text content, developer → system.
 * as_text: the template knows no tools; calls and results become text of our own form (tools.h). */
glia_status glia_messages_write(yyjson_val *root, bool as_text, const glia_tools *explain, glia_buf *out, glia_err *err);
glia_status glia_messages_normalise(yyjson_val *root, glia_buf *out, glia_err *err);

/* Everything about a chat's prompt: the chat (freed by the caller), its token ids and its tools.  The answer is to be
 * constrained and read by *chat, or, when the template knows no tools, by our own form (*own). */
glia_status glia_prompt_plan(const glia_model *m, yyjson_val *root, bool structured, glia_tools *tools, bool *own,
                             glia_chat **chat, int32_t **out, size_t *n, glia_err *err);

/* Token ids of a chat: messages through the model's template.  Free *out with glia_free; text (may be NULL) gets the
 * rendered prompt. */
glia_status glia_prompt_chat(const glia_model *m, yyjson_val *root, int32_t **out, size_t *n, glia_buf *text,
                             glia_err *err);

/* How many prompts a completion names: a string or a list of ids is one, a list of either is as many as it holds. */
size_t glia_prompt_count(yyjson_val *root);

/* Token ids of the i-th prompt of a completion, with its suffix where the model can fill in the middle.  text (may be
 * NULL) gets the prompt as text. */
glia_status glia_prompt_completion(const glia_model *m, yyjson_val *root, size_t i, int32_t **out, size_t *n,
                                   glia_buf *text, glia_err *err);

/* A list of token ids under key. */
glia_status glia_prompt_ids(const glia_model *m, yyjson_val *list, const char *param, int32_t **out, size_t *n,
                            glia_err *err);

/* Tokenise text, refusing early what cannot fit n_ctx tokens.  param is the field it came from. */
glia_status glia_prompt_text(const glia_model *m, const char *text, size_t n_text, const char *param, bool add_special,
                             bool parse_special, int32_t **out, size_t *n, glia_err *err);

#endif

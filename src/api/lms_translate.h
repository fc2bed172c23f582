/* api/lms_translate.h — what LM Studio's SDKs send → the body of one of OpenAI's requests.  Pure; any thread. */
#ifndef GLIA_API_LMS_TRANSLATE_H
#define GLIA_API_LMS_TRANSLATE_H
#include "api/json.h"

/* The value that the layers of a configuration stack give to key (the last layer that has it); NULL: none.  stack:
 * {"layers":[{"layerName","config":{"fields":[{"key","value"}]}}]}, or NULL. */
yyjson_val *glia_lms_setting(yyjson_val *stack, const char *key);

/* The name that a modelSpecifier gives: {"type":"query","query":{"identifier"?,"path"?}} or {"type":"instanceReference",
 * "instanceReference"}.  *name NULL: any model. */
glia_status glia_lms_model_name(yyjson_val *specifier, const char **name, glia_err *err);

/* modelSpecifier (or specifier), history and predictionConfigStack → {"model",…}: a chat, or, where the stack asks for
 * text without a chat's form (*is_text), a completion.  EINVAL names what this server does not know or does. */
glia_status glia_lms_request(yyjson_val *parameter, glia_buf *out, bool *is_text, glia_err *err);

/* {"fields":[…]}: the settings of all layers, the last one wins. */
void glia_lms_add_settings(glia_buf *b, yyjson_val *stack);

/* v as JSON text. */
void glia_json_add_value(glia_buf *b, yyjson_val *v);

#endif

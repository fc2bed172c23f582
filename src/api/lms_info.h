/* api/lms_info.h — models as LM Studio's SDKs describe them.  Any thread. */
#ifndef GLIA_API_LMS_INFO_H
#define GLIA_API_LMS_INFO_H
#include "api/app.h"
#include "base/buf.h"

/* {"type":"llm"|"embedding","modelKey","format","displayName","path","sizeBytes",…}; i: the loaded instance, NULL: the file.
 * embedding: as a model that makes vectors; chat models do that, too. */
void glia_add_lms_info(glia_buf *b, const glia_model_file *f, const glia_instance *i, bool embedding);
/* The same of a loaded model by its id; what it is without a file when it was closed meanwhile. */
void glia_add_lms_instance(glia_buf *b, glia_app *app, const glia_model_info *info, bool embedding);
/* {"fields":[{"key","value"}]}: what a model was loaded with. */
void glia_add_lms_load_config(glia_buf *b, const glia_model_info *info);

#endif

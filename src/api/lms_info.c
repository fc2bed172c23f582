/* api/lms_info.c — models as LM Studio's SDKs describe them. */
#include "api/lms_info.h"
#include "api/json.h"
#include <string.h>

static int bits_of(const glia_model_file *f) {
    return f->n_params ? (int)((double)f->weight_bytes * 8 / (double)f->n_params + 0.5) : 0;
}

void glia_add_lms_info(glia_buf *b, const glia_model_file *f, const glia_instance *i, bool embedding) {
    char size[32];
    glia_gguf_size_text(&f->head, f->n_params, size);
    glia_buf_addf(b, "{\"type\":\"%s\",\"modelKey\":", embedding ? "embedding" : "llm");
    glia_json_add_cstr(b, f->key);
    glia_buf_adds(b, ",\"format\":\"gguf\",\"displayName\":");
    glia_json_add_cstr(b, f->head.name[0] ? f->head.name : f->folder);
    glia_buf_adds(b, ",\"publisher\":");
    glia_json_add_cstr(b, f->publisher);
    glia_buf_adds(b, ",\"path\":");
    glia_json_add_cstr(b, f->path);
    glia_buf_addf(b, ",\"sizeBytes\":%llu,\"paramsString\":", (unsigned long long)f->bytes);
    glia_json_add_cstr(b, size);
    glia_buf_adds(b, ",\"architecture\":");
    glia_json_add_cstr(b, f->head.arch);
    glia_buf_addf(b, ",\"quantization\":{\"name\":\"%s\",\"bits\":%d},\"maxContextLength\":%llu", glia_gguf_quant(&f->head),
                  bits_of(f), (unsigned long long)f->head.n_ctx_train);
    if (!embedding) glia_buf_addf(b, ",\"vision\":false,\"trainedForToolUse\":%s", f->head.template_tools ? "true" : "false");
    if (i) {
        glia_model_info info = {0};
        if (i->model) glia_model_get_info(i->model, &info);
        glia_buf_adds(b, ",\"identifier\":");
        glia_json_add_cstr(b, i->id);
        glia_buf_adds(b, ",\"instanceReference\":");
        glia_json_add_cstr(b, i->id);
        glia_buf_addf(b, ",\"contextLength\":%d,\"ttlMs\":", (int)info.n_ctx);
        if (i->ttl_ms) glia_buf_addf(b, "%lld", (long long)i->ttl_ms);
        else glia_buf_adds(b, "null");
        glia_buf_addf(b, ",\"lastUsedTime\":%lld", (long long)i->used_at * 1000);
    }
    glia_buf_adds(b, "}");
}

void glia_add_lms_instance(glia_buf *b, glia_app *app, const glia_model_info *info, bool embedding) {
    glia_instances *l = NULL;
    const glia_instance *found = NULL;
    if (glia_registry_list(app->models, &l, NULL)) b->failed = true;
    for (size_t i = 0; l && i < l->n && !found; i++) {
        if (!strcmp(l->items[i].id, info->id)) found = &l->items[i];
    }
    if (found) {
        glia_add_lms_info(b, found->file, found, embedding);
    } else {
        glia_buf_addf(b, "{\"type\":\"%s\",\"modelKey\":", embedding ? "embedding" : "llm");
        glia_json_add_cstr(b, info->id);
        glia_buf_adds(b, ",\"format\":\"gguf\",\"displayName\":");
        glia_json_add_cstr(b, info->id);
        glia_buf_adds(b, ",\"path\":");
        glia_json_add_cstr(b, info->path);
        glia_buf_addf(b, ",\"sizeBytes\":%llu,\"vision\":false,\"trainedForToolUse\":false,\"maxContextLength\":%d,"
                      "\"contextLength\":%d,\"identifier\":",
                      (unsigned long long)info->n_bytes, (int)info->n_ctx_train, (int)info->n_ctx);
        glia_json_add_cstr(b, info->id);
        glia_buf_adds(b, ",\"instanceReference\":");
        glia_json_add_cstr(b, info->id);
        glia_buf_adds(b, "}");
    }
    glia_instances_free(app->models, l);
}

void glia_add_lms_load_config(glia_buf *b, const glia_model_info *info) {
    glia_buf_addf(b,
                  "{\"fields\":[{\"key\":\"llm.load.contextLength\",\"value\":%d},{\"key\":\"llm.load.llama.evalBatchSize\","
                  "\"value\":%d},{\"key\":\"llm.load.llama.flashAttention\",\"value\":%s}]}",
                  (int)info->n_ctx, (int)info->n_batch, info->flash_attention ? "true" : "false");
}

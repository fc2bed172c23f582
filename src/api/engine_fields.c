/* api/engine_fields.c — the fields that the engine reads rather than the sampler: speculation, priority, adapters.
 * Any thread; knows no engine state but what a model says of itself. */
#include "api/params.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

static glia_status method(const char *name, const char *param, glia_speculate *out, glia_err *err) {
    static const struct {
        const char *name;
        glia_speculate how;
    } rows[] = {{"off", GLIA_SPECULATE_OFF}, {"ngram", GLIA_SPECULATE_NGRAM}, {"draft", GLIA_SPECULATE_DRAFT}};
    for (size_t i = 0; name && i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(name, rows[i].name) != 0) continue;
        *out = rows[i].how;
        return GLIA_OK;
    }
    return glia_fail_at(err, GLIA_EINVAL, param, "%s must be \"off\", \"ngram\" or \"draft\"", param);
}

/* "ngram", or {"method": "ngram", "max_tokens": 8} */
static glia_status parse_speculative(glia_gen *g, yyjson_val *root, glia_err *err) {
    yyjson_val *v = glia_json_get(root, "speculative");
    if (!v) return GLIA_OK;
    if (yyjson_is_bool(v)) {
        g->speculate = yyjson_get_bool(v) ? GLIA_SPECULATE_DEFAULT : GLIA_SPECULATE_OFF;
        return GLIA_OK;
    }
    if (yyjson_is_str(v)) return method(yyjson_get_str(v), "speculative", &g->speculate, err);
    if (!yyjson_is_obj(v)) {
        return glia_fail_at(err, GLIA_EINVAL, "speculative",
                            "speculative must be \"off\", \"ngram\", \"draft\" or {method, max_tokens}, not %s",
                            glia_json_kind(v));
    }
    const char *name = NULL;
    int64_t most = 0;
    glia_status st = glia_json_str(v, "speculative", "method", &name, err);
    if (st) return st;
    if (name && (st = method(name, "speculative.method", &g->speculate, err))) return st;
    st = glia_json_int(v, "speculative", "max_tokens", 1, 32, &most, NULL, err);
    g->guess_most = (int32_t)most;
    return st;
}

/* OpenAI's predicted outputs: {"type": "content", "content": text or text parts} */
static glia_status parse_prediction(glia_gen *g, yyjson_val *root, glia_err *err) {
    yyjson_val *v = glia_json_get(root, "prediction"), *part;
    const char *type = NULL;
    if (!v) return GLIA_OK;
    if (!yyjson_is_obj(v)) {
        return glia_fail_at(err, GLIA_EINVAL, "prediction", "prediction must be {type, content}, not %s",
                            glia_json_kind(v));
    }
    glia_status st = glia_json_str(v, "prediction", "type", &type, err);
    if (st) return st;
    if (!type || strcmp(type, "content") != 0)
        return glia_fail_at(err, GLIA_EINVAL, "prediction.type", "prediction.type must be \"content\"");
    yyjson_val *content = glia_json_get(v, "content");
    if (yyjson_is_str(content)) {
        glia_buf_add(&g->prediction, yyjson_get_str(content), yyjson_get_len(content));
    } else if (yyjson_is_arr(content)) {
        yyjson_arr_iter it;
        for (yyjson_arr_iter_init(content, &it); (part = yyjson_arr_iter_next(&it));) {
            yyjson_val *text = yyjson_is_obj(part) ? yyjson_obj_get(part, "text") : NULL;
            if (!yyjson_is_str(text)) {
                return glia_fail_at(err, GLIA_EINVAL, "prediction.content",
                                    "prediction.content must hold parts {\"type\": \"text\", \"text\": …}");
            }
            glia_buf_add(&g->prediction, yyjson_get_str(text), yyjson_get_len(text));
        }
    } else {
        return glia_fail_at(err, GLIA_EINVAL, "prediction.content", "prediction.content must be text");
    }
    return g->prediction.failed ? glia_fail(err, GLIA_ENOMEM, "no memory for the prediction") : GLIA_OK;
}

glia_status glia_gen_parse_engine(glia_gen *g, yyjson_val *root, glia_err *err) {
    int64_t priority = 0;
    glia_status st =
        glia_json_int(root, "", "priority", GLIA_PRIORITY_MIN, GLIA_PRIORITY_MAX, &priority, NULL, err);
    g->priority = (int32_t)priority;
    if (!st) st = parse_speculative(g, root, err);
    if (!st) st = parse_prediction(g, root, err);
    const char *draft = NULL;
    if (!st) st = glia_json_str(root, "", "draft_model", &draft, err);
    if (!st && draft && draft[0] && !(g->draft_model = glia_strdup(draft)))
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the request");
    return st;
}

/* The name of a file without folder and ".gguf". */
static bool is_named(const char *path, const char *name) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t n = strlen(base);
    if (n > 5 && !strcmp(base + n - 5, ".gguf")) n -= 5;
    return !strcmp(base, name) || (strlen(name) == n && !strncmp(base, name, n));
}

/* One of [{"id": name or number, "scale": 1}] */
static glia_status parse_adapter(glia_gen *g, yyjson_val *v, const glia_model_info *info, glia_err *err) {
    char where[32];
    (void)snprintf(where, sizeof where, "lora[%zu]", g->n_adapters);
    yyjson_val *id = yyjson_is_obj(v) ? glia_json_get(v, "id") : NULL;
    glia_adapter_use *use = &g->adapters[g->n_adapters];
    *use = (glia_adapter_use){.adapter = -1, .scale = 1};
    if (yyjson_is_int(id) && yyjson_get_sint(id) >= 0 && (uint64_t)yyjson_get_sint(id) < info->n_adapters)
        use->adapter = (int32_t)yyjson_get_sint(id);
    for (size_t i = 0; yyjson_is_str(id) && i < info->n_adapters; i++) {
        if (!strcmp(info->adapters[i].name, yyjson_get_str(id))) use->adapter = (int32_t)i;
    }
    if (use->adapter < 0) {
        return glia_fail_at(err, GLIA_EINVAL, where,
                            "%s must be {\"id\": name or number, \"scale\": 1} of one of the %zu adapters that were loaded "
                            "with %.100s (glia serve --lora NAME=FILE)",
                            where, info->n_adapters, info->id);
    }
    double scale = 1;
    glia_status st = glia_json_num(v, where, "scale", -1e6, 1e6, &scale, NULL, err);
    use->scale = (float)scale;
    g->n_adapters++;
    return st;
}

static glia_status parse_lora(glia_gen *g, yyjson_val *root, const glia_model_info *info, glia_err *err) {
    yyjson_val *list = glia_json_get(root, "lora"), *item;
    yyjson_arr_iter it;
    if (!list) return GLIA_OK;
    if (!yyjson_is_arr(list) || yyjson_arr_size(list) > GLIA_MAX_ADAPTERS) {
        return glia_fail_at(err, GLIA_EINVAL, "lora", "lora must be a list of at most %d adapters", GLIA_MAX_ADAPTERS);
    }
    for (yyjson_arr_iter_init(list, &it); (item = yyjson_arr_iter_next(&it));) {
        glia_status st = parse_adapter(g, item, info, err);
        if (st) return st;
    }
    return GLIA_OK;
}

glia_status glia_gen_bind(glia_gen *g, yyjson_val *root, const glia_model *m, glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    glia_status st = parse_lora(g, root, &info, err);
    if (st) return st;
    if (g->draft_model) {
        if (!info.draft || !is_named(info.draft, g->draft_model)) {
            return glia_fail_at(err, GLIA_EINVAL, "draft_model",
                                "draft_model: %.120s is not loaded beside %.120s; start the server with --draft FILE, or "
                                "leave it out",
                                g->draft_model, info.id);
        }
        if (!g->speculate) g->speculate = GLIA_SPECULATE_DRAFT;
    }
    if (!g->prediction.n) return GLIA_OK;
    return glia_model_tokenize(m, g->prediction.p, g->prediction.n, false, false, &g->predicted, &g->n_predicted, err);
}

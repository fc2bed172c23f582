/* engine/chat_bridge.cpp — the only C++ of Glia: llama.cpp's chat templates and its graph reservation, behind C.
 *
 * Templates come out of model files and are hostile input: sizes are bounded, every exception is caught here.
 * Template rendering runs on any thread and only reads; glia_bridge_graph runs on the engine thread. */
#include "bridge.h"

#include "chat.h"
#include "llama-ext.h"

#include <cstring>
#include <exception>
#include <new>

extern "C" {
#include "base/err.h"
#include "base/mem.h"
}

namespace {
constexpr size_t max_template_bytes = 1u << 20;
constexpr size_t max_prompt_bytes   = 64u << 20;
}  // namespace

struct glia_templates {
    common_chat_templates_ptr ptr;
};

extern "C" glia_status glia_bridge_templates_new(glia_templates ** out, const llama_model * model, bool * has_own,
                                                 glia_err * err) {
    *out = nullptr;
    try {
        const char * src = llama_model_chat_template(model, nullptr);
        if (src && strlen(src) > max_template_bytes) {
            return glia_fail(err, GLIA_EINVAL, "the model's chat template is larger than 1 MiB");
        }
        auto * t = new glia_templates{ common_chat_templates_init(model, "") };
        *has_own = common_chat_templates_was_explicit(t->ptr.get());
        *out     = t;
        return GLIA_OK;
    } catch (const std::bad_alloc &) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory reading the chat template");
    } catch (const std::exception & e) {
        return glia_fail(err, GLIA_EINVAL, "the model's chat template cannot be read: %s", e.what());
    } catch (...) {
        return glia_fail(err, GLIA_EINVAL, "the model's chat template cannot be read");
    }
}

extern "C" void glia_bridge_templates_free(glia_templates * t) {
    delete t;
}

extern "C" glia_status glia_bridge_render(const glia_templates * t, const char * messages_json, size_t n_json,
                                          char ** out, size_t * n_out, glia_err * err) {
    *out = nullptr;
    try {
        common_chat_templates_inputs in;
        in.messages              = common_chat_msgs_parse_oaicompat(common_json::parse(std::string(messages_json, n_json)));
        in.add_generation_prompt = true;
        const common_chat_params p = common_chat_templates_apply(t->ptr.get(), in);
        if (p.prompt.size() > max_prompt_bytes) {
            return glia_fail_at(err, GLIA_ETOOLARGE, "messages", "the rendered prompt is larger than 64 MiB");
        }
        *out = glia_strndup(p.prompt.data(), p.prompt.size());
        if (!*out) {
            return glia_fail(err, GLIA_ENOMEM, "out of memory rendering the chat template");
        }
        *n_out = p.prompt.size();
        return GLIA_OK;
    } catch (const std::bad_alloc &) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory rendering the chat template");
    } catch (const std::exception & e) {
        return glia_fail_at(err, GLIA_EINVAL, "messages", "the model's chat template refuses these messages: %s",
                            e.what());
    } catch (...) {
        return glia_fail_at(err, GLIA_EINVAL, "messages", "the model's chat template refuses these messages");
    }
}

extern "C" ggml_cgraph * glia_bridge_graph(llama_context * ctx, uint32_t n_tokens, uint32_t n_outputs) {
    try {
        return llama_graph_reserve(ctx, n_tokens, 1, n_outputs);
    } catch (...) {
        return nullptr;
    }
}

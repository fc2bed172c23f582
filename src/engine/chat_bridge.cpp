/* engine/chat_bridge.cpp — the only C++ of Glia: what of llama.cpp speaks C++ or must be guarded by try, behind C.
 *
 * Templates come out of model files and are hostile input: sizes are bounded, every exception is caught here.
 * Template rendering runs on any thread and only reads; glia_bridge_graph runs on the engine thread. */
#include "bridge.h"

#include "chat.h"
#include "llama-ext.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>

extern "C" {
#include "base/err.h"
#include "base/mem.h"
}

namespace {
constexpr size_t max_template_bytes = 1u << 20;
constexpr size_t max_prompt_bytes   = 64u << 20;

thread_local bool guarded = false;
thread_local char reason[320];

/* ggml calls this before it aborts.  Thrown from here, the exception unwinds llama.cpp's loader, whose own resources are
 * all owned by objects; anywhere else a failed assertion still ends the process. */
void on_assert(const char * message) {
    if (guarded) {
        throw std::runtime_error(message);
    }
    fprintf(stderr, "glia: error: %s\n", message);
}

template <typename F> auto guard(F f, const char ** why) -> decltype(f()) {
    static std::once_flag once;
    std::call_once(once, [] { ggml_set_abort_callback(on_assert); });
    decltype(f()) result = nullptr;
    reason[0] = 0;
    guarded   = true;
    try {
        result = f();
    } catch (const std::exception & e) {
        snprintf(reason, sizeof reason, "%s", e.what());
    } catch (...) {
        snprintf(reason, sizeof reason, "unknown exception");
    }
    guarded = false;
    *why    = reason;
    return result;
}
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

extern "C" llama_model * glia_bridge_load(const char * path, const llama_model_params * p, const char ** why) {
    return guard([&] { return llama_model_load_from_file(path, *p); }, why);
}

extern "C" llama_context * glia_bridge_context(llama_model * m, const llama_context_params * p, const char ** why) {
    return guard([&] { return llama_init_from_model(m, *p); }, why);
}

extern "C" ggml_cgraph * glia_bridge_graph(llama_context * ctx, uint32_t n_tokens, uint32_t n_seqs,
                                           uint32_t n_outputs) {
    const char * why;
    return guard([&] { return llama_graph_reserve(ctx, n_tokens, n_seqs, n_outputs); }, &why);
}

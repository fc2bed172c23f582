/* engine/chat_bridge.cpp — the only C++ of Glia: what of llama.cpp speaks C++ or must be guarded by try, behind C.
 *
 * Templates come out of model files and are hostile input: sizes, memory, time and depth are bounded (see `budget`), every
 * exception is caught here.
 * Template rendering runs on any thread and only reads; glia_bridge_graph runs on the engine thread. */
#include "bridge.h"

#include "chat.h"
#include "llama-context.h"
#include "llama-ext.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __APPLE__
#include <malloc/malloc.h>
#else
#include <malloc.h>
#endif
#include <pthread.h>
#include <time.h>

extern "C" {
#include "base/err.h"
#include "base/mem.h"
}

namespace {
constexpr size_t max_template_bytes = 1u << 20;
constexpr size_t max_prompt_bytes   = 64u << 20;

thread_local bool guarded = false;
thread_local char reason[320];

/* ggml calls this before it aborts.  Thrown from here, the exception unwinds llama.cpp on this thread, whose resources are
 * all owned by objects; in compute threads a failed assertion still ends the process. */
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

/* ------------------------------------------------------------------ what a template may cost */

/* A template is a program: it can loop for hours, double a string forty times, call itself.  llama.cpp's interpreter has no
 * limits of its own and no hook, but it allocates at every step.  So the limits are in operator new: while a budget is on, on
 * this thread, each allocation is counted, what is held is summed up (operator delete takes off), now and then the thread's
 * CPU time is read, and the depth of the stack seen.  What exceeds it is thrown out of the interpreter; nothing is thrown
 * while another exception unwinds.
 *
 * Honest work grows with the chat: a message costs the interpreter about 0.15 ms and, over its life, a hundred kilobytes
 * (each turn of a loop copies its scope).  So a budget grows with the messages; what is held at once hardly does.
 *
 * Nested values are freed by recursion, which nothing can stop: templates run on a thread with a stack that holds as many
 * levels as can be made within the limits (address space, not memory, until it is used). */
namespace {
constexpr int64_t  template_bytes    = (int64_t) 256 << 20; /* held at once, beside 32 times the input (long texts take 18) */
constexpr uint64_t template_allocs   = 20u << 20;
constexpr uint64_t message_allocs    = 20u << 10; /* more for every message: llama.cpp's interpreter takes 900 and more for one */
constexpr double   template_seconds  = 2; /* of CPU time: a busy machine changes nothing */
#ifdef __SANITIZE_ADDRESS__ /* whose allocator takes several times as long */
constexpr double   message_seconds   = 8e-3;
#else
constexpr double   message_seconds   = 1e-3; /* more for every message: 0.15 ms is usual */
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* they wipe the shadow of a whole stack for every thread */
constexpr size_t   template_stack   = (size_t) 512 << 20;
#else
constexpr size_t   template_stack   = (size_t) 2 << 30;
#endif
constexpr size_t   stack_reserve    = (size_t) 256 << 10;
constexpr size_t   large_alloc      = (size_t) 1 << 20; /* at each of these the clock is read */

struct over_budget {
    const char * why;
};

struct budget {
    bool         on = false;
    int64_t      bytes; /* that may still be taken */
    uint64_t     allocs;
    double       until;
    const char * stack_end; /* its lowest address */
};
thread_local budget spent;

double cpu_seconds() {
    timespec ts{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double) ts.tv_sec + (double) ts.tv_nsec * 1e-9;
}

/* The lowest address of this thread's stack; null: not known. */
const char * stack_end_of_thread() {
    pthread_attr_t attr;
    void *         low  = nullptr;
    size_t         size = 0;
    if (pthread_getattr_np(pthread_self(), &attr) == 0) {
        pthread_attr_getstack(&attr, &low, &size);
        pthread_attr_destroy(&attr);
    }
    return (const char *) low;
}

/* Of malloc's p, as both sides of a budget count it; p may be null. */
size_t size_of_block(void * p) {
#ifdef __APPLE__
    return p ? malloc_size(p) : 0;
#else
    return malloc_usable_size(p);
#endif
}

/* Kept out of line: operator new itself must stay a test and a malloc. */
__attribute__((noinline)) void charge(size_t n) {
    budget & b = spent;
    if (std::uncaught_exceptions()) {
        return;
    }
    const char here = 0;
    if (b.stack_end && (size_t) (&here - b.stack_end) < stack_reserve) {
        throw over_budget{ "it nests too deep" };
    }
    if (b.bytes < 0 || n > (size_t) b.bytes) {
        throw over_budget{ "it needs too much memory" };
    }
    const bool look = n >= large_alloc || b.allocs % 64 == 0; /* what works on long texts allocates seldom */
    if (!b.allocs-- || (look && cpu_seconds() > b.until)) {
        b.allocs = 0; /* from now on every allocation ends it, also when some handler went on */
        throw over_budget{ "it takes too long" };
    }
}

/* The budget of this thread, which is on, is for so many messages. */
void allow_messages(size_t n) {
    spent.allocs += n * message_allocs;
    spent.until += (double) n * message_seconds;
}

/* Run f within a budget, on this thread. */
template <typename F> void within_budget(size_t n_input, F f) {
    struct off {
        ~off() { spent.on = false; }
    } at_end;
    spent.bytes     = template_bytes + 32 * (int64_t) n_input;
    spent.allocs    = template_allocs;
    spent.until     = cpu_seconds() + template_seconds;
    spent.stack_end = stack_end_of_thread();
    spent.on        = true;
    f();
}

/* Run f on a thread of its own with a stack for deep templates; what it throws is thrown here. */
template <typename F> void on_deep_stack(size_t n_input, F f) {
    struct task {
        F *                f;
        size_t             n_input;
        std::exception_ptr thrown;
    } t{ &f, n_input, nullptr };
    pthread_attr_t attr;
    pthread_t      thread;
    const auto     run = [](void * arg) -> void * {
        auto * t = (task *) arg;
        try {
            within_budget(t->n_input, *t->f);
        } catch (...) {
            t->thrown = std::current_exception();
        }
        return nullptr;
    };
    pthread_attr_init(&attr);
    int rc = ENOMEM;
    /* smaller where address space is short: a template that then nests too deep while it is freed is not survived */
    for (size_t size = template_stack; rc && size >= (size_t) 8 << 20; size /= 8) {
        pthread_attr_setstacksize(&attr, size);
        rc = pthread_create(&thread, &attr, run, &t);
    }
    pthread_attr_destroy(&attr);
    if (rc) {
        throw std::bad_alloc();
    }
    pthread_join(thread, nullptr);
    if (t.thrown) {
        std::rethrow_exception(t.thrown);
    }
}
}  // namespace

/* The program's operator new; that of llama.cpp and of the C++ library, too.  Not inlined: gcc would see malloc beside
 * operator delete, and warn. */
__attribute__((noinline)) void * operator new(size_t n) {
    if (__builtin_expect(spent.on, false)) {
        charge(n);
    }
    void * p = malloc(n ? n : 1);
    if (!p) {
        throw std::bad_alloc();
    }
    if (__builtin_expect(spent.on, false)) {
        spent.bytes -= (int64_t) size_of_block(p);
    }
    return p;
}
__attribute__((noinline)) void operator delete(void * p) noexcept {
    if (__builtin_expect(spent.on, false)) {
        spent.bytes += (int64_t) size_of_block(p);
    }
    free(p);
}
__attribute__((noinline)) void operator delete(void * p, size_t) noexcept {
    operator delete(p);
}

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
        auto t = std::make_unique<glia_templates>();
        on_deep_stack(src ? strlen(src) : 0, [&] { t->ptr = common_chat_templates_init(model, ""); });
        *has_own = common_chat_templates_was_explicit(t->ptr.get());
        *out     = t.release();
        return GLIA_OK;
    } catch (const over_budget & e) {
        return glia_fail(err, GLIA_EINVAL, "the model's chat template cannot be read: %s", e.why);
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

namespace {
constexpr size_t max_grammar_bytes = 1u << 20;
constexpr size_t max_answer_bytes  = 16u << 20;
constexpr auto   reasoning_format  = COMMON_REASONING_FORMAT_DEEPSEEK;

/* A glia_chat with the strings that it points to.  The public part comes first: one is the other. */
struct chat {
    glia_chat                 pub{};
    std::string               prompt, grammar, prefix;
    std::vector<std::string>  triggers, kept, stops;
    std::vector<const char *> trigger_ptrs, kept_ptrs, stop_ptrs;
    common_chat_parser_params parser;
};

void point_at(const std::vector<std::string> & from, std::vector<const char *> & to) {
    for (const auto & s : from) {
        to.push_back(s.c_str());
    }
}

void publish(chat & c) {
    point_at(c.triggers, c.trigger_ptrs);
    point_at(c.kept, c.kept_ptrs);
    point_at(c.stops, c.stop_ptrs);
    c.pub.prompt      = c.prompt.c_str();
    c.pub.n_prompt    = c.prompt.size();
    c.pub.add_special = true; /* the renderer strips a BOS that the vocabulary would add again */
    c.pub.stop        = c.stop_ptrs.data();
    c.pub.n_stop      = c.stop_ptrs.size();
    c.pub.constraint.grammar    = c.grammar.empty() ? nullptr : c.grammar.c_str();
    c.pub.constraint.n_grammar  = c.grammar.size();
    c.pub.constraint.prefix     = c.prefix.c_str();
    c.pub.constraint.triggers   = c.trigger_ptrs.data();
    c.pub.constraint.n_triggers = c.trigger_ptrs.size();
    c.pub.constraint.kept       = c.kept_ptrs.data();
    c.pub.constraint.n_kept     = c.kept_ptrs.size();
    c.pub.constrained           = !c.grammar.empty() || !c.kept.empty();
}

common_chat_templates_inputs read_inputs(const common_json & root) {
    common_chat_templates_inputs in;
    in.messages              = common_chat_msgs_parse_oaicompat(root.at("messages"));
    in.add_generation_prompt = true;
    in.reasoning_format      = reasoning_format;
    if (root.contains("tools")) {
        in.tools = common_chat_tools_parse_oaicompat(root.at("tools"));
    }
    if (root.contains("tool_choice")) {
        in.tool_choice = common_chat_tool_choice_parse_oaicompat(root.at("tool_choice").get<std::string>());
    }
    if (root.contains("parallel_tool_calls")) {
        in.parallel_tool_calls = root.at("parallel_tool_calls").get<bool>();
    }
    if (root.contains("thinking")) {
        in.enable_thinking = root.at("thinking").get<bool>();
    }
    if (root.contains("kwargs")) {
        for (const auto & [key, value] : root.at("kwargs").items()) {
            in.chat_template_kwargs[key] = value.dump();
        }
    }
    return in;
}

/* A lazy grammar describes a call from its opening on.  For a required call it is better than the one common makes for
 * that case, which lets any amount of other text come first. */
bool waits_for_text(const common_chat_params & p) {
    for (const auto & t : p.grammar_triggers) {
        if (t.type != COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
            return false;
        }
    }
    return p.grammar_lazy && !p.grammar.empty() && !p.grammar_triggers.empty();
}

/* Does the prompt end within the reasoning?  A call that is demanded at once would be part of it. */
bool opens_reasoning(const common_chat_params & p) {
    const size_t at = p.thinking_start_tag.empty() ? std::string::npos : p.generation_prompt.rfind(p.thinking_start_tag);
    if (at == std::string::npos || p.thinking_end_tags.empty()) {
        return false;
    }
    for (const auto & tag : p.thinking_end_tags) {
        if (p.generation_prompt.find(tag, at) != std::string::npos) {
            return false;
        }
    }
    return true;
}

common_chat_parser_params parser_of(const common_chat_params & p) {
    common_chat_parser_params parser(p);
    parser.reasoning_format = reasoning_format;
    if (!p.parser.empty()) {
        parser.parser.load(p.parser);
    }
    return parser;
}

/* Is an answer that begins with a call read as one? */
bool sees_call(const common_chat_params & p) {
    try {
        const common_chat_msg msg = common_chat_parse(p.grammar_triggers.front().value, true, parser_of(p));
        return msg.content.empty() && msg.reasoning_content.empty();
    } catch (const std::exception &) {
        return false;
    }
}

/* For a template that cannot leave reasoning out.  Which white space its parser takes behind the end is tried. */
void close_reasoning(common_chat_params & p) {
    const common_chat_params open = p;
    for (const char * space : { "\n\n", "\n", "" }) {
        const std::string closing = (open.prompt.back() == '\n' ? "" : "\n") + open.thinking_end_tags.front() + space;
        p.prompt                  = open.prompt + closing;
        p.generation_prompt       = open.generation_prompt + closing;
        if (sees_call(p)) {
            return;
        }
    }
}

/* A grammar that waits for a pattern, not for a text, is left out: the answer is then free, and still parsed. */
void take_grammar(chat & c, const common_chat_params & p) {
    if (p.grammar.empty()) {
        return;
    }
    if (p.grammar_lazy) {
        for (const auto & t : p.grammar_triggers) {
            if (t.type != COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
                c.triggers.clear();
                return;
            }
            c.triggers.push_back(t.value);
        }
        if (c.triggers.empty()) {
            return;
        }
    } else {
        c.prefix = p.generation_prompt;
    }
    c.grammar = p.grammar;
}
}  // namespace

namespace {
glia_status render(const glia_templates * t, const char * json, size_t n_json, glia_chat ** out, glia_err * err);
}

extern "C" glia_status glia_bridge_chat(const glia_templates * t, const char * json, size_t n_json, glia_chat ** out,
                                        glia_err * err) {
    *out = nullptr;
    glia_status st = GLIA_EINTERNAL;
    try {
        on_deep_stack(n_json, [&] { st = render(t, json, n_json, out, err); });
        return st;
    } catch (const over_budget & e) {
        return glia_fail_at(err, GLIA_EINVAL, "messages", "the model's chat template cannot be rendered: %s", e.why);
    } catch (const std::bad_alloc &) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory rendering the chat template");
    } catch (...) {
        return glia_fail_at(err, GLIA_EINVAL, "messages", "the model's chat template refuses these messages");
    }
}

namespace {
glia_status render(const glia_templates * t, const char * json, size_t n_json, glia_chat ** out, glia_err * err) {
    try {
        common_chat_templates_inputs in       = read_inputs(common_json::parse(std::string(json, n_json)));
        allow_messages(in.messages.size());
        const bool                   required = !in.tools.empty() && in.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED;
        if (required) {
            in.tool_choice = COMMON_CHAT_TOOL_CHOICE_AUTO;
        }
        common_chat_params p = common_chat_templates_apply(t->ptr.get(), in);
        if (required && !waits_for_text(p)) {
            in.tool_choice = COMMON_CHAT_TOOL_CHOICE_REQUIRED;
            p              = common_chat_templates_apply(t->ptr.get(), in);
        } else if (required && opens_reasoning(p) && !sees_call(p)) {
            in.enable_thinking = false;
            p                  = common_chat_templates_apply(t->ptr.get(), in);
            if (opens_reasoning(p)) {
                close_reasoning(p);
            }
        }
        if (p.prompt.size() > max_prompt_bytes) {
            return glia_fail_at(err, GLIA_ETOOLARGE, "messages", "the rendered prompt is larger than 64 MiB");
        }
        if (p.grammar.size() > max_grammar_bytes) {
            return glia_fail_at(err, GLIA_EINVAL, "tools", "these tools make a grammar of more than 1 MiB: use fewer");
        }
        std::unique_ptr<chat> c(new chat);
        c->prompt     = p.prompt;
        c->pub.thinks = p.supports_thinking;
        c->pub.parses = !in.tools.empty() || p.supports_thinking;
        if (c->pub.parses) {
            take_grammar(*c, p);
            if (in.tool_choice == COMMON_CHAT_TOOL_CHOICE_AUTO && required) {
                c->pub.constraint.begins = true; /* at once; its root may match nothing */
            }
            c->kept   = p.preserved_tokens;
            c->stops  = p.additional_stops;
            c->parser = parser_of(p);
        }
        publish(*c);
        *out = &c.release()->pub;
        return GLIA_OK;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        return glia_fail_at(err, GLIA_EINVAL, "messages", "the model's chat template refuses these messages: %s",
                            e.what());
    }
}
}  // namespace

extern "C" void glia_chat_free(glia_chat * c) {
    delete reinterpret_cast<chat *>(c);  // the public part is its first member
}

extern "C" glia_status glia_chat_parse(const glia_chat * c, const char * text, size_t n, bool partial, char ** out,
                                       size_t * n_out, glia_err * err) {
    *out = nullptr;
    if (n > max_answer_bytes) {
        return glia_fail(err, GLIA_ETOOLARGE, "the answer is larger than 16 MiB");
    }
    try {
        const chat &          self = *reinterpret_cast<const chat *>(c);
        common_chat_msg       msg;
        within_budget(n, [&] { msg = common_chat_parse(std::string(text, n), partial, self.parser); });
        common_json           calls = common_json::array();
        for (const auto & call : msg.tool_calls) {
            calls.push_back(common_json{
                { "id",       call.id                                                       },
                { "function", { { "name", call.name }, { "arguments", call.arguments } } },
            });
        }
        common_json root = common_json{
            { "content",           msg.render_content()  },
            { "reasoning_content", msg.reasoning_content },
        };
        root["tool_calls"] = calls;
        const std::string s = root.dump();
        *out = glia_strndup(s.data(), s.size());
        if (!*out) {
            return glia_fail(err, GLIA_ENOMEM, "out of memory reading the answer");
        }
        *n_out = s.size();
        return GLIA_OK;
    } catch (const over_budget & e) {
        return glia_fail(err, GLIA_EINVAL, "the answer cannot be read: %s", e.why);
    } catch (const std::bad_alloc &) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory reading the answer");
    } catch (const std::exception & e) {
        return glia_fail(err, GLIA_EINVAL, "the answer is not of the model's format: %s", e.what());
    } catch (...) {
        return glia_fail(err, GLIA_EINVAL, "the answer is not of the model's format");
    }
}

extern "C" bool glia_bridge_knows_tools(const glia_templates * t) {
    try {
        const auto caps = common_chat_templates_get_caps(t->ptr.get());
        const auto it   = caps.find("supports_tool_calls");
        const auto also = caps.find("supports_tools");
        return it != caps.end() && it->second && also != caps.end() && also->second;
    } catch (...) {
        return false;
    }
}

extern "C" llama_model * glia_bridge_load(const char * path, const llama_model_params * p, const char ** why) {
    return guard([&] { return llama_model_load_from_file(path, *p); }, why);
}

extern "C" llama_context * glia_bridge_context(llama_model * m, const llama_context_params * p, const char ** why) {
    return guard([&] { return llama_init_from_model(m, *p); }, why);
}

extern "C" void glia_bridge_memory(const llama_context * ctx, uint64_t * weights, uint64_t * cache, uint64_t * compute) {
    *weights = *cache = *compute = 0;
    const char * why;
    (void) guard([&]() -> const bool * {
        for (const auto & [type, taken] : llama_get_memory_breakdown(ctx)) {
            (void) type;
            *weights += taken.model, *cache += taken.context, *compute += taken.compute;
        }
        return &guarded;
    }, &why);
}

extern "C" int32_t glia_bridge_decode(llama_context * ctx, const llama_batch * batch, const char ** why) {
    int32_t rc = 0;
    const bool * ran = guard([&]() -> const bool * { rc = llama_decode(ctx, *batch); return &guarded; }, why);
    return ran ? rc : -4;
}

extern "C" ggml_cgraph * glia_bridge_graph(llama_context * ctx, uint32_t n_tokens, uint32_t n_seqs,
                                           uint32_t n_outputs) {
    const char * why;
    return guard([&] { return llama_graph_reserve(ctx, n_tokens, n_seqs, n_outputs); }, &why);
}

extern "C" ggml_backend_sched * glia_bridge_sched(const llama_context * ctx) {
    return ctx->get_sched();
}

/* llama.cpp takes the callback when a context is made, and hands it to the scheduler with every new graph. */
extern "C" void glia_bridge_watch(llama_context * ctx, bool (*on_node)(ggml_tensor *, bool, void *), void * ud) {
    auto & params = const_cast<llama_cparams &>(ctx->get_cparams());
    if (params.cb_eval == on_node) return;
    params.cb_eval = on_node, params.cb_eval_user_data = ud;
    ggml_backend_sched_set_eval_callback(ctx->get_sched(), on_node, ud);
}

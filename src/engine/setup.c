/* engine/setup.c — making and freeing a worker: its context, its buffers, what it knows of the model's graph.
 *
 * Engine thread, at load and at the end.  See worker.h. */
#include "engine/worker.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/atlas_cache.h"
#include <unistd.h>

/* Runs on compute threads between nodes: must be cheap and only read. */
static bool on_abort(void *ud) {
    glia_worker *w = ud;
    if (atomic_load_explicit(&w->stopping, memory_order_relaxed)) return true;
    if (w->was_aborted) return false; /* never twice in a row: the others must get on */
    bool leaves = false;
    for (int32_t i = 0; i < w->n_slots; i++) {
        const glia_slot *s = &w->slots[i];
        if (!s->n_rows || !s->req) continue;
        bool cancelled = glia_request_is_cancelled(s->req);
        if (!cancelled && w->one_at_a_time) return false; /* its state could not be taken back to before this pass */
        leaves |= cancelled;
    }
    return leaves;
}

static const enum ggml_type kv_type[GLIA_N_KV_TYPES] = {
#define X(id, name, bytes) [GLIA_KV_##id] = GGML_TYPE_##id,
    GLIA_KV_MAP(X)
#undef X
};

static struct llama_context_params context_params(const glia_model *m, glia_worker *w) {
    const glia_model_params *p = &m->params;
    struct llama_context_params c = llama_context_default_params();
    c.n_ctx = (uint32_t)p->n_ctx * (uint32_t)p->n_parallel;
    c.n_batch = c.n_ubatch = (uint32_t)p->n_batch; /* one decode = one graph, so that rows can be proven */
    c.n_seq_max = (uint32_t)p->n_parallel;
    c.n_outputs_max = 0;
    c.n_threads = c.n_threads_batch = p->n_threads;
    c.flash_attn_type = p->flash == GLIA_FLASH_ON    ? LLAMA_FLASH_ATTN_TYPE_ENABLED
                        : p->flash == GLIA_FLASH_OFF ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                     : LLAMA_FLASH_ATTN_TYPE_AUTO;
    c.type_k = c.type_v = kv_type[p->kv_type];
    c.kv_unified = false; /* a stream per slot: attention reads only the cells of the slots in the pass */
    c.no_perf = true;
    if (!p->no_hooks) c.cb_eval = glia_tap_on_node, c.cb_eval_user_data = w->tap;
    c.abort_callback = on_abort, c.abort_callback_data = w;
    return c;
}

static bool on_draft_abort(void *ud) {
    const glia_worker *w = ud;
    return atomic_load_explicit(&w->stopping, memory_order_relaxed);
}

static glia_status make_drafter(glia_worker *w, glia_err *err) {
    const glia_model_params *p = &w->m->params;
    const glia_drafter_params d = {.path = w->m->draft,
                                   .model_id = w->m->id,
                                   .vocab = w->m->vocab,
                                   .n_ctx = p->n_ctx,
                                   .n_parallel = p->n_parallel,
                                   .n_batch = p->n_batch,
                                   .n_threads = p->n_threads,
                                   .n_gpu_layers = p->n_gpu_layers,
                                   .p_min = p->draft_p_min > 0 ? (double)p->draft_p_min : 0.5,
                                   .on_abort = on_draft_abort,
                                   .ud = w};
    return glia_drafter_new(&w->drafter, &d, err);
}

static bool is_on_host(ggml_backend_sched_t sched) {
    for (int i = 0; i < ggml_backend_sched_get_n_backends(sched); i++) {
        ggml_backend_dev_t dev = ggml_backend_get_device(ggml_backend_sched_get_backend(sched, i));
        enum ggml_backend_dev_type type = dev ? ggml_backend_dev_type(dev) : GGML_BACKEND_DEVICE_TYPE_CPU;
        if (type != GGML_BACKEND_DEVICE_TYPE_CPU && type != GGML_BACKEND_DEVICE_TYPE_ACCEL) return false;
    }
    return true;
}

static const size_t unused_on_host = (size_t)128 << 20;

/* Rows of points leave devices beside the computation, to memory that these copy to best.  False: out of memory. */
static bool stage(glia_worker *w) {
    const glia_model_params *p = &w->m->params;
    glia_staging_params sp = {.ring_bytes = p->staging_bytes,
                              .stops = p->staging == GLIA_STAGING_STOPS,
                              .host_too = p->staging == GLIA_STAGING_ALWAYS};
    glia_staging *s = NULL;
    if (p->no_hooks) return true;
    if (p->staging != GLIA_STAGING_OFF && !glia_staging_new(&s, glia_bridge_sched(w->ctx), &sp)) return false;
    if (s) glia_tap_set_staging(w->tap, s);
    ggml_backend_buffer_type_t locked = s ? glia_staging_host_memory(s) : NULL;
    w->m->pages = locked ? glia_pages_new(locked, p->capture_bytes, false)
                         : glia_pages_new(ggml_backend_cpu_buffer_type(), unused_on_host, true);
    return w->m->pages != NULL;
}

glia_status glia_worker_new(glia_worker **out, glia_model *m, glia_err *err) {
    glia_status st = GLIA_ENOMEM;
    glia_worker *w = *out = NULL;
    glia_err hook_err = {0};
    if (!(w = glia_calloc(1, sizeof *w))) goto done;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    w->m = m, w->n_slots = m->params.n_parallel, w->n_batch = m->params.n_batch;
    w->n_threads = m->params.n_threads,
    w->n_processors = processors > 0 && processors < 65536 ? (int32_t)processors : 1;
    w->slots = glia_calloc((size_t)w->n_slots, sizeof *w->slots);
    w->rows = glia_calloc((size_t)w->n_batch, sizeof *w->rows);
    w->scratch = glia_malloc((size_t)m->info.n_vocab * sizeof *w->scratch);
    w->tap = glia_tap_new();
    if (!w->slots || !w->rows || !w->scratch || !w->tap) goto done;
    for (int32_t i = 0; i < w->n_slots; i++) {
        w->slots[i].id = i;
        w->slots[i].tokens = glia_malloc((size_t)m->params.n_ctx * sizeof *w->slots[i].tokens);
        if (!w->slots[i].tokens) goto done;
    }
    const char *why;
    struct llama_context_params cp = context_params(m, w);
    w->ctx = glia_bridge_context(m->lm, &cp, &why);
    if (!w->ctx) {
        if (why[0]) st = glia_fail(err, GLIA_EINVAL, "llama.cpp cannot make a context: %s", why);
        else if (glia_kv_is_quantized(m->params.kv_type)) {
            st = glia_fail_at(err, GLIA_EINVAL, "cache-type",
                              "llama.cpp cannot make a %s cache for this model (the size of its heads must be a "
                              "multiple of 32): use --cache-type f16",
                              glia_kv_name(m->params.kv_type));
        } else {
            st = glia_fail(err, GLIA_ENOMEM,
                           "no memory for a context of %d × %d tokens: use a smaller --ctx or --parallel",
                           m->params.n_parallel, m->params.n_ctx);
        }
        goto done;
    }
    glia_bridge_memory(w->ctx, &m->info.weights_bytes, &m->info.cache_bytes, &m->info.compute_bytes);
    w->mem = llama_get_memory(w->ctx);
    if (!w->mem) {
        st = glia_fail(err, GLIA_EINVAL, "%s generates no text: it has no KV cache (an encoder or embedding model)",
                       m->path);
        goto done;
    }
    w->batch = llama_batch_init(w->n_batch, 0, 1);
    if (!w->batch.token) goto done;
    w->n_outputs_max = w->n_batch;
    w->looks_away = m->params.staging == GLIA_STAGING_ALWAYS || !is_on_host(glia_bridge_sched(w->ctx));
    w->one_at_a_time = llama_model_is_recurrent(m->lm) || llama_model_is_hybrid(m->lm);
    /* llama.cpp hands cells that fell out of a sliding window to other sequences: a cut sequence may have holes */
    w->cuts_prefix = !w->one_at_a_time && llama_model_n_swa(m->lm) == 0;
    if (m->params.prompt_cache_bytes > 0) {
        w->shelf = glia_shelf_new((size_t)m->params.prompt_cache_bytes, !w->cuts_prefix);
        if (!w->shelf) goto done;
    }
    m->info.speculates = !w->one_at_a_time, m->info.draft = m->draft;
    if ((st = glia_worker_load_adapters(w, err))) goto done;
    if (!w->one_at_a_time && m->draft && (st = make_drafter(w, err))) goto done;
    if (w->one_at_a_time && m->params.speculate != GLIA_SPECULATE_OFF)
        glia_log(GLIA_LOG_WARN, "no speculative decoding: %s has a state that cannot be taken back", m->id);
    if (!stage(w)) {
        st = GLIA_ENOMEM;
        goto done;
    }
    double began = glia_now_ms();
    st = glia_worker_map(w, &hook_err);
    if (st == GLIA_ENOMEM) goto done;
    if (st) glia_log(GLIA_LOG_WARN, "no hooks: %s", hook_err.message);
    if (m->params.no_hooks && m->atlas) glia_atlas_refuse(m->atlas, "the model was loaded without hooks (--no-hooks)");
    for (int32_t il = 0; m->atlas && m->atlas->attn && il < m->atlas->n_layer; il++) {
        m->info.flash_attention |= m->atlas->attn[il].flash; /* read from the graph: auto decides while it is built */
    }
    m->info.hooks_refused = !m->atlas ? "this model's graph could not be mapped" : m->atlas->refused;
    if (!glia_tap_set_atlas(w->tap, m->params.no_hooks ? NULL : m->atlas, llama_model_n_swa(m->lm) > 0,
                            m->params.n_threads)) {
        st = GLIA_ENOMEM;
        goto done;
    }
    double mapped = glia_now_ms();
    if (!m->info.hooks_refused) {
        glia_atlas_cache cache;
        if (!glia_worker_find_weights(w)) {
            st = GLIA_ENOMEM;
            goto done;
        }
        glia_atlas_cache_init(&cache, m);
        if (!glia_atlas_cache_load(&cache, m->atlas) && glia_worker_prove(w)) glia_atlas_cache_store(&cache, m->atlas);
        if (w->broken[0]) {
            st = glia_fail(err, GLIA_EINVAL, "llama.cpp cannot run this model: %s", w->broken);
            goto done;
        }
    }
    m->info.map_ms = mapped - began, m->info.prove_ms = glia_now_ms() - mapped;
    glia_log(GLIA_LOG_DEBUG, "atlas: mapped in %.1f ms, proven in %.1f ms", m->info.map_ms, m->info.prove_ms);
    if (m->atlas) m->info.hooks_refused = m->atlas->refused;
    st = GLIA_OK;
    *out = w, w = NULL;
done:
    if (st == GLIA_ENOMEM && err && !err->message[0]) glia_fail(err, st, "out of memory for the engine");
    glia_worker_free(w);
    return st;
}

void glia_worker_free(glia_worker *w) {
    if (!w) return;
    if (w->batch.token) llama_batch_free(w->batch);
    glia_tap_set_staging(w->tap, NULL); /* borrows the context's backends */
    if (w->ctx) llama_free(w->ctx);
    for (int32_t i = 0; w->slots && i < w->n_slots; i++) glia_free(w->slots[i].tokens);
    glia_tap_free(w->tap);
    glia_free(w->heads_out);
    glia_shelf_free(w->shelf);
    glia_drafter_free(w->drafter);
    glia_buf_clear(&w->out);
    glia_free(w->slots);
    glia_free(w->rows);
    glia_free(w->wants);
    glia_free(w->edits);
    glia_free(w->scratch);
    glia_free(w);
}

/* engine/model.c — opening, closing and asking about a model.
 *
 * glia_model_open runs on the caller's thread and waits for the engine thread, which loads the weights itself (it owns
 * them) and then runs worker.c's loop.  Everything is checked before llama.cpp sees the file. */
#include "engine/model.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "engine/sampler.h"
#include "ggml-backend.h"
#include "gguf.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ llama.cpp's log */

/* The last complaint of llama.cpp on this thread: the reason of a failed load is only said there. */
static _Thread_local char last_error[320];

static void on_llama_log(enum ggml_log_level level, const char *text, void *ud) {
    (void)ud;
    size_t n = strcspn(text, "\n");
    if (!n) return;
    if (level == GGML_LOG_LEVEL_ERROR) {
        (void)snprintf(last_error, sizeof last_error, "%.*s", (int)(n < 300 ? n : 300), text);
    }
    glia_log(GLIA_LOG_DEBUG, "llama.cpp: %.*s", (int)n, text);
}

void glia_model_note_errors(void) { last_error[0] = 0; }
const char *glia_model_last_error(void) { return last_error; }

static void start_llama(void) {
    llama_log_set(on_llama_log, NULL);
    llama_backend_init();
}
static pthread_once_t llama_once = PTHREAD_ONCE_INIT;

const char *glia_llama_version(void) { return llama_version(); }

/* ------------------------------------------------------------------ numbers of the KV cache */

static const struct {
    const char *name;
    double bytes;
} kv_types[] = {
#define X(id, name, bytes) {name, bytes},
    GLIA_KV_MAP(X)
#undef X
};

const char *glia_kv_name(glia_kv_type t) { return (unsigned)t < GLIA_N_KV_TYPES ? kv_types[t].name : "unknown"; }
double glia_kv_bytes(glia_kv_type t) { return (unsigned)t < GLIA_N_KV_TYPES ? kv_types[t].bytes : 0; }
bool glia_kv_is_quantized(glia_kv_type t) { return glia_kv_bytes(t) < 2; }

/* ------------------------------------------------------------------ checks before loading */

static uint64_t available_memory(void) {
    uint64_t kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    if (f) {
        char line[128];
        unsigned long long v;
        while (fgets(line, sizeof line, f)) {
            if (sscanf(line, "MemAvailable: %llu kB", &v) == 1) kib = v;
        }
        (void)fclose(f);
    }
    if (kib) return kib * 1024;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : UINT64_MAX;
}

static int64_t meta_int(const struct gguf_context *g, const char *arch, const char *key, int64_t missing) {
    char name[160];
    (void)snprintf(name, sizeof name, "%s.%s", arch, key);
    int64_t id = gguf_find_key(g, name);
    if (id < 0) return missing;
    switch (gguf_get_kv_type(g, id)) {
    case GGUF_TYPE_UINT32: return gguf_get_val_u32(g, id);
    case GGUF_TYPE_INT32: return gguf_get_val_i32(g, id);
    case GGUF_TYPE_UINT64: return (int64_t)gguf_get_val_u64(g, id);
    case GGUF_TYPE_UINT16: return gguf_get_val_u16(g, id);
    default: return missing; /* per-layer arrays: the caller's upper bound stands */
    }
}

static const char *meta_string(const struct gguf_context *g, const char *key) {
    int64_t id = gguf_find_key(g, key);
    return id >= 0 && gguf_get_kv_type(g, id) == GGUF_TYPE_STRING ? gguf_get_val_str(g, id) : NULL;
}

/* Bytes of K and V over all slots: an upper bound from the metadata. */
static uint64_t cache_bytes(const struct gguf_context *g, const glia_model_params *p) {
    const char *arch = meta_string(g, "general.architecture");
    if (!arch) return 0;
    int64_t layers = meta_int(g, arch, "block_count", 0), embd = meta_int(g, arch, "embedding_length", 0);
    int64_t heads = meta_int(g, arch, "attention.head_count", 1),
            kv = meta_int(g, arch, "attention.head_count_kv", heads);
    if (layers <= 0 || embd <= 0 || heads <= 0 || kv <= 0 || layers > 100000 || embd > 1000000) return 0;
    int64_t k = meta_int(g, arch, "attention.key_length", embd / heads);
    int64_t v = meta_int(g, arch, "attention.value_length", embd / heads);
    if (k < 0 || v < 0 || k > 1000000 || v > 1000000 || kv > 1000000) return 0;
    double per = glia_kv_bytes(p->kv_type);
    return (uint64_t)((double)(k + v) * (double)kv * (double)layers * per * (double)p->n_ctx * (double)p->n_parallel);
}

static glia_status check_file(const glia_model_params *p, const struct gguf_context *g, const struct stat *sb,
                              uint64_t *taken, glia_err *err) {
    uint64_t end = 0, data = gguf_get_data_offset(g);
    for (int64_t i = 0; i < gguf_get_n_tensors(g); i++) {
        uint64_t off = gguf_get_tensor_offset(g, i), size = gguf_get_tensor_size(g, i);
        if (off > UINT64_MAX - data - size)
            return glia_fail(err, GLIA_EINVAL, "%s is corrupt: a tensor lies outside the file", p->path);
        if (data + off + size > end) end = data + off + size;
    }
    if (end > (uint64_t)sb->st_size) {
        return glia_fail(err, GLIA_EINVAL,
                         "%s is truncated: its tensors need %llu bytes, the file has %llu; fetch it again", p->path,
                         (unsigned long long)end, (unsigned long long)sb->st_size);
    }
    if (!meta_string(g, "general.architecture")) {
        return glia_fail(err, GLIA_EINVAL, "%s names no architecture: it is no language model", p->path);
    }
    uint64_t need = (uint64_t)sb->st_size + cache_bytes(g, p), have = p->memory_limit;
    if (!have) have = p->n_gpu_layers ? UINT64_MAX : available_memory();
    if (have < *taken || need > have - *taken) {
        return glia_fail(err, GLIA_ENOMEM,
                         "%s needs about %.1f GiB (weights %.1f, KV cache %.1f), %.1f GiB are allowed: use a smaller "
                         "model, --ctx or --parallel, or raise --memory-limit",
                         p->path, (double)need / 0x1p30, (double)sb->st_size / 0x1p30,
                         (double)cache_bytes(g, p) / 0x1p30,
                         (double)(have > *taken ? have - *taken : 0) / 0x1p30);
    }
    *taken += need;
    return GLIA_OK;
}

/* *taken: memory that other files of this model need already; grows.  weights: NULL for a draft model. */
static glia_status check(glia_model_params *p, uint64_t *taken, uint64_t *header_bytes, glia_weights **weights,
                         glia_err *err) {
    struct stat sb;
    char magic[4] = {0};
    int fd = open(p->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return glia_fail(err, errno == ENOENT ? GLIA_ENOTFOUND : GLIA_EINVAL, "cannot open %s: %s", p->path,
                         strerror(errno));
    bool regular = !fstat(fd, &sb) && S_ISREG(sb.st_mode);
    ssize_t n = regular ? read(fd, magic, sizeof magic) : 0;
    (void)close(fd);
    if (!regular) return glia_fail(err, GLIA_EINVAL, "%s is not a file", p->path);
    if (n != 4 || memcmp(magic, "GGUF", 4) != 0) {
        return glia_fail(err, GLIA_EINVAL, "%s is not a GGUF file: convert the model with llama.cpp's converter",
                         p->path);
    }
    last_error[0] = 0;
    struct gguf_context *g = gguf_init_from_file(p->path, (struct gguf_init_params){.no_alloc = true, .ctx = NULL});
    if (!g) {
        return glia_fail(err, GLIA_EINVAL, "%s is a damaged GGUF file%s%s", p->path, last_error[0] ? ": " : "",
                         last_error);
    }
    const char *arch = meta_string(g, "general.architecture");
    int64_t trained = arch ? meta_int(g, arch, "context_length", 4096) : 4096;
    if (p->n_ctx == 0) p->n_ctx = trained > 0 && trained < 4096 ? (int32_t)trained : 4096;
    *header_bytes = gguf_get_data_offset(g);
    glia_status st = check_file(p, g, &sb, taken, err);
    /* a table of learned positions has no rows beyond them; llama.cpp would abort in the middle of a request */
    if (!st && p->n_ctx > trained && gguf_find_tensor(g, "position_embd.weight") >= 0) {
        st = glia_fail_at(err, GLIA_EINVAL, "ctx", "%s has learned positions for %lld tokens: --ctx must not be larger",
                          p->path, (long long)trained);
    }
    if (!st && weights && !(*weights = glia_weights_new(p->path, g))) st = glia_fail(err, GLIA_ENOMEM, "out of memory");
    gguf_free(g);
    return st;
}

/* The files that are loaded together: the model, then its draft model. */
static glia_status check_files(glia_model *m, glia_err *err) {
    uint64_t taken = 0, ignored;
    glia_status st = check(&m->params, &taken, &m->header_bytes, &m->weights, err);
    for (size_t i = 0; !st && i < m->n_adapters; i++) {
        struct stat sb;
        if (stat(m->adapters[i].path, &sb) || !S_ISREG(sb.st_mode))
            return glia_fail_at(err, GLIA_ENOTFOUND, "lora", "cannot open %s", m->adapters[i].path);
        taken += (uint64_t)sb.st_size;
    }
    if (st || !m->draft) return st;
    glia_model_params p = m->params;
    p.path = m->draft;
    st = check(&p, &taken, &ignored, NULL, err);
    if (st && err && !err->param[0]) (void)snprintf(err->param, sizeof err->param, "draft");
    return st;
}

/* ------------------------------------------------------------------ the engine thread */

static bool meta_text(const struct llama_model *lm, const char *key, char **out) {
    char buf[256];
    int32_t n = llama_model_meta_val_str(lm, key, buf, sizeof buf);
    return (*out = glia_strdup(n > 0 ? buf : "unknown")) != NULL;
}

/* What the file says about vectors: llama.cpp's numbers of poolings. */
static void read_embedding(glia_model *m) {
    char key[96], value[32];
    (void)snprintf(key, sizeof key, "%.60s.attention.causal", m->arch);
    m->info.encoder = llama_model_meta_val_str(m->lm, key, value, sizeof value) > 0 && !strcmp(value, "false");
    m->info.n_vector = m->info.encoder ? llama_model_n_embd_out(m->lm) : m->info.n_embd;
    (void)snprintf(key, sizeof key, "%.60s.pooling_type", m->arch);
    int pooling = llama_model_meta_val_str(m->lm, key, value, sizeof value) > 0 ? atoi(value) : LLAMA_POOLING_TYPE_NONE;
    m->info.pooling = pooling == LLAMA_POOLING_TYPE_CLS    ? GLIA_POOL_CLS
                      : pooling == LLAMA_POOLING_TYPE_LAST ? GLIA_POOL_LAST
                                                           : GLIA_POOL_MEAN;
    if (pooling == LLAMA_POOLING_TYPE_RANK) m->info.embeddings_refused = "it ranks texts and makes no vectors";
}

static glia_status load(glia_model *m, glia_err *err) {
    const glia_model_params *p = &m->params;
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = p->n_gpu_layers;
    mp.progress_callback = p->on_progress, mp.progress_callback_user_data = p->progress_ud;
    last_error[0] = 0;
    const char *why;
    m->lm = glia_bridge_load(m->path, &mp, &why);
    if (!m->lm) {
        return glia_fail(err, GLIA_EINVAL, "llama.cpp cannot load %s: %s", m->path,
                         why[0]          ? why
                         : last_error[0] ? last_error
                                         : "cancelled");
    }
    if (!llama_model_has_decoder(m->lm) || llama_model_has_encoder(m->lm)) {
        return glia_fail(err, GLIA_EINVAL, "%s is not a decoder-only language model: not supported yet", m->path);
    }
    char desc[128] = "";
    llama_model_desc(m->lm, desc, sizeof desc);
    if (!meta_text(m->lm, "general.architecture", &m->arch) || !(m->description = glia_strdup(desc))) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory loading %s", m->path);
    }
    m->vocab = llama_model_get_vocab(m->lm);
    m->info = (glia_model_info){.id = m->id,
                                .path = m->path,
                                .arch = m->arch,
                                .description = m->description,
                                .n_layer = llama_model_n_layer(m->lm),
                                .n_embd = llama_model_n_embd(m->lm),
                                .n_head = llama_model_n_head(m->lm),
                                .n_head_kv = llama_model_n_head_kv(m->lm),
                                .n_vocab = llama_vocab_n_tokens(m->vocab),
                                .n_ctx = p->n_ctx,
                                .n_ctx_train = llama_model_n_ctx_train(m->lm),
                                .n_parallel = p->n_parallel,
                                .n_batch = p->n_batch,
                                .n_params = llama_model_n_params(m->lm),
                                .n_bytes = llama_model_size(m->lm),
                                .adapters = m->adapters,
                                .n_adapters = m->n_adapters,
                                .created = (int64_t)time(NULL)};
    if (m->info.n_vocab <= 0) return glia_fail(err, GLIA_EINVAL, "%s has no vocabulary", m->path);
    read_embedding(m);
    if (m->info.encoder) return glia_encoder_new(&m->encoder, m, err);
    glia_status st = glia_bridge_templates_new(&m->templates, m->lm, &m->info.has_chat_template, err);
    if (st == GLIA_ENOMEM) return st;
    if (st) { /* the model still completes text; chats are refused with the reason */
        glia_log(GLIA_LOG_WARN, "%s", err->message);
        glia_err_clear(err);
    }
    return glia_worker_new(&m->worker, m, err);
}

static void *engine_main(void *arg) {
    glia_model *m = arg;
    glia_err err = {0};
    glia_status st = load(m, &err);
    pthread_mutex_lock(&m->lock);
    m->err = err;
    m->state = st ? GLIA_MODEL_FAILED : GLIA_MODEL_READY;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (!st && m->encoder) glia_encoder_run(m->encoder);
    else if (!st) glia_worker_run(m->worker);
    pthread_mutex_lock(&m->lock);
    glia_worker *w = m->worker;
    m->worker = NULL; /* glia_model_close may be about to tell it to stop */
    pthread_mutex_unlock(&m->lock);
    glia_worker_free(w);
    glia_encoder_free(m->encoder); /* nobody submits to it any more: texts hold the model */
    if (m->lm) llama_model_free(m->lm);
    m->lm = NULL;
    return NULL;
}

/* ------------------------------------------------------------------ open and close */

bool glia_has_gpu(void) {
    (void)pthread_once(&llama_once, start_llama);
    return llama_supports_gpu_offload();
}

uint64_t glia_gpu_memory(void) {
    uint64_t sum = 0;
    (void)pthread_once(&llama_once, start_llama);
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        size_t unused = 0, total = 0;
        ggml_backend_dev_t d = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(d) != GGML_BACKEND_DEVICE_TYPE_GPU) continue;
        ggml_backend_dev_memory(d, &unused, &total);
        sum += unused;
    }
    return sum;
}

void glia_model_params_init(glia_model_params *p) { *p = (glia_model_params){0}; }

static glia_status resolve(glia_model_params *p, glia_err *err) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!p->path || !p->path[0]) return glia_fail_at(err, GLIA_EINVAL, "model", "name a GGUF file");
    if (p->n_parallel == 0) p->n_parallel = 4;
    if (p->n_batch == 0) p->n_batch = 512;
    if (p->n_threads == 0) p->n_threads = cores > 0 && cores < 1024 ? (int32_t)cores : 4;
    if (!p->queue_limit) p->queue_limit = 256;
    if (!p->event_bytes) p->event_bytes = 8u << 20;
    if (!p->capture_bytes) p->capture_bytes = (size_t)2 << 30;
    if (p->capture_wait_ms <= 0) p->capture_wait_ms = 30000;
    if (p->stall_ms <= 0) p->stall_ms = 10000;
    if (p->speculate == GLIA_SPECULATE_DEFAULT)
        p->speculate = p->draft_path ? GLIA_SPECULATE_DRAFT : GLIA_SPECULATE_OFF;
    if (p->speculate == GLIA_SPECULATE_DRAFT && !p->draft_path)
        return glia_fail_at(err, GLIA_EINVAL, "speculative", "a draft model is needed to draft: name one with --draft");
    if (!p->prompt_cache_bytes) p->prompt_cache_bytes = (int64_t)1 << 30;
    const struct {
        const char *name;
        int64_t v, lo, hi;
    } rows[] = {{"parallel", p->n_parallel, 1, 256},
                {"batch", p->n_batch, 32, 16384},
                {"threads", p->n_threads, 1, 1024},
                {"ctx", p->n_ctx, 0, 16 << 20},
                {"gpu-layers", p->n_gpu_layers, -1, 100000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].v < rows[i].lo || rows[i].v > rows[i].hi) {
            return glia_fail_at(err, GLIA_EINVAL, rows[i].name, "%s must lie between %lld and %lld", rows[i].name,
                                (long long)rows[i].lo, (long long)rows[i].hi);
        }
    }
    if ((unsigned)p->kv_type >= GLIA_N_KV_TYPES) {
        return glia_fail_at(err, GLIA_EINVAL, "cache-type", "there is no such type of numbers");
    }
    if (glia_kv_is_quantized(p->kv_type) && p->flash == GLIA_FLASH_OFF) {
        return glia_fail_at(err, GLIA_EINVAL, "cache-type", "a %s cache needs flash attention: leave --flash-attn on",
                            glia_kv_name(p->kv_type));
    }
    if (p->n_ctx > 0 && p->n_ctx < 16) return glia_fail_at(err, GLIA_EINVAL, "ctx", "ctx must be at least 16");
    return GLIA_OK;
}

/* File name without folder and ".gguf". */
static char *id_of_path(const char *path) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t n = strlen(base);
    if (n > 5 && !strcasecmp(base + n - 5, ".gguf")) n -= 5;
    return glia_strndup(base, n);
}

static glia_status copy_adapters(glia_model *m, const glia_model_params *p, glia_err *err) {
    if (p->n_adapters > GLIA_MAX_ADAPTERS)
        return glia_fail_at(err, GLIA_EINVAL, "lora", "at most %d adapters can be loaded", GLIA_MAX_ADAPTERS);
    for (size_t i = 0; i < p->n_adapters; i++) {
        const glia_adapter_file *in = &p->adapters[i];
        glia_adapter_file *a = &m->adapters[m->n_adapters++];
        a->path = glia_strdup(in->path);
        a->name = in->name ? glia_strdup(in->name) : id_of_path(in->path);
        if (!a->path || !a->name) return glia_fail(err, GLIA_ENOMEM, "out of memory");
        for (size_t k = 0; k < i; k++) {
            if (!strcmp(m->adapters[k].name, a->name))
                return glia_fail_at(err, GLIA_EINVAL, "lora", "two adapters are called %s: give one a name", a->name);
        }
    }
    m->params.adapters = m->adapters;
    return GLIA_OK;
}

glia_status glia_model_open(glia_model **out, const glia_model_params *params, glia_err *err) {
    glia_status st;
    glia_model *m = *out = NULL;
    glia_err_clear(err);
    if (!(m = glia_calloc(1, sizeof *m))) return glia_fail(err, GLIA_ENOMEM, "out of memory");
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->lexicon_lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    m->params = *params;
    (void)pthread_once(&llama_once, start_llama);
    if ((st = resolve(&m->params, err))) goto done;
    m->path = glia_strdup(params->path);
    m->id = params->id && params->id[0] ? glia_strdup(params->id) : id_of_path(params->path);
    m->inbox = glia_inbox_new(m->params.queue_limit);
    m->memory = m->params.capture_memory ? glia_capture_memory_ref(m->params.capture_memory)
                                         : glia_capture_memory_new(m->params.capture_bytes);
    if (m->inbox && m->memory) m->joined = glia_capture_memory_join(m->memory, m->inbox);
    if (params->draft_path && params->draft_path[0]) m->draft = glia_strdup(params->draft_path);
    bool no_draft = params->draft_path && params->draft_path[0] && !m->draft;
    if (!m->path || !m->id || !m->joined || no_draft) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory");
        goto done;
    }
    m->params.path = m->path, m->params.id = m->id, m->params.draft_path = m->draft;
    if ((st = copy_adapters(m, params, err)) || (st = check_files(m, err))) goto done;
    int rc = pthread_create(&m->thread, NULL, engine_main, m);
    if (rc) {
        st = glia_fail(err, GLIA_EINTERNAL, "cannot start a thread: %s", strerror(rc));
        goto done;
    }
    m->thread_started = true;
    pthread_mutex_lock(&m->lock);
    while (m->state == GLIA_MODEL_LOADING) pthread_cond_wait(&m->changed, &m->lock);
    if (m->state == GLIA_MODEL_FAILED) {
        st = m->err.status ? m->err.status : GLIA_EINTERNAL;
        if (err) *err = m->err;
    }
    pthread_mutex_unlock(&m->lock);
    if (!st) *out = m, m = NULL;
done:
    glia_model_close(m);
    return st;
}

void glia_model_close(glia_model *m) {
    if (!m) return;
    if (m->thread_started) {
        pthread_mutex_lock(&m->inbox->lock);
        m->inbox->stopped = true;
        pthread_cond_signal(&m->inbox->wake);
        pthread_mutex_unlock(&m->inbox->lock);
        pthread_mutex_lock(&m->lock);
        if (m->worker) glia_worker_stop(m->worker);
        if (m->encoder) glia_encoder_stop(m->encoder);
        pthread_mutex_unlock(&m->lock);
        pthread_join(m->thread, NULL);
    }
    if (m->joined) glia_capture_memory_leave(m->memory, m->inbox);
    glia_capture_memory_unref(m->memory);
    glia_pages_unref(m->pages);
    glia_bridge_templates_free(m->templates);
    glia_weights_free(m->weights);
    glia_atlas_free(m->atlas);
    glia_inbox_unref(m->inbox);
    glia_free(m->id);
    glia_free(m->path);
    glia_free(m->draft);
    for (size_t i = 0; i < m->n_adapters; i++) {
        glia_free((char *)(uintptr_t)m->adapters[i].name);
        glia_free((char *)(uintptr_t)m->adapters[i].path);
    }
    glia_free(m->arch);
    glia_free(m->description);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->lexicon_lock);
    glia_lexicon_free(m->lexicon);
    glia_free(m);
}

/* ------------------------------------------------------------------ look-ups */

void glia_model_get_info(const glia_model *m, glia_model_info *out) { *out = m->info; }

void glia_model_capture_usage(const glia_model *m, glia_capture_usage *out) {
    glia_capture_memory_read(m->memory, out);
}

glia_status glia_model_lease(glia_lease **out, const glia_model *m, uint64_t n_bytes, glia_err *err) {
    glia_capture_usage u;
    *out = NULL;
    glia_capture_memory_read(m->memory, &u);
    if (n_bytes > u.limit || n_bytes > SIZE_MAX) {
        return glia_fail(err, GLIA_ETOOLARGE, "%.1f MiB of activations are more than the %.1f MiB there are",
                         (double)n_bytes / 1048576, (double)u.limit / 1048576);
    }
    glia_status st = glia_lease_take(out, m->memory, n_bytes);
    if (!st) glia_lease_hold(*out, (size_t)n_bytes);
    else if (st == GLIA_EBUSY)
        glia_fail_at(err, st, "activation_hooks", "%.1f MiB of activations are not free now: others hold %.1f of %.1f MiB",
                     (double)n_bytes / 1048576, (double)u.leased / 1048576, (double)u.limit / 1048576);
    else glia_fail(err, st, "out of memory for activations");
    return st;
}

void glia_model_activity(const glia_model *m, glia_activity *out) {
    const glia_tally *t = &m->tally;
    *out = (glia_activity){.requests = atomic_load(&t->requests),
                           .finished = atomic_load(&t->finished),
                           .passes = atomic_load(&t->passes),
                           .short_passes = atomic_load(&t->short_passes),
                           .prompt_tokens = atomic_load(&t->prompt_tokens),
                           .cached_tokens = atomic_load(&t->cached_tokens),
                           .generated_tokens = atomic_load(&t->generated_tokens),
                           .restored_tokens = atomic_load(&t->restored_tokens),
                           .prompt_cache_bytes = atomic_load(&t->shelf_bytes),
                           .n_busy = atomic_load(&t->n_busy)};
    pthread_mutex_lock(&m->inbox->lock);
    out->n_waiting = (int32_t)m->inbox->n_waiting;
    pthread_mutex_unlock(&m->inbox->lock);
}

bool glia_model_weight(const glia_model *m, const char *name, int64_t *n_rows, int64_t *n_cols) {
    glia_weight w;
    bool found = glia_weights_map(m->weights, name, &w);
    *n_rows = w.ne1, *n_cols = w.ne0;
    return found;
}

bool glia_model_weight_rows(const glia_model *m, const char *name, int64_t from, int64_t to, float *out) {
    glia_weight w;
    return glia_weights_map(m->weights, name, &w) && glia_weight_rows(&w, from, to, out);
}

bool glia_model_final_norm(const glia_model *m, glia_final_norm *out) {
    *out = (glia_final_norm){0};
    const glia_lens *l = m->atlas ? &m->atlas->lens : NULL;
    if (!l || !l->known) return false;
    *out = (glia_final_norm){l->centred, l->eps, l->weight[0] ? l->weight : NULL, l->bias[0] ? l->bias : NULL};
    return true;
}

bool glia_model_meta(const glia_model *m, const char *key, char *out, size_t cap) {
    int32_t n = llama_model_meta_val_str(m->lm, key, out, cap);
    return n >= 0 && (size_t)n < cap;
}

bool glia_model_point(const glia_model *m, glia_point p, int32_t layer, glia_point_info *out) {
    *out = (glia_point_info){0};
    if ((unsigned)p >= GLIA_N_POINTS) return false;
    if (glia_point_has_layer(p) && (layer < 0 || layer >= m->info.n_layer)) return false;
    const glia_place *pl = m->atlas ? glia_atlas_place(m->atlas, p, layer) : NULL;
    if (!pl) {
        (void)snprintf(out->reason, sizeof out->reason, "this model's graph could not be mapped");
        return true;
    }
    out->grade = pl->grade, out->width = pl->width, out->n_heads = pl->n_heads, out->head_dim = pl->head_dim;
    out->group = pl->group, out->by_position = p == GLIA_POINT_ATTN_SCORES || p == GLIA_POINT_ATTN_PROBS;
    memcpy(out->reason, pl->reason, sizeof out->reason);
    return true;
}

static bool outputs_only(const glia_model *m, glia_point p, int32_t layer) {
    const glia_place *pl = m->atlas ? glia_atlas_place(m->atlas, p, layer) : NULL;
    return pl && pl->row_kind == GLIA_ROWS_OUTPUTS;
}

static const char *refuses_edit(const glia_model *m, glia_point p, int32_t layer) {
    return m->atlas ? glia_tap_refuses_edit(glia_atlas_place(m->atlas, p, layer)) : "this model is not mapped";
}

void glia_model_limits(const glia_model *m, glia_request_limits *out) {
    *out = (glia_request_limits){.n_ctx = m->info.n_ctx,
                                 .n_vocab = m->info.n_vocab,
                                 .n_layer = m->info.n_layer,
                                 .event_bytes = m->params.event_bytes,
                                 .speculate = m->params.speculate,
                                 .has_draft = m->draft != NULL,
                                 .n_adapters = (int32_t)m->n_adapters,
                                 .speculates = m->info.speculates,
                                 .memory = m->memory,
                                 .pages = m->pages,
                                 .hooks_refused = m->info.hooks_refused,
                                 .model = m,
                                 .outputs_only = outputs_only,
                                 .refuses_edit = refuses_edit};
}

glia_status glia_model_tokenize(const glia_model *m, const char *text, size_t n_text, bool add_special,
                                bool parse_special, int32_t **out, size_t *n_out, glia_err *err) {
    *out = NULL, *n_out = 0;
    if (n_text > (size_t)64 << 20) return glia_fail(err, GLIA_ETOOLARGE, "text of more than 64 MiB");
    if (!glia_utf8_valid(text, n_text)) return glia_fail(err, GLIA_EINVAL, "the text is not valid UTF-8");
    int32_t cap = (int32_t)n_text + 16; /* no vocabulary makes more tokens than bytes, but for BOS and EOS */
    int32_t *ids = glia_malloc((size_t)cap * sizeof *ids);
    if (!ids) return glia_fail(err, GLIA_ENOMEM, "out of memory tokenising %zu bytes", n_text);
    int32_t n = llama_tokenize(m->vocab, text, (int32_t)n_text, ids, cap, add_special, parse_special);
    if (n < 0 && n != INT32_MIN) {
        int32_t *more = glia_realloc(ids, (size_t)-n * sizeof *ids);
        if (!more) {
            glia_free(ids);
            return glia_fail(err, GLIA_ENOMEM, "out of memory tokenising %zu bytes", n_text);
        }
        ids = more;
        n = llama_tokenize(m->vocab, text, (int32_t)n_text, ids, -n, add_special, parse_special);
    }
    if (n < 0) {
        glia_free(ids);
        return glia_fail(err, GLIA_EINVAL, "the text cannot be tokenised");
    }
    *out = ids, *n_out = (size_t)n;
    return GLIA_OK;
}

glia_status glia_model_detokenize(const glia_model *m, const int32_t *ids, size_t n_ids, bool special, char **out,
                                  size_t *n_out, glia_err *err) {
    *out = NULL, *n_out = 0;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= m->info.n_vocab) {
            return glia_fail_at(err, GLIA_EINVAL, "tokens", "token %d does not exist: ids run from 0 to %d", ids[i],
                                m->info.n_vocab - 1);
        }
    }
    if (n_ids > (size_t)16 << 20) return glia_fail_at(err, GLIA_ETOOLARGE, "tokens", "more than 16 Mi tokens");
    glia_buf b = {0};
    for (size_t i = 0; i < n_ids && !b.failed; i++) {
        if (!glia_buf_reserve(&b, 256)) break;
        int32_t n = llama_token_to_piece(m->vocab, ids[i], b.p + b.n, 256, 0, special);
        if (n < 0 && glia_buf_reserve(&b, (size_t)-n)) {
            n = llama_token_to_piece(m->vocab, ids[i], b.p + b.n, -n, 0, special);
        }
        if (n > 0) b.n += (size_t)n;
    }
    if (!(*out = glia_buf_take(&b, n_out))) return glia_fail(err, GLIA_ENOMEM, "out of memory");
    (*out)[*n_out] = 0;
    return GLIA_OK;
}

glia_status glia_model_infill_prompt(const glia_model *m, const int32_t *prefix, size_t n_prefix, const int32_t *suffix,
                                     size_t n_suffix, int32_t **out, size_t *n_out, glia_err *err) {
    int32_t pre = llama_vocab_fim_pre(m->vocab), suf = llama_vocab_fim_suf(m->vocab),
            mid = llama_vocab_fim_mid(m->vocab);
    *out = NULL, *n_out = 0;
    if (pre == LLAMA_TOKEN_NULL || suf == LLAMA_TOKEN_NULL || mid == LLAMA_TOKEN_NULL) {
        return glia_fail_at(err, GLIA_EINVAL, "suffix", "%s was not trained to fill in the middle: leave suffix out",
                            m->id);
    }
    bool bos = llama_vocab_get_add_bos(m->vocab);
    int32_t *p = glia_malloc((n_prefix + n_suffix + 4) * sizeof *p), n = 0;
    if (!p) return glia_fail(err, GLIA_ENOMEM, "out of memory for the prompt");
    if (bos) p[n++] = llama_vocab_bos(m->vocab);
    p[n++] = pre; /* prefix, suffix, middle: the order of every model that names these tokens */
    if (n_prefix) memcpy(p + n, prefix, n_prefix * sizeof *p), n += (int32_t)n_prefix;
    p[n++] = suf;
    if (n_suffix) memcpy(p + n, suffix, n_suffix * sizeof *p), n += (int32_t)n_suffix;
    p[n++] = mid;
    *out = p, *n_out = (size_t)n;
    return GLIA_OK;
}

glia_status glia_model_chat(const glia_model *m, const char *json, size_t n_json, glia_chat **out, glia_err *err) {
    *out = NULL;
    if (!m->templates) {
        return glia_fail_at(err, GLIA_EINVAL, "messages",
                            "this model's chat template cannot be read: use /v1/completions");
    }
    return glia_bridge_chat(m->templates, json, n_json, out, err);
}

glia_status glia_model_chat_prompt(const glia_model *m, const char *messages_json, size_t n_json, char **out,
                                   size_t *n_out, bool *add_special, glia_err *err) {
    glia_buf json = {0};
    glia_chat *c = NULL;
    *out = NULL, *n_out = 0;
    glia_buf_adds(&json, "{\"messages\":");
    glia_buf_add(&json, messages_json, n_json);
    glia_buf_adds(&json, "}");
    glia_status st = json.failed ? glia_fail(err, GLIA_ENOMEM, "out of memory rendering the chat template")
                                 : glia_model_chat(m, json.p, json.n, &c, err);
    if (!st && !(*out = glia_strndup(c->prompt, c->n_prompt)))
        st = glia_fail(err, GLIA_ENOMEM, "out of memory rendering the chat template");
    if (!st) *n_out = c->n_prompt, *add_special = c->add_special;
    glia_chat_free(c);
    glia_buf_clear(&json);
    return st;
}

bool glia_model_knows_tools(const glia_model *m) { return m->templates && glia_bridge_knows_tools(m->templates); }

/* ------------------------------------------------------------------ requests */

void glia_request_params_init(glia_request_params *p) {
    *p = (glia_request_params){.max_tokens = -1,
                               .sampling = {.seed = GLIA_SEED_RANDOM,
                                            .temperature = 0.8f,
                                            .top_k = 40,
                                            .top_p = 0.95f,
                                            .min_p = 0.05f,
                                            .typical_p = 1,
                                            .top_n_sigma = -1,
                                            .xtc_threshold = 0.1f,
                                            .penalty_last_n = 64,
                                            .penalty_repeat = 1,
                                            .dry_base = 1.75f,
                                            .dry_allowed_length = 2,
                                            .dry_penalty_last_n = -1,
                                            .mirostat_tau = 5,
                                            .mirostat_eta = 0.1f,
                                            .n_logprobs = -1}};
}

glia_status glia_request_capture_bytes(const glia_model *m, const glia_request_params *p, uint64_t *out,
                                       glia_err *err) {
    glia_request_limits l;
    glia_model_limits(m, &l);
    return glia_request_measure(p, &l, out, NULL, err);
}

glia_status glia_request_capture_peak(const glia_model *m, const glia_request_params *p, uint64_t *out, glia_err *err) {
    glia_request_limits l;
    uint64_t total;
    glia_model_limits(m, &l);
    return glia_request_measure(p, &l, &total, out, err);
}

static glia_status compile(glia_model *m, const glia_request_params *p, glia_rules **out, glia_err *err) {
    *out = NULL;
    if (!p->constraint) return GLIA_OK;
    if (p->constraint->grammar && p->sampling.ignore_eos) {
        return glia_fail_at(err, GLIA_EINVAL, "ignore_eos",
                            "ignore_eos and a constrained answer contradict each other");
    }
    glia_status st = GLIA_OK;
    pthread_mutex_lock(&m->lexicon_lock);
    if (!m->lexicon) st = glia_lexicon_new(&m->lexicon, m->vocab, err);
    pthread_mutex_unlock(&m->lexicon_lock);
    return st ? st : glia_rules_new(out, p->constraint, m->lexicon, err);
}

glia_status glia_request_submit(glia_request **out, glia_model *m, const glia_request_params *p, glia_err *err) {
    glia_request_limits l;
    glia_rules *rules;
    glia_request *r = *out = NULL;
    if (m->info.encoder)
        return glia_fail_at(err, GLIA_EINVAL, "model", "%s makes vectors only: use /v1/embeddings", m->id);
    glia_model_limits(m, &l);
    glia_status st = glia_sampling_check(&p->sampling, l.n_vocab, err);
    if (!st) st = compile(m, p, &rules, err);
    if (st) return st;
    st = glia_request_new(&r, p, &l, m->inbox, err);
    if (st) {
        glia_rules_free(rules);
        return st;
    }
    r->rules = rules;
    glia_inbox *b = m->inbox;
    pthread_mutex_lock(&b->lock);
    if (b->stopped) {
        st = glia_fail(err, GLIA_EUNAVAILABLE, "the model is being closed");
    } else if (b->n_waiting >= b->limit) {
        st = glia_fail(err, GLIA_EBUSY, "%zu requests are waiting already: try again later", b->n_waiting);
    } else {
        atomic_fetch_add(&r->refs, 1); /* the engine's */
        if (b->last) b->last->next = r;
        else b->first = r;
        b->last = r;
        b->n_waiting++;
        b->stirred = true;
        pthread_cond_signal(&b->wake);
    }
    pthread_mutex_unlock(&b->lock);
    if (st) glia_request_unref(r);
    else *out = r;
    return st;
}

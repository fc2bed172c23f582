/* cli/options.c — the options that serve, demo and inspect share.  Main thread. */
#include "base/log.h"
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>

static const char *const flash_choices[] = {"auto", "on", "off", NULL};
static const char *const kv_choices[] = {
#define X(id, name, bytes) name,
    GLIA_KV_MAP(X)
#undef X
    NULL};
static const char *const speculate_choices[] = {"auto", "off", "ngram", "draft", NULL}; /* order of glia_speculate */
static const char *const log_choices[] = {"error", "warning", "info", "debug", NULL};
static const char *const format_choices[] = {"text", "json", NULL};

void cli_options_init(cli_options *o) {
    *o = (cli_options){.port = -1,
                       .jit = true,
                       .n_gpu_layers = -1,
                       .grace_s = 5,
                       .ttl_s = 3600,
                       .prompt_cache = (size_t)1 << 30,
                       .log_level = GLIA_LOG_WARN};
}

static size_t model_flags(cli_options *o, flag *t) {
    size_t n = 0;
    t[n++] =
        (flag){"--model", FLAG_TEXT, &o->model, "FILE|ID", "GGUF file, or its name in the model folder", 0, 0, NULL};
    t[n++] = (flag){"--ctx", FLAG_INT, &o->n_ctx, "N", "tokens per request (trained context, at most 4096)",
                    0,       1 << 24,  NULL};
    t[n++] =
        (flag){"--gpu-layers", FLAG_INT, &o->n_gpu_layers, "N", "layers on the GPU; -1: all (default), 0: none", -1,
               100000,         NULL};
    t[n++] = (flag){"--threads", FLAG_INT, &o->n_threads, "N", "CPU threads (one per core)", 0, 4096, NULL};
    t[n++] = (flag){"--batch", FLAG_INT, &o->n_batch, "N", "most tokens in one forward pass (512)", 0, 1 << 20, NULL};
    t[n++] =
        (flag){"--flash-attn", FLAG_CHOICE, &o->flash, "auto|on|off", "flash attention (auto)", 0, 0, flash_choices};
    t[n++] = (flag){"--cache-type", FLAG_CHOICE, &o->kv_type, "TYPE", "numbers of the KV cache: f16 (default), f32, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl", 0, 0,
                    kv_choices};
    t[n++] = (flag){"--no-hooks", FLAG_SWITCH, &o->no_hooks, NULL, "text only: no activations, no interventions", 0, 0, NULL};
    t[n++] = (flag){"--no-atlas-cache",
                    FLAG_SWITCH,
                    &o->no_atlas_cache,
                    NULL,
                    "prove the model's points anew at every load",
                    0,
                    0,
                    NULL};
    t[n++] = (flag){"--memory-limit",
                    FLAG_SIZE,
                    &o->memory_limit,
                    "SIZE",
                    "refuse a model that needs more, e.g. 8G (what is free now)",
                    0,
                    0,
                    NULL};
    t[n++] = (flag){"--capture-memory",
                    FLAG_SIZE,
                    &o->capture_bytes,
                    "SIZE",
                    "activations that all requests may hold together (2G)",
                    0,
                    0,
                    NULL};
    t[n++] = (flag){"--lora", FLAG_LIST, &o->lora, "[NAME=]FILE", "LoRA adapter that requests may name, repeatable",
                    0,        0,         NULL};
    t[n++] = (flag){"--draft", FLAG_TEXT, &o->draft, "FILE", "small model with the same tokens, to guess ahead",
                    0,         0,         NULL};
    t[n++] = (flag){"--speculative",
                    FLAG_CHOICE,
                    &o->speculate,
                    "HOW",
                    "guess ahead: auto (draft when there is one), off, ngram or draft",
                    0,
                    0,
                    speculate_choices};
    t[n++] = (flag){"--prompt-cache",
                    FLAG_SIZE,
                    &o->prompt_cache,
                    "SIZE",
                    "host memory for prompts that left their slot (1G); 0: none",
                    0,
                    0,
                    NULL};
    t[n++] = (flag){"--log-level",
                    FLAG_CHOICE,
                    &o->log_level,
                    "LEVEL",
                    "error, warning (default), info (each request) or debug",
                    0,
                    0,
                    log_choices};
    t[n++] = (flag){"--log-format", FLAG_CHOICE, &o->log_format, "text|json", "lines on stderr (text)", 0, 0,
                    format_choices};
    t[n++] = (flag){"--json", FLAG_SWITCH, &o->json, NULL, "output for machines", 0, 0, NULL};
    return n;
}

size_t cli_options_flags(cli_options *o, bool serving, flag *t) {
    size_t n = model_flags(o, t);
    if (!serving) return n;
    t[n++] = (flag){
        "--listen", FLAG_LIST, &o->listen, "HOST:PORT|unix:PATH", "address, repeatable (127.0.0.1:1234; port 0: a free one)",
        0,          0,         NULL};
    t[n++] = (flag){"--port", FLAG_INT, &o->port, "N", "short for --listen 127.0.0.1:N", 0, 65535, NULL};
    t[n++] = (flag){"--parallel", FLAG_INT, &o->n_parallel, "N", "requests computed together (4)", 0, 1024, NULL};
    t[n++] = (flag){"--queue", FLAG_INT, &o->queue, "N", "requests that may wait for a slot; more are a 429 (256)", 0, 1 << 20,
                    NULL};
    t[n++] = (flag){"--stall-timeout", FLAG_INT, &o->stall_s, "SECONDS",
                    "who reads nothing for so long loses its slot when others wait (10)", 0, 3600, NULL};
    t[n++] =
        (flag){"--id", FLAG_TEXT, &o->id, "NAME", "name of the model in requests (from the file name)", 0, 0, NULL};
    t[n++] = (flag){"--models-dir", FLAG_LIST, &o->model_dirs, "DIR",
                    "folder of publisher/model/file.gguf, repeatable (GLIA_MODELS)", 0, 0, NULL};
    t[n++] = (flag){"--mirror", FLAG_LIST, &o->mirrors, "DIR",
                    "folder that clients may download models from, laid out the same, repeatable", 0, 0, NULL};
    t[n++] = (flag){"--alias", FLAG_LIST, &o->aliases, "NAME=MODEL", "another name of a model, repeatable", 0, 0, NULL};
    t[n++] = (flag){"--jit", FLAG_SWITCH, &o->jit, NULL, "load models of the folders when a request names them (default)",
                    0, 0, NULL};
    t[n++] = (flag){"--no-jit", FLAG_SWITCH, &o->no_jit, NULL, "only serve what was loaded by hand", 0, 0, NULL};
    t[n++] = (flag){"--ttl", FLAG_INT, &o->ttl_s, "SECONDS",
                    "unload such a model when it was idle so long; 0: never (3600)", 0, 1 << 30, NULL};
    t[n++] = (flag){"--memory-budget", FLAG_SIZE, &o->memory_budget, "SIZE",
                    "memory for all models together, e.g. 12G (most of what is free at the start)", 0, 0, NULL};
    t[n++] = (flag){"--max-loaded", FLAG_INT, &o->max_loaded, "N", "models at once; 0: as many as fit (0)", 0, 1024,
                    NULL};
    t[n++] = (flag){"--api-key", FLAG_LIST, &o->api_keys, "KEY", "ask clients for this key, repeatable (GLIA_API_KEY)",
                    0,           0,         NULL};
    t[n++] = (flag){"--assets", FLAG_TEXT, &o->assets, "DIR",
                    "folder of lens translators, autoencoders and directions that requests may name", 0, 0, NULL};
    t[n++] = (flag){"--api-key-file", FLAG_TEXT, &o->key_file, "FILE", "keys with what each may do: KEY read,infer,hooks",
                    0,                0,         NULL};
    t[n++] = (flag){"--store", FLAG_TEXT, &o->store, "DIR", "stored runs (GLIA_STORE, or ~/.local/share/glia/runs)", 0, 0,
                    NULL};
    t[n++] = (flag){"--store-limit",
                    FLAG_SIZE,
                    &o->store_limit,
                    "SIZE",
                    "bytes of all stored runs; the oldest requests go first (20G)",
                    0,
                    0,
                    NULL};
    t[n++] = (flag){"--data-dir",
                    FLAG_LIST,
                    &o->data_dirs,
                    "DIR",
                    "harvests over HTTP may read and write there, repeatable (nowhere)",
                    0,
                    0,
                    NULL};
    t[n++] = (flag){"--shutdown-grace",
                    FLAG_INT,
                    &o->grace_s,
                    "SECONDS",
                    "replies under way may go on so long at the end (5)",
                    0,
                    3600,
                    NULL};
    t[n++] = (flag){"--config", FLAG_TEXT, &o->config, "FILE", "lines \"parallel = 8\" (~/.config/glia/serve.conf); none",
                    0,          0,         NULL};
    t[n++] =
        (flag){"--port-file", FLAG_TEXT, &o->port_file, "FILE", "write the bound port there when ready", 0, 0, NULL};
    return n;
}

/* NAME=FILE, or FILE with the name that it has. */
static void adapters(const cli_options *o, glia_model_params *p) {
    static char names[GLIA_MAX_ADAPTERS + 1][64];
    static glia_adapter_file files[GLIA_MAX_ADAPTERS + 1]; /* one too many: the engine refuses it */
    size_t n = o->lora.n < GLIA_MAX_ADAPTERS + 1 ? o->lora.n : GLIA_MAX_ADAPTERS + 1;
    for (size_t i = 0; i < n; i++) {
        const char *text = o->lora.items[i], *eq = strchr(text, '='), *slash = strchr(text, '/');
        bool named = eq && eq > text && (!slash || eq < slash) && (size_t)(eq - text) < sizeof names[i];
        if (named) (void)snprintf(names[i], sizeof names[i], "%.*s", (int)(eq - text), text);
        files[i] = (glia_adapter_file){.name = named ? names[i] : NULL, .path = named ? eq + 1 : text};
    }
    p->adapters = files, p->n_adapters = n;
}

void cli_options_model(const cli_options *o, const char *path, glia_model_params *p) {
    static const glia_flash flash[] = {GLIA_FLASH_AUTO, GLIA_FLASH_ON, GLIA_FLASH_OFF};
    glia_model_params_init(p);
    p->path = path, p->id = o->id;
    p->n_ctx = o->n_ctx, p->n_parallel = o->n_parallel, p->n_batch = o->n_batch;
    p->n_threads = o->n_threads, p->n_gpu_layers = o->n_gpu_layers;
    p->flash = flash[o->flash], p->kv_type = (glia_kv_type)o->kv_type; /* choices in the order of the enum */
    p->memory_limit = o->memory_limit;
    p->atlas_cache = !o->no_atlas_cache, p->no_hooks = o->no_hooks;
    p->stall_ms = o->stall_s * 1000;
    p->queue_limit = (size_t)o->queue;
    p->speculate = (glia_speculate)o->speculate;
    if (path) adapters(o, p);
    if (path) p->draft_path = o->draft; /* it belongs to the model that was named, not to those loaded on demand */
    else if (p->speculate == GLIA_SPECULATE_DRAFT) p->speculate = GLIA_SPECULATE_DEFAULT;
    p->prompt_cache_bytes = o->prompt_cache ? (int64_t)o->prompt_cache : -1;
    p->capture_bytes = o->capture_bytes;
}

void cli_options_log(const cli_options *o) {
    glia_log_set_level((glia_log_level)o->log_level);
    glia_log_set_format((glia_log_format)o->log_format);
}

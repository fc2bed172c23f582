/* cli/server.c — HTTP server and models of this process, as a pair.  Main thread. */
#include "cli/cli.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* Nine tenths of what is free where the models will lie: on the GPUs, in the machine, or (some layers here, some there) in
 * both. */
static uint64_t default_budget(const cli_options *o) {
    bool gpu = o->n_gpu_layers != 0 && glia_has_gpu();
    uint64_t room = gpu ? glia_gpu_memory() : glia_memory_available();
    if (gpu && (!room || o->n_gpu_layers > 0)) {
        uint64_t host = glia_memory_available();
        room = room && host != UINT64_MAX ? room + host : UINT64_MAX;
    }
    if (room == UINT64_MAX) return 0;
    room = room / 10 * 9;
    return o->memory_limit > room ? o->memory_limit : room; /* who allows one model more means it */
}

static glia_status make_app(cli_server *s, const cli_options *o, glia_err *err) {
    glia_app_params p = {.model_dirs = o->model_dirs.items,
                         .n_model_dirs = o->model_dirs.n,
                         .mirrors = o->mirrors.items,
                         .n_mirrors = o->mirrors.n,
                         .capture_bytes = o->capture_bytes,
                         .models = {.aliases = o->aliases.items,
                                    .n_aliases = o->aliases.n,
                                    .jit = o->jit && !o->no_jit,
                                    .jit_ttl_ms = (int64_t)o->ttl_s * 1000,
                                    .budget = o->memory_budget ? o->memory_budget : default_budget(o),
                                    .max_loaded = (size_t)o->max_loaded}};
    cli_options_model(o, NULL, &p.models.model);
    glia_status st = glia_app_init(&s->app, &p, err);
    if (st) return st;
    s->app.assets = o->assets;
    s->app.store = glia_store_new(o->store, o->store_limit ? o->store_limit : (uint64_t)20 << 30, o->data_dirs.items,
                                  o->data_dirs.n);
    if (s->app.store) return GLIA_OK;
    glia_app_clear(&s->app);
    return glia_fail(err, GLIA_ENOMEM, "out of memory");
}

bool cli_server_start(cli_server *s, const cli_options *o) {
    glia_err err;
    glia_http_key *keys;
    size_t n_keys;
    if (!cli_keys_read(o, &keys, &n_keys)) return false;
    glia_http_params p = {
        .listen = o->listen.items,
        .n_listen = o->listen.n,
        .routes = glia_api_routes(),
        .ud = &s->app,
        .keys = keys,
        .n_keys = n_keys,
        .scope_name = glia_scope_name,
        .before = glia_app_before,
        .error_body = glia_api_error_body,
    };
    glia_status st = make_app(s, o, &err);
    if (!st && (st = glia_http_start(&s->http, &p, &err))) glia_app_clear(&s->app);
    cli_keys_free(keys, n_keys);
    return !st || cli_print_error(&err);
}

/* ------------------------------------------------------------------ the first model */

static char *stem_of(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    return glia_strndup(name, n > 5 && !strcasecmp(name + n - 5, ".gguf") ? n - 5 : n);
}

static glia_status wait_for_load(glia_watch *w, bool show, glia_err *err) {
    glia_watched now;
    int percent = -1;
    do {
        if (cli_stop_asked()) glia_watch_cancel(w);
        (void)glia_watch_wait(w, GLIA_LOAD_LOADING, 100);
        glia_watch_get(w, &now);
        if (show && (int)(now.progress * 100) != percent)
            fprintf(stderr, "\rglia: loading %3d %%", percent = (int)(now.progress * 100));
    } while (now.state == GLIA_LOAD_LOADING);
    if (show) fputs("\r\033[K", stderr);
    if (now.state == GLIA_LOAD_READY) return GLIA_OK;
    *err = now.err;
    return err->status ? err->status : glia_fail(err, GLIA_EINTERNAL, "the model was unloaded while it loaded");
}

glia_status cli_server_load(cli_server *s, const cli_options *o, const char *path) {
    glia_err err;
    glia_watch *w = NULL;
    char *stem = stem_of(path), *here = NULL;
    glia_model_params params;
    glia_load_options lo = {.id = o->id ? o->id : stem, .params = &params, .ttl_ms = -1};
    cli_options_model(o, path, &params); /* with its own draft model and adapters */
    params.capture_memory = s->app.capture_memory;
    if (!stem || (!strchr(path, '/') && asprintf(&here, "./%s", path) < 0)) {
        glia_free(stem);
        (void)cli_print_error(&(glia_err){.message = "out of memory"});
        return GLIA_ENOMEM;
    }
    glia_status st = glia_registry_load(s->app.models, here ? here : path, &lo, &w, &err);
    if (!st) st = wait_for_load(w, isatty(STDERR_FILENO) && !o->json, &err);
    glia_watch_free(w);
    glia_free(stem);
    free(here);
    if (st && cli_stop_asked()) st = GLIA_ECANCELLED;
    else if (st) (void)cli_print_error(&err);
    return st;
}

/* The models go last: jobs of open connections use them until the server has stopped. */
void cli_server_stop(cli_server *s, unsigned grace_ms) {
    glia_http_stop(s->http, grace_ms);
    s->http = NULL;
    glia_app_clear(&s->app);
}

/* cli/server.c — HTTP server and models of this process, as a pair.  Main thread. */
#include "cli/cli.h"
#include "base/err.h"

enum { GIB = 1 << 30 };

bool cli_server_start(cli_server *s, const cli_options *o) {
    glia_err err;
    glia_http_key *keys;
    size_t n_keys;
    if (!cli_keys_read(o, &keys, &n_keys)) return false;
    glia_app_init(&s->app);
    s->app.assets = o->assets;
    s->app.capture_memory = glia_capture_memory_new(o->capture_bytes ? o->capture_bytes : (size_t)2 * GIB);
    glia_http_params p = {
        .listen = o->listen.items,
        .n_listen = o->listen.n,
        .routes = glia_api_routes(),
        .ud = &s->app,
        .keys = keys,
        .n_keys = n_keys,
        .scope_name = glia_scope_name,
        .error_body = glia_api_error_body,
    };
    glia_app_set_loading(&s->app, true);
    glia_status st = s->app.capture_memory && s->app.tasks ? glia_http_start(&s->http, &p, &err)
                                                           : glia_fail(&err, GLIA_ENOMEM, "out of memory");
    cli_keys_free(keys, n_keys);
    if (!st) return true;
    glia_app_clear(&s->app);
    return cli_print_error(&err);
}

/* The models go last: jobs of open connections use them until the server has stopped. */
void cli_server_stop(cli_server *s, unsigned grace_ms) {
    glia_http_stop(s->http, grace_ms);
    s->http = NULL;
    glia_app_clear(&s->app);
}

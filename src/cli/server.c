/* cli/server.c — HTTP server and models of this process, as a pair.  Main thread. */
#include "cli/cli.h"
#include "base/err.h"

enum { GIB = 1 << 30 };

bool cli_server_start(cli_server *s, const char *const *listen, size_t n_listen, const flag_list *keys,
                      size_t capture_bytes) {
    glia_err err;
    glia_app_init(&s->app);
    s->app.capture_memory = glia_capture_memory_new(capture_bytes ? capture_bytes : (size_t)2 * GIB);
    if (!s->app.capture_memory || !s->app.tasks) {
        glia_app_clear(&s->app);
        (void)glia_fail(&err, GLIA_ENOMEM, "out of memory");
        return cli_print_error(&err);
    }
    glia_app_set_loading(&s->app, true);
    glia_http_params p = {
        .listen = listen,
        .n_listen = n_listen,
        .routes = glia_api_routes(),
        .ud = &s->app,
        .api_keys = keys ? keys->items : NULL,
        .n_api_keys = keys ? keys->n : 0,
        .error_body = glia_api_error_body,
    };
    if (!glia_http_start(&s->http, &p, &err)) return true;
    glia_app_clear(&s->app);
    return cli_print_error(&err);
}

/* The models go last: jobs of open connections use them until the server has stopped. */
void cli_server_stop(cli_server *s) {
    glia_http_stop(s->http, 200);
    s->http = NULL;
    glia_app_clear(&s->app);
}

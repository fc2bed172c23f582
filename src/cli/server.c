/* cli/server.c — HTTP server and models of this process, as a pair.  Main thread. */
#include "cli/cli.h"

bool cli_server_start(cli_server *s, const char *const *listen, size_t n_listen, const flag_list *keys) {
    glia_err err;
    glia_app_init(&s->app);
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

/* cli/serve.c — glia serve: one model over HTTP until a signal comes.  Main thread. */
#include "cli/cli.h"
#include "api/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int help(void) {
    cli_options o;
    flag table[CLI_N_FLAGS];
    size_t n = cli_options_flags(&o, true, table);
    puts("glia serve — serve a local model over HTTP, with real activations per request\n\n"
         "  glia serve --model FILE|ID [flags]\n");
    flags_print(table, n);
    puts("\nA model folder holds publisher/model/file.gguf: GLIA_MODELS, else .deps/models and\n"
         "~/.local/share/glia/models.  Ctrl-C stops cleanly, a second one at once.\n\n"
         "Every flag is also a variable (--ctx: GLIA_CTX) and a line of the configuration file (ctx = 8192).\n\n"
         "Examples:\n"
         "  glia serve --model SmolLM2-135M-Instruct\n"
         "  glia serve --model llama.gguf --listen 127.0.0.1:8080 --listen '[::1]:8080' --ctx 8192\n"
         "  GLIA_API_KEY=secret glia serve --model llama.gguf --listen 0.0.0.0:1234\n\n"
         "  curl -s localhost:1234/v1/chat/completions/with_activations \\\n"
         "    -H 'Content-Type: application/json' -d '{\n"
         "      \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 8,\n"
         "      \"activation_hooks\": [{\"layer\": 5, \"component\": \"resid_post\"}]}'");
    return EXIT_FINE;
}

/* The host part is one that only this machine reaches. */
static bool is_loopback(const char *address) {
    return !strncmp(address, "unix:", 5) || !strncmp(address, "127.", 4) || !strncmp(address, "localhost:", 10) || !strncmp(address, "[::1]:", 6);
}

static void warn_if_open(const cli_options *o) {
    for (size_t i = 0; i < o->listen.n && !o->api_keys.n && !o->key_file; i++) {
        if (is_loopback(o->listen.items[i])) continue;
        fprintf(stderr,
                "glia: warning: %s can be reached from other machines and no --api-key is set: anyone there can "
                "use this model\n",
                o->listen.items[i]);
    }
}

static bool write_port(const char *path, int port) {
    char *part = NULL;
    if (asprintf(&part, "%s.part", path) < 0) return false;
    FILE *f = fopen(part, "w"); /* renamed when whole: who waits for the file must not read half a number */
    bool ok = f && fprintf(f, "%d\n", port) > 0;
    if (f && fclose(f)) ok = false;
    if (ok && rename(part, path)) ok = false;
    if (!ok) fprintf(stderr, "glia: cannot write --port-file %s\n", path);
    free(part);
    return ok;
}

static void add_ports(glia_buf *b, const cli_options *o, const cli_server *s) {
    for (size_t i = 0; i < o->listen.n; i++) {
        const char *a = o->listen.items[i], *colon = strrchr(a, ':');
        if (!strncmp(a, "unix:", 5)) {
            glia_buf_addf(b, "%s %s", i ? "," : "", a);
            continue;
        }
        glia_buf_addf(b, "%s http://%.*s:%d", i ? "," : "", colon ? (int)(colon - a) : (int)strlen(a), a,
                      glia_http_port(s->http, i));
    }
}

static void say_ready(const cli_options *o, cli_server *s) {
    glia_model_info info = {0};
    glia_model *m = NULL;
    glia_buf b = {0};
    if (!glia_app_find(&s->app, NULL, &m, NULL)) glia_model_get_info(m, &info);
    if (o->json) {
        glia_buf_adds(&b, "{\"event\":\"ready\",\"model\":");
        glia_json_add_cstr(&b, info.id);
        glia_buf_addf(&b, ",\"n_ctx\":%d,\"parallel\":%d,\"ports\":[", (int)info.n_ctx, (int)info.n_parallel);
        for (size_t i = 0; i < o->listen.n; i++) glia_buf_addf(&b, i ? ",%d" : "%d", glia_http_port(s->http, i));
        glia_buf_adds(&b, "]}");
    } else {
        glia_buf_addf(&b, "glia: serving %s on", m ? info.id : "the models of the model folders");
        add_ports(&b, o, s);
    }
    puts(b.p ? b.p : "glia: ready");
    (void)fflush(stdout);
    if (info.hooks_refused) fprintf(stderr, "glia: warning: no activations from this model: %s\n", info.hooks_refused);
    glia_buf_clear(&b);
    glia_app_release(&s->app, m);
}

/* Port first, model second: an address in use is told before a long load, and clients that come early get 503.
 * path NULL: models are loaded when they are asked for. */
static int serve(const cli_options *o, const char *path) {
    cli_server s;
    if (!cli_server_start(&s, o)) return EXIT_FAILED;
    glia_status st = path ? cli_server_load(&s, o, path) : GLIA_OK;
    if (!st && o->port_file && !write_port(o->port_file, glia_http_port(s.http, 0))) st = GLIA_EIO;
    if (!st) {
        atomic_store(&s.app.started, true);
        say_ready(o, &s);
        (void)glia_http_notify("READY=1");
        cli_wait_for_stop();
        (void)glia_http_notify("STOPPING=1");
    }
    cli_server_stop(&s, (unsigned)o->grace_s * 1000);
    return !st ? EXIT_FINE : st == GLIA_ECANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
}

/* A key in the environment, where it is in nobody's list of processes, counts beside those of the command line. */
static void add_key_of_environment(cli_options *o) {
    const char *key = getenv("GLIA_API_KEY");
    if (!key || !*key || strchr(key, ',') || o->api_keys.n == FLAG_LIST_MAX) return;
    for (size_t i = 0; i < o->api_keys.n; i++) {
        if (!strcmp(o->api_keys.items[i], key)) return; /* the table took it */
    }
    o->api_keys.items[o->api_keys.n++] = key;
}

int cli_serve(int argc, char **argv) {
    cli_options o;
    flag table[CLI_N_FLAGS];
    flag_list rest;
    bool wants_help;
    char local[32];
    cli_options_init(&o);
    if (!flags_parse_all(table, cli_options_flags(&o, true, table), argc, argv, &rest, &wants_help)) return EXIT_USAGE;
    if (wants_help) return help();
    if (!o.model && rest.n == 1) o.model = rest.items[0], rest.n = 0;
    if ((!o.model && !cli_any_model(&o)) || rest.n) {
        fprintf(stderr, "glia serve: %s%s\nTry: glia serve --model FILE   (glia serve --help)\n",
                rest.n ? "unexpected argument " : "which model? --model is missing", rest.n ? rest.items[0] : "");
        return EXIT_USAGE;
    }
    add_key_of_environment(&o);
    if (!o.listen.n || o.port >= 0) {
        (void)snprintf(local, sizeof local, "127.0.0.1:%d", o.port >= 0 ? (int)o.port : 1234);
        if (o.listen.n == FLAG_LIST_MAX) o.listen.n--;
        o.listen.items[o.listen.n++] = local;
    }
    cli_options_log(&o);
    warn_if_open(&o);
    char *path = o.model ? cli_find_model_in(&o.model_dirs, o.model) : NULL;
    if (o.model && !path) return EXIT_FAILED;
    int status = cli_signals_start() ? serve(&o, path) : EXIT_FAILED;
    glia_free(path);
    return status;
}

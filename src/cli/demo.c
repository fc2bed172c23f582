/* cli/demo.c — glia demo: a server, the request NeuroScope was planned around, and what came back.
 *
 * The request goes through a real socket, so that what is shown is what any client gets.  Main thread. */
#include "api/json.h"
#include "base/err.h"
#include "cli/cli.h"
#include "cli/http_client.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ROWS = 4096, STRIP_WIDTH = 48 };
static const char route[] = "/api/v0/chat/completions/with_activations";
static const char default_prompt[] = "Why is the sky blue?";

typedef struct look {
    bool colour, utf8;
} look;

static const char *paint(const look *l, const char *code) { return l->colour ? code : ""; }
#define BOLD  "\033[1m"
#define DIM   "\033[2m"
#define CYAN  "\033[36m"
#define PLAIN "\033[0m"

static int help(const flag *table, size_t n) {
    puts("glia demo — start a server, ask it something, show the activations, stop\n\n"
         "  glia demo --model FILE|ID [--prompt TEXT] [flags]\n");
    flags_print(table, n);
    puts("\nExample:\n  glia demo --model SmolLM2-135M-Instruct --prompt 'Why is the sky blue?'");
    return EXIT_FINE;
}

/* ------------------------------------------------------------------ the request */

/* Layers 5 and 10 as NeuroScope's plan has them; smaller models get what they have. */
static int early_layer(const glia_model_info *info) { return info->n_layer > 5 ? 5 : (int)info->n_layer / 2; }

static void make_request(glia_buf *b, const glia_model_info *info, const char *prompt, int max_tokens, bool pretty) {
    int last = (int)info->n_layer - 1, a = early_layer(info), c = last < 10 ? last : 10;
    const char *nl = pretty ? "\n  " : "";
    glia_buf_addf(b, "{\"messages\": [{\"role\": \"user\", \"content\": ");
    glia_json_add_cstr(b, prompt);
    glia_buf_addf(b, "}],%s \"max_tokens\": %d, \"temperature\": 0,%s \"activation_hooks\": [%s", nl, max_tokens, nl,
                  nl);
    glia_buf_addf(b, "  {\"layer\": \"transformer.h.%d\", \"component\": \"residual\"},%s", a, nl);
    glia_buf_addf(b, "  {\"layer\": \"transformer.h.%d\", \"component\": \"attention\"},%s", c, nl);
    glia_buf_addf(b, "  {\"layer\": %d, \"component\": \"mlp_act\"},%s", c, nl);
    glia_buf_addf(
        b, "  {\"layer_name\": \"model.layers.%d.self_attn\", \"component\": \"query\", \"hook_id\": \"q%d\"},%s", a, a,
        nl);
    glia_buf_addf(b, "  {\"name\": \"blocks.%d.hook_resid_post\"}]}", last);
}

/* ------------------------------------------------------------------ showing it */

static void print_indented(const char *s) {
    for (fputs("  ", stdout); *s; s++) {
        putchar(*s);
        if (*s == '\n') fputs("  ", stdout);
    }
    putchar('\n');
}

/* Norms of all rows of one key, in the order of their positions. */
static size_t norms_of(yyjson_val *entries, double *norms, size_t cap, yyjson_val **first_row) {
    size_t n = 0, i, r, max, max_rows;
    yyjson_val *entry, *row;
    *first_row = NULL;
    yyjson_arr_foreach(entries, i, max, entry) {
        yyjson_val *rows = yyjson_arr_get_first(yyjson_obj_get(entry, "data"));
        yyjson_arr_foreach(rows, r, max_rows, row) {
            if (!*first_row) *first_row = row;
            double sum = 0;
            yyjson_val *x;
            size_t k, width;
            yyjson_arr_foreach(row, k, width, x) sum += yyjson_get_num(x) * yyjson_get_num(x);
            if (n < cap) norms[n++] = sqrt(sum);
        }
    }
    return n;
}

/* Eight heights between the least and the largest norm, on a log scale: the first token often dwarfs all others. */
static void print_strip(const look *l, const double *norms, size_t n) {
    static const char *const blocks[] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                         "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char ascii[] = "_.-~=+*#";
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        low = fmin(low, log(norms[i] + 1e-12));
        high = fmax(high, log(norms[i] + 1e-12));
    }
    fputs(paint(l, CYAN), stdout);
    for (size_t i = 0; i < n && i < STRIP_WIDTH; i++) {
        int h = high > low ? (int)((log(norms[i] + 1e-12) - low) / (high - low) * 7.999) : 3;
        if (l->utf8) fputs(blocks[h], stdout);
        else putchar(ascii[h]);
    }
    printf("%s%s", paint(l, PLAIN), n > STRIP_WIDTH ? " ..." : "");
}

static void print_key(const look *l, const char *key, yyjson_val *entries) {
    static double norms[MAX_ROWS];
    yyjson_val *entry = yyjson_arr_get_first(entries), *row, *x;
    if (!entry) return;
    size_t n = norms_of(entries, norms, MAX_ROWS, &row), k = 0;
    yyjson_val *shape = yyjson_obj_get(entry, "shape"), *layer = yyjson_obj_get(entry, "layer");
    int rows = yyjson_get_int(yyjson_arr_get(shape, 1)), width = yyjson_get_int(yyjson_arr_get(shape, 2));
    char dims[48], number[16] = "-";
    if (!yyjson_is_null(layer)) (void)snprintf(number, sizeof number, "%d", yyjson_get_int(layer));
    (void)snprintf(dims, sizeof dims, "%d+%d x %d", rows, (int)n - rows, width);
    printf("  %s%-26s%s %-11s %5s  %-13s ", paint(l, BOLD), key, paint(l, PLAIN),
           yyjson_get_str(yyjson_obj_get(entry, "point")), number, dims);
    yyjson_arr_iter it;
    yyjson_arr_iter_init(row, &it);
    while (k++ < 3 && (x = yyjson_arr_iter_next(&it))) printf("%9.4f", yyjson_get_num(x));
    printf(" ...  %s\n  %s%26s norm per token %s ", yyjson_get_str(yyjson_obj_get(entry, "grade")), paint(l, DIM), "",
           paint(l, PLAIN));
    print_strip(l, norms, n);
    putchar('\n');
}

static void print_reply(const look *l, yyjson_val *root) {
    yyjson_val *usage = yyjson_obj_get(root, "usage"), *key, *all = yyjson_obj_get(root, "activations");
    printf("%sCompletion%s (%d prompt tokens, %d generated)\n", paint(l, BOLD), paint(l, PLAIN),
           yyjson_get_int(yyjson_obj_get(usage, "prompt_tokens")),
           yyjson_get_int(yyjson_obj_get(usage, "completion_tokens")));
    const char *text = yyjson_get_str(yyjson_obj_get(root, "completion"));
    print_indented(text ? text : "");
    printf("\n%sActivations%s\n  %s%-26s %-11s %5s  %-13s %s%s\n", paint(l, BOLD), paint(l, PLAIN), paint(l, DIM),
           "key", "point", "layer", "tokens x width", "first values of the first token", paint(l, PLAIN));
    yyjson_obj_iter it;
    for (yyjson_obj_iter_init(all, &it); (key = yyjson_obj_iter_next(&it));)
        print_key(l, yyjson_get_str(key), yyjson_obj_iter_get_val(key));
}

static void print_curl(const look *l, const char *model, const glia_model_info *info) {
    printf("\n%sGo on%s\n  glia serve --model '%s' &          (or: make run)\n"
           "  curl -s http://127.0.0.1:1234%s \\\n    -H 'Content-Type: application/json' -d '{\n"
           "      \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 8,\n"
           "      \"activation_hooks\": [{\"layer\": \"transformer.h.%d\", \"component\": \"residual\"}]}'\n",
           paint(l, BOLD), paint(l, PLAIN), model, route, early_layer(info));
}

/* ------------------------------------------------------------------ the verb */

static int talk(const cli_options *o, cli_server *s, const char *prompt, int max_tokens) {
    look l = {isatty(STDOUT_FILENO) && !getenv("NO_COLOR"), cli_utf8()};
    glia_model_info info;
    glia_model *m;
    glia_buf body = {0}, reply = {0};
    glia_err err;
    if (glia_app_find(&s->app, NULL, &m, &err)) {
        (void)cli_print_error(&err);
        return EXIT_FAILED;
    }
    glia_model_get_info(m, &info);
    yyjson_doc *doc = NULL;
    int status = 0, result = EXIT_FAILED;
    make_request(&body, &info, prompt, max_tokens, true);
    if (body.failed) goto done;
    if (!o->json) {
        printf("%sGlia %s%s serves %s (%s, %d layers) for this demo.\n\n%sRequest%s POST %s\n", paint(&l, BOLD),
               glia_version(), paint(&l, PLAIN), info.id, info.arch, (int)info.n_layer, paint(&l, BOLD),
               paint(&l, PLAIN), route);
        print_indented(body.p);
        putchar('\n');
        (void)fflush(stdout);
    }
    if (cli_http_post(glia_http_port(s->http, 0), route, body.p, body.n, &status, &reply, &err)) {
        (void)cli_print_error(&err);
        goto done;
    }
    if (status != 200) {
        fprintf(stderr, "glia: the server answered %d: %s\n", status, reply.p);
        goto done;
    }
    if (o->json) {
        fputs(reply.p, stdout);
    } else {
        if (glia_json_parse(&doc, reply.p, reply.n, &err)) {
            (void)cli_print_error(&err);
            goto done;
        }
        print_reply(&l, yyjson_doc_get_root(doc));
        print_curl(&l, o->model, &info);
    }
    result = EXIT_FINE;
done:
    glia_app_release(&s->app, m);
    yyjson_doc_free(doc);
    glia_buf_clear(&body);
    glia_buf_clear(&reply);
    return result;
}

static int run(cli_options *o, const char *path, const char *prompt, int max_tokens) {
    cli_server s;
    o->listen = (flag_list){{"127.0.0.1:0"}, 1};
    if (!cli_server_start(&s, o)) return EXIT_FAILED;
    glia_status st = cli_server_load(&s, o, path);
    int status = st == GLIA_ECANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
    if (!st) status = talk(o, &s, prompt, max_tokens);
    cli_server_stop(&s, 200);
    return status;
}

int cli_demo(int argc, char **argv) {
    cli_options o;
    flag table[CLI_N_FLAGS + 2];
    flag_list rest;
    bool wants_help;
    const char *prompt = default_prompt;
    int32_t max_tokens = 24;
    cli_options_init(&o);
    size_t n = cli_options_flags(&o, false, table);
    table[n++] = (flag){"--prompt", FLAG_TEXT, &prompt, "TEXT", "what to ask", 0, 0, NULL};
    table[n++] = (flag){"--max-tokens", FLAG_INT, &max_tokens, "N", "length of the answer (24)", 1, 512, NULL};
    if (!flags_parse(table, n, argc, argv, &rest, &wants_help)) return EXIT_USAGE;
    if (wants_help) return help(table, n);
    if (!o.model && rest.n == 1) o.model = rest.items[0];
    if (!o.model) {
        fputs("glia demo: which model?\nTry: glia demo --model FILE   (glia demo --help)\n", stderr);
        return EXIT_USAGE;
    }
    cli_options_log(&o);
    char *path = cli_find_model(o.model);
    int status = path && cli_signals_start() ? run(&o, path, prompt, max_tokens) : EXIT_FAILED;
    glia_free(path);
    return status;
}

/* cli/inspect.c — glia inspect: what a model is, and which points of which layers it gives.  Main thread. */
#include "api/handlers.h"
#include "api/json.h"
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>

static int help(void) {
    cli_options o;
    flag table[CLI_N_FLAGS];
    size_t n = cli_options_flags(&o, false, table);
    puts("glia inspect — what a model is, and which activations it gives\n\n  glia inspect FILE|ID [flags]\n");
    flags_print(table, n);
    puts("\nEvery point of every layer has a grade: P proven (numbers agree on this machine), s structural (found by\n"
         "graph structure), ? ambiguous, - absent.  The reasons are listed below the table.\n\n"
         "Examples:\n  glia inspect SmolLM2-135M-Instruct\n  glia inspect llama.gguf --json");
    return EXIT_FINE;
}

static void print_json(const glia_model *m) {
    glia_buf b = {0};
    glia_buf_adds(&b, "{\"model\":");
    glia_add_model(&b, m, true);
    glia_buf_adds(&b, ",\"hooks\":");
    glia_add_hooks(&b, m);
    glia_buf_adds(&b, "}");
    if (!b.failed) puts(b.p);
    glia_buf_clear(&b);
}

static void print_facts(const glia_model_info *i) {
    printf("%s\n  file        %s\n  model       %s, %s\n", i->id, i->path, i->arch, i->description);
    printf("  size        %.1f M parameters, %.1f MB\n", (double)i->n_params / 1e6, (double)i->n_bytes / 1e6);
    printf("  shape       %d layers, width %d, %d heads, %d KV heads, vocabulary %d\n", (int)i->n_layer, (int)i->n_embd,
           (int)i->n_head, (int)i->n_head_kv, (int)i->n_vocab);
    printf("  context     %d of %d trained\n", (int)i->n_ctx, (int)i->n_ctx_train);
    printf("  chat        %s\n", i->has_chat_template ? "template in the file" : "no template in the file");
    if (i->hooks_refused) printf("  activations refused: %s\n", i->hooks_refused);
}

static char letter(glia_grade g) {
    switch (g) {
    case GLIA_GRADE_PROVEN: return 'P';
    case GLIA_GRADE_STRUCTURAL: return 's';
    case GLIA_GRADE_AMBIGUOUS: return '?';
    case GLIA_GRADE_ABSENT: break;
    }
    return '-';
}

/* One row per point, one letter per layer; equal reasons of one point are told once. */
static void print_point(const glia_model *m, glia_point p, int32_t n_layer) {
    glia_point_info first = {0}, i;
    char reason[sizeof first.reason] = "";
    int32_t reason_layer = 0, n = glia_point_has_layer(p) ? n_layer : 1;
    (void)glia_model_point(m, p, 0, &first);
    char heads[32] = "";
    for (int32_t l = 0; l < n && !first.width && !first.by_position; l++) (void)glia_model_point(m, p, l, &first);
    if (first.by_position) (void)snprintf(heads, sizeof heads, "%d x pos", (int)first.n_heads);
    else if (first.n_heads > 0) (void)snprintf(heads, sizeof heads, "%d x %d", (int)first.n_heads, (int)first.head_dim);
    printf("  %-14s %6d %8s  ", glia_point_name(p), (int)first.width, heads);
    for (int32_t l = 0; l < n; l++) {
        if (!glia_model_point(m, p, l, &i)) i = (glia_point_info){0};
        if (l && l % 10 == 0) putchar(' ');
        putchar(letter(i.grade));
        if (i.reason[0] && !reason[0]) {
            (void)snprintf(reason, sizeof reason, "%s", i.reason);
            reason_layer = l;
        }
    }
    if (reason[0] && n > 1) printf("  (layer %d: %s)", (int)reason_layer, reason);
    else if (reason[0]) printf("  (%s)", reason);
    putchar('\n');
}

static void print_table(const glia_model *m, int32_t n_layer) {
    printf("\n  %-14s %6s %8s  layers 0 to %d  (P proven, s structural, ? ambiguous, - absent)\n", "point", "width",
           "heads", (int)n_layer - 1);
    for (int p = 0; p < GLIA_N_POINTS; p++) print_point(m, (glia_point)p, n_layer);
}

int cli_inspect(int argc, char **argv) {
    cli_options o;
    flag table[CLI_N_FLAGS];
    flag_list rest;
    bool wants_help;
    glia_status st;
    cli_options_init(&o);
    if (!flags_parse(table, cli_options_flags(&o, false, table), argc, argv, &rest, &wants_help)) return EXIT_USAGE;
    if (wants_help) return help();
    if (!o.model && rest.n) o.model = rest.items[0];
    if (!o.model) {
        fputs("glia inspect: which model?\nTry: glia inspect FILE   (glia inspect --help)\n", stderr);
        return EXIT_USAGE;
    }
    cli_options_log(&o);
    o.n_parallel = 1;
    char *path = cli_find_model(o.model);
    if (!path || !cli_signals_start()) return EXIT_FAILED;
    glia_model *m = cli_load(&o, path, &st);
    glia_free(path);
    if (st) return st == GLIA_ECANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
    if (o.json) {
        print_json(m);
    } else {
        glia_model_info info;
        glia_model_get_info(m, &info);
        print_facts(&info);
        print_table(m, info.n_layer);
    }
    glia_model_close(m);
    return EXIT_FINE;
}

/* cli/inspect.c — glia inspect: what a model is, and which points of which layers it gives.  Main thread. */
#include "api/handlers.h"
#include "api/json.h"
#include "base/mem.h"
#include "cli/cli.h"
#include <stdio.h>
#include <string.h>

static int help(void) {
    cli_options o;
    flag table[CLI_N_FLAGS];
    size_t n = cli_options_flags(&o, false, table);
    puts("glia inspect — what a model is, and which activations it gives\n\n  glia inspect FILE|ID [flags]\n");
    flags_print(table, n);
    puts(
        "\nEvery point of every layer has a grade: proven (numbers agree on this machine), structural (found by graph\n"
        "structure and weight names), ambiguous or absent.  Below the table: each reason once, with its points and layers.\n\n"
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
    printf("  attention   %s\n", i->flash_attention
                                     ? "flash: scores and probabilities are computed once more from queries and keys"
                                     : "plain: scores and probabilities are read from the graph");
    if (i->hooks_refused) printf("  activations refused: %s\n", i->hooks_refused);
}

/* Layers in which `holds` is true, as "0-11, 13"; false: in none. */
static bool add_layers(glia_buf *b, const bool *holds, int32_t n) {
    bool any = false;
    for (int32_t l = 0, end; l < n; l = end) {
        for (end = l + 1; end < n && holds[end] == holds[l];) end++;
        if (!holds[l]) continue;
        glia_buf_addf(b, any ? ", %d" : "%d", (int)l);
        if (end - l > 1) glia_buf_addf(b, "-%d", (int)end - 1);
        any = true;
    }
    return any;
}

/* What is known of one point: [n] layers, one for points without a layer. */
typedef struct point_row {
    glia_point_info *layer;
    bool *holds; /* scratch for add_layers */
    int32_t n;
} point_row;

static void read_row(const glia_model *m, glia_point p, int32_t n_layer, point_row *r) {
    r->n = glia_point_has_layer(p) ? n_layer : 1;
    for (int32_t l = 0; l < r->n; l++) {
        if (!glia_model_point(m, p, l, &r->layer[l])) r->layer[l] = (glia_point_info){0};
    }
}

static bool add_grade(glia_buf *b, point_row *r, glia_grade g, bool separate) {
    for (int32_t l = 0; l < r->n; l++) r->holds[l] = r->layer[l].grade == g;
    glia_buf layers = {0};
    bool any = add_layers(&layers, r->holds, r->n);
    if (any) glia_buf_addf(b, "%s%s", separate ? "; " : "", glia_grade_name(g));
    if (any && r->n > 1) glia_buf_addf(b, " %s", layers.p ? layers.p : "");
    glia_buf_clear(&layers);
    return any;
}

/* One line: the shape in the first layer that has the point, and which layers have it, by grade. */
static void add_point(glia_buf *b, glia_point p, point_row *r) {
    const glia_point_info *i = NULL;
    char heads[32] = "", width[16] = "";
    for (int32_t l = r->n - 1; l >= 0; l--) {
        if (r->layer[l].grade >= GLIA_GRADE_STRUCTURAL) i = &r->layer[l];
    }
    if (!i) return;
    if (i->by_position) (void)snprintf(heads, sizeof heads, "%d x pos", (int)i->n_heads);
    else (void)snprintf(width, sizeof width, "%d", (int)i->width);
    if (!i->by_position && i->n_heads > 0) {
        (void)snprintf(heads, sizeof heads, "%d x %d", (int)i->n_heads, (int)i->head_dim);
    }
    glia_buf_addf(b, "  %-17s %6s  %-9s ", glia_point_name(p), width, heads);
    bool some = add_grade(b, r, GLIA_GRADE_PROVEN, false);
    (void)add_grade(b, r, GLIA_GRADE_STRUCTURAL, some);
    glia_buf_adds(b, "\n");
}

/* Why points are missing: every reason once, with the points and layers it holds for. */
typedef struct missing {
    char texts[64][sizeof(((glia_point_info *)0)->reason)];
    glia_buf points[64];
    size_t n;
} missing;

static glia_buf *reason_list(missing *m, const char *reason) {
    for (size_t i = 0; i < m->n; i++) {
        if (!strcmp(m->texts[i], reason)) return &m->points[i];
    }
    if (m->n == sizeof m->points / sizeof *m->points) return NULL;
    (void)snprintf(m->texts[m->n], sizeof m->texts[m->n], "%s", reason);
    return &m->points[m->n++];
}

static void add_missing(missing *m, glia_point p, point_row *r) {
    for (int32_t l = 0; l < r->n; l++) {
        const glia_point_info *i = &r->layer[l];
        bool told = i->grade >= GLIA_GRADE_STRUCTURAL;
        for (int32_t k = 0; k < l && !told; k++) {
            told = r->layer[k].grade < GLIA_GRADE_STRUCTURAL && !strcmp(r->layer[k].reason, i->reason);
        }
        glia_buf *b = told ? NULL : reason_list(m, i->reason[0] ? i->reason : "no reason is known");
        if (!b) continue;
        for (int32_t k = 0; k < r->n; k++) {
            r->holds[k] = r->layer[k].grade < GLIA_GRADE_STRUCTURAL && !strcmp(r->layer[k].reason, i->reason);
        }
        glia_buf_addf(b, "%s%s", b->n ? "; " : "", glia_point_name(p));
        if (r->n == 1) continue;
        glia_buf_adds(b, " ");
        (void)add_layers(b, r->holds, r->n);
    }
}

static void print_missing(const missing *m) {
    if (m->n) puts("\n  not given, and why:");
    for (size_t i = 0; i < m->n; i++) printf("  - %s:\n      %s\n", m->texts[i], m->points[i].p ? m->points[i].p : "");
}

static bool print_table(const glia_model *m, const glia_model_info *info) {
    glia_buf b = {0};
    missing *absent = glia_calloc(1, sizeof *absent);
    point_row r = {.layer = glia_calloc((size_t)info->n_layer, sizeof *r.layer),
                   .holds = glia_calloc((size_t)info->n_layer, sizeof *r.holds)};
    bool ok = absent && r.layer && r.holds;
    for (int p = 0; ok && p < GLIA_N_POINTS; p++) {
        read_row(m, (glia_point)p, info->n_layer, &r);
        add_point(&b, (glia_point)p, &r);
        add_missing(absent, (glia_point)p, &r);
    }
    if ((ok = ok && !b.failed)) {
        printf("\n  %-17s %6s  %-9s layers\n%s", "point", "width", "heads", b.p ? b.p : "");
        print_missing(absent);
    }
    for (size_t i = 0; absent && i < absent->n; i++) glia_buf_clear(&absent->points[i]);
    glia_free(absent);
    glia_free(r.layer);
    glia_free(r.holds);
    glia_buf_clear(&b);
    return ok;
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
    bool ok = true;
    if (o.json) {
        print_json(m);
    } else {
        glia_model_info info;
        glia_model_get_info(m, &info);
        print_facts(&info);
        ok = print_table(m, &info);
    }
    glia_model_close(m);
    if (!ok) fputs("glia inspect: out of memory\n", stderr);
    return ok ? EXIT_FINE : EXIT_FAILED;
}

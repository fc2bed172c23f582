/* cli/models.c — glia models: what lies in the model folders, and what loading it would take.  Main thread. */
#include "api/json.h"
#include "cli/cli.h"
#include "models/estimate.h"
#include <stdio.h>
#include <string.h>

static int help(const flag *table, size_t n) {
    puts("glia models — what lies in the model folders, and what loading it would take\n\n"
         "  glia models [NAME] [flags]\n");
    flags_print(table, n);
    puts("\nMEMORY is weights, KV cache and working memory for --ctx and --parallel, estimated from the header.\n"
         "NAME is a key of the list, publisher/model, a file name, or part of a key.\n\n"
         "Examples:\n"
         "  glia models\n"
         "  glia models smollm2-135m-instruct --ctx 8192 --parallel 1\n"
         "  glia models --models-dir ~/models --json | jq -r '.models[].key'");
    return EXIT_FINE;
}

static void size_text(uint64_t bytes, char out[16]) {
    double b = (double)bytes;
    if (b >= 0x1p30) (void)snprintf(out, 16, "%.1fG", b / 0x1p30);
    else if (b >= 0x1p20) (void)snprintf(out, 16, "%.0fM", b / 0x1p20);
    else (void)snprintf(out, 16, "%.0fK", b / 0x1p10);
}

static bool is_asked(const glia_model_file *f, const char *name, const glia_model_file *found) {
    return !name || f == found || (!found && strcasestr(f->key, name));
}

/* ------------------------------------------------------------------ for people */

static void print_row(const glia_model_file *f, const glia_footprint *p, int width) {
    char params[32], size[16], memory[16];
    glia_gguf_size_text(&f->head, f->n_params, params);
    size_text(f->bytes, size);
    size_text(p->total, memory);
    printf("%-*s  %-14s %8s  %-8s %7s %8llu %7s", width, f->key, f->head.arch, params, glia_gguf_quant(&f->head), size,
           (unsigned long long)f->head.n_ctx_train, memory);
    if (f->problem) printf("  %s", f->problem);
    else if (f->mmproj) printf("  +mmproj");
    else if (glia_gguf_is_embedding(&f->head)) printf("  embeddings");
    putchar('\n');
}

static void print_table(const glia_models *m, const char *name, const glia_model_file *found,
                        const glia_model_params *p) {
    int width = 3;
    for (size_t i = 0; i < m->n; i++) {
        int n = (int)strlen(m->items[i].key);
        if (is_asked(&m->items[i], name, found) && n > width && n <= 60) width = n;
    }
    printf("%-*s  %-14s %8s  %-8s %7s %8s %7s\n", width, "KEY", "ARCH", "PARAMS", "QUANT", "SIZE", "CONTEXT", "MEMORY");
    for (size_t i = 0; i < m->n; i++) {
        glia_footprint need;
        const glia_model_file *f = &m->items[i];
        if (!is_asked(f, name, found)) continue;
        glia_estimate(&f->head, f->weight_bytes, p, &need);
        print_row(f, &need, width);
    }
}

static void print_details(const glia_model_file *f, const glia_model_params *p) {
    glia_footprint need;
    char params[32], weights[16], cache[16], compute[16], total[16];
    glia_estimate(&f->head, f->weight_bytes, p, &need);
    glia_gguf_size_text(&f->head, f->n_params, params);
    size_text(need.weights, weights), size_text(need.cache, cache);
    size_text(need.compute, compute), size_text(need.total, total);
    printf("%s\n", f->key);
    if (f->head.name[0]) printf("  name        %s\n", f->head.name);
    printf("  file        %s", f->path);
    if (f->n_parts > 1) printf(" (%llu parts)", (unsigned long long)f->n_parts);
    printf("\n  model       %s, %s parameters, %s\n", f->head.arch, params, glia_gguf_quant(&f->head));
    printf("  shape       %llu layers, width %llu, %llu heads, vocabulary %llu\n", (unsigned long long)f->head.n_layer,
           (unsigned long long)f->head.n_embd, (unsigned long long)f->head.n_head, (unsigned long long)f->head.n_vocab);
    if (f->head.n_expert)
        printf("  experts     %llu of %llu for a token\n", (unsigned long long)f->head.n_expert_used,
               (unsigned long long)f->head.n_expert);
    printf("  context     trained for %llu tokens\n", (unsigned long long)f->head.n_ctx_train);
    printf("  chat        %s%s\n", f->head.chat_template ? "has a template" : "no template",
           f->head.template_tools ? ", knows tools" : "");
    if (f->mmproj) printf("  mmproj      %s\n", f->mmproj);
    printf("  memory      about %s: weights %s, KV cache %s, working memory %s\n", total, weights, cache, compute);
    if (f->problem) printf("  problem     %s\n", f->problem);
}

/* ------------------------------------------------------------------ for machines */

static void add_model(glia_buf *b, const glia_model_file *f, const glia_model_params *p) {
    glia_footprint need;
    char params[32];
    glia_estimate(&f->head, f->weight_bytes, p, &need);
    glia_gguf_size_text(&f->head, f->n_params, params);
    glia_buf_addf(b, "{\"type\":\"%s\",\"key\":", glia_gguf_is_embedding(&f->head) ? "embedding" : "llm");
    glia_json_add_cstr(b, f->key);
    glia_buf_adds(b, ",\"publisher\":");
    glia_json_add_cstr(b, f->publisher);
    glia_buf_adds(b, ",\"display_name\":");
    glia_json_add_cstr(b, f->head.name[0] ? f->head.name : f->folder);
    glia_buf_adds(b, ",\"path\":");
    glia_json_add_cstr(b, f->path);
    glia_buf_adds(b, ",\"mmproj\":");
    glia_json_add_cstr(b, f->mmproj);
    glia_buf_adds(b, ",\"architecture\":");
    glia_json_add_cstr(b, f->head.arch);
    glia_buf_addf(b, ",\"quantization\":\"%s\",\"params_string\":", glia_gguf_quant(&f->head));
    glia_json_add_cstr(b, params);
    glia_buf_addf(
        b, ",\"n_params\":%llu,\"n_layer\":%llu,\"n_embd\":%llu,\"max_context_length\":%llu,\"size_bytes\":%llu",
        (unsigned long long)f->n_params, (unsigned long long)f->head.n_layer, (unsigned long long)f->head.n_embd,
        (unsigned long long)f->head.n_ctx_train, (unsigned long long)f->bytes);
    glia_buf_addf(b, ",\"n_parts\":%llu,\"chat_template\":%s,\"trained_for_tool_use\":%s",
                  (unsigned long long)f->n_parts, f->head.chat_template ? "true" : "false",
                  f->head.template_tools ? "true" : "false");
    glia_buf_addf(
        b, ",\"memory\":{\"total_bytes\":%llu,\"weights_bytes\":%llu,\"kv_cache_bytes\":%llu,\"compute_bytes\":%llu}",
        (unsigned long long)need.total, (unsigned long long)need.weights, (unsigned long long)need.cache,
        (unsigned long long)need.compute);
    glia_buf_adds(b, ",\"problem\":");
    glia_json_add_cstr(b, f->problem);
    glia_buf_adds(b, "}");
}

static bool print_json(const glia_models *m, const char *name, const glia_model_file *found, const glia_model_params *p,
                       const glia_catalogue *c) {
    glia_buf b = {0};
    bool any = false;
    glia_buf_adds(&b, "{\"models\":[");
    for (size_t i = 0; i < m->n; i++) {
        if (!is_asked(&m->items[i], name, found)) continue;
        if (any) glia_buf_adds(&b, ",");
        add_model(&b, &m->items[i], p);
        any = true;
    }
    glia_buf_adds(&b, "],\"folders\":[");
    for (size_t i = 0; glia_catalogue_dir(c, i); i++) {
        if (i) glia_buf_adds(&b, ",");
        glia_json_add_cstr(&b, glia_catalogue_dir(c, i));
    }
    glia_buf_adds(&b, "]}");
    bool ok = !b.failed && puts(b.p) >= 0;
    glia_buf_clear(&b);
    return ok;
}

/* ------------------------------------------------------------------ the verb */

static int say_none(const glia_catalogue *c, const char *name) {
    if (name) fprintf(stderr, "glia: no model \"%s\" in", name);
    else fputs("glia: no model in", stderr);
    for (size_t i = 0; glia_catalogue_dir(c, i); i++) fprintf(stderr, " %s", glia_catalogue_dir(c, i));
    fputs(name ? ": `glia models` lists what is there\n"
               : ": put publisher/model/file.gguf there, or name a folder with --models-dir\n",
          stderr);
    return name ? EXIT_FAILED : EXIT_FINE;
}

static int list(const cli_options *o, const char *name) {
    const glia_models *m = NULL;
    glia_model_params p;
    glia_err err;
    glia_catalogue *c = cli_catalogue(&o->model_dirs);
    cli_options_model(o, NULL, &p);
    if (!c || glia_catalogue_get(c, 0, &m, &err)) {
        if (c) (void)cli_print_error(&err);
        glia_catalogue_free(c);
        return EXIT_FAILED;
    }
    const glia_model_file *found = name ? glia_models_find(m, name, &err) : NULL;
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) n += is_asked(&m->items[i], name, found);
    int status = EXIT_FINE;
    if (o->json) status = !n && name ? say_none(c, name) : print_json(m, name, found, &p, c) ? EXIT_FINE : EXIT_FAILED;
    else if (!n) status = say_none(c, name);
    else if (found) print_details(found, &p);
    else print_table(m, name, found, &p);
    glia_models_unref(m);
    glia_catalogue_free(c);
    return status;
}

int cli_models(int argc, char **argv) {
    cli_options o;
    flag_list rest;
    bool wants_help;
    cli_options_init(&o);
    flag table[] = {
        {"--models-dir", FLAG_LIST, &o.model_dirs, "DIR",
         "folder of publisher/model/file.gguf, repeatable (GLIA_MODELS)", 0, 0, NULL},
        {"--ctx", FLAG_INT, &o.n_ctx, "N", "tokens per request (trained context, at most 4096)", 0, 1 << 24, NULL},
        {"--parallel", FLAG_INT, &o.n_parallel, "N", "requests computed together (4)", 0, 1024, NULL},
        {"--batch", FLAG_INT, &o.n_batch, "N", "most tokens in one forward pass (512)", 0, 1 << 20, NULL},
        {"--json", FLAG_SWITCH, &o.json, NULL, "output for machines", 0, 0, NULL},
    };
    enum { N = sizeof table / sizeof *table };
    if (!flags_parse(table, N, argc, argv, &rest, &wants_help)) return EXIT_USAGE;
    if (wants_help) return help(table, N);
    if (rest.n > 1) {
        fprintf(stderr, "glia models: unexpected argument %s\nTry: glia models [NAME]   (glia models --help)\n",
                rest.items[1]);
        return EXIT_USAGE;
    }
    return list(&o, rest.n ? rest.items[0] : NULL);
}

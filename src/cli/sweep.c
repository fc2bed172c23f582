/* cli/sweep.c — glia sweep: activation patching and ablation over a model, its numbers as a table, JSON, tensors and
 * pictures.  Main thread. */
#include "api/json.h"
#include "api/sweep.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "lab/metric.h"
#include "lab/sweep.h"
#include "store/newfile.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct sweep_options {
    const char *clean, *corrupted, *sweeps, *layers, *positions, *path, *out;
    flag_list answers, wrongs;
    int metric, op;
    bool free_mlps;
} sweep_options;

enum { N_OWN = 14, SHOWN = 10, DEFAULT_SLOTS = 8, DEFAULT_CONTEXT = 512 };
static const char *const metrics[] = {
#define X(id, name, meaning) name,
    GLIA_METRIC_MAP(X)
#undef X
    NULL};
static const char *const ops[] = {"denoise", "noise", "zero", "mean", NULL};

static size_t own_flags(sweep_options *w, int32_t *n_parallel, flag *t) {
    size_t n = 0;
    t[n++] = (flag){"--clean", FLAG_TEXT, &w->clean, "TEXT", "the prompt with the right answer", 0, 0, NULL};
    t[n++] = (flag){"--corrupted", FLAG_TEXT, &w->corrupted, "TEXT", "the other one, with as many tokens", 0, 0, NULL};
    t[n++] = (flag){"--answer", FLAG_LIST, &w->answers, "TOKEN", "the token that the clean prompt asks for (\" Paris\")", 0, 0, NULL};
    t[n++] = (flag){"--wrong", FLAG_LIST, &w->wrongs, "TOKEN", "the one that it is compared with", 0, 0, NULL};
    t[n++] = (flag){"--metric", FLAG_CHOICE, &w->metric, "NAME",
                    "logit_difference (default), probability, log_probability, kl, rank", 0, 0, metrics};
    t[n++] = (flag){"--op", FLAG_CHOICE, &w->op, "NAME",
                    "denoise (default): clean values into the corrupted run; noise: the reverse; zero, mean: ablate the clean run",
                    0, 0, ops};
    t[n++] = (flag){"--sweeps", FLAG_TEXT, &w->sweeps, "LIST",
                    "POINT[:layer|position|head|head_position],… (resid_pre,attn_out,mlp_out,z:head)", 0, 0, NULL};
    t[n++] = (flag){"--layers", FLAG_TEXT, &w->layers, "LIST", "e.g. 0-5,9 (all)", 0, 0, NULL};
    t[n++] = (flag){"--positions", FLAG_TEXT, &w->positions, "LIST", "e.g. 3-8,10 (all)", 0, 0, NULL};
    t[n++] = (flag){"--path", FLAG_TEXT, &w->path, "LIST",
                    "patch only the direct paths to these: logits, or POINT:LAYER[:HEAD],… (q:9:6)", 0, 0, NULL};
    t[n++] = (flag){"--free-mlps", FLAG_SWITCH, &w->free_mlps, NULL, "paths may go through MLPs on the way", 0, 0, NULL};
    t[n++] = (flag){"--out", FLAG_TEXT, &w->out, "DIR", "write sweep.json, sweep.safetensors and a picture for each sweep", 0, 0, NULL};
    t[n++] = (flag){"--parallel", FLAG_INT, n_parallel, "N", "interventions computed together (8)", 1, 256, NULL};
    return n;
}

static int help(const flag *table, size_t n) {
    puts("glia sweep — which layers, positions and heads carry an answer\n\n"
         "  glia sweep --model FILE|ID --clean TEXT --corrupted TEXT --answer TOKEN --wrong TOKEN [flags]\n\n"
         "Runs one intervention after another, batched: activation patching between two prompts, or exact ablation of one\n"
         "(--op zero, mean).  Prints the strongest places; --json prints everything, --out keeps it with heat maps.\n");
    flags_print(table, n);
    puts("\nExamples:\n"
         "  glia sweep --model SmolLM2-135M-Instruct --clean 'The capital of France is' \\\n"
         "      --corrupted 'The capital of Italy is' --answer ' Paris' --wrong ' Rome' --out run\n"
         "  glia sweep --model llama.gguf --clean 'The capital of France is' --answer ' Paris' \\\n"
         "      --metric probability --op mean --sweeps z:head,mlp_out:layer --json");
    return EXIT_FINE;
}

/* ------------------------------------------------------------------ flags → the body of the request */

static void add_tokens(glia_buf *b, const char *key, const flag_list *l) {
    if (!l->n) return;
    glia_buf_addf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < l->n; i++) {
        char *end;
        long id = strtol(l->items[i], &end, 10);
        if (i) glia_buf_adds(b, ",");
        if (*l->items[i] == '#' && (id = strtol(l->items[i] + 1, &end, 10)) >= 0 && !*end) glia_buf_addf(b, "%ld", id);
        else glia_json_add_cstr(b, l->items[i]);
    }
    glia_buf_adds(b, "]");
}

/* "0-5,9" → 0,1,…,5,9.  False: not of that form. */
static bool add_numbers(glia_buf *b, const char *key, const char *text) {
    if (!text) return true;
    glia_buf_addf(b, ",\"%s\":[", key);
    bool first = true;
    for (const char *p = text;; p++) {
        char *end;
        long from = strtol(p, &end, 10), to = from;
        if (end == p || from < 0) return false;
        if (*end == '-') {
            p = end + 1;
            to = strtol(p, &end, 10);
            if (end == p || to < from || to > 1 << 20) return false;
        }
        for (long i = from; i <= to; i++, first = false) glia_buf_addf(b, first ? "%ld" : ",%ld", i);
        if (!*end) break;
        if (*end != ',' && *end != '+') return false;
        p = end;
    }
    glia_buf_adds(b, "]");
    return true;
}

static void add_sweeps(glia_buf *b, const char *text) {
    if (!text) return;
    glia_buf_adds(b, ",\"sweeps\":[");
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), name = strcspn(p, ":,");
        glia_buf_adds(b, p == text ? "{\"component\":" : ",{\"component\":");
        glia_json_add_str(b, p, name);
        if (name < n) {
            glia_buf_adds(b, ",\"by\":");
            glia_json_add_str(b, p + name + 1, n - name - 1);
        }
        glia_buf_adds(b, "}");
        p += n + (p[n] == ',');
    }
    glia_buf_adds(b, "]");
}

/* "q:9:6,k:5" → receivers.  False: not of that form. */
static bool add_path(glia_buf *b, const sweep_options *w) {
    if (!w->path) return true;
    glia_buf_addf(b, ",\"path\":{\"mlps\":\"%s\",\"to\":", w->free_mlps ? "free" : "held");
    if (!strcmp(w->path, "logits")) {
        glia_buf_adds(b, "\"logits\"}");
        return true;
    }
    for (const char *p = w->path; *p;) {
        size_t name = strcspn(p, ":,");
        char *end;
        glia_buf_adds(b, p == w->path ? "[{\"component\":" : ",{\"component\":");
        glia_json_add_str(b, p, name);
        if (p[name] != ':') return false;
        glia_buf_addf(b, ",\"layer\":%ld", strtol(p + name + 1, &end, 10));
        if (end == p + name + 1) return false;
        if (*end == ':') {
            const char *head = end + 1;
            glia_buf_addf(b, ",\"head\":%ld", strtol(head, &end, 10));
            if (end == head) return false;
        }
        if (*end && *end != ',') return false;
        glia_buf_adds(b, "}");
        p = end + (*end == ',');
    }
    glia_buf_adds(b, "]}");
    return true;
}

static bool body_of(glia_buf *b, const sweep_options *w) {
    glia_buf_adds(b, "{\"clean\":");
    glia_json_add_cstr(b, w->clean);
    if (w->corrupted) {
        glia_buf_adds(b, ",\"corrupted\":");
        glia_json_add_cstr(b, w->corrupted);
    }
    glia_buf_addf(b, ",\"metric\":\"%s\",\"op\":\"%s\"", metrics[w->metric], ops[w->op]);
    add_tokens(b, "answer", &w->answers);
    add_tokens(b, "wrong", &w->wrongs);
    add_sweeps(b, w->sweeps);
    if (!add_numbers(b, "layers", w->layers) || !add_numbers(b, "positions", w->positions)) {
        fprintf(stderr, "glia sweep: --layers and --positions take numbers and ranges, such as 0-5,9\n");
        return false;
    }
    if (!add_path(b, w)) {
        fprintf(stderr, "glia sweep: --path takes \"logits\", or POINT:LAYER:HEAD, such as q:9:6,k:9:6\n");
        return false;
    }
    glia_buf_adds(b, "}");
    return !b->failed;
}

/* ------------------------------------------------------------------ progress and results */

typedef struct shown {
    bool bar, json;
    double began, last;
} shown;

static double now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool tell(void *ud, size_t n_done, size_t n_total) {
    shown *s = ud;
    double t = now();
    if ((s->bar && t - s->last >= 0.1) || (s->json && t - s->last >= 1)) {
        double left = n_done ? (t - s->began) / (double)n_done * (double)(n_total - n_done) : 0;
        s->last = t;
        if (s->bar)
            fprintf(stderr, "\r\033[Kglia: %zu of %zu interventions, %.0f a second, %.0f s left", n_done, n_total,
                    (double)n_done / fmax(t - s->began, 1e-3), left);
        else
            fprintf(stderr, "{\"event\":\"progress\",\"done\":%zu,\"total\":%zu}\n", n_done, n_total);
    }
    return !cli_stop_asked();
}

typedef struct place {
    double x, value;
    size_t sweep, at;
} place;

static int by_strength(const void *a, const void *b) {
    double x = fabs(((const place *)a)->x), y = fabs(((const place *)b)->x);
    return (x < y) - (x > y);
}

static void collect(yyjson_val *x, yyjson_val *values, bool recovered, double clean, size_t sweep, size_t *at, place *out,
                    size_t cap, size_t *n) {
    if (yyjson_is_arr(x)) {
        size_t i, max;
        yyjson_val *v;
        yyjson_arr_foreach(x, i, max, v) collect(v, yyjson_arr_get(values, i), recovered, clean, sweep, at, out, cap, n);
        return;
    }
    if (yyjson_is_num(x) && *n < cap) {
        double d = yyjson_get_num(x);
        out[(*n)++] = (place){.x = recovered ? d : d - clean, .value = yyjson_get_num(values), .sweep = sweep, .at = *at};
    }
    (*at)++;
}

/* Text of a field; never NULL. */
static const char *text_of(yyjson_val *v, const char *key) {
    const char *s = yyjson_get_str(glia_json_get(v, key));
    return s ? s : "?";
}

static void print_place(yyjson_val *result, const place *p) {
    yyjson_val *sweep = yyjson_arr_get(glia_json_get(result, "sweeps"), p->sweep), *axes = glia_json_get(sweep, "axes");
    yyjson_val *shape = glia_json_get(sweep, "shape");
    size_t index[3] = {0}, rest = p->at, rank = yyjson_arr_size(shape);
    for (size_t k = rank; k-- > 0;) {
        size_t n = (size_t)yyjson_get_uint(yyjson_arr_get(shape, k));
        index[k] = rest % n, rest /= n;
    }
    printf("  %+8.3f  %-10s", p->x, text_of(sweep, "component"));
    for (size_t k = 0; k < rank; k++) {
        const char *axis = yyjson_get_str(yyjson_arr_get(axes, k));
        if (!axis) continue;
        const char *list = !strcmp(axis, "layer") ? "layers" : !strcmp(axis, "position") ? "positions" : NULL;
        int64_t at = list ? yyjson_get_sint(yyjson_arr_get(glia_json_get(result, list), index[k])) : (int64_t)index[k];
        printf(" %s %-3lld", axis, (long long)at);
        if (list && *list == 'p') {
            yyjson_val *token = yyjson_arr_get(glia_json_get(glia_json_get(result, "clean"), "tokens"), (size_t)at);
            printf("\"%s\"", text_of(token, "text"));
        }
    }
    printf("   %s %.4g\n", text_of(result, "metric"), p->value);
}

static void print_strongest(yyjson_val *result) {
    enum { MOST = 200000 };
    yyjson_val *list = glia_json_get(result, "sweeps"), *clean = glia_json_get(glia_json_get(result, "clean"), "value"),
               *other = glia_json_get(glia_json_get(result, "corrupted"), "value"), *iv = glia_json_get(result, "interventions");
    size_t n = 0, count = yyjson_arr_size(list);
    place *p = glia_malloc(MOST * sizeof *p);
    bool recovered = other != NULL;
    for (size_t i = 0; p && i < count; i++) {
        yyjson_val *sweep = yyjson_arr_get(list, i), *values = glia_json_get(sweep, "values");
        size_t at = 0;
        collect(recovered ? glia_json_get(sweep, "recovered") : values, values, recovered, yyjson_get_num(clean), i, &at, p, MOST, &n);
    }
    printf("%s: clean %.4g", text_of(result, "metric"), yyjson_get_num(clean));
    if (recovered) printf(", corrupted %.4g", yyjson_get_num(other));
    printf("; %llu interventions in %.1f s (%.0f a second)\n\n  %s\n", (unsigned long long)yyjson_get_uint(glia_json_get(iv, "run")),
           yyjson_get_num(glia_json_get(iv, "seconds")), yyjson_get_num(glia_json_get(iv, "per_second")),
           recovered ? "share of the difference that one place carries" : "change of the metric without one place");
    if (p) qsort(p, n, sizeof *p, by_strength);
    for (size_t i = 0; i < n && i < SHOWN; i++) print_place(result, &p[i]);
    glia_free(p);
}

static glia_status put(const char *dir, const char *name, glia_buf *b, glia_err *err) {
    char *path = NULL;
    glia_status st = GLIA_ENOMEM;
    if (!b->failed && asprintf(&path, "%s/%s", dir, name) > 0) st = glia_newfile_put(path, b->p, b->n, NULL, err);
    free(path);
    glia_buf_clear(b);
    return st;
}

static glia_status write_files(const char *dir, yyjson_val *result, glia_buf *json, glia_err *err) {
    glia_buf b = {0};
    (void)mkdir(dir, 0777); /* what is wrong with it shows when a file is written */
    glia_buf_add(&b, json->p, json->n);
    glia_buf_adds(&b, "\n");
    glia_status st = put(dir, "sweep.json", &b, err);
    if (!st && !(st = glia_sweep_tensors(result, &b, err))) st = put(dir, "sweep.safetensors", &b, err);
    for (size_t i = 0; i < glia_sweep_count(result) && !st; i++) {
        char name[96];
        yyjson_val *sweep = yyjson_arr_get(glia_json_get(result, "sweeps"), i);
        (void)snprintf(name, sizeof name, "%zu.%.40s.%.16s.svg", i, text_of(sweep, "component"),
                       text_of(sweep, "by"));
        if (!(st = glia_sweep_picture(result, i, &b, err))) st = put(dir, name, &b, err);
    }
    glia_buf_clear(&b);
    return st;
}

/* ------------------------------------------------------------------ the verb */

static int run(const cli_options *o, const sweep_options *w, glia_model *m, glia_buf *body) {
    glia_study s = {.m = m};
    glia_err err = {0};
    glia_buf out = {0};
    yyjson_doc *doc = NULL;
    shown sh = {.bar = isatty(STDERR_FILENO) && !o->json, .json = o->json, .began = now()};
    glia_model_get_info(m, &s.info);
    glia_status st = glia_json_parse_object(&s.doc, &s.root, body->p, body->n, &err);
    if (!st) st = glia_sweep_answer(&s, tell, &sh, &out, &err);
    if (sh.bar) fputs("\r\033[K", stderr);
    if (!st && !(doc = yyjson_read(out.p, out.n, 0))) st = GLIA_ENOMEM;
    if (!st && w->out) st = write_files(w->out, yyjson_doc_get_root(doc), &out, &err);
    if (!st && o->json) puts(out.p);
    else if (!st) print_strongest(yyjson_doc_get_root(doc));
    if (!st && w->out && !o->json) printf("\n  %s: sweep.json, sweep.safetensors, heat maps\n", w->out);
    glia_free(s.layers);
    yyjson_doc_free(s.doc);
    yyjson_doc_free(doc);
    glia_buf_clear(&out);
    if (st == GLIA_ECANCELLED && cli_stop_asked()) return EXIT_INTERRUPTED;
    if (st) (void)cli_print_error(&err);
    return st ? EXIT_FAILED : EXIT_FINE;
}

int cli_sweep(int argc, char **argv) {
    cli_options o;
    sweep_options w = {0};
    flag table[CLI_N_FLAGS + N_OWN];
    flag_list rest;
    bool wants_help;
    glia_status st;
    cli_options_init(&o);
    o.n_parallel = DEFAULT_SLOTS, o.n_ctx = DEFAULT_CONTEXT; /* many short prompts */
    size_t n = own_flags(&w, &o.n_parallel, table);
    n += cli_options_flags(&o, false, table + n);
    if (!flags_parse(table, n, argc, argv, &rest, &wants_help)) return EXIT_USAGE;
    if (wants_help) return help(table, n);
    if (rest.n || !o.model || !w.clean) {
        fprintf(stderr, "glia sweep: %s%s\nTry: glia sweep --help\n",
                rest.n     ? "unexpected argument "
                : !o.model ? "--model is missing"
                           : "--clean is missing",
                rest.n ? rest.items[0] : "");
        return EXIT_USAGE;
    }
    glia_buf body = {0};
    if (!body_of(&body, &w)) {
        glia_buf_clear(&body);
        return EXIT_USAGE;
    }
    cli_options_log(&o);
    char *path = cli_find_model(o.model);
    if (!path || !cli_signals_start()) return EXIT_FAILED;
    glia_model *m = cli_load(&o, path, &st);
    glia_free(path);
    int rc = st ? st == GLIA_ECANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED : run(&o, &w, m, &body);
    if (m) glia_model_close(m);
    glia_buf_clear(&body);
    return rc;
}

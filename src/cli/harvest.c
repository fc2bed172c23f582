/* cli/harvest.c — glia harvest: activations of a data set into a folder of shards.  Main thread. */
#include "api/json.h"
#include "cli/cli.h"
#include "harvest/harvest.h"
#include "harvest/manifest.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct harvest_options {
    const char *data, *points, *out;
    int32_t window, max_tokens, top, projection, seed;
    int dtype, positions;
    size_t shard_bytes, max_bytes;
    bool statistics_only;
} harvest_options;

enum { N_OWN = 13 };
static const char *const dtypes[] = {"float32", "float16", "bfloat16", NULL};
static const char *const positions[] = {"all", "last", NULL};

static size_t own_flags(harvest_options *h, flag *t) {
    size_t n = 0;
    t[n++] =
        (flag){"--data", FLAG_TEXT, &h->data, "FILE|-", ".txt: a document a line; .jsonl: text, messages or tokens",
               0,        0,         NULL};
    t[n++] = (flag){"--points", FLAG_TEXT, &h->points, "LIST", "e.g. resid_post@all,z@0-3+7,final_norm", 0, 0, NULL};
    t[n++] =
        (flag){"--out", FLAG_TEXT, &h->out, "DIR", "folder of shards; an earlier harvest there goes on", 0, 0, NULL};
    t[n++] = (flag){"--dtype", FLAG_CHOICE, &h->dtype, "TYPE", "float32 (default), float16 or bfloat16", 0, 0, dtypes};
    t[n++] = (flag){"--positions", FLAG_CHOICE, &h->positions, "all|last", "rows of each piece (all)", 0, 0, positions};
    t[n++] =
        (flag){"--window", FLAG_INT, &h->window, "N", "longest piece of a document (the context)", 1, 1 << 24, NULL};
    t[n++] = (flag){"--shard-size", FLAG_SIZE, &h->shard_bytes, "SIZE", "bytes of a shard (128M)", 0, 0, NULL};
    t[n++] = (flag){"--max-bytes", FLAG_SIZE, &h->max_bytes, "SIZE", "stop before the shards grow larger", 0, 0, NULL};
    t[n++] = (flag){"--max-tokens", FLAG_INT, &h->max_tokens, "N", "stop behind so many tokens", 1, INT32_MAX, NULL};
    t[n++] = (flag){
        "--statistics-only", FLAG_SWITCH, &h->statistics_only, NULL, "no shards: means, variances, norms", 0, 0, NULL};
    t[n++] = (flag){"--top", FLAG_INT, &h->top, "K", "keep the K largest values of each channel and their tokens", 1,
                    GLIA_HARVEST_TOP_MAX, NULL};
    t[n++] = (flag){"--project", FLAG_INT, &h->projection, "N", "rows times N random directions instead of rows", 1,
                    GLIA_HARVEST_PROJECTION_MAX, NULL};
    t[n++] = (flag){"--seed", FLAG_INT, &h->seed, "N", "of these directions (0)", 0, INT32_MAX, NULL};
    return n;
}

static int help(const flag *table, size_t n) {
    puts("glia harvest — the activations of a data set, in files\n\n"
         "  glia harvest --model FILE|ID --data FILE --points LIST --out DIR [flags]\n\n"
         "Writes safetensors shards, statistics and manifest.json (docs/FORMATS.md).  Ctrl-C, a crash or a full disk\n"
         "lose nothing that is sealed: the same command goes on where it stopped.\n");
    flags_print(table, n);
    puts("\nExamples:\n"
         "  glia harvest --model SmolLM2-135M-Instruct --data corpus.txt --points resid_post@all --out run1\n"
         "  zcat pile.jsonl.gz | glia harvest --model llama.gguf --data - --points resid_post@12,mlp_out@12 \\\n"
         "      --dtype float16 --window 1024 --max-bytes 100G --out run2");
    return EXIT_FINE;
}

/* ------------------------------------------------------------------ progress */

typedef struct shown {
    bool bar, json;
    double last;
} shown;

static void print_json(const glia_harvest_progress *g, const char *event) {
    printf("{\"event\":\"%s\",\"documents\":%llu,\"tokens\":%llu,\"rows\":%llu,\"bytes\":%llu,\"shards\":%llu,"
           "\"seconds\":%.3f,\"tokens_per_s\":%.1f",
           event, (unsigned long long)g->documents, (unsigned long long)g->tokens, (unsigned long long)g->rows,
           (unsigned long long)g->bytes, (unsigned long long)g->shards, g->seconds,
           g->seconds > 0 ? (double)g->tokens_now / g->seconds : 0.0);
    if (g->fraction >= 0) printf(",\"fraction\":%.6f", g->fraction);
    puts("}");
    (void)fflush(stdout);
}

static void time_left(char *out, size_t cap, const glia_harvest_progress *g) {
    out[0] = 0;
    if (g->fraction <= 0 || g->fraction >= 1 || g->seconds < 1) return;
    double s = g->seconds / g->fraction * (1 - g->fraction); /* of this run; a resumed one reads the done part fast */
    if (s < 90) (void)snprintf(out, cap, ", %.0f s left", s);
    else if (s < 5400) (void)snprintf(out, cap, ", %.0f min left", s / 60);
    else (void)snprintf(out, cap, ", %.1f h left", s / 3600);
}

static void print_bar(const glia_harvest_progress *g) {
    enum { WIDTH = 20 };
    char bar[WIDTH + 1], left[32];
    int full = g->fraction < 0 ? 0 : (int)(g->fraction * WIDTH);
    for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = 0;
    time_left(left, sizeof left, g);
    double rate = g->seconds > 0 ? 1 / g->seconds : 0;
    fprintf(stderr, "\r\033[Kglia: [%s] %llu tokens, %.0f tokens/s, %.2f GB, %.3f GB/s%s", bar,
            (unsigned long long)g->tokens, (double)g->tokens_now * rate, (double)g->bytes / 1e9,
            (double)g->bytes_now / 1e9 * rate, left);
}

static bool on_progress(const glia_harvest_progress *g, void *ud) {
    shown *s = ud;
    if (s->bar) print_bar(g);
    if (s->json && g->seconds - s->last >= 1) {
        s->last = g->seconds;
        print_json(g, "progress");
    }
    return !cli_stop_asked();
}

static void say_end(const harvest_options *h, const glia_harvest_progress *g, glia_harvest_end end) {
    static const char *const words[] = {
        [GLIA_HARVEST_COMPLETE] = "complete",
        [GLIA_HARVEST_STOPPED] = "stopped: the same command goes on from here",
        [GLIA_HARVEST_QUOTA] = "stopped at --max-bytes: the same command with more goes on from here",
        [GLIA_HARVEST_TOKENS] = "stopped at --max-tokens: the same command with more goes on from here",
    };
    printf("glia: %s: %llu documents, %llu tokens, %llu rows, %.2f GB in %llu shards (%.0f tokens/s)\n  %s\n", h->out,
           (unsigned long long)g->documents, (unsigned long long)g->tokens, (unsigned long long)g->rows,
           (double)g->bytes / 1e9, (unsigned long long)g->shards,
           g->seconds > 0 ? (double)g->tokens_now / g->seconds : 0.0, words[end]);
}

/* ------------------------------------------------------------------ the verb */

static int harvest(const cli_options *o, const harvest_options *h, glia_model *m) {
    static const char *const events[] = {"complete", "stopped", "max_bytes", "max_tokens"};
    shown s = {.bar = isatty(STDERR_FILENO) && !o->json, .json = o->json};
    glia_harvest_params p = {
        .model = m,
        .data = h->data,
        .out = h->out,
        .points = h->points,
        .last_only = h->positions == 1,
        .statistics_only = h->statistics_only,
        .dtype = (glia_dtype)h->dtype,
        .window = h->window,
        .shard_bytes = h->shard_bytes,
        .max_bytes = h->max_bytes,
        .max_tokens = (uint64_t)h->max_tokens,
        .top = h->top,
        .projection = h->projection,
        .projection_seed = (uint64_t)h->seed,
        .on_progress = on_progress,
        .ud = &s,
    };
    glia_harvest_progress g;
    glia_harvest_end end;
    glia_err err;
    glia_status st = glia_harvest_run(&p, &g, &end, &err);
    if (s.bar) fputs("\r\033[K", stderr);
    if (st == GLIA_ECANCELLED && cli_stop_asked()) return EXIT_INTERRUPTED;
    if (st) {
        (void)cli_print_error(&err);
        return EXIT_FAILED;
    }
    if (o->json) print_json(&g, events[end]);
    else say_end(h, &g, end);
    return end == GLIA_HARVEST_STOPPED ? EXIT_INTERRUPTED : EXIT_FINE;
}

static bool missing(const char *what) {
    fprintf(stderr, "glia harvest: %s is missing\nTry: glia harvest --help\n", what);
    return false;
}

int cli_harvest(int argc, char **argv) {
    cli_options o;
    harvest_options h = {0};
    flag table[CLI_N_FLAGS + N_OWN];
    flag_list rest;
    bool wants_help;
    glia_status st;
    cli_options_init(&o);
    size_t n = own_flags(&h, table);
    n += cli_options_flags(&o, false, table + n);
    if (!flags_parse(table, n, argc, argv, &rest, &wants_help)) return EXIT_USAGE;
    if (wants_help) return help(table, n);
    if (rest.n) {
        fprintf(stderr, "glia harvest: unexpected argument %s\n", rest.items[0]);
        return EXIT_USAGE;
    }
    bool all = o.model ? true : missing("--model");
    if (all && !h.data) all = missing("--data");
    if (all && !h.points) all = missing("--points");
    if (all && !h.out) all = missing("--out");
    if (!all) return EXIT_USAGE;
    cli_options_log(&o);
    char *path = cli_find_model(o.model);
    if (!path || !cli_signals_start()) return EXIT_FAILED;
    glia_model *m = cli_load(&o, path, &st);
    glia_free(path);
    if (st) return st == GLIA_ECANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
    int rc = harvest(&o, &h, m);
    glia_model_close(m);
    return rc;
}

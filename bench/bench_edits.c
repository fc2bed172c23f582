/* bench/bench_edits.c — what interventions cost: the same requests with and without them, in pairs whose order alternates.
 *
 *   bench_edits MODEL [--rounds N] [--streams N] [--tokens N] [--threads N] [--cpu-time]
 *
 * --cpu-time: seconds of the processor instead of the clock's, for a machine that has other things to do.
 * One steering vector on every generated token; one for each of many streams at once, all different; one on every row of
 * a prompt; attention knockout on every generated token.  A line of JSON each.  Uses the public header only.
 *
 * SPDX-License-Identifier: MIT */
#include "glia.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 256, PROMPT = 16 };
enum kind { NOTHING, VECTOR, EVERY_LAYER, KNOCKOUT, N_KINDS };
static const char *const kind_name[N_KINDS] = {"nothing (noise of the method)", "one vector", "a vector in every layer", "knockout, one layer"};

static glia_model *m;
static glia_model_info info;
static uint32_t seed = 7;
static clockid_t measured = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(measured, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what, const glia_err *err) {
    fprintf(stderr, "bench_edits: %s: %s\n", what, err ? err->message : "");
    exit(1);
}

static int32_t token(void) {
    int32_t skip = info.n_vocab > 2000 ? 1000 : 0;
    seed = seed * 1664525u + 1013904223u;
    return skip + (int32_t)((seed >> 8) % (uint32_t)(info.n_vocab - skip));
}

/* n requests at once, all with this kind of change (each its own vector); prefill: n_tokens of prompt, else n_tokens of
 * answer.  Seconds until all have ended, from its first token where it is one answer. */
static double run(enum kind kind, int n, int32_t n_tokens, bool prefill) {
    static glia_request *r[MOST];
    size_t width = (size_t)info.n_embd, n_layers = kind == EVERY_LAYER ? (size_t)info.n_layer : 1;
    float *v = malloc((size_t)n * width * sizeof *v);
    glia_edit *e = calloc(n_layers, sizeof *e);
    int32_t *prompt = malloc((size_t)(prefill ? n_tokens : PROMPT) * sizeof *prompt);
    static const int64_t first = 0;
    glia_err err;
    if (!v || !e || !prompt) die("out of memory", NULL);
    double t0 = now();
    for (int i = 0; i < n; i++) {
        glia_request_params p;
        glia_request_params_init(&p);
        p.prompt = prompt, p.n_prompt = (size_t)(prefill ? n_tokens : PROMPT);
        for (size_t k = 0; k < p.n_prompt; k++) prompt[k] = token();
        p.max_tokens = prefill ? 1 : n_tokens + 1;
        p.sampling.temperature = 0, p.sampling.ignore_eos = true, p.no_cache = true, p.whole_reply = prefill;
        for (size_t k = 0; k < width; k++) v[(size_t)i * width + k] = 0.05f * sinf((float)((size_t)i * width + k));
        for (size_t l = 0; l < n_layers; l++) {
            int32_t layer = kind == EVERY_LAYER ? (int32_t)l : info.n_layer / 2;
            e[l] = (glia_edit){.where = {.point = GLIA_POINT_RESID_POST, .layer = layer, .phases = prefill ? GLIA_PHASE_PROMPT : GLIA_PHASE_GENERATED},
                               .op = GLIA_EDIT_ADD, .strength = 1, .rows = v + (size_t)i * width, .n_rows = 1, .n_channels = width};
            if (kind != KNOCKOUT) continue;
            e[l].where.point = GLIA_POINT_ATTN_PROBS, e[l].op = GLIA_EDIT_KNOCKOUT, e[l].rows = NULL, e[l].n_rows = 0;
            e[l].to = &first, e[l].n_to = 1;
        }
        if (kind != NOTHING) p.edits = e, p.n_edits = n_layers;
        if (glia_request_submit(&r[i], m, &p, &err)) die("submit", &err);
    }
    for (int i = 0; i < n; i++) {
        for (bool done = false; !done;) {
            glia_event *ev = glia_request_next(r[i], -1);
            if (!ev) die("the queue ended early", NULL);
            if (ev->kind == GLIA_EVENT_ERROR) die("request", &ev->u.error);
            if (ev->kind == GLIA_EVENT_TOKEN && !prefill && n == 1 && ev->u.token.index == 0) t0 = now();
            done = ev->kind == GLIA_EVENT_DONE;
            glia_event_free(ev);
        }
        glia_request_free(r[i]);
    }
    double t = now() - t0;
    free(v);
    free(e);
    free(prompt);
    return t;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void compare(enum kind kind, int n, int32_t n_tokens, bool prefill, int rounds) {
    double ratio[64], base[64], more[64];
    (void)run(kind, n, n_tokens, prefill);
    for (int i = 0; i < rounds; i++) {
        double a = 0, b;
        if (i % 2 == 0) a = run(NOTHING, n, n_tokens, prefill);
        b = run(kind, n, n_tokens, prefill);
        if (i % 2 == 1) a = run(NOTHING, n, n_tokens, prefill);
        base[i] = a, ratio[i] = b / a, more[i] = (b - a) / n / n_tokens * 1e6;
    }
    qsort(ratio, (size_t)rounds, sizeof *ratio, by_value);
    qsort(base, (size_t)rounds, sizeof *base, by_value);
    qsort(more, (size_t)rounds, sizeof *more, by_value);
    printf("{\"work\": \"%s\", \"streams\": %d, \"tokens\": %d, \"change\": \"%s\", \"ratio\": %.4f, \"min\": %.4f, \"max\": %.4f, "
           "\"base_tokens_per_s\": %.1f, \"us_per_token\": %.2f, \"clock\": \"%s\"}\n",
           prefill ? "prefill" : "decode", n, n_tokens, kind_name[kind], ratio[rounds / 2], ratio[0], ratio[rounds - 1],
           n * (double)n_tokens / base[rounds / 2], more[rounds / 2], measured == CLOCK_MONOTONIC ? "wall" : "cpu");
    (void)fflush(stdout);
}

int main(int argc, char **argv) {
    int rounds = 7, streams = 64, tokens = 64, threads = 0;
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--rounds") && i + 1 < argc) rounds = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--streams") && i + 1 < argc) streams = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--tokens") && i + 1 < argc) tokens = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--cpu-time")) measured = CLOCK_PROCESS_CPUTIME_ID;
        else path = argv[i];
    }
    if (!path || rounds < 1 || rounds > 64 || streams < 1 || streams > MOST || tokens < 1) {
        fprintf(stderr, "bench_edits MODEL [--rounds N] [--streams N] [--tokens N] [--threads N] [--cpu-time]\n");
        return 2;
    }
    glia_model_params mp;
    glia_err err;
    glia_model_params_init(&mp);
    mp.path = path, mp.n_parallel = streams, mp.n_ctx = 512, mp.n_threads = threads;
    if (glia_model_open(&m, &mp, &err)) die("open", &err);
    glia_model_get_info(m, &info);
    for (int k = 0; k < N_KINDS; k++) compare((enum kind)k, 1, tokens, false, rounds);
    compare(NOTHING, 1, 256, true, rounds);
    compare(VECTOR, 1, 256, true, rounds);
    compare(NOTHING, streams, tokens / 2 + 1, false, (rounds + 1) / 2);
    compare(VECTOR, streams, tokens / 2 + 1, false, (rounds + 1) / 2);
    glia_model_close(m);
    return 0;
}

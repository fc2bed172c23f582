/* bench/bench_tap.c — what capturing costs inside the process, without HTTP and JSON.
 *
 * Runs the same request without hooks and with them, in pairs whose order alternates, and reports the median of the
 * paired ratios.  --against-no-hooks opens the model a second time without hooks (no callback between the graph's nodes)
 * and runs the requests without hooks there: then the row "none" is what being ready for hooks costs.
 * Uses the public header only.
 *
 * SPDX-License-Identifier: MIT */
#include "glia.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* resid_pre is the stream entering a block: the embeddings and what every block but the last leaves.  The last block's
 * resid_post is apart: llama.cpp trims that block to output rows, so wanting all of them buys every token's logits. */
enum mode {
    MODE_NONE, MODE_ONE, MODE_RESID, MODE_RESID_POST, MODE_TRUNK, MODE_SEVEN, MODE_ALL,
    MODE_PROBS_ONE, MODE_PROBS, MODE_PROBS_LAST, MODE_SCORES, MODE_HEADS, MODE_LENS, N_MODES
};
static const char *const mode_name[N_MODES] = {
    "none", "resid_post of one layer", "resid_pre of all layers", "resid_post of all layers", "the trunk of all layers",
    "7 points of all layers", "all points of all layers",
    "attn_probs of one layer", "attn_probs of all layers", "attn_probs, last row, all layers",
    "attn_scores of all layers", "attn_head_out of all layers", "lens_in of all layers"};
static const glia_point mode_point[N_MODES] = {
    [MODE_ONE] = GLIA_POINT_RESID_POST, [MODE_RESID] = GLIA_POINT_RESID_PRE, [MODE_RESID_POST] = GLIA_POINT_RESID_POST,
    [MODE_PROBS_ONE] = GLIA_POINT_ATTN_PROBS, [MODE_PROBS] = GLIA_POINT_ATTN_PROBS,
    [MODE_PROBS_LAST] = GLIA_POINT_ATTN_PROBS, [MODE_SCORES] = GLIA_POINT_ATTN_SCORES,
    [MODE_HEADS] = GLIA_POINT_ATTN_HEAD_OUT, [MODE_LENS] = GLIA_POINT_LENS_IN};
/* the trunk: what enters a block, leaves its attention and its MLP, and lies between them */
static const glia_point trunk[] = {GLIA_POINT_RESID_PRE, GLIA_POINT_ATTN_OUT, GLIA_POINT_RESID_MID, GLIA_POINT_MLP_OUT};
static const glia_point seven[] = {GLIA_POINT_RESID_PRE, GLIA_POINT_Q, GLIA_POINT_K, GLIA_POINT_VALUE,
                                   GLIA_POINT_Z, GLIA_POINT_ATTN_OUT, GLIA_POINT_MLP_OUT};
static const int64_t last_row[] = {-1};
/* read: a prompt whose answer nobody wants (max_tokens 0); passes may end behind the last node that a hook wants */
enum work { WORK_PREFILL, WORK_DECODE, WORK_READ, N_WORKS };
static const char *const work_name[N_WORKS] = {"prefill", "decode", "read"};

typedef struct bench {
    glia_model *model;
    glia_model *plain; /* runs the requests without hooks; the same as model, or loaded without hooks */
    glia_model_info info;
    int32_t n_prefill, n_decode, n_streams;
    int n_rounds;
    bool json;
    uint64_t *sum; /* of all bytes that come, in their order; NULL: not wanted */
    glia_hook *hooks[N_MODES];
    size_t n_hooks[N_MODES];
    uint32_t seed; /* every request gets its own tokens */
} bench;

typedef struct sample {
    double seconds;  /* of the part that is measured */
    uint64_t bytes;  /* of activations delivered */
    int32_t n_tokens;
} sample;

static clockid_t time_by = CLOCK_MONOTONIC; /* or the process's own: what work costs on a machine that others use */

static double now(void) {
    struct timespec t;
    clock_gettime(time_by, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what, const glia_err *err) {
    fprintf(stderr, "bench_tap: %s: %s\n", what, err ? err->message : "");
    exit(1);
}

static bool is_of(enum mode mode, glia_point p) {
    const glia_point *list = mode == MODE_TRUNK ? trunk : seven;
    size_t n = mode == MODE_TRUNK ? sizeof trunk / sizeof *trunk : mode == MODE_SEVEN ? sizeof seven / sizeof *seven : 0;
    for (size_t i = 0; i < n; i++) {
        if (list[i] == p) return true;
    }
    return mode == MODE_ALL || (!n && p == mode_point[mode]);
}

static void hooks_make(bench *b, enum mode mode) {
    size_t room = (size_t)GLIA_N_POINTS * (size_t)b->info.n_layer;
    glia_hook *h = calloc(room ? room : 1, sizeof *h);
    if (!h) die("out of memory", NULL);
    size_t n = 0;
    for (int32_t layer = 0; mode != MODE_NONE && layer < b->info.n_layer; layer++) {
        if ((mode == MODE_ONE || mode == MODE_PROBS_ONE) && layer != b->info.n_layer / 2) continue;
        for (int p = 0; p < GLIA_N_POINTS; p++) {
            glia_point_info pi;
            if (!glia_point_has_layer((glia_point)p) || !is_of(mode, (glia_point)p)) continue;
            if (!glia_model_point(b->model, (glia_point)p, layer, &pi) || pi.grade < GLIA_GRADE_STRUCTURAL) continue;
            /* "all points" are what is read; what is computed once more or from weights has rows of its own */
            if (mode == MODE_ALL && (pi.by_position || p == GLIA_POINT_ATTN_HEAD_OUT || p == GLIA_POINT_LENS_IN)) continue;
            if (mode == MODE_PROBS_LAST) h[n].positions = last_row, h[n].n_positions = 1;
            h[n].point = (glia_point)p;
            h[n].layer = layer;
            h[n].phases = GLIA_PHASE_ALL;
            n++;
        }
    }
    b->hooks[mode] = h;
    b->n_hooks[mode] = n;
}

/* Four lanes of FNV-1a over words: to compare rows of two runs, not to withstand anybody. */
static void add_sum(uint64_t *sum, const float *data, size_t n) {
    uint64_t h[4] = {*sum, *sum ^ 1, *sum ^ 2, *sum ^ 3};
    for (size_t i = 0; i < n; i++) {
        uint32_t v;
        memcpy(&v, data + i, sizeof v);
        h[i % 4] = (h[i % 4] ^ v) * 0x100000001b3u;
    }
    *sum = h[0] ^ (h[1] << 1 | h[1] >> 63) ^ (h[2] << 2 | h[2] >> 62) ^ (h[3] << 3 | h[3] >> 61);
}

typedef struct stream {
    bench *b;
    enum work work;
    enum mode mode;
    glia_model *model;
    int32_t *prompt, n_prompt;
    double first; /* when its first token came */
    sample s;
} stream;

/* One request to its end. */
static void *run_stream(void *arg) {
    stream *t = arg;
    bench *b = t->b;
    glia_request_params p;
    glia_request_params_init(&p);
    p.prompt = t->prompt, p.n_prompt = (size_t)t->n_prompt;
    p.max_tokens = t->work == WORK_READ ? 0 : t->work == WORK_PREFILL ? 1 : b->n_decode + 1;
    p.sampling.temperature = 0;
    p.sampling.n_logprobs = -1;
    p.sampling.ignore_eos = true;
    p.no_cache = true;
    p.hooks = b->hooks[t->mode];
    p.n_hooks = b->n_hooks[t->mode];
    glia_err err = {0};
    glia_request *r = NULL;
    if (glia_request_submit(&r, t->model, &p, &err)) die("submit", &err);
    for (bool done = false; !done;) {
        glia_event *ev = glia_request_next(r, -1);
        if (!ev) die("the queue ended early", NULL);
        switch (ev->kind) {
        case GLIA_EVENT_TOKEN:
            if (ev->u.token.index == 0) t->first = now();
            t->s.n_tokens++;
            break;
        case GLIA_EVENT_ACTIVATIONS:
            for (size_t i = 0; i < ev->u.activations.n_frames; i++) {
                const glia_frame *f = &ev->u.activations.frames[i];
                t->s.bytes += sizeof(float) * (uint64_t)f->n_rows * (uint64_t)f->width;
                if (b->sum) add_sum(b->sum, f->data, (size_t)f->n_rows * (size_t)f->width);
            }
            break;
        case GLIA_EVENT_DONE: done = true; break;
        case GLIA_EVENT_ERROR: die("request", &ev->u.error); break;
        default: break;
        }
        glia_event_free(ev);
    }
    glia_request_free(r);
    return NULL;
}

/* All streams at once; prefill, read: from submit to the end, decode: from the last first token to the end of all. */
static sample run(bench *b, glia_model *model, enum work work, enum mode mode) {
    enum { MOST = 64 };
    stream t[MOST];
    pthread_t thread[MOST];
    int32_t n_prompt = work == WORK_DECODE ? 16 : b->n_prefill;
    for (int32_t i = 0; i < b->n_streams; i++) {
        t[i] = (stream){.b = b, .model = model, .work = work, .mode = mode, .n_prompt = n_prompt};
        if (!(t[i].prompt = malloc(sizeof *t[i].prompt * (size_t)n_prompt))) die("out of memory", NULL);
        for (int32_t k = 0; k < n_prompt; k++) {
            b->seed = b->seed * 1664525u + 1013904223u;
            /* the first ids of most vocabularies are control tokens */
            int32_t skip = b->info.n_vocab > 2000 ? 1000 : 0;
            t[i].prompt[k] = skip + (int32_t)((b->seed >> 8) % (uint32_t)(b->info.n_vocab - skip));
        }
    }
    double t0 = now();
    for (int32_t i = 1; i < b->n_streams; i++) {
        if (pthread_create(&thread[i], NULL, run_stream, &t[i])) die("cannot start a thread", NULL);
    }
    run_stream(&t[0]);
    for (int32_t i = 1; i < b->n_streams; i++) pthread_join(thread[i], NULL);
    sample s = {.seconds = now()};
    for (int32_t i = 0; i < b->n_streams; i++) {
        if (work == WORK_DECODE && t[i].first > t0) t0 = t[i].first;
        s.bytes += t[i].s.bytes;
        s.n_tokens += work == WORK_DECODE ? t[i].s.n_tokens - 1 : n_prompt;
        free(t[i].prompt);
    }
    s.seconds -= t0;
    return s;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void compare(bench *b, enum work work, enum mode mode) {
    double ratio[64], base[64], with[64];
    sample s = {0};
    for (int i = 0; i < b->n_rounds; i++) {
        sample a = {0};
        if (i % 2 == 0) a = run(b, b->plain, work, MODE_NONE);
        s = run(b, b->model, work, mode);
        if (i % 2 == 1) a = run(b, b->plain, work, MODE_NONE);
        base[i] = a.seconds, with[i] = s.seconds, ratio[i] = s.seconds / a.seconds;
    }
    double r = median(ratio, b->n_rounds), t0 = median(base, b->n_rounds), t1 = median(with, b->n_rounds);
    double mib = (double)s.bytes / 1048576.0;
    if (b->json) {
        printf("{\"work\": \"%s\", \"streams\": %d, \"capture\": \"%s\", \"tokens\": %d, \"hooks\": %zu, \"ratio\": %.4f, \"min\": %.4f, "
               "\"max\": %.4f, \"base_s\": %.5f, \"with_s\": %.5f, \"mib\": %.3f}\n",
               work_name[work], b->n_streams, mode_name[mode], s.n_tokens, b->n_hooks[mode], r, ratio[0], ratio[b->n_rounds - 1], t0,
               t1, mib);
    } else {
        printf("%-8s %-32s %4d tokens  %7.1f tok/s  time x %.3f (%.3f..%.3f)  %8.2f MiB  %6.2f GB/s\n", work_name[work],
               mode_name[mode], s.n_tokens, s.n_tokens / t1, r, ratio[0], ratio[b->n_rounds - 1], mib,
               (double)s.bytes / 1e9 / t1);
    }
    fflush(stdout);
}

/* The same tokens whatever the settings: a line per set of hooks, to be compared between two runs of this program. */
static void print_sums(bench *b) {
    for (int m = MODE_ONE; m < MODE_ALL; m++) {
        uint64_t sum = 0xcbf29ce484222325u;
        b->seed = 77, b->sum = &sum;
        sample s = run(b, b->model, WORK_PREFILL, (enum mode)m);
        (void)run(b, b->model, WORK_DECODE, (enum mode)m);
        b->sum = NULL;
        printf("sum %-32s %016" PRIx64 " %.1f MiB\n", mode_name[m], sum, (double)s.bytes / 1048576);
    }
}

/* Opening the model with and without the cached verdict of the dry run. */
static void bench_loads(bench *b, const glia_model_params *mp, int n) {
    for (int cached = 0; cached < 2; cached++) {
        double open[64], map[64], prove[64];
        for (int i = -cached; i < n; i++) { /* the first of the cached ones may have to write the verdict */
            glia_model_params p = *mp;
            glia_model *m;
            glia_model_info info;
            glia_err err = {0};
            p.atlas_cache = cached;
            double t0 = now();
            if (glia_model_open(&m, &p, &err)) die("model", &err);
            int k = i < 0 ? 0 : i;
            open[k] = 1e3 * (now() - t0);
            glia_model_get_info(m, &info);
            map[k] = info.map_ms, prove[k] = info.prove_ms;
            glia_model_close(m);
        }
        double o = median(open, n), a = median(map, n), q = median(prove, n);
        if (b->json)
            printf("{\"load\": \"%s\", \"open_ms\": %.1f, \"map_ms\": %.2f, \"prove_ms\": %.2f}\n",
                   cached ? "cached" : "proven", o, a, q);
        else
            printf("load, %-19s %8.1f ms, of which map %.2f ms, proof %.2f ms (%.1f %%)\n",
                   cached ? "verdict cached:" : "proven anew:", o, a, q, 100 * (a + q) / o);
        fflush(stdout);
    }
}

static bool staging_of(const char *name, glia_staging_mode *out) {
    static const char *const names[] = {"auto", "off", "stops", "always"};
    for (int i = 0; i < 4; i++) {
        if (!strcmp(name, names[i])) return *out = (glia_staging_mode)i, true;
    }
    return false;
}

int main(int argc, char **argv) {
    bench b = {.n_prefill = 512, .n_decode = 128, .n_streams = 1, .n_rounds = 7, .seed = 1};
    const char *only_work = NULL, *only_named = NULL;
    int n_loads = 0;
    bool only_attention = false, no_attention = false, sums = false, against_no_hooks = false, nothing = false;
    glia_model_params mp;
    glia_model_params_init(&mp);
    mp.n_parallel = 1;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--json")) { b.json = true; continue; }
        if (!strcmp(argv[i], "--attention")) { only_attention = true; continue; }
        if (!strcmp(argv[i], "--no-attention")) { no_attention = true; continue; }
        if (!strcmp(argv[i], "--against-no-hooks")) { against_no_hooks = true; continue; }
        if (!strcmp(argv[i], "--nothing")) { nothing = true; continue; }
        if (!strcmp(argv[i], "--cpu-time")) { time_by = CLOCK_PROCESS_CPUTIME_ID; continue; }
        if (!strcmp(argv[i], "--sums")) { sums = true; continue; }
        if (!value) { fprintf(stderr, "bench_tap: %s: no value\n", argv[i]); return 2; }
        if (!strcmp(argv[i], "--model")) mp.path = value;
        else if (!strcmp(argv[i], "--rounds")) b.n_rounds = atoi(value);
        else if (!strcmp(argv[i], "--prefill")) b.n_prefill = atoi(value);
        else if (!strcmp(argv[i], "--decode")) b.n_decode = atoi(value);
        else if (!strcmp(argv[i], "--streams")) b.n_streams = atoi(value);
        else if (!strcmp(argv[i], "--work")) only_work = value;
        else if (!strcmp(argv[i], "--only")) only_named = value;
        else if (!strcmp(argv[i], "--loads")) n_loads = atoi(value);
        else if (!strcmp(argv[i], "--threads")) mp.n_threads = atoi(value);
        else if (!strcmp(argv[i], "--flash-attn")) mp.flash = strcmp(value, "off") ? GLIA_FLASH_ON : GLIA_FLASH_OFF;
        else if (!strcmp(argv[i], "--staging") && staging_of(value, &mp.staging)) {}
        else if (!strcmp(argv[i], "--gpu-layers")) mp.n_gpu_layers = atoi(value);
        else {
            fprintf(stderr, "usage: bench_tap --model FILE [--rounds N] [--prefill N] [--decode N] [--streams N] "
                            "[--work prefill|decode|read] [--loads N] [--threads N] "
                            "[--gpu-layers N] [--flash-attn on|off] [--staging auto|off|stops|always] "
                            "[--attention | --no-attention | --nothing] [--only PART-OF-A-ROW'S-NAME] [--against-no-hooks] [--sums] [--cpu-time] [--json]\n");
            return 2;
        }
        i++;
    }
    if (!mp.path || b.n_rounds < 1 || b.n_rounds > 64 || b.n_prefill < 1 || b.n_decode < 1 ||
        b.n_streams < 1 || b.n_streams > 64 || n_loads < 0 || n_loads > 64) {
        fprintf(stderr, "bench_tap: --model is needed, --rounds, --streams and --loads are at most 64, lengths at least 1\n");
        return 2;
    }
    mp.n_ctx = (b.n_prefill > b.n_decode + 16 ? b.n_prefill : b.n_decode + 16) + 16;
    mp.capture_bytes = (size_t)16 << 30;
    mp.n_parallel = b.n_streams;
    glia_err err = {0};
    if (n_loads) {
        bench_loads(&b, &mp, n_loads);
        return 0;
    }
    if (glia_model_open(&b.model, &mp, &err)) die("model", &err);
    b.plain = b.model;
    if (against_no_hooks) {
        glia_model_params p = mp;
        p.no_hooks = true;
        if (glia_model_open(&b.plain, &p, &err)) die("model without hooks", &err);
    }
    glia_model_get_info(b.model, &b.info);
    if (b.info.hooks_refused) die(b.info.hooks_refused, NULL);
    for (int m = 0; m < N_MODES; m++) hooks_make(&b, (enum mode)m);
    if (!b.json) {
        printf("%s, %d layers, width %d; libglia %s, llama.cpp %s; %d rounds, paired, order alternating%s\n", b.info.id,
               b.info.n_layer, b.info.n_embd, glia_version(), glia_llama_version(), b.n_rounds,
               against_no_hooks ? ", against a model loaded without hooks" : "");
    }
    int n_modes = nothing ? MODE_NONE + 1 : no_attention ? MODE_PROBS_ONE : N_MODES;
    if (sums) print_sums(&b), n_modes = 0;
    for (int m = 0; m < n_modes; m++) run(&b, b.model, WORK_PREFILL, (enum mode)m); /* warm up */
    if (b.plain != b.model) run(&b, b.plain, WORK_PREFILL, MODE_NONE);
    for (int w = 0; w < N_WORKS; w++) {
        if (only_work ? strcmp(only_work, work_name[w]) != 0 : w == WORK_READ) continue;
        for (int m = MODE_NONE; m < n_modes; m++) {
            if (only_named && !strstr(mode_name[m], only_named)) continue;
            if (m == MODE_NONE || !only_attention || m >= MODE_PROBS_ONE) compare(&b, (enum work)w, (enum mode)m);
        }
    }
    for (int m = 0; m < N_MODES; m++) free(b.hooks[m]);
    if (b.plain != b.model) glia_model_close(b.plain);
    glia_model_close(b.model);
    return 0;
}

/* bench/gpu/rows.c — the same prompt with the model's layers in two places: are the rows the same numbers?
 *
 *   rows --model FILE --layers N --reference N [--prompt N] [--tolerance X]
 *
 * Opens the model twice, with so many layers on the GPUs (-1: all, 0: none, which is the CPU), reads every point of every
 * layer over one prompt from both and prints, for each point, the layer that differs most: the largest difference by the
 * largest number of the reference.  Status 1: some point differs by more than the tolerance.  Uses the public header only.
 *
 * SPDX-License-Identifier: MIT */
#include "glia.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct side {
    glia_model *model;
    float **rows; /* [n_hooks] as they came, one after another */
    size_t *n;    /* [n_hooks] floats */
} side;

static void die(const char *what, const glia_err *err) {
    fprintf(stderr, "rows: %s: %s\n", what, err ? err->message : "");
    exit(2);
}

static glia_model *open_with(const glia_model_params *base, int32_t layers) {
    glia_model_params p = *base;
    glia_model *m;
    glia_err err = {0};
    p.n_gpu_layers = layers;
    if (glia_model_open(&m, &p, &err)) die("model", &err);
    return m;
}

/* Every point that both serve, but for those computed from the file's weights on the host. */
static size_t choose(const side *a, const side *b, glia_hook *h) {
    glia_model_info info;
    size_t n = 0;
    glia_model_get_info(a->model, &info);
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int32_t il = 0; il < (glia_point_has_layer((glia_point)p) ? info.n_layer : 1); il++) {
            glia_point_info x, y;
            if (p == GLIA_POINT_ATTN_HEAD_OUT || p == GLIA_POINT_LENS_IN) continue;
            if (!glia_model_point(a->model, (glia_point)p, il, &x) || !glia_model_point(b->model, (glia_point)p, il, &y)) continue;
            if (x.grade < GLIA_GRADE_STRUCTURAL || y.grade < GLIA_GRADE_STRUCTURAL) continue;
            h[n++] = (glia_hook){.point = (glia_point)p, .layer = il, .phases = GLIA_PHASE_PROMPT};
        }
    }
    return n;
}

static void run(side *s, const glia_hook *hooks, size_t n_hooks, const int32_t *prompt, size_t n_prompt) {
    glia_request_params p;
    glia_request *r;
    glia_err err = {0};
    glia_request_params_init(&p);
    p.prompt = prompt, p.n_prompt = n_prompt, p.max_tokens = 1, p.no_cache = true;
    p.sampling.temperature = 0, p.sampling.ignore_eos = true;
    p.hooks = hooks, p.n_hooks = n_hooks;
    s->rows = calloc(n_hooks, sizeof *s->rows), s->n = calloc(n_hooks, sizeof *s->n);
    if (!s->rows || !s->n) die("out of memory", NULL);
    if (glia_request_submit(&r, s->model, &p, &err)) die("submit", &err);
    for (bool done = false; !done;) {
        glia_event *ev = glia_request_next(r, -1);
        if (!ev) die("the queue ended early", NULL);
        if (ev->kind == GLIA_EVENT_ERROR) die("request", &ev->u.error);
        done = ev->kind == GLIA_EVENT_DONE;
        for (size_t i = 0; ev->kind == GLIA_EVENT_ACTIVATIONS && i < ev->u.activations.n_frames; i++) {
            const glia_frame *f = &ev->u.activations.frames[i];
            size_t more = (size_t)f->n_rows * (size_t)f->width, had = s->n[f->hook];
            float *grown = realloc(s->rows[f->hook], (had + more) * sizeof *grown);
            if (!grown) die("out of memory", NULL);
            memcpy(grown + had, f->data, more * sizeof *grown);
            s->rows[f->hook] = grown, s->n[f->hook] = had + more;
        }
        glia_event_free(ev);
    }
    glia_request_free(r);
}

/* INFINITY: other shapes, or a number where the other has none. */
static double difference(const side *got, const side *want, size_t h) {
    double err = 0, top = 0;
    if (got->n[h] != want->n[h] || !want->n[h]) return INFINITY;
    for (size_t i = 0; i < want->n[h]; i++) {
        double x = (double)got->rows[h][i], y = (double)want->rows[h][i];
        if (x == y) continue; /* masked scores, too */
        double d = fabs(x - y);
        if (!isfinite(d)) return INFINITY;
        if (d > err) err = d;
    }
    for (size_t i = 0; i < want->n[h]; i++) {
        double y = fabs((double)want->rows[h][i]);
        if (isfinite(y) && y > top) top = y;
    }
    return err > 0 ? err / top : 0;
}

int main(int argc, char **argv) {
    int32_t layers = -1, reference = 0;
    size_t n_prompt = 24; /* from 32 on llama.cpp takes weights from the host to a device for the product */
    double tolerance = 0.03;
    glia_model_params mp;
    glia_model_params_init(&mp);
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--model")) mp.path = argv[i + 1];
        else if (!strcmp(argv[i], "--layers")) layers = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--reference")) reference = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--prompt")) n_prompt = (size_t)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--tolerance")) tolerance = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--threads")) mp.n_threads = atoi(argv[i + 1]);
        else mp.path = NULL, argc = 0;
    }
    if (!mp.path || n_prompt < 1 || n_prompt > 4096) {
        fprintf(stderr, "usage: rows --model FILE --layers N --reference N [--prompt N] [--tolerance X] [--threads N]\n");
        return 2;
    }
    mp.n_parallel = 1, mp.n_ctx = (int32_t)n_prompt + 16, mp.capture_bytes = (size_t)32 << 30;
    side got = {.model = open_with(&mp, layers)}, want = {.model = open_with(&mp, reference)};
    glia_model_info info;
    glia_model_get_info(want.model, &info);
    int32_t *prompt = calloc(n_prompt, sizeof *prompt);
    glia_hook *hooks = calloc((size_t)GLIA_N_POINTS * (size_t)(info.n_layer + 1), sizeof *hooks);
    if (!prompt || !hooks) die("out of memory", NULL);
    for (size_t i = 0; i < n_prompt; i++) prompt[i] = (int32_t)((i * 7919 + i * i * 31) % (size_t)info.n_vocab);
    size_t n = choose(&got, &want, hooks);
    run(&got, hooks, n, prompt, n_prompt);
    run(&want, hooks, n, prompt, n_prompt);

    int n_bad = 0;
    double worst_of_all = 0;
    for (size_t h = 0; h < n;) {
        glia_point p = hooks[h].point;
        double worst = 0;
        int32_t layer = hooks[h].layer;
        int count = 0;
        for (; h < n && hooks[h].point == p; h++, count++) {
            double d = difference(&got, &want, h);
            if (d > worst) worst = d, layer = hooks[h].layer;
            n_bad += d > tolerance;
        }
        printf("%-16s %3d tensors, worst %.2e in layer %d\n", glia_point_name(p), count, worst, layer);
        if (worst > worst_of_all) worst_of_all = worst;
    }
    printf("rows: %zu tensors of %zu rows, layers on GPUs %d against %d: worst %.2e, %d over %g\n", n, n_prompt, layers, reference,
           worst_of_all, n_bad, tolerance);
    for (size_t h = 0; h < n; h++) free(got.rows[h]), free(want.rows[h]);
    free(got.rows), free(got.n), free(want.rows), free(want.n), free(hooks), free(prompt);
    glia_model_close(got.model);
    glia_model_close(want.model);
    return n_bad || !n;
}

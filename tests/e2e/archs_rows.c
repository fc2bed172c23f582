/* tests/e2e/archs_rows.c — are the rows of generated tokens the ones that a prompt of the same tokens gives?
 *
 *   archs_rows off|on FILE.gguf…        flash attention off (float32 cache) or on (float16)
 *
 * For every model: all points of all layers are captured over a prompt and three generated tokens; then the prompt with
 * the first two of them runs again in one piece, beside another request, and every row must be the same.  So a decoding
 * graph that differs from the prompt's (delta nets), rows proven by mask or state, and passes of two sequences are each
 * compared with what the dry run's own graph gives.  One line per model; exit 1 when any fails.  Run by test_archs.py. */
#include "support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HOOKS = 2048, N_PROMPT = 9, N_MORE = 2 };

static size_t hook_all(const glia_model *m, int32_t n_layer, glia_hook *hooks, bool *exact) {
    size_t n = 0;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int32_t il = 0; il < (glia_point_has_layer((glia_point)p) ? n_layer : 1); il++) {
            glia_point_info pi;
            if (!glia_model_point(m, (glia_point)p, il, &pi) || pi.grade < GLIA_GRADE_STRUCTURAL || n == MAX_HOOKS)
                continue;
            if (p == GLIA_POINT_ATTN_SCORES || p == GLIA_POINT_ATTN_PROBS) continue; /* wider with every token */
            exact[n] = p == GLIA_POINT_EXPERT_INDICES;
            hooks[n++] = (glia_hook){.point = (glia_point)p, .layer = il, .phases = GLIA_PHASE_ALL};
        }
    }
    return n;
}

static result *ask(glia_model *m, const int32_t *ids, size_t n, int32_t more, const glia_hook *hooks, size_t n_hooks,
                   const char *name) {
    glia_request_params p = greedy(ids, n, more);
    p.hooks = hooks, p.n_hooks = n_hooks, p.no_cache = true;
    glia_request *r, *beside;
    glia_err err;
    int32_t other[N_PROMPT + N_MORE];
    for (int i = 0; i < N_PROMPT + N_MORE; i++) other[i] = (ids[i % (int)n] + 1) % 128;
    glia_request_params q = greedy(other, N_PROMPT + N_MORE, 4);
    q.no_cache = true;
    if (glia_request_submit(&beside, m, &q, &err) || glia_request_submit(&r, m, &p, &err)) {
        printf("%s: %s: %s\n", name, err.param, err.message);
        return NULL;
    }
    result *res = drain(r, n_hooks);
    result_free(drain(beside, 0));
    glia_request_free(r);
    glia_request_free(beside);
    if (!res->err.message[0]) return res;
    printf("%s: %s\n", name, res->err.message);
    result_free(res);
    return NULL;
}

/* Prints what is wrong; true: nothing. */
static bool check(const char *path, bool flash) {
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    glia_model_params mp;
    glia_model *m;
    glia_err err;
    static glia_hook hooks[MAX_HOOKS];
    static bool exact[MAX_HOOKS];
    glia_model_params_init(&mp);
    mp.path = path, mp.n_parallel = 2, mp.n_ctx = 64, mp.n_batch = 64, mp.n_threads = 1;
    mp.flash = flash ? GLIA_FLASH_ON : GLIA_FLASH_OFF, mp.kv_type = flash ? GLIA_KV_F16 : GLIA_KV_F32;
    if (glia_model_open(&m, &mp, &err)) {
        printf("%s: skip: %s\n", name, err.message);
        return true;
    }
    glia_model_info info;
    glia_model_get_info(m, &info);
    size_t n = info.hooks_refused ? 0 : hook_all(m, info.n_layer, hooks, exact);
    if (!n) {
        printf("%s: skip: %s\n", name, info.hooks_refused ? info.hooks_refused : "no point");
        glia_model_close(m);
        return true;
    }
    int32_t ids[N_PROMPT + N_MORE];
    for (int i = 0; i < N_PROMPT; i++) ids[i] = (i * 37 + 11) % 128;
    ids[4] = ids[3]; /* equal neighbours, too */
    result *a = ask(m, ids, N_PROMPT, N_MORE + 1, hooks, n, name), *b = NULL;
    bool good = a != NULL;
    if (good) {
        for (int i = 0; i < N_MORE; i++) ids[N_PROMPT + i] = a->ids[i];
        b = ask(m, ids, N_PROMPT + N_MORE, 0, hooks, n, name);
        good = b != NULL;
    }
    double top = 0;
    for (size_t h = 0; good && h < n; h++) {
        const rows *x = &a->hook[h], *y = &b->hook[h];
        if (x->n != N_PROMPT + N_MORE || y->n != N_PROMPT + N_MORE || x->width != y->width) {
            printf("%s: %s.%d has %d rows, then %d\n", name, glia_point_name(hooks[h].point), hooks[h].layer, x->n,
                   y->n);
            good = false;
            break;
        }
        for (int t = 0; t < x->n; t++) {
            size_t w = (size_t)x->width;
            double e = worst_error(x->data + (size_t)t * w, y->data + (size_t)t * w, w);
            if (x->tok[t] != y->tok[t] || x->pos[t] != y->pos[t] || !(e <= (exact[h] ? 0 : 1e-2))) {
                printf("%s: %s.%d at position %d is off by %.1e\n", name, glia_point_name(hooks[h].point),
                       hooks[h].layer, t, e);
                good = false;
            }
            if (e > top) top = e;
        }
    }
    if (good) printf("%s: %zu hooks, largest error %.1e\n", name, n, top);
    result_free(a);
    result_free(b);
    glia_model_close(m);
    return good;
}

int main(int argc, char **argv) {
    bool good = true;
    if (argc < 3) return 2;
    for (int i = 2; i < argc; i++) good &= check(argv[i], !strcmp(argv[1], "on"));
    return good ? 0 : 1;
}

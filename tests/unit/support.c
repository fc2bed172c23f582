/* tests/unit/support.c — see support.h. */
#include "support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *test_env(const char *name) {
    const char *v = getenv(name);
    if (!v) fail_msg("%s is not set: run through ctest", name);
    return v;
}

int test_threads(void) {
    const char *v = getenv("GLIA_TEST_THREADS");
    return v ? atoi(v) : 2;
}

const char *tiny_model(const char *family) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s.gguf", test_env("GLIA_TINY_DIR"), family);
    return path;
}

glia_model *open_model(const char *path, int n_parallel, int n_ctx, int n_batch) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&p);
    p.path = path, p.n_parallel = n_parallel, p.n_ctx = n_ctx, p.n_batch = n_batch, p.n_threads = test_threads();
    p.flash = GLIA_FLASH_OFF, p.kv_type = GLIA_KV_F32;
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

static void add_frame(rows *g, const glia_frame *f) {
    size_t n = (size_t)(g->n + f->n_rows);
    g->data = realloc(g->data, n * (size_t)f->width * sizeof *g->data);
    g->pos = realloc(g->pos, n * sizeof *g->pos);
    g->tok = realloc(g->tok, n * sizeof *g->tok);
    assert_true(g->data && g->pos && g->tok);
    memcpy(g->data + (size_t)g->n * (size_t)f->width, f->data, (size_t)f->n_rows * (size_t)f->width * sizeof(float));
    for (int i = 0; i < f->n_rows; i++) {
        g->pos[g->n + i] = f->positions[i], g->tok[g->n + i] = f->token_ids[i];
        if (g->n + i) assert_true(g->pos[g->n + i] > g->pos[g->n + i - 1]);
    }
    if (g->n) assert_int_equal(g->width, f->width);
    g->n += f->n_rows, g->width = f->width, g->n_heads = f->n_heads;
}

result *drain(glia_request *r, size_t n_hooks) {
    result *res = calloc(1, sizeof *res);
    assert_non_null(res);
    res->hook = calloc(n_hooks + 1, sizeof *res->hook), res->n_hooks = n_hooks;
    size_t n_text = 0;
    bool ended = false;
    for (glia_event *ev; (ev = glia_request_next(r, 120000)); glia_event_free(ev)) {
        assert_false(ended);
        switch (ev->kind) {
        case GLIA_EVENT_PROGRESS: res->n_progress++; break;
        case GLIA_EVENT_TOKEN:
            assert_true(res->n_ids < 4096 && n_text + ev->u.token.n_text < sizeof res->text);
            res->logprob[res->n_ids] = ev->u.token.logprob;
            res->ids[res->n_ids++] = ev->u.token.id;
            memcpy(res->text + n_text, ev->u.token.text, ev->u.token.n_text);
            n_text += ev->u.token.n_text;
            break;
        case GLIA_EVENT_ACTIVATIONS:
            res->n_frames_events++;
            for (size_t i = 0; i < ev->u.activations.n_frames; i++) {
                assert_true(ev->u.activations.frames[i].hook < n_hooks);
                add_frame(&res->hook[ev->u.activations.frames[i].hook], &ev->u.activations.frames[i]);
            }
            break;
        case GLIA_EVENT_DONE:
            memcpy(res->text + n_text, ev->u.done.text, ev->u.done.n_text);
            res->finish = ev->u.done.finish, res->usage = ev->u.done.usage, ended = true;
            break;
        case GLIA_EVENT_ERROR: res->err = ev->u.error, ended = true; break;
        }
    }
    assert_true(ended);
    return res;
}

result *run_request(glia_model *m, const glia_request_params *p) {
    glia_request *r;
    glia_err err;
    if (glia_request_submit(&r, m, p, &err)) fail_msg("%s: %s", err.param, err.message);
    result *res = drain(r, p->n_hooks);
    glia_request_free(r);
    return res;
}

void result_free(result *res) {
    if (!res) return;
    for (size_t h = 0; h < res->n_hooks; h++) free(res->hook[h].data), free(res->hook[h].pos), free(res->hook[h].tok);
    free(res->hook);
    free(res);
}

glia_request_params greedy(const int32_t *prompt, size_t n, int32_t max_tokens) {
    glia_request_params p;
    glia_request_params_init(&p);
    p.prompt = prompt, p.n_prompt = n, p.max_tokens = max_tokens;
    p.sampling.temperature = 0, p.sampling.ignore_eos = true;
    return p;
}

double worst_error(const float *got, const float *want, size_t n) {
    double err = 0, top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= err)) err = d; /* a NaN is an error, too */
        if (fabs((double)want[i]) > top) top = fabs((double)want[i]);
    }
    return err / top;
}

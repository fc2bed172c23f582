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
    return open_model_with(path, n_parallel, n_ctx, n_batch, GLIA_FLASH_OFF, GLIA_KV_F32);
}

glia_model *open_model_with(const char *path, int n_parallel, int n_ctx, int n_batch, glia_flash flash,
                            glia_kv_type kv) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&p);
    p.path = path, p.n_parallel = n_parallel, p.n_ctx = n_ctx, p.n_batch = n_batch, p.n_threads = test_threads();
    p.flash = flash, p.kv_type = kv;
    if (getenv("GLIA_TEST_STAGING")) p.staging = GLIA_STAGING_ALWAYS, p.staging_bytes = 8192;
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

/* Later frames of attention have more columns: spread what is there. */
static void widen(rows *g, const glia_frame *f) {
    int n_rows = g->n * f->n_heads, before = g->n_cols, now = f->n_cols;
    float *wide = malloc((size_t)(n_rows * now + 1) * sizeof *wide);
    assert_non_null(wide);
    assert_true(now >= before);
    for (int r = 0; r < n_rows; r++) {
        for (int c = 0; c < now; c++) {
            wide[r * now + c] = c < before                          ? g->data[r * before + c]
                                : f->point == GLIA_POINT_ATTN_PROBS ? 0
                                                                    : -INFINITY;
        }
    }
    free(g->data);
    g->data = wide, g->n_cols = now, g->width = f->width;
}

static void *grown(void *p, size_t n, const void *more, size_t n_more) {
    char *q = realloc(p, n + n_more + 1);
    assert_non_null(q);
    if (n_more) memcpy(q + n, more, n_more);
    return q;
}

static void add_frame(rows *g, const glia_frame *f) {
    if (f->n_cols) {
        assert_int_equal(f->width, f->n_heads * f->n_cols);
        assert_int_equal(f->n_cols, f->positions[f->n_rows - 1] + 1);
        widen(g, f);
    }
    size_t had = (size_t)g->n * (size_t)f->width * 4, more = (size_t)f->n_rows * (size_t)f->width * 4;
    size_t labels = (size_t)g->n_labels * 4, more_labels = (size_t)f->n_positions * 4;
    if (g->n) assert_int_equal(g->width, f->width);
    g->data = grown(g->data, had, f->data, more);
    if (f->indices) g->idx = grown(g->idx, had, f->indices, more);
    g->pos = grown(g->pos, labels, f->positions, more_labels);
    g->tok = grown(g->tok, labels, f->token_ids, more_labels);
    for (int i = g->n_labels; i < g->n_labels + f->n_positions; i++) {
        if (i) assert_true(g->pos[i] > g->pos[i - 1]);
    }
    assert_true(f->n_rows == f->n_positions || f->n_rows == 1);
    g->n += f->n_rows, g->n_labels += f->n_positions, g->width = f->width, g->n_heads = f->n_heads;
    g->phases |= f->phase;
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
        case GLIA_EVENT_PROMPT_TOKEN: break;
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
    for (size_t h = 0; h < res->n_hooks; h++)
        free(res->hook[h].data), free(res->hook[h].idx), free(res->hook[h].pos), free(res->hook[h].tok);
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
        double d = got[i] == want[i] ? 0 : fabs((double)got[i] - (double)want[i]); /* equal infinities are equal */
        if (!(d <= err)) err = d;                                                  /* a NaN is an error, too */
        if (isfinite(want[i]) && fabs((double)want[i]) > top) top = fabs((double)want[i]);
    }
    return err / top;
}

static char folder[64];

int test_make_dir(void **state) {
    (void)state;
    strcpy(folder, "/tmp/glia-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

int test_remove_dir(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

const char *test_dir(void) { return folder; }

const char *test_path(const char *name) {
    static char path[8][256];
    static int i;
    i = (i + 1) % 8;
    snprintf(path[i], sizeof path[i], "%s/%s", folder, name);
    return path[i];
}

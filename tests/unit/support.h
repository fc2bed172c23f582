/* tests/unit/support.h — what engine tests share: find models, run a request to its end, keep what came back. */
#ifndef GLIA_TEST_SUPPORT_H
#define GLIA_TEST_SUPPORT_H
#include "glia.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

const char *test_env(const char *name); /* fails the test when unset */
int test_threads(void); /* compute threads: 2, or GLIA_TEST_THREADS (ThreadSanitizer cannot see OpenMP's own locks) */
const char *tiny_model(const char *family); /* path of a generated model; static buffer */
glia_model *open_model(const char *path, int n_parallel, int n_ctx, int n_batch); /* f32 cache, no flash attention */
glia_model *open_model_with(const char *path, int n_parallel, int n_ctx, int n_batch, glia_flash flash, glia_kv_type kv);

/* A folder of this program's own, as a group's setup and teardown; the path of a file in it: one of eight static buffers. */
int test_make_dir(void **state);
int test_remove_dir(void **state);
const char *test_dir(void);
const char *test_path(const char *name);

typedef struct rows {
    float *data;        /* [n, width]; attention: [n, n_heads, n_cols] with the columns of the last row */
    int32_t *idx;       /* [n, width] of a top-k, else NULL */
    int32_t *pos, *tok; /* [n_labels]: more than n when rows were reduced to one */
    int32_t n, n_labels, width, n_heads, n_cols;
    uint32_t phases; /* all that occurred */
} rows;

typedef struct result {
    rows *hook; /* [n_hooks] */
    size_t n_hooks;
    int32_t ids[4096];
    float logprob[4096];
    int n_ids;
    char text[65536];
    glia_err err; /* status OK when it ended with DONE */
    glia_finish finish;
    glia_usage usage;
    int n_frames_events, n_progress;
} result;

/* Drain r until its end.  Labels are checked on the way: positions rise by one per hook row order, frames are whole. */
result *drain(glia_request *r, size_t n_hooks);
result *run_request(glia_model *m, const glia_request_params *p); /* submit, drain, free */
void result_free(result *res);

glia_request_params greedy(const int32_t *prompt, size_t n, int32_t max_tokens); /* temperature 0, goes on after EOS */
double worst_error(const float *got, const float *want, size_t n);               /* max |got - want| / max |want| */
#endif

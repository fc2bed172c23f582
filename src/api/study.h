/* api/study.h — what the routes that ask a model many questions at once have in common: body, model, prompt, layers.
 *
 * A study is made by the handler, then owned by its task and used on the task's thread alone. */
#ifndef GLIA_API_STUDY_H
#define GLIA_API_STUDY_H
#include "api/app.h"
#include "api/json.h"
#include "api/tasks.h"
#include <time.h>

typedef struct glia_study {
    glia_app *app;
    glia_model *m; /* held; NULL: the route needs none */
    glia_model_info info;
    yyjson_doc *doc;
    yyjson_val *root; /* the body */
    int32_t *tokens;  /* [n_tokens] glia_study_prompt */
    size_t n_tokens;
    int32_t *layers; /* [n_layers] glia_study_layers; NULL: not named */
    size_t n_layers;
    struct timespec began;
    glia_task *task; /* while it runs */
    void *own;       /* what the route keeps here; freed by free_own */
    void (*free_own)(void *own);
} glia_study;

/* Append the reply, or fail.  Runs on the task's thread; glia_study_tell says when to stop. */
typedef glia_status glia_study_work(glia_study *s, glia_buf *b, glia_err *err);

/* What a route is made of; static. */
typedef struct glia_study_route {
    const char *kind, *description;
    bool needs_model;
    glia_study_work *work;
} glia_study_route;

/* Read the body, hold the model it names, run work as a task and answer with its result. */
void glia_study_serve(void *ud, glia_http_request *rq, const glia_study_route *r);
/* The same, answering at once with {"success": true, "task_id", "status": "started", "message"}. */
void glia_study_start(void *ud, glia_http_request *rq, const glia_study_route *r);
/* The same, answering with the error of check when it has one. */
void glia_study_start_checked(void *ud, glia_http_request *rq, const glia_study_route *r,
                              glia_status (*check)(const glia_study *s, glia_err *err));

/* on_progress of the lab: false once the task is cancelled. */
bool glia_study_tell(void *study, double fraction);
double glia_study_ms(const glia_study *s); /* since the request came */

/* "prompt" (text or token ids) or "messages", at least one token, and no more than the context holds. */
glia_status glia_study_prompt(glia_study *s, glia_err *err);
/* A prompt under another key; *out is freed with glia_free.  Absent: *out NULL. */
glia_status glia_study_prompt_at(const glia_study *s, const char *key, int32_t **out, size_t *n, glia_err *err);
/* A token under key: its id, or a text that is one token.  Absent: *out stays. */
glia_status glia_study_token(const glia_study *s, const char *key, int32_t *out, glia_err *err);
glia_status glia_study_token_of(const glia_study *s, yyjson_val *v, const char *path, int32_t *out, glia_err *err);
/* A list of layers (numbers, negative from the end, or module paths) under key: rising, each once. */
glia_status glia_study_layers(glia_study *s, const char *key, glia_err *err);
glia_status glia_study_layers_of(glia_study *s, yyjson_val *list, const char *path, glia_err *err);

/* A number with all the digits of a float; NaN and infinite: null. */
void glia_json_add_real(glia_buf *b, double x);
/* The text of one token, quoted. */
glia_status glia_json_add_token(glia_buf *b, const glia_model *m, int32_t id, glia_err *err);
/* [{"position","id","text"}, …] */
glia_status glia_json_add_tokens(glia_buf *b, const glia_model *m, const int32_t *ids, size_t n, glia_err *err);
#endif

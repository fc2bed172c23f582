/* api/app.h — what all handlers share: the loaded models and the route table.
 *
 * Owns the list of models; written by the thread that loads them, read by HTTP threads (locked).  A model stays open
 * until the HTTP server has stopped.  Later this list becomes a registry that loads and unloads by itself. */
#ifndef GLIA_API_APP_H
#define GLIA_API_APP_H
#include "api/tasks.h"
#include "glia.h"
#include "http/http.h"
#include <pthread.h>

enum { GLIA_APP_MODELS = 16 };

typedef struct glia_app {
    pthread_mutex_t lock;
    glia_model *models[GLIA_APP_MODELS]; /* the first one is the default */
    size_t holds[GLIA_APP_MODELS];       /* by requests and tasks that use it */
    size_t n_models;
    bool loading;     /* the first model is on its way: answer 503, not 404 */
    glia_capture_memory *capture_memory; /* shared by the models; set before the server starts, or NULL */
    glia_tasks *tasks; /* made by init; NULL: there was no memory */
    const char *assets; /* folder of files that requests name (api/assets.h), or NULL; set before the server starts */
    struct glia_history *history; /* conversations that replies go on from (history.h); NULL: there was no memory */
    size_t max_reply; /* bytes of one whole (not streamed) reply; 0: 1 GiB */
} glia_app;

void glia_app_init(glia_app *app);
void glia_app_clear(glia_app *app); /* closes the models */
glia_status glia_app_add(glia_app *app, glia_model *take, glia_err *err);
void glia_app_set_loading(glia_app *app, bool loading);

/* The model a request names; id NULL: the default one.  Held until glia_app_release: it stays open at least so long.
 * EMODEL: no such model (the message names those there are).  EUNAVAILABLE: still loading. */
glia_status glia_app_find(glia_app *app, const char *id, glia_model **out, glia_err *err);
void glia_app_release(glia_app *app, glia_model *m); /* NULL is fine */
/* Up to cap models, in order; returns how many. */
size_t glia_app_list(glia_app *app, glia_model **out, size_t cap, bool *loading);

/* What an API key may do. */
#define GLIA_SCOPE_MAP(X)                                                                                              \
    X(READ, "read", "see models, points, tasks and runs")                                                              \
    X(INFER, "infer", "complete, chat, embed, tokenise")                                                               \
    X(HOOKS, "hooks", "read activations and have them analysed")                                                       \
    X(EDIT, "edit", "change activations: interventions, sweeps, circuits")                                             \
    X(ADMIN, "admin", "load and unload models, harvest, delete, measure")
enum {
#define X(id, name, meaning) GLIA_SCOPE_BIT_##id,
    GLIA_SCOPE_MAP(X)
#undef X
    GLIA_N_SCOPES
};
enum {
#define X(id, name, meaning) GLIA_SCOPE_##id = 1 << GLIA_SCOPE_BIT_##id,
    GLIA_SCOPE_MAP(X)
#undef X
};
uint32_t glia_scope_from_name(const char *name); /* 0: there is none */
const char *glia_scope_name(uint32_t bit);       /* NULL: not one of them */
const char *glia_scope_names(void);              /* "read, infer, …" */

/* All routes, ended by a row with method NULL; ud of every handler is the glia_app. */
const glia_http_route *glia_api_routes(void);
/* error_body of glia_http_params. */
char *glia_api_error_body(const glia_http_request *rq, const glia_err *err, size_t *n, const char **content_type);

#endif

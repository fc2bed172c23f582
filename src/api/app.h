/* api/app.h — what all handlers share: the models, the tasks and the route table.
 *
 * Owns the registry of models (models/registry.h), the catalogue of their files and the tasks.  Any thread. */
#ifndef GLIA_API_APP_H
#define GLIA_API_APP_H
#include "api/store.h"
#include "api/tasks.h"
#include "glia.h"
#include "http/http.h"
#include "models/download.h"
#include "models/registry.h"
#include <stdatomic.h>

typedef struct glia_app {
    glia_registry *models;
    glia_catalogue *catalogue;
    glia_catalogue *mirror;    /* where models can be taken from; NULL: nowhere */
    glia_downloads *downloads;
    glia_capture_memory *capture_memory; /* shared by the models */
    glia_tasks *tasks;
    struct glia_registered *registered; /* hooks that stay with a model (registered.h) */
    atomic_bool started; /* before, a model on its way is answered with 503: whoever starts the server does not wait */
    const char *assets;  /* folder of files that requests name (api/assets.h), or NULL; set before the server starts */
    struct glia_history *history; /* conversations that replies go on from (history.h) */
    glia_store *store;   /* set before the server starts, or NULL: no runs are kept */
    size_t max_reply;    /* bytes of one whole (not streamed) reply; 0: 1 GiB */
} glia_app;

typedef struct glia_app_params {
    glia_registry_params models;   /* catalogue and capture memory are made here */
    const char *const *model_dirs; /* [n_model_dirs] none: those of glia_catalogue_default_dirs */
    size_t n_model_dirs;
    const char *const *mirrors; /* [n_mirrors] folders that downloads come from */
    size_t n_mirrors;
    size_t capture_bytes;          /* 0: 2 GiB */
} glia_app_params;

/* EINVAL: an alias.  ENOMEM. */
glia_status glia_app_init(glia_app *app, const glia_app_params *p, glia_err *err);
void glia_app_clear(glia_app *app); /* ends the tasks, closes the models */

/* The model a request names; id NULL: the default one.  Held until glia_app_release: it stays open at least so long.
 * A model that is only in a folder was loaded by glia_app_before, when that is allowed.
 * EMODEL: no such model (the message names those there are).  EUNAVAILABLE: still loading, or none is loaded. */
glia_status glia_app_find(glia_app *app, const char *id, glia_model **out, glia_err *err);
void glia_app_release(glia_app *app, glia_model *m); /* NULL is fine */

/* `before` of glia_http_params: a request whose body names a model that is not loaded waits here until it is. */
void glia_app_before(void *app, glia_http_request *rq);

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

/* api/app.c — what all handlers share.  Any thread. */
#include "api/app.h"
#include "api/history.h"
#include "api/registered.h"
#include "base/err.h"
#include "base/mem.h"

enum { GIB = 1 << 30 };

glia_status glia_app_init(glia_app *app, const glia_app_params *p, glia_err *err) {
    *app = (glia_app){0};
    atomic_init(&app->started, false);
    app->tasks = glia_tasks_new();
    app->registered = glia_registered_new();
    app->history = glia_history_new(GLIA_HISTORY_TURNS, GLIA_HISTORY_BYTES);
    app->capture_memory = glia_capture_memory_new(p->capture_bytes ? p->capture_bytes : (size_t)2 * GIB);
    glia_status st = app->tasks && app->history && app->registered && app->capture_memory
                         ? GLIA_OK
                         : glia_fail(err, GLIA_ENOMEM, "out of memory");
    if (!st) st = glia_catalogue_open(&app->catalogue, p->model_dirs, p->n_model_dirs, err);
    if (!st && p->n_mirrors) st = glia_catalogue_new(&app->mirror, p->mirrors, p->n_mirrors, NULL, err);
    if (!st && !(app->downloads = glia_downloads_new())) st = glia_fail(err, GLIA_ENOMEM, "out of memory");
    if (!st) {
        glia_registry_params r = p->models;
        r.catalogue = app->catalogue, r.model.capture_memory = app->capture_memory;
        st = glia_registry_new(&app->models, &r, err);
    }
    if (st) glia_app_clear(app);
    return st;
}

void glia_app_clear(glia_app *app) {
    glia_tasks_free(app->tasks); /* they use the models */
    glia_store_free(app->store); /* waits for requests that are being stored */
    glia_registered_free(app->registered);
    glia_history_free(app->history);
    glia_registry_free(app->models);
    glia_downloads_free(app->downloads);
    glia_catalogue_free(app->mirror);
    glia_catalogue_free(app->catalogue);
    glia_capture_memory_unref(app->capture_memory);
    *app = (glia_app){0};
}

glia_status glia_app_find(glia_app *app, const char *id, glia_model **out, glia_err *err) {
    return glia_registry_hold(app->models, id, out, err);
}

void glia_app_release(glia_app *app, glia_model *m) { glia_registry_release(app->models, m); }

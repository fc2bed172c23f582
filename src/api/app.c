/* api/app.c — the list of loaded models.  Locked; any thread. */
#include "api/app.h"
#include "api/history.h"
#include "base/err.h"
#include <stdio.h>
#include <string.h>

void glia_app_init(glia_app *app) {
    *app = (glia_app){0};
    (void)pthread_mutex_init(&app->lock, NULL);
    app->tasks = glia_tasks_new();
    app->history = glia_history_new(GLIA_HISTORY_TURNS, GLIA_HISTORY_BYTES);
}

void glia_app_clear(glia_app *app) {
    glia_tasks_free(app->tasks); /* they use the models */
    app->tasks = NULL;
    glia_history_free(app->history);
    app->history = NULL;
    for (size_t i = 0; i < app->n_models; i++) glia_model_close(app->models[i]);
    app->n_models = 0;
    glia_capture_memory_unref(app->capture_memory);
    app->capture_memory = NULL;
    (void)pthread_mutex_destroy(&app->lock);
}

glia_status glia_app_add(glia_app *app, glia_model *take, glia_err *err) {
    glia_status st = GLIA_OK;
    (void)pthread_mutex_lock(&app->lock);
    if (app->n_models < GLIA_APP_MODELS) {
        app->models[app->n_models++] = take;
        app->loading = false;
    } else {
        st = glia_fail(err, GLIA_EUNAVAILABLE, "no more than %d models at once", (int)GLIA_APP_MODELS);
    }
    (void)pthread_mutex_unlock(&app->lock);
    if (st) glia_model_close(take);
    return st;
}

void glia_app_set_loading(glia_app *app, bool loading) {
    (void)pthread_mutex_lock(&app->lock);
    app->loading = loading;
    (void)pthread_mutex_unlock(&app->lock);
}

size_t glia_app_list(glia_app *app, glia_model **out, size_t cap, bool *loading) {
    (void)pthread_mutex_lock(&app->lock);
    size_t n = app->n_models < cap ? app->n_models : cap;
    for (size_t i = 0; i < n; i++) out[i] = app->models[i];
    if (loading) *loading = app->loading;
    (void)pthread_mutex_unlock(&app->lock);
    return n;
}

glia_status glia_app_find(glia_app *app, const char *id, glia_model **out, glia_err *err) {
    char known[256] = "";
    *out = NULL;
    (void)pthread_mutex_lock(&app->lock);
    size_t n = app->n_models;
    bool loading = app->loading;
    for (size_t i = 0; i < n && !*out; i++) {
        glia_model_info info;
        glia_model_get_info(app->models[i], &info);
        if (!id || !strcmp(id, info.id)) {
            *out = app->models[i];
            app->holds[i]++;
        }
        size_t at = strlen(known);
        (void)snprintf(known + at, sizeof known - at, "%s\"%s\"", at ? ", " : "", info.id);
    }
    (void)pthread_mutex_unlock(&app->lock);
    if (*out) return GLIA_OK;
    if (!n) {
        return glia_fail(err, GLIA_EUNAVAILABLE,
                         loading ? "the model is still loading, try again" : "no model is loaded");
    }
    return glia_fail_at(err, GLIA_EMODEL, "model", "no model \"%.120s\" here; loaded: %s", id, known);
}

void glia_app_release(glia_app *app, glia_model *m) {
    if (!m) return;
    (void)pthread_mutex_lock(&app->lock);
    for (size_t i = 0; i < app->n_models; i++) {
        if (app->models[i] == m) app->holds[i]--;
    }
    (void)pthread_mutex_unlock(&app->lock);
}

/* ------------------------------------------------------------------ scopes */

static const char *const scope_names[] = {
#define X(id, name, meaning) name,
    GLIA_SCOPE_MAP(X)
#undef X
};

uint32_t glia_scope_from_name(const char *name) {
    for (uint32_t i = 0; i < GLIA_N_SCOPES; i++) {
        if (!strcmp(name, scope_names[i])) return 1u << i;
    }
    return 0;
}

const char *glia_scope_name(uint32_t bit) {
    for (uint32_t i = 0; i < GLIA_N_SCOPES; i++) {
        if (bit == 1u << i) return scope_names[i];
    }
    return NULL;
}

const char *glia_scope_names(void) {
    return ""
#define X(id, name, meaning) name ", "
        GLIA_SCOPE_MAP(X)
#undef X
        "or several with commas";
}

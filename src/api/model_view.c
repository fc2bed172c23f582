/* api/model_view.c — see model_view.h. */
#include "api/model_view.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

enum { FRESH_MS = 1000 };

bool glia_is_instance_of(const glia_instance *i, const glia_model_file *f) {
    return i->file == f || !strcmp(i->file->path, f->path) || !strcmp(i->real, f->path);
}

static glia_seen look_at(const glia_view_models *v, const glia_model_file *f) {
    glia_seen s = {.file = f};
    for (size_t i = 0; i < v->instances->n; i++) {
        const glia_instance *in = &v->instances->items[i];
        if (!glia_is_instance_of(in, f)) continue;
        s.n_instances++;
        if (!s.instance || (s.instance->state != GLIA_LOAD_READY && in->state == GLIA_LOAD_READY)) s.instance = in;
    }
    return s;
}

static bool is_seen(const glia_view_models *v, const glia_instance *in) {
    for (size_t i = 0; i < v->n; i++) {
        if (glia_is_instance_of(in, v->seen[i].file)) return true;
    }
    return false;
}

glia_status glia_view_open(glia_view_models *v, glia_app *app, glia_err *err) {
    *v = (glia_view_models){.app = app};
    glia_status st = glia_catalogue_get(app->catalogue, FRESH_MS, &v->files, err);
    if (!st) st = glia_registry_list(app->models, &v->instances, err);
    if (!st && !(v->seen = glia_calloc(v->files->n + v->instances->n + 1, sizeof *v->seen)))
        st = glia_fail(err, GLIA_ENOMEM, "no memory for the list of models");
    if (st) {
        glia_view_clear(v);
        return st;
    }
    for (size_t i = 0; i < v->files->n; i++) v->seen[v->n++] = look_at(v, &v->files->items[i]);
    for (size_t i = 0; i < v->instances->n; i++) {
        const glia_instance *in = &v->instances->items[i];
        if (is_seen(v, in)) continue;
        glia_seen s = look_at(v, in->file);
        v->seen[v->n++] = s;
    }
    return GLIA_OK;
}

void glia_view_clear(glia_view_models *v) {
    glia_free(v->seen);
    glia_instances_free(v->app->models, v->instances);
    glia_models_unref(v->files);
    *v = (glia_view_models){0};
}

glia_status glia_view_find(const glia_view_models *v, const char *name, const glia_instance **i,
                           const glia_model_file **f, glia_err *err) {
    *i = NULL, *f = NULL;
    for (size_t k = 0; k < v->instances->n && !*i; k++) {
        if (!strcmp(v->instances->items[k].id, name)) *i = &v->instances->items[k], *f = (*i)->file;
    }
    if (*i) return GLIA_OK;
    if (!(*f = glia_models_find(v->files, name, err))) {
        if (err->status == GLIA_ENOTFOUND) err->status = GLIA_EMODEL;
        return err->status;
    }
    for (size_t k = 0; k < v->instances->n && !*i; k++) {
        if (glia_is_instance_of(&v->instances->items[k], *f)) *i = &v->instances->items[k];
    }
    return GLIA_OK;
}

bool glia_view_serve(glia_view_models *v, glia_app *app, glia_http_request *rq) {
    glia_err err;
    if (!glia_view_open(v, app, &err)) return true;
    (void)glia_http_reply_error(rq, &err);
    return false;
}

bool glia_view_serve_one(glia_view_models *v, glia_app *app, glia_http_request *rq, const glia_instance **i,
                         const glia_model_file **f) {
    glia_err err;
    if (!glia_view_serve(v, app, rq)) return false;
    const char *id = glia_registry_unalias(app->models, glia_http_param(rq, "id"));
    if (!glia_view_find(v, id, i, f, &err)) return true;
    (void)glia_http_reply_error(rq, &err);
    glia_view_clear(v);
    return false;
}

const glia_instance *glia_view_current(const glia_view_models *v) {
    for (size_t i = 0; i < v->instances->n; i++) {
        if (v->instances->items[i].state == GLIA_LOAD_READY) return &v->instances->items[i];
    }
    return NULL;
}

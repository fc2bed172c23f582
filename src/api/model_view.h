/* api/model_view.h — files of the model folders and loaded instances, seen together.  Any thread; the view is a picture of
 * one moment, valid until glia_view_clear.  What is in it is borrowed. */
#ifndef GLIA_API_MODEL_VIEW_H
#define GLIA_API_MODEL_VIEW_H
#include "api/app.h"
#include "base/buf.h"

/* One file, with the instances that were loaded from it. */
typedef struct glia_seen {
    const glia_model_file *file;
    const glia_instance *instance; /* the first READY one, else one on its way, else NULL */
    size_t n_instances;
} glia_seen;

typedef struct glia_view_models {
    glia_app *app;
    const glia_models *files;
    glia_instances *instances;
    glia_seen *seen; /* [n] files of the folders by key, then those of loaded models from elsewhere */
    size_t n;
} glia_view_models;

glia_status glia_view_open(glia_view_models *v, glia_app *app, glia_err *err);
void glia_view_clear(glia_view_models *v);
/* For a request: false when it was answered with the error instead.  one: the model that its path names as {id}. */
bool glia_view_serve(glia_view_models *v, glia_app *app, glia_http_request *rq);
bool glia_view_serve_one(glia_view_models *v, glia_app *app, glia_http_request *rq, const glia_instance **i,
                         const glia_model_file **f);
bool glia_is_instance_of(const glia_instance *i, const glia_model_file *f);
/* What a name means: an instance by its id, else a file.  ENOTFOUND as EMODEL. */
glia_status glia_view_find(const glia_view_models *v, const char *name, const glia_instance **i,
                           const glia_model_file **f, glia_err *err);
const glia_instance *glia_view_current(const glia_view_models *v); /* the default model; NULL: none is ready */
/* {"models":[…]} as GET /api/v1/models and `glia models --json` give it. */
void glia_add_v1_models(glia_buf *b, const glia_view_models *v);
/* {"context_length":…,…}: what m was loaded with. */
void glia_add_load_config(glia_buf *b, const glia_model_file *f, glia_model *m, const glia_model_params *p);
#endif

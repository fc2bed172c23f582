/* api/load.h — what a request to load a model says, for the families that have one. */
#ifndef GLIA_API_LOAD_H
#define GLIA_API_LOAD_H
#include "api/app.h"
#include "yyjson.h"

typedef struct glia_load_request {
    glia_app *app;
    yyjson_doc *doc; /* owned; the strings are its */
    const char *model, *identifier;
    glia_model_params params;
    int64_t ttl_ms;
    bool echo, another;
} glia_load_request;

/* Root must hold nothing but these keys (ended by NULL).  EINVAL names the first other one. */
glia_status glia_json_only(yyjson_val *root, const char *const *keys, glia_err *err);
/* The body of POST /api/v1/models/load.  doc is not taken. */
glia_status glia_load_parse(glia_app *app, yyjson_val *root, glia_load_request *out, glia_err *err);
void glia_load_request_free(void *l); /* of the heap; NULL is fine */
/* Load as l says and wait, on a task's thread: READY with a watch that holds it, or an error. */
glia_status glia_load_run(glia_load_request *l, glia_task *t, glia_watch **out, glia_watched *now, glia_err *err);
#endif

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
typedef glia_status (*glia_load_parser)(glia_app *app, yyjson_val *root, glia_load_request *out, glia_err *err);
/* Read rq's body with parse and serve it as a task that does work (glia_load_run, then its reply); work's ud is the
 * glia_load_request.  A body that cannot be read is answered with its error. */
void glia_load_serve(glia_app *app, glia_http_request *rq, glia_load_parser parse,
                     glia_status (*work)(glia_task *t, void *ud, glia_buf *reply, glia_err *err));
void glia_load_request_free(void *l); /* of the heap; NULL is fine */
/* Load as l says and wait, on a task's thread: READY with a watch that holds it, or an error. */
glia_status glia_load_run(glia_load_request *l, glia_task *t, glia_watch **out, glia_watched *now, glia_err *err);
#endif

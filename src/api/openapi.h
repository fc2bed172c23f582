/* api/openapi.h — the two files that write the OpenAPI page: openapi.c (frame, OpenAI's completions, hooks) and
 * openapi_bodies.c (which schema belongs to which route, the other families).  Pure. */
#ifndef GLIA_API_OPENAPI_H
#define GLIA_API_OPENAPI_H
#include "api/params.h"
#include "base/buf.h"

typedef struct glia_openapi_route {
    const char *body, *reply; /* names of schemas; reply NULL: any JSON */
    bool streams;             /* the reply may be text/event-stream */
} glia_openapi_route;

/* False: nothing is known of it but its summary. */
bool glia_openapi_body(const char *pattern, glia_openapi_route *out);
void glia_openapi_add_families(glia_buf *b);                          /* ,"Name":{…} of each */
void glia_openapi_add_analyses(glia_buf *b);                          /* the same: openapi_analyses.c */
void glia_openapi_add_runs(glia_buf *b);                              /* the same: openapi_runs.c */
/* Names of the query of a GET, ended by NULL; NULL: it takes none. */
const char *const *glia_openapi_query(const char *pattern);
void glia_openapi_add_row(glia_buf *b, const glia_param_row *row);    /* ,"temperature":{…} */

#endif

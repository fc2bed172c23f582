/* http/route.h — matching paths against the routing table.
 *
 * Owns nothing: routes belong to the caller of glia_http_start, targets to their request.  Pure, any thread.  Knows
 * no socket and no libmicrohttpd.
 *
 * Pattern: segments after '/'.  "{name}" takes one segment that is not empty; "{name...}" one or more, anywhere but
 * at most once ("/m/{id...}/hooks"); everything else is literal.  The most literal pattern wins, leftmost segment
 * first, whatever the order of the table: /m/load before /m/{id} before /m/{id...}. */
#ifndef GLIA_HTTP_ROUTE_H
#define GLIA_HTTP_ROUTE_H
#include "http.h"
#include "target.h"

enum { HTTP_MAX_PARAMS = 8, HTTP_MAX_ALLOW = 128 };

typedef struct http_param {
    const char *name; /* borrowed from the pattern, n_name bytes */
    size_t n_name;
    uint32_t at, n; /* bytes of target.path */
} http_param;

typedef struct http_match {
    const glia_http_route *route; /* NULL: nothing serves this method at this path */
    size_t n_params;
    http_param params[HTTP_MAX_PARAMS];
    char allow[HTTP_MAX_ALLOW]; /* methods of this path, "GET, HEAD, OPTIONS"; "" when the path is unknown */
} http_match;

glia_status http_routes_check(const glia_http_route *routes, glia_err *err); /* EINVAL names the bad row */
void http_route_match(const glia_http_route *routes, const char *method, const http_target *t, http_match *out);
void http_routes_allow(const glia_http_route *routes, char allow[HTTP_MAX_ALLOW]); /* all methods of the table */
/* The pattern most like the path, one that serves the method when two are alike.  NULL: empty table. */
const char *http_route_nearest(const glia_http_route *routes, const char *method, const http_target *t);
#endif

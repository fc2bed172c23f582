/* http/count.h — how many requests each route answered, with what, how fast.
 *
 * Any thread: the counters are atomic and only grow; a reader may see a request in one of them and not yet in another.
 * Knows no libmicrohttpd. */
#ifndef GLIA_HTTP_COUNT_H
#define GLIA_HTTP_COUNT_H
#include "http.h"
#include <stdatomic.h>

typedef struct http_counter {
    atomic_uint_fast64_t replies[GLIA_HTTP_CLASSES];
    atomic_uint_fast64_t took[GLIA_HTTP_BOUNDS + 1]; /* requests per bucket of time; last: longer than every bound */
    atomic_uint_fast64_t microseconds, bytes;
} http_counter;

size_t http_routes_count(const glia_http_route *routes);
void http_count(http_counter *c, int status, double seconds, uint64_t bytes); /* status 0: no reply */
void http_counter_read(http_counter *c, glia_http_count *out);                /* all but out->route */

#endif

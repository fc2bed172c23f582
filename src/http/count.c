/* http/count.c — counters of requests.  Any thread. */
#include "count.h"

/* Seconds: from a list of models to a long generation. */
static const double bounds[GLIA_HTTP_BOUNDS] = {0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300};

double glia_http_count_bound(size_t i) { return bounds[i]; }

size_t http_routes_count(const glia_http_route *routes) {
    size_t n = 0;
    while (routes[n].method) n++;
    return n;
}

void http_count(http_counter *c, int status, double seconds, uint64_t bytes) {
    if (status == 101) status = 200; /* it became a WebSocket */
    size_t bucket = 0, class = status >= 200 && status < 600 ? (size_t)(status / 100 - 2) : GLIA_HTTP_CLASSES - 1;
    while (bucket < GLIA_HTTP_BOUNDS && seconds > bounds[bucket]) bucket++;
    atomic_fetch_add_explicit(&c->replies[class], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->took[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->microseconds, (uint64_t)(seconds * 1e6), memory_order_relaxed);
    atomic_fetch_add_explicit(&c->bytes, bytes, memory_order_relaxed);
}

void http_counter_read(http_counter *c, glia_http_count *out) {
    uint64_t so_far = 0;
    for (size_t i = 0; i < GLIA_HTTP_CLASSES; i++) {
        out->replies[i] = atomic_load_explicit(&c->replies[i], memory_order_relaxed);
    }
    for (size_t i = 0; i <= GLIA_HTTP_BOUNDS; i++) {
        out->within[i] = so_far += atomic_load_explicit(&c->took[i], memory_order_relaxed);
    }
    out->seconds = (double)atomic_load_explicit(&c->microseconds, memory_order_relaxed) * 1e-6;
    out->bytes = atomic_load_explicit(&c->bytes, memory_order_relaxed);
}

/* http/target.h — the request target: path, segments and query, decoded and checked.
 *
 * Owns the decoded copies.  Pure, any thread.  Knows no socket and no libmicrohttpd: everything here comes from
 * untrusted bytes and is fuzzed on its own (tests/fuzz/fuzz_http_target.c). */
#ifndef GLIA_HTTP_TARGET_H
#define GLIA_HTTP_TARGET_H
#include "glia.h"

enum { HTTP_MAX_SEGMENTS = 64 };

typedef struct http_segment {
    uint32_t at, n; /* bytes of path, decoded; may hold '/' that came as %2F */
} http_segment;

typedef struct http_target {
    char *path;      /* decoded, valid UTF-8 without NUL, starts with '/'; "*" for OPTIONS * */
    char *authority; /* of an absolute-form target ("http://host:port/…"); NULL otherwise */
    char *query;     /* name NUL value NUL …, decoded */
    size_t n_query;  /* pairs in it */
    size_t n_segments; /* a trailing slash adds none: "/a/" and "/a" are one path, "/" has none */
    http_segment segments[HTTP_MAX_SEGMENTS];
} http_target;

/* EINVAL: bad percent code, NUL, not UTF-8, no leading '/'.  ENOTFOUND: too deep to name anything.  ENOMEM.
 * On failure t is cleared. */
glia_status http_target_parse(http_target *t, const char *raw, glia_err *err);
void http_target_clear(http_target *t);
const char *http_target_query(const http_target *t, const char *name); /* first of that name; NULL when absent */
#endif

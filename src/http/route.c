/* http/route.c — matching paths against the routing table.  Pure.  Knows no socket. */
#include "route.h"
#include "base/err.h"
#include <stdio.h>
#include <string.h>

typedef enum { SEG_LITERAL, SEG_ONE, SEG_REST } seg_kind; /* in order of preference */

typedef struct {
    seg_kind kind;
    const char *p; /* literal text or parameter name */
    size_t n;
} seg;

/* The next segment of a pattern; *s points at its '/' and moves on.  False at the end. */
static bool next_seg(const char **s, seg *out) {
    const char *p = *s;
    if (*p != '/' || !p[1]) return false;
    size_t n = strcspn(++p, "/");
    *s = p + n;
    *out = (seg){SEG_LITERAL, p, n};
    if (n >= 2 && p[0] == '{' && p[n - 1] == '}') {
        *out = (seg){SEG_ONE, p + 1, n - 2};
        if (out->n >= 3 && !memcmp(p + n - 4, "...", 3)) out->kind = SEG_REST, out->n -= 3;
    }
    return true;
}

static size_t count_segs(const char *pattern) {
    seg sg;
    size_t n = 0;
    while (next_seg(&pattern, &sg)) n++;
    return n;
}

static bool match_pattern(const char *pattern, const http_target *t, http_match *out) {
    size_t left = count_segs(pattern), i = 0;
    seg sg;
    out->n_params = 0;
    for (; next_seg(&pattern, &sg); left--) {
        if (t->n_segments - i < left) return false;
        const http_segment *ps = &t->segments[i];
        if (sg.kind == SEG_LITERAL) {
            if (ps->n != sg.n || memcmp(t->path + ps->at, sg.p, sg.n)) return false;
            i++;
            continue;
        }
        size_t take = sg.kind == SEG_ONE ? 1 : t->n_segments - i - (left - 1);
        const http_segment *last = ps + take - 1;
        if (!ps->n || !last->n) return false;
        out->params[out->n_params++] = (http_param){sg.p, sg.n, ps->at, last->at + last->n - ps->at};
        i += take;
    }
    return i == t->n_segments;
}

/* < 0: a is the more literal pattern. */
static int compare_patterns(const char *a, const char *b) {
    seg x, y;
    for (;;) {
        bool more_a = next_seg(&a, &x), more_b = next_seg(&b, &y);
        if (!more_a || !more_b) return (int)more_b - (int)more_a; /* the longer one pins down more */
        if (x.kind != y.kind) return (int)x.kind - (int)y.kind;
    }
}

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p += n) {
        if ((p == list || p[-1] == ' ') && (!p[n] || p[n] == ',')) return true;
    }
    return false;
}

static void allow_method(char allow[HTTP_MAX_ALLOW], const char *method) {
    if (has_word(allow, method)) return;
    size_t n = strlen(allow);
    (void)snprintf(allow + n, HTTP_MAX_ALLOW - n, "%s%s", n ? ", " : "", method);
    if (!strcmp(method, "GET")) allow_method(allow, "HEAD");
}

void http_route_match(const glia_http_route *routes, const char *method, const http_target *t, http_match *out) {
    http_match m = {0};
    memset(out, 0, sizeof *out);
    if (!strcmp(method, "HEAD")) method = "GET";
    for (const glia_http_route *r = routes; r->method; r++) {
        if (!match_pattern(r->pattern, t, &m)) continue;
        allow_method(out->allow, r->method);
        if (strcmp(r->method, method)) continue;
        if (out->route && compare_patterns(out->route->pattern, r->pattern) <= 0) continue;
        out->route = r;
        out->n_params = m.n_params;
        memcpy(out->params, m.params, sizeof m.params);
    }
    if (out->allow[0]) allow_method(out->allow, "OPTIONS");
}

void http_routes_allow(const glia_http_route *routes, char allow[HTTP_MAX_ALLOW]) {
    allow[0] = 0;
    for (const glia_http_route *r = routes; r->method; r++) allow_method(allow, r->method);
    allow_method(allow, "OPTIONS");
}

/* Cut to this: the work for one unknown path stays near a millisecond, whatever the client sends. */
enum { NEAR_CAP = 96 };

static size_t distance(const char *a, size_t na, const char *b, size_t nb) {
    size_t row[NEAR_CAP + 1];
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = above;
            row[j] = best;
        }
    }
    return row[nb];
}

static size_t append(char *out, size_t n, const char *p, size_t n_p) {
    if (n_p > NEAR_CAP - n) n_p = NEAR_CAP - n;
    memcpy(out + n, p, n_p);
    return n + n_p;
}

const char *http_route_nearest(const glia_http_route *routes, const char *method, const http_target *t) {
    const char *best = NULL;
    size_t best_d = SIZE_MAX, n_path = strlen(t->path);
    bool best_method = false;
    if (!strcmp(method, "HEAD")) method = "GET";
    if (n_path > NEAR_CAP) n_path = NEAR_CAP;
    for (const glia_http_route *r = routes; r->method; r++) {
        char shape[NEAR_CAP]; /* the pattern, its parameters filled from the path where they line up */
        size_t n = 0, i = 0;
        bool lined_up = count_segs(r->pattern) == t->n_segments;
        const char *p = r->pattern;
        for (seg sg; next_seg(&p, &sg); i++) {
            n = append(shape, n, "/", 1);
            if (lined_up && sg.kind != SEG_LITERAL) {
                n = append(shape, n, t->path + t->segments[i].at, t->segments[i].n);
            } else {
                n = append(shape, n, sg.p, sg.n);
            }
        }
        size_t d = distance(t->path, n_path, shape, n);
        bool same_method = !strcmp(r->method, method);
        if (d < best_d || (d == best_d && same_method && !best_method)) {
            best = r->pattern, best_d = d, best_method = same_method;
        }
    }
    return best;
}

glia_status http_routes_check(const glia_http_route *routes, glia_err *err) {
    for (const glia_http_route *r = routes; r->method; r++) {
        const char *p = r->pattern;
        if (!p || *p != '/' || !r->handle || !*r->method || strlen(r->method) > 16) {
            return glia_fail(err, GLIA_EINVAL,
                             "route %s %s: needs a method, a handler and a pattern that starts with '/'", r->method,
                             p ? p : "(none)");
        }
        size_t n_params = 0, n_rest = 0, n_segs = 0;
        for (seg sg; next_seg(&p, &sg); n_segs++) {
            n_params += sg.kind != SEG_LITERAL;
            n_rest += sg.kind == SEG_REST;
            if (!sg.n || memchr(sg.p, '{', sg.n) || memchr(sg.p, '}', sg.n)) {
                return glia_fail(err, GLIA_EINVAL, "route %s: empty segment or stray brace", r->pattern);
            }
        }
        if (n_params > HTTP_MAX_PARAMS || n_rest > 1 || n_segs > HTTP_MAX_SEGMENTS) {
            return glia_fail(err, GLIA_EINVAL, "route %s: more than %d parameters, one {rest...} or %d segments",
                             r->pattern, HTTP_MAX_PARAMS, HTTP_MAX_SEGMENTS);
        }
    }
    return GLIA_OK;
}

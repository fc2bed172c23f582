/* http/target.c — decoding request targets (RFC 9112 §3.2, RFC 3986 §2.1).  Pure.  Knows no socket. */
#include "target.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/utf8.h"
#include <string.h>
#include <strings.h>

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Decode n bytes of s to out (room for n); *n_out is their number.  False: bad percent code or NUL. */
static bool decode(const char *s, size_t n, bool plus_is_space, char *out, size_t *n_out) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            int hi = i + 2 < n ? hex(s[i + 1]) : -1;
            int lo = i + 2 < n ? hex(s[i + 2]) : -1;
            if (hi < 0 || lo < 0) return false;
            c = (char)(hi * 16 + lo);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (!c) return false;
        out[k++] = c;
    }
    *n_out = k;
    return true;
}

static glia_status bad(glia_err *err, const char *what) {
    return glia_fail(err, GLIA_EINVAL,
                     "the %s of the request target has a bad percent code, a NUL or is not UTF-8: "
                     "percent-encode it as UTF-8", what);
}

static glia_status parse_path(http_target *t, const char *raw, size_t n, glia_err *err) {
    if (n >= UINT32_MAX) return glia_fail(err, GLIA_EINVAL, "the path is too long");
    if (!(t->path = glia_malloc(n + 1))) return glia_fail(err, GLIA_ENOMEM, "out of memory for the request target");
    t->path[0] = 0;
    size_t k = 0;
    for (size_t i = 0; i < n;) { /* raw[i] is the '/' before a segment */
        size_t end = i + 1;
        while (end < n && raw[end] != '/') end++;
        t->path[k++] = '/';
        size_t n_seg;
        if (!decode(raw + i + 1, end - i - 1, false, t->path + k, &n_seg)) return bad(err, "path");
        bool last = end == n;
        if (n_seg || !last) {
            if (t->n_segments == HTTP_MAX_SEGMENTS) {
                return glia_fail(err, GLIA_ENOTFOUND, "no path has more than %d segments", HTTP_MAX_SEGMENTS);
            }
            t->segments[t->n_segments++] = (http_segment){(uint32_t)k, (uint32_t)n_seg};
        }
        k += n_seg;
        i = end;
    }
    t->path[k] = 0;
    return glia_utf8_valid(t->path, k) ? GLIA_OK : bad(err, "path");
}

static glia_status parse_query(http_target *t, const char *raw, size_t n, glia_err *err) {
    /* Each pair ends in two NULs: '=' and '&' leave room for them, but a name may lack '=', and the last pair '&'. */
    size_t room = n + 2;
    for (size_t i = 0; i < n; i++) room += raw[i] == '&';
    if (!(t->query = glia_malloc(room))) return glia_fail(err, GLIA_ENOMEM, "out of memory for the request target");
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        const char *amp = memchr(raw + i, '&', n - i);
        size_t end = amp ? (size_t)(amp - raw) : n;
        const char *eq = memchr(raw + i, '=', end - i);
        size_t name_end = eq ? (size_t)(eq - raw) : end;
        if (end > i) {
            size_t n_name, n_value = 0;
            if (!decode(raw + i, name_end - i, true, t->query + k, &n_name)) return bad(err, "query");
            char *value = t->query + k + n_name + 1;
            value[-1] = 0;
            if (eq && !decode(eq + 1, end - name_end - 1, true, value, &n_value)) return bad(err, "query");
            value[n_value] = 0;
            if (!glia_utf8_valid(t->query + k, n_name) || !glia_utf8_valid(value, n_value)) return bad(err, "query");
            k += n_name + n_value + 2;
            t->n_query++;
        }
        i = end + 1;
    }
    return GLIA_OK;
}

glia_status http_target_parse(http_target *t, const char *raw, glia_err *err) {
    glia_status st = GLIA_OK;
    memset(t, 0, sizeof *t);
    if (!raw) raw = "";
    if (!strncasecmp(raw, "http://", 7) || !strncasecmp(raw, "https://", 8)) {
        const char *host = strstr(raw, "//") + 2;
        size_t n = strcspn(host, "/?");
        if (!(t->authority = glia_strndup(host, n))) {
            st = glia_fail(err, GLIA_ENOMEM, "out of memory for the request target");
            goto done;
        }
        raw = host + n;
        if (!*raw) raw = "/";
    }
    if (!strcmp(raw, "*")) {
        if (!(t->path = glia_strdup("*"))) st = glia_fail(err, GLIA_ENOMEM, "out of memory for the request target");
        goto done;
    }
    size_t n_path = strcspn(raw, "?");
    if (raw[0] != '/') {
        if (t->authority && raw[0] == '?') {
            if ((st = parse_path(t, "/", 1, err))) goto done;
        } else {
            st = glia_fail(err, GLIA_EINVAL, "the request target must be a path that starts with '/'");
            goto done;
        }
    } else if ((st = parse_path(t, raw, n_path, err))) {
        goto done;
    }
    if (raw[n_path] == '?') st = parse_query(t, raw + n_path + 1, strlen(raw + n_path + 1), err);
done:
    if (st) http_target_clear(t);
    return st;
}

void http_target_clear(http_target *t) {
    glia_free(t->path);
    glia_free(t->authority);
    glia_free(t->query);
    memset(t, 0, sizeof *t);
}

const char *http_target_query(const http_target *t, const char *name) {
    const char *p = t->query;
    for (size_t i = 0; i < t->n_query; i++) {
        const char *value = p + strlen(p) + 1;
        if (!strcmp(p, name)) return value;
        p = value + strlen(value) + 1;
    }
    return NULL;
}

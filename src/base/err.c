/* base/err.c — status tables and filling glia_err.  Any thread.  Knows nothing above base. */
#include "err.h"
#include "utf8.h"
#include <stdio.h>
#include <string.h>

int glia_status_http(glia_status st) {
    switch (st) {
#define X(name, http, type, code)                                                                                      \
    case GLIA_##name: return http;
        GLIA_STATUS_MAP(X)
#undef X
    }
    return 500;
}

const char *glia_status_type(glia_status st) {
    switch (st) {
#define X(name, http, type, code)                                                                                      \
    case GLIA_##name: return type;
        GLIA_STATUS_MAP(X)
#undef X
    }
    return "server_error";
}

const char *glia_status_code(glia_status st) {
    switch (st) {
#define X(name, http, type, code)                                                                                      \
    case GLIA_##name: return code;
        GLIA_STATUS_MAP(X)
#undef X
    }
    return "internal_error";
}

const char *glia_version(void) { return GLIA_VERSION; }

/* One printable line of whole UTF-8: what an error quotes may be anything. */
static void make_printable(char *s) {
    s[glia_utf8_whole(s, strlen(s))] = 0;
    if (!glia_utf8_valid(s, strlen(s))) {
        for (char *c = s; *c; c++) {
            if ((unsigned char)*c >= 0x80) *c = '?';
        }
    }
    for (char *c = s; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
    }
    for (size_t n = strlen(s); n && s[n - 1] == ' ';) s[--n] = 0;
}

static void fill(glia_err *err, glia_status st, const char *param, const char *fmt, va_list ap) {
    if (!err) return;
    err->status = st;
    (void)snprintf(err->param, sizeof err->param, "%s", param);
    (void)vsnprintf(err->message, sizeof err->message, fmt, ap);
    make_printable(err->param);
    make_printable(err->message);
}

glia_status glia_fail(glia_err *err, glia_status st, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fill(err, st, "", fmt, ap);
    va_end(ap);
    return st;
}

glia_status glia_fail_at(glia_err *err, glia_status st, const char *param, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fill(err, st, param, fmt, ap);
    va_end(ap);
    return st;
}

void glia_err_clear(glia_err *err) {
    if (err) memset(err, 0, sizeof *err);
}

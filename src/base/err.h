/* base/err.h — filling glia_err.  Any thread.  Knows nothing above base. */
#ifndef GLIA_BASE_ERR_H
#define GLIA_BASE_ERR_H
#include "glia.h"
#include <stdarg.h>

/* Set *err (NULL is fine) to status and a one-line message; returns status, so `return glia_fail(…)` reads well.
 * Control characters and cut UTF-8 in the result are replaced, so that any input may be quoted. */
glia_status glia_fail(glia_err *err, glia_status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same, naming the wrong request field (e.g. "messages[0].role"). */
glia_status glia_fail_at(glia_err *err, glia_status st, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

void glia_err_clear(glia_err *err);
#endif

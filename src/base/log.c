/* base/log.c — one-line log to stderr.  Any thread.  Knows nothing above base. */
#include "log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic int current = GLIA_LOG_WARN;

void glia_log_set_level(glia_log_level level) { atomic_store(&current, (int)level); }
glia_log_level glia_log_get_level(void) { return (glia_log_level)atomic_load(&current); }

void glia_log(glia_log_level level, const char *fmt, ...) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if ((int)level > atomic_load(&current)) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    (void)fprintf(stderr, "glia: %s: %s\n", names[level], line); /* one call: lines of threads do not mix */
}

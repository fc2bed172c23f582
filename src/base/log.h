/* base/log.h — one-line log to stderr.  Any thread.  Knows nothing above base. */
#ifndef GLIA_BASE_LOG_H
#define GLIA_BASE_LOG_H

typedef enum glia_log_level { GLIA_LOG_ERROR, GLIA_LOG_WARN, GLIA_LOG_INFO, GLIA_LOG_DEBUG } glia_log_level;

void glia_log_set_level(glia_log_level level); /* default GLIA_LOG_WARN */
glia_log_level glia_log_get_level(void);
void glia_log(glia_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#endif

/* base/log.h — one-line log to stderr, as text or as JSON.  Any thread.  Knows nothing above base. */
#ifndef GLIA_BASE_LOG_H
#define GLIA_BASE_LOG_H
#include <stddef.h>

typedef enum glia_log_level { GLIA_LOG_ERROR, GLIA_LOG_WARN, GLIA_LOG_INFO, GLIA_LOG_DEBUG } glia_log_level;
/* GLIA_LOG_JSON: one object a line with "time" (RFC 3339, UTC, milliseconds), "level", "message" and the fields. */
typedef enum glia_log_format { GLIA_LOG_TEXT, GLIA_LOG_JSON } glia_log_format;

typedef struct glia_log_field {
    const char *name; /* a plain word: not escaped */
    const char *text; /* NULL: number counts */
    double number;
} glia_log_field;

void glia_log_set_level(glia_log_level level); /* default GLIA_LOG_WARN */
glia_log_level glia_log_get_level(void);
void glia_log_set_format(glia_log_format format); /* default GLIA_LOG_TEXT */
void glia_log(glia_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Text: "glia: info: message name=value …".  What in a field could break the line or the terminal is escaped.
 * Texts of more than about 1,000 bytes are cut; fields past the twelfth are left out. */
void glia_log_fields(glia_log_level level, const char *message, const glia_log_field *fields, size_t n);
#endif

/* base/log.c — one-line log to stderr, as text or as JSON.  Any thread.  Knows nothing above base. */
#include "log.h"
#include "utf8.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* A line of fixed size: logging allocates nothing.  Long texts are cut one by one, so that the line stays whole. */
enum { FIELDS_MAX = 12, TEXT_MAX = 1000, LINE_SIZE = 1100 * (FIELDS_MAX + 2) };
typedef struct line {
    char text[LINE_SIZE];
    size_t n;
} line;

static _Atomic int current = GLIA_LOG_WARN, format = GLIA_LOG_TEXT;
static const char *const names[] = {"error", "warning", "info", "debug"};

void glia_log_set_level(glia_log_level level) { atomic_store(&current, (int)level); }
glia_log_level glia_log_get_level(void) { return (glia_log_level)atomic_load(&current); }
void glia_log_set_format(glia_log_format f) { atomic_store(&format, (int)f); }

static void add(line *l, const char *s, size_t n) {
    memcpy(l->text + l->n, s, n);
    l->n += n;
}

static void adds(line *l, const char *s) { add(l, s, strlen(s)); }

/* Inside a JSON string (RFC 8259 §7); bytes that are no UTF-8 become the replacement character. */
static void add_escaped(line *l, const char *s) {
    bool valid = glia_utf8_valid(s, strlen(s));
    for (size_t begin = l->n; *s; s++) {
        unsigned char c = (unsigned char)*s;
        char code[8];
        if (l->n - begin > TEXT_MAX - 16 && (!valid || (c & 0xc0) != 0x80)) {
            adds(l, "...");
            return;
        }
        if (c == '"' || c == '\\') add(l, (char[]){'\\', (char)c}, 2);
        else if (c < 0x20 || c == 0x7f) add(l, code, (size_t)snprintf(code, sizeof code, "\\u%04x", c));
        else if (c >= 0x80 && !valid) adds(l, "\\ufffd");
        else add(l, s, 1);
    }
}

static void add_number(line *l, double v) {
    char digits[32];
    add(l, digits, (size_t)snprintf(digits, sizeof digits, "%.15g", v));
}

static bool is_word(const char *s) {
    if (!*s) return false;
    for (; *s; s++) {
        if ((unsigned char)*s <= ' ' || *s == '"' || *s == '=' || *s == '\\' || *s == 0x7f) return false;
    }
    return true;
}

static void add_time(line *l) {
    struct timespec now;
    struct tm utc;
    char text[40];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    add(l, text, strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc));
    add(l, text, (size_t)snprintf(text, sizeof text, ".%03dZ", (int)(now.tv_nsec / 1000000)));
}

static void write_json(line *l, glia_log_level level, const char *message, const glia_log_field *fields, size_t n) {
    adds(l, "{\"time\":\"");
    add_time(l);
    adds(l, "\",\"level\":\"");
    adds(l, names[level]);
    adds(l, "\",\"message\":\"");
    add_escaped(l, message);
    adds(l, "\"");
    for (const glia_log_field *f = fields; f < fields + n; f++) {
        adds(l, ",\"");
        adds(l, f->name);
        adds(l, f->text ? "\":\"" : "\":");
        if (f->text) add_escaped(l, f->text);
        else add_number(l, f->number);
        if (f->text) adds(l, "\"");
    }
    add(l, "}\n", 3);
}

static void write_text(line *l, glia_log_level level, const char *message, const glia_log_field *fields, size_t n) {
    adds(l, "glia: ");
    adds(l, names[level]);
    adds(l, ": ");
    add(l, message, strnlen(message, TEXT_MAX));
    for (const glia_log_field *f = fields; f < fields + n; f++) {
        bool quoted = f->text && !is_word(f->text);
        adds(l, " ");
        adds(l, f->name);
        adds(l, quoted ? "=\"" : "=");
        if (f->text) add_escaped(l, f->text);
        else add_number(l, f->number);
        if (quoted) adds(l, "\"");
    }
    add(l, "\n", 2);
}

void glia_log_fields(glia_log_level level, const char *message, const glia_log_field *fields, size_t n) {
    if ((int)level > atomic_load(&current)) return;
    line l;
    l.n = 0;
    if (n > FIELDS_MAX) n = FIELDS_MAX;
    if (atomic_load(&format) == GLIA_LOG_JSON) write_json(&l, level, message, fields, n);
    else write_text(&l, level, message, fields, n);
    (void)fputs(l.text, stderr); /* one call: lines of threads do not mix */
}

void glia_log(glia_log_level level, const char *fmt, ...) {
    if ((int)level > atomic_load(&current)) return;
    char message[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    glia_log_fields(level, message, NULL, 0);
}

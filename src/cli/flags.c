/* cli/flags.c — command line flags from a table.  Main thread only; knows no verb. */
#include "cli/flags.h"
#include "tap/names.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FLAGS_MAX = 64 };

static const flag *find(const flag *table, size_t n, const char *name, size_t n_name) {
    for (size_t i = 0; i < n; i++) {
        if (strlen(table[i].name) == n_name && !strncmp(table[i].name, name, n_name)) return &table[i];
    }
    return NULL;
}

static bool unknown(const flag *table, size_t n, const char *arg) {
    const char *names[FLAGS_MAX];
    char word[64], hint[192];
    for (size_t i = 0; i < n && i < FLAGS_MAX; i++) names[i] = table[i].name;
    (void)snprintf(word, sizeof word, "%.*s", (int)strcspn(arg, "="), arg);
    glia_nearest(word, names, n < FLAGS_MAX ? n : FLAGS_MAX, hint, sizeof hint);
    fprintf(stderr, "glia: unknown flag %s; the nearest are %s (--help lists all)\n", word, hint);
    return false;
}

static bool set_int(const flag *f, const char *text) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (!*text || *end || errno || v < f->min || v > f->max) {
        fprintf(stderr, "glia: %s must be a whole number from %d to %d, not \"%s\"\n", f->name, (int)f->min,
                (int)f->max, text);
        return false;
    }
    *(int32_t *)f->out = (int32_t)v;
    return true;
}

static bool set_size(const flag *f, const char *text) {
    static const char units[] = "KMGT";
    char *end;
    double v = strtod(text, &end);
    if (end != text && *end && strchr(units, *end & ~0x20)) {
        for (const char *u = units;; u++) {
            v *= 1024;
            if (*u == (*end & ~0x20)) break;
        }
        end++;
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
    }
    if (end == text || *end || !(v >= 1 && v < 1e18)) {
        fprintf(stderr, "glia: %s must be a size such as 512M or 16G, not \"%s\"\n", f->name, text);
        return false;
    }
    *(size_t *)f->out = (size_t)v;
    return true;
}

static bool set_choice(const flag *f, const char *text) {
    for (int i = 0; f->choices[i]; i++) {
        if (!strcmp(f->choices[i], text)) {
            *(int *)f->out = i;
            return true;
        }
    }
    fprintf(stderr, "glia: %s must be one of", f->name);
    for (int i = 0; f->choices[i]; i++) fprintf(stderr, "%s %s", i ? "," : "", f->choices[i]);
    fprintf(stderr, "; not \"%s\"\n", text);
    return false;
}

static bool set(const flag *f, const char *text) {
    flag_list *list = f->out;
    switch (f->kind) {
    case FLAG_SWITCH: *(bool *)f->out = true; return true;
    case FLAG_TEXT: *(const char **)f->out = text; return true;
    case FLAG_LIST:
        if (list->n == FLAG_LIST_MAX) {
            fprintf(stderr, "glia: %s may be given %d times at most\n", f->name, (int)FLAG_LIST_MAX);
            return false;
        }
        list->items[list->n++] = text;
        return true;
    case FLAG_INT: return set_int(f, text);
    case FLAG_SIZE: return set_size(f, text);
    case FLAG_CHOICE: return set_choice(f, text);
    }
    return false;
}

bool flags_parse(const flag *table, size_t n, int argc, char **argv, flag_list *positional, bool *help) {
    *help = false;
    *positional = (flag_list){0};
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            *help = true;
            return true;
        }
        if (arg[0] != '-' || !arg[1]) {
            if (positional->n < FLAG_LIST_MAX) positional->items[positional->n++] = arg;
            continue;
        }
        const char *equals = strchr(arg, '=');
        const flag *f = find(table, n, arg, equals ? (size_t)(equals - arg) : strlen(arg));
        if (!f) return unknown(table, n, arg);
        if (f->kind == FLAG_SWITCH && equals) {
            fprintf(stderr, "glia: %s takes no value\n", f->name);
            return false;
        }
        const char *value = equals ? equals + 1 : "";
        if (f->kind != FLAG_SWITCH && !equals) {
            if (++i >= argc) {
                fprintf(stderr, "glia: %s needs a value: %s\n", f->name, f->value);
                return false;
            }
            value = argv[i];
        }
        if (!set(f, value)) return false;
    }
    return true;
}

void flags_print(const flag *table, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char left[40];
        (void)snprintf(left, sizeof left, "%s %s", table[i].name, table[i].value ? table[i].value : "");
        printf("  %-26s %s\n", left, table[i].doc);
    }
}

/* cli/flags.c — one option at a time: find its row, check and set its value; the command line.  The environment and the
 * configuration file are in config.c.  Main thread only; knows no verb. */
#include "cli/flags_set.h"
#include "tap/names.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void (*describe)(void *ud, const flag *table, size_t n);
static void *describe_ud;

void flags_describe_next(void (*fn)(void *ud, const flag *table, size_t n), void *ud) {
    describe = fn, describe_ud = ud;
}

const flag *flag_find(const flag *table, size_t n, const char *name, size_t n_name) {
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

static bool set_int(const flag *f, const char *text, const char *label) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (!*text || *end || errno || v < f->min || v > f->max) {
        fprintf(stderr, "glia: %s must be a whole number from %d to %d, not \"%s\"\n", label, (int)f->min,
                (int)f->max, text);
        return false;
    }
    *(int32_t *)f->out = (int32_t)v;
    return true;
}

static bool set_size(const flag *f, const char *text, const char *label) {
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
        fprintf(stderr, "glia: %s must be a size such as 512M or 16G, not \"%s\"\n", label, text);
        return false;
    }
    *(size_t *)f->out = (size_t)v;
    return true;
}

static bool set_choice(const flag *f, const char *text, const char *label) {
    for (int i = 0; f->choices[i]; i++) {
        if (!strcmp(f->choices[i], text)) {
            *(int *)f->out = i;
            return true;
        }
    }
    fprintf(stderr, "glia: %s must be one of", label);
    for (int i = 0; f->choices[i]; i++) fprintf(stderr, "%s %s", i ? "," : "", f->choices[i]);
    fprintf(stderr, "; not \"%s\"\n", text);
    return false;
}

static bool set_switch(const flag *f, const char *text, const char *label) {
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (strcmp(text, yes[i]) && strcmp(text, no[i])) continue;
        *(bool *)f->out = !strcmp(text, yes[i]);
        return true;
    }
    fprintf(stderr, "glia: %s must be yes or no, not \"%s\"\n", label, text);
    return false;
}

bool flag_set(const flag *f, const char *text, const char *label) {
    flag_list *list = f->out;
    switch (f->kind) {
    case FLAG_SWITCH: return set_switch(f, text, label);
    case FLAG_TEXT: *(const char **)f->out = text; return true;
    case FLAG_LIST:
        if (list->n == FLAG_LIST_MAX) {
            fprintf(stderr, "glia: %s may be given %d times at most\n", label, (int)FLAG_LIST_MAX);
            return false;
        }
        list->items[list->n++] = text;
        return true;
    case FLAG_INT: return set_int(f, text, label);
    case FLAG_SIZE: return set_size(f, text, label);
    case FLAG_CHOICE: return set_choice(f, text, label);
    }
    return false;
}

bool flags_take(const flag *table, size_t n, int argc, char **argv, flag_list *positional, bool *help, bool *given) {
    *help = false;
    *positional = (flag_list){0};
    if (describe) {
        describe(describe_ud, table, n);
        describe = NULL;
        return false;
    }
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
        const flag *f = flag_find(table, n, arg, equals ? (size_t)(equals - arg) : strlen(arg));
        if (!f) return unknown(table, n, arg);
        if (f->kind == FLAG_SWITCH && equals) {
            fprintf(stderr, "glia: %s takes no value\n", f->name);
            return false;
        }
        const char *value = equals ? equals + 1 : "yes";
        if (f->kind != FLAG_SWITCH && !equals) {
            if (++i >= argc) {
                fprintf(stderr, "glia: %s needs a value: %s\n", f->name, f->value);
                return false;
            }
            value = argv[i];
        }
        if (!flag_set(f, value, f->name)) return false;
        given[f - table] = true;
    }
    return true;
}

bool flags_parse(const flag *table, size_t n, int argc, char **argv, flag_list *positional, bool *help) {
    bool given[FLAGS_MAX] = {false};
    return flags_take(table, n, argc, argv, positional, help, given);
}

void flags_print(const flag *table, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char left[40];
        (void)snprintf(left, sizeof left, "%s %s", table[i].name, table[i].value ? table[i].value : "");
        printf("  %-26s %s\n", left, table[i].doc);
    }
}

/* cli/config.c — options from the environment and from a configuration file.  Main thread only; knows no verb.
 *
 *   # comment                      lines of "name = value"; names are those of the flags, without the dashes
 *   parallel = 8
 *   listen = 127.0.0.1:1234        options that may be repeated are repeated
 *   json = yes                     switches: yes or no
 *   id = "a name # with signs"     quotes only where a value begins or ends with white space, or holds " #" */
#include "base/mem.h"
#include "cli/flags_set.h"
#include "glia.h"
#include "tap/names.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONFIG_MAX = 1 << 20 };

/* Values point into these until the program ends. */
static char *file_text, *variables[FLAGS_MAX];

void flag_variable(const flag *f, char *out, size_t cap) {
    (void)snprintf(out, cap, "GLIA_%s", f->name + 2);
    for (char *c = out; *c; c++) *c = (char)(*c == '-' ? '_' : toupper((unsigned char)*c));
}

/* ------------------------------------------------------------------ environment */

static bool take_variable(const flag *f, size_t row, bool *given) {
    char name[80];
    flag_variable(f, name, sizeof name);
    const char *text = getenv(name);
    if (!text || !*text) return true;
    *given = true;
    if (f->kind != FLAG_LIST) return flag_set(f, text, name);
    glia_free(variables[row]);
    if (!(variables[row] = glia_strdup(text))) return false;
    char *rest = variables[row];
    for (char *item; (item = strsep(&rest, ","));) {
        if (*item && !flag_set(f, item, name)) return false;
    }
    return true;
}

/* ------------------------------------------------------------------ file */

const char *flags_config_path(char *out, size_t cap) {
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (xdg && *xdg) (void)snprintf(out, cap, "%s/glia/serve.conf", xdg);
    else (void)snprintf(out, cap, "%s/.config/glia/serve.conf", home ? home : "");
    if (!access(out, F_OK)) return out;
    (void)snprintf(out, cap, "/etc/glia/serve.conf");
    return access(out, F_OK) ? NULL : out;
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "re");
    char *text = f ? glia_malloc(CONFIG_MAX + 1) : NULL;
    size_t n = text ? fread(text, 1, CONFIG_MAX + 1, f) : 0;
    const char *why = !f ? strerror(errno) : !text ? "out of memory" : ferror(f) ? strerror(errno) : n > CONFIG_MAX ? "larger than 1 MiB" : NULL;
    if (f) (void)fclose(f);
    if (!why && memchr(text, 0, n)) why = "not a text file";
    if (!why) {
        text[n] = 0;
        return text;
    }
    fprintf(stderr, "glia: cannot read the configuration file %s: %s\n", path, why);
    glia_free(text);
    return NULL;
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) s[--n] = 0;
    return s;
}

/* The value of a line, without comment and quotes.  NULL: a quote is open. */
static char *value_of(char *s) {
    s = trim(s);
    if (*s == '"') {
        char *end = strchr(++s, '"');
        if (!end) return NULL;
        char *behind = trim(end + 1);
        if (*behind && *behind != '#') return NULL;
        *end = 0;
        return s;
    }
    for (char *c = s; *c; c++) {
        if (*c == '#' && (c == s || isspace((unsigned char)c[-1]))) *c = 0;
        if (!*c) break;
    }
    return trim(s);
}

static bool unknown_name(const flag *table, size_t n, const char *where, const char *name) {
    const char *names[FLAGS_MAX];
    char hint[192];
    for (size_t i = 0; i < n && i < FLAGS_MAX; i++) names[i] = table[i].name + 2;
    glia_nearest(name, names, n < FLAGS_MAX ? n : FLAGS_MAX, hint, sizeof hint);
    fprintf(stderr, "glia: %s: unknown option \"%s\"; the nearest are %s\n", where, name, hint);
    return false;
}

static bool take_line(const flag *table, size_t n, const bool *given, const char *path, int number, char *line) {
    char where[320], label[400], name[80];
    (void)snprintf(where, sizeof where, "%s:%d", path, number);
    char *key = trim(line), *equals;
    if (!*key || *key == '#') return true;
    if (!(equals = strchr(key, '='))) {
        fprintf(stderr, "glia: %s: not \"name = value\": %.60s\n", where, key);
        return false;
    }
    *equals = 0;
    key = trim(key);
    (void)snprintf(name, sizeof name, "--%s", key);
    const flag *f = strlen(key) + 3 > sizeof name ? NULL : flag_find(table, n, name, strlen(name));
    if (!f || !strcmp(name, "--config")) return unknown_name(table, n, where, key);
    char *value = value_of(equals + 1);
    if (!value) {
        fprintf(stderr, "glia: %s: the quotes of %s do not match\n", where, key);
        return false;
    }
    if (given[f - table]) return true;
    (void)snprintf(label, sizeof label, "%s: %s", where, key);
    return flag_set(f, value, label);
}

static bool take_file(const flag *table, size_t n, const bool *given, const char *path) {
    glia_free(file_text);
    if (!(file_text = read_file(path))) return false;
    char *rest = file_text;
    int number = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (!take_line(table, n, given, path, ++number, line)) return false;
    }
    return true;
}

/* ------------------------------------------------------------------ all of them */

bool flags_parse_all(const flag *table, size_t n, int argc, char **argv, flag_list *positional, bool *help) {
    bool given[FLAGS_MAX] = {false};
    char path[4096];
    if (n > FLAGS_MAX) n = FLAGS_MAX;
    if (!flags_take(table, n, argc, argv, positional, help, given)) return false;
    if (*help) return true;
    for (size_t i = 0; i < n; i++) {
        if (!given[i] && !take_variable(&table[i], i, &given[i])) return false;
    }
    const flag *config = flag_find(table, n, "--config", strlen("--config"));
    const char *file = config ? *(const char **)config->out : NULL;
    if (!file) file = flags_config_path(path, sizeof path);
    return !file || !strcmp(file, "none") || take_file(table, n, given, file);
}

/* cli/keys.c — the API keys of a server and what each may do.  Main thread.
 *
 * A key file has one key a line: KEY SCOPES [# whose it is], scopes separated by commas, or "all".  Who can read the file
 * can use the keys: a file that others than its owner can read is warned about. */
#include "base/mem.h"
#include "cli/cli.h"
#include "tap/names.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_KEYS = 1024 };

typedef struct list {
    glia_http_key *keys;
    size_t n;
} list;

static bool add(list *l, const char *key, size_t n_key, uint32_t scopes) {
    if (l->n == MAX_KEYS) {
        fprintf(stderr, "glia: more than %d API keys\n", (int)MAX_KEYS);
        return false;
    }
    char *copy = glia_strndup(key, n_key);
    if (!copy) return false;
    l->keys[l->n++] = (glia_http_key){.key = copy, .scopes = scopes};
    return true;
}

static bool read_scopes(char *words, const char *path, int number, uint32_t *out) {
    *out = 0;
    for (char *word; (word = strsep(&words, ", \t"));) {
        if (!*word) continue;
        uint32_t bit = !strcmp(word, "all") ? GLIA_HTTP_ALL_SCOPES : glia_scope_from_name(word);
        if (!bit) {
            fprintf(stderr, "glia: %s:%d: no scope \"%.40s\": there are all, %s\n", path, number, word, glia_scope_names());
            return false;
        }
        *out |= bit;
    }
    if (!*out) fprintf(stderr, "glia: %s:%d: what may this key do?  all, or %s\n", path, number, glia_scope_names());
    return *out != 0;
}

static bool read_line(list *l, char *line, const char *path, int number) {
    line[strcspn(line, "\r\n")] = 0;
    char *comment = strstr(line, " #");
    if (comment) *comment = 0;
    while (isspace((unsigned char)*line)) line++;
    if (!*line || *line == '#') return true;
    size_t n = strcspn(line, " \t");
    uint32_t scopes;
    char *words = line + n;
    return read_scopes(words, path, number, &scopes) && add(l, line, n, scopes);
}

static bool read_file(list *l, const char *path) {
    FILE *f = fopen(path, "re");
    struct stat st;
    char line[4096];
    if (!f) {
        fprintf(stderr, "glia: cannot read the key file %s: %s\n", path, strerror(errno));
        return false;
    }
    if (!fstat(fileno(f), &st) && (st.st_mode & (S_IRGRP | S_IROTH)))
        fprintf(stderr, "glia: warning: others can read %s and use its keys (chmod 600)\n", path);
    bool good = true;
    for (int number = 1; good && fgets(line, sizeof line, f); number++) {
        if (strlen(line) + 1 == sizeof line) {
            fprintf(stderr, "glia: %s:%d: the line is too long\n", path, number);
            good = false;
        } else {
            good = read_line(l, line, path, number);
        }
    }
    good &= !ferror(f);
    (void)fclose(f);
    if (good && !l->n) {
        fprintf(stderr, "glia: %s holds no key\n", path);
        good = false;
    }
    return good;
}

bool cli_keys_read(const cli_options *o, glia_http_key **out, size_t *n) {
    list l = {glia_calloc(MAX_KEYS, sizeof *l.keys), 0};
    bool good = l.keys != NULL;
    if (good && o->key_file) good = read_file(&l, o->key_file);
    for (size_t i = 0; good && i < o->api_keys.n; i++)
        good = add(&l, o->api_keys.items[i], strlen(o->api_keys.items[i]), GLIA_HTTP_ALL_SCOPES);
    if (!good) {
        cli_keys_free(l.keys, l.n);
        l = (list){0};
    }
    *out = l.keys, *n = l.n;
    return good;
}

void cli_keys_free(glia_http_key *keys, size_t n) {
    for (size_t i = 0; i < n; i++) glia_free((char *)keys[i].key);
    glia_free(keys);
}

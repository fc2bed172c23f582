/* models/places.c — where model folders and the catalogue's file are by default. */
#include "base/mem.h"
#include "models/catalogue.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char *under(const char *base, const char *rest) {
    size_t n = strlen(base) + strlen(rest) + 1;
    char *p = glia_malloc(n);
    if (p) (void)snprintf(p, n, "%s%s", base, rest);
    return p;
}

/* $NAME/rest, else $HOME/fallback/rest; NULL: neither is set. */
static char *user_path(const char *name, const char *fallback, const char *rest) {
    const char *set = getenv(name), *home = getenv("HOME");
    if (set && set[0] == '/') return under(set, rest);
    if (!home || !home[0]) return NULL;
    char *base = under(home, fallback), *p = base ? under(base, rest) : NULL;
    glia_free(base);
    return p;
}

size_t glia_catalogue_default_dirs(char **out, size_t cap) {
    const char *set = getenv("GLIA_MODELS");
    size_t n = 0;
    if (set && *set) {
        if (cap && (out[0] = glia_strdup(set))) n = 1;
        return n;
    }
    if (n < cap && (out[n] = user_path("XDG_DATA_HOME", "/.local/share", "/glia/models"))) n++;
    if (n < cap && (out[n] = glia_strdup(".deps/models"))) n++;
    return n;
}

char *glia_catalogue_default_db(void) {
    char *folder = user_path("XDG_CACHE_HOME", "/.cache", "/glia");
    if (!folder) return NULL;
    for (char *p = folder + 1; *p; p++) { /* its parents may not be there yet */
        if (*p != '/') continue;
        *p = 0;
        (void)mkdir(folder, 0700);
        *p = '/';
    }
    (void)mkdir(folder, 0700);
    char *path = under(folder, "/catalogue.sqlite");
    glia_free(folder);
    return path;
}

glia_status glia_catalogue_open(glia_catalogue **out, const char *const *dirs, size_t n_dirs, glia_err *err) {
    char *found[4], *db = glia_catalogue_default_db();
    const char *defaults[4];
    size_t n = n_dirs ? 0 : glia_catalogue_default_dirs(found, 4);
    for (size_t i = 0; i < n; i++) defaults[i] = found[i];
    glia_status st = glia_catalogue_new(out, n_dirs ? dirs : defaults, n_dirs ? n_dirs : n, db, err);
    for (size_t i = 0; i < n; i++) glia_free(found[i]);
    glia_free(db);
    return st;
}

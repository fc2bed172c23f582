/* cli/find.c — a model's name → its file in the model folder (publisher/model/file.gguf).  Main thread. */
#include "base/buf.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "tap/names.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_FILES = 4096, MAX_DEPTH = 3 };

typedef struct found {
    char *paths[MAX_FILES];
    size_t n;
} found;

static bool is_dir(const char *path) {
    struct stat s;
    return !stat(path, &s) && S_ISDIR(s.st_mode);
}

static bool is_model(const char *name) {
    size_t n = strlen(name);
    if (n < 6 || strcasecmp(name + n - 5, ".gguf") != 0) return false;
    const char *part = strstr(name, "-of-"); /* split models are opened by their first part */
    return !part || strstr(name, "-00001-of-");
}

static void scan(const char *folder, int depth, found *f) {
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char *path = NULL;
        if (e->d_name[0] == '.' || asprintf(&path, "%s/%s", folder, e->d_name) < 0) continue;
        if (is_model(e->d_name) && f->n < MAX_FILES) {
            f->paths[f->n++] = path;
            continue;
        }
        if (depth < MAX_DEPTH && is_dir(path)) scan(path, depth + 1, f);
        free(path);
    }
    if (dir) (void)closedir(dir);
}

static void scan_all(found *f) {
    const char *set = getenv("GLIA_MODELS"), *home = getenv("HOME");
    char *user = NULL;
    if (set && *set) {
        scan(set, 0, f);
        return;
    }
    scan(".deps/models", 0, f);
    if (home && asprintf(&user, "%s/.local/share/glia/models", home) >= 0) {
        scan(user, 0, f);
        free(user);
    }
}

/* Names that a file answers to: its stem, its folder's name, folder/…, publisher/folder.  "a/b/c/M/M.Q4.gguf" */
static bool answers_to(const char *path, const char *name) {
    char copy[1024];
    if ((size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy) return false;
    char *parts[4] = {0};
    for (int i = 0; i < 3; i++) { /* from the end: file, model, publisher */
        char *slash = strrchr(copy, '/');
        parts[i] = slash ? slash + 1 : copy;
        if (!slash) break;
        *slash = 0;
    }
    char stem[512], full[1024] = "", with_file[1024] = "";
    (void)snprintf(stem, sizeof stem, "%.*s", (int)(strlen(parts[0]) - 5), parts[0]);
    if (parts[1] && parts[2]) (void)snprintf(full, sizeof full, "%.500s/%.500s", parts[2], parts[1]);
    if (full[0]) (void)snprintf(with_file, sizeof with_file, "%.700s/%.300s", full, parts[0]);
    return !strcasecmp(name, stem) || !strcasecmp(name, parts[0]) || (parts[1] && !strcasecmp(name, parts[1])) ||
           !strcasecmp(name, full) || !strcasecmp(name, with_file);
}

static void say_unknown(const char *name, const found *f) {
    const char *names[MAX_FILES];
    char hint[512];
    if (!f->n) {
        fprintf(stderr,
                "glia: no file \"%s\", and no GGUF file in the model folder (GLIA_MODELS, .deps/models or "
                "~/.local/share/glia/models): `make deps` fetches the demo model\n",
                name);
        return;
    }
    for (size_t i = 0; i < f->n; i++) {
        const char *slash = strrchr(f->paths[i], '/');
        names[i] = slash ? slash + 1 : f->paths[i];
    }
    glia_nearest(name, names, f->n, hint, sizeof hint);
    fprintf(stderr, "glia: no file and no known model \"%s\"; the nearest are %s\n", name, hint);
}

char *cli_find_model(const char *name) {
    struct stat s;
    if (!stat(name, &s) && !S_ISDIR(s.st_mode)) return glia_strdup(name);
    if (name[0] == '/' || name[0] == '.') {
        fprintf(stderr, "glia: cannot open \"%s\": %s\n", name, is_dir(name) ? "it is a folder" : strerror(ENOENT));
        return NULL;
    }
    found *f = glia_calloc(1, sizeof *f);
    char *path = NULL;
    size_t n_match = 0;
    if (!f) return NULL;
    scan_all(f);
    for (size_t i = 0; i < f->n; i++) {
        if (!answers_to(f->paths[i], name)) continue;
        if (!n_match++) path = glia_strdup(f->paths[i]);
    }
    if (n_match > 1) {
        fprintf(stderr, "glia: \"%s\" could be any of these, name one:\n", name);
        for (size_t i = 0; i < f->n; i++) {
            if (answers_to(f->paths[i], name)) fprintf(stderr, "  %s\n", f->paths[i]);
        }
        glia_free(path);
        path = NULL;
    } else if (!n_match) {
        say_unknown(name, f);
    }
    for (size_t i = 0; i < f->n; i++) free(f->paths[i]);
    glia_free(f);
    return path;
}

/* cli/find.c — a model's name → its file, by the catalogue of the model folders.  Main thread. */
#include "base/buf.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "tap/names.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_NAMES = 512 };

glia_catalogue *cli_catalogue(const flag_list *given) {
    glia_err err;
    glia_catalogue *c;
    if (glia_catalogue_open(&c, given->items, given->n, &err)) (void)cli_print_error(&err);
    return c;
}

bool cli_any_model(const cli_options *o) {
    const glia_models *m;
    if (o->model_dirs.n) return true; /* what is not there yet may come */
    glia_catalogue *c = cli_catalogue(&o->model_dirs);
    bool any = c && !glia_catalogue_get(c, 0, &m, NULL);
    if (any) {
        any = m->n > 0;
        glia_models_unref(m);
    }
    glia_catalogue_free(c);
    return any;
}

static void say_unknown(const char *name, const glia_models *m) {
    const char *names[MAX_NAMES];
    char hint[512];
    if (!m->n) {
        fprintf(
            stderr,
            "glia: no file \"%s\", and no GGUF file in the model folder (GLIA_MODELS, --models-dir, .deps/models or "
            "~/.local/share/glia/models): `make deps` fetches the demo model\n",
            name);
        return;
    }
    size_t n = m->n < MAX_NAMES ? m->n : MAX_NAMES;
    for (size_t i = 0; i < n; i++) names[i] = m->items[i].file;
    glia_nearest(name, names, n, hint, sizeof hint);
    fprintf(stderr, "glia: no file and no known model \"%s\"; the nearest are %s\n", name, hint);
}

static char *find_in(glia_catalogue *c, const char *name) {
    const glia_models *m;
    glia_err err;
    char *path = NULL;
    if (glia_catalogue_get(c, 0, &m, &err)) {
        (void)cli_print_error(&err);
        return NULL;
    }
    const glia_model_file *f = glia_models_find(m, name, &err);
    if (f && f->problem) fprintf(stderr, "glia: \"%s\" cannot be loaded: %s\n", name, f->problem);
    else if (f) path = glia_strdup(f->path);
    else if (err.status == GLIA_ENOTFOUND) say_unknown(name, m);
    else (void)cli_print_error(&err);
    glia_models_unref(m);
    return path;
}

char *cli_find_model(const char *name) { return cli_find_model_in(&(flag_list){.n = 0}, name); }

char *cli_find_model_in(const flag_list *dirs, const char *name) {
    struct stat s;
    bool there = !stat(name, &s);
    if (there && !S_ISDIR(s.st_mode)) return glia_strdup(name);
    if (name[0] == '/' || name[0] == '.') {
        fprintf(stderr, "glia: cannot open \"%s\": %s\n", name, there ? "it is a folder" : strerror(ENOENT));
        return NULL;
    }
    glia_catalogue *c = cli_catalogue(dirs);
    char *path = c ? find_in(c, name) : NULL;
    glia_catalogue_free(c);
    return path;
}

/* models/catalogue.c — see catalogue.h.  Files are found by scan.c and remembered by memo.c; here they become models. */
#include "models/catalogue.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/memo.h"
#include "models/scan.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A list that is handed out; the public part comes first. */
typedef struct list {
    glia_models pub;
    atomic_size_t refs;
    glia_model_file items[];
} list;

struct glia_catalogue {
    pthread_mutex_t lock; /* everything below */
    char **dirs;          /* [n_dirs] */
    size_t n_dirs;
    glia_memo *memo; /* NULL: without */
    glia_scan *seen; /* the last look, with headers */
    list *list;
    int64_t seen_ms;
};

static int64_t now_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ------------------------------------------------------------------ lists */

void glia_model_file_clear(glia_model_file *f) {
    glia_free(f->key);
    glia_free(f->base);
    glia_free(f->publisher);
    glia_free(f->folder);
    glia_free(f->file);
    glia_free(f->path);
    glia_free(f->mmproj);
    glia_free(f->problem);
    *f = (glia_model_file){0};
}

static bool is_whole(const glia_model_file *f) {
    return f->key && f->base && f->publisher && f->folder && f->file && f->path;
}

static glia_status whole_or_nothing(glia_model_file *f, glia_err *err) {
    if (is_whole(f)) return GLIA_OK;
    glia_model_file_clear(f);
    return glia_fail(err, GLIA_ENOMEM, "out of memory for a model's file");
}

glia_status glia_model_file_copy(glia_model_file *out, const glia_model_file *f, glia_err *err) {
    *out = *f;
    out->key = glia_strdup(f->key), out->base = glia_strdup(f->base);
    out->publisher = glia_strdup(f->publisher), out->folder = glia_strdup(f->folder);
    out->file = glia_strdup(f->file), out->path = glia_strdup(f->path);
    out->mmproj = glia_strdup(f->mmproj), out->problem = glia_strdup(f->problem);
    return whole_or_nothing(out, err);
}

glia_status glia_model_file_of_path(glia_model_file *out, const char *path, glia_err *err) {
    struct stat sb;
    *out = (glia_model_file){0};
    glia_status st = glia_gguf_read(&out->head, path, err);
    if (st) return st;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    n = n > 5 && !strcasecmp(name + n - 5, ".gguf") ? n - 5 : n;
    out->key = glia_strndup(name, n), out->base = glia_strndup(name, n), out->folder = glia_strndup(name, n);
    out->publisher = glia_strdup(""), out->file = glia_strdup(name), out->path = glia_strdup(path);
    bool seen = !stat(path, &sb);
    out->bytes = seen ? (uint64_t)sb.st_size : out->head.tensor_bytes, out->mtime = seen ? (int64_t)sb.st_mtime : 0;
    out->weight_bytes = out->head.tensor_bytes, out->n_params = out->head.n_params;
    out->n_parts = 1, out->selected = true, out->n_variants = 1;
    return whole_or_nothing(out, err);
}

void glia_models_unref(const glia_models *m) {
    list *l = (list *)(uintptr_t)m;
    if (!l || atomic_fetch_sub(&l->refs, 1) > 1) return;
    for (size_t i = 0; i < l->pub.n; i++) glia_model_file_clear(&l->items[i]);
    glia_free(l);
}

/* ------------------------------------------------------------------ from files to models */

static bool same_folder(const glia_scan_file *a, const glia_scan_file *b) {
    size_t n = a->n_folder;
    return n == b->n_folder && !memcmp(a->path, b->path, n);
}

static char *lower(const char *s, size_t n) {
    char *p = glia_strndup(s, n);
    for (char *c = p; c && *c; c++) {
        if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a');
    }
    return p;
}

static char *join(const char *a, const char *between, const char *b) {
    size_t n = strlen(a) + strlen(between) + strlen(b) + 1;
    char *p = glia_malloc(n);
    if (p) (void)snprintf(p, n, "%s%s%s", a, between, b);
    return p;
}

static void set_problem(glia_model_file *f, const char *text) {
    if (!f->problem) f->problem = glia_strdup(text);
}

/* Sizes of all parts; a part that is missing is the model's problem. */
static void add_parts(glia_model_file *f, const glia_scan *s, const glia_scan_file *first) {
    char text[96];
    f->bytes = first->bytes, f->weight_bytes = first->head.tensor_bytes, f->n_params = first->head.n_params;
    f->n_parts = first->n_parts, f->mtime = first->mtime_ns / 1000000000;
    for (size_t part = 2; part <= first->n_parts; part++) {
        const glia_scan_file *p = glia_scan_part(s, first, part);
        if (!p || p->bad) {
            (void)snprintf(text, sizeof text, "part %zu of %zu is %s", part, first->n_parts, p ? "damaged" : "missing");
            set_problem(f, text);
            continue;
        }
        f->bytes += p->bytes, f->weight_bytes += p->head.tensor_bytes, f->n_params += p->head.n_params;
    }
}

static bool is_model(const glia_scan_file *f) {
    return !f->bad && f->part == 1 && f->head.arch[0] && !glia_gguf_is_mmproj(&f->head) &&
           strcmp(f->head.type, "adapter") != 0;
}

/* Sizes, names and neighbours.  False: no memory. */
static bool make_item(glia_model_file *f, const glia_scan *s, const glia_scan_file *file) {
    f->head = file->head;
    add_parts(f, s, file);
    f->path = glia_strdup(file->path);
    f->file = glia_strdup(file->path + file->n_folder + (file->n_folder > 0));
    f->publisher = glia_strndup(file->publisher, file->n_publisher);
    f->folder = file->model ? glia_strndup(file->model, file->n_model) : glia_strndup(file->stem, file->n_stem);
    for (size_t i = 0; i < s->n && file->model; i++) { /* files at the top of a model folder are not of one model */
        const glia_scan_file *p = &s->files[i];
        if (f->mmproj || p->bad || !glia_gguf_is_mmproj(&p->head) || !same_folder(file, p)) continue;
        if (!(f->mmproj = glia_strdup(p->path))) return false;
    }
    return f->path && f->file && f->publisher && f->folder;
}

/* Files of one folder are variants of one model when they differ in their quantization alone. */
static bool are_variants(const glia_model_file *a, const glia_model_file *b) {
    return !strcmp(a->head.arch, b->head.arch) && a->head.n_layer == b->head.n_layer &&
           a->head.n_embd == b->head.n_embd && a->n_params == b->n_params;
}

static bool folder_is_one_model(const glia_model_file *items, const glia_scan_file *const *files, size_t n, size_t i) {
    for (size_t k = 0; k < n; k++) {
        if (k != i && same_folder(files[i], files[k]) && !are_variants(&items[i], &items[k])) return false;
    }
    return files[i]->model != NULL;
}

static bool name_base(glia_model_file *f, const glia_scan_file *file, bool by_folder) {
    static const char prefix[] = "text-embedding-";
    const char *s = by_folder ? f->folder : file->stem;
    size_t n = by_folder ? strlen(f->folder) : file->n_stem;
    if (n > 5 && !strncasecmp(s + n - 5, "-gguf", 5)) n -= 5;
    f->base = lower(s, n);
    if (f->base && glia_gguf_is_embedding(&f->head) && strncmp(f->base, prefix, sizeof prefix - 1) != 0) {
        char *longer = join(prefix, "", f->base);
        glia_free(f->base);
        f->base = longer;
    }
    return f->base != NULL;
}

/* Which of several quantizations a name without one means. */
static int preference(const glia_model_file *f) {
    static const char *const order[] = {"Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_0", "Q4_1", "MXFP4",
                                        "Q6_K",   "Q8_0",   "Q5_K_S", "BF16", "F16"};
    const char *q = glia_gguf_quant(&f->head);
    for (int i = 0; i < (int)(sizeof order / sizeof *order); i++) {
        if (!strcmp(q, order[i])) return i;
    }
    return 100;
}

/* Two folders of the same name: their publishers tell them apart. */
static bool tell_publishers_apart(glia_model_file *items, const glia_scan_file *const *files, size_t n) {
    bool *clash = glia_calloc(n + 1, sizeof *clash);
    if (!clash) return false;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < n; k++) {
            if (i != k && !strcmp(items[i].base, items[k].base) && !same_folder(files[i], files[k])) clash[i] = true;
        }
    }
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        if (!clash[i] || !items[i].publisher[0]) continue;
        char *publisher = lower(items[i].publisher, strlen(items[i].publisher));
        char *longer = publisher ? join(publisher, "/", items[i].base) : NULL;
        glia_free(publisher);
        if (!(ok = longer != NULL)) break;
        glia_free(items[i].base);
        items[i].base = longer;
    }
    glia_free(clash);
    return ok;
}

static bool name_variants(glia_model_file *items, const glia_scan_file *const *files, size_t n) {
    for (size_t i = 0; i < n; i++) {
        glia_model_file *f = &items[i];
        bool twice = false;
        f->selected = true;
        for (size_t k = 0; k < n; k++) {
            if (strcmp(f->base, items[k].base) != 0) continue;
            f->n_variants++;
            int mine = preference(f), other = preference(&items[k]);
            if (other < mine || (other == mine && k < i)) f->selected = false;
            if (k != i && !strcmp(glia_gguf_quant(&f->head), glia_gguf_quant(&items[k].head))) twice = true;
        }
        if (f->n_variants < 2) {
            f->key = glia_strdup(f->base);
        } else {
            const char *what = twice ? files[i]->stem : glia_gguf_quant(&f->head);
            char *variant = lower(what, twice ? files[i]->n_stem : strlen(what));
            f->key = variant ? join(f->base, "@", variant) : NULL;
            glia_free(variant);
        }
        if (!f->key) return false;
    }
    for (size_t i = 0; i < n; i++) { /* what is still the same name twice: the path is not */
        for (size_t k = 0; k < i; k++) {
            if (strcmp(items[i].key, items[k].key) != 0) continue;
            glia_free(items[i].key);
            if (!(items[i].key = glia_strdup(items[i].path))) return false;
        }
    }
    return true;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const glia_model_file *)a)->key, ((const glia_model_file *)b)->key);
}

static list *make_list(const glia_scan *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) n += is_model(&s->files[i]);
    list *l = glia_calloc(1, sizeof *l + n * sizeof *l->items);
    const glia_scan_file **files = glia_calloc(n + 1, sizeof *files);
    bool ok = l && files;
    if (l) l->pub.items = l->items, atomic_init(&l->refs, 1);
    for (size_t i = 0; ok && i < s->n; i++) {
        if (!is_model(&s->files[i])) continue;
        files[l->pub.n] = &s->files[i];
        ok = make_item(&l->items[l->pub.n++], s, &s->files[i]);
    }
    for (size_t i = 0; ok && i < n; i++)
        ok = name_base(&l->items[i], files[i], folder_is_one_model(l->items, files, n, i));
    ok = ok && tell_publishers_apart(l->items, files, n) && name_variants(l->items, files, n);
    if (ok) qsort(l->items, n, sizeof *l->items, by_key);
    glia_free(files);
    if (ok) return l;
    if (l) glia_models_unref(&l->pub);
    return NULL;
}

/* ------------------------------------------------------------------ the catalogue */

/* Absolute, so that what is remembered of a file does not depend on where the program was started. */
static char *absolute(const char *dir) {
    char *real = realpath(dir, NULL), *cwd = NULL, *p;
    if (real) {
        p = glia_strdup(real);
    } else if (dir[0] == '/') {
        p = glia_strdup(dir);
    } else {
        cwd = getcwd(NULL, 0);
        p = cwd ? join(cwd, "/", dir) : NULL;
    }
    free(real);
    free(cwd);
    return p;
}

glia_status glia_catalogue_new(glia_catalogue **out, const char *const *dirs, size_t n_dirs, const char *db,
                               glia_err *err) {
    glia_catalogue *c = *out = glia_calloc(1, sizeof *c);
    if (!c) return glia_fail(err, GLIA_ENOMEM, "out of memory for the model catalogue");
    (void)pthread_mutex_init(&c->lock, NULL);
    bool ok = (c->dirs = glia_calloc(n_dirs + 1, sizeof *c->dirs)) != NULL;
    for (size_t i = 0; ok && i < n_dirs; i++) ok = (c->dirs[c->n_dirs++] = absolute(dirs[i])) != NULL;
    if (!ok) {
        glia_catalogue_free(c);
        *out = NULL;
        return glia_fail(err, GLIA_ENOMEM, "out of memory for the model catalogue");
    }
    if (db) c->memo = glia_memo_open(db);
    return GLIA_OK;
}

void glia_catalogue_free(glia_catalogue *c) {
    if (!c) return;
    for (size_t i = 0; c->dirs && i < c->n_dirs; i++) glia_free(c->dirs[i]);
    glia_free(c->dirs);
    glia_memo_close(c->memo);
    glia_scan_free(c->seen);
    if (c->list) glia_models_unref(&c->list->pub);
    (void)pthread_mutex_destroy(&c->lock);
    glia_free(c);
}

const char *glia_catalogue_dir(const glia_catalogue *c, size_t i) { return i < c->n_dirs ? c->dirs[i] : NULL; }

static bool same_files(const glia_scan *a, const glia_scan *b) {
    if (!a || a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        const glia_scan_file *x = &a->files[i], *y = &b->files[i];
        if (x->bytes != y->bytes || x->mtime_ns != y->mtime_ns || strcmp(x->path, y->path) != 0) return false;
    }
    return true;
}

static glia_status refresh_locked(glia_catalogue *c, glia_err *err) {
    glia_scan *s;
    glia_status st = glia_scan_new(&s, (const char *const *)c->dirs, c->n_dirs, c->seen, c->memo, err);
    if (st) return st;
    c->seen_ms = now_ms();
    if (c->list && same_files(c->seen, s)) {
        glia_scan_free(s);
        return GLIA_OK;
    }
    list *l = make_list(s);
    if (!l) {
        glia_scan_free(s);
        return glia_fail(err, GLIA_ENOMEM, "out of memory for the list of models");
    }
    glia_scan_free(c->seen);
    if (c->list) glia_models_unref(&c->list->pub);
    c->seen = s, c->list = l;
    return GLIA_OK;
}

glia_status glia_catalogue_get(glia_catalogue *c, int max_age_ms, const glia_models **out, glia_err *err) {
    glia_status st = GLIA_OK;
    *out = NULL;
    (void)pthread_mutex_lock(&c->lock);
    if (!c->list || now_ms() - c->seen_ms >= max_age_ms) st = refresh_locked(c, err);
    if (!st) {
        atomic_fetch_add(&c->list->refs, 1);
        *out = &c->list->pub;
    }
    (void)pthread_mutex_unlock(&c->lock);
    return st;
}

/* ------------------------------------------------------------------ names */

static bool is_stem(const char *file, const char *name) {
    size_t n = strlen(name);
    return strlen(file) == n + 5 && !strncasecmp(file, name, n);
}

/* How well a file answers to a name: 0 not at all; 1 by its file name; 2 by what it shares with its variants, of which
 * the selected one is meant; 3 by its own key. */
static int answers(const glia_model_file *f, const char *name) {
    int shared = f->selected ? 2 : 0;
    if (!strcasecmp(name, f->key) || !strcmp(name, f->path)) return 3;
    if (!strcasecmp(name, f->base) || !strcasecmp(name, f->folder)) return shared;
    if (!strcasecmp(name, f->file) || is_stem(f->file, name)) return 1;
    size_t n = strlen(f->publisher);
    if (!n || strncasecmp(name, f->publisher, n) != 0 || name[n] != '/') return 0;
    name += n + 1;
    n = strlen(f->folder);
    if (strncasecmp(name, f->folder, n) != 0) return 0;
    if (!name[n]) return shared;
    return name[n] == '/' && (!strcasecmp(name + n + 1, f->file) || is_stem(f->file, name + n + 1));
}

const glia_model_file *glia_models_find(const glia_models *m, const char *name, glia_err *err) {
    const glia_model_file *found = NULL;
    int best = 0;
    size_t n_best = 0;
    char which[320] = "";
    for (size_t i = 0; i < m->n; i++) {
        const glia_model_file *f = &m->items[i];
        int a = answers(f, name);
        if (!a || a < best) continue;
        if (a > best) n_best = 0, which[0] = 0;
        best = a, found = f, n_best++;
        size_t at = strlen(which);
        (void)snprintf(which + at, sizeof which - at, "%s\"%s\"", at ? ", " : "", f->key);
    }
    if (n_best == 1) return found;
    if (!n_best) (void)glia_fail_at(err, GLIA_ENOTFOUND, "model", "no model \"%.120s\" in the model folders", name);
    else (void)glia_fail_at(err, GLIA_EINVAL, "model", "\"%.120s\" could be any of %s: name one", name, which);
    return NULL;
}

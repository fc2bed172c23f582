/* models/scan.c — see scan.h. */
#include "models/scan.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_FILES = 8192, MAX_DEPTH = 5 };

typedef struct walk {
    glia_scan *s;
    size_t cap, n_root; /* n_root: bytes of the model folder's path */
    bool failed, full;
} walk;

static bool grow(walk *w) {
    if (w->s->n < w->cap) return true;
    size_t cap = w->cap ? w->cap * 2 : 32;
    glia_scan_file *more = glia_realloc(w->s->files, cap * sizeof *more);
    if (!more) return false;
    w->s->files = more, w->cap = cap;
    return true;
}

/* "-00002-of-00003" before ".gguf" */
static void name_part(glia_scan_file *f) {
    unsigned part, n;
    f->part = f->n_parts = 1;
    if (f->n_stem <= 15) return;
    const char *tail = f->stem + f->n_stem - 15;
    for (int i = 1; i < 15; i++) {
        bool digit = i < 6 || i > 9;
        if (digit && !isdigit((unsigned char)tail[i])) return;
    }
    if (sscanf(tail, "-%5u-of-%5u", &part, &n) != 2 || !part || part > n) return;
    f->part = part, f->n_parts = n, f->n_stem -= 15;
}

/* The folders between the model folder and the file. */
static void name_folders(glia_scan_file *f, size_t n_root) {
    const char *p = f->path, *end = p + f->n_folder, *begin = p + n_root;
    f->publisher = "";
    if (end <= begin) return;
    const char *slash = end;
    while (slash > begin && slash[-1] != '/') slash--;
    f->model = slash, f->n_model = (size_t)(end - slash);
    if (slash - 1 <= begin) return;
    end = slash - 1, slash = end;
    while (slash > begin && slash[-1] != '/') slash--;
    f->publisher = slash, f->n_publisher = (size_t)(end - slash);
}

static void name_file(glia_scan_file *f, size_t n_root) {
    const char *slash = strrchr(f->path, '/');
    f->n_folder = slash ? (size_t)(slash - f->path) : 0;
    f->stem = slash ? slash + 1 : f->path;
    f->n_stem = strlen(f->stem) - 5;
    name_part(f);
    name_folders(f, n_root);
}

static void add_file(walk *w, char *take_path, const struct stat *sb) {
    if (w->s->n == MAX_FILES) {
        w->full = true;
        glia_free(take_path);
        return;
    }
    if (!grow(w)) {
        w->failed = true;
        glia_free(take_path);
        return;
    }
    glia_scan_file *f = &w->s->files[w->s->n++];
    *f = (glia_scan_file){.path = take_path,
                          .bytes = (uint64_t)sb->st_size,
                          .mtime_ns = (int64_t)sb->st_mtim.tv_sec * 1000000000 + sb->st_mtim.tv_nsec};
    name_file(f, w->n_root);
}

static bool is_gguf(const char *name) {
    size_t n = strlen(name);
    return n > 5 && !strcasecmp(name + n - 5, ".gguf");
}

static void look(walk *w, const char *folder, int depth) {
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && !w->failed && (e = readdir(dir));) {
        struct stat sb;
        if (e->d_name[0] == '.') continue;
        size_t n = strlen(folder) + strlen(e->d_name) + 2;
        char *path = glia_malloc(n);
        if (!path) {
            w->failed = true;
            break;
        }
        (void)snprintf(path, n, "%s/%s", folder, e->d_name);
        if (stat(path, &sb)) {
            glia_free(path);
        } else if (S_ISREG(sb.st_mode) && is_gguf(e->d_name)) {
            add_file(w, path, &sb);
        } else {
            if (S_ISDIR(sb.st_mode) && depth < MAX_DEPTH) look(w, path, depth + 1);
            glia_free(path);
        }
    }
    if (dir) (void)closedir(dir);
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const glia_scan_file *)a)->path, ((const glia_scan_file *)b)->path);
}

static const glia_scan_file *find(const glia_scan *s, const char *path) {
    glia_scan_file key = {.path = (char *)(uintptr_t)path};
    return s && s->n ? bsearch(&key, s->files, s->n, sizeof key, by_path) : NULL;
}

static glia_status read_head(glia_scan_file *f, const glia_scan *before, glia_memo *memo) {
    const glia_scan_file *old = find(before, f->path);
    glia_err err;
    if (old && old->bytes == f->bytes && old->mtime_ns == f->mtime_ns) {
        f->head = old->head, f->bad = old->bad;
        return GLIA_OK;
    }
    if (glia_memo_find(memo, f->path, f->bytes, f->mtime_ns, &f->head, &f->bad)) return GLIA_OK;
    glia_status st = glia_gguf_read(&f->head, f->path, &err);
    if (st == GLIA_ENOMEM) return st;
    f->bad = st != GLIA_OK;
    if (f->bad) glia_log(GLIA_LOG_WARN, "not listed: %s", err.message);
    if (!st || st == GLIA_EINVAL) glia_memo_put(memo, f->path, f->bytes, f->mtime_ns, &f->head, f->bad);
    return GLIA_OK;
}

/* The same file below two of the folders is one file. */
static void drop_twins(glia_scan *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (n && !strcmp(s->files[n - 1].path, s->files[i].path)) glia_free(s->files[i].path);
        else s->files[n++] = s->files[i];
    }
    s->n = n;
}

glia_status glia_scan_new(glia_scan **out, const char *const *dirs, size_t n_dirs, const glia_scan *before,
                          glia_memo *memo, glia_err *err) {
    walk w = {.s = glia_calloc(1, sizeof *w.s)};
    *out = NULL;
    w.failed = !w.s;
    for (size_t i = 0; i < n_dirs && !w.failed; i++) {
        w.n_root = strlen(dirs[i]) + 1;
        look(&w, dirs[i], 0);
    }
    if (!w.failed) {
        if (w.full) glia_log(GLIA_LOG_WARN, "more than %d files in the model folders: the rest is left out", MAX_FILES);
        if (w.s->n) qsort(w.s->files, w.s->n, sizeof *w.s->files, by_path);
        drop_twins(w.s);
        glia_memo_begin(memo);
        for (size_t i = 0; i < w.s->n && !w.failed; i++) w.failed = read_head(&w.s->files[i], before, memo) != GLIA_OK;
        glia_memo_end(memo);
    }
    if (w.failed) {
        glia_scan_free(w.s);
        return glia_fail(err, GLIA_ENOMEM, "out of memory looking through the model folders");
    }
    *out = w.s;
    return GLIA_OK;
}

void glia_scan_free(glia_scan *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) glia_free(s->files[i].path);
    glia_free(s->files);
    glia_free(s);
}

const glia_scan_file *glia_scan_part(const glia_scan *s, const glia_scan_file *first, size_t k) {
    for (size_t i = 0; i < s->n; i++) {
        const glia_scan_file *f = &s->files[i];
        if (f->part == k && f->n_parts == first->n_parts && f->n_folder == first->n_folder &&
            f->n_stem == first->n_stem && !memcmp(f->path, first->path, first->n_folder) &&
            !memcmp(f->stem, first->stem, f->n_stem))
            return f;
    }
    return NULL;
}

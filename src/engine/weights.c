/* engine/weights.c — see weights.h.  Files are mapped when the first of their weights is asked for, and only read. */
#include "engine/weights.h"
#include "base/mem.h"
#include "ggml.h"
#include "gguf.h"
#include "llama.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct entry {
    char name[64];
    int32_t file, type;
    int64_t ne0, ne1;
    uint64_t offset, size;
} entry;

typedef struct part {
    char *path;
    void *at; /* NULL: not mapped yet */
    size_t size;
} part;

struct glia_weights {
    pthread_mutex_t lock; /* parts[].at */
    part *parts;
    int32_t n_parts;
    entry *entries;
    size_t n, cap;
};

static bool add_tensors(glia_weights *w, int32_t file, const struct gguf_context *g) {
    for (int64_t i = 0; i < gguf_get_n_tensors(g); i++) {
        const char *name = gguf_get_tensor_name(g, i);
        const int64_t *ne = gguf_get_tensor_ne(g, i);
        if (strlen(name) >= sizeof w->entries->name || ne[2] * ne[3] != 1) continue;
        if (w->n == w->cap) {
            size_t cap = w->cap ? 2 * w->cap : 64;
            entry *more = glia_realloc(w->entries, cap * sizeof *more);
            if (!more) return false;
            w->entries = more, w->cap = cap;
        }
        entry *e = &w->entries[w->n++];
        *e = (entry){.file = file,
                     .type = (int32_t)gguf_get_tensor_type(g, i),
                     .ne0 = ne[0],
                     .ne1 = ne[1],
                     .offset = gguf_get_data_offset(g) + gguf_get_tensor_offset(g, i),
                     .size = gguf_get_tensor_size(g, i)};
        memcpy(e->name, name, strlen(name) + 1);
    }
    return true;
}

/* The other parts of a split model; one that cannot be read only lacks its weights here: llama.cpp will say so. */
static bool add_parts(glia_weights *w) {
    char prefix[1024], path[1024];
    if (w->n_parts < 2 || llama_split_prefix(prefix, sizeof prefix, w->parts[0].path, 0, w->n_parts) <= 0) return true;
    for (int32_t i = 1; i < w->n_parts; i++) {
        if (llama_split_path(path, sizeof path, prefix, i, w->n_parts) <= 0) continue;
        struct gguf_context *g = gguf_init_from_file(path, (struct gguf_init_params){.no_alloc = true, .ctx = NULL});
        if (!g) continue;
        w->parts[i].path = glia_strdup(path);
        bool ok = w->parts[i].path && add_tensors(w, i, g);
        gguf_free(g);
        if (!ok) return false;
    }
    return true;
}

glia_weights *glia_weights_new(const char *path, const struct gguf_context *first) {
    glia_weights *w = glia_calloc(1, sizeof *w);
    if (!w) return NULL;
    (void)pthread_mutex_init(&w->lock, NULL);
    int64_t key = gguf_find_key(first, "split.count");
    w->n_parts = key >= 0 && gguf_get_kv_type(first, key) == GGUF_TYPE_UINT16 ? gguf_get_val_u16(first, key) : 1;
    if (w->n_parts < 1) w->n_parts = 1;
    w->parts = glia_calloc((size_t)w->n_parts, sizeof *w->parts);
    if (w->parts) w->parts[0].path = glia_strdup(path);
    if (w->parts && w->parts[0].path && add_tensors(w, 0, first) && add_parts(w)) return w;
    glia_weights_free(w);
    return NULL;
}

void glia_weights_free(glia_weights *w) {
    if (!w) return;
    for (int32_t i = 0; w->parts && i < w->n_parts; i++) {
        if (w->parts[i].at) (void)munmap(w->parts[i].at, w->parts[i].size);
        glia_free(w->parts[i].path);
    }
    glia_free(w->parts);
    glia_free(w->entries);
    (void)pthread_mutex_destroy(&w->lock);
    glia_free(w);
}

static bool map_part(part *p) {
    struct stat sb;
    if (p->at || !p->path) return p->at != NULL;
    int fd = open(p->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    if (!fstat(fd, &sb) && sb.st_size > 0) {
        void *at = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (at != MAP_FAILED) p->at = at, p->size = (size_t)sb.st_size;
    }
    (void)close(fd);
    return p->at != NULL;
}

bool glia_weights_map(glia_weights *w, const char *name, glia_weight *out) {
    *out = (glia_weight){0};
    for (size_t i = 0; i < w->n; i++) {
        const entry *e = &w->entries[i];
        if (strcmp(e->name, name) != 0) continue;
        part *p = &w->parts[e->file];
        (void)pthread_mutex_lock(&w->lock);
        bool mapped = glia_derive_reads(e->type) && map_part(p);
        (void)pthread_mutex_unlock(&w->lock);
        if (!mapped || e->offset > p->size || e->size > p->size - e->offset)
            return false;
        /* rows as ggml lays them out must be all of it; floats are read in place */
        if (e->size != ggml_row_size((enum ggml_type)e->type, e->ne0) * (size_t)e->ne1 || e->offset % sizeof(float))
            return false;
        *out = (glia_weight){(const char *)p->at + e->offset, e->type, e->ne0, e->ne1};
        return true;
    }
    return false;
}

bool glia_weight_rows(const glia_weight *w, int64_t from, int64_t to, float *out) {
    if (from < 0 || to > w->ne1 || from > to) return false;
    size_t row = ggml_row_size((enum ggml_type)w->type, w->ne0);
    const char *at = (const char *)w->data + (size_t)from * row;
    if (w->type == GGML_TYPE_F32) {
        memcpy(out, at, (size_t)(to - from) * row);
        return true;
    }
    const struct ggml_type_traits *t = ggml_get_type_traits((enum ggml_type)w->type);
    for (int64_t i = from; i < to; i++, at += row, out += w->ne0) t->to_float(at, out, w->ne0);
    return true;
}

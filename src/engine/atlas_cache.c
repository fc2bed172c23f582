/* engine/atlas_cache.c — see atlas_cache.h. */
#include "engine/atlas_cache.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "ggml-backend.h"
#include "tap/verdict.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SAMPLES = 64, SAMPLE = 4096, CHUNK = 1 << 16, MOST = 16 << 20 };

static void add(EVP_MD_CTX *h, const void *p, size_t n) { (void)EVP_DigestUpdate(h, p, n); }
static void add_text(EVP_MD_CTX *h, const char *s) { add(h, s, strlen(s) + 1); }
static void add_number(EVP_MD_CTX *h, uint64_t v) {
    unsigned char s[8];
    for (int i = 0; i < 8; i++) s[i] = (unsigned char)(v >> (8 * i));
    add(h, s, sizeof s);
}

static bool add_range(EVP_MD_CTX *h, int fd, uint64_t from, uint64_t n, void *chunk) {
    while (n) {
        size_t k = n < CHUNK ? (size_t)n : CHUNK;
        if (glia_io_pread(fd, chunk, k, (off_t)from) != (ssize_t)k) return false;
        add(h, chunk, k);
        from += k, n -= k;
    }
    return true;
}

/* Size, everything before the data, samples of the data. */
static bool add_file(EVP_MD_CTX *h, const char *path, uint64_t header, void *chunk) {
    struct stat sb;
    int fd = glia_io_open(path, O_RDONLY, 0);
    if (fd < 0) return false;
    bool ok = !fstat(fd, &sb);
    uint64_t size = ok ? (uint64_t)sb.st_size : 0;
    if (header > size) header = size;
    add_number(h, size);
    ok = ok && add_range(h, fd, 0, header, chunk);
    uint64_t rest = size - header, step = rest / SAMPLES;
    for (uint64_t i = 0; ok && i < SAMPLES; i++) {
        uint64_t from = header + i * step, n = size - from < SAMPLE ? size - from : SAMPLE;
        ok = add_range(h, fd, from, n, chunk);
    }
    (void)close(fd);
    return ok;
}

static bool add_model(EVP_MD_CTX *h, const glia_model *m) {
    char text[32] = "1", prefix[1024], path[1024];
    (void)llama_model_meta_val_str(m->lm, "split.count", text, sizeof text);
    int n = atoi(text);
    void *chunk = glia_malloc(CHUNK);
    bool ok = chunk != NULL && n >= 0 && n < 10000;
    if (ok && n > 1) ok = llama_split_prefix(prefix, sizeof prefix, m->path, 0, n) > 0;
    for (int i = 0; ok && i < (n > 1 ? n : 1); i++) {
        ok = n <= 1 || llama_split_path(path, sizeof path, prefix, i, n) > 0;
        ok = ok && add_file(h, n > 1 ? path : m->path, i ? CHUNK : m->header_bytes, chunk);
    }
    glia_free(chunk);
    return ok;
}

/* This program itself: another build may prove differently. */
static void add_program(EVP_MD_CTX *h) {
    struct stat sb;
    add_text(h, glia_version());
    add_text(h, glia_llama_version());
    if (stat("/proc/self/exe", &sb)) return;
    add_number(h, (uint64_t)sb.st_size);
    add_number(h, (uint64_t)sb.st_mtim.tv_sec);
    add_number(h, (uint64_t)sb.st_mtim.tv_nsec);
}

static bool make_key(glia_atlas_cache *c, const glia_model *m) {
    EVP_MD_CTX *h = EVP_MD_CTX_new();
    bool ok = h && EVP_DigestInit_ex(h, EVP_sha256(), NULL);
    if (ok) {
        const glia_model_params *p = &m->params;
        add_program(h);
        for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
            add_text(h, ggml_backend_dev_description(ggml_backend_dev_get(i)));
        }
        const int64_t settings[] = {p->n_parallel, p->n_gpu_layers, (int64_t)p->flash, (int64_t)p->kv_type};
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) add_number(h, (uint64_t)settings[i]);
        ok = add_model(h, m) && EVP_DigestFinal_ex(h, c->key, NULL);
    }
    EVP_MD_CTX_free(h);
    return ok;
}

static bool make_folder(const char *path) { return !mkdir(path, 0700) || errno == EEXIST; }

/* The cache folder, made when it is not there. */
static bool folder(char out[900]) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = xdg && xdg[0] == '/'     ? snprintf(out, 900, "%s", xdg)
            : home && home[0] == '/' ? snprintf(out, 900, "%s/.cache", home)
                                     : -1;
    for (int i = 0; i < 3; i++) {
        static const char *const part[] = {"", "/glia", "/atlas"};
        if (n < 0 || n > 860) return false;
        n += snprintf(out + n, 900 - (size_t)n, "%s", part[i]);
        if (!make_folder(out)) return false;
    }
    return true;
}

void glia_atlas_cache_init(glia_atlas_cache *c, const glia_model *m) {
    char dir[900], hex[2 * sizeof c->key + 1];
    *c = (glia_atlas_cache){0};
    if (!m->params.atlas_cache || !folder(dir) || !make_key(c, m)) return;
    c->map = glia_verdict_map(m->atlas);
    for (size_t i = 0; i < sizeof c->key; i++) (void)snprintf(hex + 2 * i, 3, "%02x", c->key[i]);
    c->usable = snprintf(c->path, sizeof c->path, "%s/%s.bin", dir, hex) < (int)sizeof c->path;
}

bool glia_atlas_cache_load(const glia_atlas_cache *c, glia_atlas *at) {
    struct stat sb;
    bool taken = false;
    int fd = c->usable ? glia_io_open(c->path, O_RDONLY | O_NOFOLLOW, 0) : -1;
    if (fd < 0) return false;
    if (!fstat(fd, &sb) && S_ISREG(sb.st_mode) && sb.st_size > 0 && sb.st_size < MOST) {
        size_t n = (size_t)sb.st_size;
        void *bytes = glia_malloc(n);
        taken = bytes && glia_io_pread(fd, bytes, n, 0) == (ssize_t)n && glia_verdict_apply(at, c->key, bytes, n);
        glia_free(bytes);
        if (!taken) glia_log(GLIA_LOG_INFO, "%s is no verdict on this model: proving it anew", c->path);
    }
    (void)close(fd);
    return taken;
}

void glia_atlas_cache_store(const glia_atlas_cache *c, const glia_atlas *at) {
    glia_buf b = {0};
    char part[sizeof c->path + 32];
    if (!c->usable) return;
    glia_verdict_write(at, c->key, c->map, &b);
    (void)snprintf(part, sizeof part, "%s.%ld.part", c->path, (long)getpid());
    int fd = b.failed ? -1 : glia_io_open(part, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && glia_io_write(fd, b.p, b.n) && glia_io_sync(fd);
    if (fd >= 0 && close(fd)) ok = false;
    ok = ok && glia_io_rename(part, c->path);
    if (fd >= 0 && !ok) (void)unlink(part);
    if (!ok) glia_log(GLIA_LOG_INFO, "the proof's verdict could not be kept in %s", c->path);
    glia_buf_clear(&b);
}

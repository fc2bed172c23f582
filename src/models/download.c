/* models/download.c — see download.h. */
#include "models/download.h"
#include "base/err.h"
#include "base/io.h"
#include "base/log.h"
#include "base/mem.h"
#include "store/sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RUNNING = 8, CHUNK = 1 << 20, PATH_BYTES = 4096 };

typedef struct one_file {
    char *from, *to, *part;
    uint64_t bytes;
    char sha256[GLIA_SHA256_HEX]; /* "": not known */
} one_file;

typedef struct job {
    struct job *next;
    glia_downloads *all;
    glia_download_info info; /* locked */
    uint64_t copied;
    double seconds;
    one_file *files;
    size_t n_files;
} job;

struct glia_downloads {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    job *first; /* newest first */
    size_t n_running;
    atomic_bool stopping;
};

static int64_t wall_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static double seconds_now(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static glia_status io_failed(glia_err *err, const char *what, const char *path) {
    int e = errno;
    return glia_fail(err, GLIA_EIO, "cannot %s %s: %s", what, path, strerror(e));
}

/* ------------------------------------------------------------------ one file */

static void add_done(job *j, uint64_t n, double seconds) {
    (void)pthread_mutex_lock(&j->all->lock);
    j->info.done += n;
    if (seconds > 0) {
        j->copied += n, j->seconds += seconds;
        j->info.bytes_per_second = (double)j->copied / j->seconds;
    }
    (void)pthread_mutex_unlock(&j->all->lock);
}

typedef struct copying {
    job *j;
    one_file *f;
    int in, out;
    unsigned char *a, *b; /* [CHUNK] each */
    glia_sha256 *hash;
    uint64_t at;
} copying;

static glia_status check_stop(const copying *c, glia_err *err) {
    return atomic_load(&c->j->all->stopping) ? glia_fail(err, GLIA_ECANCELLED, "the server stopped: ask for it again")
                                             : GLIA_OK;
}

/* How much of the part is the beginning of the source; the rest is cut off. */
static glia_status keep_beginning(copying *c, glia_err *err) {
    struct stat sb;
    if (fstat(c->out, &sb)) return io_failed(err, "read", c->f->part);
    uint64_t n = (uint64_t)sb.st_size < c->f->bytes ? (uint64_t)sb.st_size : c->f->bytes;
    glia_status st = GLIA_OK;
    while (c->at < n && !(st = check_stop(c, err))) {
        size_t k = n - c->at < CHUNK ? (size_t)(n - c->at) : CHUNK;
        ssize_t in = glia_io_pread(c->in, c->a, k, (off_t)c->at), out = glia_io_pread(c->out, c->b, k, (off_t)c->at);
        if (in < 0 || out < 0) return io_failed(err, "read", in < 0 ? c->f->from : c->f->part);
        if (in != (ssize_t)k || out != (ssize_t)k || memcmp(c->a, c->b, k) != 0) break;
        if (!glia_sha256_add(c->hash, c->a, k)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
        c->at += k;
    }
    if (st) return st;
    add_done(c->j, c->at, 0);
    if (ftruncate(c->out, (off_t)c->at) || lseek(c->out, (off_t)c->at, SEEK_SET) < 0)
        return io_failed(err, "write", c->f->part);
    return GLIA_OK;
}

static glia_status copy_rest(copying *c, glia_err *err) {
    while (c->at < c->f->bytes) {
        glia_status st = check_stop(c, err);
        if (st) return st;
        double began = seconds_now();
        size_t k = c->f->bytes - c->at < CHUNK ? (size_t)(c->f->bytes - c->at) : CHUNK;
        ssize_t n = glia_io_pread(c->in, c->a, k, (off_t)c->at);
        if (n < 0) return io_failed(err, "read", c->f->from);
        if (n != (ssize_t)k) return glia_fail(err, GLIA_EIO, "%s became shorter while it was copied", c->f->from);
        if (!glia_io_write(c->out, c->a, k)) return io_failed(err, "write", c->f->part);
        if (!glia_sha256_add(c->hash, c->a, k)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
        c->at += k;
        add_done(c->j, k, seconds_now() - began + 1e-9);
    }
    return GLIA_OK;
}

/* The part becomes the file. */
static glia_status seal(copying *c, glia_err *err) {
    char hex[GLIA_SHA256_HEX];
    if (!glia_sha256_hex(c->hash, hex)) return glia_fail(err, GLIA_ENOMEM, "out of memory for a checksum");
    if (c->f->sha256[0] && strcasecmp(hex, c->f->sha256) != 0) {
        (void)unlink(c->f->part);
        return glia_fail(err, GLIA_EINVAL, "%s has the SHA-256 %s, not %s: the copy is thrown away", c->f->from, hex,
                         c->f->sha256);
    }
    if (!glia_io_sync(c->out)) return io_failed(err, "write", c->f->part);
    if (!glia_io_rename(c->f->part, c->f->to)) return io_failed(err, "rename", c->f->part);
    return GLIA_OK;
}

static bool is_there(const one_file *f) {
    struct stat sb;
    return !stat(f->to, &sb) && S_ISREG(sb.st_mode) && (uint64_t)sb.st_size == f->bytes;
}

static glia_status copy_file(job *j, one_file *f, glia_err *err) {
    if (is_there(f)) {
        add_done(j, f->bytes, 0);
        return GLIA_OK;
    }
    copying c = {.j = j, .f = f, .in = -1, .out = -1};
    glia_status st = GLIA_OK;
    c.a = glia_malloc(CHUNK), c.b = glia_malloc(CHUNK), c.hash = glia_sha256_new();
    if (!c.a || !c.b || !c.hash) st = glia_fail(err, GLIA_ENOMEM, "out of memory for a copy");
    else if ((c.in = glia_io_open(f->from, O_RDONLY, 0)) < 0) st = io_failed(err, "open", f->from);
    else if ((c.out = glia_io_open(f->part, O_RDWR | O_CREAT, 0666)) < 0) st = io_failed(err, "create", f->part);
    if (!st) st = keep_beginning(&c, err);
    if (!st) st = copy_rest(&c, err);
    if (!st) st = seal(&c, err);
    if (c.in >= 0) (void)close(c.in);
    if (c.out >= 0) (void)close(c.out);
    glia_sha256_free(c.hash);
    glia_free(c.a);
    glia_free(c.b);
    return st;
}

/* ------------------------------------------------------------------ jobs */

static void free_job(job *j) {
    for (size_t i = 0; i < j->n_files; i++) {
        glia_free(j->files[i].from);
        glia_free(j->files[i].to);
        glia_free(j->files[i].part);
    }
    glia_free(j->files);
    glia_free(j);
}

static void *run(void *arg) {
    job *j = arg;
    glia_downloads *d = j->all;
    glia_err err = {0};
    glia_status st = GLIA_OK;
    for (size_t i = 0; i < j->n_files && !st; i++) st = copy_file(j, &j->files[i], &err);
    if (st) glia_log(GLIA_LOG_WARN, "download %s: %s", j->info.id, err.message);
    (void)pthread_mutex_lock(&d->lock);
    j->info.state = st ? GLIA_DOWNLOAD_FAILED : GLIA_DOWNLOAD_COMPLETED;
    j->info.err = err;
    j->info.ended_ms = wall_ms();
    d->n_running--;
    (void)pthread_cond_broadcast(&d->ended);
    (void)pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* "file.sha256" beside the source: 64 digits, whatever follows. */
static void read_sum(one_file *f) {
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s.sha256", f->from) >= (int)sizeof path) return;
    FILE *s = fopen(path, "re");
    if (!s) return;
    if (fscanf(s, "%64[0-9a-fA-F]", f->sha256) != 1 || strlen(f->sha256) != 64) f->sha256[0] = 0;
    (void)fclose(s);
}

static bool add_file(job *j, const char *from, const char *folder) {
    struct stat sb;
    char path[PATH_BYTES];
    const char *slash = strrchr(from, '/'), *name = slash ? slash + 1 : from;
    one_file *f = &j->files[j->n_files++];
    f->from = glia_strdup(from);
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    f->to = glia_strdup(path);
    (void)snprintf(path, sizeof path, "%s/.%s.part", folder, name);
    f->part = glia_strdup(path);
    if (!f->from || !f->to || !f->part) return false;
    f->bytes = !stat(from, &sb) ? (uint64_t)sb.st_size : 0;
    j->info.total += f->bytes;
    read_sum(f);
    return true;
}

/* "dir/m-00001-of-00003.gguf" → part k. */
static bool name_part(char *out, size_t cap, const char *first, size_t k) {
    size_t n = strlen(first);
    if (n < 20 || n >= cap) return false;
    memcpy(out, first, n + 1);
    char digits[8];
    (void)snprintf(digits, sizeof digits, "%05zu", k % 100000);
    memcpy(out + n - 19, digits, 5); /* "00001-of-00003.gguf" has 19 letters */
    return true;
}

static bool add_files(job *j, const glia_model_file *from, const char *folder, const char *sha256) {
    char path[PATH_BYTES];
    if (!(j->files = glia_calloc(from->n_parts + 1, sizeof *j->files))) return false;
    if (!add_file(j, from->path, folder)) return false;
    if (sha256) (void)snprintf(j->files[0].sha256, sizeof j->files[0].sha256, "%s", sha256);
    for (size_t k = 2; k <= from->n_parts; k++) {
        if (!name_part(path, sizeof path, from->path, k) || !add_file(j, path, folder)) return false;
    }
    return !from->mmproj || add_file(j, from->mmproj, folder);
}

static bool make_folders(char *path) {
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        bool ok = !mkdir(path, 0777) || errno == EEXIST;
        *p = '/';
        if (!ok) return false;
    }
    return !mkdir(path, 0777) || errno == EEXIST;
}

static glia_status make_job(job **out, glia_downloads *d, const glia_model_file *from, const char *folder,
                            const char *sha256, glia_err *err) {
    char path[PATH_BYTES];
    unsigned char random[5] = {0};
    job *j = *out = NULL;
    const char *publisher = from->publisher[0] ? from->publisher : "local";
    if (snprintf(path, sizeof path, "%s/%s/%s", folder, publisher, from->folder) >= (int)sizeof path - 64)
        return glia_fail(err, GLIA_EINVAL, "the path of the model folder is too long");
    if (!make_folders(path)) return io_failed(err, "make the folder", path);
    if (!(j = glia_calloc(1, sizeof *j)) || !add_files(j, from, path, sha256)) {
        if (j) free_job(j);
        return glia_fail(err, GLIA_ENOMEM, "out of memory for a download");
    }
    j->all = d;
    (void)!getrandom(random, sizeof random, 0);
    (void)snprintf(j->info.id, sizeof j->info.id, "job_%02x%02x%02x%02x%02x", random[0], random[1], random[2],
                   random[3], random[4]);
    j->info.started_ms = wall_ms();
    *out = j;
    return GLIA_OK;
}

static bool all_there(const job *j) {
    for (size_t i = 0; i < j->n_files; i++) {
        if (!is_there(&j->files[i])) return false;
    }
    return true;
}

static job *same_place_locked(glia_downloads *d, const job *j) {
    for (job *k = d->first; k; k = k->next) {
        if (k->info.state == GLIA_DOWNLOAD_RUNNING && !strcmp(k->files[0].to, j->files[0].to)) return k;
    }
    return NULL;
}

static void forget_old_locked(glia_downloads *d) {
    size_t n = 0;
    for (job **p = &d->first; *p;) {
        job *k = *p;
        if (++n > GLIA_DOWNLOADS_KEPT && k->info.state != GLIA_DOWNLOAD_RUNNING) {
            *p = k->next;
            free_job(k);
        } else {
            p = &k->next;
        }
    }
}

static glia_status start_locked(glia_downloads *d, job *j, glia_err *err) {
    pthread_t t;
    pthread_attr_t a;
    if (d->n_running >= MAX_RUNNING) return glia_fail(err, GLIA_EBUSY, "%d downloads run already", (int)MAX_RUNNING);
    (void)pthread_attr_init(&a);
    (void)pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    int rc = pthread_create(&t, &a, run, j);
    (void)pthread_attr_destroy(&a);
    if (rc) return glia_fail(err, GLIA_EUNAVAILABLE, "no thread for a download: try again later");
    d->n_running++;
    j->next = d->first, d->first = j;
    forget_old_locked(d);
    return GLIA_OK;
}

glia_status glia_download_start(glia_downloads *d, const glia_model_file *from, const char *folder, const char *sha256,
                                glia_download_info *out, bool *already, glia_err *err) {
    job *j;
    *already = false;
    glia_status st = make_job(&j, d, from, folder, sha256, err);
    if (st) return st;
    if (all_there(j)) {
        *already = true;
        free_job(j);
        return GLIA_OK;
    }
    (void)pthread_mutex_lock(&d->lock);
    job *same = same_place_locked(d, j);
    if (!same) st = start_locked(d, j, err);
    if (!st) *out = same ? same->info : j->info;
    (void)pthread_mutex_unlock(&d->lock);
    if (same || st) free_job(j);
    return st;
}

bool glia_download_get(glia_downloads *d, const char *id, glia_download_info *out) {
    bool found = false;
    (void)pthread_mutex_lock(&d->lock);
    for (const job *j = d->first; j && !found; j = j->next) {
        if (!strcmp(j->info.id, id)) *out = j->info, found = true;
    }
    (void)pthread_mutex_unlock(&d->lock);
    return found;
}

glia_downloads *glia_downloads_new(void) {
    glia_downloads *d = glia_calloc(1, sizeof *d);
    if (!d) return NULL;
    (void)pthread_mutex_init(&d->lock, NULL);
    (void)pthread_cond_init(&d->ended, NULL);
    atomic_init(&d->stopping, false);
    return d;
}

void glia_downloads_free(glia_downloads *d) {
    if (!d) return;
    atomic_store(&d->stopping, true);
    (void)pthread_mutex_lock(&d->lock);
    while (d->n_running) (void)pthread_cond_wait(&d->ended, &d->lock);
    (void)pthread_mutex_unlock(&d->lock);
    while (d->first) {
        job *j = d->first;
        d->first = j->next;
        free_job(j);
    }
    (void)pthread_cond_destroy(&d->ended);
    (void)pthread_mutex_destroy(&d->lock);
    glia_free(d);
}

/* store/filehash.c — see filehash.h. */
#include "store/filehash.h"
#include "store/newfile.h"
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

enum { N_KNOWN = 8 };

typedef struct known {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec modified, changed;
    char sha256[GLIA_SHA256_HEX];
} known;

static struct {
    pthread_mutex_t lock;
    known file[N_KNOWN];
    size_t next; /* the oldest; an empty one has no hash */
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool same_time(const struct timespec *a, const struct timespec *b) {
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool same_file(const known *a, const known *b) {
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && same_time(&a->modified, &b->modified) &&
           same_time(&a->changed, &b->changed);
}

static bool identify(const char *path, known *out) {
    struct stat s;
    if (stat(path, &s)) return false;
    *out = (known){.dev = s.st_dev, .ino = s.st_ino, .size = s.st_size, .modified = s.st_mtim, .changed = s.st_ctim};
    return true;
}

static bool recall(const known *file, char out[GLIA_SHA256_HEX]) {
    bool found = false;
    pthread_mutex_lock(&all.lock);
    for (size_t i = 0; i < N_KNOWN && !found; i++) {
        found = all.file[i].sha256[0] && same_file(&all.file[i], file);
        if (found) memcpy(out, all.file[i].sha256, GLIA_SHA256_HEX);
    }
    pthread_mutex_unlock(&all.lock);
    return found;
}

glia_status glia_filehash(const char *path, char out[GLIA_SHA256_HEX], bool (*stop)(void *ud), void *ud,
                          glia_err *err) {
    known before, after;
    bool identified = identify(path, &before);
    if (identified && recall(&before, out)) return GLIA_OK;
    glia_status st = glia_file_sha256(path, out, stop, ud, err);
    /* a file that changed while it was read has no one hash */
    if (st || !identified || !identify(path, &after) || !same_file(&before, &after)) return st;
    memcpy(after.sha256, out, GLIA_SHA256_HEX);
    pthread_mutex_lock(&all.lock);
    all.file[all.next++ % N_KNOWN] = after;
    pthread_mutex_unlock(&all.lock);
    return GLIA_OK;
}

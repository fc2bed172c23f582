/* store/hasher.c — see hasher.h.
 *
 *   idle ──begin──► given ──thread, or end itself──► done ──end──► idle */
#include "store/hasher.h"
#include "base/mem.h"
#include "glia.h"
#include <pthread.h>

enum { WORTH_A_THREAD = 1 << 20 };

struct glia_hasher {
    glia_sha256 *hash;
    const void *p; /* [n] the piece */
    size_t n;
    bool here;        /* the piece is hashed by end */
    bool tried, runs; /* the thread: created once, lives until free */
    pthread_t thread;
    pthread_mutex_t mu; /* around the rest; while given, hash, p and n are the thread's */
    pthread_cond_t changed;
    bool given, ok, stop;
};

glia_hasher *glia_hasher_new(void) {
    glia_hasher *h = glia_calloc(1, sizeof *h);
    if (!h) return NULL;
    (void)pthread_mutex_init(&h->mu, NULL);
    (void)pthread_cond_init(&h->changed, NULL);
    if ((h->hash = glia_sha256_new())) return h;
    glia_hasher_free(h);
    return NULL;
}

static void *hash_main(void *arg) {
    glia_hasher *h = arg;
    pthread_mutex_lock(&h->mu);
    for (;;) {
        while (!h->given && !h->stop) pthread_cond_wait(&h->changed, &h->mu);
        if (!h->given) break;
        pthread_mutex_unlock(&h->mu);
        bool ok = glia_sha256_add(h->hash, h->p, h->n);
        pthread_mutex_lock(&h->mu);
        h->ok = ok, h->given = false;
        pthread_cond_broadcast(&h->changed);
    }
    pthread_mutex_unlock(&h->mu);
    return NULL;
}

void glia_hasher_begin(glia_hasher *h, const void *p, size_t n) {
    h->p = p, h->n = n;
    if (n >= WORTH_A_THREAD && !h->tried) h->tried = true, h->runs = !pthread_create(&h->thread, NULL, hash_main, h);
    h->here = n < WORTH_A_THREAD || !h->runs;
    if (h->here) return;
    pthread_mutex_lock(&h->mu);
    h->given = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mu);
}

bool glia_hasher_end(glia_hasher *h) {
    if (h->here) return glia_sha256_add(h->hash, h->p, h->n);
    pthread_mutex_lock(&h->mu);
    while (h->given) pthread_cond_wait(&h->changed, &h->mu);
    bool ok = h->ok;
    pthread_mutex_unlock(&h->mu);
    return ok;
}

bool glia_hasher_hex(const glia_hasher *h, char out[GLIA_SHA256_HEX]) { return glia_sha256_hex(h->hash, out); }

void glia_hasher_free(glia_hasher *h) {
    if (!h) return;
    if (h->runs) {
        pthread_mutex_lock(&h->mu);
        h->stop = true;
        pthread_cond_broadcast(&h->changed);
        pthread_mutex_unlock(&h->mu);
        (void)pthread_join(h->thread, NULL);
    }
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->mu);
    glia_sha256_free(h->hash);
    glia_free(h);
}

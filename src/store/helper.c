/* store/helper.c — see helper.h.
 *
 *   idle ──begin──► given ──thread, or end itself──► done ──end──► idle */
#include "store/helper.h"
#include "base/mem.h"
#include "glia.h"
#include <errno.h>
#include <pthread.h>

enum { WORTH_A_THREAD = 1 << 20 };

struct glia_helper {
    glia_helper_work work;
    void *ud;
    const void *p; /* [n] the piece */
    size_t n;
    bool begun, here; /* begun: no end yet; here: end works on the piece itself */
    bool tried, runs; /* the thread: created once, lives until free */
    pthread_t thread;
    pthread_mutex_t mu; /* around the rest; while given, p, n and what the work touches are the thread's */
    pthread_cond_t changed;
    bool given, ok, stop;
    int error;
};

glia_helper *glia_helper_new(glia_helper_work work, void *ud) {
    glia_helper *h = glia_calloc(1, sizeof *h);
    if (!h) return NULL;
    h->work = work, h->ud = ud;
    (void)pthread_mutex_init(&h->mu, NULL);
    (void)pthread_cond_init(&h->changed, NULL);
    return h;
}

static void *help(void *arg) {
    glia_helper *h = arg;
    pthread_mutex_lock(&h->mu);
    for (;;) {
        while (!h->given && !h->stop) pthread_cond_wait(&h->changed, &h->mu);
        if (!h->given) break;
        pthread_mutex_unlock(&h->mu);
        bool ok = h->work(h->ud, h->p, h->n);
        int error = errno;
        pthread_mutex_lock(&h->mu);
        h->ok = ok, h->error = error, h->given = false;
        pthread_cond_broadcast(&h->changed);
    }
    pthread_mutex_unlock(&h->mu);
    return NULL;
}

void glia_helper_begin(glia_helper *h, const void *p, size_t n) {
    h->p = p, h->n = n, h->begun = true;
    if (n >= WORTH_A_THREAD && !h->tried) h->tried = true, h->runs = !pthread_create(&h->thread, NULL, help, h);
    h->here = n < WORTH_A_THREAD || !h->runs;
    if (h->here) return;
    pthread_mutex_lock(&h->mu);
    h->given = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mu);
}

bool glia_helper_end(glia_helper *h) {
    if (!h->begun) return true;
    h->begun = false;
    if (h->here) return h->work(h->ud, h->p, h->n);
    pthread_mutex_lock(&h->mu);
    while (h->given) pthread_cond_wait(&h->changed, &h->mu);
    bool ok = h->ok;
    int error = h->error;
    pthread_mutex_unlock(&h->mu);
    errno = error;
    return ok;
}

void glia_helper_free(glia_helper *h) {
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
    glia_free(h);
}

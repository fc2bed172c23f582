/* api/store.c — see store.h. */
#include "api/store.h"
#include "base/err.h"
#include "base/mem.h"
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REMEMBERED = 512 }; /* runs and their tasks; as many as tasks are kept, and more */

typedef struct pairing {
    char run[GLIA_RUN_ID], task[GLIA_TASK_ID];
} pairing;

struct glia_store {
    pthread_mutex_t mu;
    pthread_cond_t idle; /* n_holds fell to 0 */
    size_t n_holds;
    char *folder; /* NULL: the default one */
    uint64_t limit;
    char **data_dirs; /* [n] real paths */
    size_t n_data_dirs;
    glia_runs *runs; /* NULL: not opened yet */
    pairing *pairs;  /* ring of REMEMBERED; NULL: none yet */
    size_t n_pairs;  /* ever */
};

glia_store *glia_store_new(const char *folder, uint64_t limit, const char *const *data_dirs, size_t n) {
    glia_store *s = glia_calloc(1, sizeof *s);
    if (!s) return NULL;
    (void)pthread_mutex_init(&s->mu, NULL);
    (void)pthread_cond_init(&s->idle, NULL);
    s->limit = limit;
    bool ok = (!folder || (s->folder = glia_strdup(folder))) && (s->data_dirs = glia_calloc(n, sizeof *s->data_dirs));
    for (size_t i = 0; ok && i < n; i++) {
        char full[PATH_MAX]; /* a folder that is not there now permits nothing */
        ok = (s->data_dirs[i] = glia_strdup(realpath(data_dirs[i], full) ? full : data_dirs[i])) != NULL;
        s->n_data_dirs++;
    }
    if (ok) return s;
    glia_store_free(s);
    return NULL;
}

void glia_store_free(glia_store *s) {
    if (!s) return;
    (void)pthread_mutex_lock(&s->mu);
    while (s->n_holds) (void)pthread_cond_wait(&s->idle, &s->mu);
    (void)pthread_mutex_unlock(&s->mu);
    glia_runs_close(s->runs);
    for (size_t i = 0; i < s->n_data_dirs; i++) glia_free(s->data_dirs[i]);
    glia_free(s->data_dirs);
    glia_free(s->pairs);
    glia_free(s->folder);
    (void)pthread_cond_destroy(&s->idle);
    (void)pthread_mutex_destroy(&s->mu);
    glia_free(s);
}

void glia_store_hold(glia_store *s) {
    (void)pthread_mutex_lock(&s->mu);
    s->n_holds++;
    (void)pthread_mutex_unlock(&s->mu);
}

void glia_store_release(glia_store *s) {
    (void)pthread_mutex_lock(&s->mu);
    if (!--s->n_holds) (void)pthread_cond_broadcast(&s->idle);
    (void)pthread_mutex_unlock(&s->mu);
}

glia_status glia_store_runs(glia_store *s, glia_runs **out, glia_err *err) {
    char folder[PATH_MAX];
    glia_status st = GLIA_OK;
    *out = NULL;
    if (!s) return glia_fail(err, GLIA_EUNAVAILABLE, "this server keeps no runs");
    (void)pthread_mutex_lock(&s->mu);
    if (!s->runs) {
        if (s->folder) (void)snprintf(folder, sizeof folder, "%s", s->folder);
        else if (!glia_runs_default_folder(folder, sizeof folder))
            st = glia_fail(err, GLIA_EUNAVAILABLE, "no folder for runs: start the server with --store DIR");
        if (!st) st = glia_runs_open(&s->runs, folder, s->limit, err);
    }
    *out = s->runs;
    (void)pthread_mutex_unlock(&s->mu);
    return st;
}

/* ------------------------------------------------------------------ paths */

static bool is_under(const char *path, const char *folder) {
    size_t n = strlen(folder);
    while (n && folder[n - 1] == '/') n--;
    return !strncmp(path, folder, n) && (!path[n] || path[n] == '/');
}

/* realpath of a file that may not be there yet: that of its folder, and its name. */
static bool real_new(const char *path, char full[PATH_MAX]) {
    char copy[PATH_MAX];
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    if (n >= sizeof copy) return errno = ENAMETOOLONG, false;
    memcpy(copy, path, n);
    copy[n] = 0;
    if (realpath(copy, full)) return true;
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : copy;
    if (errno != ENOENT || !slash || !strcmp(name, "..") || !strcmp(name, ".")) return false;
    *slash = 0;
    if (!realpath(copy[0] ? copy : "/", full)) return false;
    size_t at = strlen(full);
    return at + 1 + strlen(name) < PATH_MAX && snprintf(full + at, PATH_MAX - at, "%s%s", at > 1 ? "/" : "", name) > 0;
}

glia_status glia_store_path(const glia_store *s, const char *path, bool exists, const char *param, char **out,
                            glia_err *err) {
    char full[PATH_MAX];
    *out = NULL;
    if (!s || !s->n_data_dirs) {
        return glia_fail_at(err, GLIA_EFORBIDDEN, param,
                            "%s names a path of the server: allow its folder with --data-dir DIR, or leave it out",
                            param);
    }
    if (path[0] != '/') return glia_fail_at(err, GLIA_EINVAL, param, "%s must be an absolute path", param);
    bool there = exists ? realpath(path, full) != NULL : real_new(path, full);
    int why = errno;
    bool allowed = false;
    for (size_t i = 0; there && i < s->n_data_dirs && !allowed; i++) allowed = is_under(full, s->data_dirs[i]);
    /* outside of the folders nobody learns what there is */
    for (size_t i = 0; !there && i < s->n_data_dirs && !allowed; i++)
        allowed = is_under(path, s->data_dirs[i]) && !strstr(path, "..");
    if (!allowed)
        return glia_fail_at(err, GLIA_EFORBIDDEN, param, "%s is not in a folder that --data-dir allows", param);
    if (!there) return glia_fail_at(err, GLIA_EINVAL, param, "%s: %.200s: %s", param, path, strerror(why));
    return (*out = glia_strdup(full)) ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for a path");
}

/* ------------------------------------------------------------------ tasks */

bool glia_store_task_of(glia_store *s, const char *run, char task[GLIA_TASK_ID]) {
    bool found = false;
    task[0] = 0;
    if (!s) return false;
    (void)pthread_mutex_lock(&s->mu);
    for (size_t i = s->n_pairs; s->pairs && i-- > 0 && s->n_pairs - i <= REMEMBERED && !found;) {
        const pairing *p = &s->pairs[i % REMEMBERED];
        if ((found = !strcmp(p->run, run))) memcpy(task, p->task, GLIA_TASK_ID);
    }
    (void)pthread_mutex_unlock(&s->mu);
    return found;
}

glia_status glia_store_set_task(glia_store *s, const char *run, const char *task, glia_err *err) {
    (void)pthread_mutex_lock(&s->mu);
    if (!s->pairs) s->pairs = glia_calloc(REMEMBERED, sizeof *s->pairs);
    bool ok = s->pairs != NULL;
    if (ok) {
        pairing *p = &s->pairs[s->n_pairs++ % REMEMBERED];
        (void)snprintf(p->run, sizeof p->run, "%s", run);
        (void)snprintf(p->task, sizeof p->task, "%s", task);
    }
    (void)pthread_mutex_unlock(&s->mu);
    return ok ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for a task");
}

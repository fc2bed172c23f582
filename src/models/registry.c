/* models/registry.c — see registry.h: names, holds, lists, the beginning and the end of instances. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/instance.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_AGAIN_MS = 2000, PATIENCE_MS = 30000 };

int64_t models_now_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void registry_wait_locked(glia_registry *r, int64_t until_ms) {
    if (until_ms == INT64_MAX) {
        (void)pthread_cond_wait(&r->changed, &r->lock);
        return;
    }
    struct timespec t = {until_ms / 1000, until_ms % 1000 * 1000000};
    (void)pthread_cond_timedwait(&r->changed, &r->lock, &t);
}

/* ------------------------------------------------------------------ instances */

void instance_unref_locked(instance *in) {
    if (--in->refs) return;
    glia_free(in->id);
    glia_free(in->real);
    glia_model_file_clear(&in->file);
    glia_free(in);
}

void instance_notify_locked(instance *in) {
    for (glia_watch *w = in->watches; w; w = w->next) {
        if (w->on_change) w->on_change(w->ud);
    }
    (void)pthread_cond_broadcast(&in->r->changed);
}

void instance_drain_locked(instance *in) {
    in->state = GLIA_LOAD_DRAINING;
    instance_notify_locked(in);
}

void instance_remove_locked(instance *in) {
    for (instance **p = &in->r->first; *p; p = &(*p)->next) {
        if (*p != in) continue;
        *p = in->next;
        break;
    }
    in->state = GLIA_LOAD_GONE;
    instance_notify_locked(in);
    instance_unref_locked(in);
}

bool instance_evictable(const instance *in) { return in->jit || in->ttl_ms > 0; }

static bool is_usable(const instance *in) { return in->state <= GLIA_LOAD_READY; }

const char *glia_registry_unalias(const glia_registry *r, const char *name) {
    for (size_t i = 0; name && i < r->params.n_aliases; i++) {
        if (!strcmp(r->aliases[i].name, name)) return r->aliases[i].model;
    }
    return name;
}

static instance *find_id_locked(glia_registry *r, const char *id) {
    for (instance *in = r->first; in; in = in->next) {
        if (is_usable(in) && !strcmp(in->id, id)) return in;
    }
    return NULL;
}

/* READY before LOADING. */
static instance *find_file_locked(glia_registry *r, const char *real) {
    instance *found = NULL;
    for (instance *in = r->first; real && in; in = in->next) {
        if (!is_usable(in) || strcmp(in->real, real) != 0) continue;
        if (in->state == GLIA_LOAD_READY) return in;
        if (!found) found = in;
    }
    return found;
}

/* ------------------------------------------------------------------ targets */

static void clear_target(target *t) {
    glia_model_file_clear(&t->file);
    glia_free(t->real);
    *t = (target){0};
}

static char *real_of(const char *path) {
    char *real = realpath(path, NULL), *p = glia_strdup(real ? real : path);
    free(real);
    return p;
}

static glia_status finish_target(target *t, glia_status st, glia_err *err) {
    if (!st && !(t->real = real_of(t->file.path))) st = glia_fail(err, GLIA_ENOMEM, "out of memory");
    if (st) clear_target(t);
    return st;
}

static glia_status target_of_file(target *t, const glia_model_file *f, glia_err *err) {
    if (f->problem) {
        return glia_fail_at(err, GLIA_EINVAL, "model", "\"%.120s\" cannot be loaded: %s", f->key, f->problem);
    }
    return finish_target(t, glia_model_file_copy(&t->file, f, err), err);
}

/* A file that no model folder knows. */
static glia_status target_of_path(target *t, const char *path, glia_err *err) {
    return finish_target(t, glia_model_file_of_path(&t->file, path, err), err);
}

static bool is_file(const char *path) {
    struct stat sb;
    return strchr(path, '/') && !stat(path, &sb) && S_ISREG(sb.st_mode);
}

/* name: not an alias any more.  paths: a path outside of the model folders will do. */
static glia_status resolve(glia_registry *r, const char *name, bool paths, target *t, glia_err *err) {
    const glia_models *files = NULL;
    const glia_model_file *f = NULL;
    glia_status st = GLIA_OK;
    glia_err why = {0};
    *t = (target){0};
    (void)glia_fail_at(&why, GLIA_ENOTFOUND, "model", "no model \"%.120s\"", name);
    char *real = paths && is_file(name) ? real_of(name) : NULL;
    if (r->params.catalogue) st = glia_catalogue_get(r->params.catalogue, LOOK_AGAIN_MS, &files, err);
    if (!st && files) f = glia_models_find(files, real ? real : name, &why);
    if (!st && f) st = target_of_file(t, f, err);
    else if (!st && real) st = target_of_path(t, name, err);
    else if (!st) {
        st = why.status == GLIA_ENOTFOUND ? GLIA_EMODEL : why.status;
        if (err) *err = why, err->status = st;
    }
    glia_models_unref(files);
    glia_free(real);
    return st;
}

/* ------------------------------------------------------------------ what is wrong with a name */

static void add_name(char *list, size_t cap, const char *name) {
    size_t at = strlen(list);
    if (at + strlen(name) + 8 < cap) (void)snprintf(list + at, cap - at, "%s\"%s\"", at ? ", " : "", name);
}

static void names_of_files(glia_registry *r, char *list, size_t cap) {
    const glia_models *files = NULL;
    if (!r->params.catalogue || glia_catalogue_get(r->params.catalogue, LOOK_AGAIN_MS, &files, NULL)) return;
    for (size_t i = 0; i < files->n && i < 8; i++) add_name(list, cap, files->items[i].key);
    glia_models_unref(files);
}

/* Why no READY model answers to name (NULL: the default). */
static glia_status explain(glia_registry *r, const char *name, glia_err *err) {
    char loaded[200] = "", there[200] = "";
    bool loading = false;
    (void)pthread_mutex_lock(&r->lock);
    for (const instance *in = r->first; in; in = in->next) {
        if (in->state == GLIA_LOAD_READY) add_name(loaded, sizeof loaded, in->id);
        if (in->state == GLIA_LOAD_LOADING) loading = true;
    }
    (void)pthread_mutex_unlock(&r->lock);
    if (loading && !loaded[0]) return glia_fail(err, GLIA_EUNAVAILABLE, "the model is still loading, try again");
    target t;
    glia_err why;
    glia_status st = name ? resolve(r, glia_registry_unalias(r, name), false, &t, &why) : GLIA_EUNAVAILABLE;
    if (name && !st) {
        clear_target(&t);
        return glia_fail_at(err, GLIA_EMODEL, "model",
                            "\"%.120s\" is not loaded: load it with POST /api/v1/models/load%s", name,
                            r->params.jit ? ", or name it in a request" : ", or start the server with --jit");
    }
    if (name && st != GLIA_EMODEL) {
        if (err) *err = why;
        return st;
    }
    names_of_files(r, there, sizeof there);
    if (!name && !there[0]) return glia_fail(err, GLIA_EUNAVAILABLE, "no model is loaded");
    if (!name) return glia_fail(err, GLIA_EUNAVAILABLE, "no model is loaded: name one in \"model\": %s", there);
    if (!loaded[0] && !there[0]) return glia_fail(err, GLIA_EUNAVAILABLE, "no model is loaded");
    return glia_fail_at(err, GLIA_EMODEL, "model", "no model \"%.120s\" here; %s%s%s%s%s", name,
                        loaded[0] ? "loaded: " : "", loaded, loaded[0] && there[0] ? "; " : "",
                        there[0] ? "in the model folders: " : "", there);
}

/* ------------------------------------------------------------------ holds */

static instance *default_locked(glia_registry *r, bool loading_too) {
    for (instance *in = r->first; in; in = in->next) {
        if (in->state == GLIA_LOAD_READY || (loading_too && in->state == GLIA_LOAD_LOADING)) return in;
    }
    return NULL;
}

static void touch_locked(instance *in) {
    in->used_ms = models_now_ms();
    in->used_at = (int64_t)time(NULL);
}

static glia_model *hold_locked(instance *in) {
    if (!in || in->state != GLIA_LOAD_READY) return NULL;
    in->holds++;
    touch_locked(in);
    return in->model;
}

/* The file behind a name, without links; NULL: none. */
static char *real_of_name(glia_registry *r, const char *name) {
    target t;
    if (resolve(r, name, true, &t, NULL)) return NULL;
    char *real = t.real;
    t.real = NULL;
    clear_target(&t);
    return real;
}

glia_status glia_registry_hold(glia_registry *r, const char *name, glia_model **out, glia_err *err) {
    const char *id = glia_registry_unalias(r, name);
    (void)pthread_mutex_lock(&r->lock);
    *out = hold_locked(id ? find_id_locked(r, id) : default_locked(r, false));
    (void)pthread_mutex_unlock(&r->lock);
    if (*out) return GLIA_OK;
    if (id) { /* another spelling? */
        char *real = real_of_name(r, id);
        (void)pthread_mutex_lock(&r->lock);
        if (real) *out = hold_locked(find_file_locked(r, real));
        (void)pthread_mutex_unlock(&r->lock);
        glia_free(real);
        if (*out) return GLIA_OK;
    }
    return explain(r, name, err);
}

void glia_registry_release(glia_registry *r, glia_model *m) {
    if (!m) return;
    (void)pthread_mutex_lock(&r->lock);
    for (instance *in = r->first; in; in = in->next) {
        if (in->model != m) continue;
        in->holds--;
        touch_locked(in);
        if (!in->holds) (void)pthread_cond_broadcast(&r->changed); /* the keeper, a load that waits for room */
        break;
    }
    (void)pthread_mutex_unlock(&r->lock);
}

/* ------------------------------------------------------------------ lists */

/* The public part comes first; behind it who the items are. */
typedef struct listing {
    glia_instances pub;
    instance **of;
} listing;

static void fill_item_locked(glia_instance *out, instance *in, int64_t now) {
    *out = (glia_instance){.id = in->id,
                           .real = in->real,
                           .file = &in->file,
                           .state = in->state,
                           .progress = (float)atomic_load(&in->permille) / 1000,
                           .model = in->model,
                           .params = &in->params,
                           .n_holds = in->holds,
                           .jit = in->jit,
                           .ttl_ms = in->ttl_ms,
                           .idle_ms = in->state == GLIA_LOAD_READY && !in->holds ? now - in->used_ms : 0,
                           .loaded_at = in->loaded_at,
                           .used_at = in->used_at,
                           .load_seconds = in->load_seconds,
                           .footprint = in->footprint};
}

glia_status glia_registry_list(glia_registry *r, glia_instances **out, glia_err *err) {
    listing *l = glia_calloc(1, sizeof *l);
    int64_t now = models_now_ms();
    *out = NULL;
    (void)pthread_mutex_lock(&r->lock);
    size_t n = 0;
    for (const instance *in = r->first; in; in = in->next) n++;
    if (l) l->pub.items = glia_calloc(n + 1, sizeof *l->pub.items), l->of = glia_calloc(n + 1, sizeof *l->of);
    bool ok = l && l->pub.items && l->of;
    for (instance *in = r->first; ok && in; in = in->next) {
        if (in->closing) continue;
        fill_item_locked(&l->pub.items[l->pub.n], in, now);
        l->of[l->pub.n++] = in;
        in->pins++, in->refs++;
    }
    (void)pthread_mutex_unlock(&r->lock);
    if (!ok) {
        if (l) glia_free(l->pub.items), glia_free(l->of);
        glia_free(l);
        return glia_fail(err, GLIA_ENOMEM, "out of memory for the list of models");
    }
    *out = &l->pub;
    return GLIA_OK;
}

void glia_instances_free(glia_registry *r, glia_instances *list) {
    if (!list) return;
    listing *l = (listing *)list;
    (void)pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < l->pub.n; i++) {
        if (!--l->of[i]->pins && l->of[i]->state == GLIA_LOAD_DRAINING) (void)pthread_cond_broadcast(&r->changed);
        instance_unref_locked(l->of[i]);
    }
    (void)pthread_mutex_unlock(&r->lock);
    glia_free(l->pub.items);
    glia_free(l->of);
    glia_free(l);
}

/* ------------------------------------------------------------------ loads */

static bool same_size(int32_t a, int32_t b, uint64_t otherwise) {
    return (a ? (uint64_t)a : otherwise) == (b ? (uint64_t)b : otherwise);
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

static bool same_params(const instance *in, const glia_model_params *p) {
    const glia_model_params *q = &in->params;
    return same_size(q->n_ctx, p->n_ctx, in->n_ctx_default) && same_size(q->n_parallel, p->n_parallel, 4) &&
           same_size(q->n_batch, p->n_batch, 512) && q->n_threads == p->n_threads &&
           q->n_gpu_layers == p->n_gpu_layers && q->flash == p->flash && q->kv_type == p->kv_type &&
           q->speculate == p->speculate && same_text(q->draft_path, p->draft_path);
}

/* An id nobody has: wanted, or wanted:2, wanted:3 …  One that drains will be gone in time. */
static char *free_id_locked(glia_registry *r, const char *wanted) {
    char *id = glia_malloc(strlen(wanted) + 12);
    if (!id) return NULL;
    (void)strcpy(id, wanted);
    for (unsigned k = 2; find_id_locked(r, id); k++) (void)snprintf(id, strlen(wanted) + 12, "%s:%u", wanted, k);
    return id;
}

/* A model that drafts for another lies beside it, with a cache of its own. */
static void add_draft(glia_footprint *f, const glia_model_params *p) {
    glia_gguf g;
    glia_footprint d;
    if (!p->draft_path || glia_gguf_read(&g, p->draft_path, NULL)) return; /* opening will say what is wrong with it */
    glia_estimate(&g, g.tensor_bytes, p, &d);
    f->weights += d.weights, f->cache += d.cache, f->compute += d.compute, f->total += d.total;
}

/* A new instance of t, at the end of the list, with its loader running. */
static glia_status begin_locked(glia_registry *r, const target *t, const glia_load_options *o, bool jit, instance **out,
                                glia_err *err) {
    instance *in = *out = glia_calloc(1, sizeof *in);
    if (!in) return glia_fail(err, GLIA_ENOMEM, "out of memory for a model");
    in->r = r, in->refs = 1;
    in->id = o->id ? glia_strdup(o->id) : free_id_locked(r, t->file.key);
    in->real = glia_strdup(t->real);
    glia_status st = glia_model_file_copy(&in->file, &t->file, err);
    in->params = o->params ? *o->params : r->params.model;
    in->params.path = in->file.path, in->params.id = in->id;
    in->n_ctx_default = t->file.head.n_ctx_train && t->file.head.n_ctx_train < 4096 ? t->file.head.n_ctx_train : 4096;
    in->jit = jit;
    in->ttl_ms = o->ttl_ms >= 0 ? o->ttl_ms : jit ? r->params.jit_ttl_ms : 0;
    glia_estimate(&t->file.head, t->file.weight_bytes, &in->params, &in->footprint);
    add_draft(&in->footprint, &in->params);
    if (st || !in->id || !in->real) {
        instance_unref_locked(in);
        *out = NULL;
        return glia_fail(err, GLIA_ENOMEM, "out of memory for a model");
    }
    instance **last = &r->first;
    while (*last) last = &(*last)->next;
    *last = in;
    if (loader_start_locked(in)) return GLIA_OK;
    *last = NULL;
    instance_unref_locked(in);
    *out = NULL;
    return glia_fail(err, GLIA_EUNAVAILABLE, "no thread for a load: try again later");
}

static glia_status watch_locked(instance *in, bool was_there, glia_watch **out, glia_err *err) {
    if (!(*out = watch_new_locked(in, true, was_there))) return glia_fail(err, GLIA_ENOMEM, "out of memory for a load");
    if (in->state == GLIA_LOAD_READY) touch_locked(in);
    return GLIA_OK;
}

static glia_status begin_and_watch_locked(glia_registry *r, const target *t, const glia_load_options *o, bool jit,
                                          glia_watch **out, glia_err *err) {
    instance *in;
    if (r->stopping) return glia_fail(err, GLIA_EUNAVAILABLE, "the server is stopping");
    glia_status st = begin_locked(r, t, o, jit, &in, err);
    if (st) return st;
    if ((st = watch_locked(in, false, out, err))) atomic_store(&in->cancelled, true); /* nobody would know of it */
    return st;
}

static instance *same_instance_locked(glia_registry *r, const target *t, const glia_load_options *o) {
    const glia_model_params *p = o->params ? o->params : &r->params.model;
    for (instance *in = r->first; in && !o->another; in = in->next) {
        if (!is_usable(in) || strcmp(in->real, t->real) != 0 || !same_params(in, p)) continue;
        if (!o->id || !strcmp(o->id, in->id)) return in;
    }
    return NULL;
}

/* The file that an instance of this id was loaded from. */
static glia_status resolve_instance(glia_registry *r, const char *id, target *t, glia_err *err) {
    (void)pthread_mutex_lock(&r->lock);
    const instance *in = find_id_locked(r, id);
    char *path = in ? glia_strdup(in->file.path) : NULL;
    (void)pthread_mutex_unlock(&r->lock);
    glia_status st = path ? resolve(r, path, true, t, err) : GLIA_EMODEL;
    glia_free(path);
    return st;
}

/* Ids name models in requests and in paths of URLs. */
static glia_status check_id(const char *id, glia_err *err) {
    size_t n = strlen(id);
    bool ok = n > 0 && n <= 200;
    for (size_t i = 0; i < n && ok; i++) ok = (unsigned char)id[i] > ' ' && id[i] != 0x7f;
    return ok ? GLIA_OK
              : glia_fail_at(err, GLIA_EINVAL, "identifier", "identifier must have 1 to 200 characters without spaces");
}

glia_status glia_registry_load(glia_registry *r, const char *name, const glia_load_options *options, glia_watch **out,
                               glia_err *err) {
    static const glia_load_options none = {.ttl_ms = -1};
    const glia_load_options *o = options ? options : &none;
    target t;
    *out = NULL;
    glia_status st = o->id ? check_id(o->id, err) : GLIA_OK;
    if (!st) st = resolve(r, glia_registry_unalias(r, name), true, &t, err);
    if (st == GLIA_EMODEL && !resolve_instance(r, glia_registry_unalias(r, name), &t, NULL)) st = GLIA_OK;
    if (st) return st;
    (void)pthread_mutex_lock(&r->lock);
    instance *in = same_instance_locked(r, &t, o);
    if (in) {
        st = watch_locked(in, true, out, err);
        if (!st) { /* somebody wants it now: it stays, or for the time that was said */
            in->jit = false;
            in->ttl_ms = o->ttl_ms >= 0 ? o->ttl_ms : 0;
            (void)pthread_cond_broadcast(&r->changed);
        }
    } else if (o->id && find_id_locked(r, o->id)) {
        st = glia_fail_at(err, GLIA_EINVAL, "identifier",
                          "\"%.120s\" is loaded already, from another file or with other parameters: unload it first, "
                          "or choose another identifier",
                          o->id);
    } else {
        st = begin_and_watch_locked(r, &t, o, false, out, err);
    }
    (void)pthread_mutex_unlock(&r->lock);
    clear_target(&t);
    return st;
}

static instance *wanted_locked(glia_registry *r, const char *id, const char *real) {
    instance *in = id ? find_id_locked(r, id) : default_locked(r, true);
    return in || !real ? in : find_file_locked(r, real);
}

glia_status glia_registry_want(glia_registry *r, const char *name, const glia_load_options *options, glia_watch **out,
                               glia_err *err) {
    static const glia_load_options none = {.ttl_ms = -1};
    const glia_load_options *o = options ? options : &none;
    const char *id = glia_registry_unalias(r, name);
    target t = {0};
    glia_status st = GLIA_OK;
    *out = NULL;
    (void)pthread_mutex_lock(&r->lock);
    instance *in = wanted_locked(r, id, NULL);
    if (in) st = watch_locked(in, true, out, err);
    (void)pthread_mutex_unlock(&r->lock);
    if (!in) {
        if (!id) return explain(r, NULL, err);
        st = resolve(r, id, false, &t, err);
        if (st) return st == GLIA_EMODEL ? explain(r, name, err) : st;
        (void)pthread_mutex_lock(&r->lock);
        if ((in = wanted_locked(r, id, t.real))) st = watch_locked(in, true, out, err);
        else if (r->params.jit) st = begin_and_watch_locked(r, &t, o, true, out, err);
        (void)pthread_mutex_unlock(&r->lock);
        clear_target(&t);
        if (!in && !r->params.jit) return explain(r, name, err);
    }
    if (!st && o->ttl_ms >= 0) {
        (void)pthread_mutex_lock(&r->lock);
        if ((*out)->of->jit) (*out)->of->ttl_ms = o->ttl_ms; /* what was loaded by hand keeps its own */
        (void)pthread_cond_broadcast(&r->changed);
        (void)pthread_mutex_unlock(&r->lock);
    }
    return st;
}

glia_status glia_registry_estimate(glia_registry *r, const char *name, const glia_model_params *params,
                                   glia_footprint *out, glia_err *err) {
    target t;
    glia_status st = resolve(r, glia_registry_unalias(r, name), true, &t, err);
    if (st) return st;
    glia_estimate(&t.file.head, t.file.weight_bytes, params ? params : &r->params.model, out);
    clear_target(&t);
    return GLIA_OK;
}

static instance *find_draining_locked(glia_registry *r, const char *id) {
    instance *in = r->first;
    while (in && strcmp(in->id, id) != 0) in = in->next;
    return in;
}

glia_status glia_registry_unload(glia_registry *r, const char *id, bool refuse_busy, glia_watch **out, glia_err *err) {
    glia_status st = GLIA_OK;
    if (out) *out = NULL;
    (void)pthread_mutex_lock(&r->lock);
    instance *in = find_id_locked(r, glia_registry_unalias(r, id));
    if (!in) in = find_draining_locked(r, id);
    if (!in) {
        st = glia_fail_at(err, GLIA_EMODEL, "instance_id", "no model \"%.120s\" is loaded: see GET /api/v1/models", id);
    } else if (refuse_busy && in->holds) {
        st = glia_fail_at(err, GLIA_EBUSY, "instance_id",
                          "\"%.120s\" is in use %zu times: try again later, or let it drain", id, in->holds);
    } else if (out && !(*out = watch_new_locked(in, false, true))) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory");
    } else if (in->state == GLIA_LOAD_LOADING) {
        atomic_store(&in->cancelled, true);
        (void)pthread_cond_broadcast(&r->changed);
    } else if (in->state == GLIA_LOAD_READY) {
        instance_drain_locked(in);
    }
    (void)pthread_mutex_unlock(&r->lock);
    return st;
}

/* ------------------------------------------------------------------ the registry */

static glia_status copy_aliases(glia_registry *r, const glia_registry_params *p, glia_err *err) {
    r->params.n_aliases = 0;
    if (p->n_aliases > GLIA_ALIASES) return glia_fail(err, GLIA_EINVAL, "more than %d aliases", (int)GLIA_ALIASES);
    if (!(r->aliases = glia_calloc(p->n_aliases + 1, sizeof *r->aliases)))
        return glia_fail(err, GLIA_ENOMEM, "out of memory for the models");
    for (size_t i = 0; i < p->n_aliases; i++) {
        const char *s = p->aliases[i], *eq = strchr(s, '=');
        if (!eq || eq == s || !eq[1]) { return glia_fail(err, GLIA_EINVAL, "--alias \"%.120s\": write NAME=MODEL", s); }
        alias *a = &r->aliases[r->params.n_aliases++];
        a->name = glia_strndup(s, (size_t)(eq - s)), a->model = glia_strdup(eq + 1);
        if (!a->name || !a->model) return glia_fail(err, GLIA_ENOMEM, "out of memory for the models");
        for (size_t k = 0; k < i; k++) {
            if (!strcmp(r->aliases[k].name, a->name))
                return glia_fail(err, GLIA_EINVAL, "--alias \"%.120s\" is given twice", a->name);
        }
    }
    return GLIA_OK;
}

glia_status glia_registry_new(glia_registry **out, const glia_registry_params *p, glia_err *err) {
    pthread_condattr_t a;
    glia_registry *r = *out = NULL;
    if (!(r = glia_calloc(1, sizeof *r))) return glia_fail(err, GLIA_ENOMEM, "out of memory for the models");
    r->params = *p;
    if (!r->params.open) r->params.open = glia_model_open;
    if (!r->params.close) r->params.close = glia_model_close;
    if (!r->params.patience_ms) r->params.patience_ms = PATIENCE_MS;
    r->params.model.path = r->params.model.id = NULL;
    (void)pthread_mutex_init(&r->lock, NULL);
    (void)pthread_condattr_init(&a);
    (void)pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&r->changed, &a);
    (void)pthread_condattr_destroy(&a);
    glia_status st = copy_aliases(r, p, err);
    if (!st) {
        r->keeper_runs = !pthread_create(&r->keeper, NULL, keeper_main, r);
        if (!r->keeper_runs) st = glia_fail(err, GLIA_EUNAVAILABLE, "no thread for the models");
    }
    if (st) glia_registry_free(r);
    else *out = r;
    return st;
}

static void free_rest(glia_registry *r) {
    for (size_t i = 0; r->aliases && i < r->params.n_aliases; i++) {
        glia_free(r->aliases[i].name);
        glia_free(r->aliases[i].model);
    }
    glia_free(r->aliases);
    (void)pthread_cond_destroy(&r->changed);
    (void)pthread_mutex_destroy(&r->lock);
    glia_free(r);
}

void glia_registry_free(glia_registry *r) {
    if (!r) return;
    (void)pthread_mutex_lock(&r->lock);
    r->stopping = true;
    for (instance *in = r->first; in; in = in->next) atomic_store(&in->cancelled, true);
    (void)pthread_cond_broadcast(&r->changed);
    while (r->n_loaders) registry_wait_locked(r, INT64_MAX);
    (void)pthread_mutex_unlock(&r->lock);
    if (r->keeper_runs) (void)pthread_join(r->keeper, NULL);
    while (r->first) {
        instance *in = r->first;
        r->params.close(in->model);
        r->first = in->next;
        instance_unref_locked(in);
    }
    free_rest(r);
}

const glia_registry_params *glia_registry_get_params(const glia_registry *r) { return &r->params; }

const char *glia_registry_alias(const glia_registry *r, size_t i, const char **name) {
    *name = i < r->params.n_aliases ? r->aliases[i].name : NULL;
    return *name ? r->aliases[i].model : NULL;
}

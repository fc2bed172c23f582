/* models/instance.h — what the files of the registry share; nobody else includes it.
 *
 * Threads: a loader for each load (loader.c), the keeper (keeper.c), and whoever calls.  One lock, glia_registry.lock,
 * guards everything below; models are opened and closed without it.  `changed` is signalled whenever a state, the last
 * hold of a draining or evictable model, or an idle time changed. */
#ifndef GLIA_MODELS_INSTANCE_H
#define GLIA_MODELS_INSTANCE_H
#include "models/registry.h"
#include <pthread.h>
#include <stdatomic.h>

struct glia_watch {
    glia_registry *r;
    struct instance *of;
    bool wants_hold, held, was_there;
    void (*on_change)(void *ud);
    void *ud;
    glia_watch *next;
};

typedef struct instance {
    struct instance *next; /* in the order they were asked for */
    glia_registry *r;
    size_t refs;              /* of the registry's list, the loader, watches and listings */
    char *id, *real;          /* real: the path without links, what makes two names one file */
    glia_model_file file;     /* its own copy */
    glia_model_params params; /* path and id point at strings above */
    glia_footprint footprint;
    uint64_t n_ctx_default; /* what n_ctx 0 means for this file; 0: unknown */

    glia_load_state state;
    bool counted; /* its memory is taken: from the beginning of its opening to the end of its closing */
    bool closing;
    atomic_bool cancelled;
    atomic_int permille; /* progress */
    glia_model *model;
    size_t holds, pins; /* pins: listings */
    bool jit;
    int64_t ttl_ms, used_ms; /* used_ms: monotonic, of the last hold taken or given back */
    int64_t used_at, loaded_at;
    double load_seconds;
    glia_err err;
    glia_watch *watches;
} instance;

typedef struct alias {
    char *name, *model;
} alias;

struct glia_registry {
    glia_registry_params params;
    alias *aliases; /* [params.n_aliases] */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* monotonic clock */
    instance *first;        /* LOADING, READY, DRAINING */
    instance *opening;
    size_t n_loaders;
    bool stopping;
    bool keeper_runs;
    pthread_t keeper;
};

/* What a name stands for, before anything of it is loaded. */
typedef struct target {
    glia_model_file file;
    char *real;
} target;

int64_t models_now_ms(void); /* monotonic */
void instance_unref_locked(instance *in);
void instance_notify_locked(instance *in);   /* its watches, and `changed` */
void instance_drain_locked(instance *in);    /* READY → DRAINING */
void instance_remove_locked(instance *in);   /* → GONE, out of the list */
bool instance_evictable(const instance *in); /* came by itself, or has an idle time */
/* `changed`, or until_ms (INT64_MAX: no end). */
void registry_wait_locked(glia_registry *r, int64_t until_ms);
/* glia_watch of an instance; NULL: no memory. */
glia_watch *watch_new_locked(instance *in, bool wants_hold, bool was_there);

/* loader.c.  The thread owns a reference of in and counts in n_loaders. */
bool loader_start_locked(instance *in);
/* keeper.c */
void *keeper_main(void *registry);
#endif

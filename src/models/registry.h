/* models/registry.h — which models are loaded, which are on their way, and who uses them.
 *
 * Owns every loaded model.  A loaded model is an *instance* with an id; several may come of one file.
 *
 *   (in a folder) ──load, want──► LOADING ──► READY ──unload, idle too long, evicted──► DRAINING ──► GONE
 *                                    └─failed, cancelled──────────────────────────────────────────────▲
 *
 * A *hold* keeps a READY model open: who uses it takes one and gives it back.  A DRAINING one is not handed out any more
 * and is closed when its last hold is given back.  Loads run one after the other, each on a thread of its own, when
 * count and budget allow; to make room the least recently used models that nobody holds are unloaded, but only those that
 * came by themselves (wanted by a request) or have an idle time: what somebody loaded or named at the start stays.
 * A keeper thread closes what drains and unloads what was idle for its time.
 *
 * Any thread.  Knows neither HTTP nor JSON.  Nothing here waits for a load but glia_watch_wait. */
#ifndef GLIA_MODELS_REGISTRY_H
#define GLIA_MODELS_REGISTRY_H
#include "models/catalogue.h"
#include "models/estimate.h"

typedef struct glia_registry glia_registry;
typedef struct glia_watch glia_watch; /* somebody's eye on one instance */

typedef enum glia_load_state {
    GLIA_LOAD_LOADING,
    GLIA_LOAD_READY,
    GLIA_LOAD_DRAINING, /* to be closed: still used, or being closed */
    GLIA_LOAD_GONE      /* closed, failed or cancelled */
} glia_load_state;

enum { GLIA_ALIASES = 64 };

typedef struct glia_registry_params {
    glia_model_params model;    /* of every load that says nothing else; path, id and progress are not read */
    glia_catalogue *catalogue;  /* borrowed; NULL: models are known by path only */
    const char *const *aliases; /* [n_aliases] "name=model", copied */
    size_t n_aliases;
    bool jit;            /* a model that a request names is loaded when it is in a folder */
    int64_t jit_ttl_ms;  /* idle time of such models; 0: for ever */
    uint64_t budget;     /* bytes for all models together; 0: unlimited */
    size_t max_loaded;   /* models at once; 0: unlimited */
    int64_t patience_ms; /* how long a load waits for busy models that could make room; 0: 30 s */
    glia_status (*open)(glia_model **out, const glia_model_params *p, glia_err *err); /* NULL: glia_model_open */
    void (*close)(glia_model *m);                                                     /* NULL: glia_model_close */
} glia_registry_params;

/* EINVAL: an alias is malformed or twice there. */
glia_status glia_registry_new(glia_registry **out, const glia_registry_params *p, glia_err *err);
/* Cancel loads, close all models.  Nobody may use them or a watch any more.  NULL is fine. */
void glia_registry_free(glia_registry *r);
const glia_registry_params *glia_registry_get_params(const glia_registry *r);         /* aliases: use the next two */
const char *glia_registry_alias(const glia_registry *r, size_t i, const char **name); /* the model it stands for */
const char *glia_registry_unalias(const glia_registry *r, const char *name); /* name itself when it is no alias */

/* ------------------------------------------------------------------ using */

/* The READY model that a name means (id of an instance, alias, or a name that glia_models_find takes), held until
 * glia_registry_release.  name NULL: the default, the one that was there first.
 * EMODEL: no such model (the message names some).  EUNAVAILABLE: it is loading, or nothing is loaded. */
glia_status glia_registry_hold(glia_registry *r, const char *name, glia_model **out, glia_err *err);
void glia_registry_release(glia_registry *r, glia_model *m); /* NULL is fine */

typedef struct glia_instance {
    const char *id, *real;       /* real: path of its file without links */
    const glia_model_file *file; /* its own copy: key, names, header */
    glia_load_state state;
    float progress;                  /* of loading, 0..1 */
    glia_model *model;               /* READY and DRAINING, else NULL */
    const glia_model_params *params; /* it was (or is being) loaded with */
    size_t n_holds;
    bool jit;          /* loaded because a request named it */
    int64_t ttl_ms;    /* 0: none */
    int64_t idle_ms;   /* since it was last held; 0: held now */
    int64_t loaded_at; /* seconds since 1970; 0: not yet */
    int64_t used_at;
    double load_seconds;
    glia_footprint footprint; /* estimated before loading; zeros: not known */
} glia_instance;

/* Instances that are not GONE, the default one first; all of it valid until glia_instances_free, but the numbers are
 * those of this moment.  Listing is no use: idle times go on.  ENOMEM. */
typedef struct glia_instances {
    size_t n;
    glia_instance *items;
} glia_instances;
glia_status glia_registry_list(glia_registry *r, glia_instances **out, glia_err *err);
void glia_instances_free(glia_registry *r, glia_instances *l); /* NULL is fine */

/* ------------------------------------------------------------------ loading */

typedef struct glia_load_options {
    const char *id;                  /* NULL: the model's key, with ":2", ":3" … when that is taken */
    const glia_model_params *params; /* NULL: the registry's */
    int64_t ttl_ms;                  /* idle time; 0: none; < 0: none for load, jit_ttl_ms for want */
    bool another;                    /* make a further instance even when one with the same parameters is there */
} glia_load_options;

/* Load a model, or come to the instance of the same file and parameters that is there already.  The watch holds it as
 * soon as it is READY.
 * EMODEL: no such file.  EINVAL: id taken by another model; a file that cannot be loaded.
 * What fails later (no room, a bad file) is the watch's to tell. */
glia_status glia_registry_load(glia_registry *r, const char *name, const glia_load_options *o, glia_watch **out,
                               glia_err *err);
/* The same for a request: any instance that name means will do, whatever its parameters; else it is loaded as a model
 * that came by itself.  o may be NULL.  EMODEL: also when params.jit is off.  name NULL: the default, never loaded. */
glia_status glia_registry_want(glia_registry *r, const char *name, const glia_load_options *o, glia_watch **out,
                               glia_err *err);

/* What loading it would take.  params NULL: the registry's. */
glia_status glia_registry_estimate(glia_registry *r, const char *name, const glia_model_params *params,
                                   glia_footprint *out, glia_err *err);

/* Take an instance out of use; a load under way is cancelled.  refuse_busy: EBUSY when somebody holds it, else it drains
 * and is closed when the last hold is back.  out: sees it GONE; may be NULL.  EMODEL: no instance has this id. */
glia_status glia_registry_unload(glia_registry *r, const char *id, bool refuse_busy, glia_watch **out, glia_err *err);

/* ------------------------------------------------------------------ watching */

typedef struct glia_watched {
    const char *id, *path, *key; /* valid as long as the watch */
    glia_load_state state;
    float progress;
    bool evictable;      /* may be unloaded to make room for others when nobody holds it */
    bool was_there;      /* the instance was there before this watch was asked for */
    double load_seconds; /* READY */
    glia_model *model;   /* READY: held by the watch; NULL when it watches an unload */
    glia_err err;        /* GONE: why; status GLIA_OK: it was unloaded */
} glia_watched;

void glia_watch_get(glia_watch *w, glia_watched *out);
/* Wait until its state is not `not` any more, at most timeout_ms (-1: for ever); returns the state then. */
glia_load_state glia_watch_wait(glia_watch *w, glia_load_state not, int timeout_ms);
/* Call fn(ud) whenever state or progress changed.  fn must not block nor call back into the registry.  NULL removes it;
 * on return no call is under way. */
void glia_watch_on_change(glia_watch *w, void (*fn)(void *ud), void *ud);
/* A load that nobody else waits for is given up.  Its watch becomes GONE with ECANCELLED. */
void glia_watch_cancel(glia_watch *w);
void glia_watch_free(glia_watch *w); /* gives the hold back; the load goes on.  NULL is fine */
#endif

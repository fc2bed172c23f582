/* api/store.h — the server's store of runs: opened at first use, and what over HTTP may be read and written beside it.
 *
 * Owned by the app; any thread.  A server that nothing is stored on makes no folder.  Freed when no task and no request
 * runs any more. */
#ifndef GLIA_API_STORE_H
#define GLIA_API_STORE_H
#include "api/tasks.h"
#include "store/runs.h"

typedef struct glia_store glia_store;

/* folder NULL: glia_runs_default_folder.  data_dirs: [n] folders under which harvests named over HTTP may read data and write
 * shards.  NULL: out of memory. */
glia_store *glia_store_new(const char *folder, uint64_t limit, const char *const *data_dirs, size_t n);
void glia_store_free(glia_store *s); /* NULL is fine */

/* The catalogue.  s NULL, or a folder that cannot be used: EUNAVAILABLE or EIO with the cause. */
glia_status glia_store_runs(glia_store *s, glia_runs **out, glia_err *err);

/* A path of a request, made absolute and free of links, when it lies under one of the data folders; freed with glia_free.
 * exists: it must be there; else its folder must.  EFORBIDDEN, EINVAL name the field `param`. */
glia_status glia_store_path(const glia_store *s, const char *path, bool exists, const char *param, char **out,
                            glia_err *err);

/* Threads of their own that write runs: glia_store_free waits for them. */
void glia_store_hold(glia_store *s);
void glia_store_release(glia_store *s);

/* Which task writes a run now, or wrote it last.  false: none since the server started. */
bool glia_store_task_of(glia_store *s, const char *run, char task[GLIA_TASK_ID]);
glia_status glia_store_set_task(glia_store *s, const char *run, const char *task, glia_err *err);
#endif

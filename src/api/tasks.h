/* api/tasks.h — work that takes longer than a handler may: sweeps, discoveries, harvests, downloads, loads.
 *
 * Owns the list of tasks and one thread for each that runs.  A task is known by its id until it is forgotten: the
 * oldest finished ones go first, beyond a number and a sum of result bytes.  Everything here may be called from any
 * thread; `work` runs on the task's own.  Knows no endpoint and no model.
 *
 *   running ──work answers OK──► completed        cancel() only asks: work looks at glia_task_cancelled, answers
 *      ├──────work answers an error──► failed     ECANCELLED, and the task is then cancelled
 *      └──────ECANCELLED──► cancelled */
#ifndef GLIA_API_TASKS_H
#define GLIA_API_TASKS_H
#include "base/buf.h"
#include "glia.h"
#include "http/http.h"

enum {
    GLIA_TASK_ID = 24,             /* bytes of an id with its NUL */
    GLIA_TASKS_RUNNING = 32,       /* at once, those of glia_task_serve included */
    GLIA_TASKS_KEPT = 256,         /* finished ones */
    GLIA_TASKS_RESULTS = 256 << 20 /* bytes of all their results */
};

typedef struct glia_tasks glia_tasks;
typedef struct glia_task glia_task;

typedef struct glia_task_params {
    const char *kind;        /* "sweep", "harvest", …: static */
    const char *description; /* one line for people; copied; may be NULL */
    /* Append one JSON value to *result, or fail.  Looks at glia_task_cancelled often enough to stop within a second. */
    glia_status (*work)(glia_task *t, void *ud, glia_buf *result, glia_err *err);
    void *ud;
    void (*free_ud)(void *ud); /* once, after work or when the task could not be started; may be NULL */
} glia_task_params;

glia_tasks *glia_tasks_new(void);
/* Cancel all, wait for their threads, free.  NULL is fine. */
void glia_tasks_free(glia_tasks *ts);

/* Start p->work on a thread.  EBUSY: too many run.  ud is taken, also on failure. */
glia_status glia_tasks_start(glia_tasks *ts, const glia_task_params *p, char id[GLIA_TASK_ID], glia_err *err);
/* Run p->work and answer this request with its result, or its error; cancelled when the client leaves.  Such a task is in
 * no list.  Call it instead of a reply. */
void glia_task_serve(glia_tasks *ts, glia_http_request *rq, const glia_task_params *p);

/* -- for work */
bool glia_task_cancelled(const glia_task *t);
/* 0 ≤ fraction ≤ 1; detail: a JSON value for people and programs that watch, copied; NULL leaves the last one. */
void glia_task_progress(glia_task *t, double fraction, const char *detail);

/* -- for handlers */
/* ENOTFOUND.  Cancelling what has ended already is fine. */
glia_status glia_tasks_cancel(glia_tasks *ts, const char *id, glia_err *err);
/* Append {"task_id","kind","status","started_at","description","progress","detail"?,"finished_at"?,"result"?,"error"?}. */
glia_status glia_tasks_describe(glia_tasks *ts, const char *id, glia_buf *b, glia_err *err);
/* Append [{…}, …], newest last, without results; kind NULL: all. */
void glia_tasks_list(glia_tasks *ts, const char *kind, glia_buf *b);
size_t glia_tasks_n_running(glia_tasks *ts);

#endif

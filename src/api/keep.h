/* api/keep.h — requests with "store": true: their activations go to the store of runs instead of to the client.
 *
 * Rows are gathered as for a whole reply; once every choice has ended, a thread of its own writes the file and the
 * catalogue (both wait for the disk) and wakes the connection.  While it runs the job is that thread's: a client that leaves
 * meanwhile leaves the job to it, and the run is deleted, since nobody knows its id. */
#ifndef GLIA_API_KEEP_H
#define GLIA_API_KEEP_H
#include "api/job.h"

typedef struct glia_keep glia_keep;

/* Fields of the request: "store", "note".  Nothing to do without hooks.  EINVAL. */
glia_status glia_keep_parse(glia_job *j, yyjson_val *root, glia_err *err);
/* After the wire is chosen: labels stay in the reply, numbers do not.  EINVAL: not on this wire. */
glia_status glia_keep_plan(glia_job *j, glia_err *err);
/* Take an event's rows.  ENOMEM. */
glia_status glia_keep_add(glia_job *j, glia_choice *c, const glia_event *ev, glia_err *err);

/* "note" of a request; "" when absent.  EINVAL: too long. */
glia_status glia_note_parse(yyjson_val *root, char out[256], glia_err *err);

/* Start, and ask whether it has ended; *done false: wait to be woken.  *body: the reply, for whole ones
 * (freed with glia_free), or the labels as JSON members ("run":…,"activations":{…}) for streams. */
glia_status glia_keep_run(glia_job *j, bool *done, char **body, size_t *n, glia_err *err);
bool glia_keep_started(const glia_job *j);
const char *glia_keep_id(const glia_job *j); /* of the run, once there is one */
/* True: the thread still has the job and frees it. */
bool glia_keep_abandon(glia_job *j);
void glia_keep_free(glia_job *j);
#endif

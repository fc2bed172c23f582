/* engine/model.h — what a loaded model is made of, shared by model.c (open, close, look-ups) and worker.c (the loop).
 *
 * Immutable once `ready`, except what the worker owns.  llama_* calls: the engine thread only; the exceptions are the
 * vocabulary and the chat templates, which are read-only and used by any thread. */
#ifndef GLIA_ENGINE_MODEL_H
#define GLIA_ENGINE_MODEL_H
#include "engine/bridge.h"
#include "engine/encoder.h"
#include "engine/request.h"
#include "engine/weights.h"
#include "glia.h"
#include "llama.h"
#include "tap/tap.h"

typedef struct glia_worker glia_worker;

/* glia_activity while it grows: written by the engine thread, read by any. */
typedef struct glia_tally {
    atomic_uint_fast64_t requests, finished, passes, short_passes, prompt_tokens, cached_tokens, generated_tokens;
    atomic_uint_fast64_t restored_tokens, shelf_bytes;
    atomic_int n_busy;
} glia_tally;

struct glia_model {
    glia_model_params params; /* resolved: no zeros left.  path and id point at the strings below */
    glia_model_info info;
    char *id, *path, *draft, *arch, *description;

    uint64_t header_bytes; /* of the model file, before the tensors' data */
    struct llama_model *lm;
    const struct llama_vocab *vocab;
    glia_templates *templates;
    glia_adapter_file adapters[GLIA_MAX_ADAPTERS]; /* owned */
    size_t n_adapters;
    glia_weights *weights; /* of the file, for derived points */
    glia_atlas *atlas; /* made at load, immutable */
    glia_inbox *inbox;
    glia_capture_memory *memory;
    bool joined; /* the memory wakes the inbox */
    glia_pages *pages; /* for frames, or the large ones; NULL: they lie on the heap */
    glia_tally tally;
    glia_worker *worker;
    glia_encoder *encoder; /* instead of a worker */
    pthread_mutex_t lexicon_lock;
    glia_lexicon *lexicon; /* made for the first constraint */

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock; /* open ↔ engine thread: state, err */
    pthread_cond_t changed;
    enum { GLIA_MODEL_LOADING, GLIA_MODEL_READY, GLIA_MODEL_FAILED } state;
    glia_err err;
};

/* worker.c.  new: makes context, tap and atlas (m->atlas, info).  run: until the inbox is stopped. */
glia_status glia_worker_new(glia_worker **out, glia_model *m, glia_err *err);
void glia_worker_run(glia_worker *w);
void glia_worker_free(glia_worker *w);
void glia_worker_stop(glia_worker *w); /* any thread: abort the pass under way */

/* encoder.c: the same for models that only make vectors. */
glia_status glia_encoder_new(glia_encoder **out, glia_model *m, glia_err *err);
void glia_encoder_run(glia_encoder *e);
void glia_encoder_free(glia_encoder *e);
void glia_encoder_stop(glia_encoder *e);

/* The last complaint of llama.cpp on this thread since note_errors; "": none. */
void glia_model_note_errors(void);
const char *glia_model_last_error(void);

void glia_model_limits(const glia_model *m, glia_request_limits *out);
#endif

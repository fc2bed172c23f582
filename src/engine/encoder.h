/* engine/encoder.h — texts on their way through a model that only makes vectors.  See encoder.c for threads. */
#ifndef GLIA_ENGINE_ENCODER_H
#define GLIA_ENGINE_ENCODER_H
#include "glia.h"

typedef struct glia_encoder glia_encoder;

/* Owned by who submits it, until on_end was called or it was dropped. */
typedef struct glia_text_job {
    const int32_t *tokens; /* [n] */
    int32_t n;
    float *v;     /* [n_vector], filled */
    glia_err err; /* status OK: v is there */
    void (*on_end)(void *ud); /* the engine thread; must not block */
    void *ud;
    struct glia_text_job *next;
} glia_text_job;

glia_status glia_encoder_submit(glia_encoder *e, glia_text_job *t, glia_err *err);
void glia_encoder_drop(glia_encoder *e, glia_text_job *t); /* on return it is neither waiting nor running */

#endif

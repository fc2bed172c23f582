/* api/params.h — the request fields that steer generation: sampling, lengths, stop strings, what is not served.
 * Pure; any thread.  One table serves validation and the OpenAPI page. */
#ifndef GLIA_API_PARAMS_H
#define GLIA_API_PARAMS_H
#include "api/json.h"

enum { GLIA_MAX_STOP = 16, GLIA_MAX_STOP_BYTES = 1024, GLIA_MAX_BIAS = 4096, GLIA_MAX_ANSWERS = 1000 };

typedef enum glia_param_kind { GLIA_PARAM_NUM, GLIA_PARAM_INT, GLIA_PARAM_BOOL } glia_param_kind;

typedef struct glia_param_row {
    const char *name;
    glia_param_kind kind;
    size_t offset; /* into glia_sampling */
    double min, max;
    bool above_min; /* min itself is refused */
    const char *doc;
} glia_param_row;

const glia_param_row *glia_param_table(size_t *n);

/* Generation settings of one request.  Clear with glia_gen_clear. */
typedef struct glia_gen {
    glia_sampling sampling; /* bias points into bias */
    glia_logit_bias *bias;
    int32_t max_tokens;        /* -1: until the context is full */
    int32_t n;                 /* answers for each prompt, at least 1 */
    char *stop[GLIA_MAX_STOP]; /* owned */
    size_t n_stop;
    bool stream, include_usage, no_cache;
    glia_buf grammar;            /* of the answer; empty: any text */
    const char *grammar_field;   /* which field asked for it */
    glia_speculate speculate;    /* engine_fields.c, from here on */
    int32_t guess_most;
    char *draft_model;           /* owned; NULL: not named */
    glia_buf prediction;         /* text that the answer is expected to be */
    int32_t *predicted;          /* [n_predicted] its tokens; owned */
    size_t n_predicted;
    int32_t priority;
    glia_adapter_use adapters[GLIA_MAX_ADAPTERS];
    size_t n_adapters;
} glia_gen;

typedef enum glia_api_kind { GLIA_API_CHAT, GLIA_API_COMPLETION } glia_api_kind;

/* n_vocab bounds the ids in logit_bias. */
glia_status glia_gen_parse(glia_gen *g, yyjson_val *root, glia_api_kind kind, int32_t n_vocab, glia_err *err);
glia_status glia_gen_parse_engine(glia_gen *g, yyjson_val *root, glia_err *err); /* part of it: engine_fields.c */
/* What needs the model: adapters, a draft model's name, tokens of the prediction. */
glia_status glia_gen_bind(glia_gen *g, yyjson_val *root, const glia_model *m, glia_err *err);
void glia_gen_clear(glia_gen *g);

#endif

/* harvest/harvest.h — activations of a whole data set into sharded files, resumable.
 *
 * Owns the pipeline: lines → documents → pieces of at most one context → requests → rows → shards, statistics,
 * manifest.  Runs on the caller's thread, with a writer thread for one shard at a time; drives the model through glia.h
 * only.  Knows neither HTTP nor the command line.  Formats on disk: docs/FORMATS.md.
 *
 * What holds at any moment, also after a crash: the manifest names only files that are whole and on stable storage, and
 * the rows of its shards are those of the pieces before its cursor, each once, in the order of the data. */
#ifndef GLIA_HARVEST_HARVEST_H
#define GLIA_HARVEST_HARVEST_H
#include "base/half.h"
#include "glia.h"
#include "store/runs.h"

typedef struct glia_harvest_progress {
    uint64_t documents, tokens, rows; /* of the whole harvest, resumed parts included */
    uint64_t bytes;                   /* of sealed shards and of the one being filled */
    uint64_t shards;                  /* sealed */
    uint64_t tokens_now, bytes_now;   /* of this run alone, for rates */
    double seconds;                   /* of this run */
    double fraction;                  /* of the data read so far, by bytes; < 0: unknown (standard input) */
    const char *doing;                /* "checking the model", "reading what is done", "harvesting", "sealing" */
} glia_harvest_progress;

typedef struct glia_harvest_params {
    glia_model *model;     /* borrowed */
    const char *data;      /* .txt: one document a line; .jsonl: {"text"}, {"messages"} or {"tokens"} a line; "-": input */
    const char *out;       /* folder; made when missing */
    const char *points;    /* "resid_post@all,z@0-3+7,final_norm": names of docs/HOOKS.md, layers behind an @ */
    bool last_only;        /* only the last token of each piece */
    bool statistics_only;  /* no shards: means, variances and norms */
    int32_t top;           /* of each channel keep the so many largest values and their tokens (statistics); 0: none */
    int32_t projection;    /* rows times so many random directions instead of rows; 0: whole rows */
    uint64_t projection_seed;
    glia_dtype dtype;
    int32_t window;        /* most tokens of a piece; 0: the context */
    uint64_t shard_bytes;  /* 0: 128 MiB */
    uint64_t max_bytes;    /* stop before the shards grow beyond; 0: no limit */
    uint64_t max_tokens;   /* stop behind the piece that reaches it; 0: no limit */
    glia_run_writer *writer; /* the run of the catalogue that this harvest is, recorded at every seal; NULL: none */
    /* Called a few times a second; false: stop, what is finished is sealed.  May be NULL. */
    bool (*on_progress)(const glia_harvest_progress *p, void *ud);
    void *ud;
} glia_harvest_params;

typedef enum glia_harvest_end {
    GLIA_HARVEST_COMPLETE, /* all data is done */
    GLIA_HARVEST_STOPPED,  /* on_progress said so */
    GLIA_HARVEST_QUOTA,    /* max_bytes reached */
    GLIA_HARVEST_TOKENS    /* max_tokens reached */
} glia_harvest_end;

/* Begin, or go on with what `out` holds when model, data and settings are the same.  On failure everything sealed stays.
 * EINVAL: a bad line (named), points, settings or data other than those of the folder.  EHOOK: a point is not available.
 * EIO: names the file.  EBUSY: another harvest writes there. */
glia_status glia_harvest_run(const glia_harvest_params *p, glia_harvest_progress *out, glia_harvest_end *end,
                             glia_err *err);
#endif

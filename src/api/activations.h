/* api/activations.h — hooks as they come in, activations as they go out (architecture.md §4).
 * Any thread.  Knows the engine only by glia.h; HTTP not at all. */
#ifndef GLIA_API_ACTIVATIONS_H
#define GLIA_API_ACTIVATIONS_H
#include "api/json.h"
#include "base/half.h"

enum { GLIA_MAX_HOOKS = 1024, GLIA_MAX_EXPANDED = 100000, GLIA_MAX_POSITIONS = 65536 };

/* RAW: bytes behind the entry (frames); TENSOR: a tensor of the same file (safetensors).  The wire chooses these two. */
typedef enum glia_encoding {
    GLIA_ENC_LIST,
    GLIA_ENC_BASE64,
    GLIA_ENC_RAW,
    GLIA_ENC_TENSOR,
    GLIA_ENC_STORED /* a tensor of a stored run */
} glia_encoding;

typedef struct glia_act_format {
    glia_encoding encoding;
    glia_dtype dtype;
    uint32_t include; /* GLIA_PHASE_* bits */
    bool merge;       /* one entry per hook with all rows, instead of one per forward pass */
    bool zstd;        /* frames: compress every payload */
    uint64_t first;   /* frames: leave out those before this number */
} glia_act_format;

/* What the wire says of the engine hook with the same index. */
typedef struct glia_act_label {
    size_t group;  /* index of its key */
    size_t source; /* index in the request's list; those of registered hooks go on behind it */
    const char *layer_name, *component;
    bool is_input;
    bool named; /* its key is the client's hook_id */
    glia_dtype dtype;
} glia_act_label;

/* An intervention whose numbers come from another run (edit_source.c). */
typedef enum glia_source_kind { GLIA_SOURCE_NONE, GLIA_SOURCE_PATCH, GLIA_SOURCE_MEAN, GLIA_SOURCE_RESAMPLE } glia_source_kind;
typedef struct glia_edit_source {
    glia_source_kind kind;
    yyjson_val *v; /* the request's `source`, NULL: its own prompt.  Borrowed while the request is read */
    size_t entry;  /* index in the request's list */
    size_t first, n; /* edits that it is for, one a layer */
    uint64_t seed;
} glia_edit_source;

/* The hooks and interventions of one request.  Owns everything it points to; clear with glia_acts_clear. */
typedef struct glia_acts {
    glia_act_format format;
    glia_hook *hooks;       /* [n] for the engine */
    glia_act_label *labels; /* [n] */
    size_t n;
    size_t n_listed; /* hooks in the request's own list */
    glia_edit *edits; /* [n_edits] for the engine */
    size_t *edit_sources; /* [n_edits] index in the request's list */
    size_t n_edits;
    glia_edit_source *sources;
    size_t n_sources;
    const struct glia_app *app; /* whose files interventions may name; NULL: none */
    char **keys; /* [n_keys] of the reply's activations object, all different */
    size_t n_keys;
    bool with_choice; /* several answers: every entry says which one it is from */
    void **owned; /* strings and lists */
    size_t n_owned, cap_owned;
} glia_acts;

/* Read activation_hooks and activation_format, then the hooks registered with the model (an array; NULL: none).  required:
 * EINVAL when there are none of either. */
glia_status glia_acts_parse(glia_acts *a, yyjson_val *root, yyjson_val *registered, bool required, int32_t n_layer,
                            const char *arch, glia_err *err);
/* Read interventions, after glia_acts_parse. */
glia_status glia_edits_parse(glia_acts *a, yyjson_val *root, int32_t n_layer, const char *arch, glia_err *err);
void glia_acts_clear(glia_acts *a);

/* The engine numbers its own hooks: make err->param name the hook or intervention of the request. */
void glia_acts_fix_param(const glia_acts *a, glia_err *err);
/* About how many bytes of reply `bytes` of float32 become, and at least how many are kept until it is sent. */
uint64_t glia_acts_reply_bytes(const glia_acts *a, uint64_t bytes);

/* Writes one entry in pieces, so that a stream holds only a piece of it. */
typedef struct glia_act_writer {
    const glia_acts *acts;
    const glia_frame *frame; /* borrowed until the entry is whole */
    size_t at;               /* floats written */
    size_t at_index;         /* indices written */
    bool open, in_indices;
    const char *tensor;      /* GLIA_ENC_TENSOR, GLIA_ENC_STORED: its name */
    int32_t choice;          /* written when acts->with_choice */
} glia_act_writer;
enum { GLIA_ACT_PIECE = 3 * 4096 }; /* floats; a multiple of 3 keeps base64 pieces joinable */

/* Append the next piece; true: the entry is whole.  Allocation failure shows in b.  RAW and TENSOR entries hold no data:
 * they are whole at once, their bytes come from glia_act_raw. */
bool glia_act_write(glia_act_writer *w, glia_buf *b);

/* The entry's numbers as bytes in the order of its shape, little-endian; behind them the indices (int32) of a top-k. */
uint64_t glia_act_raw_bytes(const glia_act_writer *w);
bool glia_act_raw(glia_act_writer *w, glia_buf *b); /* the next piece; true: that was the last */

/* Rows of one hook from all passes (format.merge). */
typedef struct glia_act_rows {
    glia_buf data, positions, token_ids, indices; /* float, int32_t, int32_t, int32_t */
    glia_buf n_cols, heads;              /* int32_t of each row of attention; which heads */
    glia_frame frame;                    /* all but the pointers */
} glia_act_rows;
void glia_act_rows_add(glia_act_rows *r, const glia_frame *f);
const glia_frame *glia_act_rows_frame(glia_act_rows *r); /* all rows as one frame, valid until clear; NULL: no memory */
void glia_act_rows_clear(glia_act_rows *r);

#endif

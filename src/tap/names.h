/* tap/names.h — what clients call a point → (point, layer).
 * Pure functions over constant tables.  Any thread.  Knows neither JSON, HTTP nor llama.
 *
 * Spellings: Glia's own ("resid_post.5"), TransformerLens ("blocks.5.hook_resid_post"), Hugging Face module paths
 * ("model.layers.5.self_attn", "transformer.h.5.mlp.c_proj", nnsight's "model.layers[5].mlp.output") and NeuroScope (a
 * module path plus a component such as "residual").  A name whose tensor is not exactly one of our points is refused with the reason: docs/HOOKS.md. */
#ifndef GLIA_TAP_NAMES_H
#define GLIA_TAP_NAMES_H
#include "base/buf.h"
#include "glia.h"

/* One hook as the client wrote it.  Strings are borrowed; NULL: not given. */
typedef struct glia_hook_spec {
    bool has_layer;         /* "layer" given as a number */
    int64_t layer;          /* negative: counted from the last layer */
    const char *layer_text; /* "layer" given as a string: a module path, digits or "*" */
    const char *layer_name; /* a module path */
    const char *component;
    const char *name;   /* a full name that needs nothing else */
    bool input, output; /* which side of the module; points by their own name have only an output */
} glia_hook_spec;

typedef struct glia_hook_target {
    size_t n_points; /* 1, or 2 when both sides were asked: the input first */
    glia_point point[2];
    bool is_input[2];
    bool all_layers; /* "*": layer is then 0 and stands for every layer */
    int32_t layer;   /* -1: the points have none */
} glia_hook_target;

/* arch is GGUF's general.architecture (NULL: a plain one): a few names mean another tensor there.
 * EINVAL: unknown or contradictory name, layer out of range.  EHOOK: known, but not served (yet).
 * err->param is the field of the hook: "layer", "layer_name", "name", "component", "capture_input". */
glia_status glia_names_resolve(const glia_hook_spec *s, int32_t n_layer, const char *arch, glia_hook_target *out,
                               glia_err *err);

/* The up to three entries of list nearest to word by edit distance, as `"a", "b" or "c"`, cut to cap bytes. */
void glia_nearest(const char *word, const char *const *list, size_t n, char *out, size_t cap);

/* The same in two steps: up to three entries, nearest first; returns how many.  join: `before` stands before each. */
enum { GLIA_N_NEAREST = 3 };
size_t glia_nearest_of(const char *word, const char *const *list, size_t n, const char *best[GLIA_N_NEAREST]);
void glia_nearest_join(const char *const *words, size_t n, const char *before, char *out, size_t cap);

/* The tables of docs/HOOKS.md, each between two marker lines, made of what resolves the names. */
void glia_names_page(glia_buf *b);

#endif

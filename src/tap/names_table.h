/* tap/names_table.h — the names that clients use, as data.  Constant; any thread; used by names.c, which resolves them, and
 * names_page.c, which writes them down. */
#ifndef GLIA_TAP_NAMES_TABLE_H
#define GLIA_TAP_NAMES_TABLE_H
#include "glia.h"

/* One side of a module: a point, or the reason why it cannot be had. */
typedef struct glia_name_side {
    int point; /* -1: refused */
    const char *why;
} glia_name_side;

typedef enum glia_name_family {
    GLIA_NAMES_BLOCK,
    GLIA_NAMES_ATTN,
    GLIA_NAMES_MLP,
    GLIA_NAMES_NORM,
    GLIA_NAMES_EMBED,
    GLIA_NAMES_FINAL,
    GLIA_NAMES_HEAD
} glia_name_family;

enum { GLIA_NAME_SPELLINGS = 13 };

/* Names of one module. */
typedef struct glia_name_row {
    glia_name_family family;
    bool general; /* a word for a kind of module ("attention"): of ".self_attn.o_proj" it means that module itself */
    glia_name_side out, in;
    const char *names[GLIA_NAME_SPELLINGS]; /* after the block's prefix, or whole; ended by NULL */
} glia_name_row;

typedef struct glia_name_table {
    const char *title;
    const glia_name_row *rows;
    size_t n;
} glia_name_table;

extern const glia_name_table glia_names_block;      /* Hugging Face paths in a block, after "model.layers.N." */
extern const glia_name_table glia_names_lens;       /* TransformerLens names in a block, after "blocks.N." */
extern const glia_name_table glia_names_outside;    /* paths outside the blocks */
extern const glia_name_table glia_names_components; /* NeuroScope's words */

/* The row that holds this name, or NULL. */
const glia_name_row *glia_names_find(const glia_name_table *t, const char *name);

/* In these architectures (llama.cpp's names) the row of `name` has other sides. */
typedef struct glia_name_rule {
    const char *const *archs; /* ended by NULL */
    const char *name;         /* any name of the row */
    glia_name_side out, in;
} glia_name_rule;

extern const glia_name_rule glia_name_rules[];
extern const size_t glia_n_name_rules;

/* The tensor of one side of a row in this architecture (NULL: a plain one). */
glia_name_side glia_names_side(const glia_name_row *row, bool input, const char *arch);

extern const char *const glia_block_prefixes[]; /* what stands before a block's number; ended by NULL */
extern const char *const glia_name_examples[];  /* whole names with N for numbers, to guess from; ended by NULL */

/* llama.cpp's own node names and the point that comes nearest.  Never served: they mean other tensors in other models. */
typedef struct glia_node_name {
    const char *name; /* before "-5" */
    glia_point point;
} glia_node_name;
extern const glia_node_name glia_node_names[]; /* ended by NULL */

/* Why a side is refused because there is none, told apart from the other reasons by its address. */
extern const char glia_names_no_side[];

#endif

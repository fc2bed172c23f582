/* engine/grammar/grammar.h — a grammar in GBNF, checked, bounded and flattened for matcher.c.
 *
 * Immutable once made; any thread may read it.  Knows no token and no model.
 *
 * Grammars come from clients: everything is bounded here, before anything is promised.  Repetitions become left
 * recursion or short chains of rules, so that their size adds up and never multiplies.  llama.cpp's own grammar sampler
 * was tried and left: its stacks grow exponentially with some grammars, `x{5,3}` never ends, counts above 2000 are
 * silently without a limit, and it throws through C.
 *
 *   root ::= "a" b? | [^x-z]{2,5} ( b "c" )*      # comments run to the end of the line
 * Terminals: "text", [classes], [^inverted], . (any character); escapes \n \r \t \\ \" \[ \] \- \xHH \uHHHH \UHHHHHHHH.
 * Postfix: ? * + {n} {n,} {n,m}.  Rules start at the beginning of a line; `root` is where the text begins. */
#ifndef GLIA_ENGINE_GRAMMAR_H
#define GLIA_ENGINE_GRAMMAR_H
#include "glia.h"

enum {
    GLIA_GRAMMAR_BYTES = 1 << 20,   /* longest text */
    GLIA_GRAMMAR_SYMBOLS = 1 << 18, /* after repetitions are spelled out */
    GLIA_GRAMMAR_REPEAT = 4096,     /* largest count of {n,m} */
    GLIA_GRAMMAR_DEPTH = 128        /* nested parentheses */
};

/* A place in a rule: what must come next.  Two kinds stand for characters, END for the end of an alternative. */
typedef enum glia_sym_kind { GLIA_SYM_END, GLIA_SYM_CHAR, GLIA_SYM_CLASS, GLIA_SYM_RULE, GLIA_SYM_ACCEPT } glia_sym_kind;
typedef struct glia_sym {
    uint32_t kind : 3;
    uint32_t value : 29; /* code point, class, rule */
} glia_sym;

typedef struct glia_char_range {
    uint32_t lo, hi; /* code points, inclusive */
} glia_char_range;

typedef struct glia_span {
    uint32_t first, n;
} glia_span;

typedef struct glia_grammar {
    glia_sym *syms;
    uint32_t *alts;     /* where alternatives begin in syms; those that match no finite text are left out */
    glia_span *rules;   /* their alternatives */
    glia_char_range *ranges; /* of all classes; of one class sorted, disjoint, without surrogates */
    glia_span *classes;
    uint32_t n_syms, n_alts, n_rules, n_ranges, n_classes;
    uint32_t root, accept; /* rule; the symbol behind the root */
} glia_grammar;

/* EINVAL: not GBNF, a rule is missing, or nothing can match.  ETOOLARGE does not occur: limits are EINVAL too, since the
 * field is wrong and not the body.  The message names line and reason. */
glia_status glia_grammar_new(glia_grammar **out, const char *gbnf, size_t n, glia_err *err);
void glia_grammar_free(glia_grammar *g);

bool glia_sym_takes(const glia_grammar *g, glia_sym s, uint32_t c);                /* this character */
bool glia_sym_meets(const glia_grammar *g, glia_sym s, uint32_t lo, uint32_t hi); /* some character of a range */
#endif

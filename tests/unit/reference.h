/* tests/unit/reference.h — what every captured row must be: rows of plain runs, and what a hook makes of them.
 *
 * A model here is causal: a row depends only on the tokens up to its own.  So one plain run over a long sequence (one
 * slot, no cache, the whole sequence in one pass) holds the rows of every request whose prompt is a prefix of it, and of
 * what it generates when the sequence is what the model itself goes on with: each sequence is a few given tokens,
 * continued greedily, with a penalty that lets no token occur twice, so that a label off by one is never right by chance.
 *
 * Kept apart from the code under test: what a hook selects and reduces is computed once more, in the plainest way. */
#ifndef GLIA_TEST_REFERENCE_H
#define GLIA_TEST_REFERENCE_H
#include "support.h"

typedef struct place {
    glia_point point;
    int32_t layer;
    glia_point_info info;
    int32_t width; /* of a row; by_position: n_heads * n_tokens */
    double scale;  /* largest |value| of any row of any sequence */
} place;

typedef struct sequence {
    int32_t *tokens; /* [n_tokens] */
    int32_t n_given; /* the model goes on with the rest by itself */
    float **rows;    /* [n_places] of [n_tokens, width] */
} sequence;

typedef struct reference {
    int32_t n_tokens, n_seqs, n_layer;
    place *places; /* every point of every layer that is served */
    size_t n_places;
    sequence *seqs;
    double tolerance; /* of |got - want| / scale */
} reference;

/* Runs the plain model once per sequence.  Sequence 0 begins anew, the others too or share a prefix of an earlier one.
 * Fails when neighbouring rows of some place are too alike for a shifted row to be found. */
reference *reference_new(const char *path, glia_flash flash, glia_kv_type kv, int32_t n_tokens, int32_t n_seqs,
                         double tolerance, uint32_t seed);
void reference_free(reference *f);

glia_sampling reference_sampling(void); /* how the sequences go on */

/* Is this position wanted by hook h of a request with n_prompt prompt tokens, in its phase? */
bool reference_wants(const glia_hook *h, int32_t n_prompt, int32_t pos);

/* What hook h delivers of the rows at positions pos[0 .. n): a statistic over all of them, or, n = 1, of that row.
 *   place        of its point and layer
 *   n_cols       by_position: columns of the row as it came
 *   got, indices as it came
 * Returns the error relative to the place's scale; INFINITY when something is not what it must be at all. */
double reference_error(const reference *f, const sequence *s, const place *p, const glia_hook *h, const int32_t *pos,
                       int32_t n, int32_t n_cols, const float *got, const int32_t *indices);

const place *reference_place(const reference *f, glia_point p, int32_t layer); /* NULL: not served */
#endif

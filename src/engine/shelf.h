/* engine/shelf.h — states of prompts that left their slot, kept in host memory until they are wanted again.
 *
 * Owns copies of token ids and opaque state bytes, within a byte budget; what was not used for longest goes first.
 * Engine thread only.  Knows no llama.h: what the bytes mean is prefix.c's affair. */
#ifndef GLIA_ENGINE_SHELF_H
#define GLIA_ENGINE_SHELF_H
#include "engine/tuning.h"

typedef struct glia_shelf glia_shelf;

typedef struct glia_shelved {
    int32_t *tokens; /* [n]: the state is that after exactly these */
    int32_t n;
    glia_tuning tuning; /* which adapters had computed it: others must not see it */
    uint8_t *state; /* [n_state] */
    size_t n_state;
    uint64_t used; /* for the order in which they go */
} glia_shelved;

/* whole: a state is only good at its very end (recurrent models, sliding windows).  NULL: out of memory. */
glia_shelf *glia_shelf_new(size_t budget, bool whole);
void glia_shelf_free(glia_shelf *s);

/* Some state here holds all of tokens[0 .. n): it is used from now on.  False: there is none. */
bool glia_shelf_has(glia_shelf *s, const glia_tuning *tuning, const int32_t *tokens, int32_t n);

/* Room for the state after tokens[0 .. n), to be filled by the caller.  NULL: out of memory. */
glia_shelved *glia_shelved_new(const glia_tuning *tuning, const int32_t *tokens, int32_t n, size_t n_state);
void glia_shelved_free(glia_shelved *e); /* one that was not put */

/* Takes *e.  States that it makes superfluous go, then as many others as it needs; one that is larger than the budget is
 * freed at once. */
void glia_shelf_put(glia_shelf *s, glia_shelved *e);

/* The state that saves a prompt the most: its beginning is the prompt's for *n_same tokens, at most `most` of which can
 * be used (whole: all of its tokens, or it cannot be used).  Valid until the next put.  NULL: none. */
glia_shelved *glia_shelf_find(glia_shelf *s, const glia_tuning *tuning, const int32_t *prompt, int32_t most, int32_t *n_same);
void glia_shelf_touch(glia_shelf *s, glia_shelved *e); /* it was used; s may be NULL */

/* What copying and computing cost on this machine: the fastest of each that was seen, 0 before the first.  On a GPU a prompt
 * may be computed faster than its state travels to the host and back. */
typedef struct glia_pace {
    double token_ms;     /* a prompt token */
    double out_ms, in_ms; /* a byte of a state out of the cache, into it */
} glia_pace;
void glia_pace_saw(double *best, double ms, double n); /* n tokens or bytes took ms */
/* Is it worth copying n_bytes out (when out) and in to save n_tokens?  True while something is unknown. */
bool glia_pace_copies(const glia_pace *p, int32_t n_tokens, size_t n_bytes, bool out);

size_t glia_shelf_bytes(const glia_shelf *s); /* ≤ budget */
int32_t glia_shelf_count(const glia_shelf *s);
#endif

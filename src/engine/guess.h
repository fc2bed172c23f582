/* engine/guess.h — speculative decoding without a second model: what a text has said before, it may say again.
 *
 * Pure; any thread.  Knows no slot and no model. */
#ifndef GLIA_ENGINE_GUESS_H
#define GLIA_ENGINE_GUESS_H
#include <stdint.h>

enum { GLIA_GUESS_MOST = 32 }; /* tokens guessed at once */

/* Look the last tokens of a text up, the last 4, else 3, else 2, where they occurred before; guess what followed there.
 * Repetitions that run into the end go on.
 *   text       [n] prompt and answer so far
 *   predicted  [n_predicted] what the client expects the answer to be; looked at first, there also the last token alone
 *   *cursor    behind the place in `predicted` that was found last: the search goes on there.  0 at the beginning
 * Returns how many of `most` were written to out. */
int32_t glia_guess(const int32_t *text, int32_t n, const int32_t *predicted, int32_t n_predicted, int32_t *cursor,
                   int32_t most, int32_t *out);

/* How many to guess next time: twice as many after a guess that was right to its end, else one more than were right. */
int32_t glia_guess_next(int32_t guessed, int32_t right, int32_t most);
#endif

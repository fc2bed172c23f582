/* engine/guess.c — see guess.h. */
#include "engine/guess.h"
#include <stdbool.h>

enum { LONGEST = 4, SHORTEST = 2 };

static bool matches(const int32_t *at_end, const int32_t *tail_end, int32_t g) {
    for (int32_t i = 1; i <= g; i++) {
        if (at_end[-i] != tail_end[-i]) return false;
    }
    return true;
}

/* Behind the last earlier occurrence of the text's last g tokens; 0: none. */
static int32_t find_before(const int32_t *text, int32_t n, int32_t g) {
    for (int32_t end = n - 1; end >= g; end--) {
        if (matches(text + end, text + n, g)) return end;
    }
    return 0;
}

static int32_t find_from(const int32_t *in, int32_t n_in, int32_t from, const int32_t *tail_end, int32_t g) {
    for (int32_t end = from < g ? g : from; end < n_in; end++) {
        if (matches(in + end, tail_end, g)) return end;
    }
    return 0;
}

static int32_t guess_predicted(const int32_t *text, int32_t n, const int32_t *predicted, int32_t n_predicted,
                               int32_t *cursor, int32_t most, int32_t *out) {
    int32_t at = 0;
    for (int32_t g = LONGEST; g >= 1 && !at; g--) {
        if (g > n) continue;
        at = find_from(predicted, n_predicted, *cursor, text + n, g);
        if (!at && g >= SHORTEST) at = find_from(predicted, n_predicted, 0, text + n, g); /* it went back */
    }
    if (!at) return 0;
    *cursor = at;
    int32_t k = 0;
    while (k < most && at + k < n_predicted) out[k] = predicted[at + k], k++;
    return k;
}

int32_t glia_guess(const int32_t *text, int32_t n, const int32_t *predicted, int32_t n_predicted, int32_t *cursor,
                   int32_t most, int32_t *out) {
    int32_t k = n_predicted > 0 ? guess_predicted(text, n, predicted, n_predicted, cursor, most, out) : 0;
    for (int32_t g = LONGEST; g >= SHORTEST && !k; g--) {
        int32_t at = g < n ? find_before(text, n, g) : 0;
        for (; at && k < most; k++) out[k] = at + k < n ? text[at + k] : out[at + k - n];
    }
    return k;
}

int32_t glia_guess_next(int32_t guessed, int32_t right, int32_t most) {
    int32_t n = right == guessed ? 2 * guessed : right + 1;
    return n < 1 ? 1 : n > most ? most : n;
}

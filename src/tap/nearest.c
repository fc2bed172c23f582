/* tap/nearest.c — the words of a list that a mistyped one probably meant.  Pure; any thread. */
#include "tap/names.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { WORD_MAX = 63 };

/* Levenshtein distance, letter case ignored; both cut to WORD_MAX. */
static unsigned distance(const char *a, const char *b) {
    size_t na = strnlen(a, WORD_MAX), nb = strnlen(b, WORD_MAX);
    unsigned row[WORD_MAX + 1];
    for (size_t j = 0; j <= nb; j++) row[j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned up = row[j];
            unsigned best = diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = up;
        }
    }
    return row[nb];
}

/* Order for "did you mean": edits, but a candidate that contains the word (or the reverse) comes first. */
static unsigned farness(const char *word, const char *candidate) {
    unsigned d = 2 * distance(word, candidate);
    if (strlen(word) >= 3 && (strcasestr(candidate, word) || strcasestr(word, candidate))) d /= 2;
    return d;
}

size_t glia_nearest_of(const char *word, const char *const *list, size_t n, const char *best[GLIA_N_NEAREST]) {
    unsigned far[GLIA_N_NEAREST];
    size_t n_best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!list[i][0]) continue;
        unsigned d = farness(word, list[i]);
        size_t at = n_best;
        while (at > 0 && d < far[at - 1]) at--;
        if (at >= GLIA_N_NEAREST) continue;
        if (n_best < GLIA_N_NEAREST) n_best++;
        for (size_t j = n_best - 1; j > at; j--) best[j] = best[j - 1], far[j] = far[j - 1];
        best[at] = list[i], far[at] = d;
    }
    return n_best;
}

void glia_nearest_join(const char *const *words, size_t n, const char *before, char *out, size_t cap) {
    size_t at = 0;
    if (cap) out[0] = 0;
    for (size_t i = 0; i < n && at < cap; i++) {
        int w = snprintf(out + at, cap - at, "%s\"%s%s\"", !i ? "" : i + 1 == n ? " or " : ", ", before, words[i]);
        if (w < 0) return;
        at += (size_t)w;
    }
}

void glia_nearest(const char *word, const char *const *list, size_t n, char *out, size_t cap) {
    const char *best[GLIA_N_NEAREST];
    glia_nearest_join(best, glia_nearest_of(word, list, n, best), "", out, cap);
}

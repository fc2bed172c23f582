/* Any text as a grammar, and any bytes read by it: an error or a verdict, never a crash, never without end. */
#include "engine/grammar/matcher.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    glia_grammar *g;
    glia_matcher *m;
    glia_err err = {0};
    if (size > 2048) return 0;
    const uint8_t *cut = memchr(data, 0, size); /* grammar, NUL, what is read */
    size_t n = cut ? (size_t)(cut - data) : size;
    char *text = malloc(n + 1);
    if (!text) return 0;
    memcpy(text, data, n);
    text[n] = 0;
    if (glia_grammar_new(&g, text, n, &err)) {
        if (!err.message[0] || g) abort();
    } else if (!glia_matcher_new(&m, g, &err)) {
        for (size_t i = n + 1; i < size; i++) {
            bool may = glia_matcher_may_end(m);
            glia_match r = glia_matcher_read(m, (const char *)data + i, 1);
            if (r == GLIA_MATCH_NO && may != glia_matcher_may_end(m)) abort(); /* nothing may have changed */
            if (r != GLIA_MATCH_YES) break;
        }
        glia_matcher_free(m);
    }
    glia_grammar_free(g);
    free(text);
    return 0;
}

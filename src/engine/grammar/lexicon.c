/* engine/grammar/lexicon.c — sorted texts of a vocabulary.  Any thread (the vocabulary is only read). */
#include "engine/grammar/lexicon.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "llama.h"
#include <stdlib.h>
#include <string.h>

const char *glia_lexicon_text(const glia_lexicon *l, int32_t id, size_t *n) {
    *n = l->offset[id + 1] - l->offset[id];
    return l->bytes + l->offset[id];
}

static int by_text(const void *a, const void *b, void *ud) {
    const glia_lexicon *l = ud;
    size_t n, k;
    const char *x = glia_lexicon_text(l, *(const int32_t *)a, &n), *y = glia_lexicon_text(l, *(const int32_t *)b, &k);
    int c = memcmp(x, y, n < k ? n : k);
    return c ? c : (n > k) - (n < k);
}

static bool add_text(glia_buf *b, const struct llama_vocab *vocab, int32_t id) {
    if (!glia_buf_reserve(b, 256)) return false;
    int32_t n = llama_token_to_piece(vocab, id, b->p + b->n, 256, 0, true);
    if (n < 0) {
        if (!glia_buf_reserve(b, (size_t)-n)) return false;
        n = llama_token_to_piece(vocab, id, b->p + b->n, -n, 0, true);
    }
    if (n > 0) b->n += (size_t)n;
    return true;
}

static uint8_t kind_of(const struct llama_vocab *vocab, int32_t id) {
    enum llama_token_attr a = llama_vocab_get_attr(vocab, id);
    if (llama_vocab_is_eog(vocab, id)) return GLIA_TOKEN_EOG;
    return a & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_UNUSED) ? GLIA_TOKEN_SPECIAL
                                                                                               : GLIA_TOKEN_TEXT;
}

static uint16_t common_bytes(const glia_lexicon *l, int32_t a, int32_t b) {
    size_t n, k, i = 0;
    const char *x = glia_lexicon_text(l, a, &n), *y = glia_lexicon_text(l, b, &k);
    if (n > k) n = k;
    if (n > GLIA_MATCH_BYTES) n = GLIA_MATCH_BYTES;
    while (i < n && x[i] == y[i]) i++;
    return (uint16_t)i;
}

glia_status glia_lexicon_new(glia_lexicon **out, const struct llama_vocab *vocab, glia_err *err) {
    glia_lexicon *l = *out = glia_calloc(1, sizeof *l);
    glia_buf b = {0};
    size_t n = (size_t)llama_vocab_n_tokens(vocab);
    bool ok = l != NULL;
    if (ok) {
        l->n = (int32_t)n;
        l->offset = glia_calloc(n + 1, sizeof *l->offset);
        l->kind = glia_calloc(n, sizeof *l->kind);
        l->sorted = glia_calloc(n, sizeof *l->sorted);
        l->shared = glia_calloc(n, sizeof *l->shared);
        ok = l->offset && l->kind && l->sorted && l->shared;
    }
    for (int32_t id = 0; ok && id < l->n; id++) {
        ok = add_text(&b, vocab, id) && b.n < UINT32_MAX;
        if (!ok) break;
        l->offset[id + 1] = (uint32_t)b.n, l->kind[id] = kind_of(vocab, id), l->sorted[id] = id;
    }
    ok = ok && (l->bytes = glia_buf_take(&b, &(size_t){0})) != NULL;
    glia_buf_clear(&b);
    if (!ok) {
        glia_lexicon_free(l);
        *out = NULL;
        return glia_fail(err, GLIA_ENOMEM, "out of memory for the vocabulary's texts");
    }
    qsort_r(l->sorted, n, sizeof *l->sorted, by_text, l);
    for (size_t i = 1; i < n; i++) l->shared[i] = common_bytes(l, l->sorted[i - 1], l->sorted[i]);
    return GLIA_OK;
}

void glia_lexicon_free(glia_lexicon *l) {
    if (!l) return;
    glia_free(l->bytes), glia_free(l->offset), glia_free(l->kind), glia_free(l->sorted), glia_free(l->shared);
    glia_free(l);
}

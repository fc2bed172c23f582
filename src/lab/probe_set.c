/* lab/probe_set.c — see probe_set.h. */
#include "lab/probe_set.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

/* Ordinary tokens are shown as the same text whether special ones are shown or not. */
static glia_status is_ordinary(const glia_model *m, int32_t id, bool *yes, glia_err *err) {
    char *plain = NULL, *special = NULL;
    size_t n_plain, n_special;
    glia_status st = glia_model_detokenize(m, &id, 1, false, &plain, &n_plain, err);
    if (!st) st = glia_model_detokenize(m, &id, 1, true, &special, &n_special, err);
    *yes = !st && n_plain > 0 && n_plain == n_special && !memcmp(plain, special, n_plain);
    glia_free(plain);
    glia_free(special);
    return st;
}

static bool contains(const int32_t *list, size_t n, int32_t id) {
    for (size_t i = 0; i < n; i++) {
        if (list[i] == id) return true;
    }
    return false;
}

static glia_status draw_half(int32_t *out, size_t half, const glia_model *m, size_t n_vocab, glia_rng *g,
                             glia_err *err) {
    size_t tries = 0;
    for (size_t i = 0; i < half;) {
        bool ordinary;
        int32_t id = (int32_t)glia_rng_below(g, n_vocab);
        if (++tries > 100 * half + 10000) {
            return glia_fail(err, GLIA_EINVAL,
                             "the vocabulary has too few ordinary tokens for sequences of %zu different ones", half);
        }
        if (contains(out, i, id)) continue;
        glia_status st = is_ordinary(m, id, &ordinary, err);
        if (st) return st;
        if (ordinary) out[i++] = id;
    }
    return GLIA_OK;
}

glia_status glia_probe_set_make(glia_probe_set *out, const glia_model *m, size_t n, size_t half, glia_rng *g,
                                glia_err *err) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    *out = (glia_probe_set){.n = n, .half = half};
    int32_t *before = NULL;
    glia_status st = glia_model_tokenize(m, "", 0, true, false, &before, &out->n_before, err);
    if (st) return st;
    out->length = out->n_before + 2 * half;
    if (out->length > (size_t)info.n_ctx) {
        st =
            glia_fail(err, GLIA_EINVAL, "probes of 2 × %zu tokens do not fit the context of %d", half, (int)info.n_ctx);
    } else if (!(out->tokens = glia_malloc((n * out->length + 1) * sizeof *out->tokens))) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for %zu probes", n);
    }
    for (size_t i = 0; i < n && !st; i++) {
        int32_t *row = out->tokens + i * out->length, *first = row + out->n_before;
        if (out->n_before) memcpy(row, before, out->n_before * sizeof *row);
        st = draw_half(first, half, m, (size_t)info.n_vocab, g, err);
        if (!st) memcpy(first + half, first, half * sizeof *first);
    }
    glia_free(before);
    return st;
}

void glia_probe_set_clear(glia_probe_set *p) {
    glia_free(p->tokens);
    *p = (glia_probe_set){0};
}

/* ASCII punctuation, U+2010 … U+205E (general punctuation), U+3001 … U+3003, U+00A1, U+00A7, U+00AB, U+00B6, U+00B7, U+00BB,
 * U+00BF; spaces beside them. */
static bool is_punctuation(const char *text, size_t n) {
    const unsigned char *s = (const unsigned char *)text;
    bool any = false;
    for (size_t i = 0; i < n;) {
        if (s[i] == ' ' || s[i] == '\n' || s[i] == '\t') {
            i++;
        } else if (s[i] < 0x80) {
            if (!strchr("!\"#%&'()*,-./:;?@[\\]_{}", s[i])) return false;
            any = true, i++;
        } else if (n - i >= 2 && s[i] == 0xC2) {
            if (!memchr("\xA1\xA7\xAB\xB6\xB7\xBB\xBF", s[i + 1], 7)) return false;
            any = true, i += 2;
        } else if (n - i >= 3 && ((s[i] == 0xE2 && (s[i + 1] == 0x80 || s[i + 1] == 0x81) && s[i + 2] >= 0x80) ||
                                  (s[i] == 0xE3 && s[i + 1] == 0x80 && s[i + 2] >= 0x81 && s[i + 2] <= 0x83))) {
            any = true, i += 3;
        } else {
            return false;
        }
    }
    return any;
}

glia_status glia_find_punctuation(const glia_model *m, const int32_t *tokens, size_t n, bool *flags, glia_err *err) {
    for (size_t i = 0; i < n; i++) {
        char *text;
        size_t n_text;
        glia_status st = glia_model_detokenize(m, &tokens[i], 1, false, &text, &n_text, err);
        if (st) return st;
        flags[i] = is_punctuation(text, n_text);
        glia_free(text);
    }
    return GLIA_OK;
}

/* engine/shelf.c — see shelf.h.  A few dozen large entries at most: linear walks cost nothing beside one copied state. */
#include "engine/shelf.h"
#include "base/mem.h"
#include "glia.h"
#include <string.h>

enum { MOST_ENTRIES = 4096 };

struct glia_shelf {
    glia_shelved **entry; /* [n_alloc], the first n in use, in no order */
    int32_t n, n_alloc;
    size_t budget, n_bytes;
    uint64_t clock;
    bool whole;
};

static size_t entry_bytes(int32_t n, size_t n_state) {
    return n_state + (size_t)n * sizeof(int32_t) + sizeof(glia_shelved);
}

glia_shelf *glia_shelf_new(size_t budget, bool whole) {
    glia_shelf *s = glia_calloc(1, sizeof *s);
    if (s) s->budget = budget, s->whole = whole;
    return s;
}

void glia_shelved_free(glia_shelved *e) {
    if (!e) return;
    glia_free(e->tokens);
    glia_free(e->state);
    glia_free(e);
}

void glia_shelf_free(glia_shelf *s) {
    if (!s) return;
    for (int32_t i = 0; i < s->n; i++) glia_shelved_free(s->entry[i]);
    glia_free((void *)s->entry);
    glia_free(s);
}

static void drop_at(glia_shelf *s, int32_t i) {
    s->n_bytes -= entry_bytes(s->entry[i]->n, s->entry[i]->n_state);
    glia_shelved_free(s->entry[i]);
    s->entry[i] = s->entry[--s->n];
}

void glia_shelf_touch(glia_shelf *s, glia_shelved *e) {
    if (s) e->used = ++s->clock;
}

static int32_t same(const int32_t *a, const int32_t *b, int32_t n) {
    int32_t i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

bool glia_shelf_has(glia_shelf *s, const glia_tuning *tuning, const int32_t *tokens, int32_t n) {
    for (int32_t i = 0; i < s->n; i++) {
        glia_shelved *e = s->entry[i];
        if (!glia_tuning_same(&e->tuning, tuning) || (s->whole ? e->n != n : e->n < n) || same(e->tokens, tokens, n) < n) continue;
        glia_shelf_touch(s, e);
        return true;
    }
    return false;
}

static int32_t oldest(const glia_shelf *s) {
    int32_t k = 0;
    for (int32_t i = 1; i < s->n; i++) {
        if (s->entry[i]->used < s->entry[k]->used) k = i;
    }
    return k;
}

glia_shelved *glia_shelved_new(const glia_tuning *tuning, const int32_t *tokens, int32_t n, size_t n_state) {
    glia_shelved *e = glia_calloc(1, sizeof *e);
    if (!e) return NULL;
    *e = (glia_shelved){.n = n, .tuning = *tuning, .n_state = n_state};
    e->tokens = glia_malloc((size_t)n * sizeof *tokens + 1);
    e->state = glia_malloc(n_state + 1);
    if (!e->tokens || !e->state) {
        glia_shelved_free(e);
        return NULL;
    }
    memcpy(e->tokens, tokens, (size_t)n * sizeof *tokens);
    return e;
}

void glia_shelf_put(glia_shelf *s, glia_shelved *e) {
    size_t need = entry_bytes(e->n, e->n_state);
    if (need <= s->budget) {
        /* a state that can be cut makes every beginning of itself superfluous */
        for (int32_t i = s->n - 1; i >= 0 && !s->whole; i--) {
            const glia_shelved *x = s->entry[i];
            if (glia_tuning_same(&x->tuning, &e->tuning) && x->n <= e->n && same(x->tokens, e->tokens, x->n) == x->n) drop_at(s, i);
        }
        while (s->n && (s->n_bytes + need > s->budget || s->n == MOST_ENTRIES)) drop_at(s, oldest(s));
        if (s->n == s->n_alloc) {
            int32_t more = s->n_alloc ? s->n_alloc * 2 : 16;
            glia_shelved **p = (glia_shelved **)glia_realloc((void *)s->entry, (size_t)more * sizeof *p);
            if (p) s->entry = p, s->n_alloc = more;
        }
        if (s->n < s->n_alloc) {
            e->used = ++s->clock;
            s->entry[s->n++] = e, e = NULL;
            s->n_bytes += need;
        }
    }
    glia_shelved_free(e);
}

glia_shelved *glia_shelf_find(glia_shelf *s, const glia_tuning *tuning, const int32_t *prompt, int32_t most, int32_t *n_same) {
    glia_shelved *best = NULL;
    *n_same = 0;
    for (int32_t i = 0; i < s->n; i++) {
        glia_shelved *e = s->entry[i];
        if (!glia_tuning_same(&e->tuning, tuning) || (s->whole && e->n > most)) continue;
        int32_t n = same(e->tokens, prompt, e->n < most ? e->n : most);
        if (s->whole && n < e->n) continue;
        if (n > *n_same) best = e, *n_same = n;
    }
    return best;
}

size_t glia_shelf_bytes(const glia_shelf *s) { return s->n_bytes; }
int32_t glia_shelf_count(const glia_shelf *s) { return s->n; }

/* ------------------------------------------------------------------ what is worth it */

void glia_pace_saw(double *best, double ms, double n) {
    double each = n > 0 ? ms / n : 0;
    if (each > 0 && (*best <= 0 || each < *best)) *best = each;
}

bool glia_pace_copies(const glia_pace *p, int32_t n_tokens, size_t n_bytes, bool out) {
    double in = p->in_ms > 0 ? p->in_ms : p->out_ms; /* nothing has come back yet: as fast as it left */
    if (p->token_ms <= 0 || p->out_ms <= 0) return true;
    return (double)n_bytes * (in + (out ? p->out_ms : 0)) < n_tokens * p->token_ms;
}

/* engine/text.c — stop strings across token borders, UTF-8 never cut.  One thread. */
#include "text.h"
#include "base/utf8.h"
#include <string.h>

void glia_text_clear(glia_text *t) {
    glia_buf_clear(&t->held);
    *t = (glia_text){0};
}

/* Append n bytes as valid UTF-8. */
static void add_valid(glia_buf *out, const char *p, size_t n) {
    if (glia_utf8_valid(p, n)) {
        glia_buf_add(out, p, n);
        return;
    }
    for (size_t i = 0; i < n;) {
        size_t k = n - i < 4 ? n - i : 4;
        while (k && !glia_utf8_valid(p + i, k)) k--;
        /* k valid bytes from here; take one character at a time so that one bad byte costs one replacement */
        if (k) glia_buf_add(out, p + i, k), i += k;
        else glia_buf_adds(out, "\xef\xbf\xbd"), i++;
    }
}

static void hand_out(glia_text *t, size_t n, glia_buf *out) {
    add_valid(out, t->held.p, n);
    memmove(t->held.p, t->held.p + n, t->held.n - n);
    t->held.n -= n;
    t->held.p[t->held.n] = 0;
}

int glia_text_add(glia_text *t, const char *bytes, size_t n, glia_buf *out) {
    if (!glia_buf_add(&t->held, bytes, n) || !t->held.n) return -1;
    size_t cut = t->held.n;
    int hit = -1;
    for (size_t s = 0; s < t->n_stop; s++) { /* the earliest stop string wins */
        const char *at = memmem(t->held.p, t->held.n, t->stop[s], strlen(t->stop[s]));
        if (at && (size_t)(at - t->held.p) < cut) cut = (size_t)(at - t->held.p), hit = (int)s;
    }
    if (hit >= 0) {
        hand_out(t, cut, out);
        t->held.n = 0;
        return hit;
    }
    for (size_t s = 0; s < t->n_stop; s++) { /* keep the longest tail that begins a stop string */
        size_t len = strlen(t->stop[s]), max = len - 1 < t->held.n ? len - 1 : t->held.n;
        for (size_t k = max; k > 0; k--) {
            if (!memcmp(t->held.p + t->held.n - k, t->stop[s], k)) {
                if (t->held.n - k < cut) cut = t->held.n - k;
                break;
            }
        }
    }
    hand_out(t, glia_utf8_whole(t->held.p, cut), out);
    return -1;
}

void glia_text_finish(glia_text *t, glia_buf *out) {
    if (t->held.n) hand_out(t, t->held.n, out);
}

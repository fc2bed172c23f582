/* engine/grammar/constrain.c — a grammar over tokens, from the start or from a trigger on. */
#include "engine/grammar/constrain.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include <string.h>

enum { MAX_TRIGGERS = 64, MAX_KEPT = 256, MAX_PREFIX = 1 << 16 };

struct glia_rules {
    glia_grammar *grammar; /* NULL: only tokens to keep */
    const glia_lexicon *lex;
    char *prefix;
    char *triggers[MAX_TRIGGERS];
    size_t n_triggers, longest; /* bytes of the longest trigger */
    bool begins;                /* the text begins with one of them */
    int32_t kept[MAX_KEPT];
    size_t n_kept;
};

struct glia_constrainer {
    const glia_rules *r;
    glia_matcher *matcher; /* NULL: no trigger has come yet */
    glia_buf tail;         /* without a matcher: the end of the text, enough for a trigger to begin in */
    bool opened;           /* the text begins as it must; until then tail is all of it */
    glia_err err;
};

/* ------------------------------------------------------------------ rules */

bool glia_rules_keeps(const glia_rules *r, int32_t token) {
    for (size_t i = 0; r && i < r->n_kept; i++) {
        if (r->kept[i] == token) return true;
    }
    return false;
}

/* Special tokens by name; names that are ordinary text in this vocabulary need no keeping. */
static void find_kept(glia_rules *r, const glia_constraint *c) {
    for (int32_t id = 0; c->n_kept && id < r->lex->n; id++) {
        if (r->lex->kind[id] == GLIA_TOKEN_TEXT) continue;
        size_t n;
        const char *text = glia_lexicon_text(r->lex, id, &n);
        for (size_t i = 0; i < c->n_kept && r->n_kept < MAX_KEPT; i++) {
            if (strlen(c->kept[i]) != n || memcmp(c->kept[i], text, n) != 0) continue;
            r->kept[r->n_kept++] = id;
            break;
        }
    }
}

static glia_status copy_triggers(glia_rules *r, const glia_constraint *c, glia_err *err) {
    if (c->n_triggers > MAX_TRIGGERS)
        return glia_fail_at(err, GLIA_EINVAL, "grammar", "more than %d triggers", (int)MAX_TRIGGERS);
    for (size_t i = 0; i < c->n_triggers; i++) {
        size_t n = strlen(c->triggers[i]);
        if (!n || n > GLIA_MATCH_BYTES)
            return glia_fail_at(err, GLIA_EINVAL, "grammar", "a trigger is empty or too long");
        if (!(r->triggers[i] = glia_strdup(c->triggers[i]))) return glia_fail(err, GLIA_ENOMEM, "out of memory");
        if (n > r->longest) r->longest = n;
        r->n_triggers++;
    }
    return GLIA_OK;
}

/* Why m answered GLIA_MATCH_FAILED. */
static glia_status matcher_error(const glia_matcher *m, glia_err *err) {
    return glia_matcher_no_memory(m) ? glia_fail(err, GLIA_ENOMEM, "%s", glia_matcher_why(m))
                                     : glia_fail_at(err, GLIA_EINVAL, "grammar", "%s", glia_matcher_why(m));
}

/* A matcher that has read the prefix. */
static glia_status new_matcher(const glia_rules *r, glia_matcher **out, glia_err *err) {
    glia_status st = glia_matcher_new(out, r->grammar, err);
    if (st || !r->prefix) return st;
    glia_match m = glia_matcher_read(*out, r->prefix, strlen(r->prefix));
    if (m == GLIA_MATCH_YES) return GLIA_OK;
    st = m == GLIA_MATCH_NO
             ? glia_fail_at(err, GLIA_EINVAL, "grammar", "the grammar does not fit how the answer begins")
             : matcher_error(*out, err);
    glia_matcher_free(*out);
    *out = NULL;
    return st;
}

/* May this grammar begin with one of its triggers?  (It may match nothing at all, and a demanded call would not come.) */
static glia_status check_beginnings(const glia_rules *r, glia_err *err) {
    glia_match m = GLIA_MATCH_NO;
    for (size_t i = 0; i < r->n_triggers && m == GLIA_MATCH_NO; i++) {
        glia_matcher *trial;
        glia_status st = new_matcher(r, &trial, err);
        if (st) return st;
        m = glia_matcher_read(trial, r->triggers[i], strlen(r->triggers[i]));
        if (m == GLIA_MATCH_FAILED) st = matcher_error(trial, err);
        glia_matcher_free(trial);
        if (st) return st;
    }
    if (m == GLIA_MATCH_YES) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, "grammar", "the grammar begins with none of its triggers");
}

glia_status glia_rules_new(glia_rules **out, const glia_constraint *c, const glia_lexicon *lex, glia_err *err) {
    glia_status st = GLIA_OK;
    glia_matcher *trial = NULL;
    glia_rules *r = *out = glia_calloc(1, sizeof *r);
    if (!r) return glia_fail(err, GLIA_ENOMEM, "out of memory for a grammar");
    r->lex = lex;
    find_kept(r, c);
    if (c->grammar) {
        if ((st = glia_grammar_new(&r->grammar, c->grammar, c->n_grammar, err))) goto done;
        if ((st = copy_triggers(r, c, err))) goto done;
        r->begins = c->begins;
        if (r->begins && (st = check_beginnings(r, err))) goto done;
        if (c->prefix && c->prefix[0] && !r->n_triggers) {
            if (strlen(c->prefix) > MAX_PREFIX) st = glia_fail(err, GLIA_EINVAL, "the answer's beginning is too long");
            else if (!(r->prefix = glia_strdup(c->prefix))) st = glia_fail(err, GLIA_ENOMEM, "out of memory");
            if (st) goto done;
        }
        if ((st = new_matcher(r, &trial, err))) goto done; /* what cannot even begin is said now, not on the way */
    }
done:
    glia_matcher_free(trial);
    if (st) glia_rules_free(r), *out = NULL;
    return st;
}

void glia_rules_free(glia_rules *r) {
    if (!r) return;
    glia_grammar_free(r->grammar);
    for (size_t i = 0; i < r->n_triggers; i++) glia_free(r->triggers[i]);
    glia_free(r->prefix);
    glia_free(r);
}

/* ------------------------------------------------------------------ one answer */

glia_status glia_constrainer_new(glia_constrainer **out, const glia_rules *r, glia_err *err) {
    *out = NULL;
    if (!r || !r->grammar) return GLIA_OK;
    glia_constrainer *c = glia_calloc(1, sizeof *c);
    if (!c) return glia_fail(err, GLIA_ENOMEM, "out of memory for the grammar");
    c->r = r;
    c->opened = !r->begins;
    glia_status st = r->n_triggers && !r->begins ? GLIA_OK : new_matcher(r, &c->matcher, err);
    if (st) glia_constrainer_free(c);
    else *out = c;
    return st;
}

void glia_constrainer_free(glia_constrainer *c) {
    if (!c) return;
    glia_matcher_free(c->matcher);
    glia_buf_clear(&c->tail);
    glia_free(c);
}

static glia_match no_memory(glia_constrainer *c) {
    if (!c->err.status) (void)glia_fail(&c->err, GLIA_ENOMEM, "out of memory for the grammar");
    return GLIA_MATCH_FAILED;
}

static glia_match checked(glia_constrainer *c, glia_match m) {
    if (m != GLIA_MATCH_FAILED) return m;
    if (!c->err.status) (void)matcher_error(c->matcher, &c->err);
    return m;
}

/* Where the earliest trigger begins in tail + text; SIZE_MAX: in neither.  *both is that text. */
static size_t find_trigger(glia_constrainer *c, const char *text, size_t n, glia_buf *both) {
    size_t first = SIZE_MAX;
    glia_buf_add(both, c->tail.p, c->tail.n);
    glia_buf_add(both, text, n);
    for (size_t i = 0; i < c->r->n_triggers && !both->failed && both->n; i++) {
        const char *at = memmem(both->p, both->n, c->r->triggers[i], strlen(c->r->triggers[i]));
        if (at && (size_t)(at - both->p) < first) first = (size_t)(at - both->p);
    }
    return first;
}

/* Read a token's text while no trigger has come; with keep, remember it. */
static glia_match read_free(glia_constrainer *c, int32_t token, bool keep) {
    size_t n;
    const char *text = glia_lexicon_text(c->r->lex, token, &n);
    if (c->r->lex->kind[token] != GLIA_TOKEN_TEXT && !glia_rules_keeps(c->r, token)) return GLIA_MATCH_YES;
    glia_buf both = {0};
    glia_matcher *m = NULL;
    glia_match result = GLIA_MATCH_YES;
    size_t at = find_trigger(c, text, n, &both);
    if (both.failed) {
        result = no_memory(c);
    } else if (at != SIZE_MAX) {
        if (new_matcher(c->r, &m, &c->err)) result = GLIA_MATCH_FAILED;
        else result = glia_matcher_read(m, both.p + at, both.n - at);
    }
    if (keep && result == GLIA_MATCH_YES && m) {
        c->matcher = m, m = NULL;
    } else if (keep && result == GLIA_MATCH_YES) {
        size_t rest = both.n < c->r->longest ? both.n : c->r->longest;
        c->tail.n = 0;
        if (!glia_buf_add(&c->tail, both.p + (both.n - rest), rest)) result = no_memory(c);
    }
    glia_matcher_free(m);
    glia_buf_clear(&both);
    return result;
}

/* Does the text begin with a trigger, or with a part of one, when these bytes follow?  *whole: with all of it. */
static bool fits_opening(const glia_constrainer *c, const char *text, size_t n, bool *whole) {
    bool fits = false;
    *whole = false;
    for (size_t i = 0; i < c->r->n_triggers; i++) {
        const char *t = c->r->triggers[i];
        size_t left = strlen(t), had = c->tail.n; /* had < left: else it was opened, or another one is */
        if (had > left || (had && memcmp(c->tail.p, t, had) != 0)) continue;
        left -= had;
        if (memcmp(t + had, text, n < left ? n : left) != 0) continue;
        fits = true;
        *whole |= n >= left;
    }
    return fits;
}

/* Before the answer has opened: may it go on with this text? */
static bool may_follow(const glia_constrainer *c, const char *text, size_t n) {
    bool whole;
    return c->opened || fits_opening(c, text, n, &whole);
}

/* A token as far as its kind goes: YES and NO are final, FAILED means: look at its text. */
static glia_match by_kind(const glia_constrainer *c, int32_t token) {
    uint8_t kind = c->r->lex->kind[token];
    if (kind == GLIA_TOKEN_EOG && glia_constrainer_may_end(c)) return GLIA_MATCH_YES;
    if (kind != GLIA_TOKEN_TEXT && glia_rules_keeps(c->r, token)) return GLIA_MATCH_FAILED;
    if (kind == GLIA_TOKEN_EOG) return GLIA_MATCH_NO;
    if (kind == GLIA_TOKEN_SPECIAL) return c->matcher ? GLIA_MATCH_NO : GLIA_MATCH_YES;
    return GLIA_MATCH_FAILED;
}

glia_match glia_constrainer_allows(glia_constrainer *c, int32_t token) {
    size_t n;
    glia_match m = by_kind(c, token);
    if (m != GLIA_MATCH_FAILED) return m;
    if (!c->matcher) return read_free(c, token, false);
    const char *text = glia_lexicon_text(c->r->lex, token, &n);
    if (!n || !may_follow(c, text, n)) return GLIA_MATCH_NO; /* without text it would never come to an end */
    glia_matcher_try_begin(c->matcher);
    m = checked(c, glia_matcher_try(c->matcher, text, n, 0));
    glia_matcher_try_end(c->matcher);
    return m;
}

int32_t glia_constrainer_mask(glia_constrainer *c, uint64_t *bits) {
    const glia_lexicon *l = c->r->lex;
    int32_t count = 0;
    size_t shared = GLIA_MATCH_BYTES;
    memset(bits, 0, ((size_t)l->n + 63) / 64 * sizeof *bits);
    if (c->matcher) glia_matcher_try_begin(c->matcher);
    for (int32_t i = 0; i < l->n; i++) {
        int32_t id = l->sorted[i];
        size_t n;
        const char *text = glia_lexicon_text(l, id, &n);
        if (l->shared[i] < shared) shared = l->shared[i];
        glia_match m = by_kind(c, id);
        if (m == GLIA_MATCH_FAILED && !c->matcher) m = read_free(c, id, false);
        else if (m == GLIA_MATCH_FAILED && (!n || !may_follow(c, text, n))) m = GLIA_MATCH_NO;
        else if (m == GLIA_MATCH_FAILED) {
            m = checked(c, glia_matcher_try(c->matcher, text, n, shared));
            shared = GLIA_MATCH_BYTES; /* with this one now */
        }
        if (m == GLIA_MATCH_FAILED) count = -1;
        if (count < 0) break;
        if (m == GLIA_MATCH_YES) bits[id / 64] |= 1ull << (id % 64), count++;
    }
    if (c->matcher) glia_matcher_try_end(c->matcher);
    return count;
}

glia_match glia_constrainer_accept(glia_constrainer *c, int32_t token) {
    size_t n;
    if (!c->matcher) return read_free(c, token, true);
    if (by_kind(c, token) != GLIA_MATCH_FAILED) return GLIA_MATCH_YES; /* an end: nothing to read */
    const char *text = glia_lexicon_text(c->r->lex, token, &n);
    if (!c->opened) {
        if (!fits_opening(c, text, n, &c->opened)) return GLIA_MATCH_NO;
        if (!glia_buf_add(&c->tail, text, n)) return no_memory(c);
    }
    return checked(c, glia_matcher_read(c->matcher, text, n));
}

bool glia_constrainer_may_end(const glia_constrainer *c) {
    return !c->matcher || (c->opened && glia_matcher_may_end(c->matcher));
}

glia_status glia_constrainer_why(const glia_constrainer *c, glia_err *err) {
    if (err) *err = c->err;
    return c->err.status;
}

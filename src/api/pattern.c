/* api/pattern.c — regular expressions of JSON schemas (ECMA-262's common part) as GBNF.
 *
 * The expression speaks of the string's value, the grammar of its JSON text: a character that JSON must escape becomes
 * its escape.  What a grammar cannot say (look-around, back-references, word borders) is refused.  Pure; any thread. */
#include "api/schema.h"
#include "base/err.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_RANGES = 256, MAX_DEPTH = 32, MAX_CODE_POINT = 0x10ffff };

typedef struct range {
    uint32_t lo, hi;
} range;

typedef struct set {
    range r[MAX_RANGES];
    size_t n;
} set;

typedef struct regex {
    const char *p, *end, *path;
    glia_buf *out;
    glia_err *err;
    glia_status st;
    int depth;
    bool bare; /* the text itself, not what stands in a JSON string */
} regex;

static bool fail(regex *x, const char *why) {
    if (!x->st) x->st = glia_fail_at(x->err, GLIA_EINVAL, x->path, "%s: %s", x->path, why);
    return false;
}

/* ------------------------------------------------------------------ sets of characters */

static bool put(regex *x, set *s, uint32_t lo, uint32_t hi) {
    if (s->n == MAX_RANGES) return fail(x, "a class has too many characters");
    s->r[s->n++] = (range){lo, hi};
    return true;
}

static int by_lo(const void *a, const void *b) {
    uint32_t x = ((const range *)a)->lo, y = ((const range *)b)->lo;
    return (x > y) - (x < y);
}

static void sort_and_join(set *s) {
    size_t n = 0;
    qsort(s->r, s->n, sizeof *s->r, by_lo);
    for (size_t i = 0; i < s->n; i++) {
        if (n && s->r[i].lo <= s->r[n - 1].hi + 1) {
            if (s->r[i].hi > s->r[n - 1].hi) s->r[n - 1].hi = s->r[i].hi;
        } else {
            s->r[n++] = s->r[i];
        }
    }
    s->n = n;
}

static bool invert(regex *x, set *s) {
    set out = {.n = 0};
    uint32_t next = 0;
    sort_and_join(s);
    for (size_t i = 0; i < s->n; i++) {
        if (s->r[i].lo > next && !put(x, &out, next, s->r[i].lo - 1)) return false;
        next = s->r[i].hi + 1;
    }
    if (next <= MAX_CODE_POINT && !put(x, &out, next, MAX_CODE_POINT)) return false;
    *s = out;
    return true;
}

static bool holds(const set *s, uint32_t c) {
    for (size_t i = 0; i < s->n; i++) {
        if (s->r[i].lo <= c && c <= s->r[i].hi) return true;
    }
    return false;
}

static bool needs_escape(uint32_t c) { return c < 0x20 || c == '"' || c == '\\' || c == 0x7f; }

/* The set as it may stand in a JSON string: plain characters in a class, the others as escapes. */
static bool add_set(regex *x, set *s) {
    static const struct {
        uint32_t c;
        char escape;
    } escapes[] = {{'"', '"'}, {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}, {'\b', 'b'}, {'\f', 'f'}};
    bool any = false, plain = false;
    sort_and_join(s);
    if (x->bare) {
        glia_buf_adds(x->out, "[");
        for (size_t i = 0; i < s->n; i++)
            glia_buf_addf(x->out, "\\U%08X-\\U%08X", (unsigned)s->r[i].lo, (unsigned)s->r[i].hi);
        glia_buf_adds(x->out, "]");
        return s->n || fail(x, "a class holds no character");
    }
    glia_buf_adds(x->out, "(");
    for (size_t i = 0; i < s->n; i++) {
        for (uint32_t c = s->r[i].lo; c <= s->r[i].hi;) {
            uint32_t to = c < 0x80 ? c : s->r[i].hi; /* the four kinds of holes lie below 0x80 */
            if (!needs_escape(c)) {
                if (!plain) glia_buf_adds(x->out, "[");
                plain = any = true;
                while (to < s->r[i].hi && to < 0x80 && !needs_escape(to + 1)) to++;
                if (to >= 0x7f && s->r[i].hi > to) to = s->r[i].hi;
                glia_buf_addf(x->out, "\\U%08X-\\U%08X", (unsigned)c, (unsigned)to);
            }
            c = to + 1;
        }
    }
    if (plain) glia_buf_adds(x->out, "]");
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        if (!holds(s, escapes[i].c)) continue;
        glia_buf_addf(x->out, "%s\"\\\\\" \"%s%c\"", any ? " | " : "",
                      escapes[i].escape == '"' || escapes[i].escape == '\\' ? "\\" : "", escapes[i].escape);
        any = true;
    }
    glia_buf_adds(x->out, ")");
    return any || fail(x, "a class holds no character that a string can hold");
}

/* ------------------------------------------------------------------ characters */

static bool hex(regex *x, int n, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < n; i++, x->p++) {
        char c = x->p < x->end ? *x->p : 0;
        if (c >= '0' && c <= '9') *out = *out << 4 | (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f') *out = *out << 4 | (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') *out = *out << 4 | (uint32_t)(c - 'A' + 10);
        else return fail(x, "an escape lacks hexadecimal digits");
    }
    return true;
}

static uint32_t utf8(regex *x) {
    unsigned char c = (unsigned char)*x->p++;
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    uint32_t v = more ? c & (0x3fu >> more) : c;
    for (; more && x->p < x->end; more--) v = v << 6 | ((unsigned char)*x->p++ & 0x3f);
    return v;
}

/* Behind a backslash: a set, or one character (*single, which may be an end of a range). */
static bool escape(regex *x, set *s, uint32_t *single) {
    set own = {.n = 0};
    char c = x->p < x->end ? *x->p++ : 0;
    bool ok = true;
    *single = UINT32_MAX;
    switch (c) {
    case 'd':
    case 'D': ok = put(x, &own, '0', '9'); break;
    case 'w':
    case 'W':
        ok = put(x, &own, 'a', 'z') && put(x, &own, 'A', 'Z') && put(x, &own, '0', '9') && put(x, &own, '_', '_');
        break;
    case 's':
    case 'S': ok = put(x, &own, ' ', ' ') && put(x, &own, '\t', '\r') && put(x, &own, 0xa0, 0xa0); break;
    case 'n': *single = '\n'; break;
    case 'r': *single = '\r'; break;
    case 't': *single = '\t'; break;
    case 'f': *single = '\f'; break;
    case 'x': return hex(x, 2, single) && put(x, s, *single, *single);
    case 'u': return hex(x, 4, single) && put(x, s, *single, *single);
    default:
        if (!c || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
            return fail(x, "an escape that cannot be enforced");
        x->p--;
        *single = utf8(x);
    }
    if (*single != UINT32_MAX) return put(x, s, *single, *single);
    if (ok && c >= 'A' && c <= 'Z') ok = invert(x, &own);
    for (size_t i = 0; ok && i < own.n; i++) ok = put(x, s, own.r[i].lo, own.r[i].hi);
    return ok;
}

static bool class_char(regex *x, set *s, uint32_t *single) {
    if (*x->p == '\\') {
        x->p++;
        return escape(x, s, single);
    }
    *single = utf8(x);
    return put(x, s, *single, *single);
}

static bool class(regex *x) {
    set s = {.n = 0};
    bool inverted = x->p < x->end && *x->p == '^';
    if (inverted) x->p++;
    while (x->p < x->end && *x->p != ']') {
        uint32_t lo, hi;
        if (!class_char(x, &s, &lo)) return false;
        if (lo == UINT32_MAX || x->end - x->p < 2 || x->p[0] != '-' || x->p[1] == ']') continue;
        x->p++;
        if (!class_char(x, &s, &hi)) return false;
        if (hi == UINT32_MAX || hi < lo) return fail(x, "a range of characters runs backwards");
        if (!put(x, &s, lo, hi)) return false;
    }
    if (x->p >= x->end) return fail(x, "a class is not closed");
    x->p++;
    return (!inverted || invert(x, &s)) && add_set(x, &s);
}

/* ------------------------------------------------------------------ structure */

static bool alternatives(regex *x);

static bool group(regex *x) {
    if (++x->depth > MAX_DEPTH) return fail(x, "its parentheses are nested too deep");
    if (x->p < x->end && *x->p == '?') {
        if (x->end - x->p < 2 || x->p[1] != ':') return fail(x, "look-around and named groups cannot be enforced");
        x->p += 2;
    }
    if (!alternatives(x)) return false;
    if (x->p >= x->end || *x->p != ')') return fail(x, "a parenthesis is not closed");
    x->p++, x->depth--;
    return true;
}

static bool count(regex *x, long *out) {
    long v = 0;
    for (; x->p < x->end && *x->p >= '0' && *x->p <= '9'; x->p++) {
        v = v * 10 + (*x->p - '0');
        if (v > GLIA_SCHEMA_REPEAT) return fail(x, "something is repeated more than 4096 times");
    }
    *out = v;
    return true;
}

static bool quantifier(regex *x) {
    char c = x->p < x->end ? *x->p : 0;
    long least, most;
    if (c == '*' || c == '+' || c == '?') {
        x->p++;
        glia_buf_addf(x->out, "%c", c);
    } else if (c == '{' && x->end - x->p > 1 && x->p[1] >= '0' && x->p[1] <= '9') {
        x->p++;
        if (!count(x, &least)) return false;
        glia_buf_addf(x->out, "{%ld", least);
        if (x->p < x->end && *x->p == ',') {
            x->p++;
            glia_buf_adds(x->out, ",");
            if (x->p < x->end && *x->p != '}') {
                if (!count(x, &most)) return false;
                if (most < least) return fail(x, "a count's most is below its least");
                glia_buf_addf(x->out, "%ld", most);
            }
        }
        if (x->p >= x->end || *x->p != '}') return fail(x, "a count is not closed by }");
        x->p++;
        glia_buf_adds(x->out, "}");
    } else {
        return true;
    }
    if (x->p < x->end && *x->p == '?') x->p++; /* lazy: matches the same strings */
    if (x->p < x->end && strchr("*+?{", *x->p)) return fail(x, "a repetition of a repetition");
    return true;
}

static bool atom(regex *x) {
    set s = {.n = 0};
    uint32_t single;
    char c = *x->p;
    if (strchr("*+?", c)) return fail(x, "there is nothing to repeat");
    if (c == '^' || c == '$') return fail(x, "^ and $ can only stand at the very ends");
    if (c == '(') return x->p++, group(x);
    if (c == '[') return x->p++, class(x);
    if (c == '.') {
        x->p++;
        return put(x, &s, '\n', '\n') && put(x, &s, '\r', '\r') && invert(x, &s) && add_set(x, &s);
    }
    return class_char(x, &s, &single) && add_set(x, &s);
}

static bool alternatives(regex *x) {
    glia_buf_adds(x->out, "(");
    for (bool empty = true; x->p < x->end && *x->p != ')';) {
        if (*x->p == '|') {
            x->p++;
            glia_buf_adds(x->out, empty ? "\"\" | " : " | ");
            empty = true;
            continue;
        }
        if (!empty) glia_buf_adds(x->out, " ");
        if (!atom(x) || !quantifier(x)) return false;
        empty = false;
        if (x->out->n > GLIA_SCHEMA_BYTES * 2) return fail(x, "the schema is too large to be enforced");
    }
    glia_buf_adds(x->out, " \"\")");
    return true;
}

/* A | that is in no parentheses and no class. */
static bool splits(const char *p, const char *end) {
    int depth = 0;
    bool in_class = false;
    for (; p < end; p++) {
        if (*p == '\\') p++;
        else if (in_class) in_class = *p != ']';
        else if (*p == '[') in_class = true;
        else if (*p == '(') depth++;
        else if (*p == ')') depth--;
        else if (*p == '|' && !depth) return true;
    }
    return false;
}

static bool ends_open(const char *p, const char *end) { /* the last $ is not escaped */
    size_t slashes = 0;
    if (end == p || end[-1] != '$') return false;
    for (const char *c = end - 1; c > p && c[-1] == '\\'; c--) slashes++;
    return slashes % 2 == 0;
}

static glia_status convert(const char *pattern, size_t n, const char *path, bool bare, glia_buf *gbnf,
                           glia_err *err) {
    regex x = {.bare = bare, .p = pattern, .end = pattern + n, .path = path, .out = gbnf, .err = err};
    if (n > 4096) return glia_fail_at(err, GLIA_EINVAL, path, "%s: longer than 4096 bytes", path);
    bool from = n && *pattern == '^', to = ends_open(pattern, x.end);
    if ((from || to) && splits(pattern, x.end))
        (void)fail(&x, "put what stands between ^ and $ in parentheses: they bind tighter than |");
    if (from) x.p++;
    else if (!bare) glia_buf_adds(gbnf, "char* ");
    if (to) x.end--;
    if (!x.st && alternatives(&x) && x.p < x.end) (void)fail(&x, "a parenthesis is closed that was not opened");
    if (!to && !bare) glia_buf_adds(gbnf, " char*");
    return x.st;
}

glia_status glia_pattern_gbnf(const char *pattern, size_t n, const char *path, glia_buf *gbnf, glia_err *err) {
    return convert(pattern, n, path, false, gbnf, err);
}

glia_status glia_regex_gbnf(const char *pattern, size_t n, const char *path, glia_buf *gbnf, glia_err *err) {
    return convert(pattern, n, path, true, gbnf, err);
}

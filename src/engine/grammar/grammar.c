/* engine/grammar/grammar.c — GBNF → flat rules.  Pure; any thread. */
#include "engine/grammar/grammar.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CODE_POINT = 0x10ffff, NAME_SLOTS = 1 << 16 };

typedef struct name {
    const char *p; /* in the text; NULL: a rule without a name */
    size_t n;
    bool defined;
} name;

typedef struct parser {
    const char *text, *p, *end;
    glia_err *err;
    glia_status st;
    glia_grammar *g;
    glia_buf syms, alts, rules, ranges, classes, names; /* arrays being built */
    uint32_t *slots;                                    /* [NAME_SLOTS] hash of names: rule + 1 */
    int depth;
} parser;

#define COUNT(buf, type) ((uint32_t)((buf).n / sizeof(type)))

/* ------------------------------------------------------------------ errors and memory */

static bool fail(parser *x, const char *why) {
    if (x->st) return false;
    int line = 1;
    for (const char *c = x->text; c < x->p; c++) line += *c == '\n';
    x->st = glia_fail_at(x->err, GLIA_EINVAL, "grammar", "the grammar's line %d: %s", line, why);
    return false;
}

static bool no_memory(parser *x) {
    if (!x->st) x->st = glia_fail(x->err, GLIA_ENOMEM, "out of memory for a grammar");
    return false;
}

static bool add_sym(parser *x, glia_buf *seq, glia_sym_kind kind, uint32_t value) {
    if ((x->syms.n + seq->n) / sizeof(glia_sym) >= GLIA_GRAMMAR_SYMBOLS)
        return fail(x, "it becomes too large from here on");
    glia_sym s = {.kind = kind, .value = value & 0x1fffffff};
    return glia_buf_add(seq, &s, sizeof s) || no_memory(x);
}

/* ------------------------------------------------------------------ rules */

static bool new_rule(parser *x, const char *p, size_t n, uint32_t *out) {
    glia_span none = {0};
    name nm = {.p = p, .n = n, .defined = !p};
    *out = COUNT(x->rules, glia_span);
    if (*out >= GLIA_GRAMMAR_SYMBOLS) return fail(x, "it has too many rules");
    return (glia_buf_add(&x->rules, &none, sizeof none) && glia_buf_add(&x->names, &nm, sizeof nm)) || no_memory(x);
}

static name *names(parser *x) { return (name *)(void *)x->names.p; }

static bool rule_named(parser *x, const char *p, size_t n, uint32_t *out) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 16777619u;
    for (uint32_t probes = 0; probes < NAME_SLOTS / 2; probes++) {
        uint32_t *slot = &x->slots[(h + probes) % NAME_SLOTS];
        if (!*slot) {
            if (!new_rule(x, p, n, out)) return false;
            *slot = *out + 1;
            return true;
        }
        const name *nm = &names(x)[*slot - 1];
        if (nm->n == n && !memcmp(nm->p, p, n)) {
            *out = *slot - 1;
            return true;
        }
    }
    return fail(x, "it has too many rules");
}

/* An alternative is done: move it behind the others of its rule. */
static bool end_alternative(parser *x, glia_buf *seq, glia_buf *alts) {
    uint32_t at = COUNT(x->syms, glia_sym);
    if (!add_sym(x, seq, GLIA_SYM_END, 0)) return false;
    bool ok = glia_buf_add(&x->syms, seq->p, seq->n) && glia_buf_add(alts, &at, sizeof at);
    seq->n = 0;
    return ok || no_memory(x);
}

static bool end_rule(parser *x, uint32_t rule, const glia_buf *alts) {
    glia_span span = {COUNT(x->alts, uint32_t), COUNT(*alts, uint32_t)};
    if (!glia_buf_add(&x->alts, alts->p, alts->n)) return no_memory(x);
    ((glia_span *)(void *)x->rules.p)[rule] = span;
    return true;
}

/* A rule without a name, of one or two alternatives of up to two symbols: a b | ε. */
static bool small_rule(parser *x, glia_sym a, const glia_sym *b, bool or_nothing, bool self_first, uint32_t *out) {
    glia_buf seq = {0}, alts = {0};
    bool ok = new_rule(x, NULL, 0, out);
    if (ok && self_first) ok = add_sym(x, &seq, GLIA_SYM_RULE, *out);
    ok = ok && add_sym(x, &seq, (glia_sym_kind)a.kind, a.value);
    if (ok && b) ok = add_sym(x, &seq, (glia_sym_kind)b->kind, b->value);
    ok = ok && end_alternative(x, &seq, &alts);
    if (ok && or_nothing) ok = end_alternative(x, &seq, &alts);
    ok = ok && end_rule(x, *out, &alts);
    glia_buf_clear(&seq);
    glia_buf_clear(&alts);
    return ok;
}

/* ------------------------------------------------------------------ characters */

static void skip_space(parser *x, bool lines) {
    for (; x->p < x->end; x->p++) {
        if (*x->p == '#') {
            while (x->p < x->end && *x->p != '\n') x->p++;
            if (x->p == x->end) return;
        }
        if (*x->p == ' ' || *x->p == '\t' || *x->p == '\r') continue;
        if (!lines || *x->p != '\n') return;
    }
}

static bool hex(parser *x, int n, uint32_t *out) {
    uint32_t v = 0;
    for (int i = 0; i < n; i++, x->p++) {
        char c = x->p < x->end ? *x->p : 0;
        if (c >= '0' && c <= '9') v = v << 4 | (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f') v = v << 4 | (uint32_t)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') v = v << 4 | (uint32_t)(c - 'A' + 10);
        else return fail(x, "an escape lacks hexadecimal digits");
    }
    if (v > MAX_CODE_POINT) return fail(x, "an escape is no character");
    *out = v;
    return true;
}

/* One character, escaped or as it stands.  The text is known to be valid UTF-8. */
static bool character(parser *x, uint32_t *out) {
    if (x->p >= x->end) return fail(x, "it ends within quotes or brackets");
    unsigned char c = (unsigned char)*x->p++;
    if (c == '\\') {
        char e = x->p < x->end ? *x->p++ : 0;
        switch (e) {
        case 'n': *out = '\n'; return true;
        case 'r': *out = '\r'; return true;
        case 't': *out = '\t'; return true;
        case 'x': return hex(x, 2, out);
        case 'u': return hex(x, 4, out);
        case 'U': return hex(x, 8, out);
        case '\\':
        case '"':
        case '[':
        case ']':
        case '-':
        case '^':
        case '/': *out = (uint32_t)e; return true;
        default: return fail(x, "unknown escape");
        }
    }
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    uint32_t v = more ? c & (0x3fu >> more) : c;
    for (; more && x->p < x->end; more--) v = v << 6 | ((unsigned char)*x->p++ & 0x3f);
    *out = v;
    return true;
}

static int by_lo(const void *a, const void *b) {
    uint32_t x = ((const glia_char_range *)a)->lo, y = ((const glia_char_range *)b)->lo;
    return (x > y) - (x < y);
}

static bool put_range(glia_buf *b, uint32_t lo, uint32_t hi) {
    if (lo > hi) return true;
    if (lo < 0xd800 && hi > 0xdfff) return put_range(b, lo, 0xd7ff) && put_range(b, 0xe000, hi);
    if (lo >= 0xd800 && lo <= 0xdfff) lo = 0xe000; /* surrogates are no characters */
    if (hi >= 0xd800 && hi <= 0xdfff) hi = 0xd7ff;
    glia_char_range r = {lo, hi};
    return lo > hi || glia_buf_add(b, &r, sizeof r);
}

/* Sort, join, invert; append as a class. */
static bool add_class(parser *x, glia_buf *raw, bool inverted, uint32_t *out) {
    glia_char_range *r = (glia_char_range *)(void *)raw->p;
    uint32_t n = COUNT(*raw, glia_char_range), next = 0;
    glia_span span = {.first = COUNT(x->ranges, glia_char_range)};
    bool ok = true;
    if (n) qsort(r, n, sizeof *r, by_lo);
    for (uint32_t i = 0; i < n && ok;) {
        uint32_t lo = r[i].lo, hi = r[i].hi;
        for (i++; i < n && r[i].lo <= hi + 1; i++) hi = r[i].hi > hi ? r[i].hi : hi;
        if (!inverted) ok = put_range(&x->ranges, lo, hi);
        else if (lo > next) ok = put_range(&x->ranges, next, lo - 1);
        next = hi + 1;
    }
    if (ok && inverted) ok = put_range(&x->ranges, next, MAX_CODE_POINT);
    span.n = COUNT(x->ranges, glia_char_range) - span.first;
    *out = COUNT(x->classes, glia_span);
    if (span.first + span.n > GLIA_GRAMMAR_SYMBOLS) return fail(x, "its classes become too large");
    return (ok && glia_buf_add(&x->classes, &span, sizeof span)) || no_memory(x);
}

static bool class(parser *x, glia_buf *seq) {
    glia_buf raw = {0};
    uint32_t id = 0;
    bool ok = true, inverted = x->p < x->end && *x->p == '^';
    if (inverted) x->p++;
    while (ok && x->p < x->end && *x->p != ']') {
        glia_char_range r;
        ok = character(x, &r.lo);
        r.hi = r.lo;
        if (ok && x->p + 1 < x->end && x->p[0] == '-' && x->p[1] != ']') {
            x->p++;
            ok = character(x, &r.hi);
            if (ok && r.hi < r.lo) ok = fail(x, "a range of characters runs backwards");
        }
        if (ok && raw.n / sizeof r >= 65536) ok = fail(x, "a class has too many characters");
        if (ok && !glia_buf_add(&raw, &r, sizeof r)) ok = no_memory(x);
    }
    if (ok && x->p >= x->end) ok = fail(x, "a class is not closed");
    if (ok) x->p++, ok = add_class(x, &raw, inverted, &id) && add_sym(x, seq, GLIA_SYM_CLASS, id);
    glia_buf_clear(&raw);
    return ok;
}

static bool literal(parser *x, glia_buf *seq) {
    while (x->p < x->end && *x->p != '"') {
        uint32_t c;
        if (!character(x, &c) || !add_sym(x, seq, GLIA_SYM_CHAR, c)) return false;
    }
    if (x->p >= x->end) return fail(x, "a text is not closed");
    x->p++;
    return true;
}

static bool any_character(parser *x, glia_buf *seq) {
    glia_buf none = {0};
    uint32_t id;
    return add_class(x, &none, true, &id) && add_sym(x, seq, GLIA_SYM_CLASS, id);
}

/* ------------------------------------------------------------------ repetition */

/* The symbols of seq from `first` on as one symbol. */
static bool as_one(parser *x, glia_buf *seq, size_t first, glia_sym *out) {
    size_t n = (seq->n - first) / sizeof(glia_sym);
    if (n == 1) {
        memcpy(out, seq->p + first, sizeof *out);
        return true;
    }
    glia_buf inner = {0}, alts = {0};
    uint32_t rule;
    bool ok = new_rule(x, NULL, 0, &rule);
    if (ok && n && !glia_buf_add(&inner, seq->p + first, seq->n - first)) ok = no_memory(x);
    seq->n = first;
    ok = ok && end_alternative(x, &inner, &alts) && end_rule(x, rule, &alts);
    *out = (glia_sym){.kind = GLIA_SYM_RULE, .value = rule & 0x1fffffff};
    glia_buf_clear(&inner);
    glia_buf_clear(&alts);
    return ok;
}

/* u{min,max}: min times, then a left-recursive rule, or a chain of max - min rules that may each end it. */
static bool repeat(parser *x, glia_buf *seq, size_t first, uint32_t min, uint32_t max, bool endless) {
    glia_sym u;
    uint32_t rule = 0;
    if (!as_one(x, seq, first, &u)) return false;
    seq->n = first;
    for (uint32_t i = 0; i < min; i++) {
        if (!add_sym(x, seq, (glia_sym_kind)u.kind, u.value)) return false;
    }
    if (endless) return small_rule(x, u, NULL, true, true, &rule) && add_sym(x, seq, GLIA_SYM_RULE, rule);
    for (uint32_t i = min; i < max; i++) {
        glia_sym rest = {.kind = GLIA_SYM_RULE, .value = rule & 0x1fffffff};
        if (!small_rule(x, u, i > min ? &rest : NULL, true, false, &rule)) return false;
    }
    return max == min || add_sym(x, seq, GLIA_SYM_RULE, rule);
}

static bool count(parser *x, uint32_t *out) {
    uint64_t v = 0;
    if (x->p >= x->end || *x->p < '0' || *x->p > '9') return fail(x, "a count is expected");
    for (; x->p < x->end && *x->p >= '0' && *x->p <= '9'; x->p++) {
        v = v * 10 + (uint64_t)(*x->p - '0');
        if (v > GLIA_GRAMMAR_REPEAT) return fail(x, "something is repeated more than 4096 times: use smaller counts");
    }
    *out = (uint32_t)v;
    return true;
}

static bool braces(parser *x, uint32_t *min, uint32_t *max, bool *endless) {
    skip_space(x, true);
    if (!count(x, min)) return false;
    *max = *min, *endless = false;
    skip_space(x, true);
    if (x->p < x->end && *x->p == ',') {
        x->p++;
        skip_space(x, true);
        *endless = x->p < x->end && *x->p == '}';
        if (!*endless && !count(x, max)) return false;
        skip_space(x, true);
    }
    if (x->p >= x->end || *x->p != '}') return fail(x, "a count is not closed by }");
    x->p++;
    if (*max < *min) return fail(x, "a count's most is below its least");
    return true;
}

/* ------------------------------------------------------------------ alternatives */

static bool word_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static bool alternatives(parser *x, uint32_t rule, bool nested);

static bool group(parser *x, glia_buf *seq) {
    uint32_t rule;
    if (++x->depth > GLIA_GRAMMAR_DEPTH) return fail(x, "its parentheses are nested too deep");
    skip_space(x, true);
    if (!new_rule(x, NULL, 0, &rule) || !alternatives(x, rule, true)) return false;
    if (x->p >= x->end || *x->p != ')') return fail(x, "a parenthesis is not closed");
    x->p++, x->depth--;
    return add_sym(x, seq, GLIA_SYM_RULE, rule);
}

static bool reference(parser *x, glia_buf *seq) {
    const char *from = x->p;
    uint32_t rule;
    while (x->p < x->end && word_char(*x->p)) x->p++;
    return rule_named(x, from, (size_t)(x->p - from), &rule) && add_sym(x, seq, GLIA_SYM_RULE, rule);
}

/* Elements up to | ) or the end of the line. */
static bool sequence(parser *x, glia_buf *seq, bool nested) {
    size_t first = SIZE_MAX;
    for (; x->p < x->end; skip_space(x, nested)) {
        size_t before = seq->n;
        uint32_t min = 0, max = 1;
        bool endless = true, ok = true, element = true;
        char c = *x->p;
        if (word_char(c)) {
            ok = reference(x, seq);
        } else if (c == '"' || c == '[' || c == '(' || c == '.') {
            x->p++;
            ok = c == '"'   ? literal(x, seq)
                 : c == '[' ? class(x, seq)
                 : c == '(' ? group(x, seq)
                            : any_character(x, seq);
        } else if (c == '*' || c == '+' || c == '?' || c == '{') {
            x->p++, element = false;
            if (first == SIZE_MAX) return fail(x, "there is nothing to repeat");
            if (c == '{') ok = braces(x, &min, &max, &endless);
            else min = c == '+', endless = c != '?';
            ok = ok && repeat(x, seq, first, min, max, endless);
        } else if (c == '<' || c == '!') {
            return fail(x, "tokens by name or number are not supported: write their text");
        } else {
            return true;
        }
        if (!ok) return false;
        if (element) first = before;
    }
    return true;
}

static bool alternatives(parser *x, uint32_t rule, bool nested) {
    glia_buf seq = {0}, alts = {0};
    bool ok;
    while ((ok = sequence(x, &seq, nested) && end_alternative(x, &seq, &alts)) && x->p < x->end && *x->p == '|') {
        x->p++;
        skip_space(x, true);
    }
    ok = ok && end_rule(x, rule, &alts);
    glia_buf_clear(&seq);
    glia_buf_clear(&alts);
    return ok;
}

static bool one_rule(parser *x) {
    const char *from = x->p;
    uint32_t rule;
    while (x->p < x->end && word_char(*x->p)) x->p++;
    if (x->p == from) return fail(x, "a rule must begin with its name");
    size_t n = (size_t)(x->p - from);
    skip_space(x, false);
    if (x->end - x->p < 3 || memcmp(x->p, "::=", 3) != 0) return fail(x, "::= is expected behind a rule's name");
    x->p += 3;
    skip_space(x, true);
    if (!rule_named(x, from, n, &rule)) return false;
    if (names(x)[rule].defined) return fail(x, "a rule is defined twice");
    names(x)[rule].defined = true;
    if (!alternatives(x, rule, false)) return false;
    if (x->p < x->end && *x->p != '\n') return fail(x, "a character that does not belong here");
    return true;
}

/* ------------------------------------------------------------------ what matches something */

/* Rules that match some finite text: a work list over the rules that became known.  open[a]: unknown rules in
 * alternative a; uses: for each rule the alternatives it stands in. */
static bool find_finite(glia_grammar *g, bool *finite) {
    uint32_t *open = glia_calloc(g->n_alts + 1, sizeof *open), *owner = glia_calloc(g->n_alts + 1, sizeof *owner),
             *first = glia_calloc(g->n_rules + 2, sizeof *first), *work = glia_calloc(g->n_rules + 1, sizeof *work),
             *uses = glia_calloc(g->n_syms + 1, sizeof *uses), n_work = 0;
    bool ok = open && owner && first && work && uses;
    for (uint32_t r = 0; ok && r < g->n_rules; r++) {
        for (uint32_t a = g->rules[r].first; a < g->rules[r].first + g->rules[r].n; a++) owner[a] = r;
    }
    for (uint32_t a = 0; ok && a < g->n_alts; a++) {
        for (const glia_sym *s = &g->syms[g->alts[a]]; s->kind != GLIA_SYM_END; s++) {
            if (s->kind == GLIA_SYM_RULE) open[a]++, first[s->value + 2]++;
            else if (s->kind == GLIA_SYM_CLASS && !g->classes[s->value].n) open[a] = UINT32_MAX / 2; /* [] */
        }
    }
    for (uint32_t r = 0; ok && r < g->n_rules; r++) first[r + 2] += first[r + 1];
    for (uint32_t a = 0; ok && a < g->n_alts; a++) {
        for (const glia_sym *s = &g->syms[g->alts[a]]; s->kind != GLIA_SYM_END; s++)
            if (s->kind == GLIA_SYM_RULE) uses[first[s->value + 1]++] = a;
        if (!open[a] && !finite[owner[a]]) finite[owner[a]] = true, work[n_work++] = owner[a];
    }
    while (ok && n_work) {
        uint32_t r = work[--n_work];
        for (uint32_t i = first[r]; i < first[r + 1]; i++) {
            uint32_t a = uses[i];
            if (--open[a] || finite[owner[a]]) continue;
            finite[owner[a]] = true, work[n_work++] = owner[a];
        }
    }
    glia_free(open), glia_free(owner), glia_free(first), glia_free(work), glia_free(uses);
    return ok;
}

/* Leave out alternatives that can never be finished: a text that enters them could not be ended. */
static bool prune(parser *x) {
    glia_grammar *g = x->g;
    bool *finite = glia_calloc(g->n_rules, sizeof *finite);
    bool ok = finite && find_finite(g, finite);
    for (uint32_t r = 0; ok && r < g->n_rules; r++) {
        uint32_t kept = 0, *alts = &g->alts[g->rules[r].first];
        for (uint32_t i = 0; i < g->rules[r].n; i++) {
            bool good = true;
            for (const glia_sym *s = &g->syms[alts[i]]; good && s->kind != GLIA_SYM_END; s++) {
                if (s->kind == GLIA_SYM_RULE) good = finite[s->value];
                else if (s->kind == GLIA_SYM_CLASS) good = g->classes[s->value].n > 0;
            }
            if (good) alts[kept++] = alts[i];
        }
        g->rules[r].n = kept;
    }
    bool matches = ok && finite[g->root];
    glia_free(finite);
    if (!ok) return no_memory(x);
    if (matches) return true;
    x->p = x->text;
    return fail(x, "no finite text can match it");
}

/* ------------------------------------------------------------------ all of it */

static bool check_names(parser *x) {
    uint32_t n = COUNT(x->names, name);
    for (uint32_t i = 0; i < n; i++) {
        const name *nm = &names(x)[i];
        if (nm->defined) continue;
        char why[120];
        (void)snprintf(why, sizeof why, "rule \"%.*s\" is used but not defined", (int)(nm->n < 64 ? nm->n : 64), nm->p);
        x->p = nm->p;
        return fail(x, why);
    }
    return true;
}

static bool parse(parser *x) {
    skip_space(x, true);
    while (x->p < x->end) {
        if (!one_rule(x)) return false;
        skip_space(x, true);
    }
    uint32_t root;
    if (!rule_named(x, "root", 4, &root)) return false;
    if (!names(x)[root].defined) return fail(x, "there is no rule \"root\"");
    if (!check_names(x)) return false;
    x->g->root = root, x->g->accept = COUNT(x->syms, glia_sym);
    glia_sym accept = {.kind = GLIA_SYM_ACCEPT};
    if (!glia_buf_add(&x->syms, &accept, sizeof accept)) return no_memory(x);
    return true;
}

static void *take(glia_buf *b, uint32_t *n, size_t size) {
    size_t bytes = 0;
    if (!glia_buf_reserve(b, 1)) return NULL; /* never NULL, also when empty */
    void *p = glia_buf_take(b, &bytes);
    *n = (uint32_t)(bytes / size);
    return p;
}

glia_status glia_grammar_new(glia_grammar **out, const char *gbnf, size_t n, glia_err *err) {
    *out = NULL;
    if (n > GLIA_GRAMMAR_BYTES) {
        return glia_fail_at(err, GLIA_EINVAL, "grammar", "the grammar has %zu bytes, at most %d", n,
                            (int)GLIA_GRAMMAR_BYTES);
    }
    parser x = {.text = gbnf, .p = gbnf, .end = gbnf + n, .err = err};
    glia_grammar *g = x.g = glia_calloc(1, sizeof *g);
    x.slots = glia_calloc(NAME_SLOTS, sizeof *x.slots);
    if (!g || !x.slots) (void)no_memory(&x);
    else if (parse(&x)) {
        g->syms = take(&x.syms, &g->n_syms, sizeof *g->syms);
        g->alts = take(&x.alts, &g->n_alts, sizeof *g->alts);
        g->rules = take(&x.rules, &g->n_rules, sizeof *g->rules);
        g->ranges = take(&x.ranges, &g->n_ranges, sizeof *g->ranges);
        g->classes = take(&x.classes, &g->n_classes, sizeof *g->classes);
        if (!g->syms || !g->alts || !g->rules || !g->ranges || !g->classes) (void)no_memory(&x);
        else (void)prune(&x);
    }
    glia_free(x.slots);
    glia_buf_clear(&x.syms), glia_buf_clear(&x.alts), glia_buf_clear(&x.rules);
    glia_buf_clear(&x.ranges), glia_buf_clear(&x.classes), glia_buf_clear(&x.names);
    if (x.st) glia_grammar_free(g);
    else *out = g;
    return x.st;
}

void glia_grammar_free(glia_grammar *g) {
    if (!g) return;
    glia_free(g->syms), glia_free(g->alts), glia_free(g->rules), glia_free(g->ranges), glia_free(g->classes);
    glia_free(g);
}

bool glia_sym_meets(const glia_grammar *g, glia_sym s, uint32_t lo, uint32_t hi) {
    if (s.kind == GLIA_SYM_CHAR) return s.value >= lo && s.value <= hi;
    if (s.kind != GLIA_SYM_CLASS) return false;
    const glia_char_range *r = &g->ranges[g->classes[s.value].first];
    uint32_t a = 0, b = g->classes[s.value].n;
    while (a < b) { /* the first range that ends at lo or later */
        uint32_t mid = a + (b - a) / 2;
        if (r[mid].hi < lo) a = mid + 1;
        else b = mid;
    }
    return a < g->classes[s.value].n && r[a].lo <= hi;
}

bool glia_sym_takes(const glia_grammar *g, glia_sym s, uint32_t c) { return glia_sym_meets(g, s, c, c); }

/* analysis/patterns.c — see patterns.h. */
#include "analysis/patterns.h"
#include "base/err.h"
#include "base/mem.h"
#include <cblas.h>
#include <math.h>
#include <string.h>

/* Columns of a row: the patterns, then POSITIONAL's distances one by one. */
enum { FIRST_DISTANCE = GLIA_N_PATTERNS, N_COLUMNS = GLIA_N_PATTERNS + GLIA_PATTERN_DISTANCES };

static const struct {
    const char *name, *meaning;
    bool conditional;
} table[] = {
#define X(id, name, conditional, meaning) {name, meaning, conditional},
    GLIA_PATTERN_MAP(X)
#undef X
        {"unknown", "none of these clearly", false}};

const char *glia_pattern_name(glia_pattern p) { return table[p].name; }
const char *glia_pattern_meaning(glia_pattern p) { return table[p].meaning; }
int32_t glia_pattern_distance(size_t i) { return i ? (int32_t)i + 1 : 0; }

/* ------------------------------------------------------------------ targets */

typedef struct target_set {
    int32_t *at;   /* positions of all rows, one after the other */
    size_t *begin; /* [n + 1] where those of row q begin */
} target_set;

struct glia_targets {
    size_t n;
    bool primary;
    target_set induction, duplicate, punctuation;
};

static void set_clear(target_set *s) {
    glia_free(s->at);
    glia_free(s->begin);
}

void glia_targets_free(glia_targets *t) {
    if (!t) return;
    set_clear(&t->induction);
    set_clear(&t->duplicate);
    set_clear(&t->punctuation);
    glia_free(t);
}

size_t glia_targets_n(const glia_targets *t) { return t->n; }

typedef bool is_target(const int32_t *tokens, const bool *punctuation, size_t q, size_t k);
static bool is_induction(const int32_t *t, const bool *punctuation, size_t q, size_t k) {
    (void)punctuation;
    return k > 0 && k < q && t[k - 1] == t[q];
}
static bool is_duplicate(const int32_t *t, const bool *punctuation, size_t q, size_t k) {
    (void)punctuation;
    return k < q && t[k] == t[q];
}
static bool is_punctuation(const int32_t *t, const bool *punctuation, size_t q, size_t k) {
    (void)t;
    return punctuation && k < q && punctuation[k];
}

static bool set_fill(target_set *s, const int32_t *tokens, const bool *punctuation, size_t n, is_target *is) {
    size_t sum = 0;
    for (size_t q = 0; q < n; q++) {
        for (size_t k = 0; k < q; k++) sum += is(tokens, punctuation, q, k);
    }
    s->at = glia_malloc((sum + 1) * sizeof *s->at);
    s->begin = glia_malloc((n + 1) * sizeof *s->begin);
    if (!s->at || !s->begin) return false;
    sum = 0;
    for (size_t q = 0; q < n; q++) {
        s->begin[q] = sum;
        for (size_t k = 0; k < q; k++) {
            if (is(tokens, punctuation, q, k)) s->at[sum++] = (int32_t)k;
        }
    }
    s->begin[n] = sum;
    return true;
}

glia_status glia_targets_new(glia_targets **out, const int32_t *tokens, const bool *punctuation, size_t n, bool primary,
                             glia_err *err) {
    glia_targets *t = glia_calloc(1, sizeof *t);
    *out = NULL;
    if (t) t->n = n, t->primary = primary;
    if (t && set_fill(&t->induction, tokens, punctuation, n, is_induction) &&
        set_fill(&t->duplicate, tokens, punctuation, n, is_duplicate) &&
        set_fill(&t->punctuation, tokens, punctuation, n, is_punctuation)) {
        *out = t;
        return GLIA_OK;
    }
    glia_targets_free(t);
    return glia_fail(err, GLIA_ENOMEM, "no memory for the attention patterns of %zu tokens", n);
}

/* ------------------------------------------------------------------ rows */

typedef struct row {
    float mass[N_COLUMNS], chance[N_COLUMNS];
    uint32_t eligible; /* bit: column */
    bool primary;
} row;

typedef struct sequence {
    const glia_targets *t;
    const float *a;       /* borrowed: p needs other targets than the pattern's */
    size_t stride, first; /* first: its row 0 among all rows */
} sequence;

struct glia_head_rows {
    row *rows;
    size_t n_rows, cap_rows;
    sequence *sequences;
    size_t n_sequences, cap_sequences;
};

glia_status glia_head_rows_new(glia_head_rows **out, glia_err *err) {
    *out = glia_calloc(1, sizeof **out);
    return *out ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "no memory for an attention head");
}

void glia_head_rows_free(glia_head_rows *h) {
    if (!h) return;
    glia_free(h->sequences);
    glia_free(h->rows);
    glia_free(h);
}

/* Attention of row q on the targets, each moved by `shift` positions round the q + 1 that it sees. */
static double mass_of(const target_set *s, const float *a, size_t q, size_t shift) {
    double sum = 0;
    for (size_t i = s->begin[q]; i < s->begin[q + 1]; i++) sum += (double)a[((size_t)s->at[i] + shift) % (q + 1)];
    return sum;
}

static void put(row *r, size_t column, double mass, double chance) {
    r->mass[column] = (float)mass, r->chance[column] = (float)chance;
    r->eligible |= 1u << column;
}

static void put_set(row *r, size_t column, const target_set *s, const float *a, size_t q) {
    size_t k = s->begin[q + 1] - s->begin[q];
    if (k && k < q + 1) put(r, column, mass_of(s, a, q, 0), (double)k / (double)(q + 1));
}

/* exp of the entropy: how many positions are attended to as if evenly */
static double breadth(const float *a, size_t n) {
    double sum = 0, entropy = 0;
    for (size_t k = 0; k < n; k++) sum += (double)a[k];
    for (size_t k = 0; k < n && sum > 0; k++) {
        double p = (double)a[k] / sum;
        if (p > 0) entropy -= p * log(p);
    }
    return exp(entropy);
}

static void fill_row(row *r, const glia_targets *t, const float *a, size_t q) {
    double even = 1 / (double)(q + 1);
    *r = (row){.primary = t->primary};
    if (!q) return; /* sees only itself */
    put(r, GLIA_PATTERN_PREVIOUS_TOKEN, (double)a[q - 1], even);
    put(r, GLIA_PATTERN_FIRST_TOKEN, (double)a[0], even);
    put_set(r, GLIA_PATTERN_INDUCTION, &t->induction, a, q);
    put_set(r, GLIA_PATTERN_DUPLICATE_TOKEN, &t->duplicate, a, q);
    put_set(r, GLIA_PATTERN_PUNCTUATION, &t->punctuation, a, q);
    put(r, GLIA_PATTERN_BROADCAST, breadth(a, q + 1) * even, even);
    for (size_t i = 0; i < GLIA_PATTERN_DISTANCES; i++) {
        size_t d = (size_t)glia_pattern_distance(i);
        if (d <= q) put(r, FIRST_DISTANCE + i, (double)a[q - d], even);
    }
}

static bool grow(glia_head_rows *h, size_t n) {
    if (h->n_rows + n > h->cap_rows) {
        size_t cap = h->n_rows + n > 2 * h->cap_rows ? h->n_rows + n : 2 * h->cap_rows;
        row *more = glia_realloc(h->rows, cap * sizeof *more);
        if (!more) return false;
        h->rows = more, h->cap_rows = cap;
    }
    if (h->n_sequences == h->cap_sequences) {
        size_t cap = h->cap_sequences ? 2 * h->cap_sequences : 4;
        sequence *more = glia_realloc(h->sequences, cap * sizeof *more);
        if (!more) return false;
        h->sequences = more, h->cap_sequences = cap;
    }
    return true;
}

glia_status glia_head_rows_add(glia_head_rows *h, const glia_targets *t, const float *a, size_t stride, glia_err *err) {
    size_t n = t->n;
    if (!grow(h, n)) return glia_fail(err, GLIA_ENOMEM, "no memory for the attention of %zu tokens", n);
    for (size_t q = 0; q < n; q++) fill_row(&h->rows[h->n_rows + q], t, a + q * stride, q);
    h->sequences[h->n_sequences++] = (sequence){t, a, stride, h->n_rows};
    h->n_rows += n;
    return GLIA_OK;
}

/* ------------------------------------------------------------------ naming */

typedef struct sums {
    double mass, chance;
    size_t n;
} sums;

static double excess(const sums *s) {
    return s->n && (double)s->n > s->chance ? (s->mass - s->chance) / ((double)s->n - s->chance) : (double)NAN;
}

enum { IN_PRIMARY = -1, IN_PROBE = -2 };

/* All columns over the rows `at` (NULL: every row) in which column `in` is eligible, or over rows of one kind. */
static void add_up(const glia_head_rows *h, const size_t *at, int in, sums out[N_COLUMNS]) {
    memset(out, 0, N_COLUMNS * sizeof *out);
    for (size_t i = 0; i < h->n_rows; i++) {
        const row *r = &h->rows[at ? at[i] : i];
        if (in < 0 ? r->primary != (in == IN_PRIMARY) : !(r->eligible >> in & 1)) continue;
        for (size_t c = 0; c < N_COLUMNS; c++) {
            if (!(r->eligible >> c & 1)) continue;
            out[c].mass += (double)r->mass[c], out[c].chance += (double)r->chance[c], out[c].n++;
        }
    }
}

static size_t best_distance(const sums s[N_COLUMNS]) {
    size_t best = 0;
    double top = -INFINITY;
    for (size_t i = 0; i < GLIA_PATTERN_DISTANCES; i++) {
        double x = excess(&s[FIRST_DISTANCE + i]);
        if (x > top) top = x, best = i;
    }
    return best;
}

/* The pattern with the largest excess of at least `least`; conditional ones only when `only` names one. */
static glia_pattern largest(const sums s[N_COLUMNS], double least, int only, double *top) {
    glia_pattern best = GLIA_PATTERN_UNKNOWN;
    *top = -INFINITY;
    for (size_t p = 0; p < GLIA_N_PATTERNS; p++) {
        if (table[p].conditional && only < 0) continue;
        double x = excess(p == GLIA_PATTERN_POSITIONAL ? &s[FIRST_DISTANCE + best_distance(s)] : &s[p]);
        if (x >= least && x > *top) *top = x, best = (glia_pattern)p;
    }
    return best;
}

static glia_pattern name_head(const glia_head_rows *h, const size_t *at, double least) {
    glia_pattern found = GLIA_PATTERN_UNKNOWN;
    double top = -INFINITY, x;
    sums s[N_COLUMNS];
    for (int p = 0; p < (int)GLIA_N_PATTERNS; p++) {
        if (!table[p].conditional) continue;
        add_up(h, at, p, s);
        if (largest(s, least, p, &x) == (glia_pattern)p && x > top) found = (glia_pattern)p, top = x;
    }
    if (found != GLIA_PATTERN_UNKNOWN) return found;
    add_up(h, at, IN_PRIMARY, s);
    return largest(s, least, -1, &x);
}

/* Mean mass of a pattern with its targets moved at random in each row. */
static double moved(const glia_head_rows *h, glia_pattern p, size_t distance, glia_rng *g) {
    double sum = 0;
    size_t n = 0;
    for (size_t s = 0; s < h->n_sequences; s++) {
        const glia_targets *t = h->sequences[s].t;
        for (size_t q = 1; q < t->n; q++) {
            const row *r = &h->rows[h->sequences[s].first + q];
            if (!(r->eligible >> (p == GLIA_PATTERN_POSITIONAL ? FIRST_DISTANCE + distance : (size_t)p) & 1)) continue;
            if (!table[p].conditional && !r->primary) continue;
            const float *a = h->sequences[s].a + q * h->sequences[s].stride;
            size_t shift = glia_rng_below(g, q + 1);
            n++;
            switch (p) {
            case GLIA_PATTERN_INDUCTION: sum += mass_of(&t->induction, a, q, shift); break;
            case GLIA_PATTERN_DUPLICATE_TOKEN: sum += mass_of(&t->duplicate, a, q, shift); break;
            case GLIA_PATTERN_PUNCTUATION: sum += mass_of(&t->punctuation, a, q, shift); break;
            default: sum += (double)a[shift]; break;
            }
        }
    }
    return n ? sum / (double)n : (double)NAN;
}

static glia_pattern_score score_of(const sums *s) {
    double n = (double)s->n;
    return (glia_pattern_score){s->n, s->n ? s->mass / n : (double)NAN, s->n ? s->chance / n : (double)NAN, excess(s),
                                (double)NAN};
}

static void score_patterns(const glia_head_rows *h, const glia_pattern_params *pp, glia_rng *g,
                           glia_head_verdict *out) {
    sums primary[N_COLUMNS], probe[N_COLUMNS], own[N_COLUMNS];
    add_up(h, NULL, IN_PRIMARY, primary);
    add_up(h, NULL, IN_PROBE, probe);
    size_t best = best_distance(primary);
    out->distance = glia_pattern_distance(best);
    for (size_t p = 0; p < GLIA_N_PATTERNS; p++) {
        size_t column = p == GLIA_PATTERN_POSITIONAL ? FIRST_DISTANCE + best : p;
        const sums *s = &primary[column];
        out->probe[p] = score_of(&probe[column]);
        if (table[p].conditional) add_up(h, NULL, (int)p, own), s = &own[p];
        glia_pattern_score *ps = &out->patterns[p];
        *ps = score_of(s);
        if (!s->n || p == GLIA_PATTERN_BROADCAST || !pp->n_perm) continue;
        size_t n_extreme = 0;
        for (size_t k = 0; k < pp->n_perm; k++) n_extreme += moved(h, (glia_pattern)p, best, g) >= ps->score;
        ps->p = (double)(1 + n_extreme) / (double)(1 + pp->n_perm);
    }
}

glia_status glia_head_judge(const glia_head_rows *h, const glia_pattern_params *p, glia_head_verdict *out,
                            glia_err *err) {
    glia_rng g = {p->seed};
    size_t *at = glia_malloc((h->n_rows + 1) * sizeof *at), same = 0;
    if (!at) return glia_fail(err, GLIA_ENOMEM, "no memory for resampling %zu rows", h->n_rows);
    *out = (glia_head_verdict){.name = name_head(h, NULL, p->min_excess)};
    score_patterns(h, p, &g, out);
    for (size_t b = 0; b < p->n_boot; b++) {
        for (size_t i = 0; i < h->n_rows; i++) at[i] = glia_rng_below(&g, h->n_rows);
        same += name_head(h, at, p->min_excess) == out->name;
    }
    out->confidence = p->n_boot ? (double)same / (double)p->n_boot : (double)NAN;
    glia_free(at);
    return GLIA_OK;
}

void glia_rollout_step(const float *a, size_t n, float *r, float *scratch) {
    int k = (int)n;
    memcpy(scratch, r, n * n * sizeof *r);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, k, k, k, 0.5f, a, k, scratch, k, 0.5f, r, k);
}

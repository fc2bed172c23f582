/* tests/unit/reference.c — see reference.h. */
#include "reference.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    assert_non_null(p);
    return p;
}

glia_sampling reference_sampling(void) {
    glia_request_params p = greedy((const int32_t[]){1}, 1, 0);
    p.sampling.penalty_last_n = -1, p.sampling.penalty_presence = 90; /* logits of tiny models lie within ±20 */
    return p.sampling;
}

/* ------------------------------------------------------------------ plain runs */

static void find_places(reference *f, const glia_model *m) {
    f->places = need(calloc((size_t)GLIA_N_POINTS * (size_t)f->n_layer, sizeof *f->places));
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        for (int32_t layer = 0; layer < (glia_point_has_layer((glia_point)p) ? f->n_layer : 1); layer++) {
            place *pl = &f->places[f->n_places];
            *pl = (place){.point = (glia_point)p, .layer = layer};
            if (!glia_model_point(m, pl->point, layer, &pl->info) || pl->info.grade < GLIA_GRADE_STRUCTURAL) continue;
            pl->width = pl->info.by_position ? pl->info.n_heads * f->n_tokens : pl->info.width;
            f->n_places++;
        }
    }
}

const place *reference_place(const reference *f, glia_point p, int32_t layer) {
    for (size_t i = 0; i < f->n_places; i++) {
        const place *pl = &f->places[i];
        if (pl->point == p && (!glia_point_has_layer(p) || pl->layer == layer)) return pl;
    }
    return NULL;
}

/* Draw what is given of sequence i: the tokens of an earlier one up to a cut, then new ones. */
static void begin_sequence(reference *f, int32_t i, uint32_t *seed) {
    sequence *s = &f->seqs[i];
    int32_t cut = i < 3 ? 0 : i % 2 ? 9 : f->n_tokens / 3;
    if (cut) memcpy(s->tokens, f->seqs[i % 3].tokens, (size_t)cut * sizeof *s->tokens);
    s->n_given = cut + 1 + i % 3;
    for (int32_t k = cut; k < s->n_given;) {
        *seed = *seed * 1664525u + 1013904223u;
        int32_t t = (int32_t)(*seed >> 8) % 250, same = 0;
        while (same < k && s->tokens[same] != t) same++;
        if (same == k) s->tokens[k++] = t;
    }
}

static void run_sequence(reference *f, glia_model *m, sequence *s) {
    glia_request_params p = greedy(s->tokens, (size_t)s->n_given, f->n_tokens - s->n_given);
    p.sampling = reference_sampling(), p.no_cache = true;
    result *r = run_request(m, &p);
    assert_int_equal(r->err.status, GLIA_OK);
    assert_int_equal(r->n_ids, f->n_tokens - s->n_given);
    memcpy(s->tokens + s->n_given, r->ids, (size_t)r->n_ids * sizeof *s->tokens);
    result_free(r);
    glia_hook *h = need(calloc(f->n_places, sizeof *h));
    for (size_t i = 0; i < f->n_places; i++) {
        h[i] = (glia_hook){.point = f->places[i].point, .layer = f->places[i].layer, .phases = GLIA_PHASE_PROMPT};
    }
    p = greedy(s->tokens, (size_t)f->n_tokens, 0);
    p.no_cache = true, p.hooks = h, p.n_hooks = f->n_places;
    r = run_request(m, &p);
    if (r->err.status) fail_msg("the plain run: %s", r->err.message);
    s->rows = need(calloc(f->n_places, sizeof *s->rows));
    for (size_t i = 0; i < f->n_places; i++) {
        rows *g = &r->hook[i];
        place *pl = &f->places[i];
        assert_int_equal(g->n, f->n_tokens);
        assert_int_equal(g->width, pl->width);
        s->rows[i] = g->data, g->data = NULL;
        for (size_t k = 0; k < (size_t)g->n * (size_t)g->width; k++) {
            double x = fabs((double)s->rows[i][k]);
            if (isfinite(x) && x > pl->scale) pl->scale = x;
        }
    }
    result_free(r);
    free(h);
}

/* A row taken from the next position must be seen: else the comparison could not fail. */
static void check_power(const reference *f) {
    for (size_t i = 0; i < f->n_places; i++) {
        const place *pl = &f->places[i];
        int alike = 0;
        if (pl->point == GLIA_POINT_EXPERT_INDICES || pl->point == GLIA_POINT_EXPERT_WEIGHTS || pl->info.by_position)
            continue; /* few numbers: equal ones are no wonder */
        for (int32_t t = 0; t + 1 < f->n_tokens; t++) {
            const float *a = f->seqs[0].rows[i] + (size_t)t * (size_t)pl->width, *b = a + pl->width;
            double d = 0;
            for (int32_t k = 0; k < pl->width; k++) d = fmax(d, fabs((double)a[k] - (double)b[k]));
            alike += d < 10 * f->tolerance * pl->scale;
        }
        if (alike * 20 > f->n_tokens)
            fail_msg("%s.%d: %d rows are like the next", glia_point_name(pl->point), pl->layer, alike);
    }
}

reference *reference_new(const char *path, glia_flash flash, glia_kv_type kv, int32_t n_tokens, int32_t n_seqs,
                         double tolerance, uint32_t seed) {
    reference *f = need(calloc(1, sizeof *f));
    glia_model *m = open_model_with(path, 1, n_tokens + 1, n_tokens > 32 ? n_tokens : 32, flash, kv);
    glia_model_info info;
    glia_model_get_info(m, &info);
    f->n_tokens = n_tokens, f->n_seqs = n_seqs, f->n_layer = info.n_layer, f->tolerance = tolerance;
    find_places(f, m);
    f->seqs = need(calloc((size_t)n_seqs, sizeof *f->seqs));
    for (int32_t i = 0; i < n_seqs; i++) {
        f->seqs[i].tokens = need(calloc((size_t)n_tokens, sizeof *f->seqs[i].tokens));
        begin_sequence(f, i, &seed);
        run_sequence(f, m, &f->seqs[i]);
    }
    glia_model_close(m);
    check_power(f);
    return f;
}

void reference_free(reference *f) {
    for (int32_t i = 0; i < f->n_seqs; i++) {
        for (size_t k = 0; k < f->n_places; k++) free(f->seqs[i].rows[k]);
        free(f->seqs[i].rows);
        free(f->seqs[i].tokens);
    }
    free(f->seqs);
    free(f->places);
    free(f);
}

/* ------------------------------------------------------------------ what a hook selects */

bool reference_wants(const glia_hook *h, int32_t n_prompt, int32_t pos) {
    if (!(h->phases & (pos < n_prompt ? GLIA_PHASE_PROMPT : GLIA_PHASE_GENERATED))) return false;
    if (h->range) {
        int64_t from = h->range->from + (h->range->from < 0 ? n_prompt : 0);
        int64_t to = h->range->to + (h->range->to < 0 ? n_prompt : 0);
        return pos >= from && pos < to;
    }
    if (!h->positions) return true;
    for (size_t i = 0; i < h->n_positions; i++) {
        if (h->positions[i] + (h->positions[i] < 0 ? n_prompt : 0) == pos) return true;
    }
    return false;
}

/* The row at pos after heads and channels; *n: its width. */
static float *selected(const reference *f, const sequence *s, const place *p, const glia_hook *h, int32_t pos,
                       int32_t *n) {
    const float *row = s->rows[p - f->places] + (size_t)pos * (size_t)p->width;
    int32_t per_head = p->info.n_heads ? p->width / p->info.n_heads : p->width, w = p->width;
    float *out = need(malloc((size_t)(w + 1) * sizeof *out)), *cut;
    memcpy(out, row, (size_t)w * sizeof *out);
    if (h->heads) {
        w = 0;
        for (size_t k = 0; k < h->n_heads; k++) {
            for (int32_t c = 0; c < per_head; c++) out[w++] = row[h->heads[k] * per_head + c];
        }
    }
    *n = w;
    if (!h->channels && !h->channel_range) return out;
    cut = need(malloc((size_t)(w + 1) * sizeof *cut));
    *n = 0;
    if (h->channels) {
        for (size_t k = 0; k < h->n_channels; k++) cut[(*n)++] = out[h->channels[k]];
    } else {
        int64_t to = h->channel_range->to < w ? h->channel_range->to : w;
        for (int64_t c = h->channel_range->from; c < to; c++) cut[(*n)++] = out[c];
    }
    free(out);
    return cut;
}

/* ------------------------------------------------------------------ comparing */

static double distance(const float *got, const float *want, int32_t n) {
    double e = 0;
    for (int32_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (got[i] == want[i]) d = 0; /* infinities */
        if (!(d <= e)) e = isnan(d) ? INFINITY : d;
    }
    return e;
}

/* Attention: the columns up to the row's own position, the others hidden. */
static double attention_error(const place *p, const float *want, int32_t n_want, int32_t n_tokens, int32_t pos,
                              int32_t n_cols, const float *got) {
    double e = 0;
    float hidden = p->point == GLIA_POINT_ATTN_PROBS ? 0 : -INFINITY;
    if (n_cols <= pos) return INFINITY;
    for (int32_t k = 0; k * n_tokens < n_want; k++) {
        const float *g = got + (size_t)k * (size_t)n_cols;
        e = fmax(e, distance(g, want + (size_t)k * (size_t)n_tokens, pos + 1));
        for (int32_t c = pos + 1; c < n_cols; c++) {
            if (g[c] != hidden) return INFINITY;
        }
    }
    return e;
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Near ties may come in another order: each value must be that of its channel, and as large as the one of its rank. */
static double topk_error(const reference *f, const sequence *s, const place *p, const glia_hook *h, int32_t pos,
                         const float *got, const int32_t *indices) {
    glia_hook whole = *h;
    whole.channels = NULL, whole.channel_range = NULL;
    int32_t n, n_whole;
    float *row = selected(f, s, p, &whole, pos, &n_whole), *kept = selected(f, s, p, h, pos, &n);
    double e = 0;
    bool by_size = h->reduce.by_magnitude;
    for (int32_t i = 0; by_size && i < n; i++) kept[i] = fabsf(kept[i]);
    qsort(kept, (size_t)n, sizeof *kept, descending);
    for (int32_t i = 0; i < h->reduce.k; i++) {
        float ranked = by_size ? fabsf(got[i]) : got[i];
        if (indices[i] < 0 || indices[i] >= n_whole) e = INFINITY;
        else e = fmax(e, fmax(distance(&got[i], &row[indices[i]], 1), distance(&ranked, &kept[i], 1)));
        for (int32_t k = 0; k < i; k++) {
            if (indices[k] == indices[i]) e = INFINITY;
        }
    }
    free(row), free(kept);
    return e;
}

static double over_rows_error(const reference *f, const sequence *s, const place *p, const glia_hook *h,
                              const int32_t *pos, int32_t n, const float *got) {
    int32_t w = 0;
    float **row = need(calloc((size_t)n, sizeof *row));
    double e = 0;
    for (int32_t i = 0; i < n; i++) row[i] = selected(f, s, p, h, pos[i], &w);
    for (int32_t c = 0; c < w; c++) {
        double sum = 0, squares = 0, var = 0, top = -INFINITY, want, unit = 1;
        for (int32_t i = 0; i < n; i++) {
            sum += (double)row[i][c], squares += (double)row[i][c] * (double)row[i][c];
            top = fmax(top, (double)row[i][c]);
        }
        for (int32_t i = 0; i < n; i++) var += pow((double)row[i][c] - sum / n, 2);
        switch (h->reduce.op) {
        case GLIA_REDUCE_MEAN: want = sum / n; break;
        case GLIA_REDUCE_VAR: want = var / n, unit = p->scale; break; /* an error ε of x is one of 2ε·|x| here */
        case GLIA_REDUCE_NORM: want = sqrt(squares), unit = sqrt(n); break;
        default: want = top;
        }
        float w32 = (float)want;
        e = fmax(e, distance(&got[c], &w32, 1) / unit / (h->reduce.op == GLIA_REDUCE_VAR ? 4 : 1));
    }
    for (int32_t i = 0; i < n; i++) free(row[i]);
    free(row);
    return e;
}

double reference_error(const reference *f, const sequence *s, const place *p, const glia_hook *h, const int32_t *pos,
                       int32_t n, int32_t n_cols, const float *got, const int32_t *indices) {
    double scale = p->scale > 0 ? p->scale : 1, e = 0, sum = 0;
    if (glia_reduce_is_over_rows(h->reduce.op)) return over_rows_error(f, s, p, h, pos, n, got) / scale;
    if (h->reduce.op == GLIA_REDUCE_TOPK) return topk_error(f, s, p, h, pos[0], got, indices) / scale;
    int32_t w;
    float *row = selected(f, s, p, h, pos[0], &w), want;
    if (p->info.by_position) {
        e = attention_error(p, row, w, f->n_tokens, pos[0], n_cols, got);
    } else if (h->reduce.op == GLIA_REDUCE_ROW_NORM) {
        for (int32_t c = 0; c < w; c++) sum += (double)row[c] * (double)row[c];
        want = (float)sqrt(sum);
        e = distance(got, &want, 1) / sqrt(w);
    } else if (h->reduce.op == GLIA_REDUCE_PROJECT) {
        for (size_t d = 0; d < h->reduce.n_directions; d++) {
            const float *v = h->reduce.directions + d * (size_t)w;
            double length = 0;
            sum = 0;
            for (int32_t c = 0; c < w; c++) { sum += (double)row[c] * (double)v[c], length += fabs((double)v[c]); }
            want = (float)sum;
            e = fmax(e, distance(&got[d], &want, 1) / length);
        }
    } else {
        e = distance(got, row, w);
    }
    free(row);
    return e / scale;
}

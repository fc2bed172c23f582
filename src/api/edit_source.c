/* api/edit_source.c — see edit_source.h. */
#include "api/edit_source.h"
#include "api/edit_run.h"
#include "api/hook_fields.h"
#include "api/prompt.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum align { ALIGN_TOKENS, ALIGN_START, ALIGN_END } align;

/* One source: its prompt runs once, for all layers of its intervention. */
typedef struct source {
    glia_edit_source want;
    int32_t *tokens; /* owned; NULL: the request's own */
    size_t n_tokens;
    glia_hook *hooks; /* [want.n] */
    int64_t *rows;    /* [n_rows] positions that the hooks take, ascending; NULL: all of the prompt */
    size_t n_rows;
    int32_t *of; /* [n_to] position in the other prompt that each edited row takes; NULL: one row for all (mean) */
    size_t n_to;
    glia_request *rq;
    size_t n_filled; /* layers whose rows have come */
    bool ended;
} source;

struct glia_sources {
    glia_acts *acts;
    const glia_model *m;
    const int32_t *prompt;
    size_t n_prompt;
    source *list; /* [n] */
    size_t n;
};

void glia_align_tokens(const int32_t *a, size_t n, const int32_t *b, size_t n_b, int32_t *out) {
    size_t head = 0, tail = 0, least = n < n_b ? n : n_b;
    while (head < least && a[head] == b[head]) head++;
    while (tail < least - head && a[n - 1 - tail] == b[n_b - 1 - tail]) tail++;
    for (size_t i = 0; i < n; i++) {
        if (n == n_b || i < head) out[i] = (int32_t)i;
        else out[i] = i >= n - tail ? (int32_t)(n_b - (n - i)) : -1;
    }
}

/* ------------------------------------------------------------------ reading */

static glia_status fail_here(const source *s, glia_status st, const char *key, glia_err *err, const char *message) {
    char param[96];
    (void)snprintf(param, sizeof param, "interventions[%zu].source%s%s", s->want.entry, key ? "." : "", key ? key : "");
    return glia_fail_at(err, st, param, "%s", message);
}

static glia_status parse_tokens(const glia_sources *g, source *s, glia_err *err) {
    yyjson_val *v = s->want.v, *prompt = glia_json_get(v, "prompt"), *messages = glia_json_get(v, "messages");
    if (!prompt == !messages) return fail_here(s, GLIA_EINVAL, NULL, err, "source needs a prompt, or messages");
    glia_status st = messages ? glia_prompt_chat(g->m, v, &s->tokens, &s->n_tokens, NULL, err)
                              : glia_prompt_completion(g->m, v, 0, &s->tokens, &s->n_tokens, NULL, err);
    if (st && err && err->param[0]) {
        char inner[96];
        (void)snprintf(inner, sizeof inner, "%s", err->param);
        (void)snprintf(err->param, sizeof err->param, "interventions[%zu].source.%.40s", s->want.entry, inner);
    }
    if (!st && prompt && glia_prompt_count(v) > 1) st = fail_here(s, GLIA_EINVAL, "prompt", err, "source takes one prompt");
    return st;
}

static glia_status parse_align(source *s, align *out, glia_err *err) {
    static const char *const words[] = {"tokens", "start", "end"};
    const char *w = NULL;
    char path[64];
    (void)snprintf(path, sizeof path, "interventions[%zu].source", s->want.entry);
    glia_status st = glia_json_str(s->want.v, path, "align", &w, err);
    *out = ALIGN_TOKENS;
    if (st || !w) return st;
    for (int i = 0; i < 3; i++) {
        *out = (align)i;
        if (!strcmp(w, words[i])) return GLIA_OK;
    }
    return fail_here(s, GLIA_EINVAL, "align", err, "align must be \"tokens\", \"start\" or \"end\"");
}

/* Positions of a prompt that fields name, ascending.  *out is owned by the caller. */
static glia_status resolve(const glia_hook *h, size_t n_prompt, const char *param, int32_t **out, size_t *n,
                           glia_err *err) {
    int64_t size = (int64_t)n_prompt, from = 0, to = size;
    if (h->range) {
        from = h->range->from < 0 ? h->range->from + size : h->range->from;
        to = h->range->to == GLIA_RANGE_END ? size : h->range->to < 0 ? h->range->to + size : h->range->to;
    }
    *n = h->positions ? h->n_positions : to > from ? (size_t)(to - from) : 0;
    if (!(*out = glia_malloc((*n + 1) * sizeof **out))) return glia_fail(err, GLIA_ENOMEM, "%s", param);
    for (size_t i = 0; i < *n; i++) {
        int64_t p = h->positions ? h->positions[i] : from + (int64_t)i;
        if (p < 0 && h->positions) p += size;
        if (p < 0 || p >= size || (i && p <= (*out)[i - 1])) {
            return glia_fail_at(err, GLIA_EINVAL, param,
                                "%s must be ascending positions of a prompt of %zu tokens, %lld is not", param, n_prompt,
                                (long long)p);
        }
        (*out)[i] = (int32_t)p;
    }
    if (*n) return GLIA_OK;
    return glia_fail_at(err, GLIA_EINVAL, param, "%s names no row of the prompt", param);
}

/* Which of the other prompt's rows each edited row takes. */
static glia_status pair(const glia_sources *g, source *s, const int32_t *mine, size_t n, const int32_t *theirs,
                        size_t n_theirs, bool named, align how, glia_err *err) {
    const int32_t *other = s->tokens ? s->tokens : g->prompt;
    int32_t *aligned = glia_malloc(g->n_prompt * sizeof *aligned);
    if (!aligned || !(s->of = glia_malloc(n * sizeof *s->of))) {
        glia_free(aligned);
        return glia_fail(err, GLIA_ENOMEM, "no memory for the source of an intervention");
    }
    glia_align_tokens(g->prompt, g->n_prompt, other, s->n_tokens, aligned);
    glia_status st = GLIA_OK;
    s->n_to = n;
    for (size_t i = 0; i < n && !st; i++) {
        int64_t p = mine[i];
        if (s->want.kind == GLIA_SOURCE_RESAMPLE) p = theirs[glia_mixed(glia_mixed(s->want.seed) ^ (uint64_t)p) % n_theirs];
        else if (named) p = theirs[i];
        else if (how == ALIGN_END) p += (int64_t)s->n_tokens - (int64_t)g->n_prompt;
        else if (how == ALIGN_TOKENS) p = aligned[p];
        s->of[i] = (int32_t)p;
        if (p >= 0 && p < (int64_t)s->n_tokens) continue;
        char why[200];
        (void)snprintf(why, sizeof why,
                       "position %d has no partner among the %zu tokens of the other prompt (this one has %zu): name "
                       "positions on both sides, or align by \"start\" or \"end\"",
                       (int)mine[i], s->n_tokens, g->n_prompt);
        st = fail_here(s, GLIA_EHOOK, NULL, err, why);
    }
    glia_free(aligned);
    return st;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The rows that the hooks take: each of the paired ones once; for a mean, those that are named. */
static bool choose_rows(source *s, const int32_t *theirs, size_t n_theirs) {
    size_t n = s->of ? s->n_to : n_theirs;
    if (!(s->rows = glia_malloc(n * sizeof *s->rows))) return false;
    for (size_t i = 0; i < n; i++) s->rows[i] = s->of ? s->of[i] : theirs[i];
    qsort(s->rows, n, sizeof *s->rows, by_value);
    for (size_t i = 0; i < n; i++) {
        if (!s->n_rows || s->rows[s->n_rows - 1] != s->rows[i]) s->rows[s->n_rows++] = s->rows[i];
    }
    return true;
}

/* Rows of a stored run are there at once. */
static glia_status take_run(const glia_sources *g, source *s, const char *path, glia_err *err) {
    char param[64];
    int32_t *mine = NULL;
    size_t n = 0;
    glia_edit *edits = &g->acts->edits[s->want.first];
    glia_status st = GLIA_OK;
    if (s->want.kind != GLIA_SOURCE_MEAN) {
        (void)snprintf(param, sizeof param, "interventions[%zu].positions", s->want.entry);
        st = resolve(&edits->where, g->n_prompt, param, &mine, &n, err);
        for (size_t i = 0; !st && i < s->want.n; i++) edits[i].where.phases = GLIA_PHASE_PROMPT;
    }
    if (!st) st = glia_run_fill(g->acts, g->m, &s->want, mine, n, path, err);
    glia_free(mine);
    s->ended = true;
    return st;
}

static glia_status plan(const glia_sources *g, source *s, glia_err *err) {
    static const char *const fields[] = {"prompt", "messages", "positions", "align"};
    char path[64], param[96];
    (void)snprintf(path, sizeof path, "interventions[%zu].source", s->want.entry);
    glia_edit *edits = &g->acts->edits[s->want.first];
    glia_hook theirs = {0};
    align how = ALIGN_TOKENS;
    glia_status st = GLIA_OK;
    s->n_tokens = g->n_prompt;
    if (edits->where.point == GLIA_POINT_ATTN_SCORES || edits->where.point == GLIA_POINT_ATTN_PROBS) {
        return fail_here(s, GLIA_EHOOK, NULL, err,
                         "attention takes no source, since its columns are positions of one prompt: give the pattern as "
                         "vector, with `to`");
    }
    if (glia_source_is_run(s->want.v)) return take_run(g, s, path, err);
    if (s->want.v) {
        if (!yyjson_is_obj(s->want.v)) return fail_here(s, GLIA_EINVAL, NULL, err, "source must be an object");
        st = glia_known_fields(s->want.v, path, fields, sizeof fields / sizeof *fields, err);
        if (!st) st = parse_tokens(g, s, err);
        if (!st) st = parse_align(s, &how, err);
        if (!st) st = glia_parse_positions(g->acts, s->want.v, path, "positions", GLIA_PHASE_ALL, &theirs, err);
        if (st) return st;
    }
    int32_t *mine = NULL, *other = NULL;
    size_t n_mine = 0, n_other = 0;
    glia_json_join(param, sizeof param, path, "positions");
    st = resolve(&theirs, s->n_tokens, param, &other, &n_other, err);
    bool named = theirs.positions || theirs.range;
    if (!st && s->want.kind != GLIA_SOURCE_MEAN) { /* rows of the prompt, each with one of its own */
        (void)snprintf(param, sizeof param, "interventions[%zu].positions", s->want.entry);
        st = resolve(&edits->where, g->n_prompt, param, &mine, &n_mine, err);
        if (!st && named && s->want.kind == GLIA_SOURCE_PATCH && n_mine != n_other) {
            st = fail_here(s, GLIA_EINVAL, "positions", err, "positions must be as many as those that they replace");
        }
        if (!st) st = pair(g, s, mine, n_mine, other, n_other, named, how, err);
        for (size_t i = 0; !st && i < s->want.n; i++) edits[i].where.phases = GLIA_PHASE_PROMPT;
    }
    if (!st && !choose_rows(s, other, n_other)) st = glia_fail(err, GLIA_ENOMEM, "no memory for a source");
    glia_free(mine);
    glia_free(other);
    return st;
}

static glia_status submit(const glia_sources *g, source *s, void (*on_event)(void *ud), void *ud, glia_err *err) {
    glia_request_params p;
    glia_request_params_init(&p);
    if (!(s->hooks = glia_calloc(s->want.n, sizeof *s->hooks))) return glia_fail(err, GLIA_ENOMEM, "no memory for a source");
    for (size_t i = 0; i < s->want.n; i++) {
        s->hooks[i] = g->acts->edits[s->want.first + i].where;
        s->hooks[i].phases = GLIA_PHASE_PROMPT;
        s->hooks[i].range = NULL, s->hooks[i].positions = s->rows, s->hooks[i].n_positions = s->n_rows;
        if (!s->of) s->hooks[i].reduce.op = GLIA_REDUCE_MEAN;
    }
    p.prompt = s->tokens ? s->tokens : g->prompt, p.n_prompt = s->n_tokens;
    p.hooks = s->hooks, p.n_hooks = s->want.n;
    p.max_tokens = 0, p.whole_reply = true;
    glia_status st = glia_request_submit(&s->rq, (glia_model *)(uintptr_t)g->m, &p, err);
    if (!st) glia_request_on_event(s->rq, on_event, ud);
    else if (err) (void)snprintf(err->param, sizeof err->param, "interventions[%zu].source", s->want.entry);
    return st;
}

glia_status glia_sources_start(glia_sources **out, glia_acts *a, const glia_model *m, const int32_t *prompt,
                               size_t n_prompt, void (*on_event)(void *ud), void *ud, glia_err *err) {
    glia_status st = GLIA_OK;
    glia_sources *g = *out = NULL;
    if (!a->n_sources) return GLIA_OK;
    g = glia_calloc(1, sizeof *g);
    if (g) g->list = glia_calloc(a->n_sources, sizeof *g->list);
    if (!g || !g->list) {
        st = glia_fail(err, GLIA_ENOMEM, "no memory for interventions from other runs");
        goto done;
    }
    g->acts = a, g->m = m, g->prompt = prompt, g->n_prompt = n_prompt;
    for (; g->n < a->n_sources && !st; g->n++) {
        g->list[g->n].want = a->sources[g->n];
        st = plan(g, &g->list[g->n], err);
    }
    for (size_t i = 0; i < g->n && !st; i++) {
        if (!g->list[i].ended) st = submit(g, &g->list[i], on_event, ud, err);
    }
    if (!st) *out = g, g = NULL;
done:
    glia_sources_free(g);
    return st;
}

/* ------------------------------------------------------------------ taking */

static const float *row_at(const glia_frame *f, int32_t position) {
    for (int32_t i = 0; i < f->n_positions; i++) { /* ascending, and few: those that were asked for */
        if (f->positions[i] == position) return f->data + (size_t)i * (size_t)f->width;
    }
    return NULL;
}

static glia_status fill(glia_sources *g, source *s, const glia_frame *f, glia_err *err) {
    glia_edit *e = &g->acts->edits[s->want.first + f->hook];
    size_t width = (size_t)f->width, n = s->of ? s->n_to : 1;
    float *rows = glia_acts_own(g->acts, glia_malloc(n * width * sizeof *rows));
    if (!rows) return glia_fail(err, GLIA_ENOMEM, "no memory for the rows of a source");
    for (size_t i = 0; i < n; i++) {
        const float *row = s->of ? row_at(f, s->of[i]) : f->data;
        if (!row) return glia_fail(err, GLIA_EINTERNAL, "a row of a source did not come");
        memcpy(rows + i * width, row, width * sizeof *rows);
    }
    e->rows = rows, e->n_rows = n, e->n_channels = width;
    s->n_filled++;
    return GLIA_OK;
}

static glia_status take(glia_sources *g, source *s, const glia_event *ev, glia_err *err) {
    glia_status st = GLIA_OK;
    if (ev->kind == GLIA_EVENT_ERROR) {
        *err = ev->u.error;
        (void)snprintf(err->param, sizeof err->param, "interventions[%zu].source", s->want.entry);
        return err->status;
    }
    if (ev->kind == GLIA_EVENT_DONE) {
        s->ended = true;
        if (s->n_filled != s->want.n) st = glia_fail(err, GLIA_EINTERNAL, "a row of a source did not come");
    }
    for (size_t i = 0; ev->kind == GLIA_EVENT_ACTIVATIONS && i < ev->u.activations.n_frames && !st; i++) {
        st = fill(g, s, &ev->u.activations.frames[i], err);
    }
    return st;
}

glia_status glia_sources_take(glia_sources *g, bool *done, glia_err *err) {
    *done = true;
    for (size_t i = 0; i < g->n; i++) {
        source *s = &g->list[i];
        for (glia_event *ev; !s->ended && (ev = glia_request_next(s->rq, 0));) {
            glia_status st = take(g, s, ev, err);
            glia_event_free(ev);
            if (st) return st;
        }
        *done &= s->ended;
    }
    return GLIA_OK;
}

void glia_sources_cancel(glia_sources *g) {
    for (size_t i = 0; g && i < g->n; i++) {
        if (g->list[i].rq) glia_request_cancel(g->list[i].rq);
    }
}

void glia_sources_free(glia_sources *g) {
    if (!g) return;
    for (size_t i = 0; g->list && i < g->n; i++) {
        source *s = &g->list[i];
        glia_request_free(s->rq);
        glia_free(s->tokens);
        glia_free(s->hooks);
        glia_free(s->rows);
        glia_free(s->of);
    }
    glia_free(g->list);
    glia_free(g);
}

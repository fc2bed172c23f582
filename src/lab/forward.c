/* lab/forward.c — cases in flight, their events copied into results.  The caller's thread; see forward.h.
 *
 *   next ──submit──► flight ──DONE──► result (kept, or handed to on_case)
 *          ▲            └─ERROR─► the whole fails: the others are cancelled
 *          └── EBUSY: again when one of ours has ended, or later */
#include "lab/forward.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

enum { PATIENCE_MS = 100, LEASE_TRIES = 300 };

/* Rows of one hook while they grow. */
typedef struct growing {
    glia_rows view; /* what is handed out; its pointers are the ones below */
    int32_t *heads, *positions, *token_ids, *indices;
    float *data;
    size_t cap_floats, cap_positions;
} growing;

typedef struct result {
    glia_forward_result view;
    glia_rows *rows;
    growing *grow; /* [n_hooks] */
    int32_t *tokens;
    size_t cap_tokens;
} result;

typedef struct flight {
    glia_request *rq; /* NULL: free */
    size_t index;     /* of the case */
} flight;

/* Rung by the engine when an event was queued. */
typedef struct bell {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool rung;
} bell;

struct glia_forward {
    result *results; /* [n] */
    size_t n;
    glia_lease *lease;
};

typedef struct run {
    glia_forward *f;
    glia_model *m;
    const glia_forward_params *p;
    flight *flights;
    size_t n_flights, next, n_done;
    bell bell;
} run;

/* ------------------------------------------------------------------ results */

static void result_clear(result *r) {
    for (size_t h = 0; r->grow && h < r->view.n_hooks; h++) {
        glia_free(r->grow[h].heads);
        glia_free(r->grow[h].positions);
        glia_free(r->grow[h].token_ids);
        glia_free(r->grow[h].indices);
        glia_free(r->grow[h].data);
    }
    glia_free(r->grow);
    glia_free(r->rows);
    glia_free(r->tokens);
    *r = (result){0};
}

void glia_forward_free(glia_forward *f) {
    if (!f) return;
    for (size_t i = 0; f->results && i < f->n; i++) result_clear(&f->results[i]);
    glia_free(f->results);
    glia_lease_free(f->lease);
    glia_free(f);
}

const glia_forward_result *glia_forward_get(const glia_forward *f, size_t index) {
    return index < f->n ? &f->results[index].view : NULL;
}

const glia_rows *glia_forward_rows(const glia_forward *f, size_t index, size_t hook) {
    const glia_forward_result *r = glia_forward_get(f, index);
    return r && hook < r->n_hooks ? &r->rows[hook] : NULL;
}

static bool result_begin(result *r, const glia_forward_case *c) {
    r->view.n_hooks = c->n_hooks;
    if (!c->n_hooks) return true;
    r->rows = glia_calloc(c->n_hooks, sizeof *r->rows);
    r->grow = glia_calloc(c->n_hooks, sizeof *r->grow);
    r->view.rows = r->rows;
    for (size_t h = 0; r->rows && h < c->n_hooks; h++) r->rows[h].point = c->hooks[h].point;
    return r->rows && r->grow;
}

static bool add_token(result *r, int32_t id) {
    if (r->view.n_tokens == r->cap_tokens) {
        size_t cap = r->cap_tokens ? 2 * r->cap_tokens : 16;
        int32_t *more = glia_realloc(r->tokens, cap * sizeof *more);
        if (!more) return false;
        r->tokens = more, r->cap_tokens = cap;
    }
    r->tokens[r->view.n_tokens++] = id;
    r->view.tokens = r->tokens;
    return true;
}

/* The next capacity of a buffer of `have` that must hold n: the first frame is taken as it is, since it is mostly the
 * only one. */
static size_t capacity(size_t have, size_t n) { return !have || n > 2 * have ? n : 2 * have; }

static bool room_for(growing *g, size_t n_positions, size_t n_floats, bool indices) {
    if (n_positions > g->cap_positions) {
        size_t cap = capacity(g->cap_positions, n_positions);
        int32_t *p = glia_realloc(g->positions, cap * sizeof *p);
        if (p) g->positions = p;
        int32_t *t = glia_realloc(g->token_ids, cap * sizeof *t);
        if (t) g->token_ids = t;
        if (!p || !t) return false;
        g->cap_positions = cap;
    }
    if (n_floats > g->cap_floats) {
        size_t cap = capacity(g->cap_floats, n_floats);
        float *d = glia_realloc(g->data, cap * sizeof *d);
        if (d) g->data = d;
        int32_t *k = indices ? glia_realloc(g->indices, cap * sizeof *k) : NULL;
        if (k) g->indices = k;
        if (!d || (indices && !k)) return false;
        g->cap_floats = cap;
    }
    return true;
}

/* Columns have become more: rows that are there move apart, from the last one on, and are filled up. */
static void widen(growing *g, int32_t n_cols) {
    glia_rows *v = &g->view;
    float fill = v->point == GLIA_POINT_ATTN_SCORES ? -INFINITY : 0;
    for (int64_t i = (int64_t)v->n_rows * v->n_heads - 1; i >= 0; i--) {
        float *to = g->data + i * n_cols;
        memmove(to, g->data + i * v->n_cols, (size_t)v->n_cols * sizeof *to);
        for (int32_t c = v->n_cols; c < n_cols; c++) to[c] = fill;
    }
    v->n_cols = n_cols, v->width = v->n_heads * n_cols;
}

static bool add_frame(growing *g, const glia_frame *f) {
    glia_rows *v = &g->view;
    if (!v->n_rows) {
        *v = (glia_rows){.point = f->point,
                         .layer = f->layer,
                         .grade = f->grade,
                         .reduce = f->reduce,
                         .width = f->width,
                         .n_heads = f->n_heads,
                         .head_dim = f->head_dim,
                         .group = f->group,
                         .n_cols = f->n_cols};
        if (f->n_heads && !(g->heads = glia_memdup(f->heads, (size_t)f->n_heads * sizeof *g->heads))) return false;
    }
    size_t rows = (size_t)v->n_rows + (size_t)f->n_rows, positions = (size_t)v->n_positions + (size_t)f->n_positions;
    size_t width = (size_t)(f->n_cols > v->n_cols ? f->width : v->width);
    if (!room_for(g, positions, rows * width, f->indices != NULL)) return false;
    if (f->n_cols > v->n_cols) widen(g, f->n_cols);
    size_t at = (size_t)v->n_rows * (size_t)v->width, n = (size_t)f->n_rows * (size_t)f->width;
    memcpy(g->data + at, f->data, n * sizeof *g->data);
    if (f->indices) memcpy(g->indices + at, f->indices, n * sizeof *g->indices);
    size_t labels = (size_t)f->n_positions * sizeof *g->positions;
    memcpy(g->positions + v->n_positions, f->positions, labels);
    memcpy(g->token_ids + v->n_positions, f->token_ids, labels);
    v->n_rows += f->n_rows, v->n_positions += f->n_positions;
    v->heads = g->heads, v->positions = g->positions, v->token_ids = g->token_ids;
    v->data = g->data, v->indices = g->indices;
    return true;
}

static bool add_frames(result *r, const glia_event *ev) {
    for (size_t i = 0; i < ev->u.activations.n_frames; i++) {
        const glia_frame *f = &ev->u.activations.frames[i];
        if (!add_frame(&r->grow[f->hook], f)) return false;
        r->rows[f->hook] = r->grow[f->hook].view;
    }
    return true;
}

/* ------------------------------------------------------------------ the bell */

static void on_event(void *ud) {
    bell *b = ud;
    (void)pthread_mutex_lock(&b->lock);
    b->rung = true;
    (void)pthread_cond_signal(&b->cond);
    (void)pthread_mutex_unlock(&b->lock);
}

/* Until it rings, or for a moment. */
static void wait_for(bell *b, long ms) {
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L, until.tv_nsec %= 1000000000L;
    (void)pthread_mutex_lock(&b->lock);
    if (!b->rung) (void)pthread_cond_timedwait(&b->cond, &b->lock, &until);
    b->rung = false;
    (void)pthread_mutex_unlock(&b->lock);
}

/* ------------------------------------------------------------------ running */

static void request_params(glia_request_params *q, const glia_forward_case *c) {
    glia_request_params_init(q);
    q->prompt = c->tokens, q->n_prompt = c->n_tokens;
    q->hooks = c->hooks, q->n_hooks = c->n_hooks;
    q->edits = c->edits, q->n_edits = c->n_edits;
    q->max_tokens = c->max_tokens;
    q->sampling.temperature = 0;
    q->sampling.ignore_eos = c->ignore_eos;
    q->no_cache = c->no_cache;
    q->whole_reply = true;
}

static bool still_wanted(const run *r) {
    return !r->p->on_progress || r->p->on_progress(r->p->ud, r->n_done, r->p->n_cases);
}

/* The most that the result of a case takes: its rows, attention of the prompt with columns for the generated tokens. */
static glia_status measure(const run *r, const glia_forward_case *c, uint64_t *bytes, uint64_t *peak, glia_err *err) {
    glia_request_params q;
    request_params(&q, c);
    glia_status st = glia_request_capture_bytes(r->m, &q, bytes, err);
    if (!st) st = glia_request_capture_peak(r->m, &q, peak, err);
    bool columns = false;
    for (size_t h = 0; h < c->n_hooks; h++) {
        columns |= c->hooks[h].point == GLIA_POINT_ATTN_PROBS || c->hooks[h].point == GLIA_POINT_ATTN_SCORES;
    }
    if (columns && c->max_tokens > 1) *bytes += *bytes / c->n_tokens * (uint64_t)c->max_tokens;
    return st;
}

/* Set the memory aside that the rows take: of all cases, or of those that are handed on as they end, of as many as run at
 * once.  What the requests themselves hold on the way comes on top. */
static glia_status lease_results(run *r, glia_err *err) {
    uint64_t total = 0, largest = 0, most = 0;
    for (size_t i = 0; i < r->p->n_cases; i++) {
        uint64_t bytes, peak;
        glia_status st = measure(r, &r->p->cases[i], &bytes, &peak, err);
        if (st) return st;
        total += bytes;
        if (bytes > largest) largest = bytes;
        if (peak > most) most = peak;
    }
    if (r->p->on_case && total > largest * r->n_flights) total = largest * r->n_flights;
    if (!total) return GLIA_OK;
    glia_capture_usage u;
    glia_model_capture_usage(r->m, &u);
    if (total > u.limit || most > u.limit - total) {
        return glia_fail_at(err, GLIA_ETOOLARGE, "activation_hooks",
                            "all rows together are %.1f MiB, more than the %.1f MiB for activations "
                            "(--capture-memory): use fewer or shorter prompts, layers or positions",
                            (double)(total + most) / 1048576, (double)u.limit / 1048576);
    }
    glia_status st;
    for (int n = 0; (st = glia_model_lease(&r->f->lease, r->m, total, err)) == GLIA_EBUSY && n < LEASE_TRIES; n++) {
        if (!still_wanted(r)) return glia_fail(err, GLIA_ECANCELLED, "cancelled");
        wait_for(&r->bell, PATIENCE_MS);
    }
    return st;
}

static glia_status failed(const run *r, size_t index, glia_status st) {
    if (r->p->failed) *r->p->failed = index;
    return st;
}

/* Fill the free places.  EBUSY is no failure: the queue is full of other people's requests. */
static glia_status submit(run *r, bool *any, glia_err *err) {
    for (size_t k = 0; k < r->n_flights && r->next < r->p->n_cases; k++) {
        flight *fl = &r->flights[k];
        if (fl->rq) continue;
        const glia_forward_case *c = &r->p->cases[r->next];
        glia_request_params q;
        request_params(&q, c);
        if (!r->f->results[r->next].rows && !result_begin(&r->f->results[r->next], c)) {
            return glia_fail(err, GLIA_ENOMEM, "out of memory for the rows of %zu hooks", c->n_hooks);
        }
        glia_status st = glia_request_submit(&fl->rq, r->m, &q, err);
        if (st == GLIA_EBUSY) return GLIA_OK;
        if (st) return failed(r, r->next, st);
        glia_request_on_event(fl->rq, on_event, &r->bell);
        fl->index = r->next++;
        *any = true;
    }
    return GLIA_OK;
}

static glia_status end_case(run *r, flight *fl, const glia_usage *u, glia_err *err) {
    result *res = &r->f->results[fl->index];
    size_t index = fl->index;
    res->view.usage = *u;
    glia_request_free(fl->rq);
    fl->rq = NULL;
    r->n_done++;
    glia_status st = GLIA_OK;
    if (r->p->on_case) {
        st = r->p->on_case(r->p->ud, index, &res->view, err);
        result_clear(res);
    }
    if (!st && !still_wanted(r)) st = glia_fail(err, GLIA_ECANCELLED, "cancelled");
    return st;
}

static glia_status take_event(run *r, flight *fl, const glia_event *ev, glia_err *err) {
    result *res = &r->f->results[fl->index];
    bool ok = true;
    switch (ev->kind) {
    case GLIA_EVENT_ACTIVATIONS: ok = add_frames(res, ev); break;
    case GLIA_EVENT_TOKEN: ok = add_token(res, ev->u.token.id); break;
    case GLIA_EVENT_DONE: return end_case(r, fl, &ev->u.done.usage, err);
    case GLIA_EVENT_ERROR:
        if (err) *err = ev->u.error;
        return failed(r, fl->index, ev->u.error.status);
    case GLIA_EVENT_PROGRESS:
    case GLIA_EVENT_PROMPT_TOKEN: break;
    }
    return ok ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "out of memory for activations");
}

/* Whatever has come, of every flight. */
static glia_status drain(run *r, bool *any, glia_err *err) {
    for (size_t k = 0; k < r->n_flights; k++) {
        flight *fl = &r->flights[k];
        glia_event *ev;
        while (fl->rq && (ev = glia_request_next(fl->rq, 0))) {
            glia_status st = take_event(r, fl, ev, err);
            glia_event_free(ev);
            *any = true;
            if (st) return st;
        }
    }
    return GLIA_OK;
}

static glia_status go(run *r, glia_err *err) {
    while (r->n_done < r->p->n_cases) {
        bool any = false;
        glia_status st = submit(r, &any, err);
        if (!st) st = drain(r, &any, err);
        if (st) return st;
        if (any) continue;
        wait_for(&r->bell, PATIENCE_MS);
        if (!still_wanted(r)) return glia_fail(err, GLIA_ECANCELLED, "cancelled");
    }
    return GLIA_OK;
}

glia_status glia_forward_run(glia_forward **out, glia_model *m, const glia_forward_params *p, glia_err *err) {
    glia_status st = GLIA_OK;
    glia_model_info info;
    run r = {.m = m, .p = p};
    *out = NULL;
    if (p->failed) *p->failed = SIZE_MAX;
    (void)pthread_mutex_init(&r.bell.lock, NULL);
    (void)pthread_cond_init(&r.bell.cond, NULL);
    glia_model_get_info(m, &info);
    r.n_flights = p->n_in_flight ? p->n_in_flight : 2 * (size_t)info.n_parallel;
    if (r.n_flights > p->n_cases) r.n_flights = p->n_cases;
    r.f = glia_calloc(1, sizeof *r.f);
    r.flights = glia_calloc(r.n_flights + 1, sizeof *r.flights);
    if (r.f) r.f->results = glia_calloc(p->n_cases + 1, sizeof *r.f->results), r.f->n = p->n_cases;
    if (!r.f || !r.flights || !r.f->results) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for %zu prompts", p->n_cases);
        goto done;
    }
    if ((st = lease_results(&r, err)) || (st = go(&r, err))) goto done;
    *out = r.f, r.f = NULL;
done:
    for (size_t k = 0; r.flights && k < r.n_flights; k++) glia_request_free(r.flights[k].rq);
    glia_free(r.flights);
    glia_forward_free(r.f);
    (void)pthread_cond_destroy(&r.bell.cond);
    (void)pthread_mutex_destroy(&r.bell.lock);
    return st;
}

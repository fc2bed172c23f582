/* engine/request.c — copying and checking what a client asks; the event queue.  Locks: see request.h. */
#include "request.h"
#include "base/err.h"
#include "base/mem.h"
#include "engine/guess.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct glia_node {
    glia_event ev;
    glia_node *next;
    size_t n_bytes;
    glia_lease *lease; /* of activations: these bytes are part of it */
    bool in_pages;     /* else on the heap */
    glia_logprob *top;
    void *extra; /* text of a DONE event, freed with the node */
};

double glia_now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* ------------------------------------------------------------------ inbox */

static bool cond_init_monotonic(pthread_cond_t *c) {
    pthread_condattr_t a;
    if (pthread_condattr_init(&a)) return false;
    bool ok = !pthread_condattr_setclock(&a, CLOCK_MONOTONIC) && !pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
    return ok;
}

glia_inbox *glia_inbox_new(size_t limit) {
    glia_inbox *b = glia_calloc(1, sizeof *b);
    if (!b) return NULL;
    atomic_init(&b->refs, 1);
    b->limit = limit;
    pthread_mutex_init(&b->lock, NULL);
    if (!cond_init_monotonic(&b->wake)) {
        pthread_mutex_destroy(&b->lock);
        glia_free(b);
        return NULL;
    }
    return b;
}

glia_inbox *glia_inbox_ref(glia_inbox *b) {
    atomic_fetch_add(&b->refs, 1);
    return b;
}

void glia_inbox_unref(glia_inbox *b) {
    if (!b || atomic_fetch_sub(&b->refs, 1) != 1) return;
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    glia_free(b);
}

void glia_inbox_stir(glia_inbox *b) {
    pthread_mutex_lock(&b->lock);
    b->stirred = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

/* ------------------------------------------------------------------ hooks */

static int by_value(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Rows before `end`. */
static int32_t count_below(const glia_rhook *h, int32_t end) {
    if (!h->positions) return end <= h->from ? 0 : (end < h->to ? end : h->to) - h->from;
    int32_t lo = 0, hi = h->n_positions;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (h->positions[mid] < end) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

int32_t glia_rhook_count(const glia_rhook *h, int32_t from, int32_t to) {
    return to <= from ? 0 : count_below(h, to) - count_below(h, from);
}

bool glia_rhook_wants(const glia_rhook *h, uint32_t phase, int32_t pos) {
    return (h->phases & phase) && glia_rhook_count(h, pos, pos + 1) > 0;
}

glia_status glia_rhook_copy_positions(glia_rhook *out, const glia_hook *in, const char *where, int32_t n_prompt,
                                      int32_t n_ctx, glia_err *err) {
    out->to = INT32_MAX;
    if (in->positions && in->range) {
        return glia_fail_at(err, GLIA_EINVAL, where, "name positions or a range, not both");
    }
    if (in->range) return glia_range_resolve(in->range, n_prompt, n_ctx, "position", where, &out->from, &out->to, err);
    if (!in->positions) return GLIA_OK;
    if (in->n_positions > (size_t)n_ctx) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%zu positions are more than the context's %d", in->n_positions,
                            n_ctx);
    }
    out->positions = glia_malloc((in->n_positions + 1) * sizeof *out->positions);
    if (!out->positions) return glia_fail(err, GLIA_ENOMEM, "out of memory for a hook's positions");
    for (size_t i = 0; i < in->n_positions; i++) {
        int64_t p = in->positions[i];
        if (p < -(int64_t)n_prompt || p >= n_ctx) {
            return glia_fail_at(err, GLIA_EINVAL, where,
                                "position %lld does not exist: the prompt has %d tokens, the context %d", (long long)p,
                                n_prompt, n_ctx);
        }
        out->positions[i] = (int32_t)(p < 0 ? p + n_prompt : p);
    }
    qsort(out->positions, in->n_positions, sizeof *out->positions, by_value);
    for (size_t i = 0; i < in->n_positions; i++) {
        if (!out->n_positions || out->positions[out->n_positions - 1] != out->positions[i]) {
            out->positions[out->n_positions++] = out->positions[i];
        }
    }
    return GLIA_OK;
}

static glia_status copy_heads(glia_rhook *out, const glia_hook *in, const char *where, const glia_point_info *pi,
                              glia_err *err) {
    out->width = pi->width, out->head_dim = pi->head_dim, out->n_heads = pi->n_heads, out->group = pi->group;
    out->by_position = pi->by_position;
    if (!in->heads) return GLIA_OK;
    if (!pi->n_heads) {
        return glia_fail_at(err, GLIA_EINVAL, where, "%s has no heads: leave `heads` out", glia_point_name(in->point));
    }
    if (!in->n_heads || in->n_heads > (size_t)pi->n_heads) {
        return glia_fail_at(err, GLIA_EINVAL, where, "name 1 to %d heads", pi->n_heads);
    }
    for (size_t i = 0; i < in->n_heads; i++) {
        if (in->heads[i] < 0 || in->heads[i] >= pi->n_heads) {
            return glia_fail_at(err, GLIA_EINVAL, where, "head %d does not exist: %s has heads 0 to %d", in->heads[i],
                                glia_point_name(in->point), pi->n_heads - 1);
        }
    }
    out->heads = glia_memdup(in->heads, in->n_heads * sizeof *in->heads);
    if (!out->heads) return glia_fail(err, GLIA_ENOMEM, "out of memory for a hook's heads");
    out->n_heads = (int32_t)in->n_heads;
    if (!out->by_position) out->width = out->n_heads * (pi->width / pi->n_heads);
    return GLIA_OK;
}

/* before: in[-1] as it was copied; NULL: in is the first. */
glia_status glia_rhook_copy(glia_rhook *out, const glia_hook *in, const char *where, const glia_rhook *before,
                            int32_t n_prompt, const glia_request_limits *l, glia_err *err) {
    glia_point_info pi;
    if ((unsigned)in->point >= GLIA_N_POINTS) return glia_fail_at(err, GLIA_EINVAL, where, "no such point");
    if (l->hooks_refused) return glia_fail_at(err, GLIA_EHOOK, where, "%s", l->hooks_refused);
    if (!glia_model_point(l->model, in->point, in->layer, &pi)) {
        return glia_fail_at(err, GLIA_EINVAL, where, "layer %d does not exist: this model has layers 0 to %d",
                            in->layer, l->n_layer - 1);
    }
    if (pi.grade < GLIA_GRADE_STRUCTURAL) {
        return glia_fail_at(err, GLIA_EHOOK, where, "%s at layer %d is %s: %s", glia_point_name(in->point), in->layer,
                            glia_grade_name(pi.grade), pi.reason);
    }
    if (!(in->phases & GLIA_PHASE_ALL)) return glia_fail_at(err, GLIA_EINVAL, where, "neither prompt nor generated");
    out->point = in->point;
    out->layer = glia_point_has_layer(in->point) ? in->layer : -1;
    out->grade = pi.grade, out->phases = in->phases & GLIA_PHASE_ALL;
    out->outputs = l->outputs_only(l->model, in->point, in->layer);
    glia_status st = glia_rhook_copy_positions(out, in, where, n_prompt, l->n_ctx, err);
    if (!st) st = copy_heads(out, in, where, &pi, err);
    if (!st) st = glia_rhook_copy_reduce(out, in, before ? in - 1 : NULL, before, where, err);
    if (out->phases & GLIA_PHASE_PROMPT) out->n_prompt_rows = count_below(out, n_prompt);
    out->last_prompt = !out->n_prompt_rows ? -1
                       : out->positions    ? out->positions[out->n_prompt_rows - 1]
                                           : (out->to < n_prompt ? out->to : n_prompt) - 1;
    return st;
}

/* One of several, for errors to name. */
static glia_status copy_hook(glia_rhook *out, const glia_hook *in, size_t index, const glia_rhook *before,
                             int32_t n_prompt, const glia_request_limits *l, glia_err *err) {
    char where[64];
    (void)snprintf(where, sizeof where, "activation_hooks[%zu]", index);
    return glia_rhook_copy(out, in, where, before, n_prompt, l, err);
}

static glia_status copy_edits(glia_request *r, const glia_request_params *p, const glia_request_limits *l,
                              glia_err *err) {
    r->first_edited = INT32_MAX;
    if (!p->n_edits) return GLIA_OK;
    if (!(r->edits = glia_calloc(p->n_edits, sizeof *r->edits))) {
        return glia_fail(err, GLIA_ENOMEM, "out of memory for %zu interventions", p->n_edits);
    }
    for (size_t i = 0; i < p->n_edits; i++) {
        glia_redit *e = &r->edits[r->n_edits++];
        glia_status st = glia_redit_copy(e, &p->edits[i], i, r->n_prompt, l, err);
        if (st) return st;
        if (e->first < r->first_edited) r->first_edited = e->first;
        r->wants_columns |= e->where.by_position;
    }
    return GLIA_OK;
}

/* ------------------------------------------------------------------ submit */

static glia_status check_sizes(const glia_request_params *p, const glia_request_limits *l, int32_t *max_tokens,
                               glia_err *err) {
    if (!p->prompt || !p->n_prompt) return glia_fail_at(err, GLIA_EINVAL, "prompt", "the prompt has no tokens");
    size_t n_ctx = (size_t)l->n_ctx; /* nothing is generated behind a prompt that fills it */
    if (p->n_prompt > n_ctx || (p->n_prompt == n_ctx && p->max_tokens)) {
        return glia_fail_at(err, GLIA_ECONTEXT, "prompt",
                            "the prompt has %zu tokens, the context is %d: shorten it or serve with a larger --ctx",
                            p->n_prompt, l->n_ctx);
    }
    for (size_t i = 0; i < p->n_prompt; i++) {
        if (p->prompt[i] < 0 || p->prompt[i] >= l->n_vocab) {
            return glia_fail_at(err, GLIA_EINVAL, "prompt", "token %d does not exist: ids run from 0 to %d",
                                p->prompt[i], l->n_vocab - 1);
        }
    }
    int32_t left = l->n_ctx - (int32_t)p->n_prompt;
    if (p->max_tokens < -1) return glia_fail_at(err, GLIA_EINVAL, "max_tokens", "max_tokens must not be negative");
    if (p->max_tokens > left) {
        return glia_fail_at(err, GLIA_ECONTEXT, "max_tokens",
                            "%zu prompt tokens and max_tokens %d do not fit the context of %d: at most %d are left",
                            p->n_prompt, p->max_tokens, l->n_ctx, left);
    }
    if (p->prompt_chunk < 0) return glia_fail_at(err, GLIA_EINVAL, "prompt_chunk", "prompt_chunk must not be negative");
    *max_tokens = p->max_tokens < 0 ? left : p->max_tokens;
    return GLIA_OK;
}

/* Labels and floats of all rows that this hook gets. */
static uint64_t hook_bytes(const glia_rhook *h, int32_t n_prompt, int32_t max_tokens) {
    int32_t end = n_prompt + (max_tokens > 1 ? max_tokens - 1 : 0); /* the last drawn token is not fed back */
    uint64_t prompt = (uint64_t)h->n_prompt_rows, generated = 0, rows, floats;
    if (h->phases & GLIA_PHASE_GENERATED) generated = (uint64_t)glia_rhook_count(h, n_prompt, end);
    rows = prompt + generated;
    if (h->by_position) { /* the prompt's rows have the columns of their last one, each generated row its own */
        uint64_t columns = prompt * (uint64_t)(h->last_prompt + 1);
        for (int32_t p = n_prompt; generated && p < end; p++) {
            if (glia_rhook_count(h, p, p + 1)) columns += (uint64_t)p + 1;
        }
        floats = columns * (uint64_t)h->n_heads;
    } else if (h->over_rows) {
        uint64_t results = h->across_phases ? rows > 0 : (uint64_t)(prompt > 0) + (generated > 0);
        floats = results * (uint64_t)h->width;
    } else {
        floats =
            rows * (uint64_t)h->width * (h->reduction.op == GLIA_REDUCE_TOPK ? 2 : 1); /* a channel for each value */
    }
    return floats * sizeof(float) + rows * 2 * sizeof(int32_t);
}

/* ------------------------------------------------------------------ memory */

static size_t aligned(size_t n) { return (n + 15) & ~(size_t)15; }

/* What a frame of n rows of hook k takes. */
typedef struct frame_size {
    int32_t n_rows, width, n_cols, n_heads;
    size_t labels, heads, data, indices; /* bytes */
} frame_size;

/* pos: of a generated token's row, which attention rows have their columns up to. */
static frame_size frame_size_of(const glia_rhook *k, uint32_t phase, int32_t n, int32_t pos) {
    bool in_heads = !k->reduced || (k->over_rows && !k->reduction.channels);
    frame_size z = {.n_rows = k->over_rows ? 1 : n, .width = k->width, .n_heads = in_heads ? k->n_heads : 0};
    if (k->by_position) {
        z.n_cols = phase == GLIA_PHASE_PROMPT ? k->last_prompt + 1 : pos + 1;
        z.width = k->n_heads * z.n_cols;
    }
    z.labels = aligned((size_t)n * sizeof(int32_t));
    z.heads = aligned((size_t)z.n_heads * sizeof(int32_t));
    z.data = aligned((size_t)z.n_rows * (size_t)z.width * sizeof(float));
    if (k->reduction.op == GLIA_REDUCE_TOPK) z.indices = z.data; /* int32_t for float */
    return z;
}

static size_t frame_bytes(const frame_size *z) {
    return sizeof(glia_frame) + 2 * z->labels + z->heads + z->data + z->indices;
}

/* Bytes of a request's events with rows: predicted here, allocated by glia_node_frames, from the same sizes. */
typedef struct footprint {
    uint64_t prompt, prompt_sums;  /* the prompt's rows; what was gathered over them, right behind */
    uint64_t generated, last_sums; /* one generated token's; what was gathered until the end */
    uint64_t gathering;            /* sums while they grow */
    uint64_t all;                  /* all events together */
} footprint;

static uint64_t add_frame(uint64_t *event, const glia_rhook *h, uint32_t phase, int32_t n, int32_t pos) {
    if (!n) return 0;
    frame_size z = frame_size_of(h, phase, n, pos);
    uint64_t bytes = frame_bytes(&z), head = aligned(sizeof(glia_node)) + 16;
    *event += bytes + (*event ? 0 : head);
    return bytes + head;
}

static void add_footprint(footprint *f, const glia_rhook *h, int32_t n_prompt, int32_t max_tokens) {
    int32_t end = n_prompt + (max_tokens > 1 ? max_tokens - 1 : 0), later = 0;
    if (h->phases & GLIA_PHASE_GENERATED) later = glia_rhook_count(h, n_prompt, end);
    if (h->over_rows) {
        bool across = h->across_phases;
        f->gathering += glia_sums_bytes(&h->reduction) * 3;
        f->all += add_frame(&f->prompt_sums, h, GLIA_PHASE_PROMPT, across ? 0 : h->n_prompt_rows, 0);
        f->all += add_frame(&f->last_sums, h, GLIA_PHASE_GENERATED, later + (across ? h->n_prompt_rows : 0), 0);
        return;
    }
    f->all += add_frame(&f->prompt, h, GLIA_PHASE_PROMPT, h->n_prompt_rows, 0);
    /* the last row is the widest where there is a column per position */
    f->all += (uint64_t)later * add_frame(&f->generated, h, GLIA_PHASE_GENERATED, later > 0, end - 1);
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* The most that exists at once while the client frees an event before it takes the next: the one it has, a queue that was
 * not full, and what one pass adds to it.  *queue: the bound of the queue, smaller where memory is. */
static glia_status plan_memory(const footprint *f, const glia_request_limits *l, uint64_t *peak, size_t *queue,
                               glia_err *err) {
    glia_capture_usage u;
    glia_capture_memory_read(l->memory, &u);
    uint64_t taken = larger(larger(f->prompt, f->prompt_sums), larger(f->generated, f->last_sums));
    uint64_t least = f->gathering + larger(taken + f->generated + f->last_sums, f->prompt + f->prompt_sums);
    uint64_t all = f->gathering + f->all;
    *queue = l->event_bytes;
    if (all <= least + *queue && all <= u.limit) {
        *peak = all;
        return GLIA_OK;
    }
    if (least >= u.limit) {
        return glia_fail_at(err, GLIA_ETOOLARGE, "activation_hooks",
                            "these hooks hold %.1f MiB of activations at once (the prompt's rows are one piece), more "
                            "than the %.1f MiB there are (--capture-memory): ask for fewer layers, positions or heads, "
                            "reduce them, or send a shorter prompt",
                            (double)least / 1048576, (double)u.limit / 1048576);
    }
    if (*queue > u.limit - least) *queue = (size_t)(u.limit - least);
    *peak = least + *queue;
    return GLIA_OK;
}

glia_status glia_request_measure(const glia_request_params *p, const glia_request_limits *l, uint64_t *total,
                                 uint64_t *peak, glia_err *err) {
    int32_t max_tokens = 0;
    footprint f = {0};
    size_t queue;
    *total = 0;
    glia_status st = check_sizes(p, l, &max_tokens, err);
    for (size_t i = 0; !st && i < p->n_hooks; i++) {
        glia_rhook h = {0};
        st = copy_hook(&h, &p->hooks[i], i, NULL, (int32_t)p->n_prompt, l, err);
        if (!st) {
            *total += hook_bytes(&h, (int32_t)p->n_prompt, max_tokens);
            add_footprint(&f, &h, (int32_t)p->n_prompt, max_tokens);
        }
        glia_rhook_clear(&h);
    }
    return st || !peak ? st : plan_memory(&f, l, peak, &queue, err);
}

static glia_status copy_stop(glia_request *r, const glia_request_params *p, glia_err *err) {
    if (!p->n_stop) return GLIA_OK;
    r->stop = glia_calloc(p->n_stop, sizeof *r->stop);
    for (size_t i = 0; r->stop && i < p->n_stop; i++) {
        if (!p->stop[i] || !p->stop[i][0]) return glia_fail_at(err, GLIA_EINVAL, "stop", "a stop string is empty");
        if (!(r->stop[i] = glia_strdup(p->stop[i]))) break;
        r->n_stop++;
    }
    return r->n_stop == p->n_stop ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "out of memory for stop strings");
}

/* How a request speculates: what it asks for, as far as the model can. */
static glia_status resolve_speculation(glia_request *r, const glia_request_params *p, const glia_request_limits *l,
                                       glia_err *err) {
    glia_speculate how = p->speculate ? p->speculate : l->speculates ? l->speculate : GLIA_SPECULATE_OFF;
    if (p->priority < GLIA_PRIORITY_MIN || p->priority > GLIA_PRIORITY_MAX) {
        return glia_fail_at(err, GLIA_EINVAL, "priority", "priority must lie between %d and %d", GLIA_PRIORITY_MIN,
                            GLIA_PRIORITY_MAX);
    }
    if (p->guess_most < 0 || p->guess_most > GLIA_GUESS_MOST) {
        return glia_fail_at(err, GLIA_EINVAL, "speculative", "at most %d tokens can be guessed at once",
                            GLIA_GUESS_MOST);
    }
    if ((unsigned)how > GLIA_SPECULATE_DRAFT)
        return glia_fail_at(err, GLIA_EINVAL, "speculative", "there is no such way to speculate");
    if (how != GLIA_SPECULATE_OFF && !l->speculates) {
        return glia_fail_at(err, GLIA_EINVAL, "speculative",
                            "this model's state cannot be taken back by a token: leave speculative out");
    }
    if (how == GLIA_SPECULATE_DRAFT && !l->has_draft) {
        return glia_fail_at(err, GLIA_EINVAL, "speculative",
                            "no draft model is loaded (glia serve --draft FILE): \"ngram\" needs none");
    }
    if (p->n_predicted && how == GLIA_SPECULATE_OFF && !p->speculate && l->speculates) how = GLIA_SPECULATE_NGRAM;
    r->speculate = how, r->guess_most = p->guess_most ? p->guess_most : 8, r->priority = p->priority;
    for (size_t i = 0; i < p->n_predicted; i++) {
        if (p->predicted[i] < 0 || p->predicted[i] >= l->n_vocab)
            return glia_fail_at(err, GLIA_EINVAL, "prediction", "token %d does not exist", p->predicted[i]);
    }
    if (!p->n_predicted || how == GLIA_SPECULATE_OFF) return GLIA_OK;
    size_t n = p->n_predicted < (size_t)l->n_ctx ? p->n_predicted : (size_t)l->n_ctx; /* no answer is longer */
    r->predicted = glia_memdup(p->predicted, n * sizeof *p->predicted);
    r->n_predicted = (int32_t)n;
    return r->predicted ? GLIA_OK : glia_fail(err, GLIA_ENOMEM, "out of memory for a prediction");
}

glia_status glia_request_new(glia_request **out, const glia_request_params *p, const glia_request_limits *l,
                             glia_inbox *inbox, glia_err *err) {
    footprint f = {0};
    int32_t max_tokens = 0;
    glia_request *r = *out = NULL;
    glia_status st = check_sizes(p, l, &max_tokens, err);
    if (st) return st;
    r = glia_calloc(1, sizeof *r);
    if (!r) return glia_fail(err, GLIA_ENOMEM, "out of memory for a request");
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->call_lock, NULL);
    if (!cond_init_monotonic(&r->ready)) {
        pthread_mutex_destroy(&r->lock);
        pthread_mutex_destroy(&r->call_lock);
        glia_free(r);
        return glia_fail(err, GLIA_ENOMEM, "out of memory for a request");
    }
    atomic_init(&r->refs, 1);
    r->inbox = glia_inbox_ref(inbox);
    r->pages = l->pages ? glia_pages_ref(l->pages) : NULL;
    r->limit = l->event_bytes, r->max_tokens = max_tokens, r->n_prompt = (int32_t)p->n_prompt;
    r->prompt_chunk = p->prompt_chunk ? p->prompt_chunk : INT32_MAX;
    r->busy_beside = p->busy_beside;
    r->no_cache = p->no_cache, r->want_progress = p->want_progress, r->whole_reply = p->whole_reply;
    r->prompt_logprobs = p->prompt_logprobs && p->sampling.n_logprobs >= 0;
    r->first_wanted = r->prompt_logprobs ? 0 : r->n_prompt;
    r->sampling = p->sampling, r->sampling.bias = NULL;
    r->prompt = glia_memdup(p->prompt, p->n_prompt * sizeof *p->prompt);
    if (p->sampling.n_bias) {
        r->sampling.bias = glia_memdup(p->sampling.bias, p->sampling.n_bias * sizeof *p->sampling.bias);
    }
    if (!r->prompt || (p->sampling.n_bias && !r->sampling.bias)) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for a request");
        goto done;
    }
    if ((st = copy_stop(r, p, err)) || (st = resolve_speculation(r, p, l, err))) goto done;
    if ((st = glia_tuning_read(&r->tuning, p->adapters, p->n_adapters, l->n_adapters, err))) goto done;
    if (r->tuning.n && (p->n_hooks || p->n_edits)) {
        st = glia_fail_at(err, GLIA_EHOOK, "lora",
                          "hooks and interventions are not served with adapters: the graph with them was not proven; "
                          "merge the adapter into the model's file, or leave one of the two out");
        goto done;
    }
    if (p->n_hooks) {
        r->hooks = glia_calloc(p->n_hooks, sizeof *r->hooks);
        if (!r->hooks) {
            st = glia_fail(err, GLIA_ENOMEM, "out of memory for %zu hooks", p->n_hooks);
            goto done;
        }
    }
    for (size_t i = 0; i < p->n_hooks; i++) {
        glia_rhook *h = &r->hooks[r->n_hooks++];
        if ((st = copy_hook(h, &p->hooks[i], i, i ? h - 1 : NULL, r->n_prompt, l, err))) goto done;
        add_footprint(&f, h, r->n_prompt, max_tokens);
        r->wants_columns |= h->by_position;
        int32_t first = !h->n_prompt_rows ? r->n_prompt : h->positions ? h->positions[0] : h->from;
        if (first < r->first_wanted) r->first_wanted = first;
    }
    if ((st = copy_edits(r, p, l, err))) goto done;
    if (r->n_hooks && (st = plan_memory(&f, l, &r->peak_bytes, &r->limit, err))) goto done;
    r->submitted_ms = glia_now_ms();
    *out = r, r = NULL;
done:
    glia_request_unref(r);
    return st;
}

void glia_request_unref(glia_request *r) {
    if (!r || atomic_fetch_sub(&r->refs, 1) != 1) return;
    for (glia_node *n = r->head; n;) {
        glia_node *next = n->next;
        glia_node_free(n);
        n = next;
    }
    for (size_t i = 0; i < r->n_hooks; i++) glia_rhook_clear(&r->hooks[i]);
    for (size_t i = 0; i < r->n_edits; i++) glia_redit_clear(&r->edits[i]);
    glia_free(r->edits);
    for (size_t i = 0; i < r->n_stop; i++) glia_free(r->stop[i]);
    glia_free(r->stop);
    glia_rules_free(r->rules);
    glia_free(r->hooks);
    glia_free(r->prompt);
    glia_free(r->predicted);
    glia_free((void *)(uintptr_t)r->sampling.bias);
    glia_lease_unref(r->lease);
    glia_pages_unref(r->pages);
    glia_inbox_unref(r->inbox);
    pthread_cond_destroy(&r->ready);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->call_lock);
    glia_free(r);
}

/* ------------------------------------------------------------------ nodes */

glia_event *glia_node_event(glia_node *n) { return &n->ev; }
glia_logprob *glia_node_top(glia_node *n) { return n->top; }

void glia_node_free(glia_node *n) {
    if (!n) return;
    glia_lease *lease = n->lease;
    size_t n_bytes = n->n_bytes;
    glia_free(n->extra);
    if (n->in_pages) glia_pages_give(n);
    else glia_free(n);
    if (lease) glia_lease_drop(lease, n_bytes);
    glia_lease_unref(lease);
}

/* pages: NULL for the heap, which also serves what they have not. */
static glia_node *node_new_in(glia_pages *pages, glia_event_kind kind, size_t payload, char **p) {
    size_t head = aligned(sizeof(glia_node));
    glia_node *n = pages ? glia_pages_take(pages, head + payload) : NULL;
    bool in_pages = n != NULL;
    if (!n && !(n = glia_malloc(head + payload))) return NULL;
    memset(n, 0, sizeof *n);
    n->in_pages = in_pages;
    n->ev.kind = kind;
    n->n_bytes = head + payload;
    if (p) *p = (char *)n + head;
    return n;
}

static glia_node *node_new(glia_event_kind kind, size_t payload, char **p) {
    return node_new_in(NULL, kind, payload, p);
}

glia_node *glia_node_token(int32_t id, int32_t index, const char *text, size_t n_text, int32_t n_top) {
    char *p;
    size_t tops = aligned((size_t)n_top * sizeof(glia_logprob));
    glia_node *n = node_new(GLIA_EVENT_TOKEN, tops + n_text + 1, &p);
    if (!n) return NULL;
    n->top = (glia_logprob *)(void *)p;
    if (n_text) memcpy(p + tops, text, n_text);
    p[tops + n_text] = 0;
    n->ev.u.token.id = id, n->ev.u.token.index = index;
    n->ev.u.token.text = p + tops, n->ev.u.token.n_text = n_text;
    n->ev.u.token.top = n->top, n->ev.u.token.n_top = (size_t)n_top;
    return n;
}

glia_node *glia_node_prompt_token(int32_t id, int32_t index, int32_t n_top) {
    glia_node *n = glia_node_token(id, index, "", 0, n_top);
    if (n) n->ev.kind = GLIA_EVENT_PROMPT_TOKEN;
    return n;
}

glia_node *glia_node_frames(const glia_request *r, uint32_t phase, const int32_t *n_rows, int32_t pos) {
    size_t n_frames = 0, bytes = 16; /* for the end of the list of frames */
    for (size_t h = 0; h < r->n_hooks; h++) {
        const glia_rhook *k = &r->hooks[h];
        if (!n_rows[h]) continue;
        frame_size z = frame_size_of(k, phase, n_rows[h], pos);
        n_frames++;
        bytes += frame_bytes(&z);
    }
    size_t head = aligned(n_frames * sizeof(glia_frame));
    char *p;
    glia_node *n = node_new_in(r->pages, GLIA_EVENT_ACTIVATIONS, bytes, &p);
    if (!n) return NULL;
    if (r->lease) { /* of every request that came through the inbox */
        n->lease = glia_lease_ref(r->lease);
        glia_lease_hold(n->lease, n->n_bytes);
    }
    glia_frame *f = (glia_frame *)(void *)p;
    n->ev.u.activations.frames = f, n->ev.u.activations.n_frames = n_frames;
    p += head;
    for (size_t h = 0; h < r->n_hooks; h++) {
        const glia_rhook *k = &r->hooks[h];
        if (!n_rows[h]) continue;
        frame_size z = frame_size_of(k, phase, n_rows[h], pos);
        int32_t *heads = (int32_t *)(void *)(p + 2 * z.labels);
        char *data = (char *)heads + z.heads;
        for (int32_t i = 0; i < z.n_heads; i++) heads[i] = k->heads ? k->heads[i] : i;
        *f++ = (glia_frame){.hook = h,
                            .point = k->point,
                            .layer = k->layer,
                            .grade = k->grade,
                            .phase = phase,
                            .reduce = k->reduction.op,
                            .n_rows = z.n_rows,
                            .width = z.width,
                            .n_heads = z.n_heads,
                            .head_dim = z.n_heads ? k->head_dim : 0,
                            .heads = z.n_heads ? heads : NULL,
                            .group = z.n_heads ? k->group : 0,
                            .n_cols = z.n_cols,
                            .n_positions = n_rows[h],
                            .positions = (int32_t *)(void *)p,
                            .token_ids = (int32_t *)(void *)(p + z.labels),
                            .data = (float *)(void *)data,
                            .indices = z.indices ? (int32_t *)(void *)(data + z.data) : NULL};
        p = data + z.data + z.indices;
    }
    return n;
}

/* ------------------------------------------------------------------ queue */

bool glia_request_is_cancelled(const glia_request *r) { return atomic_load(&r->cancelled); }

bool glia_request_is_full(glia_request *r) {
    pthread_mutex_lock(&r->lock);
    bool full = r->was_full = r->n_bytes >= r->limit;
    pthread_mutex_unlock(&r->lock);
    return full;
}

static void push(glia_request *r, glia_node *n, bool last) {
    pthread_mutex_lock(&r->lock);
    if (r->ended) {
        pthread_mutex_unlock(&r->lock);
        glia_node_free(n);
        return;
    }
    r->ended = last;
    if (r->tail) r->tail->next = n;
    else r->head = n;
    r->tail = n;
    r->n_bytes += n->n_bytes;
    bool call = last || !r->whole_reply || r->n_bytes >= r->limit / 2;
    pthread_cond_signal(&r->ready);
    pthread_mutex_unlock(&r->lock);
    if (!call) return;
    pthread_mutex_lock(&r->call_lock);
    if (r->on_event) r->on_event(r->ud);
    pthread_mutex_unlock(&r->call_lock);
}

void glia_request_push(glia_request *r, glia_node *n) { push(r, n, false); }

void glia_request_push_progress(glia_request *r, int32_t n_done, int32_t n_total) {
    glia_node *n = node_new(GLIA_EVENT_PROGRESS, 0, NULL);
    if (!n) return; /* progress may be missed, results may not */
    n->ev.u.progress.n_done = n_done, n->ev.u.progress.n_total = n_total;
    push(r, n, false);
}

/* The two ends must arrive whatever the state of the heap: plain malloc, a few hundred bytes, tried until it works. */
static glia_node *end_node(glia_event_kind kind) {
    glia_node *n;
    while (!(n = node_new(kind, 0, NULL))) {
        struct timespec ts = {.tv_nsec = 10 * 1000 * 1000};
        nanosleep(&ts, NULL);
    }
    return n;
}

void glia_request_push_done(glia_request *r, glia_finish finish, const char *stop, const char *text, size_t n_text,
                            const glia_usage *u) {
    size_t n_stop = stop ? strlen(stop) + 1 : 0;
    char *extra = glia_malloc(n_text + 1 + n_stop);
    if (!extra) {
        glia_err e;
        glia_fail(&e, GLIA_ENOMEM, "out of memory at the end of the answer");
        glia_request_push_error(r, &e);
        return;
    }
    if (n_text) memcpy(extra, text, n_text);
    extra[n_text] = 0;
    if (stop) memcpy(extra + n_text + 1, stop, n_stop);
    glia_node *n = end_node(GLIA_EVENT_DONE);
    n->extra = extra;
    n->n_bytes += n_text + 1 + n_stop;
    n->ev.u.done.finish = finish, n->ev.u.done.usage = *u;
    n->ev.u.done.text = extra, n->ev.u.done.n_text = n_text;
    n->ev.u.done.stop = stop ? extra + n_text + 1 : NULL;
    push(r, n, true);
}

void glia_request_push_error(glia_request *r, const glia_err *err) {
    glia_node *n = end_node(GLIA_EVENT_ERROR);
    n->ev.u.error = *err;
    push(r, n, true);
}

glia_event *glia_request_next(glia_request *r, int timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms > 0) {
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
        if (until.tv_nsec >= 1000000000L) until.tv_sec++, until.tv_nsec -= 1000000000L;
    }
    bool stir = false;
    pthread_mutex_lock(&r->lock);
    while (!r->head && !r->ended && timeout_ms != 0) {
        if (timeout_ms < 0) pthread_cond_wait(&r->ready, &r->lock);
        else if (pthread_cond_timedwait(&r->ready, &r->lock, &until) == ETIMEDOUT) break;
    }
    glia_node *n = r->head;
    if (n) {
        r->head = n->next;
        if (!r->head) r->tail = NULL;
        n->next = NULL;
        r->n_bytes -= n->n_bytes;
        stir = r->was_full && r->n_bytes < r->limit;
        if (stir) r->was_full = false;
    }
    pthread_mutex_unlock(&r->lock);
    if (stir) glia_inbox_stir(r->inbox);
    return n ? &n->ev : NULL;
}

void glia_event_free(glia_event *ev) { glia_node_free((glia_node *)(void *)ev); } /* ev is a node's first member */

void glia_event_keep(glia_event *ev) {
    glia_node *n = (glia_node *)(void *)ev;
    if (!n->lease) return;
    glia_lease_drop(n->lease, n->n_bytes);
    glia_lease_unref(n->lease);
    n->lease = NULL;
}

void glia_request_on_event(glia_request *r, void (*fn)(void *ud), void *ud) {
    pthread_mutex_lock(&r->call_lock);
    r->on_event = fn, r->ud = ud;
    pthread_mutex_unlock(&r->call_lock);
}

void glia_request_cancel(glia_request *r) {
    if (!atomic_exchange(&r->cancelled, true)) glia_inbox_stir(r->inbox);
}

void glia_request_free(glia_request *r) {
    if (!r) return;
    glia_request_on_event(r, NULL, NULL);
    glia_request_cancel(r);
    glia_request_unref(r);
}

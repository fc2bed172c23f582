/* engine/collect.c — see collect.h. */
#include "engine/collect.h"
#include "base/err.h"
#include "base/mem.h"

enum { PROMPT, GENERATED, N_TOTALS }; /* a hook across phases keeps everything in the first */

typedef struct gathered {
    glia_sums *pass, *total[N_TOTALS];
} gathered;

struct glia_collect {
    const glia_request *r;
    gathered hook[]; /* [n_hooks], all NULL for hooks that do not reduce over rows */
};

bool glia_collect_new(glia_collect **out, const glia_request *r) {
    bool any = false;
    *out = NULL;
    for (size_t h = 0; h < r->n_hooks; h++) any |= r->hooks[h].over_rows;
    if (!any) return true;
    glia_collect *c = glia_calloc(1, sizeof *c + r->n_hooks * sizeof *c->hook);
    if (!c) return false;
    c->r = r;
    for (size_t h = 0; h < r->n_hooks; h++) {
        const glia_rhook *k = &r->hooks[h];
        gathered *g = &c->hook[h];
        if (!k->over_rows) continue;
        g->pass = glia_sums_new(&k->reduction);
        g->total[PROMPT] = glia_sums_new(&k->reduction);
        g->total[GENERATED] = glia_sums_new(&k->reduction);
        if (g->pass && g->total[PROMPT] && g->total[GENERATED]) continue;
        glia_collect_free(c);
        return false;
    }
    *out = c;
    return true;
}

void glia_collect_free(glia_collect *c) {
    if (!c) return;
    for (size_t h = 0; h < c->r->n_hooks; h++) {
        glia_sums_free(c->hook[h].pass);
        for (int t = 0; t < N_TOTALS; t++) glia_sums_free(c->hook[h].total[t]);
    }
    glia_free(c);
}

void glia_collect_begin(glia_collect *c) {
    for (size_t h = 0; c && h < c->r->n_hooks; h++) {
        if (c->hook[h].pass) glia_sums_reset(c->hook[h].pass);
    }
}

glia_sums *glia_collect_sums(glia_collect *c, size_t hook) { return c ? c->hook[hook].pass : NULL; }

void glia_collect_keep(glia_collect *c, uint32_t phase) {
    for (size_t h = 0; c && h < c->r->n_hooks; h++) {
        if (!c->hook[h].pass) continue;
        bool generated = phase == GLIA_PHASE_GENERATED && !c->r->hooks[h].across_phases;
        glia_sums_merge(c->hook[h].total[generated ? GENERATED : PROMPT], c->hook[h].pass);
    }
    glia_collect_begin(c); /* never twice */
}

/* Which of a hook's rows are whole when `ended` is over: positions from <= p < to.  NULL: none of its totals. */
static const glia_sums *whole(const glia_collect *c, size_t h, uint32_t ended, int32_t n_past, int32_t *from,
                              int32_t *to) {
    const glia_rhook *k = &c->r->hooks[h];
    bool at_end = ended == GLIA_PHASE_GENERATED;
    *from = at_end && !(k->across_phases && k->phases & GLIA_PHASE_PROMPT) ? c->r->n_prompt : 0;
    *to = at_end && k->phases & GLIA_PHASE_GENERATED ? n_past : c->r->n_prompt;
    if (!c->hook[h].pass) return NULL;
    if (k->across_phases) return at_end ? c->hook[h].total[PROMPT] : NULL;
    return k->phases & ended ? c->hook[h].total[at_end ? GENERATED : PROMPT] : NULL;
}

static void fill(const glia_frame *f, const glia_rhook *k, const glia_sums *sums, const int32_t *tokens, int32_t from,
                 int32_t to) {
    /* writable until it is pushed */
    int32_t *positions = (int32_t *)(uintptr_t)f->positions, *ids = (int32_t *)(uintptr_t)f->token_ids;
    for (int32_t p = from; p < to; p++) {
        if (!glia_rhook_count(k, p, p + 1)) continue;
        *positions++ = p, *ids++ = tokens[p];
    }
    glia_sums_write(sums, (float *)(uintptr_t)f->data);
}

glia_status glia_collect_finish(const glia_collect *c, uint32_t ended, const int32_t *tokens, int32_t n_past,
                                glia_node **out, glia_err *err) {
    *out = NULL;
    if (!c) return GLIA_OK;
    int32_t from, to, n_frames = 0, *n_rows = glia_calloc(c->r->n_hooks, sizeof *n_rows);
    if (!n_rows) return glia_fail(err, GLIA_ENOMEM, "out of memory for activations");
    glia_status st = GLIA_OK;
    for (size_t h = 0; h < c->r->n_hooks && !st; h++) {
        const glia_sums *sums = whole(c, h, ended, n_past, &from, &to);
        if (!sums) continue;
        n_rows[h] = glia_rhook_count(&c->r->hooks[h], from, to);
        n_frames += n_rows[h] > 0;
        if (glia_sums_rows(sums) != n_rows[h]) {
            st = glia_fail(err, GLIA_EUNPROVEN, "a reduction took %lld rows of %d", (long long)glia_sums_rows(sums),
                           n_rows[h]);
        }
    }
    if (!st && n_frames && !(*out = glia_node_frames(c->r, ended, n_rows, 0))) {
        st = glia_fail(err, GLIA_ENOMEM, "out of memory for activations");
    }
    if (*out) {
        glia_frame *f = (glia_frame *)(uintptr_t)glia_node_event(*out)->u.activations.frames;
        for (size_t h = 0; h < c->r->n_hooks; h++) {
            if (!n_rows[h]) continue;
            const glia_rhook *k = &c->r->hooks[h];
            if (k->across_phases) f->phase = k->phases;
            const glia_sums *sums = whole(c, h, ended, n_past, &from, &to);
            fill(f++, k, sums, tokens, from, to);
        }
    }
    glia_free(n_rows);
    return st;
}

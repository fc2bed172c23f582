/* tests/unit/test_attention.c — rows of attention against a reference in double precision, on graphs made by hand: cells in
 * any order, two streams, grouped queries, soft caps, ALiBi, sinks, windows, caches of three types, both kinds of graph.
 * Then the engine: the same rows after any reuse of the prompt cache, beside other requests, after cancelled ones. */
#include "tap/attention.h"
#include "base/mem.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ a pass made by hand */

enum { HD = 64, NH = 4, NK = 2, NS = 2, PAST = 10, NEW = 3, LAST = PAST + NEW, CELLS = 64, N_KV = 32, ROWS = NS * NEW };

typedef struct setting {
    bool flash;
    enum ggml_type cache;
    float cap, max_bias;
    bool sinks;
    int window; /* 0: none */
} setting;

typedef struct pass {
    setting s;
    struct ggml_context *ctx;
    glia_atlas at;
    glia_attn attn;
    glia_cells *cells;
    glia_attention *attention;
    int32_t cell[NS][LAST];
    float *q;                  /* [ROWS][NH][HD] */
    float k[NS][LAST][NK][HD]; /* as the cache gives them back */
    float sinks[NH], scale;
    glia_tap_row rows[ROWS];
    struct ggml_tensor *cache, *mask, *logits, *node;
} pass;

static uint32_t seed = 1;
static float noise(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (float)(1 << 24) * 2 - 1;
}

/* Shuffled cells, so that no column is its position. */
static void deal_cells(pass *p) {
    for (int s = 0; s < NS; s++) {
        int32_t deck[N_KV];
        for (int i = 0; i < N_KV; i++) deck[i] = i;
        for (int i = N_KV - 1; i > 0; i--) {
            int k = (int)((noise() + 1) / 2 * (float)(i + 1)) % (i + 1);
            int32_t t = deck[i];
            deck[i] = deck[k], deck[k] = t;
        }
        memcpy(p->cell[s], deck, sizeof p->cell[s]);
    }
}

static void fill_cache(pass *p) {
    size_t row = ggml_row_size(p->s.cache, HD * NK);
    for (int s = 0; s < NS; s++) {
        for (int c = 0; c < LAST; c++) {
            float v[NK * HD];
            char *to = (char *)p->cache->data + ((size_t)s * CELLS + (size_t)p->cell[s][c]) * row;
            for (int i = 0; i < NK * HD; i++) v[i] = noise();
            if (p->s.cache == GGML_TYPE_F32) {
                memcpy(to, v, sizeof v);
            } else {
                ggml_quantize_chunk(p->s.cache, v, to, 0, 1, NK * HD, NULL);
                ggml_get_type_traits(p->s.cache)->to_float(to, v, NK * HD);
            }
            memcpy(p->k[s][c], v, sizeof v);
        }
    }
}

static bool sees(const pass *p, int from, int pos) { return from <= pos && (!p->s.window || pos - from < p->s.window); }

static void set_mask(const pass *p, int64_t t, int64_t cell, float v) {
    int64_t i = t * N_KV + cell;
    if (p->mask->type == GGML_TYPE_F16) ((ggml_fp16_t *)p->mask->data)[i] = ggml_fp32_to_fp16(v);
    else ((float *)p->mask->data)[i] = v;
}

/* Tell the mirror of n rows a stream from position `first`, as the scheduler would ask for their nodes. */
static void store(pass *p, int first, int n, const glia_tap_row *rows) {
    struct ggml_tensor *pos = ggml_new_tensor_1d(p->ctx, GGML_TYPE_I32, NS * n);
    struct ggml_tensor *idx = ggml_new_tensor_1d(p->ctx, GGML_TYPE_I64, NS * n);
    struct ggml_tensor *x = ggml_new_tensor_3d(p->ctx, GGML_TYPE_F32, HD, NK, NS * n);
    ggml_set_name(pos, "inp_pos");
    for (int s = 0; s < NS; s++) {
        for (int i = 0; i < n; i++) {
            ((int32_t *)pos->data)[s * n + i] = first + i;
            ((int64_t *)idx->data)[s * n + i] = s * CELLS + p->cell[s][first + i];
        }
    }
    struct ggml_tensor *rope = ggml_rope(p->ctx, x, pos, HD, 0);
    struct ggml_tensor *all = ggml_reshape_2d(p->ctx, p->cache, HD * NK, CELLS * NS);
    struct ggml_tensor *set = ggml_set_rows(p->ctx, all, ggml_reshape_2d(p->ctx, x, HD * NK, NS * n), idx);
    glia_cells_begin(p->cells, rows, NS * n);
    glia_cells_on_ask(p->cells, rope);
    glia_cells_on_ask(p->cells, set);
}

static void make_graph(pass *p) {
    struct ggml_context *c = p->ctx;
    struct ggml_tensor *q = ggml_new_tensor_3d(c, GGML_TYPE_F32, HD, NH, ROWS);
    p->q = q->data;
    for (int i = 0; i < HD * NH * ROWS; i++) p->q[i] = noise();
    q = ggml_permute(c, ggml_view_4d(c, q, HD, NH, NEW, NS, q->nb[1], q->nb[2], q->nb[2] * NEW, 0), 0, 2, 1, 3);
    size_t hd = ggml_row_size(p->s.cache, HD);
    struct ggml_tensor *k =
        ggml_permute(c, ggml_view_4d(c, p->cache, HD, NK, N_KV, NS, hd, hd * NK, hd * NK * CELLS, 0), 0, 2, 1, 3);
    p->mask = ggml_new_tensor_4d(c, p->s.flash ? GGML_TYPE_F16 : GGML_TYPE_F32, N_KV, NEW, 1, NS);
    ggml_set_name(p->mask, "attn_inp_kq_mask");
    for (int t = 0; t < ROWS; t++) {
        for (int j = 0; j < N_KV; j++) set_mask(p, t, j, -INFINITY);
        for (int from = 0; from < LAST; from++) {
            int pos = PAST + t % NEW;
            if (sees(p, from, pos)) set_mask(p, t, p->cell[t / NEW][from], p->s.max_bias > 0 ? (float)(from - pos) : 0);
        }
    }
    struct ggml_tensor *sinks = NULL;
    if (p->s.sinks) {
        sinks = ggml_new_tensor_1d(c, GGML_TYPE_F32, NH);
        for (int h = 0; h < NH; h++) ((float *)sinks->data)[h] = p->sinks[h] = 2 * noise();
    }
    p->scale = 0.125f;
    if (p->s.flash) {
        p->node = ggml_flash_attn_ext(c, q, k, k, p->mask, p->scale, p->s.max_bias, p->s.cap);
        ggml_flash_attn_ext_add_sinks(p->node, sinks);
    } else { /* a capped graph scales before the cap, as llama.cpp's does */
        p->logits = ggml_mul_mat(c, k, q);
        if (p->s.cap != 0) {
            p->logits = ggml_tanh(c, ggml_scale(c, p->logits, p->scale / p->s.cap));
            p->logits = ggml_scale(c, p->logits, p->s.cap);
        }
        p->node = ggml_soft_max_ext(c, p->logits, p->mask, p->s.cap != 0 ? 1 : p->scale, p->s.max_bias);
        ggml_soft_max_add_sinks(p->node, sinks);
        struct ggml_cgraph *g = ggml_new_graph(c);
        ggml_build_forward_expand(g, p->node);
        assert_int_equal(ggml_graph_compute_with_ctx(c, g, 1), GGML_STATUS_SUCCESS);
    }
}

static pass *pass_new(setting s) {
    pass *p = calloc(1, sizeof *p);
    assert_non_null(p);
    p->s = s;
    ggml_cpu_init();
    p->ctx = ggml_init((struct ggml_init_params){.mem_size = 8 << 20});
    assert_non_null(p->ctx);
    p->attn = (glia_attn){.node = 1, .logits = s.flash ? -1 : 0, .cache = 0, .flash = s.flash};
    p->at = (glia_atlas){.n_layer = 1, .n_caches = 1, .store_layer = {0}, .attn = &p->attn};
    p->cache = ggml_new_tensor_3d(p->ctx, s.cache, HD * NK, CELLS, NS);
    memset(p->cache->data, 0, ggml_nbytes(p->cache));
    ggml_set_name(p->cache, "cache_k_l0");
    deal_cells(p);
    fill_cache(p);
    assert_non_null(p->cells = glia_cells_new(&p->at));
    assert_non_null(p->attention = glia_attention_new(2, s.window > 0));
    glia_tap_row past[NS * PAST];
    for (int i = 0; i < NS * PAST; i++) past[i] = (glia_tap_row){.pos = i % PAST, .seq = i / PAST};
    for (int i = 0; i < ROWS; i++) p->rows[i] = (glia_tap_row){.pos = PAST + i % NEW, .seq = i / NEW};
    store(p, 0, PAST, past);
    glia_cells_end(p->cells, true);
    store(p, PAST, NEW, p->rows);
    make_graph(p);
    return p;
}

static void pass_free(pass *p) {
    glia_attention_free(p->attention);
    glia_cells_free(p->cells);
    ggml_free(p->ctx);
    free(p);
}

/* What the tap would do at the pass's nodes. */
static const char *capture(pass *p, glia_tap_want *wants, int n) {
    for (int i = 0; i < n; i++) wants[i].next = i + 1 < n ? i + 1 : -1, wants[i].n_copied = 0;
    glia_attention_node at = {.attn = &p->attn, .node = p->logits, .rows = p->rows, .n_rows = ROWS, .cells = p->cells,
                              .wants = wants, .first_edit = -1, .first_score_edit = -1};
    glia_attention_begin(p->attention);
    const char *why = p->s.flash ? NULL : glia_attention_keep(p->attention, &at);
    at.node = p->node;
    return why ? why : glia_attention_read(p->attention, &at);
}

/* Row of head h at batch row t, by position, in double precision. */
static void reference(const pass *p, int t, int h, double *scores, double *probs) {
    int s = t / NEW, pos = PAST + t % NEW;
    double slope = pow(2, -(double)p->s.max_bias / NH * (h + 1)), top = -INFINITY, sum = 0; /* NH is a power of two */
    for (int c = 0; c < LAST; c++) {
        double dot = 0;
        for (int i = 0; i < HD; i++) dot += (double)p->q[(t * NH + h) * HD + i] * (double)p->k[s][c][h / (NH / NK)][i];
        dot *= (double)p->scale;
        if (p->s.cap != 0) dot = (double)p->s.cap * tanh(dot / (double)p->s.cap);
        if (p->s.max_bias > 0) dot += slope * (c - pos);
        scores[c] = sees(p, c, pos) ? dot : -INFINITY;
        top = fmax(top, scores[c]);
    }
    for (int c = 0; c < LAST; c++) sum += probs[c] = exp(scores[c] - top);
    if (p->s.sinks) sum += exp((double)p->sinks[h] - top);
    for (int c = 0; c < LAST; c++) probs[c] /= sum;
}

static const setting settings[] = {
    {.flash = true, .cache = GGML_TYPE_F16},
    {.flash = false, .cache = GGML_TYPE_F16},
    {.flash = false, .cache = GGML_TYPE_F32},
    {.flash = true, .cache = GGML_TYPE_Q8_0},
    {.flash = true, .cache = GGML_TYPE_F16, .cap = 2},
    {.flash = false, .cache = GGML_TYPE_F32, .cap = 2},
    {.flash = true, .cache = GGML_TYPE_F16, .max_bias = 8},
    {.flash = false, .cache = GGML_TYPE_F32, .max_bias = 8},
    {.flash = true, .cache = GGML_TYPE_F16, .sinks = true},
    {.flash = false, .cache = GGML_TYPE_F32, .sinks = true},
    {.flash = true, .cache = GGML_TYPE_F16, .window = 4},
    {.flash = false, .cache = GGML_TYPE_F32, .window = 4},
    {.flash = true, .cache = GGML_TYPE_Q8_0, .cap = 3, .sinks = true, .window = 5},
};
#define EACH(i) for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)

/* Rounding of queries to the cache's type, as ggml's products do it. */
static double tolerance(const setting *s) {
    return s->cache == GGML_TYPE_F32 ? 1e-5 : s->cache == GGML_TYPE_F16 ? 2e-3 : 2e-2;
}

static void close_to(const setting *s, size_t i, const char *what, int t, int h, const float *got, const double *want,
                     int n) {
    for (int c = 0; c < n; c++) {
        bool good = isinf(want[c]) ? (double)got[c] == want[c] : fabs((double)got[c] - want[c]) <= tolerance(s);
        if (!good)
            fail_msg("setting %zu, %s row %d head %d column %d: %g, not %g", i, what, t, h, c, (double)got[c], want[c]);
    }
}

static void rows_equal_the_reference_by_position(void **state) {
    (void)state;
    EACH(i) {
        static float out[2][NS][NEW][NH][LAST];
        pass *p = pass_new(settings[i]);
        glia_tap_want w[2 * NS];
        for (int k = 0; k < 2 * NS; k++) {
            w[k] = (glia_tap_want){.point = k % 2 ? GLIA_POINT_ATTN_SCORES : GLIA_POINT_ATTN_PROBS,
                                   .row0 = k / 2 * NEW,
                                   .n_rows = NEW,
                                   .out_width = NH * LAST,
                                   .n_cols = LAST,
                                   .dst = out[k % 2][k / 2][0][0]};
        }
        memset(out, 0x55, sizeof out);
        const char *why = capture(p, w, 2 * NS);
        if (why) fail_msg("setting %zu: %s", i, why);
        for (int k = 0; k < 2 * NS; k++) assert_int_equal(w[k].n_copied, NEW);
        for (int t = 0; t < ROWS; t++) {
            for (int h = 0; h < NH; h++) {
                double scores[LAST], probs[LAST], sum = 0;
                reference(p, t, h, scores, probs);
                close_to(&p->s, i, "probabilities", t, h, out[0][t / NEW][t % NEW][h], probs, LAST);
                close_to(&p->s, i, "scores", t, h, out[1][t / NEW][t % NEW][h], scores, LAST);
                for (int c = 0; c < LAST; c++) sum += (double)out[0][t / NEW][t % NEW][h][c];
                if (p->s.sinks) assert_true(sum < 0.99);
                else assert_true(fabs(sum - 1) < 1e-4);
            }
        }
        pass_free(p);
    }
}

static void chosen_heads_and_rows_come_in_their_order(void **state) {
    (void)state;
    EACH(i) {
        pass *p = pass_new(settings[i]);
        static const int32_t heads[] = {3, 0};
        static const uint8_t mask[NEW] = {1, 0, 1};
        float out[2][2][LAST + 4]; /* a wider frame than the rows need */
        glia_tap_want w = {.point = GLIA_POINT_ATTN_PROBS,
                           .row0 = NEW,
                           .n_rows = NEW,
                           .mask = mask,
                           .heads = heads,
                           .n_heads = 2,
                           .out_width = 2 * (LAST + 4),
                           .n_cols = LAST + 4,
                           .dst = out[0][0]};
        const char *why = capture(p, &w, 1);
        if (why) fail_msg("%s", why);
        assert_int_equal(w.n_copied, 2);
        for (int r = 0; r < 2; r++) {
            for (int h = 0; h < 2; h++) {
                double scores[LAST], probs[LAST];
                reference(p, NEW + 2 * r, heads[h], scores, probs);
                close_to(&p->s, i, "probabilities", 2 * r, heads[h], out[r][h], probs, LAST);
                for (int c = LAST; c < LAST + 4; c++) assert_true(out[r][h][c] == 0);
            }
        }
        pass_free(p);
    }
}

static const char *one_row(pass *p) {
    static float out[NEW * NH * LAST];
    glia_tap_want w = {
        .point = GLIA_POINT_ATTN_PROBS, .n_rows = NEW, .out_width = NH * LAST, .n_cols = LAST, .dst = out};
    return capture(p, &w, 1);
}

/* Whatever the mask shows that the mirror does not hold, or the other way round: no row. */
static void rows_whose_columns_cannot_be_proven_are_refused(void **state) {
    (void)state;
    for (int flash = 0; flash < 2; flash++) {
        const setting plain = {.flash = flash, .cache = GGML_TYPE_F16};
        pass *p = pass_new(plain);
        assert_null(one_row(p));
        set_mask(p, 1, p->cell[0][4], -INFINITY); /* a hole */
        assert_non_null(one_row(p));
        set_mask(p, 1, p->cell[0][4], 0);
        assert_null(one_row(p));
        int32_t free_cell = 0;
        for (bool taken = true; taken; free_cell += taken) {
            taken = false;
            for (int c = 0; c < LAST; c++) taken |= p->cell[0][c] == free_cell;
        }
        set_mask(p, 1, free_cell, 0); /* a cell that nobody stored */
        assert_non_null(one_row(p));
        set_mask(p, 1, free_cell, -INFINITY);
        set_mask(p, 0, p->cell[0][PAST + 1], 0); /* the future */
        assert_non_null(one_row(p));
        set_mask(p, 0, p->cell[0][PAST + 1], -INFINITY);
        set_mask(p, 0, p->cell[0][0], -INFINITY); /* a window that the model does not have */
        assert_non_null(one_row(p));
        set_mask(p, 0, p->cell[0][0], 0);
        assert_null(one_row(p));
        int32_t t = p->rows[2].seq;
        p->rows[2].seq = 1; /* rows of another sequence than planned */
        assert_non_null(one_row(p));
        p->rows[2].seq = t;
        glia_cells_cut(p->cells, 0, 5); /* positions that are no longer there */
        assert_non_null(one_row(p));
        pass_free(p);
    }
}

static void cells_are_followed_or_unknown(void **state) {
    (void)state;
    const setting plain = {.flash = true, .cache = GGML_TYPE_F16};
    pass *p = pass_new(plain);
    glia_cell_table t;
    glia_cells_end(p->cells, true);
    for (int s = 0; s < NS; s++) {
        assert_true(glia_cells_known(p->cells, s));
        assert_true(glia_cells_table(p->cells, 0, s, &t));
        for (int c = 0; c < LAST; c++) assert_int_equal(t.cell[c], p->cell[s][c]);
        assert_int_equal(t.cell[LAST], -1);
    }
    glia_cells_cut(p->cells, 1, 4);
    assert_true(glia_cells_table(p->cells, 0, 1, &t));
    assert_int_equal(t.cell[3], p->cell[1][3]);
    assert_int_equal(t.cell[4], -1);
    assert_true(glia_cells_table(p->cells, 0, 0, &t));
    assert_int_equal(t.cell[4], p->cell[0][4]);

    glia_cells_begin(p->cells, p->rows, ROWS); /* a pass whose stores were not seen */
    glia_cells_end(p->cells, true);
    assert_false(glia_cells_known(p->cells, 0));
    assert_false(glia_cells_table(p->cells, 0, 0, &t));
    glia_cells_cut(p->cells, 0, 3);
    assert_false(glia_cells_known(p->cells, 0));
    glia_cells_cut(p->cells, 0, 0); /* all gone: known again */
    assert_true(glia_cells_known(p->cells, 0));
    assert_false(glia_cells_known(p->cells, 1));

    glia_cells_cut(p->cells, 1, 0);
    glia_cells_begin(p->cells, p->rows, ROWS); /* aborted before its stores: nothing changed */
    glia_cells_end(p->cells, false);
    assert_true(glia_cells_known(p->cells, 0) && glia_cells_known(p->cells, 1));

    glia_tap_row wrong[ROWS];
    memcpy(wrong, p->rows, sizeof wrong);
    wrong[1].pos += 7; /* the run's positions are not the planned ones */
    store(p, PAST, NEW, wrong);
    glia_cells_end(p->cells, true);
    assert_false(glia_cells_known(p->cells, 0));
    pass_free(p);
}

static void a_failed_allocation_refuses_the_rows(void **state) {
    (void)state;
    EACH(i) {
        pass *p = pass_new(settings[i]);
        for (size_t n = 1;; n++) {
            glia_attention_free(p->attention); /* its buffers are made once */
            assert_non_null(p->attention = glia_attention_new(1, settings[i].window > 0));
            glia_fault_arm(n);
            const char *why = one_row(p);
            bool fired = glia_fault_fired();
            glia_fault_arm(0);
            if (!fired) {
                assert_null(why);
                break;
            }
            assert_ptr_equal(why, GLIA_ATTENTION_NOMEM);
        }
        pass_free(p);
    }
}

/* ------------------------------------------------------------------ in the engine */

enum { N_PROMPT = 40, MORE = 3 };

static glia_model *open_with(const char *path, glia_flash flash, glia_kv_type kv, int n_parallel) {
    glia_model_params p;
    glia_model *m;
    glia_err err;
    glia_model_params_init(&p);
    p.path = path, p.n_parallel = n_parallel, p.n_ctx = 128, p.n_batch = 32, p.n_threads = test_threads();
    p.flash = flash, p.kv_type = kv;
    if (glia_model_open(&m, &p, &err)) fail_msg("%s", err.message);
    return m;
}

static int32_t ids[N_PROMPT + MORE];

static glia_hook hooks[16];
static size_t hook_all(const glia_model *m, const int64_t *positions, size_t n_positions) {
    glia_model_info info;
    glia_model_get_info(m, &info);
    size_t n = 0;
    for (int32_t il = 0; il < info.n_layer && n < 14; il++) {
        for (int k = 0; k < 2; k++) {
            hooks[n++] = (glia_hook){.point = k ? GLIA_POINT_ATTN_SCORES : GLIA_POINT_ATTN_PROBS,
                                     .layer = il,
                                     .phases = GLIA_PHASE_ALL,
                                     .positions = positions,
                                     .n_positions = n_positions};
        }
    }
    return n;
}

static result *ask(glia_model *m, int32_t n_prompt, size_t n_hooks, bool cache) {
    glia_request_params p = greedy(ids, (size_t)n_prompt, MORE + 1);
    p.hooks = hooks, p.n_hooks = n_hooks, p.no_cache = !cache;
    result *r = run_request(m, &p);
    if (r->err.status) fail_msg("%s", r->err.message);
    return r;
}

/* Rows of `got` that stand at the same positions in `want`, whose frames may be wider. */
static void same_rows(const char *what, const result *got, const result *want, double tolerance_) {
    for (size_t h = 0; h < got->n_hooks; h++) {
        const rows *g = &got->hook[h], *w = &want->hook[h];
        assert_true(g->n > 0);
        for (int r = 0, q = 0; r < g->n; r++) {
            while (q < w->n && w->pos[q] != g->pos[r]) q++;
            assert_true(q < w->n);
            for (int k = 0; k < g->n_heads; k++) {
                int cols = g->n_cols < w->n_cols ? g->n_cols : w->n_cols;
                double e =
                    worst_error(g->data + (size_t)r * (size_t)g->width + (size_t)k * (size_t)g->n_cols,
                                w->data + (size_t)q * (size_t)w->width + (size_t)k * (size_t)w->n_cols, (size_t)cols);
                if (!(e <= tolerance_))
                    fail_msg("%s: hook %zu at position %d, head %d is off by %g", what, h, g->pos[r], k, e);
            }
        }
    }
}

static const char *const families[] = {"llama", "gemma3", "gpt2"}; /* plain, two caches with a window, no RoPE */

/* A prompt whose first tokens an earlier request without hooks left in the cache, for every split of it. */
static void cached_prompts_give_the_same_rows_at_every_split(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (int flash = 0; flash < 2; flash++) {
            glia_model *m = open_with(tiny_model(families[f]), flash ? GLIA_FLASH_ON : GLIA_FLASH_OFF, GLIA_KV_F32, 1);
            result *whole = ask(m, N_PROMPT, hook_all(m, NULL, 0), false);
            for (int i = 0; i < MORE; i++) ids[N_PROMPT + i] = whole->ids[i];
            for (int split = 1; split < N_PROMPT; split++) {
                int64_t last[] = {split, N_PROMPT - 1, N_PROMPT};
                glia_request_params p = greedy(ids, (size_t)split, 0);
                p.no_cache = true;
                result_free(run_request(m, &p));
                result *r = ask(m, N_PROMPT, hook_all(m, last, 3), true);
                if (f == 0) assert_int_equal(r->usage.n_cached, split);
                same_rows(families[f], r, whole, flash ? 5e-3 : 1e-4); /* flash attention casts the cache to f16 */
                result_free(r);
            }
            result_free(whole);
            glia_model_close(m);
        }
    }
}

static void rows_are_the_same_beside_other_requests_and_after_cancelled_ones(void **state) {
    (void)state;
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        glia_model *m = open_with(tiny_model(families[f]), GLIA_FLASH_OFF, GLIA_KV_F32, 3);
        result *alone = ask(m, N_PROMPT, hook_all(m, NULL, 0), false);
        for (int round = 0; round < 6; round++) {
            glia_request *r[3], *gone;
            glia_err err;
            int32_t other[100];
            for (int i = 0; i < 100; i++) other[i] = (i * 7 + round) % 200;
            glia_request_params p = greedy(other, 90, 30);
            if (glia_request_submit(&gone, m, &p, &err)) fail_msg("%s", err.message);
            for (int k = 0; k < 3; k++) {
                p = greedy(k == 1 ? ids : other, k == 1 ? N_PROMPT : (size_t)(20 + 11 * k + round), MORE + 1);
                p.hooks = hooks, p.n_hooks = hook_all(m, NULL, 0);
                if (glia_request_submit(&r[k], m, &p, &err)) fail_msg("%s", err.message);
                if (k == round % 3) glia_request_cancel(gone);
            }
            for (int k = 0; k < 3; k++) {
                result *got = drain(r[k], p.n_hooks);
                if (got->err.status) fail_msg("%s", got->err.message);
                if (k == 1) same_rows(families[f], got, alone, 1e-4);
                result_free(got);
                glia_request_free(r[k]);
            }
            glia_request_free(gone);
        }
        result_free(alone);
        glia_model_close(m);
    }
}

/* The first layer reads the same in all of them; later ones amplify what a cache rounds. */
static void caches_and_kinds_of_attention_agree(void **state) {
    (void)state;
    static const struct {
        glia_flash flash;
        glia_kv_type kv;
        double tolerance;
    } runs[] = {{GLIA_FLASH_OFF, GLIA_KV_F32, 0},
                {GLIA_FLASH_OFF, GLIA_KV_F16, 2e-3},
                {GLIA_FLASH_ON, GLIA_KV_F16, 2e-3},
                {GLIA_FLASH_ON, GLIA_KV_F32, 2e-3},
                {GLIA_FLASH_ON, GLIA_KV_Q8_0, 6e-2}}; /* 64 channels a head: rotated by Hadamard matrices, too */
    result *first = NULL;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        glia_model *m = open_with(test_env("GLIA_TEST_MODEL"), runs[i].flash, runs[i].kv, 2);
        (void)hook_all(m, NULL, 0);
        hooks[0].phases = hooks[1].phases = GLIA_PHASE_PROMPT; /* what is drawn may differ */
        result *r = ask(m, N_PROMPT, 2, false);
        const rows *probs = &r->hook[0];
        for (int t = 0; t < probs->n; t++) {
            for (int h = 0; h < probs->n_heads; h++) {
                double sum = 0;
                for (int c = 0; c < probs->n_cols; c++) {
                    sum += (double)probs->data[(t * probs->n_heads + h) * probs->n_cols + c];
                }
                if (fabs(sum - 1) > 1e-3) fail_msg("run %zu, row %d, head %d sums to %g", i, t, h, sum);
            }
        }
        if (first) same_rows("cache", r, first, runs[i].tolerance);
        if (first) result_free(r);
        else first = r;
        glia_model_close(m);
    }
    result_free(first);
}

/* What the accounting foretells is what arrives: floats and two labels a row. */
static void predicted_bytes_are_the_delivered_ones(void **state) {
    (void)state;
    glia_model *m = open_with(tiny_model("llama"), GLIA_FLASH_ON, GLIA_KV_F16, 1);
    const int64_t some[] = {3, N_PROMPT - 1, N_PROMPT + 1};
    const int32_t heads[] = {2};
    for (int k = 0; k < 3; k++) {
        size_t n = hook_all(m, k ? some : NULL, k ? 3 : 0);
        for (size_t i = 0; k == 2 && i < n; i++) hooks[i].heads = heads, hooks[i].n_heads = 1;
        glia_request_params p = greedy(ids, N_PROMPT, MORE + 1);
        p.hooks = hooks, p.n_hooks = n;
        uint64_t predicted, delivered = 0;
        glia_err err;
        glia_request *r;
        assert_int_equal(glia_request_capture_bytes(m, &p, &predicted, &err), GLIA_OK);
        if (glia_request_submit(&r, m, &p, &err)) fail_msg("%s", err.message);
        for (glia_event *ev; (ev = glia_request_next(r, 60000)); glia_event_free(ev)) {
            for (size_t i = 0; ev->kind == GLIA_EVENT_ACTIVATIONS && i < ev->u.activations.n_frames; i++) {
                const glia_frame *f = &ev->u.activations.frames[i];
                delivered += (uint64_t)f->n_rows * ((uint64_t)f->width * sizeof(float) + 2 * sizeof(int32_t));
                assert_int_equal(f->n_heads, k == 2 ? 1 : 4);
                assert_int_equal(f->heads[0], k == 2 ? 2 : 0);
            }
        }
        glia_request_free(r);
        assert_int_equal(predicted, delivered);
    }
    glia_model_close(m);
}

/* Float weights: what the heads add up to is what the graph's projection gave, whatever heads were chosen, in whatever
 * chunks; gpt2's has a bias on top. */
static void outputs_of_heads_add_up_to_the_attentions(void **state) {
    (void)state;
    static const int32_t order[] = {3, 1, 0, 2};
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        glia_model *m = open_with(tiny_model(families[f]), GLIA_FLASH_OFF, GLIA_KV_F32, 1);
        hooks[0] = (glia_hook){.point = GLIA_POINT_ATTN_OUT, .layer = 1, .phases = GLIA_PHASE_ALL};
        hooks[1] = (glia_hook){.point = GLIA_POINT_ATTN_HEAD_OUT, .layer = 1, .phases = GLIA_PHASE_ALL};
        hooks[2] = hooks[3] = hooks[1];
        hooks[2].heads = order, hooks[2].n_heads = 4;
        hooks[3].reduce.op = GLIA_REDUCE_ROW_NORM; /* of each row: reduced after it was made */
        result *r = ask(m, N_PROMPT, 4, false);
        const rows *out = &r->hook[0], *heads = &r->hook[1], *chosen = &r->hook[2], *norms = &r->hook[3];
        int width = out->width;
        assert_int_equal(heads->width, 4 * width);
        assert_int_equal(heads->n_heads, 4);
        double worst = 0, top = 0;
        for (int t = 0; t < out->n; t++) {
            const float *row = heads->data + t * heads->width, *other = chosen->data + t * heads->width;
            double norm = 0;
            for (int h = 0; h < 4; h++)
                assert_memory_equal(other + h * width, row + order[h] * width, sizeof(float) * (size_t)width);
            for (int i = 0; i < 4 * width; i++) norm += (double)row[i] * (double)row[i];
            assert_true(fabs(sqrt(norm) - (double)norms->data[t]) <= 1e-5 * sqrt(norm));
            for (int i = 0; i < width; i++) {
                double bias = (double)out->data[i], sum = (double)out->data[t * width + i];
                for (int h = 0; h < 4; h++)
                    sum -= (double)row[h * width + i], bias -= (double)heads->data[h * width + i];
                worst = fmax(worst, fabs(sum - (strcmp(families[f], "gpt2") ? 0 : bias)));
                top = fmax(top, fabs((double)out->data[t * width + i]));
            }
        }
        if (!(worst <= 1e-5 * top)) fail_msg("%s: sums over heads are off by %g of %g", families[f], worst, top);
        result_free(r);
        glia_model_close(m);
    }
}

static int make_ids(void **state) {
    (void)state;
    for (int i = 0; i < N_PROMPT; i++) ids[i] = (i * 37 + 5) % 250;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_equal_the_reference_by_position),
        cmocka_unit_test(chosen_heads_and_rows_come_in_their_order),
        cmocka_unit_test(rows_whose_columns_cannot_be_proven_are_refused),
        cmocka_unit_test(cells_are_followed_or_unknown),
        cmocka_unit_test(a_failed_allocation_refuses_the_rows),
        cmocka_unit_test(cached_prompts_give_the_same_rows_at_every_split),
        cmocka_unit_test(rows_are_the_same_beside_other_requests_and_after_cancelled_ones),
        cmocka_unit_test(caches_and_kinds_of_attention_agree),
        cmocka_unit_test(predicted_bytes_are_the_delivered_ones),
        cmocka_unit_test(outputs_of_heads_add_up_to_the_attentions),
    };
    return cmocka_run_group_tests(tests, make_ids, NULL);
}

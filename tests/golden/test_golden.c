/* tests/golden/test_golden.c — every point, layer, head and token of every reference family against transformers, two of
 * them against mlx-lm, too.
 *
 * Reads tests/golden/MANIFEST.json and <family>.safetensors (format: tools/reference/README.md) and runs the tiny
 * models that tools/tiny/mktiny.py made.  Exact settings: float32 KV cache, flash attention off; then a second run with
 * f16 cache and flash attention at the tolerance that those cost.
 * GLIA_TEST_GPU_LAYERS and GLIA_TEST_TOLERANCE (added to every tolerance) run the same on another backend.  There a router
 * whose logits lie within the tolerance of a tie may choose another expert; see "near ties of routers" below.
 * GLIA_TEST_FAMILY runs one family; GLIA_TEST_REPORT names a file that gets one line per tensor: family, run, tensor,
 * grade, error, tolerance (tools/fidelity makes docs/FIDELITY.md of it). */
#include "glia.h"
#include "yyjson.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_ROWS = 16 };

typedef struct golden {
    char *bytes;
    size_t n;
    yyjson_doc *head, *same; /* same: {"tensor": "the equal tensor that is stored"} */
    const char *data;
} golden;

static const char *env(const char *name) {
    const char *v = getenv(name);
    if (!v) fail_msg("%s is not set: run through ctest", name);
    return v;
}

static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    rewind(f);
    char *p = malloc((size_t)size + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, (size_t)size, f), (size_t)size);
    p[ *n = (size_t)size] = 0;
    fclose(f);
    return p;
}

static golden golden_open(const char *file) {
    char path[512];
    golden g;
    uint64_t n_head;
    snprintf(path, sizeof path, "%s/tests/golden/%s", env("GLIA_SOURCE_DIR"), file);
    g.bytes = slurp(path, &g.n);
    memcpy(&n_head, g.bytes, 8);
    g.head = yyjson_read(g.bytes + 8, n_head, 0);
    assert_non_null(g.head);
    yyjson_val *same = yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(g.head), "__metadata__"), "same");
    g.same = yyjson_read(yyjson_get_str(same), yyjson_get_len(same), 0);
    assert_non_null(g.same);
    g.data = g.bytes + 8 + n_head;
    return g;
}

static void golden_close(golden *g) {
    yyjson_doc_free(g->head), yyjson_doc_free(g->same);
    free(g->bytes);
}

static yyjson_val *golden_entry(const golden *g, const char *name) {
    yyjson_val *other = yyjson_obj_get(yyjson_doc_get_root(g->same), name);
    return yyjson_obj_get(yyjson_doc_get_root(g->head), other ? yyjson_get_str(other) : name);
}

/* f32 values, [rows, width] or [heads, rows, columns]; NULL when the family has no such tensor */
static const float *golden_tensor(const golden *g, const char *name, int shape[3]) {
    yyjson_val *t = golden_entry(g, name), *v;
    size_t i, n;
    if (!t) return NULL;
    shape[2] = 0;
    yyjson_arr_foreach(yyjson_obj_get(t, "shape"), i, n, v) shape[i] = yyjson_get_int(v);
    return (const float *)(const void *)(g->data +
                                         yyjson_get_uint(yyjson_arr_get(yyjson_obj_get(t, "data_offsets"), 0)));
}

/* Name of a point's tensor in the goldens. */
static const char *point_tensor(glia_point p, int il, char *out, size_t cap) {
    if (glia_point_has_layer(p)) snprintf(out, cap, "%s.%d", glia_point_name(p), il);
    else snprintf(out, cap, "%s", glia_point_name(p));
    return out;
}

static int ids(yyjson_val *family, const char *key, int32_t *out, int max) {
    size_t i, n;
    yyjson_val *v;
    yyjson_arr_foreach(yyjson_obj_get(family, key), i, n, v) {
        assert_true((int)i < max);
        out[i] = yyjson_get_int(v);
    }
    return (int)n;
}

static double tolerance(yyjson_val *family, const char *tensor) {
    yyjson_val *t = yyjson_obj_get(family, "tolerance"), *v;
    size_t i, n;
    if (yyjson_obj_get(t, "all")) return yyjson_get_num(yyjson_obj_get(t, "all"));
    yyjson_arr_foreach(yyjson_obj_get(t, "before_gelu_tensors"), i, n, v) {
        if (!strcmp(yyjson_get_str(v), tensor)) return yyjson_get_num(yyjson_obj_get(t, "before_gelu"));
    }
    return yyjson_get_num(yyjson_obj_get(t, "after_gelu"));
}

/* What one hook got: rows by position. */
typedef struct got {
    float *rows; /* [n_rows, width]; attention: [n_heads, MAX_ROWS, MAX_ROWS] as the goldens have it */
    int32_t n_rows, width, n_heads, n_cols;
    int32_t pos[MAX_ROWS], tok[MAX_ROWS];
} got;

static void collect_attention(got *g, const glia_frame *f) {
    size_t n = (size_t)f->n_heads * MAX_ROWS * MAX_ROWS;
    if (!g->rows) {
        g->rows = malloc(n * sizeof *g->rows);
        assert_non_null(g->rows);
        for (size_t i = 0; i < n; i++) g->rows[i] = f->point == GLIA_POINT_ATTN_SCORES ? -INFINITY : 0;
    }
    for (int r = 0; r < f->n_rows; r++) {
        for (int h = 0; h < f->n_heads; h++) {
            memcpy(g->rows + (h * MAX_ROWS + f->positions[r]) * MAX_ROWS, f->data + (r * f->n_heads + h) * f->n_cols,
                   sizeof(float) * (size_t)f->n_cols);
        }
    }
    g->n_heads = f->n_heads, g->n_cols = f->n_cols;
}

static void collect(got *g, const glia_frame *f) {
    assert_true(g->n_rows + f->n_rows <= MAX_ROWS);
    for (int i = 0; i < f->n_rows; i++)
        g->pos[g->n_rows + i] = f->positions[i], g->tok[g->n_rows + i] = f->token_ids[i];
    if (f->n_cols) {
        collect_attention(g, f);
        g->n_rows += f->n_rows;
        return;
    }
    g->rows = realloc(g->rows, sizeof(float) * (size_t)(g->n_rows + f->n_rows) * (size_t)f->width);
    assert_non_null(g->rows);
    memcpy(g->rows + g->n_rows * f->width, f->data, sizeof(float) * (size_t)f->n_rows * (size_t)f->width);
    g->n_rows += f->n_rows, g->width = f->width, g->n_heads = f->n_heads;
}

/* [rows, width]; rows of the mask are not compared. */
static double worst(const float *a, const float *b, const int shape[3], uint32_t skip) {
    double err = 0, top = 1e-30;
    for (int i = 0; i < shape[0] * shape[1]; i++) {
        double d = skip >> (i / shape[1]) & 1 ? 0 : fabs((double)a[i] - (double)b[i]);
        if (!(d <= err)) err = d; /* a NaN is an error, too */
        if (fabs((double)b[i]) > top) top = fabs((double)b[i]);
    }
    return err / top;
}

typedef struct setup {
    const char *name;
    glia_flash flash;
    glia_kv_type kv;
    double extra;   /* added to every tolerance */
    bool neighbour; /* another request runs beside this one, in the same passes */
} setup;

static const setup exact = {"exact", GLIA_FLASH_OFF, GLIA_KV_F32, 0, false};
static const setup second = {"second", GLIA_FLASH_OFF, GLIA_KV_F32, 0, false};
static const setup beside = {"beside", GLIA_FLASH_OFF, GLIA_KV_F32, 0, true};
/* f16 keys and values: 2^-11 relative per element, amplified by three layers of large random weights */
static const setup fast = {"fast", GLIA_FLASH_ON, GLIA_KV_F16, 1e-2, false};

static glia_model *open_model(const char *family, const setup *how) {
    char path[512];
    glia_err err = {0};
    glia_model_params mp;
    glia_model *m;
    glia_model_params_init(&mp);
    snprintf(path, sizeof path, "%s/%s.gguf", env("GLIA_TINY_DIR"), family);
    if (getenv("GLIA_TEST_GPU_LAYERS")) mp.n_gpu_layers = atoi(getenv("GLIA_TEST_GPU_LAYERS"));
    mp.path = path, mp.flash = how->flash, mp.kv_type = how->kv, mp.n_parallel = 2, mp.n_threads = 2, mp.n_ctx = 64,
    mp.n_batch = 64;
    if (glia_model_open(&m, &mp, &err)) fail_msg("%s: %s", family, err.message);
    return m;
}

/* Hooks for every point that has a golden.  A golden whose point the model does not serve counts in *n_bad; served
 * points without golden are listed in bare. */
static size_t choose_hooks(const char *family, const glia_model *m, const golden *g, glia_hook *hooks, size_t cap,
                           int *n_bad, char *bare, size_t bare_cap) {
    glia_model_info info;
    size_t n = 0;
    glia_model_get_info(m, &info);
    *n_bad = 0;
    for (int i = 0; i < GLIA_N_POINTS; i++) {
        glia_point p = (glia_point)i;
        int n_bare = 0;
        for (int il = 0; il < (glia_point_has_layer(p) ? info.n_layer : 1); il++) {
            glia_point_info pi;
            char name[64];
            assert_true(glia_model_point(m, p, il, &pi));
            bool wanted = golden_entry(g, point_tensor(p, il, name, sizeof name)) != NULL;
            if (wanted && pi.grade < GLIA_GRADE_STRUCTURAL) {
                print_error("%s: %s is %s: %s\n", family, name, glia_grade_name(pi.grade), pi.reason);
                (*n_bad)++;
            } else if (wanted) {
                assert_true(n < cap);
                hooks[n++] = (glia_hook){.point = p, .layer = il, .phases = GLIA_PHASE_ALL};
            } else if (pi.grade >= GLIA_GRADE_STRUCTURAL) {
                n_bare++;
            }
        }
        size_t used = strlen(bare);
        if (n_bare && p != GLIA_POINT_ATTN_HEAD_OUT) {
            snprintf(bare + used, bare_cap - used, " %s×%d", glia_point_name(p), n_bare);
        }
    }
    return n;
}

static void report(const char *family, const setup *how, const char *tensor, glia_grade grade, double e, double tol) {
    const char *path = getenv("GLIA_TEST_REPORT");
    FILE *f = path ? fopen(path, "a") : NULL;
    if (!f) return;
    fprintf(f, "%s %s %s %s %.3g %g\n", family, how->name, tensor, glia_grade_name(grade), e, tol);
    fclose(f);
}

/* Attention against [heads, rows, columns]: what the mask hides is -infinity in scores, 0 in probabilities, exactly there. */
static double compare_attention(const char *what, const got *g, const float *want, const int shape[3], bool scores,
                                uint32_t skip) {
    double err = 0, top = 1e-30;
    if (g->n_heads != shape[0] || g->n_rows != shape[1] || g->n_cols != shape[2]) fail_msg("%s: another shape", what);
    for (int h = 0; h < shape[0]; h++) {
        for (int r = 0; r < shape[1]; r++) {
            for (int c = 0; c < shape[2]; c++) {
                float a = g->rows[(h * MAX_ROWS + r) * MAX_ROWS + c];
                double b = (double)want[(h * shape[1] + r) * shape[2] + c];
                bool hidden = scores ? a == -INFINITY : a == 0;
                if (hidden != (b == 0)) fail_msg("%s: head %d, row %d, column %d is %g", what, h, r, c, (double)a);
                double d = hidden || skip >> r & 1 ? 0 : fabs((double)a - b);
                if (!(d <= err)) err = d;
                if (fabs(b) > top) top = fabs(b);
            }
        }
    }
    return err / top;
}

/* Error of one hook's rows against its golden; rows of the mask are not compared. */
static double compare(const char *family, const golden *g, const char *name, const got *rows, uint32_t skip) {
    int shape[3];
    const float *want = golden_tensor(g, name, shape);
    assert_non_null(want);
    if (rows->n_cols) return compare_attention(name, rows, want, shape, strncmp(name, "attn_scores", 11) == 0, skip);
    if (rows->width != shape[1] || rows->n_rows != shape[0]) {
        fail_msg("%s %s: %d rows of %d, golden %d of %d", family, name, rows->n_rows, rows->width, shape[0], shape[1]);
    }
    return worst(rows->rows, want, shape, skip);
}

/* ------------------------------------------------------------------ near ties of routers
 *
 * Where the logits of two experts are closer than what the arithmetic of a backend costs, it may choose the other one, and all
 * that comes of the choice is another expert's, rightly.  A choice is excused only when the reference's own logits are as
 * close as twice the tolerance (each may move by once) and it is the right choice by the run's own logits, which are compared
 * like every other tensor.  Then rows that depend on it are left out, counted, told, and at most MOST_TIES in the whole run.
 * Two chosen experts that changed places are put back, and everything is compared.
 * Without GLIA_TEST_TOLERANCE, on the CPU, nothing is excused: every choice must be the reference's. */

enum { MAX_LAYERS = 8, MAX_USED = 8, MOST_TIES = 4 };
typedef enum choice { CHOICE_SAME, CHOICE_ORDER, CHOICE_TIE, CHOICE_FAULT } choice;
static int n_ties_of_all, n_rows_left_out;

static bool is_among(const float *idx, int used, int expert) {
    for (int u = 0; u < used; u++) {
        if ((int)idx[u] == expert) return true;
    }
    return false;
}

/* In the reference (want) and in the run (got): logits of one row over the n experts, and the experts chosen, best first. */
static choice judge_choice(const float *want, const float *want_idx, const float *got_logits, const float *got_idx, int n,
                           int used, double slack) {
    choice c = CHOICE_SAME;
    for (int u = 0; u < used; u++) {
        int w = (int)want_idx[u], g = (int)got_idx[u];
        if (w == g) continue;
        if (g < 0 || g >= n || (double)want[w] - (double)want[g] > slack) return CHOICE_FAULT;
        if (!is_among(want_idx, used, g)) c = CHOICE_TIE;
        else if (c == CHOICE_SAME) c = CHOICE_ORDER;
    }
    for (int u = 0; c != CHOICE_SAME && u < used; u++) { /* no better one is left out or comes later */
        for (int e = 0; e < n; e++) {
            if (got_logits[e] > got_logits[(int)got_idx[u]] && !is_among(got_idx, u, e)) return CHOICE_FAULT;
        }
    }
    return c;
}

static bool is_of_an_expert(glia_point p) {
    return p == GLIA_POINT_EXPERT_INDICES || p == GLIA_POINT_EXPERT_WEIGHTS || p == GLIA_POINT_EXPERT_PRE ||
           p == GLIA_POINT_EXPERT_LINEAR || p == GLIA_POINT_EXPERT_ACT || p == GLIA_POINT_EXPERT_OUT;
}

/* Points of a layer that depend on the row's own choice in this layer. */
static bool follows_router(glia_point p) {
    return is_of_an_expert(p) || p == GLIA_POINT_MOE_OUT || p == GLIA_POINT_MLP_OUT || p == GLIA_POINT_MLP_OUT_POST ||
           p == GLIA_POINT_RESID_POST || p == GLIA_POINT_LENS_IN;
}

typedef struct ties {
    uint32_t rows[MAX_LAYERS]; /* that chose another expert */
    int n_layer;
} ties;

/* Rows of a point that come of such a choice: those of the row itself, and of every later token in later layers. */
static uint32_t rows_behind(const ties *t, glia_point p, int il) {
    uint32_t behind = 0;
    if (p == GLIA_POINT_EMBEDDINGS) return 0;
    bool last = !glia_point_has_layer(p);
    if (last) il = t->n_layer;
    for (int j = 0; j < il; j++) {
        uint32_t first = t->rows[j] & (~t->rows[j] + 1);
        behind |= last && j == il - 1 ? t->rows[j] : ~first + 1; /* the row's bit and all above it */
    }
    return !last && follows_router(p) ? behind | t->rows[il] : behind;
}

static got *rows_of(got *all, const glia_hook *hooks, size_t n_hooks, glia_point p, int il) {
    for (size_t h = 0; h < n_hooks; h++) {
        if (hooks[h].point == p && hooks[h].layer == il) return &all[h];
    }
    return NULL;
}

/* Row r of the points of single experts in the reference's order. */
static void put_back(got *all, const glia_hook *hooks, size_t n_hooks, int il, int r, const float *want_idx, int used) {
    int from[MAX_USED] = {0};
    const got *idx = rows_of(all, hooks, n_hooks, GLIA_POINT_EXPERT_INDICES, il);
    for (int u = 0; u < used; u++) {
        for (int v = 0; v < used; v++) {
            if ((int)idx->rows[r * used + v] == (int)want_idx[u]) from[u] = v;
        }
    }
    for (size_t h = 0; h < n_hooks; h++) {
        if (hooks[h].layer != il || !is_of_an_expert(hooks[h].point)) continue;
        size_t part = (size_t)(all[h].width / used), whole = part * (size_t)used;
        float *row = all[h].rows + (size_t)r * whole, *old = malloc(whole * sizeof *old);
        assert_non_null(old);
        memcpy(old, row, whole * sizeof *old);
        for (int u = 0; u < used; u++) memcpy(row + (size_t)u * part, old + (size_t)from[u] * part, part * sizeof *old);
        free(old);
    }
}

/* tol: of router logits, relative to their largest. */
static ties find_ties(const char *what, const golden *g, got *all, const glia_hook *hooks, size_t n_hooks, int n_layer,
                      double tol) {
    ties t = {.n_layer = n_layer};
    assert_true(n_layer <= MAX_LAYERS);
    for (int il = 0; il < n_layer; il++) {
        char name[64];
        int shape[3], n_idx[3];
        const float *want = golden_tensor(g, point_tensor(GLIA_POINT_ROUTER_LOGITS, il, name, sizeof name), shape);
        const float *want_idx = golden_tensor(g, point_tensor(GLIA_POINT_EXPERT_INDICES, il, name, sizeof name), n_idx);
        const got *logits = rows_of(all, hooks, n_hooks, GLIA_POINT_ROUTER_LOGITS, il),
                  *idx = rows_of(all, hooks, n_hooks, GLIA_POINT_EXPERT_INDICES, il);
        if (!want || !want_idx || !logits || !idx) continue;
        int n = shape[1], used = n_idx[1];
        double top = 0;
        assert_true(used <= MAX_USED && idx->width == used && logits->width == n);
        for (int i = 0; i < shape[0] * n; i++) top = fmax(top, fabs((double)want[i]));
        for (int r = 0; r < shape[0]; r++) {
            if (rows_behind(&t, GLIA_POINT_ROUTER_LOGITS, il) >> r & 1) continue; /* it has other inputs */
            const float *w = want + r * n, *wi = want_idx + r * used;
            switch (judge_choice(w, wi, logits->rows + r * n, idx->rows + r * used, n, used, 2 * tol * top)) {
            case CHOICE_TIE:
                print_message("%s: layer %d, row %d: a near tie of the router went the other way\n", what, il, r);
                t.rows[il] |= 1u << r, n_ties_of_all++;
                break;
            case CHOICE_ORDER: put_back(all, hooks, n_hooks, il, r, wi, used); break;
            default: break; /* a fault shows in the comparison */
            }
        }
    }
    return t;
}

static void a_near_tie_of_a_router_is_told_from_a_fault(void **state) {
    (void)state;
    static const float want[4] = {1.0f, 0.5f, 0.49f, -1.0f}, moved[4] = {1.0f, 0.485f, 0.495f, -1.0f};
    static const float close[4] = {0.5f, 0.51f, 0.0f, -1.0f}, swapped[4] = {0.505f, 0.5f, 0.0f, -1.0f};
    static const float of_want[2] = {0, 1}, other[2] = {0, 2}, far[2] = {0, 3}, back[2] = {1, 0};
    assert_int_equal(judge_choice(want, of_want, want, of_want, 4, 2, 0.02), CHOICE_SAME);
    assert_int_equal(judge_choice(want, of_want, moved, other, 4, 2, 0.02), CHOICE_TIE);
    assert_int_equal(judge_choice(want, of_want, moved, other, 4, 2, 0.005), CHOICE_FAULT); /* farther than the tolerance */
    assert_int_equal(judge_choice(want, of_want, want, other, 4, 2, 0.02), CHOICE_FAULT);   /* against its own logits */
    assert_int_equal(judge_choice(want, of_want, moved, far, 4, 2, 0.02), CHOICE_FAULT);
    assert_int_equal(judge_choice(close, back, swapped, of_want, 4, 2, 0.02), CHOICE_ORDER);
    assert_int_equal(judge_choice(close, back, close, of_want, 4, 2, 0.02), CHOICE_FAULT);

    float idx[4] = {1, 2, 0, 1}, out[8] = {1, 1, 2, 2, 5, 6, 7, 8};
    got all[2] = {{.rows = idx, .width = 2, .n_rows = 2}, {.rows = out, .width = 4, .n_rows = 2}};
    static const glia_hook hooks[2] = {{.point = GLIA_POINT_EXPERT_INDICES, .layer = 1}, {.point = GLIA_POINT_EXPERT_OUT, .layer = 1}};
    static const float in_order[8] = {1, 1, 2, 2, 7, 8, 5, 6};
    put_back(all, hooks, 2, 1, 1, back, 2);
    assert_memory_equal(out, in_order, sizeof out);
    assert_true(idx[0] == 1 && idx[1] == 2 && idx[2] == 1 && idx[3] == 0);

    const ties t = {.rows = {0, 1u << 5, 1u << 2}, .n_layer = 3};
    assert_int_equal(rows_behind(&t, GLIA_POINT_EXPERT_OUT, 0), 0);
    assert_int_equal(rows_behind(&t, GLIA_POINT_ATTN_IN, 1), 0);
    assert_int_equal(rows_behind(&t, GLIA_POINT_ROUTER_LOGITS, 1), 0);
    assert_int_equal(rows_behind(&t, GLIA_POINT_RESID_POST, 1), 1u << 5);
    assert_int_equal(rows_behind(&t, GLIA_POINT_ATTN_IN, 2) & 0xffff, 0xffe0); /* all tokens behind it, in a later layer */
    assert_int_equal(rows_behind(&t, GLIA_POINT_MOE_OUT, 2) & 0xffff, 0xffe4);
    assert_int_equal(rows_behind(&t, GLIA_POINT_LM_HEAD, -1) & 0xffff, 0xffe4);
    assert_int_equal(rows_behind(&t, GLIA_POINT_EMBEDDINGS, -1), 0);
}

static void ties_are_few(void **state) {
    (void)state;
    print_message("%d near ties of routers, %d rows left out\n", n_ties_of_all, n_rows_left_out);
    assert_true(n_ties_of_all <= MOST_TIES);
}

/* A request with other tokens that is at work for as long as the one under test. */
static glia_request *start_neighbour(glia_model *m) {
    static const int32_t other[] = {'z', 'Y', '3', ' ', '!', 'q', 'W', ',', '0', 'k', '+'};
    glia_request_params rp;
    glia_request *r;
    glia_err err = {0};
    glia_request_params_init(&rp);
    rp.prompt = other, rp.n_prompt = sizeof other / sizeof *other, rp.max_tokens = 12;
    rp.sampling.ignore_eos = true, rp.sampling.seed = 1;
    if (glia_request_submit(&r, m, &rp, &err)) fail_msg("%s", err.message);
    return r;
}

static void check_family(yyjson_val *fam, const setup *how) {
    const char *family = yyjson_get_str(yyjson_obj_get(fam, "family"));
    const char *other_backend = getenv("GLIA_TEST_TOLERANCE");
    double extra = how->extra + (other_backend ? atof(other_backend) : 0);
    glia_err err = {0};
    int32_t prompt[64], made[64];
    int n_prompt = ids(fam, "prompt_ids", prompt, 64), n_made = ids(fam, "generated_ids", made, 64), n_bad;
    golden g = golden_open(yyjson_get_str(yyjson_obj_get(fam, "file")));
    glia_model *m = open_model(family, how);
    glia_model_info info;
    glia_model_get_info(m, &info);
    assert_int_equal(info.n_layer, yyjson_get_int(yyjson_obj_get(fam, "n_layer")));

    static glia_hook hooks[512];
    char bare[1024] = "";
    size_t n_hooks = choose_hooks(family, m, &g, hooks, 512, &n_bad, bare, sizeof bare);
    glia_request_params rp;
    glia_request *r;
    glia_request_params_init(&rp);
    rp.prompt = prompt, rp.n_prompt = (size_t)n_prompt, rp.max_tokens = n_made;
    rp.sampling.temperature = 0, rp.sampling.ignore_eos = true;
    rp.hooks = hooks, rp.n_hooks = n_hooks;
    glia_request *neighbour = how->neighbour ? start_neighbour(m) : NULL;
    if (glia_request_submit(&r, m, &rp, &err)) fail_msg("%s: %s: %s", family, err.param, err.message);
    got *all = calloc(n_hooks, sizeof *all);
    int drawn = 0;
    for (glia_event *ev; (ev = glia_request_next(r, 60000)); glia_event_free(ev)) {
        if (ev->kind == GLIA_EVENT_ERROR) fail_msg("%s: %s", family, ev->u.error.message);
        if (ev->kind == GLIA_EVENT_TOKEN && ev->u.token.id != made[drawn++]) fail_msg("%s: another token", family);
        for (size_t k = 0; ev->kind == GLIA_EVENT_ACTIVATIONS && k < ev->u.activations.n_frames; k++) {
            collect(&all[ev->u.activations.frames[k].hook], &ev->u.activations.frames[k]);
        }
    }
    assert_int_equal(drawn, n_made);

    double top = 0;
    ties tied = {.n_layer = info.n_layer};
    if (other_backend) tied = find_ties(family, &g, all, hooks, n_hooks, info.n_layer, tolerance(fam, "router_logits") + extra);
    for (size_t h = 0; h < n_hooks; h++) {
        char name[64];
        uint32_t skip = rows_behind(&tied, hooks[h].point, hooks[h].layer);
        glia_point_info pi;
        point_tensor(hooks[h].point, hooks[h].layer, name, sizeof name);
        glia_model_point(m, hooks[h].point, hooks[h].layer, &pi);
        for (int t = 0; t < all[h].n_rows; t++) {
            assert_int_equal(all[h].pos[t], t);
            assert_int_equal(all[h].tok[t], t < n_prompt ? prompt[t] : made[t - n_prompt]);
        }
        for (int t = 0; t < all[h].n_rows; t++) n_rows_left_out += skip >> t & 1;
        double e = compare(family, &g, name, &all[h], skip), tol = tolerance(fam, name) + extra;
        report(family, how, name, pi.grade, e, tol);
        if (!(e <= tol)) {
            print_error("%s %s %s (%s): error %.3g, allowed %.3g\n", family, how->name, name, glia_grade_name(pi.grade),
                        e, tol);
            n_bad++;
        }
        if (e > top) top = e;
        free(all[h].rows);
    }
    print_message("%s, %s: %zu tensors of %d rows, worst error %.2g; no golden:%s\n", family, how->name, n_hooks,
                  n_prompt + n_made - 1, top,
                  how == &second ? " see the first reference"
                  : *bare        ? bare
                                 : " none");
    free(all);
    glia_request_free(r);
    glia_request_free(neighbour);
    glia_model_close(m);
    golden_close(&g);
    if (n_bad) fail_msg("%s: %d tensors are missing or differ from the reference", family, n_bad);
}

static void equals_transformers(void **state) { check_family(*state, &exact); }

static void equals_mlx(void **state) { check_family(*state, &second); }

static void equals_transformers_beside_another_request(void **state) { check_family(*state, &beside); }

static void equals_transformers_with_flash_attention_and_f16_cache(void **state) { check_family(*state, &fast); }

int main(void) {
    char path[512];
    size_t n, i, max, n_tests = 0;
    yyjson_val *fam;
    snprintf(path, sizeof path, "%s/tests/golden/MANIFEST.json", env("GLIA_SOURCE_DIR"));
    char *text = slurp(path, &n);
    yyjson_doc *doc = yyjson_read(text, n, 0);
    yyjson_val *all = yyjson_obj_get(yyjson_doc_get_root(doc), "families");
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } kinds[] = {{"equals_transformers", equals_transformers},
                 {"equals_transformers_beside_another_request", equals_transformers_beside_another_request},
                 {"equals_transformers_with_flash_attention_and_f16_cache",
                  equals_transformers_with_flash_attention_and_f16_cache}};
    enum { N_KINDS = sizeof kinds / sizeof *kinds };
    yyjson_val *others = yyjson_obj_get(yyjson_doc_get_root(doc), "second");
    size_t cap = N_KINDS * yyjson_arr_size(all) + yyjson_arr_size(others) + 2;
    const char *only = getenv("GLIA_TEST_FAMILY");
    struct CMUnitTest *tests = calloc(cap + 1, sizeof *tests);
    char(*names)[96] = calloc(cap + 1, sizeof *names);
    yyjson_arr_foreach(all, i, max, fam) {
        const char *family = yyjson_get_str(yyjson_obj_get(fam, "family"));
        for (size_t k = 0; k < N_KINDS && (!only || !strcmp(only, family)); k++, n_tests++) {
            snprintf(names[n_tests], sizeof *names, "%s_%s", family, kinds[k].name);
            tests[n_tests] = (struct CMUnitTest){names[n_tests], kinds[k].run, NULL, NULL, fam};
        }
    }
    yyjson_arr_foreach(others, i, max, fam) {
        const char *family = yyjson_get_str(yyjson_obj_get(fam, "family"));
        if (only && strcmp(only, family) != 0) continue;
        snprintf(names[n_tests], sizeof *names, "%s_equals_mlx", family);
        tests[n_tests] = (struct CMUnitTest){names[n_tests], equals_mlx, NULL, NULL, fam};
        n_tests++;
    }
    tests[n_tests++] = (struct CMUnitTest)cmocka_unit_test(a_near_tie_of_a_router_is_told_from_a_fault);
    tests[n_tests++] = (struct CMUnitTest)cmocka_unit_test(ties_are_few); /* the last one */
    int failed = _cmocka_run_group_tests("golden", tests, n_tests, NULL, NULL);
    yyjson_doc_free(doc);
    free(tests), free(names), free(text);
    return failed;
}

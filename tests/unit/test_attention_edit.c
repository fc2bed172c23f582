/* tests/unit/test_attention_edit.c — changes of attention: knockout, and scores and probabilities zeroed, scaled and set,
 * with flash attention on and off.  What must come out is computed here, from the unchanged run's probabilities and
 * values.  The same knockouts done in transformers: tests/golden/test_edits.py. */
#include "support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 12, LAYER = 1 };

static const int32_t prompt_a[N] = {7, 50, 3, 99, 12, 61, 8, 120, 33, 5, 77, 41};
static const int32_t prompt_b[N] = {9, 14, 88, 2, 71, 30, 101, 6, 55, 23, 90, 17};

/* plain, q/k norms, softcap and windows, windows, learned positions, ALiBi, experts, sinks */
static const char *const families[] = {"llama", "qwen3", "gemma2", "gemma3", "gpt2", "bloom", "mixtral", "gpt-oss"};
enum { N_FAMILIES = sizeof families / sizeof *families };

enum { SCORES, PROBS, Z, VALUE, LOGITS, N_HOOKS };
static const glia_hook hooks[N_HOOKS] = {
    {.point = GLIA_POINT_ATTN_SCORES, .layer = LAYER, .phases = GLIA_PHASE_PROMPT},
    {.point = GLIA_POINT_ATTN_PROBS, .layer = LAYER, .phases = GLIA_PHASE_PROMPT},
    {.point = GLIA_POINT_Z, .layer = LAYER, .phases = GLIA_PHASE_PROMPT},
    {.point = GLIA_POINT_VALUE, .layer = LAYER, .phases = GLIA_PHASE_PROMPT},
    {.point = GLIA_POINT_LM_HEAD, .layer = 0, .phases = GLIA_PHASE_PROMPT},
};

static result *run_with(glia_model *m, const int32_t *prompt, const glia_edit *e, size_t n, int32_t chunk) {
    glia_request_params p = greedy(prompt, N, 3);
    p.hooks = hooks, p.n_hooks = N_HOOKS, p.edits = e, p.n_edits = n, p.prompt_chunk = chunk;
    result *r = run_request(m, &p);
    if (r->err.status) fail_msg("%s: %s", r->err.param, r->err.message);
    return r;
}
static result *run(glia_model *m, const int32_t *prompt, const glia_edit *e, size_t n) {
    return run_with(m, prompt, e, n, 0);
}

static float at(const rows *r, int row, int head, int col) {
    return r->data[((size_t)row * (size_t)r->n_heads + (size_t)head) * (size_t)r->n_cols + (size_t)col];
}

/* z of a head is what its probabilities make of the values. */
static void check_z(const result *r, int row, int head, const char *what) {
    const rows *z = &r->hook[Z], *v = &r->hook[VALUE];
    int hd = z->width / z->n_heads, kv = head / (z->n_heads / v->n_heads);
    double worst = 0, most = 1e-6;
    for (int d = 0; d < hd; d++) {
        double sum = 0;
        for (int c = 0; c <= row; c++)
            sum += (double)at(&r->hook[PROBS], row, head, c) * v->data[c * v->width + kv * hd + d];
        worst = fmax(worst, fabs(sum - z->data[row * z->width + head * hd + d]));
        most = fmax(most, fabs(sum));
    }
    if (worst > 2e-3 * fmax(most, 0.05)) fail_msg("%s: z of row %d head %d is off by %g of %g", what, row, head, worst, most);
}

static bool same_head(const result *a, const result *b, int row, int head) {
    const rows *x = &a->hook[Z], *y = &b->hook[Z];
    int hd = x->width / x->n_heads;
    return !memcmp(x->data + row * x->width + head * hd, y->data + row * x->width + head * hd, (size_t)hd * sizeof(float));
}

static bool same_logits(const result *a, const result *b) {
    return !memcmp(a->hook[LOGITS].data, b->hook[LOGITS].data, (size_t)N * (size_t)a->hook[LOGITS].width * sizeof(float));
}

typedef void check(glia_model *m, const char *what);

static void on_every_family(check *c) {
    for (int f = 0; f < N_FAMILIES; f++) {
        for (int flash = 0; flash < 2; flash++) {
            char what[64];
            (void)snprintf(what, sizeof what, "%s, flash %s", families[f], flash ? "on" : "off");
            glia_model *m = open_model_with(tiny_model(families[f]), 2, 64, 64, flash ? GLIA_FLASH_ON : GLIA_FLASH_OFF,
                                            GLIA_KV_F32);
            c(m, what);
            glia_model_close(m);
        }
    }
}

static const int64_t from_rows[] = {3, 5, 11}, to_columns[] = {0, 2, 5};
static const int32_t two_heads[] = {1, 3};

static glia_edit knock(const int64_t *to, size_t n_to) {
    return (glia_edit){.where = {.point = GLIA_POINT_ATTN_PROBS, .layer = LAYER, .phases = 3, .positions = from_rows,
                                 .n_positions = 3, .heads = two_heads, .n_heads = 2},
                       .op = GLIA_EDIT_KNOCKOUT, .to = to, .n_to = n_to};
}

static bool is_edited(int row, int head) { return (row == 3 || row == 5 || row == 11) && (head == 1 || head == 3); }

static void check_knockout(glia_model *m, const char *what) {
    glia_edit e = knock(to_columns, 3);
    result *plain = run(m, prompt_a, NULL, 0), *r = run(m, prompt_a, &e, 1);
    for (int row = 0; row < N; row++) {
        for (int h = 0; h < plain->hook[PROBS].n_heads; h++) {
            if (!is_edited(row, h)) {
                if (!same_head(plain, r, row, h)) fail_msg("%s: row %d head %d changed", what, row, h);
                continue;
            }
            double kept = 1; /* with a sink, its share is among what is kept */
            for (int k = 0; k < 3; k++) kept -= to_columns[k] <= row ? (double)at(&plain->hook[PROBS], row, h, (int)to_columns[k]) : 0;
            for (int c = 0; c <= row; c++) {
                bool out = c == 0 || c == 2 || c == 5;
                double want = out ? 0 : (double)at(&plain->hook[PROBS], row, h, c) / kept;
                if (fabs(at(&r->hook[PROBS], row, h, c) - want) > 2e-4)
                    fail_msg("%s: row %d head %d column %d: %g, not %g", what, row, h, c,
                             (double)at(&r->hook[PROBS], row, h, c), want);
                if (out) assert_true(at(&r->hook[SCORES], row, h, c) == -INFINITY);
                else if (at(&plain->hook[SCORES], row, h, c) != -INFINITY)
                    assert_float_equal(at(&r->hook[SCORES], row, h, c), at(&plain->hook[SCORES], row, h, c), 1e-4);
            }
            check_z(r, row, h, what);
        }
    }
    assert_false(same_logits(plain, r));
    /* the same in chunks, and beside the cache of what came before */
    result *chunked = run_with(m, prompt_a, &e, 1, 5);
    size_t n = (size_t)N * (size_t)r->hook[LOGITS].width;
    double err = worst_error(chunked->hook[LOGITS].data, r->hook[LOGITS].data, n);
    if (err > 2e-3) fail_msg("%s: in chunks it is off by %g", what, err); /* GELU and flash attention round to half */
    assert_memory_equal(chunked->ids, r->ids, 3 * sizeof(int32_t));
    result_free(plain);
    result_free(r);
    result_free(chunked);
}
static void knockout_leaves_the_softmax_of_the_rest(void **s) {
    (void)s;
    on_every_family(check_knockout);
}

/* Columns that a row does not attend to cannot be knocked out: not a bit changes. */
static void check_nothing(glia_model *m, const char *what) {
    const int64_t later[] = {6, 7}, rows_at[] = {1, 4};
    glia_edit e = {.where = {.point = GLIA_POINT_ATTN_SCORES, .layer = LAYER, .phases = 3, .positions = rows_at, .n_positions = 2},
                   .op = GLIA_EDIT_KNOCKOUT, .to = later, .n_to = 2};
    result *plain = run(m, prompt_a, NULL, 0), *r = run(m, prompt_a, &e, 1);
    if (!same_logits(plain, r)) fail_msg("%s: something changed", what);
    e.op = GLIA_EDIT_SCALE, e.strength = 1, e.to = NULL, e.where.point = GLIA_POINT_ATTN_PROBS;
    result *scaled = run(m, prompt_a, &e, 1);
    if (!same_logits(plain, scaled)) fail_msg("%s: a factor of 1 changed something", what);
    result_free(plain);
    result_free(r);
    result_free(scaled);
}
static void identity_changes_no_bit(void **s) {
    (void)s;
    on_every_family(check_nothing);
}

static void check_empty(glia_model *m, const char *what) {
    glia_edit e = knock(NULL, 0);
    result *r = run(m, prompt_a, &e, 1);
    const rows *z = &r->hook[Z];
    int hd = z->width / z->n_heads;
    for (int row = 0; row < N; row++) {
        for (int h = 0; h < z->n_heads; h++) {
            bool zero = true;
            for (int d = 0; d < hd; d++) zero &= z->data[row * z->width + h * hd + d] == 0;
            for (int c = 0; c <= row && is_edited(row, h); c++) zero &= at(&r->hook[PROBS], row, h, c) == 0;
            if (zero != is_edited(row, h)) fail_msg("%s: row %d head %d", what, row, h);
        }
    }
    for (size_t i = 0; i < (size_t)N * (size_t)r->hook[LOGITS].width; i++) assert_true(isfinite(r->hook[LOGITS].data[i]));
    result_free(r);
}
static void who_may_attend_to_nothing_attends_to_nothing(void **s) {
    (void)s;
    on_every_family(check_empty);
}

/* Another prompt's pattern, put in; then scaled; in the stated order. */
static void check_pattern(glia_model *m, const char *what) {
    result *b = run(m, prompt_b, NULL, 0);
    const glia_range all = {0, N};
    int n_heads = b->hook[PROBS].n_heads;
    glia_edit e[2] = {{.where = {.point = GLIA_POINT_ATTN_PROBS, .layer = LAYER, .phases = GLIA_PHASE_PROMPT},
                       .op = GLIA_EDIT_SET, .rows = b->hook[PROBS].data, .n_rows = N,
                       .n_channels = (size_t)n_heads * N, .to_range = &all},
                      {.where = {.point = GLIA_POINT_ATTN_PROBS, .layer = LAYER, .phases = GLIA_PHASE_PROMPT},
                       .op = GLIA_EDIT_SCALE, .strength = 0.5f}};
    for (size_t n = 1; n <= 2; n++) {
        result *r = run(m, prompt_a, e, n);
        for (int row = 0; row < N; row++) {
            for (int h = 0; h < n_heads; h++) {
                for (int c = 0; c < N; c++) {
                    float want = at(&b->hook[PROBS], row, h, c) * (n == 2 ? 0.5f : 1);
                    if (fabsf(at(&r->hook[PROBS], row, h, c) - want) > 1e-6f)
                        fail_msg("%s: row %d head %d column %d: %g, not %g", what, row, h, c,
                                 (double)at(&r->hook[PROBS], row, h, c), (double)want);
                }
                check_z(r, row, h, what);
            }
        }
        result_free(r);
    }
    result_free(b);
}
static void a_pattern_put_in_is_what_weighs_the_values(void **s) {
    (void)s;
    on_every_family(check_pattern);
}

/* With flash attention and without it, the same change gives the same model. */
static void flash_or_not_is_the_same(void **s) {
    (void)s;
    for (int f = 0; f < N_FAMILIES; f++) {
        result *r[2];
        glia_edit e[2] = {knock(to_columns, 3),
                          {.where = {.point = GLIA_POINT_ATTN_SCORES, .layer = 2, .phases = 3}, .op = GLIA_EDIT_SCALE, .strength = 0.5f}};
        for (int flash = 0; flash < 2; flash++) {
            glia_model *m = open_model_with(tiny_model(families[f]), 1, 64, 64, flash ? GLIA_FLASH_ON : GLIA_FLASH_OFF, GLIA_KV_F32);
            r[flash] = run(m, prompt_a, e, 2);
            glia_model_close(m);
        }
        double err = worst_error(r[1]->hook[LOGITS].data, r[0]->hook[LOGITS].data, (size_t)N * (size_t)r[0]->hook[LOGITS].width);
        if (err > 2e-3) fail_msg("%s: %g", families[f], err);
        result_free(r[0]);
        result_free(r[1]);
    }
}

/* Keys and values of half and of eight bits, read where they lie. */
static void caches_of_other_types_give_the_same_within_their_rounding(void **s) {
    (void)s;
    static const glia_kv_type types[] = {GLIA_KV_F32, GLIA_KV_F16, GLIA_KV_Q8_0};
    glia_edit e = knock(to_columns, 3);
    result *r[3], *plain = NULL;
    for (int k = 0; k < 3; k++) {
        glia_model *m = open_model_with(tiny_model("qwen3"), 1, 64, 64, GLIA_FLASH_ON, types[k]); /* heads of 32 */
        r[k] = run(m, prompt_a, &e, 1);
        if (k == 0) plain = run(m, prompt_a, NULL, 0);
        glia_model_close(m);
    }
    size_t n = (size_t)N * (size_t)plain->hook[LOGITS].width;
    double moved = worst_error(plain->hook[LOGITS].data, r[0]->hook[LOGITS].data, n);
    for (int k = 1; k < 3; k++) {
        double err = worst_error(r[k]->hook[LOGITS].data, r[0]->hook[LOGITS].data, n);
        if (err > (k == 1 ? 5e-3 : 5e-2) || err > moved / 2) fail_msg("cache type %d is off by %g, the change is %g", k, err, moved);
        assert_true(at(&r[k]->hook[PROBS], 5, 1, 2) == 0);
    }
    for (int k = 0; k < 3; k++) result_free(r[k]);
    result_free(plain);
}

/* A neighbour in the batch keeps every bit; what was changed is nobody's prefix. */
static void check_neighbours(glia_model *m, const char *what) {
    glia_edit e = knock(to_columns, 3);
    glia_request_params p = greedy(prompt_a, N, 3), q = greedy(prompt_b, N, 3);
    glia_request *x, *y;
    glia_err err;
    result *alone[2];
    p.hooks = q.hooks = hooks, p.n_hooks = q.n_hooks = N_HOOKS;
    for (int edited = 0; edited < 2; edited++) {
        p.edits = &e, p.n_edits = (size_t)edited;
        assert_int_equal(glia_request_submit(&x, m, &p, &err), GLIA_OK);
        assert_int_equal(glia_request_submit(&y, m, &q, &err), GLIA_OK);
        result *rx = drain(x, N_HOOKS);
        alone[edited] = drain(y, N_HOOKS);
        assert_int_equal(rx->err.status, GLIA_OK);
        result_free(rx);
        glia_request_free(x);
        glia_request_free(y);
    }
    double worst = worst_error(alone[1]->hook[LOGITS].data, alone[0]->hook[LOGITS].data, (size_t)N * (size_t)alone[0]->hook[LOGITS].width);
    if (worst > 1e-5) fail_msg("%s: the neighbour changed by %g", what, worst);
    result *plain = run(m, prompt_a, NULL, 0);
    assert_true(plain->usage.n_cached <= 3);
    result_free(plain);
    result_free(alone[0]);
    result_free(alone[1]);
}
static void neighbours_and_the_cache_are_left_alone(void **s) {
    (void)s;
    on_every_family(check_neighbours);
}

static void nonsense_is_refused_by_name(void **s) {
    (void)s;
    glia_model *m = open_model(tiny_model("llama"), 1, 64, 64);
    const float v[64] = {1};
    const glia_hook probs = {.point = GLIA_POINT_ATTN_PROBS, .layer = 1, .phases = 3}, resid = {.point = GLIA_POINT_RESID_POST, .layer = 1, .phases = 3};
    const int64_t beyond = 4000, down[] = {5, 3};
    const struct {
        glia_edit e;
        const char *says;
    } bad[] = {
        {{.where = resid, .op = GLIA_EDIT_KNOCKOUT}, "knocked out"},
        {{.where = resid, .op = GLIA_EDIT_ZERO, .to = &beyond, .n_to = 1}, "`to`"},
        {{.where = probs, .op = GLIA_EDIT_KNOCKOUT, .to = &beyond, .n_to = 1}, "does not exist"},
        {{.where = probs, .op = GLIA_EDIT_KNOCKOUT, .rows = v, .n_rows = 1, .n_channels = 4}, "`to`"},
        {{.where = probs, .op = GLIA_EDIT_NOISE, .strength = 1}, "attention takes"},
        {{.where = probs, .op = GLIA_EDIT_SET, .rows = v, .n_rows = 1, .n_channels = 4}, "`to`"},
        {{.where = probs, .op = GLIA_EDIT_SET, .rows = v, .n_rows = 1, .n_channels = 8, .to = down, .n_to = 2}, "ascend"},
        {{.where = probs, .op = GLIA_EDIT_ZERO, .when = v, .n_when = 4}, "when"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        glia_request_params p = greedy(prompt_a, N, 1);
        glia_request *r;
        glia_err err;
        p.edits = &bad[i].e, p.n_edits = 1;
        assert_int_equal(glia_request_submit(&r, m, &p, &err), GLIA_EINVAL);
        assert_string_equal(err.param, "interventions[0]");
        if (!strstr(err.message, bad[i].says)) fail_msg("%zu: %s", i, err.message);
    }
    glia_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knockout_leaves_the_softmax_of_the_rest),
        cmocka_unit_test(identity_changes_no_bit),
        cmocka_unit_test(who_may_attend_to_nothing_attends_to_nothing),
        cmocka_unit_test(a_pattern_put_in_is_what_weighs_the_values),
        cmocka_unit_test(flash_or_not_is_the_same),
        cmocka_unit_test(caches_of_other_types_give_the_same_within_their_rounding),
        cmocka_unit_test(neighbours_and_the_cache_are_left_alone),
        cmocka_unit_test(nonsense_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

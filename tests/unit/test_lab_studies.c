/* tests/unit/test_lab_studies.c — src/lab's analyses when memory fails, when they are cancelled, and when a model cannot be
 * read; their numbers are checked over HTTP (tests/golden/test_lens.py, tests/api/test_circuits.py, test_features.py). */
#include "support.h"

#include "base/mem.h"
#include "lab/attribution.h"
#include "lab/circuits.h"
#include "lab/head_study.h"
#include "lab/head_weights.h"
#include "lab/lens.h"
#include "lab/pool.h"
#include "lab/probe_set.h"

static const int32_t prompt[] = {84, 104, 101, 32, 84, 104}, other[] = {65, 66, 67, 68, 69, 70};
enum { N = 6 };

typedef struct watch {
    int calls, stop_at; /* 0: never */
} watch;
static bool on_progress(void *ud, double fraction) {
    watch *w = ud;
    assert_true(fraction >= 0 && fraction <= 1);
    return ++w->calls != w->stop_at;
}

/* Each makes one study and frees it; *made: it was there. */
static glia_status heads(glia_model *m, watch *w, bool *made) {
    glia_head_study *a;
    glia_head_study_params p = {.tokens = prompt,
                                .n_tokens = N,
                                .n_probes = 1,
                                .probe_half = 3,
                                .patterns = {0.3, 2, 2, 1},
                                .on_progress = on_progress,
                                .ud = w};
    glia_status st = glia_head_study_run(&a, m, &p, NULL);
    *made = a != NULL;
    glia_head_study_free(a);
    return st;
}

static glia_status lens(glia_model *m, watch *w, bool *made) {
    static const int32_t targets[] = {65}, layers[] = {1};
    static const int64_t positions[] = {-1, 2};
    glia_lens_result *r;
    glia_lens_params p = {.tokens = prompt,
                          .n_tokens = N,
                          .layers = layers,
                          .n_layers = 1,
                          .positions = positions,
                          .n_positions = 2,
                          .top_k = 2,
                          .targets = targets,
                          .n_targets = 1,
                          .on_progress = on_progress,
                          .ud = w};
    glia_status st = glia_lens_run(&r, m, &p, NULL);
    *made = r != NULL;
    glia_lens_free(r);
    return st;
}

static glia_status dla(glia_model *m, watch *w, bool *made) {
    glia_dla *a;
    glia_dla_params p = {.tokens = prompt, .n_tokens = N, .position = -1, .target = -1, .against = 3, .heads = true};
    (void)w;
    glia_status st = glia_dla_run(&a, m, &p, NULL);
    *made = a != NULL;
    glia_dla_free(a);
    return st;
}

static glia_status flow(glia_model *m, watch *w, bool *made) {
    glia_flow *f;
    glia_flow_params p = {.tokens = prompt, .n_tokens = N};
    (void)w;
    glia_status st = glia_flow_run(&f, m, &p, NULL);
    *made = f != NULL;
    glia_flow_free(f);
    return st;
}

static glia_status tokens(glia_model *m, watch *w, bool *made) {
    glia_token_effects *e;
    glia_token_params p = {
        .tokens = prompt, .n_tokens = N, .target = -1, .by = GLIA_TOKEN_MEAN, .on_progress = on_progress, .ud = w};
    glia_status st = glia_token_effects_run(&e, m, &p, NULL);
    *made = e != NULL;
    glia_token_effects_free(e);
    return st;
}

static glia_status effects(glia_model *m, watch *w, glia_cut cut, bool *made) {
    static const int32_t at[] = {N - 1, N - 2}, target[] = {65, 66};
    glia_sample s = {.tokens = prompt, .n_tokens = N, .at = at, .target = target, .n_readings = 2, .other = other};
    glia_part *parts = NULL;
    glia_effects *e = NULL;
    glia_part_verdict v[64];
    glia_effects_params p = {.samples = &s,
                             .n_samples = 1,
                             .cut = cut,
                             .strength = 1,
                             .each_reading = true,
                             .on_progress = on_progress,
                             .ud = w};
    static const int32_t layers[] = {1};
    glia_status st = glia_parts_list(&parts, &p.n_parts, m, layers, 1, true, true, true, NULL);
    p.parts = parts;
    if (!st) st = glia_effects_run(&e, m, &p, NULL);
    if (!st) st = glia_effects_judge(e, &(glia_judge_params){.n_perm = 4, .n_boot = 4, .level = 0.9}, v, NULL);
    *made = e != NULL && !st;
    glia_effects_free(e);
    glia_free(parts);
    return st;
}
static glia_status restore(glia_model *m, watch *w, bool *made) { return effects(m, w, GLIA_CUT_RESTORE, made); }
static glia_status mean(glia_model *m, watch *w, bool *made) { return effects(m, w, GLIA_CUT_MEAN, made); }

static glia_status pool(glia_model *m, watch *w, bool *made) {
    static const int32_t layers[] = {0, 2};
    const glia_text texts[] = {{prompt, N}, {other, N - 1}};
    glia_pool *p;
    glia_status st = glia_pool_run(
        &p, m, &(glia_pool_params){texts, 2, GLIA_POINT_RESID_POST, layers, 2, GLIA_PICK_ALL, on_progress, w}, NULL);
    *made = p != NULL;
    glia_pool_free(p);
    return st;
}

static glia_status weights(glia_model *m, watch *w, bool *made) {
    glia_heads_file *f;
    double a, b;
    glia_composition c;
    (void)w;
    glia_status st = glia_heads_file_open(&f, m, 64, NULL);
    if (!st) st = glia_heads_file_scores(f, 1, 2, &a, &b, NULL);
    if (!st) st = glia_heads_file_compose(f, 0, 1, 2, 3, &c, NULL);
    *made = f != NULL && !st;
    glia_heads_file_close(f);
    return st;
}

typedef glia_status study(glia_model *m, watch *w, bool *made);
static study *const studies[] = {heads, lens, dla, flow, tokens, restore, mean, pool, weights};
static const char *const names[] = {"heads", "lens", "dla", "flow", "tokens", "restore", "mean", "pool", "weights"};
enum { N_STUDIES = sizeof studies / sizeof *studies };

static void every_failed_allocation_is_an_error(void **state) {
    glia_model *m = *state;
    for (size_t i = 0; i < N_STUDIES; i++) {
        size_t n = 1;
        for (;; n++) {
            bool made = false;
            watch w = {0};
            glia_fault_arm(n);
            glia_status st = studies[i](m, &w, &made);
            int fired = glia_fault_fired();
            glia_fault_arm(0);
            if (st != (fired ? GLIA_ENOMEM : GLIA_OK) || made != !st)
                fail_msg("%s: allocation %zu: %s", names[i], n, glia_status_code(st));
            if (!fired) break;
        }
        print_message("%s: %zu allocations\n", names[i], n - 1);
    }
}

static void a_study_stops_when_it_is_told_to(void **state) {
    glia_model *m = *state;
    for (size_t i = 0; i < N_STUDIES; i++) {
        bool made;
        watch w = {0};
        assert_int_equal(studies[i](m, &w, &made), GLIA_OK);
        for (int stop = 1; stop <= w.calls && stop <= 3; stop++) {
            watch again = {.stop_at = stop};
            glia_status st = studies[i](m, &again, &made);
            if (st != GLIA_ECANCELLED || made) fail_msg("%s: stopped at %d: %s", names[i], stop, glia_status_code(st));
        }
    }
}

static void probes_are_ordinary_tokens_repeated(void **state) {
    glia_model *m = *state;
    glia_probe_set p;
    glia_rng g = {3};
    glia_err err;
    assert_int_equal(glia_probe_set_make(&p, m, 3, 20, &g, NULL), GLIA_OK);
    assert_int_equal(p.length, p.n_before + 40);
    for (size_t i = 0; i < p.n; i++) {
        const int32_t *half = p.tokens + i * p.length + p.n_before;
        assert_memory_equal(half, half + 20, 20 * sizeof *half);
        for (size_t k = 0; k < 20; k++) {
            assert_true(half[k] < 257); /* the tiny vocabulary: bytes and one merge; control tokens behind */
            for (size_t l = 0; l < k; l++) assert_int_not_equal(half[k], half[l]);
        }
    }
    glia_probe_set_clear(&p);
    assert_int_equal(glia_probe_set_make(&p, m, 1, 400, &g, &err), GLIA_EINVAL); /* more than there are, or than fit */
    glia_probe_set_clear(&p);
}

static void punctuation_is_told_by_the_text(void **state) {
    glia_model *m = *state;
    static const int32_t ids[] = {'.', ',', 'a', ' ', '(', '9', '$', '-'};
    static const bool want[] = {true, true, false, false, true, false, false, true};
    bool got[8];
    assert_int_equal(glia_find_punctuation(m, ids, 8, got, NULL), GLIA_OK);
    for (size_t i = 0; i < 8; i++) assert_int_equal(got[i], want[i]);
}

static void bad_places_are_refused(void **state) {
    glia_model *m = *state;
    glia_err err;
    glia_head_study *a;
    static const int32_t layers[] = {7};
    glia_head_study_params p = {.tokens = prompt, .n_tokens = N, .layers = layers, .n_layers = 1};
    assert_int_equal(glia_head_study_run(&a, m, &p, &err), GLIA_EHOOK);
    assert_string_equal(err.param, "layers");
    glia_pool *pl;
    const glia_text text = {prompt, N};
    assert_int_equal(
        glia_pool_run(
            &pl, m, &(glia_pool_params){&text, 1, GLIA_POINT_ATTN_PROBS, layers, 1, GLIA_PICK_LAST, NULL, NULL}, &err),
        GLIA_EHOOK);
    assert_null(pl);
}

static int open_tiny(void **state) {
    *state = open_model(tiny_model("llama"), 4, 64, 64);
    return *state ? 0 : 1;
}
static int close_tiny(void **state) {
    glia_model_close(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failed_allocation_is_an_error), cmocka_unit_test(a_study_stops_when_it_is_told_to),
        cmocka_unit_test(probes_are_ordinary_tokens_repeated), cmocka_unit_test(punctuation_is_told_by_the_text),
        cmocka_unit_test(bad_places_are_refused)};
    return cmocka_run_group_tests(tests, open_tiny, close_tiny);
}

/* tests/unit/test_tap.c — what the tap believes and what it refuses, on a small graph that never runs: the callback is
 * called by hand, node by node, over tensors whose values are written here. */
#include "ggml.h"
#include "support.h"
#include "tap/tap.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { T = 4, WIDTH = 6, USED = 2, EXPERTS = 5, CELLS = 16, N_NODES = 6 };
enum { EMBED, STORE, MASKED, INDICES, SLOTS, LAST };

/* A pass of T tokens at positions 3 to 6 of sequence 1, in cells 2 to 5 of its stream. */
typedef struct graph {
    struct ggml_context *ctx;
    struct ggml_tensor *node[N_NODES], *tokens, *cells, *mask, *choice, *both;
    glia_atlas at;
    glia_signature sig[N_NODES];
    glia_place place[GLIA_N_POINTS];
    glia_attn_rule rule;
    glia_tap_row row[T];
    glia_tap *tap;
} graph;

static void put(graph *g, glia_point p, int node, int width, int heads, int axis, bool integers) {
    g->place[p] = (glia_place){.grade = GLIA_GRADE_PROVEN,
                               .node = node,
                               .width = width,
                               .node_width = width,
                               .n_heads = heads,
                               .head_dim = heads ? width / heads : 0,
                               .row_axis = (uint8_t)axis,
                               .row_kind = GLIA_ROWS_TOKENS,
                               .integers = integers};
}

static graph *make(enum ggml_type mask_type, glia_pos_proof proof) {
    graph *g = calloc(1, sizeof *g);
    assert_non_null(g);
    g->ctx = ggml_init((struct ggml_init_params){.mem_size = 1 << 20});
    assert_non_null(g->ctx);
    struct ggml_tensor *weights = ggml_new_tensor_2d(g->ctx, GGML_TYPE_F32, WIDTH, 32);
    g->tokens = ggml_new_tensor_1d(g->ctx, GGML_TYPE_I32, T);
    g->node[EMBED] = ggml_get_rows(g->ctx, weights, g->tokens);
    struct ggml_tensor *cache = ggml_new_tensor_3d(g->ctx, GGML_TYPE_F32, WIDTH, CELLS, 2);
    g->cells = ggml_new_tensor_1d(g->ctx, GGML_TYPE_I64, T);
    g->node[STORE] = ggml_set_rows(g->ctx, ggml_reshape_2d(g->ctx, cache, WIDTH, CELLS * 2), g->node[EMBED], g->cells);
    g->mask = ggml_new_tensor_4d(g->ctx, mask_type, CELLS, T, 1, 1);
    struct ggml_tensor *scores = ggml_new_tensor_3d(g->ctx, GGML_TYPE_F32, CELLS, T, 2);
    g->node[MASKED] = ggml_soft_max_ext(g->ctx, scores, g->mask, 1, 0);
    g->choice = ggml_new_tensor_2d(g->ctx, GGML_TYPE_I32, EXPERTS, T);
    g->node[INDICES] = ggml_view_2d(g->ctx, g->choice, USED, T, g->choice->nb[1], 0);
    g->both = ggml_new_tensor_3d(g->ctx, GGML_TYPE_F32, 2 * WIDTH, USED, T);
    g->node[SLOTS] =
        ggml_view_3d(g->ctx, g->both, WIDTH, USED, T, g->both->nb[1], g->both->nb[2], WIDTH * sizeof(float));
    g->node[LAST] = ggml_scale(g->ctx, g->node[EMBED], 2);
    for (int i = 0; i < N_NODES; i++) {
        ggml_format_name(g->node[i], "node %d", i);
        g->sig[i].op = (int32_t)g->node[i]->op;
        snprintf(g->sig[i].name, sizeof g->sig[i].name, "%s", g->node[i]->name);
    }
    float *e = g->node[EMBED]->data, *b = g->both->data;
    for (int i = 0; i < T * WIDTH; i++) e[i] = (float)i;
    for (int i = 0; i < 2 * WIDTH * USED * T; i++) b[i] = (float)i;
    for (int t = 0; t < T; t++) {
        g->row[t] = (glia_tap_row){.token = 7 + t % 2, .pos = 3 + t, .seq = 1, .output = true};
        ((int32_t *)g->tokens->data)[t] = g->row[t].token;
        ((int64_t *)g->cells->data)[t] = CELLS + 2 + t;
        for (int c = 0; c < EXPERTS; c++) ((int32_t *)g->choice->data)[t * EXPERTS + c] = 10 * t + c;
        for (int c = 0; c < CELLS; c++) { /* cells 15, 0, 1 hold positions 0 to 2 */
            bool open = c == 15 || c <= 2 + t;
            if (mask_type == GGML_TYPE_F32) ((float *)g->mask->data)[t * CELLS + c] = open ? 0 : -INFINITY;
            else ((uint16_t *)g->mask->data)[t * CELLS + c] = open ? 0 : 0xfc00;
        }
    }
    for (int p = 0; p < GLIA_N_POINTS; p++) g->place[p].node = -1;
    put(g, GLIA_POINT_RESID_PRE, EMBED, WIDTH, 0, 1, false);
    put(g, GLIA_POINT_EXPERT_INDICES, INDICES, USED, USED, 1, true);
    put(g, GLIA_POINT_EXPERT_LINEAR, SLOTS, USED * WIDTH, USED, 2, false);
    g->at = (glia_atlas){.n_nodes = N_NODES,
                         .n_layer = 1,
                         .sig = g->sig,
                         .place = g->place,
                         .rule = &g->rule,
                         .token_node = EMBED,
                         .cell_node = proof == GLIA_POS_STATE ? -1 : STORE,
                         .out_node = -1,
                         .pos_proof = proof,
                         .pos_node = proof == GLIA_POS_STATE ? -1 : MASKED};
    assert_non_null(g->tap = glia_tap_new());
    assert_true(glia_tap_set_atlas(g->tap, &g->at, false, 1));
    return g;
}

static void drop(graph *g) {
    glia_tap_free(g->tap);
    ggml_free(g->ctx);
    free(g);
}

/* One run over the nodes, as the scheduler does it. */
static glia_tap_result run(graph *g, glia_tap_want *w, int n_wants, int n_nodes, char why[160]) {
    glia_tap_arm(g->tap, g->row, T, w, n_wants, NULL, 0);
    for (int i = 0; i < n_nodes; i++) {
        struct ggml_tensor *x = g->node[i < N_NODES ? i : N_NODES - 1];
        if (glia_tap_on_node(x, true, g->tap)) assert_true(glia_tap_on_node(x, false, g->tap)); /* never false here */
    }
    if (g->at.pos_proof == GLIA_POS_STATE) glia_tap_state_moved(g->tap, 2, 6);
    return glia_tap_disarm(g->tap, why);
}

static glia_tap_result run_one(graph *g, float *dst, char why[160]) {
    glia_tap_want w = {.point = GLIA_POINT_RESID_PRE, .n_rows = T, .out_width = WIDTH, .dst = dst};
    return run(g, &w, 1, N_NODES, why);
}

static void the_planned_pass_is_believed_and_copied(void **s) {
    (void)s;
    for (int f16 = 0; f16 < 2; f16++) {
        graph *g = make(f16 ? GGML_TYPE_F16 : GGML_TYPE_F32, GLIA_POS_MASK);
        float out[T * WIDTH];
        char why[160];
        assert_int_equal(run_one(g, out, why), GLIA_TAP_OK);
        for (int i = 0; i < T * WIDTH; i++) assert_true(out[i] == (float)i);
        drop(g);
    }
}

static void another_graph_is_refused_and_nothing_is_copied(void **s) {
    (void)s;
    char why[160];
    float out[T * WIDTH];
    for (int what = 0; what < 4; what++) {
        graph *g = make(GGML_TYPE_F32, GLIA_POS_MASK);
        glia_tap_want w = {.point = GLIA_POINT_RESID_PRE, .n_rows = T, .out_width = WIDTH, .dst = out};
        int n = N_NODES;
        if (what == 0) ggml_set_name(g->node[EMBED], "other");
        if (what == 1) g->node[EMBED]->op = GGML_OP_MUL;
        if (what == 2) n = N_NODES - 1; /* ends early */
        if (what == 3) n = N_NODES + 1; /* goes on */
        assert_int_equal(run(g, &w, 1, n, why), what == 3 ? GLIA_TAP_UNPROVEN : GLIA_TAP_NEW_TOPOLOGY);
        assert_true(strlen(why) > 10);
        if (what < 2) {
            assert_int_equal(w.n_copied, 0);
            assert_non_null(strstr(why, "another graph than the one that was mapped at load"));
        }
        drop(g);
    }
}

static void other_tokens_sequences_or_positions_are_refused(void **s) {
    (void)s;
    char why[160];
    float out[T * WIDTH];
    for (int what = 0; what < 7; what++) {
        graph *g = make(GGML_TYPE_F32, GLIA_POS_MASK);
        float *mask = g->mask->data;
        switch (what) {
        case 0: ((int32_t *)g->tokens->data)[2] = 9; break;
        case 1: ((int64_t *)g->cells->data)[1] = 3; break; /* a cell of sequence 0 */
        case 2: mask[2 * CELLS + 14] = 0; break;           /* one position more than planned */
        case 3: mask[2 * CELLS + 0] = -INFINITY; break;    /* one less */
        case 4: g->row[0].pos = 2, g->row[1].pos = 3, g->row[2].pos = 4, g->row[3].pos = 5; break;
        case 5: /* two rows of equal tokens, exchanged: same ids in the same order, other positions */
            for (int c = 0; c < CELLS; c++) {
                float x = mask[0 * CELLS + c];
                mask[0 * CELLS + c] = mask[2 * CELLS + c], mask[2 * CELLS + c] = x;
            }
            break;
        case 6: ((int64_t *)g->cells->data)[3] = CELLS + 9; break; /* a key that its own row cannot see */
        }
        assert_int_equal(run_one(g, out, why), GLIA_TAP_UNPROVEN);
        drop(g);
    }
}

static void a_state_must_move_over_exactly_the_planned_positions(void **s) {
    (void)s;
    char why[160];
    float out[T * WIDTH];
    const struct {
        int before, after;
        glia_tap_result want;
    } tries[] = {
        {2, 6, GLIA_TAP_OK}, {1, 6, GLIA_TAP_UNPROVEN}, {2, 5, GLIA_TAP_UNPROVEN}, {-1, -1, GLIA_TAP_UNPROVEN}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        graph *g = make(GGML_TYPE_F32, GLIA_POS_STATE);
        glia_tap_want w = {.point = GLIA_POINT_RESID_PRE, .n_rows = T, .out_width = WIDTH, .dst = out};
        glia_tap_arm(g->tap, g->row, T, &w, 1, NULL, 0);
        for (int k = 0; k < N_NODES; k++) {
            if (glia_tap_on_node(g->node[k], true, g->tap)) glia_tap_on_node(g->node[k], false, g->tap);
        }
        glia_tap_state_moved(g->tap, tries[i].before, tries[i].after);
        assert_int_equal(glia_tap_disarm(g->tap, why), tries[i].want);
        drop(g);
    }
    graph *g = make(GGML_TYPE_F32, GLIA_POS_STATE); /* nobody said where the state stands */
    glia_tap_want w = {.point = GLIA_POINT_RESID_PRE, .n_rows = T, .out_width = WIDTH, .dst = out};
    glia_tap_arm(g->tap, g->row, T, &w, 1, NULL, 0);
    for (int k = 0; k < N_NODES; k++) {
        if (glia_tap_on_node(g->node[k], true, g->tap)) glia_tap_on_node(g->node[k], false, g->tap);
    }
    assert_int_equal(glia_tap_disarm(g->tap, why), GLIA_TAP_UNPROVEN);
    drop(g);
}

static void integers_and_strided_slots_come_out_whole(void **s) {
    (void)s;
    graph *g = make(GGML_TYPE_F32, GLIA_POS_MASK);
    static const int32_t second[] = {1};
    static const uint8_t mask[] = {0, 1, 1, 0};
    float idx[T * USED], one[T], all[T * USED * WIDTH], slot[2 * WIDTH];
    glia_tap_want w[] = {
        {.point = GLIA_POINT_EXPERT_INDICES, .n_rows = T, .out_width = USED, .dst = idx},
        {.point = GLIA_POINT_EXPERT_INDICES, .n_rows = T, .out_width = 1, .heads = second, .n_heads = 1, .dst = one},
        {.point = GLIA_POINT_EXPERT_LINEAR, .n_rows = T, .out_width = USED * WIDTH, .dst = all},
        {.point = GLIA_POINT_EXPERT_LINEAR,
         .n_rows = T,
         .mask = mask,
         .out_width = WIDTH,
         .heads = second,
         .n_heads = 1,
         .dst = slot},
    };
    char why[160];
    assert_int_equal(run(g, w, 4, N_NODES, why), GLIA_TAP_OK);
    for (int t = 0; t < T; t++) {
        assert_true(one[t] == (float)(10 * t + 1));
        for (int u = 0; u < USED; u++) {
            assert_true(idx[t * USED + u] == (float)(10 * t + u));
            for (int i = 0; i < WIDTH; i++) { /* the second half of each slot's 2·WIDTH */
                float want = (float)((t * USED + u) * 2 * WIDTH + WIDTH + i);
                assert_true(all[(t * USED + u) * WIDTH + i] == want);
                if (u == 1 && mask[t]) assert_true(slot[(t - 1) * WIDTH + i] == want);
            }
        }
    }
    drop(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_planned_pass_is_believed_and_copied),
        cmocka_unit_test(another_graph_is_refused_and_nothing_is_copied),
        cmocka_unit_test(other_tokens_sequences_or_positions_are_refused),
        cmocka_unit_test(a_state_must_move_over_exactly_the_planned_positions),
        cmocka_unit_test(integers_and_strided_slots_come_out_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

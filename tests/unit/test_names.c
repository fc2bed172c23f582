/* Names of points: every spelling, and every way to get it wrong. */
#include "glia.h"
#include "tap/names.h"
#include "tap/names_table.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { N_LAYER = 30 };

typedef struct row {
    glia_hook_spec spec;
    glia_point point;
    int32_t layer;
} row;

#define NAME(s)                                                                                                        \
    { .name = s, .output = true }
#define AT(n, c)                                                                                                       \
    { .has_layer = true, .layer = n, .component = c, .output = true }
#define TEXT(l, c)                                                                                                     \
    { .layer_text = l, .component = c, .output = true }
#define MODULE(l, c)                                                                                                   \
    { .layer_name = l, .component = c, .output = true }
#define MODULE_IN(l, c)                                                                                                \
    { .layer_name = l, .component = c, .input = true }
#define Q(id) GLIA_POINT_##id

static void resolves_to(const row *rows, size_t n, const char *arch) {
    for (size_t i = 0; i < n; i++) {
        glia_hook_target t;
        glia_err err = {0};
        glia_status st = glia_names_resolve(&rows[i].spec, N_LAYER, arch, &t, &err);
        const glia_hook_spec *s = &rows[i].spec;
        if (st) {
            fail_msg("row %zu (%s %s %s): %s", i,
                     s->name         ? s->name
                     : s->layer_name ? s->layer_name
                                     : "",
                     s->layer_text ? s->layer_text : "", s->component ? s->component : "", err.message);
        }
        assert_int_equal(t.n_points, 1);
        if (t.point[0] != rows[i].point)
            fail_msg("row %zu: %s, not %s", i, glia_point_name(t.point[0]), glia_point_name(rows[i].point));
        assert_int_equal(t.layer, rows[i].layer);
        assert_int_equal(t.is_input[0], s->input);
    }
}

#define RESOLVES(rows) resolves_to(rows, sizeof(rows) / sizeof *(rows), "llama")

static void canonical_names_resolve_with_a_layer(void **state) {
    (void)state;
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        row r = {AT(7, glia_point_name((glia_point)p)), (glia_point)p, 7};
        if (!glia_point_has_layer((glia_point)p)) r.spec.has_layer = false, r.layer = -1;
        resolves_to(&r, 1, "llama");
    }
    static const row rows[] = {
        {NAME("resid_post.5"), Q(RESID_POST), 5},        {NAME("embeddings"), Q(EMBEDDINGS), -1},
        {NAME("model.layers.3.mlp_act"), Q(MLP_ACT), 3}, {TEXT("attn_out.2", NULL), Q(ATTN_OUT), 2},
        {NAME("blocks.4.resid_mid"), Q(RESID_MID), 4},   {MODULE("lm_head", NULL), Q(LM_HEAD), -1},
    };
    RESOLVES(rows);
}

static void transformer_lens_names_resolve(void **state) {
    (void)state;
    static const row rows[] = {
        {NAME("blocks.5.hook_resid_pre"), Q(RESID_PRE), 5},
        {NAME("blocks.5.hook_resid_mid"), Q(RESID_MID), 5},
        {NAME("blocks.5.hook_resid_post"), Q(RESID_POST), 5},
        {NAME("blocks.5.attn.hook_q"), Q(Q), 5},
        {NAME("blocks.5.attn.hook_k"), Q(K), 5},
        {NAME("blocks.5.attn.hook_v"), Q(VALUE), 5},
        {NAME("blocks.5.attn.hook_z"), Q(Z), 5},
        {NAME("blocks.5.hook_attn_out"), Q(ATTN_OUT), 5},
        {NAME("blocks.5.hook_mlp_out"), Q(MLP_OUT), 5},
        {NAME("blocks.5.mlp.hook_post"), Q(MLP_ACT), 5},
        {NAME("hook_embed"), Q(EMBEDDINGS), -1},
        {NAME("blocks.5.attn.hook_attn_scores"), Q(ATTN_SCORES), 5},
        {NAME("blocks.5.attn.hook_pattern"), Q(ATTN_PROBS), 5},
        {NAME("blocks.5.attn.hook_result"), Q(ATTN_HEAD_OUT), 5},
        {NAME("blocks.5.attn.hook_rot_q"), Q(Q_ROT), 5},
        {NAME("blocks.5.mlp.hook_pre"), Q(MLP_PRE), 5},
        {NAME("blocks.5.mlp.hook_pre_linear"), Q(MLP_LINEAR), 5},
        {NAME("blocks.5.mlp.hook_expert_indices"), Q(EXPERT_INDICES), 5},
    };
    RESOLVES(rows);
}

/* model.layers[5].mlp.output, as nnsight spells it. */
static void brackets_and_sides_of_nnsight_resolve(void **state) {
    (void)state;
    static const row rows[] = {
        {NAME("model.layers[5].mlp.output"), Q(MLP_OUT), 5},
        {NAME("model.model.layers[5].output[0]"), Q(RESID_POST), 5},
        {NAME("transformer.h[11].attn.c_proj.output"), Q(ATTN_OUT), 11},
        {NAME("model.transformer.h[0].output"), Q(RESID_POST), 0},
        {TEXT("model.layers[5]", "q"), Q(Q), 5},
        {NAME("model.norm.output"), Q(FINAL_NORM), -1},
    };
    RESOLVES(rows);
    glia_hook_target t;
    glia_err err = {0};
    glia_hook_spec in = NAME("model.layers[5].self_attn.o_proj.input");
    assert_int_equal(glia_names_resolve(&in, N_LAYER, "llama", &t, &err), GLIA_OK);
    assert_int_equal(t.n_points, 1);
    assert_int_equal(t.point[0], GLIA_POINT_Z);
    assert_true(t.is_input[0]);
    glia_hook_spec all = NAME("model.layers[*].mlp.output");
    assert_int_equal(glia_names_resolve(&all, N_LAYER, "llama", &t, &err), GLIA_OK);
    assert_true(t.all_layers);
    in.input = true; /* said twice */
    assert_int_equal(glia_names_resolve(&in, N_LAYER, "llama", &t, &err), GLIA_EINVAL);
    assert_string_equal(err.param, "capture_input");
}

static void hugging_face_paths_resolve(void **state) {
    (void)state;
    static const row rows[] = {
        {MODULE("model.layers.5", NULL), Q(RESID_POST), 5},
        {MODULE_IN("model.layers.5", NULL), Q(RESID_PRE), 5},
        {MODULE("model.layers.5.self_attn", NULL), Q(ATTN_OUT), 5},
        {MODULE_IN("model.layers.5.self_attn", NULL), Q(ATTN_IN), 5},
        {MODULE("model.layers.5.self_attn.o_proj", NULL), Q(ATTN_OUT), 5},
        {MODULE_IN("model.layers.5.self_attn.o_proj", NULL), Q(Z), 5},
        {MODULE_IN("model.layers.5.self_attn.q_proj", NULL), Q(ATTN_IN), 5},
        {MODULE("model.layers.5.mlp", NULL), Q(MLP_OUT), 5},
        {MODULE_IN("model.layers.5.mlp", NULL), Q(MLP_IN), 5},
        {MODULE_IN("model.layers.5.mlp.down_proj", NULL), Q(MLP_ACT), 5},
        {MODULE("model.layers.5.input_layernorm", NULL), Q(ATTN_IN), 5},
        {MODULE("model.layers.5.post_attention_layernorm", NULL), Q(MLP_IN), 5},
        {MODULE_IN("model.layers.5.post_attention_layernorm", NULL), Q(RESID_MID), 5},
        {MODULE("model.norm", NULL), Q(FINAL_NORM), -1},
        {MODULE_IN("model.norm", NULL), Q(RESID_POST), N_LAYER - 1},
        {MODULE("model.embed_tokens", NULL), Q(EMBEDDINGS), -1},
        {MODULE("transformer.h.5", NULL), Q(RESID_POST), 5},
        {MODULE("transformer.h.5.attn", NULL), Q(ATTN_OUT), 5},
        {MODULE_IN("transformer.h.5.attn.c_proj", NULL), Q(Z), 5},
        {MODULE_IN("transformer.h.5.mlp.c_proj", NULL), Q(MLP_ACT), 5},
        {MODULE("transformer.h.5.ln_1", NULL), Q(ATTN_IN), 5},
        {MODULE("transformer.h.5.ln_2", NULL), Q(MLP_IN), 5},
        {MODULE("transformer.wte", NULL), Q(EMBEDDINGS), -1},
        {MODULE("transformer.ln_f", NULL), Q(FINAL_NORM), -1},
        {MODULE("gpt_neox.layers.5.attention", NULL), Q(ATTN_OUT), 5},
    };
    RESOLVES(rows);
}

static void neuroscope_components_resolve(void **state) {
    (void)state;
    static const row rows[] = {
        {TEXT("transformer.h.5", "residual"), Q(RESID_POST), 5},
        {MODULE_IN("transformer.h.5", "residual"), Q(RESID_PRE), 5},
        {TEXT("transformer.h.10", "attention"), Q(ATTN_OUT), 10},
        {MODULE_IN("model.layers.5", "attention"), Q(ATTN_IN), 5},
        {MODULE("model.layers.5.self_attn", "attention"), Q(ATTN_OUT), 5},
        {MODULE("model.layers.5.mlp", "mlp"), Q(MLP_OUT), 5},
        {MODULE_IN("model.layers.5.mlp", "mlp"), Q(MLP_IN), 5},
        {MODULE("transformer.wte", "embedding"), Q(EMBEDDINGS), -1},
        {{.component = "embedding", .output = true}, Q(EMBEDDINGS), -1},
        {MODULE("model.layers.5.self_attn", "query"), Q(Q), 5},
        {MODULE("model.layers.5.self_attn", "key"), Q(K), 5},
        {MODULE("model.layers.5", "value"), Q(VALUE), 5},
        {MODULE("model.layers.5", "layernorm"), Q(ATTN_IN), 5},
        {MODULE("model.layers.5.post_attention_layernorm", "layernorm"), Q(MLP_IN), 5},
        {MODULE("model.norm", "layernorm"), Q(FINAL_NORM), -1},
        {AT(5, "residual"), Q(RESID_POST), 5},
        {MODULE_IN("model.layers.5.self_attn.o_proj", "attention"), Q(Z), 5},
    };
    RESOLVES(rows);
}

static void negative_layers_count_from_the_end(void **state) {
    (void)state;
    static const row rows[] = {
        {AT(-1, "resid_post"), Q(RESID_POST), 29},
        {AT(-30, "resid_post"), Q(RESID_POST), 0},
        {TEXT("-2", "mlp"), Q(MLP_OUT), 28},
        {TEXT("5", "mlp"), Q(MLP_OUT), 5},
    };
    RESOLVES(rows);
}

static void a_star_stands_for_every_layer(void **state) {
    (void)state;
    glia_hook_target t;
    glia_err err = {0};
    glia_hook_spec s = TEXT("*", "resid_post");
    assert_int_equal(glia_names_resolve(&s, N_LAYER, NULL, &t, &err), GLIA_OK);
    assert_true(t.all_layers);
    glia_hook_spec path = NAME("model.layers.*.mlp");
    assert_int_equal(glia_names_resolve(&path, N_LAYER, NULL, &t, &err), GLIA_OK);
    assert_true(t.all_layers);
    assert_int_equal(t.point[0], GLIA_POINT_MLP_OUT);
}

static void both_sides_give_two_points(void **state) {
    (void)state;
    glia_hook_target t;
    glia_err err = {0};
    glia_hook_spec s = {.layer_name = "model.layers.5", .component = "residual", .input = true, .output = true};
    assert_int_equal(glia_names_resolve(&s, N_LAYER, NULL, &t, &err), GLIA_OK);
    assert_int_equal(t.n_points, 2);
    assert_int_equal(t.point[0], GLIA_POINT_RESID_PRE);
    assert_true(t.is_input[0]);
    assert_int_equal(t.point[1], GLIA_POINT_RESID_POST);
    assert_false(t.is_input[1]);
}

static void names_follow_the_architecture(void **state) {
    (void)state;
    static const row sandwich[] = {
        {MODULE("model.layers.5.post_attention_layernorm", NULL), Q(ATTN_OUT_POST), 5},
        {MODULE_IN("model.layers.5.post_attention_layernorm", NULL), Q(ATTN_OUT), 5},
        {NAME("blocks.5.hook_attn_out"), Q(ATTN_OUT_POST), 5},
        {NAME("blocks.5.hook_mlp_out"), Q(MLP_OUT_POST), 5},
    };
    resolves_to(sandwich, sizeof sandwich / sizeof *sandwich, "gemma2");
    /* gated attention: what the output projection reads is z times its gate */
    static const row gated[] = {{MODULE_IN("model.layers.3.self_attn.o_proj", NULL), Q(Z_GATED), 3}};
    resolves_to(gated, 1, "qwen3next");
    /* an MLP without a gate: up_proj comes before the activation function, act is the down projection's input */
    static const row ungated[] = {{MODULE("model.layers.3.mlp.up_proj", NULL), Q(MLP_PRE), 3},
                                  {MODULE("transformer.h.3.mlp.act", NULL), Q(MLP_ACT), 3}};
    resolves_to(ungated, 2, "nemotron");
    /* TransformerLens takes hook_q before the q norm */
    static const row normed[] = {{NAME("blocks.3.attn.hook_q"), Q(Q_NORM_IN), 3},
                                 {NAME("blocks.3.attn.hook_k"), Q(K_NORM_IN), 3},
                                 {MODULE("model.layers.3.self_attn.q_norm", NULL), Q(Q), 3}};
    resolves_to(normed, 3, "qwen3");
    glia_hook_target t;
    glia_err err = {0};
    glia_hook_spec norm = MODULE("model.layers.5.input_layernorm", NULL), embed = MODULE("model.embed_tokens", NULL);
    assert_int_equal(glia_names_resolve(&norm, N_LAYER, "olmo2", &t, &err), GLIA_EHOOK);
    assert_int_equal(glia_names_resolve(&embed, N_LAYER, "gemma3", &t, &err), GLIA_EHOOK);
    assert_non_null(strstr(err.message, "unscaled"));
}

static void q_proj_is_served_where_it_is_exactly_a_point(void **state) {
    (void)state;
    static const row before_the_norm[] = {{MODULE("model.layers.5.self_attn.q_proj", NULL), Q(Q_NORM_IN), 5},
                                          {MODULE("model.layers.5.self_attn.k_proj", NULL), Q(K_NORM_IN), 5},
                                          {MODULE("model.layers.5.self_attn.v_proj", NULL), Q(VALUE), 5}};
    resolves_to(before_the_norm, 3, "qwen3");
    static const row no_norm[] = {{MODULE("model.layers.5.self_attn.q_proj", NULL), Q(Q), 5},
                                  {MODULE("model.layers.5.self_attn.k_proj", NULL), Q(K), 5}};
    resolves_to(no_norm, 2, "qwen2");
    static const row llama[] = {{MODULE("model.layers.5.self_attn.v_proj", NULL), Q(VALUE), 5}};
    resolves_to(llama, 1, "llama"); /* its q_proj and k_proj have another channel order: refused below */
}

static void experts_and_mixers_resolve(void **state) {
    (void)state;
    static const row rows[] = {
        {AT(5, "moe"), Q(MOE_OUT), 5},
        {AT(5, "expert"), Q(EXPERT_OUT), 5},
        {MODULE("model.layers.5.mlp", "moe"), Q(MOE_OUT), 5},
        {AT(5, "attention_scores"), Q(ATTN_SCORES), 5},
        {MODULE("model.layers.5.self_attn", "attention_pattern"), Q(ATTN_PROBS), 5},
        {MODULE("model.layers.5.mlp.gate", NULL), Q(ROUTER_LOGITS), 5},
        {MODULE("model.layers.5.block_sparse_moe.gate", NULL), Q(ROUTER_LOGITS), 5},
        {MODULE("model.layers.5.mlp.experts", NULL), Q(MOE_OUT), 5},
        {MODULE("model.layers.5.mlp.shared_experts", NULL), Q(SHARED_EXPERT_OUT), 5},
        {MODULE("backbone.layers.5.mixer", NULL), Q(ATTN_OUT), 5},
        {MODULE_IN("backbone.layers.5.mixer.out_proj", NULL), Q(SSM_OUT), 5},
        {MODULE_IN("backbone.layers.5.mixer.in_proj", NULL), Q(ATTN_IN), 5},
        {MODULE_IN("model.layers.5.linear_attn.out_proj", NULL), Q(SSM_OUT), 5},
        {MODULE("model.layers.5", "router_logits"), Q(ROUTER_LOGITS), 5},
        {MODULE("model.layers.5.mlp", "expert_act"), Q(EXPERT_ACT), 5},
        {MODULE("model.layers.5.self_attn", "ssm_out"), Q(SSM_OUT), 5},
    };
    RESOLVES(rows);
    glia_hook_target t;
    glia_err err = {0};
    glia_hook_spec router = MODULE("model.layers.5.mlp.gate", NULL),
                   shared = MODULE("model.layers.5.mlp.shared_expert", NULL);
    assert_int_equal(glia_names_resolve(&router, N_LAYER, "deepseek2", &t, &err), GLIA_EHOOK);
    assert_non_null(strstr(err.message, "router_logits"));
    assert_int_equal(glia_names_resolve(&shared, N_LAYER, "qwen2moe", &t, &err), GLIA_EHOOK);
    assert_non_null(strstr(err.message, "shared_expert_out"));
}

/* What one row says, its names give: in a plain architecture and in every one that a rule knows. */
static void row_resolves(const glia_name_table *t, const glia_name_row *r, const char *before, const char *arch) {
    for (size_t i = 0; r->names[i]; i++) {
        if (t == &glia_names_block && !r->names[i][0]) continue;
        for (int input = 0; input < 2; input++) {
            char name[128];
            (void)snprintf(name, sizeof name, "%s%s", before, r->names[i]);
            glia_hook_spec s = {.input = input, .output = !input};
            if (t == &glia_names_components) {
                s.component = r->names[i];
                if (r->out.point != GLIA_POINT_EMBEDDINGS) s.has_layer = true, s.layer = 5;
            } else {
                s.name = name;
            }
            glia_hook_target target;
            glia_err err = {0};
            glia_status st = glia_names_resolve(&s, N_LAYER, arch, &target, &err);
            glia_name_side side = glia_names_side(r, input, arch);
            if (side.point >= 0
                    ? st != GLIA_OK || target.point[0] != (glia_point)side.point || target.is_input[0] != input
                    : st == GLIA_OK)
                fail_msg("%s \"%s\" of %s: %s", input ? "input of" : "", r->names[i], arch, err.message);
        }
    }
}

static void every_name_of_the_tables_resolves_to_its_row(void **state) {
    (void)state;
    const glia_name_table *tables[] = {&glia_names_block, &glia_names_lens, &glia_names_outside,
                                       &glia_names_components};
    static const char *const before[] = {"model.layers.5.", "blocks.5.", "", ""};
    assert_true(glia_names_block.n + glia_names_lens.n < 90); /* room of unknown_in_block */
    for (size_t t = 0; t < 4; t++) {
        for (size_t i = 0; i < tables[t]->n; i++) {
            const glia_name_row *r = &tables[t]->rows[i];
            assert_null(r->names[GLIA_NAME_SPELLINGS - 1]); /* the list has an end */
            row_resolves(tables[t], r, before[t], "llama");
            for (size_t k = 0; k < glia_n_name_rules; k++) {
                for (size_t a = 0; glia_name_rules[k].archs[a]; a++)
                    row_resolves(tables[t], r, before[t], glia_name_rules[k].archs[a]);
            }
        }
    }
    for (size_t k = 0; k < glia_n_name_rules; k++) { /* no rule stands for nothing */
        bool known = false;
        for (size_t t = 0; t < 4; t++) known |= glia_names_find(tables[t], glia_name_rules[k].name) != NULL;
        assert_true(known);
    }
}

static void the_page_tells_of_every_point_and_every_name(void **state) {
    (void)state;
    glia_buf b = {0};
    glia_names_page(&b);
    assert_false(b.failed);
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        char row[256];
        int n = snprintf(row, sizeof row, "| `%s` | %s | ", glia_point_name((glia_point)p),
                         glia_point_meaning((glia_point)p));
        const char *at = strstr(b.p, row);
        if (!at) fail_msg("no row for %s", glia_point_name((glia_point)p));
        assert_true(at[n] != '|' && at[n] != ' '); /* what one row holds */
        const char *where = strstr(at + n, " | ");
        assert_non_null(where);
        assert_true(where[3] != '|' && where[3] != '\n');
    }
    for (size_t i = 0; i < glia_names_lens.n; i++) assert_non_null(strstr(b.p, glia_names_lens.rows[i].names[0]));
    glia_buf_clear(&b);
}

/* ------------------------------------------------------------------ refusals */

static void refuses(glia_hook_spec s, glia_status status, const char *param, const char *in_message) {
    glia_hook_target t;
    glia_err err = {0};
    glia_status st = glia_names_resolve(&s, N_LAYER, "llama", &t, &err);
    if (st != status || strcmp(err.param, param) || !strstr(err.message, in_message))
        fail_msg("status %d, param \"%s\", \"%s\"; wanted %d \"%s\" \"%s\"", (int)st, err.param, err.message,
                 (int)status, param, in_message);
}

static void unknown_names_are_refused_with_the_nearest(void **state) {
    (void)state;
    refuses((glia_hook_spec)AT(5, "resid_pots"), GLIA_EINVAL, "component", "\"resid_post\"");
    refuses((glia_hook_spec)AT(5, "residuals"), GLIA_EINVAL, "component", "\"residual\"");
    refuses((glia_hook_spec)AT(5, ""), GLIA_EINVAL, "component", "unknown component \"\"");
    refuses((glia_hook_spec)NAME("blocks.5.hook_resid_pst"), GLIA_EINVAL, "name", "\"blocks.5.hook_resid_post\"");
    refuses((glia_hook_spec)NAME("blocks.5."), GLIA_EINVAL, "name", "unknown name");
    refuses((glia_hook_spec)MODULE("transfomer.h.7", "residual"), GLIA_EINVAL, "layer_name", "\"transformer.h.7\"");
    refuses((glia_hook_spec)MODULE("model.layers.7.self_atn", NULL), GLIA_EINVAL, "layer_name",
            "\"model.layers.7.self_attn\"");
    refuses((glia_hook_spec)TEXT("five", "residual"), GLIA_EINVAL, "layer", "unknown name \"five\"");
}

static void layers_out_of_range_are_refused(void **state) {
    (void)state;
    const char *range = "this model has layers 0 to 29";
    refuses((glia_hook_spec)AT(30, "resid_post"), GLIA_EINVAL, "layer", range);
    refuses((glia_hook_spec)AT(40, "resid_post"), GLIA_EINVAL, "layer", "layer 40 does not exist");
    refuses((glia_hook_spec)AT(-31, "resid_post"), GLIA_EINVAL, "layer", range);
    refuses((glia_hook_spec)AT(INT64_MAX, "resid_post"), GLIA_EINVAL, "layer", range);
    refuses((glia_hook_spec)AT(INT64_MIN, "resid_post"), GLIA_EINVAL, "layer", range);
    refuses((glia_hook_spec)NAME("blocks.30.hook_resid_post"), GLIA_EINVAL, "name", range);
    refuses((glia_hook_spec)MODULE("model.layers.99999999999999999999", NULL), GLIA_EINVAL, "layer_name", range);
    refuses((glia_hook_spec)TEXT("-99999999999999999999", "mlp"), GLIA_EINVAL, "layer", range);
}

static void names_of_other_tensors_are_refused(void **state) {
    (void)state;
    refuses((glia_hook_spec)MODULE("model.layers.5.self_attn.q_proj", NULL), GLIA_EHOOK, "layer_name", "\"q\"");
    refuses((glia_hook_spec)MODULE("transformer.h.5.attn.c_attn", NULL), GLIA_EHOOK, "layer_name", "one by one");
    refuses((glia_hook_spec)NAME("blocks.5.hook_mlp_in"), GLIA_EHOOK, "name", "resid_mid");
    refuses((glia_hook_spec)NAME("blocks.5.ln1.hook_normalized"), GLIA_EHOOK, "name", "attn_in");
    refuses((glia_hook_spec)NAME("blocks.5.ln2.hook_scale"), GLIA_EHOOK, "name", "resid_mid");
    refuses((glia_hook_spec)NAME("blocks.5.mlp.hook_expert_weights"), GLIA_EHOOK, "name", "expert_weights");
    refuses((glia_hook_spec)NAME("hook_pos_embed"), GLIA_EHOOK, "name", "resid_pre");
    refuses((glia_hook_spec)MODULE("model.layers.5.mlp.act_fn", NULL), GLIA_EHOOK, "layer_name", "mlp_act");
    refuses((glia_hook_spec)MODULE("model.layers.5.mlp.gate_up_proj", NULL), GLIA_EHOOK, "layer_name", "mlp_linear");
    refuses((glia_hook_spec)MODULE("model.layers.5.mlp.experts.17.down_proj", NULL), GLIA_EHOOK, "layer_name",
            "expert_indices");
    refuses((glia_hook_spec)MODULE_IN("model.layers.5.mlp.gate", NULL), GLIA_EHOOK, "layer_name", "mlp_in");
    refuses((glia_hook_spec)MODULE("backbone.layers.5.mixer.conv1d", NULL), GLIA_EHOOK, "layer_name", "conv_out");
}

static void names_of_llama_cpp_nodes_are_refused_with_the_point(void **state) {
    (void)state;
    refuses((glia_hook_spec)NAME("l_out-5"), GLIA_EHOOK, "name", "ask for \"resid_post.5\"");
    refuses((glia_hook_spec)TEXT("kqv_out-12", NULL), GLIA_EHOOK, "layer", "ask for \"z.12\"");
    refuses((glia_hook_spec)NAME("result_norm"), GLIA_EHOOK, "name", "ask for \"final_norm\"");
    refuses((glia_hook_spec)NAME("l_outer-5"), GLIA_EINVAL, "name", "unknown name");
    refuses((glia_hook_spec)NAME("l_out-x"), GLIA_EINVAL, "name", "unknown name");
}

static void contradictions_are_refused(void **state) {
    (void)state;
    refuses((glia_hook_spec)MODULE("model.layers.5.mlp", "attention"), GLIA_EINVAL, "component", "not part of");
    refuses((glia_hook_spec)MODULE("model.layers.5.self_attn", "residual"), GLIA_EINVAL, "component", "not part of");
    refuses((glia_hook_spec)MODULE("model.layers.5.self_attn", "mlp_act"), GLIA_EINVAL, "component", "not part of");
    refuses((glia_hook_spec)NAME("resid_post"), GLIA_EINVAL, "layer", "layer is missing");
    refuses((glia_hook_spec){.output = true}, GLIA_EINVAL, "component", "component is missing");
    refuses((glia_hook_spec){.component = "q", .input = true, .has_layer = true}, GLIA_EINVAL, "capture_input",
            "one tensor");
    refuses((glia_hook_spec){.component = "mlp", .has_layer = true}, GLIA_EINVAL, "capture_output",
            "nothing to capture");
    refuses((glia_hook_spec)AT(0, "embeddings"), GLIA_EINVAL, "layer", "belongs to no layer");
    refuses((glia_hook_spec){.layer_name = "model.layers.5", .has_layer = true, .layer = 6, .output = true},
            GLIA_EINVAL, "layer", "contradicts");
    refuses((glia_hook_spec){.layer_name = "model.layers.5", .name = "model.layers.5", .output = true}, GLIA_EINVAL,
            "name", "not both");
}

static void strange_strings_do_no_harm(void **state) {
    (void)state;
    char big[4096];
    memset(big, '1', sizeof big);
    big[sizeof big - 1] = 0;
    static const char *const strings[] = {"",
                                          ".",
                                          "*",
                                          "-",
                                          "model.layers.",
                                          "model.layers.5.",
                                          "blocks.*.",
                                          "resid_post.",
                                          "resid_post.*",
                                          "%s%n",
                                          "\x01\xff",
                                          "....",
                                          "layers.5.5",
                                          "h.",
                                          "*.*",
                                          "-*"};
    for (size_t i = 0; i <= sizeof strings / sizeof *strings; i++) {
        const char *s = i < sizeof strings / sizeof *strings ? strings[i] : big;
        glia_hook_target t;
        glia_err err;
        (void)glia_names_resolve(&(glia_hook_spec){.name = s, .output = true}, N_LAYER, s, &t, &err);
        (void)glia_names_resolve(&(glia_hook_spec){.layer_text = s, .component = s, .output = true}, N_LAYER, s, &t,
                                 &err);
        (void)glia_names_resolve(&(glia_hook_spec){.layer_name = s, .component = "mlp", .input = true}, 1, s, &t, &err);
    }
}

static void nearest_words_come_in_order(void **state) {
    (void)state;
    static const char *const list[] = {"--model", "--listen", "--parallel", "--port"};
    char out[64];
    glia_nearest("--modle", list, 4, out, sizeof out);
    assert_ptr_equal(strstr(out, "\"--model\""), out);
    glia_nearest("--modle", list, 4, out, 8); /* cut, never beyond */
    assert_true(strlen(out) < 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(canonical_names_resolve_with_a_layer),
        cmocka_unit_test(transformer_lens_names_resolve),
        cmocka_unit_test(hugging_face_paths_resolve),
        cmocka_unit_test(neuroscope_components_resolve),
        cmocka_unit_test(negative_layers_count_from_the_end),
        cmocka_unit_test(a_star_stands_for_every_layer),
        cmocka_unit_test(both_sides_give_two_points),
        cmocka_unit_test(names_follow_the_architecture),
        cmocka_unit_test(unknown_names_are_refused_with_the_nearest),
        cmocka_unit_test(layers_out_of_range_are_refused),
        cmocka_unit_test(names_of_other_tensors_are_refused),
        cmocka_unit_test(names_of_llama_cpp_nodes_are_refused_with_the_point),
        cmocka_unit_test(brackets_and_sides_of_nnsight_resolve),
        cmocka_unit_test(q_proj_is_served_where_it_is_exactly_a_point),
        cmocka_unit_test(experts_and_mixers_resolve),
        cmocka_unit_test(every_name_of_the_tables_resolves_to_its_row),
        cmocka_unit_test(the_page_tells_of_every_point_and_every_name),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(strange_strings_do_no_harm),
        cmocka_unit_test(nearest_words_come_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

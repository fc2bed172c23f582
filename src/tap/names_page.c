/* tap/names_page.c — the tables of docs/HOOKS.md as Markdown, made of the same data that resolves names.  Pure. */
#include "tap/names.h"
#include "tap/names_table.h"
#include <stdio.h>
#include <string.h>

/* What one row holds, and which models have it. */
static const struct {
    const char *row, *where;
} facts[GLIA_N_POINTS] = {
    [GLIA_POINT_EMBEDDINGS] = {"n_embd; no layer", "all"},
    [GLIA_POINT_RESID_PRE] = {"n_embd", "all"},
    [GLIA_POINT_ATTN_IN] = {"n_embd", "layers with attention, a scan or a convolution"},
    [GLIA_POINT_Q_NORM_IN] = {"n_head × head_dim", "q norms: Qwen3, Gemma 3, OLMo 2, …"},
    [GLIA_POINT_K_NORM_IN] = {"n_head_kv × head_dim", "k norms: the same"},
    [GLIA_POINT_Q] = {"n_head × head_dim", "attention; not latent attention"},
    [GLIA_POINT_K] = {"n_head_kv × head_dim", "attention; not latent attention, not layers that reuse keys"},
    [GLIA_POINT_Q_ROT] = {"n_head × head_dim", "attention with RoPE"},
    [GLIA_POINT_K_ROT] = {"n_head_kv × head_dim", "attention with RoPE"},
    [GLIA_POINT_VALUE] = {"n_head_kv × head_dim", "attention; not latent attention"},
    [GLIA_POINT_ATTN_SCORES] = {"n_head × positions", "attention"},
    [GLIA_POINT_ATTN_PROBS] = {"n_head × positions", "attention"},
    [GLIA_POINT_Z] = {"n_head × head_dim", "attention"},
    [GLIA_POINT_ATTN_GATE] = {"n_head × head_dim, or n_head", "gated attention: Qwen3-Next, AFMoE, Step 3.5, …"},
    [GLIA_POINT_Z_GATED] = {"n_head × head_dim", "gated attention: the same"},
    [GLIA_POINT_ATTN_HEAD_OUT] = {"n_head × n_embd", "attention"},
    [GLIA_POINT_CONV_OUT] = {"channels of the convolution", "Mamba, LFM2, Qwen3-Next, …"},
    [GLIA_POINT_SSM_OUT] = {"width of the scan", "Mamba, Jamba, Granite 4, Qwen3-Next, …"},
    [GLIA_POINT_ATTN_OUT] = {"n_embd", "layers with attention, a scan or a convolution"},
    [GLIA_POINT_ATTN_OUT_POST] = {"n_embd", "the same"},
    [GLIA_POINT_RESID_MID] = {"n_embd", "all but parallel blocks"},
    [GLIA_POINT_MLP_IN] = {"n_embd", "layers with an MLP"},
    [GLIA_POINT_ROUTER_LOGITS] = {"n_expert", "mixtures of experts"},
    [GLIA_POINT_EXPERT_INDICES] = {"n_expert_used", "mixtures of experts"},
    [GLIA_POINT_EXPERT_WEIGHTS] = {"n_expert_used", "mixtures of experts"},
    [GLIA_POINT_EXPERT_PRE] = {"n_expert_used × n_ff_exp", "mixtures of experts"},
    [GLIA_POINT_EXPERT_LINEAR] = {"n_expert_used × n_ff_exp", "mixtures of gated experts"},
    [GLIA_POINT_EXPERT_ACT] = {"n_expert_used × n_ff_exp", "mixtures of experts"},
    [GLIA_POINT_EXPERT_OUT] = {"n_expert_used × n_embd", "mixtures of experts"},
    [GLIA_POINT_MOE_OUT] = {"n_embd", "mixtures of experts"},
    [GLIA_POINT_SHARED_EXPERT_OUT] = {"n_embd", "shared experts: Qwen2-MoE, DeepSeek, Llama 4, …"},
    [GLIA_POINT_MLP_PRE] = {"n_ff", "dense MLPs"},
    [GLIA_POINT_MLP_LINEAR] = {"n_ff", "dense gated MLPs"},
    [GLIA_POINT_MLP_ACT] = {"n_ff", "dense MLPs"},
    [GLIA_POINT_MLP_OUT] = {"n_embd", "layers with an MLP"},
    [GLIA_POINT_MLP_OUT_POST] = {"n_embd", "layers with an MLP"},
    [GLIA_POINT_RESID_POST] = {"n_embd", "all"},
    [GLIA_POINT_LENS_IN] = {"n_embd", "all with a final norm"},
    [GLIA_POINT_FINAL_NORM] = {"n_embd; no layer", "all with a final norm"},
    [GLIA_POINT_LM_HEAD] = {"n_vocab; no layer", "all"},
};

static void open_part(glia_buf *b, const char *name, const char *head, const char *rule) {
    glia_buf_addf(b, "<!-- glia help hooks: %s -->\n%s\n%s\n", name, head, rule);
}

static void close_part(glia_buf *b) { glia_buf_adds(b, "<!-- end -->\n"); }

static void add_points(glia_buf *b) {
    open_part(b, "points", "| point | meaning | one row holds | models |", "|---|---|---|---|");
    for (int p = 0; p < GLIA_N_POINTS; p++) {
        glia_buf_addf(b, "| `%s` | %s | %s | %s |\n", glia_point_name((glia_point)p), glia_point_meaning((glia_point)p),
                      facts[p].row ? facts[p].row : "", facts[p].where ? facts[p].where : "");
    }
    close_part(b);
}

static void add_side(glia_buf *b, glia_name_side s) {
    if (s.point >= 0) glia_buf_addf(b, " `%s` |", glia_point_name((glia_point)s.point));
    else if (s.why == glia_names_no_side) glia_buf_adds(b, " – |");
    else glia_buf_addf(b, " refused: %s |", s.why);
}

static void add_names(glia_buf *b, const glia_name_row *row) {
    for (size_t i = 0; row->names[i]; i++) {
        if (!row->names[i][0]) glia_buf_adds(b, "(the block itself)");
        else glia_buf_addf(b, "%s`%s`", i ? ", " : "", row->names[i]);
    }
}

static void add_table(glia_buf *b, const char *name, const glia_name_table *t) {
    char head[128];
    bool inputs = t != &glia_names_lens;
    (void)snprintf(head, sizeof head, inputs ? "| %s | output | input |" : "| %s | point |", t->title);
    open_part(b, name, head, inputs ? "|---|---|---|" : "|---|---|");
    for (size_t i = 0; i < t->n; i++) {
        glia_buf_adds(b, "| ");
        add_names(b, &t->rows[i]);
        glia_buf_adds(b, " |");
        add_side(b, t->rows[i].out);
        if (inputs) add_side(b, t->rows[i].in);
        glia_buf_adds(b, "\n");
    }
    close_part(b);
}

static void add_rules(glia_buf *b) {
    open_part(b, "architectures", "| architectures | name | output | input |", "|---|---|---|---|");
    for (size_t i = 0; i < glia_n_name_rules; i++) {
        const glia_name_rule *r = &glia_name_rules[i];
        glia_buf_adds(b, "| ");
        for (size_t k = 0; r->archs[k]; k++) glia_buf_addf(b, "%s%s", k ? ", " : "", r->archs[k]);
        glia_buf_addf(b, " | `%s` |", r->name);
        add_side(b, r->out);
        add_side(b, r->in);
        glia_buf_adds(b, "\n");
    }
    close_part(b);
}

static void add_prefixes(glia_buf *b) {
    open_part(b, "blocks", "| block N of any model |", "|---|");
    glia_buf_adds(b, "| ");
    for (size_t i = 0; glia_block_prefixes[i]; i++) glia_buf_addf(b, "%s`%sN`", i ? ", " : "", glia_block_prefixes[i]);
    glia_buf_adds(b, " |\n");
    close_part(b);
}

void glia_names_page(glia_buf *b) {
    add_points(b);
    add_table(b, "components", &glia_names_components);
    add_prefixes(b);
    add_table(b, "modules", &glia_names_block);
    add_table(b, "outside the blocks", &glia_names_outside);
    add_table(b, "TransformerLens", &glia_names_lens);
    add_rules(b);
}

/* tap/names_table.c — the names that clients use.  Pure data; docs/HOOKS.md is made of it (`glia help hooks`).
 *
 * A side is only given a point when the module's tensor is that point in every architecture that is not listed in the
 * rules below.  Sources: the model classes of Hugging Face transformers 4.5x, TransformerLens 2.16 (components/), the
 * NeuroScope clients; each family's graph in llama.cpp src/models/. */
#include "tap/names_table.h"
#include <string.h>

#define P(id)                                                                                                          \
    { GLIA_POINT_##id, NULL }
#define NO(why)                                                                                                        \
    { -1, why }
#define COUNT(a) (sizeof(a) / sizeof *(a))

const char glia_names_no_side[] = "has no such side";
#define NONE                                                                                                           \
    { -1, glia_names_no_side }

#define WHY_IDS  "takes token ids, which are not activations: every entry carries them as token_ids"
#define WHY_Q    "may differ from the queries used (q norms, GGUF's channel order): ask for component \"q\""
#define WHY_K    "may differ from the keys used (k norms, GGUF's channel order): ask for component \"k\""
#define WHY_V    "may differ from the values used (value norms, clamps): ask for component \"value\""
#define WHY_QKV  "is q, k and value in one tensor: ask for these components one by one"
#define WHY_QG   "is the queries and the gate in one tensor: ask for \"q_norm_in\" and \"attn_gate\""
#define WHY_MIX  "is several branches in one tensor: ask for \"conv_out\" or \"ssm_out\""
#define WHY_CONV "is taken before the activation function, and padded: ask for \"conv_out\""
#define WHY_CIN  "is one of several branches that are multiplied: ask for \"conv_out\" or \"attn_in\""
#define WHY_TWO  "is the gate and the other branch in one tensor: ask for \"mlp_pre\" and \"mlp_linear\""
#define WHY_ACT                                                                                                        \
    "is the activated gate before the other branch is multiplied in: ask for \"mlp_pre\", \"mlp_linear\" or their "    \
    "product \"mlp_act\""
#define WHY_JAIS   "means the other branch in this architecture: ask for \"mlp_pre\" or \"mlp_linear\""
#define WHY_MLP_IN "is the MLP's input: ask for \"mlp_in\""
#define WHY_TUPLE                                                                                                      \
    "is a tuple whose order differs between versions: ask for \"router_logits\", \"expert_indices\" or "               \
    "\"expert_weights\""
#define WHY_SLOTS  "is not summed over the experts in this architecture: ask for \"expert_out\" or \"moe_out\""
#define WHY_SHARED "is multiplied by its gate before it is added: ask for \"shared_expert_out\" (after the gate)"
#define WHY_SHGATE "is one number per token, part of \"shared_expert_out\""
#define WHY_BESIDE "is the sum of a dense MLP and experts in this architecture: ask for \"mlp_out\" or \"moe_out\""
#define WHY_SUB    "is normalised once more in this architecture: ask for \"z\" (before that norm)"
#define WHY_LATE   "is taken after RoPE in this architecture: ask for \"q\", \"k\" (before) or \"q_rot\", \"k_rot\""
#define WHY_FH1    "is one of two mixers side by side in this architecture: ask for \"ssm_out\""
#define WHY_UNSCALED                                                                                                   \
    "is scaled in this architecture: ask for component \"embeddings\" (unscaled) or \"resid_pre\" of layer 0"
#define WHY_POSITIONS  "is no point: \"resid_pre\" of layer 0 minus \"embeddings\" is what the positions add"
#define WHY_NORMALIZED "is taken before the norm's weight: ask for \"attn_in\", \"mlp_in\" or \"final_norm\" (after it)"
#define WHY_SCALE                                                                                                      \
    "is one number per row: compute it from the norm's input (\"resid_pre\", \"resid_mid\" or the last \"resid_post\")"
#define WHY_TL_MLP_IN                                                                                                  \
    "means the input of the norm there: ask for \"resid_mid\" (before the norm) or \"mlp_in\" (after it)"
#define WHY_TL_COPIES "means one copy of the residual per head there: ask for \"resid_pre\""
#define WHY_TL_WEIGHTS                                                                                                 \
    "means the weights of all experts there, before the choice: ask for \"router_logits\" or \"expert_weights\""
#define WHY_NO_PRE_NORM "does not exist in this architecture: its blocks have no norm there; ask for \"resid_pre\""

#define BLOCK           GLIA_NAMES_BLOCK, false
#define ATTN            GLIA_NAMES_ATTN, false
#define MLP             GLIA_NAMES_MLP, false
#define NORM            GLIA_NAMES_NORM, false
#define EMBED           GLIA_NAMES_EMBED, false
#define FINAL           GLIA_NAMES_FINAL, false
#define HEAD            GLIA_NAMES_HEAD, false

/* clang-format off */
static const glia_name_row block[] = {
    {BLOCK, P(RESID_POST), P(RESID_PRE), {""}},
    /* attention and what stands in its place */
    {ATTN, P(ATTN_OUT), P(ATTN_IN), {"self_attn", "attn", "attention", "self_attention", "mixer", "linear_attn", "conv",
                                     "norm_attn_norm.attn"}},
    {ATTN, P(ATTN_OUT), P(ATTN_IN), {"mamba"}},
    {ATTN, P(ATTN_OUT), P(Z), {"self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "attn.c_proj", "attn.out_proj",
                               "attention.dense", "attention.wo", "self_attention.dense", "norm_attn_norm.attn.out_proj"}},
    {ATTN, NO(WHY_Q), P(ATTN_IN), {"self_attn.q_proj", "attn.q_proj"}},
    {ATTN, NO(WHY_K), P(ATTN_IN), {"self_attn.k_proj", "attn.k_proj"}},
    {ATTN, NO(WHY_V), P(ATTN_IN), {"self_attn.v_proj", "attn.v_proj"}},
    {ATTN, NO(WHY_QKV), P(ATTN_IN), {"attn.c_attn", "self_attn.qkv_proj", "attention.query_key_value", "attention.wqkv",
                                     "self_attention.query_key_value", "attn.Wqkv", "norm_attn_norm.attn.Wqkv"}},
    {ATTN, P(Q), P(Q_NORM_IN), {"self_attn.q_norm", "self_attn.q_layernorm"}},
    {ATTN, P(K), P(K_NORM_IN), {"self_attn.k_norm", "self_attn.k_layernorm"}},
    {ATTN, P(ATTN_OUT), P(SSM_OUT), {"mixer.out_proj", "linear_attn.out_proj"}},
    {ATTN, P(ATTN_OUT), P(SSM_OUT), {"mamba.out_proj"}},
    {ATTN, NO(WHY_MIX), P(ATTN_IN), {"mixer.in_proj", "linear_attn.in_proj_qkvz", "mamba.in_proj", "conv.in_proj"}},
    {ATTN, NO(WHY_CONV), NO(WHY_CIN), {"mixer.conv1d", "linear_attn.conv1d", "mamba.conv1d", "conv.conv"}},
    {ATTN, P(ATTN_OUT), NO(WHY_CIN), {"conv.out_proj"}},
    /* MLP */
    {MLP, P(MLP_OUT), P(MLP_IN), {"mlp", "feed_forward", "ffn"}},
    {MLP, P(MLP_OUT), P(MLP_IN), {"block_sparse_moe"}},
    {MLP, P(MLP_OUT), P(MLP_ACT), {"mlp.down_proj", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.fc2", "mlp.fc_out", "fc2",
                                   "feed_forward.w2", "feed_forward.down_proj", "ffn.down_proj"}},
    {MLP, P(MLP_PRE), P(MLP_IN), {"mlp.gate_proj", "mlp.c_fc_0", "feed_forward.w1", "feed_forward.gate_proj"}},
    {MLP, P(MLP_LINEAR), P(MLP_IN), {"mlp.up_proj", "mlp.c_fc_1", "feed_forward.w3", "feed_forward.up_proj"}},
    {MLP, P(MLP_PRE), P(MLP_IN), {"mlp.c_fc", "mlp.dense_h_to_4h", "mlp.fc1", "mlp.fc_in", "fc1", "ffn.up_proj"}},
    {MLP, NO(WHY_TWO), P(MLP_IN), {"mlp.gate_up_proj"}},
    {MLP, NO(WHY_ACT), P(MLP_PRE), {"mlp.act_fn", "mlp.act", "mlp.activation_fn", "ffn.act"}},
    /* mixture of experts */
    {MLP, P(ROUTER_LOGITS), NO(WHY_MLP_IN), {"mlp.gate", "block_sparse_moe.gate", "feed_forward.gate", "mlp.router",
                                             "feed_forward.router", "block_sparse_moe.router.layer", "ffn.router.layer"}},
    {MLP, P(MOE_OUT), NO(WHY_MLP_IN), {"mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "ffn.experts"}},
    {MLP, P(SHARED_EXPERT_OUT), NO(WHY_MLP_IN), {"mlp.shared_expert", "mlp.shared_experts", "feed_forward.shared_expert",
                                                 "shared_mlp", "mlp.shared_mlp"}},
    {MLP, NO(WHY_SHGATE), NO(WHY_MLP_IN), {"mlp.shared_expert_gate"}},
    /* norms */
    {NORM, P(ATTN_IN), P(RESID_PRE), {"input_layernorm", "ln_1", "operator_norm", "attention_norm", "pre_mixer_norm",
                                      "norm", "norm_1", "ln_attn", "self_attn_layer_norm", "norm_attn_norm.norm_1"}},
    {NORM, P(MLP_IN), P(RESID_MID), {"post_attention_layernorm"}},
    {NORM, P(MLP_IN), P(RESID_MID), {"ln_2", "pre_feedforward_layernorm", "pre_mlp_layernorm", "pre_ff_layernorm",
                                     "pre_mlp_norm", "ffn_norm", "norm_2", "final_layer_norm", "norm_attn_norm.norm_2"}},
    {NORM, P(MLP_IN), P(RESID_PRE), {"ln_mlp"}},
    {NORM, P(ATTN_OUT_POST), P(ATTN_OUT), {"post_self_attn_layernorm", "post_mixer_norm"}},
    {NORM, P(MLP_OUT_POST), P(MLP_OUT), {"post_feedforward_layernorm", "post_mlp_layernorm", "post_mlp_norm"}},
};

/* hook_attn_out and hook_mlp_out are what is added to the stream. */
static const glia_name_row lens[] = {
    {BLOCK, P(RESID_PRE), NONE, {"hook_resid_pre"}},
    {BLOCK, P(RESID_MID), NONE, {"hook_resid_mid"}},
    {BLOCK, P(RESID_POST), NONE, {"hook_resid_post"}},
    {ATTN, P(ATTN_OUT), NONE, {"hook_attn_out"}},
    {MLP, P(MLP_OUT), NONE, {"hook_mlp_out"}},
    {ATTN, P(Q), NONE, {"attn.hook_q"}},
    {ATTN, P(K), NONE, {"attn.hook_k"}},
    {ATTN, P(VALUE), NONE, {"attn.hook_v"}},
    {ATTN, P(Q_ROT), NONE, {"attn.hook_rot_q"}},
    {ATTN, P(K_ROT), NONE, {"attn.hook_rot_k"}},
    {ATTN, P(ATTN_SCORES), NONE, {"attn.hook_attn_scores"}},
    {ATTN, P(ATTN_PROBS), NONE, {"attn.hook_pattern"}},
    {ATTN, P(Z), NONE, {"attn.hook_z"}},
    {ATTN, P(ATTN_HEAD_OUT), NONE, {"attn.hook_result"}},
    {MLP, P(MLP_PRE), NONE, {"mlp.hook_pre"}},
    {MLP, P(MLP_LINEAR), NONE, {"mlp.hook_pre_linear"}},
    {MLP, P(MLP_ACT), NONE, {"mlp.hook_post"}},
    {MLP, P(EXPERT_INDICES), NONE, {"mlp.hook_expert_indices"}},
    {MLP, NO(WHY_TL_WEIGHTS), NONE, {"mlp.hook_expert_weights"}},
    {MLP, NO(WHY_TL_MLP_IN), NONE, {"hook_mlp_in"}},
    {ATTN, NO(WHY_TL_COPIES), NONE, {"hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input"}},
    {NORM, NO(WHY_NORMALIZED), NONE, {"ln1.hook_normalized", "ln2.hook_normalized"}},
    {NORM, NO(WHY_SCALE), NONE, {"ln1.hook_scale", "ln2.hook_scale"}},
};

static const glia_name_row outside[] = {
    {EMBED, P(EMBEDDINGS), NO(WHY_IDS), {"model.embed_tokens", "embed_tokens", "model.decoder.embed_tokens",
                                         "model.language_model.embed_tokens", "language_model.model.embed_tokens"}},
    {EMBED, P(EMBEDDINGS), NO(WHY_IDS), {"transformer.wte", "wte", "gpt_neox.embed_in", "transformer.word_embeddings",
                                         "backbone.embeddings", "model.tok_embeddings"}},
    {EMBED, P(EMBEDDINGS), NO(WHY_IDS), {"hook_embed"}},
    {EMBED, NO(WHY_POSITIONS), NONE, {"hook_pos_embed", "transformer.wpe", "wpe", "model.decoder.embed_positions"}},
    {FINAL, P(FINAL_NORM), P(RESID_POST), {"model.norm", "norm", "transformer.ln_f", "ln_f", "model.final_layernorm",
                                           "gpt_neox.final_layer_norm", "transformer.norm_f", "backbone.norm_f",
                                           "model.embedding_norm", "model.language_model.norm",
                                           "language_model.model.norm", "model.decoder.final_layer_norm"}},
    {FINAL, NO(WHY_NORMALIZED), NONE, {"ln_final.hook_normalized"}},
    {FINAL, NO(WHY_SCALE), NONE, {"ln_final.hook_scale"}},
    {HEAD, P(LM_HEAD), P(FINAL_NORM), {"embed_out"}},
};

#define GENERAL(family) GLIA_NAMES_##family, true
static const glia_name_row components[] = {
    {GENERAL(BLOCK), P(RESID_POST), P(RESID_PRE), {"residual"}},
    {GENERAL(ATTN), P(ATTN_OUT), P(ATTN_IN), {"attention"}},
    {GENERAL(MLP), P(MLP_OUT), P(MLP_IN), {"mlp"}},
    {GENERAL(NORM), P(ATTN_IN), P(RESID_PRE), {"layernorm"}},
    {GENERAL(EMBED), P(EMBEDDINGS), NO(WHY_IDS), {"embedding"}},
    {ATTN, P(Q), NONE, {"query"}},
    {ATTN, P(K), NONE, {"key"}},
    {ATTN, P(VALUE), NONE, {"value"}},
    {ATTN, P(ATTN_SCORES), NONE, {"attention_scores"}},
    {ATTN, P(ATTN_PROBS), NONE, {"attention_pattern"}},
    {MLP, P(MOE_OUT), NO(WHY_MLP_IN), {"moe"}},
    {MLP, P(EXPERT_OUT), NO(WHY_MLP_IN), {"expert"}},
};

const glia_name_table glia_names_block = {"path after the block", block, COUNT(block)};
const glia_name_table glia_names_lens = {"name after `blocks.N.`", lens, COUNT(lens)};
const glia_name_table glia_names_outside = {"path", outside, COUNT(outside)};
const glia_name_table glia_names_components = {"component", components, COUNT(components)};

/* ------------------------------------------------------------------ what hangs on the architecture */

#define LIST(name, ...) static const char *const name[] = {__VA_ARGS__, NULL}
LIST(post_norm, "gemma2", "gemma3", "gemma3n", "gemma4", "olmo2", "exaone4", "afmoe");
LIST(sandwich, "gemma2", "gemma3", "gemma3n", "gemma4", "olmo2", "exaone4", "afmoe", "glm4", "grok", "plamo2", "plamo3",
     "muse-glimmer");
LIST(no_pre_norm, "olmo2", "exaone4");
LIST(gated, "afmoe", "qwen3next", "qwen35", "qwen35moe", "step35", "laguna", "spark2_5", "dots3note", "hrm_text",
     "muse-glimmer", "hy_v4", "qwen4exp");
LIST(query_and_gate, "qwen3next", "qwen35", "qwen35moe", "qwen4exp");
LIST(sub_norm, "bitnet");
LIST(norm_after_rope, "maincoder", "maple", "talkie", "muse-glimmer", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "llama4");
LIST(plain_q, "qwen2", "qwen2moe", "gemma", "gemma2");
LIST(normed_q, "qwen3", "qwen3moe", "gemma3", "olmo2");
LIST(plain_v, "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "olmo2", "mistral3",
     "smollm3", "granite", "starcoder2", "stablelm", "command-r", "cohere2");
LIST(lens_normed, "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "qwen3next", "qwen35", "qwen35moe", "gemma3", "gemma3n",
     "gemma4", "olmo2", "olmoe", "exaone4", "apertus", "lfm2", "lfm2moe", "afmoe", "bailingmoe2", "dots1", "minimax-m2", "plamo2",
     "plamo3", "rnd1", "llada-moe", "grovemoe", "openelm", "chameleon");
LIST(two_mixers, "falcon-h1");
LIST(ungated, "gpt2", "gptj", "gptneox", "falcon", "bloom", "mpt", "starcoder", "starcoder2", "phi2", "nemotron", "arcee",
     "apertus", "plm", "jais2", "codeshell");
LIST(fused_up, "chatglm");
LIST(jais, "jais");
LIST(tuple_router, "deepseek2", "deepseek32", "glm4moe", "dots1", "bailingmoe2", "gpt-oss", "llama4", "afmoe", "minimax-m2");
LIST(unsummed, "llama4");
LIST(gated_shared, "qwen2moe", "qwen3next", "qwen35moe", "qwen4exp");
LIST(beside, "arctic");
LIST(scaled_inside, "gemma3", "gemma3n", "gemma4");
LIST(scaled_lens, "gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "minicpm", "granite", "grok");

const glia_name_rule glia_name_rules[] = {
    {post_norm, "post_attention_layernorm", P(ATTN_OUT_POST), P(ATTN_OUT)},
    {no_pre_norm, "input_layernorm", NO(WHY_NO_PRE_NORM), NO(WHY_NO_PRE_NORM)},
    {no_pre_norm, "layernorm", NO(WHY_NO_PRE_NORM), NO(WHY_NO_PRE_NORM)},
    {gated, "self_attn.o_proj", P(ATTN_OUT), P(Z_GATED)},
    {sub_norm, "self_attn.o_proj", P(ATTN_OUT), NO(WHY_SUB)},
    {query_and_gate, "self_attn.q_proj", NO(WHY_QG), P(ATTN_IN)},
    {plain_q, "self_attn.q_proj", P(Q), P(ATTN_IN)},
    {plain_q, "self_attn.k_proj", P(K), P(ATTN_IN)},
    {normed_q, "self_attn.q_proj", P(Q_NORM_IN), P(ATTN_IN)},
    {normed_q, "self_attn.k_proj", P(K_NORM_IN), P(ATTN_IN)},
    {plain_v, "self_attn.v_proj", P(VALUE), P(ATTN_IN)},
    {norm_after_rope, "self_attn.q_norm", NO(WHY_LATE), NO(WHY_LATE)},
    {norm_after_rope, "self_attn.k_norm", NO(WHY_LATE), NO(WHY_LATE)},
    {two_mixers, "mamba", NO(WHY_FH1), P(ATTN_IN)},
    {two_mixers, "mamba.out_proj", NO(WHY_FH1), P(SSM_OUT)},
    {beside, "block_sparse_moe", NO(WHY_BESIDE), NO(WHY_BESIDE)},
    {ungated, "mlp.up_proj", P(MLP_PRE), P(MLP_IN)},
    {ungated, "mlp.act_fn", P(MLP_ACT), P(MLP_PRE)},
    {fused_up, "mlp.dense_h_to_4h", NO(WHY_TWO), P(MLP_IN)},
    {jais, "mlp.c_fc", NO(WHY_JAIS), P(MLP_IN)},
    {tuple_router, "mlp.gate", NO(WHY_TUPLE), NO(WHY_MLP_IN)},
    {unsummed, "mlp.experts", NO(WHY_SLOTS), NO(WHY_MLP_IN)},
    {gated_shared, "mlp.shared_expert", NO(WHY_SHARED), NO(WHY_MLP_IN)},
    {scaled_inside, "model.embed_tokens", NO(WHY_UNSCALED), NO(WHY_IDS)},
    {sandwich, "hook_attn_out", P(ATTN_OUT_POST), NONE},
    {sandwich, "hook_mlp_out", P(MLP_OUT_POST), NONE},
    {lens_normed, "attn.hook_q", P(Q_NORM_IN), NONE},
    {lens_normed, "attn.hook_k", P(K_NORM_IN), NONE},
    {scaled_lens, "hook_embed", NO(WHY_UNSCALED), NO(WHY_IDS)},
};
const size_t glia_n_name_rules = COUNT(glia_name_rules);

/* ------------------------------------------------------------------ paths */

const char *const glia_block_prefixes[] = {
    "model.layers.", "transformer.h.", "blocks.", "model.decoder.layers.", "gpt_neox.layers.", "transformer.blocks.",
    "transformer.layers.", "transformer.encoder.layers.", "backbone.layers.", "model.language_model.layers.",
    "language_model.model.layers.", "model.model.layers.", "model.transformer.h.", "model.gpt_neox.layers.",
    "layers.", "layer.", "block.", "blk.", "h.", NULL,
};

const char *const glia_name_examples[] = {
    "model.layers.N", "model.layers.N.self_attn", "model.layers.N.self_attn.o_proj", "model.layers.N.mlp",
    "model.layers.N.mlp.down_proj", "model.layers.N.input_layernorm", "model.layers.N.post_attention_layernorm",
    "transformer.h.N", "transformer.h.N.attn", "transformer.h.N.mlp", "transformer.h.N.ln_1", "transformer.h.N.ln_2",
    "blocks.N.hook_resid_pre", "blocks.N.hook_resid_mid", "blocks.N.hook_resid_post", "blocks.N.hook_attn_out",
    "blocks.N.hook_mlp_out", "blocks.N.attn.hook_q", "blocks.N.attn.hook_pattern", "blocks.N.attn.hook_z",
    "blocks.N.mlp.hook_post", "model.embed_tokens", "transformer.wte", "model.norm", "transformer.ln_f", "hook_embed", NULL,
};

const glia_node_name glia_node_names[] = {
    {"inp_embd", GLIA_POINT_EMBEDDINGS}, {"attn_norm", GLIA_POINT_ATTN_IN}, {"Qcur", GLIA_POINT_Q}, {"Kcur", GLIA_POINT_K},
    {"Vcur", GLIA_POINT_VALUE}, {"kq", GLIA_POINT_ATTN_SCORES}, {"kq_soft_max", GLIA_POINT_ATTN_PROBS},
    {"kqv_out", GLIA_POINT_Z}, {"attn_out", GLIA_POINT_ATTN_OUT}, {"ffn_inp", GLIA_POINT_RESID_MID},
    {"ffn_norm", GLIA_POINT_MLP_IN}, {"ffn_gate", GLIA_POINT_MLP_PRE}, {"ffn_up", GLIA_POINT_MLP_LINEAR},
    {"ffn_swiglu", GLIA_POINT_MLP_ACT}, {"ffn_out", GLIA_POINT_MLP_OUT}, {"ffn_moe_logits", GLIA_POINT_ROUTER_LOGITS},
    {"ffn_moe_topk", GLIA_POINT_EXPERT_INDICES}, {"ffn_moe_weights", GLIA_POINT_EXPERT_WEIGHTS},
    {"ffn_moe_out", GLIA_POINT_MOE_OUT}, {"ffn_shexp", GLIA_POINT_SHARED_EXPERT_OUT}, {"l_out", GLIA_POINT_RESID_POST},
    {"result_norm", GLIA_POINT_FINAL_NORM}, {"result_output", GLIA_POINT_LM_HEAD}, {NULL, GLIA_N_POINTS},
};
/* clang-format on */

/* ------------------------------------------------------------------ look-ups */

static bool has(const char *const *list, const char *word) {
    for (; *list; list++) {
        if (!strcmp(*list, word)) return true;
    }
    return false;
}

const glia_name_row *glia_names_find(const glia_name_table *t, const char *name) {
    for (size_t i = 0; i < t->n; i++) {
        if (has(t->rows[i].names, name)) return &t->rows[i];
    }
    return NULL;
}

glia_name_side glia_names_side(const glia_name_row *row, bool input, const char *arch) {
    for (size_t i = 0; arch && i < glia_n_name_rules; i++) {
        const glia_name_rule *r = &glia_name_rules[i];
        if (has(row->names, r->name) && has(r->archs, arch)) return input ? r->in : r->out;
    }
    return input ? row->in : row->out;
}

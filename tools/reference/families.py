"""families.py - the tiny models: which transformers class with which configuration, and how its weights are drawn.

Owns every choice about a model that is not llama.cpp's: sizes, seeds, what makes the family worth a reference.
make_recipes.py turns it into tools/tiny/recipes, record.py runs it.  Knows neither GGUF nor Glia.
"""
import copy

import transformers

import mktiny

N_VOCAB, N_EMBD, N_LAYER, N_HEAD, N_CTX = 320, 64, 3, 4, 256


def rope(theta=10000.0, **more):
    return dict({"rope_type": "default", "rope_theta": theta}, **more)


def layer_types(pattern, n_layer=N_LAYER):
    """Layer il attends globally iff (il + 1) % pattern == 0."""
    return ["sliding_attention" if (il + 1) % pattern else "full_attention" for il in range(n_layer)]


# family: (model class stem, configuration beyond COMMON, what the family exercises)
#   None as a value drops a key of COMMON; "_seed" chooses the weights; "_gelu": tanh-GELU or a table comes before some points
FAMILIES = {
    "llama": ("Llama", dict(_seed=9, intermediate_size=128, head_dim=16), "RoPE on neighbouring pairs (the converter permutes q and k)"),
    "mistral": ("Mistral", dict(head_dim=16, sliding_window=None), "llama.cpp's llama graph, other converter class"),
    "qwen2": ("Qwen2", dict(_seed=2, intermediate_size=128, rms_norm_eps=1e-6, rope_parameters=rope(1e6)), "q/k/v biases, half-split RoPE"),
    "qwen3": ("Qwen3", dict(_seed=12, intermediate_size=128, rms_norm_eps=1e-6, rope_parameters=rope(1e6), head_dim=32),
              "q/k norms, head width ≠ hidden / heads"),
    "qwen3moe": ("Qwen3Moe", dict(rms_norm_eps=1e-6, rope_parameters=rope(1e6), head_dim=16, num_experts=4,
                                  num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True),
                 "experts with renormalised weights, q/k norms"),
    "phi3": ("Phi3", dict(original_max_position_embeddings=N_CTX, sliding_window=None), "fused q/k/v, fused gate and up"),
    "olmo2": ("Olmo2", dict(rms_norm_eps=1e-6, num_key_value_heads=4), "no pre-norms, post norms, q/k norms over the row"),
    "olmoe": ("Olmoe", dict(num_key_value_heads=4, num_experts=4, num_experts_per_tok=2, intermediate_size=32),
              "experts whose weights are not renormalised, q/k norms over the row"),
    "granite": ("Granite", dict(embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.2,
                                logits_scaling=2.0), "multipliers on embedding, residual, attention and logits"),
    "stablelm": ("StableLm", dict(rms_norm_eps=None, layer_norm_eps=1e-5, use_qkv_bias=True,
                                  rope_parameters=rope(partial_rotary_factor=0.5)), "LayerNorm, RoPE on half of each head"),
    "cohere": ("Cohere", dict(rms_norm_eps=None, layer_norm_eps=1e-5, logit_scale=0.5, use_qk_norm=False,
                              tie_word_embeddings=True), "parallel block, one LayerNorm without bias, tied output"),
    "gpt-oss": ("GptOss", dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32,
                               sliding_window=4, layer_types=layer_types(2), rope_parameters=rope(150000.0)),
                "attention sinks, windows, experts with biases and a clamped SwiGLU"),
    "gemma": ("Gemma", dict(rms_norm_eps=1e-6, head_dim=32, hidden_activation="gelu_pytorch_tanh",
                            tie_word_embeddings=True, _gelu=True), "√E on the embedding, norms stored as w - 1, tied output, GELU"),
    "gemma2": ("Gemma2", dict(_seed=98, intermediate_size=128, rms_norm_eps=1e-6, head_dim=32, query_pre_attn_scalar=32, tie_word_embeddings=True,
                              sliding_window=8, layer_types=layer_types(2), attn_logit_softcapping=5.0,
                              final_logit_softcapping=2.0, _gelu=True),
               "sandwich norms, both soft caps, window 8 in layers 0 and 2, tied output, GELU"),
    "gemma3": ("Gemma3", dict(_seed=37, intermediate_size=128, _config="Gemma3TextConfig", rms_norm_eps=1e-6, head_dim=16, query_pre_attn_scalar=16,
                              tie_word_embeddings=True, sliding_window=8, layer_types=layer_types(3), _gelu=True,
                              rope_parameters={"full_attention": rope(1e6), "sliding_attention": rope(1e4)}),
               "q/k norms, sandwich norms, window 8 in layers 0 and 1 with their own RoPE base, tied output, GELU"),
    "gpt2": ("GPT2", dict(_seed=16, _gpt2=True, layer_norm_epsilon=1e-5, activation_function="gelu_new", n_inner=256,
                          _gelu=True), "learned positions, LayerNorm with bias, fused q/k/v, biases everywhere, tied output, GELU"),
    "gptneox": ("GPTNeoX", dict(rms_norm_eps=None, num_key_value_heads=None, layer_norm_eps=1e-5, intermediate_size=96,
                                use_parallel_residual=True, hidden_act="gelu", _gelu=True,
                                rope_parameters=rope(partial_rotary_factor=0.5)),
                "parallel block with two norms, q/k/v interleaved by head, RoPE on half of each head, GELU"),
    "starcoder2": ("Starcoder2", dict(rms_norm_eps=None, norm_epsilon=1e-5, intermediate_size=96, sliding_window=None,
                                      residual_dropout=0.0, embedding_dropout=0.0, tie_word_embeddings=True, _gelu=True,
                                      hidden_act="gelu_pytorch_tanh", use_bias=True), "LayerNorm with bias, MLP without gate, GELU"),
    # beyond the eighteen of the plan
    "glm4": ("Glm4", dict(head_dim=16, attention_bias=True, rope_parameters=rope(partial_rotary_factor=0.5)),
             "sandwich norms with SiLU, fused gate and up, RoPE on half of each head"),
    "phi2": ("Phi", dict(rms_norm_eps=None, layer_norm_eps=1e-5, hidden_act="gelu_new", intermediate_size=256, _gelu=True,
                         num_key_value_heads=4, rope_parameters=rope(partial_rotary_factor=0.5)),
             "parallel block, one norm for both branches, GELU"),
    "falcon": ("Falcon", dict(_only=True, vocab_size=N_VOCAB, hidden_size=N_EMBD, num_hidden_layers=N_LAYER,
                              num_attention_heads=N_HEAD, num_kv_heads=2, new_decoder_architecture=True, alibi=False,
                              bias=False, parallel_attn=True, ffn_hidden_size=256, max_position_embeddings=N_CTX,
                              tie_word_embeddings=False, _gelu=True, rope_parameters=rope()),
               "parallel block, a norm for each branch, q/k/v fused by group, GELU"),
    "nemotron": ("Nemotron", dict(rms_norm_eps=None, norm_eps=1e-5, hidden_act="relu2", intermediate_size=96,
                                  rope_parameters=rope(partial_rotary_factor=0.5)), "LayerNorm stored as w - 1, squared ReLU, no gate"),
    "deepseek2": ("DeepseekV2", dict(rms_norm_eps=1e-6, num_key_value_heads=4, kv_lora_rank=32, q_lora_rank=48, qk_rope_head_dim=16,
                                     qk_nope_head_dim=16, v_head_dim=16, first_k_dense_replace=1, n_routed_experts=4,
                                     n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=32, n_group=1,
                                     topk_group=1, topk_method="greedy", routed_scaling_factor=1.0, norm_topk_prob=False,
                                     head_dim=None),
                  "latent attention (MLA), a dense layer before expert layers, a shared expert"),
    "qwen2moe": ("Qwen2Moe", dict(rms_norm_eps=1e-6, rope_parameters=rope(1e6), num_experts=4, num_experts_per_tok=2,
                                  moe_intermediate_size=32, shared_expert_intermediate_size=64, norm_topk_prob=False,
                                  decoder_sparse_step=1), "a gated shared expert beside the routed ones"),
    "llama4": ("Llama4", dict(_config="Llama4TextConfig", head_dim=16, intermediate_size=32, intermediate_size_mlp=64,
                              num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2, num_hidden_layers=4,
                              no_rope_layers=[1, 1, 1, 0], attention_chunk_size=N_CTX, use_qk_norm=True, rope_parameters=rope(500000.0)),
               "experts weighted before they run, a shared expert, a norm after RoPE, one layer without RoPE"),
    "dbrx": ("Dbrx", dict(_only=True, d_model=N_EMBD, n_heads=N_HEAD, n_layers=N_LAYER, max_seq_len=N_CTX, vocab_size=N_VOCAB,
                          attn_config=dict(clip_qkv=3.0, kv_n_heads=2, rope_theta=10000.0),
                          ffn_config=dict(ffn_hidden_size=32, moe_num_experts=4, moe_top_k=2, moe_normalize_expert_weights=1.0),
                          rope_parameters=rope()),
             "fused and clipped q/k/v, LayerNorm without bias, experts"),
    "mamba": ("Mamba", dict(_only=True, vocab_size=N_VOCAB, hidden_size=N_EMBD, num_hidden_layers=N_LAYER, state_size=8,
                            conv_kernel=4, expand=2, time_step_rank=8, use_bias=False, use_conv_bias=True, layer_norm_epsilon=1e-5),
              "state-space blocks, no attention"),
    "mamba2": ("Mamba2", dict(_only=True, vocab_size=N_VOCAB, hidden_size=N_EMBD, num_hidden_layers=N_LAYER, state_size=16,
                              conv_kernel=4, expand=2, num_heads=8, head_dim=16, n_groups=2, chunk_size=256, use_bias=False,
                              use_conv_bias=True, layer_norm_epsilon=1e-5, tie_word_embeddings=False),
               "state-space blocks with scalar decay per head and a gated norm"),
    "falcon-h1": ("FalconH1", dict(head_dim=16, mamba_d_ssm=128, mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1,
                                   mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=256,
                                   mamba_rms_norm=False, mamba_norm_before_gate=False, mamba_proj_bias=False),
                  "attention and state space side by side"),
    "jamba": ("Jamba", dict(rms_norm_eps=1e-6, rope_parameters=None, attn_layer_period=3, attn_layer_offset=1, expert_layer_period=3,
                            expert_layer_offset=2, num_experts=4, num_experts_per_tok=2, mamba_d_state=8, mamba_d_conv=4, mamba_expand=2,
                            mamba_dt_rank=8, use_mamba_kernels=False), "state-space and attention layers, no RoPE, experts in one layer"),
    "lfm2": ("Lfm2", dict(rms_norm_eps=None, norm_eps=1e-5, conv_L_cache=3, block_auto_adjust_ff_dim=False,
                          layer_types=["conv", "full_attention", "conv"], tie_word_embeddings=True),
             "short convolutions between attention layers, q/k norms"),
    "qwen3next": ("Qwen3Next", dict(rms_norm_eps=1e-6, head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                                    shared_expert_intermediate_size=32, norm_topk_prob=True, linear_num_key_heads=2,
                                    linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16,
                                    linear_conv_kernel_dim=4, layer_types=["linear_attention", "full_attention", "linear_attention"],
                                    rope_parameters=rope(1e6, partial_rotary_factor=0.5)),
                  "gated delta net and gated attention, norms stored as w - 1, experts and a gated shared expert"),
    "cohere2": ("Cohere2", dict(rms_norm_eps=None, layer_norm_eps=1e-5, head_dim=16, logit_scale=0.5, tie_word_embeddings=True,
                                num_hidden_layers=4, sliding_window=4, layer_types=layer_types(4, 4)),
                "parallel block, windows with RoPE, a global layer without"),
    "smollm3": ("SmolLM3", dict(rms_norm_eps=1e-6, num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0], tie_word_embeddings=True,
                                layer_types=["full_attention"] * 4, sliding_window=None), "the fourth layer has no RoPE"),
    "mixtral": ("Mixtral", dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, sliding_window=None),
                "experts in llama.cpp's llama graph"),
    "granitemoe": ("GraniteMoeShared", dict(embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.2, logits_scaling=2.0,
                                      num_local_experts=4, num_experts_per_tok=2, intermediate_size=32, shared_intermediate_size=64),
                   "experts and a shared expert under granite's multipliers"),
    "bloom": ("Bloom", dict(_only=True, vocab_size=N_VOCAB, hidden_size=N_EMBD, n_layer=N_LAYER, n_head=N_HEAD, layer_norm_epsilon=1e-5,
                        tie_word_embeddings=False, _gelu=True),
              "ALiBi, a norm on the embedding, GELU"),
    "mpt": ("Mpt", dict(_only=True, vocab_size=N_VOCAB, d_model=N_EMBD, n_heads=N_HEAD, n_layers=N_LAYER, expansion_ratio=2, max_seq_len=N_CTX, tie_word_embeddings=False,
                        _gelu=True), "ALiBi, LayerNorm without bias, GELU"),
    "glm4moe": ("Glm4Moe", dict(head_dim=16, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, n_shared_experts=1,
                                first_k_dense_replace=1, n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.5,
                                use_qk_norm=True, attention_bias=True, rope_parameters=rope(partial_rotary_factor=0.5)),
                "experts chosen by sigmoid and a bias that their weights do not have, a shared expert, q/k norms"),
    "olmo3": ("Olmo3", dict(rms_norm_eps=1e-6, num_hidden_layers=4, sliding_window=4, layer_types=layer_types(4, 4),
                            num_key_value_heads=4), "olmo2 with windows"),
    "arcee": ("Arcee", dict(head_dim=16), "llama with squared ReLU and no gate"),
    "bamba": ("Bamba", dict(attn_layer_indices=[1], mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16,
                            mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=256, rope_parameters=rope(partial_rotary_factor=1.0)),
              "state-space layers around an attention layer, RoPE rows permuted there"),
    "lfm2moe": ("Lfm2Moe", dict(rms_norm_eps=None, norm_eps=1e-5, conv_L_cache=3, num_dense_layers=1, num_experts=4,
                                num_experts_per_tok=2, moe_intermediate_size=32, layer_types=["conv", "full_attention", "conv"],
                                tie_word_embeddings=True, use_expert_bias=True, norm_topk_prob=True),
                "short convolutions, experts chosen by sigmoid and bias"),
    "nemotron_h": ("NemotronH", dict(rms_norm_eps=None, layer_norm_epsilon=1e-5, num_hidden_layers=4, head_dim=16, mamba_num_heads=8,
                                     layers_block_type=["linear_attention", "mlp", "full_attention", "mlp"], mamba_head_dim=16,
                                     n_groups=2, ssm_state_size=16, conv_kernel=4, expand=2, chunk_size=256, mlp_hidden_act="relu2"),
                   "one mixer per layer: state space, attention or MLP"),
}

# 256 columns wide, as K-quants need: for the table of what quantized weights cost (tools/fidelity), not for goldens
WIDE = dict(hidden_size=256, _seed=1)
for _name, _more in (("llama", dict(head_dim=64, intermediate_size=512)), ("qwen3moe", dict(head_dim=64, moe_intermediate_size=256)),
                     ("gemma3", dict(head_dim=64, query_pre_attn_scalar=64, intermediate_size=512))):
    _stem, _opts, _text = FAMILIES[_name]
    FAMILIES["wide-" + _name] = (_stem, dict(_opts, **WIDE, **_more), _text)

COMMON = dict(vocab_size=N_VOCAB, hidden_size=N_EMBD, intermediate_size=64, num_hidden_layers=N_LAYER, num_attention_heads=N_HEAD,
              num_key_value_heads=2, max_position_embeddings=N_CTX, tie_word_embeddings=False, rms_norm_eps=1e-5, rope_parameters=rope())
IDS = dict(bos_token_id=mktiny.BOS, eos_token_id=mktiny.IM_END, pad_token_id=mktiny.PAD)


def prompt(family):
    """Bytes of the prompt: token ids are byte values.  Shorter beyond the eighteen of the plan, to keep the goldens small."""
    return list(b"The fox" if list(FAMILIES).index(family) < 18 else b"A fox")


def reference_families():
    """Those that goldens are made of."""
    return [f for f in FAMILIES if not f.startswith("wide-")]


def gelu(family):
    return FAMILIES[family][1].get("_gelu", False)


def config(family, seed=None):
    """The transformers configuration of one family."""
    stem, opts, _ = FAMILIES[family]
    if opts.get("_gpt2"):
        full = dict(vocab_size=N_VOCAB, n_positions=N_CTX, n_embd=N_EMBD, n_layer=N_LAYER, n_head=N_HEAD)
    else:
        full = {} if opts.get("_only") else dict(COMMON)
    full.update((k, v) for k, v in opts.items() if not k.startswith("_"))
    full = {k: v for k, v in full.items() if v is not None or k == "sliding_window"}
    # a copy: some configurations write into the dictionaries they are given
    made = getattr(transformers, opts.get("_config", stem + "Config"))(**copy.deepcopy(full), **IDS)
    made._attn_implementation = "eager"
    made._experts_implementation = "eager"
    return made


def model(family):
    """The transformers model, its own initial weights."""
    made = config(family)
    name = "GPT2LMHeadModel" if family == "gpt2" else FAMILIES[family][0] + "ForCausalLM"
    return getattr(transformers, name)(made).float().eval()

#!/usr/bin/env python3
"""make_embeddings.py - vectors of texts computed by Hugging Face transformers: tests/golden/embeddings.json.

Owns that file and the recipes of the tiny encoders (tools/tiny/recipes/encoder-*.json), whose tensors the converter takes
over as they are.  Per case a model, token ids and its vectors: mean, first and last row of last_hidden_state (float32,
little-endian, base64), not normalised.  Causal models are those of the other goldens.  Run by hand after run.sh has made
its environment:

    .deps/venv-reference/bin/python tools/reference/make_embeddings.py
"""
import base64
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools" / "tiny"))
import families                                                     # noqa: E402
import mktiny                                                       # noqa: E402
import weights                                                      # noqa: E402

CAUSAL = ("llama", "qwen3", "gemma2", "gpt2")
TEXTS = ("The sky is blue.", "A", "Why do cats sleep all day, and dogs at night?")
N_LAYER, N_EMBD, N_FF, N_CTX = 3, 64, 128, 256
POOLINGS = {"encoder-bert": ("mean", 1), "encoder-bert-cls": ("cls", 2), "encoder-nomic": ("mean", 1)}   # llama.cpp's numbers

# transformers' parameter: (GGUF tensor, shape, m, base); see mktiny.py
PARAMETERS = {
    "embeddings.word_embeddings.weight": ("token_embd.weight", [mktiny.N_VOCAB, N_EMBD], 128, 0.0),
    "embeddings.position_embeddings.weight": ("position_embd.weight", [N_CTX, N_EMBD], 96, 0.0),
    "embeddings.token_type_embeddings.weight": ("token_types.weight", [2, N_EMBD], 96, 0.0),
    "embeddings.LayerNorm.weight": ("token_embd_norm.weight", [N_EMBD], 64, 1.0),
    "embeddings.LayerNorm.bias": ("token_embd_norm.bias", [N_EMBD], 64, 0.0),
}
for _hf, _gguf, _rows, _cols in (("attention.self.query", "attn_q", N_EMBD, N_EMBD), ("attention.self.key", "attn_k", N_EMBD, N_EMBD),
                                 ("attention.self.value", "attn_v", N_EMBD, N_EMBD),
                                 ("attention.output.dense", "attn_output", N_EMBD, N_EMBD),
                                 ("intermediate.dense", "ffn_up", N_FF, N_EMBD), ("output.dense", "ffn_down", N_EMBD, N_FF)):
    PARAMETERS["encoder.layer.*.%s.weight" % _hf] = ("blk.*.%s.weight" % _gguf, [_rows, _cols], 67, 0.0)
    PARAMETERS["encoder.layer.*.%s.bias" % _hf] = ("blk.*.%s.bias" % _gguf, [_rows], 64, 0.0)
for _hf, _gguf in (("attention.output.LayerNorm", "attn_output_norm"), ("output.LayerNorm", "layer_output_norm")):
    PARAMETERS["encoder.layer.*.%s.weight" % _hf] = ("blk.*.%s.weight" % _gguf, [N_EMBD], 64, 1.0)
    PARAMETERS["encoder.layer.*.%s.bias" % _hf] = ("blk.*.%s.bias" % _gguf, [N_EMBD], 64, 0.0)

NOMIC = {name: entry for name, entry in PARAMETERS.items() if name.startswith("embeddings.") and "position" not in name}
for _hf, _gguf, _rows, _cols in (("self_attn.q_proj", "attn_q", N_EMBD, N_EMBD), ("self_attn.k_proj", "attn_k", N_EMBD, N_EMBD),
                                 ("self_attn.v_proj", "attn_v", N_EMBD, N_EMBD), ("self_attn.o_proj", "attn_output", N_EMBD, N_EMBD),
                                 ("mlp.gate_proj", "ffn_gate", N_FF, N_EMBD), ("mlp.up_proj", "ffn_up", N_FF, N_EMBD),
                                 ("mlp.down_proj", "ffn_down", N_EMBD, N_FF)):
    NOMIC["layers.*.%s.weight" % _hf] = ("blk.*.%s.weight" % _gguf, [_rows, _cols], 67, 0.0)
for _hf, _gguf in (("post_attention_layernorm", "attn_output_norm"), ("post_mlp_layernorm", "layer_output_norm")):
    NOMIC["layers.*.%s.weight" % _hf] = ("blk.*.%s.weight" % _gguf, [N_EMBD], 64, 1.0)
    NOMIC["layers.*.%s.bias" % _hf] = ("blk.*.%s.bias" % _gguf, [N_EMBD], 64, 0.0)


def is_nomic(family):
    return family == "encoder-nomic"


def write_recipe(family, number):
    parameters, arch = (NOMIC, "nomic-bert") if is_nomic(family) else (PARAMETERS, "bert")
    keys = [["bert.block_count", "UINT32", N_LAYER], ["bert.context_length", "UINT32", N_CTX],
            ["bert.embedding_length", "UINT32", N_EMBD], ["bert.feed_forward_length", "UINT32", N_FF],
            ["bert.attention.head_count", "UINT32", 4], ["bert.attention.layer_norm_epsilon", "FLOAT32", float(np.float32(1e-12))],
            ["bert.attention.causal", "BOOL", False], ["bert.pooling_type", "UINT32", number],
            ["tokenizer.ggml.token_type_count", "UINT32", 2]]
    keys = [[key.replace("bert.", arch + ".", 1) if key.startswith("bert.") else key, kind, value] for key, kind, value in keys]
    if is_nomic(family):
        keys.append(["nomic-bert.rope.freq_base", "FLOAT32", 1000.0])
    w = {name: [shape, m, base, ""] for name, (_, shape, m, base) in parameters.items()}
    t = {}
    for name, (tensor, shape, _, _) in parameters.items():
        ne = shape[::-1]
        strides = [[shape[0], 1]] if len(shape) == 1 else [[shape[0], shape[1]], [shape[1], 1]]
        t[tensor] = [ne, "", [[name, [0], strides]]]
    recipe = {"family": family, "arch": arch, "seed": 5, "n_layer": N_LAYER, "keys": keys, "weights": w, "tensors": t}
    path = Path(mktiny.RECIPES) / (family + ".json")
    path.write_text(json.dumps(recipe, separators=(", ", ": ")) + "\n")


def encoder(family):
    common = dict(vocab_size=mktiny.N_VOCAB, hidden_size=N_EMBD, num_hidden_layers=N_LAYER, num_attention_heads=4,
                  intermediate_size=N_FF, max_position_embeddings=N_CTX, type_vocab_size=2, layer_norm_eps=1e-12,
                  attn_implementation="eager")
    if is_nomic(family):
        model = transformers.NomicBertModel(transformers.NomicBertConfig(**common), add_pooling_layer=False).eval()
    else:
        model = transformers.BertModel(transformers.BertConfig(hidden_act="gelu", **common), add_pooling_layer=False).eval()
    state = {name: torch.tensor(np.array(mktiny.hf_weight(family, name)).reshape(entry[0]))
             for name, entry in mktiny.hf_parameters(family).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"embeddings.position_ids", "embeddings.token_type_ids"}, (missing, unexpected)
    return model, lambda ids: model(torch.tensor([ids])).last_hidden_state[0]


def causal(family):
    model = families.model(family).eval()
    weights.load(family, model)
    return model, lambda ids: model(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states[-1][0]


def code(row):
    return base64.b64encode(row.detach().float().numpy().astype("<f4").tobytes()).decode()


def main():
    torch.set_num_threads(1)
    for family, (_, number) in POOLINGS.items():
        write_recipe(family, number)
    mktiny.recipe.cache_clear()
    mktiny.hf_parameters.cache_clear()
    cases = []
    for family in list(POOLINGS) + list(CAUSAL):
        _, rows_of = (encoder if family in POOLINGS else causal)(family)
        for text in TEXTS:
            ids = list(text.encode())
            with torch.no_grad():
                rows = rows_of(ids)
            vectors = {"mean": code(rows.double().mean(0)), "cls": code(rows[0]), "last": code(rows[-1])}
            if family in POOLINGS:
                vectors = {POOLINGS[family][0]: vectors[POOLINGS[family][0]]}
            cases.append({"family": family, "text": text, "ids": ids, "vectors": vectors})
    page = {"made_by": "tools/reference/make_embeddings.py",
            "torch": importlib.metadata.version("torch"), "transformers": importlib.metadata.version("transformers"),
            "models": {f: hashlib.sha256(mktiny.gguf_bytes(f)).hexdigest() for f in list(POOLINGS) + list(CAUSAL)},
            "cases": cases}
    (ROOT / "tests" / "golden" / "embeddings.json").write_text(json.dumps(page, indent=1) + "\n")


if __name__ == "__main__":
    main()

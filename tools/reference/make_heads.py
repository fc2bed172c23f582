#!/usr/bin/env python3
"""make_heads.py - attention scores of every head of SmolLM2-135M, computed by Hugging Face transformers and NumPy.

Owns tests/golden/heads.json: token ids of random repeated sequences and of a text, and per head the mean attention on the
previous token, the first token, earlier copies of the current token, and the tokens behind these (prefix matching); from the
weights, eigenvalue positivity of OV and QK in token space, and compositions of some pairs (Elhage et al. 2021).  The
weights are those of the GGUF file, dequantized by llama.cpp's own Python package; the model is transformers' LlamaForCausalLM
in float32 with eager attention.  Nothing of Glia is used.  Run by hand after run.sh has made its environment:

    .deps/venv-reference/bin/python tools/reference/make_heads.py [MODEL.gguf]
"""
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPS = ROOT / ".deps"
sys.path.insert(0, str(DEPS / "src" / "llama.cpp" / "gguf-py"))
import gguf                                                         # noqa: E402
import numpy as np                                                  # noqa: E402
import torch                                                        # noqa: E402
from gguf.quants import dequantize                                  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM              # noqa: E402

MODEL = DEPS / "models/HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
N_SEQUENCES, HALF = 4, 32
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def unpermute(w, n_head):
    """The converter puts each head's rows in RoPE's pairs side by side; transformers has them half a head apart."""
    return w.reshape(n_head, w.shape[0] // n_head // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def load(path):
    r = gguf.GGUFReader(str(path))
    key = lambda name: r.fields["llama." + name].contents()
    config = LlamaConfig(
        hidden_size=key("embedding_length"), num_hidden_layers=key("block_count"),
        intermediate_size=key("feed_forward_length"), num_attention_heads=key("attention.head_count"),
        num_key_value_heads=key("attention.head_count_kv"), rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_theta=key("rope.freq_base"), max_position_embeddings=key("context_length"), tie_word_embeddings=True,
        vocab_size=len(r.fields["tokenizer.ggml.tokens"].data), attn_implementation="eager")
    state = {}
    for t in r.tensors:
        w = np.array(dequantize(t.data, t.tensor_type), dtype=np.float32)
        part = t.name.split(".")
        if part[0] == "blk":
            if part[2] == "attn_q":
                w = unpermute(w, config.num_attention_heads)
            if part[2] == "attn_k":
                w = unpermute(w, config.num_key_value_heads)
            name = "model.layers.%s.%s.weight" % (part[1], NAMES[part[2]])
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[part[0]]
        state[name] = torch.from_numpy(np.ascontiguousarray(w))
    model = LlamaForCausalLM(config).eval()
    missing, extra = model.load_state_dict(state, strict=False)
    assert not extra and set(missing) <= {"lm_head.weight"}, (missing, extra)
    model.tie_weights()
    return model, config


def sequences(n_vocab):
    """Ids from a linear congruence; the first 1000 ids hold control tokens and bytes."""
    state, out = 20261127, []
    for _ in range(N_SEQUENCES):
        half = []
        while len(half) < HALF:
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            token = 1000 + (state >> 33) % (n_vocab - 1000)
            if token not in half:
                half.append(int(token))
        out.append(half + half)
    return out


def scores(a, ids):
    """a: [heads, rows, columns].  Mean over the rows in which each pattern can occur, of the attention on its targets."""
    n = len(ids)
    q, k = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    ids = np.array(ids)
    same = (ids[q] == ids[k]) & (k < q)
    behind = np.zeros_like(same)
    behind[:, 1:] = same[:, :-1]
    behind &= k < q
    masks = {"previous_token": k == q - 1, "first_token": (k == 0) & (q > 0), "duplicate_token": same, "induction": behind}
    out = {}
    for name, mask in masks.items():
        rows = mask.any(axis=1)
        out[name] = (a * mask)[:, rows].sum(axis=2), rows.sum()
    return out


def from_weights(model, config):
    """Full matrices in double where a head's are d × d; nothing is reduced to the head's width but the eigenvalues."""
    heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    group = heads // config.num_key_value_heads
    get = lambda name: model.state_dict()[name].double().numpy()
    e, final = get("model.embed_tokens.weight"), get("model.norm.weight")
    read, seen = e.T @ (e * final), e.T @ e

    def head(layer, h):
        p = "model.layers.%d." % layer
        gain = get(p + "input_layernorm.weight")
        rows = lambda name, i: get(p + "self_attn.%s.weight" % name)[i * dim:(i + 1) * dim]
        o = get(p + "self_attn.o_proj.weight")[:, h * dim:(h + 1) * dim]
        return rows("q_proj", h) * gain, rows("k_proj", h // group) * gain, rows("v_proj", h // group) * gain, o

    def positivity(m):
        w = np.linalg.eigvals(m)
        return float(w.real.sum() / np.abs(w).sum())

    copying, matching = [], []
    for layer in range(config.num_hidden_layers):
        all_heads = [head(layer, h) for h in range(heads)]
        copying.append([round(positivity(v @ read @ o), 6) for q, k, v, o in all_heads])
        matching.append([round(positivity(k @ seen @ q.T), 6) for q, k, v, o in all_heads])
    pairs = []
    for a, b in (((16, 0), (17, 3)), ((16, 0), (18, 6)), ((11, 1), (17, 4)), ((2, 1), (23, 2))):
        (_, _, va, oa), (qb, kb, _, _) = head(*a), head(*b)
        ov, qk, norm = oa @ va, qb.T @ kb, np.linalg.norm
        pairs.append({"from": a, "to": b, "k": float(norm(qk @ ov) / norm(qk) / norm(ov)),
                      "q": float(norm(qk.T @ ov) / norm(qk) / norm(ov))})
    return {"copying": copying, "matching": matching, "compositions": pairs}


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    torch.set_num_threads(1)
    model, config = load(path)
    prompts, total, count = sequences(config.vocab_size), {}, {}
    with torch.no_grad():
        for ids in prompts:
            attention = model(torch.tensor([ids]), output_attentions=True).attentions
            for layer, a in enumerate(attention):
                for name, (s, n) in scores(a[0].double().numpy(), ids).items():
                    total.setdefault(name, np.zeros((config.num_hidden_layers, config.num_attention_heads)))
                    total[name][layer] += s.sum(axis=1)
                    if layer == 0:
                        count[name] = count.get(name, 0) + int(n)
    out = {"made_by": "tools/reference/make_heads.py",
           "packages": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy")},
           "model": path.name, "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "prompts": prompts,
           "scores": {name: [[round(float(x), 6) for x in row] for row in total[name] / count[name]] for name in total},
           "rows": count, "weights": from_weights(model, config)}
    (ROOT / "tests" / "golden" / "heads.json").write_text(json.dumps(out) + "\n")
    for name in out["scores"]:
        best = sorted(((x, il, h) for il, row in enumerate(out["scores"][name]) for h, x in enumerate(row)), reverse=True)
        print(name, [("L%dH%d" % (il, h), x) for x, il, h in best[:6]])


if __name__ == "__main__":
    main()

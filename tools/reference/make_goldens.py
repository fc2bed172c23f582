#!/usr/bin/env python3
"""make_goldens.py - reference activations of the tiny models, computed by Hugging Face transformers.

Owns the contents of tests/golden: two safetensors files per family and MANIFEST.json.  Shares only the
weights with tools/tiny/mktiny.py; the arithmetic is transformers' own (float32, eager attention, CPU, one
thread).  Before anything is written it proves that mktiny's GGUF is what llama.cpp's converter makes of
the same model.  Run it through run.sh; README.md describes files and points.
"""
import argparse
import contextlib
import datetime
import hashlib
import importlib
import importlib.metadata
import io
import json
import logging
import os
import platform
import re
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools" / "tiny"))
import mktiny                                                       # noqa: E402
from mktiny import FAMILIES, N_CTX, N_EMBD, N_HEAD, N_LAYER, N_VOCAB  # noqa: E402

PROMPT = list(b"The fox ran ")      # token id = byte value
N_GENERATE = 8                      # greedy tokens; the last one is never fed back
MIN_MARGIN = 0.01                   # least top-1 logit lead: greedy text must not hang on rounding
MAX_BYTES = 300_000
PACKAGES = ("torch", "transformers", "safetensors", "numpy")

# name -> file; order = order inside the file.  Shapes: README.md.
OUTER = ("resid_pre", "attn_in", "q", "k", "value", "z", "attn_out", "attn_out_post", "resid_mid",
         "mlp_in", "mlp_act", "mlp_out", "mlp_out_post", "resid_post")
INNER = ("q_rot", "k_rot", "attn_scores", "attn_probs", "mlp_pre", "linear")
MODULES = {"gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "gpt2": ("GPT2Config", "GPT2LMHeadModel")}


# ------------------------------------------------------------------------------------------ model

def hf_config(family):
    f = FAMILIES[family]
    ids = dict(vocab_size=N_VOCAB, bos_token_id=mktiny.BOS, eos_token_id=mktiny.IM_END,
               pad_token_id=mktiny.PAD)
    if family == "gpt2":
        return transformers.GPT2Config(
            n_positions=N_CTX, n_embd=N_EMBD, n_layer=N_LAYER, n_head=N_HEAD, n_inner=f["n_ff"],
            layer_norm_epsilon=f["eps"], activation_function="gelu_new", **ids)
    opts = dict(hidden_size=N_EMBD, intermediate_size=f["n_ff"], num_hidden_layers=N_LAYER,
                num_attention_heads=N_HEAD, num_key_value_heads=f["n_kv"], rms_norm_eps=f["eps"],
                max_position_embeddings=N_CTX, tie_word_embeddings=family.startswith("gemma"),
                rope_parameters={"rope_type": "default", "rope_theta": f["theta"]}, **ids)
    if family != "qwen2":
        opts.update(head_dim=f["head_dim"])
    if "swa" in f:
        opts.update(sliding_window=f["swa"], query_pre_attn_scalar=f["head_dim"],
                    layer_types=["sliding_attention" if (il + 1) % f["swa_pattern"] else "full_attention"
                                 for il in range(N_LAYER)])
    if family == "gemma2":
        opts.update(attn_logit_softcapping=f["attn_softcap"], final_logit_softcapping=f["final_softcap"])
    if family == "gemma3":
        opts.update(rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": f["theta"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": f["theta_swa"]}})
    name = MODULES.get(family, (family.capitalize() + "Config",))[0]
    return getattr(transformers, name)(**opts)


def hf_model(family):
    """The transformers model with mktiny's weights in place."""
    config = hf_config(family)
    config._attn_implementation = "eager"
    name = MODULES.get(family, (None, family.capitalize() + "ForCausalLM"))[1]
    model = getattr(transformers, name)(config).float().eval()
    state = {}
    for key, shape in mktiny.hf_shapes(family):
        state[key] = torch.tensor(np.array(mktiny.hf_weight(family, key, shape)).reshape(shape))
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert set(missing) <= tied and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


# ---------------------------------------------------------------------------------------- recorder

def split_heads(t):
    """[1, head, token, head_dim] -> [token, head * head_dim], index h * head_dim + i"""
    return t[0].transpose(0, 1).reshape(t.shape[2], -1)


def llama_order(t, head_dim):
    """Columns of each head from (first half, second half) to pairs, as the converter permutes q and k."""
    t = t.reshape(t.shape[0], -1, 2, head_dim // 2)
    return t.transpose(2, 3).reshape(t.shape[0], -1)


def record(family, model, ids):
    """{point or point.layer: float32 array} of one forward pass over ids, without cache."""
    gpt2, gemma, points = family == "gpt2", family.startswith("gemma"), {}
    trunk = model.transformer if gpt2 else model.model
    layers = trunk.h if gpt2 else trunk.layers
    code = importlib.import_module("transformers.models.%s.modeling_%s" % (family, family))
    handles, current = [], [0]

    def put(point, t, il=None):
        name = point if il is None else "%s.%d" % (point, il)
        assert name not in points, name
        points[name] = t.detach().clone()

    def rows(value):
        value = value[0] if isinstance(value, tuple) else value
        return value.reshape(-1, value.shape[-1])

    def on_input(module, *names, il=None):
        def hook(_, args):
            for name in names:
                put(name, rows(args[0]), il)
        handles.append(module.register_forward_pre_hook(hook))

    def on_output(module, *names, il=None):
        def hook(_, args, out):
            for name in names:
                put(name, rows(out), il)
        handles.append(module.register_forward_hook(hook))

    for il, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(lambda *_, il=il: current.__setitem__(0, il)))
        on_input(layer, "resid_pre", il=il)
        on_output(layer, "resid_post", il=il)
        attn = layer.attn if gpt2 else layer.self_attn
        o_proj, down = (attn.c_proj, layer.mlp.c_proj) if gpt2 else (attn.o_proj, layer.mlp.down_proj)
        on_output(layer.ln_1 if gpt2 else layer.input_layernorm, "attn_in", il=il)
        mlp_norm = (layer.ln_2 if gpt2 else layer.pre_feedforward_layernorm if gemma
                    else layer.post_attention_layernorm)
        on_input(mlp_norm, "resid_mid", il=il)
        on_output(mlp_norm, "mlp_in", il=il)
        on_input(o_proj, "z", il=il)
        on_input(down, "mlp_act", il=il)
        if gemma:
            on_output(o_proj, "attn_out", il=il)
            on_output(layer.post_attention_layernorm, "attn_out_post", il=il)
            on_output(down, "mlp_out", il=il)
            on_output(layer.post_feedforward_layernorm, "mlp_out_post", il=il)
        else:
            on_output(o_proj, "attn_out", "attn_out_post", il=il)
            on_output(down, "mlp_out", "mlp_out_post", il=il)
        on_output(layer.mlp.c_fc if gpt2 else layer.mlp.gate_proj, "mlp_pre", il=il)
        if not gpt2:
            on_output(layer.mlp.up_proj, "linear", il=il)
    on_output(trunk.ln_f if gpt2 else trunk.norm, "final_norm")

    def in_gguf_order(t):
        t = split_heads(t)
        return llama_order(t, FAMILIES[family]["head_dim"]) if family == "llama" else t

    def rope(q, k, *args, **kwargs):
        put("q", in_gguf_order(q), current[0])
        put("k", in_gguf_order(k), current[0])
        q, k = plain_rope(q, k, *args, **kwargs)
        put("q_rot", in_gguf_order(q), current[0])
        put("k_rot", in_gguf_order(k), current[0])
        return q, k

    def attention(module, query, key, value, mask, scaling=None, softcap=None, **kwargs):
        il = module.layer_idx
        assert il == current[0]
        if gpt2:
            put("q", split_heads(query), il)
            put("k", split_heads(key), il)
        put("value", split_heads(value), il)
        if softcap is not None:
            kwargs["softcap"] = softcap
        out, probs = plain_attention(module, query, key, value, mask, scaling=scaling, **kwargs)
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(2, 3) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        visible = mask[0] == 0
        assert bool((probs[0] * ~visible == 0).all())
        put("attn_scores", scores[0] * visible, il)
        put("attn_probs", probs[0], il)
        return out, probs

    plain_attention, plain_rope = code.eager_attention_forward, getattr(code, "apply_rotary_pos_emb", None)
    code.eager_attention_forward = attention
    if plain_rope:
        code.apply_rotary_pos_emb = rope
    try:
        with torch.no_grad():
            put("embeddings", model.get_input_embeddings().weight[torch.tensor(ids)])
            put("lm_head", rows(model(torch.tensor([ids]), use_cache=False).logits))
    finally:
        code.eager_attention_forward = plain_attention
        if plain_rope:
            code.apply_rotary_pos_emb = plain_rope
        for handle in handles:
            handle.remove()

    inner = [p for p in INNER if not (gpt2 and p in ("q_rot", "k_rot", "linear"))]
    want = {"embeddings", "final_norm", "lm_head"}
    want |= {"%s.%d" % (p, il) for p in OUTER + tuple(inner) for il in range(N_LAYER)}
    assert set(points) == want, set(points) ^ want
    return {name: np.ascontiguousarray(t.numpy(), dtype="<f4") for name, t in points.items()}


def greedy(model, ids, n):
    """(n greedy ids, the lead of each over the runner-up) with a KV cache."""
    out, margins, cache, feed = [], [], None, torch.tensor([ids])
    with torch.no_grad():
        while len(out) < n:
            step = model(feed, past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            top = step.logits[0, -1].topk(2)
            out.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            feed = torch.tensor([[out[-1]]])
    return out, margins


# ------------------------------------------------------------------------------- proof of the GGUF

def read_gguf(gguf, path):
    """({key: (types, value)}, {tensor: (ne, type, bytes)})"""
    reader = gguf.GGUFReader(path)
    fields = {name: ([t.name for t in f.types[:2]], f.contents()) for name, f in reader.fields.items()
              if not name.startswith("GGUF.")}
    tensors = {t.name: ([int(n) for n in t.shape], t.tensor_type.name, t.data.tobytes())
               for t in reader.tensors}
    return fields, tensors


def convert(family, model, gguf, conversion, workdir):
    """Write workdir/converted.gguf with llama.cpp's converter; only its tokenizer step is replaced."""
    base = conversion.get_model_class(type(model).__name__)

    class Converter(base):
        model_arch = base.model_arch

        def set_vocab(self):
            tokens, types, merges = mktiny.tokenizer()
            w = self.gguf_writer
            w.add_tokenizer_model("gpt2")
            w.add_tokenizer_pre("gpt-2")
            w.add_token_list(tokens)
            w.add_token_types(types)
            w.add_token_merges(merges)
            w.add_bos_token_id(mktiny.BOS)
            w.add_eos_token_id(mktiny.IM_END)
            w.add_pad_token_id(mktiny.PAD)
            w.add_add_bos_token(False)
            w.add_add_eos_token(False)
            w.add_chat_template(mktiny.CHAT_TEMPLATE)

    hf_dir = Path(workdir) / "hf"
    model.save_pretrained(hf_dir)
    # gemma3's converter counts the tokens here to drop padding rows of the embedding
    vocab = {token: i for i, token in enumerate(mktiny.tokenizer()[0])}
    (hf_dir / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    out = Path(workdir) / "converted.gguf"
    converter = Converter(hf_dir, gguf.LlamaFileType.ALL_F32, out)
    if family == "gpt2":
        converter.hparams["n_ctx"] = N_CTX          # transformers 5 dropped it, the converter reads it
    with contextlib.redirect_stderr(io.StringIO()):
        converter.write()
    return out


def prove(family, model, llama_cpp):
    """Compare mktiny's file with the converter's.  Raises on a difference, returns a one-line verdict."""
    for path in (llama_cpp, llama_cpp / "gguf-py"):
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
    gguf, conversion = importlib.import_module("gguf"), importlib.import_module("conversion")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as workdir:
        mine_path = Path(workdir) / "mine.gguf"
        mktiny.write_gguf(family, mine_path)
        mine_kv, mine = read_gguf(gguf, mine_path)
        their_kv, theirs = read_gguf(gguf, convert(family, model, gguf, conversion, workdir))
    assert list(sorted(mine)) == list(sorted(theirs)), set(mine) ^ set(theirs)
    for name in theirs:
        assert mine[name] == theirs[name], "%s: tensor %s differs" % (family, name)
    ours_only = {"gemma3.attention.sliding_window_pattern"} if family == "gemma3" else set()
    free = {"general.name", "general.size_label", "general.basename", "general.license", "general.finetune",
            "general.version", "general.tags", "general.languages"}     # model card, not arithmetic
    differ = {key for key in (set(mine_kv) | set(their_kv)) - free if mine_kv.get(key) != their_kv.get(key)}
    assert differ == ours_only, {key: (mine_kv.get(key), their_kv.get(key)) for key in differ ^ ours_only}
    return "%d tensors and %d keys equal to the converter's%s" % (
        len(theirs), len(set(their_kv) - free),
        "; ours only: " + ", ".join(sorted(ours_only)) if ours_only else "")


# ------------------------------------------------------------------------------------------ files

def safetensors_bytes(tensors, meta):
    """F32 tensors in the given order behind a JSON header padded with spaces to 8 bytes."""
    header, at = {"__metadata__": meta}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(a.tobytes() for a in tensors.values())


def points_before_gelu(family, names):
    """Tensors of one file that no GELU precedes."""
    if not FAMILIES[family]["gelu"]:
        return list(names)
    after = ("mlp_act", "mlp_out", "mlp_out_post", "resid_post")
    return [n for n in names if n == "embeddings" or n.endswith(".0") and n.split(".")[0] not in after]


def make_family(family, out_dir, llama_cpp):
    """Write the two files of one family and return its manifest entry."""
    model = hf_model(family)
    verdict = prove(family, model, llama_cpp)
    generated, margins = greedy(model, PROMPT, N_GENERATE)
    assert min(margins) >= MIN_MARGIN, "%s: margin %g, change the seed in mktiny.py" % (family, min(margins))
    ids = PROMPT + generated[:-1]
    points = record(family, model, ids)
    assert list(points["lm_head"][len(PROMPT) - 1:].argmax(1)) == generated, "cache and no cache disagree"

    exact = {n: a.astype("f8") for n, a in points.items()}
    for a, b, c in (("resid_pre", "attn_out_post", "resid_mid"), ("resid_mid", "mlp_out_post", "resid_post")):
        for il in range(N_LAYER):
            gap = exact["%s.%d" % (a, il)] + exact["%s.%d" % (b, il)] - exact["%s.%d" % (c, il)]
            assert abs(gap).max() < 1e-5, (family, c, il)

    gguf_sha256 = hashlib.sha256(mktiny.gguf_bytes(family)).hexdigest()
    meta = {"format": "glia-golden-1", "family": family, "prompt_ids": json.dumps(PROMPT),
            "generated_ids": json.dumps(generated), "gguf_sha256": gguf_sha256}
    outer = ["embeddings"] + ["%s.%d" % (p, il) for il in range(N_LAYER) for p in OUTER]
    outer += ["final_norm", "lm_head"]
    inner = ["%s.%d" % (p, il) for il in range(N_LAYER) for p in INNER if "%s.%d" % (p, il) in points]
    files = []
    for file, names in ((family + ".safetensors", outer), (family + ".inner.safetensors", inner)):
        raw = safetensors_bytes({n: points[n] for n in names}, meta)
        assert len(raw) <= MAX_BYTES, "%s: %d bytes" % (file, len(raw))
        (out_dir / file).write_bytes(raw)
        files.append({"file": file, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(),
                      "tensors": len(names)})
    f = FAMILIES[family]
    every = outer + inner
    before = points_before_gelu(family, every)
    if f["gelu"]:
        tolerance = {"before_gelu": 1e-5, "after_gelu": 1e-3, "before_gelu_tensors": before}
    else:
        assert len(before) == len(every)
        tolerance = {"all": 1e-5}
    print("%-7s %s; greedy %r, least margin %.3f; %s" % (
        family, verdict, bytes(generated), min(margins), ", ".join("%(file)s %(bytes)d" % x for x in files)))
    return {"family": family, "seed": f["seed"], "files": files, "gguf_sha256": gguf_sha256,
            "prompt_ids": PROMPT, "generated_ids": generated, "margins": [round(m, 4) for m in margins],
            "rows": len(ids), "n_layer": N_LAYER, "n_embd": N_EMBD, "n_head": N_HEAD, "n_kv": f["n_kv"],
            "head_dim": f["head_dim"], "n_ff": f["n_ff"], "n_vocab": N_VOCAB, "tolerance": tolerance}


def manifest_text(manifest):
    """Indented JSON with lists of scalars on one line."""
    flat = lambda m: "[" + " ".join(m.group(1).split()) + "]"       # no string here holds a space
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", flat, json.dumps(manifest, indent=1)) + "\n"


def main():
    ap = argparse.ArgumentParser(description="Make tests/golden with Hugging Face transformers.")
    ap.add_argument("--out", type=Path, default=ROOT / "tests" / "golden")
    ap.add_argument("--llama-cpp", type=Path, default=ROOT / ".deps" / "src" / "llama.cpp",
                    help="source tree with conversion/ and gguf-py/")
    args = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    families = [make_family(family, args.out, args.llama_cpp) for family in FAMILIES]
    manifest = {
        "format": "glia-golden-1",
        "made_by": "tools/reference/run.sh",
        "date": datetime.date.today().isoformat(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "arithmetic": "float32, eager attention, CPU, one thread, one pass without cache",
        "error": "max |got - golden| / max |golden| over one tensor",
        "families": families,
    }
    part = args.out / "MANIFEST.json.part"
    part.write_text(manifest_text(manifest))
    assert json.loads(part.read_text()) == manifest
    os.replace(part, args.out / "MANIFEST.json")


if __name__ == "__main__":
    main()

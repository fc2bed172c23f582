#!/usr/bin/env python3
"""make_sweeps.py - activation patching and ablation over layers, positions and heads in Hugging Face transformers.

Owns tests/golden/sweeps.json: per case the body of a sweep and the number of every place, computed one place at a time with
forward hooks (Edited of make_edits.py) and the metrics written here in double.  Run by hand as make_edits.py.
"""
import hashlib
import importlib.metadata
import json
import sys

import torch

sys.dont_write_bytecode = True
from make_edits import Edited, ROOT                                 # noqa: E402
import families                                                     # noqa: E402
import mktiny                                                       # noqa: E402
import weights                                                      # noqa: E402

ANSWER, WRONG = 65, [97, 98]


def metric(name, logits, clean):
    x = logits.double()
    p = torch.log_softmax(x, -1)
    if name == "logit_difference":
        return float(x[ANSWER] - x[WRONG].mean())
    if name == "probability":
        return float(p[ANSWER].exp())
    if name == "kl":
        q = torch.log_softmax(clean.double(), -1)
        return float((q.exp() * (q - p)).sum())
    if name == "rank":
        return float((x > x[ANSWER]).sum())
    raise ValueError(name)


def run(edited, body):
    config = edited.model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    op, clean, corrupted = body["op"], body["clean"], body.get("corrupted")
    n, layers, heads = len(clean), len(edited.layers), config.num_attention_heads
    base = corrupted if op == "denoise" else clean
    other = corrupted if op == "noise" else clean
    of_clean = edited.logits(clean, [])[-1]

    def value(e):
        how = {"denoise": {"op": "patch", "source": {"prompt": other}}, "noise": {"op": "patch", "source": {"prompt": other}},
               "zero": {"op": "zero"}, "mean": {"op": "mean"}}[op]
        return metric(body["metric"], edited.logits(base, [dict(e, _head_dim=head, **how)])[-1], of_clean)

    out = {"clean": metric(body["metric"], of_clean, of_clean), "sweeps": []}
    if corrupted:
        out["corrupted"] = metric(body["metric"], edited.logits(corrupted, [])[-1], of_clean)
    for s in body["sweeps"]:
        c, by = s["component"], s["by"]
        if by == "position":
            v = [[value({"layer": l, "component": c, "positions": [p]}) for p in range(n)] for l in range(layers)]
        elif by == "head":
            v = [[value({"layer": l, "component": c, "heads": [h]}) for h in range(heads)] for l in range(layers)]
        else:
            v = [value({"layer": l, "component": c}) for l in range(layers)]
        out["sweeps"].append(v)
    return out


def bodies(prompt):
    other = list(prompt)
    other[2], other[4] = 106, 112
    both = {"clean": prompt, "corrupted": other}
    yield dict(both, op="denoise", metric="logit_difference", answer=ANSWER, wrong=WRONG,
               sweeps=[{"component": "resid_pre", "by": "position"}, {"component": "attn_out", "by": "position"},
                       {"component": "mlp_out", "by": "position"}, {"component": "z", "by": "head"}])
    yield dict(both, op="noise", metric="kl", sweeps=[{"component": "z", "by": "head"}, {"component": "mlp_out", "by": "position"}])
    yield {"clean": prompt, "op": "mean", "metric": "probability", "answer": ANSWER,
           "sweeps": [{"component": "z", "by": "head"}, {"component": "mlp_out", "by": "layer"}]}
    yield {"clean": prompt, "op": "zero", "metric": "logit_difference", "answer": ANSWER, "wrong": WRONG,
           "sweeps": [{"component": "z", "by": "head"}, {"component": "attn_out", "by": "layer"}]}


def main():
    torch.set_num_threads(1)
    out = {"format": "glia-sweeps-1", "made_by": "tools/reference/make_sweeps.py",
           "packages": {p: importlib.metadata.version(p) for p in ("torch", "transformers")},
           "arithmetic": "float32, eager attention, CPU, one thread; metrics in double", "families": []}
    for family in ("llama", "qwen3", "gpt2"):
        model = families.model(family)
        weights.load(family, model)
        edited = Edited(family, model)
        prompt = families.prompt(family)
        cases = [{"body": b, "result": run(edited, b)} for b in bodies(prompt)]
        out["families"].append({"family": family, "gguf_sha256": hashlib.sha256(mktiny.gguf_bytes(family)).hexdigest(),
                                "tolerance": 5e-3 if families.gelu(family) else 1e-3, "cases": cases})
        print(family)
    (ROOT / "tests" / "golden" / "sweeps.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

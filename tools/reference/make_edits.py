#!/usr/bin/env python3
"""make_edits.py - what interventions make of the logits, computed by Hugging Face transformers with forward hooks.

Owns tests/golden/edits.json: per case the interventions as a request names them and the logits of the last two rows of the
prompt (float32, little-endian, base64).  The arithmetic of each operation is written here in torch, in double; Glia's is in src/tap/edit.c.  Weights come from
tools/tiny/mktiny.py like those of the other goldens.  Run by hand after run.sh has made its environment:

    .deps/venv-reference/bin/python tools/reference/make_edits.py
"""
import base64
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools" / "tiny"))
import families                                                     # noqa: E402
import mktiny                                                       # noqa: E402
import record                                                       # noqa: E402
import weights                                                      # noqa: E402

FAMILIES = ("llama", "qwen3", "mixtral", "gemma3", "gpt2")
OTHER = list(b"A dog r")   # the run that is patched from: as many tokens as the prompt
ROWS = 2                   # of logits, from the end


def vector(n, k):
    """Numbers with no pattern that a mistake could share: quadratic residues."""
    return [round(((i * i * 7 + 13 * i * k + 5 * k) % 101 - 50) / 25, 4) for i in range(n)]


def attr(x, path):
    for name in path.split("."):
        x = getattr(x, name)
    return x


class Edited:
    """A model with forward hooks that apply interventions; everything from the request's own fields."""

    def __init__(self, family, model):
        self.places = dict(record.LLAMA, **record.PLACES.get(family, {}))
        self.model, self.handles = model, []
        self.layers = attr(model, self.places["layers"])

    def module(self, point, layer):
        """(module, whether its input is meant)"""
        block, p = self.layers[layer], self.places
        mlp = getattr(block, p["mlp"])
        return {"resid_post": lambda: (block, False),
                "resid_pre": lambda: (block, True),
                "attn_out": lambda: (getattr(block, p["attn"]), False),
                "mlp_out": lambda: (mlp, False),
                "z": lambda: (getattr(getattr(block, p["attn"]), p["o"]), True),
                "mlp_act": lambda: (getattr(mlp, p["down"]), True)}[point]()

    def knock_out(self, e):
        """Positions attended to leave the mask of some rows and heads."""
        def on_input(_, args, kwargs):
            mask = kwargs["attention_mask"]
            n = mask.shape[-1]
            heads = self.model.config.num_attention_heads
            mask = mask.expand(1, heads, mask.shape[-2], n).clone()
            to = e.get("to", "0:%d" % n)
            to = list(range(*map(int, to.split(":")))) if isinstance(to, str) else to
            for row in e.get("positions", range(n)):
                for head in e.get("heads", range(heads)):
                    mask[0, head, row, to] = float("-inf")
            return args, dict(kwargs, attention_mask=mask)
        attn = getattr(self.layers[e["layer"]], self.places["attn"])
        self.handles.append(attn.register_forward_pre_hook(on_input, with_kwargs=True))

    def add(self, e):
        if e["op"] == "knockout":
            return self.knock_out(e)
        module, is_input = self.module(e["component"], e["layer"])

        def change(x):
            y = x.clone()
            flat = y.reshape(-1, y.shape[-1])
            apply(e, flat)
            return flat.reshape(x.shape)

        def on_output(_, args, out):
            return (change(out[0]),) + tuple(out[1:]) if isinstance(out, tuple) else change(out)

        def on_input(_, args):
            return (change(args[0]),) + tuple(args[1:])

        self.handles.append(module.register_forward_pre_hook(on_input) if is_input else module.register_forward_hook(on_output))

    def logits(self, ids, edits):
        for e in [self.with_vector(e, ids) for e in edits]:
            self.add(e)
        with torch.no_grad():
            out = self.model(torch.tensor([ids]), use_cache=False).logits[0]
        for h in self.handles:
            h.remove()
        self.handles = []
        return out

    def with_vector(self, e, ids):
        """What an edit takes from another run, as its vector: rows paired as the request pairs them, or their mean."""
        if e["op"] not in ("mean", "patch") or "vector" in e:
            return e
        source = e.get("source", {"prompt": ids})
        rows = self.output(source["prompt"], e["component"], e["layer"]).double()
        rows = rows[:, columns(e, rows.shape[1])]
        if e["op"] == "mean":
            at = source.get("positions", list(range(rows.shape[0])))
            return dict(e, op="set", vector=rows[at].mean(0).tolist())
        mine = e.get("positions", list(range(len(ids))))
        return dict(e, positions=mine, vector=rows[[paired(ids, source["prompt"])[i] for i in mine]].tolist())

    def output(self, ids, point, layer):
        kept = {}
        module, is_input = self.module(point, layer)

        def keep(_, args, out):
            x = args[0] if is_input else out[0] if isinstance(out, tuple) else out
            kept["x"] = x.detach().reshape(-1, x.shape[-1]).clone()
        handle = module.register_forward_hook(keep)
        with torch.no_grad():
            self.model(torch.tensor([ids]), use_cache=False)
        handle.remove()
        return kept["x"]


def paired(a, b):
    """The index in b of each token of a: the same where both are equally long, else in the common beginning and end."""
    if len(a) == len(b):
        return list(range(len(a)))
    head = next((i for i in range(min(len(a), len(b))) if a[i] != b[i]), min(len(a), len(b)))
    return [i if i < head else i + len(b) - len(a) for i in range(len(a))]


def columns(e, width):
    head = e.get("_head_dim")
    cols = [h * head + i for h in e["heads"] for i in range(head)] if "heads" in e else list(range(width))
    if "channels" in e:
        cols = [cols[c] for c in e["channels"]]
    return cols


def apply(e, rows):
    at = e.get("positions", list(range(rows.shape[0])))
    cols = columns(e, rows.shape[1])
    v = torch.tensor(e.get("vector", e.get("direction", [0.0])), dtype=torch.float64)
    k = e.get("strength", 1.0)
    for i, pos in enumerate(at):
        x = rows[pos, cols].double()
        if "when" in e:
            d = torch.tensor(e["when"]["direction"], dtype=torch.float64)
            c = float(x @ (d / d.norm()))
            if not (c > e["when"]["above"] if "above" in e["when"] else c < e["when"]["below"]):
                continue
        unit = v / v.norm() if float(v.norm()) else v
        if e["op"] == "add":
            x = x + k * v
        elif e["op"] == "scale":
            x = k * x
        elif e["op"] in ("set", "patch"):
            x = v[i] if v.dim() == 2 else v
        elif e["op"] == "zero":
            x = torch.zeros_like(x)
        elif e["op"] == "project_out":
            x = x - k * (x @ unit) * unit
        elif e["op"] == "clamp":
            c = float(x @ unit)
            x = x + (min(max(c, e["min"]), e["max"]) - c) * unit
        else:
            raise ValueError(e["op"])
        rows[pos, cols] = x.float()


def cases(family, model, edited):
    config = model.config
    d = config.hidden_size
    ff = edited.module("mlp_act", 1)[0].weight.shape[0 if family == "gpt2" else 1] if family != "mixtral" else 0
    head = getattr(config, "head_dim", None) or d // config.num_attention_heads
    n = len(families.prompt(family))
    other = edited.output(OTHER[:n], "resid_post", 1)
    yield [{"layer": 1, "component": "resid_post", "op": "add", "strength": 3, "vector": vector(d, 1)}]
    yield [{"layer": 0, "component": "attn_out", "op": "zero"}]
    yield [{"layer": 1, "component": "attn_out", "op": "scale", "strength": -2.5, "positions": [1, n - 1]}]
    yield [{"layer": 0, "component": "resid_post", "op": "project_out", "direction": vector(d, 2), "positions": [2, 3, n - 1]}]
    yield [{"layer": 1, "component": "mlp_out", "op": "clamp", "direction": vector(d, 3), "min": 1.5, "max": 2}]
    yield [{"layer": 2, "component": "z", "op": "zero", "heads": [1]}]
    yield [{"layer": 1, "component": "z", "op": "add", "heads": [2, 0], "channels": [1, head + 3], "vector": [4, -3]}]
    yield [{"layer": 1, "component": "resid_post", "op": "patch", "positions": list(range(1, n)),
            "vector": [[float("%.9g" % x) for x in row] for row in other[1:].tolist()]}]
    yield [{"layer": 0, "component": "mlp_out", "op": "set", "vector": vector(d, 4), "positions": [0, n - 1]}]
    yield [{"layer": 1, "component": "resid_post", "op": "add", "strength": 2, "vector": vector(d, 5),
            "when": {"direction": vector(d, 6), "above": 0.0}}]
    yield [{"layer": 1, "component": "resid_post", "op": "add", "vector": vector(d, 7)},
           {"layer": 1, "component": "resid_post", "op": "scale", "strength": 0.5},
           {"layer": 0, "component": "attn_out", "op": "scale", "strength": 2}]
    yield [{"layer": 1, "op": "knockout", "positions": [3, n - 1], "to": [0, 1], "heads": [0, 2]}]
    yield [{"layer": 0, "op": "knockout", "positions": [n - 2, n - 1], "to": "1:4"},
           {"layer": 2, "op": "knockout", "positions": [n - 1], "to": [0], "heads": [1]}]
    yield [{"layer": 1, "component": "mlp_out", "op": "mean"}]
    yield [{"layer": 1, "component": "z", "op": "mean", "heads": [1], "source": {"prompt": OTHER[:n], "positions": [1, 2, 4]}}]
    yield [{"layer": 0, "component": "resid_post", "op": "patch", "positions": [2, n - 1], "source": {"prompt": OTHER[:n]}}]
    prompt = families.prompt(family)
    longer = prompt[:3] + [101, 32] + prompt[3:]
    yield [{"layer": 1, "component": "z", "op": "patch", "heads": [0, 3], "source": {"prompt": longer}},
           {"layer": 2, "component": "mlp_out", "op": "scale", "strength": 0.5}]
    if ff:
        yield [{"layer": 1, "component": "mlp_act", "op": "zero", "channels": list(range(0, ff, 3))}]


def main():
    torch.set_num_threads(1)
    out = {"format": "glia-edits-1", "made_by": "tools/reference/make_edits.py",
           "packages": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "numpy")},
           "arithmetic": "float32, eager attention, CPU, one thread, one pass without cache; operations in double",
           "error": "max |got - golden| / max |golden| over the rows of a case", "families": []}
    for family in FAMILIES:
        model = families.model(family)
        weights.load(family, model)
        edited = Edited(family, model)
        prompt = families.prompt(family)
        plain = edited.logits(prompt, [])
        entries = []
        for edits in cases(family, model, edited):
            config = model.config
            head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            logits = edited.logits(prompt, [dict(e, _head_dim=head) for e in edits])
            moved = float((logits - plain)[-ROWS:].abs().max() / plain[-ROWS:].abs().max())
            assert moved > 1e-2, (family, edits[0]["op"], moved) # a case that changes nothing shows nothing
            entries.append({"interventions": edits, "logits": base64.b64encode(logits[-ROWS:].numpy().astype("<f4").tobytes()).decode()})
        out["families"].append({"family": family, "gguf_sha256": hashlib.sha256(mktiny.gguf_bytes(family)).hexdigest(),
                                "tolerance": 1e-3 if families.gelu(family) else 1e-4, "prompt_ids": prompt, "cases": entries})
        print("%s: %d cases" % (family, len(entries)))
    (ROOT / "tests" / "golden" / "edits.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

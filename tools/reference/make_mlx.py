#!/usr/bin/env python3
"""make_mlx.py - a second, independent reference: the same tiny models in mlx-lm, on the CPU.

Owns <family>.mlx.safetensors in tests/golden and the list "second" of its manifest.  Shares weights (mktiny.py) and
configuration (families.py) with the first reference, and no arithmetic.  Run it through run.sh --mlx.
"""
import hashlib
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools" / "tiny"))
import families                                                     # noqa: E402
import mktiny                                                       # noqa: E402
from files import manifest_text, safetensors_bytes, told_once       # noqa: E402

MODULES = {"qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
GOLDEN = ROOT / "tests" / "golden"


class Listen:
    """A module that writes down what goes in and out."""

    def __init__(self, module, on_input=None, on_output=None):
        self.module, self.on_input, self.on_output = module, on_input, on_output

    def __call__(self, x, *args, **kwargs):
        out = self.module(x, *args, **kwargs)
        for name, value in ((self.on_input, x), (self.on_output, out)):
            for one in name or ():
                POINTS[one] = np.array(value, dtype="<f4").reshape(-1, value.shape[-1])
        return out

    def __getattr__(self, name):        # others ask a layer for its weights
        return getattr(self.module, name)


POINTS = {}


def checkpoint(family):
    """(name, array) as in a Hugging Face checkpoint: experts one by one."""
    for name, (shape, _, _, _) in mktiny.hf_parameters(family).items():
        values = np.array(mktiny.hf_weight(family, name), dtype="<f4").reshape(shape)
        if name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(values):
                for part, half in zip(("gate_proj", "up_proj"), np.split(both, 2)):
                    yield name.replace("gate_up_proj", "%d.%s.weight" % (e, part)), mx.array(half)
        elif name.endswith("experts.down_proj"):
            for e, down in enumerate(values):
                yield name.replace("down_proj", "%d.down_proj.weight" % e), mx.array(down)
        else:
            yield name, mx.array(values)


def build(family):
    code = importlib.import_module("mlx_lm.models." + MODULES[family])
    config = families.config(family).to_dict()
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    config.setdefault("num_experts", config.get("num_local_experts"))   # transformers saves it under another name
    model = code.Model(code.ModelArgs.from_dict(config))
    model.load_weights(list(model.sanitize(dict(checkpoint(family))).items()), strict=True)
    return model


def record(family, ids):
    model = build(family)
    POINTS.clear()
    inner = model.model
    for il, layer in enumerate(inner.layers):
        n = lambda *points: ["%s.%d" % (p, il) for p in points]
        layer.self_attn.o_proj = Listen(layer.self_attn.o_proj, n("z"), n("attn_out", "attn_out_post"))
        layer.input_layernorm = Listen(layer.input_layernorm, n("resid_pre"), n("attn_in"))
        layer.post_attention_layernorm = Listen(layer.post_attention_layernorm, n("resid_mid"), n("mlp_in"))
        if family == "qwen3moe":
            layer.mlp.gate = Listen(layer.mlp.gate, None, n("router_logits"))
        layer.mlp = Listen(layer.mlp, None, n("mlp_out", "mlp_out_post"))
    last = "resid_post.%d" % (len(inner.layers) - 1)
    inner.norm = Listen(inner.norm, [last], ["final_norm"])
    logits = model(mx.array([ids]))
    POINTS["lm_head"] = np.array(logits, dtype="<f4")[0]
    for il in range(1, len(inner.layers)):
        POINTS["resid_post.%d" % (il - 1)] = POINTS["resid_pre.%d" % il]
    return dict(POINTS)


def main():
    mx.set_default_device(mx.cpu)
    path = GOLDEN / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["second"] = []
    for first in manifest["families"]:
        family = first["family"]
        if family not in MODULES:
            continue
        points = record(family, first["prompt_ids"] + first["generated_ids"][:-1])
        chosen = points["lm_head"][len(first["prompt_ids"]) - 1:].argmax(1).tolist()
        assert chosen == first["generated_ids"], (family, chosen)
        kept, same = told_once(points)
        meta = {"format": manifest["format"], "family": family, "prompt_ids": json.dumps(first["prompt_ids"]),
                "generated_ids": json.dumps(first["generated_ids"]), "gguf_sha256": first["gguf_sha256"], "same": json.dumps(same)}
        raw, file = safetensors_bytes(kept, meta), family + ".mlx.safetensors"
        (GOLDEN / file).write_bytes(raw)
        manifest["second"].append({
            **{key: first[key] for key in ("family", "gguf_sha256", "prompt_ids", "generated_ids", "rows", "n_layer")},
            "source": {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm", "numpy")},
            "made_by": "tools/reference/run.sh --mlx", "arithmetic": "float32, CPU, one pass without cache", "file": file,
            "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "tensors": len(points), "tolerance": {"all": 1e-5}})
        print("%-10s %d tensors, %d bytes" % (family, len(points), len(raw)))
    path.write_text(manifest_text(manifest))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""make_goldens.py - reference activations of the tiny models, computed by Hugging Face transformers.

Owns the contents of tests/golden: one safetensors file per family and MANIFEST.json.  Shares only the weights with
tools/tiny/mktiny.py; the arithmetic is transformers' own (float32, eager attention, CPU, one thread).  Before anything is
written it proves that mktiny's GGUF is what llama.cpp's converter makes of the same model.  Run it through run.sh;
README.md describes files and points.

    make_goldens.py [FAMILY ...]       without families: all of them, and the manifest anew
"""
import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools" / "tiny"))
import convert                                                      # noqa: E402
import families                                                     # noqa: E402
import mktiny                                                       # noqa: E402
import record                                                       # noqa: E402
import weights                                                      # noqa: E402
from files import manifest_text, safetensors_bytes, told_once       # noqa: E402
from weights import MIN_MARGIN                                      # noqa: E402

MAX_BYTES = 300_000
PACKAGES = ("torch", "transformers", "safetensors", "numpy")
# Glia's points, in the order of include/glia.h, as far as transformers knows them too
POINTS = ("resid_pre", "attn_in", "q_norm_in", "k_norm_in", "q", "k", "q_rot", "k_rot", "value", "attn_scores", "attn_probs",
          "z", "attn_gate", "z_gated", "attn_head_out", "conv_out", "ssm_out", "attn_out", "attn_out_post", "resid_mid", "mlp_in",
          "router_logits", "expert_indices", "expert_weights", "expert_pre", "expert_linear", "expert_act", "expert_out",
          "moe_out", "shared_expert_out", "mlp_pre", "mlp_linear", "mlp_act", "mlp_out", "mlp_out_post", "resid_post", "lens_in")


# ------------------------------------------------------------------------------- proof of the GGUF

# folds whose last bit hangs on the exp() of the machine
NOT_EXACT = re.compile(r"\.ssm_a$")
# the model card is no arithmetic
FREE = {"general." + k for k in ("name", "size_label", "basename", "license", "finetune", "version", "tags", "languages",
                                 "description", "organization", "file_type")}


def prove(family, model):
    """Compare mktiny's file with the converter's.  Raises on a difference, returns a one-line verdict."""
    with tempfile.TemporaryDirectory() as workdir:
        mine_path = Path(workdir) / "mine.gguf"
        mktiny.write_gguf(family, mine_path)
        mine_kv, mine = convert.read(mine_path)
        their_kv, theirs = convert.converted(family, model, workdir)
    assert sorted(mine) == sorted(theirs), set(mine) ^ set(theirs)
    for name, (ne, kind, values) in theirs.items():
        assert mine[name][:2] == (ne, kind), "%s: tensor %s has another shape" % (family, name)
        got = mine[name][2]
        same = np.allclose(got, values, rtol=1e-6, atol=0) if NOT_EXACT.search(name) else (got == values).all()
        assert same, "%s: tensor %s differs" % (family, name)
    ours_only = {key for key, _, _ in convert.EXTRA_KEYS.get(family, [])}
    differ = {key for key in (set(mine_kv) | set(their_kv)) - FREE if mine_kv.get(key) != their_kv.get(key)}
    assert differ == ours_only, {key: (mine_kv.get(key), their_kv.get(key)) for key in differ ^ ours_only}
    return "%d tensors and %d keys equal to the converter's%s" % (
        len(theirs), len(set(their_kv) - FREE), "; ours only: " + ", ".join(sorted(ours_only)) if ours_only else "")


# ------------------------------------------------------------------------------------------ files

def in_order(points):
    """The points in the order of a forward pass.  Head outputs are wide: only the last layer that has them is kept, the
    test sums them up in the others."""
    n_layer = 1 + max(int(n.split(".")[1]) for n in points if "." in n)
    heads = [n for n in points if n.startswith("attn_head_out.")]
    names = ["embeddings"] + ["%s.%d" % (p, il) for il in range(n_layer) for p in POINTS] + ["final_norm", "lm_head"]
    names = [n for n in names if n in points and n not in heads[:-1]]
    assert not set(points) - set(names) - set(heads), set(points) - set(names)
    return {n: points[n] for n in names}


def points_before_gelu(family, names):
    """Tensors that no GELU precedes."""
    if not families.gelu(family):
        return list(names)
    after = ("mlp_act", "mlp_out", "mlp_out_post", "resid_post", "lens_in")
    return [n for n in names if n == "embeddings" or n.endswith(".0") and n.split(".")[0] not in after]


def make_family(family, out_dir):
    """Write the file of one family and return its manifest entry."""
    model = families.model(family)
    weights.load(family, model)
    verdict = prove(family, model)
    prompt = families.prompt(family)
    generated, margin = weights.greedy(model, prompt)
    assert margin >= MIN_MARGIN, "%s: margin %g, choose another seed" % (family, margin)
    ids = prompt + generated[:-1]
    points = {n.replace("linear.", "mlp_linear.") if n.startswith("linear.") else n: a
              for n, a in record.record(family, model, ids).items()}
    assert list(points["lm_head"][len(prompt) - 1:].argmax(1)) == generated
    points = in_order(points)
    kept, same = told_once(points)
    gguf_sha256 = hashlib.sha256(mktiny.gguf_bytes(family)).hexdigest()
    meta = {"format": "glia-golden-2", "family": family, "prompt_ids": json.dumps(prompt),
            "generated_ids": json.dumps(generated), "gguf_sha256": gguf_sha256, "same": json.dumps(same)}
    raw, file = safetensors_bytes(kept, meta), family + ".safetensors"
    assert len(raw) <= MAX_BYTES, "%s: %d bytes" % (file, len(raw))
    (out_dir / file).write_bytes(raw)
    before = points_before_gelu(family, points)
    tolerance = {"all": 1e-5}
    if families.gelu(family):
        tolerance = {"before_gelu": 1e-5, "after_gelu": 1e-3, "before_gelu_tensors": before}
    r = mktiny.recipe(family)
    print("%-10s %s; greedy %r, least margin %.3f; %d bytes, %d tensors" % (
        family, verdict, bytes(generated), margin, len(raw), len(points)), flush=True)
    return {"family": family, "model": type(model).__name__, "arch": r["arch"], "exercises": families.FAMILIES[family][2],
            "seed": r["seed"], "file": file, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest(),
            "tensors": len(points), "gguf_sha256": gguf_sha256, "prompt_ids": prompt, "generated_ids": generated,
            "margin": round(margin, 4), "rows": len(ids), "n_layer": r["n_layer"], "n_embd": families.N_EMBD,
            "n_vocab": families.N_VOCAB, "tolerance": tolerance}


def main():
    ap = argparse.ArgumentParser(description="Make tests/golden with Hugging Face transformers.")
    ap.add_argument("--out", type=Path, default=ROOT / "tests" / "golden")
    ap.add_argument("family", nargs="*", help="only these, the others stay as they are")
    args = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "MANIFEST.json"
    before = json.loads(path.read_text()) if path.exists() else {"families": []}
    kept = {e["family"]: e for e in before["families"]} if args.family else {}
    kept.update((family, make_family(family, args.out)) for family in args.family or families.reference_families())
    manifest = {
        "format": "glia-golden-2",
        "made_by": "tools/reference/run.sh",
        "date": datetime.date.today().isoformat(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "arithmetic": "float32, eager attention, CPU, one thread, one pass without cache",
        "error": "max |got - golden| / max |golden| over one tensor",
        "families": [kept[f] for f in families.reference_families() if f in kept],
        "second": before.get("second", []),         # make_mlx.py's
    }
    part = args.out / "MANIFEST.json.part"
    part.write_text(manifest_text(manifest))
    assert json.loads(part.read_text()) == manifest
    os.replace(part, path)


if __name__ == "__main__":
    main()

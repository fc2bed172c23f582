#!/usr/bin/env python3
"""make_page.py - docs/FIDELITY.md: how far Glia's activations are from other implementations and from exact weights.

Owns the page.  Standard library only; everything is measured now:
- the golden test against transformers, through its report (GLIA_TEST_REPORT),
- weights in F16, Q8_0 and Q4_K and KV caches in f16 and q8_0 against the same model with F32 weights and cache, over HTTP.

    tools/fidelity/make_page.py [--build DIR]      needs DIR/glia, DIR/tests/test_golden_golden and the target glia_quantize
"""
import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "tools" / "tiny"), str(ROOT / "tests" / "api")]
import mktiny                                                       # noqa: E402

WIDE = {"llama": "dense, SiLU", "qwen3moe": "mixture of experts, q/k norms", "gemma3": "sandwich norms, GELU, window of 8"}
# (column, weights, KV cache)
RUNS = (("F16", "F16", "f32"), ("Q8_0", "Q8_0", "f32"), ("Q4_K", "Q4_K", "f32"), ("cache f16", "F32", "f16"), ("cache q8_0", "F32", "q8_0"))
TEXT = "The quick brown fox jumps over the lazy dog; 42 of them."
GROUPS = (("Stream", ("embeddings", "resid_pre", "attn_out_post", "resid_mid", "mlp_out_post", "resid_post", "lens_in", "final_norm",
                      "lm_head")),
          ("Attention and mixers", ("attn_in", "q_norm_in", "k_norm_in", "q", "k", "q_rot", "k_rot", "value", "attn_scores", "attn_probs",
                                    "z", "attn_gate", "z_gated", "attn_head_out", "conv_out", "ssm_out", "attn_out")),
          ("MLP and experts", ("mlp_in", "mlp_pre", "mlp_linear", "mlp_act", "router_logits", "expert_indices", "expert_weights",
                               "expert_pre", "expert_linear", "expert_act", "expert_out", "moe_out", "shared_expert_out", "mlp_out")))


def short(x):
    """1.3e-06 -> 1e-6; 0 stays 0."""
    if x is None:
        return ""
    if x == 0:
        return "0"
    digits, exponent = ("%.0e" % x).split("e")
    return "%se%d" % (digits, int(exponent))


def percent(pair):
    """(first layer's error, worst) -> "0.05 … 0.12 %"."""
    if pair is None:
        return ""
    texts = ["%.2g" % (100 * x) if x < 0.1 else "%.0f" % (100 * x) for x in pair]
    return (texts[0] if texts[0] == texts[1] else " … ".join(texts)) + (" %" if texts[1] != "0" else "")


# ------------------------------------------------------------------------------------ transformers

def golden_report(build):
    """{(family, run): {tensor: (grade, error, tolerance)}} of a run of the golden test."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "report")
        env = dict(os.environ, GLIA_SOURCE_DIR=str(ROOT), GLIA_TINY_DIR=str(build / "tiny"), GLIA_TEST_REPORT=path)
        run = subprocess.run([str(build / "tests" / "test_golden_golden")], env=env, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit("the golden test fails:\n" + run.stderr[-2000:])
        out = {}
        for line in Path(path).read_text().splitlines():
            family, how, tensor, grade, error, tolerance = line.split()
            out.setdefault((family, how), {})[tensor] = (grade, float(error), float(tolerance))
    return out


def worst(rows, keep):
    """Largest error of the tensors for which keep(point, tensor, tolerance) holds, None without one."""
    return max((e for t, (_, e, tol) in rows.items() if keep(t.split(".")[0], t, tol)), default=None)


def family_tables(manifest, report):
    lines = ["| family | what it exercises | tensors | before any GELU | after one | flash attention, f16 cache |",
             "|---|---|---|---|---|---|"]
    for e in manifest["families"]:
        exact, fast = report[e["family"], "exact"], report[e["family"], "fast"]
        lines.append("| %s | %s | %d | %s | %s | %s |" % (
            e["family"], e["exercises"], len(exact), short(worst(exact, lambda p, t, tol: tol <= 1e-5)),
            short(worst(exact, lambda p, t, tol: tol > 1e-5)) or "no GELU", short(worst(fast, lambda p, t, tol: True))))
    out = ["\n".join(lines)]
    for title, points in GROUPS:
        lines = ["### %s\n" % title, "| family | %s |" % " | ".join(points), "|---" * (len(points) + 1) + "|"]
        for e in manifest["families"]:
            rows = report[e["family"], "exact"]
            cells = [short(worst(rows, lambda p, t, tol, point=point: p == point)) for point in points]
            lines.append("| %s | %s |" % (e["family"], " | ".join(cells)))
        out.append("\n".join(lines))
    return "\n\n".join(out)


def second_text(manifest, report):
    made = ["%s (%d tensors, %s)" % (e["family"], len(report[e["family"], "second"]), short(worst(report[e["family"], "second"],
                                                                                           lambda *_: True)))
            for e in manifest["second"]]
    source = manifest["second"][0]["source"]
    return "A second reference, mlx-lm %s on mlx %s, which shares no code with either: %s." % (source["mlx-lm"], source["mlx"],
                                                                                             " and ".join(made))


# ------------------------------------------------------------------------------- weights and caches

def captured(harness, path, cache):
    """{(point, layer): rows as lists of floats, one per token} of one prompt."""
    server = harness.Server(model=path, args=["--cache-type", cache, "--flash-attn", "on" if cache == "q8_0" else "off", "--ctx", "256"])
    try:
        status, about = server.get("/api/v1/models/%s/hooks" % server.model)
        assert status == 200, about
        hooks = []
        for point in about["points"]:
            for at in point["layers"]:
                if at["grade"] in ("proven", "structural") and point["point"] != "attn_head_out":
                    hook = {"component": point["point"], "hook_id": "%s.%s" % (point["point"], at["layer"])}
                    hooks.append(hook if at["layer"] is None else dict(hook, layer=at["layer"]))
        status, reply = server.activations(hooks, TEXT, max_tokens=1, temperature=0, activation_format={"encoding": "base64"})
        assert status == 200, reply
        return {(e["point"], e["layer"]): harness.unpack(e) for entries in reply["activations"].values() for e in entries
                if e["phase"] == "prompt"}
    finally:
        server.stop()


def difference(a, b, tokens):
    """|a - b| / |b| (Euclidean) over some tokens; hidden attention columns (-inf) count as equal."""
    num = den = 0.0
    for t in tokens:
        for x, y in zip(a[t], b[t]):
            if math.isfinite(x) and math.isfinite(y):
                num += (x - y) ** 2
                den += y * y
    return math.sqrt(num / den) if den else None


def errors(got, want):
    """{point: (error in the first layer that has it, error in the worst)}.  Experts are compared where the same ones were chosen in the same order;
    expert_indices: the share of tokens where they were not."""
    out = {}
    for key, b in sorted(want.items(), key=lambda item: item[0][1] or 0):
        point, il = key
        if key not in got:
            continue
        a, tokens = got[key], range(len(b))
        index = ("expert_indices", il)
        if point == "expert_indices":
            e = sum(x != y for x, y in zip(a, b)) / len(b)
        else:
            if point.startswith("expert_"):
                tokens = [t for t in tokens if got[index][t] == want[index][t]]
            e = difference(a, b, tokens)
        if e is not None:
            first, most = out.get(point, (e, e))
            out[point] = first, max(most, e)
    return out


def precision_table(name, build, harness, folder):
    plain = os.path.join(folder, name + ".gguf")
    mktiny.write_gguf("wide-" + name, plain)
    want = captured(harness, plain, "f32")
    columns = []
    for column, weights, cache in RUNS:
        path = plain
        if weights != "F32":
            path = os.path.join(folder, "%s-%s.gguf" % (name, weights))
            subprocess.run([str(build / "glia_quantize"), plain, path, weights], check=True, stderr=subprocess.DEVNULL)
        columns.append(errors(captured(harness, path, cache), want))
    lines = ["### %s: %s\n" % (name, WIDE[name]), "| point | %s |" % " | ".join(c for c, _, _ in RUNS), "|---" * (len(RUNS) + 1) + "|"]
    for _, points in GROUPS:
        for p in points:
            if any(p in c for c in columns):
                lines.append("| %s | %s |" % (p, " | ".join(percent(c.get(p)) for c in columns)))
    return "\n".join(lines)


def main():
    ap = argparse.ArgumentParser(description="Make docs/FIDELITY.md.")
    ap.add_argument("--build", type=Path, default=ROOT / "build")
    args = ap.parse_args()
    build = args.build.resolve()
    os.environ.update(GLIA_BIN=str(build / "glia"), GLIA_TINY_DIR=str(build / "tiny"), GLIA_SOURCE_DIR=str(ROOT))
    import harness
    manifest = json.loads((ROOT / "tests" / "golden" / "MANIFEST.json").read_text())
    report = golden_report(build)
    with tempfile.TemporaryDirectory() as folder:
        precision = "\n\n".join(precision_table(name, build, harness, folder) for name in WIDE)
    version = subprocess.run([str(build / "glia"), "version"], capture_output=True, text=True, check=True).stdout.split("\n")
    page = PAGE % {
        "n": len(manifest["families"]), "tensors": sum(len(report[e["family"], "exact"]) for e in manifest["families"]),
        "versions": ", ".join("%s %s" % x for x in manifest["packages"].items()), "llama": " ".join(" ".join(version).split()),
        "second": second_text(manifest, report), "families": family_tables(manifest, report), "precision": precision}
    (ROOT / "docs" / "FIDELITY.md").write_text(page)


PAGE = """# Fidelity

Made by `tools/fidelity/make_page.py`; nothing here is written by hand but this text. Measured on a CPU with %(llama)s.

## Against transformers

Tiny random models of %(n)d families run in Hugging Face transformers (%(versions)s; float32, eager attention) and in Glia: %(tensors)d
tensors, every layer, head and token of every point that exists in both. Error: largest difference over largest value of the
tensor. Allowed: 1e-5 where no GELU lies before the point, 1e-3 after one (ggml's GELU goes through a half-precision table), 1e-2
more with flash attention and an f16 cache. `tests/golden/test_golden.c` holds every number of the first three columns to that in
each run; [tools/reference](../tools/reference/README.md) says how the references are made.

%(second)s

%(families)s

## What rounded weights and caches cost

Random models 256 wide, 3 layers, one prompt; against the same model with F32 weights, F32 cache and flash attention off. Error:
Euclidean norm of the difference over norm of the value, all tokens together, in the first layer … in the worst. Random weights
use every direction of a matrix alike, and error is handed from layer to layer: trained models lose less. Experts are compared where the
same ones were chosen; `expert_indices` is the share of tokens where they were not. F16, Q8_0, Q4_K: all matrices in that type (F32
cache). cache f16, cache q8_0: F32 weights; q8_0 needs flash attention.

%(precision)s
"""

if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""check.py - verify the goldens against their manifest.  Standard library only.

Owns no data.  Checks: no file is missing, extra or changed; mktiny still produces the models the goldens were made from;
every tensor has rows for every token and finite values; sums, softmax rows, experts, raw embeddings and greedy ids are
consistent; the names are points of Glia.

    check.py [DIR]        default: tests/golden; exit status 1 and one line per finding if something is off
"""
import hashlib
import json
import math
import re
import struct
import sys
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools" / "tiny"))
import mktiny                                                       # noqa: E402

MAX_BYTES, MAX_TOGETHER = 300_000, 6_900_000
BLACK_BOX = {"attn_probs", "attn_scores"}           # shaped [heads, rows, rows], not [rows, width]


def read_safetensors(raw):
    """({name: (shape, array('f'))}, metadata); ValueError if the layout is not the documented one."""
    (n,) = struct.unpack_from("<Q", raw)
    header, base, at, tensors = json.loads(raw[8:8 + n]), 8 + n, 0, {}
    if n % 8:
        raise ValueError("header is not padded to 8 bytes")
    meta = header.pop("__metadata__")
    for name, info in header.items():
        begin, end = info["data_offsets"]
        if info["dtype"] != "F32" or begin != at or end - begin != 4 * math.prod(info["shape"]):
            raise ValueError("tensor %s: bad dtype, order or size" % name)
        values = array("f", raw[base + begin:base + end])
        if sys.byteorder == "big":
            values.byteswap()
        tensors[name], at = (info["shape"], values), end
    if base + at != len(raw):
        raise ValueError("%d bytes after the last tensor" % (len(raw) - base - at))
    for name, other in json.loads(meta["same"]).items():
        tensors[name] = tensors[other]
    return tensors, meta


def point_names():
    """Points of include/glia.h."""
    return set(re.findall(r'^    X\([A-Z_]+, "([a-z_]+)", "', (ROOT / "include" / "glia.h").read_text(), re.M))


def check_family(golden, e):
    """Yield one line per finding."""
    family, rows = e["family"], e["rows"]
    if hashlib.sha256(mktiny.gguf_bytes(family)).hexdigest() != e["gguf_sha256"]:
        yield "mktiny.py no longer makes the model these goldens belong to"
    try:
        raw = (golden / e["file"]).read_bytes()
        tensors, meta = read_safetensors(raw)
    except (OSError, ValueError, KeyError, struct.error) as err:
        yield "%s: %s" % (e["file"], err)
        return
    if len(raw) != e["bytes"] or hashlib.sha256(raw).hexdigest() != e["sha256"]:
        yield "%s: not the file of the manifest" % e["file"]
    if len(raw) > MAX_BYTES:
        yield "%s: over %d bytes" % (e["file"], MAX_BYTES)
    if any(json.loads(meta[key]) != e[key] for key in ("prompt_ids", "generated_ids")):
        yield "%s: token ids differ from the manifest" % e["file"]
    if meta["gguf_sha256"] != e["gguf_sha256"] or len(tensors) != e["tensors"]:
        yield "metadata or tensor list differs from the manifest"
    points = point_names()
    for name, (shape, values) in tensors.items():
        point = name.split(".")[0]
        if point not in points:
            yield "%s: Glia has no such point" % name
        if shape[-2 if point in BLACK_BOX else 0] != rows:
            yield "%s: not one row per token" % name
        # a family may choose expert 0 for every token
        if not all(map(math.isfinite, values)) or (not any(values) and point != "expert_indices"):
            yield "%s: not finite or all zero" % name
    if not set(e["tolerance"].get("before_gelu_tensors", ())) <= set(tensors):
        yield "tolerance names unknown tensors"
    get = {name: values for name, (_, values) in tensors.items()}

    def holds(a, b, c):
        a, b, c = (get.get(n) for n in (a, b, c))
        return not (a and b and c) or max(abs(x + y - s) for x, y, s in zip(a, b, c)) <= 1e-5 * max(map(abs, c))
    for il in range(e["n_layer"]):
        n = lambda point: "%s.%d" % (point, il)
        if not holds(n("resid_pre"), n("attn_out_post"), n("resid_mid")) or not holds(n("resid_mid"), n("mlp_out_post"), n("resid_post")):
            yield "layer %d: residual sum does not hold" % il
        if not holds(n("moe_out"), n("shared_expert_out"), n("mlp_out")):
            yield "layer %d: shared expert does not add up" % il
        if il and get[n("resid_pre")] != get["resid_post.%d" % (il - 1)]:
            yield "resid_pre.%d is not resid_post.%d" % (il, il - 1)
        probs = get.get(n("attn_probs"), ())
        for at in range(0, len(probs), rows):
            row, token = probs[at:at + rows], at // rows % rows
            if sum(row) > 1 + 1e-5 or any(row[token + 1:]) or (family != "gpt-oss" and abs(sum(row) - 1) > 1e-5):
                yield "%s: row %d is no causal softmax" % (n("attn_probs"), at // rows)
    if get["lens_in.%d" % (e["n_layer"] - 1)] != get["final_norm"]:
        yield "the last lens_in is not final_norm"

    ids = e["prompt_ids"] + e["generated_ids"][:-1]
    table = next(values for name, _, values in mktiny.gguf_tensors(family) if name == "token_embd.weight")
    n_embd, n_vocab = e["n_embd"], e["n_vocab"]
    for row, token in enumerate(ids):
        if get["embeddings"][row * n_embd:(row + 1) * n_embd] != table[token * n_embd:(token + 1) * n_embd]:
            yield "embeddings: row %d is not token %d" % (row, token)
    for i, token in enumerate(e["generated_ids"]):
        row = len(e["prompt_ids"]) - 1 + i
        logits = get["lm_head"][row * n_vocab:(row + 1) * n_vocab]
        if logits.index(max(logits)) != token:
            yield "lm_head: row %d does not give the recorded token" % row


def check_second(golden, first, e):
    """Yield one line per finding about a second reference: it must agree with the first."""
    raw = (golden / e["file"]).read_bytes()
    if len(raw) != e["bytes"] or hashlib.sha256(raw).hexdigest() != e["sha256"]:
        yield "%s: not the file of the manifest" % e["file"]
    if any(first[key] != e[key] for key in ("gguf_sha256", "prompt_ids", "generated_ids")):
        yield "%s: made of another model or prompt than %s" % (e["file"], first["file"])
    (mine, _), (theirs, _) = read_safetensors(raw), read_safetensors((golden / first["file"]).read_bytes())
    if len(mine) != e["tensors"] or not set(mine) <= set(theirs):
        yield "%s: tensors that the first reference has not" % e["file"]
    for name in sorted(set(mine) & set(theirs)):
        a, b = mine[name][1], theirs[name][1]
        gap = max(abs(x - y) for x, y in zip(a, b)) / max(map(abs, b))
        if len(a) != len(b) or gap > 1e-5:
            yield "%s: %s differs from the first reference by %.1e" % (e["file"], name, gap)


def main():
    golden = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "golden"
    manifest = json.loads((golden / "MANIFEST.json").read_text())
    findings, together = 0, 0
    both = manifest["families"] + manifest["second"]
    for extra in sorted({p.name for p in golden.glob("*.safetensors")} - {e["file"] for e in both}):
        print("FAIL %s: not in the manifest" % extra)
        findings += 1
    if {e["family"] for e in manifest["families"]} != set(mktiny.families()):
        print("FAIL families of the manifest and of mktiny.py differ")
        findings += 1
    for e in manifest["families"]:
        lines = list(check_family(golden, e))
        for line in lines:
            print("FAIL %s: %s" % (e["family"], line))
        findings += len(lines)
        together += e["bytes"]
        if not lines:
            print("ok   %s: %d tensors, %d rows" % (e["family"], e["tensors"], e["rows"]))
    for e in manifest["second"]:
        lines = list(check_second(golden, next(f for f in manifest["families"] if f["family"] == e["family"]), e))
        for line in lines:
            print("FAIL %s" % line)
        findings += len(lines)
        together += e["bytes"]
    if together > MAX_TOGETHER:
        print("FAIL %d bytes of goldens, at most %d" % (together, MAX_TOGETHER))
        findings += 1
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

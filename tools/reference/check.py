#!/usr/bin/env python3
"""check.py - verify the goldens against their manifest.  Standard library only.

Owns no data.  Checks: no file is missing, extra or changed; mktiny still produces the models the goldens
were made from; every tensor has its shape and finite values; sums, softmax rows, raw embeddings and greedy
ids are consistent.

    check.py [DIR]        default: tests/golden; exit status 1 and one line per finding if something is off
"""
import hashlib
import json
import math
import struct
import sys
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools" / "tiny"))
import mktiny                                                       # noqa: E402

MAX_BYTES = 300_000


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
    return tensors, meta


def want_shapes(e):
    """{tensor: shape} that the manifest entry of a family implies."""
    rows, q, kv = e["rows"], e["n_head"] * e["head_dim"], e["n_kv"] * e["head_dim"]
    width = dict.fromkeys(("resid_pre", "attn_in", "attn_out", "attn_out_post", "resid_mid", "mlp_in", "mlp_out",
                           "mlp_out_post", "resid_post"), e["n_embd"])
    width.update(q=q, z=q, k=kv, value=kv, mlp_act=e["n_ff"], mlp_pre=e["n_ff"])
    if e["family"] != "gpt2":
        width.update(q_rot=q, k_rot=kv, linear=e["n_ff"])
    shapes = {"embeddings": [rows, e["n_embd"]], "final_norm": [rows, e["n_embd"]], "lm_head": [rows, e["n_vocab"]]}
    for il in range(e["n_layer"]):
        shapes.update({"%s.%d" % (p, il): [rows, w] for p, w in width.items()})
        for p in ("attn_scores", "attn_probs"):
            shapes["%s.%d" % (p, il)] = [e["n_head"], rows, rows]
    return shapes


def check_family(golden, e):
    """Yield one line per finding."""
    family, tensors = e["family"], {}
    if hashlib.sha256(mktiny.gguf_bytes(family)).hexdigest() != e["gguf_sha256"]:
        yield "mktiny.py no longer makes the model these goldens belong to"
    for f in e["files"]:
        try:
            raw = (golden / f["file"]).read_bytes()
            if len(raw) != f["bytes"] or hashlib.sha256(raw).hexdigest() != f["sha256"]:
                yield "%s: not the file of the manifest" % f["file"]
            if len(raw) > MAX_BYTES:
                yield "%s: over %d bytes" % (f["file"], MAX_BYTES)
            part, meta = read_safetensors(raw)
        except (OSError, ValueError, KeyError, struct.error) as err:
            yield "%s: %s" % (f["file"], err)
            return
        for key in ("prompt_ids", "generated_ids"):
            if json.loads(meta[key]) != e[key]:
                yield "%s: %s differ from the manifest" % (f["file"], key)
        if meta["gguf_sha256"] != e["gguf_sha256"] or len(part) != f["tensors"] or set(part) & set(tensors):
            yield "%s: metadata or tensor list differs from the manifest" % f["file"]
        tensors.update(part)

    want = want_shapes(e)
    if {name: shape for name, (shape, _) in tensors.items()} != want:
        yield "tensors or shapes differ: %s" % sorted(
            n for n in set(want) | set(tensors) if n not in tensors or tensors[n][0] != want.get(n))
        return
    get = {name: values for name, (_, values) in tensors.items()}
    for name, values in get.items():
        if not all(map(math.isfinite, values)) or not any(values):
            yield "%s: not finite or all zero" % name
    if not set(e["tolerance"].get("before_gelu_tensors", ())) <= set(get):
        yield "tolerance names unknown tensors"

    for il in range(e["n_layer"]):
        for a, b, c in (("resid_pre", "attn_out_post", "resid_mid"), ("resid_mid", "mlp_out_post", "resid_post")):
            a, b, c = (get["%s.%d" % (p, il)] for p in (a, b, c))
            if max(abs(x + y - s) for x, y, s in zip(a, b, c)) > 1e-5 * max(map(abs, c)):
                yield "layer %d: residual sum does not hold" % il
        if il and get["resid_pre.%d" % il] != get["resid_post.%d" % (il - 1)]:
            yield "resid_pre.%d is not resid_post.%d" % (il, il - 1)
        probs, n = get["attn_probs.%d" % il], e["rows"]
        for at in range(0, len(probs), n):
            row, token = probs[at:at + n], at // n % n
            if abs(sum(row) - 1) > 1e-5 or any(row[token + 1:]):
                yield "attn_probs.%d: row %d is no causal softmax" % (il, at // n)

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


def main():
    golden = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "golden"
    manifest = json.loads((golden / "MANIFEST.json").read_text())
    findings = 0
    listed = {f["file"] for e in manifest["families"] for f in e["files"]}
    for extra in sorted({p.name for p in golden.glob("*.safetensors")} - listed):
        print("FAIL %s: not in the manifest" % extra)
        findings += 1
    if {e["family"] for e in manifest["families"]} != set(mktiny.FAMILIES):
        print("FAIL families of the manifest and of mktiny.py differ")
        findings += 1
    for e in manifest["families"]:
        lines = list(check_family(golden, e))
        for line in lines:
            print("FAIL %s: %s" % (e["family"], line))
        findings += len(lines)
        if not lines:
            print("ok   %s: %d tensors, %d rows" % (e["family"], sum(f["tensors"] for f in e["files"]), e["rows"]))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Run the classifier over every architecture that llama.cpp's own tiny-model generator can build; write docs/ARCHS.md.

  tools/archs.py --glia build/glia --models DIR [--out docs/ARCHS.md] [--check]

DIR holds <arch>-dense.gguf and <arch>-moe.gguf (target llama_archs writes them).  Each model is loaded in a process of
its own, so that a crash is seen and counted as one.  --check: exit 1 when something crashed, when fewer variants than
the documented number have their trunk proven, or when --out differs from what would be written.
"""
import argparse
import concurrent.futures
import json
import os
import subprocess
import sys

TRUNK = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
NO_SUCH_THING = ("this layer has no ", "attention and MLP run in parallel")
LETTER = {"proven": "P", "structural": "s", "ambiguous": "?", "absent": "-"}


def inspect(glia, path):
    """(status, facts): status is 'ok', 'refused' or 'crash'."""
    try:
        p = subprocess.run([glia, "inspect", "--json", "--threads", "1", "--ctx", "64", "--cache-type", "f32", "--flash-attn", "off", "--no-atlas-cache", path], capture_output=True, text=True,
                           timeout=120, env=dict(os.environ, OMP_WAIT_POLICY="passive"))
    except subprocess.TimeoutExpired:
        return "crash", "no answer in 120 s"
    if p.returncode == 0:
        return "ok", json.loads(p.stdout)
    line = (p.stderr.strip().splitlines() or ["no message"])[-1].replace(path, os.path.basename(path))
    return ("refused" if 0 < p.returncode < 4 else "crash"), line


def summary(point):
    """One letter when all layers agree, else one per layer."""
    letters = "".join(LETTER[l["grade"]] for l in point["layers"])
    return letters[0] if len(set(letters)) == 1 else letters


def reasons(points):
    seen = {}
    for p in points:
        for l in p["layers"]:
            if l["grade"] in ("absent", "ambiguous") and l.get("reason"):
                seen.setdefault(l["reason"], []).append(p["point"])
    return "; ".join("%s: %s" % (", ".join(sorted(set(v))), k) for k, v in seen.items())


def trunk_proven(points):
    """Is the trunk of every layer proven?  A layer counts when resid_pre and resid_post are proven, attn_out or mlp_out is,
    and every other point of the trunk is either proven or absent because this kind of layer has no such thing."""
    at = {p["point"]: p["layers"] for p in points}
    for il in range(len(at["resid_pre"])):
        layer = {name: at[name][il] for name in TRUNK}
        proven = {name for name, l in layer.items() if l["grade"] == "proven"}
        if not {"resid_pre", "resid_post"} <= proven or not {"attn_out", "mlp_out"} & proven:
            return False
        for name in set(TRUNK) - proven:
            if layer[name]["grade"] != "absent" or not layer[name].get("reason", "").startswith(NO_SUCH_THING):
                return False
    return True


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--glia", required=True)
    ap.add_argument("--models", required=True)
    ap.add_argument("--out")
    ap.add_argument("--check", action="store_true")
    ap.add_argument("--least", type=int, default=0, help="fewest variants whose trunk must be proven")
    args = ap.parse_args()
    files = sorted(f for f in os.listdir(args.models) if f.endswith(".gguf"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda f: inspect(args.glia, os.path.join(args.models, f)), files))

    names, rows, refused, crashed, proven = None, [], [], [], 0
    for f, (status, facts) in zip(files, results):
        name = f[:-5]
        if status != "ok":
            (crashed if status == "crash" else refused).append((name, facts))
            continue
        points = facts["hooks"]["points"]
        names = names or [p["point"] for p in points]
        good = trunk_proven(points)
        proven += good
        rows.append((name, [summary(p) for p in points], good, facts["hooks"]["hooks_refused"] or reasons(points)))

    out = ["# Architectures", "", "Written by `make archs` (tools/archs.py); do not edit.  Every architecture that llama.cpp's own generator of tiny",
           "models can build, loaded and proven on the CPU: P proven, s structural, ? ambiguous, - absent; one letter when all",
           "layers agree, else one per layer.  The models have random weights of small variance and two layers (some more), so",
           "that attention is nearly uniform: they are loaded with a float32 cache and without flash attention, because f16",
           "rounding would drown what queries and keys say.", "",
           "A variant counts as *trunk proven* when in every layer `resid_pre` and `resid_post` are proven, `attn_out` or `mlp_out`",
           "is, and each other of `resid_mid`, `attn_out`, `mlp_out` is proven or absent because this kind of layer has no such",
           "thing (a mixer without MLP, an MLP without mixer, attention and MLP in parallel).  Absent for any other reason, or",
           "found by structure only, does not count.", "",
           "%d variants load, of %d the trunk is proven; %d are refused with a reason, %d crash."
           % (len(rows), proven, len(refused), len(crashed)), "",
           "| variant | trunk | " + " | ".join(names or []) + " |", "|---|---|" + "---|" * len(names or [])]
    for name, cells, good, _ in rows:
        out.append("| %s | %s | %s |" % (name, "yes" if good else "", " | ".join(cells)))
    out += ["", "## Why points are absent", ""] + ["- **%s**: %s" % (n, why) for n, _, _, why in rows if why]
    out += ["", "## Refused as a whole", ""] + ["- **%s**: %s" % r for r in refused]
    if crashed:
        out += ["", "## Crashed", ""] + ["- **%s**: %s" % c for c in crashed]
    text = "\n".join(out) + "\n"
    print("%d load, %d trunk proven, %d refused, %d crash" % (len(rows), proven, len(refused), len(crashed)))
    same = args.out and os.path.exists(args.out) and open(args.out).read() == text
    if args.out and not args.check:
        with open(args.out, "w") as f:
            f.write(text)
    if args.check and (crashed or proven < args.least or (args.out and not same)):
        print("archs: crashed %s, trunk proven %d (least %d), table current: %s" % (crashed, proven, args.least, same))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

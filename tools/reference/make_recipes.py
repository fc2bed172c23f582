#!/usr/bin/env python3
"""make_recipes.py - what llama.cpp's converter does to each family, written down as tools/tiny/recipes/<family>.json.

The converter permutes, slices, stacks, transposes and folds.  Instead of repeating its code, its effect is measured: every
element of the transformers model is given a number of its own, the model is converted, and the numbers found in the GGUF
say where each element went.  The recipe keeps that as strided views, with the converter's metadata beside it, so that
mktiny.py can make the same file with the standard library.  make_goldens.py proves that it does, with real weights.

    make_recipes.py [FAMILY ...]       through run.sh --recipes
"""
import json
import math
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
import weights                                                      # noqa: E402

STEP = 4        # element i carries STEP * (i + 1): small additions by the converter stay visible in the remainder


def numbered(model):
    """Put the numbers into the model.  {parameter name: (first number / STEP, shape)}"""
    places, at = {}, 1
    state = {}
    tied = {n for group in find_tied(model) for n in group[1:]}
    for name, p in model.state_dict().items():
        if name in tied or not p.is_floating_point():
            continue
        values = torch.arange(at, at + p.numel(), dtype=torch.float64) * STEP
        places[name] = (at, list(p.shape))
        at += p.numel()
        assert at * STEP < 1 << 24, "numbers must be exact in float32"
        # the converter writes -exp(A_log): its logarithm makes the number reappear, negated
        state[name] = (values.log() if name.endswith("A_log") else values).reshape(p.shape).float()
    model.load_state_dict(state, strict=False)
    return places


def find_tied(model):
    """[[name, alias ...]] of parameters that share memory."""
    by_data = {}
    for name, p in model.state_dict().items():
        by_data.setdefault((p.data_ptr(), p.numel()), []).append(name)
    return [names for names in by_data.values() if len(names) > 1]


def nest(seq):
    """(offsets, [[n, stride] outer to inner]): seq is, for each offset in turn, the nest walked from it."""
    dims = []
    while len(seq) > 1:
        diff = np.diff(seq)
        breaks = np.flatnonzero(diff != diff[0]) + 1
        n = math.gcd(len(seq), *(int(b) for b in breaks))
        if n == 1:
            break
        dims.insert(0, [n, int(diff[0])])
        seq = seq[::n]
    return [int(x) for x in seq], dims


def views(ids, places):
    """The GGUF tensor as a list of [source, offsets, dims], in order."""
    names = list(places)
    starts = np.array([places[n][0] for n in names])
    source = np.searchsorted(starts, ids, side="right") - 1
    cuts = [0] + [int(c) for c in np.flatnonzero(np.diff(source)) + 1] + [len(ids)]
    out = []
    for begin, end in zip(cuts, cuts[1:]):
        name = names[source[begin]]
        offsets, dims = nest(ids[begin:end] - places[name][0])
        assert len(offsets) <= 64, "%s is no simple view" % name
        out.append([name, offsets, dims])
    return out


def describe(ne, values, places):
    """[ne, fold, views] of one GGUF tensor."""
    v = values.astype("f8")
    for fold, back in (("", v), ("+1", v - 1), ("-exp", -v)):
        ids = np.round(back / STEP).astype(int)
        slack = 1e-5 * np.abs(back) if fold == "-exp" else 0
        if (np.abs(back - ids * STEP) <= slack).all() and ids.min() >= 1:
            return [ne, fold, views(ids, places)]
    raise AssertionError("no parameter explains the values")


def per_layer(entries, n_layer):
    """Entries equal in every layer but for its number become one with '*'."""
    out, seen = {}, set()
    for name in entries:
        m = re.search(r"\.(\d+)\.", name)
        if not m:
            out[name] = entries[name]
            continue
        star = name[:m.start(1)] + "*" + name[m.end(1):]
        if star in seen:
            continue
        same = []
        for il in range(n_layer):
            number = lambda text: re.sub(r"\.%d\." % il, ".*.", text, count=1)
            mine = entries.get(star.replace("*", str(il)))
            same.append(json.dumps(mine, sort_keys=True) if mine is None else number_out(mine, il))
        if len(set(same)) == 1:
            seen.add(star)
            out[star] = json.loads(same[0])
        else:
            out[name] = entries[name]
    return out


def number_out(entry, il):
    return re.sub(r"\.%d\." % il, ".*.", json.dumps(entry))


# ------------------------------------------------------------------------------------------ weights

def draw(family, name, shape):
    """[shape, m, base, flags] of one parameter: uniform in base +- m / 256 (mktiny.py).  flags: 'damp' small rows for
    tokens outside printable ASCII.  Matrices have std 1.2 / sqrt(fan-in)."""
    stem, opts, _ = families.FAMILIES[family]
    gemma = stem.startswith("Gemma")
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "A_log":
        return [shape, 128, 0.25, ""]
    if leaf == "D":
        return [shape, 64, 1.0, ""]
    if leaf == "sinks":
        return [shape, 255, 0.0, ""]
    if leaf == "dt_bias" or name.endswith("dt_proj.bias"):
        return [shape, 128, -1.0, ""]
    if "conv" in name and len(shape) == 3:
        return [shape, 255, 0.0, ""]
    is_norm = re.search(r"norm|\bln_", ".".join(name.split(".")[-3:-1])) is not None
    if is_norm and leaf == "weight":
        # stored as w - 1: gemma, nemotron, and every norm of qwen3next but the gated one
        less_one = gemma or stem == "Nemotron" or (stem == "Qwen3Next" and "linear_attn" not in name)
        return [shape, 64, 0.0 if less_one else 1.0, ""]
    if len(shape) == 1:
        return [shape, 64, 0.0, ""]
    if re.search(r"(embed_tokens|wte|word_embeddings|embed_in|embeddings)\.weight$", name):
        tied = families.config(family).tie_word_embeddings
        return [shape, 24 if gemma else 64 if tied else 255, 0.0, "damp" if tied else ""]
    if name.endswith("wpe.weight"):
        return [shape, 128, 0.0, ""]
    # in x out: GPT-2's Conv1D, gpt-oss's and llama4's stacked experts
    stored_in_out = opts.get("_gpt2") or (stem in ("GptOss", "Llama4") and len(shape) == 3)
    if name.endswith("_proj_bias"):
        return [shape, 64, 0.0, ""]
    fan_in = shape[-2] if stored_in_out else shape[-1]
    m = min(255, int(math.sqrt(3 * 1.44 / fan_in) * 256 + 0.5))
    head = re.search(r"(lm_head|embed_out)\.weight$", name)
    return [shape, m, 0.0, "damp" if head else ""]


# --------------------------------------------------------------------------------------------- file

def keys(fields, family):
    """[[key, type, value]] that define the arithmetic; the tokenizer and the model card are mktiny's own."""
    out = []
    for key, (types, value) in fields.items():
        if key.startswith(("general.", "tokenizer.")):
            continue
        kind = types[0] if types[0] != "ARRAY" else "ARRAY " + types[1]
        assert types[0] != "ARRAY" or types[1] != "STRING", key
        out.append([key, kind, value])
    return out + convert.EXTRA_KEYS.get(family, [])


def one_line(value):
    return json.dumps(value, ensure_ascii=False)


def recipe_text(recipe):
    """JSON with one tensor, weight or key per line."""
    lines = ["{"]
    for field, value in recipe.items():
        if isinstance(value, dict):
            body = ",\n".join("  %s: %s" % (one_line(k), one_line(v)) for k, v in value.items())
            lines.append(' "%s": {\n%s\n },' % (field, body))
        elif isinstance(value, list):
            lines.append(' "%s": [\n%s\n ],' % (field, ",\n".join("  " + one_line(v) for v in value)))
        else:
            lines.append(' "%s": %s,' % (field, one_line(value)))
    return "\n".join(lines).rstrip(",") + "\n}\n"


def make(family):
    torch.manual_seed(1)
    model = families.model(family)
    places = numbered(model)
    with tempfile.TemporaryDirectory() as workdir:
        fields, tensors = convert.converted(family, model, workdir)
    mapping = {name: describe(ne, values, places) for name, (ne, kind, values) in tensors.items()}
    assert all(kind == "F32" for _, kind, _ in tensors.values())
    drawn = {name: draw(family, name, shape) for name, (_, shape) in places.items()}
    unused = set(places) - {view[0] for _, _, parts in mapping.values() for view in parts}
    n_layer = max(int(m.group(1)) for m in (re.search(r"blk\.(\d+)\.", n) for n in tensors) if m) + 1
    recipe = {"family": family, "arch": fields["general.architecture"][1],
              "seed": families.FAMILIES[family][1].get("_seed", 1), "n_layer": n_layer, "keys": keys(fields, family),
              "weights": per_layer(drawn, n_layer), "tensors": per_layer(mapping, n_layer)}
    assert not unused, unused
    path = Path(mktiny.RECIPES) / (family + ".json")
    path.write_text(recipe_text(recipe))
    assert json.loads(path.read_text()) == recipe
    if "_seed" not in families.FAMILIES[family][1]:
        recipe["seed"] = good_seed(family, model)
        path.write_text(recipe_text(recipe))
    print("%-10s %3d tensors, %5d bytes, seed %d" % (family, len(tensors), path.stat().st_size, recipe["seed"]))


def good_seed(family, model):
    """The first seed whose greedy text is clearly ahead of the runner-up and whose routers choose clearly."""
    mktiny.recipe.cache_clear()
    mktiny.hf_parameters.cache_clear()
    for seed in range(1, 1000):
        weights.load(family, model, seed)
        ids, margin = weights.greedy(model, families.prompt(family))
        if margin >= 2 * weights.MIN_MARGIN and len(set(ids)) >= weights.N_GENERATE - 1 and all(32 <= i < 127 for i in ids):
            return seed
    raise SystemExit("%s: no seed is good enough" % family)


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    Path(mktiny.RECIPES).mkdir(exist_ok=True)
    for family in sys.argv[1:] or families.FAMILIES:
        make(family)


if __name__ == "__main__":
    main()

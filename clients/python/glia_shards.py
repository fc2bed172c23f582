"""Read a harvest's folder (docs/FORMATS.md, "A harvest"): rows, shuffled batches, Hugging Face datasets, SAELens.

    from glia_shards import shards, load, rows, batches
    for t in map(load, shards("run1")): t["resid_post.5"], t["document"], t["token_id"]
    for x in batches("run1", "resid_post.5", 4096, seed=0): ...              # [4096, d] float32, shuffled

    from datasets import IterableDataset
    ds = IterableDataset.from_generator(rows, gen_kwargs={"shards": shards("run1"), "names": ("resid_post.5",)})

Needs numpy.  Everything is read shard by shard: memory is that of a shard (and of the shuffle's buffer).
"""
import json
import os
import struct

import numpy

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
LABELS = ("document", "offset", "position", "token_id")


def manifest(folder):
    with open(os.path.join(folder, "manifest.json")) as f:
        return json.load(f)


def shards(folder):
    """Paths of the sealed shards, in the order of the data; may be read while the harvest goes on."""
    return [os.path.join(folder, s["file"]) for s in manifest(folder)["shards"]]


def load(path, names=None):
    """{name: array}; bfloat16 becomes float32.  The arrays are mapped: only what is looked at is read."""
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(n))
    head.pop("__metadata__", None)
    data = numpy.memmap(path, "u1", "r")
    out = {}
    for name, t in head.items():
        if names is not None and name not in names and name not in LABELS:
            continue
        begin, end = (8 + n + o for o in t["data_offsets"])
        array = data[begin:end].view(TYPES[t["dtype"]]).reshape(t["shape"])
        if t["dtype"] == "BF16":
            array = (array.astype("<u4") << 16).view("<f4")
        out[name] = array
    return out


def rows(shards, names):
    """One dict a token: the labels, and a row of each tensor.  For IterableDataset.from_generator (which splits `shards`
    among its workers; names must be a tuple there)."""
    for path in shards:
        t = load(path, names)
        for i in range(len(t["document"])):
            row = {k: int(t[k][i]) for k in LABELS}
            row.update((k, numpy.asarray(t[k][i])) for k in names)
            yield row


def batches(folder, name, size, seed=None, buffer=262144):
    """Arrays [size, d] in float32 of all rows, each once; shuffled through a buffer of so many rows when there is a seed.
    The last one may be shorter."""
    rng = numpy.random.default_rng(seed) if seed is not None else None
    order = shards(folder)
    if rng is not None:
        rng.shuffle(order)
    held, n_held = [], 0

    def drain(least):
        nonlocal held, n_held
        pool = numpy.concatenate(held)
        if rng is not None:
            rng.shuffle(pool)
        at = 0
        while len(pool) - at >= max(least, 1):
            yield pool[at:at + size]
            at += size
        held, n_held = [pool[at:]], max(len(pool) - at, 0)

    for path in order:
        x = numpy.asarray(load(path, [name])[name], "<f4")
        held.append(x)
        n_held += len(x)
        if n_held >= max(buffer if rng is not None else size, size):
            yield from drain(size)
    if n_held:
        yield from drain(1)


def saelens(folder, name, hook, context):
    """Rows as SAELens caches activations: {hook: [context, d] float32, "token_ids": [context]} of every piece of exactly
    `context` tokens (harvest with --window context).  Dataset.from_generator(saelens, gen_kwargs=…).save_to_disk(…) makes the
    folder that its ActivationsStore takes as cached_activations_path."""
    rest = None
    for path in shards(folder):
        t = load(path, [name])
        part = {k: numpy.asarray(t[k]) for k in LABELS + (name,)}
        if rest is not None:
            part = {k: numpy.concatenate([rest[k], part[k]]) for k in part}
        starts = numpy.flatnonzero(part["position"] == 0)
        ends = numpy.append(starts[1:], len(part["position"]))
        for a, b in zip(starts[:-1], ends[:-1]):
            if b - a == context:
                yield {hook: part[name][a:b].astype("<f4"), "token_ids": part["token_id"][a:b]}
        rest = {k: v[starts[-1]:] for k, v in part.items()} if len(starts) else part
    if rest is not None and len(rest["position"]) == context:
        yield {hook: rest[name].astype("<f4"), "token_ids": rest["token_id"]}


def statistics(folder):
    """{tensor: {"mean", "variance", "count"}} of all sealed rows."""
    m = manifest(folder)
    t = load(os.path.join(folder, m["statistics"]["file"]))
    return {x["name"]: {"count": x["statistics"]["count"], "mean": t[x["name"] + ".mean"],
                        "variance": t[x["name"] + ".m2"] / max(x["statistics"]["count"], 1)} for x in m["tensors"]}

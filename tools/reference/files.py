"""files.py - the file formats of tests/golden: safetensors and MANIFEST.json.  README.md has the layout."""
import json
import re
import struct


def safetensors_bytes(tensors, meta):
    """F32 tensors in the given order behind a JSON header padded with spaces to 8 bytes."""
    header, at = {"__metadata__": meta}, 0
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(a.tobytes() for a in tensors.values())


def told_once(points):
    """(tensors kept, {name: the equal tensor kept under another name})"""
    kept, same, seen = {}, {}, {}
    for name, a in points.items():
        raw = a.tobytes()
        if raw in seen:
            same[name] = seen[raw]
        else:
            kept[name], seen[raw] = a, name
    return kept, same


def manifest_text(manifest):
    """Indented JSON with lists of scalars on one line."""
    flat = lambda m: "[" + " ".join(m.group(1).split()) + "]"       # no string in a list holds a space
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", flat, json.dumps(manifest, indent=1, ensure_ascii=False)) + "\n"

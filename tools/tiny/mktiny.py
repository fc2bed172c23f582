#!/usr/bin/env python3
"""mktiny.py - tiny random GGUF models, the same bytes on every machine.

Writes the models used by tests and by the reference (tools/reference) from their recipes.  Owns the weights, the
tokenizer and the file format.  Standard library only.  Knows neither torch nor llama.cpp.

    mktiny.py FAMILY OUT.gguf     write one model (well under 1 MB, about 0.1 s)
    mktiny.py --all DIR           write DIR/<family>.gguf for every family
    mktiny.py --sha256            print the SHA-256 of every model instead of writing it
    mktiny.py --list              names of the families

recipes/<family>.json says what the model is; tools/reference/make_recipes.py measured it on llama.cpp's converter:
    arch, n_layer, seed, keys     metadata beside the tokenizer's: [key, GGUF type, value]
    weights    {name: [shape, m, base, flags]}: the parameters as Hugging Face transformers has them
    tensors    {GGUF name: [ne, fold, parts]}, ne[0] contiguous.  The values are the parts one after the other; a part is
               [parameter, offsets, [[n, stride] outer to inner]]: for each offset the nest of strides walked from it.
               fold: "" nothing, "+1" one is added (norms stored as w - 1), "-exp" -exp(x)
    A '*' in a name stands for every layer.

Weights are a pure function of (family, seed, parameter name, element index).  Element i, row-major:
    key  = FNV-1a-64("family/seed/name")
    h    = splitmix64 finaliser of key + (i/4 + 1) * 0x9E3779B97F4A7C15   (mod 2^64)
    u    = 16 bits of h at bit 16 * (i mod 4)
    x[i] = base + (2u + 1 - 65536) * m * 2^-24       uniform in base +- m/256
m < 256 is an integer: every value is exact in float32, no libm is involved (but for "-exp").
Flag "damp": rows of tokens that are not printable ASCII are divided by 8, so greedy text stays printable.

Token id b < 256 is byte b.  Then one merge product that text never contains, and control tokens.
"""
import argparse
import hashlib
import json
import math
import os
import struct
import sys
from array import array
from functools import lru_cache

N_VOCAB = 320
BOS, EOT, IM_START, IM_END, PAD = 257, 258, 259, 260, 261
RECIPES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# ---------------------------------------------------------------------------------------- recipes

@lru_cache(None)
def recipe(family):
    with open(os.path.join(RECIPES, family + ".json")) as f:
        return json.load(f)


def families(wide=False):
    """Names of the recipes; the wide ones (256 columns, for quantized weights) are not for everyday tests."""
    names = sorted(f[:-len(".json")] for f in os.listdir(RECIPES) if f.endswith(".json"))
    return [f for f in names if f.startswith("wide-") == wide and not f.startswith("encoder-")]


def encoders():
    """Names of the recipes of models that only make vectors: tools/reference/make_embeddings.py."""
    return sorted(f[:-len(".json")] for f in os.listdir(RECIPES) if f.startswith("encoder-") and f.endswith(".json"))


def each_layer(entries, n_layer):
    """{name: entry} with every '*' written out."""
    out = {}
    for name, entry in entries.items():
        if "*" not in name:
            out[name] = entry
            continue
        text = json.dumps(entry)
        for il in range(n_layer):
            out[name.replace("*", str(il))] = json.loads(text.replace("*", str(il)))
    return out


@lru_cache(None)
def hf_parameters(family):
    """{parameter: [shape, m, base, flags]} of every stored parameter (a tied output matrix is not stored)."""
    return each_layer(recipe(family)["weights"], recipe(family)["n_layer"])


# ---------------------------------------------------------------------------------------- weights

M64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def uniform(key, n, m, base=0.0):
    """n values base +- m/256 as array('f'), see the file head."""
    state = 0xCBF29CE484222325
    for byte in key.encode():
        state = ((state ^ byte) * 0x100000001B3) & M64
    out, scale = [], m / (1 << 24)
    for _ in range((n + 3) // 4):
        state = (state + GOLDEN) & M64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
        z ^= z >> 31
        out += (base + (2 * (z & 0xFFFF) - 65535) * scale,
                base + (2 * (z >> 16 & 0xFFFF) - 65535) * scale,
                base + (2 * (z >> 32 & 0xFFFF) - 65535) * scale,
                base + (2 * (z >> 48) - 65535) * scale)
    return array("f", out[:n])


def damp_rows(values, n_cols):
    """Divide the rows of tokens outside printable ASCII by 8, in place."""
    for row in range(len(values) // n_cols):
        if not 32 <= row < 127:
            for i in range(row * n_cols, (row + 1) * n_cols):
                values[i] *= 0.125


def hf_weight(family, name, seed=None):
    """Values of one parameter, row-major in its own shape."""
    shape, m, base, flags = hf_parameters(family)[name]
    seed = recipe(family)["seed"] if seed is None else seed
    values = uniform("%s/%d/%s" % (family, seed, name), math.prod(shape), m, base)
    if flags == "damp":
        damp_rows(values, shape[1])
    return values


# ---------------------------------------------------------------------------------------- tensors

def walk(values, offset, dims, out):
    """Append the elements of a nest of strides."""
    (n, stride), rest = dims[0], dims[1:]
    if rest:
        for i in range(n):
            walk(values, offset + i * stride, rest, out)
    else:
        out += values[offset:offset + (n - 1) * stride + 1:stride]


FOLDS = {"": None, "+1": lambda x: x + 1.0, "-exp": lambda x: -math.exp(x)}


def gguf_tensors(family):
    """[(GGUF name, ne with ne[0] contiguous, array('f'))]"""
    r, out = recipe(family), []
    weights = {name: hf_weight(family, name) for name in hf_parameters(family)}
    for name, (ne, fold, parts) in each_layer(r["tensors"], r["n_layer"]).items():
        values = array("f")
        for source, offsets, dims in parts:
            for offset in offsets:
                walk(weights[source], offset, dims or [[1, 1]], values)
        if fold:
            values = array("f", map(FOLDS[fold], values))
        out.append((name, ne, values))
    return out


# --------------------------------------------------------------------------------------- metadata

U32, I32, F32, BOOL, STR, ARR = 4, 5, 6, 7, 8, 9      # GGUF value types
TYPES = {"UINT32": U32, "INT32": I32, "FLOAT32": F32, "BOOL": BOOL, "STRING": STR}


def byte_alphabet():
    """The GPT-2 printable character of each byte, in byte order."""
    plain = set(range(33, 127)) | set(range(161, 173)) | set(range(174, 256))
    out, extra = [], 256
    for b in range(256):
        out.append(chr(b if b in plain else extra))
        extra += b not in plain
    return out


def tokenizer():
    """(tokens, token types, merges); types: 1 normal, 3 control, 5 unused"""
    alphabet = byte_alphabet()
    tokens = alphabet + [alphabet[0xFE] + alphabet[0xFF], "<|startoftext|>", "<|endoftext|>",
                         "<|im_start|>", "<|im_end|>", "<|pad|>"]
    types = [1] * 257 + [3] * 5
    while len(tokens) < N_VOCAB:
        tokens.append("<|unused%d|>" % len(tokens))
        types.append(5)
    return tokens, types, [alphabet[0xFE] + " " + alphabet[0xFF]]


def metadata(family):
    """[(key, GGUF type, value)]; an array's type is (ARR, element type)."""
    r = recipe(family)
    tokens, types, merges = tokenizer()
    # llama.cpp looks for certain tokens in every model that is called "phi3"
    kv = [("general.architecture", STR, r["arch"]), ("general.type", STR, "model"),
          ("general.name", STR, "tiny-" + family.replace("phi3", "phi-three")), ("general.file_type", U32, 0),
          ("general.quantization_version", U32, 2)]
    for key, kind, value in r["keys"]:
        kv.append((key, (ARR, TYPES[kind.split()[1]]) if " " in kind else TYPES[kind], value))

    return kv + [
        ("tokenizer.ggml.model", STR, "gpt2"), ("tokenizer.ggml.pre", STR, "gpt-2"),
        ("tokenizer.ggml.tokens", (ARR, STR), tokens), ("tokenizer.ggml.token_type", (ARR, I32), types),
        ("tokenizer.ggml.merges", (ARR, STR), merges),
        ("tokenizer.ggml.bos_token_id", U32, BOS), ("tokenizer.ggml.eos_token_id", U32, IM_END),
        ("tokenizer.ggml.padding_token_id", U32, PAD),
        ("tokenizer.ggml.add_bos_token", BOOL, False), ("tokenizer.ggml.add_eos_token", BOOL, False),
        ("tokenizer.chat_template", STR, CHAT_TEMPLATE)]


# ------------------------------------------------------------------------------------------- file

def pack_string(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def pack_value(vtype, value):
    if isinstance(vtype, tuple):
        return struct.pack("<IQ", vtype[1], len(value)) + b"".join(pack_value(vtype[1], v) for v in value)
    if vtype == STR:
        return pack_string(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[vtype], value)


def gguf_bytes(family):
    """The whole file: GGUF v3, little endian, F32 tensors, alignment 32."""
    kv, tensors = metadata(family), gguf_tensors(family)
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(kv))]
    for key, vtype, value in kv:
        tag = vtype[0] if isinstance(vtype, tuple) else vtype
        head += [pack_string(key), struct.pack("<I", tag), pack_value(vtype, value)]
    data = bytearray()
    for name, ne, values in tensors:
        head += [pack_string(name), struct.pack("<I%dQ" % len(ne), len(ne), *ne),
                 struct.pack("<IQ", 0, len(data))]                  # type 0 = F32
        if sys.byteorder == "big":
            values.byteswap()
        data += values.tobytes()
        data += bytes(-len(data) % 32)
    head = b"".join(head)
    return head + bytes(-len(head) % 32) + bytes(data)


def write_gguf(family, path):
    """Write the model; the name appears only when the file is whole."""
    part = "%s.%d.part" % (path, os.getpid())
    with open(part, "wb") as out:
        out.write(gguf_bytes(family))
    os.replace(part, path)


def main():
    ap = argparse.ArgumentParser(description="Tiny random GGUF models, the same bytes on every machine.")
    ap.add_argument("--list", action="store_true", help="print the families")
    ap.add_argument("--sha256", action="store_true", help="print the SHA-256 of every model")
    ap.add_argument("--all", metavar="DIR", help="write every family to DIR/<family>.gguf")
    ap.add_argument("family", nargs="?", choices=families() + families(wide=True) + encoders())
    ap.add_argument("out", nargs="?", metavar="OUT.gguf")
    args = ap.parse_args()
    if args.list:
        print("\n".join(families()))
    elif args.sha256:
        for family in families():
            print("%s  %s" % (hashlib.sha256(gguf_bytes(family)).hexdigest(), family))
    elif args.all:
        os.makedirs(args.all, exist_ok=True)
        for family in families() + encoders():
            write_gguf(family, os.path.join(args.all, family + ".gguf"))
    elif args.family and args.out:
        write_gguf(args.family, args.out)
    else:
        ap.error("give FAMILY and OUT.gguf, or one of --all, --sha256, --list")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Write a random llama-shaped F16 GGUF of real size, for timing only: bench/make_model.py OUT [--layers 32 --embd 4096 ...]

Metadata and tokenizer are those of the tiny test models (tools/tiny/mktiny.py), or --tokenizer takes another GGUF file's
tokenizer and chat template; --no-weights then writes these alone, for a machine that lacks that file.  Weights are one block
of random halves, repeated at different offsets: the values do not matter for times, only that they are ordinary numbers.
"""
import argparse
import os
import random
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools", "tiny"))
import mktiny  # noqa: E402


SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of GGUF's value types


def raw_tokenizer(path):
    """(number of tokens, [(key, type, bytes of the value)]) of a GGUF file's tokenizer.*, as they lie there."""
    with open(path, "rb") as f:
        head = f.read(64 << 20)
    at = 24

    def number(fmt):
        nonlocal at
        at += struct.calcsize(fmt)
        return struct.unpack_from(fmt, head, at - struct.calcsize(fmt))[0]

    def skip(vtype):
        nonlocal at
        if vtype == 8:
            n = number("<Q")
            at += n
        elif vtype == 9:
            inner, n = number("<I"), number("<Q")
            if inner == 8:
                for _ in range(n):
                    skip(8)
            else:
                at += n * SIZES[inner]
        else:
            at += SIZES[vtype]

    found, n_tokens = [], 0
    for _ in range(struct.unpack_from("<Q", head, 16)[0]):
        n = number("<Q")
        key = head[at:at + n].decode()
        at += n
        vtype, start = number("<I"), at
        skip(vtype)
        if key.startswith("tokenizer."):
            found.append((key, vtype, head[start:at]))
        if key == "tokenizer.ggml.tokens":
            n_tokens = struct.unpack_from("<Q", head, start + 4)[0]
    if not n_tokens:
        sys.exit("make_model: %s has no tokenizer" % path)
    return n_tokens, found


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("out")
    for name, value in (("layers", 32), ("embd", 4096), ("heads", 32), ("kv", 8), ("ff", 14336), ("ctx", 8192)):
        ap.add_argument("--" + name, type=int, default=value)
    ap.add_argument("--tokenizer", metavar="FILE", help="GGUF file whose tokenizer and chat template it gets")
    ap.add_argument("--no-weights", action="store_true", help="no tensors")
    a = ap.parse_args()
    hd = a.embd // a.heads
    mine = {"general.file_type": 1, "llama.block_count": a.layers, "llama.context_length": a.ctx, "llama.embedding_length": a.embd,
            "llama.feed_forward_length": a.ff, "llama.attention.head_count": a.heads, "llama.attention.head_count_kv": a.kv,
            "llama.attention.key_length": hd, "llama.attention.value_length": hd, "llama.rope.dimension_count": hd}
    kv = [(k, t, mine.get(k, v)) for k, t, v in mktiny.metadata("llama")]
    assert set(mine) <= {k for k, _, _ in kv}
    vocab, words = mktiny.N_VOCAB, []
    if a.tokenizer:
        vocab, words = raw_tokenizer(a.tokenizer)
        kv = [(k, t, vocab if k == "llama.vocab_size" else v) for k, t, v in kv if not k.startswith("tokenizer.")]
    shapes = [("token_embd.weight", (a.embd, vocab)), ("output.weight", (a.embd, vocab)), ("output_norm.weight", (a.embd,))]
    for i in range(a.layers):
        shapes += [("blk.%d.%s.weight" % (i, n), s) for n, s in (
            ("attn_norm", (a.embd,)), ("attn_q", (a.embd, a.embd)), ("attn_k", (a.embd, a.kv * hd)),
            ("attn_v", (a.embd, a.kv * hd)), ("attn_output", (a.embd, a.embd)), ("ffn_norm", (a.embd,)),
            ("ffn_gate", (a.embd, a.ff)), ("ffn_up", (a.embd, a.ff)), ("ffn_down", (a.ff, a.embd)))]
    if a.no_weights:
        shapes = []
    rng = random.Random(1)
    block = struct.pack("<%de" % 65536, *(rng.uniform(-0.03, 0.03) for _ in range(65536))) * 16
    head = [b"GGUF", struct.pack("<IQQ", 3, len(shapes), len(kv) + len(words))]
    for key, vtype, value in kv:
        head += [mktiny.pack_string(key), struct.pack("<I", vtype[0] if isinstance(vtype, tuple) else vtype),
                 mktiny.pack_value(vtype, value)]
    for key, vtype, raw in words:
        head += [mktiny.pack_string(key), struct.pack("<I", vtype), raw]
    offset = 0
    for name, ne in shapes:
        norm = len(ne) == 1
        n = ne[0] if norm else ne[0] * ne[1]
        head += [mktiny.pack_string(name), struct.pack("<I%dQ" % len(ne), len(ne), *ne), struct.pack("<IQ", 0 if norm else 1, offset)]
        offset += (n * (4 if norm else 2) + 31) // 32 * 32
    head = b"".join(head)
    with open(a.out, "wb") as out:
        out.write(head + bytes(-len(head) % 32))
        for name, ne in shapes:
            norm = len(ne) == 1
            left = (ne[0] * 4 if norm else ne[0] * ne[1] * 2)
            pad = -left % 32
            if norm:
                out.write(struct.pack("<f", 1.0) * ne[0])
                left = 0
            start = rng.randrange(0, 65536) * 2
            while left > 0:
                n = min(left, len(block) - start)
                out.write(block[start:start + n])
                left, start = left - n, 0
            out.write(bytes(pad))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""mktiny.py - tiny random GGUF models, the same bytes on every machine.

Owns the shapes, weights, tokenizer and metadata of the models used by tests and by the reference
(tools/reference).  Standard library only.  Knows neither torch nor llama.cpp.

    mktiny.py FAMILY OUT.gguf     write one model (well under 1 MB, about 0.1 s)
    mktiny.py --all DIR           write DIR/<family>.gguf for every family
    mktiny.py --sha256            print the SHA-256 of every model instead of writing it
    mktiny.py --list              names of the families

Weights are a pure function of (family, seed, Hugging Face tensor name, element index).  Element i of a
tensor in its Hugging Face shape, row-major:
    key  = FNV-1a-64("family/seed/name")
    h    = splitmix64 finaliser of key + (i/4 + 1) * 0x9E3779B97F4A7C15   (mod 2^64)
    u    = 16 bits of h at bit 16 * (i mod 4)
    x[i] = base + (2u + 1 - 65536) * m * 2^-24       uniform in base +- m/256
m < 256 is an integer chosen per kind of tensor, base is 1 for norm weights (0 where Hugging Face stores
w - 1, as gemma does) and 0 otherwise: every value is exact in float32, no libm is involved.
Rows of the output matrix that are not printable ASCII are divided by 8, so greedy text stays printable.

Token id b < 256 is byte b.  Then one merge product that text never contains, and control tokens.
"""
import argparse
import hashlib
import os
import struct
import sys
from array import array

N_VOCAB, N_EMBD, N_LAYER, N_HEAD, N_CTX = 320, 64, 3, 4, 256
BOS, EOT, IM_START, IM_END, PAD = 257, 258, 259, 260, 261

# Differences between families; every key is read below and by tools/reference/make_goldens.py.
#   head_dim, n_kv     per-head width, KV heads          n_ff  MLP inner width
#   swa, swa_pattern   sliding window in tokens; layer il is global iff (il + 1) % swa_pattern == 0
#   gelu               the MLP uses tanh-GELU (else SiLU)
FAMILIES = {
    "llama":  dict(seed=9, head_dim=16, n_kv=2, n_ff=128, eps=1e-5, theta=10000.0, gelu=False),
    "qwen2":  dict(seed=2, head_dim=16, n_kv=2, n_ff=128, eps=1e-6, theta=1000000.0, gelu=False),
    "qwen3":  dict(seed=12, head_dim=32, n_kv=2, n_ff=128, eps=1e-6, theta=1000000.0, gelu=False),
    "gemma2": dict(seed=98, head_dim=32, n_kv=2, n_ff=128, eps=1e-6, theta=10000.0, gelu=True,
                   swa=8, swa_pattern=2, attn_softcap=5.0, final_softcap=2.0),
    "gemma3": dict(seed=37, head_dim=16, n_kv=2, n_ff=128, eps=1e-6, theta=1000000.0, gelu=True,
                   swa=8, swa_pattern=3, theta_swa=10000.0),
    "gpt2":   dict(seed=16, head_dim=16, n_kv=4, n_ff=256, eps=1e-5, theta=None, gelu=True),
}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# ---------------------------------------------------------------------------------------- weights

M64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MATRIX_M = {64: 67, 128: 47, 256: 33}   # fan-in -> m: std 1.2 / sqrt(fan-in) of a uniform value


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


def hf_weight(family, name, shape):
    """Values of one Hugging Face tensor, row-major in its Hugging Face shape."""
    key = "%s/%d/%s" % (family, FAMILIES[family]["seed"], name)
    n = 1
    for d in shape:
        n *= d
    gemma = family.startswith("gemma")
    if len(shape) == 1:
        is_norm = "norm" in name or ".ln_" in name
        return uniform(key, n, 64, 1.0 if is_norm and name.endswith("weight") and not gemma else 0.0)
    if name.endswith(("embed_tokens.weight", "wte.weight")):
        tied = gemma or family == "gpt2"    # these rows are the output matrix too: kept small, or the
        values = uniform(key, n, 24 if gemma else 64 if tied else 255)  # model repeats its last token
        if tied:
            damp_rows(values, shape[1])
        return values
    if name.endswith("wpe.weight"):
        return uniform(key, n, 128)
    if name == "lm_head.weight":
        values = uniform(key, n, MATRIX_M[shape[1]])
        damp_rows(values, shape[1])
        return values
    fan_in = shape[0] if family == "gpt2" else shape[1]     # gpt2 stores [in, out]
    return uniform(key, n, MATRIX_M[fan_in])


# ---------------------------------------------------------------------------------------- tensors

def hf_shapes(family):
    """[(Hugging Face name, shape)] of every stored tensor (tied output matrices are not stored)."""
    f = FAMILIES[family]
    e, ff, q, kv = N_EMBD, f["n_ff"], N_HEAD * f["head_dim"], f["n_kv"] * f["head_dim"]
    if family == "gpt2":
        out = [("transformer.wte.weight", (N_VOCAB, e)), ("transformer.wpe.weight", (N_CTX, e))]
        for il in range(N_LAYER):
            p = "transformer.h.%d." % il
            out += [(p + "ln_1.weight", (e,)), (p + "ln_1.bias", (e,)),
                    (p + "attn.c_attn.weight", (e, 3 * e)), (p + "attn.c_attn.bias", (3 * e,)),
                    (p + "attn.c_proj.weight", (e, e)), (p + "attn.c_proj.bias", (e,)),
                    (p + "ln_2.weight", (e,)), (p + "ln_2.bias", (e,)),
                    (p + "mlp.c_fc.weight", (e, ff)), (p + "mlp.c_fc.bias", (ff,)),
                    (p + "mlp.c_proj.weight", (ff, e)), (p + "mlp.c_proj.bias", (e,))]
        return out + [("transformer.ln_f.weight", (e,)), ("transformer.ln_f.bias", (e,))]

    out = [("model.embed_tokens.weight", (N_VOCAB, e))]
    for il in range(N_LAYER):
        p = "model.layers.%d." % il
        out += [(p + "input_layernorm.weight", (e,))]
        for proj, width in (("q", q), ("k", kv), ("v", kv)):
            out.append((p + "self_attn.%s_proj.weight" % proj, (width, e)))
            if family == "qwen2":
                out.append((p + "self_attn.%s_proj.bias" % proj, (width,)))
        if family in ("qwen3", "gemma3"):
            out += [(p + "self_attn.q_norm.weight", (f["head_dim"],)),
                    (p + "self_attn.k_norm.weight", (f["head_dim"],))]
        out += [(p + "self_attn.o_proj.weight", (e, q)),
                (p + "post_attention_layernorm.weight", (e,))]
        if family.startswith("gemma"):
            out += [(p + "pre_feedforward_layernorm.weight", (e,)),
                    (p + "post_feedforward_layernorm.weight", (e,))]
        out += [(p + "mlp.gate_proj.weight", (ff, e)), (p + "mlp.up_proj.weight", (ff, e)),
                (p + "mlp.down_proj.weight", (e, ff))]
    out.append(("model.norm.weight", (e,)))
    if not family.startswith("gemma"):
        out.append(("lm_head.weight", (N_VOCAB, e)))
    return out


GGUF_NAMES = {      # the part of the Hugging Face name after "layers.N." / "h.N." -> after "blk.N."
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}
GGUF_NAMES_GEMMA = dict(GGUF_NAMES, post_attention_layernorm="post_attention_norm",
                        pre_feedforward_layernorm="ffn_norm", post_feedforward_layernorm="post_ffw_norm")
GGUF_NAMES_TOP = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
}


def gguf_name(family, name):
    stem, suffix = name.rsplit(".", 1)
    if stem in GGUF_NAMES_TOP:
        return "%s.%s" % (GGUF_NAMES_TOP[stem], suffix)
    _, _, il, rest = stem.split(".", 3)
    names = GGUF_NAMES_GEMMA if family.startswith("gemma") else GGUF_NAMES
    return "blk.%s.%s.%s" % (il, names[rest], suffix)


def transposed(values, n_rows, n_cols):
    out = array("f")
    for col in range(n_cols):
        out += values[col::n_cols]
    return out


def rope_interleaved(values, head_dim, n_cols):
    """Rows of each head from (first half, second half) to pairs: new row 2j+p = old row p*head_dim/2 + j.
    llama.cpp rotates neighbouring rows for the llama architecture; q and k activations are in this order."""
    out, half = array("f"), head_dim // 2
    for head in range(0, len(values) // n_cols, head_dim):
        for j in range(half):
            for row in (head + j, head + half + j):
                out += values[row * n_cols:(row + 1) * n_cols]
    return out


def gguf_tensors(family):
    """[(GGUF name, ne with ne[0] contiguous, array('f'))]"""
    out = []
    for name, shape in hf_shapes(family):
        values = hf_weight(family, name, shape)
        if family == "gpt2" and len(shape) == 2 and ".h." in name:
            values, shape = transposed(values, *shape), shape[::-1]
        elif family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = rope_interleaved(values, FAMILIES[family]["head_dim"], shape[1])
        elif family.startswith("gemma") and len(shape) == 1:
            values = array("f", [1.0 + x for x in values])
        out.append((gguf_name(family, name), shape[::-1], values))
    return out


# --------------------------------------------------------------------------------------- metadata

U32, I32, F32, BOOL, STR, ARR = 4, 5, 6, 7, 8, 9      # GGUF value types


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
    f = FAMILIES[family]
    tokens, types, merges = tokenizer()
    kv = [("general.architecture", STR, family), ("general.type", STR, "model"),
          ("general.name", STR, "tiny-" + family), ("general.file_type", U32, 0),
          ("general.quantization_version", U32, 2)]

    def arch(key, vtype, value):
        kv.append((family + "." + key, vtype, value))

    arch("block_count", U32, N_LAYER)
    arch("context_length", U32, N_CTX)
    arch("embedding_length", U32, N_EMBD)
    arch("feed_forward_length", U32, f["n_ff"])
    arch("attention.head_count", U32, N_HEAD)
    if family == "gpt2":
        arch("attention.layer_norm_epsilon", F32, f["eps"])
    else:
        arch("attention.head_count_kv", U32, f["n_kv"])
        arch("attention.layer_norm_rms_epsilon", F32, f["eps"])
        if family != "gemma2":
            arch("rope.freq_base", F32, f["theta"])
        if family != "qwen2":
            arch("attention.key_length", U32, f["head_dim"])
            arch("attention.value_length", U32, f["head_dim"])
    if family == "llama":
        arch("vocab_size", U32, N_VOCAB)
        arch("rope.dimension_count", U32, f["head_dim"])
    if "swa" in f:
        arch("attention.sliding_window", U32, f["swa"])
    if family == "gemma2":
        arch("attn_logit_softcapping", F32, f["attn_softcap"])
        arch("final_logit_softcapping", F32, f["final_softcap"])
    if family == "gemma3":
        arch("rope.freq_base_swa", F32, f["theta_swa"])
        # Not written by the converter (the default is 6): without it no layer of three were global.
        arch("attention.sliding_window_pattern", U32, f["swa_pattern"])

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
    ap.add_argument("family", nargs="?", choices=sorted(FAMILIES))
    ap.add_argument("out", nargs="?", metavar="OUT.gguf")
    args = ap.parse_args()
    if args.list:
        print("\n".join(FAMILIES))
    elif args.sha256:
        for family in FAMILIES:
            print("%s  %s" % (hashlib.sha256(gguf_bytes(family)).hexdigest(), family))
    elif args.all:
        os.makedirs(args.all, exist_ok=True)
        for family in FAMILIES:
            write_gguf(family, os.path.join(args.all, family + ".gguf"))
    elif args.family and args.out:
        write_gguf(args.family, args.out)
    else:
        ap.error("give FAMILY and OUT.gguf, or one of --all, --sha256, --list")


if __name__ == "__main__":
    main()

"""Tiny models with circuits planted in them, written as GGUF files: what an analysis must find, and nothing else.

llama architecture, 2 layers of 4 heads of 64, hidden 128, own output matrix.  The residual stream is cut into parts:

    0 … 39    E   the token: 40 signs of length 1, of every token other ones
    40 … 79   P   the token before (written by a previous-token head)
    80 … 119  O   the answer: the output matrix reads only this, against the signs of each token
    120       1   always 1
    121       C   class of the token (names: 1)

RoPE with base 1e8: pairs 0 … 4 of a head turn by 1, .56, .32, .18, .1 per position, pairs from 12 on hardly at all.  So a head
sees positions with the first and contents with the last 40 channels.  Heads and MLPs that are not planted are small noise.
"""
import math
import os
import struct
import sys
from array import array

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "tiny"))
import mktiny  # noqa: E402

D, HEADS, DIM, FF, LAYERS, PART, CONTENT = 128, 4, 64, 64, 2, 40, 24
E, P, O, ONE, CLASS = 0, 40, 80, 120, 121
NAMES = range(ord("A"), ord("Z") + 1)


def signs(token):
    bits = mktiny.uniform("planted/token/%d" % token, PART, 1)
    return [math.copysign(1 / math.sqrt(PART), x) for x in bits]


class Model:
    def __init__(self, seed=1, noise=0.3):
        """noise: of what is not planted, against weights of 1/√inputs"""
        self.t = {}
        self.seed = seed
        for il in range(LAYERS):
            b = "blk.%d." % il
            for name, ins, outs in (("attn_q", D, HEADS * DIM), ("attn_k", D, HEADS * DIM), ("attn_v", D, HEADS * DIM),
                                    ("attn_output", HEADS * DIM, D), ("ffn_gate", D, FF), ("ffn_up", D, FF),
                                    ("ffn_down", FF, D)):
                self.noise(b + name, ins, outs, noise if name in ("attn_output", "ffn_down") else 1)
            self.t[b + "attn_norm"] = (D,), array("f", [1] * D)
            self.t[b + "ffn_norm"] = (D,), array("f", [1] * D)
        self.t["output_norm"] = (D,), array("f", [1] * D)
        embedding, output = array("f"), array("f")
        for token in range(mktiny.N_VOCAB):
            row, out = [0.0] * D, [0.0] * D
            row[E:E + PART] = signs(token)
            row[ONE], row[CLASS] = 1, float(token in NAMES)
            out[O:O + PART] = [2 * x for x in signs(token)]
            embedding.extend(row)
            output.extend(out)
        self.t["token_embd"] = (D, mktiny.N_VOCAB), embedding
        self.t["output"] = (D, mktiny.N_VOCAB), output

    def noise(self, name, ins, outs, scale):
        unit = mktiny.uniform("planted/%d/%s" % (self.seed, name), ins * outs, 1)  # ± 1/256
        k = scale * 256 * math.sqrt(3) / 50 / math.sqrt(ins)
        self.t[name] = (ins, outs), array("f", [x * k for x in unit])

    def clear(self, layer, head):
        """A head that does nothing yet."""
        b = "blk.%d." % layer
        for name in ("attn_q", "attn_k", "attn_v"):
            w = self.t[b + name][1]
            for r in range(head * DIM, (head + 1) * DIM):
                w[r * D:(r + 1) * D] = array("f", [0] * D)
        w = self.t[b + "attn_output"][1]
        for r in range(D):
            w[r * HEADS * DIM + head * DIM:r * HEADS * DIM + (head + 1) * DIM] = array("f", [0] * DIM)

    def read(self, name, layer, head, channel, source, weight):
        """A channel of the head reads `weight` times one place of the (normalised) stream."""
        self.t["blk.%d.%s" % (layer, name)][1][(head * DIM + channel) * D + source] = weight

    def write(self, layer, head, channel, target, weight):
        self.t["blk.%d.attn_output" % layer][1][target * HEADS * DIM + head * DIM + channel] = weight

    def copy(self, layer, head, source, target, weight):
        """What the head attends to: part `source` there is written to part `target` here."""
        for i in range(PART):
            self.read("attn_v", layer, head, i, source + i, 1)
            self.write(layer, head, i, target + i, weight)

    def previous_token_head(self, layer, head):
        self.clear(layer, head)
        for pair in range(5):
            turn = 1e8 ** (-pair / (DIM / 2))  # q is turned back by one position: q · k is largest one behind
            self.read("attn_q", layer, head, 2 * pair, ONE, 2.5 * math.cos(-turn))
            self.read("attn_q", layer, head, 2 * pair + 1, ONE, 2.5 * math.sin(-turn))
            self.read("attn_k", layer, head, 2 * pair, ONE, 2.5)
        self.copy(layer, head, E, P, 0.12)

    def induction_head(self, layer, head):
        """Looks for the token whose predecessor is the current one, and answers it."""
        self.clear(layer, head)
        for i in range(PART):
            self.read("attn_q", layer, head, CONTENT + i, E + i, 1.6)
            self.read("attn_k", layer, head, CONTENT + i, P + i, 1.6)
        self.copy(layer, head, E, O, 0.5)

    def name_mover(self, layer, head):
        """Looks for names and answers what it finds."""
        self.clear(layer, head)
        self.read("attn_q", layer, head, DIM - 1, ONE, 3)
        self.read("attn_k", layer, head, DIM - 1, CLASS, 3)
        self.copy(layer, head, E, O, 0.5)

    def save(self, path):
        tokens, types, merges = mktiny.tokenizer()
        u32, f32, text = mktiny.U32, mktiny.F32, mktiny.STR
        kv = [("general.architecture", text, "llama"), ("general.name", text, "planted"), ("general.file_type", u32, 0),
              ("llama.context_length", u32, 256), ("llama.embedding_length", u32, D), ("llama.block_count", u32, LAYERS),
              ("llama.feed_forward_length", u32, FF), ("llama.attention.head_count", u32, HEADS),
              ("llama.attention.head_count_kv", u32, HEADS), ("llama.attention.key_length", u32, DIM),
              ("llama.attention.value_length", u32, DIM), ("llama.rope.dimension_count", u32, DIM),
              ("llama.rope.freq_base", f32, 1e8), ("llama.attention.layer_norm_rms_epsilon", f32, 1e-6),
              ("llama.vocab_size", u32, mktiny.N_VOCAB),
              ("tokenizer.ggml.model", text, "gpt2"), ("tokenizer.ggml.pre", text, "gpt-2"),
              ("tokenizer.ggml.tokens", (mktiny.ARR, text), tokens),
              ("tokenizer.ggml.token_type", (mktiny.ARR, mktiny.I32), types),
              ("tokenizer.ggml.merges", (mktiny.ARR, text), merges),
              ("tokenizer.ggml.bos_token_id", u32, mktiny.BOS), ("tokenizer.ggml.eos_token_id", u32, mktiny.IM_END),
              ("tokenizer.ggml.add_bos_token", mktiny.BOOL, False)]
        head, data = [b"GGUF", struct.pack("<IQQ", 3, len(self.t), len(kv))], bytearray()
        for key, kind, value in kv:
            tag = kind[0] if isinstance(kind, tuple) else kind
            head += [mktiny.pack_string(key), struct.pack("<I", tag), mktiny.pack_value(kind, value)]
        for name, (ne, values) in self.t.items():
            head += [mktiny.pack_string(name + ".weight"), struct.pack("<I%dQ" % len(ne), len(ne), *ne),
                     struct.pack("<IQ", 0, len(data))]
            data += values.tobytes()
            data += bytes(-len(data) % 32)
        head = b"".join(head)
        with open(path, "wb") as f:
            f.write(head + bytes(-len(head) % 32) + bytes(data))


def induction(seed=1, previous=2, match=1):
    """A previous-token head in layer 0, an induction head in layer 1."""
    m = Model(seed)
    m.previous_token_head(0, previous)
    m.induction_head(1, match)
    return m


def mover(seed=1, layer=1, head=3):
    m = Model(seed)
    m.name_mover(layer, head)
    return m

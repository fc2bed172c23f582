"""Lens, attribution and flow over HTTP against the activations that transformers computed (tests/golden/*.safetensors) and
the weights of tools/tiny/mktiny.py, put together here in plain Python.

    logit lens     golden lens_in · output matrix (and what follows it)
    tuned lens     golden resid_post through a translator of the test, the final norm, the output matrix
    attribution    golden parts of the residual stream · the output's row folded through the final norm
    flow           norms and cosines of golden rows
"""
import json
import math
import os
import struct
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "api"))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools", "tiny"))
import harness  # noqa: E402
import mktiny  # noqa: E402

harness.need(harness.tiny())
# RMSNorm and LayerNorm, tied and own output, a bias on the output, multipliers, a soft cap, post norms, parallel blocks, one
# mixer a layer, experts
FAMILIES = ("llama", "gpt2", "cohere", "gemma2", "granite", "phi2", "qwen3moe", "nemotron_h")
TOLERANCE = 1e-3


def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    meta, out = header.pop("__metadata__"), {}
    for name, t in header.items():
        begin, end = (8 + n + o for o in t["data_offsets"])
        out[name] = (t["shape"], struct.unpack("<%df" % ((end - begin) // 4), raw[begin:end]))
    for name, other in json.loads(meta.get("same", "{}")).items():
        out[name] = out[other]
    return meta, out


def write_safetensors(path, tensors):
    """{name: (shape, floats)}"""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack("<%df" % len(values), *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + data)


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def norm_of(x):
    return math.sqrt(dot(x, x))


class Family:
    def __init__(self, name):
        self.name = name
        meta, self.golden = read_safetensors(os.path.join(HERE, name + ".safetensors"))
        self.ids = (json.loads(meta["prompt_ids"]) + json.loads(meta["generated_ids"]))
        self.n_layer = mktiny.recipe(name)["n_layer"]
        weights = {n: (ne, v) for n, ne, v in mktiny.gguf_tensors(name)}
        ne, flat = weights.get("output.weight", weights["token_embd.weight"])
        self.n_embd = ne[0]
        self.matrix = [flat[i:i + ne[0]] for i in range(0, len(flat), ne[0])]
        self.out_bias = weights.get("output.bias", (None, None))[1]
        self.norm_weight = weights["output_norm.weight"][1]
        self.norm_bias = weights.get("output_norm.bias", (None, None))[1]
        self.keys = {key.split(".", 1)[1]: value for key, _, value in mktiny.recipe(name)["keys"] if "." in key}
        self.centred = "attention.layer_norm_rms_epsilon" not in self.keys and name != "nemotron_h"
        self.eps = self.keys.get("attention.layer_norm_rms_epsilon", self.keys.get("attention.layer_norm_epsilon"))
        self.n_rows = self.golden["resid_post.0"][0][0]
        self.ids = self.ids[:self.n_rows]

    def row(self, point, i):
        shape, flat = self.golden[point]
        return flat[i * shape[-1]:(i + 1) * shape[-1]]

    def has(self, point):
        return point in self.golden

    def scale(self, x):
        mean = math.fsum(x) / len(x) if self.centred else 0
        return mean, 1 / math.sqrt(math.fsum((v - mean) ** 2 for v in x) / len(x) + self.eps)

    def norm(self, x):
        mean, s = self.scale(x)
        return [(v - mean) * s * w + (self.norm_bias[i] if self.norm_bias else 0)
                for i, (v, w) in enumerate(zip(x, self.norm_weight))]

    def logits(self, y):
        raw = [dot(u, y) + (self.out_bias[t] if self.out_bias else 0) for t, u in enumerate(self.matrix)]
        if "final_logit_softcapping" in self.keys:
            cap = self.keys["final_logit_softcapping"]
            return [cap * math.tanh(x / cap) for x in raw]
        if "logit_scale" in self.keys:
            k = self.keys["logit_scale"]
            return [x / k if self.name.startswith("granite") else x * k for x in raw]
        return raw


def logprobs(x):
    top = max(x)
    total = top + math.log(math.fsum(math.exp(v - top) for v in x))
    return [v - total for v in x]


class Lens(unittest.TestCase):
    worst = 0.0

    def near(self, got, want, scale, what):
        error = abs(got - want) / scale
        Lens.worst = max(Lens.worst, error)
        self.assertLessEqual(error, TOLERANCE, what)

    def ask(self, server, route, family, **fields):
        status, reply = server.post("/v1/analyze/" + route, dict({"prompt": family.ids}, **fields))
        self.assertEqual(status, 200, reply)
        return reply

    def test_every_number_is_that_of_transformers(self):
        for name in FAMILIES:
            family = Family(name)
            with tempfile.TemporaryDirectory() as assets:
                translators = make_translators(family, os.path.join(assets, "t.safetensors"))
                server = harness.Server(harness.tiny(name), args=["--cache-type", "f32", "--flash-attn", "off",
                                                                  "--parallel", "1", "--assets", assets])
                try:
                    for check in (self.logit_lens, self.attribution, self.flow):
                        with self.subTest(family=name, check=check.__name__):
                            check(server, family)
                    with self.subTest(family=name, check="tuned_lens"):
                        self.tuned_lens(server, family, translators)
                finally:
                    server.stop()
        print("largest error %.2g" % Lens.worst)

    def check_rows(self, family, reply, input_of):
        model = {}
        for r in reply["rows"]:
            if r["layer"] == family.n_layer - 1:
                model[r["position"]] = family.logits(input_of(r["layer"], r["position"]))
        for r in reply["rows"]:
            logits = family.logits(input_of(r["layer"], r["position"]))
            scale = max(map(abs, logits))
            lp, final = logprobs(logits), logprobs(model[r["position"]])
            for t in r["top"] + r["targets"]:
                self.near(t["logit"], logits[t["id"]], scale, r)
                self.near(t["logprob"], lp[t["id"]], scale, r)
            best = sorted(logits, reverse=True)[:len(r["top"])]
            for got, want in zip(r["top"], best):
                self.near(got["logit"], want, scale, r)
            for t in r["targets"]:  # ranks of neighbours closer than the tolerance may swap
                low = sum(x > logits[t["id"]] + TOLERANCE * scale for x in logits)
                high = sum(x > logits[t["id"]] - TOLERANCE * scale for x in logits)
                self.assertTrue(low <= t["rank"] <= high, r)
            self.near(r["entropy"], -math.fsum(math.exp(x) * x for x in lp), 1, r)
            kl = math.fsum(math.exp(a) * (a - b) for a, b in zip(final, lp))
            self.near(r["kl_from_model"], kl, max(1, kl), r)

    def logit_lens(self, server, family):
        reply = self.ask(server, "lens", family, positions="all", targets=[10, 200], top_k=3)
        self.assertEqual(len(reply["rows"]), family.n_layer * family.n_rows)
        self.assertLess(reply["logit_error"], 1e-3)
        self.check_rows(family, reply, lambda layer, i: family.row("lens_in.%d" % layer, i))

    def tuned_lens(self, server, family, translators):
        def through(layer, i):
            h = family.row("resid_post.%d" % layer, i)
            if layer + 1 in translators:
                weight, bias = translators[layer + 1]
                n = family.n_embd
                h = [v + dot(weight[k * n:(k + 1) * n], h) + bias[k] for k, v in enumerate(h)]
            return family.norm(h)
        reply = self.ask(server, "lens", family, positions=[1, -1], targets=[7], tuned="t")
        self.assertEqual(reply["method"], "tuned_lens")
        self.check_rows(family, reply, through)

    def attribution(self, server, family):
        i = family.n_rows - 1
        post_norms = family.name == "gemma2"
        for fields in ({"target": 65}, {"target": 65, "against": 66}):
            if post_norms:
                status, reply = server.post("/v1/analyze/attribution", dict({"prompt": family.ids}, **fields))
                self.assertEqual((status, reply["error"]["param"]), (422, "heads"))
            reply = self.ask(server, "attribution", family, heads=not post_norms, **fields)
            u, constant = list(family.matrix[65]), family.out_bias[65] if family.out_bias else 0
            if "against" in fields:
                u = [a - b for a, b in zip(u, family.matrix[66])]
                constant -= family.out_bias[66] if family.out_bias else 0
            resid = family.row("resid_post.%d" % (family.n_layer - 1), i)
            mean, s = family.scale(resid)
            g = [a * w for a, w in zip(u, family.norm_weight)]
            if family.centred:
                middle = math.fsum(g) / len(g)
                g = [v - middle for v in g]
            if family.norm_bias:
                constant += dot(u, family.norm_bias)
            part = lambda x: s * dot(g, x)
            logit = part(resid) + constant
            scale = max(1, abs(logit))
            self.near(reply["logit"], logit, scale, "logit")
            self.near(reply["sum"], logit, scale, "sum")
            self.near(reply["engine_logit"], logit, scale, "engine")
            self.near(reply["constant"], constant, scale, "constant")
            self.near(reply["embedding"], part(family.row("resid_pre.0", i)), scale, "embedding")
            for layer in reply["layers"]:
                il = layer["layer"]
                for key, point in (("attention", "attn_out_post"), ("mlp", "mlp_out_post")):
                    point = "%s.%d" % (point, il)
                    self.assertEqual(layer[key] is None, not family.has(point), point)
                    if layer[key] is not None:
                        self.near(layer[key], part(family.row(point, i)), scale, point)
                if "heads" not in layer or not family.has("attn_head_out.%d" % il):
                    continue
                n = family.n_embd
                out = family.row("attn_head_out.%d" % il, i)
                k = family.keys.get("residual_scale", 1)
                for h, got in enumerate(layer["heads"]):
                    self.near(got, k * part(out[h * n:(h + 1) * n]), scale, (il, h))
                self.near(math.fsum(layer["heads"]) + layer["attention_rest"], layer["attention"], scale, il)

    def flow(self, server, family):
        reply = self.ask(server, "flow", family)
        cosine = lambda a, b: dot(a, b) / (norm_of(a) * norm_of(b))
        for k, i in enumerate(reply["positions"]):
            before = family.row("resid_pre.0", i)
            last = family.row("resid_post.%d" % (family.n_layer - 1), i)
            self.near(reply["norm_pre"][k], norm_of(before), norm_of(before), "norm_pre")
            for layer in reply["layers"]:
                il = layer["layer"]
                after = family.row("resid_post.%d" % il, i)
                self.near(layer["norm"][k], norm_of(after), norm_of(after), layer)
                self.near(layer["cosine"][k], cosine(after, before), 1, layer)
                self.near(layer["cosine_to_last"][k], cosine(after, last), 1, layer)
                for key, point in (("attention", "attn_out_post"), ("mlp", "mlp_out_post")):
                    point = "%s.%d" % (point, il)
                    self.assertEqual(layer[key + "_norm"][k] is None, not family.has(point), point)
                    if family.has(point):
                        x = family.row(point, i)
                        self.near(layer[key + "_norm"][k], norm_of(x), norm_of(x), layer)
                        self.near(layer[key + "_cosine"][k], cosine(x, before), 1, layer)
                before = after


def make_translators(family, path):
    """Small random ones for what enters blocks 1 …, as the tuned-lens package names them."""
    out, tensors = {}, {}
    for i in range(1, family.n_layer):
        weight = mktiny.uniform("translator/%s/%d" % (family.name, i), family.n_embd ** 2, 20)
        bias = mktiny.uniform("bias/%s/%d" % (family.name, i), family.n_embd, 60)
        out[i] = (weight, bias)
        prefix = "layer_translators." if i % 2 else ""
        tensors["%s%d.weight" % (prefix, i)] = ([family.n_embd, family.n_embd], weight)
        tensors["%s%d.bias" % (prefix, i)] = ([family.n_embd], bias)
    write_safetensors(path, tensors)
    return out


if __name__ == "__main__":
    unittest.main()

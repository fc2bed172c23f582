"""Vectors of texts against Hugging Face transformers (tests/golden/embeddings.json), through HTTP."""
import base64
import hashlib
import json
import math
import os
import struct
import unittest

import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "api"))
import harness  # noqa: E402

with open(os.path.join(harness.SOURCE, "tests", "golden", "embeddings.json")) as _f:
    GOLDEN = json.load(_f)
harness.need(*[harness.tiny(f) for f in GOLDEN["models"]])
GELU = {"gemma2", "gpt2", "encoder-bert", "encoder-bert-cls"}  # ggml's GELU goes through a half-precision table


def floats(text):
    raw = base64.b64decode(text, validate=True)
    return struct.unpack("<%df" % (len(raw) // 4), raw)


class Golden(unittest.TestCase):
    def test_vectors_are_those_of_transformers(self):
        worst = {}
        for family, sha in GOLDEN["models"].items():
            with open(harness.tiny(family), "rb") as f:
                self.assertEqual(hashlib.sha256(f.read()).hexdigest(), sha, "mktiny.py made another model")
            server = harness.Server(harness.tiny(family), ["--parallel", "2", "--cache-type", "f32", "--flash-attn", "off"])
            try:
                cases = [c for c in GOLDEN["cases"] if c["family"] == family]
                for pooling in cases[0]["vectors"]:
                    status, r = server.post("/v1/embeddings", {
                        "input": [c["ids"] for c in cases], "pooling": pooling, "normalize": False, "encoding_format": "base64"})
                    self.assertEqual(status, 200, r)
                    for case, item in zip(cases, r["data"]):
                        got, want = floats(item["embedding"]), floats(case["vectors"][pooling])
                        self.assertEqual(len(got), len(want))
                        error = max(abs(a - b) for a, b in zip(got, want)) / max(map(abs, want))
                        worst[family] = max(worst.get(family, 0), error)
            finally:
                server.stop()
        print("worst relative error:", {f: float("%.2g" % e) for f, e in worst.items()})
        for family, error in worst.items():
            self.assertFalse(math.isnan(error))
            self.assertLess(error, 2e-3 if family in GELU else 2e-5, family)


if __name__ == "__main__":
    unittest.main()

"""Interventions over HTTP against the same edits done in transformers with forward hooks (tests/golden/edits.json, made by
tools/reference/make_edits.py): the logits of the prompt's last rows."""
import base64
import hashlib
import json
import os
import struct
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "api"))
import harness  # noqa: E402

harness.need(harness.tiny())
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "edits.json")) as f:
    GOLDEN = json.load(f)


def worst(got, want):
    scale = max(abs(x) for row in want for x in row)
    return max(abs(g - w) for a, b in zip(got, want) for g, w in zip(a, b)) / scale


class Edits(unittest.TestCase):
    def test_every_operation_equals_transformers(self):
        for family in GOLDEN["families"]:
            name = family["family"]
            path = harness.tiny(name)
            with open(path, "rb") as f:
                self.assertEqual(hashlib.sha256(f.read()).hexdigest(), family["gguf_sha256"], "goldens of another model")
            server = harness.Server(path, args=["--cache-type", "f32", "--flash-attn", "off", "--parallel", "1"])
            try:
                for case in family["cases"]:
                    with self.subTest(family=name, interventions=str(case["interventions"])[:120]):
                        self.check(server, family, case)
            finally:
                server.stop()

    def check(self, server, family, case):
        n = len(family["prompt_ids"])
        status, reply = server.post("/v1/completions", {
            "prompt": family["prompt_ids"], "max_tokens": 0, "interventions": case["interventions"],
            "activation_hooks": [{"component": "lm_head", "positions": [n - 2, n - 1]}],
            "activation_format": {"encoding": "base64"}})
        self.assertEqual(status, 200, reply)
        entry = [e for key in reply["activations"] for e in reply["activations"][key]][0]
        got = harness.unpack(entry)
        data = base64.b64decode(case["logits"])
        flat, width = struct.unpack("<%df" % (len(data) // 4), data), len(got[0])
        want = [flat[i:i + width] for i in range(0, len(flat), width)]
        self.assertEqual(len(got), len(want))
        error = worst(got, want)
        print("%s %s: %.2g" % (family["family"], case["interventions"][0]["op"], error))
        self.assertLessEqual(error, family["tolerance"])


if __name__ == "__main__":
    unittest.main()

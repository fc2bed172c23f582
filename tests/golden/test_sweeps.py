"""Sweeps over HTTP against the same sweeps done place by place in transformers with forward hooks (tests/golden/sweeps.json,
made by tools/reference/make_sweeps.py)."""
import hashlib
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "api"))
import harness  # noqa: E402

harness.need(harness.tiny())
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "sweeps.json")) as f:
    GOLDEN = json.load(f)


def flat(x):
    return [z for y in x for z in flat(y)] if isinstance(x, list) else [x]


class Sweeps(unittest.TestCase):
    def test_every_place_equals_transformers(self):
        for family in GOLDEN["families"]:
            path = harness.tiny(family["family"])
            with open(path, "rb") as f:
                self.assertEqual(hashlib.sha256(f.read()).hexdigest(), family["gguf_sha256"], "goldens of another model")
            for flash in ("off", "on"):
                server = harness.Server(path, args=["--cache-type", "f32", "--flash-attn", flash, "--parallel", "4"])
                try:
                    for case in family["cases"]:
                        self.check(server, family, case, flash)
                finally:
                    server.stop()

    def check(self, server, family, case, flash):
        status, got = server.post("/api/v1/sweeps", dict(case["body"], wait=True))
        self.assertEqual(status, 200, got)
        want, worst, places = case["result"], 0, 0
        tolerance = family["tolerance"] * (10 if flash == "on" else 1)  # ggml's flash attention rounds queries to half
        self.assertAlmostEqual(got["clean"]["value"], want["clean"], delta=tolerance)
        if "corrupted" in want:
            self.assertAlmostEqual(got["corrupted"]["value"], want["corrupted"], delta=tolerance)
        for g, w in zip(got["sweeps"], want["sweeps"]):
            g, w = flat(g["values"]), flat(w)
            self.assertEqual(len(g), len(w))
            worst, places = max([worst] + [abs(a - b) for a, b in zip(g, w)]), places + len(w)
        print("%s, flash %s, %s %s: %d places, %.2g" % (family["family"], flash, case["body"]["op"], case["body"]["metric"], places, worst))
        self.assertLessEqual(worst, tolerance)


if __name__ == "__main__":
    unittest.main()

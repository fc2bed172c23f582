"""POST /v1/activations/patch (NeuroScope): fields in both vocabularies, numbers against the same interventions sent alone."""
import math
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny())
server = None
PROMPT, OTHER = "The fox", "A hen r"
WIDTH = 64


def setUpModule():
    global server
    server = harness.Server(harness.tiny(), args=["--parallel", "4", "--cache-type", "f32"])


def tearDownModule():
    server.stop()


def patch(*interventions, **fields):
    return server.post("/v1/activations/patch", dict({"prompt": PROMPT, "interventions": list(interventions)}, **fields))


def logits(*interventions):
    status, reply = server.post("/v1/completions", {
        "prompt": PROMPT, "max_tokens": 0, "interventions": list(interventions), "cache_prompt": False,
        "activation_hooks": [{"component": "lm_head", "positions": [-1]}], "activation_format": {"encoding": "base64"}})
    assert status == 200, reply
    return harness.unpack([e for k in reply["activations"].values() for e in k][0])[0]


def log_softmax(x):
    z = math.log(sum(math.exp(v) for v in x))
    return [v - z for v in x]


class Patch(ApiTest):
    def check(self, result, *interventions):
        before, after = log_softmax(logits()), log_softmax(logits(*interventions))
        top = max(range(len(before)), key=before.__getitem__)
        self.assertAlmostEqual(result["causal_effect"], after[top] - before[top], places=4)
        self.assertAlmostEqual(result["kl_divergence"], sum(math.exp(p) * (p - q) for p, q in zip(before, after)), places=4)
        self.assertEqual(result["prediction_changed"], max(range(len(after)), key=after.__getitem__) != top)
        order = sorted(range(len(after)), key=lambda i: -after[i])[:5]
        self.assertEqual([t["id"] for t in result["top_tokens"]], order)
        self.assertAlmostEqual(result["top_tokens"][0]["probability"], math.exp(after[order[0]]), places=5)
        self.assertAlmostEqual(result["top_tokens"][0]["probability_before"], math.exp(before[order[0]]), places=5)

    def test_every_type_of_neuroscope(self):
        v = [0.5] * WIDTH
        entries = [{"layer_name": "transformer.h.1"}, {"layer_name": "model.layers.0.self_attn", "component": "attention", "type": "mean_ablation"},
                   {"layer_name": "model.layers.2", "type": "noise_injection", "strength": 0.3, "seed": 5},
                   {"layer_name": "model.layers.1", "type": "activation_patching"},
                   {"layer_name": "model.layers.1.mlp", "component": "mlp", "type": "random_replacement", "seed": 2},
                   {"layer_name": "model.layers.2", "type": "scaled_intervention", "strength": 0.5, "target_positions": [2, 6]},
                   {"layer": 1, "type": "knockout", "positions": [6], "to": [0, 1]},
                   {"layer": 0, "component": "resid_post", "op": "add", "vector": v}]
        status, r = patch(*entries, baseline_prompt=OTHER)
        self.assertEqual(status, 200, r)
        self.assertEqual((r["success"], r["intervention_count"], len(r["results"])), (True, 8, 8))
        self.assertGreater(r["execution_time"], 0)
        same = [{"layer": 1, "component": "resid_post", "op": "zero"}, {"layer": 0, "component": "attn_out", "op": "mean"},
                {"layer": 2, "component": "resid_post", "op": "noise", "strength": 0.3, "seed": 5},
                {"layer": 1, "component": "resid_post", "op": "patch", "source": {"prompt": OTHER}},
                {"layer": 1, "component": "mlp_out", "op": "random", "seed": 2},
                {"layer": 2, "component": "resid_post", "op": "scale", "strength": 0.5, "positions": [2, 6]},
                {"layer": 1, "op": "knockout", "positions": [6], "to": [0, 1]},
                {"layer": 0, "component": "resid_post", "op": "add", "vector": v}]
        for got, one in zip(r["results"], same):
            with self.subTest(intervention=one):
                self.check(got, one)
        self.check(r["combined"], *same)
        self.assertEqual([(x["point"], x["layer"]) for x in r["results"][:2]], [("resid_post", 1), ("attn_out", 0)])

    def test_an_identity_changes_nothing(self):
        status, r = patch({"layer_name": "transformer.h.1", "type": "scaled_intervention"})
        self.assertEqual(status, 200, r)
        self.assertEqual((r["results"][0]["causal_effect"], r["results"][0]["kl_divergence"], r["results"][0]["prediction_changed"]), (0, 0, False))
        self.assertNotIn("combined", r)

    def test_refusals(self):
        good = {"layer_name": "transformer.h.1"}
        for entries, fields, status, param in (
                ([], {}, 400, "interventions"), ([3], {}, 400, "interventions[0]"), ([good, dict(good, type="zap")], {}, 400, "interventions[1].type"),
                ([dict(good, layer_name="transformer.h.9")], {}, 400, "interventions[0].layer_name"),
                ([good, dict(good, type="activation_patching")], {}, 422, "interventions[1]"),
                ([dict(good, type="activation_patching")], {"baseline_prompt": "A much longer prompt"}, 422, "interventions[0].source"),
                ([good, {"layer": 1, "component": "attn_head_out"}], {}, 422, "interventions[1]"),
                ([dict(good, target_positions=[99])], {}, 400, "interventions[0].target_positions"), ([good], {"prompt": ""}, 400, "prompt"),
                ([good], {"max_tokens": 3}, 400, "max_tokens"), ([good], {"model": "none"}, 404, "model"),
                ([dict(good, target_position=[1])], {}, 400, "interventions[0].target_position")):
            with self.subTest(entries=entries, fields=fields):
                got, r = patch(*entries, **fields)
                self.assertEqual((got, r["error"]["param"]), (status, param), r)


if __name__ == "__main__":
    unittest.main()

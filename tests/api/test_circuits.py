"""Circuits that were planted are found, all of them and nothing else; a model without them has none.  Errors of the routes."""
import os
import tempfile
import time
import unittest

import planted
from harness import ApiTest, Server, need, tiny

need(tiny())
ARGS = ["--cache-type", "f32", "--flash-attn", "off"]


class Planted(ApiTest):
    """One server for each model."""
    make = None

    @classmethod
    def setUpClass(cls):
        if cls.make is None:
            raise unittest.SkipTest("no model")
        cls.dir = tempfile.TemporaryDirectory(prefix="glia-planted-")
        path = os.path.join(cls.dir.name, "planted.gguf")
        cls.make().save(path)
        cls.server = Server(path, args=ARGS)

    @classmethod
    def tearDownClass(cls):
        if cls.make is not None:
            cls.server.stop()
            cls.dir.cleanup()

    def discover(self, **fields):
        status, reply = self.server.post("/v1/circuits/discover", dict({"phenomenon": "induction", "max_circuits": 100, "n_samples": 12}, **fields))
        self.assertEqual(status, 200, reply)
        return reply

    def heads(self, reply):
        return {(c["layer"], c["head"]) for c in reply["circuits"]}


class Induction(Planted):
    make = staticmethod(lambda: planted.induction(seed=1, previous=2, match=1))
    planted = {(0, 2), (1, 1)}

    def test_discovery_finds_the_planted_heads_and_no_other(self):
        for kind in ("zero_ablation", "mean_ablation", "activation_patching", "random_replacement"):
            reply = self.discover(target_components=["head"], intervention_types=[kind])
            self.assertTrue(reply["metadata"]["behaviour"]["present"])
            self.assertEqual(self.heads(reply), self.planted, (kind, reply))
            for c in reply["circuits"]:
                self.assertGreater(c["causal_effect"], 0)
                self.assertLessEqual(c["adjusted_p_value"], 0.05)
                self.assertTrue(c["interval"][0] <= c["causal_effect"] <= c["interval"][1])

    def test_whole_layers_are_found_too(self):
        reply = self.discover()
        self.assertEqual({(c["layer"], c["component"]) for c in reply["circuits"]}, {(0, "attention"), (1, "attention")})

    def test_attention_patterns_name_the_planted_heads_and_no_other(self):
        status, reply = self.server.post("/v1/analyze/attention", {"prompt": "The cat sat on the mat."})
        self.assertEqual(status, 200, reply)
        names = {(h["layer"], h["head"]): h for h in reply["attention_heads"]}
        self.assertEqual({k for k, h in names.items() if h["pattern_type"] == "previous_token"}, {(0, 2)})
        self.assertEqual({k for k, h in names.items() if h["pattern_type"] == "induction"}, {(1, 1)})
        for k in self.planted:
            self.assertGreater(names[k]["confidence"], 0.9)
        self.assertEqual({(c["layer"], c["head"]) for c in reply["circuit_components"]}, self.planted)

    def test_weights_say_that_the_one_reads_the_other_and_copies(self):
        status, reply = self.server.post("/v1/analyze/attention", {"prompt": "The cat sat on the mat.", "scope": "cross_layer"})
        self.assertEqual(status, 200, reply)
        (before, match), = [sorted(self.planted)]
        d, = reply["cross_layer_dependencies"]
        self.assertEqual(d["affected_heads"], [list(before), list(match)])
        self.assertAlmostEqual(d["strength"], planted.PART ** -0.5, places=2)  # |1 · 1| / (|1| |1|) of 40 channels
        self.assertGreater(d["strength"], 1.7 * reply["metadata"]["weights"]["unrelated_composition"])
        self.assertGreater(d["strength"], 4 * d["metadata"]["q_composition"])
        for h in reply["attention_heads"]:
            copies = h["metadata"]["weights"]["copying"]
            if (h["layer"], h["head"]) == match:
                self.assertGreater(copies, 0.95)
            else:
                self.assertLess(abs(copies or 0), 0.7)  # null: what it writes is not read by the output at all


class Elsewhere(Induction):
    make = staticmethod(lambda: planted.induction(seed=7, previous=0, match=3))
    planted = {(0, 0), (1, 3)}

    def test_attention_patterns_name_the_planted_heads_and_no_other(self):
        pass


class Control(Planted):
    """Noise alone."""
    make = staticmethod(lambda: planted.Model(seed=1))

    def test_nothing_is_found(self):
        for samples in ({}, {"multiple_comparisons": "fdr_bh"}):
            reply = self.discover(target_components=["head", "attention", "mlp"], include_all=True, **samples)
            self.assertFalse(reply["metadata"]["behaviour"]["present"])
            self.assertEqual(reply["circuits"], [])
            self.assertEqual(len(reply["effects"]), 2 * (4 + 2))

    def test_no_head_is_called_an_induction_or_previous_token_head(self):
        status, reply = self.server.post("/v1/analyze/attention", {"prompt": "The cat sat on the mat."})
        self.assertEqual(status, 200, reply)
        self.assertEqual(reply["circuit_components"], [])


class Half(Planted):
    """An induction head without the head it needs."""
    @staticmethod
    def make():
        m = planted.Model(seed=1)
        m.induction_head(1, 1)
        return m

    def test_nothing_is_found(self):
        """It copies some token of the context, which is better than nothing, but no head is needed for a known next token."""
        self.assertEqual(self.discover(target_components=["head"])["circuits"], [])


class Mover(Planted):
    make = staticmethod(lambda: planted.mover(seed=1, layer=1, head=3))
    fields = dict(phenomenon="name_moving", prompt="so K ran", corrupted_prompt="so T ran", target="K", against="T",
                  target_components=["head", "mlp"], include_all=True)

    def effects(self, reply):
        return {(c["layer"], c.get("head", c["component"])): c["causal_effect"] for c in reply["effects"]}

    def test_patching_restores_exactly_where_it_was_planted(self):
        for kind in ("activation_restoring", "activation_patching"):
            reply = self.discover(intervention_types=[kind], **self.fields)
            clean = self.discover(intervention_types=["zero_ablation"], **self.fields)["metadata"]["clean"]
            other = dict(self.fields, prompt=self.fields["corrupted_prompt"])
            other.pop("corrupted_prompt")
            corrupted = self.discover(intervention_types=["zero_ablation"], **other)["metadata"]["clean"]
            self.assertGreater(clean, 5)
            self.assertLess(corrupted, -5)
            for place, effect in self.effects(reply).items():
                share = effect / (clean - corrupted)
                if place == (1, 3):
                    self.assertTrue(0.85 < share < 1.15, (kind, place, share))
                else:
                    self.assertLess(abs(share), 0.08, (kind, place, share))

    def test_one_observation_has_effects_but_no_significance(self):
        reply = self.discover(**self.fields)
        self.assertIsNone(reply["circuits"][0]["confidence"])
        self.assertEqual((reply["circuits"][0]["layer"], reply["circuits"][0]["head"]), (1, 3))
        self.assertIn("one observation", reply["metadata"]["note"])

    def test_causal_tracing_finds_the_mover_as_a_task(self):
        status, started = self.server.post("/v1/circuits/enhanced-discover", {
            "prompt": "so K ran", "phenomenon": "name_moving", "target": "K", "target_components": ["head"],
            "noise_samples": 24, "noise_scale": 2, "multiple_comparisons": "holm", "significance_threshold": 0.01})
        self.assertEqual(status, 200, started)
        self.assertEqual((started["success"], started["status"]), (True, "started"))
        deadline = time.monotonic() + 120
        while True:
            status, task = self.server.get("/v1/tasks/status/" + started["task_id"])
            self.assertEqual(status, 200, task)
            if task["status"] != "running" or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        self.assertEqual(task["status"], "completed", task)
        best = task["result"]["circuits"][0]
        self.assertEqual((best["layer"], best["head"]), (1, 3), task["result"]["circuits"])
        self.assertGreater(best["confidence"], 0.99)
        self.assertGreater(best["causal_effect"], 5 * max([abs(c["causal_effect"]) for c in task["result"]["circuits"][1:]] + [0]))


class Errors(ApiTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(tiny())

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_wrong_requests_name_the_field(self):
        for fields, status, param in (
                ({"prompt": None}, 400, "prompt"), ({"intervention_types": ["gradient_based"]}, 422, "intervention_types"),
                ({"intervention_types": ["magic"]}, 400, "intervention_types"), ({"intervention_types": "x"}, 400, "intervention_types"),
                ({"target_components": ["residual"]}, 422, "target_components"), ({"target_layers": [7]}, 400, "target_layers[0]"),
                ({"intervention_types": ["activation_patching"]}, 400, "corrupted_prompt"),
                ({"corrupted_prompt": "abcd"}, 400, "corrupted_prompt"), ({"against": "a"}, 400, "target"),
                ({"samples": "dreams"}, 400, "samples"), ({"multiple_comparisons": "hope"}, 400, "multiple_comparisons"),
                ({"significance_threshold": 2}, 400, "significance_threshold"), ({"max_circuits": 0}, 400, "max_circuits"),
                ({"prompt": "a"}, 400, "prompt")):
            with self.subTest(fields=fields):
                self.check_error(self.server.post("/v1/circuits/discover", dict({"prompt": "abc", "phenomenon": "x"}, **fields)),
                                 status, param)

    def test_what_needs_gradients_is_refused_at_once(self):
        for fields, status, param in (({"attribution_method": "integrated_gradients"}, 422, "attribution_method"),
                                      ({"noise_type": "adversarial"}, 422, "noise_type"), ({"noise_type": "pink"}, 400, "noise_type"),
                                      ({"noise_scale": -1}, 400, "noise_scale"), ({"noise_samples": 1}, 400, "noise_samples")):
            self.check_error(self.server.post("/v1/circuits/enhanced-discover", dict({"prompt": "abc"}, **fields)), status, param)
        self.check_error(self.server.post("/v1/circuits/enhanced-discover", {}), 400, "prompt")
        self.assertEqual(self.server.get("/v1/tasks"), (200, {"tasks": []}))

    def test_tokens_of_the_prompt_are_the_observations(self):
        status, reply = self.server.post("/v1/circuits/discover", {"prompt": "abcabc", "phenomenon": "x", "include_all": True})
        self.assertEqual(status, 200, reply)
        self.assertEqual(reply["metadata"]["observations"], 5)
        self.assertEqual(len(reply["effects"]), 6)


del Planted
if __name__ == "__main__":
    unittest.main()

"""POST /v1/analyze/…: shapes and errors.  The numbers are checked in tests/unit/test_analysis.c and tests/e2e."""
import unittest

from harness import ApiTest, Server, need, tiny

need(tiny())
server = None
PROMPT = "one two. one two."


def setUpModule():
    global server
    server = Server(tiny(), args=["--cache-type", "f32", "--flash-attn", "off"])


def tearDownModule():
    server.stop()


class Attention(ApiTest):
    def analyze(self, **fields):
        status, reply = server.post("/v1/analyze/attention", dict({"prompt": PROMPT, "probe_length": 8}, **fields))
        self.assertEqual(status, 200, reply)
        return reply

    def test_the_reply_has_the_shape_that_neuroscope_reads(self):
        reply = self.analyze()
        self.assertLessEqual({"success", "prompt", "scope", "analyzed_layers", "attention_heads", "attention_patterns",
                              "cross_layer_dependencies", "token_attributions", "circuit_components",
                              "pattern_statistics", "visualization_data", "execution_time_ms", "metadata"}, set(reply))
        self.assertEqual((reply["success"], reply["prompt"], reply["scope"]), (True, PROMPT, "head_level"))
        self.assertEqual(reply["analyzed_layers"], [0, 1, 2])
        heads = reply["attention_heads"]
        self.assertEqual([(h["layer"], h["head"]) for h in heads], [(i, k) for i in range(3) for k in range(4)])
        for h in heads:
            self.assertLessEqual({"layer", "head", "pattern_type", "confidence", "circuit_role", "key_tokens",
                                  "value_tokens", "metadata"}, set(h))
            self.assertTrue(0 <= h["confidence"] <= 1)
            for score in h["metadata"]["scores"].values():
                if score["rows"]:
                    self.assertTrue(0 <= score["score"] <= 1 + 1e-6, score)
            self.assertTrue(all(0 <= k < len(PROMPT) for k in h["key_tokens"] + h["value_tokens"]))
        counts = reply["pattern_statistics"]["pattern_counts"]
        self.assertEqual(sum(counts.values()), len(heads))
        self.assertEqual(sum(p["head_count"] for p in reply["attention_patterns"]), len(heads) - counts["unknown"])
        self.assertAlmostEqual(sum(t["score"] for t in reply["token_attributions"]), 1, places=5)
        self.assertEqual("".join(t["token"] for t in reply["token_attributions"]), PROMPT)

    def test_the_same_seed_gives_the_same_numbers(self):
        """But for rounding: what is batched with what may differ."""
        for a, b in zip(*(self.analyze(seed=5)["attention_heads"] for _ in range(2))):
            self.assertEqual((a["pattern_type"], a["confidence"]), (b["pattern_type"], b["confidence"]))
            for name, score in a["metadata"]["random_repeated"].items():
                for key, x in score.items():
                    y = b["metadata"]["random_repeated"][name][key]
                    self.assertTrue(x == y or abs(x - y) < 1e-5, (name, key, x, y))

    def test_layers_by_number_and_by_name(self):
        self.assertEqual(self.analyze(layers=[-1, 0, "transformer.h.2"])["analyzed_layers"], [0, 2])
        self.assertEqual(self.analyze(layers=[1])["token_attributions"], [])
        self.assertEqual(self.analyze(layers=[])["analyzed_layers"], [0, 1, 2])

    def test_a_chat_and_token_ids(self):
        status, reply = server.post("/api/v1/analyze/attention",
                                    {"messages": [{"role": "user", "content": "hi"}], "probes": 0})
        self.assertEqual(status, 200, reply)
        self.assertEqual(self.analyze(prompt=[65, 66, 67, 66])["visualization_data"]["tokens"][3],
                         {"position": 3, "id": 66, "text": "B"})

    def test_attention_is_what_hooks_capture(self):
        reply = self.analyze(probes=0)
        _, chat = server.post("/v1/completions", {
            "prompt": PROMPT, "max_tokens": 0, "activation_hooks": [{"layer": "*", "component": "attn_probs"}]})
        n = len(PROMPT)
        for h in reply["attention_heads"]:
            a = chat["activations"]["*_attn_probs" if "*_attn_probs" in chat["activations"] else
                                    list(chat["activations"])[h["layer"]]]
            a = [e for e in a if e["layer"] == h["layer"]][0]["data"][0][h["head"]]
            want = sum(a[q][q - 1] for q in range(1, n)) / (n - 1)
            self.assertAlmostEqual(h["metadata"]["scores"]["previous_token"]["score"], want, places=5)

    def test_token_attributions_are_the_attention_rollout(self):
        reply = self.analyze(probes=0)
        _, chat = server.post("/v1/completions", {
            "prompt": PROMPT, "max_tokens": 0, "activation_hooks": [{"layer": "*", "component": "attn_probs"}]})
        n, entries = len(PROMPT), {e["layer"]: e for key in chat["activations"] for e in chat["activations"][key]}
        roll = [[float(i == k) for k in range(n)] for i in range(n)]
        for layer in sorted(entries):  # R <- (A / 2 + I / 2) R
            heads = entries[layer]["data"][0]
            mean = [[sum(h[q][k] for h in heads) / len(heads) for k in range(n)] for q in range(n)]
            roll = [[0.5 * sum(mean[q][j] * roll[j][k] for j in range(n)) + 0.5 * roll[q][k] for k in range(n)] for q in range(n)]
        total = sum(roll[-1])
        for t, want in zip(reply["token_attributions"], roll[-1]):
            self.assertAlmostEqual(t["score"], want / total, places=5)

    def test_wrong_requests_name_the_field(self):
        for fields, status, param in (({"prompt": None}, 400, "prompt"), ({"prompt": "a"}, 400, "prompt"),
                                      ({"layers": [3]}, 400, "layers[0]"), ({"layers": ["nowhere.1"]}, 400, "layers[0]"),
                                      ({"layers": 1}, 400, "layers"), ({"scope": "room"}, 400, "scope"),
                                      ({"probes": -1}, 400, "probes"), ({"min_excess": 2}, 400, "min_excess"),
                                      ({"prompt": ["a", "b"]}, 400, "prompt"), ({"prompt": "a" * 5000}, 400, "prompt"),
                                      ({"model": "nobody"}, 404, "model")):
            self.check_error(server.post("/v1/analyze/attention", dict({"prompt": PROMPT}, **fields)), status, param)


class Answers(ApiTest):
    """Lens, attribution, flow: numbers in tests/golden/test_lens.py."""
    prompt = [65, 66, 67, 66, 65]

    def ask(self, route, **fields):
        status, reply = server.post("/v1/analyze/" + route, dict({"prompt": self.prompt}, **fields))
        self.assertEqual(status, 200, reply)
        return reply

    def test_tokens_are_named_by_id_or_by_text(self):
        by_id = self.ask("attribution", target=65, against=66)
        by_text = self.ask("attribution", target="A", against="B")
        self.assertEqual(by_text["target"], {"id": 65, "text": "A"})
        self.assertAlmostEqual(by_id["logit"], by_text["logit"], places=4)

    def test_token_effects_are_the_same_ablations_done_one_by_one(self):
        for ablation in ("zero", "mean"):
            reply = self.ask("tokens", target=70, ablation=ablation)
            clean = self.logprob(70, [])
            self.assertAlmostEqual(reply["logprob"], clean, places=4)
            self.assertEqual([t["id"] for t in reply["token_attributions"]], self.prompt)
            if ablation == "mean":
                _, chat = server.post("/v1/completions", {"prompt": self.prompt, "max_tokens": 0, "activation_hooks": [
                    {"layer": 0, "component": "resid_pre"}]})
                rows = list(chat["activations"].values())[0][0]["data"][0]
                vector = [sum(r[k] for r in rows) / len(rows) for k in range(len(rows[0]))]
            for i, t in enumerate(reply["token_attributions"]):
                edit = {"layer": 0, "component": "resid_pre", "positions": [i]}
                edit.update({"op": "zero"} if ablation == "zero" else {"op": "set", "vector": vector})
                self.assertAlmostEqual(t["effect"], clean - self.logprob(70, [edit]), places=4)

    def logprob(self, token, edits):
        import math
        _, reply = server.post("/v1/completions", {"prompt": self.prompt, "max_tokens": 0, "interventions": edits,
                                                   "activation_hooks": [{"component": "lm_head", "positions": "last"}]})
        logits = list(reply["activations"].values())[0][0]["data"][0][0]
        top = max(logits)
        return logits[token] - top - math.log(sum(math.exp(x - top) for x in logits))

    def test_wrong_requests_name_the_field(self):
        for route, fields, status, param in (
                ("lens", {"top_k": -1}, 400, "top_k"), ("lens", {"positions": [5]}, 400, "positions"),
                ("lens", {"positions": "some"}, 400, "positions"), ("lens", {"positions": []}, 400, "positions"),
                ("lens", {"targets": ["AB"]}, 400, "targets[0]"), ("lens", {"targets": [320]}, 400, "targets[0]"),
                ("lens", {"layers": [9]}, 400, "layers[0]"), ("lens", {"tuned": "x"}, 422, "tuned"),
                ("attribution", {"target": []}, 400, "target"), ("attribution", {"position": 5}, 400, "position"),
                ("attribution", {"against": -1}, 400, "against"), ("flow", {"positions": [-6]}, 400, "positions"),
                ("tokens", {"ablation": "noise"}, 400, "ablation"), ("tokens", {"prompt": []}, 400, "prompt")):
            with self.subTest(route=route, fields=fields):
                self.check_error(server.post("/v1/analyze/" + route, dict({"prompt": self.prompt}, **fields)), status, param)

    def test_assets_are_plain_names_in_the_folder(self):
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            other = Server(tiny(), args=["--assets", folder])
            try:
                for name, status in (("../x", 400), ("/etc/passwd", 400), (".x", 400), ("", 400), ("nothing", 404)):
                    got, reply = other.post("/v1/analyze/lens", {"prompt": self.prompt, "tuned": name})
                    self.assertEqual((got, reply["error"]["param"]), (status, "tuned"), reply)
                with open(folder + "/bad.safetensors", "wb") as f:
                    f.write(b"nonsense")
                got, reply = other.post("/v1/analyze/lens", {"prompt": self.prompt, "tuned": "bad"})
                self.assertEqual((got, reply["error"]["param"]), (400, "tuned"), reply)
            finally:
                other.stop()


if __name__ == "__main__":
    unittest.main()

"""Probes and features: numbers against conditions that only the right answer fulfils, directions and latents that were planted,
a stored run, errors."""
import math
import os
import random
import struct
import sys
import tempfile
import unittest

import planted
from harness import ApiTest, Server, need, tiny

need(tiny())
UPPER, LOWER = [chr(c) for c in planted.NAMES], [chr(c + 32) for c in planted.NAMES]
YES, NO = ord("#"), ord("%")


def answerer():
    """Answers # behind a capital letter, % behind any other token: the output reads the class."""
    m = planted.Model(seed=3)
    for token, sign in ((YES, 1), (NO, -1)):
        row = [0.0] * planted.D
        row[planted.CLASS], row[planted.ONE] = sign * 8.0, sign * -4.0
        m.t["output"][1][token * planted.D:(token + 1) * planted.D] = planted.array("f", row)
    return m


def write_safetensors(path, tensors):
    import json
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack("<%df" % len(values), *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + data)


def autoencoder(path, latent, threshold=None):
    """16 latents; one of them fires for capitals.  Rows of layer 0 hold the embedding, so its class is channel CLASS."""
    rng, d, n = random.Random(4), planted.D, 16
    w = [rng.gauss(0, 0.05) for _ in range(d * n)]
    for c in range(d):
        w[c * n + latent] = 4.0 if c == planted.CLASS else 0.0
    tensors = {"W_enc": ([d, n], w), "b_enc": ([n], [-1.0 if i == latent else 0.0 for i in range(n)]),
               "W_dec": ([n, d], [0.0] * (n * d)), "b_dec": ([d], [0.0] * d)}
    if threshold is not None:
        tensors["threshold"] = ([n], [threshold] * n)
    write_safetensors(path, tensors)


class Features(ApiTest):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="glia-features-")
        path = os.path.join(cls.dir.name, "planted.gguf")
        answerer().save(path)
        autoencoder(os.path.join(cls.dir.name, "sae.safetensors"), 11)
        autoencoder(os.path.join(cls.dir.name, "jump.safetensors"), 6, 1.5)
        write_safetensors(os.path.join(cls.dir.name, "other.safetensors"), {"x": ([1], [1.0])})
        cls.server = Server(path, args=["--cache-type", "f32", "--flash-attn", "off", "--assets", cls.dir.name, "--store",
                                        os.path.join(cls.dir.name, "store")])

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.dir.cleanup()

    def probe(self, **fields):
        status, reply = self.server.post("/v1/analyze/probe", fields)
        self.assertEqual(status, 200, reply)
        return reply

    # -- what only the minimum fulfils

    def rows(self, n, d, seed):
        rng = random.Random(seed)
        x = [[rng.gauss(0, 1) for _ in range(d)] for _ in range(n)]
        return x, rng

    def test_logistic_is_the_minimum_of_its_loss(self):
        for n, d in ((40, 6), (12, 30)):
            x, rng = self.rows(n, d, n)
            y = [int(r[0] + 0.7 * rng.gauss(0, 1) > 0) for r in x]
            fit = self.probe(activations=x, labels=y, l2=0.5, folds=4, permutations=0)["layers"][0]
            w, b = fit["direction"], fit["bias"]
            q = [1 / (1 + math.exp(-(sum(p * v for p, v in zip(w, r)) + b))) for r in x]
            self.assertAlmostEqual(sum(p - t for p, t in zip(q, y)), 0, places=3)
            for k in range(d):
                gradient = sum((p - t) * r[k] for p, t, r in zip(q, y, x)) + 0.5 * w[k]
                self.assertAlmostEqual(gradient, 0, places=3)

    def test_ridge_is_the_minimum_of_its_loss(self):
        for n, d in ((40, 6), (12, 30)):
            x, rng = self.rows(n, d, n + 1)
            y = [2 * r[1] - r[2] + 5 + 0.1 * rng.gauss(0, 1) for r in x]
            fit = self.probe(activations=x, labels=y, l2=2, method="ridge", folds=4, permutations=0)["layers"][0]
            w, b = fit["direction"], fit["bias"]
            rest = [sum(p * v for p, v in zip(w, r)) + b - t for r, t in zip(x, y)]
            self.assertAlmostEqual(sum(rest), 0, places=3)
            for k in range(d):
                self.assertAlmostEqual(sum(e * r[k] for e, r in zip(rest, x)) + 2 * w[k], 0, places=3)
            if n > d:
                self.assertGreater(fit["held_out_r2"], 0.9)

    def test_held_out_rows_decide_and_noise_is_not_learned(self):
        x, rng = self.rows(60, 80, 9)  # more channels than rows: any labels can be fitted
        y = [rng.randint(0, 1) for _ in x]
        noise = self.probe(activations=x, labels=y, l2=0.01)["layers"][0]
        self.assertLess(noise["held_out_accuracy"], 0.75)
        self.assertGreater(noise["p_value"], 0.05)
        self.assertTrue(0.35 < noise["permuted_mean"] < 0.65)
        for r, t in zip(x, y):
            r[3] += 6 * t
        real = self.probe(activations=x, labels=y, l2=1)["layers"][0]
        self.assertGreater(real["held_out_accuracy"], 0.9)
        self.assertAlmostEqual(real["p_value"], 0.01)
        self.assertEqual(max(range(80), key=lambda k: abs(real["direction"][k])), 3)

    def test_rows_of_one_group_never_stand_on_both_sides(self):
        """Each group has a mark of its own, and a random label: only a model that has seen the group could know it."""
        rng, x, y, groups = random.Random(1), [], [], []
        for g in range(24):
            mark, label = [rng.gauss(0, 3) for _ in range(40)], g % 2
            for _ in range(5):
                x.append([m + rng.gauss(0, 0.1) for m in mark])
                y.append(label)
                groups.append(g)
        together = self.probe(activations=x, labels=y, groups=groups)["layers"][0]
        apart = self.probe(activations=x, labels=y, permutations=0)["layers"][0]
        self.assertGreater(apart["held_out_accuracy"], 0.95)
        self.assertLess(together["held_out_accuracy"], 0.8)
        self.assertGreater(together["p_value"], 0.02)

    # -- planted

    def test_a_probe_finds_the_planted_direction_and_it_flips_the_answer(self):
        examples = [{"text": "so " + c, "label": True} for c in UPPER] + [{"text": "so " + c, "label": 0} for c in LOWER]
        reply = self.probe(examples=examples, layers=[0, 1], l2=0.01)
        self.assertEqual((reply["rows"], reply["groups"], reply["point"]), (52, 52, "resid_post"))
        for layer in reply["layers"]:
            self.assertEqual(layer["held_out_accuracy"], 1)
            self.assertAlmostEqual(layer["p_value"], 0.01)
        w = reply["layers"][1]["direction"]
        size = math.sqrt(sum(v * v for v in w))
        self.assertGreater(w[planted.CLASS] / size, 0.8)
        self.assertEqual(self.answer("so a", []), NO)
        self.assertEqual(self.answer("so A", []), YES)
        for text, sign, want in (("so a", 1, YES), ("so A", -1, NO)):
            edit = {"layer": 1, "component": "resid_post", "op": "add", "vector": [sign * 1.5 * v / size for v in w]}
            self.assertEqual(self.answer(text, [edit]), want)

    def answer(self, text, edits):
        status, reply = self.server.post("/v1/completions", {"prompt": text, "max_tokens": 1, "temperature": 0, "interventions": edits})
        self.assertEqual(status, 200, reply)
        return ord(reply["choices"][0]["text"])

    def localize(self, method, **fields):
        feature = {"name": "capital", "feature_type": "semantic", "examples": ["so " + c for c in UPPER[:12]],
                   "counter_examples": ["so " + c for c in LOWER[:12]]}
        feature.update(fields.pop("feature", {}))
        status, reply = self.server.post("/v1/features/localize", dict({"method": method, "features": [feature]}, **fields))
        self.assertEqual(status, 200, reply)
        self.assertLessEqual({"features", "layer_analysis", "feature_interactions", "execution_time_ms"}, set(reply))
        f = reply["features"][0]
        self.assertLessEqual({"feature_name", "feature_type", "layer_name", "neuron_indices", "activation_strength", "confidence",
                              "localization_method", "metadata"}, set(f))
        self.assertEqual((f["feature_name"], f["localization_method"]), ("capital", method))
        return reply

    def test_probe_and_principal_components_point_at_the_planted_channel(self):
        for method in ("probing_classifier", "pca"):
            f = self.localize(method)["features"][0]
            self.assertEqual(f["neuron_indices"][0], planted.CLASS)
            self.assertGreater(f["confidence"], 0.98)
            self.assertGreater(f["activation_strength"], 2)

    def test_the_planted_latent_of_an_autoencoder_is_found(self):
        for name, latent in (("sae", 11), ("jump.safetensors", 6)):
            f = self.localize("sparse_autoencoder", parameters={"sae": name, "layer": 0})["features"][0]
            self.assertEqual(f["neuron_indices"][0], latent)
            self.assertEqual(f["metadata"]["auc"], 1)
            self.assertEqual(f["layer"], 0)
            self.assertAlmostEqual(f["confidence"], 0.99)
            self.assertAlmostEqual(f["activation_strength"], 3, delta=0.5)  # 4 · 1 - 1

    def test_latents_below_the_threshold_do_not_fire(self):
        autoencoder(os.path.join(self.dir.name, "high.safetensors"), 6, 9.0)
        f = self.localize("sparse_autoencoder", parameters={"sae": "high", "layer": 0})["features"][0]
        self.assertEqual((f["metadata"]["auc"], f["activation_strength"], f["confidence"]), (0.5, 0, 0))

    def test_what_is_not_there_is_not_found(self):
        rng = random.Random(2)
        letters = UPPER + LOWER
        rng.shuffle(letters)
        half = {"examples": ["so " + c for c in letters[:20]], "counter_examples": ["so " + c for c in letters[20:40]]}
        for method in ("probing_classifier", "pca", "sparse_autoencoder"):
            parameters = {"sae": "sae", "layer": 0} if method == "sparse_autoencoder" else {}
            f = self.localize(method, feature=half, parameters=parameters)["features"][0]
            self.assertLess(f["confidence"], 0.95, f)

    # -- a stored run

    def test_a_probe_on_a_stored_run_is_that_on_the_same_rows(self):
        text = "aBcDeFgHiJkLmNoPqRsTuVwXyZ AbCd"
        body = {"prompt": text, "max_tokens": 0, "activation_hooks": [{"layer": 0, "component": "resid_post"}]}
        _, plain = self.server.post("/v1/completions", body)
        rows = [r for entries in plain["activations"].values() for e in entries for r in e["data"][0]]
        status, reply = self.server.post("/v1/completions", dict(body, store=True))
        self.assertEqual(status, 200, reply)
        labels = [int("A" <= c <= "Z") for c in text]
        sent = self.probe(activations=rows, labels=labels, permutations=0)["layers"][0]
        for fields in ({"labels": labels}, {"positive_tokens": [ord(c) for c in UPPER]}):
            got = self.probe(run=reply["run"], permutations=0, layer=0, **fields)
            self.assertEqual(got["rows"], len(text))
            got = got["layers"][0]
            self.assertEqual((got["layer"], got["held_out_accuracy"]), (0, sent["held_out_accuracy"]))
            for a, b in zip(got["direction"], sent["direction"]):
                self.assertAlmostEqual(a, b, places=4)
        self.assertEqual(self.server.post("/v1/analyze/probe", {"run": "nothing", "labels": []})[0], 404)

    # -- lists and errors

    def test_common_features_can_be_looked_for_by_name(self):
        status, reply = self.server.get("/v1/features/common")
        self.assertEqual(status, 200)
        self.assertGreaterEqual(len(reply["features"]), 5)
        for f in reply["features"]:
            self.assertEqual(len(f["examples"]), len(f["counter_examples"]))
        status, reply = self.server.post("/v1/features/localize", {"method": "pca", "features": [
            {"name": "plural", "target_layers": [1]}, {"name": "number", "target_layers": ["model.layers.1"]}]})
        self.assertEqual(status, 200, reply)
        self.assertEqual([f["feature_name"] for f in reply["features"]], ["plural", "number"])
        self.assertEqual([i["features"] for i in reply["feature_interactions"]], [["plural", "number"]])
        self.assertTrue(-1 <= reply["feature_interactions"][0]["cosine"] <= 1)
        status, reply = self.server.get("/v1/features/methods")
        self.assertEqual({m["name"]: m["available"] for m in reply["methods"]}, {
            "sparse_autoencoder": True, "probing_classifier": True, "pca": True, "dictionary_learning": False,
            "gradient_attribution": False})

    def test_wrong_requests_name_the_field(self):
        good = {"name": "x", "examples": ["a", "b", "c", "d"], "counter_examples": ["e", "f", "g", "h"]}
        for fields, status, param in (
                ({}, 400, "features"), ({"features": []}, 400, "features"), ({"features": [1]}, 400, "features[0]"),
                ({"features": [{}]}, 400, "features[0]"), ({"features": [{"name": "x"}]}, 422, "features[0]"),
                ({"features": [dict(good, examples=["a"])]}, 422, "features[0]"),
                ({"features": [dict(good, examples=["a", 1, "c", "d"])]}, 400, "features[0].examples[1]"),
                ({"features": [dict(good, target_layers=[5])]}, 400, "features[0].target_layers[0]"),
                ({"features": [good], "method": "dictionary_learning"}, 422, "method"),
                ({"features": [good], "method": "gradient_attribution"}, 422, "method"),
                ({"features": [good], "method": "magic"}, 400, "method"),
                ({"features": [good], "method": "sparse_autoencoder"}, 422, "parameters.sae"),
                ({"features": [good], "method": "sparse_autoencoder", "parameters": {"sae": "sae"}}, 422, "parameters.layer"),
                ({"features": [good], "method": "sparse_autoencoder", "parameters": {"sae": "no", "layer": 0}}, 404, "parameters.sae"),
                ({"features": [good], "method": "sparse_autoencoder", "parameters": {"sae": "other", "layer": 0}}, 400, "parameters.sae"),
                ({"features": [good], "parameters": {"component": "soul"}}, 400, "parameters.component"),
                ({"features": [good], "parameters": {"permutations": 1}}, 400, "parameters.permutations")):
            with self.subTest(fields=fields):
                self.check_error(self.server.post("/v1/features/localize", dict({"method": "pca"}, **fields)), status, param)
        x, y = [[1, 2], [3, 4], [5, 6], [7, 9]], [0, 1, 0, 1]
        for fields, status, param in (
                ({}, 400, "examples"), ({"examples": []}, 400, "examples"), ({"examples": [{"text": "a"}]}, 400, "examples[0]"),
                ({"activations": x}, 400, "labels"), ({"activations": x, "labels": [1]}, 400, "labels"),
                ({"activations": x, "labels": y, "method": "deep"}, 400, "method"), ({"activations": x, "labels": y, "folds": 1}, 400, "folds"),
                ({"activations": x, "labels": y, "groups": [0, 0, 0, 9]}, 400, "groups"), ({"activations": x, "labels": y, "l2": 0}, 400, "l2"),
                ({"activations": x, "labels": [0, 0, 0, 1], "folds": 2}, 400, None), ({"activations": x, "labels": y, "folds": 9}, 400, None),
                ({"activations": x, "labels": [0, 1, 2, 3], "folds": 2}, 400, None), ({"run": "x"}, 404, "run"),
                ({"activations": [[1, 1], [1, 1], [1, 1], [1, 1]], "labels": y, "folds": 2}, 400, None),
                ({"examples": [{"text": "a", "label": 1}] * 4, "component": "attn_probs", "layers": [0]}, 422, None),
                ({"examples": [{"text": "a", "label": 1}], "component": "soul"}, 400, "component")):
            with self.subTest(fields=fields):
                self.check_error(self.server.post("/v1/analyze/probe", fields), status, param)


if __name__ == "__main__":
    unittest.main()

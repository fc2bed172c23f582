"""Hooks: spellings, labels, encodings, keys, limits; whole replies of with_activations and of the plain routes."""
import math
import os
import unittest

import harness
from harness import ApiTest, f32, unpack

harness.need(harness.MODEL)
server = None
SEED = "/api/v0/chat/completions/with_activations"
V1 = "/v1/chat/completions/with_activations"


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "1024", "--parallel", "2"])


def tearDownModule():
    server.stop()


def chat_tokens(text="Hello"):
    return server.post("/v1/tokenize", {"messages": [{"role": "user", "content": text}]})[1]["tokens"]


def good(reply):
    status, body = reply
    assert status == 200, body
    return body


class Spellings(ApiTest):
    def test_the_request_neuroscope_was_planned_around(self):
        r = good(server.activations([{"layer": "transformer.h.5", "component": "residual"},
                                     {"layer": "transformer.h.10", "component": "attention"}], path=SEED, model=server.model))
        self.assertEqual(set(r["activations"]), {"transformer.h.5", "transformer.h.10"})
        self.assertEqual(r["completion"], r["choices"][0]["message"]["content"])
        self.assertEqual(r["object"], "chat.completion")
        first = r["activations"]["transformer.h.5"][0]
        self.assertEqual((first["point"], first["layer"]), ("resid_post", 5))
        self.assertEqual(r["activations"]["transformer.h.10"][0]["point"], "attn_out")

    def test_the_request_of_the_reference_clients(self):
        hooks = [{"layer_name": "model.layers.5", "component": "residual", "hook_id": "r5", "capture_input": False,
                  "capture_output": True},
                 {"layer_name": "model.layers.5.self_attn", "component": "attention"}]
        r = good(server.activations(hooks, max_tokens=3))
        self.assertEqual(set(r["activations"]), {"r5", "model.layers.5.self_attn_attention"})
        entries = r["activations"]["r5"]
        self.assertEqual(len(entries), 3)  # the prompt, then every token that was fed back
        for e in entries:
            self.assertTrue({"hook_id", "layer_name", "component", "shape", "dtype", "is_input", "data"} <= set(e))
            self.assertEqual((e["hook_id"], e["layer_name"], e["component"]), ("r5", "model.layers.5", "residual"))
            self.assertEqual((e["dtype"], e["is_input"]), ("float32", False))
            self.assertEqual(e["shape"], [1, len(e["data"][0]), len(e["data"][0][0])])
            self.assertEqual(e["shape"][2], 576)

    def test_all_spellings_name_the_same_tensor(self):
        same = [{"layer": 5, "component": "resid_post"}, {"layer": -25, "component": "residual"},
                {"layer": "transformer.h.5", "component": "residual"}, {"layer_name": "model.layers.5"},
                {"name": "blocks.5.hook_resid_post"}, {"name": "resid_post.5"},
                {"layer_name": "model.layers.6", "component": "residual", "capture_input": True, "capture_output": False},
                {"name": "model.layers[5].output[0]"}, {"name": "model.layers[6].input"}, {"layer": "layers[5]",
                                                                                           "component": "residual"}]
        r = good(server.activations([dict(h, hook_id="h%d" % i) for i, h in enumerate(same)], max_tokens=2))
        first = [e["data"] for e in r["activations"]["h0"]]
        for i in range(len(same)):
            self.assertEqual([e["data"] for e in r["activations"]["h%d" % i]], first, same[i])

    def test_both_sides_give_two_entries_a_pass(self):
        r = good(server.activations([{"layer_name": "model.layers.5", "component": "residual", "capture_input": True}],
                                    max_tokens=2))
        entries = r["activations"]["model.layers.5_residual"]
        self.assertEqual([(e["is_input"], e["point"]) for e in entries],
                         [(True, "resid_pre"), (False, "resid_post")] * 2)

    def test_a_star_gives_every_layer(self):
        r = good(server.activations([{"layer": "*", "component": "resid_post", "positions": "last"}], max_tokens=1))
        self.assertEqual(set(r["activations"]), {"resid_post.%d" % i for i in range(30)})
        self.assertEqual([r["activations"]["resid_post.%d" % i][0]["layer"] for i in range(30)], list(range(30)))

    def test_points_without_a_layer(self):
        r = good(server.activations([{"component": "embeddings"}, {"layer_name": "model.norm"},
                                     {"component": "lm_head", "positions": "last"}], max_tokens=1))
        self.assertEqual(set(r["activations"]), {"embeddings", "model.norm", "lm_head"})
        self.assertIsNone(r["activations"]["embeddings"][0]["layer"])
        self.assertEqual(r["activations"]["lm_head"][0]["shape"], [1, 1, 49152])


class Labels(ApiTest):
    def test_rows_are_the_prompt_then_what_was_fed_back(self):
        tokens = chat_tokens()
        r = good(server.activations([{"layer": 3, "component": "resid_post"}], max_tokens=4, logprobs=True))
        drawn = [c["id"] for c in r["choices"][0]["logprobs"]["content"]]
        prompt, *later = r["activations"]["resid_post.3"]
        self.assertEqual(prompt["token_ids"], tokens)
        self.assertEqual(prompt["positions"], list(range(len(tokens))))
        self.assertEqual((prompt["phase"], prompt["shape"]), ("prompt", [1, len(tokens), 576]))
        self.assertEqual([e["token_ids"] for e in later], [[t] for t in drawn[:3]])
        self.assertEqual([e["positions"] for e in later], [[len(tokens) + i] for i in range(3)])
        self.assertTrue(all(e["phase"] == "generated" and e["shape"] == [1, 1, 576] for e in later))
        self.assertIn(prompt["grade"], ("proven", "structural"))

    def test_a_cached_prompt_gives_every_row_again(self):
        hook = [{"layer": 3, "component": "resid_post"}]
        a = good(server.activations(hook, "cache me", max_tokens=1))["activations"]["resid_post.3"]
        b = good(server.activations(hook, "cache me", max_tokens=1))["activations"]["resid_post.3"]
        self.assertEqual(a[0]["positions"], b[0]["positions"])
        worst = max(abs(x - y) for p, q in zip(a[0]["data"][0], b[0]["data"][0]) for x, y in zip(p, q))
        self.assertLess(worst, 1e-3)

    def test_positions_pick_rows(self):
        n = len(chat_tokens())
        hooks = [{"layer": 3, "component": "resid_post", "hook_id": "all"},
                 {"layer": 3, "component": "resid_post", "hook_id": "ends", "positions": [0, -1]},
                 {"layer": 3, "component": "resid_post", "hook_id": "last", "positions": "last"},
                 {"layer": 3, "component": "resid_post", "hook_id": "prompt", "positions": "prompt"},
                 {"layer": 3, "component": "resid_post", "hook_id": "generated", "positions": "generated"}]
        a = good(server.activations(hooks, max_tokens=3))["activations"]
        rows = a["all"][0]["data"][0]
        self.assertEqual(a["ends"][0]["positions"], [0, n - 1])
        self.assertEqual(a["ends"][0]["data"][0], [rows[0], rows[-1]])
        self.assertEqual(a["last"][0]["data"][0], [rows[-1]])
        self.assertEqual([e["phase"] for e in a["prompt"]], ["prompt"])
        self.assertEqual([e["phase"] for e in a["generated"]], ["generated"] * 2)

    def test_heads_pick_columns(self):
        hooks = [{"layer": 3, "component": "z", "hook_id": "all"},
                 {"layer": 3, "component": "z", "hook_id": "two", "heads": [0, 3]}]
        a = good(server.activations(hooks, max_tokens=1))["activations"]
        whole, two = a["all"][0], a["two"][0]
        self.assertEqual((whole["n_heads"], whole["head_dim"], whole["shape"][2]), (9, 64, 576))
        self.assertEqual((two["n_heads"], two["head_dim"], two["shape"][2]), (2, 64, 128))
        for row, part in zip(whole["data"][0], two["data"][0]):
            self.assertEqual(part, row[:64] + row[192:256])

    def test_include_leaves_passes_out(self):
        hook = [{"layer": 3, "component": "resid_post"}]
        for include in (["prompt"], ["generated"]):
            a = good(server.activations(hook, max_tokens=3, activation_format={"include": include}))["activations"]
            self.assertEqual({e["phase"] for e in a["resid_post.3"]}, set(include))

    def test_merge_gives_one_entry_with_all_rows(self):
        hook = [{"layer": 3, "component": "resid_post"}]
        apart = good(server.activations(hook, max_tokens=3))["activations"]["resid_post.3"]
        one, = good(server.activations(hook, max_tokens=3, activation_format={"merge": True}))["activations"]["resid_post.3"]
        self.assertEqual(one["shape"], [1, sum(e["shape"][1] for e in apart), 576])
        self.assertEqual(one["token_ids"], [t for e in apart for t in e["token_ids"]])
        self.assertEqual(one["data"][0], [row for e in apart for row in e["data"][0]])
        self.check_error(server.activations(hook, stream=True, activation_format={"merge": True}), 400,
                         "activation_format.merge")


class Encodings(ApiTest):
    def both(self, **fmt):
        hook = [{"layer": 7, "component": "mlp_act"}]
        listed = good(server.activations(hook, max_tokens=2, activation_format=dict(fmt, encoding="list")))
        packed = good(server.activations(hook, max_tokens=2, activation_format=dict(fmt, encoding="base64")))
        return listed["activations"]["mlp_act.7"], packed["activations"]["mlp_act.7"]

    def test_base64_holds_exactly_the_listed_floats(self):
        for a, b in zip(*self.both()):
            self.assertEqual(b["encoding"], "base64")
            self.assertEqual([[f32(x) for x in row] for row in unpack(a)], unpack(b))
            self.assertEqual(a["shape"], b["shape"])

    def test_half_precision_is_the_rounded_float(self):
        exact = self.both()[1]
        for dtype, bound in (("float16", 2.0 ** -11), ("bfloat16", 2.0 ** -8)):
            listed, packed = self.both(dtype=dtype)
            for a, b, c in zip(listed, packed, exact):
                self.assertEqual((a["dtype"], b["dtype"]), (dtype, dtype))
                self.assertEqual([[f32(x) for x in row] for row in unpack(a)], [[f32(x) for x in r] for r in unpack(b)])
                for half, full in zip(unpack(b), unpack(c)):
                    for x, y in zip(half, full):
                        self.assertLessEqual(abs(x - y), abs(y) * bound + 6e-8)

    def test_the_logits_row_is_the_one_that_was_sampled(self):
        r = good(server.activations([{"component": "lm_head", "positions": "last"}], max_tokens=1, logprobs=True,
                                    activation_format={"encoding": "base64"}))
        logits, = unpack(r["activations"]["lm_head"][0])
        drawn, = r["choices"][0]["logprobs"]["content"]
        self.assertEqual(logits.index(max(logits)), drawn["id"])  # greedy
        top = max(logits)
        self.assertAlmostEqual(-math.log(sum(math.exp(x - top) for x in logits)), drawn["logprob"], places=3)

    def test_the_stream_is_the_sum_of_its_parts(self):
        points = ("resid_pre", "attn_out_post", "resid_mid", "mlp_out_post", "resid_post")
        r = good(server.activations([{"layer": 9, "component": p} for p in points], max_tokens=2))
        for entries in zip(*(r["activations"]["%s.9" % p] for p in points)):
            for pre, attn, mid, mlp, post in zip(*(x for e in entries for x in [unpack(e)])):
                for a, b, c, d, e in zip(pre, attn, mid, mlp, post):
                    self.assertAlmostEqual(a + b, c, delta=1e-4 * max(1, abs(c)))
                    self.assertAlmostEqual(c + d, e, delta=1e-4 * max(1, abs(e)))

    def test_rows_are_not_constants(self):
        a = good(server.activations([{"layer": 7, "component": "resid_post"}], max_tokens=1))
        rows = a["activations"]["resid_post.7"][0]["data"][0]
        self.assertEqual(len({tuple(r) for r in rows}), len(rows))
        self.assertTrue(all(math.isfinite(x) for r in rows for x in r))


class Effects(ApiTest):
    def test_hooks_do_not_change_the_answer(self):
        hooks = [{"layer": "*", "component": c} for c in ("resid_post", "q", "mlp_act")]
        plain = good(server.chat("Why is the sky blue?", max_tokens=8))
        hooked = good(server.activations(hooks, "Why is the sky blue?", max_tokens=8,
                                         activation_format={"encoding": "base64"}))
        self.assertEqual(hooked["completion"], plain["choices"][0]["message"]["content"])
        self.assertEqual(hooked["usage"]["completion_tokens"], plain["usage"]["completion_tokens"])

    def test_plain_routes_take_hooks_too(self):
        hook = [{"layer": 3, "component": "resid_post"}]
        r = good(server.activations(hook, path="/v1/chat/completions", max_tokens=2))
        self.assertEqual(len(r["activations"]["resid_post.3"]), 2)
        r = good(server.post("/v1/completions", {"prompt": "Hi there", "max_tokens": 2, "activation_hooks": hook}))
        self.assertEqual(r["completion"], r["choices"][0]["text"])
        tokens = server.post("/v1/tokenize", {"text": "Hi there"})[1]["tokens"]
        self.assertEqual(r["activations"]["resid_post.3"][0]["token_ids"], tokens)


class Keys(ApiTest):
    def test_shared_keys_get_the_default_id_then_a_number(self):
        hooks = [{"layer": "transformer.h.5", "component": "residual"}, {"layer": "transformer.h.5", "component": "mlp"},
                 {"layer": 2, "component": "q"}, {"layer": 2, "component": "q", "positions": "last"}]
        a = good(server.activations(hooks, max_tokens=1))["activations"]
        self.assertEqual(list(a), ["transformer.h.5_residual", "transformer.h.5_mlp", "model.layers.2_q",
                                   "model.layers.2_q#2"])
        for key, entries in a.items():
            self.assertTrue(all(e["hook_id"] == key for e in entries))


class Refusals(ApiTest):
    def bad(self, hooks, param, status=400, says=(), **fields):
        self.check_error(server.activations(hooks, **fields), status, param, says=says)

    def test_hooks_are_required_here(self):
        for path in (V1, SEED):
            self.check_error(server.chat(path=path), 400, "activation_hooks")
            self.check_error(server.chat(path=path, activation_hooks=[]), 400, "activation_hooks")
            self.check_error(server.chat(path=path, activation_hooks=None), 400, "activation_hooks")

    def test_unknown_names_come_with_the_nearest(self):
        self.bad([{"layer": 5, "component": "residul"}], "activation_hooks[0].component", says='"residual"')
        self.bad([{"layer": 5, "component": "resid_post"}, {"name": "blocks.5.hook_resid_pots"}],
                 "activation_hooks[1].name", says='"blocks.5.hook_resid_post"')
        self.bad([{"layer_name": "transfromer.h.5", "component": "residual"}], "activation_hooks[0].layer_name",
                 says='"transformer.h.5"')
        self.bad([{"layer": 5, "component": "q", "hookid": "x"}], "activation_hooks[0].hookid", says='"hook_id"')

    def test_layers_out_of_range_name_the_range(self):
        for layer in (30, 40, -31, 10 ** 12, -10 ** 12, 10 ** 40, "transformer.h.30", "999999999999999999999"):
            self.bad([{"layer": layer, "component": "residual"}], "activation_hooks[0].layer",
                     says="this model has layers 0 to 29")

    def test_wrong_types_are_named(self):
        for field, value in (("layer", 1.5), ("layer", True), ("layer", []), ("component", 5), ("hook_id", 5),
                             ("capture_input", "no"), ("heads", "all"), ("heads", [0.5]), ("positions", "first"),
                             ("positions", [None]), ("dtype", "int4"), ("reduce", "median")):
            self.bad([dict({"layer": 5, "component": "q"}, **{field: value})], "activation_hooks[0]." + field)
        for hooks in ({}, "x", 5):
            self.bad(hooks, "activation_hooks")
        self.bad([7], "activation_hooks[0]")

    def test_heads_out_of_range_are_refused(self):
        status, body = server.activations([{"layer": 5, "component": "resid_post"}, {"layer": 5, "component": "q",
                                                                                     "heads": [9]}])
        self.assertIn(status, (400, 422))
        self.assertTrue(body["error"]["param"].startswith("activation_hooks[1]"), body)

    def test_points_that_this_model_has_not_are_422_with_the_reason(self):
        for component, says in (("moe", "absent"), ("expert", "absent"), ("router_logits", "absent"), ("ssm_out", "absent"),
                                ("q_norm_in", "absent")):
            self.bad([{"layer": 5, "component": component}], "activation_hooks[0]", 422, says)

    def test_names_of_other_tensors_are_422_with_the_way_out(self):
        for name, says in (("model.layers.5.self_attn.q_proj", '"q"'), ("blocks.5.hook_mlp_in", '"resid_mid"'),
                           ("model.layers[5].mlp.act_fn.output", '"mlp_act"'), ("l_out-5", '"resid_post.5"'),
                           ("model.layers.5.mlp.experts.3.down_proj", '"expert_out"')):
            self.bad([{"name": name}], "activation_hooks[0].name", 422, says)

    def test_ten_thousand_hooks_are_refused(self):
        self.bad([{"layer": 5, "component": "q"}] * 10000, "activation_hooks", says="10000")

    def test_a_reply_too_large_says_the_way_out(self):
        hooks = [{"layer": "*", "component": c} for c in ("resid_post", "mlp_act", "q", "k", "z", "attn_out")]
        status, body = server.activations(hooks + [{"component": "lm_head"}], max_tokens=900)
        self.assertIn(status, (413,), body)
        self.assertTrue(body["error"]["message"])


class HooksPage(ApiTest):
    def test_points_by_layers(self):
        status, r = server.get("/api/v1/models/%s/hooks" % server.model)
        self.assertEqual(status, 200)
        self.assertEqual((r["model"], r["n_layer"]), (server.model, 30))
        points = {p["point"]: p for p in r["points"]}
        self.assertEqual(len(points), 40)
        self.assertEqual(len(points["resid_post"]["layers"]), 30)
        self.assertEqual(len(points["lm_head"]["layers"]), 1)
        q = points["q"]["layers"][4]
        self.assertEqual((q["layer"], q["width"], q["n_heads"], q["head_dim"]), (4, 576, 9, 64))
        for p in r["points"]:
            for layer in p["layers"]:
                self.assertIn(layer["grade"], ("proven", "structural", "ambiguous", "absent"))

    def test_an_unknown_model_is_404(self):
        self.check_error(server.get("/api/v1/models/nobody/hooks"), 404, "model", "model_not_found")


@unittest.skipUnless(harness.TINY and os.path.exists(harness.tiny("gpt2")), "skip: no tiny models")
class OtherFamilies(ApiTest):
    def test_every_served_point_of_every_family_has_its_width(self):
        for name in sorted(os.listdir(harness.TINY)):
            if not name.endswith(".gguf"):
                continue
            s = harness.Server(os.path.join(harness.TINY, name), ["--parallel", "1"])
            try:
                _, page = s.get("/api/v1/models/%s/hooks" % s.model)
                hooks, widths = [], {}
                for p in page["points"]:
                    for l in p["layers"]:
                        if l["grade"] in ("proven", "structural") and not page["hooks_refused"]:
                            key = "%s@%s" % (p["point"], l["layer"])
                            hook = {"component": p["point"], "hook_id": key}
                            hooks.append(hook if l["layer"] is None else dict(hook, layer=l["layer"]))
                            widths[key] = l["width"] or l
                if not hooks:
                    continue
                status, r = s.post("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 2, "temperature": 0,
                                                       "ignore_eos": True, "activation_hooks": hooks})
                self.assertEqual(status, 200, (name, r))
                for key, width in widths.items():
                    entries = r["activations"][key]
                    shapes = [[1, 3, width], [1, 1, width]]
                    if isinstance(width, dict):  # attention: by head, a column per position
                        self.assertTrue(width["by_position"], (name, key))
                        shapes = [[1, width["n_heads"], 3, 3], [1, width["n_heads"], 1, 4]]
                    self.assertEqual([e["shape"] for e in entries], shapes, (name, key))
                    self.assertEqual(entries[0]["token_ids"], [1, 2, 3])
            finally:
                s.stop()


if __name__ == "__main__":
    unittest.main()

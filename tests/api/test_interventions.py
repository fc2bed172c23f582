"""Interventions on the wire: every field, every refusal, beside other requests.  What they compute: unit.edit, golden.edits."""
import base64
import json
import os
import struct
import tempfile
import threading
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny())
server = None
WIDTH = 64


def setUpModule():
    global server
    server = harness.Server(harness.tiny(), args=["--parallel", "2", "--cache-type", "f32"])


def tearDownModule():
    server.stop()


def complete(interventions, hooks=({"layer": 2, "component": "resid_post"},), path="/v1/completions", **fields):
    body = dict({"prompt": list(b"The fox"), "max_tokens": 3, "temperature": 0, "ignore_eos": True,
                 "interventions": interventions, "activation_hooks": list(hooks),
                 "activation_format": {"encoding": "base64"}}, **fields)
    return server.post(path, body)


def rows(reply, key="resid_post.2"):
    return harness.unpack(reply[1]["activations"][key][0])


class Fields(ApiTest):
    def ok(self, *interventions, **fields):
        reply = complete(list(interventions), **fields)
        self.assertEqual(reply[0], 200, reply[1])
        return reply

    def test_operations_and_their_other_names(self):
        plain = rows(self.ok())
        v = [0.5] * WIDTH
        for a, b in ((dict(op="zero"), dict(type="zero_ablation")),
                     (dict(op="scale", strength=0.3), dict(type="scaled_intervention", strength=0.3)),
                     (dict(op="noise", seed=4), dict(type="noise_injection", seed=4)),
                     (dict(op="random", seed=4), dict(type="random_replacement", seed=4)),
                     (dict(op="set", vector=v), dict(type="mean_ablation", vector=v)),
                     (dict(op="patch", vector=v), dict(type="activation_patching", vector=v))):
            place = {"layer": 1, "component": "mlp_out"}
            x, y = rows(self.ok(dict(place, **a))), rows(self.ok(dict(place, **b)))
            self.assertEqual(x, y)
            self.assertNotEqual(x, plain)

    def test_names_of_other_libraries(self):
        x = rows(self.ok({"layer": 1, "component": "resid_post", "op": "scale", "strength": 2}))
        for name in ({"name": "blocks.1.hook_resid_post"}, {"layer_name": "model.layers.1"},
                     {"layer": "transformer.h.1", "component": "residual"}):
            self.assertEqual(rows(self.ok(dict(name, op="scale", strength=2))), x)

    def test_a_vector_may_come_as_base64(self):
        v = [0.01 * i for i in range(WIDTH)]
        data = base64.b64encode(struct.pack("<%df" % WIDTH, *v)).decode()
        place = {"layer": 0, "component": "resid_post", "op": "add"}
        self.assertEqual(rows(self.ok(dict(place, vector=v))),
                         rows(self.ok(dict(place, vector={"shape": [WIDTH], "dtype": "float32", "data": data}))))

    def test_every_layer_at_once(self):
        place = {"component": "attn_out", "op": "zero"}
        self.assertEqual(rows(self.ok(dict(place, layer="*"))),
                         rows(self.ok(*[dict(place, layer=i) for i in range(3)])))

    def test_positions_and_phases(self):
        place = {"layer": 2, "component": "resid_post", "op": "zero"}
        zero = [0.0] * WIDTH
        for positions, edited in (("last", {6}), ("prompt", set(range(7))), ([0, -1], {0, 6}), ("2:4", {2, 3}), ("generated", set())):
            got = rows(self.ok(dict(place, positions=positions)))
            self.assertEqual({i for i, row in enumerate(got) if row == zero}, edited, positions)

    def test_clamp_to_a_value(self):
        d = [1.0] + [0.0] * (WIDTH - 1)
        got = rows(self.ok({"layer": 2, "component": "resid_post", "op": "clamp", "direction": d, "value": 7}))
        for row in got:
            self.assertAlmostEqual(row[0], 7, places=5)

    def test_no_hooks_needed_and_streams_too(self):
        body = {"prompt": "abc", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
        plain = server.post("/v1/completions", body)[1]["choices"][0]["text"]
        edit = [{"layer": "*", "component": "mlp_out", "op": "scale", "strength": -3}]
        status, steered = server.post("/v1/completions", dict(body, interventions=edit))
        self.assertEqual(status, 200)
        self.assertNotEqual(steered["choices"][0]["text"], plain)
        pieces = server.sse("/v1/completions", dict(body, interventions=edit))
        self.assertEqual("".join(p["choices"][0]["text"] for p in pieces if p["choices"]), steered["choices"][0]["text"])
        self.assertEqual(server.post("/v1/completions", body)[1]["choices"][0]["text"], plain)

    def test_on_chats(self):
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2,
                "interventions": [{"layer": 0, "component": "resid_post", "op": "scale", "strength": 1}]}
        if server.post("/v1/chat/completions", dict(body, interventions=[]))[0] != 200:
            self.skipTest("this tiny model has no chat template")
        self.assertEqual(server.post("/v1/chat/completions", body)[0], 200)


class Rows(ApiTest):
    def test_one_row_for_each_position_of_the_prompt(self):
        place = {"layer": 2, "component": "resid_post", "op": "set", "positions": [1, 4]}
        vector = [[1.0] * WIDTH, [2.0] * WIDTH]
        reply = complete([dict(place, vector=vector)])
        self.assertEqual(reply[0], 200, reply[1])
        got = rows(reply)
        self.assertEqual((got[1], got[4]), tuple(vector))
        for change, says in (({"positions": "all"}, "2 rows are given for 7"), ({"positions": [1, 8]}, "2 rows are given for 1"),
                             ({"positions": [4, 1]}, "ascend")):
            self.check_error(complete([dict(place, vector=vector, **change)]), 400, "interventions[0]", says=says)


class Sources(ApiTest):
    """Numbers from other runs are those that hooks on these runs give."""
    PROMPT, OTHER, LONGER = list(b"The fox"), list(b"A hen r"), list(b"The red fox")

    def prompt_rows(self, prompt, layer=1, component="mlp_out", **fields):
        reply = complete([], hooks=[{"layer": layer, "component": component}], prompt=prompt, max_tokens=0, **fields)
        self.assertEqual(reply[0], 200, reply[1])
        return rows(reply, "%s.%d" % (component, layer))

    def same(self, a, b):
        x, y = complete([a]), complete([b])
        self.assertEqual(x[0], 200, x[1])
        self.assertEqual(y[0], 200, y[1])
        for p, q in zip(rows(x), rows(y)):
            for i, j in zip(p, q):
                self.assertAlmostEqual(i, j, delta=1e-5)
        self.assertNotEqual(rows(x), rows(complete([])))

    def test_patch_takes_the_other_prompts_rows(self):
        place = {"layer": 1, "component": "mlp_out", "op": "patch"}
        other = self.prompt_rows(self.OTHER)
        self.same(dict(place, source={"prompt": self.OTHER}), dict(place, vector=other, positions="prompt"))
        self.same(dict(place, positions=[2, 5], source={"prompt": self.OTHER}), dict(place, positions=[2, 5], vector=[other[2], other[5]]))
        self.same(dict(place, positions=[-1], source={"prompt": self.OTHER, "positions": [0]}), dict(place, positions=[-1], vector=other[0]))

    def test_prompts_of_other_lengths_are_aligned_by_their_tokens(self):
        place = {"layer": 1, "component": "mlp_out", "op": "patch"}
        longer = self.prompt_rows(self.LONGER)
        at = [0, 1, 2, 3, 8, 9, 10]                      # "The " and "fox", four bytes later
        self.same(dict(place, source={"prompt": self.LONGER}), dict(place, positions="prompt", vector=[longer[i] for i in at]))
        self.same(dict(place, source={"prompt": self.LONGER, "align": "end"}), dict(place, positions="prompt", vector=longer[4:]))
        self.same(dict(place, source={"prompt": self.LONGER, "align": "start"}), dict(place, positions="prompt", vector=longer[:7]))

    def test_mean_is_that_of_the_prompt_or_of_another(self):
        place = {"layer": 1, "component": "mlp_out", "op": "mean"}
        for prompt, source, at in ((self.PROMPT, None, range(7)), (self.OTHER, {"prompt": self.OTHER}, range(7)),
                                   (self.OTHER, {"prompt": self.OTHER, "positions": "1:4"}, range(1, 4))):
            r = self.prompt_rows(prompt)
            mean = [sum(r[i][c] for i in at) / len(at) for c in range(WIDTH)]
            self.same(dict(place, **({"source": source} if source else {})), dict(place, vector=mean))

    def test_mean_of_every_layer_and_some_heads(self):
        reply = complete([{"layer": "*", "component": "z", "heads": [1], "op": "mean_ablation"}], hooks=[{"layer": 1, "component": "z"}])
        self.assertEqual(reply[0], 200, reply[1])
        got = rows(reply, "z.1")
        part = [row[16:32] for row in got]
        self.assertTrue(all(p == part[0] for p in part))
        self.assertNotEqual(got[0][:16], got[1][:16])

    def test_resample_draws_rows_of_the_other_prompt(self):
        place = {"layer": 2, "component": "resid_post", "op": "resample", "positions": "prompt"}
        other = self.prompt_rows(self.LONGER, layer=2, component="resid_post")
        drawn = []
        for seed in (1, 1, 2):
            reply = complete([dict(place, seed=seed, source={"prompt": self.LONGER})])
            self.assertEqual(reply[0], 200, reply[1])
            near = [min(range(len(other)), key=lambda k: sum(abs(x - y) for x, y in zip(row, other[k]))) for row in rows(reply)[:7]]
            for row, k in zip(rows(reply), near):
                self.assertLess(max(abs(x - y) for x, y in zip(row, other[k])), 1e-4)
            drawn.append(near)
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])

    def test_streams_wait_for_their_sources_too(self):
        body = {"prompt": self.PROMPT, "max_tokens": 3, "temperature": 0, "ignore_eos": True,
                "interventions": [{"layer": 1, "component": "resid_post", "op": "patch", "source": {"prompt": self.OTHER}}]}
        whole = server.post("/v1/completions", body)[1]["choices"][0]["text"]
        pieces = server.sse("/v1/completions", body)
        self.assertEqual("".join(p["choices"][0]["text"] for p in pieces if p["choices"]), whole)

    def test_several_prompts_have_no_one_source(self):
        self.check_error(complete([{"layer": 1, "component": "mlp_out", "op": "mean"}], prompt=["ab", "cd"]), 400, "interventions",
                         says="one prompt")


class Runs(ApiTest):
    """Rows of a stored run are those of its reply."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.server = harness.Server(harness.tiny(), args=["--parallel", "2", "--cache-type", "f32", "--store", cls.dir.name])
        hooks = [{"layer": "*", "component": "mlp_out"}, {"layer": 1, "component": "z"}, {"layer": 1, "component": "attn_out", "positions": [0, 5]}]
        status, reply = cls.server.post("/v1/completions", {"prompt": list(b"A hen r"), "max_tokens": 0, "activation_hooks": hooks, "store": True})
        assert status == 200, reply
        cls.run_id = reply["run"]
        status, reply = cls.server.post("/v1/completions", {"prompt": list(b"A hen r"), "max_tokens": 0, "activation_hooks": hooks,
                                                            "activation_format": {"encoding": "base64"}})
        cls.mlp, cls.z = rows((status, reply), "mlp_out.1"), rows((status, reply), "z.1")
        cls.attn = rows((status, reply), "attn_out.1")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.dir.cleanup()

    def run_with(self, edit):
        return self.server.post("/v1/completions", {
            "prompt": list(b"The fox"), "max_tokens": 2, "temperature": 0, "interventions": [edit],
            "activation_hooks": [{"layer": 2, "component": "resid_post"}], "activation_format": {"encoding": "base64"}})

    def same(self, sourced, plain):
        a, b = self.run_with(sourced), self.run_with(plain)
        self.assertEqual(a[0], 200, a[1])
        self.assertEqual(b[0], 200, b[1])
        for p, q in zip(rows(a), rows(b)):
            for i, j in zip(p, q):
                self.assertAlmostEqual(i, j, delta=1e-5)

    def test_patch_mean_and_resample(self):
        place, run = {"layer": 1, "component": "mlp_out"}, {"run": self.run_id}
        self.same(dict(place, op="patch", source=run), dict(place, op="set", positions="prompt", vector=self.mlp))
        self.same(dict(place, op="patch", positions=[2, 6], source=run), dict(place, op="set", positions=[2, 6], vector=[self.mlp[2], self.mlp[6]]))
        self.same(dict(place, op="patch", positions=[2, 6], source=dict(run, positions=[0, -1])),
                  dict(place, op="set", positions=[2, 6], vector=[self.mlp[0], self.mlp[6]]))
        mean = [sum(r[c] for r in self.mlp[1:4]) / 3 for c in range(WIDTH)]
        self.same(dict(place, op="mean", source=dict(run, positions="1:4")), dict(place, op="set", vector=mean))
        self.same({"layer": 1, "component": "z", "heads": [2, 0], "channels": [1, 17], "op": "patch", "source": run},
                  {"layer": 1, "component": "z", "heads": [2, 0], "channels": [1, 17], "op": "set", "positions": "prompt",
                   "vector": [[r[33], r[1]] for r in self.z]})
        self.same({"layer": "*", "component": "mlp_out", "op": "mean", "positions": [6], "source": dict(run, positions=[0])},
                  {"layer": "*", "component": "mlp_out", "op": "patch", "positions": [6], "source": {"prompt": list(b"A hen r"), "positions": [0]}})
        got = self.run_with(dict(place, op="resample", positions="prompt", seed=3, source=run))
        self.assertEqual(got[0], 200, got[1])

    def test_refusals(self):
        place = {"layer": 1, "component": "mlp_out", "op": "patch"}
        for edit, status, param, says in (
                (dict(place, source={"run": "none"}), 404, "interventions[0].source", ""), (dict(place, source={"run": 3}), 400, "interventions[0].source.run", ""),
                (dict(place, source={"run": "../x"}), 404, "interventions[0].source", ""),
                (dict(place, component="resid_post", source={"run": self.run_id}), 422, "interventions[0].source", "no whole rows"),
                (dict(place, component="attn_out", source={"run": self.run_id}), 422, "interventions[0].source", "no row of position 1"),
                (dict(place, source={"run": self.run_id, "positions": [9]}), 422, "interventions[0].source.positions", "no row"),
                (dict(place, positions=[1], source={"run": self.run_id, "positions": [1, 2]}), 400, "interventions[0].source.positions", "as many"),
                (dict(place, source={"run": self.run_id, "prompt": "x"}), 400, "interventions[0].source.prompt", "unknown"),
                (dict(place, source={"run": self.run_id, "document": 0}), 400, "interventions[0].source", "")):
            with self.subTest(edit=edit):
                got, body = self.run_with(edit)
                self.assertEqual((got, body["error"]["param"]), (status, param), body)
                self.assertIn(says, body["error"]["message"])


def npy(rows, descr="<f4", code="f"):
    """A .npy file of a list of numbers, or of lists of them."""
    shape = "(%d,)" % len(rows) if not isinstance(rows[0], list) else "(%d, %d)" % (len(rows), len(rows[0]))
    numbers = rows if not isinstance(rows[0], list) else [x for r in rows for x in r]
    head = ("{'descr': '%s', 'fortran_order': False, 'shape': %s, }" % (descr, shape)).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + struct.pack("<%d%s" % (len(numbers), code), *numbers)


def tensors(**named):
    """A safetensors file."""
    header, data = {}, b""
    for name, x in named.items():
        blob = struct.pack("<%df" % len(x), *x)
        header[name] = {"dtype": "F32", "shape": [len(x)], "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def control_vector(directions):
    """A GGUF file with direction.N for each layer N."""
    def string(s):
        return struct.pack("<Q", len(s)) + s.encode()
    out = b"GGUF" + struct.pack("<IQQ", 3, len(directions), 1) + string("general.architecture") + struct.pack("<I", 8) + string("controlvector")
    at = 0
    for layer, x in directions.items():
        out += string("direction.%d" % layer) + struct.pack("<IQIQ", 1, len(x), 0, at)
        at += (4 * len(x) + 31) // 32 * 32
    out += b"\0" * (-len(out) % 32)
    for x in directions.values():
        blob = struct.pack("<%df" % len(x), *x)
        out += blob + b"\0" * (-len(blob) % 32)
    return out


class Directions(ApiTest):
    """Vectors by name are the same vectors."""
    V = [[(7 * i * k + 3 * i) % 13 / 5 - 1 for i in range(WIDTH)] for k in (1, 2, 3)]

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        for name, data in (("one.npy", npy(cls.V[0])), ("rows.npy", npy(cls.V)), ("wide.npy", npy(cls.V[1], "<f8", "d")),
                           ("narrow.npy", npy([1.0, 2.0])), ("ints.npy", npy([1] * WIDTH, "<i4", "i")), ("cut.npy", npy(cls.V[0])[:-8]),
                           ("one.safetensors", tensors(v=cls.V[2])), ("odd.gguf", b"GGUF junk"),
                           ("layers.safetensors", tensors(**{"direction.0": cls.V[0], "direction.2": cls.V[2], "other": cls.V[1]})),
                           ("control.gguf", control_vector({1: cls.V[1], 2: cls.V[2]}))):
            with open(os.path.join(cls.dir.name, name), "wb") as f:
                f.write(data)
        with open(os.path.join(os.path.dirname(cls.dir.name), "glia-outside.npy"), "wb") as f:
            f.write(npy(cls.V[0]))
        cls.server = harness.Server(harness.tiny(), args=["--parallel", "2", "--cache-type", "f32", "--assets", cls.dir.name])

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        os.unlink(os.path.join(os.path.dirname(cls.dir.name), "glia-outside.npy"))
        cls.dir.cleanup()

    def run_with(self, *edits):
        return self.server.post("/v1/completions", {
            "prompt": list(b"The fox"), "max_tokens": 2, "temperature": 0, "interventions": list(edits),
            "activation_hooks": [{"layer": 2, "component": "resid_post"}], "activation_format": {"encoding": "base64"}})

    def same(self, named, plain):
        a, b = self.run_with(*named), self.run_with(*plain)
        self.assertEqual(a[0], 200, a[1])
        self.assertEqual(b[0], 200, b[1])
        self.assertEqual(rows(a), rows(b))

    def test_files_of_every_kind(self):
        place = {"layer": 1, "component": "resid_post", "op": "add", "strength": 2}
        self.same([dict(place, vector="one.npy")], [dict(place, vector=self.V[0])])
        self.same([dict(place, vector="wide")], [dict(place, vector=self.V[1])])
        self.same([dict(place, vector="one.safetensors")], [dict(place, vector=self.V[2])])
        self.same([dict(place, vector={"file": "layers", "tensor": "other"})], [dict(place, vector=self.V[1])])
        self.same([dict(place, op="project_out", direction="one")], [dict(place, op="project_out", direction=self.V[0])])
        three = dict(place, op="set", positions=[1, 2, 4])
        self.same([dict(three, vector="rows")], [dict(three, vector=self.V)])

    def test_a_layer_takes_its_own(self):
        place = {"component": "resid_post", "op": "add"}
        self.same([dict(place, layer=2, vector="layers")], [dict(place, layer=2, vector=self.V[2])])
        self.same([dict(place, layer="*", vector="layers")], [dict(place, layer=0, vector=self.V[0]), dict(place, layer=2, vector=self.V[2])])
        self.same([dict(place, layer="*", vector="control", strength=0.5)],
                  [dict(place, layer=1, vector=self.V[1], strength=0.5), dict(place, layer=2, vector=self.V[2], strength=0.5)])

    def test_refusals(self):
        place = {"layer": 0, "component": "resid_post", "op": "add"}
        for vector, status, says in (("none", 404, "no file"), ("../glia-outside", 400, "plain name"), ("/etc/passwd", 400, "plain name"),
                                     (".hidden", 400, "plain name"), ("..", 400, "plain name"), ("", 400, "plain name"),
                                     ("ints", 400, "float"), ("cut", 400, "needs more"), ("odd", 400, "GGUF"), ("control", 404, "layer 0"),
                                     ({"file": "layers", "tensor": "x"}, 404, "no tensor"), ({"file": "one.npy", "row": 1}, 400, "unknown")):
            with self.subTest(vector=vector):
                status_got, body = self.run_with(dict(place, vector=vector))
                self.assertEqual(status_got, status, body)
                self.assertIn(says, body["error"]["message"])
                self.assertTrue(body["error"]["param"].startswith("interventions[0].vector"), body)
        self.check_error(self.run_with(dict(place, vector="narrow")), 400, "interventions[0]", says="64 numbers")
        self.check_error(self.run_with(dict(place, vector="one.npy", direction="one.npy")), 400, "interventions[0]", says="two names")


class Attention(ApiTest):
    def test_knockout_over_the_wire(self):
        hooks = [{"layer": 1, "component": "attn_probs"}]
        reply = complete([{"layer": 1, "op": "knockout", "heads": [2], "positions": [-1], "to": "0:3"}], hooks=hooks)
        self.assertEqual(reply[0], 200, reply[1])
        got = rows(reply, "attn_probs.1")                # seven rows of each of four heads, one head after another
        heads = [got[7 * h + 6] for h in range(4)]
        self.assertEqual(list(heads[2][:3]), [0, 0, 0])
        for h in heads:
            self.assertAlmostEqual(sum(h), 1, places=5)
        self.assertTrue(all(x > 0 for h in (0, 1, 3) for x in heads[h]))

    def test_generated_tokens_too(self):
        hooks = [{"layer": 1, "component": "attn_probs", "positions": "generated"}]
        reply = complete([{"layer": 1, "op": "knockout", "positions": "generated", "to": [0]}], hooks=hooks)
        self.assertEqual(reply[0], 200, reply[1])
        for entry in reply[1]["activations"]["attn_probs.1"]:
            got = harness.unpack(entry)
            self.assertEqual([row[0] for row in got], [0] * 4 * entry["shape"][-2])

    def test_head_ablation_is_zero_at_z(self):
        a = complete([{"layer": 1, "op": "head_ablation", "heads": [1, 2]}])
        b = complete([{"layer": 1, "component": "z", "op": "zero", "heads": [1, 2]}])
        self.assertEqual(rows(a), rows(b))


class Refusals(ApiTest):
    def test_each_names_its_field(self):
        good = {"layer": 1, "component": "resid_post", "op": "zero"}
        for change, status, param, says in (
                ({"op": "ad"}, 400, "interventions[0].op", "add"),
                ({"op": None}, 400, "interventions[0].op", "missing"),
                ({"op": None, "type": "gradient_based"}, 422, "interventions[0].type", "gradients"),
                ({"type": "zero_ablation"}, 400, "interventions[0].op", "two names"),
                ({"strenght": 1}, 400, "interventions[0].strenght", "strength"),
                ({"op": "scale"}, 400, "interventions[0].strength", "missing"),
                ({"op": "scale", "strength": "x"}, 400, "interventions[0].strength", "number"),
                ({"op": "add"}, 400, "interventions[0]", "needs a vector of 64"),
                ({"op": "add", "vector": [1, 2]}, 400, "interventions[0]", "64 numbers"),
                ({"op": "add", "vector": "zz"}, 422, "interventions[0].vector", "--assets"),
                ({"vector": [1.0] * WIDTH}, 400, "interventions[0]", "takes no vector"),
                ({"op": "project_out", "direction": [0] * WIDTH}, 400, "interventions[0]", "no direction"),
                ({"when": {"direction": [1] * WIDTH}}, 400, "interventions[0].when", "above or below"),
                ({"when": 3}, 400, "interventions[0].when", "object"),
                ({"layer": 3}, 400, "interventions[0].layer", "layers 0 to 2"),
                ({"component": "resid"}, 400, "interventions[0].component", "nearest"),
                ({"heads": [0]}, 400, "interventions[0]", "no heads"),
                ({"channels": [99]}, 400, "interventions[0]", ""),
                ({"positions": [500000]}, 400, "interventions[0]", "does not exist"),
                ({"component": "attn_head_out"}, 422, "interventions[0]", "cannot be changed"),
                ({"op": "knockout", "to": "prompt", "component": "attn_probs"}, 400, "interventions[0].to", "positions"),
                ({"op": "knockout"}, 400, "interventions[0]", "knocked out"),
                ({"op": "noise", "component": "attn_probs"}, 400, "interventions[0]", "attention takes"),
                ({"op": "resample"}, 400, "interventions[0].source", "missing"),
                ({"source": {"prompt": "x"}}, 400, "interventions[0].source", "only patch"),
                ({"op": "patch", "source": {"prompt": "x"}, "vector": [1.0] * WIDTH}, 400, "interventions[0].source", "contradict"),
                ({"op": "patch", "source": "x"}, 400, "interventions[0].source", "object"),
                ({"op": "patch", "source": {}}, 400, "interventions[0].source", "needs a prompt"),
                ({"op": "patch", "source": {"prompt": 3}}, 400, "interventions[0].source.prompt", ""),
                ({"op": "patch", "source": {"prompt": "x", "align": "left"}}, 400, "interventions[0].source.align", "tokens"),
                ({"op": "patch", "source": {"prompt": "x", "layer": 1}}, 400, "interventions[0].source.layer", "unknown"),
                ({"op": "patch", "source": {"prompt": list(b"A hen runs")}}, 422, "interventions[0].source", "no partner"),
                ({"op": "patch", "positions": [1], "source": {"prompt": list(b"abc"), "positions": [1, 2]}}, 400,
                 "interventions[0].source.positions", "as many"),
                ({"op": "mean", "source": {"prompt": list(b"abc"), "positions": [9]}}, 400, "interventions[0].source.positions", "not"),
                ({"op": "mean", "component": "attn_probs"}, 422, "interventions[0].source", "attention takes no source"),
                ({"component": "router_logits"}, 422, "interventions[0]", "absent")):
            with self.subTest(change=change):
                edit = {k: v for k, v in dict(good, **change).items() if v is not None}
                got, body = complete([edit])
                self.assertEqual(got, status, body)
                self.assertEqual(body["error"]["param"], param, body)
                self.assertIn(says, body["error"]["message"])

    def test_the_list_itself(self):
        self.check_error(complete("zero"), 400, "interventions", says="list")
        self.check_error(complete([3]), 400, "interventions[0]", says="object")
        many = [{"layer": 0, "component": "resid_post", "op": "zero"}] * 5000
        self.check_error(complete(many), 400, "interventions", says="4096")

    def test_the_index_is_the_requests_own(self):
        edits = [{"layer": "*", "component": "mlp_out", "op": "zero"}, {"layer": 0, "component": "mlp_out", "op": "add"}]
        self.check_error(complete(edits), 400, "interventions[1]", says="needs a vector")


class Beside(ApiTest):
    def test_others_are_left_alone(self):
        alone = rows(complete([]))
        done = threading.Event()

        def disturb():
            while not done.is_set():
                complete([{"layer": "*", "component": "resid_post", "op": "scale", "strength": 5}], max_tokens=12)

        other = threading.Thread(target=disturb)
        other.start()
        try:
            for _ in range(20):
                got = rows(complete([], cache_prompt=False))
                scale = max(abs(x) for row in alone for x in row)
                worst = max(abs(a - b) for x, y in zip(got, alone) for a, b in zip(x, y)) / scale
                self.assertLess(worst, 1e-5)
        finally:
            done.set()
            other.join()


if __name__ == "__main__":
    unittest.main()

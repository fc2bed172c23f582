"""Sweeps over HTTP and on the command line: as a task and at once, numbers against the same interventions by hand, files.
What is computed: unit.sweep, golden.sweeps."""
import json
import os
import signal
import struct
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree as ET

import harness
from harness import ApiTest

harness.need(harness.tiny())
server = None
CLEAN, CORRUPTED = list(b"The fox runs"), list(b"The hen runs")
BODY = {"clean": CLEAN, "corrupted": CORRUPTED, "answer": 65, "wrong": [97, 98]}


def setUpModule():
    global server
    server = harness.Server(harness.tiny(), args=["--parallel", "4", "--cache-type", "f32"])


def tearDownModule():
    server.stop()


def sweep(**fields):
    return server.post("/api/v1/sweeps", dict(BODY, wait=True, **fields))


def logit_difference(prompt, interventions):
    status, reply = server.post("/v1/completions", {
        "prompt": prompt, "max_tokens": 0, "interventions": interventions, "cache_prompt": False,
        "activation_hooks": [{"component": "lm_head", "positions": [-1], "channels": [65, 97, 98]}],
        "activation_format": {"encoding": "base64"}})
    assert status == 200, reply
    x = harness.unpack([e for k in reply["activations"].values() for e in k][0])[0]
    return x[0] - (x[1] + x[2]) / 2


def safetensors(data):
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            assert t["dtype"] == "F64"
            a, b = t["data_offsets"]
            out[name] = (t["shape"], struct.unpack("<%dd" % ((b - a) // 8), data[8 + n + a:8 + n + b]))
    return header["__metadata__"], out


def flat(x):
    return [z for y in x for z in flat(y)] if isinstance(x, list) else [x]


class Numbers(ApiTest):
    def test_places_equal_interventions_by_hand(self):
        status, r = sweep(sweeps=[{"component": "resid_pre"}, {"component": "z"}, {"component": "z", "by": "head_position"}])
        self.assertEqual(status, 200, r)
        self.assertAlmostEqual(r["clean"]["value"], logit_difference(CLEAN, []), places=4)
        self.assertAlmostEqual(r["corrupted"]["value"], logit_difference(CORRUPTED, []), places=4)
        self.assertEqual([t["text"] for t in r["clean"]["tokens"]][:4], ["T", "h", "e", " "])
        resid, head, both = r["sweeps"]
        self.assertEqual((resid["axes"], resid["shape"]), (["layer", "position"], [3, 12]))
        self.assertEqual((head["component"], head["axes"], head["shape"]), ("z", ["layer", "head"], [3, 4]))
        self.assertEqual((both["axes"], both["shape"]), (["layer", "head", "position"], [3, 4, 12]))
        source = {"prompt": CLEAN}
        for layer, pos in ((0, 5), (1, 4), (2, 11), (2, 1)):
            want = logit_difference(CORRUPTED, [{"layer": layer, "component": "resid_pre", "positions": [pos], "op": "patch", "source": source}])
            self.assertAlmostEqual(resid["values"][layer][pos], want, places=4)
            self.assertAlmostEqual(resid["recovered"][layer][pos],
                                   (want - r["corrupted"]["value"]) / (r["clean"]["value"] - r["corrupted"]["value"]), places=3)
        for layer, h in ((0, 0), (1, 3)):
            want = logit_difference(CORRUPTED, [{"layer": layer, "component": "z", "heads": [h], "op": "patch", "source": source}])
            self.assertAlmostEqual(head["values"][layer][h], want, places=4)
            want = logit_difference(CORRUPTED, [{"layer": layer, "component": "z", "heads": [h], "positions": [6], "op": "patch", "source": source}])
            self.assertAlmostEqual(both["values"][layer][h][6], want, places=4)
        self.assertEqual(resid["recovered"][1][:4], [0, 0, 0, 0])  # before the first difference
        n = r["interventions"]
        self.assertEqual(n["run"] + n["unchanged"], 36 + 12 + 144)

    def test_ablation_needs_one_prompt(self):
        status, r = server.post("/api/v1/sweeps", {"clean": CLEAN, "answer": 65, "metric": "log_probability", "op": "mean", "wait": True,
                                                   "sweeps": [{"component": "mlp_out", "by": "layer"}], "layers": [1, 2]})
        self.assertEqual(status, 200, r)
        self.assertEqual((r["corrupted"], r["sweeps"][0]["recovered"], r["sweeps"][0]["shape"], r["layers"]), (None, None, [2], [1, 2]))
        self.assertNotEqual(r["sweeps"][0]["values"][0], r["clean"]["value"])

    def test_what_is_asked_is_what_comes(self):
        status, r = sweep(positions="4:7", layers=[-1], sweeps=[{"component": "attn_out"}], op="noise", metric="kl", answer=None, wrong=None)
        self.assertEqual(status, 200, r)
        self.assertEqual((r["positions"], r["layers"], r["sweeps"][0]["shape"], r["op"]), ([4, 5, 6], [2], [1, 3], "noise"))
        self.assertAlmostEqual(r["clean"]["value"], 0, places=6)
        self.assertTrue(all(x >= -1e-6 for x in r["sweeps"][0]["values"][0]))

    def test_refusals_name_their_field(self):
        for change, status, param, says in (
                ({"clean": None}, 400, "clean", "missing"), ({"corrupted": None}, 400, "corrupted", "missing"),
                ({"corrupted": CORRUPTED[:-1]}, 400, "corrupted", "equally many"), ({"clean": 3}, 400, "clean", "text"),
                ({"answer": None}, 400, "answer", "missing"), ({"answer": 5000}, 400, "answer", "does not exist"),
                ({"answer": "two words"}, 400, "answer", "tokens"), ({"wrong": [97, None]}, 400, "wrong[1]", "token"),
                ({"metric": "prob"}, 400, "metric", "probability"), ({"op": "patch"}, 400, "op", "nearest"),
                ({"metric": "rank"}, 400, "wrong", "none"), ({"sweeps": []}, 400, "sweeps", "list"),
                ({"sweeps": [{"by": "head"}]}, 400, "sweeps[0].component", "missing"),
                ({"sweeps": [{"component": "resid"}]}, 400, "sweeps[0].component", "nearest"),
                ({"sweeps": [{"component": "z"}, {"component": "resid_pre", "by": "head"}]}, 400, "sweeps[1].component", "no heads"),
                ({"sweeps": [{"component": "z", "by": "heads"}]}, 400, "sweeps[0].by", "head_position"),
                ({"sweeps": [{"component": "router_logits"}]}, 422, "sweeps[0].component", "proven"),
                ({"layers": [9]}, 400, "layers[0]", "no layer"), ({"positions": [50]}, 400, "positions", ""),
                ({"layer": 3}, 400, "layer", "layers")):
            with self.subTest(change=change):
                body = {k: v for k, v in dict(BODY, wait=True, **change).items() if v is not None}
                got, reply = server.post("/api/v1/sweeps", body)
                self.assertEqual((got, reply["error"]["param"]), (status, param), reply)
                self.assertIn(says, reply["error"]["message"])


class Paths(ApiTest):
    def test_to_logits_and_to_heads(self):
        status, r = sweep(path={"to": "logits"}, op="noise")
        self.assertEqual(status, 200, r)
        self.assertEqual([(x["component"], x["by"], x["shape"]) for x in r["sweeps"]], [("z", "head", [3, 4]), ("mlp_out", "layer", [3])])
        self.assertEqual(r["path"], {"mlps": "held", "to": "logits"})
        # the last layer's MLP has no other way than the direct one
        want = logit_difference(CLEAN, [{"layer": 2, "component": "mlp_out", "op": "patch", "source": {"prompt": CORRUPTED}}])
        self.assertAlmostEqual(r["sweeps"][1]["values"][2], want, places=4)
        to = [{"component": "q", "layer": 2, "head": 1}, {"component": "k", "layer": 2, "head": 1}]
        status, r = sweep(path={"to": to, "mlps": "free"}, op="noise", sweeps=[{"component": "z"}])
        self.assertEqual(status, 200, r)
        self.assertEqual((r["path"]["to"], r["path"]["mlps"]), (to, "free"))
        self.assertEqual(r["sweeps"][0]["values"][2], [None] * 4)
        self.assertTrue(any(abs(x - r["clean"]["value"]) > 1e-5 for x in r["sweeps"][0]["values"][0]))

    def test_refusals(self):
        for path, status, param in ((3, 400, "path"), ({"to": []}, 400, "path.to"), ({"to": [3]}, 400, "path.to[0]"), ({"from": 1}, 400, "path.from"),
                                    ({"to": [{"component": "q"}]}, 400, "path.to[0].layer"), ({"mlps": "no"}, 400, "path.mlps"),
                                    ({"to": [{"component": "z", "layer": 1}]}, 400, "path.to[0]"),
                                    ({"to": [{"component": "q", "layer": 1, "head": 7}]}, 400, "path.to[0]"),
                                    ({"to": [{"component": "q", "layer": 8}]}, 400, "path.to[0].layer")):
            with self.subTest(path=path):
                got, reply = sweep(path=path)
                self.assertEqual((got, reply["error"]["param"]), (status, param), reply)
        self.check_error(sweep(path={}, sweeps=[{"component": "resid_pre"}]), 400, "sweeps[0].component", says="senders")


class Tasks(ApiTest):
    def wait(self, task):
        for _ in range(600):
            status, reply = server.get("/api/v1/sweeps/" + task)
            self.assertEqual(status, 200, reply)
            if reply["status"] != "running":
                return reply
            time.sleep(0.05)
        self.fail("it never ends")

    def test_a_task_gives_result_tensors_and_pictures(self):
        status, started = server.post("/api/v1/sweeps", dict(BODY, sweeps=[{"component": "resid_pre"}, {"component": "z", "by": "head_position"}]))
        self.assertEqual(status, 200, started)
        done = self.wait(started["task_id"])
        self.assertEqual((done["status"], done["kind"], done["progress"]), ("completed", "sweep", 1))
        status, _, body = server.raw("GET", "/api/v1/sweeps/%s/tensors" % started["task_id"])[:3]
        self.assertEqual(status, 200)
        meta, tensors = safetensors(body)
        self.assertEqual((meta["format"], meta["op"], meta["metric"]), ("glia-sweep-1", "denoise", "logit_difference"))
        self.assertEqual(sorted(tensors), ["0.resid_pre.position.recovered", "0.resid_pre.position.values",
                                           "1.z.head_position.recovered", "1.z.head_position.values"])
        shape, x = tensors["1.z.head_position.values"]
        self.assertEqual(shape, [3, 4, 12])
        self.assertEqual(list(x), flat(done["result"]["sweeps"][1]["values"]))
        for i, cells in ((0, 36), (1, 144)):
            status, headers, svg = server.raw("GET", "/api/v1/sweeps/%s/heatmap?sweep=%d" % (started["task_id"], i))[:3]
            self.assertEqual(status, 200)
            titles = [t.text for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]
            self.assertEqual(len(titles), cells)
        self.assertEqual(server.get("/api/v1/sweeps/%s/heatmap?sweep=2" % started["task_id"])[0], 404)
        self.assertEqual(server.get("/api/v1/sweeps/%s/heatmap?sweep=x" % started["task_id"])[0], 400)

    def test_a_failed_one_says_why_and_has_no_tensors(self):
        started = server.post("/api/v1/sweeps", dict(BODY, answer="two words"))[1]
        done = self.wait(started["task_id"])
        self.assertEqual(done["status"], "failed")
        self.assertIn("tokens", json.dumps(done["error"]))
        self.assertEqual(server.get("/api/v1/sweeps/%s/tensors" % started["task_id"])[0], 404)

    def test_cancel(self):
        started = server.post("/api/v1/sweeps", dict(BODY, sweeps=[{"component": "z", "by": "head_position"}] * 32))[1]
        status, reply = server.raw("DELETE", "/api/v1/sweeps/" + started["task_id"])[0], None
        self.assertEqual(status, 200, reply)
        self.assertIn(self.wait(started["task_id"])["status"], ("cancelled", "completed"))
        self.assertEqual(server.get("/api/v1/sweeps/none")[0], 404)


class Program(unittest.TestCase):
    def run_cli(self, *args):
        return subprocess.run([harness.BIN, "sweep", "--model", harness.tiny(), "--cache-type", "f32", *args], capture_output=True, text=True)

    def test_table_files_and_json(self):
        common = ["--clean", "The fox runs", "--corrupted", "The hen runs", "--answer", "#65", "--wrong", "#97", "--wrong", "#98"]
        with tempfile.TemporaryDirectory() as d:
            r = self.run_cli(*common, "--out", os.path.join(d, "run"), "--sweeps", "resid_pre,z:head")
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertIn("share of the difference", r.stdout)
            self.assertEqual(sorted(os.listdir(os.path.join(d, "run"))),
                             ["0.resid_pre.position.svg", "1.z.head.svg", "sweep.json", "sweep.safetensors"])
            with open(os.path.join(d, "run", "sweep.json")) as f:
                saved = json.load(f)
        r = self.run_cli(*common, "--json", "--path", "q:2:1,k:2:1", "--op", "noise")
        self.assertEqual(json.loads(r.stdout)["path"]["to"][1], {"component": "k", "layer": 2, "head": 1})
        r = self.run_cli(*common, "--json", "--sweeps", "resid_pre,z:head", "--layers", "0-1", "--positions", "4,6-7")
        out = json.loads(r.stdout)
        self.assertEqual((out["layers"], out["positions"]), ([0, 1], [4, 6, 7]))
        for layer in (0, 1):
            for k, pos in enumerate((4, 6, 7)):
                self.assertAlmostEqual(out["sweeps"][0]["values"][layer][k], saved["sweeps"][0]["values"][layer][pos], places=4)

    def test_ctrl_c_stops_it(self):
        text = "The fox runs over the hill and far away to the green sea"
        p = subprocess.Popen([harness.BIN, "sweep", "--model", harness.tiny(), "--clean", text, "--corrupted", text.replace("fox", "hen"),
                              "--answer", "#65", "--wrong", "#97", "--json", "--sweeps", ",".join(["z:head_position"] * 60)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = p.stderr.readline()                       # progress: it has begun
        self.assertEqual(json.loads(line)["event"], "progress", line)
        p.send_signal(signal.SIGINT)
        out, _ = p.communicate(timeout=60)
        self.assertEqual((p.returncode, out), (130, ""))

    def test_mistakes_are_one_line(self):
        for args, code, says in ((["--clean", "x"], 1, "corrupted"), ([], 2, "--clean"), (["--clean", "x", "--layers", "a"], 2, "ranges"),
                                 (["--clean", "ab", "--corrupted", "cd", "--answer", "two words", "--wrong", "#3"], 1, "tokens")):
            r = self.run_cli(*args)
            self.assertEqual(r.returncode, code, r.stderr)
            self.assertIn(says, r.stderr)
            self.assertLess(len(r.stderr.strip().split("\n")), 3)


if __name__ == "__main__":
    unittest.main()

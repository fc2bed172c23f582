"""glia harvest as a person runs it: help, progress, machine output, interruption, kill -9."""
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import harness

TINY = os.path.join(os.environ["GLIA_TINY_DIR"], "llama.gguf")
POINTS = "resid_post@all,z@1"
KILLS = int(os.environ.get("GLIA_KILLS", "40"))  # kill -9 so often; the long form: GLIA_KILLS=200


def read_shard(path):
    """A safetensors file as {name: (dtype, shape, bytes)}; what docs/FORMATS.md says is all that is used."""
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8:8 + n])
    head.pop("__metadata__", None)
    body = memoryview(data)[8 + n:]
    return {k: (v["dtype"], v["shape"], bytes(body[v["data_offsets"][0]:v["data_offsets"][1]])) for k, v in head.items()}


def labels(tensors):
    rows = tensors["document"][1][0]
    columns = [struct.unpack("<%d%s" % (rows, "q" if k == "document" else "i"), tensors[k][2])
               for k in ("document", "offset", "position", "token_id")]
    return list(zip(*columns))


class Folder:
    """Everything that a harvest's manifest names, checked against its checksums."""

    def __init__(self, path):
        self.labels, self.data = [], {}
        try:
            with open(os.path.join(path, "manifest.json")) as f:
                self.manifest = json.load(f)
        except FileNotFoundError:
            self.manifest = None
            return
        for shard in self.manifest["shards"]:
            with open(os.path.join(path, shard["file"]), "rb") as f:
                data = f.read()
            assert hashlib.sha256(data).hexdigest() == shard["sha256"], shard["file"]
            assert len(data) == shard["bytes"]
            tensors = read_shard(os.path.join(path, shard["file"]))
            rows = labels(tensors)
            assert len(rows) == shard["rows"]
            self.labels += rows
            for name, (dtype, shape, raw) in tensors.items():
                if name not in ("document", "offset", "position", "token_id"):
                    self.data.setdefault(name, []).append(raw)
        assert len(self.labels) == self.manifest["totals"]["rows"]

    def values(self, name):
        raw = b"".join(self.data[name])
        return struct.unpack("<%df" % (len(raw) // 4), raw)


class Harvest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="glia-harvest-")
        cls.data = os.path.join(cls.dir, "data.txt")
        rng = random.Random(7)
        with open(cls.data, "w") as f:
            for _ in range(160):
                f.write("".join(rng.choice("abcdefgh ijklmn") for _ in range(rng.randint(1, 90))).strip() + "x\n")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def command(self, out, *more):
        return [os.environ["GLIA_BIN"], "harvest", "--model", TINY, "--data", self.data, "--points", POINTS, "--out",
                os.path.join(self.dir, out), "--ctx", "64", "--window", "32", "--shard-size", "60K", "--threads", "2",
                "--cache-type", "f32", "--flash-attn", "off"] + list(more)

    def run_it(self, out, *more):
        r = subprocess.run(self.command(out, *more), capture_output=True, text=True, timeout=120)
        return r.returncode, r.stdout, r.stderr

    def same(self, a, b):
        self.assertEqual(a.labels, b.labels)
        for name in a.data:
            x, y = a.values(name), b.values(name)
            top = max(map(abs, x))
            self.assertLess(max(abs(p - q) for p, q in zip(x, y)) / top, 2e-5, name)

    def test_help_teaches(self):
        r = subprocess.run([os.environ["GLIA_BIN"], "help", "harvest"], capture_output=True, text=True)
        self.assertEqual(r.returncode, 0)
        for word in ("--points", "resid_post@all", "manifest.json", "goes on where it stopped"):
            self.assertIn(word, r.stdout)

    def test_what_is_missing_is_named(self):
        r = subprocess.run([os.environ["GLIA_BIN"], "harvest", "--model", TINY], capture_output=True, text=True)
        self.assertEqual((r.returncode, r.stdout), (2, ""))
        self.assertIn("--data is missing", r.stderr)

    def test_a_bad_point_is_one_line_and_leaves_nothing(self):
        status, out, err = self.run_it("bad", "--points", "resid_pots@all")
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(err.count("\n"), 1)
        self.assertIn("resid_post", err)
        self.assertFalse(os.path.exists(os.path.join(self.dir, "bad")))

    def test_machine_output_ends_with_the_end(self):
        status, out, err = self.run_it("json", "--json", "--max-tokens", "500")
        self.assertEqual((status, err), (0, ""))
        last = json.loads(out.splitlines()[-1])
        self.assertEqual(last["event"], "max_tokens")
        self.assertGreaterEqual(last["tokens"], 500)
        self.assertEqual(last["rows"], len(Folder(os.path.join(self.dir, "json")).labels))

    def test_standard_input_goes_on_too(self):
        with open(self.data, "rb") as f:
            text = f.read()
        for more in (["--max-tokens", "700"], []):
            command = ["-" if part == self.data else part for part in self.command("input", *more)]
            r = subprocess.run(command, input=text, capture_output=True, timeout=120)
            self.assertEqual(r.returncode, 0, r.stderr)
        status, _, err = self.run_it("whole-input")
        self.assertEqual((status, err), (0, ""))
        self.same(Folder(os.path.join(self.dir, "whole-input")), Folder(os.path.join(self.dir, "input")))

    def test_interrupted_it_seals_and_says_so(self):
        p = subprocess.Popen(self.command("int", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not Folder(os.path.join(self.dir, "int")).labels and p.poll() is None:
            time.sleep(0.01)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        self.assertIn(p.returncode, (130, 0), err)  # it may just have been finished
        self.assertIn(json.loads(out.splitlines()[-1])["event"], ("stopped", "complete"))
        self.assertEqual(self.run_it("int")[0], 0)
        self.assertTrue(Folder(os.path.join(self.dir, "int")).manifest["complete"])

    def test_killed_again_and_again_nothing_is_lost_or_doubled(self):
        rng = random.Random(11)
        self.assertEqual(self.run_it("reference")[0], 0)
        reference = Folder(os.path.join(self.dir, "reference"))
        self.assertTrue(reference.manifest["complete"])
        self.assertGreater(len(reference.manifest["shards"]), 8)
        kills = rounds = 0
        span = 0.05
        while kills < KILLS:
            name, sealed = "kill%d" % rounds, 0
            rounds += 1
            while kills < KILLS:
                p = subprocess.Popen(self.command(name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                try:
                    p.wait(timeout=rng.uniform(0, span))
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
                    kills += 1
                with p.stderr:
                    err = p.stderr.read().decode()
                self.assertIn(p.returncode, (0, -9), err)
                now = Folder(os.path.join(self.dir, name))
                self.assertGreaterEqual(len(now.labels), sealed)  # nothing sealed is lost
                self.assertEqual(now.labels, reference.labels[:len(now.labels)])  # each once, in order
                # as long a span as a few shards take, on whatever machine this is
                span = span * 1.1 if len(now.labels) == sealed else max(span * 0.95, 0.02)
                sealed = len(now.labels)
                if p.returncode == 0:
                    break
            self.assertEqual(self.run_it(name)[0], 0)
            done = Folder(os.path.join(self.dir, name))
            self.assertTrue(done.manifest["complete"])
            self.same(reference, done)
            strays = [f for f in os.listdir(os.path.join(self.dir, name)) if f.endswith(".part")]
            self.assertEqual(strays, [])
        self.assertEqual(kills, KILLS)


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""Two servers, one data set: clients/python/examples/scale_out.py carries control only; the rows are those of one server."""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest

import harness
from harness import Server, need, run, tiny

need(tiny())
SCRIPT = os.path.join(harness.SOURCE, "clients", "python", "examples", "scale_out.py")
ARGS = ("--ctx", "64", "--cache-type", "f32", "--flash-attn", "off")


def read(folder):
    """[(document, offset, token)], floats of resid_post.1, of a harvest's folder."""
    labels, data = [], b""
    with open(os.path.join(folder, "manifest.json")) as f:
        manifest = json.load(f)
    for shard in manifest["shards"]:
        with open(os.path.join(folder, shard["file"]), "rb") as f:
            (n,) = struct.unpack("<Q", f.read(8))
            head = json.loads(f.read(n))
            body = f.read()
        part = {k: body[v["data_offsets"][0]:v["data_offsets"][1]] for k, v in head.items() if k != "__metadata__"}
        rows = shard["rows"]
        labels += list(zip(struct.unpack("<%dq" % rows, part["document"]), struct.unpack("<%di" % rows, part["offset"]),
                           struct.unpack("<%di" % rows, part["token_id"])))
        data += part["resid_post.1"]
    return labels, struct.unpack("<%df" % (len(data) // 4), data)


class ScaleOut(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="glia-scale-")
        rng = random.Random(4)
        cls.data = os.path.join(cls.dir.name, "data.txt")
        with open(cls.data, "w") as f:
            for _ in range(50):
                f.write("".join(rng.choice("abcdefgh ij") for _ in range(rng.randint(1, 60))) + "x\n")
        cls.servers = [Server(tiny(), ("--data-dir", cls.dir.name, "--store", os.path.join(cls.dir.name, "store%d" % i)) + ARGS)
                       for i in range(2)]

    @classmethod
    def tearDownClass(cls):
        for s in cls.servers:
            s.stop()
        cls.dir.cleanup()

    def go(self, out, *more):
        urls = ",".join("http://127.0.0.1:%d" % s.port for s in self.servers)
        return subprocess.run([sys.executable, SCRIPT, "--servers", urls, "--data", self.data, "--out",
                               os.path.join(self.dir.name, out), "--points", "resid_post@1", "--slices", "5", "--poll", "0.1"] + list(more),
                              capture_output=True, text=True, timeout=240)

    def check(self, out):
        alone = os.path.join(self.dir.name, "alone")
        if not os.path.exists(alone):
            status, _, err = run("harvest", "--model", tiny(), "--data", self.data, "--points", "resid_post@1", "--out", alone,
                                 "--threads", "1", *ARGS)
            self.assertEqual((status, err), (0, ""))
        want_labels, want = read(alone)
        with open(os.path.join(self.dir.name, out, "index.json")) as f:
            index = json.load(f)
        self.assertEqual(len(index["parts"]), 5)
        self.assertEqual(len({p["server"] for p in index["parts"]}), 2)
        labels, data = [], ()
        for part in index["parts"]:
            some, x = read(os.path.join(self.dir.name, out, part["part"]))
            labels += [(d + part["first_document"], o, t) for d, o, t in some]
            data += x
        self.assertEqual(labels, want_labels)
        self.assertEqual(index["rows"], len(want_labels))
        self.assertLess(max(abs(a - b) for a, b in zip(data, want)), 2e-5 * max(map(abs, want)))

    def test_two_servers_give_the_rows_of_one(self):
        r = self.go("two")
        self.assertEqual((r.returncode, r.stderr), (0, ""))
        self.check("two")
        again = self.go("two")  # nothing is left to do
        self.assertEqual((again.returncode, again.stdout), (0, r.stdout))

    def test_the_same_through_ray(self):
        try:
            import ray  # noqa: F401
        except ImportError:
            print("skip: no Ray (pip install 'ray[data]' to run this); the executor of processes is tested")
            self.skipTest("no Ray")
        r = self.go("ray", "--executor", "ray")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.check("ray")

    def test_a_server_that_refuses_is_one_line(self):
        r = self.go("bad", "--set", "dtype=int3")
        self.assertEqual(r.returncode, 1)
        self.assertIn("dtype must be one of", r.stderr)
        self.assertEqual(r.stderr.count("\n"), 1, r.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)

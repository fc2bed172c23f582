"""The command line: help, mistakes, finding models, files that are no models, the demo."""
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import harness
from harness import ApiTest, run

harness.need(harness.MODEL)


class Help(ApiTest):
    def test_help_teaches_with_examples(self):
        for args in (["--help"], ["help"], ["serve", "--help"], ["help", "serve"], ["demo", "--help"], ["inspect", "--help"]):
            status, out, _ = run(*args)
            self.assertEqual(status, 0)
            self.assertIn("glia serve --model" if "demo" not in args and "inspect" not in args else "glia ", out)
        out = run("serve", "--help")[1]
        for flag in ("--model", "--listen", "--parallel", "--ctx", "--gpu-layers", "--threads", "--api-key", "--id",
                     "--flash-attn", "--cache-type", "--batch", "--memory-limit", "--capture-memory", "--no-hooks", "--log-level", "--port-file"):
            self.assertIn(flag, out)
        self.assertIn("curl", out)

    def test_the_page_of_hooks_is_what_the_program_says(self):
        tables = run("help", "hooks")[1]
        self.assertEqual(tables.count("<!-- end -->"), 7)
        tool = os.path.join(harness.SOURCE, "tools", "hooks_page.py")
        p = subprocess.run([sys.executable, tool, "--check", os.path.join(harness.SOURCE, "docs", "HOOKS.md")],
                           input=tables, capture_output=True, text=True)
        self.assertEqual((p.returncode, p.stderr), (0, ""))

    def test_version(self):
        self.assertRegex(run("version")[1], r"^glia \d+\.\d+\.\d+ \(llama\.cpp .+\)\n$")
        self.assertIn("glia", json.loads(run("version", "--json")[1]))

    def test_unknown_words_come_with_the_nearest(self):
        status, _, err = run("sevre")
        self.assertEqual(status, 2)
        self.assertIn('"serve"', err)
        status, _, err = run("serve", "--modle", "x")
        self.assertEqual(status, 2)
        self.assertIn('"--model"', err)

    def test_bad_values_are_named(self):
        for args, word in ((["--ctx", "many"], "--ctx"), (["--ctx", "-1"], "--ctx"), (["--ctx", "99999999999"], "--ctx"),
                           (["--parallel"], "--parallel"), (["--flash-attn", "maybe"], "--flash-attn"),
                           (["--memory-limit", "lots"], "--memory-limit"), (["--capture-memory", "-1"], "--capture-memory"), (["--json=yes"], "--json")):
            status, _, err = run("serve", "--model", "x", *args)
            self.assertEqual(status, 2)
            self.assertIn(word, err)
        self.assertEqual(run("serve")[0], 2)
        self.assertEqual(run("inspect")[0], 2)


class Finding(ApiTest):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        for path in ("a/Tiny-One/Tiny-One.Q4.gguf", "b/Other/Other.Q8.gguf", "c/Other/Other.Q4.gguf"):
            full = os.path.join(self.dir.name, path)
            os.makedirs(os.path.dirname(full))
            os.symlink(harness.MODEL, full)
        self.env = {"GLIA_MODELS": self.dir.name}

    def tearDown(self):
        self.dir.cleanup()

    def test_by_stem_model_or_publisher(self):
        for name in ("tiny-one", "Tiny-One.Q4", "a/tiny-one", "Tiny-One.Q4.gguf", "a/Tiny-One/Tiny-One.Q4.gguf", "other.q8"):
            status, out, err = run("inspect", name, "--json", env=self.env)
            self.assertEqual(status, 0, err)
            self.assertEqual(json.loads(out)["model"]["n_layer"], 30)

    def test_ambiguous_and_unknown_names(self):
        status, _, err = run("inspect", "other", env=self.env)
        self.assertEqual(status, 1)
        self.assertIn('"b/other"', err)
        self.assertIn('"c/other"', err)
        status, _, err = run("inspect", "b/other", "--json", env=self.env)
        self.assertEqual(status, 0, err)
        status, _, err = run("inspect", "tiny-oen", env=self.env)
        self.assertEqual(status, 1)
        self.assertIn("Tiny-One.Q4.gguf", err)
        status, _, err = run("serve", "--model", "x", env={"GLIA_MODELS": "/nonexistent"})
        self.assertEqual(status, 1)
        self.assertIn("x", err)


class BadFiles(ApiTest):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.dir.cleanup()

    def file(self, name, data):
        path = os.path.join(self.dir.name, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def refused(self, path, *args):
        status, out, err = run("inspect", path, *args)
        self.assertEqual(status, 1, (out, err))
        self.assertTrue(err.strip().startswith("glia:"), err)
        lines = [l for l in err.splitlines() if l.strip()]
        self.assertTrue(any(l.startswith("glia: ") for l in lines), err)
        return err

    def test_no_such_file(self):
        self.refused(os.path.join(self.dir.name, "nothing.gguf"))
        self.refused(self.dir.name + "/")

    def test_not_a_gguf(self):
        self.refused(self.file("text.gguf", b"this is no model\n" * 100))
        self.refused(self.file("empty.gguf", b""))
        self.refused(self.file("magic.gguf", b"GGUF"))

    def test_unreadable(self):
        path = self.file("closed.gguf", b"GGUF")
        os.chmod(path, 0)
        self.refused(path)

    def test_truncated(self):
        with open(harness.MODEL, "rb") as f:
            data = f.read(20 << 20)
        self.refused(self.file("half.gguf", data))
        self.refused(self.file("head.gguf", data[:100000]))

    def test_corrupt_counts(self):
        with open(harness.MODEL, "rb") as f:
            data = bytearray(f.read(1 << 20))
        data[8:16] = struct.pack("<Q", 2 ** 60)  # number of tensors
        self.refused(self.file("tensors.gguf", data))
        data[8:16] = struct.pack("<Q", 1)
        data[16:24] = struct.pack("<Q", 2 ** 62)  # number of keys
        self.refused(self.file("keys.gguf", data))

    def test_a_model_that_llama_cpp_cannot_run(self):
        """llama4 makes an input for its layers without RoPE, every fourth one: with three layers nothing reads it, and
        llama.cpp's decode asserts."""
        sys.path.insert(0, os.path.join(harness.SOURCE, "tools", "tiny"))
        import mktiny
        metadata, tensors = mktiny.metadata("llama4"), mktiny.gguf_tensors("llama4")
        shorter = [(k, t, 3 if k == "llama4.block_count" else v[:3] if isinstance(v, list) and len(v) == 4 else v)
                   for k, t, v in metadata]
        with unittest.mock.patch.object(mktiny, "metadata", lambda _: shorter), \
                unittest.mock.patch.object(mktiny, "gguf_tensors",
                                           lambda _: [t for t in tensors if not t[0].startswith("blk.3.")]):
            path = self.file("short.gguf", mktiny.gguf_bytes("llama4"))
        self.assertIn("cannot run this model", self.refused(path))

    def test_larger_than_the_memory_given(self):
        err = self.refused(harness.MODEL, "--memory-limit", "10M")
        self.assertRegex(err, r"(?i)memory|MiB|MB")


class Serving(ApiTest):
    def test_a_port_in_use_is_told_before_loading(self):
        s = socket.socket()
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = "127.0.0.1:%d" % s.getsockname()[1]
        status, out, err = run("serve", "--model", harness.MODEL, "--listen", address)
        s.close()
        self.assertEqual((status, out), (1, ""))
        self.assertIn("in use", err)
        self.assertIn(address, err)

    def test_bad_addresses(self):
        for address in ("nonsense", "127.0.0.1:99999", "127.0.0.1:", ":", "999.1.1.1:80", "[::1:80"):
            status, _, err = run("serve", "--model", harness.MODEL, "--listen", address)
            self.assertEqual(status, 1, address)
            self.assertTrue(err.startswith("glia: "), err)

    def test_the_ready_line_for_people(self):
        p = subprocess.Popen([harness.BIN, "serve", "--model", harness.MODEL, "--port", "0", "--ctx", "256"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = p.stdout.readline()
        p.terminate()
        _, err = p.communicate(timeout=60)
        self.assertRegex(line, r"^glia: serving SmolLM2\S* on http://127\.0\.0\.1:\d+\n$")
        self.assertEqual((p.returncode, err), (0, ""))

    def test_an_open_address_without_key_is_warned_about(self):
        s = harness.Server(args=["--ctx", "256"], listen=("0.0.0.0:0",))
        self.assertIn("--api-key", s.stderr())
        s.stop()


class Inspect(ApiTest):
    def test_table_and_json_agree(self):
        status, out, err = run("inspect", harness.MODEL)
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"(?m)^  resid_post +576 +proven 0-29$")
        self.assertRegex(out, r"(?m)^  q +576  9 x 64 +proven 0-29$")
        self.assertRegex(out, r"(?m)^  attention   flash")
        r = json.loads(run("inspect", harness.MODEL, "--json")[1])
        self.assertEqual(r["model"]["n_layer"], 30)
        self.assertTrue(r["model"]["flash_attention"])
        off = run("inspect", harness.MODEL, "--flash-attn", "off")[1]
        self.assertRegex(off, r"(?m)^  attention   plain")
        self.assertEqual(len(r["hooks"]["points"]), 40)

    def test_every_absent_place_is_told_with_its_reason(self):
        out = run("inspect", harness.tiny("jamba"))[1]
        table, _, missing = out.partition("not given, and why:")
        told = {}
        for reason, points in re.findall(r"^  - (.*):\n      (.*)$", missing, re.M):
            self.assertNotIn(reason, told)
            told[reason] = points.split("; ")
        self.assertIn("q 0, 2", told["this layer has no attention over a KV cache"])
        self.assertIn("ssm_out 1", told["this layer has no state-space scan or linear attention"])
        self.assertRegex(table, r"(?m)^  q +64  4 x 16 +proven 1$")
        for point in json.loads(run("inspect", harness.tiny("jamba"), "--json")[1])["hooks"]["points"]:
            for i, layer in enumerate(point["layers"]):
                if layer["grade"] not in ("proven", "structural"):
                    rows = [p for p in told[layer["reason"]] if p.split(" ")[0] == point["point"]]
                    self.assertEqual(len(rows), 1, (point["point"], i, told))


class Demo(ApiTest):
    def test_it_shows_completion_table_and_curl_and_stops(self):
        status, out, err = run("demo", "--model", harness.MODEL, env={"LC_ALL": "C.UTF-8"})
        self.assertEqual((status, err), (0, ""))
        for words in ("/api/v0/chat/completions/with_activations", "transformer.h.5", "transformer.h.10", "Completion",
                      "resid_post", "attn_out", "x 576", "curl", "norm per token"):
            self.assertIn(words, out)
        self.assertTrue(any(c in out for c in "▁▂▃▄▅▆▇█"))
        self.assertNotIn("\033", out)  # no terminal, no colours

    def test_plain_letters_without_utf8(self):
        status, out, _ = run("demo", "--model", harness.MODEL, "--max-tokens", "2", "--prompt", "Say hello",
                             env={"LC_ALL": "C", "LANG": "C"})
        self.assertEqual(status, 0)
        self.assertFalse(any(c in out for c in "▁▂▃▄▅▆▇█"))

    def test_the_reply_as_json(self):
        status, out, _ = run("demo", "--model", harness.MODEL, "--max-tokens", "2", "--json")
        self.assertEqual(status, 0)
        self.assertIn("transformer.h.5", json.loads(out)["activations"])


if __name__ == "__main__":
    unittest.main()

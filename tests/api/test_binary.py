"""Binary replies: frames while generating, safetensors whole.  The frames are read by clients/python and clients/c, which
know docs/FORMATS.md only; every number must be the one that base64 brings."""
import base64
import http.client
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import harness
from harness import ApiTest, labels, raw

sys.path.insert(0, os.path.join(harness.SOURCE, "clients", "python"))
import glia_frames  # noqa: E402

server = None
V1 = "/v1/chat/completions/with_activations"
FRAMES, SAFE = "application/vnd.glia.frames", "application/vnd.safetensors"
HOOKS = [{"layer": 1, "component": "resid_post"},
         {"layer": 0, "component": "z", "dtype": "float16", "heads": [1]},
         {"layer": 2, "component": "mlp", "capture_input": True, "hook_id": "m"},
         {"layer": 1, "component": "attn_probs", "hook_id": "p"},
         {"layer": 2, "component": "mlp_act", "reduce": {"op": "topk", "k": 3}, "hook_id": "top", "dtype": "bfloat16"}]

OTHERS = (("/v1/messages", {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 5}, "message_stop"),
          ("/v1/responses", {"input": "Hello there", "max_output_tokens": 5}, "response.incomplete"),
          ("/api/v1/chat", {"input": "Hello there", "max_output_tokens": 5}, "chat.end"))


def setUpModule():
    global server
    harness.need(harness.tiny("llama"))
    server = harness.Server(harness.tiny("llama"), args=["--ctx", "256"])


def tearDownModule():
    server.stop()


def body(**fields):
    return dict({"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 5, "temperature": 0,
                 "activation_hooks": HOOKS}, **fields)


def post(request, accept, path=V1):
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    c.request("POST", path, json.dumps(request), {"Content-Type": "application/json", "Accept": accept})
    r = c.getresponse()
    data = r.read()
    c.close()
    return r.status, r.getheader("Content-Type"), data


def from_base64():
    status, _, data = post(body(activation_format={"encoding": "base64"}), "application/json")
    assert status == 200, data
    return json.loads(data)


class Frames(ApiTest):
    def stream(self, **fields):
        status, kind, data = post(body(stream=True, **fields), FRAMES)
        self.assertEqual((status, kind), (200, FRAMES), data)
        return data

    def test_activations_and_text_are_those_of_a_whole_reply(self):
        whole = from_base64()
        got = list(glia_frames.frames(io.BytesIO(self.stream())))
        self.assertEqual([f["number"] for f in got], list(range(len(got))))
        self.assertEqual(got[-1]["type"], "end")
        text = "".join(f["choices"][0]["delta"].get("content", "") for f in got if f["type"] == "token")
        self.assertEqual(text, whole["completion"])
        by_key = {}
        for f in got:
            if f["type"] == "activation":
                by_key.setdefault(f["key"], []).append(f)
        self.assertEqual(sorted(by_key), sorted(whole["activations"]))
        for key, entries in whole["activations"].items():
            self.assertEqual(len(entries), len(by_key[key]), key)
            for want, have in zip(entries, by_key[key]):
                self.assertEqual(labels(want), labels(have["entry"]))
                self.assertEqual(raw(want), have["payload"], key)
                self.assertEqual(have["entry"]["bytes"], len(have["payload"]))

    def test_compressed_payloads_hold_the_same(self):
        try:
            import zstandard  # noqa: F401
        except ImportError:
            try:
                from compression import zstd  # noqa: F401
            except ImportError:
                self.skipTest("neither zstandard nor Python 3.14: the C reader checks it")
        plain = list(glia_frames.frames(io.BytesIO(self.stream())))
        zipped = list(glia_frames.frames(io.BytesIO(self.stream(activation_format={"compression": "zstd"}))))
        self.assertEqual([f["payload"] for f in plain], [f["payload"] for f in zipped])

    def test_a_reader_in_c_reads_the_same(self):
        cc = shutil.which("cc")
        if not cc:
            self.skipTest("no compiler")
        with tempfile.TemporaryDirectory() as d:
            reader = os.path.join(d, "read_frames")
            source = os.path.join(harness.SOURCE, "clients", "c", "read_frames.c")
            subprocess.run([cc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", reader, source, "-lz", "-lzstd"],
                           check=True)
            plain = self.stream()
            want = list(glia_frames.frames(io.BytesIO(plain)))
            for data in (plain, self.stream(activation_format={"compression": "zstd"})):
                r = subprocess.run([reader], input=data, capture_output=True)
                self.assertEqual((r.returncode, r.stderr), (0, b""))
                lines = r.stdout.splitlines()
                self.assertEqual(len(lines), len(want))
                for line, frame in zip(lines, want):
                    size, crc = line.split()[-2:]
                    self.assertEqual(int(size), len(frame["payload"]))
                    self.assertEqual(int(crc, 16), glia_frames.zlib.crc32(frame["payload"]))
            for cut in (1, 31, 40, len(plain) // 2, len(plain) - 1):
                self.assertNotEqual(subprocess.run([reader], input=plain[:cut], capture_output=True).returncode, 0)
                with self.assertRaises(glia_frames.FrameError):
                    list(glia_frames.frames(io.BytesIO(plain[:cut])))
            damaged = bytearray(plain)
            damaged[len(plain) // 2] ^= 4
            with self.assertRaises(glia_frames.FrameError):
                list(glia_frames.frames(io.BytesIO(bytes(damaged))))

    def test_a_stream_goes_on_behind_what_the_client_has(self):
        whole = list(glia_frames.frames(io.BytesIO(self.stream())))
        for first in (1, 4, len(whole) - 1):
            data = self.stream(activation_format={"first_frame": first})
            rest = list(glia_frames.frames(io.BytesIO(data), first))
            self.assertEqual(rest[0]["number"], first)
            self.assertEqual([f["payload"] for f in rest], [f["payload"] for f in whole[first:]])
            self.assertEqual([f["type"] for f in rest], [f["type"] for f in whole[first:]])

    def test_what_cannot_be_is_refused_by_name(self):
        for fields, accept, param in (
                ({"activation_format": {"compression": "zstd"}}, "application/json", "activation_format.compression"),
                ({"activation_format": {"compression": "gzip"}, "stream": True}, FRAMES, "activation_format.compression"),
                ({"activation_format": {"first_frame": 3}, "stream": True}, "text/event-stream",
                 "activation_format.first_frame"),
                ({"activation_format": {"first_frame": 3}, "stream": True, "temperature": 1}, FRAMES,
                 "activation_format.first_frame"),
                ({"activation_format": {"first_frame": -3}, "stream": True}, FRAMES, "activation_format.first_frame")):
            status, _, data = post(body(**fields), accept)
            self.assertEqual(status, 400, data)
            self.assertEqual(json.loads(data)["error"]["param"], param)

    def test_other_chat_routes_stream_frames_too(self):
        status, kind, data = post(body(stream=True), FRAMES, "/v1/chat/completions")
        self.assertEqual((status, kind), (200, FRAMES))
        self.assertEqual(sum(f["type"] == "activation" for f in glia_frames.frames(io.BytesIO(data))), 6 * 5)

    def test_other_families_stream_frames_too(self):
        for path, own, last in OTHERS:
            own = dict(own, temperature=0, activation_hooks=HOOKS, cache_prompt=False, model=server.model)
            whole = json.loads(post(dict(own, activation_format={"encoding": "base64"}), "application/json", path)[2])
            status, kind, data = post(dict(own, stream=True), FRAMES, path)
            self.assertEqual((status, kind), (200, FRAMES), data)
            got = list(glia_frames.frames(io.BytesIO(data)))
            self.assertEqual([f["type"] for f in got[-2:]], [last, "end"])
            want = {k: [raw(e) for e in v] for k, v in whole["activations"].items()}
            have = {}
            for f in got:
                if f["type"] == "activation":
                    have.setdefault(f["key"], []).append(f["payload"])
            self.assertEqual(have, want, path)


class Safetensors(ApiTest):
    def read(self, data):
        (n,) = struct.unpack("<Q", data[:8])
        head = json.loads(data[8:8 + n])
        meta = head.pop("__metadata__")
        tensors = {k: (v["dtype"], v["shape"], data[8 + n:][v["data_offsets"][0]:v["data_offsets"][1]])
                   for k, v in head.items()}
        self.assertEqual(sum(len(t[2]) for t in tensors.values()), len(data) - 8 - n)
        return tensors, json.loads(meta["reply"])

    def test_tensors_are_the_merged_entries(self):
        status, kind, data = post(body(), SAFE)
        self.assertEqual((status, kind), (200, SAFE))
        tensors, reply = self.read(data)
        want = json.loads(post(body(activation_format={"encoding": "base64", "merge": True}), "application/json")[2])
        self.assertEqual(reply["completion"], want["completion"])
        self.assertEqual(reply["usage"], want["usage"])
        seen = set()
        for key, entries in want["activations"].items():
            for entry, have in zip(entries, reply["activations"][key]):
                self.assertEqual(labels(entry), labels(have))
                dtype, shape, raw_bytes = tensors[have["tensor"]]
                self.assertEqual(shape, entry["shape"][1:])
                self.assertEqual({"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[entry["dtype"]], dtype)
                self.assertEqual(raw_bytes, base64.b64decode(entry["data"]))
                seen.add(have["tensor"])
                if "indices" in entry:
                    self.assertEqual(tensors[have["tensor"] + ".indices"][2], base64.b64decode(entry["indices"]))
                    seen.add(have["tensor"] + ".indices")
        self.assertEqual(seen, set(tensors))
        self.assertIn("m.input", tensors)

    def test_other_families_answer_with_tensors_too(self):
        for path, own, _ in OTHERS:
            own = dict(own, temperature=0, activation_hooks=HOOKS, cache_prompt=False, model=server.model)
            status, kind, data = post(own, SAFE, path)
            self.assertEqual((status, kind), (200, SAFE), data)
            tensors, reply = self.read(data)
            want = json.loads(post(dict(own, activation_format={"encoding": "base64", "merge": True}), "application/json", path)[2])
            for key, entries in want["activations"].items():
                for entry, have in zip(entries, reply["activations"][key]):
                    self.assertEqual(tensors[have["tensor"]][2], base64.b64decode(entry["data"]), path)

    def test_names_stay_different_whatever_the_client_calls_its_hooks(self):
        hooks = [{"layer": 1, "component": "mlp", "hook_id": "a", "capture_input": True},
                 {"layer": 2, "component": "mlp", "hook_id": "a.input"},
                 {"layer": 2, "component": "z", "hook_id": "__metadata__"}]
        tensors, reply = self.read(post(body(activation_hooks=hooks), SAFE)[2])
        self.assertEqual(len(tensors), 4)

    def test_errors_stay_json(self):
        status, kind, data = post(body(activation_hooks=[{"layer": 99, "component": "z"}]), SAFE)
        self.assertEqual(status, 400)
        self.assertIn("json", kind)

    def test_the_safetensors_library_reads_it(self):
        sys.path.append(os.path.join(os.environ.get("GLIA_SDK_DIR", ""), "python"))
        try:
            from safetensors import numpy as safetensors
        except ImportError:
            self.skipTest("no safetensors package here")
        asked = body()
        asked["activation_hooks"] = [h for h in asked["activation_hooks"] if h.get("dtype") != "bfloat16"]  # NumPy has none
        loaded = safetensors.load(post(asked, SAFE)[2])
        self.assertEqual(loaded["p"].shape[0], 4)


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""Whole replies with activations: small ones in one piece, large ones encoded while they are sent.  Every number must be the
one that a stream of the same request brings; what a slow or vanished client leaves behind is nothing."""
import base64
import http.client
import io
import json
import os
import socket
import struct
import sys
import time
import unittest

import harness
from harness import ApiTest, labels, raw

sys.path.insert(0, os.path.join(harness.SOURCE, "clients", "python"))
import glia_frames  # noqa: E402

server = None
CHAT = "/v1/chat/completions/with_activations"
FRAMES, SAFE = "application/vnd.glia.frames", "application/vnd.safetensors"
AT_ONCE = 256 << 10
TEXT = "word " * 90
EVERY = [{"layer": "*", "component": "resid_post"}, {"layer": "*", "component": "mlp_act", "dtype": "float16"},
         {"layer": 1, "component": "attn_probs", "hook_id": "p"},
         {"layer": 2, "component": "mlp", "capture_input": True, "hook_id": "m"},
         {"layer": 0, "component": "mlp_act", "reduce": {"op": "topk", "k": 5}, "hook_id": "top", "dtype": "bfloat16"}]
FAMILIES = ((CHAT, {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 6}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 6}),
            ("/v1/completions", {"prompt": TEXT, "max_tokens": 6}),
            ("/v1/messages", {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 6}),
            ("/v1/responses", {"input": TEXT, "max_output_tokens": 6}),
            ("/api/v1/chat", {"input": TEXT, "max_output_tokens": 6}))


def setUpModule():
    global server
    harness.need(harness.tiny("llama"))
    server = harness.Server(harness.tiny("llama"), args=["--ctx", "1024", "--parallel", "2", "--capture-memory", "6M"])


def tearDownModule():
    server.stop()


def body(own=FAMILIES[0][1], hooks=EVERY, **fields):
    return dict(own, temperature=0, cache_prompt=False, model=server.model, activation_hooks=hooks, **fields)


def post(request, accept="application/json", path=CHAT):
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    c.request("POST", path, json.dumps(request), {"Content-Type": "application/json", "Accept": accept})
    r = c.getresponse()
    data = r.read()
    c.close()
    return r, data


def from_stream(request, path):
    """By key and choice: bytes of each entry, in the order in which they came."""
    r, data = post(dict(request, stream=True), FRAMES, path)
    assert r.status == 200, data
    got = {}
    for f in glia_frames.frames(io.BytesIO(data)):
        if f["type"] == "activation":
            got.setdefault(f["key"], {}).setdefault(f["entry"].get("choice", 0), []).append(f)
    return {k: [f for choice in sorted(v) for f in v[choice]] for k, v in got.items()}


class Whole(ApiTest):
    def check_same(self, reply, streamed):
        self.assertEqual(list(reply["activations"]), list(streamed))
        for key, entries in reply["activations"].items():
            self.assertEqual(len(entries), len(streamed[key]), key)
            for have, want in zip(entries, streamed[key]):
                self.assertEqual(labels(have), labels(want["entry"]))
                self.assertEqual(raw(have), want["payload"], key)

    def test_small_ones_have_a_length_and_large_ones_come_in_chunks(self):
        small, data = post(body(hooks=[dict(EVERY[0], positions="last")], activation_format={"encoding": "base64"}))
        self.assertEqual(int(small.getheader("Content-Length")), len(data))
        self.assertLess(len(data), AT_ONCE)
        large, data = post(body(activation_format={"encoding": "base64"}))
        self.assertEqual((large.status, large.getheader("Content-Type")), (200, "application/json"))
        self.assertEqual(large.getheader("Transfer-Encoding"), "chunked")
        self.assertGreater(len(data), 2 * AT_ONCE)

    def test_every_family_and_encoding_brings_what_a_stream_brings(self):
        for path, own in FAMILIES:
            streamed = from_stream(body(own), path)
            for encoding in ("base64", "list"):
                r, data = post(body(own, activation_format={"encoding": encoding}), path=path)
                self.assertEqual(r.status, 200, data)
                self.check_same(json.loads(data), streamed)

    def test_choices_stand_under_each_key_in_their_order(self):
        request = body(dict(FAMILIES[0][1], n=3), activation_format={"encoding": "base64"})
        request.update(temperature=0.9, seed=4)
        reply = json.loads(post(request)[1])
        self.check_same(reply, from_stream(request, CHAT))
        for entries in reply["activations"].values():
            self.assertEqual(sorted({e["choice"] for e in entries}), [0, 1, 2])
            self.assertEqual([e["choice"] for e in entries], sorted(e["choice"] for e in entries))

    def test_merged_rows_are_those_of_the_entries_one_after_the_other(self):
        hooks = [h for h in EVERY if h.get("hook_id") != "p"]  # attention has a column for each position: other shapes
        apart = json.loads(post(body(hooks=hooks, activation_format={"encoding": "base64"}))[1])["activations"]
        merged = json.loads(post(body(hooks=hooks, activation_format={"encoding": "base64", "merge": True}))[1])
        self.assertEqual(list(merged["activations"]), list(apart))
        for key, entries in merged["activations"].items():
            self.assertTrue(entries, key)
            for entry in entries:
                parts = [e for e in apart[key] if e["is_input"] == entry["is_input"]]
                for name in ("data", "indices"):
                    if name in entry:
                        self.assertEqual(base64.b64decode(entry[name]),
                                         b"".join(base64.b64decode(e[name]) for e in parts), key)

    def test_a_file_has_its_length_and_the_same_numbers(self):
        r, data = post(body(), SAFE)
        self.assertEqual((r.status, r.getheader("Content-Type")), (200, SAFE))
        self.assertEqual(int(r.getheader("Content-Length")), len(data))
        self.assertGreater(len(data), 2 * AT_ONCE)
        (n,) = struct.unpack("<Q", data[:8])
        head = json.loads(data[8:8 + n])
        reply = json.loads(head.pop("__metadata__")["reply"])
        want = json.loads(post(body(activation_format={"encoding": "base64", "merge": True}))[1])
        for key, entries in want["activations"].items():
            for entry, have in zip(entries, reply["activations"][key]):
                for suffix, name in (("", "data"), (".indices", "indices")):
                    if name in entry:
                        begin, end = head.pop(have["tensor"] + suffix)["data_offsets"]
                        self.assertEqual(data[8 + n:][begin:end], base64.b64decode(entry[name]), key)
        self.assertFalse(head)

    def test_a_connection_goes_on_behind_a_large_reply(self):
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        lengths = []
        for accept in ("application/json", SAFE, "application/json"):
            c.request("POST", CHAT, json.dumps(body(activation_format={"encoding": "base64"})),
                      {"Content-Type": "application/json", "Accept": accept})
            lengths.append(len(c.getresponse().read()))
        c.close()
        self.assertGreater(min(lengths), AT_ONCE)

    def test_a_client_of_http_1_0_reads_to_the_end(self):
        data = json.dumps(body(activation_format={"encoding": "base64"})).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as s:
            s.sendall(b"POST %s HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % (CHAT.encode(), len(data)) + data)
            got = b"".join(iter(lambda: s.recv(1 << 20), b""))
        head, got = got.split(b"\r\n\r\n", 1)
        self.assertIn(b" 200 ", head.split(b"\r\n")[0])
        self.assertNotIn(b"chunked", head)
        self.assertEqual(len(json.loads(got)["activations"]), len(json.loads(post(body())[1])["activations"]))


class SlowReaders(ApiTest):
    """A reply that nobody reads is its own request's memory, not that of all."""

    def begin(self, accept):
        data = json.dumps(body(activation_format={"encoding": "base64"})).encode()
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", server.port))
        s.settimeout(60)
        s.sendall(b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: %s\r\n"
                  b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), accept.encode(), len(data)) + data)
        self.assertIn(b"200", s.recv(64))
        return s

    def memory(self):
        return server.get("/health")[1]["capture_memory"]

    def until_returned(self):
        deadline = time.monotonic() + 60
        while self.memory()["leased_bytes"] and time.monotonic() < deadline:
            time.sleep(0.02)
        m = self.memory()
        self.assertEqual((m["leased_bytes"], m["held_bytes"]), (0, 0))

    def test_capture_memory_is_returned_while_the_reply_stands(self):
        for accept in ("application/json", SAFE):
            slow = [self.begin(accept) for _ in range(6)]  # together more than the memory
            try:
                self.until_returned()
                self.assertEqual(post(body())[0].status, 200)
                for s in slow[:3]:
                    data = b"".join(iter(lambda s=s: s.recv(1 << 20), b""))
                    self.assertTrue(data.endswith(b"}\n\r\n0\r\n\r\n") if accept != SAFE else len(data) > AT_ONCE)
            finally:
                for s in slow:
                    s.close()  # half of them in the middle
            self.until_returned()
            self.assertEqual(server.chat(max_tokens=2)[0], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)

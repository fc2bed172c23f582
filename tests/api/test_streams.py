"""Streams: SSE chunks of chats and completions, NDJSON and SSE of with_activations, and clients that go away."""
import http.client
import json
import socket
import struct
import threading
import time
import unittest

import harness
from harness import ApiTest, unpack

harness.need(harness.MODEL)
server = None
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
V1 = CHAT + "/with_activations"
SEED = "/api/v0/chat/completions/with_activations"


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "4096", "--parallel", "1"])


def tearDownModule():
    server.stop()


def body(text="Hello", **fields):
    return dict({"messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}, **fields)


def joined(chunks):
    return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c.get("choices"))


class Sse(ApiTest):
    def test_chunks_join_to_the_whole_reply(self):
        chunks = server.sse(CHAT, body(max_tokens=6))
        whole = server.post(CHAT, body(max_tokens=6))[1]
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual(joined(chunks), whole["choices"][0]["message"]["content"])
        self.assertEqual({c["object"] for c in chunks}, {"chat.completion.chunk"})
        self.assertEqual(len({c["id"] for c in chunks}), 1)
        self.assertEqual(chunks[-1]["choices"][0]["delta"], {})
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks], [None] * (len(chunks) - 1) + ["length"])
        self.assertNotIn("usage", chunks[-1])

    def test_usage_comes_last_when_asked(self):
        chunks = server.sse(CHAT, body(stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 4)
        self.assertTrue(all(c["usage"] is None for c in chunks[:-1]))

    def test_completions_stream_text(self):
        request = {"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, "echo": True}
        chunks = server.sse(TEXT, request)
        whole = server.post(TEXT, request)[1]
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), whole["choices"][0]["text"])
        self.assertEqual({c["object"] for c in chunks}, {"text_completion"})

    def test_logprobs_come_with_their_tokens(self):
        chunks = server.sse(CHAT, body(logprobs=True, top_logprobs=2, max_tokens=3))
        content = [t for c in chunks for t in ((c["choices"][0]["logprobs"] or {}).get("content") or [])]
        whole = server.post(CHAT, body(logprobs=True, top_logprobs=2, max_tokens=3))[1]["choices"][0]["logprobs"]
        self.assertEqual([t["id"] for t in content], [t["id"] for t in whole["content"]])

    def test_stop_strings_never_show(self):
        request = {"prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 12, "temperature": 0, "stop": ", 8,"}
        chunks = server.sse(TEXT, request)
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), " 7")
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "stop")

    def test_characters_are_never_cut(self):
        tokens = server.post("/v1/tokenize", {"text": "😀", "add_special": False})[1]["tokens"]
        self.assertGreater(len(tokens), 1)  # several tokens make one character
        text = "😀😃😄😁😆😅🤣😂" * 6
        chunks = server.sse(TEXT, {"prompt": text, "max_tokens": 24, "temperature": 0, "stream": True})
        pieces = [c["choices"][0]["text"] for c in chunks]
        held_back = [p for p in pieces if p][-1]  # what a length limit cut in the middle has no other form
        self.assertNotIn("\ufffd", "".join(pieces)[:-len(held_back)])
        whole = server.post(TEXT, {"prompt": text, "max_tokens": 24, "temperature": 0})[1]["choices"][0]["text"]
        self.assertEqual("".join(pieces), whole)
        self.assertTrue(any(ord(c) > 0xffff for c in whole), whole)

    def test_errors_before_the_stream_are_plain(self):
        self.check_error(server.post(CHAT, body(stream=True, temperature=9)), 400, "temperature")
        self.check_error(server.post(V1, body(stream=True)), 400, "activation_hooks")

    def test_hooks_on_a_plain_stream_are_chunks_without_choices(self):
        chunks = server.sse(CHAT, body(activation_hooks=[{"layer": 2, "component": "resid_post"}], max_tokens=2))
        frames = [c for c in chunks if c["object"] == "chat.completion.activation"]
        self.assertEqual([f["choices"] for f in frames], [[], []])
        self.assertEqual([f["key"] for f in frames], ["resid_post.2"] * 2)
        self.assertEqual([f["entry"]["phase"] for f in frames], ["prompt", "generated"])


class Activations(ApiTest):
    hooks = [{"layer": 2, "component": "resid_post"}, {"layer": "transformer.h.5", "component": "mlp"}]

    def check_lines(self, lines, whole):
        self.assertEqual({l["type"] for l in lines}, {"token", "activation", "done"})
        self.assertEqual(lines[-1]["type"], "done")
        self.assertEqual(lines[-1]["finish_reason"], "length")
        self.assertEqual(lines[-1]["usage"]["completion_tokens"], 4)
        self.assertEqual(joined(l for l in lines if l["type"] == "token"), whole["completion"])
        got = {}
        for line in lines:
            if line["type"] == "activation":
                got.setdefault(line["key"], []).append(line["entry"])
        self.assertEqual(set(got), set(whole["activations"]))
        for key, entries in whole["activations"].items():
            self.assertEqual([unpack(e) for e in got[key]], [unpack(e) for e in entries])
            for a, b in zip(got[key], entries):
                self.assertEqual({k: v for k, v in a.items() if k != "data"}, {k: v for k, v in b.items() if k != "data"})

    def test_ndjson_lines_hold_what_the_whole_reply_holds(self):
        for path in (V1, SEED):
            whole = server.post(path, body(activation_hooks=self.hooks))[1]
            self.check_lines(server.ndjson(path, body(activation_hooks=self.hooks)), whole)

    def test_sse_when_asked_for(self):
        whole = server.post(V1, body(activation_hooks=self.hooks))[1]
        self.check_lines(server.sse(V1, body(activation_hooks=self.hooks), "text/event-stream"), whole)

    def test_base64_streams_too(self):
        request = body(activation_hooks=self.hooks, activation_format={"encoding": "base64"})
        self.check_lines(server.ndjson(V1, request), server.post(V1, request)[1])

    def test_large_entries_stream_whole(self):
        request = body("word " * 200, activation_hooks=[{"layer": "*", "component": "mlp_act"}], max_tokens=1,
                       activation_format={"encoding": "base64"})
        lines = server.ndjson(V1, request)
        frames = [l["entry"] for l in lines if l["type"] == "activation"]
        self.assertEqual(len(frames), 30)
        n = lines[-1]["usage"]["prompt_tokens"]
        for e in frames:
            self.assertEqual(e["shape"], [1, n, 1536])
            self.assertEqual(len(unpack(e)), n)


class Gone(ApiTest):
    """One slot only: what a vanished client leaves behind would hold up the next request."""

    def quick(self):
        start = time.monotonic()
        status, r = server.post(TEXT, {"prompt": "Hi", "max_tokens": 1, "temperature": 0, "cache_prompt": False})
        self.assertEqual(status, 200, r)
        return time.monotonic() - start

    def leave(self, path, request, after, reset=True):
        """Send, wait, vanish: with a reset, or with an orderly end of both directions."""
        data = json.dumps(request).encode()
        s = socket.create_connection(("127.0.0.1", server.port))
        s.sendall(("POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                   % (path, len(data))).encode() + data)
        time.sleep(after)
        if reset:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()

    def check_freed(self, path, request, after):
        base = max(self.quick() for _ in range(3))
        self.leave(path, request, after, reset=not request["stream"])
        time.sleep(0.2)
        took = self.quick()
        self.assertLess(took, 2 * base + 0.5, "the slot was not free 0.2 s after the client left")

    def test_in_prefill(self):
        request = {"prompt": [i % 1000 + 100 for i in range(4000)], "max_tokens": 1, "cache_prompt": False}
        for stream in (False, True):
            self.check_freed(TEXT, dict(request, stream=stream), 0.4)

    def test_while_generating(self):
        request = {"prompt": "Once", "max_tokens": 4000, "temperature": 1, "ignore_eos": True}
        for stream in (False, True):
            self.check_freed(TEXT, dict(request, stream=stream), 0.6)

    def test_while_waiting_in_the_queue(self):
        other = threading.Thread(target=self.leave, args=(TEXT, {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True},
                                                          1.0))
        other.start()
        time.sleep(0.2)
        self.leave(TEXT, {"prompt": "Twice", "max_tokens": 4000, "ignore_eos": True}, 0.2)
        other.join()
        time.sleep(0.2)
        self.assertLess(self.quick(), 30)

    def test_a_slow_reader_of_activations_does_not_stop_the_server(self):
        request = body("word " * 300, stream=True, max_tokens=2, activation_hooks=[{"layer": "*", "component": "mlp_act"}])
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        c.request("POST", V1, json.dumps(request), {"Content-Type": "application/json"})
        r = c.getresponse()
        r.read(1000)
        time.sleep(0.5)
        self.assertEqual(server.get("/health")[0], 200)
        r.close()
        c.close()
        time.sleep(0.2)
        self.assertLess(self.quick(), 30)


if __name__ == "__main__":
    unittest.main()

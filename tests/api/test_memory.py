"""Memory for activations: what is predicted, what a reader that stands still holds, who waits, what is answered."""
import json
import socket
import time
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL)
server = None
LIMIT = 12 << 20
EVERY = [{"layer": "*", "component": "resid_post"}]  # 30 layers of 576 floats: 69 KB a token


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "1024", "--parallel", "2", "--capture-memory", "12M"])


def tearDownModule():
    server.stop()


def memory():
    return server.get("/health")[1]["capture_memory"]


def until(what, seconds=60):
    """Wait for a state; no result depends on how long it takes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what(memory()):
            return memory()
        time.sleep(0.02)
    raise AssertionError("it never came: %r" % memory())


class Standing:
    """A client that asks for a long stream and reads only its first bytes."""

    def __init__(self, tokens):
        body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, "stream": True,
                           "ignore_eos": True, "activation_hooks": EVERY}).encode()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.sendall(b"POST /v1/chat/completions/with_activations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.head = self.socket.recv(64)

    def close(self):
        self.socket.close()


class Memory(ApiTest):
    def test_figures(self):
        m = memory()
        self.assertEqual(m["limit_bytes"], LIMIT)
        self.assertEqual((m["leased_bytes"], m["held_bytes"], m["waiting"]), (0, 0, 0))
        self.assertEqual(server.activations(EVERY, max_tokens=2)[0], 200)
        m = until(lambda m: not m["leased_bytes"])
        self.assertEqual(m["held_bytes"], 0)
        self.assertGreater(m["peak_bytes"], 30 * 576 * 4 * 10)  # the prompt alone has more than ten tokens

    def test_what_never_fits_is_413_with_both_figures(self):
        text = "word " * 400
        for fields in ({}, {"stream": True}):
            self.check_error(server.activations(EVERY, text, max_tokens=2, **fields), 413, "activation_hooks",
                             says=["MiB", "12.0 MiB", "--capture-memory", "fewer layers"])
        status, r = server.activations([dict(EVERY[0], positions="last")], text, max_tokens=1)  # the way out
        self.assertEqual(status, 200)
        self.assertEqual(len(r["activations"]), 30)

    def test_a_long_stream_needs_its_queue_not_its_length(self):
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200, "ignore_eos": True,
                "activation_hooks": EVERY, "activation_format": {"encoding": "base64"}}
        lines = server.ndjson("/v1/chat/completions/with_activations", body)
        rows = sum(1 for l in lines if l["type"] == "activation")
        self.assertEqual(rows, 30 * 200)  # the prompt and 199 tokens: 16 MB, more than there is memory
        self.assertLessEqual(memory()["peak_bytes"], LIMIT)

    def test_a_reader_that_stands_still_holds_a_bounded_part_and_others_go_on(self):
        slow = Standing(900)
        try:
            self.assertIn(b"200", slow.head)
            until(lambda m: m["held_bytes"] > 6 << 20)  # its queue is full, or nearly
            self.assertEqual(server.chat(max_tokens=64, ignore_eos=True)[0], 200)  # turns in which it could go on
            held = memory()["held_bytes"]
            self.assertLessEqual(held, memory()["leased_bytes"])
            self.assertEqual(server.chat(max_tokens=64, ignore_eos=True)[0], 200)
            self.assertEqual(memory()["held_bytes"], held)
            small = server.activations([{"layer": 3, "component": "resid_post"}], max_tokens=2)
            self.assertEqual(small[0], 200, small)  # fits beside it
        finally:
            slow.close()
        m = until(lambda m: not m["leased_bytes"])
        self.assertEqual(m["held_bytes"], 0)
        self.assertLessEqual(m["peak_bytes"], LIMIT)

    def test_what_does_not_fit_beside_others_waits_for_them(self):
        slow = Standing(900)
        waiting = None
        try:
            until(lambda m: m["leased_bytes"])
            waiting = Standing.__new__(Standing)
            body = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 150, "stream": True,
                               "ignore_eos": True, "activation_hooks": EVERY}).encode()
            waiting.socket = socket.create_connection(("127.0.0.1", server.port))
            waiting.socket.sendall(b"POST /v1/chat/completions/with_activations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                                   b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                                   % len(body) + body)
            until(lambda m: m["waiting"] == 1)
        finally:
            slow.close()
        try:
            data = b""
            waiting.socket.settimeout(120)
            while True:
                piece = waiting.socket.recv(1 << 20)
                if not piece:
                    break
                data = (data + piece)[-4096:]
            self.assertIn(b'"type":"done"', data)
        finally:
            waiting.close()
        self.assertEqual(until(lambda m: not m["leased_bytes"])["waiting"], 0)


if __name__ == "__main__":
    unittest.main()

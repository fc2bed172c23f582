"""The server as a whole: pages, headers, keys, several addresses, parallel requests, the end."""
import json
import os
import signal
import socket
import threading
import time
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL)
server = None


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "1024", "--parallel", "4", "--id", "smol"],
                            listen=("127.0.0.1:0", "127.0.0.1:0"))


def tearDownModule():
    server.stop()


class Pages(ApiTest):
    def test_health(self):
        status, r = server.get("/health")
        self.assertEqual((status, r["status"], r["service"]), (200, "healthy", "glia"))
        self.assertEqual(r["models"], ["smol"])

    def test_models_serve_three_kinds_of_readers(self):
        _, r = server.get("/v1/models")
        self.assertEqual((r["object"], r["current_model"]), ("list", "smol"))
        self.assertEqual(r["data"], r["models"])
        m, = r["data"]
        self.assertEqual((m["id"], m["model_id"], m["object"], m["status"]), ("smol", "smol", "model", "loaded"))
        self.assertEqual((m["supports_activations"], m["is_current"]), (True, True))
        self.assertIsInstance(m["created"], int)
        self.assertTrue(m["owned_by"])
        self.assertEqual(server.get("/v1/models/smol"), (200, m))
        self.check_error(server.get("/v1/models/other"), 404, "model", "model_not_found", '"smol"')

    def test_openapi_lists_every_route(self):
        status, r = server.get("/openapi.json")
        self.assertEqual((status, r["openapi"][:2]), (200, "3."))
        self.assertIn("/v1/chat/completions/with_activations", r["paths"])
        self.assertIn("/api/v0/chat/completions/with_activations", r["paths"])
        self.assertEqual(r["components"]["schemas"]["ChatRequest"]["properties"]["temperature"]["maximum"], 2)
        for path, operations in r["paths"].items():
            for method, operation in operations.items():
                self.assertTrue(operation["summary"], path)
                for ref in (json.dumps(operation).split('"#/components/schemas/')[1:]):
                    self.assertIn(ref.split('"')[0], r["components"]["schemas"])

    def test_the_openapi_file_is_current(self):
        with open(os.path.join(harness.SOURCE, "docs", "openapi.json")) as f:
            self.assertEqual(json.load(f), server.get("/openapi.json")[1], "run: glia openapi > docs/openapi.json")

    def test_greeting(self):
        status, headers, text = server.raw("GET", "/")
        self.assertEqual(status, 200)
        self.assertTrue(headers["content-type"].startswith("text/plain"))
        self.assertIn(b"smol", text)


class Http(ApiTest):
    def test_plain_replies_say_their_length(self):
        for method, path, body in (("GET", "/health", None), ("GET", "/v1/models", None), ("GET", "/nothing", None),
                                   ("POST", "/v1/completions", b'{"prompt":"x","max_tokens":1}'),
                                   ("POST", "/v1/completions", b"{")):
            _, headers, data = server.raw(method, path, body)
            self.assertEqual(int(headers["content-length"]), len(data), path)

    def test_head_has_headers_only(self):
        status, headers, data = server.raw("HEAD", "/v1/models")
        self.assertEqual((status, data), (200, b""))
        self.assertEqual(int(headers["content-length"]), len(server.raw("GET", "/v1/models")[2]))

    def test_cors(self):
        for method, path in (("GET", "/health"), ("GET", "/nothing")):
            self.assertEqual(server.raw(method, path, headers={"Origin": "http://x"})[1]["access-control-allow-origin"], "*")
        status, headers, _ = server.raw("OPTIONS", "/v1/chat/completions", headers={
            "Origin": "http://x", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type, authorization"})
        self.assertIn(status, (200, 204))
        self.assertEqual(headers["access-control-allow-origin"], "*")
        self.assertIn("POST", headers["access-control-allow-methods"])
        self.assertTrue(headers["access-control-allow-headers"])

    def test_huge_headers_are_refused(self):
        s = socket.create_connection(("127.0.0.1", server.port))
        try:
            s.settimeout(20)
            s.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Big: " + b"a" * 200000 + b"\r\n\r\n")
            reply = s.recv(100)
            self.assertTrue(not reply or b" 431 " in reply or b" 413 " in reply, reply)
        except (ConnectionResetError, BrokenPipeError):
            pass
        finally:
            s.close()
        self.assertEqual(server.get("/health")[0], 200)

    def test_every_address_answers(self):
        self.assertEqual(len(server.ready["ports"]), 2)
        for port in server.ready["ports"]:
            s = socket.create_connection(("127.0.0.1", port))
            s.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            with s.makefile("rb") as f:
                self.assertEqual(f.readline(), b"HTTP/1.1 200 OK\r\n")
            s.close()


class Parallel(ApiTest):
    def test_requests_side_by_side_get_their_own_rows(self):
        texts = ["Hello", "What is two plus two?", "Name a colour of the rainbow, please", "x"]
        hooks = [{"layer": 4, "component": "resid_post"}]
        alone = [server.activations(hooks, t, max_tokens=4)[1] for t in texts]
        replies = [None] * len(texts)

        def ask(i):
            replies[i] = server.activations(hooks, texts[i], max_tokens=4, cache_prompt=False)
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(texts))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for (status, got), expected in zip(replies, alone):
            self.assertEqual(status, 200, got)
            a, b = got["activations"]["resid_post.4"], expected["activations"]["resid_post.4"]
            self.assertEqual(a[0]["token_ids"], b[0]["token_ids"])
            scale = max(abs(x) for row in b[0]["data"][0] for x in row)
            worst = max(abs(x - y) for p, q in zip(a[0]["data"][0], b[0]["data"][0]) for x, y in zip(p, q))
            self.assertLess(worst, 2e-2 * scale)


class Keys(ApiTest):
    def test_a_key_is_asked_for_when_set(self):
        s = harness.Server(args=["--ctx", "256", "--parallel", "1", "--api-key", "first"], env={"GLIA_API_KEY": "second"})
        try:
            self.assertEqual(s.get("/health")[0], 200)
            self.check_error(s.get("/v1/models"), 401, None, "invalid_api_key")
            self.check_error(s.call("GET", "/v1/models", headers={"Authorization": "Bearer wrong"}), 401)
            for headers in ({"Authorization": "Bearer first"}, {"Authorization": "Bearer second"}, {"x-api-key": "first"}):
                self.assertEqual(s.call("GET", "/v1/models", headers=headers)[0], 200)
        finally:
            s.stop()


class End(ApiTest):
    def test_sigint_stops_cleanly_in_the_middle_of_a_stream(self):
        s = harness.Server(args=["--ctx", "2048", "--parallel", "1"])
        c = s.connect()
        c.request("POST", "/v1/completions", json.dumps({"prompt": "Once", "max_tokens": 2000, "stream": True,
                                                         "ignore_eos": True}))
        r = c.getresponse()
        r.read(200)
        start = time.monotonic()
        s.process.send_signal(signal.SIGINT)
        s.process.wait(60)
        self.assertLess(time.monotonic() - start, 20)
        s.stop()
        r.close()
        c.close()


if __name__ == "__main__":
    unittest.main()

"""What an operator sees: /metrics (read by Prometheus' own parser), request ids, one log line a request."""
import json
import socket
import time
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny())
harness.need_sdk("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

server = None


def setUpModule():
    global server
    server = harness.Server(harness.tiny(), args=["--log-level", "info", "--log-format", "json", "--id", 'a"b\\c'])


def tearDownModule():
    server.stop()


def metrics():
    status, headers, body = server.raw("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4"), headers
    return {(s.name, tuple(sorted(s.labels.items()))): s.value
            for f in text_string_to_metric_families(body.decode()) for s in f.samples}


def value(all_of_them, name, **labels):
    return all_of_them.get((name, tuple(sorted(labels.items()))), 0)


def complete(**fields):
    return server.post("/v1/completions", dict({"prompt": "abcdef", "max_tokens": 3, "ignore_eos": True}, **fields))


def log_lines(count):
    """The log is written when a reply has been sent: wait for it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = [json.loads(line) for line in server.stderr().splitlines()]
        lines = [line for line in lines if line["message"].startswith("request")]
        if len(lines) >= count:
            return lines
        time.sleep(0.02)
    raise AssertionError(server.stderr())


def metrics_after(count_before, name, **labels):
    """A request is counted when its reply has been sent, which the client may see first: wait for it."""
    deadline = time.monotonic() + 20
    while True:
        now = metrics()
        if value(now, name, **labels) > count_before or time.monotonic() > deadline:
            return now
        time.sleep(0.02)


class Metrics(ApiTest):
    def test_tokens_and_requests_are_counted(self):
        before = metrics()
        status, reply = complete(n=1)
        self.assertEqual(status, 200)
        deadline = time.monotonic() + 20
        while value(metrics(), "glia_model_slots_busy", model='a"b\\c') and time.monotonic() < deadline:
            time.sleep(0.02)
        counted = {"name": "glia_http_requests_total", "class": "2xx", "method": "POST", "route": "/v1/completions"}
        after = metrics_after(value(before, **counted), **counted)

        def grown(name, **labels):
            return value(after, name, **labels) - value(before, name, **labels)

        usage = reply["usage"]
        model = {"model": 'a"b\\c'}
        self.assertEqual(grown("glia_model_requests_total", **model), 1)
        self.assertEqual(grown("glia_model_requests_finished_total", **model), 1)
        self.assertEqual(grown("glia_model_generated_tokens_total", **model), usage["completion_tokens"])
        self.assertEqual(grown("glia_model_prompt_tokens_total", **model) +
                         grown("glia_model_cached_tokens_total", **model), usage["prompt_tokens"])
        self.assertGreaterEqual(grown("glia_model_passes_total", **model), usage["completion_tokens"])
        route = {"method": "POST", "route": "/v1/completions"}
        self.assertEqual(grown("glia_http_requests_total", **{"class": "2xx"}, **route), 1)
        self.assertEqual(grown("glia_http_request_seconds_count", **route), 1)
        self.assertEqual(grown("glia_http_request_seconds_bucket", le="+Inf", **route), 1)
        self.assertGreater(grown("glia_http_reply_bytes_total", **route), 100)
        self.assertGreater(value(after, "glia_capture_memory_bytes", kind="limit"), 1 << 20)

    def test_errors_and_unknown_paths_have_their_class(self):
        before = metrics()
        self.assertEqual(complete(max_tokens="x")[0], 400)
        self.assertEqual(server.get("/no/such/path")[0], 404)
        bad = {"method": "POST", "route": "/v1/completions", "class": "4xx"}
        none = {"method": "", "route": "", "class": "4xx"}
        for labels in (bad, none):
            after = metrics_after(value(before, "glia_http_requests_total", **labels), "glia_http_requests_total", **labels)
        for labels in (bad, none):
            self.assertEqual(value(after, "glia_http_requests_total", **labels) -
                             value(before, "glia_http_requests_total", **labels), 1)

    def test_a_client_that_leaves_is_no_success(self):
        before = metrics()
        labels = {"method": "POST", "route": "/v1/completions", "class": "none"}
        body = json.dumps({"prompt": "abc", "max_tokens": 60, "ignore_eos": True, "n": 4}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if value(metrics(), "glia_http_requests_total", **labels) > value(before, "glia_http_requests_total", **labels):
                return
            time.sleep(0.02)
        self.fail("never counted")


class RequestIds(ApiTest):
    def test_made_here_and_all_different(self):
        ids = {server.raw("GET", "/health")[1]["x-request-id"] for _ in range(3)}
        self.assertEqual(len(ids), 3)

    def test_the_clients_own_is_kept_when_it_is_a_token(self):
        for given in ("abc-1.2_3", "x" * 128):
            self.assertEqual(server.raw("GET", "/health", headers={"X-Request-Id": given})[1]["x-request-id"], given)
        for given in ("two words", "x" * 129, 'quo"te', "\u00e9"):
            got = server.raw("GET", "/health", headers={"X-Request-Id": given.encode("latin-1")})[1]["x-request-id"]
            self.assertRegex(got, r"^req-[0-9a-f]+-[0-9a-f]+$")

    def test_on_errors_too(self):
        for path in ("/no/such/path", "/v1/models/none"):
            self.assertEqual(server.raw("GET", path, headers={"X-Request-Id": "e-1"})[1]["x-request-id"], "e-1")


class Log(ApiTest):
    def test_a_line_for_each_request(self):
        n = len([x for x in server.stderr().splitlines() if '"request_id"' in x])
        server.raw("GET", "/health", headers={"X-Request-Id": "log-1"})
        server.raw("GET", "/x%0a%22%7f", headers={"X-Request-Id": "log-2"})
        lines = {line["request_id"]: line for line in log_lines(n + 2)}
        self.assertEqual((lines["log-1"]["method"], lines["log-1"]["path"], lines["log-1"]["status"]),
                         ("GET", "/health", 200))
        self.assertEqual((lines["log-2"]["path"], lines["log-2"]["status"]), ('/x\n"\x7f', 404))
        self.assertGreater(lines["log-1"]["bytes"], 10)
        self.assertRegex(lines["log-1"]["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")

    def test_no_key_and_no_text_of_a_request_is_logged(self):
        server.post("/v1/completions?key=sesame", {"prompt": "open sesame", "max_tokens": 1},
                    Authorization="Bearer sesame")
        server.raw("GET", "/health", headers={"X-Request-Id": "last"})
        deadline = time.monotonic() + 20
        while '"last"' not in server.stderr() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertNotIn("sesame", server.stderr())


if __name__ == "__main__":
    unittest.main()

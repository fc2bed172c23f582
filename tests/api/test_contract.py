"""What every inference route refuses, and how: the same mistakes on all of them, each answered in its family's shape with the
field's name and before anything runs.  Known weak points of other servers are among them."""
import json
import unittest

import harness

harness.need(harness.tiny("llama"))
server = None
HELLO = [{"role": "user", "content": "Hello"}]
LONG = "word " * 400
HUGE = {"type": "object", "properties": {"a": {"type": "string", "minLength": 10**9}}, "required": ["a"]}


def setUpModule():
    global server
    server = harness.Server(harness.tiny("llama"), ["--ctx", "128", "--parallel", "2"])


def tearDownModule():
    server.stop()


# route: (body, field of the text, field of the length)
ROUTES = {
    "/v1/chat/completions": ({"messages": HELLO}, "messages", "max_tokens"),
    "/v1/chat/completions/with_activations": (
        {"messages": HELLO, "activation_hooks": [{"layer": 1, "component": "resid_post"}]}, "messages", "max_tokens"),
    "/api/v0/chat/completions": ({"messages": HELLO}, "messages", "max_tokens"),
    "/v1/completions": ({"prompt": "Hello"}, "prompt", "max_tokens"),
    "/api/v0/completions": ({"prompt": "Hello"}, "prompt", "max_tokens"),
    "/v1/responses": ({"input": "Hello"}, "input", "max_output_tokens"),
    "/v1/messages": ({"messages": HELLO, "max_tokens": 4}, "messages", "max_tokens"),
    "/api/v1/chat": ({"input": "Hello"}, "input", "max_output_tokens"),
    "/v1/embeddings": ({"input": "Hello"}, "input", None),
    "/api/v0/embeddings": ({"input": "Hello"}, "input", None),
}


class Contract(unittest.TestCase):
    def check(self, path, body, status, param, code=None):
        if isinstance(body, dict) and "model" not in body:
            body = dict(body, model=server.model)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        got, headers, reply = server.raw("POST", path, raw, {"Content-Type": "application/json"})
        with self.subTest(path=path, body=raw[:100]):
            self.assertEqual(got, status, reply)
            self.assertTrue(headers["content-type"].startswith("application/json"))
            reply = json.loads(reply)
            self.assertEqual(reply.get("type"), "error" if path == "/v1/messages" else None)
            error = reply["error"]
            self.assertTrue(error["message"] and "\n" not in error["message"])
            self.assertEqual(error.get("param"), param, error)
            if code:
                self.assertEqual(error["code"], code)

    def each(self):
        for path, (body, text, length) in ROUTES.items():
            yield path, body, text, length

    def with_text(self, path, body, text, value):
        return dict(body, **{text: [{"role": "user", "content": value}] if text == "messages" else value})

    def test_an_unknown_model(self):
        for path, body, _, _ in self.each():
            self.check(path, dict(body, model="nobody/nothing"), 404, "model", "model_not_found")
            self.check(path, dict(body, model=5), 400, "model")

    def test_json_that_is_none(self):
        for path, _, _, _ in self.each():
            for raw in (b"", b"{", b"[]", b"\xff\xfe", b'{"a":1}x', b"5", b'"text"', b"{" * 100, b'{"a":' * 100):
                self.check(path, raw, 400, None)

    def test_a_missing_or_wrong_text(self):
        for path, body, text, _ in self.each():
            self.check(path, {k: v for k, v in body.items() if k != text}, 400, text)
            self.check(path, dict(body, **{text: 5}), 400, text)
            self.check(path, dict(body, **{text: {}}), 400, text)
            if text == "messages":
                for bad, at in (([{"role": "robot", "content": "x"}], ".role"), ([{"content": "x"}], ".role"),
                                ([{"role": "user", "content": 5}], ".content"), ([{"role": "user"}], ".content"), ([5], "")):
                    self.check(path, dict(body, messages=bad), 400, "messages[0]" + at)

    def test_numbers_out_of_range_or_of_another_type(self):
        for path, body, _, length in self.each():
            if not length:
                continue
            for name in ("temperature", "top_p", "min_p"):
                for bad in (-1, 5, "x", True, []):
                    self.check(path, dict(body, **{name: bad}), 400, name)
            for bad in (-2, "x", 1.5, 2**40):
                self.check(path, dict(body, **{length: bad}), 400, length)
            self.check(path, dict(body, stream="yes"), 400, "stream")
            self.check(path, dict(body, seed="x"), 400, "seed")

    def test_log_probabilities_beyond_the_limit(self):
        chat = {"messages": HELLO, "logprobs": True, "top_logprobs": 1000}
        self.check("/v1/chat/completions", chat, 400, "top_logprobs")
        self.check("/v1/completions", {"prompt": "x", "logprobs": 1000}, 400, "logprobs")
        self.check("/v1/responses", {"input": "x", "include": ["message.output_text.logprobs"], "top_logprobs": 1000}, 400, "top_logprobs")

    def test_what_does_not_fit_the_context(self):
        for path, body, text, length in self.each():
            long = self.with_text(path, body, text, LONG)
            self.check(path, long, 400, text, "context_length_exceeded")
            self.check(path, dict(long, stream=True), 400, text, "context_length_exceeded")  # before a stream begins
            if length:
                self.check(path, dict(body, **{length: 100000}), 400, length, "context_length_exceeded")

    def test_hooks_and_interventions_are_checked_everywhere(self):
        for path, body, _, length in self.each():
            if not length:
                continue
            self.check(path, dict(body, activation_hooks=[{"layer": 99, "component": "resid_post"}]), 400, "activation_hooks[0].layer")
            self.check(path, dict(body, activation_hooks=[{"layer": 0, "component": "nonsense"}]), 400, "activation_hooks[0].component")
            self.check(path, dict(body, interventions=[{"layer": 0, "component": "resid_post", "op": "nonsense"}]), 400,
                       "interventions[0].op")

    def test_a_schema_that_asks_for_a_billion_letters(self):
        function = {"name": "f", "parameters": HUGE}
        at = "properties.a.minLength"
        for path in ("/v1/chat/completions", "/api/v0/chat/completions"):
            self.check(path, {"messages": HELLO, "tools": [{"type": "function", "function": function}]}, 400,
                       "tools[0].function.parameters." + at)
            self.check(path, {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": HUGE}}}, 400,
                       "response_format.json_schema.schema." + at)
        self.check("/v1/responses", {"input": "x", "tools": [dict(function, type="function")]}, 400, "tools[0].parameters." + at)
        self.check("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": HUGE}}}, 400,
                   "text.format.schema." + at)
        body = {"messages": HELLO, "max_tokens": 4}
        self.check("/v1/messages", dict(body, tools=[{"name": "f", "input_schema": HUGE}]), 400, "tools[0].input_schema." + at)
        self.check("/v1/messages", dict(body, output_config={"format": {"type": "json_schema", "schema": HUGE}}), 400,
                   "output_config.format.schema." + at)

    def test_what_is_right_is_answered_everywhere(self):
        for path, body, _, length in self.each():
            body = dict(body, model=server.model, **({length: 2} if length else {}))
            status, reply = server.post(path, body)
            self.assertEqual(status, 200, (path, reply))
            if length and path != "/api/v1/chat":
                usage = reply["usage"]
                self.assertEqual(usage.get("completion_tokens", usage.get("output_tokens")), 2, path)

    def test_usage_is_of_all_answers(self):
        _, one = server.chat(max_tokens=5, ignore_eos=True)
        _, four = server.chat(max_tokens=5, n=4, ignore_eos=True)
        self.assertEqual(four["usage"]["completion_tokens"], 20)
        self.assertEqual(four["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"])


if __name__ == "__main__":
    unittest.main()

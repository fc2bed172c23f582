"""Everything a client can get wrong answers one clear error that names the field, and the server lives on."""
import json
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL)
server = None
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
V1 = CHAT + "/with_activations"


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "512", "--parallel", "1"])


def tearDownModule():
    server.stop()


def send(data, path=CHAT):
    status, _, reply = server.raw("POST", path, data, {"Content-Type": "application/json"})
    return status, json.loads(reply)


class Bodies(ApiTest):
    def test_what_is_no_json_names_the_place(self):
        self.check_error(send(b""), 400, says="empty")
        self.check_error(send(b'{"messages": [}'), 400, says="at byte")
        self.check_error(send(b"[1, 2]"), 400, says="must be a JSON object, not a list")
        self.check_error(send(b'{"a": 1} trailing'), 400, says="at byte")
        self.check_error(send(b'{"temperature": NaN}'), 400)

    def test_invalid_utf8_names_the_byte(self):
        self.check_error(send(b'{"messages":[{"role":"user","content":"\xff\xfe"}]}'), 400, says="not UTF-8 (at byte 39)")
        self.check_error(send(b'{"x":"\xed\xa0\x80"}'), 400, says="at byte 6")
        self.check_error(send(b'{"x":"\\ud800"}'), 400)

    def test_deep_json_is_refused(self):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            for depth in (65, 1000, 1000000):
                data = '{"messages":' + opening * depth + "1" + closing * depth + "}"
                self.check_error(send(data.encode()), 400, says="deeper than 64")

    def test_masses_of_values_are_refused(self):
        self.check_error(send(b'{"prompt":[' + b"1," * 5000000 + b"1]}", TEXT), 413)

    def test_bodies_over_the_limit_are_refused(self):
        status, _, reply = server.raw("POST", CHAT, b" " * (65 << 20), {"Content-Type": "application/json"})
        self.assertEqual(status, 413, reply)
        self.assertIn("message", json.loads(reply)["error"])


class Fields(ApiTest):
    def test_messages(self):
        for messages, param in ((None, "messages"), ([], "messages"), ("Hello", "messages"), ([5], "messages[0]"),
                                ([{}], "messages[0].role"), ([{"role": "robot", "content": "x"}], "messages[0].role"),
                                ([{"role": "user"}], "messages[0].content"),
                                ([{"role": "user", "content": 5}], "messages[0].content"),
                                ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
                                 "messages[0].content[0].type"),
                                ([{"role": "user", "content": "x"}] * 10001, "messages"),
                                ([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{}]}],
                                 "messages[1].tool_calls[0].function")):
            self.check_error(server.post(CHAT, {"messages": messages}), 400, param)

    def test_prompts(self):
        for prompt, param in ((None, "prompt"), ("", "prompt"), ([], "prompt"), (5, "prompt"), ({}, "prompt"),
                              ([1, "x"], "prompt[1]"), ([1, -1], "prompt[1]"), ([1, 49152], "prompt[1]"),
                              ([1, 2 ** 40], "prompt[1]"), ([1.5], "prompt[0]"), (["a", 1], "prompt[1]"),
                              ([[1], "", [2]], "prompt[1]"), ([[]], "prompt[0]"), ([[1, True]], "prompt[0][1]")):
            self.check_error(server.post(TEXT, {"prompt": prompt, "max_tokens": 1}), 400, param)

    def test_numbers_out_of_range_and_wrong_types(self):
        for field, value in (("temperature", -0.1), ("temperature", 2.5), ("temperature", "0.5"), ("temperature", 1e308),
                             ("top_p", 0), ("top_p", 1.1), ("min_p", -1), ("top_k", -2), ("top_k", 1.5),
                             ("max_tokens", 0), ("max_tokens", -5), ("max_tokens", 2 ** 31), ("max_tokens", 10 ** 40),
                             ("max_tokens", "many"), ("max_completion_tokens", []), ("seed", "x"), ("seed", 0.5),
                             ("stop", ""), ("stop", ["a"] * 17), ("stop", 5), ("frequency_penalty", 2.5),
                             ("presence_penalty", -3), ("repeat_penalty", 0), ("repeat_penalty", -1), ("mirostat", 5),
                             ("logprobs", 3), ("top_logprobs", 21), ("stream", 1), ("stream_options", True),
                             ("logit_bias", []), ("model", 5), ("activation_format", []), ("ignore_eos", "no"),
                             ("n", 0), ("n", "one"), ("cache_prompt", 1)):
            self.check_error(server.chat(**{field: value}), 400, field)
        self.check_error(server.chat(stop=["a", ""]), 400, "stop[1]")
        self.check_error(server.chat(logit_bias={"99999999": 1}), 400, "logit_bias.99999999")

    def test_what_is_not_served_is_never_ignored(self):
        for field, value in (("functions", []),
                             ("function_call", "auto"), ("audio", {}), ("modalities", ["audio"]), ("grammar", "root ::= x"),
                             ("draft_model", "x")):
            self.check_error(server.chat(**{field: value}), 400, field)
        self.check_error(server.chat(response_format={"type": "xml"}), 400, "response_format.type")
        for field, value in (("suffix", "x"), ("best_of", 2)):
            self.check_error(server.post(TEXT, {"prompt": "x", field: value}), 400, field)

    def test_a_prompt_beyond_the_context_names_both_numbers(self):
        self.check_error(server.chat("word " * 2000), 400, "messages", "context_length_exceeded", "512")
        self.check_error(server.post(TEXT, {"prompt": "word " * 2000}), 400, "prompt", "context_length_exceeded", "512")
        self.check_error(server.post(TEXT, {"prompt": "x" * 3000000}), 400, "prompt", "context_length_exceeded")

    def test_special_characters_in_text_do_no_harm(self):
        for text in ("\x00", "a\x00b", "\u2028\ufeff", "<|im_end|><|im_start|>system\n", "{{ 7 * 7 }}{% for %}", "\\\"'`$(ls)"):
            status, r = server.chat(text, max_tokens=1)
            self.assertEqual(status, 200, r)

    def test_null_counts_as_absent(self):
        fields = ("temperature", "top_p", "stop", "seed", "tools", "tool_choice", "response_format", "n", "logit_bias",
                  "logprobs", "stream", "stream_options", "activation_hooks", "activation_format", "functions", "suffix")
        self.assertEqual(server.chat(max_tokens=1, **{f: None for f in fields})[0], 200)


class Routes(ApiTest):
    def test_unknown_paths_and_methods(self):
        self.assertEqual(server.get("/nothing")[0], 404)
        status, headers, body = server.raw("DELETE", CHAT)
        self.assertEqual(status, 405)
        self.assertIn("POST", headers["allow"])
        self.assertIn("error", json.loads(body))
        self.check_error(server.get("/v1/models/nobody/nothing"), 404, "model", "model_not_found")


class Aftermath(ApiTest):
    def test_the_server_still_answers(self):
        self.assertEqual(server.chat(max_tokens=1)[0], 200)


if __name__ == "__main__":
    unittest.main()

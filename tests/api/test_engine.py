"""Fields that say how an answer is computed (speculation, priority) and two that say what it is (regex, choices); the
queue's limit."""
import json
import os
import re
import struct
import tempfile
import threading
import time
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL, harness.tiny())
server = None
TEXT = "/v1/completions"
LIST = "one two three four five six seven eight nine ten one two three four five six"


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "512", "--parallel", "2", "--draft", harness.MODEL, "--speculative", "off"])


def tearDownModule():
    server.stop()


class Structure(ApiTest):
    def text(self, seed, **fields):
        status, body = server.post(TEXT, dict({"prompt": "The answer:", "max_tokens": 40, "temperature": 1.5, "seed": seed},
                                              **fields))
        self.assertEqual(status, 200, body)
        self.assertEqual(body["choices"][0]["finish_reason"], "stop", body)
        return body["choices"][0]["text"]

    def test_an_answer_matches_the_whole_expression(self):
        for pattern in (r"[A-Z]{2}-\d{3}(\.[a-f]{1,3}){0,2}", r"^(yes|no|maybe)$", r"\"[^\"\\\n]{1,8}\"", r"(\t|\n|[\x00-\x1f]){1,3}x",
                        r"\w{1,5}\s?[äöü€]{2}", r"\d{4}-(0[1-9]|1[0-2])-\d{2}"):
            for field in ("regex", "guided_regex"):
                text = self.text(len(field), **{field: pattern})
                self.assertIsNotNone(re.fullmatch(pattern.strip("^$"), text, re.ASCII), (pattern, text))

    def test_an_answer_is_one_of_the_choices(self):
        choices = ["red", "reddish", "it's \"blue\"", "grün\n", "\\", "a b c"]
        seen = set()
        for seed in range(8):
            text = self.text(seed, **{"choices" if seed % 2 else "guided_choice": choices})
            self.assertIn(text, choices)
            seen.add(text)
        self.assertGreater(len(seen), 1)
        self.assertEqual(self.text(1, choices=["only this"]), "only this")

    def test_a_chat_and_a_stream_keep_to_them_too(self):
        status, body = server.chat("Is water wet?", choices=["yes", "no"], max_tokens=10)
        self.assertEqual(status, 200, body)
        self.assertIn(body["choices"][0]["message"]["content"], ("yes", "no"))
        events = server.sse(TEXT, {"prompt": "2 + 2 =", "regex": "[0-9]{1,3}", "max_tokens": 10})
        self.assertRegex("".join(e["choices"][0]["text"] for e in events if e["choices"]), r"^\d{1,3}$")

    def test_what_is_wrong_is_a_400_before_any_answer(self):
        for fields, param, says in (
                ({"regex": ""}, "regex", "regular expression"), ({"regex": 5}, "regex", "regular expression"),
                ({"regex": "(a"}, "regex", "not closed"), ({"regex": "a{3,1}"}, "regex", "below its least"),
                ({"regex": "a{99999}"}, "regex", "4096"), ({"regex": "(?=a)b"}, "regex", "look-around"),
                ({"regex": "(a)\\1"}, "regex", "cannot be enforced"), ({"regex": "a" * 5000}, "regex", "4096 bytes"),
                ({"regex": "(" * 100 + ")" * 100}, "regex", "nested"), ({"regex": "a**"}, "regex", "repetition"),
                ({"regex": "a|b|^c$"}, "regex", None), ({"regex": "[b-a]"}, "regex", "backwards"),
                ({"choices": []}, "choices", "1 to 1000"), ({"choices": "yes"}, "choices", "1 to 1000"),
                ({"choices": ["a", ""]}, "choices[1]", "not empty"), ({"choices": ["a", 1]}, "choices[1]", "text"),
                ({"choices": ["x"] * 1001}, "choices", "1 to 1000"),
                ({"choices": ["a"], "regex": "a"}, "choices", "only one of"),
                ({"regex": "a", "grammar": 'root ::= "a"'}, None, "only one of")):
            for stream in (False, True):
                status, body = server.post(TEXT, dict({"prompt": "x", "max_tokens": 3, "stream": stream}, **fields))
                self.assertEqual(status, 400, (fields, body))
                if param:
                    self.assertEqual(body["error"]["param"], param)
                if says:
                    self.assertIn(says, body["error"]["message"])

    def test_hostile_expressions_end_at_once(self):
        """Those that explode in backtracking engines are ordinary here, those that are too large are refused."""
        for pattern in (r"(a+)+b", r"(a|a)*(a|aa)+c", r"((a{0,50}){0,50}){0,50}", r"(([a-z]*)*)*", ".{0,4096}" * 12,
                        "(" * 30 + "a" + ")*" * 30, "|".join("a%d" % i for i in range(1000))):
            began = time.monotonic()
            status, body = server.post(TEXT, {"prompt": "a", "max_tokens": 8, "regex": pattern})
            self.assertIn(status, (200, 400), body)
            self.assertLess(time.monotonic() - began, 60)  # a hang, not a time
            self.assertEqual(server.get("/health")[0], 200)


class Speculation(ApiTest):
    def answer(self, **fields):
        body = dict({"prompt": LIST, "max_tokens": 40, "temperature": 0, "cache_prompt": False}, **fields)
        status, reply = server.post(TEXT, body)
        self.assertEqual(status, 200, reply)
        return reply

    def test_the_answer_is_the_same_and_the_reply_says_how_much_was_guessed(self):
        plain = self.answer()
        self.assertNotIn("draft_n", plain["timings"])
        for how in ("ngram", "draft", {"method": "ngram", "max_tokens": 16}, {"method": "draft", "max_tokens": 4}):
            guessed = self.answer(speculative=how)
            self.assertEqual(guessed["choices"][0]["text"], plain["choices"][0]["text"])
            self.assertGreater(guessed["timings"]["draft_n"], 10, how)
            self.assertGreater(guessed["timings"]["draft_n_accepted"], 5, how)
            details = guessed["usage"]["completion_tokens_details"]
            self.assertEqual(details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"],
                             guessed["timings"]["draft_n"])

    def test_a_prediction(self):
        text = self.answer()["choices"][0]["text"]
        for content in (text, [{"type": "text", "text": text[:30]}, {"type": "text", "text": text[30:]}]):
            guessed = self.answer(prediction={"type": "content", "content": content})
            self.assertEqual(guessed["choices"][0]["text"], text)
            self.assertGreater(guessed["usage"]["completion_tokens_details"]["accepted_prediction_tokens"], 20)
        off = self.answer(prediction={"type": "content", "content": text}, speculative="off")
        self.assertNotIn("completion_tokens_details", off["usage"])

    def test_the_draft_model_by_name(self):
        name = server.model
        guessed = self.answer(draft_model=name)
        self.assertGreater(guessed["timings"]["draft_n"], 10)
        self.check_error(server.post(TEXT, {"prompt": "x", "draft_model": "other"}), 400, "draft_model", says="--draft")

    def test_requests_with_hooks_do_not_guess(self):
        hooks = [{"layer": 3, "component": "resid_post", "positions": "generated"}]
        reply = server.post(TEXT, {"prompt": LIST, "max_tokens": 12, "temperature": 0, "speculative": "ngram",
                                   "activation_hooks": [{"layer": 3, "component": "resid_post"}]})
        self.assertEqual(reply[0], 200, (reply, hooks))
        self.assertNotIn("draft_n", reply[1]["timings"])

    def test_wrong_fields(self):
        for value, param in (("fast", "speculative"), (5, "speculative"), ({"method": "x"}, "speculative.method"),
                             ({"method": "ngram", "max_tokens": 33}, "speculative.max_tokens")):
            self.check_error(server.post(TEXT, {"prompt": "x", "speculative": value}), 400, param)
        for value, param in (("text", "prediction"), ({"content": "x"}, "prediction.type"),
                             ({"type": "content", "content": 5}, "prediction.content"),
                             ({"type": "content", "content": [{"type": "image"}]}, "prediction.content")):
            self.check_error(server.post(TEXT, {"prompt": "x", "prediction": value}), 400, param)
        self.check_error(server.post(TEXT, {"prompt": "x", "priority": 11}), 400, "priority")
        self.check_error(server.post(TEXT, {"prompt": "x", "priority": "high"}), 400, "priority")

    def test_a_draft_model_of_another_vocabulary_is_refused_at_start(self):
        status, _, err = harness.run("serve", "--model", harness.MODEL, "--draft", harness.tiny(), "--ctx", "64",
                                     "--listen", "127.0.0.1:0")
        self.assertNotEqual(status, 0)
        self.assertIn("another vocabulary", err)


class Adapters(ApiTest):
    """What adapters compute is unit.adapters' affair; here: names, scales, mistakes."""

    def adapter(self, folder):
        """A GGUF with a LoRA of rank 1 for the queries of block 0 of the tiny llama."""
        n_in = n_out = 64
        def text(s):
            return struct.pack("<Q", len(s)) + s.encode()
        keys = [("general.type", 8, text("adapter")), ("general.architecture", 8, text("llama")),
                ("adapter.type", 8, text("lora")), ("adapter.lora.alpha", 6, struct.pack("<f", 1))]
        tensors = [("blk.0.attn_q.weight.lora_a", (n_in, 1)), ("blk.0.attn_q.weight.lora_b", (1, n_out))]
        data = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
        for name, kind, value in keys:
            data += text(name) + struct.pack("<I", kind) + value
        for i, (name, shape) in enumerate(tensors):
            data += text(name) + struct.pack("<IQQIQ", 2, *shape, 0, 256 * i)
        data += b"\0" * (-len(data) % 32)
        data += struct.pack("<64f", *[(i * 37 % 64 - 32) / 4 for i in range(64)])
        data += struct.pack("<64f", *[(i * 11 % 64 - 32) / 4 for i in range(64)])
        path = os.path.join(folder, "my.gguf")
        with open(path, "wb") as f:
            f.write(data)
        return path

    def test_adapters_by_name_and_number(self):
        with tempfile.TemporaryDirectory(prefix="glia-lora-") as folder:
            path = self.adapter(folder)
            s = harness.Server(harness.tiny(), args=["--ctx", "128", "--lora", "loud=" + path, "--lora", path])
            try:
                def text(**fields):
                    status, body = s.post(TEXT, dict({"prompt": "the fox", "max_tokens": 12, "temperature": 0, "ignore_eos": True},
                                                     **fields))
                    self.assertEqual(status, 200, body)
                    return body["choices"][0]["text"]
                plain = text()
                loud = text(lora=[{"id": "loud"}])
                self.assertNotEqual(plain, loud)
                self.assertEqual(loud, text(lora=[{"id": 0}]))
                self.assertEqual(loud, text(lora=[{"id": "my", "scale": 1}]))
                self.assertEqual(plain, text(lora=[{"id": "loud", "scale": 0}]))
                self.assertEqual(plain, text(lora=[]))
                self.assertEqual(plain, text())
                for value, param in (("loud", "lora"), ([{"id": "quiet"}], "lora[0]"), ([{"id": 2}], "lora[0]"), ([5], "lora[0]"),
                                     ([{"id": 0, "scale": "x"}], "lora[0].scale"), ([{"id": 0}, {"id": "loud"}], "lora[1]"),
                                     ([{"id": 0}] * 9, "lora")):
                    self.check_error(s.post(TEXT, {"prompt": "x", "lora": value}), 400, param)
                status, body = s.chat(path="/v1/chat/completions/with_activations", lora=[{"id": 0}],
                                      activation_hooks=[{"layer": 0, "component": "resid_post"}])
                self.assertEqual(status, 422, body)
                self.assertIn("not proven", body["error"]["message"])
            finally:
                s.stop()


class WithoutHooks(ApiTest):
    def test_text_comes_and_hooks_are_refused_by_name(self):
        s = harness.Server(harness.tiny(), args=["--no-hooks"])
        try:
            status, body = s.chat()
            self.assertEqual(status, 200, body)
            status, body = s.activations([{"layer": 0, "component": "resid_post"}])
            self.assertEqual(status, 422, body)
            self.assertIn("--no-hooks", body["error"]["message"])
            status, body = s.chat(interventions=[{"layer": 0, "component": "resid_post", "op": "zero"}])
            self.assertEqual(status, 422, body)
            self.assertIn("--no-hooks", body["error"]["message"])
        finally:
            s.stop()


class Queue(ApiTest):
    def test_priority_and_the_limit(self):
        """One slot, a queue of three: a fourth waiting request is a 429 with Retry-After; the most urgent goes first."""
        one = harness.Server(harness.tiny(), args=["--ctx", "2048", "--parallel", "1", "--queue", "3"])
        try:
            order, lock, replies = [], threading.Lock(), {}

            def ask(name, n, **fields):
                reply = one.raw("POST", TEXT, json.dumps(dict({"prompt": name, "max_tokens": n, "ignore_eos": True}, **fields)),
                                {"Content-Type": "application/json"})
                with lock:
                    order.append(name)
                    replies[name] = reply

            def waiting(n):
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    text = one.raw("GET", "/metrics")[2].decode()
                    if "glia_model_requests_waiting{model=\"llama\"} %d" % n in text and \
                       "glia_model_slots_busy{model=\"llama\"} 1" in text:
                        return
                    time.sleep(0.01)
                raise AssertionError("never %d waiting" % n)

            threads = []
            for n, (name, length, fields) in enumerate((("first", 2000, {}), ("low", 300, {"priority": -5}), ("normal", 300, {}),
                                                        ("high", 300, {"priority": 5}))):
                threads.append(threading.Thread(target=ask, args=(name, length), kwargs=fields))
                threads[-1].start()
                waiting(n)
            status, headers, body = one.raw("POST", TEXT, json.dumps({"prompt": "x", "max_tokens": 1}),
                                            {"Content-Type": "application/json"})
            self.assertEqual(status, 429, body)
            self.assertIn("retry-after", headers)
            self.assertEqual(json.loads(body)["error"]["code"], "busy")
            for t in threads:
                t.join()
            self.assertEqual(set(r[0] for r in replies.values()), {200})
            self.assertEqual(order, ["first", "high", "normal", "low"])
        finally:
            one.stop()


if __name__ == "__main__":
    unittest.main()

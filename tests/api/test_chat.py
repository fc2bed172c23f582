"""Chat and text completions, whole: shapes, counts, sampling fields, stop strings, log-probabilities."""
import math
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL)
server = None


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "1024", "--parallel", "2"])


def tearDownModule():
    server.stop()


def complete(prompt="The capital of France is", **fields):
    return server.post("/v1/completions", dict({"prompt": prompt, "max_tokens": 4, "temperature": 0}, **fields))


def text_of(reply):
    status, body = reply
    assert status == 200, body
    choice = body["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


class Chat(ApiTest):
    def test_reply_has_the_shape_of_openai(self):
        status, r = server.chat()
        self.assertEqual(status, 200)
        self.assertTrue(r["id"].startswith("chatcmpl-"))
        self.assertEqual(r["object"], "chat.completion")
        self.assertEqual(r["model"], server.model)
        self.assertIsInstance(r["created"], int)
        choice, = r["choices"]
        self.assertEqual(choice["index"], 0)
        self.assertEqual(choice["message"]["role"], "assistant")
        self.assertIsInstance(choice["message"]["content"], str)
        self.assertIsNone(choice["logprobs"])
        self.assertNotIn("activations", r)

    def test_usage_counts_are_exact(self):
        _, tokens = server.post("/v1/tokenize", {"messages": [{"role": "user", "content": "Hello"}]})
        for n in (1, 5):
            _, r = server.chat(max_tokens=n)
            self.assertEqual(r["usage"]["prompt_tokens"], tokens["count"])
            self.assertEqual(r["usage"]["completion_tokens"], n)
            self.assertEqual(r["usage"]["total_tokens"], tokens["count"] + n)
            self.assertEqual(r["choices"][0]["finish_reason"], "length")
            self.assertEqual(r["timings"]["predicted_n"], n)

    def test_a_repeated_prompt_comes_from_the_cache(self):
        server.chat("Tell me something about caches", max_tokens=1)
        _, r = server.chat("Tell me something about caches", max_tokens=1)
        self.assertGreater(r["usage"]["prompt_tokens_details"]["cached_tokens"], 10)
        _, r = server.chat("Tell me something about caches", max_tokens=1, cache_prompt=False)
        self.assertEqual(r["usage"]["prompt_tokens_details"]["cached_tokens"], 0)

    def test_roles_parts_and_nulls_are_taken(self):
        status, r = server.post("/v1/chat/completions", {
            "model": None, "temperature": None, "max_completion_tokens": 2, "unknown_field": {"x": 1}, "user": "me",
            "messages": [{"role": "developer", "content": "Be brief."},
                         {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
                         {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?"}]})
        self.assertEqual(status, 200, r)
        self.assertEqual(r["usage"]["completion_tokens"], 2)

    def test_developer_is_system(self):
        def count(role):
            return server.post("/v1/tokenize", {"messages": [{"role": role, "content": "Be brief."},
                                                             {"role": "user", "content": "x"}]})[1]["tokens"]
        self.assertEqual(count("developer"), count("system"))

    def test_the_model_may_be_named(self):
        self.assertEqual(server.chat(model=server.model)[0], 200)
        self.check_error(server.chat(model="nobody/nothing"), 404, "model", "model_not_found",
                         ["nobody/nothing", server.model])

    def test_an_end_of_generation_gives_stop(self):
        status, r = server.chat("Say only: OK", max_tokens=200)
        self.assertEqual(status, 200)
        self.assertIn(r["choices"][0]["finish_reason"], ("stop", "length"))
        _, tokens = server.post("/v1/tokenize", {"text": "<|im_end|>", "add_special": False})
        eog = str(tokens["tokens"][0])
        _, r = server.chat("Hello", max_tokens=20, logit_bias={eog: 100})
        self.assertEqual(r["choices"][0]["finish_reason"], "stop")
        self.assertEqual(r["choices"][0]["message"]["content"], "")
        self.assertEqual(r["usage"]["completion_tokens"], 1)

    def test_logprobs_are_those_of_the_tokens(self):
        _, r = server.chat(max_tokens=3, logprobs=True, top_logprobs=5)
        content = r["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), 3)
        self.assertEqual("".join(c["token"] for c in content), r["choices"][0]["message"]["content"])
        for c in content:
            self.assertEqual(bytes(c["bytes"]).decode(), c["token"])
            self.assertEqual(len(c["top_logprobs"]), 5)
            self.assertEqual(c["top_logprobs"][0]["token"], c["token"])  # greedy: the likeliest was drawn
            self.assertAlmostEqual(c["top_logprobs"][0]["logprob"], c["logprob"], places=5)
            probabilities = [math.exp(t["logprob"]) for t in c["top_logprobs"]]
            self.assertEqual(probabilities, sorted(probabilities, reverse=True))
            self.assertLessEqual(sum(probabilities), 1.0001)
        _, r = server.chat(max_tokens=2, logprobs=True)
        self.assertEqual([c["top_logprobs"] for c in r["choices"][0]["logprobs"]["content"]], [[], []])

    def test_max_tokens_beyond_the_context_is_refused_with_what_is_left(self):
        small = harness.Server(args=["--ctx", "256"])
        try:
            long = "word " * 180
            _, tokens = small.post("/v1/tokenize", {"messages": [{"role": "user", "content": long}]})
            self.assertLess(tokens["count"], 256)
            left = 256 - tokens["count"]
            status, r = small.chat(long, max_tokens=left + 1, ignore_eos=True)
            self.assertEqual((status, r["error"]["param"], r["error"]["code"]), (400, "max_tokens", "context_length_exceeded"))
            self.assertIn("at most %d are left" % left, r["error"]["message"])
            status, r = small.chat(long, max_tokens=-1, ignore_eos=True)  # until the context is full
            self.assertEqual((status, r["choices"][0]["finish_reason"]), (200, "length"))
            self.assertEqual(r["usage"]["total_tokens"], 256)
        finally:
            small.stop()


class Sampling(ApiTest):
    def test_temperature_zero_is_deterministic(self):
        texts = {text_of(server.chat("Count to five.", max_tokens=8)) for _ in range(3)}
        self.assertEqual(len(texts), 1)

    def test_a_seed_repeats_its_answer(self):
        def draw(seed):
            return text_of(complete("Once upon a time", max_tokens=8, temperature=1.5, seed=seed, cache_prompt=False))
        self.assertEqual(draw(7), draw(7))
        self.assertGreater(len({draw(s) for s in (1, 2, 3, 4)}), 1)

    def test_logit_bias_forbids_and_forces(self):
        _, r = complete(max_tokens=1, logprobs=0)
        first = r["choices"][0]["text"]
        token = str(server.post("/v1/tokenize", {"text": first, "add_special": False})[1]["tokens"][0])
        self.assertNotEqual(text_of(complete(max_tokens=1, logit_bias={token: -100})), first)
        other = server.post("/v1/tokenize", {"text": " London", "add_special": False})[1]["tokens"][0]
        self.assertEqual(text_of(complete(max_tokens=1, logit_bias={str(other): 100})), " London")

    def test_all_sampling_fields_are_taken_together(self):
        status, r = complete(temperature=0.8, top_p=0.9, min_p=0.02, top_k=20, typical_p=0.95, top_n_sigma=2,
                             xtc_probability=0.1, xtc_threshold=0.1, repeat_last_n=32, repeat_penalty=1.1,
                             frequency_penalty=0.1, presence_penalty=0.1, dry_multiplier=0.5, dry_base=1.75,
                             dry_allowed_length=2, dry_penalty_last_n=-1, seed=3)
        self.assertEqual(status, 200, r)
        for kind in (1, 2):
            status, r = complete(temperature=0.8, mirostat=kind, mirostat_tau=5, mirostat_eta=0.1, seed=3)
            self.assertEqual(status, 200, r)


class Stop(ApiTest):
    def test_stop_strings_end_the_text_before_them(self):
        whole = text_of(complete("1, 2, 3, 4, 5, 6,", max_tokens=12))
        self.assertIn("9", whole)
        _, r = complete("1, 2, 3, 4, 5, 6,", max_tokens=12, stop="9")
        self.assertEqual(r["choices"][0]["text"], whole[:whole.index("9")])
        self.assertEqual(r["choices"][0]["finish_reason"], "stop")

    def test_the_earliest_of_several_counts(self):
        whole = text_of(complete("1, 2, 3, 4, 5, 6,", max_tokens=12))
        _, r = complete("1, 2, 3, 4, 5, 6,", max_tokens=12, stop=["9", "zzz", " 8"])
        self.assertEqual(r["choices"][0]["text"], whole[:whole.index(" 8")])

    def test_a_stop_string_may_span_tokens(self):
        whole = text_of(complete("1, 2, 3, 4, 5, 6,", max_tokens=12))
        _, r = complete("1, 2, 3, 4, 5, 6,", max_tokens=12, stop=", 8,")
        self.assertEqual(r["choices"][0]["text"], whole[:whole.index(", 8,")])


class Completions(ApiTest):
    def test_reply_has_the_shape_of_openai(self):
        status, r = complete()
        self.assertEqual(status, 200)
        self.assertTrue(r["id"].startswith("cmpl-"))
        self.assertEqual(r["object"], "text_completion")
        self.assertIn("Paris", r["choices"][0]["text"])
        self.assertEqual(r["usage"]["completion_tokens"], 4)

    def test_token_ids_are_a_prompt(self):
        tokens = server.post("/v1/tokenize", {"text": "The capital of France is"})[1]["tokens"]
        self.assertEqual(text_of(complete(tokens)), text_of(complete()))
        self.assertEqual(text_of(complete([tokens])), text_of(complete()))
        self.assertEqual(text_of(complete(["The capital of France is"])), text_of(complete()))

    def test_echo_repeats_the_prompt(self):
        plain = text_of(complete())
        self.assertEqual(text_of(complete(echo=True)), "The capital of France is" + plain)
        tokens = server.post("/v1/tokenize", {"text": "The capital of France is"})[1]["tokens"]
        self.assertEqual(text_of(complete(tokens, echo=True)), "The capital of France is" + plain)

    def test_no_tokens_only_runs_the_prompt(self):
        status, r = complete(max_tokens=0, echo=True)
        self.assertEqual(status, 200, r)
        self.assertEqual(r["choices"][0]["text"], "The capital of France is")
        self.assertEqual(r["usage"]["completion_tokens"], 0)
        status, r = complete(max_tokens=0, activation_hooks=[{"layer": 0, "component": "resid_post"}])
        self.assertEqual(status, 200, r)
        entry, = r["activations"]["resid_post.0"]
        self.assertEqual(entry["shape"][1], r["usage"]["prompt_tokens"])

    def test_logprobs_are_four_lists(self):
        _, r = complete(max_tokens=3, logprobs=2)
        lp = r["choices"][0]["logprobs"]
        self.assertEqual("".join(lp["tokens"]), r["choices"][0]["text"])
        self.assertEqual([len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [3] * 4)
        self.assertTrue(all(x <= 0 for x in lp["token_logprobs"]))
        self.assertTrue(all(len(t) == 2 for t in lp["top_logprobs"]))
        self.assertEqual(lp["text_offset"][1], len(lp["tokens"][0]))


class Tokens(ApiTest):
    def test_text_survives_both_ways(self):
        text = "Grüße, 世界! 👩‍👩‍👧 \u202e end"
        _, r = server.post("/v1/tokenize", {"text": text, "add_special": False, "with_pieces": True})
        self.assertEqual(r["count"], len(r["tokens"]))
        self.assertEqual(len(r["pieces"]), r["count"])
        self.assertEqual(server.post("/v1/detokenize", {"tokens": r["tokens"]})[1]["text"], text)

    def test_bad_fields_are_named(self):
        self.check_error(server.post("/v1/tokenize", {}), 400, "text")
        self.check_error(server.post("/v1/tokenize", {"text": 5}), 400, "text")
        self.check_error(server.post("/v1/detokenize", {}), 400, "tokens")
        self.check_error(server.post("/v1/detokenize", {"tokens": [1, -5]}), 400, "tokens[1]")
        self.check_error(server.post("/v1/detokenize", {"tokens": [1, 99999999]}), 400, "tokens[1]")
        self.check_error(server.post("/v1/tokenize", {"text": "x", "model": "y"}), 404, "model", "model_not_found")


if __name__ == "__main__":
    unittest.main()

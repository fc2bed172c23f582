"""Several answers to one request: n, several prompts, echo with log-probabilities, usage summed once."""
import math
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL)
server = None
TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "512", "--parallel", "3"])


def tearDownModule():
    server.stop()


def complete(prompt="The capital of France is", **fields):
    return server.post(TEXT, dict({"prompt": prompt, "max_tokens": 4, "temperature": 0}, **fields))


def ids_of(text):
    return server.post("/v1/tokenize", {"text": text})[1]["tokens"]


class Choices(ApiTest):
    def test_n_gives_so_many_answers_and_counts_the_prompt_once(self):
        _, one = server.chat(max_tokens=3, ignore_eos=True)
        for n in (2, 5):  # more than there are slots
            status, r = server.chat(max_tokens=3, n=n, ignore_eos=True)
            self.assertEqual(status, 200, r)
            self.assertEqual([c["index"] for c in r["choices"]], list(range(n)))
            self.assertEqual({c["message"]["content"] for c in r["choices"]}, {one["choices"][0]["message"]["content"]})
            self.assertEqual(r["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"])
            self.assertEqual(r["usage"]["completion_tokens"], 3 * n)
            self.assertEqual(r["usage"]["total_tokens"], one["usage"]["prompt_tokens"] + 3 * n)

    def test_answers_of_one_seed_differ_and_come_again(self):
        def draw():
            _, r = complete("Once upon a time", n=4, temperature=1.5, seed=11, max_tokens=6, cache_prompt=False)
            return [c["text"] for c in r["choices"]]
        first = draw()
        self.assertGreater(len(set(first)), 1)
        self.assertEqual(first, draw())

    def test_each_answer_has_its_own_logprobs(self):
        _, r = server.chat(n=2, max_tokens=3, temperature=1.5, seed=3, logprobs=True, top_logprobs=2)
        for c in r["choices"]:
            self.assertEqual("".join(t["token"] for t in c["logprobs"]["content"]), c["message"]["content"])
            self.assertTrue(all(len(t["top_logprobs"]) == 2 for t in c["logprobs"]["content"]))

    def test_streams_name_the_choice(self):
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 1.2, "seed": 5, "n": 3,
                "stream_options": {"include_usage": True}, "ignore_eos": True}
        _, whole = server.post(CHAT, body)
        texts, finished = {}, {}
        chunks = server.sse(CHAT, body)
        for chunk in chunks[:-1]:
            choice, = chunk["choices"]
            self.assertIsNone(chunk["usage"])
            texts.setdefault(choice["index"], []).append(choice["delta"].get("content") or "")
            if choice["finish_reason"]:
                finished[choice["index"]] = choice["finish_reason"]
        self.assertEqual({i: "".join(t) for i, t in texts.items()},
                         {c["index"]: c["message"]["content"] for c in whole["choices"]})
        self.assertEqual(finished, {0: "length", 1: "length", 2: "length"})
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 12)
        self.assertEqual(chunks[-1]["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"])

    def test_activations_say_which_answer_they_are_from(self):
        hooks = [{"layer": 3, "component": "resid_post", "positions": "all"}]
        status, r = server.activations(hooks, n=2, max_tokens=2, temperature=1.5, seed=9, ignore_eos=True)
        self.assertEqual(status, 200, r)
        entries = r["activations"]["resid_post.3"]
        self.assertEqual([(e["choice"], e["phase"]) for e in entries],
                         [(0, "prompt"), (0, "generated"), (1, "prompt"), (1, "generated")])
        self.assertEqual(entries[0]["data"], entries[2]["data"])
        for lines in (server.ndjson(CHAT + "/with_activations", {
                "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "temperature": 0, "n": 2,
                "activation_hooks": hooks}),):
            self.assertEqual(sorted(x["entry"]["choice"] for x in lines if x["type"] == "activation"), [0, 0, 1, 1])
            self.assertEqual([x["index"] for x in lines if x["type"] == "choice"], [0, 1])
            self.assertEqual(lines[-1]["type"], "done")
        _, r = server.activations(hooks, max_tokens=1)
        self.assertNotIn("choice", r["activations"]["resid_post.3"][0])

    def test_limits_are_named(self):
        self.check_error(server.chat(n=0), 400, "n")
        self.check_error(server.chat(n=129), 400, "n")
        self.check_error(server.chat(n=1.5), 400, "n")
        self.check_error(complete(["a"] * 65, n=2), 400, "n")
        self.check_error(complete(["a"] * 129), 400, "prompt")
        self.check_error(complete(best_of=2), 400, "best_of")
        self.assertEqual(complete(best_of=2, n=2)[0], 200)


class Prompts(ApiTest):
    def test_each_prompt_gets_its_answers(self):
        prompts = ["The capital of France is", "The capital of Italy is"]
        alone = [complete(p)[1]["choices"][0]["text"] for p in prompts]
        _, r = complete(prompts)
        self.assertEqual([c["text"] for c in r["choices"]], alone)
        self.assertEqual([c["index"] for c in r["choices"]], [0, 1])
        self.assertEqual(r["usage"]["prompt_tokens"], sum(len(ids_of(p)) for p in prompts))
        _, r = complete([ids_of(p) for p in prompts], n=2)
        self.assertEqual([c["text"] for c in r["choices"]], [alone[0]] * 2 + [alone[1]] * 2)
        self.assertEqual(r["usage"]["prompt_tokens"], sum(len(ids_of(p)) for p in prompts))

    def test_a_bad_prompt_among_good_ones_is_named(self):
        self.check_error(complete(["a", 5]), 400, "prompt[1]")
        self.check_error(complete(["a", ""]), 400, "prompt[1]")
        self.check_error(complete([[1], [2, -1]]), 400, "prompt[1][1]")

    def test_suffix_is_refused_by_a_model_that_cannot(self):
        self.check_error(complete(suffix=" is the capital"), 400, "suffix", says="fill in the middle")
        self.check_error(complete(suffix=5), 400, "suffix")


class Echo(ApiTest):
    def test_echoed_logprobs_are_those_of_generation(self):
        """What the model wrote, echoed as a prompt, gets the log-probabilities it was drawn with."""
        prompt = "The capital of France is"
        _, made = complete(prompt, max_tokens=5, logprobs=3, cache_prompt=False)
        text, drawn = made["choices"][0]["text"], made["choices"][0]["logprobs"]
        n_prompt = len(ids_of(prompt))
        _, r = complete(prompt + text, max_tokens=0, echo=True, logprobs=3)
        choice = r["choices"][0]
        lp = choice["logprobs"]
        self.assertEqual(choice["text"], prompt + text)
        self.assertEqual("".join(lp["tokens"]), prompt + text)
        self.assertIsNone(lp["token_logprobs"][0])
        self.assertIsNone(lp["top_logprobs"][0])
        self.assertEqual(len(lp["tokens"]), n_prompt + 5)
        self.assertEqual(lp["tokens"][n_prompt:], drawn["tokens"])
        for a, b in zip(lp["token_logprobs"][n_prompt:], drawn["token_logprobs"]):
            self.assertAlmostEqual(a, b, delta=2e-3)  # prompt and decode run with other batch shapes
        self.assertEqual([list(t) for t in lp["top_logprobs"][n_prompt:]], [list(t) for t in drawn["top_logprobs"]])
        self.assertEqual(lp["text_offset"], [len("".join(lp["tokens"][:i])) for i in range(len(lp["tokens"]))])
        self.assertTrue(all(math.exp(x) <= 1.0001 for x in lp["token_logprobs"][1:]))

    def test_prompt_and_answer_stand_in_one_list(self):
        _, r = complete(max_tokens=3, echo=True, logprobs=0)
        lp = r["choices"][0]["logprobs"]
        self.assertEqual("".join(lp["tokens"]), r["choices"][0]["text"])
        self.assertEqual(len(lp["tokens"]), r["usage"]["prompt_tokens"] + 3)
        self.assertEqual(set(map(len, lp["top_logprobs"][1:])), {0})

    def test_a_long_prompt_of_several_passes_has_them_all(self):
        prompt = "one two three four five " * 60  # more than a batch of 128
        ids = ids_of(prompt)
        _, r = complete(prompt, max_tokens=1, echo=True, logprobs=1)
        self.assertEqual(len(r["choices"][0]["logprobs"]["tokens"]), len(ids) + 1)
        self.assertEqual("".join(r["choices"][0]["logprobs"]["tokens"]), r["choices"][0]["text"])

    def test_echo_with_logprobs_is_not_streamed(self):
        self.check_error(complete(echo=True, logprobs=1, stream=True), 400, "echo")


if __name__ == "__main__":
    unittest.main()

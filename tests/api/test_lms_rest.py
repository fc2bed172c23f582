"""LM Studio's REST interfaces: v0 with stats, v1 chat with its events and stateful threads."""
import json
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny("llama"))
server = None
CHAT = "/api/v1/chat"


def setUpModule():
    global server
    server = harness.Server(harness.tiny("llama"), ["--ctx", "1024", "--parallel", "2", "--cache-type", "f32", "--flash-attn", "off"])


def tearDownModule():
    server.stop()


def v0(**fields):
    return server.chat(path="/api/v0/chat/completions", **fields)


def ask(said="Hello", **fields):
    return server.post(CHAT, dict({"model": server.model, "input": said, "max_output_tokens": 8, "temperature": 0}, **fields))


def events(**fields):
    body = dict({"model": server.model, "input": "Hello", "max_output_tokens": 8, "temperature": 0}, **fields)
    _, data = server.stream(CHAT, body)
    out = []
    for block in data.decode().split("\n\n")[:-1]:
        name, line = block.split("\n")
        value = json.loads(line[len("data: "):])
        assert name == "event: " + value["type"], block
        out.append(value)
    return out


def count(*messages):
    roles = [{"role": r, "content": c} for r, c in messages]
    return server.post("/v1/tokenize", {"messages": roles})[1]["count"]


class V0(ApiTest):
    def check_rest(self, r, reason):
        stats = r["stats"]
        self.assertEqual(set(stats), {"tokens_per_second", "time_to_first_token", "generation_time", "stop_reason"})
        self.assertEqual(stats["stop_reason"], reason)
        self.assertEqual(r["model_info"], {"arch": "llama", "quant": "F32", "format": "gguf", "context_length": 1024})
        self.assertEqual(set(r["runtime"]), {"name", "version", "supported_formats"})
        self.assertTrue(r["runtime"]["name"].startswith("llama.cpp-"))
        self.assertGreater(stats["time_to_first_token"], 0)
        if r.get("usage"):
            behind_first = stats["generation_time"] - stats["time_to_first_token"]
            self.assertAlmostEqual(stats["tokens_per_second"] * behind_first, r["usage"]["completion_tokens"] - 1, delta=0.01)

    def test_a_chat_has_stats_that_fit_each_other(self):
        status, r = v0(max_tokens=8)
        self.assertEqual(status, 200, r)
        self.check_rest(r, "maxPredictedTokensReached")
        self.assertEqual(r["usage"]["completion_tokens_details"], {"reasoning_tokens": 0})
        message = r["choices"][0]["message"]
        self.assertEqual((message["reasoning_content"], message["tool_calls"]), ("", []))
        self.assertEqual(message["content"], server.chat(max_tokens=8)[1]["choices"][0]["message"]["content"])

    def test_every_reason_to_stop_is_told(self):
        eog = str(server.post("/v1/tokenize", {"text": "<|im_end|>", "add_special": False})[1]["tokens"][0])
        tool = {"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}}
        for fields, reason, finish in (
                ({"logit_bias": {eog: 100}}, "eosFound", "stop"),
                ({"stop": [v0(max_tokens=8)[1]["choices"][0]["message"]["content"][3:6]], "max_tokens": 8}, "stopStringFound", "stop"),
                ({"max_tokens": 1}, "maxPredictedTokensReached", "length"),
                ({"max_tokens": -1, "ignore_eos": True, "text": "word " * 180}, "contextLengthReached", "length"),
                ({"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 250}, "toolCalls",
                 "tool_calls")):
            status, r = v0(**fields)
            self.assertEqual(status, 200, r)
            self.assertEqual((r["stats"]["stop_reason"], r["choices"][0]["finish_reason"]), (reason, finish))

    def test_the_last_chunk_of_a_stream_has_them_too(self):
        chunks = server.sse("/api/v0/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4,
                                                         "temperature": 0, "stream_options": {"include_usage": True}})
        self.assertEqual([c for c in chunks if "stats" in c], [chunks[-2]])
        self.check_rest(dict(chunks[-2], usage=chunks[-1]["usage"]), "maxPredictedTokensReached")

    def test_completions(self):
        body = {"prompt": "One, two,", "max_tokens": 4, "temperature": 0}
        status, r = server.post("/api/v0/completions", body)
        self.assertEqual((status, r["object"]), (200, "text_completion"))
        self.check_rest(r, "maxPredictedTokensReached")
        self.assertEqual(r["choices"][0]["text"], server.post("/v1/completions", body)[1]["choices"][0]["text"])

    def test_hooks_are_taken_and_errors_named(self):
        hook = {"layer": 2, "component": "resid_post"}
        self.assertEqual(len(v0(activation_hooks=[hook])[1]["activations"]["resid_post.2"]), 4)
        body = {"prompt": "x", "max_tokens": 2, "activation_hooks": [hook]}
        self.assertIn("resid_post.2", server.post("/api/v0/completions", body)[1]["activations"])
        self.check_error(v0(model="nobody"), 404, "model", "model_not_found")
        self.check_error(v0(temperature=-1), 400, "temperature")


class V1(ApiTest):
    def check_refused(self, reply, status, param, code=None, kind="invalid_request"):
        got, body = reply
        self.assertEqual((got, set(body)), (status, {"error"}), body)
        error = body["error"]
        self.assertEqual((error["type"], error.get("param")), (kind, param), error)
        if code:
            self.assertEqual(error["code"], code, error)

    def test_the_reply_is_that_of_a_chat(self):
        status, r = ask()
        self.assertEqual(status, 200, r)
        _, chat = server.chat(max_tokens=8)
        self.assertEqual(r["output"], [{"type": "message", "content": chat["choices"][0]["message"]["content"]}])
        self.assertEqual(r["model_instance_id"], server.model)
        self.assertRegex(r["response_id"], "^resp_[0-9a-f]{48}$")
        s = r["stats"]
        self.assertEqual((s["input_tokens"], s["total_output_tokens"], s["reasoning_output_tokens"]),
                         (chat["usage"]["prompt_tokens"], 8, 0))
        self.assertEqual(s["stop_reason"], "maxPredictedTokensReached")
        self.assertAlmostEqual(s["tokens_per_second"] * (s["generation_time_seconds"] - s["time_to_first_token_seconds"]), 7,
                               delta=0.01)

    def test_both_names_of_text_are_taken(self):
        for kind in ("text", "message"):
            _, r = ask([{"type": kind, "content": "Hello"}])
            self.assertEqual(r["output"], ask()[1]["output"])

    def test_events_come_in_order_and_end_with_the_reply(self):
        got = events(input="Hello " * 60, cache_prompt=False)
        kinds = [e["type"] for e in got]
        self.assertEqual(kinds[:2], ["chat.start", "prompt_processing.start"])
        end = kinds.index("prompt_processing.end")
        self.assertEqual(set(kinds[2:end]), {"prompt_processing.progress"})
        progress = [e["progress"] for e in got[2:end]]
        self.assertEqual((progress, progress[-1]), (sorted(progress), 1))
        self.assertEqual(kinds[end + 1:], ["message.start"] + ["message.delta"] * 8 + ["message.end", "chat.end"])
        result = got[-1]["result"]
        whole = ask("Hello " * 60, cache_prompt=False)[1]
        self.assertEqual(result["output"], whole["output"])
        self.assertEqual("".join(e["content"] for e in got if e["type"] == "message.delta"), whole["output"][0]["content"])
        self.assertEqual(set(result), set(whole))

    def test_threads_go_on_and_branch(self):
        _, first = ask("Hello", system_prompt="Be brief.")
        said = first["output"][0]["content"]
        thread = [("system", "Be brief."), ("user", "Hello"), ("assistant", said), ("user", "And?")]
        _, a = ask("And?", previous_response_id=first["response_id"])
        self.assertEqual(a["stats"]["input_tokens"], count(*thread))
        _, b = ask("And?", previous_response_id=first["response_id"], system_prompt="Be kind, be kind.")
        self.assertEqual(b["stats"]["input_tokens"], count(("system", "Be kind, be kind."), *thread[1:]))
        self.assertNotEqual(a["response_id"], b["response_id"])
        streamed = events(previous_response_id=a["response_id"], input="So?")[-1]["result"]
        _, whole = ask("So?", previous_response_id=a["response_id"])
        self.assertEqual(streamed["output"], whole["output"])
        self.assertEqual(ask("x", previous_response_id=streamed["response_id"])[0], 200)

    def test_what_is_not_stored_has_no_id(self):
        self.assertNotIn("response_id", ask(store=False)[1])
        self.assertNotIn("response_id", events(store=False)[-1]["result"])

    def test_threads_are_shared_with_responses(self):
        _, r = ask("Hello")
        body = {"input": "And?", "max_output_tokens": 4, "previous_response_id": r["response_id"]}
        self.assertEqual(server.post("/v1/responses", body)[0], 200)
        self.check_error(server.get("/v1/responses/" + r["response_id"]), 404, "id")

    def test_hooks_are_taken(self):
        hook = {"layer": 2, "component": "resid_post", "positions": [-1]}
        _, r = ask(activation_hooks=[hook], cache_prompt=False)
        _, chat = server.activations([hook], max_tokens=8, cache_prompt=False)
        self.assertEqual(r["activations"]["resid_post.2"][0]["data"], chat["activations"]["resid_post.2"][0]["data"])
        self.assertEqual(sum(e["type"] == "activation" for e in events(activation_hooks=[hook], cache_prompt=False)), 1)

    def test_context_length_bounds_the_request(self):
        n = count(("user", "Hello"))
        _, r = ask(context_length=n + 3)
        self.assertEqual(r["stats"]["total_output_tokens"], 3)
        self.check_refused(ask(context_length=n), 400, "input", "context_length_exceeded")
        self.check_refused(ask(context_length=5000), 400, "context_length")

    def test_each_wrong_field_is_named(self):
        for fields, param, code in (
                ({"model": None}, "model", "missing_required_parameter"),
                ({"input": None}, "input", "missing_required_parameter"), ({"input": 5}, "input", None),
                ({"input": []}, "input", None), ({"input": [{"type": "image", "data_url": "x"}]}, "input[0].type", None),
                ({"input": [{"type": "text"}]}, "input[0].text", "missing_required_parameter"),
                ({"nonsense": 1}, "nonsense", None), ({"messages": []}, "messages", None), ({"temperature": 1.1}, "temperature", None),
                ({"top_p": -1}, "top_p", None), ({"top_k": "x"}, "top_k", None), ({"max_output_tokens": 0}, "max_output_tokens", None),
                ({"reasoning": "high"}, "reasoning", None), ({"reasoning": "x"}, "reasoning", None),
                ({"integrations": ["mcp/x"]}, "integrations", None), ({"store": "x"}, "store", None),
                ({"previous_response_id": "x"}, "previous_response_id", None),
                ({"previous_response_id": "resp_0"}, "previous_response_id", "previous_response_not_found")):
            with self.subTest(fields=fields):
                body = dict({"model": server.model, "input": "x", "max_output_tokens": 4}, **fields)
                self.check_refused(server.post(CHAT, body), 400, param, code)
        self.check_refused(ask(model="nobody"), 404, "model", "model_not_found", "model_not_found")
        self.check_refused(ask("word " * 3000), 400, "input", "context_length_exceeded")
        self.assertEqual(ask(reasoning="off", integrations=[])[0], 200)


if __name__ == "__main__":
    unittest.main()

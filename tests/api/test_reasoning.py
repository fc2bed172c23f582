"""Reasoning on every family: a model whose template opens the answer with <think>.  SmolLM2 never closes it, so that all it
says is reasoning; with reasoning switched off nothing of it is.  And calls on every family where the template knows tools."""
import json
import os
import tempfile
import unittest

import harness
from harness import ApiTest
from test_tools import HERMES, with_template

harness.need(harness.MODEL)
server = caller = folder = None
TEMPLATE = ("{%- for m in messages %}"
            "{%- if m.role == 'assistant' and m.reasoning_content %}"
            "{{ '<|im_start|>assistant\\n<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' + m.content + '<|im_end|>\\n' }}"
            "{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
            "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
            "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}"
            "{%- else %}{{ '<think>\\n' }}{%- endif %}{%- endif %}")
HELLO = [{"role": "user", "content": "Hello"}]


def setUpModule():
    global server, caller, folder
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "thinks.gguf")
    with_template(harness.MODEL, path, TEMPLATE)
    server = harness.Server(path, ["--ctx", "256", "--parallel", "1"])
    path = os.path.join(folder.name, "calls.gguf")
    with_template(harness.MODEL, path, HERMES)
    caller = harness.Server(path, ["--ctx", "512", "--parallel", "1"])


def tearDownModule():
    caller.stop()
    server.stop()
    folder.cleanup()


def events(path, body, of=None):
    _, data = (of or server).stream(path, body)
    return [json.loads(block.split("\ndata: ")[1]) for block in data.decode().split("\n\n")[:-1]]


class Reasoning(ApiTest):
    def test_chats(self):
        for path in ("/v1/chat/completions", "/api/v0/chat/completions"):
            _, r = server.chat(path=path, max_tokens=8, ignore_eos=True)
            message = r["choices"][0]["message"]
            self.assertEqual(message["content"], "")
            self.assertTrue(message["reasoning_content"])
            self.assertEqual(r["usage"]["completion_tokens_details"]["reasoning_tokens"], 8)
            chunks = server.sse(path, {"messages": HELLO, "max_tokens": 8, "temperature": 0, "ignore_eos": True})
            said = "".join(c["choices"][0]["delta"].get("reasoning_content", "") for c in chunks if c["choices"])
            self.assertEqual(said, message["reasoning_content"])
            for off in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}):
                _, r = server.chat(path=path, max_tokens=8, ignore_eos=True, **off)
                self.assertTrue(r["choices"][0]["message"]["content"])
                self.assertFalse(r["choices"][0]["message"].get("reasoning_content"))
            self.assertEqual(server.chat(path=path, max_tokens=8, reasoning_effort="high")[0], 200)

    def test_responses(self):
        body = {"input": "Hello", "max_output_tokens": 8, "temperature": 0, "ignore_eos": True}
        _, r = server.post("/v1/responses", body)
        item, = r["output"]
        self.assertEqual((item["type"], item["content"][0]["type"]), ("reasoning", "reasoning_text"))
        self.assertEqual(r["usage"]["output_tokens_details"]["reasoning_tokens"], 8)
        got = events("/v1/responses", body)
        text = "".join(e["delta"] for e in got if e["type"] == "response.reasoning_text.delta")
        self.assertEqual((text, got[-1]["response"]["output"][0]["content"]), (item["content"][0]["text"], item["content"]))
        _, next_one = server.post("/v1/responses", dict(body, previous_response_id=r["id"], input="And?"))
        self.assertEqual(next_one["object"], "response", next_one)
        _, same = server.post("/v1/responses", dict(body, input=[HELLO[0], item, {"role": "user", "content": "And?"}]))
        self.assertEqual(same["usage"]["input_tokens"], next_one["usage"]["input_tokens"])
        _, r = server.post("/v1/responses", dict(body, reasoning={"effort": "none"}))
        self.assertEqual([i["type"] for i in r["output"]], ["message"])
        self.check_error(server.post("/v1/responses", dict(body, include=["message.output_text.logprobs"])), 400, "include")

    def test_messages(self):
        body = {"messages": HELLO, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        _, r = server.post("/v1/messages", body)
        block, = r["content"]
        self.assertEqual((block["type"], r["stop_reason"]), ("thinking", "max_tokens"))
        got = events("/v1/messages", body)
        self.assertEqual("".join(e["delta"]["thinking"] for e in got if e["type"] == "content_block_delta"), block["thinking"])
        history = HELLO + [{"role": "assistant", "content": [block, {"type": "text", "text": "Hi"}]}, {"role": "user", "content": "And?"}]
        self.assertEqual(server.post("/v1/messages", dict(body, messages=history))[0], 200)
        _, r = server.post("/v1/messages", dict(body, thinking={"type": "disabled"}))
        self.assertEqual([b["type"] for b in r["content"]], ["text"])
        begun = HELLO + [{"role": "assistant", "content": "Hi"}]
        status, r = server.post("/v1/messages", dict(body, messages=begun))
        self.assertEqual((status, r["error"]["param"]), (400, "messages"), r)

    def test_lm_studio(self):
        body = {"model": server.model, "input": "Hello", "max_output_tokens": 8, "temperature": 0, "ignore_eos": True}
        for on in ({}, {"reasoning": "on"}, {"reasoning": "low"}):
            _, r = server.post("/api/v1/chat", dict(body, **on))
            self.assertEqual([o["type"] for o in r["output"]], ["reasoning"])
            self.assertEqual(r["stats"]["reasoning_output_tokens"], 8)
        got = events("/api/v1/chat", body)
        kinds = [e["type"] for e in got if e["type"].startswith(("reasoning", "message"))]
        self.assertEqual((kinds[0], kinds[-1]), ("reasoning.start", "reasoning.end"))
        self.assertEqual("".join(e["content"] for e in got if e["type"] == "reasoning.delta"), got[-1]["result"]["output"][0]["content"])
        _, r = server.post("/api/v1/chat", dict(body, reasoning="off"))
        self.assertEqual([o["type"] for o in r["output"]], ["message"])


class Calls(ApiTest):
    SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}

    def test_a_demanded_call_is_the_same_on_every_family(self):
        function = {"name": "weather", "parameters": self.SCHEMA}
        _, r = caller.chat(max_tokens=60, tools=[{"type": "function", "function": function}], tool_choice="required",
                           parallel_tool_calls=False)
        want = json.loads(r["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
        body = {"input": "Hello", "max_output_tokens": 60, "temperature": 0, "tools": [dict(function, type="function")],
                "tool_choice": "required", "parallel_tool_calls": False}
        _, r = caller.post("/v1/responses", body)
        self.assertEqual([(i["type"], json.loads(i["arguments"])) for i in r["output"]], [("function_call", want)])
        got = events("/v1/responses", body, caller)
        self.assertEqual(json.loads("".join(e["delta"] for e in got if e["type"].endswith("arguments.delta"))), want)
        self.assertEqual(got[-1]["response"]["output"][0]["arguments"], r["output"][0]["arguments"])
        body = {"messages": HELLO, "max_tokens": 60, "temperature": 0, "tools": [{"name": "weather", "input_schema": self.SCHEMA}],
                "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
        _, r = caller.post("/v1/messages", body)
        self.assertEqual([(b["type"], b["input"]) for b in r["content"]], [("tool_use", want)])
        got = events("/v1/messages", body, caller)
        self.assertEqual(json.loads("".join(e["delta"]["partial_json"] for e in got if e["type"] == "content_block_delta")), want)
        self.assertEqual(got[-2]["delta"]["stop_reason"], "tool_use")


if __name__ == "__main__":
    unittest.main()

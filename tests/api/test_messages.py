"""Anthropic's messages: blocks in, blocks out, events, tools, stop sequences, counting, and what is refused."""
import json
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny("llama"))
server = None
PATH = "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "get_weather", "description": "weather of a city", "input_schema": {
    "type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}}
ONE = {"type": "any", "disable_parallel_tool_use": True}


def setUpModule():
    global server
    server = harness.Server(harness.tiny("llama"), ["--ctx", "2048", "--parallel", "2", "--cache-type", "f32", "--flash-attn", "off"])


def tearDownModule():
    server.stop()


def ask(messages=HELLO, **fields):
    return server.post(PATH, dict({"messages": messages, "max_tokens": 8, "temperature": 0}, **fields))


def events(messages=HELLO, **fields):
    _, data = server.stream(PATH, dict({"messages": messages, "max_tokens": 8, "temperature": 0}, **fields))
    out = []
    for block in data.decode().split("\n\n")[:-1]:
        name, line = block.split("\n")
        value = json.loads(line[len("data: "):])
        assert name == "event: " + value["type"], block
        out.append(value)
    return out


class Whole(ApiTest):
    def check_refused(self, reply, status, param, kind="invalid_request_error"):
        got, body = reply
        self.assertEqual((got, body["type"], body["error"]["type"]), (status, "error", kind), body)
        self.assertTrue(body["error"]["message"])
        self.assertEqual(body["error"]["param"], param, body)

    def test_the_message_is_that_of_a_chat(self):
        status, r = ask()
        self.assertEqual(status, 200, r)
        _, chat = server.chat(max_tokens=8)
        self.assertEqual((r["type"], r["role"], r["model"]), ("message", "assistant", server.model))
        self.assertTrue(r["id"].startswith("msg_"))
        self.assertEqual(r["content"], [{"type": "text", "text": chat["choices"][0]["message"]["content"]}])
        self.assertEqual((r["stop_reason"], r["stop_sequence"]), ("max_tokens", None))
        u = r["usage"]
        self.assertEqual(u["input_tokens"] + u["cache_read_input_tokens"], chat["usage"]["prompt_tokens"])
        self.assertEqual((u["output_tokens"], u["cache_creation_input_tokens"]), (8, 0))

    def test_system_blocks_and_roles_are_taken(self):
        want = server.post("/v1/tokenize", {"messages": [{"role": "system", "content": "Be\nbrief."}] + HELLO})[1]["count"]
        for system in ("Be\nbrief.", [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
                                      {"type": "text", "text": "brief."}]):
            self.assertEqual(server.post(PATH + "/count_tokens", {"messages": HELLO, "system": system}),
                             (200, {"input_tokens": want}))
        inside = [{"role": "system", "content": "Be\nbrief."}, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        self.assertEqual(server.post(PATH + "/count_tokens", {"messages": inside}), (200, {"input_tokens": want}))

    def test_a_last_message_of_the_assistant_begins_the_answer(self):
        whole = ask()[1]["content"][0]["text"]
        begun = whole[:3]  # a token a byte
        for content in (begun, [{"type": "text", "text": begun}]):
            _, r = ask(HELLO + [{"role": "assistant", "content": content}], max_tokens=5)
            self.assertEqual(begun + r["content"][0]["text"], whole)
        n = server.post(PATH + "/count_tokens", {"messages": HELLO})[1]["input_tokens"]
        more = server.post(PATH + "/count_tokens", {"messages": HELLO + [{"role": "assistant", "content": begun}]})[1]["input_tokens"]
        self.assertEqual(more, n + 3)

    def test_a_stop_sequence_ends_it_and_is_told(self):
        text = ask()[1]["content"][0]["text"]
        stop = text[5:7]
        _, r = ask(stop_sequences=["never said", stop])
        self.assertEqual((r["stop_reason"], r["stop_sequence"]), ("stop_sequence", stop))
        self.assertEqual(r["content"][0]["text"], text[:text.index(stop)])
        last = events(stop_sequences=[stop])[-2]
        self.assertEqual(last["delta"], {"stop_reason": "stop_sequence", "stop_sequence": stop})

    def test_the_end_of_a_turn(self):
        eog = server.post("/v1/tokenize", {"text": "<|im_end|>", "add_special": False})[1]["tokens"][0]
        _, r = ask(logit_bias={str(eog): 100})
        self.assertEqual((r["stop_reason"], r["content"]), ("end_turn", []))

    def test_hooks_are_taken(self):
        hook = {"layer": 2, "component": "resid_post", "positions": [-1]}
        _, r = ask(activation_hooks=[hook], cache_prompt=False)
        _, chat = server.activations([hook], max_tokens=8, cache_prompt=False)
        self.assertEqual(r["activations"]["resid_post.2"][0]["data"], chat["activations"]["resid_post.2"][0]["data"])
        got = [e for e in events(activation_hooks=[hook], cache_prompt=False) if e["type"] == "activation"]
        self.assertEqual([e["entry"]["data"] for e in got], [r["activations"]["resid_post.2"][0]["data"]])
        _, changed = ask(interventions=[{"layer": 1, "component": "resid_post", "op": "scale", "strength": 0.1}])
        self.assertNotEqual(changed["content"], r["content"])

    def test_each_wrong_field_is_named(self):
        user = {"role": "user"}
        for fields, param in (
                ({"max_tokens": None}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "x"}, "max_tokens"),
                ({"messages": None}, "messages"), ({"messages": []}, "messages"), ({"messages": "x"}, "messages"),
                ({"messages": [dict(user, role="robot", content="x")]}, "messages[0].role"),
                ({"messages": [user]}, "messages[0].content"), ({"messages": [dict(user, content=[])]}, "messages[0].content"),
                ({"messages": [dict(user, content=[{"type": "image", "source": {}}])]}, "messages[0].content[0].type"),
                ({"messages": [dict(user, content=[{"type": "tool_result"}])]}, "messages[0].content[0].tool_use_id"),
                ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b"}]}]},
                 "messages[0].content[0].input"),
                ({"temperature": 1.5}, "temperature"), ({"temperature": -1}, "temperature"), ({"top_p": "x"}, "top_p"),
                ({"top_k": "x"}, "top_k"), ({"stop_sequences": "x"}, "stop_sequences"),
                ({"stop_sequences": [5]}, "stop_sequences[0]"), ({"stream": "yes"}, "stream"), ({"system": 5}, "system"),
                ({"tools": {}}, "tools"), ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
                ({"tools": [dict(TOOL, name="a b")]}, "tools[0].name"),
                ({"tools": [dict(TOOL, type="computer_20250124")]}, "tools[0].type"),
                ({"tools": [dict(TOOL, input_schema={"type": "object", "properties": {
                    "a": {"type": "string", "minLength": 10**9}}})]}, "tools[0].input_schema.properties.a.minLength"),
                ({"tool_choice": {"type": "any"}}, "tool_choice"), ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
                ({"tools": [TOOL], "tool_choice": {"type": "x"}}, "tool_choice.type"),
                ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
                ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
                ({"thinking": {"type": "x"}}, "thinking.type"), ({"metadata": 5}, "metadata")):
            with self.subTest(fields=fields):
                body = dict({"messages": HELLO, "max_tokens": 4}, **fields)
                self.check_refused(server.post(PATH, body), 400, param)
        self.check_refused(server.post(PATH + "/count_tokens", {"messages": HELLO, "stop_sequences": 5}), 400, "stop_sequences")
        self.check_refused(ask(model="nobody"), 404, "model", "not_found_error")
        self.check_refused(ask([{"role": "user", "content": "word " * 3000}]), 400, "messages")
        self.check_refused(server.call("POST", PATH + "/count_tokens", {"messages": []}), 400, "messages")
        self.check_refused(ask(activation_hooks=[{"layer": 99, "component": "resid_post"}]), 400, "activation_hooks[0].layer")
        status, _, body = server.raw("POST", PATH, b"{", {"Content-Type": "application/json"})
        self.assertEqual((status, json.loads(body)["type"]), (400, "error"))


class Tools(ApiTest):
    def test_a_demanded_call_is_a_block(self):
        for choice in (ONE, {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}):
            _, r = ask(tools=[TOOL], tool_choice=choice, max_tokens=250)
            use, = r["content"]
            self.assertEqual((use["type"], use["name"], r["stop_reason"]), ("tool_use", "get_weather", "tool_use"))
            self.assertIn("city", use["input"])
        history = HELLO + [{"role": "assistant", "content": r["content"]}, {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": "rain"}]},
            {"type": "text", "text": "And?"}]}]
        same = HELLO + [{"role": "assistant", "content": None, "tool_calls": [{
            "id": use["id"], "type": "function", "function": {"name": use["name"], "arguments": json.dumps(
                use["input"], separators=(",", ":"))}}]},
            {"role": "tool", "tool_call_id": use["id"], "content": "rain"}, {"role": "user", "content": "And?"}]
        want = server.post("/v1/tokenize", {"messages": same})[1]["count"]
        self.assertEqual(server.post(PATH + "/count_tokens", {"messages": history}), (200, {"input_tokens": want}))
        self.assertEqual(ask(history, tools=[TOOL])[0], 200)

    def test_schemas_as_clients_send_them_are_taken(self):
        properties = {"url": {"type": "string", "format": "uri"}, "n": {"type": "number", "exclusiveMinimum": 0},
                      "text": {"type": "string", "maxLength": 100000}, "any": {}, "env": {
                          "type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "string"}},
                      "list": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 10000, "uniqueItems": True}}
        schema = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": properties,
                  "required": list(properties), "additionalProperties": False}
        status, r = ask(tools=[{"name": "f", "input_schema": schema}], max_tokens=2)
        self.assertEqual(status, 200, r)

    def test_none_forbids_calls(self):
        _, r = ask(tools=[TOOL], tool_choice={"type": "none"})
        self.assertEqual([b["type"] for b in r["content"]], ["text"])

    def test_calls_grow_in_a_stream(self):
        got = events(tools=[TOOL], tool_choice=ONE, max_tokens=250)
        start = next(e for e in got if e["type"] == "content_block_start")
        self.assertEqual((start["content_block"]["type"], start["content_block"]["input"]), ("tool_use", {}))
        args = "".join(e["delta"]["partial_json"] for e in got if e["type"] == "content_block_delta")
        self.assertIn("city", json.loads(args))
        self.assertEqual(got[-2]["delta"]["stop_reason"], "tool_use")


class Streams(ApiTest):
    def test_events_come_in_order_and_say_the_same(self):
        got = events()
        kinds = [e["type"] for e in got]
        self.assertEqual(kinds, ["message_start", "ping", "content_block_start"] + ["content_block_delta"] * 8
                         + ["content_block_stop", "message_delta", "message_stop"])
        text = "".join(e["delta"]["text"] for e in got if e["type"] == "content_block_delta")
        self.assertEqual(text, ask()[1]["content"][0]["text"])
        self.assertEqual(got[-2]["usage"]["output_tokens"], 8)
        self.assertEqual(got[0]["message"]["content"], [])


if __name__ == "__main__":
    unittest.main()

"""Tools: none, auto, required and named; parallel calls; histories with calls and results; streams.  Once with a model
whose template knows no tools (our own form), and once with one that does (llama.cpp's parsers)."""
import json
import os
import struct
import tempfile
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL)
CHAT = "/v1/chat/completions"
servers = {}
folder = None

HERMES = """{%- if tools %}<|im_start|>system
You may call functions:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Answer with <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif %}{%- for message in messages %}{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == "assistant" %}<|im_start|>assistant
{{ message.content }}{% for tool_call in message.tool_calls %}
<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["C", "F"]}}}}}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {
    "type": "object", "required": ["zone"], "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}}}}}
NOW = {"type": "function", "function": {"name": "now"}}

# The same, whose prompts end within the reasoning: always, or unless it is switched off.
THINKS = HERMES.replace("""<|im_start|>assistant
{{ message.content }}""", """<|im_start|>assistant
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}""").replace("""<|im_start|>assistant
{% endif %}""", """<|im_start|>assistant
<think>
{% endif %}""")
MAY_THINK = THINKS.replace("""<think>
{% endif %}""", """<think>
{% if enable_thinking is defined and enable_thinking is false %}
</think>

{% endif %}{% endif %}""")


def with_template(source, target, template):
    """A copy of a GGUF file with another chat template."""
    with open(source, "rb") as f:
        data = f.read()
    at = 24
    n_tensors, n_kv = struct.unpack_from("<QQ", data, 8)
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def skip(kind, at):
        if kind == 8:
            return at + 8 + struct.unpack_from("<Q", data, at)[0]
        if kind == 9:
            of, n = struct.unpack_from("<IQ", data, at)
            at += 12
            if of in sizes:
                return at + n * sizes[of]
            for _ in range(n):
                at = skip(of, at)
            return at
        return at + sizes[kind]

    pairs, found = b"", False
    for _ in range(n_kv):
        begin = at
        n = struct.unpack_from("<Q", data, at)[0]
        key = data[at + 8:at + 8 + n]
        kind = struct.unpack_from("<I", data, at + 8 + n)[0]
        value = at + 12 + n
        at = skip(kind, value)
        if key == b"tokenizer.chat_template":
            text, found = template.encode(), True
            pairs += data[begin:value] + struct.pack("<Q", len(text)) + text
        else:
            pairs += data[begin:at]
    assert found
    infos = at
    for _ in range(n_tensors):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 12
    head = data[:24] + pairs + data[infos:at]
    with open(target, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32) + data[at + (-at % 32):])


def setUpModule():
    global folder
    folder = tempfile.TemporaryDirectory(prefix="glia-tools-")
    native = os.path.join(folder.name, "native.gguf")
    with_template(harness.MODEL, native, HERMES)
    for name, model in (("own", harness.MODEL), ("native", native)):
        servers[name] = harness.Server(model=model, args=["--ctx", "1024", "--parallel", "2"])


def tearDownModule():
    for s in servers.values():
        s.stop()
    folder.cleanup()


class Tools(ApiTest):
    def each(self):
        return servers.values()

    def ask(self, s, text="What is the weather in Paris?", **fields):
        body = dict({"messages": [{"role": "user", "content": text}], "max_tokens": 80, "temperature": 0,
                     "tools": [WEATHER, TIME, NOW]}, **fields)
        status, r = s.post(CHAT, body)
        self.assertEqual(status, 200, r)
        return r["choices"]

    def check_call(self, call, names=("get_weather", "get_time", "now")):
        self.assertEqual(call["type"], "function")
        self.assertTrue(call["id"].startswith("call_"), call)
        self.assertIn(call["function"]["name"], names)
        args = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "get_weather":
            self.assertLessEqual(len(args["city"]), 12)
            self.assertIn(args.get("unit", "C"), "CF")
        elif call["function"]["name"] == "get_time":
            self.assertIn(args["zone"], range(-12, 13))
        return args

    def test_required_is_enforced(self):
        for s in self.each():
            for choice in self.ask(s, tool_choice="required", parallel_tool_calls=False, n=3, temperature=1.3, seed=3):
                self.assertEqual(choice["finish_reason"], "tool_calls", choice)
                self.assertIsNone(choice["message"]["content"])
                call, = choice["message"]["tool_calls"]
                self.check_call(call)

    def test_required_is_enforced_on_a_model_that_would_not(self):
        """Random weights and tokens of one byte each: what the grammar allows comes, an empty answer too."""
        for name, template in (("plain", HERMES), ("thinks", THINKS), ("may think", MAY_THINK)):
            path = os.path.join(folder.name, "random.gguf")
            with_template(harness.tiny(), path, template)
            s = harness.Server(path, ["--ctx", "2048", "--parallel", "1"])
            try:
                for seed in range(6):
                    with self.subTest(template=name, seed=seed):
                        choice, = self.ask(s, tools=[NOW, TIME], tool_choice="required", parallel_tool_calls=False,
                                           temperature=1.5, seed=seed, max_tokens=900)
                        self.assertEqual(choice["finish_reason"], "tool_calls", choice)
                        self.assertFalse(choice["message"].get("reasoning_content"))
                        call, = choice["message"]["tool_calls"]
                        self.check_call(call, ("now", "get_time"))
                _, r = s.post("/v1/tokenize", {"messages": [{"role": "user", "content": "x"}], "tools": [NOW]})
                self.assertEqual(r["prompt"].endswith("<think>\n"), name != "plain", r["prompt"])  # auto may think
            finally:
                s.stop()

    def test_a_named_function_is_the_one(self):
        for s in self.each():
            for name in ("get_time", "now"):
                choice, = self.ask(s, tool_choice={"type": "function", "function": {"name": name}}, parallel_tool_calls=False)
                call, = choice["message"]["tool_calls"]
                self.check_call(call, (name,))

    def test_none_and_auto_may_speak(self):
        for s in self.each():
            for mode in ("none", "auto"):
                choice, = self.ask(s, "Say hello.", tool_choice=mode, max_tokens=12)
                self.assertIsInstance(choice["message"]["content"], str)
                self.assertNotIn("<tool_call>", choice["message"]["content"])
            choice, = self.ask(s, "Say hello.", tool_choice="none", max_tokens=12)
            self.assertNotIn("tool_calls", choice["message"])

    def test_auto_holds_to_the_grammar_once_a_call_begins(self):
        less_than = servers["own"].post("/v1/tokenize", {"text": "<", "add_special": False})[1]["tokens"][0]
        for s in self.each():
            messages = [{"role": "user", "content": "Weather in Paris?"}, {"role": "assistant", "content": "I look: "},
                        {"role": "user", "content": "Repeat exactly: <tool_call>\n{\"name\": \"get_weather\"}"}]
            status, r = s.post(CHAT, {"messages": messages, "max_tokens": 90, "temperature": 0, "tools": [WEATHER],
                                      "parallel_tool_calls": False, "logit_bias": {str(less_than): 3}})
            self.assertEqual(status, 200, r)
            message = r["choices"][0]["message"]
            for call in message.get("tool_calls", []):
                if r["choices"][0]["finish_reason"] == "tool_calls":
                    self.check_call(call)

    def test_streams_say_the_same(self):
        for s in self.each():
            body = {"messages": [{"role": "user", "content": "Weather in Rome?"}], "max_tokens": 80, "temperature": 0,
                    "tools": [WEATHER, TIME], "tool_choice": "required", "parallel_tool_calls": False,
                    "cache_prompt": False}  # in one piece both times: near ties fall the same way
            _, whole = s.post(CHAT, body)
            want, = whole["choices"][0]["message"]["tool_calls"]
            name, args, finish, pieces = None, "", None, 0
            for chunk in s.sse(CHAT, body):
                delta = chunk["choices"][0]["delta"]
                self.assertFalse(delta.get("content"))
                for call in delta.get("tool_calls", []):
                    self.assertEqual(call["index"], 0)
                    pieces += 1
                    if "name" in call["function"]:
                        self.assertIsNone(name)
                        name = call["function"]["name"]
                        self.assertTrue(call["id"].startswith("call_"))
                    args += call["function"]["arguments"]
                finish = chunk["choices"][0]["finish_reason"] or finish
            self.assertEqual((name, json.loads(args), finish),
                             (want["function"]["name"], json.loads(want["function"]["arguments"]), "tool_calls"))
            self.assertGreater(pieces, 1)

    def test_histories_reach_the_model(self):
        call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"},
                    {"role": "assistant", "content": None, "tool_calls": [call, dict(call, id="call_2")]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "rain, 7 C"},
                    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "snow"}]}]
        for s in self.each():
            _, r = s.post("/v1/tokenize", {"messages": messages, "tools": [WEATHER]})
            for words in ("rain, 7 C", "snow", "Oslo", "get_weather", "Weather of a city", "Be brief."):
                self.assertIn(words, r["prompt"])
            status, r = s.post(CHAT, {"messages": messages, "tools": [WEATHER], "max_tokens": 5})
            self.assertEqual(status, 200, r)

    def test_parallel_calls_are_several(self):
        choice, = self.ask(servers["own"], tool_choice="required", max_tokens=150, temperature=1, seed=5)
        for call in choice["message"]["tool_calls"][:-1]:
            self.check_call(call)
        self.assertEqual(len({c["id"] for c in choice["message"]["tool_calls"]}), len(choice["message"]["tool_calls"]))

    def test_activations_come_beside_calls(self):
        s = servers["own"]
        status, r = s.activations([{"layer": 2, "component": "resid_post", "positions": "last"}], tools=[NOW],
                                  tool_choice="required", parallel_tool_calls=False, max_tokens=60)
        self.assertEqual(status, 200, r)
        self.assertEqual(r["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "now")
        self.assertIn("resid_post.2", r["activations"])

    def test_wrong_tools_are_named(self):
        s = servers["own"]

        def tool(**f):
            return {"type": "function", "function": dict({"name": "f"}, **f)}
        at = "tools[0].function"
        for tools, param in (
                ("x", "tools"), ([5], "tools[0]"), ([{}], "tools[0].type"), ([{"type": "web"}], "tools[0].type"),
                ([{"type": "function"}], at), ([tool(name="")], at + ".name"), ([tool(name="a b")], at + ".name"),
                ([tool(name=5)], at + ".name"), ([tool(name="x" * 65)], at + ".name"), ([tool(description=5)], at + ".description"),
                ([tool(parameters=[])], at + ".parameters"), ([tool(strict="x")], at + ".strict"),
                ([tool(parameters={"type": "strange"})], at + ".parameters.type"),
                ([tool(parameters={"type": "object", "properties": {"s": {"type": "string", "minLength": 10 ** 9}}})],
                 at + ".parameters.properties.s.minLength"),
                ([tool(strict=True, parameters={"type": "object", "properties": {"s": {"type": "array", "maxItems": 10 ** 9}}})],
                 at + ".parameters.properties.s.maxItems"),
                ([tool(strict=True, parameters={"properties": {"s": {"not": {}}}})], at + ".parameters.properties.s.not"),
                ([tool(parameters={"properties": {"p%d" % i: {} for i in range(300)}})], at + ".parameters"),
                ([NOW] * 129, "tools")):
            with self.subTest(tools=str(tools)[:90]):
                self.check_error(s.chat(tools=tools), 400, param)
        for choice, param in (("sometimes", "tool_choice"), (5, "tool_choice"), ({"type": "function"}, "tool_choice.function"),
                              ({"type": "function", "function": {"name": "other"}}, "tool_choice")):
            self.check_error(s.chat(tools=[NOW], tool_choice=choice), 400, param)
        self.check_error(s.chat(tool_choice="required"), 400, "tool_choice")
        self.check_error(s.chat(tools=[NOW], parallel_tool_calls="x"), 400, "parallel_tool_calls")
        self.check_error(s.chat(tools=[NOW], response_format={"type": "json_object"}), 400, "tools")
        self.check_error(s.post("/v1/completions", {"prompt": "x", "tools": [NOW]}), 400, "tools")
        self.assertEqual(s.chat(tools=[tool(parameters={"properties": {"s": {"not": {}, "format": "uri"}}})], max_tokens=1)[0], 200)
        for calls, param in (([5], "[0]"), ([{"type": "x"}], "[0].type"), ([{}], "[0].function"),
                             ([{"function": {}}], "[0].function.name"),
                             ([{"function": {"name": "f", "arguments": "{"}}], "[0].function.arguments"), ("x", "")):
            self.check_error(s.post(CHAT, {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": calls}]}),
                             400, "messages[1].tool_calls" + param)


if __name__ == "__main__":
    unittest.main()

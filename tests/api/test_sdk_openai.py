"""OpenAI's own clients, unmodified: Python (pinned in requirements.txt) and JavaScript (js/package-lock.json)."""
import json
import os
import shutil
import subprocess
import unittest

import harness

harness.need(harness.MODEL)
harness.need_sdk("openai", "pydantic")
import openai  # noqa: E402
import pydantic  # noqa: E402

server = client = None
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=10)
    age: int = pydantic.Field(ge=0, le=120)


def setUpModule():
    global server, client
    server = harness.Server(args=["--ctx", "1024", "--parallel", "2"])
    client = openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % server.port, api_key="none", max_retries=0)


def tearDownModule():
    client.close()
    server.stop()


class Python(unittest.TestCase):
    def chat(self, **fields):
        return client.chat.completions.create(**dict({"model": server.model, "messages": HELLO, "max_tokens": 8,
                                                      "temperature": 0}, **fields))

    def test_models(self):
        self.assertEqual([m.id for m in client.models.list()], [server.model])
        self.assertEqual(client.models.retrieve(server.model).id, server.model)
        with self.assertRaises(openai.NotFoundError) as e:
            client.models.retrieve("nobody")
        self.assertEqual(e.exception.code, "model_not_found")

    def test_chat_whole_and_streamed(self):
        r = self.chat(n=2, logprobs=True, top_logprobs=3)
        self.assertEqual(len(r.choices), 2)
        self.assertEqual("".join(t.token for t in r.choices[0].logprobs.content), r.choices[0].message.content)
        self.assertEqual(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens)
        with self.chat(stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, r.choices[0].message.content)
        self.assertEqual(chunks[-1].usage.completion_tokens, 8)

    def test_completions(self):
        r = client.completions.create(model=server.model, prompt=["One, two,", "A, B,"], max_tokens=4, temperature=0, echo=True,
                                      logprobs=1)
        self.assertEqual([c.text[:6] for c in r.choices], ["One, t", "A, B, "])
        self.assertIsNone(r.choices[0].logprobs.token_logprobs[0])

    def test_structured_output_is_parsed(self):
        r = client.chat.completions.parse(model=server.model, messages=[{"role": "user", "content": "Ann is 31."}],
                                          response_format=Person, max_tokens=80, temperature=0)
        self.assertIsInstance(r.choices[0].message.parsed, Person)

    def test_tools(self):
        r = self.chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=60)
        call, = r.choices[0].message.tool_calls
        self.assertEqual((call.function.name, r.choices[0].finish_reason), ("get_weather", "tool_calls"))
        self.assertIn("city", json.loads(call.function.arguments))
        history = HELLO + [r.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        self.assertEqual(self.chat(messages=history, tools=[TOOL]).object, "chat.completion")
        with client.chat.completions.stream(model=server.model, messages=HELLO, tools=[TOOL], tool_choice="required",
                                            parallel_tool_calls=False, max_tokens=60, temperature=0) as stream:
            for _ in stream:
                pass
            again, = stream.get_final_completion().choices[0].message.tool_calls
        self.assertEqual(json.loads(again.function.arguments), json.loads(call.function.arguments))

    def test_errors_name_the_field(self):
        for fields, param in (({"temperature": -1}, "temperature"), ({"top_logprobs": 1000, "logprobs": True}, "top_logprobs"),
                              ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role")):
            with self.assertRaises(openai.BadRequestError) as e:
                self.chat(**fields)
            self.assertEqual(e.exception.param, param)
        with self.assertRaises(openai.NotFoundError):
            self.chat(model="nobody")

    def test_activations_through_extra_body(self):
        r = self.chat(extra_body={"activation_hooks": [{"layer": 3, "component": "resid_post"}]})
        self.assertIn("resid_post.3", r.model_extra["activations"])


SCRIPT = """
const OpenAI = require("openai").default;
const client = new OpenAI({baseURL: process.argv[2], apiKey: "none", maxRetries: 0});
const ask = {model: process.argv[3], messages: [{role: "user", content: "Hello"}], max_tokens: 8, temperature: 0};
(async () => {
  const out = {models: (await client.models.list()).data.map(m => m.id)};
  out.text = (await client.chat.completions.create(ask)).choices[0].message.content;
  out.streamed = "";
  for await (const c of await client.chat.completions.create({...ask, stream: true, stream_options: {include_usage: true}})) {
    out.streamed += c.choices[0]?.delta?.content || "";
    out.usage = c.usage;
  }
  const tools = [JSON.parse(process.argv[4])];
  const r = await client.chat.completions.create({...ask, max_tokens: 60, tools, tool_choice: "required",
                                                  parallel_tool_calls: false});
  out.call = r.choices[0].message.tool_calls[0].function;
  try { await client.chat.completions.create({...ask, temperature: -1}); } catch (e) { out.error = [e.status, e.param]; }
  console.log(JSON.stringify(out));
})();
"""


class JavaScript(unittest.TestCase):
    def test_chat_streams_tools_and_errors(self):
        modules = os.path.join(harness.SDK, "js", "node_modules")
        node = shutil.which("node")
        if not node or not os.path.isdir(os.path.join(modules, "openai")):
            self.skipTest("skip: no Node.js or no clients for it")
        p = subprocess.run([node, "-", "http://127.0.0.1:%d/v1" % server.port, server.model, json.dumps(TOOL)], input=SCRIPT,
                           capture_output=True, text=True, timeout=120, env=dict(os.environ, NODE_PATH=modules))
        self.assertEqual(p.returncode, 0, p.stderr)
        out = json.loads(p.stdout)
        self.assertEqual(out["models"], [server.model])
        self.assertEqual(out["streamed"], out["text"])
        self.assertEqual(out["usage"]["completion_tokens"], 8)
        self.assertEqual(out["call"]["name"], "get_weather")
        self.assertIn("city", json.loads(out["call"]["arguments"]))
        self.assertEqual(out["error"], [400, "temperature"])


if __name__ == "__main__":
    unittest.main()

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

    def test_embeddings(self):  # asks for base64 unless told otherwise
        r = client.embeddings.create(model=server.model, input=["Hello", "Bye"], dimensions=32)
        self.assertEqual([len(d.embedding) for d in r.data], [32, 32])
        again = client.embeddings.create(model=server.model, input=["Hello", "Bye"], dimensions=32, encoding_format="float")
        for a, b in zip(r.data[0].embedding, again.data[0].embedding):
            self.assertAlmostEqual(a, b, places=5)
        self.assertGreater(r.usage.prompt_tokens, 1)

    def respond(self, **fields):
        return client.responses.create(**dict({"model": server.model, "input": "Hello", "max_output_tokens": 8,
                                               "temperature": 0}, **fields))

    def test_responses_whole_streamed_and_gone_on_from(self):
        r = self.respond()
        self.assertTrue(r.output_text)
        with client.responses.stream(model=server.model, input="Hello", max_output_tokens=8, temperature=0) as stream:
            kinds = [e.type for e in stream]
            last = stream.get_final_response() if "response.completed" in kinds else None
        self.assertIn("response.output_text.done", kinds)
        self.assertIsNone(last)  # it was cut by its length
        again = self.respond(input="And?", previous_response_id=r.id)
        self.assertEqual(again.previous_response_id, r.id)
        self.assertEqual(client.responses.retrieve(r.id).output_text, r.output_text)
        self.assertEqual(client.responses.input_items.list(r.id).data[0].content[0].text, "Hello")
        client.responses.delete(r.id)
        with self.assertRaises(openai.BadRequestError) as e:
            self.respond(previous_response_id=r.id)
        self.assertEqual(e.exception.code, "previous_response_not_found")

    def test_responses_with_tools_and_formats(self):
        tool = dict(TOOL["function"], type="function", strict=True)
        with client.responses.stream(model=server.model, input="Weather in Oslo?", max_output_tokens=60, temperature=0, tools=[tool],
                                     tool_choice="required", parallel_tool_calls=False) as stream:
            final = stream.until_done().get_final_response()
        call, = final.output
        self.assertEqual((call.type, call.name), ("function_call", "get_weather"))
        r = self.respond(previous_response_id=final.id, tools=[tool],
                         input=[{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}])
        self.assertEqual(r.object, "response")
        r = client.responses.parse(model=server.model, input="Ann is 31.", text_format=Person, max_output_tokens=80, temperature=0)
        self.assertIsInstance(r.output_parsed, Person)

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
// cache_prompt: a prompt that is computed in two pieces may draw a near tie otherwise
const ask = {model: process.argv[3], messages: [{role: "user", content: "Hello"}], max_tokens: 8, temperature: 0, cache_prompt: false};
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
  out.vector = (await client.embeddings.create({model: ask.model, input: "Hello", dimensions: 16})).data[0].embedding.length;
  const first = await client.responses.create({model: ask.model, input: "Hello", max_output_tokens: 8, temperature: 0,
                                               cache_prompt: false});
  out.response = first.output_text;
  out.deltas = "";
  for await (const e of await client.responses.create({model: ask.model, input: "Hello", max_output_tokens: 8, temperature: 0,
                                                       cache_prompt: false, stream: true, activation_hooks: [{layer: 3, component: "resid_post"}]})) {
    if (e.type === "response.output_text.delta") out.deltas += e.delta;
    out.last = e.type;
  }
  out.next = (await client.responses.create({model: ask.model, input: "And?", max_output_tokens: 2, temperature: 0,
                                             previous_response_id: first.id})).status;
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
        self.assertEqual(out["vector"], 16)
        self.assertEqual((out["response"], out["deltas"], out["last"], out["next"]),
                         (out["text"], out["text"], "response.incomplete", "incomplete"))


if __name__ == "__main__":
    unittest.main()

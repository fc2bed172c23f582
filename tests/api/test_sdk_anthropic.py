"""Anthropic's own clients, unmodified: Python (pinned in requirements.txt) and JavaScript (js/package-lock.json)."""
import json
import os
import shutil
import subprocess
import unittest

import harness

harness.need(harness.MODEL)
harness.need_sdk("anthropic")
import anthropic  # noqa: E402

server = client = None
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "get_weather", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}
ONE = {"type": "any", "disable_parallel_tool_use": True}


def setUpModule():
    global server, client
    server = harness.Server(args=["--ctx", "512", "--parallel", "2", "--api-key", "secret"])
    client = anthropic.Anthropic(base_url="http://127.0.0.1:%d" % server.port, api_key="secret", max_retries=0)


def tearDownModule():
    client.close()
    server.stop()


class Python(unittest.TestCase):
    def ask(self, extra_body=(), **fields):
        return client.messages.create(**dict({"model": server.model, "messages": HELLO, "max_tokens": 8}, **fields),
                                      extra_body=dict({"temperature": 0}, **dict(extra_body)))

    def stream(self, extra_body=(), **fields):
        return client.messages.stream(**dict({"model": server.model, "messages": HELLO, "max_tokens": 8}, **fields),
                                      extra_body=dict({"temperature": 0}, **dict(extra_body)))

    def test_messages_whole_and_streamed(self):
        r = self.ask(system="Be brief.")
        self.assertEqual((r.type, r.stop_reason, r.usage.output_tokens), ("message", "max_tokens", 8))
        with self.stream(system="Be brief.", extra_body={"activation_hooks": [{"layer": 3, "component": "resid_post"}]}) as s:
            text = "".join(s.text_stream)
            final = s.get_final_message()
        self.assertEqual((text, final.content[0].text, final.stop_reason), (r.content[0].text, r.content[0].text, "max_tokens"))
        self.assertEqual(final.usage.output_tokens, 8)

    def test_stop_sequences(self):
        stop = self.ask().content[0].text[3:6]
        r = self.ask(stop_sequences=[stop])
        self.assertEqual((r.stop_reason, r.stop_sequence), ("stop_sequence", stop))

    def test_tools_and_their_results(self):
        with self.stream(tools=[TOOL], tool_choice=ONE, max_tokens=60) as s:
            r = s.get_final_message()
        use, = r.content
        self.assertEqual((use.type, use.name, r.stop_reason), ("tool_use", "get_weather", "tool_use"))
        self.assertIn("city", use.input)
        history = HELLO + [{"role": "assistant", "content": r.content},
                           {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"}]}]
        self.assertEqual(self.ask(messages=history, tools=[TOOL]).type, "message")

    def test_a_format_is_kept_to(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"],
                  "additionalProperties": False}
        r = self.ask(max_tokens=60, output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"})
        self.assertIn(json.loads(r.content[0].text)["n"], range(10))

    def test_counting(self):
        n = client.messages.count_tokens(model=server.model, messages=HELLO, tools=[TOOL]).input_tokens
        u = self.ask(tools=[TOOL], max_tokens=1).usage
        self.assertEqual(n, u.input_tokens + u.cache_read_input_tokens)

    def test_activations_through_extra_body(self):
        r = self.ask(extra_body={"activation_hooks": [{"layer": 3, "component": "resid_post"}]})
        self.assertIn("resid_post.3", r.model_extra["activations"])

    def test_errors_are_of_their_kind(self):
        with self.assertRaises(anthropic.BadRequestError) as e:
            self.ask(max_tokens=0)
        self.assertEqual(e.exception.body["error"]["type"], "invalid_request_error")
        with self.assertRaises(anthropic.NotFoundError):
            self.ask(model="nobody")
        with self.assertRaises(anthropic.AuthenticationError) as e:
            client.with_options(api_key="wrong").messages.create(model=server.model, messages=HELLO, max_tokens=1)
        self.assertEqual(e.exception.body["error"]["type"], "authentication_error")


SCRIPT = """
const Anthropic = require("@anthropic-ai/sdk").default;
const client = new Anthropic({baseURL: process.argv[2], apiKey: "secret", maxRetries: 0});
const ask = {model: process.argv[3], messages: [{role: "user", content: "Hello"}], max_tokens: 8, temperature: 0};
(async () => {
  const out = {text: (await client.messages.create(ask)).content[0].text, streamed: ""};
  const stream = client.messages.stream(ask).on("text", t => { out.streamed += t; });
  out.stop = (await stream.finalMessage()).stop_reason;
  const tools = [JSON.parse(process.argv[4])];
  const r = await client.messages.stream({...ask, max_tokens: 60, tools, tool_choice:
                                          {type: "any", disable_parallel_tool_use: true}}).finalMessage();
  out.use = r.content[0];
  out.count = (await client.messages.countTokens({model: ask.model, messages: ask.messages})).input_tokens;
  try { await client.messages.create({...ask, temperature: -1}); } catch (e) { out.error = [e.status, e.error.error.type]; }
  console.log(JSON.stringify(out));
})();
"""


class JavaScript(unittest.TestCase):
    def test_messages_streams_tools_and_errors(self):
        modules = os.path.join(harness.SDK, "js", "node_modules")
        node = shutil.which("node")
        if not node or not os.path.isdir(os.path.join(modules, "@anthropic-ai")):
            self.skipTest("skip: no Node.js or no clients for it")
        p = subprocess.run([node, "-", "http://127.0.0.1:%d" % server.port, server.model, json.dumps(TOOL)], input=SCRIPT,
                           capture_output=True, text=True, timeout=120, env=dict(os.environ, NODE_PATH=modules))
        self.assertEqual(p.returncode, 0, p.stderr)
        out = json.loads(p.stdout)
        self.assertEqual((out["streamed"], out["stop"]), (out["text"], "max_tokens"))
        self.assertEqual(out["use"]["name"], "get_weather")
        self.assertIn("city", out["use"]["input"])
        self.assertGreater(out["count"], 1)
        self.assertEqual(out["error"], [400, "invalid_request_error"])


if __name__ == "__main__":
    unittest.main()

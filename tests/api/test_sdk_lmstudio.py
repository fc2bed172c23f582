"""LM Studio's own clients, unmodified, over their WebSocket protocol: Python and JavaScript, both pinned."""
import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import harness
from websocket import Session

harness.need(harness.MODEL, harness.tiny())
harness.need_sdk("lmstudio")
import lmstudio  # noqa: E402

server = client = folder = None
FEW = {"maxTokens": 8, "temperature": 0}


def setUpModule():
    global server, client, folder
    folder = tempfile.TemporaryDirectory()
    for name, path in (("org/Smol/Smol.gguf", harness.MODEL), ("org/Tiny/Tiny.gguf", harness.tiny()), ("org/Bad/Bad.gguf", __file__)):
        full = os.path.join(folder.name, name)
        os.makedirs(os.path.dirname(full))
        os.symlink(path, full)
    server = harness.Server(os.path.join(folder.name, "org/Smol/Smol.gguf"), args=["--ctx", "1024", "--parallel", "2", "--id", "smol", "--cache-type", "f32"],
                            env={"GLIA_MODELS": folder.name})
    client = lmstudio.Client("127.0.0.1:%d" % server.port)


def tearDownModule():
    client.close()
    server.stop()
    folder.cleanup()


def said(text, path="/v1/chat/completions", **fields):
    body = dict({"max_tokens": 8, "temperature": 0}, **fields)
    if path.endswith("chat/completions"):
        body["messages"] = [{"role": "user", "content": text}]
        return server.post(path, body)[1]["choices"][0]["message"]["content"]
    body["prompt"] = text
    return server.post(path, body)[1]["choices"][0]["text"]


class Python(unittest.TestCase):
    def setUp(self):
        self.model = client.llm.model("smol")

    def test_a_chat_says_what_the_http_api_says(self):
        progress = []
        r = self.model.respond("Say hello.", config=FEW, on_prompt_processing_progress=progress.append)
        self.assertEqual(r.content, said("Say hello."))
        self.assertEqual((r.stats.stop_reason, r.stats.predicted_tokens_count), ("maxPredictedTokensReached", 8))
        self.assertEqual(r.stats.total_tokens_count, r.stats.prompt_tokens_count + 8)
        self.assertEqual((progress[0], progress[-1]), (0.0, 1.0))
        self.assertEqual(r.prediction_config.max_tokens, 8)

    def test_a_stream_is_the_whole_in_pieces(self):
        stream = self.model.respond_stream("Say hello.", config=FEW)
        self.assertEqual("".join(f.content for f in stream), said("Say hello."))
        self.assertEqual(stream.result().stats.predicted_tokens_count, 8)

    def test_a_conversation(self):
        chat = lmstudio.Chat("Be brief.")
        chat.add_user_message("Hi")
        chat.add_assistant_response("Hello.")
        chat.add_user_message("Bye")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
                    {"role": "user", "content": "Bye"}]
        expected = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8, "temperature": 0})[1]
        self.assertEqual(self.model.respond(chat, config=FEW).content, expected["choices"][0]["message"]["content"])
        self.assertEqual(self.model.apply_prompt_template(chat), server.post("/v1/tokenize", {"messages": messages})[1]["prompt"])

    def test_a_completion_has_no_template_around_it(self):
        self.assertEqual(self.model.complete("One, two,", config=FEW).content, said("One, two,", "/v1/completions"))

    def test_stop_strings_and_reasons(self):
        text = said("Say hello.", max_tokens=30)
        stop = text[10:14]
        r = self.model.respond("Say hello.", config={"maxTokens": 30, "temperature": 0, "stopStrings": [stop]})
        self.assertEqual((r.content, r.stats.stop_reason), (text[:text.index(stop)], "stopStringFound"))

    def test_structured_output(self):
        class Person(lmstudio.BaseModel):
            name: str
            age: int
        r = self.model.respond("Ann is 31.", response_format=Person, config={"temperature": 0, "maxTokens": 80})
        self.assertEqual(set(r.parsed), {"name", "age"})

    def test_cancelling_keeps_what_was_said(self):
        stream = self.model.respond_stream("Tell me a long story.", config={"maxTokens": 900, "temperature": 0})
        for i, _ in enumerate(stream):
            if i == 3:
                stream.cancel()
        self.assertEqual(stream.result().stats.stop_reason, "userStopped")

    def test_tokens(self):
        self.assertEqual(list(self.model.tokenize("Hello world")), server.post("/v1/tokenize", {"text": "Hello world"})[1]["tokens"])
        self.assertEqual(self.model.count_tokens("Hello world"), 2)

    def test_a_tool_is_called_when_it_must_be(self):
        def weather(city: str) -> str:
            "The weather of a city"
            calls.append(city)
            return "rain"
        calls, names = [], []
        tools, _ = lmstudio.json_api.ChatResponseEndpoint.parse_tools([weather])
        self.assertEqual(tools.tools[0].function.name, "weather")
        # act() lets the model choose, and this one is too small to: the protocol itself is asked with force
        ws = Session(server.port)
        ws.open("predict", {"modelSpecifier": {"type": "query", "query": {"identifier": "smol"}},
                            "history": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Weather in Rome?"}]}]},
                            "predictionConfigStack": {"layers": [{"layerName": "apiOverride", "config": {"fields": [
                                {"key": "llm.prediction.temperature", "value": 0},
                                {"key": "llm.prediction.maxPredictedTokens", "value": {"checked": True, "value": 60}},
                                {"key": "llm.prediction.tools", "value": {"type": "toolArray", "force": True, "tools": [
                                    {"type": "function", "function": {"name": "weather", "parameters": {
                                        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}}}]}}]}}]}})
        messages = list(ws.channel())
        ws.close()
        kinds = [m["type"] for m in messages if m["type"] != "promptProcessingProgress"]
        self.assertEqual(kinds[:2], ["toolCallGenerationStart", "toolCallGenerationNameReceived"])
        end = next(m for m in messages if m["type"] == "toolCallGenerationEnd")
        self.assertEqual(end["toolCallRequest"]["name"], "weather")
        self.assertIn("city", end["toolCallRequest"]["arguments"])
        pieces = "".join(m["content"] for m in messages[:messages.index(end)] if m["type"] == "toolCallGenerationArgumentFragmentGenerated")
        self.assertEqual(json.loads(pieces), end["toolCallRequest"]["arguments"])
        ended = sum(m["type"] in ("toolCallGenerationEnd", "toolCallGenerationFailed") for m in messages)
        self.assertEqual(ended, kinds.count("toolCallGenerationStart"))
        self.assertIn(messages[-1]["stats"]["stopReason"], ("toolCalls", "maxPredictedTokensReached"))

    def test_errors_are_the_sdks_own(self):
        with self.assertRaises(lmstudio.LMStudioModelNotFoundError):
            client.llm.model("nobody")
        for config, words in (({"temperature": 5}, "temperature must be from 0 to 2"), ({"contextOverflowPolicy": "rollingWindow"}, "stopAtLimit"),
                              ({"draftModel": "x"}, "drafting")):
            with self.assertRaisesRegex(lmstudio.LMStudioServerError, words):
                self.model.respond("x", config=config)


class Embeddings(unittest.TestCase):
    def test_a_text_becomes_the_vector_of_the_http_api(self):
        m = client.embedding.model("smol")
        expected = server.post("/v1/embeddings", {"model": "smol", "input": "Hello world"})[1]["data"][0]["embedding"]
        got = m.embed("Hello world")
        self.assertEqual(len(got), len(expected))
        self.assertLess(max(abs(a - b) for a, b in zip(got, expected)), 1e-6)
        several = m.embed(["a", "b"])
        self.assertEqual(len(several), 2)
        self.assertNotEqual(several[0], several[1])
        self.assertEqual(m.count_tokens("Hello world"), 2)

    def test_what_cannot_be_embedded_says_why(self):
        ws = Session(server.port, "/embedding")
        for bad in (None, {}, {"inputString": 3}, {"inputString": "x", "modelSpecifier": {"type": "query", "query": {"identifier": "nobody"}}},
                    {"inputString": "word " * 2000}):
            self.assertIsNotNone(ws.call("embedString", bad)[1], bad)
        ws.close()


class Management(unittest.TestCase):
    def test_lists(self):
        self.assertEqual({m.model_key for m in client.list_downloaded_models()}, {"smol", "tiny"})
        self.assertIn("smol", [m.identifier for m in client.llm.list_loaded()])

    def test_load_use_and_unload(self):
        progress = []
        m = client.llm.load_new_instance("tiny", "mine", config={"contextLength": 256}, ttl=600, on_load_progress=progress.append)
        self.assertEqual((m.identifier, m.get_context_length(), m.get_load_config().context_length), ("mine", 256, 256))
        self.assertEqual(progress[-1], 1.0)
        self.assertGreater(m.complete("x", config={"maxTokens": 3}).stats.predicted_tokens_count, 0)
        m.unload()
        deadline = time.monotonic() + 30
        while "mine" in [x.identifier for x in client.llm.list_loaded()] and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertNotIn("mine", [x.identifier for x in client.llm.list_loaded()])

    def test_a_model_in_the_folder_is_loaded_when_it_is_asked_for(self):
        m = client.llm.model("tiny", ttl=600)
        again = client.llm.model("tiny")
        self.assertEqual(m.identifier, again.identifier)
        m.unload()

    def test_what_cannot_be_loaded_says_why(self):
        with self.assertRaises(lmstudio.LMStudioServerError):
            client.llm.load_new_instance("nobody")
        with self.assertRaisesRegex(lmstudio.LMStudioServerError, "contextLength"):
            client.llm.load_new_instance("tiny", config={"contextLength": 1})


class Hostile(unittest.TestCase):
    """Parameters that no SDK would send: every one is an error of its channel, and the connection lives on."""

    def test_bad_parameters(self):
        ws = Session(server.port)
        text = [{"type": "text", "text": "x"}]
        field = lambda key, value: {"layers": [{"layerName": "apiOverride", "config": {"fields": [{"key": key, "value": value}]}}]}  # noqa: E731
        user = {"messages": [{"role": "user", "content": text}]}
        bad = [None, {}, {"history": 3}, {"history": {"messages": [{"role": "user"}]}}, {"history": {"messages": [{"content": text}]}},
               {"history": {"messages": [{"role": "user", "content": [{"type": "file", "name": "a.png"}]}]}},
               {"history": {"messages": [{"role": "robot", "content": text}]}},
               {"history": {"messages": [{"role": "tool", "content": text}]}},
               {"history": user, "modelSpecifier": 7}, {"history": user, "modelSpecifier": {"type": "query", "query": {"identifier": 3}}},
               {"history": user, "predictionConfigStack": {"layers": 3}},
               {"history": user, "predictionConfigStack": field("llm.prediction.unheardOf", 1)},
               {"history": user, "predictionConfigStack": field("llm.prediction.stopStrings", [1])},
               {"history": user, "predictionConfigStack": field("llm.prediction.structured", {"type": "xml"})},
               {"history": user, "predictionConfigStack": field("llm.prediction.structured", {"type": "gbnf", "gbnfGrammar": "root ::= ("})},
               {"history": user, "predictionConfigStack": field("llm.prediction.tools", {"type": "toolArray", "tools": [{"type": "function"}]})},
               {"history": user, "predictionConfigStack": field("llm.prediction.llama.logitBias", [[1]])},
               {"history": user, "predictionConfigStack": field("llm.prediction.promptTemplate", {"type": "jinja", "jinjaPromptTemplate": {
                   "template": "{% for i in range(1000000000) %}x{% endfor %}"}, "stopStrings": []})},
               {"history": user, "predictionConfigStack": field("llm.prediction.maxPredictedTokens", {"checked": True, "value": 1 << 40})}]
        for i, parameter in enumerate(bad):
            ws.open("predict", parameter, channel=i)
            with self.assertRaises(RuntimeError, msg=str(parameter)):
                list(ws.channel(i))
        self.assertIsNone(ws.call("countTokens", {"inputString": "still here"})[1])
        ws.close()

    def test_a_client_that_leaves_in_the_middle_frees_its_slot(self):
        for _ in range(4):  # two slots
            ws = Session(server.port)
            ws.open("predict", {"history": {"messages": [{"role": "user", "content": [{"type": "text", "text": "A long story"}]}]},
                                "predictionConfigStack": {"layers": []}})
            while ws.json()["message"]["type"] != "fragment":
                pass
            ws.close()
        self.assertTrue(said("Say hello."))


SCRIPT = """
const { LMStudioClient } = require("@lmstudio/sdk");
(async () => {
  const c = new LMStudioClient({baseUrl: "ws://127.0.0.1:" + process.argv[2], clientIdentifier: "test", clientPasskey: "test"});
  const few = {maxTokens: 8, temperature: 0}, out = {};
  out.version = (await c.system.getLMStudioVersion()).version;
  out.downloaded = (await c.system.listDownloadedModels()).map(m => m.modelKey).sort();
  const m = await c.llm.model("smol");
  out.loaded = (await c.llm.listLoaded()).map(m => m.identifier);
  out.context = await m.getContextLength();
  out.text = (await m.respond("Say hello.", few)).content;
  out.streamed = "";
  const p = m.respond("Say hello.", few);
  for await (const f of p) out.streamed += f.content;
  const r = await p.result();
  out.stats = [r.stats.stopReason, r.stats.predictedTokensCount];
  out.vector = (await (await c.embedding.model("smol", {verbose: false})).embed("Hello world")).embedding.length;
  out.completion = (await m.complete("One, two,", few)).content;
  out.tokens = await m.tokenize("Hello world");
  out.template = await m.applyPromptTemplate([{role: "user", content: "Hi"}]);
  out.json = (await m.respond("Ann is 31.", {...few, maxTokens: 60, structured: {type: "json", jsonSchema: {type: "object",
    properties: {age: {type: "integer"}}, required: ["age"]}}})).content;
  const t = await c.llm.load("tiny", {identifier: "js", config: {contextLength: 256}, verbose: false});
  out.mine = [t.identifier, await t.getContextLength()];
  await t.unload();
  try { await m.respond("x", {temperature: 5}); } catch (e) { out.error = e.message; }
  try { await c.llm.model("nobody", {verbose: false}); } catch (e) { out.nobody = true; }
  await c[Symbol.asyncDispose]();
  console.log(JSON.stringify(out));
  process.exit(0);
})();
"""


class JavaScript(unittest.TestCase):
    def test_the_main_examples(self):
        modules = os.path.join(harness.SDK, "js", "node_modules")
        node = shutil.which("node")
        if not node or not os.path.isdir(os.path.join(modules, "@lmstudio", "sdk")):
            self.skipTest("skip: no Node.js or no clients for it")
        p = subprocess.run([node, "-", str(server.port)], input=SCRIPT, capture_output=True, text=True, timeout=120,
                           env=dict(os.environ, NODE_PATH=modules))
        self.assertEqual(p.returncode, 0, p.stderr)
        out = json.loads(p.stdout.splitlines()[-1])
        self.assertEqual(out["downloaded"], ["smol", "tiny"])
        self.assertIn("smol", out["loaded"])
        self.assertEqual(out["context"], 1024)
        self.assertEqual(out["text"], said("Say hello."))
        self.assertEqual(out["streamed"], out["text"])
        self.assertEqual(out["stats"], ["maxPredictedTokensReached", 8])
        self.assertEqual(out["vector"], 576)
        self.assertEqual(out["completion"], said("One, two,", "/v1/completions"))
        self.assertEqual(out["tokens"], server.post("/v1/tokenize", {"text": "Hello world"})[1]["tokens"])
        self.assertTrue(out["template"].endswith("assistant\n"))
        self.assertIn("age", json.loads(out["json"]))
        self.assertEqual(out["mine"], ["js", 256])
        self.assertIn("temperature", out["error"])
        self.assertTrue(out["nobody"])


if __name__ == "__main__":
    unittest.main()

"""OpenAI's responses: items in, items out, events, what is stored and gone on from, and what is refused."""
import json
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny("llama"))
server = None
PATH = "/v1/responses"
TOOL = {"type": "function", "name": "get_weather", "description": "weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}}


def setUpModule():
    global server
    server = harness.Server(harness.tiny("llama"), ["--ctx", "2048", "--parallel", "2", "--cache-type", "f32", "--flash-attn", "off"])


def tearDownModule():
    server.stop()


def ask(said="Hello", **fields):
    return server.post(PATH, dict({"input": said, "max_output_tokens": 8, "temperature": 0}, **fields))


def events(**fields):
    """[(name, data)] of a stream; names and types are the same."""
    body = dict({"input": "Hello", "max_output_tokens": 8, "temperature": 0}, **fields)
    content_type, data = server.stream(PATH, body)
    assert content_type.startswith("text/event-stream"), content_type
    out = []
    for block in data.decode().split("\n\n")[:-1]:
        name, line = block.split("\n")
        value = json.loads(line[len("data: "):])
        assert name == "event: " + value["type"], block
        out.append((value["type"], value))
    return out


def text_of(r):
    return "".join(p["text"] for i in r["output"] if i["type"] == "message" for p in i["content"])


class Whole(ApiTest):
    def test_the_object_has_every_field(self):
        status, r = ask(metadata={"a": "b"}, instructions="Be brief.", top_p=0.5, user="me")
        self.assertEqual(status, 200, r)
        self.assertRegex(r["id"], "^resp_[0-9a-f]{48}$")
        self.assertEqual((r["object"], r["model"], r["status"]), ("response", server.model, "incomplete"))
        self.assertEqual(r["incomplete_details"], {"reason": "max_output_tokens"})
        self.assertEqual((r["metadata"], r["instructions"], r["top_p"], r["user"]), ({"a": "b"}, "Be brief.", 0.5, "me"))
        for field in ("created_at", "completed_at", "previous_response_id", "error", "tools", "tool_choice", "truncation",
                      "parallel_tool_calls", "text", "top_logprobs", "temperature", "reasoning", "max_output_tokens",
                      "max_tool_calls", "store", "background", "service_tier", "safety_identifier", "prompt_cache_key"):
            self.assertIn(field, r)
        message, = r["output"]
        self.assertEqual((message["type"], message["role"], message["status"]), ("message", "assistant", "incomplete"))
        self.assertEqual(message["content"][0]["annotations"], [])
        u = r["usage"]
        self.assertEqual((u["output_tokens"], u["total_tokens"]), (8, u["input_tokens"] + 8))

    def test_the_text_is_that_of_a_chat(self):
        _, chat = server.chat(max_tokens=8)
        _, r = ask()
        self.assertEqual(text_of(r), chat["choices"][0]["message"]["content"])
        self.assertEqual(r["usage"]["input_tokens"], chat["usage"]["prompt_tokens"])
        items = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
        self.assertEqual(text_of(ask(items)[1]), text_of(r))

    def test_instructions_are_a_system_message(self):
        _, tokens = server.post("/v1/tokenize", {"messages": [{"role": "system", "content": "Be brief."},
                                                              {"role": "user", "content": "Hello"}]})
        self.assertEqual(ask(instructions="Be brief.")[1]["usage"]["input_tokens"], tokens["count"])

    def test_a_warm_up_without_words_is_answered(self):
        self.assertEqual(server.post(PATH, {"model": server.model, "input": "", "max_output_tokens": 1})[0], 200)

    def test_log_probabilities_are_those_of_the_text(self):
        _, r = ask(include=["message.output_text.logprobs"], top_logprobs=3)
        part, = r["output"][0]["content"]
        self.assertEqual("".join(t["token"] for t in part["logprobs"]), part["text"])
        self.assertEqual([len(t["top_logprobs"]) for t in part["logprobs"]], [3] * 8)

    def test_a_format_is_kept_to(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
                  "required": ["n"], "additionalProperties": False}
        _, r = ask("Give a number.", max_output_tokens=250,
                   text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}})
        self.assertIn(json.loads(text_of(r))["n"], range(10))

    def test_hooks_and_interventions_are_taken(self):
        hook = {"layer": 2, "component": "resid_post", "positions": [-1]}
        _, r = ask(activation_hooks=[hook], cache_prompt=False)
        _, chat = server.activations([hook], max_tokens=8, cache_prompt=False)
        self.assertEqual(r["activations"]["resid_post.2"][0]["data"], chat["activations"]["resid_post.2"][0]["data"])
        _, changed = ask(interventions=[{"layer": 2, "component": "mlp_out", "op": "zero"},
                                        {"layer": 1, "component": "resid_post", "op": "scale", "strength": 0.1}])
        self.assertNotEqual(text_of(changed), text_of(r))


class Tools(ApiTest):
    def test_a_required_call_comes_as_an_item(self):
        _, r = ask("Weather in Oslo?", tools=[TOOL], tool_choice="required", parallel_tool_calls=False,
                   max_output_tokens=250)
        call, = [i for i in r["output"] if i["type"] == "function_call"]
        self.assertEqual((call["name"], call["status"], r["status"]), ("get_weather", "completed", "completed"))
        self.assertIn("city", json.loads(call["arguments"]))
        history = [{"role": "user", "content": "Weather in Oslo?"}, call,
                   {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}]
        self.assertEqual(ask(history, tools=[TOOL])[0], 200)
        output = [{"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}]
        status, again = ask(output, tools=[TOOL], previous_response_id=r["id"])
        self.assertEqual(status, 200, again)
        self.assertEqual(again["usage"]["input_tokens"], ask(history, tools=[TOOL])[1]["usage"]["input_tokens"])

    def test_a_named_call(self):
        other = dict(TOOL, name="other")
        _, r = ask(tools=[other, TOOL], tool_choice={"type": "function", "name": "get_weather"}, max_output_tokens=250,
                   parallel_tool_calls=False)
        self.assertEqual([i["name"] for i in r["output"]], ["get_weather"])


class Streams(ApiTest):
    def test_events_come_in_order_and_say_the_same(self):
        got = events()
        names = [n for n, _ in got]
        self.assertEqual(names[:4], ["response.created", "response.in_progress", "response.output_item.added",
                                     "response.content_part.added"])
        self.assertEqual(names[-4:], ["response.output_text.done", "response.content_part.done",
                                      "response.output_item.done", "response.incomplete"])
        self.assertEqual([e["sequence_number"] for _, e in got], list(range(len(got))))
        text = "".join(e["delta"] for n, e in got if n == "response.output_text.delta")
        last = got[-1][1]["response"]
        _, whole = ask()
        self.assertEqual((text, text_of(last), text_of(whole)), (text,) * 3)
        self.assertEqual(last["output"][0]["id"], got[2][1]["item"]["id"])
        self.assertEqual(last["usage"]["output_tokens"], 8)
        self.assertEqual(set(last), set(whole))

    def test_calls_grow(self):
        got = events(input="Weather in Oslo?", tools=[TOOL], tool_choice="required", parallel_tool_calls=False,
                     max_output_tokens=250)
        names = [n for n, _ in got]
        self.assertEqual(names[-1], "response.completed")
        args = "".join(e["delta"] for n, e in got if n == "response.function_call_arguments.delta")
        done, = [e for n, e in got if n == "response.function_call_arguments.done"]
        self.assertEqual((args, got[-1][1]["response"]["output"][0]["arguments"]), (done["arguments"],) * 2)
        self.assertIn("city", json.loads(args))

    def test_log_probabilities_and_activations_come_along(self):
        got = events(include=["message.output_text.logprobs"], top_logprobs=2,
                     activation_hooks=[{"layer": 2, "component": "resid_post"}])
        logprobs = [t for n, e in got if n == "response.output_text.delta" for t in e["logprobs"]]
        self.assertEqual(logprobs, got[-1][1]["response"]["output"][0]["content"][0]["logprobs"])
        self.assertEqual(sum(n == "activation" for n, _ in got), 8)  # prompt + 7 tokens that were fed back

    def test_a_streamed_response_can_be_gone_on_from(self):
        first = events()[-1][1]["response"]
        self.assertEqual(server.get(PATH + "/" + first["id"])[1], first)
        self.assertEqual(ask("And?", previous_response_id=first["id"])[0], 200)


class State(ApiTest):
    def test_a_conversation_goes_on_and_may_branch(self):
        _, first = ask("Hello")
        _, a = ask("And?", previous_response_id=first["id"])
        chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": text_of(first)},
                {"role": "user", "content": "And?"}]
        _, same = server.post("/v1/chat/completions", {"messages": chat, "max_tokens": 8, "temperature": 0})
        self.assertEqual(text_of(a), same["choices"][0]["message"]["content"])
        self.assertEqual(a["previous_response_id"], first["id"])
        _, b = ask("And?", previous_response_id=first["id"])
        self.assertEqual(text_of(b), text_of(a))
        self.assertNotEqual(a["id"], b["id"])

    def test_instructions_do_not_carry_over(self):
        _, first = ask("Hello", instructions="Be brief.")
        _, plain = ask("Hello")
        self.assertGreater(ask("x", previous_response_id=first["id"], instructions="Be very very brief.")[1]["usage"]["input_tokens"], 0)
        _, tokens = server.post("/v1/tokenize", {"messages": [
            {"role": "user", "content": "Hello"}, {"role": "assistant", "content": text_of(first)},
            {"role": "user", "content": "x"}]})
        self.assertEqual(ask("x", previous_response_id=first["id"])[1]["usage"]["input_tokens"], tokens["count"])

    def test_stored_responses_are_read_and_forgotten(self):
        _, r = ask("Hello")
        self.assertEqual(server.get(PATH + "/" + r["id"])[1], r)
        _, items = server.get(PATH + "/%s/input_items" % r["id"])
        self.assertEqual(items["data"][0]["content"][0]["text"], "Hello")
        status, gone = server.call("DELETE", PATH + "/" + r["id"])
        self.assertEqual((status, gone["deleted"]), (200, True))
        self.check_error(server.get(PATH + "/" + r["id"]), 404, "id", "not_found")
        self.check_error(server.call("DELETE", PATH + "/" + r["id"]), 404, "id", "not_found")
        self.check_error(ask(previous_response_id=r["id"]), 400, "previous_response_id", "previous_response_not_found")

    def test_what_is_not_to_be_stored_is_not(self):
        _, r = ask(store=False)
        self.assertFalse(r["store"])
        self.check_error(ask(previous_response_id=r["id"]), 400, "previous_response_id", "previous_response_not_found")


class Refused(ApiTest):
    def test_each_wrong_field_is_named(self):
        for fields, param in (
                ({"input": None}, "input"), ({"input": 5}, "input"), ({"input": []}, "input"),
                ({"input": [5]}, "input[0]"), ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
                ({"input": [{"role": "user"}]}, "input[0].content"),
                ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
                 "input[0].content[0].type"),
                ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
                ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}]},
                 "input[0].arguments"),
                ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
                ({"temperature": -1}, "temperature"), ({"temperature": "x"}, "temperature"), ({"top_p": 2}, "top_p"),
                ({"max_output_tokens": 0}, "max_output_tokens"), ({"max_output_tokens": 1.5}, "max_output_tokens"),
                ({"stream": "yes"}, "stream"), ({"store": 1}, "store"), ({"top_logprobs": 1000}, "top_logprobs"),
                ({"top_logprobs": 2}, "top_logprobs"), ({"include": ["file_search_call.results"]}, "include"),
                ({"tools": [{"type": "web_search"}]}, "tools[0].type"), ({"tools": [{"type": "function"}]}, "tools[0].name"),
                ({"tools": [dict(TOOL, parameters={"type": "object", "properties": {
                    "a": {"type": "string", "minLength": 10**9}}})]}, "tools[0].parameters.properties.a.minLength"),
                ({"tool_choice": "required"}, "tool_choice"), ({"tool_choice": {"type": "x"}}, "tool_choice.type"),
                ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
                ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "robot"}}}},
                 "text.format.schema.type"),
                ({"text": {"format": {}}}, "text.format.type"), ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
                ({"reasoning": {"effort": "x"}}, "reasoning.effort"), ({"truncation": "auto"}, "truncation"),
                ({"background": True}, "background"), ({"conversation": "c"}, "conversation"),
                ({"previous_response_id": 5}, "previous_response_id"), ({"metadata": []}, "metadata")):
            body = dict({"input": "x", "max_output_tokens": 4}, **fields)
            with self.subTest(fields=fields):
                self.check_error(server.post(PATH, body), 400, param)

    def test_unknown_models_and_long_inputs(self):
        self.check_error(ask(model="nobody"), 404, "model", "model_not_found")
        self.check_error(ask("word " * 3000), 400, "input", "context_length_exceeded")
        self.check_error(ask(max_output_tokens=5000), 400, "max_output_tokens", "context_length_exceeded")

    def test_bad_json(self):
        status, _, body = server.raw("POST", PATH, b"{", {"Content-Type": "application/json"})
        self.assertEqual(status, 400, body)


if __name__ == "__main__":
    unittest.main()

"""Structured output: what comes back is valid JSON of the schema, judged by jsonschema; what cannot be enforced is a 400
that names the place, before any answer; hostile schemas and grammars end at once."""
import json
import re
import time
import unittest

import harness
from harness import ApiTest

harness.need(harness.MODEL)
harness.need_sdk("jsonschema")
import jsonschema  # noqa: E402

server = None
TEXT = "/v1/completions"


def setUpModule():
    global server
    server = harness.Server(args=["--ctx", "1024", "--parallel", "4"])
    for text in ("null", " null", "[null", "]"):
        NULL.extend(server.post("/v1/tokenize", {"text": text, "add_special": False})[1]["tokens"])


def tearDownModule():
    server.stop()


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


PERSON = {
    "type": "object", "title": "Person", "additionalProperties": False, "required": ["name", "age", "tags"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12, "description": "full name"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": ["string", "null"], "maxLength": 10},
        "tags": {"type": "array", "items": {"enum": ["a", "b\"c", "d\\e", 5, None]}, "minItems": 1, "maxItems": 3}}}

TREE = {"$ref": "#/$defs/node", "$defs": {"node": {
    "type": "object", "required": ["v", "kids"], "properties": {
        "v": {"type": "integer", "minimum": -3, "maximum": 3},
        "kids": {"type": "array", "maxItems": 1, "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}}}}

NULL = []  # tokens of "null", so that a weak model ends its tree

SMALL = [  # schema of a short value, several draws each
    {"type": "integer", "minimum": -37, "maximum": 142},
    {"type": "integer", "exclusiveMinimum": 99, "maximum": 101},
    {"type": "integer", "minimum": 1.5, "exclusiveMaximum": 3.0},
    {"type": "number", "minimum": -2, "maximum": 3},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": 10},
    {"type": "boolean"}, {"type": "null"}, {"const": {"a": [1, None, "ü"]}}, {"enum": ["x", 1, {"y": []}]},
    {"type": "string", "enum": ["x", 1, "z"]},
    {"type": "string", "maxLength": 5}, {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}(\\.[a-f]+)?$", },
    {"type": "string", "pattern": "^(\"|\\\\|\\n|[^\\x00-\\x7f]){1,4}$"},
    {"type": "string", "pattern": "^(?:a|bc)*?d$"},
    {"type": "string", "format": "date"}, {"type": "string", "format": "uuid"}, {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "date-time"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "integer", "maximum": 9, "minimum": 0}, {"const": "x"}]},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]}, {"oneOf": [{"const": 1}, {"const": "one"}]},
    {"allOf": [{"enum": [1, 2]}]}, {"type": ["integer", "null"], "minimum": 5, "maximum": 6},
    {"type": "object", "properties": {"a\"]}": {"type": "null"}, "b": {"const": 1}, "c": {"const": 2}}, "required": ["b"]},
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 1}, "maxProperties": 2},
    {"properties": {"x": {"const": 0}}, "required": ["x"]},
]


class Schemas(ApiTest):
    def draw(self, schema, n=2, **fields):
        status, r = server.post("/v1/chat/completions", dict({
            "messages": [{"role": "user", "content": "Answer in JSON."}], "max_tokens": 70, "temperature": 1.2, "seed": 1,
            "n": n, "response_format": schema_format(schema)}, **fields))
        self.assertEqual(status, 200, r)
        return r["choices"]

    def check(self, schema, choices, least=1):
        whole = [c for c in choices if c["finish_reason"] == "stop"]
        self.assertGreaterEqual(len(whole), least, choices)
        for c in whole:
            value = json.loads(c["message"]["content"])
            jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator,
                                format_checker=jsonschema.FormatChecker())

    def test_every_draw_is_valid(self):
        for schema in SMALL:
            with self.subTest(schema=schema):
                self.check(schema, self.draw(schema))

    def test_a_person_and_a_tree(self):
        self.check(PERSON, self.draw(PERSON))
        self.check(TREE, self.draw(TREE, temperature=1.5, logit_bias={str(t): 8 for t in NULL}))

    def test_greedy_streamed_and_whole_are_the_same(self):
        body = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 100, "temperature": 0,
                "response_format": schema_format(PERSON)}
        _, whole = server.post("/v1/chat/completions", body)
        self.check(PERSON, whole["choices"])
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in server.sse("/v1/chat/completions", body))
        self.assertEqual(text, whole["choices"][0]["message"]["content"])

    def test_a_json_object_is_one(self):
        status, r = server.chat("Name three colours as JSON.", max_tokens=60, n=2, temperature=1,
                                response_format={"type": "json_object"})
        self.assertEqual(status, 200, r)
        done = [c for c in r["choices"] if c["finish_reason"] == "stop"]
        for c in done:
            self.assertIsInstance(json.loads(c["message"]["content"]), dict)
        for c in r["choices"]:
            self.assertEqual(c["message"]["content"][0], "{")

    def test_it_works_beside_other_fields(self):
        schema = {"type": "string", "maxLength": 8}
        choice, = self.draw(schema, n=1, temperature=0, logprobs=True, top_logprobs=2)
        self.assertEqual("".join(t["token"] for t in choice["logprobs"]["content"]), choice["message"]["content"])
        self.check(schema, self.draw(schema, top_k=1, repeat_penalty=1.3, frequency_penalty=1, logit_bias={"1": 5}))
        self.check({"enum": [True, False]}, self.draw({"enum": [True, False]}, logit_bias={str(i): -100 for i in range(50)}))
        status, r = server.post(TEXT, {"prompt": "The answer:", "max_tokens": 20, "response_format": schema_format({"const": [1]})})
        self.assertEqual((status, r["choices"][0]["text"], r["choices"][0]["finish_reason"]), (200, "[1]", "stop"), r)
        status, r = server.activations([{"layer": 1, "component": "resid_post"}], max_tokens=20,
                                       response_format=schema_format({"const": "x"}))
        self.assertEqual((status, r["completion"]), (200, '"x"'), r)

    def test_what_cannot_be_enforced_is_refused_by_name(self):
        at = "response_format.json_schema.schema"
        for schema, param in (
                ({"type": "string", "minLength": 10 ** 9}, ".minLength"),
                ({"type": "string", "maxLength": 5000}, ".maxLength"),
                ({"type": "string", "minLength": 5, "maxLength": 4}, ".maxLength"),
                ({"type": "string", "minLength": -1}, ".minLength"), ({"type": "string", "minLength": "5"}, ".minLength"),
                ({"type": "array", "maxItems": 10 ** 12}, ".maxItems"), ({"type": "array", "uniqueItems": True}, ".uniqueItems"),
                ({"type": "string", "pattern": "^a{99999}$"}, ".pattern"), ({"type": "string", "pattern": "^(a$"}, ".pattern"),
                ({"type": "string", "pattern": "(?=a)b"}, ".pattern"), ({"type": "string", "pattern": "^(a)\\1$"}, ".pattern"),
                ({"type": "string", "pattern": "^a|b$"}, ".pattern"), ({"type": "string", "pattern": "[z-a]"}, ".pattern"),
                ({"type": "string", "pattern": "(" * 5000}, ".pattern"), ({"type": "string", "format": "regex"}, ".format"),
                ({"type": "string", "format": "date", "maxLength": 3}, ".format"),
                ({"type": "number", "multipleOf": 0.5}, ".multipleOf"), ({"type": "number", "minimum": 0.5}, ".minimum"),
                ({"type": "integer", "minimum": 5, "maximum": 4}, ".minimum"), ({"not": {}}, ".not"),
                ({"if": {}, "then": {}}, ".if"), ({"patternProperties": {}}, ".patternProperties"),
                ({"type": "object", "required": ["x"], "properties": {"y": {}}}, ".required"),
                ({"type": "object", "minProperties": 3}, ".minProperties"), ({"type": "thing"}, ".type"), ({"type": []}, ".type"),
                ({"type": 5}, ".type"), ({"enum": []}, ".enum"), ({"type": "string", "enum": [1]}, ".enum"),
                ({"anyOf": []}, ".anyOf"), ({"anyOf": [{"type": "string"}], "type": "string"}, ".type"),
                ({"allOf": [{}, {}]}, ".allOf"), ({"$ref": "#/nothing"}, ".$ref"), ({"$ref": "http://x/y"}, ".$ref"),
                ({"properties": {"a": {"properties": {"b": {"not": {}}}}}}, ".properties.a.properties.b.not"),
                ({"properties": {"a": False}}, ".properties.a"), ({"properties": []}, ".properties"),
                ({"additionalProperties": 5}, ".additionalProperties"), ({"items": {"type": "x"}}, ".items.type")):
            with self.subTest(schema=str(schema)[:80]):
                self.check_error(server.chat(response_format=schema_format(schema)), 400, at + param)

    def test_endless_and_empty_schemas_are_refused(self):
        for schema in ({"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
                       {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}):
            self.check_error(server.chat(response_format=schema_format(schema)), 400, "response_format", says="no finite")

    def test_huge_schemas_end_at_once(self):
        big = {"type": "object", "properties": {"p%d" % i: {"type": "string"} for i in range(20000)}}
        names = {"type": "object", "properties": {"p%d" % i: {"type": "string", "maxLength": 9} for i in range(1000)}}
        many = {"enum": ["v%d" % i for i in range(200000)]}
        deep = {"$ref": "#/$defs/d0", "$defs": dict({"d%d" % i: {"type": "array", "items": {"$ref": "#/$defs/d%d" % (i + 1)}}
                                                     for i in range(5000)}, d5000={"type": "null"})}
        nested = {"type": "array", "items": {"type": "string", "minLength": 4000}, "minItems": 4000}
        start = time.monotonic()
        for schema in (big, many, deep):
            status, r = server.chat(response_format=schema_format(schema))
            self.assertEqual((status, r["error"]["param"][:15]), (400, "response_format"), r)
        for schema in (names, nested):
            status, r = server.chat(max_tokens=1, response_format=schema_format(schema))
            self.assertEqual(status, 200, r)
        self.assertLess(time.monotonic() - start, 30)

    def test_formats_are_checked(self):
        for value, param in (("json", "response_format"), ({}, "response_format.type"), ({"type": "xml"}, "response_format.type"),
                             ({"type": "json_schema"}, "response_format.json_schema"),
                             ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
                             ({"type": "json_schema", "json_schema": {"schema": 5}}, "response_format.json_schema.schema"),
                             ({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}},
                              "response_format.json_schema.strict")):
            self.check_error(server.chat(response_format=value), 400, param)
        self.check_error(server.chat(grammar='root ::= "a"', json_schema={}), 400, "grammar")
        self.check_error(server.chat(ignore_eos=True, json_schema={}), 400, "ignore_eos")
        self.assertEqual(server.chat(response_format={"type": "text"}, max_tokens=1)[0], 200)


class Grammars(ApiTest):
    def test_the_answer_is_of_the_grammar(self):
        status, r = server.chat("yes or no?", max_tokens=20, temperature=1.3, n=4,
                                grammar='root ::= ("yes" | "no") (", " [a-z]{2,6}){1,2} "."')
        self.assertEqual(status, 200, r)
        for c in r["choices"]:
            self.assertRegex(c["message"]["content"], r"^(yes|no)(, [a-z]{2,6}){1,2}\.$")
            self.assertEqual(c["finish_reason"], "stop")
        _, r = server.chat(max_tokens=30, grammar="root ::= [α-ω]{5} \"😀\"")
        self.assertRegex(r["choices"][0]["message"]["content"], "^[α-ω]{5}😀$")

    def test_a_cut_answer_is_a_beginning(self):
        _, r = server.chat(max_tokens=3, grammar='root ::= "abcdefghijklmnopqrstuvwxyz"')
        self.assertTrue("abcdefghijklmnopqrstuvwxyz".startswith(r["choices"][0]["message"]["content"]))
        self.assertEqual(r["choices"][0]["finish_reason"], "length")

    def test_wrong_grammars_are_refused(self):
        for grammar, says in (('root ::= x', "not defined"), ('root ::= "a"{5,3}', "below its least"),
                              ('root ::= root "a"', "no finite"), ('root ::= ' + "(" * 100000, "too deep"), ("x", "::="),
                              ('root ::= "a"{1000000000}', "4096"), ('a ::= "b"', 'no rule "root"'), ("", ""), (5, "")):
            self.check_error(server.chat(grammar=grammar), 400, "grammar", says=says)

    def test_hostile_grammars_stop_nobody_else(self):
        """Exponential for llama.cpp's own sampler: here it is answered, or ends as an error of its own request."""
        hostile = ['root ::= s\ns ::= "a" s "b" | "a" s "c" | "a" s "d" | ""', 'root ::= ("a" | "aa" | "aaa" | "aaaa")*',
                   'root ::= s\ns ::= s s | "a" | "b" | " " | ""', 'root ::= ((((("a" | " ")*)*)*)*)* "!"']
        for grammar in hostile:
            status, r = server.chat("a a a a", max_tokens=40, grammar=grammar, logit_bias={})
            self.assertIn(status, (200, 400), r)
            start = time.monotonic()
            self.assertEqual(server.chat(max_tokens=1)[0], 200)
            self.assertLess(time.monotonic() - start, 20)


if __name__ == "__main__":
    unittest.main()

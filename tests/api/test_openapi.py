"""The OpenAPI page is true: every route that takes a body has one described, and what Schemathesis makes of the page (thousands
of requests in its spirit, a few hundred here) never gets an undocumented status, another type, or a reply of another shape."""
import json
import os
import subprocess
import sys
import unittest

import harness

harness.need(harness.tiny("llama"))
server = None
FAMILIES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens",
            "/v1/responses", "/v1/responses/{id}", "/v1/responses/{id}/input_items", "/v1/tokenize", "/v1/detokenize",
            "/api/v0/chat/completions", "/api/v0/completions", "/api/v0/embeddings", "/api/v1/chat")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def setUpModule():
    global server
    server = harness.Server(harness.tiny("llama"), ["--ctx", "64", "--parallel", "2"])


def tearDownModule():
    server.stop()


def page():
    return server.get("/openapi.json")[1]


class Page(unittest.TestCase):
    def test_every_post_describes_its_body(self):
        schemas = page()["components"]["schemas"]
        for path, methods in page()["paths"].items():
            if "post" not in methods:
                continue
            ref = methods["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            self.assertIn(ref.rsplit("/", 1)[1], schemas, path)
            if path in FAMILIES:
                self.assertNotEqual(ref, "#/components/schemas/AnyObject", path)

    def test_every_reference_leads_somewhere(self):
        schemas = page()["components"]["schemas"]

        def walk(v):
            if isinstance(v, dict):
                if "$ref" in v:
                    self.assertIn(v["$ref"].rsplit("/", 1)[1], schemas)
                for x in v.values():
                    walk(x)
            elif isinstance(v, list):
                for x in v:
                    walk(x)
        walk(page())

    def test_path_parameters_are_declared(self):
        for path, methods in page()["paths"].items():
            names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
            for method in methods.values():
                self.assertEqual([p["name"] for p in method.get("parameters", []) if p["in"] == "path"], names, path)


class Schemathesis(unittest.TestCase):
    def run_on(self, described, examples):
        if not os.path.isdir(os.path.join(harness.SDK, "python", "schemathesis")):
            self.skipTest("skip: no Schemathesis (tools/sdks.sh)")
        path = os.path.join(server.dir.name, "page.json")
        with open(path, "w") as f:
            json.dump(described, f)
        command = [sys.executable, "-m", "schemathesis.cli", "run", path, "--url", "http://127.0.0.1:%d" % server.port,
                   "--phases", "fuzzing", "--max-examples", str(examples), "--checks", CHECKS, "--seed", "1", "--no-color",
                   "--request-timeout", "60", "--suppress-health-check", "all", "--generation-database", "none"]
        env = dict(os.environ, PYTHONPATH=os.path.join(harness.SDK, "python"))
        p = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280)
        self.assertEqual(p.returncode, 0, p.stdout[-4000:] + p.stderr[-2000:])
        self.assertIn("%d passed" % len(described["x-tested"]), p.stdout, p.stdout[-2000:])

    def families(self, only):
        described = page()
        described["paths"] = {path: described["paths"][path] for path in only}
        described["x-tested"] = [m for path in only for m in described["paths"][path]]
        for schema in described["components"]["schemas"].values():
            properties = schema.get("properties", {})
            if "model" in properties:
                properties["model"] = {"const": server.model}
            for name in ("logit_bias", "interventions", "activation_hooks", "activation_format", "chat_template_kwargs",
                         "response_format", "json_schema", "grammar", "regex", "choices", "previous_response_id", "ttl"):
                properties.pop(name, None)  # hardly any random value of these is right
        return described

    def test_what_is_described_is_served(self):
        self.run_on(self.families(FAMILIES), 5)

    def test_no_route_breaks(self):
        described = page()
        sockets = [p for p, m in described["paths"].items() if "WebSocket" in m.get("get", {}).get("summary", "")]
        described["paths"] = {p: m for p, m in described["paths"].items() if p not in sockets and "/models" not in p}
        described["x-tested"] = [m for methods in described["paths"].values() for m in methods]
        self.run_on(described, 2)


if __name__ == "__main__":
    unittest.main()

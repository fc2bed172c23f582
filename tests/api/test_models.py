"""Model management: lists, loading on demand and by hand, unloading, room, downloads, NeuroScope's and LM Studio's routes.

The models are copies of tiny ones in a folder made for the test."""
import concurrent.futures
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import unittest

import harness
from harness import ApiTest, Server, need, run, tiny

need(tiny("llama"), tiny("gpt2"), tiny("qwen3"), tiny("mixtral"))

V0_KEYS = {"id", "object", "type", "publisher", "arch", "compatibility_type", "quantization", "state", "max_context_length"}


def wait(check, seconds=20):
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError("it did not become true")
        time.sleep(0.02)


class ModelsTest(ApiTest):
    ARGS = ()
    MODEL = False
    FILES = {"acme/tiny-llama/llama.gguf": "llama", "acme/tiny-qwen/qwen.gguf": "qwen3", "acme/tiny-moe/moe.gguf": "mixtral"}

    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory(prefix="glia-models-")
        cls.folder = os.path.join(cls.temp.name, "models")
        for path, family in cls.FILES.items():
            cls.put(path, tiny(family))
        cls.server = Server(cls.MODEL, ["--models-dir", cls.folder] + [a.replace("@", cls.temp.name) for a in cls.ARGS],
                            env={"XDG_CACHE_HOME": os.path.join(cls.temp.name, "cache")})

    @classmethod
    def put(cls, path, source):
        full = os.path.join(cls.folder, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        shutil.copy(source, full)
        return full

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.temp.cleanup()

    def complete(self, model=None, **fields):
        body = dict({"prompt": "abc", "max_tokens": 2, "temperature": 0}, **fields)
        if model is not None:
            body["model"] = model
        return self.server.post("/v1/completions", body)

    def states(self):
        status, body = self.server.get("/api/v0/models")
        self.assertEqual(status, 200)
        return {m["id"]: m["state"] for m in body["data"]}

    def instances(self, key=None):
        status, body = self.server.get("/api/v1/models")
        self.assertEqual(status, 200)
        return [i for m in body["models"] for i in m["loaded_instances"] if key in (None, m["key"])]

    def load(self, model, **fields):
        return self.server.post("/api/v1/models/load", dict(fields, model=model))

    def unload(self, instance, **fields):
        return self.server.post("/api/v1/models/unload", dict(fields, instance_id=instance))

    def unload_all(self):
        for i in self.instances():
            self.assertEqual(self.unload(i["id"])[0], 200)

    def check_v1_error(self, reply, status, kind, code=None, param=None, says=""):
        got, body = reply
        self.assertEqual(got, status, body)
        self.assertEqual(body["error"]["type"], kind, body)
        self.assertIn(says, body["error"]["message"])
        if code:
            self.assertEqual(body["error"]["code"], code, body)
        if param:
            self.assertEqual(body["error"]["param"], param, body)


class OnDemand(ModelsTest):
    ARGS = ["--alias", "gpt-oss-20b=tiny-qwen"]

    def setUp(self):
        self.unload_all()

    def test_a_model_that_is_named_is_loaded_and_then_answers_as_if_it_had_been(self):
        status, first = self.complete("tiny-llama")
        self.assertEqual(status, 200, first)
        self.assertEqual(first["model"], "tiny-llama")
        self.assertEqual(self.complete("tiny-llama")[1]["choices"], first["choices"])
        self.assertEqual(self.states(), {"tiny-llama": "loaded", "tiny-qwen": "not-loaded", "tiny-moe": "not-loaded"})

    def test_every_spelling_means_the_same_instance(self):
        for name in ("tiny-llama", "Tiny-LLaMA", "acme/tiny-llama", "llama.gguf", "acme/tiny-llama/llama.gguf"):
            status, body = self.complete(name)
            self.assertEqual((status, body.get("model")), (200, "tiny-llama"), body)
        raw = '{"prompt": "abc", "max_tokens": 1, "model": "acme\\/tiny\\u002dllama"}'  # as some clients escape
        status, _, body = self.server.raw("POST", "/v1/completions", raw, {"Content-Type": "application/json"})
        self.assertEqual(status, 200, body)
        self.assertEqual(len(self.instances()), 1)

    def test_all_routes_load_on_demand(self):
        chat = {"model": "tiny-qwen", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "temperature": 0}
        for path, body in (("/v1/chat/completions", chat), ("/v1/tokenize", {"model": "tiny-qwen", "text": "abc"}),
                           ("/v1/chat/completions/with_activations",
                            dict(chat, activation_hooks=[{"layer": 0, "component": "resid_post"}]))):
            status, reply = self.server.post(path, body)
            self.assertEqual(status, 200, reply)
            self.assertEqual([i["id"] for i in self.instances()], ["tiny-qwen"])
            self.unload_all()
        events = self.server.sse("/v1/chat/completions", chat)
        self.assertEqual(events[-1]["choices"][0]["finish_reason"], "length")

    def test_lm_studios_chat_tells_of_the_load(self):
        body = {"model": "tiny-qwen", "input": "hi", "max_output_tokens": 2, "temperature": 0}
        status, reply = self.server.post("/api/v1/chat", body)
        self.assertEqual(status, 200, reply)
        self.assertGreater(reply["stats"]["model_load_time_seconds"], 0)
        self.assertNotIn("model_load_time_seconds", self.server.post("/api/v1/chat", body)[1]["stats"])
        for loads in (True, False):
            if loads:
                self.unload_all()
            _, data = self.server.stream("/api/v1/chat", body)
            events = [e.split("\n")[0][7:] for e in data.decode().split("\n\n") if e]
            self.assertEqual(events[0], "chat.start")
            self.assertEqual(events[1:4], ["model_load.start", "model_load.progress", "model_load.end"] if loads else events[1:4])
            self.assertEqual("model_load.start" in events, loads)

    def test_lm_studios_chat_may_say_how_much_context_is_loaded(self):
        body = {"model": "tiny-qwen", "input": "hi", "max_output_tokens": 2}
        self.assertEqual(self.server.post("/api/v1/chat", dict(body, context_length=128))[0], 200)
        self.assertEqual(self.instances()[0]["config"]["context_length"], 128)
        self.check_v1_error(self.server.post("/api/v1/chat", dict(body, context_length=256)), 400, "invalid_request",
                            param="context_length", says="128")

    def test_many_clients_wait_for_one_load_and_others_are_not_held_up(self):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(lambda i: self.complete(("tiny-llama", "tiny-qwen")[i % 2]), range(16)))
        self.assertEqual({s for s, _ in replies}, {200})
        self.assertEqual(sorted(i["id"] for i in self.instances()), ["tiny-llama", "tiny-qwen"])

    def test_a_client_that_leaves_while_it_waits_disturbs_nobody(self):
        body = b'{"model": "tiny-moe", "prompt": "abc", "max_tokens": 200}'
        for _ in range(5):
            s = socket.create_connection(("127.0.0.1", self.server.port))
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body)
            s.close()
        self.assertEqual(self.complete("tiny-moe")[0], 200)
        wait(lambda: all(i["in_use"] == 0 for i in self.instances()))

    def test_an_idle_model_is_unloaded_after_the_time_that_a_request_gave(self):
        self.assertEqual(self.complete("tiny-llama", ttl=0.2)[0], 200)
        wait(lambda: self.states()["tiny-llama"] == "not-loaded")
        self.assertEqual(self.complete("tiny-llama", ttl=1000)[0], 200)
        self.assertEqual(self.instances()[0]["ttl_seconds"], 1000)
        for bad in (0, -1, "5", True, []):
            self.check_error(self.complete("tiny-llama", ttl=bad), 400, "ttl")

    def test_a_busy_model_is_not_idle(self):
        done = []
        def long():
            done.append(self.complete("tiny-llama", ttl=0.05, max_tokens=250, logit_bias={}))
        t = threading.Thread(target=long)
        t.start()
        t.join()
        self.assertEqual(done[0][0], 200, done)
        self.assertEqual(done[0][1]["usage"]["completion_tokens"], 250)

    def test_an_alias_is_another_name(self):
        status, body = self.complete("gpt-oss-20b")
        self.assertEqual((status, body.get("model")), (200, "tiny-qwen"), body)
        ids = {m["id"]: m for m in self.server.get("/v1/models")[1]["data"]}
        self.assertIn("gpt-oss-20b", ids)
        self.assertEqual(ids["gpt-oss-20b"]["status"], "loaded")
        self.assertEqual(self.server.get("/v1/models/gpt-oss-20b")[1]["id"], "tiny-qwen")

    def test_names_that_mean_nothing_are_404_and_say_what_is_there(self):
        self.check_error(self.complete("no-such"), 404, "model", "model_not_found", says=["no-such", "tiny-llama"])
        status, body = self.complete()
        self.assertEqual(status, 503, body)
        self.assertIn("tiny-llama", body["error"]["message"])
        self.check_error(self.server.get("/api/v1/models/tiny-llama/hooks"), 404, "model", says="not loaded")

    def test_a_file_that_came_or_went_is_noticed(self):
        full = self.put("acme/late/late.gguf", tiny("llama"))
        wait(lambda: "late" in self.states())
        self.assertEqual(self.complete("late")[0], 200)
        self.unload_all()
        os.remove(full)
        wait(lambda: "late" not in self.states())

    def test_files_that_are_no_models_are_left_out_or_refused(self):
        bad = self.put("acme/bad/bad.gguf", tiny("llama"))
        os.truncate(bad, 3000)
        part = self.put("acme/half/half-00001-of-00002.gguf", tiny("llama"))
        try:
            wait(lambda: "half" in self.states())
            self.assertNotIn("bad", self.states())
            self.check_error(self.complete("half"), 400, "model", says="part 2 of 2 is missing")
            self.check_v1_error(self.load("half"), 400, "invalid_request", param="model", says="part 2 of 2")
            self.check_v1_error(self.load(bad), 400, "invalid_request", says="fetch it again")
        finally:
            shutil.rmtree(os.path.dirname(bad))
            shutil.rmtree(os.path.dirname(part))


class Lists(ModelsTest):
    MODEL = tiny("gpt2")
    FILES = dict(ModelsTest.FILES, **{"acme/two/two.Q8.gguf": "llama", "acme/two/two.F16.gguf": "llama"})

    def test_v0(self):
        status, body = self.server.get("/api/v0/models")
        self.assertEqual((status, body["object"]), (200, "list"))
        by_id = {m["id"]: m for m in body["data"]}
        self.assertEqual(set(by_id), {"gpt2", "tiny-llama", "tiny-qwen", "tiny-moe", "two@two.f16", "two@two.q8"})
        for m in by_id.values():
            self.assertEqual(set(m) - {"loaded_context_length", "capabilities"}, V0_KEYS)
            self.assertEqual((m["object"], m["type"], m["compatibility_type"]), ("model", "llm", "gguf"))
            self.assertEqual("loaded_context_length" in m, m["state"] == "loaded")
        self.assertEqual(by_id["gpt2"]["loaded_context_length"], 256)
        self.assertEqual(self.server.get("/api/v0/models/tiny-qwen")[1], by_id["tiny-qwen"])
        self.assertEqual(self.server.get("/api/v0/models/acme/tiny-qwen")[1], by_id["tiny-qwen"])
        self.assertEqual(self.server.get("/api/v0/models/acme%2Ftiny-qwen")[1], by_id["tiny-qwen"])
        self.assertEqual(self.server.get("/api/v0/models/two@two.q8")[1], by_id["two@two.q8"])
        self.check_error(self.server.get("/api/v0/models/none"), 404, "model", "model_not_found")

    def test_v1(self):
        status, body = self.server.get("/api/v1/models")
        self.assertEqual((status, set(body)), (200, {"models"}))
        by_key = {m["key"]: m for m in body["models"]}
        self.assertEqual(set(by_key), {"gpt2", "tiny-llama", "tiny-qwen", "tiny-moe", "two"})
        for m in by_key.values():
            self.assertEqual((m["type"], m["format"]), ("llm", "gguf"))
            self.assertEqual(set(m["quantization"]), {"name", "bits_per_weight"})
            self.assertEqual(m["quantization"]["bits_per_weight"], 32)
            self.assertFalse(m["capabilities"]["vision"])
            self.assertGreater(m["size_bytes"], 100000)
            self.assertTrue(re.fullmatch(r"\d+K", m["params_string"]), m)
        config = by_key["gpt2"]["loaded_instances"][0]["config"]
        self.assertEqual((config["context_length"], config["eval_batch_size"], config["parallel"]), (256, 512, 4))
        self.assertNotIn("num_experts", config)
        self.assertEqual(by_key["tiny-llama"]["loaded_instances"], [])
        self.assertEqual(by_key["tiny-llama"]["size_bytes"], os.path.getsize(tiny("llama")))
        self.assertEqual((by_key["two"]["variants"], by_key["two"]["selected_variant"]),
                         (["two@two.f16", "two@two.q8"], "two@two.f16"))
        self.assertNotIn("variants", by_key["tiny-llama"])

    def test_openai_and_neuroscope_read_the_same_list(self):
        status, body = self.server.get("/v1/models")
        self.assertEqual(status, 200)
        self.assertEqual(body["data"], body["models"])
        self.assertEqual((body["object"], body["current_model"], body["data"][0]["id"]), ("list", "gpt2", "gpt2"))
        for m in body["data"]:
            for key in ("id", "model_id", "object", "created", "owned_by", "status", "supports_activations", "is_current"):
                self.assertIn(key, m)
            self.assertEqual(m["is_current"], m["id"] == "gpt2")
            self.assertEqual(m["supports_activations"], True if m["status"] == "loaded" else None)
        self.assertEqual(self.server.get("/v1/models/tiny-llama")[1]["status"], "not-loaded")

    def test_neuroscopes_own_routes(self):
        status, body = self.server.get("/v1/models/available")
        self.assertEqual(status, 200)
        self.assertEqual((body["loaded_models"], body["current_model"], body["total_loaded"]), (["gpt2"], "gpt2", 1))
        self.assertEqual((body["total_available"], body["search_paths"]), (6, [os.path.realpath(self.folder)]))
        llama = [m for m in body["available_models"] if m["model_id"] == "tiny-llama"][0]
        self.assertEqual(llama["files"], ["llama.gguf"])
        self.assertAlmostEqual(llama["size_mb"], os.path.getsize(llama["model_path"]) / 1e6, places=2)
        status, body = self.server.get("/models")
        self.assertEqual({m["id"] for m in body["models"]}, {m["model_id"] for m in self.server.get("/v1/models/available")[1]["available_models"]})
        self.assertEqual(self.server.get("/models/gpt2")[1]["status"], "loaded")
        self.assertEqual(self.server.get("/models/acme/tiny-qwen")[1]["status"], "not-loaded")
        self.assertEqual(self.server.get("/models/none")[0], 404)

    def test_clients_recognise_the_server(self):
        self.assertEqual(self.server.get("/lmstudio-greeting"), (200, {"lmstudio": True}))
        status, body = self.server.get("/lms-status")
        self.assertEqual((status, set(body)), (200, {"package", "version"}))

    def test_the_first_model_stays_the_default(self):
        self.assertEqual(self.complete("tiny-llama", ttl=0.1)[1]["model"], "tiny-llama")
        self.assertEqual(self.complete()[1]["model"], "gpt2")
        wait(lambda: self.states()["tiny-llama"] == "not-loaded")

    def test_the_command_lists_the_folder(self):
        env = {"XDG_CACHE_HOME": os.path.join(self.temp.name, "cache")}
        status, out, _ = run("models", "--models-dir", self.folder, env=env)
        self.assertEqual(status, 0)
        lines = out.splitlines()
        self.assertEqual(lines[0].split(), ["KEY", "ARCH", "PARAMS", "QUANT", "SIZE", "CONTEXT", "MEMORY"])
        self.assertEqual({l.split()[0] for l in lines[1:]}, {"tiny-llama", "tiny-moe", "tiny-qwen", "two@two.f16", "two@two.q8"})
        status, out, _ = run("models", "acme/tiny-moe", "--models-dir", self.folder, "--json", "--ctx", "64", env=env)
        models = json.loads(out)["models"]
        self.assertEqual([m["key"] for m in models], ["tiny-moe"])
        memory = models[0]["memory"]
        self.assertEqual(memory["total_bytes"], memory["weights_bytes"] + memory["kv_cache_bytes"] + memory["compute_bytes"])
        status, out, _ = run("models", "tiny-moe", "--models-dir", self.folder, env=env)
        self.assertIn("experts", out)
        status, _, err = run("models", "zzz", "--models-dir", self.folder, env=env)
        self.assertEqual(status, 1)
        self.assertIn("zzz", err)
        self.assertEqual(run("models", "a", "b")[0], 2)


class ByHand(ModelsTest):
    ARGS = ["--no-jit"]

    def setUp(self):
        self.unload_all()

    def test_nothing_loads_by_itself(self):
        self.check_error(self.complete("tiny-llama"), 404, "model", "model_not_found", says=["/api/v1/models/load", "--jit"])
        self.assertEqual(self.server.get("/v1/models")[1]["data"], [])
        self.assertEqual(set(self.states().values()), {"not-loaded"})
        self.check_error(self.server.get("/v1/models/tiny-llama"), 404, "model", "model_not_found")

    def test_a_configuration_file_can_say_so_too(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
            f.write("jit = no\nmodels-dir = %s\nalias = other=tiny-llama\n" % self.folder)
            f.flush()
            server = Server(False, ["--config", f.name])
            try:
                status, body = server.post("/v1/completions", {"model": "other", "prompt": "a"})
                self.assertEqual((status, body["error"]["code"]), (404, "model_not_found"), body)
            finally:
                server.stop()

    def test_load_says_what_it_did(self):
        status, body = self.load("tiny-llama")
        self.assertEqual(status, 200, body)
        self.assertEqual(set(body), {"type", "instance_id", "load_time_seconds", "status"})
        self.assertEqual((body["type"], body["instance_id"], body["status"]), ("llm", "tiny-llama", "loaded"))
        self.assertGreater(body["load_time_seconds"], 0)
        self.assertEqual(self.complete("tiny-llama")[0], 200)
        self.assertEqual(self.complete()[1]["model"], "tiny-llama")
        self.assertEqual([m["id"] for m in self.server.get("/v1/models")[1]["data"]], ["tiny-llama"])
        self.assertIsNone(self.instances()[0]["ttl_seconds"])  # it stays

    def test_load_takes_a_configuration_and_echoes_it(self):
        status, body = self.load("tiny-moe", context_length=128, eval_batch_size=64, flash_attention=False, parallel=2,
                                 kv_cache_type="f32", num_experts=2, echo_load_config=True, identifier="mine", ttl=500)
        self.assertEqual(status, 200, body)
        self.assertEqual(body["instance_id"], "mine")
        config = body["load_config"]
        self.assertEqual({k: config[k] for k in ("context_length", "eval_batch_size", "flash_attention", "parallel",
                                                 "kv_cache_type", "num_experts")},
                         {"context_length": 128, "eval_batch_size": 64, "flash_attention": False, "parallel": 2,
                          "kv_cache_type": "f32", "num_experts": 2})
        self.assertEqual(self.instances("tiny-moe")[0]["config"], config)
        self.assertEqual(self.instances("tiny-moe")[0]["ttl_seconds"], 500)
        status, body = self.complete("mine", prompt=[1] * 127, max_tokens=2)
        self.assertEqual((status, body["error"]["code"]), (400, "context_length_exceeded"))

    def test_the_same_load_again_is_the_same_instance_another_one_is_numbered(self):
        self.assertEqual(self.load("tiny-llama")[1]["instance_id"], "tiny-llama")
        self.assertEqual(self.load("acme/tiny-llama", context_length=256)[1]["instance_id"], "tiny-llama")
        self.assertEqual(self.load("tiny-llama", context_length=64)[1]["instance_id"], "tiny-llama:2")
        self.assertEqual(self.load("tiny-llama", new_instance=True)[1]["instance_id"], "tiny-llama:3")
        self.assertEqual(len(self.instances("tiny-llama")), 3)
        self.assertEqual(self.complete("tiny-llama:2", prompt=[1] * 60)[0], 200)
        self.check_v1_error(self.load("tiny-qwen", identifier="tiny-llama"), 400, "invalid_request", param="identifier")

    def test_load_is_strict(self):
        for fields, code, param in (({"seed": 1}, "unrecognized_keys", "seed"), ({"context_length": "8"}, None, "context_length"),
                                    ({"context_length": 1}, None, "context_length"), ({"parallel": 0}, None, "parallel"),
                                    ({"flash_attention": 1}, None, "flash_attention"), ({"kv_cache_type": "f7"}, None, "kv_cache_type"),
                                    ({"num_experts": 4}, None, "num_experts"), ({"ttl": 0}, None, "ttl"),
                                    ({"identifier": "a b"}, None, "identifier")):
            self.check_v1_error(self.load("tiny-llama", **fields), 400, "invalid_request", code, param)
        self.check_v1_error(self.server.post("/api/v1/models/load", {}), 400, "invalid_request",
                            "missing_required_parameter", "model")
        self.check_v1_error(self.load("none"), 404, "model_not_found", "model_not_found", "model")
        status, _, body = self.server.raw("POST", "/api/v1/models/load", b"{nope", {"Content-Type": "application/json"})
        self.check_v1_error((status, json.loads(body)), 400, "invalid_request")
        self.assertEqual(self.instances(), [])

    def test_unload_waits_for_requests_under_way_or_refuses(self):
        self.load("tiny-llama", parallel=1)
        c = self.server.connect()
        c.request("POST", "/v1/completions", json.dumps({"model": "tiny-llama", "prompt": "a", "max_tokens": 200, "stream": True,
                                                        "temperature": 1, "seed": 1}), {"Content-Type": "application/json"})
        r = c.getresponse()
        r.read1(64)  # it runs, and its reader is slow: the reply fits no socket buffer only if we are unlucky
        refused = self.unload("tiny-llama", when_busy="refuse")
        gone = self.unload("tiny-llama") if refused[0] == 429 else refused
        text = r.read()
        c.close()
        if refused[0] == 429:
            self.check_v1_error(refused, 429, "invalid_request", "busy", says="in use")
        self.assertEqual(gone, (200, {"instance_id": "tiny-llama"}))
        self.assertTrue(text.endswith(b"data: [DONE]\n\n"), text[-200:])  # whole, although the model was to go
        self.assertEqual(self.instances(), [])
        self.check_v1_error(self.unload("tiny-llama"), 404, "model_not_found", param="instance_id")
        self.check_v1_error(self.server.post("/api/v1/models/unload", {"model": "x"}), 400, "invalid_request", "unrecognized_keys")
        self.check_v1_error(self.server.post("/api/v1/models/unload", {}), 400, "invalid_request", "missing_required_parameter")
        self.check_v1_error(self.unload("x", when_busy="shoot"), 400, "invalid_request", param="when_busy")

    def test_neuroscope_loads_by_path(self):
        path = os.path.join(self.folder, "acme/tiny-qwen/qwen.gguf")
        status, body = self.server.post("/v1/models/load", {"model_path": path, "model_id": "scope", "max_kv_size": 64,
                                                            "kv_bits": 16, "trust_remote_code": False})
        self.assertEqual((status, body), (200, {"model_id": "scope", "status": "loaded", "supports_activations": True}))
        self.assertEqual(self.instances("tiny-qwen")[0]["config"]["context_length"], 64)
        status, body = self.server.post("/v1/models/load", {"model_path": harness.tiny("gpt2")})  # outside of the folders
        self.assertEqual((status, body["model_id"]), (200, "gpt2"))
        self.assertEqual(self.complete("gpt2")[0], 200)
        self.check_error(self.server.post("/v1/models/load", {}), 400, "model_path")
        self.check_error(self.server.post("/v1/models/load", {"model_path": "/nonexistent.gguf"}), 404, "model")
        self.check_error(self.server.post("/v1/models/load", {"model_path": path, "trust_remote_code": True}), 400,
                         "trust_remote_code")
        self.check_error(self.server.post("/v1/models/load", {"model_path": path, "vocab_only": True}), 400, "vocab_only")

    def test_estimate_says_what_load_will_take(self):
        status, small = self.server.post("/api/v1/models/estimate", {"model": "tiny-llama", "context_length": 256, "parallel": 1})
        self.assertEqual(status, 200, small)
        big = self.server.post("/api/v1/models/estimate", {"model": "tiny-llama", "context_length": 1024, "parallel": 2})[1]
        self.assertEqual(big["kv_cache_bytes"], 8 * small["kv_cache_bytes"])
        self.load("tiny-llama", context_length=256, parallel=1)
        taken = self.instances()[0]["memory"]
        self.assertEqual(taken["kv_cache_bytes"], small["kv_cache_bytes"])
        self.assertEqual(taken["estimated_bytes"], small["total_bytes"])
        self.check_v1_error(self.server.post("/api/v1/models/estimate", {"model": "none"}), 404, "model_not_found")


class Room(ModelsTest):
    ARGS = ["--max-loaded", "2"]

    def test_the_least_recently_used_goes_and_what_was_loaded_by_hand_stays(self):
        self.assertEqual(self.load("tiny-llama")[0], 200)
        self.assertEqual(self.complete("tiny-qwen")[0], 200)
        self.assertEqual(self.complete("tiny-moe")[0], 200)
        self.assertEqual(self.states(), {"tiny-llama": "loaded", "tiny-qwen": "not-loaded", "tiny-moe": "loaded"})
        self.assertEqual(self.load("tiny-moe")[0], 200)  # now both are by hand
        status, body = self.complete("tiny-qwen")
        self.assertEqual((status, body["error"]["code"]), (429, "busy"), body)
        self.assertIn("unload one first", body["error"]["message"])
        self.assertEqual(self.unload("tiny-llama")[0], 200)
        self.assertEqual(self.complete("tiny-qwen")[0], 200)


class Budget(ModelsTest):
    ARGS = ["--memory-budget", "8M"]

    def test_a_model_beyond_the_budget_is_refused_before_it_is_loaded(self):
        status, body = self.load("tiny-llama", context_length=65536)
        self.check_v1_error((status, body), 507, "internal_error", "out_of_memory", says="--memory-budget")
        self.assertEqual([self.complete(m)[0] for m in ("tiny-llama", "tiny-qwen", "tiny-moe")], [200, 200, 200])
        loaded = [m for m, s in self.states().items() if s == "loaded"]
        self.assertIn("tiny-moe", loaded)
        self.assertLess(len(loaded), 3)
        self.assertLessEqual(sum(i["memory"]["estimated_bytes"] for i in self.instances()), 8 << 20)


class Downloads(ModelsTest):
    ARGS = ["--mirror", "@/mirror"]
    FILES = {"acme/tiny-qwen/qwen.gguf": "qwen3"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        os.makedirs(os.path.join(cls.temp.name, "mirror/pub/nice"))
        cls.source = os.path.join(cls.temp.name, "mirror/pub/nice/nice.gguf")
        shutil.copy(tiny("llama"), cls.source)

    def download(self, model, **fields):
        return self.server.post("/api/v1/models/download", dict(fields, model=model))

    def end_of(self, job):
        path = "/api/v1/models/download/status/" + job["job_id"]
        wait(lambda: self.server.get(path)[1]["status"] != "downloading")
        return self.server.get(path)[1]

    def test_from_the_mirror_by_name_with_progress_and_once(self):
        status, job = self.download("pub/nice")
        self.assertEqual(status, 200, job)
        self.assertTrue(re.fullmatch(r"job_[0-9a-f]{10}", job["job_id"]))
        self.assertEqual(job["total_size_bytes"], os.path.getsize(self.source))
        self.assertTrue(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["started_at"]))
        self.assertIn(job["status"], ("downloading", "completed"))
        end = self.end_of(job)
        self.assertEqual((end["status"], end["downloaded_bytes"]), ("completed", end["total_size_bytes"]), end)
        self.assertIn("completed_at", end)
        wait(lambda: "nice" in self.states())
        with open(os.path.join(self.folder, "pub/nice/nice.gguf"), "rb") as a, open(self.source, "rb") as b:
            self.assertEqual(a.read(), b.read())
        self.assertEqual(self.complete("nice")[0], 200)
        self.assertEqual(self.download("pub/nice"), (200, {"status": "already_downloaded"}))
        self.check_v1_error(self.download("pub/nice", quantization="Q4_K_M"), 400, "invalid_request", param="quantization")

    def test_from_a_file_url_with_a_checksum(self):
        source = os.path.join(self.temp.name, "a b.gguf")
        shutil.copy(tiny("mixtral"), source)
        with open(source, "rb") as f:
            right = hashlib.sha256(f.read()).hexdigest()
        url = "file://" + source.replace(" ", "%20")
        end = self.end_of(self.download(url, sha256="0" * 64)[1])
        self.assertEqual(end["status"], "failed")
        self.assertIn(right, end["error"])
        end = self.end_of(self.download(url, sha256=right)[1])
        self.assertEqual(end["status"], "completed", end)
        wait(lambda: "a b" in self.states())
        self.assertEqual(self.complete("local/a b")[0], 200)

    def test_what_cannot_be_had_is_told(self):
        self.check_v1_error(self.download("https://example.com/x.gguf"), 400, "invalid_request", param="model", says="opens no connections")
        self.check_v1_error(self.download("pub/none"), 404, "model_not_found")
        self.check_v1_error(self.download("file:///nonexistent.gguf"), 404, "model_not_found")
        self.check_v1_error(self.download("file://elsewhere/x.gguf"), 400, "invalid_request", param="model")
        self.check_v1_error(self.download("file:///etc/passwd"), 400, "invalid_request", says="not a GGUF file")
        self.check_v1_error(self.download("pub/nice", sha256="12"), 400, "invalid_request", param="sha256")
        self.check_v1_error(self.server.post("/api/v1/models/download", {}), 400, "invalid_request", "missing_required_parameter")
        self.check_v1_error(self.server.get("/api/v1/models/download/status/job_0000000000"), 404, "job_not_found")


class Tokens(ModelsTest):
    ARGS = ["--api-key", "sk-lm-abcdefgh:12345678901234567890"]
    FILES = {"acme/tiny-llama/llama.gguf": "llama"}

    def test_every_model_route_asks_for_the_token(self):
        for method, path in (("GET", "/api/v1/models"), ("POST", "/api/v1/models/load"), ("GET", "/api/v0/models"),
                             ("GET", "/v1/models"), ("POST", "/api/v1/models/download"), ("POST", "/v1/completions")):
            status, body = self.server.call(method, path, {} if method == "POST" else None)
            self.assertEqual((status, body["error"]["code"]), (401, "invalid_api_key"), body)
        status, body = self.server.call("GET", "/api/v1/models", headers={"Authorization": "Bearer wrong"})
        self.assertEqual((status, body["error"]["type"]), (401, "invalid_request"))
        self.assertEqual(self.server.get("/lmstudio-greeting")[0], 200)
        token = {"Authorization": "Bearer sk-lm-abcdefgh:12345678901234567890"}
        self.assertEqual(self.server.call("GET", "/api/v1/models", headers=token)[0], 200)
        body = {"model": "tiny-llama", "prompt": "a", "max_tokens": 1}
        self.assertEqual(self.server.call("POST", "/v1/completions", body, token)[0], 200)


class Memory(ModelsTest):
    """A model of a real size: what the process grows by, beside what was estimated."""
    FILES = {}

    def rss(self):
        with open("/proc/%d/status" % self.server.process.pid) as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) * 1024

    def test_the_process_grows_by_about_the_estimate(self):
        if not os.path.exists(harness.MODEL):
            self.skipTest("GLIA_TEST_MODEL is not there")
        if "san" in os.environ.get("GLIA_BIN", ""):
            self.skipTest("a sanitizer takes memory of its own")
        before = self.rss()
        self.assertEqual(self.load(harness.MODEL, context_length=2048, parallel=2, identifier="big")[0], 200)
        self.assertEqual(self.complete("big", prompt=[1] * 600)[0], 200)
        grown, said = self.rss() - before, self.instances()[0]["memory"]["estimated_bytes"]
        self.assertTrue(0.6 * said < grown < 1.3 * said, (grown, said, grown / said))
        self.assertEqual(self.unload("big")[0], 200)
        wait(lambda: self.rss() - before < 0.5 * grown)


class Stopping(ApiTest):
    def test_the_server_stops_while_models_load_and_requests_wait(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("one", "two"):
                os.makedirs(os.path.join(folder, name))
                os.symlink(harness.MODEL if os.path.exists(harness.MODEL) else tiny("llama"), os.path.join(folder, name, name + ".gguf"))
            for pause in (0, 0.02, 0.1, 0.3):
                server = Server(False, ["--models-dir", folder, "--no-atlas-cache", "--shutdown-grace", "0"])
                waiting = []
                for name in ("one", "two", "two"):
                    c = server.connect()
                    c.request("POST", "/v1/completions", json.dumps({"model": name, "prompt": "a", "max_tokens": 1}),
                              {"Content-Type": "application/json"})
                    waiting.append(c)
                time.sleep(pause)
                server.stop()  # checks that it ends by itself, in time and without leaks
                for c in waiting:
                    c.close()


if __name__ == "__main__":
    unittest.main()

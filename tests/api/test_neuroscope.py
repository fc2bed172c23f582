"""NeuroScope's small routes: hooks that are registered with a model, and the status."""
import threading
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny())

server = None
ROUTE = "/v1/activations/hooks"


def setUpModule():
    global server
    server = harness.Server(harness.tiny(), args=["--parallel", "2"])


def tearDownModule():
    server.stop()


def register(hooks, **fields):
    return server.post(ROUTE, dict({"hooks": hooks}, **fields))


def complete(path="/v1/completions", **fields):
    return server.post(path, dict({"prompt": "abcdef", "max_tokens": 2, "ignore_eos": True, "temperature": 0}, **fields))


class RegisteredHooks(ApiTest):
    def tearDown(self):
        self.assertEqual(server.call("DELETE", ROUTE)[0], 200)

    def test_they_apply_to_later_requests_and_stay(self):
        status, reply = register([{"layer_name": "transformer.h.0", "component": "residual"}])
        self.assertEqual((status, reply["status"], reply["registered_hooks"], reply["model"]),
                         (200, "hooks_registered", ["transformer.h.0_residual"], server.model))
        own = {"activation_hooks": [{"layer": 0, "component": "residual", "hook_id": "x"}]}
        for _ in range(2):
            status, reply = complete()
            self.assertEqual(status, 200)
            self.assertEqual(list(reply["activations"]), ["transformer.h.0_residual"])
            status, named = complete(**own)
            self.assertEqual(list(named["activations"]), ["x", "transformer.h.0_residual"])
            self.assertEqual([e["data"] for e in named["activations"]["x"]],
                             [e["data"] for e in reply["activations"]["transformer.h.0_residual"]])
        # no hooks of its own are needed on the route that requires some
        status, reply = server.chat("Hello", "/v1/chat/completions/with_activations")
        self.assertEqual((status, list(reply["activations"])), (200, ["transformer.h.0_residual"]))
        # a request that wants none
        self.assertNotIn("activations", complete(registered_hooks=False)[1])
        self.assertEqual(server.chat("Hello", "/v1/chat/completions/with_activations", registered_hooks=False)[0], 400)
        # streams
        events = server.sse("/v1/completions", {"prompt": "abc", "max_tokens": 2, "ignore_eos": True})
        self.assertIn("transformer.h.0_residual", [e.get("key") for e in events[:-1]] if isinstance(events[0], dict) else str(events))

    def test_they_add_up_and_the_same_id_is_replaced(self):
        register([{"layer": 0, "component": "residual", "hook_id": "a"}])
        status, reply = register([{"layer": 1, "component": "residual", "hook_id": "b"},
                                  {"layer": 1, "component": "mlp_out", "hook_id": "a"}])
        self.assertEqual((status, reply["registered_hooks"], reply["total"]), (200, ["b", "a"], 2))
        status, listed = server.get(ROUTE)
        self.assertEqual([h["hook_id"] for h in listed["hooks"]], ["b", "a"])
        activations = complete()[1]["activations"]
        self.assertEqual(sorted(activations), ["a", "b"])
        self.assertEqual(activations["a"][0]["point"], "mlp_out")
        status, reply = server.call("DELETE", ROUTE + "?model=" + server.model)
        self.assertEqual((status, reply["status"], reply["cleared"]), (200, "hooks_cleared", 2))
        self.assertNotIn("activations", complete()[1])
        self.assertEqual(server.call("DELETE", ROUTE)[1]["cleared"], 0)

    def test_every_layer(self):
        status, reply = register([{"layer": "*", "component": "resid_post", "hook_id": "all"}])
        self.assertEqual(status, 200)
        self.assertEqual(reply["registered_hooks"], ["all.%d" % i for i in range(len(reply["registered_hooks"]))])
        self.assertEqual(list(complete()[1]["activations"]), reply["registered_hooks"])

    def test_bad_ones_are_refused_and_nothing_is_kept(self):
        for hooks, status, param in (([], 400, "hooks"), ("x", 400, "hooks"),
                                     ([{"layer": 0, "component": "residual"}, {"layer": 99, "component": "residual"}], 400, "hooks[1].layer"),
                                     ([5], 400, "hooks[0]"),
                                     ([{"layer": 0, "component": "residaul"}], 400, "hooks[0].component"),
                                     ([{"layer": 0, "component": "residual", "colour": 1}], 400, "hooks[0].colour"),
                                     ([{"layer": 0, "component": "router_logits"}], 422, "hooks[0]"),
                                     ([{"layer": 0, "component": "residual"}] * 1025, 400, "hooks")):
            got, reply = register(hooks)
            self.assertEqual((got, reply["error"]["param"]), (status, param), reply)
        self.assertEqual(server.post(ROUTE, {})[1]["error"]["param"], "hooks")
        self.assertEqual(server.get(ROUTE)[1]["hooks"], [])
        register([{"layer": 0, "component": "residual"}])
        got, reply = register([{"layer": 99, "component": "residual"}])
        self.assertEqual((got, reply["error"]["param"]), (400, "hooks[0].layer"))
        self.assertEqual(len(server.get(ROUTE)[1]["hooks"]), 1)

    def test_unknown_model(self):
        self.assertEqual(register([{"layer": 0, "component": "residual"}], model="nope")[0], 404)
        self.assertEqual(server.call("DELETE", ROUTE + "?model=nope")[0], 404)
        self.assertEqual(server.get(ROUTE + "?model=nope")[0], 404)

    def test_many_at_once_lose_nothing(self):
        done = []

        def one(i):
            while True:
                status, reply = register([{"layer": 0, "component": "residual", "hook_id": "h%d" % i}])
                if status != 429:
                    done.append((status, reply))
                    return
        threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual({status for status, _ in done}, {200})
        self.assertEqual(sorted(h["hook_id"] for h in server.get(ROUTE)[1]["hooks"]), ["h%d" % i for i in range(8)])

    def test_status(self):
        register([{"layer": 0, "component": "residual"}, {"layer": 1, "component": "residual"}])
        status, reply = server.get("/status")
        self.assertEqual((status, reply["status"], reply["current_model"], reply["models"]), (200, "healthy", server.model, [server.model]))
        self.assertEqual(reply["registered_hooks"], {server.model: 2})
        self.assertEqual(reply["tasks_running"], 0)


class Keys(ApiTest):
    def test_a_key_without_hooks_gets_none(self):
        import os
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "keys")
            with open(path, "w") as f:
                f.write("all-of-it read,infer,hooks,edit,admin\nonly-text read,infer\nhooked read,infer,hooks\n")
            os.chmod(path, 0o600)
            s = harness.Server(harness.tiny(), args=["--api-key-file", path])
            try:
                def post(route, body, key):
                    return s.post(route, body, Authorization="Bearer " + key)
                hooks = {"hooks": [{"layer": 0, "component": "residual", "hook_id": "x"}]}
                self.assertEqual(post(ROUTE, hooks, "hooked")[0], 403)
                self.assertEqual(post(ROUTE, hooks, "all-of-it")[0], 200)
                body = {"prompt": "abc", "max_tokens": 1}
                self.assertNotIn("activations", post("/v1/completions", body, "only-text")[1])
                self.assertEqual(list(post("/v1/completions", body, "hooked")[1]["activations"]), ["x"])
            finally:
                s.stop()


if __name__ == "__main__":
    unittest.main()

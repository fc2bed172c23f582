"""Options from environment and file, keys with scopes, the service manager, stopping, completion."""
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import harness
from harness import ApiTest, Server, need, run, tiny

need(tiny())


class Options(ApiTest):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.dir.cleanup()

    def config(self, text):
        path = os.path.join(self.dir.name, "serve.conf")
        with open(path, "w") as f:
            f.write(text)
        return path

    def context(self, args=(), env=None):
        s = Server(tiny(), args=args, env=env)
        try:
            return s.ready["n_ctx"], s.ready["parallel"]
        finally:
            s.stop()

    def test_command_line_before_environment_before_file(self):
        path = self.config("# a comment\n\n  ctx = 64   # tokens\nparallel=2\ncache-type = \"f32\"\njson = yes\n")
        self.assertEqual(self.context(["--config", path]), (64, 2))
        self.assertEqual(self.context(["--config", path], {"GLIA_CTX": "96"}), (96, 2))
        self.assertEqual(self.context(["--config", path, "--ctx", "128"], {"GLIA_CTX": "96", "GLIA_PARALLEL": "3"}), (128, 3))
        self.assertEqual(self.context([], {"GLIA_CONFIG": path}), (64, 2))

    def test_the_users_own_file_is_found_and_none_reads_none(self):
        os.makedirs(os.path.join(self.dir.name, "glia"))
        with open(os.path.join(self.dir.name, "glia", "serve.conf"), "w") as f:
            f.write("ctx = 64\nparallel = 2\n")
        env = {"XDG_CONFIG_HOME": self.dir.name}
        self.assertEqual(self.context([], env), (64, 2))
        self.assertNotEqual(self.context(["--config", "none"], env)[1], 2)

    def test_mistakes_name_file_line_and_the_way_out(self):
        for text, words in (("ctx = many", ":1: ctx must be a whole number"), ("\nparalel = 2", ':2: unknown option "paralel"'),
                            ("ctx", "not \"name = value\""), ("id = \"open", "quotes of id"), ("json = maybe", "yes or no"),
                            ("flash-attn = maybe", "auto, on, off"), ("config = x", "unknown option"), ("a\0b", "not a text file")):
            status, _, err = run("serve", "--model", "x", "--config", self.config(text))
            self.assertEqual(status, 2, text)
            self.assertIn(words, err)
            self.assertEqual(err.count("\n"), 1, err)
        self.assertIn("cannot read", run("serve", "--config", os.path.join(self.dir.name, "nowhere"))[2])
        status, _, err = run("serve", "--model", "x", env={"GLIA_CTX": "many"})
        self.assertEqual(status, 2)
        self.assertIn("GLIA_CTX must be a whole number", err)


class Keys(ApiTest):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        path = os.path.join(cls.dir.name, "keys")
        with open(path, "w") as f:
            f.write("# who may do what\nreader read\nchatter read,infer # the page\nlab read, infer, hooks\nsurgeon read,infer,hooks,edit\nroot all\n")
        os.chmod(path, 0o600)
        cls.server = Server(tiny(), args=["--api-key-file", path, "--api-key", "whole"])

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.dir.cleanup()

    def ask(self, key, path="/v1/completions", **fields):
        body = dict({"prompt": [1, 2, 3], "max_tokens": 1, "temperature": 0}, **fields)
        return self.server.post(path, body, Authorization="Bearer " + key)

    def get(self, key, path):
        return self.server.raw("GET", path, headers={"x-api-key": key})[0]

    def test_each_key_may_do_what_its_scopes_say(self):
        hook, edit = [{"layer": 0, "component": "resid_post"}], [{"layer": 0, "component": "resid_post", "op": "scale", "strength": 1}]
        may = {"reader": (200, 403, 403, 403, 403), "chatter": (200, 200, 403, 403, 403), "lab": (200, 200, 200, 403, 403),
               "surgeon": (200, 200, 200, 200, 403), "root": (200,) * 5, "whole": (200,) * 5, "nobody": (401,) * 5}
        for key, expected in may.items():
            got = (self.get(key, "/v1/models"), self.ask(key)[0], self.ask(key, activation_hooks=hook)[0],
                   self.ask(key, interventions=edit)[0], self.get(key, "/metrics"))
            self.assertEqual(got, expected, key)

    def test_a_refusal_names_the_scope_and_the_field(self):
        self.check_error(self.ask("reader"), 403, says=("scope infer", "/v1/completions"))
        self.check_error(self.ask("chatter", activation_hooks=[{"layer": 0, "component": "resid_post"}]), 403, "activation_hooks", says="hooks")
        self.check_error(self.ask("lab", interventions=[{"layer": 0, "component": "resid_post", "op": "zero"}]), 403, "interventions", says="edit")

    def test_open_routes_need_no_key(self):
        for path in ("/", "/health", "/openapi.json"):
            self.assertEqual(self.server.raw("GET", path)[0], 200)

    def test_a_bad_key_file_is_refused_with_its_line(self):
        path = os.path.join(self.dir.name, "bad")
        for text, words in (("key dance\n", ':1: no scope "dance"'), ("key\n", "what may this key do"), ("# nothing\n", "holds no key"),
                            ("k" * 5000 + " all\n", "too long")):
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o600)
            status, _, err = run("serve", "--model", tiny(), "--port", "0", "--api-key-file", path)
            self.assertEqual(status, 1)
            self.assertIn(words, err)
        self.assertIn("cannot read", run("serve", "--model", tiny(), "--port", "0", "--api-key-file", path + "-not")[2])


class Service(ApiTest):
    def test_the_service_manager_learns_when_it_is_ready_and_when_it_stops(self):
        with tempfile.TemporaryDirectory() as d, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            path = os.path.join(d, "notify")
            manager.bind(path)
            manager.settimeout(60)
            s = Server(tiny(), env={"NOTIFY_SOCKET": path})
            self.assertEqual(manager.recv(100), b"READY=1")
            s.stop()
            self.assertEqual(manager.recv(100), b"STOPPING=1")

    def stream(self, server, n):
        """A stream under way, its first bytes read."""
        c = server.connect()
        c.request("POST", "/v1/completions", json.dumps({"prompt": [1, 2, 3], "max_tokens": n, "stream": True, "ignore_eos": True,
                                                         "temperature": 0}), {"Content-Type": "application/json"})
        r = c.getresponse()
        self.assertEqual(r.status, 200)
        return c, r, r.read(1)

    def test_a_reply_under_way_is_finished_when_the_server_is_told_to_stop(self):
        server = Server(tiny(), args=["--ctx", "3000", "--shutdown-grace", "60"])
        c, r, first = self.stream(server, 2000)
        server.process.send_signal(signal.SIGTERM)
        data = first + r.read()
        c.close()
        server.process.wait(60)
        server.stop()
        self.assertTrue(data.endswith(b"data: [DONE]\n\n"))

    def test_a_reply_that_takes_longer_than_the_grace_is_cancelled_and_says_so(self):
        server = Server(tiny(), args=["--ctx", "200000", "--shutdown-grace", "0", "--parallel", "1"])
        c, r, first = self.stream(server, 150000)
        server.process.send_signal(signal.SIGTERM)
        try:
            data = first + r.read()
        except Exception as e:  # cut in the middle of a chunk: also an honest end
            data = getattr(e, "partial", b"")
        c.close()
        server.process.wait(60)
        server.stop()
        self.assertNotIn(b"[DONE]", data)


class Completion(ApiTest):
    def test_bash_completes_verbs_flags_and_choices(self):
        status, script, _ = run("completion", "bash")
        self.assertEqual(status, 0)
        def complete(*words):
            line = "%s\nCOMP_WORDS=(%s); COMP_CWORD=%d; _glia; printf '%%s\\n' \"${COMPREPLY[@]}\"" % (
                script, " ".join("'%s'" % w for w in words), len(words) - 1)
            return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()
        self.assertEqual(complete("glia", "ins"), ["inspect"])
        self.assertEqual(complete("glia", "serve", "--cache-t"), ["--cache-type"])
        self.assertEqual(complete("glia", "serve", "--flash-attn", ""), ["auto", "on", "off"])
        self.assertEqual(complete("glia", "harvest", "--statistics"), ["--statistics-only"])

    def test_every_flag_of_serve_is_in_every_script(self):
        flags = [line.split()[0] for line in run("serve", "--help")[1].splitlines() if line.startswith("  --")]
        self.assertGreater(len(flags), 20)
        for shell in ("bash", "zsh", "fish"):
            script = run("completion", shell)[1]
            for flag in flags:
                self.assertIn(flag if shell != "fish" else "-l " + flag[2:], script)
        self.assertEqual(run("completion")[0], 2)
        self.assertEqual(run("completion", "tcsh")[0], 2)

    def test_the_scripts_parse(self):
        for shell in ("bash", "zsh", "fish"):
            if subprocess.run(["sh", "-c", "command -v " + shell], capture_output=True).returncode:
                if shell == "bash":
                    raise AssertionError("no bash")
                continue  # not installed here; bash always is
            p = subprocess.run([shell, "-n"], input=run("completion", shell)[1], capture_output=True, text=True)
            self.assertEqual((p.returncode, p.stderr), (0, ""), shell)


if __name__ == "__main__":
    unittest.main()

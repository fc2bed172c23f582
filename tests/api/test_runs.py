"""Harvests over HTTP and stored runs: started, watched, cancelled, resumed, sliced, deleted."""
import base64
import json
import os
import random
import struct
import tempfile
import time
import unittest

from harness import ApiTest, Server, need, run, tiny

need(tiny())
server = None
folder = None


def setUpModule():
    global server, folder
    folder = tempfile.TemporaryDirectory(prefix="glia-runs-")
    os.mkdir(os.path.join(folder.name, "shared"))
    server = Server(tiny(), ("--store", os.path.join(folder.name, "store"), "--data-dir",
                             os.path.join(folder.name, "shared"), "--ctx", "64", "--cache-type", "f32", "--flash-attn", "off"))


def tearDownModule():
    server.stop()
    folder.cleanup()


def texts(n, seed=5):
    rng = random.Random(seed)
    return ["".join(rng.choice("abcdefgh ijklmn") for _ in range(rng.randint(1, 90))).strip() + "x" for _ in range(n)]


def wait(harvest, until=("completed", "stopped", "failed", "cancelled"), timeout=60):
    deadline = time.monotonic() + timeout
    while True:
        status, r = server.get("/api/v1/harvests/" + harvest)
        assert status == 200, r
        if r["status"] in until:
            return r
        assert time.monotonic() < deadline, r
        time.sleep(0.02)


def start(**fields):
    status, r = server.post("/api/v1/harvests", dict({"points": "resid_post@all,z@1"}, **fields))
    assert status == 200, r
    return r


def slice_of(run, tensor, **query):
    path = "/api/v1/runs/%s/tensors/%s?%s" % (run, tensor, "&".join("%s=%s" % q for q in query.items()))
    status, r = server.get(path)
    assert status == 200, r
    return r


def rows_of(text):
    """resid_post of all layers for one text's first piece, from a request of its own: the reference for a harvest's rows."""
    ids = server.post("/v1/tokenize", {"text": text, "parse_special": False})[1]["tokens"][:64]
    status, r = server.post("/v1/completions", {"prompt": ids, "max_tokens": 0, "cache_prompt": False, "activation_hooks":
                            [{"layer": "*", "component": "resid_post"}]})
    assert status == 200, r
    return {key: entries[0] for key, entries in r["activations"].items()}


class Harvests(ApiTest):
    def close(self, a, b, what=""):
        top = max(abs(x) for row in a for x in row)
        worst = max(abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q))
        self.assertEqual((len(a), len(a[0])), (len(b), len(b[0])), what)
        self.assertLess(worst, 2e-5 * top, what)

    def test_documents_of_a_request_become_rows_that_can_be_sliced(self):
        documents = texts(30)
        h = start(documents=documents, note="thirty", shard_bytes=60000, dtype="float32")
        self.assertEqual((h["object"], h["run"]["note"]), ("harvest", "thirty"))
        done = wait(h["id"])
        self.assertEqual(done["status"], "completed", done)
        self.assertEqual(done["task"]["result"]["end"], "complete")
        self.assertEqual(done["task"]["result"]["documents"], 30)
        status, run = server.get("/api/v1/runs/" + h["id"])
        self.assertEqual((status, run["kind"], run["status"]), (200, "harvest", "complete"))
        self.assertGreater(len(run["files"]), 2)
        self.assertEqual(sum(f["rows"] for f in run["files"]), run["rows"])
        names = [t["name"] for t in run["tensors"]]
        self.assertIn("resid_post.1", names)
        z = next(t for t in run["tensors"] if t["name"] == "z.1")
        self.assertEqual(z["n_heads"] * z["head_dim"], z["width"])
        for d in (0, 7, 29):
            want = rows_of(documents[d])
            got = slice_of(h["id"], "resid_post.1", document=d)
            entry = next(e for e in want.values() if e["layer"] == 1)
            self.assertEqual(got["token_ids"][:64], entry["token_ids"][:64])
            self.assertEqual(set(got["documents"]), {d})
            self.assertEqual(got["offsets"], list(range(len(got["offsets"]))))
            n = min(64, len(entry["token_ids"]))
            self.close(got["data"][:n], entry["data"][0][:n], "document %d" % d)
            part = slice_of(h["id"], "resid_post.1", document=d, offsets="0,-1")
            self.assertEqual(part["data"], [got["data"][0]] + ([got["data"][-1]] if len(got["data"]) > 1 else []))
        # every form of the same rows is the same numbers, also over the edge of two shards
        edge = run["files"][0]["rows"]
        spec = "%d:%d,5,-1" % (edge - 3, edge + 3)
        rows = slice_of(h["id"], "z.1", rows=spec)["data"]
        self.assertEqual(len(rows), 8)
        flat = [x for row in rows for x in row]
        b64 = slice_of(h["id"], "z.1", rows=spec, format="base64")
        raw = base64.b64decode(b64["data"], validate=True)
        self.assertEqual(b64["shape"], [8, z["width"]])
        self.assertEqual(raw, struct.pack("<%df" % len(flat), *flat))
        path = "/api/v1/runs/%s/tensors/z.1?rows=%s" % (h["id"], spec)
        status, headers, body = server.raw("GET", path, headers={"Accept": "application/octet-stream"})
        self.assertEqual((status, headers["content-type"], body), (200, "application/octet-stream", raw))
        status, headers, body = server.raw("GET", path + "&format=npy")
        self.assertEqual((status, headers["content-type"], body[:6]), (200, "application/x-npy", b"\x93NUMPY"))
        self.assertEqual(body[10 + struct.unpack("<H", body[8:10])[0]:], raw)
        one = slice_of(h["id"], "z.1", rows="4", heads="1", channels="0:3,-1")
        head = slice_of(h["id"], "z.1", rows="4")["data"][0][z["head_dim"]:2 * z["head_dim"]]
        self.assertEqual(one["data"], [head[0:3] + head[-1:]])
        self.assertEqual(server.post("/api/v1/runs/%s/verify" % h["id"], {})[1]["verified"], True)

    def test_a_stopped_harvest_goes_on(self):
        documents = texts(60, 9)
        h = start(documents=documents, max_tokens=300, shard_bytes=60000)
        first = wait(h["id"])
        self.assertEqual((first["status"], first["task"]["result"]["end"]), ("stopped", "max_tokens"))
        rows = first["run"]["rows"]
        self.assertGreaterEqual(rows, 300)
        again = start(resume=h["id"], shard_bytes=60000)
        self.assertEqual(again["id"], h["id"])
        done = wait(h["id"])
        self.assertEqual(done["status"], "completed", done)
        self.assertGreater(done["run"]["rows"], rows)
        self.assertEqual(done["task"]["result"]["documents"], 60)
        last = slice_of(h["id"], "resid_post.0", document=59)
        want = next(e for e in rows_of(documents[59]).values() if e["layer"] == 0)
        n = min(64, len(want["token_ids"]))
        self.assertEqual(last["token_ids"][:n], want["token_ids"][:n])
        self.close(last["data"][:n], want["data"][0][:n])

    def test_cancelled_it_keeps_what_is_sealed(self):
        h = start(documents=texts(3000), shard_bytes=60000)
        path = "/api/v1/harvests/" + h["id"]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            r = server.get(path)[1]
            if r["run"]["rows"] and r["task"].get("detail", {}).get("tokens"):
                break
            time.sleep(0.02)
        self.assertEqual((r["status"], r["task"]["detail"]["run"]), ("running", h["id"]))
        self.assertGreater(r["task"]["detail"]["tokens_per_s"], 0)
        self.check_error(server.call("DELETE", "/api/v1/runs/" + h["id"]), 429, "id", says="being written")
        self.check_error(server.post("/api/v1/harvests", {"points": "resid_post@all,z@1", "resume": h["id"]}), 429, "resume")
        self.assertEqual(server.post(path + "/cancel", {})[0], 200)
        r = wait(h["id"])
        self.assertEqual((r["status"], r["run"]["status"]), ("cancelled", "stopped"), r)
        self.assertEqual(slice_of(h["id"], "resid_post.0", rows="0")["offsets"], [0])
        status, r = server.call("DELETE", "/api/v1/runs/" + h["id"])
        self.assertEqual((status, r["deleted"], r["files"]), (200, True, "deleted"))
        self.check_error(server.get(path), 404, "id")
        self.assertFalse(os.path.exists(os.path.join(folder.name, "store", h["id"])))

    def test_data_and_shards_in_shared_folders(self):
        shared = os.path.join(folder.name, "shared")
        with open(os.path.join(shared, "data.txt"), "w") as f:
            f.write("\n".join(texts(20)))
        out = os.path.join(shared, "out")
        h = start(data=os.path.join(shared, "data.txt"), out=out, positions="last")
        done = wait(h["id"])
        self.assertEqual((done["status"], done["run"]["folder"]), ("completed", os.path.realpath(out)), done)
        self.assertTrue(os.path.exists(os.path.join(out, "manifest.json")))
        again = start(data=os.path.join(shared, "data.txt"), out=out, positions="last")  # nothing left to do
        self.assertEqual(again["id"], h["id"])
        self.assertEqual(wait(h["id"])["status"], "completed")
        self.check_error(server.post("/api/v1/harvests", {"points": "z@1", "data": "/etc/passwd"}), 403, "data")
        self.check_error(server.post("/api/v1/harvests", {"points": "z@1", "data": "data.txt"}), 400, "data", says="absolute")
        self.check_error(server.post("/api/v1/harvests", {"points": "z@1", "data": shared + "/../secret"}), 403, "data")
        os.symlink("/etc", os.path.join(shared, "link"))
        self.check_error(server.post("/api/v1/harvests", {"points": "z@1", "data": shared + "/link/passwd"}), 403, "data")
        self.check_error(server.post("/api/v1/harvests", {"points": "z@1", "data": shared + "/none.txt"}), 400, "data",
                         says="No such file")
        self.check_error(server.post("/api/v1/harvests", {"points": "z@1", "documents": ["a"], "out": "/tmp/x"}), 403, "out")
        status, r = server.call("DELETE", "/api/v1/runs/" + h["id"])
        self.assertEqual((status, r["files"]), (200, "kept"))
        self.assertTrue(os.path.exists(os.path.join(out, "manifest.json")))

    def test_what_fails_later_can_be_read_later(self):
        h = start(documents=["good", {"txt": "bad"}])
        r = wait(h["id"])
        self.assertEqual(r["status"], "failed", r)
        self.assertIn("line 2", r["task"]["error"]["message"])
        self.assertEqual(server.call("DELETE", "/api/v1/runs/" + h["id"])[0], 200)

    def test_bad_requests_name_their_field(self):
        good = {"points": "resid_post@all", "documents": ["a"]}
        for change, param in (({"points": None}, "points"), ({"points": "resid_pots@1"}, "points"), ({"points": []}, "points"),
                              ({"documents": None}, "documents"), ({"documents": []}, "documents"),
                              ({"documents": [1]}, "documents[0]"), ({"dtype": "int8"}, "dtype"),
                              ({"positions": "first"}, "positions"), ({"window": 65}, "window"), ({"window": 0}, "window"),
                              ({"shard_bytes": 1}, "shard_bytes"), ({"max_tokens": -1}, "max_tokens"),
                              ({"data": "/x"}, "documents"), ({"note": "x" * 256}, "note"), ({"pionts": "x"}, "pionts"), ({"projection": 5}, "projection"),
                              ({"projection": {"seed": 1}}, "projection.n")):
            self.check_error(server.post("/api/v1/harvests", dict(good, **change)), 400, param)
        self.check_error(server.post("/api/v1/harvests", dict(good, points="router_logits@0")), 422, "points")
        self.check_error(server.post("/api/v1/harvests", dict(good, model="nobody")), 404, "model")
        self.check_error(server.post("/api/v1/harvests", {"points": "z@1", "resume": "run-none"}), 404, "resume")

    def test_bad_slices_name_their_field(self):
        h = start(documents=texts(5))
        wait(h["id"])
        base = "/api/v1/runs/%s/tensors/" % h["id"]
        for path, status, param in (("none", 404, "name"), ("z.1?rows=x", 400, "rows"), ("z.1?rows=", 400, "rows"),
                                    ("z.1?rows=0:99999999", 400, "rows"), ("z.1?rows=5:2", 400, "rows"),
                                    ("z.1?rows=99999999999999999999", 400, "rows"), ("z.1?rows=0,", 400, "rows"),
                                    ("z.1?rows=-0", 400, "rows"),
                                    ("z.1?document=5", 404, "document"), ("z.1?document=-1", 400, "document"),
                                    ("z.1?document=1x", 400, "document"),
                                    ("z.1?positions=1", 400, "positions"), ("z.1?offsets=1", 400, "offsets"),
                                    ("z.1?document=1&offsets=99", 400, "offsets"), ("z.1?rows=1&document=1", 400, "rows"),
                                    ("z.1?heads=9", 400, "heads"), ("resid_post.0?heads=0", 400, "heads"),
                                    ("z.1?channels=999", 400, "channels"), ("z.1?channels=:,:", 400, "channels"),
                                    ("z.1?format=xml", 400, "format")):
            self.check_error(server.get(base + path), status, param)
        self.check_error(server.get("/api/v1/runs/run-none/tensors/z.1"), 404, "id")
        self.check_error(server.get("/api/v1/runs/run-none"), 404, "id")
        self.check_error(server.call("DELETE", "/api/v1/runs/..%2F..%2Fetc"), 404, "id")
        self.check_error(server.get("/api/v1/runs?limit=0"), 400, "limit")
        self.check_error(server.get("/api/v1/runs?kind=dream"), 400, "kind")

    def test_a_damaged_shard_is_an_error(self):
        h = start(documents=texts(5))
        wait(h["id"])
        run = server.get("/api/v1/runs/" + h["id"])[1]
        path = os.path.join(run["folder"], run["files"][0]["name"])
        with open(path, "r+b") as f:
            f.seek(-5, os.SEEK_END)
            byte = f.read(1)
            f.seek(-5, os.SEEK_END)
            f.write(bytes([byte[0] ^ 1]))
        last = run["tensors"][-1]["name"]
        self.check_error(server.get("/api/v1/runs/%s/tensors/%s" % (h["id"], last)), 500, None, "storage_error", "damaged")
        self.check_error(server.post("/api/v1/runs/%s/verify" % h["id"], {}), 500, None, "storage_error", "damaged")

    def test_lists_go_on(self):
        for _ in range(3):
            wait(start(documents=["abc"])["id"])
        seen, after = [], ""
        while True:
            status, r = server.get("/api/v1/runs?limit=2&kind=harvest" + after)
            self.assertEqual(status, 200, r)
            seen += [x["id"] for x in r["data"]]
            if not r["has_more"]:
                break
            after = "&after=" + seen[-1]
        self.assertEqual(len(seen), len(set(seen)))
        listed = [x["id"] for x in server.get("/api/v1/harvests")[1]["data"]]
        self.assertEqual(seen, listed)
        self.assertGreaterEqual(len(seen), 3)
        self.assertEqual(r["usage"]["limit_bytes"], 20 << 30)


HOOKS = [{"layer": "*", "component": "resid_post"}, {"layer": 1, "component": "attention_pattern", "hook_id": "a"},
         {"layer": 0, "component": "z", "heads": [1], "hook_id": "z"},
         {"layer": 1, "component": "mlp_act", "hook_id": "t", "reduce": {"op": "topk", "k": 3}},
         {"layer": 1, "component": "resid_post", "hook_id": "m", "reduce": "mean"}]


class Stored(ApiTest):
    def request(self, **fields):
        return dict({"prompt": "the cat sat", "max_tokens": 5, "temperature": 0, "ignore_eos": True, "cache_prompt": False,
                     "activation_hooks": HOOKS}, **fields)

    def test_the_stored_rows_are_those_of_the_reply(self):
        status, sent = server.post("/v1/completions", self.request(activation_format={"merge": True}))
        self.assertEqual(status, 200, sent)
        status, kept = server.post("/v1/completions", self.request(store=True, note="a cat"))
        self.assertEqual(status, 200, kept)
        self.assertEqual(kept["choices"][0]["text"], sent["choices"][0]["text"])
        status, run = server.get("/api/v1/runs/" + kept["run"])
        self.assertEqual((status, run["kind"], run["note"], run["status"]), (200, "request", "a cat", "complete"))
        names = {t["name"] for t in run["tensors"]}
        self.assertEqual(set(kept["activations"]), set(sent["activations"]))
        mean = slice_of(kept["run"], kept["activations"]["m"][0]["tensor"])
        self.assertEqual(len(mean["data"]), 2)  # the prompt's and that of what was generated, as in a safetensors reply
        self.assertNotIn("positions", mean)
        for key, entries in sent["activations"].items():
            if key == "m":
                continue
            for a, b in zip(entries, kept["activations"][key]):
                self.assertEqual((b["encoding"], "data" in b), ("stored", False))
                self.assertIn(b["tensor"], names)
                self.assertEqual({k: v for k, v in a.items() if k not in ("data", "encoding", "indices")},
                                 {k: v for k, v in b.items() if k not in ("tensor", "encoding")})
                got = slice_of(kept["run"], b["tensor"])
                want = a["data"][0]
                if len(a["shape"]) == 4:  # heads first there, rows first here
                    want = [[head[r] for head in want] for r in range(a["shape"][2])]
                flat = lambda x: [z for y in x for z in flat(y)] if isinstance(x, list) else [x]
                x, y = flat(want), flat(got["data"])
                self.assertEqual(len(x), len(y), key)
                self.assertLess(max(abs(p - q) for p, q in zip(x, y)), 1e-5 * max(1, max(map(abs, x))), key)
                self.assertEqual((got["positions"], got["token_ids"]), (a["positions"], a["token_ids"]))
                if "indices" in a:
                    self.assertEqual(slice_of(kept["run"], b["tensor"] + ".indices")["data"], a["indices"][0])
        some = slice_of(kept["run"], "resid_post.0" if "resid_post.0" in names else sorted(names)[0], positions="1:3,-1")
        self.assertEqual(some["positions"][:2], [1, 2])
        # the file is a safetensors reply of its own
        with open(os.path.join(run["folder"], run["files"][0]["name"]), "rb") as f:
            head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        self.assertEqual(json.loads(head["__metadata__"]["reply"])["run"], kept["run"])
        self.assertEqual(set(head) - {"__metadata__"}, names)
        self.assertEqual(server.post("/api/v1/runs/%s/verify" % kept["run"], {})[0], 200)
        self.assertEqual(server.call("DELETE", "/api/v1/runs/" + kept["run"])[1]["files"], "deleted")
        self.check_error(server.get("/api/v1/runs/" + kept["run"]), 404, "id")

    def test_streams_name_their_run_at_the_end(self):
        for path, accept in (("/v1/completions", None), ("/v1/chat/completions/with_activations", None)):
            body = self.request(store=True)
            if "chat" in path:
                body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
            lines = server.ndjson(path, body) if "with" in path else server.sse(path, body)
            stored = [x for x in lines if x.get("type") == "stored" or "run" in x]
            self.assertEqual(len(stored), 1)
            self.assertFalse([x for x in lines if x.get("type") == "activation"])
            entry = stored[0]["activations"]["m"][0]
            self.assertEqual(entry["encoding"], "stored")
            self.assertEqual(len(slice_of(stored[0]["run"], entry["tensor"])["data"]), 2)
            self.assertTrue(lines[-1].get("type") == "done" or lines[-1] is stored[0])

    def test_several_answers_are_told_apart(self):
        status, r = server.post("/v1/completions", self.request(store=True, n=2, temperature=1, seed=3))
        self.assertEqual(status, 200, r)
        entries = r["activations"]["z"]
        self.assertEqual([e["choice"] for e in entries], [0, 1])
        self.assertEqual(len({e["tensor"] for e in entries}), 2)
        run = server.get("/api/v1/runs/" + r["run"])[1]
        self.assertEqual({t["choice"] for t in run["tensors"]}, {0, 1})

    def test_without_hooks_nothing_is_stored(self):
        before = server.get("/api/v1/runs")[1]["usage"]["runs"]
        status, r = server.chat(store=True)
        self.assertEqual(status, 200, r)
        self.assertNotIn("run", r)
        self.assertEqual(server.get("/api/v1/runs")[1]["usage"]["runs"], before)

    def test_what_cannot_be_stored_is_refused(self):
        for accept, stream in (("application/vnd.safetensors", False), ("application/vnd.glia.frames", True)):
            body = json.dumps(self.request(store=True, stream=stream)).encode()
            status, _, reply = server.raw("POST", "/v1/completions", body, {"Accept": accept})
            self.assertEqual((status, json.loads(reply)["error"]["param"]), (400, "store"))
        self.check_error(server.post("/v1/completions", self.request(store="yes")), 400, "store")
        self.check_error(server.post("/v1/completions", self.request(store=True, note="x" * 256)), 400, "note")

    def test_a_client_that_leaves_leaves_no_run(self):
        before = server.get("/api/v1/runs?kind=request")[1]["usage"]["runs"]
        for wait_s in (0.0, 0.01, 0.03, 0.06, 0.1):
            c = server.connect()
            c.request("POST", "/v1/completions", json.dumps(self.request(store=True, max_tokens=20)))
            time.sleep(wait_s)
            c.close()
        deadline = time.monotonic() + 30
        while server.get("/health")[1]["capture_memory"]["held_bytes"] and time.monotonic() < deadline:
            time.sleep(0.05)
        while time.monotonic() < deadline:  # what was under way when its client left is written, then deleted
            folders = {f for f in os.listdir(os.path.join(folder.name, "store")) if f.startswith("run-")}
            listed = {x["id"] for x in server.get("/api/v1/runs?limit=1000")[1]["data"] if x["folder"].startswith(
                os.path.join(folder.name, "store"))}
            if folders == listed:
                break
            time.sleep(0.05)
        self.assertEqual(folders, listed)
        self.assertLessEqual(server.get("/api/v1/runs")[1]["usage"]["runs"] - before, 5)


class Budget(ApiTest):
    def test_the_oldest_requests_go_first(self):
        with tempfile.TemporaryDirectory() as store:
            s = Server(tiny(), ("--store", store, "--store-limit", "400K", "--ctx", "64"))
            try:
                ids = []
                body = {"prompt": "the cat sat on the mat", "max_tokens": 2, "activation_hooks":
                        [{"layer": "*", "component": c} for c in ("resid_post", "resid_pre", "mlp_act", "z")], "store": True}
                for _ in range(8):
                    status, r = s.post("/v1/completions", body)
                    self.assertEqual(status, 200, r)
                    ids.append(r["run"])
                left = [x["id"] for x in s.get("/api/v1/runs")[1]["data"]]
                self.assertEqual(left, ids[::-1][:len(left)])
                self.assertTrue(0 < len(left) < 8)
                self.assertLessEqual(s.get("/api/v1/runs")[1]["usage"]["bytes"], 400 << 10)
            finally:
                s.stop()


class Cli(ApiTest):
    def test_runs_are_listed_shown_exported_and_deleted(self):
        h = start(documents=texts(12), note="for the shell")
        wait(h["id"])
        store = ("--store", os.path.join(folder.name, "store"))
        status, out, err = run("runs", *store)
        self.assertEqual((status, err), (0, ""))
        self.assertIn(h["id"], out)
        self.assertIn("for the shell", out)
        status, out, _ = run("runs", "--json", "--kind", "harvest", "--limit", "1", *store)
        self.assertEqual(len([json.loads(line) for line in out.splitlines()]), 1)
        status, out, _ = run("runs", "show", h["id"], *store)
        self.assertIn("resid_post.1", out)
        target = os.path.join(folder.name, "x.npy")
        status, out, err = run("runs", "export", h["id"], "z.1", "--rows", "2:5", "--out", target, *store)
        self.assertEqual((status, out, err), (0, "", ""))
        with open(target, "rb") as f:
            data = f.read()
        want = [x for row in slice_of(h["id"], "z.1", rows="2:5")["data"] for x in row]
        self.assertEqual(data[-4 * len(want):], struct.pack("<%df" % len(want), *want))
        status, out, err = run("runs", "export", h["id"], "z.1", "--rows", "9999", "--out", target + "2", *store)
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.assertFalse(os.path.exists(target + "2"))
        self.assertEqual(run("runs", "verify", h["id"], *store)[0], 0)
        self.assertEqual(run("runs", "rm", h["id"], *store)[0], 0)
        self.check_error(server.get("/api/v1/runs/" + h["id"]), 404, "id")
        for bad in (("runs", "shwo"), ("runs", "show"), ("runs", "export", "x"), ("runs", "--limt", "1")):
            status, out, err = run(*bad, *store)
            self.assertEqual((status, out), (2, ""), bad)
            self.assertTrue(err)

    def test_a_harvest_of_the_shell_is_added(self):
        data, out = os.path.join(folder.name, "d.txt"), os.path.join(folder.name, "own")
        with open(data, "w") as f:
            f.write("\n".join(texts(6)))
        store = ("--store", os.path.join(folder.name, "store"))
        self.assertEqual(run("harvest", "--model", tiny(), "--data", data, "--points", "z@0", "--out", out, "--ctx", "64",
                             "--threads", "1")[0], 0)
        status, text, err = run("runs", "add", out, *store)
        self.assertEqual((status, err), (0, ""))
        again = run("runs", "add", out, *store)[1]
        self.assertEqual(text, again)
        r = slice_of(text.strip(), "z.0", document=5)
        self.assertEqual(set(r["documents"]), {5})
        self.assertEqual(server.call("DELETE", "/api/v1/runs/" + text.strip())[1]["files"], "kept")


if __name__ == "__main__":
    unittest.main(verbosity=2)

"""Replies over a Unix socket, and activations in memory that the client is given: same numbers, nothing left behind."""
import http.client
import json
import mmap
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import harness
from harness import ApiTest, Server, need, tiny, unpack

need(tiny())
sys.path.insert(0, os.path.join(harness.SOURCE, "clients", "python"))
import glia_memory  # noqa: E402

server = None
folder = None
path = None


def setUpModule():
    global server, folder, path
    folder = tempfile.TemporaryDirectory(prefix="glia-unix-")
    path = os.path.join(folder.name, "glia.sock")
    server = Server(tiny(), ("--ctx", "256"), listen=("127.0.0.1:0", "unix:" + path))


def tearDownModule():
    server.stop()
    assert not os.path.exists(path), "the socket file is still there"
    folder.cleanup()


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(path)


def body(**fields):
    return dict({"prompt": "the cat sat on the mat", "max_tokens": 4, "temperature": 0, "ignore_eos": True, "cache_prompt": False,
                 "activation_hooks": [{"layer": "*", "component": "resid_post"},
                                      {"layer": 1, "component": "attention_pattern", "hook_id": "a"},
                                      {"layer": 0, "component": "z", "dtype": "float16", "hook_id": "z"}]}, **fields)


def read_memory(fd):
    """{name: (dtype, shape, bytes)}, metadata: with the standard library alone."""
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as m:
        (n,) = struct.unpack("<Q", m[:8])
        head = json.loads(m[8:8 + n])
        meta = head.pop("__metadata__")
        return {k: (t["dtype"], t["shape"], m[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
                for k, t in head.items()}, meta


def held():
    """Descriptors of the server that are anonymous memory."""
    base = "/proc/%d/fd" % server.process.pid
    links = []
    for f in os.listdir(base):
        try:
            links.append(os.readlink(os.path.join(base, f)))
        except OSError:
            pass
    return [x for x in links if "glia-activations" in x]


class Memory(ApiTest):
    def test_http_over_the_socket_is_the_same(self):
        self.assertTrue(stat.S_ISSOCK(os.stat(path).st_mode))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        c = UnixConnection("localhost")
        for _ in range(3):  # keep-alive
            c.request("GET", "/v1/models")
            r = c.getresponse()
            self.assertEqual((r.status, json.loads(r.read())["data"][0]["id"]), (200, server.model))
        c.request("POST", "/v1/completions", json.dumps(dict(body(), stream=True)))
        r = c.getresponse()
        self.assertTrue(r.read().endswith(b"data: [DONE]\n\n"))
        c.request("GET", "/v1/models", headers={"Host": "evil.example"})
        self.assertEqual(c.getresponse().status, 403)
        c.close()

    def test_memory_holds_what_the_reply_does(self):
        status, sent = server.post("/v1/completions", body(activation_format={"merge": True, "encoding": "base64"}))
        self.assertEqual(status, 200, sent)
        status, headers, text, fd = glia_memory.request(path, "/v1/completions", body())
        self.assertEqual((status, headers["content-type"]), (200, "application/vnd.glia.memory"))
        self.assertEqual(json.loads(text)["bytes"], os.fstat(fd).st_size)
        tensors, meta = read_memory(fd)
        reply = json.loads(meta["reply"])
        self.assertEqual(reply["choices"][0]["text"], sent["choices"][0]["text"])
        self.assertEqual(set(reply["activations"]), set(sent["activations"]))
        for key, (entry,) in sent["activations"].items():
            dtype, shape, raw = tensors[reply["activations"][key][0]["tensor"]]
            self.assertEqual(shape, entry["shape"][1:])
            kind, size = ("e", 2) if dtype == "F16" else ("f", 4)
            got = struct.unpack("<%d%s" % (len(raw) // size, kind), raw)
            want = [x for row in unpack(entry) for x in row]
            self.assertLess(max(abs(a - b) for a, b in zip(got, want)), 2e-3 * max(1, max(map(abs, want))))
            self.assertEqual(len(got), len(want))
        with self.assertRaises(OSError):  # sealed: neither side can change it
            os.ftruncate(fd, 0)
        with self.assertRaises(OSError):
            os.pwrite(fd, b"x", 0)
        os.close(fd)
        deadline = time.monotonic() + 5
        while held() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(held(), [])  # the server kept none

    def test_the_client_of_the_repository_reads_it(self):
        sys.path.append(os.path.join(harness.SDK, "python"))
        try:
            import numpy  # noqa: F401
        except ImportError:
            self.skipTest("no numpy")
        reply, arrays = glia_memory.call(path, "/v1/completions", body())
        name = reply["activations"]["z"][0]["tensor"]
        self.assertEqual(str(arrays[name].dtype), "float16")
        self.assertEqual(list(arrays[name].shape), reply["activations"]["z"][0]["shape"][1:])

    def test_errors_stay_json(self):
        status, _, text, fd = glia_memory.request(path, "/v1/completions", body(max_tokens=-5))
        self.assertEqual((status, fd, json.loads(text)["error"]["param"]), (400, None, "max_tokens"))
        status, _, text, fd = glia_memory.request(path, "/v1/completions", {"prompt": "a", "max_tokens": 1})
        self.assertEqual((status, fd, json.loads(text)["object"]), (200, None, "text_completion"))  # no hooks: plain JSON
        status, _, text, fd = glia_memory.request(path, "/v1/completions", body(store=True))
        self.assertEqual((status, fd, json.loads(text)["error"]["param"]), (400, None, "store"))

    def test_over_tcp_it_is_refused_or_falls_back(self):
        data = json.dumps(body()).encode()
        status, _, reply = server.raw("POST", "/v1/completions", data, {"Accept": "application/vnd.glia.memory"})
        self.assertEqual((status, json.loads(reply)["error"]["param"]), (400, "Accept"))
        status, headers, _ = server.raw("POST", "/v1/completions", data,
                                        {"Accept": "application/vnd.glia.memory, application/vnd.safetensors"})
        self.assertEqual((status, headers["content-type"]), (200, "application/vnd.safetensors"))

    def test_clients_that_die_leave_nothing(self):
        data = json.dumps(body()).encode()
        head = ("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nAccept: "
                "application/vnd.glia.memory\r\n\r\n" % len(data)).encode()
        for wait_s in (0, 0.005, 0.02, 0.05, 0.1, 0.3):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.connect(path)
            s.sendall(head + data)
            time.sleep(wait_s)
            s.close()  # at the longest the descriptor waits in the socket and is never taken
        pid = subprocess.Popen([sys.executable, "-c", "import socket,sys,time; s=socket.socket(socket.AF_UNIX); "
                                "s.connect(sys.argv[1]); s.sendall(bytes.fromhex(sys.argv[2])); socket.recv_fds(s,1,1); "
                                "print(1, flush=True); time.sleep(60)", path, (head + data).hex()], stdout=subprocess.PIPE)
        pid.stdout.readline()
        pid.kill()  # with the memory in its hands
        pid.wait()
        pid.stdout.close()
        deadline = time.monotonic() + 30
        while (held() or server.get("/health")[1]["capture_memory"]["held_bytes"]) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(held(), [])
        self.assertEqual(server.get("/health")[1]["capture_memory"]["held_bytes"], 0)
        status, _, _, fd = glia_memory.request(path, "/v1/completions", body())
        self.assertEqual(status, 200)
        os.close(fd)

    def test_descriptors_that_a_client_sends_are_not_kept(self):
        count = lambda: len(os.listdir("/proc/%d/fd" % server.process.pid))
        before = count()
        with open(os.devnull) as f:
            for _ in range(40):
                s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                s.settimeout(60)
                s.connect(path)
                socket.send_fds(s, [b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"], [f.fileno()] * 8)
                self.assertTrue(s.recv(65536).startswith(b"HTTP/1.1 200"))
                s.close()
        deadline = time.monotonic() + 20
        while count() > before + 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertLessEqual(count(), before + 8)

    def test_a_path_in_use_is_told_and_a_stale_one_taken(self):
        status, _, err = harness.run("serve", "--model", tiny(), "--listen", "unix:" + path)
        self.assertEqual((status, err.count("\n")), (1, 1))
        self.assertIn("another program", err)
        plain = os.path.join(folder.name, "plain")
        open(plain, "w").close()
        status, _, err = harness.run("serve", "--model", tiny(), "--listen", "unix:" + plain)
        self.assertEqual(status, 1)
        self.assertIn("another file", err)
        self.assertTrue(os.path.exists(plain))
        status, _, err = harness.run("serve", "--model", tiny(), "--listen", "unix:/" + "x" * 200)
        self.assertEqual(status, 1)
        stale = os.path.join(folder.name, "stale")
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.bind(stale)
        s.close()
        other = Server(tiny(), listen=("unix:" + stale,))
        other.stop()
        self.assertFalse(os.path.exists(stale))


if __name__ == "__main__":
    unittest.main(verbosity=2)

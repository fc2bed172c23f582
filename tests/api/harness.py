"""One Glia server for a test module: started on a free port, stopped with SIGTERM, its end checked.

Environment: GLIA_BIN (the program), GLIA_TEST_MODEL (SmolLM2), GLIA_TINY_DIR (tiny models).  Without program or model
the module is skipped as a whole (exit status 77)."""
import base64
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

BIN = os.environ.get("GLIA_BIN", "")
MODEL = os.environ.get("GLIA_TEST_MODEL", "")
TINY = os.environ.get("GLIA_TINY_DIR", "")
SOURCE = os.environ.get("GLIA_SOURCE_DIR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
SDK = os.environ.get("GLIA_SDK_DIR", os.path.join(SOURCE, ".deps", "sdk"))
REPORTS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error:", "UndefinedBehavior")
START_S = 120  # loading under a sanitizer on a busy machine


def need(*paths):
    for path in (BIN,) + paths:
        if not path or not os.path.exists(path):
            print("skip: %s is not there" % (path or "GLIA_BIN"))
            sys.exit(77)


def need_sdk(*names):
    """Make the Python clients of tools/sdks.sh importable; the module is skipped as a whole when one is missing."""
    folder = os.path.join(SDK, "python")
    need(*[os.path.join(folder, name) for name in names])
    if folder not in sys.path:
        sys.path.insert(0, folder)


def tiny(family="llama"):
    return os.path.join(TINY, family + ".gguf")


def labels(entry):
    """An entry of activations without its numbers and how they are written."""
    return {k: v for k, v in entry.items() if k not in ("data", "indices", "encoding", "bytes", "indices_at", "tensor")}


def packed(values, dtype):
    """The bytes that a list of numbers stands for."""
    while isinstance(values[0], list):
        values = [x for part in values for x in part]
    if dtype != "bfloat16":
        return struct.pack("<%d%s" % (len(values), {"int32": "i", "float16": "e", "float32": "f"}[dtype]), *values)
    four = struct.pack("<%df" % len(values), *values)
    return b"".join(four[i + 2:i + 4] for i in range(0, len(four), 4))


def raw(entry):
    """The numbers of an entry as bytes, behind them the indices of a top-k."""
    parts = [("data", entry["dtype"])] + ([("indices", "int32")] if "indices" in entry else [])
    if entry["encoding"] == "base64":
        return b"".join(base64.b64decode(entry[name]) for name, _ in parts)
    return b"".join(packed(entry[name], dtype) for name, dtype in parts)


class Server:
    """A running `glia serve`.  stop() checks that it ended by itself, with status 0 and no sanitizer report."""

    def __init__(self, model=None, args=(), env=None, listen=("127.0.0.1:0",)):
        self.dir = tempfile.TemporaryDirectory(prefix="glia-test-")
        self.errors = open(os.path.join(self.dir.name, "stderr"), "w+")
        self.out = open(os.path.join(self.dir.name, "stdout"), "w+")
        port_file = os.path.join(self.dir.name, "port")
        which = [] if model is False else ["--model", model or MODEL]  # False: models are loaded when they are named
        command = [BIN, "serve"] + which + ["--json", "--port-file", port_file,
                   "--threads", "1"]  # two of llama.cpp's threads wait for each other on a busy machine
        for address in listen:
            command += ["--listen", address]
        full_env = dict(os.environ, **dict({"XDG_CONFIG_HOME": self.dir.name}, **(env or {})))
        self.process = subprocess.Popen(command + list(args), stdout=self.out, stderr=self.errors, env=full_env)
        deadline = time.monotonic() + START_S
        while not os.path.exists(port_file):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError("the server did not start: " + self.stderr())
            time.sleep(0.02)
        with open(port_file) as f:
            self.port = int(f.read())
        deadline = time.monotonic() + 10
        while not self.stdout().endswith("\n") and time.monotonic() < deadline:
            time.sleep(0.02)
        self.ready = json.loads(self.stdout())
        self.model = self.ready["model"]

    def stderr(self):
        self.errors.flush()
        with open(self.errors.name, errors="replace") as f:
            return f.read()

    def stdout(self):
        with open(self.out.name) as f:
            return f.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the server did not stop within 60 s: " + self.stderr())
        text = self.stderr()
        self.errors.close()
        self.out.close()
        self.dir.cleanup()
        if status != 0 or any(r in text for r in REPORTS):
            raise AssertionError("the server ended with status %d: %s" % (status, text))

    # -- requests

    def connect(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def raw(self, method, path, body=None, headers=None):
        """(status, headers, bytes)"""
        c = self.connect()
        try:
            c.request(method, path, body=body, headers=headers or {})
            r = c.getresponse()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
        finally:
            c.close()

    def call(self, method, path, body=None, headers=None):
        """(status, parsed JSON)"""
        data = None if body is None else json.dumps(body).encode()
        headers = dict({"Content-Type": "application/json"} if data else {}, **(headers or {}))
        status, _, reply = self.raw(method, path, data, headers)
        return status, json.loads(reply)

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, body, **headers):
        return self.call("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def chat(self, text="Hello", path="/v1/chat/completions", **fields):
        body = dict({"messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0}, **fields)
        return self.post(path, body)

    def activations(self, hooks, text="Hello", path="/v1/chat/completions/with_activations", **fields):
        return self.chat(text, path, activation_hooks=hooks, **fields)

    def stream(self, path, body, accept=None):
        """(content type, list of lines without their ends), the whole stream."""
        headers = {"Content-Type": "application/json"}
        if accept:
            headers["Accept"] = accept
        status, reply, data = self.raw("POST", path, json.dumps(dict(body, stream=True)).encode(), headers)
        if status != 200:
            raise AssertionError("%d: %s" % (status, data.decode()))
        return reply["content-type"], data

    def sse(self, path, body, accept=None):
        """Parsed `data:` objects of a stream that ends with [DONE]."""
        content_type, data = self.stream(path, body, accept)
        assert content_type.startswith("text/event-stream"), content_type
        events = [e for e in data.decode("utf-8").split("\n\n") if e]
        assert all(e.startswith("data: ") for e in events), events
        assert events[-1] == "data: [DONE]", events[-1]
        return [json.loads(e[6:]) for e in events[:-1]]

    def ndjson(self, path, body, accept=None):
        content_type, data = self.stream(path, body, accept)
        assert content_type.startswith("application/x-ndjson"), content_type
        return [json.loads(line) for line in data.decode("utf-8").splitlines()]


def unpack(entry):
    """Rows of an entry, whatever its encoding and dtype; of attention those of its heads one after another."""
    rows, width = entry["shape"][-2:]
    if len(entry["shape"]) == 4:
        rows *= entry["shape"][1]
    if entry["encoding"] == "list":
        assert len(entry["data"]) == 1
        if len(entry["shape"]) == 4:
            return [row for head in entry["data"][0] for row in head]
        return entry["data"][0]
    data = base64.b64decode(entry["data"], validate=True)
    if entry["dtype"] == "float32":
        flat = struct.unpack("<%df" % (rows * width), data)
    elif entry["dtype"] == "float16":
        flat = struct.unpack("<%de" % (rows * width), data)
    else:
        flat = [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]
    return [list(flat[r * width:(r + 1) * width]) for r in range(rows)]


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def run(*args, timeout=120, env=None):
    """(status, stdout, stderr) of the program."""
    p = subprocess.run([BIN] + list(args), capture_output=True, text=True, timeout=timeout,
                       env=dict(os.environ, **(env or {})))
    if any(r in p.stderr for r in REPORTS):
        raise AssertionError(p.stderr)
    return p.returncode, p.stdout, p.stderr


class ApiTest(unittest.TestCase):
    def check_error(self, reply, status, param=None, code=None, says=()):
        got, body = reply
        self.assertEqual(got, status, body)
        self.assertEqual(set(body), {"error"})
        error = body["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertIsInstance(error["message"], str)
        self.assertTrue(error["message"])
        self.assertEqual(error["param"], param, error)
        if code:
            self.assertEqual(error["code"], code, error)
        for words in (says if isinstance(says, (list, tuple)) else [says]):
            self.assertIn(words, error["message"])

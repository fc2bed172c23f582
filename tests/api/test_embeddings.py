"""Embeddings: formats, batches, dimensions, pooling, an encoder and a chat model, and what is refused.  The numbers are
compared with transformers in golden/test_embeddings.py."""
import base64
import math
import struct
import threading
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny("llama"), harness.tiny("encoder-bert"))
server = bert = None
PATH = "/v1/embeddings"


def setUpModule():
    global server, bert
    server = harness.Server(harness.tiny("llama"), ["--ctx", "128", "--parallel", "2"])
    bert = harness.Server(harness.tiny("encoder-bert"), ["--ctx", "128"])


def tearDownModule():
    server.stop()
    bert.stop()


def floats(text):
    raw = base64.b64decode(text, validate=True)
    return list(struct.unpack("<%df" % (len(raw) // 4), raw))


def norm(v):
    return math.sqrt(sum(x * x for x in v))


class Embeddings(ApiTest):
    def both(self):
        return ((server, "/v1/embeddings"), (bert, "/v1/embeddings"), (bert, "/api/v0/embeddings"))

    def close(self, a, b, places=5):
        self.assertEqual(len(a), len(b))
        for x, y in zip(a, b):
            self.assertAlmostEqual(x, y, places=places)

    def test_the_reply_has_the_shape_of_openai(self):
        for s, path in self.both():
            status, r = s.post(path, {"input": "Hello", "model": s.model, "user": "me"})
            self.assertEqual(status, 200, r)
            item, = r["data"]
            self.assertEqual((r["object"], r["model"], item["object"], item["index"]), ("list", s.model, "embedding", 0))
            self.assertEqual(r["usage"], {"prompt_tokens": 5, "total_tokens": 5})
            self.assertEqual(len(item["embedding"]), 64)
            self.assertAlmostEqual(norm(item["embedding"]), 1, places=5)

    def test_base64_holds_the_same_floats(self):
        for s, path in self.both():
            _, a = s.post(path, {"input": "Hello"})
            _, b = s.post(path, {"input": "Hello", "encoding_format": "base64"})
            self.assertEqual([harness.f32(x) for x in a["data"][0]["embedding"]], floats(b["data"][0]["embedding"]))

    def test_texts_and_tokens_and_lists_of_either(self):
        for s, path in self.both():
            ids = list(b"Hello")
            one = s.post(path, {"input": "Hello"})[1]["data"][0]["embedding"]
            texts = ["Hello", "Good day", "Hello", "A much longer text than these", "Hello"]
            for given in (["Hello"], [ids], ids, texts, [list(t.encode()) for t in texts]):
                status, r = s.post(path, {"input": given})
                self.assertEqual(status, 200, r)
                self.close(r["data"][0]["embedding"], one)
                self.assertEqual([d["index"] for d in r["data"]], list(range(len(r["data"]))))
            self.close(r["data"][2]["embedding"], one)
            self.assertGreater(norm([x - y for x, y in zip(r["data"][1]["embedding"], one)]), 0.01)
            self.assertEqual(r["usage"]["prompt_tokens"], sum(map(len, texts)))

    def test_dimensions_cut_and_are_made_of_unit_length_again(self):
        for s, path in self.both():
            _, whole = s.post(path, {"input": "Hello", "normalize": False})
            _, cut = s.post(path, {"input": "Hello", "dimensions": 16})
            v = whole["data"][0]["embedding"]
            self.assertGreater(abs(norm(v) - 1), 1e-3)
            self.close(cut["data"][0]["embedding"], [x / norm(v[:16]) for x in v[:16]])

    def test_pooling_is_of_the_rows_that_hooks_give(self):
        _, r = server.post("/v1/completions", {"prompt": "Hello", "max_tokens": 0, "activation_hooks": [{"component": "final_norm"}],
                                               "activation_format": {"encoding": "base64"}})
        rows = harness.unpack(r["activations"]["final_norm"][0])
        want = {"mean": [sum(c) / len(rows) for c in zip(*rows)], "cls": rows[0], "last": rows[-1], None: None}
        want[None] = want["mean"]  # the file says nothing
        for pooling, v in want.items():
            _, r = server.post(PATH, {"input": "Hello", "pooling": pooling, "normalize": False})
            self.close(r["data"][0]["embedding"], v)
        self.assertEqual(bert.post(PATH, {"input": "Hello", "pooling": "mean"})[0], 200)
        self.check_error(bert.post(PATH, {"input": "Hello", "pooling": "last"}), 400, "pooling", says="mean")

    def test_many_texts_and_many_clients_at_once(self):
        for s in (server, bert):
            texts = ["text %d" % i for i in range(300)]  # more than wait in the queue
            status, r = s.post(PATH, {"input": texts})
            self.assertEqual((status, len(r["data"])), (200, 300))
            want = r["data"][7]["embedding"]
            got = []
            threads = [threading.Thread(target=lambda: got.append(s.post(PATH, {"input": texts[7]}))) for _ in range(8)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            for status, r in got:
                self.assertEqual(status, 200, r)
                self.close(r["data"][0]["embedding"], want)

    def test_a_client_that_leaves_stops_nothing(self):
        for s in (server, bert):
            c = s.connect()
            body = b'{"input": [' + b",".join([b'"a text that takes a while"'] * 500) + b"]}"
            c.request("POST", PATH, body=body, headers={"Content-Type": "application/json"})
            c.close()
            self.assertEqual(s.post(PATH, {"input": "Hello"})[0], 200)

    def test_each_wrong_field_is_named(self):
        for s, path in self.both():
            for fields, param in (
                    ({"input": None}, "input"), ({"input": 5}, "input"), ({"input": {}}, "input"), ({"input": []}, "input"),
                    ({"input": ""}, "input"), ({"input": ["a", ""]}, "input[1]"), ({"input": ["a", 5]}, "input[1]"),
                    ({"input": [1, "a"]}, "input[1]"), ({"input": [[]]}, "input[0]"), ({"input": [[-1]]}, "input[0][0]"),
                    ({"input": [99999]}, "input[0]"), ({"input": ["a"] * 2049}, "input"),
                    ({"dimensions": 0}, "dimensions"), ({"dimensions": 65}, "dimensions"), ({"dimensions": "x"}, "dimensions"),
                    ({"encoding_format": "hex"}, "encoding_format"), ({"pooling": "x"}, "pooling"), ({"normalize": 1}, "normalize"),
                    ({"user": 5}, "user"), ({"model": 5}, "model")):
                with self.subTest(fields=str(fields)[:60]):
                    self.check_error(s.post(path, dict({"input": "Hello"}, **fields)), 400, param)
            self.check_error(s.post(path, {"input": "x" * 200}), 400, "input", "context_length_exceeded", ["200", "128"])
            self.check_error(s.post(path, {"input": ["a", "x" * 200]}), 400, "input[1]", "context_length_exceeded")
            self.check_error(s.post(path, {"input": "a", "model": "nobody"}), 404, "model", "model_not_found")

    def test_an_encoder_does_nothing_else(self):
        self.check_error(bert.post("/v1/completions", {"prompt": "a", "max_tokens": 1}), 400, "model", says="/v1/embeddings")
        self.check_error(bert.chat(), 400, "model", says="/v1/embeddings")
        self.check_error(bert.post("/v1/responses", {"input": "a"}), 400, "model", says="/v1/embeddings")
        self.check_error(bert.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "activation_hooks": [
            {"component": "final_norm"}]}), 400, "model")
        self.assertEqual(bert.get("/v1/models")[0], 200)
        self.assertEqual(bert.get("/api/v1/models/%s/hooks" % bert.model)[0], 200)
        self.assertEqual(bert.post("/v1/tokenize", {"text": "Hello"})[1]["count"], 5)


if __name__ == "__main__":
    unittest.main()

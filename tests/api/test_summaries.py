"""Activations that clients send: summaries in plain Python, the same from captured replies in every encoding; export."""
import math
import shutil
import subprocess
import tempfile
import unittest

from harness import ApiTest, Server, need, tiny, unpack

need(tiny())
server = None


def setUpModule():
    global server
    server = Server(tiny())


def tearDownModule():
    server.stop()


def norm(x):
    return math.sqrt(math.fsum(v * v for v in x))


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b)) / norm(a) / norm(b)


class Summaries(ApiTest):
    def captured(self, **fields):
        status, reply = server.activations([{"layer_name": "model.layers.%d" % i, "component": "residual"} for i in range(3)],
                                           max_tokens=3, ignore_eos=True, **fields)
        self.assertEqual(status, 200, reply)
        return reply["activations"]

    def rows(self, activations):
        return [[row for e in entries for row in unpack(e)] for entries in activations.values()]

    def close(self, got, want, places=5):
        self.assertAlmostEqual(got, want, delta=10 ** -places * max(1, abs(want)))

    def test_residual_flow_is_what_the_rows_say(self):
        acts = self.captured()
        rows = self.rows(acts)
        status, reply = server.post("/analyze/residual", {"residual_data": acts})
        self.assertEqual(status, 200, reply)
        self.assertLessEqual({"success", "analysis_type", "flow_data", "layer_contributions", "information_flow",
                              "execution_time_ms"}, set(reply))
        self.assertEqual([f["layer"] for f in reply["flow_data"]], [0, 1, 2])
        for f, r in zip(reply["flow_data"], rows):
            flat = [x for row in r for x in row]
            mean = math.fsum(flat) / len(flat)
            self.assertEqual((f["rows"], f["width"]), (len(r), len(r[0])))
            self.close(f["mean"], mean)
            self.close(f["std"], math.sqrt(math.fsum((x - mean) ** 2 for x in flat) / len(flat)))
            self.assertAlmostEqual(f["min"], min(flat), places=5)
            self.assertAlmostEqual(f["max"], max(flat), places=5)
            self.close(f["mean_norm"], sum(map(norm, r)) / len(r))
            means = [sum(abs(row[k]) for row in r) / len(r) for k in range(len(r[0]))]
            best = max(range(len(means)), key=means.__getitem__)
            self.assertEqual(f["largest_channels"][0]["channel"], best)
            self.close(f["largest_channels"][0]["mean_magnitude"], means[best])
        for i in range(2):
            flow, part = reply["information_flow"][i], reply["layer_contributions"][i]
            a, b, n = rows[i], rows[i + 1], len(rows[i])
            self.close(flow["cosine"], sum(map(cosine, a, b)) / n)
            self.close(flow["norm_ratio"], sum(norm(y) / norm(x) for x, y in zip(a, b)) / n)
            self.close(part["contribution"], sum(norm([q - p for p, q in zip(x, y)]) / norm(y) for x, y in zip(a, b)) / n)
            self.assertEqual(part["layer"], i + 1)

    def test_every_encoding_and_plain_lists_are_the_same(self):
        plain = self.captured()
        want = server.post("/analyze/math", {"activations": plain})[1]
        self.assertEqual((want["success"], want["analysis_type"], len(want["layers"])), (True, "math", 3))
        other = self.captured(activation_format={"encoding": "base64"})
        lists = {key: [[row for e in entries for row in unpack(e)]] for key, entries in plain.items()}
        for sent in (other, lists):
            got = server.post("/analyze/math", {"activations": sent})[1]
            for a, b in zip(got["layers"], want["layers"]):
                for key in ("layer", "rows", "width"):
                    self.assertEqual(a[key], b[key])
                self.close(a["mean_norm"], b["mean_norm"], 4)
                self.close(a["std"], b["std"], 4)
        self.assertEqual(server.post("/analyze/factual", {"activations": plain, "analysis_type": "recall"})[1]["analysis_type"],
                         "recall")

    def test_wrong_data_names_its_key(self):
        for data, param in ((None, "residual_data"), ({}, "residual_data"), ("text", "residual_data"), ({"a": 1}, "residual_data.a"),
                            ({"a": [[1, 2], [1]]}, "residual_data.a"), ({"a": [[1, "x"]]}, "residual_data.a"), ({"a": []}, "residual_data.a"),
                            ({"a": [{"shape": [1]}]}, "residual_data.a"), ({"a": [[]]}, "residual_data.a"),
                            ({"a": {"data": "AAAA", "shape": [1, 1, 1]}}, "residual_data.a"), ({"a": {"data": "AAAAAA=="}}, "residual_data.a"),
                            ({"a": {"data": "AADAfw==", "shape": [1, 1]}}, "residual_data.a"),
                            ({"a": {"data": "AAAAAA==", "shape": [1 << 40, 1]}}, "residual_data.a"),
                            ({"a": [[1e300]]}, "residual_data.a"), ({"a": [{"data": [[1]]}, [[1]]]}, "residual_data.a")):
            with self.subTest(data=data):
                self.check_error(server.post("/analyze/residual", {"residual_data": data}), 400, param)


class Reader:
    """Reads back the little Smalltalk that the export writes; any other text fails."""
    def __init__(self, text):
        self.text, self.at = text, 0

    def skip(self):
        while self.at < len(self.text) and self.text[self.at] in " \n":
            self.at += 1

    def take(self, word):
        self.skip()
        assert self.text.startswith(word, self.at), (word, self.text[self.at:self.at + 40])
        self.at += len(word)

    def sees(self, word):
        self.skip()
        return self.text.startswith(word, self.at)

    def string(self):
        self.take("'")
        out = ""
        while True:
            end = self.text.index("'", self.at)
            out += self.text[self.at:end]
            self.at = end + 1
            if self.text[self.at:self.at + 1] != "'":
                return out
            out += "'"
            self.at += 1

    def number(self):
        self.skip()
        end = self.at
        while end < len(self.text) and self.text[end] in "-0123456789.e":
            end += 1
        word, self.at = self.text[self.at:end], end
        if "." not in word:
            return int(word)
        assert word.split(".")[1][0].isdigit(), word
        return float(word)

    def value(self):
        for word, x in (("true", True), ("false", False), ("nil", None)):
            if self.sees(word):
                self.take(word)
                return x
        if self.sees("'"):
            return self.string()
        if self.sees("#("):
            self.take("#(")
            out = []
            while not self.sees(")"):
                out.append(self.number())
            self.take(")")
            return out
        if not self.sees("("):
            return self.number()
        self.take("(")
        if self.sees("Dictionary new"):
            self.take("Dictionary new")
            out = {}
            put = lambda: out.__setitem__(self.keyed(self.string), self.put())  # arguments in the order of the text
        else:
            self.take("(Array new: ")
            out = [None] * self.number()
            self.take(")")
            put = lambda: out.__setitem__(self.keyed(self.number) - 1, self.put())
        if self.sees("at:"):
            put()
            while True:
                self.take(";")
                if self.sees("yourself"):
                    self.take("yourself")
                    break
                put()
        self.take(")")
        return out

    def keyed(self, key):
        self.take("at:")
        return key()

    def put(self):
        self.take("put:")
        return self.value()

    def __call__(self):
        x = self.value()
        self.skip()
        assert self.at == len(self.text)
        return x


DATA = {"text": "it's 'quoted'\n", "empty": {}, "none": None, "flags": [True, False, None], "numbers": [1, -2, 0.5, 1e-7, -1e300, 0.1],
        "nested": [[1.0, 2.5], [3, 4]], "mixed": [1, "two", [], {}], "big": 2 ** 53, "unicode": "é → 日本"}


class Export(ApiTest):
    def export(self, data, **fields):
        status, reply = server.post("/export/neuroscope", dict({"data": data, "export_type": "neuroscope"}, **fields))
        self.assertEqual(status, 200, reply)
        return reply

    def test_smalltalk_source_is_the_data(self):
        for data in (DATA, [], {}, 1.5, "x", [[]]):
            reply = self.export(data, format="smalltalk")
            self.assertEqual((reply["success"], reply["format"]), (True, "smalltalk"))
            self.assertEqual(Reader(reply["data"])(), data)

    def test_smalltalk_itself_reads_it(self):
        if not shutil.which("gst"):
            self.skipTest("no gst here")
        source = self.export(DATA, format="smalltalk")["data"]
        with tempfile.NamedTemporaryFile("w", suffix=".st") as f:
            f.write("| d |\nd := %s.\nd size printNl. (d at: 'text') displayNl. ((d at: 'numbers') at: 4) printNl.\n" % source.strip())
            f.flush()
            out = subprocess.run(["gst", "-q", f.name], capture_output=True, text=True, timeout=60).stdout.split("\n")
        self.assertEqual(out[0], str(len(DATA)))
        self.assertEqual(out[1], "it's 'quoted'")

    def test_json_is_the_data(self):
        self.assertEqual(self.export(DATA, format="json")["data"], DATA)

    def test_wrong_requests_name_the_field(self):
        for body, param in (({}, "data"), ({"data": 1, "format": "xml"}, "format"), ({"data": 1, "export_type": "other"}, "export_type")):
            self.check_error(server.post("/export/neuroscope", body), 400, param)


if __name__ == "__main__":
    unittest.main()

"""Reductions, channels and ranges on the wire: every one against the rows of the same request, in both encodings."""
import base64
import math
import struct
import unittest

import harness
from harness import ApiTest, unpack

harness.need(harness.tiny())
server = None
HOOK = {"layer": 1, "component": "resid_post"}
WIDTH = 64


def setUpModule():
    global server
    server = harness.Server(harness.tiny(), args=["--ctx", "256", "--parallel", "2"])


def tearDownModule():
    server.stop()


def ask(hooks, status=200, **fields):
    """Entries of each hook, in the order of the hooks."""
    hooks = [dict(HOOK, hook_id=str(i), **h) for i, h in enumerate(hooks)]
    body = dict({"prompt": list(range(40, 60)), "max_tokens": 5, "temperature": 0, "ignore_eos": True}, **fields)
    got, reply = server.post("/v1/completions", dict(body, activation_hooks=hooks))
    assert got == status, reply
    return [reply["activations"][str(i)] for i in range(len(hooks))] if status == 200 else reply["error"]


def columns(rows):
    return [list(c) for c in zip(*rows)]


OVER_ROWS = {
    "mean": lambda c: math.fsum(c) / len(c),
    "var": lambda c: math.fsum((x - math.fsum(c) / len(c)) ** 2 for x in c) / len(c),
    "max": max,
    "norm": lambda c: math.sqrt(math.fsum(x * x for x in c)),
}


class Reductions(ApiTest):
    def close(self, got, want):
        self.assertEqual(len(got), len(want))
        for g, w in zip(got, want):
            self.assertAlmostEqual(g, w, delta=1e-6 + 1e-6 * abs(w))

    def test_over_rows_one_row_for_the_prompt_and_one_for_what_was_generated(self):
        entries = ask([{}] + [{"reduce": op} for op in OVER_ROWS])
        prompt = unpack(entries[0][0])
        generated = [unpack(e)[0] for e in entries[0][1:]]
        self.assertEqual((len(prompt), len(generated)), (20, 4))
        for op, got in zip(OVER_ROWS, entries[1:]):
            self.assertEqual([(e["phase"], e["reduce"], e["n_rows_reduced"], e["shape"]) for e in got],
                             [("prompt", op, 20, [1, 1, WIDTH]), ("generated", op, 4, [1, 1, WIDTH])])
            self.assertEqual([e["positions"] for e in got], [list(range(20)), list(range(20, 24))])
            self.assertEqual(got[0]["token_ids"], list(range(40, 60)))
            self.assertEqual(got[1]["token_ids"], [e["token_ids"][0] for e in entries[0][1:]])
            for rows, e in zip((prompt, generated), got):
                self.close(unpack(e)[0], [OVER_ROWS[op](c) for c in columns(rows)])

    def test_merged_it_is_one_row_over_both(self):
        rows, mean, norms = ask([{}, {"reduce": "mean"}, {"reduce": "row_norm"}], activation_format={"merge": True})
        self.assertEqual([len(x) for x in (rows, mean, norms)], [1, 1, 1])
        self.assertEqual((mean[0]["phase"], mean[0]["n_rows_reduced"], mean[0]["shape"]), ("all", 24, [1, 1, WIDTH]))
        self.close(unpack(mean[0])[0], [OVER_ROWS["mean"](c) for c in columns(unpack(rows[0]))])
        self.assertEqual(norms[0]["shape"], [1, 24, 1])

    def test_per_row_norms_top_k_and_projections(self):
        directions = [[math.sin(d + i) for i in range(WIDTH)] for d in range(3)]
        packed = base64.b64encode(struct.pack("<192f", *sum(directions, []))).decode()
        entries = ask([{}, {"reduce": "row_norm"}, {"reduce": {"op": "topk", "k": 4}},
                       {"reduce": {"op": "topk", "k": 2, "by": "magnitude"}},
                       {"reduce": {"op": "project", "directions": directions}},
                       {"reduce": {"op": "project", "directions": {"shape": [3, WIDTH], "data": packed}}}])
        for pass_ in zip(*entries):
            plain, norm, top, top_abs, listed, bytes_ = pass_
            for e in pass_:
                self.assertEqual((e["positions"], e["token_ids"]), (plain["positions"], plain["token_ids"]))
            self.assertEqual(norm["shape"], [1, len(plain["positions"]), 1])
            for i, row in enumerate(unpack(plain)):
                self.close(unpack(norm)[i], [math.sqrt(math.fsum(x * x for x in row))])
                order = sorted(range(WIDTH), key=lambda c: -row[c])
                self.assertEqual(top["indices"][0][i], order[:4])
                self.assertEqual(unpack(top)[i], [row[c] for c in order[:4]])
                order.sort(key=lambda c: -abs(row[c]))
                self.assertEqual(top_abs["indices"][0][i], order[:2])
                self.assertEqual(unpack(top_abs)[i], [row[c] for c in order[:2]])
                self.close(unpack(listed)[i], [math.fsum(x * d for x, d in zip(row, v)) for v in directions])
                self.assertEqual(unpack(bytes_)[i], unpack(listed)[i])

    def test_base64_holds_values_and_indices(self):
        hook = {"reduce": {"op": "topk", "k": 3}, "positions": "prompt"}
        listed, = ask([hook])
        coded, = ask([hook], activation_format={"encoding": "base64"})
        self.assertEqual(unpack(coded[0]), [[harness.f32(x) for x in row] for row in unpack(listed[0])])
        indices = struct.unpack("<60i", base64.b64decode(coded[0]["indices"], validate=True))
        self.assertEqual(list(indices), sum(listed[0]["indices"][0], []))

    def test_half_precision_rounds_what_was_reduced(self):
        full, half = ask([{"reduce": "mean"}, {"reduce": "mean", "dtype": "float16"}])
        for a, b in zip(unpack(full[0])[0], unpack(half[0])[0]):
            self.assertAlmostEqual(a, b, delta=2e-3 * abs(a) + 1e-6)
        self.assertEqual(half[0]["dtype"], "float16")

    def test_a_stream_delivers_generated_statistics_before_it_ends(self):
        body = {"prompt": list(range(40, 60)), "max_tokens": 5, "temperature": 0, "ignore_eos": True,
                "activation_hooks": [dict(HOOK, hook_id="m", reduce="mean")]}
        objects = [o for o in server.sse("/v1/completions", body) if "entry" in o]
        self.assertEqual([(o["key"], o["entry"]["phase"], o["entry"]["n_rows_reduced"]) for o in objects],
                         [("m", "prompt", 20), ("m", "generated", 4)])

    def test_nothing_generated_is_no_entry(self):
        entries, = ask([{"reduce": "mean"}], max_tokens=1)
        self.assertEqual([e["phase"] for e in entries], ["prompt"])
        entries, = ask([{"reduce": "mean", "positions": "generated"}], max_tokens=1)
        self.assertEqual(entries, [])


class Parts(ApiTest):
    def test_channels_are_columns(self):
        entries = ask([{}, {"channels": [5, 63, 0]}, {"channels": "8:12"}, {"channels": {"from": -2}},
                       {"channels": "8:12", "reduce": {"op": "topk", "k": 1}}])
        for plain, some, span, tail, top in zip(*entries):
            self.assertEqual((some["channels"], span["channels"], tail["channels"]),
                             ([5, 63, 0], {"from": 8, "to": 12}, {"from": -2}))
            for i, row in enumerate(unpack(plain)):
                self.assertEqual(unpack(some)[i], [row[5], row[63], row[0]])
                self.assertEqual(unpack(span)[i], row[8:12])
                self.assertEqual(unpack(tail)[i], row[62:])
                self.assertEqual(top["indices"][0][i], [max(range(8, 12), key=lambda c: row[c])])

    def test_ranges_pick_rows(self):
        for given, want in (("3:10", range(3, 10)), ({"from": 3, "to": 10}, range(3, 10)), ("-4:", range(16, 24)),
                            (":2", range(2)), ("18:22", range(18, 22)), ({"from": 21}, range(21, 24)),
                            (":", range(24)), ("-4:-2", range(16, 18))):
            entries, means = ask([{"positions": given}, {"positions": given, "reduce": "mean"}],
                                 activation_format={"merge": True})
            self.assertEqual(entries[0]["positions"], list(want), given)
            self.assertEqual(means[0]["positions"], list(want), given)
            self.close(unpack(means[0])[0], [OVER_ROWS["mean"](c) for c in columns(unpack(entries[0]))])

    close = Reductions.close

    def test_a_range_leaves_the_rows_before_it_to_the_cache(self):
        ask([{}], prompt=list(range(70, 110)))
        hooks = [dict(HOOK, positions="30:40", reduce="mean")]
        _, reply = server.post("/v1/completions", {"prompt": list(range(70, 110)), "max_tokens": 1, "temperature": 0,
                                                   "activation_hooks": hooks})
        self.assertEqual(reply["usage"]["prompt_tokens_details"]["cached_tokens"], 30)
        self.assertEqual(reply["activations"]["resid_post.1"][0]["positions"], list(range(30, 40)))


class Refusals(ApiTest):
    def test_what_makes_no_sense_names_the_hook_and_the_reason(self):
        for hook, says in (({"reduce": {"op": "topk", "k": 65}}, "1 to 64"),
                           ({"reduce": {"op": "project", "directions": [[1, 2]]}}, "the rows 64"),
                           ({"channels": [64]}, "channels 0 to 63"),
                           ({"channels": "60:70"}, "channels 0 to 63"),
                           ({"positions": "5:5"}, "exclusive"),
                           ({"positions": "0:300"}, "positions 0 to 255"),
                           ({"reduce": "median"}, "nearest"),
                           ({"reduce": "topk"}, "\"k\": 10")):
            error = ask([{}, hook], status=400)
            self.assertTrue(error["param"].startswith("activation_hooks[1]"), error)
            self.assertIn(says, error["message"])


if __name__ == "__main__":
    unittest.main()

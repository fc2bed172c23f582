"""Shards in the tools that people use: safetensors, NumPy (.npy too), Hugging Face datasets, SAELens' form of a cache."""
import os
import random
import shutil
import sys
import tempfile
import unittest

import harness
from harness import need, need_sdk, run, tiny

need(tiny())
need_sdk("numpy", "safetensors")
sys.path.insert(0, os.path.join(harness.SOURCE, "clients", "python"))
import numpy as np  # noqa: E402
import glia_shards  # noqa: E402

CONTEXT = 24


class Shards(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="glia-interop-")
        rng = random.Random(3)
        cls.documents = ["".join(rng.choice("abcdefgh ijk") for _ in range(rng.randint(1, 90))) + "x" for _ in range(40)]
        data = os.path.join(cls.dir, "data.txt")
        with open(data, "w") as f:
            f.write("\n".join(cls.documents))
        cls.out = {}
        for dtype in ("float32", "float16", "bfloat16"):
            cls.out[dtype] = os.path.join(cls.dir, dtype)
            status, _, err = run("harvest", "--model", tiny(), "--data", data, "--points", "resid_post@all,z@1", "--out",
                                 cls.out[dtype], "--ctx", "64", "--window", str(CONTEXT), "--shard-size", "60K",
                                 "--threads", "1", "--dtype", dtype, "--cache-type", "f32", "--flash-attn", "off")
            assert status == 0, err

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def whole(self, name, dtype="float32"):
        return np.concatenate([glia_shards.load(p)[name] for p in glia_shards.shards(self.out[dtype])])

    def test_safetensors_and_numpy_read_the_same(self):
        from safetensors.numpy import load_file
        paths = glia_shards.shards(self.out["float32"])
        self.assertGreater(len(paths), 3)
        for path in paths:
            ours, theirs = glia_shards.load(path), load_file(path)
            self.assertEqual(set(ours), set(theirs))
            for k in ours:
                np.testing.assert_array_equal(ours[k], theirs[k])
        exact = self.whole("resid_post.1")
        for dtype, error in (("float16", 1e-3), ("bfloat16", 8e-3)):
            x = self.whole("resid_post.1", dtype)
            self.assertLess(np.abs(x.astype("f8") - exact).max(), error * np.abs(exact).max())

    def test_npy_is_what_numpy_loads(self):
        store = os.path.join(self.dir, "store")
        for dtype in ("float32", "float16", "bfloat16"):
            run_id = run("runs", "add", self.out[dtype], "--store", store)[1].strip()
            path = os.path.join(self.dir, "x.npy")
            status, _, err = run("runs", "export", run_id, "z.1", "--store", store, "--out", path)
            self.assertEqual((status, err), (0, ""))
            x = np.load(path)
            self.assertEqual(str(x.dtype), "float16" if dtype == "float16" else "float32")
            np.testing.assert_array_equal(x, self.whole("z.1", dtype))

    def test_statistics_are_numpys(self):
        x = self.whole("resid_post.0").astype("f8")
        s = glia_shards.statistics(self.out["float32"])["resid_post.0"]
        self.assertEqual(s["count"], len(x))
        np.testing.assert_allclose(s["mean"], x.mean(0), atol=1e-5)
        np.testing.assert_allclose(s["variance"], x.var(0), rtol=1e-4, atol=1e-8)

    def test_batches_hold_every_row_once(self):
        x = self.whole("z.1")
        plain = list(glia_shards.batches(self.out["float32"], "z.1", 100))
        np.testing.assert_array_equal(np.concatenate(plain), x)
        self.assertTrue(all(len(b) == 100 for b in plain[:-1]))
        mixed = list(glia_shards.batches(self.out["float32"], "z.1", 64, seed=1, buffer=300))
        self.assertTrue(all(len(b) == 64 for b in mixed[:-1]))
        flat = np.concatenate(mixed)
        self.assertFalse(np.array_equal(flat, x))
        np.testing.assert_array_equal(np.sort(flat, 0), np.sort(x, 0))

    def test_pieces_are_those_of_a_saelens_cache(self):
        hook = "blocks.1.hook_resid_post"
        pieces = list(glia_shards.saelens(self.out["float32"], "resid_post.1", hook, CONTEXT))
        want = sum((len(d) + 1) // CONTEXT for d in self.documents)  # a token a byte, and BOS
        self.assertEqual(len(pieces), want)
        x, position = self.whole("resid_post.1"), self.whole("position")
        token, at = self.whole("token_id"), 0
        starts = [i for i in range(len(position) - CONTEXT + 1) if position[i] == 0 and position[i + CONTEXT - 1] == CONTEXT - 1]
        for piece, at in zip(pieces, starts):
            np.testing.assert_array_equal(piece[hook], x[at:at + CONTEXT])
            np.testing.assert_array_equal(piece["token_ids"], token[at:at + CONTEXT])

    def test_hugging_face_datasets_take_the_rows(self):
        try:
            import datasets
        except ImportError:
            print("skip: no datasets (377 MB with all it needs; pip install datasets==5.2.0 to run this)")
            self.skipTest("no datasets")
        names = ("resid_post.1",)
        ds = datasets.IterableDataset.from_generator(
            glia_shards.rows, gen_kwargs={"shards": glia_shards.shards(self.out["float32"]), "names": names})
        got = list(ds)
        x = self.whole("resid_post.1")
        self.assertEqual(len(got), len(x))
        np.testing.assert_allclose(np.array([r["resid_post.1"] for r in got], "f4"), x)
        self.assertEqual([r["token_id"] for r in got], self.whole("token_id").tolist())
        hook = "blocks.1.hook_resid_post"
        cache = os.path.join(self.dir, "cache")
        features = datasets.Features({hook: datasets.Array2D((CONTEXT, x.shape[1]), "float32"),
                                      "token_ids": datasets.Sequence(datasets.Value("int32"), length=CONTEXT)})
        datasets.Dataset.from_generator(glia_shards.saelens, features=features, cache_dir=os.path.join(self.dir, "hf"),
                                        gen_kwargs={"folder": self.out["float32"], "name": "resid_post.1", "hook": hook,
                                                    "context": CONTEXT}).save_to_disk(cache)
        back = datasets.load_from_disk(cache).with_format("numpy")
        self.assertEqual(back[0][hook].shape, (CONTEXT, x.shape[1]))
        self.assertEqual(len(back), sum((len(d) + 1) // CONTEXT for d in self.documents))


if __name__ == "__main__":
    unittest.main(verbosity=2)

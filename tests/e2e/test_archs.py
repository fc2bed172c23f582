"""Every architecture that llama.cpp's own tiny-model generator can build: nothing crashes, the trunk is proven."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE = os.environ["GLIA_SOURCE_DIR"]
GENERATOR = os.environ.get("GLIA_LLAMA_ARCHS", "")
ROWS = os.environ.get("GLIA_ARCHS_ROWS", "")
LEAST = 110  # variants whose trunk was proven when this was written


class Architectures(unittest.TestCase):
    @unittest.skipUnless(GENERATOR and os.path.exists(GENERATOR), "skip: llama_archs is not built")
    def test_no_architecture_crashes_and_the_trunk_is_proven(self):
        with tempfile.TemporaryDirectory() as folder:
            made = os.path.join(folder, "archs")
            os.mkdir(made)
            subprocess.run([GENERATOR, "-o", made], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           timeout=300)
            p = subprocess.run([sys.executable, os.path.join(SOURCE, "tools", "archs.py"), "--glia", os.environ["GLIA_BIN"],
                                "--models", made, "--check", "--least", str(LEAST)],
                               capture_output=True, text=True, timeout=600)
            print(p.stdout, end="")
            self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
            load, _, _, crash = map(int, re.match(r"(\d+) load, (\d+) trunk proven, (\d+) refused, (\d+) crash", p.stdout).groups())
            self.assertGreaterEqual(load, 120)
            self.assertEqual(crash, 0)
            for flash in ("off", "on") if ROWS else ():
                self.generated_rows_equal_prompt_rows(made, flash)

    def generated_rows_equal_prompt_rows(self, made, flash):
        checked, bad = 0, []
        for name in sorted(os.listdir(made)):  # a process each: a crash is one model's
            p = subprocess.run([ROWS, flash, os.path.join(made, name)], capture_output=True, text=True, timeout=120)
            checked += p.returncode == 0 and "hooks, largest error" in p.stdout
            if p.returncode:
                bad.append("%s (%d): %s" % (name, p.returncode, (p.stdout + p.stderr)[:300]))
        print("flash attention %s: rows of %d models are the same generated and read" % (flash, checked))
        self.assertEqual(bad, [])
        self.assertGreaterEqual(checked, 115)


if __name__ == "__main__":
    unittest.main()

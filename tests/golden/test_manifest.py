"""The goldens are whole, unchanged, consistent in themselves, and belong to the models that mktiny.py makes."""
import json
import os
import re
import subprocess
import sys
import unittest

SOURCE = os.environ.get("GLIA_SOURCE_DIR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


class Goldens(unittest.TestCase):
    def test_goldens_belong_to_the_models(self):
        p = subprocess.run([sys.executable, os.path.join(SOURCE, "tools", "reference", "check.py")], capture_output=True,
                           text=True, timeout=300)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        self.assertGreaterEqual(p.stdout.count("ok   "), 44)

    def test_the_page_of_errors_names_the_same_families(self):
        with open(os.path.join(SOURCE, "tests", "golden", "MANIFEST.json"), encoding="utf-8") as f:
            families = [e["family"] for e in json.load(f)["families"]]
        with open(os.path.join(SOURCE, "docs", "FIDELITY.md"), encoding="utf-8") as f:
            page = f.read()
        tables = re.split(r"^\| family \|.*\n\|---.*\n", page, flags=re.M)[1:]
        self.assertEqual(len(tables), 4)
        for table in tables:  # made by tools/fidelity/make_page.py: run it when families change
            self.assertEqual(re.findall(r"^\| ([^ ]+) \|", table.split("\n\n")[0], re.M), families)


if __name__ == "__main__":
    unittest.main()

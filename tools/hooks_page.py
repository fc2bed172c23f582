#!/usr/bin/env python3
"""tools/hooks_page.py PAGE < tables: put the tables that `glia help hooks` prints into the page, between the same marker
lines.  --check only says whether the page holds them as they are (exit status 1: it does not)."""
import re
import sys

BLOCK = re.compile(r"<!-- glia help hooks: (.*?) -->\n.*?<!-- end -->\n", re.S)


def blocks(text):
    return {m.group(1): m.group(0) for m in BLOCK.finditer(text)}


def main():
    args = [a for a in sys.argv[1:] if a != "--check"]
    if len(args) != 1:
        sys.exit(__doc__)
    with open(args[0]) as f:
        page = f.read()
    made = blocks(sys.stdin.read())
    if set(made) != set(blocks(page)):
        sys.exit("%s: its tables are %s, the program's %s" % (args[0], sorted(blocks(page)), sorted(made)))
    new = BLOCK.sub(lambda m: made[m.group(1)], page)
    if "--check" in sys.argv:
        sys.exit(new != page and "%s is not what the program says; run: make docs" % args[0])
    with open(args[0], "w") as f:
        f.write(new)


main()

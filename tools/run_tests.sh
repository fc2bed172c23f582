#!/usr/bin/env bash
# Run the tests of one or more build folders and count them.
#   tools/run_tests.sh <build>[:<label regex>[:<test name regex>]] …
# Cases are counted one by one: cmocka's and unittest's cases, else the test as a whole.  A case that prints a line
# starting with "skip:" counts as skipped.  A test that fails without naming a failed case (crash, timeout, sanitizer
# report at exit) counts as one failure.  The last line is "N passed, N failed[, N skipped]"; exit status 1 on failures
# or when nothing ran.  The line is also left in <first build>/test-counts.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
jobs=${TEST_JOBS:-$(nproc 2>/dev/null || echo 2)} # servers under test compute on one thread each
results=()

for arg in "$@"; do
    IFS=: read -r build label name <<<"$arg"
    xml="$PWD/$build/test-results.xml"
    rm -f "$xml"
    select=()
    [ -z "$label" ] || select+=(-L "$label")
    [ -z "$name" ] || select+=(-R "$name")
    printf 'test: %s%s%s\n' "$build" "${label:+, labels $label}" "${name:+, names $name}"
    ctest --test-dir "$build" "${select[@]+"${select[@]}"}" -j "$jobs" --output-on-failure --no-tests=ignore \
        --test-output-size-passed 4000000 --test-output-size-failed 4000000 --output-junit "$xml" || true
    results+=("$build" "$xml")
done

python3 - "${results[@]}" <<'PY'
import re, sys, os
import xml.etree.ElementTree as ET

CMOCKA = re.compile(r"\[ (RUN     |      OK| FAILED | SKIPPED) +\] (?!\d+ test\(s\))([\w/.:-]+)")
SKIP = re.compile(r"^\s*skip:", re.M)

def count_cmocka(text):
    passed, failed, skipped, current, said_skip = 0, set(), set(), None, False
    for line in text.splitlines():
        m = CMOCKA.search(line)
        if m:
            kind, name = m.group(1).strip(), m.group(2)
            if kind == "RUN":
                current, said_skip = name, False
            elif kind == "OK":
                if said_skip:
                    skipped.add(name)
                else:
                    passed += 1
                current = None
            elif kind == "SKIPPED":
                skipped.add(name)
            else:
                failed.add(name)
        elif current and SKIP.match(line):
            said_skip = True
    return passed, len(failed), len(skipped - failed)

def count_unittest(text):
    total = sum(int(n) for n in re.findall(r"^Ran (\d+) tests? in", text, re.M))
    def of(key):
        return sum(int(n) for line in re.findall(r"^(?:OK|FAILED) \((.*)\)$", text, re.M)
                   for n in re.findall(r"(?:^|, )%s=(\d+)" % key, line))
    failed, skipped = of("failures") + of("errors") + of("unexpected successes"), of("skipped")
    # fixtures of a class or module that fail or skip are not among those that ran
    outside = len(re.findall(r"^(?:ERROR: )?(?:setUp|tearDown)(?:Class|Module) \(.*?\)(?: \.\.\. skipped.*)?$", text, re.M))
    return max(0, total - failed - skipped + outside), failed, skipped

def count(case):
    text = "".join(e.text or "" for e in case.iter("system-out"))
    status = case.get("status")
    if status in ("notrun", "disabled"):
        # ctest says so for exit status 77, but also for a program that could not be started
        because = " ".join((e.get("message") or "") for e in case.iter("skipped"))
        return (0, 0, 1) if status == "disabled" or "SKIP" in because.upper() or SKIP.search(text) else (0, 1, 0)
    # unittest first: a test in Python may print what a cmocka program said, never the other way round
    if re.search(r"^Ran \d+ tests? in", text, re.M):
        p, f, s = count_unittest(text)
    elif "[==========]" in text:
        p, f, s = count_cmocka(text)
    elif status == "fail":
        p, f, s = 0, 1, 0
    else:
        p, f, s = (0, 0, 1) if SKIP.search(text) else (1, 0, 0)
    if status == "fail" and not f:
        f = 1
    if status == "run" and not (p or f or s):
        s = 1
    return p, f, s

def line(n):
    return "%d passed, %d failed" % n[:2] + (", %d skipped" % n[2] if n[2] else "")

total, bad, first = (0, 0, 0), [], sys.argv[1]
print()
for build, xml in zip(sys.argv[1::2], sys.argv[2::2]):
    sums = (0, 0, 0)
    if not os.path.exists(xml):
        print("%s: ctest left no results" % build)
        sums = (0, 1, 0)
    else:
        for case in ET.parse(xml).getroot().iter("testcase"):
            n = count(case)
            sums = tuple(a + b for a, b in zip(sums, n))
            if n[1]:
                bad.append("%s: %s (%s)" % (build, case.get("name"), line(n)))
            text = "".join(e.text or "" for e in case.iter("system-out"))
            whys = set(re.findall(r"^\s*(skip:.*)$", text, re.M))
            whys |= {"skip: " + why for why in re.findall(r"\.\.\. skipped ['\"](?:skip: )?(.*)['\"]$|^skipped ['\"](.*)['\"]$", text, re.M)
                     for why in why if why}
            for why in sorted(whys)[:3]:
                print("%s: %s: %s" % (build, case.get("name"), why))
    print("%s: %s" % (build, line(sums)))
    total = tuple(a + b for a, b in zip(total, sums))
for b in bad:
    print("failed: " + b)
if sum(total) == 0:
    print("no tests ran")
closing = line(total)
with open(os.path.join(first, "test-counts"), "w") as f:
    f.write(closing + "\n")
print(closing, flush=True)
sys.exit(1 if total[1] or sum(total) == 0 else 0)
PY

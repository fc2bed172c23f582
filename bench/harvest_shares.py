"""What a harvest costs by samples of all processors: where the clock cannot tell, because the machine's speed changes.

    python3 bench/harvest_shares.py --glia build/glia --model FILE.gguf [--rounds 3] [--tokens 16384]

On a virtual machine the same work takes up to 1.4 times as long from one ten seconds to the next, whatever runs.  How the
processors' time is *divided* does not change with that: perf samples every processor 499 times a second while bench_harvest's
plain prefill and harvest run in turns, and the part of all samples that lies in the model's own functions is what is compared.
A harvest whose part is 0.95 of plain prefill's computes 0.95 times as many tokens in the same time, except for what it pushes out of the caches.
Needs perf, and the right to sample all processes.  All threads of the server must have a processor of their own."""
import collections
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_harvest import harvest, options, plain, random_pieces, serving  # noqa: E402

MODEL = re.compile(r"ggml|llamafile|tinyBLAS|gemm|vec_dot|quantize|llama|fp16|f32_to")
SAMPLE = re.compile(r"(.*?)\s+([0-9.]+):\s+[0-9a-f]{6,16} (.*?) ?\((\S*)\)$")


def kind(comm, function, library):
    if comm.startswith("swapper"):
        return "idle"
    if comm.startswith(("python", "perf")):
        return "this benchmark"
    if "libgomp" in library:
        return "threads of the model waiting for each other"
    if "libcrypto" in library:
        return "SHA-256"
    if "libdeflate" in library:
        return "block checksums"
    if "kernel" in library or library.startswith("["):
        return "kernel"
    if MODEL.search(function):
        return "model"
    return {"add_rows_avx2": "statistics", "glia_copy_away": "copies of the harvest"}.get(function, "other: " + function)


def sampled(folder, work):
    """What work() returns (seconds first), and how often each kind was seen in these seconds."""
    path, counts = os.path.join(folder, "perf.data"), collections.Counter()
    perf = subprocess.Popen(["perf", "record", "-k", "CLOCK_MONOTONIC", "-a", "-F", "499", "-o", path],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    begin = time.monotonic()
    seconds = work()
    perf.send_signal(signal.SIGINT)
    perf.wait()
    text = subprocess.run(["perf", "script", "-i", path, "-F", "comm,time,ip,sym,dso"], capture_output=True, text=True,
                          check=False).stdout
    for line in text.splitlines():
        m = SAMPLE.match(line.strip())
        if m and begin <= float(m[2]) <= begin + seconds:
            counts[kind(m[1].strip(), m[3].strip(), m[4])] += 1
    if not counts["model"]:
        sys.exit("harvest_shares: perf saw nothing of the model: is it installed, and may it sample all processors?")
    return seconds, counts


def main():
    p = options(16384)
    p.add_argument("--points", default="resid_pre@all")
    p.add_argument("--dtype", default="float32")
    a = p.parse_args()
    pieces = random_pieces(a.tokens, a.piece)
    seconds, seen = collections.Counter(), {"plain": collections.Counter(), "harvest": collections.Counter()}
    with (tempfile.TemporaryDirectory() as d,
          serving(a.glia, a.model, d, "--threads", str(os.cpu_count()), "--json") as (_, port)):
        work = {"plain": lambda: plain(port, pieces),
                "harvest": lambda: harvest(port, pieces, a.points, dtype=a.dtype)[0]}
        plain(port, pieces[:2])
        harvest(port, pieces[:2], a.points, dtype=a.dtype)
        for i in range(a.rounds):
            ratios = {}
            for what in sorted(work, reverse=i % 2 == 0):
                s, counts = sampled(d, work[what])
                seconds[what] += s
                seen[what] += counts
                ratios[what] = counts["model"] / sum(counts.values())
            print("round %d: %.3f" % (i + 1, ratios["harvest"] / ratios["plain"]), file=sys.stderr)
    total = {what: sum(c.values()) for what, c in seen.items()}
    share = {what: {k: v / total[what] for k, v in c.items()} for what, c in seen.items()}
    print("%s as %s, %d x %d tokens in pieces of %d, %d processors" % (a.points, a.dtype, a.rounds, len(pieces) * a.piece, a.piece, os.cpu_count()))
    print("%-45s %8s %8s" % ("percent of all samples", "plain", "harvest"))
    for k in sorted(share["harvest"], key=lambda k: -share["harvest"][k]):
        if share["harvest"][k] >= 5e-4:
            print("%-45s %8.2f %8.2f" % (k, 100 * share["plain"].get(k, 0), 100 * share["harvest"][k]))
    print("the model's part: harvest %.3f of plain prefill (goal >= 0.95); by the clock %.3f" %
          (share["harvest"]["model"] / share["plain"]["model"], seconds["plain"] / seconds["harvest"]))


if __name__ == "__main__":
    main()

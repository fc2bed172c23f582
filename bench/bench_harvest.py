"""What a harvest costs: tokens/s against plain prefill of the same pieces, in one server, in alternating pairs.

    python3 bench/bench_harvest.py --glia build/glia --model FILE.gguf [--rounds 3] [--tokens 16384] [--points resid_pre@all]

Plain: completions with max_tokens 0, no hooks, as many at once as the harvest keeps under way.  Harvest: POST
/api/v1/harvests of the same token ids.  Also: resident memory before, between and after.  Prints ratios; a number means
something only beside the other of the same run."""
import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request


def call(port, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    r = urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), data, method=method)
    with urllib.request.urlopen(r, timeout=3600) as f:
        return json.load(f)


@contextlib.contextmanager
def serving(glia, model, folder, *args):
    """A server with its store in the folder: its process and its port."""
    port_file = os.path.join(folder, "port")
    server = subprocess.Popen([glia, "serve", "--model", model, "--listen", "127.0.0.1:0", "--port-file", port_file,
                               "--store", os.path.join(folder, "store"), "--ctx", "1024"] + list(args), stdout=subprocess.DEVNULL)
    try:
        while not os.path.exists(port_file):
            time.sleep(0.05)
        with open(port_file) as f:
            yield server, int(f.read())
    finally:
        server.terminate()
        server.wait()


def resident(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmRSS"))


def cpu(pid):
    """Seconds of processor time that the server has used: on a busy machine its ratio says more than the clock's."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def options(tokens):
    """What every benchmark of harvests takes."""
    p = argparse.ArgumentParser()
    p.add_argument("--glia", default="build/glia")
    p.add_argument("--model", required=True)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tokens", type=int, default=tokens)
    p.add_argument("--piece", type=int, default=256)
    return p


def random_pieces(tokens, piece):
    rng = random.Random(1)
    return [[rng.randint(1000, 40000) for _ in range(piece)] for _ in range(tokens // piece)]


def plain(port, pieces):
    t = time.monotonic()
    for i in range(0, len(pieces), 64):
        call(port, "POST", "/v1/completions", {"prompt": pieces[i:i + 64], "max_tokens": 0, "cache_prompt": False})
    return time.monotonic() - t


def harvest(port, pieces, points, **more):
    """Seconds by the server's clock, from the first token read to the last file on the disk: it is looked at only every two
    seconds, because a look costs these same cores 2 to 3 ms."""
    h = call(port, "POST", "/api/v1/harvests", dict({"points": points, "documents": [{"tokens": p} for p in pieces]}, **more))
    while h["status"] == "running":
        time.sleep(2)
        h = call(port, "GET", "/api/v1/harvests/" + h["id"])
    assert h["status"] == "completed", h
    call(port, "DELETE", "/api/v1/runs/" + h["id"])
    return h["task"]["result"]["seconds"], h["run"]["bytes"]


def main():
    p = options(16384)
    p.add_argument("--points", default="resid_pre@all")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--threads", default=str(os.cpu_count()))
    p.add_argument("--serve", default="", help="more options of glia serve")
    a = p.parse_args()
    pieces = random_pieces(a.tokens, a.piece)
    with (tempfile.TemporaryDirectory() as d,
          serving(a.glia, a.model, d, "--threads", a.threads, "--json", *a.serve.split()) as (server, port)):
        plain(port, pieces[:2])
        harvest(port, pieces[:2], a.points, dtype=a.dtype)
        memory, ratios, work, rates = [resident(server.pid)], [], [], []
        for i in range(a.rounds):
            used = {}
            for what in ("plain", "harvest") if i % 2 else ("harvest", "plain"):
                before = cpu(server.pid)
                if what == "plain":
                    s = plain(port, pieces)
                else:
                    h, size = harvest(port, pieces, a.points, dtype=a.dtype)
                used[what] = cpu(server.pid) - before
            ratios.append(s / h)
            work.append(used["plain"] / used["harvest"])
            rates.append((len(pieces) * a.piece / s, len(pieces) * a.piece / h, size / h / 1e6))
            memory.append(resident(server.pid))
            print("round %d: plain %.0f tokens/s, harvest %.0f tokens/s, %.1f MB/s written" % ((i + 1,) + rates[-1]),
                  file=sys.stderr)
        print("%s as %s, %d tokens in pieces of %d: harvest %.3f of plain prefill (%.3f..%.3f; goal >= 0.95)" %
              (a.points, a.dtype, len(pieces) * a.piece, a.piece, statistics.median(ratios), min(ratios), max(ratios)))
        print("by processor time of the server: %.3f (%.3f..%.3f)" % (statistics.median(work), min(work), max(work)))
        print("resident MiB at the start and after each round: " + " ".join("%.0f" % m for m in memory))


if __name__ == "__main__":
    main()

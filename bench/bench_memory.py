"""Is a server's memory flat over a long harvest and beside a reader that reads nothing?

    python3 bench/bench_memory.py --glia build/glia --model FILE.gguf [--minutes 10]

One server harvests random tokens (resid_pre of all layers as float32, read from a file of token ids) for as long as asked.  From
the second minute on a client streams activations of a long answer and never reads.  Resident memory, descriptors and
threads are read twice a second; what counts is their growth after the first minute, when every buffer has been filled
once.  Not a measure of speed: other work on the machine does no harm."""
import argparse
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_harvest import call, serving  # noqa: E402


def status(pid):
    with open("/proc/%d/status" % pid) as f:
        s = dict(line.split(":", 1) for line in f)
    return (int(s["VmRSS"].split()[0]) - int(s["RssFile"].split()[0])) / 1024, int(s["Threads"]), len(os.listdir("/proc/%d/fd" % pid))


def stalled_reader(port):
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 800, "ignore_eos": True, "stream": True,
                       "activation_hooks": [{"layer": "*", "component": "resid_post"}]}).encode()
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
              % len(body) + body)
    return s


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--glia", default="build/glia")
    p.add_argument("--model", required=True)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--tokens", type=int, default=1 << 20, help="in the data; the harvest is stopped when the time is over")
    a = p.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as d:
        data = os.path.join(d, "data.jsonl")
        with open(data, "w") as f:
            for _ in range(a.tokens // 256):
                f.write(json.dumps({"tokens": [rng.randint(1000, 40000) for _ in range(256)]}) + "\n")
        with serving(a.glia, a.model, d, "--data-dir", d, "--json") as (server, port):
            h = call(port, "POST", "/api/v1/harvests", {"points": "resid_pre@all", "data": data})
            began, seen, reader = time.monotonic(), [], None
            while time.monotonic() - began < a.minutes * 60:
                time.sleep(0.5)
                seen.append((time.monotonic() - began,) + status(server.pid))
                if not reader and seen[-1][0] > 60:
                    reader = stalled_reader(port)
                if len(seen) % 20 == 0:
                    h = call(port, "GET", "/api/v1/harvests/" + h["id"])
                    if h["status"] != "running":
                        sys.exit("the harvest ended early: %s" % h)
                    print("%4.0f s  %5.0f MiB  %d threads  %d descriptors" % seen[-1], file=sys.stderr, flush=True)
            h = call(port, "GET", "/api/v1/harvests/" + h["id"])
            later = [x for x in seen if x[0] > 75]
            half = len(later) // 2
            first, second = later[:half], later[half:]
            print("harvested for %.0f minutes, %d tokens; beside it a stalled reader" % (a.minutes, h["task"]["detail"]["tokens"]))
            for i, what in ((1, "resident MiB (without mapped files)"), (2, "threads"), (3, "descriptors")):
                values = [[x[i] for x in part] for part in (first, second)]
                print("%s: first half median %.0f, most %.0f; second half median %.0f, most %.0f"
                      % ((what,) + sum(((statistics.median(v), max(v)) for v in values), ())))


if __name__ == "__main__":
    main()

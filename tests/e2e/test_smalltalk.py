"""clients/smalltalk in a Squeak image (headless) and in GNU Smalltalk, against a live server with SmolLM2.

Both dialects file in the packages and run all of NeuroScope-Tests once, when the module starts; then every Smalltalk test
is a test here, by its own name.  What they note on the way ("note …") is compared with what this program gets from the
same server without any Smalltalk.  tools/smalltalk.sh gets the two Smalltalks; without them the module is skipped."""
import glob
import json
import math
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "api"))
import harness  # noqa: E402

ROOT = os.path.join(HERE, "..", "..")
CLIENT = os.path.join(ROOT, "clients", "smalltalk")
FOLDER = os.environ.get("GLIA_SMALLTALK_DIR") or os.path.join(
    os.environ.get("GLIA_DEPS_DIR", os.path.join(ROOT, ".deps")), "smalltalk")
RUN = os.path.join(ROOT, "tools", "smalltalk_env.sh")
LIMIT_S = 300
PACKAGES = ["Wire", "LMStudio", "Core", "Hooks", "Analysis", "Visual", "Tests"]
DIALECTS = {"gst": ["Platform-GNU"] + PACKAGES, "squeak": ["Platform-Squeak"] + PACKAGES[:-1] + ["Morphic", "MiniSUnit", "Tests"]}
ALIAS = "llama-3.1-8b"

# Squeak: read the packages quickly (without windows, changes file and Monticello), run, leave.  Only its own folder can be
# written to, so the report goes there.
SQUEAK_BOOT = """| s out known |
known := Undeclared keys.
out := FileStream newFileNamed: 'report.txt'.
s := ReadStream on: (FileStream readOnlyFileNamed: 'bundle.st') contentsOfEntireFile.
[SystemChangeNotifier uniqueInstance doSilently: [[s skipSeparators. s atEnd] whileFalse: [
    [(s peekFor: (Character value: 33))
        ifTrue: [(Compiler evaluate: s nextChunk logged: false) scanFrom: s]
        ifFalse: [Compiler evaluate: s nextChunk logged: false]]
            on: Error do: [:e |
                out nextPutAll: 'load: before character ', s position printString, ': ', e class name, ' ', e messageText asString; cr; flush.
                e return: nil]]].
Undeclared keysDo: [:key | (known includes: key) ifFalse: [out nextPutAll: 'load: undeclared ', key; cr; flush]].
(Smalltalk at: #NSTestRunner) reporting: [:line | out nextPutAll: line; cr; flush]]
    ensure: [out close. Smalltalk snapshot: false andQuit: true]!
"""
GST_BOOT = """NSTestRunner reporting: [:line | Transcript showCr: line]!
"""


def package(name):
    return os.path.join(CLIENT, "NeuroScope-%s.st" % name)


def read(name):
    with open(package(name), encoding="utf-8") as f:
        return f.read()


class Fake:
    """A server that answers every request with the same octets and closes, or says nothing at all."""

    def __init__(self, answer):
        self.answer = answer
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.socket.getsockname()[1]
        self.held = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.socket.accept()
            except OSError:
                return
            if self.answer is None:
                self.held.append(c)  # open, and silent
                continue
            data = b""
            while b"\r\n\r\n" not in data:
                data += c.recv(65536) or b"\r\n\r\n"
            c.sendall(self.answer)
            c.shutdown(socket.SHUT_WR)
            c.settimeout(1)
            try:
                while c.recv(65536):
                    pass
            except OSError:
                pass
            c.close()

    def close(self):
        self.socket.close()
        for c in self.held:
            c.close()


def chunk(text):
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(text):
    return json.dumps({"type": "token", "choices": [{"index": 0, "delta": {"content": text}}]}) + "\n"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
FAKES = {
    "cut": HEAD + chunk(token("Hel")) + chunk(token("lo")) + b"400\r\n{\"type\": \"token\"",
    "short": HEAD + chunk(token("Hel")) + b"0\r\n\r\n",
    "broken": HEAD + chunk(token("Hel")) + chunk(json.dumps({"type": "error", "error": {"message": "no memory"}}) + "\n") + b"0\r\n\r\n",
    "garbage": b"SSH-2.0-OpenSSH_9.2\r\n",
    "silent": None,
}


def readme_examples():
    """The code blocks of the README, each as the body of a method; `"=> x"` behind a statement becomes an assertion."""
    with open(os.path.join(CLIENT, "README.md"), encoding="utf-8") as f:
        blocks = re.findall(r"```smalltalk\n(.*?)```", f.read(), re.S)
    methods = []
    for block in blocks:
        lines = []
        for line in block.split("\n"):
            m = re.match(r"(.*?)\.\s+\"=> (.*)\"$", line)
            lines.append("self assert: (%s) is: (%s)." % m.groups() if m else line)
        names = sorted(set(re.findall(r"(?m)^(\w+) :=", block)))
        methods.append("\t| %s |\n%s" % (" ".join(names), "\n".join("\t" + l for l in lines)))
    return methods


def readme_class():
    body = "".join("testExample%d\n%s!\n\n" % (n, m.rstrip()) for n, m in enumerate(readme_examples(), 1))
    return """
NeuroScopeTest subclass: #NSReadmeTest
	instanceVariableNames: 'old'
	classVariableNames: ''
	poolDictionaries: ''
	category: 'NeuroScope-Tests'!

!NSReadmeTest methodsFor: 'tests'!
setUp
	super setUp.
	old := LMStudioRESTClient default.
	client maxTokens: 16.
	LMStudioRESTClient default: client!

tearDown
	LMStudioRESTClient default: old!

%s! !
""" % body.rstrip().rstrip("!")


def settings_chunk(settings):
    return "".join("NeuroScopeTest settings at: '%s' put: '%s'!\n" % item for item in settings.items())


def run_gst(settings, folder):
    boot = os.path.join(folder, "boot.st")
    with open(boot, "w") as f:
        f.write(readme_class() + settings_chunk(settings) + GST_BOOT)
    files = [package(p) for p in DIALECTS["gst"] if os.path.exists(package(p))]
    done = subprocess.run([RUN, FOLDER, "gst", "-g", "-I", os.path.join(FOLDER, "gst.im"), "--no-user-files"] + files + [boot],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S, env=dict(os.environ, HOME=folder))
    return done.stdout.decode("utf-8", "replace")


def run_squeak(settings, folder):
    sources = [read(p) for p in DIALECTS["squeak"] if os.path.exists(package(p))] + [readme_class(), settings_chunk(settings)]
    with open(os.path.join(folder, "bundle.st"), "w", encoding="utf-8") as f:
        f.write("\n".join(sources).replace("\n", "\r"))
    with open(os.path.join(folder, "boot.st"), "w") as f:
        f.write(SQUEAK_BOOT.replace("\n", "\r"))
    env = dict(os.environ, HOME=folder, SQUEAK_USERDIR=folder, SQUEAK_SECUREDIR=os.path.join(folder, "secure"))
    try:
        subprocess.run([RUN, FOLDER, "squeak", os.path.join(folder, "boot.st")], timeout=LIMIT_S, env=env,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        pass  # what it reported until then tells where it stands
    report = os.path.join(folder, "report.txt")
    if not os.path.exists(report):
        return "load: Squeak left no report"
    with open(report, "rb") as f:
        return f.read().decode("utf-8", "replace").replace("\r", "\n")


MESSAGES = [{"role": "system", "content": "You answer in one short sentence."},
            {"role": "user", "content": "Why is the sky blue?"}]
RUNNERS = {"gst": run_gst, "squeak": run_squeak}
HAVE = {"gst": os.path.exists(os.path.join(FOLDER, "gst.im")),
        "squeak": os.path.exists(os.path.join(FOLDER, "root", "usr", "share", "etoys", "etoys.image"))}
REPORTS = {}
servers = {}
server = None


def run_dialect(dialect, settings):
    folder = tempfile.mkdtemp(prefix="glia-smalltalk-")
    try:
        own = dict(settings, url="http://127.0.0.1:%d" % servers[dialect].port, model=servers[dialect].model)
        REPORTS[dialect] = RUNNERS[dialect](own, folder).split("\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def setUpModule():
    """A server for each dialect, since registered hooks are everybody's; both run at once."""
    global server
    model = os.path.splitext(os.path.basename(harness.MODEL))[0]
    fakes = {name: Fake(answer) for name, answer in FAKES.items()}
    settings = {name: fake.url for name, fake in fakes.items()}
    settings.update(alias=ALIAS, path=harness.MODEL)
    try:
        there = [dialect for dialect in RUNNERS if HAVE[dialect]]
        for dialect in there:
            servers[dialect] = server = harness.Server(args=["--alias", "%s=%s" % (ALIAS, model)])
        threads = [threading.Thread(target=run_dialect, args=(dialect, settings)) for dialect in there]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for dialect in there:
            REPORTS.setdefault(dialect, ["load: the dialect could not be run, see above"])
    finally:
        for fake in fakes.values():
            fake.close()


def tearDownModule():
    for s in servers.values():
        s.stop()


def smalltalk_tests():
    """[(class, selector)] as they stand in the source."""
    found = []
    for part in re.split(r"(?m)^!(?=\w+ methodsFor:)", read("Tests"))[1:]:
        for selector in re.findall(r"(?m)^(test\w+)$", part):
            found.append((part.split()[0], selector))
    found += [("NSReadmeTest", "testExample%d" % n) for n in range(1, len(readme_examples()) + 1)]
    return found


def make_case(dialect):
    def check(cls, selector):
        def test(self):
            name = "%s>>%s" % (cls, selector)
            for line in REPORTS[dialect]:
                if line == "ok " + name:
                    return
                if line.startswith("not ok " + name + " "):
                    self.fail(line)
            self.fail("%s did not run; the report ends: %s" % (name, REPORTS[dialect][-5:]))
        return test

    def loads(self):
        """Whatever the dialect itself has to say is a complaint."""
        known = re.compile(r"ok |not ok |note |[\w ]+: \d+ passed|$")
        self.assertEqual([line for line in REPORTS[dialect] if not known.match(line)], [])

    methods = {"%s_%s" % (selector, cls): check(cls, selector) for cls, selector in smalltalk_tests()}
    methods["test_a_packages_load"] = loads
    return unittest.skipUnless(HAVE[dialect], "no " + dialect)(type(dialect.capitalize(), (unittest.TestCase,), methods))


Gst = make_case("gst")
Squeak = make_case("squeak")


def notes(dialect, start):
    for line in REPORTS[dialect]:
        m = re.match(r"note [\w ]+? (%s.*)" % start, line)
        if m:
            yield m.group(1)


class AgainstCurl(unittest.TestCase):
    """Numbers that Smalltalk noted, and the same request made here."""

    def request(self):
        status, reply = server.post("/v1/chat/completions/with_activations", {
            "messages": MESSAGES, "max_tokens": 6, "temperature": 0, "activation_format": {"encoding": "base64"},
            "activation_hooks": [{"layer": "transformer.h.5", "component": "residual"},
                                 {"layer": "transformer.h.10", "component": "attention"}]})
        self.assertEqual(status, 200)
        return reply

    def check(self, dialect):
        reply = self.request()
        self.assertEqual([json.loads(t[len("text "):]) for t in notes(dialect, "text ")], [reply["completion"]])
        for name, key in (("residual", "transformer.h.5"), ("attention", "transformer.h.10")):
            entry = reply["activations"][key][0]
            raw = harness.base64.b64decode(entry["data"])
            x = struct.unpack("<%df" % (len(raw) // 4), raw)
            (line,) = list(notes(dialect, "value " + name))
            shape, *numbers = line.split(" ")[2:]
            self.assertEqual(json.loads(shape), entry["shape"])
            numbers = [float(n) for n in numbers]
            mean = math.fsum(x) / len(x)
            expected = [mean, math.sqrt(math.fsum((v - mean) ** 2 for v in x) / len(x)),
                        math.sqrt(math.fsum(v * v for v in x)), max(x)]
            for got, want in zip(numbers[:4], expected):
                self.assertAlmostEqual(got, want, delta=1e-9 * max(1, abs(want)))
            self.assertEqual(numbers[4:], list(x[::len(x) // 40]))  # exactly
            self.assertGreaterEqual(len(numbers), 44)

    def check_patterns(self, dialect):
        """The tokens that Smalltalk put together from the labels are those of the chat; the report is the server's."""
        (line,) = list(notes(dialect, "patterns "))
        tokens, types, scores = json.loads(line[len("patterns "):])
        status, chat = server.post("/v1/tokenize", {"messages": MESSAGES})
        self.assertEqual(tokens[:len(chat["tokens"])], chat["tokens"])
        status, report = server.post("/v1/analyze/attention", {
            "prompt": tokens, "layers": [10], "probes": 1, "probe_length": 16, "bootstrap_samples": 10, "permutations": 0})
        self.assertEqual(status, 200)
        self.assertEqual([h["pattern_type"] for h in report["attention_heads"]], types)
        self.assertEqual([h["metadata"]["scores"]["first_token"]["score"] for h in report["attention_heads"]], scores)

    @unittest.skipUnless(HAVE["gst"], "no gst")
    def test_gnu_smalltalk_reads_the_same_numbers(self):
        self.check("gst")

    @unittest.skipUnless(HAVE["squeak"], "no squeak")
    def test_squeak_reads_the_same_numbers(self):
        self.check("squeak")

    @unittest.skipUnless(HAVE["gst"], "no gst")
    def test_gnu_smalltalk_finds_the_servers_patterns(self):
        self.check_patterns("gst")

    @unittest.skipUnless(HAVE["squeak"], "no squeak")
    def test_squeak_finds_the_servers_patterns(self):
        self.check_patterns("squeak")


# What SqueakJS' bridge gives as the global JS, as far as the client uses it: an XMLHttpRequest that answers its own request.
BROWSER = r"""
Object subclass: #FakeRequest
	instanceVariableNames: 'text'
	classVariableNames: ''
	poolDictionaries: ''
	category: 'Fake'!

!FakeRequest methodsFor: 'javascript'!
open: method url: url async: flag
	text := method, ' ', url!

overrideMimeType: aString
	text := text, ' ', aString!

setRequestHeader: key value: value
	text := text, ' ', key, '=', value!

send
	^self!

send: body
	text := text, ' ', body!

status
	^200!

responseText
	| d |
	d := Dictionary new.
	d at: 'tokens' put: (Array with: text).
	^NSJson stringify: d!

getResponseHeader: name
	^'application/json'! !

Object subclass: #FakeJS
	instanceVariableNames: ''
	classVariableNames: ''
	poolDictionaries: ''
	category: 'Fake'!

!FakeJS class methodsFor: 'javascript'!
XMLHttpRequest
	^FakeRequest! !

Smalltalk at: #JS put: FakeJS!
"""
BROWSER_CALL = r"""
| s |
s := String new: 6.
1 to: 6 do: [:i | s at: i put: (Character value: (#(195 169 240 159 152 128) at: i))].
Transcript showCr: ((LMStudioRESTClient baseUrl: 'http://host:7/x') apiKey: 'k'; tokenize: s) first!
"""


@unittest.skipUnless(HAVE["gst"], "no gst")
class OtherDialects(unittest.TestCase):
    """No image of these could be had.  What can be known without one: their files parse, and what they ask of a browser."""

    def gst(self, *parts):
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for n, part in enumerate(parts):
                files.append(os.path.join(folder, "%d.st" % n))
                with open(files[-1], "w", encoding="utf-8") as f:
                    f.write(part)
            done = subprocess.run([RUN, FOLDER, "gst", "-g", "-I", os.path.join(FOLDER, "gst.im"), "--no-user-files"] + files,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, env=dict(os.environ, HOME=folder))
            return done.stdout.decode()

    def test_pharo_parses(self):
        self.assertEqual(self.gst(read("Platform-GNU"), read("Wire"), read("LMStudio"), read("Platform-Pharo")), "")

    def test_the_browser_is_asked_rightly(self):
        out = self.gst(read("Platform-GNU"), read("Wire"), read("LMStudio"), read("Core"), BROWSER, read("Platform-SqueakJS"), BROWSER_CALL)
        self.assertEqual(out.strip(), "POST http://host:7/x/v1/tokenize text/plain; charset=x-user-defined "
                         "Accept=application/json Authorization=Bearer k Content-Type=application/json "
                         '{"text":"\\u00e9\\ud83d\\ude00"}')


class Sources(unittest.TestCase):
    """What a dialect would stumble over only when that line is filed in."""

    def test_chunks_hold_no_stray_marks(self):
        for path in glob.glob(os.path.join(CLIENT, "*.st")):
            with open(path, encoding="utf-8") as f:
                text = f.read()
            self.assertTrue(text.isascii(), path)
            bare = re.sub(r"\"[^\"]*\"|'(?:[^']|'')*'|\$.", " ", text)
            self.assertNotIn("_", bare, "%s: an underscore outside of strings is an assignment in old images" % path)
            for n, line in enumerate(text.split("\n"), 1):
                self.assertNotIn("!", line.rstrip("! ").lstrip("!"), "%s:%d: a chunk ends here" % (path, n))

    def test_every_test_class_is_in_the_runner(self):
        names = set(re.findall(r"#(\w+Test)\b", read("Tests").split("NSTestRunner class methodsFor")[1]))
        self.assertEqual({cls for cls, _ in smalltalk_tests()} - names, set())


if __name__ == "__main__":
    harness.need(harness.MODEL)
    for name, there in HAVE.items():
        if not there:
            print("skip: no %s in %s: make smalltalk says why" % (name, FOLDER))
    if not any(HAVE.values()):
        sys.exit(77)
    result = unittest.main(exit=False).result
    for dialect, lines in REPORTS.items():
        for line in lines:
            if re.match(r"note .* ms$|.* passed, \d+ failed$", line):
                print(line if "passed" not in line else "smalltalk: " + line.replace(" passed", " tests passed"))
    sys.exit(0 if result.wasSuccessful() else 1)

"""Chat templates come out of model files and are programs: one that loops, swells, or nests without end costs its own
chats an error (or an answer, when it ends after all), and nobody else anything."""
import os
import tempfile
import threading
import time
import unittest

import harness
from harness import ApiTest

harness.need(harness.tiny())
from test_tools import with_template  # noqa: E402

HOSTILE = {
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "a range that does not fit": "{% for i in range(10000000000) %}{% endfor %}",
    "a string that doubles": "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "a long text changed often": "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(21) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{% for i in range(100000) %}{% set t = ns.s | upper %}{% endfor %}",
    "a long text searched often": "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(21) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{% for i in range(100000) %}{% if 'y' in ns.s %}y{% endif %}{% endfor %}",
    "a macro that calls itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "two macros that call each other": "{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) ~ f(x) }}{% endmacro %}{{ f(1) }}",
    "values that nest": "{% set ns = namespace(s=[1]) %}{% for i in range(3000000) %}{% set ns.s = [ns.s] %}{% endfor %}",
    "parentheses that nest": "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
    "lists that nest": "{{ " + "[" * 100000 + "]" * 100000 + " }}",
    "minus signs": "{{ " + "-" * 200000 + "1 }}",
    "ifs that nest": "{% if 1 %}" * 50000 + "x" + "{% endif %}" * 50000,
    "never closed": "{% for m in messages %}{{ m.content",
    "exceptions": "{{ raise_exception('no') }}",
}


ENDS = ("parentheses that nest", "lists that nest", "minus signs", "ifs that nest")  # deep, but finite


class Templates(ApiTest):
    def test_each_hostile_template_is_an_error_of_its_chats_only(self):
        with tempfile.TemporaryDirectory(prefix="glia-templates-") as folder:
            for name, template in HOSTILE.items():
                with self.subTest(name):
                    path = os.path.join(folder, "hostile.gguf")
                    with_template(harness.tiny(), path, template)
                    server = harness.Server(path, args=["--ctx", "256", "--parallel", "2"])
                    try:
                        self.hostile(server, ends=name in ENDS)
                    finally:
                        server.stop()  # checks that it ended by itself

    def hostile(self, server, ends):
        replies, began = [], time.monotonic()
        thread = threading.Thread(target=lambda: replies.append(server.chat("Hello", max_tokens=2)))
        thread.start()
        status, body = server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})
        self.assertEqual(status, 200, body)
        thread.join()
        status, body = replies[0]
        if not ends:
            self.assertEqual(status, 400, body)
            self.assertEqual(body["error"]["param"], "messages", body)
            self.assertIn("template", body["error"]["message"])
        else:
            self.assertIn(status, (200, 400), body)
        self.assertLess(time.monotonic() - began, 100)  # a hang, not a time
        self.assertEqual(server.get("/health")[0], 200)

    def test_a_template_that_is_hostile_to_some_chats_only_is_an_error_of_these(self):
        names = ["loops", "a string that doubles", "a macro that calls itself", "exceptions"]
        cases = "".join("{%% %s messages[0]['content'] == '%s' %%}%s" % ("elif" if i else "if", name, HOSTILE[name])
                        for i, name in enumerate(names))
        with tempfile.TemporaryDirectory(prefix="glia-templates-") as folder:
            path = os.path.join(folder, "sometimes.gguf")
            with_template(harness.tiny(), path, cases + "{% else %}{{ messages[0]['content'] }}{% endif %}")
            server = harness.Server(path, args=["--ctx", "256"])
            try:
                for name in names:
                    with self.subTest(name):
                        reply = server.chat(name, max_tokens=2)
                        self.check_error(reply, 400, "messages")
                        self.assertRegex(reply[1]["error"]["message"], "cannot be rendered: it |refuses these messages")
                        status, body = server.chat("Hello", max_tokens=2)
                        self.assertEqual(status, 200, body)
            finally:
                server.stop()

    def test_a_long_chat_is_within_the_limits(self):
        server = harness.Server(harness.tiny(), args=["--ctx", "256"])
        try:
            messages = [{"role": ("user", "assistant")[i % 2], "content": "x" * 500} for i in range(9999)]
            self.check_error(server.post("/v1/chat/completions", {"messages": messages}), 400, "messages",
                             code="context_length_exceeded")
        finally:
            server.stop()


if __name__ == "__main__":
    unittest.main()

"""WebSockets: handshake, frames, closing; what LM Studio's SDKs say first; keys; limits; stopping."""
import base64
import hashlib
import json
import os
import signal
import socket
import tempfile
import unittest

from harness import ApiTest, Server, need, tiny
from websocket import Session, WebSocket

need(tiny())
server = None


def setUpModule():
    global server
    server = Server(tiny())


def tearDownModule():
    server.stop()


class Handshake(ApiTest):
    def test_it_answers_the_key_as_the_protocol_says(self):
        ws = WebSocket(server.port)
        self.assertEqual(ws.status, 101)
        digest = hashlib.sha1((ws.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        self.assertEqual(ws.header("Sec-WebSocket-Accept"), base64.b64encode(digest).decode())
        self.assertEqual(ws.header("Upgrade").lower(), "websocket")
        ws.close()

    def test_what_is_no_handshake_is_refused(self):
        status, body = server.get("/llm")
        self.check_error((status, body), 400, says="WebSocket")
        old = WebSocket(server.port, version="8")
        self.assertEqual((old.status, old.header("Sec-WebSocket-Version")), (400, "13"))
        self.assertEqual(WebSocket(server.port, key="short").status, 400)
        self.assertEqual(WebSocket(server.port, path="/nowhere").status, 404)
        self.check_error(server.post("/llm", {}), 405)

    def test_frames_that_come_with_the_handshake_are_not_lost(self):
        ws = WebSocket.__new__(WebSocket)
        sent = []
        ws.socket = type("", (), {"sendall": lambda self, data: sent.append(data)})()
        ws.send({"authVersion": 1})
        with socket.create_connection(("127.0.0.1", server.port), 30) as s:
            s.sendall(b"GET /llm HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" + sent[0])
            data = b""
            while b"success" not in data:
                more = s.recv(4096)
                self.assertTrue(more)
                data += more
        self.assertIn(b'{"success":true}', data)


class Frames(ApiTest):
    def setUp(self):
        self.ws = Session(server.port, "/system")

    def tearDown(self):
        self.ws.close()

    def test_pings_are_answered_and_messages_may_come_in_pieces(self):
        self.ws.frame(9, b"are you there")
        self.assertEqual(self.ws.receive(), (10, b"are you there"))
        text = json.dumps({"type": "keepAlive"}).encode()
        self.ws.frame(1, text[:5], fin=False)
        self.ws.frame(9, b"between")
        self.ws.frame(0, text[5:])
        self.assertEqual(self.ws.receive(), (10, b"between"))
        self.assertEqual(self.ws.json(), {"type": "keepAliveAck"})

    def test_the_closing_handshake(self):
        self.ws.frame(8, b"\x03\xe8bye")
        self.assertEqual(self.ws.closed(), 1000)

    def test_what_breaks_the_protocol_is_closed_with_its_code(self):
        for frame, code in (((2, b"\x00\x01"), 1003), ((1, b"\xff\xfe"), 1007), ((3, b""), 1002), ((0, b"nothing to go on"), 1002)):
            ws = Session(server.port, "/system")
            ws.frame(*frame)
            self.assertEqual(ws.closed(), code, frame)
            ws.close()
        self.ws.frame(1, b"{}", mask=False)
        self.assertEqual(self.ws.closed(), 1002)

    def test_a_message_that_is_too_large_is_refused_before_it_is_read(self):
        self.ws.socket.sendall(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"mask!")
        self.assertEqual(self.ws.closed(), 1009)

    def test_a_client_that_vanishes_leaves_the_others(self):
        for _ in range(20):
            ws = Session(server.port, "/llm")
            ws.send({"type": "rpcCall", "endpoint": "tokenize", "callId": 1, "parameter": {"inputString": "x" * 1000}})
            ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            ws.close()
        self.assertEqual(self.ws.call("version")[0]["build"], 0)


class Messages(ApiTest):
    def setUp(self):
        self.ws = Session(server.port, "/llm")

    def tearDown(self):
        self.ws.close()

    def test_any_name_is_welcome_where_no_key_is_asked_for(self):
        self.assertEqual(self.ws.welcome, {"success": True})

    def test_a_connection_that_does_not_say_who_it_is_is_closed(self):
        ws = WebSocket(server.port)
        ws.send({"type": "keepAlive"})
        self.assertFalse(ws.json()["success"])
        self.assertEqual(ws.closed(), 1008)
        ws.close()

    def test_unknown_calls_and_channels_are_errors_of_their_own(self):
        result, error = self.ws.call("brew")
        self.assertIsNone(result)
        self.assertIn('no call "brew" under /llm', error["title"])
        self.ws.open("brew", {})
        with self.assertRaisesRegex(RuntimeError, "no channel"):
            list(self.ws.channel())
        self.ws.send({"type": "signalSubscribe", "endpoint": "x", "subscribeId": 3})
        self.assertEqual(self.ws.json()["type"], "signalError")

    def test_nonsense_is_warned_about_and_in_the_end_cut_off(self):
        self.ws.frame(1, b"not json")
        self.assertEqual(self.ws.json()["type"], "communicationWarning")
        self.assertEqual(self.ws.call("countTokens", {"inputString": "hello"})[1], None)
        for text in (b"[]", b"{}", b'{"type":"dance"}', b'{"type":"rpcCall"}', b'{"type":"rpcCall","callId":"x"}', b'{"type":7}',
                     b'{"type":"channelCreate"}', b"{", b"[" * 5000):
            self.ws.frame(1, text)
        self.assertEqual(self.ws.closed(), 1002)

    def test_text_calls_answer_what_the_http_routes_answer(self):
        text = "Hello, world"
        tokens = server.post("/v1/tokenize", {"text": text})[1]["tokens"]
        self.assertEqual(self.ws.call("tokenize", {"specifier": {"type": "query", "query": {}}, "inputString": text})[0], {"tokens": tokens})
        self.assertEqual(self.ws.call("countTokens", {"inputString": text})[0], {"tokenCount": len(tokens)})
        _, error = self.ws.call("tokenize", {"specifier": {"type": "query", "query": {"identifier": "nobody"}}, "inputString": "x"})
        self.assertEqual(error["displayData"]["code"], "generic.noModelMatchingQuery")
        self.assertEqual(error["displayData"]["loadedModelsSample"], [server.model])
        for bad in (None, {}, {"inputString": 7}, {"specifier": 1, "inputString": "x"}, {"specifier": {"type": "x"}, "inputString": "x"}):
            self.assertIsNotNone(self.ws.call("tokenize", bad)[1], bad)


class Keys(ApiTest):
    def test_the_passkey_is_an_api_key_with_its_scopes(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "keys")
            with open(path, "w") as f:
                f.write("reader read\nchatter read,infer\n")
            os.chmod(path, 0o600)
            s = Server(tiny(), args=["--api-key-file", path])
            try:
                bad = Session(s.port, passkey="nobody")
                self.assertFalse(bad.welcome["success"])
                self.assertEqual(bad.closed(), 1008)
                reader = Session(s.port, passkey="reader")
                self.assertIn("scope infer", reader.call("countTokens", {"inputString": "x"})[1]["title"])
                chatter = Session(s.port, passkey="chatter")
                self.assertEqual(chatter.call("countTokens", {"inputString": "x"})[1], None)
                header = Session(s.port, headers=["Authorization: Bearer chatter"])
                self.assertEqual(header.call("countTokens", {"inputString": "x"})[1], None)
                for ws in (bad, reader, chatter, header):
                    ws.close()
            finally:
                s.stop()


class Limits(ApiTest):
    def test_more_than_so_many_are_refused_and_closing_makes_room(self):
        s = Server(tiny())
        try:
            many = [WebSocket(s.port, "/system") for _ in range(256)]
            self.assertEqual({ws.status for ws in many}, {101})
            self.assertEqual(WebSocket(s.port, "/system").status, 503)
            for ws in many:
                ws.close()
            for _ in range(200):
                ws = WebSocket(s.port, "/system")
                if ws.status == 101:
                    break
            self.assertEqual(ws.status, 101)
            ws.close()
        finally:
            s.stop()

    def test_a_server_that_stops_says_that_it_goes_away(self):
        s = Server(tiny(), args=["--shutdown-grace", "60"])
        ws = Session(s.port)
        s.process.send_signal(signal.SIGTERM)
        self.assertEqual(ws.closed(), 1001)
        ws.close()
        s.process.wait(30)
        s.stop()


if __name__ == "__main__":
    unittest.main()

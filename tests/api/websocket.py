"""A WebSocket client of a few lines (RFC 6455), so that tests can also say what no library would."""
import base64
import json
import os
import socket
import struct


class WebSocket:
    """messages: text() and close(); everything raw: frame().  receive() answers (opcode, bytes) of whole frames."""

    def __init__(self, port, path="/llm", headers=(), key=None, version="13", timeout=30):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.key = key or base64.b64encode(os.urandom(16)).decode()
        lines = ["GET %s HTTP/1.1" % path, "Host: 127.0.0.1", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
                 "Sec-WebSocket-Key: " + self.key, "Sec-WebSocket-Version: " + version] + list(headers)
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            data = self.socket.recv(4096)
            if not data:
                break
            self.rest += data
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        self.head = head.decode()
        self.status = int(self.head.split()[1])

    def header(self, name):
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def frame(self, opcode, data, fin=True, mask=True):
        head = bytes([(0x80 if fin else 0) | opcode])
        n, bit = len(data), 0x80 if mask else 0
        head += bytes([bit | n]) if n < 126 else bytes([bit | 126]) + struct.pack(">H", n) if n < 65536 else bytes([bit | 127]) + struct.pack(">Q", n)
        if mask:
            key = os.urandom(4)
            data = key + bytes(b ^ key[i % 4] for i, b in enumerate(data))
        self.socket.sendall(head + data)

    def send(self, message):
        self.frame(1, json.dumps(message).encode())

    def _read(self, n):
        while len(self.rest) < n:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self.rest += data
        out, self.rest = self.rest[:n], self.rest[n:]
        return out

    def receive(self):
        a, n = self._read(2)
        assert not n & 0x80, "a server must not mask"
        if n == 126:
            n = struct.unpack(">H", self._read(2))[0]
        elif n == 127:
            n = struct.unpack(">Q", self._read(8))[0]
        return a & 15, self._read(n)

    def json(self):
        opcode, data = self.receive()
        assert opcode == 1, (opcode, data)
        return json.loads(data)

    def closed(self):
        """The code with which the server closes; messages before it are passed over."""
        while True:
            opcode, data = self.receive()
            if opcode == 8:
                return struct.unpack(">H", data[:2])[0]

    def close(self):
        self.socket.close()


class Session(WebSocket):
    """The same, authenticated as LM Studio's SDKs do, with their calls."""

    def __init__(self, port, path="/llm", passkey="", **more):
        super().__init__(port, path, **more)
        self.send({"authVersion": 1, "clientIdentifier": "test", "clientPasskey": passkey})
        self.welcome = self.json()
        self.calls = 0

    def call(self, endpoint, parameter=None):
        """(result, error), one of them None"""
        self.calls += 1
        message = {"type": "rpcCall", "endpoint": endpoint, "callId": self.calls}
        if parameter is not None:
            message["parameter"] = parameter
        self.send(message)
        reply = self.json()
        assert reply["callId"] == self.calls, reply
        return reply.get("result"), reply.get("error")

    def open(self, endpoint, parameter, channel=1):
        self.send({"type": "channelCreate", "endpoint": endpoint, "channelId": channel, "creationParameter": parameter})

    def channel(self, channel=1):
        """Messages of a channel until it ends; an error raises."""
        while True:
            m = self.json()
            if m.get("channelId") != channel:
                continue
            if m["type"] == "channelClose":
                return
            if m["type"] == "channelError":
                raise RuntimeError(m["error"]["title"])
            yield m["message"]

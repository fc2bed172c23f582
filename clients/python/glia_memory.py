"""Activations from a server on this machine without copying them through a socket (docs/FORMATS.md, "Shared memory").

    from glia_memory import call
    reply, tensors = call("/run/glia.sock", "/v1/completions", {"prompt": "Hello", "max_tokens": 1,
                          "activation_hooks": [{"layer": "*", "component": "resid_post"}]})
    tensors["resid_post.5"]                 # numpy, read-only, over the server's pages; bfloat16 as uint16

The server must listen on that socket: glia serve --listen unix:/run/glia.sock.  Linux; Python 3.9 and numpy.
"""
import json
import mmap
import os
import socket
import struct

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
         "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}


class Refused(Exception):
    """The server's error: args are status and the parsed body."""


def request(path, target, body, timeout=600):
    """(status, headers, body, descriptor or None) of one POST over the Unix socket at `path`."""
    data = json.dumps(body).encode()
    head = ("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            "Accept: application/vnd.glia.memory\r\nConnection: close\r\n\r\n" % (target, len(data))).encode()
    fds, got = [], b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        s.connect(path)
        s.sendall(head + data)
        while True:  # the descriptor comes with the first byte
            part, more, _, _ = socket.recv_fds(s, 65536, 1)
            fds += more
            if not part:
                break
            got += part
            begin = got.find(b"\r\n\r\n")
            if begin < 0:
                continue
            lines = got[:begin].decode("latin-1").split("\r\n")
            headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
            if "content-length" in headers and len(got) - begin - 4 >= int(headers["content-length"]):
                break
    return int(lines[0].split()[1]), headers, got[begin + 4:], fds[0] if fds else None


def tensors_of(memory):
    """({name: array}, metadata) of a safetensors file in a buffer; the arrays keep the buffer."""
    import numpy
    (n,) = struct.unpack("<Q", memory[:8])
    head = json.loads(bytes(memory[8:8 + n]))
    meta = head.pop("__metadata__", {})
    arrays = {}
    for name, t in head.items():
        count = 1
        for d in t["shape"]:
            count *= d
        flat = numpy.frombuffer(memory, TYPES[t["dtype"]], count, 8 + n + t["data_offsets"][0])
        arrays[name] = flat.reshape(t["shape"])
    return arrays, meta


def call(path, target, body, timeout=600):
    """(reply, {name: array}).  The memory is given back when the last array is gone."""
    status, headers, text, fd = request(path, target, body, timeout)
    if fd is None:
        reply = json.loads(text)
        if status != 200:
            raise Refused(status, reply)
        return reply, {}
    try:
        memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    arrays, meta = tensors_of(memory)
    return json.loads(meta["reply"]), arrays

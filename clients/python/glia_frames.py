"""Read application/vnd.glia.frames (docs/FORMATS.md, "Frames").  Standard library; numpy and zstandard only when used.

    import urllib.request, json
    from glia_frames import frames, array
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Accept": "application/vnd.glia.frames"})
    for frame in frames(urllib.request.urlopen(request)):
        if frame["type"] == "activation":
            rows = array(frame)               # numpy, in the shape of the entry
"""
import json
import struct
import sys
import zlib

HEAD = struct.Struct("<4sBBHQIIQ")
ZSTD, LAST = 1, 2


class FrameError(ValueError):
    """The stream is damaged, or ended early."""


def _read(f, n):
    parts = []
    while n:
        part = f.read(n)
        if not part:
            break
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _decompress(data):
    try:
        import zstandard
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 40)
    except ImportError:
        from compression import zstd  # Python 3.14
        return zstd.decompress(data)


def frames(f, first=0):
    """Every frame of the file-like f, as the object of its header; "payload" holds its bytes, "number" its number.

    Raises FrameError when a frame is damaged, missing, or the stream ends before its last frame."""
    expected = first
    while True:
        head = _read(f, HEAD.size)
        if len(head) < HEAD.size:
            raise FrameError("the stream ended early, after frame %d" % (expected - 1))
        magic, version, flags, _, number, n_header, _, n_payload = HEAD.unpack(head)
        if magic != b"GLFR" or version != 1:
            raise FrameError("not a frame")
        if number != expected:
            raise FrameError("frame %d came instead of %d" % (number, expected))
        body = _read(f, n_header + n_payload)
        tail = _read(f, 4)
        if len(body) != n_header + n_payload or len(tail) != 4:
            raise FrameError("the stream ended inside frame %d" % number)
        if zlib.crc32(body, zlib.crc32(head)) != struct.unpack("<I", tail)[0]:
            raise FrameError("the checksum of frame %d is wrong" % number)
        frame = json.loads(body[:n_header])
        payload = body[n_header:]
        frame["payload"] = _decompress(payload) if flags & ZSTD else payload
        frame["number"] = number
        yield frame
        expected += 1
        if flags & LAST:
            return


def array(frame):
    """The activations of a frame of type "activation", as numpy floats in the shape of its entry."""
    import numpy
    entry = frame["entry"]
    kind = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[entry["dtype"]]
    values = numpy.frombuffer(frame["payload"], kind)
    if entry["dtype"] == "bfloat16":
        values = (values.astype("<u4") << 16).view("<f4")
    return values.reshape(entry["shape"])


if __name__ == "__main__":  # python3 glia_frames.py FILE: one line a frame
    with open(sys.argv[1], "rb") if len(sys.argv) > 1 else sys.stdin.buffer as stream:
        for each in frames(stream):
            payload = each.pop("payload")
            print(json.dumps(each)[:160], len(payload), "%08x" % zlib.crc32(payload))

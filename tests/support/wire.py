"""Requests as the bytes on the wire, good ones and parts to make others of."""

import io
import json
import socket
import struct
import time
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

KEY = "the-key-of-the-tests"
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
REFUSED = "4xx"
ACCEPTED = "200"
ANY = "2xx or 4xx"
CLOSED = "2xx, 4xx or a closed connection"
# headers that offer another protocol, as Java's HttpClient and `curl --http2` do
OFFERS = (
    {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"},
    {"Connection": "Upgrade", "Upgrade": "TLS/1.2"},
    {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
)


class Case(NamedTuple):
    """A request: its name, its bytes, and what may come of it; `pause` seconds between its
    parts."""

    name: str
    parts: tuple
    expected: str = REFUSED
    pause: float = 0.0


def http(method, path, body=b"", headers=(), key=KEY, length=None):
    """Returns a request's bytes."""
    fields = {"Host": "localhost", "Content-Length": str(len(body) if length is None else length)}
    fields |= {"X-Api-Key": key} if key is not None else {}
    fields |= dict(headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def infer(document, raw=b"", length=None, model="tiny", version="", **more):
    """Returns a V2 request's bytes; `document` may be bytes."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    path = f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"
    return http("POST", path, head + raw, headers if raw or length is not None else (), **more)


def classify(body, headers=(), query=""):
    return http("POST", f"/classify/tiny{query}", body, headers)


def send(address, case, patience=15.0):
    """Returns the status of the answer; 0 where the connection was closed without one."""
    with socket.create_connection(address, timeout=patience) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = b""
        try:
            for part in case.parts:
                connection.sendall(part)
                time.sleep(case.pause)
        except OSError:
            pass  # it was refused before all of it was sent; the answer is there to be read
        try:
            while b"\r\n" not in answer:
                received = connection.recv(65_536)
                if not received:
                    break
                answer += received
        except ConnectionError:
            pass
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.") else 0


def is_right(case, status):
    """Whether a status is one that a case may have."""
    if case.expected == ACCEPTED:
        return status == 200
    refused = 400 <= status < 500
    return (
        refused
        or (case.expected != REFUSED and status == 200)
        or (case.expected == CLOSED and status == 0)
    )


def image(kind="PNG", seed=0, size=(40, 30)):
    """Returns an encoded image of noise over a gradient."""
    noise = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3))
    pixels = (noise + np.linspace(0, 190, size[0])[None, :, None]).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width, height, bits=8, color=0, data=b"", extra=b""):
    """Returns a PNG that says it has a size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + extra
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )


def pixels(side=28, count=1):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def tensor(**changes):
    """Returns a V2 document with one raw tensor as lists; `changes` of the input, None to leave a
    key out."""
    images = pixels()
    entry = {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "data": images.ravel().tolist(),
    }
    entry |= changes
    return {"inputs": [{name: value for name, value in entry.items() if value is not None}]}


def form(*parts, boundary=b"xyz", end=b"--\r\n"):
    return (
        b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
        + b"--"
        + boundary
        + end
    )


def named(group, requests, expected=REFUSED):
    """Returns the `Case`s of requests that are sent whole."""
    return [Case(f"{group} {i}", (request,), expected) for i, request in enumerate(requests)]

"""Clients that send without end, or never read: the server lets go of them, stays small and answers
others."""

import contextlib
import json
import re
import socket
import time
import urllib.request

import psutil
import pytest

from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle

CLIENTS = 40
CLASSES = 4000
MIB = 2**20
TIMEOUT = 3.0  # seconds, for an answer and for its reader


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    write_bundle(directory / "tiny" / "1", classes=[f"class {i}" for i in range(CLASSES)])
    with serve(directory, timeout=TIMEOUT) as server:
        yield server


def connect(live):
    """Returns a connection that takes as little as it may before it is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", int(live.url.rpartition(":")[2])))
    return connection


def ask(live, path="/v2/health/live"):
    with urllib.request.urlopen(live.url + path, timeout=5) as answer:
        return answer.read()


def test_requests_without_end_that_nobody_reads_the_answers_of(live):
    process = psutil.Process(live.process.pid)
    ask(live)
    before = process.memory_info().rss
    files = process.num_fds()
    connections = [connect(live) for _ in range(CLIENTS)]
    for connection in connections:
        connection.setblocking(False)
    begun = time.monotonic()
    slowest = 0.0
    while time.monotonic() - begun < 4 * TIMEOUT:
        for connection in connections:
            with contextlib.suppress(OSError):  # it takes no more at the moment, or is closed
                connection.send(b"GET / HTTP/1.1\r\n\r\n" * 4000)
        asked = time.monotonic()
        ask(live)
        slowest = max(slowest, time.monotonic() - asked)
        assert process.memory_info().rss - before < 100 * MIB
        time.sleep(0.05)
    assert slowest < 1.0
    assert process.num_fds() < files + CLIENTS / 2  # the server has closed them
    for connection in connections:
        connection.close()
    metrics = ask(live, "/metrics").decode()
    assert not re.search(r'code="(500|INTERNAL)"', metrics)


def test_answers_that_nobody_reads(live):
    document = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [64, 8, 8, 1]}]}
    document["inputs"][0]["parameters"] = {"binary_data_size": 64**2}
    document |= {
        "outputs": [{"name": "labels"}, {"name": "scores"}],
        "parameters": {"top_k": CLASSES},
    }
    head = json.dumps(document).encode()
    lines = (
        f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(head) + 64**2}\r\n"
    )
    lines += f"Inference-Header-Content-Length: {len(head)}\r\n\r\n"
    process = psutil.Process(live.process.pid)
    files = process.num_fds()
    connections = [connect(live) for _ in range(8)]
    # one after the other: each answer takes most of a second to write
    for connection in connections:
        connection.sendall(lines.encode() + head + bytes(64**2))
        assert connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"
    time.sleep(3 * TIMEOUT)
    assert process.num_fds() <= files
    for connection in connections:
        connection.close()

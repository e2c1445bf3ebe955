"""The server as its user starts it, in its own process."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from typing import NamedTuple

from tests.conftest import REPOSITORY


class Live(NamedTuple):
    """A server that answers: its URL, gRPC's "HOST:PORT", its process."""

    url: str
    grpc: str
    process: subprocess.Popen


class Client:
    """A connection that reopens after the server has closed it."""

    def __init__(self, port):
        self._port = port
        self._writer = None

    async def ask(self, data):
        """Returns (status, headers in lower case, body).

        Raises:
            ConnectionRefusedError: if there is no server.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(data)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = await self._reader.readexactly(length)
        if "connection: close" in head:
            self.close()
        return int(head.split()[1]), head, body

    def close(self):
        if self._writer is not None:
            self._writer.close()
        self._writer = None


@contextlib.contextmanager
def serve(models, python=sys.executable, root=REPOSITORY, **flags):
    """Starts `python -m vision.serving` on free ports and yields a `Live`.

    `root` is the checkout that it runs from. `flags` are the server's, with underscores for dashes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"http_port": 0, "grpc_port": port, "access_log": "", "threads": 1} | flags
    argv = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    process = subprocess.Popen(
        [python, "-m", "vision.serving", f"--models={models}", *argv],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        address = re.compile(r"serving .* at (https?://[\w.]+:\d+)")
        while not (match := address.match("".join(lines[-1:]))):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)  # the server has ended
        yield Live(match[1], f"127.0.0.1:{port}", process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()

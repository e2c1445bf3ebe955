"""A server whose stderr nobody reads serves on, whatever there is to say, and ends when it is told
to."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.support import tiny_bundle
from tests.support.tiny_bundle import weights, write_bundle

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="pipes are opened anew by their name in /proc"
)


@pytest.fixture
def full():
    """The write end of a pipe that is full."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(65536))
    os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(file, "png")
    return file.getvalue()


def ask(url, data=None):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_full_stderr_stops_neither_the_server_nor_its_end(tmp_path, full, monkeypatch):
    write_bundle(tmp_path / "good" / "1")
    with monkeypatch.context() as patch:  # what it says of an image that is not black is no number
        patch.setattr(
            tiny_bundle,
            "weights",
            lambda *arguments: tuple(
                (np.sign(array) * 3e38).astype(np.float32) for array in weights(*arguments)
            ),
        )
        write_bundle(tmp_path / "bad" / "1")
    argv = [
        sys.executable,
        "-m",
        "vision.serving",
        f"--models={tmp_path}",
        "--http-port=0",
        "--grpc-port=0",
    ]
    argv += ["--access-log=", "--threads=1", "--decode-threads=1"]
    process = subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=full, text=True)
    try:
        url = re.search(r"http://[\w.]+:\d+", process.stdout.readline())[0]
        image = png(200)
        damaged = bytearray(image)
        # its checksum is wrong, which libpng says on stderr
        damaged[damaged.index(b"IDAT") + 10] ^= 1
        for _ in range(5):
            assert ask(f"{url}/classify/bad", image) == 500
            assert ask(f"{url}/classify/good", bytes(damaged)) in (200, 400)
        assert ask(f"{url}/classify/good", image) == ask(f"{url}/v2/health/live") == 200
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and time.monotonic() - begun < 8
    finally:
        process.kill()
        process.communicate()

"""Standard error holds nobody up, whether it is read or not, and what can be written is written
before the end."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import REPOSITORY
from vision import cli
from vision.serving import __main__ as command
from vision.serving.logs import stderr as module
from vision.serving.logs.stderr import Stderr


class Hung(io.StringIO):
    """A pipe that is full until `read` is set."""

    def __init__(self):
        super().__init__()
        self.read = threading.Event()

    def write(self, text):
        self.read.wait(10)
        return super().write(text)


def test_all_is_written_in_its_order():
    file = io.StringIO()
    stderr = Stderr(file)
    for i in range(1000):
        print(i, file=stderr)
    stderr.drain(5)
    assert file.getvalue() == "".join(f"{i}\n" for i in range(1000))


def test_a_reader_that_hangs_holds_nobody_up_and_costs_no_memory(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 100)
    file = Hung()
    begun = time.monotonic()
    stderr = Stderr(file)
    for _ in range(1000):
        stderr.write("0123456789")
        stderr.flush()
    stderr.drain(0.1)
    assert time.monotonic() - begun < 1
    file.read.set()
    stderr.drain(5)
    assert (
        file.getvalue()
        == "0123456789" * 10 + "990 messages are missing here: stderr was not read in time\n"
    )


def test_it_goes_on_once_it_is_read_again(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 10)
    file = Hung()
    stderr = Stderr(file)
    for _ in range(3):
        stderr.write("0123456789")
    file.read.set()
    deadline = time.monotonic() + 5
    while "missing" not in file.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    stderr.write("later\n")
    stderr.drain(5)
    assert file.getvalue().startswith("01234567892 messages") and file.getvalue().endswith(
        "\nlater\n"
    )


def test_a_reader_that_is_gone_ends_nothing():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    stderr = Stderr(Gone())
    stderr.write("a")
    stderr.write("b")
    stderr.drain(5)
    assert not stderr._thread.is_alive()


def full_pipe():
    """Returns (read end, write end) of a pipe that takes nothing more."""
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(ends[1], bytes(65536))
    os.set_blocking(ends[1], True)
    return ends


def end_with(code, **streams):
    """Returns the exit code of a process that runs `code` and then ends as the server does."""
    lines = f"from vision.serving import __main__ as command\ncommand.PATIENCE = 0.1\n{code}"
    process = subprocess.Popen([sys.executable, "-c", lines], cwd=REPOSITORY, **streams)
    try:
        return process.wait(5)
    finally:
        process.kill()


SAY = """
import logging, os, sys, warnings
stderr = command.protect()
logging.basicConfig()
logging.error("of the log")
warnings.warn("a warning")
try:
    os.write(2, b"of a library\\n")
except BlockingIOError:
    pass
command._end(3, stderr)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pipes are opened anew by their name in /proc")
def test_a_full_pipe_holds_up_neither_python_nor_libraries_nor_the_end():
    read, write = full_pipe()
    try:
        assert end_with(SAY, stderr=write) == 3
        assert os.get_blocking(write)  # others may share it
    finally:
        os.close(read)
        os.close(write)


def test_what_is_said_last_is_read(tmp_path):
    done = {}
    with open(tmp_path / "file", "wb") as file:
        assert end_with(SAY, stderr=file) == 3
    done["file"] = (tmp_path / "file").read_bytes()
    read, write = os.pipe()
    with open(read, "rb") as pipe:
        try:
            assert end_with(SAY, stderr=write) == 3
        finally:
            os.close(write)
        done["pipe"] = pipe.read()
    for name, text in done.items():
        assert all(words in text for words in (b"of the log", b"a warning", b"of a library")), name


def test_the_end_does_not_wait_for_a_reader_of_stdout_either():
    read, write = full_pipe()
    code = (
        "import sys\n"
        "sys.stdout = open(1, 'w', closefd=False)\n"
        "print('x')\n"
        "command._end(3, command.protect())"
    )
    try:
        assert end_with(code, stdout=write) == 3
    finally:
        os.close(read)
        os.close(write)


def test_a_fault_of_ours_is_shown_before_the_end(monkeypatch, capsys):
    def fail(main):
        raise ValueError("deep inside")

    monkeypatch.setattr(cli, "run", fail)
    assert command._run() == 1 and "ValueError: deep inside" in capsys.readouterr().err

"""Standard error for a program that must go on if its stderr is not read.

A full pipe holds up every program that writes to it.
"""

import contextlib
import io
import os
import queue
import stat
import sys
import threading
from typing import TextIO

ROOM = 2**20  # characters that wait, at most


def protect() -> "Stderr":
    """Replaces `sys.stderr` by a `Stderr` and returns it.

    What C libraries write themselves is lost if a pipe is full: ONNX Runtime writes a line for each
    run that fails, and libpng one for each damaged image.
    """
    file = sys.stderr
    with contextlib.suppress(OSError):  # not Linux, or the pipe is another user's
        if stat.S_ISFIFO(os.fstat(2).st_mode):
            # Reopened, it is non-blocking here only; setting the flag would set it for every
            # process that shares the pipe.
            nonblocking = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK)
            file = open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            os.dup2(nonblocking, 2)
            os.close(nonblocking)
    protected = Stderr(file)
    sys.stderr = protected
    return protected


class Stderr(io.TextIOBase):
    """A text stream whose writes never wait, since a thread does them.

    Flushing does not wait either: see `drain`. As `sys.stderr` it also gets the output of logging,
    warnings and Python itself.

    Args:
        file: the file that the thread writes to.
    """

    def __init__(self, file: TextIO):
        self._file = file
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # Reentrant, both of them, since a thread inside may write again: a destructor runs
        # anywhere.
        self._lock = threading.RLock()
        self._waiting = 0  # characters
        self._lost = 0  # messages
        self._thread = threading.Thread(target=self._work, name="stderr", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Takes a text, or counts it as lost if too much is waiting; returns its length."""
        with self._lock:
            if self._waiting >= ROOM:
                self._lost += 1
                return len(text)
            self._waiting += len(text)
        self._queue.put(text)
        return len(text)

    def fileno(self) -> int:
        return self._file.fileno()

    def drain(self, seconds: float) -> None:
        """Writes what is waiting, for at most `seconds`; what comes later is not written."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _work(self):
        while (text := self._queue.get()) is not None:
            self._write(text)
            with self._lock:
                self._waiting -= len(text)
                lost = 0 if self._waiting else self._lost  # the reader has caught up
                self._lost -= lost
            if lost:
                self._write(f"{lost} messages are missing here: stderr was not read in time\n")

    def _write(self, text):
        with contextlib.suppress(Exception):  # the reader is gone, and with it any way to say so
            self._file.write(text)
            self._file.flush()

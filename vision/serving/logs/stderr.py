"""Standard error for a program that must go on where nobody reads it: a pipe that is full holds up
whoever writes."""

import contextlib
import io
import os
import queue
import stat
import sys
import threading

ROOM = 2**20  # characters that wait, at most


def protect():
    """Makes `sys.stderr` a `Stderr` and returns it. What libraries in C write themselves is lost
    where a pipe is full: ONNX Runtime has a line for each run that fails, and libpng one for each
    image that is damaged.
    """
    file = sys.stderr
    with contextlib.suppress(OSError):  # no Linux, or the pipe is another user's
        if stat.S_ISFIFO(os.fstat(2).st_mode):
            # Opened anew it does not block here alone; to set the flag would set it for all who
            # share the pipe.
            here = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK)
            file = open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            os.dup2(here, 2)
            os.close(here)
    sys.stderr = Stderr(file)
    return sys.stderr


class Stderr(io.TextIOBase):
    """Takes what is written and never waits; a thread writes it. To flush it does not wait either:
    see `drain`.

    As `sys.stderr` it also gets what logging, warnings and Python itself have to say.

    Args:
        file: that the thread writes to.
    """

    def __init__(self, file):
        self._file = file
        self._queue = queue.SimpleQueue()
        # Both may be entered again by the thread that is in them: a destructor, which runs
        # anywhere, may write.
        self._lock = threading.RLock()
        self._waiting = 0
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="stderr", daemon=True)
        self._thread.start()

    def write(self, text):
        """Takes a text, or counts it as lost where too much waits; returns its length."""
        with self._lock:
            if self._waiting >= ROOM:
                self._lost += 1
                return len(text)
            self._waiting += len(text)
        self._queue.put(text)
        return len(text)

    def fileno(self):
        return self._file.fileno()

    def drain(self, seconds):
        """Writes what waits, for so many seconds at most; what comes later is not written."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _work(self):
        while (text := self._queue.get()) is not None:
            self._write(text)
            with self._lock:
                self._waiting -= len(text)
                lost = 0 if self._waiting else self._lost  # it has caught up
                self._lost -= lost
            if lost:
                self._write(f"{lost} messages are missing here: stderr was not read in time\n")

    def _write(self, text):
        with contextlib.suppress(Exception):  # a reader that is gone; there is nobody left to tell
            self._file.write(text)
            self._file.flush()

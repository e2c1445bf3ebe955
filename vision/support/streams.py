"""The standard streams of a program whose reader, terminal or disk may go away."""

import contextlib
import io
import os
import select
import sys
from typing import Any

from vision.support import progress

PATIENCE = 1.0  # seconds to wait for a terminal


class _Stream(io.RawIOBase):
    """Writes to a file descriptor, above the line of progress if it is a terminal.

    Attributes:
        is_above: whether it keeps the line of progress away while it writes.

    Args:
        descriptor: the file descriptor.
        outlasts: whether to drop what can no longer be written, instead of raising an error.
    """

    def __init__(self, descriptor: int, outlasts: bool):
        self._descriptor = descriptor
        self._outlasts = outlasts
        self.is_above = os.isatty(descriptor)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self.is_above

    def write(self, data: Any) -> int:
        if not self.is_above:
            return self._write(data)
        with progress.above():
            return self._write(data)

    def _write(self, data: Any) -> int:
        if not self._outlasts:
            return os.write(self._descriptor, data)
        with contextlib.suppress(OSError):  # a broken pipe, a closed terminal, a full disk
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # a program that shares the terminal has asked for this
                select.select([], [self._descriptor], [], PATIENCE)
                return os.write(self._descriptor, data)
        return memoryview(data).nbytes


def fill_closed() -> None:
    """Opens /dev/null for each standard stream that the program was started without.

    Otherwise the next file that is opened takes its number, and libraries write messages into it;
    and Python has None for it, which no library expects.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def outlast(name: str) -> None:
    """Makes a standard stream drop what can no longer be written, instead of raising an error.

    Args:
        name: "stdout" or "stderr"; nothing happens if the stream was replaced, as by a test.
    """
    _replace(name, outlasts=True)


def share_terminal() -> None:
    """Lets what is printed to stdout appear above the line of progress if it is a terminal."""
    if sys.stdout.isatty():
        _replace("stdout", outlasts=False)


def _replace(name: str, outlasts: bool) -> None:
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
        return
    with contextlib.suppress(OSError):
        stream.flush()
    raw = io.BufferedWriter(_Stream(stream.fileno(), outlasts))
    setattr(
        sys,
        name,
        io.TextIOWrapper(
            raw,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=name == "stderr" or raw.isatty(),
        ),
    )


def drop_output() -> None:
    """Points stdout at /dev/null, so that Python does not complain when it flushes it at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
